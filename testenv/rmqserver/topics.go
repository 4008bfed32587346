package rmqserver

// Topics of a broker: 17 create or change, 18 the same for many, 21 all, 215
// delete, 305 names of the system's, 351 one.
//
// As in a real broker a topic's write permission and its number of write queues
// only shape the route: a send is refused when its queue is beyond both numbers.
// Queues keep their messages when their number is reduced. Not done:
// attributes, order topics at the name server, static topics, data versions.

import (
	"encoding/json"
	"slices"
	"strings"

	"github.com/turnout-mq/turnout/broker/rocketmq/remoting"
)

const (
	defaultTopic  = "TBW102" // by which topics are made when they are sent to
	scheduleTopic = "SCHEDULE_TOPIC_XXXX"
	halfTopic     = "RMQ_SYS_TRANS_HALF_TOPIC"
	opTopic       = "RMQ_SYS_TRANS_OP_HALF_TOPIC"
	checkedTopic  = "TRANS_CHECK_MAX_TIME_TOPIC"
	retryPrefix   = "%RETRY%"
	deadPrefix    = "%DLQ%"
	systemPrefix  = "rmq_sys_"
	readWrite     = remoting.PermRead | remoting.PermWrite
	maxQueues     = 1 << 16 // of a topic; a real broker has no limit
)

// systemTopics creates what every broker has. Needs mu.
func (b *Broker) systemTopics() error {
	type spec struct {
		name         string
		queues, perm int
	}
	specs := []spec{
		{"SELF_TEST_TOPIC", 1, readWrite}, {"BenchmarkTest", 1024, readWrite}, {"OFFSET_MOVED_EVENT", 1, readWrite},
		{scheduleTopic, max(18, len(b.levels)), readWrite}, {halfTopic, 1, readWrite}, {opTopic, 1, readWrite},
		{b.opt.Name, 1, remoting.PermInherit | readWrite}, // counts when the cluster has the same name
		{b.opt.Cluster, 16, remoting.PermInherit | readWrite}, {b.opt.Cluster + "_REPLY_TOPIC", 1, readWrite},
	}
	if b.opt.AutoCreateTopics {
		specs = append(specs, spec{defaultTopic, 8, remoting.PermInherit | readWrite})
	}
	for _, s := range specs {
		if _, found := b.store.topics[s.name]; found {
			continue
		}
		if err := b.store.keep(entryTopic, newTopic(s.name, s.queues, s.perm)); err != nil {
			return err
		}
	}
	return nil
}

func newTopic(name string, queues, perm int) remoting.TopicConfig {
	return remoting.TopicConfig{Name: name, ReadQueues: queues, WriteQueues: queues, Perm: perm, FilterType: "SINGLE_TAG"}
}

// reserved are the names of topics that clients neither make nor delete. Needs mu.
func (b *Broker) reserved() []string {
	return []string{defaultTopic, scheduleTopic, "BenchmarkTest", halfTopic, "RMQ_SYS_TRACE_TOPIC", opTopic, checkedTopic, "SELF_TEST_TOPIC",
		"OFFSET_MOVED_EVENT", "CHECKPOINT_TOPIC", b.opt.Cluster, b.opt.Name, b.opt.Cluster + "_REPLY_TOPIC"}
}

func (b *Broker) systemTopic(name string) bool {
	return slices.Contains(b.reserved(), name) || strings.HasPrefix(name, systemPrefix)
}

func (b *Broker) systemTopicNames(_ *conn, r *remoting.Command) (*remoting.Command, error) {
	all := b.reserved()
	slices.Sort(all)
	return body(r, topicNames{Topics: slices.Compact(all)})
}

// notForClients are topics that take no messages of clients.
func notForClients(topic string) bool {
	switch topic {
	case scheduleTopic, wheelTopic, halfTopic, opTopic, checkedTopic, "SELF_TEST_TOPIC", "OFFSET_MOVED_EVENT":
		return true
	}
	return false
}

func checkTopicName(topic string) error {
	most := 127
	if strings.HasPrefix(topic, retryPrefix) || strings.HasPrefix(topic, deadPrefix) {
		most = 255
	}
	switch {
	case strings.TrimSpace(topic) == "":
		return refuse(remoting.InvalidParameter, "The specified topic is blank.")
	case !legalName.MatchString(topic):
		return refuse(remoting.InvalidParameter, "The specified topic: %s, contains illegal characters, allowing only ^[%%|a-zA-Z0-9_-]+$", topic)
	case len(topic) > most:
		return refuse(remoting.InvalidParameter, "The specified topic: %s, is longer than topic max length: %d", topic, most)
	}
	return nil
}

// setTopic creates or changes a topic and tells the name servers.
func (b *Broker) setTopic(t remoting.TopicConfig) error {
	if err := b.store.keep(entryTopic, t); err != nil {
		return err
	}
	for _, n := range b.opt.NameServers {
		b.registerAt(n, false, t.Name)
	}
	return nil
}

