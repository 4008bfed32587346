package kafka

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/IBM/sarama"
	"github.com/cenkalti/backoff/v5"
	"go.uber.org/zap"

	"github.com/turnout-mq/turnout/broker"
	"github.com/turnout-mq/turnout/internal/errs"
	"github.com/turnout-mq/turnout/internal/pace"
)

// member is one membership: a client and a consumer group of its own, and the goroutine that joins again and again.
type member struct {
	c      *Cluster
	m      broker.Membership
	retry  string          // the retry topic
	tags   map[string]bool // nil: all
	log    *zap.Logger
	ctx    context.Context
	leave  context.CancelFunc
	left   chan struct{} // closed when the member has left
	change chan struct{} // one notice for Changed
	pace   pace.Pace

	sessions sync.WaitGroup // what works while an assignment is in force

	mu      sync.Mutex
	session int             // number of the assignment that is in force; 0: none
	last    int             // number of the last assignment
	claims  map[string]bool // partitions of the topic; true when its leader has answered
	err     error
	errors  int         // how many there were
	forget  *time.Timer // clears err
}

// errorStays is how long an error that was not followed by another shows in the state of an attached member.
const errorStays = 3 * time.Second

// Join implements broker.Consumer.
func (c *Cluster) Join(ctx context.Context, m broker.Membership) (broker.Member, error) {
	what := "join group " + m.Group + " on " + m.Topic
	if m.Group == "" || m.Topic == "" || m.Claim == nil {
		return nil, c.wrap(what, fmt.Errorf("%w: Group, Topic and Claim are required", errs.ErrInvalid))
	}
	r := &member{
		c:      c,
		m:      m,
		retry:  retryTopic(m.Group),
		log:    c.log.With(zap.String("cluster", c.cfg.Name), zap.String("group", m.Group), zap.String("topic", m.Topic)),
		left:   make(chan struct{}),
		change: make(chan struct{}, 1),
	}
	for tag := range strings.SplitSeq(m.Tag, "||") {
		if tag = strings.TrimSpace(tag); tag != "" {
			if r.tags == nil {
				r.tags = make(map[string]bool)
			}
			r.tags[tag] = true
		}
	}
	if _, err := call(ctx, c, what, func() (*sarama.TopicMetadata, error) { return c.lookup(m.Topic) }); err != nil {
		return nil, err
	}
	topics := []string{m.Topic}
	if m.Retries {
		if err := c.provideRetries(ctx, r.retry, m.Topic); err != nil {
			return nil, err
		}
		topics = append(topics, r.retry)
	}
	group, err := sarama.NewConsumerGroup(c.cfg.Addresses, m.Group, c.receiving()) // asks nobody yet: base does not read all metadata
	if err != nil {
		return nil, c.wrap(what, err)
	}
	r.ctx, r.leave = context.WithCancel(context.Background())
	c.mu.Lock()
	if c.closed {
		c.mu.Unlock()
		r.leave()
		_ = group.Close()
		return nil, c.errClosed()
	}
	c.members[r] = struct{}{}
	c.mu.Unlock()
	go r.run(group, topics)
	return r, nil
}

func (c *Cluster) provideRetries(ctx context.Context, topic, like string) error {
	_, err := call(ctx, c, "look up topic "+topic, func() (*sarama.TopicMetadata, error) { return c.lookup(topic) })
	if errors.Is(err, errs.ErrUnknownTopic) {
		err = c.provide(ctx, topic, like, retryPartitions)
	}
	return err
}

// run is the life of the member.
func (r *member) run(group sarama.ConsumerGroup, topics []string) {
	var helpers sync.WaitGroup
	helpers.Go(func() {
		for err := range group.Errors() {
			r.failed(err)
		}
	})
	stop := make(chan struct{})
	helpers.Go(func() { r.notify(stop) })

	pauses := backoff.NewExponentialBackOff()
	pauses.InitialInterval, pauses.MaxInterval = 100*time.Millisecond, 2*time.Second
	for r.ctx.Err() == nil {
		begun := time.Now()
		err := group.Consume(r.ctx, topics, r)
		if err == nil || r.ctx.Err() != nil {
			pauses.Reset()
			continue
		}
		r.failed(err)
		if time.Since(begun) > r.c.set.session {
			pauses.Reset()
		}
		select {
		case <-time.After(pauses.NextBackOff()):
		case <-r.ctx.Done():
		}
	}
	if err := group.Close(); err != nil {
		r.log.Warn("leaving a group failed; the others get its partitions after the session timeout", zap.Error(err))
	}
	close(stop)
	helpers.Wait()
	r.sessions.Wait()

	r.c.mu.Lock()
	if !r.c.closed { // Close ranges over the map
		delete(r.c.members, r)
	}
	r.c.mu.Unlock()
	r.mu.Lock()
	if r.forget != nil {
		r.forget.Stop()
	}
	r.session, r.claims = 0, nil
	r.err = r.c.wrap("group "+r.m.Group, errs.ErrClosed)
	r.mu.Unlock()
	close(r.left)
}

// notify calls Changed, one call after the other.
func (r *member) notify(stop <-chan struct{}) {
	for {
		select {
		case <-stop:
			return
		case <-r.change:
			if r.m.Changed != nil {
				r.m.Changed()
			}
		}
	}
}

func (r *member) changed() {
	select {
	case r.change <- struct{}{}:
	default:
	}
}

