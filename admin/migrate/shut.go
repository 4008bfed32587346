package migrate

import (
	"context"
	"errors"
	"fmt"

	"github.com/turnout-mq/turnout/admin/store"
	"github.com/turnout-mq/turnout/internal/clusters"
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
func (s *source) toShut() bool { return s.Sealed == nil && len(s.Sleeping) == 0 }

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
		came, waitFor, err := w.shutSource(ctx, src)
		if waitFor != "" || err != nil {
			return waitFor, err
		}
		if came > 0 {
			return "", w.enter(ctx, Draining, fmt.Sprintf("%d messages were written to %s after it had been read to the end; they are read first", came, src.Cluster))
		}
	}
	return "", w.enter(ctx, Closing, "nothing was written since")
}

// shutSource closes a drained source, and opens it again if messages have come: how many.
func (w *walk) shutSource(ctx context.Context, src *source) (came int64, waitFor string, err error) {
	if err := w.toClose(ctx, src); err != nil {
		return 0, "", err
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
		due, err := w.delayed(ctx, c, src)
		if err != nil {
			return err
		}
		seal, err := w.c.steadyEnds(ctx, c, src.Physical, src.Final) // in the direction in which messages move (R14)
		if err != nil {
			return err
		}
		if came = src.Final.Missing(seal) + due; came == 0 || w.c.opt.Off["R11"] {
			came = 0
			w.sealed(src, seal, missing)
			return w.save(ctx, store.Changes{})
		}
		return w.reopen(ctx, c, src)
	})
	return came, waitFor, err
}

// delayed counts what a broker will still store behind the fence, because it has taken it before (R14).
func (w *walk) delayed(ctx context.Context, c *clusters.Conn, src *source) (n int64, err error) {
	groups, err := w.c.meta.Readers(ctx, w.m.Topic)
	if err != nil {
		return 0, err
	}
	for _, g := range groups {
		pending, err := c.Pending(ctx, g.Physical(w.m.Topic), src.Physical)
		if err != nil && !errors.Is(err, errs.ErrUnknownTopic) {
			return 0, err
		}
		n = max(n, pending.Delayed)
	}
	return n, nil
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
