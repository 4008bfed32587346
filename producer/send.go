package producer

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/turnout-mq/turnout/broker"
	"github.com/turnout-mq/turnout/internal/errs"
	"github.com/turnout-mq/turnout/metadata"
)

const (
	backoffFirst   = 20 * time.Millisecond
	backoffMost    = time.Second
	unknownRefused = 30 * time.Second // R26: a refusal that nobody can explain counts as a fence for this long
	refreshLimit   = 3 * time.Second
)

// Send stores m on the topic's cluster and returns when the cluster has acknowledged it, when it can not be stored, or
// when ctx ends. A message without an ID is given one; m itself is not changed.
//
// Errors: errs.ErrInvalid, errs.ErrTooLarge and errs.ErrUnsupported (m is not acceptable), errs.ErrUnknownTopic,
// errs.ErrNoShadow, errs.ErrNoMetadata, errs.ErrFenced (the cluster refuses writers and ZooKeeper can not be asked where to go),
// errs.ErrClosed, errs.ErrNotAllowed, and ctx's. After ctx's error or errs.ErrClosed the message may have been stored or
// may be stored yet, and its memory must not be changed for as long as the producer is open.
func (p *Producer) Send(ctx context.Context, topic string, m *broker.Message) (Result, error) {
	if err := p.enter(); err != nil {
		return Result{}, err
	}
	defer p.sends.Done()
	r, err := p.send(ctx, topic, m)
	if err != nil {
		p.count.failed.Add(1)
		return r, fmt.Errorf("send to topic %q: %w", topic, err)
	}
	p.count.sent.Add(1)
	return r, nil
}

func (p *Producer) send(ctx context.Context, topic string, m *broker.Message) (Result, error) {
	for {
		o, err := p.outlet(ctx, topic)
		if err != nil {
			return Result{}, err
		}
		if err := o.check(m); err != nil {
			return Result{}, err
		}
		t, err := o.acquire(ctx, m.Key)
		if errors.Is(err, errRetired) {
			continue
		}
		if err != nil {
			return Result{ID: m.ID}, err
		}
		a := newAttempt(o, t)
		a.env.Message, a.env.Shadow = *m, p.shadow
		if m.ID == "" {
			a.env.ID = NewID()
		}
		return a.deliver(ctx, retry{})
	}
}

// NewID returns a message id: a UUIDv7 as 32 lower-case hex digits.
func NewID() string {
	id := uuid.Must(uuid.NewV7()) // fails only when the system has no randomness, where nothing can go on
	var text [32]byte
	hex.Encode(text[:], id[:])
	return string(text[:])
}

// attempt is one message on its way, with its answer. It is reused when its answer was taken.
type attempt struct {
	o      *outlet
	t      *target
	env    broker.Envelope
	timing stopwatch
	answer chan answer // room for one
	done   func(broker.Receipt, error)
	ctx    handing
}

type answer struct {
	receipt broker.Receipt
	err     error
}

var attempts = sync.Pool{New: func() any {
	a := &attempt{answer: make(chan answer, 1)}
	a.done = func(r broker.Receipt, err error) {
		a.timing.stop(a.t.conn, err)
		a.o.release(a.t)
		a.answer <- answer{r, err}
	}
	return a
}}

func newAttempt(o *outlet, t *target) *attempt {
	a := attempts.Get().(*attempt)
	a.o, a.t = o, t
	return a
}

// deliver sends until the message is stored, can not be, or ctx ends. a.t is acquired; a is not used after it. again
// knows of earlier attempts.
func (a *attempt) deliver(ctx context.Context, again retry) (Result, error) {
	id, o := a.env.ID, a.o
	for {
		t := a.t
		a.timing.start(t.tally)
		a.ctx = handing{Context: ctx, t: t}
		t.conn.Send(&a.ctx, t.physical, &a.env, a.done)
		var got answer
		select {
		case got = <-a.answer:
		case <-ctx.Done():
			a.timing.stop(t.conn, ctx.Err())
			a.abandon()
			return Result{ID: id}, again.because(ctx.Err())
		case <-t.ctx.Done():
			if o.p.ctx.Err() != nil {
				a.abandon()
				return Result{ID: id}, again.because(errs.ErrClosed)
			}
			a, got = a.takeBack()
		}
		a.ctx.over()
		if got.err == nil {
			r := Result{id, t.conn.Name, got.receipt.Partition, got.receipt.Offset}
			a.recycle()
			return r, nil
		}
		next, err := again.next(ctx, o, t, &a.env, got.err)
		if err != nil {
			a.recycle()
			return Result{ID: id}, err
		}
		a = a.again(next)
	}
}

// again is an attempt to send the same message to t.
func (a *attempt) again(t *target) *attempt {
	if a.ctx.both.Load() != nil { // what was derived of it may be looked at for a moment yet
		b := newAttempt(a.o, t)
		b.env = a.env
		return b
	}
	a.t = t
	return a
}

// takeBack ends the attempt, whose target was given up or has ended, and returns what is to be gone on with.
func (a *attempt) takeBack() (*attempt, answer) {
	if !a.t.dead.Load() {
		return a, <-a.answer // which is there
	}
	select {
	case got := <-a.answer:
		return a, got
	default:
	}
	b := newAttempt(a.o, a.t)
	b.env = a.env
	a.timing.stop(a.t.conn, errTakenBack)
	a.abandon()
	return b, answer{err: errTakenBack}
}

