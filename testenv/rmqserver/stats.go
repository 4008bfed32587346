package rmqserver

// Where topics and groups stand: 202 offsets of a topic, 208 of a group, 300
// groups of a topic, 343 topics of a group.
//
// Rates are 0. Not done: 303, 315, 317, 345.

import (
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
	type offsets struct {
		remoting.ConsumeOffset
		Pull int64 `json:"pullOffset"`
	}
	table := map[remoting.Queue]offsets{}
	for _, topic := range topics {
		t, found := b.store.topics[topic]
		if g := b.consumers[group]; g != nil && len(g.subscriptions) > 0 {
			_, subscribed := g.subscriptions[topic]
			found = found && subscribed
		}
		if !found {
			continue
		}
		for i := range t.ReadQueues {
			q := b.store.queue(topic, i)
			at, _ := b.store.position(group, topic, i)
			o := offsets{remoting.ConsumeOffset{Broker: q.end(), Consumer: at}, at}
			if q != nil && at > q.first && at <= q.end() {
				o.Last = q.records[at-1-q.first].at
			}
			table[remoting.Queue{Topic: topic, Broker: b.opt.Name, ID: i}] = o
		}
	}
	return byQueue(r, table, `,"consumeTps":0.0`)
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
