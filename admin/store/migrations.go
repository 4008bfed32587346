package store

import (
	"cmp"
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/turnout-mq/turnout/internal/errs"
)

const migrationColumns = `n, topic, target, kind, ordered, state, version, plan, data, started_by, approved_by, approved_at,
	created_at, updated_at, ended_at, outcome, waiting, request, paused`

func scanMigration(row scanner) (*Migration, error) {
	var m Migration
	var n id
	var plan, data document
	var approved, created, updated, ended moment
	err := row.Scan(&n, &m.Topic, &m.Target, &m.Kind, &m.Ordered, &m.State, &m.Version, &plan, &data, &m.StartedBy, &m.ApprovedBy, &approved,
		&created, &updated, &ended, &m.Outcome, &m.Waiting, &m.Request, &m.Paused)
	if err != nil {
		return nil, err
	}
	m.ID, m.Plan, m.Data = n.String(), json.RawMessage(plan), json.RawMessage(data)
	m.ApprovedAt, m.EndedAt = approved.pointer(), ended.pointer()
	m.CreatedAt, m.UpdatedAt = time.Time(created), time.Time(updated)
	return &m, nil
}

// normalized is m as it will be read again, or ErrInvalid.
func (m *Migration) normalized() (Migration, error) {
	var c check
	c.name("Topic", m.Topic)
	c.name("Target", m.Target)
	c.name("State", m.State)
	c.name("StartedBy", m.StartedBy)
	c.text("ApprovedBy", m.ApprovedBy)
	oneOf(&c, "Kind", m.Kind, Move, Settle)
	oneOf(&c, "Request", m.Request, None, Rollback, Abort)
	if m.EndedAt == nil {
		oneOf(&c, "Outcome of a migration without EndedAt", m.Outcome, Running)
	} else {
		oneOf(&c, "Outcome of a migration with EndedAt", m.Outcome, Done, RolledBack, Aborted, Failed)
	}
	c.document("Plan", m.Plan)
	c.document("Data", m.Data)
	out := *m
	out.Waiting = readable(m.Waiting)
	out.ApprovedAt, out.EndedAt = storedOrNil(m.ApprovedAt), storedOrNil(m.EndedAt)
	out.UpdatedAt = stored(time.Time{})
	return out, c.err("migration of " + m.Topic)
}

// Ending is the end of a migration of which another takes over what is not finished.
type Ending struct {
	Migration *Migration
	Changes   Changes
}

// CreateMigration stores a new migration with its first changes. On success m has its ID, Version 1 and its times. If the
// topic has a migration that has not ended, ErrConflict names it; but for over, which ends at the same moment or not at all,
// as by Update. over is not changed.
func (s *Store) CreateMigration(ctx context.Context, m *Migration, ch Changes, over ...Ending) error {
	made, err := m.normalized()
	if err != nil {
		return err
	}
	made.Version, made.CreatedAt = 1, made.UpdatedAt
	ended, numbers := make([]Migration, len(over)), make([]id, len(over))
	for i, o := range over {
		if ended[i], err = o.Migration.normalized(); err != nil {
			return err
		}
		if numbers[i], err = parseID(o.Migration.ID); err != nil {
			return err
		}
	}
	err = s.write(ctx, "create migration", func(q query) error {
		for i, o := range over {
			if err := q.update(numbers[i], o.Migration.Version, &ended[i], o.Changes); err != nil {
				return err
			}
		}
		// Asked first, so that a refusal costs no number.
		if err := otherOpen(q, made.Topic); err != nil {
			return err
		}
		var n id
		err := q.row(`INSERT INTO migrations (topic, target, kind, ordered, state, version, plan, data, started_by, approved_by, approved_at,
				created_at, updated_at, ended_at, outcome, waiting, request, paused)
			VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18) RETURNING n`,
			made.Topic, made.Target, made.Kind, made.Ordered, made.State, made.Version, document(made.Plan), document(made.Data),
			made.StartedBy, made.ApprovedBy, fromPointer(made.ApprovedAt), moment(made.CreatedAt), moment(made.UpdatedAt),
			fromPointer(made.EndedAt), made.Outcome, made.Waiting, made.Request, made.Paused).Scan(&n)
		if err != nil {
			return err
		}
		made.ID = n.String()
		if err := q.noteKeyed("migration", made.ID); err != nil {
			return err
		}
		return q.changes(n, &made, ch)
	})
	if err != nil {
		return s.conflict(ctx, err, made.Topic)
	}
	*m = made
	return nil
}

