// Package metadata is what Turnout keeps in ZooKeeper: the documents (Wish, Route, TopicSettings, Cluster, Group,
// Instance, Participant, ShadowFlag), the Store that reads, follows and writes them, and the operations of people and tools.
//
//	{Root}/ensemble                          {"id":"…","succeeds":["…"]}   which ZooKeeper this is (Store)
//	{Root}/topics/{topic}                    Wish      what people and tools ask for
//	{Root}/topics/{topic}/route              Route     what is in force; written by Turnout only
//	{Root}/topics/{topic}/settings           TopicSettings
//	{Root}/clusters/{cluster}                Cluster
//	{Root}/groups/{group}                    Group
//	{Root}/apps/{app}/instances/{id}         Instance      ephemeral
//	{Root}/participants/{topic}/{id}         Participant   ephemeral
//	{ShadowRoot}/{app}/{task}/{group}        ShadowFlag    {"enable":"1"}; anybody may write it
//
// # Documents
//
// Parse functions accept a JSON object of at most MaxDocument bytes, fill in the defaults, and refuse with every reason
// at once (ErrInvalid; ErrTooLarge). Field names are matched exactly. Fields that this version does not know stay in
// Extra and are written again. A document of another version "v" is refused as a whole; without "v" it is version 1.
//
// # Wish and route
//
// A wish that the route does not answer yet is completed to a route by Complete, one pure function: the same whoever
// computes it. See its comment for the rules.
//
// # Store
//
//	zk library ──callback──► session loop ──► Session, gate for requests ──► OnSession (own goroutine, in order)
//	                               │
//	                               └──wake──► one goroutine per Follower ──► fn
//
// The session loop adds the digest to a first connection, reads which ensemble it is, and only then lets requests
// through. Each Follower has a goroutine of its own, so a slow fn holds up nobody else. It reads again after a notice,
// after every reconnect, in every new session, and looks at the node (exists) every Recheck ± 50 %, because the library
// can lose a watch silently.
//
// What a Follower guarantees: calls of fn are sequential; a value never goes back (older mzxid) within an ensemble; the
// last good value stays when the node is deleted, invalid, or another ensemble answers, unless it is followed WithoutMemory;
// notices coalesce.
//
// Failure by failure: disconnected: values stay, marked Stale. Session expired: the same, and everything is read again in
// the new session; ephemeral nodes are created again by whoever called Registration.Ensure, on OnSession. ZooKeeper
// never reached: values of the snapshot, marked Stale. Another ensemble: values stay, Err says so. A ZooKeeper that was
// set up anew or restored refuses clients that have seen later changes: after a session timeout of refusals the Store gives
// its session up and begins a new one.
//
// # Permissions
//
// With Config.AuthScheme "digest" the identities in the secret are added to every connection, and every node that the Store
// creates, parents included, carries one ACL: all permissions for those identities. An application then needs an identity that
// may create below apps/ and participants/; writing topics/*/route is optional. Nodes made without authentication are open
// to everybody. Of nodes that exist only Protect changes the ACL. With Config.TLS connections are encrypted; a certificate of
// ours opens the door, and is no identity.
package metadata
