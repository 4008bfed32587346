package metadata_test

import (
	"encoding/json"
	"fmt"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/turnout-mq/turnout/broker"
	"github.com/turnout-mq/turnout/metadata"
)

// stays builds a list from words: "a" open with empty start, "a-" open without start, "a@3" open from 3, "a=3..9" sealed.
func stays(words ...string) []metadata.Stay {
	var out []metadata.Stay
	for _, w := range words {
		s := metadata.Stay{Cluster: w[:1], Start: broker.Offsets{}}
		var from, to int64
		switch {
		case w == s.Cluster+"-":
			s.Start = nil
		case len(w) > 1 && w[1] == '@':
			_, _ = fmt.Sscanf(w[2:], "%d", &from)
			s.Start = broker.Offsets{"0": from}
		case len(w) > 1 && w[1] == '=':
			_, _ = fmt.Sscanf(w[2:], "%d..%d", &from, &to)
			s.Start, s.End = broker.Offsets{"0": from}, broker.Offsets{"0": to}
		}
		out = append(out, s)
	}
	return out
}

func TestComplete(t *testing.T) {
	ref := func(czxid metadata.Zxid, version int32) metadata.WishRef {
		return metadata.WishRef{Czxid: czxid, Version: version}
	}
	type route struct {
		wish  metadata.WishRef
		write string
		stays []metadata.Stay
	}
	clusters := []string{"c", "b", "a"}
	for _, c := range []struct {
		name     string
		route    *route
		wish     metadata.WishRef
		to       string
		answered bool
		stays    []metadata.Stay
	}{
		{"the same wish is answered, whatever it says", &route{ref(7, 3), "a", stays("a")}, ref(7, 3), "b", true, stays("a")},
		{"an earlier version is answered", &route{ref(7, 3), "a", stays("b", "a")}, ref(7, 2), "b", true, stays("b", "a")},
		{"an earlier creation is answered, whatever its version", &route{ref(7, 3), "a", stays("a")}, ref(6, 9), "b", true, stays("a")},
		{"the next version is followed; the stay on a is not dropped", &route{ref(7, 3), "a", stays("a@3")}, ref(7, 4), "b", false, stays("a@3", "b")},
		{"the next version for the cluster that is written is not answered", &route{ref(7, 3), "a", stays("a@3")}, ref(7, 4), "a", false, stays("a@3")},
		{"an open stay moves to the end and keeps its start", &route{ref(7, 3), "c", stays("a@3", "b=0..5", "c")}, ref(7, 4), "a", false, stays("b=0..5", "c", "a@3")},
		{"an open stay without start keeps having none", &route{ref(7, 3), "b", stays("a-", "b")}, ref(7, 4), "a", false, stays("b", "a-")},
		{"a sealed stay stays, and a new one starts at its end", &route{ref(7, 3), "b", stays("a=2..9", "b")}, ref(7, 4), "a", false, stays("a=2..9", "b", "a@9")},
		{"the newest of several sealed stays gives the start", &route{ref(7, 3), "b", stays("a=2..9", "a=9..12", "b")}, ref(7, 4), "a", false, stays("a=2..9", "a=9..12", "b", "a@12")},
		{"an open stay counts before a sealed one", &route{ref(7, 3), "b", stays("a@9", "a=2..9", "b")}, ref(7, 4), "a", false, stays("a=2..9", "b", "a@9")},
		{"a version was skipped: every other cluster gets a stay first", &route{ref(7, 3), "a", stays("a@3")}, ref(7, 5), "b", false, stays("a@3", "c", "b")},
		{"skipped, back on the same cluster", &route{ref(7, 3), "a", stays("a@3")}, ref(7, 5), "a", false, stays("b", "c", "a@3")},
		{"skipped: a sealed cluster starts at its seal", &route{ref(7, 3), "a", stays("c=1..4", "a@3")}, ref(7, 9), "b", false, stays("c=1..4", "a@3", "c@4", "b")},
		{"skipped: open stays keep their places", &route{ref(7, 3), "a", stays("c@1", "a@3")}, ref(7, 9), "b", false, stays("c@1", "a@3", "b")},
		{"the wish was created anew: others were skipped", &route{ref(7, 3), "a", stays("a@3")}, ref(8, 0), "b", false, stays("a@3", "c", "b")},
		{"the first wish, no route: one stay without start", nil, ref(7, 0), "b", false, stays("b-")},
		{"a later wish, no route: the others first, then one without start", nil, ref(7, 2), "b", false, stays("a", "c", "b-")},
		{"an unknown cluster is not judged here", &route{ref(7, 3), "a", stays("a@3")}, ref(7, 4), "x", false, stays("a@3", "x")},
		{"a route read without its node (czxid 0) answers nothing", &route{ref(0, 0), "a", stays("a-")}, ref(7, 0), "a", false, stays("b", "c", "a-")},
	} {
		t.Run(c.name, func(t *testing.T) {
			node := metadata.Node{Exists: true, Czxid: c.wish.Czxid, Version: c.wish.Version}
			var before *metadata.Route
			if c.route != nil {
				before = &metadata.Route{V: 1, Wish: c.route.wish, Write: c.route.write, Order: metadata.OrderKey, Stays: c.route.stays, Migration: "m-1",
					Hold: &metadata.Hold{MS: 1}, Warm: []string{"c"}, Canary: &metadata.Canary{Write: "c"}, Extra: metadata.Extra{"x": json.RawMessage("1")}}
				valid := before.Clone()
				valid.Canary = nil // that of a route that is written has a stay
				require.NoError(t, valid.Validate())
			}
			require.Equal(t, c.answered, metadata.Answered(before, node))
			got := metadata.Complete(metadata.Wish{Cluster: c.to}, node, before, clusters)
			require.Equal(t, c.stays, got.Stays)
			if c.answered {
				require.Equal(t, *before, got)
				return
			}
			require.NoError(t, got.Validate())
			require.Equal(t, c.to, got.Write)
			require.Equal(t, c.wish, got.Wish)
			require.Nil(t, got.Hold)
			require.Nil(t, got.Canary)
			require.Empty(t, got.Warm)
			if before != nil {
				require.Equal(t, metadata.OrderKey, got.Order)
				require.Equal(t, "m-1", got.Migration)
				require.Equal(t, before.Extra, got.Extra)
			}
			require.True(t, metadata.Answered(&got, node))
			require.Equal(t, []string{"c", "b", "a"}, clusters, "the argument is left alone")
		})
	}
}

