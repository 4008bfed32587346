package faulttest

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/turnout-mq/turnout/internal/scene"
	"github.com/turnout-mq/turnout/metadata"
	"github.com/turnout-mq/turnout/testenv"
	"github.com/turnout-mq/turnout/testenv/history"
)

func TestEditsByHandMoveTheTopic(t *testing.T) {
	harmless(t, func(t *testing.T, env *testenv.Env) {
		tour := three
		s := newStage(t, env, tour...)
		s.receiver("billing", nil)
		s.sender("orders", nil)
		for _, cluster := range append(tour[1:], tour[0]) {
			s.editByHand(cluster)
			s.applied(cluster)
			s.flows(cluster)
		}
		s.verdict()
	})
}

func TestThereAndBackAtOnce(t *testing.T) {
	harmless(t, func(t *testing.T, env *testenv.Env) {
		for _, m := range moves {
			t.Run(m[0]+" "+m[1], func(t *testing.T) {
				t.Parallel()
				s := newStage(t, env, m[0], m[1])
				s.receiver("billing", nil)
				s.sender("orders", nil)
				for _, gap := range []time.Duration{0, 50 * time.Millisecond, 190 * time.Millisecond} {
					s.edit(m[1])
					<-time.After(gap) // it is what the case is about
					s.edit(m[0])
					s.applied(m[0])
					s.flows(m[0])
				}
				s.verdict()
			})
		}
	})
}

// An application acts on a wish that nobody has recorded when it is taken back: the one whose turn it is to record it is
// stopped. What was sent meanwhile is found.
func TestWishIsTakenBackBeforeAnybodyRecordedIt(t *testing.T) {
	harmless(t, func(t *testing.T, env *testenv.Env) {
		for _, m := range moves {
			t.Run(m[0]+" "+m[1], func(t *testing.T) {
				t.Parallel()
				// The others record it after up to two seconds, by chance, so it may take more than one try.
				for try := 1; ; try++ {
					s := newStage(t, env, m[0], m[1])
					s.receiver("billing", nil)
					s.sender("orders-1", nil)
					s.sender("orders-2", nil)
					first := slices.MinFunc(s.running, func(a, b *scene.Process) int {
						all := s.participants()
						return strings.Compare(all[a.Pid()].ID, all[b.Pid()].ID)
					})
					require.NoError(t, first.Pause())
					edited := time.Now()
					s.edit(m[1])
					s.eventually(func() bool {
						return slices.ContainsFunc(s.history(), func(e history.Event) bool { return e.Op == history.OpOK && e.Cluster == m[1] })
					}, s.state, "messages are stored on %s", m[1])
					s.edit(m[0])
					topic, err := s.store.GetTopic(s.ctx(), s.topic)
					require.NoError(t, err)
					recorded := len(topic.Route.Stays) > 1
					t.Logf("taken back after %v, recorded: %v", time.Since(edited).Round(time.Millisecond), recorded)
					require.NoError(t, first.Resume())
					s.applied(m[0])
					s.verdict()
					if !recorded {
						return
					}
					require.Less(t, try, 10, "it was never taken back in time")
				}
			})
		}
	})
}

// Messages that fail go through the retry topic of the cluster that they came from; the group stays there for them.
func TestRetriesAreNotLeftBehind(t *testing.T) {
	harmless(t, func(t *testing.T, env *testenv.Env) {
		for _, m := range moves {
			t.Run(m[0]+" "+m[1], func(t *testing.T) {
				t.Parallel()
				s := newStage(t, env, m[0], m[1])
				// Longer in the retry topic than the group stays for nothing.
				s.receiver("billing", func(spec *scene.Spec) { spec.FailRate, spec.FailTimes, spec.RetryDelay = 0.3, 4, 2*time.Second })
				s.sender("orders", func(spec *scene.Spec) { spec.Rate = 30 })
				for i, cluster := range []string{m[1], m[0], m[1]} {
					s.eventually(func() bool {
						pending, err := s.brokers[m[i%2]].Pending(s.ctx(), s.groups[0], s.topic)
						require.NoError(t, err)
						return pending.Retries+pending.Delayed > 0
					}, s.state, "a retry is pending on %s", m[i%2])
					s.edit(cluster)
					s.applied(cluster)
				}
				s.closed(m[0])
				s.verdict()
				retried := slices.ContainsFunc(s.history(), func(e history.Event) bool { return e.Op == history.OpRecv && e.Attempt > 0 })
				require.True(t, retried)
			})
		}
	})
}

// Edits come faster than anybody can follow each of them. A second group began at the latest when there were messages
// already, and misses nothing that was sent since.
func TestTenFlipsASecond(t *testing.T) {
	harmless(t, func(t *testing.T, env *testenv.Env) {
		clusters := three
		s := newStage(t, env, clusters...)
		s.stop(s.sender("early", nil))
		s.putGroupByHand("latest_"+s.groups[0], func(g *metadata.Group) { g.Start = metadata.StartLatest })
		s.missing[s.groups[1]] = []string{"early"}
		for _, name := range []string{"billing-1", "billing-2"} {
			s.receiver(name, nil)
		}
		s.receiver("latest", func(spec *scene.Spec) { spec.Group = s.groups[1] })
		s.sender("orders-1", nil)
		s.sender("orders-2", func(spec *scene.Spec) { spec.Async = true })
		stop := s.flips(100*time.Millisecond, clusters)
		<-time.After(bound(10*time.Second, time.Minute)) // that is how long
		require.Positive(t, stop())
		s.edit(clusters[1])
		s.applied(clusters[1])
		s.flows(clusters[1])
		s.verdict()
		route, err := s.store.GetTopic(s.ctx(), s.topic)
		require.NoError(t, err)
		open := map[string]int{}
		for _, stay := range route.Route.Stays {
			open[stay.Cluster]++
		}
		for cluster, n := range open {
			require.Equal(t, 1, n, "stays on %s: %+v", cluster, route.Route.Stays)
		}
	})
}
