// Package faulttest holds Turnout to its guarantees while things go wrong: topics move there and back, ZooKeeper, brokers
// and applications are killed, stopped and cut off, and afterwards no send has failed, nothing is lost and nothing is left
// on any cluster.
//
// It is tests only. The applications are processes of their own (package scene), so that they can be killed and stopped;
// they record what they send and handle, and package history judges it. The same cases run on every backend that
// TURNOUT_TEST names (package testenv). On the embedded one each case has an environment of its own; on servers they share
// one, and those that break something come one after the other, before the rest.
//
// Migrations are carried out by controllers that are processes too. Every state of a migration meets every fault (TestMatrix,
// make matrix, docs/fault-matrix.md), and topics move there and back while faults happen by chance (TestWalk, make walk);
// go test alone plays a few cells and some seconds of them.
//
// TURNOUT_SOAK=1 makes the cases as long as the promises are: flips for a minute, an outage of half a minute, 200 flips
// also on servers, 1,000 migrations. Without it they are as short as they can be and still show what they are to show.
//
// A case that fails shows what its applications logged last; go test -artifacts keeps their logs and histories.
package faulttest
