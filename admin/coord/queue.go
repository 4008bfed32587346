package coord

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path"
	"slices"
	"time"

	"github.com/cenkalti/backoff/v5"
	"go.uber.org/zap"

	"github.com/turnout-mq/turnout/internal/errs"
	"github.com/turnout-mq/turnout/metadata"
)

// Queue is a queue of items, first in, first out, that outlive who puts them. Its methods may be called concurrently.
type Queue struct {
	store *metadata.Store
	log   *zap.Logger
	topic string
	path  string
}

// Item is something in a Queue.
type Item struct {
	ID   string // its own, also when it is handled again
	Data []byte

	path string
}

// NewQueue makes the Queue of that topic; nothing is created before the first Put or Serve. log may be nil. ErrInvalid: not a
// name.
func NewQueue(s *metadata.Store, topic string, log *zap.Logger) (*Queue, error) {
	if err := metadata.CheckName("queue", topic); err != nil {
		return nil, err
	}
	if log == nil {
		log = zap.NewNop()
	}
	return &Queue{store: s, log: log.With(zap.String("queue", topic)), topic: topic, path: s.Root + "/queue/" + topic}, nil
}

// itemPrefix begins the names of items.
const itemPrefix = "item-"

// handled is what the node of a Queue holds: the ids of the last items that were handled. By it a Put whose answer was lost
// knows that its item has been there.
type handled struct {
	Done []string `json:"done"`
}

// remembered is how many ids that are. With more than these handled while a Put waits for its connection to come back, it
// puts its item twice, with another id.
const remembered = 100

func parseHandled(data []byte) (h handled) {
	// Whatever else is there was not written by us, and tells nothing.
	_ = json.Unmarshal(data, &h)
	return h
}

// Put adds an item of at most metadata.MaxDocument bytes at the end and returns its id. When ctx ends first it returns
// ctx's error, and the item may have been added or not. ErrTooLarge, ErrNotAllowed, ErrClosed.
func (q *Queue) Put(ctx context.Context, data []byte) (id string, err error) {
	n, err := q.store.CreateSequential(ctx, metadata.Sequential{
		Prefix: q.path + "/" + itemPrefix, Data: data,
		Passed: func(parent []byte, id string) bool { return slices.Contains(parseHandled(parent).Done, id) },
	})
	if err != nil {
		return "", fmt.Errorf("queue %s: %w", q.topic, err)
	}
	return itemID(n.Path), nil
}

func itemID(p string) string {
	id, _, _ := metadata.ParseSequential(itemPrefix, path.Base(p))
	return id
}

// List reads the items that wait or are being handled, the first one first.
func (q *Queue) List(ctx context.Context) ([]Item, error) {
	names, err := q.names(ctx)
	if err != nil {
		return nil, err
	}
	var items []Item
	for _, name := range names {
		item, ok, err := q.read(ctx, name)
		if err != nil {
			return nil, err
		}
		if ok {
			items = append(items, item)
		}
	}
	return items, nil
}

// Len is how many items wait or are being handled.
func (q *Queue) Len(ctx context.Context) (int, error) {
	names, err := q.names(ctx)
	return len(names), err
}

func (q *Queue) names(ctx context.Context) ([]string, error) {
	names, err := numbered(ctx, q.store, q.path, itemPrefix)
	if err != nil {
		return nil, fmt.Errorf("queue %s: %w", q.topic, err)
	}
	return names, nil
}

func (q *Queue) read(ctx context.Context, name string) (item Item, ok bool, err error) {
	n, err := q.store.Read(ctx, q.path+"/"+name)
	if err != nil {
		return Item{}, false, fmt.Errorf("queue %s: %w", q.topic, err)
	}
	return Item{ID: itemID(name), Data: n.Data, path: n.Path}, n.Exists, nil
}

