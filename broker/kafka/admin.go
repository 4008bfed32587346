package kafka

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/IBM/sarama"
	"github.com/cenkalti/backoff/v5"
	"golang.org/x/sync/errgroup"

	"github.com/turnout-mq/turnout/broker"
)

// unlimited: the limit of a topic is not known.
const unlimited int64 = math.MaxInt64

// lookup asks for topic and never creates it. The first error of a partition is the error.
func (c *Cluster) lookup(topic string) (*sarama.TopicMetadata, error) {
	md, err := c.metadata(topic)
	if err != nil {
		return nil, err
	}
	for _, t := range md.Topics {
		if t.Name != topic {
			continue
		}
		if t.Err != sarama.ErrNoError {
			return nil, t.Err
		}
		for _, p := range t.Partitions {
			if p.Err != sarama.ErrNoError && p.Err != sarama.ErrReplicaNotAvailable {
				return nil, fmt.Errorf("partition %d: %w", p.ID, p.Err)
			}
		}
		slices.SortFunc(t.Partitions, func(a, b *sarama.PartitionMetadata) int { return int(a.ID - b.ID) })
		return t, nil
	}
	return nil, sarama.ErrIncompleteResponse
}

// config are the settings of topic; nil when this user may not ask.
func (c *Cluster) config(topic string) ([]*sarama.ConfigEntry, error) {
	return request(c, func(b *sarama.Broker) ([]*sarama.ConfigEntry, error) { return describe(b, sarama.TopicResource, topic) })
}

// describe asks one broker for settings; nil when this user may not ask.
func describe(b *sarama.Broker, kind sarama.ConfigResourceType, name string) ([]*sarama.ConfigEntry, error) {
	resp, err := b.DescribeConfigs(&sarama.DescribeConfigsRequest{
		Version:   2,
		Resources: []*sarama.ConfigResource{{Type: kind, Name: name}},
	})
	if err != nil {
		return nil, err
	}
	for _, r := range resp.Resources {
		switch err := sarama.KError(r.ErrorCode); {
		case err == sarama.ErrTopicAuthorizationFailed || err == sarama.ErrClusterAuthorizationFailed:
			return nil, nil
		case err != sarama.ErrNoError:
			return nil, err
		default:
			return r.Configs, nil
		}
	}
	return nil, sarama.ErrIncompleteResponse
}

// limit is max.message.bytes of topic, or unlimited when this user may not ask.
func (c *Cluster) limit(topic string) (int64, error) {
	entries, err := c.config(topic)
	if err != nil {
		return 0, err
	}
	return limitIn(entries), nil
}

func limitIn(entries []*sarama.ConfigEntry) int64 {
	for _, e := range entries {
		if e.Name == maxMessageBytes {
			if n, err := strconv.ParseInt(e.Value, 10, 64); err == nil {
				return n
			}
		}
	}
	return unlimited
}

// DescribeTopic implements broker.Admin.
func (c *Cluster) DescribeTopic(ctx context.Context, topic string) (broker.TopicInfo, error) {
	return call(ctx, c, "describe topic "+topic, func() (broker.TopicInfo, error) {
		t, err := c.lookup(topic)
		if err != nil {
			return broker.TopicInfo{}, err
		}
		entries, err := c.config(topic)
		if err != nil {
			return broker.TopicInfo{}, err
		}
		info := broker.TopicInfo{Config: map[string]string{}}
		if entries != nil {
			info.Settings = make(map[string]string, len(entries))
		}
		for _, p := range t.Partitions {
			info.Partitions = append(info.Partitions, strconv.Itoa(int(p.ID)))
			info.Replicas = max(info.Replicas, len(p.Replicas))
		}
		for _, e := range entries {
			info.Settings[e.Name] = e.Value
			if e.Source == sarama.SourceTopic {
				info.Config[e.Name] = e.Value
			}
		}
		if limit := limitIn(entries); limit != unlimited {
			info.MaxMessageBytes, info.Fenced = limit, limit <= fenceBytes
		}
		if !info.Fenced {
			info.Restore = info.Config[maxMessageBytes]
		}
		return info, nil
	})
}

