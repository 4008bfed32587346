package producer

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/turnout-mq/turnout/internal/clusters"
	"github.com/turnout-mq/turnout/internal/errs"
	"github.com/turnout-mq/turnout/internal/topics"
	"github.com/turnout-mq/turnout/metadata"
)

const (
	warmLimit  = 10 * time.Second
	retryFirst = 100 * time.Millisecond
	retryMost  = 5 * time.Second
)

// target is one cluster under one view, with the sends that use it.
type target struct {
	conn     *clusters.Conn
	physical string
	view     *topics.View
	wrong    error // why nothing may be sent to it
	// canary is where sends go whose key is in the view's canary range; nil: there is none, or it takes all sends anyhow. It
	// is a target of its own, which comes and goes with this one.
	canary   *target
	tally    *tally
	inflight atomic.Int64
	left     atomic.Bool     // replaced by another; the loop waits for inflight to fall to 0
	dead     atomic.Bool     // given up: nobody waits for its sends
	ctx      context.Context // ends when it is given up, when its sends have ended, and with the producer
	end      context.CancelFunc
}

// of is the target of sends with that key.
func (t *target) of(key []byte) *target {
	if t.canary != nil && metadata.InRange(t.view.Route.Canary.Keys, key) {
		return t.canary
	}
	return t
}

// sides are the target and its canary.
func (t *target) sides() []*target {
	switch {
	case t == nil:
		return nil
	case t.canary == nil:
		return []*target{t}
	}
	return []*target{t, t.canary}
}

// outlet is one topic as this process sends to it.
type outlet struct {
	p       *Producer
	topic   *topics.Topic
	log     *zap.Logger
	lanes   lanes
	used    atomic.Bool  // since the last idle check
	waiting atomic.Int64 // sends that wait for a target
	wake    chan struct{}
	ctx     context.Context
	cancel  context.CancelFunc
	done    chan struct{}
	detach  func()
	unhook  func()

	mu      sync.RWMutex
	cur     *target
	held    bool          // sends wait (protocol: hold)
	overFor metadata.Zxid // the route whose hold has lasted its time
	retired bool
	trouble error         // why cur is not what the view says; nil when it is
	changed chan struct{} // closed and replaced when any of the above changes
	leaving []*target
	warm    map[string]*clusters.Conn // prepared for a later switch
	tallies map[string]*tally         // of the clusters that were sent to, by name; written by the loop alone
	applied metadata.Zxid
	// interrupt ends the step that is being taken: the view has changed under it. nil: none is.
	interrupt context.CancelFunc
}

func newOutlet(p *Producer, t *topics.Topic) *outlet {
	ctx, cancel := context.WithCancel(context.Background())
	o := &outlet{p: p, topic: t, log: p.log.With(zap.String("topic", t.Name())), wake: make(chan struct{}, 1), ctx: ctx, cancel: cancel,
		done: make(chan struct{}), changed: make(chan struct{}), warm: map[string]*clusters.Conn{}, tallies: map[string]*tally{}}
	o.used.Store(true)
	return o
}

// open starts following the route. It is called once, after the outlet was put into the producer's map.
func (o *outlet) open() {
	o.unhook = o.p.pool.OnChange(func(string) { o.kick() })
	o.detach = o.topic.Attach(&topics.Part{Changed: o.viewChanged, Report: o.report})
	go o.run()
}

// close ends it; no send uses it any more.
func (o *outlet) close() {
	o.cancel()
	<-o.done
	o.detach()
	o.unhook()
	o.mu.Lock()
	held := slices.Collect(maps.Values(o.warm))
	for _, t := range append(o.cur.sides(), o.leaving...) {
		t.end()
		held = append(held, t.conn)
	}
	o.cur, o.leaving, o.warm = nil, nil, map[string]*clusters.Conn{}
	o.mu.Unlock()
	for _, c := range held {
		c.Release()
	}
	o.topic.Release()
}

// retire shuts an idle outlet's door; false when it is in use.
func (o *outlet) retire() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	used := func(t *target) bool { return t.inflight.Load() > 0 }
	if slices.ContainsFunc(o.cur.sides(), used) || len(o.leaving) > 0 || !o.lanes.empty() || o.waiting.Load() > 0 {
		return false
	}
	o.retired = true
	o.signal()
	return true
}

func (o *outlet) kick() {
	select {
	case o.wake <- struct{}{}:
	default:
	}
}

// viewChanged has the loop take up the new view now, also where it waits for a cluster of the one before.
func (o *outlet) viewChanged() {
	o.mu.RLock()
	interrupt := o.interrupt
	o.mu.RUnlock()
	if interrupt != nil {
		interrupt()
	}
	o.kick()
}

