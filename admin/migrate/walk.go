package migrate

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"go.uber.org/zap"

	"github.com/turnout-mq/turnout/admin/store"
	"github.com/turnout-mq/turnout/broker"
	"github.com/turnout-mq/turnout/internal/clusters"
	"github.com/turnout-mq/turnout/internal/errs"
	"github.com/turnout-mq/turnout/internal/lag"
	"github.com/turnout-mq/turnout/metadata"
)

// walk is one controller's way with one migration, while the row does not change under it.
type walk struct {
	c       *Controller
	m       *migration
	log     *zap.Logger
	now     *scene
	lags    map[string]*lagOf // by cluster and group: the last look
	readers []metadata.Group  // of the topic, when sends began to pause
	// later are events that wait for the next save: while sends pause nothing is stored that need not be.
	later []store.Event
	// said: when it was last stored what is waited for.
	said time.Time
	// asked: when it was last tried to follow a wish that nobody has answered.
	asked time.Time
}

type lagOf struct{ *lag.Lag }

// step does what the state asks for and says how long to wait before the next look; 0: not at all.
func (w *walk) step(ctx context.Context) (time.Duration, error) {
	var err error
	if w.now, err = w.c.look(ctx, w.m.Topic); err != nil && !errors.Is(err, errs.ErrUnknownTopic) {
		return 0, err
	}
	if err != nil || w.now.Route == nil {
		return w.gone(ctx)
	}
	if err := w.adopt(ctx); err != nil {
		return 0, err
	}
	if done, err := w.request(ctx); done || err != nil {
		return 0, err
	}
	if err := w.assertFences(ctx); err != nil {
		return 0, err
	}
	s := w.m.state()
	if w.m.Paused && s != Holding && s != Fencing { // sends wait: it is paused in the next state
		return poll, w.waiting(ctx, "paused; go on with: turnout migrate resume "+w.m.ID)
	}
	waitFor, err := w.act(ctx)
	if err != nil {
		return 0, err
	}
	if waitFor == "" { // gone on, or ended
		return 0, nil
	}
	wait := poll
	if s = w.m.state(); s == Holding || s == Fencing {
		wait = pollFast
	}
	if w.c.now().Sub(w.said) < time.Second { // numbers in it change, and while sends pause there is no time for books
		return wait, nil
	}
	w.said = w.c.now()
	return wait, w.waiting(ctx, waitFor)
}

// gone: the topic or its route is not in the metadata any more. Nothing is made of that: the route has what nobody else knows.
func (w *walk) gone(ctx context.Context) (time.Duration, error) {
	w.now = &scene{}
	if w.m.Request != store.None {
		return 0, w.end(ctx, store.Failed)
	}
	return stepMost, w.waiting(ctx, "the topic or its route was deleted from the metadata; restore it (docs/operations.md), or end this: turnout migrate abort "+w.m.ID)
}

// act is the part of a state that is done again and again until it can be left. waitFor says for people what is
// missing; "": the state was left.
func (w *walk) act(ctx context.Context) (waitFor string, err error) {
	switch w.m.state() {
	case Planned:
		return w.planned(ctx)
	case Preparing:
		return w.preparing(ctx)
	case Holding:
		return w.holding(ctx)
	case Fencing:
		return w.fencing(ctx)
	case Switching:
		return w.switching(ctx)
	case Sealing:
		return w.sealing(ctx)
	case Draining:
		return w.draining(ctx)
	case Closing:
		return w.closing(ctx)
	case Reverting:
		return w.reverting(ctx)
	case Done: // nobody works on it
	}
	return "", fmt.Errorf("%w: migration %s is in state %q, which this version does not know", errs.ErrInvalid, w.m.ID, w.m.State)
}

// planned waits for the approval.
func (w *walk) planned(ctx context.Context) (string, error) {
	if w.m.ApprovedBy == "" {
		return "approval", nil
	}
	return "", w.enter(ctx, Preparing, "started")
}

