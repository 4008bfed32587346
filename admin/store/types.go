package store

import (
	"encoding/json"
	"time"
)

// Kind says what a migration is for.
type Kind string

// The kinds.
const (
	Move   Kind = "move"   // from one cluster to another
	Settle Kind = "settle" // after a wish that was written by hand: what was left behind is fenced, sealed, drained
)

// Request is what an operator asked of a running migration.
type Request string

// The requests.
const (
	None     Request = ""
	Rollback Request = "rollback" // go back to where the topic came from
	Abort    Request = "abort"    // stop without more changes
)

// Outcome says how a migration ended.
type Outcome string

// The outcomes.
const (
	Running    Outcome = "" // it has not ended
	Done       Outcome = "done"
	RolledBack Outcome = "rolled-back"
	Aborted    Outcome = "aborted"
	Failed     Outcome = "failed"
)

// Migration is one migration of a topic. Times are UTC with microseconds. A nil document is no document.
type Migration struct {
	ID      string `json:"id"` // "m-17", given by the store
	Topic   string `json:"topic"`
	Target  string `json:"target"` // cluster
	Kind    Kind   `json:"kind"`
	Ordered bool   `json:"ordered"`
	// State is the controller's word for where the migration is.
	State string `json:"state"`
	// Version is raised by every change of the row.
	Version int64 `json:"version"`
	// Plan is what was agreed upon before it began.
	Plan json.RawMessage `json:"plan,omitempty"`
	// Data is what the controller has learned: sources with their seals and more.
	Data       json.RawMessage `json:"data,omitempty"`
	StartedBy  string          `json:"startedBy"`
	ApprovedBy string          `json:"approvedBy,omitempty"`
	ApprovedAt *time.Time      `json:"approvedAt,omitempty"`
	CreatedAt  time.Time       `json:"createdAt"` // given by the store, like UpdatedAt
	UpdatedAt  time.Time       `json:"updatedAt"`
	// EndedAt is nil while it runs. A topic has at most one such migration.
	EndedAt *time.Time `json:"endedAt,omitempty"`
	Outcome Outcome    `json:"outcome,omitempty"`
	// Waiting says for people what it waits for now.
	Waiting string  `json:"waiting,omitempty"`
	Request Request `json:"request,omitempty"`
	Paused  bool    `json:"paused"`
}

// Event is one line of a migration's history.
type Event struct {
	// Seq counts the events of a migration: 1, 2, 3 … Given by the store. An event never appears before one that is
	// already there.
	Seq       int64           `json:"seq"`
	Migration string          `json:"migration"`
	At        time.Time       `json:"at"` // zero: when it is stored
	Kind      string          `json:"kind"`
	Text      string          `json:"text"`
	Data      json.RawMessage `json:"data,omitempty"`
}

// The kinds of events that the store writes itself. Their Data is {"by":"…"}, and {"by":"…","request":"…"} of a request.
const (
	EventRequested = "requested"
	EventPaused    = "paused"
	EventResumed   = "resumed"
)

// Fence is what is wanted of a topic on a cluster: that writers are refused, or not, also long after the migration has
// ended. Whoever asserts it compares it with the broker again and again.
type Fence struct {
	Cluster  string `json:"cluster"`
	Physical string `json:"physical"` // name of the topic on the cluster
	Topic    string `json:"topic"`
	// Migration is the one that wrote it last.
	Migration string `json:"migration"`
	Wanted    bool   `json:"wanted"` // false: writers are let in
	// Restore is what reopening needs, in the words of the driver.
	Restore string     `json:"restore,omitempty"`
	Since   time.Time  `json:"since"`            // since when Wanted is what it is; zero: when it is stored
	Until   *time.Time `json:"until,omitempty"`  // how long it is asserted; nil: while the topic exists
	SeenAt  *time.Time `json:"seenAt,omitempty"` // when it was last seen to act
	// Error is why it could not be asserted, "" if it could.
	Error string `json:"error,omitempty"`
	// Version is raised by every change of the row. 0: not stored yet.
	Version int64 `json:"version"`
}

// Receipt says why the old cluster can be switched off.
type Receipt struct {
	Migration string          `json:"migration"`
	At        time.Time       `json:"at"` // zero: when it is stored
	Doc       json.RawMessage `json:"doc"`
}

// Changes are stored together with a migration, all or none.
type Changes struct {
	Events []Event
	// Fences are stored whole, over what was there. Their Version is not looked at: the migration's is the guard. Their
	// Migration and Topic, if empty, become those of the migration.
	Fences []Fence
	// Receipt replaces the one that was there. nil: it stays.
	Receipt *Receipt
	// Notices are for the webhook, in this order.
	Notices []json.RawMessage
}

// Filter says which migrations are asked for. The zero value: all of them.
type Filter struct {
	Topic string // "": of all topics
	Open  bool   // only those that have not ended
	Limit int    // at most so many; 0: no limit
}
