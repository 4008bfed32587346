package cli_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/turnout-mq/turnout"
	"github.com/turnout-mq/turnout/broker"
	"github.com/turnout-mq/turnout/broker/drivers"
	"github.com/turnout-mq/turnout/testenv"
)

// world is an environment with two Kafka clusters that are in the metadata.
type world struct {
	*testenv.Env
	*zooKeeper
}

func eachWorld(t *testing.T, f func(t *testing.T, w *world)) {
	environments.Each(t, testenv.Spec{ZooKeeper: 1, Kafka: []string{"kafka-a", "kafka-b"}}, func(t *testing.T, e *testenv.Env) {
		f(t, newWorld(t, e, "kafka-a", "kafka-b"))
	})
}

func newWorld(t *testing.T, e *testenv.Env, clusters ...string) *world {
	w := &world{e, connect(t, e.ZooKeeper())}
	for _, name := range clusters {
		w.turnout(t, "cluster", "put", name, "--kind", e.Kind(name), "--address", strings.Join(e.Addresses(name), ","), "--cluster-id", e.ClusterID(name))
	}
	return w
}

// open is a connection to a cluster behind Turnout's back.
func (w *world) open(t *testing.T, name string) broker.Cluster {
	t.Helper()
	c, err := drivers.Open(t.Context(), broker.Config{Name: name, Kind: broker.Kind(w.Kind(name)), Addresses: w.Addresses(name), ClientID: "test"})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, c.Close(context.WithoutCancel(t.Context()))) })
	return c
}

func (w *world) fill(t *testing.T, cluster, topic string, n int) {
	t.Helper()
	c := w.open(t, cluster)
	done := make(chan error, n)
	for i := range n {
		c.Send(t.Context(), topic, &broker.Envelope{Message: broker.Message{Body: []byte("x"), ID: fmt.Sprintf("%032x", i)}}, func(_ broker.Receipt, err error) { done <- err })
	}
	for range n {
		require.NoError(t, <-done)
	}
}

// topicDoc is what "topic get" and "topic put" print in JSON, as far as the tests look at it.
type topicDoc struct {
	Name string
	Wish struct {
		Version  int32
		Document struct{ Cluster string }
	}
	Route *struct {
		Version  int32
		Zxid     string
		Document route
	}
	Settings *struct {
		Document struct{ Names map[string]string }
	}
	Answered bool
	InForce  *route
	Clusters []struct {
		Name, Kind, PhysicalTopic, Error string
		Addresses                        []string
	}
	Stays []struct {
		Cluster    string
		Start, End broker.Offsets
		Write      bool
		HeldBy     []struct {
			Group, Error    string
			Unread, Pending int64
		}
	}
	Participants []struct {
		Instance, Error string
		Applied         bool
		Document        struct{ Write, Error string }
	}
	Groups []struct {
		Group, Topic string
		Clusters     []groupOn
	}
	From         string
	CreatedThere bool
	DryRun       bool
	Changes      []struct{ Field string }
}

type route struct {
	Write, Order string
	Stays        []struct {
		Cluster string
		Start   broker.Offsets
	}
}

type groupOn struct {
	Cluster, PhysicalTopic, PhysicalGroup, Error string
	Position, End                                broker.Offsets
	Unread, Delayed, Retries, DeadLetters        int64
}

func (w *world) topic(t *testing.T, name string) topicDoc {
	t.Helper()
	return decode[topicDoc](t, w.turnout(t, "topic", "get", name, "-o", "json").stdout)
}

