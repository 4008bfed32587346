package requests

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/turnout-mq/turnout/admin/coord"
	"github.com/turnout-mq/turnout/admin/store"
	"github.com/turnout-mq/turnout/internal/errs"
)

const (
	scan        = 500 * time.Millisecond // between two looks into the store
	lookAgain   = 10 * time.Second       // between two looks whether a request is still in its queue
	sweepEvery  = time.Minute            // between two looks for requests that expire
	maxActive   = 4000                   // requests that are looked at; those that came first
	maxSubjects = 256                    // whose queues a server serves at a time
	atOnce      = 8                      // executions that do something at a time
	tryLimit    = 2 * time.Minute        // of one try of a step
	farewell    = 2 * time.Second        // for giving up a lock
)

// Run executes what was approved, lets expire what nobody decides, and sends notices, until ctx ends; then it returns when nothing
// of it works any more. Every server runs it; one at a time in a Service.
func (s *Service) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(store.WithActor(ctx, store.Actor{Name: store.System, Via: "server " + s.cfg.Server}))
	var all sync.WaitGroup
	defer all.Wait()
	defer cancel()
	all.Go(func() { s.notify(ctx) })
	all.Go(func() { s.sweep(ctx) })
	e := &executor{Service: s, slots: make(chan struct{}, atOnce), workers: map[string]*worker{}, queued: map[string]time.Time{}}
	defer e.all.Wait()
	defer cancel()
	for {
		wake := s.kicked()
		if err := e.scan(ctx); err != nil && ctx.Err() == nil {
			s.log.Warn("requests can not be looked at, trying again", zap.Error(err))
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-wake:
		case <-time.After(scan):
		}
	}
}

// executor serves the queues of the subjects for which there are requests to execute.
type executor struct {
	*Service
	all     sync.WaitGroup
	slots   chan struct{}
	workers map[string]*worker // by subject

	mu     sync.Mutex
	queued map[string]time.Time // by request: when it was last seen in its queue
}

// seen notes that a request is in its queue; the zero time: that it may not be.
func (e *executor) seen(id string, at time.Time) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if at.IsZero() {
		delete(e.queued, id)
		return
	}
	e.queued[id] = at
}

// unseen says that it is time to look for a request in its queue.
func (e *executor) unseen(r *store.ChangeRequest) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return time.Since(e.queued[r.ID]) > lookAgain
}

// worker serves one queue.
type worker struct {
	queue *coord.Queue
	stop  context.CancelFunc
	ended chan struct{}
}

// item is what a queue holds of a request.
type item struct {
	Request string `json:"request"`
}

// scan puts what is approved into the queues, and serves those that are needed.
func (e *executor) scan(ctx context.Context) error {
	active, err := e.db.ChangeRequests(ctx, store.RequestFilter{States: []store.RequestState{store.Approved, store.Executing}, Oldest: true, Limit: maxActive})
	if err != nil {
		return err
	}
	slices.SortStableFunc(active, func(a, b *store.ChangeRequest) int { return at(a.DecidedAt).Compare(at(b.DecidedAt)) })
	bySubject := map[string][]*store.ChangeRequest{}
	known := map[string]bool{}
	var subjects []string
	for _, r := range active {
		if bySubject[r.Subject] == nil {
			subjects = append(subjects, r.Subject)
		}
		bySubject[r.Subject] = append(bySubject[r.Subject], r)
		known[r.ID] = true
	}
	e.mu.Lock()
	maps.DeleteFunc(e.queued, func(id string, _ time.Time) bool { return !known[id] })
	e.mu.Unlock()
	var failed []error
	for subject, w := range e.workers {
		if err := e.release(ctx, subject, w, bySubject[subject] != nil); err != nil {
			failed = append(failed, err)
		}
	}
	for _, subject := range subjects {
		if e.workers[subject] == nil && len(e.workers) >= maxSubjects {
			continue // one of the others has to end first
		}
		if err := e.serve(ctx, subject, bySubject[subject]); err != nil {
			failed = append(failed, err)
		}
	}
	return errors.Join(failed...)
}

