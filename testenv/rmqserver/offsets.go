package rmqserver

// Positions and offsets: 14 query and 15 set a group's position, 29 offset by
// time, 30 end, 31 begin of a queue, 32 time of the first message, 43 all
// positions, 222 set a group's positions from outside.
//
// A position that was set from outside stands until the group's next pull of the
// queue, which is told it; what its members commit until then is not taken. As in
// a real broker that is forgotten with a restart, and the position is not. Not
// done: 223, 308, 314, the reset by messages to the members (220).

import (
	"strings"

	"github.com/turnout-mq/turnout/broker/rocketmq/remoting"
)

func (b *Broker) queryOffset(_ *conn, r *remoting.Command) (*remoting.Command, error) {
	f := fields{r: r}
	group, topic, queueID := f.text("consumerGroup"), f.text("topic"), int(f.int("queueId"))
	if f.err != nil {
		return nil, f.err
	}
	if offset, found := b.store.position(group, topic, queueID); found {
		return ok(r, "offset", str(offset))
	}
	// A queue that still has its first message has no group that could have read it: a real broker says 0 then, whatever
	// the group wants to begin with, unless it is told not to.
	if q := b.store.queue(topic, queueID); q != nil && q.first == 0 && q.end() > 0 && r.Fields["setZeroIfNotFound"] != "false" {
		return ok(r, "offset", "0")
	}
	return nil, refuse(remoting.QueryNotFound, "Not found, maybe this group consumer boot first")
}

func (b *Broker) updateOffset(_ *conn, r *remoting.Command) (*remoting.Command, error) {
	f := fields{r: r}
	group, topic, queueID, offset := f.text("consumerGroup"), f.text("topic"), int(f.int("queueId")), f.int("commitOffset")
	if f.err != nil {
		return nil, f.err
	}
	if _, found := b.store.groups[group]; !found {
		return nil, refuse(remoting.GroupNotExist, "Group %s not exist!", group)
	}
	if _, found := b.store.topics[topic]; !found {
		return nil, refuse(remoting.TopicNotExist, "Topic %s not exist!", topic)
	}
	if _, reset := b.resets[groupTopic{group, topic}][queueID]; reset {
		return r.Answer(remoting.Success, "Offset has been previously reset", nil), nil
	}
	if err := b.store.commit(group, topic, queueID, offset); err != nil {
		return nil, err
	}
	return ok(r)
}

func (b *Broker) resetOffset(_ *conn, r *remoting.Command) (*remoting.Command, error) {
	f := fields{r: r}
	group, topic, t := f.text("group"), f.text("topic"), f.int("timestamp")
	queueID, offset := int(f.intOr("queueId", -1)), f.intOr("offset", -1)
	if f.err != nil {
		return nil, f.err
	}
	config, found := b.store.topics[topic]
	if !found {
		return nil, refuse(remoting.TopicNotExist, "Topic %s does not exist", topic)
	}
	if _, found := b.store.groups[group]; !found {
		return nil, refuse(remoting.GroupNotExist, "Group %s does not exist", group)
	}
	table := map[remoting.Queue]int64{}
	set := func(id int, to int64) { table[remoting.Queue{Topic: topic, Broker: b.opt.Name, ID: id}] = to }
	at := func(id int) int64 {
		q := b.store.queue(topic, id)
		if t < 0 {
			return q.end()
		}
		return q.since(t)
	}
	switch {
	case queueID >= 0 && offset != -1:
		q := b.store.queue(topic, queueID)
		if first := q.begin(); offset < first || offset > q.end()+1 {
			return nil, refuse(remoting.SystemError, "Target offset %d not in consume queue range [%d-%d]", offset, first, q.end())
		}
		set(queueID, offset)
	case queueID >= 0:
		set(queueID, at(queueID))
	default:
		for id := range config.ReadQueues {
			set(id, at(id))
		}
	}
	if len(table) == 0 {
		return nil, refuse(remoting.SystemError, "No queues to reset.")
	}
	of := groupTopic{group, topic}
	for q, to := range table {
		if err := b.store.commit(group, topic, q.ID, to); err != nil {
			return nil, err
		}
		if b.resets[of] == nil {
			b.resets[of] = map[int]int64{}
		}
		b.resets[of][q.ID] = to
	}
	return byQueue(r, table, "")
}

func (b *Broker) allOffsets(_ *conn, r *remoting.Command) (*remoting.Command, error) {
	table := map[string]map[int]int64{}
	for of, offsets := range b.store.offsets {
		table[of.topic+"@"+of.group] = offsets
	}
	return body(r, map[string]any{"offsetTable": table})
}

// about reads which queue a request is about.
func (b *Broker) about(r *remoting.Command) (q *queue, f fields, err error) {
	f = fields{r: r}
	topic, queueID := f.text("topic"), int(f.int("queueId"))
	return b.store.queue(topic, queueID), f, f.err
}

func (b *Broker) maxOffset(_ *conn, r *remoting.Command) (*remoting.Command, error) {
	q, _, err := b.about(r)
	if err != nil {
		return nil, err
	}
	return ok(r, "offset", str(q.end()))
}

func (b *Broker) minOffset(_ *conn, r *remoting.Command) (*remoting.Command, error) {
	q, _, err := b.about(r)
	if err != nil {
		return nil, err
	}
	return ok(r, "offset", str(q.begin()))
}

func (b *Broker) searchOffset(_ *conn, r *remoting.Command) (*remoting.Command, error) {
	q, f, err := b.about(r)
	if err != nil {
		return nil, err
	}
	t := f.int("timestamp")
	if f.err != nil {
		return nil, f.err
	}
	offset := q.since(t)
	if strings.EqualFold(r.Fields["boundaryType"], "upper") { // the last message at or before t
		offset = q.since(t+1) - 1
		if q == nil || offset < q.first {
			offset = 0
		}
	}
	return ok(r, "offset", str(offset))
}

func (b *Broker) earliestTime(_ *conn, r *remoting.Command) (*remoting.Command, error) {
	q, _, err := b.about(r)
	if err != nil {
		return nil, err
	}
	at := int64(-1)
	if q != nil && len(q.records) > 0 {
		at = q.records[0].at
	}
	return ok(r, "timestamp", str(at))
}
