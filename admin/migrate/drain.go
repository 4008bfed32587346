package migrate

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"time"

	"github.com/turnout-mq/turnout/broker"
	"github.com/turnout-mq/turnout/internal/clusters"
	"github.com/turnout-mq/turnout/internal/count"
	"github.com/turnout-mq/turnout/internal/errs"
	"github.com/turnout-mq/turnout/internal/lag"
)

// draining: every group but the accepted sleepers comes to the end of every source (R10, R13, R14).
func (w *walk) draining(ctx context.Context) (string, error) {
	if waitFor, err := w.publish(ctx); waitFor != "" || err != nil {
		return waitFor, err
	}
	var missing []string
	var err error
	if w.now.groups, err = w.c.meta.Readers(ctx, w.m.Topic); err != nil { // anew, each time (R13)
		return "", err
	}
	for i := range w.m.data.Sources {
		texts, err := w.drainSource(ctx, &w.m.data.Sources[i])
		if err != nil {
			return "", err
		}
		missing = append(missing, texts...)
	}
	if len(missing) > 0 {
		return some(missing), nil
	}
	next := Closing
	for i := range w.m.data.Sources {
		if w.m.data.Sources[i].toShut() {
			next = Shutting
		}
	}
	return "", w.enter(ctx, next, "every group has read everything")
}

// drainSource asks anew which groups there are, and what each has left.
func (w *walk) drainSource(ctx context.Context, src *source) (missing []string, err error) {
	if src.Lost != nil {
		return nil, nil
	}
	groups, final := map[string]broker.Offsets{}, broker.Offsets(nil)
	expired := map[string]int64{}
	var sleeping []string
	late := false
	err = w.c.on(ctx, src.Cluster, func(c *clusters.Conn) error {
		if !c.Features().Fence { // a broker that is down is in no route, and who never saw it there would not miss it
			if _, err := ends(ctx, c, src.Physical, src.Since); err != nil {
				return err
			}
		}
		known := map[string]bool{}
		for _, g := range w.now.groups {
			physical := g.Physical(w.m.Topic)
			known[physical] = true
			l, err := w.lag(ctx, c, src, physical, g.StartOn(w.now.Route, w.m.Topic, src.Cluster))
			if err != nil {
				return err
			}
			if l.Expired > 0 {
				expired[g.Name] = l.Expired
			}
			switch {
			case l.Finished(nil):
				groups[g.Name] = l.Positions
				if final == nil { // what comes after the first look is not read by everybody
					final = l.Ends
				}
			case src.Seal != nil && l.Finished(src.Seal):
				// What follows was written late, and members leave at the seal: it is sent on (R18).
				groups[g.Name], late = l.Positions, true
			case w.m.plan.asleep(g.Name) && !w.now.live(g.Name):
				sleeping = append(sleeping, g.Name)
			default:
				text := fmt.Sprintf("group %s has %s left on %s", g.Name, describe(l), src.Cluster)
				switch {
				case g.Paused:
					text += ", and it is paused in its settings"
				case !w.now.live(g.Name):
					text += " and nobody who reads them; start it, or: turnout migrate resume " + w.m.ID + " --accept " + SleepingGroups
				default:
					text += w.untold(ctx, c, src, l)
				}
				missing = append(missing, text)
			}
		}
		others, err := c.Groups(ctx, src.Physical)
		if err != nil && !errors.Is(err, errs.ErrUnknownTopic) && !errors.Is(err, errs.ErrUnsupported) {
			return err
		}
		for _, physical := range others {
			if known[physical] || w.m.plan.accepts(ForeignGroups) {
				continue
			}
			l, err := w.lag(ctx, c, src, physical, broker.Offsets{})
			if err != nil {
				return err
			}
			if !l.Finished(nil) {
				missing = append(missing, fmt.Sprintf("group %s, which is not in the metadata, has %s left on %s; or: turnout migrate resume %s --accept %s", physical, describe(l), src.Cluster, w.m.ID, ForeignGroups))
			}
		}
		switch {
		case src.Seal != nil && (late || len(sleeping) > 0): // who wakes reads up to there, too
			final = src.Seal.Clone()
		case final == nil:
			final, err = ends(ctx, c, src.Physical, src.Seal)
		}
		return err
	})
	if err != nil || len(missing) > 0 {
		return missing, err
	}
	now := time.Now().UTC()
	if src.Drained != nil && maps.Equal(src.Final, final) { // and nothing has come since
		now = *src.Drained
	}
	src.Groups, src.Sleeping, src.Drained, src.Final, src.Expired = groups, sleeping, &now, final, expired
	return nil, nil
}

func (w *walk) lag(ctx context.Context, c *clusters.Conn, src *source, group string, start broker.Offsets) (*lag.Lag, error) {
	key := src.Cluster + "\x00" + group
	var early broker.Pending
	if w.c.opt.Off["R14"] {
		early, _ = c.Pending(ctx, group, src.Physical)
	}
	l, err := lag.Of(ctx, c, src.Physical, group, start, w.lags[key])
	if err == nil {
		w.lags[key] = l
	}
	if err == nil && w.c.opt.Off["R14"] {
		l.Pending = early
	}
	return l, err
}

func describe(l *lag.Lag) string {
	if n := l.Beside(); n > 0 {
		return fmt.Sprintf("%s and %d to be repeated", count.Of(l.Unread, "message", "messages"), n)
	}
	return count.Of(l.Unread, "message", "messages")
}
