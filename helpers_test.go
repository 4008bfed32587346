package turnout_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/IBM/sarama"
	"github.com/go-zookeeper/zk"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"github.com/turnout-mq/turnout"
	"github.com/turnout-mq/turnout/broker"
	"github.com/turnout-mq/turnout/metadata"
	"github.com/turnout-mq/turnout/producer"
	"github.com/turnout-mq/turnout/testenv"
	"github.com/turnout-mq/turnout/testenv/history"
)

// patience is for a machine that has much else to do.
const patience = 2 * time.Minute

// eventually polls until ok; state is asked for what is there when it never is.
func (w *world) eventually(ok func() bool, state func() any, what string, args ...any) {
	w.t.Helper()
	deadline := time.Now().Add(patience)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		if time.Now().After(deadline) {
			got := any("")
			if state != nil {
				got = state()
			}
			require.FailNow(w.t, fmt.Sprintf(what, args...), "%+v", got)
		}
		<-tick.C
	}
}

// participant waits until the only participant of the topic is as ok says, and returns it.
func (w *world) participant(ok func(p metadata.Participant) bool, what string, args ...any) (found metadata.Participant) {
	w.t.Helper()
	w.eventually(func() bool {
		all := w.participants()
		if len(all) != 1 {
			return false
		}
		found = all[0]
		return ok(found)
	}, func() any { return w.participants() }, what, args...)
	return found
}

// says waits until the only participant reports a trouble with text in it.
func (w *world) says(text string) {
	w.t.Helper()
	w.participant(func(p metadata.Participant) bool { return strings.Contains(p.Error, text) }, "the participant says %q", text)
}

// change writes another route, as the controller would, and returns its mzxid.
func (w *world) change(edit func(r *metadata.Route)) metadata.Zxid {
	w.t.Helper()
	path := w.store.RoutePath(w.topic)
	var node metadata.Node
	w.eventually(func() bool {
		var err error
		node, err = w.store.Read(w.ctx(), path)
		require.NoError(w.t, err)
		return node.Exists
	}, nil, "topic %s has a route", w.topic)
	r, err := metadata.ParseRoute(node.Data)
	require.NoError(w.t, err)
	edit(&r)
	require.NoError(w.t, r.Validate())
	data, err := json.Marshal(r)
	require.NoError(w.t, err)
	require.NoError(w.t, w.store.Set(w.ctx(), path, data, node.Version))
	return w.mzxid(path)
}

func (w *world) mzxid(path string) metadata.Zxid {
	w.t.Helper()
	node, err := w.store.Read(w.ctx(), path)
	require.NoError(w.t, err)
	return node.Mzxid
}

// acked waits until every participant has acknowledged the route with that mzxid.
func (w *world) acked(zxid metadata.Zxid) {
	w.t.Helper()
	w.eventually(func() bool {
		all := w.participants()
		for _, p := range all {
			if p.Zxid != zxid {
				return false
			}
		}
		return len(all) > 0
	}, func() any { return w.participants() }, "all have acknowledged %s", zxid)
}

// send sends one message and returns the cluster that has it.
func (w *world) send(c *turnout.Client, body string) (cluster string) {
	w.t.Helper()
	r, err := c.Send(w.ctx(), w.topic, &turnout.Message{Key: []byte("k"), Body: []byte(body)})
	require.NoError(w.t, err)
	return r.Cluster
}

// sending is a send in a goroutine.
type sending struct {
	result chan turnout.SendResult
	err    chan error
}

func (w *world) sending(ctx context.Context, c *turnout.Client, m *turnout.Message) sending {
	s := sending{make(chan turnout.SendResult, 1), make(chan error, 1)}
	go func() {
		r, err := c.Send(ctx, w.topic, m)
		s.result <- r
		s.err <- err
	}()
	return s
}

// done says what came of it.
func (w *world) done(s sending) (turnout.SendResult, error) {
	w.t.Helper()
	select {
	case r := <-s.result:
		return r, <-s.err
	case <-time.After(patience):
		require.FailNow(w.t, "the send does not end")
		panic("not reached")
	}
}

