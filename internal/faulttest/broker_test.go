package faulttest

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/turnout-mq/turnout/testenv"
)

// brokerOf is the node of a cluster that stores messages.
func brokerOf(env *testenv.Env, cluster string) string {
	if env.Kind(cluster) == "rocketmq" {
		return cluster + "/broker"
	}
	return cluster
}

func TestBrokerIsKilledAndStartedAgain(t *testing.T) {
	harmful(t, func(t *testing.T, env *testenv.Env) {
		for _, m := range leaving(env) {
			t.Run(m[0], func(t *testing.T) {
				s := newStage(t, env, m[0], m[1])
				s.receiver("billing-1", nil)
				s.receiver("billing-2", nil)
				s.sender("orders", nil)
				s.flows(m[0])
				require.NoError(t, env.Kill(s.ctx(), brokerOf(env, m[0])))
				require.NoError(t, env.Restart(s.ctx(), brokerOf(env, m[0])))
				back := time.Now()
				t.Logf("%s: consumers go on %v after its broker serves again", m[0], s.flowsSince(back, m[0]).Sub(back).Round(time.Millisecond))
				s.verdict()
			})
		}
	})
}

// The topic moves away from a cluster whose broker is dead, or hangs: sends go on elsewhere, and what it had acknowledged
// is handled when it is back.
func TestTopicMovesAwayFromABadBroker(t *testing.T) {
	harmful(t, func(t *testing.T, env *testenv.Env) {
		for _, m := range leaving(env) {
			node := brokerOf(env, m[0])
			for name, fault := range map[string]struct{ begin, end func() error }{
				"is dead": {
					begin: func() error { return env.Kill(t.Context(), node) },
					end:   func() error { return env.Restart(t.Context(), node) },
				},
				"hangs": {
					begin: func() error { return env.Pause(node) },
					end:   func() error { return env.Resume(node) },
				},
			} {
				t.Run(m[0]+" "+name, func(t *testing.T) {
					s := newStage(t, env, m[0], m[1])
					s.receiver("billing", nil)
					s.sender("orders", nil)
					s.flows(m[0])
					require.NoError(t, fault.begin())
					s.edit(m[1])
					edited := time.Now()
					t.Logf("%s %s: messages go through %s %v after the edit", m[0], name, m[1], s.flowsSince(edited, m[1]).Sub(edited).Round(time.Millisecond))
					require.NoError(t, fault.end())
					s.applied(m[1])
					s.verdict()
				})
			}
		}
	})
}
