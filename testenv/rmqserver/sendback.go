package rmqserver

// Sending back: 36 a message comes to its group again, or ends with the dead
// letters.

import (
	"math/rand/v2"

	"github.com/turnout-mq/turnout/broker/rocketmq/remoting"
)

func (b *Broker) sendBack(_ *conn, r *remoting.Command) (*remoting.Command, error) {
	f := fields{r: r}
	group, offset, level := f.text("group"), f.int("offset"), f.int("delayLevel")
	most := f.intOr("maxReconsumeTimes", -1)
	if f.err != nil {
		return nil, f.err
	}
	g, found, err := b.group(group)
	if err != nil {
		return nil, err
	}
	if !found {
		return nil, refuse(remoting.GroupNotExist, "subscription group not exist, %s", group)
	}
	if b.permission()&remoting.PermWrite == 0 {
		return nil, refuse(remoting.NoPermission, "the broker[%s] sending message is forbidden", b.advertised())
	}
	if g.RetryQueues <= 0 {
		return ok(r)
	}
	topic, queue := retryPrefix+group, rand.IntN(g.RetryQueues)
	t, err := b.ensureTopic(topic, g.RetryQueues)
	if err != nil {
		return nil, err
	}
	if t.Perm&remoting.PermWrite == 0 {
		return nil, refuse(remoting.NoPermission, "the topic[%s] sending message is forbidden", topic)
	}
	rec := b.store.at(offset)
	if rec == nil {
		return nil, refuse(remoting.SystemError, "look message by offset failed, %d", offset)
	}
	m := rec.message()
	p := properties(m.Properties).with(propWait, "false")
	if p.get(propRetryTopic) == "" {
		p = p.with(propRetryTopic, m.Topic)
	}
	if most < 0 {
		most = int64(g.RetryMaxTimes)
	}
	switch {
	case int64(m.ReconsumeTimes) >= most || level < 0:
		topic, queue = deadPrefix+group, 0
		if _, err := b.ensureTopic(topic, 1); err != nil {
			return nil, err
		}
		p = p.with(propDelay, "0")
	case level == 0:
		p = p.with(propDelay, str(3+m.ReconsumeTimes))
	default:
		p = p.with(propDelay, str(level))
	}
	if p.get(propOriginMessage) == "" {
		p = p.with(propOriginMessage, m.ID())
	}
	m.Topic, m.QueueID = topic, int32(queue)
	m.ReconsumeTimes++
	if _, err := b.put(m, p); err != nil {
		return nil, err
	}
	return ok(r)
}
