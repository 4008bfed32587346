package kafka_test

import (
	"context"
	"testing"
	"time"

	"github.com/IBM/sarama"
	"go.uber.org/goleak"

	"github.com/turnout-mq/turnout/broker"
	"github.com/turnout-mq/turnout/broker/brokertest"
	"github.com/turnout-mq/turnout/broker/kafka"
	"github.com/turnout-mq/turnout/testenv"
	"github.com/turnout-mq/turnout/testenv/leaks"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, leaks.Libraries()...)
}

var names = []string{"kafka-a", "kafka-b"}

func TestSuite(t *testing.T) {
	t.Parallel()
	testenv.Each(t, testenv.Spec{Kafka: names}, func(t *testing.T, e *testenv.Env) {
		brokertest.Run(t, target(e))
		t.Run("kafka", func(t *testing.T) {
			t.Parallel()
			for name, test := range map[string]func(*testing.T, *testenv.Env){
				"SmallTopic":        smallTopic,
				"FailuresElsewhere": failuresElsewhere,
				"DeletedUnderway":   deletedUnderway,
				"WhereAGroupBegins": whereAGroupBegins,
				"PlaceVanishes":     placeVanishes,
				"NullBody":          nullBody,
				"PeekTransactions":  peekTransactions,
				"PeekCompacted":     peekCompacted,
			} {
				t.Run(name, func(t *testing.T) {
					t.Parallel()
					test(t, e)
				})
			}
		})
	})
}

func target(e *testenv.Env) brokertest.Target {
	return brokertest.Target{
		Kind:    broker.Kafka,
		Open:    kafka.Open,
		Config:  func(cluster int) broker.Config { return config(e, cluster) },
		Session: 7 * time.Second,
		Kill:    func(ctx context.Context, cluster int) error { return e.Kill(ctx, names[cluster]) },
		Restart: func(ctx context.Context, cluster int) error { return e.Restart(ctx, names[cluster]) },
		Pause:   func(cluster int) error { return e.Pause(names[cluster]) },
		Resume:  func(cluster int) error { return e.Resume(names[cluster]) },
		Commit: func(_ context.Context, group, topic string) error {
			return administer(e, func(admin sarama.ClusterAdmin) error {
				_, err := admin.AlterConsumerGroupOffsets(group, map[string]map[int32]sarama.OffsetAndMetadata{topic: {0: {Offset: 1}}}, nil)
				return err
			})
		},
		Foreign: func(_ context.Context, topic string, key, body []byte, headers []broker.Header) error {
			return foreign(e, topic, key, body, headers)
		},
	}
}

func config(e *testenv.Env, cluster int) broker.Config {
	give := "30s"
	if cluster == 1 { // which is paused and killed
		give = "4s"
	}
	return broker.Config{
		Name:      names[cluster],
		Kind:      broker.Kafka,
		Addresses: e.Addresses(names[cluster]),
		ClusterID: e.ClusterID(names[cluster]),
		Properties: map[string]string{
			"session.timeout": "6s",
			"heartbeat":       "200ms",
			"commit.interval": "100ms",
			"send.timeout":    give,
		},
	}
}

// administer asks cluster 0 with the bare library.
func administer(e *testenv.Env, f func(sarama.ClusterAdmin) error) error {
	conf := sarama.NewConfig()
	conf.Version = sarama.V2_8_0_0
	admin, err := sarama.NewClusterAdmin(e.Addresses(names[0]), conf)
	if err != nil {
		return err
	}
	defer admin.Close()
	return f(admin)
}

// foreign sends to cluster 0 with the bare library.
func foreign(e *testenv.Env, topic string, key, body []byte, headers []broker.Header) error {
	conf := sarama.NewConfig()
	conf.Producer.Return.Successes = true
	p, err := sarama.NewSyncProducer(e.Addresses(names[0]), conf)
	if err != nil {
		return err
	}
	defer p.Close()
	m := &sarama.ProducerMessage{Topic: topic}
	if key != nil {
		m.Key = sarama.ByteEncoder(key)
	}
	if body != nil {
		m.Value = sarama.ByteEncoder(body)
	}
	for _, h := range headers {
		m.Headers = append(m.Headers, sarama.RecordHeader{Key: []byte(h.Name), Value: []byte(h.Value)})
	}
	_, _, err = p.SendMessage(m)
	return err
}