// Topics implements broker.Admin.
func (c *Cluster) Topics(ctx context.Context) ([]string, error) {
	return call(ctx, c, "list topics", func() ([]string, error) {
		md, err := c.metadata()
		if err != nil {
			return nil, err
		}
		names := []string{}
		for _, t := range md.Topics {
			if !t.IsInternal {
				names = append(names, t.Name)
			}
		}
		slices.Sort(names)
		return names, nil
	})
}

// CreateTopic implements broker.Admin. It returns when every partition has a leader.
func (c *Cluster) CreateTopic(ctx context.Context, topic string, spec broker.TopicSpec) error {
	_, err := call(ctx, c, "create topic "+topic, func() (none, error) {
		detail := &sarama.TopicDetail{NumPartitions: 4, ReplicationFactor: -1, ConfigEntries: map[string]*string{}}
		if spec.Partitions > 0 {
			detail.NumPartitions = int32(spec.Partitions)
		}
		if spec.Replicas > 0 {
			detail.ReplicationFactor = int16(spec.Replicas)
		}
		for name, value := range spec.Config {
			detail.ConfigEntries[name] = &value
		}
		req := sarama.NewCreateTopicsRequest(c.set.version, map[string]*sarama.TopicDetail{topic: detail}, netTimeout/2, false)
		resp, err := controller(c, func(b *sarama.Broker) (*sarama.CreateTopicsResponse, error) { return b.CreateTopics(req) })
		if err != nil {
			return none{}, err
		}
		if e := resp.TopicErrors[topic]; e == nil {
			return none{}, sarama.ErrIncompleteResponse
		} else if e.Err != sarama.ErrNoError {
			return none{}, e
		}
		return none{}, until(ctx, func() error {
			_, err := c.lookup(topic)
			return err
		})
	})
	return err
}

// DeleteTopic implements broker.Admin. It returns when the brokers say that the topic is gone.
func (c *Cluster) DeleteTopic(ctx context.Context, topic string) error {
	_, err := call(ctx, c, "delete topic "+topic, func() (none, error) {
		req := sarama.NewDeleteTopicsRequest(c.set.version, []string{topic}, netTimeout/2)
		resp, err := controller(c, func(b *sarama.Broker) (*sarama.DeleteTopicsResponse, error) { return b.DeleteTopics(req) })
		if err != nil {
			return none{}, err
		}
		if e, ok := resp.TopicErrorCodes[topic]; !ok {
			return none{}, sarama.ErrIncompleteResponse
		} else if e != sarama.ErrNoError {
			return none{}, e
		}
		return none{}, until(ctx, func() error {
			_, err := c.lookup(topic)
			if errors.Is(err, sarama.ErrUnknownTopicOrPartition) {
				return nil
			}
			return errors.Join(err, errors.New("the topic is still there"))
		})
	})
	if p := c.producer.Load(); p != nil && err == nil {
		p.forget(topic)
	}
	return err
}

type none = struct{}

// until repeats f with growing pauses until it succeeds or ctx ends, 10 s at most.
func until(ctx context.Context, f func() error) error {
	pauses := backoff.NewExponentialBackOff()
	pauses.InitialInterval, pauses.MaxInterval = 10*time.Millisecond, time.Second
	_, err := backoff.Retry(ctx, func() (none, error) { return none{}, f() },
		backoff.WithBackOff(pauses), backoff.WithMaxElapsedTime(10*time.Second))
	return err
}

// controller asks the broker that may create and delete.
func controller[T any](c *Cluster, f func(*sarama.Broker) (T, error)) (T, error) {
	var zero T
	md, err := c.metadata("__consumer_offsets")
	if err != nil {
		return zero, err
	}
	for _, b := range md.Brokers {
		if b.ID() == md.ControllerID {
			_ = b.Open(c.ask.Config())
			defer func() { _ = b.Close() }()
			return f(b)
		}
	}
	return zero, sarama.ErrControllerNotAvailable
}

