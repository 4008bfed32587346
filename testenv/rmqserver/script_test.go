package rmqserver_test

import (
	"bytes"
	"compress/zlib"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/turnout-mq/turnout/broker/rocketmq/remoting"
)

// script plays operations and writes down what comes of them, one line each.
type script struct {
	*testing.T
	ctx    context.Context
	client *remoting.Client
	names  string
	broker string
	calls  int
	lines  []string

	notices chan string // what the broker has told the client of itself
}

func (s *script) say(name, format string, args ...any) {
	s.lines = append(s.lines, name+": "+fmt.Sprintf(format, args...))
}

// call makes a request and returns the answer whatever its code. The two codecs take turns.
func (s *script) call(addr string, r *remoting.Command) *remoting.Command {
	s.Helper()
	s.calls++
	r.Codec = remoting.Codec(s.calls % 2)
	a, err := s.client.Call(s.ctx, addr, r, anyCode...)
	require.NoError(s, err)
	require.Equal(s, remoting.JSON, a.Codec, "servers answer in JSON, whatever the request came in")
	return a
}

// anyCode are all response codes.
var anyCode = func() []int {
	codes := make([]int, 1000)
	for i := range codes {
		codes[i] = i
	}
	return codes
}()

// note writes down the code of the answer and the fields named.
func (s *script) note(name, addr string, r *remoting.Command, fields ...string) *remoting.Command {
	s.Helper()
	a := s.call(addr, r)
	line := fmt.Sprint(a.Code)
	for _, f := range fields {
		v := a.Fields[f]
		if f == "transactionId" && len(v) > 20 {
			v = fmt.Sprint(len(v), " characters")
		}
		line += " " + f + "=" + v
	}
	s.say(name, "%s", line)
	return a
}

func (s *script) atBroker(name string, code int, fields ...string) *remoting.Command {
	s.Helper()
	return s.note(name, s.broker, remoting.NewRequest(code, nil, fields...))
}

// sendV2 sends with short field names; more replaces fields.
func (s *script) sendV2(name, topic string, queue int, properties, body string, more ...string) *remoting.Command {
	s.Helper()
	r := remoting.NewRequest(remoting.ReqSendMessageV2, []byte(body), "a", "producers", "b", topic, "c", "TBW102", "d", "4", "e", strconv.Itoa(queue),
		"f", "0", "g", "1700000000000", "h", "7", "i", properties, "j", "0", "k", "false", "l", "16", "m", "false", "n", "rocketmq-a")
	for i := 0; i < len(more); i += 2 {
		r.Fields[more[i]] = more[i+1]
	}
	return s.note(name, s.broker, r, "queueId", "queueOffset", "transactionId")
}

func (s *script) topic(name, topic string, read, write, perm int) {
	s.Helper()
	s.atBroker(name, remoting.ReqUpdateTopic, "topic", topic, "defaultTopic", "TBW102", "readQueueNums", strconv.Itoa(read),
		"writeQueueNums", strconv.Itoa(write), "perm", strconv.Itoa(perm), "topicFilterType", "SINGLE_TAG", "topicSysFlag", "0", "order", "false")
}

func (s *script) pull(name, group, topic string, queue int, offset int64, flags int, more ...string) *remoting.Command {
	s.Helper()
	r := remoting.NewRequest(remoting.ReqPullMessage, nil, "consumerGroup", group, "topic", topic, "queueId", strconv.Itoa(queue),
		"queueOffset", strconv.FormatInt(offset, 10), "maxMsgNums", "32", "sysFlag", strconv.Itoa(flags), "commitOffset", "0",
		"suspendTimeoutMillis", "15000", "subscription", "*", "subVersion", "0", "expressionType", "TAG")
	for i := 0; i < len(more); i += 2 {
		r.Fields[more[i]] = more[i+1]
	}
	return s.note(name, s.broker, r, "nextBeginOffset", "minOffset", "maxOffset", "suggestWhichBrokerId")
}

// messages pulls all of a queue, waiting for the first, and writes down what they are.
func (s *script) messages(name, topic string, queue int) []*remoting.Message {
	s.Helper()
	r, err := s.client.PullMessages(s.ctx, s.broker, remoting.Pull{Group: "readers", Queue: remoting.Queue{Topic: topic, Broker: "rocketmq-a", ID: queue},
		Max: 32, Suspend: 15 * time.Second, Subscription: remoting.NewSubscription(topic, "", 0)})
	require.NoError(s, err)
	for i, m := range r.Messages {
		p := remoting.ParseProperties(m.Properties)
		if p["UNIQ_KEY"] != "" && len(p["UNIQ_KEY"]) > 20 {
			p["UNIQ_KEY"] = fmt.Sprint(len(p["UNIQ_KEY"]), " characters")
		}
		for _, id := range []string{"ORIGIN_MESSAGE_ID", "__transactionId__"} {
			if p[id] != "" {
				p[id] = fmt.Sprint(len(p[id]), " characters")
			}
		}
		var all []string
		for _, k := range slices.Sorted(maps.Keys(p)) {
			all = append(all, k+"="+p[k])
		}
		s.say(fmt.Sprintf("%s %d", name, i), "%s/%d at %d flag=%d sys=%d born=%d@%s reconsumed=%d prepared=%v body=%q %s", m.Topic, m.QueueID, m.QueueOffset, m.Flag, m.SysFlag,
			m.Born.UnixMilli(), m.BornHost.Addr(), m.ReconsumeTimes, m.PreparedOffset > 0, m.Body, strings.Join(all, " "))
	}
	return r.Messages
}

// indexed waits until what was stored is also in its queues: a real broker answers before.
func (s *script) indexed(topic string, queue int, end int64) {
	s.Helper()
	q := remoting.Queue{Topic: topic, ID: queue}
	require.Eventually(s, func() bool { n, err := s.client.MaxOffset(s.ctx, s.broker, q); return err == nil && n == end }, time.Minute, time.Millisecond)
}

// json writes down the body of an answer, in the order of its keys.
func (s *script) json(name string, a *remoting.Command, without ...string) {
	s.Helper()
	var v map[string]any
	require.NoError(s, json.Unmarshal(a.Body, &v), "%s", a.Body)
	for _, k := range without {
		delete(v, k)
	}
	text, err := json.Marshal(v)
	require.NoError(s, err)
	s.say(name, "%s", strings.ReplaceAll(string(text), s.broker, "BROKER"))
}

