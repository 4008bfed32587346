package topics_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-zookeeper/zk"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"go.uber.org/zap"

	"github.com/turnout-mq/turnout/broker"
	"github.com/turnout-mq/turnout/internal/clusters"
	"github.com/turnout-mq/turnout/internal/clusters/clustertest"
	"github.com/turnout-mq/turnout/internal/errs"
	"github.com/turnout-mq/turnout/internal/topics"
	"github.com/turnout-mq/turnout/metadata"
	"github.com/turnout-mq/turnout/testenv"
)

var (
	env   *testenv.Env
	roots atomic.Int64
)

func TestMain(m *testing.M) {
	var err error
	if env, err = testenv.Start(context.Background(), testenv.Spec{ZooKeeper: 1}); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	code := m.Run()
	if err := errors.Join(env.Close(), goleak.Find()); err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

const topic = "orders"

// rig is a set of topics over clusters a and b; the topic is wished for on a.
type rig struct {
	*testing.T
	store    *metadata.Store
	set      *topics.Set
	instance string
}

func newRig(t *testing.T) *rig {
	store, err := metadata.Open(metadata.Config{ZooKeeper: env.ZooKeeper(), Root: fmt.Sprintf("/%d", roots.Add(1)), SessionTimeout: time.Minute})
	require.NoError(t, err)
	r := &rig{T: t, store: store, instance: metadata.NewInstanceID()}
	for _, name := range []string{"a", "b"} {
		r.create(store.ClusterPath(name), metadata.Cluster{V: 1, Kind: broker.Kafka, Addresses: []string{"h:1"}})
	}
	r.create(store.TopicPath(topic), metadata.Wish{Cluster: "a"})
	pool := clusters.NewPool(store, (&clustertest.Driver{}).Open, "test", time.Minute, zap.NewNop())
	r.set = topics.NewSet(store, pool, r.instance, zap.NewNop())
	t.Cleanup(func() {
		require.NoError(t, r.set.Close(r.ctx()))
		require.NoError(t, pool.Close(r.ctx()))
		require.NoError(t, store.Close(context.Background()))
	})
	return r
}

func (r *rig) ctx() context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	r.Cleanup(cancel)
	return ctx
}

func (r *rig) create(path string, doc any) {
	r.Helper()
	data, err := json.Marshal(doc)
	require.NoError(r, err)
	require.NoError(r, r.store.Create(r.ctx(), path, data))
}

func (r *rig) node(path string) metadata.Node {
	r.Helper()
	node, err := r.store.Read(r.ctx(), path)
	require.NoError(r, err)
	return node
}

// eventually polls until ok, which may fail the test: it runs in the test's goroutine.
func (r *rig) eventually(ok func() bool, what string, args ...any) {
	r.Helper()
	deadline := time.Now().Add(time.Minute)
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		if time.Now().After(deadline) {
			require.FailNow(r, "never", append([]any{what}, args...)...)
		}
		<-tick.C
	}
}

// says waits until the participant node is as ok says.
func (r *rig) says(ok func(metadata.Participant) bool, what string) {
	r.Helper()
	var p metadata.Participant
	r.eventually(func() bool {
		var err error
		p, err = metadata.ParseParticipant(r.node(r.store.ParticipantPath(topic, r.instance)).Data)
		return err == nil && ok(p)
	}, "%s: %+v", what, &p)
}

