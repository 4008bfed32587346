package turnout_test

import (
	"context"
	"fmt"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/turnout-mq/turnout"
	"github.com/turnout-mq/turnout/admin/migrate"
	"github.com/turnout-mq/turnout/admin/store"
	"github.com/turnout-mq/turnout/broker"
)

// away is a topic with traffic on rocketmq-a, where a fence keeps readers out, too.
func away(t *testing.T, w *world, change ...func(*migrate.Options)) *moving {
	w.putTopic("rocketmq-a", "rocketmq-b", "kafka-a")
	w.putGroup(nil)
	m := &moving{operator: w.operateOn(filepath.Join(t.TempDir(), "turnout.db"), change...), client: w.open("order_service")}
	rec := w.recorder("one")
	m.sub = w.listen(m.client, rec)
	m.quiet = w.traffic(m.client, rec, 4)
	m.sendsTo("rocketmq-a", 4)
	w.applied("rocketmq-a")
	return m
}

// cleanEverywhere ends the traffic and sees that no send failed, and nothing is lost or left.
func (m *moving) cleanEverywhere() {
	m.w.t.Helper()
	m.quiet()
	require.NoError(m.w.t, m.w.verdict("kafka-a", "rocketmq-a", "rocketmq-b").Err())
	require.Zero(m.w.t, m.client.Stats().Failed)
}

// late stores a message past Turnout's routes, as somebody who does not know the newest does.
func (w *world) late(cluster string) error { return w.lateAfter(cluster, 0) }

func (w *world) lateAfter(cluster string, delay time.Duration) error {
	var err error
	w.with(cluster, func(c broker.Cluster) {
		stored := make(chan error, 1)
		c.Send(w.ctx(), w.topic, &broker.Envelope{Message: broker.Message{ID: "0123456789abcdef0123456789abcdef", Key: []byte("k"), Body: []byte("0"), Delay: delay}},
			func(_ broker.Receipt, err error) { stored <- err })
		err = <-stored
	})
	return err
}

// A tour over clusters of both kinds, and back onto those that were left and closed.
func TestMovesBetweenKindsLeaveNothingBehind(t *testing.T) {
	withKinds(t, func(t *testing.T, w *world) {
		m := away(t, w)
		at := "rocketmq-a"
		for _, to := range []string{"rocketmq-b", "kafka-a", "rocketmq-a", "kafka-a"} {
			move := m.start(migrate.Plan{To: to})
			r := m.ended(move.ID)
			require.Equal(t, store.Done, r.Outcome, m.story(move.ID))
			require.True(t, r.Free, r.Verdict)
			require.True(t, w.fenced(at), at)
			require.False(t, w.fenced(to), to)
			require.Error(t, w.late(at), "it takes no messages")
			route, _ := w.route()
			require.Equal(t, to, route.Write)
			require.Len(t, route.Stays, 1)
			m.sendsTo(to, 20)
			at = to
		}
		m.cleanEverywhere()
	})
}

func TestOrderedMoveOntoRocketMQ(t *testing.T) {
	withKinds(t, func(t *testing.T, w *world) {
		w.putOrdered("kafka-a", "rocketmq-a")
		o := w.operate()
		rec := w.recorder("one")
		client := w.open("order_service")
		w.listen(client, rec)
		m := &moving{operator: o, ordered: true, client: client, quiet: w.traffic(client, rec, 4)}
		m.sendsTo("kafka-a", 20)
		w.applied("kafka-a")
		move := m.start(migrate.Plan{To: "rocketmq-a", Ordered: true, Hold: 30_000})
		require.Equal(t, store.Done, m.ended(move.ID).Outcome, m.story(move.ID))
		m.sendsTo("rocketmq-a", 20)
		// The way back is not closed until everything there was read: the order can not be kept.
		_, err := m.Start(w.ctx(), migrate.Plan{Topic: w.topic, To: "kafka-a", Ordered: true}, "tester", migrate.StarterApproves)
		require.ErrorIs(t, err, turnout.ErrConflict)
		require.ErrorContains(t, err, "--unordered")
		m.quiet()
		require.NoError(t, w.orderedVerdict("kafka-a", "rocketmq-a").Err())
		require.Zero(t, client.Stats().Failed)
	})
}

func TestAnotherControllerGoesOnInEveryStateOfAMoveAwayFromRocketMQ(t *testing.T) {
	withKinds(t, func(t *testing.T, w *world) {
		m := away(t, w)
		move := m.start(migrate.Plan{To: "rocketmq-b"})
		seen := map[string]bool{}
		now := m.operator
		w.eventually(func() bool {
			row, err := now.Get(w.ctx(), move.ID)
			require.NoError(t, err)
			if row.EndedAt == nil && !seen[row.State] {
				seen[row.State] = true
				now.stop()
				now = w.operateOn(m.path)
			}
			return row.EndedAt != nil
		}, func() any { return now.story(move.ID) }, "it ends")
		r, err := now.Receipt(w.ctx(), move.ID)
		require.NoError(t, err)
		require.True(t, r.Free, now.story(move.ID))
		m.cleanEverywhere()
	})
}

