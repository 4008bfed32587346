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
	"github.com/turnout-mq/turnout/metadata"
	"github.com/turnout-mq/turnout/testenv"
)

// short is long enough for a send to begin, and over soon.
const short = 300 * time.Millisecond

func TestSendWaitsWhileItsClusterIsFencedAndTheRouteIsTheSame(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		w.putTopic("kafka-a")
		client := w.open("order_service")
		w.send(client, "1")
		w.fence("kafka-a")
		triedAgain := func() {
			before := client.Stats().Retried
			w.eventually(func() bool { return client.Stats().Retried > before+1 }, nil, "it is tried again")
		}
		ctx, cancel := context.WithCancel(w.ctx())
		waiting := w.sending(ctx, client, &turnout.Message{Body: []byte("2")})
		triedAgain()
		cancel()
		_, err := w.done(waiting)
		require.ErrorIs(t, err, context.Canceled)
		require.ErrorIs(t, err, turnout.ErrFenced)
		called := make(chan error, 1)
		ctx, cancel = context.WithTimeout(w.ctx(), 2*time.Second)
		defer cancel()
		client.SendAsync(ctx, w.topic, &turnout.Message{Body: []byte("2")}, func(_ turnout.SendResult, err error) { called <- err })
		require.ErrorIs(t, <-called, context.DeadlineExceeded)

		waiting = w.sending(w.ctx(), client, &turnout.Message{Body: []byte("3")})
		triedAgain()
		w.unfence("kafka-a")
		r, err := w.done(waiting)
		require.NoError(t, err)
		require.Equal(t, "kafka-a", r.Cluster)
	})
}

func TestSendThatMeetsAFenceGoesWhereTheRouteSays(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		w.putTopic("kafka-a", "kafka-b")
		client := w.open("order_service")
		w.send(client, "1")
		w.fence("kafka-a")
		waiting := w.sending(w.ctx(), client, &turnout.Message{Key: []byte("k"), Body: []byte("2")})
		called := make(chan turnout.SendResult, 1)
		client.SendAsync(w.ctx(), w.topic, &turnout.Message{Key: []byte("k"), Body: []byte("3")}, func(r turnout.SendResult, err error) {
			if err == nil {
				called <- r
			}
		})
		w.eventually(func() bool { return client.Stats().Retried > 1 }, nil, "they are tried again")
		w.edit("kafka-b")
		r, err := w.done(waiting)
		require.NoError(t, err)
		require.Equal(t, "kafka-b", r.Cluster)
		require.Equal(t, "kafka-b", (<-called).Cluster)
		require.NotZero(t, client.Stats().Rerouted)
	})
}

func TestMessageThatIsTooLargeForItsClusterFailsAtOnce(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		w.putTopic("kafka-a")
		w.setConfig("kafka-a", "max.message.bytes", "3000")
		client := w.open("order_service")
		w.send(client, "1")
		var err error
		w.eventually(func() bool { // a broker takes a setting some time after it has said so
			_, err = client.Send(context.Background(), w.topic, &turnout.Message{Body: make([]byte, 5000)})
			return err != nil
		}, nil, "the setting acts")
		require.ErrorIs(t, err, turnout.ErrTooLarge)
		require.Contains(t, err.Error(), "3000")
		called := make(chan error, 1)
		client.SendAsync(context.Background(), w.topic, &turnout.Message{Key: []byte("k"), Body: make([]byte, 5000)}, func(_ turnout.SendResult, err error) { called <- err })
		require.ErrorIs(t, <-called, turnout.ErrTooLarge)
		require.Equal(t, "kafka-a", w.send(client, "2"), "those behind it are not kept")
	})
}

