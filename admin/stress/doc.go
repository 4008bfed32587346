// Package stress carries out stress tasks: shadow groups, perhaps of several applications, that are started and stopped together.
// HTTP is not its affair.
//
//	(request) ──> preparing ──> ready ── Start ──> starting ──> running ── Stop, limit, guard, by hand ──> stopping ──> stopped
//	                                │                  ^                                                                  │
//	                                └── Remove         └────────────────────────── Start ─────────────────────────────────┤
//	                                                                          removed <── removing <── Remove ────────────┘
//
// A task is asked for by a request of the kind stress ([Service.Handler]). Its approval prepares it: the shadow topics that are missing
// are made, on their clusters first, and its flags are written to {shadow root}/{application}/{task}/{group} with "0". From then on whoever
// operates the platform, has filed the request or owns all its applications starts, stops and removes it.
//
// # Who writes what
//
// What shall be is decided in the store, by a change of the task's state at the version that was read. Then the flags are made what the
// state asks for, by whoever holds the lock "stress-{id}", with writes that succeed only at the version of the node that was read and
// only while the lock is held. Each step may be repeated; a server that dies between leaves the task in a state that the next one
// goes on from. One server at a time, the leader of the job "stress", goes on with what others have left and watches what runs.
//
// A flag of a running task that is switched by hand stays as it was put, and stands in the history. When none is on any more, the task
// has ended by hand. A task whose limit passed while no server ran is stopped as soon as one does.
//
// # Guards
//
// A guard looks at a group of production every [Config.GuardEvery], by asking its clusters (fleet.Service.LookAt). It trips when there is
// more unread than allowed; when more dead letters and retries have come within a minute than allowed; and when it could not look for
// the time that the task's blindSeconds says: nobody knows then how production fares. Looks are stored with the task, so that the minute
// does not begin anew with another server. A task is not started while a guard trips or can not look.
package stress