func TestRollbackOfAMoveAwayFromRocketMQ(t *testing.T) {
	for _, state := range []migrate.State{migrate.Preparing, migrate.Switching, migrate.Sealing, migrate.Draining, migrate.Shutting} {
		t.Run(string(state), func(t *testing.T) {
			withKinds(t, func(t *testing.T, w *world) {
				// The operator asks before anything is done in the state.
				var asked atomic.Bool
				var m *moving
				ready := make(chan struct{})
				m = away(t, w, func(o *migrate.Options) {
					o.Entered = func(ctx context.Context, row *store.Migration) {
						<-ready
						if row.State == string(state) && row.Target == "kafka-a" && asked.CompareAndSwap(false, true) {
							if err := m.Rollback(ctx, row.ID, "tester"); err != nil {
								panic(err) // not in the test's goroutine
							}
						}
					}
				})
				close(ready)
				move := m.start(migrate.Plan{To: "kafka-a"})
				r := m.ended(move.ID)
				require.True(t, asked.Load())
				require.Equal(t, store.RolledBack, r.Outcome, m.story(move.ID))
				require.NotContains(t, fmt.Sprint(r.Verdict), "rocketmq-a can be switched off")
				w.applied("rocketmq-a")
				require.False(t, w.fenced("rocketmq-a"), m.story(move.ID))
				m.sendsTo("rocketmq-a", 20)
				m.cleanEverywhere()
			})
		})
	}
}

func TestAGroupThatSleepsKeepsRocketMQOpen(t *testing.T) {
	withKinds(t, func(t *testing.T, w *world) {
		m := away(t, w)
		require.NoError(t, m.sub.Close(w.ctx()))
		m.sendsTo("rocketmq-a", 50)
		move := m.start(migrate.Plan{To: "kafka-a", Accept: []string{migrate.SleepingGroups}})
		r := m.ended(move.ID)
		require.Equal(t, store.Done, r.Outcome, m.story(move.ID))
		require.False(t, r.Free)
		require.Contains(t, fmt.Sprint(r.Verdict), w.group)
		require.False(t, w.fenced("rocketmq-a"), "it has to be read")
		m.sendsTo("kafka-a", 20)

		w.listen(w.open("order_service_consumer"), w.recorder("awake"))
		w.eventually(func() bool {
			route, _ := w.route()
			return len(route.Stays) == 1 && w.fenced("rocketmq-a")
		}, func() any { route, _ := w.route(); return route }, "the stay leaves the route, and the cluster is closed")
		all, err := m.List(w.ctx(), store.Filter{Topic: w.topic})
		require.NoError(t, err)
		require.Equal(t, store.Settle, all[0].Kind)
		require.True(t, m.ended(all[0].ID).Free)
		m.cleanEverywhere()
	})
}

func TestWhatComesBetweenTheDrainAndTheFenceIsReadFirst(t *testing.T) {
	for name, delay := range map[string]time.Duration{"at once": 0, "delayed": time.Second} {
		t.Run(name, func(t *testing.T) { comesBetween(t, delay) })
	}
}

func comesBetween(t *testing.T, delay time.Duration) {
	withKinds(t, func(t *testing.T, w *world) {
		var times atomic.Int32
		m := away(t, w, func(o *migrate.Options) {
			o.Entered = func(_ context.Context, row *store.Migration) {
				if row.State == string(migrate.Shutting) && times.Add(1) == 1 {
					if err := w.lateAfter("rocketmq-a", delay); err != nil {
						panic(err)
					}
				}
			}
		})
		move := m.start(migrate.Plan{To: "rocketmq-b"})
		r := m.ended(move.ID)
		require.True(t, r.Free, m.story(move.ID))
		require.Contains(t, m.story(move.ID), "1 messages were written to rocketmq-a after it had been read to the end")
		require.GreaterOrEqual(t, times.Load(), int32(2), m.story(move.ID))
		require.True(t, w.fenced("rocketmq-a"))
		m.quiet()
		require.Zero(t, w.left("rocketmq-a"))
	})
}

func TestWhatIsWrittenToRocketMQAfterTheMoveIsSentOn(t *testing.T) {
	withKinds(t, func(t *testing.T, w *world) {
		m := away(t, w)
		var restore string
		w.with("rocketmq-a", func(c broker.Cluster) {
			info, err := c.DescribeTopic(w.ctx(), w.topic)
			require.NoError(t, err)
			restore = info.Restore
		})
		move := m.start(migrate.Plan{To: "rocketmq-b"})
		require.True(t, m.ended(move.ID).Free, m.story(move.ID))
		m.quiet()
		w.with("rocketmq-a", func(c broker.Cluster) { // by hand, again when the fence was put back before the message came
			w.eventually(func() bool {
				require.NoError(t, c.Unfence(w.ctx(), w.topic, restore))
				return w.late("rocketmq-a") == nil
			}, nil, "a late message is stored")
		})
		w.eventually(func() bool {
			r, err := m.Receipt(w.ctx(), move.ID)
			require.NoError(t, err)
			return w.fenced("rocketmq-a") && len(r.Left) == 1 && r.Left[0].Rescued > 0
		}, func() any { return m.story(move.ID) }, "it is sent on, and the cluster closed again")
		w.eventually(func() bool { return w.left("rocketmq-b") == 0 }, nil, "and handled")
	})
}