// signal tells waiting sends that something changed. o.mu is held.
func (o *outlet) signal() {
	close(o.changed)
	o.changed = make(chan struct{})
}

var errRetired = errors.New("given up while idle")

// acquire returns the target of the next send with that key, counted on it; end it with release. It waits while the route says
// hold, while a new session was not read yet, and until the first target is there.
func (o *outlet) acquire(ctx context.Context, key []byte) (*target, error) {
	if settled := o.topic.Settled(); settled != nil {
		select {
		case <-settled:
		case <-ctx.Done():
		case <-o.p.ctx.Done():
		}
	}
	for {
		o.mu.RLock()
		t := o.cur
		if t != nil && (!o.held || !t.view.Route.Hold.Pauses(key)) && !o.retired && t.wrong == nil {
			if t.canary != nil {
				t = t.of(key)
			}
			t.inflight.Add(1)
			o.mu.RUnlock()
			if !o.used.Load() {
				o.used.Store(true)
			}
			return t, nil
		}
		changed, trouble, retired := o.changed, o.trouble, o.retired
		o.waiting.Add(1)
		o.mu.RUnlock()
		err := o.acquirable(ctx, t, changed, trouble, retired)
		o.waiting.Add(-1)
		if err != nil {
			return nil, err
		}
	}
}

// acquirable waits until something has changed; the error says that nothing is to be waited for.
func (o *outlet) acquirable(ctx context.Context, t *target, changed <-chan struct{}, trouble error, retired bool) error {
	switch {
	case retired:
		return errRetired
	case t != nil && t.wrong != nil: // the settings have changed while it waited
		return t.wrong
	case t == nil && final(trouble):
		return trouble
	}
	select {
	case <-changed:
		return nil
	case <-ctx.Done():
		if trouble != nil {
			return fmt.Errorf("%w (%w)", ctx.Err(), trouble)
		}
		return ctx.Err()
	case <-o.p.ctx.Done():
		return errs.ErrClosed
	}
}

// final says that waiting will not mend it.
func final(err error) bool {
	return err != nil && (errors.Is(err, errs.ErrUnknownTopic) || errors.Is(err, errs.ErrNotAllowed) || errors.Is(err, errs.ErrInvalid) || errors.Is(err, errs.ErrNotFound))
}

// release ends one use of t.
func (o *outlet) release(t *target) {
	if t.inflight.Add(-1) == 0 && t.left.Load() {
		o.kick()
	}
}

// await waits until something changed or d has passed.
func (o *outlet) await(ctx context.Context, d time.Duration) error {
	o.mu.RLock()
	changed := o.changed
	o.mu.RUnlock()
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-changed:
	case <-timer.C:
	case <-ctx.Done():
		return ctx.Err()
	case <-o.p.ctx.Done():
		return errs.ErrClosed
	}
	return nil
}

// report is what the participant node says of this process's sends.
func (o *outlet) report() topics.Report {
	o.mu.RLock()
	defer o.mu.RUnlock()
	r := topics.Report{Zxid: o.applied, Held: o.held, Inflight: map[string]int64{}}
	if o.cur != nil {
		r.Write = o.cur.conn.Name
		if o.cur.canary != nil {
			r.Canary = o.cur.canary.conn.Name
		}
	}
	for name := range o.warm {
		r.Warm = append(r.Warm, name)
	}
	for _, t := range o.leaving {
		r.Inflight[t.conn.Name] += t.inflight.Load()
	}
	if o.trouble != nil {
		r.Err = o.trouble.Error()
	}
	if v := o.topic.View(); v != nil && v.Route.Migration != "" {
		r.Sends = map[string]metadata.Sends{}
		for name, t := range o.tallies {
			if s, sent := t.sends(); sent {
				r.Sends[name] = s
			}
		}
	}
	return r
}

// tallyOf is where sends to a cluster are counted; what was counted of clusters that the view does not name is forgotten.
func (o *outlet) tallyOf(v *topics.View, cluster string) *tally {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.tallies[cluster] == nil {
		o.tallies[cluster] = newTally()
	}
	used := v.Route.Clusters()
	maps.DeleteFunc(o.tallies, func(name string, _ *tally) bool { return name != cluster && !slices.Contains(used, name) })
	return o.tallies[cluster]
}

