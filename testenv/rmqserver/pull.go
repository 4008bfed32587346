package rmqserver

// Pulling: 11, and 361 which is the same here.
//
// Filters by tag compare hashes, as brokers do. A pull that finds nothing is
// held as long as it asks, to the tick, where a real broker looks every 5 s. Not
// done: SQL92 filters and class filters, slaves, cold data, broadcast positions
// kept by the broker.

import (
	"slices"
	"time"

	"github.com/turnout-mq/turnout/broker/rocketmq/remoting"
)

const (
	maxPulled  = 32        // messages of an answer
	maxBytes   = 256 << 10 // of an answer, but for the first message
	maxScanned = 800       // records that a filter passes over in one pull
)

// asked is what a pull asks for.
type asked struct {
	group       string
	queue       queueKey
	offset, max int64
	flags       int64
	commit      int64
	suspend     time.Duration
	filter      remoting.Subscription
}

// heldPull waits for a message.
type heldPull struct {
	c     *conn
	r     *remoting.Command
	p     asked
	until time.Time
}

func (b *Broker) pull(c *conn, r *remoting.Command) (*remoting.Command, error) {
	f := fields{r: r}
	p := asked{group: f.text("consumerGroup"), queue: queueKey{f.text("topic"), int(f.int("queueId"))}, offset: f.int("queueOffset"),
		max: f.int("maxMsgNums"), flags: f.int("sysFlag"), commit: f.intOr("commitOffset", 0),
		suspend: time.Duration(f.intOr("suspendTimeoutMillis", 0)) * time.Millisecond}
	version := f.intOr("subVersion", 0)
	if f.err != nil {
		return nil, f.err
	}
	if b.permission()&remoting.PermRead == 0 {
		return nil, refuse(remoting.NoPermission, "the broker[%s] pulling message is forbidden", b.advertised())
	}
	g, found, err := b.group(p.group)
	if err != nil {
		return nil, err
	}
	if !found {
		return nil, refuse(remoting.GroupNotExist, "subscription group [%s] does not exist", p.group)
	}
	if !g.ConsumeEnable {
		return nil, refuse(remoting.NoPermission, "subscription group no permission, %s", p.group)
	}
	t, found := b.store.topics[p.queue.topic]
	if !found {
		return nil, refuse(remoting.TopicNotExist, "topic[%s] not exist, apply first please!", p.queue.topic)
	}
	if t.Perm&remoting.PermRead == 0 {
		return nil, refuse(remoting.NoPermission, "the topic[%s] pulling message is forbidden", p.queue.topic)
	}
	if p.queue.id < 0 || p.queue.id >= t.ReadQueues {
		return nil, refuse(remoting.InvalidParameter, "queueId[%d] is illegal, topic:[%s] topicConfig.readQueueNums:[%d] consumer:[%s]",
			p.queue.id, p.queue.topic, t.ReadQueues, c.remote)
	}
	if p.filter, err = b.filter(r, p, g, version); err != nil {
		return nil, err
	}
	if p.flags&remoting.PullCommit != 0 {
		if err := b.store.commit(p.group, p.queue.topic, p.queue.id, p.commit); err != nil {
			return nil, err
		}
	}
	a := b.look(r, p)
	if a.Code == remoting.PullNotFound && p.flags&remoting.PullSuspend != 0 && !r.IsOneWay() {
		b.held[p.queue] = append(b.held[p.queue], &heldPull{c: c, r: r, p: p, until: time.Now().Add(p.suspend)})
		return nil, nil
	}
	return a, nil
}

// filter is the subscription by which p is answered.
func (b *Broker) filter(r *remoting.Command, p asked, g remoting.SubscriptionGroup, version int64) (remoting.Subscription, error) {
	if p.flags&remoting.PullSubscription != 0 {
		if kind := r.Fields["expressionType"]; kind != "" && kind != tagExpression {
			return remoting.Subscription{}, refuse(remoting.SystemError, "The broker does not support consumer to filter message by %s", kind)
		}
		return remoting.NewSubscription(p.queue.topic, r.Fields["subscription"], version), nil
	}
	online := b.consumers[p.group]
	if online == nil {
		return remoting.Subscription{}, refuse(remoting.SubscriptionNotExist, "the consumer's group info not exist")
	}
	if !g.ConsumeBroadcast && online.model == broadcasting {
		return remoting.Subscription{}, refuse(remoting.NoPermission, "the consumer group[%s] can not consume by broadcast way", p.group)
	}
	s, found := online.subscriptions[p.queue.topic]
	switch {
	case !found:
		return s, refuse(remoting.SubscriptionNotExist, "the consumer's subscription not exist")
	case s.Version < version:
		return s, refuse(remoting.SubscriptionNotLatest, "the consumer's subscription not latest")
	case s.ExpressionType != "" && s.ExpressionType != tagExpression:
		return s, refuse(remoting.SystemError, "The broker does not support consumer to filter message by %s", s.ExpressionType)
	}
	return s, nil
}

