// Package reconcile compares what the platform wants (the catalog in SQL), what ZooKeeper says and what the clusters have, and shows each
// difference with what can be done about it. It repairs nothing by itself.
//
// # Looking
//
// The servers of the platform share all clusters, topics and groups (coord.Sharded, job "reconcile"); a name's hash says to which shard
// it belongs. Every Config.Every (5 s) a server compares the catalog with ZooKeeper for its shards, so that an edit by hand is shown
// within seconds. No shard is read for more than a fifth of the time: where reading takes longer than a second, the time from look to look
// is five times that. What a topic is on its cluster is asked every Config.BrokerEvery (5 min).
//
// A difference is stored only after it was looked at a second time, and the catalog has not changed meanwhile. What is under
// way is none: a thing that is being created or deleted, that an approved request is about, that waits in the outbox, a topic that
// is moved by a migration. A request that has failed hides nothing, and a migration that settles an edit by hand neither. Shadow
// topics and groups need not be in the catalog.
//
// # What differs, and the choices
//
//	edited    ZooKeeper has another document than the catalog       publish  adopt  ignore
//	missing   the catalog has it, ZooKeeper does not                publish  adopt  ignore    adopt: out of the catalog
//	unknown   ZooKeeper has it, the catalog does not                         adopt  ignore
//	absent    the cluster that the topic is on does not have it     publish         ignore    publish: create it there
//	settings  partitions, replicas or settings on it differ                  adopt  ignore
//
// Publish makes ZooKeeper, or the cluster, what the catalog has; adopt makes the catalog what is there; ignore leaves both until one of
// them changes. What is unknown is never deleted by a choice: adopt it, then ask for its deletion, which looks who uses it.
// Settings on a cluster are never written: who changes them there adopts them here. What is acted upon is looked at again before,
// under the lock that requests have too, and refused if it is not what was shown (ErrConflict).
//
// Documents are shown without what looks like a secret, and one that has such a thing is not adopted.
package reconcile
