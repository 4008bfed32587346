package migrate

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	"github.com/turnout-mq/turnout/admin/store"
	"github.com/turnout-mq/turnout/broker"
	"github.com/turnout-mq/turnout/internal/clusters"
	"github.com/turnout-mq/turnout/internal/clusters/clustertest"
	"github.com/turnout-mq/turnout/metadata"
)

// turns gives every actor n turns.
func (w *world) turns(n int) {
	for range n {
		for _, a := range w.actors() {
			w.step++
			w.let(a)
		}
	}
}

// strange is a message that no sender of the world has sent.
func strange(id string) clustertest.Record {
	return clustertest.Record{Envelope: broker.Envelope{Message: broker.Message{ID: id, Key: []byte("k"), Body: []byte("x")}}}
}

// wakes: an operator has written into the store.
func (w *world) wakes() { w.stirred = true }

func TestAClusterThatWasLeftMayBeSwitchedOff(t *testing.T) {
	w := worldFor(t, setup{Partitions: 1, Groups: 1, Members: 1, Messages: 4, Moves: 2, Edits: 1})
	w.start()
	w.play(t, w.over)
	w.turns(3)
	for _, l := range w.leaders {
		p := clusters.NewPool(w.meta, func(_ context.Context, cfg broker.Config) (broker.Cluster, error) {
			if cfg.Name == "a" {
				return nil, errors.New("connection refused")
			}
			return w.clusters[cfg.Name].Connect(nil), nil
		}, "c", time.Hour, zap.NewNop())
		defer func() { require.NoError(t, p.Close(w.ctx)) }()
		l.c = New(w.db, w.meta, p, zap.NewNop(), Options{})
		l.c.now, l.c.apart, l.c.least = w.now, 0, time.Hour
		l.walk = nil
	}
	_, err := w.service.Start(w.ctx, Plan{Topic: topicName, To: "c", Accept: []string{"all"}}, "op", StarterApproves)
	require.NoError(t, err)
	w.wakes()
	w.play(t, func() bool { return w.open() == nil })
	require.Equal(t, "c", w.look().Route.Write)
}

func TestNoSendWaitsForSomebodyWhoIsAttachedToTheTarget(t *testing.T) {
	w := worldFor(t, setup{Ordered: true, Partitions: 1, Groups: 1, Members: 1, Messages: 40, Moves: 1, Hold: 60_000})
	w.clusters["b"].Join(w.groups["g0"].Physical(topicName), "somebody else with that group id")
	w.start()
	w.turns(200)
	m := w.open()
	require.Equal(t, string(Preparing), m.State)
	require.Contains(t, m.Waiting, "somebody else with that group id")
}

func TestAWishThatCanNotBeReadStopsNoMigration(t *testing.T) {
	w := worldFor(t, setup{Ordered: true, Partitions: 1, Groups: 1, Members: 1, Messages: 40, Moves: 1, Hold: 60_000})
	w.start()
	w.play(t, w.state(Fencing))
	require.NoError(t, w.meta.Set(w.ctx, w.meta.TopicPath(topicName), []byte(`{`), metadata.AnyVersion))
	w.stale = true
	require.NoError(t, w.service.Rollback(w.ctx, "m-1", "op"))
	w.wakes()
	l := w.leaders[0]
	for range 2 {
		_, _, err := l.c.turn(w.ctx, "m-1", nil, zap.NewNop())
		require.NoError(t, err)
	}
	m, err := w.db.Migration(w.ctx, "m-1")
	require.NoError(t, err)
	require.Equal(t, string(Reverting), m.State)
}

