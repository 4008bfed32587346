// Package drivers is the list of the kinds of clusters that Turnout can open.
package drivers

import (
	"context"
	"fmt"

	"github.com/turnout-mq/turnout/broker"
	"github.com/turnout-mq/turnout/broker/kafka"
	"github.com/turnout-mq/turnout/broker/rocketmq"
	"github.com/turnout-mq/turnout/internal/errs"
)

// Open opens a cluster with the driver of its kind.
func Open(ctx context.Context, cfg broker.Config) (broker.Cluster, error) {
	switch cfg.Kind {
	case broker.Kafka:
		return kafka.Open(ctx, cfg)
	case broker.RocketMQ:
		return rocketmq.Open(ctx, cfg)
	}
	return nil, fmt.Errorf("%w: cluster %q: kind %q: must be %q or %q", errs.ErrInvalid, cfg.Name, cfg.Kind, broker.Kafka, broker.RocketMQ)
}
