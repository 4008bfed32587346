package consumer

import (
	"context"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"

	"github.com/turnout-mq/turnout/metadata"
)

// workers call the listener for a subscription: as many at once as the group's settings say, and as fast, and not at
// all while it is paused. The settings change while they run.
//
// The queue is a list under a lock rather than a channel: a partition that is read at full speed hands over many messages
// in one go, and a worker that finds the next message there needs nobody to wake it.
//
// A worker takes one message at a time, so that no message waits behind a slow one while there are workers without work;
// more in one go only while the listener is so quick that the taking would be what costs.
type workers struct {
	handle func([]*item) (next []*item)

	mu      sync.Mutex
	more    sync.Cond // the queue has grown, or there are workers too many
	queue   []*item   // from head
	head    int
	size    int           // how many workers there should be
	running int           // how many there are
	changed chan struct{} // closed and replaced when a setting changes
	paused  bool
	over    bool
	limit   *rate.Limiter
	free    atomic.Bool // neither paused nor limited
	wg      sync.WaitGroup
}

const (
	quick   = 20 * time.Microsecond // a worker that handled all it took in less takes twice as many
	atATime = 32                    // at most
)

// newWorkers returns none yet. handle handles messages and may return others that the same worker goes on with.
func newWorkers(handle func([]*item) []*item) *workers {
	w := &workers{handle: handle, changed: make(chan struct{}), limit: rate.NewLimiter(rate.Inf, 1)}
	w.more.L = &w.mu
	w.free.Store(true)
	return w
}

// set applies the group's settings.
func (w *workers) set(g *metadata.Group) {
	w.mu.Lock()
	defer w.mu.Unlock()
	limit := rate.Inf
	if g.Rate > 0 {
		limit = rate.Limit(g.Rate)
	}
	if w.over || g.Concurrency == w.size && g.Paused == w.paused && limit == w.limit.Limit() {
		return
	}
	w.paused = g.Paused
	if limit != w.limit.Limit() {
		// A new one, because what was reserved from the old one would still wait at its pace.
		w.limit = rate.NewLimiter(limit, max(1, int(g.Rate/10)))
	}
	w.free.Store(!w.paused && limit == rate.Inf)
	w.resize(g.Concurrency)
}

// resize begins to have n workers; those that are too many end with the message that they are at. w.mu is held.
func (w *workers) resize(n int) {
	w.size = n
	for ; w.running < n; w.running++ {
		w.wg.Go(w.work)
	}
	close(w.changed)
	w.changed = make(chan struct{})
	w.more.Broadcast()
}

// put hands messages to the workers.
func (w *workers) put(items ...*item) {
	if len(items) == 0 {
		return
	}
	w.mu.Lock()
	if w.head > len(w.queue)/2 { // a backlog that never ends must not make the list longer and longer
		n := copy(w.queue, w.queue[w.head:])
		clear(w.queue[n:])
		w.queue, w.head = w.queue[:n], 0
	}
	w.queue = append(w.queue, items...)
	w.mu.Unlock()
	if len(items) == 1 {
		w.more.Signal()
	} else {
		w.more.Broadcast()
	}
}

// back puts back what was taken and not begun.
func (w *workers) back(items []*item) {
	if len(items) == 0 {
		return
	}
	w.mu.Lock()
	w.queue = slices.Insert(w.queue, w.head, items...)
	w.mu.Unlock()
	w.more.Broadcast()
}

// drop takes back what no worker has begun of a claim, and says how much that was.
func (w *workers) drop(cl *claimed) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	waiting := w.queue[w.head:]
	kept := slices.DeleteFunc(waiting, func(it *item) bool { return it.claim == cl })
	n := len(waiting) - len(kept)
	w.queue = w.queue[:w.head+len(kept)]
	return n
}

func (w *workers) work() {
	var items []*item
	for most := 1; ; {
		w.mu.Lock()
		for w.running <= w.size && len(items) == 0 && w.head == len(w.queue) {
			w.more.Wait()
		}
		if w.running > w.size {
			w.running--
			w.queue = append(w.queue, items...) // somebody else goes on with them, or their claim ends
			w.mu.Unlock()
			w.more.Signal() // what was put may have been meant for this one
			return
		}
		if len(items) == 0 {
			waiting := w.queue[w.head:]
			n := min(most, max(1, len(waiting)/w.size)) // the others shall have some too
			items = append(items, waiting[:n]...)
			clear(waiting[:n])
			w.head += n
		}
		w.mu.Unlock()
		began := time.Now()
		items = append(items[:0], w.handle(items)...)
		if most *= 2; time.Since(began) > quick {
			most = 1
		}
		most = min(most, atATime)
	}
}

// admit waits until a message may be handled under the settings; false: ctx ended.
func (w *workers) admit(ctx context.Context) bool {
	for !w.free.Load() && ctx.Err() == nil {
		w.mu.Lock()
		paused, limit, changed := w.paused, w.limit, w.changed
		w.mu.Unlock()
		if paused {
			select {
			case <-changed:
			case <-ctx.Done():
			}
			continue
		}
		turn := limit.Reserve()
		d := turn.Delay()
		if d == 0 {
			break
		}
		timer := time.NewTimer(d)
		select {
		case <-timer.C:
			return ctx.Err() == nil
		case <-changed: // ask again under the new settings
		case <-ctx.Done():
		}
		timer.Stop()
		turn.Cancel()
	}
	return ctx.Err() == nil
}

// close ends the workers; no claim uses them any more.
func (w *workers) close() {
	w.mu.Lock()
	w.over = true
	w.resize(0)
	w.mu.Unlock()
	w.wg.Wait()
}
