package cli_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestSendAndTail(t *testing.T) {
	eachWorld(t, func(t *testing.T, w *world) {
		require.Contains(t, w.refused(t, 4, "send", "order_topic", "x"), "turnout topic list")
		require.Contains(t, w.refused(t, 4, "tail", "order_bil_group"), "turnout group list")
		require.Contains(t, w.refused(t, 2, "send", "order_topic", "x", "--header", "nope"), "name=value")
		require.Contains(t, w.refused(t, 2, "send", "order_topic", "x", "--count", "0"), "--count")

		w.turnout(t, "topic", "put", "order_topic", "--cluster", "kafka-a", "--create", "--partitions", "1")
		w.turnout(t, "group", "put", "order_bil_group", "--topic", "order_topic", "--concurrency", "1")
		require.Contains(t, w.refused(t, 3, "send", "order_topic", "x", "--header", "turnout-id=1"), "turnout-id")
		require.Regexp(t, `^[0-9a-f]{32}  kafka-a  partition 0  offset 0\n$`,
			w.turnout(t, "send", "order_topic", "a\nb", "--key", "k", "--tag", "paid", "--header", "from=cli").stdout)
		r := runWith(t, "from stdin {n}", "send", "order_topic", "--zookeeper", w.connect)
		require.Equal(t, 0, r.code, r.stderr)

		// The group follows the topic and gets what is on both clusters.
		w.turnout(t, "topic", "put", "order_topic", "--cluster", "kafka-b", "--create")
		type sent struct {
			ID, Cluster, Partition string
			Offset                 int64
		}
		out := w.turnout(t, "send", "order_topic", "n {n}", "--key", "k{n}", "--count", "3", "--rate", "1000", "-o", "json").stdout
		var ids []string
		for line := range strings.Lines(out) {
			s := decode[sent](t, line)
			require.Equal(t, "kafka-b", s.Cluster)
			ids = append(ids, s.ID)
		}
		require.Len(t, ids, 3)

		type received struct {
			ID, Topic, Cluster, Partition, Key, Tag, Body string
			Headers                                       map[string]string
			Attempt                                       int
			Stored                                        time.Time
		}
		bodies := map[string]received{}
		read := func(n int) {
			r := run(t, "tail", "order_bil_group", "--count", fmt.Sprint(n), "-o", "json", "--zookeeper", w.connect)
			require.Equal(t, 0, r.code, r.stderr)
			require.Equal(t, n, strings.Count(r.stdout, "\n"), r.stdout)
			for line := range strings.Lines(r.stdout) {
				d := decode[received](t, line)
				require.NotContains(t, bodies, d.Body, "nothing that was printed comes again")
				bodies[d.Body] = d
			}
		}
		read(2)
		read(3)
		require.Len(t, bodies, 5)
		require.Equal(t, "k", bodies["a\nb"].Key)
		require.Equal(t, "paid", bodies["a\nb"].Tag)
		require.Equal(t, map[string]string{"from": "cli"}, bodies["a\nb"].Headers)
		require.Equal(t, "kafka-a", bodies["a\nb"].Cluster)
		require.Equal(t, "order_topic", bodies["a\nb"].Topic)
		require.Equal(t, "kafka-b", bodies["n 2"].Cluster)
		require.Equal(t, "k2", bodies["n 2"].Key)
		require.Equal(t, ids[1], bodies["n 2"].ID)
		require.Contains(t, bodies, "from stdin {n}")
		on := w.group(t, "order_bil_group")
		require.Zero(t, on.on("kafka-a").Unread+on.on("kafka-b").Unread+on.on("kafka-a").Retries+on.on("kafka-b").Retries)

		// Live, as text, until it is ended.
		tail := start(t, "tail", "order_bil_group", "--zookeeper", w.connect)
		w.turnout(t, "send", "order_topic", "live", "--key", "k")
		tail.stdout.await(t, "live")
		require.Regexp(t, `^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3}  kafka-b 0/3  key k  live\n$`, tail.stdout.String())
		require.Equal(t, 0, tail.end(t))
	})
}
