package scene

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"math"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/turnout-mq/turnout"
	"github.com/turnout-mq/turnout/consumer"
	"github.com/turnout-mq/turnout/testenv/history"
)

var errAsked = errors.New("this message fails at first, as asked")

type receiver struct {
	spec    Spec
	rec     *history.Recorder
	full    func() // called when Spec.Count is reached
	handled atomic.Int64

	mu     sync.Mutex
	failed map[string]int // how often a message that fails at first has failed
}

// receive handles messages until ctx ends or the Spec's count is reached.
func receive(ctx context.Context, spec Spec, client *turnout.Client, rec *history.Recorder, ready func(), log *zap.Logger) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var opts []turnout.SubscribeOption
	if spec.Linger > 0 {
		opts = append(opts, consumer.WithLinger(spec.Linger))
	}
	if spec.StayRecheck > 0 {
		opts = append(opts, consumer.WithRecheck(spec.StayRecheck))
	}
	if spec.RetryDelay > 0 {
		opts = append(opts, consumer.WithRetryDelay(func(int) time.Duration { return spec.RetryDelay }))
	}
	r := &receiver{spec: spec, rec: rec, full: cancel, failed: map[string]int{}}
	opening, done := context.WithTimeout(ctx, openLimit)
	sub, err := client.Subscribe(opening, spec.Group, r.listen, opts...)
	done()
	if err != nil {
		return err
	}
	if err := sub.Ready(ctx); err != nil && ctx.Err() == nil {
		return err
	}
	if ctx.Err() == nil {
		ready()
	}
	<-ctx.Done()
	log.Info("no more messages are handled", zap.Any("stats", sub.Stats()))
	return nil
}

func (r *receiver) listen(ctx context.Context, d *turnout.Delivery) error {
	var b body
	if err := json.Unmarshal(d.Body, &b); err != nil || b.Key != string(d.Key) {
		b.Seq = math.MinInt64 // the checker finds it altered
	}
	h := r.rec.Recv(d.Group, history.Message{ID: d.ID, Topic: d.Topic, Key: history.Key(d.Key), Seq: b.Seq},
		history.Place{Cluster: d.Cluster, Partition: d.Partition, Offset: d.Offset, Attempt: d.Attempt})
	err := r.handle(ctx, d.ID)
	if err != nil {
		h.Retry(err)
		return err
	}
	h.Done()
	if r.handled.Add(1) == r.spec.Count {
		r.full()
	}
	return nil
}

func (r *receiver) handle(ctx context.Context, id string) error {
	if r.spec.Delay > 0 {
		select {
		case <-ctx.Done():
			return fmt.Errorf("not handled in time: %w", ctx.Err())
		case <-time.After(r.spec.Delay):
		}
	}
	if !chosen(id, r.spec.FailRate) {
		return nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.failed[id] == r.spec.FailTimes {
		delete(r.failed, id)
		return nil
	}
	r.failed[id]++
	return errAsked
}

// chosen picks a share of all ids, always the same ones.
func chosen(id string, share float64) bool {
	if share == 0 {
		return false
	}
	h := fnv.New64a()
	_, _ = h.Write([]byte(id))
	return float64(h.Sum64()) < share*math.MaxUint64
}
