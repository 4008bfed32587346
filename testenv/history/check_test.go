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
	wait := Longest{Took: 999*time.Second + 1, Began: at(101), ID: "m01", Group: "mail", Member: "c-mail", Cluster: "kafka-a", Partition: "0"}
	require.Equal(t, GroupCount{Group: "mail", Handled: 8, Begun: 8, Pause: wait, Wait: wait}, v.Groups[1])

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
			func(h *hand) { h.drop("m03", "mail", OpRecv, OpDone) }, map[Rule]int{Lost: 1, PollSkip: 1}},
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
			func(h *hand) { h.to("s1", "shadow_bill", "mail") }, map[Rule]int{Leaked: 1, Lost: 1, PollSkip: 1}},
		{"a production message at a shadow group",
			func(h *hand) { h.to("m03", "mail", "shadow_bill") }, map[Rule]int{Leaked: 1, Lost: 1, PollSkip: 1}},
		{"a group that nobody knows",
			func(h *hand) { h.to("m03", "mail", "other") }, map[Rule]int{Stranger: 1, Lost: 1, PollSkip: 1}},
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
		{"messages left unread on the cluster that the topic left", // as the route says
			func(h *hand) {
				h.drop("m03", "mail", OpRecv, OpDone)
				h.drop("m04", "mail", OpRecv, OpDone)
				h.add(Event{T: 450 * second, Op: OpRoute, Topic: "orders", Cluster: "kafka-b"})
			}, map[Rule]int{Lost: 2, Stranded: 2}},
		{"a message left unread on the cluster that no send goes to any more", // as the acknowledgements say
			func(h *hand) { h.drop("m04", "mail", OpRecv, OpDone) }, map[Rule]int{Lost: 1, Stranded: 1}},
		{"a message left unread on the cluster in force",
			func(h *hand) { h.drop("m08", "mail", OpRecv, OpDone) }, map[Rule]int{Lost: 1, Unseen: 1}},
		{"messages left unread on a cluster that the topic went back to",
			func(h *hand) {
				h.drop("m04", "mail", OpRecv, OpDone)
				h.add(Event{T: 450 * second, Op: OpRoute, Topic: "orders", Cluster: "kafka-b"},
					Event{T: 2000 * second, Op: OpRoute, Topic: "orders", Cluster: "kafka-a"})
			}, map[Rule]int{Lost: 1, Unseen: 1}},
		{"a group that passed over a message whose send was given up",
			func(h *hand) {
				h.outcome("m03", OpUnknown)
				h.drop("m03", "mail", OpRecv, OpDone)
				h.o.Allow = []Rule{Unknown}
			}, map[Rule]int{Unknown: 1, PollSkip: 1}},
		{"two messages at one offset",
			func(h *hand) { h.find("m03", "mail", OpRecv).Offset = 2 }, map[Rule]int{Inconsistent: 1, PollSkip: 1}},
		{"messages that are behind the seal",
			func(h *hand) { h.seal(450, map[string]int64{"0": 3}) }, map[Rule]int{Sealed: 2}},
		{"messages that were acknowledged before a seal that does not cover them",
			func(h *hand) { h.seal(2000, map[string]int64{"0": 4}) }, map[Rule]int{Sealed: 1}},
		{"a message of unknown outcome that is behind the seal",
			func(h *hand) {
				h.outcome("m04", OpUnknown)
				h.seal(350, map[string]int64{"0": 4})
				h.o.Allow = []Rule{Unknown}
			}, map[Rule]int{Unknown: 1, Sealed: 1}},
		{"a message that somebody else wrote behind the seal",
			func(h *hand) {
				h.drop("m04", "", OpSend, OpOK)
				h.seal(350, map[string]int64{"0": 4})
			}, map[Rule]int{Phantom: 2, Sealed: 1}},
		{"a message behind the seal and below the offset from which the cluster was opened again",
			func(h *hand) {
				h.seal(250, map[string]int64{"0": 3})
				h.add(Event{T: 350 * second, Op: OpOpen, Topic: "orders", Cluster: "kafka-a", Offsets: map[string]int64{"0": 4}})
			}, map[Rule]int{Sealed: 1}},
		{"a message behind the seal, seen before the cluster was opened again",
			func(h *hand) {
				h.seal(250, map[string]int64{"0": 3})
				h.add(Event{T: 350 * second, Op: OpOpen, Topic: "orders", Cluster: "kafka-a"})
			}, map[Rule]int{Sealed: 1}},
		{"a send that the fenced cluster took",
			func(h *hand) { h.fence(350); h.fence(360) }, map[Rule]int{Late: 1}},
		{"a send that a cluster took between two fences, and one that it took behind the second",
			func(h *hand) {
				h.fence(150)
				h.add(Event{T: 250 * second, Op: OpOpen, Topic: "orders", Cluster: "kafka-a"})
				h.fence(350)
			}, map[Rule]int{Late: 2}},
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
		{"two stored copies of a message, handled by one member at the same time", func(h *hand) {
			h.again("m03", "mail")
			first, second := h.find("m03", "mail", OpRecv), h.find("m03", "mail", OpRecv, 1)
			second.T, second.Partition = first.T+1, "1"
		}},
		{"a seal that covers everything, repeated", func(h *hand) {
			h.seal(450, map[string]int64{"0": 5})
			h.seal(460, map[string]int64{"0": 5})
		}},
		{"a seal of another topic, of another cluster, of the stress messages, of another partition", func(h *hand) {
			end := map[string]int64{"0": 0}
			h.add(Event{T: 1, Op: OpSeal, Topic: "bills", Cluster: "kafka-a", Offsets: end},
				Event{T: 2, Op: OpSeal, Topic: "orders", Cluster: "kafka-c", Offsets: end},
				Event{T: 3, Op: OpSeal, Topic: "orders", Cluster: "kafka-a", Shadow: true, Offsets: end},
				Event{T: 4, Op: OpSeal, Topic: "orders", Cluster: "kafka-a", Offsets: map[string]int64{"1": 0}})
		}},
		{"a cluster that was sealed, fenced, and opened again", func(h *hand) {
			h.fence(120)
			h.seal(130, map[string]int64{"0": 2})
			h.add(Event{T: 140 * second, Op: OpOpen, Topic: "orders", Cluster: "kafka-a", Offsets: map[string]int64{"0": 2}})
			h.fence(420)
			h.seal(430, map[string]int64{"0": 5})
		}},
		{"a retry that has the number of an offset behind the seal", func(h *hand) {
			h.find("m04", "mail", OpDone).Op = OpRetry
			h.again("m04", "mail")
			h.find("m04", "mail", OpRetry, 1).Op = OpDone
			e := h.find("m04", "mail", OpRecv, 1)
			e.Attempt, e.Partition, e.Offset = 1, "0", 4711
			h.seal(450, map[string]int64{"0": 5})
		}},
		{"a message without place behind a seal", func(h *hand) {
			h.seal(1, map[string]int64{"0": 0})
			for i := range h.events {
				if h.events[i].Op != OpSeal {
					h.events[i].Partition, h.events[i].Offset = "", 0
				}
			}
		}},
		{"a group that begins in the middle of a partition", func(h *hand) {
			h.drop("m01", "mail", OpRecv, OpDone)
			h.o.Groups[1].Partial = true
		}},
		{"a group that stopped before the others", func(h *hand) {
			h.outcome("m08", OpUnknown)
			h.drop("m08", "mail", OpRecv, OpDone)
			h.o.Allow = []Rule{Unknown}
		}},
		{"processes that the history says were killed", func(h *hand) {
			h.drop("m03", "", OpOK)
			h.add(Event{T: 9000 * second, Op: OpKill, Member: "p1"})
		}},
		{"a message that was rescued out of its order", func(h *hand) {
			h.exchange("m01", "m07", "bill")
			for _, id := range []string{"m01", "m03", "m05", "m07"} {
				h.add(Event{T: 950 * second, Op: OpRescue, ID: id, Cluster: "kafka-a"})
			}
		}},
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

