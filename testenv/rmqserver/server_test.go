package rmqserver_test

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/turnout-mq/turnout/broker/rocketmq/remoting"
	"github.com/turnout-mq/turnout/testenv/rmqserver"
)

// raw is a broker with a raw client and a topic "t" of two queues.
type raw struct {
	*testing.T
	*cluster
	b    *rmqserver.Broker
	c    *remoting.Client
	lost chan string // addresses of connections that have ended
}

func newRaw(t *testing.T, opt rmqserver.BrokerOptions) *raw {
	r := &raw{T: t, cluster: start(t, opt), lost: make(chan string, 100)}
	r.b = r.brokers[0]
	r.c = remoting.NewClient(remoting.Options{Disconnected: func(addr string, _ error) { r.lost <- addr }})
	t.Cleanup(r.c.Close)
	require.NoError(t, r.c.UpdateTopic(r.ctx(), r.b.Addr(), remoting.TopicConfig{Name: "t", ReadQueues: 2, WriteQueues: 2, Perm: 6}))
	return r
}

func (r *raw) ctx() context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	r.Cleanup(cancel)
	return ctx
}

// again asks until the connection is there again.
func (r *raw) again(f func() error) {
	r.Helper()
	var err error
	require.Eventually(r, func() bool { err = f(); return err == nil }, time.Minute, time.Millisecond, "%v", &err)
}

func (r *raw) trySend(topic string, queue int, properties, body string) error {
	_, err := r.c.Call(r.ctx(), r.b.Addr(), sendRequest(topic, queue, properties, []byte(body)))
	return err
}

func (r *raw) send(topic string, queue int, properties, body string) {
	r.Helper()
	require.NoError(r, r.trySend(topic, queue, properties, body))
}

func (r *raw) queue(topic string, id int) remoting.Queue {
	return remoting.Queue{Topic: topic, Broker: r.name, ID: id}
}

func (r *raw) read(topic string, id int, at int64, suspend time.Duration) *remoting.PullResult {
	r.Helper()
	p, err := r.c.PullMessages(r.ctx(), r.b.Addr(), remoting.Pull{Group: "readers", Queue: r.queue(topic, id), Offset: at, Max: 32, Suspend: suspend,
		Subscription: remoting.NewSubscription(topic, "", 0)})
	require.NoError(r, err)
	return p
}

func (r *raw) bodies(topic string, id int) []string {
	r.Helper()
	out := []string{}
	for _, m := range r.read(topic, id, 0, 0).Messages {
		out = append(out, string(m.Body))
	}
	return out
}

