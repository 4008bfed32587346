package consumer

import (
	"slices"

	"github.com/turnout-mq/turnout/broker"
	"github.com/turnout-mq/turnout/metadata"
)

// want is the wish to read one cluster.
type want struct {
	cluster string
	limit   broker.Offsets // the seal: messages from there on are not handled yet; nil: all are
	stays   bool           // false: only to see whether something is there (an open stay on a cluster that is left)
}

// plan says which clusters a group reads under a route. finished tells whether the group has finished the sealed stay
// with that index.
//
// Clusters to which nothing is sent are looked at (stays false) rather than read when their only unfinished stay is
// open: most are empty. One that is dead is not: it is read as soon as it answers (R31).
func plan(route *metadata.Route, ordered bool, finished func(stay int) bool) []want {
	var wants []want
	add := func(cluster string, limit broker.Offsets, stays bool) {
		i := slices.IndexFunc(wants, func(w want) bool { return w.cluster == cluster })
		if i < 0 {
			wants = append(wants, want{cluster, limit, stays})
			return
		}
		wants[i].stays = wants[i].stays || stays
	}
	wrote := false // the open stay of the write cluster was passed
	for i, s := range route.Stays {
		switch {
		case s.Open() && ordered && wrote && slices.Contains(route.Warm, s.Cluster) && !route.Writes(s.Cluster):
			// Prepared to be written after this one: nothing is read there before this one is finished.
		case s.Open():
			wrote = wrote || s.Cluster == route.Write
			add(s.Cluster, nil, route.Writes(s.Cluster) || slices.Contains(route.Warm, s.Cluster) || slices.Contains(route.Dead, s.Cluster))
		case finished(i):
		case !ordered:
			add(s.Cluster, nil, true)
		default:
			// What follows waits for this one, unless it is given up for now (R31). Open stays before it are read on (R20).
			if i := slices.IndexFunc(wants, func(w want) bool { return w.cluster == s.Cluster }); i < 0 {
				wants = append(wants, want{s.Cluster, s.End, true})
			}
			if slices.Contains(route.Dead, s.Cluster) {
				continue
			}
			return wants
		}
	}
	return wants
}
