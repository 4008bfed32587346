package reconcile_test

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

	"github.com/turnout-mq/turnout/admin/reconcile"
	"github.com/turnout-mq/turnout/admin/requests"
	"github.com/turnout-mq/turnout/admin/store"
	"github.com/turnout-mq/turnout/broker"
	"github.com/turnout-mq/turnout/internal/clusters"
	"github.com/turnout-mq/turnout/internal/clusters/clustertest"
	"github.com/turnout-mq/turnout/metadata"
	"github.com/turnout-mq/turnout/testenv"
)

var (
	env   *testenv.Env
	sql   testenv.SQL
	roots atomic.Int64
)

func TestMain(m *testing.M) {
	var err error
	if err = os.Setenv("LOGIN", "user:password"); err != nil { // of the clusters, which do not ask for it
		panic(err)
	}
	if env, err = testenv.Start(context.Background(), testenv.Spec{ZooKeeper: 1}); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	code := m.Run()
	// One a process each, of the brokers' libraries.
	if err := errors.Join(env.Close(), sql.Close(), goleak.Find(goleak.IgnoreAnyFunction("github.com/rcrowley/go-metrics.(*meterArbiter).tick"),
		goleak.IgnoreAnyFunction("github.com/patrickmn/go-cache.(*janitor).Run"))); err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

const (
	patience = 2 * time.Minute
	tick     = 10 * time.Millisecond
)

// world is a root with a store, two clusters in memory, and what both sides agree on: cluster a, topic orders on it, group billing.
type world struct {
	*testing.T
	root, url string
	db        *store.Store
	meta      *metadata.Store
	brokers   map[string]*clustertest.Memory
}

func newWorld(t *testing.T) *world {
	w := &world{T: t, root: fmt.Sprintf("/reconcile-%d", roots.Add(1)), url: sql.Database(t),
		brokers: map[string]*clustertest.Memory{"a": clustertest.NewMemory("a"), "b": clustertest.NewMemory("b")}}
	w.db, w.meta = w.open(), w.connect()
	for name := range w.brokers {
		w.cluster(name)
		require.NoError(t, w.broker(name).CreateTopic(w.ctx(), "orders", broker.TopicSpec{Partitions: 2}))
	}
	w.topic("orders", "a")
	w.group("billing", "orders")
	return w
}

func (w *world) ctx() context.Context {
	ctx, cancel := context.WithTimeout(store.WithActor(context.Background(), store.Actor{Name: "bob", Via: "session"}), patience)
	w.Cleanup(cancel)
	return ctx
}

func (w *world) open() *store.Store {
	w.Helper()
	db, err := store.Open(w.ctx(), w.url, nil)
	require.NoError(w, err)
	w.Cleanup(func() { require.NoError(w, db.Close()) })
	return db
}

func (w *world) connect() *metadata.Store {
	w.Helper()
	s, err := metadata.Open(metadata.Config{ZooKeeper: env.ZooKeeper(), Root: w.root, SessionTimeout: 50 * time.Second})
	require.NoError(w, err)
	w.Cleanup(func() { require.NoError(w, s.Close(w.ctx())) })
	return s
}

func (w *world) broker(name string) *clustertest.MemoryConn { return w.brokers[name].Connect(nil) }

func (w *world) put(i store.CatalogItem, doc any) {
	w.Helper()
	data, err := json.Marshal(doc)
	require.NoError(w, err)
	i.Doc, i.State = data, store.Active
	require.NoError(w, w.db.PutCatalog(w.ctx(), &i, ""))
}

// cluster, topic and group make a thing that the catalog and ZooKeeper agree on.
func (w *world) cluster(name string) {
	w.Helper()
	c := metadata.Cluster{V: 1, Kind: broker.Kafka, Addresses: []string{"h:1"}, Auth: &metadata.Auth{Mechanism: "PLAIN", Secret: "env:LOGIN"}}
	require.NoError(w, w.meta.PutCluster(w.ctx(), name, c))
	w.put(store.CatalogItem{Kind: store.CatalogCluster, Name: name}, c)
}

func (w *world) topic(name, cluster string) {
	w.Helper()
	_, err := w.meta.PutTopic(w.ctx(), name, metadata.PutTopic{Cluster: cluster})
	require.NoError(w, err)
	doc := requests.TopicDoc{Cluster: cluster, Order: metadata.OrderNone, Settings: metadata.DefaultTopicSettings()}
	w.put(store.CatalogItem{Kind: store.CatalogTopic, Name: name, Cluster: cluster, Partitions: 2}, doc)
}

func (w *world) group(name string, topics ...string) {
	w.Helper()
	g := metadata.DefaultGroup()
	g.Topics = topics
	require.NoError(w, w.meta.PutGroup(w.ctx(), name, g))
	g, _, err := w.meta.GetGroup(w.ctx(), name)
	require.NoError(w, err)
	w.put(store.CatalogItem{Kind: store.CatalogGroup, Name: name}, g)
}

// idle makes a Service of a server of its own, which does not look by itself.
func (w *world) idle() (s *reconcile.Service, leave func()) {
	w.Helper()
	meta := w.connect()
	pool := clusters.NewPool(meta, func(_ context.Context, cfg broker.Config) (broker.Cluster, error) {
		return w.broker(cfg.Name), nil
	}, "test", time.Minute, zap.NewNop())
	s, err := reconcile.New(reconcile.Config{Meta: meta, DB: w.open(), Pool: pool, ID: metadata.NewInstanceID(), About: metadata.Instance{V: 1},
		Every: tick, BrokerEvery: tick, Limit: patience, Shards: 4})
	require.NoError(w, err)
	leave = sync.OnceFunc(func() { require.NoError(w, pool.Close(w.ctx())) })
	w.Cleanup(leave)
	return s, leave
}

// server makes one that runs until the test ends or stop.
func (w *world) server() (running *reconcile.Service, stop func()) {
	w.Helper()
	s, leave := w.idle()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		select {
		case err := <-ended:
			require.ErrorIs(w, err, context.Canceled)
		case <-time.After(patience):
			require.Fail(w, "the service does not end")
		}
		leave()
	})
	w.Cleanup(stop)
	return s, stop
}

