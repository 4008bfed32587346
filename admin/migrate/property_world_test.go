package migrate

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	"github.com/turnout-mq/turnout/admin/store"
	"github.com/turnout-mq/turnout/broker"
	"github.com/turnout-mq/turnout/internal/clusters"
	"github.com/turnout-mq/turnout/internal/clusters/clustertest"
	"github.com/turnout-mq/turnout/internal/errs"
	"github.com/turnout-mq/turnout/metadata"
	"github.com/turnout-mq/turnout/testenv/zkserver"
)

// A world is one topic with everybody who touches it: controllers (the real ones, over a real store and an embedded
// ZooKeeper), clusters in memory, and applications that obey routes as the SDK does. One thing happens at a time, and a
// chooser decides which, so a run repeats itself.
//
// A controller's turn stops in front of some of its calls to a cluster and goes on when the controller is chosen again,
// maybe long after another one has taken over: so it decides by what it read long ago, and its calls come late.

const topicName = "t"

// chooser gives a number from 0 to n-1.
type chooser func(n int) int

// setup says what kind of world it is and how hostile. The numbers are how often each may happen.
type setup struct {
	Ordered    bool
	Partitions int
	Groups     int // the second is not ordered
	Members    int // of each group
	Asleep     bool
	Messages   int
	Moves      int
	Hold       int64 // ms
	Missing    bool  // the target does not have the topic at first
	Late       int   // bit i: the fence of the i-th cluster keeps readers out, too
	Steps      int

	Kills, Cuts, Snapshots, Lost, Failures, Rebalances, Edits, Strangers, Markers, Rollbacks, Aborts, Sleeps, Deposed, Away, Deaths int

	Canaries bool   // moves begin with one
	When     State  // people ask for the way back only in this state; "": in any
	Slow     string // actors of this first letter do little
	Gates    int    // a turn stops before one in so many calls; 0: 8
	Long     bool   // who is cut from ZooKeeper stays so

	Off map[string]bool // rules that nobody keeps
}

// engine is what all worlds of a test share.
type engine struct {
	zk  *zkserver.Server
	dir string
	n   int
}

func newEngine(t *testing.T) *engine {
	zk, err := zkserver.Start(t.Context(), zkserver.Options{})
	require.NoError(t, err)
	t.Cleanup(zk.Close)
	return &engine{zk: zk, dir: t.TempDir()}
}

type world struct {
	setup
	ctx      context.Context
	choose   chooser
	meta     *metadata.Store
	db       *store.Store
	clusters map[string]*clustertest.Memory
	names    []string
	service  *Controller // what people ask
	leaders  []*leader
	senders  []*sender
	readers  []*reader
	groups   map[string]metadata.Group
	ghosts   []ghost
	late     []func() // calls of controllers that were killed
	views    []*view  // that somebody once had
	messages []*message
	handled  map[string]map[string]bool // group → message
	began    map[string]bool            // "group message"
	reopened map[string]bool            // clusters that a controller has opened late, though they were to be closed
	stirred  bool                       // a controller or an operator was at work: the store may have changed
	stale    bool                       // and so may the topic
	topic    metadata.Topic             // as read last
	speeds   map[string]int
	stopped  string // nobody of that name does anything
	until    int
	barred   string // steps that begin so are not done, for scripts
	step     int
	all      []*store.Migration          // as read last
	rows     map[string]*store.Migration // as observed last
	told     map[string]int64            // the last event of each
	bad      string
	trace    []string
	edited   bool
	dead     string // the cluster that does not answer now; "": all do
	calm     bool   // no more faults
	close    []func()
}

// message is one Send.
type message struct {
	id       string
	key      byte
	before   []*message // of the same key, whose Send had returned when this one was called
	returned bool
	late     bool // stored where writers were to be refused: it has no place in the order (R18)
}

// ghost is a request that its sender has given up and that still lies in a broker's socket.
type ghost struct {
	m       *message
	cluster string
}

