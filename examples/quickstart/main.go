// Command quickstart sends an order a second and receives it again, on whatever cluster order_topic is at the moment.
//
//	TURNOUT_ZOOKEEPER=127.0.0.1:2181 go run ./examples/quickstart
//
// Topic and group must exist: "turnout demo --stay" makes them, and everything below them, on this machine.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"time"

	"github.com/turnout-mq/turnout"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run() error {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	client, err := turnout.Open(ctx, turnout.Config{App: "quickstart", ZooKeeper: os.Getenv("TURNOUT_ZOOKEEPER")})
	if err != nil {
		return err
	}

	_, err = client.Subscribe(ctx, "order_bil_group", func(_ context.Context, d *turnout.Delivery) error {
		fmt.Printf("received %s from %s\n", d.Body, d.Cluster)
		return nil
	})
	for n := 1; err == nil; n++ {
		var sent turnout.SendResult
		sent, err = client.Send(ctx, "order_topic", &turnout.Message{Key: fmt.Appendf(nil, "customer-%d", n%10), Body: fmt.Appendf(nil, "order %d", n)})
		if err == nil {
			fmt.Printf("sent order %d to %s\n", n, sent.Cluster)
		}
		select {
		case <-time.After(time.Second):
		case <-ctx.Done():
			return client.Close(context.Background())
		}
	}
	return errors.Join(err, client.Close(context.Background()))
}
