package stress

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/turnout-mq/turnout/admin/requests"
	"github.com/turnout-mq/turnout/admin/store"
	"github.com/turnout-mq/turnout/internal/count"
	"github.com/turnout-mq/turnout/internal/errs"
)

// window is the time in which errors are counted.
const window = time.Minute

// guardsAtOnce bounds how many guards of a task look at the same time.
const guardsAtOnce = 8

// firstLooks are those before a run. ErrConflict: a guard trips already, or can not look.
func (s *Service) firstLooks(ctx context.Context, spec requests.StressSpec) ([]store.StressLook, error) {
	looks := s.look(ctx, spec, nil, time.Now())
	var bad []error
	for i, l := range looks {
		if why := tripped(spec, spec.Guards[i], l, time.Now()); why != "" {
			bad = append(bad, errors.New(why))
		} else if l.Error != "" {
			bad = append(bad, fmt.Errorf("guard of group %s can not look: %s", l.Group, l.Error))
		}
	}
	if bad != nil {
		return nil, fmt.Errorf("%w: %w", errs.ErrConflict, errors.Join(bad...))
	}
	return looks, ctx.Err()
}

// look lets all guards of a spec look, each after the look before it.
func (s *Service) look(ctx context.Context, spec requests.StressSpec, before []store.StressLook, now time.Time) []store.StressLook {
	looks := make([]store.StressLook, len(spec.Guards))
	var all errgroup.Group
	all.SetLimit(guardsAtOnce)
	for i, g := range spec.Guards {
		var last store.StressLook
		for _, b := range before {
			if b.Group == g.Group {
				last = b
			}
		}
		all.Go(func() error {
			looks[i] = s.lookAt(ctx, g.Group, last, now)
			return nil
		})
	}
	_ = all.Wait() // none fails
	return looks
}

// lookAt is one look of a guard.
func (s *Service) lookAt(ctx context.Context, group string, last store.StressLook, now time.Time) store.StressLook {
	l := last
	l.Group, l.Error = group, ""
	ctx, cancel := context.WithTimeout(ctx, s.cfg.Limit)
	defer cancel()
	g, err := s.cfg.Fleet.LookAt(ctx, group)
	switch {
	case err != nil:
		l.Error = err.Error()
		return l
	case g.Error != "":
		l.Error = g.Error
		return l
	}
	l.At, l.Unread, l.Retries, l.DeadLetters = &now, g.Unread, g.Retries, g.DeadLetters
	l.Samples, l.Errors = counted(last.Samples, store.StressSample{At: now, Retries: g.Retries, DeadLetters: g.DeadLetters})
	return l
}

// counted adds a sample and counts what has come within the window: from the last sample before it, or the first there is.
func counted(samples []store.StressSample, now store.StressSample) (kept []store.StressSample, errors int64) {
	for i, s := range samples {
		if i+1 < len(samples) && !samples[i+1].At.After(now.At.Add(-window)) {
			continue // the next one is old enough
		}
		kept = append(kept, s)
	}
	kept = append(kept, now)
	for i, s := range kept[1:] {
		// What went was handled, or deleted: it does not make up for what came.
		errors += max(0, s.DeadLetters-kept[i].DeadLetters) + max(0, s.Retries-kept[i].Retries)
	}
	return kept, errors
}

// tripped says why a guard has tripped; "": it has not.
func tripped(spec requests.StressSpec, g requests.StressGuardSpec, l store.StressLook, now time.Time) string {
	blind := time.Duration(spec.BlindSeconds) * time.Second
	if blind == 0 {
		blind = requests.StressBlindSeconds * time.Second
	}
	switch {
	case l.Error != "" && l.At != nil && now.Sub(*l.At) >= blind:
		return fmt.Sprintf("guard of group %s: it could not look since %s: %s", g.Group, l.At.UTC().Format(time.RFC3339), l.Error)
	case l.Error != "":
		return ""
	case g.MaxUnread != nil && l.Unread > *g.MaxUnread:
		return fmt.Sprintf("guard of group %s: %s unread, and at most %d may be", g.Group, count.Of(l.Unread, "message is", "messages are"), *g.MaxUnread)
	case g.MaxErrors != nil && l.Errors > *g.MaxErrors:
		return fmt.Sprintf("guard of group %s: %d dead letters and retries have come within a minute, and at most %d may", g.Group, l.Errors, *g.MaxErrors)
	}
	return ""
}
