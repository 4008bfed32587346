package store

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/turnout-mq/turnout/internal/errs"
)

// The kinds of what the catalog has.
const (
	CatalogCluster = "cluster"
	CatalogTopic   = "topic"
	CatalogGroup   = "group"
)

// CatalogItem is a cluster, topic or group that the platform manages, as it is wanted.
type CatalogItem struct {
	Kind       string            `json:"kind" enum:"cluster,topic,group"`
	Name       string            `json:"name"`
	App        string            `json:"app,omitempty" doc:"the application that it belongs to"`
	Cluster    string            `json:"cluster,omitempty" doc:"of a topic: the cluster that was allotted"`
	Partitions int               `json:"partitions,omitempty" doc:"of a topic: as it was created"`
	Labels     map[string]string `json:"labels,omitempty" doc:"what allotment rules look at"`
	// Doc is what is wanted in ZooKeeper: metadata.Cluster, metadata.Group, or for a topic requests.TopicDoc.
	Doc       json.RawMessage `json:"doc"`
	State     string          `json:"state" enum:"creating,active,deleting"`
	Version   int64           `json:"version" doc:"raised by every change"` // 0: not stored yet
	CreatedAt time.Time       `json:"createdAt"`                            // given by the store, like UpdatedAt
	UpdatedAt time.Time       `json:"updatedAt"`
}

// The states of what is in the catalog.
const (
	Creating = "creating" // not published yet
	Active   = "active"
	Deleting = "deleting"
)

// CatalogFilter says what of the catalog is asked for. What is empty matches all.
type CatalogFilter struct {
	Kind, App, Cluster, State string
	Text                      string // part of the name, in any case
	After                     string // only those whose name comes after this one, byte by byte; with one Kind
	Limit                     int    // at most so many; 0: no limit
}

const catalogColumns = "kind, name, app, cluster, partitions, labels, doc, state, version, created_at, updated_at"

func scanCatalog(row scanner) (*CatalogItem, error) {
	var i CatalogItem
	var labels, doc document
	var created, updated moment
	if err := row.Scan(&i.Kind, &i.Name, &i.App, &i.Cluster, &i.Partitions, &labels, &doc, &i.State, &i.Version, &created, &updated); err != nil {
		return nil, err
	}
	i.Doc, i.CreatedAt, i.UpdatedAt = json.RawMessage(doc), time.Time(created), time.Time(updated)
	if len(labels) > 0 {
		if err := json.Unmarshal(labels, &i.Labels); err != nil {
			return nil, err
		}
	}
	return &i, nil
}

// CatalogItem returns what has this name, or ErrNotFound.
func (s *Store) CatalogItem(ctx context.Context, kind, name string) (i *CatalogItem, err error) {
	err = s.read(ctx, kind+" "+name, func(q query) (err error) {
		i, err = q.catalogItem(kind, name)
		return err
	})
	return i, err
}

func (q query) catalogItem(kind, name string) (*CatalogItem, error) {
	i, err := scanCatalog(q.row("SELECT "+catalogColumns+" FROM catalog WHERE kind = $1 AND name = $2", kind, name))
	if errors.Is(err, sql.ErrNoRows) {
		return nil, fmt.Errorf("the catalog has no %s %s: %w", kind, name, errs.ErrNotFound)
	}
	return i, err
}

// Catalog returns what fits, by kind and name.
func (s *Store) Catalog(ctx context.Context, f CatalogFilter) ([]*CatalogItem, error) {
	var w where
	w.equal("kind", f.Kind)
	w.equal("app", f.App)
	w.equal("cluster", f.Cluster)
	w.equal("state", f.State)
	w.contains("name", f.Text)
	if f.After != "" {
		w.add("name > $%d", f.After)
	}
	var list []*CatalogItem
	err := s.read(ctx, "catalog", func(q query) (err error) {
		list, err = rows(q, scanCatalog, "SELECT "+catalogColumns+" FROM catalog WHERE 1 = 1"+w.text+" ORDER BY kind, name"+limit(f.Limit), w.args...)
		return err
	})
	return list, err
}

// Load is what the catalog has on a cluster.
type Load struct {
	Topics     int `json:"topics"`
	Partitions int `json:"partitions"`
}

