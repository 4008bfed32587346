package rmqserver_test

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"hash/crc32"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/turnout-mq/turnout/broker/rocketmq/remoting"
	"github.com/turnout-mq/turnout/testenv"
	"github.com/turnout-mq/turnout/testenv/rmqserver"
)

// recorded is what the script below has seen on a real server, Apache RocketMQ 5.5.0. TURNOUT_TEST_RECORD=1 with
// TURNOUT_TEST=servers writes it anew.
var recorded = filepath.Join("testdata", "real.txt")

// differences are the lines in which this package answers otherwise, with the reason.
var differences = map[string]struct{ here, why string }{
	"its route":     {routeHere(6), "enableActingMaster is about slaves"},
	"changed route": {routeHere(4), "enableActingMaster is about slaves"},
}

func routeHere(perm int) string {
	return fmt.Sprintf(`{"brokerDatas":[{"brokerAddrs":{"0":"BROKER"},"brokerName":"rocketmq-a","cluster":"rocketmq-a"}],`+
		`"queueDatas":[{"brokerName":"rocketmq-a","perm":%d,"readQueueNums":4,"topicSysFlag":0,"writeQueueNums":2}]}`, perm)
}

// TestScriptHere plays the script here and compares it with what a real server has said.
func TestScriptHere(t *testing.T) {
	t.Parallel()
	c := start(t, rmqserver.BrokerOptions{Cluster: "rocketmq-a"})
	was, err := os.ReadFile(recorded)
	require.NoError(t, err)
	want := strings.Split(strings.TrimSpace(string(was)), "\n")
	for i, line := range want {
		name, _, _ := strings.Cut(line, ": ")
		if d, found := differences[name]; found {
			require.NotEqual(t, name+": "+d.here, line, "no longer a difference")
			want[i] = name + ": " + d.here
		}
	}
	require.Equal(t, want, play(t, c.names.Addr()))
}

// TestScriptOnRealServers sees that what was recorded is what a real server says.
func TestScriptOnRealServers(t *testing.T) {
	testenv.EachOf(t, testenv.Spec{RocketMQ: []string{"rocketmq-a"}}, []testenv.Backend{testenv.Servers}, func(t *testing.T, e *testenv.Env) {
		got := play(t, e.Addresses("rocketmq-a")[0])
		if os.Getenv("TURNOUT_TEST_RECORD") != "" {
			require.NoError(t, os.WriteFile(recorded, []byte(strings.Join(got, "\n")+"\n"), 0o644))
		}
		was, err := os.ReadFile(recorded)
		require.NoError(t, err)
		require.Equal(t, strings.Split(strings.TrimSpace(string(was)), "\n"), got)
	})
}

// script plays operations and writes down what comes of them, one line each.
type script struct {
	*testing.T
	ctx    context.Context
	client *remoting.Client
	names  string
	broker string
	lines  []string
}

func (s *script) say(name, format string, args ...any) {
	s.lines = append(s.lines, name+": "+fmt.Sprintf(format, args...))
}

