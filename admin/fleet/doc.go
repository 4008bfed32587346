// Package fleet tells how applications and clusters are doing: which instances run, what they write and read on which route
// and which of them are behind, how much the groups have not read, and how fast it goes. It only looks: nothing is changed
// on a cluster or in ZooKeeper.
//
// # Looking
//
// The servers of the platform share the topics (coord.Sharded, job "monitor"); a topic belongs to the shard that its name's hash
// says. Every Config.Every a server looks at each topic of its shards: the topic's metadata, its participants, and on
// every cluster that its route has a stay on where it ends and how far each group that reads it is. Looks are bounded in time
// (Config.Limit) and number (Config.AtOnce on a server, Config.PerCluster on a cluster), and a cluster that does not answer is
// left alone for a moment, so that it holds up nobody else.
//
// What a look has seen replaces what the look before had, in the memory of the server that looked (Service.Snapshot) and in the SQL
// store, from which every server answers (the other methods of Service). So an answer is as old as its At says, in general not
// older than Config.Every and what a look takes; it ends when nobody looks any more.
//
// Lag is counted in offsets, as package internal/lag does, from what a cluster says of itself: where a partition ends in what is
// no message (markers of transactions, what compaction has emptied) these count, because telling them apart takes reading.
// Rates are the difference to the look before; the first look of a server at a topic has none.
//
// # Instances
//
// The instances of an application are read when they are asked for; what an instance says of each topic is of the last look.
// An instance is stale when it reports an error, or has not applied a topic's route for Config.StaleAfter. How long ago it said
// something is no sign of anything: it speaks when something changes.
package fleet
