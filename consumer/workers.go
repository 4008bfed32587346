package consumer

import (
	"context"
	"sync"

	"golang.org/x/time/rate"

	"github.com/turnout-mq/turnout/metadata"
)

// workers call the listener for a subscription: as many at once as the group's settings say, and as fast, and not at
// all while it is paused. The settings change while they run.
type workers struct {
	handle func(*item)
	queue  chan *item

	mu     sync.Mutex
	size   int
	quit   chan struct{} // one receive ends one worker
	open   chan struct{} // closed: not paused
	paused bool
	over   bool
	limit  *rate.Limiter
	wg     sync.WaitGroup
}

func newWorkers(handle func(*item)) *workers {
	open := make(chan struct{})
	close(open)
	return &workers{handle: handle, queue: make(chan *item), quit: make(chan struct{}), open: open, limit: rate.NewLimiter(rate.Inf, 1)}
}

// set applies the group's settings.
func (w *workers) set(g *metadata.Group) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.over {
		return
	}
	for ; w.size < g.Concurrency; w.size++ {
		w.wg.Go(w.work)
	}
	if surplus := w.size - g.Concurrency; surplus > 0 {
		w.size = g.Concurrency
		w.wg.Go(func() { // those that are busy end when their message is handled
			for range surplus {
				w.quit <- struct{}{}
			}
		})
	}
	if g.Paused != w.paused {
		if w.paused = g.Paused; w.paused {
			w.open = make(chan struct{})
		} else {
			close(w.open)
		}
	}
	limit := rate.Inf
	if g.Rate > 0 {
		limit = rate.Limit(g.Rate)
	}
	if limit != w.limit.Limit() {
		w.limit.SetLimit(limit)
		w.limit.SetBurst(max(1, int(g.Rate/10)))
	}
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
	for {
		select {
		case it := <-w.queue:
			w.handle(it)
		case <-w.quit:
			return
		}
	}
}

// admit waits until a message may be handled under the settings; false: ctx ended.
func (w *workers) admit(ctx context.Context) bool {
	for {
		w.mu.Lock()
		open, limit := w.open, w.limit
		w.mu.Unlock()
		select {
		case <-open:
		case <-ctx.Done():
			return false
		}
		if limit.Wait(ctx) != nil {
			return false
		}
		w.mu.Lock()
		same := open == w.open
		w.mu.Unlock()
		if same {
			return ctx.Err() == nil
		}
	}
}

// close ends the workers; no claim uses them any more.
func (w *workers) close() {
	w.mu.Lock()
	w.over = true
	n := w.size
	w.size = 0
	w.mu.Unlock()
	for range n {
		w.quit <- struct{}{}
	}
	w.wg.Wait()
}
