package topics

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"time"

	"go.uber.org/zap"

	"github.com/turnout-mq/turnout/internal/errs"
	"github.com/turnout-mq/turnout/metadata"
)

const (
	warmLimit   = 10 * time.Second
	writeLimit  = 10 * time.Second
	retryFirst  = 200 * time.Millisecond
	retryMost   = 10 * time.Second
	writeSpread = 2 * time.Second // R30: who is not first by name waits up to this long before it writes a completion
)

// due is the completion that the newest wish asks for, and what it is computed from. route.Err is nil or says that there is
// no route, though there may have been one.
type due struct {
	wish  metadata.Update[metadata.Wish]
	route metadata.Update[metadata.Route]
}

func (d *due) same(o *due) bool {
	return d != nil && o != nil && d.wish.Node.Czxid == o.wish.Node.Czxid && d.wish.Node.Version == o.wish.Node.Version &&
		d.route.Known == o.route.Known && d.route.Node.Mzxid == o.route.Node.Mzxid && (d.route.Err == nil) == (o.route.Err == nil)
}

// base is the route that the wish changes, or nil.
func (d *due) base() *metadata.Route {
	if d.route.Known {
		return &d.route.Value
	}
	return nil
}

// due returns the completion that is due, or nil.
func (t *Topic) due() *due {
	t.mu.Lock()
	d := &due{wish: t.wish, route: t.route}
	// A route that can not be applied may say more than the wish: nothing is made of its predecessor.
	ready := t.heard == 7 && !t.confBad && d.wish.Known && d.wish.Err == nil && (d.route.Err == nil && d.route.Known || errors.Is(d.route.Err, errs.ErrNotFound))
	t.mu.Unlock()
	if !ready || metadata.Answered(d.base(), d.wish.Node) {
		return nil
	}
	return d
}

// run completes wishes and keeps the participant node true until the topic is left.
func (t *Topic) run() {
	defer close(t.done)
	var (
		now     *due // being warmed or written
		stop    = func() {}
		outcome chan error
		retry   = time.NewTimer(time.Hour)
		wait    = retryFirst
		said    saying
	)
	defer retry.Stop()
	defer func() { stop() }()
	for {
		d := t.due()
		if !d.same(now) {
			stop()
			now, outcome, wait = d, nil, retryFirst
			if d != nil {
				outcome, stop = t.start(d)
			} else {
				t.note(nil)
			}
		}
		said = t.say(said)
		select {
		case <-t.ctx.Done():
			return
		case <-t.wake:
		case <-said.again:
		case err := <-outcome:
			outcome = nil
			t.note(err)
			if err != nil {
				retry.Reset(wait)
				wait = min(2*wait, retryMost)
			}
		case <-retry.C:
			if now != nil && outcome == nil {
				stop()
				outcome, stop = t.start(now)
			}
		}
	}
}

// start warms the cluster of the completion, puts it into force and writes it, in the background.
func (t *Topic) start(d *due) (outcome chan error, stop func()) {
	ctx, cancel := context.WithCancel(t.ctx)
	outcome = make(chan error, 1)
	t.wg.Go(func() { outcome <- t.follow(ctx, d) })
	return outcome, cancel
}

// errSuperseded: what was to be done is not, by now; the loop looks again. Like a cancelled step it is no trouble.
var errSuperseded = fmt.Errorf("superseded: %w", context.Canceled)

type notFollowed struct{ error }

func (e notFollowed) Unwrap() error { return e.error }

func (t *Topic) follow(ctx context.Context, d *due) error {
	// Whoever puts a topic writes wish and route in one step, and we may have heard of the wish alone.
	if t.set.store.Session().Connected {
		ask, cancel := context.WithTimeout(ctx, warmLimit)
		_, err := t.routes.Refresh(ask)
		cancel()
		if err == nil && !t.due().same(d) {
			return errSuperseded
		}
	}
	names, err := t.set.clusterNames(ctx)
	if err != nil {
		return notFollowed{fmt.Errorf("wish for cluster %q is not followed: the clusters in ZooKeeper can not be listed: %w", d.wish.Value.Cluster, err)}
	}
	to := metadata.Complete(d.wish.Value, d.wish.Node, d.base(), names)
	if err := t.warm(ctx, to.Write); err != nil {
		return notFollowed{fmt.Errorf("wish for cluster %q is not followed: %w", to.Write, err)}
	}
	t.mu.Lock()
	var tell []*Part
	if ctx.Err() == nil {
		tell = t.publish(&View{Route: to, Zxid: d.route.Node.Mzxid, Settings: t.conf.Value, era: t.era})
	}
	t.mu.Unlock()
	for _, p := range tell {
		p.Changed()
	}
	if !t.firstByName(ctx) && !pause(ctx, rand.N(writeSpread)) {
		return ctx.Err()
	}
	return t.write(ctx, d, to)
}

// warm sees that the cluster can be written to.
func (t *Topic) warm(ctx context.Context, cluster string) error {
	ctx, cancel := context.WithTimeout(ctx, warmLimit)
	defer cancel()
	c, err := t.set.pool.Acquire(ctx, cluster)
	if err != nil {
		return err
	}
	defer c.Release()
	return c.Warm(ctx, t.Physical(cluster))
}

// firstByName says whether this process is the first of the topic's participants, which writes a completion at once.
func (t *Topic) firstByName(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, writeLimit)
	defer cancel()
	names, err := t.peers(ctx)
	return err == nil && len(names) > 0 && slices.Min(names) == t.set.instance
}

// write stores the completion by compare-and-set; that somebody else was first is no error.
func (t *Topic) write(ctx context.Context, d *due, to metadata.Route) error {
	ctx, cancel := context.WithTimeout(ctx, writeLimit)
	defer cancel()
	doc, err := json.Marshal(to)
	if err != nil {
		return err
	}
	path := t.set.store.RoutePath(t.name)
	if d.route.Err == nil {
		err = t.set.store.Set(ctx, path, doc, d.route.Node.Version)
	} else {
		err = t.set.store.Create(ctx, path, doc)
	}
	switch {
	case err == nil:
		t.log.Info("wish completed", zap.String("cluster", to.Write), zap.Int("stays", len(to.Stays)))
	case errors.Is(err, errs.ErrConflict), errors.Is(err, errs.ErrNotFound):
	case ctx.Err() != nil:
		return err
	default:
		return fmt.Errorf("edit not completed: the route can not be written: %w", err)
	}
	if _, err := t.routes.Refresh(ctx); err != nil {
		return fmt.Errorf("edit not completed: the route can not be read: %w", err)
	}
	return nil
}

// note keeps what went wrong for the participant node.
func (t *Topic) note(err error) {
	t.mu.Lock()
	before := errors.Join(t.notWarmed, t.notSaved)
	t.notWarmed, t.notSaved = nil, nil
	var cold notFollowed
	switch {
	case errors.As(err, &cold):
		t.notWarmed = cold
	case err != nil && !errors.Is(err, context.Canceled):
		t.notSaved = err
	}
	after := errors.Join(t.notWarmed, t.notSaved)
	t.mu.Unlock()
	if after != nil && (before == nil || before.Error() != after.Error()) {
		t.log.Warn("the route stays as it is", zap.Error(after))
	}
}

func sameDoc(a, b any) bool { return reflect.DeepEqual(a, b) }
