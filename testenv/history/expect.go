package history

import (
	"maps"
	"slices"
)

// Expect makes Options from what a history says itself: its groups. One that it names (Recorder.Group) is as it was named.
// Any other that handles something reads the topics of what it handled, is a shadow group if more than half of that carries
// the mark, and promises no order.
func Expect(events []Event) Options {
	groups := map[string]*expected{}
	group := func(name string) *expected {
		if groups[name] == nil {
			groups[name] = &expected{topics: map[string]bool{}}
		}
		return groups[name]
	}
	sent := map[string]string{} // topic by message id
	for i := range events {
		switch e := &events[i]; e.Op {
		case OpSend:
			sent[e.ID] = e.Topic
		case OpGroup:
			g := group(e.Group)
			if !g.named {
				*g = expected{named: true, topics: map[string]bool{}}
			}
			g.Shadow, g.Ordered, g.Partial = e.Shadow, e.Ordered, e.Partial
			g.all = g.all || e.Topic == ""
			g.topics[e.Topic] = true
		default: // the second pass needs all topics, and all groups that are named
		}
	}
	for i := range events {
		e := &events[i]
		if e.Op != OpRecv {
			continue
		}
		g := group(e.Group)
		if g.named {
			continue
		}
		topic, known := sent[e.ID]
		if !known {
			topic = e.Topic
		}
		g.topics[topic] = true
		g.handled++
		if e.Shadow {
			g.marked++
		}
	}
	var o Options
	for _, name := range slices.Sorted(maps.Keys(groups)) {
		g := groups[name]
		g.Name = name
		if !g.all {
			g.Topics = slices.Sorted(maps.Keys(g.topics))
		}
		if !g.named {
			g.Shadow = 2*g.marked > g.handled
		}
		o.Groups = append(o.Groups, g.Group)
	}
	return o
}

type expected struct {
	Group
	topics          map[string]bool
	named, all      bool
	handled, marked int
}