// otherOpen is ErrConflict if the topic has a migration that has not ended.
func otherOpen(q query, topic string) error {
	var n id
	var state string
	err := q.row("SELECT n, state FROM migrations WHERE topic = $1 AND ended_at IS NULL", topic).Scan(&n, &state)
	switch {
	case errors.Is(err, sql.ErrNoRows):
		return nil
	case err != nil:
		return err
	}
	return fmt.Errorf("topic %s has the migration %s, which has not ended (state %s): let it end, or abort it: %w", topic, n, state, errs.ErrConflict)
}

// conflict says which other migration was in the way, if that is what err is about.
func (s *Store) conflict(ctx context.Context, err error, topic string) error {
	if !s.db.taken(err) {
		return err
	}
	other := s.read(ctx, "create migration", func(q query) error { return otherOpen(q, topic) })
	if errors.Is(other, errs.ErrConflict) {
		return other
	}
	return fmt.Errorf("store %s: topic %s had another migration a moment ago: try again: %w", s.db.name, topic, errs.ErrConflict)
}

// Migration returns the migration of this id, or ErrNotFound.
func (s *Store) Migration(ctx context.Context, migration string) (*Migration, error) {
	n, err := parseID(migration)
	if err != nil {
		return nil, err
	}
	var m *Migration
	err = s.read(ctx, "migration "+migration, func(q query) (err error) {
		m, err = q.migration(n)
		return err
	})
	return m, err
}

func (q query) migration(n id) (*Migration, error) {
	m, err := scanMigration(q.row("SELECT "+migrationColumns+" FROM migrations WHERE n = $1", n))
	if errors.Is(err, sql.ErrNoRows) {
		return nil, fmt.Errorf("there is no migration %s: %w", n, errs.ErrNotFound)
	}
	return m, err
}

// Migrations returns those that fit, the newest first.
func (s *Store) Migrations(ctx context.Context, f Filter) ([]*Migration, error) {
	statement, args := "SELECT "+migrationColumns+" FROM migrations WHERE 1 = 1", []any(nil)
	if f.Topic != "" {
		args = append(args, f.Topic)
		statement += fmt.Sprintf(" AND topic = $%d", len(args))
	}
	if f.Open {
		statement += " AND ended_at IS NULL"
	}
	statement += " ORDER BY n DESC" + limit(f.Limit)
	var list []*Migration
	err := s.read(ctx, "migrations", func(q query) (err error) {
		list, err = rows(q, scanMigration, statement, args...)
		return err
	})
	return list, err
}

func limit(n int) string {
	if n <= 0 {
		return ""
	}
	return fmt.Sprintf(" LIMIT %d", n)
}

// Update stores m and what changed with it, if the stored version is still m.Version; then m.Version is one more and
// m.UpdatedAt is now. ErrConflict: somebody else changed it, or a newer migration owns one of the fences; nothing was
// stored and m is as it was. Topic, Kind, Ordered, StartedBy and CreatedAt are not changed by it. A migration that has ended
// may still be written (late events, a longer receipt).
func (s *Store) Update(ctx context.Context, m *Migration, ch Changes) error {
	n, err := parseID(m.ID)
	if err != nil {
		return err
	}
	next, err := m.normalized()
	if err != nil {
		return err
	}
	err = s.write(ctx, "update "+m.ID, func(q query) error { return q.update(n, m.Version, &next, ch) })
	if err != nil {
		return s.conflict(ctx, err, m.Topic)
	}
	*m = next
	return nil
}

