package turnout_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/turnout-mq/turnout"
	"github.com/turnout-mq/turnout/broker"
	"github.com/turnout-mq/turnout/consumer"
	"github.com/turnout-mq/turnout/metadata"
)

var errListener = errors.New("the listener can not")

// soon makes retries come out of the retry topic at once.
var soon = consumer.WithRetryDelay(func(int) time.Duration { return time.Millisecond })

func (w *world) pending(cluster string) (p broker.Pending) {
	w.t.Helper()
	w.with(cluster, func(c broker.Cluster) {
		var err error
		p, err = c.Pending(w.ctx(), w.group, w.topic)
		require.NoError(w.t, err)
	})
	return p
}

func TestMessageThatKeepsFailingGoesThroughTheRetryTopicToTheDeadLetters(t *testing.T) {
	for _, rounds := range []int{0, 2} {
		t.Run(fmt.Sprint("rounds ", rounds), func(t *testing.T) {
			each(t, func(t *testing.T, w *world) {
				w.putTopic("kafka-a")
				w.putGroup(func(g *metadata.Group) { g.Retry.Max = rounds })
				client := w.open("order_service")
				var in inbox
				var asked []int
				var mu sync.Mutex
				s, err := client.Subscribe(w.ctx(), w.group, func(ctx context.Context, d *turnout.Delivery) error {
					_ = in.listen(ctx, d)
					if string(d.Body) == "bad" {
						return errListener
					}
					return nil
				}, consumer.WithRetryDelay(func(n int) time.Duration {
					mu.Lock()
					defer mu.Unlock()
					asked = append(asked, n)
					return time.Millisecond
				}))
				require.NoError(t, err)
				r, err := client.Send(w.ctx(), w.topic, &turnout.Message{Key: []byte("k"), Tag: "red", Body: []byte("bad"), Headers: []turnout.Header{{Name: "n", Value: "v"}}})
				require.NoError(t, err)
				w.send(client, "good")
				w.has(&in, "good")
				w.eventually(func() bool { return s.Stats().DeadLetter == 1 }, func() any { return s.Stats() }, "it is dead")
				var attempts []int
				for _, d := range in.deliveries() {
					if string(d.Body) == "good" {
						continue
					}
					attempts = append(attempts, d.Attempt)
					require.Equal(t, r.ID, d.ID)
					require.Equal(t, "k", string(d.Key))
					require.Equal(t, "red", d.Tag)
					require.Equal(t, []turnout.Header{{Name: "n", Value: "v"}}, d.Headers)
					require.Equal(t, w.topic, d.Topic)
				}
				want := []int{0, 0, 0}
				var delays []int
				for n := range rounds {
					want = append(want, n+1, n+1, n+1)
					delays = append(delays, n)
				}
				require.Equal(t, want, attempts, "three tries in the process, then the retry topic")
				mu.Lock()
				require.Equal(t, delays, asked)
				mu.Unlock()
				w.eventually(func() bool {
					return s.Stats() == consumer.Stats{Handled: 1, Failed: int64(len(want)), Retried: int64(rounds), DeadLetter: 1}
				}, func() any { return s.Stats() }, "all is counted")
				w.eventually(func() bool { return w.left("kafka-a") == 0 && w.pending("kafka-a") == broker.Pending{DeadLetters: 1} },
					func() any { return w.pending("kafka-a") }, "nothing is left but the dead letter")
			})
		})
	}
}

func TestMessageThatSucceedsLaterIsDone(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		w.putTopic("kafka-a")
		w.putGroup(nil)
		client := w.open("order_service")
		var calls atomic.Int64
		s, err := client.Subscribe(w.ctx(), w.group, func(context.Context, *turnout.Delivery) error {
			switch calls.Add(1) {
			case 1:
				return errListener
			case 2:
				panic("and now this")
			case 3:
				return errListener
			}
			return nil
		}, soon)
		require.NoError(t, err)
		w.send(client, "1")
		w.eventually(func() bool { return s.Stats() == consumer.Stats{Handled: 1, Failed: 3, Retried: 1} }, func() any { return s.Stats() },
			"it is done, a panic is an error") // it may come back before its retry is counted
		w.eventually(func() bool { return w.left("kafka-a") == 0 && w.pending("kafka-a") == broker.Pending{} }, nil, "nothing is left")
	})
}

