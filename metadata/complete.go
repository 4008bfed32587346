package metadata

import (
	"slices"

	"github.com/turnout-mq/turnout/broker"
)

// Answered says whether route (nil: there is none) answers the wish in wishNode: it names that wish or a later one. It is not
// enough that it writes to the wish's cluster: A → B → A would look answered though somebody may have sent to B.
func Answered(route *Route, wishNode Node) bool {
	if route == nil {
		return false
	}
	if route.Wish.Czxid != wishNode.Czxid {
		return route.Wish.Czxid > wishNode.Czxid
	}
	return route.Wish.Version >= wishNode.Version
}

// Complete is the route that a wish makes of the route before it (nil: there is none). clusters are all clusters that
// are known, in any order. It is a pure function and the same whoever computes it:
//
//   - A wish that is answered changes nothing.
//   - Write is the wish's cluster, and no stay is dropped: what may be unread there stays in the books.
//   - If the cluster has an open stay, that moves to the end of the list and keeps its start, so there is at most one open
//     stay a cluster. Else one is appended that starts at the end of the cluster's newest sealed stay, or, if there is
//     none, with empty start: everything.
//   - Without a route the stay has no start: it is the topic's first.
//   - If wishes were skipped (the version is more than one ahead, the node was created anew, or there is no route and the
//     version is not 0), somebody may have sent by a wish that nobody recorded: every other cluster without an open stay
//     gets one in the same way first.
//   - Clusters that are dead stay so, but for the wish's.
//   - Hold, Canary and Warm belong to the step of a migration that the wish interrupts and are taken off; Order,
//     Migration and unknown fields stay.
//
// The route has to be read after the wish (Follower.Refresh): PutTopic writes both in one step, and with the route before
// it its wish looks like a hand edit.
//
// A wish whose node was deleted and created anew before anybody wrote a route can not be told from a first one; whoever
// sent by the wish before it is not in the books.
//
// The result shares no memory with route.
func Complete(wish Wish, wishNode Node, route *Route, clusters []string) Route {
	if Answered(route, wishNode) {
		return route.Clone()
	}
	var next Route
	if route == nil {
		next = Route{V: version, Order: OrderNone}
	} else {
		next = route.Clone()
	}
	next.recordSkipped(wishNode, route == nil, wish.Cluster, clusters)
	next.enter(wish.Cluster, nil, route == nil)
	next.Wish = WishRef{Czxid: wishNode.Czxid, Version: wishNode.Version}
	return next
}

// recordSkipped opens a stay on every cluster but except, if between the wish that r answers and the one in wishNode
// lies another that nobody recorded.
func (r *Route) recordSkipped(wishNode Node, first bool, except string, clusters []string) {
	skipped := wishNode.Czxid != r.Wish.Czxid || int64(wishNode.Version) > int64(r.Wish.Version)+1
	if first {
		skipped = wishNode.Version > 0
	}
	if !skipped {
		return
	}
	sorted := slices.Clone(clusters)
	slices.Sort(sorted)
	for _, cluster := range slices.Compact(sorted) {
		if cluster != except && r.openStay(cluster) < 0 {
			r.Stays = append(r.Stays, r.newStay(cluster))
		}
	}
}

// enter makes cluster the one that is written. start, if not nil, is the start of a stay that has to be opened for it.
func (r *Route) enter(cluster string, start broker.Offsets, first bool) {
	stay := r.newStay(cluster)
	switch i := r.openStay(cluster); {
	case i >= 0:
		stay = r.Stays[i]
		r.Stays = slices.Delete(r.Stays, i, i+1)
	case start != nil:
		stay.Start = start.Clone()
	case first:
		stay.Start = nil
	}
	r.Stays = append(r.Stays, stay)
	r.Write = cluster
	r.Hold, r.Canary, r.Warm = nil, nil, nil
	if r.Dead = slices.DeleteFunc(r.Dead, func(name string) bool { return name == cluster }); len(r.Dead) == 0 {
		r.Dead = nil
	}
}

// openStay is the index of the stay of cluster without end, or -1.
func (r *Route) openStay(cluster string) int {
	return slices.IndexFunc(r.Stays, func(s Stay) bool { return s.Cluster == cluster && s.Open() })
}

func (r *Route) newStay(cluster string) Stay {
	for _, s := range slices.Backward(r.Stays) {
		if s.Cluster == cluster && !s.Open() {
			return Stay{Cluster: cluster, Start: s.End.Clone()}
		}
	}
	return Stay{Cluster: cluster, Start: broker.Offsets{}}
}
