package migrate

import (
	"context"
	"errors"
	"fmt"

	"github.com/turnout-mq/turnout/admin/store"
	"github.com/turnout-mq/turnout/internal/clusters"
	"github.com/turnout-mq/turnout/internal/count"
	"github.com/turnout-mq/turnout/internal/errs"
)

// fencedEarly says whether a cluster can refuse writers while it is still read; else it is closed when everything there was
// read (R11).
func (c *Controller) fencedEarly(ctx context.Context, cluster string) (early bool, err error) {
	err = c.on(ctx, cluster, func(conn *clusters.Conn) error {
		early = conn.Features().Fence
		return nil
	})
	return early, err
}

// toShut says whether a source that was drained still has to be closed. One that a sleeping group has to read stays open; its
// open stay is settled when that group has woken.
func (s *source) toShut() bool { return s.Sealed == nil && s.Lost == nil && len(s.Sleeping) == 0 }

// shutting: the sources that could not be closed while they were read are closed, and nothing has come since everybody had
// read everything (R11). What has come is read first: the source is opened again, before clients take their queues for gone.
func (w *walk) shutting(ctx context.Context) (string, error) {
	if waitFor, err := w.publish(ctx); waitFor != "" || err != nil {
		return waitFor, err
	}
	for i := range w.m.data.Sources {
		src := &w.m.data.Sources[i]
		if !src.toShut() {
			continue
		}
		if src.Final == nil { // opened again by a controller that got no further
			return "", w.enter(ctx, Draining, src.Cluster+" is read on")
		}
		unread, waitFor, err := w.shutSource(ctx, src)
		if waitFor != "" || err != nil {
			return waitFor, err
		}
		if unread != "" {
			return "", w.enter(ctx, Draining, unread+"; that is read first")
		}
	}
	return "", w.enter(ctx, Closing, "nothing was written since")
}

// shutSource closes a drained source, and opens it again if not everything there was read: unread says what.
func (w *walk) shutSource(ctx context.Context, src *source) (unread, waitFor string, err error) {
	if err := w.toClose(ctx, src); err != nil {
		return "", "", err
	}
	err = w.c.on(ctx, src.Cluster, func(c *clusters.Conn) error {
		missing, err := w.closed(ctx, c, src)
		if errors.Is(err, errs.ErrConflict) {
			waitFor = fmt.Sprintf("%s can not be closed to writers yet: %v", src.Cluster, err)
			return nil
		}
		if err != nil {
			return err
		}
		due, stranger, err := w.behind(ctx, c, src)
		if err != nil {
			return err
		}
		if _, err := ends(ctx, c, src.Physical, src.Final); err != nil { // only now every broker is known to be there
			return err
		}
		if _, err := w.closed(ctx, c, src); err != nil {
			return err
		}
		seal, err := w.c.steadyEnds(ctx, c, src.Physical, src.Final) // in the direction in which messages move (R14)
		if err != nil {
			return err
		}
		came := src.Final.Missing(seal) + due
		switch {
		case w.c.opt.Off["R11"], came == 0 && stranger == "":
			w.sealed(src, seal, missing)
			if w.m.state() == Fencing {
				return nil // stored with the next state; whoever takes over before that looks again
			}
			return w.save(ctx, store.Changes{})
		case came > 0:
			unread = fmt.Sprintf("%s written to %s after it had been read to the end", count.Of(came, "message was", "messages were"), src.Cluster)
		default:
			unread = fmt.Sprintf("group %s began to read the topic when %s had been read to the end", stranger, src.Cluster)
		}
		return w.reopen(ctx, c, src)
	})
	return unread, waitFor, err
}

// behind counts what a broker will still store behind the fence, because it has taken it before (R14), and names a group that
// was not asked whether it has read everything (R13).
func (w *walk) behind(ctx context.Context, c *clusters.Conn, src *source) (due int64, stranger string, err error) {
	groups, err := w.c.meta.Readers(ctx, w.m.Topic)
	if err != nil {
		return 0, "", err
	}
	for _, g := range groups {
		if _, asked := src.Groups[g.Name]; !asked {
			stranger = g.Name
		}
		pending, err := c.Pending(ctx, g.Physical(w.m.Topic), src.Physical)
		if err != nil && !errors.Is(err, errs.ErrUnknownTopic) {
			return 0, "", err
		}
		due = max(due, pending.Delayed)
	}
	return due, stranger, nil
}

// reopen lets readers, and with them writers, in on a source again. That is stored first (R8).
func (w *walk) reopen(ctx context.Context, c *clusters.Conn, src *source) error {
	row, err := w.c.db.FenceOf(ctx, src.Cluster, src.Physical)
	if err != nil {
		return err
	}
	reopen(row, w.c.now())
	row.Migration = "" // becomes this one
	src.Intended, src.Drained, src.Final, src.Groups = false, nil, nil, nil
	if err := w.save(ctx, store.Changes{Fences: []store.Fence{*row}}); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), callLimit) // nobody does it later
	defer cancel()
	return c.Unfence(ctx, src.Physical, row.Restore)
}

// readable runs f while a topic can be read. A fence that hides what lies behind it is taken away for that time and put back
// whatever becomes of f; what is written meanwhile the next look finds.
func (c *Controller) readable(ctx context.Context, conn *clusters.Conn, physical string, f func() error) (err error) {
	if conn.Features().Fence {
		return f()
	}
	info, err := conn.DescribeTopic(ctx, physical)
	if err != nil {
		return err
	}
	if !info.Fenced {
		return f()
	}
	row, err := c.db.FenceOf(ctx, conn.Name, physical)
	if err != nil {
		return err
	}
	defer func() {
		closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), callLimit)
		defer cancel()
		err = errors.Join(err, c.shut(closing, conn, physical))
	}()
	if err := conn.Unfence(ctx, physical, row.Restore); err != nil {
		return err
	}
	return f()
}