func TestNothingIsMadeOfARouteThatWasDeleted(t *testing.T) {
	w := worldFor(t, setup{Partitions: 1, Groups: 1, Members: 1, Messages: 4, Moves: 1})
	w.start()
	w.play(t, w.state(Draining))
	require.NoError(t, w.meta.Delete(w.ctx, w.meta.RoutePath(topicName), metadata.AnyVersion))
	_, _, err := w.leaders[1].c.turn(w.ctx, "m-1", nil, zap.NewNop())
	require.NoError(t, err)
	require.NoError(t, w.leaders[1].c.settle(w.ctx, topicName))
	now, err := w.leaders[1].c.look(w.ctx, topicName)
	require.NoError(t, err)
	require.Nil(t, now.Route)
	m, err := w.db.Migration(w.ctx, "m-1")
	require.NoError(t, err)
	require.Contains(t, m.Waiting, "deleted")
	require.NoError(t, w.service.Abort(w.ctx, "m-1", "op"))
	_, _, err = w.leaders[1].c.turn(w.ctx, "m-1", nil, zap.NewNop())
	require.NoError(t, err)
	m, err = w.db.Migration(w.ctx, "m-1")
	require.NoError(t, err)
	require.NotNil(t, m.EndedAt)
}

func TestAWayBackThatFailsSaysWhereTheTopicIs(t *testing.T) {
	w := worldFor(t, setup{Ordered: true, Partitions: 1, Groups: 1, Members: 1, Messages: 4, Moves: 1, Hold: 60_000})
	w.start()
	w.play(t, w.state(Draining))
	require.NoError(t, w.service.Rollback(w.ctx, "m-1", "op"))
	w.wakes()
	w.play(t, w.state(Holding))
	w.barred = "s1: acknowledges"
	w.play(t, w.state(Reverting))
	w.barred = ""
	w.play(t, w.over)
	m, err := w.db.Migration(w.ctx, "m-1")
	require.NoError(t, err)
	require.Equal(t, store.Failed, m.Outcome)
	r, err := w.service.Receipt(w.ctx, "m-1")
	require.NoError(t, err)
	require.Equal(t, "b", r.To)
	require.Equal(t, "b", w.look().Route.Write)
	require.Equal(t, "It has failed; the topic is on b.", r.Verdict[0])
	require.True(t, r.Free, "a was read to its end before, and is closed again: %v", r.Verdict)
	require.Len(t, r.Left, 1)
	require.Equal(t, "a", r.Left[0].Cluster)
	require.Contains(t, r.Verdict[1], "a can be switched off for this topic")
}

// writesLate lets somebody take the fence of b away and write there, and reports whether that reaches a.
func (w *world) writesLate(t *testing.T, id string) (sentOn bool) {
	t.Helper()
	size := func() int64 {
		e, err := w.clusters["a"].Connect(nil).EndOffsets(w.ctx, topicName)
		require.NoError(t, err)
		return e["0"]
	}
	before := size()
	require.NoError(t, w.clusters["b"].Connect(nil).Unfence(w.ctx, topicName, ""))
	w.clusters["b"].Act(topicName, "0")
	_, err := w.clusters["b"].Store(topicName, "0", strange(id))
	require.NoError(t, err)
	for range 5 {
		w.leaders[0].c.watchFences(w.ctx)
		w.clusters["b"].Act(topicName, "0")
	}
	return size() > before
}

func TestAClusterThatWasLeftIsWatchedAfterAMoveThereThatWasGivenUp(t *testing.T) {
	w := worldFor(t, setup{Ordered: true, Partitions: 1, Groups: 1, Members: 1, Messages: 0, Moves: 3, Hold: 60_000})
	for range 2 { // a → b → a
		w.start()
		w.play(t, w.over)
	}
	w.turns(3)
	require.True(t, w.writesLate(t, "before"))
	w.start()
	w.play(t, w.state(Holding))
	w.barred = "s1: acknowledges"
	w.play(t, func() bool { return w.open() == nil || w.open().State == string(Reverting) })
	w.barred = ""
	w.play(t, w.over)
	require.True(t, w.writesLate(t, "after"))
}