// inbox collects the bodies that a listener was given, in order.
type inbox struct {
	mu  sync.Mutex
	all []turnout.Delivery
}

func (b *inbox) listen(_ context.Context, d *turnout.Delivery) error {
	b.add(d)
	return nil
}

func (b *inbox) add(d *turnout.Delivery) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.all = append(b.all, *d)
}

func (b *inbox) deliveries() []turnout.Delivery {
	b.mu.Lock()
	defer b.mu.Unlock()
	return append([]turnout.Delivery(nil), b.all...)
}

func (b *inbox) bodies() []string {
	var all []string
	for _, d := range b.deliveries() {
		all = append(all, string(d.Body))
	}
	return all
}

// has waits until all of the bodies are there.
func (w *world) has(b *inbox, bodies ...string) {
	w.t.Helper()
	w.eventually(func() bool {
		there := map[string]bool{}
		for _, body := range b.bodies() {
			there[body] = true
		}
		for _, body := range bodies {
			if !there[body] {
				return false
			}
		}
		return true
	}, func() any { return b.bodies() }, "%v were handled", bodies)
}

// store puts messages into the topic on a cluster, past any route.
func (w *world) storeOn(cluster string, bodies ...string) {
	w.t.Helper()
	w.with(cluster, func(c broker.Cluster) {
		for _, body := range bodies {
			m := &broker.Envelope{Message: broker.Message{Key: []byte("k"), Body: []byte(body)}}
			stored := make(chan error, 1)
			c.Send(w.ctx(), w.topic, m, func(_ broker.Receipt, err error) { stored <- err })
			require.NoError(w.t, <-stored)
		}
	})
}

func (w *world) ends(cluster string) (ends broker.Offsets) {
	w.t.Helper()
	w.with(cluster, func(c broker.Cluster) {
		var err error
		w.eventually(func() bool { // a topic that was just created may have no leader for a moment
			ends, err = c.EndOffsets(w.ctx(), w.topic)
			return err == nil
		}, func() any { return err }, "%s tells where the topic ends", cluster)
	})
	return ends
}

func (w *world) positions(cluster string) (positions broker.Offsets) {
	w.t.Helper()
	w.with(cluster, func(c broker.Cluster) {
		var err error
		positions, err = c.Positions(w.ctx(), w.group, w.topic)
		require.NoError(w.t, err)
	})
	return positions
}

func (w *world) members(cluster string) (members []string) {
	w.t.Helper()
	w.with(cluster, func(c broker.Cluster) {
		var err error
		members, err = c.GroupMembers(w.ctx(), w.group)
		require.NoError(w.t, err)
	})
	return members
}

func (w *world) createTopic(cluster string) {
	w.t.Helper()
	w.with(cluster, func(c broker.Cluster) {
		require.NoError(w.t, c.CreateTopic(w.ctx(), w.topic, broker.TopicSpec{Partitions: 4}))
	})
}

// setConfig sets, or with "" takes back, a setting of the topic on a Kafka cluster.
func (w *world) setConfig(cluster, name, value string) {
	w.t.Helper()
	conf := sarama.NewConfig()
	conf.Version = sarama.V2_8_0_0
	admin, err := sarama.NewClusterAdmin(w.env.Addresses(cluster), conf)
	require.NoError(w.t, err)
	defer func() { require.NoError(w.t, admin.Close()) }()
	entry := sarama.IncrementalAlterConfigsEntry{Operation: sarama.IncrementalAlterConfigsOperationSet, Value: &value}
	if value == "" {
		entry = sarama.IncrementalAlterConfigsEntry{Operation: sarama.IncrementalAlterConfigsOperationDelete}
	}
	require.NoError(w.t, admin.IncrementalAlterConfig(sarama.TopicResource, w.topic, map[string]sarama.IncrementalAlterConfigsEntry{name: entry}, false))
}

