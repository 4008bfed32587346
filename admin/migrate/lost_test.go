package migrate

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/turnout-mq/turnout/admin/store"
	"github.com/turnout-mq/turnout/internal/errs"
)

// Clusters that never come back.

// A cluster that was left because it did not answer on the way back is given up, and one that was back and has died again.
func TestAClusterThatDiesLaterIsGivenUp(t *testing.T) {
	for name, again := range map[string]bool{"on the way back": false, "again": true} {
		t.Run(name, func(t *testing.T) {
			w := worldFor(t, setup{Partitions: 1, Groups: 1, Members: 1, Messages: 20, Moves: 1, Deaths: 1})
			w.Deaths = 0
			var gone string
			dead := func(until func() bool) func() bool {
				return func() bool { w.dead = gone; return until() }
			}
			if again {
				gone = "a"
				dead(w.over)()
			}
			w.start()
			w.barred = "r00-0: begins"
			if again {
				w.play(t, dead(w.state(Pending)))
				gone = ""
			}
			w.play(t, dead(w.state(Draining)))
			left, outcome := "a", store.Done
			if gone = left; !again {
				left, outcome = "b", store.RolledBack
				gone = left
				require.NoError(t, w.service.Rollback(w.ctx, "m-1", "op"))
				w.wakes()
				w.play(t, dead(w.state(Pending)))
			}
			from := w.step
			w.play(t, dead(func() bool { return w.step > from+50 }))
			require.NotNil(t, w.open())
			require.NoError(t, w.service.Resume(w.ctx, "m-1", "op", SourceLost))
			w.wakes()
			w.barred = ""
			w.play(t, dead(w.over))
			r, err := w.service.Receipt(w.ctx, "m-1")
			require.NoError(t, err)
			require.Equal(t, outcome, r.Outcome)
			i := slices.IndexFunc(r.Left, func(l LeftCluster) bool { return l.Cluster == left })
			require.GreaterOrEqual(t, i, 0, "%+v", r.Left)
			require.NotNil(t, r.Left[i].Lost)
			require.False(t, r.Free)
		})
	}
}

// A cluster that dies when sends have left it can be given up in every state, and nothing that answers is.
func TestAClusterThatDiesAfterTheSwitchIsGivenUp(t *testing.T) {
	for _, c := range []struct {
		state   State
		ordered bool
		late    int
		fate    string
	}{
		{Sealing, false, 0, "what it has stored and nobody has read is lost"},
		{Draining, false, 1, "what it has stored and nobody has read is lost"},
		{Draining, true, 0, "what it has stored and nobody has read is lost"},
		{Shutting, false, 1, "what it has stored and nobody has read is lost"},
		{Closing, true, 0, "it was closed to writers, and every group has read it to its end"},
		{Closing, false, 1, "it was closed to writers, and every group has read it to its end"},
	} {
		t.Run(fmt.Sprintf("%s ordered=%v late=%d", c.state, c.ordered, c.late), func(t *testing.T) {
			w := worldFor(t, setup{Ordered: c.ordered, Partitions: 1, Groups: 1, Members: 1, Messages: 20, Moves: 1, Late: c.late, Hold: 60_000})
			w.start()
			w.play(t, w.state(c.state))
			require.ErrorIs(t, w.service.Resume(w.ctx, "m-1", "op", SourceLost), errs.ErrInvalid)
			w.play(t, w.dies("a", func() bool {
				said := w.open().Waiting + strings.Join(w.trace, "\n")
				return strings.Contains(said, "a does not answer") && strings.Contains(said, "if it never comes back: turnout migrate resume m-1 --accept source-lost")
			}))
			require.NoError(t, w.service.Resume(w.ctx, "m-1", "op", SourceLost))
			w.wakes()
			w.play(t, w.dies("a", w.over))
			r, err := w.service.Receipt(w.ctx, "m-1")
			require.NoError(t, err)
			require.Equal(t, store.Done, r.Outcome)
			require.Len(t, r.Left, 1)
			require.NotNil(t, r.Left[0].Lost)
			require.False(t, r.Free)
			require.Contains(t, strings.Join(r.Verdict, "\n"), c.fate)
			require.NotContains(t, r.Accepted, SourceLost, "it is said of what is lost")
			route := w.look().Route
			require.Equal(t, "b", route.Write)
			require.Len(t, route.Stays, 1, "nobody is told to read a")
		})
	}
}

