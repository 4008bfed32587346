// Package errs holds the sentinel errors of Turnout in one place, below every other package. Applications
// see them as turnout.ErrX and compare with errors.Is; nothing compares texts.
package errs

import "errors"

var (
	// ErrClosed: the client, subscription or cluster was closed. Open a new one.
	ErrClosed = errors.New("closed")
	// ErrInvalid: an argument or a document is not acceptable; the text names field, value and remedy.
	ErrInvalid = errors.New("invalid")
	// ErrNoMetadata: ZooKeeper can not be reached and there is no snapshot to start from.
	ErrNoMetadata = errors.New("no metadata")
	// ErrUnknownTopic: the topic is not in the metadata, or its cluster does not have it. Create it, then repeat.
	ErrUnknownTopic = errors.New("unknown topic")
	// ErrUnknownGroup: the consumer group is not in the metadata. Create it, then repeat.
	ErrUnknownGroup = errors.New("unknown group")
	// ErrFenced: the cluster refuses writers of this topic while it is being moved.
	ErrFenced = errors.New("fenced")
	// ErrNoShadow: a message with the stress mark was sent to a topic that has no shadow topic. Make one: turnout shadow topic.
	ErrNoShadow = errors.New("no shadow topic")
	// ErrMarked: a message with the stress mark met a production consumer, or the other way round. It is the cause in dead letters.
	ErrMarked = errors.New("stress mark mismatch")
	// ErrTooLarge: the message or document is larger than the limit named in the text.
	ErrTooLarge = errors.New("too large")
	// ErrUnsupported: this kind of cluster can not do that; see broker.Features.
	ErrUnsupported = errors.New("unsupported")
	// ErrConflict: somebody else changed it first, or it is in use. Read again, decide again.
	ErrConflict = errors.New("conflict")
	// ErrNotAllowed: the server refused for lack of permission; ask whoever holds the credentials. Or a message without the
	// stress mark was sent to a shadow topic; name the topic itself.
	ErrNotAllowed = errors.New("not allowed")
	// ErrTimeout: the time that was allowed is over and nothing says whether it happened.
	ErrTimeout = errors.New("timeout")
	// ErrNotFound: no such node, cluster or other named thing.
	ErrNotFound = errors.New("not found")
)
