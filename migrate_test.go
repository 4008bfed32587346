package turnout_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/IBM/sarama"
	"github.com/stretchr/testify/require"

	"github.com/turnout-mq/turnout"
	"github.com/turnout-mq/turnout/admin/migrate"
	"github.com/turnout-mq/turnout/admin/store"
	"github.com/turnout-mq/turnout/broker"
	"github.com/turnout-mq/turnout/broker/drivers"
	"github.com/turnout-mq/turnout/internal/clusters"
	"github.com/turnout-mq/turnout/metadata"
)

// operator is a controller and what an operator does with it.
type operator struct {
	*migrate.Controller
	w    *world
	path string // of the store
	stop func()
}

// operate runs a controller until the test ends or stop is called.
func (w *world) operate() *operator {
	w.t.Helper()
	return w.operateOn(filepath.Join(w.t.TempDir(), "turnout.db"))
}

func (w *world) operateOn(path string, change ...func(*migrate.Options)) *operator {
	w.t.Helper()
	db, err := store.Open(w.ctx(), path, w.log)
	require.NoError(w.t, err)
	meta, err := metadata.Open(metadata.Config{ZooKeeper: w.env.ZooKeeper(), Root: w.root, SessionTimeout: time.Minute, Logger: w.log})
	require.NoError(w.t, err)
	pool := clusters.NewPool(meta, drivers.Open, "turnout-controller", time.Second, w.log)
	opt := migrate.Options{FenceCheck: 200 * time.Millisecond}
	for _, f := range change {
		f(&opt)
	}
	c := migrate.New(db, meta, pool, w.log, opt)
	ctx, cancel := context.WithCancel(context.Background())
	over := make(chan error, 1)
	go func() { over <- c.Run(ctx) }()
	stopped := false
	o := &operator{Controller: c, w: w, path: path}
	o.stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		require.ErrorIs(w.t, <-over, context.Canceled)
		require.NoError(w.t, pool.Close(w.ctx()))
		require.NoError(w.t, meta.Close(w.ctx()))
		require.NoError(w.t, db.Close())
	}
	w.t.Cleanup(o.stop)
	return o
}

// start begins a move.
func (o *operator) start(plan migrate.Plan) *store.Migration {
	o.w.t.Helper()
	plan.Topic = o.w.topic
	m, err := o.Start(o.w.ctx(), plan, "tester", migrate.StarterApproves)
	require.NoError(o.w.t, err)
	return m
}

// ended waits for the end of a migration.
func (o *operator) ended(id string) *migrate.Receipt {
	o.w.t.Helper()
	o.w.eventually(func() bool {
		m, err := o.Get(o.w.ctx(), id)
		require.NoError(o.w.t, err)
		return m.EndedAt != nil
	}, func() any { return o.story(id) }, "migration %s ends", id)
	r, err := o.Receipt(o.w.ctx(), id)
	require.NoError(o.w.t, err)
	return r
}

// reaches waits for a state.
func (o *operator) reaches(id string, state migrate.State) {
	o.w.t.Helper()
	o.w.eventually(func() bool {
		m, err := o.Get(o.w.ctx(), id)
		require.NoError(o.w.t, err)
		return m.State == string(state)
	}, func() any { return o.story(id) }, "migration %s is %s", id, state)
}

// story is what has happened, for failures.
func (o *operator) story(id string) string {
	m, err := o.Get(context.Background(), id)
	if err != nil {
		return err.Error()
	}
	text := fmt.Sprintf("%s %s, waits for %q\n", m.ID, m.State, m.Waiting)
	events, err := o.Events(context.Background(), id, 0, 1000)
	for _, e := range events {
		text += fmt.Sprintf("%s %s: %s\n", e.At.Format("05.000"), e.Kind, e.Text)
	}
	return text + fmt.Sprint(errors.Join(err))
}

// ordered makes the topic and its group keep the order per key.
func (w *world) putOrdered(on ...string) {
	w.putTopic(on...)
	w.putGroup(func(g *metadata.Group) { g.Order = metadata.OrderKey })
	_, err := w.store.PutTopic(w.ctx(), w.topic, metadata.PutTopic{Cluster: on[0], Order: metadata.OrderKey})
	require.NoError(w.t, err)
}

