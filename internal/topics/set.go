package topics

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"go.uber.org/zap"
	"golang.org/x/sync/singleflight"

	"github.com/turnout-mq/turnout/internal/clusters"
	"github.com/turnout-mq/turnout/internal/errs"
	"github.com/turnout-mq/turnout/metadata"
)

const (
	unknownFor  = time.Second      // an unknown topic is not looked up again for this long
	lookupLimit = 10 * time.Second // reading one topic's nodes for the first time
	settleWait  = time.Second      // R4: sends wait at most this long for a new session to be read
)

// Set is the topics that one process uses. All methods may be called concurrently.
type Set struct {
	store    *metadata.Store
	pool     *clusters.Pool
	instance string
	log      *zap.Logger
	flights  singleflight.Group

	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup
	stops  []func()
	list   *metadata.Follower // of the clusters

	mu       sync.Mutex
	topics   map[string]*Topic
	leaving  map[string]chan struct{} // closed when a topic that was given up has left ZooKeeper
	unknown  map[string]unknownTopic
	names    []string      // of all clusters
	namesErr error         // why there are none yet
	gotNames chan struct{} // closed when names or namesErr is known
	isClosed bool
}

type unknownTopic struct {
	err   error
	until time.Time
}

// NewSet returns an empty set. instance is this process's name in participants/.
func NewSet(store *metadata.Store, pool *clusters.Pool, instance string, log *zap.Logger) *Set {
	ctx, cancel := context.WithCancel(context.Background())
	s := &Set{store: store, pool: pool, instance: instance, log: log, ctx: ctx, cancel: cancel,
		topics: map[string]*Topic{}, leaving: map[string]chan struct{}{}, unknown: map[string]unknownTopic{}, gotNames: make(chan struct{})}
	s.list = metadata.FollowChildren(store, store.ClustersPath(), func(names []string, err error) {
		s.mu.Lock()
		defer s.mu.Unlock()
		switch {
		case err == nil:
			s.names, s.namesErr = names, nil
		case s.names == nil:
			s.namesErr = err
		}
		select {
		case <-s.gotNames:
		default:
			close(s.gotNames)
		}
	})
	s.stops = append(s.stops, s.list.Close, store.OnSession(s.session()), pool.OnChange(func(string) { s.each((*Topic).kick) }))
	return s
}

// Use returns the topic with one more user; Release it. The first use creates the participant node and reads wish and
// route after that, in one session (R3); without ZooKeeper the snapshot serves. errs.ErrUnknownTopic: there is no such
// topic, which is remembered for a second; errs.ErrNoMetadata: ZooKeeper is away and the snapshot does not have it.
func (s *Set) Use(ctx context.Context, name string) (*Topic, error) {
	for {
		s.mu.Lock()
		if s.isClosed {
			s.mu.Unlock()
			return nil, errs.ErrClosed
		}
		if t := s.topics[name]; t != nil {
			t.users++
			s.mu.Unlock()
			return t, nil
		}
		if u, ok := s.unknown[name]; ok {
			if time.Now().Before(u.until) {
				s.mu.Unlock()
				return nil, u.err
			}
			delete(s.unknown, name)
		}
		s.mu.Unlock()
		looked := s.flights.DoChan(name, func() (any, error) { return nil, s.lookup(name) })
		select {
		case r := <-looked:
			if r.Err != nil {
				return nil, r.Err
			}
		case <-ctx.Done():
			go func() { // who waited last may have gone
				<-looked
				s.leave(name, func(t *Topic) bool { return t.users == 0 })
			}()
			return nil, fmt.Errorf("topic %q: its metadata was not read in time: %w", name, ctx.Err())
		}
	}
}

// lookup opens a topic and puts it into the set with no user yet.
func (s *Set) lookup(name string) error {
	s.mu.Lock()
	if s.isClosed || s.topics[name] != nil {
		s.mu.Unlock()
		return nil
	}
	s.wg.Add(1)
	left := s.leaving[name]
	s.mu.Unlock()
	defer s.wg.Done()
	ctx, cancel := context.WithTimeout(s.ctx, lookupLimit)
	defer cancel()
	if left != nil && s.store.Session().Connected { // the participant node of before must not be taken for ours
		select {
		case <-left:
		case <-ctx.Done():
		}
	}
	t, err := s.open(ctx, name)
	if errors.Is(err, context.DeadlineExceeded) { // ours, not the caller's
		err = fmt.Errorf("%w: topic %q: ZooKeeper does not answer: %s", errs.ErrNoMetadata, name, err.Error())
	}
	s.mu.Lock()
	switch {
	case err != nil && s.isClosed:
		s.mu.Unlock()
		return errs.ErrClosed
	case err != nil:
		if len(s.unknown) > 10_000 { // names made up in a loop must not fill the memory
			clear(s.unknown)
		}
		s.unknown[name] = unknownTopic{err, time.Now().Add(unknownFor)}
		s.mu.Unlock()
		return err
	case s.isClosed:
		s.mu.Unlock()
		t.close(s.ctx)
		return errs.ErrClosed
	}
	s.topics[name] = t
	s.mu.Unlock()
	return nil
}

