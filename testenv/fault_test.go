package testenv

import (
	"context"
	"errors"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/IBM/sarama"
	"github.com/go-zookeeper/zk"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/turnout-mq/turnout/broker/rocketmq/remoting"
)

// ask makes one request to a node and returns nil if it is answered in time.
func ask(e *Env, node string, timeout time.Duration) error {
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	switch cluster, _, _ := strings.Cut(node, "/"); {
	case strings.HasPrefix(node, kindZooKeeper):
		nodes, err := e.nodes(node)
		if err != nil {
			return err
		}
		_, err = zooKeeperMode(ctx, nodes[0].address)
		return err
	case e.Kind(cluster) == kindKafka:
		return kafkaServes(ctx, e.Addresses(cluster)[0], e.ClusterID(cluster))
	default:
		return askRocketMQ(ctx, e, node)
	}
}

func askRocketMQ(ctx context.Context, e *Env, node string) error {
	nodes, err := e.nodes(node)
	if err != nil {
		return err
	}
	client := remoting.NewClient(remoting.Options{})
	defer client.Close()
	for _, n := range nodes {
		if strings.HasSuffix(n.name, "/broker") {
			if _, err := client.BrokerConfig(ctx, n.address); err != nil {
				return err
			}
			continue
		}
		cluster, _, _ := strings.Cut(n.name, "/")
		info, err := client.ClusterInfo(ctx, n.address)
		if err != nil {
			return err
		}
		if info.Brokers[cluster].Master() == "" {
			return errors.New("the broker is not registered")
		}
	}
	return nil
}

const (
	soon = 300 * time.Millisecond // for what must not come
	late = time.Minute            // for what must come, on a busy machine
)

func answers(t *testing.T, e *Env, node string) {
	t.Helper()
	require.EventuallyWithT(t, func(c *assert.CollectT) { require.NoError(c, ask(e, node, late)) }, patience, pollInterval)
}

// everyNode runs f for every node of environments of each backend.
func everyNode(t *testing.T, f func(t *testing.T, e *Env, node string)) {
	t.Helper()
	environments.Each(t, Spec{ZooKeeper: 1, Kafka: []string{"kafka-a"}, Proxy: true}, func(t *testing.T, e *Env) {
		for _, node := range e.Nodes() {
			t.Run(node, func(t *testing.T) { f(t, e, node) })
		}
	})
	environments.Each(t, Spec{RocketMQ: []string{"rocketmq-a"}, Proxy: true}, func(t *testing.T, e *Env) {
		for _, node := range []string{"rocketmq-a", "rocketmq-a/broker", "rocketmq-a/namesrv"} {
			t.Run(strings.ReplaceAll(node, "/", "-"), func(t *testing.T) { f(t, e, node) })
		}
	})
}

func TestANodeThatEndedRefusesAndComesBack(t *testing.T) {
	everyNode(t, func(t *testing.T, e *Env, node string) {
		for name, end := range map[string]func(context.Context, string) error{"stop": e.Stop, "kill": e.Kill} {
			t.Run(name, func(t *testing.T) {
				require.NoError(t, ask(e, node, late))
				require.NoError(t, end(t.Context(), node))
				require.ErrorIs(t, ask(e, node, late), syscall.ECONNREFUSED)
				require.NoError(t, end(t.Context(), node), "it has ended already")
				require.NoError(t, e.Restart(t.Context(), node))
				require.NoError(t, ask(e, node, late), "it serves when Restart returns")
			})
		}
	})
}

func TestRestartOfARunningNode(t *testing.T) {
	everyNode(t, func(t *testing.T, e *Env, node string) {
		require.NoError(t, e.Restart(t.Context(), node))
		require.NoError(t, ask(e, node, late))
	})
}

func TestAPausedNodeAnswersNothing(t *testing.T) {
	everyNode(t, func(t *testing.T, e *Env, node string) {
		require.NoError(t, e.Pause(node))
		requireSilent(t, e, node)
		require.NoError(t, e.Resume(node))
		answers(t, e, node)

		require.NoError(t, e.Pause(node))
		require.NoError(t, e.Kill(t.Context(), node))
		require.Error(t, e.Resume(node), "it does not run")
		require.NoError(t, e.Restart(t.Context(), node))
		require.NoError(t, ask(e, node, late))

		require.NoError(t, e.Pause(node))
		require.NoError(t, e.Restart(t.Context(), node))
		require.NoError(t, ask(e, node, late))
	})
}

