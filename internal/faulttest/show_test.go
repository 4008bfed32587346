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
	"github.com/turnout-mq/turnout/metadata"
	"github.com/turnout-mq/turnout/testenv"
	"github.com/turnout-mq/turnout/testenv/history"
)

// eachMode plays a case with a topic that keeps the order per key and with one that does not, between two clusters of Kafka.
func eachMode(t *testing.T, run func(t *testing.T, play func(t *testing.T, env *testenv.Env)), play func(m *mover)) {
	for _, ordered := range []bool{false, true} {
		t.Run(mode(ordered), func(t *testing.T) {
			run(t, func(t *testing.T, env *testenv.Env) { play(newMover(t, env, pairs[0], ordered)) })
		})
	}
}

// The zombie: a sender is stopped with sends under way, its session ends, the topic moves, and it goes on with what it was at.
func TestZombieWritesNothingToTheClusterThatWasLeft(t *testing.T) {
	harmless(t, func(t *testing.T, env *testenv.Env) {
		for _, p := range pairs {
			for _, ordered := range []bool{false, true} {
				t.Run(mode(ordered)+" "+p.String(), func(t *testing.T) {
					t.Parallel()
					zombie(newMover(t, env, p, ordered))
				})
			}
		}
	})
}

func zombie(m *mover) {
	m.ready(m.controller("controller", nil))
	m.traffic()
	zombie := m.named("orders")
	m.freeze(zombie)
	m.eventually(func() bool { _, there := m.participants()[zombie.Pid()]; return !there }, m.state, "the session of the zombie ends")
	r := m.ended(m.move(m.to, nil).ID)
	require.Equal(m.t, store.Done, r.Outcome, m.story(r.Migration))
	m.proven(r)
	ends, err := m.brokers[m.from].EndOffsets(m.ctx(), m.topic)
	require.NoError(m.t, err)
	m.thaw(zombie)
	m.registered()
	m.applied(m.to)
	m.flows(m.to)
	m.verdict()
	after, err := m.brokers[m.from].EndOffsets(m.ctx(), m.topic)
	require.NoError(m.t, err)
	require.Equal(m.t, ends, after, "the zombie has written to %s", m.from)
	require.Zero(m.t, m.left(m.groups[0], m.from))
}

// The controller dies while sends pause: they go on by themselves when the pause is over, and the next controller ends the
// migration.
func TestSendsGoOnWhenTheControllerIsKilledWhileTheyPause(t *testing.T) {
	harmless(t, func(t *testing.T, env *testenv.Env) {
		m := newMover(t, env, pairs[0], true)
		for _, name := range []string{"controller-2", "controller-3"} {
			m.controller(name, func(spec *scene.Spec) { spec.HoldAt = []string{string(migrate.Holding)} })
		}
		m.traffic()
		// Who does not answer keeps it in the state holding. Its session lasts longer than the pause.
		silent := m.ready(m.start(m.senderSpec("silent"), func(spec *scene.Spec) { spec.Rate, spec.SessionTimeout = 20, 30*time.Second }))
		m.applied(m.from)
		row := m.move(m.to, func(p *migrate.Plan) { p.Hold = 10_000 })
		first := m.waitHolder()
		m.freeze(silent)
		m.goOn()
		others := slices.DeleteFunc(m.applications(), func(p *scene.Process) bool { return p == silent })
		m.eventually(func() bool {
			topic, err := m.store.GetTopic(m.ctx(), m.topic)
			require.NoError(m.t, err)
			all := m.participants()
			return topic.Route.Hold != nil && !slices.ContainsFunc(others, func(p *scene.Process) bool { return all[p.Pid()].Zxid != topic.RouteNode.Mzxid })
		}, func() any { return m.story(row.ID) + fmt.Sprint(m.state()) }, "everybody else has paused")
		m.kill(first)
		killed := time.Now()
		resumed := m.flowsSomewhereSince(killed)
		m.t.Logf("killed in %s; the first send that began after that was acknowledged %v later", m.lastState(row.ID), resumed.Sub(killed).Round(time.Millisecond))
		m.thaw(silent)
		r := m.ended(row.ID)
		m.proven(r)
		require.NotContains(m.t, m.story(row.ID), "open to writers again; closed", "what was to be closed is not, once the way back is taken")
		m.applied(r.To)
		m.flows(r.To)
		m.verdict()
	})
}

// lastState is the state that was recorded last.
func (m *mover) lastState(id string) string {
	m.t.Helper()
	row, err := m.Get(m.ctx(), id)
	require.NoError(m.t, err)
	return row.State
}

// flowsSomewhereSince waits until a message that was sent after t is stored, and says when the first one was.
func (m *mover) flowsSomewhereSince(t time.Time) time.Time {
	m.t.Helper()
	var first int64
	m.eventually(func() bool {
		sent := map[string]bool{}
		for _, e := range m.history() {
			if e.Op == history.OpSend && e.T > t.UnixNano() {
				sent[e.ID] = true
			}
		}
		for _, e := range m.events {
			if e.Op == history.OpOK && sent[e.ID] && (first == 0 || e.T < first) {
				first = e.T
			}
		}
		return first != 0
	}, m.state, "messages are stored")
	return time.Unix(0, first)
}

