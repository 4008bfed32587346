package fleet_test

import (
	"context"
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/turnout-mq/turnout"
	"github.com/turnout-mq/turnout/admin/fleet"
	"github.com/turnout-mq/turnout/broker"
	"github.com/turnout-mq/turnout/broker/drivers"
	"github.com/turnout-mq/turnout/metadata"
	"github.com/turnout-mq/turnout/testenv"
)

// An application sends to Kafka and RocketMQ, and its group reads what it has sent.
func TestAnApplication(t *testing.T) {
	testenv.Each(t, testenv.Spec{ZooKeeper: 1, Kafka: []string{"kafka-a"}, RocketMQ: []string{"rocketmq-a"}}, func(t *testing.T, e *testenv.Env) {
		w := newWorld(t)
		w.zookeeper, w.open = e.ZooKeeper(), drivers.Open
		w.meta = w.connect()
		topics := map[string]string{"orders": "kafka-a", "letters": "rocketmq-a"}
		for topic, cluster := range topics {
			kind := broker.Kind(e.Kind(cluster))
			require.NoError(t, w.meta.PutCluster(w.ctx(), cluster, metadata.Cluster{Kind: kind, Addresses: e.Addresses(cluster)}))
			c, err := drivers.Open(w.ctx(), broker.Config{Name: cluster, Kind: kind, Addresses: e.Addresses(cluster), ClientID: "test"})
			require.NoError(t, err)
			require.NoError(t, c.CreateTopic(w.ctx(), topic, broker.TopicSpec{Partitions: 2}))
			require.NoError(t, c.Close(w.ctx()))
			_, err = w.meta.PutTopic(w.ctx(), topic, metadata.PutTopic{Cluster: cluster})
			require.NoError(t, err)
		}
		w.group("billing", "orders", "letters")

		client, err := turnout.Open(w.ctx(), turnout.Config{App: "order_app", ZooKeeper: w.zookeeper, Root: w.root, SnapshotDir: t.TempDir()})
		require.NoError(t, err)
		t.Cleanup(func() { require.NoError(t, client.Close(w.ctx())) })
		const messages = 10
		for topic := range topics {
			for i := range messages {
				_, err := client.Send(w.ctx(), topic, &turnout.Message{Key: fmt.Append(nil, i), Body: []byte("12 apples")})
				require.NoError(t, err)
			}
		}
		s := w.server()
		for topic, cluster := range topics {
			got := w.look(s, topic, func(t *fleet.Topic) bool {
				return t.Error == "" && len(t.Groups) == 1 && t.Groups[0].Unread == messages && len(t.Instances) == 1 && t.Instances[0].Applied
			})
			require.Equal(t, cluster, got.Write)
			require.Equal(t, cluster, got.Instances[0].Write)
			var sum int64
			for _, end := range got.Clusters[0].Ends {
				sum += end
			}
			require.EqualValues(t, messages, sum)
		}
		w.eventually(func() bool { // one look may fail, on a machine that stands still
			top, err := s.Top(w.ctx(), 10)
			require.NoError(t, err)
			return len(top) == 2
		}, "both topics to be among those with most unread")

		_, err = client.Subscribe(w.ctx(), "billing", func(context.Context, *turnout.Delivery) error { return nil })
		require.NoError(t, err)
		w.eventually(func() bool {
			g, err := s.Group(w.ctx(), "billing")
			require.NoError(t, err)
			return len(g.Parts) == 2 && g.Unread == 0 && g.Error == ""
		}, "the group to have read everything")
		w.eventually(func() bool {
			instances, err := s.Instances(w.ctx(), "order_app")
			require.NoError(t, err)
			if len(instances) != 1 || len(instances[0].Topics) != 2 || instances[0].SDK != turnout.Version {
				return false
			}
			attached := 0
			for _, use := range instances[0].Topics {
				if use.Groups["billing"][topics[use.Topic]] == metadata.Attached && use.Applied {
					attached++
				}
			}
			return attached == 2
		}, "the instance to say what it reads")
		w.eventually(func() bool { return len(s.Snapshot().Topics) == 2 }, "both topics to be in the snapshot")
	})
}
