package faulttest

import (
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/turnout-mq/turnout"
	"github.com/turnout-mq/turnout/admin/migrate"
	"github.com/turnout-mq/turnout/admin/store"
	"github.com/turnout-mq/turnout/internal/scene"
	"github.com/turnout-mq/turnout/testenv"
	"github.com/turnout-mq/turnout/testenv/history"
)

// fault is something that goes wrong, or is asked for, before a migration does anything in a state.
type fault struct {
	name string
	// breaks says that it breaks a server, so that nothing else can go on beside it.
	breaks bool
	// begin does it. end, if there is one, puts it right.
	begin func(c *play) (end func())
	// through: it is put right after the migration has ended; else after lasting, or at once.
	through bool
	// untold says that somebody who sends can not be told where to go.
	untold  bool
	lasting time.Duration
}

// play is one migration that meets one fault.
type play struct {
	*mover
	cell   cell
	holder *scene.Process // the controller that leads
	id     string         // of the migration
}

// lasting is how long a fault lasts that is over before the migration has ended: longer than what is tried again at once,
// shorter than patience.
const lasting = 1500 * time.Millisecond

var faults = []fault{
	{name: "controller killed", begin: func(c *play) func() { c.kill(c.holder); return nil }},
	{name: "controller stopped", through: true, begin: func(c *play) func() { return c.stopThrough(c.holder) }},
	{name: "controller cut from ZooKeeper", breaks: true, through: true, begin: func(c *play) func() {
		return c.cut(map[string]string{"controller-2": zooKeeper + "-2", "controller-3": zooKeeper + "-3"}[c.holder.Name()])
	}},
	{name: "sender killed", begin: func(c *play) func() { c.kill(c.named("orders")); c.app(c.senderSpec("orders-2")); return nil }},
	{name: "receiver killed", begin: func(c *play) func() { c.kill(c.named("billing")); c.app(c.receiverSpec("billing-2")); return nil }},
	{name: "sender stopped", through: true, begin: func(c *play) func() { return c.stopThrough(c.named("orders")) }},
	{name: "receiver stopped", through: true, begin: func(c *play) func() { return c.stopThrough(c.named("billing")) }},
	{name: "applications cut from ZooKeeper", breaks: true, through: true, untold: true, begin: func(c *play) func() {
		c.allow = append(c.allow, history.Failed, history.Unknown) // see onlyFencedFail
		return c.cut(zooKeeper + "-1")
	}},
	{name: "everybody cut from A", breaks: true, lasting: lasting, begin: func(c *play) func() { return c.cut(c.from) }},
	{name: "everybody cut from B", breaks: true, lasting: lasting, begin: func(c *play) func() { return c.cut(c.to) }},
	{name: "ZooKeeper restarted", breaks: true, lasting: lasting, begin: func(c *play) func() { return c.restart(zooKeeper) }},
	{name: "session expired", begin: func(c *play) func() {
		for _, name := range []string{"orders", "billing"} {
			if e, there := c.instances()[c.named(name).Pid()]; there {
				require.NoError(c.t, c.env.ExpireSession(c.ctx(), e.Node.EphemeralOwner))
			}
		}
		return nil
	}},
	{name: "broker of A restarted", breaks: true, lasting: lasting, begin: func(c *play) func() {
		if s := c.cell.state; !c.cell.pair.fencedEarly() && (s == migrate.Closing || s == migrate.Done) {
			c.forgot = c.from // the last second of them; the group has left
		}
		return c.restart(brokerOf(c.env, c.from))
	}},
	{name: "broker of B restarted", breaks: true, lasting: lasting, begin: func(c *play) func() { return c.restart(brokerOf(c.env, c.to)) }},
	{name: "rollback requested", begin: func(c *play) func() {
		err := c.Rollback(c.ctx(), c.id, "tester")
		if c.cell.state == migrate.Done {
			require.ErrorIs(c.t, err, turnout.ErrConflict)
		} else {
			require.NoError(c.t, err)
		}
		return nil
	}},
	{name: "instances join", begin: func(c *play) func() {
		c.app(c.senderSpec("orders-2"))
		c.app(c.receiverSpec("billing-2"))
		return nil
	}},
}

