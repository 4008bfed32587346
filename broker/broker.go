package broker

import (
	"context"
	"crypto/tls"
	"time"

	"go.uber.org/zap"
)

// Kind names a family of brokers.
type Kind string

// The kinds that Turnout has drivers for.
const (
	Kafka    Kind = "kafka"
	RocketMQ Kind = "rocketmq"
)

// Header is one name and value that travels with a message. Names are unique within a message.
// Portable values are UTF-8 without \x01 and \x02 (RocketMQ's separators).
type Header struct{ Name, Value string }

// Message is what an application sends. It is portable: the same on every kind, see the package comment for
// how its parts are mapped.
type Message struct {
	Key     []byte        // nil: no key. Messages of one key go to one partition
	Body    []byte        // 1 byte or more
	Headers []Header      // the application's own
	Tag     string        // one word by which groups may filter
	Delay   time.Duration // deliver no earlier than this after Send; 0: at once. See Features.Delay
	ID      string        // 32 lower-case hex digits; set by the SDK when empty, kept over retries and re-routes
}

// Envelope is a Message and what Turnout itself adds to it on the wire.
type Envelope struct {
	Message
	Shadow  bool   // carries the stress mark
	Attempt int    // how many times it went through a retry topic; 0 for a first delivery
	Origin  string // the cluster that it was first stored on; set on retries, dead letters and rescued messages
}

// Receipt says where a message was stored.
type Receipt struct {
	Partition string // as in Offsets
	Offset    int64  // -1: stored by an earlier attempt of the same send, where the broker does not say
}

// Delivery is one message as it was read.
type Delivery struct {
	Envelope
	Topic     string // the physical topic it was read from (the retry topic for a retry)
	Partition string // as in Offsets
	Offset    int64
	Stored    time.Time // the broker's time
	Due       time.Time // not to be handled before this, the caller waits; zero: at once
	Retry     bool      // read from the group's retry topic
	// Writer is who stored it, as far as the cluster tells: Kafka "producer 4711" (its id), "" of a producer without one;
	// RocketMQ the address of the sender. Filled in by Peek only. A message that was not sent with Turnout has no ID.
	Writer string
	// Native is the driver's own record where Retry and DeadLetter need more than the fields above.
	Native any
}

// Config is what a driver needs to reach a cluster.
type Config struct {
	Name      string // the cluster's name in Turnout, for errors and client ids
	Kind      Kind
	Addresses []string // Kafka: bootstrap brokers; RocketMQ: name servers; host:port
	ClusterID string   // refuse any other cluster; "": any. Kafka: cluster.id; RocketMQ: brokerClusterName
	Mechanism string   // SASL: "", PLAIN, SCRAM-SHA-256, SCRAM-SHA-512; RocketMQ: "" or ACL. With Login or not at all
	// Login and TLS are asked whenever a connection is made, so that a secret and a certificate can be replaced while the
	// process runs. They may be called concurrently; what they give stays out of logs and errors. nil: none.
	Login func() (username, password string, err error)
	TLS   func() (*tls.Config, error)

	Properties map[string]string // driver settings by name; an unknown name is refused
	ClientID   string            // this process, e.g. "order_service-10.0.0.7@-@4711@-@0"
	Logger     *zap.Logger       // nil: none
}

// Cluster is one open connection to one cluster, shared by all topics and groups of a process. All methods may be
// called concurrently. Errors are those of the client library, wrapped; Classify tells what to do about them, and
// errors.Is finds ErrUnknownTopic, ErrUnsupported, ErrInvalid, ErrTooLarge, ErrNotAllowed, ErrFenced and ErrClosed
// (of the root package) where they apply. Every method returns soon after its ctx ends, also where the library
// underneath can not be cancelled; what was begun may then still happen.
//
// Topic and group names here are physical names. No method creates a topic by looking at it.
type Cluster interface {
	Producer
	Consumer
	Admin
	Mover
	Features() Features
	// Classify never sees nil.
	Classify(err error) Class
	// Close ends members and lets sends that were begun finish until ctx ends, then fails them with ErrClosed.
	// It is idempotent; afterwards every method but Features and Classify returns ErrClosed.
	Close(ctx context.Context) error
}

// Producer stores messages.
type Producer interface {
	// Warm makes the client ready to send to topic: connected to the leader of every partition, so that the next
	// send pays for nothing but itself. ErrUnknownTopic: the cluster does not have it. ErrFenced: it refuses writers.
	Warm(ctx context.Context, topic string) error
	// Send hands m over and returns; done is called exactly once, from another goroutine or before Send returns,
	// when the cluster has acknowledged m or the driver has given up. ctx bounds the handing over and, where the
	// library can be cancelled, the send; the caller that stops waiting must expect done later. Sends of one key
	// from one goroutine are stored in their order, as long as none of them fails. The driver repeats a send by
	// itself only where the library must do so to keep that order, and gives up within Features.SendTimeout.
	// m and what it refers to must not be changed until done was called. done may run on a goroutine that all sends of the
	// cluster share, so it must be quick.
	Send(ctx context.Context, topic string, m *Envelope, done func(Receipt, error))
}