// Each duplicate has the cause that the history tells.
func TestDuplicatesHaveTheirCause(t *testing.T) {
	// Message m03 is handled once more, and what was changed of the second copy.
	for _, c := range []struct {
		name   string
		change func(h *hand, second *event)
		cause  Cause
	}{
		{"the same copy once more", func(*hand, *event) {}, Redelivery},
		{"the same copy by another member", func(_ *hand, e *event) { e.Member = "c2" }, Redelivery},
		{"out of the retry topic, though nothing had failed", func(_ *hand, e *event) { e.Attempt = 1 }, RetryCopy},
		{"twice on one cluster", func(_ *hand, e *event) { e.Offset = 50 }, Ambiguous},
		{"twice on one cluster, in another partition", func(_ *hand, e *event) { e.Partition = "1" }, Ambiguous},
		{"on two clusters", func(_ *hand, e *event) { e.Cluster, e.Offset = "kafka-b", 50 }, Rerouted},
		{"on two clusters, at the same offset", func(_ *hand, e *event) { e.Cluster, e.Partition = "kafka-b", "7" }, Rerouted},
		{"rescued from the old cluster", func(h *hand, e *event) {
			e.Cluster, e.Offset = "kafka-b", 50
			h.add(Event{T: 900 * second, Op: OpRescue, ID: "m03", Cluster: "kafka-a", Partition: "0", Offset: 3})
		}, Rescued},
		{"sent by the application once more", func(h *hand, e *event) {
			e.Offset = 50
			h.add(h.find("m03", "", OpSend).later(1))
			h.o.Allow = append(h.o.Allow, Reused)
		}, SentAgain},
		{"from nobody knows where", func(_ *hand, e *event) { e.Partition = "" }, Unexplained},
	} {
		t.Run(c.name, func(t *testing.T) {
			events, o := scene()
			h := &hand{events: events, o: o}
			h.o.Allow = []Rule{Duplicate}
			h.again("m03", "mail")
			c.change(h, h.find("m03", "mail", OpRecv, 1))
			h.find("m03", "mail", OpDone, 1).Member = h.find("m03", "mail", OpRecv, 1).Member
			v := Check(h.events, h.o)
			require.NoError(t, v.Err())
			require.Equal(t, 1, v.Count(Duplicate))
			require.Equal(t, map[Cause]int{c.cause: 1}, v.Groups[1].Causes)
			require.Contains(t, v.String(), "1 (1 "+string(c.cause)+")")
		})
	}
}