func (s *script) nameServer() {
	s.say("clusters", "%v", func() any { info, _ := s.client.ClusterInfo(s.ctx, s.names); return info.Clusters }())
	at := func(name string, code int, fields ...string) *remoting.Command {
		return s.note(name, s.names, remoting.NewRequest(code, nil, fields...), "value")
	}
	at("route of nothing", remoting.ReqRoute, "topic", "nothing")
	at("route without topic", remoting.ReqRoute)
	at("unknown code at the name server", 9999)
	at("get no key", remoting.ReqGetKV, "namespace", "n", "key", "k")
	at("put key", remoting.ReqPutKV, "namespace", "n", "key", "k", "value", "v")
	at("get key", remoting.ReqGetKV, "namespace", "n", "key", "k")
	s.json("list keys", at("keys", remoting.ReqKVList, "namespace", "n"))
	at("delete key", remoting.ReqDeleteKV, "namespace", "n", "key", "k")
	at("key again", remoting.ReqGetKV, "namespace", "n", "key", "k")
	at("no keys", remoting.ReqKVList, "namespace", "m")
	s.strings("topics of clusters and brokers", at("system topics", 304), "topicList")
	all, cluster := at("all topics", remoting.ReqTopicList), at("topics of the cluster", remoting.ReqTopicsOfCluster, "cluster", "rocketmq-a")
	s.say("they are the same", "%v", slices.Equal(s.list(all, "topicList"), s.list(cluster, "topicList")))
	s.strings("topics of no cluster", at("topics of another", remoting.ReqTopicsOfCluster, "cluster", "x"), "topicList")
	at("forget nothing", remoting.ReqDeleteTopicInNameServer, "topic", "nothing")
	s.atBroker("unknown code", 9999)
}

// list reads a list of strings in the body of an answer, in their order.
func (s *script) list(a *remoting.Command, field string) []string {
	s.Helper()
	var v map[string]json.RawMessage
	require.NoError(s, json.Unmarshal(a.Body, &v), "%s", a.Body)
	var names []string
	require.NoError(s, json.Unmarshal(v[field], &names), "%s", a.Body)
	slices.Sort(names)
	return names
}

func (s *script) strings(name string, a *remoting.Command, field string) {
	s.Helper()
	s.say(name, "%v", s.list(a, field))
}

func (s *script) topics() {
	s.atBroker("config of nothing", remoting.ReqGetTopicConfig, "topic", "nothing")
	s.topic("bad name", "a b", 1, 1, 6)
	s.topic("blank name", " ", 1, 1, 6)
	s.topic("long name", strings.Repeat("t", 128), 1, 1, 6)
	s.topic("a system topic", "SCHEDULE_TOPIC_XXXX", 1, 1, 6)
	s.topic("create", "orders", 4, 2, 6)
	s.json("its config", s.call(s.broker, remoting.NewRequest(remoting.ReqGetTopicConfig, nil, "topic", "orders")))
	route := remoting.NewRequest(remoting.ReqRoute, nil, "topic", "orders", "acceptStandardJsonOnly", "true")
	s.json("its route", s.call(s.names, route), "filterServerTable")
	topics, err := s.client.Topics(s.ctx, s.names)
	require.NoError(s, err)
	s.say("listed", "%v", slices.Contains(topics, "orders"))
	s.topic("change", "orders", 4, 2, 4)
	s.json("changed route", s.call(s.names, route), "filterServerTable")
	s.note("order configuration", s.names, remoting.NewRequest(remoting.ReqPutKV, nil, "namespace", "ORDER_TOPIC_CONFIG", "key", "orders", "value", "rocketmq-a:4"))
	told, err := s.client.Route(s.ctx, s.names, "orders")
	require.NoError(s, err)
	s.say("it is told", "%q", told.OrderTopicConf)
	s.sendV2("send without write permission", "orders", 0, "", "still taken")
	s.topic("write only", "orders", 4, 2, 2)
	s.pull("pull without read permission", "readers", "orders", 0, 0, remoting.PullSubscription)
	s.topic("no queues", "orders", 0, 0, 6)
	s.sendV2("send to no queue", "orders", 0, "", "refused")
	s.sendV2("send to any of no queues", "orders", -1, "", "refused")
	s.pull("pull from no queue", "readers", "orders", 0, 0, remoting.PullSubscription)
	s.indexed("orders", 0, 1)
	s.topic("queues again", "orders", 4, 2, 6)
	s.messages("what is there", "orders", 0)
	s.topic("create another", "gone", 1, 1, 6)
	s.sendV2("send to it", "gone", 0, "", "x")
	s.atBroker("delete a topic", remoting.ReqDeleteTopicInBroker, "topic", "gone")
	s.atBroker("deleted", remoting.ReqGetTopicConfig, "topic", "gone")
	s.note("its route stays", s.names, remoting.NewRequest(remoting.ReqRoute, nil, "topic", "gone"))
	s.sendV2("send to the deleted", "gone", 0, "", "x")
	s.note("forget", s.names, remoting.NewRequest(remoting.ReqDeleteTopicInNameServer, nil, "topic", "gone"))
	s.note("no route", s.names, remoting.NewRequest(remoting.ReqRoute, nil, "topic", "gone"))
	s.atBroker("delete a system topic", remoting.ReqDeleteTopicInBroker, "topic", "SCHEDULE_TOPIC_XXXX")
	s.topic("as before", "gone", 1, 1, 6)
	s.sendV2("offsets begin anew", "gone", 0, "", "x")
}