// Consumer reads messages as a member of a group.
type Consumer interface {
	// Join makes this process a member of a group on one topic. It returns at once when the arguments are
	// acceptable; joining, rejoining after failures and reassignment go on in the background until Leave. The topic
	// must exist (ErrUnknownTopic); the retry topic of the group is created when it is missing.
	Join(ctx context.Context, m Membership) (Member, error)
	// Retry stores d again in the group's retry topic of this cluster, with Attempt+1 and Origin, to be delivered
	// after delay (RocketMQ: the next delay level that is not shorter). When it returns nil d is safe and may be
	// counted as finished.
	Retry(ctx context.Context, group string, d *Delivery, delay time.Duration) error
	// DeadLetter stores d in the group's dead letter topic of this cluster, creating it when missing; cause is one
	// line for whoever reads it there (header turnout-cause).
	DeadLetter(ctx context.Context, group string, d *Delivery, cause string) error
	// Positions are the committed positions of the group on topic: the offset of the next message to be read.
	// A partition without one is not in the map; nor is one of a group that the cluster does not know. ErrUnknownTopic
	// where the cluster does not have the topic.
	Positions(ctx context.Context, group, topic string) (Offsets, error)
	// Pending counts what the group has not finished beside the topic itself, read in this order: delayed, retries.
	Pending(ctx context.Context, group, topic string) (Pending, error)
}

// Admin describes and creates.
type Admin interface {
	// EndOffsets are the offsets that the next message of each partition will get. known are partitions that the topic had
	// before it was fenced: where a fence hides partitions (Features.ClosingFence), all of these are asked for as well. ErrInvalid:
	// one is no name of a partition.
	EndOffsets(ctx context.Context, topic string, known ...string) (Offsets, error)
	// StartOffsets are the offsets of the first message that each partition still has.
	StartOffsets(ctx context.Context, topic string) (Offsets, error)
	// CreateTopic creates topic; ErrConflict when it exists already.
	CreateTopic(ctx context.Context, topic string, spec TopicSpec) error
	// DeleteTopic deletes topic and what is in it; ErrUnknownTopic when there is none.
	DeleteTopic(ctx context.Context, topic string) error
	// DescribeTopic tells what the cluster has; ErrUnknownTopic.
	DescribeTopic(ctx context.Context, topic string) (TopicInfo, error)
	// Topics lists the names of the topics that are not the broker's own.
	Topics(ctx context.Context) ([]string, error)
	// GroupTopics are all groups, whoever made them, that have a committed position, each with the topics on which it has one,
	// sorted; only those that this user may see, and without the broker's own.
	GroupTopics(ctx context.Context) (map[string][]string, error)
	// GroupMembers are the client ids that are connected as members of the group now.
	GroupMembers(ctx context.Context, group string) ([]string, error)
	// DeleteGroup deletes a group with its positions, its retry topic and its dead letters; what is not there is no error.
	// ErrConflict: it has members, and nothing was deleted.
	DeleteGroup(ctx context.Context, group string) error
	// Describe asks the cluster who it is.
	Describe(ctx context.Context) (Info, error)
}

// Membership is the wish to be a member of Group on Topic.
type Membership struct {
	Group, Topic string
	// Start gives the position for partitions of Topic without a committed one; a partition that it does not name
	// begins at its first message. It is called at each assignment. The driver commits that position, sees that it
	// is stored, and only then hands over the first message. A committed position beyond the end (the topic was
	// created anew) counts as none. nil: the first message.
	Start func() Offsets
	// Retries also reads the group's retry topic.
	Retries bool
	// Exclusive: no two members read one partition at the same time (order by key). Kafka is always so.
	Exclusive bool
	// Tag filters, "" reads all: words separated by "||".
	Tag string
	// Claim is called in a goroutine of its own for every partition that this member gets, and returns soon after
	// c.Take gave nothing or ctx ended, when no listener works on messages of it any more. ctx ends when the
	// partition is taken away or the member leaves. If it returns earlier the partition is read no further until the
	// next assignment.
	Claim func(ctx context.Context, c Claim)
	// Changed is called, never concurrently, whenever State may have changed. It must not block. nil: nobody asks.
	Changed func()
}

