package cli

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/go-zookeeper/zk"

	"github.com/turnout-mq/turnout/internal/secure"
	"github.com/turnout-mq/turnout/metadata"
)

const sessionTimeout = 10 * time.Second

// zkConn is one connection and session of ZooKeeper for looking at any node. When the connection is lost it is of no
// more use: the library's own reconnecting can lose watches silently. No event gets lost. Paths are below the chroot of the connect string.
type zkConn struct {
	conn   *zk.Conn
	chroot string
	tls    *metadata.TLS // or nil
	dialed atomic.Bool

	mu      sync.Mutex
	events  []zk.Event
	lost    bool
	brief   bool          // whoever waits for an answer fails when the connection is lost
	trouble string        // the last thing the library complained of
	refused string        // the last thing that was wrong with TLS
	ready   chan struct{} // has a token when events is not empty
	closing sync.Once
	closed  chan struct{}
}

// splitConnectString reads "host:port,host:port[/chroot]".
func splitConnectString(flag, s string) (hosts []string, chroot string, err error) {
	if s == "" {
		return nil, "", usagef("which ZooKeeper? Give --zookeeper host:port, or set TURNOUT_ZOOKEEPER")
	}
	if hosts, chroot, err = metadata.ParseConnect(s); err != nil {
		return nil, "", usagef("%s: %v", flag, err)
	}
	return hosts, chroot, nil
}

// dialZooKeeper connects and logs in as the settings say. ErrTimeout: it took longer than they allow.
func (a *app) dialZooKeeper(ctx context.Context) (*zkConn, error) {
	scheme, reference := a.settings.login()
	return a.dialTree(ctx, "--zookeeper", a.settings.zookeeper, scheme, reference, a.settings.tls())
}

// dialTree is dialZooKeeper for the ZooKeeper that a flag names.
func (a *app) dialTree(ctx context.Context, flag, servers, scheme, reference string, tls *metadata.TLS) (*zkConn, error) {
	hosts, chroot, err := splitConnectString(flag, servers)
	if err != nil {
		return nil, err
	}
	c := &zkConn{chroot: chroot, tls: tls, ready: make(chan struct{}, 1), closed: make(chan struct{})}
	ctx, cancel := context.WithTimeout(ctx, a.settings.timeout)
	defer cancel()
	dial := func(network, address string, timeout time.Duration) (net.Conn, error) {
		return c.dial(ctx, network, address, timeout)
	}
	c.conn, _, err = zk.Connect(hosts, sessionTimeout, zk.WithHostProvider(&hostList{}), zk.WithDialer(dial),
		zk.WithEventCallback(c.push), zk.WithLogger(c), zk.WithLogInfo(false))
	if err != nil {
		return nil, fmt.Errorf("ZooKeeper %s: %w; check %s", servers, err, flag)
	}
	stop := context.AfterFunc(ctx, c.interrupt)
	defer stop()
	err = c.awaitSession(ctx)
	if err == nil && scheme != "" {
		err = c.login(scheme, reference)
	}
	if err == nil {
		return c, nil
	}
	c.close()
	if ctx.Err() != nil {
		err = ctx.Err()
	}
	if trouble := c.lastTrouble(); trouble != "" {
		err = markedError{errors.New(trouble), err}
	}
	return nil, fmt.Errorf("ZooKeeper %s: no session: %w; check that it runs, %s and --timeout", servers, err, flag)
}

func (c *zkConn) login(scheme, reference string) error {
	secret, err := metadata.ResolveSecret(reference)
	if err != nil {
		return err
	}
	for line := range strings.Lines(secret) { // several identities: metadata.Config
		if line = strings.TrimRight(line, "\r\n"); line != "" {
			err = errors.Join(err, c.conn.AddAuth(scheme, []byte(line)))
		}
	}
	return err
}

func (c *zkConn) awaitSession(ctx context.Context) error {
	for {
		for _, e := range c.take() {
			if e.State == zk.StateHasSession {
				return nil
			}
			if e.State == zk.StateDisconnected {
				return zk.ErrConnectionClosed
			}
		}
		select {
		case <-c.ready:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// dial connects once and never again.
func (c *zkConn) dial(ctx context.Context, network, address string, timeout time.Duration) (net.Conn, error) {
	if c.dialed.Load() {
		return nil, net.ErrClosed
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	nc, err := new(net.Dialer).DialContext(ctx, network, address)
	if err == nil && c.tls != nil {
		if nc, err = c.secure(ctx, nc, address); err != nil && ctx.Err() == nil {
			c.refuse(err)
		}
	}
	if err == nil {
		c.dialed.Store(true)
	}
	return nc, err
}

func (c *zkConn) secure(ctx context.Context, nc net.Conn, address string) (net.Conn, error) {
	config, err := c.tls.Config()
	if err != nil {
		return nil, errors.Join(err, nc.Close())
	}
	return secure.Client(ctx, nc, address, config)
}

// refuse notes why a server can not be used; attempts that end with the time-out say less.
func (c *zkConn) refuse(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.refused = err.Error()
}

// hostList is a list of host:port that are resolved when they are dialled, so that one bad name does not spoil the rest.
type hostList struct {
	list  []string
	next  int
	tried int // since the last Connected
}

// Init takes the list.
func (h *hostList) Init(servers []string) error { h.list = servers; return nil }

// Len is how many there are.
func (h *hostList) Len() int { return len(h.list) }

// Next is called for each dial; retryStart makes the library wait a second.
func (h *hostList) Next() (server string, retryStart bool) {
	server = h.list[h.next]
	h.next = (h.next + 1) % len(h.list)
	h.tried++
	return server, h.tried > len(h.list)
}

// Connected is called when a session was had.
func (h *hostList) Connected() { h.tried = 0 }

// push is the event callback; it runs in the library's receive loop.
func (c *zkConn) push(e zk.Event) {
	c.mu.Lock()
	c.events = append(c.events, e)
	c.lost = c.lost || e.State == zk.StateDisconnected && e.Type == zk.EventSession
	end := c.lost && c.brief
	c.mu.Unlock()
	if end {
		c.interrupt()
	}
	select {
	case c.ready <- struct{}{}:
	default:
	}
}

// take returns the events that came since the last take, oldest first.
func (c *zkConn) take() []zk.Event {
	c.mu.Lock()
	defer c.mu.Unlock()
	events := c.events
	c.events = nil
	return events
}

// Printf makes a zkConn the library's logger. What it says after the connection was lost is of no interest.
func (c *zkConn) Printf(format string, args ...any) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.lost {
		c.trouble = fmt.Sprintf(format, args...)
	}
}

func (c *zkConn) lastTrouble() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.refused != "" {
		return c.refused
	}
	return c.trouble
}

// interrupt begins to close: requests fail from now on.
func (c *zkConn) interrupt() {
	c.closing.Do(func() {
		go func() {
			defer close(c.closed)
			c.conn.Close()
		}()
	})
}

// once makes the end of the connection the end of everything that waits for an answer.
func (c *zkConn) once() {
	c.mu.Lock()
	c.brief = true
	end := c.lost
	c.mu.Unlock()
	if end {
		c.interrupt()
	}
}

// close ends the session, within about a second.
func (c *zkConn) close() {
	c.interrupt()
	<-c.closed
}

// server turns a path of ours into the server's, client the other way round.
func (c *zkConn) server(path string) string {
	switch {
	case c.chroot == "":
		return path
	case path == "/":
		return c.chroot
	}
	return c.chroot + path
}

func (c *zkConn) client(path string) string {
	if path = strings.TrimPrefix(path, c.chroot); path == "" {
		return "/"
	}
	return path
}
