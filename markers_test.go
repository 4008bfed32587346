package turnout_test

import (
	"strings"
	"testing"
	"time"

	"github.com/IBM/sarama"
	"github.com/stretchr/testify/require"

	"github.com/turnout-mq/turnout/admin/migrate"
	"github.com/turnout-mq/turnout/admin/store"
	"github.com/turnout-mq/turnout/broker"
	"github.com/turnout-mq/turnout/consumer"
	"github.com/turnout-mq/turnout/metadata"
)

// beginTransaction stores bodies on a cluster, one on each partition, as another program does that uses transactions; commit ends
// that.
func (w *world) beginTransaction(cluster string, bodies ...string) (commit func()) {
	w.t.Helper()
	conf := sarama.NewConfig()
	conf.Version = sarama.V2_8_0_0
	conf.Net.MaxOpenRequests = 1
	conf.Producer.Idempotent = true
	conf.Producer.RequiredAcks = sarama.WaitForAll
	conf.Producer.Return.Successes = true
	conf.Producer.Partitioner = sarama.NewManualPartitioner
	conf.Producer.Transaction.ID = w.topic
	p, err := sarama.NewSyncProducer(w.env.Addresses(cluster), conf)
	require.NoError(w.t, err)
	require.NoError(w.t, p.BeginTxn())
	for i, body := range bodies {
		_, _, err := p.SendMessage(&sarama.ProducerMessage{Topic: w.topic, Partition: int32(i), Key: sarama.StringEncoder(body), Value: sarama.StringEncoder(body)})
		require.NoError(w.t, err)
	}
	return func() {
		w.t.Helper()
		require.NoError(w.t, p.CommitTxn())
		require.NoError(w.t, p.Close())
		w.with(cluster, func(c broker.Cluster) {
			w.eventually(func() bool {
				open, err := c.OpenTransactions(w.ctx(), w.topic)
				return err == nil && len(open) == 0
			}, nil, "the markers of the transaction are there")
		})
	}
}

// A fence would keep the markers of a transaction from being stored, and they are not stored later.
func TestAMoveWaitsForTransactionsToEnd(t *testing.T) {
	eachMove(t, func(t *testing.T, m *moving) {
		commit := m.w.beginTransaction("kafka-a", "0")
		plan := migrate.Plan{Topic: m.w.topic, To: "kafka-b", Ordered: m.ordered, Accept: []string{migrate.ForeignWriters}}
		_, err := m.Start(m.w.ctx(), plan, "tester", migrate.StarterApproves)
		require.ErrorContains(t, err, "--accept "+migrate.Transactions)
		plan.Accept = append(plan.Accept, migrate.Transactions)
		move := m.start(plan)
		m.w.eventually(func() bool {
			row, err := m.Get(m.w.ctx(), move.ID)
			require.NoError(t, err)
			return strings.Contains(row.Waiting, "transactions are open")
		}, func() any { return m.story(move.ID) }, "it waits for the transaction")
		require.False(t, m.w.fenced("kafka-a"))
		commit()
		require.Equal(t, store.Done, m.ended(move.ID).Outcome, m.story(move.ID))
		m.quiet()
		require.True(t, m.w.fenced("kafka-a"))
	})
}

// Nobody reads the markers that transactions leave, so the positions of a group stay below the end.
func TestGroupFinishesAClusterThatEndsInMarkersOfTransactions(t *testing.T) {
	for name, order := range map[string]metadata.Order{"unordered": metadata.OrderNone, "ordered": metadata.OrderKey} {
		t.Run(name, func(t *testing.T) {
			each(t, func(t *testing.T, w *world) {
				w.putTopic("kafka-a", "kafka-b")
				w.putGroup(func(g *metadata.Group) { g.Order = order })
				client := w.open("order_service")
				w.send(client, "a")
				w.beginTransaction("kafka-a", "t1", "t2", "t3")()
				seal := w.seal("kafka-a")
				w.storeOn("kafka-b", "b")
				w.acked(w.change(func(r *metadata.Route) {
					r.Write, r.Order = "kafka-b", order
					r.Stays = []metadata.Stay{{Cluster: "kafka-a"}, {Cluster: "kafka-b", Start: broker.Offsets{}}}
					if order == metadata.OrderKey {
						r.Stays[0].End = seal
					}
				}))
				var in inbox
				s, err := client.Subscribe(w.ctx(), w.group, in.listen, consumer.WithLinger(100*time.Millisecond), consumer.WithRecheck(200*time.Millisecond))
				require.NoError(t, err)
				require.NoError(t, s.Ready(w.ctx()))
				w.has(&in, "a", "t1", "t2", "t3", "b")
				w.participant(func(p metadata.Participant) bool {
					return p.Groups[w.group]["kafka-a"] == metadata.Finished && p.Groups[w.group]["kafka-b"] == metadata.Attached
				}, "a finished, b attached")
				w.eventually(func() bool { return len(w.members("kafka-a")) == 0 }, nil, "the group leaves kafka-a")
				require.False(t, w.positions("kafka-a").Reached(seal), "the markers are not read")

				w.storeOn("kafka-a", "late") // behind the markers
				w.send(client, "b2")
				w.has(&in, "b2")
				if order != metadata.OrderKey { // a sealed stay of an ordered topic is not read again
					w.has(&in, "late")
				}
			})
		})
	}
}
