package remoting

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"unicode/utf16"
)

// Queue names one queue.
type Queue struct {
	Topic  string `json:"topic"`
	Broker string `json:"brokerName"`
	ID     int    `json:"queueId"`
}

// Route says which brokers carry a topic.
type Route struct {
	OrderTopicConf string       `json:"orderTopicConf,omitempty"`
	Queues         []QueueData  `json:"queueDatas"`
	Brokers        []BrokerData `json:"brokerDatas"`
}

// QueueData is the part of one broker in a topic.
type QueueData struct {
	Broker       string `json:"brokerName"`
	ReadQueues   int    `json:"readQueueNums"`
	WriteQueues  int    `json:"writeQueueNums"`
	Perm         int    `json:"perm"` // PermRead, PermWrite
	TopicSysFlag int    `json:"topicSysFlag"`
}

// BrokerData is a broker and its replicas.
type BrokerData struct {
	Cluster string           `json:"cluster"`
	Name    string           `json:"brokerName"`
	Addrs   map[int64]string `json:"brokerAddrs"` // by broker id; 0 is the master
}

// Master is the master's address, "" when there is none now.
func (b BrokerData) Master() string { return b.Addrs[0] }

// ClusterInfo is what a name server knows of brokers.
type ClusterInfo struct {
	Brokers  map[string]BrokerData `json:"brokerAddrTable"`  // by broker name
	Clusters map[string][]string   `json:"clusterAddrTable"` // broker names by cluster name
}

// TopicConfig is a topic as one broker keeps it.
type TopicConfig struct {
	Name         string            `json:"topicName"`
	ReadQueues   int               `json:"readQueueNums"`
	WriteQueues  int               `json:"writeQueueNums"`
	Perm         int               `json:"perm"`
	FilterType   string            `json:"topicFilterType,omitempty"` // "": SINGLE_TAG
	TopicSysFlag int               `json:"topicSysFlag"`
	Order        bool              `json:"order"`
	Attributes   map[string]string `json:"attributes,omitempty"`
}

// TopicOffset is the range of offsets that a queue has.
type TopicOffset struct {
	Min        int64 `json:"minOffset"`
	Max        int64 `json:"maxOffset"`
	LastUpdate int64 `json:"lastUpdateTimestamp"` // Unix ms
}

// ConsumeOffset is where a group stands in a queue.
type ConsumeOffset struct {
	Broker   int64 `json:"brokerOffset"`   // end of the queue
	Consumer int64 `json:"consumerOffset"` // the group's position; 0 also when it has none
	Last     int64 `json:"lastTimestamp"`
}

// SubscriptionGroup is a group as one broker keeps it.
type SubscriptionGroup struct {
	Name                 string `json:"groupName"`
	ConsumeEnable        bool   `json:"consumeEnable"`
	ConsumeFromMinEnable bool   `json:"consumeFromMinEnable"`
	ConsumeBroadcast     bool   `json:"consumeBroadcastEnable"`
	RetryQueues          int    `json:"retryQueueNums"`
	RetryMaxTimes        int    `json:"retryMaxTimes"`
	BrokerID             int64  `json:"brokerId"`
	SlowBrokerID         int64  `json:"whichBrokerWhenConsumeSlowly"`
	NotifyIDsChanged     bool   `json:"notifyConsumerIdsChangedEnable"`
}

// NewSubscriptionGroup has RocketMQ's defaults.
func NewSubscriptionGroup(name string) SubscriptionGroup {
	return SubscriptionGroup{Name: name, ConsumeEnable: true, ConsumeFromMinEnable: true, ConsumeBroadcast: true,
		RetryQueues: 1, RetryMaxTimes: 16, SlowBrokerID: 1, NotifyIDsChanged: true}
}

// Heartbeat registers a client's groups at a broker.
type Heartbeat struct {
	ClientID  string          `json:"clientID"`
	Producers []ProducerGroup `json:"producerDataSet"`
	Consumers []ConsumerGroup `json:"consumerDataSet"`
}

// ProducerGroup is a producer in a Heartbeat.
type ProducerGroup struct {
	Name string `json:"groupName"`
}

