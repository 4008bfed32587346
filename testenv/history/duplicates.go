package history

import "slices"

// Cause says why a message was handled again.
type Cause string

// The causes, as the history tells them.
const (
	// Redelivery: the same stored copy was read again. Its position had not been stored when a member ended or the
	// partition changed hands.
	Redelivery Cause = "redelivery"
	// RetryCopy: one of the two was read from a retry topic, though the other had not failed.
	RetryCopy Cause = "retry copy"
	// Rescued: it was found behind a seal, or on a dead cluster that came back, and was sent again.
	Rescued Cause = "rescue"
	// SentAgain: the application sent its id twice.
	SentAgain Cause = "sent again"
	// Rerouted: two clusters have it. A send whose result was not known was repeated on the new cluster.
	Rerouted Cause = "re-route"
	// Ambiguous: one cluster has it twice. A send whose result was not known was repeated.
	Ambiguous Cause = "ambiguous send"
	// Unexplained: the history does not say where it was read.
	Unexplained Cause = "unexplained"
)

// duplicate counts that e handles again what had not failed.
func (c *checker) duplicate(m *message, h *handlings, e *Event, count *GroupCount) {
	why := c.cause(m, e, append([]*Event{h.recv}, c.again[h]...))
	count.Duplicates++
	if count.Causes == nil {
		count.Causes = map[Cause]int{}
	}
	count.Causes[why]++
	c.found(Duplicate, e.ID, "%s: handled by %s at %s (%s), again at %s (%s)", why, e.Group, c.at(h.recv.T), where(h.recv), c.at(e.T), where(e))
}

// cause says why e handles a message once more that was handled by earlier ones.
func (c *checker) cause(m *message, e *Event, earlier []*Event) Cause {
	has := func(what func(*Event) bool) bool { return slices.ContainsFunc(earlier, what) }
	switch {
	case has(func(x *Event) bool { return samePlace(x, e) }):
		return Redelivery
	case e.Attempt > 0:
		return RetryCopy
	case c.facts.rescued[e.ID]:
		return Rescued
	case m.reused:
		return SentAgain
	case e.Cluster != "" && !has(func(x *Event) bool { return x.Cluster == e.Cluster }):
		return Rerouted
	case e.Partition != "" && !has(func(x *Event) bool { return x.Partition == "" }):
		return Ambiguous
	}
	return Unexplained
}
