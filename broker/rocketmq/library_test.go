package rocketmq_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	lib "github.com/apache/rocketmq-client-go/v2"
	"github.com/apache/rocketmq-client-go/v2/consumer"
	"github.com/apache/rocketmq-client-go/v2/primitive"
	"github.com/stretchr/testify/require"

	"github.com/turnout-mq/turnout/broker"
	"github.com/turnout-mq/turnout/testenv/races"
)

// The library's push consumer runs in a process of its own, this test binary again: it leaves goroutines behind for a
// day, and has races of its own.

const libraryConsumerVariable = "TURNOUT_TEST_LIBRARY_CONSUMER"

type libraryConsumerArgs struct {
	NameServers  []string
	Group, Topic string
	Orderly      bool
}

// libraryConsumer prints when it began with every message, when it was done, and the body, one a line, until its input ends.
func libraryConsumer() {
	var args libraryConsumerArgs
	if err := json.Unmarshal([]byte(os.Getenv(libraryConsumerVariable)), &args); err != nil {
		panic(err)
	}
	c, err := lib.NewPushConsumer(consumer.WithNameServer(args.NameServers), consumer.WithGroupName(args.Group),
		consumer.WithInstance(fmt.Sprint("library-", os.Getpid())), consumer.WithConsumeFromWhere(consumer.ConsumeFromFirstOffset),
		consumer.WithConsumerOrder(args.Orderly))
	if err != nil {
		panic(err)
	}
	var mu sync.Mutex
	err = c.Subscribe(args.Topic, consumer.MessageSelector{}, func(_ context.Context, messages ...*primitive.MessageExt) (consumer.ConsumeResult, error) {
		begun := time.Now().UnixNano()
		mu.Lock()
		defer mu.Unlock()
		for _, m := range messages {
			fmt.Printf("%d %d %s\n", begun, time.Now().UnixNano(), m.Body)
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

// handled is one handling of a message, by Unix time in ns: two processes are compared.
type handled struct {
	begun, done int64
	body        string
}

// libraryMember is such a process.
type libraryMember struct {
	stop func()
	kill func()

	mu  sync.Mutex
	got []handled
}

func startLibraryMember(t *testing.T, args libraryConsumerArgs) *libraryMember {
	text, err := json.Marshal(args)
	require.NoError(t, err)
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), libraryConsumerVariable+"="+string(text), "ROCKETMQ_GO_LOG_LEVEL=error", races.Environment)
	var complaints strings.Builder
	cmd.Stderr = &complaints
	in, err := cmd.StdinPipe()
	require.NoError(t, err)
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	m := &libraryMember{}
	var reading sync.WaitGroup
	reading.Go(func() {
		for lines := bufio.NewScanner(out); lines.Scan(); {
			var h handled
			if n, _ := fmt.Sscanf(lines.Text(), "%d %d", &h.begun, &h.done); n < 2 { // the library prints, too
				continue
			}
			h.body = strings.SplitN(lines.Text(), " ", 3)[2]
			m.mu.Lock()
			m.got = append(m.got, h)
			m.mu.Unlock()
		}
	})
	m.stop = sync.OnceFunc(func() {
		_ = in.Close()
		reading.Wait()
		_ = cmd.Wait() // it may have been killed
		for _, r := range races.Unknown(complaints.String()) {
			t.Errorf("a data race that is not on the list of package races: %s", r.Text)
		}
	})
	m.kill = func() {
		_ = cmd.Process.Kill() // it may have ended
		m.stop()
	}
	t.Cleanup(m.stop)
	return m
}

func (m *libraryMember) handled() []handled {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.got)
}

// bodies are those of the messages that it has handled, each once.
func (m *libraryMember) bodies() []string {
	var out []string
	for _, h := range m.handled() {
		out = append(out, h.body)
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// libraryFirstInTheGroup: a member of ours joins one that uses the Go library, and takes over when that dies.
func (w *world) libraryFirstInTheGroup() {
	theirs := startLibraryMember(w.T, libraryConsumerArgs{NameServers: w.e.Addresses(w.name), Group: w.group, Topic: w.topic})
	sent := 0
	send := func() {
		w.Helper()
		for range 8 {
			w.send(fmt.Sprint(sent))
			sent++
		}
	}
	send()
	w.eventually(func() error {
		if n := len(theirs.bodies()); n < sent {
			return fmt.Errorf("the library has %d of %d", n, sent)
		}
		return nil
	})
	ours := w.join(w.c, broker.Membership{Retries: true})
	w.attached(ours, 2)
	send()
	all := func() error {
		bodies := append(ours.bodies(), theirs.bodies()...)
		slices.Sort(bodies)
		if n := len(slices.Compact(bodies)); n < sent {
			return fmt.Errorf("%d of %d", n, sent)
		}
		return nil
	}
	w.eventually(all)
	require.NotEmpty(w, ours.bodies())
	theirs.kill()
	w.attached(ours, 4)
	send()
	w.eventually(all)
}

// libraryInTheGroupInOrder: queues go from an ordered member of the library to an exclusive one of ours and back, and no
// message of a key is begun before the one before it is done.
func (w *world) libraryInTheGroupInOrder() {
	const keys = 8
	sent := 0
	send := func() {
		w.Helper()
		sent++
		for k := range keys {
			_, err := w.try(broker.Message{Key: fmt.Appendf(nil, "k%d", k), Body: fmt.Appendf(nil, "k%d %d", k, sent)})
			require.NoError(w, err)
		}
	}
	args := libraryConsumerArgs{NameServers: w.e.Addresses(w.name), Group: w.group, Topic: w.topic, Orderly: true}
	var mu sync.Mutex
	var mine []handled
	join := func() broker.Member {
		w.Helper()
		m, err := w.c.Join(w.ctx(), broker.Membership{Group: w.group, Topic: w.topic, Exclusive: true, Claim: func(_ context.Context, c broker.Claim) {
			one := make([]broker.Delivery, 1)
			for c.Take(one) > 0 {
				h := handled{begun: time.Now().UnixNano(), body: string(one[0].Body)}
				mu.Lock()
				h.done = time.Now().UnixNano()
				mine = append(mine, h)
				mu.Unlock()
				c.Commit(one[0].Offset + 1)
			}
		}})
		require.NoError(w, err)
		w.Cleanup(func() { require.NoError(w, m.Leave(w.ctx())) })
		return m
	}
	theirs := []*libraryMember{startLibraryMember(w.T, args)}
	all := func() (out []handled) {
		for _, m := range theirs {
			out = append(out, m.handled()...)
		}
		mu.Lock()
		defer mu.Unlock()
		return append(out, mine...)
	}
	// go on sending until ok.
	until := func(what string, ok func() bool) {
		w.Helper()
		require.Eventually(w, func() bool { send(); return ok() }, patience, 50*time.Millisecond, "%s", what)
	}
	first := map[string]handled{} // of each message
	settled := func() {
		w.Helper()
		w.eventually(func() error {
			clear(first)
			for _, h := range all() {
				if old, again := first[h.body]; !again || h.begun < old.begun {
					first[h.body] = h
				}
			}
			if len(first) < keys*sent {
				return fmt.Errorf("%d of %d", len(first), keys*sent)
			}
			return nil
		})
	}
	until("the library handles messages", func() bool { return len(theirs[0].handled()) > keys })
	settled() // it does not wait for its listeners when it stops

	// The library gives a queue lock back when it stops, and not when the queue goes to another member: then it ends after 60 s.
	ours := join()
	theirs[0].stop()
	until("ours has taken over", func() bool { return ours.State().Attached && len(ours.State().Partitions) == 4 })

	theirs = append(theirs, startLibraryMember(w.T, args))
	until("the library takes a part", func() bool { return len(theirs[1].handled()) > keys })
	require.NoError(w, ours.Leave(w.ctx()))
	until("the library has taken over", func() bool {
		last := map[string]bool{}
		for _, h := range theirs[1].handled() {
			last[strings.Fields(h.body)[0]] = true
		}
		return len(last) == keys
	})
	settled()
	for k := range keys {
		for n := 2; n <= sent; n++ {
			before, after := first[fmt.Sprintf("k%d %d", k, n-1)], first[fmt.Sprintf("k%d %d", k, n)]
			require.LessOrEqual(w, before.done, after.begun, "%+v and %+v", before, after)
		}
	}
}
