package store

import (
	"cmp"
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/turnout-mq/turnout/internal/errs"
)

// RequestState is where a request of a person is.
type RequestState string

// The states of requests.
const (
	Draft      RequestState = "draft"
	Submitted  RequestState = "submitted" // waits for a decision
	Approved   RequestState = "approved"  // waits to be executed
	Declined   RequestState = "declined"
	Withdrawn  RequestState = "withdrawn"
	Expired    RequestState = "expired" // nobody decided in time
	Executing  RequestState = "executing"
	RequestOK  RequestState = "done"
	RequestBad RequestState = "failed" // it may be tried again
)

// RequestStates are all of them, in the order in which a request comes through them.
var RequestStates = []RequestState{Draft, Submitted, Approved, Declined, Withdrawn, Expired, Executing, RequestOK, RequestBad}

// ChangeRequest is a request of a person to change what the platform manages. The words for kinds and steps are those of package
// requests. Times are UTC with microseconds.
type ChangeRequest struct {
	ID        string       `json:"id" example:"r-12"` // given by the store
	Kind      string       `json:"kind" example:"topic"`
	State     RequestState `json:"state" enum:"draft,submitted,approved,declined,withdrawn,expired,executing,done,failed"`
	Applicant string       `json:"applicant" doc:"who has filed it"`
	App       string       `json:"app,omitempty" doc:"the application that it is for"`
	Subject   string       `json:"subject" doc:"name of the topic, group, cluster or application that it changes"`
	Batch     string       `json:"batch,omitempty" doc:"the name that requests have in common which were filed together"`
	Reason    string       `json:"reason,omitempty" doc:"why, in the applicant's words"`
	// Spec is what is asked for; it holds no secrets.
	Spec          json.RawMessage `json:"spec"`
	Cluster       string          `json:"cluster,omitempty" doc:"the cluster that was allotted"`
	ClusterReason string          `json:"clusterReason,omitempty" doc:"why that one"`
	Version       int64           `json:"version" doc:"raised by every change; send it as If-Match"`
	CreatedAt     time.Time       `json:"createdAt"` // given by the store, like UpdatedAt
	UpdatedAt     time.Time       `json:"updatedAt"`
	SubmittedAt   *time.Time      `json:"submittedAt,omitempty"`
	ExpiresAt     *time.Time      `json:"expiresAt,omitempty" doc:"when it expires if nobody decides"`
	DecidedBy     string          `json:"decidedBy,omitempty" doc:"who approved, declined or withdrew it"`
	DecidedAt     *time.Time      `json:"decidedAt,omitempty"`
	Decision      string          `json:"decision,omitempty" doc:"what was said with the decision"`
	Step          string          `json:"step,omitempty" doc:"how far the execution has come"`
	Attempts      int             `json:"attempts" doc:"how often the step was tried"`
	Error         string          `json:"error,omitempty" doc:"why the last attempt failed"`
	NextAt        *time.Time      `json:"nextAt,omitempty" doc:"when it is tried again"`
	EndedAt       *time.Time      `json:"endedAt,omitempty"`
	Result        json.RawMessage `json:"result,omitempty" doc:"what came out of it, such as the id of a migration"`
}

// RequestEvent is one line of a request's history.
type RequestEvent struct {
	Seq     int64           `json:"seq"` // counts the events of a request: 1, 2, 3 … Given by the store
	Request string          `json:"request"`
	At      time.Time       `json:"at"`  // zero: when it is stored
	Who     string          `json:"who"` // "": the actor of the context
	Kind    string          `json:"kind" example:"comment"`
	Text    string          `json:"text"`
	Data    json.RawMessage `json:"data,omitempty"`
}

