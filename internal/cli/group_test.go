package cli_test

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/turnout-mq/turnout"
	"github.com/turnout-mq/turnout/broker"
)

// client is an application.
func (w *world) client(t *testing.T, app string) *turnout.Client {
	t.Helper()
	c, err := turnout.Open(t.Context(), turnout.Config{App: app, ZooKeeper: w.connect, SnapshotDir: t.TempDir()})
	require.NoError(t, err)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), patience)
		defer cancel()
		require.NoError(t, c.Close(ctx))
	})
	return c
}

func (w *world) send(t *testing.T, c *turnout.Client, topic string, n int) {
	t.Helper()
	for range n {
		_, err := c.Send(t.Context(), topic, &turnout.Message{Body: []byte("x")})
		require.NoError(t, err)
	}
}

// subscribe handles messages until the test ends or stop is called; nil handles none.
func (w *world) subscribe(t *testing.T, c *turnout.Client, group string) (stop func()) {
	t.Helper()
	sub, err := c.Subscribe(t.Context(), group, func(context.Context, *turnout.Delivery) error { return nil })
	require.NoError(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	require.NoError(t, sub.Ready(ctx))
	return func() {
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		require.NoError(t, sub.Close(ctx))
	}
}

type groupDoc struct {
	doc
	Topics []struct {
		Group, Topic string
		Clusters     []groupOn
	}
}

func (w *world) group(t *testing.T, name string) groupDoc {
	t.Helper()
	return decode[groupDoc](t, w.turnout(t, "group", "get", name, "-o", "json").stdout)
}

// on is how far the group is with its first topic on a cluster.
func (g groupDoc) on(cluster string) groupOn {
	for _, c := range g.Topics[0].Clusters {
		if c.Cluster == cluster {
			return c
		}
	}
	return groupOn{}
}

func TestGroupCommands(t *testing.T) {
	eachWorld(t, func(t *testing.T, w *world) {
		require.Contains(t, w.refused(t, 4, "group", "get", "order_bil_group"), "turnout group list")
		w.turnout(t, "topic", "put", "order_topic", "--cluster", "kafka-a", "--create", "--partitions", "2")
		w.fill(t, "kafka-a", "order_topic", 7)
		r := w.turnout(t, "group", "put", "order_bil_group", "--topic", "order_topic", "--app", "order_service_consumer", "--concurrency", "4", "--rate", "50", "--paused")
		require.Contains(t, r.stdout, "group order_bil_group created (version 0)")
		g := w.group(t, "order_bil_group")
		require.EqualValues(t, 4, g.Document["concurrency"])
		require.Equal(t, true, g.Document["paused"])
		require.Equal(t, int64(7), g.on("kafka-a").Unread)
		require.Equal(t, "order_bil_group", g.on("kafka-a").PhysicalGroup)

		// Latest: from where the topic ends now.
		w.turnout(t, "group", "put", "late", "--topic", "order_topic", "--start", "latest")
		late := w.group(t, "late")
		require.Contains(t, late.Document["from"], "order_topic")
		require.Equal(t, int64(0), late.on("kafka-a").Unread)
		w.fill(t, "kafka-a", "order_topic", 2)
		require.Equal(t, int64(2), w.group(t, "late").on("kafka-a").Unread)
		require.Equal(t, int64(9), w.group(t, "order_bil_group").on("kafka-a").Unread)
		w.turnout(t, "group", "put", "late", "--order", "key")
		require.Equal(t, late.Document["from"], w.group(t, "late").Document["from"], "a later change reads no new ends")

		r = w.turnout(t, "group", "put", "order_bil_group", "--paused=false", "--rate", "0")
		require.Contains(t, r.stdout, "  paused: true → false\n")
		require.Contains(t, w.refused(t, 3, "group", "put", "order_bil_group", "--name", "order_topic=other"), "was fixed")
		require.Contains(t, w.refused(t, 5, "group", "put", "thief", "--topic", "order_topic", "--name", "order_topic=late"), "late")

		c := w.client(t, "order_service_consumer")
		stop := w.subscribe(t, c, "order_bil_group")
		eventually(t, func() bool { return w.group(t, "order_bil_group").on("kafka-a").Unread == 0 }, patience, 50*time.Millisecond)
		on := w.group(t, "order_bil_group").on("kafka-a")
		require.Equal(t, on.End, on.Position)
		eventually(t, func() bool {
			r := run(t, "group", "delete", "order_bil_group", "--zookeeper", w.connect)
			return r.code == 5
		}, patience, 10*time.Millisecond, "the participant says that it is a member")
		stop()
		require.Contains(t, w.refused(t, 5, "topic", "delete", "order_topic"), "order_bil_group")

		text := w.turnout(t, "group", "get", "late").stdout
		require.Regexp(t, `(?m)^TOPIC +CLUSTER +POSITION +END +UNREAD +DELAYED +RETRIES +DEAD LETTERS$`, text)
		require.Regexp(t, `(?m)^order_topic +kafka-a +none +\[\d,\d\] +2 +0 +0 +0$`, text)
		list := w.turnout(t, "group", "list").stdout
		require.Regexp(t, `(?m)^late +- +order_topic +latest +key +8 +0 +false +1 +-$`, list)
		w.turnout(t, "group", "delete", "late")
		w.refused(t, 4, "group", "delete", "late")
	})
}

func TestTopicGetShowsWhoHasAppliedAndWhoHoldsWhat(t *testing.T) {
	eachWorld(t, func(t *testing.T, w *world) {
		w.turnout(t, "topic", "put", "order_topic", "--cluster", "kafka-a", "--create", "--partitions", "1")
		w.turnout(t, "group", "put", "awake", "--topic", "order_topic")
		w.turnout(t, "group", "put", "asleep", "--topic", "order_topic")
		sender, receiver := w.client(t, "order_service"), w.client(t, "order_bil")
		w.send(t, sender, "order_topic", 5)
		w.subscribe(t, receiver, "awake")
		w.turnout(t, "topic", "put", "order_topic", "--cluster", "kafka-b", "--create")

		var d topicDoc
		eventually(t, func() bool {
			d = w.topic(t, "order_topic")
			return len(d.Participants) == 2 && d.Participants[0].Applied && d.Participants[1].Applied && len(d.Stays[0].HeldBy) == 1
		}, patience, 50*time.Millisecond, "both have applied the route")
		require.Equal(t, "kafka-b", d.Participants[0].Document.Write)
		require.Equal(t, "kafka-a", d.Stays[0].Cluster)
		require.Equal(t, "asleep", d.Stays[0].HeldBy[0].Group)
		require.Equal(t, int64(5), d.Stays[0].HeldBy[0].Unread)
		require.True(t, d.Stays[1].Write)
		require.Empty(t, d.Stays[1].HeldBy)
		text := w.turnout(t, "topic", "get", "order_topic").stdout
		require.Regexp(t, `(?m)^answered: +yes$`, text)
		require.Regexp(t, `(?m)^kafka-a +first +open +asleep \(5 unread\)$`, text)
		require.Regexp(t, `(?m)^kafka-b +\[0\] +open, written +-$`, text)
		require.Regexp(t, `(?m)^awake +kafka-a +\[5\] +\[5\] +0 +0 +0 +0$`, text)
		require.Regexp(t, `(?m)^\S+@-@\S+ +yes +kafka-b +`, text)

		type instance struct {
			App, Host, SDK string
			PID            int
			Topics         []struct {
				Topic, Write, Zxid string
				Applied            bool
			}
		}
		list := decode[[]instance](t, w.turnout(t, "instances", "-o", "json").stdout)
		require.Len(t, list, 2)
		require.Equal(t, "order_bil", list[0].App)
		require.NotEmpty(t, list[0].Host)
		require.Positive(t, list[0].PID)
		require.Equal(t, turnout.Version, list[0].SDK)
		require.Equal(t, "order_topic", list[0].Topics[0].Topic)
		require.Equal(t, d.Route.Zxid, list[0].Topics[0].Zxid)
		require.True(t, list[0].Topics[0].Applied)
		require.Len(t, decode[[]instance](t, w.turnout(t, "instances", "--app", "order_service", "-o", "json").stdout), 1)
		require.Contains(t, w.turnout(t, "instances").stdout, "order_topic "+d.Route.Zxid+" on kafka-b")
		require.Contains(t, w.refused(t, 5, "topic", "delete", "order_topic"), "participant")
		require.Contains(t, w.turnout(t, "topic", "list").stdout, "2 of 2 applied")

		// A cluster that does not answer is said not to, and the rest is shown.
		require.NoError(t, w.Stop(t.Context(), "kafka-a"))
		d = w.topic(t, "order_topic")
		require.Len(t, d.Stays[0].HeldBy, 2)
		require.NotEmpty(t, d.Stays[0].HeldBy[0].Error)
		require.NotEmpty(t, d.Groups[0].Clusters[0].Error)
		require.Empty(t, d.Groups[0].Clusters[1].Error)
		require.Contains(t, w.turnout(t, "topic", "get", "order_topic").stdout, "asleep (not known)")
		require.NoError(t, w.Restart(t.Context(), "kafka-a"))
	})
}

func TestGroupPutLatestNeedsItsClusters(t *testing.T) {
	eachWorld(t, func(t *testing.T, w *world) {
		require.NoError(t, w.open(t, "kafka-a").CreateTopic(t.Context(), "order_topic", broker.TopicSpec{Partitions: 1}))
		w.turnout(t, "topic", "put", "order_topic", "--cluster", "kafka-a")
		w.turnout(t, "cluster", "put", "kafka-a", "--address", "127.0.0.1:1")
		require.Contains(t, w.refused(t, 1, "group", "put", "g", "--topic", "order_topic", "--start", "latest"), "use --start earliest")
		w.turnout(t, "group", "put", "g", "--topic", "order_topic")
	})
}
