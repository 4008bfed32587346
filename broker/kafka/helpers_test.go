package kafka_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kfake"

	"github.com/turnout-mq/turnout/broker"
	"github.com/turnout-mq/turnout/broker/brokertest"
	"github.com/turnout-mq/turnout/broker/kafka"
)

const patience = time.Minute

func within(d time.Duration) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.Background(), d)
}

// open opens a cluster for as long as t runs.
func open(t *testing.T, cfg broker.Config) broker.Cluster {
	t.Helper()
	ctx, cancel := within(patience)
	defer cancel()
	c, err := kafka.Open(ctx, cfg)
	require.NoError(t, err)
	t.Cleanup(func() {
		ctx, cancel := within(patience)
		defer cancel()
		require.NoError(t, c.Close(ctx))
	})
	return c
}

// fake is a kfake cluster with options of its own, and a configuration for it.
func fake(t *testing.T, opts ...kfake.Opt) (*kfake.Cluster, broker.Config) {
	t.Helper()
	k, err := kfake.NewCluster(append([]kfake.Opt{kfake.NumBrokers(1), kfake.GroupMinSessionTimeout(100 * time.Millisecond)}, opts...)...)
	require.NoError(t, err)
	t.Cleanup(k.Close)
	return k, broker.Config{Name: "fake", Kind: broker.Kafka, Addresses: k.ListenAddrs(), Properties: map[string]string{
		"session.timeout": "6s", "heartbeat": "200ms", "commit.interval": "100ms", "send.timeout": "30s",
	}}
}

// as makes cfg that of a user with a password.
func as(cfg broker.Config, mechanism, user, password string) broker.Config {
	cfg.Mechanism = mechanism
	cfg.Login = func() (string, string, error) { return user, password, nil }
	return cfg
}

func topic(t *testing.T, c broker.Cluster, spec broker.TopicSpec) string {
	t.Helper()
	name := fmt.Sprintf("t_%08x", rand.Uint32())
	require.NoError(t, c.CreateTopic(t.Context(), name, spec))
	return name
}

func message(key, body string) *broker.Envelope {
	m := &broker.Envelope{Message: broker.Message{Body: []byte(body), ID: fmt.Sprintf("%016x%016x", rand.Uint64(), rand.Uint64())}}
	if key != "" {
		m.Key = []byte(key)
	}
	return m
}

func send(c broker.Cluster, topic string, m *broker.Envelope) (broker.Receipt, error) {
	ctx, cancel := within(patience)
	defer cancel()
	type result struct {
		receipt broker.Receipt
		err     error
	}
	results := make(chan result, 1)
	c.Send(ctx, topic, m, func(r broker.Receipt, err error) { results <- result{r, err} })
	r := <-results
	return r.receipt, r.err
}

// reading is what a member has read; it finishes everything.
type reading struct {
	member broker.Member
	mu     sync.Mutex
	got    []*broker.Delivery
}

func join(t *testing.T, c broker.Cluster, m broker.Membership) *reading {
	t.Helper()
	r := &reading{}
	m.Claim = func(_ context.Context, claim broker.Claim) {
		for d := range brokertest.Deliveries(claim) {
			r.mu.Lock()
			r.got = append(r.got, d)
			r.mu.Unlock()
			claim.Commit(d.Offset + 1)
		}
	}
	var err error
	r.member, err = c.Join(t.Context(), m)
	require.NoError(t, err)
	return r
}

func (r *reading) all() []*broker.Delivery {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]*broker.Delivery(nil), r.got...)
}

// wait waits for n messages, redelivered ones counted.
func (r *reading) wait(t *testing.T, n int) []*broker.Delivery {
	t.Helper()
	require.Eventually(t, func() bool { return len(r.all()) >= n }, patience, 10*time.Millisecond,
		"%d messages; state %+v", n, r.member.State())
	return r.all()
}