func (w *world) note(format string, args ...any) {
	w.trace = append(w.trace, fmt.Sprintf("%3d ", w.step)+fmt.Sprintf(format, args...))
}

func (w *world) fail(format string, args ...any) {
	if w.bad == "" {
		w.bad = fmt.Sprintf(format, args...)
		w.note("VIOLATION: %s", w.bad)
	}
}

// must is for what can only fail because the test is wrong.
func (w *world) must(err error) {
	if err != nil {
		panic(fmt.Sprintf("property test: %v\n%s", err, strings.Join(w.trace, "\n")))
	}
}

// maybe takes one out of a budget, with a chance of 1 to n.
func (w *world) maybe(budget *int, n int) bool {
	if w.calm || *budget == 0 || w.choose(n) > 0 {
		return false
	}
	*budget--
	return true
}

func newWorld(s setup, choose chooser) *world {
	return &world{setup: s, ctx: context.Background(), choose: choose, clusters: map[string]*clustertest.Memory{}, groups: map[string]metadata.Group{},
		handled: map[string]map[string]bool{}, began: map[string]bool{}, reopened: map[string]bool{}, speeds: map[string]int{}, rows: map[string]*store.Migration{}, told: map[string]int64{}}
}

// run plays a world to its end.
func (e *engine) run(s setup, choose chooser) *world {
	w := newWorld(s, choose)
	defer w.end()
	e.build(w)
	for w.step = 1; w.step <= s.Steps && w.bad == "" && (w.Moves > 0 || w.open() != nil || w.step < s.Steps/4); w.step++ {
		w.advance()
	}
	w.rest()
	return w
}

// end closes all that was opened.
func (w *world) end() {
	w.calm = true
	for _, l := range w.leaders {
		l.kill()
	}
	for _, f := range slices.Backward(w.close) {
		f()
	}
}

func (e *engine) build(w *world) {
	e.n++
	w.calm = true
	defer func() { w.calm = false }()
	open := func() *metadata.Store {
		s, err := metadata.Open(metadata.Config{ZooKeeper: e.zk.ConnectString(), Root: fmt.Sprintf("/w%d", e.n), SessionTimeout: 30 * time.Second})
		w.must(err)
		w.close = append(w.close, func() { w.must(s.Close(w.ctx)) })
		_, err = s.WaitConnected(w.ctx)
		w.must(err)
		return s
	}
	w.meta = open()
	db, err := store.Open(w.ctx, fmt.Sprintf("sqlite:%s/w%d.db", e.dir, e.n), nil)
	w.must(err)
	w.db = db
	w.close = append(w.close, func() { w.must(db.Close()) })
	w.names = []string{"a", "b"}
	if w.Edits > 0 {
		w.names = append(w.names, "c")
	}
	for i, name := range w.names {
		w.clusters[name] = clustertest.NewMemory(name)
		kind := broker.Kafka
		if w.Late>>i&1 == 1 {
			w.clusters[name].Hides, kind = true, broker.RocketMQ
		}
		w.must(w.meta.PutCluster(w.ctx, name, metadata.Cluster{V: 1, Kind: kind, Addresses: []string{"127.0.0.1:1"}}))
		if i != 1 || !w.Missing {
			w.must(w.clusters[name].Connect(nil).CreateTopic(w.ctx, topicName, broker.TopicSpec{Partitions: w.Partitions}))
		}
	}
	order := metadata.OrderNone
	if w.Ordered {
		order = metadata.OrderKey
	}
	w.stale = true
	_, err = w.meta.PutTopic(w.ctx, topicName, metadata.PutTopic{Cluster: "a", Order: order})
	w.must(err)
	for i := range w.Groups {
		g := metadata.DefaultGroup()
		g.Topics = []string{topicName}
		if i == 0 {
			g.Order = order
		}
		name := fmt.Sprintf("g%d", i)
		w.must(w.meta.PutGroup(w.ctx, name, g))
		g, _, err := w.meta.GetGroup(w.ctx, name)
		w.must(err)
		w.groups[name] = g
		w.handled[name] = map[string]bool{}
		for j := range w.Members {
			r := &reader{process: process{w: w, id: fmt.Sprintf("r%d%d", i, j)}, group: g}
			w.readers = append(w.readers, r)
			r.asleep = w.Asleep && i == w.Groups-1
			for k := 0; k < 6 && !r.asleep; k++ {
				r.settle()
			}
		}
	}
	for i := range 2 {
		s := &sender{process: process{w: w, id: fmt.Sprintf("s%d", i)}}
		w.senders = append(w.senders, s)
		s.register()
		s.apply()
		s.ack()
	}
	pool := func(meta *metadata.Store, gate clustertest.Gate) *clusters.Pool {
		p := clusters.NewPool(meta, func(_ context.Context, cfg broker.Config) (broker.Cluster, error) {
			return w.clusters[cfg.Name].Connect(gate), nil
		}, "controller", time.Hour, zap.NewNop())
		w.close = append(w.close, func() { w.must(p.Close(w.ctx)) })
		return p
	}
	options := Options{Off: w.Off}
	w.service = New(w.db, w.meta, pool(w.meta, func(_ context.Context, cluster, _ string) error { return w.answers(cluster) }), zap.NewNop(), options)
	for i := range 2 {
		l := &leader{w: w, name: fmt.Sprintf("c%d", i)}
		meta := w.meta
		l.c = New(w.db, meta, pool(meta, l.gate), zap.NewNop(), options)
		l.c.now, l.c.apart, l.c.least = w.now, 0, time.Hour
		w.leaders = append(w.leaders, l)
	}
	w.service.now, w.service.apart = w.now, 0
}