// ensureTopic creates a topic of the broker's own that is missing.
func (b *Broker) ensureTopic(name string, queues int) (remoting.TopicConfig, error) {
	t, found := b.store.topics[name]
	if found {
		return t, nil
	}
	t = newTopic(name, queues, readWrite)
	return t, b.setTopic(t)
}

func (b *Broker) updateTopic(_ *conn, r *remoting.Command) (*remoting.Command, error) {
	f := fields{r: r}
	t := remoting.TopicConfig{Name: f.text("topic"), ReadQueues: int(f.int("readQueueNums")), WriteQueues: int(f.int("writeQueueNums")),
		Perm: int(f.int("perm")), FilterType: f.text("topicFilterType"), TopicSysFlag: int(f.intOr("topicSysFlag", 0)), Order: f.bool("order")}
	if f.err != nil {
		return nil, f.err
	}
	return b.setTopics(r, t)
}

func (b *Broker) updateTopics(_ *conn, r *remoting.Command) (*remoting.Command, error) {
	var list struct {
		Topics []topicWithDefaults `json:"topicConfigList"`
	}
	if err := read(r, &list); err != nil {
		return nil, err
	}
	topics := make([]remoting.TopicConfig, len(list.Topics))
	for i, t := range list.Topics {
		topics[i] = remoting.TopicConfig(t)
	}
	return b.setTopics(r, topics...)
}

// topicWithDefaults has RocketMQ's defaults for what its JSON does not say.
type topicWithDefaults remoting.TopicConfig

// UnmarshalJSON reads a topic.
func (t *topicWithDefaults) UnmarshalJSON(b []byte) error {
	*t = topicWithDefaults(newTopic("", 16, readWrite))
	return json.Unmarshal(b, (*remoting.TopicConfig)(t))
}

// setTopics creates or changes all of them, or none.
func (b *Broker) setTopics(r *remoting.Command, topics ...remoting.TopicConfig) (*remoting.Command, error) {
	for _, t := range topics {
		if err := checkTopicName(t.Name); err != nil {
			return nil, err
		}
		if b.systemTopic(t.Name) {
			return nil, refuse(remoting.InvalidParameter, "The topic[%s] is conflict with system topic.", t.Name)
		}
		if most := max(t.ReadQueues, t.WriteQueues); min(t.ReadQueues, t.WriteQueues) < 0 || most > maxQueues {
			return nil, refuse(remoting.InvalidParameter, "The topic[%s] has %d and %d queues: at most %d", t.Name, t.ReadQueues, t.WriteQueues, maxQueues)
		}
	}
	for _, t := range topics {
		if err := b.setTopic(t); err != nil {
			return nil, err
		}
	}
	return ok(r)
}

// deleteTopic leaves the topic at the name servers, where clients delete it.
func (b *Broker) deleteTopic(_ *conn, r *remoting.Command) (*remoting.Command, error) {
	f := fields{r: r}
	topic := f.text("topic")
	if f.err != nil {
		return nil, f.err
	}
	if strings.TrimSpace(topic) == "" {
		return nil, refuse(remoting.InvalidParameter, "The specified topic is blank.")
	}
	if b.systemTopic(topic) {
		return nil, refuse(remoting.InvalidParameter, "The topic[%s] is conflict with system topic.", topic)
	}
	if err := b.store.keep(entryTopicGone, nameEntry{topic}); err != nil {
		return nil, err
	}
	return ok(r)
}

func (b *Broker) topicConfig(_ *conn, r *remoting.Command) (*remoting.Command, error) {
	f := fields{r: r}
	topic := f.text("topic")
	if f.err != nil {
		return nil, f.err
	}
	t, found := b.store.topics[topic]
	if !found {
		return nil, refuse(remoting.TopicNotExist, "No topic in this broker. topic: %s", topic)
	}
	return body(r, struct {
		remoting.TopicConfig
		Attributes map[string]string `json:"attributes"`
	}{t, map[string]string{}})
}

func (b *Broker) allTopics(_ *conn, r *remoting.Command) (*remoting.Command, error) {
	return body(r, map[string]any{"topicConfigTable": b.store.topics, "dataVersion": dataVersion{}},
		"totalTopicNum", str(len(b.store.topics)))
}

// dataVersion is the empty one: versions are not kept.
type dataVersion struct {
	State     int64 `json:"stateVersion"`
	Timestamp int64 `json:"timestamp"`
	Counter   int64 `json:"counter"`
}

// Trim removes the messages of a queue before an offset, as a broker does when
// they are older than it keeps them.
func (b *Broker) Trim(topic string, queueID int, before int64) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.stopped == nil {
		return refuse(remoting.ServiceNotAvailable, "rmqserver: %s is stopped", b.name)
	}
	return b.store.keep(entryTrim, offsetEntry{Topic: topic, Queue: queueID, Offset: before})
}
