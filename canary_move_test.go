package turnout_test

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/turnout-mq/turnout"
	"github.com/turnout-mq/turnout/admin/migrate"
	"github.com/turnout-mq/turnout/admin/store"
	"github.com/turnout-mq/turnout/consumer"
	"github.com/turnout-mq/turnout/testenv/history"
)

// tenth is a tenth of the key hashes, in which some of the traffic's keys are.
var tenth = []int{0, 6553}

// canaries are several instances with traffic on a topic.
type canaries struct {
	*operator
	from, to string
	ordered  bool
	clients  []*turnout.Client
	quiet    func()
	gate     gate
}

// gate keeps listeners from handling what comes from one cluster.
type gate struct {
	mu     sync.Mutex
	shut   string
	opened chan struct{}
	waits  chan struct{} // closed when somebody waits at it
}

func (g *gate) close(cluster string) (waits <-chan struct{}) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.shut, g.opened, g.waits = cluster, make(chan struct{}), make(chan struct{})
	return g.waits
}

func (g *gate) open() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.shut != "" {
		g.shut = ""
		close(g.opened)
	}
}

func (g *gate) pass(ctx context.Context, cluster string) {
	g.mu.Lock()
	opened := g.opened
	shut := g.shut == cluster
	if shut && g.waits != nil {
		close(g.waits)
		g.waits = nil
	}
	g.mu.Unlock()
	if shut {
		select {
		case <-opened:
		case <-ctx.Done():
		}
	}
}

// flock is a topic with traffic from n instances, each of which also reads.
func flock(w *world, from, to string, ordered bool, n int, change ...func(*migrate.Options)) *canaries {
	if ordered {
		w.putOrdered(from, to)
	} else {
		w.putTopic(from, to)
		w.putGroup(nil)
	}
	c := &canaries{operator: w.operateOn(filepath.Join(w.t.TempDir(), "turnout.db"), change...), from: from, to: to, ordered: ordered}
	w.t.Cleanup(c.gate.open)
	var stops []func()
	for i := range n {
		rec := w.recorder(fmt.Sprintf("instance-%d", i))
		client := w.open("order_service")
		c.clients = append(c.clients, client)
		listen := w.recorded(rec)
		s, err := client.Subscribe(w.ctx(), w.group, func(ctx context.Context, d *turnout.Delivery) error {
			c.gate.pass(ctx, d.Cluster)
			return listen(ctx, d)
		}, consumer.WithLinger(300*time.Millisecond), consumer.WithRecheck(time.Second))
		require.NoError(w.t, err)
		require.NoError(w.t, s.Ready(w.ctx()))
		stops = append(stops, w.keyed(client, rec, i))
	}
	c.quiet = func() {
		for _, stop := range stops {
			stop()
		}
	}
	w.applied(from)
	return c
}

// keyed is traffic of one instance: two keys in the first tenth of the hashes, two in the second, two beyond.
func (w *world) keyed(c *turnout.Client, rec *history.Recorder, instance int) (stop func()) {
	var keys []string
	for _, r := range [][]int{{0, 6553}, {6554, 13106}, {13107, 65535}} {
		keys = append(keys, string(keyIn(2*instance, r...)), string(keyIn(2*instance+1, r...)))
	}
	return w.trafficOf(c, rec, keys...)
}

// clean ends the traffic and sees that nothing was lost, nothing failed, and an order that was to be kept was.
func (c *canaries) clean() {
	w := c.w
	w.t.Helper()
	c.quiet()
	if c.ordered {
		require.NoError(w.t, w.orderedVerdict(c.from, c.to).Err())
	} else {
		require.NoError(w.t, w.verdict(c.from, c.to).Err())
	}
	for _, client := range c.clients {
		require.Zero(w.t, client.Stats().Failed)
	}
}

// stored is how many messages a cluster has.
func (w *world) stored(cluster string) (n int64) {
	for _, end := range w.ends(cluster) {
		n += end
	}
	return n
}

// grows waits until a cluster has so many more messages.
func (c *canaries) grows(cluster string, more int64) {
	c.w.t.Helper()
	before := c.w.stored(cluster)
	c.w.eventually(func() bool { return c.w.stored(cluster) >= before+more }, func() any { return c.w.participants() }, "%s gets %d more messages", cluster, more)
}

