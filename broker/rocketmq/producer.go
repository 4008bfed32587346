package rocketmq

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/apache/rocketmq-client-go/v2/primitive"

	"github.com/turnout-mq/turnout/broker"
	"github.com/turnout-mq/turnout/broker/rocketmq/remoting"
	"github.com/turnout-mq/turnout/internal/errs"
)

// Bounds of what is under way. Send waits when they are reached.
const (
	maxSends    = 1024 // in all
	maxLaneWait = 16   // of one key: the last of them must be begun within queueTimeout
)

// producer carries out sends: one goroutine each, those of one key one after the other.
type producer struct {
	c       *Cluster
	library *library
	slots   chan struct{}
	turn    atomic.Uint64 // of messages without a key
	wg      sync.WaitGroup

	mu      sync.Mutex
	closed  bool
	lanes   map[string]*lane
	sending map[*send]struct{}
	asking  map[string]bool // topics whose route is being asked for
}

// lane is the queue of one key of one topic. It exists while somebody uses it.
type lane struct {
	slots   chan struct{}
	users   int
	queue   []*send
	running bool
}

// send is one message on its way.
type send struct {
	ctx      context.Context
	topic    string
	m        *broker.Envelope
	level    int
	deadline time.Time // to begin
	done     func(broker.Receipt, error)
	finished atomic.Bool
}

// finish calls done, the first time.
func (s *send) finish(r broker.Receipt, err error) {
	if s.finished.CompareAndSwap(false, true) {
		s.done(r, err)
	}
}

func newProducer(c *Cluster) *producer {
	return &producer{c: c, library: newLibrary(c), slots: make(chan struct{}, maxSends), lanes: map[string]*lane{},
		sending: map[*send]struct{}{}, asking: map[string]bool{}}
}

// Send implements broker.Producer.
func (c *Cluster) Send(ctx context.Context, topic string, m *broker.Envelope, done func(broker.Receipt, error)) {
	fail := func(err error) { done(broker.Receipt{}, c.wrap("send to topic "+topic, err)) }
	if err := check(m); err != nil {
		fail(err)
		return
	}
	level, err := c.level(m.Delay)
	if err != nil {
		fail(err)
		return
	}
	s := &send{ctx: ctx, topic: topic, m: m, level: level, deadline: time.Now().Add(queueTimeout), done: done}
	if err := c.producer.enqueue(s); err != nil {
		fail(err)
	}
}

// enqueue hands s over; an error says that it was not.
func (p *producer) enqueue(s *send) error {
	select {
	case p.slots <- struct{}{}: // asks nothing of ctx
	default:
		select {
		case p.slots <- struct{}{}:
		case <-s.ctx.Done():
			return s.ctx.Err()
		}
	}
	var l *lane
	key := ""
	if s.m.Key != nil {
		key = s.topic + "\x00" + string(s.m.Key)
		l = p.lane(key)
		select {
		case l.slots <- struct{}{}:
		default:
			select {
			case l.slots <- struct{}{}:
			case <-s.ctx.Done():
				p.leave(key, l)
				<-p.slots
				return s.ctx.Err()
			}
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		if l != nil {
			<-l.slots
			p.leaveLocked(key, l)
		}
		<-p.slots
		return errs.ErrClosed
	}
	p.sending[s] = struct{}{}
	switch {
	case l == nil:
		p.wg.Add(1)
		go p.runOne(s)
	case l.running:
		l.queue = append(l.queue, s)
	default:
		l.queue, l.running = append(l.queue, s), true
		p.wg.Add(1)
		go p.runLane(key, l)
	}
	return nil
}

func (p *producer) lane(key string) *lane {
	p.mu.Lock()
	defer p.mu.Unlock()
	l := p.lanes[key]
	if l == nil {
		l = &lane{slots: make(chan struct{}, maxLaneWait)}
		p.lanes[key] = l
	}
	l.users++
	return l
}

func (p *producer) leave(key string, l *lane) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.leaveLocked(key, l)
}

func (p *producer) leaveLocked(key string, l *lane) {
	if l.users--; l.users == 0 {
		delete(p.lanes, key)
	}
}

