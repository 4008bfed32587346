package turnout_test

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest"

	"github.com/turnout-mq/turnout"
	"github.com/turnout-mq/turnout/broker"
	"github.com/turnout-mq/turnout/broker/drivers"
	"github.com/turnout-mq/turnout/consumer"
	"github.com/turnout-mq/turnout/metadata"
	"github.com/turnout-mq/turnout/producer"
	"github.com/turnout-mq/turnout/testenv"
	"github.com/turnout-mq/turnout/testenv/history"
	"github.com/turnout-mq/turnout/testenv/leaks"
)

func TestMain(m *testing.M) {
	flag.Parse()
	if f := flag.Lookup("test.parallel"); f.Value.String() == strconv.Itoa(runtime.GOMAXPROCS(0)) {
		_ = f.Value.Set("8") // they wait more than they work
	}
	code := m.Run()
	for _, env := range shared {
		if err := env.Close(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}
	if err := goleak.Find(leaks.Libraries()...); err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

// shared are the environments, by their specs, of the tests that break nothing; each test has a root and names of its own there.
var (
	shared     = map[string]*testenv.Env{}
	sharedLock sync.Mutex
)

var (
	kafkas     = []string{"kafka-a", "kafka-b", "kafka-c"}
	kafkasSpec = testenv.Spec{ZooKeeper: 1, Kafka: kafkas}
)

// each runs f in the shared environment of each backend that was asked for, at the same time as other tests.
func each(t *testing.T, f func(t *testing.T, w *world)) {
	t.Parallel()
	backends, err := testenv.Backends()
	require.NoError(t, err)
	for _, backend := range backends {
		t.Run(string(backend), func(t *testing.T) { f(t, newWorld(t, sharedEnv(t, backend, kafkasSpec), kafkas...)) })
	}
}

func sharedEnv(t *testing.T, backend testenv.Backend, spec testenv.Spec) *testenv.Env {
	sharedLock.Lock()
	defer sharedLock.Unlock()
	spec.Backend = backend
	key := fmt.Sprintf("%+v", spec)
	if shared[key] == nil {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
		defer cancel()
		env, err := testenv.Start(ctx, spec)
		require.NoError(t, err)
		shared[key] = env
	}
	return shared[key]
}

// world is an environment with metadata in it, and what tests do to it.
type world struct {
	t     *testing.T
	env   *testenv.Env
	root  string
	flags string // root of the shadow flags
	topic string
	group string
	store *metadata.Store
	dir   string // of the history
	log   *zap.Logger

	answers *answers
}

// answers are those to the sends of the traffic.
type answers struct {
	mu sync.Mutex
	at map[string][]time.Time // by cluster
}

func (a *answers) add(cluster string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.at[cluster] = append(a.at[cluster], time.Now())
}

// after is when the first one after t came from a cluster.
func (a *answers) after(cluster string, t time.Time) (at time.Time, ok bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, at := range a.at[cluster] {
		if at.After(t) {
			return at, true
		}
	}
	return at, false
}

func newWorld(t *testing.T, env *testenv.Env, clusters ...string) *world {
	name := worldName(t.Name())
	w := &world{t: t, env: env, dir: t.TempDir(), log: logger(t), answers: &answers{at: map[string][]time.Time{}}, root: "/" + name, flags: "/zpt/of-" + name, topic: "orders-" + name, group: "bills-" + name}
	store, err := metadata.Open(metadata.Config{ZooKeeper: env.ZooKeeper(), Root: w.root, ShadowRoot: w.flags, SessionTimeout: time.Minute, Logger: zap.NewNop()})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, store.Close(context.Background())) })
	w.store = store
	for _, name := range clusters {
		w.put(store.ClusterPath(name), metadata.Cluster{V: 1, Kind: broker.Kind(env.Kind(name)), Addresses: env.Addresses(name), ClusterID: env.ClusterID(name)})
	}
	return w
}

func logger(t *testing.T) *zap.Logger {
	if os.Getenv("TURNOUT_LOG") == "" {
		return zap.NewNop()
	}
	return zaptest.NewLogger(t)
}

func (w *world) ctx() context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	w.t.Cleanup(cancel)
	return ctx
}

func (w *world) put(path string, doc any) {
	data, err := json.Marshal(doc)
	require.NoError(w.t, err)
	require.NoError(w.t, w.store.Create(w.ctx(), path, data))
}

