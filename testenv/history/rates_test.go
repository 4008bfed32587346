package history

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestRatesPerClusterAndSpan(t *testing.T) {
	r := NewRates(time.Second)
	require.Empty(t, r.Buckets())
	r.Add(
		Event{T: 10*second + 1, Op: OpSend, ID: "m1"},
		Event{T: 10*second + 5, Op: OpSend, ID: "m2"},
		Event{T: 10*second + 8, Op: OpOK, ID: "m1", Cluster: "kafka-a"},
		Event{T: 10*second + 9, Op: OpRecv, ID: "m1", Cluster: "kafka-a", Group: "g"},
		Event{T: 10*second + 10, Op: OpDone, ID: "m1", Group: "g"},
	)
	require.Len(t, r.Buckets(), 1)
	r.Add(
		Event{T: 12*second + 5, Op: OpOK, ID: "m2", Cluster: "kafka-b"},
		Event{T: 12*second + 6, Op: OpSend, ID: "m3"},
		Event{T: 12*second + 9, Op: OpUnknown, ID: "m3"},
		Event{T: 9 * second, Op: OpOK, ID: "before the first"},
		Event{T: 1 << 62, Op: OpOK, ID: "in a hundred years"},
	)
	require.Equal(t, []Bucket{
		{Start: at(10), Clusters: map[string]Rate{"kafka-a": {Acknowledged: 1, Received: 1}}, Longest: 7},
		{Start: at(11)},
		{Start: at(12), Clusters: map[string]Rate{"kafka-b": {Acknowledged: 1}}, Errors: 1, Longest: 2 * time.Second},
	}, r.Buckets())
}

func TestFirstAckOnTheNewCluster(t *testing.T) {
	events := []Event{
		{T: 1 * second, Op: OpOK, ID: "m1", Cluster: "kafka-b"},
		{T: 3 * second, Op: OpOK, ID: "m2", Cluster: "kafka-a"},
		{T: 4 * second, Op: OpRecv, ID: "m2", Cluster: "kafka-b"},
		{T: 5 * second, Op: OpOK, ID: "m3", Cluster: "kafka-b"},
		{T: 6 * second, Op: OpOK, ID: "m4", Cluster: "kafka-b"},
	}
	e, ok := FirstAck(events, "kafka-b", at(2))
	require.True(t, ok)
	require.Equal(t, "m3", e.ID)
	_, ok = FirstAck(events, "kafka-a", at(4))
	require.False(t, ok)
}
