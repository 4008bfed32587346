package rocketmq

import (
	"context"
	"fmt"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/turnout-mq/turnout/broker"
	"github.com/turnout-mq/turnout/broker/rocketmq/remoting"
	"github.com/turnout-mq/turnout/internal/errs"
)

// OffsetsAt are the offsets of the first message of each queue that was stored at t or later; the end where there is none.
// ErrUnknownTopic.
func (c *Cluster) OffsetsAt(ctx context.Context, topic string, t time.Time) (broker.Offsets, error) {
	ctx, cancel, err := c.ask(ctx)
	if err != nil {
		return nil, err
	}
	defer cancel()
	out, err := c.offsetsAt(ctx, topic, t)
	return out, c.done("offsets of topic "+topic+" by time", err)
}

func (c *Cluster) offsetsAt(ctx context.Context, topic string, t time.Time) (broker.Offsets, error) {
	queues, addrs, err := c.queues(ctx, topic)
	if err != nil {
		return nil, err
	}
	return c.offsets(ctx, queues, addrs, func(ctx context.Context, addr string, q remoting.Queue) (int64, error) {
		// A broker answers with the last message before t where none is as late (as with none at all).
		end, err := c.admin.MaxOffset(ctx, addr, q)
		if err != nil || end == 0 {
			return end, err
		}
		at, err := c.admin.SearchOffset(ctx, addr, q, t)
		if err != nil || at != end-1 {
			return min(max(at, 0), end), err
		}
		pulled, err := c.storedAt(ctx, addr, q, at)
		if err == nil && pulled.Before(t.Truncate(time.Millisecond)) {
			at = end
		}
		return at, err
	})
}

// storedAt is when the message at an offset was stored; the zero time if there is none.
func (c *Cluster) storedAt(ctx context.Context, addr string, q remoting.Queue, at int64) (time.Time, error) {
	messages, _, err := c.Peek(ctx, q.Topic, partition(q), at, 1)
	if err != nil || len(messages) == 0 {
		return time.Time{}, err
	}
	return messages[0].Stored, nil
}

// SetPositions stores positions of a group on topic, also smaller ones than before; queues that are not named keep theirs.
// ErrConflict: the group has members, who would write theirs over these, or got one meanwhile; in the latter case what was stored is
// unknown. ErrUnknownTopic; ErrInvalid: no such queue.
func (c *Cluster) SetPositions(ctx context.Context, group, topic string, positions broker.Offsets) error {
	ctx, cancel, err := c.ask(ctx)
	if err != nil {
		return err
	}
	defer cancel()
	return c.done("setting positions of group "+group+" on "+topic, c.setPositions(ctx, group, topic, positions))
}

func (c *Cluster) setPositions(ctx context.Context, group, topic string, positions broker.Offsets) error {
	queues, addrs, err := c.queues(ctx, topic)
	if err != nil {
		return err
	}
	known := map[string]remoting.Queue{}
	for _, q := range queues {
		known[partition(q)] = q
	}
	for name, offset := range positions {
		if _, ok := known[name]; !ok || offset < 0 {
			return fmt.Errorf("%w: queue %q, offset %d: the topic has no such queue, or the offset is negative", errs.ErrInvalid, name, offset)
		}
	}
	members, err := c.groupMembers(ctx, group)
	if err != nil {
		return err
	}
	if len(members) > 0 {
		return fmt.Errorf("%w: the group has members: %q", errs.ErrConflict, members)
	}
	byBroker := map[string]map[remoting.Queue]int64{}
	for name, offset := range positions {
		q := known[name]
		if byBroker[q.Broker] == nil {
			byBroker[q.Broker] = map[remoting.Queue]int64{}
		}
		byBroker[q.Broker][q] = offset
	}
	g, within := errgroup.WithContext(ctx)
	g.SetLimit(maxParallel)
	for name, offsets := range byBroker {
		g.Go(func() error { return c.setAt(within, addrs[name], group, offsets) })
	}
	if err := g.Wait(); err != nil {
		return err
	}
	// A member registers before it reads where to begin: one that is not here yet begins at these.
	stored, err := c.positions(ctx, group, topic)
	if err != nil {
		return err
	}
	if members, err = c.groupMembers(ctx, group); err != nil {
		return err
	}
	if len(members) > 0 {
		return fmt.Errorf("%w: the group has got members meanwhile: %q; let them leave and set the positions again", errs.ErrConflict, members)
	}
	for name, offset := range positions {
		if stored[name] != offset {
			return fmt.Errorf("%w: somebody else has set queue %s to %d meanwhile; set the positions again", errs.ErrConflict, name, stored[name])
		}
	}
	return nil
}

// setAt stores positions at one broker, one after the other: it keeps only one of the first ones of a group that come together.
func (c *Cluster) setAt(ctx context.Context, addr, group string, offsets map[remoting.Queue]int64) error {
	for q, offset := range offsets {
		update := func() error {
			_, err := call(ctx, func(ctx context.Context) (struct{}, error) {
				return struct{}{}, c.admin.UpdateConsumerOffset(ctx, addr, group, q, offset)
			})
			return err
		}
		err := update()
		if remoting.HasCode(err, remoting.GroupNotExist) {
			if err = createGroup(ctx, c.admin, addr, group); err == nil {
				err = update()
			}
		}
		if err != nil {
			return fmt.Errorf("queue %s: %w", partition(q), err)
		}
	}
	return nil
}
