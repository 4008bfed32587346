package kafka

import (
	"errors"
	"time"

	"github.com/IBM/sarama"
)

// leaders is the client that the producer sees. sarama's producer stops trying a partition for ten seconds after it
// has failed three times to find its leader, and would so refuse sends long after a broker is back. Here looking for
// a leader does not fail, and does not take long: while none is known the partition is led by nobody, a broker that
// is never connected, so that sends to it fail as sends to a broker that is down do, with the retries that are set.
type leaders struct {
	sarama.Client
	nobody *sarama.Broker
	wait   time.Duration
}

func newLeaders(client sarama.Client) *leaders {
	return &leaders{
		Client: client,
		nobody: sarama.NewBroker("no leader is known"),
		wait:   client.Config().Net.ReadTimeout / 5,
	}
}

// RefreshMetadata does its best for a while; the question goes on by itself.
func (l *leaders) RefreshMetadata(topics ...string) error {
	_ = l.bounded(func() error { return l.Client.RefreshMetadata(topics...) })
	return nil
}

// LeastLoadedBroker is asked for a producer id: one that is there.
func (l *leaders) LeastLoadedBroker() *sarama.Broker {
	for _, b := range l.Brokers() {
		_ = b.Open(l.Config())
		if connected, _ := b.Connected(); connected {
			return b
		}
	}
	return l.Client.LeastLoadedBroker()
}

// Leader asks where the leader is not known, and waits for the connection to it; when either takes too long the
// leader is nobody for now.
func (l *leaders) Leader(topic string, partition int32) (*sarama.Broker, error) {
	found := make(chan *sarama.Broker, 1)
	err := l.bounded(func() error {
		b, err := l.Client.Leader(topic, partition)
		if err != nil {
			return err
		}
		if connected, err := b.Connected(); !connected {
			return err
		}
		found <- b
		return nil
	})
	select {
	case b := <-found:
		return b, nil
	default:
	}
	if errors.Is(err, sarama.ErrUnknownTopicOrPartition) || errors.Is(err, sarama.ErrClosedClient) {
		return nil, err
	}
	return l.nobody, nil
}

// bounded waits for f at most l.wait, and then returns nil.
func (l *leaders) bounded(f func() error) error {
	result := make(chan error, 1)
	go func() { result <- f() }()
	timer := time.NewTimer(l.wait)
	defer timer.Stop()
	select {
	case err := <-result:
		return err
	case <-timer.C:
		return nil
	}
}
