package rmqserver

import (
	"bufio"
	"errors"
	"net"
	"net/netip"
	"time"

	"go.uber.org/zap"

	"github.com/turnout-mq/turnout/broker/rocketmq/remoting"
)

// maxQueued bounds the bytes that wait for a client which does not read.
const maxQueued = 64 << 20

// conn is one connection. One goroutine reads requests and carries them out,
// one writes what is queued. Queueing happens under server.mu, so the order of
// the queue is the order of what happened.
type conn struct {
	srv    *server
	nc     net.Conn
	remote netip.AddrPort
	dead   chan struct{} // closed by cut
	wake   chan struct{} // tells the writer that the queue has grown

	// Guarded by server.mu.
	queue  []*remoting.Command
	queued int // bytes of bodies in queue
}

func (s *server) accept(l net.Listener) {
	for {
		nc, err := l.Accept()
		if err != nil {
			if !errors.Is(err, net.ErrClosed) { // else it was Stop
				s.log.Error("the server no longer listens", zap.Error(err))
			}
			return
		}
		from := nc.RemoteAddr().(*net.TCPAddr).AddrPort()
		c := &conn{srv: s, nc: nc, remote: netip.AddrPortFrom(from.Addr().Unmap(), from.Port()), dead: make(chan struct{}), wake: make(chan struct{}, 1)}
		s.mu.Lock()
		if s.stopped == nil {
			s.mu.Unlock()
			_ = nc.Close()
			return
		}
		s.conns[c] = struct{}{}
		s.wg.Go(c.read)
		s.wg.Go(c.write)
		s.mu.Unlock()
	}
}

// enter takes server.mu to carry something out for c, after a freeze if there
// is one. It reports false, without the lock, if the connection has been cut.
func (c *conn) enter() bool {
	for {
		c.srv.mu.Lock()
		frozen := c.srv.frozen
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
	r := bufio.NewReaderSize(c.nc, 64<<10)
	for c.nc.SetReadDeadline(time.Now().Add(idleTimeout)) == nil {
		request, err := remoting.ReadCommand(r)
		if err != nil {
			if errors.Is(err, remoting.ErrFrame) {
				c.srv.log.Warn("connection cut: the client speaks another protocol", zap.Error(err))
			}
			return
		}
		if request.IsResponse() { // nothing that a server here asks is answered
			continue
		}
		if !c.receive(request) {
			return
		}
	}
}

// receive carries a request out, or lets a fault have it. It reports whether
// the connection is still good.
func (c *conn) receive(r *remoting.Command) bool {
	if !c.enter() {
		return false
	}
	defer c.srv.mu.Unlock()
	c.srv.counts[r.Code]++
	f := c.srv.fault(r)
	if f == nil || f.Delay == 0 {
		return c.carryOut(r, f)
	}
	stopped := c.srv.stopped
	c.srv.wg.Go(func() {
		t := time.NewTimer(f.Delay)
		defer t.Stop()
		select {
		case <-t.C:
		case <-c.dead:
			return
		case <-stopped:
			return
		}
		if c.enter() {
			c.carryOut(r, f)
			c.srv.mu.Unlock()
		}
	})
	return true
}

// carryOut needs server.mu.
func (c *conn) carryOut(r *remoting.Command, f *Fault) bool {
	if f == nil {
		c.answer(r, c.srv.handle(c, r))
		return true
	}
	switch {
	case f.Refuse != 0:
		c.answer(r, r.Answer(f.Refuse, "refused by a fault of the test", nil))
	case f.DropAnswer:
		r.OneWay()
		c.srv.handle(c, r)
	case !f.Cut:
		c.answer(r, c.srv.handle(c, r))
	}
	if f.Cut {
		c.cut()
	}
	return !f.Cut
}

// answer queues the answer to r, unless there is none or none is wanted. Needs
// server.mu.
func (c *conn) answer(r, a *remoting.Command) {
	if a != nil && !r.IsOneWay() {
		c.send(a)
	}
}

// send queues a frame for the client. Needs server.mu.
func (c *conn) send(a *remoting.Command) {
	a.Version, a.Codec = remoting.V5_5_0, remoting.JSON // whatever the request came in, as a real server does
	if c.queued += len(a.Body); c.queued > maxQueued {
		c.srv.log.Warn("connection cut: the client does not read", zap.Stringer("client", c.remote))
		c.cut()
		return
	}
	c.queue = append(c.queue, a)
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// leave ends the connection when nothing more can be read.
func (c *conn) leave() {
	s := c.srv
	s.mu.Lock()
	defer s.mu.Unlock()
	c.cut()
	delete(s.conns, c)
	s.left(c)
}

// cut breaks the connection now; what is queued is lost. Needs server.mu.
func (c *conn) cut() {
	select {
	case <-c.dead:
	default:
		close(c.dead)
		_ = c.nc.Close()
	}
}

func (c *conn) write() {
	w := bufio.NewWriterSize(c.nc, 64<<10)
	var frame []byte
	for {
		select {
		case <-c.wake:
		case <-c.dead:
			return
		}
		if !c.enter() {
			return
		}
		batch := c.queue
		c.queue, c.queued = nil, 0
		c.srv.mu.Unlock()
		for _, a := range batch {
			var err error
			if frame, err = a.Append(frame[:0]); err != nil {
				c.srv.log.Error("an answer can not be encoded", zap.Int("code", a.Code), zap.Error(err))
				_ = c.nc.Close()
				return
			}
			_, _ = w.Write(frame) // an error stays and shows in Flush
		}
		if w.Flush() != nil {
			return
		}
	}
}