// Nobody can say where the topic has gone, so the caller has to know.
func TestSendThatMeetsAFenceWithoutZooKeeperFails(t *testing.T) {
	own(t, testenv.Spec{ZooKeeper: 1, Kafka: []string{"kafka-a"}}, func(t *testing.T, w *world) {
		w.putTopic("kafka-a")
		client := w.open("order_service")
		w.send(client, "1")
		w.fence("kafka-a")
		require.NoError(t, w.env.Stop(w.ctx(), "zookeeper"))
		_, err := client.Send(w.ctx(), w.topic, &turnout.Message{Body: []byte("2")})
		require.ErrorIs(t, err, turnout.ErrFenced)
		require.NotErrorIs(t, err, context.DeadlineExceeded)
		w.unfence("kafka-a")
		w.eventually(func() bool { // a broker takes a setting some time after it has said so
			r, err := client.Send(w.ctx(), w.topic, &turnout.Message{Body: []byte("3")})
			if err != nil {
				require.ErrorIs(t, err, turnout.ErrFenced)
				return false
			}
			require.Equal(t, "kafka-a", r.Cluster)
			return true
		}, nil, "the send goes through")
		require.NoError(t, w.env.Restart(w.ctx(), "zookeeper"))
	})
}

func TestSendsEndWithTheirCtxAndAreCountedWhenTheyAreStoredLater(t *testing.T) {
	own(t, testenv.Spec{ZooKeeper: 1, Kafka: []string{"kafka-a"}}, func(t *testing.T, w *world) {
		w.putTopic("kafka-a")
		client := w.open("order_service")
		w.send(client, "1")
		require.NoError(t, w.env.Pause("kafka-a"))
		ctx, cancel := context.WithTimeout(w.ctx(), 10*short) // in which both have to come to the driver
		defer cancel()
		id := "00000000000000000000000000000001"
		waiting := w.sending(ctx, client, &turnout.Message{ID: id, Body: []byte("2")})
		var calls atomic.Int64
		called := make(chan error, 2)
		client.SendAsync(ctx, w.topic, &turnout.Message{Key: []byte("k"), Body: []byte("3")}, func(_ turnout.SendResult, err error) {
			calls.Add(1)
			called <- err
		})
		r, err := w.done(waiting)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.Equal(t, id, r.ID, "to be sent again by")
		require.ErrorIs(t, <-called, context.DeadlineExceeded)
		require.NoError(t, w.env.Resume("kafka-a"))
		w.eventually(func() bool { return client.Stats().LateSuccess == 2 }, func() any { return client.Stats() }, "both were stored")
		require.Equal(t, int64(1), calls.Load())
		require.Equal(t, int64(2), client.Stats().Failed)
		w.send(client, "4")
	})
}

func TestCloseWaitsForSendsThatWereBegun(t *testing.T) {
	own(t, testenv.Spec{ZooKeeper: 1, Kafka: []string{"kafka-a"}}, func(t *testing.T, w *world) {
		w.putTopic("kafka-a")
		client := w.open("order_service")
		w.send(client, "1")
		require.NoError(t, w.env.Pause("kafka-a"))
		const n = 20
		results := make(chan error, 2*n)
		for i := range n {
			client.SendAsync(context.Background(), w.topic, &turnout.Message{Key: []byte{byte(i)}, Body: []byte("2")}, func(_ turnout.SendResult, err error) { results <- err })
		}
		closed := make(chan error, 1)
		go func() { closed <- client.Close(w.ctx()) }()
		w.eventually(func() bool {
			ctx, cancel := context.WithTimeout(w.ctx(), 10*time.Millisecond)
			defer cancel()
			_, err := client.Send(ctx, w.topic, &turnout.Message{Body: []byte("3")})
			return errors.Is(err, turnout.ErrClosed)
		}, nil, "no new sends")
		require.NoError(t, w.env.Resume("kafka-a"))
		require.NoError(t, <-closed)
		for range n {
			require.NoError(t, <-results)
		}
		require.Empty(t, results)
	})
}