// eventually polls until ok, which may fail the test.
func (w *world) eventually(ok func() bool, what string, args ...any) {
	w.Helper()
	for end := time.Now().Add(patience); !ok(); <-time.After(tick) {
		if time.Now().After(end) {
			all, err := w.db.Drifts(w.ctx(), store.DriftFilter{})
			require.Fail(w, "waited in vain for: "+fmt.Sprintf(what, args...), "there is %v %s", err, text(all))
		}
	}
}

func text(v any) string {
	data, err := json.Marshal(v)
	if err != nil {
		return err.Error()
	}
	return string(data)
}

// differs waits until a thing differs in this way, and only in this way.
func (w *world) differs(kind, name, what string) (found *store.Drift) {
	w.Helper()
	w.eventually(func() bool {
		list, err := w.db.Drifts(w.ctx(), store.DriftFilter{Kind: kind, Name: name})
		require.NoError(w, err)
		if len(list) != 1 || list[0].What != what {
			return false
		}
		found = list[0]
		return true
	}, "%s %s to be %s", kind, name, what)
	return found
}

// onZooKeeper waits until a topic differs in ZooKeeper, whatever it does on its cluster.
func (w *world) onZooKeeper(topic string) (found *store.Drift) {
	w.Helper()
	w.eventually(func() bool {
		list, err := w.db.Drifts(w.ctx(), store.DriftFilter{Kind: store.CatalogTopic, Name: topic, What: reconcile.Edited})
		require.NoError(w, err)
		if len(list) == 1 {
			found = list[0]
		}
		return found != nil
	}, "topic %s to be edited", topic)
	return found
}

// agreed waits until nothing differs.
func (w *world) agreed() {
	w.Helper()
	w.eventually(func() bool {
		list, err := w.db.Drifts(w.ctx(), store.DriftFilter{})
		require.NoError(w, err)
		return len(list) == 0
	}, "nothing to differ")
}

// rounds waits until everything was looked at again: a topic that was made for it is found, after what was there before.
func (w *world) rounds() {
	w.Helper()
	for range 2 {
		name := fmt.Sprintf("round-%d", roots.Add(1))
		for _, kind := range []string{"x", "y", "z"} {
			require.NoError(w, w.meta.PutCluster(w.ctx(), name+kind, metadata.Cluster{Kind: broker.Kafka, Addresses: []string{"h:1"}}))
		}
		for _, kind := range []string{"x", "y", "z"} {
			w.differs(store.CatalogCluster, name+kind, reconcile.Unknown)
			require.NoError(w, w.meta.DeleteCluster(w.ctx(), name+kind))
		}
		w.eventually(func() bool {
			for _, kind := range []string{"x", "y", "z"} {
				list, err := w.db.Drifts(w.ctx(), store.DriftFilter{Name: name + kind})
				require.NoError(w, err)
				if len(list) > 0 {
					return false
				}
			}
			return true
		}, "what is gone to be forgotten")
	}
}
