package faulttest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	"github.com/turnout-mq/turnout"
	"github.com/turnout-mq/turnout/admin/migrate"
	"github.com/turnout-mq/turnout/admin/store"
	"github.com/turnout-mq/turnout/broker/drivers"
	"github.com/turnout-mq/turnout/internal/clusters"
	"github.com/turnout-mq/turnout/internal/scene"
	"github.com/turnout-mq/turnout/metadata"
	"github.com/turnout-mq/turnout/testenv"
	"github.com/turnout-mq/turnout/testenv/history"
)

// mover is a stage whose topic is moved by controllers, which are processes too.
type mover struct {
	*stage
	from, to            string
	*migrate.Controller        // the operator: starts, asks and looks, and carries nothing out
	database            string // that all controllers share
	frozen              map[*scene.Process]bool
}

func newMover(t *testing.T, env *testenv.Env, p pair, ordered bool) *mover {
	t.Helper()
	m := &mover{stage: newStage(t, env, p[:]...), from: p[0], to: p[1], frozen: map[*scene.Process]bool{}}
	m.ordered = ordered
	if ordered {
		require.NoError(t, m.store.UpdateGroup(m.ctx(), m.groups[0], func(g *metadata.Group) error { g.Order = metadata.OrderKey; return nil }))
		_, err := m.store.PutTopic(m.ctx(), m.topic, metadata.PutTopic{Cluster: p[0], Order: metadata.OrderKey})
		require.NoError(t, err)
	}
	m.database = "sqlite:" + filepath.Join(m.dir, "turnout.db")
	db, err := store.Open(m.ctx(), m.database, zap.NewNop())
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, db.Close()) })
	pool := clusters.NewPool(m.store, drivers.Open, "operator"+m.root[1:], time.Second, zap.NewNop())
	t.Cleanup(func() { require.NoError(t, pool.Close(context.Background())) })
	m.Controller = migrate.New(db, m.store, pool, zap.NewNop(), migrate.Options{})
	return m
}

// server is the connect string of one server of the ensemble, by its number from 1: who has only that one can be cut off.
func (m *mover) server(n int) string { return strings.Split(m.env.ZooKeeper(), ",")[n-1] }

// sessions are short, so that who is gone or cut off is noticed soon.
const sessions = 3 * time.Second

// controller starts a controller.
func (m *mover) controller(name string, change func(*scene.Spec)) *scene.Process {
	m.t.Helper()
	return m.start(scene.Spec{Role: scene.Controller, Name: name, Database: m.database, SessionTimeout: sessions, FenceCheck: 500 * time.Millisecond, NodeRecheck: time.Second}, change)
}

// traffic starts senders and receivers, and waits until messages flow. Those whose names end in island know the first server
// of ZooKeeper only.
func (m *mover) traffic() {
	m.t.Helper()
	island := func(spec scene.Spec) scene.Spec { spec.ZooKeeper = m.server(1); return spec }
	for _, p := range []*scene.Process{
		m.app(m.receiverSpec("billing")), m.app(island(m.receiverSpec("billing-island"))),
		m.app(m.senderSpec("orders")), m.app(island(m.senderSpec("orders-island"))),
	} {
		m.ready(p)
	}
	m.applied(m.from)
	m.flows(m.from)
}

// app starts an application whose session is short and that sends no more than a small machine bears.
func (m *mover) app(spec scene.Spec) *scene.Process {
	m.t.Helper()
	zooKeeper := spec.ZooKeeper
	return m.start(spec, func(spec *scene.Spec) {
		spec.SessionTimeout, spec.NodeRecheck = sessions, time.Second
		if spec.Role == scene.Sender {
			spec.Rate, spec.Senders, spec.Keys = 60, 2, 8
		}
		if zooKeeper != "" {
			spec.ZooKeeper = zooKeeper
		}
	})
}

// named is the running process of that name.
func (m *mover) named(name string) *scene.Process {
	m.t.Helper()
	i := slices.IndexFunc(m.running, func(p *scene.Process) bool { return p.Name() == name })
	require.GreaterOrEqual(m.t, i, 0, "%s runs", name)
	return m.running[i]
}

// freeze stops a process until thaw.
func (m *mover) freeze(p *scene.Process) {
	m.t.Helper()
	require.NoError(m.t, p.Pause())
	m.frozen[p] = true
}

func (m *mover) thaw(p *scene.Process) {
	m.t.Helper()
	require.NoError(m.t, p.Resume())
	delete(m.frozen, p)
}

// move starts a migration, as soon as nothing blocks it.
func (m *mover) move(to string, change func(*migrate.Plan)) *store.Migration {
	m.t.Helper()
	plan := migrate.Plan{Topic: m.topic, To: to, Ordered: m.ordered, Hold: 10_000, Accept: []string{migrate.AutoCreate}}
	if change != nil {
		change(&plan)
	}
	var row *store.Migration
	var last error
	m.eventually(func() bool {
		row, last = m.Start(m.ctx(), plan, "tester", migrate.StarterApproves)
		var blocked *migrate.NotReadyError
		require.True(m.t, last == nil || errors.As(last, &blocked) || errors.Is(last, turnout.ErrConflict) || errors.Is(last, turnout.ErrTimeout), "%v", last)
		return last == nil
	}, func() any { return fmt.Sprintf("%v\n%v", last, m.state()) }, "a migration to %s can begin", to)
	return row
}

