package rmqserver

// Transactions: 37 commit or roll back; 39 asks a producer what became of one.
//
// As in a real broker a prepared message is stored in RMQ_SYS_TRANS_HALF_TOPIC
// and its end in RMQ_SYS_TRANS_OP_HALF_TOPIC, and a second commit stores the
// message a second time. What has been asked about too often goes to
// TRANS_CHECK_MAX_TIME_TOPIC. Other than there a prepared message keeps its
// offset while it is asked about, and the count of questions begins anew with a
// restart. Not done: 323.

import (
	"strconv"
	"strings"
	"time"

	"go.uber.org/zap"

	"github.com/turnout-mq/turnout/broker/rocketmq/remoting"
)

// prepared is a transaction that has not ended.
type prepared struct {
	rec    *record
	checks int
	last   time.Time // it was asked about
}

// endedTag marks the messages of opTopic, whose bodies are offsets of halfTopic.
const endedTag = "d"

// prepare stores a message that consumers do not see before it is committed.
func (b *Broker) prepare(m *remoting.Message, p properties) (*record, error) {
	p = p.with(propTransaction, p.get(propUniqueKey)).with(propRealTopic, m.Topic).with(propRealQueue, str(m.QueueID))
	m.SysFlag &^= remoting.SysTransactionMask
	m.Topic, m.QueueID = halfTopic, 0
	rec, err := b.store1(m, p)
	if err == nil {
		b.halves[rec.offset] = &prepared{rec: rec}
	}
	return rec, err
}

// openTransactions finds, after a restart, what was prepared and has not ended.
func (b *Broker) openTransactions() {
	b.halves = map[int64]*prepared{}
	if q := b.store.queue(halfTopic, 0); q != nil {
		for _, rec := range q.records {
			b.halves[rec.offset] = &prepared{rec: rec}
		}
	}
	if q := b.store.queue(opTopic, 0); q != nil {
		for _, rec := range q.records {
			for text := range strings.SplitSeq(string(rec.message().Body), ",") {
				if offset, err := strconv.ParseInt(text, 10, 64); err == nil {
					delete(b.halves, offset)
				}
			}
		}
	}
}

func (b *Broker) endTransaction(_ *conn, r *remoting.Command) (*remoting.Command, error) {
	f := fields{r: r}
	group, offset, physical, end := f.text("producerGroup"), f.int("tranStateTableOffset"), f.int("commitLogOffset"), f.int("commitOrRollback")
	if f.err != nil {
		return nil, f.err
	}
	if end != remoting.SysCommit && end != remoting.SysRollback { // not known yet: it will be asked again
		return nil, nil
	}
	rec := b.store.at(physical)
	if rec == nil {
		return nil, refuse(remoting.SystemError, "Find prepared transaction message failed")
	}
	m := rec.message()
	p := properties(m.Properties)
	switch {
	case m.Topic != halfTopic:
		return nil, refuse(remoting.SystemError, "Find prepared transaction message failed")
	case p.get(propProducerGroup) != group:
		return nil, refuse(remoting.SystemError, "The producer group wrong")
	case rec.offset != offset:
		return nil, refuse(remoting.SystemError, "The transaction state table offset wrong")
	}
	if end == remoting.SysCommit {
		m.Topic, m.QueueID = p.get(propRealTopic), parseQueueID(p.get(propRealQueue))
		m.SysFlag = m.SysFlag&^remoting.SysTransactionMask | remoting.SysCommit
		m.PreparedOffset = physical
		if _, err := b.put(m, p.without(propRealTopic).without(propRealQueue)); err != nil {
			return nil, err
		}
	}
	if err := b.ended(rec); err != nil {
		return nil, err
	}
	return ok(r)
}

// ended stores that a transaction has ended.
func (b *Broker) ended(rec *record) error {
	delete(b.halves, rec.offset)
	m := &remoting.Message{Topic: opTopic, Born: time.Now(), BornHost: b.storeHost(), Body: []byte(str(rec.offset))}
	_, err := b.store1(m, properties("").with(propTags, endedTag))
	return err
}

// checkTransactions asks the producers of prepared messages what became of them.
// Needs mu.
func (b *Broker) checkTransactions(now time.Time) {
	for _, t := range b.halves {
		first := b.opt.TransactionTimeout
		if t.last.IsZero() {
			if now.Sub(time.UnixMilli(t.rec.at)) < first {
				continue
			}
			p := properties(t.rec.message().Properties)
			if own, err := strconv.Atoi(p.get(propImmunity)); err == nil && now.Sub(time.UnixMilli(t.rec.at)) < time.Duration(own)*time.Second {
				continue
			}
		} else if now.Sub(t.last) < b.opt.TransactionInterval {
			continue
		}
		t.last = now
		if t.checks++; t.checks > b.opt.TransactionChecks {
			if err := b.giveUp(t.rec); err != nil {
				b.log.Error("a transaction can not be given up; it is tried again", zap.Error(err))
			}
			continue
		}
		b.ask(t.rec)
	}
}

func (b *Broker) ask(rec *record) {
	m := rec.message()
	p := properties(m.Properties)
	id := m.ID()
	m.Topic, m.QueueID = p.get(propRealTopic), parseQueueID(p.get(propRealQueue))
	encoded, err := m.Append(nil)
	if err != nil {
		b.log.Error("a prepared message can not be encoded", zap.Error(err))
		return
	}
	for c := range b.producers[p.get(propProducerGroup)] {
		c.send(remoting.NewRequest(remoting.ReqCheckTransaction, encoded, "topic", halfTopic, "commitLogOffset", str(rec.physical),
			"tranStateTableOffset", str(rec.offset), "offsetMsgId", id, "msgId", p.get(propUniqueKey),
			"transactionId", p.get(propUniqueKey), "bname", b.opt.Name).OneWay())
		return // any of them
	}
}

// giveUp puts aside what nobody knows the end of.
func (b *Broker) giveUp(rec *record) error {
	m := rec.message()
	if _, err := b.ensureTopic(checkedTopic, 1); err != nil {
		return err
	}
	m.Topic, m.QueueID = checkedTopic, 0
	if _, err := b.store1(m, properties(m.Properties)); err != nil {
		return err
	}
	return b.ended(rec)
}