func (p *producer) runOne(s *send) {
	defer p.wg.Done()
	r, err := p.store(s)
	p.end(s, r, err)
}

func (p *producer) runLane(key string, l *lane) {
	defer p.wg.Done()
	for {
		p.mu.Lock()
		if len(l.queue) == 0 {
			l.running, l.queue = false, nil
			p.mu.Unlock()
			return
		}
		s := l.queue[0]
		l.queue = l.queue[1:]
		p.mu.Unlock()
		r, err := p.store(s)
		<-l.slots
		p.leave(key, l)
		p.end(s, r, err)
	}
}

// end gives the place of s free and calls done, which may then send again.
func (p *producer) end(s *send, r broker.Receipt, err error) {
	p.mu.Lock()
	delete(p.sending, s)
	p.mu.Unlock()
	<-p.slots
	if err != nil {
		err = p.c.done("send to topic "+s.topic, err)
	}
	s.finish(r, err)
}

// store sends s now. Nothing is repeated that may have reached a broker.
func (p *producer) store(s *send) (broker.Receipt, error) {
	switch {
	case s.ctx.Err() != nil:
		return broker.Receipt{}, s.ctx.Err()
	case s.finished.Load(): // Close gave up on it
		return broker.Receipt{}, errs.ErrClosed
	case time.Now().After(s.deadline):
		return broker.Receipt{}, fmt.Errorf("%w: not begun within %v: the sends of its key before it took too long", errs.ErrTimeout, queueTimeout)
	}
	return p.c.store(s.ctx, s.topic, encode(s.m, s.level), s.m.Key, s.m.Body)
}

// store sends one message to topic. ctx ends the wait for a route, not the send.
func (c *Cluster) store(ctx context.Context, topic string, properties map[string]string, key, body []byte) (broker.Receipt, error) {
	r, err := c.writable(ctx, topic)
	if err != nil {
		return broker.Receipt{}, err
	}
	i := -1
	if key != nil {
		i = r.keyed[int(murmur2(key)&0x7fffffff)%len(r.keyed)]
		if i < 0 && !systemTopic(topic) { // retries and dead letters have no order
			c.producer.refresh(topic, recheckAge) // it may be back
			return broker.Receipt{}, fmt.Errorf("%w: the queue of the key is on a broker that is down", errUnavailable)
		}
	}
	if i < 0 {
		i = int(c.producer.turn.Add(1) % uint64(len(r.writable)))
	}
	q := r.writable[i]
	result, err := c.producer.library.send(r.targets[i], properties, body)
	if err != nil {
		return broker.Receipt{}, c.refused(ctx, topic, err)
	}
	if result.Status != primitive.SendOK {
		return broker.Receipt{}, fmt.Errorf("stored by broker %q, but not as safely as it is set up to (status %d): replica or disk did not follow in time", q.Broker, result.Status)
	}
	if properties[propDelay] != "" { // it has no offset in its queue before it is due
		return broker.Receipt{Partition: r.names[i], Offset: -1}, nil
	}
	return broker.Receipt{Partition: r.names[i], Offset: result.QueueOffset}, nil
}

// writable is a route of topic with a queue to write to. A route that is old is renewed in the background; one without
// a queue is asked for again, so that a topic that was opened takes sends at once.
func (c *Cluster) writable(ctx context.Context, topic string) (*route, error) {
	r := c.routes.cached(topic)
	if r != nil && len(r.writable) > 0 {
		if time.Since(r.at) > routeAge {
			c.producer.refresh(topic, routeAge)
		}
		return r, nil
	}
	r, err := c.routeOfSend(ctx, topic, recheckAge)
	if err != nil {
		return nil, err
	}
	if len(r.writable) == 0 {
		return nil, fmt.Errorf("%w: topic %q has no queue to write to", errs.ErrFenced, topic)
	}
	return r, nil
}

