package rocketmq_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"sync"
	"testing"

	lib "github.com/apache/rocketmq-client-go/v2"
	"github.com/apache/rocketmq-client-go/v2/consumer"
	"github.com/apache/rocketmq-client-go/v2/primitive"
	"github.com/stretchr/testify/require"
)

// The library's push consumer runs in a process of its own, this test binary again: it leaves goroutines behind for a
// day, and races of its own.

const libraryConsumerVariable = "TURNOUT_TEST_LIBRARY_CONSUMER"

type libraryConsumerArgs struct {
	NameServers  []string
	Group, Topic string
}

// libraryConsumer prints the body of every message, one a line, until its input ends.
func libraryConsumer() {
	var args libraryConsumerArgs
	if err := json.Unmarshal([]byte(os.Getenv(libraryConsumerVariable)), &args); err != nil {
		panic(err)
	}
	c, err := lib.NewPushConsumer(consumer.WithNameServer(args.NameServers), consumer.WithGroupName(args.Group),
		consumer.WithInstance(fmt.Sprint("library-", os.Getpid())), consumer.WithConsumeFromWhere(consumer.ConsumeFromFirstOffset))
	if err != nil {
		panic(err)
	}
	var mu sync.Mutex
	err = c.Subscribe(args.Topic, consumer.MessageSelector{}, func(_ context.Context, messages ...*primitive.MessageExt) (consumer.ConsumeResult, error) {
		mu.Lock()
		defer mu.Unlock()
		for _, m := range messages {
			fmt.Printf("%s\n", m.Body)
		}
		return consumer.ConsumeSuccess, nil
	})
	if err != nil {
		panic(err)
	}
	if err := c.Start(); err != nil {
		panic(err)
	}
	_, _ = io.Copy(io.Discard, os.Stdin)
	_ = c.Shutdown()
}

// libraryMember is such a process.
type libraryMember struct {
	stop func()

	mu  sync.Mutex
	got map[string]int
}

func startLibraryMember(t *testing.T, args libraryConsumerArgs) *libraryMember {
	text, err := json.Marshal(args)
	require.NoError(t, err)
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), libraryConsumerVariable+"="+string(text), "ROCKETMQ_GO_LOG_LEVEL=error")
	in, err := cmd.StdinPipe()
	require.NoError(t, err)
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	m := &libraryMember{got: map[string]int{}}
	var reading sync.WaitGroup
	reading.Go(func() {
		for lines := bufio.NewScanner(out); lines.Scan(); {
			m.mu.Lock()
			m.got[lines.Text()]++
			m.mu.Unlock()
		}
	})
	m.stop = sync.OnceFunc(func() {
		_ = in.Close()
		reading.Wait()
		_ = cmd.Wait() // not checked: the race detector may have found something in the library
	})
	t.Cleanup(m.stop)
	return m
}

func (m *libraryMember) bodies() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	var out []string
	for body := range m.got {
		out = append(out, body)
	}
	return out
}
