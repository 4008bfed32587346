package migrate

import (
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"
)

// scripts are runs in which a rule that is missing does harm, where chance finds them too seldom.
var scripts = map[string]struct {
	setup
	play func(t *testing.T, w *world)
}{
	// A deposed controller writes the route that it has decided upon a move ago.
	"R2": {setup{Messages: 4, Moves: 2}, func(t *testing.T, w *world) {
		c := w.leaders[0]
		w.start()
		w.play(t, w.state(Switching))
		w.standBefore(t, c, "DescribeTopic b")
		w.play(t, w.over)
		w.stopped = ""
		c.resume(nil)
		w.observe()
		if r := w.look().Route; len(r.Stays) != 1 {
			w.fail("a deposed controller has written: %s", describeRoute(*r))
		}
	}},
	// A deposed controller has asked for a fence, which acts after the rollback has ended.
	"R8": {setup{Messages: 4, Moves: 1}, func(t *testing.T, w *world) {
		c := w.leaders[0]
		w.start()
		w.play(t, w.state(Sealing))
		w.standBefore(t, c, "Fence a")
		c.depose()
		w.stopped = "network"
		require.NoError(t, w.service.Rollback(w.ctx, "m-1", "op"))
		w.stirred = true
		w.play(t, w.over)
		w.stopped = ""
	}},
	// The retries are looked at, a listener fails, the positions are looked at.
	"R14": {setup{Messages: 1, Moves: 1}, func(t *testing.T, w *world) {
		r, c := w.readers[0], w.leaders[0]
		w.leaders = w.leaders[:1]
		w.barred = r.id + ": begins"
		w.play(t, func() bool { return w.messages != nil && w.messages[0].returned })
		w.start()
		w.play(t, w.state(Draining))
		w.play(t, func() bool { return r.applied == w.look().RouteNode.Mzxid && w.open().State == string(Draining) })
		w.standBefore(t, c, "Positions a")
		rec, ok := w.clusters["a"].At(topicName, "0", 0)
		require.True(t, ok)
		w.clusters["a"].Defer(r.physical(), topicName, rec.Envelope)
		w.clusters["a"].Commit(r.physical(), topicName, "0", 1)
		r.on["a"].claims["0"].pos = 1
		w.stopped, w.barred = "", r.id+": repeats"
		for range 20 {
			for _, a := range w.actors() {
				w.step++
				w.let(a)
			}
		}
		w.barred = ""
	}},
}

// lateWrite: a call of a deposed controller opens the source while it is drained, and a sender that is cut off writes to it.
func lateWrite(t *testing.T, w *world) {
	s := w.senders[0]
	w.senders[1].expire()
	w.senders, w.leaders = w.senders[:1], w.leaders[:1]
	w.barred = s.id + ": begins"
	s.cut = true
	s.expire()
	w.start()
	w.stopped = s.id
	w.play(t, w.state(Draining))
	require.NoError(t, w.clusters["a"].Connect(nil).Unfence(w.ctx, topicName, ""))
	w.reopened["a"] = true
	s.send()
	s.to, s.began = s.target, s.under
	s.store()
	require.True(t, s.stored)
	s.cur.returned, s.cur, s.to, s.stored = true, nil, "", false
	w.barred = "r00: begins"
	for range 20 {
		for _, a := range w.actors() {
			w.step++
			w.let(a)
		}
	}
	w.barred, w.stopped = "", ""
}

// standBefore lets a controller go on until it stands before a call, and stops it there.
func (w *world) standBefore(t *testing.T, l *leader, call string) {
	l.stop = call
	w.play(t, func() bool { return l.turn != nil })
	w.stopped = l.name
}

func TestRulesByScript(t *testing.T) {
	e := newEngine(t)
	for rule, script := range scripts {
		for _, kept := range []bool{true, false} {
			s := script.setup
			s.Partitions, s.Groups, s.Members, s.Hold, s.Off = 1, 1, 1, 60_000, map[string]bool{rule: !kept}
			w := newWorld(s, rand.New(rand.NewPCG(1, 1)).IntN) //nolint:gosec // of a test
			e.build(w)
			w.calm = true
			script.play(t, w)
			w.rest()
			w.end()
			t.Log(rule, kept, w.bad)
			if !kept {
				require.NotEmpty(t, w.bad, "without %s nothing goes wrong", rule)
			} else {
				require.Empty(t, w.bad, "%s\n%s", rule, w.trace)
			}
		}
	}
}

// A late write to the sealed source has no place in the order, and must neither be lost nor hold the move up.
func TestALateWriteIsSentOn(t *testing.T) {
	for _, ordered := range []bool{false, true} {
		w := worldFor(t, setup{Ordered: ordered, Partitions: 1, Groups: 2, Members: 1, Messages: 2, Moves: 1, Hold: 60_000})
		lateWrite(t, w)
		w.rest()
		require.Empty(t, w.bad)
		r, err := w.service.Receipt(w.ctx, "m-1")
		require.NoError(t, err)
		require.True(t, r.Free)
		require.EqualValues(t, 1, r.Left[0].Rescued)
	}
}

// A deposed controller that is about to open a cluster must not store that it is to be open when that has ceased to be so.
func TestADeposedControllerOpensNothingForGood(t *testing.T) {
	w := worldFor(t, setup{Partitions: 1, Groups: 1, Members: 1, Messages: 2, Moves: 2})
	c := w.leaders[0]
	w.start()
	w.play(t, w.state(Switching))
	w.standBefore(t, c, "DescribeTopic b")
	for w.Moves > 0 {
		w.play(t, w.over)
		w.start()
	}
	w.play(t, w.over)
	w.stopped = ""
	c.resume(nil)
	w.rest()
	require.Empty(t, w.bad)
	f, err := w.db.FenceOf(w.ctx, "b", topicName)
	require.NoError(t, err)
	require.True(t, f.Wanted)
}