// fenced says whether a cluster refuses writers of the topic.
func (w *world) fenced(cluster string) (fenced bool) {
	w.with(cluster, func(c broker.Cluster) {
		info, err := c.DescribeTopic(w.ctx(), w.topic)
		require.NoError(w.t, err)
		fenced = info.Fenced
	})
	return fenced
}

func TestMoveLeavesNothingBehindAndProvesIt(t *testing.T) {
	for _, ordered := range []bool{false, true} {
		t.Run(fmt.Sprintf("ordered=%v", ordered), func(t *testing.T) {
			each(t, func(t *testing.T, w *world) {
				if ordered {
					w.putOrdered("kafka-a", "kafka-b")
				} else {
					w.putTopic("kafka-a", "kafka-b")
					w.putGroup(nil)
				}
				o := w.operate()
				rec := w.recorder("one")
				client := w.open("order_service")
				w.listen(client, rec)
				stop := w.traffic(client, rec, 4)
				w.applied("kafka-a")

				m := o.start(migrate.Plan{To: "kafka-b", Ordered: ordered})
				r := o.ended(m.ID)
				t.Log(o.story(m.ID))
				require.Equal(t, store.Done, r.Outcome, o.story(m.ID))
				require.True(t, r.Free, r.Verdict)
				require.True(t, w.fenced("kafka-a"))
				route, _ := w.route()
				require.Equal(t, "kafka-b", route.Write)
				require.Len(t, route.Stays, 1)
				topic, err := w.store.GetTopic(w.ctx(), w.topic)
				require.NoError(t, err)
				require.Equal(t, "kafka-b", topic.Wish.Cluster)

				// And back, onto the cluster that was used before.
				m = o.start(migrate.Plan{To: "kafka-a", Ordered: ordered})
				r = o.ended(m.ID)
				require.Equal(t, store.Done, r.Outcome, o.story(m.ID))
				require.False(t, w.fenced("kafka-a"))
				require.True(t, w.fenced("kafka-b"))
				stop()
				if ordered {
					require.NoError(t, w.orderedVerdict("kafka-a", "kafka-b").Err())
				} else {
					require.NoError(t, w.verdict("kafka-a", "kafka-b").Err())
				}
				require.Zero(t, client.Stats().Failed)
			})
		})
	}
}

// moving is a topic with traffic, on kafka-a.
type moving struct {
	*operator
	ordered bool
	client  *turnout.Client
	sub     *turnout.Subscription
	quiet   func() // ends the traffic
}

// eachMove runs f for an unordered and an ordered topic that is on kafka-a and has traffic. The two beside each other, and no more:
// a move that is short of the machine sends for longer.
func eachMove(t *testing.T, f func(t *testing.T, m *moving)) {
	for _, ordered := range []bool{false, true} {
		t.Run(map[bool]string{false: "unordered", true: "ordered"}[ordered], func(t *testing.T) {
			each(t, func(t *testing.T, w *world) {
				if ordered {
					w.putOrdered("kafka-a", "kafka-b")
				} else {
					w.putTopic("kafka-a", "kafka-b")
					w.putGroup(nil)
				}
				m := &moving{operator: w.operate(), ordered: ordered, client: w.open("order_service")}
				rec := w.recorder("one")
				m.sub = w.listen(m.client, rec)
				m.quiet = w.traffic(m.client, rec, 4)
				m.sendsTo("kafka-a", 4)
				w.applied("kafka-a")
				f(t, m)
			})
		})
	}
}

// clean ends the traffic and sees that no send failed, and nothing is lost, left or out of order.
func (m *moving) clean() {
	m.w.t.Helper()
	m.quiet()
	if m.ordered {
		require.NoError(m.w.t, m.w.orderedVerdict("kafka-a", "kafka-b").Err())
	} else {
		require.NoError(m.w.t, m.w.verdict("kafka-a", "kafka-b").Err())
	}
	require.Zero(m.w.t, m.client.Stats().Failed)
}

// sendsTo waits until the topic's sends go to a cluster, and n more have.
func (m *moving) sendsTo(cluster string, n int64) {
	m.w.t.Helper()
	sum := func() int64 { return broker.Offsets{}.Missing(m.w.ends(cluster)) }
	before := sum()
	m.w.eventually(func() bool { return sum() > before+n }, func() any { return m.w.participants() }, "sends go to %s", cluster)
}