func TestCloseThatRunsOutOfTimeAnswersEverySendOnce(t *testing.T) {
	own(t, testenv.Spec{ZooKeeper: 1, Kafka: []string{"kafka-a"}}, func(t *testing.T, w *world) {
		w.putTopic("kafka-a")
		client := w.open("order_service")
		w.send(client, "1")
		require.NoError(t, w.env.Pause("kafka-a"))
		// More than the driver's buffers take: some are still being handed over.
		const n = 3000
		var calls [n]atomic.Int64
		var wrong atomic.Pointer[error]
		var stored atomic.Int64 // in the moment that a process takes to be stopped
		var waiting, begun sync.WaitGroup
		for i := range n {
			begun.Add(1)
			waiting.Go(func() {
				m := &turnout.Message{Key: fmt.Append(nil, i), Body: []byte("2")}
				done := func(_ turnout.SendResult, err error) {
					calls[i].Add(1)
					switch {
					case err == nil:
						stored.Add(1)
					case !errors.Is(err, turnout.ErrClosed):
						wrong.Store(&err)
					}
				}
				begun.Done()
				if i%2 == 0 {
					done(client.Send(context.Background(), w.topic, m))
				} else {
					client.SendAsync(context.Background(), w.topic, m, done)
				}
			})
		}
		begun.Wait()
		ctx, cancel := context.WithTimeout(w.ctx(), short)
		defer cancel()
		require.ErrorIs(t, client.Close(ctx), context.DeadlineExceeded)
		waiting.Wait()
		w.eventually(func() bool {
			for i := range calls {
				if calls[i].Load() != 1 {
					return false
				}
			}
			return true
		}, nil, "each has one answer")
		if err := wrong.Load(); err != nil {
			require.ErrorIs(t, *err, turnout.ErrClosed)
		}
		require.Less(t, stored.Load(), int64(n/2))
		require.NoError(t, client.Close(w.ctx()), "called again it waits for the rest")
		require.NoError(t, w.env.Resume("kafka-a"))
		there := int64(0)
		for _, end := range w.ends("kafka-a") {
			there += end
		}
		require.GreaterOrEqual(t, there, 1+stored.Load(), "what was acknowledged is there")
	})
}

// probe is a ctx that never ends and tells when somebody waits for that.
type probe struct {
	context.Context
	asked chan struct{}
	once  func()
}

func newProbe() probe {
	asked := make(chan struct{})
	return probe{context.Background(), asked, sync.OnceFunc(func() { close(asked) })}
}

func (p probe) Done() <-chan struct{} {
	p.once()
	return nil
}

func TestCloseEndsSendsThatWaitForAHold(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		w.putTopic("kafka-a")
		client := w.open("order_service")
		w.send(client, "1")
		w.acked(w.change(func(r *metadata.Route) { r.Hold = &metadata.Hold{MS: 600_000} }))
		one, two := newProbe(), newProbe()
		waiting := w.sending(one, client, &turnout.Message{Body: []byte("2")})
		called := make(chan error, 2)
		go client.SendAsync(two, w.topic, &turnout.Message{Body: []byte("3")}, func(_ turnout.SendResult, err error) { called <- err })
		<-one.asked
		<-two.asked
		require.ErrorIs(t, client.Close(w.short()), context.DeadlineExceeded)
		_, err := w.done(waiting)
		require.ErrorIs(t, err, turnout.ErrClosed)
		require.ErrorIs(t, <-called, turnout.ErrClosed)
		require.NoError(t, client.Close(w.ctx()))
		for _, end := range w.ends("kafka-a") {
			require.LessOrEqual(t, end, int64(1))
		}
	})
}

