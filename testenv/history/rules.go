package history

import "time"

// Rule names one thing that must not be in a right history.
type Rule string

// The rules, in the order in which a Verdict lists them.
const (
	// Broken: the history contradicts itself (an outcome without a send, the end of a handling that did not begin), so
	// the rest of the verdict is not to be trusted.
	Broken Rule = "broken"
	// Reused: one id was sent twice.
	Reused Rule = "reused"
	// Twice: one send had two outcomes (G1: SendAsync calls back exactly once).
	Twice Rule = "answered twice"
	// Unanswered: a send without outcome in a process that was not killed (G1).
	Unanswered Rule = "unanswered"
	// Failed: Send returned an error; the message was not stored (G3).
	Failed Rule = "failed"
	// Unknown: Send returned an error; the message may have been stored (G3).
	Unknown Rule = "unknown"
	// Slow: a send took longer than Options.MaxSend (G3).
	Slow Rule = "slow"
	// Late: a send began after its cluster had been left (Options.Left) or fenced, and was acknowledged there (G1).
	Late Rule = "late"
	// Elsewhere: acknowledged by, or read from, a cluster that is not in Options.Clusters (G1).
	Elsewhere Rule = "elsewhere"
	// Sealed: stored on a cluster at or behind the offset at which it was sealed, and before it was opened again (G1: the
	// seal is what groups read up to, and what the receipt says).
	Sealed Rule = "after the seal"
	// Lost: acknowledged, and not handled by a group that should have (G1). Stranded and Unseen count some of these once
	// more, by where they still are; the rest was begun and never done, was passed over, or nobody told where it was stored.
	Lost Rule = "lost"
	// Stranded: lost, and still unread on a cluster that the topic has left: the group has read nothing from there on (G1).
	Stranded Rule = "stranded"
	// Unseen: lost, and still unread on the cluster that the topic is on: the group has read nothing from there on (G1).
	// Jepsen: must have fallen to 0 when a run ends.
	Unseen Rule = "unseen"
	// PollSkip: a group read on past an offset that another group saw (G1). It finds what Lost can not: messages whose send
	// has no good outcome, and which yet are there.
	PollSkip Rule = "poll-skip"
	// Inconsistent: two messages were read from one offset of one partition (G1: the cluster lost one and put another in
	// its place; Jepsen's inconsistent-offsets).
	Inconsistent Rule = "inconsistent offsets"
	// Unfinished: a handling without end in a process that was not killed (G1).
	Unfinished Rule = "unfinished"
	// Duplicate: a group handled a message again without having asked for it; see Cause. G1 says "at least once", so this is
	// allowed unless Options say otherwise.
	Duplicate Rule = "duplicate"
	// Phantom: a group handled a message that nobody sent.
	Phantom Rule = "phantom"
	// Denied: a group handled a message whose Send said that it was not stored.
	Denied Rule = "denied"
	// Early: a handling began before the send.
	Early Rule = "early"
	// Altered: key, number, topic or stress mark are not those that were sent.
	Altered Rule = "altered"
	// Reordered: within one key a message was handled before an earlier one was done (G2: if Send(m) returned before Send(m')
	// of the same key was called, the first handling of m ends before the first handling of m' begins).
	Reordered Rule = "reordered"
	// Leaked: a stress message met a production group, or a production message a shadow group (G5).
	Leaked Rule = "leaked"
	// Stranger: handled by a group that Options.Groups does not name, or that does not read the topic.
	Stranger Rule = "stranger"
)

// rules lists them with the guarantee of Turnout that each is about and one line for readers of a Verdict.
var rules = []struct {
	rule            Rule
	guarantee, says string
}{
	{Broken, "", "the history contradicts itself"},
	{Reused, "", "one id was sent twice"},
	{Twice, "G1", "a send had two outcomes"},
	{Unanswered, "G1", "a send has no outcome, and its process was not killed"},
	{Failed, "G3", "Send returned an error, nothing was stored"},
	{Unknown, "G3", "Send returned an error, the message may have been stored"},
	{Slow, "G3", "a send took longer than allowed"},
	{Late, "G1", "sent after its cluster had been left, and acknowledged there"},
	{Elsewhere, "G1", "a cluster that should not be used"},
	{Sealed, "G1", "written to a cluster behind its seal"},
	{Lost, "G1", "acknowledged, but not handled by a group that should have"},
	{Stranded, "G1", "of the lost: still unread on a cluster that was left"},
	{Unseen, "G1", "of the lost: still unread on the cluster in force"},
	{PollSkip, "G1", "a group read on past an offset that another group saw"},
	{Inconsistent, "G1", "two messages at one offset"},
	{Unfinished, "G1", "a handling has no end, and its process was not killed"},
	{Duplicate, "", "handled again without having been asked for"},
	{Phantom, "G1", "handled, but nobody sent it"},
	{Denied, "G1", "handled, though Send said it was not stored"},
	{Early, "G1", "handled before it was sent"},
	{Altered, "G1", "not what was sent"},
	{Reordered, "G2", "handled before an earlier message of its key was done"},
	{Leaked, "G5", "stress message at a production group, or the other way round"},
	{Stranger, "G5", "handled by a group that does not read the topic"},
}

// Rules are all rules, in the order in which a Verdict lists them.
func Rules() []Rule {
	names := make([]Rule, len(rules))
	for i, r := range rules {
		names[i] = r.rule
	}
	return names
}

// Options says what the history should look like.
type Options struct {
	// Groups are all groups that may handle. An acknowledged message that no production group reads is lost.
	Groups []Group
	// Allow are rules whose breaches are counted and shown, but leave the verdict clean. nil: Duplicate alone; to allow
	// nothing: []Rule{}.
	Allow []Rule
	// Killed are the processes that were killed, beside those that the history names: their last sends may have no outcome, their last handlings no end.
	Killed []string
	// Clusters are those that may be used. Empty: any.
	Clusters []string
	// Left says when which cluster took no more sends, beside the fences that the history names.
	Left []Left
	// MaxSend is the longest that a send may take. 0: any time.
	MaxSend time.Duration
}

// Group is what is expected of one consumer group.
type Group struct {
	Name    string
	Topics  []string // that it reads; empty: all
	Shadow  bool     // handles messages with the stress mark, and only those
	Ordered bool     // handles the messages of a key in their order (G2)
	Partial bool     // may miss messages: it did not exist, or was not to run, all the time
}

// Left is a span of time in which a cluster must acknowledge no send that began in it.
type Left struct {
	Cluster string
	Topic   string    // "": every topic
	From    time.Time // since when nobody may send there: fenced, or every participant had acknowledged
	Until   time.Time // when it was opened again; zero: never
}
