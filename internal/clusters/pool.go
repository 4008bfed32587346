// Package clusters shares open connections: a Pool has one for each cluster, whoever uses it, and a new one when the
// cluster's metadata changes. A client has two pools, one of them for stress traffic.
package clusters

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"sync"
	"time"

	"go.uber.org/zap"
	"golang.org/x/sync/singleflight"

	"github.com/turnout-mq/turnout/broker"
	"github.com/turnout-mq/turnout/internal/errs"
	"github.com/turnout-mq/turnout/metadata"
)

const (
	openTimeout  = 15 * time.Second
	closeTimeout = 30 * time.Second
	firstUse     = time.Second // who asked for a connection takes it within this
)

// OpenFunc is a driver's Open, or a choice among several by cfg.Kind.
type OpenFunc func(ctx context.Context, cfg broker.Config) (broker.Cluster, error)

// Pool opens clusters by their names in the metadata. All methods may be called concurrently.
type Pool struct {
	store    *metadata.Store
	open     OpenFunc
	clientID string
	linger   time.Duration
	log      *zap.Logger
	flights  singleflight.Group
	closing  sync.WaitGroup     // connections being opened or closed, watched by Close
	patience context.Context    // ends when Close gives up: what is being opened or closed then does so by force
	giveUp   context.CancelFunc // ends patience

	mu       sync.Mutex
	entries  map[string]*entry
	conns    map[*Conn]struct{} // not closed yet, also those that are outdated
	changed  map[int]func(name string)
	nextID   int
	isClosed bool
}

// entry is what is known of one cluster. Its fields are guarded by Pool.mu.
type entry struct {
	name     string
	follower *metadata.Follower
	asked    chan struct{} // closed with the first answer about the metadata
	doc      metadata.Cluster
	known    bool
	err      error
	version  int   // counts the documents seen, so that a connection knows which one it was opened with
	conn     *Conn // the newest, nil when none is open
}

// Conn is one counted use of an open cluster. Release it exactly once.
type Conn struct {
	broker.Cluster
	Name string
	Kind broker.Kind

	pool     *Pool
	version  int
	refs     int
	idle     *time.Timer
	outdated bool
	closed   bool
}

// NewPool returns a pool over the clusters in store. linger is how long a connection stays open after its last use,
// so that a quick way back finds it.
func NewPool(store *metadata.Store, open OpenFunc, clientID string, linger time.Duration, log *zap.Logger) *Pool {
	p := &Pool{store: store, open: open, clientID: clientID, linger: linger, log: log,
		entries: map[string]*entry{}, conns: map[*Conn]struct{}{}, changed: map[int]func(string){}}
	p.patience, p.giveUp = context.WithCancel(context.Background())
	return p
}

// OnChange calls fn, which must not block, whenever the metadata of a cluster in use changed: users then acquire the new
// connection and release the old one. It is also called when Problem has another answer.
func (p *Pool) OnChange(fn func(name string)) (cancel func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	id := p.nextID
	p.nextID++
	p.changed[id] = fn
	return func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		delete(p.changed, id)
	}
}

// Problem says why the metadata of a cluster in use is not in force as it is now; nil when it is, or the cluster is not in
// use.
func (p *Pool) Problem(name string) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if e := p.entries[name]; e != nil && e.known {
		return e.err
	}
	return nil
}

// Acquire returns the open connection to the named cluster, opening it when needed. errs.ErrNotFound: the metadata
// does not have it; any other error is the driver's.
func (p *Pool) Acquire(ctx context.Context, name string) (*Conn, error) {
	e, err := p.entry(name)
	if err != nil {
		return nil, err
	}
	select {
	case <-e.asked:
	case <-ctx.Done():
		return nil, fmt.Errorf("cluster %q: its metadata was not read in time: %w", name, ctx.Err())
	}
	for {
		p.mu.Lock()
		switch {
		case p.isClosed:
			p.mu.Unlock()
			return nil, errs.ErrClosed
		case !e.known:
			err := e.err
			p.mu.Unlock()
			if errors.Is(err, errs.ErrNotFound) {
				return nil, fmt.Errorf("cluster %q (create it with: turnout cluster put %s …): %w", name, name, err)
			}
			return nil, fmt.Errorf("cluster %q: %w", name, err)
		case e.conn != nil && !e.conn.outdated:
			c := e.conn
			c.use()
			p.mu.Unlock()
			return c, nil
		}
		version := e.version
		p.mu.Unlock()
		// Others may wait for the same connection, so it is not opened under this caller's ctx.
		opened := p.flights.DoChan(fmt.Sprintf("%s#%d", name, version), func() (any, error) {
			ctx, cancel := context.WithTimeout(p.patience, openTimeout)
			defer cancel()
			return nil, p.openEntry(ctx, e)
		})
		select {
		case r := <-opened:
			if r.Err != nil {
				return nil, fmt.Errorf("cluster %q: %w", name, r.Err)
			}
		case <-ctx.Done():
			return nil, fmt.Errorf("cluster %q: not open yet: %w", name, ctx.Err())
		}
	}
}

// Current says whether c is still what Acquire would return.
func (c *Conn) Current() bool {
	c.pool.mu.Lock()
	defer c.pool.mu.Unlock()
	return !c.outdated && !c.closed
}

