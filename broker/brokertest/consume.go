package brokertest

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/turnout-mq/turnout/broker"
)

// group: members share the partitions, take over from each other, and nothing is left out.
func (s *suite) group() {
	topic, group := s.topic(s.c, 4), s.name()
	var mu sync.Mutex
	owner := map[string]string{} // of partitions: read by one member at a time
	seen := map[string]bool{}
	handle := func(who string) func(context.Context, broker.Claim) {
		return func(_ context.Context, c broker.Claim) {
			mu.Lock()
			if other := owner[c.Partition()]; other != "" {
				s.Errorf("partition %s is claimed by %s while %s has it", c.Partition(), who, other)
			}
			owner[c.Partition()] = who
			mu.Unlock()
			for d := range Deliveries(c) {
				mu.Lock()
				seen[string(d.Body)] = true
				mu.Unlock()
				c.Commit(d.Offset + 1)
			}
			mu.Lock()
			owner[c.Partition()] = ""
			mu.Unlock()
		}
	}
	sent := 0
	more := func() {
		for range 20 {
			s.send(s.c, topic, message("", fmt.Sprint(sent)))
			sent++
		}
		s.eventually(func() error {
			mu.Lock()
			defer mu.Unlock()
			if len(seen) != sent {
				return fmt.Errorf("%d of %d were read by %v", len(seen), sent, owner)
			}
			return nil
		})
	}
	members := func(n int) {
		s.eventually(func() error {
			ids, err := s.c.GroupMembers(s.ctx(), group)
			if err == nil && len(ids) != n {
				err = fmt.Errorf("members are %q, want %d", ids, n)
			}
			return err
		})
	}
	membership := broker.Membership{Group: group, Topic: topic, Exclusive: true, Claim: handle("first")}
	first := s.join(open(s.T, s.Target, 0), membership, nil).attached(4)
	members(1)
	more()

	membership.Claim = handle("second")
	changes := make(chan struct{}, 100)
	membership.Changed = func() {
		select {
		case changes <- struct{}{}:
		default:
		}
	}
	second := s.join(open(s.T, s.Target, 0), membership, nil).attached(2)
	first.attached(2)
	require.Len(s, slices.Compact(slices.Sorted(slices.Values(append(first.member.State().Partitions, second.member.State().Partitions...)))), 4)
	require.NotEmpty(s, changes, "Changed was called")
	members(2)
	more()

	first.leave()
	require.False(s, first.member.State().Attached)
	second.attached(4)
	members(1)
	more()
	s.eventually(func() error {
		positions, err := s.c.Positions(s.ctx(), group, topic)
		if err == nil && !positions.Reached(s.ends(s.c, topic)) {
			err = fmt.Errorf("positions %v", positions)
		}
		return err
	})
}

// redelivery: what was not finished when a member left is given to the next.
func (s *suite) redelivery() {
	topic, group := s.topic(s.c, 1), s.name()
	s.sendN(s.c, topic, 10)
	partition := s.partitions(s.c, topic)[0]
	first := s.join(s.c, broker.Membership{Group: group, Topic: topic}, func(_ broker.Claim, d *broker.Delivery) bool { return d.Offset < 4 })
	first.wait(10)
	first.leave()
	s.positionsAt(s.c, group, topic, broker.Offsets{partition: 4})
	second := s.join(s.c, broker.Membership{Group: group, Topic: topic}, nil)
	second.wait(6)
	require.Equal(s, []string{"4", "5", "6", "7", "8", "9"}, second.bodies())
	s.positionsAt(s.c, group, topic, broker.Offsets{partition: 10})
}

// commitKeepsBack: the position is what was committed, never what was read; a smaller one is ignored.
func (s *suite) commitKeepsBack() {
	topic, group := s.topic(s.c, 1), s.name()
	partition := s.partitions(s.c, topic)[0]
	r := s.join(s.c, broker.Membership{Group: group, Topic: topic}, func(c broker.Claim, d *broker.Delivery) bool {
		if d.Offset == 7 {
			c.Commit(5)
			c.Commit(3)
		}
		return false
	})
	s.sendN(s.c, topic, 10)
	r.wait(10)
	s.positionsAt(s.c, group, topic, broker.Offsets{partition: 5})
	r.leave()
	s.positionsAt(s.c, group, topic, broker.Offsets{partition: 5})
}

