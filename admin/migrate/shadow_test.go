package migrate_test

import (
	"context"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	"github.com/turnout-mq/turnout"
	"github.com/turnout-mq/turnout/admin/migrate"
	"github.com/turnout-mq/turnout/admin/store"
	"github.com/turnout-mq/turnout/broker"
	"github.com/turnout-mq/turnout/broker/drivers"
	"github.com/turnout-mq/turnout/consumer"
	"github.com/turnout-mq/turnout/internal/clusters"
	"github.com/turnout-mq/turnout/metadata"
	"github.com/turnout-mq/turnout/shadow"
	"github.com/turnout-mq/turnout/testenv"
)

// town is a topic "orders" and its shadow topic on kafka-a, each to be had on kafka-b too, the group "bills" that reads
// it, and a controller.
type town struct {
	t    *testing.T
	meta *metadata.Store
	c    *migrate.Controller
	app  *turnout.Client

	mu   sync.Mutex
	read map[bool][]string // marked → bodies
}

const (
	townTopic  = "orders"
	townShadow = metadata.ShadowPrefix + townTopic
	townGroup  = "bills"
	townSleeps = metadata.ShadowPrefix + townGroup
)

func newTown(t *testing.T) *town {
	w := &town{t: t, read: map[bool][]string{}}
	env, err := testenv.Start(w.ctx(), testenv.Spec{Backend: testenv.Embedded, ZooKeeper: 1, Kafka: []string{"kafka-a", "kafka-b"}})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, env.Close()) })
	w.meta, err = metadata.Open(metadata.Config{ZooKeeper: env.ZooKeeper(), SessionTimeout: time.Minute})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, w.meta.Close(w.ctx())) })
	for _, name := range []string{"kafka-a", "kafka-b"} {
		require.NoError(t, w.meta.PutCluster(w.ctx(), name, metadata.Cluster{V: 1, Kind: broker.Kafka, Addresses: env.Addresses(name)}))
		conn, err := drivers.Open(w.ctx(), broker.Config{Name: name, Kind: broker.Kafka, Addresses: env.Addresses(name)})
		require.NoError(t, err)
		for _, topic := range []string{townTopic, townShadow} {
			require.NoError(t, conn.CreateTopic(w.ctx(), topic, broker.TopicSpec{Partitions: 2}))
		}
		require.NoError(t, conn.Close(w.ctx()))
	}
	for _, topic := range []string{townTopic, townShadow} {
		_, err := w.meta.PutTopic(w.ctx(), topic, metadata.PutTopic{Cluster: "kafka-a"})
		require.NoError(t, err)
	}
	g := metadata.DefaultGroup()
	g.Topics = []string{townTopic}
	require.NoError(t, w.meta.PutGroup(w.ctx(), townGroup, g))

	db, err := store.Open(w.ctx(), filepath.Join(t.TempDir(), "turnout.db"), zap.NewNop())
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, db.Close()) })
	pool := clusters.NewPool(w.meta, drivers.Open, "controller", time.Second, zap.NewNop())
	t.Cleanup(func() { require.NoError(t, pool.Close(w.ctx())) })
	w.c = migrate.New(db, w.meta, pool, zap.NewNop(), migrate.Options{FenceCheck: 100 * time.Millisecond})
	ctx, cancel := context.WithCancel(context.Background())
	over := make(chan error, 1)
	go func() { over <- w.c.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		require.ErrorIs(t, <-over, context.Canceled)
	})

	w.app, err = turnout.Open(w.ctx(), turnout.Config{App: "billing", ZooKeeper: env.ZooKeeper(), SnapshotDir: t.TempDir()})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, w.app.Close(w.ctx())) })
	sub, err := w.app.Subscribe(w.ctx(), townGroup, func(ctx context.Context, d *turnout.Delivery) error {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.read[shadow.Marked(ctx)] = append(w.read[shadow.Marked(ctx)], string(d.Body))
		return nil
	}, consumer.WithLinger(100*time.Millisecond), consumer.WithRecheck(time.Second))
	require.NoError(t, err)
	require.NoError(t, sub.Ready(w.ctx()))
	return w
}

func (w *town) ctx() context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	w.t.Cleanup(cancel)
	return ctx
}

func (w *town) eventually(ok func() bool, what string) {
	w.t.Helper()
	require.Eventually(w.t, ok, time.Minute, 10*time.Millisecond, what)
}

// send sends messages, which go to that cluster.
func (w *town) send(ctx context.Context, to string, bodies ...string) {
	w.t.Helper()
	for _, body := range bodies {
		r, err := w.app.Send(ctx, townTopic, &turnout.Message{Key: []byte(body), Body: []byte(body)})
		require.NoError(w.t, err)
		require.Equal(w.t, to, r.Cluster)
	}
}

