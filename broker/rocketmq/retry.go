package rocketmq

import (
	"context"
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/turnout-mq/turnout/broker"
	"github.com/turnout-mq/turnout/broker/rocketmq/remoting"
	"github.com/turnout-mq/turnout/internal/errs"
)

func retryTopic(group string) string      { return "%RETRY%" + group }
func deadLetterTopic(group string) string { return "%DLQ%" + group }

// retryLevel is the delay level of a retry: at least the first, at most the last.
func (c *Cluster) retryLevel(d time.Duration) int {
	if level, err := c.level(max(d, 1)); err == nil {
		return level
	}
	return len(c.levels)
}

// Retry implements broker.Consumer. The broker that has the message stores it again by itself; one that has it no more
// (it was retained too short) gets it sent. A delay longer than the longest level is that level.
func (c *Cluster) Retry(ctx context.Context, group string, d *broker.Delivery, delay time.Duration) error {
	ctx, cancel, err := c.ask(ctx)
	if err != nil {
		return err
	}
	defer cancel()
	return c.done("retry for group "+group, c.retry(ctx, group, d, c.retryLevel(delay)))
}

func (c *Cluster) retry(ctx context.Context, group string, d *broker.Delivery, level int) error {
	if n, ok := d.Native.(*native); ok {
		err := c.sendBack(ctx, group, n, level)
		if !remoting.HasCode(err, remoting.SystemError) {
			return err
		}
	}
	again := d.Envelope
	again.Attempt++
	if again.Origin == "" {
		again.Origin = c.cfg.Name
	}
	p := encode(&again, level)
	p[propRetryTopic] = firstTopic(d)
	if err := c.ensureTopic(ctx, retryTopic(group)); err != nil {
		return err
	}
	return c.storeSoon(ctx, retryTopic(group), p, &again)
}

// ensureTopic creates a retry or dead letter topic when it is missing, as a broker would: with one queue.
func (c *Cluster) ensureTopic(ctx context.Context, topic string) error {
	_, err := c.routes.get(ctx, topic, routeAge)
	if !errors.Is(err, errs.ErrUnknownTopic) {
		return err
	}
	if err = c.createTopic(ctx, topic, broker.TopicSpec{Partitions: 1}); errors.Is(err, errs.ErrConflict) {
		return nil
	}
	return err
}

// sendBack lets the broker of a message store it again.
func (c *Cluster) sendBack(ctx context.Context, group string, n *native, level int) error {
	r, err := c.routes.get(ctx, n.queue.Topic, routeAge)
	if err != nil {
		return err
	}
	addr := r.masters[n.queue.Broker]
	if addr == "" {
		return fmt.Errorf("%w: %q, which has the message", errUnavailable, n.queue.Broker)
	}
	s := remoting.SendBack{Group: group, Topic: n.queue.Topic, Broker: n.queue.Broker, PhysicalOffset: n.physical,
		MessageID: n.messageID, DelayLevel: level, MaxReconsume: math.MaxInt32}
	send := func() error {
		ctx, cancel := context.WithTimeout(ctx, callTimeout)
		defer cancel()
		return c.admin.SendBackMessage(ctx, addr, s)
	}
	if err = send(); remoting.HasCode(err, remoting.GroupNotExist) {
		if err = createGroup(ctx, c.admin, addr, group); err == nil {
			err = send()
		}
	}
	return err
}

// createGroup creates a group on a broker that does not create them by itself.
func createGroup(ctx context.Context, client *remoting.Client, addr, group string) error {
	_, err := call(ctx, func(ctx context.Context) (struct{}, error) {
		return struct{}{}, client.UpdateSubscriptionGroup(ctx, addr, remoting.NewSubscriptionGroup(group))
	})
	return err
}

// firstTopic is the physical topic that d was first read from.
func firstTopic(d *broker.Delivery) string {
	if n, ok := d.Native.(*native); ok {
		return n.topic
	}
	return d.Topic
}

