package turnout_test

import (
	"context"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/turnout-mq/turnout"
	"github.com/turnout-mq/turnout/admin/migrate"
	"github.com/turnout-mq/turnout/admin/store"
	"github.com/turnout-mq/turnout/broker"
	"github.com/turnout-mq/turnout/broker/rocketmq/remoting"
	"github.com/turnout-mq/turnout/consumer"
	"github.com/turnout-mq/turnout/producer"
	"github.com/turnout-mq/turnout/testenv"
	"github.com/turnout-mq/turnout/testenv/history"
)

// kindPairs are moves with RocketMQ on a side, or on both.
var kindPairs = [][2]string{{"kafka-a", "rocketmq-a"}, {"rocketmq-a", "kafka-a"}, {"rocketmq-a", "rocketmq-b"}, {"rocketmq-b", "rocketmq-a"}}

// eachKindPair runs f for each of them, all at once.
func eachKindPair(t *testing.T, f func(t *testing.T, w *world, from, to string)) {
	for _, p := range kindPairs {
		t.Run(p[0]+" to "+p[1], func(t *testing.T) {
			t.Parallel()
			withKinds(t, func(t *testing.T, w *world) { f(t, w, p[0], p[1]) })
		})
	}
}

// answered waits for the end of a migration and answers meanwhile what brokers ask about transactions.
func (o *operator) answered(id string, halves ...*testenv.Half) *migrate.Receipt {
	o.w.t.Helper()
	o.w.eventually(func() bool {
		for _, h := range halves {
			require.NoError(o.w.t, h.EndAgain(o.w.ctx()))
		}
		row, err := o.Get(o.w.ctx(), id)
		require.NoError(o.w.t, err)
		return row.EndedAt != nil
	}, func() any { return o.story(id) }, "migration %s ends", id)
	return o.ended(id)
}

// rocketMQ is a raw client of a RocketMQ cluster, and the address of its first master.
func (w *world) rocketMQ(cluster string) (raw *remoting.Client, addr string) {
	w.t.Helper()
	raw = remoting.NewClient(remoting.Options{})
	w.t.Cleanup(raw.Close)
	info, err := raw.ClusterInfo(w.ctx(), w.env.Addresses(cluster)[0])
	require.NoError(w.t, err)
	return raw, info.Brokers[cluster].Master()
}

// half stores a message of a transaction that is not decided, as a program that has Turnout's format and sends in transactions.
func (w *world) half(cluster string, m history.Message) *testenv.Half {
	w.t.Helper()
	raw, addr := w.rocketMQ(cluster)
	h, err := testenv.PrepareHalf(w.ctx(), raw, addr, w.topic, 0, []byte(strconv.FormatInt(m.Seq, 10)), "turnout-id", m.ID, "turnout-key", m.Key)
	require.NoError(w.t, err)
	return h
}

// timed stores a message with a timer on RocketMQ, as a program that has Turnout's format.
func (w *world) timed(cluster string, m history.Message, delay time.Duration) error {
	raw, addr := w.rocketMQ(cluster)
	properties := ""
	for _, p := range [][2]string{{"turnout-id", m.ID}, {"turnout-key", m.Key}, {"TIMER_DELAY_MS", strconv.FormatInt(delay.Milliseconds(), 10)}} {
		properties = remoting.AppendProperty(properties, p[0], p[1])
	}
	_, err := raw.Call(w.ctx(), addr, remoting.NewRequest(remoting.ReqSendMessage, strconv.AppendInt(nil, m.Seq, 10), "producerGroup", "timers", "topic", w.topic,
		"queueId", "0", "defaultTopic", "TBW102", "defaultTopicQueueNums", "4", "sysFlag", "0", "bornTimestamp", strconv.FormatInt(time.Now().UnixMilli(), 10),
		"flag", "0", "properties", properties, "reconsumeTimes", "0", "unitMode", "false", "batch", "false"))
	return err
}

