package bench

import (
	"context"
	"encoding/binary"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	"github.com/turnout-mq/turnout"
	"github.com/turnout-mq/turnout/admin/migrate"
	"github.com/turnout-mq/turnout/admin/store"
	"github.com/turnout-mq/turnout/broker/drivers"
	"github.com/turnout-mq/turnout/consumer"
	"github.com/turnout-mq/turnout/internal/clusters"
	"github.com/turnout-mq/turnout/metadata"
)

// BenchmarkMove is proven migrations between two Kafka clusters, there and back, while 16 goroutines send 3,200 messages a
// second and a group handles them. It reports, over the moves, medians of the whole time and of the drain, and the longest
// send of all; and what there must be none of.
func BenchmarkMove(b *testing.B) {
	each(b, func(b *testing.B, s *stage) {
		for name, order := range map[string]metadata.Order{"unordered": metadata.OrderNone, "ordered": metadata.OrderKey} {
			b.Run(name, func(b *testing.B) { move(b, s, order) })
		}
	})
}

// load sends and handles, and counts what goes wrong.
type load struct {
	sent, failed, handled, twice, swapped atomic.Int64
	longest                               atomic.Int64 // send, in ns, since it was last asked for

	mu   sync.Mutex
	seen []map[uint64]bool // by sender: what was handled
	last []uint64          // by sender: the highest that was handled
}

const (
	senders = 16
	pace    = 5 * time.Millisecond
	moves   = 6
)

func (l *load) send(ctx context.Context, c *turnout.Client, topic string, sender int) {
	tick := time.NewTicker(pace)
	defer tick.Stop()
	for n := uint64(1); ; n++ {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		body := binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(nil, uint64(sender)), n)
		begin := time.Now()
		send, cancel := context.WithTimeout(context.Background(), time.Minute)
		_, err := c.Send(send, topic, &turnout.Message{Key: body[:8], Body: body})
		cancel()
		if err != nil {
			l.failed.Add(1)
			continue
		}
		l.sent.Add(1)
		for took := int64(time.Since(begin)); ; {
			was := l.longest.Load()
			if took <= was || l.longest.CompareAndSwap(was, took) {
				break
			}
		}
	}
}

func (l *load) handle(_ context.Context, d *turnout.Delivery) error {
	sender, n := binary.BigEndian.Uint64(d.Body), binary.BigEndian.Uint64(d.Body[8:])
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case l.seen[sender][n]:
		l.twice.Add(1)
		return nil
	case n < l.last[sender]:
		l.swapped.Add(1)
	}
	l.seen[sender][n] = true
	l.last[sender] = max(l.last[sender], n)
	l.handled.Add(1)
	return nil
}