// RequestChanges are stored together with a request, all or none.
type RequestChanges struct {
	// Action is what the audit says was done to the request; "": the change is one of the bookkeeping of an execution, and not
	// audited.
	Action string
	Events []RequestEvent
	Put    []CatalogItem // as Store.PutCatalog
	Remove []CatalogItem // as Store.RemoveCatalog
	// Outbox is what has to be published; one a request, a second one replaces it.
	Outbox *Outbox
	// Published marks what the request has in the outbox as published.
	Published bool
	// Owner, a user, becomes an owner of the request's App. ErrNotFound: there is no such user.
	Owner string
	// FirstOwner becomes the owner of the request's App if that has none, and there is such a user.
	FirstOwner string
	// Tell, if not nil, makes the notice of the webhook from the request as it is stored now.
	Tell func(now *ChangeRequest) (json.RawMessage, error)
}

// RequestFilter says which requests are asked for. What is empty matches all.
type RequestFilter struct {
	States                        []RequestState
	Kind, Applicant, App, Subject string
	Batch                         string
	DecidedBy                     string
	NotApplicant                  string    // those that somebody else has filed
	Text                          string    // part of the subject, in any case
	ExpireUntil                   time.Time // only those that expire until then
	Before                        string    // only those that were filed before the one with this id
	Oldest                        bool      // the oldest first; else the newest
	Limit                         int       // at most so many; 0: no limit
}

const requestLetter = "r"

func parseRequestID(s string) (int64, error) { return parseLabel("request", requestLetter, s) }

const requestColumns = `n, kind, state, applicant, app, subject, reason, spec, cluster, cluster_reason, version, created_at, updated_at,
	submitted_at, expires_at, decided_by, decided_at, decision, step, attempts, error, next_at, ended_at, result, batch`

func scanRequest(row scanner) (*ChangeRequest, error) {
	var r ChangeRequest
	var n int64
	var spec, result document
	var created, updated, submitted, expires, decided, next, ended moment
	err := row.Scan(&n, &r.Kind, &r.State, &r.Applicant, &r.App, &r.Subject, &r.Reason, &spec, &r.Cluster, &r.ClusterReason, &r.Version,
		&created, &updated, &submitted, &expires, &r.DecidedBy, &decided, &r.Decision, &r.Step, &r.Attempts, &r.Error, &next, &ended, &result, &r.Batch)
	if err != nil {
		return nil, err
	}
	r.ID, r.Spec, r.Result = label(requestLetter, n), json.RawMessage(spec), json.RawMessage(result)
	r.CreatedAt, r.UpdatedAt = time.Time(created), time.Time(updated)
	r.SubmittedAt, r.ExpiresAt, r.DecidedAt, r.NextAt, r.EndedAt = submitted.pointer(), expires.pointer(), decided.pointer(), next.pointer(), ended.pointer()
	return &r, nil
}

// normalized is r as it will be read again, or ErrInvalid.
func (r *ChangeRequest) normalized() (ChangeRequest, error) {
	var c check
	c.name("Kind", r.Kind)
	c.name("Applicant", r.Applicant)
	c.name("Subject", r.Subject)
	c.text("App", r.App)
	c.text("Batch", r.Batch)
	c.text("Reason", r.Reason)
	c.text("Cluster", r.Cluster)
	c.text("DecidedBy", r.DecidedBy)
	c.text("Decision", r.Decision)
	c.text("Step", r.Step)
	oneOf(&c, "State", r.State, RequestStates...)
	c.document("Spec", r.Spec)
	if len(r.Spec) == 0 {
		c = append(c, "Spec is empty")
	}
	c.document("Result", r.Result)
	out := *r
	out.ClusterReason, out.Error = readable(r.ClusterReason), readable(r.Error)
	out.SubmittedAt, out.ExpiresAt, out.DecidedAt = storedOrNil(r.SubmittedAt), storedOrNil(r.ExpiresAt), storedOrNil(r.DecidedAt)
	out.NextAt, out.EndedAt = storedOrNil(r.NextAt), storedOrNil(r.EndedAt)
	out.UpdatedAt = stored(time.Time{})
	return out, c.err("request for " + r.Subject)
}