// Half messages are in no topic yet: a cluster that has some is not closed, whatever they become.
func TestAMoveAwayFromRocketMQWaitsForTransactionsToEnd(t *testing.T) {
	cases := map[string]func(t *testing.T, w *world){}
	for _, ordered := range []bool{false, true} {
		cases[map[bool]string{false: "unordered", true: "ordered"}[ordered]] = func(t *testing.T, w *world) {
			if ordered {
				w.putOrdered("rocketmq-a", "kafka-a")
			} else {
				w.putTopic("rocketmq-a", "kafka-a")
				w.putGroup(nil)
			}
			m := &moving{operator: w.operate(), ordered: ordered, client: w.open("order_service")}
			rec := w.recorder("one")
			w.listen(m.client, rec)
			m.quiet = w.traffic(m.client, rec, 4)
			m.sendsTo("rocketmq-a", 4)
			w.applied("rocketmq-a")

			message := w.message(producer.NewID(), []byte("half"), 1)
			kept := w.half("rocketmq-a", message)
			dropped := w.half("rocketmq-a", w.message(producer.NewID(), []byte("dropped"), 1))
			plan := migrate.Plan{Topic: w.topic, To: "kafka-a", Ordered: ordered, Hold: 30_000}
			_, err := m.Start(w.ctx(), plan, "tester", migrate.StarterApproves)
			require.ErrorContains(t, err, "--accept "+migrate.Transactions)
			require.ErrorContains(t, err, "transactionCheckMax")
			plan.Accept = []string{migrate.Transactions}
			move := m.start(plan)
			w.eventually(func() bool {
				row, err := m.Get(w.ctx(), move.ID)
				require.NoError(t, err)
				return strings.Contains(row.Waiting, "transactions are open on "+w.topic)
			}, func() any { return m.story(move.ID) }, "it waits for the transactions")
			require.False(t, w.fenced("rocketmq-a"))
			require.NoError(t, dropped.End(w.ctx(), false))
			sending := rec.Send(message)
			require.NoError(t, kept.End(w.ctx(), true))
			sending.OK(history.Place{Cluster: "rocketmq-a"})
			r := m.answered(move.ID, kept, dropped)
			require.Equal(t, store.Done, r.Outcome, m.story(move.ID))
			require.True(t, r.Free, m.story(move.ID))
			require.True(t, w.fenced("rocketmq-a"))
			require.Zero(t, r.Left[0].Rescued, m.story(move.ID))
			m.quiet()
			require.NoError(t, w.verdict("kafka-a", "rocketmq-a").Err())
			require.Zero(t, m.client.Stats().Failed)
		}
	}
	withTransactions(t, cases)
}

