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

// sendRequest sends one message as clients before version 2 of the header do.
func sendRequest(topic string, queue int, properties string, body []byte) *remoting.Command {
	return remoting.NewRequest(remoting.ReqSendMessage, body, "producerGroup", "raw", "topic", topic,
		"queueId", strconv.Itoa(queue), "defaultTopic", "TBW102", "defaultTopicQueueNums", "4", "sysFlag", "0",
		"bornTimestamp", strconv.FormatInt(time.Now().UnixMilli(), 10), "flag", "0", "properties", properties,
		"reconsumeTimes", "0", "unitMode", "false", "batch", "false")
}