// waitHolder waits until a controller waits before a state.
func (m *mover) waitHolder() *scene.Process {
	m.t.Helper()
	var found *scene.Process
	m.eventually(func() bool {
		for _, p := range m.of(scene.Controller) {
			ctx, cancel := context.WithTimeout(context.Background(), poll)
			_, err := p.Holds(ctx)
			cancel()
			if err == nil {
				found = p
				return true
			}
			require.NoError(m.t, p.Err())
		}
		return false
	}, m.state, "a controller waits before the state")
	return found
}

// goOn lets the controllers go on that can.
func (m *mover) goOn() {
	m.t.Helper()
	for _, p := range m.of(scene.Controller) {
		if !m.frozen[p] {
			require.NoError(m.t, p.GoOn(m.ctx()))
		}
	}
}

// ended waits for the end of a migration and returns its receipt.
func (m *mover) ended(id string) *migrate.Receipt {
	m.t.Helper()
	m.eventually(func() bool {
		row, err := m.Get(m.ctx(), id)
		require.NoError(m.t, err)
		return row.EndedAt != nil
	}, func() any { return m.story(id) + fmt.Sprint(m.state()) }, "migration %s ends", id)
	r, err := m.Receipt(m.ctx(), id)
	require.NoError(m.t, err)
	return r
}

// story is what has happened in a migration, for failures.
func (m *mover) story(id string) string {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	row, err := m.Get(ctx, id)
	if err != nil {
		return err.Error()
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%s %s %s, waits for %q\n", row.ID, row.State, row.Outcome, row.Waiting)
	events, err := m.Events(ctx, id, 0, 1000)
	for _, e := range events {
		fmt.Fprintf(&b, "%s %s: %s\n", e.At.Format("05.000"), e.Kind, e.Text)
	}
	if err != nil {
		fmt.Fprintln(&b, err)
	}
	return b.String()
}

// fenced says whether a cluster refuses writers of the topic.
func (m *mover) fenced(cluster string) bool {
	m.t.Helper()
	info, err := m.brokers[cluster].DescribeTopic(m.ctx(), m.topic)
	require.NoError(m.t, err)
	return info.Fenced
}

// proven sees that what a migration that has ended says of itself is so: the topic is where the receipt says, nothing is
// unread elsewhere, every cluster that it has left refuses writers, and the one that it is on takes them.
func (m *mover) proven(r *migrate.Receipt) {
	m.t.Helper()
	require.Contains(m.t, []store.Outcome{store.Done, store.RolledBack}, r.Outcome, m.story(r.Migration))
	require.True(m.t, r.Free, "%v\n%s", r.Verdict, m.story(r.Migration))
	want := map[store.Outcome]string{store.Done: m.to, store.RolledBack: m.from}
	if m.home(r) != m.from {
		want = map[store.Outcome]string{store.Done: m.from, store.RolledBack: m.to}
	}
	require.Equal(m.t, want[r.Outcome], r.To, m.story(r.Migration))
	topic, err := m.store.GetTopic(m.ctx(), m.topic)
	require.NoError(m.t, err)
	require.Equal(m.t, r.To, topic.Route.Write, m.story(r.Migration))
	require.Len(m.t, topic.Route.Stays, 1, m.story(r.Migration))
	m.eventually(func() bool { return !m.fenced(r.To) }, func() any { return m.story(r.Migration) }, "%s takes writers", r.To)
	for _, l := range r.Left {
		m.eventually(func() bool { return m.fenced(l.Cluster) == (l.Cluster != r.To) }, func() any { return m.story(r.Migration) }, "%s refuses writers", l.Cluster)
	}
}

// home is where the topic was when a migration began.
func (m *mover) home(r *migrate.Receipt) string {
	m.t.Helper()
	row, err := m.Get(m.ctx(), r.Migration)
	require.NoError(m.t, err)
	var plan migrate.Plan
	require.NoError(m.t, json.Unmarshal(row.Plan, &plan))
	if plan.To == m.to {
		return m.from
	}
	return m.to
}

// onlyFencedFail sees that the only sends that failed are of applications that were cut off from ZooKeeper and met a fence:
// nobody could tell them where to go (docs/guarantees.md, G3). It counts those.
func (m *mover) onlyFencedFail(names ...string) (failed int) {
	m.t.Helper()
	sender := map[string]string{}
	for _, e := range m.history() {
		switch e.Op {
		case history.OpSend:
			sender[e.ID] = e.Producer
		case history.OpFail, history.OpUnknown:
			require.Contains(m.t, names, sender[e.ID], "%+v", e)
			require.Contains(m.t, e.Error, turnout.ErrFenced.Error(), "%+v", e)
			failed++
		default:
		}
	}
	return failed
}
