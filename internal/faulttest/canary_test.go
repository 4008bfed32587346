package faulttest

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/turnout-mq/turnout/admin/migrate"
	"github.com/turnout-mq/turnout/admin/store"
	"github.com/turnout-mq/turnout/internal/scene"
	"github.com/turnout-mq/turnout/testenv"
	"github.com/turnout-mq/turnout/testenv/history"
)

// A tenth of the sends goes first, then half, then everything, or it goes back; the controller that began it is killed
// meanwhile. A topic whose order is kept sends keys first, any other instances.
func TestCanary(t *testing.T) {
	backends, err := testenv.Backends()
	require.NoError(t, err)
	all := soak || slices.Contains(backends, testenv.Servers) // of the embedded ones each pair, mode and end once here, all in the root package
	harmless(t, func(t *testing.T, env *testenv.Env) {
		for i, p := range pairs {
			for _, ordered := range []bool{false, true} {
				for _, back := range []bool{false, true} {
					if !all && (ordered != (i%2 == 1) || back != (i/2 == 1)) {
						continue
					}
					end := "promoted"
					if back {
						end = "taken back"
					}
					t.Run(fmt.Sprintf("%s %s %s", mode(ordered), p, end), func(t *testing.T) {
						if !slices.Contains(backends, testenv.Servers) {
							t.Parallel()
						}
						canary(newMover(t, env, p, ordered), back)
					})
				}
			}
		}
	})
}

func canary(m *mover, back bool) {
	first := m.ready(m.controller("controller-1", nil))
	m.ready(m.start(m.receiverSpec("billing"), nil))
	m.ready(m.start(m.receiverSpec("billing-2"), nil))
	for i := range 3 {
		m.ready(m.start(m.senderSpec(fmt.Sprintf("orders-%d", i)), func(s *scene.Spec) { s.Rate, s.Senders, s.Keys, s.SessionTimeout = 100, 4, 64, sessions }))
	}
	m.applied(m.from)
	m.flows(m.from)
	parts := []migrate.Canary{{Percent: 10}, {Percent: 50}}
	if m.ordered {
		parts = []migrate.Canary{{Keys: []int{0, 6553}}, {Keys: []int{0, 32767}}}
	}
	move := m.move(m.to, func(p *migrate.Plan) {
		p.Canary, p.Accept = &parts[0], append(p.Accept, migrate.CanaryOrder, migrate.NotPortable)
	})
	m.waits(move.ID, migrate.Canarying)
	m.flows(m.to)
	m.flows(m.from)
	begun, tenth := time.Now(), map[string]int{}
	m.eventually(func() bool { tenth = m.acknowledged(begun); return tenth[m.from]+tenth[m.to] >= 300 }, m.state, "300 messages are stored")
	m.controller("controller-2", nil)
	m.kill(first)
	half := time.Now()
	if back {
		require.NoError(m.t, m.Abort(m.ctx(), move.ID, "tester"))
	} else {
		require.NoError(m.t, m.Promote(m.ctx(), move.ID, "tester", &parts[1]))
		m.eventually(func() bool {
			topic, err := m.store.GetTopic(m.ctx(), m.topic)
			require.NoError(m.t, err)
			c := topic.Route.Canary
			return c != nil && (len(c.Instances) == 2 || slices.Equal(c.Keys, parts[1].Keys))
		}, func() any { return m.story(move.ID) }, "half of it goes to %s", m.to)
		m.flows(m.to)
		require.NoError(m.t, m.Promote(m.ctx(), move.ID, "tester", nil))
	}
	r := m.ended(move.ID)
	m.proven(r)
	at := map[bool]string{false: m.to, true: m.from}[back]
	require.Equal(m.t, map[bool]store.Outcome{false: store.Done, true: store.RolledBack}[back], r.Outcome)
	m.flows(at)
	m.verdict()
	v := history.Check(m.events, history.Options{Groups: []history.Group{{Name: m.groups[0], Ordered: m.ordered}}, Allow: []history.Rule{history.Duplicate}, Killed: m.killed})
	share := 100 * float64(tenth[m.to]) / float64(tenth[m.to]+tenth[m.from])
	m.t.Logf("canary: | %s | %s | %s | %s | %d | %.0f %% | %d | %d | %d | %d | %v | %v |", m.from, m.to, mode(m.ordered), r.Outcome, v.Sent, share, v.Failed+v.Unknown,
		v.Count(history.Lost), v.Count(history.Reordered), v.Groups[0].Duplicates, v.Longest.Took.Round(time.Millisecond), r.Ended.Sub(half).Round(100*time.Millisecond))
}

// acknowledged counts the messages that each cluster has stored since a time.
func (m *mover) acknowledged(since time.Time) map[string]int {
	m.t.Helper()
	on := map[string]int{}
	for _, e := range m.history() {
		if e.Op == history.OpOK && e.T > since.UnixNano() {
			on[e.Cluster]++
		}
	}
	return on
}
