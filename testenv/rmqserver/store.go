package rmqserver

import (
	"encoding/json"
	"fmt"
	"slices"
	"sort"
	"strconv"
	"strings"
	"time"

	"go.uber.org/zap"

	"github.com/turnout-mq/turnout/broker/rocketmq/remoting"
)

// store is what a broker keeps over a restart: topics, groups, messages,
// positions. It is all in memory; with a journal it is on disk as well. The
// broker's mu guards it.
type store struct {
	journal   *journal // nil: memory only
	topics    map[string]remoting.TopicConfig
	groups    map[string]remoting.SubscriptionGroup
	log       []*record // the commit log, by physical offset
	end       int64     // of the commit log
	last      int64     // the latest store time, Unix ms
	queues    map[queueKey]*queue
	byKey     map[topicKey][]*record
	offsets   map[groupTopic]map[int]int64 // positions by queue
	delivered map[int]int64                // by delay level: what is before it in the schedule was delivered
}

type (
	queueKey struct {
		topic string
		id    int
	}
	topicKey   struct{ topic, key string }
	groupTopic struct{ group, topic string }
)

// queue is a consume queue.
type queue struct {
	first   int64 // offset of records[0]
	records []*record
}

func (q *queue) begin() int64 {
	if q == nil {
		return 0
	}
	return q.first
}

func (q *queue) end() int64 {
	if q == nil {
		return 0
	}
	return q.first + int64(len(q.records))
}

// record is a stored message. It is never changed.
type record struct {
	physical int64
	offset   int64  // in its queue
	stored   []byte // as pulls return it
	tagged   bool
	tagCode  int32 // hash of the tag
	at       int64 // store time, Unix ms
}

// message is the record decoded; it shares the record's memory.
func (r *record) message() *remoting.Message {
	m, err := remoting.ParseMessages(r.stored)
	if err != nil {
		panic(fmt.Sprintf("rmqserver: record at %d, which this package wrote: %v", r.physical, err))
	}
	return m[0]
}

// newStore opens the store in dir; "" is one in memory, that is new.
func newStore(dir string, log *zap.Logger) (*store, error) {
	s := &store{topics: map[string]remoting.TopicConfig{}, groups: map[string]remoting.SubscriptionGroup{},
		queues: map[queueKey]*queue{}, byKey: map[topicKey][]*record{}, offsets: map[groupTopic]map[int]int64{},
		delivered: map[int]int64{}}
	if dir == "" {
		return s, nil
	}
	var err error
	s.journal, err = openJournal(dir, log, s.replay)
	return s, err
}

func (s *store) close() {
	s.journal.close()
	s.journal = nil
}

// The payloads of entries that are no messages.
type (
	nameEntry struct {
		Name string `json:"name"`
	}
	offsetEntry struct {
		Group  string `json:"group"`
		Topic  string `json:"topic"`
		Queue  int    `json:"queue"`
		Offset int64  `json:"offset"`
	}
	deliveredEntry struct {
		Level  int   `json:"level"`
		Offset int64 `json:"offset"`
	}
)

// keep writes an entry and then makes the change, as replay does it.
func (s *store) keep(kind byte, v any) error {
	payload, err := json.Marshal(v)
	if err != nil {
		return err
	}
	if err := s.journal.append(kind, payload); err != nil {
		return err
	}
	return s.replay(kind, payload)
}

// replay makes the change that an entry is about.
func (s *store) replay(kind byte, payload []byte) error {
	parse := func(v any) error { return json.Unmarshal(payload, v) }
	switch kind {
	case entryMessage:
		messages, err := remoting.ParseMessages(payload)
		if err != nil || len(messages) != 1 {
			return fmt.Errorf("a message: %w", err)
		}
		s.index(messages[0], payload)
		return nil
	case entryTopic:
		var t remoting.TopicConfig
		err := parse(&t)
		s.topics[t.Name] = t
		return err
	case entryTopicGone:
		var e nameEntry
		err := parse(&e)
		s.forget(e.Name)
		return err
	case entryGroup:
		var g remoting.SubscriptionGroup
		err := parse(&g)
		s.groups[g.Name] = g
		return err
	case entryGroupGone:
		var e nameEntry
		err := parse(&e)
		delete(s.groups, e.Name)
		return err
	case entryOffset:
		var e offsetEntry
		err := parse(&e)
		of := groupTopic{e.Group, e.Topic}
		if s.offsets[of] == nil {
			s.offsets[of] = map[int]int64{}
		}
		s.offsets[of][e.Queue] = e.Offset
		return err
	case entryOffsetsGone:
		var e nameEntry
		err := parse(&e)
		for of := range s.offsets {
			if of.group == e.Name {
				delete(s.offsets, of)
			}
		}
		return err
	case entryDelivered:
		var e deliveredEntry
		err := parse(&e)
		s.delivered[e.Level] = e.Offset
		return err
	case entryTrim:
		var e offsetEntry
		err := parse(&e)
		if q := s.queues[queueKey{e.Topic, e.Queue}]; q != nil && e.Offset > q.first {
			n := min(e.Offset, q.end()) - q.first
			q.records = slices.Clone(q.records[n:])
			q.first += n
		}
		return err
	}
	return fmt.Errorf("entry of kind %q, which this version does not know", kind)
}

