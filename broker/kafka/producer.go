package kafka

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/IBM/sarama"
	"golang.org/x/sync/semaphore"

	"github.com/turnout-mq/turnout/broker"
	"github.com/turnout-mq/turnout/internal/errs"
)

// producer is what a cluster sends with.
type producer struct {
	c      *Cluster
	client *leaders
	lib    sarama.AsyncProducer
	giveUp time.Duration // a message that waited so long behind others is not tried any more
	topics atomic.Pointer[map[string]*target]

	mu      sync.Mutex
	flight  send // head of the ring of sends that are under way
	closing bool
	empty   chan struct{} // closed when closing and the ring is empty
	abort   chan struct{} // closed by fail
	handing sync.WaitGroup
	results sync.WaitGroup
}

// target is a topic that was looked up and may be sent to.
type target struct {
	// room bounds what is in flight where the topic takes less than the producer would put in one batch; else nil.
	room *semaphore.Weighted
	most int64
}

// send is one message under way. sarama refers to it until it comes back on Successes or Errors; only then it is used
// again.
type send struct {
	record sarama.ProducerMessage
	key    keyBytes
	body   bodyBytes
	list   []broker.Header
	wire   []sarama.RecordHeader
	bytes  []byte // what wire refers to

	done   func(broker.Receipt, error)
	target *target
	weight int64

	prev, next *send // nil when it was answered
}

var sends = sync.Pool{New: func() any { return new(send) }}

type keyBytes []byte

func (k *keyBytes) Encode() ([]byte, error) { return *k, nil }
func (k *keyBytes) Length() int             { return len(*k) }

// bodyBytes is encoded when its batch is put together.
type bodyBytes struct {
	bytes []byte
	until time.Time
}

func (b *bodyBytes) Encode() ([]byte, error) {
	if time.Now().After(b.until) {
		return nil, errGaveUp
	}
	return b.bytes, nil
}
func (b *bodyBytes) Length() int { return len(b.bytes) }

var errGaveUp = errors.New("waited too long behind messages that could not be sent; the broker does not answer")

// sender returns the producer and makes it first where there is none; topic is one that exists.
func (c *Cluster) sender(topic string) (*producer, error) {
	c.making.Lock()
	defer c.making.Unlock()
	if p := c.producer.Load(); p != nil {
		return p, nil
	}
	client, err := sarama.NewClient(c.cfg.Addresses, c.sending())
	if err != nil {
		return nil, err
	}
	p := &producer{
		c:      c,
		client: newLeaders(client),
		giveUp: c.set.sendTimeout / 2,
		empty:  make(chan struct{}),
		abort:  make(chan struct{}),
	}
	p.flight.prev, p.flight.next = &p.flight, &p.flight
	p.topics.Store(&map[string]*target{})
	// The producer asks for its id at once, and only of a broker that the client knows.
	if err = client.RefreshMetadata(topic); err == nil {
		p.lib, err = sarama.NewAsyncProducerFromClient(p.client)
	}
	if err != nil {
		_ = client.Close()
		return nil, err
	}
	p.results.Go(func() {
		for r := range p.lib.Successes() {
			p.answered(r, nil)
		}
	})
	p.results.Go(func() {
		for e := range p.lib.Errors() {
			p.answered(e.Msg, e.Err)
		}
	})
	c.mu.Lock()
	defer c.mu.Unlock()
	c.producer.Store(p)
	if c.closed {
		p.refuse()
	}
	return p, nil
}

// Warm implements broker.Producer.
func (c *Cluster) Warm(ctx context.Context, topic string) error {
	fenced, err := call(ctx, c, "warm topic "+topic, func() (bool, error) { return c.warm(topic) })
	if err == nil && fenced {
		return c.wrap("warm topic "+topic, errs.ErrFenced)
	}
	return err
}

// warm looks topic up, connects to its leaders and tells whether it is fenced.
func (c *Cluster) warm(topic string) (fenced bool, err error) {
	if _, err := c.lookup(topic); err != nil {
		return false, err
	}
	p, err := c.sender(topic)
	if err != nil {
		return false, err
	}
	if err := p.client.Client.RefreshMetadata(topic); err != nil {
		return false, err
	}
	partitions, err := p.client.Partitions(topic)
	if err != nil {
		return false, err
	}
	for _, partition := range partitions {
		leader, err := p.client.Client.Leader(topic, partition)
		if err != nil {
			return false, err
		}
		if ok, err := leader.Connected(); !ok {
			return false, fmt.Errorf("partition %d, leader %s: %w", partition, leader.Addr(), errors.Join(err, sarama.ErrNotConnected))
		}
	}
	limit, err := c.limit(topic)
	if err != nil {
		return false, err
	}
	p.know(topic, limit)
	return limit <= fenceBytes, nil
}

