package requests

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/turnout-mq/turnout/admin/store"
	"github.com/turnout-mq/turnout/broker"
	"github.com/turnout-mq/turnout/internal/clusters"
	"github.com/turnout-mq/turnout/internal/errs"
	"github.com/turnout-mq/turnout/metadata"
)

// send stores messages one after the other.
func (s *stage) send(c *clusters.Conn, topic string, n int) {
	s.Helper()
	for i := range n {
		stored := make(chan error, 1)
		m := &broker.Envelope{Message: broker.Message{Key: []byte("k"), Body: []byte("x"), ID: fmt.Sprintf("%032x", i)}}
		c.Send(s.Context(), topic, m, func(_ broker.Receipt, err error) { stored <- err })
		require.NoError(s, <-stored)
	}
}

// later returns a time after every message that is stored, and before any that comes.
func later(t *testing.T) time.Time {
	t.Helper()
	at := time.Now().Add(5 * time.Millisecond)
	require.Eventually(t, func() bool { return time.Now().After(at.Add(5 * time.Millisecond)) }, patience, time.Millisecond)
	return at
}

func TestPositionsAreReset(t *testing.T) {
	for _, kind := range []broker.Kind{broker.Kafka, broker.RocketMQ} {
		t.Run(string(kind), func(t *testing.T) {
			t.Parallel()
			s := newStage(t)
			service := s.service()
			s.run(service)
			ctx := t.Context()
			cluster := "kafka-a"
			n := New{Topic: &TopicSpec{Name: "reset_" + string(kind), App: "order_service", Partitions: 1}}
			if kind == broker.RocketMQ {
				cluster = "rocketmq-a"
				require.NoError(t, s.meta.PutCluster(ctx, cluster, metadata.Cluster{Kind: kind, Addresses: env.Addresses(cluster), ClusterID: env.ClusterID(cluster)}))
			}
			name, groupName := n.Topic.Name, "reset_group_"+string(kind)
			s.done(service, n, Approval{Cluster: cluster})
			s.done(service, group(groupName, name), Approval{})
			c := s.on(cluster)
			s.send(c, name, 3)
			between := later(t)
			s.send(c, name, 2)
			ends, err := c.EndOffsets(ctx, name)
			require.NoError(t, err)
			require.Len(t, ends, 1)
			partition := ends.Names()[0]
			require.Equal(t, int64(5), ends[partition])
			execute := func(spec OffsetsSpec) *store.ChangeRequest {
				spec.Group, spec.Topic = groupName, name
				return s.ended(s.approved(service, New{Offsets: &spec}, Approval{}).ID)
			}
			position := func() int64 {
				positions, err := c.Positions(ctx, groupName, name)
				require.NoError(t, err)
				return positions[partition]
			}

			r := execute(OffsetsSpec{To: ToLatest})
			require.Equal(t, store.RequestBad, r.State)
			require.Contains(t, r.Error, "is not paused")
			yes := true
			s.done(service, New{Settings: &SettingsSpec{Group: &GroupChange{Name: groupName, Paused: &yes}}}, Approval{})

			member, err := c.Join(ctx, broker.Membership{Group: groupName, Topic: name, Claim: func(ctx context.Context, _ broker.Claim) { <-ctx.Done() }})
			require.NoError(t, err)
			require.Eventually(t, func() bool { return member.State().Attached }, patience, tick)
			r = execute(OffsetsSpec{To: ToLatest})
			require.Equal(t, store.RequestBad, r.State)
			require.Contains(t, r.Error, "members of the group are connected")
			able := c.Cluster.(Positioner)
			require.ErrorIs(t, able.SetPositions(ctx, groupName, name, broker.Offsets{partition: 1}), errs.ErrConflict, "the cluster itself refuses")
			require.NoError(t, bounded(member.Leave))
			require.Eventually(t, func() bool {
				members, err := c.GroupMembers(ctx, groupName)
				require.NoError(t, err)
				return len(members) == 0
			}, patience, tick)

			for _, step := range []struct {
				spec OffsetsSpec
				want int64
			}{
				{OffsetsSpec{To: ToLatest}, 5},
				{OffsetsSpec{To: ToEarliest}, 0},
				{OffsetsSpec{To: ToTime, Time: &between}, 3},
				{OffsetsSpec{To: ToOffsets, Offsets: broker.Offsets{partition: 1}}, 1},
				{OffsetsSpec{To: ToTime, Time: moment(time.Now().Add(time.Hour))}, 5},
				{OffsetsSpec{To: ToTime, Time: moment(time.Now().Add(-time.Hour))}, 0},
			} {
				spec := step.spec
				spec.Group, spec.Topic = groupName, name
				before := position()
				plan, err := service.PlanOffsets(ctx, spec)
				require.NoError(t, err)
				require.Empty(t, plan.Problems)
				require.Equal(t, []OffsetChange{{Partition: partition, Now: &before, To: step.want, First: 0, End: 5}}, plan.Partitions)
				require.Equal(t, before, position(), "a dry run changes nothing")
				r := execute(step.spec)
				require.Equal(t, store.RequestOK, r.State, r.Error)
				require.Equal(t, step.want, position(), step.spec.To)
			}
			_, err = service.PlanOffsets(ctx, OffsetsSpec{Group: groupName, Topic: name, To: ToOffsets, Offsets: broker.Offsets{partition: 6}})
			require.ErrorIs(t, err, errs.ErrInvalid)
			require.ErrorContains(t, err, "must be 0 to 5")
			_, err = service.PlanOffsets(ctx, OffsetsSpec{Group: groupName, Topic: name, To: ToOffsets, Offsets: broker.Offsets{"x": 0}})
			require.ErrorIs(t, err, errs.ErrInvalid)
			_, err = service.PlanOffsets(ctx, OffsetsSpec{Group: groupName, Topic: "other", To: ToLatest})
			require.ErrorIs(t, err, errs.ErrUnknownTopic)
		})
	}
}

func moment(t time.Time) *time.Time { return &t }

// A server is killed in the middle: another one sets the positions that the plan had, not those of a later moment.
func TestAResetIsFinishedAsItWasPlanned(t *testing.T) {
	for _, step := range []string{atCatalog, atBroker} {
		t.Run(step, func(t *testing.T) {
			t.Parallel()
			s := newStage(t)
			service := s.service()
			stop := s.run(service)
			name, groupName := "planned_"+step, "planned_group_"+step
			n := topic(name)
			n.Topic.Partitions = 1
			s.done(service, n, Approval{Cluster: "kafka-a"})
			s.done(service, group(groupName, name), Approval{})
			yes := true
			s.done(service, New{Settings: &SettingsSpec{Group: &GroupChange{Name: groupName, Paused: &yes}}}, Approval{})
			stop()
			c := s.on("kafka-a")
			s.send(c, name, 3)
			r := s.approved(service, New{Offsets: &OffsetsSpec{Group: groupName, Topic: name, To: ToLatest}}, Approval{})
			child := s.child(step)
			session := child.at(r.ID, step)
			child.kill()
			child.expire(session)
			s.send(c, name, 2)
			s.run(service)
			r = s.ended(r.ID)
			require.Equal(t, store.RequestOK, r.State, r.Error)
			s.requireOnce(r)
			positions, err := c.Positions(t.Context(), groupName, name)
			require.NoError(t, err)
			require.Equal(t, broker.Offsets{"0": 3}, positions)
		})
	}
}
