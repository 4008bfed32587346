package rocketmq

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/turnout-mq/turnout/broker"
	"github.com/turnout-mq/turnout/broker/rocketmq/remoting"
	"github.com/turnout-mq/turnout/internal/errs"
)

const (
	readWrite     = remoting.PermRead | remoting.PermWrite
	defaultQueues = 4
	maxParallel   = 16 // questions to brokers at a time
	probeQueues   = 16 // queues that are looked for on a broker where a fenced topic was never seen open
	pollInterval  = 20 * time.Millisecond
	// pollsToTell is after how many polls (1 s) a broker is told again: a name server that gets several changes of a broker at one
	// moment may keep the old numbers and take the newest version for known (apache/rocketmq#10438).
	pollsToTell = 50
)

var topicName = regexp.MustCompile(`^[%|a-zA-Z0-9_-]{1,127}$`)

// masters are the cluster's brokers by name, in the order of their names.
func (c *Cluster) masters(ctx context.Context) ([]remoting.BrokerData, error) {
	info, err := c.routes.clusterInfo(ctx)
	if err != nil {
		return nil, err
	}
	var out []remoting.BrokerData
	for _, name := range slices.Sorted(maps.Keys(info.Brokers)) {
		if b := info.Brokers[name]; c.routes.ours(b) && b.Master() != "" {
			out = append(out, b)
		}
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("%w: no broker is registered at the name server now", errUnavailable)
	}
	return out, nil
}

// queues are all queues of topic with their brokers' addresses, also those that a fence has taken out of the route.
func (c *Cluster) queues(ctx context.Context, topic string) ([]remoting.Queue, map[string]string, error) {
	r, err := c.routes.complete(ctx, topic)
	if err != nil {
		return nil, nil, err
	}
	var out []remoting.Queue
	for _, name := range r.brokers() {
		n := max(r.widths[name], c.routes.width(topic, name))
		if n == 0 {
			if n, err = c.probe(ctx, r.masters[name], remoting.Queue{Topic: topic, Broker: name}); err != nil {
				return nil, nil, err
			}
		}
		out = appendQueues(out, topic, name, n)
	}
	return out, r.masters, nil
}

// probe looks how many queues of a broker have messages. A topic with its queue numbers at 0 keeps them, and this
// process may never have seen it open.
func (c *Cluster) probe(ctx context.Context, addr string, q remoting.Queue) (int, error) {
	n := 0
	for ; q.ID < n+probeQueues; q.ID++ {
		end, err := call(ctx, func(ctx context.Context) (int64, error) { return c.admin.MaxOffset(ctx, addr, q) })
		if err != nil {
			return 0, err
		}
		if end > 0 {
			n = q.ID + 1
		}
	}
	return n, nil
}

// offsets asks for one number for every queue of topic; a negative one is left out.
func (c *Cluster) offsets(ctx context.Context, queues []remoting.Queue, addrs map[string]string,
	ask func(ctx context.Context, addr string, q remoting.Queue) (int64, error)) (broker.Offsets, error) {
	out := make(broker.Offsets, len(queues))
	var mu sync.Mutex
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(maxParallel)
	for _, q := range queues {
		g.Go(func() error {
			n, err := call(ctx, func(ctx context.Context) (int64, error) { return ask(ctx, addrs[q.Broker], q) })
			if err != nil {
				return fmt.Errorf("queue %s: %w", partition(q), err)
			}
			mu.Lock()
			defer mu.Unlock()
			if n >= 0 {
				out[partition(q)] = n
			}
			return nil
		})
	}
	return out, g.Wait()
}

// EndOffsets implements broker.Admin. What brokers acknowledged before the call is counted.
func (c *Cluster) EndOffsets(ctx context.Context, topic string, known ...string) (broker.Offsets, error) {
	ctx, cancel, err := c.ask(ctx)
	if err != nil {
		return nil, err
	}
	defer cancel()
	out, err := c.endOffsets(ctx, topic, known)
	return out, c.done("end offsets of topic "+topic, err)
}

func (c *Cluster) endOffsets(ctx context.Context, topic string, known []string) (broker.Offsets, error) {
	queues, addrs, err := c.queues(ctx, topic)
	if err != nil {
		return nil, err
	}
	for _, name := range known {
		q, err := queueOf(topic, name)
		if err != nil {
			return nil, err
		}
		if c.routes.retired[q.Broker] && addrs[q.Broker] == "" {
			continue
		}
		if addrs[q.Broker] == "" {
			return nil, fmt.Errorf("%w: queue %s is on a broker that does not carry the topic now", errUnavailable, name)
		}
		if !slices.Contains(queues, q) {
			queues = append(queues, q)
		}
	}
	for _, addr := range addrs {
		if err := c.indexed(ctx, addr); err != nil {
			return nil, err
		}
	}
	return c.offsets(ctx, queues, addrs, c.admin.MaxOffset)
}