func TestAnotherControllerGoesOnInEveryState(t *testing.T) {
	eachMove(t, func(t *testing.T, m *moving) {
		move := m.start(migrate.Plan{To: "kafka-b", Ordered: m.ordered})
		seen := map[string]bool{}
		now := m.operator
		m.w.eventually(func() bool {
			row, err := now.Get(m.w.ctx(), move.ID)
			require.NoError(t, err)
			if row.EndedAt == nil && !seen[row.State] {
				seen[row.State] = true
				now.stop()
				now = m.w.operateOn(m.path)
			}
			return row.EndedAt != nil
		}, func() any { return now.story(move.ID) }, "it ends")
		r, err := now.Receipt(m.w.ctx(), move.ID)
		require.NoError(t, err)
		require.True(t, r.Free, now.story(move.ID))
		require.Greater(t, len(seen), 2, seen)
		m.clean()
	})
}

func TestRollbackInEveryState(t *testing.T) {
	for _, state := range []migrate.State{migrate.Preparing, migrate.Holding, migrate.Fencing, migrate.Switching, migrate.Sealing, migrate.Draining} {
		t.Run(string(state), func(t *testing.T) {
			eachMove(t, func(t *testing.T, m *moving) {
				move := m.start(migrate.Plan{To: "kafka-b", Ordered: m.ordered})
				var at string
				m.w.eventually(func() bool { // or past it: some states are short, and some are not on this way
					row, err := m.Get(m.w.ctx(), move.ID)
					require.NoError(t, err)
					at = row.State
					return reached(at, state) || row.EndedAt != nil
				}, func() any { return m.story(move.ID) }, "it is %s", state)
				err := m.Rollback(m.w.ctx(), move.ID, "tester")
				if errors.Is(err, turnout.ErrConflict) {
					t.Logf("it had ended before it could be asked")
					m.clean()
					return
				}
				require.NoError(t, err)
				r := m.ended(move.ID)
				if r.Outcome == store.RolledBack {
					m.w.applied("kafka-a")
					require.False(t, m.w.fenced("kafka-a"), m.story(move.ID))
					m.sendsTo("kafka-a", 20)
				}
				t.Logf("asked in %s: %s", at, r.Outcome)
				m.clean()
			})
		})
	}
}

// reached says whether a state is the one that is waited for or comes after it.
func reached(now string, state migrate.State) bool {
	all := []migrate.State{migrate.Planned, migrate.Preparing, migrate.Holding, migrate.Fencing, migrate.Switching, migrate.Sealing, migrate.Draining, migrate.Closing, migrate.Reverting, migrate.Done}
	return slices.Index(all, migrate.State(now)) >= slices.Index(all, state)
}

func TestRollbackAfterTheNewClusterTookWrites(t *testing.T) {
	eachMove(t, func(t *testing.T, m *moving) {
		// A group that reads slowly keeps the migration from its end.
		m.w.set(func(g *metadata.Group) { g.Paused = true })
		m.sendsTo("kafka-a", 50)
		move := m.start(migrate.Plan{To: "kafka-b", Ordered: m.ordered})
		m.reaches(move.ID, migrate.Draining)
		writes := int64(1000)
		if os.Getenv("TURNOUT_SOAK") != "" {
			writes = 10_000
		}
		m.sendsTo("kafka-b", writes)
		require.NoError(t, m.Rollback(m.w.ctx(), move.ID, "tester"))
		m.w.set(func(g *metadata.Group) { g.Paused = false })
		r := m.ended(move.ID)
		require.Equal(t, store.RolledBack, r.Outcome, m.story(move.ID))
		require.True(t, r.Free, m.story(move.ID))
		m.sendsTo("kafka-a", 20)
		require.True(t, m.w.fenced("kafka-b"), m.story(move.ID))
		m.clean()
	})
}

