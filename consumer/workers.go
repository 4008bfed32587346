package consumer

import (
	"context"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/turnout-mq/turnout/metadata"
)

// workers call the listener for a subscription: as many at once as the group's settings say, and as fast, and not at
// all while it is paused. The settings change while they run.
type workers struct {
	handle func(*item) (next *item)
	queue  chan *item

	mu      sync.Mutex
	size    int           // how many there should be
	running int           // how many there are
	changed chan struct{} // closed and replaced when a setting changes
	paused  bool
	over    bool
	limit   *rate.Limiter
	wg      sync.WaitGroup
}

// newWorkers returns none yet. handle handles a message and may return another one that the same worker goes on with.
func newWorkers(handle func(*item) *item) *workers {
	return &workers{handle: handle, queue: make(chan *item), changed: make(chan struct{}), limit: rate.NewLimiter(rate.Inf, 1)}
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
}

// surplus says that the worker that asks is one too many and has to end.
func (w *workers) surplus() (end bool, changed <-chan struct{}) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.running > w.size {
		w.running--
		return true, nil
	}
	return false, w.changed
}

// put hands it to a worker; false: its claim ended first.
func (w *workers) put(it *item) bool {
	select {
	case w.queue <- it:
		return true
	case <-it.ctx.Done():
		return false
	}
}

func (w *workers) work() {
	var next *item
	for {
		end, changed := w.surplus()
		switch {
		case end && next != nil:
			// Somebody else goes on with it, or its claim ends.
			w.wg.Go(func() {
				if !w.put(next) {
					next.claim.running.Done()
				}
			})
			return
		case end:
			return
		case next != nil:
			next = w.handle(next)
			continue
		}
		select {
		case it := <-w.queue:
			next = w.handle(it)
		case <-changed:
		}
	}
}

// admit waits until a message may be handled under the settings; false: ctx ended.
func (w *workers) admit(ctx context.Context) bool {
	for {
		w.mu.Lock()
		paused, limit, changed := w.paused, w.limit, w.changed
		w.mu.Unlock()
		if !paused {
			turn := limit.Reserve()
			d := turn.Delay()
			if d == 0 {
				return ctx.Err() == nil
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
		} else {
			select {
			case <-changed:
			case <-ctx.Done():
			}
		}
		if ctx.Err() != nil {
			return false
		}
	}
}

// close ends the workers; no claim uses them any more.
func (w *workers) close() {
	w.mu.Lock()
	w.over = true
	w.resize(0)
	w.mu.Unlock()
	w.wg.Wait()
}
