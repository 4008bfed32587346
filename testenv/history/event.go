package history

import (
	"encoding/hex"
	"unicode/utf8"
)

// Op says what happened.
type Op string

// The operations, see the package comment.
const (
	OpSend    Op = "send"
	OpOK      Op = "ok"
	OpFail    Op = "fail"
	OpUnknown Op = "unknown"
	OpRecv    Op = "recv"
	OpDone    Op = "done"
	OpRetry   Op = "retry"
)

// Event is one line of a history.
type Event struct {
	T         int64  `json:"t"` // ns since 1970
	Op        Op     `json:"op"`
	ID        string `json:"id"`
	Topic     string `json:"topic,omitempty"`
	Key       string `json:"key,omitempty"`
	Seq       int64  `json:"seq,omitempty"`
	Producer  string `json:"producer,omitempty"` // process that sends
	Group     string `json:"group,omitempty"`
	Member    string `json:"member,omitempty"` // process that handles
	Cluster   string `json:"cluster,omitempty"`
	Partition string `json:"partition,omitempty"`
	Offset    int64  `json:"offset,omitempty"`
	Attempt   int    `json:"attempt,omitempty"`
	Route     string `json:"route,omitempty"` // mzxid of the route that the send went by
	Shadow    bool   `json:"shadow,omitempty"`
	Error     string `json:"error,omitempty"`
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
	Partition string
	Offset    int64
	Attempt   int    // of a recv: how often it went through a retry topic
	Route     string // of an ok: mzxid of the route it went by, "" when not known
}

// Key makes the key of an event from a message's key: as it is, or in hex behind "0x" when it is not UTF-8.
func Key(key []byte) string {
	if utf8.Valid(key) {
		return string(key)
	}
	return "0x" + hex.EncodeToString(key)
}
