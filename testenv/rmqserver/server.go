package rmqserver

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/turnout-mq/turnout/broker/rocketmq/remoting"
)

// ErrClosed is returned by Restart after Close.
var ErrClosed = errors.New("rmqserver: the server is closed, start a new one")

const (
	// tick is how often a server looks for what is due.
	tick = 20 * time.Millisecond
	// idleTimeout is how long a connection may say nothing.
	idleTimeout = 2 * time.Minute
)

// server is what a name server and a broker have in common: a port, its
// connections, its life and its faults.
type server struct {
	name string // in errors and logs
	log  *zap.Logger
	port int // as bound at the start, so that Restart finds it again

	// What the kind of server does; all but opened are called with mu held.
	handle func(*conn, *remoting.Command) *remoting.Command // nil: it answers later, or never
	left   func(*conn)                                      // a connection has ended
	due    func(now time.Time)                              // every tick
	open   func() error                                     // before it listens
	shut   func()                                           // it has stopped, and no goroutine runs

	life   sync.Mutex // serialises Stop, Restart and Close
	closed bool       // guarded by life
	wg     sync.WaitGroup

	mu       sync.Mutex // guards everything below and all state of the kind
	listener net.Listener
	stopped  chan struct{} // closed when the server stops; nil while it is not running
	frozen   chan struct{} // closed by Thaw; nil if it is not frozen
	conns    map[*conn]struct{}
	faults   []*Injected
	counts   map[int]int // requests by code
}

func newServer(name string, port int, log *zap.Logger) *server {
	if log == nil {
		log = zap.NewNop()
	}
	return &server{name: name, port: port, log: log.With(zap.String("server", name)), conns: map[*conn]struct{}{}, counts: map[int]int{}}
}

// run listens and starts the goroutines.
func (s *server) run(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.open(); err != nil {
		return fmt.Errorf("rmqserver: %s: %w", s.name, err)
	}
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(s.port)))
	if err != nil {
		s.shut()
		return fmt.Errorf("rmqserver: %s: listen on port %d: %w", s.name, s.port, err)
	}
	s.port = l.Addr().(*net.TCPAddr).Port
	stopped := make(chan struct{})
	s.listener, s.stopped = l, stopped
	s.wg.Go(func() { s.accept(l) })
	s.wg.Go(func() { s.clock(stopped) })
	return nil
}

func (s *server) clock(stopped <-chan struct{}) {
	t := time.NewTicker(tick)
	defer t.Stop()
	for {
		select {
		case <-stopped:
			return
		case now := <-t.C:
			s.mu.Lock()
			if s.frozen == nil && s.stopped != nil {
				s.due(now)
			}
			s.mu.Unlock()
		}
	}
}

// Port is the port that the server has been given, the same one after a Restart.
func (s *server) Port() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.port
}

// Addr is the server's address, host:port.
func (s *server) Addr() string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(s.Port())) }

// Stop takes the server down as kill -9 would: connections break without a
// word. It ends a freeze and all faults. Stop of a stopped server does nothing.
func (s *server) Stop() {
	s.life.Lock()
	defer s.life.Unlock()
	s.stop()
}

func (s *server) stop() {
	s.mu.Lock()
	if s.stopped == nil {
		s.mu.Unlock()
		return
	}
	close(s.stopped)
	s.stopped = nil
	_ = s.listener.Close()
	for c := range s.conns {
		c.cut()
	}
	s.faults = nil
	s.thaw()
	s.mu.Unlock()
	s.wg.Wait()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.shut()
}

// restart is Restart without what comes after it.
func (s *server) restart() error {
	s.life.Lock()
	defer s.life.Unlock()
	if s.closed {
		return ErrClosed
	}
	s.stop()
	return s.run(context.Background())
}

// Close stops the server for good and waits for its goroutines. It can be
// called more than once.
func (s *server) Close() {
	s.life.Lock()
	defer s.life.Unlock()
	s.closed = true
	s.stop()
}

// Running reports whether the server listens.
func (s *server) Running() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.stopped != nil
}

// Freeze plays SIGSTOP: connections stay open and new ones are accepted, but
// nothing is answered and nothing becomes due until Thaw or Stop. Time goes on.
func (s *server) Freeze() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stopped != nil && s.frozen == nil {
		s.frozen = make(chan struct{})
	}
}

// Thaw ends Freeze.
func (s *server) Thaw() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.thaw()
}

func (s *server) thaw() {
	if s.frozen != nil {
		close(s.frozen)
		s.frozen = nil
	}
}

// Cut breaks all connections; clients may connect again at once.
func (s *server) Cut() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.conns {
		c.cut()
	}
}

// Requests are the numbers of requests that have come since the server was
// made, by code, those that a fault kept from being carried out included.
func (s *server) Requests() map[int]int {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make(map[int]int, len(s.counts))
	for code, n := range s.counts {
		out[code] = n
	}
	return out
}

// Connections is the number of connections that are open.
func (s *server) Connections() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.conns)
}