// Serve waits until nobody else serves the queue and then gives fn the items one by one, in order. An item leaves the queue when fn
// has returned nil. After an error it stays the first and is given again after a pause that grows from 100 ms to 10 s: to give up on
// an item, return nil. fn's ctx ends when somebody else may serve the queue (ErrLost) or ctx ends; an item that was being
// handled then is handled again, with the same ID. Serve then waits for its turn again; it returns when ctx ends, with
// its error, or ErrNotAllowed, or ErrClosed.
func (q *Queue) Serve(ctx context.Context, fn func(context.Context, Item) error) error {
	for {
		held, err := line{q.store, "consumer of queue " + q.topic, q.path + "/consumer"}.wait(ctx)
		if err != nil {
			return err
		}
		err = q.serve(ctx, held, fn)
		resign(ctx, held, q.log)
		switch {
		case ctx.Err() != nil:
			return fmt.Errorf("queue %s: %w", q.topic, context.Cause(ctx))
		case errors.Is(err, ErrLost):
			q.log.Warn("somebody else may serve the queue; lining up again", zap.Error(err))
		default:
			return err
		}
	}
}

// serve handles items while it is our turn.
func (q *Queue) serve(ctx context.Context, held *Held, fn func(context.Context, Item) error) error {
	turn, cancel := held.within(ctx)
	defer cancel()
	changed := make(chan struct{}, 1)
	follower := metadata.FollowChildren(q.store, q.path, func([]string, error) {
		select {
		case changed <- struct{}{}:
		default:
		}
	})
	defer follower.Close()
	pause := backoff.NewExponentialBackOff()
	pause.InitialInterval, pause.MaxInterval = 100*time.Millisecond, 10*time.Second
	for {
		wait := changed
		var again <-chan time.Time
		names, err := q.names(turn)
		if err == nil && len(names) > 0 {
			wait = nil
			var item Item
			var ok bool
			if item, ok, err = q.read(turn, names[0]); err == nil && ok {
				if failed := fn(turn, item); failed == nil {
					pause.Reset()
					err = q.finish(ctx, held, item)
				} else if turn.Err() == nil {
					q.log.Warn("an item was not handled; trying again", zap.String("item", item.ID), zap.Error(failed))
					again = time.After(pause.NextBackOff())
				}
			}
		}
		if lost := held.Err(); lost != nil {
			return lost
		}
		if err != nil {
			return err
		}
		if wait == nil && again == nil {
			continue
		}
		select {
		case <-wait:
		case <-again:
		case <-turn.Done():
			return context.Cause(turn)
		}
	}
}

// finish takes an item that was handled off the queue and notes its id, in one step, if it is still our turn. It has a
// moment for that after the end of ctx.
func (q *Queue) finish(ctx context.Context, held *Held, item Item) error {
	finishing, cancel := context.WithCancel(held.ctx)
	defer cancel()
	defer context.AfterFunc(ctx, func() { time.AfterFunc(farewell, cancel) })()
	for {
		n, err := q.store.Read(finishing, q.path)
		if err != nil {
			return err
		}
		h := parseHandled(n.Data)
		h.Done = append(h.Done, item.ID)
		h.Done = h.Done[max(0, len(h.Done)-remembered):]
		data, err := json.Marshal(h)
		if err != nil {
			return err
		}
		err = q.store.Multi(finishing, held.Guard(), metadata.SetOp(q.path, data, n.Version), metadata.DeleteOp(item.path, metadata.AnyVersion))
		switch {
		case err == nil:
			return nil
		case errors.Is(err, errs.ErrTimeout): // done or not
			left, err := q.store.Read(finishing, item.path)
			if err != nil || !left.Exists {
				return err
			}
		case errors.Is(err, errs.ErrConflict): // somebody else wrote the queue's node
		case errors.Is(err, errs.ErrNotFound): // our turn is over, or somebody deleted the item: look again
			_, err := q.store.Confirm(finishing, held.node)
			if errors.Is(err, errs.ErrNotFound) {
				return held.lost(err)
			}
			return err
		default:
			return fmt.Errorf("queue %s: %w", q.topic, err)
		}
	}
}
