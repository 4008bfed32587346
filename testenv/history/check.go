package history

import (
	"cmp"
	"fmt"
	"slices"
	"time"
)

// maxExamples is how many breaches of one rule a Verdict describes.
const maxExamples = 10

// Check judges a history. The events may have any order; see Options for what is expected.
func Check(events []Event, o Options) Verdict {
	if !inOrder(events) {
		events = slices.Clone(events)
		slices.SortStableFunc(events, byTime)
	}
	c := &checker{
		o:        o,
		messages: make(map[string]*message, len(events)/4),
		open:     map[handler]handling{},
		again:    map[*handlings][]*Event{},
		logs:     map[partition]*log{},
		lastAck:  map[string]*Event{},
		facts:    factsOf(events, o),
		groups:   map[string]int{},
		findings: map[Rule]*Finding{},
		clusters: map[string]*ClusterCount{},
	}
	if len(events) > 0 {
		c.zero = events[0].T
		c.verdict.From, c.verdict.To = time.Unix(0, c.zero), time.Unix(0, events[len(events)-1].T)
	}
	for i, g := range o.Groups {
		c.groups[g.Name] = i
		c.verdict.Groups = append(c.verdict.Groups, GroupCount{Group: g.Name})
	}
	for i := range events {
		if events[i].Op == OpSend {
			c.send(&events[i])
		}
	}
	for i := range events {
		c.event(&events[i])
	}
	c.measure(events)
	for _, m := range c.sent {
		c.answered(m)
	}
	for _, m := range c.sent {
		c.handled(m)
	}
	c.compareLogs()
	c.unfinished()
	c.order()
	return c.conclude()
}

type checker struct {
	o        Options
	facts    facts
	zero     int64                   // t of the first event; what is said of times is relative to it
	messages map[string]*message     // by id
	sent     []*message              // in the order of sending
	open     map[handler]handling    // that have not ended
	again    map[*handlings][]*Event // recv events behind the first
	logs     map[partition]*log
	lastAck  map[string]*Event // by topic, of production messages
	groups   map[string]int    // index in o.Groups
	findings map[Rule]*Finding
	clusters map[string]*ClusterCount
	verdict  Verdict
}

// message is what the history says of one id.
type message struct {
	send    *Event // nil: it was never sent
	outcome *Event // nil: none
	groups  []handlings
	reused  bool // sent twice
	sealed  bool // found behind a seal
}

// handlings are what one group did with one message.
type handlings struct {
	recv          *Event // the first; nil: none
	done          int64  // t of the first end without error; 0: none
	begun, failed int    // how often begun, and ended with an error
}

type handler struct{ id, group, member string }

// handling is one that has not ended, or several of one message by one member: a copy of each of two partitions.
type handling struct {
	recv  *Event // the latest
	begun int
}

func (c *checker) message(id string) *message {
	m := c.messages[id]
	if m == nil {
		m = &message{groups: make([]handlings, len(c.o.Groups))}
		c.messages[id] = m
	}
	return m
}

func (c *checker) send(e *Event) {
	m := c.message(e.ID)
	if m.send != nil {
		m.reused = true
		c.found(Reused, e.ID, "sent by %s at %s and by %s at %s", m.send.Producer, c.at(m.send.T), e.Producer, c.at(e.T))
		return
	}
	m.send = e
	c.sent = append(c.sent, m)
	c.verdict.Sent++
}

func (c *checker) event(e *Event) {
	switch e.Op {
	case OpSend:
	case OpOK, OpFail, OpUnknown:
		c.outcome(e)
	case OpRecv:
		c.recv(e)
	case OpDone, OpRetry:
		c.end(e)
	default: // facts
	}
}

func (c *checker) outcome(e *Event) {
	m := c.message(e.ID)
	switch {
	case m.send == nil:
		c.found(Broken, e.ID, "%s at %s of a send that did not begin", e.Op, c.at(e.T))
	case e.T < m.send.T:
		c.found(Broken, e.ID, "%s at %s, before the send at %s", e.Op, c.at(e.T), c.at(m.send.T))
	case m.outcome != nil:
		c.found(Twice, e.ID, "%s at %s, then %s at %s", m.outcome.Op, c.at(m.outcome.T), e.Op, c.at(e.T))
	default:
		m.outcome = e
		if e.Op == OpOK {
			c.behindSeal(m, e)
			if !m.send.Shadow {
				c.lastAck[m.send.Topic] = e
			}
		}
	}
}

