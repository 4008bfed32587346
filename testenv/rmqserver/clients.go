package rmqserver

// Clients: 34 heartbeat, 35 unregister, 38 members of a group, 46 check of a
// filter, 203 members and 204 producers in full, 328 all producers; 40 tells
// members that their group has changed.
//
// A client belongs to the connection that its heartbeat came on, and is gone
// with it. Not done: heartbeats without subscriptions (version 2), 307.

import (
	"maps"
	"slices"
	"time"

	"github.com/turnout-mq/turnout/broker/rocketmq/remoting"
)

const (
	// clientTimeout is how long a client may send no heartbeat.
	clientTimeout = 2 * time.Minute
	broadcasting  = "BROADCASTING"
)

// client is a producer or a member of a group.
type client struct {
	id, language string
	version      int
	seen         time.Time
}

// consumerGroup is a group with members.
type consumerGroup struct {
	consumeType, model, from string
	members                  map[*conn]*client
	subscriptions            map[string]remoting.Subscription // by topic
}

// beat is a heartbeat. Hash codes of tags are not read: libraries write them as
// numbers or as text, and they follow from the expression.
type beat struct {
	ClientID  string                   `json:"clientID"`
	Producers []remoting.ProducerGroup `json:"producerDataSet"`
	Consumers []struct {
		Name          string `json:"groupName"`
		ConsumeType   string `json:"consumeType"`
		MessageModel  string `json:"messageModel"`
		FromWhere     string `json:"consumeFromWhere"`
		Subscriptions []struct {
			Topic          string `json:"topic"`
			Expression     string `json:"subString"`
			Version        int64  `json:"subVersion"`
			ExpressionType string `json:"expressionType"`
		} `json:"subscriptionDataSet"`
	} `json:"consumerDataSet"`
}

func (b *Broker) heartbeat(c *conn, r *remoting.Command) (*remoting.Command, error) {
	var h beat
	if err := read(r, &h); err != nil {
		return nil, err
	}
	me := func() *client {
		return &client{id: h.ClientID, language: r.Language, version: r.Version, seen: time.Now()}
	}
	for _, p := range h.Producers {
		if b.producers[p.Name] == nil {
			b.producers[p.Name] = map[*conn]*client{}
		}
		b.producers[p.Name][c] = me()
	}
	for _, g := range h.Consumers {
		config, found, err := b.group(g.Name)
		if err != nil {
			return nil, err
		}
		if !found { // a broker that makes no groups takes no notice
			continue
		}
		if _, err := b.ensureTopic(retryPrefix+g.Name, config.RetryQueues); err != nil {
			return nil, err
		}
		group := b.consumers[g.Name]
		if group == nil {
			group = &consumerGroup{members: map[*conn]*client{}, subscriptions: map[string]remoting.Subscription{}}
			b.consumers[g.Name] = group
		}
		group.consumeType, group.model, group.from = g.ConsumeType, g.MessageModel, g.FromWhere
		_, known := group.members[c]
		group.members[c] = me()
		wanted := map[string]remoting.Subscription{}
		for _, s := range g.Subscriptions {
			sub := remoting.NewSubscription(s.Topic, s.Expression, s.Version)
			if s.ExpressionType != "" {
				sub.Expression, sub.ExpressionType = s.Expression, s.ExpressionType
			}
			wanted[s.Topic] = sub
		}
		if group.subscribe(wanted) || !known {
			b.notify(g.Name)
		}
	}
	return ok(r)
}

// subscribe makes wanted the group's subscriptions, as far as they are not older
// than those it has. It reports whether the topics have changed.
func (g *consumerGroup) subscribe(wanted map[string]remoting.Subscription) (changed bool) {
	for topic, s := range wanted {
		old, found := g.subscriptions[topic]
		if !found || s.Version > old.Version {
			g.subscriptions[topic] = s
		}
		changed = changed || !found
	}
	for topic := range g.subscriptions {
		if _, found := wanted[topic]; !found {
			delete(g.subscriptions, topic)
			changed = true
		}
	}
	return changed
}

// notify tells the members of a group that it has changed. Needs mu.
func (b *Broker) notify(name string) {
	g := b.consumers[name]
	if g == nil || g.model == broadcasting {
		return
	}
	if config, found := b.store.groups[name]; found && !config.NotifyIDsChanged {
		return
	}
	for c := range g.members {
		c.send(remoting.NewRequest(remoting.ReqConsumerIDsChanged, nil, "consumerGroup", name).OneWay())
	}
}

// dropClient forgets who came over c. Needs mu.
func (b *Broker) dropClient(c *conn) {
	for name := range b.producers {
		b.dropProducer(name, c)
	}
	for name := range b.consumers {
		b.dropMember(name, c)
	}
}