func (s *script) sends() {
	s.topic("topic to send to", "sent", 2, 2, 6)
	s.sendV2("send to nothing", "nothing", 0, "", "x")
	s.sendV2("send to a schedule", "SCHEDULE_TOPIC_XXXX", 0, "", "x")
	s.sendV2("send to a bad name", "a b", 0, "", "x")
	s.sendV2("queue too high", "sent", 2, "", "x")
	s.sendV2("empty body", "sent", 0, "", "")
	s.sendV2("large body", "sent", 0, "", strings.Repeat("x", 4<<20+1))
	s.sendV2("long properties", "sent", 0, remoting.AppendProperty("", "k", strings.Repeat("v", 33000)), "x")
	s.note("missing fields", s.broker, remoting.NewRequest(remoting.ReqSendMessageV2, []byte("x"), "b", "sent"))
	v1 := sendRequest("sent", 0, "", []byte("one"))
	v1.Fields["bornTimestamp"] = "1700000000000"
	s.note("version 1", s.broker, v1, "queueId", "queueOffset")
	p := remoting.AppendProperty(remoting.AppendProperty(remoting.AppendProperty("", "UNIQ_KEY", "mine"), "KEYS", "k1 k2"), "TAGS", "a")
	s.sendV2("version 2", "sent", 0, p+remoting.AppendProperty("", "x", "y"), "two", "f", "1", "j", "3")
	s.sendV2("no separator at the end", "sent", 0, strings.TrimSuffix(p, "\x02"), "three")
	batch := []byte{}
	for i, body := range []string{"b0", "b1"} {
		batch = appendBatched(batch, int32(i), body, remoting.AppendProperty("", "UNIQ_KEY", fmt.Sprint("batch", i)))
	}
	r := remoting.NewRequest(remoting.ReqSendBatch, batch, "a", "producers", "b", "sent", "c", "TBW102", "d", "4", "e", "0", "f", "0",
		"g", "1700000000000", "h", "0", "i", "", "j", "0", "k", "false", "l", "0", "m", "true", "n", "rocketmq-a")
	a := s.note("batch", s.broker, r, "queueId", "queueOffset")
	s.say("ids of the batch", "%d", len(strings.Split(a.Fields["msgId"], ",")))
	var compressed bytes.Buffer
	z := zlib.NewWriter(&compressed)
	_, err := z.Write([]byte(strings.Repeat("and more ", 1000)))
	require.NoError(s, errors.Join(err, z.Close()))
	s.sendV2("compressed", "sent", 1, remoting.AppendProperty("", "UNIQ_KEY", "z"), compressed.String(), "f", "1")
	s.indexed("sent", 1, 1)
	p1, err := s.client.PullMessages(s.ctx, s.broker, remoting.Pull{Group: "readers", Queue: remoting.Queue{Topic: "sent", Broker: "rocketmq-a", ID: 1},
		Max: 1, Subscription: remoting.NewSubscription("sent", "", 0)})
	require.NoError(s, err)
	content, err := p1.Messages[0].Content()
	require.NoError(s, err)
	s.say("it is as it was", "%v, and of %d bytes then", bytes.Equal(p1.Messages[0].Body, compressed.Bytes()), len(content))
	one := remoting.NewRequest(remoting.ReqSendMessageV2, []byte("one way"), "a", "p", "b", "sent", "c", "TBW102", "d", "4", "e", "0", "f", "0",
		"g", "1700000000000", "h", "0", "i", "", "j", "0", "k", "false", "l", "0", "m", "false", "n", "rocketmq-a").OneWay()
	ctx, stored := context.WithCancel(s.ctx)
	answered := make(chan error, 1)
	go func() {
		_, err := s.client.Call(ctx, s.broker, one)
		answered <- err
	}()
	s.indexed("sent", 0, 6)
	stored()
	s.say("one-way is answered", "%v", <-answered == nil)
	s.messages("sent", "sent", 0)
	s.say("stats", "%+v", withoutTimes(s.must(s.client.TopicStats(s.ctx, s.broker, "sent"))))
}

func (s *script) must(v map[remoting.Queue]remoting.TopicOffset, err error) map[remoting.Queue]remoting.TopicOffset {
	require.NoError(s, err)
	return v
}

func withoutTimes(m map[remoting.Queue]remoting.TopicOffset) map[remoting.Queue]remoting.TopicOffset {
	for q, o := range m {
		o.LastUpdate = 0
		m[q] = o
	}
	return m
}

// appendBatched appends one message of a batch.
func appendBatched(b []byte, flag int32, body, properties string) []byte {
	be := binary.BigEndian
	b = be.AppendUint32(b, uint32(22+len(body)+len(properties)))
	b = be.AppendUint32(b, 0)
	b = be.AppendUint32(b, crc32.ChecksumIEEE([]byte(body)))
	b = be.AppendUint32(b, uint32(flag))
	b = be.AppendUint32(b, uint32(len(body)))
	b = append(b, body...)
	b = be.AppendUint16(b, uint16(len(properties)))
	return append(b, properties...)
}

func (s *script) pulls() {
	s.topic("topic to pull from", "pulled", 2, 2, 6)
	const sub = remoting.PullSubscription
	s.pull("of nothing", "readers", "nothing", 0, 0, sub)
	s.pull("of a queue too high", "readers", "pulled", 2, 0, sub)
	s.pull("of a negative queue", "readers", "pulled", -1, 0, sub)
	s.pull("empty", "readers", "pulled", 0, 0, sub)
	s.pull("empty, beyond", "readers", "pulled", 0, 5, sub)
	for i, tag := range []string{"a", "b", "", "c"} {
		p := ""
		if tag != "" {
			p = remoting.AppendProperty("", "TAGS", tag)
		}
		s.sendV2(fmt.Sprint("message ", i), "pulled", 0, p+remoting.AppendProperty("", "UNIQ_KEY", fmt.Sprint("u", i)), fmt.Sprint(i))
	}
	s.indexed("pulled", 0, 4)
	s.pull("all", "readers", "pulled", 0, 0, sub)
	s.pull("a few", "readers", "pulled", 0, 0, sub, "maxMsgNums", "2")
	s.pull("none wanted", "readers", "pulled", 0, 0, sub, "maxMsgNums", "0")
	s.pull("at the end", "readers", "pulled", 0, 4, sub)
	s.pull("beyond", "readers", "pulled", 0, 9, sub)
	s.pull("before", "readers", "pulled", 0, -1, sub)
	s.pull("tag a", "readers", "pulled", 0, 0, sub, "subscription", "a")
	s.pull("tags a and c from 1", "readers", "pulled", 0, 1, sub, "subscription", "a || c")
	s.pull("no such tag", "readers", "pulled", 0, 0, sub, "subscription", "z")
	s.pull("SQL", "readers", "pulled", 0, 0, sub, "subscription", "a = 1", "expressionType", "SQL92")
	s.pull("without subscription", "nobody", "pulled", 0, 0, 0)
	s.pull("and commit", "readers", "pulled", 0, 4, sub|remoting.PullCommit, "commitOffset", "3")
	s.note("what was committed", s.broker, remoting.NewRequest(remoting.ReqQueryConsumerOffset, nil, "consumerGroup", "readers", "topic", "pulled", "queueId", "0"), "offset")
	held := s.hold(1, 0, "*")
	s.sendV2("what is waited for", "pulled", 1, "", "x")
	s.say("held", "%s", <-held)
	// Only what it wants ends the wait.
	held = s.hold(1, 1, "a")
	for _, tag := range []string{"b", "a"} {
		s.sendV2("tag "+tag+" comes", "pulled", 1, remoting.AppendProperty("", "TAGS", tag), "x")
	}
	s.say("held for tag a", "%s", <-held)
}

