// Package turnout sends and receives messages by topic and group name, on whatever cluster carries the topic at the
// moment: Apache Kafka or Apache RocketMQ. Which one is metadata in ZooKeeper. When that changes every running program
// follows, without a restart, without a failed send, and without leaving a message behind on the cluster that is left.
//
// # Begin
//
// Open a Client with the application's id and the address of ZooKeeper, then Send and Subscribe:
//
//	client, err := turnout.Open(ctx, turnout.Config{App: "order_service", ZooKeeper: "127.0.0.1:2181"})
//	...
//	defer client.Close(context.Background())
//	_, err = client.Subscribe(ctx, "order_bil_group", func(ctx context.Context, d *turnout.Delivery) error {
//		return bill(d.Body)
//	})
//	...
//	result, err := client.Send(ctx, "order_topic", &turnout.Message{Key: []byte("order-4711"), Body: order})
//
// Clusters, topics and groups are made with the command line (turnout cluster put, topic put, group put) or by whoever may
// write to ZooKeeper. Moving a topic is changing its node:
//
//	set /turnout/topics/order_topic {"cluster":"kafka-b"}
//
// # What is promised
//
// A Send that returned nil is handled at least once by every group of the topic, over any number of moves, crashes of
// applications and of ZooKeeper, and restarts of brokers. A message may be handled more than once; its ID is the same
// each time. Order by key is kept where topic and group ask for it. docs/guarantees.md has the list, with what each
// promise rests on and where it ends.
//
// # Stress tests
//
// What is sent with a ctx that carries the stress mark (package shadow) goes to shadow topics, and only shadow groups read
// it, with the same listeners. A flag in ZooKeeper starts and stops them while the program runs. See docs/shadow.md.
//
// # Without ZooKeeper
//
// While ZooKeeper is away everything goes on by the last good metadata. It is also kept in a snapshot file, from which a
// program starts that finds no ZooKeeper.
//
// # Errors
//
// Every error of this package can be compared with the sentinels ErrX by errors.Is; those of a ctx as usual.
package turnout
