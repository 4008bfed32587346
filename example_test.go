package turnout_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/turnout-mq/turnout"
	"github.com/turnout-mq/turnout/broker"
	"github.com/turnout-mq/turnout/broker/drivers"
	"github.com/turnout-mq/turnout/metadata"
	"github.com/turnout-mq/turnout/testenv"
)

// A program sends and receives while somebody moves the topic to another cluster.
func Example() {
	orders := startOrders("kafka-a", "kafka-b")
	defer orders.stop()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()

	client, err := turnout.Open(ctx, turnout.Config{App: "order_service", ZooKeeper: orders.zookeeper, SnapshotDir: orders.dir})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer client.Close(ctx)
	received := make(chan string, 100)
	_, err = client.Subscribe(ctx, "order_bil_group", func(_ context.Context, d *turnout.Delivery) error {
		received <- d.Cluster
		return nil
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	// sendUntil sends until the topic is on cluster and what was sent there has come back.
	sendUntil := func(cluster string) {
		for {
			sent, err := client.Send(ctx, "order_topic", &turnout.Message{Key: []byte("order-4711"), Body: []byte("12 apples")})
			if err != nil {
				fmt.Println(err)
				return
			}
			if from := <-received; from == cluster && sent.Cluster == cluster {
				fmt.Println("sent to and received from", cluster)
				return
			}
		}
	}
	sendUntil("kafka-a")
	orders.edit("/turnout/topics/order_topic", `{"cluster":"kafka-b"}`)
	sendUntil("kafka-b")
	// Output:
	// sent to and received from kafka-a
	// sent to and received from kafka-b
}

func ExampleOpen() {
	orders := startOrders("kafka-a")
	defer orders.stop()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()

	client, err := turnout.Open(ctx, turnout.Config{
		App:         "order_service",
		ZooKeeper:   orders.zookeeper, // "host:port,host:port[/chroot]"
		SnapshotDir: orders.dir,
	}, turnout.WithSessionTimeout(6*time.Second))
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println("open")
	if err := client.Close(ctx); err != nil {
		fmt.Println(err)
	}
	_, err = client.Send(ctx, "order_topic", &turnout.Message{Body: []byte("too late")})
	fmt.Println("closed:", errors.Is(err, turnout.ErrClosed))

	_, err = turnout.Open(ctx, turnout.Config{App: "no spaces", ZooKeeper: orders.zookeeper})
	fmt.Println("invalid:", errors.Is(err, turnout.ErrInvalid))
	// Output:
	// open
	// closed: true
	// invalid: true
}

func ExampleClient_Send() {
	orders := startOrders("kafka-a")
	defer orders.stop()
	client := orders.open("order_service")
	defer client.Close(context.Background())

	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second) // a send waits and repeats until then
	defer cancel()
	sent, err := client.Send(ctx, "order_topic", &turnout.Message{
		Key:     []byte("order-4711"), // messages of one key go to one partition
		Body:    []byte(`{"apples":12}`),
		Headers: []turnout.Header{{Name: "currency", Value: "EUR"}},
		Tag:     "created",
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println("stored on", sent.Cluster, "with an id of", len(sent.ID), "characters")

	_, err = client.Send(ctx, "oder_topic", &turnout.Message{Body: []byte("a slip of the pen")})
	fmt.Println("unknown topic:", errors.Is(err, turnout.ErrUnknownTopic))
	// Output:
	// stored on kafka-a with an id of 32 characters
	// unknown topic: true
}

func ExampleClient_SendAsync() {
	orders := startOrders("kafka-a")
	defer orders.stop()
	client := orders.open("order_service")
	defer client.Close(context.Background())

	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	const n = 100
	outcomes := make(chan error, n) // done must not block
	for i := range n {
		client.SendAsync(ctx, "order_topic", &turnout.Message{Body: fmt.Appendf(nil, "order %d", i)}, func(_ turnout.SendResult, err error) {
			outcomes <- err
		})
	}
	stored := 0
	for range n {
		if err := <-outcomes; err != nil {
			fmt.Println(err)
			continue
		}
		stored++
	}
	fmt.Println(stored, "stored")
	// Output: 100 stored
}

func ExampleClient_Subscribe() {
	orders := startOrders("kafka-a")
	defer orders.stop()
	client := orders.open("order_service_consumer")
	defer client.Close(context.Background())

	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	done := make(chan struct{})
	attempts := 0
	subscription, err := client.Subscribe(ctx, "order_bil_group", func(_ context.Context, d *turnout.Delivery) error {
		if attempts++; attempts == 1 {
			return errors.New("the database is away") // the message comes again
		}
		fmt.Printf("%s of %s from %s\n", d.Body, d.Key, d.Cluster)
		close(done)
		return nil
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	if _, err := client.Send(ctx, "order_topic", &turnout.Message{Key: []byte("order-4711"), Body: []byte("12 apples")}); err != nil {
		fmt.Println(err)
		return
	}
	<-done
	if err := subscription.Close(ctx); err != nil {
		fmt.Println(err)
	}
	stats := subscription.Stats()
	fmt.Println("handled", stats.Handled, "failed", stats.Failed)
	// Output:
	// 12 apples of order-4711 from kafka-a
	// handled 1 failed 1
}

// orders is what the examples run on: embedded servers with order_topic on the first of some clusters, and the group
// order_bil_group. Where that can not be had there is nothing to show: its methods panic.
type orders struct {
	zookeeper string
	dir       string
	env       *testenv.Env
	store     *metadata.Store
}

func startOrders(clusters ...string) *orders {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	o := &orders{env: try(testenv.Start(ctx, testenv.Spec{ZooKeeper: 1, Kafka: clusters})), dir: try(os.MkdirTemp("", "turnout-example-"))}
	o.zookeeper = o.env.ZooKeeper()
	o.store = try(metadata.Open(metadata.Config{ZooKeeper: o.zookeeper, SessionTimeout: time.Minute}))
	for _, name := range clusters {
		must(o.store.PutCluster(ctx, name, metadata.Cluster{Kind: broker.Kafka, Addresses: o.env.Addresses(name)}))
		c := try(drivers.Open(ctx, broker.Config{Name: name, Kind: broker.Kafka, Addresses: o.env.Addresses(name), ClientID: "example"}))
		must(c.CreateTopic(ctx, "order_topic", broker.TopicSpec{Partitions: 4}))
		must(c.Close(ctx))
	}
	try(o.store.PutTopic(ctx, "order_topic", metadata.PutTopic{Cluster: clusters[0]}))
	g := metadata.DefaultGroup()
	g.Topics = []string{"order_topic"}
	must(o.store.PutGroup(ctx, "order_bil_group", g))
	return o
}

func (o *orders) open(app string) *turnout.Client {
	return try(turnout.Open(context.Background(), turnout.Config{App: app, ZooKeeper: o.zookeeper, SnapshotDir: o.dir}))
}

// edit writes a node as a person would.
func (o *orders) edit(path, data string) {
	must(o.store.Set(context.Background(), path, []byte(data), metadata.AnyVersion))
}

func (o *orders) stop() {
	must(o.store.Close(context.Background()))
	must(o.env.Close())
	must(os.RemoveAll(o.dir))
}

func must(err error) {
	if err != nil {
		panic(err)
	}
}

func try[T any](v T, err error) T {
	must(err)
	return v
}
