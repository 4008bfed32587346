package topics

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/turnout-mq/turnout/internal/errs"
	"github.com/turnout-mq/turnout/metadata"
)

// View is the route that is in force for this process. It is immutable.
type View struct {
	Route    metadata.Route
	Zxid     metadata.Zxid // of the written route that it is, or that its completion started from
	Written  bool          // false: a completion that nobody has written yet
	Settings metadata.TopicSettings
	era      int // counts the ensembles that followed one another (R1); zxids compare within one
}

// Topic is one topic in use. All methods may be called concurrently.
type Topic struct {
	set  *Set
	name string
	log  *zap.Logger

	wishes, routes, settings *metadata.Follower
	reg                      *metadata.Registration
	view                     atomic.Pointer[View]
	crowd                    atomic.Int64                  // participants when last counted
	unsettled                atomic.Pointer[chan struct{}] // not nil: a new session in which nothing was read yet; closed when it was

	ctx    context.Context
	cancel context.CancelFunc
	wake   chan struct{}
	done   chan struct{}
	wg     sync.WaitGroup

	mu        sync.Mutex
	wish      metadata.Update[metadata.Wish]
	route     metadata.Update[metadata.Route]
	conf      metadata.Update[metadata.TopicSettings]
	heard     int // which of the three were heard of at least once, as bits
	notWarmed error
	notSaved  error
	parts     map[int]*Part
	nextPart  int
	confBad   bool // there are settings, and no good ones are known
	era       int  // of the newest route
	sessions  int  // counts the sessions that began
	entered   bool // there may be a participant node

	users int // guarded by Set.mu
}

// Part is one user of the topic inside the process.
type Part struct {
	// Changed is told that there is a new view. It must not block.
	Changed func()
	// Report tells what this part has applied. It must not block.
	Report func() Report
}

// Report is what a part says of itself.
type Report struct {
	Zxid     metadata.Zxid // of the newest written route that it has applied in full (R6)
	Write    string        // where its next send goes; "" for a part that does not send
	Canary   string        // where that goes when its key is in the canary's range; "": there is none
	Warm     []string
	Held     bool
	Inflight map[string]int64 // sends that have not ended, by cluster, other than Write
	Groups   map[string]map[string]metadata.Participation
	Err      string
	// Sends are what became of sends lately, by cluster; nil where that is not asked for: the topic is not being moved, or the part does
	// not send.
	Sends map[string]metadata.Sends
}

func newTopic(s *Set, name string) *Topic {
	ctx, cancel := context.WithCancel(s.ctx)
	t := &Topic{set: s, conf: metadata.Update[metadata.TopicSettings]{Value: metadata.DefaultTopicSettings()}, name: name, log: s.log.With(zap.String("topic", name)), ctx: ctx, cancel: cancel,
		wake: make(chan struct{}, 1), done: make(chan struct{}), parts: map[int]*Part{}}
	t.reg = s.store.Register(s.store.ParticipantPath(name, s.instance))
	t.settings = metadata.Follow(s.store, s.store.SettingsPath(name), metadata.ParseTopicSettings, func(u metadata.Update[metadata.TopicSettings]) {
		if !u.Known {
			u.Value = metadata.DefaultTopicSettings()
		}
		t.hear(1, func() {
			t.conf = u
			// Settings that are there and can not be used may name another topic on the clusters than the default ones.
			t.confBad = !u.Known && u.Err != nil && !errors.Is(u.Err, errs.ErrNotFound)
		})
	})
	spread := metadata.WithSpread(t.spread)
	t.wishes = metadata.Follow(s.store, s.store.TopicPath(name), metadata.ParseWish, func(u metadata.Update[metadata.Wish]) {
		t.hear(2, func() { t.wish = u })
	}, spread)
	t.routes = metadata.Follow(s.store, s.store.RoutePath(name), metadata.ParseRoute, func(u metadata.Update[metadata.Route]) {
		t.hear(4, func() {
			// Followers give an older mzxid only for a newer value: that of a ZooKeeper that succeeds the one before.
			if u.Known && t.route.Known && u.Node.Mzxid < t.route.Node.Mzxid {
				t.era++
			}
			t.route = u
		})
	}, spread)
	go t.run()
	return t
}

// Name is the topic's name in the metadata.
func (t *Topic) Name() string { return t.name }

// Instance is this process's name among the topic's participants.
func (t *Topic) Instance() string { return t.set.instance }

// EndHold takes the hold off the route of v in ZooKeeper. Nothing is done, and nil returned, if the route has changed since.
// Errors are ZooKeeper's: it can not be reached, or nobody may say whether it was done.
func (t *Topic) EndHold(ctx context.Context, v *View) error {
	t.mu.Lock()
	now := t.route
	t.mu.Unlock()
	if now.Known && v.Written && now.Node.Mzxid == v.Zxid {
		next := v.Route.Clone()
		next.Hold = nil
		doc, err := json.Marshal(next)
		if err != nil {
			return err
		}
		if err := t.set.store.Set(ctx, t.set.store.RoutePath(t.name), doc, now.Node.Version); err != nil && !errors.Is(err, errs.ErrConflict) {
			return err
		}
	}
	return t.Refresh(ctx)
}

