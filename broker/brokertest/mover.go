package brokertest

import (
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/turnout-mq/turnout/broker"
	"github.com/turnout-mq/turnout/internal/errs"
)

// fenceable skips what a cluster without a fence can not do, and sees that it says so.
func (s *suite) fenceable(topic string) bool {
	if f := s.c.Features(); f.Fence || f.ClosingFence {
		return true
	}
	for _, err := range []error{s.c.Fence(s.ctx(), topic), s.c.Fenced(s.ctx(), topic), s.c.Unfence(s.ctx(), topic, "")} {
		require.ErrorIs(s, err, errs.ErrUnsupported)
		require.Equal(s, broker.Fatal, s.c.Classify(err))
	}
	return false
}

// closed fences topic and waits until the fence acts.
func (s *suite) closed(topic string) {
	s.Helper()
	require.NoError(s, s.c.Fence(s.ctx(), topic))
	s.eventually(func() error { return s.c.Fenced(s.ctx(), topic) })
}

// fence: a fenced topic refuses writers, and only them unless the kind can do no less; looking stores nothing.
func (s *suite) fence() {
	topic, group := s.topic(s.c, 3), s.name()
	if !s.fenceable(topic) {
		return
	}
	s.sendN(s.c, topic, 6)
	before, err := s.c.DescribeTopic(s.ctx(), topic)
	require.NoError(s, err)
	require.NoError(s, s.c.Warm(s.ctx(), topic))
	for range 100 {
		require.ErrorIs(s, s.c.Fenced(s.ctx(), topic), errs.ErrConflict)
	}
	require.EqualValues(s, 6, broker.Offsets{}.Missing(s.ends(s.c, topic)), "nothing was stored by looking")

	s.closed(topic)
	refused := func() {
		s.Helper()
		_, err := s.try(s.c, topic, message("", "refused"))
		require.Equal(s, broker.Refused, s.c.Classify(err), err)
		err = s.c.Warm(s.ctx(), topic)
		require.ErrorIs(s, err, errs.ErrFenced)
		require.Equal(s, broker.Refused, s.c.Classify(err))
		require.Error(s, s.Foreign(s.ctx(), topic, nil, []byte("refused"), nil))
		info, err := s.c.DescribeTopic(s.ctx(), topic)
		require.NoError(s, err)
		require.True(s, info.Fenced)
		require.Empty(s, info.Restore, "a fence is nobody's setting")
	}
	refused()
	require.NoError(s, s.c.Fence(s.ctx(), topic), "again")
	for range 100 {
		require.NoError(s, s.c.Fenced(s.ctx(), topic), "all the time")
	}
	refused()
	require.EqualValues(s, 6, broker.Offsets{}.Missing(s.ends(s.c, topic)))
	known, err := open(s.T, s.Target, 0).EndOffsets(s.ctx(), topic, before.Partitions...)
	require.NoError(s, err)
	require.Equal(s, s.ends(s.c, topic), known, "also for who has never seen it open")
	reader := s.join(s.c, broker.Membership{Group: group, Topic: topic}, nil)
	if !s.c.Features().Fence {
		require.NoError(s, s.c.Unfence(s.ctx(), topic, before.Restore))
	}
	reader.wait(6)
	require.EqualValues(s, 6, broker.Offsets{}.Missing(s.ends(s.c, topic)))

	unknown := s.name()
	require.ErrorIs(s, s.c.Fence(s.ctx(), unknown), errs.ErrUnknownTopic)
	require.ErrorIs(s, s.c.Fenced(s.ctx(), unknown), errs.ErrUnknownTopic)
	require.ErrorIs(s, s.c.Unfence(s.ctx(), unknown, ""), errs.ErrUnknownTopic)
}

