package consumer

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/turnout-mq/turnout/broker"
	"github.com/turnout-mq/turnout/internal/clusters"
	"github.com/turnout-mq/turnout/internal/errs"
	"github.com/turnout-mq/turnout/internal/lag"
	"github.com/turnout-mq/turnout/internal/topics"
	"github.com/turnout-mq/turnout/metadata"
)

const (
	joinLimit  = 20 * time.Second
	leaveLimit = 2 * time.Minute // a listener may take its time
	lookLimit  = 10 * time.Second
	drainPoll  = 250 * time.Millisecond // between two looks at a cluster that is being left
	againFirst = 200 * time.Millisecond
	againMost  = 10 * time.Second
	againDead  = 500 * time.Millisecond // the same for a cluster that is given up: nobody waits, and its return must be noticed
)

// reader is one topic of a subscription: it is a member on the clusters that the route and the group's progress ask for.
type reader struct {
	s     *Subscription
	topic *topics.Topic
	log   *zap.Logger

	life   context.Context
	end    context.CancelFunc
	wake   chan struct{}
	done   chan struct{}
	tasks  sync.WaitGroup
	detach func()
	unhook func()

	mu      sync.Mutex
	sites   map[string]*site
	sealed  map[string]bool // sealed stays that the group has finished, by stayKey
	applied metadata.Zxid
	missing error // what keeps the newest view from being applied
	side    error // why the topic must not be read; nil: it may
	closed  bool
}

// site is one cluster as this reader uses it. It does one thing at a time: busy says that a goroutine is at it.
type site struct {
	cluster string
	busy    bool
	att     *attachment
	leaving bool      // att was told to leave, and may have done half of it
	err     error     // of the last thing it did
	again   time.Time // not before this
	wait    time.Duration
	looked  time.Time // when the broker was last asked; zero: never
	unread  int64     // what it answered, in and beside the topic
	count   *lag.Lag  // that answer; nil: none yet
	dead    bool      // the route gives the cluster up for now
	writing bool      // the topic is written there
	wrote   time.Time // when the topic was last seen to be written there, or to be no more
}

// attachment is a membership on one cluster, with all that must be renewed when it changes.
type attachment struct {
	r        *reader
	cluster  string
	physical string // topic
	shown    string // Delivery.Topic
	group    string // physical
	tags     string
	ordered  bool
	limit    broker.Offsets
	conn     *clusters.Conn
	member   broker.Member
	lastNew  atomic.Int64 // when a message was last handed over, in Unix nanoseconds
}

func newReader(s *Subscription, t *topics.Topic) *reader {
	r := &reader{s: s, topic: t, log: s.log.With(zap.String("topic", t.Name())), wake: make(chan struct{}, 1), done: make(chan struct{}),
		sites: map[string]*site{}, sealed: map[string]bool{}, missing: errNotFinished}
	r.life, r.end = context.WithCancel(context.Background())
	r.unhook = s.c.pool.OnChange(func(string) { r.kick() })
	r.detach = t.Attach(&topics.Part{Changed: r.kick, Report: r.report})
	go r.run()
	return r
}