func at(t *time.Time) time.Time {
	if t == nil {
		return time.Time{}
	}
	return *t
}

// release ends a worker whose queue is empty, with nothing to come.
func (e *executor) release(ctx context.Context, subject string, w *worker, needed bool) error {
	select {
	case <-w.ended: // by itself
		delete(e.workers, subject)
		w.stop()
		return nil
	default:
	}
	if needed {
		return nil
	}
	n, err := w.queue.Len(ctx)
	if err != nil || n > 0 {
		return err
	}
	w.stop()
	<-w.ended
	delete(e.workers, subject)
	return nil
}

// serve sees that the requests are in the queue of their subject, and that somebody takes them out.
func (e *executor) serve(ctx context.Context, subject string, requests []*store.ChangeRequest) error {
	w := e.workers[subject]
	if w == nil {
		queue, err := coord.NewQueue(e.meta, subject, e.log)
		if err != nil {
			return err
		}
		working, stop := context.WithCancel(ctx)
		w = &worker{queue: queue, stop: stop, ended: make(chan struct{})}
		e.workers[subject] = w
		e.all.Go(func() {
			defer close(w.ended)
			err := queue.Serve(working, e.handle)
			if working.Err() == nil {
				e.log.Warn("a queue is not served any more, trying again", zap.String("subject", subject), zap.Error(err))
			}
		})
	}
	return e.enqueue(ctx, w.queue, requests)
}

// enqueue puts those into the queue that are not there. Two servers that do it at the same time put two items: the second one finds
// the request done.
func (e *executor) enqueue(ctx context.Context, queue *coord.Queue, requests []*store.ChangeRequest) error {
	if !slices.ContainsFunc(requests, e.unseen) {
		return nil
	}
	items, err := queue.List(ctx)
	if err != nil {
		return err
	}
	there := map[string]bool{}
	for _, i := range items {
		there[parseItem(i)] = true
	}
	for _, r := range requests {
		if there[r.ID] { // perhaps from before it failed, and about to go
			e.seen(r.ID, time.Now().Add(time.Second-lookAgain))
			continue
		}
		data, err := json.Marshal(item{r.ID})
		if err != nil {
			return err
		}
		if _, err := queue.Put(ctx, data); err != nil {
			return err
		}
		e.seen(r.ID, time.Now())
	}
	return nil
}

func parseItem(i coord.Item) (request string) {
	var parsed item
	_ = json.Unmarshal(i.Data, &parsed) // what we have not written names no request
	return parsed.Request
}

// errAgain: the request was changed beside the execution; look again.
var errAgain = errors.New("look again")

// finalError fails a request at once.
type finalError struct{ error }

func (e finalError) Unwrap() error { return e.error }

// Final marks an error of Handler.Execute that would come again: the request fails at once, and people decide.
func Final(err error) error { return finalError{err} }

// isFinal says that trying again is of no use.
func isFinal(err error) bool {
	if errors.Is(err, errNotReady) {
		return false
	}
	var f finalError
	if errors.As(err, &f) {
		return true
	}
	for _, sentinel := range []error{errs.ErrInvalid, errs.ErrNotAllowed, errs.ErrUnsupported, errs.ErrNotFound, errs.ErrUnknownTopic, errs.ErrUnknownGroup, errs.ErrTooLarge} {
		if errors.Is(err, sentinel) {
			return true
		}
	}
	return false
}

// grow is the pause after so many attempts.
func grow(attempt int) time.Duration {
	return min(time.Second<<min(attempt-1, 10), time.Minute)
}

// handle executes the request of an item until it has ended. An error: it could not even be read or written, and is given again.
func (e *executor) handle(ctx context.Context, i coord.Item) error {
	id := parseItem(i)
	for {
		again, err := e.try(ctx, id)
		switch {
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case errors.Is(err, errs.ErrNotFound) || id == "":
			e.log.Warn("a queue has an item of no request", zap.String("item", i.ID), zap.Error(err))
			return nil
		case err != nil && !errors.Is(err, errAgain):
			return err
		case err == nil && !again:
			return nil
		}
	}
}