func (c *checker) recv(e *Event) {
	i, known := c.groups[e.Group]
	if !known {
		c.found(Stranger, e.ID, "handled by group %q at %s, which Options.Groups does not name", e.Group, c.at(e.T))
		return
	}
	m := c.message(e.ID)
	g := &m.groups[i]
	if g.begun > g.failed {
		c.duplicate(m, g, e, &c.verdict.Groups[i])
	}
	g.begun++
	if g.recv == nil {
		g.recv = e
	} else {
		c.again[g] = append(c.again[g], e)
	}
	c.readAt(m, e, i)
	c.behindSeal(m, e)
	c.verdict.Groups[i].Begun++
	c.cluster(e.Cluster).Received++
	key := handler{e.ID, e.Group, e.Member}
	c.open[key] = handling{e, c.open[key].begun + 1}
	if len(c.o.Clusters) > 0 && !slices.Contains(c.o.Clusters, e.Cluster) {
		c.found(Elsewhere, e.ID, "group %s read it from %s at %s", e.Group, where(e), c.at(e.T))
	}
	if m.send == nil {
		c.found(Phantom, e.ID, "handled by %s at %s, read from %s", e.Group, c.at(e.T), where(e))
		return
	}
	c.compare(m.send, e, c.o.Groups[i])
}

// compare looks at one handling beside the send.
func (c *checker) compare(s, e *Event, g Group) {
	if e.T < s.T {
		c.found(Early, e.ID, "handled by %s at %s, sent at %s", g.Name, c.at(e.T), c.at(s.T))
	}
	differs := func(field string, was, is any) {
		c.found(Altered, e.ID, "%s sent as %v, handled by %s as %v (read from %s)", field, was, g.Name, is, where(e))
	}
	if e.Key != s.Key {
		differs("key", fmt.Sprintf("%q", s.Key), fmt.Sprintf("%q", e.Key))
	}
	if e.Seq != s.Seq && e.Seq != 0 {
		differs("number", s.Seq, e.Seq)
	}
	if e.Topic != s.Topic && e.Topic != "" {
		differs("topic", s.Topic, e.Topic)
	}
	if e.Shadow != s.Shadow {
		differs("stress mark", s.Shadow, e.Shadow)
	}
	if s.Shadow != g.Shadow {
		c.found(Leaked, e.ID, "%s message of %s, handled by %s group %s at %s, read from %s",
			kind(s.Shadow), s.Topic, kind(g.Shadow), g.Name, c.at(e.T), where(e))
	}
	if !g.reads(s.Topic) {
		c.found(Stranger, e.ID, "message of %s, which group %s does not read, handled at %s", s.Topic, g.Name, c.at(e.T))
	}
}

func (c *checker) end(e *Event) {
	i, known := c.groups[e.Group]
	if !known {
		return
	}
	key := handler{e.ID, e.Group, e.Member}
	h := c.open[key]
	if h.begun == 0 {
		c.found(Broken, e.ID, "%s at %s of a handling that did not begin (%s in group %s)", e.Op, c.at(e.T), e.Member, e.Group)
		return
	}
	if h.begun--; h.begun == 0 {
		delete(c.open, key)
	} else {
		c.open[key] = h
	}
	g := &c.messages[e.ID].groups[i]
	switch {
	case e.Op == OpRetry:
		g.failed++
		c.verdict.Groups[i].Retried++
	case g.done == 0:
		g.done = e.T
		c.verdict.Groups[i].Handled++
	}
}

// answered judges what came of one send.
func (c *checker) answered(m *message) {
	s, out := m.send, m.outcome
	if out == nil {
		c.verdict.Unanswered++
		if !c.facts.killed[s.Producer] {
			c.found(Unanswered, s.ID, "sent by %s at %s", s.Producer, c.at(s.T))
		}
		return
	}
	took := time.Duration(out.T - s.T)
	if c.o.MaxSend > 0 && took > c.o.MaxSend {
		c.found(Slow, s.ID, "sent by %s at %s, %s after %s", s.Producer, c.at(s.T), out.Op, took)
	}
	switch out.Op {
	case OpFail:
		c.verdict.Failed++
		c.found(Failed, s.ID, "sent by %s at %s, refused at %s: %s", s.Producer, c.at(s.T), c.at(out.T), out.Error)
	case OpUnknown:
		c.verdict.Unknown++
		c.found(Unknown, s.ID, "sent by %s at %s, given up at %s: %s", s.Producer, c.at(s.T), c.at(out.T), out.Error)
	default:
		c.acknowledged(s, out)
	}
}

