// Package consumer reads topics by group, wherever their messages are. Applications use it through the root package.
//
// # Which clusters are read
//
// A route lists stays: the clusters that the topic has been on and that may still hold unread messages. A group reads
// all of them at once; a group with order "key" on a topic with order "key" reads sealed stays one after the other, up
// to the seal (R20), but waits for none on a cluster that is dead in the route (R31). plan.go holds that rule as a function.
//
// A cluster that is not written to any more is left when the group has finished it, asked of the broker (positions,
// then delayed messages and retries, then end offsets: R14, R10), and nothing new came for the linger time (R16). While
// the stay is open it is looked at again every minute and at start, and attached again if something came.
//
// # What is between a message and its listener
//
//	driver → claim (one goroutine a partition) → workers (Concurrency of the group) → listener
//	                     └ tracker: position = lowest unfinished message (R15)
//
// A claim hands messages over in order; several of one partition may be handled at the same time. With order "key" the
// messages of one key wait for each other. A claim ends only after its listeners have returned, so a partition is never
// handled by two members for longer than the broker allows a member to be silent.
//
// # When a listener fails
//
// Three attempts in the process, then the group's retry topic on the cluster the message came from, then its dead
// letter topic there. With order "key" all attempts are in the process, the key waits, and then comes the dead letter.
//
// # Shadow groups
//
// A subscription is on one side of the stress mark. A shadow group's (shadow.go) reads the shadow topics, with settings derived from
// its group's. A message of the other side is never shown to a listener: it goes to the dead letters at once, is counted
// and logged, and the participant node says so.
package consumer