// stopThrough freezes a process.
func (c *play) stopThrough(p *scene.Process) func() {
	c.freeze(p)
	return func() { c.thaw(p) }
}

func (c *play) cut(node string) func() {
	require.NoError(c.t, c.env.Cut(node))
	return func() { require.NoError(c.t, c.env.Heal(node)) }
}

func (c *play) restart(node string) func() {
	require.NoError(c.t, c.env.Kill(c.ctx(), node))
	return func() { require.NoError(c.t, c.env.Restart(c.ctx(), node)) }
}

// pair is the cluster that a topic leaves and the one that it goes to.
type pair [2]string

// pairs are those of the kinds of clusters.
var pairs = []pair{{"kafka-a", "kafka-b"}, {"kafka-a", "rocketmq-a"}, {"rocketmq-a", "kafka-a"}, {"rocketmq-a", "rocketmq-b"}}

func kindOf(cluster string) string { kind, _, _ := strings.Cut(cluster, "-"); return kind }

func (p pair) String() string { return kindOf(p[0]) + " to " + kindOf(p[1]) }

// fencedEarly says whether the cluster that is left refuses writers while it is still read.
func (p pair) fencedEarly() bool { return kindOf(p[0]) == "kafka" }

// cell is one place of the matrix.
type cell struct {
	state   migrate.State
	fault   string
	ordered bool
	pair    pair
}

func (c cell) String() string {
	return fmt.Sprintf("%s %s %s %s", c.state, c.fault, mode(c.ordered), c.pair)
}

func mode(ordered bool) string {
	if ordered {
		return "ordered"
	}
	return "unordered"
}

// phases are the states that a fault can meet. Done: after the end.
var phases = []migrate.State{
	migrate.Preparing, migrate.Canarying, migrate.Holding, migrate.Fencing, migrate.Switching, migrate.Pending, migrate.Sealing, migrate.Draining, migrate.Shutting, migrate.Closing, migrate.Done,
}

// occurs says whether a migration of that kind goes through the state.
func (c cell) occurs() bool {
	early := c.pair.fencedEarly()
	switch c.state {
	case migrate.Holding, migrate.Fencing:
		return c.ordered
	case migrate.Sealing:
		return !c.ordered
	case migrate.Shutting:
		return !c.ordered && !early
	default:
		return true
	}
}

// breaks says that servers are broken in the cell, so that nothing else can go on beside it.
func (c cell) breaks() bool { return c.what().breaks || c.state == migrate.Pending }

// what is its fault.
func (c cell) what() fault {
	return faults[slices.IndexFunc(faults, func(f fault) bool { return f.name == c.fault })]
}

// all are the cells that there are.
func all() (cells []cell) {
	for _, f := range faults {
		for _, state := range phases {
			for _, p := range pairs {
				for _, ordered := range []bool{false, true} {
					if c := (cell{state, f.name, ordered, p}); c.occurs() {
						cells = append(cells, c)
					}
				}
			}
		}
	}
	return cells
}

// couples are the pairs of values of any two dimensions that a cell has.
func (c cell) couples() (texts []string) {
	values := []string{string(c.state), c.fault, mode(c.ordered), c.pair.String()}
	for i, a := range values {
		for _, b := range values[i+1:] {
			texts = append(texts, a+" and "+b)
		}
	}
	return texts
}

