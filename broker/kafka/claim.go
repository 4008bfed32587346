package kafka

import (
	"context"
	"strconv"
	"sync"

	"github.com/IBM/sarama"

	"github.com/turnout-mq/turnout/broker"
)

// claim is one partition in the hands of the member.
type claim struct {
	session   sarama.ConsumerGroupSession
	source    sarama.ConsumerGroupClaim
	topic     string
	partition string
	number    int32
	retry     bool
	tags      map[string]bool
	out       chan *broker.Delivery

	// With a tag filter the position must also pass what was left out, or it never reaches the end.
	mu       sync.Mutex
	handed   int64 // one more than the offset of the last message that was handed over
	finished int64 // the largest next that was committed
	skipped  int64 // one more than the last offset that was left out since then
}

// ahead is how many messages are decoded before somebody asks for them.
const ahead = 16

func newClaim(r *member, s sarama.ConsumerGroupSession, source sarama.ConsumerGroupClaim) *claim {
	return &claim{
		session:   s,
		source:    source,
		topic:     source.Topic(),
		partition: strconv.Itoa(int(source.Partition())),
		number:    source.Partition(),
		retry:     source.Topic() == r.retry,
		tags:      r.tags,
		out:       make(chan *broker.Delivery, ahead),
		handed:    source.InitialOffset(),
		finished:  source.InitialOffset(),
	}
}

func (c *claim) Topic() string                     { return c.topic }
func (c *claim) Partition() string                 { return c.partition }
func (c *claim) Retry() bool                       { return c.retry }
func (c *claim) Messages() <-chan *broker.Delivery { return c.out }

// pump hands over until ctx or the source ends. What nobody has taken then is taken back.
func (c *claim) pump(ctx context.Context) {
	defer func() {
		for {
			select {
			case <-c.out:
				continue
			default:
			}
			close(c.out)
			return
		}
	}()
	for {
		var record *sarama.ConsumerMessage
		var more bool
		select { // without a second case where there is no need to wait: it costs a third
		case record, more = <-c.source.Messages():
		default:
			select {
			case record, more = <-c.source.Messages():
			case <-ctx.Done():
			}
		}
		if !more {
			return
		}
		d := delivery(record, c.partition, c.retry)
		if c.tags != nil && !c.retry && !c.wanted(d) {
			continue
		}
		select {
		case c.out <- d:
		default:
			select {
			case c.out <- d:
			case <-ctx.Done():
				return
			}
		}
	}
}

// wanted applies the tag filter and remembers what becomes of d.
func (c *claim) wanted(d *broker.Delivery) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.tags[d.Tag] {
		c.handed = d.Offset + 1
		return true
	}
	c.skipped = d.Offset + 1
	c.mark()
	return false
}

// Commit implements broker.Claim.
func (c *claim) Commit(next int64) {
	if c.tags == nil || c.retry {
		c.session.MarkOffset(c.topic, c.number, next, "")
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.finished = max(c.finished, next)
	c.mark()
}

// mark: the position may pass what was left out when everything that was handed over before is finished.
func (c *claim) mark() {
	next := c.finished
	if next >= c.handed {
		next = max(next, c.skipped)
	}
	c.session.MarkOffset(c.topic, c.number, next, "")
}
