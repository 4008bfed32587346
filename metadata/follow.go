package metadata

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/go-zookeeper/zk"
	"go.uber.org/zap"

	"github.com/turnout-mq/turnout/internal/errs"
)

// Update is what a Follower tells.
type Update[T any] struct {
	Value T
	Known bool // whether there ever was a good value; Value is the last one
	Node  Node // that Value was read from; without a value: the node as it is now
	// Err says why what is in ZooKeeper now is not in force: ErrNotFound (deleted, or not there yet), ErrInvalid,
	// ErrTooLarge, ErrNotAllowed (to read it), ErrConflict (another ensemble, or an older value than we have seen). nil when
	// Value is the newest.
	Err error
	// Stale: Err and Value were not confirmed on the present connection, or there is none, or they come from the snapshot.
	Stale bool
}

// FollowOption changes how a node is followed.
type FollowOption func(*Follower)

// WithSpread waits for the time that spread gives between a notice and the read it causes, so that many instances do not
// read at the same moment. Refresh and the read after a reconnect do not wait.
func WithSpread(spread func() time.Duration) FollowOption {
	return func(f *Follower) { f.spread = spread }
}

// WithoutMemory follows what counts only as it is now: nothing is kept in the snapshot or taken from it, and nothing stays in force
// when the node is deleted or can not be read.
func WithoutMemory() FollowOption {
	return func(f *Follower) { f.target.forget() }
}

// Follower keeps somebody told of a node.
type Follower struct {
	s      *Store
	path   string
	target target
	spread func() time.Duration

	ctx    context.Context
	cancel context.CancelFunc
	done   chan struct{}
	wake   chan struct{} // the session changed, or there are waiters

	mu      sync.Mutex
	waiters []chan refreshed
	ended   bool
}

type refreshed struct {
	session int64
	err     error
}

// target is what a Follower does with what it reads. Its methods are called from the Follower's goroutine.
type target interface {
	children() bool
	forget()                       // WithoutMemory
	restore()                      // from the snapshot
	doubtful(w watched) bool       // looks older than what we have: worth a sync
	take(w watched, session int64) // what was read
	changed(n Node) bool           // n, of which only the stat is known, is not what was read last
	fail(err error)                // it can not be read, or must not be
	stale()                        // disconnected
}

// Follow keeps fn told of the newest good value of a node, which need not exist yet. fn is called from a goroutine of the
// Follower, one call at a time: first with what ZooKeeper says (or, while it can not be reached, with the value of the
// snapshot if there is one), and again whenever anything in the Update changes; changes that come quickly may coalesce into
// the newest. A value that was read stays in force when the node is deleted; one that is only known from the snapshot does not. A slow fn delays its own Follower only. fn must not call Refresh or Close of its Follower, nor Close of
// the Store.
//
// parse must be a pure function; Route, Cluster and Group values also get what they take from their node. Followers of a
// closed Store never call fn.
func Follow[T any](s *Store, path string, parse func([]byte) (T, error), fn func(Update[T]), opts ...FollowOption) *Follower {
	return s.follow(path, &value[T]{s: s, path: path, parse: parse, fn: fn, memory: true}, opts)
}

// FollowChildren keeps fn told of the names of a node's children, sorted; none when there is no such node. err says why
// names may not be the newest: ErrConflict (another ensemble), ErrNotAllowed. Calls of fn as Follow. Nothing is
// said of lost connections: see OnSession.
func FollowChildren(s *Store, path string, fn func(names []string, err error), opts ...FollowOption) *Follower {
	return s.follow(path, &names{s: s, path: path, fn: fn, memory: true}, opts)
}

func (s *Store) follow(path string, t target, opts []FollowOption) *Follower {
	f := &Follower{s: s, path: path, target: t, done: make(chan struct{}), wake: make(chan struct{}, 1)}
	for _, opt := range opts {
		opt(f)
	}
	f.ctx, f.cancel = context.WithCancel(s.ctx)
	s.mu.Lock()
	s.followers[f] = struct{}{}
	s.mu.Unlock()
	if !s.spawn(f.run) {
		f.cancel()
		f.finish()
	}
	return f
}

func (s *Store) wakeFollowers() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for f := range s.followers {
		poke(f.wake)
	}
}