// edit writes a wish as a person would.
func (w *world) edit(cluster string) {
	require.NoError(w.t, w.store.Set(w.ctx(), w.store.TopicPath(w.topic), []byte(fmt.Sprintf(`{"cluster":%q}`, cluster)), -1))
}

// putTopic makes the topic on clusters, wished for on the first.
func (w *world) putTopic(on ...string) {
	for _, cluster := range on {
		w.with(cluster, func(c broker.Cluster) {
			require.NoError(w.t, c.CreateTopic(w.ctx(), w.topic, broker.TopicSpec{Partitions: 4}))
		})
	}
	w.put(w.store.TopicPath(w.topic), metadata.Wish{Cluster: on[0]})
}

// putGroup makes the group that reads the topic.
func (w *world) putGroup(change func(*metadata.Group)) {
	g := metadata.DefaultGroup()
	g.Topics = []string{w.topic}
	g.Names = map[string]string{w.topic: w.group}
	if change != nil {
		change(&g)
	}
	w.put(w.store.GroupPath(w.group), g)
}

// with opens a cluster with its driver.
func (w *world) with(cluster string, fn func(broker.Cluster)) {
	c, err := drivers.Open(w.ctx(), broker.Config{Name: cluster, Kind: broker.Kind(w.env.Kind(cluster)), Addresses: w.env.Addresses(cluster), ClientID: "test"})
	require.NoError(w.t, err)
	defer func() { require.NoError(w.t, c.Close(w.ctx())) }()
	fn(c)
}

func (w *world) open(app string, opts ...turnout.Option) *turnout.Client {
	c, err := turnout.Open(w.ctx(), turnout.Config{App: app, ZooKeeper: w.env.ZooKeeper(), Root: w.root, ShadowRoot: w.flags, SnapshotDir: w.t.TempDir(), Logger: w.log}, opts...)
	require.NoError(w.t, err)
	w.t.Cleanup(func() { require.NoError(w.t, c.Close(w.ctx())) })
	return c
}

func (w *world) recorder(process string) *history.Recorder {
	r, err := history.Create(w.dir, process)
	require.NoError(w.t, err)
	w.t.Cleanup(func() { require.NoError(w.t, r.Close()) })
	return r
}

// listen subscribes and records what is handled.
func (w *world) listen(c *turnout.Client, rec *history.Recorder, opts ...turnout.SubscribeOption) *turnout.Subscription {
	opts = append([]turnout.SubscribeOption{consumer.WithLinger(300 * time.Millisecond), consumer.WithRecheck(time.Second)}, opts...)
	s, err := c.Subscribe(w.ctx(), w.group, w.recorded(rec), opts...)
	require.NoError(w.t, err)
	require.NoError(w.t, s.Ready(w.ctx()))
	return s
}

// recorded is a listener that records what it handles.
func (w *world) recorded(rec *history.Recorder) turnout.Listener {
	return func(_ context.Context, d *turnout.Delivery) error {
		seq, err := strconv.ParseInt(string(d.Body), 10, 64)
		rec.Recv(w.group, history.Message{ID: d.ID, Topic: d.Topic, Key: history.Key(d.Key), Seq: seq},
			history.Place{Cluster: d.Cluster, Partition: d.Partition, Offset: d.Offset, Attempt: d.Attempt}).Done()
		return err
	}
}

// pace is the time between the sends of one goroutine: enough of them to meet every moment of a move, and few enough for
// many tests at once. The race detector, which makes each some ten times as dear, gets fewer (-short).
func pace() time.Duration {
	if testing.Short() {
		return 20 * time.Millisecond
	}
	return 4 * time.Millisecond
}

// traffic sends from n goroutines until stop is called, which waits for them.
func (w *world) traffic(c *turnout.Client, rec *history.Recorder, n int) (stop func()) {
	var keys []string
	for i := range n {
		keys = append(keys, fmt.Sprintf("key-%d", i))
	}
	return w.trafficOf(c, rec, keys...)
}

