package faulttest

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"slices"
	"sync"
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

// walk moves a topic there and back while faults happen by chance.
type walk struct {
	*mover
	rand    *rand.Rand
	count   int // of the processes started
	starved starver
	moves   map[store.Outcome]int
	current string // migration that runs, or ran last
}

// ways are what topics move over.
var ways = map[string]struct {
	clusters pair
	ordered  bool
}{"unordered": {pairs[0], false}, "ordered": {pairs[0], true}, "kinds": {pairs[2], false}, "kinds ordered": {pairs[2], true}}

// Topics move there and back while faults happen by chance, some at once, and one process at a time is starved. TURNOUT_WALK says how
// long that lasts; TURNOUT_SEED repeats a run's choices, what comes of them also depends on time.
func TestWalk(t *testing.T) {
	long := 5 * time.Second
	if text := os.Getenv("TURNOUT_WALK"); text != "" {
		var err error
		long, err = time.ParseDuration(text)
		require.NoError(t, err)
	}
	seed := seedOf(t, uint64(time.Now().UnixNano()))
	asked, err := testenv.Backends()
	require.NoError(t, err)
	for _, backend := range asked {
		t.Run(string(backend), func(t *testing.T) {
			if backend == testenv.Embedded {
				t.Parallel()
			}
			for mode, way := range ways {
				t.Run(mode, func(t *testing.T) {
					if backend == testenv.Embedded {
						t.Parallel()
					}
					share := long
					if backend == testenv.Servers {
						share /= time.Duration(len(ways))
					}
					env := matrixEnv(t, backend, way.clusters)
					t.Cleanup(func() { require.NoError(t, env.Mend(context.Background())) })
					w := &walk{mover: newMover(t, env, way.clusters, way.ordered), moves: map[store.Outcome]int{}}
					w.rand = rand.New(rand.NewPCG(seed, uint64(len(mode))))
					t.Cleanup(func() {
						if t.Failed() {
							t.Logf("again: TURNOUT_SEED=%d TURNOUT_WALK=%v TURNOUT_TEST=%s go test -run TestWalk/ ./internal/faulttest", seed, long, backend)
						}
					})
					w.play(share)
				})
			}
		})
	}
}

func (w *walk) play(long time.Duration) {
	for range 2 {
		w.another(scene.Controller)
		w.another(scene.Sender)
		w.another(scene.Receiver)
	}
	w.flows(w.from)
	stop := w.starved.begin(rand.New(rand.NewPCG(w.rand.Uint64(), 0)))
	defer stop()
	steps := []func(){w.killOne, w.killOne, w.stopOne, w.starve, w.starve, w.expire, w.zooKeeper, w.slowZooKeeper, w.broker, w.cut, w.rollback, w.join, w.nothing, w.nothing}
	for end := time.Now().Add(long); time.Now().Before(end); {
		w.keepMoving()
		steps[w.rand.IntN(len(steps))]()
		w.pause(time.Second)
	}
	stop()
	if w.current != "" {
		w.free(w.ended(w.current))
	}
	r := w.ended(w.lastMove())
	w.proven(r)
	w.registered()
	w.applied(r.To)
	w.flows(r.To)
	failed := w.onlyFencedFail(w.senders()...)
	w.allow = append(w.allow, history.Failed, history.Unknown) // none but those
	w.t.Logf("migrations %v; %d sends met a fence while ZooKeeper was away", w.moves, failed)
	w.verdict()
}

// free sees that a migration has left nothing behind: one that was given up before it began never went anywhere.
func (w *walk) free(r *migrate.Receipt) {
	w.t.Helper()
	require.True(w.t, r.Free || r.Outcome == store.Aborted && len(r.Left) == 0, "%+v\n%s", r, w.story(r.Migration))
}

// lastMove is one more, with nothing in its way.
func (w *walk) lastMove() string {
	w.t.Helper()
	return w.move(w.elsewhere(), nil).ID
}

