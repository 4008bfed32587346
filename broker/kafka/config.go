package kafka

import (
	"fmt"
	"maps"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/IBM/sarama"

	"github.com/turnout-mq/turnout/broker"
	"github.com/turnout-mq/turnout/internal/errs"
)

// settings are what broker.Config.Properties may set.
type settings struct {
	sendTimeout time.Duration
	linger      time.Duration
	maxMessage  int
	compression sarama.CompressionCodec
	isolation   sarama.IsolationLevel
	session     time.Duration
	heartbeat   time.Duration
	rebalance   time.Duration
	commit      time.Duration
	version     sarama.KafkaVersion
}

func defaults() settings {
	return settings{
		sendTimeout: 10 * time.Second,
		maxMessage:  1 << 20,
		session:     10 * time.Second,
		heartbeat:   time.Second,
		rebalance:   time.Minute,
		commit:      500 * time.Millisecond,
		version:     sarama.V2_8_0_0,
	}
}

// properties by name; the package comment says what they are for.
var properties = map[string]func(*settings, string) error{
	"send.timeout":      duration(func(s *settings) *time.Duration { return &s.sendTimeout }, time.Second, 10*time.Minute),
	"linger":            duration(func(s *settings) *time.Duration { return &s.linger }, 0, time.Second),
	"session.timeout":   duration(func(s *settings) *time.Duration { return &s.session }, 100*time.Millisecond, 30*time.Minute),
	"heartbeat":         duration(func(s *settings) *time.Duration { return &s.heartbeat }, 10*time.Millisecond, time.Minute),
	"rebalance.timeout": duration(func(s *settings) *time.Duration { return &s.rebalance }, 100*time.Millisecond, time.Hour),
	"commit.interval":   duration(func(s *settings) *time.Duration { return &s.commit }, 10*time.Millisecond, time.Minute),
	"message.max.bytes": func(s *settings, v string) (err error) {
		s.maxMessage, err = strconv.Atoi(v)
		if err != nil || s.maxMessage < 1024 || s.maxMessage > 64<<20 {
			return fmt.Errorf("must be a number of bytes from 1024 to %d", 64<<20)
		}
		return nil
	},
	"compression": func(s *settings, v string) error {
		return s.compression.UnmarshalText([]byte(v))
	},
	"isolation.level": func(s *settings, v string) error {
		switch v {
		case "read_uncommitted":
			s.isolation = sarama.ReadUncommitted
		case "read_committed":
			s.isolation = sarama.ReadCommitted
		default:
			return fmt.Errorf("must be read_uncommitted or read_committed")
		}
		return nil
	},
	"version": func(s *settings, v string) (err error) {
		s.version, err = sarama.ParseKafkaVersion(v)
		if err == nil && !s.version.IsAtLeast(sarama.V2_1_0_0) {
			err = fmt.Errorf("must be 2.1.0 or later")
		}
		return err
	},
}

func duration(field func(*settings) *time.Duration, least, most time.Duration) func(*settings, string) error {
	return func(s *settings, v string) error {
		d, err := time.ParseDuration(v)
		if err != nil || d < least || d > most {
			return fmt.Errorf("must be a duration from %v to %v, such as 10s", least, most)
		}
		*field(s) = d
		return nil
	}
}

// parse checks all of cfg that can be checked without a connection.
func parse(cfg broker.Config) (settings, error) {
	s := defaults()
	refuse := func(field, value, why string) (settings, error) {
		return s, fmt.Errorf("%w: cluster %q: %s %q: %s", errs.ErrInvalid, cfg.Name, field, value, why)
	}
	if cfg.Kind != broker.Kafka {
		return refuse("kind", string(cfg.Kind), "this driver is for "+string(broker.Kafka))
	}
	if len(cfg.Addresses) == 0 {
		return refuse("addresses", "", "name at least one broker as host:port")
	}
	for _, address := range cfg.Addresses {
		if _, port, err := net.SplitHostPort(address); err != nil || port == "" {
			return refuse("address", address, "write it as host:port")
		}
	}
	switch cfg.Mechanism {
	case "", sarama.SASLTypePlaintext, sarama.SASLTypeSCRAMSHA256, sarama.SASLTypeSCRAMSHA512:
	default:
		return refuse("mechanism", cfg.Mechanism, "use PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512")
	}
	if err := checkLogin(cfg); err != nil {
		return s, err
	}
	for _, name := range slices.Sorted(maps.Keys(cfg.Properties)) {
		set, known := properties[name]
		if !known {
			return refuse("property", name, "unknown; known are "+strings.Join(slices.Sorted(maps.Keys(properties)), ", "))
		}
		if err := set(&s, cfg.Properties[name]); err != nil {
			return refuse("property "+name, cfg.Properties[name], err.Error())
		}
	}
	if s.heartbeat*2 >= s.session {
		return refuse("property heartbeat", s.heartbeat.String(), "must be less than half of session.timeout "+s.session.String())
	}
	return s, nil
}

