package turnout_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/turnout-mq/turnout/metadata"
	"github.com/turnout-mq/turnout/testenv"
)

// withKinds runs f in an environment with both kinds of clusters, which no other test uses meanwhile.
func withKinds(t *testing.T, f func(t *testing.T, w *world)) {
	spec := testenv.Spec{ZooKeeper: 1, Kafka: []string{"kafka-a"}, RocketMQ: []string{"rocketmq-a", "rocketmq-b"}}
	backends, err := testenv.Backends()
	require.NoError(t, err)
	for _, backend := range backends {
		t.Run(string(backend), func(t *testing.T) {
			f(t, newWorld(t, sharedEnv(t, backend, spec), "kafka-a", "rocketmq-a", "rocketmq-b"))
		})
	}
}

// withTransactions is withKinds for cases that begin transactions or set timers, in an environment of their own: a broker of 5.5.0
// that has ended a transaction looks for the next one without a pause, and one with timers writes to its disk all the time.
func withTransactions(t *testing.T, cases map[string]func(t *testing.T, w *world)) {
	spec := testenv.Spec{ZooKeeper: 1, Kafka: []string{"kafka-a"}, RocketMQ: []string{"rocketmq-a", "rocketmq-b"}, RocketMQTimers: true}
	testenv.Each(t, spec, func(t *testing.T, env *testenv.Env) {
		for name, f := range cases {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				f(t, newWorld(t, env, "kafka-a", "rocketmq-a", "rocketmq-b"))
			})
		}
	})
}

func TestATopicMovesBetweenKindsInBothDirections(t *testing.T) {
	withKinds(t, func(t *testing.T, w *world) {
		tour := []string{"kafka-a", "rocketmq-a", "rocketmq-b", "kafka-a"}
		w.putTopic("kafka-a", "rocketmq-a", "rocketmq-b")
		w.putGroup(nil)
		one, two := w.recorder("one"), w.recorder("two")
		a, b := w.open("order_service"), w.open("order_service_consumer")
		w.listen(b, two)
		w.listen(a, one)
		stop := w.traffic(a, one, 4)
		for _, cluster := range tour[1:] {
			w.edit(cluster)
			w.applied(cluster)
		}
		stop()
		v := w.verdict("kafka-a", "rocketmq-a", "rocketmq-b")
		require.NoError(t, v.Err())
		t.Log(v)
		w.eventually(func() bool {
			for _, p := range w.participants() {
				if g := p.Groups[w.group]; g["rocketmq-a"] != metadata.Finished || g["rocketmq-b"] != metadata.Finished || g["kafka-a"] != metadata.Attached {
					return false
				}
			}
			return true
		}, func() any { return w.participants() }, "the group has finished what was left")
	})
}

// A RocketMQ cluster of two masters on the way, one of which dies and comes back while the topic is there.
func TestATopicMovesOverSeveralMasters(t *testing.T) {
	testenv.Each(t, testenv.Spec{ZooKeeper: 1, Kafka: []string{"kafka-a"}, RocketMQ: []string{"rocketmq-a"}, RocketMQBrokers: 2}, func(t *testing.T, e *testenv.Env) {
		w := newWorld(t, e, "kafka-a", "rocketmq-a")
		w.putTopic("kafka-a", "rocketmq-a")
		w.putGroup(nil)
		one, two := w.recorder("one"), w.recorder("two")
		a, b := w.open("order_service"), w.open("order_service_consumer")
		w.listen(b, two)
		w.listen(a, one)
		stop := w.traffic(a, one, 4)
		for _, cluster := range []string{"rocketmq-a", "kafka-a", "rocketmq-a"} {
			w.edit(cluster)
			w.applied(cluster)
		}
		require.NoError(t, w.env.Kill(w.ctx(), "rocketmq-a/broker-2"))
		require.NoError(t, w.env.Restart(w.ctx(), "rocketmq-a/broker-2"))
		w.edit("kafka-a")
		w.applied("kafka-a")
		stop()
		v := w.verdict("kafka-a", "rocketmq-a")
		require.NoError(t, v.Err())
		t.Log(v)
	})
}

func TestManyEditsOverKinds(t *testing.T) {
	withKinds(t, func(t *testing.T, w *world) {
		clusters := []string{"kafka-a", "rocketmq-a", "rocketmq-b"}
		w.putTopic(clusters...)
		w.putGroup(nil)
		rec := w.recorder("one")
		client := w.open("order_service")
		w.listen(client, rec)
		stop := w.traffic(client, rec, 4)
		tick := time.NewTicker(100 * time.Millisecond)
		defer tick.Stop()
		for i := range 100 {
			<-tick.C
			w.edit(clusters[(i*7+i/3)%3])
		}
		w.edit("rocketmq-a")
		w.applied("rocketmq-a")
		stop()
		v := w.verdict(clusters...)
		require.NoError(t, v.Err())
		t.Log(v)
	})
}