func TestAClosedClientRefusesEverything(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		w.putTopic("kafka-a")
		w.putGroup(nil)
		client := w.open("order_service")
		w.send(client, "1")
		var in inbox
		s, err := client.Subscribe(w.ctx(), w.group, in.listen)
		require.NoError(t, err)
		w.has(&in, "1")
		var wg sync.WaitGroup
		for range 4 { // at once
			wg.Go(func() { require.NoError(t, client.Close(w.ctx())) })
		}
		wg.Wait()
		_, err = client.Send(w.ctx(), w.topic, &turnout.Message{Body: []byte("2")})
		require.ErrorIs(t, err, turnout.ErrClosed)
		called := make(chan error, 1)
		client.SendAsync(w.ctx(), w.topic, &turnout.Message{Body: []byte("2")}, func(_ turnout.SendResult, err error) { called <- err })
		require.ErrorIs(t, <-called, turnout.ErrClosed)
		_, err = client.Subscribe(w.ctx(), w.group, in.listen)
		require.ErrorIs(t, err, turnout.ErrClosed)
		require.ErrorIs(t, s.Ready(w.ctx()), turnout.ErrClosed)
		require.NoError(t, s.Close(w.ctx()))
		require.Empty(t, w.instances("order_service"), "it has signed off")
		require.Empty(t, w.participants())
	})
}

// The memory of a message is the caller's again when Send has returned, and when done was called.
func TestMemoryOfAMessageMayBeUsedAgain(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		w.putTopic("kafka-a", "kafka-b")
		w.putGroup(nil)
		client := w.open("order_service")
		var in inbox
		_, err := client.Subscribe(w.ctx(), w.group, in.listen)
		require.NoError(t, err)
		var want []string
		m := &turnout.Message{Key: []byte("key-0"), Body: []byte("body-000"), Headers: []turnout.Header{{Name: "n", Value: "000"}}}
		done := make(chan error, 1)
		for i := range 200 {
			if i == 100 {
				w.edit("kafka-b")
			}
			m.Key = fmt.Appendf(m.Key[:0], "key-%d", i%3)
			m.Body = fmt.Appendf(m.Body[:0], "body-%03d", i)
			m.Headers[0].Value = fmt.Sprintf("%03d", i)
			want = append(want, string(m.Body))
			if i%2 == 0 {
				_, err := client.Send(w.ctx(), w.topic, m)
				require.NoError(t, err)
				continue
			}
			client.SendAsync(w.ctx(), w.topic, m, func(_ turnout.SendResult, err error) { done <- err })
			require.NoError(t, <-done)
		}
		w.has(&in, want...)
		for _, d := range in.deliveries() {
			require.Equal(t, string(d.Body), "body-"+d.Headers[0].Value)
		}
	})
}

func TestCloseEndsASubscribeThatWaits(t *testing.T) {
	own(t, testenv.Spec{ZooKeeper: 1}, func(t *testing.T, w *world) {
		client := w.open("order_service")
		require.NoError(t, w.env.Stop(w.ctx(), "zookeeper"))
		failed := make(chan error, 1)
		begun := make(chan struct{})
		go func() {
			close(begun)
			_, err := client.Subscribe(w.ctx(), w.group, func(context.Context, *turnout.Delivery) error { return nil })
			failed <- err
		}()
		<-begun
		require.NoError(t, client.Close(w.ctx()))
		require.ErrorIs(t, <-failed, turnout.ErrClosed)
		require.NoError(t, w.env.Restart(w.ctx(), "zookeeper"))
	})
}

func TestCloseDoesNotWaitForZooKeeper(t *testing.T) {
	own(t, testenv.Spec{ZooKeeper: 1, Kafka: []string{"kafka-a"}}, func(t *testing.T, w *world) {
		for name, fail := range map[string]func() error{
			"gone":    func() error { return w.env.Stop(w.ctx(), "zookeeper") },
			"hanging": func() error { return w.env.Pause("zookeeper") },
		} {
			t.Run(name, func(t *testing.T) {
				w := newWorld(t, w.env, "kafka-a")
				w.putTopic("kafka-a")
				w.putGroup(nil)
				client := w.open("order_service")
				var in inbox
				_, err := client.Subscribe(w.ctx(), w.group, in.listen)
				require.NoError(t, err)
				w.send(client, "1")
				w.has(&in, "1")
				require.NoError(t, fail())
				require.NoError(t, client.Close(w.ctx()))
				require.NoError(t, w.env.Restart(w.ctx(), "zookeeper"))
				require.Equal(t, w.ends("kafka-a"), w.positions("kafka-a"), "what was handled is committed")
			})
		}
	})
}