// senders waits until so many instances send everything to the target.
func (c *canaries) senders(n int) {
	c.w.t.Helper()
	c.w.eventually(func() bool {
		there := 0
		for _, p := range c.w.participants() {
			if p.Write == c.to {
				there++
			}
		}
		return there == n
	}, func() any { return c.w.participants() }, "%d instances send to %s", n, c.to)
}

func (c *canaries) waits(id, text string) {
	c.w.t.Helper()
	c.w.eventually(func() bool {
		m, err := c.Get(c.w.ctx(), id)
		require.NoError(c.w.t, err)
		return strings.Contains(m.Waiting, text)
	}, func() any { return c.story(id) }, "it waits for %q", text)
}

func TestCanaryOfInstancesIsWidenedAndPromoted(t *testing.T) {
	eachPair(t, func(t *testing.T, w *world, from, to string) {
		c := flock(w, from, to, false, 3)
		m := c.start(migrate.Plan{To: to, Canary: &migrate.Canary{Percent: 10}})
		c.reaches(m.ID, migrate.Canarying)
		c.senders(1) // at least one
		c.grows(to, 20)
		c.grows(from, 20)
		c.waits(m.ID, "1 of 3")
		require.NoError(t, c.Promote(w.ctx(), m.ID, "alice", &migrate.Canary{Percent: 50}))
		c.senders(2)
		c.waits(m.ID, "2 of 3")
		live, err := c.Live(w.ctx(), m.ID)
		require.NoError(t, err)
		require.Equal(t, &migrate.LiveCanary{Part: "50 % of the instances", Cluster: to, Instances: 2, Of: 3}, live.Canary)
		c.grows(to, 20)
		require.NoError(t, c.Promote(w.ctx(), m.ID, "bob", nil))
		r := c.ended(m.ID)
		require.Equal(t, store.Done, r.Outcome, c.story(m.ID))
		require.True(t, r.Free, r.Verdict)
		require.Len(t, r.Canary, 2)
		require.Equal(t, "10 % of the instances", r.Canary[0].Part)
		require.Equal(t, "tester", r.Canary[0].By)
		require.Equal(t, "alice", r.Canary[1].By)
		require.Contains(t, r.Canary[1].End, "bob")
		c.senders(3)
		route, _ := w.route()
		require.Nil(t, route.Canary)
		require.Len(t, route.Stays, 1)
		c.clean()
	})
}

func TestWhatWasAskedOfACanaryIsNotAskedAgain(t *testing.T) {
	withKinds(t, func(t *testing.T, w *world) {
		asked := make(chan struct{})
		c := flock(w, "kafka-a", "rocketmq-a", false, 2, func(o *migrate.Options) {
			o.Entered = func(ctx context.Context, row *store.Migration) {
				if row.State == string(migrate.Canarying) {
					select {
					case <-asked:
					case <-ctx.Done():
					}
				}
			}
		})
		m := c.start(migrate.Plan{To: "rocketmq-a", Canary: &migrate.Canary{Percent: 50}})
		c.reaches(m.ID, migrate.Canarying)
		for range 3 {
			require.NoError(t, c.Promote(w.ctx(), m.ID, "alice", nil))
		}
		close(asked)
		require.Equal(t, store.Done, c.ended(m.ID).Outcome, c.story(m.ID))
		require.Equal(t, 1, strings.Count(c.story(m.ID), "asked for everything"), c.story(m.ID))
		c.clean()
	})
}

func TestCanaryOfInstancesGoesBack(t *testing.T) {
	eachPair(t, func(t *testing.T, w *world, from, to string) {
		c := flock(w, from, to, false, 2)
		names, err := w.store.Children(w.ctx(), w.store.ParticipantsPath(w.topic))
		require.NoError(t, err)
		m := c.start(migrate.Plan{To: to, Canary: &migrate.Canary{Instances: names[:1]}})
		c.reaches(m.ID, migrate.Canarying)
		c.senders(1)
		c.grows(to, 20)
		require.NoError(t, c.Abort(w.ctx(), m.ID, "alice"))
		r := c.ended(m.ID)
		require.Equal(t, store.RolledBack, r.Outcome, c.story(m.ID))
		require.True(t, r.Free, r.Verdict)
		require.Equal(t, from, r.To)
		require.Equal(t, to, r.Left[0].Cluster)
		require.True(t, w.fenced(to))
		require.False(t, w.fenced(from))
		route, _ := w.route()
		require.Nil(t, route.Canary)
		require.Len(t, route.Stays, 1)
		require.Equal(t, from, route.Write)
		c.clean()
	})
}

