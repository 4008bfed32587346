package kafka

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"time"

	"github.com/IBM/sarama"
	"github.com/cenkalti/backoff/v5"

	"github.com/turnout-mq/turnout/broker"
	"github.com/turnout-mq/turnout/internal/errs"
)

const (
	maxMessageBytes = "max.message.bytes"
	fenceBytes      = 1  // a max.message.bytes of so much or less is a fence
	batchOverhead   = 61 // bytes of a record batch beside its records
	looksToChange   = 8  // looks after which a leader that goes on refusing is given a change
)

// Fence implements broker.Mover: max.message.bytes becomes 0.
func (c *Cluster) Fence(ctx context.Context, topic string) error {
	_, err := call(ctx, c, "fence topic "+topic, func() (none, error) {
		if _, err := c.lookup(topic); err != nil {
			return none{}, err
		}
		return none{}, c.setLimit(topic, "0")
	})
	return err
}

// Fenced implements broker.Mover.
func (c *Cluster) Fenced(ctx context.Context, topic string) error {
	_, err := call(ctx, c, "fence of topic "+topic, func() (none, error) {
		t, err := c.lookup(topic)
		if err != nil {
			return none{}, err
		}
		return none{}, c.acts(ctx, topic, partitionsOf(t), true)
	})
	return err
}

// Unfence implements broker.Mover. It looks for 10 s.
func (c *Cluster) Unfence(ctx context.Context, topic, restore string) error {
	what := "unfence topic " + topic
	if n, err := strconv.ParseInt(restore, 10, 32); restore != "" && (err != nil || n <= batchOverhead) {
		return c.wrap(what, fmt.Errorf("%w: restore %q: must be a max.message.bytes above %d, or empty for the broker's default",
			errs.ErrInvalid, restore, batchOverhead))
	}
	_, err := call(ctx, c, what, func() (none, error) {
		t, err := c.lookup(topic)
		if err != nil {
			return none{}, err
		}
		if err := c.setLimit(topic, restore); err != nil {
			return none{}, err
		}
		looks := 0
		return none{}, until(ctx, func() error {
			err := c.acts(ctx, topic, partitionsOf(t), false)
			// A leader takes up changes alone, and may have kept the limit of a topic of that name that was deleted.
			if looks++; errors.Is(err, errs.ErrConflict) && looks%looksToChange == 0 {
				err = errors.Join(c.setLimit(topic, strconv.Itoa(fenceBytes)), c.setLimit(topic, restore), err)
			}
			if err != nil && c.Classify(c.wrap("", err)) != broker.Retry {
				return backoff.Permanent(err)
			}
			return err
		})
	})
	return err
}

// setLimit makes value the topic's own max.message.bytes; "": it has none. Any broker hands it on to the controller.
func (c *Cluster) setLimit(topic, value string) error {
	entry := sarama.IncrementalAlterConfigsEntry{Operation: sarama.IncrementalAlterConfigsOperationSet, Value: &value}
	if value == "" {
		entry = sarama.IncrementalAlterConfigsEntry{Operation: sarama.IncrementalAlterConfigsOperationDelete}
	}
	req := &sarama.IncrementalAlterConfigsRequest{Resources: []*sarama.IncrementalAlterConfigsResource{{
		Type: sarama.TopicResource, Name: topic, ConfigEntries: map[string]sarama.IncrementalAlterConfigsEntry{maxMessageBytes: entry},
	}}}
	resp, err := request(c, func(b *sarama.Broker) (*sarama.IncrementalAlterConfigsResponse, error) {
		return b.IncrementalAlterConfigs(req)
	})
	if err != nil {
		return err
	}
	if len(resp.Resources) != 1 {
		return sarama.ErrIncompleteResponse
	}
	if r := resp.Resources[0]; r.ErrorCode != int16(sarama.ErrNoError) {
		return &sarama.AlterConfigError{Err: sarama.KError(r.ErrorCode), ErrMsg: r.ErrorMsg}
	}
	return nil
}

