package rocketmq_test

import (
	"os"
	"testing"

	"go.uber.org/goleak"
)

// What the library leaves behind after its Shutdown, by function; doc.go says for how long.
var leftByLibrary = []goleak.Option{
	goleak.IgnoreAnyFunction("github.com/apache/rocketmq-client-go/v2/internal.(*rmqClient).Start.func1.1"),               // name servers: sleeps 10 s
	goleak.IgnoreAnyFunction("github.com/apache/rocketmq-client-go/v2/internal.(*rmqClient).Start.func1.2"),               // routes: an update that is under way
	goleak.IgnoreAnyFunction("github.com/apache/rocketmq-client-go/v2/internal.(*rmqClient).Start.func1.3"),               // heartbeats: sleeps 1 s
	goleak.IgnoreAnyFunction("github.com/apache/rocketmq-client-go/v2/internal.(*rmqClient).Start.func1.4"),               // positions: sleeps 10 s
	goleak.IgnoreAnyFunction("github.com/apache/rocketmq-client-go/v2/internal/remote.(*remotingClient).receiveResponse"), // name server connection: 120 s
	goleak.IgnoreAnyFunction("github.com/patrickmn/go-cache.(*janitor).Run"),                                              // begun when the library is loaded
}

func TestMain(m *testing.M) {
	if os.Getenv(libraryConsumerVariable) != "" {
		libraryConsumer()
		return
	}
	goleak.VerifyTestMain(m, leftByLibrary...)
}
