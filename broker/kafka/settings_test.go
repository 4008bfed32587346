package kafka_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/turnout-mq/turnout/broker"
	"github.com/turnout-mq/turnout/broker/kafka"
	"github.com/turnout-mq/turnout/internal/errs"
)

// What is wrong in a configuration is said before anything is dialled, and never with the password.
func TestConfigRefused(t *testing.T) {
	t.Parallel()
	property := func(name, value string) func(*broker.Config) {
		return func(c *broker.Config) { c.Properties = map[string]string{name: value} }
	}
	for name, test := range map[string]struct {
		change func(*broker.Config)
		says   []string
	}{
		"kind":         {func(c *broker.Config) { c.Kind = broker.RocketMQ }, []string{"kind", "rocketmq"}},
		"no address":   {func(c *broker.Config) { c.Addresses = nil }, []string{"addresses"}},
		"no port":      {func(c *broker.Config) { c.Addresses = []string{"broker-1"} }, []string{"broker-1", "host:port"}},
		"mechanism":    {func(c *broker.Config) { c.Mechanism = "GSSAPI" }, []string{"GSSAPI", "SCRAM-SHA-512"}},
		"user":         {func(c *broker.Config) { *c = as(*c, "PLAIN", "", "hush") }, []string{"username"}},
		"no login":     {func(c *broker.Config) { c.Mechanism = "PLAIN" }, []string{"Login"}},
		"unknown":      {property("acks", "1"), []string{"acks", "send.timeout", "compression"}},
		"duration":     {property("send.timeout", "10"), []string{"send.timeout", `"10"`, "10s"}},
		"too short":    {property("send.timeout", "1ms"), []string{"send.timeout", "1ms"}},
		"number":       {property("message.max.bytes", "1MB"), []string{"message.max.bytes", "1MB"}},
		"compression":  {property("compression", "rar"), []string{"compression", "rar"}},
		"isolation":    {property("isolation.level", "serializable"), []string{"isolation.level", "read_committed"}},
		"version":      {property("version", "0.10.2.0"), []string{"version", "2.1.0"}},
		"no version":   {property("version", "new"), []string{"version", "new"}},
		"heartbeat":    {property("heartbeat", "9s"), []string{"heartbeat", "9s", "session.timeout"}},
		"two of three": {func(c *broker.Config) { c.Properties = map[string]string{"linger": "5ms", "zzz": ""} }, []string{"zzz"}},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := broker.Config{Name: "orders", Kind: broker.Kafka, Addresses: []string{"127.0.0.1:1"}}
			test.change(&cfg)
			_, err := kafka.Open(t.Context(), cfg)
			require.ErrorIs(t, err, errs.ErrInvalid)
			require.ErrorContains(t, err, `"orders"`)
			for _, part := range test.says {
				require.ErrorContains(t, err, part)
			}
			require.NotContains(t, err.Error(), "hush")
		})
	}
}

// Every property is accepted and works.
func TestProperties(t *testing.T) {
	t.Parallel()
	_, cfg := fake(t)
	for name, value := range map[string]string{
		"linger": "2ms", "compression": "zstd", "isolation.level": "read_committed", "version": "2.1.0",
		"rebalance.timeout": "5s", "message.max.bytes": "2097152",
	} {
		cfg.Properties[name] = value
	}
	c := open(t, cfg)
	name := topic(t, c, broker.TopicSpec{Partitions: 1})
	_, err := send(c, name, message("k", "body"))
	require.NoError(t, err)
	require.Equal(t, "body", string(join(t, c, broker.Membership{Group: "g", Topic: name, Retries: true}).wait(t, 1)[0].Body))
	positions, err := c.Positions(t.Context(), "g", name)
	require.NoError(t, err)
	require.Contains(t, positions, "0")
}

// The first address that answers is enough.
func TestSomeAddressesDead(t *testing.T) {
	t.Parallel()
	_, cfg := fake(t)
	cfg.Addresses = append([]string{"127.0.0.1:1"}, cfg.Addresses...)
	c := open(t, cfg)
	name := topic(t, c, broker.TopicSpec{})
	_, err := send(c, name, message("", "x"))
	require.NoError(t, err)
	join(t, c, broker.Membership{Group: "g", Topic: name}).wait(t, 1)
}