// lateCommit: what is finished after the claim has ended still counts, both for a member that leaves and for one that
// must share. Exclusive, for without it RocketMQ lets the next member begin before the last one has ended.
func (s *suite) lateCommit() {
	topic, group := s.topic(s.c, 2), s.name()
	ends := broker.Offsets{}
	for _, r := range s.sendN(s.c, topic, 10) {
		ends[r.Partition] = r.Offset + 1
	}
	var taken sync.WaitGroup
	taken.Add(2)
	join := func(c broker.Cluster) *reader {
		return s.join(c, broker.Membership{Group: group, Topic: topic, Exclusive: true, Claim: func(ctx context.Context, c broker.Claim) {
			for range ends[c.Partition()] {
				if _, ok := Next(c); !ok {
					return
				}
			}
			taken.Done()
			<-ctx.Done()
			for range Deliveries(c) {
				s.Errorf("a message that nobody sent")
			}
			c.Commit(ends[c.Partition()])
		}}, nil)
	}
	first := join(s.c)
	taken.Wait()
	second := s.join(open(s.T, s.Target, 0), broker.Membership{Group: group, Topic: topic, Exclusive: true}, nil).attached(1)
	second.leave()
	require.Empty(s, second.messages(), "what the first had finished")
	first.leave()
	s.positionsAt(s.c, group, topic, ends)
}

// crash: the next member begins at the stored position, not at what the dead one had read.
func (s *suite) crash() {
	topic, group := s.topic(s.c, 1), s.name()
	partition := s.partitions(s.c, topic)[0]
	s.sendN(s.c, topic, 10)
	c, err := s.Open(s.ctx(), s.Config(0))
	require.NoError(s, err)
	dying := &reader{s: s, c: c, claims: map[string]int{}, handle: func(_ broker.Claim, d *broker.Delivery) bool { return d.Offset < 4 }}
	dying.member, err = c.Join(s.ctx(), broker.Membership{Group: group, Topic: topic, Claim: dying.claim})
	require.NoError(s, err)
	dying.wait(10)
	s.positionsAt(s.c, group, topic, broker.Offsets{partition: 4})
	over, cancel := context.WithCancel(context.Background())
	cancel()
	if err := c.Close(over); err != nil { // no time to say good-bye
		require.ErrorIs(s, err, context.Canceled)
	}
	next := s.join(s.c, broker.Membership{Group: group, Topic: topic}, nil)
	next.wait(6)
	require.Equal(s, "4", next.bodies()[0])
	require.NoError(s, c.Close(s.ctx()))
}

// retry: a message comes again after the delay, whole, and counted.
func (s *suite) retry() {
	topic, group := s.topic(s.c, 2), s.name()
	sent := message("key", "body")
	sent.Headers = []broker.Header{{Name: "h", Value: "v"}}
	sent.Tag, sent.Shadow = "tag", true
	const delay, tries = time.Second, 2
	var mu sync.Mutex
	var begun []time.Time
	r := s.join(s.c, broker.Membership{Group: group, Topic: topic, Retries: true}, func(c broker.Claim, d *broker.Delivery) bool {
		if c.Retry() != d.Retry || c.Topic() != d.Topic || c.Partition() != d.Partition {
			s.Errorf("claim of %s/%s (retry %v) gave %+v", c.Topic(), c.Partition(), c.Retry(), d)
		}
		mu.Lock()
		defer mu.Unlock()
		if d.Attempt < tries {
			begun = append(begun, time.Now())
			if err := s.c.Retry(s.ctx(), group, d, delay); err != nil {
				s.Errorf("retry: %v", err)
				return false
			}
		}
		return true
	})
	r.attached(2)
	s.send(s.c, topic, sent)
	s.eventually(func() error {
		if n := len(r.messages()); n < tries+1 {
			return fmt.Errorf("delivered %d times, want %d", n, tries+1)
		}
		return nil
	})
	name := s.Config(0).Name
	for i, d := range r.messages() {
		require.Equal(s, i, d.Attempt)
		require.Equal(s, i > 0, d.Retry)
		want := *sent
		want.Attempt = i
		if i > 0 {
			want.Origin = name
			require.NotEqual(s, topic, d.Topic)
			require.False(s, d.Due.Before(begun[i-1].Add(delay).Truncate(time.Millisecond)), "due %v, retried %v", d.Due, begun[i-1])
		}
		require.Equal(s, want, d.Envelope)
	}
	s.eventually(func() error {
		pending, err := s.c.Pending(s.ctx(), group, topic)
		if err == nil && pending != (broker.Pending{}) {
			err = fmt.Errorf("pending %+v", pending)
		}
		return err
	})
}

