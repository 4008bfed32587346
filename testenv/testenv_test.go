package testenv

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/IBM/sarama"
	"github.com/go-zookeeper/zk"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/turnout-mq/turnout/testenv/leaks"
)

// environments of real servers go from test to test.
var environments Pool

func TestMain(m *testing.M) {
	if os.Getenv(orphanVariable) != "" {
		runOrphan()
	}
	goleak.VerifyTestMain(environments.Main(m), leaks.Libraries()...)
}

// patience bounds every wait for something that must happen.
const patience = 60 * time.Second

func TestEverythingServesWhenStartReturns(t *testing.T) {
	spec := Spec{ZooKeeper: 1, Kafka: []string{"kafka-a", "kafka-b"}}
	Each(t, spec, func(t *testing.T, e *Env) {
		require.Equal(t, []string{"kafka-a", "kafka-b", "zookeeper"}, e.Nodes())
		require.NotEqual(t, e.ClusterID("kafka-a"), e.ClusterID("kafka-b"))
		c := connect(t, e)
		_, err := c.Create("/a", []byte("1"), 0, zk.WorldACL(zk.PermAll))
		require.NoError(t, err)
		for _, name := range spec.Kafka {
			require.Equal(t, "kafka", e.Kind(name))
			require.Len(t, e.Addresses(name), 1)
			createTopic(t, e, name)
		}
		require.Equal(t, e.Backend() == Embedded, e.EmbeddedZooKeeper() != nil)
		require.Equal(t, e.Backend() == Embedded, e.EmbeddedKafka("kafka-a") != nil)
	})
}

func TestTopicsAreNotCreatedByUse(t *testing.T) {
	environments.Each(t, Spec{Kafka: []string{"kafka-a"}}, func(t *testing.T, e *Env) {
		p, err := sarama.NewSyncProducer(e.Addresses("kafka-a"), kafkaConfig())
		require.NoError(t, err)
		defer p.Close()
		_, _, err = p.SendMessage(&sarama.ProducerMessage{Topic: "missing", Value: sarama.StringEncoder("x")})
		require.ErrorIs(t, err, sarama.ErrUnknownTopicOrPartition)
	})
}

// sarama's offset manager, and whoever reads lags, relies on this answer.
func TestOffsetsOfAGroupThatNeverWas(t *testing.T) {
	environments.Each(t, Spec{Kafka: []string{"kafka-a"}}, func(t *testing.T, e *Env) {
		createTopic(t, e, "kafka-a")
		for _, version := range []sarama.KafkaVersion{sarama.V1_0_0_0, sarama.V2_8_0_0, sarama.V4_0_0_0} {
			config := kafkaConfig()
			config.Version = version
			admin, err := sarama.NewClusterAdmin(e.Addresses("kafka-a"), config)
			require.NoError(t, err)
			offsets, err := admin.ListConsumerGroupOffsets("never", map[string][]int32{"t": {0}})
			require.NoError(t, err)
			require.Equal(t, sarama.ErrNoError, offsets.Err)
			require.Equal(t, int64(-1), offsets.GetBlock("t", 0).Offset)
			require.Equal(t, sarama.ErrNoError, offsets.GetBlock("t", 0).Err)
			require.NoError(t, admin.Close())
		}
	})
}

func TestABadSpecIsRefused(t *testing.T) {
	full := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(full, "x"), nil, 0o600))
	for _, c := range []struct {
		name  string
		spec  Spec
		names []string // what the error must name
	}{
		{"unknown backend", Spec{Backend: "docker"}, []string{"Spec.Backend", "docker", "embedded", "servers"}},
		{"two ZooKeeper servers", Spec{ZooKeeper: 2}, []string{"Spec.ZooKeeper", "2"}},
		{"name with a slash", Spec{Kafka: []string{"a/b"}}, []string{"a/b"}},
		{"name of ZooKeeper", Spec{Kafka: []string{"zookeeper"}}, []string{`"zookeeper"`}},
		{"name twice", Spec{Kafka: []string{"a", "a"}}, []string{`"a"`, "twice"}},
		{"all problems at once", Spec{ZooKeeper: 4, Kafka: []string{""}}, []string{"Spec.ZooKeeper", `cluster name ""`}},
		{"folder in use", Spec{Kafka: []string{"a"}, Dir: full}, []string{"Spec.Dir", full}},
	} {
		t.Run(c.name, func(t *testing.T) {
			e, err := Start(t.Context(), c.spec)
			require.Nil(t, e)
			for _, name := range c.names {
				require.ErrorContains(t, err, name)
			}
		})
	}
}

func TestBackendsOfTheVariable(t *testing.T) {
	for value, want := range map[string][]Backend{
		"": {Embedded}, "embedded": {Embedded}, "servers": {Servers}, "all": {Embedded, Servers},
	} {
		t.Setenv(backendVariable, value)
		got, err := Backends()
		require.NoError(t, err)
		require.Equal(t, want, got)
	}
	t.Setenv(backendVariable, "docker")
	_, err := Backends()
	require.ErrorContains(t, err, `TURNOUT_TEST is "docker"`)
}