func TestWhoWritesToAClusterThatWasOpenedInVainIsSentOn(t *testing.T) {
	w := worldFor(t, setup{Ordered: true, Partitions: 1, Groups: 1, Members: 1, Messages: 0, Moves: 3, Hold: 60_000})
	for range 2 {
		w.start()
		w.play(t, w.over)
	}
	w.turns(3)
	before, err := w.clusters["a"].Connect(nil).EndOffsets(w.ctx, topicName)
	require.NoError(t, err)
	w.start()
	w.leaders = w.leaders[:1]
	l := w.leaders[0]
	w.play(t, w.state(Holding))
	l.stop = "Unfence b"
	w.play(t, func() bool { return l.at == "Unfence b" })
	require.NoError(t, w.service.Rollback(w.ctx, "m-3", "op"))
	w.wakes()
	l.resume(nil)
	w.clusters["b"].Act(topicName, "0")
	_, err = w.clusters["b"].Store(topicName, "0", strange("zombie"))
	require.NoError(t, err)
	w.play(t, w.over)
	after, err := w.clusters["a"].Connect(nil).EndOffsets(w.ctx, topicName)
	require.NoError(t, err)
	require.Equal(t, before["0"]+1, after["0"])
}

func TestAStrangerWhoHasStoppedHoldsNothingUp(t *testing.T) {
	w := worldFor(t, setup{Partitions: 1, Groups: 1, Members: 1, Messages: 0, Moves: 1})
	w.start()
	w.play(t, w.state(Preparing))
	w.play(t, func() bool { m, err := decode(w.open()); return err == nil && m.data.Sources[0].Since != nil })
	_, err := w.clusters["a"].Store(topicName, "0", clustertest.Record{Writer: "once"})
	require.NoError(t, err)
	w.play(t, func() bool { m, err := decode(w.open()); return err == nil && m.data.Sources[0].Foreign != nil })
	w.play(t, w.over)
}

func TestAPauseWaitsUntilSendsGoOn(t *testing.T) {
	w := worldFor(t, setup{Ordered: true, Partitions: 1, Groups: 1, Members: 1, Messages: 40, Moves: 1, Hold: 60_000})
	w.start()
	w.play(t, w.state(Fencing))
	require.NoError(t, w.service.Pause(w.ctx, "m-1", "op"))
	w.wakes()
	w.play(t, w.state(Switching))
}

func TestWhatIsSentOnIsSentOnce(t *testing.T) {
	w := worldFor(t, setup{Partitions: 1, Groups: 1, Members: 1, Messages: 0, Moves: 1})
	w.start()
	w.play(t, w.state(Closing))
	require.NoError(t, w.clusters["a"].Connect(nil).Unfence(w.ctx, topicName, ""))
	w.clusters["a"].Act(topicName, "0")
	for i := range 3 {
		_, err := w.clusters["a"].Store(topicName, "0", strange(fmt.Sprint("late", i)))
		require.NoError(t, err)
	}
	w.barred = "c"
	w.turns(20) // all acknowledge
	sends := 0
	p := clusters.NewPool(w.meta, func(_ context.Context, cfg broker.Config) (broker.Cluster, error) {
		return w.clusters[cfg.Name].Connect(func(_ context.Context, cluster, call string) error {
			if call == "Send" {
				if sends++; sends%2 == 0 {
					return errors.New("not now")
				}
			}
			return nil
		}), nil
	}, "c", time.Hour, zap.NewNop())
	defer func() { require.NoError(t, p.Close(w.ctx)) }()
	c := New(w.db, w.meta, p, zap.NewNop(), Options{})
	c.now, c.apart, c.least = w.now, 0, time.Hour
	before, err := w.clusters["b"].Connect(nil).EndOffsets(w.ctx, topicName)
	require.NoError(t, err)
	for range 20 {
		_, _, _ = c.turn(w.ctx, "m-1", nil, zap.NewNop()) // every second send fails
		w.stale = true
		w.turns(4)
		w.wakes()
		if w.open() == nil {
			break
		}
	}
	require.Nil(t, w.open())
	after, err := w.clusters["b"].Connect(nil).EndOffsets(w.ctx, topicName)
	require.NoError(t, err)
	require.Equal(t, before["0"]+3, after["0"])
}

