package kafka

import (
	"bytes"
	"strconv"
	"time"

	"github.com/IBM/sarama"

	"github.com/turnout-mq/turnout/broker"
)

const (
	headerID     = "turnout-id"
	headerTag    = "turnout-tag"
	headerShadow = "turnout-shadow"
	headerTries  = "turnout-attempt"
	headerOrigin = "turnout-origin"
	headerDue    = "turnout-due"
	headerTopic  = "turnout-origin-topic"
	headerCause  = "turnout-cause"
)

// reserved begins the names of Turnout's own headers.
var reserved = []byte("turnout-")

// headers are the record headers of m and what a retry or a dead letter adds, appended to to.
func headers(to []broker.Header, m *broker.Envelope, more []broker.Header) []broker.Header {
	to = append(to, m.Headers...)
	if m.ID != "" {
		to = append(to, broker.Header{Name: headerID, Value: m.ID})
	}
	if m.Tag != "" {
		to = append(to, broker.Header{Name: headerTag, Value: m.Tag})
	}
	if m.Shadow {
		to = append(to, broker.Header{Name: headerShadow, Value: "1"})
	}
	if m.Attempt > 0 {
		to = append(to, broker.Header{Name: headerTries, Value: strconv.Itoa(m.Attempt)})
	}
	if m.Origin != "" {
		to = append(to, broker.Header{Name: headerOrigin, Value: m.Origin})
	}
	return append(to, more...)
}

// delivery is the message in a record.
func decode(d *broker.Delivery, r *sarama.ConsumerMessage, partition string, retry bool) {
	*d = broker.Delivery{Topic: r.Topic, Partition: partition, Offset: r.Offset, Stored: r.Timestamp, Retry: retry}
	d.Key, d.Body = r.Key, r.Value
	own := 0
	for _, h := range r.Headers {
		if bytes.HasPrefix(h.Key, reserved) {
			own++
		}
	}
	if n := len(r.Headers) - own; n > 0 {
		d.Headers = make([]broker.Header, 0, n)
	}
	for _, h := range r.Headers {
		switch string(h.Key) {
		case headerID:
			d.ID = string(h.Value)
		case headerTag:
			d.Tag = string(h.Value)
		case headerShadow:
			d.Shadow = d.Shadow || broker.Marked(string(h.Value))
		case headerTries:
			if n, err := strconv.Atoi(string(h.Value)); err == nil && n > 0 {
				d.Attempt = n
			}
		case headerOrigin:
			d.Origin = string(h.Value)
		case headerDue:
			if ms, err := strconv.ParseInt(string(h.Value), 10, 64); err == nil && ms > 0 {
				d.Due = time.UnixMilli(ms)
			}
		case headerTopic:
			d.Native = string(h.Value) // kept for the next retry
		default:
			if !bytes.HasPrefix(h.Key, reserved) {
				d.Headers = append(d.Headers, broker.Header{Name: string(h.Key), Value: string(h.Value)})
			}
		}
	}
}

// firstTopic is the physical topic that d, perhaps a retry, was first read from.
func firstTopic(d *broker.Delivery) string {
	if topic, ok := d.Native.(string); ok && topic != "" {
		return topic
	}
	return d.Topic
}