// failed remembers err; what does not come again is forgotten after a while.
func (r *member) failed(err error) {
	if errors.Is(err, context.Canceled) {
		return
	}
	err = r.c.wrap("group "+r.m.Group+" on "+r.m.Topic, err)
	r.log.Debug("group", zap.Error(err))
	r.mu.Lock()
	r.err = err
	r.errors++
	n := r.errors
	if r.forget != nil {
		r.forget.Stop()
	}
	r.forget = time.AfterFunc(errorStays, func() {
		r.mu.Lock()
		if r.session > 0 && r.errors == n {
			r.err = nil
		}
		r.mu.Unlock()
		r.changed()
	})
	r.mu.Unlock()
	r.changed()
}

// State implements broker.Member.
func (r *member) State() broker.MemberState {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := broker.MemberState{Attached: r.session > 0, Partitions: make([]string, 0, len(r.claims)), Err: r.err}
	for name, answered := range r.claims {
		s.Partitions = append(s.Partitions, name)
		s.Attached = s.Attached && answered
	}
	broker.SortPartitions(s.Partitions)
	return s
}

// Leave implements broker.Member.
func (r *member) Leave(ctx context.Context) error {
	r.leave()
	select {
	case <-r.left:
		return nil
	case <-ctx.Done():
		return r.c.wrap("leave group "+r.m.Group, ctx.Err())
	}
}

// Setup is called by sarama with every new assignment; heartbeats run, nothing is read yet.
func (r *member) Setup(s sarama.ConsumerGroupSession) error {
	if err := r.place(s); err != nil {
		return err
	}
	r.mu.Lock()
	r.last++
	r.session, r.err = r.last, nil
	r.claims = make(map[string]bool)
	for _, p := range s.Claims()[r.m.Topic] {
		r.claims[strconv.Itoa(int(p))] = false
	}
	this := r.session
	r.mu.Unlock()
	context.AfterFunc(s.Context(), func() { r.detach(this) })
	r.sessions.Go(func() { r.pace.Each(s.Context(), s.Commit) })
	r.changed()
	return nil
}

// detach says that an assignment is no longer in force, though listeners may still work on it.
func (r *member) detach(session int) {
	r.mu.Lock()
	if r.session == session {
		r.session, r.claims = 0, nil
	}
	r.mu.Unlock()
	r.changed()
}

// Cleanup is called by sarama when all claims have returned, before the last commit.
func (r *member) Cleanup(sarama.ConsumerGroupSession) error { return nil }

// Hurry implements broker.Member.
func (r *member) Hurry(on bool) { r.pace.Hurry(on) }

// place sees to it that every claim has a stored position that can be read from (protocol R12, R32).
func (r *member) place(s sarama.ConsumerGroupSession) error {
	claims := s.Claims()
	var from broker.Offsets
	if r.m.Start != nil {
		from = r.m.Start()
	}
	return until(s.Context(), func() error {
		missing, err := r.missing(s.Context(), claims, from)
		if err != nil {
			return err
		}
		if len(missing) == 0 {
			return nil
		}
		for p, offset := range missing {
			// Reset only lowers, Mark only raises.
			s.ResetOffset(p.topic, p.number, offset, "")
			s.MarkOffset(p.topic, p.number, offset, "")
		}
		s.Commit() // says nothing of its success
		if missing, err = r.missing(s.Context(), claims, from); err == nil && len(missing) > 0 {
			err = fmt.Errorf("the positions of %d partitions could not be stored", len(missing))
		}
		return err
	})
}

type partition struct {
	topic  string
	number int32
}

// missing are the claims whose committed position is none, beyond the end or before the first offset, and where they
// should begin.
func (r *member) missing(ctx context.Context, claims map[string][]int32, from broker.Offsets) (map[partition]int64, error) {
	if len(claims) == 0 {
		return nil, nil
	}
	return call(ctx, r.c, "positions of group "+r.m.Group, func() (map[partition]int64, error) {
		positions, err := r.c.positions(ctx, r.m.Group, claims)
		if err != nil {
			return nil, err
		}
		found := make(map[partition]int64)
		for topic, partitions := range claims {
			first, err := r.c.offsets(ctx, topic, partitions, sarama.OffsetOldest)
			if err != nil {
				return nil, err
			}
			end, err := r.c.offsets(ctx, topic, partitions, sarama.OffsetNewest)
			if err != nil {
				return nil, err
			}
			for _, p := range partitions {
				name := strconv.Itoa(int(p))
				at, ok := positions[topic][name]
				if ok && at >= first[name] && at <= end[name] {
					continue
				}
				if !ok || at > end[name] {
					at = 0
					if start, said := from[name]; said && topic == r.m.Topic && start <= end[name] {
						at = start
					}
				}
				found[partition{topic, p}] = max(at, first[name])
			}
		}
		return found, nil
	})
}

// ConsumeClaim is called by sarama in a goroutine of its own, when the leader of the partition has answered. Its
// return ends the session of all partitions, so it stays until the claim or the session ends by itself.
func (r *member) ConsumeClaim(s sarama.ConsumerGroupSession, source sarama.ConsumerGroupClaim) error {
	c := newClaim(r, s, source)
	if source.Topic() == r.m.Topic {
		r.mu.Lock()
		if _, mine := r.claims[c.partition]; mine {
			r.claims[c.partition] = true
		}
		r.mu.Unlock()
		r.changed()
	}
	defer c.end()
	r.m.Claim(c.ctx, c)
	<-c.ctx.Done()
	return nil
}

var _ sarama.ConsumerGroupHandler = (*member)(nil)
