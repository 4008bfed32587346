package bench

import (
	"context"
	"errors"
	"os"
	"runtime"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/turnout-mq/turnout"
	"github.com/turnout-mq/turnout/broker"
	"github.com/turnout-mq/turnout/broker/drivers"
	"github.com/turnout-mq/turnout/metadata"
	"github.com/turnout-mq/turnout/shadow"
)

// kinds runs f with a cluster of each kind.
func (s *stage) kinds(b *testing.B, f func(b *testing.B, cluster string)) {
	for _, cluster := range []string{"kafka-a", "rocketmq-a"} {
		b.Run(s.env.Kind(cluster), func(b *testing.B) { f(b, cluster) })
	}
}

// shadowed makes a topic with its shadow topic, and a group that reads the topic.
func (s *stage) shadowed(b *testing.B, cluster string) (topic, group string) {
	topic = s.topic(b, cluster)
	name := metadata.ShadowPrefix + topic
	c, err := drivers.Open(b.Context(), broker.Config{Name: cluster, Kind: broker.Kind(s.env.Kind(cluster)), Addresses: s.env.Addresses(cluster), ClientID: "bench"})
	require.NoError(b, err)
	require.NoError(b, c.CreateTopic(b.Context(), name, broker.TopicSpec{Partitions: 4}))
	require.NoError(b, c.Close(b.Context()))
	s.put(b, s.store.TopicPath(name), metadata.Wish{Cluster: cluster})
	return topic, s.group(b, topic)
}

// BenchmarkShadowToggle switches a shadow group on and off by its node, 100 times, while another application sends marked
// messages all the time. It reports the time from the edit to the first shadow message that a listener is given, from
// the edit to the report that the group has stopped, and what a toggle leaves in the process: goroutines and open files.
func BenchmarkShadowToggle(b *testing.B) {
	const warm = 5
	toggles := few(100, 5)
	each(b, func(b *testing.B, s *stage) {
		s.kinds(b, func(b *testing.B, cluster string) {
			topic, group := s.shadowed(b, cluster)
			client, sender := s.client(b), s.client(b)
			first := make(chan time.Time, 1)
			_, err := client.Subscribe(b.Context(), group, func(ctx context.Context, _ *turnout.Delivery) error {
				if !shadow.Marked(ctx) {
					return errors.New("not marked")
				}
				select {
				case first <- time.Now():
				default:
				}
				return nil
			})
			require.NoError(b, err)
			stop := every(2*time.Millisecond, func() {
				_, err := sender.Send(shadow.WithMark(b.Context()), topic, &turnout.Message{Body: []byte("x")})
				if err != nil {
					b.Error(err)
				}
			})
			defer stop()
			var starts, stops []float64
			toggle := func() {
				for len(first) > 0 {
					<-first
				}
				edited := time.Now()
				require.NoError(b, s.store.PutShadowFlag(b.Context(), "bench", "toggle", group, true))
				starts = append(starts, ms((<-first).Sub(edited)))
				s.reports(b, group, metadata.ShadowStarted)
				edited = time.Now()
				require.NoError(b, s.store.PutShadowFlag(b.Context(), "bench", "toggle", group, false))
				s.reports(b, group, metadata.ShadowStopped)
				stops = append(stops, ms(time.Since(edited)))
			}
			for b.Loop() {
				for range warm {
					toggle()
				}
				starts, stops = nil, nil
				goroutines, files := leftovers(b)
				for range toggles {
					toggle()
				}
				g, f := leftovers(b)
				b.ReportMetric(float64(g-goroutines)/float64(toggles), "goroutines-left/toggle")
				b.ReportMetric(float64(f-files)/float64(toggles), "files-left/toggle")
			}
			b.ReportMetric(quantile(starts, 0.5), "ms-to-first-p50")
			b.ReportMetric(quantile(starts, 0.99), "ms-to-first-p99")
			b.ReportMetric(quantile(stops, 0.5), "ms-to-stop-p50")
			b.ReportMetric(quantile(stops, 0.99), "ms-to-stop-p99")
			b.ReportMetric(0, "ns/op")
		})
	})
}