// What a broker has is there again after a restart, from memory and from disk; who was connected is not.
func TestRestart(t *testing.T) {
	for _, kind := range []string{"memory", "disk"} {
		t.Run(kind, func(t *testing.T) {
			opt := rmqserver.BrokerOptions{DelayFactor: 0.2}
			if kind == "disk" {
				opt.Dir = filepath.Join(t.TempDir(), "made")
			}
			r := newRaw(t, opt)
			addr := r.b.Addr()
			r.send("t", 0, "", "0")
			r.send("t", 0, remoting.AppendProperty("", "KEYS", "k"), "1")
			r.send("t", 1, "", "2")
			r.send("t", 1, remoting.AppendProperty("", "DELAY", "1"), "late")
			require.NoError(t, r.c.UpdateSubscriptionGroup(r.ctx(), addr, remoting.NewSubscriptionGroup("g")))
			require.NoError(t, r.c.UpdateConsumerOffset(r.ctx(), addr, "g", r.queue("t", 0), 1))
			require.NoError(t, r.b.Trim("t", 0, 1))
			require.NoError(t, r.c.Heartbeat(r.ctx(), addr, remoting.Heartbeat{ClientID: "me", Consumers: []remoting.ConsumerGroup{{Name: "g"}}}))
			_, err := r.c.LockQueues(r.ctx(), addr, "g", "me", []remoting.Queue{r.queue("t", 0)})
			require.NoError(t, err)
			require.NoError(t, r.c.UpdateTopic(r.ctx(), addr, remoting.TopicConfig{Name: "gone", ReadQueues: 1, WriteQueues: 1, Perm: 6}))
			r.send("gone", 0, "", "x")
			require.NoError(t, r.c.DeleteTopic(r.ctx(), addr, "gone"))

			r.b.Stop()
			r.b.Stop()
			require.False(t, r.b.Running())
			info, err := r.c.ClusterInfo(r.ctx(), r.names.Addr())
			require.NoError(t, err)
			require.Empty(t, info.Brokers)
			require.NoError(t, r.b.Restart())
			require.Equal(t, addr, r.b.Addr())
			info, err = r.c.ClusterInfo(r.ctx(), r.names.Addr())
			require.NoError(t, err)
			require.Equal(t, addr, info.Brokers["c"].Master())

			r.again(func() error { return r.c.Connect(r.ctx(), addr) })
			var first int64
			r.again(func() error { first, err = r.c.MinOffset(r.ctx(), addr, r.queue("t", 0)); return err })
			require.EqualValues(t, 1, first)
			p := r.read("t", 0, 0, 0)
			require.Equal(t, remoting.PullOffsetMoved, p.Status)
			require.EqualValues(t, 1, p.Next)
			require.Equal(t, "1", string(r.read("t", 0, 1, 0).Messages[0].Body))
			at, found, _, err := r.c.ConsumerOffset(r.ctx(), addr, "g", r.queue("t", 0))
			require.NoError(t, err)
			require.True(t, found)
			require.EqualValues(t, 1, at)
			ids, err := r.c.ConsumerIDs(r.ctx(), addr, "g")
			require.NoError(t, err)
			require.Empty(t, ids)
			got, err := r.c.LockQueues(r.ctx(), addr, "g", "you", []remoting.Queue{r.queue("t", 0)})
			require.NoError(t, err)
			require.Len(t, got, 1)
			_, err = r.c.TopicConfig(r.ctx(), addr, "gone")
			require.True(t, remoting.HasCode(err, remoting.TopicNotExist), err)
			_, err = r.c.Call(r.ctx(), addr, remoting.NewRequest(remoting.ReqQueryMessage, nil, "topic", "t", "key", "k", "maxNum", "1", "beginTimestamp", "0",
				"endTimestamp", "9999999999999"))
			require.NoError(t, err)
			require.Eventually(t, func() bool { return len(r.bodies("t", 1)) == 2 }, time.Minute, 10*time.Millisecond, "what was delayed comes")
			r.send("t", 1, "", "goes on")
			require.Equal(t, []string{"2", "late", "goes on"}, r.bodies("t", 1))

			r.b.Close()
			r.b.Close()
			require.ErrorIs(t, r.b.Restart(), rmqserver.ErrClosed)
		})
	}
}

// A broker that died while it wrote loses what it had not acknowledged, and nothing else; one whose file is damaged does
// not start.
func TestJournal(t *testing.T) {
	dir := t.TempDir()
	r := newRaw(t, rmqserver.BrokerOptions{Dir: dir})
	for i := range 3 {
		r.send("t", 0, "", strconv.Itoa(i))
	}
	r.b.Stop()
	file := filepath.Join(dir, "journal")
	whole, err := os.ReadFile(file)
	require.NoError(t, err)
	for _, cut := range []int{1, 50, 150} {
		require.NoError(t, os.WriteFile(file, whole[:len(whole)-cut], 0o644))
		require.NoError(t, r.b.Restart())
		r.again(func() error { return r.c.Connect(r.ctx(), r.b.Addr()) })
		r.again(func() error { return r.trySend("t", 0, "", "again") })
		require.Equal(t, []string{"0", "1", "again"}, r.bodies("t", 0))
		r.b.Stop()
		require.NoError(t, r.b.Restart())
		r.again(func() error { _, err := r.c.BrokerConfig(r.ctx(), r.b.Addr()); return err })
		require.Equal(t, []string{"0", "1", "again"}, r.bodies("t", 0), "and it was mended")
		r.b.Stop()
	}
	damaged := bytes.Clone(whole)
	damaged[len(damaged)/2]++
	require.NoError(t, os.WriteFile(file, damaged, 0o644))
	require.ErrorContains(t, r.b.Restart(), file)
	require.False(t, r.b.Running())
	require.NoError(t, os.WriteFile(file, whole, 0o644))
	require.NoError(t, r.b.Restart(), "it can be tried again")
}

