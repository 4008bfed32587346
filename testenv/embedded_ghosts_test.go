package testenv_test

import (
	"context"
	"net"
	"testing"
	"time"

	"github.com/IBM/sarama"
	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/turnout-mq/turnout/testenv"
)

type idle struct{}

func (idle) Setup(sarama.ConsumerGroupSession) error   { return nil }
func (idle) Cleanup(sarama.ConsumerGroupSession) error { return nil }
func (idle) ConsumeClaim(_ sarama.ConsumerGroupSession, c sarama.ConsumerGroupClaim) error {
	for range c.Messages() { // until the session ends
	}
	return nil
}

// A process that is killed while it joins a group leaves no member behind.
func TestAMemberThatDiesWhileItJoinsIsLeftOut(t *testing.T) {
	t.Parallel()
	e, err := testenv.Start(t.Context(), testenv.Spec{Backend: testenv.Embedded, Kafka: []string{"kafka-a"}})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, e.Close()) })
	k := e.EmbeddedKafka("kafka-a")
	require.NoError(t, k.CreateTopic("orders", 4, nil))
	conf := sarama.NewConfig()
	conf.Consumer.Group.Session.Timeout, conf.Consumer.Group.Heartbeat.Interval, conf.Consumer.Group.Rebalance.Timeout = 3*time.Second, time.Second, 2*time.Second
	group, err := sarama.NewConsumerGroup(e.Addresses("kafka-a"), "billing", conf)
	require.NoError(t, err)
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		for ctx.Err() == nil {
			_ = group.Consume(ctx, []string{"orders"}, idle{}) // which ends at each rebalance
		}
	}()
	t.Cleanup(func() {
		stop()
		<-done
		require.NoError(t, group.Close())
	})
	owns := func(members, partitions int) func(*kfake.GroupInfo) bool {
		return func(g *kfake.GroupInfo) bool {
			return g != nil && g.State == "Stable" && len(g.Members) == members && g.Members[0].NumAssigned() == partitions
		}
	}
	waiting, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	_, err = k.WaitGroupInfo(waiting, "billing", owns(1, 4))
	require.NoError(t, err)

	conn, err := net.Dial("tcp", e.Addresses("kafka-a")[0])
	require.NoError(t, err)
	meta := kmsg.NewConsumerMemberMetadata()
	meta.Topics = []string{"orders"}
	join := kmsg.NewPtrJoinGroupRequest()
	join.Version, join.Group, join.ProtocolType, join.SessionTimeoutMillis, join.RebalanceTimeoutMillis = 2, "billing", "consumer", 3000, 2000
	join.Protocols = []kmsg.JoinGroupRequestProtocol{{Name: "range", Metadata: meta.AppendTo(nil)}}
	_, err = conn.Write(kmsg.NewRequestFormatter(kmsg.FormatterClientID("killed")).AppendRequest(nil, join, 1))
	require.NoError(t, err)
	_, err = k.WaitGroupInfo(waiting, "billing", func(g *kfake.GroupInfo) bool { return len(g.Members) == 2 })
	require.NoError(t, err)
	require.NoError(t, conn.Close())
	_, err = k.WaitGroupInfo(waiting, "billing", owns(1, 4))
	require.NoError(t, err)
}