// routeOfSend asks for a route while a send waits, for routeTimeout at most.
func (c *Cluster) routeOfSend(ctx context.Context, topic string, age time.Duration) (*route, error) {
	asking, cancel := context.WithTimeout(ctx, routeTimeout)
	defer cancel()
	r, err := c.routes.get(asking, topic, age)
	if err != nil && asking.Err() != nil && ctx.Err() == nil {
		return nil, fmt.Errorf("%w: no route of topic %q within %v: %s", errs.ErrTimeout, topic, routeTimeout, err.Error())
	}
	return r, err
}

// refresh asks for the route in the background unless it is younger than age.
func (p *producer) refresh(topic string, age time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed || p.asking[topic] {
		return
	}
	p.asking[topic] = true
	p.wg.Go(func() {
		ctx, cancel := context.WithTimeout(p.c.ctx, callTimeout)
		defer cancel()
		_, _ = p.c.routes.get(ctx, topic, age) // what is wrong the next send will find
		p.mu.Lock()
		delete(p.asking, topic)
		p.mu.Unlock()
	})
}

// refused finds out what it means that a broker does not take a message.
func (c *Cluster) refused(ctx context.Context, topic string, err error) error {
	var answer *remoting.ResponseError
	switch {
	case !errors.As(err, &answer):
		c.producer.refresh(topic, recheckAge) // the broker may be gone, and others there
		return err
	case remoting.HasCode(err, remoting.MessageIllegal):
		return fmt.Errorf("%w: %w", errs.ErrTooLarge, err) // everything else that makes one illegal was checked
	case !remoting.HasCode(err, remoting.InvalidParameter, remoting.NoPermission, remoting.TopicNotExist):
		return err
	}
	r, routeErr := c.routeOfSend(ctx, topic, 0)
	switch {
	case errors.Is(routeErr, errs.ErrUnknownTopic):
		return errors.Join(routeErr, err)
	case routeErr != nil:
		return fmt.Errorf("%w: %s", routeErr, err.Error()) // not err itself: its code would make this fatal
	case len(r.writable) == 0:
		return fmt.Errorf("%w: topic %q has no queue to write to: %s", errs.ErrFenced, topic, err.Error())
	case remoting.HasCode(err, remoting.NoPermission):
		return err
	}
	return fmt.Errorf("the route was out of date, it is renewed: %s", err.Error())
}

// Warm implements broker.Producer.
func (c *Cluster) Warm(ctx context.Context, topic string) error {
	ctx, cancel, err := c.ask(ctx)
	if err != nil {
		return err
	}
	defer cancel()
	return c.done("warm topic "+topic, c.warm(ctx, topic))
}

func (c *Cluster) warm(ctx context.Context, topic string) error {
	r, err := c.routes.get(ctx, topic, 0)
	if err != nil {
		return err
	}
	if len(r.writable) == 0 {
		return fmt.Errorf("%w: topic %q has no queue to write to", errs.ErrFenced, topic)
	}
	for _, name := range r.brokers() {
		if !slices.ContainsFunc(r.writable, func(q remoting.Queue) bool { return q.Broker == name }) {
			continue
		}
		if err := c.admin.Connect(ctx, r.masters[name]); err != nil {
			return fmt.Errorf("broker %q: %w", name, err)
		}
	}
	return c.producer.detach(ctx, func() error { return c.producer.library.warm(topic) })
}

// detach waits for what can not be cancelled no longer than ctx; close waits for the rest.
func (p *producer) detach(ctx context.Context, f func() error) error {
	result := make(chan error, 1)
	p.mu.Lock()
	if p.closed {
		p.mu.Unlock()
		return errs.ErrClosed
	}
	p.wg.Go(func() { result <- f() })
	p.mu.Unlock()
	select {
	case err := <-result:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// close lets what was begun finish.
func (p *producer) close() {
	p.mu.Lock()
	p.closed = true
	p.mu.Unlock()
	p.wg.Wait()
	p.library.close()
}

// abort fails what has not finished. What is on the wire may still be stored.
func (p *producer) abort() {
	p.mu.Lock()
	p.closed = true
	var left []*send
	for s := range p.sending {
		left = append(left, s)
	}
	p.mu.Unlock()
	for _, s := range left {
		s.finish(broker.Receipt{}, p.c.wrap("send to topic "+s.topic, errs.ErrClosed))
	}
}
