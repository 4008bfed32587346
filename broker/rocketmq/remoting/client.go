package remoting

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"slices"
	"sync"
	"time"
)

// ErrClientClosed: Close was called.
var ErrClientClosed = errors.New("remoting client is closed")

// A ResponseError is an answer other than success.
type ResponseError struct {
	Request int    // code of the request
	Code    int    // code of the answer
	Addr    string // who answered
	Remark  string // its explanation
}

func (e *ResponseError) Error() string {
	return fmt.Sprintf("%s: request %d: code %d: %s", e.Addr, e.Request, e.Code, e.Remark)
}

// HasCode says whether err is, or wraps, a ResponseError with one of codes.
func HasCode(err error, codes ...int) bool {
	var re *ResponseError
	return errors.As(err, &re) && slices.Contains(codes, re.Code)
}

// Options of a Client. The zero value works.
type Options struct {
	TLS         *tls.Config   // nil: plain TCP
	DialTimeout time.Duration // default 3 s
	// Login gives what requests are signed with (RocketMQ's ACL). It is asked whenever a connection is made, and where a
	// server refuses a request: what it gives may have been changed there. Nil: requests are not signed.
	Login func() (accessKey, secretKey string, err error)
	// Handler takes requests of brokers. Nil: they are ignored.
	Handler Handler
	// Disconnected is told of every connection that ended, but for those that Close ends. It must not block.
	Disconnected func(addr string, err error)
}

// Backoff between attempts to connect to one address: it doubles from the one to the other.
const (
	minDialBackoff = 50 * time.Millisecond
	maxDialBackoff = time.Second
)

// Client keeps one connection per address and makes calls over them. A lost connection fails its pending calls at once
// and is made anew by the next call. All methods may be called concurrently.
type Client struct {
	opts   Options
	ctx    context.Context // ends with Close
	cancel context.CancelFunc
	wg     sync.WaitGroup

	mu    sync.Mutex
	peers map[string]*peer
}

// peer is what is known of one address.
type peer struct {
	conn     *conn    // nil: not connected
	dial     *attempt // nil: nobody is connecting
	failures int      // attempts that failed in a row
	last     time.Time
}

type attempt struct {
	done chan struct{} // closed when conn or err is set
	conn *conn
	err  error
}

// NewClient makes a client. It connects when it is asked to call.
func NewClient(o Options) *Client {
	if o.DialTimeout == 0 {
		o.DialTimeout = 3 * time.Second
	}
	ctx, cancel := context.WithCancel(context.Background())
	return &Client{opts: o, ctx: ctx, cancel: cancel, peers: map[string]*peer{}}
}

// Close ends all connections and waits for their goroutines. Pending calls fail; it is idempotent.
func (c *Client) Close() {
	c.cancel()
	c.mu.Lock()
	for _, p := range c.peers {
		if p.conn != nil {
			p.conn.fail(ErrClientClosed)
		}
	}
	c.mu.Unlock()
	c.wg.Wait()
}

// Connect makes sure that there is a connection to addr.
func (c *Client) Connect(ctx context.Context, addr string) error {
	_, err := c.get(ctx, addr)
	return err
}

// DisconnectSilent ends the connection to addr if nothing has come over it since then: for a peer that accepts connections
// and answers nothing.
func (c *Client) DisconnectSilent(addr string, since time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if p := c.peers[addr]; p != nil && p.conn != nil && p.conn.silent(since) {
		p.conn.fail(errSilent)
	}
}

var errSilent = errors.New("the other side says nothing")

// Call sends req to addr and waits for the answer, which is an error (ResponseError) when its code is not one of ok, or
// not Success when ok is empty. It returns when ctx ends, and at once when the connection is lost (ErrDisconnected).
// Attempts to connect are spaced; a call that finds none under way waits for the next.
func (c *Client) Call(ctx context.Context, addr string, req *Command, ok ...int) (*Command, error) {
	conn, err := c.get(ctx, addr)
	if err != nil {
		return nil, err
	}
	signer := conn.signer.Load()
	answer, err := conn.call(ctx, signer.sign(req))
	if err == nil && answer.Code == NoPermission && c.renew(conn, signer) {
		answer, err = conn.call(ctx, conn.signer.Load().sign(req))
	}
	if err != nil {
		return nil, fmt.Errorf("request %d: %w", req.Code, err)
	}
	if answer.Code == Success || slices.Contains(ok, answer.Code) {
		return answer, nil
	}
	return nil, &ResponseError{Request: req.Code, Code: answer.Code, Addr: addr, Remark: answer.Remark}
}

func (c *Client) get(ctx context.Context, addr string) (*conn, error) {
	c.mu.Lock()
	if c.ctx.Err() != nil {
		c.mu.Unlock()
		return nil, ErrClientClosed
	}
	p := c.peers[addr]
	if p == nil {
		p = &peer{}
		c.peers[addr] = p
	}
	if p.conn != nil && p.conn.alive() {
		defer c.mu.Unlock()
		return p.conn, nil
	}
	if p.dial == nil {
		p.dial = &attempt{done: make(chan struct{})}
		var wait time.Duration
		if p.failures > 0 {
			wait = min(minDialBackoff<<min(p.failures-1, 10), maxDialBackoff) - time.Since(p.last)
		}
		a := p.dial
		c.wg.Go(func() { c.connect(p, a, addr, wait) })
	}
	a := p.dial
	c.mu.Unlock()
	select {
	case <-a.done:
		return a.conn, a.err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// connect makes one attempt after wait and then serves the connection until it ends.
func (c *Client) connect(p *peer, a *attempt, addr string, wait time.Duration) {
	if wait > 0 {
		t := time.NewTimer(wait)
		select {
		case <-t.C:
		case <-c.ctx.Done():
			t.Stop()
		}
	}
	signer, err := c.signer()
	var nc net.Conn
	if err == nil {
		nc, err = c.dial(addr)
	}
	c.mu.Lock()
	p.dial, p.last = nil, time.Now()
	if c.ctx.Err() != nil {
		if nc != nil {
			_ = nc.Close()
		}
		nc, err = nil, ErrClientClosed
	}
	if err != nil {
		p.failures++
		a.err = err
		close(a.done)
		c.mu.Unlock()
		return
	}
	a.conn = newConn(addr, nc, c.opts.Handler)
	a.conn.signer.Store(signer)
	p.conn = a.conn
	close(a.done)
	c.mu.Unlock()

	err = a.conn.run()
	c.mu.Lock()
	if p.conn == a.conn {
		p.conn = nil
	}
	if now := time.Now(); now.Sub(p.last) > maxDialBackoff {
		p.failures = 0
	} else { // who accepts and hangs up at once is not reached either
		p.failures++
		p.last = now
	}
	c.mu.Unlock()
	if c.opts.Disconnected != nil && !errors.Is(err, ErrClientClosed) {
		c.opts.Disconnected(addr, err)
	}
}

func (c *Client) dial(addr string) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(c.ctx, c.opts.DialTimeout)
	defer cancel()
	if c.opts.TLS != nil {
		return (&tls.Dialer{Config: c.opts.TLS}).DialContext(ctx, "tcp", addr)
	}
	return (&net.Dialer{}).DialContext(ctx, "tcp", addr)
}
