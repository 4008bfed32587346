package bench

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/turnout-mq/turnout"
)

// BenchmarkFlip moves a topic between two Kafka clusters by editing its node, with clients that send all the time. It
// reports, as medians over moves: the time from the edit to the first message of any client and of the last client on the
// new cluster, and the longest time that a send took around a move beside the longest without one.
func BenchmarkFlip(b *testing.B) {
	each(b, func(b *testing.B, s *stage) {
		for _, clients := range []int{1, 50} {
			b.Run(fmt.Sprintf("clients=%d", clients), func(b *testing.B) { flip(b, s, clients) })
		}
	})
}

type sendEvent struct {
	client  int
	cluster string
	at      time.Time // answered
	took    time.Duration
}

func flip(b *testing.B, s *stage, n int) {
	topic := s.topic(b, "kafka-a", "kafka-b")
	ctx, stop := context.WithCancel(b.Context())
	events := make(chan sendEvent, 1<<16)
	var wg sync.WaitGroup
	for i := range n {
		client := s.client(b)
		wg.Go(func() {
			tick := time.NewTicker(5 * time.Millisecond)
			defer tick.Stop()
			for {
				select {
				case <-ctx.Done():
					return
				case <-tick.C:
				}
				begin := time.Now()
				r, err := client.Send(b.Context(), topic, &turnout.Message{Body: []byte("x")})
				if err != nil {
					b.Error(err)
					return
				}
				events <- sendEvent{i, r.Cluster, time.Now(), time.Since(begin)}
			}
		})
	}
	// Every client sends, and to the same cluster, before anything is measured.
	settle := func(cluster string) (first, last time.Time, longest time.Duration) {
		there := map[int]bool{}
		deadline := time.After(time.Minute)
		for len(there) < n {
			select {
			case e := <-events:
				longest = max(longest, e.took)
				if e.cluster == cluster && !there[e.client] {
					if there[e.client] = true; len(there) == 1 {
						first = e.at
					}
					last = e.at
				}
			case <-deadline:
				b.Fatalf("%d of %d clients followed to %s in a minute", len(there), n, cluster)
			}
		}
		return first, last, longest
	}
	settle("kafka-a")
	quiet := func() (longest time.Duration) {
		for range 100 * n {
			longest = max(longest, (<-events).took)
		}
		return longest
	}
	var firsts, lasts, longests, quiets []float64
	ms := func(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
	clusters := []string{"kafka-b", "kafka-a"}
	quiet()
	for b.Loop() {
		for i := range 10 {
			quiets = append(quiets, ms(quiet()))
			edited := time.Now()
			require.NoError(b, s.store.Set(b.Context(), s.store.TopicPath(topic), []byte(fmt.Sprintf(`{"cluster":%q}`, clusters[i%2])), -1))
			first, last, longest := settle(clusters[i%2])
			firsts, lasts, longests = append(firsts, ms(first.Sub(edited))), append(lasts, ms(last.Sub(edited))), append(longests, ms(longest))
		}
	}
	go func() {
		for range events { // senders must not block while they end
		}
	}()
	stop()
	wg.Wait()
	close(events)
	b.ReportMetric(median(firsts), "ms-to-first")
	b.ReportMetric(median(lasts), "ms-to-all")
	b.ReportMetric(median(longests), "ms-longest-send")
	b.ReportMetric(median(quiets), "ms-longest-quiet")
	b.ReportMetric(0, "ns/op")
}