func TestCloseEndsEverything(t *testing.T) {
	Each(t, Spec{ZooKeeper: 1, Kafka: []string{"kafka-a"}, Proxy: true}, func(t *testing.T, e *Env) {
		addresses := append(e.Addresses("kafka-a"), e.ZooKeeper())
		require.NoError(t, e.Close())
		require.NoError(t, e.Close())
		for _, a := range addresses {
			require.Error(t, reach(a))
		}
		require.NoDirExists(t, e.dir)
		require.Empty(t, e.Nodes())
		require.Empty(t, e.ZooKeeper())
		require.Error(t, e.Kill(t.Context(), "kafka-a"))
	})
}

func TestAStartThatFailsLeavesNothing(t *testing.T) {
	backends, err := Backends()
	require.NoError(t, err)
	for _, b := range backends {
		t.Run(string(b), func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			cancel()
			e, err := Start(ctx, Spec{Backend: b, ZooKeeper: 3, Kafka: []string{"kafka-a"}})
			require.ErrorIs(t, err, context.Canceled)
			require.Nil(t, e)
		})
	}
}

func TestAnotherPortIsTakenWhenOneIsLost(t *testing.T) {
	Each(t, Spec{}, func(t *testing.T, e *Env) {
		e.spec.ZooKeeper = 1
		build := map[string]func(string) (*cluster, error){
			kindZooKeeper: e.embeddedZooKeeper, "kafka-a": e.embeddedKafka, "rocketmq-a": e.embeddedRocketMQ,
		}
		if e.Backend() == Servers {
			build = map[string]func(string) (*cluster, error){
				kindZooKeeper: e.serversZooKeeper, "kafka-a": e.serversKafka, "rocketmq-a": e.serversRocketMQ,
			}
		}
		for name, build := range build {
			t.Run(name, func(t *testing.T) {
				tries := 0
				err := e.launch(t.Context(), name, func(name string) (*cluster, error) {
					c, err := build(name)
					if err == nil && tries < len(c.nodes) { // one node's port after the other
						l, err := net.Listen("tcp", c.nodes[tries].address)
						require.NoError(t, err)
						t.Cleanup(func() { require.NoError(t, l.Close()) })
						tries++
					}
					return c, err
				})
				require.NoError(t, err)
				require.Positive(t, tries)
				for _, n := range e.cluster(name).nodes {
					require.NoError(t, reach(n.address))
				}
			})
		}
	})
}

func kafkaConfig() *sarama.Config {
	c := sarama.NewConfig()
	c.Version = sarama.V2_8_0_0
	c.Producer.Return.Successes = true
	return c
}

// createTopic creates the topic t without a number of partitions.
func createTopic(t *testing.T, e *Env, cluster string) {
	t.Helper()
	admin, err := sarama.NewClusterAdmin(e.Addresses(cluster), kafkaConfig())
	require.NoError(t, err)
	require.NoError(t, admin.CreateTopic("t", &sarama.TopicDetail{NumPartitions: -1, ReplicationFactor: 1}, false))
	topics, err := admin.DescribeTopics([]string{"t"})
	require.NoError(t, err)
	require.Len(t, topics[0].Partitions, kafkaPartitions)
	require.NoError(t, admin.Close())
}

// connect connects to the environment's ZooKeeper for the length of the test.
func connect(t *testing.T, e *Env) *zk.Conn {
	t.Helper()
	c, _ := connectEvents(t, e)
	return c
}

func connectEvents(t *testing.T, e *Env) (*zk.Conn, <-chan zk.State) {
	t.Helper()
	states := make(chan zk.State, 1000)
	c, _, err := zk.Connect(e.Addresses(kindZooKeeper), time.Minute, zk.WithLogInfo(false), zk.WithLogger(silent{}),
		zk.WithEventCallback(func(ev zk.Event) {
			if ev.Type == zk.EventSession {
				states <- ev.State
			}
		}))
	require.NoError(t, err)
	t.Cleanup(c.Close)
	wait(t, states, zk.StateHasSession)
	return c, states
}

type silent struct{}

func (silent) Printf(string, ...any) {}

func wait(t *testing.T, states <-chan zk.State, want zk.State) {
	t.Helper()
	end := time.After(patience)
	for {
		select {
		case s := <-states:
			if s == want {
				return
			}
		case <-end:
			t.Fatalf("no %v", want)
		}
	}
}

// reach connects to addr and says whether somebody is there.
func reach(addr string) error {
	c, err := net.DialTimeout("tcp", addr, patience)
	if err != nil {
		return err
	}
	return c.Close()
}

func TestCloseEndsARestart(t *testing.T) {
	Each(t, Spec{ZooKeeper: 3}, func(t *testing.T, e *Env) {
		for _, node := range e.Nodes() {
			require.NoError(t, e.Kill(t.Context(), node))
		}
		restarted := make(chan error)
		go func() { restarted <- e.Restart(context.Background(), "zookeeper-1") }() // it would wait for a majority
		require.NoError(t, e.Close())
		require.Error(t, <-restarted)
		require.Error(t, e.Restart(t.Context(), "zookeeper-1"))
	})
}
