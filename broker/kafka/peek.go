package kafka

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strconv"

	"github.com/IBM/sarama"
	"github.com/cenkalti/backoff/v5"

	"github.com/turnout-mq/turnout/broker"
	"github.com/turnout-mq/turnout/internal/errs"
)

// peekBytes is the most that one fetch of Peek asks for; a broker gives a larger batch nevertheless when it is the first.
const peekBytes = 1 << 20

// peeked is what Peek has found so far.
type peeked struct {
	topic, partition string
	number           int32
	isolation        sarama.IsolationLevel
	limit            int
	messages         []broker.Delivery
	next             int64 // what is below was looked at
	end              int64 // what is at it and above is not visible
}

// Peek implements broker.Mover.
func (c *Cluster) Peek(ctx context.Context, topic, partition string, at int64, limit int) ([]broker.Delivery, int64, error) {
	what := fmt.Sprintf("peek into partition %s of topic %s", partition, topic)
	if at < 0 || limit < 1 {
		return nil, 0, c.wrap(what, fmt.Errorf("%w: at %d, limit %d: must be 0 or more, and 1 or more", errs.ErrInvalid, at, limit))
	}
	p, err := call(ctx, c, what, func() (*peeked, error) {
		t, err := c.lookup(topic)
		if err != nil {
			return nil, err
		}
		p := &peeked{topic: topic, partition: partition, isolation: c.set.isolation, limit: limit, next: at}
		i := slices.IndexFunc(t.Partitions, func(m *sarama.PartitionMetadata) bool { return strconv.Itoa(int(m.ID)) == partition })
		if i < 0 {
			return nil, fmt.Errorf("%w: the topic has no such partition", errs.ErrInvalid)
		}
		p.number = t.Partitions[i].ID
		return p, c.peek(ctx, p)
	})
	if err != nil {
		return nil, 0, err
	}
	return p.messages, p.next, nil
}

// peek looks until it has messages, is at the end, or at what is not decided; again where a leader has changed.
func (c *Cluster) peek(ctx context.Context, p *peeked) error {
	size := int32(min(p.limit<<12, peekBytes))
	return until(ctx, func() error {
		for ctx.Err() == nil {
			whole, err := c.peekOnce(p, size)
			switch {
			case err != nil && c.Classify(c.wrap("", err)) != broker.Retry:
				return backoff.Permanent(err)
			case err != nil:
				_ = c.ask.RefreshMetadata(p.topic)
				return err
			case whole && (len(p.messages) > 0 || p.next >= p.end):
				return nil
			case whole:
			case size == 1:
				return sarama.ErrIncompleteResponse
			case size < peekBytes: // perhaps behind many empty ones
				size = min(size*16, peekBytes)
			default:
				size = 1 // gives one batch, whatever its size
			}
		}
		return ctx.Err()
	})
}

// peekOnce looks at what one fetch gives; false: that was only the begin of a batch.
func (c *Cluster) peekOnce(p *peeked, size int32) (whole bool, err error) {
	leader, err := c.ask.Leader(p.topic, p.number)
	if err != nil {
		return false, err
	}
	req := &sarama.FetchRequest{Version: 10, MaxBytes: size, Isolation: p.isolation, SessionEpoch: -1}
	req.AddBlock(p.topic, p.number, p.next, size, -1)
	resp, err := leader.Fetch(req)
	if err != nil {
		_ = leader.Close()
		return false, err
	}
	block := resp.GetBlock(p.topic, p.number)
	if block == nil { // the broker has throttled us
		return false, sarama.ErrIncompleteResponse
	}
	switch block.Err {
	case sarama.ErrNoError:
	case sarama.ErrOffsetOutOfRange:
		return true, c.peekRange(p)
	default:
		return false, block.Err
	}
	p.end = block.HighWaterMarkOffset
	if p.isolation == sarama.ReadCommitted {
		p.end = block.LastStableOffset
	}
	if len(block.RecordsSet) == 0 && !block.Partial {
		return true, c.peekEmpty(p, block)
	}
	return p.read(block)
}