// EndOffsets implements broker.Admin. A fence hides no partition here.
func (c *Cluster) EndOffsets(ctx context.Context, topic string, _ ...string) (broker.Offsets, error) {
	return c.topicOffsets(ctx, "end offsets of "+topic, topic, sarama.OffsetNewest)
}

// StartOffsets implements broker.Admin.
func (c *Cluster) StartOffsets(ctx context.Context, topic string) (broker.Offsets, error) {
	return c.topicOffsets(ctx, "start offsets of "+topic, topic, sarama.OffsetOldest)
}

func (c *Cluster) topicOffsets(ctx context.Context, what, topic string, at int64) (broker.Offsets, error) {
	return call(ctx, c, what, func() (broker.Offsets, error) {
		t, err := c.lookup(topic)
		if err != nil {
			return nil, err
		}
		return c.offsets(ctx, topic, partitionsOf(t), at)
	})
}

func partitionsOf(t *sarama.TopicMetadata) []int32 {
	ids := make([]int32, len(t.Partitions))
	for i, p := range t.Partitions {
		ids[i] = p.ID
	}
	return ids
}

// offsets asks the leaders, all at once, for the newest or oldest offsets of an existing topic; once more with fresh
// metadata where a leader has changed.
func (c *Cluster) offsets(ctx context.Context, topic string, partitions []int32, at int64) (broker.Offsets, error) {
	return c.visible(ctx, topic, partitions, at, sarama.ReadUncommitted)
}

// visible is offsets as a reader of that isolation level sees them.
func (c *Cluster) visible(ctx context.Context, topic string, partitions []int32, at int64, isolation sarama.IsolationLevel) (broker.Offsets, error) {
	found := make(broker.Offsets, len(partitions))
	var err error
	for attempt := 0; attempt < 3 && ctx.Err() == nil; attempt++ {
		if attempt > 0 {
			_ = c.ask.RefreshMetadata(topic)
		}
		if err = c.offsetsOnce(topic, partitions, at, isolation, found); err == nil {
			return found, nil
		}
	}
	return nil, errors.Join(err, ctx.Err())
}

func (c *Cluster) offsetsOnce(topic string, partitions []int32, at int64, isolation sarama.IsolationLevel, found broker.Offsets) error {
	leaders, err := c.leaders(topic, partitions)
	if err != nil {
		return err
	}
	var mu sync.Mutex
	err = each(leaders, func(leader *sarama.Broker, ids []int32) error {
		req := sarama.NewOffsetRequest(c.set.version)
		req.IsolationLevel = isolation
		for _, p := range ids {
			req.AddBlock(topic, p, at, 1)
		}
		resp, err := leader.GetAvailableOffsets(req)
		if err != nil {
			_ = leader.Close()
			return fmt.Errorf("%s: %w", leader.Addr(), err)
		}
		mu.Lock()
		defer mu.Unlock()
		for p, block := range resp.Blocks[topic] {
			if block.Err != sarama.ErrNoError {
				return fmt.Errorf("partition %d: %w", p, block.Err)
			}
			found[strconv.Itoa(int(p))] = block.Offset
		}
		return nil
	})
	if err != nil {
		return err
	}
	if len(found) != len(partitions) {
		return sarama.ErrIncompleteResponse
	}
	return nil
}

// OpenTransactions implements broker.Mover.
func (c *Cluster) OpenTransactions(ctx context.Context, topic string) (broker.Offsets, error) {
	return call(ctx, c, "open transactions on "+topic, func() (broker.Offsets, error) {
		t, err := c.lookup(topic)
		if err != nil {
			return nil, err
		}
		// The end first: what is stored between the two questions is not taken for undecided.
		ends, err := c.offsets(ctx, topic, partitionsOf(t), sarama.OffsetNewest)
		if err != nil {
			return nil, err
		}
		open, err := c.visible(ctx, topic, partitionsOf(t), sarama.OffsetNewest, sarama.ReadCommitted)
		for name, stable := range open {
			if stable >= ends[name] {
				delete(open, name)
			}
		}
		return open, err
	})
}

