package scene_test

import (
	"context"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	"github.com/turnout-mq/turnout/admin/migrate"
	"github.com/turnout-mq/turnout/admin/store"
	"github.com/turnout-mq/turnout/broker"
	"github.com/turnout-mq/turnout/broker/drivers"
	"github.com/turnout-mq/turnout/internal/clusters"
	"github.com/turnout-mq/turnout/internal/scene"
	"github.com/turnout-mq/turnout/metadata"
	"github.com/turnout-mq/turnout/testenv"
	"github.com/turnout-mq/turnout/testenv/history"
)

// A controller waits before a state, is killed there, and another one finishes; what was done to the topic is recorded.
func TestControllersTakeOver(t *testing.T) {
	env, err := testenv.Start(t.Context(), testenv.Spec{ZooKeeper: 1, Kafka: []string{"kafka-a", "kafka-b"}})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, env.Close()) })
	s := &stage{t, env, t.TempDir()}
	meta, err := metadata.Open(metadata.Config{ZooKeeper: env.ZooKeeper(), SessionTimeout: time.Minute})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, meta.Close(context.Background())) })
	for _, name := range []string{"kafka-a", "kafka-b"} {
		require.NoError(t, meta.PutCluster(s.ctx(), name, metadata.Cluster{Kind: broker.Kafka, Addresses: env.Addresses(name)}))
		c, err := drivers.Open(s.ctx(), broker.Config{Name: name, Kind: broker.Kafka, Addresses: env.Addresses(name), ClientID: "test"})
		require.NoError(t, err)
		require.NoError(t, c.CreateTopic(s.ctx(), "t1", broker.TopicSpec{Partitions: 2}))
		require.NoError(t, c.Close(s.ctx()))
	}
	_, err = meta.PutTopic(s.ctx(), "t1", metadata.PutTopic{Cluster: "kafka-a"})
	require.NoError(t, err)
	g := metadata.DefaultGroup()
	g.Topics = []string{"t1"}
	require.NoError(t, meta.PutGroup(s.ctx(), "g", g))

	url := "sqlite:" + filepath.Join(s.dir, "turnout.db")
	db, err := store.Open(s.ctx(), url, nil)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, db.Close()) })
	pool := clusters.NewPool(meta, drivers.Open, "operator", time.Second, zap.NewNop())
	t.Cleanup(func() { require.NoError(t, pool.Close(context.Background())) })
	operator := migrate.New(db, meta, pool, zap.NewNop(), migrate.Options{})

	controller := func(name string) scene.Spec {
		return scene.Spec{Role: scene.Controller, Name: name, Dir: s.dir, ZooKeeper: env.ZooKeeper(), Database: url, SessionTimeout: 10 * time.Second}
	}
	sender := s.sender("orders")
	sender.Topics = []string{"t1"}
	first := controller("first")
	first.HoldAt = []string{"sealing"}
	one, receiver, orders := s.ready(first), s.ready(s.receiver("billing")), s.ready(sender)
	two := s.start(controller("second"))
	s.more(history.OpDone, "billing")

	var row *store.Migration
	eventually(t, func() bool {
		row, err = operator.Start(s.ctx(), migrate.Plan{Topic: "t1", To: "kafka-b", Accept: []string{migrate.AutoCreate}}, "tester", migrate.StarterApproves)
		return err == nil
	}, "%v", err)
	state, err := one.Holds(s.ctx())
	require.NoError(t, err)
	require.Equal(t, "sealing", state)
	require.NoError(t, one.GoOn(s.ctx(), "done"))
	state, err = one.Holds(s.ctx())
	require.NoError(t, err)
	require.Equal(t, "done", state)
	require.NoError(t, one.Kill())
	require.ErrorContains(t, one.GoOn(s.ctx()), "first")
	_, err = one.Holds(s.ctx())
	require.ErrorContains(t, err, "killed")
	require.NoError(t, two.Ready(s.ctx()), "the second leads")

	got, err := operator.Get(s.ctx(), row.ID)
	require.NoError(t, err)
	require.Equal(t, store.Done, got.Outcome)
	require.NoError(t, orders.Stop(s.ctx()))
	v := s.verdict(history.Options{Killed: []string{"first"}})
	require.NoError(t, receiver.Stop(s.ctx()))
	require.NoError(t, two.Stop(s.ctx()))
	require.NoError(t, v.Err())

	events, err := history.Load(scene.HistoryDir(s.dir))
	require.NoError(t, err)
	var states []string
	seen := map[history.Op]history.Event{}
	for _, e := range events {
		seen[e.Op] = e
		if e.Op == history.OpMove {
			states = append(states, e.State)
		}
	}
	require.Equal(t, []string{"planned", "preparing", "switching", "sealing", "draining", "closing", "done"}, states)
	require.Equal(t, "kafka-a", seen[history.OpFence].Cluster)
	require.Equal(t, "kafka-a", seen[history.OpSeal].Cluster)
	require.Len(t, seen[history.OpSeal].Offsets, 2)
	require.Equal(t, "kafka-b", seen[history.OpOpen].Cluster)
	require.Equal(t, "kafka-b", seen[history.OpRoute].Cluster)
}

func TestBadController(t *testing.T) {
	_, err := scene.Start(t.Context(), scene.Spec{Role: scene.Controller, Name: "n", Dir: t.TempDir(), ZooKeeper: "127.0.0.1:1"})
	require.ErrorContains(t, err, "Database")
}
