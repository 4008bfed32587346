package producer

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/turnout-mq/turnout/internal/clusters"
	"github.com/turnout-mq/turnout/internal/errs"
	"github.com/turnout-mq/turnout/internal/topics"
)

// closeGrace is how long Close waits beyond its ctx for what ends at once as a rule.
const closeGrace = time.Second

// A topic that was not sent to between two checks is given up; so it is after 1 to 2 times this.
const (
	idleCheck       = time.Hour / 2
	idleCheckShadow = time.Minute // a stress test that has ended leaves nothing open
)

// Result says where a message was stored.
type Result struct {
	ID        string // of the message, kept over retries
	Cluster   string
	Partition string // Kafka: the number; RocketMQ: broker:queue
	Offset    int64
}

// Stats counts since the producer was opened.
type Stats struct {
	Sent        int64 // sends that returned nil
	Failed      int64 // sends that returned an error
	Retried     int64 // attempts beyond the first of a send
	Rerouted    int64 // attempts that went to another cluster than the one before
	LateSuccess int64 // messages stored after their send had returned an error
}

type counters struct{ sent, failed, retried, rerouted, late atomic.Int64 }

// Producer sends to topics by name. All methods may be called concurrently.
type Producer struct {
	set    *topics.Set
	pool   *clusters.Pool
	log    *zap.Logger
	shadow bool // sends go to the shadow topics of the topics that they name, with the stress mark

	outlets sync.Map // topic name → *outlet
	bases   sync.Map // with shadow: topic name → *base
	count   counters

	ctx    context.Context // ends when Close gives up waiting, or has ended
	cancel context.CancelFunc
	gate   sync.RWMutex   // held for reading while something begins; Close takes it to shut the door
	shut   bool           // no new sends
	over   bool           // no new goroutines
	sends  sync.WaitGroup // sends that have not ended
	wg     sync.WaitGroup
	ended  chan struct{} // closed after Close when every send has ended
	left   chan struct{} // closed after that when the topics were left
}

// New returns a producer over the topics of set and the clusters of pool.
func New(set *topics.Set, pool *clusters.Pool, log *zap.Logger) *Producer {
	return start(set, pool, log, false)
}

// NewShadow returns a producer whose messages carry the stress mark and go to the shadow topic of the topic that they name.
// pool should not be that of production, which would wait for the same connections and buffers.
func NewShadow(set *topics.Set, pool *clusters.Pool, log *zap.Logger) *Producer {
	return start(set, pool, log, true)
}

func start(set *topics.Set, pool *clusters.Pool, log *zap.Logger, shadow bool) *Producer {
	ctx, cancel := context.WithCancel(context.Background())
	p := &Producer{set: set, pool: pool, log: log, shadow: shadow, ctx: ctx, cancel: cancel, ended: make(chan struct{}), left: make(chan struct{})}
	p.wg.Go(p.giveUpIdle)
	return p
}

// Stats returns the counts so far.
func (p *Producer) Stats() Stats {
	return Stats{p.count.sent.Load(), p.count.failed.Load(), p.count.retried.Load(), p.count.rerouted.Load(), p.count.late.Load()}
}

// enter counts one more send, unless the producer is closed.
func (p *Producer) enter() error {
	p.gate.RLock()
	defer p.gate.RUnlock()
	if p.shut {
		return fmt.Errorf("producer: %w", errs.ErrClosed)
	}
	p.sends.Add(1)
	return nil
}

// spawn runs fn in a goroutine that Close waits for; after Close it does nothing.
func (p *Producer) spawn(fn func()) {
	p.gate.RLock()
	defer p.gate.RUnlock()
	if !p.over {
		p.wg.Go(fn)
	}
}

// outlet returns the outlet of the topic, or of its shadow topic, opening it at the first send.
func (p *Producer) outlet(ctx context.Context, topic string) (*outlet, error) {
	if p.shadow {
		return p.shadowOutlet(ctx, topic)
	}
	return p.outletOf(ctx, topic)
}

func (p *Producer) outletOf(ctx context.Context, topic string) (*outlet, error) {
	if o, ok := p.outlets.Load(topic); ok {
		return o.(*outlet), nil
	}
	t, err := p.set.Use(ctx, topic)
	if err != nil {
		return nil, err
	}
	fresh := newOutlet(p, t)
	if o, loaded := p.outlets.LoadOrStore(topic, fresh); loaded {
		t.Release()
		return o.(*outlet), nil
	}
	fresh.open()
	return fresh, nil
}

// Close refuses new sends, waits for those that were begun until ctx ends, and leaves the topics. Sends that are still
// waiting then end with errs.ErrClosed, all but those that a driver does not let go of: they end when their cluster is
// closed. Close may be called again to wait on.
func (p *Producer) Close(ctx context.Context) error {
	p.gate.Lock()
	if !p.shut {
		p.shut = true
		go p.finish()
	}
	p.gate.Unlock()
	select {
	case <-p.ended:
		<-p.left
		return nil
	case <-ctx.Done():
	}
	p.cancel()
	grace := time.NewTimer(closeGrace)
	defer grace.Stop()
	select {
	case <-p.left:
	case <-grace.C:
	}
	return ctx.Err()
}

// finish leaves the topics when every send has ended.
func (p *Producer) finish() {
	p.sends.Wait()
	close(p.ended)
	p.cancel()
	p.gate.Lock()
	p.over = true
	p.gate.Unlock()
	p.wg.Wait()
	p.outlets.Range(func(name, o any) bool {
		p.outlets.Delete(name)
		o.(*outlet).close()
		return true
	})
	p.leaveBases(true)
	close(p.left)
}

// giveUpIdle leaves topics that nobody sends to, so that no migration waits for this process on their account.
func (p *Producer) giveUpIdle() {
	every := idleCheck
	if p.shadow {
		every = idleCheckShadow
	}
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		select {
		case <-p.ctx.Done():
			return
		case <-tick.C:
		}
		p.sweep()
	}
}

// sweep leaves the topics that were not sent to since the sweep before.
func (p *Producer) sweep() {
	p.outlets.Range(func(name, v any) bool {
		if o := v.(*outlet); !o.used.Swap(false) && o.retire() {
			p.outlets.Delete(name)
			o.close()
		}
		return true
	})
	p.leaveBases(false)
}

// portable says whether messages of the topic must be within what every kind can carry.
func (o *outlet) portable() bool {
	v := o.topic.View()
	return v == nil || v.Settings.Portable
}
