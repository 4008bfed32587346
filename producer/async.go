package producer

import (
	"context"
	"errors"
	"fmt"
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
	p      *Producer
	o      *outlet
	t      *target
	ctx    context.Context
	topic  string
	fn     func(Result, error)
	env    broker.Envelope
	timing stopwatch // of the first attempt
	ended  atomic.Bool
	taken  atomic.Bool // the first attempt was answered, or taken back
	until  handing     // its ctx
	mu     sync.Mutex  // guards stops, which finish may want before both are there
	stops  []func() bool
	again  retry
	inLane bool
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
		t, err := o.acquire(c.ctx, m.Key)
		if errors.Is(err, errRetired) {
			continue
		}
		if err != nil {
			return err
		}
		c.o, c.t, c.env.Message, c.env.Shadow = o, t, *m, c.p.shadow
		if c.env.ID == "" {
			c.env.ID = NewID()
		}
		first, room := true, (<-chan struct{})(nil)
		if t.view.Route.Order == metadata.OrderKey && len(c.env.Key) > 0 {
			first, room = o.lanes.join(c)
		}
		if room == nil && first {
			break
		}
		o.release(t)
		if room == nil { // it is sent from the lane
			c.watch(c.p.ctx, func() { c.finish(Result{ID: c.env.ID}, errs.ErrClosed) })
			return nil
		}
		if err := c.wait(room); err != nil {
			return err
		}
	}
	c.watch(c.t.ctx, c.takeBack)
	c.send()
	return nil
}

func (c *call) wait(room <-chan struct{}) error {
	select {
	case <-room:
		return nil
	case <-c.ctx.Done():
		return c.ctx.Err()
	case <-c.p.ctx.Done():
		return errs.ErrClosed
	}
}

// watch ends the call when ctx ends, and calls f when also does.
func (c *call) watch(also context.Context, f func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ended.Load() {
		return
	}
	c.stops = append(c.stops,
		context.AfterFunc(c.ctx, func() {
			c.timing.stop(nil, c.ctx.Err())
			c.finish(Result{ID: c.env.ID}, c.ctx.Err())
		}),
		context.AfterFunc(also, f),
	)
}

// takeBack sends elsewhere what is under way on c.t, when that was given up; when Close gave up it ends the call.
func (c *call) takeBack() {
	switch {
	case c.p.ctx.Err() != nil:
		c.finish(Result{ID: c.env.ID}, errs.ErrClosed)
	case c.t.dead.Load() && !c.taken.Swap(true):
		c.timing.stop(c.t.conn, errTakenBack)
		c.p.spawn(func() {
			c.repeat(c.t, errTakenBack)
			c.leave()
		})
	}
}

// send makes one attempt on c.t, which is acquired.
func (c *call) send() {
	t := c.t
	c.until = handing{Context: c.ctx, t: t}
	c.timing.start(t.tally)
	t.conn.Send(&c.until, t.physical, &c.env, func(r broker.Receipt, err error) {
		taken := c.taken.Swap(true) // before t may end
		c.timing.stop(t.conn, err)
		c.o.release(t)
		c.until.over()
		switch {
		case taken && err == nil:
			c.p.count.late.Add(1)
			return
		case taken:
			return
		case err == nil:
			c.finish(Result{c.env.ID, t.conn.Name, r.Partition, r.Offset}, nil)
			c.leave()
			return
		}
		c.p.spawn(func() {
			c.repeat(t, err)
			c.leave()
		})
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
	a := newAttempt(c.o, next)
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

// laneRoom is how many sends may wait behind one of their key before SendAsync waits.
const laneRoom = 1024

// lanes keep the asynchronous sends of a key in order over repetitions and switches, on topics with order by key (R24):
// one is under way, the others wait behind it. More under way would be faster, and the second could be stored before the
// first is repeated.
type lanes struct {
	mu    sync.Mutex
	byKey map[string]*lane // keys with a send under way
}

// lane is what waits behind a send under way. It is guarded by lanes.mu.
type lane struct {
	waiting []*call
	room    chan struct{} // not nil: closed when there is room again
}

// join puts c into the lane of its key. first: nothing is before it, it is to be sent now; else it will be sent from the
// lane, or, when room is not nil, nothing was done and join is to be called again when that is closed.
func (ls *lanes) join(c *call) (first bool, room <-chan struct{}) {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	key := string(c.env.Key)
	l := ls.byKey[key]
	switch {
	case l == nil:
		if ls.byKey == nil {
			ls.byKey = map[string]*lane{}
		}
		ls.byKey[key] = &lane{}
		c.inLane = true
		return true, nil
	case len(l.waiting) < laneRoom:
		c.inLane = true
		l.waiting = append(l.waiting, c)
		return false, nil
	}
	if l.room == nil {
		l.room = make(chan struct{})
	}
	return false, l.room
}

// leave lets the next send of the key go, when c is one of a lane and its last attempt has ended.
func (c *call) leave() {
	if !c.inLane {
		return
	}
	if next := c.o.lanes.next(string(c.env.Key)); next != nil {
		c.p.spawn(next.follow)
	}
}

// follow sends a call that waited in a lane.
func (c *call) follow() {
	if c.ended.Load() {
		c.leave()
		return
	}
	t, err := c.o.acquire(c.ctx, c.env.Key)
	if err != nil {
		c.finish(Result{ID: c.env.ID}, err)
		c.leave()
		return
	}
	c.t = t
	c.mu.Lock()
	if !c.ended.Load() {
		c.stops = append(c.stops, context.AfterFunc(t.ctx, c.takeBack))
	}
	c.mu.Unlock()
	c.send()
}

// next takes the next call out of a lane; nil: there is none, and the lane ends.
func (ls *lanes) next(key string) *call {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	l := ls.byKey[key]
	if l.room != nil {
		close(l.room)
		l.room = nil
	}
	if len(l.waiting) == 0 {
		delete(ls.byKey, key)
		return nil
	}
	c := l.waiting[0]
	l.waiting[0] = nil
	l.waiting = l.waiting[1:]
	return c
}

// empty says that no send is in any lane.
func (ls *lanes) empty() bool {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	return len(ls.byKey) == 0
}