// call makes a request and returns the answer whatever its code.
func (s *script) call(addr string, r *remoting.Command) *remoting.Command {
	s.Helper()
	a, err := s.client.Call(s.ctx, addr, r, anyCode...)
	require.NoError(s, err)
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
	require.Eventually(s, func() bool { n, err := s.client.MaxOffset(s.ctx, s.broker, q); return err == nil && n == end }, 20*time.Second, time.Millisecond)
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

// play plays the script on a cluster that is new, named as its broker rocketmq-a.
func play(t *testing.T, names string) []string {
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	notices := make(chan string, 100)
	s := &script{T: t, ctx: ctx, names: names, client: remoting.NewClient(remoting.Options{Handler: func(_ string, r *remoting.Command) *remoting.Command {
		notices <- fmt.Sprint(r.Code, " ", r.Fields["consumerGroup"])
		return nil
	}})}
	defer s.client.Close()
	info, err := s.client.ClusterInfo(ctx, names)
	require.NoError(t, err)
	s.broker = info.Brokers["rocketmq-a"].Master()
	s.nameServer()
	s.topics()
	s.sends()
	s.pulls()
	s.offsets()
	s.members(notices)
	s.locks()
	s.delays()
	s.retries()
	s.transactions()
	s.queries()
	s.others()
	s.groups()
	return s.lines
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
	at("forget nothing", remoting.ReqDeleteTopicInNameServer, "topic", "nothing")
	s.atBroker("unknown code", 9999)
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
	// RocketMQ 5.5 without timer messages deletes a topic and then answers with an error.
	s.call(s.broker, remoting.NewRequest(remoting.ReqDeleteTopicInBroker, nil, "topic", "gone"))
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
	one := remoting.NewRequest(remoting.ReqSendMessageV2, []byte("one way"), "a", "p", "b", "sent", "c", "TBW102", "d", "4", "e", "0", "f", "0",
		"g", "1700000000000", "h", "0", "i", "", "j", "0", "k", "false", "l", "0", "m", "false", "n", "rocketmq-a").OneWay()
	_, _ = s.client.Call(within(s.ctx, 100*time.Millisecond), s.broker, one)
	s.indexed("sent", 0, 6)
	s.messages("sent", "sent", 0)
	s.say("stats", "%+v", withoutTimes(s.must(s.client.TopicStats(s.ctx, s.broker, "sent"))))
}

func within(ctx context.Context, d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(ctx, d)
	context.AfterFunc(ctx, cancel)
	return ctx
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
	// A held pull is answered by a message that it wants.
	got := make(chan *remoting.Command, 1)
	go func() {
		a, err := s.client.Call(s.ctx, s.broker, remoting.NewRequest(remoting.ReqPullMessage, nil, "consumerGroup", "readers", "topic", "pulled", "queueId", "1",
			"queueOffset", "0", "maxMsgNums", "32", "sysFlag", "6", "commitOffset", "0", "suspendTimeoutMillis", "15000", "subscription", "*",
			"subVersion", "0", "expressionType", "TAG"))
		if err != nil {
			a = &remoting.Command{Code: -1, Remark: err.Error()}
		}
		got <- a
	}()
	s.sendV2("what is waited for", "pulled", 1, "", "x")
	a := <-got
	s.say("held", "%d next=%s", a.Code, a.Fields["nextBeginOffset"])
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

func (s *script) members(notices chan string) {
	for len(notices) > 0 {
		<-notices
	}
	s.atBroker("members of nobody", remoting.ReqConsumerList, "consumerGroup", "members")
	s.atBroker("connections of nobody", remoting.ReqConsumerConnections, "consumerGroup", "members")
	s.atBroker("producers of nobody", remoting.ReqProducerConnections, "producerGroup", "nobody")
	beat := func(version int64, tags string) remoting.Heartbeat {
		return remoting.Heartbeat{ClientID: "me", Producers: []remoting.ProducerGroup{{Name: "producers"}}, Consumers: []remoting.ConsumerGroup{{
			Name: "members", ConsumeType: "CONSUME_PASSIVELY", MessageModel: "CLUSTERING", FromWhere: "CONSUME_FROM_FIRST_OFFSET",
			Subscriptions: []remoting.Subscription{remoting.NewSubscription("pulled", tags, version)}}}}
	}
	require.NoError(s, s.client.Heartbeat(s.ctx, s.broker, beat(5, "a")))
	s.say("notice", "%s", <-notices)
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
	s.say("notices of the same member", "%d", len(notices))
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
	s.sendV2("delay", "delayed", 0, delay("1"), "in a second")
	s.sendV2("delay beyond the levels", "delayed", 0, delay("99"), "in two hours")
	s.sendV2("no delay", "delayed", 0, delay("0"), "now")
	s.sendV2("any delay", "delayed", 0, remoting.AppendProperty("", "TIMER_DELAY_MS", "1000"), "by a timer")
	s.indexed("delayed", 0, 2)
	s.messages("delayed", "delayed", 0)
	s.messages("schedule of level 1", "SCHEDULE_TOPIC_XXXX", 0)
	s.messages("schedule of the last level", "SCHEDULE_TOPIC_XXXX", 17)
	require.Eventually(s, func() bool { d, err := s.client.DelayOffsets(s.ctx, s.broker); return err == nil && d[1] == 1 }, 10*time.Second, 10*time.Millisecond)
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
	prepare := func(name string) *remoting.Command {
		p := ""
		for _, kv := range [][2]string{{"UNIQ_KEY", name}, {"TRAN_MSG", "true"}, {"PGROUP", "producers"}} {
			p = remoting.AppendProperty(p, kv[0], kv[1])
		}
		return s.sendV2("prepare "+name, "committed", 0, p, name, "f", "4")
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
