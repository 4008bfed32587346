// Package rawzk is a ZooKeeper client of one connection and one goroutine: it
// sends a request, reads until the answer, and keeps the events that came
// before. So a test sees frames in the very order in which the server sent
// them, can send requests that the ZooKeeper library lacks, and can take over a
// session whose id and password it knows.
package rawzk

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/turnout-mq/turnout/testenv/zkserver/jute"
)

// ErrSessionExpired says that the server does not have the session, or that
// the password is wrong.
var ErrSessionExpired = errors.New("rawzk: session expired")

// Options say how to connect. The zero value asks for a new session.
type Options struct {
	// Timeout is the session timeout to ask for, default 30 s. The client sends
	// no pings: a session lives that long after the last request.
	Timeout time.Duration
	// SessionID and Passwd resume a session; the server cuts the connection
	// that had it.
	SessionID int64
	Passwd    []byte
	// LastZxid is the highest zxid that the client pretends to have seen.
	LastZxid int64
	// Patience bounds each wait for the server, default 1 min.
	Patience time.Duration
}

// Event is a notification with the zxid of its header.
type Event struct {
	jute.Event
	Zxid int64
}

// Client is a connection with a session. It is not safe for concurrent use.
type Client struct {
	SessionID int64
	Passwd    []byte
	Timeout   time.Duration // as the server has granted it
	LastZxid  int64         // of the last answer

	nc       net.Conn
	r        *bufio.Reader
	patience time.Duration
	xid      int32
	events   []Event
}

// Dial connects to host:port. The ctx bounds the dialling, Options.Patience the
// handshake after it. The error is ErrSessionExpired if the session asked for
// is no more.
func Dial(ctx context.Context, addr string, opt Options) (*Client, error) {
	if opt.Timeout == 0 {
		opt.Timeout = 30 * time.Second
	}
	if opt.Patience == 0 {
		opt.Patience = time.Minute
	}
	d := net.Dialer{Timeout: opt.Patience}
	nc, err := d.DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("rawzk: %w", err)
	}
	c := &Client{nc: nc, r: bufio.NewReader(nc), patience: opt.Patience}
	if err := c.handshake(opt); err != nil {
		_ = nc.Close()
		return nil, err
	}
	return c, nil
}

func (c *Client) handshake(opt Options) error {
	passwd := opt.Passwd
	if passwd == nil {
		passwd = make([]byte, 16)
	}
	var e jute.Encoder
	e.ConnectRequest(jute.ConnectRequest{
		LastZxidSeen: opt.LastZxid, TimeoutMs: int32(opt.Timeout.Milliseconds()),
		SessionID: opt.SessionID, Passwd: passwd, HasReadOnly: true,
	})
	if err := c.write(e.Bytes()); err != nil {
		return err
	}
	d, err := c.read()
	if err != nil {
		return err
	}
	res := d.ConnectResponse()
	if d.Err() != nil {
		return fmt.Errorf("rawzk: connect response: %w", d.Err())
	}
	if res.SessionID == 0 {
		return ErrSessionExpired
	}
	c.SessionID, c.Passwd, c.Timeout = res.SessionID, res.Passwd, time.Duration(res.TimeoutMs)*time.Millisecond
	return nil
}

func (c *Client) write(body ...[]byte) error {
	_ = c.nc.SetWriteDeadline(time.Now().Add(c.patience))
	if _, err := c.nc.Write(jute.Frame(body...)); err != nil {
		return fmt.Errorf("rawzk: %w", err)
	}
	return nil
}

func (c *Client) read() (*jute.Decoder, error) {
	_ = c.nc.SetReadDeadline(time.Now().Add(c.patience))
	b, err := jute.ReadFrame(c.r, 64<<20)
	if err != nil {
		return nil, fmt.Errorf("rawzk: %w", err)
	}
	return jute.NewDecoder(b), nil
}

// next reads one frame: an event, which it keeps, or an answer.
func (c *Client) next() (h jute.ReplyHeader, d *jute.Decoder, err error) {
	if d, err = c.read(); err != nil {
		return h, nil, err
	}
	if h = d.ReplyHeader(); h.Xid == jute.XidNotification {
		c.events = append(c.events, Event{Event: d.Event(), Zxid: h.Zxid})
		if d.More() {
			return h, nil, errors.New("rawzk: an event holds more than type, state and path")
		}
	}
	return h, d, d.Err()
}

// Call sends a request and waits for its answer. The error is a jute.Code if
// the server refused, else the connection is lost. body may be nil.
func (c *Client) Call(op jute.Op, body *jute.Encoder) (*jute.Decoder, error) {
	c.xid++
	var head jute.Encoder
	head.Int32(c.xid).Int32(int32(op))
	if body == nil {
		body = &jute.Encoder{}
	}
	if err := c.write(head.Bytes(), body.Bytes()); err != nil {
		return nil, err
	}
	for {
		h, d, err := c.next()
		if err != nil {
			return nil, err
		}
		switch {
		case h.Xid == jute.XidNotification:
		case h.Xid != c.xid:
			return nil, fmt.Errorf("rawzk: answer %d to request %d", h.Xid, c.xid)
		case h.Err != jute.OK:
			c.LastZxid = h.Zxid
			return nil, h.Err
		default:
			c.LastZxid = h.Zxid
			return d, nil
		}
	}
}

// Events returns the events received since the last call of Events, in order.
func (c *Client) Events() []Event {
	out := c.events
	c.events = nil
	return out
}

// WaitEvent waits until there is an event to return from Events.
func (c *Client) WaitEvent() error {
	for len(c.events) == 0 {
		if h, _, err := c.next(); err != nil {
			return err
		} else if h.Xid != jute.XidNotification {
			return fmt.Errorf("rawzk: answer %d to no request", h.Xid)
		}
	}
	return nil
}

// WaitClosed waits until the server closes the connection, and returns an error
// if it does not.
func (c *Client) WaitClosed() error {
	for {
		if _, _, err := c.next(); err != nil {
			if ne, ok := errors.AsType[net.Error](err); ok && ne.Timeout() {
				return errors.New("rawzk: the server keeps the connection open")
			}
			return nil
		}
	}
}

// Abandon breaks the connection without ending the session.
func (c *Client) Abandon() { _ = c.nc.Close() }

// Close ends the session and the connection.
func (c *Client) Close() error {
	_, err := c.Call(jute.OpCloseSession, nil)
	_ = c.nc.Close()
	return err
}

// EndSession ends somebody else's session, which for its client is the same as
// an expiry: it takes the session over and closes it. The error is
// ErrSessionExpired if there is no such session.
//
// Where it can be done, keep the client from connecting meanwhile: a real server
// may leave one of two connections that fight for a session without an answer,
// and the client then waits for its read timeout before it tries again.
func EndSession(ctx context.Context, addr string, id int64, passwd []byte) error {
	var err error
	for try := range 10 {
		var c *Client
		c, err = Dial(ctx, addr, Options{SessionID: id, Passwd: passwd, Patience: 2 * time.Second})
		if try > 0 && errors.Is(err, ErrSessionExpired) {
			return nil
		}
		if err == nil {
			err = c.Close()
		}
		// The client may have come back between the two steps and have taken its
		// session over in turn, which costs this connection.
		if err == nil || errors.Is(err, ErrSessionExpired) || ctx.Err() != nil {
			break
		}
	}
	return err
}