// A group sleeps through the whole move and wakes up after it: it gets everything, and then the stay leaves the route and the
// receipt says that the cluster is free.
func TestAGroupThatSleptThroughAMoveGetsEverything(t *testing.T) {
	t.Parallel()
	eachMode(t, harmless, func(m *mover) {
		m.ready(m.controller("controller", nil))
		m.traffic()
		sleeper := m.groups[0] + "_asleep"
		m.putGroupByHand(sleeper, func(g *metadata.Group) {
			if m.ordered {
				g.Order = metadata.OrderKey
			}
		})
		row := m.move(m.to, func(p *migrate.Plan) { p.Accept = append(p.Accept, migrate.SleepingGroups) })
		r := m.ended(row.ID)
		require.Equal(m.t, store.Done, r.Outcome, m.story(row.ID))
		require.False(m.t, r.Free, r.Verdict)
		require.Contains(m.t, fmt.Sprint(r.Verdict), sleeper)
		m.flows(m.to)
		spec := m.receiverSpec("awake")
		spec.Group = sleeper
		m.ready(m.app(spec))
		m.eventually(func() bool { r, err := m.Receipt(m.ctx(), row.ID); return err == nil && r.Free }, func() any { return m.story(row.ID) }, "%s is free", m.from)
		r, err := m.Receipt(m.ctx(), row.ID)
		require.NoError(m.t, err)
		m.proven(r)
		m.verdict()
	})
}

// An application that is cut off from ZooKeeper writes to the cluster that was left as long as that lets it. Where the fence
// is switched off the history shows what comes of that; with it the same case is part of the matrix, and clean.
func TestWithoutTheFenceTheHistoryShowsWhatWasWrittenLate(t *testing.T) {
	eachMode(t, harmful, func(m *mover) {
		m.ready(m.controller("controller", func(spec *scene.Spec) {
			spec.ZooKeeper, spec.FenceCheck, spec.Off = m.server(2), time.Hour, []string{"fence", "R8"}
		}))
		m.traffic()
		m.stop(m.named("billing-island")) // it would go on to read there
		island := m.named("orders-island")
		m.freeze(island)
		require.NoError(m.t, m.env.Cut(zooKeeper+"-1"))
		m.eventually(func() bool { _, there := m.participants()[island.Pid()]; return !there }, m.state, "the session of the sender ends")
		r := m.ended(m.move(m.to, nil).ID)
		require.Equal(m.t, store.Done, r.Outcome, m.story(r.Migration))
		m.eventually(func() bool {
			members, err := m.brokers[m.from].GroupMembers(m.ctx(), m.groups[0])
			require.NoError(m.t, err)
			return len(members) == 0
		}, m.state, "the group has left %s", m.from)
		m.thaw(island)
		resumed := time.Now()
		m.eventually(func() bool {
			for _, e := range m.history() {
				if e.Op == history.OpOK && e.T > resumed.UnixNano() && e.Cluster == m.from {
					return true
				}
			}
			return false
		}, m.state, "something is written to %s late", m.from)
		m.kill(m.applications()...)
		require.NoError(m.t, m.env.Heal(zooKeeper+"-1"))
		m.stop(m.of(scene.Controller)...)
		v := history.Check(m.history(), history.Options{Groups: []history.Group{{Name: m.groups[0], Ordered: m.ordered}}, Killed: m.killed})
		require.False(m.t, v.Clean)
		for _, rule := range []history.Rule{history.Sealed, history.Late, history.Lost} {
			require.Positive(m.t, v.Count(rule), "%s\n%v", rule, v)
		}
		m.t.Logf("%d after the seal, %d late, %d lost, %d of them stranded", v.Count(history.Sealed), v.Count(history.Late), v.Count(history.Lost), v.Count(history.Stranded))
	})
}

// Moves there and back, again and again: applications and controllers use no more than at first.
func TestManyMovesThereAndBack(t *testing.T) {
	t.Parallel()
	const first = 2
	eachMode(t, harmless, func(m *mover) {
		moves := bound(6, 1000)
		m.ready(m.controller("controller", nil))
		m.traffic()
		clusters := []string{m.to, m.from}
		move := func(n, count int) {
			for i := range count {
				r := m.ended(m.move(clusters[(n+i)%2], nil).ID)
				require.Equal(m.t, store.Done, r.Outcome, m.story(r.Migration))
			}
		}
		move(0, first)
		before := m.status()
		began := time.Now()
		move(first, moves-first)
		m.t.Logf("%d moves, %v each", moves-first, (time.Since(began) / time.Duration(moves-first)).Round(time.Millisecond))
		for p, status := range before {
			m.flat(p, status, moves-first, false)
		}
		m.verdict()
	})
}