func TestRetriesOnAClusterThatWasLeftHoldTheGroupThere(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		w.putTopic("kafka-a", "kafka-b")
		w.putGroup(nil)
		client := w.open("order_service")
		var mend atomic.Bool
		var in inbox
		s, err := client.Subscribe(w.ctx(), w.group, func(ctx context.Context, d *turnout.Delivery) error {
			if string(d.Body) == "bad" && !mend.Load() {
				return errListener
			}
			return in.listen(ctx, d)
		}, soon, consumer.WithLinger(100*time.Millisecond))
		require.NoError(t, err)
		require.Equal(t, "kafka-a", w.send(client, "bad"))
		w.edit("kafka-b")
		w.applied("kafka-b")
		require.Equal(t, "kafka-b", w.send(client, "good"))
		w.has(&in, "good")
		w.eventually(func() bool { return s.Stats().Retried >= 2 }, func() any { return s.Stats() }, "it goes round on kafka-a")
		require.NotEmpty(t, w.members("kafka-a"))
		mend.Store(true)
		w.has(&in, "bad")
		w.eventually(func() bool { return len(w.members("kafka-a")) == 0 }, nil, "then the group leaves")
		for _, d := range in.deliveries() {
			if string(d.Body) == "bad" {
				require.Equal(t, "kafka-a", d.Cluster)
			}
		}
	})
}

func TestOrderedKeyWaitsForItsFailingMessageAndOthersGoOn(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		w.putTopic("kafka-a")
		w.putGroup(func(g *metadata.Group) { g.Order, g.Retry.Max = metadata.OrderKey, 16 })
		client := w.open("order_service")
		w.send(client, "0")
		w.acked(w.change(func(r *metadata.Route) { r.Order = metadata.OrderKey }))
		var mend atomic.Bool
		var tries atomic.Int64
		var in inbox
		s, err := client.Subscribe(w.ctx(), w.group, func(ctx context.Context, d *turnout.Delivery) error {
			if string(d.Body) == "failing 1" && !mend.Load() {
				tries.Add(1)
				return errListener
			}
			return in.listen(ctx, d)
		}, soon)
		require.NoError(t, err)
		for i := range 3 {
			for _, key := range []string{"failing", "other", "third"} {
				_, err := client.Send(w.ctx(), w.topic, &turnout.Message{Key: []byte(key), Body: fmt.Appendf(nil, "%s %d", key, i)})
				require.NoError(t, err)
			}
		}
		w.has(&in, "failing 0", "other 0", "other 1", "other 2", "third 2")
		w.eventually(func() bool { return tries.Load() > 1 }, nil, "it is tried again")
		require.NotContains(t, in.bodies(), "failing 2")
		mend.Store(true)
		w.has(&in, "failing 1", "failing 2")
		last := map[string]string{}
		for _, d := range in.deliveries() {
			require.Less(t, last[string(d.Key)], string(d.Body))
			last[string(d.Key)] = string(d.Body)
		}
		require.Zero(t, s.Stats().Retried, "the retry topic would break the order")
		require.Equal(t, broker.Pending{}, w.pending("kafka-a"))
	})
}