func (b *Broker) dropProducer(name string, c *conn) {
	delete(b.producers[name], c)
	if len(b.producers[name]) == 0 {
		delete(b.producers, name)
	}
}

func (b *Broker) dropMember(name string, c *conn) {
	g := b.consumers[name]
	if g == nil || g.members[c] == nil {
		return
	}
	delete(g.members, c)
	if len(g.members) == 0 {
		delete(b.consumers, name)
	}
	b.notify(name)
}

// expireClients forgets those that are silent. Needs mu.
func (b *Broker) expireClients(now time.Time) {
	for name, clients := range b.producers {
		for c, p := range clients {
			if now.Sub(p.seen) > clientTimeout {
				b.dropProducer(name, c)
			}
		}
	}
	for name, g := range b.consumers {
		for c, m := range g.members {
			if now.Sub(m.seen) > clientTimeout {
				b.dropMember(name, c)
			}
		}
	}
}

func (b *Broker) unregister(c *conn, r *remoting.Command) (*remoting.Command, error) {
	f := fields{r: r}
	f.text("clientID")
	if f.err != nil {
		return nil, f.err
	}
	if group := r.Fields["producerGroup"]; group != "" {
		b.dropProducer(group, c)
	}
	if group := r.Fields["consumerGroup"]; group != "" {
		b.dropMember(group, c)
	}
	return ok(r)
}

// checkClient takes filters by tag.
func (b *Broker) checkClient(_ *conn, r *remoting.Command) (*remoting.Command, error) {
	var check struct {
		Subscription struct {
			ExpressionType string `json:"expressionType"`
		} `json:"subscriptionData"`
	}
	if err := read(r, &check); err != nil {
		return nil, err
	}
	if kind := check.Subscription.ExpressionType; kind != "" && kind != tagExpression {
		return nil, refuse(remoting.SystemError, "The broker does not support consumer to filter message by %s", kind)
	}
	return ok(r)
}

func (b *Broker) consumerList(_ *conn, r *remoting.Command) (*remoting.Command, error) {
	f := fields{r: r}
	name := f.text("consumerGroup")
	if f.err != nil {
		return nil, f.err
	}
	g := b.consumers[name]
	if g == nil {
		return nil, refuse(remoting.SystemError, "no consumer for this group, %s", name)
	}
	var ids []string
	for _, m := range g.members {
		ids = append(ids, m.id)
	}
	slices.Sort(ids)
	return body(r, map[string]any{"consumerIdList": slices.Compact(ids)})
}

func (b *Broker) consumerConnections(_ *conn, r *remoting.Command) (*remoting.Command, error) {
	f := fields{r: r}
	name := f.text("consumerGroup")
	if f.err != nil {
		return nil, f.err
	}
	g := b.consumers[name]
	if g == nil {
		return nil, refuse(remoting.ConsumerNotOnline, "the consumer group[%s] not online", name)
	}
	return body(r, struct {
		remoting.ConsumerConnections
		From string `json:"consumeFromWhere"`
	}{remoting.ConsumerConnections{Connections: connections(g.members), Subscriptions: maps.Clone(g.subscriptions),
		ConsumeType: g.consumeType, MessageModel: g.model}, g.from})
}

func (b *Broker) producerConnections(_ *conn, r *remoting.Command) (*remoting.Command, error) {
	f := fields{r: r}
	name := f.text("producerGroup")
	if f.err != nil {
		return nil, f.err
	}
	if b.producers[name] == nil {
		return nil, refuse(remoting.SystemError, "the producer group[%s] not exist", name)
	}
	return body(r, map[string]any{"connectionSet": connections(b.producers[name])})
}

func (b *Broker) allProducers(_ *conn, r *remoting.Command) (*remoting.Command, error) {
	type producer struct {
		ClientID string `json:"clientId"`
		Addr     string `json:"remoteIP"`
		Language string `json:"language"`
		Version  int    `json:"version"`
		Seen     int64  `json:"lastUpdateTimestamp"`
	}
	all := map[string][]producer{}
	for name, clients := range b.producers {
		for c, p := range clients {
			all[name] = append(all[name], producer{p.id, "/" + c.remote.String(), p.language, p.version, p.seen.UnixMilli()})
		}
	}
	return body(r, map[string]any{"data": all})
}

func connections(clients map[*conn]*client) []remoting.Connection {
	out := []remoting.Connection{}
	for c, m := range clients {
		out = append(out, remoting.Connection{ClientID: m.id, Addr: c.remote.String(), Language: m.language, Version: m.version})
	}
	return out
}
