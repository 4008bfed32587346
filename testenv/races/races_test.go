package races_test

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/turnout-mq/turnout/testenv/races"
)

// report is one as the race detector of Go 1.26 prints it.
func report(one, two string) string {
	return "==================\nWARNING: DATA RACE\nWrite at 0x00c000127568 by goroutine 61:\n" + one +
		"  github.com/apache/rocketmq-client-go/v2/primitive.WithRecover()\n      base.go:113 +0x82\n\n" +
		"Previous read at 0x00c000127568 by goroutine 62:\n" + two +
		"\nGoroutine 61 (running) created at:\n  github.com/turnout-mq/turnout/consumer.Subscribe()\n      push_consumer.go:174 +0x3a\n==================\n"
}

const (
	tree   = "  github.com/emirpasic/gods/trees/redblacktree.(*Tree).Put()\n      redblacktree.go:102 +0x2a9\n"
	put    = tree + "  github.com/apache/rocketmq-client-go/v2/consumer.(*processQueue).putMessage()\n      process_queue.go:116 +0x214\n"
	take   = tree + "  github.com/apache/rocketmq-client-go/v2/consumer.(*processQueue).takeMessages()\n      process_queue.go:313 +0x1a\n"
	send   = "  github.com/apache/rocketmq-client-go/v2/producer.(*defaultProducer).SendSync()\n      producer.go:1 +0x1a\n"
	ours   = "  github.com/turnout-mq/turnout/broker/rocketmq.(*library).send()\n      library.go:1 +0x1a\n" + take
	nobody = "  [failed to restore the stack]\n"
)

func TestOnlyWhatTheLibraryDoesToItselfAndIsOnTheListIsKnown(t *testing.T) {
	for name, c := range map[string]struct {
		one, two string
		known    bool
	}{
		"both listed":         {put, take, true},
		"one was forgotten":   {put, nobody, true},
		"one is not listed":   {put, send, false},
		"one is ours":         {put, ours, false},
		"neither is listed":   {send, send, false},
		"both were forgotten": {nobody, nobody, false},
	} {
		t.Run(name, func(t *testing.T) {
			text := "the library says something\n" + report(c.one, c.two) + "and more\n"
			require.Len(t, races.In(text), 1)
			if c.known {
				require.Empty(t, races.Unknown(text))
			} else {
				require.Len(t, races.Unknown(text), 1)
			}
		})
	}
}

func TestReportsAreToldApart(t *testing.T) {
	require.Empty(t, races.In("nothing to report\n"))
	got := races.In(strings.Repeat(report(put, take), 2) + report(ours, nobody))
	require.Len(t, got, 3)
	require.Equal(t, []string{"github.com/apache/rocketmq-client-go/v2/consumer.(*processQueue).putMessage",
		"github.com/apache/rocketmq-client-go/v2/consumer.(*processQueue).takeMessages"}, got[1].Sides)
	require.Equal(t, "github.com/turnout-mq/turnout/broker/rocketmq.(*library).send", got[2].Sides[0])
	require.NotContains(t, got[1].Text, "DATA RACE")
}
