package producer

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/turnout-mq/turnout/broker"
	"github.com/turnout-mq/turnout/internal/errs"
	"github.com/turnout-mq/turnout/metadata"
)

// SendAsync is Send that does not wait for the cluster. done is called exactly once, with what Send would have
// returned: possibly before SendAsync returns, possibly from a goroutine of the driver, so it must not block. When ctx
// ends or Close gives up first, done gets that error; a message that is stored after that is counted, not reported.
//
// SendAsync itself waits while Send would wait before sending: for the topic's first look-up, a hold, or room in the
// client's buffer. So the order of one goroutine's sends is the order in which they are handed over.
func (p *Producer) SendAsync(ctx context.Context, topic string, m *broker.Message, done func(Result, error)) {
	if err := p.enter(); err != nil {
		done(Result{}, err)
		return
	}
	c := &call{p: p, ctx: ctx, topic: topic, fn: done}
	if err := c.begin(m); err != nil {
		c.finish(Result{ID: c.env.ID}, err)
	}
}

// call is one SendAsync on its way.
type call struct {
	p     *Producer
	o     *outlet
	t     *target
	ctx   context.Context
	topic string
	fn    func(Result, error)
	env   broker.Envelope
	ended atomic.Bool
	mu    sync.Mutex // guards stops, which finish may want before both are there
	stops []func() bool
	again retry
	lane  *lane
	seq   uint64
}

func (c *call) begin(m *broker.Message) error {
	for {
		o, err := c.p.outlet(c.ctx, c.topic)
		if err != nil {
			return err
		}
		if err := o.check(m); err != nil {
			return err
		}
		t, err := o.acquire(c.ctx)
		if errors.Is(err, errRetired) {
			continue
		}
		if err != nil {
			return err
		}
		c.o, c.t, c.env.Message = o, t, *m
		break
	}
	if c.env.ID == "" {
		c.env.ID = NewID()
	}
	c.mu.Lock()
	c.stops = []func() bool{
		context.AfterFunc(c.ctx, func() { c.finish(Result{ID: c.env.ID}, c.ctx.Err()) }),
		context.AfterFunc(c.p.ctx, func() { c.finish(Result{ID: c.env.ID}, errs.ErrClosed) }),
	}
	c.mu.Unlock()
	if c.t.view.Route.Order == metadata.OrderKey && len(c.env.Key) > 0 && !c.o.lanes.join(c) {
		return nil // behind others of its key
	}
	c.send()
	return nil
}

// send makes one attempt on c.t, which is acquired.
func (c *call) send() {
	c.t.conn.Send(c.ctx, c.t.physical, &c.env, func(r broker.Receipt, err error) {
		t := c.t
		c.o.release(t)
		if err == nil {
			c.finish(Result{c.env.ID, t.conn.Name, r.Partition, r.Offset}, nil)
			if c.lane != nil {
				c.o.lanes.leave(c, false)
			}
			return
		}
		if c.lane != nil {
			c.again.failed, c.again.why = t, err
			c.o.lanes.leave(c, true)
			return
		}
		c.p.spawn(func() { c.repeat(t, err) })
	})
}

// repeat goes on, as Send does, after the attempt on t failed with err.
func (c *call) repeat(t *target, err error) {
	if c.ended.Load() {
		return
	}
	next, err := c.again.next(c.ctx, c.o, t, &c.env, err)
	if err != nil {
		c.finish(Result{ID: c.env.ID}, err)
		return
	}
	c.deliver(next)
}

// deliver waits for the message to be stored. t is acquired.
func (c *call) deliver(t *target) {
	a := newAttempt(c.o, t)
	a.env = c.env
	c.finish(a.deliver(c.ctx, c.again))
}

// finish reports the end, once.
func (c *call) finish(r Result, err error) {
	if c.ended.Swap(true) {
		if err == nil {
			c.p.count.late.Add(1)
		}
		return
	}
	c.mu.Lock()
	for _, stop := range c.stops {
		stop()
	}
	c.mu.Unlock()
	if err != nil {
		c.p.count.failed.Add(1)
		err = fmt.Errorf("send to topic %q: %w", c.topic, err)
	} else {
		c.p.count.sent.Add(1)
	}
	c.fn(r, err)
	c.p.sends.Done()
}

// lanes keep the asynchronous sends of a key in order over repetitions and switches (R24). As long as nothing fails
// and the cluster stays, the sends of a key are pipelined and the driver keeps their order.
type lanes struct {
	mu    sync.Mutex
	byKey map[string]*lane
	seq   uint64
}

// lane is one key that has sends on their way. It is guarded by lanes.mu.
type lane struct {
	inflight int
	on       *target
	waiting  []*call // to be sent one after the other when nothing is in flight
	walking  bool    // somebody does that now
}

// join puts c at the end of its key's lane; false: it has to wait there and will be sent from there.
func (ls *lanes) join(c *call) bool {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	key := string(c.env.Key)
	l := ls.byKey[key]
	if l == nil {
		if ls.byKey == nil {
			ls.byKey = map[string]*lane{}
		}
		l = &lane{}
		ls.byKey[key] = l
	}
	ls.seq++
	c.seq, c.lane = ls.seq, l
	if l.walking || len(l.waiting) > 0 || l.inflight > 0 && l.on.conn.Cluster != c.t.conn.Cluster {
		c.o.release(c.t)
		c.t = nil
		l.waiting = append(l.waiting, c)
		return false
	}
	l.inflight++
	l.on = c.t
	return true
}

// empty says that no send is in any lane.
func (ls *lanes) empty() bool {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	return len(ls.byKey) == 0
}

// leave takes c, whose attempt has ended, out of flight; failed puts it back before those behind it.
func (ls *lanes) leave(c *call, failed bool) {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	l := c.lane
	l.inflight--
	if failed {
		l.waiting = append(l.waiting, c)
	}
	if l.inflight > 0 || l.walking {
		return
	}
	if len(l.waiting) == 0 {
		delete(ls.byKey, string(c.env.Key))
		return
	}
	l.walking = true
	key := string(c.env.Key)
	c.p.spawn(func() { ls.walk(key, l) })
}

// walk sends what waits in a lane, one message after the other.
func (ls *lanes) walk(key string, l *lane) {
	for {
		ls.mu.Lock()
		if len(l.waiting) == 0 {
			delete(ls.byKey, key)
			ls.mu.Unlock()
			return
		}
		slices.SortFunc(l.waiting, func(a, b *call) int { return int(int64(a.seq) - int64(b.seq)) })
		c := l.waiting[0]
		l.waiting = l.waiting[1:]
		ls.mu.Unlock()
		switch {
		case c.ended.Load():
		case c.again.failed != nil:
			c.repeat(c.again.failed, c.again.why)
		default:
			t, err := c.o.acquire(c.ctx)
			if err != nil {
				c.finish(Result{ID: c.env.ID}, err)
				continue
			}
			c.deliver(t)
		}
	}
}