// preparing: the target has the topic and is open, its stay is in the route with its start, everybody is warm there and
// attached (R6, R9, R12).
func (w *walk) preparing(ctx context.Context) (string, error) {
	d := &w.m.data
	if d.Target.Start == nil {
		var events []store.Event
		err := w.c.on(ctx, d.Target.Cluster, func(c *clusters.Conn) error {
			created, err := w.provide(ctx, c)
			if err != nil {
				return err
			}
			if created {
				d.Target.Created = true
				events = append(events, event("created", nil, "topic %s was created on %s", d.Target.Physical, d.Target.Cluster))
			}
			d.Target.Start, err = ends(ctx, c, d.Target.Physical) // somebody may write there; a start need not be steady
			return err
		})
		if err != nil {
			return "", err
		}
		for i := range d.Sources {
			src := &d.Sources[i]
			if err := w.c.on(ctx, src.Cluster, func(c *clusters.Conn) (err error) {
				src.Since, err = ends(ctx, c, src.Physical)
				return err
			}); err != nil {
				return "", err
			}
		}
		return "", w.save(ctx, store.Changes{Events: events})
	}
	if waitFor, err := w.publish(ctx); waitFor != "" || err != nil {
		return waitFor, err
	}
	if waitFor, err := w.foreignWriters(ctx); waitFor != "" || err != nil {
		return waitFor, err
	}
	if w.m.ordered() {
		if waitFor, err := w.attached(ctx, d.Target.Cluster, d.Target.Physical); waitFor != "" || err != nil {
			return waitFor, err
		}
		return "", w.hold(ctx)
	}
	return "", w.enter(ctx, Switching, "everybody is ready on "+d.Target.Cluster)
}

// provide creates the topic on the target if it is missing and that was asked for.
func (w *walk) provide(ctx context.Context, to *clusters.Conn) (created bool, err error) {
	d := &w.m.data
	_, err = to.DescribeTopic(ctx, d.Target.Physical)
	if !errors.Is(err, errs.ErrUnknownTopic) || !w.m.plan.Create {
		return false, err
	}
	var like broker.TopicInfo
	src := d.source(d.Home)
	if src == nil {
		return false, err
	}
	if err := w.c.on(ctx, d.Home, func(c *clusters.Conn) (err error) {
		like, err = c.DescribeTopic(ctx, src.Physical)
		return err
	}); err != nil {
		return false, err
	}
	err = to.CreateTopic(ctx, d.Target.Physical, creation(&w.m.plan, like, w.c.kind(ctx, d.Home) == to.Kind))
	return err == nil, err
}

// hold makes sends pause. What has to be stored before the fence and before the target is opened is stored here, so that it
// takes no time while they do (R8).
func (w *walk) hold(ctx context.Context) error {
	d := &w.m.data
	var fences []store.Fence
	var err error
	if w.readers, err = w.c.readers(ctx, w.m.Topic); err != nil {
		return err
	}
	for i := range d.Sources {
		rows, err := w.intend(ctx, &d.Sources[i])
		if err != nil {
			return err
		}
		fences = append(fences, rows...)
	}
	row, err := w.c.db.FenceOf(ctx, d.Target.Cluster, d.Target.Physical)
	switch {
	case err == nil && row.Wanted:
		d.Target.WasFenced = true
		reopen(row, w.c.now())
		row.Migration = "" // becomes this one
		fences = append(fences, *row)
	case err != nil && !errors.Is(err, errs.ErrNotFound):
		return err
	}
	return w.enter(ctx, Holding, "everybody is ready; sends pause", fences...)
}

// intend is the row that says that a source is to be closed; none: it is stored already.
func (w *walk) intend(ctx context.Context, src *source) (rows []store.Fence, err error) {
	if src.Intended {
		return nil, nil
	}
	err = w.c.on(ctx, src.Cluster, func(c *clusters.Conn) (err error) {
		rows, err = w.c.wantFence(ctx, c, w.m.Topic, src.Physical)
		return err
	})
	src.Intended = err == nil
	return rows, err
}

// holding: nobody sends, and everybody has said so. Past the time that sends may pause the way back is taken: they have gone
// on by themselves then.
func (w *walk) holding(ctx context.Context) (string, error) {
	waitFor, err := w.publish(ctx)
	if err != nil {
		return "", err
	}
	if waitFor == "" && w.c.opt.Off["R19"] {
		return "", w.enter(ctx, Switching, "nobody sends")
	}
	if waitFor == "" {
		if err := w.enter(ctx, Fencing, "nobody sends"); err != nil {
			return "", err
		}
		return w.fencing(ctx) // sends wait
	}
	if w.c.now().Sub(w.m.data.Entered) > time.Duration(w.m.plan.Hold)*time.Millisecond {
		return "", w.revert(ctx, "sends may not pause longer; not held yet: "+waitFor)
	}
	return waitFor, nil
}