// hold pulls from where nothing is yet until something comes, and tells what.
func (s *script) hold(queue int, at int64, tags string) <-chan string {
	got := make(chan string, 1)
	go func() {
		for {
			r, err := s.client.PullMessages(s.ctx, s.broker, remoting.Pull{Group: "readers", Queue: remoting.Queue{Topic: "pulled", Broker: "rocketmq-a", ID: queue},
				Offset: at, Max: 32, Suspend: 15 * time.Second, Subscription: remoting.NewSubscription("pulled", tags, 0)})
			if err != nil || len(r.Messages) > 0 {
				got <- fmt.Sprintf("%d messages, next=%d %v", len(r.Messages), r.Next, err)
				return
			}
			at = r.Next // it came before the pull, and is not wanted, or nothing came for long
		}
	}()
	return got
}

func (s *script) offsets() {
	query := func(name, group, topic string, more ...string) {
		s.note(name, s.broker, remoting.NewRequest(remoting.ReqQueryConsumerOffset, nil, append([]string{"consumerGroup", group, "topic", topic, "queueId", "0"}, more...)...), "offset")
	}
	update := func(name, group, topic, offset string) {
		s.atBroker(name, remoting.ReqUpdateConsumerOffset, "consumerGroup", group, "topic", topic, "queueId", "0", "commitOffset", offset)
	}
	s.topic("an empty topic", "empty", 1, 1, 6)
	query("position of nobody on nothing", "nobody", "nothing")
	query("position of nobody on an empty topic", "nobody", "empty")
	query("position of nobody", "nobody", "pulled")
	query("position of nobody, not zero", "nobody", "pulled", "setZeroIfNotFound", "false")
	update("position of a group that is not there", "not there", "pulled", "1")
	update("position on nothing", "readers", "nothing", "1")
	update("position", "readers", "pulled", "2")
	query("it", "readers", "pulled")
	update("position back", "readers", "pulled", "1")
	query("it went back", "readers", "pulled")
	for _, code := range []int{remoting.ReqGetMaxOffset, remoting.ReqGetMinOffset} {
		for _, q := range []string{"nothing/0", "empty/0", "pulled/0", "pulled/7"} {
			topic, id, _ := strings.Cut(q, "/")
			s.note(fmt.Sprint(code, " of ", q), s.broker, remoting.NewRequest(code, nil, "topic", topic, "queueId", id), "offset")
		}
	}
	search := func(name, topic string, at time.Time) {
		s.note(name, s.broker, remoting.NewRequest(remoting.ReqSearchOffset, nil, "topic", topic, "queueId", "0", "timestamp", strconv.FormatInt(at.UnixMilli(), 10)), "offset")
	}
	search("long ago", "pulled", time.Now().Add(-time.Hour))
	search("in an hour", "pulled", time.Now().Add(time.Hour))
	search("in an empty topic", "empty", time.Now())
	stats, err := s.client.ConsumeStats(s.ctx, s.broker, "readers", "pulled")
	require.NoError(s, err)
	for q, o := range stats {
		o.Last = 0
		stats[q] = o
	}
	s.say("consume stats", "%+v", stats)
	groups, err := s.client.ConsumingGroups(s.ctx, s.broker, "pulled")
	require.NoError(s, err)
	slices.Sort(groups)
	s.say("groups", "%v", groups)
	s.json("topics of a group", s.call(s.broker, remoting.NewRequest(remoting.ReqTopicsOfConsumer, nil, "group", "readers")))
}

// notice waits for what the broker tells the client of itself.
func (s *script) notice(of chan string) string {
	select {
	case n := <-of:
		return n
	case <-s.ctx.Done():
		return s.ctx.Err().Error()
	}
}

func (s *script) members() {
	s.atBroker("members of nobody", remoting.ReqConsumerList, "consumerGroup", "members")
	s.atBroker("connections of nobody", remoting.ReqConsumerConnections, "consumerGroup", "members")
	s.atBroker("producers of nobody", remoting.ReqProducerConnections, "producerGroup", "nobody")
	beat := func(version int64, tags string) remoting.Heartbeat {
		return remoting.Heartbeat{ClientID: "me", Producers: []remoting.ProducerGroup{{Name: "producers"}}, Consumers: []remoting.ConsumerGroup{{
			Name: "members", ConsumeType: "CONSUME_PASSIVELY", MessageModel: "CLUSTERING", FromWhere: "CONSUME_FROM_FIRST_OFFSET",
			Subscriptions: []remoting.Subscription{remoting.NewSubscription("pulled", tags, version)}}}}
	}
	require.NoError(s, s.client.Heartbeat(s.ctx, s.broker, beat(5, "a")))
	s.say("notice", "%s", s.notice(s.notices))
	s.json("members", s.call(s.broker, remoting.NewRequest(remoting.ReqConsumerList, nil, "consumerGroup", "members")))
	c, err := s.client.ConsumerConnections(s.ctx, s.broker, "members")
	require.NoError(s, err)
	s.say("connections", "%d %s %s %s %s", len(c.Connections), c.Connections[0].ClientID, c.ConsumeType, c.MessageModel, c.Subscriptions["pulled"].Expression)
	s.atBroker("a retry topic was made", remoting.ReqGetTopicConfig, "topic", "%RETRY%members")
	s.note("its route too", s.names, remoting.NewRequest(remoting.ReqRoute, nil, "topic", "%RETRY%members"))
	s.atBroker("producers", remoting.ReqProducerConnections, "producerGroup", "producers")
	s.pull("by heartbeat", "members", "pulled", 0, 0, 0, "subscription", "")
	s.pull("by heartbeat, a newer one", "members", "pulled", 0, 0, 0, "subVersion", "6")
	s.pull("by heartbeat, another topic", "members", "sent", 0, 0, 0)
	require.NoError(s, s.client.Heartbeat(s.ctx, s.broker, beat(4, "z")))
	s.pull("an older heartbeat", "members", "pulled", 0, 0, 0)
	require.NoError(s, s.client.Heartbeat(s.ctx, s.broker, beat(6, "z")))
	s.pull("a newer heartbeat", "members", "pulled", 0, 0, 0)
	s.say("notices of the same member", "%d", len(s.notices))
	theirs := make(chan string, 100)
	other := remoting.NewClient(remoting.Options{Handler: func(_ string, r *remoting.Command) *remoting.Command {
		theirs <- fmt.Sprint(r.Code, " ", r.Fields["consumerGroup"])
		return nil
	}})
	defer other.Close()
	second := beat(6, "z")
	second.ClientID = "you"
	require.NoError(s, other.Heartbeat(s.ctx, s.broker, second))
	s.say("notice that another has joined", "%s; to itself %s", s.notice(s.notices), s.notice(theirs))
	s.strings("both", s.call(s.broker, remoting.NewRequest(remoting.ReqConsumerList, nil, "consumerGroup", "members")), "consumerIdList")
	for len(s.notices) > 0 {
		<-s.notices
	}
	other.Close() // without a word
	s.say("notice that it is gone", "%s", s.notice(s.notices))
	s.strings("one", s.call(s.broker, remoting.NewRequest(remoting.ReqConsumerList, nil, "consumerGroup", "members")), "consumerIdList")
	s.atBroker("leave", remoting.ReqUnregisterClient, "clientID", "me", "consumerGroup", "members", "producerGroup", "producers")
	s.atBroker("members again", remoting.ReqConsumerList, "consumerGroup", "members")
	s.atBroker("leave again", remoting.ReqUnregisterClient, "clientID", "me", "consumerGroup", "members")
}