func TestACutNodeRefusesUntilHealed(t *testing.T) {
	everyNode(t, func(t *testing.T, e *Env, node string) {
		require.NoError(t, e.Cut(node))
		require.NoError(t, e.Cut(node), "it is cut already")
		require.ErrorIs(t, ask(e, node, late), syscall.ECONNREFUSED)
		require.NoError(t, e.Restart(t.Context(), node))
		require.ErrorIs(t, ask(e, node, late), syscall.ECONNREFUSED, "a restart does not heal")
		require.NoError(t, e.Heal(node))
		require.NoError(t, ask(e, node, late))
	})
}

func TestADelayedNodeAnswersLater(t *testing.T) {
	everyNode(t, func(t *testing.T, e *Env, node string) {
		require.NoError(t, e.Delay(node, time.Hour))
		requireSilent(t, e, node)
		require.NoError(t, e.Delay(node, 0))
		require.NoError(t, ask(e, node, late))
		require.ErrorContains(t, e.Delay(node, -1), "negative")
	})
}

func TestMendUndoesEveryFault(t *testing.T) {
	everyNode(t, func(t *testing.T, e *Env, node string) {
		for name, fault := range map[string]func() error{
			"nothing": func() error { return nil },
			"kill":    func() error { return e.Kill(t.Context(), node) },
			"pause":   func() error { return e.Pause(node) },
			"cut":     func() error { return e.Cut(node) },
			"delay":   func() error { return e.Delay(node, time.Hour) },
		} {
			t.Run(name, func(t *testing.T) {
				require.NoError(t, fault())
				require.NoError(t, e.Mend(t.Context()))
				require.NoError(t, ask(e, node, late))
			})
		}
	})
}

func TestCutAndDelayNeedAProxy(t *testing.T) {
	environments.Each(t, Spec{Kafka: []string{"kafka-a"}}, func(t *testing.T, e *Env) {
		require.ErrorContains(t, e.Cut("kafka-a"), "Spec.Proxy")
		require.ErrorContains(t, e.Delay("kafka-a", time.Second), "Spec.Proxy")
	})
}

func TestFaultsOfAnUnknownNode(t *testing.T) {
	Each(t, Spec{}, func(t *testing.T, e *Env) {
		for _, err := range []error{
			e.Stop(t.Context(), "x"), e.Kill(t.Context(), "x"), e.Restart(t.Context(), "x"),
			e.Pause("x"), e.Resume("x"), e.Cut("x"), e.Heal("x"), e.Delay("x", 0),
		} {
			require.ErrorContains(t, err, `no node "x"`)
		}
		require.Error(t, e.ExpireSession(t.Context(), 0))
		_, err := e.ZooKeeperLeader(t.Context())
		require.Error(t, err)
		_, err = e.ZkCli(t.Context(), "ls", "/")
		require.ErrorContains(t, err, "no ZooKeeper")
		require.Empty(t, e.Addresses("x"))
		require.Empty(t, e.Kind("x"))
		require.Empty(t, e.ClusterID("x"))
		require.Nil(t, e.EmbeddedZooKeeper())
		require.Nil(t, e.EmbeddedKafka("x"))
	})
}

func TestKafkaKeepsMessagesAndOffsets(t *testing.T) {
	environments.Each(t, Spec{Kafka: []string{"kafka-a"}}, func(t *testing.T, e *Env) {
		createTopic(t, e, "kafka-a")
		id := e.ClusterID("kafka-a")
		for round := range int64(3) {
			p, err := sarama.NewSyncProducer(e.Addresses("kafka-a"), kafkaConfig())
			require.NoError(t, err)
			m := &sarama.ProducerMessage{Topic: "t", Partition: 0, Key: sarama.StringEncoder("k"), Value: sarama.StringEncoder("v")}
			_, offset, err := p.SendMessage(m)
			require.NoError(t, err)
			require.NoError(t, p.Close())
			require.Equal(t, round, offset)

			c, err := sarama.NewClient(e.Addresses("kafka-a"), kafkaConfig())
			require.NoError(t, err)
			om, err := sarama.NewOffsetManagerFromClient("g", c)
			require.NoError(t, err)
			pom, err := om.ManagePartition("t", m.Partition)
			require.NoError(t, err)
			next, _ := pom.NextOffset()
			require.Equal(t, []int64{-1, 1, 2}[round], next)
			pom.MarkOffset(offset+1, "")
			om.Commit()
			require.NoError(t, pom.Close())
			require.NoError(t, om.Close())
			require.NoError(t, c.Close())

			require.NoError(t, e.Kill(t.Context(), "kafka-a"))
			require.NoError(t, e.Restart(t.Context(), "kafka-a"))
			require.Equal(t, id, e.ClusterID("kafka-a"))
		}
	})
}

