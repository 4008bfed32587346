package stress_test

import (
	"context"
	"errors"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"go.uber.org/zap"

	"github.com/turnout-mq/turnout/internal/stress"
	"github.com/turnout-mq/turnout/metadata"
	"github.com/turnout-mq/turnout/testenv/zkserver"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	app      = "order_service"
	group    = "order_bil_group"
	patience = time.Minute
	moment   = 5 * time.Millisecond
)

// gate lets connections through, or none.
type gate struct {
	mu     sync.Mutex
	closed bool
	conns  []net.Conn
}

func (g *gate) dial(ctx context.Context, network, address string) (net.Conn, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed {
		return nil, errors.New("the gate is closed")
	}
	c, err := new(net.Dialer).DialContext(ctx, network, address)
	if err == nil {
		g.conns = append(g.conns, c)
	}
	return c, err
}

func (g *gate) set(closed bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.closed = closed
	if closed {
		for _, c := range g.conns {
			_ = c.Close()
		}
		g.conns = nil
	}
}

// scene is a Groups with one subscribed group, whose shadow group counts how often it was started and stopped.
type scene struct {
	t     *testing.T
	gate  gate
	store *metadata.Store // of somebody else
	mu    sync.Mutex
	said  map[string]metadata.ShadowReport
	began int
	ended int
	ready error
}

func newScene(t *testing.T, session time.Duration) *scene {
	srv, err := zkserver.Start(context.Background(), zkserver.Options{})
	require.NoError(t, err)
	t.Cleanup(srv.Close)
	s := &scene{t: t}
	open := func(dial func(context.Context, string, string) (net.Conn, error)) *metadata.Store {
		store, err := metadata.Open(metadata.Config{ZooKeeper: srv.ConnectString(), SessionTimeout: time.Minute, Dialer: dial})
		require.NoError(t, err)
		t.Cleanup(func() { require.NoError(t, store.Close(context.Background())) })
		return store
	}
	s.store = open(nil)
	g := stress.NewGroups(stress.Config{Store: open(s.gate.dial), App: app, Session: session, Log: zap.NewNop(), Report: func(said map[string]metadata.ShadowReport) {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.said = said
	}})
	t.Cleanup(g.Close)
	end := g.Subscribed(group, func(context.Context) (stress.Running, error) {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.began++
		return s, nil
	})
	t.Cleanup(func() { require.NoError(t, end(context.Background())) })
	return s
}

func (s *scene) NotReady() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.ready
}

func (s *scene) Ready(ctx context.Context) error {
	if err := s.NotReady(); err != nil {
		<-ctx.Done()
		return err
	}
	return nil
}

func (s *scene) Close(context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ended++
	return nil
}

func (s *scene) flag(task string, on bool) {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	require.NoError(s.t, s.store.PutShadowFlag(ctx, app, task, group, on))
}

// until waits until the report of the group is as ok says.
func (s *scene) until(ok func(r metadata.ShadowReport, began, ended int) bool) {
	s.t.Helper()
	require.Eventually(s.t, func() bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		return ok(s.said[group], s.began, s.ended)
	}, patience, moment)
}

func is(state metadata.ShadowState) func(metadata.ShadowReport, int, int) bool {
	return func(r metadata.ShadowReport, _, _ int) bool { return r.State == state }
}

// A flag that fell while there was no connection does not start the group when there is one again.
func TestAFlagCountsOnlyAsItWasReadSinceTheConnectionWasLost(t *testing.T) {
	s := newScene(t, 50*time.Millisecond)
	s.flag("one", true)
	s.until(is(metadata.ShadowStarted))
	s.gate.set(true)
	s.until(func(_ metadata.ShadowReport, _, ended int) bool { return ended == 1 })
	s.flag("one", false)
	s.gate.set(false)
	s.flag("two", true)
	s.until(func(r metadata.ShadowReport, _, _ int) bool {
		return r.State == metadata.ShadowStarted && len(r.Tasks) == 1 && r.Tasks[0] == "two"
	})
	s.until(func(_ metadata.ShadowReport, began, ended int) bool { return began == 2 && ended == 1 })
}

// A short loss of the connection stops nothing.
func TestAShortLossOfTheConnectionStopsNothing(t *testing.T) {
	s := newScene(t, time.Hour)
	s.flag("one", true)
	s.until(is(metadata.ShadowStarted))
	s.gate.set(true)
	s.gate.set(false)
	s.flag("two", true)
	s.until(func(r metadata.ShadowReport, began, ended int) bool {
		return len(r.Tasks) == 2 && began == 1 && ended == 0
	})
}

// What takes its time to become a member is starting, and not failed.
func TestAGroupThatJoinsSlowlyIsStarting(t *testing.T) {
	s := newScene(t, time.Hour)
	s.ready = errors.New("not attached yet")
	s.flag("one", true)
	s.until(is(metadata.ShadowStarting))
	s.mu.Lock()
	s.ready = nil
	s.mu.Unlock()
	s.until(is(metadata.ShadowStarted))
	s.mu.Lock()
	s.ready = errors.New("its cluster is away")
	s.mu.Unlock()
	s.until(func(r metadata.ShadowReport, _, _ int) bool {
		return r.State == metadata.ShadowFailed && r.Reason == "its cluster is away"
	})
	s.flag("one", false)
	s.until(is(metadata.ShadowStopped))
}
