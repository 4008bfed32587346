package store

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"time"
)

// Notice is something that waits to be told to the webhook. RequestChanges.Tell makes it, or Changes.Notices has it, in the
// transaction of the change that it tells of.
type Notice struct {
	N         int64
	Doc       json.RawMessage
	CreatedAt time.Time
}

func (q query) putNotice(doc json.RawMessage) error {
	_, err := q.exec("INSERT INTO notices (doc, created_at, held_by) VALUES ($1, $2, $3)", document(doc), moment(stored(time.Time{})), "")
	return err
}

// HoldNotice returns the oldest notice and keeps it for holder until a time, so that one server at a time tells it. nil: there is
// none, or somebody else holds it. Who holds it may hold it again. Notices of one request come in their order.
func (s *Store) HoldNotice(ctx context.Context, holder string, now, until time.Time) (n *Notice, err error) {
	err = s.write(ctx, "hold notice", func(q query) error {
		n = nil
		var found Notice
		var doc document
		var created moment
		err := q.row(`UPDATE notices SET held_by = $1, held_until = $2
			WHERE n = (SELECT MIN(n) FROM notices) AND (held_until IS NULL OR held_until < $3 OR held_by = $1)
			RETURNING n, doc, created_at`, holder, moment(stored(until)), moment(stored(now))).Scan(&found.N, &doc, &created)
		if errors.Is(err, sql.ErrNoRows) {
			return nil
		}
		found.Doc, found.CreatedAt = json.RawMessage(doc), time.Time(created)
		n = &found
		return err
	})
	if err != nil {
		return nil, err
	}
	return n, nil
}

// LeaveNotice gives back a notice that holder has not told, to be held by any server at once.
func (s *Store) LeaveNotice(ctx context.Context, holder string, n int64) error {
	return s.write(ctx, "leave notice", func(q query) error {
		_, err := q.exec("UPDATE notices SET held_by = $1, held_until = NULL WHERE n = $2 AND held_by = $3", "", n, holder)
		return err
	})
}

// DropNotice removes a notice that was told, or is given up.
func (s *Store) DropNotice(ctx context.Context, n int64) error {
	return s.write(ctx, "drop notice", func(q query) error {
		_, err := q.exec("DELETE FROM notices WHERE n = $1", n)
		return err
	})
}