func TestNameServerRestart(t *testing.T) {
	r := newRaw(t, rmqserver.BrokerOptions{})
	addr := r.names.Addr()
	_, err := r.c.Call(r.ctx(), addr, remoting.NewRequest(remoting.ReqPutKV, nil, "namespace", "n", "key", "k", "value", "v"))
	require.NoError(t, err)
	r.names.Stop()
	r.send("t", 0, "", "the broker goes on")
	require.NoError(t, r.c.UpdateTopic(r.ctx(), r.b.Addr(), remoting.TopicConfig{Name: "later", ReadQueues: 1, WriteQueues: 1, Perm: 6}))
	require.NoError(t, r.names.Restart())
	require.Equal(t, addr, r.names.Addr())
	r.again(func() error { _, err := r.c.ClusterInfo(r.ctx(), addr); return err })
	_, err = r.c.Route(r.ctx(), addr, "later")
	require.NoError(t, err)
	_, err = r.c.Call(r.ctx(), addr, remoting.NewRequest(remoting.ReqGetKV, nil, "namespace", "n", "key", "k"))
	require.True(t, remoting.HasCode(err, remoting.QueryNotFound), err)
	r.names.Close()
	require.ErrorIs(t, r.names.Restart(), rmqserver.ErrClosed)
}

// Several brokers under one name server, several clusters in one process.
func TestClusters(t *testing.T) {
	a, b := start(t, rmqserver.BrokerOptions{Cluster: "a"}, "a1", "a2"), start(t, rmqserver.BrokerOptions{Cluster: "b", Advertised: "127.0.0.2:4711"})
	c := remoting.NewClient(remoting.Options{})
	defer c.Close()
	for i, broker := range a.brokers {
		require.NoError(t, c.UpdateTopic(t.Context(), broker.Addr(), remoting.TopicConfig{Name: "t", ReadQueues: i + 1, WriteQueues: i + 1, Perm: 6}))
	}
	route, err := c.Route(t.Context(), a.names.Addr(), "t")
	require.NoError(t, err)
	require.Len(t, route.Brokers, 3)
	for i, q := range route.Queues {
		require.Equal(t, i+1, q.ReadQueues)
		require.Equal(t, route.Brokers[i].Name, q.Broker)
	}
	_, err = c.Route(t.Context(), b.names.Addr(), "t")
	require.True(t, remoting.HasCode(err, remoting.TopicNotExist))
	info, err := c.ClusterInfo(t.Context(), b.names.Addr())
	require.NoError(t, err)
	require.Equal(t, map[string][]string{"b": {"b"}}, info.Clusters)
	require.Equal(t, "127.0.0.2:4711", info.Brokers["b"].Master(), "as it says")
	a.brokers[1].Close()
	route, err = c.Route(t.Context(), a.names.Addr(), "t")
	require.NoError(t, err)
	require.Len(t, route.Brokers, 2)
}

func TestAutoCreate(t *testing.T) {
	r := newRaw(t, rmqserver.BrokerOptions{AutoCreateTopics: true})
	route, err := r.c.Route(r.ctx(), r.names.Addr(), "TBW102")
	require.NoError(t, err)
	require.Equal(t, 7, route.Queues[0].Perm)
	r.send("made", 3, "", "x")
	route, err = r.c.Route(r.ctx(), r.names.Addr(), "made")
	require.NoError(t, err)
	require.Equal(t, remoting.QueueData{Broker: "c", ReadQueues: 4, WriteQueues: 4, Perm: 6}, route.Queues[0])
}

func TestBadOptions(t *testing.T) {
	_, err := rmqserver.StartNameServer(t.Context(), rmqserver.NameServerOptions{Port: 70000})
	require.ErrorContains(t, err, "70000")
	busy, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer busy.Close()
	for want, opt := range map[string]rmqserver.BrokerOptions{
		"Cluster":     {},
		"Name":        {Cluster: "c", Name: "a b"},
		"Port":        {Cluster: "c", Port: -1},
		"Advertised":  {Cluster: "c", Advertised: "localhost:1"},
		"DelayLevels": {Cluster: "c", DelayLevels: "1s 5x"},
		"DelayFactor": {Cluster: "c", DelayFactor: -1},
		"port " + strconv.Itoa(busy.Addr().(*net.TCPAddr).Port): {Cluster: "c", Port: busy.Addr().(*net.TCPAddr).Port},
		"/dev/null": {Cluster: "c", Dir: "/dev/null/x"},
	} {
		_, err := rmqserver.StartBroker(t.Context(), opt)
		require.ErrorContains(t, err, want)
	}
}