// update stores m over the version that it was made of, and counts it on.
func (q query) update(n id, from int64, m *Migration, ch Changes) error {
	changed, err := q.exec(`UPDATE migrations SET version = version + 1, target = $1, state = $2, plan = $3, data = $4, approved_by = $5,
			approved_at = $6, updated_at = $7, ended_at = $8, outcome = $9, waiting = $10, request = $11, paused = $12
		WHERE n = $13 AND version = $14`,
		m.Target, m.State, document(m.Plan), document(m.Data), m.ApprovedBy, fromPointer(m.ApprovedAt),
		moment(m.UpdatedAt), fromPointer(m.EndedAt), m.Outcome, m.Waiting, m.Request, m.Paused, n, from)
	if err != nil {
		return err
	}
	if changed == 0 {
		stored, err := q.migration(n)
		if err != nil {
			return err
		}
		return fmt.Errorf("%s is at version %d (state %s) and the change was made of version %d: read it again, decide again: %w", n, stored.Version, stored.State, from, errs.ErrConflict)
	}
	m.Version = from + 1
	return q.changes(n, m, ch)
}

// changes stores what goes with a migration whose row this transaction has written: nobody else writes its history now.
func (q query) changes(n id, m *Migration, ch Changes) error {
	if err := q.appendEvents(n, ch.Events); err != nil {
		return err
	}
	// In one order for everybody, so that two transactions do not wait for each other.
	fences := slices.SortedFunc(slices.Values(ch.Fences), Fence.compare)
	for _, f := range fences {
		f.Migration = cmp.Or(f.Migration, m.ID)
		f.Topic = cmp.Or(f.Topic, m.Topic)
		if f.Migration != m.ID {
			return fmt.Errorf("store: fence of %s on %s: Migration is %s in a change of %s: %w", f.Physical, f.Cluster, f.Migration, m.ID, errs.ErrInvalid)
		}
		if err := q.ownFence(f); err != nil {
			return err
		}
	}
	for _, doc := range ch.Notices {
		if err := q.putNotice(doc); err != nil {
			return err
		}
	}
	if ch.Receipt != nil {
		return q.putReceipt(n, *ch.Receipt)
	}
	return nil
}

func (q query) appendEvents(n id, events []Event) error {
	if len(events) == 0 {
		return nil
	}
	var last int64
	if err := q.row("SELECT COALESCE(MAX(seq), 0) FROM events WHERE migration = $1", n).Scan(&last); err != nil {
		return err
	}
	for i, e := range events {
		var c check
		c.name("Kind", e.Kind)
		c.document("Data", e.Data)
		if err := c.err(fmt.Sprintf("event of %s", n)); err != nil {
			return err
		}
		if _, err := q.exec("INSERT INTO events (migration, seq, at, kind, text, data) VALUES ($1, $2, $3, $4, $5, $6)",
			n, last+int64(i)+1, moment(stored(e.At)), e.Kind, readable(e.Text), document(e.Data)); err != nil {
			return err
		}
	}
	return nil
}

func (q query) putReceipt(n id, r Receipt) error {
	var c check
	c.document("Doc", r.Doc)
	if len(r.Doc) == 0 {
		c = append(c, "Doc is empty")
	}
	if err := c.err(fmt.Sprintf("receipt of %s", n)); err != nil {
		return err
	}
	_, err := q.exec(`INSERT INTO receipts (migration, at, doc) VALUES ($1, $2, $3)
		ON CONFLICT (migration) DO UPDATE SET at = excluded.at, doc = excluded.doc`, n, moment(stored(r.At)), document(r.Doc))
	return err
}

// Ask stores what an operator wants of a running migration; who is whom the history names. What was asked before is
// replaced; asking for the same again does nothing. ErrConflict if the migration has ended.
func (s *Store) Ask(ctx context.Context, migration string, r Request, who string) error {
	var c check
	oneOf(&c, "request", r, Rollback, Abort)
	if err := c.err("ask " + migration); err != nil {
		return err
	}
	return s.tell(ctx, migration, who, "request", r, Event{Kind: EventRequested, Text: who + " asked for " + string(r)}, notice{By: who, Request: r})
}