// fenceStops: of producers that are at work, nothing is stored that was begun after the fence was seen.
func (s *suite) fenceStops() {
	topic := s.topic(s.c, 3)
	if !s.fenceable(topic) {
		return
	}
	require.NoError(s, s.c.Warm(s.ctx(), topic))
	var (
		workers sync.WaitGroup
		mu      sync.Mutex
		seen    bool // the fence
		stored  int
		late    []string
	)
	stop := make(chan struct{})
	work := func(send func(body string) error) {
		workers.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-stop:
					return
				default:
				}
				mu.Lock()
				after := seen
				mu.Unlock()
				body := fmt.Sprint(i)
				err := send(body)
				mu.Lock()
				if err == nil {
					stored++
					if after {
						late = append(late, body)
					}
				}
				mu.Unlock()
			}
		})
	}
	for range 2 {
		work(func(body string) error {
			_, err := s.try(s.c, topic, message("", body))
			return err
		})
	}
	work(func(body string) error { return s.Foreign(s.ctx(), topic, nil, []byte(body), nil) })
	s.eventually(func() error {
		mu.Lock()
		defer mu.Unlock()
		if stored < 20 {
			return errors.New("the producers have not begun")
		}
		return nil
	})
	s.closed(topic)
	mu.Lock()
	seen = true
	mu.Unlock()
	first := s.ends(s.c, topic)
	for range 20 {
		require.NoError(s, s.c.Fenced(s.ctx(), topic))
		require.Equal(s, first, s.ends(s.c, topic))
	}
	close(stop)
	workers.Wait()
	require.Empty(s, late)
	require.Equal(s, first, s.ends(s.c, topic))
	require.EqualValues(s, stored, broker.Offsets{}.Missing(first))
}

// unfence: the topic has the settings again that it had, and everybody may write at once.
func (s *suite) unfence() {
	if !s.fenceable(s.topic(s.c, 1)) {
		return
	}
	const limit = "max.message.bytes"
	own := []map[string]string{nil, {limit: "300000"}}
	wrong := []string{"0", "1", "-5", "61", "many", "1e6", "99999999999"}
	if s.c.Features().ClosingFence {
		own, wrong = own[:1], []string{"", "4", "{}", `{"b":{"read":0,"write":4,"perm":6}}`, `{"b":{"read":4,"write":0,"perm":6}}`, `{"b":{"read":4,"write":4,"perm":4}}`}
	}
	for _, own := range own {
		topic := s.name()
		require.NoError(s, s.c.CreateTopic(s.ctx(), topic, broker.TopicSpec{Partitions: 2, Config: own}))
		before, err := s.c.DescribeTopic(s.ctx(), topic)
		require.NoError(s, err)
		if s.c.Features().Fence {
			require.Equal(s, own[limit], before.Restore)
			require.NotEmpty(s, before.Settings["retention.ms"])
		}
		s.send(s.c, topic, message("", "before"))
		for range 2 {
			s.closed(topic)
			for range 2 {
				require.NoError(s, s.c.Unfence(s.ctx(), topic, before.Restore))
				require.ErrorIs(s, s.c.Fenced(s.ctx(), topic), errs.ErrConflict)
				_, err = s.try(s.c, topic, message("", "after"))
				require.NoError(s, err)
				require.NoError(s, s.Foreign(s.ctx(), topic, nil, []byte("after"), nil))
				require.NoError(s, s.c.Warm(s.ctx(), topic))
			}
		}
		after, err := s.c.DescribeTopic(s.ctx(), topic)
		require.NoError(s, err)
		require.Equal(s, before, after)
		for _, restore := range wrong {
			require.ErrorIs(s, s.c.Unfence(s.ctx(), topic, restore), errs.ErrInvalid, restore)
		}
	}
}

// groups: those that have a position on the topic, whoever they are.
func (s *suite) groups() {
	topic, other := s.topic(s.c, 2), s.topic(s.c, 2)
	listed := func(topic string, want ...string) {
		s.Helper()
		slices.Sort(want)
		s.eventually(func() error {
			got, err := s.c.Groups(s.ctx(), topic)
			if err == nil && !slices.Equal(want, got) {
				err = fmt.Errorf("%v, want %v", got, want)
			}
			return err
		})
	}
	listed(topic)
	s.sendN(s.c, topic, 4)
	s.sendN(s.c, other, 4)
	ours, left, foreign, elsewhere := s.name(), s.name(), s.name(), s.name()
	s.join(s.c, broker.Membership{Group: ours, Topic: topic}, nil).wait(4)
	gone := s.join(s.c, broker.Membership{Group: left, Topic: topic}, nil)
	gone.wait(4)
	gone.leave()
	require.NoError(s, s.Commit(s.ctx(), foreign, topic))
	require.NoError(s, s.Commit(s.ctx(), elsewhere, other))
	listed(topic, ours, left, foreign)
	listed(other, elsewhere)
	require.NoError(s, s.Commit(s.ctx(), elsewhere, topic))
	both := []string{topic, other}
	slices.Sort(both)
	s.eventually(func() error {
		all, err := s.c.GroupTopics(s.ctx())
		for group, want := range map[string][]string{ours: {topic}, left: {topic}, foreign: {topic}, elsewhere: both} {
			if err == nil && !slices.Equal(want, all[group]) {
				err = fmt.Errorf("%s: %v, want %v", group, all[group], want)
			}
		}
		return err
	})
	_, err := s.c.Groups(s.ctx(), s.name())
	require.ErrorIs(s, err, errs.ErrUnknownTopic)
}