// acts returns nil when the leaders of all partitions are fenced, or open, as asked.
func (c *Cluster) acts(ctx context.Context, topic string, partitions []int32, fenced bool) error {
	if err := c.ask.RefreshMetadata(topic); err != nil {
		return err
	}
	leaders, err := c.leaders(topic, partitions)
	if err != nil {
		return err
	}
	err = each(leaders, func(b *sarama.Broker, ids []int32) error { return probe(b, topic, ids, fenced) })
	if !errors.Is(err, sarama.ErrTopicAuthorizationFailed) {
		return err
	}
	// Not permitted to write: their settings tell what leaders do, and their end offsets that nobody gets through.
	before, err := c.offsets(ctx, topic, partitions, sarama.OffsetNewest)
	if err != nil {
		return err
	}
	err = each(leaders, func(b *sarama.Broker, ids []int32) error {
		entries, err := describe(b, sarama.TopicResource, topic)
		if err == nil && entries == nil {
			err = errs.ErrNotAllowed
		}
		if err != nil {
			return fmt.Errorf("partition %d: neither WRITE nor DESCRIBE_CONFIGS on the topic: %w", ids[0], err)
		}
		if is := limitIn(entries) <= fenceBytes; is != fenced {
			return other(b, ids[0], is)
		}
		return nil
	})
	if err != nil || !fenced {
		return err
	}
	after, err := c.offsets(ctx, topic, partitions, sarama.OffsetNewest)
	for name, end := range after {
		if before[name] != end {
			return fmt.Errorf("partition %s: %w: it was written while it was looked at", name, errs.ErrConflict)
		}
	}
	return err
}

// other says that a partition is not what was asked for.
func other(b *sarama.Broker, partition int32, fenced bool) error {
	is := "takes messages"
	if fenced {
		is = "refuses messages"
	}
	return fmt.Errorf("partition %d: %w: its leader %s %s", partition, errs.ErrConflict, b.Addr(), is)
}

// probe sends a leader what no broker can store: a control batch, which clients may not write, of no records, of which
// there is nothing to write. A broker looks at the size of a batch first, and only then into it.
func probe(b *sarama.Broker, topic string, partitions []int32, fenced bool) error {
	req := &sarama.ProduceRequest{Version: 7, RequiredAcks: sarama.WaitForLocal, Timeout: int32(netTimeout / 2 / time.Millisecond)}
	now := time.Now()
	for _, p := range partitions {
		req.AddBatch(topic, p, &sarama.RecordBatch{
			Version: 2, Control: true, FirstTimestamp: now, MaxTimestamp: now, ProducerID: -1, ProducerEpoch: -1, FirstSequence: -1,
		})
	}
	resp, err := b.Produce(req)
	if err != nil {
		_ = b.Close()
		return fmt.Errorf("partition %d: leader %s: %w", partitions[0], b.Addr(), err)
	}
	for _, p := range partitions {
		block := resp.GetBlock(topic, p)
		if block == nil {
			return fmt.Errorf("partition %d: leader %s: %w", p, b.Addr(), sarama.ErrIncompleteResponse)
		}
		var is bool
		switch block.Err {
		case sarama.ErrMessageSizeTooLarge:
			is = true
		case sarama.ErrInvalidRecord, sarama.ErrInvalidMessage:
		default:
			return fmt.Errorf("partition %d: leader %s: %w", p, b.Addr(), block.Err)
		}
		if is != fenced {
			return other(b, p, is)
		}
	}
	return nil
}

// leaders of partitions, as far as the client knows them.
func (c *Cluster) leaders(topic string, partitions []int32) (map[*sarama.Broker][]int32, error) {
	leaders := make(map[*sarama.Broker][]int32)
	for _, p := range partitions {
		leader, err := c.ask.Leader(topic, p)
		if err != nil {
			return nil, fmt.Errorf("partition %d: %w", p, err)
		}
		leaders[leader] = append(leaders[leader], p)
	}
	return leaders, nil
}

// each asks all leaders at once. Of several errors it returns what a leader has said before that one could not be asked.
func each(leaders map[*sarama.Broker][]int32, ask func(b *sarama.Broker, partitions []int32) error) (failed error) {
	var all sync.WaitGroup
	var mu sync.Mutex
	for leader, partitions := range leaders {
		all.Go(func() {
			err := ask(leader, partitions)
			mu.Lock()
			defer mu.Unlock()
			if failed == nil || errors.Is(err, errs.ErrConflict) {
				failed = err
			}
		})
	}
	all.Wait()
	return failed
}
