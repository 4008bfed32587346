package rmqserver

// Sending: 10 one message, 310 the same with short field names, 320 a batch.
//
// Bodies are stored as they come, compressed or not. Not done: 324 and 325
// (request and reply), batches that are stored as one (batch consume queues),
// compaction topics, multi-tag topics, 370 (recall).

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/turnout-mq/turnout/broker/rocketmq/remoting"
)

// sending is the header of a request that sends.
type sending struct {
	group, topic, defaultTopic string
	defaultQueues, queue       int64
	sysFlag, flag, born        int64
	properties                 properties
	reconsume, maxReconsume    int64 // maxReconsume is -1 when the request does not say
	batch                      bool
}

func parseSending(r *remoting.Command) (sending, error) {
	f := fields{r: r}
	names := []string{"producerGroup", "topic", "defaultTopic", "defaultTopicQueueNums", "queueId", "sysFlag", "bornTimestamp",
		"flag", "properties", "reconsumeTimes", "maxReconsumeTimes", "batch"}
	if r.Code != remoting.ReqSendMessage {
		names = []string{"a", "b", "c", "d", "e", "f", "g", "h", "i", "j", "l", "m"}
	}
	s := sending{group: f.text(names[0]), topic: f.text(names[1]), defaultTopic: f.text(names[2]), defaultQueues: f.int(names[3]),
		queue: f.int(names[4]), sysFlag: f.int(names[5]), born: f.int(names[6]), flag: f.int(names[7]),
		properties: properties(r.Fields[names[8]]), reconsume: f.intOr(names[9], 0), maxReconsume: f.intOr(names[10], -1),
		batch: f.bool(names[11]) || r.Code == remoting.ReqSendBatch}
	return s, f.err
}

func (s *sending) delayLevel() int { return delayLevel(s.properties) }

func (b *Broker) send(c *conn, r *remoting.Command) (*remoting.Command, error) {
	s, err := parseSending(r)
	if err != nil {
		return nil, err
	}
	t, err := b.writableTopic(&s)
	if err != nil {
		return nil, err
	}
	if s.queue < 0 {
		if t.WriteQueues <= 0 {
			return nil, fmt.Errorf("the topic[%s] has no queue to write to", s.topic)
		}
		s.queue = rand.Int64N(int64(t.WriteQueues))
	}
	s.properties = s.properties.without(propPopCheck).with(propRegion, "DefaultRegion").with(propTrace, b.settings["traceOn"])
	var first *record
	var ids []string
	transaction := ""
	if s.batch {
		if first, ids, err = b.sendBatch(c, r, s); err != nil {
			return nil, err
		}
	} else {
		if first, err = b.sendOne(c, r, &s); err != nil {
			return nil, err
		}
		ids, transaction = []string{first.message().ID()}, s.properties.get(propUniqueKey)
	}
	return ok(r, "msgId", strings.Join(ids, ","), "queueId", str(s.queue), "queueOffset", str(first.offset),
		"transactionId", transaction, propRegion, "DefaultRegion", propTrace, b.settings["traceOn"])
}

// writableTopic is the topic that s goes to; it may be created for it.
func (b *Broker) writableTopic(s *sending) (t remoting.TopicConfig, err error) {
	if err := checkTopicName(s.topic); err != nil {
		return t, err
	}
	if notForClients(s.topic) {
		return t, refuse(remoting.NoPermission, "Sending message to topic[%s] is forbidden.", s.topic)
	}
	t, found := b.store.topics[s.topic]
	if !found {
		switch like := b.store.topics[s.defaultTopic]; {
		case like.Perm&remoting.PermInherit != 0:
			t = newTopic(s.topic, int(max(0, min(s.defaultQueues, int64(like.WriteQueues)))), like.Perm&^remoting.PermInherit)
		case strings.HasPrefix(s.topic, retryPrefix):
			t = newTopic(s.topic, 1, readWrite)
		default:
			return t, refuse(remoting.TopicNotExist, "topic[%s] not exist, apply first please!", s.topic)
		}
		if err := b.setTopic(t); err != nil {
			return t, err
		}
	}
	if s.queue >= int64(max(t.WriteQueues, t.ReadQueues)) {
		return t, refuse(remoting.InvalidParameter, "request queueId[%d] is illegal, %+v", s.queue, t)
	}
	return t, nil
}

// checkSize refuses what a broker does not store.
func (b *Broker) checkSize(body []byte, p properties) error {
	if len(body) == 0 {
		return refuse(remoting.SystemError, "the message has no body")
	}
	if most := b.maxMessageSize(); len(body) > most || len(p) > 1<<15-1 {
		return refuse(remoting.MessageIllegal, "the message is illegal, maybe msg body or properties length not matched. "+
			"msg body length limit %dB, msg properties length limit 32KB.", most)
	}
	return nil
}

