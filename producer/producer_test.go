package producer_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"go.uber.org/zap"

	"github.com/turnout-mq/turnout/broker"
	"github.com/turnout-mq/turnout/internal/clusters"
	"github.com/turnout-mq/turnout/internal/clusters/clustertest"
	"github.com/turnout-mq/turnout/internal/errs"
	"github.com/turnout-mq/turnout/internal/topics"
	"github.com/turnout-mq/turnout/metadata"
	"github.com/turnout-mq/turnout/producer"
	"github.com/turnout-mq/turnout/testenv"
)

var (
	env   *testenv.Env
	roots atomic.Int64
)

func TestMain(m *testing.M) {
	var err error
	if env, err = testenv.Start(context.Background(), testenv.Spec{ZooKeeper: 1}); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	code := m.Run()
	if err := errors.Join(env.Close(), goleak.Find()); err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

const topic = "orders"

// rig is a producer over clusters a and b, whose answers the test decides; the topic is on a.
type rig struct {
	*testing.T
	store    *metadata.Store
	driver   *clustertest.Driver
	producer *producer.Producer
	instance string
}

func newRig(t *testing.T, order metadata.Order, driver *clustertest.Driver) *rig {
	t.Parallel()
	store, err := metadata.Open(metadata.Config{ZooKeeper: env.ZooKeeper(), Root: fmt.Sprintf("/%d", roots.Add(1)), SessionTimeout: time.Minute})
	require.NoError(t, err)
	pool := clusters.NewPool(store, driver.Open, "test", time.Minute, zap.NewNop())
	instance := metadata.NewInstanceID()
	set := topics.NewSet(store, pool, instance, zap.NewNop())
	r := &rig{t, store, driver, producer.New(set, pool, zap.NewNop()), instance}
	t.Cleanup(func() {
		require.NoError(t, r.producer.Close(r.ctx()))
		require.NoError(t, set.Close(r.ctx()))
		require.NoError(t, pool.Close(r.ctx()))
		require.NoError(t, store.Close(context.Background()))
	})
	for _, name := range []string{"a", "b"} {
		r.create(store.ClusterPath(name), metadata.Cluster{V: 1, Kind: broker.Kafka, Addresses: []string{"h:1"}})
	}
	r.create(store.TopicPath(topic), metadata.Wish{Cluster: "a"})
	node, err := store.Read(r.ctx(), store.TopicPath(topic))
	require.NoError(t, err)
	r.create(store.RoutePath(topic), metadata.Route{V: 1, Wish: metadata.WishRef{Czxid: node.Czxid}, Write: "a", Order: order,
		Stays: []metadata.Stay{{Cluster: "a"}, {Cluster: "b", Start: broker.Offsets{}}}})
	return r
}

func (r *rig) ctx() context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	r.Cleanup(cancel)
	return ctx
}

func (r *rig) create(path string, doc any) {
	r.Helper()
	data, err := json.Marshal(doc)
	require.NoError(r, err)
	require.NoError(r, r.store.Create(r.ctx(), path, data))
}

// write makes another cluster the one that is written, and returns the number of that route.
func (r *rig) write(cluster string) metadata.Zxid {
	r.Helper()
	node, err := r.store.Read(r.ctx(), r.store.RoutePath(topic))
	require.NoError(r, err)
	route, err := metadata.ParseRoute(node.Data)
	require.NoError(r, err)
	route.Write = cluster
	data, err := json.Marshal(route)
	require.NoError(r, err)
	require.NoError(r, r.store.Set(r.ctx(), node.Path, data, node.Version))
	node, err = r.store.Read(r.ctx(), r.store.RoutePath(topic))
	require.NoError(r, err)
	return node.Mzxid
}

func (r *rig) registered() bool {
	r.Helper()
	node, err := r.store.Read(r.ctx(), r.store.ParticipantPath(topic, r.instance))
	require.NoError(r, err)
	return node.Exists
}

func (r *rig) participant() metadata.Participant {
	r.Helper()
	node, err := r.store.Read(r.ctx(), r.store.ParticipantPath(topic, r.instance))
	require.NoError(r, err)
	if !node.Exists {
		return metadata.Participant{}
	}
	p, err := metadata.ParseParticipant(node.Data)
	require.NoError(r, err)
	return p
}

// eventually polls until ok, which may fail the test: it runs in the test's goroutine.
func (r *rig) eventually(ok func() bool, what string) {
	r.Helper()
	deadline := time.Now().Add(time.Minute)
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		if time.Now().After(deadline) {
			require.FailNow(r, "never: "+what)
		}
		<-tick.C
	}
}

