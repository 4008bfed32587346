package history

import (
	"cmp"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// model is a small world that keeps every promise: processes that send, some of them killed; one cluster that is left
// for another, fenced and sealed, and perhaps gone back to; two partitions; messages that are stored twice; groups that read
// all of it, fail, are killed within a handling, and begin again.
type model struct {
	events []Event
	o      Options
	sent   []stored
	back   int64 // when the topic goes back to cluster a; 0: never
}

// stored is one message of the model.
type stored struct {
	send, outcome Event // outcome.Op "": its process was killed
	at            int64 // when the broker stored it; 0: never
	cluster       string
	partition     string
	offset        int64
}

// Times of the model are multiples of this; the events of one moment differ below it.
const moment = 1_000_000

func (m *model) add(t int64, e Event) Event {
	e.T = t*moment + int64(len(m.events)) + 1
	m.events = append(m.events, e)
	return e
}

func rightHistory(t *rapid.T) *model {
	m := &model{o: Options{
		Groups: []Group{
			{Name: "ordered", Topics: []string{"orders"}, Ordered: true},
			{Name: "plain"},
			{Name: "shadow", Shadow: true},
		},
		Allow:    []Rule{Duplicate, Failed, Unknown},
		Clusters: []string{"a", "b"},
	}}
	left := rapid.Int64Range(1, 1000).Draw(t, "a is left")
	fenced := left + 301 // the longest send takes less
	m.o.Left = []Left{{Cluster: "a", From: time.Unix(0, left*moment)}}
	if rapid.Bool().Draw(t, "goes back") {
		m.back = rapid.Int64Range(fenced+1, 1400).Draw(t, "back at")
		m.o.Left[0].Until = time.Unix(0, m.back*moment)
	}
	if rapid.Bool().Draw(t, "the history tells who was killed") {
		m.add(2000, Event{Op: OpKill, Member: "killed-producer"})
		m.add(2000, Event{Op: OpKill, Member: "killed-member"})
	} else {
		m.o.Killed = []string{"killed-producer", "killed-member"}
	}
	for i := range rapid.IntRange(1, 25).Draw(t, "messages") {
		m.send(t, i, left)
	}
	log := slices.DeleteFunc(slices.Clone(m.sent), func(s stored) bool { return s.at == 0 })
	slices.SortStableFunc(log, func(a, b stored) int { return cmp.Compare(a.at, b.at) })
	m.store(log)
	m.facts(t, log, left, fenced)
	m.handle(t, log, "ordered", true)
	m.handle(t, log, "plain", false)
	m.handle(t, log, "shadow", false)
	return m
}

func (m *model) send(t *rapid.T, i int, left int64) {
	begin := rapid.Int64Range(0, 1500).Draw(t, "begin")
	end := begin + rapid.Int64Range(2, 300).Draw(t, "duration")
	s := stored{cluster: "a", at: rapid.Int64Range(begin+1, end-1).Draw(t, "stored")}
	if begin >= left && (m.back == 0 || begin < m.back) {
		s.cluster = "b"
	}
	fate := rapid.SampledFrom([]string{"ok", "ok", "ok", "ok", "stored twice", "failed", "unknown", "not stored", "killed", "killed early"}).Draw(t, "fate")
	e := Event{Op: OpSend, ID: fmt.Sprintf("m%02d", i), Topic: "orders", Seq: int64(i + 1), Producer: "producer",
		Key: rapid.SampledFrom([]string{"", "k1", "k2"}).Draw(t, "key"), Shadow: rapid.IntRange(0, 4).Draw(t, "shadow") == 4}
	outcome := Event{ID: e.ID, Producer: e.Producer, Error: "because"}
	switch fate {
	case "ok", "stored twice":
		outcome.Op, outcome.Cluster, outcome.Error = OpOK, s.cluster, ""
	case "failed":
		outcome.Op, s.at = OpFail, 0
	case "unknown":
		outcome.Op = OpUnknown
	case "not stored":
		outcome.Op, s.at = OpUnknown, 0
	case "killed":
		e.Producer = "killed-producer"
	case "killed early":
		e.Producer, s.at = "killed-producer", 0
	}
	s.send = m.add(begin, e)
	if outcome.Op != "" {
		s.outcome = m.add(end, outcome)
	}
	m.sent = append(m.sent, s)
	if fate == "stored twice" {
		s.at = rapid.Int64Range(begin+1, end-1).Draw(t, "stored again")
		m.sent = append(m.sent, s)
	}
}

// store gives every message of the log its place, and tells it to whoever sent it.
func (m *model) store(log []stored) {
	ends := map[partition]int64{}
	for i := range log {
		s := &log[i]
		s.partition = "0"
		if s.send.Key == "k2" {
			s.partition = "1"
		}
		p := partition{physical{s.cluster, "orders", s.send.Shadow}, s.partition}
		s.offset = ends[p]
		ends[p]++
		m.each(s.send.ID, "", func(e *Event) {
			if e.Op == OpOK {
				e.Partition, e.Offset = s.partition, s.offset
			}
		})
	}
}

// facts are what the history says of the move.
func (m *model) facts(t *rapid.T, log []stored, left, fenced int64) {
	m.add(left, Event{Op: OpRoute, Topic: "orders", Cluster: "b"})
	m.add(left, Event{Op: OpMove, Topic: "orders", Move: "m-1", State: "switching"})
	for _, shadow := range []bool{false, true} {
		ends := map[string]int64{"0": 0, "1": 0}
		for _, s := range log {
			if s.cluster == "a" && s.send.Shadow == shadow && s.at < fenced {
				ends[s.partition]++
			}
		}
		m.add(fenced, Event{Op: OpFence, Topic: "orders", Shadow: shadow, Cluster: "a"})
		m.add(fenced, Event{Op: OpSeal, Topic: "orders", Shadow: shadow, Cluster: "a", Offsets: ends})
		if m.back == 0 {
			continue
		}
		open := Event{Op: OpOpen, Topic: "orders", Shadow: shadow, Cluster: "a"}
		if rapid.Bool().Draw(t, "tells where it opens") {
			open.Offsets = ends
		}
		m.add(m.back, open)
		m.add(m.back, Event{Op: OpRoute, Topic: "orders", Cluster: "a"})
	}
}

// handle lets a group work through the log: an ordered one key by key, the other message by message. At the end it may
// go back and handle again.
func (m *model) handle(t *rapid.T, log []stored, group string, ordered bool) {
	free := map[string]int64{} // when the group may go on with a key
	var again []stored
	for _, s := range log {
		if s.send.Shadow != (group == "shadow") {
			continue
		}
		now := s.at
		if ordered {
			now = max(now, free[s.send.Key])
		}
		now += rapid.Int64Range(1, 300).Draw(t, "until handled")
		attempt := 0
		for range rapid.IntRange(0, 2).Draw(t, "failures") {
			if rapid.Bool().Draw(t, "killed") {
				now = m.once(now, s, group, attempt, "")
				continue
			}
			now = m.once(now, s, group, attempt, OpRetry)
			attempt += rapid.IntRange(0, 1).Draw(t, "through the retry topic")
		}
		free[s.send.Key] = m.once(now, s, group, attempt, OpDone)
		if len(again) > 0 || rapid.IntRange(0, 9).Draw(t, "go back to it") == 9 {
			again = append(again, s)
		}
	}
	for i, s := range again {
		m.once(10_000+int64(i)*10, s, group, 0, OpDone)
	}
}

// once is one handling; "" ends it with the death of the member.
func (m *model) once(now int64, s stored, group string, attempt int, end Op) int64 {
	member, offset := "member", s.offset
	if attempt > 0 {
		offset += 1000 // the retry topic's own
	}
	if end == "" {
		member = "killed-member"
	}
	m.add(now, Event{Op: OpRecv, ID: s.send.ID, Topic: "orders", Key: s.send.Key, Seq: s.send.Seq, Shadow: s.send.Shadow,
		Group: group, Member: member, Cluster: s.cluster, Partition: s.partition, Offset: offset, Attempt: attempt})
	if end != "" {
		m.add(now+1, Event{Op: end, ID: s.send.ID, Group: group, Member: member})
	}
	return now + 2
}

func TestEveryRightHistoryIsClean(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := rightHistory(t)
		shuffled := rapid.Permutation(m.events).Draw(t, "order")
		require.NoError(t, Check(shuffled, m.o).Err())
	})
}

