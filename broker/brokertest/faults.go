package brokertest

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/turnout-mq/turnout/broker"
)

// twoClusters: two clusters of one kind, and two connections to one of them, live in one process side by side.
func (s *suite) twoClusters() {
	a, b, again := open(s.T, s.Target, 0), open(s.T, s.Target, 1), open(s.T, s.Target, 0)
	topic, group := s.topic(a, 1), s.name()
	require.NoError(s, b.CreateTopic(s.ctx(), topic, broker.TopicSpec{Partitions: 1}))
	read := map[string]*reader{}
	for name, c := range map[string]broker.Cluster{"a": a, "b": b} {
		read[name] = s.join(c, broker.Membership{Group: group, Topic: topic}, nil)
	}
	for i := range 10 {
		s.send(a, topic, message("", fmt.Sprint("a", i)))
		s.send(b, topic, message("", fmt.Sprint("b", i)))
	}
	s.send(again, topic, message("", "a again"))
	read["a"].wait(11)
	read["b"].wait(10)
	for name, r := range read {
		for _, body := range r.bodies() {
			require.Equal(s, name, body[:1])
		}
	}
}

// restart: a broker dies under traffic and comes back: what was acknowledged is read, sends and consumption go on.
func (s *suite) restart() {
	c := open(s.T, s.Target, 1)
	topic, group := s.topic(c, 2), s.name()
	r := s.join(c, broker.Membership{Group: group, Topic: topic}, nil)
	r.attached(2)

	var stop atomic.Bool
	var acked, failed atomic.Int64
	var senders sync.WaitGroup
	var mu sync.Mutex
	stored := map[string]bool{}
	for w := range 2 {
		senders.Go(func() {
			for i := 0; !stop.Load(); i++ {
				body := fmt.Sprint(w, "-", i)
				for !stop.Load() {
					_, err := s.try(c, topic, message(fmt.Sprint(w), body))
					if err == nil {
						mu.Lock()
						stored[body] = true
						mu.Unlock()
						acked.Add(1)
						break
					}
					failed.Add(1)
					if class := c.Classify(err); class != broker.Retry {
						s.Errorf("class %v: %v", class, err)
						return
					}
				}
			}
		})
	}
	defer senders.Wait()
	defer stop.Store(true)
	more := func(n int64) {
		s.Helper()
		until := acked.Load() + n
		s.eventually(func() error {
			if now := acked.Load(); now < until {
				return fmt.Errorf("%d acknowledged, waiting for %d", now, until)
			}
			return nil
		})
	}
	more(100)
	require.NoError(s, s.Kill(s.ctx(), 1))
	s.eventually(func() error {
		if st := r.member.State(); st.Err == nil {
			return fmt.Errorf("the member has not noticed: %+v", st)
		}
		if n := failed.Load(); n < 8 {
			return fmt.Errorf("%d sends have failed", n)
		}
		return nil
	})
	require.NoError(s, s.Restart(s.ctx(), 1))
	more(100)
	// goes on: something that was sent after the return is read before long
	mark := message("", "mark")
	s.send(c, topic, mark)
	s.eventually(func() error {
		for _, d := range r.messages() {
			if string(d.Body) == "mark" {
				return nil
			}
		}
		return fmt.Errorf("not read yet; state %+v", r.member.State())
	})
	stop.Store(true)
	senders.Wait()
	s.eventually(func() error {
		read := map[string]bool{}
		for _, body := range r.bodies() {
			read[body] = true
		}
		mu.Lock()
		defer mu.Unlock()
		for body := range stored {
			if !read[body] {
				return fmt.Errorf("%s was acknowledged and not read", body)
			}
		}
		return nil
	})
	r.attached(2)
	s.eventually(func() error {
		positions, err := c.Positions(s.ctx(), group, topic)
		if err == nil && !positions.Reached(s.ends(c, topic)) {
			err = fmt.Errorf("positions %v, ends %v", positions, s.ends(c, topic))
		}
		return err
	})
}

