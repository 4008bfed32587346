package jute

import "fmt"

// Op is the type of a request.
type Op int32

// The requests of the client protocol.
const (
	OpCreate               Op = 1
	OpDelete               Op = 2
	OpExists               Op = 3
	OpGetData              Op = 4
	OpSetData              Op = 5
	OpGetACL               Op = 6
	OpSetACL               Op = 7
	OpGetChildren          Op = 8
	OpSync                 Op = 9
	OpPing                 Op = 11
	OpGetChildren2         Op = 12
	OpCheck                Op = 13
	OpMulti                Op = 14
	OpCreate2              Op = 15
	OpReconfig             Op = 16
	OpCheckWatches         Op = 17
	OpRemoveWatches        Op = 18
	OpCreateContainer      Op = 19
	OpCreateTTL            Op = 21
	OpAuth                 Op = 100
	OpSetWatches           Op = 101
	OpGetEphemerals        Op = 103
	OpGetAllChildrenNumber Op = 104
	OpSetWatches2          Op = 105
	OpAddWatch             Op = 106
	OpWhoAmI               Op = 107
	OpCloseSession         Op = -11
	OpError                Op = -1
)

// Request ids with a fixed meaning.
const (
	XidNotification int32 = -1
	XidPing         int32 = -2
	XidAuth         int32 = -4
	XidSetWatches   int32 = -8
)

// Code is the result of a request; every value but OK is an error.
type Code int32

// The results that the embedded server gives.
const (
	OK                      Code = 0
	RuntimeInconsistency    Code = -2
	MarshallingError        Code = -5
	Unimplemented           Code = -6
	BadArguments            Code = -8
	NoNode                  Code = -101
	NoAuth                  Code = -102
	BadVersion              Code = -103
	NoChildrenForEphemerals Code = -108
	NodeExists              Code = -110
	NotEmpty                Code = -111
	InvalidACL              Code = -114
	AuthFailed              Code = -115
	NoWatcher               Code = -121
	ReconfigDisabled        Code = -123
)

var codeNames = map[Code]string{
	OK: "OK", RuntimeInconsistency: "RuntimeInconsistency", MarshallingError: "MarshallingError",
	Unimplemented: "Unimplemented", BadArguments: "BadArguments", NoNode: "NoNode", NoAuth: "NoAuth",
	BadVersion: "BadVersion", NoChildrenForEphemerals: "NoChildrenForEphemerals", NodeExists: "NodeExists",
	NotEmpty: "NotEmpty", InvalidACL: "InvalidACL", AuthFailed: "AuthFailed", NoWatcher: "NoWatcher",
	ReconfigDisabled: "ReconfigDisabled",
}

// Error makes a Code other than OK usable as an error.
func (c Code) Error() string {
	name, ok := codeNames[c]
	if !ok {
		name = "unknown code"
	}
	return fmt.Sprintf("zookeeper: %s (%d)", name, int32(c))
}

// EventType says what happened to the node of an event.
type EventType int32

// The types of events.
const (
	EventCreated         EventType = 1
	EventDeleted         EventType = 2
	EventDataChanged     EventType = 3
	EventChildrenChanged EventType = 4
)

// StateSyncConnected is the session state that every event of a connected
// server carries.
const StateSyncConnected int32 = 3

// NoZxid is the zxid in the header of an event that replays a change which
// happened before the watch was set again.
const NoZxid int64 = -1

// Modes of addWatch.
const (
	AddWatchPersistent          int32 = 0
	AddWatchPersistentRecursive int32 = 1
)

// Kinds of watches as checkWatches and removeWatches name them.
const (
	WatcherChildren            int32 = 1
	WatcherData                int32 = 2
	WatcherAny                 int32 = 3
	WatcherPersistent          int32 = 4
	WatcherPersistentRecursive int32 = 5
)

// Flags of a create request.
const (
	FlagPersistent                  int32 = 0
	FlagEphemeral                   int32 = 1
	FlagPersistentSequential        int32 = 2
	FlagEphemeralSequential         int32 = 3
	FlagContainer                   int32 = 4
	FlagPersistentWithTTL           int32 = 5
	FlagPersistentSequentialWithTTL int32 = 6
)

// Permissions of an ACL entry.
const (
	PermRead int32 = 1 << iota
	PermWrite
	PermCreate
	PermDelete
	PermAdmin
	PermAll = PermRead | PermWrite | PermCreate | PermDelete | PermAdmin
)

// ID is who an ACL entry speaks of, or who a connection is.
type ID struct{ Scheme, ID string }

// ACL is one entry of a node's access control list.
type ACL struct {
	Perms int32
	ID    ID
}

// ACLs reads a vector of ACL entries.
func (d *Decoder) ACLs() []ACL {
	return vector(d, func(d *Decoder) ACL {
		return ACL{Perms: d.Int32(), ID: ID{Scheme: d.Ustring(), ID: d.Ustring()}}
	})
}