// Refresh reads the node now, after a sync, and returns the session in which that was done; fn was called with the result
// if it was anything new. It waits while ZooKeeper is unreachable. An error says that it could not be read: ctx's
// error, ErrClosed, ErrNotAllowed, ErrConflict (another ensemble). A value that is not good is no error here: fn was told.
func (f *Follower) Refresh(ctx context.Context) (session int64, err error) {
	for {
		if _, err := f.s.connected(ctx); err != nil {
			return 0, fmt.Errorf("refresh %s: %w", f.path, err)
		}
		reply := make(chan refreshed, 1)
		f.mu.Lock()
		if f.ended {
			f.mu.Unlock()
			return 0, fmt.Errorf("refresh %s: %w", f.path, errs.ErrClosed)
		}
		f.waiters = append(f.waiters, reply)
		f.mu.Unlock()
		poke(f.wake)
		select {
		case r := <-reply:
			if !errors.Is(r.err, errLost) {
				return r.session, r.err
			}
		case <-ctx.Done():
			return 0, fmt.Errorf("refresh %s: waiting for ZooKeeper %s: %w", f.path, f.s.cfg.ZooKeeper, ctx.Err())
		}
	}
}

// Close ends the following; fn is not called after it returned. Idempotent.
func (f *Follower) Close() {
	f.cancel()
	<-f.done
}

func (f *Follower) finish() {
	f.mu.Lock()
	f.ended = true
	waiters := f.waiters
	f.waiters = nil
	f.mu.Unlock()
	for _, w := range waiters {
		w <- refreshed{err: fmt.Errorf("refresh %s: %w", f.path, errs.ErrClosed)}
	}
	f.s.mu.Lock()
	delete(f.s.followers, f)
	f.s.mu.Unlock()
	close(f.done)
}

func (f *Follower) takeWaiters() []chan refreshed {
	f.mu.Lock()
	defer f.mu.Unlock()
	w := f.waiters
	f.waiters = nil
	return w
}

func (f *Follower) run() {
	defer f.finish()
	f.target.restore()
	var (
		notice     <-chan zk.Event  // the watch
		spread     <-chan time.Time // runs between a notice and the read
		generation uint64           // in which it was read
		unread     = true           // it has to be read
	)
	recheck := time.NewTimer(jitter(f.s.cfg.Recheck))
	defer recheck.Stop()
	for f.ctx.Err() == nil {
		st, _, current := f.s.sessions.now()
		waiters := f.takeWaiters()
		switch {
		case !current:
			f.target.stale()
			f.answer(waiters, refreshed{err: errLost})
		case unread || generation != st.generation || len(waiters) > 0:
			got, err := f.read(st, len(waiters) > 0)
			if f.ctx.Err() != nil {
				f.answer(waiters, refreshed{err: errs.ErrClosed})
				return
			}
			f.answer(waiters, refreshed{st.ID, err})
			if unread = errors.Is(err, errLost); !unread {
				generation, notice, spread = st.generation, got, nil
			}
		}
		select {
		case <-f.ctx.Done():
		case <-f.wake:
		case <-notice:
			notice = nil
			if d := f.spreadTime(); d > 0 {
				spread = time.After(d)
			} else {
				unread = true
			}
		case <-spread:
			spread, unread = nil, true
		case <-recheck.C:
			recheck.Reset(jitter(f.s.cfg.Recheck))
			if spread == nil && f.lost(notice) {
				f.s.watches.forget(f.path)
				unread = true
			}
		}
	}
}

func (f *Follower) spreadTime() time.Duration {
	if f.spread == nil {
		return 0
	}
	return f.spread()
}

func (f *Follower) answer(waiters []chan refreshed, r refreshed) {
	for _, w := range waiters {
		w <- r
	}
}

// read reads on the connection of st and gives the target what was read. errLost: nothing was read, and the Follower is
// woken when there is a connection again.
func (f *Follower) read(st state, sync bool) (<-chan zk.Event, error) {
	if _, err := f.s.ensemble.now(); err != nil {
		f.target.fail(err)
		return nil, err
	}
	for {
		a, err := call(f.ctx, f.s, st, func() (watched, error) {
			if sync {
				if err := f.s.sync(f.path); err != nil {
					return watched{}, err
				}
			}
			return f.s.watch(f.path, f.target.children())
		})
		switch {
		case err != nil: // closed
			return nil, err
		case a.err != nil && !errors.Is(a.err, errLost):
			err := f.s.wrap("read", f.path, a.err)
			f.target.fail(err)
			return nil, err
		case a.err != nil || a.state != st:
			return nil, errLost
		case !sync && f.target.doubtful(a.value):
			sync = true
			continue
		}
		a.value.node.Session = st.ID
		f.target.take(a.value, st.ID)
		return a.value.notice, nil
	}
}