func (r *reader) kick() {
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

func (r *reader) run() {
	defer close(r.done)
	for {
		next := r.converge()
		r.topic.Touch()
		r.s.signal()
		timer := time.NewTimer(time.Until(next))
		select {
		case <-r.life.Done():
			timer.Stop()
			return
		case <-r.wake:
		case <-timer.C:
		}
		timer.Stop()
	}
}

// stayKey tells sealed stays apart.
func stayKey(s metadata.Stay) string {
	end, err := json.Marshal(s.End)
	if err != nil {
		return s.Cluster
	}
	return s.Cluster + string(end)
}

// converge starts what has to be done now and returns when to look again.
func (r *reader) converge() time.Time {
	v, g := r.topic.View(), r.s.settings()
	route := &v.Route
	ordered := g.Order == metadata.OrderKey && route.Order == metadata.OrderKey
	now := time.Now()

	r.mu.Lock()
	defer r.mu.Unlock()
	next := now.Add(r.s.opt.recheck)
	later := func(t time.Time) {
		if t.Before(next) {
			next = t
		}
	}
	wants := plan(route, ordered, func(i int) bool { return r.sealed[stayKey(route.Stays[i])] })
	var missing []error
	side := r.side
	if r.side = r.wrongSide(v); r.side != nil {
		wants = nil // nobody of this side writes there
		missing = append(missing, r.side)
		if side == nil {
			r.log.Error("the topic is not read", zap.Error(r.side))
		}
	}
	wanted := map[string]bool{}
	for _, w := range wants {
		wanted[w.cluster] = true
		st := r.site(w.cluster)
		st.dead = slices.Contains(route.Dead, w.cluster)
		if writing := route.Writes(w.cluster); writing || st.writing {
			st.writing, st.wrote = writing, now
		}
		if st.att != nil { // positions are waited for where sends pause, and on a cluster that is left
			st.att.member.Hurry(route.Hold != nil || !route.Writes(w.cluster))
		}
		later(r.tend(st, w, v, g, ordered, now))
		if st.dead {
			continue
		}
		if err := st.unapplied(w); err != nil {
			missing = append(missing, err)
		} else if st.att != nil && (st.leaving || st.att.outdated(w, v, g, ordered)) {
			missing = append(missing, fmt.Errorf("cluster %q: the membership is being renewed", w.cluster))
		}
	}
	for name, st := range r.sites {
		if wanted[name] || st.busy {
			continue
		}
		if st.att != nil {
			r.leave(st)
			continue
		}
		delete(r.sites, name)
	}
	r.missing = errors.Join(missing...)
	if r.missing == nil && v.Written {
		r.applied = v.Zxid
	}
	return next
}

// tend takes the next step at a site and says when to look again. r.mu is held.
func (r *reader) tend(st *site, w want, v *topics.View, g *metadata.Group, ordered bool, now time.Time) time.Time {
	far := now.Add(time.Hour)
	if st.busy {
		return far // its end wakes the loop
	}
	if now.Before(st.again) {
		return st.again
	}
	if a := st.att; a != nil {
		switch {
		case st.leaving || a.outdated(w, v, g, ordered):
			r.leave(st)
			return far
		case !a.conn.Current():
			r.renew(st)
			return far
		}
		if !r.draining(w, v) {
			return far
		}
		if due := st.looked.Add(drainPoll); now.Before(due) {
			return due
		}
		if !w.stays && st.unread == 0 && st.err == nil && st.looked.After(time.Unix(0, a.lastNew.Load())) {
			quiet := now.Sub(latest(st.wrote, time.Unix(0, a.lastNew.Load())))
			if quiet >= r.s.opt.linger {
				r.log.Info("group leaves the cluster, it has finished it", zap.String("cluster", w.cluster))
				r.leave(st)
				return far
			}
		}
		r.look(st, v, g)
		return far
	}
	gone := !v.Route.Writes(w.cluster) && errors.Is(st.err, errs.ErrUnknownTopic) // nothing to join; a look says so of its stays
	if !gone && (w.stays || st.unread > 0 && !st.looked.IsZero()) {
		r.join(st, w, v, g, ordered)
		return far
	}
	if due := st.looked.Add(r.s.opt.recheck); !st.looked.IsZero() && now.Before(due) {
		return due
	}
	r.look(st, v, g)
	return far
}

// draining says that the broker is to be asked, again and again, whether the group has come to an end at a site: of a
// sealed stay, or of everything on a cluster that is left. r.mu is held.
func (r *reader) draining(w want, v *topics.View) bool {
	for _, s := range v.Route.Stays {
		if s.Cluster == w.cluster && !s.Open() && !r.sealed[stayKey(s)] {
			return true
		}
	}
	return !v.Route.Writes(w.cluster) && !slices.Contains(v.Route.Warm, w.cluster)
}

// unapplied says why the wish for a site is not fulfilled yet.
func (st *site) unapplied(w want) error {
	switch {
	case st.att != nil:
		state := st.att.member.State()
		if state.Attached {
			return nil
		}
		if state.Err != nil {
			return fmt.Errorf("cluster %q: %w", st.cluster, state.Err)
		}
		return fmt.Errorf("cluster %q: not attached yet", st.cluster)
	case st.err != nil:
		return fmt.Errorf("cluster %q: %w", st.cluster, st.err)
	case w.stays || st.looked.IsZero() || st.unread > 0:
		return fmt.Errorf("cluster %q: not attached yet", st.cluster)
	}
	return nil
}

func (r *reader) site(cluster string) *site {
	st := r.sites[cluster]
	if st == nil {
		st = &site{cluster: cluster}
		r.sites[cluster] = st
	}
	return st
}

// outdated says that the membership must be renewed to be what is wanted.
func (a *attachment) outdated(w want, v *topics.View, g *metadata.Group, ordered bool) bool {
	return a.physical != v.Settings.Physical(a.r.topic.Name(), a.cluster) || a.tags != g.Tags ||
		a.ordered != ordered || a.group != g.Physical(a.r.topic.Name()) || !sameDoc(a.limit, w.limit)
}

// do runs one thing at a site in the background; an error is repeated with backoff. r.mu is held.
func (r *reader) do(st *site, limit time.Duration, what func(ctx context.Context) error) {
	if r.closed {
		return
	}
	st.busy = true
	r.tasks.Go(func() {
		ctx, cancel := context.WithTimeout(r.life, limit)
		err := what(ctx)
		cancel()
		r.mu.Lock()
		st.busy = false
		if err == nil {
			st.wait, st.again = 0, time.Time{}
		} else {
			st.wait = min(max(2*st.wait, againFirst), againMost)
			if st.dead {
				st.wait = min(st.wait, againDead)
			}
			st.again = time.Now().Add(st.wait)
		}
		if err != nil && r.life.Err() == nil && !st.dead && (st.err == nil || st.err.Error() != err.Error()) {
			r.log.Warn("cluster not reached, trying again", zap.String("cluster", st.cluster), zap.Error(err))
		}
		st.err = err
		r.mu.Unlock()
		r.kick()
	})
}

// join becomes a member. r.mu is held.
func (r *reader) join(st *site, w want, v *topics.View, g *metadata.Group, ordered bool) {
	name := r.topic.Name()
	a := &attachment{r: r, cluster: st.cluster, physical: v.Settings.Physical(name, st.cluster), group: g.Physical(name),
		shown: r.s.shownTopic(name), tags: g.Tags, ordered: ordered, limit: w.limit}
	r.do(st, joinLimit, func(ctx context.Context) error {
		if err := r.registerFrom(ctx, g, st.cluster); err != nil {
			return err
		}
		conn, err := r.s.c.pool.Acquire(ctx, st.cluster)
		if err != nil {
			return err
		}
		a.conn = conn
		member, err := conn.Join(ctx, broker.Membership{
			Group: a.group, Topic: a.physical, Retries: true, Exclusive: ordered, Tag: a.tags, Claim: a.claim, Changed: r.kick,
			Start: func() broker.Offsets { return r.s.settings().StartOn(&r.topic.View().Route, name, st.cluster) },
		})
		if err != nil {
			conn.Release()
			return err
		}
		a.member = member
		r.mu.Lock()
		st.att, st.looked = a, time.Time{}
		r.mu.Unlock()
		r.log.Info("group reads the cluster", zap.String("cluster", st.cluster))
		return nil
	})
}

// leave ends a membership. r.mu is held.
func (r *reader) leave(st *site) {
	st.leaving = true
	r.do(st, leaveLimit, func(ctx context.Context) error { return r.depart(ctx, st) })
}

// depart ends the membership at a site.
func (r *reader) depart(ctx context.Context, st *site) error {
	if err := st.att.member.Leave(ctx); err != nil && !errors.Is(err, errs.ErrClosed) {
		return err
	}
	st.att.conn.Release()
	r.mu.Lock()
	defer r.mu.Unlock()
	st.att, st.leaving, st.looked, st.unread, st.count = nil, false, time.Now(), 0, nil
	return nil
}

// renew ends a membership over a connection that was replaced, when the new one is there. r.mu is held.
func (r *reader) renew(st *site) {
	r.do(st, leaveLimit, func(ctx context.Context) error {
		conn, err := r.s.c.pool.Acquire(ctx, st.cluster)
		if err != nil {
			return err
		}
		defer conn.Release()
		r.mu.Lock()
		st.leaving = true
		r.mu.Unlock()
		return r.depart(ctx, st)
	})
}

// look asks the broker whether the group has anything left on the cluster. r.mu is held.
func (r *reader) look(st *site, v *topics.View, g *metadata.Group) {
	r.do(st, lookLimit, func(ctx context.Context) error {
		r.mu.Lock()
		before := st.count
		r.mu.Unlock()
		now, finished, err := r.count(ctx, st.cluster, before, v, g)
		if err != nil {
			return err
		}
		r.mu.Lock()
		st.count, st.unread, st.looked = now, now.Unread+now.Beside(), time.Now()
		for _, key := range finished {
			if !r.sealed[key] {
				r.sealed[key] = true
				r.log.Info("group has finished a stay", zap.String("cluster", st.cluster))
			}
		}
		r.mu.Unlock()
		return nil
	})
}

// count counts what the group has not finished on a cluster and lists the sealed stays there that it has finished. before is
// the count before it, or nil.
func (r *reader) count(ctx context.Context, cluster string, before *lag.Lag, v *topics.View, g *metadata.Group) (now *lag.Lag, finished []string, err error) {
	conn, err := r.s.c.pool.Acquire(ctx, cluster)
	if err != nil {
		return nil, nil, err
	}
	defer conn.Release()
	name := r.topic.Name()
	now, err = lag.Of(ctx, conn, v.Settings.Physical(name, cluster), g.Physical(name), g.StartOn(&v.Route, name, cluster), before)
	if err != nil {
		return nil, nil, err
	}
	for _, s := range v.Route.Stays {
		if s.Cluster == cluster && !s.Open() && now.Finished(s.End) {
			finished = append(finished, stayKey(s))
		}
	}
	return now, finished, nil
}

// registerFrom writes where a group with start "latest" begins, once, before its first member joins cluster (R12). While a
// cluster is dead nobody can tell where it ends: then the group begins on the others where their stays begin.
func (r *reader) registerFrom(ctx context.Context, g *metadata.Group, cluster string) error {
	if g.Start != metadata.StartLatest || g.From[r.topic.Name()] != nil {
		return nil
	}
	v := r.topic.View()
	if dead := v.Route.Dead; len(dead) > 0 && !slices.Contains(dead, cluster) {
		return nil
	}
	from := map[string]broker.Offsets{}
	for _, s := range v.Route.Stays {
		conn, err := r.s.c.pool.Acquire(ctx, s.Cluster)
		if err != nil {
			return err
		}
		ends, err := conn.EndOffsets(ctx, v.Settings.Physical(r.topic.Name(), s.Cluster))
		conn.Release()
		if err != nil && !errors.Is(err, errs.ErrUnknownTopic) {
			return err
		}
		from[s.Cluster] = ends
	}
	path := r.s.c.store.GroupPath(r.s.group)
	node, err := r.s.c.store.Read(ctx, path)
	if err != nil {
		return err
	}
	doc, err := metadata.ParseGroup(node.Data)
	if err != nil {
		return err
	}
	if doc.From[r.topic.Name()] == nil {
		if doc.From = maps.Clone(doc.From); doc.From == nil {
			doc.From = map[string]map[string]broker.Offsets{}
		}
		doc.From[r.topic.Name()] = from
		data, err := json.Marshal(doc)
		if err != nil {
			return err
		}
		if err := r.s.c.store.Set(ctx, path, data, node.Version); err != nil && !errors.Is(err, errs.ErrConflict) {
			return fmt.Errorf("start of the group (latest) can not be recorded: %w", err)
		}
	}
	_, err = r.s.source.Refresh(ctx)
	if err == nil && r.s.settings().From[r.topic.Name()] == nil {
		err = fmt.Errorf("start of the group (latest): %w", errs.ErrConflict) // somebody else wrote; look again
	}
	return err
}

// wrongSide says why the topic must not be read: it is not on the group's side of the stress mark.
func (r *reader) wrongSide(v *topics.View) error {
	name := r.topic.Name()
	if v.Settings.IsShadow(name) == r.s.shadow {
		return nil
	}
	if r.s.shadow {
		return fmt.Errorf("%w: topic %q is no shadow topic; say shadowOf in its settings (turnout topic put %s --shadow-of …)", errs.ErrNoShadow, name, name)
	}
	return fmt.Errorf("%w: topic %q is a shadow topic, which the shadow group of a group reads; take it out of the group", errs.ErrNotAllowed, name)
}

// notReady says what the reader waits for.
func (r *reader) notReady() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.missing != nil {
		return fmt.Errorf("topic %q: %w", r.topic.Name(), r.missing)
	}
	return nil
}

