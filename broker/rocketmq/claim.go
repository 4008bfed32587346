package rocketmq

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/turnout-mq/turnout/broker"
	"github.com/turnout-mq/turnout/broker/rocketmq/remoting"
)

const (
	pullMax   = 32 // messages of a pull: what brokers give at most
	readAhead = 32 // messages beside those of the pull that is being handed over
	// A queue lock ends after 60 s at the broker. It is renewed in good time, and a member that could not renew it stops
	// reading before that.
	lockRenew = 20 * time.Second
	lockTrust = 50 * time.Second
)

// times of reading a queue. Tests have shorter ones.
type times struct {
	suspend time.Duration // how long a broker is to hold a pull that finds nothing
	// A pull is made again when it was not answered in this time. A broker looks every 5 s, and later when it is busy, for
	// those that it has held long enough; whether it is there at all the heartbeats tell.
	pull  time.Duration
	check time.Duration // between looks at the stored position of a queue that is idle
}

var usualTimes = times{suspend: 15 * time.Second, pull: 30 * time.Second, check: 10 * time.Second}

// claim is a queue that this member was given. It lives from assignment to assignment; within that it may read several
// times (session): again after the queue was made anew, or after its lock was lost.
type claim struct {
	m      *member
	queue  remoting.Queue
	sub    remoting.Subscription
	ctx    context.Context // ends when the queue is taken away or the member leaves
	cancel context.CancelFunc
	over   chan struct{} // closed when nothing of it works any more

	// Guarded by m.mu.
	answered bool  // there is a position, and the broker has answered a pull
	err      error // why it does not get on
}

// newClaim begins a claim; m.mu is held.
func newClaim(m *member, q remoting.Queue) *claim {
	c := &claim{m: m, queue: q, sub: m.topic, over: make(chan struct{})}
	if q.Topic == m.retry.Topic {
		c.sub = m.retry
	}
	c.ctx, c.cancel = context.WithCancel(m.ctx)
	go c.run()
	return c
}

func (c *claim) run() {
	defer c.m.round() // somebody may be waiting for the place
	defer close(c.over)
	defer c.cancel()
	for c.ctx.Err() == nil {
		if c.read() {
			<-c.ctx.Done() // whoever handles the messages wants no more of them
		}
	}
}

// set tells the member's state how far the claim has come.
func (c *claim) set(answered bool, err error) {
	c.m.mu.Lock()
	same := c.answered == answered && c.err == nil && err == nil
	c.answered, c.err = answered, err
	c.m.mu.Unlock()
	if !same {
		c.m.changed()
	}
}

// read reads the queue once, from lock to unlock. It returns whether the handling ended by itself.
func (c *claim) read() (enough bool) {
	ctx, cancel := context.WithCancel(c.ctx)
	defer cancel()
	if c.m.want.Exclusive {
		asked, err := c.lock(ctx)
		if err != nil {
			return false
		}
		var wg sync.WaitGroup
		keeping, end := context.WithCancel(context.WithoutCancel(ctx)) // also while a listener finishes after the queue was taken away
		wg.Go(func() { c.keepLock(keeping, cancel, asked) })
		defer c.unlock()
		defer wg.Wait()
		defer end()
	}
	begin := time.Now()
	start, err := c.position(ctx)
	if err != nil {
		return false // only when ctx ended
	}
	enough, err = newSession(c, start, begin).run(ctx)
	if err != nil {
		c.m.log.Warn("the last position could not be stored; what is above the one before will be delivered again",
			zap.String("partition", partition(c.queue)), zap.Error(err))
	}
	return enough
}