// try takes a request one try further. Neither again nor an error: it has ended.
func (e *executor) try(ctx context.Context, id string) (again bool, err error) {
	r, err := e.db.ChangeRequest(ctx, id)
	if err != nil {
		return false, err
	}
	run := &Run{s: e.Service, r: r, slots: e.slots}
	switch r.State {
	case store.Approved:
		r.State = store.Executing
		return true, run.update(ctx, store.RequestChanges{Action: "execute", Events: []store.RequestEvent{{Kind: "executing"}}}, "executing")
	case store.Executing:
	default:
		return false, nil
	}
	if r.NextAt != nil {
		if err := wait(ctx, r.NextAt.Sub(e.cfg.now())); err != nil {
			return false, err
		}
	}
	err = e.execute(ctx, run)
	switch {
	case ctx.Err() != nil:
		return false, ctx.Err()
	case errors.Is(err, errAgain):
		return true, nil
	case err == nil && run.r.State == store.Executing:
		return false, run.finish(ctx, store.RequestChanges{})
	case err == nil:
		return false, nil
	}
	return e.failed(ctx, id, err)
}

// execute lets the handler work, alone on the subject where it asks for that.
func (e *executor) execute(ctx context.Context, run *Run) (err error) {
	h, err := e.handler(run.r.Kind)
	if err != nil {
		return err
	}
	if err := run.acquire(ctx); err != nil {
		return err
	}
	defer run.release()
	return h.Execute(ctx, run)
}

// failed notes why a try failed. What the try has made of the request in memory was not stored, so it is read anew.
func (e *executor) failed(ctx context.Context, id string, failure error) (again bool, err error) {
	r, err := e.db.ChangeRequest(ctx, id)
	if err != nil || r.State != store.Executing {
		return false, err
	}
	r.Attempts++
	r.Error = failure.Error()
	run := &Run{s: e.Service, r: r}
	if isFinal(failure) || r.Attempts >= e.cfg.Attempts && !errors.Is(failure, errWaits) {
		now := e.cfg.now()
		r.State, r.NextAt, r.EndedAt = store.RequestBad, nil, &now
		e.seen(id, time.Time{}) // it leaves the queue, and may be tried again before the next look
		e.log.Warn("a request failed", zap.String("request", id), zap.Error(failure))
		return false, run.update(ctx, store.RequestChanges{Action: "fail", Events: []store.RequestEvent{{Kind: "failed", Text: r.Error}}}, "failed")
	}
	next := e.cfg.now().Add(e.cfg.pause(r.Attempts))
	r.NextAt = &next
	e.log.Info("a request is tried again", zap.String("request", id), zap.Time("at", next), zap.Error(failure))
	return true, run.update(ctx, store.RequestChanges{Events: []store.RequestEvent{{Kind: "tried", Text: r.Error}}}, "")
}

// Run is one execution of a request, in the hands of a Handler. One goroutine uses it.
type Run struct {
	s     *Service
	r     *store.ChangeRequest
	slots chan struct{}
	held  bool // a slot
}

// Request is the request as it is stored now.
func (r *Run) Request() store.ChangeRequest { return *r.r }

// Save stores how far the execution has come: what is not done again. result is seen by people; nil: it stays.
func (r *Run) Save(ctx context.Context, step string, result any) error {
	return r.save(ctx, step, result, store.RequestChanges{})
}

// save is Save with more changes in its transaction.
func (r *Run) save(ctx context.Context, step string, result any, ch store.RequestChanges) error {
	if result != nil {
		data, err := json.Marshal(result)
		if err != nil {
			return err
		}
		r.r.Result = data
	}
	r.r.Step, r.r.Attempts, r.r.Error, r.r.NextAt = step, 0, "", nil
	ch.Events = append(ch.Events, store.RequestEvent{Kind: "step", Text: step})
	return r.update(ctx, ch, "")
}