func TestTopicPutCreatesAndMoves(t *testing.T) {
	eachWorld(t, func(t *testing.T, w *world) {
		// A cluster that does not have the topic, and one that nobody knows.
		says := w.refused(t, 4, "topic", "put", "order_topic", "--cluster", "kafka-a")
		require.Contains(t, says, "--create")
		require.Contains(t, w.refused(t, 4, "topic", "put", "order_topic", "--cluster", "kafka-x"), "kafka-x")
		require.Contains(t, w.refused(t, 4, "topic", "get", "order_topic"), "turnout topic list")

		// Dry run: nothing is created anywhere.
		r := w.turnout(t, "topic", "put", "order_topic", "--cluster", "kafka-a", "--create", "--partitions", "3", "--dry-run")
		require.Contains(t, r.stdout, "topic order_topic would be created on cluster kafka-a\n")
		require.Contains(t, r.stdout, "topic order_topic would be created: on kafka-a\n")
		_, err := w.open(t, "kafka-a").DescribeTopic(t.Context(), "order_topic")
		require.ErrorIs(t, err, turnout.ErrUnknownTopic)
		w.refused(t, 4, "topic", "get", "order_topic")

		r = w.turnout(t, "topic", "put", "order_topic", "--cluster", "kafka-a", "--create", "--partitions", "3", "--app", "order_service")
		require.Contains(t, r.stdout, "topic order_topic created on cluster kafka-a\n")
		require.Contains(t, r.stdout, "topic order_topic created: on kafka-a\n")
		info, err := w.open(t, "kafka-a").DescribeTopic(t.Context(), "order_topic")
		require.NoError(t, err)
		require.Len(t, info.Partitions, 3)
		got := w.topic(t, "order_topic")
		require.True(t, got.Answered)
		require.Equal(t, "kafka-a", got.InForce.Write)
		require.Nil(t, got.InForce.Stays[0].Start, "the first stay begins at the first message")
		require.Equal(t, w.Addresses("kafka-a"), got.Clusters[0].Addresses)
		require.Equal(t, "kafka", got.Clusters[0].Kind)
		require.Contains(t, w.turnout(t, "topic", "put", "order_topic", "--cluster", "kafka-a").stdout, "is so already")

		// The target has messages of its own: the stay begins behind them. Another name there.
		require.NoError(t, w.open(t, "kafka-b").CreateTopic(t.Context(), "orders.created", broker.TopicSpec{Partitions: 1}))
		w.fill(t, "kafka-b", "orders.created", 5)
		args := []string{"topic", "put", "order_topic", "--cluster", "kafka-b", "--name", "kafka-b=orders.created", "--order", "key", "-o", "json"}
		d := decode[topicDoc](t, w.turnout(t, append(args, "--dry-run")...).stdout)
		require.True(t, d.DryRun)
		planned := d.InForce
		require.Equal(t, "kafka-a", w.topic(t, "order_topic").InForce.Write)
		d = decode[topicDoc](t, w.turnout(t, args...).stdout)
		require.Equal(t, "kafka-a", d.From)
		require.False(t, d.CreatedThere)
		require.Equal(t, planned, d.InForce, "what the dry run showed")
		require.Equal(t, "key", d.InForce.Order)
		require.Equal(t, "kafka-b", d.InForce.Stays[1].Cluster)
		require.Equal(t, broker.Offsets{"0": 5}, d.InForce.Stays[1].Start)
		require.Equal(t, int32(1), d.Wish.Version)
		require.Equal(t, map[string]string{"kafka-b": "orders.created"}, d.Settings.Document.Names)
		require.Equal(t, "orders.created", w.topic(t, "order_topic").Clusters[1].PhysicalTopic)

		// Back to where a stay is open: it keeps its start and is the last one.
		d = decode[topicDoc](t, w.turnout(t, "topic", "put", "order_topic", "--cluster", "kafka-a", "-o", "json").stdout)
		require.Equal(t, "kafka-a", d.InForce.Write)
		require.Len(t, d.InForce.Stays, 2)
		require.Equal(t, "kafka-a", d.InForce.Stays[1].Cluster)

		// A topic that is created takes the number of partitions along.
		w.turnout(t, "topic", "put", "second", "--cluster", "kafka-a", "--create", "--partitions", "6")
		text := w.turnout(t, "topic", "put", "second", "--cluster", "kafka-b", "--create").stdout
		require.Contains(t, text, "topic second created on cluster kafka-b\n")
		require.Contains(t, text, "topic second moved from kafka-a to kafka-b\n")
		require.Contains(t, text, `write: "kafka-a" → "kafka-b"`)
		info, err = w.open(t, "kafka-b").DescribeTopic(t.Context(), "second")
		require.NoError(t, err)
		require.Len(t, info.Partitions, 6)

		list := w.turnout(t, "topic", "list").stdout
		require.Regexp(t, `(?m)^order_topic +order_service +kafka-a +kafka +kafka-b, kafka-a +0 of 0 applied +-$`, list)
		require.Regexp(t, `(?m)^second +- +kafka-b +kafka +kafka-a, kafka-b +0 of 0 applied +-$`, list)

		require.Contains(t, w.refused(t, 5, "cluster", "delete", "kafka-a"), "order_topic")
		require.Equal(t, "topic second deleted\n", w.turnout(t, "topic", "delete", "second").stdout)
		w.refused(t, 4, "topic", "delete", "second")
	})
}

func TestTopicPutRefusesAClusterThatCanNotTakeIt(t *testing.T) {
	eachWorld(t, func(t *testing.T, w *world) {
		w.turnout(t, "topic", "put", "order_topic", "--cluster", "kafka-a", "--create")
		require.NoError(t, w.open(t, "kafka-b").CreateTopic(t.Context(), "order_topic", broker.TopicSpec{Config: map[string]string{"max.message.bytes": "0"}}))
		require.Contains(t, w.refused(t, 3, "topic", "put", "order_topic", "--cluster", "kafka-b"), "refuses writers")

		w.turnout(t, "cluster", "put", "dead", "--kind", "kafka", "--address", "127.0.0.1:1")
		says := w.refused(t, 1, "topic", "put", "order_topic", "--cluster", "dead")
		require.Contains(t, says, "dead")
		require.Contains(t, says, "127.0.0.1:1")
		require.Equal(t, "kafka-a", w.topic(t, "order_topic").InForce.Write)
	})
}