// perStep is how much time passes with each step.
const perStep = 100 * time.Millisecond

var epoch = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

func (w *world) now() time.Time { return epoch.Add(time.Duration(w.step) * perStep) }

// actor is somebody who can be slow. what he may do now is chosen evenly.
type actor struct {
	name  string
	steps func() []step
}

type step struct {
	name string
	do   func()
}

func (w *world) actors() (all []actor) {
	for _, s := range w.senders {
		all = append(all, actor{s.id, s.steps})
	}
	for _, r := range w.readers {
		all = append(all, actor{r.id, r.steps})
	}
	for _, l := range w.leaders {
		all = append(all, actor{l.name, l.steps})
	}
	for _, name := range w.names {
		all = append(all, actor{"leaders of " + name, func() []step { return w.brokerSteps(name) }})
	}
	return append(all, actor{"operator", w.operatorSteps}, actor{"network", w.networkSteps})
}

// advance lets somebody do something. Everybody has a speed, which changes now and then, and one is stopped for long.
func (w *world) advance() {
	all := w.actors()
	if w.step%25 == 1 && w.choose(2) == 0 {
		clear(w.speeds)
	}
	if w.step >= w.until {
		w.stopped, w.until = "", w.step+40+w.choose(200)
		if w.choose(3) > 0 {
			w.stopped = all[w.choose(len(all))].name
		}
	}
	sum := 0
	speed := func(a actor) int {
		if a.name == w.stopped {
			return 0
		}
		v, ok := w.speeds[a.name]
		if !ok {
			if v = []int{1, 20, 100, 100}[w.choose(4)]; w.Slow != "" && strings.HasPrefix(a.name, w.Slow) {
				v = 3
			}
			w.speeds[a.name] = v
		}
		return v
	}
	for _, a := range all {
		sum += speed(a)
	}
	x := w.choose(max(1, sum))
	for _, a := range all {
		if x -= speed(a); x < 0 {
			w.let(a)
			return
		}
	}
}

