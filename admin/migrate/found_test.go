package migrate

import (
	"context"
	"errors"
	"math/rand/v2"
	"os"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	"github.com/turnout-mq/turnout/broker"
	"github.com/turnout-mq/turnout/internal/clusters"
	"github.com/turnout-mq/turnout/metadata"
)

// Single cases of what the property test has found, and of what it can not reach.

// worldFor makes a world that goes on only when play is called.
func worldFor(t *testing.T, s setup) *world {
	w := newWorld(s, rand.New(rand.NewPCG(1, 1)).IntN) //nolint:gosec // of a test
	newEngine(t).build(w)
	t.Cleanup(w.end)
	w.calm = true
	return w
}

// play lets everybody go on in turn until it is so.
func (w *world) play(t *testing.T, until func() bool) {
	t.Helper()
	for range 200 {
		for _, a := range w.actors() {
			if until() {
				return
			}
			w.step++
			w.let(a)
		}
	}
	require.Fail(t, "not reached", w.unrest())
}

func (w *world) state(s State) func() bool {
	return func() bool { m := w.open(); return m != nil && m.State == string(s) }
}

func (w *world) over() bool { return w.open() == nil }

func (w *world) wish(t *testing.T, cluster string) {
	w.stale = true
	require.NoError(t, w.meta.Set(w.ctx, w.meta.TopicPath(topicName), []byte(`{"cluster":"`+cluster+`"}`), metadata.AnyVersion))
}

// While the source is closed to writers a migration that waits for the wish to be corrected would stop every send.
func TestAWishThatCanNotBeFollowedHoldsNoMigrationUp(t *testing.T) {
	for _, state := range []State{Planned, Preparing, Holding, Fencing, Switching, Draining} {
		t.Run(string(state), func(t *testing.T) {
			w := worldFor(t, setup{Ordered: true, Partitions: 1, Groups: 1, Members: 1, Messages: 2, Moves: 1, Hold: 60_000, Edits: 1})
			require.NoError(t, w.clusters["c"].Connect(nil).DeleteTopic(t.Context(), topicName))
			w.start()
			w.play(t, w.state(state))
			w.wish(t, "c")
			w.play(t, w.over)
			topic, err := w.meta.GetTopic(t.Context(), topicName)
			require.NoError(t, err)
			require.Equal(t, "b", topic.Route.Write)
			require.Equal(t, "c", topic.Wish.Cluster, "what was written by hand stays")
			require.NoError(t, w.clusters["c"].Connect(nil).CreateTopic(t.Context(), topicName, broker.TopicSpec{Partitions: 1}))
			w.play(t, func() bool { return w.unrest() == "" })
			topic, err = w.meta.GetTopic(t.Context(), topicName)
			require.NoError(t, err)
			require.Equal(t, "c", topic.Route.Write, "followed when it can be")
		})
	}
}

// What a step has noted in memory and not stored must not be stored because it failed.
func TestAStepThatFailsLeavesNothingBehind(t *testing.T) {
	w := worldFor(t, setup{Partitions: 1, Groups: 1, Members: 1, Moves: 1})
	w.start()
	w.play(t, w.state(Preparing))
	var failed atomic.Bool
	pool := clusters.NewPool(w.meta, func(_ context.Context, cfg broker.Config) (broker.Cluster, error) {
		return w.clusters[cfg.Name].Connect(func(_ context.Context, cluster, call string) error {
			if cluster == "a" && call == "EndOffsets" && failed.CompareAndSwap(false, true) {
				return errors.New("the cluster does not answer")
			}
			return nil
		}), nil
	}, "controller", time.Hour, zap.NewNop())
	defer func() { require.NoError(t, pool.Close(w.ctx)) }()
	c := New(w.db, w.meta, pool, zap.NewNop(), Options{})
	ctx, cancel := context.WithCancel(t.Context())
	over := make(chan struct{})
	go func() { c.work(ctx, "m-1"); close(over) }()
	defer func() { cancel(); <-over }()
	require.Eventually(t, func() bool {
		m, err := c.migration(t.Context(), "m-1")
		require.NoError(t, err)
		if m.data.Target.Start == nil {
			return false
		}
		require.NotNil(t, m.data.Sources[0].Since, "from where on foreign writers are looked for")
		return true
	}, time.Minute, 5*time.Millisecond)
	require.True(t, failed.Load())
}

// A sealed stay on the cluster that is written again would stay in the route for ever.
func TestASealedStayOnTheWrittenClusterLeavesTheRoute(t *testing.T) {
	w := worldFor(t, setup{Partitions: 1, Groups: 1, Members: 1, Messages: 2, Moves: 2, Asleep: true})
	w.play(t, func() bool { return w.Messages == 0 && w.senders[0].cur == nil && w.senders[1].cur == nil })
	for range 2 {
		w.start()
		w.play(t, w.over)
	}
	topic, err := w.meta.GetTopic(t.Context(), topicName)
	require.NoError(t, err)
	require.Equal(t, "a", topic.Route.Write)
	require.Len(t, topic.Route.Stays, 2, "one is of the group that sleeps")
	w.readers[0].asleep = false
	w.play(t, func() bool { return w.unrest() == "" })
}

// Who reads a plan at night finds its codes.
func TestEveryWarningIsExplained(t *testing.T) {
	doc, err := os.ReadFile("../../docs/migrations.md")
	require.NoError(t, err)
	for _, code := range warnings {
		require.Contains(t, string(doc), "`"+code+"`")
	}
}