// fencing: the source refuses writers and is sealed; nobody reads the target; the target is open (R19, R21, R9). Sends wait
// for it: what can not be had in the time that they may pause is given up, and a controller that takes over has that time too.
func (w *walk) fencing(ctx context.Context) (string, error) {
	d := &w.m.data
	since := w.c.first(w.m.ID, Fencing)
	if d.Entered.After(since) {
		since = d.Entered
	}
	if w.c.now().Sub(since) > time.Duration(w.m.plan.Hold)*time.Millisecond {
		return "", w.revert(ctx, "sends may not pause longer; it waited for: "+w.m.Waiting)
	}
	for i := range d.Sources {
		if waitFor, err := w.sealSource(ctx, &d.Sources[i]); waitFor != "" || err != nil {
			return waitFor, err
		}
	}
	if waitFor, err := w.attached(ctx, d.Target.Cluster, d.Target.Physical); waitFor != "" || err != nil {
		return waitFor, err
	}
	if err := w.openTarget(ctx); err != nil {
		return "", err
	}
	if err := w.enter(ctx, Switching, "sealed"); err != nil {
		return "", err
	}
	return w.switched(ctx)
}

// attached says who of our groups is a member on a cluster, asked of the cluster itself (R21).
func (w *walk) attached(ctx context.Context, cluster, physical string) (waitFor string, err error) {
	if w.c.opt.Off["R21"] {
		return "", nil
	}
	if w.readers == nil {
		if w.readers, err = w.c.readers(ctx, w.m.Topic); err != nil {
			return "", err
		}
	}
	err = w.c.on(ctx, cluster, func(c *clusters.Conn) error {
		for _, g := range w.readers {
			if g.Order != metadata.OrderKey {
				continue // reads all stays at once anyhow
			}
			members, err := c.GroupMembers(ctx, g.Physical(w.m.Topic))
			if err != nil {
				return err
			}
			if len(members) > 0 {
				waitFor = fmt.Sprintf("group %s still reads %s on %s: %s", g.Name, physical, cluster, some(members))
				return nil
			}
		}
		return nil
	})
	return waitFor, err
}

// switching: sends go to the target. It never waits for what the fence covers: who has no session any more is not in the
// list.
func (w *walk) switching(ctx context.Context) (string, error) {
	if !w.c.opt.Off["R9"] {
		if err := w.openTarget(ctx); err != nil {
			return "", err
		}
	}
	return w.switched(ctx)
}

// switched: the target is open.
func (w *walk) switched(ctx context.Context) (string, error) {
	waitFor, err := w.publish(ctx)
	if waitFor != "" || err != nil {
		return waitFor, err
	}
	if w.m.ordered() && !w.c.opt.Off["R19"] {
		return "", w.enter(ctx, Draining, "everybody sends to "+w.m.data.Target.Cluster)
	}
	if waitFor, err := w.foreignWriters(ctx); waitFor != "" || err != nil {
		return waitFor, err
	}
	return "", w.enter(ctx, Sealing, "everybody sends to "+w.m.data.Target.Cluster)
}

// sealing: the sources refuse writers and are sealed (R7).
func (w *walk) sealing(ctx context.Context) (string, error) {
	d := &w.m.data
	for i := range d.Sources {
		if waitFor, err := w.sealSource(ctx, &d.Sources[i]); waitFor != "" || err != nil {
			return waitFor, err
		}
	}
	return "", w.enter(ctx, Draining, "sealed")
}