// lost says whether the node is not as it was read although the watch did not say so, or could not be read last time.
func (f *Follower) lost(notice <-chan zk.Event) bool {
	st, _, current := f.s.sessions.now()
	if !current {
		return false
	}
	if notice == nil {
		return true
	}
	a, err := call(f.ctx, f.s, st, func() (Node, error) {
		exists, stat, err := f.s.conn.Exists(f.s.chroot + f.path)
		if err != nil { // Exists also answers true then
			return Node{}, err
		}
		if !exists {
			return Node{Path: f.path}, nil
		}
		return nodeOf(f.path, nil, stat), nil
	})
	if err != nil || a.err != nil || a.state != st {
		return false // the reconnect, or the next look
	}
	select {
	case <-notice:
		return true // it came just now
	default:
	}
	if !f.target.changed(a.value) {
		return false
	}
	f.s.log.Warn("a change of a node was not notified; it is read now", zap.String("path", f.path))
	return true
}

// value is the target of Follow.
type value[T any] struct {
	s     *Store
	path  string
	parse func([]byte) (T, error)
	fn    func(Update[T])

	memory bool
	saved  bool // cur is from the snapshot, and was not confirmed yet

	cur    Update[T]
	told   bool   // fn was called
	era    uint64 // of seen and cur
	seen   Node   // newest node of this era that was seen, good or not; not existing: none
	last   Node   // as it was read last
	reason string // last logged
}

func (v *value[T]) children() bool { return false }

func (v *value[T]) forget() { v.memory = false }

func (v *value[T]) restore() {
	if v.s.snap == nil || !v.memory {
		return
	}
	node, ok := v.s.snap.node(v.path)
	if !ok {
		return
	}
	good, err := v.decode(node)
	if err != nil {
		v.s.log.Warn("a value of the snapshot is not usable", zap.String("path", v.path), zap.Error(err))
		return
	}
	v.seen, v.saved = node, true
	v.cur = Update[T]{Value: good, Known: true, Node: node, Stale: true}
}

func (v *value[T]) decode(node Node) (T, error) {
	var zero T
	if err := checkSize(node.Path, node.Data); err != nil {
		return zero, err
	}
	good, err := v.parse(node.Data)
	if err != nil {
		return zero, err
	}
	if l, ok := any(&good).(located); ok {
		l.locate(node)
	}
	return good, nil
}

// older says that n was overtaken by what we have seen. Change numbers grow with every write of a node and of one that is
// created anew in its place.
func (v *value[T]) older(n Node) bool {
	return v.seen.Exists && v.era == v.eraNow() && n.Mzxid < v.seen.Mzxid
}

func (v *value[T]) eraNow() uint64 {
	era, _ := v.s.ensemble.now()
	return era
}

func (v *value[T]) doubtful(w watched) bool { return v.older(w.node) } // a node that is gone has mzxid 0

func (v *value[T]) take(w watched, _ int64) {
	n := w.node
	v.last = n
	next := v.cur
	next.Err, next.Stale = nil, false
	switch {
	case !n.Exists:
		next.Err = fmt.Errorf("node %s: %w", v.path, errs.ErrNotFound)
		if v.saved || !v.memory { // deleted while nobody of this process used it
			next = Update[T]{Node: n, Err: next.Err}
			break
		}
		if v.cur.Known {
			next.Err = fmt.Errorf("node %s was deleted: %w; the last good value stays in force", v.path, errs.ErrNotFound)
		} else {
			next.Node = n
		}
	case v.older(n):
		next.Err = fmt.Errorf("node %s: %w: ZooKeeper shows change %s, older than %s that we have seen; was it restored without a new ensemble id?", v.path, errs.ErrConflict, n.Mzxid, v.seen.Mzxid)
	case v.cur.Known && v.era == v.eraNow() && n.Mzxid == v.cur.Node.Mzxid && n.Czxid == v.cur.Node.Czxid:
		next.Node = n // the same value, confirmed
		v.seen = n
	default:
		v.era, v.seen = v.eraNow(), n
		good, err := v.decode(n)
		if err != nil {
			next.Err = fmt.Errorf("node %s: %w", v.path, err)
			if !v.cur.Known {
				next.Node = n
			}
			break
		}
		next.Value, next.Known, next.Node = good, true, n
		if v.s.snap != nil && v.memory {
			v.s.snap.put(n)
		}
	}
	v.saved = false
	v.publish(next)
}

