package stress

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/turnout-mq/turnout/admin/coord"
	"github.com/turnout-mq/turnout/admin/requests"
	"github.com/turnout-mq/turnout/admin/store"
	"github.com/turnout-mq/turnout/internal/errs"
	"github.com/turnout-mq/turnout/metadata"
)

// active are the states in which a task is looked after.
var active = []store.StressState{store.StressStarting, store.StressRunning, store.StressStopping, store.StressRemoving}

// betweenTerms is after a term as leader that has failed.
const betweenTerms = time.Second

// Run looks after the tasks while this server leads the job, until ctx ends; it then returns its error. Also ErrNotAllowed (ZooKeeper)
// and ErrClosed. Every server runs it.
func (s *Service) Run(ctx context.Context) error {
	ctx = store.WithActor(ctx, store.Actor{Name: store.System, Via: "server " + s.cfg.ID})
	return s.job.Campaign(ctx, betweenTerms, s.watch)
}

// watch is one term.
func (s *Service) watch(ctx context.Context, _ *coord.Held) error {
	var all sync.WaitGroup
	defer all.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var mu sync.Mutex
	watched := map[string]bool{}
	for {
		wake := s.kicked()
		tasks, err := s.db.StressTasks(ctx, store.StressFilter{States: active})
		if err != nil && ctx.Err() == nil {
			s.log.Warn("tasks can not be looked for, trying again", zap.Error(err))
		}
		for _, t := range tasks {
			mu.Lock()
			fresh := !watched[t.ID]
			watched[t.ID] = true
			mu.Unlock()
			if !fresh {
				continue
			}
			all.Go(func() {
				s.lookAfter(ctx, t.ID)
				mu.Lock()
				defer mu.Unlock()
				delete(watched, t.ID)
			})
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-wake:
		case <-time.After(s.cfg.Every):
		}
	}
}

// lookAfter takes a task on until it is in a state in which it waits for people.
func (s *Service) lookAfter(ctx context.Context, id string) {
	var guarded time.Time // when the guards looked last
	for ctx.Err() == nil {
		t, err := s.db.StressTask(ctx, id)
		pause := s.cfg.Every
		switch {
		case err != nil:
		case t.State == store.StressRunning:
			err = s.inspect(ctx, t, &guarded)
			if pause = min(pause, max(0, time.Until(*t.EndsAt))); t.State != store.StressRunning && err == nil {
				pause = 0 // it has just been decided that it ends
			}
		case t.State == store.StressStarting, t.State == store.StressStopping, t.State == store.StressRemoving:
			if err = s.advance(ctx, id); err == nil {
				pause = 0
			}
		default:
			return
		}
		if err != nil && ctx.Err() == nil && !errors.Is(err, errWaits) {
			s.log.Warn("a stress task is tried again", zap.String("task", id), zap.Error(err))
			pause = s.cfg.Every
		}
		select {
		case <-ctx.Done():
		case <-time.After(pause):
		}
	}
}

// inspect looks at a task that runs, and ends its run where there is a reason.
func (s *Service) inspect(ctx context.Context, t *store.StressTask, guarded *time.Time) error {
	if !time.Now().Before(*t.EndsAt) {
		return unlessChanged(s.endAtLimit(ctx, t))
	}
	unseen := s.inspectFlags(ctx, t)
	if t.State != store.StressRunning || time.Since(*guarded) < s.cfg.GuardEvery {
		return unseen
	}
	*guarded = time.Now()
	spec, err := requests.ParseStress(t.Spec)
	if err != nil || len(spec.Guards) == 0 {
		return errors.Join(unseen, err)
	}
	looking, cancel := context.WithDeadline(ctx, *t.EndsAt)
	defer cancel()
	t.Looks = s.look(looking, spec, t.Looks, time.Now())
	for i, g := range spec.Guards {
		if why := tripped(spec, g, t.Looks[i], time.Now()); why != "" {
			return errors.Join(unseen, unlessChanged(s.end(ctx, t, why)))
		}
	}
	return errors.Join(unseen, s.db.PutStressLooks(ctx, t.ID, t.Runs, t.Looks))
}

// inspectFlags notes which flags somebody has switched by hand. When none is on any more, the run has ended.
func (s *Service) inspectFlags(ctx context.Context, t *store.StressTask) error {
	var events []store.StressEvent
	on := false
	for i := range t.Flags {
		f := &t.Flags[i]
		n, err := s.flag(ctx, t, *f)
		if err != nil {
			return fmt.Errorf("its flags can not be read: %w", err)
		}
		if is := metadata.ParseShadowFlag(n.Data).Enabled; is != f.Enabled {
			events = append(events, edited(n.Path, n))
			f.Enabled, f.Change = is, changeOf(n)
		}
		on = on || f.Enabled
	}
	switch {
	case !on:
		return unlessChanged(s.end(ctx, t, endedByHand, events...))
	case len(events) > 0:
		return unlessChanged(s.db.UpdateStressTask(ctx, t, store.StressChanges{Events: events}))
	}
	return nil
}

// unlessChanged is nil for a change that came too late: what there is now is looked at next.
func unlessChanged(err error) error {
	if errors.Is(err, errs.ErrConflict) {
		return nil
	}
	return err
}
