package turnout_test

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/turnout-mq/turnout"
	"github.com/turnout-mq/turnout/metadata"
)

func TestThereAndBackAtOnceEndsWhereItBegan(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		w.putTopic("kafka-a", "kafka-b", "kafka-c")
		w.putGroup(nil)
		rec := w.recorder("one")
		client := w.open("order_service")
		w.listen(client, rec)
		stop := w.traffic(client, rec, 4)
		w.applied("kafka-a")
		for range 5 {
			w.edit("kafka-b")
			w.edit("kafka-a")
		}
		w.applied("kafka-a")
		stop()
		require.NoError(t, w.verdict("kafka-a", "kafka-b", "kafka-c").Err())
	})
}

// Edits come faster than anybody can follow each of them, from two sides: what was sent anywhere on the way is read.
func TestManyEditsOverThreeClusters(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		w.putTopic(kafkas...)
		w.putGroup(nil)
		one, two := w.recorder("one"), w.recorder("two")
		a, b := w.open("order_service"), w.open("order_service_consumer")
		w.listen(a, one)
		w.listen(b, two)
		stopA, stopB := w.traffic(a, one, 2), w.traffic(b, two, 2)
		tick := time.NewTicker(100 * time.Millisecond)
		defer tick.Stop()
		for i := range 50 {
			<-tick.C
			w.edit(kafkas[(i*7+i/3)%3])
		}
		w.edit("kafka-b")
		w.applied("kafka-b")
		stopA()
		stopB()
		v := w.verdict(kafkas...)
		require.NoError(t, v.Err())
		route, _ := w.route()
		open := map[string]int{}
		for _, s := range route.Stays {
			open[s.Cluster]++
		}
		for cluster, n := range open {
			require.Equal(t, 1, n, "stays on %s: %+v", cluster, route.Stays)
		}
	})
}

// Nobody is there while the topic moves twice: what was sent by a producer that knew only the first wish is found.
func TestGroupThatSleptThroughMovesMissesNothing(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		w.putTopic(kafkas...)
		w.putGroup(nil)
		rec := w.recorder("one")
		client := w.open("order_service")
		for _, cluster := range []string{"kafka-a", "kafka-b", "kafka-c"} {
			stop := w.traffic(client, rec, 2)
			w.edit(cluster)
			w.applied(cluster)
			stop()
		}
		w.listen(client, rec)
		require.NoError(t, w.verdict(kafkas...).Err())
		w.eventually(func() bool {
			p := w.participants()
			return len(p) == 1 && p[0].Groups[w.group]["kafka-a"] == metadata.Finished && p[0].Groups[w.group]["kafka-b"] == metadata.Finished &&
				p[0].Groups[w.group]["kafka-c"] == metadata.Attached
		}, func() any { return w.participants() }, "the group has finished what was left")
	})
}

// A group that starts at the latest begins where the topic ended when the group was registered, and on a cluster that
// comes later at its first message.
func TestLatestGroupMissesNothingOnTheNextCluster(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		w.putTopic("kafka-a", "kafka-b")
		client := w.open("order_service")
		for range 20 {
			_, err := client.Send(w.ctx(), w.topic, &turnout.Message{Body: []byte("0")})
			require.NoError(t, err)
		}
		w.putGroup(func(g *metadata.Group) { g.Start = metadata.StartLatest })
		rec := w.recorder("one")
		w.listen(client, rec)
		w.edit("kafka-b")
		stop := w.traffic(client, rec, 2)
		w.applied("kafka-b")
		stop()
		v := w.verdict("kafka-a", "kafka-b")
		require.NoError(t, v.Err(), "the 20 from before would be phantoms")
	})
}

// Many groups and topics in one client, each with its own life.
func TestConcurrentSendersAndEditsUnderLoad(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		w.putTopic("kafka-a", "kafka-b")
		w.putGroup(nil)
		rec := w.recorder("one")
		client := w.open("order_service")
		w.listen(client, rec)
		stop := w.traffic(client, rec, 2)
		var wg sync.WaitGroup
		ctx, cancel := context.WithCancel(w.ctx())
		var async, called int
		var mu sync.Mutex
		wg.Go(func() {
			for ctx.Err() == nil {
				mu.Lock()
				async++
				mu.Unlock()
				client.SendAsync(ctx, w.topic, &turnout.Message{Key: []byte("k"), Body: []byte("0")}, func(turnout.SendResult, error) {
					mu.Lock()
					called++
					mu.Unlock()
				})
			}
		})
		for _, cluster := range []string{"kafka-b", "kafka-a", "kafka-b"} {
			w.edit(cluster)
			w.applied(cluster)
		}
		cancel()
		wg.Wait()
		stop()
		w.eventually(func() bool {
			mu.Lock()
			defer mu.Unlock()
			return async > 0 && async == called
		}, nil, "every SendAsync calls back")
	})
}