func TestAGroupThatSleptDuringTheMoveGetsEverythingAndThenTheStayIsGone(t *testing.T) {
	eachMove(t, func(t *testing.T, m *moving) {
		require.NoError(t, m.sub.Close(m.w.ctx()))
		m.sendsTo("kafka-a", 100)
		_, err := m.Start(m.w.ctx(), migrate.Plan{Topic: m.w.topic, To: "kafka-b", Ordered: m.ordered}, "tester", migrate.StarterApproves)
		var not *migrate.NotReadyError
		require.ErrorAs(t, err, &not)
		require.Contains(t, err.Error(), m.w.group)
		require.Contains(t, err.Error(), "--accept "+migrate.SleepingGroups)

		move := m.start(migrate.Plan{To: "kafka-b", Ordered: m.ordered, Accept: []string{migrate.SleepingGroups}})
		r := m.ended(move.ID)
		require.Equal(t, store.Done, r.Outcome, m.story(move.ID))
		require.False(t, r.Free)
		require.Contains(t, fmt.Sprint(r.Verdict), m.w.group)
		route, _ := m.w.route()
		require.Len(t, route.Stays, 2, "it has something left on kafka-a")
		m.sendsTo("kafka-b", 100)

		m.w.listen(m.w.open("order_service_consumer"), m.w.recorder("awake"))
		m.w.eventually(func() bool { route, _ := m.w.route(); return len(route.Stays) == 1 }, func() any { return m.story(move.ID) }, "the stay leaves the route")
		m.w.eventually(func() bool { r, err := m.Receipt(m.w.ctx(), move.ID); return err == nil && r.Free }, func() any { return m.story(move.ID) }, "the receipt says so")
		m.clean()
	})
}

func TestAForeignWriterIsFoundBeforeAndDuringTheMove(t *testing.T) {
	eachMove(t, func(t *testing.T, m *moving) {
		foreign := func() {
			p, err := sarama.NewSyncProducer(m.w.env.Addresses("kafka-a"), syncConfig())
			require.NoError(t, err)
			_, _, err = p.SendMessage(&sarama.ProducerMessage{Topic: m.w.topic, Value: sarama.StringEncoder("0")})
			require.NoError(t, err)
			require.NoError(t, p.Close())
		}
		foreign()
		_, err := m.Start(m.w.ctx(), migrate.Plan{Topic: m.w.topic, To: "kafka-b", Ordered: m.ordered}, "tester", migrate.StarterApproves)
		require.ErrorContains(t, err, "--accept "+migrate.ForeignWriters)
		require.ErrorContains(t, err, "kafka-a")

		move := m.start(migrate.Plan{To: "kafka-b", Ordered: m.ordered, Accept: []string{migrate.ForeignWriters}})
		r := m.ended(move.ID)
		require.Equal(t, store.Done, r.Outcome, m.story(move.ID))
		m.quiet()
	})
}

func TestAMigrationWaitsForAForeignWriterThatBeginsMeanwhile(t *testing.T) {
	eachMove(t, func(t *testing.T, m *moving) {
		plan := migrate.Plan{To: "kafka-b", Ordered: m.ordered, Topic: m.w.topic}
		row, err := m.Start(m.w.ctx(), plan, "tester", func(context.Context, migrate.Plan, string) (string, error) { return "", nil })
		require.NoError(t, err)
		m.w.eventually(func() bool { row, err := m.Get(m.w.ctx(), row.ID); return err == nil && row.Waiting == "approval" }, nil, "it waits for approval")

		p, err := sarama.NewSyncProducer(m.w.env.Addresses("kafka-a"), syncConfig())
		require.NoError(t, err)
		stop, over := make(chan struct{}), make(chan struct{})
		go func() { // until the fence
			defer close(over)
			for {
				if _, _, err := p.SendMessage(&sarama.ProducerMessage{Topic: m.w.topic, Value: sarama.StringEncoder("0")}); err != nil {
					return
				}
				select {
				case <-stop:
					return
				case <-time.After(5 * time.Millisecond):
				}
			}
		}()
		defer func() { close(stop); <-over; require.NoError(t, p.Close()) }()
		require.NoError(t, m.Approve(m.w.ctx(), row.ID, "tester"))
		require.ErrorIs(t, m.Approve(m.w.ctx(), "m-99999", "tester"), turnout.ErrNotFound)
		var waiting string
		m.w.eventually(func() bool {
			row, err := m.Get(m.w.ctx(), row.ID)
			require.NoError(t, err)
			waiting = row.Waiting
			return strings.Contains(waiting, "without Turnout")
		}, func() any { return m.story(row.ID) }, "it waits")
		require.Contains(t, waiting, "kafka-a")
		require.Contains(t, waiting, "partition")
		require.NoError(t, m.Resume(m.w.ctx(), row.ID, "tester", migrate.ForeignWriters))
		require.Equal(t, store.Done, m.ended(row.ID).Outcome, m.story(row.ID))
		m.quiet()
	})
}

