package faulttest

import (
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/turnout-mq/turnout/internal/scene"
	"github.com/turnout-mq/turnout/testenv"
)

// storm plays faults by chance.
type storm struct {
	*stage
	rand  *rand.Rand
	count int // of the applications started
}

// Whatever can go wrong goes wrong by chance, one after the other and some at once. TURNOUT_SEED repeats a run's choices;
// what comes of them also depends on time.
func TestStorm(t *testing.T) {
	harmful(t, func(t *testing.T, env *testenv.Env) {
		seed := uint64(time.Now().UnixNano())
		if text := os.Getenv("TURNOUT_SEED"); text != "" {
			var err error
			seed, err = strconv.ParseUint(text, 10, 64)
			require.NoError(t, err)
		}
		t.Logf("TURNOUT_SEED=%d", seed)
		s := &storm{stage: newStage(t, env, three...), rand: rand.New(rand.NewPCG(seed, 0))}
		for range 2 {
			s.another(scene.Sender)
			s.another(scene.Receiver)
		}
		faults := []func(){s.killOne, s.killOne, s.stopOne, s.expire, s.zooKeeper, s.slowZooKeeper, s.broker}
		if env.Backend() == testenv.Embedded {
			faults = append(faults, s.forgetWatches, s.dropAnswers)
		}
		end := time.Now().Add(bound(12*time.Second, 3*time.Minute))
		for time.Now().Before(end) {
			for range s.rand.IntN(4) {
				s.flip()
			}
			faults[s.rand.IntN(len(faults))]()
		}
		s.edit(s.clusters[0])
		s.registered()
		s.applied(s.clusters[0])
		s.flows(s.clusters[0])
		s.verdict()
	})
}

// another starts an application and does not wait for it.
func (s *storm) another(role scene.Role) {
	s.count++
	spec := scene.Spec{Role: role, Name: fmt.Sprintf("%s-%d", role, s.count), NodeRecheck: time.Second, SessionTimeout: time.Duration(1+s.rand.IntN(10)) * time.Second}
	switch role {
	case scene.Sender:
		spec.Topics, spec.Rate, spec.Senders, spec.Keys = []string{s.topic}, 100, 4, 16
		spec.Async, spec.Deadline = s.rand.IntN(2) == 0, patience
	case scene.Receiver:
		spec.Group, spec.Linger, spec.StayRecheck = s.groups[0], time.Duration(s.rand.IntN(1000))*time.Millisecond, time.Second
		spec.FailRate, spec.FailTimes, spec.RetryDelay = 0.01, 4, time.Second
	}
	s.start(spec, nil)
}

func (s *storm) say(format string, args ...any) {
	s.t.Logf("%s  %s", time.Now().UTC().Format("15:04:05.000"), fmt.Sprintf(format, args...))
}

// pause lets some time pass.
func (s *storm) pause(most time.Duration) { <-time.After(time.Duration(s.rand.Int64N(int64(most)))) }

func (s *storm) one() *scene.Process { return s.running[s.rand.IntN(len(s.running))] }

func (s *storm) flip() {
	cluster := s.clusters[s.rand.IntN(len(s.clusters))]
	s.say("flip to %s", cluster)
	s.edit(cluster)
	s.pause(300 * time.Millisecond)
}

func (s *storm) killOne() {
	p := s.one()
	s.say("kill %s", p.Name())
	role := s.roles[p]
	s.kill(p)
	s.another(role)
}

func (s *storm) stopOne() {
	p := s.one()
	s.say("stop %s", p.Name())
	require.NoError(s.t, p.Pause())
	s.pause(500 * time.Millisecond)
	s.flip()
	s.pause(3 * time.Second)
	require.NoError(s.t, p.Resume())
}

func (s *storm) expire() {
	pid := s.one().Pid()
	if e, there := s.instances()[pid]; there {
		s.say("expire the session of %s", e.ID)
		_ = s.env.ExpireSession(s.ctx(), e.Node.EphemeralOwner) // it may have ended by itself
	}
}

func (s *storm) zooKeeper() {
	node := zooKeeper
	if n := s.rand.IntN(4); n > 0 {
		node = fmt.Sprintf("%s-%d", zooKeeper, n)
	}
	s.say("kill %s", node)
	require.NoError(s.t, s.env.Kill(s.ctx(), node))
	s.pause(2 * time.Second)
	require.NoError(s.t, s.env.Restart(s.ctx(), node))
}

func (s *storm) slowZooKeeper() {
	s.say("ZooKeeper is slow")
	require.NoError(s.t, s.env.Delay(zooKeeper, 200*time.Millisecond))
	s.flip()
	s.flip()
	require.NoError(s.t, s.env.Delay(zooKeeper, 0))
}

func (s *storm) broker() {
	cluster := s.clusters[s.rand.IntN(len(s.clusters))]
	s.say("kill the broker of %s", cluster)
	require.NoError(s.t, s.env.Kill(s.ctx(), brokerOf(s.env, cluster)))
	s.pause(500 * time.Millisecond)
	s.flip()
	require.NoError(s.t, s.env.Restart(s.ctx(), brokerOf(s.env, cluster)))
}

func (s *storm) forgetWatches() {
	s.say("watches are forgotten")
	s.env.EmbeddedZooKeeper().ForgetWatches()
}

func (s *storm) dropAnswers() {
	s.say("answers are lost")
	s.env.EmbeddedZooKeeper().DropAnswers(s.root, 5)
}
