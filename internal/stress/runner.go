package stress

import (
	"context"
	"errors"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/turnout-mq/turnout/internal/errs"
	"github.com/turnout-mq/turnout/metadata"
)

const (
	readyPatience = 5 * time.Second // to be ready in before that is called a failure; a Kafka broker lets a new group wait for 3 s
	readyLook     = time.Second     // between two looks whether it still is
	againFirst    = 250 * time.Millisecond
	againMost     = 10 * time.Second
)

// runner starts and stops the shadow group of one group.
type runner struct {
	g     *Groups
	start func(ctx context.Context) (Running, error)
	log   *zap.Logger

	life   context.Context // ends when what is left is to be given up
	giveUp context.CancelFunc
	wake   chan struct{}
	done   chan struct{}

	unready time.Time // since when what runs is not ready; only run uses it

	mu     sync.Mutex
	on     bool
	over   bool               // it shall end
	cancel context.CancelFunc // of what runs only while on; nil: nothing does
	report metadata.ShadowReport
}

func newRunner(g *Groups, group string, start func(ctx context.Context) (Running, error)) *runner {
	r := &runner{g: g, start: start, log: g.cfg.Log.With(zap.String("group", group)), wake: make(chan struct{}, 1), done: make(chan struct{}),
		report: metadata.ShadowReport{State: metadata.ShadowStopped, At: now()}}
	r.life, r.giveUp = context.WithCancel(context.Background())
	return r
}

func now() time.Time { return time.Now().UTC().Truncate(time.Millisecond) }

// want says which tasks enable the group. It does not block.
func (r *runner) want(tasks []string) {
	r.mu.Lock()
	on := len(tasks) > 0 && !r.over
	if on == r.on {
		r.mu.Unlock()
		return
	}
	r.on = on
	if !on && r.cancel != nil {
		r.cancel()
	}
	r.mu.Unlock()
	if on {
		r.log.Info("shadow group is enabled", zap.Strings("tasks", tasks))
	} else {
		r.log.Info("shadow group is not enabled any more")
	}
	r.kick()
}

func (r *runner) kick() {
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

// end stops it for good.
func (r *runner) end(ctx context.Context) error {
	r.mu.Lock()
	r.over, r.on = true, false
	if r.cancel != nil {
		r.cancel()
	}
	r.mu.Unlock()
	r.kick()
	select {
	case <-r.done:
		return nil
	case <-ctx.Done():
		r.giveUp()
		return ctx.Err()
	}
}

// whileOn gives a ctx that ends when the group is not wanted any more, or after d; ok false: it is not wanted.
func (r *runner) whileOn(d time.Duration) (ctx context.Context, cancel context.CancelFunc, ok bool) {
	ctx, cancel = context.WithTimeout(r.life, d)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.cancel = cancel
	return ctx, cancel, r.on
}

func (r *runner) state() (on, over bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.on, r.over
}

// said is what there is to be said of it.
func (r *runner) said() metadata.ShadowReport {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.report
}

func (r *runner) say(state metadata.ShadowState, err error) {
	reason := ""
	if err != nil {
		reason = err.Error()
	}
	r.mu.Lock()
	same := r.report.State == state && r.report.Reason == reason
	if !same {
		since := r.report.At
		if r.report.State != state {
			since = now()
		}
		r.report = metadata.ShadowReport{State: state, Reason: reason, At: since}
	}
	r.mu.Unlock()
	if same {
		return
	}
	if err != nil {
		r.log.Warn("shadow group", zap.String("state", string(state)), zap.Error(err))
	} else {
		r.log.Info("shadow group", zap.String("state", string(state)))
	}
	r.g.report()
}

func (r *runner) run() {
	defer close(r.done)
	defer r.giveUp()
	var running Running
	wait := againFirst
	for {
		on, over := r.state()
		var next time.Duration
		switch {
		case !on && running != nil:
			r.stop(running)
			running, wait = nil, againFirst
			continue
		case over:
			return
		case !on:
			r.say(metadata.ShadowStopped, nil) // also when it was never there
			next = time.Hour
		case running == nil:
			var err error
			if running, err = r.begin(); err == nil {
				r.unready = time.Time{}
				continue
			}
			if on, _ := r.state(); !on {
				continue
			}
			r.say(metadata.ShadowFailed, err)
			next, wait = wait, min(2*wait, againMost)
		default:
			next = r.look(running)
		}
		timer := time.NewTimer(next)
		select {
		case <-r.wake:
		case <-timer.C:
		}
		timer.Stop()
	}
}

// startLimit is for reading the metadata of one group and its topics.
const startLimit = 20 * time.Second

func (r *runner) begin() (Running, error) {
	ctx, cancel, ok := r.whileOn(startLimit)
	defer cancel()
	if !ok {
		return nil, context.Canceled
	}
	if r.said().State != metadata.ShadowFailed {
		r.say(metadata.ShadowStarting, nil)
	}
	return r.start(ctx)
}

// look says how the running group is, and when to look again. A group that has to join again, as after a move, goes on to be
// started for a while.
func (r *runner) look(running Running) (again time.Duration) {
	err := running.NotReady()
	if err != nil {
		ctx, cancel, ok := r.whileOn(againFirst)
		if ok && running.Ready(ctx) == nil {
			err = nil
		}
		cancel()
		if on, _ := r.state(); !on {
			return 0
		}
	}
	switch {
	case err == nil:
		r.unready = time.Time{}
		r.say(metadata.ShadowStarted, nil)
		return readyLook
	case r.unready.IsZero():
		r.unready = time.Now()
	}
	if time.Since(r.unready) >= readyPatience || errors.Is(err, errs.ErrNoShadow) {
		r.say(metadata.ShadowFailed, err)
	}
	return 0 // the wait for Ready is enough
}

// stop ends what runs. A listener may take its time, and nobody starts the group again before it has returned.
func (r *runner) stop(running Running) {
	r.say(metadata.ShadowStopping, nil)
	if err := running.Close(r.life); err != nil {
		_ = running.Close(context.Background()) // it was told to give up; its listeners still have to return
	}
	r.say(metadata.ShadowStopped, nil)
}