// cluster is the open connection to one.
func (r *rig) cluster(name string) *clustertest.Cluster {
	for _, c := range r.driver.Opened() {
		if c.Config.Name == name && !c.Closed() {
			return c
		}
	}
	return nil
}

func message(key, body string) *broker.Message {
	return &broker.Message{Key: []byte(key), Body: []byte(body)}
}

func bodies(c *clustertest.Cluster) (all []string) {
	for _, m := range c.Stored() {
		all = append(all, string(m.Body))
	}
	return all
}

// waiting are sends that a driver was given and has not answered.
type waiting struct {
	mu  sync.Mutex
	all []*pending
}

type pending struct {
	c    *clustertest.Cluster
	m    *broker.Envelope
	done func(broker.Receipt, error)
}

func (w *waiting) onSend(c *clustertest.Cluster, _ string, m *broker.Envelope, done func(broker.Receipt, error)) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.all = append(w.all, &pending{c, m, done})
}

// take waits until the message with that body is with the driver, and takes it.
func (r *rig) take(w *waiting, body string) (found *pending) {
	r.Helper()
	r.eventually(func() bool {
		w.mu.Lock()
		defer w.mu.Unlock()
		for i, p := range w.all {
			if string(p.m.Body) == body {
				found = p
				w.all = append(w.all[:i:i], w.all[i+1:]...)
				return true
			}
		}
		return false
	}, body+" is with the driver")
	return found
}

func (w *waiting) bodies() (all []string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, p := range w.all {
		all = append(all, string(p.m.Body))
	}
	return all
}

func (p *pending) ok()             { p.done(p.c.Store(p.m), nil) }
func (p *pending) fail(err error)  { p.done(broker.Receipt{}, err) }
func (p *pending) cluster() string { return p.c.Config.Name }

var errTransient = errors.New("no answer")

func TestSendsOfAKeyWaitBehindOneThatHasToBeRepeated(t *testing.T) {
	w := &waiting{}
	r := newRig(t, metadata.OrderKey, &clustertest.Driver{OnSend: w.onSend})
	results := make(chan error, 10)
	send := func(key, body string) {
		r.producer.SendAsync(r.ctx(), topic, message(key, body), func(_ producer.Result, err error) { results <- err })
	}
	for _, body := range []string{"1", "2", "3"} {
		send("k", body)
	}
	send("other", "4")
	r.take(w, "4").ok()
	for range 3 {
		one := r.take(w, "1")
		require.Empty(t, w.bodies(), "2 and 3 wait")
		one.fail(errTransient)
	}
	r.take(w, "1").ok()
	r.take(w, "2").fail(clustertest.ErrFatal)
	r.take(w, "3").fail(errTransient)
	send("k", "5")
	r.take(w, "3").ok()
	r.take(w, "5").ok()
	failed := 0
	for range 5 {
		if <-results != nil {
			failed++
		}
	}
	require.Equal(t, 1, failed, "2 alone")
	require.Equal(t, []string{"4", "1", "3", "5"}, bodies(r.cluster("a")))
	require.Equal(t, int64(4), r.producer.Stats().Retried)
}

func TestSendsOfAKeyDoNotOvertakeEachOtherAtASwitch(t *testing.T) {
	w := &waiting{}
	r := newRig(t, metadata.OrderKey, &clustertest.Driver{OnSend: w.onSend})
	results := make(chan error, 10)
	send := func(key, body string) {
		r.producer.SendAsync(r.ctx(), topic, message(key, body), func(_ producer.Result, err error) { results <- err })
	}
	send("k", "1")
	send("k", "2")
	one := r.take(w, "1")
	r.write("b")
	r.eventually(func() bool { return r.participant().Write == "b" }, "switched")
	send("k", "3")
	send("other", "4")
	four := r.take(w, "4")
	require.Equal(t, "b", four.cluster())
	four.ok()
	require.Empty(t, w.bodies(), "2 and 3 wait for what is under way on a")
	require.Equal(t, map[string]int64{"a": 1}, r.participant().Inflight)
	one.fail(errTransient)
	for _, body := range []string{"1", "2", "3"} {
		p := r.take(w, body)
		require.Equal(t, "b", p.cluster())
		p.ok()
	}
	for range 4 {
		require.NoError(t, <-results)
	}
	require.Equal(t, []string{"4", "1", "2", "3"}, bodies(r.cluster("b")))
	require.Equal(t, int64(1), r.producer.Stats().Rerouted)
}

