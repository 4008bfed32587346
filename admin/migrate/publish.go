package migrate

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"go.uber.org/zap"

	"github.com/turnout-mq/turnout/admin/store"
	"github.com/turnout-mq/turnout/internal/clusters"
	"github.com/turnout-mq/turnout/internal/count"
	"github.com/turnout-mq/turnout/metadata"
)

// publish sees that the route is the wanted one and that every participant has applied it.
func (w *walk) publish(ctx context.Context) (waitFor string, err error) {
	next := w.m.wanted(*w.now.Route)
	var also []metadata.Op
	if w.m.state() == Closing && !w.m.data.GoBack && w.now.badWish == nil && w.now.Wish.Cluster != next.Write && metadata.Answered(w.now.Route, w.now.WishNode) {
		// Only now: a process that hears of the wish before it hears of the route completes it, and that opens the sources
		// again, which would take the order from a topic that still has them to read.
		wish := w.now.Wish
		wish.Cluster = next.Write
		data, err := json.Marshal(wish)
		if err != nil {
			return "", err
		}
		also = append(also, metadata.SetOp(w.c.meta.TopicPath(w.m.Topic), data, w.now.WishNode.Version))
		next.Wish = metadata.WishRef{Czxid: w.now.WishNode.Czxid, Version: w.now.WishNode.Version + 1}
	}
	if !same(next, *w.now.Route) {
		data, err := json.Marshal(next)
		if err != nil {
			return "", err
		}
		if err := next.Validate(); err != nil {
			return "", err
		}
		also = append(also, metadata.SetOp(w.c.meta.RoutePath(w.m.Topic), data, w.c.version(w.now.RouteNode)))
		if err := w.c.write(ctx, also...); err != nil {
			return "", err
		}
		w.log.Info("route written", zap.String("state", w.m.State), zap.String("write", next.Write), zap.Strings("warm", next.Warm), zap.Int("stays", len(next.Stays)))
		if w.now, err = w.c.look(ctx, w.m.Topic); err != nil {
			return "", err
		}
	}
	awaited := w.now.awaited()
	if err := w.noteAcks(ctx, len(awaited) == 0); err != nil {
		return "", err
	}
	if len(awaited) > 0 {
		return fmt.Sprintf("%d of %s to apply the route: %s", len(awaited), count.Of(len(w.now.participants), "participant has", "participants have"), some(awaited)), nil
	}
	return "", nil
}

// same says whether two routes say the same.
func same(a, b metadata.Route) bool {
	x, errx := json.Marshal(a)
	y, erry := json.Marshal(b)
	return errx == nil && erry == nil && string(x) == string(y)
}

// noteAcks records who has acknowledged, and who has gone without.
func (w *walk) noteAcks(ctx context.Context, all bool) error {
	d := &w.m.data
	now := time.Now().UTC()
	var events []store.Event
	here := map[string]bool{}
	changed := false
	for _, p := range w.now.participants {
		here[p.ID] = true
		if _, seen := d.Seen[p.ID]; !seen {
			d.Seen = put(d.Seen, p.ID, now)
			changed = true
		}
		if _, acked := d.Acks[p.ID]; !acked && p.Err == nil && p.Participant.Zxid >= w.now.RouteNode.Mzxid {
			d.Acks = put(d.Acks, p.ID, now)
			events = append(events, event("acknowledged", map[string]any{"participant": p.ID, "zxid": p.Participant.Zxid}, "%s has applied the route of %s", p.ID, w.m.State))
		}
	}
	for id := range d.Seen {
		if _, acked := d.Acks[id]; !acked && !here[id] {
			delete(d.Seen, id)
			events = append(events, event("vanished", map[string]any{"participant": id}, "%s has gone without having applied the route of %s", id, w.m.State))
		}
	}
	if len(events) == 0 && !changed {
		return nil
	}
	w.later = append(w.later, events...)
	if s := w.m.state(); s == Holding || s == Switching && w.m.ordered() && !all {
		return nil // the books wait, because sends do
	}
	return w.save(ctx, store.Changes{})
}

func put(m map[string]time.Time, key string, at time.Time) map[string]time.Time {
	if m == nil {
		m = map[string]time.Time{}
	}
	m[key] = at
	return m
}

// foreignWriters looks for messages that were not sent with Turnout since the migration began: whoever sends them knows
// of no route.
func (w *walk) foreignWriters(ctx context.Context) (waitFor string, err error) {
	if w.m.plan.accepts(ForeignWriters) {
		return "", nil
	}
	d := &w.m.data
	for i := range d.Sources {
		src := &d.Sources[i]
		if src.Since == nil || src.Lost != nil {
			continue
		}
		err := w.c.on(ctx, src.Cluster, func(c *clusters.Conn) error {
			end, err := ends(ctx, c, src.Physical, src.Since)
			if err != nil {
				return err
			}
			for name, to := range end {
				stranger, err := stranger(ctx, c, src.Physical, name, max(src.Since[name], to-peekMost), to)
				if err != nil {
					return err
				}
				if stranger != nil {
					now := w.c.now().UTC()
					src.Foreign, src.Stranger, src.Since = &now, whose(stranger), end
					return w.save(ctx, store.Changes{})
				}
			}
			return nil
		})
		if err != nil {
			return "", err
		}
		if src.Foreign != nil && w.c.now().Sub(*src.Foreign) < strangerQuiet {
			return fmt.Sprintf("somebody writes to %s without Turnout: %s; move or stop it, or: turnout migrate resume %s --accept %s", src.Cluster, src.Stranger, w.m.ID, ForeignWriters), nil
		}
	}
	return "", nil
}