// Loads counts the topics of the catalog, by cluster.
func (s *Store) Loads(ctx context.Context) (map[string]Load, error) {
	loads := map[string]Load{}
	err := s.read(ctx, "loads", func(q query) error {
		clear(loads)
		_, err := rows(q, func(row scanner) (none, error) {
			var cluster string
			var l Load
			err := row.Scan(&cluster, &l.Topics, &l.Partitions)
			loads[cluster] = l
			return none{}, err
		}, "SELECT cluster, COUNT(*), COALESCE(SUM(partitions), 0) FROM catalog WHERE kind = $1 GROUP BY cluster", CatalogTopic)
		return err
	})
	return loads, err
}

// CatalogCounts counts the catalog, by kind.
func (s *Store) CatalogCounts(ctx context.Context) (map[string]int, error) {
	counts := map[string]int{}
	err := s.read(ctx, "count catalog", func(q query) error {
		clear(counts)
		_, err := rows(q, func(row scanner) (none, error) {
			var kind string
			var n int
			err := row.Scan(&kind, &n)
			counts[kind] = n
			return none{}, err
		}, "SELECT kind, COUNT(*) FROM catalog GROUP BY kind")
		return err
	})
	return counts, err
}

// PutCatalog stores an item whole, if the stored version is still i.Version (0: if there is none); then i.Version is one more. It
// is audited as a change of the item; request is the id of the request that it belongs to, or "". ErrConflict: somebody else
// changed it, read it again. i is changed on success only.
func (s *Store) PutCatalog(ctx context.Context, i *CatalogItem, request string) error {
	next := *i
	err := s.write(ctx, "put "+i.Kind+" "+i.Name, func(q query) error {
		next = *i
		return q.putCatalog(&next, request)
	})
	if err == nil {
		*i = next
	}
	return err
}

func (q query) putCatalog(i *CatalogItem, request string) error {
	var c check
	oneOf(&c, "Kind", i.Kind, CatalogCluster, CatalogTopic, CatalogGroup)
	c.name("Name", i.Name)
	c.text("App", i.App)
	c.text("Cluster", i.Cluster)
	oneOf(&c, "State", i.State, Creating, Active, Deleting)
	c.document("Doc", i.Doc)
	if len(i.Doc) == 0 {
		c = append(c, "Doc is empty")
	}
	if err := c.err(i.Kind + " " + i.Name); err != nil {
		return err
	}
	var labels document
	if len(i.Labels) > 0 {
		data, err := json.Marshal(i.Labels)
		if err != nil {
			return err
		}
		labels = data
	}
	before, err := q.catalogItem(i.Kind, i.Name)
	action := "change"
	switch {
	case errors.Is(err, errs.ErrNotFound):
		before, action = nil, "create"
		if i.Version != 0 {
			return err
		}
	case err != nil:
		return err
	}
	i.UpdatedAt = stored(time.Time{})
	values := []any{i.Kind, i.Name, i.App, i.Cluster, i.Partitions, labels, document(i.Doc), i.State, moment(i.UpdatedAt)}
	var changed int64
	if i.Version == 0 {
		i.CreatedAt = i.UpdatedAt
		changed, err = q.exec(`INSERT INTO catalog (kind, name, app, cluster, partitions, labels, doc, state, updated_at, version, created_at)
			VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, 1, $9) ON CONFLICT (kind, name) DO NOTHING`, values...)
	} else {
		changed, err = q.exec(`UPDATE catalog SET app = $3, cluster = $4, partitions = $5, labels = $6, doc = $7, state = $8, updated_at = $9, version = version + 1
			WHERE kind = $1 AND name = $2 AND version = $10`, append(values, i.Version)...)
	}
	if err != nil {
		return err
	}
	if changed == 0 {
		return staleCatalog(i.Kind, i.Name, i.Version)
	}
	i.Version++
	if before == nil {
		return q.audited(action, i.Kind, i.Name, request, nil, i)
	}
	return q.audited(action, i.Kind, i.Name, request, before, i)
}

func staleCatalog(kind, name string, version int64) error {
	if version == 0 {
		return fmt.Errorf("the catalog has %s %s already: read it, decide again: %w", kind, name, errs.ErrConflict)
	}
	return fmt.Errorf("%s %s of the catalog is not at version %d any more: read it again, decide again: %w", kind, name, version, errs.ErrConflict)
}

// RemoveCatalog removes an item that has this version. ErrNotFound; ErrConflict: it has another one.
func (s *Store) RemoveCatalog(ctx context.Context, kind, name string, version int64, request string) error {
	return s.write(ctx, "remove "+kind+" "+name, func(q query) error { return q.removeCatalog(kind, name, version, request) })
}

