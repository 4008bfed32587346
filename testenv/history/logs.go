package history

import (
	"cmp"
	"slices"
	"strings"
)

// A log is what groups read of one partition, without retry topics.
type log struct {
	readings []reading
	upTo     []int64 // for each group: the largest offset that it began to handle; -1: none
}

type reading struct {
	e     *Event // recv
	group int32
}

// readAt enters a handling into the log that it was read from.
func (c *checker) readAt(m *message, e *Event, group int) {
	if !e.placed() {
		return
	}
	p := partition{physical{e.Cluster, e.Topic, e.Shadow}, e.Partition}
	if m.send != nil {
		p.topic, p.shadow = m.send.Topic, m.send.Shadow
	}
	l := c.logs[p]
	if l == nil {
		l = &log{upTo: make([]int64, len(c.o.Groups))}
		for i := range l.upTo {
			l.upTo[i] = -1
		}
		c.logs[p] = l
	}
	l.readings = append(l.readings, reading{e, int32(group)})
	l.upTo[group] = max(l.upTo[group], e.Offset)
}

// passed says up to where a group has read the partition that a send was acknowledged in. false: that is not known to be
// further than the send.
func (c *checker) passed(s, ok *Event, group int) (int64, bool) {
	if !ok.placed() {
		return 0, false
	}
	l := c.logs[partition{physical{ok.Cluster, s.Topic, s.Shadow}, ok.Partition}]
	if l == nil {
		return -1, false
	}
	return l.upTo[group], l.upTo[group] > ok.Offset
}

// compareLogs holds what the groups read of each partition against each other: at an offset all of them see the same
// message, and a group that went on has seen every offset that another group saw.
func (c *checker) compareLogs() {
	names := make([]partition, 0, len(c.logs))
	for p := range c.logs {
		names = append(names, p)
	}
	slices.SortFunc(names, func(a, b partition) int {
		return cmp.Or(strings.Compare(a.cluster, b.cluster), strings.Compare(a.topic, b.topic), strings.Compare(a.name, b.name))
	})
	saw := make([]bool, len(c.o.Groups))
	for _, p := range names {
		l := c.logs[p]
		slices.SortStableFunc(l.readings, func(a, b reading) int { return cmp.Compare(a.e.Offset, b.e.Offset) })
		for rest := l.readings; len(rest) > 0; {
			n := 1
			for n < len(rest) && rest[n].e.Offset == rest[0].e.Offset {
				n++
			}
			c.compareOffset(p, l, rest[:n], saw)
			rest = rest[n:]
		}
	}
}

// compareOffset looks at all readings of one offset.
func (c *checker) compareOffset(p partition, l *log, all []reading, saw []bool) {
	first := all[0].e
	clear(saw)
	for _, r := range all {
		saw[r.group] = true
		if r.e.ID != first.ID {
			c.found(Inconsistent, r.e.ID, "read by %s at %s from %s, where %s read %s at %s",
				r.e.Group, c.at(r.e.T), where(r.e), first.Group, first.ID, c.at(first.T))
		}
	}
	for i, g := range c.o.Groups {
		if saw[i] || g.Partial || g.Shadow != p.shadow || !g.reads(p.topic) || l.upTo[i] <= first.Offset {
			continue
		}
		c.found(PollSkip, first.ID, "read by %s at %s from %s; %s passed over it and read on to %d",
			first.Group, c.at(first.T), where(first), g.Name, l.upTo[i])
	}
}