// paused: a broker that answers nothing keeps nobody longer than the caller allows, and sends no longer than
// Features.SendTimeout; afterwards all goes on.
func (s *suite) paused() {
	c := open(s.T, s.Target, 1)
	topic, group := s.topic(c, 1), s.name()
	require.NoError(s, c.Warm(s.ctx(), topic))
	s.send(c, topic, message("", "before"))
	r := s.join(c, broker.Membership{Group: group, Topic: topic}, nil)
	r.wait(1)

	require.NoError(s, s.Pause(1))
	var resume sync.Once
	goOn := func() { resume.Do(func() { require.NoError(s, s.Resume(1)) }) }
	defer goOn()
	s.eventually(func() error { // being frozen may take a moment, and one answer may be late for another reason
		for range 3 {
			ctx, cancel := within(200 * time.Millisecond)
			_, err := c.Describe(ctx)
			cancel()
			if err == nil {
				return fmt.Errorf("the cluster still answers")
			}
		}
		return nil
	})
	const n = 20
	results := make(chan error, n)
	for i := range n {
		c.Send(s.ctx(), topic, message("k", fmt.Sprint("during", i)), func(_ broker.Receipt, err error) { results <- err })
	}
	soon := func(what string, f func(context.Context) error) {
		s.Helper()
		ctx, cancel := within(300 * time.Millisecond)
		defer cancel()
		answer := make(chan error, 1)
		go func() { answer <- f(ctx) }()
		select {
		case err := <-answer:
			require.ErrorIs(s, err, context.DeadlineExceeded, what)
		case <-time.After(s.Patience):
			require.FailNow(s, what+" does not end with its context")
		}
	}
	soon("Warm", func(ctx context.Context) error { return c.Warm(ctx, topic) })
	soon("EndOffsets", func(ctx context.Context) error { _, err := c.EndOffsets(ctx, topic); return err })
	soon("Positions", func(ctx context.Context) error { _, err := c.Positions(ctx, group, topic); return err })
	soon("DescribeTopic", func(ctx context.Context) error { _, err := c.DescribeTopic(ctx, topic); return err })
	soon("CreateTopic", func(ctx context.Context) error { return c.CreateTopic(ctx, s.name(), broker.TopicSpec{}) })
	soon("DeadLetter", func(ctx context.Context) error {
		return c.DeadLetter(ctx, group, &broker.Delivery{Topic: topic, Envelope: *message("", "x")}, "y")
	})
	soon("Open", func(ctx context.Context) error { _, err := s.Open(ctx, s.Config(1)); return err })

	limit := time.NewTimer(c.Features().SendTimeout + s.Patience)
	defer limit.Stop()
	for range n {
		select {
		case err := <-results:
			require.Error(s, err)
			require.Equal(s, broker.Retry, c.Classify(err), err)
		case <-limit.C:
			require.FailNow(s, "sends are not given up")
		}
	}
	goOn()
	s.send(c, topic, message("", "after"))
	s.eventually(func() error {
		for _, body := range r.bodies() {
			if body == "after" {
				return nil
			}
		}
		return fmt.Errorf("not read yet; state %+v", r.member.State())
	})
}

// dead: a cluster that is down keeps nobody from leaving and closing.
func (s *suite) dead() {
	c, err := s.Open(s.ctx(), s.Config(1))
	require.NoError(s, err)
	topic, group := s.topic(c, 1), s.name()
	r := s.join(c, broker.Membership{Group: group, Topic: topic}, nil)
	s.send(c, topic, message("", "x"))
	r.wait(1)
	require.NoError(s, s.Kill(s.ctx(), 1))
	defer func() { require.NoError(s, s.Restart(s.ctx(), 1)) }()
	_, err = s.try(c, topic, message("", "y"))
	require.Error(s, err)
	require.Equal(s, broker.Retry, c.Classify(err), err)
	soon, cancel := within(time.Second)
	defer cancel()
	if err := c.Close(soon); err != nil {
		require.ErrorIs(s, err, context.DeadlineExceeded)
	}
	require.NoError(s, c.Close(s.ctx()))
	require.NoError(s, r.member.Leave(s.ctx()))
}
