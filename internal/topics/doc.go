// Package topics is one process's part in the routes of the topics it uses: it follows wish and route, completes
// wishes (protocol R30), holds the participant node and acknowledges in it what the process has applied (R3, R4, R6).
//
// A Topic has one View at any moment, the route in force for this process. Two things make it:
//
//	written route, answers the wish      → in force at once
//	wish not answered by the route       → its completion; in force as soon as this process could warm its write
//	                                       cluster, and written by whoever comes first
//
// A view is never replaced by an older one: metadata delivers routes in the order of their mzxid, and the completion
// is a function of the newest wish and route.
//
// The producer and each subscription of the process attach a Part to the topic. A part is told of new views and
// reports how far it has applied them; the participant node is the conjunction of the parts.
//
// Lock order: Set.mu, then Topic.mu. Neither is held while a part, the store or a cluster is called.
package topics
