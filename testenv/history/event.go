package history

import (
	"encoding/hex"
	"unicode/utf8"
)

// Op says what happened.
type Op string

// What applications do, see the package comment.
const (
	OpSend    Op = "send"
	OpOK      Op = "ok"
	OpFail    Op = "fail"
	OpUnknown Op = "unknown"
	OpRecv    Op = "recv"
	OpDone    Op = "done"
	OpRetry   Op = "retry"
)

// What is done to topics, groups and processes, see the package comment. A history without any of them is complete.
const (
	OpRoute  Op = "route"
	OpMove   Op = "move"
	OpFence  Op = "fence"
	OpSeal   Op = "seal"
	OpOpen   Op = "open"
	OpRescue Op = "rescue"
	OpKill   Op = "kill"
	OpGroup  Op = "group"
)

// Event is one line of a history.
type Event struct {
	T         int64            `json:"t"` // ns since 1970
	Op        Op               `json:"op"`
	ID        string           `json:"id,omitempty"`
	Topic     string           `json:"topic,omitempty"`
	Key       string           `json:"key,omitempty"`
	Seq       int64            `json:"seq,omitempty"`
	Producer  string           `json:"producer,omitempty"` // process that sends
	Group     string           `json:"group,omitempty"`
	Member    string           `json:"member,omitempty"` // process that handles; of a kill: the process
	Cluster   string           `json:"cluster,omitempty"`
	Partition string           `json:"partition,omitempty"`
	Offset    int64            `json:"offset,omitempty"`
	Attempt   int              `json:"attempt,omitempty"`
	Route     string           `json:"route,omitempty"`  // mzxid of the route that the send went by; of a route: its own
	Move      string           `json:"move,omitempty"`   // id of a migration
	State     string           `json:"state,omitempty"`  // that the migration entered
	Offsets   map[string]int64 `json:"offsets,omitzero"` // by partition
	Shadow    bool             `json:"shadow,omitempty"`
	Ordered   bool             `json:"ordered,omitempty"` // of a group
	Partial   bool             `json:"partial,omitempty"` // of a group
	Error     string           `json:"error,omitempty"`
}

// Message is what an event says of the message itself.
type Message struct {
	ID     string
	Topic  string // name in Turnout, not a cluster's
	Key    string // see Key
	Seq    int64  // the application's number of the message within its key, from 1; 0: not told
	Shadow bool   // carries the stress mark
}

// Place says where a message was stored or read.
type Place struct {
	Cluster   string
	Partition string // "": not known
	Offset    int64  // below 0: not known
	Attempt   int    // of a recv: how often it went through a retry topic; then partition and offset are that topic's
	Route     string // of an ok: mzxid of the route it went by, "" when not known
}

// Key makes the key of an event from a message's key: as it is, or in hex behind "0x" when it is not UTF-8.
func Key(key []byte) string {
	if utf8.Valid(key) {
		return string(key)
	}
	return "0x" + hex.EncodeToString(key)
}

// placed says that e names an offset of the topic itself, not of a retry topic.
func (e *Event) placed() bool { return e.Partition != "" && e.Offset >= 0 && e.Attempt == 0 }

// samePlace says that two handlings read the same stored copy.
func samePlace(a, b *Event) bool {
	return a.Partition != "" && a.Cluster == b.Cluster && a.Partition == b.Partition && a.Offset == b.Offset && a.Attempt == b.Attempt
}