// Release gives the use back. The connection is closed after the linger time, or at once when its metadata changed.
func (c *Conn) Release() {
	c.pool.mu.Lock()
	defer c.pool.mu.Unlock()
	c.refs--
	if c.refs > 0 || c.closed {
		return
	}
	if c.outdated || c.pool.isClosed {
		c.shut()
		return
	}
	c.rest(c.pool.linger)
}

// Close closes every connection, used or not, and waits until they are closed. When ctx ends first they are closed by
// force, which may go on for a moment after Close has returned ctx's error. It may be called again.
func (p *Pool) Close(ctx context.Context) error {
	p.mu.Lock()
	p.isClosed = true
	var followers []*metadata.Follower
	for _, e := range p.entries {
		if e.follower != nil {
			followers = append(followers, e.follower)
			e.follower = nil
		}
	}
	for c := range p.conns {
		c.shut()
	}
	p.mu.Unlock()
	for _, f := range followers {
		f.Close()
	}
	done := make(chan struct{})
	go func() { p.closing.Wait(); close(done) }()
	select {
	case <-done:
		p.giveUp()
		return nil
	case <-ctx.Done():
		p.giveUp()
		return ctx.Err()
	}
}

func (p *Pool) entry(name string) (*entry, error) {
	p.mu.Lock()
	if p.isClosed {
		p.mu.Unlock()
		return nil, errs.ErrClosed
	}
	if e := p.entries[name]; e != nil {
		p.mu.Unlock()
		return e, nil
	}
	e := &entry{name: name, asked: make(chan struct{})}
	p.entries[name] = e
	p.mu.Unlock()

	f := metadata.Follow(p.store, p.store.ClusterPath(name), metadata.ParseCluster, func(u metadata.Update[metadata.Cluster]) { p.learn(e, u) })
	p.mu.Lock()
	if p.isClosed {
		p.mu.Unlock()
		f.Close()
		return nil, errs.ErrClosed
	}
	e.follower = f
	p.mu.Unlock()
	return e, nil
}

// learn takes what the metadata says of a cluster.
func (p *Pool) learn(e *entry, u metadata.Update[metadata.Cluster]) {
	p.mu.Lock()
	first := false
	select {
	case <-e.asked:
	default:
		first = true
	}
	changed := u.Known && (!e.known || !reflect.DeepEqual(e.doc, u.Value))
	if changed {
		e.doc, e.known = u.Value, true
		e.version++
		if c := e.conn; c != nil {
			c.outdated = true
			if c.refs == 0 {
				c.shut()
			}
		}
	}
	news := changed || (e.err == nil) != (u.Err == nil) || e.err != nil && e.err.Error() != u.Err.Error()
	e.err = u.Err
	if first {
		close(e.asked)
	}
	var tell []func(string)
	if news && !first {
		for _, fn := range p.changed {
			tell = append(tell, fn)
		}
	}
	p.mu.Unlock()
	for _, fn := range tell {
		fn(e.name)
	}
}

// openEntry opens a connection for what the metadata says now.
func (p *Pool) openEntry(ctx context.Context, e *entry) error {
	p.mu.Lock()
	doc, version := e.doc, e.version
	switch {
	case p.isClosed:
		p.mu.Unlock()
		return errs.ErrClosed
	case e.conn != nil && e.conn.version == version:
		p.mu.Unlock()
		return nil
	}
	p.closing.Add(1) // Close waits for what is being opened, too
	p.mu.Unlock()
	defer p.closing.Done()
	cfg, err := doc.Config(p.clientID, nil)
	if err != nil {
		return err
	}
	cfg.Logger = p.log
	opened, err := p.open(ctx, cfg)
	if err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	c := &Conn{Cluster: opened, Name: e.name, Kind: cfg.Kind, pool: p, version: version, outdated: version != e.version}
	p.conns[c] = struct{}{}
	if p.isClosed || c.outdated {
		c.shut()
		return nil // the caller looks again
	}
	e.conn = c
	c.rest(max(p.linger, firstUse)) // whoever asked for it may have gone
	return nil
}

// use counts one more use. Pool.mu is held.
func (c *Conn) use() {
	c.refs++
	if c.idle != nil {
		c.idle.Stop()
		c.idle = nil
	}
}

// rest lets an unused connection stay open for d. Pool.mu is held.
func (c *Conn) rest(d time.Duration) {
	c.idle = time.AfterFunc(d, func() {
		c.pool.mu.Lock()
		defer c.pool.mu.Unlock()
		if c.refs == 0 && !c.closed {
			c.shut()
		}
	})
}

// shut closes the connection in the background. Pool.mu is held.
func (c *Conn) shut() {
	if c.closed {
		return
	}
	c.closed = true
	delete(c.pool.conns, c)
	if c.idle != nil {
		c.idle.Stop()
	}
	if e := c.pool.entries[c.Name]; e != nil && e.conn == c {
		e.conn = nil
	}
	c.pool.closing.Go(func() {
		ctx, cancel := context.WithTimeout(c.pool.patience, closeTimeout)
		defer cancel()
		if err := c.Close(ctx); err != nil {
			c.pool.log.Warn("cluster not closed cleanly", zap.String("cluster", c.Name), zap.Error(err))
			_ = c.Close(context.Background()) // what is done by force takes a moment, too
		}
	})
}
