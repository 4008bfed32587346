package testenv

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"
)

// server is one thing that can be ended and started again on its port with its data.
type server interface {
	start(ctx context.Context) error // returns when it serves
	stop(ctx context.Context) error  // nil if it does not run
	kill() error                     // nil if it does not run
	pause() error
	resume() error
}

var errClosed = errors.New("testenv: the environment is closed")

// node is a server with its relay, if it has one.
type node struct {
	name    string
	address string // for clients: the relay's or the server's own
	server  server
	relay   *relay // or nil
	words   string // where a ZooKeeper server takes four letter words

	mu     sync.Mutex // one fault at a time
	closed bool
}

// add adds a node with an address that clients use. r may be nil.
func (c *cluster) add(name string, s server, address string, r *relay) {
	if r != nil {
		r.listen = address
	}
	c.addresses = append(c.addresses, address)
	c.nodes = append(c.nodes, &node{name: name, address: address, server: s, relay: r})
}

func (n *node) start(ctx context.Context) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.startLocked(ctx)
}

func (n *node) startLocked(ctx context.Context) error {
	if n.closed {
		return errClosed
	}
	if err := n.server.start(ctx); err != nil {
		return err
	}
	return n.setUp(true)
}

// setUp tells the relay whether the server runs.
func (n *node) setUp(up bool) error {
	if n.relay == nil {
		return nil
	}
	if err := n.relay.setUp(up); err != nil {
		return fmt.Errorf("testenv: relay of %s: %w", n.name, err)
	}
	return nil
}

func (n *node) stop(ctx context.Context) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.stopLocked(ctx)
}

func (n *node) stopLocked(ctx context.Context) error {
	return errors.Join(n.server.stop(ctx), n.setUp(false))
}

func (n *node) kill() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	return errors.Join(n.server.kill(), n.setUp(false))
}

func (n *node) restart(ctx context.Context) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if err := n.stopLocked(ctx); err != nil {
		return err
	}
	return n.startLocked(ctx)
}

func (n *node) pause() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.server.pause()
}

func (n *node) resume() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.server.resume()
}

func (n *node) mend(ctx context.Context) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.relay != nil {
		if err := errors.Join(n.setDelay(0), n.setCut(false)); err != nil {
			return err
		}
	}
	if n.server.resume() == nil {
		return nil
	}
	return n.startLocked(ctx) // it does not run
}

func (n *node) setCut(cut bool) error {
	if n.relay == nil {
		return n.noRelay()
	}
	if err := n.relay.setCut(cut); err != nil {
		return fmt.Errorf("testenv: relay of %s: %w", n.name, err)
	}
	return nil
}

func (n *node) setDelay(d time.Duration) error {
	if n.relay == nil {
		return n.noRelay()
	}
	n.relay.delay.Store(int64(d))
	return nil
}

func (n *node) noRelay() error {
	return fmt.Errorf("testenv: clients reach %s directly: Cut and Delay need Spec.Proxy", n.name)
}

func (n *node) close() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.closed = true
	err := n.server.kill()
	if n.relay != nil {
		err = errors.Join(err, n.relay.close())
	}
	return err
}
