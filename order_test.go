package turnout_test

import (
	"context"
	"fmt"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/turnout-mq/turnout"
	"github.com/turnout-mq/turnout/broker"
	"github.com/turnout-mq/turnout/consumer"
	"github.com/turnout-mq/turnout/metadata"
	"github.com/turnout-mq/turnout/testenv"
)

// seal takes the end offsets twice, as the controller does after the fence.
func (w *world) seal(cluster string) broker.Offsets {
	first := w.ends(cluster)
	w.eventually(func() bool {
		again := w.ends(cluster)
		same := fmt.Sprint(first) == fmt.Sprint(again)
		first = again
		return same
	}, nil, "the end of %s stands still", cluster)
	return first
}

func TestOrderedGroupHandlesTheSealedStayThenTheNextAndNothingBeyondTheSeal(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		w.putTopic("kafka-a", "kafka-b")
		w.putGroup(func(g *metadata.Group) { g.Order = metadata.OrderKey })
		w.storeOn("kafka-a", "a1", "a2")
		w.storeOn("kafka-b", "b1", "b2")
		client := w.open("order_service")
		_, err := client.Send(w.ctx(), w.topic, &turnout.Message{Key: []byte("k"), Body: []byte("a3")})
		require.NoError(t, err)
		seal := w.ends("kafka-a")
		w.storeOn("kafka-a", "late: beyond the seal")
		w.acked(w.change(func(r *metadata.Route) {
			r.Write, r.Order = "kafka-b", metadata.OrderKey
			r.Stays = []metadata.Stay{{Cluster: "kafka-a", End: seal}, {Cluster: "kafka-b", Start: broker.Offsets{}}}
		}))
		var in inbox
		gate := make(chan struct{})
		s, err := client.Subscribe(w.ctx(), w.group, func(_ context.Context, d *turnout.Delivery) error {
			<-gate
			in.add(d)
			return nil
		}, consumer.WithLinger(100*time.Millisecond))
		require.NoError(t, err)
		require.NoError(t, s.Ready(w.ctx()))
		require.Empty(t, w.members("kafka-b"), "b waits for a")
		close(gate)
		w.has(&in, "a1", "a2", "a3", "b1", "b2")
		require.Equal(t, []string{"a1", "a2", "a3", "b1", "b2"}, in.bodies())
		require.Equal(t, seal, w.positions("kafka-a"), "at the seal, not beyond it")
		w.participant(func(p metadata.Participant) bool {
			return p.Groups[w.group]["kafka-a"] == metadata.Finished && p.Groups[w.group]["kafka-b"] == metadata.Attached
		}, "a finished, b attached")
	})
}

// The protocol's ordered move, made by hand: hold, fence, seal, switch. Messages of a key are handled in the order in
// which they were sent, whether their senders wait or not.
func TestOrderOfKeysIsKeptOverAnOrderedMove(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		sender, order := w.ordered("kafka-a", "kafka-b")
		sending := w.recorder("sender")
		stop := w.traffic(sender, sending, 3)
		stopAsync := w.asyncTraffic(sender, sending, 3)
		for range 2 {
			for _, move := range [][2]string{{"kafka-a", "kafka-b"}, {"kafka-b", "kafka-a"}} {
				from, to := move[0], move[1]
				w.unfence(to)
				w.acked(w.change(func(r *metadata.Route) { r.Hold = &metadata.Hold{MS: 300} }))
				w.fence(from)
				seal := w.seal(from)
				w.unfence(to)
				w.acked(w.change(func(r *metadata.Route) {
					r.Stays[len(r.Stays)-1].End = seal
					start := broker.Offsets{}
					for _, s := range r.Stays {
						if s.Cluster == to {
							start = s.End
						}
					}
					r.Hold, r.Write = nil, to
					r.Stays = append(r.Stays, metadata.Stay{Cluster: to, Start: start})
				}))
				// R21: nobody may be attached to a cluster that is written again; so the group goes over first.
				w.eventually(func() bool { return len(w.members(from)) == 0 }, func() any { return w.participants() }, "the group has left %s", from)
			}
		}
		stop()
		stopAsync()
		v := w.orderedVerdict("kafka-a")
		require.NoError(t, v.Err())
		order.none(t)
	})
}

