package api

import (
	"context"
	"errors"
	"math"
	"net/http"
	"slices"
	"strconv"
	"time"

	"github.com/turnout-mq/turnout/admin/migrate"
	"github.com/turnout-mq/turnout/admin/people"
	"github.com/turnout-mq/turnout/admin/store"
	"github.com/turnout-mq/turnout/internal/errs"
)

// Request asks for a migration, or for its plan.
type Request struct {
	Topic string `json:"topic"`
	To    string `json:"to"` // cluster
	// Unordered: the move does not keep the order per key, though the topic does.
	Unordered bool `json:"unordered,omitempty"`
	// Create, Partitions, HoldMS, Accept and Force are those of migrate.Plan.
	Create     bool     `json:"create,omitempty"`
	Partitions int      `json:"partitions,omitempty"`
	HoldMS     int64    `json:"holdMs,omitempty"`
	Accept     []string `json:"accept,omitempty"`
	Force      bool     `json:"force,omitempty"`
	// Guards watch the migration.
	Guards []migrate.Guard `json:"guards,omitempty"`
	// Canary is a part that goes first; nil: everything at once.
	Canary *migrate.Canary `json:"canary,omitempty"`
	// Participants are those of a plan that was made before: who has vanished since is found.
	Participants []string `json:"participants,omitempty"`
	By           string   `json:"by,omitempty"` // who starts it, where nobody logs in; not needed for a plan
}

// Ask asks something of a running migration.
type Ask struct {
	By     string   `json:"by,omitempty"`     // who asks, where nobody logs in
	Accept []string `json:"accept,omitempty"` // of resume: further warnings
	// Canary, of promote, is another part than the one that goes to the target now; nil: everything.
	Canary *migrate.Canary `json:"canary,omitempty"`
}

// Events are what happened in a migration.
type Events struct {
	Events []store.Event `json:"events"`
}

// Error is how a request failed: a problem document (RFC 9457). Unwrap gives the sentinel that belongs to Code, so errors.Is
// tells the same on both sides.
type Error struct {
	Type     string            `json:"type" doc:"Always about:blank: Code tells what kind it is."`
	Title    string            `json:"title" doc:"The words of the status."`
	Status   int               `json:"status" doc:"The HTTP status."`
	Code     string            `json:"code" doc:"What kind of error it is, for programs." example:"not-found"`
	Message  string            `json:"detail" doc:"What is wrong, and what to do."`
	Errors   []FieldError      `json:"errors,omitempty" doc:"The fields of the request that are wrong."`
	Findings []migrate.Finding `json:"findings,omitempty" doc:"What a preflight has found, of code refused and others."`

	after time.Duration // after which it may be tried again; 0: not said
}

// FieldError is one field of a request that is wrong.
type FieldError struct {
	Field   string `json:"field,omitempty" doc:"Where it is." example:"body.topic"`
	Message string `json:"message" doc:"What it must be."`
	Value   string `json:"value,omitempty" doc:"What it was; never of a secret."`
}

// ProblemType is the media type of an Error.
const ProblemType = "application/problem+json"

// DocumentVersion is the version of the API.
const DocumentVersion = "1.0.0"

// NewError is an error without a sentinel, with the code that belongs to the status.
func NewError(status int, message string) *Error {
	e := &Error{Type: "about:blank", Title: http.StatusText(status), Status: status, Code: "internal", Message: message}
	switch status {
	case http.StatusUnauthorized:
		e.Code = "unauthorized"
	case http.StatusForbidden:
		e.Code = "not-allowed"
	case http.StatusNotFound:
		e.Code = "not-found"
	case http.StatusConflict, http.StatusPreconditionFailed:
		e.Code = "conflict"
	case http.StatusRequestEntityTooLarge:
		e.Code = "too-large"
	case http.StatusServiceUnavailable:
		e.Code = "unavailable"
	default:
		if status < http.StatusInternalServerError {
			e.Code = "invalid"
		}
	}
	return e
}

// TooMany is the answer to who asks too often, and may again after that time.
func TooMany(message string, after time.Duration) *Error {
	e := NewError(http.StatusTooManyRequests, message)
	e.Code, e.after = "too-many", after
	return e
}

func (e *Error) Error() string { return e.Message }

// GetStatus is the HTTP status.
func (e *Error) GetStatus() int { return e.Status }

// GetHeaders are those that belong to the status.
func (e *Error) GetHeaders() http.Header {
	h := http.Header{}
	if e.Status == http.StatusUnauthorized {
		h.Set("WWW-Authenticate", "Bearer")
	}
	if e.after > 0 {
		h.Set("Retry-After", strconv.Itoa(int(math.Ceil(e.after.Seconds()))))
	}
	return h
}

