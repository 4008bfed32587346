package fleet

import (
	"context"
	"encoding/json"
	"errors"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/turnout-mq/turnout/admin/coord"
	"github.com/turnout-mq/turnout/admin/store"
	"github.com/turnout-mq/turnout/internal/errs"
)

// storedAtOnce is how many topics are stored in one transaction.
const storedAtOnce = 200

// lookAtShard is one round of a shard. A topic that can not be looked at does not keep others from it.
func (s *Service) lookAtShard(ctx context.Context, shard coord.Shard) error {
	seen := &shardSeen{ShardLook: ShardLook{Index: shard.Index, Of: shard.Of, At: time.Now().UTC()}, topics: map[string]*Topic{}}
	s.mu.Lock()
	var before map[string]*Topic
	if last := s.seen[shard.Index]; last != nil && last.Of == shard.Of {
		before, last.again = last.topics, true
		defer func() {
			s.mu.Lock()
			last.again = false
			s.mu.Unlock()
		}()
	}
	s.mu.Unlock()
	inv, err := s.inventory(ctx)
	if err != nil {
		return err
	}
	looked := make(chan *Topic)
	ended := make(chan error, 1)
	go func() { ended <- s.lookAtTopics(ctx, shard, inv, before, looked) }()
	var batch []*Topic
	var troubles []error
	flush := func() {
		if len(batch) > 0 && ctx.Err() == nil {
			troubles = append(troubles, s.publish(ctx, batch))
		}
		batch = batch[:0]
	}
	for t := range looked {
		seen.topics[t.Topic] = t
		if seen.Topics++; t.Error != "" {
			seen.Failed++
		}
		if batch = append(batch, t); len(batch) == storedAtOnce {
			flush()
		}
	}
	flush()
	troubles = append(troubles, <-ended)
	if shard.Index == 0 {
		troubles = append(troubles, s.sweep(ctx))
	}
	seen.Took = time.Since(seen.At)
	s.mu.Lock()
	s.seen[shard.Index] = seen
	s.forget()
	s.mu.Unlock()
	s.log.Debug("a shard was looked at", zap.Int("shard", shard.Index), zap.Int("of", shard.Of), zap.Int("topics", seen.Topics), zap.Int("failed", seen.Failed), zap.Duration("took", seen.Took))
	return errors.Join(troubles...)
}

// lookAtTopics looks at all topics of the shard and closes looked.
func (s *Service) lookAtTopics(ctx context.Context, shard coord.Shard, inv *inventory, before map[string]*Topic, looked chan<- *Topic) error {
	defer close(looked)
	var all sync.WaitGroup
	defer all.Wait()
	for _, topic := range inv.topics {
		if !shard.Has(topic) {
			continue
		}
		select {
		case s.turns <- struct{}{}:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		all.Go(func() {
			defer func() { <-s.turns }()
			t, err := s.look(ctx, topic, inv, before[topic])
			switch {
			case err == nil:
				looked <- t
			case errors.Is(err, errs.ErrUnknownTopic) || ctx.Err() != nil: // gone meanwhile; said below
			default:
				s.log.Warn("a topic can not be looked at", zap.String("topic", topic), zap.Error(err))
			}
		})
	}
	return ctx.Err()
}

// The kinds of findings.
const (
	kindTopic    = "topic"
	kindGroup    = "group"
	kindInstance = "instance"
)

// publish stores looks so that every server can answer.
func (s *Service) publish(ctx context.Context, looks []*Topic) error {
	var names []string
	var findings []store.Finding
	add := func(kind, name, topic, cluster string, at time.Time, weight int64, doc any) error {
		data, err := json.Marshal(doc)
		findings = append(findings, store.Finding{Kind: kind, Name: name, Topic: topic, Cluster: cluster, At: at, Weight: weight, Doc: data})
		return err
	}
	for _, t := range looks {
		names = append(names, t.Topic)
		alone := *t
		alone.Groups, alone.Instances = nil, nil // have their own
		if err := add(kindTopic, t.Topic, t.Topic, "", t.Seen, 0, alone); err != nil {
			return err
		}
		for _, g := range t.Groups {
			if err := add(kindGroup, g.Group, t.Topic, g.Cluster, t.Seen, g.Unread, g); err != nil {
				return err
			}
		}
		for _, u := range t.Instances {
			if err := add(kindInstance, u.Instance, t.Topic, "", t.Seen, 0, u); err != nil {
				return err
			}
		}
	}
	return s.db.PutFindings(ctx, names, findings)
}

// sweep removes, now and then, what was seen of topics that are gone.
func (s *Service) sweep(ctx context.Context) error {
	s.mu.Lock()
	due := time.Since(s.swept) > s.cfg.Keep
	if due {
		s.swept = time.Now()
	}
	s.mu.Unlock()
	if !due {
		return nil
	}
	_, err := s.db.DropFindings(ctx, time.Now().Add(-s.cfg.Keep))
	return err
}
