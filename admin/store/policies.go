package store

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/turnout-mq/turnout/internal/errs"
)

// RequestPolicy says how requests of a kind are decided.
type RequestPolicy struct {
	Kind     string `json:"kind" example:"topic"`
	Approval bool   `json:"approval" doc:"somebody else has to approve; false: a submitted request is approved at once"`
	Days     int    `json:"days" minimum:"1" maximum:"365" doc:"a request that nobody decides expires after so many days"`
	Version  int64  `json:"version"` // 0: not stored
}

// RequestPolicies returns those that are stored, by kind.
func (s *Store) RequestPolicies(ctx context.Context) (map[string]RequestPolicy, error) {
	policies := map[string]RequestPolicy{}
	err := s.read(ctx, "policies", func(q query) error {
		clear(policies)
		_, err := rows(q, func(row scanner) (none, error) {
			var p RequestPolicy
			err := row.Scan(&p.Kind, &p.Approval, &p.Days, &p.Version)
			policies[p.Kind] = p
			return none{}, err
		}, "SELECT kind, approval, days, version FROM request_policies")
		return err
	})
	return policies, err
}

// PutRequestPolicy stores a policy if the stored version is still p.Version (0: if there is none); then p.Version is one more.
// ErrConflict: somebody else changed it.
func (s *Store) PutRequestPolicy(ctx context.Context, p *RequestPolicy) error {
	var c check
	c.name("Kind", p.Kind)
	if p.Days < 1 || p.Days > 365 {
		c = append(c, fmt.Sprintf("Days is %d; use 1 to 365", p.Days))
	}
	if err := c.err("policy"); err != nil {
		return err
	}
	next := *p
	next.Version++
	err := s.write(ctx, "put policy", func(q query) error {
		var before any
		was := RequestPolicy{Kind: p.Kind}
		err := q.row("SELECT approval, days, version FROM request_policies WHERE kind = $1", p.Kind).Scan(&was.Approval, &was.Days, &was.Version)
		switch {
		case errors.Is(err, sql.ErrNoRows):
		case err != nil:
			return err
		default:
			before = was
		}
		changed, err := q.exec(`INSERT INTO request_policies (kind, approval, days, version) VALUES ($1, $2, $3, $4)
			ON CONFLICT (kind) DO UPDATE SET approval = excluded.approval, days = excluded.days, version = excluded.version
			WHERE request_policies.version = $5`, next.Kind, next.Approval, next.Days, next.Version, p.Version)
		if err != nil {
			return err
		}
		if changed == 0 || was.Version != p.Version {
			return fmt.Errorf("the policy of %s is at version %d and the change was made of version %d: read it again, decide again: %w", p.Kind, was.Version, p.Version, ErrChanged)
		}
		return q.audited("change", "policy", p.Kind, "", before, next)
	})
	if err == nil {
		*p = next
	}
	return err
}

// StoredRule is an allotment rule; its words are those of package requests.
type StoredRule struct {
	Name     string
	Priority int // the smallest is asked first
	Doc      json.RawMessage
	Version  int64 // 0: not stored
}

// AllotmentRules returns all, in the order in which they are asked.
func (s *Store) AllotmentRules(ctx context.Context) ([]StoredRule, error) {
	var list []StoredRule
	err := s.read(ctx, "allotment rules", func(q query) (err error) {
		list, err = rows(q, scanRule, "SELECT name, priority, doc, version FROM allotment_rules")
		return err
	})
	slices.SortFunc(list, func(a, b StoredRule) int {
		if a.Priority != b.Priority {
			return a.Priority - b.Priority
		}
		if a.Name < b.Name {
			return -1
		}
		return 1
	})
	return list, err
}

func scanRule(row scanner) (r StoredRule, err error) {
	var doc document
	err = row.Scan(&r.Name, &r.Priority, &doc, &r.Version)
	r.Doc = json.RawMessage(doc)
	return r, err
}

// PutAllotmentRule stores a rule if the stored version is still r.Version (0: if there is none); then r.Version is one more.
// ErrConflict: somebody else changed it.
func (s *Store) PutAllotmentRule(ctx context.Context, r *StoredRule) error {
	var c check
	c.name("Name", r.Name)
	c.document("Doc", r.Doc)
	if err := c.err("allotment rule"); err != nil {
		return err
	}
	next := *r
	next.Version++
	err := s.write(ctx, "put allotment rule", func(q query) error {
		was, err := scanRule(q.row("SELECT name, priority, doc, version FROM allotment_rules WHERE name = $1", r.Name))
		var before any
		switch {
		case errors.Is(err, sql.ErrNoRows):
		case err != nil:
			return err
		default:
			before = was.Doc
		}
		changed, err := q.exec(`INSERT INTO allotment_rules (name, priority, doc, version) VALUES ($1, $2, $3, $4)
			ON CONFLICT (name) DO UPDATE SET priority = excluded.priority, doc = excluded.doc, version = excluded.version
			WHERE allotment_rules.version = $5`, next.Name, next.Priority, document(next.Doc), next.Version, r.Version)
		if err != nil {
			return err
		}
		if changed == 0 || was.Version != r.Version {
			return fmt.Errorf("the allotment rule %s is at version %d and the change was made of version %d: read it again, decide again: %w", r.Name, was.Version, r.Version, ErrChanged)
		}
		return q.audited("change", "allotment rule", r.Name, "", before, next.Doc)
	})
	if err == nil {
		*r = next
	}
	return err
}

// DeleteAllotmentRule removes a rule that has this version. ErrNotFound; ErrConflict: it has another one.
func (s *Store) DeleteAllotmentRule(ctx context.Context, name string, version int64) error {
	return s.write(ctx, "delete allotment rule", func(q query) error {
		was, err := scanRule(q.row("SELECT name, priority, doc, version FROM allotment_rules WHERE name = $1", name))
		if errors.Is(err, sql.ErrNoRows) {
			return fmt.Errorf("there is no allotment rule %s: %w", name, errs.ErrNotFound)
		}
		if err != nil {
			return err
		}
		changed, err := q.exec("DELETE FROM allotment_rules WHERE name = $1 AND version = $2", name, version)
		if err != nil {
			return err
		}
		if changed == 0 {
			return fmt.Errorf("the allotment rule %s is at version %d and not at %d: read it again, decide again: %w", name, was.Version, version, ErrChanged)
		}
		return q.audited("delete", "allotment rule", name, "", was.Doc, nil)
	})
}
