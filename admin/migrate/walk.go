package migrate

import (
	"context"
	"errors"
	"fmt"
	"slices"
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
	lags    map[string]*lag.Lag // by cluster and group: the last look
	readers []metadata.Group    // of the topic, when sends began to pause
	marks   map[string]mark     // by cluster: what was there a while ago
	upto    broker.Offsets      // where the home of a range of keys ended when their sends paused, by the route of uptoAt
	uptoAt  metadata.Zxid
	opened  time.Time // when both clusters of a canary were last seen to be open
	// later are events that wait for the next save: while sends pause nothing is stored that need not be.
	later []store.Event
	told  []Notice // the same, for the webhook
	// said: when it was last stored what is waited for.
	said time.Time
	// asked: when it was last tried to follow a wish that nobody has answered.
	asked time.Time
}

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
	if acted, err := w.guards(ctx); acted || err != nil { // before anything that may wait for a cluster
		return 0, err
	}
	if err := w.assertFences(ctx); err != nil {
		return 0, err
	}
	s := w.m.state()
	if w.m.Paused && s != Holding && s != Fencing && w.now.Route.Hold == nil { // while sends wait it goes on
		return poll, w.waiting(ctx, w.paused())
	}
	waitFor, err := w.act(ctx)
	if err != nil {
		return 0, err
	}
	if waitFor == "" { // gone on, or ended
		return 0, nil
	}
	wait := poll
	switch s = w.m.state(); {
	case s == Holding || s == Fencing:
		wait = pollFast
	case s == Pending:
		wait = pollDead
	case s == Canarying && w.m.data.Canary.Asked == nil: // for days
		wait = assertEvery
	}
	if w.c.now().Sub(w.said) < time.Second { // numbers in it change, and while sends pause there is no time for books
		return wait, nil
	}
	w.said = w.c.now()
	if s != Pending { // who waits to read a cluster does not know what people can do
		if text := w.c.silent(ctx, w.m); text != "" {
			waitFor = text + ": " + waitFor
		}
	}
	return wait, w.waiting(ctx, waitFor)
}

