package turnout_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/turnout-mq/turnout"
	"github.com/turnout-mq/turnout/admin/migrate"
	"github.com/turnout-mq/turnout/admin/store"
	"github.com/turnout-mq/turnout/metadata"
	"github.com/turnout-mq/turnout/producer"
	"github.com/turnout-mq/turnout/testenv"
	"github.com/turnout-mq/turnout/testenv/history"
)

// guards reads those of a plan.
func guards(t *testing.T, texts ...string) (all []migrate.Guard) {
	t.Helper()
	for _, text := range texts {
		g, err := migrate.ParseGuard(text)
		require.NoError(t, err)
		all = append(all, g)
	}
	return all
}

// often lets guards look often.
func often(o *migrate.Options) { o.GuardEvery = 100 * time.Millisecond }

// told are the events of a guard: its breaches and their ends.
func (o *operator) told(id, guard string) (breaches, overs int) {
	o.w.t.Helper()
	events, err := o.Events(o.w.ctx(), id, 0, 0)
	require.NoError(o.w.t, err)
	for _, e := range events {
		if e.Kind != migrate.Guardian {
			continue
		}
		var said struct {
			Guard string
			Over  bool
		}
		require.NoError(o.w.t, json.Unmarshal(e.Data, &said))
		switch {
		case said.Guard != guard:
		case said.Over:
			overs++
		default:
			breaches++
		}
	}
	return breaches, overs
}

// breach waits until a guard has found one, and returns it.
func (o *operator) breach(id, guard string) (found migrate.Breach) {
	o.w.t.Helper()
	o.w.eventually(func() bool {
		l, err := o.Live(o.w.ctx(), id)
		require.NoError(o.w.t, err)
		for _, b := range l.Breaches {
			if b.Guard == guard {
				found = b
			}
		}
		return found.Guard == guard
	}, func() any { return o.story(id) }, "guard %s finds a breach", guard)
	return found
}

// A group that does not read keeps the migration in the state draining.
func TestGuardsOfTimeAndOfUnreadMessagesActOnce(t *testing.T) {
	eachMove(t, func(t *testing.T, m *moving) {
		m.stop()
		m.operator = m.w.operateOn(m.path, often)
		m.w.set(func(g *metadata.Group) { g.Paused = true })
		m.sendsTo("kafka-a", 100)
		did := migrate.PauseIt
		if m.ordered {
			did = migrate.RollBackToIt
		}
		timely, lag := fmt.Sprintf("draining:time=1s:%s", did), "any:lag=50:page"
		move := m.start(migrate.Plan{To: "kafka-b", Ordered: m.ordered, Guards: guards(t, timely, lag, "any:time=20h:rollback")})
		b := m.breach(move.ID, lag)
		require.Equal(t, migrate.Page, b.Did)
		require.Contains(t, b.Text, "group "+m.w.group+" has ")

		b = m.breach(move.ID, timely)
		require.Equal(t, did, b.Did, m.story(move.ID))
		require.Equal(t, migrate.Draining, b.State)
		require.Contains(t, b.Text, "it waits for: group "+m.w.group)
		m.w.eventually(func() bool {
			row, err := m.Get(m.w.ctx(), move.ID)
			require.NoError(t, err)
			require.Equal(t, did == migrate.PauseIt, row.Paused)
			if did == migrate.RollBackToIt {
				return row.Request == store.None // it was answered
			}
			return row.Waiting == fmt.Sprintf("paused by guard %s (%s); go on with: turnout migrate resume %s", timely, b.Text, move.ID)
		}, func() any { return m.story(move.ID) }, "it says by whom it is paused, or is on its way back")

		// Whoever takes over knows of it, and so does a person who lets it go on.
		m.operator.stop()
		m.operator = m.w.operateOn(m.path, often)
		if did == migrate.PauseIt {
			require.NoError(t, m.Resume(m.w.ctx(), move.ID, "tester"))
		}
		m.w.set(func(g *metadata.Group) { g.Paused = false })
		r := m.ended(move.ID)
		require.Equal(t, map[bool]store.Outcome{false: store.Done, true: store.RolledBack}[m.ordered], r.Outcome, m.story(move.ID))
		require.True(t, r.Free, r.Verdict)
		breaches, overs := m.told(move.ID, lag)
		require.GreaterOrEqual(t, breaches, 1)
		require.Equal(t, breaches, overs)
		if !m.ordered { // which drains twice, and the second time may take long, too
			breaches, overs = m.told(move.ID, timely)
			require.Equal(t, []int{1, 1}, []int{breaches, overs}, m.story(move.ID))
		}
		require.Len(t, r.Guards, 3)
		require.GreaterOrEqual(t, len(r.Breaches), 2)
		for _, b := range r.Breaches {
			require.NotNil(t, b.Over, b)
		}
		m.clean()
	})
}