// Each makes a right history wrong in one place, and says which rule it broke; "" if the history has no such place.
var mutations = map[string]func(t *rapid.T, m *model) Rule{
	"lose a message for one group": func(t *rapid.T, m *model) Rule {
		e := m.pick(t, func(e Event) bool { return e.Op == OpRecv && m.acknowledged(e.ID) })
		if e != nil {
			m.remove(e.ID, e.Group, OpRecv, OpDone, OpRetry)
		}
		return ifAny(e, Lost)
	},
	"never get done with a message": func(t *rapid.T, m *model) Rule {
		e := m.pick(t, func(e Event) bool { return e.Op == OpDone && m.acknowledged(e.ID) })
		if e != nil {
			m.each(e.ID, e.Group, func(x *Event) {
				if x.Op == OpDone {
					x.Op = OpRetry
				}
			})
		}
		return ifAny(e, Lost)
	},
	"handle what nobody sent": func(t *rapid.T, m *model) Rule {
		e := m.pick(t, func(e Event) bool { return e.Op == OpRecv })
		if e != nil {
			m.remove(e.ID, "", OpSend, OpOK, OpUnknown)
		}
		return ifAny(e, Phantom)
	},
	"handle a message after a later one of its key": func(t *rapid.T, m *model) Rule {
		type pair struct{ first, then stored }
		var pairs []pair
		for _, a := range m.sent {
			for _, b := range m.sent {
				if !a.send.Shadow && !b.send.Shadow && a.send.Key != "" && a.send.Key == b.send.Key &&
					a.outcome.Op == OpOK && a.outcome.T < b.send.T && b.at > 0 {
					pairs = append(pairs, pair{a, b})
				}
			}
		}
		if len(pairs) == 0 {
			return ""
		}
		p := rapid.SampledFrom(pairs).Draw(t, "pair")
		shift := m.first(p.then.send.ID, "ordered") - m.first(p.first.send.ID, "ordered")
		m.each(p.first.send.ID, "ordered", func(e *Event) { e.T += shift })
		return Reordered
	},
	"show a message to the other kind of group": func(t *rapid.T, m *model) Rule {
		e := m.pick(t, func(e Event) bool { return e.Op == OpRecv && e.Member == "killed-member" && m.isSent(e.ID) })
		if e == nil {
			return ""
		}
		if e.Group == "shadow" {
			e.Group = "plain"
		} else {
			e.Group = "shadow"
		}
		return Leaked
	},
	"change a key": func(t *rapid.T, m *model) Rule {
		e := m.pick(t, func(e Event) bool { return e.Op == OpRecv })
		if e != nil {
			e.Key += "x"
		}
		return ifAny(e, Altered)
	},
	"lose or invent a stress mark": func(t *rapid.T, m *model) Rule {
		e := m.pick(t, func(e Event) bool { return e.Op == OpRecv })
		if e != nil {
			e.Shadow = !e.Shadow
		}
		return ifAny(e, Altered)
	},
	"handle before the send": func(t *rapid.T, m *model) Rule {
		e := m.pick(t, func(e Event) bool { return e.Op == OpRecv })
		if e != nil {
			e.T = 0
		}
		return ifAny(e, Early)
	},
	"write to the cluster that was left": func(t *rapid.T, m *model) Rule {
		e := m.pick(t, func(e Event) bool { return e.Op == OpOK && e.Cluster == "b" && (m.back == 0 || e.T < m.back*moment) })
		if e != nil {
			e.Cluster = "a"
		}
		return ifAny(e, Late)
	},
	"write to the cluster that was left, and no option says so": func(t *rapid.T, m *model) Rule {
		m.o.Left = nil
		var fenced int64
		for _, e := range m.events {
			if e.Op == OpFence {
				fenced = max(fenced, e.T)
			}
		}
		begun := map[string]int64{}
		for _, e := range m.events {
			if e.Op == OpSend {
				begun[e.ID] = e.T
			}
		}
		e := m.pick(t, func(e Event) bool {
			return e.Op == OpOK && e.Cluster == "b" && begun[e.ID] > fenced && (m.back == 0 || e.T < m.back*moment)
		})
		if e != nil {
			e.Cluster = "a"
		}
		return ifAny(e, Late)
	},
	"write behind the seal": func(t *rapid.T, m *model) Rule {
		e := m.pick(t, func(e Event) bool {
			return (e.Op == OpOK || e.Op == OpRecv && e.Attempt == 0) && e.Cluster == "b" && m.back == 0
		})
		if e != nil {
			e.Cluster, e.Offset = "a", 500
		}
		return ifAny(e, Sealed)
	},
	"seal below what is stored": func(t *rapid.T, m *model) Rule {
		e := m.pick(t, func(e Event) bool { return e.Op == OpSeal && e.Offsets["0"] > 0 })
		if e != nil && m.back == 0 {
			e.Offsets["0"]--
			return Sealed
		}
		return ""
	},
	"leave the end of the old cluster unread": func(t *rapid.T, m *model) Rule {
		if m.back == 0 && m.leaveUnread(t, "a") {
			return Stranded
		}
		return ""
	},
	"leave the end of the cluster in force unread": func(t *rapid.T, m *model) Rule {
		if m.back == 0 && m.leaveUnread(t, "b") || m.back != 0 && m.leaveUnread(t, "a") {
			return Unseen
		}
		return ""
	},
	"pass over an offset": func(t *rapid.T, m *model) Rule {
		e := m.pick(t, func(e Event) bool {
			read := func(group string, fits func(Event) bool) bool {
				return slices.ContainsFunc(m.events, func(x Event) bool {
					return x.Op == OpRecv && x.Attempt == 0 && x.Group == group && x.Cluster == e.Cluster && x.Partition == e.Partition && fits(x)
				})
			}
			return e.Op == OpRecv && e.Group == "plain" && e.Attempt == 0 &&
				read("ordered", func(x Event) bool { return x.Offset == e.Offset }) &&
				read("plain", func(x Event) bool { return x.Offset > e.Offset && x.ID != e.ID })
		})
		if e != nil {
			m.remove(e.ID, "plain", OpRecv, OpDone, OpRetry)
		}
		return ifAny(e, PollSkip)
	},
	"put two messages at one offset": func(t *rapid.T, m *model) Rule {
		first := m.pick(t, func(e Event) bool { return e.Op == OpRecv && e.Attempt == 0 && m.isSent(e.ID) })
		if first == nil {
			return ""
		}
		e := m.pick(t, func(e Event) bool {
			return e.Op == OpRecv && e.Attempt == 0 && e.ID != first.ID && e.Shadow == first.Shadow && e.Cluster == first.Cluster && e.Partition == first.Partition
		})
		if e != nil {
			e.Offset = first.Offset
		}
		return ifAny(e, Inconsistent)
	},
	"use another cluster": func(t *rapid.T, m *model) Rule {
		e := m.pick(t, func(e Event) bool { return e.Op == OpOK || e.Op == OpRecv })
		if e != nil {
			e.Cluster = "c"
		}
		return ifAny(e, Elsewhere)
	},
	"answer twice": func(t *rapid.T, m *model) Rule {
		e := m.pick(t, func(e Event) bool { return e.Op == OpOK || e.Op == OpFail || e.Op == OpUnknown })
		if e != nil {
			m.add(5000, Event{Op: OpOK, ID: e.ID, Cluster: "a"})
		}
		return ifAny(e, Twice)
	},
	"never answer": func(t *rapid.T, m *model) Rule {
		e := m.pick(t, func(e Event) bool { return e.Op == OpOK || e.Op == OpFail || e.Op == OpUnknown })
		if e != nil {
			m.remove(e.ID, "", OpOK, OpFail, OpUnknown)
		}
		return ifAny(e, Unanswered)
	},
	"answer what was not asked": func(_ *rapid.T, m *model) Rule {
		m.add(1, Event{Op: OpOK, ID: "nobody's"})
		return Broken
	},
	"use an id twice": func(t *rapid.T, m *model) Rule {
		e := m.pick(t, func(e Event) bool { return e.Op == OpSend })
		m.add(1, *e)
		return Reused
	},
	"never return from a listener": func(t *rapid.T, m *model) Rule {
		e := m.pick(t, func(e Event) bool { return e.Op == OpDone || e.Op == OpRetry })
		if e != nil {
			m.remove(e.ID, e.Group, OpDone, OpRetry)
		}
		return ifAny(e, Unfinished)
	},
	"end a handling that did not begin": func(t *rapid.T, m *model) Rule {
		e := m.pick(t, func(e Event) bool { return e.Op == OpDone })
		if e != nil {
			m.add(20_000, *e)
		}
		return ifAny(e, Broken)
	},
	"deny a send that is handled": func(t *rapid.T, m *model) Rule {
		handled := m.pick(t, func(e Event) bool { return e.Op == OpRecv && m.isSent(e.ID) })
		if handled == nil {
			return ""
		}
		done := false
		for i := range m.events {
			if e := &m.events[i]; e.ID == handled.ID && (e.Op == OpOK || e.Op == OpUnknown) {
				e.Op, done = OpFail, true
			}
		}
		if !done {
			return ""
		}
		return Denied
	},
	"handle twice where that is not allowed": func(_ *rapid.T, m *model) Rule {
		m.o.Allow = []Rule{Failed, Unknown}
		if Check(m.events, m.o).Clean {
			return ""
		}
		return Duplicate
	},
	"send more slowly than allowed": func(t *rapid.T, m *model) Rule {
		e := m.pick(t, func(e Event) bool { return e.Op == OpOK })
		m.o.MaxSend = 1
		return ifAny(e, Slow)
	},
	"leave a group out of the options": func(t *rapid.T, m *model) Rule {
		e := m.pick(t, func(e Event) bool { return e.Op == OpRecv })
		if e != nil {
			m.o.Groups = slices.DeleteFunc(m.o.Groups, func(g Group) bool { return g.Name == e.Group })
		}
		return ifAny(e, Stranger)
	},
}