// Pause stores that a running migration is to stand still where it is. To do it twice does nothing. ErrConflict if the
// migration has ended.
func (s *Store) Pause(ctx context.Context, migration, who string) error {
	return s.tell(ctx, migration, who, "paused", true, Event{Kind: EventPaused, Text: who + " paused it"}, notice{By: who})
}

// Resume is the opposite of [Store.Pause].
func (s *Store) Resume(ctx context.Context, migration, who string) error {
	return s.tell(ctx, migration, who, "paused", false, Event{Kind: EventResumed, Text: who + " resumed it"}, notice{By: who})
}

// notice is the Data of the events that the store writes itself.
type notice struct {
	By      string  `json:"by"`
	Request Request `json:"request,omitempty"`
}

// tell sets one column beside a controller that may be writing, and says so in the history.
func (s *Store) tell(ctx context.Context, migration, who, column string, value any, e Event, data notice) error {
	n, err := parseID(migration)
	if err != nil {
		return err
	}
	what := e.Kind + " " + migration
	var c check
	c.name("who", who)
	if err := c.err(what); err != nil {
		return err
	}
	if e.Data, err = json.Marshal(data); err != nil {
		return err
	}
	return s.write(ctx, what, func(q query) error {
		changed, err := q.exec("UPDATE migrations SET version = version + 1, updated_at = $1, "+column+" = $2 WHERE n = $3 AND ended_at IS NULL AND "+column+" <> $2",
			moment(stored(time.Time{})), value, n)
		if err != nil {
			return err
		}
		if changed > 0 {
			return q.appendEvents(n, []Event{e})
		}
		m, err := q.migration(n)
		if err == nil && m.EndedAt != nil {
			err = fmt.Errorf("%s has ended (%s): %w", n, m.Outcome, errs.ErrConflict)
		}
		return err
	})
}

// Events returns the history of a migration after the event number after (0: from the beginning), oldest first, at most
// atMost of them (0: no limit). ErrNotFound if there is no such migration.
func (s *Store) Events(ctx context.Context, migration string, after int64, atMost int) ([]Event, error) {
	n, err := parseID(migration)
	if err != nil {
		return nil, err
	}
	var list []Event
	err = s.read(ctx, "events of "+migration, func(q query) error {
		list, err = rows(q, func(row scanner) (Event, error) {
			e := Event{Migration: migration}
			var at moment
			var data document
			err := row.Scan(&e.Seq, &at, &e.Kind, &e.Text, &data)
			e.At, e.Data = time.Time(at), json.RawMessage(data)
			return e, err
		}, "SELECT seq, at, kind, text, data FROM events WHERE migration = $1 AND seq > $2 ORDER BY seq"+limit(atMost), n, after)
		if err == nil && len(list) == 0 {
			_, err = q.migration(n)
		}
		return err
	})
	return list, err
}

// Receipt returns the receipt of a migration, or ErrNotFound if it has none yet.
func (s *Store) Receipt(ctx context.Context, migration string) (*Receipt, error) {
	n, err := parseID(migration)
	if err != nil {
		return nil, err
	}
	r := &Receipt{Migration: migration}
	err = s.read(ctx, "receipt of "+migration, func(q query) error {
		var at moment
		var doc document
		err := q.row("SELECT at, doc FROM receipts WHERE migration = $1", n).Scan(&at, &doc)
		if errors.Is(err, sql.ErrNoRows) {
			if _, err := q.migration(n); err != nil {
				return err
			}
			return fmt.Errorf("%s has no receipt yet: %w", n, errs.ErrNotFound)
		}
		r.At, r.Doc = time.Time(at), json.RawMessage(doc)
		return err
	})
	if err != nil {
		return nil, err
	}
	return r, nil
}
