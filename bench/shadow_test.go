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

// kinds runs f with a cluster of each kind that the stage has.
func (s *stage) kinds(b *testing.B, f func(b *testing.B, cluster string)) {
	for _, cluster := range []string{"kafka-a", "rocketmq-a"} {
		if kind := s.env.Kind(cluster); kind != "" {
			b.Run(kind, func(b *testing.B) { f(b, cluster) })
		}
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
	const toggles, warm = 100, 5
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
				b.ReportMetric(float64(g-goroutines)/toggles, "goroutines-left/toggle")
				b.ReportMetric(float64(f-files)/toggles, "files-left/toggle")
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
// against the same without, in slices that alternate.
func BenchmarkShadowBusiness(b *testing.B) {
	const pairs, slice, pause = 10, 1000, time.Millisecond
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
			send := func(ctx context.Context) {
				client.SendAsync(ctx, topic, &turnout.Message{Body: strconv.AppendInt(nil, time.Now().UnixNano(), 10)}, func(_ turnout.SendResult, err error) {
					if err != nil {
						b.Error(err)
					}
				})
			}
			measure := func(with bool) (p50, p99 float64) {
				if with {
					defer every(pause, func() { send(shadow.WithMark(b.Context())) })()
				}
				defer every(pause, func() { send(b.Context()) })()
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
			measure(true)
			drain()
			var p50s, p99s, without, with []float64
			for b.Loop() {
				for i := range pairs {
					var got [2][2]float64 // without, with
					for j := range 2 {
						side := (i + j) % 2 // who goes first alternates
						got[side][0], got[side][1] = measure(side == 1)
						drain()
					}
					p50s, p99s = append(p50s, got[1][0]/got[0][0]), append(p99s, got[1][1]/got[0][1])
					without, with = append(without, got[0][1]), append(with, got[1][1])
				}
			}
			b.ReportMetric(median(p50s), "p50-ratio")
			b.ReportMetric(median(p99s), "p99-ratio")
			b.ReportMetric(median(without), "ms-p99-without")
			b.ReportMetric(median(with), "ms-p99-with")
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
