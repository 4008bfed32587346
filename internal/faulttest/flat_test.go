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

// heapNoise is what the heap of a process that sends and receives differs by from one moment to the next.
const heapNoise = 1 << 20

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
	}, func() any { return fmt.Sprintf("%+v\nthen %+v", before, now) }, "%s is as before", p.Name())
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
		if env.Backend() == testenv.Servers {
			flips = bound(20, 200)
		}
		manyFlips(t, env, time.Minute, 10, flips)
	})
}

// Every flip waits until the old cluster is closed, so that the next one begins with new connections.
func TestManyFlipsOverNewConnections(t *testing.T) {
	harmless(t, func(t *testing.T, env *testenv.Env) {
		manyFlips(t, env, 50*time.Millisecond, 6, bound(10, 100))
	})
}

func (s *stage) everyPartitionUsed() bool {
	s.t.Helper()
	for _, c := range s.brokers {
		ends, err := c.EndOffsets(s.ctx(), s.topic)
		require.NoError(s.t, err)
		for _, end := range ends {
			if end == 0 {
				return false
			}
		}
	}
	return true
}

func manyFlips(t *testing.T, env *testenv.Env, linger time.Duration, warmUp, flips int) {
	for _, m := range moves(env.Backend()) {
		t.Run(m[0]+" "+m[1], func(t *testing.T) {
			s := newStage(t, env, m[0], m[1])
			lingering := func(spec *scene.Spec) { spec.Rate, spec.Linger, spec.ClusterLinger = 50, linger, linger }
			s.receiver("billing", lingering)
			s.sender("orders", lingering)
			kept := linger > time.Second
			flip := func(n int) {
				for i := range n {
					to, from := m[(i+1)%2], m[i%2]
					s.edit(to)
					s.applied(to)
					if !kept {
						s.closed(from)
					}
				}
			}
			flip(warmUp)
			for !s.everyPartitionUsed() { // the libraries begin something for each partition
				flip(2)
			}
			before := s.status()
			flip(flips)
			for _, p := range s.running {
				// RocketMQ's library leaves goroutines behind with every connection.
				s.flat(p, before[p], flips, kept || env.Kind(m[0]) == env.Kind(m[1]))
			}
			s.verdict()
		})
	}
}
