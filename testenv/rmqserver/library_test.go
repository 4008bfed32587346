package rmqserver_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	lib "github.com/apache/rocketmq-client-go/v2"
	"github.com/apache/rocketmq-client-go/v2/consumer"
	"github.com/apache/rocketmq-client-go/v2/primitive"
	"github.com/apache/rocketmq-client-go/v2/producer"
	"github.com/stretchr/testify/require"

	"github.com/turnout-mq/turnout/broker/rocketmq/remoting"
	"github.com/turnout-mq/turnout/testenv/races"
	"github.com/turnout-mq/turnout/testenv/rmqserver"
)

// Apache's library for Go runs in processes of its own, this test binary again: its consumers leave goroutines behind for
// a day, and races of its own.

const childVariable = "TURNOUT_TEST_RMQSERVER_CHILD"

// job is what a child does.
type job struct {
	Kind         string // produce, transact or consume
	NameServers  []string
	Group, Topic string
	Tag          string
	N            int   // of messages that a producer sends each way
	Orderly      bool  // consume
	Broadcast    bool  // consume
	Fail         int32 // consume: how often a message is not taken before it is
	MaxRetries   int32 // consume; 0: the library's default
}

// heard is what a child says of a message, one a line.
type heard struct {
	Body, Tag, Topic string
	Queue            string
	Offset           int64
	Times            int32
	Size             int
	Keys             string
	Property         string
}

func child(text string) {
	var j job
	must(json.Unmarshal([]byte(text), &j))
	switch j.Kind {
	case "produce":
		j.produce()
	case "transact":
		j.transact()
	case "consume":
		j.consume()
	}
}

