package metadata

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/turnout-mq/turnout/internal/errs"
)

// ParseConnect splits "host:port,host:port/chroot". The port may be left out (2181); the chroot is "" or "/…".
func ParseConnect(s string) (hosts []string, chroot string, err error) {
	list := s
	if i := strings.IndexByte(s, '/'); i >= 0 {
		list, chroot = s[:i], strings.TrimSuffix(s[i:], "/")
	}
	var p problems
	for _, host := range strings.Split(list, ",") {
		host = strings.TrimSpace(host)
		if host != "" && !strings.Contains(host, ":") {
			host += ":2181"
		}
		p.address("ZooKeeper", host)
		hosts = append(hosts, host)
	}
	if chroot != "" {
		p.path("ZooKeeper chroot", chroot)
	}
	return hosts, chroot, p.join()
}

// path notes anything but "/a/b".
func (p *problems) path(field, path string) {
	rest, ok := strings.CutPrefix(path, "/")
	for part := range strings.SplitSeq(rest, "/") {
		if part == "" || part == "." || part == ".." || strings.ContainsFunc(part, func(r rune) bool { return r < 0x20 || r == 0x7f }) {
			ok = false
		}
	}
	if !ok {
		p.add(field, path, "must be like /a/b")
	}
}

// hosts hands server names, unresolved, to the library, which would resolve them once and fail altogether for one bad
// name. They are resolved at each attempt to connect.
type hosts struct {
	closed func() bool

	mu      sync.Mutex
	servers []string
	next    int
	tries   int // since the last connection with a session
}

func (h *hosts) Init(servers []string) error { h.servers = servers; return nil }

func (h *hosts) Len() int { return len(h.servers) }

// Next gives the servers by turns. The library pauses for a second where pass is true, and only there it notices
// that it was closed. The first two passes go without: the second one begins a new session where the first found the old
// one expired.
func (h *hosts) Next() (server string, pass bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	n := len(h.servers)
	pass = h.closed() || h.tries >= 2*n && h.tries%n == 0
	server = h.servers[h.next%n]
	h.next++
	h.tries++
	return server, pass
}

func (h *hosts) Connected() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.tries = 0
}

// dialer opens connections for the library, with jitter, and bounds what the library does not.
type dialer struct {
	dial    func(ctx context.Context, network, address string) (net.Conn, error)
	ctx     context.Context // of the Store
	timeout time.Duration   // to connect, and again until there is a session
	session time.Duration   // session timeout
	log     *zap.Logger
	started chan struct{} // closed when the Store can take events

	mu      sync.Mutex
	dials   int       // since the last connection that lasted
	since   time.Time // when the current connection was made
	current *sessionConn
	failed  bool      // an attempt has failed since the last session
	lost    time.Time // when there was a session last
	refused int       // connections since then that were made and got none
}

const (
	firstPause = 10 * time.Millisecond
	lastPause  = time.Second
	// A connection that lived for so long was a good one, and the next attempt need not be slow.
	lasting = time.Second
	// So many connections without a session, and for longer than a session lasts: the servers do not want ours.
	unwanted = 3
)

func (d *dialer) Dial(network, address string, _ time.Duration) (net.Conn, error) {
	select {
	case <-d.started:
	case <-d.ctx.Done():
		return nil, errs.ErrClosed
	}
	if err := d.pause(); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(d.ctx, d.timeout)
	defer cancel()
	nc, err := d.dial(ctx, network, address)
	if err != nil {
		d.fail(address, err)
		return nil, err
	}
	// The library would wait for ten times the session timeout for a server that accepts and says nothing.
	if err := nc.SetDeadline(time.Now().Add(d.timeout)); err != nil {
		return nil, errors.Join(err, nc.Close())
	}
	c := &sessionConn{Conn: nc}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.current, d.since = c, time.Now()
	if d.refused >= unwanted && !d.lost.IsZero() && time.Since(d.lost) > d.session {
		d.log.Warn("ZooKeeper does not take our session, beginning a new one", zap.String("server", address))
		d.refused = 0
		c.anew = true
	}
	return c, nil
}

// pause waits for a random part of a time that doubles while connections fail or do not last, so that many clients do
// not come back at the same moment.
func (d *dialer) pause() error {
	d.mu.Lock()
	if d.current != nil {
		if d.current.ready.Load() {
			d.lost, d.refused = time.Now(), 0
		} else {
			d.refused++
		}
		if time.Since(d.since) > lasting {
			d.dials = 0
		}
	}
	d.current = nil
	bound := min(lastPause, firstPause<<min(d.dials, 10))
	d.dials++
	d.mu.Unlock()
	timer := time.NewTimer(rand.N(bound)) //nolint:gosec // jitter
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-d.ctx.Done():
		return errs.ErrClosed
	}
}

// fail logs the first failure of an outage.
func (d *dialer) fail(address string, err error) {
	d.mu.Lock()
	first := !d.failed && d.ctx.Err() == nil
	d.failed = true
	d.mu.Unlock()
	if first {
		d.log.Warn("can not connect to ZooKeeper, going on to try", zap.String("server", address), zap.Error(err))
	}
}

// ready is called when the current connection has a session: from now on the library's own deadlines hold.
func (d *dialer) ready() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.failed = false
	if d.current != nil {
		d.current.ready.Store(true)
		_ = d.current.Conn.SetDeadline(time.Time{}) // fails on a closed connection only, which the next read tells
	}
}

// cut closes the current connection.
func (d *dialer) cut() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.current != nil {
		_ = d.current.Close()
	}
}

// sessionConn ignores the library's deadlines until there is a session, and makes the server end the old one if anew is set.
type sessionConn struct {
	net.Conn
	ready atomic.Bool
	anew  bool
}

// The library's connect request: length 4, version 4, last zxid 8, timeout 4, session 8, length of the password 4, password 16.
const (
	connectRequest  = 48
	connectZxid     = 8
	connectPassword = 32
)

// Write takes last zxid and password out of the first request if anew is set. A server that has seen less than its client
// closes the connection, so after a ZooKeeper was set up anew or restored a running client would be refused for ever: the
// library forgets its last zxid only when a session expires. Without a zxid the server answers, and without
// the password its answer is that the session has expired.
func (c *sessionConn) Write(b []byte) (int, error) {
	if c.anew && len(b) == connectRequest {
		b = append([]byte(nil), b...)
		clear(b[connectZxid : connectZxid+8])
		clear(b[connectPassword:])
	}
	c.anew = false
	return c.Conn.Write(b)
}

func (c *sessionConn) SetReadDeadline(t time.Time) error {
	if !c.ready.Load() {
		return nil
	}
	return c.Conn.SetReadDeadline(t)
}

func (c *sessionConn) SetWriteDeadline(t time.Time) error {
	if !c.ready.Load() {
		return nil
	}
	return c.Conn.SetWriteDeadline(t)
}

// zkLogger takes what the library prints. It repeats itself; what matters is logged where it is understood.
type zkLogger struct{ log *zap.Logger }

func (l zkLogger) Printf(format string, args ...any) {
	l.log.Debug(fmt.Sprintf(format, args...))
}