// deadLetter: it is kept and counted apart; retries that wait are counted.
func (s *suite) deadLetter() {
	topic, group := s.topic(s.c, 1), s.name()
	s.send(s.c, topic, message("k", "dead"))
	s.send(s.c, topic, message("k", "later"))
	r := s.join(s.c, broker.Membership{Group: group, Topic: topic}, func(_ broker.Claim, d *broker.Delivery) bool {
		var err error
		if string(d.Body) == "dead" {
			err = s.c.DeadLetter(s.ctx(), group, d, "it can not be\nhandled")
		} else {
			err = s.c.Retry(s.ctx(), group, d, 0)
		}
		if err != nil {
			s.Errorf("%s: %v", d.Body, err)
		}
		return err == nil
	})
	r.wait(2)
	s.eventually(func() error {
		pending, err := s.c.Pending(s.ctx(), group, topic)
		if err == nil && (pending.DeadLetters != 1 || pending.Retries+pending.Delayed != 1) {
			err = fmt.Errorf("pending %+v", pending)
		}
		return err
	})
}

// pause: not reading for longer than a session is no reason to lose the partition.
func (s *suite) pause() {
	topic, group := s.topic(s.c, 2), s.name()
	const n = 400
	open := make(chan struct{})
	r := s.join(s.c, broker.Membership{Group: group, Topic: topic}, func(broker.Claim, *broker.Delivery) bool {
		<-open
		return true
	})
	r.attached(2)
	for i := range n {
		s.send(s.c, topic, message("", fmt.Sprint(i)))
	}
	require.Never(s, func() bool {
		st := r.member.State()
		r.mu.Lock()
		defer r.mu.Unlock()
		return !st.Attached || r.taken != 2
	}, s.Session+time.Second, 50*time.Millisecond, "the member lost a partition")
	close(open)
	r.wait(n)
	require.Len(s, r.messages(), n, "nothing twice")
	r.mu.Lock()
	defer r.mu.Unlock()
	require.Equal(s, 2, r.taken)
}

// start: a group without positions begins where it is told to, one with positions goes on.
func (s *suite) start() {
	topic, group := s.topic(s.c, 2), s.name()
	names := s.partitions(s.c, topic)
	end := broker.Offsets{}
	for range 10 {
		for _, key := range []string{"21", "abc"} { // one key in each partition
			r := s.send(s.c, topic, message(key, unique()))
			end[r.Partition] = r.Offset + 1
		}
	}
	if len(end) < 2 { // both keys in one: the other stays empty
		end = s.ends(s.c, topic)
	}
	var calls atomic.Int32
	start := func() broker.Offsets {
		calls.Add(1)
		return broker.Offsets{names[0]: 3}
	}
	r := s.join(s.c, broker.Membership{Group: group, Topic: topic, Start: start}, func(broker.Claim, *broker.Delivery) bool { return false })
	r.attached(2)
	require.Positive(s, calls.Load())
	positions, err := s.c.Positions(s.ctx(), group, topic)
	require.NoError(s, err)
	want := broker.Offsets{names[0]: min(3, end[names[0]]), names[1]: 0}
	if end[names[0]] < 3 {
		want[names[0]] = 0
	}
	require.Equal(s, want, positions, "every partition has a position when the member is attached")
	r.wait(int(want.Missing(end)))
	for _, d := range r.messages() {
		require.GreaterOrEqual(s, d.Offset, want[d.Partition])
	}
	r.leave()

	r = s.join(s.c, broker.Membership{Group: group, Topic: topic, Start: func() broker.Offsets {
		return broker.Offsets{names[0]: 9, names[1]: 9}
	}}, nil)
	r.wait(int(want.Missing(end)))
}

