package remoting_test

import (
	"context"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/turnout-mq/turnout/broker/rocketmq/remoting"
	"github.com/turnout-mq/turnout/testenv"
)

// Every typed call, once, on a real name server and broker.
func TestCallsOnRealServers(t *testing.T) {
	testenv.Each(t, testenv.Spec{RocketMQ: []string{"rocketmq-a"}}, func(t *testing.T, e *testenv.Env) {
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
		defer cancel()
		var notices atomic.Int32
		c := remoting.NewClient(remoting.Options{Handler: func(_ string, r *remoting.Command) *remoting.Command {
			if r.Code == remoting.ReqConsumerIDsChanged && r.Fields["consumerGroup"] == "g" {
				notices.Add(1)
			}
			return nil
		}})
		defer c.Close()
		ns := e.Addresses("rocketmq-a")[0]

		info, err := c.ClusterInfo(ctx, ns)
		require.NoError(t, err)
		require.Equal(t, []string{"rocketmq-a"}, info.Clusters["rocketmq-a"])
		addr := info.Brokers["rocketmq-a"].Master()
		require.NotEmpty(t, addr)

		_, err = c.Route(ctx, ns, "orders")
		require.True(t, remoting.HasCode(err, remoting.TopicNotExist), err)
		_, err = c.TopicConfig(ctx, addr, "orders")
		require.True(t, remoting.HasCode(err, remoting.TopicNotExist), err)
		config := remoting.TopicConfig{Name: "orders", ReadQueues: 2, WriteQueues: 2, Perm: remoting.PermRead | remoting.PermWrite,
			FilterType: "SINGLE_TAG"}
		require.NoError(t, c.UpdateTopic(ctx, addr, config))
		got, err := c.TopicConfig(ctx, addr, "orders")
		require.NoError(t, err)
		got.Attributes = nil
		require.Equal(t, config, *got)
		var route *remoting.Route
		require.Eventually(t, func() bool { route, err = c.Route(ctx, ns, "orders"); return err == nil }, time.Minute, 10*time.Millisecond)
		require.Equal(t, []remoting.QueueData{{Broker: "rocketmq-a", ReadQueues: 2, WriteQueues: 2, Perm: 6}}, route.Queues)
		topics, err := c.Topics(ctx, ns)
		require.NoError(t, err)
		require.Contains(t, topics, "orders")

		q := remoting.Queue{Topic: "orders", Broker: "rocketmq-a", ID: 1}
		for _, tag := range []string{"a", "b"} {
			a, err := c.Call(ctx, addr, remoting.NewRequest(remoting.ReqSendMessage, []byte("body "+tag), "producerGroup", "p",
				"topic", "orders", "queueId", "1", "defaultTopic", "x", "defaultTopicQueueNums", "1", "sysFlag", "0", "bornTimestamp", "1",
				"flag", "0", "properties", remoting.AppendProperty("", "TAGS", tag), "reconsumeTimes", "0", "unitMode", "false", "batch", "false"))
			require.NoError(t, err)
			require.Equal(t, "1", a.Fields["queueId"])
		}
		require.Eventually(t, func() bool { n, err := c.MaxOffset(ctx, addr, q); return err == nil && n == 2 }, time.Minute, time.Millisecond)
		n, err := c.MinOffset(ctx, addr, q)
		require.NoError(t, err)
		require.Zero(t, n)
		n, err = c.SearchOffset(ctx, addr, q, time.Now().Add(-time.Hour))
		require.NoError(t, err)
		require.Zero(t, n)
		stats, err := c.TopicStats(ctx, addr, "orders")
		require.NoError(t, err)
		require.EqualValues(t, 2, stats[q].Max)

		_, err = c.PullMessages(ctx, addr, remoting.Pull{Group: "g", Queue: q, Max: 32, Subscription: remoting.NewSubscription("orders", "", 1)})
		require.NoError(t, err, "the broker makes groups by itself")
		require.NoError(t, c.UpdateSubscriptionGroup(ctx, addr, remoting.NewSubscriptionGroup("g")))
		ids, err := c.ConsumerIDs(ctx, addr, "g")
		require.NoError(t, err)
		require.Empty(t, ids)
		_, err = c.ConsumerConnections(ctx, addr, "nobody")
		require.True(t, remoting.HasCode(err, remoting.ConsumerNotOnline), err)
		all := remoting.NewSubscription("orders", "", 1)
		require.NoError(t, c.Heartbeat(ctx, addr, remoting.Heartbeat{ClientID: "me", Consumers: []remoting.ConsumerGroup{{Name: "g",
			ConsumeType: "CONSUME_PASSIVELY", MessageModel: "CLUSTERING", FromWhere: "CONSUME_FROM_FIRST_OFFSET",
			Subscriptions: []remoting.Subscription{all}}}}))
		ids, err = c.ConsumerIDs(ctx, addr, "g")
		require.NoError(t, err)
		require.Equal(t, []string{"me"}, ids)
		connections, err := c.ConsumerConnections(ctx, addr, "g")
		require.NoError(t, err)
		require.Equal(t, "me", connections.Connections[0].ClientID)
		require.Eventually(t, func() bool { return notices.Load() > 0 }, time.Minute, time.Millisecond)

		locked, err := c.LockQueues(ctx, addr, "g", "me", []remoting.Queue{q})
		require.NoError(t, err)
		require.Equal(t, []remoting.Queue{q}, locked)
		locked, err = c.LockQueues(ctx, addr, "g", "you", []remoting.Queue{q})
		require.NoError(t, err)
		require.Empty(t, locked)
		require.NoError(t, c.UnlockQueues(ctx, addr, "g", "me", []remoting.Queue{q}))

		_, found, exact, err := c.ConsumerOffset(ctx, addr, "g", q)
		require.NoError(t, err)
		require.False(t, found)
		require.True(t, exact)
		require.NoError(t, c.UpdateConsumerOffset(ctx, addr, "g", q, 0))
		n, found, _, err = c.ConsumerOffset(ctx, addr, "g", q)
		require.NoError(t, err)
		require.True(t, found)
		require.Zero(t, n)
		consumed, err := c.ConsumeStats(ctx, addr, "g", "orders")
		require.NoError(t, err)
		require.EqualValues(t, 2, consumed[q].Broker)

		pull := remoting.Pull{Group: "g", Queue: q, Max: 32, Subscription: remoting.NewSubscription("orders", "b", 1)}
		r, err := c.PullMessages(ctx, addr, pull)
		require.NoError(t, err)
		require.Equal(t, remoting.Success, r.Status)
		require.EqualValues(t, 2, r.Next)
		require.Len(t, r.Messages, 1)
		require.Equal(t, "body b", string(r.Messages[0].Body))
		require.Equal(t, "b", remoting.ParseProperties(r.Messages[0].Properties)["TAGS"])
		pull.Offset = 2
		r, err = c.PullMessages(ctx, addr, pull)
		require.NoError(t, err)
		require.Equal(t, remoting.PullNotFound, r.Status)
		pull.Offset = 9
		r, err = c.PullMessages(ctx, addr, pull)
		require.NoError(t, err)
		require.Equal(t, remoting.PullOffsetMoved, r.Status)
		pull.Offset = 0
		r, err = c.PullMessages(ctx, addr, pull)
		require.NoError(t, err)
		back := remoting.SendBack{Group: "g", Topic: "orders", Broker: q.Broker, PhysicalOffset: r.Messages[0].PhysicalOffset,
			MessageID: r.Messages[0].ID(), DelayLevel: 1, MaxReconsume: 100}
		require.NoError(t, c.SendBackMessage(ctx, addr, back))
		retry := remoting.Queue{Topic: "%RETRY%g", Broker: q.Broker}
		r, err = c.PullMessages(ctx, addr, remoting.Pull{Group: "g", Queue: retry, Max: 1, Suspend: 15 * time.Second,
			Subscription: remoting.NewSubscription(retry.Topic, "", 1)})
		require.NoError(t, err)
		require.Len(t, r.Messages, 1)
		require.EqualValues(t, 1, r.Messages[0].ReconsumeTimes)
		require.Eventually(t, func() bool {
			delays, err := c.DelayOffsets(ctx, addr)
			return err == nil && delays[1] == 1
		}, time.Minute, 10*time.Millisecond)
		back.PhysicalOffset = 1 << 40
		require.True(t, remoting.HasCode(c.SendBackMessage(ctx, addr, back), remoting.SystemError))

		settings, err := c.BrokerConfig(ctx, addr)
		require.NoError(t, err)
		require.Equal(t, "rocketmq-a", settings["brokerClusterName"])
		require.NoError(t, c.UpdateBrokerConfig(ctx, addr, map[string]string{"brokerPermission": "6"}))
		require.Eventually(t, func() bool { // it has no counters in its first seconds
			counters, err := c.BrokerRuntime(ctx, addr)
			return err == nil && counters["commitLogMaxOffset"] != "" && counters["dispatchBehindBytes"] != ""
		}, time.Minute, 10*time.Millisecond)

		require.NoError(t, c.Unregister(ctx, addr, "me", "g"))
		ids, err = c.ConsumerIDs(ctx, addr, "g")
		require.NoError(t, err)
		require.Empty(t, ids)
		if err := c.DeleteTopic(ctx, addr, "orders"); err != nil { // 5.5 without timer messages deletes it and fails after that
			require.True(t, remoting.HasCode(err, remoting.SystemError), err)
		}
		_, err = c.TopicConfig(ctx, addr, "orders")
		require.True(t, remoting.HasCode(err, remoting.TopicNotExist), err)
		require.NoError(t, c.ForgetTopic(ctx, ns, "orders"))
		topics, err = c.Topics(ctx, ns)
		require.NoError(t, err)
		require.False(t, slices.ContainsFunc(topics, func(name string) bool { return strings.HasPrefix(name, "orders") }))
	})
}
