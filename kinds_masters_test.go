package turnout_test

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/turnout-mq/turnout"
	"github.com/turnout-mq/turnout/admin/migrate"
	"github.com/turnout-mq/turnout/admin/store"
	"github.com/turnout-mq/turnout/broker/rocketmq/remoting"
	"github.com/turnout-mq/turnout/testenv"
)

const secondMaster = "rocketmq-a-2"

// withMasters runs f on a RocketMQ cluster of two masters that no other test uses.
func withMasters(t *testing.T, f func(t *testing.T, w *world)) {
	testenv.Each(t, testenv.Spec{ZooKeeper: 1, Kafka: []string{"kafka-a"}, RocketMQ: []string{"rocketmq-a"}, RocketMQBrokers: 2}, func(t *testing.T, e *testenv.Env) {
		f(t, newWorld(t, e, "kafka-a", "rocketmq-a"))
	})
}

// queuesOn are how many queues the topic has on a master to write to, as the master itself says.
func (w *world) queuesOn(master string) int {
	w.t.Helper()
	raw, _ := w.rocketMQ("rocketmq-a")
	info, err := raw.ClusterInfo(w.ctx(), w.env.Addresses("rocketmq-a")[0])
	require.NoError(w.t, err)
	config, err := raw.TopicConfig(w.ctx(), info.Brokers[master].Master(), w.topic)
	require.NoError(w.t, err)
	require.Equal(w.t, config.ReadQueues, config.WriteQueues)
	return config.WriteQueues
}

// waitsFor waits until a migration says that it waits for a text.
func (o *operator) waitsFor(id, text string) {
	o.w.t.Helper()
	o.w.eventually(func() bool {
		row, err := o.Get(o.w.ctx(), id)
		require.NoError(o.w.t, err)
		require.Nil(o.w.t, row.EndedAt, o.story(id))
		return strings.Contains(row.Waiting, text)
	}, func() any { return o.story(id) }, "it waits for %q", text)
}

func (w *world) killMaster() { require.NoError(w.t, w.env.Kill(w.ctx(), "rocketmq-a/broker-2")) }

func (w *world) restartMaster() {
	require.NoError(w.t, w.env.Restart(w.ctx(), "rocketmq-a/broker-2"))
}

// A cluster is closed when all its masters are: one that is down, at whatever time, is waited for, also by a controller that has
// never seen it.
func TestAMoveAwayFromRocketMQWaitsForAMasterThatIsDown(t *testing.T) {
	for _, state := range []migrate.State{migrate.Draining, migrate.Shutting} {
		t.Run(string(state), func(t *testing.T) {
			t.Parallel()
			withMasters(t, func(t *testing.T, w *world) {
				var killed atomic.Bool
				m := moveOff(t, w, func(o *migrate.Options) {
					o.Entered = func(_ context.Context, row *store.Migration) {
						if row.State == string(state) && killed.CompareAndSwap(false, true) {
							if err := w.env.Kill(context.Background(), "rocketmq-a/broker-2"); err != nil {
								panic(err) // not in the test's goroutine
							}
						}
					}
				})
				move := m.start(migrate.Plan{To: "kafka-a", Accept: []string{migrate.FewerPartitions}})
				m.waitsFor(move.ID, secondMaster)
				m.stop()
				m.operator = w.operateOn(m.path)
				m.waitsFor(move.ID, secondMaster)
				m.sendsTo("kafka-a", 20)
				w.restartMaster()
				r := m.ended(move.ID)
				require.Equal(t, store.Done, r.Outcome, m.story(move.ID))
				require.True(t, r.Free, m.story(move.ID))
				require.Zero(t, w.queuesOn("rocketmq-a"), m.story(move.ID))
				require.Zero(t, w.queuesOn(secondMaster), m.story(move.ID))
				m.quiet()
				require.NoError(t, w.verdict("kafka-a", "rocketmq-a").Err())
				require.Zero(t, m.client.Stats().Failed)
			})
		})
	}
}

// moveOff is a topic with traffic on rocketmq-a, and a controller.
func moveOff(t *testing.T, w *world, change ...func(*migrate.Options)) *moving {
	w.putTopic("rocketmq-a", "kafka-a")
	w.putGroup(nil)
	m := &moving{operator: w.operateOn(filepath.Join(t.TempDir(), "turnout.db"), change...), client: w.open("order_service")}
	rec := w.recorder("one")
	m.sub = w.listen(m.client, rec)
	m.quiet = w.traffic(m.client, rec, 4)
	m.sendsTo("rocketmq-a", 8)
	w.applied("rocketmq-a")
	return m
}

