package kafka

import (
	"net"
	"sync"
	"time"

	"github.com/turnout-mq/turnout/internal/errs"
)

// dialer opens the connections of a cluster and can end them all: sarama waits for answers while it holds the lock
// that closing a connection needs.
type dialer struct {
	net.Dialer
	mu      sync.Mutex
	conns   map[*conn]struct{}
	aborted bool
}

func newDialer() *dialer {
	return &dialer{
		Dialer: net.Dialer{
			Timeout: netTimeout,
			// A peer that vanished without a word is found within 11 s, also where an answer may take a minute.
			KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: 5 * time.Second, Interval: 2 * time.Second, Count: 3},
		},
		conns: make(map[*conn]struct{}),
	}
}

// Dial is what sarama calls.
func (d *dialer) Dial(network, address string) (net.Conn, error) {
	raw, err := d.Dialer.Dial(network, address)
	if err != nil {
		return nil, err
	}
	c := &conn{Conn: raw, dialer: d}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.aborted {
		_ = raw.Close()
		return nil, errs.ErrClosed
	}
	d.conns[c] = struct{}{}
	return c, nil
}

// abort ends every connection and lets no other begin.
func (d *dialer) abort() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.aborted = true
	for c := range d.conns {
		_ = c.Conn.Close()
	}
}

type conn struct {
	net.Conn
	dialer *dialer
}

func (c *conn) Close() error {
	c.dialer.mu.Lock()
	delete(c.dialer.conns, c)
	c.dialer.mu.Unlock()
	return c.Conn.Close()
}