func (s *script) locks() {
	q := []remoting.Queue{{Topic: "pulled", Broker: "rocketmq-a", ID: 0}, {Topic: "pulled", Broker: "rocketmq-a", ID: 1}}
	lock := func(name, client string, queues []remoting.Queue) {
		got, err := s.client.LockQueues(s.ctx, s.broker, "lockers", client, queues)
		require.NoError(s, err)
		s.say(name, "%d", len(got))
	}
	lock("lock one", "me", q[:1])
	lock("lock again", "me", q[:1])
	lock("lock by another", "you", q)
	require.NoError(s, s.client.UnlockQueues(s.ctx, s.broker, "lockers", "you", q[:1]))
	lock("unlocked by another", "you", q[:1])
	require.NoError(s, s.client.UnlockQueues(s.ctx, s.broker, "lockers", "me", q[:1]))
	lock("unlocked", "you", q[:1])
}

func (s *script) delays() {
	s.topic("topic for delays", "delayed", 1, 1, 6)
	delay := func(level string) string {
		return remoting.AppendProperty(remoting.AppendProperty("", "UNIQ_KEY", "d"+level), "DELAY", level)
	}
	s.sendV2("no delay", "delayed", 0, delay("0"), "now")
	s.sendV2("delay", "delayed", 0, delay("1"), "in a second")
	s.sendV2("delay beyond the levels", "delayed", 0, delay("99"), "in two hours")
	s.atBroker("timers without a wheel", remoting.ReqTimerMetrics)
	s.sendV2("any delay", "delayed", 0, remoting.AppendProperty("", "TIMER_DELAY_MS", "1000"), "by a timer")
	s.indexed("delayed", 0, 2)
	s.messages("delayed", "delayed", 0)
	s.messages("schedule of level 1", "SCHEDULE_TOPIC_XXXX", 0)
	s.messages("schedule of the last level", "SCHEDULE_TOPIC_XXXX", 17)
	require.Eventually(s, func() bool { d, err := s.client.DelayOffsets(s.ctx, s.broker); return err == nil && d[1] == 1 }, time.Minute, 10*time.Millisecond)
}

func (s *script) retries() {
	s.topic("topic for retries", "retried", 1, 1, 6)
	s.sendV2("to be retried", "retried", 0, remoting.AppendProperty(remoting.AppendProperty("", "UNIQ_KEY", "r"), "TAGS", "a"), "again")
	s.indexed("retried", 0, 1)
	m := s.messages("retried", "retried", 0)[0]
	back := func(name string, m *remoting.Message, group, level, most string) {
		s.atBroker(name, remoting.ReqSendBack, "group", group, "originTopic", "retried", "offset", strconv.FormatInt(m.PhysicalOffset, 10),
			"originMsgId", m.ID(), "delayLevel", level, "maxReconsumeTimes", most, "unitMode", "false", "bname", "rocketmq-a")
	}
	back("send back", m, "retriers", "1", "16")
	s.indexed("%RETRY%retriers", 0, 1)
	r := s.messages("sent back", "%RETRY%retriers", 0)[0]
	back("send back again", r, "retriers", "1", "16")
	s.indexed("%RETRY%retriers", 0, 2)
	s.messages("sent back", "%RETRY%retriers", 0)
	back("once too often", r, "retriers", "0", "1")
	s.indexed("%DLQ%retriers", 0, 1)
	back("to the dead letters", m, "retriers", "-1", "16")
	s.indexed("%DLQ%retriers", 0, 2)
	s.messages("dead", "%DLQ%retriers", 0)
	s.json("dead letter topic", s.call(s.broker, remoting.NewRequest(remoting.ReqGetTopicConfig, nil, "topic", "%DLQ%retriers")))
	back("of an illegal group", m, "a b", "1", "16")
	m.PhysicalOffset++
	back("of no message", m, "retriers", "1", "16")
	s.sendV2("retry by a client", "%RETRY%clients", 0, remoting.AppendProperty("", "UNIQ_KEY", "c"), "by a client", "j", "2")
	s.indexed("%RETRY%clients", 0, 1)
	s.messages("retry by a client", "%RETRY%clients", 0)
	s.sendV2("too many retries by a client", "%RETRY%clients", 0, remoting.AppendProperty("", "UNIQ_KEY", "c"), "by a client", "j", "17")
	s.indexed("%DLQ%clients", 0, 1)
	s.messages("dead by a client", "%DLQ%clients", 0)
}

