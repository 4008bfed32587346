package turnout_test

import (
	"context"
	"encoding/json"
	"fmt"
	"runtime"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/turnout-mq/turnout"
	"github.com/turnout-mq/turnout/broker"
	"github.com/turnout-mq/turnout/metadata"
	"github.com/turnout-mq/turnout/testenv"
)

// goroutines counts those of this process by what has created them.
func goroutines() map[string]int {
	buf := make([]byte, 1<<20)
	for {
		n := runtime.Stack(buf, true)
		if n < len(buf) {
			buf = buf[:n]
			break
		}
		buf = make([]byte, 2*len(buf))
	}
	counts := map[string]int{}
	for _, one := range strings.Split(string(buf), "\n\n") {
		_, by, _ := strings.Cut(one, "\ncreated by ")
		by, _, _ = strings.Cut(by, " in goroutine")
		counts[by]++
	}
	return counts
}

// What a client that lives on does again and again leaves nothing behind in it: moves, subscriptions that come and go,
// topics that are not there, clusters whose metadata changes. (That a closed client leaves nothing is seen at the end of
// all tests.)
func TestWhatIsDoneAgainAndAgainLeavesNothingBehind(t *testing.T) { // alone, because it counts
	backends, err := testenv.Backends()
	require.NoError(t, err)
	for _, backend := range backends {
		t.Run(string(backend), func(t *testing.T) {
			w := newWorld(t, sharedEnv(t, backend, kafkasSpec), kafkas...)
			w.putTopic("kafka-a", "kafka-b")
			w.putGroup(nil)
			client := w.open("order_service")
			gone, cancel := context.WithCancel(w.ctx())
			cancel()
			var in inbox
			sent := 0
			round := func(i int) {
				cluster := []string{"kafka-b", "kafka-a"}[i%2]
				s, err := client.Subscribe(w.ctx(), w.group, in.listen)
				require.NoError(t, err)
				require.NoError(t, s.Ready(w.ctx()))
				_, err = client.Subscribe(w.ctx(), "bills-unknown", in.listen)
				require.ErrorIs(t, err, turnout.ErrUnknownGroup)
				_, err = client.Send(w.ctx(), "orders-unknown", &turnout.Message{Body: []byte("1")})
				require.ErrorIs(t, err, turnout.ErrUnknownTopic)
				_, err = client.Send(gone, "orders-unknown", &turnout.Message{Body: []byte("1")})
				require.Error(t, err)
				w.edit(cluster)
				w.applied(cluster)
				require.Equal(t, cluster, w.send(client, "1"))
				doc, err := json.Marshal(metadata.Cluster{V: 1, Kind: broker.Kafka, Addresses: w.env.Addresses(cluster),
					Properties: map[string]string{"send.timeout": fmt.Sprintf("%ds", 5+i%2)}})
				require.NoError(t, err)
				require.NoError(t, w.store.Set(w.ctx(), w.store.ClusterPath(cluster), doc, -1))
				sent++
				w.eventually(func() bool { return len(in.bodies()) >= sent }, nil, "handled")
				require.NoError(t, s.Close(w.ctx()))
			}
			for i := range 4 {
				round(i)
			}
			before := goroutines()
			const rounds = 20
			for i := range rounds {
				round(i)
			}
			grown := map[string]int{}
			w.eventually(func() bool {
				clear(grown)
				for by, n := range goroutines() {
					if n > before[by]+rounds/2 { // what comes and goes counts neither way
						grown[by] = n - before[by]
					}
				}
				return len(grown) == 0
			}, func() any { return grown }, "after %d rounds more there are as many goroutines as before", rounds)
		})
	}
}
