package testenv

import (
	"net"
	"sync"
)

// gate freezes connections while it is shut, as SIGSTOP to one of their ends would.
type gate struct {
	mu     sync.Mutex
	open   chan struct{} // closed while the gate is open
	conns  map[net.Conn]struct{}
	closed bool
}

func newGate() *gate {
	g := &gate{open: make(chan struct{}), conns: map[net.Conn]struct{}{}}
	close(g.open)
	return g
}

// setShut shuts the gate or opens it.
func (g *gate) setShut(shut bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	select {
	case <-g.open:
		if shut {
			g.open = make(chan struct{})
		}
	default:
		if !shut {
			close(g.open)
		}
	}
}

// passage returns what is closed when the gate is open.
func (g *gate) passage() <-chan struct{} {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.open
}

// close closes all connections, and those that are accepted later at once, and opens the gate, so that nobody
// waits any more.
func (g *gate) close() {
	g.mu.Lock()
	g.closed = true
	for c := range g.conns {
		_ = c.Close()
	}
	g.mu.Unlock()
	g.setShut(false)
}

func (g *gate) add(c net.Conn) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed {
		_ = c.Close()
		return
	}
	g.conns[c] = struct{}{}
}

func (g *gate) remove(c net.Conn) {
	g.mu.Lock()
	defer g.mu.Unlock()
	delete(g.conns, c)
}

// gatedListener puts what it accepts behind the gate. It says that its address is addr: that of the relay in
// front of it, if there is one, because servers tell their clients to come there.
type gatedListener struct {
	net.Listener
	gate *gate
	addr net.Addr
}

// Addr returns the address that clients are told.
func (l *gatedListener) Addr() net.Addr { return l.addr }

// Accept returns the next connection, behind the gate.
func (l *gatedListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	l.gate.add(c)
	return &gatedConn{Conn: c, gate: l.gate}, nil
}

type gatedConn struct {
	net.Conn
	gate *gate
}

// Read reads, and keeps what it has read until the gate is open.
func (c *gatedConn) Read(p []byte) (int, error) {
	<-c.gate.passage()
	n, err := c.Conn.Read(p)
	<-c.gate.passage() // shut while it waited for data
	return n, err
}

// Write writes when the gate is open.
func (c *gatedConn) Write(p []byte) (int, error) {
	<-c.gate.passage()
	return c.Conn.Write(p)
}

// Close closes the connection.
func (c *gatedConn) Close() error {
	c.gate.remove(c.Conn)
	return c.Conn.Close()
}

func tcpAddr(address string) net.Addr {
	a, err := net.ResolveTCPAddr("tcp", address)
	if err != nil {
		panic(err) // only called with addresses that loopback made
	}
	return a
}