// A cluster that hangs while sends pause gets no more of their time than there is; then they go on where they were.
func TestAClusterThatHangsMakesSendsPauseNoLonger(t *testing.T) {
	w := worldFor(t, setup{Ordered: true, Partitions: 1, Groups: 1, Members: 1, Messages: 10, Moves: 1, Hold: 2_000})
	w.start()
	w.play(t, w.state(Holding))
	now := w.now()
	w.barred = "c"
	w.turns(20) // all acknowledge
	hung := 0
	p := clusters.NewPool(w.meta, func(_ context.Context, cfg broker.Config) (broker.Cluster, error) {
		return w.clusters[cfg.Name].Connect(func(ctx context.Context, cluster, _ string) error {
			if cluster != "b" {
				return nil
			}
			hung++
			<-ctx.Done()
			return ctx.Err()
		}), nil
	}, "c", time.Hour, zap.NewNop())
	defer func() { require.NoError(t, p.Close(w.ctx)) }()
	c := New(w.db, w.meta, p, zap.NewNop(), Options{})
	c.now, c.apart, c.least = func() time.Time { return now }, 0, 0
	for i := 0; hung == 0; i++ {
		require.Less(t, i, 20, w.unrest())
		_, _, err := c.turn(w.ctx, "m-1", nil, zap.NewNop())
		w.stale, w.stirred = true, true
		if err != nil {
			require.ErrorIs(t, err, errAgain)
		}
		w.turns(3)
	}
	require.Equal(t, string(Fencing), w.open().State)
	require.NotEmpty(t, w.open().Waiting)
	now, c.least = now.Add(3*time.Second), time.Second
	_, _, err := c.turn(w.ctx, "m-1", nil, zap.NewNop())
	require.NoError(t, err)
	w.stale, w.stirred = true, true
	require.Equal(t, string(Reverting), w.open().State)
	w.barred = ""
	w.wakes()
	w.play(t, w.over)
	require.Equal(t, "a", w.look().Route.Write)
}

// An edit counts in every state: also while the sources are being closed, and on the way back.
func TestAnEditIsFollowedWhateverTheMigrationDoes(t *testing.T) {
	for _, c := range []struct {
		state State
		to    string
	}{{Preparing, "c"}, {Holding, "a"}, {Holding, "c"}, {Fencing, "a"}, {Fencing, "c"}, {Reverting, "c"}, {Draining, "a"}, {Draining, "c"}} {
		t.Run(fmt.Sprintf("%s to %s", c.state, c.to), func(t *testing.T) {
			w := worldFor(t, setup{Ordered: true, Partitions: 1, Groups: 1, Members: 1, Messages: 40, Moves: 1, Hold: 60_000, Edits: 1})
			w.Edits = 0 // but the one below
			group := w.groups["g0"].Physical(topicName)
			w.start()
			switch c.state {
			case Fencing:
				w.play(t, w.state(Holding))
				w.clusters["b"].Join(group, "somebody else")
				w.play(t, w.state(Fencing))
				w.turns(3) // a is closed, b is not opened
			case Reverting:
				w.play(t, w.state(Holding))
				w.barred = "s1: acknowledges"
				w.play(t, w.state(Reverting))
				w.turns(3)
			default:
				w.play(t, w.state(c.state))
			}
			w.edited = true
			w.wish(t, c.to)
			w.turns(3)
			w.barred = ""
			w.clusters["b"].Leave(group, "somebody else")
			w.play(t, w.over)
			w.turns(5)
			require.Equal(t, c.to, w.look().Route.Write)
			rows, err := w.db.Fences(w.ctx)
			require.NoError(t, err)
			for _, row := range rows {
				require.Equal(t, row.Wanted, row.Cluster != c.to, "%+v", row)
			}
			r, err := w.service.Receipt(w.ctx, w.migrations()[0].ID)
			require.NoError(t, err)
			require.Equal(t, c.to, r.To, "%+v", r)
			if c.to == "c" {
				require.NotEmpty(t, r.NoOrder)
			}
		})
	}
}
