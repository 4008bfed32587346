package consumer

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"
	"golang.org/x/time/rate"

	"github.com/turnout-mq/turnout/broker"
	"github.com/turnout-mq/turnout/internal/clusters"
	"github.com/turnout-mq/turnout/internal/errs"
	"github.com/turnout-mq/turnout/internal/topics"
	"github.com/turnout-mq/turnout/metadata"
	"github.com/turnout-mq/turnout/shadow"
)

// DefaultLinger is how long nothing new must have come to a cluster that is not written to before a group leaves it: the
// longest send and a session time-out (R16).
const DefaultLinger = 20 * time.Second

// Delivery is one message for a listener. It must not be kept after the listener returned, unless it is not changed.
type Delivery struct {
	broker.Message
	Topic     string // the name in the metadata; of a message with the stress mark too it is that of production
	Group     string // likewise
	Cluster   string
	Partition string // Kafka: the number; RocketMQ: broker:queue. Of the retry topic for a retry
	Offset    int64
	Attempt   int       // rounds through the retry topic so far; 0: the first delivery
	Stored    time.Time // the broker's time
}

// Listener handles one message. nil: it is done. An error: it is given again, first in the process, then through the
// group's retry topic, at last it goes to the dead letters. ctx ends when Close gives up waiting, so a listener that is at
// work when its subscription is closed may finish. ctx carries the stress mark (shadow.Marked) when the message does.
type Listener func(ctx context.Context, d *Delivery) error

// Option changes a subscription.
type Option func(*options)

type options struct {
	linger     time.Duration
	recheck    time.Duration
	retryDelay func(attempt int) time.Duration
}

// WithLinger sets how long nothing new must have come to a cluster that was left by the topic before the group leaves
// it. Default DefaultLinger. Shorter: connections are closed sooner, and a send that is still on its way to the old
// cluster is found a minute later.
func WithLinger(d time.Duration) Option { return func(o *options) { o.linger = d } }

// WithRecheck sets how often a cluster that was left is looked at again while its stay is open. Default a minute.
func WithRecheck(d time.Duration) Option {
	return func(o *options) {
		if d > 0 {
			o.recheck = d
		}
	}
}

// WithRetryDelay sets the time before a message comes out of the retry topic again. attempt is the number of rounds it
// made before, from 0. RocketMQ rounds up to its delay levels. Default RetryDelays.
func WithRetryDelay(fn func(attempt int) time.Duration) Option {
	return func(o *options) { o.retryDelay = fn }
}

// Stats counts since the subscription began.
type Stats struct {
	Handled    int64 // listener calls that returned nil
	Failed     int64 // listener calls that returned an error
	Retried    int64 // messages put into the retry topic
	DeadLetter int64 // messages put into the dead letters
	Misplaced  int64 // of those: with the stress mark in a production group, or without in a shadow group; no listener saw them
}

// Consumer holds the subscriptions of a process. All methods may be called concurrently.
type Consumer struct {
	set   *topics.Set
	pool  *clusters.Pool
	store *metadata.Store
	log   *zap.Logger

	mu     sync.Mutex
	subs   map[string]*Subscription
	closed bool
}

// New returns a consumer over the topics of set and the clusters of pool.
func New(store *metadata.Store, set *topics.Set, pool *clusters.Pool, log *zap.Logger) *Consumer {
	return &Consumer{set: set, pool: pool, store: store, log: log, subs: map[string]*Subscription{}}
}

// Subscription is one group in this process.
type Subscription struct {
	c        *Consumer
	group    string // in the metadata; of a shadow group that of the derived one
	shown    string // Delivery.Group
	shadow   bool
	listener Listener
	opt      options
	log      *zap.Logger
	workers  *workers
	alarm    rate.Sometimes // of misplaced messages
	count    struct{ handled, failed, retried, dead, misplaced atomic.Int64 }

	ctx    context.Context // the listeners'
	cancel context.CancelFunc
	doc    atomic.Pointer[metadata.Group] // the last good settings; nil before any
	life   context.Context                // of everything but listeners: ends with Close
	end    context.CancelFunc
	wake   chan struct{}
	done   chan struct{}
	source source
	of     atomic.Pointer[map[string]string] // shadow topic → topic
	finish sync.Once
	closed chan struct{} // closed when everything has ended

	mu      sync.Mutex
	docErr  error
	heard   chan struct{} // closed with the first answer
	readers map[string]*reader
	failure map[string]error // topics that can not be opened
	changed chan struct{}    // closed and replaced when readiness may have changed
	ends    []func(context.Context) error
}

