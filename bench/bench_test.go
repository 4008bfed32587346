package bench

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"runtime"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	"github.com/turnout-mq/turnout"
	"github.com/turnout-mq/turnout/broker"
	"github.com/turnout-mq/turnout/broker/drivers"
	"github.com/turnout-mq/turnout/metadata"
	"github.com/turnout-mq/turnout/testenv"
)

// stage is one environment with metadata, shared by all benchmarks of a backend.
type stage struct {
	env   *testenv.Env
	store *metadata.Store
	names int
}

var stages = map[testenv.Backend]*stage{}

func TestMain(m *testing.M) {
	if text := os.Getenv(consumptionChild); text != "" {
		consumeAsChild(text)
		return
	}
	code := m.Run()
	for _, s := range stages {
		if err := s.store.Close(context.Background()); err != nil {
			code = 1
		}
		if err := s.env.Close(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}
	os.Exit(code)
}

// each runs f on the backends that TURNOUT_TEST asks for, with two clusters of each kind.
func each(b *testing.B, f func(b *testing.B, s *stage)) {
	backends, err := testenv.Backends()
	require.NoError(b, err)
	for _, backend := range backends {
		b.Run(string(backend), func(b *testing.B) { f(b, stageOf(b, backend)) })
	}
}

func stageOf(b *testing.B, backend testenv.Backend) *stage {
	if stages[backend] == nil {
		stages[backend] = start(b, backend)
	}
	return stages[backend]
}

func start(b *testing.B, backend testenv.Backend) *stage {
	spec := testenv.Spec{Backend: backend, ZooKeeper: 1, Kafka: []string{"kafka-a", "kafka-b"}, RocketMQ: []string{"rocketmq-a", "rocketmq-b"}}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
	defer cancel()
	env, err := testenv.Start(ctx, spec)
	require.NoError(b, err)
	store, err := metadata.Open(metadata.Config{ZooKeeper: env.ZooKeeper()})
	require.NoError(b, err)
	s := &stage{env: env, store: store}
	for _, name := range append(spec.Kafka, spec.RocketMQ...) {
		s.put(b, store.ClusterPath(name), metadata.Cluster{V: 1, Kind: broker.Kind(env.Kind(name)), Addresses: env.Addresses(name)})
	}
	return s
}

func (s *stage) put(b *testing.B, path string, doc any) {
	data, err := json.Marshal(doc)
	require.NoError(b, err)
	require.NoError(b, s.store.Create(b.Context(), path, data))
}

// topic makes a topic that is on clusters and goes to the first.
func (s *stage) topic(b *testing.B, clusters ...string) string {
	s.names++
	name := fmt.Sprintf("bench-%d", s.names)
	for _, cluster := range clusters {
		c, err := drivers.Open(b.Context(), broker.Config{Name: cluster, Kind: broker.Kind(s.env.Kind(cluster)), Addresses: s.env.Addresses(cluster), ClientID: "bench"})
		require.NoError(b, err)
		require.NoError(b, c.CreateTopic(b.Context(), name, broker.TopicSpec{Partitions: 4}))
		require.NoError(b, c.Close(b.Context()))
	}
	s.put(b, s.store.TopicPath(name), metadata.Wish{Cluster: clusters[0]})
	return name
}

func (s *stage) group(b *testing.B, topic string) string {
	s.names++
	g := metadata.DefaultGroup()
	g.Topics = []string{topic}
	g.Names = map[string]string{topic: fmt.Sprintf("bench-group-%d", s.names)}
	s.put(b, s.store.GroupPath(g.Names[topic]), g)
	return g.Names[topic]
}

func (s *stage) client(b *testing.B) *turnout.Client {
	c, err := turnout.Open(b.Context(), turnout.Config{App: "bench", ZooKeeper: s.env.ZooKeeper(), SnapshotDir: b.TempDir(), Logger: zap.NewNop()})
	require.NoError(b, err)
	b.Cleanup(func() { require.NoError(b, c.Close(context.Background())) })
	return c
}

// spread runs send n times, divided among workers; each has a key of its own.
func spread(workers, n int, send func(key []byte)) {
	var wg sync.WaitGroup
	for i := range workers {
		key := fmt.Appendf(nil, "order-%04d", i)
		wg.Go(func() {
			for range n/workers + min(1, max(0, n%workers-i)) {
				send(key)
			}
		})
	}
	wg.Wait()
}

// few is many, or less where only that it works is asked for (-short).
func few[T any](many, less T) T {
	if testing.Short() {
		return less
	}
	return many
}

// compare runs slices of bare and ours in turn, b.N rounds of pairs pairs, and reports the median of ours over bare. Each
// handles n messages and returns how long that took.
func compare(b *testing.B, pairs, n int, bare, ours func(n int) time.Duration) {
	bare(n)
	ours(n)
	var ratios, bareRates, oursRates, bareAllocs, oursAllocs []float64
	measure := func(f func(int) time.Duration) (rate, allocs float64) {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		took := f(n)
		runtime.ReadMemStats(&after)
		return float64(n) / took.Seconds(), float64(after.Mallocs-before.Mallocs) / float64(n)
	}
	for b.Loop() {
		for i := range pairs {
			var br, ba, or, oa float64
			if i%2 == 0 { // who goes first alternates too
				br, ba = measure(bare)
				or, oa = measure(ours)
			} else {
				or, oa = measure(ours)
				br, ba = measure(bare)
			}
			ratios, bareRates, oursRates = append(ratios, or/br), append(bareRates, br), append(oursRates, or)
			bareAllocs, oursAllocs = append(bareAllocs, ba), append(oursAllocs, oa)
		}
	}
	b.ReportMetric(median(ratios), "ratio")
	b.ReportMetric(median(bareRates), "bare/s")
	b.ReportMetric(median(oursRates), "ours/s")
	b.ReportMetric(median(oursAllocs)-median(bareAllocs), "extra-allocs")
	b.ReportMetric(0, "ns/op")
}

// timed makes a slice of something that does n things.
func timed(f func(n int)) func(int) time.Duration {
	return func(n int) time.Duration {
		begin := time.Now()
		f(n)
		return time.Since(begin)
	}
}

func median(x []float64) float64 {
	x = slices.Sorted(slices.Values(x))
	return x[len(x)/2]
}
