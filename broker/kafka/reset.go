package kafka

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strconv"
	"time"

	"github.com/IBM/sarama"

	"github.com/turnout-mq/turnout/broker"
	"github.com/turnout-mq/turnout/internal/errs"
)

// OffsetsAt are the offsets of the first message of each partition that was stored at t or later; the end where there is
// none. ErrUnknownTopic.
func (c *Cluster) OffsetsAt(ctx context.Context, topic string, t time.Time) (broker.Offsets, error) {
	return call(ctx, c, "offsets of "+topic+" by time", func() (broker.Offsets, error) {
		md, err := c.lookup(topic)
		if err != nil {
			return nil, err
		}
		found, err := c.offsets(ctx, topic, partitionsOf(md), max(t.UnixMilli(), 0))
		if err != nil {
			return nil, err
		}
		ends, err := c.offsets(ctx, topic, partitionsOf(md), sarama.OffsetNewest)
		if err != nil {
			return nil, err
		}
		for partition, end := range ends {
			if found[partition] < 0 {
				found[partition] = end
			}
		}
		return found, nil
	})
}

// SetPositions commits positions of a group on topic, also smaller ones than before; partitions that are not named keep theirs.
// ErrConflict: the group has members, and nothing was changed. ErrUnknownTopic; ErrInvalid: no such partition.
func (c *Cluster) SetPositions(ctx context.Context, group, topic string, positions broker.Offsets) error {
	_, err := call(ctx, c, "setting positions of group "+group+" on "+topic, func() (struct{}, error) {
		md, err := c.lookup(topic)
		if err != nil {
			return struct{}{}, err
		}
		known := map[string]int32{}
		for _, id := range partitionsOf(md) {
			known[strconv.Itoa(int(id))] = id
		}
		req := &sarama.OffsetCommitRequest{Version: 7, ConsumerGroup: group, ConsumerGroupGeneration: sarama.GroupGenerationUndefined, RetentionTime: -1}
		for partition, offset := range maps.All(positions) {
			id, ok := known[partition]
			if !ok || offset < 0 {
				return struct{}{}, fmt.Errorf("%w: partition %q, offset %d: the topic has the partitions 0 to %d, and offsets are 0 or more", errs.ErrInvalid, partition, offset, len(known)-1)
			}
			req.AddBlockWithLeaderEpoch(topic, id, offset, -1, 0, "")
		}
		var refused error // asking again is of no use
		err = c.coordinated(ctx, group, func(b *sarama.Broker) error {
			err := commit(b, req, len(positions))
			if errors.Is(err, errs.ErrConflict) {
				refused, err = err, nil
			}
			return err
		})
		return struct{}{}, errors.Join(refused, err)
	})
	return err
}

// commit commits as nobody's member, which the coordinator refuses while a group has any.
func commit(b *sarama.Broker, req *sarama.OffsetCommitRequest, want int) error {
	resp, err := b.CommitOffset(req)
	if err != nil {
		return err
	}
	answered := 0
	for _, partitions := range resp.Errors {
		for id, err := range partitions {
			answered++
			switch {
			case errors.Is(err, sarama.ErrUnknownMemberId), errors.Is(err, sarama.ErrIllegalGeneration), errors.Is(err, sarama.ErrRebalanceInProgress):
				return fmt.Errorf("%w: the group has members: %w", errs.ErrConflict, err)
			case err != sarama.ErrNoError:
				return fmt.Errorf("partition %d: %w", id, err)
			}
		}
	}
	if answered != want {
		return sarama.ErrIncompleteResponse
	}
	return nil
}
