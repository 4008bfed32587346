package migrate

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/cenkalti/backoff/v5"
	"go.uber.org/zap"

	"github.com/turnout-mq/turnout/admin/store"
	"github.com/turnout-mq/turnout/internal/clusters"
	"github.com/turnout-mq/turnout/internal/errs"
	"github.com/turnout-mq/turnout/internal/lag"
	"github.com/turnout-mq/turnout/metadata"
)

const (
	poll        = 100 * time.Millisecond // between two looks at a migration that waits
	pollFast    = 10 * time.Millisecond  // while sends pause
	steady      = 20 * time.Millisecond  // between two readings of end offsets (R7)
	scan        = 100 * time.Millisecond // between two looks into the store for migrations: who starts one may be another process
	guardScan   = 500 * time.Millisecond // between two looks at hand edits, unless one is heard of
	stepLimit   = 30 * time.Second       // of one step
	stepMost    = 2 * time.Second        // between two tries of a step that fails
	fenceCheck  = 5 * time.Second        // between two looks at a fence that nobody works on
	assertEvery = time.Second
	callLimit   = 10 * time.Second
	answerLimit = 2 * time.Second  // trying to follow a wish that was edited by hand while a migration runs
	holdLeast   = time.Second      // of a step while sends pause, however little is left of that
	openFor     = 10 * time.Minute // how long a cluster that was reopened is kept open after the migration
)

// Options change a controller.
type Options struct {
	// FenceCheck is how often fences that stay after a migration, and stays of sleeping groups, are looked at.
	FenceCheck time.Duration
	// Entered, if there is one, is called before anything is done in a state: after that was stored, and again by each
	// controller that takes the migration over. The step waits until it returns; ctx ends with the leadership. For tests.
	Entered func(ctx context.Context, m *store.Migration)
	// GuardEvery is the time between two looks of guards; 0: 1 s. A breach lasts for four of them before anything is done.
	GuardEvery time.Duration
	// Webhook: there is one, so notices of guards are stored for it.
	Webhook bool
	// Off switches rules of the protocol off, by name, to show that each is needed. For tests.
	Off map[string]bool
}

// Controller takes migrations from state to state. It is safe to run several over one store and ZooKeeper, and of use to
// run one: who leads.
type Controller struct {
	db   *store.Store
	meta *metadata.Store
	pool *clusters.Pool
	log  *zap.Logger
	opt  Options
	now  func() time.Time
	// apart is how long lies between two readings of end offsets (R7).
	apart time.Duration
	// least is what a step may take at least while sends pause.
	least time.Duration

	lead []metadata.Op // what a write needs to hold; set by Run

	mu       sync.Mutex
	wake     chan struct{}        // closed and replaced: look at once
	asserted map[string]time.Time // by migration: when its fences were last looked at
	firsts   map[string]time.Time // by migration and state: when this controller first saw it there
	told     map[string]string    // by migration: what Options.Entered was told of last
	watches  map[string]*watch    // by migration
	breaches map[Breached]int64   // of guards, with N 0
}

// New returns a controller over the store, the metadata and the clusters of pool.
func New(db *store.Store, meta *metadata.Store, pool *clusters.Pool, log *zap.Logger, opt Options) *Controller {
	if opt.FenceCheck <= 0 {
		opt.FenceCheck = fenceCheck
	}
	if opt.GuardEvery <= 0 {
		opt.GuardEvery = guardEvery
	}
	return &Controller{db: db, meta: meta, pool: pool, log: log, opt: opt, now: time.Now, apart: steady, least: holdLeast, wake: make(chan struct{}), asserted: map[string]time.Time{}, firsts: map[string]time.Time{}, told: map[string]string{},
		watches: map[string]*watch{}, breaches: map[Breached]int64{}}
}

// version is what a node must still have when it is written (R2).
func (c *Controller) version(n metadata.Node) int32 {
	if c.opt.Off["R2"] {
		return metadata.AnyVersion
	}
	return n.Version
}

// write changes the metadata, if the leadership still holds.
func (c *Controller) write(ctx context.Context, ops ...metadata.Op) error {
	return c.meta.Multi(ctx, slices.Concat(c.lead, ops)...)
}

// Kick makes a running controller look at once.
func (c *Controller) Kick() {
	c.mu.Lock()
	defer c.mu.Unlock()
	close(c.wake)
	c.wake = make(chan struct{})
}

func (c *Controller) kicked() <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.wake
}

// Run works on every migration until ctx ends, and returns when nothing of it works any more. Call it while leading, with a
// ctx that ends when the leadership may be gone. Every write to ZooKeeper is done together with lead, which fails when the
// leadership is gone (coord.Held.Guard): a session that was lost and found again, and a version that happens to fit, do not
// let a deposed leader write (R2). One at a time.
func (c *Controller) Run(ctx context.Context, lead ...metadata.Op) error {
	c.lead = lead
	c.mu.Lock()
	clear(c.told)
	c.mu.Unlock()
	var all sync.WaitGroup
	defer all.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	edits := c.followEdits(ctx)
	defer edits.close()
	all.Go(func() { c.guard(ctx, edits) })

	running := map[string]chan struct{}{} // by id; closed when its worker has ended
	for {
		wake := c.kicked()
		open, err := c.db.Migrations(ctx, store.Filter{Open: true})
		if err != nil && ctx.Err() == nil {
			c.log.Warn("the store can not be read, trying again", zap.Error(err))
		}
		for _, m := range open {
			if _, on := running[m.ID]; on {
				continue
			}
			over := make(chan struct{})
			running[m.ID] = over
			all.Go(func() {
				defer close(over)
				c.work(ctx, m.ID)
			})
		}
		maps.DeleteFunc(running, func(_ string, over chan struct{}) bool {
			select {
			case <-over:
				return true
			default:
				return false
			}
		})
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-wake:
		case <-time.After(scan):
		}
	}
}

