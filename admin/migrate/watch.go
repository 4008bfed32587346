package migrate

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/google/uuid"
	"go.uber.org/zap"

	"github.com/turnout-mq/turnout/admin/store"
	"github.com/turnout-mq/turnout/broker"
	"github.com/turnout-mq/turnout/internal/clusters"
	"github.com/turnout-mq/turnout/internal/count"
	"github.com/turnout-mq/turnout/internal/errs"
	"github.com/turnout-mq/turnout/internal/lag"
	"github.com/turnout-mq/turnout/metadata"
)

// edits follows the wishes and routes of all topics.
type edits struct {
	c    *Controller
	list *metadata.Follower

	leaving sync.WaitGroup // followers of topics that are gone

	mu     sync.Mutex
	topics map[string]*edited
	closed bool
}

type edited struct {
	wishes, routes *metadata.Follower
	wish           metadata.Update[metadata.Wish]
	route          metadata.Update[metadata.Route]
}

func (c *Controller) followEdits(ctx context.Context) *edits {
	e := &edits{c: c, topics: map[string]*edited{}}
	e.list = metadata.FollowChildren(c.meta, c.meta.TopicsPath(), func(names []string, err error) {
		if err != nil && !errors.Is(err, errs.ErrNotFound) {
			return // what is known stays; the follower tries again
		}
		e.follow(names)
	})
	return e
}

// follow follows these topics and no others.
func (e *edits) follow(names []string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed {
		return
	}
	var gone []*edited
	for name, t := range e.topics {
		if !slices.Contains(names, name) {
			delete(e.topics, name)
			gone = append(gone, t)
		}
	}
	for _, t := range gone {
		e.leaving.Go(t.close) // it waits for its function, which waits for e.mu
	}
	for _, name := range names {
		if e.topics[name] != nil || !metadata.ValidName(name) {
			continue
		}
		t := &edited{}
		e.topics[name] = t
		t.wishes = metadata.Follow(e.c.meta, e.c.meta.TopicPath(name), metadata.ParseWish, func(u metadata.Update[metadata.Wish]) { e.hear(func() { t.wish = u }) })
		t.routes = metadata.Follow(e.c.meta, e.c.meta.RoutePath(name), metadata.ParseRoute, func(u metadata.Update[metadata.Route]) { e.hear(func() { t.route = u }) })
	}
}

func (e *edits) hear(f func()) {
	e.mu.Lock()
	f()
	e.mu.Unlock()
	e.c.Kick()
}

func (t *edited) close() {
	t.wishes.Close()
	t.routes.Close()
}

func (e *edits) close() {
	e.list.Close()
	e.mu.Lock()
	e.closed = true
	all := slices.Collect(maps.Values(e.topics))
	e.mu.Unlock()
	for _, t := range all {
		t.close()
	}
	e.leaving.Wait()
}

// unsettled are the topics with a wish that nobody has answered, or with an open stay on a cluster that is not written:
// somebody edited by hand. stays are those with more than the stay that is written.
func (e *edits) unsettled() (unsettled, stays []string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for name, t := range e.topics {
		if !t.wish.Known || !t.route.Known || errors.Is(t.route.Err, errs.ErrNotFound) {
			continue // a first route is the participants' to write, and one that was deleted nobody's: its stays are not known here
		}
		route := &t.route.Value
		if !metadata.Answered(route, t.wish.Node) {
			unsettled = append(unsettled, name)
			continue
		}
		if slices.ContainsFunc(route.Stays, func(s metadata.Stay) bool { return s.Open() && s.Cluster != route.Write }) {
			unsettled = append(unsettled, name)
		}
		if len(route.Stays) > 1 {
			stays = append(stays, name)
		}
	}
	slices.Sort(unsettled)
	slices.Sort(stays)
	return unsettled, stays
}

