// Package clustertest is a driver whose answers a test decides, for tests of what happens above the drivers.
package clustertest

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/turnout-mq/turnout/broker"
	"github.com/turnout-mq/turnout/internal/errs"
)

// Errors of each class that Classify knows; any other error is one to repeat.
var (
	ErrFatal   = errors.New("fatal")
	ErrRefused = errors.New("refused")
)

// Driver opens clusters that remember what was sent to them. Its functions may be set before it is used; each may be nil.
type Driver struct {
	// OnOpen may refuse to open, or wait.
	OnOpen func(ctx context.Context, cfg broker.Config) error
	// OnWarm may refuse to warm.
	OnWarm func(c *Cluster, topic string) error
	// OnSend decides what becomes of a message: it calls done once, at any time. nil: Cluster.Store at once.
	OnSend func(c *Cluster, topic string, m *broker.Envelope, done func(broker.Receipt, error))
	// OnClose may wait.
	OnClose func(ctx context.Context, c *Cluster) error
	// Topic is what DescribeTopic answers.
	Topic func(c *Cluster) (broker.TopicInfo, error)

	mu     sync.Mutex
	opened []*Cluster
}

// Opened are the clusters that were opened so far, in order.
func (d *Driver) Opened() []*Cluster {
	d.mu.Lock()
	defer d.mu.Unlock()
	return append([]*Cluster(nil), d.opened...)
}

// Open is a clusters.OpenFunc.
func (d *Driver) Open(ctx context.Context, cfg broker.Config) (broker.Cluster, error) {
	if d.OnOpen != nil {
		if err := d.OnOpen(ctx, cfg); err != nil {
			return nil, err
		}
	}
	c := &Cluster{Config: cfg, driver: d}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.opened = append(d.opened, c)
	return c, nil
}

// Cluster is one open connection. What a producer does not use of broker.Cluster panics.
type Cluster struct {
	broker.Cluster
	Config broker.Config

	driver *Driver
	closed atomic.Bool
	mu     sync.Mutex
	stored []broker.Envelope
}

// Closed says whether Close was called.
func (c *Cluster) Closed() bool { return c.closed.Load() }

// Stored are the messages that were stored, in order.
func (c *Cluster) Stored() []broker.Envelope {
	c.mu.Lock()
	defer c.mu.Unlock()
	return append([]broker.Envelope(nil), c.stored...)
}

// Store stores m.
func (c *Cluster) Store(m *broker.Envelope) broker.Receipt {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.stored = append(c.stored, *m)
	return broker.Receipt{Partition: "0", Offset: int64(len(c.stored) - 1)}
}

// Features implements broker.Cluster.
func (c *Cluster) Features() broker.Features { return broker.Features{Fence: true} }

// Classify implements broker.Cluster.
func (c *Cluster) Classify(err error) broker.Class {
	switch {
	case errors.Is(err, errs.ErrClosed):
		return broker.Closed
	case errors.Is(err, ErrFatal), errors.Is(err, errs.ErrUnknownTopic):
		return broker.Fatal
	case errors.Is(err, ErrRefused):
		return broker.Refused
	}
	return broker.Retry
}

// Warm implements broker.Cluster.
func (c *Cluster) Warm(_ context.Context, topic string) error {
	if c.driver.OnWarm != nil {
		return c.driver.OnWarm(c, topic)
	}
	return nil
}

// Send implements broker.Cluster.
func (c *Cluster) Send(_ context.Context, topic string, m *broker.Envelope, done func(broker.Receipt, error)) {
	switch {
	case c.Closed():
		done(broker.Receipt{}, fmt.Errorf("cluster %q: %w", c.Config.Name, errs.ErrClosed))
	case c.driver.OnSend != nil:
		c.driver.OnSend(c, topic, m, done)
	default:
		done(c.Store(m), nil)
	}
}

// DescribeTopic implements broker.Cluster.
func (c *Cluster) DescribeTopic(context.Context, string) (broker.TopicInfo, error) {
	if c.driver.Topic != nil {
		return c.driver.Topic(c)
	}
	return broker.TopicInfo{MaxMessageBytes: 1 << 20}, nil
}

// Close implements broker.Cluster.
func (c *Cluster) Close(ctx context.Context) error {
	if !c.closed.Swap(true) && c.driver.OnClose != nil {
		return c.driver.OnClose(ctx, c)
	}
	return nil
}