// values are the columns of a request that change, in the order of requestAssignments.
func (r *ChangeRequest) values() []any {
	return []any{r.State, r.App, r.Subject, r.Reason, document(r.Spec), r.Cluster, r.ClusterReason, moment(r.UpdatedAt), fromPointer(r.SubmittedAt),
		fromPointer(r.ExpiresAt), r.DecidedBy, fromPointer(r.DecidedAt), r.Decision, r.Step, r.Attempts, r.Error, fromPointer(r.NextAt),
		fromPointer(r.EndedAt), document(r.Result)}
}

// CreateRequest stores a new request. On success r has its ID, Version 1 and its times.
func (s *Store) CreateRequest(ctx context.Context, r *ChangeRequest, ch RequestChanges) error {
	made, err := r.normalized()
	if err != nil {
		return err
	}
	made.Version, made.CreatedAt = 1, made.UpdatedAt
	err = s.write(ctx, "create request", func(q query) error {
		var n int64
		err := q.row(`INSERT INTO requests (state, app, subject, reason, spec, cluster, cluster_reason, updated_at, submitted_at, expires_at, decided_by,
				decided_at, decision, step, attempts, error, next_at, ended_at, result, kind, applicant, batch, version, created_at)
			VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, $21, $22, $23, $24) RETURNING n`,
			append(made.values(), made.Kind, made.Applicant, made.Batch, made.Version, moment(made.CreatedAt))...).Scan(&n)
		if err != nil {
			return err
		}
		made.ID = label(requestLetter, n)
		return q.requestChanges(n, nil, &made, ch)
	})
	if err == nil {
		*r = made
	}
	return err
}

// UpdateRequest stores r and what changed with it, if the stored version is still r.Version; then r.Version is one more and
// r.UpdatedAt is now. ErrConflict: somebody else changed it, or one of the catalog's items; nothing was stored and r is as it was.
// ErrNotFound. Kind, Applicant, Batch and CreatedAt are not changed by it.
func (s *Store) UpdateRequest(ctx context.Context, r *ChangeRequest, ch RequestChanges) error {
	n, err := parseRequestID(r.ID)
	if err != nil {
		return err
	}
	next, err := r.normalized()
	if err != nil {
		return err
	}
	next.Version++
	err = s.write(ctx, "update "+r.ID, func(q query) error {
		before, err := q.request(n)
		if err != nil {
			return err
		}
		changed, err := q.exec(`UPDATE requests SET state = $1, app = $2, subject = $3, reason = $4, spec = $5, cluster = $6, cluster_reason = $7,
				updated_at = $8, submitted_at = $9, expires_at = $10, decided_by = $11, decided_at = $12, decision = $13, step = $14, attempts = $15,
				error = $16, next_at = $17, ended_at = $18, result = $19, version = version + 1
			WHERE n = $20 AND version = $21`, append(next.values(), n, r.Version)...)
		if err != nil {
			return err
		}
		if changed == 0 {
			return fmt.Errorf("%s is at version %d (state %s) and the change was made of version %d: read it again, decide again: %w", r.ID, before.Version, before.State, r.Version, ErrChanged)
		}
		return q.requestChanges(n, before, &next, ch)
	})
	if err == nil {
		*r = next
	}
	return err
}

// requestChanges stores what goes with a request whose row this transaction has written.
func (q query) requestChanges(n int64, before, now *ChangeRequest, ch RequestChanges) error {
	if err := q.appendRequestEvents(n, ch.Events); err != nil {
		return err
	}
	for _, item := range ch.Put {
		if err := q.putCatalog(&item, now.ID); err != nil {
			return err
		}
	}
	for _, item := range ch.Remove {
		if err := q.removeCatalog(item.Kind, item.Name, item.Version, now.ID); err != nil {
			return err
		}
	}
	if ch.Outbox != nil {
		if err := q.putOutbox(n, *ch.Outbox); err != nil {
			return err
		}
	}
	if ch.Published {
		if _, err := q.exec("UPDATE outbox SET done_at = $1 WHERE request = $2 AND done_at IS NULL", moment(stored(time.Time{})), n); err != nil {
			return err
		}
	}
	if ch.Owner != "" {
		if err := q.addOwner(now.App, ch.Owner, now.ID); err != nil {
			return err
		}
	}
	if ch.FirstOwner != "" {
		if err := q.addFirstOwner(now.App, ch.FirstOwner, now.ID); err != nil {
			return err
		}
	}
	if ch.Tell != nil {
		doc, err := ch.Tell(now)
		if err != nil {
			return err
		}
		if err := q.putNotice(doc); err != nil {
			return err
		}
	}
	if ch.Action == "" {
		return nil
	}
	if before == nil {
		return q.audited(ch.Action, "request", now.ID, now.ID, nil, now)
	}
	return q.audited(ch.Action, "request", now.ID, now.ID, before, now)
}