// guard does, while ctx lasts, what belongs to no running migration: hand edits are settled, fences stay in force, what was
// written late is rescued, and stays that sleeping groups held leave the route.
func (c *Controller) guard(ctx context.Context, e *edits) {
	var checked time.Time
	for {
		wake := c.kicked()
		unsettled, stays := e.unsettled()
		for _, topic := range unsettled {
			if err := c.settle(ctx, topic); err != nil && ctx.Err() == nil {
				c.log.Warn("an edit by hand can not be settled yet", zap.String("topic", topic), zap.Error(err))
			}
		}
		if time.Since(checked) >= c.opt.FenceCheck {
			checked = time.Now()
			c.watchFences(ctx)
			for _, topic := range stays {
				if err := c.removeStays(ctx, topic); err != nil && ctx.Err() == nil {
					c.log.Warn("stays can not be looked at", zap.String("topic", topic), zap.Error(err))
				}
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-wake:
		case <-time.After(guardScan):
		}
		if pause(ctx, poll) != nil {
			return
		}
	}
}

// busy says whether a migration of the topic runs.
func (c *Controller) busy(ctx context.Context, topic string) (bool, error) {
	open, err := c.db.Migrations(ctx, store.Filter{Topic: topic, Open: true, Limit: 1})
	return len(open) > 0, err
}

// settle begins a migration that finishes what an edit by hand began (R30): the clusters that the topic has left are
// fenced, sealed and drained.
func (c *Controller) settle(ctx context.Context, topic string) error {
	if busy, err := c.busy(ctx, topic); busy || err != nil {
		return err // it adopts the edit
	}
	ctx, cancel := context.WithTimeout(ctx, callLimit)
	defer cancel()
	now, err := c.look(ctx, topic)
	if err != nil {
		return err
	}
	if now.badWish != nil || now.Route == nil {
		return nil
	}
	if !metadata.Answered(now.Route, now.WishNode) {
		return c.complete(ctx, now)
	}
	route := now.Route
	if !slices.ContainsFunc(route.Stays, func(s metadata.Stay) bool { return s.Open() && s.Cluster != route.Write }) {
		return nil
	}
	d := data{Home: route.Write, Target: target{Cluster: route.Write, Physical: now.Settings.Physical(topic, route.Write), Start: broker.Offsets{}, Listed: true},
		Wish: metadata.WishRef{Czxid: now.WishNode.Czxid, Version: now.WishNode.Version}, Entered: time.Now().UTC()}
	for _, s := range route.Stays {
		if s.Cluster != route.Write && d.source(s.Cluster) == nil {
			d.Sources = append(d.Sources, source{Cluster: s.Cluster, Physical: now.Settings.Physical(topic, s.Cluster)})
		}
	}
	by, err := c.wrote(ctx, topic, d.Wish)
	if err != nil {
		return err
	}
	approved := time.Now().UTC()
	m := &migration{Migration: &store.Migration{Topic: topic, Target: route.Write, Kind: store.Settle, State: string(Switching), StartedBy: by, ApprovedBy: by, ApprovedAt: &approved},
		plan: Plan{Topic: topic, To: route.Write}, data: d}
	text := wishBy(by) + ": what is left on %s is settled"
	if route.Order == metadata.OrderKey {
		m.data.NoOrder = wishBy(by)
		text += "; the order per key is not kept over this (R25)"
	}
	if err := m.encode(); err != nil {
		return err
	}
	var from []string
	for _, s := range d.Sources {
		from = append(from, s.Cluster)
	}
	err = c.db.CreateMigration(ctx, m.Migration, store.Changes{Events: []store.Event{event("state", map[string]any{"to": Switching}, text, some(from))}})
	if errors.Is(err, errs.ErrConflict) {
		return nil // somebody was faster
	}
	if err == nil {
		c.Kick()
	}
	return err
}

// complete answers a wish, after its cluster was opened (R9, R30).
func (c *Controller) complete(ctx context.Context, now *scene) error {
	names, err := c.meta.ListClusters(ctx)
	if err != nil {
		return err
	}
	wish := now.Wish.Cluster
	_, err = c.open(ctx, now.Name, wish, now.Settings.Physical(now.Name, wish), func(row *store.Fence) error {
		// The row was read before this look: if the topic has moved on since, one of them tells.
		fresh, err := c.meta.GetTopic(ctx, now.Name)
		switch {
		case err != nil:
			return err
		case metadata.Answered(fresh.Route, fresh.WishNode) || fresh.WishNode.Mzxid != now.WishNode.Mzxid:
			return fmt.Errorf("%w: somebody else has followed the wish", errs.ErrConflict)
		case row.Migration == "": // closed by somebody that nothing is known of
			return nil
		}
		return c.db.PutFence(ctx, row)
	})
	if err != nil {
		return fmt.Errorf("topic %s is wished on cluster %s: %w", now.Name, wish, err)
	}
	next := metadata.Complete(now.Wish, now.WishNode, now.Route, names)
	doc, err := json.Marshal(next)
	if err != nil {
		return err
	}
	path := c.meta.RoutePath(now.Name)
	if now.RouteNode.Exists {
		err = c.write(ctx, metadata.SetOp(path, doc, now.RouteNode.Version))
	} else {
		err = c.write(ctx, metadata.CreateOp(path, doc))
	}
	if errors.Is(err, errs.ErrConflict) {
		return nil // a participant was faster
	}
	return err
}

// watchFences puts right the fences of topics that no migration works on, and looks for what was written late.
func (c *Controller) watchFences(ctx context.Context) {
	rows, err := c.db.Fences(ctx)
	if err != nil {
		c.log.Warn("the store can not be read", zap.Error(err))
		return
	}
	away := map[string]bool{} // clusters that did not answer: one time-out each is enough
	for i := range rows {
		if ctx.Err() != nil {
			return
		}
		row := &rows[i]
		if away[row.Cluster] {
			continue
		}
		if busy, err := c.busy(ctx, row.Topic); busy || err != nil {
			continue
		}
		asserting, cancel := context.WithTimeout(ctx, callLimit)
		said, err := c.assert(asserting, row)
		away[row.Cluster] = err != nil && !errors.Is(err, errs.ErrConflict) // what is wrong with a topic says nothing of the others
		if err == nil && row.Wanted {
			err = c.watchLate(asserting, row, said)
		}
		cancel()
		if err != nil && ctx.Err() == nil {
			c.log.Warn("a fence can not be looked at", zap.String("cluster", row.Cluster), zap.String("topic", row.Physical), zap.Error(err))
		}
	}
}

// watchLate looks for what was written behind a fence; said is what was wrong with the fence.
func (c *Controller) watchLate(ctx context.Context, row *store.Fence, said string) error {
	m, err := c.migration(ctx, row.Migration)
	if err != nil || m.EndedAt == nil {
		return err
	}
	var events []store.Event
	if said != "" {
		events = append(events, event("fence", map[string]any{"cluster": row.Cluster}, "%s", said))
	}
	return c.rescue(ctx, m, row, events)
}

// rescue sends what was written to a cluster after it was left to where the topic is now (R18). The position up to which
// that was done is stored after it: a message may be sent twice, with the same id, and none is left.
func (c *Controller) rescue(ctx context.Context, m *migration, row *store.Fence, events []store.Event) error {
	src := m.data.left(row.Cluster)
	late := false
	var err error
	if src != nil && src.Final != nil {
		err = c.on(ctx, row.Cluster, func(conn *clusters.Conn) error {
			end, err := ends(ctx, conn, row.Physical, src.Final)
			late = err == nil && !src.Final.Reached(end)
			return err
		})
	}
	if late {
		now, lerr := c.look(ctx, row.Topic)
		if lerr != nil {
			return lerr
		}
		if now.Route != nil && !slices.ContainsFunc(now.Route.Stays, func(s metadata.Stay) bool { return s.Cluster == row.Cluster }) {
			var said []store.Event
			said, err = c.sendOn(ctx, now, src)
			events = append(events, said...)
		}
	}
	if len(events) == 0 {
		return err
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), callLimit) // how far it came is stored in any case
	defer cancel()
	if merr := m.encode(); merr != nil {
		return merr
	}
	receipt, rerr := c.amend(ctx, m)
	if rerr != nil {
		return rerr
	}
	return errors.Join(err, c.db.Update(ctx, m.Migration, store.Changes{Events: events, Receipt: receipt}))
}

