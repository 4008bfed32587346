package rocketmq

import (
	"fmt"
	"maps"
	"net"
	"slices"
	"strings"
	"time"

	"github.com/turnout-mq/turnout/broker"
	"github.com/turnout-mq/turnout/internal/errs"
)

const (
	queueTimeout   = 3 * time.Second // of a send that waits for the sends of its key before it
	routeTimeout   = 3 * time.Second // of a send that waits for a route, before it is sent and when a broker did not take it
	sendTimeout    = 3 * time.Second // of one send by the library
	callTimeout    = 5 * time.Second // of one question to a server
	commitInterval = 500 * time.Millisecond
	maxMessage     = 4 << 20 // the broker's default, maxMessageSize
)

// The driver settings.
const (
	propertyDelayLevels = "message.delay.level" // the brokers' messageDelayLevel, where it is not the default
	propertyRetired     = "retired.brokers"     // names of brokers that were shut down for good
)

const defaultDelayLevels = "1s 5s 10s 30s 1m 2m 3m 4m 5m 6m 7m 8m 9m 10m 20m 30m 1h 2h"

// parse checks all of cfg that can be checked without a connection and returns the settings.
func parse(cfg broker.Config) (levels []time.Duration, retired []string, err error) {
	refuse := func(sentinel error, field, value, why string) ([]time.Duration, []string, error) {
		return nil, nil, fmt.Errorf("%w: cluster %q: %s %q: %s", sentinel, cfg.Name, field, value, why)
	}
	if cfg.Kind != broker.RocketMQ {
		return refuse(errs.ErrInvalid, "kind", string(cfg.Kind), "this driver is for "+string(broker.RocketMQ))
	}
	if len(cfg.Addresses) == 0 {
		return refuse(errs.ErrInvalid, "addresses", "", "name at least one name server as host:port")
	}
	for _, address := range cfg.Addresses {
		if host, port, err := net.SplitHostPort(address); err != nil || host == "" || port == "" {
			return refuse(errs.ErrInvalid, "address", address, "write it as host:port")
		}
	}
	if cfg.Mechanism != "" && cfg.Mechanism != "ACL" {
		return refuse(errs.ErrInvalid, "mechanism", cfg.Mechanism, "use ACL, or none")
	}
	if (cfg.Mechanism == "") != (cfg.Login == nil) {
		return refuse(errs.ErrInvalid, "mechanism", cfg.Mechanism, "Mechanism and Login are given together or not at all")
	}
	if cfg.Login != nil {
		accessKey, secretKey, err := cfg.Login()
		if err != nil {
			return nil, nil, fmt.Errorf("cluster %q: %w", cfg.Name, err)
		}
		if accessKey == "" || secretKey == "" {
			return refuse(errs.ErrInvalid, "mechanism", cfg.Mechanism, "needs username (access key) and password (secret key)")
		}
	}
	if cfg.TLS != nil {
		return refuse(errs.ErrUnsupported, "tls", "on", "RocketMQ's Go library checks no certificates; reach the cluster without TLS")
	}
	for _, name := range slices.Sorted(maps.Keys(cfg.Properties)) {
		if name != propertyDelayLevels && name != propertyRetired {
			return refuse(errs.ErrInvalid, "property", name, "unknown; known are "+propertyDelayLevels+" and "+propertyRetired)
		}
	}
	text := cfg.Properties[propertyDelayLevels]
	if text == "" {
		text = defaultDelayLevels
	}
	for _, word := range strings.Fields(text) {
		d, err := parseLevel(word)
		if err != nil || d <= 0 || len(levels) > 0 && d <= levels[len(levels)-1] {
			return refuse(errs.ErrInvalid, "property "+propertyDelayLevels, text,
				"write the broker's messageDelayLevel: growing times such as 1s 5m 2h 1d")
		}
		levels = append(levels, d)
	}
	for _, name := range strings.Fields(cfg.Properties[propertyRetired]) {
		if !topicName.MatchString(name) {
			return refuse(errs.ErrInvalid, "property "+propertyRetired, name, "write names of brokers with spaces between")
		}
		retired = append(retired, name)
	}
	return levels, retired, nil
}

// parseLevel reads one delay level; Go knows no days.
func parseLevel(word string) (time.Duration, error) {
	if days, ok := strings.CutSuffix(word, "d"); ok {
		d, err := time.ParseDuration(days + "h")
		return 24 * d, err
	}
	return time.ParseDuration(word)
}