func (a *attempt) recycle() {
	a.o, a.t, a.env = nil, nil, broker.Envelope{}
	if a.ctx.both.Load() != nil { // as in again
		return
	}
	a.ctx = handing{}
	attempts.Put(a)
}

// abandon leaves a to the driver, which still has it; a success is counted when it comes.
func (a *attempt) abandon() {
	o := a.o
	o.p.spawn(func() {
		select {
		case got := <-a.answer:
			if got.err == nil {
				o.p.count.late.Add(1)
			}
			a.ctx.over()
		case <-o.p.ctx.Done():
		}
	})
}

// retry decides what comes after a failed attempt.
type retry struct {
	wait    time.Duration
	refused time.Time // since when the cluster has refused without anybody saying why
	last    error
}

// because joins why a send ended with what its last attempt met.
func (r *retry) because(err error) error {
	if r.last == nil {
		return err
	}
	return fmt.Errorf("%w (last attempt: %w)", err, r.last)
}

// next returns the target of the next attempt to send m, acquired, or why there is none. failed is the released target of
// the attempt that ended with err.
func (r *retry) next(ctx context.Context, o *outlet, failed *target, m *broker.Envelope, err error) (*target, error) {
	if ctx.Err() != nil {
		return nil, r.because(ctx.Err())
	}
	o.used.Store(true) // it is not idle while this waits
	r.last = fmt.Errorf("cluster %q: %w", failed.conn.Name, err)
	class := broker.Retry
	if !failed.dead.Load() { // else there is another cluster, whatever this one says
		class = failed.conn.Classify(err)
	}
	switch class {
	case broker.Fatal:
		// The topic may be gone because it has moved and this process has not heard of it yet, and a broker that has just
		// come back may not know its topics for a moment.
		if !errors.Is(err, errs.ErrUnknownTopic) || !o.moved(ctx, failed, m.Key) && !o.there(ctx, failed) {
			return nil, r.last
		}
	case broker.Refused:
		if errors.Is(err, errs.ErrTooLarge) { // the driver knows its limit
			return nil, r.last
		}
		why, cause := o.tooLargeOrFenced(ctx, failed, sizeOf(m))
		if why == tooLarge {
			return nil, cause
		}
		r.last = fmt.Errorf("%w: cluster %q refuses writers of topic %q", errs.ErrFenced, failed.conn.Name, failed.physical)
		if why == unknownRefusal && cause == nil {
			if r.refused.IsZero() {
				r.refused = time.Now()
			} else if time.Since(r.refused) > unknownRefused {
				return nil, r.last
			}
		}
		ask, cancel := context.WithTimeout(ctx, refreshLimit)
		cause = o.topic.Refresh(ask)
		cancel()
		if cause != nil && ctx.Err() == nil && !o.topic.Connected() { // slow is not away
			// As text: that the question ran out of time is not that ctx did.
			return nil, fmt.Errorf("%w, and ZooKeeper can not be asked where it has gone: %s", r.last, cause.Error())
		}
	case broker.Retry, broker.Closed:
	}
	// Where the target has changed already nothing is to be waited for.
	if o.isTarget(failed, m.Key) {
		r.wait = min(max(2*r.wait, backoffFirst), backoffMost)
		if err := o.await(ctx, r.wait/2+rand.N(r.wait/2+1)); err != nil {
			return nil, r.because(err)
		}
	}
	t, err := o.acquire(ctx, m.Key)
	if err != nil {
		return nil, r.because(err)
	}
	o.p.count.retried.Add(1)
	if t.conn.Name != failed.conn.Name {
		o.p.count.rerouted.Add(1)
	}
	return t, nil
}

// sizeOf is what a message weighs without what the wire adds.
func sizeOf(m *broker.Envelope) int {
	n := len(m.Key) + len(m.Body)
	for _, h := range m.Headers {
		n += len(h.Name) + len(h.Value)
	}
	return n
}

// isTarget says whether t, or another use of the same connection, is where sends with that key go.
func (o *outlet) isTarget(t *target, key []byte) bool {
	o.mu.RLock()
	defer o.mu.RUnlock()
	return o.cur != nil && o.cur.of(key).same(t)
}

// there asks the cluster again whether it has the topic; an answer that does not come says nothing.
func (o *outlet) there(ctx context.Context, t *target) bool {
	ctx, cancel := t.within(ctx)
	defer cancel()
	_, err := t.conn.DescribeTopic(ctx, t.physical)
	return !errors.Is(err, errs.ErrUnknownTopic)
}

// moved asks ZooKeeper whether sends with that key have left t's cluster, and gives the switch a moment.
func (o *outlet) moved(ctx context.Context, t *target, key []byte) bool {
	ask, cancel := context.WithTimeout(ctx, refreshLimit)
	defer cancel()
	if o.topic.Refresh(ask) != nil {
		return false
	}
	v := o.topic.View()
	if v == nil {
		return false
	}
	to, canary := o.clusters(v)
	if canary != "" && metadata.InRange(v.Route.Canary.Keys, key) {
		to = canary
	}
	return to != t.conn.Name || v.Settings.Physical(o.topic.Name(), to) != t.physical
}
