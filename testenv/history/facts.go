package history

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strings"
)

// facts are what a history says of topics and processes.
type facts struct {
	killed  map[string]bool
	rescued map[string]bool        // by message id
	left    map[physical][]span    // spans in which nobody's message was to be accepted: Options.Left and fences
	sealed  map[partition][]sealed // by partition, in the order of time
	writes  map[string]string      // by topic: the cluster of the last route
	moves   map[string][]*Event    // by topic, in the order of time
}

// physical is a topic on a cluster. An empty topic: all of them.
type physical struct {
	cluster, topic string
	shadow         bool
}

// partition is one log.
type partition struct {
	physical
	name string
}

// span is a piece of time in ns since 1970, without its ends.
type span struct{ from, until int64 }

// sealed is what must not exist in a partition: offsets from end on, and below start when the cluster was opened again.
type sealed struct {
	end, start int64
	opened     int64 // when, ns since 1970; never: the largest number
}

func factsOf(events []Event, o Options) facts {
	f := facts{killed: map[string]bool{}, rescued: map[string]bool{}, left: map[physical][]span{},
		sealed: map[partition][]sealed{}, writes: map[string]string{}, moves: map[string][]*Event{}}
	for _, name := range o.Killed {
		f.killed[name] = true
	}
	for _, l := range o.Left {
		s := span{l.From.UnixNano(), math.MaxInt64}
		if !l.Until.IsZero() {
			s.until = l.Until.UnixNano()
		}
		for _, shadow := range []bool{false, true} {
			at := physical{l.Cluster, l.Topic, shadow}
			f.left[at] = append(f.left[at], s)
		}
	}
	fenced := map[physical]int64{} // since when
	for i := range events {
		e := &events[i]
		at := physical{e.Cluster, e.Topic, e.Shadow}
		switch e.Op {
		case OpKill:
			f.killed[e.Member] = true
		case OpRescue:
			f.rescued[e.ID] = true
		case OpRoute:
			f.writes[e.Topic] = e.Cluster
		case OpMove:
			f.moves[e.Topic] = append(f.moves[e.Topic], e)
		case OpFence: // a fence is asserted again and again: the first one counts
			if fenced[at] == 0 {
				fenced[at] = e.T
			}
		case OpOpen:
			if since := fenced[at]; since != 0 {
				f.left[at] = append(f.left[at], span{since, e.T})
				delete(fenced, at)
			}
			f.open(at, e)
		case OpSeal:
			for name, end := range e.Offsets {
				p := partition{at, name}
				f.sealed[p] = append(f.sealed[p], sealed{end: end, start: math.MaxInt64, opened: math.MaxInt64})
			}
		default: // what applications do
		}
	}
	for at, since := range fenced {
		f.left[at] = append(f.left[at], span{since, math.MaxInt64})
	}
	return f
}

// open ends the seals that are in force.
func (f *facts) open(at physical, e *Event) {
	for p, list := range f.sealed {
		if p.physical != at {
			continue
		}
		for i := len(list) - 1; i >= 0 && list[i].opened == math.MaxInt64; i-- {
			list[i].opened = e.T
			if start, told := e.Offsets[p.name]; told {
				list[i].start = start
			}
		}
	}
}

// leftBefore says since when a cluster had been left while a send to it went on from t to until; false: it had not.
func (f *facts) leftBefore(at physical, t, until int64) (int64, bool) {
	for _, key := range []physical{at, {at.cluster, "", at.shadow}} {
		for _, s := range f.left[key] {
			if t > s.from && until < s.until {
				return s.from, true
			}
		}
	}
	return 0, false
}

// behindSeal says where a partition had been sealed when an offset at or behind that was written, at t or before.
func (f *facts) behindSeal(p partition, offset, t int64) (end int64, yes bool) {
	for _, s := range f.sealed[p] {
		// Where the cluster was opened again without telling at which offset, what was seen after that is right.
		if offset >= s.end && offset < s.start && (s.start != math.MaxInt64 || t < s.opened) {
			return s.end, true
		}
	}
	return 0, false
}

// during names the states that migrations of a topic were in.
func (f *facts) during(topic string, from, until int64) string {
	moves := f.moves[topic]
	i, _ := slices.BinarySearchFunc(moves, from, func(e *Event, t int64) int { return cmp.Compare(e.T, t+1) })
	var b strings.Builder
	id := ""
	for _, e := range moves[max(0, i-1):] {
		if e.T > until {
			break
		}
		if e.Move != id {
			id = e.Move
			fmt.Fprintf(&b, " %s:", id)
		}
		b.WriteString(" " + e.State)
	}
	return strings.TrimSpace(b.String())
}

// behindSeal counts a message, once, that is where a seal says that nothing is. e is an acknowledgement or the beginning of a handling.
func (c *checker) behindSeal(m *message, e *Event) {
	if m.sealed || !e.placed() {
		return
	}
	p := partition{physical{e.Cluster, e.Topic, e.Shadow}, e.Partition}
	if m.send != nil {
		p.topic, p.shadow = m.send.Topic, m.send.Shadow
	}
	end, yes := c.facts.behindSeal(p, e.Offset, e.T)
	if !yes {
		return
	}
	m.sealed = true
	if e.Op == OpOK {
		c.found(Sealed, e.ID, "sent by %s, acknowledged at %s by %s, where %s was sealed at %d", e.Producer, c.at(e.T), where(e), p.topic, end)
	} else {
		c.found(Sealed, e.ID, "read by %s at %s from %s, where %s was sealed at %d", e.Group, c.at(e.T), where(e), p.topic, end)
	}
}

// hasLeft says that a topic is not written on a cluster any more: by the last route that the history names, or
// where it names none, by the last acknowledgement.
func (c *checker) hasLeft(topic, cluster string) bool {
	now := c.facts.writes[topic]
	if last := c.lastAck[topic]; now == "" && last != nil {
		now = last.Cluster
	}
	return now != "" && cluster != now
}