// source keeps a subscription told of its group's settings, by calling learn.
type source interface {
	// Refresh reads them now; learn was called with what is new in them.
	Refresh(ctx context.Context) (session int64, err error)
	Close()
}

// Subscribe begins to hand the group's messages to l. It returns when the group and its topics are known; being a member on
// the clusters goes on in the background (Ready waits for it), also when a cluster is away at first. ctx bounds the call
// only.
//
// Errors: errs.ErrUnknownGroup; errs.ErrUnknownTopic; errs.ErrNoMetadata; errs.ErrConflict when this process
// has subscribed to the group already; errs.ErrClosed.
func (c *Consumer) Subscribe(ctx context.Context, group string, l Listener, opts ...Option) (*Subscription, error) {
	return c.subscribe(ctx, &Subscription{group: group, shown: group}, l, opts)
}

// SubscribeShadow begins to hand the messages of group's shadow group to l: those with the stress mark, of the shadow topics
// of the group's topics (metadata.Group.ShadowGroup). Topic and group of a Delivery are those of production.
//
// Errors: as Subscribe; errs.ErrNoShadow: no topic of the group has a shadow topic.
func (c *Consumer) SubscribeShadow(ctx context.Context, group string, l Listener, opts ...Option) (*Subscription, error) {
	return c.subscribe(ctx, &Subscription{group: metadata.ShadowGroupName(group), shown: group, shadow: true}, l, opts)
}

func (c *Consumer) subscribe(ctx context.Context, s *Subscription, l Listener, opts []Option) (*Subscription, error) {
	group := s.group
	if l == nil {
		return nil, fmt.Errorf("subscribe to group %q: %w: the listener is nil", group, errs.ErrInvalid)
	}
	opt := options{linger: DefaultLinger, recheck: time.Minute, retryDelay: func(n int) time.Duration { return RetryDelays[min(n, len(RetryDelays)-1)] }}
	for _, o := range opts {
		o(&opt)
	}
	s.c, s.listener, s.opt, s.log = c, l, opt, c.log.With(zap.String("group", group))
	s.wake, s.done, s.heard, s.closed = make(chan struct{}, 1), make(chan struct{}), make(chan struct{}), make(chan struct{})
	s.readers, s.failure, s.changed = map[string]*reader{}, map[string]error{}, make(chan struct{})
	of := context.Background()
	if s.shadow {
		of = shadow.WithMark(of)
	}
	s.ctx, s.cancel = context.WithCancel(of)
	s.life, s.end = context.WithCancel(context.Background())
	s.workers = newWorkers(work)
	s.alarm = rate.Sometimes{First: 5, Interval: time.Second}

	c.mu.Lock()
	switch {
	case c.closed:
		c.mu.Unlock()
		return nil, fmt.Errorf("subscribe to group %q: %w", group, errs.ErrClosed)
	case c.subs[group] != nil:
		c.mu.Unlock()
		return nil, fmt.Errorf("subscribe to group %q: %w: this client has subscribed to it already; more listeners at once are its setting concurrency", group, errs.ErrConflict)
	}
	c.subs[group] = s
	c.mu.Unlock()

	if err := s.open(ctx); err != nil {
		if s.life.Err() != nil {
			err = errs.ErrClosed
		}
		s.end()
		close(s.done)
		s.finish.Do(s.shut) // or Close does it
		<-s.closed
		return nil, fmt.Errorf("subscribe to group %q: %w", group, err)
	}
	go s.run()
	return s, nil
}

