package zkserver

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
	"sync"
	"time"

	"go.uber.org/zap"
)

// Options configure a server. The zero value serves on one free port.
type Options struct {
	// Ports are the loopback ports to serve on, 0 for any free one. All lead to
	// the same server. Default: one free port.
	Ports []int
	// MinSessionTimeout and MaxSessionTimeout bound what a client may ask for.
	// Defaults: 100 ms and 60 s.
	MinSessionTimeout, MaxSessionTimeout time.Duration
	// TLS makes all ports want TLS; with its ClientAuth, also a certificate of
	// clients, which is not an identity here (scheme x509). nil: none.
	TLS *tls.Config
	// Logger is told of connections that are refused or cut for a reason; nil
	// logs nothing.
	Logger *zap.Logger
}

// ErrClosed is returned by Restart after Close.
var ErrClosed = errors.New("zkserver: the server is closed, start a new one")

// tick is how often the server looks for sessions and nodes that have expired.
const tick = 20 * time.Millisecond

// Server is a ZooKeeper server in this process. All methods are safe for
// concurrent use.
type Server struct {
	opt   Options
	log   *zap.Logger
	ports []int // as bound at the start, so that Restart finds them again

	life   sync.Mutex // serialises Stop, Restart and Close
	closed bool       // guarded by life
	wg     sync.WaitGroup

	mu        sync.Mutex // guards everything below and all state of connections
	listeners []net.Listener
	stopped   chan struct{} // closed when the server stops; nil while it is not running
	tree      *tree
	watches   *watches
	sessions  map[int64]*session
	conns     map[*conn]struct{}
	faults    faults
	received  int64 // frames, over all connections
	sent      int64
}

// Start starts a server on loopback. The ctx bounds the start alone; the server
// runs until Stop or Close. An error names the option or port at fault.
func Start(ctx context.Context, opt Options) (*Server, error) {
	if len(opt.Ports) == 0 {
		opt.Ports = []int{0}
	}
	for _, p := range opt.Ports {
		if p < 0 || p > 65535 {
			return nil, fmt.Errorf("zkserver: Ports has %d: use 0 for any free port or 1 to 65535", p)
		}
	}
	if opt.MinSessionTimeout == 0 {
		opt.MinSessionTimeout = 100 * time.Millisecond
	}
	if opt.MaxSessionTimeout == 0 {
		opt.MaxSessionTimeout = time.Minute
	}
	if opt.MinSessionTimeout < tick || opt.MaxSessionTimeout < opt.MinSessionTimeout {
		return nil, fmt.Errorf("zkserver: MinSessionTimeout is %v and MaxSessionTimeout %v: want %v <= min <= max",
			opt.MinSessionTimeout, opt.MaxSessionTimeout, tick)
	}
	if opt.Logger == nil {
		opt.Logger = zap.NewNop()
	}
	w := newWatches()
	s := &Server{
		opt: opt, log: opt.Logger, ports: opt.Ports,
		tree: newTree(w), watches: w, sessions: map[int64]*session{}, conns: map[*conn]struct{}{},
	}
	if err := s.run(ctx); err != nil {
		return nil, err
	}
	return s, nil
}

// run listens and starts the goroutines.
func (s *Server) run(ctx context.Context) error {
	var listeners []net.Listener
	var ports []int
	for _, p := range s.ports {
		var lc net.ListenConfig
		ln, err := lc.Listen(ctx, "tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(p)))
		if err != nil {
			for _, ln := range listeners {
				_ = ln.Close()
			}
			return fmt.Errorf("zkserver: listen on port %d: %w", p, err)
		}
		listeners = append(listeners, ln)
		ports = append(ports, ln.Addr().(*net.TCPAddr).Port)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.listeners, s.ports, s.stopped = listeners, ports, make(chan struct{})
	now := time.Now()
	for _, sess := range s.sessions {
		sess.seen = now
	}
	for _, ln := range listeners {
		s.wg.Go(func() { s.accept(ln) })
	}
	stopped := s.stopped
	s.wg.Go(func() { s.reap(stopped) })
	return nil
}

// Addrs returns the addresses host:port that the server has been given, the
// same ones after a Restart.
func (s *Server) Addrs() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	addrs := make([]string, len(s.ports))
	for i, p := range s.ports {
		addrs[i] = net.JoinHostPort("127.0.0.1", strconv.Itoa(p))
	}
	return addrs
}

// ConnectString returns the addresses joined by commas.
func (s *Server) ConnectString() string { return strings.Join(s.Addrs(), ",") }

// Stop takes the server down as kill -9 would: connections break without a
// word, the tree and the sessions stay for Restart. It clears all faults. Stop
// of a stopped server does nothing.
func (s *Server) Stop() {
	s.life.Lock()
	defer s.life.Unlock()
	s.stop()
}

func (s *Server) stop() {
	s.mu.Lock()
	if s.stopped == nil {
		s.mu.Unlock()
		return
	}
	close(s.stopped)
	s.stopped = nil
	for _, ln := range s.listeners {
		_ = ln.Close()
	}
	for c := range s.conns {
		c.cut()
	}
	s.faults.clear()
	s.mu.Unlock()
	s.wg.Wait()
}

// Restart brings the server back on the same ports with the tree and the
// sessions it had, stopping it first if it runs. The clocks of the sessions
// start anew. The error names the port if one has been taken by another, and
// the server can then be restarted again; after Close it is ErrClosed.
func (s *Server) Restart() error {
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
func (s *Server) Close() {
	s.life.Lock()
	defer s.life.Unlock()
	s.closed = true
	s.stop()
}

// reap ends sessions and removes nodes whose time is over. While the process stands still its clients do too, so that
// time is nobody's.
func (s *Server) reap(stopped <-chan struct{}) {
	t := time.NewTicker(tick)
	defer t.Stop()
	for last := time.Now(); ; {
		select {
		case <-stopped:
			return
		case <-t.C:
			s.mu.Lock()
			now := time.Now()
			late := now.Sub(last) - 2*tick
			last = now
			if s.faults.frozen == nil {
				for _, sess := range s.sessions {
					sess.seen = sess.seen.Add(max(0, late))
				}
				s.expire(now)
			}
			s.mu.Unlock()
		}
	}
}

func (s *Server) expire(now time.Time) {
	for _, sess := range s.sessions {
		if now.Sub(sess.seen) > sess.timeout {
			s.endSession(sess)
		}
	}
	for _, path := range s.tree.expired(now.UnixMilli()) {
		s.tree.zxid++
		s.tree.delete(path, s.tree.zxid)
	}
}
