package turnout_test

import (
	"context"
	"encoding/json"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/turnout-mq/turnout"
	"github.com/turnout-mq/turnout/broker"
	"github.com/turnout-mq/turnout/consumer"
	"github.com/turnout-mq/turnout/metadata"
)

func TestWarmClusterIsPreparedAttachedAndAcknowledgedBeforeAnybodySendsThere(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		w.putTopic("kafka-a", "kafka-b")
		w.putGroup(nil)
		client := w.open("order_service")
		var in inbox
		s, err := client.Subscribe(w.ctx(), w.group, in.listen)
		require.NoError(t, err)
		require.NoError(t, s.Ready(w.ctx()))
		require.Equal(t, "kafka-a", w.send(client, "1"))

		zxid := w.change(func(r *metadata.Route) {
			r.Warm = []string{"kafka-b"}
			r.Stays = append(r.Stays, metadata.Stay{Cluster: "kafka-b", Start: broker.Offsets{}})
		})
		w.acked(zxid)
		p := w.participants()[0]
		require.Equal(t, []string{"kafka-b"}, p.Warm)
		require.Equal(t, "kafka-a", p.Write)
		require.Equal(t, metadata.Attached, p.Groups[w.group]["kafka-b"])
		require.Len(t, w.positions("kafka-b"), 4, "R12: committed on every partition before the acknowledgement")
		require.Equal(t, "kafka-a", w.send(client, "2"))

		zxid = w.change(func(r *metadata.Route) { r.Write, r.Warm = "kafka-b", nil })
		w.acked(zxid)
		require.Equal(t, "kafka-b", w.send(client, "3"))
		w.has(&in, "1", "2", "3")
		require.Empty(t, w.participants()[0].Warm)
	})
}

func TestWarmClusterThatCanNotBePreparedHoldsTheAcknowledgementBack(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		w.putTopic("kafka-a")
		client := w.open("order_service")
		w.send(client, "1")
		zxid := w.change(func(r *metadata.Route) { r.Warm = []string{"kafka-b"} })
		w.says("not warm yet")
		require.NotEqual(t, zxid, w.participants()[0].Zxid)
		require.Equal(t, "kafka-a", w.send(client, "2"))
		w.createTopic("kafka-b")
		w.acked(zxid)
		require.Empty(t, w.participants()[0].Error)
	})
}

func TestHoldMakesSendsWaitForTheNextRoute(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		w.putTopic("kafka-a", "kafka-b")
		client := w.open("order_service")
		w.send(client, "1")
		w.acked(w.change(func(r *metadata.Route) { r.Hold = &metadata.Hold{MS: 60_000} }))
		require.True(t, w.participants()[0].Held)

		waiting := w.sending(w.ctx(), client, &turnout.Message{Body: []byte("2")})
		called := make(chan turnout.SendResult, 1)
		go client.SendAsync(w.ctx(), w.topic, &turnout.Message{Body: []byte("3")}, func(r turnout.SendResult, err error) {
			if err == nil {
				called <- r
			}
		})
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		_, err := client.Send(ctx, w.topic, &turnout.Message{Body: []byte("4")})
		require.ErrorIs(t, err, context.DeadlineExceeded)

		w.acked(w.change(func(r *metadata.Route) {
			r.Hold, r.Write = nil, "kafka-b"
			r.Stays = append(r.Stays, metadata.Stay{Cluster: "kafka-b", Start: broker.Offsets{}})
		}))
		r, err := w.done(waiting)
		require.NoError(t, err)
		require.Equal(t, "kafka-b", r.Cluster, "had it not waited it would be on kafka-a")
		require.Equal(t, "kafka-b", (<-called).Cluster)
		require.False(t, w.participants()[0].Held)
	})
}

func TestHoldThatNobodyEndsIsOverAfterItsTimeWhereTheClusterCanBeFenced(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		w.putTopic("kafka-a")
		client := w.open("order_service")
		w.send(client, "1")
		zxid := w.change(func(r *metadata.Route) { r.Hold = &metadata.Hold{MS: 700} })
		w.acked(zxid)
		require.Equal(t, "kafka-a", w.send(client, "2"))
		w.participant(func(p metadata.Participant) bool { return !p.Held && p.Zxid == zxid }, "the hold is over")
		// The next hold is a new one.
		w.acked(w.change(func(r *metadata.Route) { r.Hold = &metadata.Hold{MS: 60_000} }))
		require.True(t, w.participants()[0].Held)
		w.acked(w.change(func(r *metadata.Route) { r.Hold = nil }))
		require.Equal(t, "kafka-a", w.send(client, "3"))
	})
}

func TestNewGroupBeginsAtTheStartOfTheOldestStayAndCommitsItFirst(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		w.putTopic("kafka-a", "kafka-b")
		client := w.open("order_service")
		w.send(client, "on a")
		w.storeOn("kafka-b", "of an earlier life 1", "of an earlier life 2")
		start := w.ends("kafka-b")
		w.change(func(r *metadata.Route) {
			r.Warm = []string{"kafka-b"}
			r.Stays = append(r.Stays, metadata.Stay{Cluster: "kafka-b", Start: start})
		})
		w.putGroup(nil)
		var in inbox
		s, err := client.Subscribe(w.ctx(), w.group, in.listen)
		require.NoError(t, err)
		require.NoError(t, s.Ready(w.ctx()))
		require.Equal(t, start, w.positions("kafka-b"), "committed before there is any message to handle")
		w.acked(w.change(func(r *metadata.Route) { r.Write, r.Warm = "kafka-b", nil }))
		w.send(client, "on b")
		w.has(&in, "on a", "on b")
		require.Len(t, in.bodies(), 2)
	})
}

