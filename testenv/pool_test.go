package testenv

import (
	"testing"

	"github.com/IBM/sarama"
	"github.com/go-zookeeper/zk"
	"github.com/stretchr/testify/require"
)

func TestAPoolGivesServersThatAreAsNew(t *testing.T) {
	var p Pool
	require.Equal(t, 0, p.Main(runs(func() int {
		var first *Env
		for _, name := range []string{"one", "two"} {
			t.Run(name, func(t *testing.T) {
				p.Each(t, Spec{ZooKeeper: 1, Kafka: []string{"kafka-a"}}, func(t *testing.T, e *Env) {
					if e.Backend() == Servers {
						require.True(t, first == nil || first == e, "it is used again")
						first = e
					}
					// What the other one did is not there.
					require.NoError(t, ask(e, "kafka-a", late))
					c := connect(t, e)
					_, err := c.Create("/a", nil, 0, zk.WorldACL(zk.PermAll))
					require.NoError(t, err)
					_, err = c.Create("/a/b", nil, zk.FlagEphemeral, zk.WorldACL(zk.PermAll))
					require.NoError(t, err)
					createTopic(t, e, "kafka-a")
					client, err := sarama.NewClient(e.Addresses("kafka-a"), kafkaConfig())
					require.NoError(t, err)
					offsets, err := sarama.NewOffsetManagerFromClient("g", client)
					require.NoError(t, err)
					partition, err := offsets.ManagePartition("t", 0)
					require.NoError(t, err)
					next, _ := partition.NextOffset()
					require.EqualValues(t, -1, next)
					partition.MarkOffset(7, "")
					offsets.Commit()
					require.NoError(t, partition.Close())
					require.NoError(t, offsets.Close())
					require.NoError(t, client.Close())
					require.NoError(t, e.Kill(t.Context(), "kafka-a"))
				})
			})
		}
		return 0
	})).Run())
}

func TestAPoolWhoseServersWereUsedForGood(t *testing.T) {
	var p Pool
	require.Equal(t, 7, p.Main(runs(func() int {
		var first *Env
		for _, name := range []string{"one", "two"} {
			t.Run(name, func(t *testing.T) {
				p.Each(t, Spec{ZooKeeper: 1}, func(t *testing.T, e *Env) {
					require.NotSame(t, first, e)
					first = e
					c := connect(t, e)
					require.NoError(t, c.AddAuth("digest", []byte("alice:secret")))
					_, err := c.Create("/locked", nil, 0, zk.DigestACL(zk.PermAll, "alice", "secret"))
					require.NoError(t, err)
					_, err = c.Create("/locked/x", nil, 0, zk.DigestACL(zk.PermAll, "alice", "secret"))
					require.NoError(t, err)
				})
			})
		}
		return 7
	})).Run())
}

type runs func() int

func (r runs) Run() int { return r() }