// sendOn sends what lies on a source behind its final offsets to where the topic is now, and moves those on.
func (c *Controller) sendOn(ctx context.Context, now *scene, src *source) (said []store.Event, err error) {
	if src.Final == nil {
		return nil, nil
	}
	err = c.on(ctx, src.Cluster, func(from *clusters.Conn) error {
		end, err := ends(ctx, from, src.Physical, src.Final)
		if err != nil || src.Final.Reached(end) {
			return err
		}
		resend := func(to *clusters.Conn) error {
			n, who, err := resend(ctx, from, to, src.Physical, now.Settings.Physical(now.Name, now.Route.Write), src.Final, end)
			if n > 0 {
				src.Rescued += n
				said = append(said, event("rescued", map[string]any{"cluster": src.Cluster, "messages": n}, "%s written to %s after it was left (%s); sent to %s, at no place in the order", count.Of(n, "message was", "messages were"), src.Cluster, who, now.Route.Write))
			}
			return err
		}
		return c.readable(ctx, from, src.Physical, func() error { return c.on(ctx, now.Route.Write, resend) })
	})
	return said, err
}

// resend sends messages from one cluster to another and raises at.
func resend(ctx context.Context, from, to *clusters.Conn, topic, into string, at, end broker.Offsets) (n int64, who string, err error) {
	for _, name := range end.Names() {
		for at[name] < end[name] {
			messages, next, err := from.Peek(ctx, topic, name, at[name], peekMost)
			if err != nil {
				return n, who, err
			}
			for i := range messages {
				m := &messages[i]
				if who == "" {
					who = whose(m)
				}
				if m.ID == "" {
					id, err := uuid.NewV7()
					if err != nil {
						return n, who, err
					}
					m.ID = fmt.Sprintf("%x", id[:])
				}
				stored := make(chan error, 1)
				to.Send(ctx, into, &m.Envelope, func(_ broker.Receipt, err error) { stored <- err })
				select {
				case err := <-stored:
					if err != nil {
						return n, who, err
					}
				case <-ctx.Done():
					return n, who, ctx.Err()
				}
				n++
				at[name] = m.Offset + 1
			}
			if next <= at[name] && len(messages) == 0 {
				break
			}
			at[name] = max(at[name], next)
		}
	}
	return n, who, nil
}

