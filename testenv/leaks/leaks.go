// Package leaks knows the goroutines that the client libraries leave behind, for tests that look for leaks with goleak. Everything
// else that is left is a fault of ours.
package leaks

import "go.uber.org/goleak"

// Libraries ignores them. Sarama and RocketMQ's library begin one each for the whole process; RocketMQ's has four more for each
// client that was closed, which sleep for up to 10 s or hold a connection to a name server for up to two minutes.
func Libraries() []goleak.Option {
	var options []goleak.Option
	for _, f := range []string{
		"github.com/rcrowley/go-metrics.(*meterArbiter).tick",
		"github.com/patrickmn/go-cache.(*janitor).Run",
		rocketMQ + "internal.(*rmqClient).Start.func1.1",               // name servers: sleeps 10 s
		rocketMQ + "internal.(*rmqClient).Start.func1.2",               // routes: an update that is under way
		rocketMQ + "internal.(*rmqClient).Start.func1.3",               // heartbeats: sleeps 1 s
		rocketMQ + "internal.(*rmqClient).Start.func1.4",               // positions: sleeps 10 s
		rocketMQ + "internal/remote.(*remotingClient).receiveResponse", // a connection to a name server: 120 s
	} {
		options = append(options, goleak.IgnoreAnyFunction(f))
	}
	return options
}

const rocketMQ = "github.com/apache/rocketmq-client-go/v2/"