func (w *world) let(a actor) bool {
	steps := slices.DeleteFunc(a.steps(), func(s step) bool {
		return a.name == w.stopped || w.barred != "" && strings.HasPrefix(a.name+": "+s.name, w.barred)
	})
	if len(steps) == 0 {
		return false
	}
	s := steps[w.choose(len(steps))]
	w.note("%s: %s", a.name, s.name)
	s.do()
	w.observe()
	return true
}

// brokerSteps: the leader of a partition acts on a fence.
func (w *world) brokerSteps(name string) (steps []step) {
	m := w.clusters[name]
	if name == w.dead {
		return nil
	}
	for _, p := range m.Partitions(topicName) {
		steps = append(steps, step{"acts on its setting", func() {
			if m.Act(topicName, p) {
				w.note("    partition %s has changed", p)
			}
		}})
	}
	if w.maybe(&w.Markers, 20) && len(steps) > 0 {
		return []step{{"a marker of a transaction is written", func() {
			_, err := m.Store(topicName, "0", clustertest.Record{Control: true})
			w.must(err)
		}}}
	}
	if w.maybe(&w.Strangers, 20) && len(steps) > 0 {
		return []step{{"somebody writes without Turnout", func() {
			if _, err := m.Store(topicName, "0", clustertest.Record{Writer: "a stranger"}); err != nil {
				w.note("    refused")
			}
		}}}
	}
	return steps
}

// networkSteps: what was given up arrives or does not.
func (w *world) networkSteps() (steps []step) {
	for i, g := range w.ghosts {
		if g.cluster == w.dead {
			continue
		}
		gone := func() { w.ghosts = slices.Delete(slices.Clone(w.ghosts), i, i+1) }
		steps = append(steps,
			step{fmt.Sprintf("the request of %s on %s arrives late", g.m.id, g.cluster), func() { _ = w.store(g.cluster, g.m); gone() }},
			step{fmt.Sprintf("the request of %s on %s is gone", g.m.id, g.cluster), gone})
	}
	for i, f := range w.late {
		steps = append(steps, step{"a call of a controller that was killed is carried out", func() {
			w.late = slices.Delete(slices.Clone(w.late), i, i+1)
			f()
		}})
	}
	return steps
}

// store is what the leader of a partition does with a message.
func (w *world) store(cluster string, m *message) error {
	e := broker.Envelope{Message: broker.Message{ID: m.id, Key: []byte{m.key}, Body: []byte("x")}}
	mem := w.clusters[cluster]
	partition := mem.PartitionOf(topicName, e.Key)
	offset, err := mem.Store(topicName, partition, clustertest.Record{Envelope: e})
	if err != nil {
		w.note("    %v", err)
		return err
	}
	w.note("    %s is at %s/%s@%d", m.id, cluster, partition, offset)
	if w.sealed(cluster) {
		m.late = true
		if !w.reopened[cluster] {
			w.fail("seal: %s took %s after its end was read", cluster, m.id)
		}
	}
	return nil
}

