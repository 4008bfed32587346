package stress

import (
	"context"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/turnout-mq/turnout/metadata"
)

const (
	readyPatience = time.Second     // to be ready in before the reason why not is reported
	readyLook     = 5 * time.Second // between two looks whether it still is
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
		r.report = metadata.ShadowReport{State: state, Reason: reason, At: now()}
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
		next := readyLook
		switch {
		case !on && running != nil:
			r.stop(running)
			running, wait = nil, againFirst
			continue
		case over:
			return
		case !on:
			next = time.Hour
		case running == nil:
			var err error
			if running, err = r.begin(); err == nil {
				continue
			}
			if on, _ := r.state(); !on {
				continue
			}
			r.say(metadata.ShadowFailed, err)
			next, wait = wait, min(2*wait, againMost)
		default:
			if err := r.ready(running); err == nil {
				r.say(metadata.ShadowStarted, nil)
			} else if on, _ := r.state(); on {
				r.say(metadata.ShadowFailed, err)
				next = againFirst
			} else {
				continue
			}
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

func (r *runner) ready(running Running) error {
	ctx, cancel, ok := r.whileOn(readyPatience)
	defer cancel()
	if !ok {
		return context.Canceled
	}
	return running.Ready(ctx)
}

// stop ends what runs. A listener may take its time, and nobody starts the group again before it has returned.
func (r *runner) stop(running Running) {
	r.say(metadata.ShadowStopping, nil)
	if err := running.Close(r.life); err != nil {
		_ = running.Close(context.Background()) // it was told to give up; its listeners still have to return
	}
	r.say(metadata.ShadowStopped, nil)
}