// peek: what a group would get, without one.
func (s *suite) peek() {
	const n = 40
	topic := s.topic(s.c, 1)
	part := s.partitions(s.c, topic)[0]
	peek := func(at int64, limit int) ([]broker.Delivery, int64) {
		s.Helper()
		got, next, err := s.c.Peek(s.ctx(), topic, part, at, limit)
		require.NoError(s, err)
		return got, next
	}
	got, next := peek(0, 10)
	require.Empty(s, got)
	require.Zero(s, next)
	got, next = peek(7, 10)
	require.Empty(s, got)
	require.Zero(s, next, "the end, also from beyond it")

	begin := time.Now().Add(-time.Minute)
	require.NoError(s, s.Foreign(s.ctx(), topic, []byte("k"), []byte("foreign"), []broker.Header{{Name: "x", Value: "y"}}))
	for i := range n - 1 {
		m := message(fmt.Sprint("key", i%3), fmt.Sprint("body ", i))
		m.Headers, m.Tag, m.Shadow = []broker.Header{{Name: "n", Value: fmt.Sprint(i)}}, "tag", i%2 == 0
		s.send(s.c, topic, m)
	}
	s.eventually(func() error { // brokers may show what they have stored a moment later
		if _, next := peek(n-1, 1); next != n {
			return fmt.Errorf("the end is %d, want %d", next, n)
		}
		return nil
	})
	want := s.join(s.c, broker.Membership{Group: s.name(), Topic: topic}, nil).wait(n)
	for _, limit := range []int{1, 7, n, 3 * n} {
		var all []broker.Delivery
		for at := int64(0); at < n; {
			got, next := peek(at, limit)
			require.NotEmpty(s, got)
			require.LessOrEqual(s, len(got), limit)
			require.Equal(s, got[len(got)-1].Offset+1, next)
			all, at = append(all, got...), next
		}
		require.Len(s, all, n)
		for i := range all {
			d := all[i]
			require.WithinRange(s, d.Stored, begin, time.Now().Add(time.Minute))
			if i > 0 {
				require.NotEmpty(s, d.Writer)
			}
			require.Equal(s, i == 0, d.ID == "", "only a foreign writer sends no id")
			d.Writer, d.Native = "", want[i].Native
			require.Equal(s, *want[i], d)
		}
	}
	for _, at := range []int64{n, n + 1, n + 1000} {
		got, next := peek(at, 5)
		require.Empty(s, got)
		require.EqualValues(s, n, next)
	}
	groups, err := s.c.Groups(s.ctx(), topic)
	require.NoError(s, err)
	require.LessOrEqual(s, len(groups), 1, "looking makes no group")

	for _, bad := range []struct {
		partition string
		at        int64
		limit     int
	}{{part, -1, 1}, {part, 0, 0}, {part + "9", 0, 1}, {"", 0, 1}} {
		_, _, err := s.c.Peek(s.ctx(), topic, bad.partition, bad.at, bad.limit)
		require.ErrorIs(s, err, errs.ErrInvalid, "%+v", bad)
	}
	_, _, err = s.c.Peek(s.ctx(), s.name(), part, 0, 1)
	require.ErrorIs(s, err, errs.ErrUnknownTopic)
}

// openTransactions: none where there is none.
func (s *suite) openTransactions() {
	topic := s.topic(s.c, 2)
	s.sendN(s.c, topic, 4)
	open, err := s.c.OpenTransactions(s.ctx(), topic)
	require.NoError(s, err)
	require.Empty(s, open)
	_, err = s.c.OpenTransactions(s.ctx(), s.name())
	require.ErrorIs(s, err, errs.ErrUnknownTopic)
}