// know makes topic one that may be sent to; limit is its max.message.bytes.
func (p *producer) know(topic string, limit int64) {
	t := &target{}
	// sarama fills a batch up to the producer's limit by a count that is at most 12 bytes short of the truth; a fence
	// says nothing about the limit that comes after it.
	if limit > fenceBytes && limit < int64(p.c.set.maxMessage)+batchOverhead {
		t.most = max(1, limit-batchOverhead)
		t.room = semaphore.NewWeighted(t.most)
	}
	p.change(func(topics map[string]*target) {
		if old := topics[topic]; old == nil || old.most != t.most {
			topics[topic] = t
		}
	})
}

// forget makes the next send to topic look it up again.
func (p *producer) forget(topic string) {
	if (*p.topics.Load())[topic] != nil {
		p.change(func(topics map[string]*target) { delete(topics, topic) })
	}
}

func (p *producer) change(f func(map[string]*target)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	topics := make(map[string]*target)
	for name, t := range *p.topics.Load() {
		topics[name] = t
	}
	f(topics)
	p.topics.Store(&topics)
}

// Send implements broker.Producer. A topic that is not known yet is looked up first, which takes a Warm.
func (c *Cluster) Send(ctx context.Context, topic string, m *broker.Envelope, done func(broker.Receipt, error)) {
	if err := c.send(ctx, topic, m, nil, done); err != nil {
		done(broker.Receipt{}, err)
	}
}

// send is Send with headers of its own. It returns an error instead of calling done.
func (c *Cluster) send(ctx context.Context, topic string, m *broker.Envelope, more []broker.Header, done func(broker.Receipt, error)) error {
	if m.Delay != 0 {
		return c.wrap("send to "+topic, fmt.Errorf("%w: Kafka has no delayed messages", errs.ErrUnsupported))
	}
	for {
		if p := c.producer.Load(); p != nil {
			if t := (*p.topics.Load())[topic]; t != nil {
				return p.send(ctx, topic, t, m, more, done)
			}
		}
		if _, err := call(ctx, c, "send to "+topic, func() (bool, error) { return c.warm(topic) }); err != nil {
			return err
		}
	}
}

func (p *producer) send(ctx context.Context, topic string, t *target, m *broker.Envelope, more []broker.Header, done func(broker.Receipt, error)) error {
	s := sends.Get().(*send)
	s.fill(topic, m, more)
	s.body.until = time.Now().Add(p.giveUp)
	s.done, s.target = done, t
	size := s.record.ByteSize(2)
	if size > p.c.set.maxMessage {
		s.free()
		return p.c.wrap("send to "+topic, fmt.Errorf(
			"%w: key, body and headers are %d bytes; this client sends at most %d (property message.max.bytes)",
			errs.ErrTooLarge, size, p.c.set.maxMessage))
	}
	if t.room != nil {
		s.weight = min(int64(size), t.most)
		if !t.room.TryAcquire(s.weight) { // asks nothing of ctx
			if err := t.room.Acquire(ctx, s.weight); err != nil {
				s.free()
				return p.c.wrap("send to "+topic, err)
			}
		}
	}
	if !p.link(s) {
		s.leave()
		s.free()
		return p.c.errClosed()
	}
	var err error
	select {
	case p.lib.Input() <- &s.record: // asks nothing of ctx
	default:
		select {
		case p.lib.Input() <- &s.record:
		case <-ctx.Done():
			err = p.c.wrap("send to "+topic, ctx.Err())
		case <-p.abort:
			err = p.c.errClosed()
		}
	}
	p.handing.Done()
	if err != nil {
		if !p.unlink(s) {
			return nil // fail was quicker and has called done
		}
		s.leave()
		s.free()
	}
	return err
}

