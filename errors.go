package turnout

import "github.com/turnout-mq/turnout/internal/errs"

// The errors that callers act upon; compare with errors.Is.
var (
	// ErrClosed: the client or subscription was closed. Open a new one.
	ErrClosed = errs.ErrClosed
	// ErrInvalid: an argument or a document is not acceptable; the text names field, value and remedy.
	ErrInvalid = errs.ErrInvalid
	// ErrNoMetadata: ZooKeeper can not be reached and the snapshot does not have what is needed.
	ErrNoMetadata = errs.ErrNoMetadata
	// ErrUnknownTopic: the topic is not in the metadata, or its cluster does not have it. Create it and repeat; the answer is
	// remembered for a second.
	ErrUnknownTopic = errs.ErrUnknownTopic
	// ErrUnknownGroup: the consumer group is not in the metadata. Create it and repeat.
	ErrUnknownGroup = errs.ErrUnknownGroup
	// ErrFenced: the topic's cluster refuses writers because the topic is being moved, and where it moves to is not known
	// here. Repeat when ZooKeeper can be reached.
	ErrFenced = errs.ErrFenced
	// ErrNoShadow: a message with the stress mark was sent to a topic that has no shadow topic. Create that, or
	// switch it on in the topic's settings, and repeat.
	ErrNoShadow = errs.ErrNoShadow
	// ErrMarked: a message with the stress mark met a production consumer, or the other way round. No call returns it: its text
	// is the cause in the dead letters.
	ErrMarked = errs.ErrMarked
	// ErrTooLarge: the message is larger than the limit named in the text. Make it smaller.
	ErrTooLarge = errs.ErrTooLarge
	// ErrUnsupported: the topic's kind of cluster can not do that.
	ErrUnsupported = errs.ErrUnsupported
	// ErrConflict: somebody else changed it first, or it is in use. Read again and decide again.
	ErrConflict = errs.ErrConflict
	// ErrNotAllowed: a server refused for lack of permission; ask whoever gave out the credentials. Or a message without the
	// stress mark was sent to a shadow topic; name the topic itself and send with shadow.WithMark.
	ErrNotAllowed = errs.ErrNotAllowed
	// ErrTimeout: the time is over and nothing says whether it happened.
	ErrTimeout = errs.ErrTimeout
	// ErrNotFound: no such cluster or other named thing in the metadata.
	ErrNotFound = errs.ErrNotFound
)