// sealSource fences a source, sees it act, and reads its ends behind the fence.
func (w *walk) sealSource(ctx context.Context, src *source) (waitFor string, err error) {
	if src.Sealed != nil {
		return "", nil
	}
	if !src.Intended {
		// Stored before anything is done at the broker: whoever takes over knows what to put back (R8).
		fences, err := w.intend(ctx, src)
		if err != nil {
			return "", err
		}
		if err := w.save(ctx, store.Changes{Fences: fences}); err != nil {
			return "", err
		}
	}
	err = w.c.on(ctx, src.Cluster, func(c *clusters.Conn) error {
		var missing bool
		if !w.c.opt.Off["fence"] {
			switch err := w.c.shut(ctx, c, src.Physical); {
			case errors.Is(err, errs.ErrUnknownTopic):
				missing = true // nothing was ever sent there
			case errors.Is(err, errs.ErrConflict):
				waitFor = fmt.Sprintf("the fence of %s has to act on every leader: %v", src.Cluster, err)
				return nil
			case err != nil:
				return err
			}
		}
		seal, err := w.c.steadyEnds(ctx, c, src.Physical)
		if err != nil {
			return err
		}
		now := time.Now().UTC()
		src.Seal, src.Sealed = seal, &now
		if !missing {
			src.Fenced = &now
		}
		text := "%s is closed to writers and ends at %s"
		if missing {
			text = "%s does not have the topic (%s)"
		}
		w.later = append(w.later, event("sealed", map[string]any{"cluster": src.Cluster, "offsets": seal}, text, src.Cluster, brief(seal)))
		if w.m.state() == Fencing {
			return nil // stored with the next state; whoever takes over before that reads the ends again
		}
		return w.save(ctx, store.Changes{})
	})
	return waitFor, err
}