// startStoredFirst: when the first message is handed over its group has a position.
func (s *suite) startStoredFirst() {
	topic, group := s.topic(s.c, 1), s.name()
	partition := s.partitions(s.c, topic)[0]
	s.sendN(s.c, topic, 8)
	at := make(chan broker.Offsets, 1)
	s.join(s.c, broker.Membership{
		Group: group, Topic: topic,
		Start: func() broker.Offsets { return broker.Offsets{partition: 5} },
		Claim: func(ctx context.Context, c broker.Claim) {
			d, ok := Next(c)
			if !ok {
				return
			}
			positions, err := s.c.Positions(ctx, group, topic)
			if err != nil || d.Offset != 5 {
				s.Errorf("first message is %d, positions %v: %v", d.Offset, positions, err)
			}
			at <- positions
			<-ctx.Done()
		},
	}, nil)
	select {
	case positions := <-at:
		require.Equal(s, broker.Offsets{partition: 5}, positions)
	case <-s.ctx().Done():
		require.FailNow(s, "nothing was read")
	}
}

// anew: the positions on a topic that was deleted say nothing about the one that was created after it.
func (s *suite) anew() {
	topic, group := s.topic(s.c, 1), s.name()
	s.sendN(s.c, topic, 10)
	r := s.join(s.c, broker.Membership{Group: group, Topic: topic}, nil)
	r.wait(10)
	r.leave()
	require.NoError(s, s.c.DeleteTopic(s.ctx(), topic))
	s.eventually(func() error { return s.c.CreateTopic(s.ctx(), topic, broker.TopicSpec{Partitions: 1}) })
	for i := range 3 {
		s.send(s.c, topic, message("", fmt.Sprint("new", i)))
	}
	r = s.join(s.c, broker.Membership{Group: group, Topic: topic}, nil)
	r.wait(3)
	require.Equal(s, []string{"new0", "new1", "new2"}, r.bodies())
	s.positionsAt(s.c, group, topic, s.ends(s.c, topic))
}

// tags: only what is wanted is handed over, and the position passes the rest.
func (s *suite) tags() {
	topic, group := s.topic(s.c, 1), s.name()
	for i, tag := range []string{"a", "b", "c", "", "a", "c", "b", "c"} {
		m := message("", fmt.Sprint(i))
		m.Tag = tag
		s.send(s.c, topic, m)
	}
	var release sync.WaitGroup
	release.Add(1)
	r := s.join(s.c, broker.Membership{Group: group, Topic: topic, Tag: "a || b"}, func(_ broker.Claim, d *broker.Delivery) bool {
		if string(d.Body) == "6" {
			release.Wait()
		}
		return true
	})
	r.wait(4)
	require.Equal(s, []string{"0", "1", "4", "6"}, r.bodies())
	s.eventually(func() error {
		positions, err := s.c.Positions(s.ctx(), group, topic)
		for _, offset := range positions {
			if offset > 6 {
				s.Errorf("position %d has passed message 6, which is not finished", offset)
			}
			if offset >= 5 {
				return err
			}
		}
		return fmt.Errorf("positions %v: %w", positions, err)
	})
	release.Done()
	s.positionsAt(s.c, group, topic, s.ends(s.c, topic))
}

// claimReturns: a claim that is given up early is read no further, and the others go on.
func (s *suite) claimReturns() {
	topic, group := s.topic(s.c, 2), s.name()
	names := s.partitions(s.c, topic)
	var given atomic.Int32
	r := &reader{s: s, claims: map[string]int{}}
	member := s.join(s.c, broker.Membership{Group: group, Topic: topic, Claim: func(ctx context.Context, c broker.Claim) {
		if c.Partition() == names[0] {
			given.Add(1)
			return
		}
		r.claim(ctx, c)
	}}, nil)
	r.member = member.member
	member.attached(2)
	n := map[string]int{}
	for i := range 20 {
		n[s.send(s.c, topic, message("", fmt.Sprint(i))).Partition]++
	}
	r.wait(n[names[1]])
	require.EqualValues(s, 1, given.Load())
	s.eventually(func() error {
		positions, err := s.c.Positions(s.ctx(), group, topic)
		if err == nil && (positions[names[0]] != 0 || positions[names[1]] != int64(n[names[1]])) {
			err = fmt.Errorf("positions %v", positions)
		}
		return err
	})
}
