package zkserver

import (
	"bufio"
	"crypto/tls"
	"errors"
	"net"
	"time"

	"go.uber.org/zap"

	"github.com/turnout-mq/turnout/testenv/zkserver/jute"
)

// maxQueued bounds the bytes that wait for a client which does not read.
const maxQueued = 64 << 20

// conn is one connection. Two goroutines serve it: one reads requests and
// handles them, one writes what is queued. Queueing happens under Server.mu, so
// the order of the queue is the order of what happened.
type conn struct {
	srv         *Server
	nc          net.Conn
	raw         net.Conn      // nc without its TLS, which says goodbye and may wait for that
	dead        chan struct{} // closed by cut
	wake        chan struct{} // tells the writer that the queue or ending changed
	established time.Time

	// Guarded by Server.mu.
	session  *session
	who      []jute.ID
	queue    []outFrame
	queued   int  // bytes in queue
	ending   bool // close once the queue is written
	received int64
	sent     int64
	lastOp   jute.Op
	lastXid  int32
	lastZxid int64
	lastSent time.Time
}

type outFrame struct {
	b   []byte
	due time.Time // not to be sent before
}

func (s *Server) accept(ln net.Listener) {
	for {
		nc, err := ln.Accept()
		if err != nil {
			if !errors.Is(err, net.ErrClosed) { // else it was Stop
				s.log.Error("the server no longer listens", zap.Stringer("address", ln.Addr()), zap.Error(err))
			}
			return
		}
		host, _, _ := net.SplitHostPort(nc.RemoteAddr().String())
		c := &conn{
			srv: s, nc: nc, raw: nc, established: time.Now(), who: []jute.ID{{Scheme: "ip", ID: host}},
			dead: make(chan struct{}), wake: make(chan struct{}, 1),
		}
		if s.opt.TLS != nil {
			c.nc = tls.Server(nc, s.opt.TLS)
		}
		s.mu.Lock()
		if s.stopped == nil || s.faults.refuse {
			s.mu.Unlock()
			_ = nc.Close()
			continue
		}
		s.conns[c] = struct{}{}
		s.wg.Go(c.read)
		s.wg.Go(c.write)
		s.mu.Unlock()
	}
}

// enter takes Server.mu to handle a frame, after a freeze if there is one. It
// reports false, without the lock, if the connection was cut.
func (c *conn) enter() bool {
	for {
		c.srv.mu.Lock()
		frozen := c.srv.faults.frozen
		select {
		case <-c.dead:
			c.srv.mu.Unlock()
			return false
		default:
		}
		if frozen == nil {
			return true
		}
		c.srv.mu.Unlock()
		select {
		case <-frozen:
		case <-c.dead:
			return false
		}
	}
}

func (c *conn) read() {
	defer c.leave()
	r := bufio.NewReader(c.nc)
	head, err := r.Peek(4)
	if err != nil {
		return
	}
	if word := words[string(head)]; word != nil {
		if c.enter() {
			c.send([]byte(word(c.srv)))
			c.srv.mu.Unlock()
		}
		return
	}
	for handle := c.srv.connect; ; handle = c.srv.handle {
		frame, err := jute.ReadFrame(r, jute.MaxBuffer)
		if err != nil || !c.enter() {
			return
		}
		c.received++
		c.srv.received++
		more := handle(c, frame)
		c.srv.mu.Unlock()
		if !more {
			return
		}
	}
}

// leave ends the part of a connection that reads. The writer sends what is
// queued, such as the answer to a close, and closes the socket.
func (c *conn) leave() {
	s := c.srv
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.conns, c)
	s.watches.removeConn(c)
	if c.session != nil && c.session.conn == c {
		c.session.conn = nil
	}
	c.ending = true
	c.signal()
}

func (c *conn) signal() {
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// cut breaks the connection now; what is queued is lost. Needs Server.mu.
func (c *conn) cut() {
	select {
	case <-c.dead:
	default:
		close(c.dead)
		_ = c.raw.Close()
	}
}

// send queues bytes for the client. Needs Server.mu.
func (c *conn) send(b []byte) {
	if c.ending {
		return
	}
	if c.queued += len(b); c.queued > maxQueued {
		c.srv.log.Warn("connection cut: the client does not read")
		c.cut()
		return
	}
	f := outFrame{b: b}
	if d := c.srv.faults.delay; d > 0 {
		f.due = time.Now().Add(d)
	}
	c.queue = append(c.queue, f)
	c.sent++
	c.srv.sent++
	c.lastSent = time.Now()
	c.signal()
}

// notify queues an event. Needs Server.mu.
func (c *conn) notify(typ jute.EventType, path string, zxid int64) {
	var e jute.Encoder
	e.ReplyHeader(jute.ReplyHeader{Xid: jute.XidNotification, Zxid: zxid})
	e.Event(jute.Event{Type: typ, State: jute.StateSyncConnected, Path: path})
	c.send(jute.Frame(e.Bytes()))
}

func (c *conn) write() {
	defer func() { _ = c.nc.Close() }()
	w := bufio.NewWriter(c.nc)
	for {
		select {
		case <-c.wake:
		case <-c.dead:
			return
		}
		for {
			if !c.enter() {
				return
			}
			batch, ending := c.queue, c.ending
			c.queue, c.queued = nil, 0
			c.srv.mu.Unlock()
			for _, f := range batch {
				if !c.pause(w, f.due) {
					return
				}
				_, _ = w.Write(f.b) // an error stays and shows in Flush
			}
			if w.Flush() != nil {
				return
			}
			if len(batch) == 0 {
				if ending {
					return
				}
				break
			}
		}
	}
}

// pause waits until a delayed frame is due, having sent those before it. It
// reports false if the connection was cut meanwhile.
func (c *conn) pause(w *bufio.Writer, due time.Time) bool {
	wait := time.Until(due)
	if due.IsZero() || wait <= 0 {
		return true
	}
	if w.Flush() != nil {
		return false
	}
	t := time.NewTimer(wait)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-c.dead:
		return false
	}
}