// indexed waits until a broker's end offsets count what it had stored when it was asked: it acknowledges messages a
// moment before it puts them into their queues. A broker that may not tell is taken at its word.
func (c *Cluster) indexed(ctx context.Context, addr string) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	var goal int64 = -1
	for {
		table, err := call(ctx, func(ctx context.Context) (map[string]string, error) { return c.admin.BrokerRuntime(ctx, addr) })
		if remoting.HasCode(err, remoting.NotSupported, remoting.NoPermission) {
			return nil
		}
		if remoting.HasCode(err, remoting.SystemError) { // in its first seconds: it has no counters yet
			if err := sleep(ctx, 5*pollInterval); err != nil {
				return err
			}
			continue
		}
		if err != nil {
			return err
		}
		stored, err1 := strconv.ParseInt(table["commitLogMaxOffset"], 10, 64)
		behind, err2 := strconv.ParseInt(table["dispatchBehindBytes"], 10, 64)
		if err1 != nil || err2 != nil {
			return nil
		}
		if goal < 0 {
			goal = stored
		}
		if stored-behind >= goal {
			return nil
		}
		if err := sleep(ctx, pollInterval); err != nil {
			return err
		}
	}
}

// sleep returns ctx's error when ctx ends before d has passed.
func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// StartOffsets implements broker.Admin.
func (c *Cluster) StartOffsets(ctx context.Context, topic string) (broker.Offsets, error) {
	ctx, cancel, err := c.ask(ctx)
	if err != nil {
		return nil, err
	}
	defer cancel()
	out, err := c.startOffsets(ctx, topic)
	return out, c.done("start offsets of topic "+topic, err)
}

func (c *Cluster) startOffsets(ctx context.Context, topic string) (broker.Offsets, error) {
	queues, addrs, err := c.queues(ctx, topic)
	if err != nil {
		return nil, err
	}
	return c.offsets(ctx, queues, addrs, func(ctx context.Context, addr string, q remoting.Queue) (int64, error) {
		n, err := c.admin.MinOffset(ctx, addr, q)
		return max(n, 0), err // -1: the queue never had a message
	})
}

// CreateTopic implements broker.Admin: on every master, with spec.Partitions queues each. spec.Replicas has no meaning
// here, brokers are replicated as a whole; spec.Config is refused.
func (c *Cluster) CreateTopic(ctx context.Context, topic string, spec broker.TopicSpec) error {
	ctx, cancel, err := c.ask(ctx)
	if err != nil {
		return err
	}
	defer cancel()
	return c.done("create topic "+topic, c.createTopic(ctx, topic, spec))
}

func (c *Cluster) createTopic(ctx context.Context, topic string, spec broker.TopicSpec) error {
	queues := spec.Partitions
	switch {
	case !topicName.MatchString(topic):
		return invalid("topic name %q: 1 to 127 of a-z A-Z 0-9 _ - %% |", topic)
	case queues < 0 || queues > 10000:
		return invalid("%d partitions: 1 to 10000, or 0 for %d", queues, defaultQueues)
	case len(spec.Config) > 0:
		return fmt.Errorf("%w: topic settings %v: RocketMQ topics have none", errs.ErrUnsupported, slices.Sorted(maps.Keys(spec.Config)))
	case queues == 0:
		queues = defaultQueues
	}
	masters, err := c.masters(ctx)
	if err != nil {
		return err
	}
	if _, err := c.routes.get(ctx, topic, 0); err == nil {
		return fmt.Errorf("%w: it exists", errs.ErrConflict)
	} else if !errors.Is(err, errs.ErrUnknownTopic) {
		return err
	}
	tell := c.update
	for polls := 0; ; polls++ { // until clients can find it
		if polls%pollsToTell == 0 {
			for _, b := range masters {
				err := tell(ctx, b.Master(), remoting.TopicConfig{Name: topic, ReadQueues: queues, WriteQueues: queues, Perm: readWrite})
				if err != nil {
					return fmt.Errorf("broker %q: %w", b.Name, err)
				}
			}
			tell = c.tellAgain
		}
		r, err := c.routes.get(ctx, topic, 0)
		if err != nil && !errors.Is(err, errs.ErrUnknownTopic) {
			return err
		}
		if err == nil && len(r.masters) >= len(masters) {
			return nil
		}
		if err := sleep(ctx, pollInterval); err != nil {
			return fmt.Errorf("the name server does not show it yet: %w", err)
		}
	}
}

