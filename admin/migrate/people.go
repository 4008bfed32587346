package migrate

import (
	"context"
	"fmt"
	"slices"

	"go.uber.org/zap"

	"github.com/turnout-mq/turnout/admin/store"
	"github.com/turnout-mq/turnout/broker"
	"github.com/turnout-mq/turnout/metadata"
)

// request carries out what an operator asked for. done: the state has changed.
func (w *walk) request(ctx context.Context) (done bool, err error) {
	d := &w.m.data
	switch s := w.m.state(); {
	case w.m.Request == store.None || s == Reverting:
		return false, nil
	case s == Planned:
		return true, w.end(ctx, store.Aborted)
	case s == Canarying && d.Canary.Next != nil: // it is seen first where that range is
		return false, nil
	case s == Canarying:
		return true, w.leaveCanary(ctx)
	case s == Preparing && !d.Reverse, s == Holding && !d.Reverse, s == Fencing && !d.Reverse:
		return true, w.revert(ctx, "asked for: "+string(w.m.Request))
	case w.noWayBack() != "":
		return true, w.refuse(ctx, w.noWayBack())
	case w.m.Request == store.Abort:
		return true, w.refuse(ctx, d.Target.Cluster+" takes writes already; ask for a rollback")
	case len(d.dead()) > 0:
		d.GoBack = true
		w.m.Request = store.None
		return true, w.save(ctx, store.Changes{Events: []store.Event{event("rollback", nil, "goes back to %s when that answers again and everything there was read", d.Home)}})
	case w.m.Ordered:
		d.GoBack = true
		w.m.Request = store.None
		return true, w.save(ctx, store.Changes{Events: []store.Event{event("rollback", nil, "goes back to %s as soon as everything there was read: the order asks for that", d.Home)}})
	default:
		return true, w.goBack(ctx)
	}
}

// noWayBack says why the migration can not go back now; "": it can.
func (w *walk) noWayBack() string {
	d := &w.m.data
	switch s := w.m.state(); {
	case d.Reverse || d.GoBack || s == Reverting:
		return "it is on its way back already"
	case s == Closing:
		return "it is too late, everything has moved; start a move in the other direction when it has ended"
	case d.source(d.Home) != nil && d.source(d.Home).Lost != nil:
		return d.Home + " was given up; when it is there again, start a move to it"
	case s != Planned && s != Preparing && d.source(d.Home) == nil:
		return "there is nothing to go back to: the wish says where the topic is; start a move"
	}
	return ""
}

// refuse answers a request that comes at the wrong moment.
func (w *walk) refuse(ctx context.Context, why string) error {
	text := fmt.Sprintf("%s is refused: %s", w.m.Request, why)
	w.m.Request = store.None
	return w.save(ctx, store.Changes{Events: []store.Event{event("refused", nil, "%s", text)}})
}

// turnBack exchanges the clusters.
func (w *walk) turnBack() {
	d := &w.m.data
	from := d.Target
	home := *d.source(d.Home)
	d.Reverse = true
	for _, s := range d.Sources {
		if s.Drained != nil || s.Lost != nil {
			d.Passed = append(d.Passed, s)
		}
	}
	d.Target = target{Cluster: home.Cluster, Physical: home.Physical}
	rest := slices.DeleteFunc(slices.Clone(d.Sources), func(s source) bool { return s.Cluster == home.Cluster || s.Lost != nil })
	rest = append(rest, source{Cluster: from.Cluster, Physical: from.Physical, Since: from.Start})
	d.Sources = rest
	if w.m.ordered() { // those before were read, and what is left of them is sleepers'
		d.Sources = rest[len(rest)-1:]
	}
	d.Home = from.Cluster
}

// adopt takes in a wish that was written by hand meanwhile (R30). It never stops a migration: where the topic goes is
// what the wish says, and everything else that it was on is left.
func (w *walk) adopt(ctx context.Context) error {
	route := w.now.Route
	if w.now.badWish != nil {
		return nil //nolint:nilerr // nobody follows it
	}
	if !metadata.Answered(route, w.now.WishNode) {
		return w.answer(ctx)
	}
	ref := metadata.WishRef{Czxid: w.now.WishNode.Czxid, Version: w.now.WishNode.Version}
	d := &w.m.data
	if !later(d.Wish, ref) {
		return nil
	}
	// A wish for where the topic goes anyhow, also the one that closing writes, changes nothing else. While the sources are being
	// closed one for the cluster that is written opens it again, so that is never such a wish.
	if next := w.m.wanted(*route); w.m.state() != Fencing && route.Write == w.m.writes() && same(next, *route) {
		d.Wish = ref
		return w.save(ctx, store.Changes{})
	}
	by, err := w.c.wrote(ctx, w.m.Topic, ref)
	if err != nil {
		return err
	}
	w.retarget(ref, route)
	text := wishBy(by) + ": the topic goes to " + route.Write
	if w.m.Ordered {
		d.NoOrder = wishBy(by)
		text += "; the order per key is not kept over this (R25)"
	}
	return w.enter(ctx, Switching, text)
}

// writes is the cluster that is written in the state.
func (m *migration) writes() string {
	if slices.Contains([]State{Planned, Preparing, Canarying, Holding, Fencing, Reverting}, m.state()) {
		return m.data.Home
	}
	return m.data.Target.Cluster
}

// answer completes a wish, if its cluster can be written to. Else it is not followed until it can be (R30), and the
// migration goes on: the topic may be missing there, and the sources may be closed to writers by now.
func (w *walk) answer(ctx context.Context) error {
	now := w.c.now()
	if now.Sub(w.asked) < assertEvery {
		return nil
	}
	w.asked = now
	asking, cancel := context.WithTimeout(ctx, answerLimit)
	defer cancel()
	err := w.c.complete(asking, w.now)
	switch {
	case err == nil:
		return errAgain
	case ctx.Err() != nil:
		return err
	}
	w.log.Warn("the wish that was edited by hand is not followed yet", zap.String("cluster", w.now.Wish.Cluster), zap.Error(err))
	return nil
}

// retarget makes the cluster that is written the target, and everything else in the route a source.
func (w *walk) retarget(ref metadata.WishRef, route *metadata.Route) {
	d := &w.m.data
	before := d.Sources
	d.Wish = ref
	d.Reverse, d.GoBack = d.Home != d.Target.Cluster && route.Write == w.m.data.firstHome(), false
	d.Target = target{Cluster: route.Write, Physical: w.now.Settings.Physical(w.m.Topic, route.Write), Start: broker.Offsets{}, Listed: true}
	d.Sources = nil
	for _, s := range route.Stays {
		if s.Cluster == route.Write || d.source(s.Cluster) != nil {
			continue
		}
		src := source{Cluster: s.Cluster, Physical: w.now.Settings.Physical(w.m.Topic, s.Cluster)}
		for _, old := range before {
			if old.Cluster == s.Cluster {
				src.Since, src.Dead, src.Away, src.Back = old.Since, old.Dead, old.Away, old.Back
			}
		}
		d.Sources = append(d.Sources, src)
	}
	for _, old := range before { // what has left the route is watched on
		if (old.Final != nil || old.Lost != nil) && old.Cluster != route.Write && d.source(old.Cluster) == nil {
			d.Passed = append(d.Passed, old)
		}
	}
	w.m.Target = route.Write
}

func (d *data) firstHome() string {
	if d.Reverse {
		return d.Target.Cluster
	}
	return d.Home
}

// later says whether b is a newer wish than a.
func later(a, b metadata.WishRef) bool {
	if a.Czxid != b.Czxid {
		return b.Czxid > a.Czxid
	}
	return b.Version > a.Version
}