// BenchmarkShadowBusiness is the time from a production send to its listener with a shadow load of the same rate beside it,
// against the same without, and against the same with that load as messages of another topic from another client: what is
// left of the difference is not the machine's and the broker's work. In slices that alternate.
func BenchmarkShadowBusiness(b *testing.B) {
	const pause = time.Millisecond
	rounds, slice := few(7, 1), few(1000, 100)
	each(b, func(b *testing.B, s *stage) {
		s.kinds(b, func(b *testing.B, cluster string) {
			topic, group := s.shadowed(b, cluster)
			client := s.client(b)
			handled := make(chan time.Duration, slice)
			sub, err := client.Subscribe(b.Context(), group, func(ctx context.Context, d *turnout.Delivery) error {
				if !shadow.Marked(ctx) {
					at, err := strconv.ParseInt(string(d.Body), 10, 64)
					if err != nil {
						return err
					}
					handled <- time.Duration(time.Now().UnixNano() - at)
				}
				return nil
			})
			require.NoError(b, err)
			require.NoError(b, sub.Ready(b.Context()))
			require.NoError(b, s.store.PutShadowFlag(b.Context(), "bench", "load", group, true))
			defer func() { require.NoError(b, s.store.PutShadowFlag(context.Background(), "bench", "load", group, false)) }()

			beside := s.topic(b, cluster)
			another := s.client(b)
			sub, err = another.Subscribe(b.Context(), s.group(b, beside), func(context.Context, *turnout.Delivery) error { return nil })
			require.NoError(b, err)
			require.NoError(b, sub.Ready(b.Context()))

			send := func(ctx context.Context, client *turnout.Client, topic string) func() {
				return func() {
					client.SendAsync(ctx, topic, &turnout.Message{Body: strconv.AppendInt(nil, time.Now().UnixNano(), 10)}, func(_ turnout.SendResult, err error) {
						if err != nil {
							b.Error(err)
						}
					})
				}
			}
			loads := []func(){nil, send(b.Context(), another, beside), send(shadow.WithMark(b.Context()), client, topic)}
			measure := func(load func()) (p50, p99 float64) {
				if load != nil {
					defer every(pause, load)()
				}
				defer every(pause, send(b.Context(), client, topic))()
				took := make([]float64, slice)
				for i := range took {
					took[i] = ms(<-handled)
				}
				return quantile(took, 0.5), quantile(took, 0.99)
			}
			drain := func() {
				for quiet := false; !quiet; {
					select {
					case <-handled:
					case <-time.After(200 * time.Millisecond):
						quiet = true
					}
				}
			}
			for _, load := range loads {
				measure(load)
				drain()
			}
			var p50s, p99s [3][]float64
			for b.Loop() {
				for i := range rounds {
					for j := range loads {
						k := (i + j) % len(loads) // who goes first alternates
						p50, p99 := measure(loads[k])
						p50s[k], p99s[k] = append(p50s[k], p50), append(p99s[k], p99)
						drain()
					}
				}
			}
			ratio := func(of [3][]float64, k, to int) float64 {
				var all []float64
				for i := range of[k] {
					all = append(all, of[k][i]/of[to][i])
				}
				return median(all)
			}
			b.ReportMetric(median(p50s[0]), "ms-p50")
			b.ReportMetric(median(p99s[0]), "ms-p99")
			b.ReportMetric(ratio(p50s, 2, 0), "p50-ratio")
			b.ReportMetric(ratio(p99s, 2, 0), "p99-ratio")
			b.ReportMetric(ratio(p50s, 2, 1), "p50-of-other-load")
			b.ReportMetric(ratio(p99s, 2, 1), "p99-of-other-load")
			b.ReportMetric(0, "ns/op")
		})
	})
}

// every calls f at a pace until stop is called, which waits for it.
func every(d time.Duration, f func()) (stop func()) {
	end := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		tick := time.NewTicker(d)
		defer tick.Stop()
		for {
			select {
			case <-end:
				return
			case <-tick.C:
				f()
			}
		}
	})
	return func() {
		close(end)
		wg.Wait()
	}
}

// reports waits until the one instance that has a shadow group of group says so of it.
func (s *stage) reports(b *testing.B, group string, state metadata.ShadowState) {
	for {
		entries, err := s.store.ListInstances(b.Context(), "bench")
		require.NoError(b, err)
		if slices.ContainsFunc(entries, func(e metadata.InstanceEntry) bool { return e.Shadow[group].State == state }) {
			return
		}
	}
}

// leftovers counts goroutines and open files, as soon as they are as few as they were twice.
func leftovers(b *testing.B) (goroutines, files int) {
	for {
		g, f := runtime.NumGoroutine(), openFiles(b)
		if g == goroutines && f == files {
			return g, f
		}
		goroutines, files = g, f
		<-time.After(2 * time.Second)
	}
}

func openFiles(b *testing.B) int {
	entries, err := os.ReadDir("/proc/self/fd")
	require.NoError(b, err)
	return len(entries)
}

func ms(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

func quantile(x []float64, q float64) float64 {
	if len(x) == 0 {
		return 0
	}
	x = slices.Sorted(slices.Values(x))
	return x[min(len(x)-1, int(q*float64(len(x))))]
}