// run makes the target what the view says, and keeps it so.
func (o *outlet) run() {
	defer close(o.done)
	wait := retryFirst
	var retry, hold <-chan time.Time
	var heldBy metadata.Zxid // the route whose hold is being kept
	for {
		ctx, cancel := context.WithCancel(o.ctx)
		o.mu.Lock()
		o.interrupt = cancel
		o.mu.Unlock()
		v := o.topic.View() // after that: a change from here on is an interruption
		err := o.converge(ctx, v)
		cancel()
		if err == nil {
			wait, retry = retryFirst, nil
		} else {
			retry = time.After(wait)
			wait = min(2*wait, retryMost)
		}
		switch {
		case v.Route.Hold == nil:
			hold, heldBy = nil, 0
		case heldBy != v.Zxid:
			hold, heldBy = time.After(time.Duration(v.Route.Hold.MS)*time.Millisecond), v.Zxid
		}
		select {
		case <-o.ctx.Done():
			return
		case <-o.wake:
		case <-retry:
		case <-hold:
			hold = o.endHold(v)
		}
	}
}

// endHold lets sends go on when the hold of view v has lasted its time and a fresh look finds nothing newer. A send that should
// not have gone is refused by the cluster, or read there before the next cluster is opened (R19, R23). Where other keys go on
// nobody refuses it: the hold is taken off the route before, so that nobody counts on it (R24).
func (o *outlet) endHold(v *topics.View) (again <-chan time.Time) {
	ctx, cancel := context.WithTimeout(o.ctx, warmLimit)
	defer cancel()
	var err error
	if len(v.Route.Hold.Keys) > 0 {
		err = o.topic.EndHold(ctx, v)
	} else {
		err = o.topic.Refresh(ctx)
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.topic.View() != v { // the loop sees it, and goes on with this where the hold is the same
		return time.After(time.Second)
	}
	if o.cur == nil || len(v.Route.Hold.Keys) > 0 || err != nil {
		return time.After(time.Second)
	}
	o.held, o.overFor = false, v.Zxid
	o.signal()
	return nil
}

// converge takes the steps from the present target to what v says. An error means that a step is to be repeated.
func (o *outlet) converge(ctx context.Context, v *topics.View) error {
	o.mu.RLock()
	cur := o.cur
	o.mu.RUnlock()
	old := func(t *target) bool { return !t.conn.Current() }
	var err error
	if cur == nil || cur.view != v || slices.ContainsFunc(cur.sides(), old) {
		err = o.turn(ctx, v)
	}
	if err == nil {
		err = o.prepare(ctx, v)
	}
	if err != nil && ctx.Err() != nil {
		o.kick()
		return nil //nolint:nilerr // interrupted: the next look is at once
	}
	o.settle(v, err)
	return err
}

// turn warms the view's clusters and makes them the target.
func (o *outlet) turn(ctx context.Context, v *topics.View) error {
	ctx, cancel := context.WithTimeout(ctx, warmLimit)
	defer cancel()
	o.mu.RLock()
	cur := o.cur
	o.mu.RUnlock()
	write, canary := o.clusters(v)
	next, err := o.aim(ctx, v, cur, write)
	if err == nil && canary != "" {
		if next.canary, err = o.aim(ctx, v, cur, canary); err != nil {
			next.conn.Release()
		}
	}
	if err != nil {
		return fmt.Errorf("sends stay where they are: %w", err)
	}
	if now := o.topic.View(); now != v {
		if w, c := o.clusters(now); w != write || c != canary { // left again before it was used
			for _, t := range next.sides() {
				t.conn.Release()
			}
			o.kick()
			return nil
		}
	}
	for _, t := range next.sides() {
		t.ctx, t.end = context.WithCancel(o.p.ctx) //nolint:fatcontext // one for each
	}
	o.mu.Lock()
	old := o.cur
	o.cur, o.held = next, v.Route.Hold != nil && o.overFor != v.Zxid
	for _, t := range old.sides() {
		t.left.Store(true)
		o.leaving = append(o.leaving, t)
	}
	o.signal()
	o.mu.Unlock()
	if old == nil || old.conn.Name != write || (old.canary != nil) != (canary != "") {
		o.log.Info("sends go to", zap.String("cluster", write), zap.String("canary", canary), zap.Stringer("zxid", v.Zxid))
	}
	return nil
}

// clusters are those that this process sends to under a view: all its sends, but for the canary's keys, if there are such.
func (o *outlet) clusters(v *topics.View) (write, canary string) {
	write = v.Route.WriteOf(o.topic.Instance())
	if c := v.Route.Canary; c != nil && c.Write != write && len(c.Keys) > 0 {
		canary = c.Write
	}
	return write, canary
}

// aim is a target on a cluster, which is warmed unless sends go there now.
func (o *outlet) aim(ctx context.Context, v *topics.View, cur *target, cluster string) (*target, error) {
	conn, err := o.p.pool.Acquire(ctx, cluster)
	if err != nil {
		return nil, err
	}
	t := &target{conn: conn, physical: v.Settings.Physical(o.topic.Name(), cluster), view: v, wrong: o.wrongSide(v), tally: o.tallyOf(v, conn.Name)}
	if !slices.ContainsFunc(cur.sides(), t.same) {
		if err := conn.Warm(ctx, t.physical); err != nil {
			conn.Release()
			return nil, fmt.Errorf("cluster %q, topic %q: %w", cluster, t.physical, err)
		}
	}
	return t, nil
}

// same says whether u is another use of the same topic over the same connection.
func (t *target) same(u *target) bool {
	return t.conn.Cluster == u.conn.Cluster && t.physical == u.physical
}

// prepare keeps the clusters of the view's warm list open and warm, and lets go of others.
func (o *outlet) prepare(ctx context.Context, v *topics.View) error {
	want := map[string]bool{}
	var failures []error
	for _, name := range v.Route.Warm {
		want[name] = true
		o.mu.RLock()
		have := o.warm[name]
		o.mu.RUnlock()
		if have != nil && have.Current() {
			continue
		}
		conn, err := o.warmUp(ctx, name)
		if err != nil {
			failures = append(failures, fmt.Errorf("not warm yet: cluster %q: %w", name, err))
			continue
		}
		o.mu.Lock()
		o.warm[name] = conn
		o.mu.Unlock()
		if have != nil {
			have.Release()
		}
	}
	o.mu.Lock()
	var drop []*clusters.Conn
	for name, conn := range o.warm {
		if !want[name] {
			delete(o.warm, name)
			drop = append(drop, conn)
		}
	}
	o.mu.Unlock()
	for _, conn := range drop {
		conn.Release()
	}
	return errors.Join(failures...)
}

func (o *outlet) warmUp(ctx context.Context, name string) (*clusters.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, warmLimit)
	defer cancel()
	conn, err := o.p.pool.Acquire(ctx, name)
	if err != nil {
		return nil, err
	}
	// A cluster that is prepared may be fenced until the switch (R9, R19): connected is what counts.
	if err := conn.Warm(ctx, o.topic.Physical(name)); err != nil && !errors.Is(err, errs.ErrFenced) {
		conn.Release()
		return nil, err
	}
	return conn, nil
}

