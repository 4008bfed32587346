package migrate

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"go.uber.org/zap"

	"github.com/turnout-mq/turnout/admin/store"
	"github.com/turnout-mq/turnout/broker"
	"github.com/turnout-mq/turnout/internal/count"
	"github.com/turnout-mq/turnout/internal/errs"
)

// keep stores how far a step has come that has failed since, also when its ctx has ended.
func (w *walk) keep(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), callLimit)
	defer cancel()
	return w.save(ctx, store.Changes{})
}

// enter stores the next state with the fences that it wants.
func (w *walk) enter(ctx context.Context, to State, why string, fences ...store.Fence) error {
	if !Allowed(w.m.state(), to) {
		return fmt.Errorf("%w: migration %s can not go from %s to %s", errs.ErrConflict, w.m.ID, w.m.State, to)
	}
	from := w.m.state()
	now := w.c.now().UTC()
	w.leave(to)
	w.m.State = string(to)
	w.m.Waiting = ""
	d := &w.m.data
	took := now.Sub(d.Entered)
	d.Entered, d.Acks, d.Seen = now, nil, nil
	w.m.over(to, why, now)
	if err := w.save(ctx, store.Changes{Fences: fences, Events: []store.Event{event("state", map[string]any{"from": from, "to": to, "after": took.String()}, "%s: %s", to, why)}}); err != nil {
		return err
	}
	w.c.entered(ctx, w.m.Migration, now)
	return nil
}

// end stores the outcome with the receipt.
func (w *walk) end(ctx context.Context, outcome store.Outcome) error {
	now := time.Now().UTC()
	from := w.m.state()
	w.leave(Done)
	w.m.State, w.m.Outcome, w.m.EndedAt, w.m.Waiting = string(Done), outcome, &now, ""
	d := &w.m.data
	took := now.Sub(d.Entered)
	d.Entered, d.Acks, d.Seen = now, nil, nil
	if groups, err := w.c.meta.Readers(ctx, w.m.Topic); err == nil {
		w.now.groups = groups
	}
	receipt, err := w.receipt(ctx, now)
	if err != nil {
		return err
	}
	w.log.Info("migration ended", zap.String("outcome", string(outcome)))
	return w.save(ctx, store.Changes{Receipt: receipt, Events: []store.Event{event("state", map[string]any{"from": from, "to": Done, "after": took.String(), "outcome": outcome}, "ended: %s", outcome)}})
}

// save stores the row and the changes, if nobody else has written the row meanwhile.
func (w *walk) save(ctx context.Context, ch store.Changes) error {
	if err := w.m.encode(); err != nil {
		return err
	}
	ch.Events = append(w.later, ch.Events...)
	var err error
	if ch.Notices, err = w.notices(); err != nil {
		return err
	}
	err = w.c.db.Update(ctx, w.m.Migration, ch)
	if err == nil {
		w.later, w.told = nil, nil
		w.c.Kick()
	}
	return err
}

// waiting stores for people what is waited for.
func (w *walk) waiting(ctx context.Context, text string) error {
	if w.m.Waiting == text {
		return nil
	}
	w.m.Waiting = text
	if err := w.m.encode(); err != nil {
		return err
	}
	return w.c.db.Update(ctx, w.m.Migration, store.Changes{})
}

// event makes a line of the history.
func event(kind string, data map[string]any, text string, args ...any) store.Event {
	e := store.Event{Kind: kind, Text: fmt.Sprintf(text, args...)}
	if data != nil {
		if raw, err := json.Marshal(data); err == nil {
			e.Data = raw
		}
	}
	return e
}

// brief writes offsets for people.
func brief(o broker.Offsets) string {
	var parts []string
	for i, name := range o.Names() {
		if i == 8 {
			parts = append(parts, "… "+count.Of(len(o), "partition", "partitions"))
			break
		}
		parts = append(parts, fmt.Sprintf("%s: %d", name, o[name]))
	}
	return strings.Join(parts, ", ")
}