// trafficOf sends from a goroutine for each key.
func (w *world) trafficOf(c *turnout.Client, rec *history.Recorder, keys ...string) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	for _, key := range keys {
		wg.Go(func() {
			tick := time.NewTicker(pace())
			defer tick.Stop()
			for seq := int64(1); ctx.Err() == nil; seq++ {
				<-tick.C
				m := &turnout.Message{ID: producer.NewID(), Key: []byte(key), Body: strconv.AppendInt(nil, seq, 10)}
				sending := rec.Send(history.Message{ID: m.ID, Topic: w.topic, Key: history.Key(m.Key), Seq: seq})
				send, done := context.WithTimeout(context.Background(), patience)
				r, err := c.Send(send, w.topic, m)
				done()
				switch {
				case errors.Is(err, context.DeadlineExceeded):
					sending.Unknown(err)
				case err != nil:
					sending.Fail(err)
				default:
					sending.OK(history.Place{Cluster: r.Cluster, Partition: r.Partition, Offset: r.Offset})
					w.answers.add(r.Cluster)
				}
			}
		})
	}
	stop = func() { cancel(); wg.Wait() }
	w.t.Cleanup(stop)
	return stop
}

// left counts what the group has not read on a cluster.
func (w *world) left(cluster string) (n int64) {
	w.with(cluster, func(c broker.Cluster) { n = w.leftOn(c) })
	return n
}

func (w *world) leftOn(c broker.Cluster) int64 {
	ends, err := c.EndOffsets(w.ctx(), w.topic)
	require.NoError(w.t, err)
	positions, err := c.Positions(w.ctx(), w.group, w.topic)
	require.NoError(w.t, err)
	return positions.Missing(ends)
}

// nothingLeft waits until the group has read everything.
func (w *world) nothingLeft(clusters ...string) {
	w.t.Helper()
	for _, cluster := range clusters {
		w.with(cluster, func(c broker.Cluster) {
			w.eventually(func() bool { return w.leftOn(c) == 0 }, func() any { return w.participants() }, "nothing is left on %s", cluster)
		})
	}
}

func (w *world) route() (r metadata.Route, ok bool) {
	node, err := w.store.Read(w.ctx(), w.store.RoutePath(w.topic))
	require.NoError(w.t, err)
	if !node.Exists {
		return r, false
	}
	r, err = metadata.ParseRoute(node.Data)
	require.NoError(w.t, err)
	return r, true
}

// participants are what all instances say of a topic.
func (w *world) participants() (all []metadata.Participant) {
	names, err := w.store.Children(w.ctx(), w.store.ParticipantsPath(w.topic))
	if !errors.Is(err, turnout.ErrNotFound) {
		require.NoError(w.t, err)
	}
	for _, name := range names {
		node, err := w.store.Read(w.ctx(), w.store.ParticipantPath(w.topic, name))
		require.NoError(w.t, err)
		if p, err := metadata.ParseParticipant(node.Data); err == nil && node.Exists {
			all = append(all, p)
		}
	}
	return all
}

// applied waits until every participant has acknowledged the newest route and it writes to cluster.
func (w *world) applied(cluster string) {
	w.t.Helper()
	w.eventually(func() bool {
		node, err := w.store.Read(w.ctx(), w.store.RoutePath(w.topic))
		if err != nil || !node.Exists {
			return false
		}
		r, err := metadata.ParseRoute(node.Data)
		if err != nil || r.Write != cluster {
			return false
		}
		all := w.participants()
		for _, p := range all {
			if p.Zxid != node.Mzxid {
				return false
			}
		}
		return len(all) > 0
	}, func() any { return w.participants() }, "every participant has applied write=%s", cluster)
}

// verdict checks the history after everything was read.
func (w *world) verdict(clusters ...string) history.Verdict {
	w.t.Helper()
	w.nothingLeft(clusters...)
	var v history.Verdict
	w.eventually(func() bool {
		events, err := history.Load(w.dir)
		require.NoError(w.t, err)
		v = history.Check(events, history.Options{Groups: []history.Group{{Name: w.group}}})
		return v.Count(history.Lost) == 0
	}, func() any { return v }, "nothing is lost")
	return v
}

func TestHandEditMovesATopic(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		w.putTopic("kafka-a", "kafka-b")
		w.putGroup(nil)
		rec := w.recorder("one")
		client := w.open("order_service")
		w.listen(client, rec)
		stop := w.traffic(client, rec, 4)
		w.applied("kafka-a")
		w.edit("kafka-b")
		w.applied("kafka-b")
		w.edit("kafka-a")
		w.applied("kafka-a")
		stop()
		v := w.verdict("kafka-a", "kafka-b")
		require.NoError(t, v.Err())
		t.Log(v)
	})
}