// swaps looks for messages of a key that were handled before one that was sent earlier, waiting or not.
type swaps struct {
	mu    sync.Mutex
	last  map[string]int64
	found []string
}

func (s *swaps) see(key string, seq int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.last == nil {
		s.last = map[string]int64{}
	}
	if seq > s.last[key]+1 {
		s.found = append(s.found, fmt.Sprintf("%s: %d after %d", key, seq, s.last[key]))
	}
	s.last[key] = max(seq, s.last[key])
}

func (s *swaps) none(t *testing.T) {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	require.Empty(t, s.found)
}

// ordered makes an ordered topic on kafka-a, with a client that sends and one that looks at the order.
func (w *world) ordered(on ...string) (sender *turnout.Client, order *swaps) {
	w.putTopic(on...)
	w.putGroup(func(g *metadata.Group) { g.Order = metadata.OrderKey })
	sender, receiver := w.open("order_service"), w.open("order_service_consumer")
	w.send(sender, "0")
	w.acked(w.change(func(r *metadata.Route) { r.Order = metadata.OrderKey }))
	order = &swaps{}
	rec := w.recorder("receiver")
	s, err := receiver.Subscribe(w.ctx(), w.group, func(_ context.Context, d *turnout.Delivery) error {
		seq, err := strconv.ParseInt(string(d.Body), 10, 64)
		if seq > 0 {
			handling := rec.Recv(w.group, w.message(d.ID, d.Key, seq), place(d))
			defer handling.Done()
			order.see(string(d.Key), seq)
		}
		return err
	}, consumer.WithLinger(100*time.Millisecond))
	require.NoError(w.t, err)
	require.NoError(w.t, s.Ready(w.ctx()))
	return sender, order
}

// R24: a send that has to be repeated keeps the later ones of its key behind it.
func TestOrderOfKeysIsKeptWhileSendsAreRefusedAndRepeated(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		sender, order := w.ordered("kafka-a")
		rec := w.recorder("sender")
		stop := w.asyncTraffic(sender, rec, 4)
		for range 4 {
			before := sender.Stats().Retried
			w.fence("kafka-a")
			w.eventually(func() bool { return sender.Stats().Retried > before }, nil, "sends are repeated")
			w.unfence("kafka-a")
			sent := sender.Stats().Sent
			w.eventually(func() bool { return sender.Stats().Sent > sent+50 }, func() any { return sender.Stats() }, "sends go on")
		}
		stop()
		require.NoError(t, w.orderedVerdict("kafka-a").Err())
		order.none(t)
	})
}

func TestOrderOfKeysIsKeptOverARestartOfTheBroker(t *testing.T) {
	own(t, testenv.Spec{ZooKeeper: 1, Kafka: []string{"kafka-a"}}, func(t *testing.T, w *world) {
		sender, order := w.ordered("kafka-a")
		rec := w.recorder("sender")
		stop := w.asyncTraffic(sender, rec, 4)
		for range 2 {
			require.NoError(t, w.env.Kill(w.ctx(), "kafka-a"))
			require.NoError(t, w.env.Restart(w.ctx(), "kafka-a"))
			sent := sender.Stats().Sent
			w.eventually(func() bool { return sender.Stats().Sent > sent+50 }, func() any { return sender.Stats() }, "sends go on")
		}
		stop()
		require.NoError(t, w.orderedVerdict("kafka-a").Err())
		order.none(t)
	})
}

func TestOrderIsTurnedOnAndOffWhileTheGroupRuns(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		w.putTopic("kafka-a", "kafka-b")
		w.putGroup(func(g *metadata.Group) { g.Order = metadata.OrderKey })
		client := w.open("order_service")
		rec := w.recorder("one")
		w.listen(client, rec)
		stop := w.traffic(client, rec, 3)
		for _, order := range []metadata.Order{metadata.OrderKey, metadata.OrderNone, metadata.OrderKey} {
			w.acked(w.change(func(r *metadata.Route) { r.Order = order }))
			sent := client.Stats().Sent
			w.eventually(func() bool { return client.Stats().Sent > sent+30 }, nil, "sends go on")
		}
		stop()
		require.NoError(t, w.verdict("kafka-a").Err())
	})
}