func TestUnorderedGroupReadsSealedAndOpenStaysAtOnceAndReportsTheSealedOneFinished(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		w.putTopic("kafka-a", "kafka-b")
		w.putGroup(nil)
		client := w.open("order_service")
		w.send(client, "a")
		w.acked(w.change(func(r *metadata.Route) {
			r.Write = "kafka-b"
			r.Stays = append(r.Stays, metadata.Stay{Cluster: "kafka-b", Start: broker.Offsets{}})
		}))
		seal := w.ends("kafka-a")
		w.acked(w.change(func(r *metadata.Route) { r.Stays[0].End = seal }))

		var in inbox
		block := make(chan struct{})
		release := sync.OnceFunc(func() { close(block) })
		defer release()
		s, err := client.Subscribe(w.ctx(), w.group, func(_ context.Context, d *turnout.Delivery) error {
			if string(d.Body) == "a" {
				<-block
			}
			in.add(d)
			return nil
		}, consumer.WithLinger(100*time.Millisecond))
		require.NoError(t, err)
		require.NoError(t, s.Ready(w.ctx()))
		w.send(client, "b")
		w.has(&in, "b")
		p := w.participants()[0]
		require.Equal(t, metadata.Attached, p.Groups[w.group]["kafka-a"], "its message is not handled yet")
		release()
		w.participant(func(p metadata.Participant) bool { return p.Groups[w.group]["kafka-a"] == metadata.Finished }, "finished kafka-a")
		require.Equal(t, seal, w.positions("kafka-a"))
		w.eventually(func() bool { return len(w.members("kafka-a")) == 0 }, nil, "the group leaves kafka-a")
		w.has(&in, "a", "b")

		w.acked(w.change(func(r *metadata.Route) { r.Stays = r.Stays[1:] }))
		require.NotContains(t, w.participants()[0].Groups[w.group], "kafka-a")
	})
}

func TestRouteThatThisVersionDoesNotKnowLeavesTheLastGoodOneInForce(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		w.putTopic("kafka-a", "kafka-b")
		client := w.open("order_service")
		w.send(client, "1")
		path := w.store.RoutePath(w.topic)
		good := w.mzxid(path)
		w.acked(good)
		node, err := w.store.Read(w.ctx(), path)
		require.NoError(t, err)
		r, err := metadata.ParseRoute(node.Data)
		require.NoError(t, err)
		newer := r.Clone()
		newer.V, newer.Write, newer.Stays = 2, "kafka-b", append(newer.Stays, metadata.Stay{Cluster: "kafka-b", Start: broker.Offsets{}})
		data, err := json.Marshal(newer)
		require.NoError(t, err)
		w.write(path, data)
		w.says("v 2")
		require.Equal(t, "kafka-a", w.send(client, "2"))
		require.Equal(t, good, w.participants()[0].Zxid, "it is not acknowledged")
		data, err = json.Marshal(r)
		require.NoError(t, err)
		w.write(path, data)
		w.acked(w.mzxid(path))
		require.Empty(t, w.participants()[0].Error)
	})
}

// The same route written again, by whomever, is a new one: it is acknowledged by its own number.
func TestEveryWriteOfARouteIsAcknowledgedByItsNumber(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		w.putTopic("kafka-a")
		w.putGroup(nil)
		client := w.open("order_service")
		s, err := client.Subscribe(w.ctx(), w.group, func(context.Context, *turnout.Delivery) error { return nil })
		require.NoError(t, err)
		require.NoError(t, s.Ready(w.ctx()))
		w.send(client, "1")
		for range 5 {
			w.acked(w.change(func(*metadata.Route) {}))
		}
	})
}

func TestSettingsOfTheTopicNameItOnEachCluster(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		w.putTopic("kafka-a", "kafka-b")
		w.putGroup(nil)
		settings := metadata.DefaultTopicSettings()
		settings.Names = map[string]string{"kafka-b": w.topic + ".renamed"}
		w.put(w.store.SettingsPath(w.topic), settings)
		w.with("kafka-b", func(c broker.Cluster) {
			require.NoError(t, c.CreateTopic(w.ctx(), w.topic+".renamed", broker.TopicSpec{Partitions: 2}))
		})
		client := w.open("order_service")
		var in inbox
		s, err := client.Subscribe(w.ctx(), w.group, in.listen)
		require.NoError(t, err)
		require.NoError(t, s.Ready(w.ctx()))
		w.send(client, "1")
		w.edit("kafka-b")
		w.applied("kafka-b")
		require.Equal(t, "kafka-b", w.send(client, "2"))
		w.has(&in, "1", "2")
		w.with("kafka-b", func(c broker.Cluster) {
			ends, err := c.EndOffsets(w.ctx(), w.topic)
			require.NoError(t, err)
			for _, end := range ends {
				require.Zero(t, end)
			}
		})
	})
}
