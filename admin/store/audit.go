package store

import (
	"context"
	"encoding/json"
	"fmt"
	"time"
)

// Actor is who does something, as it stands in the audit.
type Actor struct {
	Name    string // of a user; System for what the platform does by itself
	Via     string // how it was asked for: "session", "token t-3", "server 10.0.0.7@-@42@-@1"
	Address string // where the request came from, without a port; "" if there was none
}

// System is the Name of the platform's own actions.
const System = "turnout"

type actorKey struct{}

// WithActor says who does what is called with the returned context. Changes without one are the platform's own.
func WithActor(ctx context.Context, a Actor) context.Context {
	return context.WithValue(ctx, actorKey{}, a)
}

// ActorOf is who WithActor has said, else the platform.
func ActorOf(ctx context.Context) Actor {
	if a, ok := ctx.Value(actorKey{}).(Actor); ok {
		return a
	}
	return Actor{Name: System}
}

// Audit is one change. It is stored in the transaction of the change, and never changed or removed.
type Audit struct {
	Seq     int64           `json:"seq"` // given by the store; grows
	At      time.Time       `json:"at"`  // zero: when it is stored
	Who     string          `json:"who"`
	Via     string          `json:"via,omitempty"`
	Address string          `json:"address,omitempty"`
	Action  string          `json:"action"`            // "create", "approve", …
	Kind    string          `json:"kind"`              // of what was changed: "request", "topic", "user", …
	Subject string          `json:"subject"`           // its name or id
	Request string          `json:"request,omitempty"` // id of the request that it belongs to
	Before  json.RawMessage `json:"before,omitempty"`  // without secrets; none for what is new
	After   json.RawMessage `json:"after,omitempty"`   // without secrets; none for what is gone
}

// AuditFilter says which changes are asked for. What is empty matches all.
type AuditFilter struct {
	Who, Action, Kind, Subject, Request, Address string
	From, Until                                  time.Time // From included, Until not
	Before                                       int64     // only those with a smaller Seq; 0: all
	After                                        int64     // only those with a greater Seq
	Oldest                                       bool      // the oldest first; else the newest
	Limit                                        int       // at most so many; 0: no limit
}

// RecordAudit stores a change that is none of the store's own, such as one of a znode by hand of an administrator. Who, Via and Address
// are the actor of ctx.
func (s *Store) RecordAudit(ctx context.Context, a Audit) error {
	return s.write(ctx, "audit", func(q query) error { return q.audit(a) })
}

// audit stores a change together with it. Who, Via and Address are the actor of the context.
func (q query) audit(a Audit) error {
	actor := ActorOf(q.ctx)
	var c check
	c.name("Who", actor.Name)
	c.name("Action", a.Action)
	c.name("Kind", a.Kind)
	c.name("Subject", a.Subject)
	c.text("Request", a.Request)
	c.document("Before", a.Before)
	c.document("After", a.After)
	if err := c.err("audit of " + a.Kind + " " + a.Subject); err != nil {
		return err
	}
	_, err := q.exec(`INSERT INTO audit (at, who, via, address, action, kind, subject, request, before, after)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)`,
		moment(stored(a.At)), actor.Name, readable(actor.Via), readable(actor.Address), a.Action, a.Kind, a.Subject, a.Request, document(a.Before), document(a.After))
	if err != nil {
		return err
	}
	return q.noteKeyed(a.Kind, a.Subject)
}

// audited is audit of a change from one state to another; nil is none. What can not be written as JSON is a fault of the
// program.
func (q query) audited(action, kind, subject, request string, before, after any) error {
	a := Audit{Action: action, Kind: kind, Subject: subject, Request: request}
	for _, side := range []struct {
		doc any
		to  *json.RawMessage
	}{{before, &a.Before}, {after, &a.After}} {
		if side.doc == nil {
			continue
		}
		data, err := json.Marshal(side.doc)
		if err != nil {
			return fmt.Errorf("audit of %s %s: %w", kind, subject, err)
		}
		*side.to = data
	}
	return q.audit(a)
}

// Audits returns the changes that fit.
func (s *Store) Audits(ctx context.Context, f AuditFilter) ([]Audit, error) {
	statement, args := "SELECT seq, at, who, via, address, action, kind, subject, request, before, after FROM audit WHERE 1 = 1", []any(nil)
	add := func(condition string, value any) {
		args = append(args, value)
		statement += fmt.Sprintf(" AND "+condition, len(args))
	}
	for _, c := range []struct{ column, value string }{
		{"who", f.Who}, {"action", f.Action}, {"kind", f.Kind}, {"subject", f.Subject}, {"request", f.Request}, {"address", f.Address},
	} {
		if c.value != "" {
			add(c.column+" = $%d", c.value)
		}
	}
	if !f.From.IsZero() {
		add("at >= $%d", moment(f.From))
	}
	if !f.Until.IsZero() {
		add("at < $%d", moment(f.Until))
	}
	if f.Before > 0 {
		add("seq < $%d", f.Before)
	}
	if f.After > 0 {
		add("seq > $%d", f.After)
	}
	order := " ORDER BY seq DESC"
	if f.Oldest {
		order = " ORDER BY seq"
	}
	var list []Audit
	err := s.read(ctx, "audit", func(q query) (err error) {
		list, err = rows(q, func(row scanner) (a Audit, err error) {
			var at moment
			var before, after document
			err = row.Scan(&a.Seq, &at, &a.Who, &a.Via, &a.Address, &a.Action, &a.Kind, &a.Subject, &a.Request, &before, &after)
			a.At, a.Before, a.After = time.Time(at), json.RawMessage(before), json.RawMessage(after)
			return a, err
		}, statement+order+limit(f.Limit), args...)
		return err
	})
	return list, err
}