// settle lets go of left targets whose sends have ended and notes how far the view is applied.
func (o *outlet) settle(v *topics.View, err error) {
	o.mu.Lock()
	var drop []*clusters.Conn
	o.leaving = slices.DeleteFunc(o.leaving, func(t *target) bool {
		if t.inflight.Load() > 0 {
			return false
		}
		t.end()
		drop = append(drop, t.conn)
		return true
	})
	turned := o.cur != nil && o.cur.view == v
	awaited := false // sends that were begun before
	for _, t := range o.leaving {
		if turned && slices.Contains(v.Route.Dead, t.conn.Name) {
			t.giveUp()
		}
		awaited = awaited || !t.dead.Load()
	}
	if !sameText(o.trouble, err) {
		o.trouble = err
		o.signal()
		if err != nil && o.ctx.Err() == nil {
			o.log.Warn("route not applied yet", zap.Error(err))
		}
	}
	if turned && !awaited && err == nil && v.Written {
		o.applied = v.Zxid
	}
	o.mu.Unlock()
	for _, c := range drop {
		c.Release()
	}
	o.topic.Touch()
}

func sameText(a, b error) bool {
	return a == nil && b == nil || a != nil && b != nil && a.Error() == b.Error()
}

// tooLargeOrFenced tells why a cluster refused a message of that many bytes (R26).
func (o *outlet) tooLargeOrFenced(ctx context.Context, t *target, size int) (refusal, error) {
	ctx, cancel := t.within(ctx)
	defer cancel()
	info, err := t.conn.DescribeTopic(ctx, t.physical)
	switch {
	case errors.Is(err, errs.ErrNotAllowed) || err == nil && !info.Fenced && info.MaxMessageBytes == 0:
		return unknownRefusal, nil
	case err != nil:
		return unknownRefusal, err
	case info.Fenced, int64(size+wireBytes) <= info.MaxMessageBytes: // the fence may be gone by now
		return fenced, nil
	}
	return tooLarge, fmt.Errorf("%w: cluster %q takes at most %d bytes for topic %q, the message has %d", errs.ErrTooLarge, t.conn.Name, info.MaxMessageBytes, t.physical, size)
}

// wireBytes is more than a cluster counts of a message beside its key, body and headers.
const wireBytes = 1024

type refusal int

const (
	unknownRefusal refusal = iota // nobody may say: it counts as a fence for 30 s
	fenced
	tooLarge
)