func (b *Broker) sendOne(c *conn, r *remoting.Command, s *sending) (*record, error) {
	topic, queue := s.topic, s.queue
	if group, isRetry := strings.CutPrefix(s.topic, retryPrefix); isRetry {
		dead, err := b.retriedEnough(group, s)
		if err != nil {
			return nil, err
		}
		if dead {
			topic, queue = deadPrefix+group, 0
			s.properties = s.properties.with(propDelay, "-1")
			if _, err := b.ensureTopic(topic, 1); err != nil {
				return nil, err
			}
		}
	}
	if s.properties.get(propUniqueKey) == "" {
		s.properties = s.properties.with(propUniqueKey, newUniqueKey())
	}
	p := s.properties.with(propCluster, b.opt.Cluster)
	if err := b.checkSize(r.Body, p); err != nil {
		return nil, err
	}
	due, err := b.due(p, time.Now())
	if err != nil {
		return nil, err
	}
	m := &remoting.Message{Topic: topic, QueueID: int32(queue), Flag: int32(s.flag), SysFlag: int32(s.sysFlag), Born: time.UnixMilli(s.born),
		BornHost: c.remote, ReconsumeTimes: int32(s.reconsume), Body: r.Body}
	if p.get(propPrepared) == "true" && (s.reconsume == 0 || s.delayLevel() <= 0) {
		return b.prepare(m, p)
	}
	if !due.IsZero() {
		return b.setTimer(m, p, due)
	}
	return b.put(m, p)
}

// retriedEnough says whether a message that a client sends to a retry topic
// goes to the dead letters.
func (b *Broker) retriedEnough(group string, s *sending) (bool, error) {
	g, found, err := b.group(group)
	if err != nil {
		return false, err
	}
	if !found {
		return false, refuse(remoting.GroupNotExist, "subscription group not exist, %s", group)
	}
	most := int64(g.RetryMaxTimes)
	if s.maxReconsume >= 0 {
		most = s.maxReconsume
	}
	return s.reconsume > most || b.locked(group), nil
}

// sendBatch stores the messages of a batch. The properties of the whole are
// dropped, and what the messages say of delays does not count.
func (b *Broker) sendBatch(c *conn, r *remoting.Command, s sending) (first *record, ids []string, err error) {
	if strings.HasPrefix(s.topic, retryPrefix) {
		return nil, nil, refuse(remoting.MessageIllegal, "batch request does not support retry group %s", s.topic)
	}
	if err := b.checkSize(r.Body, ""); err != nil {
		return nil, nil, err
	}
	inner, err := splitBatch(r.Body)
	if err != nil {
		return nil, nil, err
	}
	for _, in := range inner {
		if err := b.checkSize(in.body, in.properties); err != nil {
			return nil, nil, err
		}
	}
	for _, in := range inner {
		rec, err := b.store1(&remoting.Message{Topic: s.topic, QueueID: int32(s.queue), Flag: in.flag, SysFlag: int32(s.sysFlag),
			Born: time.UnixMilli(s.born), BornHost: c.remote, ReconsumeTimes: int32(s.reconsume), Body: in.body}, in.properties)
		if err != nil {
			return nil, nil, err
		}
		if first == nil {
			first = rec
		}
		ids = append(ids, rec.message().ID())
	}
	return first, ids, nil
}

type batched struct {
	flag       int32
	body       []byte
	properties properties
}

// splitBatch cuts the body of a batch into messages:
//
//	length(4) magic(4) CRC(4) flag(4) body(4+n) properties(2+n)
func splitBatch(b []byte) ([]batched, error) {
	const fixed = 22
	var out []batched
	be := binary.BigEndian
	for len(b) > 0 {
		bad := refuse(remoting.MessageIllegal, "message %d of the batch is cut short", len(out))
		if len(b) < fixed {
			return nil, bad
		}
		size := int64(be.Uint32(b))
		if size < fixed || size > int64(len(b)) {
			return nil, bad
		}
		one := b[:size:size]
		b = b[size:]
		m := batched{flag: int32(be.Uint32(one[12:]))}
		n := int64(be.Uint32(one[16:]))
		if n > size-fixed {
			return nil, bad
		}
		m.body = one[20 : 20+n]
		p := one[20+n:]
		if int(be.Uint16(p)) > len(p)-2 {
			return nil, bad
		}
		m.properties = properties(p[2 : 2+int(be.Uint16(p))])
		out = append(out, m)
	}
	return out, nil
}

// put is the way into the store for what may be delayed.
func (b *Broker) put(m *remoting.Message, p properties) (*record, error) {
	b.schedule(m, &p)
	return b.store1(m, p)
}

// store1 stores one message as it is and wakes those who wait for it.
func (b *Broker) store1(m *remoting.Message, p properties) (*record, error) {
	m.Properties, m.StoreHost = string(p), b.storeHost()
	rec, err := b.store.append(m)
	if err == nil {
		b.wakePulls(queueKey{m.Topic, int(m.QueueID)}, rec)
	}
	return rec, err
}

func newUniqueKey() string {
	id := uuid.New()
	return strings.ToUpper(fmt.Sprintf("%x", id[:]))
}