// ConsumerGroup is a consumer in a Heartbeat.
type ConsumerGroup struct {
	Name          string         `json:"groupName"`
	ConsumeType   string         `json:"consumeType"`      // CONSUME_PASSIVELY: the broker tells of changes
	MessageModel  string         `json:"messageModel"`     // CLUSTERING or BROADCASTING
	FromWhere     string         `json:"consumeFromWhere"` // CONSUME_FROM_FIRST_OFFSET, …
	Subscriptions []Subscription `json:"subscriptionDataSet"`
	UnitMode      bool           `json:"unitMode"`
}

// Subscription is one topic of a ConsumerGroup.
type Subscription struct {
	Topic          string   `json:"topic"`
	Expression     string   `json:"subString"` // "*", or tags separated by "||"
	Tags           []string `json:"tagsSet"`
	Codes          []int32  `json:"codeSet"` // hash codes of Tags
	Version        int64    `json:"subVersion"`
	ExpressionType string   `json:"expressionType"`
	ClassFilter    bool     `json:"classFilterMode"`
}

// NewSubscription builds the subscription of topic by tags: "" and "*" read all, "a || b" two. A broker takes a
// subscription for newer when version is larger (clients use milliseconds).
func NewSubscription(topic, tags string, version int64) Subscription {
	s := Subscription{Topic: topic, Expression: "*", Tags: []string{}, Codes: []int32{}, Version: version,
		ExpressionType: "TAG"}
	for tag := range strings.SplitSeq(tags, "||") {
		if tag = strings.TrimSpace(tag); tag != "" && tag != "*" {
			s.Tags = append(s.Tags, tag)
			s.Codes = append(s.Codes, HashCode(tag))
		}
	}
	if len(s.Tags) > 0 {
		s.Expression = strings.Join(s.Tags, "||")
	}
	return s
}

// HashCode is Java's String.hashCode, by which brokers filter tags.
func HashCode(s string) int32 {
	var h int32
	for _, u := range utf16.Encode([]rune(s)) {
		h = 31*h + int32(u)
	}
	return h
}

// ConsumerConnections are the members that a broker has for a group.
type ConsumerConnections struct {
	Connections   []Connection            `json:"connectionSet"`
	Subscriptions map[string]Subscription `json:"subscriptionTable"`
	ConsumeType   string                  `json:"consumeType"`
	MessageModel  string                  `json:"messageModel"`
}

// Connection is one member.
type Connection struct {
	ClientID string `json:"clientId"`
	Addr     string `json:"clientAddr"`
	Language string `json:"language"`
	Version  int    `json:"version"`
}

// LockRequest is the body of ReqLockQueues and ReqUnlockQueues.
type LockRequest struct {
	Group          string  `json:"consumerGroup"`
	ClientID       string  `json:"clientId"`
	OnlyThisBroker bool    `json:"onlyThisBroker"`
	Queues         []Queue `json:"mqSet"`
}

// byQueue reads a Java map with queues as keys.
func byQueue[V any](in map[string]V) (map[Queue]V, error) {
	out := make(map[Queue]V, len(in))
	for text, v := range in {
		var q Queue
		if err := json.Unmarshal([]byte(text), &q); err != nil {
			return nil, fmt.Errorf("queue %q: %w", text, err)
		}
		out[q] = v
	}
	return out, nil
}

// AppendByQueue appends the object that byQueue reads, in the order of the queues.
func AppendByQueue[V any](b []byte, m map[Queue]V) ([]byte, error) {
	b = append(b, '{')
	for i, q := range slices.SortedFunc(maps.Keys(m), compareQueues) {
		if i > 0 {
			b = append(b, ',')
		}
		key, err := json.Marshal(q)
		if err != nil {
			return nil, err
		}
		value, err := json.Marshal(m[q])
		if err != nil {
			return nil, err
		}
		b = append(append(append(b, key...), ':'), value...)
	}
	return append(b, '}'), nil
}

func compareQueues(a, b Queue) int {
	return cmp.Or(strings.Compare(a.Topic, b.Topic), strings.Compare(a.Broker, b.Broker), a.ID-b.ID)
}