// A held pull is answered when its time is over, and does not hold up others.
func TestHeldPull(t *testing.T) {
	r := newRaw(t, rmqserver.BrokerOptions{})
	require.Equal(t, remoting.PullNotFound, r.read("t", 0, 0, 30*time.Millisecond).Status)
	// One that wants another tag goes on waiting, and learns at its end how far it may go on. Its time may be over before
	// the message comes: the next longer one, from there.
	for suspend, at := 300*time.Millisecond, int64(0); ; suspend, at = 2*suspend, at+1 {
		got := make(chan *remoting.PullResult, 1)
		ctx, before := r.ctx(), r.b.Requests()[remoting.ReqPullMessage]
		go func() {
			p, err := r.c.PullMessages(ctx, r.b.Addr(), remoting.Pull{Group: "readers", Queue: r.queue("t", 0), Offset: at, Max: 32, Suspend: suspend,
				Subscription: remoting.NewSubscription("t", "a", 0)})
			if err == nil {
				got <- p
			}
			close(got)
		}()
		require.Eventually(t, func() bool { return r.b.Requests()[remoting.ReqPullMessage] > before }, time.Minute, time.Millisecond)
		r.send("t", 0, remoting.AppendProperty("", "TAGS", "b"), "x")
		p := <-got
		require.NotNil(t, p)
		if p.Status == remoting.PullNotFound && suspend < 20*time.Second {
			continue
		}
		require.Equal(t, remoting.PullRetryImmediately, p.Status)
		require.Equal(t, at+1, p.Next)
		return
	}
}

// A position that was set from outside stands until a pull is told, also one that is held; after a restart it is one like any
// other.
func TestPositionFromOutside(t *testing.T) {
	r := newRaw(t, rmqserver.BrokerOptions{})
	addr := r.b.Addr()
	require.NoError(t, r.c.UpdateSubscriptionGroup(r.ctx(), addr, remoting.NewSubscriptionGroup("readers")))
	set := func(offset int) {
		t.Helper()
		_, err := r.c.Call(r.ctx(), addr, remoting.NewRequest(222, nil, "topic", "t", "group", "readers", "timestamp", "0", "queueId", "0", "offset", strconv.Itoa(offset)))
		require.NoError(t, err)
	}
	position := func() (at int64) {
		t.Helper()
		r.again(func() (err error) {
			at, _, _, err = r.c.ConsumerOffset(r.ctx(), addr, "readers", r.queue("t", 0))
			return err
		})
		return at
	}
	r.send("t", 0, "", "0")
	r.send("t", 0, "", "1")
	held := make(chan error, 1)
	ctx, before := r.ctx(), r.b.Requests()[remoting.ReqPullMessage]
	go func() {
		p, err := r.c.PullMessages(ctx, addr, remoting.Pull{Group: "readers", Queue: r.queue("t", 0), Offset: 2, Max: 32, Suspend: time.Hour,
			Subscription: remoting.NewSubscription("t", "", 0)})
		if err == nil && (p.Status != remoting.PullOffsetMoved || p.Next != 1) {
			err = fmt.Errorf("%+v", p)
		}
		held <- err
	}()
	require.Eventually(t, func() bool { return r.b.Requests()[remoting.ReqPullMessage] > before }, time.Minute, time.Millisecond)
	set(1)
	r.send("t", 0, "", "2")
	require.NoError(t, <-held)

	set(0)
	require.NoError(t, r.c.UpdateConsumerOffset(r.ctx(), addr, "readers", r.queue("t", 0), 2))
	require.Zero(t, position())
	require.NoError(t, r.b.Restart())
	require.Zero(t, position())
	require.NoError(t, r.c.UpdateConsumerOffset(r.ctx(), addr, "readers", r.queue("t", 0), 2))
	require.EqualValues(t, 2, position())
}

func TestFreeze(t *testing.T) {
	r := newRaw(t, rmqserver.BrokerOptions{})
	r.b.Freeze()
	answered := make(chan error, 1)
	go func() { answered <- r.trySend("t", 0, "", "x") }()
	require.Never(t, func() bool { return len(answered) > 0 }, 100*time.Millisecond, 10*time.Millisecond)
	r.b.Thaw()
	require.NoError(t, <-answered)
	r.b.Freeze()
	go func() { answered <- r.trySend("t", 0, "", "y") }()
	connected, err := net.Dial("tcp", r.b.Addr())
	require.NoError(t, err, "it accepts")
	defer connected.Close()
	r.b.Stop() // also ends a freeze
	require.Error(t, <-answered)
	require.NoError(t, r.b.Restart())
	r.again(func() error { return r.trySend("t", 0, "", "z") })
}