// operatorSteps: what people do.
func (w *world) operatorSteps() (steps []step) {
	open := w.open()
	switch {
	case w.calm:
	case open == nil && w.Moves > 0:
		steps = append(steps, step{"a move is started", w.start})
	case open != nil && slices.Contains(w.look().Route.Clusters(), w.dead) && w.choose(4) == 0:
		steps = append(steps, step{"a move is forced", w.start})
	case open != nil && open.State == string(Canarying) && w.choose(3) == 0:
		steps = append(steps, step{"promotes the canary", func() {
			var part *Canary
			switch {
			case w.choose(2) == 0:
			case w.Ordered || w.choose(2) == 0:
				part = &Canary{Keys: []int{0, 65535}}
			default:
				part = &Canary{Percent: 100}
			}
			w.promote(open, part)
		}})
	case open != nil && (w.When == "" || open.State == string(w.When)) && w.maybe(&w.Rollbacks, 3):
		steps = append(steps, step{"asks for the way back", func() { w.stirred = true; _ = w.service.Rollback(w.ctx, open.ID, "op") }})
	case open != nil && w.maybe(&w.Aborts, 6):
		steps = append(steps, step{"asks for an abort", func() { w.stirred = true; _ = w.service.Abort(w.ctx, open.ID, "op") }})
	}
	switch {
	case w.dead != "" && (w.choose(20) == 0 || w.calm && w.choose(4) == 0):
		steps = append(steps, step{w.dead + " answers again", func() { w.dead = "" }})
	case w.dead == "" && w.maybe(&w.Deaths, 10):
		dies := w.look().Route.Write
		if still := w.look().Route.Clusters(); w.choose(3) == 0 {
			dies = still[w.choose(len(still))]
		}
		steps = append(steps, step{dies + " dies", func() { w.dead = dies }})
	}
	if w.maybe(&w.Edits, 6) {
		to := w.names[w.choose(len(w.names))]
		steps = append(steps, step{"writes the wish by hand: " + to, func() {
			w.edited, w.stale = true, true
			w.must(w.meta.Set(w.ctx, w.meta.TopicPath(topicName), []byte(`{"cluster":"`+to+`"}`), metadata.AnyVersion))
		}})
	}
	return steps
}

// keyZero is the hash of the key "0".
var keyZero = metadata.KeyHash([]byte("0"))

func (w *world) promote(m *store.Migration, part *Canary) {
	w.stirred = true
	if err := w.service.Promote(w.ctx, m.ID, "op", part); err != nil {
		w.note("    refused: %v", err)
	}
}

func (w *world) start() {
	w.stirred = true
	to := "b"
	switch now := w.look().Route; {
	case w.dead != "" && w.open() != nil && w.dead != now.Write: // what comes first in the order does not answer
		to = now.Write
	case now.Write == "b":
		to = "a"
	}
	plan := Plan{Topic: topicName, To: to, Ordered: w.Ordered, Create: true, Hold: w.Hold,
		Accept: []string{SleepingGroups, NotReady, PartitionsDiffer, FewerPartitions, OrderNotKept, Vanished, CanaryOrder}}
	if w.dead != "" || w.Deaths > 0 && w.choose(4) == 0 {
		plan.Force, plan.Partitions, plan.Accept = true, w.Partitions, append(plan.Accept, SourceAnswers)
	}
	if w.Canaries && !plan.Force {
		plan.Canary = &Canary{Keys: []int{keyZero, keyZero}}
		if !w.Ordered && w.choose(2) == 0 {
			plan.Canary = &Canary{Percent: 50}
		}
	}
	m, err := w.service.Start(w.ctx, plan, "op", StarterApproves)
	if err != nil {
		w.note("    refused: %v", err)
		return
	}
	w.Moves = max(0, w.Moves-1)
	w.edited = w.edited || plan.Force // the order is suspended (R31)
	w.note("    %s to %s", m.ID, to)
}

// look reads the topic, once after each change.
func (w *world) look() *metadata.Topic {
	if w.stale {
		t, err := w.meta.GetTopic(w.ctx, topicName)
		w.must(err)
		w.topic, w.stale = t, false
	}
	return &w.topic
}

// leader is one controller that believes that it leads.
type leader struct {
	w    *world
	name string
	c    *Controller
	walk *walk

	// A turn that is under way: it waits at a gate, or runs while the world waits.
	turn   context.Context //nolint:containedctx // of one turn
	cancel context.CancelFunc
	in     chan error
	out    chan string // the call that it stands before; "": it is over
	at     string
	stop   string     // the call to stop before, for scripts
	dice   *rand.Rand // of this turn, because it runs beside the chooser
}