func TestPausesOfSendsAndOfConsumption(t *testing.T) {
	ev := func(t int64, op Op, id string) Event {
		e := Event{T: t * second, Op: op, ID: id, Topic: "orders"}
		switch op {
		case OpSend, OpOK, OpUnknown:
			e.Producer = "p" + id[:1]
			e.Cluster, e.Partition, e.Offset = "kafka-a", id[:1], t
		default:
			e.Group, e.Member, e.Cluster, e.Partition, e.Offset = "bill", "c1", "kafka-a", id[:1], int64(id[1])
		}
		return e
	}
	events := []Event{
		// p1 has a slow send among quick ones, and then stands still for 20 s, all sends failing. Before that it has nothing to send.
		ev(100, OpSend, "1a"), ev(107, OpOK, "1a"),
		ev(101, OpSend, "1b"), ev(102, OpOK, "1b"),
		ev(200, OpSend, "1c"), ev(205, OpUnknown, "1c"), ev(206, OpSend, "1d"), ev(212, OpUnknown, "1d"), ev(213, OpSend, "1e"), ev(220, OpOK, "1e"),
		// p2 sends in one second, and dies with a send on its way.
		ev(150, OpSend, "2a"), ev(151, OpOK, "2a"), ev(152, OpSend, "2b"),
		// bill is idle from 109 to 151, has work from then on and begins it at 180; it waits for 1e for 4 s, and is slow.
		ev(103, OpRecv, "1b"), ev(104, OpDone, "1b"), ev(108, OpRecv, "1a"), ev(109, OpDone, "1a"),
		ev(180, OpRecv, "2a"), ev(181, OpDone, "2a"), ev(224, OpRecv, "1e"), ev(300, OpDone, "1e"),
		{T: 90 * second, Op: OpMove, Topic: "orders", Move: "m-1", State: "done"},
		{T: 155 * second, Op: OpMove, Topic: "orders", Move: "m-2", State: "preparing"},
		{T: 170 * second, Op: OpMove, Topic: "orders", Move: "m-2", State: "holding"},
		{T: 179 * second, Op: OpMove, Topic: "bills", Move: "m-3", State: "done"},
		{T: 300 * second, Op: OpMove, Topic: "orders", Move: "m-2", State: "done"},
	}
	v := Check(events, Options{Groups: []Group{{Name: "bill"}}, Killed: []string{"p2"}, Allow: []Rule{Unknown}})
	require.NoError(t, v.Err())
	slow := Longest{Took: 7 * time.Second, Began: at(100), ID: "1a", Producer: "p1", Cluster: "kafka-a", Partition: "1", During: "m-1: done"}
	require.Equal(t, slow, v.Longest)
	require.Equal(t, []ProducerCount{
		{Producer: "p1", Sent: 5, Acknowledged: 3, Errors: 2, Longest: slow,
			Pause: Longest{Took: 20 * time.Second, Began: at(200), ID: "1e", Producer: "p1", Cluster: "kafka-a", Partition: "1", During: "m-2: holding"}},
		{Producer: "p2", Sent: 2, Acknowledged: 1, Errors: 1,
			Longest: Longest{Took: time.Second, Began: at(150), ID: "2a", Producer: "p2", Cluster: "kafka-a", Partition: "2", During: "m-1: done"},
			Pause:   Longest{Took: time.Second, Began: at(150), ID: "2a", Producer: "p2", Cluster: "kafka-a", Partition: "2", During: "m-1: done"}},
	}, v.Producers)
	stood := Longest{Took: 29 * time.Second, Began: at(151), ID: "2a", Group: "bill", Member: "c1", Cluster: "kafka-a", Partition: "2",
		During: "m-1: done m-2: preparing holding"}
	require.Equal(t, stood, v.LongestPause)
	require.Equal(t, stood, v.Groups[0].Pause)
	require.Equal(t, stood, v.Groups[0].Wait)
	for _, text := range []string{"7s", "+10.000s", "p1, kafka-a/1, 1a", "29s", "m-1: done m-2: preparing holding", "20s at +110.000s"} {
		require.Contains(t, v.String(), text)
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

func (h *hand) seal(t int64, ends map[string]int64) {
	h.add(Event{T: t * second, Op: OpSeal, Topic: "orders", Cluster: "kafka-a", Offsets: ends})
}

func (h *hand) fence(t int64) {
	h.add(Event{T: t * second, Op: OpFence, Topic: "orders", Cluster: "kafka-a"})
}

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
