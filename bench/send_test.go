package bench

import (
	"fmt"
	"testing"
	"time"

	"github.com/IBM/sarama"
	rocketmq "github.com/apache/rocketmq-client-go/v2"
	"github.com/apache/rocketmq-client-go/v2/primitive"
	rmqproducer "github.com/apache/rocketmq-client-go/v2/producer"
	"github.com/stretchr/testify/require"

	"github.com/turnout-mq/turnout"
	"github.com/turnout-mq/turnout/producer"
)

// BenchmarkSend is Client.Send against a synchronous send of the bare library with the same settings and headers.
func BenchmarkSend(b *testing.B) {
	each(b, func(b *testing.B, s *stage) {
		b.Run("kafka", func(b *testing.B) { cases(b, s, "kafka-a", bareKafka) })
		b.Run("rocketmq", func(b *testing.B) { cases(b, s, "rocketmq-a", bareRocketMQ) })
	})
}

func cases(b *testing.B, s *stage, cluster string, open func(b *testing.B, s *stage, cluster, topic string) func(key, body []byte)) {
	topic := s.topic(b, cluster)
	bare := open(b, s, cluster, topic)
	client := s.client(b)
	for _, goroutines := range []int{1, 64} {
		for _, size := range []int{100, 1024} {
			b.Run(fmt.Sprintf("goroutines=%d/bytes=%d", goroutines, size), func(b *testing.B) {
				body := make([]byte, size)
				for i := range body {
					body[i] = byte('a' + i%26)
				}
				ours := func(key []byte) {
					if _, err := client.Send(b.Context(), topic, &turnout.Message{Key: key, Body: body}); err != nil {
						b.Error(err)
					}
				}
				// Slices are short, so that the noise of the machine meets both sides.
				const probe = 200
				begin := time.Now()
				spread(goroutines, probe, ours)
				n := max(probe, int(probe*slice/time.Since(begin)))
				compare(b, few(21, 1), n, timed(func(n int) { spread(goroutines, n, func(key []byte) { bare(key, body) }) }), timed(func(n int) { spread(goroutines, n, ours) }))
			})
		}
	}
}

const slice = 100 * time.Millisecond

func bareKafka(b *testing.B, s *stage, cluster, topic string) func(key, body []byte) {
	conf := sarama.NewConfig()
	conf.Version = sarama.V2_8_0_0
	conf.Metadata.Full = false
	conf.Metadata.AllowAutoTopicCreation = false
	conf.Net.MaxOpenRequests = 1
	conf.Producer.RequiredAcks = sarama.WaitForAll
	conf.Producer.Idempotent = true
	conf.Producer.MaxMessageBytes = 100 << 20
	conf.Producer.Return.Successes = true
	conf.Producer.Return.Errors = true
	conf.Producer.Partitioner = sarama.NewHashPartitioner
	conf.ChannelBufferSize = 64
	p, err := sarama.NewSyncProducer(s.env.Addresses(cluster), conf)
	require.NoError(b, err)
	b.Cleanup(func() { require.NoError(b, p.Close()) })
	return func(key, body []byte) {
		m := &sarama.ProducerMessage{Topic: topic, Key: sarama.ByteEncoder(key), Value: sarama.ByteEncoder(body),
			Headers: []sarama.RecordHeader{{Key: []byte("turnout-id"), Value: []byte(producer.NewID())}}}
		if _, _, err := p.SendMessage(m); err != nil {
			b.Error(err)
		}
	}
}

func bareRocketMQ(b *testing.B, s *stage, cluster, topic string) func(key, body []byte) {
	p, err := rocketmq.NewProducer(rmqproducer.WithNsResolver(primitive.NewPassthroughResolver(s.env.Addresses(cluster))),
		rmqproducer.WithInstanceName("bench-"+topic), rmqproducer.WithGroupName("bench-"+topic), rmqproducer.WithRetry(0))
	require.NoError(b, err)
	require.NoError(b, p.Start())
	b.Cleanup(func() { require.NoError(b, p.Shutdown()) })
	return func(key, body []byte) {
		m := primitive.NewMessage(topic, body)
		m.WithProperty("turnout-id", producer.NewID())
		m.WithProperty("turnout-key", string(key))
		if _, err := p.SendSync(b.Context(), m); err != nil {
			b.Error(err)
		}
	}
}
