package consumer

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/turnout-mq/turnout/broker"
	"github.com/turnout-mq/turnout/metadata"
)

func TestPlan(t *testing.T) {
	seal := broker.Offsets{"0": 10, "1": 20}
	open := func(c string) metadata.Stay { return metadata.Stay{Cluster: c} }
	sealed := func(c string) metadata.Stay { return metadata.Stay{Cluster: c, End: seal} }
	for _, c := range []struct {
		name     string
		route    metadata.Route
		ordered  bool
		finished []int
		want     []want
	}{
		{"one cluster", metadata.Route{Write: "a", Stays: []metadata.Stay{open("a")}}, false, nil,
			[]want{{"a", nil, true}}},
		{"an open stay on a cluster that is left is looked at, not read", metadata.Route{Write: "b", Stays: []metadata.Stay{open("a"), open("b")}}, false, nil,
			[]want{{"a", nil, false}, {"b", nil, true}}},
		{"a warm cluster is read before anybody writes there", metadata.Route{Write: "a", Warm: []string{"b"}, Stays: []metadata.Stay{open("a"), open("b")}}, false, nil,
			[]want{{"a", nil, true}, {"b", nil, true}}},
		{"a sealed stay is read without a limit beside the others", metadata.Route{Write: "b", Stays: []metadata.Stay{sealed("a"), open("b")}}, false, nil,
			[]want{{"a", nil, true}, {"b", nil, true}}},
		{"a sealed stay that is finished is left", metadata.Route{Write: "b", Stays: []metadata.Stay{sealed("a"), open("b")}}, false, []int{0},
			[]want{{"b", nil, true}}},
		{"sealed and open stay of one cluster are one membership", metadata.Route{Write: "a", Stays: []metadata.Stay{sealed("a"), open("b"), open("a")}}, false, nil,
			[]want{{"a", nil, true}, {"b", nil, false}}},
		{"ordered: the first sealed stay alone, up to its seal", metadata.Route{Write: "b", Stays: []metadata.Stay{sealed("a"), open("b")}}, true, nil,
			[]want{{"a", seal, true}}},
		{"ordered: when it is finished the next", metadata.Route{Write: "b", Stays: []metadata.Stay{sealed("a"), open("b")}}, true, []int{0},
			[]want{{"b", nil, true}}},
		{"ordered: one that is given up for now holds nothing back", metadata.Route{Write: "c", Dead: []string{"a"}, Stays: []metadata.Stay{open("c"), sealed("a"), sealed("b")}}, true, nil,
			[]want{{"c", nil, true}, {"a", seal, true}, {"b", seal, true}}},
		{"ordered: two sealed stays one after the other", metadata.Route{Write: "c", Stays: []metadata.Stay{sealed("a"), sealed("b"), open("c")}}, true, []int{0},
			[]want{{"b", seal, true}}},
		{"ordered: an open stay that is not the last holds nothing back", metadata.Route{Write: "b", Stays: []metadata.Stay{open("a"), open("b")}}, true, nil,
			[]want{{"a", nil, false}, {"b", nil, true}}},
		{"ordered: what is warm is not read before the cluster that is left", metadata.Route{Write: "a", Warm: []string{"b"}, Stays: []metadata.Stay{open("a"), open("b")}}, true, nil,
			[]want{{"a", nil, true}}},
		{"ordered: a canary is read beside the cluster that the rest goes to", metadata.Route{Write: "a", Warm: []string{"b"}, Canary: &metadata.Canary{Write: "b"}, Stays: []metadata.Stay{open("a"), open("b")}}, true, nil,
			[]want{{"a", nil, true}, {"b", nil, true}}},
		{"ordered: back on a cluster whose first stay is not finished", metadata.Route{Write: "a", Stays: []metadata.Stay{sealed("a"), sealed("b"), open("a")}}, true, nil,
			[]want{{"a", seal, true}}},
		{"ordered: back on it, no limit after the stay between", metadata.Route{Write: "a", Stays: []metadata.Stay{sealed("a"), sealed("b"), open("a")}}, true, []int{0, 1},
			[]want{{"a", nil, true}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			done := map[int]bool{}
			for _, i := range c.finished {
				done[i] = true
			}
			require.Equal(t, c.want, plan(&c.route, c.ordered, func(i int) bool { return done[i] }))
		})
	}
}

func TestPositionIsTheLowestUnfinishedMessage(t *testing.T) {
	var commits []int64
	tr := &tracker{commit: func(next int64) { commits = append(commits, next) }, window: 4}
	var items []*item
	for _, offset := range []int64{5, 6, 9, 10} {
		it := &item{d: &broker.Delivery{Offset: offset}}
		items = append(items, it)
		require.True(t, tr.add(t.Context(), it))
	}
	tr.finish(items[2])
	tr.finish(items[1])
	require.Empty(t, commits, "5 is not finished")

	full := make(chan bool)
	go func() { full <- tr.add(t.Context(), &item{d: &broker.Delivery{Offset: 11}}) }()
	tr.finish(items[0])
	require.Equal(t, []int64{10}, commits, "5, 6 and 9 are; 7 and 8 do not exist")
	require.True(t, <-full, "there is room again")

	tr.skip(40)
	tr.finish(items[3])
	require.Equal(t, []int64{10, 11}, commits, "11 is not finished, so the seal is not reached")
	tr.mu.Lock()
	eleven := tr.items[0]
	tr.mu.Unlock()
	tr.finish(eleven)
	require.Equal(t, int64(40), commits[len(commits)-1])
}