// draining: every group but the accepted sleepers comes to the end of every source (R10, R13, R14).
func (w *walk) draining(ctx context.Context) (string, error) {
	if waitFor, err := w.publish(ctx); waitFor != "" || err != nil {
		return waitFor, err
	}
	var missing []string
	var err error
	if w.now.groups, err = w.c.readers(ctx, w.m.Topic); err != nil { // anew, each time (R13)
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
	return "", w.enter(ctx, Closing, "every group has read everything")
}

// drainSource asks anew which groups there are, and what each has left.
func (w *walk) drainSource(ctx context.Context, src *source) (missing []string, err error) {
	groups, final := map[string]broker.Offsets{}, broker.Offsets(nil)
	expired := map[string]int64{}
	var sleeping []string
	late := false
	err = w.c.on(ctx, src.Cluster, func(c *clusters.Conn) error {
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
			case slices.Contains(w.m.plan.Sleeping, g.Name) && w.m.plan.accepts(SleepingGroups) && !w.now.live(g.Name):
				sleeping = append(sleeping, g.Name)
			default:
				text := fmt.Sprintf("group %s has %s left on %s", g.Name, describe(l), src.Cluster)
				switch {
				case g.Paused:
					text += ", and it is paused in its settings"
				case !w.now.live(g.Name):
					text += " and nobody who reads them; start it, or: turnout migrate resume " + w.m.ID + " --accept " + SleepingGroups
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
			final, err = ends(ctx, c, src.Physical)
		}
		return err
	})
	if err != nil || len(missing) > 0 {
		return missing, err
	}
	now := time.Now().UTC()
	src.Groups, src.Sleeping, src.Drained, src.Final, src.Expired = groups, sleeping, &now, final, expired
	return nil, nil
}

func (w *walk) lag(ctx context.Context, c *clusters.Conn, src *source, group string, start broker.Offsets) (*lag.Lag, error) {
	key := src.Cluster + "\x00" + group
	var before *lag.Lag
	if l := w.lags[key]; l != nil {
		before = l.Lag
	}
	var early broker.Pending
	if w.c.opt.Off["R14"] {
		early, _ = c.Pending(ctx, group, src.Physical)
	}
	l, err := lag.Of(ctx, c, src.Physical, group, start, before)
	if err == nil {
		w.lags[key] = &lagOf{l}
	}
	if err == nil && w.c.opt.Off["R14"] {
		l.Pending = early
	}
	return l, err
}

func describe(l *lag.Lag) string {
	if n := l.Beside(); n > 0 {
		return fmt.Sprintf("%d messages and %d to be repeated", l.Unread, n)
	}
	return fmt.Sprintf("%d messages", l.Unread)
}

// closing: the sources leave the route, the wish says where the topic is, and the receipt is written. An ordered topic
// that is to go back begins its way back here (R22).
func (w *walk) closing(ctx context.Context) (string, error) {
	d := &w.m.data
	if waitFor, err := w.publish(ctx); waitFor != "" || err != nil {
		return waitFor, err
	}
	for i := range d.Sources {
		src := &d.Sources[i]
		if slices.ContainsFunc(w.now.Route.Stays, func(s metadata.Stay) bool { return s.Cluster == src.Cluster }) {
			continue // for a group that sleeps
		}
		events, err := w.c.sendOn(ctx, w.now, src)
		w.later = append(w.later, events...)
		if err != nil {
			return "", errors.Join(err, w.keep(ctx))
		}
	}
	if d.GoBack {
		d.GoBack = false
		w.turnBack()
		return "", w.enter(ctx, Preparing, "on the way back to "+d.Target.Cluster)
	}
	outcome := store.Done
	if d.Reverse {
		outcome = store.RolledBack
	}
	return "", w.end(ctx, outcome)
}

// revert takes the way back while nothing has gone to the target. That the sources are to be open is stored with it: else
// what is asserted next (R8) would close them, where sends go on.
func (w *walk) revert(ctx context.Context, why string) error {
	var fences []store.Fence
	for _, src := range w.m.data.Sources {
		row, err := w.c.db.FenceOf(ctx, src.Cluster, src.Physical)
		switch {
		case errors.Is(err, errs.ErrNotFound):
		case err != nil:
			return err
		case src.Intended && row.Wanted:
			reopen(row, w.c.now())
			row.Migration = "" // becomes this one
			fences = append(fences, *row)
		}
	}
	return w.enter(ctx, Reverting, why, fences...)
}

// reverting: as it was before; nothing has gone to the target.
func (w *walk) reverting(ctx context.Context) (string, error) {
	d := &w.m.data
	for i := range d.Sources {
		if src := &d.Sources[i]; src.Intended {
			if _, err := w.open(ctx, src.Cluster, src.Physical); err != nil && !errors.Is(err, errs.ErrUnknownTopic) {
				return "", err
			}
		}
	}
	if d.Target.WasFenced { // closed since an earlier migration, and so it stays (R17)
		if err := w.closeAgain(ctx, d.Target.Cluster, d.Target.Physical); err != nil {
			return "", err
		}
	}
	if waitFor, err := w.publish(ctx); waitFor != "" || err != nil {
		return waitFor, err
	}
	if d.Target.WasFenced && !slices.ContainsFunc(w.now.Route.Stays, func(s metadata.Stay) bool { return s.Cluster == d.Target.Cluster }) { // who wrote there while it was open in vain is watched as before
		vain := source{Cluster: d.Target.Cluster, Physical: d.Target.Physical, Final: d.Target.Start}
		events, err := w.c.sendOn(ctx, w.now, &vain)
		w.later = append(w.later, events...)
		d.Target.Start = vain.Final
		if err != nil {
			return "", errors.Join(err, w.keep(ctx))
		}
		d.Passed = append(d.Passed, vain)
	}
	if d.Reverse {
		return "", w.end(ctx, store.Failed) // the way back
	}
	outcome := store.RolledBack
	if w.m.Request == store.Abort {
		outcome = store.Aborted
	}
	return "", w.end(ctx, outcome)
}

// closeAgain closes a cluster that was opened in vain.
func (w *walk) closeAgain(ctx context.Context, cluster, physical string) error {
	return w.c.on(ctx, cluster, func(c *clusters.Conn) error {
		rows, err := w.c.wantFence(ctx, c, w.m.Topic, physical)
		if err != nil || len(rows) == 0 {
			return err
		}
		if err := w.save(ctx, store.Changes{Fences: rows}); err != nil {
			return err
		}
		return w.c.shut(ctx, c, physical)
	})
}

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
		return fmt.Sprintf("%d of %d participants have to apply the route: %s", len(awaited), len(w.now.participants), some(awaited)), nil
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
		if src.Since == nil {
			continue
		}
		err := w.c.on(ctx, src.Cluster, func(c *clusters.Conn) error {
			end, err := ends(ctx, c, src.Physical)
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

// request carries out what an operator asked for. done: the state has changed.
func (w *walk) request(ctx context.Context) (done bool, err error) {
	d := &w.m.data
	switch s := w.m.state(); {
	case w.m.Request == store.None || s == Reverting:
		return false, nil
	case s == Planned:
		return true, w.end(ctx, store.Aborted)
	case s == Preparing && !d.Reverse, s == Holding && !d.Reverse, s == Fencing && !d.Reverse:
		return true, w.revert(ctx, "asked for: "+string(w.m.Request))
	case d.Reverse || d.GoBack:
		return true, w.refuse(ctx, "it is on its way back already")
	case s == Closing:
		return true, w.refuse(ctx, "it is too late, everything has moved; start a move in the other direction when it has ended")
	case d.source(d.Home) == nil:
		return true, w.refuse(ctx, "there is nothing to go back to: the wish says where the topic is; start a move")
	case w.m.Request == store.Abort:
		return true, w.refuse(ctx, d.Target.Cluster+" takes writes already; ask for a rollback")
	case w.m.Ordered:
		d.GoBack = true
		w.m.Request = store.None
		return true, w.save(ctx, store.Changes{Events: []store.Event{event("rollback", nil, "goes back to %s as soon as everything there was read: the order asks for that", d.Home)}})
	default:
		w.turnBack()
		w.m.Request = store.None
		return true, w.enter(ctx, Preparing, "on the way back to "+d.Target.Cluster)
	}
}

// refuse answers a request that comes at the wrong moment.
func (w *walk) refuse(ctx context.Context, why string) error {
	text := fmt.Sprintf("%s is refused: %s", w.m.Request, why)
	w.m.Request = store.None
	return w.save(ctx, store.Changes{Events: []store.Event{event("refused", nil, "%s", text)}})
}

// keep stores how far a step has come that has failed since, also when its ctx has ended.
func (w *walk) keep(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), callLimit)
	defer cancel()
	return w.save(ctx, store.Changes{})
}

// turnBack exchanges the clusters.
func (w *walk) turnBack() {
	d := &w.m.data
	from := d.Target
	home := *d.source(d.Home)
	d.Reverse = true
	for _, s := range d.Sources {
		if s.Drained != nil {
			d.Passed = append(d.Passed, s)
		}
	}
	d.Target = target{Cluster: home.Cluster, Physical: home.Physical}
	rest := slices.DeleteFunc(slices.Clone(d.Sources), func(s source) bool { return s.Cluster == home.Cluster })
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
	// A wish for where the topic goes anyhow, also the one that closing writes, changes nothing else.
	if next := w.m.wanted(*route); same(next, *route) {
		d.Wish = ref
		return w.save(ctx, store.Changes{})
	}
	w.retarget(ref, route)
	text := "the wish was edited by hand: the topic goes to " + route.Write
	if w.m.Ordered {
		d.NoOrder = "the wish was edited by hand"
		text += "; the order per key is not kept over this (R25)"
	}
	return w.enter(ctx, Switching, text)
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
	d.Reverse, d.GoBack = route.Write == w.m.data.firstHome(), false
	d.Target = target{Cluster: route.Write, Physical: w.now.Settings.Physical(w.m.Topic, route.Write), Start: broker.Offsets{}, Listed: true}
	d.Sources = nil
	for _, s := range route.Stays {
		if s.Cluster == route.Write || d.source(s.Cluster) != nil {
			continue
		}
		src := source{Cluster: s.Cluster, Physical: w.now.Settings.Physical(w.m.Topic, s.Cluster)}
		for _, old := range before {
			if old.Cluster == s.Cluster {
				src.Since = old.Since
			}
		}
		d.Sources = append(d.Sources, src)
	}
	for _, old := range before { // what has left the route is watched on
		if old.Final != nil && old.Cluster != route.Write && d.source(old.Cluster) == nil {
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

// enter stores the next state with the fences that it wants.
func (w *walk) enter(ctx context.Context, to State, why string, fences ...store.Fence) error {
	if !Allowed(w.m.state(), to) {
		return fmt.Errorf("%w: migration %s can not go from %s to %s", errs.ErrConflict, w.m.ID, w.m.State, to)
	}
	from := w.m.state()
	now := w.c.now().UTC()
	w.m.State = string(to)
	w.m.Waiting = ""
	d := &w.m.data
	took := now.Sub(d.Entered)
	d.Entered, d.Acks, d.Seen = now, nil, nil
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
	w.m.State, w.m.Outcome, w.m.EndedAt, w.m.Waiting = string(Done), outcome, &now, ""
	d := &w.m.data
	took := now.Sub(d.Entered)
	d.Entered, d.Acks, d.Seen = now, nil, nil
	if groups, err := w.c.readers(ctx, w.m.Topic); err == nil {
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
	err := w.c.db.Update(ctx, w.m.Migration, ch)
	if err == nil {
		w.later = nil
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
			parts = append(parts, fmt.Sprintf("… %d partitions", len(o)))
			break
		}
		parts = append(parts, fmt.Sprintf("%s: %d", name, o[name]))
	}
	return strings.Join(parts, ", ")
}
