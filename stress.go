package turnout

import (
	"context"
	"errors"
	"time"

	"github.com/turnout-mq/turnout/broker/drivers"
	"github.com/turnout-mq/turnout/consumer"
	"github.com/turnout-mq/turnout/internal/clusters"
	"github.com/turnout-mq/turnout/internal/stress"
	"github.com/turnout-mq/turnout/metadata"
	"github.com/turnout-mq/turnout/producer"
)

// stressLinger is how long the connections of stress traffic are kept, so that little is left of it soon after its end.
const stressLinger = 5 * time.Second

// shadowSide is the other side of the stress mark: what sends and consumes messages that carry it. It has connections of its
// own, because production would wait for the same buffers.
type shadowSide struct {
	pool     *clusters.Pool
	producer *producer.Producer
	consumer *consumer.Consumer
	groups   *stress.Groups
}

func newShadowSide(c *Client, app, id string, o options) *shadowSide {
	session := o.sessionTimeout
	if session == 0 {
		session = metadata.DefaultSessionTimeout
	}
	s := &shadowSide{pool: clusters.NewPool(c.store, drivers.Open, app+"-"+id+"-stress", min(o.clusterLinger, stressLinger), c.log)}
	s.producer = producer.NewShadow(c.set, s.pool, c.log)
	s.consumer = consumer.New(c.store, c.set, s.pool, c.log)
	s.groups = stress.NewGroups(stress.Config{Store: c.store, App: app, Session: session, Report: c.instance.sayShadow, Log: c.log})
	return s
}

// subscribed lets the shadow group of group run beside sub while it is enabled. It ends with sub.
func (s *shadowSide) subscribed(sub *Subscription, group string, l Listener, opts []SubscribeOption) {
	sub.Accompany(s.groups.Subscribed(group, func(ctx context.Context) (stress.Running, error) {
		running, err := s.consumer.SubscribeShadow(ctx, group, l, opts...)
		if err != nil {
			return nil, err // not a nil *Subscription in an interface
		}
		return running, nil
	}))
}

// close ends it; production's subscriptions have been closed.
func (s *shadowSide) close(ctx context.Context) error {
	s.groups.Close()
	return errors.Join(s.consumer.Close(ctx), s.producer.Close(ctx), s.pool.Close(ctx))
}