// A cluster that was left by force and never comes back keeps the migration no longer than people want.
func TestAClusterThatNeverComesBackIsGivenUp(t *testing.T) {
	w := worldFor(t, setup{Partitions: 1, Groups: 1, Members: 1, Messages: 20, Moves: 1, Deaths: 1})
	w.Deaths = 0
	w.dies("a", w.over)()
	w.start()
	w.play(t, w.dies("a", w.state(Pending)))
	require.ErrorIs(t, w.service.Resume(w.ctx, "m-1", "op", "source-dead"), errs.ErrInvalid)
	require.NoError(t, w.service.Resume(w.ctx, "m-1", "op", "all"))
	w.wakes()
	from := w.step
	w.play(t, w.dies("a", func() bool { return w.step > from+50 }))
	require.True(t, w.state(Pending)(), "that messages are lost is said by name")
	require.NoError(t, w.service.Resume(w.ctx, "m-1", "op", SourceLost))
	w.wakes()
	w.play(t, w.dies("a", func() bool {
		m, err := decode(w.open())
		require.NoError(t, err)
		return m.data.Sources[0].Lost != nil
	}))
	require.NoError(t, w.service.Rollback(w.ctx, "m-1", "op"))
	w.wakes()
	w.play(t, w.dies("a", w.over))
	events, err := w.service.Events(w.ctx, "m-1", 0, 1000)
	require.NoError(t, err)
	require.True(t, slices.ContainsFunc(events, func(e store.Event) bool { return strings.Contains(e.Text, "a was given up") }), "there is no way back to it")
	r, err := w.service.Receipt(w.ctx, "m-1")
	require.NoError(t, err)
	require.Equal(t, store.Done, r.Outcome)
	require.Len(t, r.Left, 1)
	require.NotNil(t, r.Left[0].Lost)
	require.False(t, r.Free)
	require.Contains(t, r.Verdict[0], "a did not answer from")
	route := w.look().Route
	require.Equal(t, "b", route.Write)
	require.Len(t, route.Stays, 1, "nobody is told to read a")

	w.dead = ""
	_, err = w.service.Start(w.ctx, Plan{Topic: topicName, To: "c", Accept: []string{SourceLost}}, "op", StarterApproves)
	require.ErrorIs(t, err, errs.ErrInvalid)
	require.ErrorContains(t, err, `"source-lost" is no warning`)
	_, err = w.service.Start(w.ctx, Plan{Topic: topicName, To: "a", Accept: []string{"all"}}, "op", StarterApproves)
	require.NoError(t, err)
	require.ErrorIs(t, w.service.Resume(w.ctx, "m-2", "op", SourceLost), errs.ErrInvalid)
}

// dies makes a cluster dead for as long as until is asked.
func (w *world) dies(cluster string, until func() bool) func() bool {
	return func() bool { w.dead = cluster; return until() }
}

// Who wanted to go back to it is told, and what goes on is the move.
func TestThereIsNoWayBackToAClusterThatIsGivenUp(t *testing.T) {
	w := worldFor(t, setup{Ordered: true, Partitions: 1, Groups: 1, Members: 1, Messages: 20, Moves: 1, Hold: 60_000})
	w.start()
	w.play(t, w.state(Draining))
	w.barred = "r00-0: begins"
	require.NoError(t, w.service.Rollback(w.ctx, "m-1", "op"))
	w.wakes()
	w.play(t, func() bool { m, err := decode(w.open()); require.NoError(t, err); return m.data.GoBack })
	w.dead = "a"
	require.NoError(t, w.service.Resume(w.ctx, "m-1", "op", SourceLost))
	w.wakes()
	w.barred = ""
	w.play(t, w.dies("a", w.over))
	r, err := w.service.Receipt(w.ctx, "m-1")
	require.NoError(t, err)
	require.Equal(t, store.Done, r.Outcome)
	require.Equal(t, "b", r.To)
	require.False(t, r.Free)
	events, err := w.service.Events(w.ctx, "m-1", 0, 1000)
	require.NoError(t, err)
	require.True(t, slices.ContainsFunc(events, func(e store.Event) bool { return e.Text == "rollback is refused: a was given up" }))
}

