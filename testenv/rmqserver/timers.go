package rmqserver

// Timers: 61 how many messages wait, by topic.
//
// With BrokerOptions.Timers a message may have any delay, not only a level. As in
// a real broker it waits in rmq_sys_wheel_timer, counts for its topic until it is
// delivered, and gets there with what it had and TIMER_OUT_MS, TIMER_ENQUEUE_MS
// and TIMER_DEQUEUE_MS. It comes within 20 ms of its time, where a real broker
// counts in seconds and takes up to two more, and it counts at once, where a real
// one takes 100 ms. Transactions with a timer are delivered when they are
// committed. Not done: 60, recall, rolling of delays over days, congestion.

import (
	"maps"
	"slices"
	"strconv"
	"time"

	"go.uber.org/zap"

	"github.com/turnout-mq/turnout/broker/rocketmq/remoting"
)

const (
	wheelTopic    = "rmq_sys_wheel_timer"
	maxTimerDelay = 3 * 24 * time.Hour
)

// due is when a message with a timer is due; zero: it has none, or is due already.
func (b *Broker) due(p properties, now time.Time) (due time.Time, err error) {
	if delayLevel(p) > 0 {
		return due, nil
	}
	for _, timer := range []struct {
		name string
		at   func(n int64) time.Time
	}{
		{"TIMER_DELAY_SEC", func(n int64) time.Time { return now.Add(time.Duration(n) * time.Second) }},
		{"TIMER_DELAY_MS", func(n int64) time.Time { return now.Add(time.Duration(n) * time.Millisecond) }},
		{"TIMER_DELIVER_MS", time.UnixMilli},
	} {
		text := p.get(timer.name)
		if text == "" {
			continue
		}
		if b.settings["timerWheelEnable"] != "true" {
			return due, refuse(remoting.SystemError, "accurate timer message is not enabled, timerWheelEnable is false")
		}
		n, err := strconv.ParseInt(text, 10, 64)
		if err != nil {
			return due, refuse(remoting.MessageIllegal, "timer message illegal, %s is %q", timer.name, text)
		}
		at := timer.at(n)
		if at.Sub(now) > maxTimerDelay {
			return due, refuse(remoting.MessageIllegal, "timer message illegal, the delay time should not be bigger than the max delay %dms", maxTimerDelay.Milliseconds())
		}
		if at.After(now) {
			due = at
		}
		return due, nil
	}
	return due, nil
}

// setTimer stores a message until it is due.
func (b *Broker) setTimer(m *remoting.Message, p properties, due time.Time) (*record, error) {
	if _, err := b.ensureTopic(wheelTopic, 1); err != nil {
		return nil, err
	}
	p = p.with(propRealTopic, m.Topic).with(propRealQueue, str(m.QueueID)).with(propTimerOut, str(due.UnixMilli()))
	m.Topic, m.QueueID = wheelTopic, 0
	rec, err := b.store1(m, p)
	if err == nil {
		b.timers[rec.offset] = rec
	}
	return rec, err
}

// timerKey is what says in store.delivered that a timer was.
func timerKey(offset int64) int { return -1 - int(offset) }

// openTimers finds, after a restart, what is not delivered.
func (b *Broker) openTimers() {
	b.timers = map[int64]*record{}
	if q := b.store.queue(wheelTopic, 0); q != nil {
		for _, rec := range q.records {
			if b.store.delivered[timerKey(rec.offset)] == 0 {
				b.timers[rec.offset] = rec
			}
		}
	}
}

// deliverTimed stores what is due where it belongs. Needs mu.
func (b *Broker) deliverTimed(now time.Time) {
	for _, offset := range slices.Sorted(maps.Keys(b.timers)) {
		rec := b.timers[offset]
		m := rec.message()
		p := properties(m.Properties)
		due, err := strconv.ParseInt(p.get(propTimerOut), 10, 64)
		if err == nil && now.Before(time.UnixMilli(due)) {
			continue
		}
		m.Topic, m.QueueID = p.get(propRealTopic), parseQueueID(p.get(propRealQueue))
		_, err = b.store1(m, p.with("TIMER_ENQUEUE_MS", str(rec.at)).with("TIMER_DEQUEUE_MS", str(now.UnixMilli())))
		if err == nil {
			err = b.store.keep(entryDelivered, deliveredEntry{timerKey(offset), 1})
		}
		if err != nil {
			b.log.Error("a message with a timer can not be stored; it is tried again", zap.Error(err))
			continue
		}
		delete(b.timers, offset)
	}
}

func (b *Broker) timerMetrics(_ *conn, r *remoting.Command) (*remoting.Command, error) {
	if b.settings["timerWheelEnable"] != "true" {
		return nil, refuse(remoting.SystemError, "The timer message store is null")
	}
	type metric struct {
		Count int64 `json:"count"`
	}
	counts := map[string]*metric{}
	for _, rec := range b.timers {
		topic := properties(rec.message().Properties).get(propRealTopic)
		if counts[topic] == nil {
			counts[topic] = &metric{}
		}
		counts[topic].Count++
	}
	return body(r, map[string]any{"timingCount": counts, "dataVersion": dataVersion{}})
}
