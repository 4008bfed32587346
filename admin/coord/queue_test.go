package coord_test

import (
	"bytes"
	"context"
	"errors"
	"strconv"
	"strings"
	"sync/atomic"

	"github.com/stretchr/testify/require"

	"github.com/turnout-mq/turnout/admin/coord"
	"github.com/turnout-mq/turnout/internal/errs"
	"github.com/turnout-mq/turnout/metadata"
)

const consumers = "/queue/requests/consumer"

// served serves the queue in the background, fails as fail says (nil: never), and gives what was handled.
func (t *tree) served(q *coord.Queue, fail func(coord.Item) error) (items <-chan coord.Item, ended <-chan error) {
	handled := make(chan coord.Item, 1000)
	return handled, t.background(func(ctx context.Context) error {
		return q.Serve(ctx, func(_ context.Context, item coord.Item) error {
			if fail != nil {
				if err := fail(item); err != nil {
					return err
				}
			}
			handled <- item
			return nil
		})
	})
}

func (t *tree) length(q *coord.Queue) int {
	t.Helper()
	n, err := q.Len(t.ctx())
	require.NoError(t, err)
	return n
}

func itemsInOrder(t *tree) {
	sender, a, b := t.open(), t.open(), t.open()
	from, one, two := t.queue(sender), t.queue(a), t.queue(b)
	require.Zero(t, t.length(one))
	_, err := from.Put(t.ctx(), bytes.Repeat([]byte("x"), metadata.MaxDocument+1))
	require.ErrorIs(t, err, errs.ErrTooLarge)
	const items = 20
	var ids []string
	put := func(q *coord.Queue) {
		id, err := q.Put(t.ctx(), []byte(strconv.Itoa(len(ids))))
		require.NoError(t, err)
		ids = append(ids, id)
	}
	for range items {
		put(from)
	}
	require.NoError(t, sender.Close(t.ctx()), "the items outlive who has put them")
	all, err := one.List(t.ctx())
	require.NoError(t, err)
	require.Len(t, all, items)
	for i, item := range all {
		require.Equal(t, ids[i], item.ID)
		require.Equal(t, strconv.Itoa(i), string(item.Data))
	}

	first, _ := t.served(one, nil)
	seen := 0
	next := func(from <-chan coord.Item) {
		item := wait(t, from, "item "+strconv.Itoa(seen))
		require.Equal(t, ids[seen], item.ID)
		require.Equal(t, strconv.Itoa(seen), string(item.Data))
		seen++
	}
	for range items {
		next(first)
	}
	t.eventually(func() bool { return t.length(two) == 0 }, "the queue is empty")
	second, _ := t.served(two, nil)
	t.until(b, consumers, 2)
	put(two) // while the consumer waits
	next(first)
	require.Empty(t, second)
	t.eventually(func() bool { return t.length(two) == 0 }, "the queue is empty")
	require.NoError(t, a.Close(t.ctx()))
	put(two)
	next(second)
	require.Empty(t, first)
}

// ZooKeeper numbers the children of a node with 32 bits. What people put there is no item.
func numbersGoRound(t *tree) {
	s := t.open()
	q := t.queue(s)
	id := strings.Repeat("0", 32)
	for i, name := range []string{"item-" + id + "--2147483647", "item-" + id + "--2147483648", "item-" + id + "-2147483647", "item-" + id + "-2147483646",
		"item-" + id, "item-" + id + "-x", "note"} {
		require.NoError(t, s.Create(t.ctx(), t.root+"/queue/requests/"+name, []byte(strconv.Itoa(i))))
	}
	all, err := q.List(t.ctx())
	require.NoError(t, err)
	var order []string
	for _, item := range all {
		require.Equal(t, id, item.ID)
		order = append(order, string(item.Data))
	}
	require.Equal(t, []string{"3", "2", "1", "0"}, order)
	require.Equal(t, 4, t.length(q))
}

func itemAgain(t *tree) {
	s := t.open()
	q := t.queue(s)
	for i := range 3 {
		_, err := q.Put(t.ctx(), []byte(strconv.Itoa(i)))
		require.NoError(t, err)
	}
	var tries atomic.Int64
	items, _ := t.served(q, func(item coord.Item) error {
		if string(item.Data) == "1" && tries.Add(1) <= 3 {
			return errors.New("not now")
		}
		return nil
	})
	for i := range 3 {
		require.Equal(t, strconv.Itoa(i), string(wait(t, items, "an item").Data))
	}
	require.EqualValues(t, 4, tries.Load())
	t.eventually(func() bool { return t.length(q) == 0 }, "the queue is empty")
}

// consumerKilled: what it had in its hands is given to the next one.
func consumerKilled(t *tree) {
	s := t.open()
	q := t.queue(s)
	id, err := q.Put(t.ctx(), []byte("work"))
	require.NoError(t, err)
	p := t.start("serve")
	require.Equal(t, id, p.says("item "))
	items, _ := t.served(q, nil)
	t.until(s, consumers, 2)
	require.Empty(t, items)
	p.kill()
	require.Equal(t, id, wait(t, items, "the item").ID)
	t.eventually(func() bool { return t.length(q) == 0 }, "the queue is empty")
}

// consumerDeposed: an item that a consumer has handled when it was the turn of another one stays for that one, and the first
// one lines up again.
func consumerDeposed(t *tree) {
	a, b := t.open(), t.open()
	one, two := t.queue(a), t.queue(b)
	id, err := one.Put(t.ctx(), []byte("work"))
	require.NoError(t, err)
	begun, goOn := make(chan context.Context, 10), make(chan struct{})
	t.background(func(ctx context.Context) error {
		return one.Serve(ctx, func(ctx context.Context, _ coord.Item) error {
			begun <- ctx
			<-goOn
			return nil
		})
	})
	turn := wait(t, begun, "the first consumer")
	var held atomic.Bool
	items, _ := t.served(two, func(coord.Item) error {
		if held.Load() {
			return nil
		}
		return errors.New("not yet")
	})
	t.until(b, consumers, 2)
	t.expire(a)
	wait(t, turn.Done(), "the loss")
	require.ErrorIs(t, context.Cause(turn), coord.ErrLost)
	close(goOn) // it says that the item was handled, too late
	t.until(b, consumers, 2)
	require.Equal(t, 1, t.length(two))
	held.Store(true)
	require.Equal(t, id, wait(t, items, "the item").ID)
	t.eventually(func() bool { return t.length(two) == 0 }, "the queue is empty")
	require.Empty(t, begun)
}
