package turnout_test

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/turnout-mq/turnout"
	"github.com/turnout-mq/turnout/consumer"
	"github.com/turnout-mq/turnout/metadata"
	"github.com/turnout-mq/turnout/producer"
	"github.com/turnout-mq/turnout/testenv"
	"github.com/turnout-mq/turnout/testenv/history"
	"github.com/turnout-mq/turnout/testenv/rmqserver"
)

// A send that was written and not answered: RocketMQ carries every tenth send out and says nothing. (A Kafka
// broker knows the sequence numbers of its producers: there the repetition stores nothing.)

// dropping is traffic of which every tenth answer is lost.
type dropping struct {
	w       *world
	ordered bool
	client  *turnout.Client
	rec     *history.Recorder
	order   swaps

	mu     sync.Mutex
	begun  int
	faults map[string][]*rmqserver.Injected // by cluster
}

// dropped makes a topic that is on the first of clusters, with a group that reads it.
func (w *world) dropped(ordered bool, clusters ...string) *dropping {
	d := &dropping{w: w, ordered: ordered, faults: map[string][]*rmqserver.Injected{}}
	if ordered {
		w.putOrdered(clusters...)
	} else {
		w.putTopic(clusters...)
		w.putGroup(nil)
	}
	d.rec, d.client = w.recorder("sender"), w.open("order_service")
	receiver, rec := w.open("order_service_consumer"), w.recorder("receiver")
	s, err := receiver.Subscribe(w.ctx(), w.group, func(_ context.Context, m *turnout.Delivery) error {
		seq, err := strconv.ParseInt(string(m.Body), 10, 64)
		handling := rec.Recv(w.group, w.message(m.ID, m.Key, seq), place(m))
		defer handling.Done()
		if ordered {
			d.order.see(string(m.Key), seq)
		}
		return err
	}, consumer.WithLinger(300*time.Millisecond), consumer.WithRecheck(time.Second))
	require.NoError(w.t, err)
	require.NoError(w.t, s.Ready(w.ctx()))
	d.writesTo(clusters[0])
	return d
}

// writesTo waits until everybody has applied a route that writes to cluster.
func (d *dropping) writesTo(cluster string) {
	d.w.t.Helper()
	d.w.eventually(func() bool {
		node, err := d.w.store.Read(d.w.ctx(), d.w.store.RoutePath(d.w.topic))
		require.NoError(d.w.t, err)
		if !node.Exists {
			return false
		}
		r, err := metadata.ParseRoute(node.Data)
		require.NoError(d.w.t, err)
		if r.Write != cluster || (r.Order == metadata.OrderKey) != d.ordered {
			return false
		}
		all := d.w.participants()
		return len(all) > 0 && !slices.ContainsFunc(all, func(p metadata.Participant) bool { return p.Zxid != node.Mzxid })
	}, func() any { return d.w.participants() }, "everybody writes to %s", cluster)
}

// before is called before each send. Of every tenth to RocketMQ the broker drops the answer, or that of another one of this
// moment.
func (d *dropping) before(cluster string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	server := d.w.env.EmbeddedRocketMQ(cluster)
	if d.begun++; d.begun%10 != 0 || server == nil {
		return nil
	}
	fault, err := server.Inject(rmqserver.Fault{Codes: rmqserver.SendCodes, Topic: d.w.topic, DropAnswer: true, Count: 1})
	d.faults[cluster] = append(d.faults[cluster], fault)
	return err
}

// lost is how many answers of a cluster were dropped.
func (d *dropping) lost(cluster string) (n int) {
	d.mu.Lock()
	faults := slices.Clone(d.faults[cluster])
	d.mu.Unlock()
	for _, f := range faults {
		n += f.Hits()
	}
	return n
}

// sender is one key, or the messages without one, and the cluster that the last of them went to.
type sender struct {
	*dropping
	key   []byte
	async bool

	mu      sync.Mutex
	cluster string
}

// send sends message number seq and calls done when it has ended; with Send that is before it returns.
func (s *sender) send(seq int64, done func()) {
	s.mu.Lock()
	cluster := s.cluster
	s.mu.Unlock()
	if err := s.before(cluster); err != nil {
		s.w.t.Error(err)
	}
	m := &turnout.Message{ID: producer.NewID(), Key: s.key, Body: strconv.AppendInt(nil, seq, 10)}
	sending := s.rec.Send(s.w.message(m.ID, m.Key, seq))
	ended := func(r turnout.SendResult, err error) {
		defer done()
		if err != nil {
			sending.Unknown(err)
			return
		}
		sending.OK(history.Place{Cluster: r.Cluster, Partition: r.Partition, Offset: r.Offset})
		s.mu.Lock()
		s.cluster = r.Cluster
		s.mu.Unlock()
	}
	if s.async {
		s.client.SendAsync(context.Background(), s.w.topic, m, ended)
	} else {
		ended(s.client.Send(context.Background(), s.w.topic, m))
	}
}