// base is what the clients of a cluster have in common.
func (c *Cluster) base() *sarama.Config {
	conf := sarama.NewConfig()
	conf.Version = c.set.version
	conf.ClientID = c.cfg.ClientID
	if conf.ClientID == "" {
		conf.ClientID = "turnout"
	}
	conf.Net.DialTimeout = netTimeout
	conf.Net.ReadTimeout = netTimeout
	conf.Net.WriteTimeout = netTimeout
	conf.Net.Proxy.Enable = true
	conf.Net.Proxy.Dialer = c.dialer
	if c.cfg.Mechanism != "" {
		conf.Net.SASL.Enable = true
		conf.Net.SASL.Mechanism = sarama.SASLMechanism(c.cfg.Mechanism)
		conf.Net.SASL.User, conf.Net.SASL.Password = "login", "login" // not used: scram and plainConn ask for it
		if c.cfg.Mechanism != sarama.SASLTypePlaintext {
			conf.Net.SASL.SCRAMClientGeneratorFunc = func() sarama.SCRAMClient { return newScram(c.cfg.Mechanism, c.cfg.Login) }
		}
	}
	conf.Metadata.Full = false
	conf.Metadata.AllowAutoTopicCreation = false
	conf.Metadata.Retry.Max = 1
	conf.Metadata.Retry.Backoff = 100 * time.Millisecond
	conf.Metadata.Timeout = netTimeout
	return conf
}

// netTimeout bounds a dial, and a request where nothing else does.
const netTimeout = 5 * time.Second

// sending is the configuration of the producing client. What becomes of a batch when the broker hangs, in parts of the
// send timeout: 1/4 for an answer that does not come, then 4 attempts that end at the connection (leaders), with
// 1/20 for that, 1/20 for the metadata and pauses of 15/100 in all: 4/5.
func (c *Cluster) sending() *sarama.Config {
	conf := c.base()
	attempt := c.set.sendTimeout / 4
	conf.Net.DialTimeout = min(netTimeout, attempt)
	conf.Net.ReadTimeout = attempt
	conf.Net.WriteTimeout = attempt
	conf.Net.MaxOpenRequests = 1 // what an idempotent producer needs for order
	conf.Metadata.Retry.Max = 0
	conf.Metadata.Timeout = attempt
	conf.Producer.RequiredAcks = sarama.WaitForAll
	conf.Producer.Idempotent = true
	conf.Producer.Timeout = attempt
	conf.Producer.MaxMessageBytes = c.set.maxMessage
	conf.Producer.Compression = c.set.compression
	conf.Producer.Flush.Frequency = c.set.linger
	conf.Producer.Partitioner = newPartitioner
	conf.Producer.Return.Successes = true
	conf.Producer.Return.Errors = true
	conf.Producer.Retry.Max = 4
	conf.Producer.Retry.BackoffFunc = func(retries, _ int) time.Duration {
		return c.set.sendTimeout / 100 << max(0, retries-1)
	}
	conf.Producer.Transaction.Retry.Max = 2 // also counts the attempts to get a producer id
	return conf
}

// receiving is the configuration of a membership's client.
func (c *Cluster) receiving() *sarama.Config {
	conf := c.base()
	// JoinGroup is answered when the slowest member has let go; a dead peer is found by keep-alive before that.
	conf.Net.ReadTimeout = c.set.rebalance + netTimeout
	conf.Metadata.Retry.Max = 3
	conf.Metadata.Retry.Backoff = 250 * time.Millisecond
	conf.Consumer.Return.Errors = true
	conf.Consumer.IsolationLevel = c.set.isolation
	conf.Consumer.Fetch.Default = 1 << 20
	conf.Consumer.MaxWaitTime = 250 * time.Millisecond
	conf.Consumer.MaxProcessingTime = 1000 * time.Millisecond

	conf.Consumer.Retry.Backoff = 250 * time.Millisecond
	conf.Consumer.Offsets.Initial = sarama.OffsetOldest
	conf.Consumer.Offsets.AutoCommit.Enable = true // without it nothing is flushed when a session ends
	conf.Consumer.Offsets.AutoCommit.Interval = c.set.commit
	conf.Consumer.Group.Session.Timeout = c.set.session
	conf.Consumer.Group.Heartbeat.Interval = c.set.heartbeat
	conf.Consumer.Group.Rebalance.Timeout = c.set.rebalance
	conf.Consumer.Group.Rebalance.Retry.Max = 4
	conf.Consumer.Group.Rebalance.Retry.Backoff = 250 * time.Millisecond
	conf.ChannelBufferSize = 32 // messages of a partition that wait, each perhaps 1 MB
	conf.Consumer.Group.Rebalance.GroupStrategies = []sarama.BalanceStrategy{sarama.NewBalanceStrategyRange()}
	return conf
}
