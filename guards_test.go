package turnout_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"testing"
	"time"

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
		require.Regexp(t, `^1s in the state draining; it waits for: (group `+m.w.group+`|\d+ of \d+ participants? ha(s|ve) to apply the route)`, b.Text)
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
			tick := time.NewTicker(pace())
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
		move := m.start(migrate.Plan{To: "kafka-b", Guards: guards(t, guard)})
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

// reporter is a participant that says of its sends what the test wants, and has applied every route. It reads for the group, and
// has not read anything.
func (w *world) reporter(sends map[string]metadata.Sends) (says func(map[string]metadata.Sends)) {
	w.t.Helper()
	path := w.store.ParticipantPath(w.topic, "reporter")
	doc := metadata.Participant{V: 1, Zxid: 1 << 60, Write: "kafka-a", Sender: true, Sends: sends, Groups: map[string]map[string]metadata.Participation{w.group: {"kafka-a": metadata.Attached}}}
	w.put(path, doc)
	return func(sends map[string]metadata.Sends) {
		w.t.Helper()
		doc.Sends = sends
		data, err := json.Marshal(doc)
		require.NoError(w.t, err)
		w.write(path, data)
	}
}

func TestAGuardComparesTheClusterWithTheOneThatWasLeft(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		w.putTopic("kafka-a", "kafka-b")
		w.putGroup(nil)
		c := w.open("order_service")
		w.send(c, "not read") // keeps the migration draining
		w.applied("kafka-a")
		require.NoError(t, c.Close(w.ctx()))
		says := w.reporter(map[string]metadata.Sends{"kafka-a": {OK: 200, P99: 20}})
		o := w.operateOn(t.TempDir()+"/turnout.db", often)
		const slow, failing, gentle = "draining:p99=2.5:page", "any:errors=10%:pause", "any:p99=50:rollback"
		m := o.start(migrate.Plan{To: "kafka-b", Guards: guards(t, slow, failing, gentle), Accept: []string{"all"}})
		o.reaches(m.ID, migrate.Draining)
		says(map[string]metadata.Sends{"kafka-b": {OK: 200, P99: 50.1}}) // nobody sends to kafka-a any more
		b := o.breach(m.ID, slow)
		require.Equal(t, "p99 of sends is 50.1 ms on kafka-b and 20.0 ms on kafka-a", b.Text)
		l, err := o.Live(w.ctx(), m.ID)
		require.NoError(t, err)
		require.Len(t, l.Guards, 3)
		for _, c := range l.Clusters {
			require.Equal(t, c.Cluster == "kafka-b", c.Sends != nil)
		}

		says(map[string]metadata.Sends{"kafka-b": {OK: 200, P99: 49.9}})
		w.eventually(func() bool { _, overs := o.told(m.ID, slow); return overs == 1 }, func() any { return o.story(m.ID) }, "it is over")
		says(map[string]metadata.Sends{"kafka-b": {OK: 99, P99: 5000}}) // too few to say so
		says(map[string]metadata.Sends{"kafka-b": {OK: 4, Failed: 4}})
		row, err := o.Get(w.ctx(), m.ID)
		require.NoError(t, err)
		require.False(t, row.Paused)

		says(map[string]metadata.Sends{"kafka-b": {OK: 44, Failed: 5}})
		b = o.breach(m.ID, failing)
		require.Equal(t, "5 of 49 attempts to send to kafka-b failed (10.2 %)", b.Text)
		breaches, _ := o.told(m.ID, slow)
		require.Equal(t, 1, breaches, o.story(m.ID))
		row, err = o.Get(w.ctx(), m.ID)
		require.NoError(t, err)
		require.True(t, row.Paused)

		// A rollback goes on though it is paused.
		says(map[string]metadata.Sends{"kafka-b": {OK: 200, P99: 1001}})
		require.Equal(t, migrate.RollBackToIt, func() migrate.Reaction {
			var found migrate.Breach
			w.eventually(func() bool {
				row, err = o.Get(w.ctx(), m.ID)
				require.NoError(t, err)
				var data struct{ Breaches []migrate.Breach }
				require.NoError(t, json.Unmarshal(row.Data, &data))
				for _, b := range data.Breaches {
					if b.Guard == gentle {
						found = b
					}
				}
				return found.Guard != ""
			}, func() any { return o.story(m.ID) }, "it goes back")
			return found.Did
		}())
		w.eventually(func() bool {
			row, err = o.Get(w.ctx(), m.ID)
			require.NoError(t, err)
			route, _ := w.route()
			return !row.Paused && route.Write == "kafka-a"
		}, func() any { return o.story(m.ID) }, "sends go to kafka-a again")
	})
}

func TestAGuardOfACanaryLooksAtWhatTheRestDoes(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		w.putTopic("kafka-a", "kafka-b")
		w.putGroup(nil)
		c := w.open("order_service")
		w.send(c, "not read")
		w.applied("kafka-a")
		require.NoError(t, c.Close(w.ctx()))
		rest := metadata.Sends{OK: 900, Failed: 100, P99: 20}
		says := w.reporter(map[string]metadata.Sends{"kafka-a": rest})
		o := w.operateOn(t.TempDir()+"/turnout.db", often)
		const failing, fast = "canary:errors=6%:rollback", "canary:p99=2:page"
		m := o.start(migrate.Plan{To: "kafka-b", Canary: &migrate.Canary{Instances: []string{"reporter"}}, Guards: guards(t, failing, fast), Accept: []string{"all"}})
		o.reaches(m.ID, migrate.Canarying)
		says(map[string]metadata.Sends{"kafka-a": rest, "kafka-b": {OK: 170, Failed: 30, P99: 41}}) // 15 % to 10 %
		b := o.breach(m.ID, fast)
		require.Equal(t, "p99 of sends is 41.0 ms on kafka-b and 20.0 ms on kafka-a", b.Text)
		require.Equal(t, migrate.Canarying, b.State)
		breaches, _ := o.told(m.ID, failing)
		require.Zero(t, breaches, o.story(m.ID))

		says(map[string]metadata.Sends{"kafka-a": rest, "kafka-b": {OK: 160, Failed: 40, P99: 10}})
		w.eventually(func() bool {
			row, err := o.Get(w.ctx(), m.ID)
			require.NoError(t, err)
			return row.State != string(migrate.Canarying)
		}, func() any { return o.story(m.ID) }, "it goes back")
		breaches, overs := o.told(m.ID, failing)
		require.Equal(t, []int{1, 1}, []int{breaches, overs}, o.story(m.ID))
		require.Contains(t, o.story(m.ID), "40 of 200 attempts to send to kafka-b failed (20.0 %), and 100 of 1000 to kafka-a")
		require.Contains(t, o.story(m.ID), "guard asked for rollback")
	})
}
