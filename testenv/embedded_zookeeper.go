package testenv

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"slices"
	"sync"
	"syscall"
	"time"

	"go.uber.org/zap"

	"github.com/turnout-mq/turnout/testenv/zkserver"
)

// embeddedZooKeeper is one zkserver behind one or three relays, its members.
func (e *Env) embeddedZooKeeper(name string) (*cluster, error) {
	names := zooKeeperNames(e.spec.ZooKeeper)
	port, err := e.ports.take(1 + len(names))
	if err != nil {
		return nil, err
	}
	secured, err := e.secrets.tls()
	if err != nil {
		return nil, err
	}
	z := &fakeEnsemble{port: port, tls: secured, log: e.log.Named(name), running: make([]bool, len(names))}
	c := &cluster{name: name, kind: kindZooKeeper}
	for i, n := range names {
		r := &relay{target: loopback(port), gate: newGate()}
		c.add(n, &fakeMember{name: n, index: i, ensemble: z, gate: r.gate}, loopback(port+1+i), r)
	}
	return c, nil
}

// EmbeddedZooKeeper returns the server behind all ZooKeeper nodes, for faults that only it has; nil on Servers
// and without ZooKeeper. It stays the same over a Restart.
func (e *Env) EmbeddedZooKeeper() *zkserver.Server {
	c := e.cluster(kindZooKeeper)
	if c == nil {
		return nil
	}
	m, ok := c.nodes[0].server.(*fakeMember)
	if !ok {
		return nil
	}
	m.ensemble.mu.Lock()
	defer m.ensemble.mu.Unlock()
	return m.ensemble.server
}

// fakeEnsemble makes one server look like an ensemble to clients: it serves while a majority of the members
// runs, and when the leader goes everybody is disconnected once.
type fakeEnsemble struct {
	port int
	tls  *tls.Config // nil: none
	log  *zap.Logger

	mu      sync.Mutex
	server  *zkserver.Server // nil until it serves first
	serving bool
	running []bool // by member
}

// set notes that a member runs or does not, and starts or stops the server accordingly.
func (z *fakeEnsemble) set(member int, running bool) error {
	z.mu.Lock()
	defer z.mu.Unlock()
	leader := z.leader()
	z.running[member] = running
	count := 0
	for _, r := range z.running {
		if r {
			count++
		}
	}
	majority := count > len(z.running)/2
	switch {
	case majority && !z.serving:
		if err := z.serve(); err != nil {
			z.running[member] = false
			if errors.Is(err, syscall.EADDRINUSE) {
				err = fmt.Errorf("%w: %w", errPortTaken, err)
			}
			return err
		}
	case !majority && z.serving:
		z.server.Stop()
	case z.serving && leader != z.leader():
		z.server.DropConnections()
	}
	z.serving = majority
	return nil
}

func (z *fakeEnsemble) serve() (err error) {
	if z.server != nil {
		return z.server.Restart()
	}
	z.server, err = zkserver.Start(context.Background(), zkserver.Options{
		Ports: []int{z.port}, MinSessionTimeout: 500 * time.Millisecond, MaxSessionTimeout: time.Minute, TLS: z.tls, Logger: z.log,
	})
	return err
}

// leader is the first member that runs; -1 if none does.
func (z *fakeEnsemble) leader() int { return slices.Index(z.running, true) }

// fakeMember is one member: a relay that is up or not. The server behind it is the ensemble's.
type fakeMember struct {
	name     string
	index    int
	ensemble *fakeEnsemble
	gate     *gate // of its relay
	paused   bool  // guarded by its node
}

// start returns when a majority runs, as a member that has none does not serve.
func (m *fakeMember) start(ctx context.Context) error {
	m.gate.setShut(false)
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	if err := m.ensemble.set(m.index, true); err != nil {
		return fmt.Errorf("testenv: start %s: %w", m.name, err)
	}
	err := poll(ctx, nil, func(context.Context) error {
		m.ensemble.mu.Lock()
		defer m.ensemble.mu.Unlock()
		if !m.ensemble.serving {
			return errors.New("no majority of the members runs")
		}
		return nil
	})
	if err != nil {
		return errors.Join(fmt.Errorf("testenv: start %s: %w", m.name, err), m.kill())
	}
	return nil
}

func (m *fakeMember) stop(context.Context) error { return m.kill() }

func (m *fakeMember) kill() error {
	m.paused = false
	err := m.ensemble.set(m.index, false)
	m.gate.setShut(false)
	return err
}

// pause freezes a single server with its clock. Of several members it freezes one's connections; the others go
// on with the sessions if they are a majority.
func (m *fakeMember) pause() error {
	z := m.ensemble
	if m.paused {
		return nil
	}
	if !z.runs(m.index) {
		return fmt.Errorf("testenv: %s does not run", m.name)
	}
	m.paused = true
	if len(z.running) == 1 {
		z.server.Freeze()
		return nil
	}
	m.gate.setShut(true)
	return z.set(m.index, false)
}

func (m *fakeMember) resume() error {
	z := m.ensemble
	if !m.paused {
		if !z.runs(m.index) {
			return fmt.Errorf("testenv: %s does not run", m.name)
		}
		return nil
	}
	m.paused = false
	if len(z.running) == 1 {
		z.server.Thaw()
		return nil
	}
	err := z.set(m.index, true)
	m.gate.setShut(false)
	return err
}

func (z *fakeEnsemble) runs(member int) bool {
	z.mu.Lock()
	defer z.mu.Unlock()
	return z.running[member]
}