// gate stops a turn in front of a call, sometimes.
func (l *leader) gate(ctx context.Context, cluster, call string) error {
	if l.turn == nil || ctx.Err() != nil {
		return ctx.Err()
	}
	if err := l.w.answers(cluster); err != nil {
		return err
	}
	if call == "Unfence" {
		defer func() {
			if f, err := l.w.db.FenceOf(l.w.ctx, cluster, topicName); err == nil && f.Wanted {
				l.w.reopened[cluster] = true
			}
		}()
	}
	if l.stop == call+" "+cluster {
		l.stop = ""
		l.out <- call + " " + cluster
		return <-l.in
	}
	if l.w.calm {
		return nil
	}
	rare := cmp.Or(l.w.Gates, 8)
	if call == "Fence" || call == "Unfence" || call == "Send" || call == "CreateTopic" {
		rare = 2
	}
	if l.dice.IntN(rare) > 0 {
		return nil
	}
	l.out <- call + " " + cluster
	return <-l.in
}

func (l *leader) steps() []step {
	w := l.w
	if l.turn == nil {
		return []step{{"a turn", l.begin}}
	}
	steps := []step{{"goes on with " + l.at, func() { l.resume(nil) }}}
	rare := 8
	if strings.HasPrefix(l.at, "Fence ") || strings.HasPrefix(l.at, "Unfence ") {
		rare = 2
	}
	if w.maybe(&w.Deposed, rare) {
		steps = []step{{"is killed before " + l.at, l.depose}}
	} else if w.maybe(&w.Away, 6) {
		steps = []step{{"gets no answer to " + l.at, func() { l.resume(errors.New("the cluster does not answer")) }}}
	}
	return steps
}

func (l *leader) begin() {
	w := l.w
	l.turn, l.cancel = context.WithCancel(w.ctx)
	l.in, l.out = make(chan error), make(chan string)
	seed := uint64(w.choose(1 << 30))
	l.dice = rand.New(rand.NewPCG(seed, 0)) //nolint:gosec // of a test
	open := w.open()
	guard := w.choose(4)
	ctx := l.turn
	var err error
	go func() {
		switch {
		case open != nil && guard < 3:
			l.walk, _, err = l.c.turn(ctx, open.ID, l.walk, zap.NewNop())
		case guard%2 == 0:
			err = l.c.settle(ctx, topicName)
		default:
			l.c.watchFences(ctx)
			err = l.c.removeStays(ctx, topicName)
		}
		if err != nil {
			l.walk = nil
		}
		l.out <- ""
	}()
	l.wait()
	if err != nil && l.turn == nil {
		w.note("    %v", err)
	}
}

func (l *leader) wait() {
	select {
	case l.at = <-l.out:
	case <-time.After(time.Minute):
		panic("a turn of a controller hangs")
	}
	l.w.stirred, l.w.stale = true, true
	if l.at == "" {
		l.cancel()
		l.turn = nil
	}
}

func (l *leader) resume(err error) {
	l.in <- err
	l.wait()
}

// kill ends a controller where it stands.
func (l *leader) kill() {
	if l.turn == nil {
		return
	}
	l.cancel()
	for l.turn != nil {
		l.resume(l.turn.Err())
	}
	l.walk = nil
}

// depose kills a controller whose call may be on the wire already.
func (l *leader) depose() {
	w := l.w
	call, cluster, _ := strings.Cut(l.at, " ")
	var late func(context.Context, string) error
	conn := w.clusters[cluster].Connect(nil)
	switch call {
	case "Fence":
		late = conn.Fence
	case "Unfence":
		late = func(ctx context.Context, topic string) error {
			w.reopened[cluster] = w.reopened[cluster] || w.sealed(cluster)
			return conn.Unfence(ctx, topic, "")
		}
	}
	if late != nil {
		w.late = append(w.late, func() { w.must(late(w.ctx, topicName)) })
	}
	l.kill()
	l.c.asserted = map[string]time.Time{} // whoever follows knows nothing of it
}

// answers says that a cluster is dead.
func (w *world) answers(cluster string) error {
	if cluster == w.dead {
		return errors.New(cluster + " is dead")
	}
	return nil
}

func document(v any) []byte {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return b
}

var errNotFound = errs.ErrNotFound
