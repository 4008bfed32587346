package rocketmq

import (
	"encoding/base64"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/turnout-mq/turnout/broker"
	"github.com/turnout-mq/turnout/broker/rocketmq/remoting"
	"github.com/turnout-mq/turnout/internal/errs"
)

// Properties of ours.
const (
	propKey         = "turnout-key"
	propKeyB64      = "turnout-key-b64"
	propEmpty       = "turnout-empty"
	propID          = "turnout-id"
	propShadow      = "turnout-shadow"
	propAttempt     = "turnout-attempt"
	propOrigin      = "turnout-origin"
	propOriginTopic = "turnout-origin-topic"
	propCause       = "turnout-cause"
)

// Properties of RocketMQ that are written or read here.
const (
	propTags       = "TAGS"
	propDelay      = "DELAY"
	propRealTopic  = "REAL_TOPIC"
	propRealQueue  = "REAL_QID"
	propRetryTopic = "RETRY_TOPIC"
	propDLQTopic   = "DLQ_ORIGIN_TOPIC"
	propDLQMessage = "DLQ_ORIGIN_MESSAGE_ID"
)

// maxProperties bounds the property string: a broker takes 32767 bytes and adds some of its own.
const maxProperties = 30 << 10

func invalid(format string, args ...any) error {
	return fmt.Errorf("%w: "+format, append([]any{errs.ErrInvalid}, args...)...)
}

// encode makes the properties of m; check has passed.
func encode(m *broker.Envelope, level int) map[string]string {
	p := make(map[string]string, len(m.Headers)+4)
	var empty []string
	for _, h := range m.Headers {
		if h.Value == "" {
			empty = append(empty, url.QueryEscape(h.Name))
			continue
		}
		p[h.Name] = h.Value
	}
	set := func(name, value string) {
		if value != "" {
			p[name] = value
		}
	}
	switch {
	case m.Key == nil:
	case len(m.Key) == 0:
		p[propKeyB64] = "="
	case plain(string(m.Key)):
		p[propKey] = string(m.Key)
	default:
		p[propKeyB64] = base64.StdEncoding.EncodeToString(m.Key)
	}
	set(propEmpty, strings.Join(empty, ","))
	set(propTags, m.Tag)
	set(propID, m.ID)
	set(propOrigin, m.Origin)
	if m.Shadow {
		p[propShadow] = "1"
	}
	if m.Attempt > 0 {
		p[propAttempt] = strconv.Itoa(m.Attempt)
	}
	if level > 0 {
		p[propDelay] = strconv.Itoa(level)
	}
	return p
}

// plain says whether s can stand in a property.
func plain(s string) bool { return utf8.ValidString(s) && !strings.ContainsAny(s, "\x01\x02") }

// check refuses what can not be sent as it is.
func check(m *broker.Envelope) error {
	if len(m.Body) == 0 {
		return invalid("message body is empty: RocketMQ takes 1 byte or more")
	}
	if n := len(m.Key) + len(m.Body); n > maxMessage {
		return fmt.Errorf("%w: key and body are %d bytes: at most %d", errs.ErrTooLarge, n, maxMessage)
	}
	if !plain(m.Tag) || strings.Contains(m.Tag, "|") || strings.ContainsFunc(m.Tag, unicode.IsSpace) {
		return invalid("tag %q: one word without | is needed", m.Tag)
	}
	size := len(m.Tag) + 2*len(m.Key)
	seen := make(map[string]bool, len(m.Headers))
	for _, h := range m.Headers {
		switch {
		case h.Name == "" || !plain(h.Name):
			return invalid("header name %q: it must be text of one character or more, without \\x01 and \\x02", h.Name)
		case broker.ReservedHeader(h.Name):
			return invalid("header name %q is reserved for Turnout or RocketMQ; choose another", h.Name)
		case seen[h.Name]:
			return invalid("header name %q is there twice; names must be unique", h.Name)
		case !plain(h.Value):
			return fmt.Errorf("%w: %w: value of header %q: RocketMQ takes UTF-8 without \\x01 and \\x02; encode it",
				errs.ErrUnsupported, errs.ErrInvalid, h.Name)
		}
		seen[h.Name] = true
		size += len(h.Name) + len(h.Value) + 2
	}
	if size > maxProperties {
		return fmt.Errorf("%w: headers, key and tag are %d bytes: at most %d", errs.ErrTooLarge, size, maxProperties)
	}
	return nil
}