func TestRocketMQKeepsTopicsAndMessages(t *testing.T) {
	spec := Spec{RocketMQ: []string{"rocketmq-a", "rocketmq-b"}}
	Each(t, spec, func(t *testing.T, e *Env) {
		require.Equal(t, spec.RocketMQ, e.Nodes())
		require.Equal(t, "rocketmq", e.Kind("rocketmq-a"))
		require.Len(t, e.Addresses("rocketmq-a"), 1)
		names := e.Addresses("rocketmq-a")[0]
		client := remoting.NewClient(remoting.Options{})
		defer client.Close()
		info, err := client.ClusterInfo(t.Context(), names)
		require.NoError(t, err)
		require.Equal(t, map[string][]string{e.ClusterID("rocketmq-a"): {"rocketmq-a"}}, info.Clusters)
		broker := info.Brokers["rocketmq-a"].Master()
		require.NoError(t, client.UpdateTopic(t.Context(), broker, remoting.TopicConfig{Name: "t", ReadQueues: 1, WriteQueues: 1, Perm: 6}))
		send := func(topic string) error {
			_, err := client.Call(t.Context(), broker, remoting.NewRequest(remoting.ReqSendMessage, []byte("hello"),
				"topic", topic, "producerGroup", "p", "defaultTopic", "TBW102", "defaultTopicQueueNums", "4", "queueId", "0",
				"sysFlag", "0", "bornTimestamp", "1", "flag", "0", "properties", "", "reconsumeTimes", "0", "unitMode", "false"))
			return err
		}
		require.Error(t, send("missing"), "a topic is not created by use")
		for round, node := range []string{"rocketmq-a/broker", "rocketmq-a/namesrv", "rocketmq-a"} {
			require.NoError(t, send("t"))
			require.NoError(t, e.Kill(t.Context(), node))
			require.NoError(t, e.Restart(t.Context(), node))
			require.EventuallyWithT(t, func(c *assert.CollectT) { // connections of before may fail, and it may still index what it has
				route, err := client.Route(t.Context(), names, "t")
				require.NoError(c, err)
				require.Equal(c, broker, route.Brokers[0].Master())
				end, err := client.MaxOffset(t.Context(), broker, remoting.Queue{Topic: "t", Broker: "rocketmq-a"})
				require.NoError(c, err)
				require.EqualValues(c, round+1, end)
			}, patience, pollInterval)
		}
	})
}

func TestZooKeeperKeepsNodesAndSessions(t *testing.T) {
	environments.Each(t, Spec{ZooKeeper: 1}, func(t *testing.T, e *Env) {
		c, states := connectEvents(t, e)
		id := c.SessionID()
		_, err := c.Create("/ephemeral", []byte("1"), zk.FlagEphemeral, zk.WorldACL(zk.PermAll))
		require.NoError(t, err)
		for _, end := range []func(context.Context, string) error{e.Kill, e.Stop} {
			require.NoError(t, end(t.Context(), "zookeeper"))
			wait(t, states, zk.StateDisconnected)
			require.NoError(t, e.Restart(t.Context(), "zookeeper"))
			wait(t, states, zk.StateHasSession)
			require.Equal(t, id, c.SessionID())
			there, _, err := c.Exists("/ephemeral")
			require.NoError(t, err)
			require.True(t, there)
		}
	})
}

func TestAnExpiredSessionIsGone(t *testing.T) {
	for _, size := range []int{1, 3} {
		environments.Each(t, Spec{ZooKeeper: size}, func(t *testing.T, e *Env) {
			other := connect(t, e)
			for _, all := range []bool{false, true} {
				c, states := connectEvents(t, e)
				id := c.SessionID()
				_, err := c.Create("/ephemeral", nil, zk.FlagEphemeral, zk.WorldACL(zk.PermAll))
				require.NoError(t, err)
				require.Contains(t, e.Sessions(), id)
				if all {
					other.Close()
					require.NoError(t, e.ExpireSession(t.Context(), 0))
				} else {
					require.NoError(t, e.ExpireSession(t.Context(), id))
				}
				require.NotContains(t, e.Sessions(), id)
				wait(t, states, zk.StateExpired)
				wait(t, states, zk.StateHasSession)
				require.NotEqual(t, id, c.SessionID())
				there, _, err := c.Exists("/ephemeral")
				require.NoError(t, err)
				require.False(t, there)
				require.Error(t, e.ExpireSession(t.Context(), id), "there is no such session any more")
				require.Error(t, e.ExpireSession(t.Context(), 4711))
			}
		})
	}
}