func (q query) addFirstOwner(app, user, request string) error {
	var owners int
	if err := q.row("SELECT COUNT(*) FROM owners WHERE app = $1", app).Scan(&owners); err != nil || owners > 0 {
		return err
	}
	err := q.addOwner(app, user, request)
	if errors.Is(err, errs.ErrNotFound) { // such as a server's own name
		return nil
	}
	return err
}

// appendRequestEvents is called when this transaction holds the row of the request.
func (q query) appendRequestEvents(n int64, events []RequestEvent) error {
	if len(events) == 0 {
		return nil
	}
	var last int64
	if err := q.row("SELECT COALESCE(MAX(seq), 0) FROM request_events WHERE request = $1", n).Scan(&last); err != nil {
		return err
	}
	for i, e := range events {
		e.Who = cmp.Or(e.Who, ActorOf(q.ctx).Name)
		var c check
		c.name("Kind", e.Kind)
		c.name("Who", e.Who)
		c.document("Data", e.Data)
		if err := c.err("event of " + label(requestLetter, n)); err != nil {
			return err
		}
		if _, err := q.exec("INSERT INTO request_events (request, seq, at, who, kind, text, data) VALUES ($1, $2, $3, $4, $5, $6, $7)",
			n, last+int64(i)+1, moment(stored(e.At)), e.Who, e.Kind, readable(e.Text), document(e.Data)); err != nil {
			return err
		}
	}
	return nil
}

// AddRequestEvent adds to the history of a request without changing it, so that who edits or decides at the same time is not in
// the way. It is audited as action. ErrNotFound.
func (s *Store) AddRequestEvent(ctx context.Context, request, action string, e RequestEvent) error {
	n, err := parseRequestID(request)
	if err != nil {
		return err
	}
	return s.write(ctx, "event of "+request, func(q query) error {
		changed, err := q.exec("UPDATE requests SET updated_at = $1 WHERE n = $2", moment(stored(time.Time{})), n)
		if err != nil {
			return err
		}
		if changed == 0 {
			return noRequest(n)
		}
		if err := q.appendRequestEvents(n, []RequestEvent{e}); err != nil {
			return err
		}
		return q.audited(action, "request", request, request, nil, map[string]string{"kind": e.Kind, "text": readable(e.Text)})
	})
}

func noRequest(n int64) error {
	return fmt.Errorf("there is no request %s: %w", label(requestLetter, n), errs.ErrNotFound)
}

func (q query) request(n int64) (*ChangeRequest, error) {
	r, err := scanRequest(q.row("SELECT "+requestColumns+" FROM requests WHERE n = $1", n))
	if errors.Is(err, sql.ErrNoRows) {
		return nil, noRequest(n)
	}
	return r, err
}

// ChangeRequest returns the request of this id, or ErrNotFound.
func (s *Store) ChangeRequest(ctx context.Context, request string) (r *ChangeRequest, err error) {
	n, err := parseRequestID(request)
	if err != nil {
		return nil, err
	}
	err = s.read(ctx, "request "+request, func(q query) (err error) {
		r, err = q.request(n)
		return err
	})
	return r, err
}

// where collects conditions and their parameters.
type where struct {
	text string
	args []any
}

// add takes a condition with a %d for each value.
func (w *where) add(condition string, values ...any) {
	numbers := make([]any, len(values))
	for i, v := range values {
		w.args = append(w.args, v)
		numbers[i] = len(w.args)
	}
	w.text += " AND " + fmt.Sprintf(condition, numbers...)
}