// cover is a choice of cells that has whatever two values of two of state, fault, mode and pair can occur together. The seed decides
// what else meets in a cell.
func cover(seed uint64) (cells []cell) {
	random := rand.New(rand.NewPCG(seed, 0))
	seen := map[string]bool{}
	add := func(from []cell) {
		random.Shuffle(len(from), func(i, j int) { from[i], from[j] = from[j], from[i] })
		best, most := cell{}, -1
		for _, c := range from {
			if n := fresh(c, seen); n > most {
				best, most = c, n
			}
		}
		for _, text := range best.couples() {
			seen[text] = true
		}
		cells = append(cells, best)
	}
	places := map[string][]cell{}
	for _, c := range all() {
		places[string(c.state)+c.fault] = append(places[string(c.state)+c.fault], c)
	}
	for _, f := range faults {
		for _, state := range phases {
			add(places[string(state)+f.name])
		}
	}
	for {
		rest := slices.DeleteFunc(all(), func(c cell) bool { return fresh(c, seen) == 0 })
		if len(rest) == 0 {
			return cells
		}
		add(rest)
	}
}

// fresh counts what of a cell's couples was not seen.
func fresh(c cell, seen map[string]bool) (n int) {
	for _, text := range c.couples() {
		if !seen[text] {
			n++
		}
	}
	return n
}

// lacks says what a choice of cells lacks.
func lacks(cells []cell) (missing []string) {
	seen := map[string]bool{}
	for _, c := range cells {
		for _, text := range c.couples() {
			seen[text] = true
		}
	}
	for _, c := range all() {
		for _, text := range c.couples() {
			if !seen[text] {
				seen[text] = true
				missing = append(missing, text)
			}
		}
	}
	return missing
}

func TestTheCoverHasEveryPair(t *testing.T) {
	for seed := range uint64(20) {
		cells := cover(seed)
		require.Empty(t, lacks(cells), "seed %d", seed)
		require.NotEmpty(t, lacks(cells[1:]))
		require.Less(t, len(cells), 200)
		for _, c := range cells {
			require.True(t, c.occurs(), c)
		}
	}
}

// some are the cells that are run where the matrix was not asked for.
var some = []cell{
	{migrate.Preparing, "instances join", true, pairs[0]},
	{migrate.Holding, "controller killed", true, pairs[1]},
	{migrate.Fencing, "session expired", true, pairs[0]},
	{migrate.Switching, "applications cut from ZooKeeper", false, pairs[2]},
	{migrate.Switching, "rollback requested", false, pairs[2]},
	{migrate.Sealing, "controller stopped", false, pairs[0]},
	{migrate.Draining, "broker of A restarted", true, pairs[0]},
	{migrate.Draining, "session expired", true, pairs[2]},
	{migrate.Shutting, "controller killed", false, pairs[3]},
	{migrate.Closing, "receiver killed", false, pairs[0]},
	{migrate.Done, "applications cut from ZooKeeper", false, pairs[0]},
}

// Every state of a migration meets every fault. TURNOUT_MATRIX, the name of a file for the table of results, asks for all of the
// cover; TURNOUT_SEED chooses another one.
func TestMatrix(t *testing.T) {
	cells, seed := some, uint64(0)
	table := os.Getenv("TURNOUT_MATRIX")
	if table != "" {
		seed = seedOf(t, 1)
		cells = cover(seed)
	}
	asked, err := testenv.Backends()
	require.NoError(t, err)
	for _, backend := range asked {
		t.Run(string(backend), func(t *testing.T) {
			results := &results{seed: seed, backend: backend, commit: commit(), began: time.Now(), cells: cells}
			if table != "" {
				t.Cleanup(func() { require.NoError(t, results.write(table)) })
			}
			for _, breaks := range []bool{true, false} { // those that have the servers for themselves first
				for _, c := range cells {
					if c.breaks() != breaks {
						continue
					}
					t.Run(c.String(), func(t *testing.T) {
						if backend == testenv.Embedded || !breaks {
							t.Parallel()
						}
						results.note(t, c, func() string { return playCell(t, matrixEnv(t, backend, c.pair), c) })
					})
				}
			}
		})
	}
}

// matrixEnv is an environment for one cell: on real servers they share one.
func matrixEnv(t *testing.T, backend testenv.Backend, clusters pair) *testenv.Env {
	t.Helper()
	if backend == testenv.Servers {
		return theServers(t)
	}
	spec := testenv.Spec{Backend: backend, ZooKeeper: 3, Proxy: true}
	for _, name := range clusters {
		if kindOf(name) == "kafka" {
			spec.Kafka = append(spec.Kafka, name)
		} else {
			spec.RocketMQ = append(spec.RocketMQ, name)
		}
	}
	env, err := testenv.Start(t.Context(), spec)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, env.Close()) })
	return env
}

