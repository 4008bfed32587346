package kafka_test

import (
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/turnout-mq/turnout/broker"
)

// Members come and go under traffic: every message is read, and the group ends at the end.
func TestChurn(t *testing.T) {
	t.Parallel()
	_, cfg := fake(t)
	c := open(t, cfg)
	name := topic(t, c, broker.TopicSpec{Partitions: 5})
	stop := make(chan struct{})
	var sender sync.WaitGroup
	sent := 0
	sender.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
			}
			for i, err := range burst(c, name, "", 10, func(i int) string { return fmt.Sprint(sent + i) }) {
				if err != nil {
					t.Errorf("message %d: %v", sent+i, err)
				}
			}
			sent += 10
		}
	})
	var members []*reading
	for round := range 8 {
		r := join(t, c, broker.Membership{Group: name, Topic: name, Retries: round%2 == 0})
		members = append(members, r)
		if round%3 == 0 {
			require.Eventually(t, func() bool { return r.member.State().Attached }, patience, 5*time.Millisecond)
		}
		if round >= 2 {
			ctx, cancel := within(patience)
			require.NoError(t, members[round-2].member.Leave(ctx))
			cancel()
		}
	}
	close(stop)
	sender.Wait()
	require.Eventually(t, func() bool {
		positions, err := c.Positions(t.Context(), name, name)
		if err != nil {
			return false
		}
		ends, err := c.EndOffsets(t.Context(), name)
		return err == nil && positions.Reached(ends)
	}, patience, 20*time.Millisecond)
	seen := map[string]bool{}
	for _, r := range members {
		for _, d := range r.all() {
			seen[string(d.Body)] = true
		}
	}
	require.Len(t, seen, sent)
}
