package kafka

import (
	"context"
	"errors"
	"strconv"
	"strings"
	"time"

	"github.com/turnout-mq/turnout/broker"
	"github.com/turnout-mq/turnout/internal/errs"
)

func retryTopic(group string) string { return "retry_" + group }
func deadTopic(group string) string  { return "dlq_" + group }

// Retry implements broker.Consumer.
func (c *Cluster) Retry(ctx context.Context, group string, d *broker.Delivery, delay time.Duration) error {
	m := c.again(d)
	m.Attempt++
	due := time.Now().Add(delay).UnixMilli()
	return c.keep(ctx, retryTopic(group), retryPartitions, d, &m, broker.Header{Name: headerDue, Value: strconv.FormatInt(due, 10)})
}

// DeadLetter implements broker.Consumer.
func (c *Cluster) DeadLetter(ctx context.Context, group string, d *broker.Delivery, cause string) error {
	m := c.again(d)
	cause = strings.Join(strings.Fields(cause), " ")
	if len(cause) > mostCause {
		cause = strings.ToValidUTF8(cause[:mostCause], "")
	}
	return c.keep(ctx, deadTopic(group), 1, d, &m, broker.Header{Name: headerCause, Value: cause})
}

const (
	retryPartitions = 8    // at most
	mostCause       = 1024 // bytes
	addedHeaders    = 16 << 10
)

// again is the message of d as it is stored a second time on this cluster.
func (c *Cluster) again(d *broker.Delivery) broker.Envelope {
	m := d.Envelope
	m.Delay = 0
	if m.Origin == "" {
		m.Origin = c.cfg.Name
	}
	return m
}

// keep stores m and waits for the answer; a missing topic is created.
func (c *Cluster) keep(ctx context.Context, topic string, partitions int, d *broker.Delivery, m *broker.Envelope, header broker.Header) error {
	more := []broker.Header{header, {Name: headerTopic, Value: firstTopic(d)}}
	err := c.store(ctx, topic, m, more)
	if errors.Is(err, errs.ErrUnknownTopic) {
		if err = c.provide(ctx, topic, d.Topic, partitions); err == nil {
			err = c.store(ctx, topic, m, more)
		}
	}
	return err
}

func (c *Cluster) store(ctx context.Context, topic string, m *broker.Envelope, more []broker.Header) error {
	result := make(chan error, 1)
	if err := c.send(ctx, topic, m, more, func(_ broker.Receipt, err error) { result <- err }); err != nil {
		return err
	}
	select {
	case err := <-result:
		return err
	case <-ctx.Done():
		return c.wrap("send to "+topic, ctx.Err())
	}
}

// provide creates topic for messages of the topic like, with as many partitions but at most most. It is no error when
// somebody else was quicker.
func (c *Cluster) provide(ctx context.Context, topic, like string, most int) error {
	info, err := c.DescribeTopic(ctx, like)
	if err != nil {
		return err
	}
	spec := broker.TopicSpec{Partitions: min(len(info.Partitions), most)}
	if info.MaxMessageBytes > 0 && !info.Fenced {
		spec.Config = map[string]string{maxMessageBytes: strconv.FormatInt(info.MaxMessageBytes+addedHeaders, 10)}
	}
	err = c.CreateTopic(ctx, topic, spec)
	if errors.Is(err, errs.ErrConflict) {
		return nil
	}
	return err
}

// Pending implements broker.Consumer. Kafka delays nothing.
func (c *Cluster) Pending(ctx context.Context, group, topic string) (broker.Pending, error) {
	var pending broker.Pending
	retries, dead := retryTopic(group), deadTopic(group)
	// Positions before end offsets: what arrives between the two is counted, what is finished between them not missed.
	positions, err := c.Positions(ctx, group, retries)
	if err == nil {
		pending.Retries, err = c.left(ctx, retries, positions)
	}
	if err == nil || errors.Is(err, errs.ErrUnknownTopic) {
		pending.DeadLetters, err = c.left(ctx, dead, nil)
	}
	if errors.Is(err, errs.ErrUnknownTopic) {
		err = nil
	}
	return pending, err
}

// left counts the messages of topic from the positions, or its start where that is later, to its end.
func (c *Cluster) left(ctx context.Context, topic string, positions broker.Offsets) (int64, error) {
	start, err := c.StartOffsets(ctx, topic)
	if err != nil {
		return 0, err
	}
	end, err := c.EndOffsets(ctx, topic)
	if err != nil {
		return 0, err
	}
	for name, offset := range positions {
		// a position beyond the end is of an earlier topic of that name
		if offset <= end[name] {
			start[name] = max(start[name], offset)
		}
	}
	return start.Missing(end), nil
}