// broker calls ask with the address of the queue's broker, with a time limit.
func (c *claim) broker(ctx context.Context, limit time.Duration, ask func(ctx context.Context, addr string) error) error {
	addr := c.m.addr(c.queue.Broker)
	if addr == "" {
		return fmt.Errorf("%w: %q has no master now", errUnavailable, c.queue.Broker)
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	return ask(ctx, addr)
}

// until repeats try with growing pauses until it succeeds or ctx ends.
func (c *claim) until(ctx context.Context, what string, try func() error) error {
	for backoff := minBackoff; ; backoff = min(2*backoff, maxBackoff) {
		err := try()
		if err == nil {
			return nil
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		c.set(false, fmt.Errorf("%s: %s: %w", partition(c.queue), what, err))
		if err := sleep(ctx, backoff); err != nil {
			return err
		}
	}
}

var errLocked = errors.New("another member still holds the queue")

// lock waits for the exclusive right to the queue and returns when it was asked for.
func (c *claim) lock(ctx context.Context) (asked time.Time, err error) {
	err = c.until(ctx, "lock", func() error {
		asked = time.Now()
		return c.tryLock(ctx)
	})
	return asked, err
}

// tryLock is not given up when ctx ends: the broker would take it all the same, perhaps after the unlocking, and nobody could
// read the queue for a minute.
func (c *claim) tryLock(ctx context.Context) error {
	return c.broker(context.WithoutCancel(ctx), callTimeout, func(ctx context.Context, addr string) error {
		got, err := c.m.client.LockQueues(ctx, addr, c.m.want.Group, c.m.id, []remoting.Queue{c.queue})
		if err == nil && len(got) == 0 {
			return errLocked
		}
		return err
	})
}

// keepLock renews the lock until ctx ends, and calls lost when it is gone or may be. After a lost connection it asks soon:
// a broker that was restarted has forgotten its locks.
func (c *claim) keepLock(ctx context.Context, lost context.CancelFunc, asked time.Time) {
	for sleep(ctx, maxBackoff) == nil {
		if time.Since(asked) < lockRenew && !c.m.lostAfter(asked) {
			continue
		}
		begin := time.Now()
		err := c.tryLock(ctx)
		switch {
		case err == nil:
			asked = begin
		case errors.Is(err, errLocked), time.Since(asked) > lockTrust:
			c.m.log.Warn("the lock of a queue was lost", zap.String("partition", partition(c.queue)), zap.Error(err))
			c.set(false, fmt.Errorf("%s: %w", partition(c.queue), err))
			lost()
			return
		}
	}
}

func (c *claim) unlock() {
	err := c.broker(context.Background(), heartbeatTimeout, func(ctx context.Context, addr string) error {
		return c.m.client.UnlockQueues(ctx, addr, c.m.want.Group, c.m.id, []remoting.Queue{c.queue})
	})
	if err != nil {
		c.m.log.Debug("unlock", zap.String("partition", partition(c.queue)), zap.Error(err))
	}
}

// position is where to begin: at the committed position, or, when there is none that is good, at the start that the
// membership wants, which is then stored and seen to be stored. It tries until ctx ends.
func (c *claim) position(ctx context.Context) (at int64, err error) {
	err = c.until(ctx, "position", func() error {
		at, err = c.tryPosition(ctx)
		return err
	})
	return at, err
}

func (c *claim) tryPosition(ctx context.Context) (at int64, err error) {
	err = c.broker(ctx, callTimeout, func(ctx context.Context, addr string) error {
		q, group, client := c.queue, c.m.want.Group, c.m.client
		first, err := client.MinOffset(ctx, addr, q)
		if err != nil {
			return err
		}
		end, err := client.MaxOffset(ctx, addr, q)
		if err != nil {
			return err
		}
		start := max(first, 0)
		if c.m.want.Start != nil && q.Topic == c.m.want.Topic {
			if wanted := c.m.want.Start()[partition(q)]; wanted <= end { // else it is of a topic that was here before
				start = max(start, wanted)
			}
		}
		committed, found, exact, err := client.ConsumerOffset(ctx, addr, group, q)
		if err != nil {
			return err
		}
		// An old broker says 0 for "none" on a young queue.
		none := !found || committed > end || !exact && committed == 0 && start > 0
		if !none {
			at = max(committed, first)
			return nil
		}
		at = start
		return c.put(ctx, addr, start)
	})
	return at, err
}

// put stores a position and sees that it shows. RocketMQ keeps only one of the first positions of a group on a topic that are
// stored at the same moment, and acknowledges all (ConsumerOffsetManager.commitOffset of 5.5).
func (c *claim) put(ctx context.Context, addr string, at int64) error {
	group, client := c.m.want.Group, c.m.client
	if err := client.UpdateConsumerOffset(ctx, addr, group, c.queue, at); err != nil {
		return err
	}
	committed, found, _, err := client.ConsumerOffset(ctx, addr, group, c.queue)
	if err == nil && (!found || committed != at) {
		err = fmt.Errorf("position %d was stored and does not show (found %v, %d)", at, found, committed)
	}
	return err
}

// session is one reading of a queue; it implements broker.Claim.
type session struct {
	*claim
	messages chan *broker.Delivery
	dirty    chan struct{} // the position to be stored may have changed

	mu      sync.Mutex
	next    int64 // everything below is finished
	handed  int64 // everything below was handed over, or need not be
	scanned int64 // between handed and this nothing is for this group
	stored  int64
	sure    time.Time // stored was seen at the broker after this
}

var _ broker.Claim = (*session)(nil)

func newSession(c *claim, start int64, sure time.Time) *session {
	return &session{claim: c, messages: make(chan *broker.Delivery, readAhead), dirty: make(chan struct{}, 1),
		next: start, handed: start, scanned: start, stored: start, sure: sure}
}

// Topic implements broker.Claim.
func (s *session) Topic() string { return s.queue.Topic }

// Partition implements broker.Claim.
func (s *session) Partition() string { return partition(s.queue) }

// Retry implements broker.Claim.
func (s *session) Retry() bool { return s.queue.Topic == s.m.retry.Topic }

// Take implements broker.Claim.
func (s *session) Take(into []broker.Delivery) int {
	d, ok := <-s.messages // closed soon after the claim has ended
	n := 0
	for ok {
		into[n] = *d
		if n++; n == len(into) {
			return n
		}
		select {
		case d, ok = <-s.messages:
		default:
			return n
		}
	}
	return n
}

// Commit implements broker.Claim.
func (s *session) Commit(next int64) {
	s.mu.Lock()
	s.next = max(s.next, min(next, s.handed)) // nobody can have finished what was not handed over
	s.mu.Unlock()
	s.touch()
}

func (s *session) touch() {
	select {
	case s.dirty <- struct{}{}:
	default:
	}
}

// target is the position to be stored: past what nobody here is to read, once all before it is finished. stored is the one
// that the broker had at sure.
func (s *session) target() (at, stored int64, sure time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	at = s.next
	if s.next >= s.handed {
		at = max(s.next, s.scanned)
	}
	return at, s.stored, s.sure
}

// run hands messages to the membership until ctx ends or the handling does, and stores the position last. The handling
// begins when the broker has answered.
func (s *session) run(ctx context.Context) (enough bool, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	first := s.pull(ctx, s.scanned)
	if first == nil {
		return false, nil
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		defer cancel()
		s.m.want.Claim(ctx, s)
		enough = ctx.Err() == nil
	})
	wg.Go(func() { s.storeLoop(ctx) })
	back := s.pullLoop(ctx, first)
	cancel()
drain: // what was not taken belongs to the next owner
	for {
		select {
		case <-s.messages:
		default:
			break drain
		}
	}
	close(s.messages)
	wg.Wait()
	return enough, s.storeLast(back)
}

// storeLoop stores the position while it changes, at the member's pace, and looks from time to time whether it is
// still there.
func (s *session) storeLoop(ctx context.Context) {
	for {
		look := time.NewTimer(s.m.c.times.check)
		idle := false
		select {
		case <-s.dirty:
			if s.m.pace.Wait(ctx, commitInterval*9/10) != nil {
				look.Stop()
				return
			}
		case <-look.C:
			idle = true
		case <-ctx.Done():
			look.Stop()
			return
		}
		look.Stop()
		if err := s.store(ctx, idle); err != nil && ctx.Err() == nil {
			s.m.log.Debug("storing a position", zap.String("partition", partition(s.queue)), zap.Error(err))
			s.touch()
		}
	}
}

// store stores the position if it has changed, or if the broker may have lost the one that it had: a broker that is killed
// forgets the last seconds, and see put. look: ask the broker in any case.
func (s *session) store(ctx context.Context, look bool) error {
	begin := time.Now()
	at, stored, sure := s.target()
	lost := s.m.lostAfter(sure)
	if at == stored && !lost && !look {
		return nil
	}
	err := s.broker(ctx, heartbeatTimeout, func(ctx context.Context, addr string) error {
		committed, found, _, err := s.m.client.ConsumerOffset(ctx, addr, s.m.want.Group, s.queue)
		switch {
		case err != nil:
			return err
		case found && committed >= at:
			// The broker takes a lower position than it has. A listener that ends after its queue went to another member must
			// not set that member's progress back: nobody would store it again, and the group would never be at the end.
			return nil
		case found && at == stored && !lost: // somebody has set it back; a pull will tell
			return nil
		}
		return s.put(ctx, addr, at)
	})
	if err == nil {
		s.mu.Lock()
		s.stored, s.sure = at, begin
		s.mu.Unlock()
	}
	return err
}

// storeLast stores the position when the handling has ended; the member may be leaving. back: somebody has set it to this, and
// what was finished meanwhile must not change that; negative: nobody has.
func (s *session) storeLast(back int64) (err error) {
	for range 3 {
		if back < 0 {
			err = s.store(context.Background(), false)
		} else {
			err = s.broker(context.Background(), heartbeatTimeout, func(ctx context.Context, addr string) error { return s.put(ctx, addr, back) })
		}
		if err == nil || sleep(context.Background(), minBackoff) != nil {
			break
		}
	}
	return err
}

// pullLoop hands over r and what comes after it until ctx ends, or until the positions are no longer those of the queue: because
// somebody has set them back (to back, else negative), or because it is another queue.
func (s *session) pullLoop(ctx context.Context, r *remoting.PullResult) (back int64) {
	for at := s.scanned; r != nil; r = s.pull(ctx, at) {
		if r.Status == remoting.PullOffsetMoved {
			log := s.m.log.With(zap.String("partition", partition(s.queue)), zap.Int64("position", at), zap.Int64("next", r.Next),
				zap.Int64("first", r.Min), zap.Int64("end", r.Max))
			switch {
			case r.Reset && r.Next < at:
				log.Info("the position was set back by a tool")
				return r.Next
			case r.Reset:
				log.Info("the position was set forward by a tool")
			case r.Next < at:
				log.Warn("the position lies beyond the end: the topic was made anew, or its broker lost messages")
				s.set(false, nil)
				return -1
			default:
				log.Warn("messages were deleted before they were read")
			}
		}
		if !s.hand(ctx, r.Messages, at) {
			return -1
		}
		stuck := r.Status == remoting.PullRetryImmediately && r.Next <= at
		at = max(at, r.Next)
		s.mu.Lock()
		s.scanned = at
		s.mu.Unlock()
		if at, stored, _ := s.target(); at != stored {
			s.touch()
		}
		if stuck && sleep(ctx, minBackoff) != nil {
			return -1
		}
	}
	return -1
}

// pull reads what there is from at on, or waits for it. It tries until it succeeds; nil: ctx ended.
func (s *session) pull(ctx context.Context, at int64) *remoting.PullResult {
	failed := false
	for backoff := minBackoff / 2; ; backoff = min(2*backoff, maxBackoff) {
		r, err := s.tryPull(ctx, at, s.isAnswered() && !failed)
		if ctx.Err() != nil {
			return nil
		}
		if err == nil {
			s.set(true, nil)
			if failed {
				s.touch() // the broker may have been away, and without the position that it had
			}
			return r
		}
		failed = true
		s.set(s.isAnswered(), fmt.Errorf("%s: pull: %w", partition(s.queue), err))
		if !errors.Is(err, remoting.ErrDisconnected) {
			s.m.round() // the route or the group may have changed
		}
		if sleep(ctx, backoff) != nil {
			return nil
		}
	}
}

func (s *session) isAnswered() bool {
	s.m.mu.Lock()
	defer s.m.mu.Unlock()
	return s.answered
}

// tryPull asks once. The first answer, and the first one after a failure, says that the broker is there: it is not to wait for a
// message.
func (s *session) tryPull(ctx context.Context, at int64, wait bool) (r *remoting.PullResult, err error) {
	p := remoting.Pull{Group: s.m.want.Group, Queue: s.queue, Offset: at, Max: pullMax, Subscription: s.sub}
	limit := min(callTimeout, s.m.c.times.pull)
	if wait {
		p.Suspend, limit = s.m.c.times.suspend, s.m.c.times.pull
	}
	// One that is not answered says nothing of the connection, which carries the pulls of other queues.
	err = s.broker(ctx, limit, func(ctx context.Context, addr string) error {
		r, err = s.m.client.PullMessages(ctx, addr, p)
		return err
	})
	return r, err
}

// hand hands over what is for this group of messages at or after from; false when ctx ended.
func (s *session) hand(ctx context.Context, messages []*remoting.Message, from int64) bool {
	for _, m := range messages {
		if m.QueueOffset < from {
			continue
		}
		d, err := s.decode(ctx, m)
		if err != nil {
			return false
		}
		if !s.Retry() && !tagged(s.sub, d.Tag) { // brokers compare hashes
			continue
		}
		s.mu.Lock()
		s.handed = m.QueueOffset + 1
		s.mu.Unlock()
		select {
		case s.messages <- d:
		case <-ctx.Done():
			return false
		}
	}
	return true
}

// decode waits with a message that can not be read: it is not skipped, and the state says so.
func (s *session) decode(ctx context.Context, m *remoting.Message) (d *broker.Delivery, err error) {
	for {
		if d, err = decode(m, s.queue, s.Retry(), s.m.c.cfg.Name); err == nil {
			return d, nil
		}
		s.set(true, err)
		s.m.log.Error("a message can not be read; its queue waits", zap.Error(err))
		if err := sleep(ctx, time.Minute); err != nil {
			return nil, err
		}
	}
}
