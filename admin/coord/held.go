package coord

import (
	"context"
	"errors"
	"fmt"
	"path"
	"slices"
	"time"

	"go.uber.org/zap"

	"github.com/turnout-mq/turnout/internal/errs"
	"github.com/turnout-mq/turnout/metadata"
)

// ErrLost: somebody else may hold it now. Stop what needs it; to go on, line up again.
var ErrLost = errors.New("lost")

// errGivenUp is why the ctx of a Held ends that was unlocked.
var errGivenUp = errors.New("given up")

// Held is a lock, a lead or the like that is held. Its methods may be called concurrently.
type Held struct {
	store *metadata.Store
	what  string
	node  metadata.Node
	also  []string // nodes that go with ours

	ctx    context.Context // ends when it may be lost, or is given up
	cancel context.CancelCauseFunc
	kept   chan struct{} // closed when nobody looks after it any more
}

// Lock waits until it holds the lock of that name, in the order of coming, and holds it until Unlock or until it is lost. When
// ctx ends first it leaves the line and returns ctx's error. ctx is not used after Lock but for its values. ErrInvalid: not a
// name; ErrNotAllowed; ErrClosed: the Store was closed.
func Lock(ctx context.Context, s *metadata.Store, name string) (*Held, error) {
	if err := metadata.CheckName("lock", name); err != nil {
		return nil, err
	}
	return line{s, "lock " + name, s.Root + "/locks/" + name}.wait(ctx)
}

// Context ends when the Held may be lost or was unlocked; context.Cause then is Err.
func (h *Held) Context() context.Context { return h.ctx }

// Done is closed when the Held may be lost or was unlocked.
func (h *Held) Done() <-chan struct{} { return h.ctx.Done() }

// Err is nil while it is held; then ErrLost with the reason, or another error after Unlock.
func (h *Held) Err() error { return context.Cause(h.ctx) }

// Token is larger than that of every holder before.
func (h *Held) Token() metadata.Zxid { return h.node.Czxid }

// Guard as one of the operations of Store.Multi lets it succeed only while we are in place: else ErrNotFound, and nothing is
// done.
func (h *Held) Guard() metadata.Op { return metadata.CheckOp(h.node.Path, 0) }

// Unlock gives it up, so that the next one gets it at once. It must be called also when it was lost: our place is kept
// until then, because it may still be ours. When ctx ends first it returns ctx's error and goes on in the background.
// Idempotent.
func (h *Held) Unlock(ctx context.Context) error {
	h.cancel(errGivenUp)
	<-h.kept
	err := h.store.Remove(ctx, h.node.Path, h.also...)
	if errors.Is(err, errs.ErrClosed) { // the session has ended, and the node with it
		return nil
	}
	return err
}

func (h *Held) lost(why error) error { return fmt.Errorf("%s: %w: %w", h.what, ErrLost, why) }

// within is a ctx that ends with ctx and when h may be lost, then with h's Err as its cause.
func (h *Held) within(ctx context.Context) (context.Context, func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	stop := context.AfterFunc(h.ctx, func() { cancel(h.Err()) })
	return ctx, func() { stop(); cancel(nil) }
}

// farewell is how long we wait for ZooKeeper to take what has to be said at the end.
const farewell = 2 * time.Second

// resign unlocks after work that ctx may have ended.
func resign(ctx context.Context, h *Held, log *zap.Logger) {
	leaving, cancel := context.WithTimeout(context.WithoutCancel(ctx), farewell)
	defer cancel()
	if err := h.Unlock(leaving); err != nil {
		log.Warn("it is given up as soon as ZooKeeper answers", zap.String("what", h.what), zap.Error(err))
	}
}

// place is the name of the nodes in a line.
const place = "n_"

// line is where instances wait for something that one of them can have.
type line struct {
	store *metadata.Store
	what  string // for errors
	dir   string
}

// wait lines up and returns when we are the first.
func (l line) wait(ctx context.Context) (*Held, error) {
	for {
		node, err := l.store.CreateSequential(ctx, metadata.Sequential{Prefix: l.dir + "/" + place, Ephemeral: true})
		if err != nil {
			return nil, fmt.Errorf("%s: %w", l.what, err)
		}
		since, err := l.first(ctx, node)
		switch {
		case err == nil:
			return l.hold(ctx, node, since), nil
		case errors.Is(err, errPlaceGone):
			continue
		}
		_ = l.store.Remove(ctx, node.Path) // goes on behind us for as long as it takes
		return nil, fmt.Errorf("%s: %w", l.what, err)
	}
}

// errPlaceGone: our place is not there any more.
var errPlaceGone = errors.New("the place in the line is gone")

// first waits until our place is the first, and returns a time at which it was.
func (l line) first(ctx context.Context, node metadata.Node) (since time.Time, err error) {
	for {
		names, err := l.places(ctx)
		if err != nil {
			return time.Time{}, err
		}
		switch i := slices.Index(names, path.Base(node.Path)); i {
		case -1:
			return time.Time{}, errPlaceGone
		case 0:
			since, err := l.store.Confirm(ctx, node)
			if errors.Is(err, errs.ErrNotFound) {
				err = errPlaceGone
			}
			return since, err
		default:
			err := l.store.WaitDeleted(ctx, l.dir+"/"+names[i-1], node.Session)
			if errors.Is(err, errs.ErrConflict) {
				err = errPlaceGone
			}
			if err != nil {
				return time.Time{}, err
			}
		}
	}
}

// places are the names of the nodes in the line, in order.
func (l line) places(ctx context.Context) ([]string, error) {
	return numbered(ctx, l.store, l.dir, place)
}

// hold makes the Held and looks after it.
func (l line) hold(ctx context.Context, node metadata.Node, since time.Time) *Held {
	h := &Held{store: l.store, what: l.what, node: node, kept: make(chan struct{})}
	h.ctx, h.cancel = context.WithCancelCause(context.WithoutCancel(ctx))
	go func() {
		defer close(h.kept)
		err := h.store.Keep(h.ctx, h.node, since)
		h.cancel(h.lost(err))
	}()
	return h
}

// numbered are the sequential nodes with that prefix in dir, in order. Other nodes are left out.
func numbered(ctx context.Context, s *metadata.Store, dir, prefix string) ([]string, error) {
	names, err := s.Children(ctx, dir)
	if errors.Is(err, errs.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	number := func(name string) int32 {
		_, n, _ := metadata.ParseSequential(prefix, name)
		return n
	}
	names = slices.DeleteFunc(names, func(name string) bool {
		_, _, ok := metadata.ParseSequential(prefix, name)
		return !ok
	})
	slices.SortFunc(names, func(a, b string) int { return int(number(a) - number(b)) })
	return names, nil
}