// has waits until the listener has had these, in any order.
func (w *town) has(marked bool, bodies ...string) {
	w.t.Helper()
	var got []string
	w.eventually(func() bool {
		w.mu.Lock()
		defer w.mu.Unlock()
		got = append([]string(nil), w.read[marked]...)
		return len(got) >= len(bodies)
	}, "everything is read")
	require.ElementsMatch(w.t, bodies, got)
}

// flag switches the shadow group and waits until the application says that it is so.
func (w *town) flag(enable bool, state metadata.ShadowState) {
	w.t.Helper()
	require.NoError(w.t, w.meta.PutShadowFlag(w.ctx(), "billing", "task", townGroup, enable))
	w.eventually(func() bool {
		all, err := w.meta.ListInstances(w.ctx(), "billing")
		return err == nil && len(all) == 1 && all[0].Shadow[townGroup].State == state
	}, "the shadow group is "+string(state))
}

// move moves a topic and returns the receipt.
func (w *town) move(topic, to string, accept ...string) (id string, r *migrate.Receipt) {
	w.t.Helper()
	m, err := w.c.Start(w.ctx(), migrate.Plan{Topic: topic, To: to, Accept: accept}, "tester", migrate.StarterApproves)
	require.NoError(w.t, err)
	w.eventually(func() bool {
		now, err := w.c.Get(w.ctx(), m.ID)
		return err == nil && now.EndedAt != nil
	}, "the move ends")
	r, err = w.c.Receipt(w.ctx(), m.ID)
	require.NoError(w.t, err)
	require.Equal(w.t, store.Done, r.Outcome)
	require.Len(w.t, r.Left, 1)
	return m.ID, r
}

func (w *town) stays(topic string) (clusters []string) {
	w.t.Helper()
	t, err := w.meta.GetTopic(w.ctx(), topic)
	require.NoError(w.t, err)
	return t.Route.Clusters()
}

func TestATopicAndItsShadowTopicMoveEachOnItsOwn(t *testing.T) {
	w := newTown(t)
	marked := shadow.WithMark(w.ctx())
	w.flag(true, metadata.ShadowStarted)
	w.send(marked, "kafka-a", "s1", "s2", "s3")
	w.send(w.ctx(), "kafka-a", "p1")
	w.has(true, "s1", "s2", "s3")
	w.flag(false, metadata.ShadowStopped)
	w.send(marked, "kafka-a", "s4", "s5")

	_, r := w.move(townTopic, "kafka-b")
	require.True(t, r.Free, r.Verdict)
	require.Contains(t, r.Left[0].Groups, townGroup)
	require.Len(t, r.Left[0].Groups, 1, "the shadow group reads nothing of it")
	w.send(w.ctx(), "kafka-b", "p2")
	w.send(marked, "kafka-a", "s6")

	_, err := w.c.Start(w.ctx(), migrate.Plan{Topic: townShadow, To: "kafka-b"}, "tester", migrate.StarterApproves)
	var not *migrate.NotReadyError
	require.ErrorAs(t, err, &not)
	require.Len(t, not.Plan.Blocking(), 1, "it is no foreign group")
	require.Equal(t, migrate.SleepingGroups, not.Plan.Blocking()[0].Code)
	require.Contains(t, not.Plan.Blocking()[0].Text, "group "+townSleeps+" now; it has 3 messages to read on kafka-a")

	id, r := w.move(townShadow, "kafka-b", migrate.SleepingGroups)
	require.False(t, r.Free)
	require.Equal(t, []string{townSleeps}, r.Left[0].Sleeping)
	require.Empty(t, r.Left[0].Groups)
	require.ElementsMatch(t, []string{"kafka-a", "kafka-b"}, w.stays(townShadow), "it has something left on kafka-a")
	w.send(marked, "kafka-b", "s7")

	w.flag(true, metadata.ShadowStarted)
	w.has(true, "s1", "s2", "s3", "s4", "s5", "s6", "s7")
	w.eventually(func() bool {
		r, err = w.c.Receipt(w.ctx(), id)
		return err == nil && r.Free
	}, "the receipt says that it has woken")
	require.Equal(t, []string{"kafka-b"}, w.stays(townShadow))

	_, r = w.move(townShadow, "kafka-a") // it reads
	require.True(t, r.Free, r.Verdict)
	require.Contains(t, r.Left[0].Groups, townSleeps)
	require.Len(t, r.Left[0].Groups, 1)
	w.send(marked, "kafka-a", "s8")
	w.send(w.ctx(), "kafka-b", "p3")
	w.has(true, "s1", "s2", "s3", "s4", "s5", "s6", "s7", "s8")
	w.has(false, "p1", "p2", "p3")
}