func (s *script) transactions() {
	s.topic("topic for transactions", "committed", 1, 1, 6)
	prepare := func(name string, more ...string) *remoting.Command {
		p := ""
		for _, kv := range [][2]string{{"UNIQ_KEY", name}, {"TRAN_MSG", "true"}, {"PGROUP", "producers"}} {
			p = remoting.AppendProperty(p, kv[0], kv[1])
		}
		return s.sendV2("prepare "+name, "committed", 0, p, name, append(more, "f", "4")...)
	}
	end := func(name string, a *remoting.Command, how int, group string) {
		id := a.Fields["msgId"]
		physical, err := strconv.ParseInt(id[len(id)-16:], 16, 64)
		require.NoError(s, err)
		s.atBroker(name, remoting.ReqEndTransaction, "producerGroup", group, "tranStateTableOffset", a.Fields["queueOffset"],
			"commitLogOffset", strconv.FormatInt(physical, 10), "commitOrRollback", strconv.Itoa(how), "fromTransactionCheck", "false",
			"msgId", "x", "transactionId", "x", "bname", "rocketmq-a")
	}
	one := prepare("one")
	s.indexed("RMQ_SYS_TRANS_HALF_TOPIC", 0, 1)
	s.messages("half", "RMQ_SYS_TRANS_HALF_TOPIC", 0)
	s.pull("nothing to see", "readers", "committed", 0, 0, remoting.PullSubscription)
	end("commit by another group", one, remoting.SysCommit, "others")
	end("commit", one, remoting.SysCommit, "producers")
	two := prepare("two")
	end("roll back", two, remoting.SysRollback, "producers")
	end("commit again", one, remoting.SysCommit, "producers")
	s.indexed("committed", 0, 2)
	s.messages("committed", "committed", 0)
	one.Fields["msgId"] = one.Fields["msgId"][:16] + "00000000ffffffff"
	end("commit nothing", one, remoting.SysCommit, "producers")

	half, ended := remoting.Queue{Topic: "RMQ_SYS_TRANS_HALF_TOPIC", Broker: "rocketmq-a"}, "RMQ_SYS_TRANS_OP_HALF_TOPIC"
	noted := map[string]bool{}
	require.Eventually(s, func() bool { // a real broker notes ends some seconds later, together
		r, err := s.client.PullMessages(s.ctx, s.broker, remoting.Pull{Group: "readers", Queue: remoting.Queue{Topic: ended, Broker: "rocketmq-a"}, Max: 32,
			Subscription: remoting.NewSubscription(ended, "", 0)})
		require.NoError(s, err)
		for _, m := range r.Messages {
			for offset := range strings.SplitSeq(strings.TrimSuffix(string(m.Body), ","), ",") {
				noted[offset] = true
			}
		}
		return len(noted) == 2
	}, time.Minute, 50*time.Millisecond)
	s.say("ended", "%v", slices.Sorted(maps.Keys(noted)))
	prepare("three", "g", strconv.FormatInt(time.Now().UnixMilli(), 10)) // one that is older than messages are kept is not asked about
	require.NoError(s, s.client.UpdateBrokerConfig(s.ctx, s.broker, map[string]string{"transactionTimeOut": "100", "transactionCheckInterval": "3600000"}))
	s.indexed(half.Topic, 0, 4) // within half a minute it asks the producer, and stores the message again
	r, err := s.client.PullMessages(s.ctx, s.broker, remoting.Pull{Group: "readers", Queue: half, Offset: 2, Max: 32, Subscription: remoting.NewSubscription(half.Topic, "", 0)})
	require.NoError(s, err)
	for _, m := range r.Messages {
		p := remoting.ParseProperties(m.Properties)
		s.say("half again", "%s at %d asked %q for %s/%s", m.Body, m.QueueOffset, p["TRANSACTION_CHECK_TIMES"], p["REAL_TOPIC"], p["REAL_QID"])
	}
	require.Eventually(s, func() bool {
		at, _, _, err := s.client.ConsumerOffset(s.ctx, s.broker, "CID_RMQ_SYS_TRANS", half)
		return err == nil && at == 3
	}, time.Minute, 10*time.Millisecond)
}

func (s *script) queries() {
	query := func(name, topic, key string, more ...string) {
		a := s.note(name, s.broker, remoting.NewRequest(remoting.ReqQueryMessage, nil, append([]string{"topic", topic, "key", key, "maxNum", "10",
			"beginTimestamp", "0", "endTimestamp", strconv.FormatInt(time.Now().Add(time.Hour).UnixMilli(), 10)}, more...)...))
		messages, err := remoting.ParseMessages(a.Body)
		require.NoError(s, err)
		s.say(name+" found", "%d", len(messages))
	}
	query("by key", "sent", "k1")
	query("by another key", "sent", "k2")
	query("by unique key", "sent", "mine", "_UNIQUE_KEY_QUERY", "true")
	query("by no key", "sent", "k3")
	query("in no topic", "nothing", "k1")
	r, err := s.client.PullMessages(s.ctx, s.broker, remoting.Pull{Group: "readers", Queue: remoting.Queue{Topic: "sent"}, Max: 1,
		Subscription: remoting.NewSubscription("sent", "", 0)})
	require.NoError(s, err)
	a := s.note("view", s.broker, remoting.NewRequest(remoting.ReqViewMessage, nil, "offset", strconv.FormatInt(r.Messages[0].PhysicalOffset, 10)))
	viewed, err := remoting.ParseMessages(a.Body)
	require.NoError(s, err)
	s.say("viewed", "%s", viewed[0].Body)
	s.atBroker("view nothing", remoting.ReqViewMessage, "offset", "4611686018427387904")
}

