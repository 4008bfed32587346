package turnout_test

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

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

func (w *world) operateOn(path string) *operator {
	w.t.Helper()
	db, err := store.Open(w.ctx(), path, w.log)
	require.NoError(w.t, err)
	meta, err := metadata.Open(metadata.Config{ZooKeeper: w.env.ZooKeeper(), Root: w.root, Logger: w.log})
	require.NoError(w.t, err)
	pool := clusters.NewPool(meta, drivers.Open, "turnout-controller", time.Second, w.log)
	c := migrate.New(db, meta, pool, w.log, migrate.Options{FenceCheck: 200 * time.Millisecond})
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
	plan.Accept = append(plan.Accept, migrate.AutoCreate)
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
