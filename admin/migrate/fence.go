package migrate

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"go.uber.org/zap"

	"github.com/turnout-mq/turnout/admin/store"
	"github.com/turnout-mq/turnout/internal/clusters"
	"github.com/turnout-mq/turnout/internal/errs"
)

// wantFence is the row that says that a topic is to be closed on a cluster. It has what reopening needs, as it was before
// anybody closed it.
func (c *Controller) wantFence(ctx context.Context, conn *clusters.Conn, topic, physical string) ([]store.Fence, error) {
	now := time.Now().UTC()
	row := store.Fence{Cluster: conn.Name, Physical: physical, Topic: topic, Wanted: true, Since: now}
	old, err := c.db.FenceOf(ctx, conn.Name, physical)
	switch {
	case err == nil && old.Wanted:
		row.Restore, row.Since = old.Restore, old.Since
		return []store.Fence{row}, nil
	case err != nil && !errors.Is(err, errs.ErrNotFound):
		return nil, err
	}
	info, err := conn.DescribeTopic(ctx, physical)
	switch {
	case errors.Is(err, errs.ErrUnknownTopic):
		return nil, nil
	case err != nil:
		return nil, err
	case info.Fenced && old != nil: // closed late by somebody who was deposed: what to put back is what was put back last
		row.Restore = old.Restore
	default:
		row.Restore = info.Restore
	}
	return []store.Fence{row}, nil
}

// shut closes a topic and sees that every leader acts on it (R7). ErrConflict: one does not yet, or transactions are open.
func (c *Controller) shut(ctx context.Context, conn *clusters.Conn, physical string) error {
	if err := decided(ctx, conn, physical); err != nil {
		return err
	}
	if err := conn.Fence(ctx, physical); err != nil || c.opt.Off["R7"] {
		return err
	}
	if err := conn.Fenced(ctx, physical); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), callLimit) // it is not left closed before that was looked at
	defer cancel()
	undecided := decided(ctx, conn, physical)
	if !errors.Is(undecided, errs.ErrConflict) {
		return undecided
	}
	row, err := c.db.FenceOf(ctx, conn.Name, physical)
	if err != nil {
		return errors.Join(undecided, err)
	}
	return errors.Join(undecided, conn.Unfence(ctx, physical, row.Restore))
}

// open lets writers in again, and sees that every leader does (R9). That it is to be open is stored before, and stays so for
// a while: what somebody who was deposed does late is undone (R8). keep stores it, and fails if whoever decided to open has
// been deposed since.
func (c *Controller) open(ctx context.Context, topic, cluster, physical string, keep func(*store.Fence) error) (changed bool, err error) {
	err = c.on(ctx, cluster, func(conn *clusters.Conn) error {
		info, err := conn.DescribeTopic(ctx, physical)
		if err != nil {
			return err
		}
		row, err := c.db.FenceOf(ctx, cluster, physical)
		switch {
		case errors.Is(err, errs.ErrNotFound) && !info.Fenced:
			return nil
		case errors.Is(err, errs.ErrNotFound):
			row = &store.Fence{Cluster: cluster, Physical: physical, Topic: topic, Restore: info.Restore, Wanted: true}
		case err != nil:
			return err
		}
		if row.Wanted {
			reopen(row, c.now())
			if err := keep(row); err != nil {
				return err
			}
		} else if !info.Fenced && len(info.Closed) == 0 {
			return nil
		}
		changed = true
		return conn.Unfence(ctx, physical, row.Restore)
	})
	return changed, err
}

// reopen makes row say that writers are to be let in.
func reopen(row *store.Fence, now time.Time) {
	now = now.UTC()
	until := now.Add(openFor)
	row.Wanted, row.Since, row.Until, row.SeenAt, row.Error = false, now, &until, nil, ""
}

// assert compares what is wanted of one topic on one cluster with what the cluster does, and puts it right (R8). said is
// what had to be put right; "": nothing.
func (c *Controller) assert(ctx context.Context, row *store.Fence) (said string, err error) {
	if !row.Wanted && row.Until != nil && c.now().After(*row.Until) || c.opt.Off["R8"] {
		return "", nil
	}
	err = c.on(ctx, row.Cluster, func(conn *clusters.Conn) error {
		info, err := conn.DescribeTopic(ctx, row.Physical)
		switch {
		case errors.Is(err, errs.ErrUnknownTopic):
			return nil // deleted; a late writer would have to make it anew
		case err != nil:
			return err
		case info.Fenced == row.Wanted && (row.Wanted || len(info.Closed) == 0):
			return nil
		case row.Wanted:
			said = fmt.Sprintf("%s on %s was open to writers again; closed", row.Physical, row.Cluster)
			return c.shut(ctx, conn, row.Physical)
		default:
			said = fmt.Sprintf("%s on %s was closed to writers again; opened", row.Physical, row.Cluster)
			return conn.Unfence(ctx, row.Physical, row.Restore)
		}
	})
	if said != "" {
		c.log.Warn("fence put right", zap.String("what", said), zap.Error(err))
	}
	return said, err
}

