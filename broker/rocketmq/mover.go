package rocketmq

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/turnout-mq/turnout/broker"
	"github.com/turnout-mq/turnout/broker/rocketmq/remoting"
	"github.com/turnout-mq/turnout/internal/errs"
)

// Groups implements broker.Mover. Before 5.0 also groups that are connected and have no position yet.
func (c *Cluster) Groups(ctx context.Context, topic string) ([]string, error) {
	ctx, cancel, err := c.ask(ctx)
	if err != nil {
		return nil, err
	}
	defer cancel()
	groups, err := c.groups(ctx, topic)
	return groups, c.done("groups on topic "+topic, err)
}

func (c *Cluster) groups(ctx context.Context, topic string) ([]string, error) {
	r, err := c.routes.complete(ctx, topic)
	if err != nil {
		return nil, err
	}
	var known []string
	for _, name := range r.brokers() {
		list, err := call(ctx, func(ctx context.Context) ([]string, error) {
			return c.admin.ConsumingGroups(ctx, r.masters[name], topic)
		})
		if err != nil {
			return nil, fmt.Errorf("broker %q: %w", name, err)
		}
		known = append(known, list...)
	}
	slices.Sort(known)
	found := []string{}
	for _, group := range slices.Compact(known) { // with those that are only connected
		positions, err := c.positions(ctx, group, topic)
		if err != nil {
			return nil, fmt.Errorf("group %q: %w", group, err)
		}
		if len(positions) > 0 {
			found = append(found, group)
		}
	}
	return found, nil
}

// GroupTopics implements broker.Admin: brokers are asked for each topic.
func (c *Cluster) GroupTopics(ctx context.Context) (map[string][]string, error) {
	topics, err := c.Topics(ctx)
	if err != nil {
		return nil, err
	}
	var mu sync.Mutex
	found := map[string][]string{}
	all, ctx := errgroup.WithContext(ctx)
	all.SetLimit(16)
	for _, topic := range topics {
		all.Go(func() error {
			groups, err := c.Groups(ctx, topic)
			if errors.Is(err, errs.ErrUnknownTopic) { // deleted a moment ago
				return nil
			}
			mu.Lock()
			defer mu.Unlock()
			for _, group := range groups {
				found[group] = append(found[group], topic)
			}
			return err
		})
	}
	err = all.Wait()
	for _, topics := range found {
		slices.Sort(topics)
	}
	return found, err
}

// Peek implements broker.Mover.
func (c *Cluster) Peek(ctx context.Context, topic, part string, at int64, limit int) ([]broker.Delivery, int64, error) {
	ctx, cancel, err := c.ask(ctx)
	if err != nil {
		return nil, 0, err
	}
	defer cancel()
	messages, next, err := c.peek(ctx, topic, part, at, limit)
	if err != nil {
		return nil, 0, c.done("peek into queue "+part+" of topic "+topic, err)
	}
	return messages, next, nil
}

func (c *Cluster) peek(ctx context.Context, topic, part string, at int64, limit int) ([]broker.Delivery, int64, error) {
	if at < 0 || limit < 1 {
		return nil, 0, invalid("at %d, limit %d: must be 0 or more, and 1 or more", at, limit)
	}
	queues, addrs, err := c.queues(ctx, topic)
	if err != nil {
		return nil, 0, err
	}
	i := slices.IndexFunc(queues, func(q remoting.Queue) bool { return partition(q) == part })
	if i < 0 {
		return nil, 0, invalid("the topic has no such queue")
	}
	q := queues[i]
	for {
		r, err := call(ctx, func(ctx context.Context) (*remoting.PullResult, error) {
			return c.admin.PullMessages(ctx, addrs[q.Broker], remoting.Pull{Group: toolsGroup, Queue: q, Offset: at,
				Max: min(limit, pullMax), Subscription: remoting.NewSubscription(topic, "", 0)})
		})
		if err != nil {
			return nil, 0, err
		}
		var messages []broker.Delivery
		for _, m := range r.Messages {
			if m.QueueOffset < at || len(messages) == limit {
				continue
			}
			d, err := decode(m, q, false, c.cfg.Name)
			if err != nil {
				return nil, 0, err
			}
			d.Writer = m.BornHost.String()
			messages = append(messages, *d)
		}
		switch n := len(messages); {
		case n > 0:
			return messages, messages[n-1].Offset + 1, nil
		case at >= r.Max || r.Next >= r.Max:
			return nil, r.Max, nil
		case r.Next <= at:
			return nil, 0, fmt.Errorf("%w: it gives nothing from offset %d on, its end is %d", errUnavailable, at, r.Max)
		}
		at = r.Next
	}
}

// about asks the master of every broker what Describe and DescribeTopic tell of it; nil of one that may not be asked.
func (c *Cluster) about(ctx context.Context, name, addr string) (map[string]string, error) {
	settings, err := call(ctx, func(ctx context.Context) (map[string]string, error) { return c.admin.BrokerConfig(ctx, addr) })
	if remoting.HasCode(err, remoting.NotSupported, remoting.NoPermission) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("broker %q: %w", name, err)
	}
	return settings, nil
}

// brokerSettings are those that matter to a topic and that it has not of its own.
var brokerSettings = []string{"fileReservedTime", "maxMessageSize", autoCreate}

const autoCreate = "autoCreateTopicEnable"

// settings are those of one broker in effect for a topic.
func settings(of *remoting.TopicConfig, at map[string]string) map[string]string {
	out := map[string]string{}
	for _, name := range brokerSettings {
		if v, ok := at[name]; ok {
			out[name] = v
		}
	}
	if of != nil {
		out["readQueueNums"], out["writeQueueNums"] = strconv.Itoa(of.ReadQueues), strconv.Itoa(of.WriteQueues)
		out["perm"], out["order"] = strconv.Itoa(of.Perm), strconv.FormatBool(of.Order)
		for name, v := range of.Attributes {
			out[name] = v
		}
	}
	return out
}

// join adds what one more broker says; where brokers differ all values are kept.
func join(all, one map[string]string) {
	for name, v := range one {
		if values := strings.Split(all[name], "|"); all[name] == "" {
			all[name] = v
		} else if !slices.Contains(values, v) {
			values = append(values, v)
			slices.Sort(values)
			all[name] = strings.Join(values, "|")
		}
	}
}