func must(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

var out sync.Mutex

func say(h heard) {
	b, err := json.Marshal(h)
	must(err)
	out.Lock()
	defer out.Unlock()
	fmt.Printf("%s\n", b)
}

// produce sends N messages each way there is.
func (j job) produce() {
	p, err := lib.NewProducer(producer.WithNameServer(j.NameServers), producer.WithInstanceName(fmt.Sprint("p", os.Getpid())), producer.WithGroupName("producers"),
		producer.WithSendMsgTimeout(time.Minute)) // a send that is repeated may arrive twice
	must(err)
	must(p.Start())
	ctx := context.Background()
	message := func(kind string, i int) *primitive.Message {
		m := primitive.NewMessage(j.Topic, []byte(fmt.Sprint(kind, i)))
		m.WithTag(kind).WithKeys([]string{fmt.Sprint(kind, i)}).WithProperty("mine", "yes")
		return m
	}
	sent := func(r *primitive.SendResult) {
		say(heard{Topic: "result", Body: r.MsgID, Queue: r.MessageQueue.String(), Offset: r.QueueOffset, Property: r.OffsetMsgID})
	}
	for i := range j.N {
		r, err := p.SendSync(ctx, message("sync", i))
		must(err)
		sent(r)
	}
	var wg sync.WaitGroup
	for i := range j.N {
		wg.Add(1)
		must(p.SendAsync(ctx, func(_ context.Context, r *primitive.SendResult, err error) {
			must(err)
			sent(r)
			wg.Done()
		}, message("async", i)))
	}
	wg.Wait()
	var batch []*primitive.Message
	for i := range j.N {
		batch = append(batch, message("batch", i))
	}
	r, err := p.SendSync(ctx, batch...)
	must(err)
	sent(r)
	for i := range j.N {
		must(p.SendOneWay(ctx, message("oneway", i)))
	}
	large := message("large", 0)
	large.Body = []byte("large0" + strings.Repeat(" and more", 10_000)) // the library compresses it
	r, err = p.SendSync(ctx, large)
	must(err)
	sent(r)
	delayed := message("delayed", 0)
	delayed.WithDelayTimeLevel(2)
	r, err = p.SendSync(ctx, delayed)
	must(err)
	sent(r)
	_, _ = io.Copy(io.Discard, os.Stdin) // one-way messages may still be on their way
	must(p.Shutdown())
}

type decision struct{ asked sync.Map }

func (d *decision) ExecuteLocalTransaction(m *primitive.Message) primitive.LocalTransactionState {
	switch string(m.Body) {
	case "commit":
		return primitive.CommitMessageState
	case "roll back":
		return primitive.RollbackMessageState
	}
	return primitive.UnkonwnState
}

func (d *decision) CheckLocalTransaction(m *primitive.MessageExt) primitive.LocalTransactionState {
	say(heard{Body: string(m.Body), Topic: "asked"})
	switch string(m.Body) {
	case "commit when asked":
		return primitive.CommitMessageState
	case "roll back when asked":
		return primitive.RollbackMessageState
	case "commit when asked again":
		if _, again := d.asked.LoadOrStore("", true); again {
			return primitive.CommitMessageState
		}
	}
	return primitive.UnkonwnState
}

func (j job) transact() {
	p, err := lib.NewTransactionProducer(&decision{}, producer.WithNameServer(j.NameServers),
		producer.WithInstanceName(fmt.Sprint("t", os.Getpid())), producer.WithGroupName("transactors"))
	must(err)
	must(p.Start())
	for _, body := range []string{"commit", "roll back", "commit when asked", "roll back when asked", "commit when asked again", "never known"} {
		_, err := p.SendMessageInTransaction(context.Background(), primitive.NewMessage(j.Topic, []byte(body)))
		must(err)
	}
	_, _ = io.Copy(io.Discard, os.Stdin)
	must(p.Shutdown())
}

func (j job) consume() {
	options := []consumer.Option{consumer.WithNameServer(j.NameServers), consumer.WithGroupName(j.Group),
		consumer.WithInstance(fmt.Sprint("c", os.Getpid())), consumer.WithConsumeFromWhere(consumer.ConsumeFromFirstOffset), consumer.WithConsumerOrder(j.Orderly)}
	if j.Broadcast {
		options = append(options, consumer.WithConsumerModel(consumer.BroadCasting))
	}
	if j.MaxRetries > 0 {
		options = append(options, consumer.WithMaxReconsumeTimes(j.MaxRetries))
	}
	c, err := lib.NewPushConsumer(options...)
	must(err)
	selector := consumer.MessageSelector{}
	if j.Tag != "" {
		selector = consumer.MessageSelector{Type: consumer.TAG, Expression: j.Tag}
	}
	must(c.Subscribe(j.Topic, selector, func(_ context.Context, messages ...*primitive.MessageExt) (consumer.ConsumeResult, error) {
		for _, m := range messages {
			size := len(m.Body)
			say(heard{Body: string(m.Body[:min(size, 40)]), Size: size, Tag: m.GetTags(), Topic: m.Topic, Queue: fmt.Sprint(m.Queue.BrokerName, ":", m.Queue.QueueId),
				Offset: m.QueueOffset, Times: m.ReconsumeTimes, Keys: m.GetKeys(), Property: m.GetProperty("mine")})
			if m.ReconsumeTimes < j.Fail {
				return consumer.ConsumeRetryLater, nil
			}
		}
		return consumer.ConsumeSuccess, nil
	}))
	must(c.Start())
	_, _ = io.Copy(io.Discard, os.Stdin)
	must(c.Shutdown())
}

// process is a child.
type process struct {
	stop func() // in order
	kill func()

	mu  sync.Mutex
	got []heard
}

func run(t *testing.T, j job) *process {
	t.Helper()
	text, err := json.Marshal(j)
	require.NoError(t, err)
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), childVariable+"="+string(text), "ROCKETMQ_GO_LOG_LEVEL=fatal", races.Environment)
	var complaints strings.Builder
	cmd.Stderr = &complaints
	in, err := cmd.StdinPipe()
	require.NoError(t, err)
	stdout, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	p := &process{}
	var reading sync.WaitGroup
	reading.Go(func() {
		for lines := bufio.NewScanner(stdout); lines.Scan(); {
			var h heard
			if json.Unmarshal(lines.Bytes(), &h) == nil {
				p.mu.Lock()
				p.got = append(p.got, h)
				p.mu.Unlock()
			}
		}
	})
	var once sync.Once
	end := func(how func()) {
		once.Do(func() {
			how()
			reading.Wait()
			_ = cmd.Wait() // what it could not do shows in what it has not said
			for _, r := range races.Unknown(complaints.String()) {
				t.Errorf("a data race that is not on the list of package races: %s", r.Text)
			}
			if t.Failed() {
				t.Logf("%s said: %s", j.Kind, complaints.String())
			}
		})
	}
	p.stop = func() { end(func() { _ = in.Close() }) }
	p.kill = func() { end(func() { _ = cmd.Process.Kill() }) }
	t.Cleanup(p.stop)
	return p
}