// A migration that takes over says what the one before has given up.
func TestWhatWasGivenUpIsInTheReceiptOfWhatTakesOver(t *testing.T) {
	w := worldFor(t, setup{Partitions: 1, Groups: 2, Members: 1, Asleep: true, Messages: 20, Moves: 2, Edits: 1})
	w.barred = "r10-0: "
	w.start()
	w.play(t, w.over) // a keeps what g1 has not read
	_, err := w.service.Start(w.ctx, Plan{Topic: topicName, To: "c", Accept: []string{"all"}}, "op", StarterApproves)
	require.NoError(t, err)
	w.wakes()
	w.barred = "r00-0: begins"
	w.play(t, w.state(Draining))
	w.dead = "a"
	require.NoError(t, w.service.Resume(w.ctx, "m-2", "op", SourceLost))
	w.wakes()
	w.play(t, w.dies("a", func() bool {
		w.stale = true
		return !slices.Contains(w.look().Route.Clusters(), "a")
	}))
	require.True(t, w.state(Draining)())
	w.dead = "c"
	_, err = w.service.Start(w.ctx, Plan{Topic: topicName, To: "b", Force: true, Accept: []string{"all"}}, "op", StarterApproves)
	require.NoError(t, err)
	w.wakes()
	w.play(t, w.dies("c", w.state(Pending)))
	w.dead, w.barred = "", ""
	w.play(t, w.over)
	r, err := w.service.Receipt(w.ctx, "m-3")
	require.NoError(t, err)
	require.Equal(t, store.Done, r.Outcome)
	require.False(t, r.Free, "%q", r.Verdict)
	i := slices.IndexFunc(r.Left, func(l LeftCluster) bool { return l.Cluster == "a" })
	require.GreaterOrEqual(t, i, 0, "%+v", r.Left)
	require.NotNil(t, r.Left[i].Lost)
}

// A cluster that waits for a group that sleeps may be down; when it is given up, the receipt says whose messages are lost.
func TestAClusterThatWaitsForASleepingGroupDies(t *testing.T) {
	for _, lost := range []bool{false, true} {
		t.Run(fmt.Sprintf("given up: %v", lost), func(t *testing.T) {
			w := worldFor(t, setup{Partitions: 1, Groups: 2, Members: 1, Asleep: true, Messages: 20, Moves: 1})
			w.barred = "r10-0: "
			w.start()
			w.play(t, w.state(Closing))
			w.dead = "a"
			if lost {
				require.NoError(t, w.service.Resume(w.ctx, "m-1", "op", SourceLost))
				w.wakes()
			} else {
				w.play(t, w.dies("a", func() bool {
					return strings.Contains(w.open().Waiting, "a does not answer and is waited for; if it never comes back: ")
				}))
				w.dead = ""
			}
			w.play(t, func() bool {
				if lost {
					w.dead = "a"
				}
				return w.over()
			})
			r, err := w.service.Receipt(w.ctx, "m-1")
			require.NoError(t, err)
			require.Equal(t, store.Done, r.Outcome)
			require.False(t, r.Free)
			require.Equal(t, []string{"g1"}, r.Left[0].Sleeping)
			verdict := strings.Join(r.Verdict, "\n")
			if lost {
				require.Contains(t, verdict, "what group g1 has not read there is lost")
				require.Len(t, w.look().Route.Stays, 1)
			} else {
				require.Contains(t, verdict, "a must stay up: group g1 has not read everything there")
			}
		})
	}
}
