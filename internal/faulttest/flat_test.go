package faulttest

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/turnout-mq/turnout/internal/scene"
	"github.com/turnout-mq/turnout/testenv"
)

const module = "github.com/turnout-mq/turnout"

// heapNoise is what the heap of a process that sends and receives differs by from one moment to the next: a fetch of a library
// alone may be 1 MB.
const heapNoise = 4 << 20

// flat holds what a process uses against what it used before, after so many flips. What the libraries leave behind is
// listed; with it also that must be flat.
func (s *stage) flat(p *scene.Process, before scene.Status, flips int, libraries bool) {
	s.t.Helper()
	var now scene.Status
	s.eventually(func() bool {
		var err error
		now, err = p.Status(s.ctx())
		require.NoError(s.t, err)
		for name, n := range now.Goroutines {
			if n > before.Goroutines[name] && (libraries || strings.HasPrefix(name, module)) {
				return false
			}
		}
		return !libraries || now.Sockets <= before.Sockets && now.Heap <= before.Heap+heapNoise
	}, func() any { return fmt.Sprintf("%+v\nthen %+v", before, now) }, "%s uses no more than before", p.Name())
	s.t.Logf("%s after %d flips: %d sockets, then %d; %d kB of heap, then %d", p.Name(), flips, before.Sockets, now.Sockets, before.Heap>>10, now.Heap>>10)
	for _, name := range slices.Sorted(maps.Keys(now.Goroutines)) {
		if n := now.Goroutines[name] - before.Goroutines[name]; n != 0 {
			s.t.Logf("  %+.2f goroutines a flip: %s", float64(n)/float64(flips), name)
		}
	}
}

func (s *stage) status() map[*scene.Process]scene.Status {
	s.t.Helper()
	all := map[*scene.Process]scene.Status{}
	for _, p := range s.running {
		status, err := p.Status(s.ctx())
		require.NoError(s.t, err)
		all[p] = status
	}
	return all
}

func TestManyFlipsOverConnectionsThatAreKept(t *testing.T) {
	harmless(t, func(t *testing.T, env *testenv.Env) {
		flips := 200
		if env.Backend() == testenv.Servers || testing.Short() {
			flips = bound(20, 200)
		}
		for _, m := range moves {
			t.Run(m[0]+" "+m[1], func(t *testing.T) {
				t.Parallel()
				s := newFlatStage(t, env, m, time.Minute)
				for flipped := false; !flipped || !s.everyPartitionUsed(m[:]...); flipped = true {
					s.flipOften(10, false)
				}
				before := s.status()
				s.flipOften(flips, false)
				for _, p := range s.running {
					s.flat(p, before[p], flips, true)
				}
				s.verdict()
			})
		}
	})
}

// Every flip waits until the old cluster is closed, so that the next one begins with new connections; in the end the
// applications use no more than they did before the first.
func TestManyFlipsOverNewConnections(t *testing.T) {
	harmless(t, func(t *testing.T, env *testenv.Env) {
		flips := bound(10, 100)
		for _, m := range moves {
			t.Run(m[0]+" "+m[1], func(t *testing.T) {
				t.Parallel()
				s := newFlatStage(t, env, m, 50*time.Millisecond)
				s.eventually(func() bool { return s.everyPartitionUsed(m[0]) }, s.state, "every partition of %s is used", m[0])
				s.completesAlone(s.of(scene.Receiver)[0], m[0])
				before := s.status()
				s.flipOften(flips, true)
				for _, p := range s.running {
					before[p].Goroutines[module+"/metadata.(*Follower).run"]++ // a cluster that was used once is followed for good
					// RocketMQ's library leaves goroutines behind with every connection.
					s.flat(p, before[p], flips, env.Kind(m[0]) == env.Kind(m[1]))
				}
				s.verdict()
			})
		}
	})
}

func newFlatStage(t *testing.T, env *testenv.Env, clusters [2]string, linger time.Duration) *stage {
	t.Helper()
	s := newStage(t, env, clusters[:]...)
	lingering := func(spec *scene.Spec) { spec.Rate, spec.Linger, spec.ClusterLinger = 50, linger, linger }
	s.receiver("billing", lingering)
	s.sender("orders", lingering)
	return s
}

// completesAlone has an application complete a wish, for which it opens all that it ever needs on the cluster.
func (s *stage) completesAlone(p *scene.Process, cluster string) {
	s.t.Helper()
	for _, other := range s.running {
		if other != p {
			require.NoError(s.t, other.Pause())
		}
	}
	s.edit(cluster)
	s.applied(cluster, p)
	for _, other := range s.running {
		require.NoError(s.t, other.Resume())
	}
	s.applied(cluster)
}

// flipOften moves the topic to the other cluster and back, an even number of times.
func (s *stage) flipOften(n int, closed bool) {
	s.t.Helper()
	for i := range n {
		from, to := s.clusters[i%2], s.clusters[(i+1)%2]
		s.edit(to)
		s.applied(to)
		if closed {
			s.closed(from)
		}
	}
}

// everyPartitionUsed says whether there are messages in each: the libraries begin something for a partition with its first one.
func (s *stage) everyPartitionUsed(clusters ...string) bool {
	s.t.Helper()
	for _, cluster := range clusters {
		ends, err := s.brokers[cluster].EndOffsets(s.ctx(), s.topic)
		require.NoError(s.t, err)
		for _, end := range ends {
			if end == 0 {
				return false
			}
		}
	}
	return true
}