func (p *process) heard() []heard {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.got)
}

func (p *process) bodies() []string {
	var bodies []string
	for _, h := range p.heard() {
		bodies = append(bodies, h.Body)
	}
	slices.Sort(bodies)
	return bodies
}

// wait waits until something is so; the library takes up to a minute for some things.
func wait(t *testing.T, so func() bool, what string, args ...any) {
	t.Helper()
	require.Eventually(t, so, 3*time.Minute, 10*time.Millisecond, append([]any{what}, args...)...)
}

// library is a cluster for the library, with a raw client.
type library struct {
	*testing.T
	*cluster
	raw *remoting.Client
}

func newLibrary(t *testing.T, opt rmqserver.BrokerOptions, topic string, more ...string) *library {
	t.Parallel()
	l := &library{T: t, cluster: start(t, opt, more...), raw: remoting.NewClient(remoting.Options{})}
	t.Cleanup(l.raw.Close)
	l.create(topic, 2)
	return l
}

func (l *library) create(topic string, queues int) {
	l.Helper()
	for _, b := range l.brokers {
		require.NoError(l, l.raw.UpdateTopic(l.Context(), b.Addr(), remoting.TopicConfig{Name: topic, ReadQueues: queues, WriteQueues: queues,
			Perm: remoting.PermRead | remoting.PermWrite}))
	}
}

func (l *library) job(kind, group, topic string) job {
	return job{Kind: kind, NameServers: []string{l.names.Addr()}, Group: group, Topic: topic}
}

// send stores a message on the first broker.
func (l *library) send(topic string, queue int, body string) {
	l.Helper()
	_, err := l.raw.Call(l.Context(), l.brokers[0].Addr(), sendRequest(topic, queue, "", []byte(body)))
	require.NoError(l, err)
}

// unread is what group has not finished, over all brokers.
func (l *library) unread(group, topic string) (n int64) {
	l.Helper()
	for _, b := range l.brokers {
		stats, err := l.raw.ConsumeStats(l.Context(), b.Addr(), group, topic)
		require.NoError(l, err)
		for _, o := range stats {
			n += o.Broker - o.Consumer
		}
	}
	return n
}

// members of group at the first broker.
func (l *library) members(group string, n int) {
	l.Helper()
	wait(l.T, func() bool {
		ids, err := l.raw.ConsumerIDs(l.Context(), l.brokers[0].Addr(), group)
		return err == nil && len(ids) == n
	}, "%d members of %s", n, group)
}