// Positions implements broker.Consumer. ErrUnknownTopic when the cluster does not have topic.
func (c *Cluster) Positions(ctx context.Context, group, topic string) (broker.Offsets, error) {
	return call(ctx, c, "positions of group "+group+" on "+topic, func() (broker.Offsets, error) {
		t, err := c.lookup(topic)
		if err != nil {
			return nil, err
		}
		positions, err := c.positions(ctx, group, map[string][]int32{topic: partitionsOf(t)})
		return positions[topic], err
	})
}

// positions asks the coordinator of group; partitions without a position are not in the answer.
func (c *Cluster) positions(ctx context.Context, group string, partitions map[string][]int32) (map[string]broker.Offsets, error) {
	var found map[string]broker.Offsets
	err := c.coordinated(ctx, group, func(b *sarama.Broker) (err error) {
		found, err = fetchPositions(b, c.set.version, group, partitions)
		return err
	})
	return found, err
}

func fetchPositions(b *sarama.Broker, version sarama.KafkaVersion, group string, partitions map[string][]int32) (map[string]broker.Offsets, error) {
	resp, err := b.FetchOffset(sarama.NewOffsetFetchRequest(version, group, partitions))
	if err != nil {
		return nil, err
	}
	found := make(map[string]broker.Offsets, len(partitions))
	for topic := range partitions {
		found[topic] = broker.Offsets{}
	}
	switch err := resp.GroupError(); err {
	case sarama.ErrNoError:
	case sarama.ErrGroupIDNotFound: // kfake; Kafka answers with no position
		return found, nil
	default:
		return nil, err
	}
	for topic, ids := range partitions {
		for _, p := range ids {
			block := resp.GetBlock(topic, p)
			switch {
			case block == nil:
				return nil, sarama.ErrIncompleteResponse
			case block.Err == sarama.ErrGroupIDNotFound, block.Err == sarama.ErrUnknownTopicOrPartition:
			case block.Err != sarama.ErrNoError:
				return nil, fmt.Errorf("partition %d: %w", p, block.Err)
			case block.Offset >= 0:
				found[topic][strconv.Itoa(int(p))] = block.Offset
			}
		}
	}
	return found, nil
}

// coordinated asks the coordinator of group, again where it has moved or is still loading.
func (c *Cluster) coordinated(ctx context.Context, group string, f func(*sarama.Broker) error) error {
	return until(ctx, func() error {
		b, err := c.ask.Coordinator(group)
		if err == nil {
			if err = f(b); err == nil {
				return nil
			}
			if _, answered := errors.AsType[sarama.KError](err); !answered {
				_ = b.Close()
			}
			_ = c.ask.RefreshCoordinator(group)
		}
		if c.Classify(c.wrap("", err)) != broker.Retry {
			return backoff.Permanent(err)
		}
		return err
	})
}

// GroupMembers implements broker.Admin.
func (c *Cluster) GroupMembers(ctx context.Context, group string) ([]string, error) {
	return call(ctx, c, "members of group "+group, func() ([]string, error) {
		ids := []string{}
		err := c.coordinated(ctx, group, func(b *sarama.Broker) error {
			resp, err := b.DescribeGroups(&sarama.DescribeGroupsRequest{Version: 5, Groups: []string{group}})
			if err != nil {
				return err
			}
			for _, g := range resp.Groups {
				switch g.Err {
				case sarama.ErrNoError:
				case sarama.ErrGroupIDNotFound:
					return nil
				default:
					return g.Err
				}
				for _, m := range g.Members {
					ids = append(ids, m.ClientId)
				}
			}
			return nil
		})
		slices.Sort(ids)
		return ids, err
	})
}

