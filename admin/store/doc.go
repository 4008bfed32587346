// Package store is the SQL store of the platform. It is what a server that takes over continues from, so it is written before
// ZooKeeper, and before a broker is told anything that can not be told twice. In it are
//
//   - migrations with their history, the fences that are wanted, receipts;
//   - requests with their history, policies and allotment rules, the outbox: what is to be written to ZooKeeper, and the notices that
//     the webhook has not taken yet;
//   - stress tasks with their history;
//   - the catalog: the clusters, topics and groups that the platform manages, as they are wanted;
//   - users, owners of applications, tokens and sessions, of which only hashes are stored;
//   - what was last seen of topics and groups ([Finding]), and what differs from the catalog ([Drift]);
//   - the audit ([Audit]): every change of people, in the transaction of the change;
//   - calls that were made with a key ([KeyedCall]), for a day, and small settings.
//
// A store is a file of SQLite, for the servers on one machine, or a database of PostgreSQL, for servers on many
// (see [Open]). Both behave the same; the same tests run on both.
//
// # Who may write
//
// Several servers work on one store, and one of them may believe for a while that it still leads. So every row that matters
// is guarded:
//
//   - A migration has a version. [Store.Update] writes only what was read at that version, all of its changes or none.
//   - A fence has a version too ([Store.PutFence]), and it belongs to the newest migration that wrote it: a change by an
//     older one is refused, because two migrations of one topic never run at the same time.
//   - What people ask for ([Store.Ask], [Store.Pause], [Store.Resume]) raises the version, so a controller that did not see
//     it can not write over it.
//   - Requests, items of the catalog, users, policies, rules and differences have versions, too: a change names the one that was read.
//   - A call with a key has a turn: what another server has taken over changes nothing any more.
//
// # Errors
//
// All methods may be called concurrently and end with the error of ctx when ctx ends. Sentinels of internal/errs:
// ErrInvalid (an argument, named in the text), ErrNotFound, ErrConflict (somebody else was faster: read again, decide
// again; ErrChanged where that is a version), ErrClosed (after Close). After any other error, that of ctx included, a change may have happened or not: read
// again. A database that is locked and a transaction that PostgreSQL could not order are tried again inside, for up to 30
// seconds.
package store