// peekRange: the offset is below the first or beyond the end.
func (c *Cluster) peekRange(p *peeked) error {
	first, err := c.offsetsOf(p, sarama.OffsetOldest)
	if err != nil {
		return err
	}
	if p.end, err = c.offsetsOf(p, sarama.OffsetNewest); err != nil {
		return err
	}
	p.next = min(max(p.next, first), p.end)
	return nil
}

func (c *Cluster) offsetsOf(p *peeked, at int64) (int64, error) {
	found := broker.Offsets{}
	err := c.offsetsOnce(p.topic, []int32{p.number}, at, p.isolation, found)
	return found[p.partition], err
}

// peekEmpty: there is no record in the answer, but perhaps batches that compaction has emptied. sarama does not hand them out; it
// keeps the offset behind them to itself.
func (c *Cluster) peekEmpty(p *peeked, block *sarama.FetchResponseBlock) error {
	if p.next >= p.end {
		return nil
	}
	behind := reflect.ValueOf(block).Elem().FieldByName("recordsNextOffset")
	switch {
	case behind.Kind() != reflect.Pointer || behind.Type().Elem().Kind() != reflect.Int64:
		p.next++ // a later sarama; that there is no message at this offset is certain
		return nil
	case !behind.IsNil():
		p.next = max(p.next, behind.Elem().Int())
		return nil
	}
	// No batch at all: compaction has emptied the end of the partition. Or the leader did not get old messages from its remote
	// storage in time; topics with one are not compacted.
	entries, err := c.config(p.topic)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.Name == "remote.storage.enable" && e.Value == "true" {
			return backoff.Permanent(errors.New("the remote storage of the topic did not answer in time"))
		}
	}
	p.next = p.end
	return nil
}

// read takes the messages of a block; false: there was not one whole batch.
func (p *peeked) read(block *sarama.FetchResponseBlock) (whole bool, err error) {
	aborted := block.AbortedTransactions
	slices.SortFunc(aborted, func(a, b *sarama.AbortedTransaction) int { return int(a.FirstOffset - b.FirstOffset) })
	failed := map[int64]bool{} // producers in a transaction that was aborted
	for _, set := range block.RecordsSet {
		batch := set.RecordBatch
		if batch == nil {
			return false, fmt.Errorf("%w: offset %d is stored in the message format of Kafka 0.10 or earlier", errs.ErrUnsupported, p.next)
		}
		if batch.PartialTrailingRecord {
			break
		}
		for ; len(aborted) > 0 && aborted[0].FirstOffset <= batch.LastOffset(); aborted = aborted[1:] {
			failed[aborted[0].ProducerID] = true
		}
		switch {
		case batch.Control:
			if aborts(batch) {
				delete(failed, batch.ProducerID)
			}
		case batch.IsTransactional && failed[batch.ProducerID]:
		default:
			if p.take(batch) {
				return true, nil
			}
		}
		whole = true
		p.next = max(p.next, batch.LastOffset()+1)
	}
	return whole, nil
}

// take takes the messages of a batch; true: there are enough.
func (p *peeked) take(batch *sarama.RecordBatch) bool {
	for _, r := range batch.Records {
		offset := batch.FirstOffset + r.OffsetDelta
		if offset < p.next {
			continue
		}
		m := &sarama.ConsumerMessage{Topic: p.topic, Partition: p.number, Offset: offset, Key: r.Key, Value: r.Value, Headers: r.Headers,
			Timestamp: batch.FirstTimestamp.Add(r.TimestampDelta)}
		if batch.LogAppendTime {
			m.Timestamp = batch.MaxTimestamp
		}
		var d broker.Delivery
		decode(&d, m, p.partition, false)
		if batch.ProducerID >= 0 {
			d.Writer = "producer " + strconv.FormatInt(batch.ProducerID, 10)
		}
		p.messages = append(p.messages, d)
		p.next = offset + 1
		if len(p.messages) == p.limit {
			return true
		}
	}
	return false
}

// aborts says whether a control batch is the marker of an aborted transaction: its key is a version and a type, 0 for abort.
func aborts(batch *sarama.RecordBatch) bool {
	for _, r := range batch.Records {
		if len(r.Key) >= 4 {
			return binary.BigEndian.Uint16(r.Key[2:]) == 0
		}
	}
	return false
}