// Every way to send arrives once, over two brokers.
func TestLibrarySendsAndConsumes(t *testing.T) {
	l := newLibrary(t, rmqserver.BrokerOptions{DelayFactor: 0.02}, "orders", "second")
	reader := run(t, l.job("consume", "readers", "orders"))
	l.members("readers", 1)
	const n = 50
	j := l.job("produce", "", "orders")
	j.N = n
	sender := run(t, j)
	want := []string{"delayed0"}
	for i := range n {
		for _, kind := range []string{"sync", "async", "batch", "oneway"} {
			want = append(want, fmt.Sprint(kind, i))
		}
	}
	slices.Sort(want)
	wait(t, func() bool { return len(reader.heard()) > len(want) }, "all is read")
	var got []string
	queues := map[string]bool{}
	for _, h := range reader.heard() {
		require.Equal(t, "yes", h.Property, h.Body)
		queues[h.Queue] = true
		if h.Tag == "large" {
			require.Equal(t, 6+9*10_000, h.Size)
			continue
		}
		require.Equal(t, h.Body, h.Keys)
		require.True(t, strings.HasPrefix(h.Body, h.Tag))
		got = append(got, h.Body)
	}
	slices.Sort(got)
	require.Equal(t, want, got, "each once")
	require.Len(t, queues, 4)
	wait(t, func() bool { return len(sender.heard()) == 2*n+3 }, "all results")
	results := sender.heard()

	// Tools find messages by what the library returned.
	for _, r := range []heard{results[0], results[2*n+1]} {
		found := 0
		for _, b := range l.brokers {
			a, err := l.raw.Call(t.Context(), b.Addr(), remoting.NewRequest(remoting.ReqQueryMessage, nil, "topic", "orders", "key", r.Body,
				"maxNum", "32", "beginTimestamp", "0", "endTimestamp", "9999999999999", "_UNIQUE_KEY_QUERY", "true"), remoting.QueryNotFound)
			require.NoError(t, err)
			messages, err := remoting.ParseMessages(a.Body)
			require.NoError(t, err)
			for _, m := range messages {
				require.Equal(t, r.Property, m.ID())
				found++
			}
		}
		require.Equal(t, 1, found, r)
	}
	sender.stop()
	reader.stop() // which stores the positions
	wait(t, func() bool { return l.unread("readers", "orders") == 0 }, "positions at the end")

	again := run(t, l.job("consume", "readers", "orders"))
	filter := l.job("consume", "filters", "orders")
	filter.Tag = "sync || oneway"
	filtered := run(t, filter)
	l.members("filters", 1)
	wait(t, func() bool { return len(filtered.heard()) == 2*n }, "the two tags")
	for _, h := range filtered.heard() {
		require.Contains(t, []string{"sync", "oneway"}, h.Tag)
	}
	l.members("readers", 1)
	l.send("orders", 0, "one more")
	wait(t, func() bool { return slices.Equal(again.bodies(), []string{"one more"}) }, "goes on where it was: %v", again.bodies)
}

// What a listener does not take comes again, and ends with the dead letters.
func TestLibraryRetries(t *testing.T) {
	l := newLibrary(t, rmqserver.BrokerOptions{DelayFactor: 0.005}, "orders")
	// A consumer that begins before its retry topic is there looks for it again after half a minute, with a real broker too.
	for _, group := range []string{"patient", "impatient"} {
		l.create("%RETRY%"+group, 1)
	}
	l.send("orders", 0, "x")
	patient, impatient := l.job("consume", "patient", "orders"), l.job("consume", "impatient", "orders")
	patient.Fail, impatient.Fail, impatient.MaxRetries = 2, 100, 1
	p, i := run(t, patient), run(t, impatient)
	times := func(p *process) (times []int32) {
		for _, h := range p.heard() {
			require.Equal(t, "orders", h.Topic, "the library says where it was first")
			times = append(times, h.Times)
		}
		return times
	}
	wait(t, func() bool { return slices.Equal(times(p), []int32{0, 1, 2}) }, "three times: %v", times(p))
	dead := remoting.Queue{Topic: "%DLQ%impatient", Broker: "c"}
	wait(t, func() bool {
		n, err := l.raw.MaxOffset(t.Context(), l.brokers[0].Addr(), dead)
		return err == nil && n == 1
	}, "a dead letter")
	wait(t, func() bool { return slices.Equal(times(i), []int32{0, 1}) }, "two times")
	r, err := l.raw.PullMessages(t.Context(), l.brokers[0].Addr(), remoting.Pull{Group: "tools", Queue: dead, Max: 1, Subscription: remoting.NewSubscription(dead.Topic, "", 0)})
	require.NoError(t, err)
	require.Equal(t, "x", string(r.Messages[0].Body))
	require.EqualValues(t, 2, r.Messages[0].ReconsumeTimes)
}

