package scene_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/turnout-mq/turnout/testenv/history"
)

func TestStatusTellsWhatAProcessUses(t *testing.T) {
	s := newStage(t, nil)
	receiver := s.receiver("billing")
	p := s.ready(receiver)
	s.ready(s.sender("orders"))
	s.more(history.OpDone, "billing")
	for range 3 {
		status, err := p.Status(s.ctx())
		require.NoError(t, err)
		require.Equal(t, 1, status.Goroutines["main.main"], "%v", status.Goroutines)
		require.Equal(t, 8, status.Goroutines["github.com/turnout-mq/turnout/consumer.(*workers).work"], "the group's concurrency: %v", status.Goroutines)
		require.Greater(t, status.Sockets, 1, "ZooKeeper and a broker")
		require.Positive(t, status.Heap)
	}
	require.NoError(t, p.Kill())
	_, err := p.Status(s.ctx())
	require.ErrorContains(t, err, "ended")
}
