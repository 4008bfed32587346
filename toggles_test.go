package turnout_test

import (
	"fmt"
	"os"
	"runtime"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/turnout-mq/turnout/testenv"
)

// sockets counts those of this process.
func sockets(t *testing.T) (n int) {
	t.Helper()
	const dir = "/proc/self/fd"
	files, err := os.ReadDir(dir)
	require.NoError(t, err)
	for _, f := range files {
		if to, err := os.Readlink(dir + "/" + f.Name()); err == nil && strings.HasPrefix(to, "socket:") { // it may be closed by now
			n++
		}
	}
	return n
}

// RocketMQ's library leaves goroutines behind for a day with each of its consumers. A shadow group is none of them.
func TestTogglesOfARocketMQShadowGroupLeaveNothingBehind(t *testing.T) { // alone, because it counts
	const toggles, few = 200, 10 // what comes once is not left by toggles
	testenv.Each(t, testenv.Spec{ZooKeeper: 1, RocketMQ: []string{"rocketmq-a"}}, func(t *testing.T, env *testenv.Env) {
		w := newWorld(t, env, "rocketmq-a")
		w.putTopic("rocketmq-a")
		w.putShadow("rocketmq-a")
		w.putGroup(nil)
		client := w.open(shadowApp)
		var in sides
		_, err := client.Subscribe(w.ctx(), w.group, in.listen)
		require.NoError(t, err)
		toggle := w.toggler(client, &in)
		for range 3 {
			toggle()
		}
		by, all, open := goroutines(), runtime.NumGoroutine(), sockets(t)
		for range toggles {
			toggle()
		}
		var more []string
		w.eventually(func() bool {
			more = nil
			for creator, n := range goroutines() {
				if n > by[creator]+few {
					more = append(more, fmt.Sprintf("%d more goroutines by %s", n-by[creator], creator))
				}
			}
			if n := sockets(t); n > open+few {
				more = append(more, fmt.Sprintf("%d more sockets", n-open))
			}
			return len(more) == 0
		}, func() any { return more }, "nothing is left behind")
		t.Logf("%d toggles: goroutines %d before, %d after; sockets %d before, %d after", toggles, all, runtime.NumGoroutine(), open, sockets(t))
		require.Empty(t, in.production.bodies())
	})
}