// hasty sends from n goroutines that wait for half a second each time, until stop is called.
func (w *world) hasty(c *turnout.Client, rec *history.Recorder, n int) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			tick := time.NewTicker(pace)
			defer tick.Stop()
			for seq := int64(1); ctx.Err() == nil; seq++ {
				<-tick.C
				m := &turnout.Message{ID: producer.NewID(), Key: fmt.Appendf(nil, "key-%d", i), Body: strconv.AppendInt(nil, seq, 10)}
				sending := rec.Send(history.Message{ID: m.ID, Topic: w.topic, Key: history.Key(m.Key), Seq: seq})
				send, done := context.WithTimeout(context.Background(), 500*time.Millisecond)
				r, err := c.Send(send, w.topic, m)
				done()
				switch {
				case errors.Is(err, context.DeadlineExceeded):
					sending.Unknown(err)
				case err != nil:
					sending.Fail(err)
				default:
					sending.OK(history.Place{Cluster: r.Cluster, Partition: r.Partition, Offset: r.Offset})
				}
			}
		})
	}
	stop = func() { cancel(); wg.Wait() }
	w.t.Cleanup(stop)
	return stop
}

// faulty runs f where connections to clusters can be cut and delayed.
func faulty(t *testing.T, f func(t *testing.T, w *world)) {
	t.Parallel()
	testenv.EachOf(t, testenv.Spec{ZooKeeper: 1, Kafka: kafkas, Proxy: true}, []testenv.Backend{testenv.Embedded}, func(t *testing.T, env *testenv.Env) {
		f(t, newWorld(t, env, kafkas...))
	})
}

func TestAGuardRollsBackFromAClusterThatFails(t *testing.T) {
	faulty(t, func(t *testing.T, w *world) {
		w.putTopic("kafka-a", "kafka-b")
		w.putGroup(nil)
		m := &moving{operator: w.operateOn(t.TempDir()+"/turnout.db", often), client: w.open("order_service")}
		rec := w.recorder("one")
		m.sub = w.listen(m.client, rec)
		m.quiet = w.hasty(m.client, rec, 8)
		m.sendsTo("kafka-a", 100)
		w.set(func(g *metadata.Group) { g.Paused = true })
		const guard = "draining:errors=20%:rollback"
		move := m.start(migrate.Plan{To: "kafka-b", Guards: guards(t, guard, "switching:errors=20%:page")})
		m.reaches(move.ID, migrate.Draining)
		require.NoError(t, w.env.Cut("kafka-b"))
		w.eventually(func() bool {
			breaches, _ := m.told(move.ID, guard)
			return breaches == 1
		}, func() any { return m.story(move.ID) }, "the guard finds it")
		require.NoError(t, w.env.Heal("kafka-b"))
		m.sendsTo("kafka-a", 100)
		w.set(func(g *metadata.Group) { g.Paused = false })
		r := m.ended(move.ID)
		t.Log(m.story(move.ID))
		require.Equal(t, store.RolledBack, r.Outcome)
		require.True(t, r.Free, r.Verdict)
		require.Equal(t, migrate.RollBackToIt, r.Breaches[0].Did)
		require.Contains(t, r.Breaches[0].Text, "attempts to send to kafka-b failed")
		m.quiet()
		for _, f := range w.verdict("kafka-a", "kafka-b").Findings {
			if f.Rule != history.Unknown && f.Rule != history.Duplicate { // what was given up, and may have been stored
				require.Zero(t, f.Count, f)
			}
		}
	})
}

func TestAGuardPagesForAClusterThatIsSlow(t *testing.T) {
	faulty(t, func(t *testing.T, w *world) {
		w.putTopic("kafka-a", "kafka-b")
		w.putGroup(nil)
		const factor = 2
		var base atomic.Int64 // ns
		m := &moving{client: w.open("order_service"), operator: w.operateOn(t.TempDir()+"/turnout.db", often, func(o *migrate.Options) {
			o.Entered = func(_ context.Context, m *store.Migration) { // before kafka-b takes the first message
				if m.State == string(migrate.Switching) {
					var data struct {
						P99 map[string]float64 `json:"p99Ms"`
					}
					assert.NoError(t, json.Unmarshal(m.Data, &data))
					base.Store(int64(data.P99["kafka-a"] * float64(time.Millisecond)))
					assert.NoError(t, w.env.Delay("kafka-b", 2*factor*time.Duration(base.Load())+20*time.Millisecond))
				}
			}
		})}
		rec := w.recorder("one")
		m.sub = w.listen(m.client, rec)
		m.quiet = w.traffic(m.client, rec, 16)
		guard := fmt.Sprintf("draining:p99=%d:page", factor)
		var move *store.Migration
		for base.Load() == 0 { // also where the process has stood still for so long that nothing was sent lately
			if move != nil {
				m.ended(move.ID)
			}
			m.sendsTo("kafka-a", 300)
			w.set(func(g *metadata.Group) { g.Paused = true })
			move = m.start(migrate.Plan{To: "kafka-b", Guards: guards(t, guard)})
			m.reaches(move.ID, migrate.Draining)
			if base.Load() == 0 {
				require.NoError(t, m.Rollback(w.ctx(), move.ID, "tester"))
				w.set(func(g *metadata.Group) { g.Paused = false })
			}
		}
		b := m.breach(move.ID, guard)
		require.Equal(t, migrate.Page, b.Did)
		require.Contains(t, b.Text, "p99 of sends is ")
		l, err := m.Live(w.ctx(), move.ID)
		require.NoError(t, err)
		require.Len(t, l.Guards, 1)
		require.NoError(t, w.env.Delay("kafka-b", 0))
		w.set(func(g *metadata.Group) { g.Paused = false })
		r := m.ended(move.ID)
		t.Log(m.story(move.ID))
		require.Equal(t, store.Done, r.Outcome)
		require.Len(t, r.Breaches, 1)
		m.clean()
	})
}