func (c *checker) acknowledged(s, ok *Event) {
	c.verdict.Acknowledged++
	n, at := c.cluster(ok.Cluster), time.Unix(0, ok.T)
	if n.Acknowledged == 0 || at.Before(n.FirstAck) {
		n.FirstAck = at
	}
	if at.After(n.LastAck) {
		n.LastAck = at
	}
	n.Acknowledged++
	if len(c.o.Clusters) > 0 && !slices.Contains(c.o.Clusters, ok.Cluster) {
		c.found(Elsewhere, s.ID, "acknowledged by %s at %s", where(ok), c.at(ok.T))
	}
	if since, left := c.facts.leftBefore(physical{ok.Cluster, s.Topic, s.Shadow}, s.T, ok.T); left {
		c.found(Late, s.ID, "sent by %s at %s, acknowledged by %s, which had been left at %s", s.Producer, c.at(s.T), where(ok), c.at(since))
	}
}

// handled judges what the groups made of one message that was sent.
func (c *checker) handled(m *message) {
	s, out := m.send, m.outcome
	if out == nil {
		return
	}
	readers := 0
	for i, g := range c.o.Groups {
		h := &m.groups[i]
		if out.Op == OpFail && h.begun > 0 {
			c.found(Denied, s.ID, "%s was told %q at %s; handled by %s at %s, read from %s",
				s.Producer, out.Error, c.at(out.T), g.Name, c.at(h.recv.T), where(h.recv))
		}
		if g.Shadow != s.Shadow || !g.reads(s.Topic) {
			continue
		}
		readers++
		if out.Op != OpOK || h.done != 0 || g.Partial {
			continue
		}
		c.lost(s, out, h, i)
	}
	// Nobody has to read the messages of a stress test; a production topic without a group is a mistake in Options.
	if readers == 0 && out.Op == OpOK && !s.Shadow {
		c.found(Lost, s.ID, "acknowledged by %s; Options.Groups has no group that reads topic %q", where(out), s.Topic)
	}
}

// lost names a message that a group should have handled, and what became of it as far as the history tells.
func (c *checker) lost(s, ok *Event, h *handlings, group int) {
	name, count := c.o.Groups[group].Name, &c.verdict.Groups[group]
	count.Lost++
	lost := func(format string, args ...any) {
		c.found(Lost, s.ID, "sent by %s at %s, acknowledged by %s at %s; group %s: "+format,
			append([]any{s.Producer, c.at(s.T), where(ok), c.at(ok.T), name}, args...)...)
	}
	upTo, passed := c.passed(s, ok, group)
	switch {
	case h.begun > 0:
		lost("begun %d times, the first at %s by %s, never done", h.begun, c.at(h.recv.T), h.recv.Member)
	case passed:
		lost("never reached it, and it read on to %d", upTo)
	case !ok.placed():
		lost("never reached it")
	default:
		lost("never reached it, nor anything behind it")
		r, left := Unseen, ""
		if c.hasLeft(s.Topic, ok.Cluster) {
			r, left = Stranded, ", which the topic has left"
			count.Stranded++
		} else {
			count.Unseen++
		}
		c.found(r, s.ID, "acknowledged at %s, still unread by %s on %s%s", c.at(ok.T), name, where(ok), left)
	}
}

func (c *checker) unfinished() {
	events := make([]*Event, 0, len(c.open))
	for key, h := range c.open {
		if !c.facts.killed[key.member] {
			events = append(events, h.recv)
		}
	}
	slices.SortFunc(events, func(a, b *Event) int { return cmp.Or(cmp.Compare(a.T, b.T), cmp.Compare(a.ID, b.ID)) })
	for _, e := range events {
		c.found(Unfinished, e.ID, "handling began in %s of group %s at %s, read from %s", e.Member, e.Group, c.at(e.T), where(e))
	}
}

// order holds ordered groups to G2: if Send(m) returned before Send(m') of the same key was called, the first handling
// of m ends before the first handling of m' begins. Messages that were lost are not counted once more here.
func (c *checker) order() {
	type topicKey struct{ topic, key string }
	keys := map[topicKey][]*message{}
	var list []topicKey
	for _, m := range c.sent {
		k := topicKey{m.send.Topic, m.send.Key}
		if k.key == "" {
			continue
		}
		if keys[k] == nil {
			list = append(list, k)
		}
		keys[k] = append(keys[k], m)
	}
	for i, g := range c.o.Groups {
		if !g.Ordered {
			continue
		}
		for _, k := range list {
			if g.reads(k.topic) {
				c.orderOf(i, keys[k])
			}
		}
	}
}