// TestCompleteProperties: along any history of wishes, seen or skipped, and of seals.
func TestCompleteProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		clusters := []string{"a", "b", "c", "d"}
		var route *metadata.Route
		node := metadata.Node{Exists: true, Czxid: 5, Version: -1}
		sentTo := map[string]bool{} // clusters that somebody may have sent to, since their last seal
		for range rapid.IntRange(1, 12).Draw(t, "wishes") {
			wish := metadata.Wish{Cluster: rapid.SampledFrom(clusters).Draw(t, "cluster")}
			// A node created anew before anybody wrote a route looks like a first one.
			if route != nil && rapid.IntRange(0, 3).Draw(t, "edit") == 0 {
				node.Czxid, node.Version = node.Czxid+metadata.Zxid(rapid.IntRange(1, 9).Draw(t, "later")), 0
			} else {
				node.Version++
			}
			sentTo[wish.Cluster] = true
			if rapid.Bool().Draw(t, "seen") {
				order := rapid.Permutation(clusters).Draw(t, "order")
				var before metadata.Route
				if route != nil {
					before = route.Clone()
				}
				next := metadata.Complete(wish, node, route, order)
				if route != nil {
					require.Equal(t, before, *route, "the argument is not changed")
				}
				require.NoError(t, next.Validate())
				require.Equal(t, next, metadata.Complete(wish, node, route, clusters), "the order of the clusters does not matter")
				require.Equal(t, next, metadata.Complete(wish, node, &next, order), "idempotent")
				last := next.Stays[len(next.Stays)-1]
				require.Equal(t, wish.Cluster, last.Cluster, "write is last")
				require.True(t, last.Open())
				if route != nil {
					for _, s := range route.Stays {
						require.True(t, slices.ContainsFunc(next.Stays, func(n metadata.Stay) bool {
							return n.Cluster == s.Cluster && n.Open() == s.Open() && equal(n.Start, s.Start) && equal(n.End, s.End)
						}), "stay %v was dropped", s)
					}
				}
				for cluster := range sentTo {
					require.True(t, slices.ContainsFunc(next.Stays, func(n metadata.Stay) bool { return n.Cluster == cluster && n.Open() }), "%s may hold messages", cluster)
				}
				route = &next
			}
			if route != nil && rapid.Bool().Draw(t, "seal") { // as a controller would, of a cluster that is not written and no wish names since
				i := rapid.IntRange(0, len(route.Stays)-1).Draw(t, "stay")
				s := &route.Stays[i]
				if s.Open() && s.Cluster != route.Write && metadata.Answered(route, node) {
					s.End = broker.Offsets{"0": s.Start["0"] + 1}
					delete(sentTo, s.Cluster)
				}
			}
		}
	})
}

func equal(a, b broker.Offsets) bool {
	return (a == nil) == (b == nil) && a.Reached(b) && b.Reached(a)
}