// A key with a thousand sends behind the one under way takes no more until there is room, and nothing of the wait counts as
// under way: the route moves on, and is acknowledged.
func TestKeyWithTooManySendsMakesSendAsyncWait(t *testing.T) {
	w := &waiting{}
	var free atomic.Bool
	r := newRig(t, metadata.OrderKey, &clustertest.Driver{OnSend: func(c *clustertest.Cluster, topic string, m *broker.Envelope, done func(broker.Receipt, error)) {
		if free.Load() {
			done(c.Store(m), nil)
			return
		}
		w.onSend(c, topic, m, done)
	}})
	const most, n = 1025, 1030
	var begun, called atomic.Int64
	var sender sync.WaitGroup
	sender.Go(func() {
		for i := range n {
			r.producer.SendAsync(r.ctx(), topic, message("k", fmt.Sprintf("%04d", i)), func(_ producer.Result, err error) {
				if err != nil {
					t.Error(err)
				}
				called.Add(1)
			})
			begun.Add(1)
		}
	})
	first := r.take(w, "0000")
	r.eventually(func() bool { return begun.Load() == most }, "so many are taken")
	zxid := r.write("b")
	r.eventually(func() bool { return r.participant().Write == "b" }, "switched")
	require.Equal(t, map[string]int64{"a": 1}, r.participant().Inflight)
	require.Equal(t, int64(most), begun.Load())
	free.Store(true)
	first.ok()
	sender.Wait()
	r.eventually(func() bool { return called.Load() == n }, "each is answered")
	r.eventually(func() bool { return r.participant().Zxid == zxid }, "acknowledged")
	require.Equal(t, []string{"0000"}, bodies(r.cluster("a")))
	for i, body := range bodies(r.cluster("b")) {
		require.Equal(t, fmt.Sprintf("%04d", i+1), body)
	}
}

func TestUnorderedSendsDoNotWaitForEachOther(t *testing.T) {
	w := &waiting{}
	r := newRig(t, metadata.OrderNone, &clustertest.Driver{OnSend: w.onSend})
	results := make(chan error, 10)
	for _, body := range []string{"1", "2"} {
		r.producer.SendAsync(r.ctx(), topic, message("k", body), func(_ producer.Result, err error) { results <- err })
	}
	r.take(w, "1").fail(errTransient)
	r.take(w, "2").ok()
	require.NoError(t, <-results)
	r.take(w, "1").ok()
	require.NoError(t, <-results)
}

// R6: a route is acknowledged when every send begun under an older one has ended.
func TestRouteIsAcknowledgedWhenOlderSendsHaveEnded(t *testing.T) {
	w := &waiting{}
	r := newRig(t, metadata.OrderNone, &clustertest.Driver{OnSend: w.onSend})
	sent := make(chan error, 1)
	go func() {
		_, err := r.producer.Send(r.ctx(), topic, message("k", "1"))
		sent <- err
	}()
	one := r.take(w, "1")
	zxid := r.write("b")
	r.eventually(func() bool { return r.participant().Write == "b" }, "switched")
	p := r.participant()
	require.NotEqual(t, zxid, p.Zxid, "one send is still on a")
	require.Equal(t, map[string]int64{"a": 1}, p.Inflight)
	one.ok()
	require.NoError(t, <-sent)
	r.eventually(func() bool { return r.participant().Zxid == zxid }, "acknowledged")

	// The same cluster again is another route all the same.
	go func() {
		_, err := r.producer.Send(r.ctx(), topic, message("k", "2"))
		sent <- err
	}()
	two := r.take(w, "2")
	zxid = r.write("b")
	go func() {
		_, err := r.producer.Send(r.ctx(), topic, message("k", "3"))
		sent <- err
	}()
	r.take(w, "3").ok()
	require.NoError(t, <-sent)
	require.NotEqual(t, zxid, r.participant().Zxid)
	two.ok()
	require.NoError(t, <-sent)
	r.eventually(func() bool { return r.participant().Zxid == zxid }, "acknowledged")
}

