package metadata

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/binary"
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
	"github.com/turnout-mq/turnout/internal/secure"
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
	tls     func() (*tls.Config, error) // nil: none
	ctx     context.Context             // of the Store
	timeout time.Duration               // to connect, and again until there is a session
	session time.Duration               // session timeout
	log     *zap.Logger
	started chan struct{} // closed when the Store can take events
	seen    atomic.Int64  // the last zxid of the session, 0: none

	mu      sync.Mutex
	dials   int       // since the last connection that lasted
	since   time.Time // when the current connection was made
	current *sessionConn
	failed  error     // of the last attempt since the last session
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
	nc, err := d.open(ctx, network, address)
	if err != nil {
		d.fail(address, err)
		return nil, err
	}
	// The library would wait for ten times the session timeout for a server that accepts and says nothing.
	if err := nc.SetDeadline(time.Now().Add(d.timeout)); err != nil {
		return nil, errors.Join(err, nc.Close())
	}
	c := &sessionConn{Conn: nc, seen: &d.seen, since: d.seen.Load(), failed: func(err error) { d.fail(address, secure.Explain(err)) }}
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

func (d *dialer) open(ctx context.Context, network, address string) (net.Conn, error) {
	nc, err := d.dial(ctx, network, address)
	if err != nil || d.tls == nil {
		return nc, err
	}
	config, err := d.tls()
	if err != nil {
		return nil, errors.Join(err, nc.Close())
	}
	return secure.Client(ctx, nc, address, config)
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

// fail keeps why an attempt failed, and logs the first failure of an outage.
func (d *dialer) fail(address string, err error) {
	if d.ctx.Err() != nil {
		return
	}
	d.mu.Lock()
	first := d.failed == nil
	d.failed = err
	d.mu.Unlock()
	if first {
		d.log.Warn("can not connect to ZooKeeper, going on to try", zap.String("server", address), zap.Error(err))
	}
}

// trouble is why there is no session, for the end of an error; "" when nothing is known.
func (d *dialer) trouble() string {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.failed == nil {
		return ""
	}
	return "; the last attempt: " + d.failed.Error()
}

// ready is called when the current connection has a session: from now on the library's own deadlines hold.
func (d *dialer) ready() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.failed = nil
	if d.current != nil {
		d.current.ready.Store(true)
		_ = d.current.Conn.SetDeadline(time.Time{}) // fails on a closed connection only, which the next read tells
	}
}

// expired is called when the session has expired: a new one may begin at a server that has seen nothing.
func (d *dialer) expired() { d.seen.Store(0) }

// cut closes the current connection.
func (d *dialer) cut() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.current != nil {
		_ = d.current.Close()
	}
}

// sessionConn ignores the library's deadlines until there is a session, makes the server end the old one if anew is set,
// and keeps the last zxid that was seen in place of the library. zk v1.0.4 writes its own where answers are read and reads
// it, without a lock, where it arms the watches of the connection before: an answer in that moment is a data race, and
// makes the server leave out the changes between. So the library is shown answers without a zxid, never has one, and what
// it would have sent is put into its requests here.
type sessionConn struct {
	net.Conn
	ready atomic.Bool
	anew  bool
	seen  *atomic.Int64 // the last zxid that an answer had, over all connections of a session
	since int64         // what it was when this connection was made

	failed func(error) // told why there is no session

	// Of the frame that is being read; only Read uses them.
	answers bool // false: the first frame, which is the answer to the connect request
	head    [frameHead]byte
	at      int // how much of it was read
	size    int // without its length field
}

// The library's requests: length 4, then
//   - to connect: version 4, last zxid 8, timeout 4, session 8, length of the password 4, password 16;
//   - to set watches: xid 4, operation 4, last zxid 8, …
//
// Frames from the server but the first: length 4, xid 4, zxid 8, error 4, …
const (
	connectRequest  = 48
	connectZxid     = 8
	connectPassword = 32
	requestOp       = 8
	opSetWatches    = 101
	setWatchesZxid  = 12
	frameLength     = 4
	frameZxid       = 8
	frameHead       = 16
)

// Write puts in the last zxid. With anew it takes that and the password out of the first request: a server that has seen
// less than its client closes the connection, so after a ZooKeeper was set up anew or restored a running client
// would be refused for ever. Without a zxid the server answers, and without the password its answer is that the session has
// expired. The library writes each request by one call.
func (c *sessionConn) Write(b []byte) (int, error) {
	switch {
	case c.ready.Load():
		if len(b) >= setWatchesZxid+8 && binary.BigEndian.Uint32(b[requestOp:]) == opSetWatches {
			b = bytes.Clone(b)
			binary.BigEndian.PutUint64(b[setWatchesZxid:], uint64(c.since)) //nolint:gosec // the same bits
		}
	case len(b) == connectRequest:
		b = bytes.Clone(b)
		if c.anew {
			c.since = 0
			clear(b[connectPassword:])
		}
		binary.BigEndian.PutUint64(b[connectZxid:], uint64(c.since)) //nolint:gosec // the same bits
	}
	return c.Conn.Write(b)
}

// Read takes the zxid out of answers and keeps it.
func (c *sessionConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if err != nil && !c.ready.Load() {
		c.failed(err)
	}
	for rest := b[:n]; len(rest) > 0; {
		if c.at >= frameHead {
			skip := min(len(rest), frameLength+c.size-c.at)
			rest = rest[skip:]
			c.at += skip
		} else {
			c.head[c.at] = rest[0]
			if c.answers && c.at >= frameZxid {
				rest[0] = 0
			}
			rest = rest[1:]
			c.at++
			c.headed()
		}
		if c.at >= frameLength && c.at >= frameLength+c.size {
			c.at, c.answers = 0, true
		}
	}
	return n, err
}

// headed looks at the part of the head that is complete with the last byte.
func (c *sessionConn) headed() {
	switch c.at {
	case frameLength:
		c.size = int(binary.BigEndian.Uint32(c.head[:]))
	case frameHead:
		xid := int32(binary.BigEndian.Uint32(c.head[frameLength:])) //nolint:gosec // the same bits
		zxid := int64(binary.BigEndian.Uint64(c.head[frameZxid:]))  //nolint:gosec // the same bits
		if c.answers && xid >= 0 && zxid > 0 {                      // else a watch event or the answer to a ping
			c.seen.Store(zxid)
		}
	}
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