func (s *script) others() {
	s.topic("topic with one queue", "single", 1, 1, 6)
	s.sendV2("any queue", "single", -1, "", "x")
	s.sendV2("made like the cluster's topic", "made", 3, "", "x", "c", "rocketmq-a")
	s.json("what was made", s.call(s.broker, remoting.NewRequest(remoting.ReqGetTopicConfig, nil, "topic", "made")))
	s.sendV2("made like nothing", "not_made", 0, "", "x", "c", "nothing")
	r := remoting.NewRequest(remoting.ReqSendBatch, appendBatched(nil, 0, "x", ""), "a", "p", "b", "%RETRY%clients", "c", "TBW102", "d", "4", "e", "0",
		"f", "0", "g", "1700000000000", "h", "0", "i", "", "j", "0", "k", "false", "l", "0", "m", "true", "n", "rocketmq-a")
	s.note("batch of retries", s.broker, r)
	r = remoting.NewRequest(remoting.ReqSendMessageV2, appendBatched(nil, 0, "x", ""), "a", "p", "b", "single", "c", "TBW102", "d", "4", "e", "0",
		"f", "0", "g", "1700000000000", "h", "0", "i", "", "j", "0", "k", "false", "l", "0", "m", "true", "n", "rocketmq-a")
	s.note("batch by its flag", s.broker, r, "queueOffset")
	s.indexed("single", 0, 2)
	s.messages("single", "single", 0)
	for _, topic := range []string{"nothing", "empty", "pulled"} {
		a := s.call(s.broker, remoting.NewRequest(remoting.ReqEarliestStoreTime, nil, "topic", topic, "queueId", "0"))
		n, err := strconv.ParseInt(a.Fields["timestamp"], 10, 64)
		s.say("first time of "+topic, "%d %v %v", a.Code, err, n > 0)
	}
	for _, boundary := range []string{"LOWER", "UPPER"} {
		for _, topic := range []string{"nothing", "empty", "pulled"} {
			for name, at := range map[string]time.Time{"before": time.Now().Add(-time.Hour), "after": time.Now().Add(time.Hour)} {
				a := s.call(s.broker, remoting.NewRequest(remoting.ReqSearchOffset, nil, "topic", topic, "queueId", "0", "timestamp",
					strconv.FormatInt(at.UnixMilli(), 10), "boundaryType", boundary))
				s.lines = append(s.lines, fmt.Sprintf("%s %s %s: %d %s", boundary, name, topic, a.Code, a.Fields["offset"]))
			}
			slices.Sort(s.lines[len(s.lines)-2:])
		}
	}
	for _, kind := range []string{"TAG", "SQL92"} {
		b := fmt.Sprintf(`{"clientId":"x","group":"g","subscriptionData":{"topic":"pulled","subString":"a = 1","expressionType":%q}}`, kind)
		s.note("may filter by "+kind, s.broker, remoting.NewRequest(remoting.ReqCheckClientConfig, []byte(b)))
	}
	lite := remoting.NewRequest(remoting.ReqLitePullMessage, nil, "consumerGroup", "readers", "topic", "pulled", "queueId", "0", "queueOffset", "0", "maxMsgNums", "32",
		"sysFlag", "4", "commitOffset", "0", "suspendTimeoutMillis", "0", "subscription", "*", "subVersion", "0", "expressionType", "TAG")
	s.note("lite pull", s.broker, lite, "nextBeginOffset")
	for code, text := range map[int]string{remoting.ReqGetTopics: `"orders"`, remoting.ReqConsumerOffsets: `"pulled@readers"`, remoting.ReqSubscriptionGroups: `"readers"`} {
		a := s.call(s.broker, remoting.NewRequest(code, nil))
		require.Equal(s, remoting.Success, a.Code)
		require.Contains(s, string(a.Body), text)
	}
	require.NoError(s, s.client.Heartbeat(s.ctx, s.broker, remoting.Heartbeat{ClientID: "me", Consumers: []remoting.ConsumerGroup{{
		Name: "broadcast", ConsumeType: "CONSUME_PASSIVELY", MessageModel: "BROADCASTING", FromWhere: "CONSUME_FROM_LAST_OFFSET",
		Subscriptions: []remoting.Subscription{remoting.NewSubscription("pulled", "a", 1)}}}}))
	s.json("members of a broadcast", s.call(s.broker, remoting.NewRequest(remoting.ReqConsumerList, nil, "consumerGroup", "broadcast")))
	s.pull("by a heartbeat for broadcast", "broadcast", "pulled", 0, 0, 0, "subVersion", "1")
	group := remoting.NewSubscriptionGroup("broadcast")
	group.ConsumeBroadcast = false
	require.NoError(s, s.client.UpdateSubscriptionGroup(s.ctx, s.broker, group))
	s.pull("broadcast that may not", "broadcast", "pulled", 0, 0, 0, "subVersion", "1")
	s.atBroker("a heartbeat without body", remoting.ReqHeartbeat)
	s.note("a heartbeat that is none", s.broker, remoting.NewRequest(remoting.ReqHeartbeat, []byte("{")))
	s.atBroker("locks without body", remoting.ReqLockQueues)
	s.atBroker("a pull without fields", remoting.ReqPullMessage)
	s.atBroker("an end of nothing", remoting.ReqGetMaxOffset)
	s.atBroker("a queue that is no number", remoting.ReqGetMaxOffset, "topic", "pulled", "queueId", "x")
}

func (s *script) groups() {
	group := remoting.NewSubscriptionGroup("made")
	require.NoError(s, s.client.UpdateSubscriptionGroup(s.ctx, s.broker, group))
	s.atBroker("its settings", remoting.ReqGetSubscriptionGroup, "group", "made")
	s.atBroker("settings of nobody", remoting.ReqGetSubscriptionGroup, "group", "not made")
	bad := remoting.NewSubscriptionGroup("a b")
	s.say("a bad group", "%v", remoting.HasCode(s.client.UpdateSubscriptionGroup(s.ctx, s.broker, bad), remoting.InvalidParameter))
	group.ConsumeEnable = false
	require.NoError(s, s.client.UpdateSubscriptionGroup(s.ctx, s.broker, group))
	s.pull("pull of a group that may not", "made", "pulled", 0, 0, remoting.PullSubscription)
	s.atBroker("delete", remoting.ReqDeleteSubscriptionGroup, "groupName", "made", "cleanOffset", "true")
	s.pull("pull of a deleted group", "made", "pulled", 0, 0, remoting.PullSubscription)
	set := func(name, value string) {
		require.NoError(s, s.client.UpdateBrokerConfig(s.ctx, s.broker, map[string]string{name: value}))
	}
	set("autoCreateSubscriptionGroup", "false")
	s.pull("pull of a group that is not made", "never made", "pulled", 0, 0, remoting.PullSubscription)
	s.pull("pull of an unknown group", "never_made", "pulled", 0, 0, remoting.PullSubscription)
	set("brokerPermission", "4")
	s.note("a route without writing", s.names, remoting.NewRequest(remoting.ReqRoute, nil, "topic", "pulled"))
	s.sendV2("send to a broker that takes nothing", "pulled", 1, "", "still taken")
	set("brokerPermission", "2")
	s.pull("pull from a broker that gives nothing", "readers", "pulled", 0, 0, remoting.PullSubscription)
	set("brokerPermission", "6")
	config, err := s.client.BrokerConfig(s.ctx, s.broker)
	require.NoError(s, err)
	for _, name := range []string{"brokerClusterName", "brokerName", "brokerId", "brokerPermission", "maxMessageSize", "fileReservedTime", "messageDelayLevel", "traceOn"} {
		s.say("setting "+name, "%s", config[name])
	}
}