func (q query) removeCatalog(kind, name string, version int64, request string) error {
	before, err := q.catalogItem(kind, name)
	if err != nil {
		return err
	}
	changed, err := q.exec("DELETE FROM catalog WHERE kind = $1 AND name = $2 AND version = $3", kind, name, version)
	if err != nil {
		return err
	}
	if changed == 0 {
		return staleCatalog(kind, name, version)
	}
	return q.audited("delete", kind, name, request, before, nil)
}

// Outbox is what a request has to publish in ZooKeeper: written in the transaction that changes the catalog, marked as done when
// ZooKeeper has it.
type Outbox struct {
	Seq     int64           `json:"seq"`     // given by the store; grows
	Request string          `json:"request"` // given by the store
	Kind    string          `json:"kind" enum:"cluster,topic,group"`
	Name    string          `json:"name"`
	Before  json.RawMessage `json:"before,omitempty"` // what is expected in ZooKeeper; none: nothing
	After   json.RawMessage `json:"after,omitempty"`  // what shall be there; none: nothing
	At      time.Time       `json:"at"`
	DoneAt  *time.Time      `json:"doneAt,omitempty"`
}

func (q query) putOutbox(n int64, o Outbox) error {
	var c check
	oneOf(&c, "Kind", o.Kind, CatalogCluster, CatalogTopic, CatalogGroup)
	c.name("Name", o.Name)
	c.document("Before", o.Before)
	c.document("After", o.After)
	if err := c.err("outbox of " + label(requestLetter, n)); err != nil {
		return err
	}
	_, err := q.exec(`INSERT INTO outbox (request, kind, name, before, after, created_at) VALUES ($1, $2, $3, $4, $5, $6)
		ON CONFLICT (request) DO UPDATE SET kind = excluded.kind, name = excluded.name, before = excluded.before, after = excluded.after,
			created_at = excluded.created_at, done_at = NULL`,
		n, o.Kind, o.Name, document(o.Before), document(o.After), moment(stored(time.Time{})))
	return err
}

const outboxColumns = "n, request, kind, name, before, after, created_at, done_at"

func scanOutbox(row scanner) (o Outbox, err error) {
	var n int64
	var before, after document
	var at, done moment
	err = row.Scan(&o.Seq, &n, &o.Kind, &o.Name, &before, &after, &at, &done)
	o.Request, o.Before, o.After = label(requestLetter, n), json.RawMessage(before), json.RawMessage(after)
	o.At, o.DoneAt = time.Time(at), done.pointer()
	return o, err
}

// OutboxOf returns what a request has to publish or has published, or ErrNotFound.
func (s *Store) OutboxOf(ctx context.Context, request string) (o Outbox, err error) {
	n, err := parseRequestID(request)
	if err != nil {
		return o, err
	}
	err = s.read(ctx, "outbox of "+request, func(q query) (err error) {
		o, err = scanOutbox(q.row("SELECT "+outboxColumns+" FROM outbox WHERE request = $1", n))
		if errors.Is(err, sql.ErrNoRows) {
			return fmt.Errorf("%s has nothing in the outbox: %w", request, errs.ErrNotFound)
		}
		return err
	})
	return o, err
}

// OpenOutbox returns what is not published yet, the oldest first, at most atMost (0: no limit).
func (s *Store) OpenOutbox(ctx context.Context, atMost int) ([]Outbox, error) {
	var list []Outbox
	err := s.read(ctx, "outbox", func(q query) (err error) {
		list, err = rows(q, scanOutbox, "SELECT "+outboxColumns+" FROM outbox WHERE done_at IS NULL ORDER BY n"+limit(atMost))
		return err
	})
	return list, err
}

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
			return fmt.Errorf("the policy of %s is at version %d and the change was made of version %d: read it again, decide again: %w", p.Kind, was.Version, p.Version, errs.ErrConflict)
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
			return fmt.Errorf("the allotment rule %s is at version %d and the change was made of version %d: read it again, decide again: %w", r.Name, was.Version, r.Version, errs.ErrConflict)
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
			return fmt.Errorf("the allotment rule %s is at version %d and not at %d: read it again, decide again: %w", name, was.Version, version, errs.ErrConflict)
		}
		return q.audited("delete", "allotment rule", name, "", was.Doc, nil)
	})
}