// Groups implements broker.Mover. Share groups keep no positions of this kind and are not among them.
func (c *Cluster) Groups(ctx context.Context, topic string) ([]string, error) {
	return call(ctx, c, "groups on "+topic, func() ([]string, error) {
		t, err := c.lookup(topic)
		if err != nil {
			return nil, err
		}
		known, err := c.groups(ctx)
		if err != nil {
			return nil, err
		}
		var mu sync.Mutex
		found := []string{}
		all, ctx := errgroup.WithContext(ctx)
		all.SetLimit(16)
		for _, group := range known {
			all.Go(func() error {
				positions, err := c.positions(ctx, group, map[string][]int32{topic: partitionsOf(t)})
				if err != nil {
					return fmt.Errorf("group %s: %w", group, err)
				}
				mu.Lock()
				defer mu.Unlock()
				if len(positions[topic]) > 0 {
					found = append(found, group)
				}
				return nil
			})
		}
		err = all.Wait()
		slices.Sort(found)
		return found, err
	})
}

// GroupTopics implements broker.Admin. Share groups keep no positions of this kind and are not among them.
func (c *Cluster) GroupTopics(ctx context.Context) (map[string][]string, error) {
	return call(ctx, c, "groups", func() (map[string][]string, error) {
		known, err := c.groups(ctx)
		if err != nil {
			return nil, err
		}
		var mu sync.Mutex
		found := map[string][]string{}
		all, ctx := errgroup.WithContext(ctx)
		all.SetLimit(16)
		for _, group := range known {
			all.Go(func() error {
				var topics []string
				err := c.coordinated(ctx, group, func(b *sarama.Broker) (err error) {
					topics, err = topicsWithPosition(b, c.set.version, group)
					return err
				})
				if err != nil {
					return fmt.Errorf("group %s: %w", group, err)
				}
				mu.Lock()
				defer mu.Unlock()
				if len(topics) > 0 {
					found[group] = topics
				}
				return nil
			})
		}
		err = all.Wait()
		return found, err
	})
}

// topicsWithPosition asks for the positions of a group on all topics at once.
func topicsWithPosition(b *sarama.Broker, version sarama.KafkaVersion, group string) ([]string, error) {
	resp, err := b.FetchOffset(sarama.NewOffsetFetchRequest(version, group, nil))
	if err != nil {
		return nil, err
	}
	switch err := resp.GroupError(); err {
	case sarama.ErrNoError:
	case sarama.ErrGroupIDNotFound: // it has gone
		return nil, nil
	default:
		return nil, err
	}
	blocks := resp.Blocks
	for _, g := range resp.Groups {
		blocks = g.Blocks
	}
	var topics []string
	for topic, partitions := range blocks {
		if strings.HasPrefix(topic, "__") {
			continue
		}
		for _, p := range partitions {
			if p.Err == sarama.ErrNoError && p.Offset >= 0 {
				topics = append(topics, topic)
				break
			}
		}
	}
	slices.Sort(topics)
	return topics, nil
}

// groups of the whole cluster; each broker knows those that it coordinates.
func (c *Cluster) groups(ctx context.Context) ([]string, error) {
	var names []string
	err := until(ctx, func() error {
		_, brokers, err := c.identify()
		if err != nil {
			return err
		}
		lists := make([][]string, len(brokers))
		var all errgroup.Group
		for i, b := range brokers {
			all.Go(func() error {
				_ = b.Open(c.ask.Config())
				defer func() { _ = b.Close() }()
				resp, err := b.ListGroups(&sarama.ListGroupsRequest{Version: 2})
				if err == nil && resp.Err != sarama.ErrNoError {
					err = resp.Err
				}
				if err != nil {
					return fmt.Errorf("%s: %w", b.Addr(), err)
				}
				lists[i] = slices.Collect(maps.Keys(resp.Groups))
				return nil
			})
		}
		err = all.Wait()
		names = slices.Concat(lists...)
		if err != nil && c.Classify(c.wrap("", err)) != broker.Retry {
			return backoff.Permanent(err)
		}
		return err
	})
	slices.Sort(names)
	return slices.Compact(names), err
}