// open lets writers in on one cluster of the migration.
func (w *walk) open(ctx context.Context, cluster, physical string) (changed bool, err error) {
	return w.c.open(ctx, w.m.Topic, cluster, physical, func(row *store.Fence) error {
		row.Migration = ""
		return w.save(ctx, store.Changes{Fences: []store.Fence{*row}})
	})
}

// assertFences puts right what is wanted of the migration's topic anywhere.
func (w *walk) assertFences(ctx context.Context) error {
	s := w.m.state()
	dead := w.m.data.dead()
	if s == Holding || s == Fencing || s != Pending && len(dead) > 0 || w.c.now().Sub(w.c.assertedAt(w.m.ID)) < assertEvery {
		return nil
	}
	rows, err := w.c.db.Fences(ctx)
	if err != nil {
		return err
	}
	var events []store.Event
	var failed error
	for i := range rows {
		if rows[i].Topic != w.m.Topic || slices.Contains(dead, rows[i].Cluster) {
			continue
		}
		if src := w.m.data.source(rows[i].Cluster); src != nil && (src.Lost != nil || src.Sealed == nil && rows[i].Wanted) {
			continue // not asked again, or sealing closes it, as soon as it may
		}
		ours := rows[i].Cluster == w.m.data.Target.Cluster || w.m.data.source(rows[i].Cluster) != nil
		limit := stepLimit
		if !ours || s == Canarying || s == Switching {
			limit = answerLimit
		}
		asserting, cancel := context.WithTimeout(ctx, limit)
		said, err := w.c.assert(asserting, &rows[i])
		cancel()
		if err != nil && !ours {
			w.log.Warn("the fence of a cluster that was left can not be looked at", zap.String("cluster", rows[i].Cluster), zap.Error(err))
			continue // it may be switched off by now
		}
		if err != nil && (s == Canarying || s == Switching) {
			continue // it opens anyhow what sends need, and no send waits for another cluster
		}
		if src := w.m.data.source(rows[i].Cluster); err != nil && s == Closing && src != nil && len(src.Sleeping) > 0 {
			w.log.Warn("the fence of a cluster that waits for a group can not be looked at", zap.String("cluster", rows[i].Cluster), zap.Error(err))
			continue // the group may sleep for long
		}
		if errors.Is(err, errs.ErrConflict) { // somebody has opened it, and a transaction there: closed when that has ended
			w.log.Warn("a cluster that was closed can not be closed again yet", zap.String("cluster", rows[i].Cluster), zap.Error(err))
			continue
		}
		if err != nil {
			failed = errors.Join(failed, err) // the other clusters are no worse for it
			continue
		}
		if said != "" {
			events = append(events, event("fence", map[string]any{"cluster": rows[i].Cluster}, "%s", said))
		}
	}
	if len(events) > 0 {
		failed = errors.Join(failed, w.save(ctx, store.Changes{Events: events}))
	}
	if failed == nil {
		w.c.noteAsserted(w.m.ID)
	}
	return failed
}

func (c *Controller) assertedAt(id string) time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.asserted[id]
}

func (c *Controller) noteAsserted(id string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.asserted[id] = c.now()
}

// openTarget lets writers in on the target.
func (w *walk) openTarget(ctx context.Context) error {
	t := &w.m.data.Target
	row, err := w.c.db.FenceOf(ctx, t.Cluster, t.Physical)
	if err != nil && !errors.Is(err, errs.ErrNotFound) {
		return err
	}
	if err == nil && row.Wanted && !t.WasFenced {
		t.WasFenced = true
		if err := w.save(ctx, store.Changes{}); err != nil {
			return err
		}
	}
	changed, err := w.open(ctx, t.Cluster, t.Physical)
	if changed && err == nil {
		w.log.Info("opened to writers", zap.String("cluster", t.Cluster))
	}
	return err
}
