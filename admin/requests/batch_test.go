package requests

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/turnout-mq/turnout/admin/store"
	"github.com/turnout-mq/turnout/broker"
	"github.com/turnout-mq/turnout/internal/errs"
)

// A cluster, a topic on it and a group are filed and approved together; each waits for the one before.
func TestABatchWaitsForItsCluster(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	service := s.service()
	on := topic("batch_topic")
	on.Batch, on.Topic.Cluster = "first", "kafka-c"
	_, err := service.Draft(t.Context(), alice, New{Batch: "a/b", Topic: on.Topic})
	require.ErrorIs(t, err, errs.ErrInvalid)
	r, err := service.Draft(t.Context(), alice, on)
	require.NoError(t, err)
	_, err = service.Submit(t.Context(), alice, r.ID, r.Version)
	require.ErrorContains(t, err, "nobody asks for it")

	cluster := s.file(service, bob, New{Batch: "first", Cluster: &ClusterSpec{Name: "kafka-c", Kind: broker.Kafka, Addresses: env.Addresses("kafka-b")}})
	unfit := on
	unfit.Topic = &TopicSpec{Name: "other", App: "order_service", Partitions: 1, Kind: broker.RocketMQ, Cluster: "kafka-c"}
	other, err := service.Draft(t.Context(), alice, unfit)
	require.NoError(t, err)
	_, err = service.Submit(t.Context(), alice, other.ID, other.Version)
	require.ErrorContains(t, err, "of kind kafka")
	r, err = service.Submit(t.Context(), alice, r.ID, r.Version)
	require.NoError(t, err)
	reads := group("batch_group", "batch_topic")
	reads.Batch = "first"
	g := s.file(service, alice, reads)
	for _, one := range []*store.ChangeRequest{g, r} {
		one, err = service.Approve(t.Context(), bob, one.ID, one.Version, Approval{})
		require.NoError(t, err)
		require.Equal(t, store.Approved, one.State)
	}
	s.run(service)
	require.Eventually(t, func() bool {
		now, err := service.Get(t.Context(), r.ID)
		require.NoError(t, err)
		require.Nil(t, now.EndedAt, now.Error)
		return now.Attempts > 0
	}, patience, tick)
	_, err = service.Approve(t.Context(), admin, cluster.ID, cluster.Version, Approval{})
	require.NoError(t, err)
	for _, one := range []*store.ChangeRequest{cluster, r, g} {
		require.Equal(t, store.RequestOK, s.ended(one.ID).State)
	}
	of, err := service.List(t.Context(), store.RequestFilter{Batch: "first"})
	require.NoError(t, err)
	require.Len(t, of, 4, "with the draft that does not fit")

	// What waits for something that is declined fails.
	cluster = s.file(service, bob, New{Cluster: &ClusterSpec{Name: "kafka-d", Kind: broker.Kafka, Addresses: env.Addresses("kafka-b")}})
	on = topic("declined_topic")
	on.Topic.Cluster = "kafka-d"
	r = s.approved(service, on, Approval{})
	_, err = service.Decline(t.Context(), admin, cluster.ID, cluster.Version, "no")
	require.NoError(t, err)
	require.Equal(t, store.RequestBad, s.ended(r.ID).State)
}

// Another name of a topic is looked for in all of them.
func TestTwoTopicsHaveNotOneName(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	service := s.service()
	s.run(service)
	s.done(service, topic("names_one"), Approval{Cluster: "kafka-a"})
	for _, name := range []string{"names_two", "names_three"} {
		again := topic(name)
		again.Topic.Physical = "names_one"
		r := s.ended(s.approved(service, again, Approval{Cluster: "kafka-a"}).ID)
		require.Equal(t, store.RequestBad, r.State)
		require.Contains(t, r.Error, "is topic names_one")
	}
}