// playCell moves a topic, has the fault meet the state, and holds what came of it against the guarantees. It returns how the
// migration ended.
func playCell(t *testing.T, env *testenv.Env, c cell) string {
	p, f := &play{mover: newMover(t, env, c.pair, c.ordered), cell: c}, c.what()
	for n := 2; n <= 3; n++ {
		p.controller(fmt.Sprintf("controller-%d", n), func(spec *scene.Spec) {
			spec.ZooKeeper = p.server(n)
			if c.state != migrate.Done {
				spec.HoldAt = []string{string(c.state)}
			}
		})
	}
	p.traffic()
	back := func() {}
	switch c.state {
	case migrate.Pending: // A is dead, and left by force
		back = p.restart(brokerOf(env, p.from))
		p.id = p.move(p.to, func(plan *migrate.Plan) { plan.Force, plan.Accept = true, []string{"all"} }).ID
		p.ordered = false // the order is suspended (R31)
	case migrate.Canarying:
		p.id = p.move(p.to, func(plan *migrate.Plan) {
			plan.Canary, plan.Accept = &migrate.Canary{Percent: 50}, []string{"all"}
			if c.ordered {
				plan.Canary = &migrate.Canary{Keys: []int{0, 1 << 15}}
			}
		}).ID
	default:
		p.id = p.move(p.to, nil).ID
	}
	if c.state == migrate.Done {
		p.ended(p.id)
		p.holder = p.of(scene.Controller)[0]
	} else {
		p.holder = p.waitHolder()
	}
	end := f.begin(p)
	p.goOn()
	if f.lasting > 0 {
		<-time.After(f.lasting)
	}
	if end != nil && !f.through {
		end()
	}
	back()
	if f.untold && !c.pair.fencedEarly() {
		// It is closed when nothing comes any more (R11): who sends there has to be told first.
		p.eventually(func() bool {
			row := p.promoted()
			return row.EndedAt != nil || strings.Contains(row.Waiting, "still sends there")
		}, func() any { return p.story(p.id) }, "the migration ends or says for whom it waits")
		end()
		end = nil
	}
	p.eventually(func() bool { return p.promoted().EndedAt != nil }, func() any { return p.story(p.id) }, "the migration ends")
	r := p.ended(p.id)
	if end != nil && f.through {
		if c.state == migrate.Done { // it was no more than a moment
			<-time.After(sessions + lasting)
		}
		end()
	}
	p.proven(r)
	p.registered()
	p.applied(r.To)
	p.flows(r.To)
	p.onlyFencedFail("orders-island")
	p.verdict()
	return map[store.Outcome]string{store.Done: "done", store.RolledBack: "back"}[r.Outcome]
}

// promoted is the migration. A canary that waits for it is followed by everything, also one that is where it was because sends
// paused too long.
func (c *play) promoted() *store.Migration {
	c.t.Helper()
	row, err := c.Get(c.ctx(), c.id)
	require.NoError(c.t, err)
	if row.State == string(migrate.Canarying) && row.Request == store.None {
		if err := c.Promote(c.ctx(), c.id, "tester", nil); err != nil {
			require.ErrorIs(c.t, err, turnout.ErrConflict) // it has just gone on
		}
	}
	return row
}

// seedOf is what TURNOUT_SEED says, or otherwise; it is logged.
func seedOf(t *testing.T, otherwise uint64) uint64 {
	t.Helper()
	seed := otherwise
	if text := os.Getenv("TURNOUT_SEED"); text != "" {
		var err error
		seed, err = strconv.ParseUint(text, 10, 64)
		require.NoError(t, err)
	}
	t.Logf("TURNOUT_SEED=%d", seed)
	return seed
}
