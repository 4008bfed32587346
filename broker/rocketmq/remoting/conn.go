package remoting

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// ErrDisconnected: the connection was lost before the answer came. A request that was on its way may have been carried
// out.
var ErrDisconnected = errors.New("connection lost")

// writeTimeout bounds the writing of one batch of frames: a peer that takes nothing for so long is gone.
const writeTimeout = 10 * time.Second

// A Handler takes the requests that the other side sends. It runs in the connection's reading goroutine and must not
// block; what it returns is the answer, nil for none.
type Handler func(addr string, request *Command) *Command

// conn is one connection with any number of calls under way.
type conn struct {
	addr    string
	nc      net.Conn
	handler Handler
	out     chan []byte
	opaque  atomic.Int32
	signer  atomic.Pointer[signer]
	began   time.Time
	heard   atomic.Int64  // when a frame came last, in nanoseconds after began
	done    chan struct{} // closed when the connection is of no more use; err says why

	mu      sync.Mutex
	pending map[int32]chan *Command
	err     error
}

func newConn(addr string, nc net.Conn, h Handler) *conn {
	return &conn{addr: addr, nc: nc, handler: h, began: time.Now(), out: make(chan []byte, 64), done: make(chan struct{}),
		pending: map[int32]chan *Command{}}
}

// run reads and writes until the connection ends and returns why.
func (c *conn) run() error {
	var wg sync.WaitGroup
	wg.Go(c.writeLoop)
	c.fail(c.readLoop())
	wg.Wait()
	return c.err
}

// fail ends the connection: every pending call returns at once.
func (c *conn) fail(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		return
	}
	c.err = fmt.Errorf("%s: %w: %w", c.addr, ErrDisconnected, err)
	_ = c.nc.Close()
	close(c.done)
}

// silent says that the connection is older than since and nothing has come over it from then on.
func (c *conn) silent(since time.Time) bool {
	return c.began.Add(time.Duration(c.heard.Load())).Before(since)
}

func (c *conn) alive() bool {
	select {
	case <-c.done:
		return false
	default:
		return true
	}
}

func (c *conn) call(ctx context.Context, req *Command) (*Command, error) {
	request := *req
	request.Opaque = c.opaque.Add(1)
	frame, err := request.Append(nil)
	if err != nil {
		return nil, err
	}
	answer := make(chan *Command, 1)
	c.mu.Lock()
	if c.err != nil {
		c.mu.Unlock()
		return nil, c.err
	}
	c.pending[request.Opaque] = answer
	c.mu.Unlock()
	defer func() {
		c.mu.Lock()
		delete(c.pending, request.Opaque)
		c.mu.Unlock()
	}()
	select {
	case c.out <- frame:
	case <-c.done:
		return nil, c.err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	select {
	case a := <-answer:
		return a, nil
	case <-c.done:
		select {
		case a := <-answer: // it came just before the end
			return a, nil
		default:
			return nil, c.err
		}
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (c *conn) readLoop() error {
	r := bufio.NewReaderSize(c.nc, 64<<10)
	for {
		cmd, err := ReadCommand(r)
		if err != nil {
			return err
		}
		c.heard.Store(int64(time.Since(c.began)))
		if cmd.IsResponse() {
			c.mu.Lock()
			answer := c.pending[cmd.Opaque]
			delete(c.pending, cmd.Opaque) // a second answer of the same number must not block here
			c.mu.Unlock()
			if answer != nil {
				answer <- cmd
			}
			continue
		}
		if c.handler == nil {
			continue
		}
		if a := c.handler(c.addr, cmd); a != nil && !cmd.IsOneWay() {
			frame, err := a.Append(nil)
			if err != nil {
				return err
			}
			select {
			case c.out <- frame:
			case <-c.done:
				return c.err
			}
		}
	}
}

// writeLoop writes what is queued, several frames in one system call where several wait.
func (c *conn) writeLoop() {
	w := bufio.NewWriterSize(c.nc, 64<<10)
	for {
		var frame []byte
		select {
		case frame = <-c.out:
		case <-c.done:
			return
		}
		err := c.nc.SetWriteDeadline(time.Now().Add(writeTimeout))
		for err == nil && frame != nil {
			_, err = w.Write(frame)
			select {
			case frame = <-c.out:
			default:
				frame = nil
			}
		}
		if err == nil {
			err = w.Flush()
		}
		if err != nil {
			c.fail(err)
			return
		}
	}
}