func TestEveryWrongHistoryIsFound(t *testing.T) {
	for name, mutate := range mutations {
		t.Run(name, func(t *testing.T) {
			applied := 0
			rapid.Check(t, func(t *rapid.T) {
				m := rightHistory(t)
				rule := mutate(t, m)
				if rule == "" {
					return
				}
				applied++
				v := Check(m.events, m.o)
				require.Positive(t, v.Count(rule), "%s was not found:\n%s", rule, v)
				require.False(t, v.Clean)
			})
			require.Positive(t, applied, "no history had a place for this mutation")
		})
	}
}

// leaveUnread lets a group stop reading one partition of a cluster at a message that was acknowledged there.
func (m *model) leaveUnread(t *rapid.T, cluster string) bool {
	group := rapid.SampledFrom([]string{"ordered", "plain"}).Draw(t, "group")
	ok := m.pick(t, func(e Event) bool { return e.Op == OpOK && e.Cluster == cluster && !m.isShadow(e.ID) })
	if ok == nil {
		return false
	}
	from := *ok
	gone := map[string]bool{}
	for _, e := range m.events {
		if e.Op == OpRecv && e.Cluster == cluster && e.Partition == from.Partition && e.Offset >= from.Offset && !e.Shadow {
			gone[e.ID] = true
		}
	}
	for id := range gone {
		m.remove(id, group, OpRecv, OpDone, OpRetry)
	}
	return true
}

