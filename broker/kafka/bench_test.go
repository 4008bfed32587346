package kafka_test

import (
	"context"
	"strings"
	"sync"
	"testing"

	"github.com/IBM/sarama"
	"github.com/stretchr/testify/require"

	"github.com/turnout-mq/turnout/broker"
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