func move(b *testing.B, s *stage, order metadata.Order) {
	topic := s.topic(b, "kafka-a", "kafka-b")
	_, err := s.store.PutTopic(b.Context(), topic, metadata.PutTopic{Cluster: "kafka-a", Order: order})
	require.NoError(b, err)
	group := s.group(b, topic)
	require.NoError(b, s.store.UpdateGroup(b.Context(), group, func(g *metadata.Group) error { g.Order = order; return nil }))

	db, err := store.Open(b.Context(), filepath.Join(b.TempDir(), "turnout.db"), zap.NewNop())
	require.NoError(b, err)
	pool := clusters.NewPool(s.store, drivers.Open, "bench-controller", time.Minute, zap.NewNop())
	controller := migrate.New(db, s.store, pool, zap.NewNop(), migrate.Options{})
	ctx, stop := context.WithCancel(context.Background())
	over := make(chan error, 1)
	go func() { over <- controller.Run(ctx) }()

	l := &load{last: make([]uint64, senders)}
	for range senders {
		l.seen = append(l.seen, map[uint64]bool{})
	}
	client, receiver := s.client(b), s.client(b)
	sub, err := receiver.Subscribe(b.Context(), group, l.handle, consumer.WithLinger(time.Second))
	require.NoError(b, err)
	require.NoError(b, sub.Ready(b.Context()))
	var sending sync.WaitGroup
	quiet, end := context.WithCancel(context.Background())
	for i := range senders {
		sending.Go(func() { l.send(quiet, client, topic, i) })
	}
	until(b, "messages flow", func() bool { return l.handled.Load() > 1000 })

	var totals, drains, longests []float64
	ms := func(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
	to := []string{"kafka-b", "kafka-a"}
	before, began := l.sent.Load(), time.Now()
	var first holding // after the first moves: by then everything is open
	for b.Loop() {
		for i := range moves {
			l.longest.Store(0)
			m, err := controller.Start(b.Context(), migrate.Plan{Topic: topic, To: to[i%2], Ordered: order == metadata.OrderKey, Accept: []string{"all"}}, "bench", migrate.StarterApproves)
			require.NoError(b, err)
			until(b, "the migration ends", func() bool {
				m, err = controller.Get(b.Context(), m.ID)
				require.NoError(b, err)
				return m.EndedAt != nil
			})
			receipt, err := controller.Receipt(b.Context(), m.ID)
			require.NoError(b, err)
			require.True(b, receipt.Free, receipt.Verdict)
			totals, longests = append(totals, ms(m.EndedAt.Sub(m.CreatedAt))), append(longests, ms(time.Duration(l.longest.Load())))
			drains = append(drains, ms(inState(b, controller, m.ID, migrate.Draining)))
		}
		if len(totals) == moves {
			first = held(l)
		}
	}
	rate := float64(l.sent.Load()-before) / time.Since(began).Seconds()
	last := held(l)
	end()
	sending.Wait()
	until(b, "everything is handled", func() bool { return l.handled.Load() >= l.sent.Load() })
	require.NoError(b, sub.Close(b.Context()))
	stop()
	require.ErrorIs(b, <-over, context.Canceled)
	require.NoError(b, pool.Close(context.Background()))
	require.NoError(b, db.Close())

	require.Zero(b, l.failed.Load(), "failed sends")
	if order == metadata.OrderKey {
		require.Zero(b, l.swapped.Load(), "messages of a key that were handled before an earlier one")
	}
	b.ReportMetric(rate, "msg/s")
	b.ReportMetric(median(totals), "ms-total")
	b.ReportMetric(median(drains), "ms-draining")
	b.ReportMetric(slices.Max(longests), "ms-longest-send")
	b.ReportMetric(median(longests), "ms-longest-send-median")
	b.ReportMetric(float64(l.failed.Load()), "failed")
	b.ReportMetric(float64(l.sent.Load()-l.handled.Load()), "lost")
	b.ReportMetric(float64(l.twice.Load()), "twice")
	b.ReportMetric(float64(len(totals)), "moves")
	b.ReportMetric(float64(last.goroutines-first.goroutines), "more-goroutines")
	b.ReportMetric(float64(last.heap-first.heap)/1024, "more-heap-kB")
	b.ReportMetric(0, "ns/op")
}

// holding is what the process holds.
type holding struct {
	goroutines int
	heap       int64
}

// held is what the process holds, without the books of the load.
func held(l *load) holding {
	l.mu.Lock()
	for i := range l.seen { // whatever is handled again later counts as swapped, and there must be none
		clear(l.seen[i])
	}
	l.mu.Unlock()
	debug.FreeOSMemory()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return holding{runtime.NumGoroutine(), int64(m.HeapAlloc)} //nolint:gosec // far below
}

// inState is how long a migration was in a state.
func inState(b *testing.B, c *migrate.Controller, id string, state migrate.State) (d time.Duration) {
	events, err := c.Events(b.Context(), id, 0, 1000)
	require.NoError(b, err)
	var in time.Time
	for _, e := range events {
		if e.Kind != "state" {
			continue
		}
		if !in.IsZero() {
			d += e.At.Sub(in)
			in = time.Time{}
		}
		if len(e.Text) >= len(state) && e.Text[:len(state)] == string(state) {
			in = e.At
		}
	}
	return d
}

func until(b *testing.B, what string, ok func() bool) {
	deadline := time.Now().Add(2 * time.Minute)
	for tick := time.NewTicker(5 * time.Millisecond); !ok(); <-tick.C {
		if time.Now().After(deadline) {
			b.Fatalf("never: %s", what)
		}
	}
}