// elsewhere is the cluster that the topic is not on.
func (w *walk) elsewhere() string {
	w.t.Helper()
	topic, err := w.store.GetTopic(w.ctx(), w.topic)
	require.NoError(w.t, err)
	if topic.Route.Write == w.from {
		return w.to
	}
	return w.from
}

func (w *walk) say(format string, args ...any) {
	w.t.Logf("%s  %s", time.Now().UTC().Format("15:04:05.000"), fmt.Sprintf(format, args...))
}

// pause lets some time pass.
func (w *walk) pause(most time.Duration) { <-time.After(time.Duration(w.rand.Int64N(int64(most)))) }

// keepMoving starts a migration if none runs and nothing blocks it.
func (w *walk) keepMoving() {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	if w.current != "" {
		row, err := w.Get(ctx, w.current)
		require.NoError(w.t, err)
		if row.EndedAt == nil {
			return
		}
		w.moves[row.Outcome]++
		r, err := w.Receipt(ctx, w.current)
		require.NoError(w.t, err)
		w.free(r)
	}
	topic, err := w.store.GetTopic(ctx, w.topic)
	if err != nil || topic.Route == nil {
		return // ZooKeeper is away
	}
	target := w.to
	if topic.Route.Write == w.to {
		target = w.from
	}
	hold := int64(500 + w.rand.IntN(5000))
	row, err := w.Start(ctx, migrate.Plan{Topic: w.topic, To: target, Ordered: w.ordered, Hold: hold, Accept: []string{migrate.AutoCreate, migrate.Vanished}}, "walk", migrate.StarterApproves)
	if err != nil {
		w.say("no migration to %s now: %v", target, err)
		return
	}
	w.current = row.ID
	w.say("%s to %s", row.ID, target)
}

// another starts one more process and does not wait for it.
func (w *walk) another(role scene.Role) {
	w.count++
	name := fmt.Sprintf("%s-%d", role, w.count)
	session := time.Duration(1+w.rand.IntN(6)) * time.Second
	spec := scene.Spec{Name: name}
	switch role {
	case scene.Sender:
		spec = w.senderSpec(name)
		spec.Rate, spec.Senders, spec.Keys, spec.Deadline = 60, 2, 8, patience
		spec.Async = w.rand.IntN(3) == 0
	case scene.Receiver:
		spec = w.receiverSpec(name)
		spec.Linger = time.Duration(w.rand.IntN(1000)) * time.Millisecond
		if w.rand.IntN(3) == 0 && !w.ordered {
			spec.FailRate, spec.FailTimes, spec.RetryDelay = 0.01, 4, time.Second
		}
	case scene.Controller:
		w.controller(name, func(spec *scene.Spec) { spec.SessionTimeout = session })
		return
	}
	w.start(spec, func(spec *scene.Spec) { spec.SessionTimeout, spec.NodeRecheck = session, time.Second })
}

func (w *walk) one() *scene.Process { return w.running[w.rand.IntN(len(w.running))] }

func (w *walk) nothing() { w.pause(2 * time.Second) }

func (w *walk) killOne() {
	p := w.one()
	w.say("kill %s", p.Name())
	role := w.roles[p]
	w.starved.forget(p)
	w.kill(p)
	w.another(role)
}

func (w *walk) stopOne() {
	p := w.one()
	w.starved.forget(p)
	w.say("stop %s", p.Name())
	require.NoError(w.t, p.Pause())
	w.pause(4 * time.Second)
	require.NoError(w.t, p.Resume())
}

// starve makes another process run by moments only.
func (w *walk) starve() {
	p := w.one()
	w.say("starve %s", p.Name())
	w.starved.take(p)
}

func (w *walk) expire() {
	pid := w.one().Pid()
	if e, there := w.instances()[pid]; there {
		w.say("expire the session of %s", e.ID)
		_ = w.env.ExpireSession(w.ctx(), e.Node.EphemeralOwner) // it may have ended by itself
	}
}