const tagExpression = "TAG"

// matches compares the hashes of tags.
func matches(s remoting.Subscription, r *record) bool {
	return len(s.Codes) == 0 || r.tagged && slices.Contains(s.Codes, r.tagCode)
}

// look answers a pull from what there is.
func (b *Broker) look(r *remoting.Command, p asked) *remoting.Command {
	q := b.store.queues[p.queue]
	first, end := q.begin(), q.end()
	answer := func(code int, status string, next int64, body []byte) *remoting.Command {
		return r.Answer(code, status, body, "nextBeginOffset", str(next), "minOffset", str(first), "maxOffset", str(end),
			"suggestWhichBrokerId", "0", "topicSysFlag", "0", "groupSysFlag", "0")
	}
	resets := b.resets[groupTopic{p.group, p.queue.topic}]
	if to, reset := resets[p.queue.id]; reset {
		delete(resets, p.queue.id)
		return answer(remoting.PullOffsetMoved, "OFFSET_RESET", to, nil)
	}
	switch {
	case end == 0 && p.offset == 0:
		return answer(remoting.PullNotFound, "NO_MESSAGE_IN_QUEUE", 0, nil)
	case end == 0:
		return answer(remoting.PullOffsetMoved, "NO_MESSAGE_IN_QUEUE", 0, nil)
	case p.offset < first:
		return answer(remoting.PullOffsetMoved, "OFFSET_TOO_SMALL", first, nil)
	case p.offset == end:
		return answer(remoting.PullNotFound, "OFFSET_OVERFLOW_ONE", end, nil)
	case p.offset > end:
		return answer(remoting.PullOffsetMoved, "OFFSET_OVERFLOW_BADLY", end, nil)
	}
	var out []byte
	count, next := int64(0), p.offset
	for ; next < end && next-p.offset < max(maxScanned, p.max); next++ {
		rec := q.records[next-first]
		if count > 0 && (count >= min(p.max, maxPulled) || len(out)+len(rec.stored) > maxBytes) {
			break
		}
		if matches(p.filter, rec) {
			out = append(out, rec.stored...)
			count++
		}
	}
	if count == 0 {
		return answer(remoting.PullRetryImmediately, "NO_MATCHED_MESSAGE", next, nil)
	}
	return answer(remoting.Success, "FOUND", next, out)
}

// wakePulls answers the pulls that wait for rec. Needs mu.
func (b *Broker) wakePulls(key queueKey, rec *record) {
	b.endPulls(key, func(h *heldPull) bool { return matches(h.p.filter, rec) })
}

// endPulls answers the pulls on a queue that have waited enough.
func (b *Broker) endPulls(key queueKey, enough func(*heldPull) bool) {
	held := b.held[key]
	if len(held) == 0 {
		return
	}
	held = slices.DeleteFunc(held, func(h *heldPull) bool {
		if !enough(h) {
			return false
		}
		h.c.answer(h.r, b.look(h.r, h.p))
		return true
	})
	if b.held[key] = held; len(held) == 0 {
		delete(b.held, key)
	}
}

// expirePulls answers those whose time is over. Needs mu.
func (b *Broker) expirePulls(now time.Time) {
	for key := range b.held {
		b.endPulls(key, func(h *heldPull) bool { return !now.Before(h.until) })
	}
}

// dropPulls forgets those of a connection that has ended. Needs mu.
func (b *Broker) dropPulls(c *conn) {
	for key, held := range b.held {
		held = slices.DeleteFunc(held, func(h *heldPull) bool { return h.c == c })
		if b.held[key] = held; len(held) == 0 {
			delete(b.held, key)
		}
	}
}