func TestTopicGetOfHandEdits(t *testing.T) {
	eachWorld(t, func(t *testing.T, w *world) {
		w.turnout(t, "topic", "put", "order_topic", "--cluster", "kafka-a", "--create")
		w.set(t, "/turnout/topics/order_topic", `{"cluster":"kafka-b"}`)
		d := w.topic(t, "order_topic")
		require.False(t, d.Answered)
		require.Equal(t, "kafka-a", d.Route.Document.Write)
		require.Equal(t, "kafka-b", d.InForce.Write, "what running instances make of it")
		require.Contains(t, w.turnout(t, "topic", "get", "order_topic").stdout, "no; the first instance that uses the topic will complete it")
		require.Regexp(t, `(?m)^order_topic .* wish not answered yet$`, w.turnout(t, "topic", "list").stdout)

		w.set(t, "/turnout/topics/order_topic", `{"cluster":"kafka-x"}`)
		d = w.topic(t, "order_topic")
		require.Contains(t, fmt.Sprint(d.Clusters), "there is no such cluster")

		w.set(t, "/turnout/topics/order_topic", `{`)
		d = w.topic(t, "order_topic")
		require.Nil(t, d.InForce)
		require.Contains(t, w.turnout(t, "topic", "get", "order_topic").stdout, "not valid")
		require.Regexp(t, `(?m)^order_topic .* wish not valid$`, w.turnout(t, "topic", "list").stdout)
		require.Contains(t, w.refused(t, 3, "topic", "put", "order_topic", "--order", "key"), "--cluster")

		// put heals it, and forgets no cluster that somebody may have sent to.
		w.turnout(t, "topic", "put", "order_topic", "--cluster", "kafka-b", "--create")
		d = w.topic(t, "order_topic")
		require.True(t, d.Answered)
		require.Equal(t, "kafka-b", d.InForce.Write)
		require.Len(t, d.InForce.Stays, 2)
	})
}

// A topic goes from Kafka to RocketMQ and back by commands alone.
func TestTopicPutAcrossKinds(t *testing.T) {
	spec := testenv.Spec{ZooKeeper: 1, Kafka: []string{"kafka-a"}, RocketMQ: []string{"rocketmq-a"}}
	environments.Each(t, spec, func(t *testing.T, e *testenv.Env) {
		w := newWorld(t, e, "kafka-a", "rocketmq-a")
		w.turnout(t, "topic", "put", "order_topic", "--cluster", "kafka-a", "--create", "--partitions", "3")
		w.turnout(t, "group", "put", "order_bil_group", "--topic", "order_topic")
		w.turnout(t, "send", "order_topic", "1")
		r := w.turnout(t, "topic", "put", "order_topic", "--cluster", "rocketmq-a", "--create", "--timeout", "30s")
		require.Contains(t, r.stdout, "topic order_topic moved from kafka-a to rocketmq-a\n")
		info, err := w.open(t, "rocketmq-a").DescribeTopic(t.Context(), "order_topic")
		require.NoError(t, err)
		require.Len(t, info.Partitions, 3)
		require.Contains(t, w.turnout(t, "send", "order_topic", "2", "--key", "k").stdout, "rocketmq-a")
		require.Contains(t, w.turnout(t, "topic", "list").stdout, "rocketmq")
		d := w.topic(t, "order_topic")
		require.Equal(t, "order_bil_group", d.Stays[0].HeldBy[0].Group)
		require.Equal(t, int64(1), w.group(t, "order_bil_group").on("rocketmq-a").Unread)

		text := w.turnout(t, "tail", "order_bil_group", "--count", "2", "--timeout", "30s").stdout
		require.Regexp(t, `(?m) kafka-a \d/0 .* 1$`, text)
		require.Regexp(t, `(?m) rocketmq-a \S+/0  key k  2$`, text)
		eventually(t, func() bool {
			g := w.group(t, "order_bil_group")
			return g.on("kafka-a").Unread == 0 && g.on("rocketmq-a").Unread == 0
		}, patience, 100*time.Millisecond)
		require.Contains(t, w.turnout(t, "topic", "put", "order_topic", "--cluster", "kafka-a").stdout, "moved from rocketmq-a to kafka-a\n")
		require.Contains(t, w.turnout(t, "send", "order_topic", "3").stdout, "kafka-a")
	})
}