// A master that gets the topic after it was closed is closed, too, and opened with the others when the topic comes back; so is one
// that is down then.
func TestAMasterThatComesLaterIsClosedAndOpenedWithTheOthers(t *testing.T) {
	t.Parallel()
	withMasters(t, func(t *testing.T, w *world) {
		w.killMaster()
		m := moveOff(t, w)
		move := m.start(migrate.Plan{To: "kafka-a", Accept: []string{migrate.FewerPartitions}})
		require.True(t, m.ended(move.ID).Free, m.story(move.ID))
		w.restartMaster()
		raw, _ := w.rocketMQ("rocketmq-a")
		info, err := raw.ClusterInfo(w.ctx(), w.env.Addresses("rocketmq-a")[0])
		require.NoError(t, err)
		require.NoError(t, raw.UpdateTopic(w.ctx(), info.Brokers[secondMaster].Master(), remoting.TopicConfig{Name: w.topic, ReadQueues: 4, WriteQueues: 4,
			Perm: remoting.PermRead | remoting.PermWrite}))
		w.eventually(func() bool { return w.queuesOn(secondMaster) == 0 }, func() any { return m.story(move.ID) }, "it is closed, too")

		move = m.start(migrate.Plan{To: "rocketmq-a"})
		require.Equal(t, store.Done, m.ended(move.ID).Outcome, m.story(move.ID))
		require.Equal(t, 4, w.queuesOn("rocketmq-a"))
		require.Equal(t, 4, w.queuesOn(secondMaster))
		m.sendsTo("rocketmq-a", 20)
		m.quiet()
		require.NoError(t, w.verdict("kafka-a", "rocketmq-a").Err())
		require.Zero(t, m.client.Stats().Failed)
	})
}

// Who opens a cluster waits for a master of it that is down.
func TestAMoveOntoRocketMQWaitsForAMasterThatIsDown(t *testing.T) {
	t.Parallel()
	withMasters(t, func(t *testing.T, w *world) {
		m := moveOff(t, w)
		move := m.start(migrate.Plan{To: "kafka-a", Accept: []string{migrate.FewerPartitions}})
		require.True(t, m.ended(move.ID).Free, m.story(move.ID))
		w.killMaster()
		_, err := m.Start(w.ctx(), migrate.Plan{Topic: w.topic, To: "rocketmq-a"}, "tester", migrate.StarterApproves)
		require.ErrorContains(t, err, secondMaster)
		w.restartMaster()
		move = m.start(migrate.Plan{To: "rocketmq-a"})
		require.Equal(t, store.Done, m.ended(move.ID).Outcome, m.story(move.ID))
		require.Equal(t, 4, w.queuesOn(secondMaster))
		m.quiet()
		require.NoError(t, w.verdict("kafka-a", "rocketmq-a").Err())
		require.Zero(t, m.client.Stats().Failed)
	})
}

// A master that was shut down for good is waited for, because it may come back with what it has of its keys, until a person says
// that it does not.
func TestAMasterThatIsGoneForGood(t *testing.T) {
	t.Parallel()
	withMasters(t, func(t *testing.T, w *world) {
		m := moveOff(t, w)
		m.quiet()
		require.NoError(t, w.verdict("rocketmq-a").Err())
		w.killMaster()
		keys := make([]sending, 16) // some of which belong to it
		for i := range keys {
			keys[i] = w.sending(w.ctx(), m.client, &turnout.Message{Key: fmt.Append(nil, i), Body: []byte("0")})
		}
		open := func() (n int) {
			for _, s := range keys {
				if len(s.result) == 0 {
					n++
				}
			}
			return n
		}
		w.eventually(func() bool { return open() < len(keys) }, nil, "those of the other master are stored")
		doc, _, err := w.store.GetCluster(w.ctx(), "rocketmq-a")
		require.NoError(t, err)
		doc.Properties = map[string]string{"retired.brokers": secondMaster}
		require.NoError(t, w.store.PutCluster(w.ctx(), "rocketmq-a", doc))
		for _, s := range keys {
			r, err := w.done(s)
			require.NoError(t, err)
			require.NotContains(t, r.Partition, secondMaster)
		}
		move := m.start(migrate.Plan{To: "kafka-a", Accept: []string{migrate.FewerPartitions}})
		require.True(t, m.ended(move.ID).Free, m.story(move.ID))
		w.eventually(func() bool { return w.left("rocketmq-a") == 0 }, nil, "all is read")
	})
}
