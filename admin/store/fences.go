package store

import (
	"cmp"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/turnout-mq/turnout/internal/errs"
)

const fenceColumns = "cluster, physical, topic, migration, wanted, restore, since, until, seen_at, error, version"

func scanFence(row scanner) (Fence, error) {
	var f Fence
	var n id
	var since, until, seen moment
	err := row.Scan(&f.Cluster, &f.Physical, &f.Topic, &n, &f.Wanted, &f.Restore, &since, &until, &seen, &f.Error, &f.Version)
	f.Migration, f.Since, f.Until, f.SeenAt = n.String(), time.Time(since), until.pointer(), seen.pointer()
	return f, err
}

func (f Fence) compare(g Fence) int {
	return cmp.Or(cmp.Compare(f.Cluster, g.Cluster), cmp.Compare(f.Physical, g.Physical))
}

// normalized is f as it will be read again and the number of its migration, or ErrInvalid.
func (f Fence) normalized() (Fence, id, error) {
	var c check
	c.name("Cluster", f.Cluster)
	c.name("Physical", f.Physical)
	c.name("Topic", f.Topic)
	c.text("Restore", f.Restore)
	n, err := parseID(f.Migration)
	if err != nil {
		c = append(c, fmt.Sprintf("Migration is %q; write it like m-17", f.Migration))
	}
	f.Since, f.Until, f.SeenAt, f.Error = stored(f.Since), storedOrNil(f.Until), storedOrNil(f.SeenAt), readable(f.Error)
	return f, n, c.err(fmt.Sprintf("fence of %s on %s", f.Physical, f.Cluster))
}

const insertFence = "INSERT INTO fences (" + fenceColumns + ") VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, 1) ON CONFLICT (cluster, physical) "

// values are the parameters $1 to $10.
func (f Fence) values(n id) []any {
	return []any{f.Cluster, f.Physical, f.Topic, n, f.Wanted, f.Restore, moment(f.Since), fromPointer(f.Until), fromPointer(f.SeenAt), f.Error}
}

// ownFence stores f over what was there, unless that is of a newer migration.
func (q query) ownFence(f Fence) error {
	f, n, err := f.normalized()
	if err != nil {
		return err
	}
	changed, err := q.exec(insertFence+`DO UPDATE SET topic = excluded.topic, migration = excluded.migration, wanted = excluded.wanted,
			restore = excluded.restore, since = excluded.since, until = excluded.until, seen_at = excluded.seen_at, error = excluded.error,
			version = fences.version + 1
		WHERE fences.migration <= excluded.migration`, f.values(n)...)
	if err == nil && changed == 0 {
		err = fmt.Errorf("the fence of %s on %s belongs to a migration newer than %s: %w", f.Physical, f.Cluster, n, errs.ErrConflict)
	}
	return err
}

// PutFence stores a fence outside of an update of its migration: what was seen of it, for example. It is stored whole, if
// the stored version is still f.Version (0: if there is none); then f.Version is one more. ErrConflict: somebody else
// changed it, read it again; ErrNotFound: there is none, and f.Version is not 0. f is changed on success only.
func (s *Store) PutFence(ctx context.Context, f *Fence) error {
	next, n, err := f.normalized()
	if err != nil {
		return err
	}
	next.Version++
	err = s.write(ctx, "put fence", func(q query) error {
		var changed int64
		var err error
		if f.Version == 0 {
			changed, err = q.exec(insertFence+"DO NOTHING", next.values(n)...)
		} else {
			changed, err = q.exec(`UPDATE fences SET topic = $3, migration = $4, wanted = $5, restore = $6, since = $7, until = $8, seen_at = $9,
					error = $10, version = version + 1
				WHERE cluster = $1 AND physical = $2 AND version = $11`, append(next.values(n), f.Version)...)
		}
		if err != nil || changed > 0 {
			return err
		}
		stored, err := q.fence(f.Cluster, f.Physical)
		if err != nil {
			return err
		}
		return fmt.Errorf("the fence of %s on %s is at version %d and the change was made of version %d: read it again, decide again: %w",
			f.Physical, f.Cluster, stored.Version, f.Version, errs.ErrConflict)
	})
	if err == nil {
		*f = next
	}
	return err
}

func (q query) fence(cluster, physical string) (Fence, error) {
	f, err := scanFence(q.row("SELECT "+fenceColumns+" FROM fences WHERE cluster = $1 AND physical = $2", cluster, physical))
	if errors.Is(err, sql.ErrNoRows) {
		return Fence{}, fmt.Errorf("there is no fence of %s on %s: %w", physical, cluster, errs.ErrNotFound)
	}
	return f, err
}

// FenceOf returns the fence of a topic on a cluster, by its name there, or ErrNotFound: nothing was ever wanted of it.
func (s *Store) FenceOf(ctx context.Context, cluster, physical string) (*Fence, error) {
	var f Fence
	err := s.read(ctx, "fence", func(q query) (err error) {
		f, err = q.fence(cluster, physical)
		return err
	})
	if err != nil {
		return nil, err
	}
	return &f, nil
}

// Fences returns all fences, wanted or not, by cluster and physical topic.
func (s *Store) Fences(ctx context.Context) ([]Fence, error) {
	var list []Fence
	err := s.read(ctx, "fences", func(q query) (err error) {
		list, err = rows(q, scanFence, "SELECT "+fenceColumns+" FROM fences")
		return err
	})
	slices.SortFunc(list, Fence.compare) // not the database: the languages that they sort by differ
	return list, err
}