// ofQueues reads a table with queues as keys, which is no JSON.
func ofQueues(body []byte) string {
	var all []string
	for _, m := range regexp.MustCompile(`\{[^{]*"queueId":(\d+)[^}]*\}:(-?\d+)`).FindAllSubmatch(body, -1) {
		all = append(all, fmt.Sprintf("%s:%s", m[1], m[2]))
	}
	slices.Sort(all)
	return strings.Join(all, " ")
}

func (s *script) tools() {
	const reset, wipe, add = 222, 205, 327
	s.topic("topic to go back on", "again", 2, 2, 6)
	for i := range 3 {
		s.sendV2(fmt.Sprint("message ", i, " to read again"), "again", 0, remoting.AppendProperty("", "UNIQ_KEY", fmt.Sprint(i)), "x")
	}
	s.indexed("again", 0, 3)
	group := remoting.NewSubscriptionGroup("returners")
	require.NoError(s, s.client.UpdateSubscriptionGroup(s.ctx, s.broker, group))
	position := func(name string) {
		s.note(name, s.broker, remoting.NewRequest(remoting.ReqQueryConsumerOffset, nil, "consumerGroup", "returners", "topic", "again", "queueId", "0"), "offset")
	}
	commit := func(name, offset string) {
		s.atBroker(name, remoting.ReqUpdateConsumerOffset, "consumerGroup", "returners", "topic", "again", "queueId", "0", "commitOffset", offset)
	}
	set := func(name string, more ...string) *remoting.Command {
		return s.atBroker(name, reset, append([]string{"topic", "again", "group", "returners", "timestamp", "0", "isForce", "true"}, more...)...)
	}
	commit("position at the end", "3")
	a := set("set it back by time", "queueId", "-1")
	s.say("to the begin", "%s", ofQueues(a.Body))
	position("position that was set back")
	commit("commit by who does not know", "3")
	position("it stands")
	s.pull("pull by who does not know", "returners", "again", 0, 3, remoting.PullSubscription)
	s.pull("pull by who knows", "returners", "again", 0, 0, remoting.PullSubscription)
	commit("commit by who knows", "1")
	position("it counts")
	set("set one queue to an offset", "queueId", "0", "offset", "2")
	position("position that was set forward")
	s.pull("pull and commit by who does not know", "returners", "again", 0, 1, remoting.PullSubscription|remoting.PullCommit, "commitOffset", "1")
	position("then")
	a = set("set all to the end", "queueId", "-1", "timestamp", "-1")
	s.say("to the end", "%s", ofQueues(a.Body))
	set("set beyond the end", "queueId", "0", "offset", "9")
	set("set on nothing", "topic", "nothing")
	set("set for nobody", "group", "nobody_knows")

	permission := func(name string) {
		route, err := s.client.Route(s.ctx, s.names, "again")
		require.NoError(s, err)
		s.say(name, "%d", route.Queues[0].Perm)
	}
	s.note("take the write permission", s.names, remoting.NewRequest(wipe, nil, "brokerName", "rocketmq-a"))
	permission("permission without it")
	s.sendV2("send all the same", "again", 1, "", "x")
	s.note("take it from nobody", s.names, remoting.NewRequest(wipe, nil, "brokerName", "nobody"), "wipeTopicCount")
	s.note("give the write permission", s.names, remoting.NewRequest(add, nil, "brokerName", "rocketmq-a"))
	permission("permission with it")
	s.note("take it again", s.names, remoting.NewRequest(wipe, nil, "brokerName", "rocketmq-a"))
	s.topic("change the topic", "again", 3, 3, 6)
	permission("permission after a change")
	s.note("take it once more", s.names, remoting.NewRequest(wipe, nil, "brokerName", "rocketmq-a"))
	s.topic("change nothing", "again", 3, 3, 6)
	permission("permission after no change")
	require.NoError(s, s.client.UpdateBrokerConfig(s.ctx, s.broker, map[string]string{"brokerPermission": "6"}))
	permission("permission that the broker has given itself")

	many := func(name string, code int, body string) {
		s.note(name, s.broker, remoting.NewRequest(code, []byte(body)))
	}
	many("many topics", 18, `{"topicConfigList":[{"topicName":"many1","readQueueNums":3,"writeQueueNums":3,"perm":6},{"topicName":"many2","readQueueNums":1,"writeQueueNums":1,"perm":4}]}`)
	many("many topics, one bad", 18, `{"topicConfigList":[{"topicName":"many3","readQueueNums":3,"writeQueueNums":3,"perm":6},{"topicName":"a b","readQueueNums":1,"writeQueueNums":1,"perm":4}]}`)
	for _, topic := range []string{"many1", "many2", "many3"} {
		s.note("topic "+topic, s.names, remoting.NewRequest(remoting.ReqRoute, nil, "topic", topic))
	}
	s.json("made of many", s.call(s.broker, remoting.NewRequest(remoting.ReqGetTopicConfig, nil, "topic", "many2")))
	many("many groups", 225, `{"groupConfigList":[{"groupName":"many1","retryMaxTimes":3},{"groupName":"many2","consumeEnable":false}]}`)
	many("many groups, one bad", 225, `{"groupConfigList":[{"groupName":"many3"},{"groupName":"a b"}]}`)
	for _, group := range []string{"many1", "many2", "many3"} {
		a := s.atBroker("group "+group, remoting.ReqGetSubscriptionGroup, "group", group)
		if a.Code == remoting.Success {
			var g remoting.SubscriptionGroup
			require.NoError(s, json.Unmarshal(a.Body, &g))
			s.say("made of many "+group, "%+v", g)
		}
	}
	s.strings("names of the system", s.atBroker("system topics of the broker", 305), "topicList")
	s.atBroker("statistics of all", 317, "isOrder", "false")
	for _, code := range []int{306, 316, 329} {
		s.atBroker(fmt.Sprint("clean ", code), code)
	}
	require.NoError(s, s.client.Heartbeat(s.ctx, s.broker, remoting.Heartbeat{ClientID: "me", Producers: []remoting.ProducerGroup{{Name: "makers"}},
		Consumers: []remoting.ConsumerGroup{}}))
	var all struct {
		Data map[string][]struct {
			ClientID, RemoteIP, Language string
			Version                      int
		}
	}
	require.NoError(s, json.Unmarshal(s.atBroker("all producers", 328).Body, &all))
	for _, p := range all.Data["makers"] {
		s.say("a producer", "%s %s %d %v", p.ClientID, p.Language, p.Version, strings.HasPrefix(p.RemoteIP, "/127.0.0.1:"))
	}
}
