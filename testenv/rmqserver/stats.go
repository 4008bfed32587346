package rmqserver

// Where topics and groups stand: 202 offsets of a topic, 208 of a group, 317 of
// all groups, 300 groups of a topic, 343 topics of a group.
//
// Rates are 0. Not done: 303, 315, 345.

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"

	"github.com/turnout-mq/turnout/broker/rocketmq/remoting"
)

func (b *Broker) topicStats(_ *conn, r *remoting.Command) (*remoting.Command, error) {
	f := fields{r: r}
	topic := f.text("topic")
	if f.err != nil {
		return nil, f.err
	}
	t, found := b.store.topics[topic]
	if !found {
		return nil, refuse(remoting.TopicNotExist, "topic[%s] not exist", topic)
	}
	table := map[remoting.Queue]remoting.TopicOffset{}
	for i := range max(t.WriteQueues, t.ReadQueues) {
		o := remoting.TopicOffset{}
		if q := b.store.queue(topic, i); q != nil {
			o.Min, o.Max = q.first, q.end()
			if n := len(q.records); n > 0 {
				o.LastUpdate = q.records[n-1].at
			}
		}
		table[remoting.Queue{Topic: topic, Broker: b.opt.Name, ID: i}] = o
	}
	return byQueue(r, table, `,"topicPutTps":0.0`)
}

func (b *Broker) consumeStats(_ *conn, r *remoting.Command) (*remoting.Command, error) {
	f := fields{r: r}
	group := f.text("consumerGroup")
	if f.err != nil {
		return nil, f.err
	}
	topics := b.topicsOf(group)
	if one := r.Fields["topic"]; one != "" {
		topics = []string{one}
	}
	table := map[remoting.Queue]position{}
	for _, topic := range topics {
		b.positions(table, group, topic)
	}
	return byQueue(r, table, `,"consumeTps":0.0`)
}

// position is where a group stands in a queue.
type position struct {
	remoting.ConsumeOffset
	Pull int64 `json:"pullOffset"`
}

// positions adds those of group on topic. It reports false if the topic does not
// count: it is not there, or the members of the group do not read it.
func (b *Broker) positions(table map[remoting.Queue]position, group, topic string) bool {
	t, found := b.store.topics[topic]
	if g := b.consumers[group]; g != nil && len(g.subscriptions) > 0 {
		_, subscribed := g.subscriptions[topic]
		found = found && subscribed
	}
	for i := range t.ReadQueues {
		if !found {
			break
		}
		q := b.store.queue(topic, i)
		at, _ := b.store.position(group, topic, i)
		p := position{remoting.ConsumeOffset{Broker: q.end(), Consumer: at}, at}
		if q != nil && at > q.first && at <= q.end() {
			p.Last = q.records[at-1-q.first].at
		}
		table[remoting.Queue{Topic: topic, Broker: b.opt.Name, ID: i}] = p
	}
	return found
}

// consumeStatsOfAll answers with a table for each topic of each group. The
// tables have queues as keys, so the body is put together by hand.
func (b *Broker) consumeStatsOfAll(_ *conn, r *remoting.Command) (*remoting.Command, error) {
	onlyOrdered := (&fields{r: r}).bool("isOrder")
	out, behind := []byte(`{"consumeStatsList":[`), int64(0)
	for i, group := range slices.Sorted(maps.Keys(b.store.groups)) {
		if i > 0 {
			out = append(out, ',')
		}
		name, err := json.Marshal(group)
		if err != nil {
			return nil, err
		}
		out = append(append(append(out, '{'), name...), ":["...)
		tables := 0
		for _, topic := range b.topicsOf(group) {
			table := map[remoting.Queue]position{}
			if onlyOrdered && !b.store.topics[topic].Order || !b.positions(table, group, topic) {
				continue
			}
			for _, p := range table {
				behind += p.Broker - p.Consumer
			}
			if tables++; tables > 1 {
				out = append(out, ',')
			}
			if out, err = appendByQueue(out, table, `,"consumeTps":0.0`); err != nil {
				return nil, err
			}
		}
		out = append(out, "]}"...)
	}
	out = fmt.Appendf(out, `],"brokerAddr":%q,"totalDiff":%d,"totalInflightDiff":0}`, b.advertised(), behind)
	return r.Answer(remoting.Success, "", out), nil
}

// topicsOf are the topics that a group has a position on.
func (b *Broker) topicsOf(group string) []string {
	topics := []string{}
	for of := range b.store.offsets {
		if of.group == group {
			topics = append(topics, of.topic)
		}
	}
	return topics
}

func (b *Broker) topicsOfConsumer(_ *conn, r *remoting.Command) (*remoting.Command, error) {
	f := fields{r: r}
	group := f.text("group")
	if f.err != nil {
		return nil, f.err
	}
	return body(r, map[string]any{"topicList": b.topicsOf(group), "brokerAddr": b.advertised()})
}

func (b *Broker) consumedByWhom(_ *conn, r *remoting.Command) (*remoting.Command, error) {
	f := fields{r: r}
	topic := f.text("topic")
	if f.err != nil {
		return nil, f.err
	}
	groups := map[string]struct{}{}
	for name, g := range b.consumers {
		if _, subscribed := g.subscriptions[topic]; subscribed {
			groups[name] = struct{}{}
		}
	}
	for of := range b.store.offsets {
		if of.topic == topic {
			groups[of.group] = struct{}{}
		}
	}
	return body(r, map[string]any{"groupList": slices.AppendSeq([]string{}, maps.Keys(groups))})
}
