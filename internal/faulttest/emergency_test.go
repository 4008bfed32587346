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

// badly is how a broker stops doing its work, and how it goes on.
var badly = map[string]struct{ begin, end func(m *mover) error }{
	"killed":  {func(m *mover) error { return m.env.Kill(m.ctx(), brokerOf(m.env, m.from)) }, func(m *mover) error { return m.env.Restart(m.ctx(), brokerOf(m.env, m.from)) }},
	"hanging": {func(m *mover) error { return m.env.Pause(brokerOf(m.env, m.from)) }, func(m *mover) error { return m.env.Resume(brokerOf(m.env, m.from)) }},
}

// A cluster dies, or hangs, under load, and its topic is forced away from it (R31): how soon a send succeeds elsewhere, and what
// becomes of the messages. A process that sends begins while it is dead.
func TestEmergency(t *testing.T) {
	backends, err := testenv.Backends()
	require.NoError(t, err)
	all := soak || slices.Contains(backends, testenv.Servers) // of the embedded ones half are played here, all in the root package
	for i, p := range pairs {
		for how := range badly {
			if !all && (i%2 == 1) != (how == "killed") {
				continue
			}
			t.Run(fmt.Sprintf("%s to %s, %s", p[0], p[1], how), func(t *testing.T) {
				harmful(t, func(t *testing.T, env *testenv.Env) {
					emergency(t, env, p, how)
				})
			})
		}
	}
}

func emergency(t *testing.T, env *testenv.Env, p pair, how string) {
	m := newMover(t, env, p, false)
	m.ready(m.controller("controller-1", nil))
	receiver, sender := m.receiverSpec("billing"), m.senderSpec("orders")
	m.ready(m.start(receiver, nil))
	m.ready(m.start(sender, nil))
	m.applied(m.from)
	m.flows(m.from)

	require.NoError(t, badly[how].begin(m))
	begun := time.Now()
	move, err := m.Start(m.ctx(), migrate.Plan{Topic: m.topic, To: m.to, Force: true, Accept: []string{migrate.NotPortable, migrate.AutoCreate}}, "tester", migrate.StarterApproves)
	require.NoError(t, err)
	var first time.Time
	m.eventually(func() bool {
		for _, e := range m.history() {
			if at := time.Unix(0, e.T); e.Op == history.OpOK && e.Cluster == m.to && (first.IsZero() || at.Before(first)) {
				first = at
			}
		}
		return !first.IsZero()
	}, func() any { return m.story(move.ID) }, "a send succeeds on %s", m.to)
	m.ready(m.start(m.senderSpec("orders-late"), func(s *scene.Spec) { s.Rate = 20 }))
	m.flows(m.to)
	m.waits(move.ID, migrate.Pending)
	_, err = m.Receipt(m.ctx(), move.ID)
	require.Error(t, err, "it is not free")

	require.NoError(t, badly[how].end(m))
	back := time.Now()
	r := m.ended(move.ID)
	require.Equal(t, store.Done, r.Outcome, m.story(move.ID))
	require.True(t, r.Free, r.Verdict)
	require.NotNil(t, r.Left[0].Back)
	t.Logf("asked for at %s, first send at %s\n%s", begun.UTC().Format("05.000"), first.UTC().Format("05.000"), m.story(move.ID))
	m.verdict()
	v := history.Check(m.events, history.Options{Groups: []history.Group{{Name: m.groups[0]}}, Allow: []history.Rule{history.Duplicate}})
	t.Logf("emergency: | %s | %s | %s | %v | %d | %d | %d | %v | %v |", p[0], p[1], how, first.Sub(begun).Round(time.Millisecond), v.Failed+v.Unknown,
		v.Groups[0].Duplicates, v.Count(history.Lost), r.Left[0].Back.Sub(back).Round(100*time.Millisecond), r.Ended.Sub(back).Round(100*time.Millisecond))
}

// waits waits until a migration is in a state.
func (m *mover) waits(id string, state migrate.State) {
	m.t.Helper()
	m.eventually(func() bool {
		row, err := m.Get(m.ctx(), id)
		require.NoError(m.t, err)
		return row.State == string(state)
	}, func() any { return m.story(id) }, "migration %s is %s", id, state)
}