func TestCanaryOfKeysKeepsTheOrder(t *testing.T) {
	eachPair(t, func(t *testing.T, w *world, from, to string) {
		c := flock(w, from, to, true, 2)
		m := c.start(migrate.Plan{To: to, Ordered: true, Hold: 30_000, Canary: &migrate.Canary{Keys: tenth}, Accept: []string{migrate.CanaryOrder}})
		c.reaches(m.ID, migrate.Canarying)
		c.grows(to, 20)
		c.grows(from, 20)
		c.waits(m.ID, "keys 0-6553")
		require.ErrorIs(t, c.Promote(w.ctx(), m.ID, "alice", &migrate.Canary{Keys: []int{100, 65535}}), turnout.ErrInvalid)
		require.ErrorIs(t, c.Promote(w.ctx(), m.ID, "alice", &migrate.Canary{Percent: 50}), turnout.ErrInvalid)
		require.NoError(t, c.Promote(w.ctx(), m.ID, "alice", &migrate.Canary{Keys: []int{0, 13106}}))
		c.waits(m.ID, "keys 0-13106")
		c.grows(to, 20)
		require.NoError(t, c.Promote(w.ctx(), m.ID, "bob", nil))
		r := c.ended(m.ID)
		require.Equal(t, store.Done, r.Outcome, c.story(m.ID))
		require.True(t, r.Free, r.Verdict)
		require.Len(t, r.Canary, 2)
		require.Contains(t, r.Canary[1].End, "bob")
		require.True(t, w.fenced(from))
		c.grows(to, 20)
		c.clean()
	})
}

func TestCanaryOfKeysGoesBackInOrder(t *testing.T) {
	eachPair(t, func(t *testing.T, w *world, from, to string) {
		c := flock(w, from, to, true, 2)
		m := c.start(migrate.Plan{To: to, Ordered: true, Hold: 30_000, Canary: &migrate.Canary{Keys: tenth}, Accept: []string{migrate.CanaryOrder}})
		c.reaches(m.ID, migrate.Canarying)
		c.grows(to, 20)
		require.NoError(t, c.Rollback(w.ctx(), m.ID, "alice"))
		r := c.ended(m.ID)
		require.Equal(t, store.RolledBack, r.Outcome, c.story(m.ID))
		require.True(t, r.Free, r.Verdict)
		require.Equal(t, from, r.To)
		require.True(t, w.fenced(to))
		require.False(t, w.fenced(from))
		route, _ := w.route()
		require.Equal(t, from, route.Write)
		require.Len(t, route.Stays, 1)
		c.grows(from, 20)
		c.clean()
	})
}

func TestCanaryIsRefusedWhereItWouldTakeTheOrder(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		c := flock(w, "kafka-a", "kafka-b", true, 1)
		for _, part := range []migrate.Canary{{Percent: 10}, {Instances: []string{"x"}}} {
			_, err := c.Start(w.ctx(), migrate.Plan{Topic: w.topic, To: "kafka-b", Ordered: true, Canary: &part, Accept: []string{"all"}}, "tester", migrate.StarterApproves)
			require.ErrorContains(t, err, "--canary-keys")
		}
		for _, part := range []migrate.Canary{{}, {Percent: 101}, {Percent: 10, Keys: tenth}, {Keys: []int{1}}, {Keys: []int{5, 4}}, {Keys: []int{0, 65536}}} {
			_, err := c.Start(w.ctx(), migrate.Plan{Topic: w.topic, To: "kafka-b", Ordered: true, Canary: &part, Accept: []string{"all"}}, "tester", migrate.StarterApproves)
			require.ErrorIs(t, err, turnout.ErrInvalid, part)
		}
		_, err := c.Start(w.ctx(), migrate.Plan{Topic: w.topic, To: "kafka-b", Ordered: true, Canary: &migrate.Canary{Keys: tenth}}, "tester", migrate.StarterApproves)
		require.ErrorContains(t, err, migrate.CanaryOrder)
		c.clean()
	})
}