// ACLs appends a vector of ACL entries.
func (e *Encoder) ACLs(v []ACL) *Encoder {
	e.Int32(int32(len(v)))
	for _, a := range v {
		e.Int32(a.Perms).Ustring(a.ID.Scheme).Ustring(a.ID.ID)
	}
	return e
}

// Stat is what a server tells about a node beside its data. Times are
// milliseconds since 1970.
type Stat struct {
	Czxid, Mzxid, Ctime, Mtime  int64
	Version, Cversion, Aversion int32
	EphemeralOwner              int64
	DataLength, NumChildren     int32
	Pzxid                       int64
}

// Stat reads a Stat.
func (d *Decoder) Stat() Stat {
	return Stat{
		Czxid: d.Int64(), Mzxid: d.Int64(), Ctime: d.Int64(), Mtime: d.Int64(),
		Version: d.Int32(), Cversion: d.Int32(), Aversion: d.Int32(),
		EphemeralOwner: d.Int64(), DataLength: d.Int32(), NumChildren: d.Int32(), Pzxid: d.Int64(),
	}
}

// Stat appends a Stat.
func (e *Encoder) Stat(s Stat) *Encoder {
	return e.Int64(s.Czxid).Int64(s.Mzxid).Int64(s.Ctime).Int64(s.Mtime).
		Int32(s.Version).Int32(s.Cversion).Int32(s.Aversion).
		Int64(s.EphemeralOwner).Int32(s.DataLength).Int32(s.NumChildren).Int64(s.Pzxid)
}

// ReplyHeader begins every answer and every event.
type ReplyHeader struct {
	Xid  int32
	Zxid int64
	Err  Code
}

// ReplyHeader reads a ReplyHeader.
func (d *Decoder) ReplyHeader() ReplyHeader {
	return ReplyHeader{Xid: d.Int32(), Zxid: d.Int64(), Err: Code(d.Int32())}
}

// ReplyHeader appends a ReplyHeader.
func (e *Encoder) ReplyHeader(h ReplyHeader) *Encoder {
	return e.Int32(h.Xid).Int64(h.Zxid).Int32(int32(h.Err))
}

// Event is the body of a notification.
type Event struct {
	Type  EventType
	State int32
	Path  string
}

// Event reads an Event.
func (d *Decoder) Event() Event {
	return Event{Type: EventType(d.Int32()), State: d.Int32(), Path: d.Ustring()}
}

// Event appends an Event.
func (e *Encoder) Event(v Event) *Encoder {
	return e.Int32(int32(v.Type)).Int32(v.State).Ustring(v.Path)
}

// ConnectRequest is the first frame of a client. SessionID 0 asks for a new
// session.
type ConnectRequest struct {
	LastZxidSeen int64
	TimeoutMs    int32
	SessionID    int64
	Passwd       []byte
	// HasReadOnly says that the frame ends with the readOnly flag, which old
	// clients neither send nor expect in the answer.
	HasReadOnly bool
}

// ConnectRequest reads a ConnectRequest.
func (d *Decoder) ConnectRequest() ConnectRequest {
	d.Int32() // protocol version
	r := ConnectRequest{LastZxidSeen: d.Int64(), TimeoutMs: d.Int32(), SessionID: d.Int64(), Passwd: d.Buffer()}
	if r.HasReadOnly = d.More(); r.HasReadOnly {
		d.Bool()
	}
	return r
}

// ConnectRequest appends a ConnectRequest.
func (e *Encoder) ConnectRequest(r ConnectRequest) *Encoder {
	e.Int32(0).Int64(r.LastZxidSeen).Int32(r.TimeoutMs).Int64(r.SessionID).Buffer(r.Passwd)
	if r.HasReadOnly {
		e.Bool(false)
	}
	return e
}

// ConnectResponse answers a ConnectRequest. SessionID 0 says that the session
// asked for is no more.
type ConnectResponse struct {
	TimeoutMs int32
	SessionID int64
	Passwd    []byte
	// HasReadOnly as in the request.
	HasReadOnly bool
}

// ConnectResponse reads a ConnectResponse.
func (d *Decoder) ConnectResponse() ConnectResponse {
	d.Int32() // protocol version
	r := ConnectResponse{TimeoutMs: d.Int32(), SessionID: d.Int64(), Passwd: d.Buffer()}
	if r.HasReadOnly = d.More(); r.HasReadOnly {
		d.Bool()
	}
	return r
}

// ConnectResponse appends a ConnectResponse.
func (e *Encoder) ConnectResponse(r ConnectResponse) *Encoder {
	e.Int32(0).Int32(r.TimeoutMs).Int64(r.SessionID).Buffer(r.Passwd)
	if r.HasReadOnly {
		e.Bool(false)
	}
	return e
}