// orderOf walks the messages of one key in the order of sending and keeps, of those whose Send had returned by then, the
// one that was done last. A message that was rescued has no place in the order.
func (c *checker) orderOf(group int, sent []*message) {
	returned := slices.DeleteFunc(slices.Clone(sent), func(m *message) bool {
		return m.outcome == nil || m.outcome.Op != OpOK || m.groups[group].done == 0 || c.facts.rescued[m.send.ID]
	})
	slices.SortStableFunc(returned, func(a, b *message) int { return byTime(*a.outcome, *b.outcome) })
	var latest *message
	for _, m := range sent {
		for len(returned) > 0 && returned[0].outcome.T < m.send.T {
			if latest == nil || returned[0].groups[group].done > latest.groups[group].done {
				latest = returned[0]
			}
			returned = returned[1:]
		}
		h := &m.groups[group]
		if latest == nil || h.recv == nil || latest.groups[group].done <= h.recv.T || c.facts.rescued[m.send.ID] {
			continue
		}
		c.found(Reordered, m.send.ID,
			"key %q in group %s: number %d (read from %s) handled at %s, but number %d (id %s, acknowledged by %s before this one was sent) was done at %s",
			m.send.Key, c.o.Groups[group].Name, m.send.Seq, where(h.recv), c.at(h.recv.T),
			latest.send.Seq, latest.send.ID, where(latest.outcome), c.at(latest.groups[group].done))
	}
}

func (c *checker) found(r Rule, id, format string, args ...any) {
	f := c.findings[r]
	if f == nil {
		f = &Finding{}
		c.findings[r] = f
	}
	f.Count++
	if len(f.Examples) < maxExamples {
		f.Examples = append(f.Examples, Example{ID: id, Text: fmt.Sprintf(format, args...)})
	}
}

func (c *checker) conclude() Verdict {
	v := c.verdict
	v.Clean = true
	allow := c.o.Allow
	if allow == nil {
		allow = []Rule{Duplicate}
	}
	for _, r := range rules {
		f := Finding{Rule: r.rule, Guarantee: r.guarantee, Says: r.says, Allowed: slices.Contains(allow, r.rule)}
		if found := c.findings[r.rule]; found != nil {
			f.Count, f.Examples = found.Count, found.Examples
		}
		v.Clean = v.Clean && (f.Count == 0 || f.Allowed)
		v.Findings = append(v.Findings, f)
	}
	for _, n := range c.clusters {
		v.Clusters = append(v.Clusters, *n)
	}
	slices.SortFunc(v.Producers, func(a, b ProducerCount) int {
		return cmp.Or(cmp.Compare(max(b.Longest.Took, b.Pause.Took), max(a.Longest.Took, a.Pause.Took)), cmp.Compare(a.Producer, b.Producer))
	})
	for _, g := range v.Groups {
		if g.Pause.Took > v.LongestPause.Took {
			v.LongestPause = g.Pause
		}
	}
	slices.SortFunc(v.Clusters, func(a, b ClusterCount) int { return cmp.Compare(a.Cluster, b.Cluster) })
	return v
}

func inOrder(events []Event) bool {
	for i := 1; i < len(events); i++ {
		if events[i].T < events[i-1].T {
			return false
		}
	}
	return true
}

func byTime(a, b Event) int { return cmp.Compare(a.T, b.T) }

func (c *checker) cluster(name string) *ClusterCount {
	n := c.clusters[name]
	if n == nil {
		n = &ClusterCount{Cluster: name}
		c.clusters[name] = n
	}
	return n
}

// at says a time as the distance from the first event.
func (c *checker) at(t int64) string {
	return fmt.Sprintf("%+.6fs", time.Duration(t-c.zero).Seconds())
}

func (g Group) reads(topic string) bool {
	return len(g.Topics) == 0 || slices.Contains(g.Topics, topic)
}

func where(e *Event) string {
	if e.Partition == "" && e.Cluster == "" {
		return "nowhere told"
	}
	if e.Partition == "" {
		return e.Cluster
	}
	return fmt.Sprintf("%s/%s@%d", e.Cluster, e.Partition, e.Offset)
}

func kind(shadow bool) string {
	if shadow {
		return "shadow"
	}
	return "production"
}
