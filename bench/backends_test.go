package bench

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/turnout-mq/turnout"
	"github.com/turnout-mq/turnout/testenv"
)

// BenchmarkBackends is Turnout on each backend that TURNOUT_TEST asks for, in slices that alternate: how fast the embedded
// servers are beside the real ones. It reports the median rate of each in messages a second.
func BenchmarkBackends(b *testing.B) {
	backends, err := testenv.Backends()
	require.NoError(b, err)
	for _, cluster := range []string{"kafka-a", "rocketmq-a"} {
		for _, c := range []struct {
			name   string
			rounds int
			begin  func(b *testing.B, s *stage, cluster string) (slice func() (rate float64))
		}{
			{"send/goroutines=1", 21, sendSlices(1)},
			{"send/goroutines=64", 21, sendSlices(64)},
			{"sendAsync", 21, asyncSlices},
			{"consume", 7, consumeSlices},
		} {
			b.Run(cluster+"/"+c.name, func(b *testing.B) {
				slices := map[testenv.Backend]func() float64{}
				for _, backend := range backends {
					slices[backend] = c.begin(b, stageOf(b, backend), cluster)
					slices[backend]()
				}
				rounds := c.rounds
				if len(backends) == 1 { // nothing to compare with
					rounds = 3
				}
				rates := map[testenv.Backend][]float64{}
				for b.Loop() {
					for i := range rounds {
						for j := range backends { // who goes first alternates
							backend := backends[(i+j)%len(backends)]
							rates[backend] = append(rates[backend], slices[backend]())
						}
					}
				}
				for backend, all := range rates {
					b.ReportMetric(median(all), string(backend)+"/s")
				}
				if len(backends) == 2 {
					var ratios []float64
					for i, rate := range rates[testenv.Embedded] {
						ratios = append(ratios, rate/rates[testenv.Servers][i])
					}
					b.ReportMetric(median(ratios), "embedded-over-servers")
				}
				b.ReportMetric(0, "ns/op")
			})
		}
	}
}

const messageSize = 100

// sendSlices sends for about the time of a slice.
func sendSlices(goroutines int) func(b *testing.B, s *stage, cluster string) func() float64 {
	return func(b *testing.B, s *stage, cluster string) func() float64 {
		topic, client, body := s.topic(b, cluster), s.client(b), make([]byte, messageSize)
		send := func(key []byte) {
			if _, err := client.Send(b.Context(), topic, &turnout.Message{Key: key, Body: body}); err != nil {
				b.Error(err)
			}
		}
		return paced(func(n int) { spread(goroutines, n, send) })
	}
}

// asyncSlices sends without waiting; the client bounds what is under way.
func asyncSlices(b *testing.B, s *stage, cluster string) func() float64 {
	topic, client, body := s.topic(b, cluster), s.client(b), make([]byte, messageSize)
	keys := make([][]byte, 256)
	for i := range keys {
		keys[i] = fmt.Appendf(nil, "order-%04d", i)
	}
	return paced(func(n int) {
		stored := make(chan error, n)
		for i := range n {
			client.SendAsync(b.Context(), topic, &turnout.Message{Key: keys[i%len(keys)], Body: body}, func(_ turnout.SendResult, err error) { stored <- err })
		}
		for range n {
			if err := <-stored; err != nil {
				b.Error(err)
			}
		}
	})
}

// paced repeats send with as many messages as fit into a slice, by the rate of the time before.
func paced(send func(n int)) func() float64 {
	n := 200
	return func() float64 {
		begin := time.Now()
		send(n)
		rate := float64(n) / time.Since(begin).Seconds()
		n = max(200, int(rate*slice.Seconds()))
		return rate
	}
}

// consumeSlices reads a full topic, each time as another group.
func consumeSlices(b *testing.B, s *stage, cluster string) func() float64 {
	const n = 40_000
	topic, client := s.topic(b, cluster), s.client(b)
	fill(b, client, topic, n, messageSize)
	return func() float64 { return n / consumeOurs(b, s, client, topic, n).Seconds() }
}
