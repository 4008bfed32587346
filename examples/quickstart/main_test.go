package main

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/turnout-mq/turnout/broker"
	"github.com/turnout-mq/turnout/broker/drivers"
	"github.com/turnout-mq/turnout/metadata"
	"github.com/turnout-mq/turnout/testenv"
)

const (
	patience        = 2 * time.Minute // for what takes a second on a quiet machine
	programVariable = "TURNOUT_QUICKSTART"
)

// The test binary is the program when the variable is set.
func TestMain(m *testing.M) {
	if os.Getenv(programVariable) != "" {
		main()
		return
	}
	os.Exit(m.Run())
}

type output struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.String()
}

// It follows a topic from kafka-a to kafka-b.
func TestQuickstart(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), patience)
	t.Cleanup(cancel)
	env, err := testenv.Start(ctx, testenv.Spec{ZooKeeper: 1, Kafka: []string{"kafka-a", "kafka-b"}})
	require.NoError(t, err)
	defer func() { require.NoError(t, env.Close()) }()
	store, err := metadata.Open(metadata.Config{ZooKeeper: env.ZooKeeper(), SessionTimeout: time.Minute})
	require.NoError(t, err)
	defer func() { require.NoError(t, store.Close(ctx)) }()
	for _, name := range []string{"kafka-a", "kafka-b"} {
		require.NoError(t, store.PutCluster(ctx, name, metadata.Cluster{Kind: broker.Kafka, Addresses: env.Addresses(name)}))
		c, err := drivers.Open(ctx, broker.Config{Name: name, Kind: broker.Kafka, Addresses: env.Addresses(name), ClientID: "test"})
		require.NoError(t, err)
		require.NoError(t, c.CreateTopic(ctx, "order_topic", broker.TopicSpec{Partitions: 4}))
		require.NoError(t, c.Close(ctx))
	}
	_, err = store.PutTopic(ctx, "order_topic", metadata.PutTopic{Cluster: "kafka-a"})
	require.NoError(t, err)
	g := metadata.DefaultGroup()
	g.Topics = []string{"order_topic"}
	require.NoError(t, store.PutGroup(ctx, "order_bil_group", g))

	var out output
	program := exec.CommandContext(ctx, os.Args[0])
	program.Env = append(os.Environ(), programVariable+"=1", "TURNOUT_ZOOKEEPER="+env.ZooKeeper(), "XDG_CACHE_HOME="+t.TempDir())
	program.Stdout, program.Stderr = &out, &out
	require.NoError(t, program.Start())
	defer func() { _ = program.Process.Kill() }()
	says := func(text string) {
		t.Helper()
		require.Eventually(t, func() bool { return strings.Contains(out.String(), text) }, patience, 20*time.Millisecond, "no %q: %s", text, &out)
	}
	says("sent order 1 to kafka-a")
	says("received order 1 from kafka-a")
	require.NoError(t, store.Set(ctx, store.TopicPath("order_topic"), []byte(`{"cluster":"kafka-b"}`), metadata.AnyVersion))
	says("to kafka-b")
	says("from kafka-b")
	require.NoError(t, program.Process.Signal(os.Interrupt))
	require.NoError(t, program.Wait(), "%v", &out)
}