func TestWhatIsWrittenLateIsRescuedAndTheFenceIsPutBack(t *testing.T) {
	eachMove(t, func(t *testing.T, m *moving) {
		move := m.start(migrate.Plan{To: "kafka-b", Ordered: m.ordered})
		m.ended(move.ID)
		m.quiet()
		m.w.with("kafka-a", func(c broker.Cluster) { // by hand, again when the fence was put back before the message came
			m.w.eventually(func() bool {
				m.w.unfence("kafka-a")
				stored := make(chan error, 1)
				c.Send(m.w.ctx(), m.w.topic, &broker.Envelope{Message: broker.Message{Key: []byte("k"), Body: []byte("0")}}, func(_ broker.Receipt, err error) { stored <- err })
				return <-stored == nil
			}, nil, "a late message is stored")
		})
		var r *migrate.Receipt
		m.w.eventually(func() bool {
			var err error
			r, err = m.Receipt(m.w.ctx(), move.ID)
			require.NoError(t, err)
			return r.Left[0].Rescued > 0
		}, func() any { return m.story(move.ID) }, "it is rescued")
		require.Contains(t, fmt.Sprint(r.Verdict), "written to kafka-a after it was left")
		m.w.eventually(func() bool { return m.w.fenced("kafka-a") }, func() any { return m.story(move.ID) }, "it is closed again")
		m.w.eventually(func() bool { return m.w.left("kafka-b") == 0 }, nil, "and read on kafka-b")
	})
}

func TestAnEditByHandIsSettled(t *testing.T) {
	eachMove(t, func(t *testing.T, m *moving) {
		m.w.edit("kafka-b")
		var move *store.Migration
		m.w.eventually(func() bool {
			all, err := m.List(m.w.ctx(), store.Filter{Topic: m.w.topic})
			require.NoError(t, err)
			if len(all) > 0 {
				move = all[0]
			}
			return move != nil
		}, nil, "a settle migration begins")
		require.Equal(t, store.Settle, move.Kind)
		r := m.ended(move.ID)
		require.True(t, r.Free, m.story(move.ID))
		require.True(t, m.w.fenced("kafka-a"))
		route, _ := m.w.route()
		require.Len(t, route.Stays, 1)

		m.w.edit("kafka-a") // which is closed: it is opened first
		m.w.applied("kafka-a")
		m.w.eventually(func() bool { route, _ := m.w.route(); return len(route.Stays) == 1 }, func() any {
			all, _ := m.List(m.w.ctx(), store.Filter{Topic: m.w.topic})
			return m.story(all[0].ID)
		}, "settled again")
		m.ordered = false // R25
		m.clean()
	})
}

func TestAnEditByHandDuringAMoveIsAdopted(t *testing.T) {
	for _, to := range []string{"kafka-a", "kafka-c"} {
		t.Run(to, func(t *testing.T) {
			eachMove(t, func(t *testing.T, m *moving) {
				m.w.createTopic("kafka-c")
				m.w.set(func(g *metadata.Group) { g.Paused = true })
				m.sendsTo("kafka-a", 20)
				move := m.start(migrate.Plan{To: "kafka-b", Ordered: m.ordered})
				m.reaches(move.ID, migrate.Draining)
				m.sendsTo("kafka-b", 20)
				m.w.edit(to)
				m.w.applied(to)
				m.w.set(func(g *metadata.Group) { g.Paused = false })
				r := m.ended(move.ID)
				require.Equal(t, to, r.To, m.story(move.ID))
				require.True(t, r.Free, m.story(move.ID))
				require.Equal(t, m.ordered, r.NoOrder != "")
				m.quiet()
				require.NoError(t, m.w.verdict("kafka-a", "kafka-b", "kafka-c").Err())
				require.Zero(t, m.client.Stats().Failed)
			})
		})
	}
}

func syncConfig() *sarama.Config {
	conf := sarama.NewConfig()
	conf.Producer.Return.Successes = true
	return conf
}
