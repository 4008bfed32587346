package rmqserver_test

import (
	"context"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/turnout-mq/turnout/broker"
	"github.com/turnout-mq/turnout/broker/rocketmq"
	"github.com/turnout-mq/turnout/broker/rocketmq/remoting"
	"github.com/turnout-mq/turnout/testenv/rmqserver"
)

// cluster is a name server with brokers.
type cluster struct {
	name    string
	names   *rmqserver.NameServer
	brokers []*rmqserver.Broker
}

// start starts a cluster with one broker of its name, as opt has it, and more of
// the names given.
func start(t testing.TB, opt rmqserver.BrokerOptions, more ...string) *cluster {
	t.Helper()
	names, err := rmqserver.StartNameServer(t.Context(), rmqserver.NameServerOptions{})
	require.NoError(t, err)
	t.Cleanup(names.Close)
	if opt.Cluster == "" {
		opt.Cluster = "c"
	}
	c := &cluster{name: opt.Cluster, names: names}
	opt.NameServers = []*rmqserver.NameServer{names}
	for _, name := range append([]string{opt.Name}, more...) {
		opt.Name = name
		b, err := rmqserver.StartBroker(t.Context(), opt)
		require.NoError(t, err)
		t.Cleanup(b.Close)
		c.brokers = append(c.brokers, b)
	}
	return c
}

func (c *cluster) config() broker.Config {
	return broker.Config{Name: c.name, Kind: broker.RocketMQ, Addresses: []string{c.names.Addr()}, ClusterID: c.name, Properties: map[string]string{}}
}

// A send that was stored and not acknowledged fails, may be repeated, and is then there twice with one id.
func TestDriverSendsWithoutAnswer(t *testing.T) {
	t.Parallel()
	k := start(t, rmqserver.BrokerOptions{})
	c, err := rocketmq.Open(t.Context(), k.config())
	require.NoError(t, err)
	defer func() { require.NoError(t, c.Close(context.Background())) }()
	require.NoError(t, c.CreateTopic(t.Context(), "t", broker.TopicSpec{Partitions: 1}))
	require.NoError(t, c.Warm(t.Context(), "t"))
	for _, cut := range []bool{true, false} {
		fault, err := k.brokers[0].Inject(rmqserver.Fault{Codes: rmqserver.SendCodes, Topic: "t", Count: 1, DropAnswer: true, Cut: cut})
		require.NoError(t, err)
		begin, err := c.EndOffsets(t.Context(), "t")
		require.NoError(t, err)
		e := &broker.Envelope{Message: broker.Message{ID: "0123456789abcdef0123456789abcdef", Body: []byte("x")}}
		try := func() error {
			done := make(chan error, 1)
			c.Send(t.Context(), "t", e, func(_ broker.Receipt, err error) { done <- err })
			return <-done
		}
		err = try()
		require.Error(t, err)
		require.Equal(t, broker.Retry, c.Classify(err), err)
		require.Equal(t, 1, fault.Hits())
		require.Eventually(t, func() bool { return try() == nil }, time.Minute, 10*time.Millisecond)
		got, _, err := c.Peek(t.Context(), "t", "c:0", begin["c:0"], 32)
		require.NoError(t, err)
		require.GreaterOrEqual(t, len(got), 2, "nothing is lost, and it is there twice")
		for _, d := range got {
			require.Equal(t, e.ID, d.ID)
		}
	}
}

// Positions that a tool sets while a group reads take it back, or forward.
func TestDriverGoesWhereItIsSet(t *testing.T) {
	t.Parallel()
	k := start(t, rmqserver.BrokerOptions{})
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	c, err := rocketmq.Open(ctx, k.config())
	require.NoError(t, err)
	defer func() { require.NoError(t, c.Close(context.Background())) }()
	require.NoError(t, c.CreateTopic(ctx, "t", broker.TopicSpec{Partitions: 1}))
	raw := remoting.NewClient(remoting.Options{})
	defer raw.Close()
	addr := k.brokers[0].Addr()
	send := func(body string) {
		_, err := raw.Call(ctx, addr, sendRequest("t", 0, "", []byte(body)))
		require.NoError(t, err)
	}
	got := make(chan string, 100)
	m, err := c.Join(ctx, broker.Membership{Group: "readers", Topic: "t", Claim: func(_ context.Context, c broker.Claim) {
		into := make([]broker.Delivery, 32)
		for n := c.Take(into); n > 0; n = c.Take(into) {
			for _, d := range into[:n] {
				got <- string(d.Body)
				c.Commit(d.Offset + 1)
			}
		}
	}})
	require.NoError(t, err)
	defer func() { require.NoError(t, m.Leave(context.Background())) }()
	read := func(want ...string) {
		t.Helper()
		for _, w := range want {
			select {
			case g := <-got:
				require.Equal(t, w, g)
			case <-ctx.Done():
				require.Fail(t, "not read", w)
			}
		}
	}
	committed := func(at int64) {
		t.Helper()
		require.Eventually(t, func() bool { p, err := c.Positions(ctx, "readers", "t"); return err == nil && p["c:0"] == at }, time.Minute, 10*time.Millisecond)
	}
	for _, body := range []string{"0", "1", "2"} {
		send(body)
	}
	read("0", "1", "2")
	committed(3)
	_, err = raw.Call(ctx, addr, remoting.NewRequest(222, nil, "topic", "t", "group", "readers", "timestamp", "0", "isForce", "true", "queueId", "0", "offset", "1"))
	require.NoError(t, err)
	committed(1)
	send("3") // ends the wait of the pull, which is told
	read("1", "2", "3")
	committed(4)
}

// sendRequest sends one message as clients before version 2 of the header do.
func sendRequest(topic string, queue int, properties string, body []byte) *remoting.Command {
	return remoting.NewRequest(remoting.ReqSendMessage, body, "producerGroup", "raw", "topic", topic,
		"queueId", strconv.Itoa(queue), "defaultTopic", "TBW102", "defaultTopicQueueNums", "4", "sysFlag", "0",
		"bornTimestamp", strconv.FormatInt(time.Now().UnixMilli(), 10), "flag", "0", "properties", properties,
		"reconsumeTimes", "0", "unitMode", "false", "batch", "false")
}