// Senders and switches at once: when a route is acknowledged no send of an older one is under way, and none begins.
func TestNoSendIsUnderWayOnTheOldClusterAfterTheAcknowledgement(t *testing.T) {
	var inflight [2]atomic.Int64
	index := map[string]int{"a": 0, "b": 1}
	var answers sync.WaitGroup
	r := newRig(t, metadata.OrderNone, &clustertest.Driver{OnSend: func(c *clustertest.Cluster, _ string, m *broker.Envelope, done func(broker.Receipt, error)) {
		n := &inflight[index[c.Config.Name]]
		n.Add(1)
		answer := func() {
			receipt := c.Store(m)
			n.Add(-1)
			done(receipt, nil)
		}
		switch rand.N(3) {
		case 0:
			answer() // before Send returns
		case 1:
			answers.Go(answer)
		default:
			answers.Go(func() {
				n.Add(-1)
				done(broker.Receipt{}, errTransient)
			})
		}
	}})
	ctx, cancel := context.WithCancel(r.ctx())
	var senders sync.WaitGroup
	var sent, called atomic.Int64
	for i := range 6 {
		senders.Go(func() {
			tick := time.NewTicker(time.Millisecond)
			defer tick.Stop()
			for ctx.Err() == nil {
				<-tick.C
				m := message(fmt.Sprint(i), "1")
				if i%2 == 0 {
					if _, err := r.producer.Send(r.ctx(), topic, m); err != nil {
						t.Error(err)
					}
					continue
				}
				sent.Add(1)
				r.producer.SendAsync(r.ctx(), topic, m, func(_ producer.Result, err error) {
					if err != nil {
						t.Error(err)
					}
					called.Add(1)
				})
			}
		})
	}
	for i := range 60 {
		to, from := []string{"b", "a"}[i%2], i%2
		zxid := r.write(to)
		r.eventually(func() bool { return r.participant().Zxid == zxid }, "acknowledged")
		require.Zero(t, inflight[from].Load())
		require.Empty(t, r.participant().Inflight)
	}
	r.eventually(func() bool { return r.producer.Stats().Retried > 0 }, "a send was repeated")
	cancel()
	senders.Wait()
	r.eventually(func() bool { return sent.Load() == called.Load() }, "every SendAsync calls back")
	answers.Wait()
}

func TestClusterThatCanNotBeWarmedIsNotSwitchedTo(t *testing.T) {
	var cold atomic.Bool
	cold.Store(true)
	r := newRig(t, metadata.OrderNone, &clustertest.Driver{OnWarm: func(c *clustertest.Cluster, _ string) error {
		if cold.Load() && c.Config.Name == "b" {
			return errTransient
		}
		return nil
	}})
	send := func() string {
		res, err := r.producer.Send(r.ctx(), topic, message("k", "1"))
		require.NoError(t, err)
		return res.Cluster
	}
	require.Equal(t, "a", send())
	zxid := r.write("b")
	r.eventually(func() bool { return strings.Contains(r.participant().Error, errTransient.Error()) }, "it is said")
	require.Equal(t, "a", send())
	require.Equal(t, "a", r.participant().Write)
	cold.Store(false)
	r.eventually(func() bool { return r.participant().Zxid == zxid }, "acknowledged")
	require.Equal(t, "b", send())
	require.Empty(t, r.participant().Error)
}

func TestErrorsThatCanNotBeMendedAreReturnedAtOnce(t *testing.T) {
	r := newRig(t, metadata.OrderKey, &clustertest.Driver{OnSend: func(_ *clustertest.Cluster, _ string, _ *broker.Envelope, done func(broker.Receipt, error)) {
		done(broker.Receipt{}, fmt.Errorf("%w: not this one", clustertest.ErrFatal))
	}})
	_, err := r.producer.Send(context.Background(), topic, message("k", "1"))
	require.ErrorIs(t, err, clustertest.ErrFatal)
	require.Contains(t, err.Error(), topic)
	require.Contains(t, err.Error(), `"a"`)
	for range 3 {
		called := make(chan error, 1)
		r.producer.SendAsync(context.Background(), topic, message("k", "1"), func(_ producer.Result, err error) { called <- err })
		require.ErrorIs(t, <-called, clustertest.ErrFatal)
	}
	require.Equal(t, producer.Stats{Failed: 4}, r.producer.Stats())
}

