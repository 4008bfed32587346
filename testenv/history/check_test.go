package history

import (
	"encoding/json"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// second is the time unit of these histories.
const second = int64(time.Second)

// The scene: p1 sends m01 … m08 of the keys k1 and k2 in turn, one after the other, the first four to kafka-a, the others
// to kafka-b, and s1 and s2 with the stress mark. All are handled later: bill reads in order, mail need not, shadow_bill
// reads the marked ones.
func scene() ([]Event, Options) {
	var events []Event
	add := func(e Event) { events = append(events, e) }
	message := func(n int, id, key string, seq int64, shadow bool, groups ...string) {
		t, cluster := int64(n)*100*second, "kafka-a"
		if n > 4 {
			cluster = "kafka-b"
		}
		add(Event{T: t, Op: OpSend, ID: id, Topic: "orders", Key: key, Seq: seq, Producer: "p1", Shadow: shadow})
		add(Event{T: t + second, Op: OpOK, ID: id, Producer: "p1", Cluster: cluster, Partition: "0", Offset: int64(n)})
		for i, group := range groups {
			t := t + 1000*second + int64(i)
			add(Event{T: t, Op: OpRecv, ID: id, Topic: "orders", Key: key, Seq: seq, Group: group, Member: "c-" + group,
				Cluster: cluster, Partition: "0", Offset: int64(n), Shadow: shadow})
			add(Event{T: t + second, Op: OpDone, ID: id, Group: group, Member: "c-" + group})
		}
	}
	for n := 1; n <= 8; n++ {
		message(n, fmt.Sprintf("m%02d", n), fmt.Sprintf("k%d", 1+n%2), int64(n+1)/2, false, "bill", "mail")
	}
	message(9, "s1", "k1", 5, true, "shadow_bill")
	message(10, "s2", "k2", 5, true, "shadow_bill")
	return events, Options{Groups: []Group{
		{Name: "bill", Topics: []string{"orders"}, Ordered: true},
		{Name: "mail"},
		{Name: "shadow_bill", Shadow: true},
	}}
}

func TestARightHistoryIsClean(t *testing.T) {
	events, o := scene()
	o.Clusters = []string{"kafka-a", "kafka-b"}
	o.MaxSend = time.Second
	o.Allow = []Rule{}
	o.Left = []Left{{Cluster: "kafka-a", From: at(450)}, {Cluster: "kafka-b", Until: at(450)}}
	v := Check(events, o)
	require.NoError(t, v.Err())
	require.Equal(t, 10, v.Sent)
	require.Equal(t, 10, v.Acknowledged)
	require.Equal(t, time.Second, v.Longest.Took)
	require.Equal(t, []ClusterCount{
		{Cluster: "kafka-a", Acknowledged: 4, Received: 8, FirstAck: at(101), LastAck: at(401)},
		{Cluster: "kafka-b", Acknowledged: 6, Received: 10, FirstAck: at(501), LastAck: at(1001)},
	}, v.Clusters)
	require.Equal(t, GroupCount{Group: "mail", Handled: 8, Begun: 8}, v.Groups[1])

	slices.Reverse(events)
	require.Equal(t, v, Check(events, o), "the order of the events does not matter")
}

// Every way in which a history can be wrong, with what must be found, and nothing else.
func TestAWrongHistoryIsFound(t *testing.T) {
	type wrong struct {
		name   string
		change func(h *hand)
		found  map[Rule]int
	}
	for _, c := range []wrong{
		{"a message that one group never saw",
			func(h *hand) { h.drop("m03", "mail", OpRecv, OpDone) }, map[Rule]int{Lost: 1}},
		{"a message that no group ever saw",
			func(h *hand) { h.drop("m03", "", OpRecv, OpDone) }, map[Rule]int{Lost: 2}},
		{"a message whose handling ended with an error and did not come again",
			func(h *hand) { h.find("m03", "mail", OpDone).Op = OpRetry }, map[Rule]int{Lost: 1}},
		{"a message whose handler was killed and that did not come again",
			func(h *hand) { h.drop("m03", "mail", OpDone); h.o.Killed = []string{"c-mail"} }, map[Rule]int{Lost: 1}},
		{"a stress message that the shadow group missed",
			func(h *hand) { h.drop("s1", "shadow_bill", OpRecv, OpDone) }, map[Rule]int{Lost: 1}},
		{"a topic that no group reads",
			func(h *hand) {
				h.add(Event{T: 5, Op: OpSend, ID: "x", Topic: "other", Producer: "p1"}, Event{T: 6, Op: OpOK, ID: "x"})
				h.o.Groups[1].Topics = []string{"orders"}
			}, map[Rule]int{Lost: 1}},
		{"no group at all",
			func(h *hand) { h.o.Groups = nil }, map[Rule]int{Lost: 8, Stranger: 18}},
		{"a handler that never returned",
			func(h *hand) { h.drop("m03", "mail", OpDone) }, map[Rule]int{Lost: 1, Unfinished: 1}},
		{"a duplicate where none is allowed",
			func(h *hand) { h.again("m03", "mail"); h.o.Allow = []Rule{} }, map[Rule]int{Duplicate: 1}},
		{"two duplicates of one message",
			func(h *hand) { h.again("m03", "mail"); h.again("m03", "mail"); h.o.Allow = []Rule{} }, map[Rule]int{Duplicate: 2}},
		{"a message that nobody sent",
			func(h *hand) { h.drop("m03", "", OpSend, OpOK) }, map[Rule]int{Phantom: 2}},
		{"a handling before the send",
			func(h *hand) { h.find("m03", "mail", OpRecv).T = 2 }, map[Rule]int{Early: 1}},
		{"another key than was sent",
			func(h *hand) { h.find("m03", "mail", OpRecv).Key = "k9" }, map[Rule]int{Altered: 1}},
		{"a key that was lost on the way",
			func(h *hand) { h.find("m03", "mail", OpRecv).Key = "" }, map[Rule]int{Altered: 1}},
		{"another number than was sent",
			func(h *hand) { h.find("m03", "mail", OpRecv).Seq = 77 }, map[Rule]int{Altered: 1}},
		{"another topic than was sent to",
			func(h *hand) { h.find("m03", "mail", OpRecv).Topic = "bills" }, map[Rule]int{Altered: 1}},
		{"a stress mark that was lost on the way",
			func(h *hand) { h.find("s1", "shadow_bill", OpRecv).Shadow = false }, map[Rule]int{Altered: 1}},
		{"a stress message at a production group",
			func(h *hand) { h.to("s1", "shadow_bill", "mail") }, map[Rule]int{Leaked: 1, Lost: 1}},
		{"a production message at a shadow group",
			func(h *hand) { h.to("m03", "mail", "shadow_bill") }, map[Rule]int{Leaked: 1, Lost: 1}},
		{"a group that nobody knows",
			func(h *hand) { h.to("m03", "mail", "other") }, map[Rule]int{Stranger: 1, Lost: 1}},
		{"a group that does not read the topic",
			func(h *hand) { h.o.Groups[1].Topics = []string{"other"} }, map[Rule]int{Stranger: 8}},
		{"two neighbours of a key exchanged",
			func(h *hand) { h.exchange("m03", "m05", "bill") }, map[Rule]int{Reordered: 1}},
		{"the last of a key handled first",
			func(h *hand) { h.exchange("m01", "m07", "bill") }, map[Rule]int{Reordered: 3}},
		{"a message begun before the one before it was done",
			func(h *hand) { h.find("m03", "bill", OpDone).T = h.find("m05", "bill", OpRecv).T + 1 }, map[Rule]int{Reordered: 1}},
		{"a message that overtook one whose handling had failed",
			func(h *hand) {
				h.find("m03", "bill", OpDone).Op = OpRetry
				h.again("m03", "bill")
				h.find("m03", "bill", OpRetry, 1).Op = OpDone
			}, map[Rule]int{Reordered: 2}},
		{"a send that was refused",
			func(h *hand) { h.outcome("m03", OpFail); h.drop("m03", "", OpRecv, OpDone) }, map[Rule]int{Failed: 1}},
		{"a send that was given up",
			func(h *hand) { h.outcome("m03", OpUnknown) }, map[Rule]int{Unknown: 1}},
		{"a send said not to be stored, and handled",
			func(h *hand) { h.outcome("m03", OpFail) }, map[Rule]int{Failed: 1, Denied: 2}},
		{"a send that never returned",
			func(h *hand) { h.drop("m03", "", OpOK) }, map[Rule]int{Unanswered: 1}},
		{"a send that returned twice",
			func(h *hand) { h.add(h.find("m03", "", OpOK).later(1)) }, map[Rule]int{Twice: 1}},
		{"a slow send",
			func(h *hand) { h.o.MaxSend = time.Second - 1 }, map[Rule]int{Slow: 10}},
		{"an id used twice",
			func(h *hand) { h.add(h.find("m03", "", OpSend).later(1)) }, map[Rule]int{Reused: 1}},
		{"sends to a cluster that had been left",
			func(h *hand) { h.o.Left = []Left{{Cluster: "kafka-a", From: at(250)}} }, map[Rule]int{Late: 2}},
		{"sends to a cluster that had been left for a time",
			func(h *hand) { h.o.Left = []Left{{Cluster: "kafka-a", Topic: "orders", From: at(250), Until: at(350)}} },
			map[Rule]int{Late: 1}},
		{"a cluster that is not to be used",
			func(h *hand) { h.o.Clusters = []string{"kafka-b"} }, map[Rule]int{Elsewhere: 12}},
		{"an outcome of no send",
			func(h *hand) { h.add(Event{T: 5, Op: OpOK, ID: "x"}) }, map[Rule]int{Broken: 1}},
		{"an outcome before its send",
			func(h *hand) { h.find("m03", "", OpOK).T = 5 }, map[Rule]int{Broken: 1, Unanswered: 1}},
		{"the end of a handling that did not begin",
			func(h *hand) { h.add(h.find("m03", "mail", OpDone).later(1)) }, map[Rule]int{Broken: 1}},
	} {
		t.Run(c.name, func(t *testing.T) {
			events, o := scene()
			h := &hand{events: events, o: o}
			c.change(h)
			v := Check(h.events, h.o)
			require.False(t, v.Clean)
			found := map[Rule]int{}
			for _, f := range v.Findings {
				if f.Count > 0 {
					found[f.Rule] = f.Count
					require.Len(t, f.Examples, min(f.Count, 10))
				}
			}
			require.Equal(t, c.found, found, v.String())
			require.ErrorContains(t, v.Err(), "NOT CLEAN")
		})
	}
}

// What looks unusual and is right.
func TestWhatIsNoMistake(t *testing.T) {
	type right struct {
		name   string
		change func(h *hand)
	}
	for _, c := range []right{
		{"a duplicate: at least once", func(h *hand) { h.again("m03", "mail") }},
		{"an ordered group that begins again from an earlier message", func(h *hand) { h.again("m03", "bill"); h.again("m05", "bill") }},
		{"a handling that failed and came again", func(h *hand) {
			h.find("m03", "mail", OpDone).Op = OpRetry
			h.again("m03", "mail")
			h.find("m03", "mail", OpRetry, 1).Op = OpDone
			h.o.Allow = []Rule{}
		}},
		{"a killed process: no outcome, no end", func(h *hand) {
			h.drop("m03", "", OpOK)
			h.drop("m04", "mail", OpDone)
			e := h.find("m04", "mail", OpRecv).later(1)
			e.Member = "c2"
			h.add(e, Event{T: e.T + 1, Op: OpDone, ID: "m04", Group: "mail", Member: "c2"})
			h.o.Killed = []string{"p1", "c-mail"}
		}},
		{"an unknown outcome that was not stored", func(h *hand) {
			h.outcome("m03", OpUnknown)
			h.drop("m03", "", OpRecv, OpDone)
			h.o.Allow = []Rule{Unknown}
		}},
		{"overlapping sends of a key in either order", func(h *hand) {
			h.find("m03", "", OpOK).T = h.find("m05", "", OpSend).T + 1
			h.exchange("m03", "m05", "bill")
		}},
		{"an unordered group in any order", func(h *hand) { h.exchange("m01", "m07", "mail") }},
		{"an ordered group and messages without key", func(h *hand) {
			for i := range h.events {
				h.events[i].Key = ""
			}
			h.exchange("m01", "m07", "bill")
		}},
		{"a group that was added later", func(h *hand) {
			h.drop("m01", "mail", OpRecv, OpDone)
			h.o.Groups[1].Partial = true
		}},
		{"stress messages while no shadow group runs", func(h *hand) {
			h.drop("s1", "", OpRecv, OpDone)
			h.drop("s2", "", OpRecv, OpDone)
			h.o.Groups = h.o.Groups[:2]
		}},
		{"a send on its way while its cluster was left", func(h *hand) {
			h.o.Left = []Left{{Cluster: "kafka-a", From: time.Unix(0, h.find("m04", "", OpSend).T+1)}}
		}},
		{"another topic on the cluster that was left", func(h *hand) { h.o.Left = []Left{{Cluster: "kafka-a", Topic: "bills"}} }},
		{"a consumer that does not know number and topic", func(h *hand) {
			e := h.find("m03", "mail", OpRecv)
			e.Seq, e.Topic = 0, ""
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			events, o := scene()
			h := &hand{events: events, o: o}
			c.change(h)
			require.NoError(t, Check(h.events, h.o).Err())
		})
	}
}

func TestVerdictDescribesTenOfManyAndCountsAll(t *testing.T) {
	var events []Event
	for i := range int64(25) {
		events = append(events, Event{T: i + 1, Op: OpSend, ID: fmt.Sprint("m", i), Producer: "p"})
	}
	v := Check(events, Options{})
	require.Equal(t, 25, v.Count(Unanswered))
	require.Contains(t, v.String(), "… and 15 more")
	require.Contains(t, v.String(), "verdict: NOT CLEAN: 25 unanswered")

	b, err := json.Marshal(v)
	require.NoError(t, err)
	var back Verdict
	require.NoError(t, json.Unmarshal(b, &back))
	require.Equal(t, v.Findings, back.Findings)
	require.False(t, back.Clean)
}

func TestEmptyHistoryIsClean(t *testing.T) {
	require.NoError(t, Check(nil, Options{}).Err())
}

func at(s int64) time.Time { return time.Unix(s, 0) }

// hand changes a history.
type hand struct {
	events []Event
	o      Options
}

// find is the nth (from 0) event of an id and, unless empty, a group.
func (h *hand) find(id, group string, op Op, nth ...int) *event {
	n := 0
	for i := range h.events {
		if e := &h.events[i]; e.ID == id && e.Op == op && (group == "" || e.Group == group) {
			if len(nth) == 0 || n == nth[0] {
				return (*event)(e)
			}
			n++
		}
	}
	panic(fmt.Sprintf("no %s of %s in group %q", op, id, group))
}

type event Event

func (e *event) later(by int64) Event {
	later := Event(*e)
	later.T += by
	return later
}

func (h *hand) add(events ...Event) { h.events = append(h.events, events...) }

func (h *hand) drop(id, group string, ops ...Op) {
	h.events = slices.DeleteFunc(h.events, func(e Event) bool {
		return e.ID == id && (group == "" || e.Group == group) && slices.Contains(ops, e.Op)
	})
}

// again lets a group handle a message once more, at the end.
func (h *hand) again(id, group string) {
	t := slices.MaxFunc(h.events, func(a, b Event) int { return int(a.T - b.T) }).T
	for _, op := range []Op{OpRecv, h.end(id, group)} {
		e := Event(*h.find(id, group, op))
		t++
		e.T = t
		h.add(e)
	}
}

func (h *hand) end(id, group string) Op {
	for _, e := range h.events {
		if e.ID == id && e.Group == group && e.Op != OpRecv {
			return e.Op
		}
	}
	panic("no end of " + id)
}

// to makes another group handle what one group handled.
func (h *hand) to(id, group, other string) {
	for i := range h.events {
		if e := &h.events[i]; e.ID == id && e.Group == group {
			e.Group = other
		}
	}
}

// exchange lets a group handle two messages at each other's times; both were acknowledged by then.
func (h *hand) exchange(a, b, group string) {
	for _, op := range []Op{OpRecv, OpDone} {
		x, y := h.find(a, group, op), h.find(b, group, op)
		x.T, y.T = y.T, x.T
	}
}

func (h *hand) outcome(id string, op Op) {
	e := h.find(id, "", OpOK)
	e.Op, e.Cluster, e.Error = op, "", "said so"
}
