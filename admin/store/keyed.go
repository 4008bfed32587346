package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"github.com/turnout-mq/turnout/internal/errs"
)

// KeyedCall is a call that changes something and may arrive more than once, because who made it has sent a key with it. Exactly one
// carries it out: who has its turn.
type KeyedCall struct {
	Hash        string // of who calls and of the key
	Fingerprint string // of what is called; a key stands for one call
	Turn        int64  // raised when another server takes it over
	Server      string // whose turn it is; "": nobody's, it has ended without an answer
	Since       time.Time
	Expires     time.Time
	// Kind and Subject are what it has changed first, as the audit names it, written in the transaction of that change. "": nothing yet.
	Kind, Subject string
	Answer        KeyedAnswer
}

// KeyedAnswer is what a call was answered. Status 0: not yet.
type KeyedAnswer struct {
	Status            int
	ETag, ContentType string
	Body              string
}

type keyedCall struct{}

// WithKeyedCall says that what is called with the returned context belongs to a call whose turn the caller has. The first change that is
// audited with it is noted with the call, in one transaction; when somebody else has taken the turn that fails with ErrConflict.
func WithKeyedCall(ctx context.Context, c *KeyedCall) context.Context {
	return context.WithValue(ctx, keyedCall{}, c)
}

// noteKeyed notes with the call of the context, if there is one, that this transaction changes something.
func (q query) noteKeyed(kind, subject string) error {
	c, is := q.ctx.Value(keyedCall{}).(*KeyedCall)
	if !is {
		return nil
	}
	changed, err := q.exec(`UPDATE keyed_calls SET kind = CASE WHEN subject = '' THEN $3 ELSE kind END, subject = CASE WHEN subject = '' THEN $4 ELSE subject END
		WHERE hash = $1 AND turn = $2`, c.Hash, c.Turn, kind, subject)
	if err == nil && changed == 0 {
		err = fmt.Errorf("another server has taken over the request with this key: %w", errs.ErrConflict)
	}
	return err
}

const keyedColumns = "hash, fingerprint, turn, server, since, expires_at, kind, subject, status, etag, content_type, body"

func scanKeyed(row scanner) (*KeyedCall, error) {
	var c KeyedCall
	var since, expires moment
	err := row.Scan(&c.Hash, &c.Fingerprint, &c.Turn, &c.Server, &since, &expires, &c.Kind, &c.Subject, &c.Answer.Status, &c.Answer.ETag, &c.Answer.ContentType, &c.Answer.Body)
	c.Since, c.Expires = time.Time(since), time.Time(expires)
	return &c, err
}

// BeginKeyed stores a call that is new and returns it, with the turn: mine. Of one that is there it returns what is stored. What has
// expired is as if it were not there. Hash, Fingerprint, Server, Since and Expires must be given.
func (s *Store) BeginKeyed(ctx context.Context, c KeyedCall) (is *KeyedCall, mine bool, err error) {
	var wrong check
	wrong.name("Hash", c.Hash)
	wrong.name("Fingerprint", c.Fingerprint)
	wrong.name("Server", c.Server)
	if err := wrong.err("call with a key"); err != nil {
		return nil, false, err
	}
	err = s.write(ctx, "begin call with a key", func(q query) error {
		if _, err := q.exec("DELETE FROM keyed_calls WHERE hash = $1 AND expires_at <= $2", c.Hash, moment(c.Since)); err != nil {
			return err
		}
		added, err := q.exec(`INSERT INTO keyed_calls (`+keyedColumns+`) VALUES ($1, $2, 1, $3, $4, $5, '', '', 0, '', '', '') ON CONFLICT DO NOTHING`,
			c.Hash, c.Fingerprint, c.Server, moment(c.Since), moment(c.Expires))
		if err != nil {
			return err
		}
		mine = added > 0
		is, err = scanKeyed(q.row("SELECT "+keyedColumns+" FROM keyed_calls WHERE hash = $1", c.Hash))
		if errors.Is(err, sql.ErrNoRows) { // removed beside this
			return fmt.Errorf("the request with this key has ended in this moment: %w", errs.ErrConflict)
		}
		return err
	})
	return is, mine, err
}

// TakeKeyed takes the turn of a call that has changed nothing, as it was read; c is then as it is stored. False: somebody else did, or
// it has changed something by now.
func (s *Store) TakeKeyed(ctx context.Context, c *KeyedCall, server string, now time.Time) (mine bool, err error) {
	err = s.write(ctx, "take over call with a key", func(q query) error {
		changed, err := q.exec(`UPDATE keyed_calls SET turn = turn + 1, server = $3, since = $4
			WHERE hash = $1 AND turn = $2 AND subject = '' AND status = 0`, c.Hash, c.Turn, server, moment(now))
		mine = changed > 0
		return err
	})
	if mine {
		c.Turn, c.Server, c.Since = c.Turn+1, server, stored(now)
	}
	return mine, err
}

// EndKeyed stores the answer of a call whose turn it is, for all who repeat it.
func (s *Store) EndKeyed(ctx context.Context, c *KeyedCall, a KeyedAnswer) error {
	return s.write(ctx, "end call with a key", func(q query) error {
		_, err := q.exec("UPDATE keyed_calls SET status = $3, etag = $4, content_type = $5, body = $6 WHERE hash = $1 AND turn = $2",
			c.Hash, c.Turn, a.Status, a.ETag, a.ContentType, a.Body)
		return err
	})
}

// DropKeyed ends a call whose turn it is without an answer. One that has changed nothing, or whose changes do not matter, is forgotten,
// so that it can be made again; else it is only nobody's turn any more.
func (s *Store) DropKeyed(ctx context.Context, c *KeyedCall, changesMatter bool) error {
	return s.write(ctx, "drop call with a key", func(q query) error {
		statement := "DELETE FROM keyed_calls WHERE hash = $1 AND turn = $2"
		if changesMatter {
			statement += " AND subject = ''"
		}
		gone, err := q.exec(statement, c.Hash, c.Turn)
		if err == nil && gone == 0 {
			_, err = q.exec("UPDATE keyed_calls SET server = '' WHERE hash = $1 AND turn = $2", c.Hash, c.Turn)
		}
		return err
	})
}

// SweepKeyed removes the calls that have expired.
func (s *Store) SweepKeyed(ctx context.Context, now time.Time) error {
	return s.write(ctx, "sweep calls with keys", func(q query) error {
		_, err := q.exec("DELETE FROM keyed_calls WHERE expires_at <= $1", moment(now))
		return err
	})
}