// storeSoon is store for a caller that waits.
func (c *Cluster) storeSoon(ctx context.Context, topic string, properties map[string]string, m *broker.Envelope) error {
	return c.producer.detach(ctx, func() error {
		ctx, cancel := context.WithTimeout(ctx, sendTimeout)
		defer cancel()
		_, err := c.store(ctx, topic, properties, m.Key, m.Body)
		return err
	})
}

// DeadLetter implements broker.Consumer. It is an ordinary send, since a broker that moves a message by itself can add
// nothing to it.
func (c *Cluster) DeadLetter(ctx context.Context, group string, d *broker.Delivery, cause string) error {
	ctx, cancel, err := c.ask(ctx)
	if err != nil {
		return err
	}
	defer cancel()
	return c.done("dead letter of group "+group, c.deadLetter(ctx, group, d, cause))
}

func (c *Cluster) deadLetter(ctx context.Context, group string, d *broker.Delivery, cause string) error {
	topic := deadLetterTopic(group)
	if err := c.ensureTopic(ctx, topic); err != nil {
		return err
	}
	dead := d.Envelope
	if dead.Origin == "" {
		dead.Origin = c.cfg.Name
	}
	p := encode(&dead, 0)
	p[propCause] = oneLine(cause)
	p[propOriginTopic], p[propDLQTopic] = firstTopic(d), firstTopic(d)
	if n, ok := d.Native.(*native); ok {
		p[propDLQMessage] = n.messageID
	}
	return c.storeSoon(ctx, topic, p, &dead)
}

// oneLine makes s fit for a property: one line of at most 1000 bytes, never empty.
func oneLine(s string) string {
	out := make([]rune, 0, min(len(s), 1000))
	size := 0
	for _, r := range s { // bytes that are no UTF-8 arrive as U+FFFD
		if r < ' ' {
			r = ' '
		}
		if size += len(string(r)); size > 1000 {
			break
		}
		out = append(out, r)
	}
	if len(out) == 0 {
		return "?"
	}
	return string(out)
}

// Positions implements broker.Consumer.
func (c *Cluster) Positions(ctx context.Context, group, topic string) (broker.Offsets, error) {
	ctx, cancel, err := c.ask(ctx)
	if err != nil {
		return nil, err
	}
	defer cancel()
	out, err := c.positions(ctx, group, topic)
	return out, c.done("positions of group "+group+" on topic "+topic, err)
}

func (c *Cluster) positions(ctx context.Context, group, topic string) (broker.Offsets, error) {
	queues, addrs, err := c.queues(ctx, topic)
	if err != nil {
		return nil, err
	}
	return c.offsets(ctx, queues, addrs, func(ctx context.Context, addr string, q remoting.Queue) (int64, error) {
		n, found, _, err := c.admin.ConsumerOffset(ctx, addr, group, q)
		if err == nil && !found {
			return -1, nil
		}
		return n, err
	})
}

// Pending implements broker.Consumer. Delayed is counted by reading what the brokers have not delivered yet from their
// schedule, that of all topics: it takes a request for every 32 delayed messages of the cluster.
func (c *Cluster) Pending(ctx context.Context, group, topic string) (broker.Pending, error) {
	ctx, cancel, err := c.ask(ctx)
	if err != nil {
		return broker.Pending{}, err
	}
	defer cancel()
	p, err := c.pending(ctx, group, topic)
	return p, c.done("pending of group "+group+" on topic "+topic, err)
}

func (c *Cluster) pending(ctx context.Context, group, topic string) (p broker.Pending, err error) {
	// Delayed first: what leaves the schedule while we look is then found among the retries.
	if p.Delayed, err = c.delayed(ctx, topic, retryTopic(group)); err != nil {
		return p, fmt.Errorf("delayed: %w", err)
	}
	timed, uncounted, err := c.timed(ctx, topic)
	if err != nil {
		return p, fmt.Errorf("timers: %w", err)
	}
	p.Delayed, p.Uncounted = p.Delayed+timed, uncounted
	if p.Retries, err = c.unread(ctx, group, retryTopic(group)); err != nil {
		return p, fmt.Errorf("retries: %w", err)
	}
	if p.DeadLetters, err = c.unread(ctx, "", deadLetterTopic(group)); err != nil {
		return p, fmt.Errorf("dead letters: %w", err)
	}
	return p, nil
}

