package faulttest

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/turnout-mq/turnout/internal/scene"
	"github.com/turnout-mq/turnout/testenv"
	"github.com/turnout-mq/turnout/testenv/history"
)

// slow makes a backlog, slower makes one last.
func slow(spec *scene.Spec)   { spec.Delay = 200 * time.Millisecond }
func slower(spec *scene.Spec) { spec.Delay = time.Second }

// All members are killed while they read what is left on the cluster that the topic has moved away from, and those that
// are started after them, too.
func TestGroupIsKilledWhileItLeavesACluster(t *testing.T) {
	harmless(t, func(t *testing.T, env *testenv.Env) {
		for _, m := range moves {
			t.Run(m[0]+" "+m[1], func(t *testing.T) {
				t.Parallel()
				s := newStage(t, env, m[0], m[1])
				s.sender("orders", nil)
				left := func() int64 { return s.left(s.groups[0], m[0]) }
				s.eventually(func() bool { return left() > 300 }, s.state, "a backlog on %s", m[0])
				s.receiver("billing-1", slow)
				s.receiver("billing-2", slow)
				s.edit(m[1])
				s.applied(m[1])
				s.kill(s.of(scene.Receiver)...)
				was := left()
				require.Positive(t, was)
				s.stop(s.of(scene.Sender)...)
				s.receiver("billing-1", slower)
				s.receiver("billing-2", slower)
				s.eventually(func() bool { return left() < was }, s.state, "the next members go on")
				s.kill(s.of(scene.Receiver)...)
				t.Logf("%d were left on %s when the first members were killed, %d when the next ones were", was, m[0], left())
				s.receiver("billing-1", nil)
				s.receiver("billing-2", nil)
				s.verdict()
			})
		}
	})
}

// A sender sleeps through a whole move, its session too, and goes on with what it was at.
func TestSenderIsStoppedThroughAMove(t *testing.T) {
	harmless(t, func(t *testing.T, env *testenv.Env) {
		for _, m := range moves {
			t.Run(m[0]+" "+m[1], func(t *testing.T) {
				t.Parallel()
				s := newStage(t, env, m[0], m[1])
				s.receiver("billing", nil)
				s.sender("orders", nil)
				sleeper := s.sender("sleeper", brief)
				s.applied(m[0])
				require.NoError(t, sleeper.Pause())
				s.eventually(func() bool { _, there := s.participants()[sleeper.Pid()]; return !there }, s.state, "the session of the stopped sender ends")
				s.edit(m[1])
				s.applied(m[1], append(s.of(scene.Receiver), s.of(scene.Sender)[0])...)
				s.flows(m[1])
				s.closed(m[0])
				require.NoError(t, sleeper.Resume())
				resumed := time.Now()
				s.registered()
				s.applied(m[1])
				s.flows(m[1])
				s.verdict()
				stray := 0
				for _, e := range s.history() {
					if e.Op == history.OpOK && e.Cluster == m[0] && e.T > resumed.UnixNano() {
						stray++
					}
				}
				t.Logf("%d messages were stored on %s after the group had left it", stray, m[0])
			})
		}
	})
}

// A member sleeps through a whole move with messages in its hands; others take over.
func TestReceiverIsStoppedThroughAMove(t *testing.T) {
	harmless(t, func(t *testing.T, env *testenv.Env) {
		for _, m := range moves {
			t.Run(m[0]+" "+m[1], func(t *testing.T) {
				t.Parallel()
				s := newStage(t, env, m[0], m[1])
				s.sender("orders", nil)
				s.receiver("billing", nil)
				sleeper := s.receiver("sleeper", func(spec *scene.Spec) { slow(spec); brief(spec) })
				s.flows(m[0])
				require.NoError(t, sleeper.Pause())
				s.edit(m[1])
				s.applied(m[1], s.running[:2]...)
				s.flows(m[1])
				require.NoError(t, sleeper.Resume())
				s.registered()
				s.applied(m[1])
				s.verdict()
			})
		}
	})
}