// Claim is one partition in the hands of one member.
type Claim interface {
	Topic() string
	Partition() string
	// Retry says that it is a partition of the retry topic.
	Retry() bool
	// Take waits until there are messages and puts them into the slice from its begin on, in offset order, as many as
	// are there and find room. It returns how many; 0: the claim has ended, and what was taken and not finished will be
	// delivered to the next owner. A slice of what was taken before is overwritten, the driver keeps none. Not calling
	// it for any length of time is legal and stops the fetching (that is how a group is paused). To be called by
	// one goroutine at a time.
	Take(into []Delivery) int
	// Commit says that every message below next is finished; a smaller next than before is ignored. It is stored within
	// Features.CommitInterval, and when the claim ends. Legal until Membership.Claim has returned.
	Commit(next int64)
}

// Member is this process's membership of a group.
type Member interface {
	State() MemberState
	// Hurry says whether somebody waits for this member's positions. Then they are stored as soon as they change, else at
	// most every Features.CommitInterval. A member begins in no hurry.
	Hurry(on bool)
	// Leave ends all claims, waits for Membership.Claim to return, stores the positions and leaves the group, so
	// that others get the partitions at once. When ctx ends first it returns ctx's error and goes on leaving; it may be called
	// again. Idempotent.
	Leave(ctx context.Context) error
}

// MemberState tells how far a membership has come.
type MemberState struct {
	// Attached: the member is in the group, every partition of the topic that it owns has a committed position and
	// was answered by its broker, or it owns none (protocol R29, R12).
	Attached   bool
	Partitions []string // of the topic (not of the retry topic), sorted
	Err        error    // what keeps it from being attached, or the last failure; nil when all is well
}

// TopicSpec is what a topic is created with.
type TopicSpec struct {
	Partitions int               // Kafka: partitions; RocketMQ: queues on every broker. Default 4
	Replicas   int               // Kafka; default: the broker's
	Config     map[string]string // Kafka topic settings; refused by RocketMQ
}

// TopicInfo is what a cluster says of a topic.
type TopicInfo struct {
	Partitions      []string // as in Offsets, in natural order
	Replicas        int
	MaxMessageBytes int64 // 0: not known (not permitted to ask, or the kind has no such setting)
	// Fenced: the cluster refuses writers of the topic now. Kafka: max.message.bytes ≤ 1; RocketMQ: no queue to write to.
	Fenced bool
	// Closed are the brokers that refuse writers of the topic while others take them; RocketMQ only.
	Closed []string
	Config map[string]string // settings that differ from the broker's defaults
	// Settings are those in effect, by the broker's names, as far as this user may see them; nil: not permitted to ask.
	// Kafka: all topic settings (retention.ms, cleanup.policy …); RocketMQ: queue numbers, perm and attributes of the topic, and
	// of its brokers what a topic has no setting of its own for (fileReservedTime, maxMessageSize, autoCreateTopicEnable);
	// where brokers differ the values are separated by "|".
	Settings map[string]string
	// Restore is what Unfence must know to put the topic back as it is now; to be stored before Fence. Of a fenced topic
	// it is "", because a fence is nobody's setting. Kafka: max.message.bytes where the topic has its own, else ""; RocketMQ:
	// the queue numbers of each broker.
	Restore string
}

// Setting is the value of a setting that is in effect, as far as the cluster says; else "".
func (i TopicInfo) Setting(name string) string {
	if value, known := i.Settings[name]; known {
		return value
	}
	return i.Config[name]
}

// Info is what a cluster says of itself.
type Info struct {
	ClusterID string
	Brokers   []string // addresses
	// AutoCreate: a send to a topic that does not exist creates it; also true when this user may not ask.
	AutoCreate bool
	Version    string // of the brokers, as they say it; "" where it can not be told; separated by "|" where they differ
}

// Pending is what a group has not finished beside its topic.
type Pending struct {
	Delayed     int64 // stored, not yet due (RocketMQ, delayed by a level or a timer; Kafka: 0)
	Retries     int64 // in the retry topic
	DeadLetters int64 // in the dead letter topic; they hold nothing up
	// Uncounted says which of Delayed this user may not see, and why; "": all is counted.
	Uncounted string
}

// Class says what a producer does about an error of Send.
type Class int

const (
	// Retry: transient, the same cluster may take it in a moment. Whether it was stored may be unknown.
	Retry Class = iota
	// Refused: the cluster takes no message of this size for the topic: a fence, or a body that is too large;
	// DescribeTopic tells which (protocol R26).
	Refused
	// Fatal: repeating is of no use (unknown topic, not allowed, invalid).
	Fatal
	// Closed: this Cluster was closed; a new one may be open.
	Closed
)

// Features is what a kind can do, as data. What is absent is refused with ErrUnsupported.
type Features struct {
	Delay          bool          // Message.Delay; RocketMQ rounds up to its delay levels
	BinaryHeaders  bool          // header values may hold any bytes
	SendTimeout    time.Duration // a send is answered or given up within this
	CommitInterval time.Duration // a position is stored at most this late
	Fence          bool          // writers can be refused while the topic is still read
	ClosingFence   bool          // writers can be refused only together with readers: when everything was read
}