// native is what Retry and DeadLetter need of a message beside its envelope.
type native struct {
	queue     remoting.Queue
	physical  int64
	messageID string
	topic     string // the physical topic that it was first read from
}

// decode makes a delivery of a message that was read from q. cluster is where a retry was first stored, if it says
// nothing else.
func decode(m *remoting.Message, q remoting.Queue, retry bool, cluster string) (*broker.Delivery, error) {
	body, err := m.Content()
	if err != nil {
		return nil, fmt.Errorf("message %s of %s: %w", m.ID(), partition(q), err)
	}
	p := remoting.ParseProperties(m.Properties)
	d := &broker.Delivery{Topic: q.Topic, Partition: partition(q), Offset: m.QueueOffset, Stored: m.Stored, Retry: retry,
		Native: &native{queue: q, physical: m.PhysicalOffset, messageID: m.ID(), topic: originTopic(p, q.Topic)}}
	d.Body, d.Tag, d.ID, d.Shadow, d.Origin = body, p[propTags], p[propID], broker.Marked(p[propShadow]), p[propOrigin]
	if retry {
		d.Due = m.Stored // brokers store a retry in its topic when it is due
	}
	d.Attempt = int(m.ReconsumeTimes)
	if n, err := strconv.Atoi(p[propAttempt]); err == nil && n > 0 {
		d.Attempt += n
	}
	if d.Origin == "" && d.Attempt > 0 {
		d.Origin = cluster // the broker that stores a message again adds no property
	}
	switch key, b64 := p[propKey], p[propKeyB64]; {
	case key != "":
		d.Key = []byte(key)
	case b64 == "=":
		d.Key = []byte{}
	case b64 != "":
		if d.Key, err = base64.StdEncoding.DecodeString(b64); err != nil {
			return nil, fmt.Errorf("message %s of %s: property %s: %w", m.ID(), partition(q), propKeyB64, err)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(p)) {
		if !broker.ReservedHeader(name) {
			d.Headers = append(d.Headers, broker.Header{Name: name, Value: p[name]})
		}
	}
	for escaped := range strings.SplitSeq(p[propEmpty], ",") {
		if name, err := url.QueryUnescape(escaped); err == nil && name != "" {
			d.Headers = append(d.Headers, broker.Header{Name: name})
		}
	}
	slices.SortFunc(d.Headers, func(a, b broker.Header) int { return strings.Compare(a.Name, b.Name) })
	return d, nil
}

func originTopic(p map[string]string, topic string) string {
	for _, name := range []string{propOriginTopic, propRetryTopic} {
		if p[name] != "" {
			return p[name]
		}
	}
	return topic
}

// level is the number of the first delay level that is not shorter than d; 0 for no delay.
func (c *Cluster) level(d time.Duration) (int, error) {
	if d <= 0 {
		return 0, nil
	}
	for i, l := range c.levels {
		if l >= d {
			return i + 1, nil
		}
	}
	return 0, fmt.Errorf("%w: delay %v: the longest level of the cluster is %v", errs.ErrUnsupported, d, c.levels[len(c.levels)-1])
}

// partition is the name of q in broker.Offsets.
func partition(q remoting.Queue) string { return q.Broker + ":" + strconv.Itoa(q.ID) }

// queueOf is the queue of topic that partition calls so.
func queueOf(topic, name string) (remoting.Queue, error) {
	i := strings.LastIndexByte(name, ':')
	id, err := strconv.Atoi(name[i+1:])
	if i < 1 || err != nil || id < 0 {
		return remoting.Queue{}, invalid("queue %q: must be broker:number", name)
	}
	return remoting.Queue{Topic: topic, Broker: name[:i], ID: id}, nil
}

// murmur2 is the hash of Kafka's Java client, so that both kinds spread keys alike.
func murmur2(b []byte) uint32 {
	const m = 0x5bd1e995
	h := 0x9747b28c ^ uint32(len(b))
	for ; len(b) >= 4; b = b[4:] {
		k := uint32(b[0]) | uint32(b[1])<<8 | uint32(b[2])<<16 | uint32(b[3])<<24
		k *= m
		k ^= k >> 24
		k *= m
		h = h*m ^ k
	}
	switch len(b) {
	case 3:
		h ^= uint32(b[2]) << 16
		fallthrough
	case 2:
		h ^= uint32(b[1]) << 8
		fallthrough
	case 1:
		h ^= uint32(b[0])
		h *= m
	}
	h ^= h >> 13
	h *= m
	h ^= h >> 15
	return h
}
