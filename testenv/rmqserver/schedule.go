package rmqserver

// Delay levels: 45 how far each level is delivered.
//
// A delayed message waits in queue level-1 of SCHEDULE_TOPIC_XXXX and is stored
// in its topic when it is due, keeping DELAY, REAL_TOPIC and REAL_QID, as in a
// real broker; it comes up to 20 ms late there, where a real one takes 100 ms. A
// crash between the two may deliver it twice.

import (
	"maps"
	"strconv"
	"time"

	"go.uber.org/zap"

	"github.com/turnout-mq/turnout/broker/rocketmq/remoting"
)

// delayLevel is 0 or less for no delay.
func delayLevel(p properties) int {
	level, err := strconv.Atoi(p.get(propDelay))
	if err != nil {
		return 0
	}
	return level
}

// schedule turns a message with a delay into one of the schedule.
func (b *Broker) schedule(m *remoting.Message, p *properties) {
	if kind := m.SysFlag & remoting.SysTransactionMask; kind != 0 && kind != remoting.SysCommit {
		return
	}
	level := min(delayLevel(*p), len(b.levels))
	if level <= 0 {
		return
	}
	*p = p.with(propDelay, str(level)).with(propRealTopic, m.Topic).with(propRealQueue, str(m.QueueID))
	m.Topic, m.QueueID = scheduleTopic, int32(level-1)
}

// deliverDelayed stores what is due where it belongs. Needs mu.
func (b *Broker) deliverDelayed(now time.Time) {
	for i, delay := range b.levels {
		q := b.store.queue(scheduleTopic, i)
		if q == nil {
			continue
		}
		for at := max(b.store.delivered[i+1], q.first); at < q.end(); at++ {
			rec := q.records[at-q.first]
			if time.UnixMilli(rec.at).Add(delay).After(now) {
				break
			}
			m := rec.message()
			p := properties(m.Properties)
			m.Topic, m.QueueID = p.get(propRealTopic), parseQueueID(p.get(propRealQueue))
			_, err := b.store1(m, p)
			if err == nil {
				err = b.store.keep(entryDelivered, deliveredEntry{i + 1, at + 1})
			}
			if err != nil {
				b.log.Error("a delayed message can not be stored; it is tried again", zap.Error(err))
				break
			}
		}
	}
}

func (b *Broker) delayOffsets(_ *conn, r *remoting.Command) (*remoting.Command, error) {
	levels := maps.Clone(b.store.delivered)
	maps.DeleteFunc(levels, func(level int, _ int64) bool { return level <= 0 }) // those are timers
	return body(r, map[string]any{"offsetTable": levels, "dataVersion": dataVersion{}})
}
