package broker

import "context"

// Mover is what moving a topic needs of a cluster beside Admin. ErrUnknownTopic where the cluster does not have the topic.
type Mover interface {
	// Fence makes the cluster refuse everybody's messages for topic. Where Features.Fence is true readers are not affected;
	// where it is Features.ClosingFence nobody reads the topic either until Unfence, and what is stored stays. It returns when the
	// cluster has taken the wish, and Fenced tells when it acts. A topic that is fenced already stays so. The caller has stored
	// TopicInfo.Restore before. ErrUnsupported where both are false; ErrNotAllowed.
	Fence(ctx context.Context, topic string) error
	// Fenced returns nil when the leader of every partition was seen to refuse messages of topic during the call. Else the error
	// names a partition: ErrConflict when its leader takes messages, any other when it could not be asked. It stores nothing.
	// A leader that is elected later acts on the fence as well, unless it has not read the setting yet: end offsets read
	// after this, twice, tell. ErrUnsupported where there is no fence.
	Fenced(ctx context.Context, topic string) error
	// Unfence makes the cluster take messages for topic again, with the settings that it had before: restore is TopicInfo.Restore
	// as it was read before Fence. Whatever the settings are now, afterwards they are these, so it may be repeated.
	// It returns nil when the leader of every partition was seen to be open, else the error names one. ErrInvalid: restore is
	// none. ErrUnsupported where there is no fence; ErrNotAllowed.
	Unfence(ctx context.Context, topic, restore string) error
	// Groups are the groups, whoever made them, that have a committed position on topic, sorted; only those that this user may
	// see.
	Groups(ctx context.Context, topic string) ([]string, error)
	// Peek reads without a group and commits nothing: at most limit messages, those with the lowest offsets from at on, in their
	// order, the same that a member of a group would get. next is the offset behind all that was looked at, also
	// behind what is no message (markers of transactions, offsets that compaction or expiry has emptied): no message
	// and next ≥ the end offset prove that nothing is left. It does not wait: at the end and beyond it there is nothing, and
	// next is the end. It may return fewer messages than there are; look on from next. Below the end next stays at at
	// only in front of what is not decided yet (an open transaction, where the cluster reads committed messages only).
	// Delivery.Writer is filled in. Of a topic behind a closing fence nothing can be read. ErrInvalid: no such partition, a negative offset, limit < 1.
	Peek(ctx context.Context, topic, partition string, at int64, limit int) (messages []Delivery, next int64, err error)
	// OpenTransactions are the partitions of topic with a transaction that is neither committed nor aborted, or was a moment
	// ago, each with the offset from which on nothing is decided; none: no transaction is open. ErrUnsupported where it can
	// not be told, with the reason.
	OpenTransactions(ctx context.Context, topic string) (Offsets, error)
}