func (c *Cluster) update(ctx context.Context, addr string, t remoting.TopicConfig) error {
	_, err := call(ctx, func(ctx context.Context) (struct{}, error) { return struct{}{}, c.admin.UpdateTopic(ctx, addr, t) })
	return err
}

// tellAgain has a broker tell its name servers of a topic that it has as it is to be. It tells them of changes alone, so there is
// one for a moment that nothing depends on: whether topics that are made by sending get its permission.
func (c *Cluster) tellAgain(ctx context.Context, addr string, t remoting.TopicConfig) error {
	changed := t
	changed.Perm |= remoting.PermInherit
	if err := c.update(ctx, addr, changed); err != nil {
		return err
	}
	return c.update(ctx, addr, t)
}

// DeleteTopic implements broker.Admin.
func (c *Cluster) DeleteTopic(ctx context.Context, topic string) error {
	ctx, cancel, err := c.ask(ctx)
	if err != nil {
		return err
	}
	defer cancel()
	return c.done("delete topic "+topic, c.deleteTopic(ctx, topic))
}

func (c *Cluster) deleteTopic(ctx context.Context, topic string) error {
	r, err := c.routes.complete(ctx, topic)
	if err != nil {
		return err
	}
	for _, name := range r.brokers() {
		_, err := call(ctx, func(ctx context.Context) (struct{}, error) {
			return struct{}{}, c.admin.DeleteTopic(ctx, r.masters[name], topic)
		})
		// RocketMQ 5.5 without timer messages deletes the topic and then answers with an error.
		if _, gone := c.topicConfig(ctx, r.masters[name], topic); err != nil && !remoting.HasCode(gone, remoting.TopicNotExist) {
			return fmt.Errorf("broker %q: %w", name, err)
		}
	}
	for _, addr := range c.routes.names {
		_, err := call(ctx, func(ctx context.Context) (struct{}, error) {
			return struct{}{}, c.admin.ForgetTopic(ctx, addr, topic)
		})
		if err != nil {
			return fmt.Errorf("name server %s: %w", addr, err)
		}
	}
	c.routes.forget(topic)
	return nil
}

func (c *Cluster) topicConfig(ctx context.Context, addr, topic string) (*remoting.TopicConfig, error) {
	return call(ctx, func(ctx context.Context) (*remoting.TopicConfig, error) { return c.admin.TopicConfig(ctx, addr, topic) })
}

// DescribeTopic implements broker.Admin. Fenced is what the brokers themselves say; before 5.0 what the name server
// says.
func (c *Cluster) DescribeTopic(ctx context.Context, topic string) (broker.TopicInfo, error) {
	ctx, cancel, err := c.ask(ctx)
	if err != nil {
		return broker.TopicInfo{}, err
	}
	defer cancel()
	info, err := c.describeTopic(ctx, topic)
	return info, c.done("describe topic "+topic, err)
}

func (c *Cluster) describeTopic(ctx context.Context, topic string) (broker.TopicInfo, error) {
	queues, addrs, err := c.queues(ctx, topic)
	if err != nil {
		return broker.TopicInfo{}, err
	}
	info := broker.TopicInfo{Fenced: true, Settings: map[string]string{}}
	open := map[string]numbers{}
	if r := c.routes.cached(topic); r != nil {
		info.Replicas = r.replicas
	}
	for _, q := range queues {
		info.Partitions = append(info.Partitions, partition(q))
	}
	broker.SortPartitions(info.Partitions)
	for name, addr := range addrs {
		t, err := c.topicConfig(ctx, addr, topic)
		switch {
		case remoting.HasCode(err, remoting.NotSupported, remoting.NoPermission):
			if r := c.routes.cached(topic); r != nil {
				t = &remoting.TopicConfig{Perm: readWrite, ReadQueues: countOf(r.readable, name), WriteQueues: countOf(r.writable, name)}
			}
		case remoting.HasCode(err, remoting.TopicNotExist): // deleted a moment ago
			continue
		case err != nil:
			return broker.TopicInfo{}, fmt.Errorf("broker %q: %w", name, err)
		}
		if t != nil && t.Perm&remoting.PermWrite != 0 && t.WriteQueues > 0 {
			info.Fenced = false
			if t.ReadQueues > 0 {
				open[name] = numbers{Read: t.ReadQueues, Write: t.WriteQueues, Perm: t.Perm | readWrite}
			}
		}
		if t != nil && t.ReadQueues == 0 && t.WriteQueues == 0 {
			info.Closed = append(info.Closed, name)
		}
		at, err2 := c.about(ctx, name, addr)
		if err2 != nil {
			return broker.TopicInfo{}, err2
		}
		if err != nil {
			t = nil // what the route says is not all
		}
		join(info.Settings, settings(t, at))
		limit, _ := strconv.ParseInt(at["maxMessageSize"], 10, 64) // 0 when it is not there
		if limit > 0 && (info.MaxMessageBytes == 0 || limit < info.MaxMessageBytes) {
			info.MaxMessageBytes = limit
		}
	}
	if slices.Sort(info.Closed); info.Fenced {
		info.Closed = nil
	}
	info.Restore, err = restoreText(open)
	return info, err
}