func TestParticipantSaysWhatAllOfItsPartsHaveDone(t *testing.T) {
	r := newRig(t)
	tp, err := r.set.Use(r.ctx(), topic)
	require.NoError(t, err)
	defer tp.Release()
	r.eventually(func() bool { return tp.View().Written }, "there is a route")
	zxid := tp.View().Zxid
	require.Equal(t, r.node(r.store.RoutePath(topic)).Mzxid, zxid)
	r.says(func(p metadata.Participant) bool { return p.Zxid == 0 && p.Write == "a" }, "nobody has applied anything")

	var one, two atomic.Pointer[topics.Report]
	attach := func(at *atomic.Pointer[topics.Report], report topics.Report) (detach func()) {
		at.Store(&report)
		return tp.Attach(&topics.Part{Changed: func() {}, Report: func() topics.Report { return *at.Load() }})
	}
	detachOne := attach(&one, topics.Report{Zxid: zxid, Write: "a", Warm: []string{"b"}, Inflight: map[string]int64{"b": 2}, Err: "y"})
	r.says(func(p metadata.Participant) bool { return p.Zxid == zxid }, "the only part has")
	detachTwo := attach(&two, topics.Report{Zxid: zxid - 1, Held: true, Warm: []string{"b", "a"}, Inflight: map[string]int64{"b": 1}, Err: "x",
		Groups: map[string]map[string]metadata.Participation{"g": {"a": metadata.Attached}}})
	r.says(func(p metadata.Participant) bool {
		return p.Zxid == zxid-1 && p.Held && p.Inflight["b"] == 3 && len(p.Warm) == 2 && p.Error == "x; y" && p.Groups["g"]["a"] == metadata.Attached
	}, "the slowest part counts, and what any of them does")
	two.Store(&topics.Report{Zxid: zxid, Err: "y"})
	tp.Touch()
	r.says(func(p metadata.Participant) bool {
		return p.Zxid == zxid && !p.Held && p.Error == "y" && p.Inflight["b"] == 2
	}, "it has come up")
	detachOne()
	r.says(func(p metadata.Participant) bool { return len(p.Warm) == 0 && len(p.Inflight) == 0 }, "what a part that is gone did does not count")
	detachTwo()
	r.says(func(p metadata.Participant) bool { return p.Zxid == 0 }, "nobody is left")
}

func TestTopicIsLeftWithItsLastUse(t *testing.T) {
	r := newRig(t)
	path := r.store.ParticipantPath(topic, r.instance)
	for range 20 {
		one, err := r.set.Use(r.ctx(), topic)
		require.NoError(t, err)
		two, err := r.set.Use(r.ctx(), topic)
		require.NoError(t, err)
		require.Same(t, one, two)
		one.Release()
		node := r.node(path)
		require.True(t, node.Exists)
		two.Release()
	}
	r.eventually(func() bool { return !r.node(path).Exists }, "no participant any more")
}

func TestNewSessionIsWaitedForAndNotForLong(t *testing.T) {
	r := newRig(t)
	tp, err := r.set.Use(r.ctx(), topic)
	require.NoError(t, err)
	defer tp.Release()
	r.eventually(func() bool { return tp.Settled() == nil }, "opened, read, nothing to wait for")
	path := r.store.ParticipantPath(topic, r.instance)
	old := r.node(path).EphemeralOwner

	// Reading fails in the next session: the participant node may not be made.
	conn, events, err := zk.Connect([]string{env.ZooKeeper()}, time.Minute, zk.WithLogger(quiet{}))
	require.NoError(t, err)
	defer func() {
		conn.Close()
		for range events {
		}
	}()
	_, err = conn.SetACL(r.store.ParticipantsPath(topic), zk.WorldACL(zk.PermRead|zk.PermAdmin), -1)
	require.NoError(t, err)
	require.NoError(t, env.ExpireSession(r.ctx(), old))
	r.eventually(func() bool {
		s := r.store.Session()
		return s.Connected && s.ID != old
	}, "a new session")
	r.eventually(func() bool {
		if gate := tp.Settled(); gate != nil {
			<-gate
		}
		return tp.Settled() == nil
	}, "sends go on by the last good route")
	require.False(t, r.node(path).Exists)

	_, err = conn.SetACL(r.store.ParticipantsPath(topic), zk.WorldACL(zk.PermAll), -1)
	require.NoError(t, err)
	r.eventually(func() bool { return r.node(path).Exists }, "and it is tried on")
}

func TestProcessThatMayNotBeAParticipantIsToldSo(t *testing.T) {
	r := newRig(t)
	conn, events, err := zk.Connect([]string{env.ZooKeeper()}, time.Minute, zk.WithLogger(quiet{}))
	require.NoError(t, err)
	defer func() {
		conn.Close()
		for range events {
		}
	}()
	_, err = conn.Create(r.store.Root+"/participants", nil, 0, zk.WorldACL(zk.PermRead))
	require.NoError(t, err)
	_, err = r.set.Use(r.ctx(), topic)
	require.ErrorIs(t, err, errs.ErrNotAllowed)
	require.Contains(t, err.Error(), "participants")
}

type quiet struct{}

func (quiet) Printf(string, ...any) {}