// open reads a topic. It asks whether the topic exists before it leaves anything in ZooKeeper.
func (s *Set) open(ctx context.Context, name string) (*Topic, error) {
	if err := metadata.CheckName("topic", name); err != nil {
		return nil, err
	}
	if s.store.Session().Connected {
		node, err := s.store.Read(ctx, s.store.TopicPath(name))
		if err == nil && !node.Exists {
			if node, err = s.store.Read(ctx, s.store.RoutePath(name)); err == nil && !node.Exists {
				return nil, fmt.Errorf("%w: %q is not in ZooKeeper at %s (create it with: turnout topic put %s --cluster …)",
					errs.ErrUnknownTopic, name, s.store.TopicPath(name), name)
			}
		}
	}
	t := newTopic(s, name)
	err := t.enter(ctx)
	v := t.View()
	switch {
	case v != nil && err == nil:
		return t, nil
	case v != nil && !errors.Is(err, errs.ErrNotAllowed): // what may not be done is not mended by a snapshot
		s.log.Warn("topic in use without ZooKeeper, by the snapshot", zap.String("topic", name), zap.Error(err))
		return t, nil
	case err == nil:
		err = t.whyNot()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.abandon(t)
	return nil, err
}

// release gives a use back.
func (s *Set) release(t *Topic) {
	s.leave(t.name, func(now *Topic) bool {
		t.users--
		return now == t && t.users == 0
	})
}

// leave takes a topic out of the set if last says so, which is called with Set.mu held, and leaves it in the background.
func (s *Set) leave(name string, last func(*Topic) bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	t := s.topics[name]
	if t == nil || !last(t) || s.isClosed {
		return
	}
	delete(s.topics, name)
	s.abandon(t)
}

// abandon leaves a topic in the background: its participant node must go, be it when ZooKeeper is back. Set.mu is held, and
// the Set is not closed or waits for its caller.
func (s *Set) abandon(t *Topic) {
	left := make(chan struct{})
	s.leaving[t.name] = left
	s.wg.Go(func() {
		t.close(s.ctx)
		s.mu.Lock()
		if s.leaving[t.name] == left {
			delete(s.leaving, t.name)
		}
		s.mu.Unlock()
		close(left)
	})
}

func (s *Set) each(fn func(*Topic)) {
	s.mu.Lock()
	all := slices.Collect(maps.Values(s.topics))
	s.mu.Unlock()
	for _, t := range all {
		fn(t)
	}
}

// session returns the store's observer: a new session means registering and reading again before the next send (R4).
func (s *Set) session() func(metadata.Session) {
	var last int64
	return func(now metadata.Session) {
		switch {
		case !now.Connected:
			s.each((*Topic).lostTouch)
		case now.ID != last:
			if last = now.ID; last != 0 {
				s.each((*Topic).newSession)
			}
		}
	}
}

// clusterNames are all clusters in the metadata, waiting for the first answer. If that was an error it asks again.
func (s *Set) clusterNames(ctx context.Context) ([]string, error) {
	select {
	case <-s.gotNames:
	case <-ctx.Done():
		return nil, errors.Join(errs.ErrTimeout, ctx.Err())
	}
	s.mu.Lock()
	names, err := s.names, s.namesErr
	s.mu.Unlock()
	if err == nil {
		return names, nil
	}
	if _, err := s.list.Refresh(ctx); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.names, s.namesErr
}

// Close leaves every topic and waits, at most until ctx ends. The participant nodes go with the session, which its owner
// ends next.
func (s *Set) Close(ctx context.Context) error {
	s.mu.Lock()
	first := !s.isClosed
	s.isClosed = true
	all := slices.Collect(maps.Values(s.topics))
	clear(s.topics)
	s.mu.Unlock()
	if first {
		s.cancel()
		for _, stop := range s.stops {
			stop()
		}
		for _, t := range all {
			s.wg.Go(func() { t.close(s.ctx) })
		}
	}
	done := make(chan struct{})
	go func() { s.wg.Wait(); close(done) }()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
