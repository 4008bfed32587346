package testenv

import (
	"testing"

	"github.com/IBM/sarama"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m,
		goleak.IgnoreAnyFunction("github.com/rcrowley/go-metrics.(*meterArbiter).tick")) // sarama's, for the whole process
}

func TestEverythingServesWhenStartReturns(t *testing.T) {
	Each(t, Spec{ZooKeeper: 1, Kafka: []string{"kafka-a", "kafka-b"}}, func(t *testing.T, e *Env) {
		require.Equal(t, []string{"kafka-a", "kafka-b", "zookeeper"}, e.Nodes())
		require.NotEqual(t, e.ClusterID("kafka-a"), e.ClusterID("kafka-b"))
		for _, name := range []string{"kafka-a", "kafka-b"} {
			require.Equal(t, "kafka", e.Kind(name))
			admin, err := sarama.NewClusterAdmin(e.Addresses(name), kafkaConfig())
			require.NoError(t, err)
			require.NoError(t, admin.CreateTopic("t", &sarama.TopicDetail{NumPartitions: -1, ReplicationFactor: 1}, false))
			topics, err := admin.DescribeTopics([]string{"t"})
			require.NoError(t, err)
			require.Len(t, topics[0].Partitions, kafkaPartitions)
			require.NoError(t, admin.Close())
		}
	})
}

func kafkaConfig() *sarama.Config {
	c := sarama.NewConfig()
	c.Version = sarama.V2_8_0_0
	c.Producer.Return.Successes = true
	return c
}