// open reads the group and opens its topics for the first time. It ends when the subscription is closed.
func (s *Subscription) open(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(s.life, cancel)()
	if err := metadata.CheckName("group", s.shown); err != nil {
		return err
	}
	path := s.c.store.GroupPath(s.shown)
	if s.c.store.Session().Connected {
		node, err := s.c.store.Read(ctx, path)
		if err == nil && !node.Exists {
			return fmt.Errorf("%w: it is not in ZooKeeper at %s (create it with: turnout group put %s --topic …)", errs.ErrUnknownGroup, path, s.shown)
		}
	}
	if s.shadow {
		s.source = deriveShadow(s)
	} else {
		s.source = metadata.Follow(s.c.store, path, metadata.ParseGroup, s.learn)
	}
	select {
	case <-s.heard:
	case <-ctx.Done():
		return fmt.Errorf("%w: the group was not read in time: %w", errs.ErrNoMetadata, ctx.Err())
	}
	if doc := s.settings(); doc == nil || len(doc.Topics) == 0 {
		err := s.problem()
		if errors.Is(err, errs.ErrNotFound) {
			err = fmt.Errorf("%w: %w", errs.ErrUnknownGroup, err)
		}
		return err
	}
	s.converge(ctx)
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.readers) > 0 {
		return nil
	}
	return errors.Join(slices.Collect(maps.Values(s.failure))...)
}

// learn takes what the metadata says of the group.
func (s *Subscription) learn(u metadata.Update[metadata.Group]) {
	s.mu.Lock()
	s.docErr = u.Err
	if u.Known {
		doc := u.Value
		s.doc.Store(&doc)
		s.workers.set(&doc)
	}
	select {
	case <-s.heard:
	default:
		close(s.heard)
	}
	s.mu.Unlock()
	s.kick()
}

// settings are the last good settings of the group; nil before any.
func (s *Subscription) settings() *metadata.Group { return s.doc.Load() }

// problem says why what the metadata says of the group now is not in force.
func (s *Subscription) problem() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.docErr
}

func (s *Subscription) retryDelay(attempt int) time.Duration { return s.opt.retryDelay(attempt) }

func (s *Subscription) kick() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// run applies changed settings until the subscription is closed.
func (s *Subscription) run() {
	defer close(s.done)
	for {
		var again <-chan time.Time
		s.mu.Lock()
		if len(s.failure) > 0 {
			again = time.After(2 * time.Second)
		}
		s.mu.Unlock()
		select {
		case <-s.life.Done():
			return
		case <-s.wake:
		case <-again:
		}
		s.converge(s.life)
	}
}

// converge has one reader for each topic of the group, and tells readers of changed settings.
func (s *Subscription) converge(ctx context.Context) {
	doc := s.settings()
	s.mu.Lock()
	have := maps.Clone(s.readers)
	s.mu.Unlock()
	for _, topic := range doc.Topics {
		if r := have[topic]; r != nil {
			r.kick()
			delete(have, topic)
			continue
		}
		t, err := s.c.set.Use(ctx, topic)
		s.mu.Lock()
		if err != nil {
			s.failure[topic] = err
		} else {
			delete(s.failure, topic)
			s.readers[topic] = newReader(s, t)
		}
		s.mu.Unlock()
		if err != nil && ctx.Err() == nil {
			s.log.Warn("topic of the group can not be opened", zap.String("topic", topic), zap.Error(err))
		}
	}
	for topic, r := range have { // no longer read by the group
		if err := r.close(ctx); err != nil {
			if ctx.Err() == nil {
				s.log.Warn("topic not left yet", zap.String("topic", topic), zap.Error(err))
			}
			continue
		}
		s.mu.Lock()
		delete(s.readers, topic)
		s.mu.Unlock()
	}
	s.signal()
}

// signal tells Ready to look again.
func (s *Subscription) signal() {
	s.mu.Lock()
	defer s.mu.Unlock()
	close(s.changed)
	s.changed = make(chan struct{})
}