// removeStays takes sealed stays out of a route when the last group, which slept, has finished them (R16).
func (c *Controller) removeStays(ctx context.Context, topic string) error {
	if busy, err := c.busy(ctx, topic); busy || err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, callLimit)
	defer cancel()
	now, err := c.lookAtAll(ctx, topic)
	if err != nil || now.Route == nil {
		return err
	}
	finished := map[string]bool{}
	for _, s := range now.Route.Stays {
		if s.Open() {
			continue
		}
		done, err := c.finished(ctx, now, s)
		if err != nil {
			return err
		}
		before, seen := finished[s.Cluster]
		finished[s.Cluster] = done && (before || !seen)
	}
	next := now.Route.Clone()
	next.Stays = slices.DeleteFunc(next.Stays, func(s metadata.Stay) bool { return finished[s.Cluster] && !s.Open() })
	if len(next.Stays) == len(now.Route.Stays) {
		return nil
	}
	doc, err := json.Marshal(next)
	if err != nil {
		return err
	}
	if err := c.write(ctx, metadata.SetOp(c.meta.RoutePath(topic), doc, now.RouteNode.Version)); err != nil {
		return err
	}
	c.log.Info("the last group has finished a cluster that was left", zap.String("topic", topic))
	m, err := c.migration(ctx, now.Route.Migration)
	if err != nil {
		return nil // nobody's: the route came from elsewhere, and there is nothing to write it down in
	}
	for cluster, done := range finished {
		if src := m.data.left(cluster); src != nil && done {
			src.Sleeping = nil
		}
	}
	if err := m.encode(); err != nil {
		return err
	}
	receipt, err := c.amend(ctx, m)
	if err != nil {
		return err
	}
	return c.db.Update(ctx, m.Migration, store.Changes{Receipt: receipt, Events: []store.Event{event("stay removed", nil, "the last group has woken and finished what it had left; the stay has left the route")}})
}

// finished says whether every group has read a sealed stay. What follows it belongs to a later one, or was written late and is
// sent on.
func (c *Controller) finished(ctx context.Context, now *scene, s metadata.Stay) (done bool, err error) {
	physical := now.Settings.Physical(now.Name, s.Cluster)
	done = true
	err = c.on(ctx, s.Cluster, func(conn *clusters.Conn) error {
		for _, g := range now.groups {
			start := g.StartOn(now.Route, now.Name, s.Cluster)
			before, err := lag.Of(ctx, conn, physical, g.Physical(now.Name), start, nil)
			if err == nil && !before.Finished(s.End) {
				before, err = lag.Of(ctx, conn, physical, g.Physical(now.Name), start, before)
			}
			if err != nil {
				return err
			}
			done = done && before.Finished(s.End)
		}
		return nil
	})
	return done, err
}

// migration reads a migration of the store.
func (c *Controller) migration(ctx context.Context, id string) (*migration, error) {
	row, err := c.db.Migration(ctx, id)
	if err != nil {
		return nil, err
	}
	return decode(row)
}