// gone: the topic or its route is not in the metadata any more. Nothing is made of that: the route has what nobody else knows.
func (w *walk) gone(ctx context.Context) (time.Duration, error) {
	w.now = &scene{}
	if w.m.Request != store.None {
		w.m.data.Passed = nil // nothing is said of clusters whose fences nobody has looked at again
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
	case Canarying:
		return w.canarying(ctx)
	case Holding:
		return w.inHold(ctx, w.holding)
	case Fencing:
		return w.inHold(ctx, w.fencing)
	case Switching:
		return w.switching(ctx)
	case Pending:
		return w.pending(ctx)
	case Sealing:
		return w.sealing(ctx)
	case Draining:
		return w.draining(ctx)
	case Shutting:
		return w.shutting(ctx)
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
	if w.m.plan.Force {
		return w.force(ctx)
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
				events = append(events, event("created", nil, "topic %s was created on %s", d.Target.Physical, d.Target.Cluster))
			}
			d.Target.Start, err = ends(ctx, c, d.Target.Physical, nil) // somebody may write there; a start need not be steady
			return err
		})
		if err != nil {
			return "", err
		}
		for i := range d.Sources {
			src := &d.Sources[i]
			if src.Lost != nil {
				continue
			}
			if err := w.c.on(ctx, src.Cluster, func(c *clusters.Conn) (err error) {
				src.Since, err = ends(ctx, c, src.Physical, src.Since) // on the way back some of it is known
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
	if d.Canary != nil && !d.Reverse {
		return w.firstPart(ctx)
	}
	if w.m.ordered() {
		if waitFor, err := w.transactions(ctx); waitFor != "" || err != nil { // before sends pause for them
			return waitFor, err
		}
		if waitFor, err := w.attached(ctx, d.Target.Cluster, d.Target.Physical); waitFor != "" || err != nil {
			return waitFor, err
		}
		if waitFor, err := w.near(ctx); waitFor != "" || err != nil {
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
	if w.m.plan.Force && !d.Reverse { // nobody can be asked what it is like
		err := to.CreateTopic(ctx, d.Target.Physical, broker.TopicSpec{Partitions: w.m.plan.Partitions})
		return err == nil, err
	}
	var like *side
	src := d.source(d.Home)
	if src == nil {
		return false, err
	}
	if err := w.c.on(ctx, d.Home, func(c *clusters.Conn) error {
		info, err := c.DescribeTopic(ctx, src.Physical)
		like = &side{info, c.Kind}
		return err
	}); err != nil {
		return false, err
	}
	spec, err := creation(ctx, &w.m.plan, like, to)
	if err == nil {
		err = to.CreateTopic(ctx, d.Target.Physical, spec)
	}
	return err == nil, err
}

// hold makes sends pause. What has to be stored before the fence and before the target is opened is stored here, so that it
// takes no time while they do (R8).
func (w *walk) hold(ctx context.Context) error {
	d := &w.m.data
	var fences []store.Fence
	var err error
	if w.readers, err = w.c.meta.Readers(ctx, w.m.Topic); err != nil {
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

// holdLeft is for how long sends may go on pausing in this state. It begins anew for a controller that takes over.
func (w *walk) holdLeft() time.Duration {
	since := w.c.first(w.m.ID, w.m.state())
	if w.m.data.Entered.After(since) {
		since = w.m.data.Entered
	}
	return time.Duration(w.m.plan.Hold)*time.Millisecond - w.c.now().Sub(since)
}

// inHold does what a state asks for while sends pause, and no longer than they may: a cluster that hangs gets no more of
// their time. What comes of that the state decides at the next look.
func (w *walk) inHold(ctx context.Context, do func(context.Context) (string, error)) (waitFor string, err error) {
	bounded, cancel := context.WithTimeout(ctx, max(w.holdLeft(), w.c.least))
	defer cancel()
	waitFor, err = do(bounded)
	if err == nil || bounded.Err() == nil || ctx.Err() != nil {
		return waitFor, err
	}
	w.log.Warn("not done while sends may pause", zap.Error(err))
	return "", errors.Join(errAgain, w.c.say(ctx, w.m.ID, err.Error()))
}

// holding: nobody sends, and everybody has said so. Past the time that sends may pause the way back is taken: they have gone
// on by themselves then.
func (w *walk) holding(ctx context.Context) (string, error) {
	if c := w.m.data.Canary; c != nil && c.Next != nil {
		return w.holdingRange(ctx)
	}
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
	if w.holdLeft() < 0 {
		return "", w.revert(ctx, "sends may not pause longer; it waited for: "+w.m.Waiting)
	}
	for i := range d.Sources {
		if waitFor, err := w.sealSource(ctx, &d.Sources[i]); waitFor != "" || err != nil {
			return waitFor, err
		}
	}
	if w.m.canary() == nil { // which is read on both clusters, and of which nothing is left on the source
		if waitFor, err := w.attached(ctx, d.Target.Cluster, d.Target.Physical); waitFor != "" || err != nil {
			return waitFor, err
		}
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
		if w.readers, err = w.c.meta.Readers(ctx, w.m.Topic); err != nil {
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
	if dead := w.m.data.dead(); len(dead) > 0 {
		return "", w.enter(ctx, Pending, "everybody sends to "+w.m.data.Target.Cluster+"; "+some(dead)+" is waited for")
	}
	if waitFor, err := w.foreignWriters(ctx); waitFor != "" || err != nil {
		return waitFor, err
	}
	return "", w.enter(ctx, Sealing, "everybody sends to "+w.m.data.Target.Cluster)
}

// sealing: the sources refuse writers and are sealed (R7), but for those that can not while they are still read: shutting
// does that.
func (w *walk) sealing(ctx context.Context) (string, error) {
	d := &w.m.data
	for i := range d.Sources {
		if waitFor, err := w.sealSource(ctx, &d.Sources[i]); waitFor != "" || err != nil {
			return waitFor, err
		}
	}
	return "", w.enter(ctx, Draining, "sealed")
}

// transactions says which transactions keep a source from being closed.
func (w *walk) transactions(ctx context.Context) (waitFor string, err error) {
	for _, src := range w.m.data.Sources {
		err := w.c.on(ctx, src.Cluster, func(c *clusters.Conn) error { return decided(ctx, c, src.Physical) })
		switch {
		case errors.Is(err, errs.ErrConflict):
			return err.Error(), nil
		case err != nil && !errors.Is(err, errs.ErrUnknownTopic):
			return "", err
		}
	}
	return "", nil
}

// sealSource fences a source, sees it act, and reads its ends behind the fence.
func (w *walk) sealSource(ctx context.Context, src *source) (waitFor string, err error) {
	if src.Sealed != nil || src.Lost != nil {
		return "", nil
	}
	early, err := w.c.fencedEarly(ctx, src.Cluster)
	switch {
	case err != nil:
		return "", err
	case w.m.state() == Fencing && w.m.canary() != nil, !early && w.m.state() == Fencing && !w.c.opt.Off["R23"]:
		return w.emptySource(ctx, src)
	case !early:
		return "", nil
	}
	if err := w.toClose(ctx, src); err != nil {
		return "", err
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
		seal, err := w.c.steadyEnds(ctx, c, src.Physical, src.Final)
		if err != nil {
			return err
		}
		w.sealed(src, seal, missing)
		if w.m.state() == Fencing {
			return nil // stored with the next state; whoever takes over before that reads the ends again
		}
		return w.save(ctx, store.Changes{})
	})
	return waitFor, err
}

// toClose stores that a source is to be closed, before anything is done at the broker: whoever takes over knows what to put
// back (R8).
func (w *walk) toClose(ctx context.Context, src *source) error {
	if src.Intended {
		return nil
	}
	fences, err := w.intend(ctx, src)
	if err != nil {
		return err
	}
	return w.save(ctx, store.Changes{Fences: fences})
}

// closed closes a source and sees that it is. missing: it does not have the topic, nothing was ever sent there. ErrConflict: not
// yet.
func (w *walk) closed(ctx context.Context, c *clusters.Conn, src *source) (missing bool, err error) {
	if w.c.opt.Off["fence"] {
		return false, nil
	}
	err = w.c.shut(ctx, c, src.Physical)
	if errors.Is(err, errs.ErrUnknownTopic) {
		return true, nil
	}
	return false, err
}

// sealed notes the ends of a source that is closed.
func (w *walk) sealed(src *source, seal broker.Offsets, missing bool) {
	now := time.Now().UTC()
	src.Seal, src.Sealed = seal, &now
	text := "%s does not have the topic (%s)"
	if !missing {
		src.Fenced = &now
		text = "%s is closed to writers and ends at %s"
	}
	w.later = append(w.later, event("sealed", map[string]any{"cluster": src.Cluster, "offsets": seal}, text, src.Cluster, brief(seal)))
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
		if src.Lost != nil || slices.ContainsFunc(w.now.Route.Stays, func(s metadata.Stay) bool { return s.Cluster == src.Cluster }) {
			continue // or it is for a group that sleeps
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
	if w.m.canary() != nil {
		return w.stay(ctx, why)
	}
	fences, err := w.reopened(ctx)
	if err != nil {
		return err
	}
	return w.enter(ctx, Reverting, why, fences...)
}

// reopened are the rows that say that the sources are to be open.
func (w *walk) reopened(ctx context.Context) (fences []store.Fence, err error) {
	for _, src := range w.m.data.Sources {
		row, err := w.c.db.FenceOf(ctx, src.Cluster, src.Physical)
		switch {
		case errors.Is(err, errs.ErrNotFound):
		case err != nil:
			return nil, err
		case src.Intended && row.Wanted:
			reopen(row, w.c.now())
			row.Migration = "" // becomes this one
			fences = append(fences, *row)
		}
	}
	return fences, nil
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
	if waitFor, err := w.publish(ctx); waitFor != "" || err != nil { // before the target is asked anything: sends wait for this
		return waitFor, err
	}
	if d.Target.WasFenced { // closed since an earlier migration, and so it stays (R17)
		if err := w.closeAgain(ctx, d.Target.Cluster, d.Target.Physical); err != nil {
			return "", err
		}
	}
	if d.Target.WasFenced && !slices.ContainsFunc(w.now.Route.Stays, func(s metadata.Stay) bool { return s.Cluster == d.Target.Cluster }) { // who wrote there while it was open in vain is watched as before
		vain := source{Cluster: d.Target.Cluster, Physical: d.Target.Physical, Final: d.Target.Start}
		events, err := w.c.sendOn(ctx, w.now, &vain)
		w.later = append(w.later, events...)
		d.Target.Start = vain.Final
		if err != nil {
			return "", errors.Join(err, w.keep(ctx))
		}
		if old := d.passed(vain.Cluster); old != nil { // left before, and on the way back opened
			now := w.c.now()
			old.Fenced, old.Final, old.Rescued = &now, vain.Final, old.Rescued+vain.Rescued
		} else {
			d.Passed = append(d.Passed, vain)
		}
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