// unread is what group has not finished of topic, all there is without a group; 0 when there is no such topic.
func (c *Cluster) unread(ctx context.Context, group, topic string) (int64, error) {
	position := broker.Offsets{}
	var err error
	if group != "" {
		if position, err = c.positions(ctx, group, topic); err != nil {
			return 0, ignoreUnknownTopic(err)
		}
	}
	start, err := c.startOffsets(ctx, topic)
	if err != nil {
		return 0, ignoreUnknownTopic(err)
	}
	end, err := c.endOffsets(ctx, topic, nil)
	if err != nil {
		return 0, ignoreUnknownTopic(err)
	}
	var n int64
	for name, e := range end {
		at, ok := position[name]
		if !ok || at > e || at < start[name] {
			at = start[name]
		}
		n += max(0, e-at)
	}
	return n, nil
}

func ignoreUnknownTopic(err error) error {
	if errors.Is(err, errs.ErrUnknownTopic) {
		return nil
	}
	return err
}

const (
	scheduleTopic = "SCHEDULE_TOPIC_XXXX" // queue n-1 has the messages of delay level n
	toolsGroup    = "TOOLS_CONSUMER"      // a group that every broker has
)

// delayed counts the messages that wait in the brokers' schedules for one of topics.
func (c *Cluster) delayed(ctx context.Context, topics ...string) (int64, error) {
	masters, err := c.masters(ctx)
	if err != nil {
		return 0, err
	}
	wanted := map[string]bool{}
	for _, t := range topics {
		wanted[t] = true
	}
	var n int64
	for _, b := range masters {
		if err := c.indexed(ctx, b.Master()); err != nil {
			return 0, fmt.Errorf("broker %q: %w", b.Name, err)
		}
		delivered, err := call(ctx, func(ctx context.Context) (map[int]int64, error) { return c.admin.DelayOffsets(ctx, b.Master()) })
		if err != nil {
			return 0, fmt.Errorf("broker %q: %w", b.Name, err)
		}
		for level := range c.levels {
			q := remoting.Queue{Topic: scheduleTopic, Broker: b.Name, ID: level}
			m, err := c.countFrom(ctx, b.Master(), q, delivered[level+1], wanted)
			if err != nil {
				return 0, fmt.Errorf("broker %q: delay level %d: %w", b.Name, level+1, err)
			}
			n += m
		}
	}
	return n, nil
}

// countFrom counts the messages of q from offset on whose real topic is wanted.
func (c *Cluster) countFrom(ctx context.Context, addr string, q remoting.Queue, offset int64, wanted map[string]bool) (n int64, err error) {
	err = c.eachFrom(ctx, addr, q, offset, func(m *remoting.Message) {
		if wanted[remoting.ParseProperties(m.Properties)[propRealTopic]] {
			n++
		}
	})
	return n, err
}

// eachFrom calls f for the messages of q from offset on, up to the end that it has now.
func (c *Cluster) eachFrom(ctx context.Context, addr string, q remoting.Queue, offset int64, f func(*remoting.Message)) error {
	end, err := call(ctx, func(ctx context.Context) (int64, error) { return c.admin.MaxOffset(ctx, addr, q) })
	if err != nil {
		return err
	}
	for offset < end {
		r, err := call(ctx, func(ctx context.Context) (*remoting.PullResult, error) {
			return c.admin.PullMessages(ctx, addr, remoting.Pull{Group: toolsGroup, Queue: q, Offset: offset, Max: pullMax,
				Subscription: remoting.NewSubscription(q.Topic, "", 0)})
		})
		if err != nil {
			return err
		}
		for _, m := range r.Messages {
			if m.QueueOffset < end {
				f(m)
			}
		}
		if r.Next <= offset {
			break
		}
		offset = r.Next
	}
	return nil
}
