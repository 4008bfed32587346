package turnout_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/turnout-mq/turnout"
	"github.com/turnout-mq/turnout/broker"
	"github.com/turnout-mq/turnout/metadata"
)

// keyIn is a key whose hash is in a range, another one for each n.
func keyIn(n int, keys ...int) []byte {
	for i := 0; ; i++ {
		if key := fmt.Appendf(nil, "key-%d", i); metadata.InRange(keys, key) {
			if n == 0 {
				return key
			}
			n--
		}
	}
}

// eachPair runs f for clusters of every two kinds.
func eachPair(t *testing.T, f func(t *testing.T, w *world, from, to string)) {
	t.Parallel()
	t.Run("kafka to kafka", func(t *testing.T) { each(t, func(t *testing.T, w *world) { f(t, w, "kafka-a", "kafka-b") }) })
	for _, pair := range [][2]string{{"kafka-a", "rocketmq-a"}, {"rocketmq-a", "kafka-a"}, {"rocketmq-a", "rocketmq-b"}} {
		t.Run(pair[0]+" to "+pair[1], func(t *testing.T) {
			t.Parallel() // nothing is broken, and who does that is done
			withKinds(t, func(t *testing.T, w *world) { f(t, w, pair[0], pair[1]) })
		})
	}
}

// reads subscribes with an inbox.
func (w *world) reads(c *turnout.Client, in *inbox) {
	w.t.Helper()
	s, err := c.Subscribe(w.ctx(), w.group, in.listen)
	require.NoError(w.t, err)
	require.NoError(w.t, s.Ready(w.ctx()))
}

func (w *world) sendKey(c *turnout.Client, key []byte, body string) (cluster string) {
	w.t.Helper()
	r, err := c.Send(w.ctx(), w.topic, &turnout.Message{Key: key, Body: []byte(body)})
	require.NoError(w.t, err)
	return r.Cluster
}

// canary makes the route one with a canary on a cluster.
func canary(c metadata.Canary) func(r *metadata.Route) {
	return func(r *metadata.Route) {
		r.Hold, r.Canary, r.Warm = nil, &c, []string{c.Write}
		for _, s := range r.Stays {
			if s.Cluster == c.Write {
				return
			}
		}
		r.Stays = append(r.Stays, metadata.Stay{Cluster: c.Write, Start: broker.Offsets{}})
	}
}

func TestCanaryTakesTheSendsOfItsInstances(t *testing.T) {
	eachPair(t, func(t *testing.T, w *world, from, to string) {
		w.putTopic(from, to)
		w.putGroup(nil)
		var in inbox
		first := w.open("order_service")
		w.reads(first, &in)
		require.Equal(t, from, w.send(first, "0"))
		chosen, err := w.store.Children(w.ctx(), w.store.ParticipantsPath(w.topic))
		require.NoError(t, err)
		second := w.open("order_service")
		w.reads(second, &in)
		require.Equal(t, from, w.send(second, "0"))
		zxid := w.change(canary(metadata.Canary{Write: to, Instances: chosen}))
		w.acked(zxid)
		require.Equal(t, to, w.send(first, "1"))
		require.Equal(t, from, w.send(second, "2"))
		w.has(&in, "0", "1", "2")
		for _, p := range w.participants() {
			require.True(t, p.Sender)
			require.Equal(t, metadata.Attached, p.Groups[w.group][from])
			require.Equal(t, metadata.Attached, p.Groups[w.group][to])
		}
		w.acked(w.change(func(r *metadata.Route) { r.Canary = nil }))
		require.Equal(t, from, w.send(first, "3"))
	})
}

func TestCanaryTakesTheSendsWithItsKeys(t *testing.T) {
	eachPair(t, func(t *testing.T, w *world, from, to string) {
		w.putTopic(from, to)
		w.putGroup(nil)
		var in inbox
		client := w.open("order_service")
		w.reads(client, &in)
		w.sendKey(client, nil, "0")
		w.acked(w.change(canary(metadata.Canary{Write: to, Keys: []int{0, 6553}})))
		p := w.participants()[0]
		require.Equal(t, []string{from, to}, []string{p.Write, p.Canary})
		var bodies []string
		for i := range 10 {
			in, out := fmt.Sprintf("in %d", i), fmt.Sprintf("out %d", i)
			bodies = append(bodies, in, out)
			require.Equal(t, to, w.sendKey(client, keyIn(i, 0, 6553), in))
			require.Equal(t, from, w.sendKey(client, keyIn(i, 6554, 65535), out))
		}
		require.Equal(t, from, w.sendKey(client, nil, "without a key"))
		async := make(chan turnout.SendResult, 1)
		client.SendAsync(w.ctx(), w.topic, &turnout.Message{Key: keyIn(0, 0, 6553), Body: []byte("async")}, func(r turnout.SendResult, _ error) { async <- r })
		require.Equal(t, to, (<-async).Cluster)
		w.has(&in, append(bodies, "0", "without a key", "async")...)

		w.acked(w.change(func(r *metadata.Route) { r.Write, r.Canary, r.Warm = to, nil, nil }))
		require.Equal(t, to, w.sendKey(client, keyIn(0, 6554, 65535), "1"))
		require.Empty(t, w.participants()[0].Canary)
	})
}

func TestHoldOfKeysMakesTheOthersNotWait(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		w.putTopic("kafka-a", "kafka-b")
		client := w.open("order_service")
		in, out := keyIn(0, 0, 6553), keyIn(0, 6554, 65535)
		w.sendKey(client, in, "0")
		w.acked(w.change(func(r *metadata.Route) { r.Hold = &metadata.Hold{MS: 60_000, Keys: []int{0, 6553}} }))
		waiting := w.sending(w.ctx(), client, &turnout.Message{Key: in, Body: []byte("1")})
		require.Equal(t, "kafka-a", w.sendKey(client, out, "2"))
		require.Equal(t, "kafka-a", w.sendKey(client, nil, "3"))
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		_, err := client.Send(ctx, w.topic, &turnout.Message{Key: in, Body: []byte("4")})
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.True(t, w.participants()[0].Held)

		w.acked(w.change(canary(metadata.Canary{Write: "kafka-b", Keys: []int{0, 6553}})))
		r, err := w.done(waiting)
		require.NoError(t, err)
		require.Equal(t, "kafka-b", r.Cluster)
	})
}

// No cluster refuses what should not have gone, so whoever lets it go says so in the route first.
func TestHoldOfKeysThatNobodyEndsLeavesTheRouteAfterItsTime(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		w.putTopic("kafka-a")
		first, second := w.open("order_service"), w.open("order_service")
		w.send(first, "1")
		w.send(second, "2")
		zxid := w.change(func(r *metadata.Route) { r.Hold = &metadata.Hold{MS: 300, Keys: []int{0, 6553}} })
		for _, c := range []*turnout.Client{first, second} {
			require.Equal(t, "kafka-a", w.sendKey(c, keyIn(0, 0, 6553), "3"))
		}
		w.eventually(func() bool { route, _ := w.route(); return route.Hold == nil }, nil, "somebody has taken the hold off")
		now := w.mzxid(w.store.RoutePath(w.topic))
		require.Greater(t, now, zxid)
		w.acked(now)
	})
}
