package scene

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"
	"golang.org/x/time/rate"

	"github.com/turnout-mq/turnout"
	"github.com/turnout-mq/turnout/producer"
	"github.com/turnout-mq/turnout/testenv/history"
)

// pauseAfterError keeps a sender without a rate from spinning.
const pauseAfterError = 10 * time.Millisecond

// notStored are the errors of Send that say that the message was certainly not stored: they come before it is handed to
// any cluster. After every other error it may have been.
var notStored = []error{turnout.ErrInvalid, turnout.ErrTooLarge, turnout.ErrUnsupported, turnout.ErrNoMetadata, turnout.ErrNoShadow, turnout.ErrMarked}

// body is what a sender sends.
type body struct {
	Key  string `json:"key"`
	Seq  int64  `json:"seq"` // within the key, from 1
	Fill string `json:"fill"`
}

type sender struct {
	spec    Spec
	client  *turnout.Client
	rec     *history.Recorder
	ready   func()
	log     *zap.Logger
	limiter *rate.Limiter
	begun   atomic.Int64
	pending sync.WaitGroup // asynchronous sends
}

// send sends until ctx ends or the Spec's count is reached, and waits for what was begun.
func send(ctx context.Context, spec Spec, client *turnout.Client, rec *history.Recorder, ready func(), log *zap.Logger) error {
	limit, burst := rate.Inf, 1
	if spec.Rate > 0 {
		limit, burst = rate.Limit(spec.Rate), max(1, int(spec.Rate/100)) // timers are not finer than some ms
	}
	s := &sender{spec: spec, client: client, rec: rec, ready: ready, log: log, limiter: rate.NewLimiter(limit, burst)}
	var wg sync.WaitGroup
	for i := range spec.Senders {
		wg.Go(func() { s.loop(ctx, i) })
	}
	wg.Wait()
	s.pending.Wait() // each has a deadline
	return nil
}

// loop is one goroutine that sends.
func (s *sender) loop(ctx context.Context, number int) {
	type key struct {
		name string
		seq  int64
	}
	var keys []*key
	for k := number; k < s.spec.Keys; k += s.spec.Senders {
		keys = append(keys, &key{name: fmt.Sprintf("%s-%d", s.spec.Name, k)})
	}
	if len(keys) == 0 {
		keys = []*key{{}}
	}
	for n := 0; s.next(ctx); n++ {
		k := keys[n%len(keys)]
		k.seq++
		topic := s.spec.Topics[n/len(keys)%len(s.spec.Topics)]
		s.one(ctx, topic, k.name, k.seq)
	}
}

// next waits for the turn of the next message; false: there is none.
func (s *sender) next(ctx context.Context) bool {
	if s.limiter.Wait(ctx) != nil || ctx.Err() != nil {
		return false
	}
	return s.begun.Add(1) <= s.spec.Count || s.spec.Count == 0
}

// one sends one message. What was begun is not given up when ctx ends: Send has its own deadline.
func (s *sender) one(ctx context.Context, topic, key string, seq int64) {
	m := &turnout.Message{ID: producer.NewID(), Body: newBody(key, seq, s.spec.BodySize)}
	if key != "" {
		m.Key = []byte(key)
	}
	sending := s.rec.Send(history.Message{ID: m.ID, Topic: topic, Key: key, Seq: seq})
	sendCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.spec.Deadline)
	if s.spec.Async {
		s.pending.Add(1)
		s.client.SendAsync(sendCtx, topic, m, func(r turnout.SendResult, err error) {
			s.outcome(sending, topic, r, err)
			cancel()
			s.pending.Done()
		})
		return
	}
	r, err := s.client.Send(sendCtx, topic, m)
	cancel()
	s.outcome(sending, topic, r, err)
	if err != nil {
		select {
		case <-ctx.Done():
		case <-time.After(pauseAfterError):
		}
	}
}

func (s *sender) outcome(sending history.Sending, topic string, r turnout.SendResult, err error) {
	if err == nil {
		sending.OK(history.Place{Cluster: r.Cluster, Partition: r.Partition, Offset: r.Offset})
		s.ready()
		return
	}
	s.log.Warn("send failed", zap.String("topic", topic), zap.Error(err))
	for _, target := range notStored {
		if errors.Is(err, target) {
			sending.Fail(err)
			return
		}
	}
	sending.Unknown(err)
}

// newBody is a body of size bytes, or of as many as it needs.
func newBody(key string, seq int64, size int) []byte {
	b := body{Key: key, Seq: seq}
	text := mustJSON(b)
	if missing := size - len(text); missing > 0 {
		b.Fill = strings.Repeat(".", missing)
		text = mustJSON(b)
	}
	return text
}

func mustJSON(v any) []byte {
	b, err := json.Marshal(v)
	if err != nil {
		panic("always JSON: " + err.Error())
	}
	return b
}