// errAgain: the world was not as it was read; look again at once.
var errAgain = errors.New("look again")

var errEnded = errors.New("the migration has ended")

// say stores for people why a migration does not go on. It is read anew: what a step that failed has made of it in memory
// is not what was done.
func (c *Controller) say(ctx context.Context, id, text string) error {
	m, err := c.migration(ctx, id)
	if err != nil {
		return err
	}
	return (&walk{c: c, m: m}).waiting(ctx, text)
}

// turn does one step of a migration. before is the walk of the turn before, or nil after one that failed. errEnded: there
// is nothing to do any more.
func (c *Controller) turn(ctx context.Context, id string, before *walk, log *zap.Logger) (w *walk, wait time.Duration, err error) {
	row, err := c.db.Migration(ctx, id)
	if err != nil {
		return before, 0, err
	}
	if row.EndedAt != nil {
		c.forget(id)
		c.entered(ctx, row, *row.EndedAt)
		return nil, 0, errEnded
	}
	if w = before; w == nil || w.m.Version != row.Version {
		m, err := decode(row)
		if err != nil {
			return before, 0, err
		}
		w = &walk{c: c, m: m, log: log.With(zap.String("topic", m.Topic)), lags: map[string]*lag.Lag{}}
	}
	if c.entered(ctx, row, w.m.data.Entered) {
		return nil, 0, errAgain
	}
	stepping, cancel := context.WithTimeout(ctx, stepLimit)
	defer cancel()
	if wait, err = w.step(stepping); err != nil {
		err = c.whoIsSilent(ctx, id, err)
	}
	return w, wait, err
}

// entered tells Options.Entered of the state that a migration is in since then, once; told: it has taken its time.
func (c *Controller) entered(ctx context.Context, m *store.Migration, since time.Time) (told bool) {
	if c.opt.Entered == nil {
		return false
	}
	now := fmt.Sprint(m.State, since.UnixNano()) // not its monotonic part, which is gone when the row was read anew
	c.mu.Lock()
	before := c.told[m.ID]
	c.told[m.ID] = now
	if m.EndedAt != nil {
		delete(c.told, m.ID)
	}
	c.mu.Unlock()
	if before == now {
		return false
	}
	c.opt.Entered(ctx, m)
	return true
}

// work takes one migration through its states until it has ended or ctx does.
func (c *Controller) work(ctx context.Context, id string) {
	log := c.log.With(zap.String("migration", id))
	pauses := backoff.NewExponentialBackOff()
	pauses.InitialInterval, pauses.MaxInterval = poll, stepMost
	var w *walk
	for ctx.Err() == nil {
		wake := c.kicked()
		var wait time.Duration
		var err error
		w, wait, err = c.turn(ctx, id, w, log)
		switch {
		case errors.Is(err, errEnded):
			return
		case err == nil:
			pauses.Reset()
		case errors.Is(err, errAgain), errors.Is(err, errs.ErrConflict):
			w, wait = nil, pollFast // somebody else was faster: an operator, another controller, a hand edit
		case ctx.Err() != nil:
			return
		default:
			w, wait = nil, pauses.NextBackOff()
			log.Warn("a step failed, trying again", zap.Error(err), zap.Duration("in", wait))
			if err := c.say(ctx, id, err.Error()); err != nil && ctx.Err() == nil {
				log.Debug("not stored what it waits for", zap.Error(err))
			}
		}
		if wait == 0 {
			continue
		}
		select {
		case <-time.After(wait):
		case <-wake:
		case <-ctx.Done():
		}
	}
}

// first is when this controller first saw a migration in a state.
func (c *Controller) first(id string, s State) time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	key := id + " " + string(s)
	if _, seen := c.firsts[key]; !seen {
		c.firsts[key] = c.now()
	}
	return c.firsts[key]
}

// forget drops what first has noted of a migration.
func (c *Controller) forget(id string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	maps.DeleteFunc(c.firsts, func(key string, _ time.Time) bool { return strings.HasPrefix(key, id+" ") })
	delete(c.asserted, id)
	delete(c.watches, id)
}

// pause waits for d; an error: ctx ended.
func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// on runs f with a connection to a cluster.
func (c *Controller) on(ctx context.Context, cluster string, f func(*clusters.Conn) error) error {
	conn, err := c.pool.Acquire(ctx, cluster)
	if err != nil {
		return fmt.Errorf("cluster %s: %w", cluster, err)
	}
	defer conn.Release()
	if err := f(conn); err != nil {
		return fmt.Errorf("cluster %s: %w", cluster, err)
	}
	return nil
}