// A percentage follows the instances as they come and go.
func TestCanaryFollowsTheInstances(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		c := flock(w, "kafka-a", "kafka-b", false, 2)
		m := c.start(migrate.Plan{To: "kafka-b", Canary: &migrate.Canary{Percent: 50}})
		c.senders(1)
		more := w.open("order_service")
		stop := w.keyed(more, w.recorder("more"), 2)
		c.waits(m.ID, "2 of 3")
		stop()
		require.NoError(t, more.Close(w.ctx()))
		c.waits(m.ID, "1 of 2")
		// Another controller goes on, and leaves it to those that it is.
		before, _ := w.route()
		c.stop()
		next := w.operateOn(c.path)
		c.operator = next
		require.NoError(t, c.Promote(w.ctx(), m.ID, "alice", &migrate.Canary{Percent: 10}))
		w.eventually(func() bool { route, _ := w.route(); return route.Canary != nil && route.Canary.Percent == 10 }, nil, "the route has the new percentage")
		after, _ := w.route()
		require.Equal(t, before.Canary.Instances, after.Canary.Instances)
		require.NoError(t, c.Pause(w.ctx(), m.ID, "alice"))
		require.NoError(t, c.Promote(w.ctx(), m.ID, "alice", nil))
		c.waits(m.ID, "paused")
		require.NoError(t, c.Resume(w.ctx(), m.ID, "alice"))
		require.Equal(t, store.Done, c.ended(m.ID).Outcome, c.story(m.ID))
		require.ErrorIs(t, c.Promote(w.ctx(), m.ID, "alice", nil), turnout.ErrConflict)
		c.clean()
	})
}

// What has not been read in the time that sends may pause leaves the canary as it was.
func TestCanaryWhoseSendsMayNotPauseLongerStaysAsItWas(t *testing.T) {
	for step, ask := range map[string]struct {
		unread string
		do     func(c *canaries, id string) error
	}{
		"widen": {"kafka-a", func(c *canaries, id string) error {
			return c.Promote(c.w.ctx(), id, "alice", &migrate.Canary{Keys: []int{0, 13106}})
		}},
		"promote": {"kafka-a", func(c *canaries, id string) error { return c.Promote(c.w.ctx(), id, "alice", nil) }},
		"back":    {"kafka-b", func(c *canaries, id string) error { return c.Abort(c.w.ctx(), id, "alice") }},
	} {
		t.Run(step, func(t *testing.T) {
			each(t, func(t *testing.T, w *world) {
				var c *canaries
				var holds atomic.Int32
				c = flock(w, "kafka-a", "kafka-b", true, 1, func(o *migrate.Options) {
					o.Entered = func(ctx context.Context, m *store.Migration) {
						if m.State == string(migrate.Holding) && holds.Add(1) == 2 { // the first is that of the canary itself
							select {
							case <-c.gate.close(ask.unread):
							case <-ctx.Done():
							}
						}
					}
				})
				m := c.start(migrate.Plan{To: "kafka-b", Ordered: true, Hold: 1500, Canary: &migrate.Canary{Keys: tenth}, Accept: []string{migrate.CanaryOrder}})
				c.reaches(m.ID, migrate.Canarying)
				c.grows("kafka-b", 20)
				require.NoError(t, ask.do(c, m.ID))
				w.eventually(func() bool { return strings.Contains(c.story(m.ID), "as before, keys 0-6553") }, func() any { return c.story(m.ID) }, "it stays as it was")
				c.gate.open()
				c.waits(m.ID, "keys 0-6553")
				require.False(t, w.fenced("kafka-a"))
				require.False(t, w.fenced("kafka-b"))
				c.grows("kafka-a", 20)
				c.grows("kafka-b", 20)
				c.clean()
			})
		})
	}
}

// An edit of the wish by hand in a canary: everything goes where it says.
func TestAHandEditEndsACanary(t *testing.T) {
	for _, wish := range []string{"kafka-b", "kafka-c"} {
		t.Run(wish, func(t *testing.T) {
			each(t, func(t *testing.T, w *world) {
				w.createTopic("kafka-c")
				c := flock(w, "kafka-a", "kafka-b", false, 2)
				m := c.start(migrate.Plan{To: "kafka-b", Canary: &migrate.Canary{Keys: tenth}})
				c.reaches(m.ID, migrate.Canarying)
				c.grows("kafka-b", 20)
				w.edit(wish)
				r := c.ended(m.ID)
				require.Equal(t, store.Done, r.Outcome, c.story(m.ID))
				require.Equal(t, wish, r.To)
				require.NotNil(t, r.Canary[0].Until)
				c.quiet()
				require.NoError(t, w.verdict("kafka-a", "kafka-b", "kafka-c").Err())
			})
		})
	}
}
