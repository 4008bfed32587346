// Package rocketmq is the driver for Apache RocketMQ 4.9 and 5.x (name servers and brokers; the gRPC proxy is not
// needed).
//
// Sending goes through github.com/apache/rocketmq-client-go/v2; consuming and administration are this package's own, over
// the remoting package. Why, with measurements: docs/rocketmq-consumption.md.
//
// What is felt of the library: a send whose connection is lost fails only after 3 s; after Close four of its goroutines
// sleep for up to 10 s and one holds a name server connection for up to two minutes; its logger is one for the process and
// is set at the first Open (it writes at debug level to the logger of the cluster that was opened last); TLS is refused
// (ErrUnsupported), because the library checks no certificate.
//
// # What a message becomes
//
//	Key      property turnout-key, or turnout-key-b64 when it is not plain text ("=": an empty key)
//	Headers  properties; the names of those with an empty value in turnout-empty, since brokers drop them
//	Tag      TAGS
//	ID, Shadow, Attempt, Origin, …  turnout-id, turnout-shadow, turnout-attempt, turnout-origin
//	Delay    DELAY, the number of the first level that is not shorter; Receipt.Offset is then -1
//
// Attempt is the broker's reconsume count plus turnout-attempt. Due of a retry is when its broker gave it back, which it
// does when it is due. RocketMQ's own properties are not shown as headers, and
// headers arrive sorted by name. A key goes to queue murmur2(key) mod n of the n queues that can be written, ordered by
// broker and number: order by key holds as long as n stays the same. A broker that is down counts, for an hour after this
// process has seen it: sends of its keys fail (transient) and go nowhere else.
//
// # Groups
//
// A member has connections of its own, so that it is one client to the brokers. It divides queues exactly as the Java
// and Go libraries do (AllocateMessageQueueAveragely over the sorted client ids) and can share a group with them.
// Between two owners of a queue some messages may be delivered twice; Membership.Exclusive takes the broker's queue
// lock, which a member that died keeps for up to 60 s.
//
// A name server forgets a broker that is down and with it its queues. What is asked of a topic then fails, for an hour
// after this process has last seen the broker, rather than to leave those queues out.
//
// # Transactions of others
//
// Turnout sends none. OpenTransactions reads the brokers' own topics of half messages, which takes the right to read
// them; a broker that keeps half messages in RocksDB (transRocksDBEnable) can not be asked.
//
// # Limits
//
// Positions live in the broker's memory and are written to its disk every 5 s (its setting flushConsumerOffsetInterval):
// after a crash of the broker they may be older than what Commit stored, until a member that lived on stores them again, some
// seconds later. Queues are read from masters only. Messages
// that others send with RocketMQ 5's timer (any delay, not a level) are in no queue until they are due; Pending counts them.
package rocketmq
