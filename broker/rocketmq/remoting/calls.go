package remoting

import (
	"context"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// Typed calls. addr is a name server's or a broker's, as said at each. They return ResponseError for an answer other
// than those described, ErrDisconnected when the connection is lost, ctx's error when ctx ends.

func str[N int | int32 | int64](n N) string { return strconv.FormatInt(int64(n), 10) }

// read makes a call and reads the JSON body of its answer.
func read[T any](ctx context.Context, c *Client, addr string, req *Command) (T, error) {
	var v T
	a, err := c.Call(ctx, addr, req)
	if err != nil {
		return v, err
	}
	if err := unmarshal(a.Body, &v); err != nil {
		return v, fmt.Errorf("%s: request %d: %w", addr, req.Code, err)
	}
	return v, nil
}

func (c *Client) send(ctx context.Context, addr string, req *Command) error {
	_, err := c.Call(ctx, addr, req)
	return err
}

// --- name server ---

// Route asks a name server where topic is. Code TopicNotExist: it knows no broker that carries it now.
func (c *Client) Route(ctx context.Context, addr, topic string) (*Route, error) {
	return read[*Route](ctx, c, addr, NewRequest(ReqRoute, nil, "topic", topic, "acceptStandardJsonOnly", "true"))
}

// ClusterInfo asks a name server which brokers are registered.
func (c *Client) ClusterInfo(ctx context.Context, addr string) (*ClusterInfo, error) {
	return read[*ClusterInfo](ctx, c, addr, NewRequest(ReqClusterInfo, nil))
}

// Topics asks a name server for the names of all topics.
func (c *Client) Topics(ctx context.Context, addr string) ([]string, error) {
	v, err := read[struct {
		Topics []string `json:"topicList"`
	}](ctx, c, addr, NewRequest(ReqTopicList, nil))
	return v.Topics, err
}

// ForgetTopic removes topic from a name server. Brokers that still have it bring it back.
func (c *Client) ForgetTopic(ctx context.Context, addr, topic string) error {
	return c.send(ctx, addr, NewRequest(ReqDeleteTopicInNameServer, nil, "topic", topic))
}

// --- broker: topics, groups, settings ---

// UpdateTopic creates topic on a broker or changes it; the broker tells its name servers before it answers.
func (c *Client) UpdateTopic(ctx context.Context, addr string, t TopicConfig) error {
	filter := t.FilterType
	if filter == "" {
		filter = "SINGLE_TAG"
	}
	return c.send(ctx, addr, NewRequest(ReqUpdateTopic, nil, "topic", t.Name, "defaultTopic", "TBW102",
		"readQueueNums", str(t.ReadQueues), "writeQueueNums", str(t.WriteQueues), "perm", str(t.Perm),
		"topicFilterType", filter, "topicSysFlag", str(t.TopicSysFlag), "order", strconv.FormatBool(t.Order)))
}

// TopicConfig asks a broker (5.0 or later; others answer NotSupported) for a topic. Code TopicNotExist.
func (c *Client) TopicConfig(ctx context.Context, addr, topic string) (*TopicConfig, error) {
	return read[*TopicConfig](ctx, c, addr, NewRequest(ReqGetTopicConfig, nil, "topic", topic))
}

// DeleteTopic removes topic and its messages from a broker. It succeeds also when there is none.
func (c *Client) DeleteTopic(ctx context.Context, addr, topic string) error {
	return c.send(ctx, addr, NewRequest(ReqDeleteTopicInBroker, nil, "topic", topic))
}

// TopicStats asks a broker for the offsets of topic's queues.
func (c *Client) TopicStats(ctx context.Context, addr, topic string) (map[Queue]TopicOffset, error) {
	v, err := read[struct {
		Offsets map[string]TopicOffset `json:"offsetTable"`
	}](ctx, c, addr, NewRequest(ReqTopicStats, nil, "topic", topic))
	if err != nil {
		return nil, err
	}
	return byQueue(v.Offsets)
}

// UpdateSubscriptionGroup creates a group on a broker or replaces its settings.
func (c *Client) UpdateSubscriptionGroup(ctx context.Context, addr string, g SubscriptionGroup) error {
	body, err := json.Marshal(g)
	if err != nil {
		return err
	}
	return c.send(ctx, addr, NewRequest(ReqUpdateSubscriptionGroup, body))
}

// DeleteGroup removes a group and its positions from a broker. It succeeds also when there is none.
func (c *Client) DeleteGroup(ctx context.Context, addr, group string) error {
	return c.send(ctx, addr, NewRequest(ReqDeleteSubscriptionGroup, nil, "groupName", group, "cleanOffset", "true"))
}

// ConsumeStats asks a broker where a group stands; topic "" is all its topics.
func (c *Client) ConsumeStats(ctx context.Context, addr, group, topic string) (map[Queue]ConsumeOffset, error) {
	v, err := read[struct {
		Offsets map[string]ConsumeOffset `json:"offsetTable"`
	}](ctx, c, addr, NewRequest(ReqConsumeStats, nil, "consumerGroup", group, "topic", topic))
	if err != nil {
		return nil, err
	}
	return byQueue(v.Offsets)
}

// ConsumingGroups are the groups that have a position on topic, or are connected and subscribed to it.
func (c *Client) ConsumingGroups(ctx context.Context, addr, topic string) ([]string, error) {
	v, err := read[struct {
		Groups []string `json:"groupList"`
	}](ctx, c, addr, NewRequest(ReqTopicConsumedByWhom, nil, "topic", topic))
	return v.Groups, err
}

// BrokerConfig asks a broker for its settings.
func (c *Client) BrokerConfig(ctx context.Context, addr string) (map[string]string, error) {
	a, err := c.Call(ctx, addr, NewRequest(ReqGetBrokerConfig, nil))
	if err != nil {
		return nil, err
	}
	out := map[string]string{}
	for line := range strings.Lines(string(a.Body)) {
		if name, value, ok := strings.Cut(strings.TrimSpace(line), "="); ok {
			out[name] = value
		}
	}
	return out, nil
}

// UpdateBrokerConfig changes settings of a broker. Setting brokerPermission makes it register at its name servers at
// once, also when the value stays the same.
func (c *Client) UpdateBrokerConfig(ctx context.Context, addr string, settings map[string]string) error {
	var b strings.Builder
	for name, value := range settings {
		fmt.Fprintf(&b, "%s=%s\n", name, value)
	}
	return c.send(ctx, addr, NewRequest(ReqUpdateBrokerConfig, []byte(b.String())))
}

// BrokerRuntime asks a broker for its counters.
func (c *Client) BrokerRuntime(ctx context.Context, addr string) (map[string]string, error) {
	v, err := read[struct {
		Table map[string]string `json:"table"`
	}](ctx, c, addr, NewRequest(ReqGetBrokerRuntime, nil))
	return v.Table, err
}

// --- broker: members of groups ---

// Heartbeat registers h at a broker, over the connection that the broker's notices (ReqConsumerIDsChanged) shall take.
// A broker that has no such group and may not create it ignores that part: see ConsumerIDs.
func (c *Client) Heartbeat(ctx context.Context, addr string, h Heartbeat) error {
	if h.Producers == nil {
		h.Producers = []ProducerGroup{}
	}
	if h.Consumers == nil {
		h.Consumers = []ConsumerGroup{}
	}
	body, err := json.Marshal(h)
	if err != nil {
		return err
	}
	return c.send(ctx, addr, NewRequest(ReqHeartbeat, body))
}

// Unregister takes a member out of a group at a broker.
func (c *Client) Unregister(ctx context.Context, addr, clientID, group string) error {
	return c.send(ctx, addr, NewRequest(ReqUnregisterClient, nil, "clientID", clientID, "consumerGroup", group))
}

// ConsumerIDs are the client ids of a group's members at a broker; none for a group that it does not know.
func (c *Client) ConsumerIDs(ctx context.Context, addr, group string) ([]string, error) {
	a, err := c.Call(ctx, addr, NewRequest(ReqConsumerList, nil, "consumerGroup", group), SystemError)
	if err != nil || a.Code == SystemError { // "no consumer for this group"
		return nil, err
	}
	var v struct {
		IDs []string `json:"consumerIdList"`
	}
	if err := unmarshal(a.Body, &v); err != nil {
		return nil, fmt.Errorf("%s: request %d: %w", addr, ReqConsumerList, err)
	}
	return v.IDs, nil
}

// ConsumerConnections are the members of a group with what they subscribe. Code ConsumerNotOnline: there is none.
func (c *Client) ConsumerConnections(ctx context.Context, addr, group string) (*ConsumerConnections, error) {
	return read[*ConsumerConnections](ctx, c, addr, NewRequest(ReqConsumerConnections, nil, "consumerGroup", group))
}

// LockQueues asks a broker for the exclusive right of a member to queues and returns those that it got. A lock ends 60 s
// after it was last asked for.
func (c *Client) LockQueues(ctx context.Context, addr, group, clientID string, queues []Queue) ([]Queue, error) {
	body, err := json.Marshal(LockRequest{Group: group, ClientID: clientID, Queues: queues})
	if err != nil {
		return nil, err
	}
	v, err := read[struct {
		Queues []Queue `json:"lockOKMQSet"`
	}](ctx, c, addr, NewRequest(ReqLockQueues, body))
	return v.Queues, err
}

// UnlockQueues gives the right back.
func (c *Client) UnlockQueues(ctx context.Context, addr, group, clientID string, queues []Queue) error {
	body, err := json.Marshal(LockRequest{Group: group, ClientID: clientID, Queues: queues})
	if err != nil {
		return err
	}
	return c.send(ctx, addr, NewRequest(ReqUnlockQueues, body))
}

// --- broker: queues ---

func queueFields(q Queue, more ...string) []string {
	return append([]string{"topic", q.Topic, "queueId", str(q.ID), "bname", q.Broker}, more...)
}

func (c *Client) offset(ctx context.Context, addr string, req *Command) (int64, error) {
	a, err := c.Call(ctx, addr, req)
	if err != nil {
		return 0, err
	}
	return a.Int("offset")
}

// MaxOffset is the offset that the next message of q will get, as far as the broker has indexed what it stored: that
// lags a moment behind its acknowledgements (BrokerRuntime, dispatchBehindBytes).
func (c *Client) MaxOffset(ctx context.Context, addr string, q Queue) (int64, error) {
	return c.offset(ctx, addr, NewRequest(ReqGetMaxOffset, nil, queueFields(q)...))
}

// MinOffset is the offset of the first message that q still has.
func (c *Client) MinOffset(ctx context.Context, addr string, q Queue) (int64, error) {
	return c.offset(ctx, addr, NewRequest(ReqGetMinOffset, nil, queueFields(q)...))
}

// SearchOffset is the offset of the first message of q that was stored at or after t.
func (c *Client) SearchOffset(ctx context.Context, addr string, q Queue, t time.Time) (int64, error) {
	return c.offset(ctx, addr, NewRequest(ReqSearchOffset, nil, queueFields(q, "timestamp", str(t.UnixMilli()))...))
}

// ConsumerOffset is the position of group in q, and whether it has one. A broker before 5.0 says 0 instead of "none"
// while q still has its first message in memory; exact is then false.
func (c *Client) ConsumerOffset(ctx context.Context, addr, group string, q Queue) (offset int64, found, exact bool, err error) {
	a, err := c.Call(ctx, addr, NewRequest(ReqQueryConsumerOffset, nil,
		queueFields(q, "consumerGroup", group, "setZeroIfNotFound", "false")...), QueryNotFound)
	if err != nil {
		return 0, false, false, err
	}
	exact = a.Version >= V5_0_0
	if a.Code == QueryNotFound {
		return 0, false, exact, nil
	}
	offset, err = a.Int("offset")
	return offset, err == nil, exact, err
}

// UpdateConsumerOffset sets the position of group in q. Nothing stops it from going back.
func (c *Client) UpdateConsumerOffset(ctx context.Context, addr, group string, q Queue, offset int64) error {
	return c.send(ctx, addr, NewRequest(ReqUpdateConsumerOffset, nil,
		queueFields(q, "consumerGroup", group, "commitOffset", str(offset))...))
}

// A Pull asks for messages of one queue.
type Pull struct {
	Group        string
	Queue        Queue
	Offset       int64
	Max          int           // messages; brokers give at most 32 and 256 KiB at a time
	Suspend      time.Duration // how long the broker may wait for a message; 0: not at all
	Subscription Subscription
}

// PullResult is the answer to a Pull.
type PullResult struct {
	Status   int   // Success, PullNotFound, PullRetryImmediately (nothing matched) or PullOffsetMoved (see Next)
	Reset    bool  // PullOffsetMoved because a tool has set the group's position to Next (5.0 and later)
	Next     int64 // where to go on
	Min, Max int64 // of the queue
	Messages []*Message
}

// PullMessages reads from a broker.
func (c *Client) PullMessages(ctx context.Context, addr string, p Pull) (*PullResult, error) {
	flags := PullSubscription
	if p.Suspend > 0 {
		flags |= PullSuspend
	}
	a, err := c.Call(ctx, addr, NewRequest(ReqPullMessage, nil, queueFields(p.Queue,
		"consumerGroup", p.Group, "queueOffset", str(p.Offset), "maxMsgNums", str(p.Max), "sysFlag", str(flags),
		"commitOffset", "0", "suspendTimeoutMillis", str(p.Suspend.Milliseconds()),
		"subscription", p.Subscription.Expression, "subVersion", str(p.Subscription.Version),
		"expressionType", p.Subscription.ExpressionType)...), PullNotFound, PullRetryImmediately, PullOffsetMoved)
	if err != nil {
		return nil, err
	}
	r := &PullResult{Status: a.Code, Reset: a.Code == PullOffsetMoved && a.Remark == "OFFSET_RESET"}
	if r.Next, err = a.Int("nextBeginOffset"); err != nil {
		return nil, err
	}
	if r.Min, err = a.Int("minOffset"); err != nil {
		return nil, err
	}
	if r.Max, err = a.Int("maxOffset"); err != nil {
		return nil, err
	}
	r.Messages, err = ParseMessages(a.Body)
	return r, err
}

// A SendBack asks a broker to store a message of its own again, in the retry topic of a group.
type SendBack struct {
	Group          string
	Topic          string // it was read from
	Broker         string
	PhysicalOffset int64
	MessageID      string
	DelayLevel     int // 1 …; below 0: the dead letter topic; 0: the broker chooses
	MaxReconsume   int // more than this: the dead letter topic
}

// SendBackMessage carries it out. Code SystemError: among others, the broker does not have the message any more.
func (c *Client) SendBackMessage(ctx context.Context, addr string, s SendBack) error {
	return c.send(ctx, addr, NewRequest(ReqSendBack, nil, "group", s.Group, "originTopic", s.Topic, "bname", s.Broker,
		"offset", str(s.PhysicalOffset), "originMsgId", s.MessageID, "delayLevel", str(s.DelayLevel),
		"maxReconsumeTimes", str(s.MaxReconsume), "unitMode", "false"))
}

// TimerMetrics asks a broker (5.0 or later; others answer NotSupported) how many messages wait in its timer wheel, by topic. One
// without a wheel answers SystemError.
func (c *Client) TimerMetrics(ctx context.Context, addr string) (map[string]int64, error) {
	v, err := read[struct {
		Counts map[string]struct {
			Count int64 `json:"count"`
		} `json:"timingCount"`
	}](ctx, c, addr, NewRequest(ReqTimerMetrics, nil))
	if err != nil {
		return nil, err
	}
	out := map[string]int64{}
	for topic, m := range v.Counts {
		out[topic] = m.Count
	}
	return out, nil
}

// DelayOffsets says, for each delay level, the offset in queue level-1 of SCHEDULE_TOPIC_XXXX up to which the broker has
// delivered.
func (c *Client) DelayOffsets(ctx context.Context, addr string) (map[int]int64, error) {
	v, err := read[struct {
		Offsets map[int]int64 `json:"offsetTable"`
	}](ctx, c, addr, NewRequest(ReqDelayOffsets, nil))
	return v.Offsets, err
}