// Ready waits until the process is a member on every cluster that the group has to read now. Its error says what it
// waits for.
func (s *Subscription) Ready(ctx context.Context) error {
	for {
		if s.life.Err() != nil {
			return fmt.Errorf("group %q: %w", s.group, errs.ErrClosed)
		}
		s.mu.Lock()
		changed := s.changed
		s.mu.Unlock()
		missing := s.NotReady()
		if missing == nil {
			return nil
		}
		select {
		case <-changed:
		case <-s.life.Done():
			return fmt.Errorf("group %q: %w", s.group, errs.ErrClosed)
		case <-ctx.Done():
			return fmt.Errorf("group %q is not ready: %w: %w", s.group, ctx.Err(), missing)
		}
	}
}

// NotReady says what Ready would wait for; nil: nothing.
func (s *Subscription) NotReady() error {
	s.mu.Lock()
	var missing error
	doc := s.settings()
	if len(doc.Topics) == 0 {
		missing = s.docErr
	}
	if len(s.readers) < len(doc.Topics) {
		missing = errors.Join(slices.Collect(maps.Values(s.failure))...)
		if missing == nil {
			missing = errNotFinished
		}
	}
	readers := slices.Collect(maps.Values(s.readers))
	s.mu.Unlock()
	for _, r := range readers {
		if err := r.notReady(); err != nil {
			missing = errors.Join(missing, err)
		}
	}
	return missing
}

// Stats returns the counts so far.
func (s *Subscription) Stats() Stats {
	return Stats{s.count.handled.Load(), s.count.failed.Load(), s.count.retried.Load(), s.count.dead.Load(), s.count.misplaced.Load()}
}

// Close ends the subscription: no new message is handed over, listeners at work finish, positions are stored, the group
// is left. When ctx ends first the listeners' ctx ends too, what they have not finished will be handed over elsewhere, and
// ctx's error is returned; the rest ends by itself when the listeners have returned, and Close may be called again to wait
// for that. Idempotent. A listener must not wait for it.
func (s *Subscription) Close(ctx context.Context) error {
	s.end()
	s.finish.Do(func() {
		go func() {
			<-s.done
			s.shut()
		}()
	})
	s.mu.Lock()
	ends := slices.Clone(s.ends)
	s.mu.Unlock()
	var with sync.WaitGroup
	failed := make([]error, len(ends))
	for i, end := range ends {
		with.Go(func() { failed[i] = end(ctx) })
	}
	defer with.Wait()
	select {
	case <-s.closed:
		with.Wait()
		return errors.Join(failed...)
	case <-ctx.Done():
		s.cancel()
		return ctx.Err()
	}
}

// Accompany has Close call end too, and wait for it; its error is Close's. It is for what lives as long as the subscription. Of
// one that is being closed already it calls end itself.
func (s *Subscription) Accompany(end func(ctx context.Context) error) {
	s.mu.Lock()
	s.ends = append(s.ends, end)
	s.mu.Unlock()
	if s.life.Err() != nil {
		_ = end(context.Background()) // which fails only by its ctx
	}
}

// shut ends what open began; run has ended.
func (s *Subscription) shut() {
	if s.source != nil {
		s.source.Close()
	}
	s.mu.Lock()
	readers := slices.Collect(maps.Values(s.readers))
	s.mu.Unlock()
	var wg sync.WaitGroup
	for _, r := range readers {
		wg.Go(func() {
			for r.close(context.Background()) != nil && pause(context.Background(), againFirst) { // not left cleanly: the cluster is away
			}
		})
	}
	wg.Wait()
	s.cancel()
	s.workers.close()
	s.c.mu.Lock()
	delete(s.c.subs, s.group)
	s.c.mu.Unlock()
	close(s.closed)
}

// Close closes every subscription.
func (c *Consumer) Close(ctx context.Context) error {
	c.mu.Lock()
	c.closed = true
	subs := slices.Collect(maps.Values(c.subs))
	c.mu.Unlock()
	var wg sync.WaitGroup
	failed := make([]error, len(subs))
	for i, s := range subs {
		wg.Go(func() { failed[i] = s.Close(ctx) })
	}
	wg.Wait()
	return errors.Join(failed...)
}

func sameDoc(a, b any) bool { return reflect.DeepEqual(a, b) }