// equal adds column = value where there is a value.
func (w *where) equal(column, value string) {
	if value != "" {
		w.add(column+" = $%d", value)
	}
}

// contains adds that column has text in it, in any case.
func (w *where) contains(column, text string) {
	if text != "" {
		w.add("LOWER("+column+") LIKE $%d ESCAPE '!'", "%"+strings.NewReplacer("!", "!!", "%", "!%", "_", "!_").Replace(strings.ToLower(text))+"%")
	}
}

func (f RequestFilter) where() (w where, err error) {
	if len(f.States) > 0 {
		marks, values := make([]string, len(f.States)), make([]any, len(f.States))
		for i, s := range f.States {
			marks[i], values[i] = "$%d", s
		}
		w.add("state IN ("+strings.Join(marks, ", ")+")", values...)
	}
	w.equal("kind", f.Kind)
	w.equal("applicant", f.Applicant)
	w.equal("app", f.App)
	w.equal("subject", f.Subject)
	w.equal("batch", f.Batch)
	w.equal("decided_by", f.DecidedBy)
	if f.NotApplicant != "" {
		w.add("applicant <> $%d", f.NotApplicant)
	}
	w.contains("subject", f.Text)
	if !f.ExpireUntil.IsZero() {
		w.add("expires_at <= $%d", moment(f.ExpireUntil))
	}
	if f.Before != "" {
		n, err := parseRequestID(f.Before)
		if err != nil {
			return w, err
		}
		w.add("n < $%d", n)
	}
	return w, nil
}

// ChangeRequests returns those that fit.
func (s *Store) ChangeRequests(ctx context.Context, f RequestFilter) ([]*ChangeRequest, error) {
	w, err := f.where()
	if err != nil {
		return nil, err
	}
	order := " ORDER BY n DESC"
	if f.Oldest {
		order = " ORDER BY n"
	}
	var list []*ChangeRequest
	err = s.read(ctx, "requests", func(q query) (err error) {
		list, err = rows(q, scanRequest, "SELECT "+requestColumns+" FROM requests WHERE 1 = 1"+w.text+order+limit(f.Limit), w.args...)
		return err
	})
	return list, err
}

// CountRequests counts those that fit, by state. Limit and order of f are not looked at.
func (s *Store) CountRequests(ctx context.Context, f RequestFilter) (map[RequestState]int, error) {
	w, err := f.where()
	if err != nil {
		return nil, err
	}
	counts := map[RequestState]int{}
	err = s.read(ctx, "count requests", func(q query) error {
		clear(counts)
		_, err := rows(q, func(row scanner) (none, error) {
			var state RequestState
			var n int
			err := row.Scan(&state, &n)
			counts[state] = n
			return none{}, err
		}, "SELECT state, COUNT(*) FROM requests WHERE 1 = 1"+w.text+" GROUP BY state", w.args...)
		return err
	})
	return counts, err
}

// RequestEvents returns the history of a request after the event number after (0: from the beginning), oldest first, at most
// atMost of them (0: no limit). ErrNotFound if there is no such request.
func (s *Store) RequestEvents(ctx context.Context, request string, after int64, atMost int) ([]RequestEvent, error) {
	n, err := parseRequestID(request)
	if err != nil {
		return nil, err
	}
	var list []RequestEvent
	err = s.read(ctx, "events of "+request, func(q query) error {
		list, err = rows(q, func(row scanner) (RequestEvent, error) {
			e := RequestEvent{Request: request}
			var at moment
			var data document
			err := row.Scan(&e.Seq, &at, &e.Who, &e.Kind, &e.Text, &data)
			e.At, e.Data = time.Time(at), json.RawMessage(data)
			return e, err
		}, "SELECT seq, at, who, kind, text, data FROM request_events WHERE request = $1 AND seq > $2 ORDER BY seq"+limit(atMost), n, after)
		if err == nil && len(list) == 0 {
			_, err = q.request(n)
		}
		return err
	})
	return list, err
}
