package consumer

import (
	"context"
	"sync"

	"github.com/turnout-mq/turnout/broker"
)

// tracker knows which messages of a claim are finished, and commits the lowest that is not.
type tracker struct {
	commit func(next int64)
	window int // with so many between the lowest unfinished message and the newest, no more are taken in

	mu    sync.Mutex
	items []*item // in offset order, from the lowest unfinished
	room  chan struct{}
}

// item is one message on its way through a claim.
type item struct {
	ctx      context.Context // ends with the claim
	d        *broker.Delivery
	claim    *claimed
	finished bool // guarded by tracker.mu
	public   Delivery
}

// add takes in messages, in their order; it waits while the window is full. false: ctx ended.
func (t *tracker) add(ctx context.Context, items ...*item) bool {
	for {
		t.mu.Lock()
		if len(t.items) < t.window {
			t.items = append(t.items, items...)
			t.mu.Unlock()
			return true
		}
		if t.room == nil {
			t.room = make(chan struct{})
		}
		room := t.room
		t.mu.Unlock()
		select {
		case <-room:
		case <-ctx.Done():
			return false
		}
	}
}

// finish says that they were handled, or are safe elsewhere.
func (t *tracker) finish(items ...*item) {
	if len(items) == 0 {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, it := range items {
		it.finished = true
	}
	n := 0
	for n < len(t.items) && t.items[n].finished {
		n++
	}
	if n == 0 {
		return
	}
	// Under the lock, so that commits come in order.
	t.commit(t.items[n-1].d.Offset + 1)
	t.items = t.items[n:]
	if t.room != nil && len(t.items) < t.window {
		close(t.room)
		t.room = nil
	}
}

// skip says that nothing below next is left that anybody has to handle: it is the position once all before it is finished.
func (t *tracker) skip(next int64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.items) == 0 {
		t.commit(next)
		return
	}
	last := t.items[len(t.items)-1]
	t.items = append(t.items, &item{d: &broker.Delivery{Offset: max(next-1, last.d.Offset)}, finished: true})
}
