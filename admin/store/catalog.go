package store

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
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