func TestFaults(t *testing.T) {
	r := newRaw(t, rmqserver.BrokerOptions{})
	inject := func(f rmqserver.Fault) *rmqserver.Injected {
		t.Helper()
		i, err := r.b.Inject(f)
		require.NoError(t, err)
		return i
	}
	refused := func(err error) { t.Helper(); require.True(t, remoting.HasCode(err, remoting.SystemBusy), err) }

	i := inject(rmqserver.Fault{Codes: rmqserver.SendCodes, Topic: "t", Count: 2, Refuse: remoting.SystemBusy})
	require.NoError(t, r.c.UpdateTopic(r.ctx(), r.b.Addr(), remoting.TopicConfig{Name: "u", ReadQueues: 1, WriteQueues: 1, Perm: 6}))
	r.send("u", 0, "", "another topic")
	refused(r.trySend("t", 0, "", "x"))
	_, err := r.c.Call(r.ctx(), r.b.Addr(), remoting.NewRequest(remoting.ReqSendMessageV2, []byte("x"), "b", "t", "a", "g"))
	refused(err)
	r.send("t", 0, "", "1")
	require.Equal(t, 2, i.Hits())

	i = inject(rmqserver.Fault{Group: "g", Refuse: remoting.SystemBusy})
	_, err = r.c.ConsumerIDs(r.ctx(), r.b.Addr(), "other")
	require.NoError(t, err)
	for range 3 {
		_, err = r.c.ConsumerIDs(r.ctx(), r.b.Addr(), "g")
		refused(err)
	}
	i.Remove()
	i.Remove()
	_, err = r.c.ConsumerIDs(r.ctx(), r.b.Addr(), "g")
	require.NoError(t, err)
	require.Equal(t, 3, i.Hits())
	require.Equal(t, []string{"1"}, r.bodies("t", 0))

	// The send that was written and not acknowledged.
	inject(rmqserver.Fault{Codes: rmqserver.SendCodes, Count: 1, DropAnswer: true, Cut: true})
	require.ErrorIs(t, r.trySend("t", 0, "", "2"), remoting.ErrDisconnected)
	r.again(func() error { return r.trySend("t", 0, "", "2") })
	require.Equal(t, []string{"1", "2", "2"}, r.bodies("t", 0))
	i = inject(rmqserver.Fault{Codes: rmqserver.SendCodes, Count: 1, DropAnswer: true})
	short, cancel := context.WithCancel(t.Context())
	unanswered := make(chan error, 1)
	go func() {
		_, err := r.c.Call(short, r.b.Addr(), sendRequest("t", 0, "", []byte("3")))
		unanswered <- err
	}()
	require.Eventually(t, func() bool { return i.Hits() == 1 }, time.Minute, time.Millisecond)
	cancel()
	require.ErrorIs(t, <-unanswered, context.Canceled)
	require.Equal(t, []string{"1", "2", "2", "3"}, r.bodies("t", 0), "the connection is still good")

	// The one that was not written.
	inject(rmqserver.Fault{Codes: rmqserver.SendCodes, Count: 1, Cut: true})
	require.ErrorIs(t, r.trySend("t", 0, "", "4"), remoting.ErrDisconnected)
	r.again(func() error { _, err := r.c.BrokerConfig(r.ctx(), r.b.Addr()); return err })
	require.Len(t, r.bodies("t", 0), 4)

	// The one that takes its time.
	i = inject(rmqserver.Fault{Codes: rmqserver.SendCodes, Count: 1, Delay: 200 * time.Millisecond})
	slow := make(chan error, 1)
	go func() { slow <- r.trySend("t", 1, "", "slow") }()
	require.Eventually(t, func() bool { return i.Hits() == 1 }, time.Minute, time.Millisecond)
	require.NoError(t, <-slow)
	require.Equal(t, []string{"slow"}, r.bodies("t", 1))
	i = inject(rmqserver.Fault{Codes: rmqserver.SendCodes, Count: 1, Delay: time.Hour})
	go func() { slow <- r.trySend("t", 1, "", "never") }()
	require.Eventually(t, func() bool { return i.Hits() == 1 }, time.Minute, time.Millisecond)
	r.send("t", 1, "", "what comes after it goes on")
	r.b.Stop() // does not wait an hour
	require.ErrorIs(t, <-slow, remoting.ErrDisconnected)
	require.NoError(t, r.b.Restart())
	r.again(func() error { return r.trySend("t", 1, "", "faults are gone") })

	for len(r.lost) > 0 {
		<-r.lost
	}
	r.b.Cut()
	require.Equal(t, r.b.Addr(), <-r.lost)
	r.again(func() error { return r.trySend("t", 1, "", "back") })

	for want, f := range map[string]rmqserver.Fault{
		"does nothing": {Topic: "t"},
		"DropAnswer":   {Refuse: 1, DropAnswer: true},
		"Count":        {Refuse: 1, Count: -1},
	} {
		_, err := r.b.Inject(f)
		require.ErrorContains(t, err, want)
	}
	n, err := r.names.Inject(rmqserver.Fault{Codes: []int{remoting.ReqRoute}, Topic: "t", Refuse: remoting.TopicNotExist})
	require.NoError(t, err)
	_, err = r.c.Route(r.ctx(), r.names.Addr(), "t")
	require.True(t, remoting.HasCode(err, remoting.TopicNotExist))
	require.Equal(t, 1, n.Hits())
}

