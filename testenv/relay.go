package testenv

import (
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// relay is a TCP relay in front of one server. It stands between the server and its clients, so that
// connections can be cut and slowed without the server or the client taking part.
type relay struct {
	listen, target string
	// answer is nil or sees the first bytes that the server sends on each connection, before the client does.
	answer func(first []byte)
	delay  atomic.Int64 // nanoseconds, in each direction
	gate   *gate        // nil, or what freezes the relay

	mu    sync.Mutex
	up    bool         // the server runs
	cut   bool         // by Cut
	shut  bool         // no new connections, for a moment while a session is ended
	ln    net.Listener // nil while not up, cut or shut
	stop  func()       // ends the dialling of ln's connections
	links map[*link]struct{}
	wg    sync.WaitGroup
}

// setUp says whether the server runs. While it does not, the relay refuses connections as its port would.
func (r *relay) setUp(up bool) error { return r.set(func() { r.up = up }) }

// setCut cuts all connections and refuses new ones, or ends that.
func (r *relay) setCut(cut bool) error { return r.set(func() { r.cut = cut }) }

// setShut refuses new connections and leaves those that there are, or ends that.
func (r *relay) setShut(shut bool) error { return r.set(func() { r.shut = shut }) }

func (r *relay) set(change func()) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	change()
	if r.up && !r.cut && !r.shut {
		if r.ln != nil {
			return nil
		}
		ln, err := listen(r.listen)
		if err != nil {
			return err
		}
		ctx, stop := context.WithCancel(context.Background())
		r.ln, r.stop = ln, stop
		r.wg.Go(func() { r.accept(ctx, ln) })
		return nil
	}
	var err error
	if r.ln != nil {
		err = r.ln.Close()
		r.stop()
		r.ln = nil
	}
	if !r.up || r.cut {
		for l := range r.links {
			l.reset()
		}
	}
	return err
}

// close ends the relay and waits for its goroutines.
func (r *relay) close() error {
	err := r.setUp(false)
	r.wg.Wait()
	return err
}

func (r *relay) accept(ctx context.Context, ln net.Listener) {
	for {
		client, err := ln.Accept()
		if err != nil {
			return // closed: nothing else ends the listening on a loopback port
		}
		r.wg.Go(func() { r.connect(ctx, client.(*net.TCPConn)) })
	}
}

func (r *relay) connect(ctx context.Context, client *net.TCPConn) {
	conn, err := (&net.Dialer{Timeout: 5 * time.Second}).DialContext(ctx, "tcp", r.target)
	if err != nil {
		_ = client.SetLinger(0)
		_ = client.Close()
		return
	}
	l := &link{relay: r, client: client, server: conn.(*net.TCPConn), ended: make(chan struct{})}
	r.mu.Lock()
	if ctx.Err() != nil { // cut while dialling
		r.mu.Unlock()
		l.reset()
		return
	}
	if r.links == nil {
		r.links = map[*link]struct{}{}
	}
	r.links[l] = struct{}{}
	r.mu.Unlock()

	l.run()

	r.mu.Lock()
	delete(r.links, l)
	r.mu.Unlock()
}

// link is one relayed connection.
type link struct {
	relay          *relay
	client, server *net.TCPConn
	once           sync.Once
	ended          chan struct{}
}

// run copies both ways until both directions have ended or the link is reset.
func (l *link) run() {
	var wg sync.WaitGroup
	wg.Go(func() { l.copy(l.server, l.client, nil) })
	wg.Go(func() { l.copy(l.client, l.server, l.relay.answer) })
	wg.Wait()
	l.end(false)
}

// reset ends the link as a cut line would be noticed at once: by a reset on both sides.
func (l *link) reset() { l.end(true) }

func (l *link) end(reset bool) {
	l.once.Do(func() {
		close(l.ended)
		for _, c := range []*net.TCPConn{l.client, l.server} {
			if reset {
				_ = c.SetLinger(0)
			}
			_ = c.Close()
		}
	})
}

// chunk is what one read returned and when it may be passed on.
type chunk struct {
	due  time.Time
	data []byte
}

// copy passes on from src to dst what was read, each chunk after the relay's delay. Reading goes on
// meanwhile, so a delay costs latency and not throughput. An end of src is passed on as a half close, a
// failure as a reset.
func (l *link) copy(dst, src *net.TCPConn, first func([]byte)) {
	queue := make(chan chunk, 64)
	var wg sync.WaitGroup
	wg.Go(func() {
		defer close(queue)
		for {
			buf := make([]byte, 32<<10)
			n, err := src.Read(buf)
			if n > 0 {
				if first != nil {
					first(buf[:n])
					first = nil
				}
				select {
				case queue <- chunk{time.Now().Add(time.Duration(l.relay.delay.Load())), buf[:n]}:
				case <-l.ended:
					return
				}
			}
			if errors.Is(err, io.EOF) {
				return
			}
			if err != nil {
				l.reset()
				return
			}
		}
	})
	for c := range queue {
		if !l.wait(c.due) {
			continue
		}
		if _, err := dst.Write(c.data); err != nil {
			l.reset()
		}
	}
	_ = dst.CloseWrite()
	wg.Wait()
}

// wait waits until due and until the gate is open, and reports false if the link has ended before.
func (l *link) wait(due time.Time) bool {
	if l.relay.gate != nil {
		select {
		case <-l.relay.gate.passage():
		case <-l.ended:
			return false
		}
	}
	d := time.Until(due)
	if d <= 0 {
		return true
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-l.ended:
		return false
	}
}