func TestAnEnsembleOutlivesItsLeader(t *testing.T) {
	environments.Each(t, Spec{ZooKeeper: 3}, func(t *testing.T, e *Env) {
		require.Equal(t, []string{"zookeeper-1", "zookeeper-2", "zookeeper-3"}, e.Nodes())
		require.Len(t, strings.Split(e.ZooKeeper(), ","), 3)
		c, states := connectEvents(t, e)
		id := c.SessionID()
		_, err := c.Create("/ephemeral", []byte("0"), zk.FlagEphemeral, zk.WorldACL(zk.PermAll))
		require.NoError(t, err)

		leader, err := e.ZooKeeperLeader(t.Context())
		require.NoError(t, err)
		require.NoError(t, e.Kill(t.Context(), leader))
		wait(t, states, zk.StateDisconnected)
		wait(t, states, zk.StateHasSession)
		require.Equal(t, id, c.SessionID())
		require.EventuallyWithT(t, func(ct *assert.CollectT) {
			_, err := c.Set("/ephemeral", []byte("1"), -1)
			require.NoError(ct, err)
		}, patience, pollInterval)
		next, err := e.ZooKeeperLeader(t.Context())
		require.NoError(t, err)
		require.NotEqual(t, leader, next)

		require.NoError(t, e.Restart(t.Context(), leader))
		require.NoError(t, ask(e, leader, late))
	})
}

func TestAnEnsembleNeedsAMajority(t *testing.T) {
	environments.Each(t, Spec{ZooKeeper: 3}, func(t *testing.T, e *Env) {
		c, states := connectEvents(t, e)
		_, err := c.Create("/a", nil, 0, zk.WorldACL(zk.PermAll))
		require.NoError(t, err)
		require.NoError(t, e.Kill(t.Context(), "zookeeper-1"))
		require.NoError(t, e.Kill(t.Context(), "zookeeper-2"))
		wait(t, states, zk.StateDisconnected)
		require.EventuallyWithT(t, func(ct *assert.CollectT) {
			_, err := e.ZooKeeperLeader(t.Context())
			require.Error(ct, err)
		}, patience, pollInterval)
		require.Error(t, ask(e, "zookeeper-3", soon))

		require.NoError(t, e.Restart(t.Context(), "zookeeper"))
		wait(t, states, zk.StateHasSession)
		there, _, err := c.Exists("/a")
		require.NoError(t, err)
		require.True(t, there)
	})
}

func TestAPausedMemberLeavesTheOthersAlone(t *testing.T) {
	environments.Each(t, Spec{ZooKeeper: 3}, func(t *testing.T, e *Env) {
		leader, err := e.ZooKeeperLeader(t.Context())
		require.NoError(t, err)
		for _, node := range e.Nodes() {
			if node == leader {
				continue
			}
			require.NoError(t, e.Pause(node))
			require.NoError(t, e.Pause(node), "it is paused already")
			requireSilent(t, e, node)
			require.NoError(t, ask(e, leader, late))
			require.NoError(t, e.Resume(node))
			require.NoError(t, e.Resume(node), "it is not paused any more")
			answers(t, e, node)
			require.NoError(t, e.Pause(node))
			require.NoError(t, e.Kill(t.Context(), node))
			require.Error(t, e.Resume(node), "it does not run")
			require.NoError(t, e.Restart(t.Context(), node))
			require.NoError(t, ask(e, node, late))
		}
	})
}

func TestZkCli(t *testing.T) {
	EachOf(t, Spec{ZooKeeper: 1}, []Backend{Servers}, func(t *testing.T, e *Env) { // it needs Java
		_, err := e.ZkCli(t.Context(), "create", "/a", "hello")
		require.NoError(t, err)
		data, _, err := connect(t, e).Get("/a")
		require.NoError(t, err)
		require.Equal(t, "hello", string(data))
		out, err := e.ZkCli(t.Context(), "get", "/a")
		require.NoError(t, err)
		require.Contains(t, out, "hello")
		_, err = e.ZkCli(t.Context(), "get", "/missing")
		require.ErrorContains(t, err, "/missing")
		_, err = e.ZkCli(t.Context())
		require.ErrorContains(t, err, "needs a command")
	})
}

// requireSilent asserts that a node accepts connections and answers nothing.
func requireSilent(t *testing.T, e *Env, node string) {
	t.Helper()
	err := ask(e, node, soon)
	require.Error(t, err)
	require.True(t, errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, context.DeadlineExceeded), err)
}
