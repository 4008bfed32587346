// Package remoting speaks RocketMQ's remoting protocol: frames, stored messages, a client with one multiplexed
// connection per address, and typed calls for what a consumer, an administrator and a test environment need.
//
// The codec (Command, ReadCommand, Message, the types of bodies) stands by itself: a server reads requests and writes
// answers with it. The client is built on it and knows nothing of groups, routes or retries; that is one package up.
//
// What is spoken: name server and broker of RocketMQ 4.9 and 5.x with their JSON and ROCKETMQ header codecs; ACL
// signatures; stored messages of both versions, IPv4 and IPv6 hosts, bodies plain or compressed with zlib.
// Not done: bodies compressed with LZ4 or ZSTD (Message.Content refuses them), inner batches (batch consume queues),
// POP, static topics, transactions.
package remoting
