package lag_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/turnout-mq/turnout/broker"
	"github.com/turnout-mq/turnout/internal/clusters/clustertest"
	"github.com/turnout-mq/turnout/internal/lag"
)

// A position beyond the end is of messages that the cluster has lost, or of a topic before this one: it does not say that what
// came later was read.
func TestAPositionBeyondTheEndIsNone(t *testing.T) {
	m := clustertest.NewMemory("a")
	c := m.Connect(nil)
	require.NoError(t, c.CreateTopic(t.Context(), "orders", broker.TopicSpec{Partitions: 1}))
	for range 5 {
		_, err := m.Store("orders", "0", clustertest.Record{})
		require.NoError(t, err)
	}
	for _, test := range []struct {
		at, unread int64
		start      broker.Offsets
	}{
		{at: 5, unread: 0},
		{at: 3, unread: 2},
		{at: 1000, unread: 5},
		{at: 1000, unread: 3, start: broker.Offsets{"0": 2}},
	} {
		m.Commit("g", "orders", "0", test.at)
		l, err := lag.Of(t.Context(), c, "orders", "g", test.start, nil)
		require.NoError(t, err)
		require.Equal(t, test.unread, l.Unread, "%+v", test)
		require.Equal(t, test.unread == 0, l.Finished(nil), "%+v", test)
	}
}
