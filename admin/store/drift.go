package store

import (
	"bytes"
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/turnout-mq/turnout/internal/errs"
)

// Drift is a difference between the catalog and what there is. Its words for What and Choices are those of package reconcile.
type Drift struct {
	ID      string          `json:"id" example:"d-4"` // given by the store
	Kind    string          `json:"kind" enum:"cluster,topic,group"`
	Name    string          `json:"name"`
	Cluster string          `json:"cluster,omitempty" doc:"where it is; absent: in ZooKeeper"`
	What    string          `json:"what" enum:"edited,missing,unknown,absent,settings"`
	Since   time.Time       `json:"since" doc:"when it was first seen as it is now"` // given by the store
	Detail  string          `json:"detail" doc:"what differs, for people"`
	Wanted  json.RawMessage `json:"wanted,omitempty" doc:"what the catalog has, without secrets"`
	Found   json.RawMessage `json:"found,omitempty" doc:"what is there, without secrets"`
	Choices []string        `json:"choices" enum:"publish,adopt,ignore"`
	Ignored *DriftIgnored   `json:"ignored,omitempty" doc:"somebody has looked at it; until it changes again"`
	Version int64           `json:"version" doc:"raised by every change; send it as If-Match"` // given by the store
}

// DriftIgnored says who leaves a difference as it is, and why.
type DriftIgnored struct {
	By     string    `json:"by"`
	At     time.Time `json:"at"`
	Reason string    `json:"reason"`
}

// DriftFilter says which differences are asked for. What is empty matches all.
type DriftFilter struct {
	Kind, Name, What string
	Open             bool   // only those that nobody ignores
	After            string // only those that were seen after the one with this id
	Limit            int    // at most so many; 0: no limit
}

const driftLetter = "d"

func parseDriftID(s string) (int64, error) { return parseLabel("difference", driftLetter, s) }

const driftColumns = "n, kind, name, cluster, what, since, detail, wanted, found, choices, ignored_by, ignored_at, reason, version"

func scanDrift(row scanner) (*Drift, error) {
	var d Drift
	var n int64
	var wanted, found document
	var since, at moment
	var choices string
	var ignored DriftIgnored
	if err := row.Scan(&n, &d.Kind, &d.Name, &d.Cluster, &d.What, &since, &d.Detail, &wanted, &found, &choices, &ignored.By, &at, &ignored.Reason, &d.Version); err != nil {
		return nil, err
	}
	d.ID, d.Since, d.Wanted, d.Found, d.Choices = label(driftLetter, n), time.Time(since), json.RawMessage(wanted), json.RawMessage(found), strings.Fields(choices)
	if ignored.By != "" {
		ignored.At = time.Time(at)
		d.Ignored = &ignored
	}
	return &d, nil
}

// Same says that two looks have found the same; nil is no difference.
func (d *Drift) Same(other *Drift) bool {
	if d == nil || other == nil {
		return d == other
	}
	return d.Cluster == other.Cluster && d.What == other.What && d.Detail == other.Detail && bytes.Equal(d.Wanted, other.Wanted) && bytes.Equal(d.Found, other.Found) && slices.Equal(d.Choices, other.Choices)
}

// PutDrift replaces what is known of one thing by what a look has found: in ZooKeeper, or with onCluster on its clusters; nil: no
// difference. A difference that is the same as before stays as it is, with its id and with who ignores it; one that has
// changed keeps its id only. changed says that anything was stored. ErrConflict: somebody else looks at it in this moment.
func (s *Store) PutDrift(ctx context.Context, kind, name string, onCluster bool, d *Drift) (changed bool, err error) {
	var c check
	oneOf(&c, "Kind", kind, CatalogCluster, CatalogTopic, CatalogGroup)
	c.name("Name", name)
	if d != nil {
		c.name("What", d.What)
		c.text("Cluster", d.Cluster)
		c.document("Wanted", d.Wanted)
		c.document("Found", d.Found)
		if d.Kind != kind || d.Name != name || (d.Cluster != "") != onCluster {
			c = append(c, fmt.Sprintf("it is of %s %s on cluster %q, which is not what was looked at", d.Kind, d.Name, d.Cluster))
		}
	}
	if err := c.err("difference of " + kind + " " + name); err != nil {
		return false, err
	}
	err = s.write(ctx, "put difference of "+kind+" "+name, func(q query) error {
		changed, err = q.putDrift(kind, name, onCluster, d)
		return err
	})
	return changed && err == nil, err
}