// Every request is answered, whatever is missing from it, and whatever codec it came in.
func TestBadRequests(t *testing.T) {
	r := newRaw(t, rmqserver.BrokerOptions{})
	for _, addr := range []string{r.b.Addr(), r.names.Addr()} {
		for code := range 400 {
			for _, codec := range []remoting.Codec{remoting.JSON, remoting.RocketMQ} {
				for _, fields := range [][]string{nil, {"topic", "t", "queueId", "x"}, {"topic", "t", "queueId", "-9223372036854775808", "consumerGroup", ""}} {
					if code == remoting.ReqEndTransaction && fields != nil {
						continue
					}
					q := remoting.NewRequest(code, []byte("{"), fields...)
					q.Codec = codec
					a, err := r.c.Call(r.ctx(), addr, q, anyCode...)
					require.NoError(t, err, code)
					require.Equal(t, remoting.JSON, a.Codec)
					require.Equal(t, remoting.V5_5_0, a.Version)
				}
			}
		}
	}
	// Who speaks another protocol is cut.
	nc, err := net.Dial("tcp", r.b.Addr())
	require.NoError(t, err)
	defer nc.Close()
	_, err = nc.Write([]byte("GET / HTTP/1.1\r\n\r\n"))
	require.NoError(t, err)
	require.NoError(t, nc.SetReadDeadline(time.Now().Add(time.Minute)))
	_, err = nc.Read(make([]byte, 1))
	require.Error(t, err)
	require.NotErrorIs(t, err, os.ErrDeadlineExceeded)
}