func ifAny(e *Event, r Rule) Rule {
	if e == nil {
		return ""
	}
	return r
}

// pick draws one of the events that fit; nil: none does.
func (m *model) pick(t *rapid.T, fits func(Event) bool) *Event {
	var list []int
	for i, e := range m.events {
		if fits(e) {
			list = append(list, i)
		}
	}
	if len(list) == 0 {
		return nil
	}
	return &m.events[rapid.SampledFrom(list).Draw(t, "event")]
}

func (m *model) each(id, group string, change func(*Event)) {
	for i := range m.events {
		if e := &m.events[i]; e.ID == id && e.Group == group {
			change(e)
		}
	}
}

func (m *model) remove(id, group string, ops ...Op) {
	m.events = slices.DeleteFunc(m.events, func(e Event) bool {
		return e.ID == id && e.Group == group && slices.Contains(ops, e.Op)
	})
}

// first is when a group first began to handle a message.
func (m *model) first(id, group string) int64 {
	var first int64
	m.each(id, group, func(e *Event) {
		if e.Op == OpRecv && (first == 0 || e.T < first) {
			first = e.T
		}
	})
	return first
}

func (m *model) acknowledged(id string) bool {
	return slices.ContainsFunc(m.events, func(e Event) bool { return e.ID == id && e.Op == OpOK })
}

func (m *model) isShadow(id string) bool {
	return slices.ContainsFunc(m.events, func(e Event) bool { return e.ID == id && e.Op == OpSend && e.Shadow })
}

func (m *model) isSent(id string) bool {
	return slices.ContainsFunc(m.events, func(e Event) bool { return e.ID == id && e.Op == OpSend })
}
