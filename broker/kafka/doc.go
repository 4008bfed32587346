// Package kafka is the driver for Apache Kafka (and what speaks its protocol), on top of sarama.
//
// # Connections
//
// A cluster has one client for questions (metadata, offsets, groups, administration), one for sending, made at the
// first Warm or Send, and one for each membership; a question never waits behind a send or the other way round. All
// their connections are opened by one dialer, so that Close can end what no longer answers.
//
// # Properties
//
//	send.timeout       10s    a send is answered or given up within this
//	linger             0      how long a send waits for company in its batch
//	message.max.bytes  1 MiB  key, body and headers of a message, and messages of a batch; larger is ErrTooLarge
//	compression        none   or gzip, snappy, lz4, zstd
//	isolation.level    read_uncommitted, or read_committed
//	session.timeout    10s    a member that is silent for so long loses its partitions
//	heartbeat          1s     less than half of session.timeout; a member notices a change in its group within this
//	rebalance.timeout  1m     what listeners have to finish when partitions go to somebody else
//	commit.interval    500ms  Features.CommitInterval
//	version            2.8.0  the newest protocol to speak; newer brokers understand it
//
// # What a message becomes
//
// Key, body and headers are the record's key, value and headers; the partition of a key is the Java client's
// (murmur2), messages without a key go to the partitions by turns. Turnout's own parts are record headers:
//
//	turnout-id            Message.ID
//	turnout-tag           Message.Tag
//	turnout-shadow        "1" when Envelope.Shadow
//	turnout-attempt       Envelope.Attempt, decimal, from 1 on
//	turnout-origin        Envelope.Origin
//	turnout-due           Delivery.Due: milliseconds since 1970 (retry topics)
//	turnout-origin-topic  the physical topic that a retry or a dead letter was first read from
//	turnout-cause         one line: why a dead letter is one
//
// The offset in a Receipt is -1 where the broker found a repeated send to be stored already and did not say where.
//
// Records of other producers have none of them and are read as they are: no ID, and a null value is a nil body.
// Header names that begin with "turnout-" and are not listed here are left out of Message.Headers.
//
// # Retries and dead letters
//
// The retry topic of a group is retry_{group}, with as many partitions as its topic, at most 8; it is made by Join
// (Membership.Retries) or by the first Retry. The dead letter topic is dlq_{group}, with one partition, made by the
// first DeadLetter. Both get max.message.bytes of the topic and 16 KiB for the headers that are added; retention is
// the broker's default, which is what bounds the time to look at a dead letter.
//
// # Groups
//
// A group has no position on a partition until its first assignment stored one: Setup asks for the positions of all
// claims, stores what Membership.Start says (or the first offset) where there is none, where it lies beyond the end or
// below the first offset, and asks again until it shows. Only then is anything read. The strategy is range, eager:
// a cooperative one adds partitions without asking for their positions first.
//
// # Fences and looking
//
// A fence is max.message.bytes=0 of the topic. Leaders act on it some milliseconds after the setting was accepted, one after
// the other, so each is asked with a produce request that no broker can store: a control batch, which clients may not write,
// without a record. A fenced leader refuses it for its size (MESSAGE_TOO_LARGE), which it looks at first, an open one for
// what it is (INVALID_RECORD, and perhaps a line in its log). That takes WRITE on the topic; without it DESCRIBE_CONFIGS is
// asked of each leader, and two readings of the end offsets must agree. Fence and Unfence take ALTER_CONFIGS.
//
// Peek fetches without a group, as the isolation level says. Markers of transactions and batches that compaction has emptied
// are behind it when the next message, or the end, is. Groups lists those of every broker that is up.
//
// # Limits
//
// The end offset of a partition that is written by transactions counts their markers; nobody reads those, so the
// position of a group may stay short of the end by the last markers; Peek tells that nothing else is there. Turnout itself
// never uses transactions. Peek does not read messages in the format of Kafka 0.10 and earlier (ErrUnsupported).
//
// Kafka refuses a batch that is larger than the topic's max.message.bytes, also where each message of it would fit.
// The driver therefore never has more than that in flight to a topic whose limit is below its own
// (property message.max.bytes).
package kafka