func countOf(queues []remoting.Queue, brokerName string) int {
	n := 0
	for _, q := range queues {
		if q.Broker == brokerName {
			n++
		}
	}
	return n
}

// Topics implements broker.Admin. Retry and dead letter topics count as the broker's own.
func (c *Cluster) Topics(ctx context.Context) ([]string, error) {
	ctx, cancel, err := c.ask(ctx)
	if err != nil {
		return nil, err
	}
	defer cancel()
	names, err := askNames(ctx, c.routes, c.admin.Topics)
	if err != nil {
		return nil, c.done("list topics", err)
	}
	info, err := c.routes.clusterInfo(ctx)
	if err != nil {
		return nil, c.done("list topics", err)
	}
	names = slices.DeleteFunc(names, func(name string) bool {
		_, isBroker := info.Brokers[name]
		_, isCluster := info.Clusters[name]
		return isBroker || isCluster || systemTopic(name)
	})
	slices.Sort(names)
	return names, nil
}

// systemTopic: what every broker creates for itself or for groups.
func systemTopic(name string) bool {
	for _, prefix := range []string{"%RETRY%", "%DLQ%", "rmq_sys_", "RMQ_SYS_"} {
		if strings.HasPrefix(name, prefix) {
			return true
		}
	}
	switch name {
	case "TBW102", "SCHEDULE_TOPIC_XXXX", "BenchmarkTest", "TRANS_CHECK_MAX_TIME_TOPIC", "SELF_TEST_TOPIC",
		"OFFSET_MOVED_EVENT", "CHECKPOINT_TOPIC":
		return true
	}
	return strings.HasSuffix(name, "_REPLY_TOPIC")
}

// GroupMembers implements broker.Admin.
func (c *Cluster) GroupMembers(ctx context.Context, group string) ([]string, error) {
	ctx, cancel, err := c.ask(ctx)
	if err != nil {
		return nil, err
	}
	defer cancel()
	members, err := c.groupMembers(ctx, group)
	return members, c.done("members of group "+group, err)
}

func (c *Cluster) groupMembers(ctx context.Context, group string) ([]string, error) {
	masters, err := c.masters(ctx)
	if err != nil {
		return nil, err
	}
	var all []string
	for _, b := range masters {
		ids, err := call(ctx, func(ctx context.Context) ([]string, error) { return c.admin.ConsumerIDs(ctx, b.Master(), group) })
		if err != nil {
			return nil, fmt.Errorf("broker %q: %w", b.Name, err)
		}
		all = append(all, ids...)
	}
	slices.Sort(all)
	return slices.Compact(all), nil
}

// Describe implements broker.Admin.
func (c *Cluster) Describe(ctx context.Context) (broker.Info, error) {
	ctx, cancel, err := c.ask(ctx)
	if err != nil {
		return broker.Info{}, err
	}
	defer cancel()
	masters, err := c.masters(ctx)
	if err != nil {
		return broker.Info{}, c.done("describe", err)
	}
	info := broker.Info{ClusterID: masters[0].Cluster}
	versions := map[string]string{}
	for _, b := range masters {
		info.Brokers = append(info.Brokers, b.Master())
		at, err := c.about(ctx, b.Name, b.Master())
		if err != nil {
			return broker.Info{}, c.done("describe", err)
		}
		info.AutoCreate = info.AutoCreate || at[autoCreate] != "false"
		runtime, err := call(ctx, func(ctx context.Context) (map[string]string, error) { return c.admin.BrokerRuntime(ctx, b.Master()) })
		if err == nil {
			join(versions, map[string]string{"": runtime["brokerVersionDesc"]})
		}
	}
	info.Version = versions[""]
	return info, nil
}