// View is the route in force; nil only when the topic could not be opened.
func (t *Topic) View() *View { return t.view.Load() }

// Physical is the topic's name on a cluster.
func (t *Topic) Physical(cluster string) string {
	if v := t.view.Load(); v != nil {
		return v.Settings.Physical(t.name, cluster)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.conf.Value.Physical(t.name, cluster)
}

// Release gives the topic back; after the last release it is left.
func (t *Topic) Release() { t.set.release(t) }

// Attach adds a part; detach removes it.
func (t *Topic) Attach(p *Part) (detach func()) {
	t.mu.Lock()
	id := t.nextPart
	t.nextPart++
	t.parts[id] = p
	t.mu.Unlock()
	t.kick()
	return func() {
		t.mu.Lock()
		delete(t.parts, id)
		t.mu.Unlock()
		t.kick()
	}
}

// Touch says that some part's report has changed.
func (t *Topic) Touch() { t.kick() }

// Refresh reads wish and route now, past any cache of the server (sync); the view is what they say when it returns.
// A wish that is not completed yet takes the time of warming. Errors are ZooKeeper's: it can not be reached.
func (t *Topic) Refresh(ctx context.Context) error {
	if _, err := t.wishes.Refresh(ctx); err != nil {
		return err
	}
	_, err := t.routes.Refresh(ctx)
	return err
}

// Connected says whether ZooKeeper can be reached now.
func (t *Topic) Connected() bool { return t.set.store.Session().Connected }

// Settled returns nil when there is nothing to wait for before the next send: the view was read in the current session.
// Else a channel that is closed when it was, when the connection is lost again, and at the latest a second after the
// session began (R4).
func (t *Topic) Settled() <-chan struct{} {
	if ch := t.unsettled.Load(); ch != nil {
		return *ch
	}
	return nil
}

// hear takes one update of the three nodes.
func (t *Topic) hear(bit int, take func()) {
	t.mu.Lock()
	take()
	t.heard |= bit
	tell := t.publish(t.base())
	t.mu.Unlock()
	for _, p := range tell {
		p.Changed()
	}
	t.kick()
}

// base is the route that needs no decision of this process: the newest written one, when the wish is answered by it or
// not known. nil: none, or a completion is due. t.mu is held.
func (t *Topic) base() *View {
	// Settings come first, for they name the physical topic; without ZooKeeper the snapshot may not have any.
	if !t.route.Known || t.confBad || t.heard != 7 && t.set.store.Session().Connected {
		return nil
	}
	if t.wish.Known && !metadata.Answered(&t.route.Value, t.wish.Node) {
		// The wish is not followed yet, but a newer written route is.
		if now := t.view.Load(); now != nil && now.era == t.era && t.route.Node.Mzxid <= now.Zxid {
			same := *now
			same.Settings = t.conf.Value
			return &same
		}
	}
	return &View{Route: t.route.Value, Zxid: t.route.Node.Mzxid, Written: true, Settings: t.conf.Value, era: t.era}
}

// publish puts v into force unless it is what is in force, and returns who is to be told. t.mu is held.
func (t *Topic) publish(v *View) []*Part {
	if v == nil {
		return nil
	}
	now := t.view.Load()
	if now != nil {
		same := v.Zxid == now.Zxid && v.Written == now.Written && sameDoc(v.Route, now.Route) && sameDoc(v.Settings, now.Settings)
		if v.era < now.era || v.era == now.era && (v.Zxid < now.Zxid || same) {
			return nil
		}
	}
	t.view.Store(v)
	t.notWarmed = nil
	if now == nil || now.Route.Write != v.Route.Write || now.Zxid != v.Zxid {
		t.log.Info("route in force", zap.String("write", v.Route.Write), zap.Stringer("zxid", v.Zxid),
			zap.Bool("written", v.Written), zap.Int("stays", len(v.Route.Stays)))
	}
	tell := make([]*Part, 0, len(t.parts))
	for _, p := range t.parts {
		tell = append(tell, p)
	}
	return tell
}

// whyNot explains why there is no view.
func (t *Topic) whyNot() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	switch {
	case t.confBad:
		return fmt.Errorf("topic %q has settings that can not be used: %w", t.name, t.conf.Err)
	case t.notWarmed != nil:
		return fmt.Errorf("topic %q has no route yet and its cluster can not be used: %w", t.name, t.notWarmed)
	case t.route.Err != nil && !errors.Is(t.route.Err, errs.ErrNotFound):
		return fmt.Errorf("topic %q has no usable route: %w", t.name, t.route.Err)
	case t.wish.Err != nil && !errors.Is(t.wish.Err, errs.ErrNotFound):
		return fmt.Errorf("topic %q has no usable wish: %w", t.name, t.wish.Err)
	case t.wish.Err != nil:
		return fmt.Errorf("%w: %q is not in ZooKeeper (create it with: turnout topic put %s --cluster …)", errs.ErrUnknownTopic, t.name, t.name)
	}
	return fmt.Errorf("%w: topic %q: ZooKeeper can not be reached and the snapshot does not have it", errs.ErrNoMetadata, t.name)
}

