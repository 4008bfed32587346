package rocketmq

import (
	"fmt"
	"testing"

	"github.com/apache/rocketmq-client-go/v2/consumer"
	"github.com/apache/rocketmq-client-go/v2/primitive"
	"github.com/stretchr/testify/require"

	"github.com/turnout-mq/turnout/broker/rocketmq/remoting"
)

// Members that use the library and members that use this package must come to the same division.
func TestAllocateIsTheLibrarys(t *testing.T) {
	for queues := range 12 {
		for members := 1; members < 8; members++ {
			var ids []string
			for i := range members {
				ids = append(ids, fmt.Sprintf("10.0.0.%d@x", i))
			}
			var ours []remoting.Queue
			var theirs []*primitive.MessageQueue
			for i := range queues {
				q := remoting.Queue{Topic: "t", Broker: fmt.Sprint("b", i/5), ID: i % 5}
				ours = append(ours, q)
				theirs = append(theirs, &primitive.MessageQueue{Topic: q.Topic, BrokerName: q.Broker, QueueId: q.ID})
			}
			for _, id := range ids {
				want := map[remoting.Queue]bool{}
				for _, q := range consumer.AllocateByAveragely("g", id, theirs, ids) {
					want[remoting.Queue{Topic: q.Topic, Broker: q.BrokerName, ID: q.QueueId}] = true
				}
				require.Equal(t, want, allocate(id, ids, ours), "%d queues, %d members, %s", queues, members, id)
			}
		}
	}
}
