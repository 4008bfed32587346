// Package rmqserver is Apache RocketMQ inside the test process: name servers and
// brokers that speak RocketMQ's remoting protocol over TCP on loopback, for
// unmodified clients (Apache's library for Go, mqadmin), without Java. They keep
// their data over a restart, and can go wrong on request.
//
//	names, err := rmqserver.StartNameServer(ctx, rmqserver.NameServerOptions{})
//	broker, err := rmqserver.StartBroker(ctx, rmqserver.BrokerOptions{
//		Cluster: "orders", NameServers: []*rmqserver.NameServer{names}})
//	// clients are told names.Addr()
//
// A cluster is the brokers that name it; several brokers register at one name
// server, and several clusters live in one process. Nothing is shared but what
// the options share.
//
// Stop and Restart play a kill -9 and the restart after it, on the same port.
// Topics, groups, messages, positions and transactions are kept in memory, or in
// a file (BrokerOptions.Dir) that survives the process. Freeze plays SIGSTOP, Cut
// breaks connections, Inject refuses, delays or cuts single requests or loses
// their answers, by code, topic and group. BrokerOptions.DelayFactor shortens the
// delay levels.
//
// Package remoting has the codec. Each file of requests says which codes it
// answers; a code that none does is answered with 3, as by a real server. Each
// server has one mutex, server.mu, for all its state: a request is carried out
// under it from begin to end, and answers are queued under it. testdata/real.txt
// is what a real 5.5.0 answers to a script of some three hundred requests; a test
// plays the script here and knows every difference (docs/embedded-rocketmq.md has
// the outcome).
//
// # What it leaves out
//
//   - Slaves, and all of high availability: controllers, acting masters,
//     asynchronous and synchronous flushing. A broker is a master that has stored
//     what it acknowledges.
//   - RocketMQ 5's proxy and gRPC, POP and its acknowledgements, recall, static
//     topics, light topics, batch consume queues, compaction, tiered and RocksDB
//     storage. timers.go says what of timers.
//   - Request and reply (324, 325), filters by SQL92 and by class, multi-tag
//     topics, message traces, broker containers.
//   - Permissions of users: without BrokerOptions.Users signatures are ignored,
//     with them a request must be signed, and who is a user may do everything.
//     ACL 1.0. TLS.
//   - Flow control: SYSTEM_BUSY and its like come from Inject only.
//   - Retention: messages stay until the broker is closed, or Trim removes them,
//     which frees memory of queues and not of the commit log. All of it is in
//     memory, also with a file.
//   - Rates, queue lengths and counters of the day, which are 0; attributes and
//     data versions of topics and groups, which are empty.
//   - At the name server: registration by request (103, 104), which brokers of
//     other processes would need, 217, its own settings (318, 319), lists by unit,
//     order topics in routes (as with orderMessageEnable=false).
//   - At the broker: 22, 23, 27, 60, 209 to 214, 220, 221, 223, 303, 307 to
//     309, 314, 315, 321 to 323, 345, 353 and what is above 361. So these commands
//     of mqadmin do not work: consumerStatus, queryCq, getNamesrvConfig,
//     updateNamesrvConfig, setConsumeMode, haStatus, those for cold data, RocksDB,
//     lite topics, users and ACLs, controllers and containers, and queryMsgById
//     with a consumer that shall consume it (-g, -d).
//   - Requests to clients other than 39 and 40.
//
// # What is otherwise than in a real broker
//
//   - What is acknowledged can be read at once; a real broker indexes it a moment
//     later. Requests of one connection are carried out in their order.
//   - Registration at the name server is immediate and never fails; a broker that
//     stops is forgotten at once.
//   - Positions are stored with the request; a real broker that is killed forgets
//     the last seconds, which LosePositions plays.
//   - Delayed messages come within 20 ms of their time and held pulls end so,
//     where a real broker takes 100 ms and up to 5 s.
//   - Deleting a topic succeeds; 5.5.0 without timer messages deletes it and
//     answers with an error.
//   - A topic has at most 65536 queues.
//   - transactions.go says how questions about transactions differ.
//
// As in a real broker, a consumer of Apache's library that is the first of its
// group finds no retry topic when it begins and looks again after half a minute:
// its first retries are late. A test that can not wait creates the topic
// %RETRY%group before.
package rmqserver
