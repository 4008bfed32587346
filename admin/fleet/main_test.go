package fleet_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"go.uber.org/zap"

	"github.com/turnout-mq/turnout/admin/fleet"
	"github.com/turnout-mq/turnout/admin/store"
	"github.com/turnout-mq/turnout/broker"
	"github.com/turnout-mq/turnout/internal/clusters"
	"github.com/turnout-mq/turnout/internal/errs"
	"github.com/turnout-mq/turnout/metadata"
	"github.com/turnout-mq/turnout/testenv"
	"github.com/turnout-mq/turnout/testenv/leaks"
)

var (
	env   *testenv.Env
	sql   testenv.SQL
	roots atomic.Int64
)

func TestMain(m *testing.M) {
	var err error
	if env, err = testenv.Start(context.Background(), testenv.Spec{ZooKeeper: 1}); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	code := m.Run()
	if err := errors.Join(env.Close(), sql.Close(), goleak.Find(leaks.Libraries()...)); err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

const patience = 2 * time.Minute

// world is a root with its store, and clusters that say what the test has told them.
type world struct {
	testing.TB
	zookeeper, root string
	url             string
	meta            *metadata.Store
	open            clusters.OpenFunc

	mu    sync.Mutex
	fakes map[string]*fake
}

func newWorld(t testing.TB) *world {
	w := &world{TB: t, zookeeper: env.ZooKeeper(), root: fmt.Sprintf("/fleet-%d", roots.Add(1)), url: sql.Database(t), fakes: map[string]*fake{}}
	w.open = func(_ context.Context, cfg broker.Config) (broker.Cluster, error) {
		return connection{f: w.fake(cfg.Name)}, nil
	}
	w.meta = w.connect()
	return w
}

func (w *world) ctx() context.Context {
	w.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	w.Cleanup(cancel)
	return ctx
}

func (w *world) connect() *metadata.Store {
	w.Helper()
	s, err := metadata.Open(metadata.Config{ZooKeeper: w.zookeeper, Root: w.root, SessionTimeout: 50 * time.Second})
	require.NoError(w, err)
	w.Cleanup(func() { require.NoError(w, s.Close(w.ctx())) })
	return s
}

func (w *world) create(path string, doc any) {
	w.Helper()
	data, isText := doc.(string)
	if !isText {
		b, err := json.Marshal(doc)
		require.NoError(w, err)
		data = string(b)
	}
	require.NoError(w, w.meta.Create(w.ctx(), path, []byte(data)))
}

func (w *world) cluster(names ...string) {
	w.Helper()
	for _, name := range names {
		w.create(w.meta.ClusterPath(name), metadata.Cluster{V: 1, Kind: broker.Kafka, Addresses: []string{"h:1"}})
	}
}

// topic makes a topic on a cluster, with two partitions that end at 10.
func (w *world) topic(name, cluster string) {
	w.Helper()
	w.fake(cluster).set(func(f *fake) { f.ends[name] = broker.Offsets{"0": 10, "1": 10} })
	_, err := w.meta.PutTopic(w.ctx(), name, metadata.PutTopic{Cluster: cluster})
	require.NoError(w, err)
}

func (w *world) group(name string, topics ...string) {
	w.Helper()
	g := metadata.DefaultGroup()
	g.App, g.Topics = "billing_app", topics
	w.create(w.meta.GroupPath(name), g)
}

// server is a Service of a server of its own.
type server struct {
	*fleet.Service
	meta *metadata.Store
	stop func()
}

// server makes one; it runs until the test ends or stop.
func (w *world) server(change ...func(*fleet.Config)) *server {
	w.Helper()
	s := &server{meta: w.connect()}
	db, err := store.Open(w.ctx(), w.url, nil)
	require.NoError(w, err)
	pool := clusters.NewPool(s.meta, w.open, "test", time.Minute, zap.NewNop())
	cfg := fleet.Config{
		Meta: s.meta, DB: db, Pool: pool, ID: metadata.NewInstanceID(), About: metadata.Instance{V: 1},
		Every: 20 * time.Millisecond, Limit: patience, Shards: 4,
	}
	for _, f := range change {
		f(&cfg)
	}
	s.Service, err = fleet.New(cfg)
	require.NoError(w, err)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	s.stop = sync.OnceFunc(func() {
		cancel()
		select {
		case err := <-ended:
			require.ErrorIs(w, err, context.Canceled)
		case <-time.After(patience):
			require.Fail(w, "the service does not end")
		}
		require.NoError(w, pool.Close(w.ctx()))
		require.NoError(w, db.Close())
	})
	w.Cleanup(s.stop)
	return s
}

// eventually polls until ok.
func (w *world) eventually(ok func() bool, what string, args ...any) {
	w.Helper()
	for end := time.Now().Add(patience); !ok(); <-time.After(10 * time.Millisecond) {
		if time.Now().After(end) {
			require.Fail(w, "waited in vain for: "+fmt.Sprintf(what, args...))
		}
	}
}

// fake is a cluster that says what it was told to say.
type fake struct {
	mu        sync.Mutex
	ends      map[string]broker.Offsets
	start     int64                     // of every partition
	positions map[string]broker.Offsets // by group and topic
	pending   map[string]broker.Pending // by group
	hangs     bool                      // no answer before ctx ends
	err       error                     // answer to everything
	delay     time.Duration             // before each answer
}

func (w *world) fake(name string) *fake {
	w.mu.Lock()
	defer w.mu.Unlock()
	f := w.fakes[name]
	if f == nil {
		f = &fake{ends: map[string]broker.Offsets{}, positions: map[string]broker.Offsets{}, pending: map[string]broker.Pending{}}
		w.fakes[name] = f
	}
	return f
}

func (f *fake) set(change func(f *fake)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	change(f)
}

// connection is one to a fake. What the fleet does not ask panics.
type connection struct {
	broker.Cluster
	f *fake
}

func (c connection) ask(ctx context.Context) error {
	c.f.mu.Lock()
	hangs, err, delay := c.f.hangs, c.f.err, c.f.delay
	c.f.mu.Unlock()
	if delay > 0 {
		<-time.After(delay)
	}
	if hangs {
		<-ctx.Done()
		return ctx.Err()
	}
	return err
}

func (c connection) Positions(ctx context.Context, group, topic string) (broker.Offsets, error) {
	if err := c.ask(ctx); err != nil {
		return nil, err
	}
	c.f.mu.Lock()
	defer c.f.mu.Unlock()
	return c.f.positions[group+" "+topic].Clone(), nil
}

func (c connection) Pending(ctx context.Context, group, _ string) (broker.Pending, error) {
	if err := c.ask(ctx); err != nil {
		return broker.Pending{}, err
	}
	c.f.mu.Lock()
	defer c.f.mu.Unlock()
	return c.f.pending[group], nil
}

func (c connection) EndOffsets(ctx context.Context, topic string, _ ...string) (broker.Offsets, error) {
	if err := c.ask(ctx); err != nil {
		return nil, err
	}
	c.f.mu.Lock()
	defer c.f.mu.Unlock()
	ends, known := c.f.ends[topic]
	if !known {
		return nil, fmt.Errorf("topic %q: %w", topic, errs.ErrUnknownTopic)
	}
	return ends.Clone(), nil
}

func (c connection) StartOffsets(ctx context.Context, topic string) (broker.Offsets, error) {
	ends, err := c.EndOffsets(ctx, topic)
	c.f.mu.Lock()
	start := c.f.start
	c.f.mu.Unlock()
	for name := range ends {
		ends[name] = start
	}
	return ends, err
}

func (c connection) Close(context.Context) error { return nil }
