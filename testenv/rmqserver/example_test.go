package rmqserver_test

import (
	"context"
	"fmt"
	"time"

	rocketmq "github.com/apache/rocketmq-client-go/v2"
	"github.com/apache/rocketmq-client-go/v2/primitive"
	"github.com/apache/rocketmq-client-go/v2/producer"

	"github.com/turnout-mq/turnout/broker/rocketmq/remoting"
	"github.com/turnout-mq/turnout/testenv/rmqserver"
)

// A cluster of one broker, an unmodified client, and a fault that a real broker
// does not show on demand: it is too busy for the first send.
func Example() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	names, err := rmqserver.StartNameServer(ctx, rmqserver.NameServerOptions{})
	must(err)
	defer names.Close()
	broker, err := rmqserver.StartBroker(ctx, rmqserver.BrokerOptions{
		Cluster: "shop", NameServers: []*rmqserver.NameServer{names}, AutoCreateTopics: true})
	must(err)
	defer broker.Close()

	p, err := rocketmq.NewProducer(producer.WithNameServer([]string{names.Addr()}), producer.WithInstanceName("example"),
		producer.WithSendMsgTimeout(time.Minute))
	must(err)
	must(p.Start())
	defer func() { _ = p.Shutdown() }()

	_, err = broker.Inject(rmqserver.Fault{Codes: rmqserver.SendCodes, Topic: "paid", Count: 1, Refuse: remoting.SystemBusy})
	must(err)
	for _, order := range []string{"order 6", "order 7"} {
		_, err := p.SendSync(ctx, primitive.NewMessage("paid", []byte(order)))
		fmt.Println(order, "acknowledged:", err == nil)
	}

	// What the topic has now.
	c := remoting.NewClient(remoting.Options{})
	defer c.Close()
	for id := range 4 {
		got, err := c.PullMessages(ctx, broker.Addr(), remoting.Pull{Group: "readers", Queue: remoting.Queue{Topic: "paid", Broker: "shop", ID: id},
			Max: 32, Subscription: remoting.NewSubscription("paid", "", 0)})
		must(err)
		for _, m := range got.Messages {
			fmt.Printf("stored: %s\n", m.Body)
		}
	}
	// Output:
	// order 6 acknowledged: false
	// order 7 acknowledged: true
	// stored: order 7
}