// A listener that takes its time holds Close up until its ctx ends; then it is told by its own.
func TestCloseEndsTheCtxOfAListenerThatDoesNotReturn(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		w.putTopic("kafka-a")
		w.putGroup(func(g *metadata.Group) { g.Concurrency = 2 })
		client := w.open("order_service")
		entered := make(chan struct{}, 10)
		_, err := client.Subscribe(w.ctx(), w.group, func(ctx context.Context, d *turnout.Delivery) error {
			entered <- struct{}{}
			<-ctx.Done()
			return ctx.Err()
		})
		require.NoError(t, err)
		w.send(client, "1")
		<-entered
		ctx, cancel := context.WithTimeout(w.ctx(), short)
		defer cancel()
		require.ErrorIs(t, client.Close(ctx), context.DeadlineExceeded)
		require.NoError(t, client.Close(w.ctx()))

		again := w.open("order_service")
		var in inbox
		_, err = again.Subscribe(w.ctx(), w.group, in.listen)
		require.NoError(t, err)
		w.has(&in, "1")
	})
}

// The look-up of a topic that nobody waits for any more leaves nothing behind.
func TestLookUpThatWasGivenUpLeavesNoParticipant(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		w.putTopic("kafka-a")
		client := w.open("order_service")
		ctx, cancel := context.WithCancel(w.ctx())
		cancel()
		for range 5 {
			_, err := client.Send(ctx, w.topic, &turnout.Message{Body: []byte("1")})
			require.ErrorIs(t, err, context.Canceled)
		}
		raw := w.raw()
		w.eventually(func() bool {
			exists, stat, err := raw.Exists(w.store.ParticipantsPath(w.topic))
			require.NoError(t, err)
			return exists && stat.Cversion > 1 && stat.NumChildren == 0
		}, func() any { return w.participants() }, "a participant came and went")
		w.send(client, "2")
		require.Len(t, w.participants(), 1)
	})
}

// Leaving a topic and taking it again at once does not take the new participant's node away.
func TestTopicThatIsTakenAgainAtOnceKeepsItsParticipant(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		w.putTopic("kafka-a")
		w.putGroup(nil)
		client := w.open("order_service")
		for range 10 {
			s, err := client.Subscribe(w.ctx(), w.group, func(context.Context, *turnout.Delivery) error { return nil })
			require.NoError(t, err)
			require.Len(t, w.participants(), 1)
			require.NoError(t, s.Close(w.ctx()))
		}
		s, err := client.Subscribe(w.ctx(), w.group, func(context.Context, *turnout.Delivery) error { return nil })
		require.NoError(t, err)
		require.NoError(t, s.Ready(w.ctx()))
		w.applied("kafka-a")
		require.Len(t, w.participants(), 1)
	})
}

// The connection to a cluster that nobody uses for its linger time is closed, and opened again when needed, however short
// that time is.
func TestConnectionsAreClosedAfterTheirLastUse(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		w.putTopic("kafka-a", "kafka-b")
		client := w.open("order_service", turnout.WithClusterLinger(time.Nanosecond))
		for range 3 {
			require.Equal(t, "kafka-a", w.send(client, "1"))
			w.applied("kafka-a")
			w.edit("kafka-b")
			w.applied("kafka-b")
			require.Equal(t, "kafka-b", w.send(client, "1"))
			w.edit("kafka-a")
			w.applied("kafka-a")
		}
	})
}
