package bench

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/IBM/sarama"
	"github.com/stretchr/testify/require"

	"github.com/turnout-mq/turnout"
)

// BenchmarkConsume is a subscription against a consumer group of the bare library: reading
// a topic that is full, each time with a new group.
func BenchmarkConsume(b *testing.B) {
	each(b, func(b *testing.B, s *stage) {
		b.Run("kafka", func(b *testing.B) {
			for size, n := range map[int]int{100: few(400_000, 20_000), 1024: few(100_000, 5_000)} {
				b.Run(fmt.Sprintf("bytes=%d", size), func(b *testing.B) {
					topic := s.topic(b, "kafka-a")
					client := s.client(b)
					fill(b, client, topic, n, size)
					compare(b, few(11, 1), n,
						func(n int) time.Duration { return consumeBare(b, s, topic, n) },
						func(n int) time.Duration { return consumeOurs(b, s, client, topic, n) })
				})
			}
		})
	})
}

func fill(b *testing.B, client *turnout.Client, topic string, n, size int) {
	stored := make(chan error, n)
	body := make([]byte, size)
	for range n {
		client.SendAsync(b.Context(), topic, &turnout.Message{Body: body}, func(_ turnout.SendResult, err error) { stored <- err })
	}
	for range n {
		require.NoError(b, <-stored)
	}
}

// finish tells when n messages were handled, and how long the last three quarters of them took: by then all partitions are
// being fetched.
type finish struct {
	n       int64
	handled atomic.Int64
	began   time.Time
	took    time.Duration
	done    chan struct{}
}

func expect(n int) *finish {
	return &finish{n: int64(n), done: make(chan struct{})}
}

func (f *finish) one() {
	switch f.handled.Add(1) {
	case f.n / 4:
		f.began = time.Now()
	case f.n:
		f.took = time.Since(f.began)
		close(f.done)
	}
}

func consumeOurs(b *testing.B, s *stage, client *turnout.Client, topic string, n int) time.Duration {
	f := expect(n)
	sub, err := client.Subscribe(b.Context(), s.group(b, topic), func(context.Context, *turnout.Delivery) error {
		f.one()
		return nil
	})
	require.NoError(b, err)
	wait(b, f)
	require.NoError(b, sub.Close(b.Context()))
	return f.took * 4 / 3
}

type bareHandler struct{ f *finish }

func (bareHandler) Setup(sarama.ConsumerGroupSession) error   { return nil }
func (bareHandler) Cleanup(sarama.ConsumerGroupSession) error { return nil }
func (h bareHandler) ConsumeClaim(session sarama.ConsumerGroupSession, claim sarama.ConsumerGroupClaim) error {
	for m := range claim.Messages() {
		h.f.one()
		session.MarkMessage(m, "")
	}
	return nil
}

func consumeBare(b *testing.B, s *stage, topic string, n int) time.Duration {
	conf := sarama.NewConfig()
	conf.Version = sarama.V2_8_0_0
	conf.Consumer.Offsets.Initial = sarama.OffsetOldest
	conf.Consumer.Offsets.AutoCommit.Interval = 500 * time.Millisecond
	conf.Consumer.Group.Rebalance.GroupStrategies = []sarama.BalanceStrategy{sarama.NewBalanceStrategyRange()}
	conf.ChannelBufferSize = 64
	g, err := sarama.NewConsumerGroup(s.env.Addresses("kafka-a"), s.group(b, topic), conf)
	require.NoError(b, err)
	f := expect(n)
	ctx, cancel := context.WithCancel(b.Context())
	ended := make(chan error, 1)
	go func() { ended <- g.Consume(ctx, []string{topic}, bareHandler{f}) }()
	wait(b, f)
	cancel()
	<-ended
	require.NoError(b, g.Close())
	return f.took * 4 / 3
}

func wait(b *testing.B, f *finish) {
	select {
	case <-f.done:
	case <-time.After(time.Minute):
		b.Fatalf("%d messages were not handled in a minute", f.n-f.handled.Load())
	}
}