const senders = 64

// traffic sends from that many goroutines, half of them without waiting, each as long as more says so of the number of its next message;
// the function that it returns waits for all of them and their sends.
func (d *dropping) traffic(cluster string, more func(seq int64) bool) (wait func()) {
	var wg sync.WaitGroup
	for i := range senders {
		s := &sender{dropping: d, async: i%2 == 0, cluster: cluster}
		if d.ordered || i%4 < 2 {
			s.key = fmt.Appendf(nil, "key-%d", i)
		}
		wg.Go(func() {
			room := make(chan struct{}, 8)
			tick := time.NewTicker(10 * pace())
			defer tick.Stop()
			for seq := int64(1); more(seq); seq++ {
				<-tick.C
				room <- struct{}{}
				s.send(seq, func() { <-room })
			}
			for range cap(room) {
				room <- struct{}{}
			}
		})
	}
	return wg.Wait
}

// duplicatesAtWorst sees that everything was handled, and that each lost answer has made a duplicate of the same id.
func (d *dropping) duplicatesAtWorst(clusters ...string) (causes map[history.Cause]int) {
	d.w.t.Helper()
	d.w.nothingLeft(clusters...)
	var v history.Verdict
	d.w.eventually(func() bool {
		events, err := history.Load(d.w.dir)
		require.NoError(d.w.t, err)
		v = history.Check(events, history.Options{Groups: []history.Group{{Name: d.w.group, Ordered: d.ordered}}})
		return v.Count(history.Lost) == 0 && v.Count(history.Unfinished) == 0
	}, func() any { return v }, "nothing is lost")
	d.w.t.Log(v)
	require.NoError(d.w.t, v.Err())
	require.Len(d.w.t, v.Groups, 1)
	require.Equal(d.w.t, v.Sent, v.Groups[0].Handled)
	lost := 0
	for _, cluster := range clusters {
		lost += d.lost(cluster)
	}
	causes = v.Groups[0].Causes
	require.GreaterOrEqual(d.w.t, causes[history.Ambiguous]+causes[history.Rerouted], lost, "each lost answer has stored its message once more: %v", causes)
	if d.ordered {
		d.order.none(d.w.t)
	}
	return causes
}

// withDroppedAnswers runs f in an environment of its own; only embedded brokers drop answers.
func withDroppedAnswers(t *testing.T, f func(t *testing.T, w *world)) {
	spec := testenv.Spec{ZooKeeper: 1, Kafka: []string{"kafka-a"}, RocketMQ: []string{"rocketmq-a", "rocketmq-b"}}
	testenv.EachOf(t, spec, []testenv.Backend{testenv.Embedded}, func(t *testing.T, env *testenv.Env) {
		f(t, newWorld(t, env, "kafka-a", "rocketmq-a", "rocketmq-b"))
	})
}

func TestASendWithoutAnswerIsADuplicateAtWorst(t *testing.T) {
	t.Parallel()
	for _, ordered := range []bool{false, true} {
		t.Run(map[bool]string{false: "unordered", true: "ordered"}[ordered], func(t *testing.T) {
			t.Parallel()
			withDroppedAnswers(t, func(t *testing.T, w *world) {
				d := w.dropped(ordered, "rocketmq-a")
				d.traffic("rocketmq-a", func(seq int64) bool { return seq <= 10 })()
				require.Equal(t, senders, d.lost("rocketmq-a"), "one in ten")
				d.duplicatesAtWorst("rocketmq-a")
			})
		})
	}
}

// The topic moves to another cluster, to one of the other kind, and back, while answers are lost: a message whose answer was
// lost before a move is sent again after it, to the next cluster.
func TestASendWithoutAnswerDuringAMoveIsADuplicateAtWorst(t *testing.T) {
	t.Parallel()
	withDroppedAnswers(t, func(t *testing.T, w *world) {
		clusters := []string{"rocketmq-a", "rocketmq-b", "kafka-a"}
		d := w.dropped(false, clusters...)
		stop := make(chan struct{})
		wait := d.traffic("rocketmq-a", func(int64) bool {
			select {
			case <-stop:
				return false
			default:
				return true
			}
		})
		end := sync.OnceFunc(func() { close(stop); wait() })
		t.Cleanup(end)
		for _, cluster := range []string{"rocketmq-a", "rocketmq-b", "kafka-a", "rocketmq-a"} {
			w.edit(cluster)
			d.writesTo(cluster)
			if before := d.lost(cluster); cluster != "kafka-a" {
				w.eventually(func() bool { return d.lost(cluster) >= before+20 }, nil, "answers of %s are lost", cluster)
			}
		}
		end()
		causes := d.duplicatesAtWorst(clusters...)
		require.Positive(t, causes[history.Rerouted], "the second copy is on the next cluster")
	})
}