// Whatever a cluster still has when its topic moves: messages that are delayed by a level or a timer, in the retry topic, or in open transactions.
func TestWhatIsPendingAtAMoveIsHandled(t *testing.T) {
	cases := map[string]func(t *testing.T, w *world){}
	for _, p := range kindPairs {
		from, to := p[0], p[1]
		cases[from+" to "+to] = func(t *testing.T, w *world) {
			rocketMQ := broker.Kind(w.env.Kind(from)) == broker.RocketMQ
			w.putTopic(from, to)
			w.putGroup(nil)
			rec := w.recorder("one")
			client := w.open("order_service")
			var fails atomic.Bool
			fails.Store(true)
			sub, err := client.Subscribe(w.ctx(), w.group, func(_ context.Context, d *turnout.Delivery) error {
				seq, err := strconv.ParseInt(string(d.Body), 10, 64)
				h := rec.Recv(w.group, history.Message{ID: d.ID, Topic: d.Topic, Key: history.Key(d.Key), Seq: seq},
					history.Place{Cluster: d.Cluster, Partition: d.Partition, Offset: d.Offset, Attempt: d.Attempt})
				if string(d.Key) == "fails" && fails.Load() {
					h.Retry(errListener)
					return errListener
				}
				h.Done()
				return err
			}, consumer.WithLinger(300*time.Millisecond), consumer.WithRecheck(time.Second),
				consumer.WithRetryDelay(func(int) time.Duration { return time.Second })) // RocketMQ: its first delay level
			require.NoError(t, err)
			require.NoError(t, sub.Ready(w.ctx()))

			const each = 5
			delay := func() error {
				for i := range int64(each) {
					m := w.message(producer.NewID(), []byte("delayed"), i+1)
					sending := rec.Send(m)
					var err error
					w.with(from, func(c broker.Cluster) {
						done := make(chan error, 1)
						c.Send(w.ctx(), w.topic, &broker.Envelope{Message: broker.Message{ID: m.ID, Key: []byte("delayed"), Body: strconv.AppendInt(nil, m.Seq, 10),
							Delay: time.Second}}, func(_ broker.Receipt, err error) { done <- err })
						err = <-done
					})
					if err != nil {
						sending.Unknown(err)
						return err
					}
					sending.OK(history.Place{Cluster: from})
				}
				for i := range int64(each) { // as another program does
					m := w.message(producer.NewID(), []byte("timed"), i+1)
					sending := rec.Send(m)
					if err := w.timed(from, m, 3*time.Second); err != nil {
						sending.Unknown(err)
						return err
					}
					sending.OK(history.Place{Cluster: from})
				}
				return nil
			}
			var once sync.Once
			delayed := make(chan error, 1)
			o := w.operateOn(filepath.Join(t.TempDir(), "turnout.db"), func(o *migrate.Options) {
				o.Entered = func(_ context.Context, row *store.Migration) {
					if row.State == string(migrate.Draining) {
						once.Do(func() {
							if rocketMQ {
								delayed <- delay()
							} else {
								delayed <- nil
							}
						})
					}
				}
			})
			quiet := w.traffic(client, rec, 2)
			w.applied(from)
			for i := range int64(each) {
				m := &turnout.Message{ID: producer.NewID(), Key: []byte("fails"), Body: strconv.AppendInt(nil, i+1, 10)}
				sending := rec.Send(w.message(m.ID, m.Key, i+1))
				r, err := client.Send(w.ctx(), w.topic, m)
				require.NoError(t, err)
				sending.OK(history.Place{Cluster: r.Cluster, Partition: r.Partition, Offset: r.Offset})
			}
			w.eventually(func() bool { return sub.Stats().Retried >= each }, func() any { return sub.Stats() }, "they are to be repeated")
			var halves []*testenv.Half
			var prepared []history.Message
			accept := []string{}
			if rocketMQ {
				for i := range int64(each) {
					prepared = append(prepared, w.message(producer.NewID(), []byte("half"), i+1))
					halves = append(halves, w.half(from, prepared[i]))
				}
				accept = append(accept, migrate.Transactions)
			}

			move, err := o.Start(w.ctx(), migrate.Plan{Topic: w.topic, To: to, Accept: append(accept, migrate.NotPortable)}, "tester", migrate.StarterApproves)
			require.NoError(t, err)
			require.NoError(t, <-delayed)
			w.eventually(func() bool {
				row, err := o.Get(w.ctx(), move.ID)
				require.NoError(t, err)
				return strings.Contains(row.Waiting, "to be repeated left on "+from)
			}, func() any { return o.story(move.ID) }, "it waits for what is to be repeated")
			fails.Store(false)
			if rocketMQ {
				w.eventually(func() bool {
					row, err := o.Get(w.ctx(), move.ID)
					require.NoError(t, err)
					return strings.Contains(row.Waiting, "transactions are open")
				}, func() any { return o.story(move.ID) }, "it waits for the transactions")
				for i, h := range halves {
					sending := rec.Send(prepared[i])
					require.NoError(t, h.End(w.ctx(), true))
					sending.OK(history.Place{Cluster: from})
				}
			}
			r := o.answered(move.ID, halves...)
			require.Equal(t, store.Done, r.Outcome, o.story(move.ID))
			require.True(t, r.Free, o.story(move.ID))
			require.Zero(t, r.Left[0].Rescued, "all was read where it was")
			require.Equal(t, broker.Pending{}, w.pending(from))
			quiet()
			v := w.verdict(from, to)
			require.NoError(t, v.Err())
			for _, g := range v.Groups {
				for cause, n := range g.Causes { // a member that the machine held up is given some again
					require.Contains(t, []history.Cause{history.Redelivery, history.Ambiguous, history.Rerouted}, cause, "%d: %v", n, v)
				}
			}
			require.Zero(t, client.Stats().Failed)
			t.Log(v)
		}
	}
	withTransactions(t, cases)
}
