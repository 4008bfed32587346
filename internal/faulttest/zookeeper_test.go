package faulttest

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/turnout-mq/turnout/internal/scene"
	"github.com/turnout-mq/turnout/testenv"
)

const zooKeeper = "zookeeper" // all its servers

// brief makes a session end soon after its application is gone, or is cut off.
func brief(spec *scene.Spec) { spec.SessionTimeout = 2 * time.Second }

func TestZooKeeperIsAwayAndComesBack(t *testing.T) {
	harmful(t, func(t *testing.T, env *testenv.Env) {
		s := newStage(t, env, "kafka-a", "kafka-b")
		s.receiver("billing", nil)
		s.receiver("billing-brief", brief)
		s.sender("orders", nil)
		s.sender("orders-brief", brief)
		s.applied("kafka-a")

		require.NoError(t, env.Kill(s.ctx(), zooKeeper))
		s.flows("kafka-a")
		<-time.After(bound(3*time.Second, 30*time.Second)) // that is how long it is away
		s.flows("kafka-a")
		require.NoError(t, env.Restart(s.ctx(), zooKeeper))
		back := time.Now()
		s.edit("kafka-b")
		edited := time.Now()
		s.registered()
		t.Logf("ZooKeeper takes an edit %v after it serves; all are registered %v after that", edited.Sub(back).Round(time.Millisecond), time.Since(edited).Round(time.Millisecond))
		s.applied("kafka-b")
		s.flows("kafka-b")
		s.verdict()
	})
}

func TestLeaderOfZooKeeperIsKilledDuringFlips(t *testing.T) {
	harmful(t, func(t *testing.T, env *testenv.Env) {
		s := newStage(t, env, kafkas...)
		s.receiver("billing", nil)
		s.sender("orders", brief)
		stop := s.flips(100*time.Millisecond, kafkas)
		for range bound(2, 6) {
			leader, err := env.ZooKeeperLeader(s.ctx())
			require.NoError(t, err)
			require.NoError(t, env.Kill(s.ctx(), leader))
			killed := time.Now()
			s.edit("kafka-b") // waits for the new leader
			t.Logf("%s was the leader; %v later its successor took an edit", leader, time.Since(killed).Round(time.Millisecond))
			s.flowsSomewhere()
			require.NoError(t, env.Restart(s.ctx(), leader))
			s.flowsSomewhere()
		}
		require.Positive(t, stop())
		s.edit("kafka-c")
		s.applied("kafka-c")
		s.registered()
		s.flows("kafka-c")
		s.verdict()
	})
}

func TestApplicationsStartFromTheSnapshotWhileZooKeeperIsDown(t *testing.T) {
	harmful(t, func(t *testing.T, env *testenv.Env) {
		s := newStage(t, env, "kafka-a", "kafka-b")
		s.receiver("billing", nil)
		s.sender("orders", nil)
		s.edit("kafka-b")
		s.applied("kafka-b")
		s.stop(s.running...)
		require.NoError(t, env.Kill(s.ctx(), zooKeeper))
		s.receiver("billing", nil)
		s.sender("orders", nil)
		s.flows("kafka-b")
		require.NoError(t, env.Restart(s.ctx(), zooKeeper))
		s.registered()
		s.edit("kafka-a")
		s.applied("kafka-a")
		s.flows("kafka-a")
		s.verdict()
	})
}

// Applications that reach one server of ZooKeeper only are cut off while the others move. They go on where they were, and
// the group that has left that cluster comes back for what they send.
func TestApplicationsThatAreCutOffDuringAMove(t *testing.T) {
	harmful(t, func(t *testing.T, env *testenv.Env) {
		for _, m := range leaving(env) {
			t.Run(m[0]+" "+m[1], func(t *testing.T) {
				s := newStage(t, env, m[0], m[1])
				island := func(spec *scene.Spec) {
					brief(spec)
					spec.ZooKeeper, _, _ = strings.Cut(env.ZooKeeper(), ",")
				}
				s.receiver("billing", nil)
				s.sender("orders", nil)
				mainland := slices.Clone(s.running)
				s.receiver("billing-island", island)
				sender := s.sender("orders-island", island)
				s.applied(m[0])
				require.NoError(t, env.Cut(zooKeeper+"-1"))
				s.eventually(func() bool { return len(s.participants()) == len(mainland) }, s.state, "the sessions of those that are cut off end")
				s.edit(m[1])
				s.applied(m[1], mainland...)
				s.flows(m[1])
				s.flows(m[0])
				s.stop(s.of(scene.Receiver)[1])
				s.flows(m[0])
				require.NoError(t, sender.Pause())
				s.closed(m[0])
				require.NoError(t, sender.Resume())
				s.flows(m[0])
				require.NoError(t, env.Heal(zooKeeper+"-1"))
				s.registered()
				s.applied(m[1])
				s.verdict()
			})
		}
	})
}

// ZooKeeper does what it is asked to and the answer is lost, again and again.
func TestAnswersOfZooKeeperAreLost(t *testing.T) {
	t.Parallel()
	on(t, []testenv.Backend{testenv.Embedded}, func(t *testing.T, env *testenv.Env) {
		s := newStage(t, env, "kafka-a", "kafka-b")
		s.receiver("billing", nil)
		s.sender("orders-1", nil)
		s.sender("orders-2", nil)
		for i := range 12 {
			cluster := s.clusters[(i+1)%2]
			env.EmbeddedZooKeeper().DropAnswers(s.root, 4)
			s.edit(cluster)
			s.applied(cluster)
		}
		s.flows("kafka-a")
		s.verdict()
	})
}

func TestLostWatchesAreFound(t *testing.T) {
	t.Parallel()
	on(t, []testenv.Backend{testenv.Embedded}, func(t *testing.T, env *testenv.Env) {
		s := newStage(t, env, "kafka-a", "kafka-b")
		often := func(spec *scene.Spec) { spec.NodeRecheck = time.Second }
		s.receiver("billing", often)
		s.sender("orders", often)
		s.applied("kafka-a")
		for _, cluster := range []string{"kafka-b", "kafka-a", "kafka-b"} {
			var ids []int64
			for _, e := range s.instances() {
				ids = append(ids, e.Node.EphemeralOwner)
			}
			require.Len(t, ids, 2)
			require.Positive(t, env.EmbeddedZooKeeper().ForgetWatches(ids...))
			s.edit(cluster)
			s.applied(cluster)
			s.flows(cluster)
		}
		s.verdict()
	})
}

func TestSessionsAreExpiredByForce(t *testing.T) {
	harmless(t, func(t *testing.T, env *testenv.Env) {
		s := newStage(t, env, "kafka-a", "kafka-b")
		s.receiver("billing-1", nil)
		s.receiver("billing-2", nil)
		s.sender("orders", nil)
		s.applied("kafka-a")
		for _, cluster := range []string{"kafka-b", "kafka-a"} {
			was := s.instances()
			require.Len(t, was, 3)
			for _, e := range was {
				require.NoError(t, env.ExpireSession(s.ctx(), e.Node.EphemeralOwner))
			}
			s.edit(cluster)
			s.registered()
			for pid, e := range s.instances() {
				require.NotEqual(t, was[pid].Node.EphemeralOwner, e.Node.EphemeralOwner)
			}
			s.applied(cluster)
			s.flows(cluster)
		}
		s.verdict()
	})
}
