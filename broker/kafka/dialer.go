package kafka

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/IBM/sarama"

	"github.com/turnout-mq/turnout/broker"
	"github.com/turnout-mq/turnout/internal/errs"
	"github.com/turnout-mq/turnout/internal/secure"
)

// dialer opens the connections of a cluster, with TLS where it is asked for, and can end them all: sarama waits for
// answers while it holds the lock that closing a connection needs.
type dialer struct {
	net.Dialer
	cfg     broker.Config
	mu      sync.Mutex
	conns   map[*conn]struct{}
	aborted bool
}

func newDialer(cfg broker.Config) *dialer {
	return &dialer{
		Dialer: net.Dialer{
			// A peer that vanished without a word is found within 11 s, also where an answer may take a minute.
			KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: 5 * time.Second, Interval: 2 * time.Second, Count: 3},
		},
		cfg:   cfg,
		conns: make(map[*conn]struct{}),
	}
}

// Dial is what sarama calls.
func (d *dialer) Dial(network, address string) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(context.Background(), netTimeout)
	defer cancel()
	raw, err := d.DialContext(ctx, network, address)
	if err != nil {
		return nil, err
	}
	c := &conn{Conn: raw, dialer: d}
	if !d.add(c) {
		_ = raw.Close()
		return nil, errs.ErrClosed
	}
	var out net.Conn = c
	if d.cfg.TLS != nil {
		config, err := d.cfg.TLS()
		if err != nil {
			_ = c.Close()
			return nil, passing(err)
		}
		if out, err = secure.Client(ctx, c, address, config); err != nil {
			return nil, err
		}
	}
	if d.cfg.Mechanism == sarama.SASLTypePlaintext {
		out = &plainConn{Conn: out, login: d.cfg.Login}
	}
	return out, nil
}

// passing is err without its sentinels: a file that can not be read now, because it is being replaced, may be there at
// the next attempt to connect, so no send is to fail for it.
func passing(err error) error { return errors.New(err.Error()) }

func (d *dialer) add(c *conn) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.aborted {
		d.conns[c] = struct{}{}
	}
	return !d.aborted
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

// checkLogin says what is wrong with the login before anything is dialled.
func checkLogin(cfg broker.Config) error {
	if (cfg.Mechanism == "") != (cfg.Login == nil) {
		return fmt.Errorf("%w: cluster %q: mechanism %q: Mechanism and Login are given together or not at all", errs.ErrInvalid, cfg.Name, cfg.Mechanism)
	}
	if cfg.Login == nil {
		return nil
	}
	user, _, err := cfg.Login()
	if err != nil {
		return fmt.Errorf("cluster %q: %w", cfg.Name, err)
	}
	if user == "" {
		return fmt.Errorf("%w: cluster %q: username %q: mechanism %s needs one", errs.ErrInvalid, cfg.Name, "", cfg.Mechanism)
	}
	return nil
}
