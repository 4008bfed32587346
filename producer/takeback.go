package producer

import (
	"context"
	"errors"
	"sync/atomic"
)

// errTakenBack is the answer of an attempt on a cluster that was given up while it was under way (R27, R31).
var errTakenBack = errors.New("the cluster was given up while it did not answer")

// giveUp has every send that is under way on t begin anew elsewhere. What t's driver says of them later is counted only.
func (t *target) giveUp() {
	t.dead.Store(true)
	t.end()
}

// within is ctx, ended as well when t is given up.
func (t *target) within(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(ctx)
	stop := context.AfterFunc(t.ctx, cancel)
	return ctx, func() { stop(); cancel() }
}

// handing is the ctx of one attempt: that of its send, ended as well when its target is given up, and when the attempt is over.
// What that takes is made only when a driver has to wait.
type handing struct {
	context.Context
	t    *target
	both atomic.Pointer[both]
}

type both struct {
	context.Context
	cancel context.CancelFunc
}

// Done implements context.Context.
func (h *handing) Done() <-chan struct{} {
	if b := h.both.Load(); b != nil {
		return b.Done()
	}
	b := &both{}
	b.Context, b.cancel = h.t.within(h.Context)
	if !h.both.CompareAndSwap(nil, b) {
		b.cancel()
		b = h.both.Load()
	}
	return b.Done()
}

// Err implements context.Context.
func (h *handing) Err() error {
	if err := h.Context.Err(); err != nil {
		return err
	}
	if err := h.t.ctx.Err(); err != nil {
		return err
	}
	if b := h.both.Load(); b != nil {
		return b.Err()
	}
	return nil
}

// over lets go of what was made. The driver has no use for h any more.
func (h *handing) over() {
	if b := h.both.Load(); b != nil {
		b.cancel()
	}
}
