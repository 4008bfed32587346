package fleet_test

import (
	"encoding/json"
	"fmt"
	"runtime"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/turnout-mq/turnout/admin/fleet"
	"github.com/turnout-mq/turnout/broker"
	"github.com/turnout-mq/turnout/metadata"
)

// BenchmarkFullLook is one server that looks once at 10,000 topics on four clusters, with 3,000 groups of three topics each and
// an instance for every topic. It reports how long one look at all takes, and what is kept of it in memory.
func BenchmarkFullLook(b *testing.B) {
	const topics, groups, reads, instances = 10_000, 3_000, 3, 500
	clusters := []string{"a", "b", "c", "d"}
	topic := func(i int) string { return fmt.Sprintf("topic-%05d", i) }
	w := newWorld(b)
	w.cluster(clusters...)
	doc := func(v any) []byte {
		data, err := json.Marshal(v)
		require.NoError(b, err)
		return data
	}
	var ops []metadata.Op
	write := func(atMost int) {
		if len(ops) > atMost {
			require.NoError(b, w.meta.Multi(w.ctx(), ops...))
			ops = nil
		}
	}
	for _, path := range []string{w.meta.TopicsPath(), w.meta.GroupsPath(), w.meta.Root + "/participants", w.meta.InstancesPath("app")} {
		w.create(path, "")
	}
	for i := range topics {
		name, cluster := topic(i), clusters[i%len(clusters)]
		w.fake(cluster).ends[name] = broker.Offsets{"0": 100, "1": 100, "2": 100, "3": 100}
		route := metadata.Route{V: 1, Write: cluster, Order: metadata.OrderNone, Stays: []metadata.Stay{{Cluster: cluster}}}
		settings := metadata.DefaultTopicSettings()
		settings.App = "app"
		participant := metadata.Participant{V: 1, Zxid: 1 << 40, Write: cluster, At: time.Now()}
		ops = append(ops,
			metadata.CreateOp(w.meta.TopicPath(name), doc(metadata.Wish{Cluster: cluster})),
			metadata.CreateOp(w.meta.RoutePath(name), doc(route)),
			metadata.CreateOp(w.meta.SettingsPath(name), doc(settings)),
			metadata.CreateOp(w.meta.ParticipantsPath(name), nil),
			metadata.CreateOp(w.meta.ParticipantPath(name, fmt.Sprintf("10.0.0.1@-@%d@-@0", i%instances)), doc(participant)))
		write(500)
	}
	for i := range groups {
		g := metadata.DefaultGroup()
		for n := range reads {
			g.Topics = append(g.Topics, topic((i*reads+n)%topics))
		}
		ops = append(ops, metadata.CreateOp(w.meta.GroupPath(fmt.Sprintf("group-%04d", i)), doc(g)))
		write(500)
	}
	for i := range instances {
		ops = append(ops, metadata.CreateOp(w.meta.InstancePath("app", fmt.Sprintf("10.0.0.1@-@%d@-@0", i)), doc(metadata.Instance{V: 1})))
	}
	write(0)
	live := func() uint64 {
		runtime.GC() //nolint:revive // what is kept is measured
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	for _, delay := range []time.Duration{0, 2 * time.Millisecond} {
		b.Run(fmt.Sprintf("clusters answer after %v", delay), func(b *testing.B) {
			for _, name := range clusters {
				w.fake(name).set(func(f *fake) { f.delay = delay })
			}
			var took time.Duration
			var kept uint64
			for b.Loop() {
				before := live()
				s := w.server(func(c *fleet.Config) { c.Every, c.Shards = time.Hour, 32 })
				w.eventually(func() bool { return len(s.Snapshot().Shards) == 32 }, "everything to be looked at")
				kept += live() - before
				seen := s.Snapshot()
				require.Len(b, seen.Topics, topics)
				first, last := time.Now(), time.Time{}
				for _, shard := range seen.Shards {
					require.Zero(b, shard.Failed)
					if shard.At.Before(first) {
						first = shard.At
					}
					if end := shard.At.Add(shard.Took); end.After(last) {
						last = end
					}
				}
				took += last.Sub(first)
				asked := time.Now()
				_, err := s.Top(w.ctx(), 100)
				require.NoError(b, err)
				b.ReportMetric(float64(time.Since(asked).Microseconds())/1000, "ms/Top")
				asked = time.Now()
				all, err := s.Instances(w.ctx(), "app")
				require.NoError(b, err)
				require.Len(b, all, instances)
				require.Len(b, all[0].Topics, topics/instances)
				b.ReportMetric(float64(time.Since(asked).Microseconds())/1000, "ms/Instances")
				s.stop()
			}
			b.ReportMetric(took.Seconds()/float64(b.N), "s/look")
			b.ReportMetric(float64(kept)/float64(b.N)/(1<<20), "MB-kept")
		})
	}
}
