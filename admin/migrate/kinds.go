package migrate

import (
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/turnout-mq/turnout/broker"
	"github.com/turnout-mq/turnout/internal/clusters"
)

// otherKind tells what becomes of messages on a cluster of another kind.
func (p *preflight) otherKind(c *clusters.Conn, from broker.Kind) {
	p.find(Info, OtherKind, "", "the topic goes from %s to %s: key, body, headers, tag and id are the same there; keys go to other partitions, and programs that read it without Turnout have to be changed", from, c.Kind)
	if !p.now.Settings.Portable {
		p.find(Warning, NotPortable, "turnout topic put "+p.plan.Topic+" --portable, some time before: sends that not every kind can carry are refused then", "the topic may have messages that %s can not carry (binary headers, delays): sends of such fail there", c.Kind)
	}
}

// noCounterpart tells what the topic has that a cluster of another kind has not.
func (p *preflight) noCounterpart(c *clusters.Conn, from *side) {
	if compacted(from.TopicInfo) {
		p.compaction()
	}
	if keeps := retention(from); keeps > 0 {
		where := map[broker.Kind]string{broker.Kafka: "retention.ms of the topic", broker.RocketMQ: "fileReservedTime of the brokers"}
		p.find(Info, SettingsDiffer, "", "messages are kept for %v on %s; on %s %s decides", keeps, p.now.Route.Write, c.Name, where[c.Kind])
	}
}

// TimersUnknown is the code of the finding that delayed messages can not all be counted.
const TimersUnknown = "timers-unknown"

// uncounted says once what can not be counted of what is delayed.
func (p *preflight) uncounted(c *clusters.Conn, what string) {
	if what == "" || slices.ContainsFunc(p.plan.Findings, func(f Finding) bool { return f.Code == TimersUnknown }) {
		return
	}
	p.find(Warning, TimersUnknown, "let the platform ask for the timers (docs/security.md); or wait until none is left, and accept",
		"what is delayed on %s can not all be counted, so the move does not wait for it, and what becomes due after it was closed is found by the watch and sent on: %s", c.Name, what)
}

func (p *preflight) compaction() {
	p.find(Warning, Compaction, "accept it only if nobody reads the topic as a table", "the topic is compacted: the last values of its keys stay on %s, nothing is copied", p.now.Route.Write)
}

func compacted(info broker.TopicInfo) bool {
	return strings.Contains(info.Settings["cleanup.policy"], "compact")
}

// retention is how long a cluster keeps the messages of a topic; 0: it does not say, or for ever.
func retention(of *side) time.Duration {
	if of.kind == broker.RocketMQ {
		hours, _ := strconv.ParseInt(of.Settings["fileReservedTime"], 10, 64)
		return time.Duration(max(0, hours)) * time.Hour
	}
	ms, _ := strconv.ParseInt(of.Settings["retention.ms"], 10, 64)
	return time.Duration(max(0, ms)) * time.Millisecond
}

const (
	kafkaRoom   = 1_000_000 // bytes that a message may have on a topic of Kafka with the broker's default, which counts what is around it, too
	aroundKafka = 64 << 10  // what a record batch has beside key and body: headers, and its own fields
)

// roomFor are the settings of a topic of Kafka that is to take the messages of one of RocketMQ.
func roomFor(info broker.TopicInfo) map[string]string {
	if info.MaxMessageBytes <= kafkaRoom {
		return map[string]string{}
	}
	return map[string]string{"max.message.bytes": strconv.FormatInt(info.MaxMessageBytes+aroundKafka, 10)}
}
