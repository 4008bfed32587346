// Package testenv runs whole environments on loopback for tests, examples and demos: ZooKeeper, Kafka clusters
// and RocketMQ clusters, with faults. The SDK never imports it.
//
// Two backends stand behind one type, so that one test runs on both:
//
//   - Embedded: in process, pure Go, real wire protocols, nothing to install. Kafka is franz-go's kfake,
//     ZooKeeper is package zkserver, RocketMQ package rmqserver.
//   - Servers: Apache ZooKeeper, Kafka and RocketMQ as child processes. It needs Java 17 and, the first time,
//     Maven: the jars that servers/pom.xml pins are copied to TURNOUT_SERVERS_DIR (default: the folder
//     turnout in os.UserCacheDir), once on a machine. After that it works offline.
//
// The environment variable TURNOUT_TEST chooses what Each and EachOf run on: embedded (the default), servers
// or all. A backend that was asked for and does not start fails the test; nothing is skipped.
//
// # Nodes and faults
//
// A node is what can be stopped, killed, paused or cut by itself: "zookeeper", or "zookeeper-1" to
// "zookeeper-3" when Spec.ZooKeeper is 3; every Kafka cluster under its own name; for a RocketMQ cluster
// "rocketmq-a" its "rocketmq-a/namesrv" and "rocketmq-a/broker", with more brokers "rocketmq-a/broker-2" and so
// on. The name "rocketmq-a" means all its nodes and "zookeeper" all servers of the ensemble.
//
// A server that is started again has the same addresses and its data. What the backends do in a fault:
//
//	fault   Servers                                  Embedded
//	Stop    SIGTERM; RocketMQ's broker: SIGKILL,     connections break, data is kept
//	        because it takes 8 to 14 s to end
//	Kill    SIGKILL                                  the same as Stop
//	Pause   SIGSTOP                                  nothing is read and nothing is written
//	Cut     connections are reset, new ones refused  the same
//	Delay   every direction waits                    the same
//
// An ensemble of ZooKeeper serves while a majority of its three nodes runs, and disconnects everybody once when
// its leader goes: on Embedded, one server behind three ports plays that. So Restart of one node fails,
// when ctx ends or after two minutes, if the other two are down; Restart of "zookeeper" starts all three.
//
// Cut and Delay act on a TCP relay in front of the node: ZooKeeper always has one, Kafka and RocketMQ have one
// when Spec.Proxy is set. They act on clients only; the servers of an ensemble, or a broker and its name
// server, reach each other directly.
//
// # Processes
//
// Every server process leads a process group of its own. A supervisor, a small shell child, kills them all
// when its standard input ends: also when the test process is killed with SIGKILL no server is left.
//
// The package needs a Unix system; Spec.Proxy with RocketMQ on Servers also needs that 127.0.0.2 is a
// loopback address, as it is on Linux.
package testenv
