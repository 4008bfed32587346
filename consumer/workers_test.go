package consumer

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/turnout-mq/turnout/broker"
	"github.com/turnout-mq/turnout/metadata"
)

func concurrency(n int) *metadata.Group {
	g := metadata.DefaultGroup()
	g.Concurrency = n
	return &g
}

// fakeClaim is a claim whose messages the test makes.
func fakeClaim(ordered bool, handle func(*item)) (*claimed, *workers) {
	w := newWorkers(func(items []*item) []*item {
		for _, it := range items {
			handle(it)
		}
		return items[0].claim.release(items)
	})
	return &claimed{s: &Subscription{workers: w}, ordered: ordered, keys: map[string][]*item{}}, w
}

func TestAsManyMessagesAtOnceAsTheGroupSaysWhileThatChanges(t *testing.T) {
	var now, most atomic.Int64
	gate := make(chan struct{})
	cl, w := fakeClaim(false, func(*item) {
		n := now.Add(1)
		for m := most.Load(); n > m && !most.CompareAndSwap(m, n); m = most.Load() {
		}
		<-gate
		now.Add(-1)
	})
	cl.running.Add(100)
	for range 100 {
		w.put(&item{ctx: t.Context(), d: &broker.Delivery{}, claim: cl})
	}
	w.set(concurrency(8))
	require.Eventually(t, func() bool { return now.Load() == 8 }, time.Minute, time.Millisecond)

	// Down and up again while all are busy: those that were to end stay.
	w.set(concurrency(1))
	w.set(concurrency(8))
	gate <- struct{}{}
	require.Eventually(t, func() bool { return now.Load() == 8 }, time.Minute, time.Millisecond)
	require.Equal(t, int64(8), most.Load(), "never more at once than the settings said")

	w.set(concurrency(2))
	for range 6 {
		gate <- struct{}{}
	}
	require.Eventually(t, func() bool { return now.Load() == 2 }, time.Minute, time.Millisecond)
	w.set(concurrency(20))
	require.Eventually(t, func() bool { return now.Load() == 20 }, time.Minute, time.Millisecond)
	close(gate)
	cl.running.Wait()
	w.close()
	require.Zero(t, now.Load())
	require.Zero(t, w.running)
}

func TestAKeyWithManyMessagesDoesNotKeepAWorkerThatIsTooMany(t *testing.T) {
	var now atomic.Int64
	step := make(chan string)
	cl, w := fakeClaim(true, func(it *item) {
		now.Add(1)
		step <- string(it.d.Key)
		now.Add(-1)
	})
	w.set(concurrency(2))
	dispatched := make(chan struct{})
	go func() {
		defer close(dispatched)
		for i := range 20 {
			for _, key := range []string{"a", "b"} {
				cl.dispatch([]*item{{ctx: t.Context(), d: &broker.Delivery{Offset: int64(i), Envelope: broker.Envelope{Message: broker.Message{Key: []byte(key)}}}, claim: cl}})
			}
		}
	}()
	<-dispatched
	require.Eventually(t, func() bool { return now.Load() == 2 }, time.Minute, time.Millisecond)
	w.set(concurrency(1))
	<-step
	require.Eventually(t, func() bool { w.mu.Lock(); defer w.mu.Unlock(); return w.running == 1 }, time.Minute, time.Millisecond)
	for range 39 {
		<-step
	}
	cl.running.Wait()
	w.close()
}

func TestSettingsChangeWhileMessagesAreHandled(t *testing.T) {
	var handled atomic.Int64
	last := map[string]int64{}
	var mu sync.Mutex
	cl, w := fakeClaim(true, func(it *item) {
		if !it.claim.s.workers.admit(it.ctx) {
			return
		}
		mu.Lock()
		defer mu.Unlock()
		handled.Add(1)
		key := string(it.d.Key)
		if it.d.Offset <= last[key] {
			t.Errorf("key %s: %d after %d", key, it.d.Offset, last[key])
		}
		last[key] = it.d.Offset
	})
	w.set(concurrency(4))
	stop := make(chan struct{})
	var hammer sync.WaitGroup
	for range 3 {
		hammer.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				g := concurrency(1 + rand.N(12))
				g.Paused = rand.N(4) == 0
				g.Rate = float64(rand.N(2) * (1 + rand.N(100_000)))
				w.set(g)
			}
		})
	}
	const n = 5000
	for i := range int64(n) {
		key := fmt.Sprintf("key-%d", i%7)
		cl.dispatch([]*item{{ctx: t.Context(), d: &broker.Delivery{Offset: i + 1, Envelope: broker.Envelope{Message: broker.Message{Key: []byte(key)}}}, claim: cl}})
	}
	close(stop)
	hammer.Wait()
	w.set(concurrency(4))
	cl.running.Wait()
	require.Equal(t, int64(n), handled.Load())
	w.close()
}

func TestAMessageThatWaitsForTheRateGoesOnWhenTheRateIsRaised(t *testing.T) {
	w := newWorkers(func([]*item) []*item { return nil })
	slow := concurrency(1)
	slow.Rate = 0.001 // one in a quarter of an hour
	w.set(slow)
	require.True(t, w.admit(t.Context()), "the first is free")
	admitted := make(chan bool)
	go func() { admitted <- w.admit(t.Context()) }()
	fast := concurrency(1)
	fast.Rate = 1000
	w.set(fast)
	require.True(t, <-admitted)

	paused := concurrency(1)
	paused.Paused = true
	w.set(paused)
	ctx, cancel := context.WithCancel(t.Context())
	go func() { admitted <- w.admit(ctx) }()
	go func() { admitted <- w.admit(t.Context()) }()
	cancel()
	require.False(t, <-admitted, "its claim has ended")
	w.set(fast)
	require.True(t, <-admitted)
	w.close()
}