// report is what the participant node says of this group.
func (r *reader) report() topics.Report {
	v := r.topic.View()
	r.mu.Lock()
	defer r.mu.Unlock()
	on := map[string]metadata.Participation{}
	var troubles []string
	for name, st := range r.sites {
		open, sealed := false, true
		for _, s := range v.Route.Stays {
			if s.Cluster == name {
				open = open || s.Open()
				sealed = sealed && (s.Open() || r.sealed[stayKey(s)])
			}
		}
		attached := st.att != nil && st.att.member.State().Attached
		switch {
		case !v.Route.Writes(name) && sealed && (!open || st.att == nil && !st.looked.IsZero() && st.unread == 0 && st.err == nil):
			on[name] = metadata.Finished
		case attached:
			on[name] = metadata.Attached
		}
		if st.dead {
			continue
		}
		if st.err != nil {
			troubles = append(troubles, fmt.Sprintf("group %s, cluster %s: %v", r.s.group, name, st.err))
		} else if st.att != nil {
			if err := st.att.member.State().Err; err != nil {
				troubles = append(troubles, fmt.Sprintf("group %s, cluster %s: %v", r.s.group, name, err))
			}
		}
	}
	for _, s := range v.Route.Stays { // sealed, finished and left
		if _, listed := on[s.Cluster]; !listed && !s.Open() && r.sealed[stayKey(s)] && r.sites[s.Cluster] == nil {
			on[s.Cluster] = metadata.Finished
		}
	}
	if r.side != nil {
		troubles = append(troubles, fmt.Sprintf("group %s: %v", r.s.group, r.side))
	}
	if n := r.s.count.misplaced.Load(); n > 0 {
		troubles = append(troubles, fmt.Sprintf("group %s: %d messages of the other side of the stress mark came here and went to the dead letters", r.s.group, n))
	}
	if err := r.s.problem(); err != nil {
		troubles = append(troubles, err.Error())
	}
	slices.Sort(troubles)
	return topics.Report{Zxid: r.applied, Groups: map[string]map[string]metadata.Participation{r.s.group: on}, Err: strings.Join(troubles, "; ")}
}

// close leaves every cluster.
func (r *reader) close(ctx context.Context) error {
	r.end()
	<-r.done
	r.mu.Lock()
	r.closed = true
	r.mu.Unlock()
	r.tasks.Wait() // their ctx has ended
	r.mu.Lock()
	var open []*site
	for _, st := range r.sites {
		if st.att != nil {
			open = append(open, st)
		}
	}
	r.mu.Unlock()
	failed := make([]error, len(open))
	var wg sync.WaitGroup
	for i, st := range open {
		wg.Go(func() { failed[i] = r.depart(ctx, st) })
	}
	wg.Wait()
	err := errors.Join(failed...)
	if err == nil && r.detach != nil {
		r.unhook()
		r.detach()
		r.detach = nil
		r.topic.Release()
	}
	return err
}

func latest(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}