// fence makes a Kafka cluster refuse writers of the topic, and waits until it does.
func (w *world) fence(cluster string) {
	w.t.Helper()
	w.setConfig(cluster, "max.message.bytes", "0")
	w.with(cluster, func(c broker.Cluster) {
		w.eventually(func() bool {
			refused := make(chan error, 1)
			c.Send(w.ctx(), w.topic, &broker.Envelope{Message: broker.Message{Key: []byte("fence"), Body: []byte("-1")}},
				func(_ broker.Receipt, err error) { refused <- err })
			err := <-refused
			return err != nil && c.Classify(err) == broker.Refused
		}, nil, "the fence on %s acts", cluster)
	})
}

func (w *world) unfence(cluster string) {
	w.t.Helper()
	w.setConfig(cluster, "max.message.bytes", "")
}

// raw opens a session of ZooKeeper's client library, for what a Store refuses to write.
func (w *world) raw() *zk.Conn {
	w.t.Helper()
	conn, events, err := zk.Connect(strings.Split(w.env.ZooKeeper(), ","), time.Minute, zk.WithLogger(quiet{}))
	require.NoError(w.t, err)
	ready, over := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(over)
		once := sync.OnceFunc(func() { close(ready) })
		for e := range events {
			if e.State == zk.StateHasSession {
				once()
			}
		}
	}()
	w.t.Cleanup(func() { conn.Close(); <-over })
	select {
	case <-ready: // before that a server that is slow to take the connection fails what is asked
	case <-time.After(patience):
		require.FailNow(w.t, "no session of ZooKeeper")
	}
	return conn
}

type quiet struct{}

func (quiet) Printf(string, ...any) {}

// write puts any bytes into a node, which is made when it is not there.
func (w *world) write(path string, data []byte) {
	w.t.Helper()
	conn := w.raw()
	_, err := conn.Set(path, data, -1)
	if errors.Is(err, zk.ErrNoNode) {
		_, err = conn.Create(path, data, 0, zk.WorldACL(zk.PermAll))
	}
	require.NoError(w.t, err)
}

// observed makes the clients that are opened from now on log into what it returns, from level on.
func (w *world) observed(level zapcore.Level) *observer.ObservedLogs {
	core, logs := observer.New(level)
	w.log = zap.New(zapcore.NewTee(core, w.log.Core()))
	return logs
}

// message is what the history keeps of one.
func (w *world) message(id string, key []byte, seq int64) history.Message {
	return history.Message{ID: id, Topic: w.topic, Key: history.Key(key), Seq: seq}
}

func place(d *turnout.Delivery) history.Place {
	return history.Place{Cluster: d.Cluster, Partition: d.Partition, Offset: d.Offset, Attempt: d.Attempt}
}

// asyncTraffic sends with SendAsync, one goroutine a key, at most 32 at once each, until stop is called.
func (w *world) asyncTraffic(c *turnout.Client, rec *history.Recorder, n int) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			room := make(chan struct{}, 32)
			var open sync.WaitGroup
			defer open.Wait()
			tick := time.NewTicker(pace())
			defer tick.Stop()
			for seq := int64(1); ctx.Err() == nil; seq++ {
				<-tick.C
				m := &turnout.Message{ID: producer.NewID(), Key: fmt.Appendf(nil, "async-%d", i), Body: strconv.AppendInt(nil, seq, 10)}
				sending := rec.Send(w.message(m.ID, m.Key, seq))
				send, done := context.WithTimeout(context.Background(), patience)
				room <- struct{}{}
				open.Add(1)
				c.SendAsync(send, w.topic, m, func(r turnout.SendResult, err error) {
					switch {
					case errors.Is(err, context.DeadlineExceeded):
						sending.Unknown(err)
					case err != nil:
						sending.Fail(err)
					default:
						sending.OK(history.Place{Cluster: r.Cluster, Partition: r.Partition, Offset: r.Offset})
						w.answers.add(r.Cluster)
					}
					done()
					<-room
					open.Done()
				})
			}
		})
	}
	return func() { cancel(); wg.Wait() }
}