// Ordered consumers lock their queues, keep the order, and take over from one that dies.
func TestLibraryInOrder(t *testing.T) {
	l := newLibrary(t, rmqserver.BrokerOptions{}, "orders")
	j := l.job("consume", "ordered", "orders")
	j.Orderly = true
	first := run(t, j)
	l.members("ordered", 1)
	for i := range 100 {
		l.send("orders", i%2, fmt.Sprintf("%03d", i))
	}
	wait(t, func() bool { return len(first.heard()) == 100 }, "all")
	last := map[string]string{}
	for _, h := range first.heard() {
		require.Less(t, last[h.Queue], h.Body)
		last[h.Queue] = h.Body
	}
	got, err := l.raw.LockQueues(t.Context(), l.brokers[0].Addr(), "ordered", "somebody", []remoting.Queue{{Topic: "orders", Broker: "c", ID: 0}})
	require.NoError(t, err)
	require.Empty(t, got, "the library holds it")
	first.kill()
	l.members("ordered", 0)
}

// Members of a group share the queues; each of a broadcast group gets all, and keeps its positions itself.
func TestLibraryGroups(t *testing.T) {
	l := newLibrary(t, rmqserver.BrokerOptions{}, "orders")
	a, b := run(t, l.job("consume", "shared", "orders")), run(t, l.job("consume", "shared", "orders"))
	j := l.job("consume", "all", "orders")
	j.Broadcast = true
	x, y := run(t, j), run(t, j)
	l.members("shared", 2)
	l.members("all", 2)
	sent := 0
	wait(t, func() bool { // until the members have divided the queues
		l.send("orders", sent%2, fmt.Sprint(sent))
		sent++
		return len(a.heard()) > 0 && len(b.heard()) > 0
	}, "both have read")
	wait(t, func() bool { return len(x.heard()) == sent && len(y.heard()) == sent }, "everybody gets everything")
	wait(t, func() bool {
		both := append(a.bodies(), b.bodies()...)
		slices.Sort(both)
		return len(slices.Compact(both)) == sent
	}, "the two have read all")
	groups, err := l.raw.ConsumingGroups(t.Context(), l.brokers[0].Addr(), "orders")
	require.NoError(t, err)
	require.Contains(t, groups, "all")
	require.EqualValues(t, sent, l.unread("all", "orders"), "no positions at the broker")

	before := len(a.heard())
	b.kill()
	l.members("shared", 1)
	wait(t, func() bool { // it has the queue of the other too
		l.send("orders", 0, fmt.Sprint("more", sent))
		l.send("orders", 1, fmt.Sprint("more", sent))
		sent++
		queues := map[string]bool{}
		for _, h := range a.heard()[before:] {
			queues[h.Queue] = true
		}
		return len(queues) == 2
	}, "takes over")
}

// Transactions are seen when they are committed, by the producer or when it is asked.
func TestLibraryTransactions(t *testing.T) {
	l := newLibrary(t, rmqserver.BrokerOptions{TransactionTimeout: 50 * time.Millisecond, TransactionInterval: 200 * time.Millisecond, TransactionChecks: 20}, "orders")
	reader := run(t, l.job("consume", "readers", "orders"))
	l.members("readers", 1)
	sender := run(t, l.job("transact", "", "orders")) // it registers a second after its first send
	want := []string{"commit", "commit when asked", "commit when asked again"}
	wait(t, func() bool { return len(reader.heard()) >= len(want) }, "what was committed")
	checked := remoting.Queue{Topic: "TRANS_CHECK_MAX_TIME_TOPIC", Broker: "c"}
	wait(t, func() bool {
		n, err := l.raw.MaxOffset(t.Context(), l.brokers[0].Addr(), checked)
		return err == nil && n == 1
	}, "one is given up")
	asked := sender.bodies()
	require.Contains(t, asked, "roll back when asked")
	require.Contains(t, asked, "never known")
	l.send("orders", 0, "end")
	l.send("orders", 1, "end")
	wait(t, func() bool { return len(reader.heard()) >= len(want)+2 }, "the end")
	require.Equal(t, append(want, "end", "end"), reader.bodies())
}
