package brokertest

import (
	"context"
	"fmt"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/turnout-mq/turnout/broker"
	"github.com/turnout-mq/turnout/internal/errs"
)

// positioner is what drivers have beside broker.Cluster for resetting positions.
type positioner interface {
	OffsetsAt(ctx context.Context, topic string, t time.Time) (broker.Offsets, error)
	SetPositions(ctx context.Context, group, topic string, positions broker.Offsets) error
}

// reset: positions are set back and forth while nobody is in the group, and its next member begins there.
func (s *suite) reset() {
	topic, group := s.topic(s.c, 1), s.name()
	able, ok := s.c.(positioner)
	require.True(s, ok)
	part := s.partitions(s.c, topic)[0]
	at := func(n int64) broker.Offsets { return broker.Offsets{part: n} }
	byTime := func(t time.Time) broker.Offsets {
		found, err := able.OffsetsAt(s.ctx(), topic, t)
		require.NoError(s, err)
		return found
	}
	begin := time.Now()
	require.Equal(s, at(0), byTime(begin), "of nothing")
	s.sendN(s.c, topic, 3)
	var between time.Time
	s.eventually(func() error { // the broker's clock has come past what it has stored
		messages, _, err := s.c.Peek(s.ctx(), topic, part, 2, 1)
		if err != nil || len(messages) == 0 {
			return fmt.Errorf("%d messages: %w", len(messages), err)
		}
		between = messages[0].Stored.Add(2 * time.Millisecond)
		if wait := time.Until(between.Add(2 * time.Millisecond)); wait > 0 {
			return fmt.Errorf("%v to go", wait)
		}
		return nil
	})
	s.sendN(s.c, topic, 2)
	for t, want := range map[time.Time]int64{begin.Add(-time.Hour): 0, between: 3, begin.Add(24 * time.Hour): 5} {
		require.Equal(s, at(want), byTime(t), "%v", t)
	}

	for _, want := range []int64{5, 0, 4, 1} {
		require.NoError(s, able.SetPositions(s.ctx(), group, topic, at(want)))
		s.positionsAt(s.c, group, topic, at(want))
	}
	r := s.join(s.c, broker.Membership{Group: group, Topic: topic}, nil)
	r.wait(3) // bodies: two of the four are the same
	require.ErrorIs(s, able.SetPositions(s.ctx(), group, topic, at(0)), errs.ErrConflict, "a member is there")
	s.positionsAt(s.c, group, topic, at(5))
	for _, bad := range []broker.Offsets{{"no-such": 0}, {part: -1}} {
		require.ErrorIs(s, able.SetPositions(s.ctx(), s.name(), topic, bad), errs.ErrInvalid)
	}
	require.ErrorIs(s, able.SetPositions(s.ctx(), group, s.name(), at(0)), errs.ErrUnknownTopic)
	_, err := able.OffsetsAt(s.ctx(), s.name(), begin)
	require.ErrorIs(s, err, errs.ErrUnknownTopic)
}
