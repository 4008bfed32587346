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
	ctx       context.Context
	end       context.CancelFunc // of ctx: the source has ended

	// With a tag filter the position must also pass what was left out, or it never reaches the end.
	mu       sync.Mutex
	handed   int64 // one more than the offset of the last message that was handed over
	finished int64 // the largest next that was committed
	skipped  int64 // one more than the last offset that was left out since then
}

func newClaim(r *member, s sarama.ConsumerGroupSession, source sarama.ConsumerGroupClaim) *claim {
	ctx, end := context.WithCancel(s.Context())
	return &claim{
		ctx:       ctx,
		end:       end,
		session:   s,
		source:    source,
		topic:     source.Topic(),
		partition: strconv.Itoa(int(source.Partition())),
		number:    source.Partition(),
		retry:     source.Topic() == r.retry,
		tags:      r.tags,
		handed:    source.InitialOffset(),
		finished:  source.InitialOffset(),
	}
}

func (c *claim) Topic() string     { return c.topic }
func (c *claim) Partition() string { return c.partition }
func (c *claim) Retry() bool       { return c.retry }

// Take implements broker.Claim.
func (c *claim) Take(into []broker.Delivery) int {
	if c.ctx.Err() != nil {
		return 0 // what sarama still has belongs to the next owner
	}
	for n := 0; ; {
		record, more := c.receive(n == 0)
		switch {
		case record != nil:
			d := &into[n]
			decode(d, record, c.partition, c.retry)
			if c.tags == nil || c.retry || c.wanted(d) {
				n++
			}
		case !more:
			c.end()
			return n
		}
		if record == nil || n == len(into) {
			return n
		}
	}
}

// receive returns the next record; nil: more says that the claim goes on and only has none now, when it is not to wait.
func (c *claim) receive(wait bool) (record *sarama.ConsumerMessage, more bool) {
	select { // without a second case where there is no need to wait: it costs a third
	case record, more = <-c.source.Messages():
		return record, more
	default:
	}
	if !wait {
		return nil, true
	}
	select {
	case record, more = <-c.source.Messages():
	case <-c.ctx.Done():
	}
	return record, more
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