func TestRefusedMessageIsTooLargeOrMeetsAFence(t *testing.T) {
	var info atomic.Pointer[broker.TopicInfo]
	info.Store(&broker.TopicInfo{MaxMessageBytes: 4000})
	var refuse atomic.Bool
	refuse.Store(true)
	r := newRig(t, metadata.OrderNone, &clustertest.Driver{
		Topic: func(*clustertest.Cluster) (broker.TopicInfo, error) { return *info.Load(), nil },
		OnSend: func(c *clustertest.Cluster, _ string, m *broker.Envelope, done func(broker.Receipt, error)) {
			if refuse.Load() {
				done(broker.Receipt{}, clustertest.ErrRefused)
				return
			}
			done(c.Store(m), nil)
		}})
	_, err := r.producer.Send(context.Background(), topic, &broker.Message{Body: make([]byte, 4000)})
	require.ErrorIs(t, err, errs.ErrTooLarge)

	for name, i := range map[string]broker.TopicInfo{
		"a fence":                          {Fenced: true},
		"a fence that is gone when asked":  {MaxMessageBytes: 4000},
		"nobody may say, so perhaps fence": {},
	} {
		info.Store(&i)
		refuse.Store(true)
		before := r.producer.Stats().Retried
		sent := make(chan error, 1)
		go func() {
			_, err := r.producer.Send(r.ctx(), topic, &broker.Message{Body: make([]byte, 1000)})
			sent <- err
		}()
		r.eventually(func() bool { return r.producer.Stats().Retried > before+1 }, name+": tried again")
		refuse.Store(false)
		require.NoError(t, <-sent, name)
	}
}

// The connection was replaced under a send: it goes over the new one.
func TestSendOverAConnectionThatIsClosedGoesOverTheNextOne(t *testing.T) {
	w := &waiting{}
	r := newRig(t, metadata.OrderNone, &clustertest.Driver{OnSend: w.onSend})
	sent := make(chan error, 1)
	go func() {
		_, err := r.producer.Send(r.ctx(), topic, message("k", "1"))
		sent <- err
	}()
	one := r.take(w, "1")
	data, err := json.Marshal(metadata.Cluster{V: 1, Kind: broker.Kafka, Addresses: []string{"h:2"}})
	require.NoError(t, err)
	require.NoError(t, r.store.Set(r.ctx(), r.store.ClusterPath("a"), data, metadata.AnyVersion))
	r.eventually(func() bool { return len(r.driver.Opened()) == 2 }, "opened anew")
	one.fail(errs.ErrClosed)
	again := r.take(w, "1")
	require.Equal(t, []string{"h:2"}, again.c.Config.Addresses)
	again.ok()
	require.NoError(t, <-sent)
	r.eventually(one.c.Closed, "the old one is closed")
}

func TestTopicThatNobodySendsToIsGivenUpAndTakenAgain(t *testing.T) {
	r := newRig(t, metadata.OrderKey, &clustertest.Driver{})
	_, err := r.producer.Send(r.ctx(), topic, message("k", "1"))
	require.NoError(t, err)
	r.producer.Sweep()
	require.True(t, r.registered(), "it was sent to since the last time")
	r.producer.Sweep()
	r.eventually(func() bool { return !r.registered() }, "no participant any more")
	_, err = r.producer.Send(r.ctx(), topic, message("k", "2"))
	require.NoError(t, err)
	require.True(t, r.registered(), "before the send")

	// Sends and sweeps at once.
	ctx, cancel := context.WithCancel(r.ctx())
	var senders sync.WaitGroup
	var sent, called atomic.Int64
	for i := range 4 {
		senders.Go(func() {
			for range 100 {
				m := message(fmt.Sprint(i), "3")
				if i%2 == 0 {
					if _, err := r.producer.Send(r.ctx(), topic, m); err != nil {
						t.Error(err)
					}
					continue
				}
				sent.Add(1)
				r.producer.SendAsync(r.ctx(), topic, m, func(_ producer.Result, err error) {
					if err != nil {
						t.Error(err)
					}
					called.Add(1)
				})
			}
		})
	}
	var sweeper sync.WaitGroup
	sweeper.Go(func() {
		for ctx.Err() == nil {
			r.producer.Sweep()
		}
	})
	senders.Wait()
	cancel()
	sweeper.Wait()
	r.eventually(func() bool { return sent.Load() == called.Load() }, "each is answered")
	require.Len(t, r.cluster("a").Stored(), 402)
}

func TestIDsAreOrderedAndUnique(t *testing.T) {
	last := ""
	seen := map[string]bool{}
	for range 10_000 {
		id := producer.NewID()
		require.Len(t, id, 32)
		require.Equal(t, strings.ToLower(id), id)
		require.Equal(t, byte('7'), id[12], "a UUIDv7")
		require.False(t, seen[id])
		require.GreaterOrEqual(t, id[:12], last[:min(12, len(last))], "the time comes first")
		seen[id], last = true, id
	}
}
