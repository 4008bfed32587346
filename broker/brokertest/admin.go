package brokertest

import (
	"errors"
	"fmt"

	"github.com/stretchr/testify/require"

	"github.com/turnout-mq/turnout/broker"
	"github.com/turnout-mq/turnout/internal/errs"
)

// topics: create, list, describe, delete.
func (s *suite) topics() {
	topic, ctx := s.name(), s.ctx()
	require.NoError(s, s.c.CreateTopic(ctx, topic, broker.TopicSpec{Partitions: 3}))
	require.ErrorIs(s, s.c.CreateTopic(ctx, topic, broker.TopicSpec{Partitions: 3}), errs.ErrConflict)
	names, err := s.c.Topics(ctx)
	require.NoError(s, err)
	require.Contains(s, names, topic)
	for _, name := range names {
		require.NotRegexp(s, `^__|^%|^SCHEDULE_TOPIC|^rmq_sys|^TBW102$`, name, "the broker's own")
	}
	info, err := s.c.DescribeTopic(ctx, topic)
	require.NoError(s, err)
	require.Len(s, info.Partitions, 3)
	require.Equal(s, broker.SortPartitions(append([]string{}, info.Partitions...)), info.Partitions)
	require.Positive(s, info.Replicas)
	require.False(s, info.Fenced)
	require.NoError(s, s.c.DeleteTopic(ctx, topic))
	require.ErrorIs(s, s.c.DeleteTopic(ctx, topic), errs.ErrUnknownTopic)
	names, err = s.c.Topics(ctx)
	require.NoError(s, err)
	require.NotContains(s, names, topic)

	usual := s.name()
	require.NoError(s, s.c.CreateTopic(ctx, usual, broker.TopicSpec{}))
	require.Len(s, s.partitions(s.c, usual), 4, "default")

	err = s.c.CreateTopic(ctx, s.name(), broker.TopicSpec{Config: map[string]string{"retention.ms": "60000"}})
	if s.Kind != broker.Kafka {
		require.ErrorIs(s, err, errs.ErrUnsupported)
		return
	}
	require.NoError(s, err)
}

// offsets: ends, starts and positions, and what is between them.
func (s *suite) offsets() {
	topic, group := s.topic(s.c, 2), s.name()
	zero := broker.Offsets{}
	for _, name := range s.partitions(s.c, topic) {
		zero[name] = 0
	}
	require.Equal(s, zero, s.ends(s.c, topic))
	want := zero.Clone()
	for _, r := range s.sendN(s.c, topic, 10) {
		require.Equal(s, want[r.Partition], r.Offset)
		want[r.Partition]++
	}
	require.Equal(s, want, s.ends(s.c, topic))
	start, err := s.c.StartOffsets(s.ctx(), topic)
	require.NoError(s, err)
	require.Equal(s, zero, start)

	positions, err := s.c.Positions(s.ctx(), group, topic)
	require.NoError(s, err)
	require.Empty(s, positions, "of an unknown group")
	pending, err := s.c.Pending(s.ctx(), group, topic)
	require.NoError(s, err)
	require.Zero(s, pending)
	ids, err := s.c.GroupMembers(s.ctx(), group)
	require.NoError(s, err)
	require.Empty(s, ids)

	r := s.join(s.c, broker.Membership{Group: group, Topic: topic}, nil)
	r.wait(10)
	s.eventually(func() error {
		positions, err := s.c.Positions(s.ctx(), group, topic)
		if err != nil || !positions.Reached(want) || positions.Missing(want) != 0 {
			return fmt.Errorf("%v of %v: %w", positions, want, err)
		}
		return nil
	})

	// Deleted with all that it has, but not while it has members.
	require.ErrorIs(s, s.c.DeleteGroup(s.ctx(), group), errs.ErrConflict)
	require.NoError(s, s.c.DeadLetter(s.ctx(), group, &broker.Delivery{Topic: topic, Envelope: *message("", "dead")}, "a test"))
	r.leave()
	s.eventually(func() error { return s.c.DeleteGroup(s.ctx(), group) })
	s.eventually(func() error {
		positions, err := s.c.Positions(s.ctx(), group, topic)
		if err == nil && len(positions) > 0 {
			err = fmt.Errorf("positions are left: %v", positions)
		}
		return err
	})
	pending, err = s.c.Pending(s.ctx(), group, topic)
	require.NoError(s, err)
	require.Zero(s, pending)
	require.NoError(s, s.c.DeleteGroup(s.ctx(), group), "it is gone")
}

// describe: the cluster says who it is.
func (s *suite) describe() {
	info, err := s.c.Describe(s.ctx())
	require.NoError(s, err)
	require.Equal(s, s.Config(0).ClusterID, info.ClusterID)
	require.NotEmpty(s, info.Brokers)
	s.eventually(func() error { // brokers that have just begun may not tell it yet
		if info, err = s.c.Describe(s.ctx()); err == nil && info.Version == "" {
			err = errors.New("no version")
		}
		return err
	})
}

// openRefuses: another cluster, nobody there, settings that do not exist.
func (s *suite) openRefuses() {
	cfg := s.Config(0)
	right := cfg.ClusterID
	cfg.ClusterID = "some-other-cluster"
	_, err := s.Open(s.ctx(), cfg)
	require.ErrorIs(s, err, errs.ErrInvalid)
	require.ErrorContains(s, err, right)
	require.ErrorContains(s, err, cfg.ClusterID)
	require.ErrorContains(s, err, cfg.Name)

	cfg = s.Config(0)
	cfg.Addresses = []string{"127.0.0.1:1"}
	_, err = s.Open(s.ctx(), cfg)
	require.ErrorContains(s, err, "127.0.0.1:1")

	cfg = s.Config(0)
	cfg.Addresses = nil
	_, err = s.Open(s.ctx(), cfg)
	require.ErrorIs(s, err, errs.ErrInvalid)

	cfg = s.Config(0)
	cfg.Properties["no.such.property"] = "1"
	_, err = s.Open(s.ctx(), cfg)
	require.ErrorIs(s, err, errs.ErrInvalid)
	require.ErrorContains(s, err, "no.such.property")
}