func (q query) putDrift(kind, name string, onCluster bool, d *Drift) (changed bool, err error) {
	where := "cluster = ''"
	if onCluster {
		where = "cluster <> ''"
	}
	known, err := rows(q, scanDrift, "SELECT "+driftColumns+" FROM drift WHERE kind = $1 AND name = $2 AND "+where, kind, name)
	if err != nil {
		return false, err
	}
	now := moment(stored(time.Time{}))
	for _, old := range known {
		n, err := parseDriftID(old.ID)
		if err != nil {
			return false, err
		}
		if d == nil || d.Cluster != old.Cluster {
			_, err = q.exec("DELETE FROM drift WHERE n = $1", n)
		} else {
			next := *d
			d = nil
			next.Detail = readable(next.Detail)
			if next.Same(old) {
				continue
			}
			_, err = q.exec(`UPDATE drift SET what = $2, since = $3, detail = $4, wanted = $5, found = $6, choices = $7, ignored_by = '', ignored_at = NULL, reason = '',
				version = version + 1 WHERE n = $1`, n, next.What, now, next.Detail, document(next.Wanted), document(next.Found), strings.Join(next.Choices, " "))
		}
		if err != nil {
			return false, err
		}
		changed = true
	}
	if d == nil {
		return changed, nil
	}
	_, err = q.exec(`INSERT INTO drift (kind, name, cluster, what, since, detail, wanted, found, choices, ignored_by, reason, version)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, '', '', 1)`,
		kind, name, d.Cluster, d.What, now, readable(d.Detail), document(d.Wanted), document(d.Found), strings.Join(d.Choices, " "))
	if err != nil && q.db.taken(err) {
		return false, fmt.Errorf("somebody else looks at %s %s in this moment: %w", kind, name, errs.ErrConflict)
	}
	return true, err
}

// Drift returns a difference, or ErrNotFound: it is gone, or never was.
func (s *Store) Drift(ctx context.Context, id string) (d *Drift, err error) {
	n, err := parseDriftID(id)
	if err != nil {
		return nil, err
	}
	err = s.read(ctx, "difference "+id, func(q query) (err error) {
		d, err = q.drift(n)
		return err
	})
	return d, err
}

func (q query) drift(n int64) (*Drift, error) {
	d, err := scanDrift(q.row("SELECT "+driftColumns+" FROM drift WHERE n = $1", n))
	if errors.Is(err, sql.ErrNoRows) {
		return nil, fmt.Errorf("there is no difference %s any more: %w", label(driftLetter, n), errs.ErrNotFound)
	}
	return d, err
}

// Drifts returns the differences that fit, the oldest first.
func (s *Store) Drifts(ctx context.Context, f DriftFilter) ([]*Drift, error) {
	var w where
	w.equal("kind", f.Kind)
	w.equal("name", f.Name)
	w.equal("what", f.What)
	if f.Open {
		w.add("ignored_by = $%d", "")
	}
	if f.After != "" {
		n, err := parseDriftID(f.After)
		if err != nil {
			return nil, err
		}
		w.add("n > $%d", n)
	}
	var list []*Drift
	err := s.read(ctx, "differences", func(q query) (err error) {
		list, err = rows(q, scanDrift, "SELECT "+driftColumns+" FROM drift WHERE 1 = 1"+w.text+" ORDER BY n"+limit(f.Limit), w.args...)
		return err
	})
	return list, err
}

// IgnoreDrift notes that the actor of ctx leaves a difference as it is, for a reason, until it changes. ErrNotFound; ErrConflict: it
// has another version, look again.
func (s *Store) IgnoreDrift(ctx context.Context, id string, version int64, reason string) (d *Drift, err error) {
	n, err := parseDriftID(id)
	if err != nil {
		return nil, err
	}
	var c check
	c.name("Reason", reason)
	if err := c.err("difference " + id); err != nil {
		return nil, err
	}
	err = s.write(ctx, "ignore difference "+id, func(q query) error {
		before, err := q.drift(n)
		if err != nil {
			return err
		}
		changed, err := q.exec("UPDATE drift SET ignored_by = $3, ignored_at = $4, reason = $5, version = version + 1 WHERE n = $1 AND version = $2",
			n, version, ActorOf(q.ctx).Name, moment(stored(time.Time{})), reason)
		if err != nil {
			return err
		}
		if changed == 0 {
			return StaleDrift(id, version)
		}
		if d, err = q.drift(n); err != nil {
			return err
		}
		return q.audited("ignore", "drift", id, "", before, d)
	})
	return d, err
}

// StaleDrift is ErrConflict: the difference is not what was looked at.
func StaleDrift(id string, version int64) error {
	return fmt.Errorf("%s is not at version %d any more, what differs has changed: look at it again, decide again: %w", id, version, ErrChanged)
}
