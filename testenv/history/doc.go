// Package history records what applications send and handle, and holds the record against Turnout's guarantees.
//
// Each process writes one file of JSON lines (Recorder). Afterwards, or while they run, the files of all processes are
// read together (Load, Read, Follower), and Check says by name what was lost, left unread, handled twice, out of order, leaked
// or sent to a cluster that had been left, and how long sends and consumption stood still. "turnout check" is its command.
//
//	rec, _ := history.Create(dir, "order_service-1")
//	defer rec.Close()
//	s := rec.Send(history.Message{ID: id, Topic: "order_topic", Key: "k7", Seq: 12}) // then call Send
//	s.OK("kafka-a", "3", 4711)                                                       // or s.Fail(err), s.Unknown(err)
//
//	h := rec.Recv("order_bil_group", history.Message{ID: id, …}, history.Place{Cluster: "kafka-a", …}) // first in the listener
//	h.Done()                                                                          // last in it, or h.Retry(err)
//
//	events, _ := history.Load(dir)
//	verdict := history.Check(events, history.Options{Groups: []history.Group{{Name: "order_bil_group", Ordered: true}}})
//	fmt.Println(verdict)
//
// # Format
//
// One line per event: {"t","op","id","topic","key","seq","producer","group","member","cluster","partition","offset",
// "attempt","route","move","state","offsets","shadow","ordered","partial","error"}; what is empty is left out. What applications do:
//
//	send      the application is about to call Send                           id, producer, topic, key, seq, shadow
//	ok        Send returned nil                                               id, cluster, partition, offset, route
//	fail      Send returned an error and the message was certainly not stored id, error
//	unknown   Send returned an error and the message may have been stored     id, error
//	recv      a listener begins to handle                                     id, group, member, topic, key, seq, shadow, cluster, partition, offset, attempt
//	done      it ends, returning nil: the message is handled                  id, group, member
//	retry     it ends, returning an error: the message is to come again       id, group, member, error
//
// A message is handled only with done: a process that dies within its listener has not handled it. G2 speaks of the end
// of one handling and the beginning of the next, which is why a handling is two events.
//
// What is done to topics, groups and processes, by whoever moves, kills or runs the test; each may be absent:
//
//	route     a route of the topic is in force                                topic, cluster (write), route (its mzxid)
//	move      a migration has entered a state                                 topic, move, state
//	fence     the cluster was seen to refuse every message of the topic       topic, cluster, shadow
//	seal      the topic ends there: the first offset that is not part of it   topic, cluster, shadow, offsets {"partition": end}
//	open      the cluster is about to take messages of the topic again        topic, cluster, shadow, offsets {"partition": start}, if known
//	rescue    the message found there is sent again to another cluster        id, cluster, partition, offset
//	kill      a process was killed                                            member
//	group     what is expected of a group, one line a topic                   group, topic, shadow, ordered, partial
//
// # Verdicts
//
// They follow Jepsen's Kafka workload, with a group in the place of its single consumer, and with the clusters of a move. The guarantee
// is that of docs/guarantees.md.
//
//	lost                  G1  acknowledged, and never handled by a group that should have. The next two say where some of them are
//	  stranded            G1  … still unread on a cluster that the topic has left: the group read nothing from there on
//	  unseen              G1  … still unread on the cluster in force: the group read nothing from there on, or ended too early
//	poll-skip             G1  a group read on past an offset that another group saw, whatever Send said of that message
//	inconsistent offsets  G1  two messages were read from one offset
//	after the seal        G1  stored at or behind the end that a seal names, and before the cluster was opened again
//	late                  G1  a send that began after its cluster was fenced or left was acknowledged there
//	denied                G1  handled, though Send said that it was not stored (Jepsen: aborted read)
//	duplicate             –   handled again without having failed; at least once allows it. Cause says why
//	reordered             G2  Send(m) returned before Send(m') of the same key was called, and the first handling of m' began before
//	                          the first one of m ended. Rescued messages have no place in the order
//	failed, unknown, slow G3  an error of Send, or a send that took longer than allowed
//	leaked                G5  a stress message at a production group, or the other way round
//
// rules.go has all of them. The cluster in force is that of the last route; without any, that of the topic's last
// acknowledgement. Offsets are compared where partition and offset are known and the message did not come from a retry topic.
// The order in which one group reads the offsets of a partition is not judged: its members handle several at a time, and a
// partition that changes hands is read again from its position. Order by key is what is promised.
//
// A verdict needs an end: groups that were stopped before they had read everything leave lost and unseen messages.
//
// # Pauses
//
// For each producer: its longest send, and the longest time in which it had something to send and nothing was acknowledged. For
// each group: the longest time in which something acknowledged waited for it and it neither began nor ended a handling; and
// the longest time from an acknowledgement to the first handling. Each with when, which message, where, and the states that
// migrations of the topic were in. What never had an outcome, or was never handled, makes no pause: it has a verdict.
//
// # Time
//
// t is the machine's clock in nanoseconds since 1970; all processes run on one machine. A send is stamped before the
// call, an outcome after it, a recv and a done inside the listener; so what the checker calls out of order was so. In
// one file stamps strictly increase. A clock that is set back during a run breaks that, and Load refuses the file.
//
// # Crashes
//
// Every event is one write to the file before the recorder's method returns, so kill -9 of the process loses no event
// that was recorded (a crash of the machine may). A last line without its end is the trace of a process that died while
// writing; it is left out. Anything else that can not be read is an error that names file:line. A send without outcome or a
// handling without end is right for a process that was killed and for no other: kill events and Options.Killed name those.
//
// # Size
//
// The events of a run are held in memory: some 650 bytes a record with what Check needs. A million records take two to
// four seconds on two cores (BenchmarkMillionRecords).
package history