// orderedVerdict is verdict for a group that keeps the order of keys.
func (w *world) orderedVerdict(clusters ...string) history.Verdict {
	w.t.Helper()
	w.nothingLeft(clusters...)
	var v history.Verdict
	w.eventually(func() bool {
		events, err := history.Load(w.dir)
		require.NoError(w.t, err)
		v = history.Check(events, history.Options{Groups: []history.Group{{Name: w.group, Ordered: true}}})
		return v.Count(history.Lost) == 0
	}, func() any { return v }, "nothing is lost")
	return v
}

var worlds atomic.Int64

// worldName makes a name for root, topic and group of a test, another one each time.
func worldName(test string) string {
	name, _, _ := strings.Cut(test, "/")
	return fmt.Sprintf("%.70s-%d", name, worlds.Add(1))
}

// own runs f in an environment that no other test uses meanwhile, for tests that break something in it: one of its own
// if that is embedded; the shared one, mended afterwards, if it is of servers, which take long to start.
func own(t *testing.T, spec testenv.Spec, f func(t *testing.T, w *world)) {
	backends, err := testenv.Backends()
	require.NoError(t, err)
	if !slices.Contains(backends, testenv.Servers) {
		t.Parallel()
	}
	if spec.ZooKeeper > 1 {
		testenv.Each(t, spec, func(t *testing.T, env *testenv.Env) { f(t, newWorld(t, env, spec.Kafka...)) })
		return
	}
	testenv.EachOf(t, spec, []testenv.Backend{testenv.Embedded}, func(t *testing.T, env *testenv.Env) { f(t, newWorld(t, env, spec.Kafka...)) })
	if slices.Contains(backends, testenv.Servers) {
		t.Run(string(testenv.Servers), func(t *testing.T) {
			env := sharedEnv(t, testenv.Servers, kafkasSpec)
			defer func() {
				ctx, cancel := context.WithTimeout(context.Background(), 2*patience)
				defer cancel()
				require.NoError(t, env.Mend(ctx))
			}()
			f(t, newWorld(t, env, spec.Kafka...))
		})
	}
}

// instances are the sessions of an application's instances.
func (w *world) instances(app string) (sessions []int64) {
	w.t.Helper()
	names, err := w.store.Children(w.ctx(), w.store.InstancesPath(app))
	if !errors.Is(err, turnout.ErrNotFound) {
		require.NoError(w.t, err)
	}
	for _, name := range names {
		node, err := w.store.Read(w.ctx(), w.store.InstancePath(app, name))
		require.NoError(w.t, err)
		if node.Exists {
			sessions = append(sessions, node.EphemeralOwner)
		}
	}
	return sessions
}

// session is that of the application's only instance.
func (w *world) session(app string) int64 {
	w.t.Helper()
	var found []int64
	w.eventually(func() bool { found = w.instances(app); return len(found) == 1 }, func() any { return found }, "one instance of %s", app)
	return found[0]
}

// expire ends a session of ZooKeeper.
func (w *world) expire(session int64) {
	w.t.Helper()
	require.NoError(w.t, w.env.ExpireSession(w.ctx(), session))
}

// requests is how many packets ZooKeeper has received.
func (w *world) requests() int {
	w.t.Helper()
	conn, err := net.Dial("tcp", w.env.ZooKeeper())
	require.NoError(w.t, err)
	defer func() { require.NoError(w.t, conn.Close()) }()
	_, err = conn.Write([]byte("srvr"))
	require.NoError(w.t, err)
	text, err := io.ReadAll(conn)
	require.NoError(w.t, err)
	var n int
	_, after, found := strings.Cut(string(text), "Received: ")
	require.True(w.t, found, "%s", text)
	_, err = fmt.Sscan(after, &n)
	require.NoError(w.t, err)
	return n
}