// finish stores that the request is done, together with ch.
func (r *Run) finish(ctx context.Context, ch store.RequestChanges) error {
	now := r.s.cfg.now()
	r.r.State, r.r.Attempts, r.r.Error, r.r.NextAt, r.r.EndedAt = store.RequestOK, 0, "", nil, &now
	ch.Action = "finish"
	ch.Events = append(ch.Events, store.RequestEvent{Kind: "done"})
	return r.update(ctx, ch, "done")
}

// update stores the request; errAgain: somebody else has.
func (r *Run) update(ctx context.Context, ch store.RequestChanges, tell string) error {
	if tell != "" {
		ch.Tell = r.s.telling(store.System, tell)
	}
	err := r.s.db.UpdateRequest(ctx, r.r, ch)
	if errors.Is(err, errs.ErrConflict) {
		stored, read := r.s.db.ChangeRequest(ctx, r.r.ID)
		if read != nil {
			return read
		}
		if stored.Version == r.r.Version { // it is something else that was changed
			return err
		}
		r.s.log.Debug("a request was changed beside its execution", zap.String("request", r.r.ID), zap.Error(err))
		if waited := wait(ctx, scan/5); waited != nil {
			return waited
		}
		return fmt.Errorf("%w: %w", errAgain, err)
	}
	return err
}

// Wait lets other executions work for d.
func (r *Run) Wait(ctx context.Context, d time.Duration) error {
	r.release()
	if err := wait(ctx, d); err != nil {
		return err
	}
	return r.acquire(ctx)
}

func (r *Run) acquire(ctx context.Context) error {
	select {
	case r.slots <- struct{}{}:
		r.held = true
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (r *Run) release() {
	if r.held {
		r.held = false
		<-r.slots
	}
}

// at tells a test where the execution is.
func (r *Run) at(ctx context.Context, step string) { r.s.cfg.at(ctx, r.r.ID, step) }

// locked runs f while nobody else of the platform writes what the subject names, within the time of one try.
func (r *Run) locked(ctx context.Context, f func(ctx context.Context, lock *coord.Held) error) error {
	ctx, cancel := context.WithTimeout(ctx, tryLimit)
	defer cancel()
	lock, err := coord.Lock(ctx, r.s.meta, r.r.Subject)
	if err != nil {
		return err
	}
	defer func() {
		leaving, done := context.WithTimeout(context.WithoutCancel(ctx), farewell)
		defer done()
		if err := lock.Unlock(leaving); err != nil {
			r.s.log.Warn("the lock is given up as soon as ZooKeeper answers", zap.String("lock", r.r.Subject), zap.Error(err))
		}
	}()
	defer context.AfterFunc(lock.Context(), cancel)()
	return f(ctx, lock)
}

// wait returns after d, or with the error of ctx.
func wait(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		return ctx.Err()
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// sweep lets requests expire that nobody decides.
func (s *Service) sweep(ctx context.Context) {
	for {
		if err := s.Expire(ctx); err != nil && ctx.Err() == nil {
			s.log.Warn("requests that expire can not be looked for, trying again", zap.Error(err))
		}
		if wait(ctx, sweepEvery) != nil {
			return
		}
	}
}

// Expire ends the submitted requests that nobody has decided in time. Run does it every minute.
func (s *Service) Expire(ctx context.Context) error {
	late, err := s.db.ChangeRequests(ctx, store.RequestFilter{States: []store.RequestState{store.Submitted}, ExpireUntil: s.cfg.now(), Oldest: true})
	if err != nil {
		return err
	}
	var failed []error
	for _, r := range late {
		until := cmp.Or(r.ExpiresAt, &time.Time{}).Format(time.RFC3339)
		s.end(r, store.Expired, store.System, "nobody decided until "+until)
		err := s.db.UpdateRequest(ctx, r, store.RequestChanges{Action: "expire", Events: []store.RequestEvent{{Kind: "expired", Text: r.Decision}}, Tell: s.telling(store.System, "expired")})
		switch {
		case errors.Is(err, errs.ErrConflict): // somebody decided it just now, or another server was faster
		case err != nil:
			failed = append(failed, err)
		}
	}
	return errors.Join(failed...)
}
