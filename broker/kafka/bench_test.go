package kafka_test

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/IBM/sarama"
	"github.com/stretchr/testify/require"

	"github.com/turnout-mq/turnout/broker"
	"github.com/turnout-mq/turnout/broker/brokertest"
	"github.com/turnout-mq/turnout/broker/kafka"
	"github.com/turnout-mq/turnout/testenv"
)

// BenchmarkSend compares the driver with the bare library, one send after the other: its allocations are what the
// driver adds.
func BenchmarkSend(b *testing.B) {
	e, err := testenv.Start(b.Context(), testenv.Spec{Kafka: names})
	require.NoError(b, err)
	defer func() { require.NoError(b, e.Close()) }()
	ctx := context.Background()
	c, err := kafka.Open(ctx, config(e, 0))
	require.NoError(b, err)
	defer func() { require.NoError(b, c.Close(ctx)) }()
	require.NoError(b, c.CreateTopic(ctx, "bench", broker.TopicSpec{}))
	require.NoError(b, c.Warm(ctx, "bench"))
	body := []byte(strings.Repeat("x", 1024))

	b.Run("turnout", func(b *testing.B) {
		b.ReportAllocs()
		m := &broker.Envelope{Message: broker.Message{Key: []byte("key"), Body: body, ID: strings.Repeat("0", 32), Headers: []broker.Header{{Name: "a", Value: "b"}}}}
		var wait sync.WaitGroup
		done := func(_ broker.Receipt, err error) {
			if err != nil {
				b.Error(err)
			}
			wait.Done()
		}
		for b.Loop() {
			wait.Add(1)
			c.Send(ctx, "bench", m, done)
			wait.Wait()
		}
	})
	b.Run("sarama", func(b *testing.B) {
		b.ReportAllocs()
		conf := sarama.NewConfig()
		conf.Net.MaxOpenRequests = 1
		conf.Producer.Idempotent = true
		conf.Producer.RequiredAcks = sarama.WaitForAll
		conf.Producer.Return.Successes = true
		conf.Producer.Partitioner = sarama.NewMurmur2Partitioner
		p, err := sarama.NewAsyncProducer(e.Addresses(names[0]), conf)
		require.NoError(b, err)
		defer p.Close()
		for b.Loop() {
			p.Input() <- &sarama.ProducerMessage{
				Topic: "bench", Key: sarama.ByteEncoder("key"), Value: sarama.ByteEncoder(body),
				Headers: []sarama.RecordHeader{{Key: []byte("a"), Value: []byte("b")}, {Key: []byte("turnout-id"), Value: []byte(strings.Repeat("0", 32))}},
			}
			<-p.Successes()
		}
	})
}

// BenchmarkConsume reads what was stored before, in one group, and commits every message; the driver and the bare
// library by turns.
func BenchmarkConsume(b *testing.B) {
	e, err := testenv.Start(b.Context(), testenv.Spec{Kafka: names})
	require.NoError(b, err)
	defer func() { require.NoError(b, e.Close()) }()
	ctx := context.Background()
	c, err := kafka.Open(ctx, config(e, 0))
	require.NoError(b, err)
	defer func() { require.NoError(b, c.Close(ctx)) }()
	require.NoError(b, c.CreateTopic(ctx, "bench", broker.TopicSpec{}))
	const stored = 200_000
	m := &broker.Envelope{Message: broker.Message{Body: []byte(strings.Repeat("x", 100)), ID: strings.Repeat("0", 32)}}
	var sent sync.WaitGroup
	sent.Add(stored)
	for range stored {
		c.Send(ctx, "bench", m, func(_ broker.Receipt, err error) {
			if err != nil {
				b.Error(err)
			}
			sent.Done()
		})
	}
	sent.Wait()

	driver := func(group string, each func()) (leave func()) {
		member, err := c.Join(ctx, broker.Membership{Group: group, Topic: "bench", Claim: func(_ context.Context, claim broker.Claim) {
			for d := range brokertest.Deliveries(claim) {
				claim.Commit(d.Offset + 1)
				each()
			}
		}})
		require.NoError(b, err)
		return func() { require.NoError(b, member.Leave(ctx)) }
	}
	conf := sarama.NewConfig()
	conf.Consumer.Offsets.Initial = sarama.OffsetOldest
	library := func(group string, each func()) (leave func()) {
		g, err := sarama.NewConsumerGroup(e.Addresses(names[0]), group, conf)
		require.NoError(b, err)
		ctx, cancel := context.WithCancel(ctx)
		var consuming sync.WaitGroup
		consuming.Go(func() {
			if err := g.Consume(ctx, []string{"bench"}, bare(each)); err != nil {
				b.Error(err)
			}
		})
		return func() {
			cancel()
			consuming.Wait()
			require.NoError(b, g.Close())
		}
	}
	took := map[string]time.Duration{}
	rounds := 0
	for b.Loop() {
		rounds++
		for name, join := range map[string]func(string, func()) func(){"turnout": driver, "sarama": library} {
			var n atomic.Int64
			begun, all := make(chan time.Time, 1), make(chan time.Time, 1)
			leave := join(fmt.Sprint(name, rounds), func() {
				switch n.Add(1) {
				case 1:
					begun <- time.Now()
				case stored:
					all <- time.Now()
				}
			})
			from := <-begun
			took[name] += (<-all).Sub(from)
			leave()
		}
	}
	for name, d := range took {
		b.ReportMetric(float64(rounds*stored)/d.Seconds(), name+"-msg/s")
	}
	b.ReportMetric(took["sarama"].Seconds()/took["turnout"].Seconds(), "ratio")
}

type bare func()

func (bare) Setup(sarama.ConsumerGroupSession) error   { return nil }
func (bare) Cleanup(sarama.ConsumerGroupSession) error { return nil }
func (f bare) ConsumeClaim(s sarama.ConsumerGroupSession, c sarama.ConsumerGroupClaim) error {
	for m := range c.Messages() {
		s.MarkOffset(m.Topic, m.Partition, m.Offset+1, "")
		f()
	}
	return nil
}
