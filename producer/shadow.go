package producer

import (
	"context"
	"errors"
	"fmt"
	"math"
	"sync/atomic"

	"github.com/turnout-mq/turnout/internal/errs"
	"github.com/turnout-mq/turnout/internal/topics"
)

// base is a topic to whose shadow topic this process sends: its settings name that.
type base struct {
	topic *topics.Topic
	leave func()
	used  atomic.Bool // since the last idle check
}

// shadowOutlet returns the outlet of topic's shadow topic. errs.ErrNoShadow: it has none.
func (p *Producer) shadowOutlet(ctx context.Context, topic string) (*outlet, error) {
	b, err := p.base(ctx, topic)
	if err != nil {
		return nil, err
	}
	if !b.used.Load() {
		b.used.Store(true)
	}
	name, err := b.topic.View().Settings.ShadowName(topic)
	if err != nil {
		return nil, err
	}
	o, err := p.outletOf(ctx, name)
	if errors.Is(err, errs.ErrUnknownTopic) {
		err = fmt.Errorf("%w: its shadow topic does not exist, make it with: turnout shadow topic %s: %w", errs.ErrNoShadow, topic, err)
	}
	return o, err
}

func (p *Producer) base(ctx context.Context, topic string) (*base, error) {
	if b, ok := p.bases.Load(topic); ok {
		return b.(*base), nil
	}
	t, err := p.set.Use(ctx, topic)
	if err != nil {
		return nil, err
	}
	fresh := &base{topic: t}
	// Nothing goes to the topic itself, so there is nothing to wait for before any route of it is applied.
	detach := t.Attach(&topics.Part{Changed: func() {}, Report: func() topics.Report { return topics.Report{Zxid: math.MaxInt64} }})
	fresh.leave = func() {
		detach()
		t.Release()
	}
	b, loaded := p.bases.LoadOrStore(topic, fresh)
	if loaded {
		fresh.leave()
	}
	return b.(*base), nil
}

// leaveBases leaves the topics whose shadow topics were not sent to since the last call, or all of them.
func (p *Producer) leaveBases(all bool) {
	p.bases.Range(func(name, v any) bool {
		if b := v.(*base); !b.used.Swap(false) || all {
			p.bases.Delete(name)
			b.leave()
		}
		return true
	})
}

// wrongSide refuses what would cross between production and shadow: a topic that is not on this producer's side under v.
func (o *outlet) wrongSide(v *topics.View) error {
	name := o.topic.Name()
	if v == nil || v.Settings.IsShadow(name) == o.p.shadow {
		return nil
	}
	if o.p.shadow {
		return fmt.Errorf("%w: topic %q is no shadow topic; say shadowOf in its settings (turnout topic put %s --shadow-of …)", errs.ErrNoShadow, name, name)
	}
	return fmt.Errorf("%w: topic %q is a shadow topic, to which only messages with the stress mark go; name the topic itself and send with shadow.WithMark", errs.ErrNotAllowed, name)
}
