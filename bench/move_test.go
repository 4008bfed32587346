package bench

import (
	"context"
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	"github.com/turnout-mq/turnout"
	"github.com/turnout-mq/turnout/admin/migrate"
	"github.com/turnout-mq/turnout/admin/store"
	"github.com/turnout-mq/turnout/broker"
	"github.com/turnout-mq/turnout/broker/drivers"
	"github.com/turnout-mq/turnout/consumer"
	"github.com/turnout-mq/turnout/internal/clusters"
	"github.com/turnout-mq/turnout/metadata"
)

// BenchmarkMove is proven migrations between two clusters, there and back, while 64 goroutines send 3,200 messages a second and
// a group handles them. It reports, over the moves, medians of the whole time and of the drain, and the longest send of all; and
// what there must be none of. TURNOUT_MOVES names a file for the table of it.
func BenchmarkMove(b *testing.B) {
	var rows []moved
	each(b, func(b *testing.B, s *stage) {
		for _, order := range []metadata.Order{metadata.OrderNone, metadata.OrderKey} {
			mode := map[metadata.Order]string{metadata.OrderNone: "unordered", metadata.OrderKey: "ordered"}[order]
			b.Run(mode, func(b *testing.B) {
				for _, pair := range [][2]string{{"kafka-a", "kafka-b"}, {"kafka-a", "rocketmq-a"}, {"rocketmq-a", "rocketmq-b"}} {
					b.Run(s.env.Kind(pair[0])+"-"+s.env.Kind(pair[1]), func(b *testing.B) {
						rows = append(rows, move(b, s, pair, order)...)
					})
				}
			})
		}
	})
	if file := os.Getenv("TURNOUT_MOVES"); file != "" && !b.Failed() {
		require.NoError(b, writeMoves(file, rows))
	}
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
	senders = 64
	pace    = 20 * time.Millisecond
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

// moved is what the moves in one direction came to.
type moved struct {
	from, to               string // kinds
	ordered                bool
	sent                   int64
	took                   time.Duration
	failed, twice, swapped int64
	lost, left             int64 // of the whole run, there and back
	totals, drains         []float64
	longests               []float64 // sends, one for each move
}

func (m *moved) rate() float64 { return float64(m.sent) / m.took.Seconds() }

// move moves a topic there and back while it is used: what came of each direction, or of both where they are the same.
func move(b *testing.B, s *stage, pair [2]string, order metadata.Order) []moved {
	topic := s.topic(b, pair[:]...)
	_, err := s.store.PutTopic(b.Context(), topic, metadata.PutTopic{Cluster: pair[0], Order: order})
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

	ways := make([]moved, 2) // there and back
	for i := range ways {
		ways[i] = moved{from: s.env.Kind(pair[i]), to: s.env.Kind(pair[1-i]), ordered: order == metadata.OrderKey}
	}
	var first holding // after the first moves: by then everything is open
	for b.Loop() {
		for i := range moves {
			l.once(b, controller, migrate.Plan{Topic: topic, To: pair[1-i%2], Ordered: order == metadata.OrderKey, Accept: []string{"all"}}, &ways[i%2])
		}
		if len(ways[0].totals) == moves/2 {
			first = held(l)
		}
	}
	last := held(l)
	end()
	sending.Wait()
	until(b, "everything is handled", func() bool { return l.handled.Load() >= l.sent.Load() })
	var left int64
	for _, cluster := range pair {
		until(b, "nothing is left on "+cluster, func() bool { left = s.left(b, cluster, topic, group); return left == 0 })
	}
	require.NoError(b, sub.Close(b.Context()))
	stop()
	require.ErrorIs(b, <-over, context.Canceled)
	require.NoError(b, pool.Close(context.Background()))
	require.NoError(b, db.Close())

	require.Zero(b, l.failed.Load(), "failed sends")
	if order == metadata.OrderKey {
		require.Zero(b, l.swapped.Load(), "messages of a key that were handled before an earlier one")
	}
	sum := moved{from: ways[0].from, to: ways[0].to, ordered: ways[0].ordered, failed: l.failed.Load(), twice: l.twice.Load(), swapped: l.swapped.Load(), lost: l.sent.Load() - l.handled.Load(), left: left}
	for i := range ways {
		ways[i].lost, ways[i].left = sum.lost, sum.left
		sum.sent, sum.took = sum.sent+ways[i].sent, sum.took+ways[i].took
		sum.totals, sum.drains, sum.longests = append(sum.totals, ways[i].totals...), append(sum.drains, ways[i].drains...), append(sum.longests, ways[i].longests...)
	}
	b.ReportMetric(sum.rate(), "msg/s")
	b.ReportMetric(median(sum.totals), "ms-total")
	b.ReportMetric(median(sum.drains), "ms-draining")
	b.ReportMetric(slices.Max(sum.longests), "ms-longest-send")
	b.ReportMetric(median(sum.longests), "ms-longest-send-median")
	b.ReportMetric(float64(sum.failed), "failed")
	b.ReportMetric(float64(sum.lost), "lost")
	b.ReportMetric(float64(sum.left), "left")
	b.ReportMetric(float64(sum.twice), "twice")
	b.ReportMetric(float64(sum.swapped), "out-of-order")
	b.ReportMetric(float64(len(sum.totals)), "moves")
	b.ReportMetric(float64(last.goroutines-first.goroutines), "more-goroutines")
	b.ReportMetric(float64(last.heap-first.heap)/1024, "more-heap-kB")
	b.ReportMetric(0, "ns/op")
	if sum.from == sum.to {
		return []moved{sum}
	}
	return ways
}

// once is one migration, from its start to its receipt.
func (l *load) once(b *testing.B, controller *migrate.Controller, plan migrate.Plan, way *moved) {
	l.longest.Store(0)
	began, sent, failed, twice, swapped := time.Now(), l.sent.Load(), l.failed.Load(), l.twice.Load(), l.swapped.Load()
	m, err := controller.Start(b.Context(), plan, "bench", migrate.StarterApproves)
	require.NoError(b, err)
	until(b, "the migration ends", func() bool {
		m, err = controller.Get(b.Context(), m.ID)
		require.NoError(b, err)
		return m.EndedAt != nil
	})
	receipt, err := controller.Receipt(b.Context(), m.ID)
	require.NoError(b, err)
	require.Equal(b, store.Done, receipt.Outcome, receipt.Verdict)
	require.True(b, receipt.Free, receipt.Verdict)
	way.took += time.Since(began)
	way.sent += l.sent.Load() - sent
	way.failed += l.failed.Load() - failed
	way.twice += l.twice.Load() - twice
	way.swapped += l.swapped.Load() - swapped
	ms := func(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
	way.totals, way.longests = append(way.totals, ms(m.EndedAt.Sub(m.CreatedAt))), append(way.longests, ms(time.Duration(l.longest.Load())))
	way.drains = append(way.drains, ms(inState(b, controller, m.ID, migrate.Draining)))
}

// left is what a group has not read on a cluster.
func (s *stage) left(b *testing.B, cluster, topic, group string) int64 {
	c, err := drivers.Open(b.Context(), broker.Config{Name: cluster, Kind: broker.Kind(s.env.Kind(cluster)), Addresses: s.env.Addresses(cluster), ClientID: "bench"})
	require.NoError(b, err)
	positions, err := c.Positions(b.Context(), group, topic)
	require.NoError(b, err)
	pending, err := c.Pending(b.Context(), group, topic)
	require.NoError(b, err)
	ends, err := c.EndOffsets(b.Context(), topic)
	require.NoError(b, err)
	require.NoError(b, c.Close(b.Context()))
	return positions.Missing(ends) + pending.Delayed + pending.Retries
}

// writeMoves puts the table of moves into a file, between the lines that are there for it.
func writeMoves(file string, rows []moved) error {
	doc, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	const begin, end = "<!-- moves -->\n", "<!-- end of moves -->"
	before, rest, found := strings.Cut(string(doc), begin)
	_, after, ended := strings.Cut(rest, end)
	if !found || !ended {
		return fmt.Errorf("%s has no lines %q and %q to put the table between", file, begin, end)
	}
	var t strings.Builder
	t.WriteString("| move | topic | msg/s | failed sends | lost | left | handled twice | out of order | whole move, median | longest send of a move, median | longest of all |\n")
	t.WriteString("|" + strings.Repeat(" --- |", 11) + "\n")
	for _, m := range rows {
		topic, order := "unordered", "-"
		if m.ordered {
			topic, order = "ordered", strconv.FormatInt(m.swapped, 10)
		}
		fmt.Fprintf(&t, "| %s to %s | %s | %.0f | %d | %d | %d | %d | %s | %.0f ms | %.0f ms | %.0f ms |\n", m.from, m.to, topic, m.rate(), m.failed, m.lost, m.left, m.twice, order,
			median(m.totals), median(m.longests), slices.Max(m.longests))
	}
	return os.WriteFile(file, []byte(before+begin+t.String()+end+after), 0o644)
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