// kick makes the loop look again.
func (t *Topic) kick() {
	select {
	case t.wake <- struct{}{}:
	default:
	}
}

// enter registers the participant and reads everything after that in the same session (R3), then waits until there is
// a view or it is known why not.
func (t *Topic) enter(ctx context.Context) error {
	if !t.set.store.Session().Connected {
		if t.waitHeard(ctx, time.Second); t.View() != nil {
			return fmt.Errorf("not connected: %w", errs.ErrNoMetadata)
		}
		if _, err := t.set.store.WaitConnected(ctx); err != nil {
			return fmt.Errorf("topic %q: %w: %w", t.name, errs.ErrNoMetadata, err)
		}
	}
	if err := t.settle(ctx); err != nil {
		return err
	}
	// A wish without a route needs a cluster warmed first.
	for t.View() == nil {
		t.mu.Lock()
		hopeless := t.heard == 7 && (t.confBad || (!t.wish.Known || t.notWarmed != nil || t.route.Err != nil && !errors.Is(t.route.Err, errs.ErrNotFound)) && !t.route.Known)
		t.mu.Unlock()
		if hopeless {
			return nil
		}
		if !pause(ctx, 5*time.Millisecond) {
			return nil
		}
	}
	return nil
}

func (t *Topic) waitHeard(ctx context.Context, limit time.Duration) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	for {
		t.mu.Lock()
		heard := t.heard
		t.mu.Unlock()
		if heard == 7 || !pause(ctx, 5*time.Millisecond) {
			return
		}
	}
}

// settle creates the participant in the current session and reads the nodes in the same one.
func (t *Topic) settle(ctx context.Context) error {
	t.mu.Lock()
	t.entered = true
	t.mu.Unlock()
	for {
		session, err := t.reg.Ensure(ctx, t.document())
		if err != nil {
			return err
		}
		same := true
		for _, f := range []*metadata.Follower{t.settings, t.wishes, t.routes} {
			in, err := f.Refresh(ctx)
			if err != nil {
				return err
			}
			same = same && in == session
		}
		if same {
			if _, err := t.peers(ctx); err != nil {
				t.log.Debug("participants not counted", zap.Error(err))
			}
			return nil
		}
	}
}

// crowded is how many participants may read at the same moment; spreadMost is how long the reads of so many are spread,
// and those of more for longer in proportion.
const (
	crowded    = 50
	spreadMost = 50 * time.Millisecond
)

// spread is how long to wait between a notice and the read that it causes, so that a change that wakes many instances
// does not make them read at once.
func (t *Topic) spread() time.Duration {
	n := t.crowd.Load()
	if n < crowded {
		return 0
	}
	return rand.N(spreadMost * time.Duration(n) / crowded)
}

// peers are the names of the topic's participants.
func (t *Topic) peers(ctx context.Context) ([]string, error) {
	names, err := t.set.store.Children(ctx, t.set.store.ParticipantsPath(t.name))
	if err == nil {
		t.crowd.Store(int64(len(names)))
	}
	return names, err
}

// newSession makes sends wait until the nodes were read in the session that has begun, and sees to it.
func (t *Topic) newSession() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.ctx.Err() != nil {
		return
	}
	gate := make(chan struct{})
	if old := t.unsettled.Swap(&gate); old != nil {
		close(*old)
	}
	t.sessions++
	mine := t.sessions
	open := func() {
		if t.unsettled.CompareAndSwap(&gate, nil) {
			close(gate)
		}
	}
	limit := time.AfterFunc(settleWait, open)
	t.wg.Go(func() {
		defer limit.Stop()
		wait := 50 * time.Millisecond
		for t.settleOnce() != nil && pause(t.ctx, wait) {
			wait = min(2*wait, 2*time.Second)
			t.mu.Lock()
			newer := t.sessions != mine
			t.mu.Unlock()
			if newer {
				break
			}
		}
		open()
		t.kick()
	})
}

func (t *Topic) settleOnce() error {
	ctx, cancel := context.WithTimeout(t.ctx, lookupLimit)
	defer cancel()
	return t.settle(ctx)
}

// lostTouch lets waiting sends go by the last good route; settling goes on by itself.
func (t *Topic) lostTouch() {
	if old := t.unsettled.Swap(nil); old != nil {
		close(*old)
	}
}

// close leaves the topic: the participant node is deleted, nothing is followed any more.
func (t *Topic) close(ctx context.Context) {
	t.mu.Lock()
	t.cancel() // under the lock, so that no new session begins to settle
	t.mu.Unlock()
	<-t.done
	t.wg.Wait()
	for _, f := range []*metadata.Follower{t.settings, t.wishes, t.routes} {
		f.Close()
	}
	t.lostTouch()
	t.mu.Lock()
	entered := t.entered
	t.mu.Unlock()
	if !entered {
		return
	}
	if err := t.reg.Close(ctx); err != nil {
		t.log.Debug("participant node not deleted, its session will", zap.Error(err))
	}
}

// pause waits for d; false: ctx ended.
func pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
