// Package producer sends messages to the cluster that a topic's route names. Applications use it through the root
// package.
//
// # From send to cluster
//
// Each topic has one target: the cluster that its next send goes to, opened and warmed. Choosing the target and being
// counted on it is one step under a read lock; replacing it is one step under the write lock. So a target that was
// replaced knows exactly which sends still use it, and the route is acknowledged when the last one has ended (R6).
// Every new view gets a new target, also when the cluster is the same, because what must have ended is "every send
// begun under an older route".
//
// A target is replaced only after the next cluster was warmed. When that fails the old one stays, the trouble is
// reported in the participant node, and warming is repeated with backoff.
//
// # When a send fails
//
//	Retry     again with backoff, to whatever the target is by then, until ctx ends. The message keeps its id:
//	          after an unknown result it may be stored twice, never lost
//	Refused   by a fence, or too large: DescribeTopic tells (R26). A fence: read the route anew, go where it says
//	Fatal     returned, except that an unknown topic is looked for at the route's newest cluster first
//
// # Order
//
// Sends of one key that do not overlap keep their order as long as the topic stays on one cluster. On topics with
// order "key" asynchronous sends of one key wait for each other, so that one that has to be repeated keeps the later ones
// behind it (R24).
//
// # Shadow
//
// A producer is on one side. That of production refuses shadow topics; one from NewShadow marks every message, and sends it to
// the shadow topic of the topic that was named, to nowhere else.
package producer