// Whatever a client sends, the server answers or cuts the connection.
func FuzzRequests(f *testing.F) {
	names, err := rmqserver.StartNameServer(context.Background(), rmqserver.NameServerOptions{})
	require.NoError(f, err)
	f.Cleanup(names.Close)
	b, err := rmqserver.StartBroker(context.Background(), rmqserver.BrokerOptions{Cluster: "c", NameServers: []*rmqserver.NameServer{names}})
	require.NoError(f, err)
	f.Cleanup(b.Close)
	c := remoting.NewClient(remoting.Options{})
	f.Cleanup(c.Close)
	require.NoError(f, c.UpdateTopic(context.Background(), b.Addr(), remoting.TopicConfig{Name: "t", ReadQueues: 2, WriteQueues: 2, Perm: 6}))
	batch := appendBatched(appendBatched(nil, 1, "one", ""), 2, "two", "k\x01v\x02")
	for _, code := range []int{10, 11, 12, 14, 15, 17, 25, 29, 30, 31, 33, 34, 35, 36, 37, 38, 41, 42, 45, 200, 202, 203, 208, 215, 300, 310, 320, 351} {
		f.Add(code, "t", "g", int64(0), int64(0), "DELAY\x011\x02TAGS\x01a", batch)
	}
	f.Add(34, "t", "g", int64(0), int64(6), "", []byte(`{"clientID":"x","consumerDataSet":[{"groupName":"g","subscriptionDataSet":[{"topic":"t","subString":"a||b"}]}]}`))
	f.Fuzz(func(t *testing.T, code int, topic, group string, n, flag int64, properties string, body []byte) {
		num, flags := strconv.FormatInt(n, 10), strconv.FormatInt(flag&^remoting.PullSuspend, 10)
		q := remoting.NewRequest(code&0x1ff, body, "topic", topic, "b", topic, "consumerGroup", group, "a", group, "group", group, "c", "TBW102",
			"producerGroup", group, "queueId", num, "e", num, "queueOffset", num, "offset", num, "maxMsgNums", num, "sysFlag", flags, "f", flags, "d", num, "g", num, "h", num,
			"i", properties, "j", num, "l", num, "m", "false", "properties", properties, "bornTimestamp", num, "flag", num, "defaultTopic", "TBW102",
			"defaultTopicQueueNums", num, "commitOffset", num, "timestamp", num, "key", group, "maxNum", num, "beginTimestamp", num, "endTimestamp", num,
			"clientID", group, "readQueueNums", num, "writeQueueNums", num, "perm", num, "topicFilterType", "SINGLE_TAG", "delayLevel", num, "subscription", group)
		if q.Code == remoting.ReqEndTransaction {
			q.OneWay()
			return
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if _, err := c.Call(ctx, b.Addr(), q, anyCode...); err != nil {
			t.Fatalf("code %d: %v", q.Code, err)
		}
	})
}

// BenchmarkSend is small messages from many goroutines over one connection.
func BenchmarkSend(b *testing.B) {
	for _, dir := range []string{"memory", "disk"} {
		b.Run(dir, func(b *testing.B) {
			opt := rmqserver.BrokerOptions{}
			if dir == "disk" {
				opt.Dir = b.TempDir()
			}
			k := start(b, opt)
			c := remoting.NewClient(remoting.Options{})
			defer c.Close()
			addr := k.brokers[0].Addr()
			require.NoError(b, c.UpdateTopic(b.Context(), addr, remoting.TopicConfig{Name: "t", ReadQueues: 4, WriteQueues: 4, Perm: 6}))
			body := bytes.Repeat([]byte("x"), 100)
			b.SetParallelism(32)
			b.ResetTimer()
			b.RunParallel(func(pb *testing.PB) {
				for i := 0; pb.Next(); i++ {
					if _, err := c.Call(b.Context(), addr, sendRequest("t", i%4, fmt.Sprint("UNIQ_KEY\x01", i, "\x02"), body)); err != nil {
						b.Error(err)
						return
					}
				}
			})
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "msg/s")
		})
	}
}

// With users requests are looked at one by one, over connections that stay open.
func TestUsersSignTheirRequests(t *testing.T) {
	t.Parallel()
	k := start(t, rmqserver.BrokerOptions{Users: map[string]string{"one": "key"}})
	b, raw := k.brokers[0], remoting.NewClient(remoting.Options{})
	t.Cleanup(raw.Close)
	ask := func(user, key string, change func(*remoting.Command)) error {
		r := remoting.NewRequest(remoting.ReqGetTopics, nil, "AccessKey", user)
		r.Fields["Signature"] = remoting.Signature(r, key)
		if change != nil {
			change(r)
		}
		_, err := raw.Call(t.Context(), b.Addr(), r)
		return err
	}
	require.NoError(t, ask("one", "key", nil))
	refused := func(err error) {
		t.Helper()
		require.True(t, remoting.HasCode(err, remoting.NoPermission), err)
		require.NotContains(t, err.Error(), "key")
	}
	refused(ask("two", "key", nil))
	b.SetUser("two", "key")
	require.NoError(t, ask("two", "key", nil))
	b.SetUser("one", "other")
	refused(ask("one", "key", nil))
	require.NoError(t, ask("one", "other", nil))
	b.SetUser("two", "")
	refused(ask("two", "key", nil))
	late := func(version int) func(*remoting.Command) {
		return func(r *remoting.Command) { r.Version, r.Fields["_UNIQUE_KEY_QUERY"] = version, "true" }
	}
	require.NoError(t, ask("one", "other", late(remoting.V4_9_3)))
	refused(ask("one", "other", late(remoting.V4_9_4)))
	require.NoError(t, b.Restart())
	require.Eventually(t, func() bool { return ask("one", "other", nil) == nil }, time.Minute, 10*time.Millisecond)

	open := start(t, rmqserver.BrokerOptions{Cluster: "open"}).brokers[0]
	open.SetUser("one", "key")
	_, err := raw.Call(t.Context(), open.Addr(), remoting.NewRequest(remoting.ReqGetTopics, nil))
	require.NoError(t, err, "who begins without users has none")
}