// fill makes s the record of m.
func (s *send) fill(topic string, m *broker.Envelope, more []broker.Header) {
	s.record = sarama.ProducerMessage{Topic: topic, Metadata: s, Offset: -1}
	if m.Key != nil {
		s.key = m.Key
		s.record.Key = &s.key
	}
	if m.Body != nil {
		s.body.bytes = m.Body
		s.record.Value = &s.body
	}
	s.list = headers(s.list[:0], m, more)
	n := 0
	for _, h := range s.list {
		n += len(h.Name) + len(h.Value)
	}
	if cap(s.bytes) < n {
		s.bytes = make([]byte, 0, n+n/2)
	}
	b, wire := s.bytes[:0], s.wire[:0]
	for _, h := range s.list {
		at := len(b)
		b = append(b, h.Name...)
		mid := len(b)
		b = append(b, h.Value...)
		wire = append(wire, sarama.RecordHeader{Key: b[at:mid:mid], Value: b[mid:len(b):len(b)]})
	}
	s.bytes, s.wire = b, wire
	s.record.Headers = wire
}

// free gives s back; nobody refers to it any more.
func (s *send) free() {
	clear(s.list)
	*s = send{list: s.list[:0], wire: s.wire[:0], bytes: s.bytes[:0]}
	sends.Put(s)
}

// leave gives the room in the topic back.
func (s *send) leave() {
	if s.target.room != nil {
		s.target.room.Release(s.weight)
	}
}

// link counts s as under way and as being handed over.
func (p *producer) link(s *send) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closing {
		return false
	}
	s.prev, s.next = p.flight.prev, &p.flight
	s.prev.next, s.next.prev = s, s
	p.handing.Add(1)
	return true
}

// unlink says whether s was under way until now: whoever gets true calls done.
func (p *producer) unlink(s *send) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if s.next == nil {
		return false
	}
	s.prev.next, s.next.prev = s.next, s.prev
	s.prev, s.next = nil, nil
	p.drained()
	return true
}

// drained tells close that nothing is under way. The caller holds mu.
func (p *producer) drained() {
	if p.closing && p.flight.next == &p.flight {
		select {
		case <-p.empty:
		default:
			close(p.empty)
		}
	}
}

// answered is called by the two goroutines that read what sarama is done with.
func (p *producer) answered(r *sarama.ProducerMessage, err error) {
	s := r.Metadata.(*send)
	s.leave()
	waiting := p.unlink(s)
	done := s.done
	receipt := broker.Receipt{}
	if err == nil {
		receipt = broker.Receipt{Partition: strconv.Itoa(int(r.Partition)), Offset: r.Offset}
	} else {
		err = p.c.wrap("send to "+r.Topic, err)
		if errors.Is(err, errs.ErrUnknownTopic) {
			p.forget(r.Topic)
		}
	}
	s.free()
	if waiting {
		done(receipt, err)
	}
}

// fail answers everything that is under way with err.
func (p *producer) fail(err error) {
	p.mu.Lock()
	p.closing = true
	var dones []func(broker.Receipt, error)
	for s := p.flight.next; s != &p.flight; {
		next := s.next
		dones = append(dones, s.done)
		s.prev, s.next = nil, nil
		s = next
	}
	p.flight.prev, p.flight.next = &p.flight, &p.flight
	p.drained()
	p.mu.Unlock()
	close(p.abort)
	for _, done := range dones {
		done(broker.Receipt{}, err)
	}
}

// refuse lets no send begin any more.
func (p *producer) refuse() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closing = true
	p.drained()
}

// close waits until nothing is under way and ends the producer. refuse was called before.
func (p *producer) close() {
	<-p.empty
	p.handing.Wait() // sarama closes Input
	p.lib.AsyncClose()
	p.results.Wait()
	_ = p.client.Client.Close()
}

// newPartitioner: murmur2 as the Java client for keys, turns for the rest.
func newPartitioner(topic string) sarama.Partitioner {
	return &partitioner{sarama.NewMurmur2Partitioner(topic), sarama.NewRoundRobinPartitioner(topic)}
}

type partitioner struct{ keyed, turns sarama.Partitioner }

func (p *partitioner) Partition(m *sarama.ProducerMessage, n int32) (int32, error) {
	if m.Key == nil {
		return p.turns.Partition(m, n)
	}
	return p.keyed.Partition(m, n)
}

func (p *partitioner) RequiresConsistency() bool { return true }

func (p *partitioner) MessageRequiresConsistency(m *sarama.ProducerMessage) bool { return m.Key != nil }
