package rmqserver

// Transactions: 37 commit or roll back; 39 asks a producer what became of one.
//
// As in a real broker a prepared message is stored in RMQ_SYS_TRANS_HALF_TOPIC
// and its end in RMQ_SYS_TRANS_OP_HALF_TOPIC, and a second commit stores the
// message a second time. Where a producer is asked, the message is stored at the
// end again, and the positions of CID_RMQ_SYS_TRANS pass what is finished with.
// What has been asked about too often goes to TRANS_CHECK_MAX_TIME_TOPIC. Other
// than there each end is stored at once and by itself, where a real broker stores
// those of some seconds together; and each message has its own time for the next
// question, where a real broker asks about all together. Not done: 323,
// transactions in RocksDB.

import (
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.uber.org/zap"

	"github.com/turnout-mq/turnout/broker/rocketmq/remoting"
)

// prepared is a transaction that has not ended.
type prepared struct {
	rec    *record
	checks int // how often its producer was asked
}

const (
	endedTag          = "d" // marks the messages of opTopic, whose bodies are offsets of halfTopic
	transactionsGroup = "CID_RMQ_SYS_TRANS"
)

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
	from, _ := b.store.position(transactionsGroup, halfTopic, 0)
	if q := b.store.queue(halfTopic, 0); q != nil {
		for _, rec := range q.records {
			if rec.offset >= from {
				checks, _ := strconv.Atoi(properties(rec.message().Properties).get(propChecks))
				b.halves[rec.offset] = &prepared{rec, checks}
			}
		}
	}
	if q := b.store.queue(opTopic, 0); q != nil {
		for _, rec := range q.records {
			for _, offset := range endedIn(rec) {
				delete(b.halves, offset)
			}
		}
	}
}

// endedIn are the offsets in halfTopic that a message of opTopic names.
func endedIn(rec *record) (offsets []int64) {
	for text := range strings.SplitSeq(string(rec.message().Body), ",") {
		if offset, err := strconv.ParseInt(text, 10, 64); err == nil {
			offsets = append(offsets, offset)
		}
	}
	return offsets
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
	m := &remoting.Message{Topic: opTopic, Born: time.Now(), BornHost: b.storeHost(), Body: []byte(str(rec.offset) + ",")}
	_, err := b.store1(m, properties("").with(propTags, endedTag))
	return err
}

// checkTransactions asks the producers of prepared messages what became of them.
// Needs mu.
func (b *Broker) checkTransactions(now time.Time) {
	checked := false
	for _, offset := range slices.Sorted(maps.Keys(b.halves)) {
		t := b.halves[offset]
		wait := b.duration("transactionTimeOut", b.opt.TransactionTimeout)
		if t.checks > 0 {
			wait = b.duration("transactionCheckInterval", b.opt.TransactionInterval)
		} else if own, err := strconv.Atoi(properties(t.rec.message().Properties).get(propImmunity)); err == nil {
			wait = max(wait, time.Duration(own)*time.Second)
		}
		if now.Sub(time.UnixMilli(t.rec.at)) < wait {
			continue
		}
		if err := b.check(t); err != nil {
			b.log.Error("a transaction can not be asked about; it is tried again", zap.Error(err))
			continue
		}
		checked = true
	}
	if !checked {
		return
	}
	if err := b.passTransactions(); err != nil {
		b.log.Error("the positions of transactions can not be stored", zap.Error(err))
	}
}

// check stores a prepared message again and asks about it, or puts aside what
// nobody knows the end of.
func (b *Broker) check(t *prepared) error {
	m := t.rec.message()
	if t.checks >= b.opt.TransactionChecks {
		if _, err := b.ensureTopic(checkedTopic, 1); err != nil {
			return err
		}
		m.Topic = checkedTopic
		_, err := b.store1(m, properties(m.Properties))
		if err == nil {
			delete(b.halves, t.rec.offset)
		}
		return err
	}
	rec, err := b.store1(m, properties(m.Properties).with(propChecks, str(t.checks+1)))
	if err != nil {
		return err
	}
	delete(b.halves, t.rec.offset)
	b.halves[rec.offset] = &prepared{rec, t.checks + 1}
	b.ask(rec)
	return nil
}

// passTransactions moves the broker's own positions past what is finished with.
func (b *Broker) passTransactions() error {
	at := b.store.queue(halfTopic, 0).end()
	for offset := range b.halves {
		at = min(at, offset)
	}
	if err := b.store.commit(transactionsGroup, halfTopic, 0, at); err != nil {
		return err
	}
	q := b.store.queue(opTopic, 0)
	from, _ := b.store.position(transactionsGroup, opTopic, 0)
	for ; from < q.end(); from++ {
		if from >= q.first && slices.Max(endedIn(q.records[from-q.first])) >= at {
			break
		}
	}
	return b.store.commit(transactionsGroup, opTopic, 0, from)
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