// ContentType is the media type of the document.
func (e *Error) ContentType(string) string { return ProblemType }

// The headers of calls that may be repeated.
const (
	// KeyHeader holds what the client has chosen for one call, see the description of the API.
	KeyHeader = "Idempotency-Key"
	// ReplayHeader is in an answer to a call that was carried out before.
	ReplayHeader = "Idempotency-Replayed"
)

// KeyReused is the error of a key that was sent with another call before.
func KeyReused() *Error {
	e := NewError(http.StatusUnprocessableEntity, KeyHeader+": it was sent with another call, another body or another If-Match before: a key stands for one call; choose a new one")
	e.Code = "key-reused"
	return e
}

// ErrRefused: the preflight has found something that is an error, or a warning that was not accepted.
var ErrRefused = errors.New("refused")

// ErrUnavailable: no server answers now, or the one that does is stopping. It may be repeated.
var ErrUnavailable = errors.New("no server of the platform answers")

// codes are the words for errors, with their HTTP status. Of several that fit, the first counts.
var codes = []struct {
	code   string
	status int
	is     error
}{
	{"unknown-topic", http.StatusNotFound, errs.ErrUnknownTopic},
	{"unknown-group", http.StatusNotFound, errs.ErrUnknownGroup},
	{"not-found", http.StatusNotFound, errs.ErrNotFound},
	{"refused", http.StatusUnprocessableEntity, ErrRefused},
	{"conflict", http.StatusConflict, errs.ErrConflict},
	{"changed", http.StatusPreconditionFailed, store.ErrChanged}, // by hand, see Changed
	{"invalid", http.StatusBadRequest, errs.ErrInvalid},
	{"key-reused", http.StatusUnprocessableEntity, errs.ErrInvalid}, // by hand, see KeyReused
	{"too-large", http.StatusRequestEntityTooLarge, errs.ErrTooLarge},
	{"unsupported", http.StatusUnprocessableEntity, errs.ErrUnsupported},
	{"unauthorized", http.StatusUnauthorized, people.ErrUnauthenticated},
	{"not-allowed", http.StatusForbidden, errs.ErrNotAllowed},
	{"too-many", http.StatusTooManyRequests, errs.ErrNotAllowed}, // by hand, see Describe
	{"timeout", http.StatusGatewayTimeout, errs.ErrTimeout},
	{"timeout", http.StatusGatewayTimeout, context.DeadlineExceeded},
	{"unavailable", http.StatusServiceUnavailable, ErrUnavailable},
	{"unavailable", http.StatusServiceUnavailable, errs.ErrClosed},
	{"unavailable", http.StatusServiceUnavailable, context.Canceled},
}

// Unwrap is the sentinel of the code.
func (e *Error) Unwrap() error {
	for _, c := range codes {
		if c.code == e.Code {
			return c.is
		}
	}
	return nil
}

// Describe is what a server answers for err.
func Describe(err error) *Error {
	var already *Error
	if errors.As(err, &already) {
		return already
	}
	e := NewError(http.StatusInternalServerError, err.Error())
	var notReady *migrate.NotReadyError
	if errors.As(err, &notReady) {
		e.Findings = notReady.Plan.Findings
		err = blockedBy(notReady)
	}
	var limit *people.LimitError
	if errors.As(err, &limit) {
		return TooMany(e.Message, limit.After)
	}
	for _, c := range codes {
		if errors.Is(err, c.is) {
			e.Code, e.Status, e.Title = c.code, c.status, http.StatusText(c.status)
			break
		}
	}
	return e
}

// Changed is e as the answer to a request with an If-Match that does not fit any more.
func (e *Error) Changed() *Error {
	is := *e
	is.Code, is.Status, is.Title = "changed", http.StatusPreconditionFailed, http.StatusText(http.StatusPreconditionFailed)
	return &is
}

// blockedBy says in which way a preflight blocks: something named does not exist, or the topic is in somebody else's hands,
// or else it refuses.
func blockedBy(e *migrate.NotReadyError) error {
	found := func(codes ...string) bool {
		return slices.ContainsFunc(e.Plan.Blocking(), func(f migrate.Finding) bool { return slices.Contains(codes, f.Code) })
	}
	switch {
	case found(migrate.UnknownTopic, migrate.UnknownCluster):
		return e
	case found(migrate.MigrationRuns):
		return errs.ErrConflict
	}
	return ErrRefused
}