func (w *walk) zooKeeper() {
	node := zooKeeper
	if n := w.rand.IntN(4); n > 0 {
		node = fmt.Sprintf("%s-%d", zooKeeper, n)
	}
	w.say("kill %s", node)
	require.NoError(w.t, w.env.Kill(w.ctx(), node))
	w.pause(2 * time.Second)
	require.NoError(w.t, w.env.Restart(w.ctx(), node))
}

func (w *walk) slowZooKeeper() {
	w.say("ZooKeeper is slow")
	require.NoError(w.t, w.env.Delay(zooKeeper, 100*time.Millisecond))
	w.pause(3 * time.Second)
	require.NoError(w.t, w.env.Delay(zooKeeper, 0))
}

func (w *walk) broker() {
	cluster := w.clusters[w.rand.IntN(len(w.clusters))]
	w.say("kill the broker of %s", cluster)
	require.NoError(w.t, w.env.Kill(w.ctx(), cluster))
	w.pause(time.Second)
	require.NoError(w.t, w.env.Restart(w.ctx(), cluster))
}

func (w *walk) cut() {
	cluster := w.clusters[w.rand.IntN(len(w.clusters))]
	w.say("cut %s", cluster)
	require.NoError(w.t, w.env.Cut(cluster))
	w.pause(2 * time.Second)
	require.NoError(w.t, w.env.Heal(cluster))
}

func (w *walk) rollback() {
	if w.current == "" {
		return
	}
	err := w.Rollback(w.ctx(), w.current, "walk")
	w.say("rollback of %s: %v", w.current, err)
	if err != nil {
		require.ErrorIs(w.t, err, turnout.ErrConflict) // it has ended
	}
}

// join starts one more application, and ends one of its kind in good order.
func (w *walk) join() {
	role := []scene.Role{scene.Sender, scene.Receiver}[w.rand.IntN(2)]
	old := w.of(role)[0]
	w.say("another %s for %s", role, old.Name())
	w.another(role)
	w.starved.forget(old)
	w.stop(old)
}

// senders are all that there ever were.
func (w *walk) senders() (names []string) {
	for _, e := range w.history() {
		if e.Op == history.OpSend && !slices.Contains(names, e.Producer) {
			names = append(names, e.Producer)
		}
	}
	return names
}

// starver lets one process at a time run by moments only, each at its own and changing speed.
type starver struct {
	mu     sync.Mutex // held while its process is stopped
	victim *scene.Process
	paused bool
}

// take makes p the victim, in place of the one before.
func (s *starver) take(p *scene.Process) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.release()
	s.victim = p
}

// forget lets p alone, if it is the victim.
func (s *starver) forget(p *scene.Process) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.victim == p {
		s.release()
		s.victim = nil
	}
}

func (s *starver) release() {
	if s.paused {
		_ = s.victim.Resume() // one that has ended needs none
		s.paused = false
	}
}

// begin starves until stop is called, which may be called again.
func (s *starver) begin(random *rand.Rand) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		var victim *scene.Process
		var slow float64 // how long it is stopped after each moment, in ms, on the average
		for {
			s.mu.Lock()
			if s.victim != victim {
				victim, slow = s.victim, 20*math.Exp(3*random.Float64()) // 20 to 400
			}
			slow = min(max(10, slow*math.Exp(random.NormFloat64()/4)), 2000)
			wait := float64(1 + random.IntN(30))
			if victim != nil && !s.paused {
				s.paused = victim.Pause() == nil
				wait = slow * random.ExpFloat64() // now and then longer than a session
			} else {
				s.release()
			}
			s.mu.Unlock()
			select {
			case <-ctx.Done():
				s.mu.Lock()
				s.release()
				s.victim = nil
				s.mu.Unlock()
				return
			case <-time.After(time.Duration(wait * float64(time.Millisecond))):
			}
		}
	}()
	return func() { cancel(); <-done }
}
