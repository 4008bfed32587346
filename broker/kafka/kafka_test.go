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
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m,
		goleak.IgnoreTopFunction("github.com/rcrowley/go-metrics.(*meterArbiter).tick")) // one a process, of sarama's meters
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
		Session: 2 * time.Second,
		Kill:    func(ctx context.Context, cluster int) error { return e.Kill(ctx, names[cluster]) },
		Restart: func(ctx context.Context, cluster int) error { return e.Restart(ctx, names[cluster]) },
		Pause:   func(cluster int) error { return e.Pause(names[cluster]) },
		Resume:  func(cluster int) error { return e.Resume(names[cluster]) },
		SetFence: func(_ context.Context, topic string, on bool) error {
			return alterTopic(e, topic, func(set func(string, *string)) {
				zero := "0"
				if on {
					set("max.message.bytes", &zero)
				} else {
					set("max.message.bytes", nil)
				}
			})
		},
		Foreign: func(_ context.Context, topic string, key, body []byte, headers []broker.Header) error {
			return foreign(e, topic, key, body, headers)
		},
	}
}

func config(e *testenv.Env, cluster int) broker.Config {
	return broker.Config{
		Name:      names[cluster],
		Kind:      broker.Kafka,
		Addresses: e.Addresses(names[cluster]),
		ClusterID: e.ClusterID(names[cluster]),
		Properties: map[string]string{
			"session.timeout": "1500ms",
			"heartbeat":       "200ms",
			"commit.interval": "100ms",
			"send.timeout":    "4s",
		},
	}
}

// alterTopic changes settings of a topic of cluster 0; nil removes one.
func alterTopic(e *testenv.Env, topic string, change func(set func(name string, value *string))) error {
	admin, err := sarama.NewClusterAdmin(e.Addresses(names[0]), nil)
	if err != nil {
		return err
	}
	defer admin.Close()
	entries := map[string]sarama.IncrementalAlterConfigsEntry{}
	change(func(name string, value *string) {
		op := sarama.IncrementalAlterConfigsOperationSet
		if value == nil {
			op = sarama.IncrementalAlterConfigsOperationDelete
		}
		entries[name] = sarama.IncrementalAlterConfigsEntry{Operation: op, Value: value}
	})
	return admin.IncrementalAlterConfig(sarama.TopicResource, topic, entries, false)
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
