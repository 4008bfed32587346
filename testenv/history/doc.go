// Package history records what applications send and handle, and holds the record against Turnout's guarantees.
//
// Each process writes one file of JSON lines (Recorder). Afterwards, or while they run, the files of all processes are
// read together (Load, Follower), and Check says by name what was lost, handled twice, out of order, leaked or
// sent to a cluster that had been left.
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
// "attempt","route","shadow","error"}; what is empty is left out.
//
//	send      the application is about to call Send                           producer, topic, key, seq, shadow
//	ok        Send returned nil                                               cluster, partition, offset, route
//	fail      Send returned an error and the message was certainly not stored error
//	unknown   Send returned an error and the message may have been stored     error
//	recv      a listener begins to handle                                     group, member, topic, key, seq, shadow, cluster, partition, offset, attempt
//	done      it ends, returning nil: the message is handled                  group, member
//	retry     it ends, returning an error: the message is to come again       group, member, error
//
// A message is handled only with done: a process that dies within its listener has not handled it. G2 speaks of the end
// of one handling and the beginning of the next, which is why a handling is two events.
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
// writing; it is left out. Anything else that can not be read is an error. A send without outcome or a handling without
// end is right for a process that was killed and for no other: Options.Killed names those.
package history