func (v *value[T]) changed(n Node) bool {
	return n.Exists != v.last.Exists || n.Mzxid != v.last.Mzxid || n.Czxid != v.last.Czxid
}

func (v *value[T]) fail(err error) {
	next := v.cur
	next.Err, next.Stale = err, true
	if !v.memory {
		next.Known = false
	}
	if !next.Known {
		next.Node = Node{Path: v.path}
	}
	v.publish(next)
}

func (v *value[T]) stale() {
	if !v.told && !v.cur.Known || v.told && v.cur.Stale {
		return
	}
	next := v.cur
	next.Stale = true
	v.publish(next)
}

// publish calls fn if anything is new.
func (v *value[T]) publish(next Update[T]) {
	same := v.told && next.Known == v.cur.Known && next.Stale == v.cur.Stale && text(next.Err) == text(v.cur.Err) &&
		next.Node.Mzxid == v.cur.Node.Mzxid && next.Node.Czxid == v.cur.Node.Czxid && next.Node.Session == v.cur.Node.Session
	v.cur = next
	v.log()
	if same {
		return
	}
	v.told = true
	v.fn(next)
}

// log says each problem once. That a node is not there yet is none.
func (v *value[T]) log() {
	reason := text(v.cur.Err)
	if !v.cur.Known && errors.Is(v.cur.Err, errs.ErrNotFound) {
		reason = ""
	}
	switch {
	case reason == v.reason:
	case reason == "":
		v.s.log.Info("metadata is good again", zap.String("path", v.path))
	case !v.memory:
		v.s.log.Warn("metadata can not be read and does not count", zap.String("path", v.path), zap.Error(v.cur.Err))
	default:
		v.s.log.Error("metadata not applied, the last good value stays in force", zap.String("path", v.path), zap.Bool("known", v.cur.Known), zap.Error(v.cur.Err))
	}
	v.reason = reason
}

func text(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

// names is the target of FollowChildren.
type names struct {
	s    *Store
	path string
	fn   func([]string, error)

	memory bool

	told  bool
	saved bool // list is from the snapshot
	list  []string
	err   error
	era   uint64
	last  Node
}

func (c *names) children() bool { return true }

func (c *names) forget() { c.memory = false }

func (c *names) restore() {
	if c.s.snap == nil || !c.memory {
		return
	}
	c.list, c.saved = c.s.snap.children(c.path)
}

func (c *names) doubtful(w watched) bool {
	era, _ := c.s.ensemble.now()
	return c.last.Exists && c.era == era && (!w.node.Exists || w.node.Pzxid < c.last.Pzxid)
}

func (c *names) take(w watched, _ int64) {
	if c.doubtful(w) && w.node.Exists { // older after a sync
		c.publish(c.list, fmt.Errorf("children of %s: %w: ZooKeeper shows change %s, older than %s that we have seen; was it restored without a new ensemble id?", c.path, errs.ErrConflict, w.node.Pzxid, c.last.Pzxid))
		return
	}
	c.era, _ = c.s.ensemble.now()
	c.last = w.node
	if c.s.snap != nil && c.memory && w.node.Exists {
		c.s.snap.putChildren(c.path, w.names, w.node)
	}
	c.publish(w.names, nil)
}

func (c *names) changed(n Node) bool {
	return n.Exists != c.last.Exists || n.Czxid != c.last.Czxid || n.Pzxid != c.last.Pzxid
}

func (c *names) fail(err error) { c.publish(c.list, err) }

func (c *names) stale() {
	if !c.told && c.saved {
		c.publish(c.list, nil)
	}
}

func (c *names) publish(list []string, err error) {
	if c.told && slices.Equal(list, c.list) && text(err) == text(c.err) {
		return
	}
	if err != nil && text(err) != text(c.err) {
		c.s.log.Error("children can not be followed, the last names stay", zap.String("path", c.path), zap.Error(err))
	}
	c.told, c.list, c.err = true, list, err
	c.fn(slices.Clone(list), err)
}