// forget removes a topic, its queues and the positions on it. Its messages stay
// in the commit log, as they do in a real broker until their files are old.
func (s *store) forget(topic string) {
	delete(s.topics, topic)
	for key := range s.queues {
		if key.topic == topic {
			delete(s.queues, key)
		}
	}
	for key := range s.byKey {
		if key.topic == topic {
			delete(s.byKey, key)
		}
	}
	for of := range s.offsets {
		if of.topic == topic {
			delete(s.offsets, of)
		}
	}
}

// append stores m at the end of its queue and fills in what is the store's to
// say. m's body and properties are not used after it.
func (s *store) append(m *remoting.Message) (*record, error) {
	s.last = max(s.last, time.Now().UnixMilli()) // so that a search by time can divide
	m.Stored = time.UnixMilli(s.last)
	m.PhysicalOffset = s.end
	m.QueueOffset = s.queues[queueKey{m.Topic, int(m.QueueID)}].end()
	stored, err := m.Append(make([]byte, 0, 128+len(m.Body)+len(m.Topic)+len(m.Properties)))
	if err != nil {
		return nil, refuse(remoting.MessageIllegal, "%v", err)
	}
	if err := s.journal.append(entryMessage, stored); err != nil {
		return nil, refuse(remoting.ServiceNotAvailable, "%v", err)
	}
	return s.index(m, stored), nil
}

// index puts a stored message where it is found.
func (s *store) index(m *remoting.Message, stored []byte) *record {
	p := properties(m.Properties)
	tag := p.get(propTags)
	r := &record{physical: m.PhysicalOffset, offset: m.QueueOffset, stored: stored, at: m.Stored.UnixMilli(),
		tagged: tag != "", tagCode: remoting.HashCode(tag)}
	s.log = append(s.log, r)
	s.end = r.physical + int64(len(stored))
	s.last = max(s.last, r.at)
	key := queueKey{m.Topic, int(m.QueueID)}
	q := s.queues[key]
	if q == nil {
		q = &queue{}
		s.queues[key] = q
	}
	q.records = append(q.records, r)
	for _, k := range append(strings.Fields(p.get(propKeys)), p.get(propUniqueKey)) {
		if k != "" {
			s.byKey[topicKey{m.Topic, k}] = append(s.byKey[topicKey{m.Topic, k}], r)
		}
	}
	return r
}

// at is the record at a physical offset; nil: none begins there.
func (s *store) at(physical int64) *record {
	i := sort.Search(len(s.log), func(i int) bool { return s.log[i].physical >= physical })
	if i == len(s.log) || s.log[i].physical != physical {
		return nil
	}
	return s.log[i]
}

// queue may be nil: no message was ever in it.
func (s *store) queue(topic string, id int) *queue { return s.queues[queueKey{topic, id}] }

// since is the offset of the first record that was stored at or after t, Unix
// ms; the end when there is none.
func (q *queue) since(t int64) int64 {
	if q == nil {
		return 0
	}
	return q.first + int64(sort.Search(len(q.records), func(i int) bool { return q.records[i].at >= t }))
}

func (s *store) commit(group, topic string, queueID int, offset int64) error {
	if old, found := s.position(group, topic, queueID); found && old == offset {
		return nil
	}
	return s.keep(entryOffset, offsetEntry{group, topic, queueID, offset})
}

func (s *store) position(group, topic string, queueID int) (offset int64, found bool) {
	offset, found = s.offsets[groupTopic{group, topic}][queueID]
	return offset, found
}

// parseQueueID reads REAL_QID of a message; what is no number is 0.
func parseQueueID(text string) int32 {
	n, _ := strconv.ParseInt(text, 10, 32)
	return int32(n)
}