func TestOrderedMessageThatKeepsFailingIsBuriedAndItsKeyGoesOn(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		w.putTopic("kafka-a")
		w.putGroup(func(g *metadata.Group) { g.Order, g.Retry.Max = metadata.OrderKey, 0 })
		client := w.open("order_service")
		w.send(client, "0")
		w.acked(w.change(func(r *metadata.Route) { r.Order = metadata.OrderKey }))
		var in inbox
		s, err := client.Subscribe(w.ctx(), w.group, func(ctx context.Context, d *turnout.Delivery) error {
			if string(d.Body) == "1" {
				return errListener
			}
			return in.listen(ctx, d)
		})
		require.NoError(t, err)
		for i := 1; i < 4; i++ {
			w.send(client, fmt.Sprint(i))
		}
		w.has(&in, "0", "2", "3")
		require.Equal(t, []string{"0", "2", "3"}, in.bodies())
		w.eventually(func() bool { return s.Stats().DeadLetter == 1 }, func() any { return s.Stats() }, "it is counted")
		require.Equal(t, int64(1), w.pending("kafka-a").DeadLetters)
	})
}

// A process that ends in the middle of a message: whoever comes next gets that message and what came after it, whatever
// of that was handled already.
func TestPositionDoesNotPassAMessageThatWasNotFinished(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		w.putTopic("kafka-a")
		w.putGroup(nil)
		first := w.open("order_service")
		var in inbox
		hold := make(chan struct{})
		release := sync.OnceFunc(func() { close(hold) })
		defer release()
		held := make(chan struct{}, 1)
		_, err := first.Subscribe(w.ctx(), w.group, func(ctx context.Context, d *turnout.Delivery) error {
			if string(d.Body) == "2" {
				held <- struct{}{}
				<-hold // it does not listen to its ctx
				return errListener
			}
			return in.listen(ctx, d)
		})
		require.NoError(t, err)
		for i := range 10 {
			w.send(first, fmt.Sprint(i)) // of one key, so on one partition
		}
		<-held
		w.has(&in, "0", "1", "3", "4", "5", "6", "7", "8", "9")
		ctx, cancel := context.WithTimeout(w.ctx(), short)
		defer cancel()
		require.ErrorIs(t, first.Close(ctx), context.DeadlineExceeded)
		release()
		require.NoError(t, first.Close(w.ctx()))
		for _, position := range w.positions("kafka-a") {
			require.LessOrEqual(t, position, int64(2))
		}
		var again inbox
		second := w.open("order_service")
		_, err = second.Subscribe(w.ctx(), w.group, again.listen)
		require.NoError(t, err)
		w.has(&again, "2", "3", "4", "5", "6", "7", "8", "9")
	})
}

func TestTwoClientsShareThePartitionsOfAGroupAndLoseNothingWhenTheyComeAndGo(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		w.putTopic("kafka-a")
		w.putGroup(nil)
		sender := w.open("order_service")
		rec := w.recorder("sender")
		stop := w.traffic(sender, rec, 8)
		one, two := w.open("order_service_consumer"), w.open("order_service_consumer")
		partitions := func(r *inbox) map[string]bool {
			m := map[string]bool{}
			for _, d := range r.deliveries() {
				m[d.Partition] = true
			}
			return m
		}
		history := w.recorder("receiver")
		listen := func(in *inbox) turnout.Listener {
			return func(ctx context.Context, d *turnout.Delivery) error {
				var seq int64
				_, err := fmt.Sscan(string(d.Body), &seq)
				history.Recv(w.group, w.message(d.ID, d.Key, seq), place(d)).Done()
				_ = in.listen(ctx, d)
				return err
			}
		}
		var a, b inbox
		_, err := one.Subscribe(w.ctx(), w.group, listen(&a))
		require.NoError(t, err)
		w.eventually(func() bool { return len(partitions(&a)) == 4 }, func() any { return partitions(&a) }, "one client reads all partitions")
		for range 2 {
			b = inbox{}
			s, err := two.Subscribe(w.ctx(), w.group, listen(&b))
			require.NoError(t, err)
			require.NoError(t, s.Ready(w.ctx()))
			w.eventually(func() bool { return len(partitions(&b)) == 2 }, func() any { return partitions(&b) }, "two clients share them")
			require.NoError(t, s.Close(w.ctx()))
		}
		stop()
		require.NoError(t, w.verdict("kafka-a").Err())
	})
}
