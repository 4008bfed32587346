package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/turnout-mq/turnout/internal/errs"
)

// Token lets a program act for its owner. Its secret is not stored, only a hash of it.
type Token struct {
	ID        string     `json:"id" example:"t-3" doc:"Given by the store"`
	Name      string     `json:"name" doc:"What it is for"`
	Owner     string     `json:"owner" doc:"The user for whom it acts"`
	Scopes    []string   `json:"scopes" doc:"What it may do at most"`
	CreatedAt time.Time  `json:"createdAt"`
	ExpiresAt time.Time  `json:"expiresAt"`
	UsedAt    *time.Time `json:"usedAt,omitempty" doc:"When it was last used, within some minutes"`
}

// Session is somebody's who has logged in.
type Session struct {
	Hash    string // of its secret
	User    string
	Address string // where it began
	Created time.Time
	Seen    time.Time // when it was last used, within the time by which that is told
	Expires time.Time
}

const tokenColumns = "n, name, owner, scopes, created_at, expires_at, used_at"

func (t *Token) fields(created, expires, used *moment, n *int64, scopes *string) []any {
	return []any{n, &t.Name, &t.Owner, scopes, created, expires, used}
}

func (t *Token) filled(created, expires, used moment, n int64, scopes string) {
	t.ID, t.Scopes = label("t", n), strings.Fields(scopes)
	t.CreatedAt, t.ExpiresAt, t.UsedAt = time.Time(created), time.Time(expires), used.pointer()
}

func scanToken(row scanner) (t Token, err error) {
	var created, expires, used moment
	var n int64
	var scopes string
	err = row.Scan(t.fields(&created, &expires, &used, &n, &scopes)...)
	t.filled(created, expires, used, n, scopes)
	return t, err
}

// CreateToken stores a new token with the hash of its secret; t has its ID then. most bounds how many the owner has.
// ErrNotFound: there is no such user; ErrConflict: it is disabled, or has so many.
func (s *Store) CreateToken(ctx context.Context, t *Token, hash string, most int) error {
	var c check
	c.name("Name", t.Name)
	c.name("Owner", t.Owner)
	c.name("hash", hash)
	if len(t.Scopes) == 0 {
		c = append(c, "Scopes is empty")
	}
	for _, scope := range t.Scopes {
		c.name("Scopes", scope)
	}
	if err := c.err("token " + t.Name); err != nil {
		return err
	}
	made := *t
	made.CreatedAt, made.ExpiresAt, made.UsedAt = stored(t.CreatedAt), stored(t.ExpiresAt), nil
	err := s.write(ctx, "create token", func(q query) error {
		// Locks the owner: who is disabled beside this loses this token too.
		changed, err := q.exec("UPDATE users SET version = version WHERE name = $1 AND NOT disabled", t.Owner)
		if err != nil {
			return err
		}
		if changed == 0 {
			return q.notUsable(t.Owner)
		}
		var has int
		if err := q.row("SELECT COUNT(*) FROM tokens WHERE owner = $1", t.Owner).Scan(&has); err != nil {
			return err
		}
		if has >= most {
			return fmt.Errorf("user %s has %d tokens, which is the most: revoke some first: %w", t.Owner, has, errs.ErrConflict)
		}
		var n int64
		if err := q.row("INSERT INTO tokens (name, owner, scopes, hash, created_at, expires_at) VALUES ($1, $2, $3, $4, $5, $6) RETURNING n",
			made.Name, made.Owner, strings.Join(made.Scopes, " "), hash, moment(made.CreatedAt), moment(made.ExpiresAt)).Scan(&n); err != nil {
			return err
		}
		made.ID = label("t", n)
		return q.audited("create", "token", made.ID, "", nil, made)
	})
	if err == nil {
		*t = made
	}
	return err
}

// Token returns the token of this id, or ErrNotFound.
func (s *Store) Token(ctx context.Context, token string) (*Token, error) {
	n, err := parseLabel("token", "t", token)
	if err != nil {
		return nil, err
	}
	var t Token
	err = s.read(ctx, "token", func(q query) (err error) {
		t, err = scanToken(q.row("SELECT "+tokenColumns+" FROM tokens WHERE n = $1", n))
		return noToken(err, token)
	})
	if err != nil {
		return nil, err
	}
	return &t, nil
}

func noToken(err error, token string) error {
	if errors.Is(err, sql.ErrNoRows) {
		return fmt.Errorf("there is no token %s: %w", token, errs.ErrNotFound)
	}
	return err
}

// Tokens returns the tokens of a user, "" of all users, the oldest first: those after the given id ("": from the first),
// at most so many; 0: all.
func (s *Store) Tokens(ctx context.Context, owner, after string, most int) (list []Token, err error) {
	var n int64
	if after != "" {
		if n, err = parseLabel("token", "t", after); err != nil {
			return nil, err
		}
	}
	err = s.read(ctx, "tokens", func(q query) (err error) {
		list, err = rows(q, scanToken, "SELECT "+tokenColumns+" FROM tokens WHERE ($1 = '' OR owner = $1) AND n > $2 ORDER BY n"+limit(most), owner, n)
		return err
	})
	return list, err
}

// RevokeToken removes a token. ErrNotFound: there is none.
func (s *Store) RevokeToken(ctx context.Context, token string) error {
	n, err := parseLabel("token", "t", token)
	if err != nil {
		return err
	}
	return s.write(ctx, "revoke token", func(q query) error {
		t, err := scanToken(q.row("DELETE FROM tokens WHERE n = $1 RETURNING "+tokenColumns, n))
		if err != nil {
			return noToken(err, token)
		}
		return q.audited("revoke", "token", token, "", t, nil)
	})
}

func (q query) revokeAll(owner string) error {
	gone, err := rows(q, scanToken, "DELETE FROM tokens WHERE owner = $1 RETURNING "+tokenColumns, owner)
	if err != nil {
		return err
	}
	for _, t := range gone {
		if err := q.audited("revoke", "token", t.ID, "", t, nil); err != nil {
			return err
		}
	}
	return nil
}

// TokenByHash returns the token whose secret has this hash, expired or not, and its owner, or ErrNotFound.
func (s *Store) TokenByHash(ctx context.Context, hash string) (t *Token, owner *User, err error) {
	err = s.read(ctx, "token", func(q query) error {
		t, owner = new(Token), new(User)
		var created, expires, used moment
		var n int64
		var scopes string
		err := q.row(`SELECT `+tokenColumns+`, role, disabled, version
			FROM tokens JOIN (SELECT name AS user_name, role, disabled, version FROM users) AS u ON user_name = owner WHERE hash = $1`, hash).
			Scan(append(t.fields(&created, &expires, &used, &n, &scopes), &owner.Role, &owner.Disabled, &owner.Version)...)
		t.filled(created, expires, used, n, scopes)
		owner.Name = t.Owner
		return noToken(err, "with this secret")
	})
	if err != nil {
		return nil, nil, err
	}
	return t, owner, nil
}

// UseToken remembers when a token was used, unless it was as late before. It is no change that the audit has.
func (s *Store) UseToken(ctx context.Context, token string, at time.Time) error {
	n, err := parseLabel("token", "t", token)
	if err != nil {
		return err
	}
	return s.write(ctx, "use token", func(q query) error {
		_, err := q.exec("UPDATE tokens SET used_at = $1 WHERE n = $2 AND (used_at IS NULL OR used_at < $1)", moment(at), n)
		return err
	})
}

// Login is what BeginSession needs beside the session.
type Login struct {
	Password string // the hash that the password was compared with
	Rehashed string // replaces it; "": it stays
	Previous string // hash of a session that ends by this; "": none
	Most     int    // of the sessions that the user has then; the oldest end
}

// BeginSession stores a session, if its user is not disabled and has still that password; else ErrConflict.
func (s *Store) BeginSession(ctx context.Context, session Session, l Login) error {
	var c check
	c.name("Hash", session.Hash)
	c.name("User", session.User)
	c.name("Password", l.Password)
	if err := c.err("session of " + session.User); err != nil {
		return err
	}
	if l.Rehashed == "" {
		l.Rehashed = l.Password
	}
	return s.write(ctx, "begin session", func(q query) error {
		// Locks the user: a change of the password beside this ends this session too.
		changed, err := q.exec("UPDATE users SET password = $1 WHERE name = $2 AND password = $3 AND NOT disabled", l.Rehashed, session.User, l.Password)
		if err != nil {
			return err
		}
		if changed == 0 {
			return fmt.Errorf("the user %q was changed in this moment: log in again: %w", session.User, errs.ErrConflict)
		}
		if _, err := q.exec("DELETE FROM sessions WHERE hash = $1", l.Previous); err != nil {
			return err
		}
		if _, err := q.exec("INSERT INTO sessions (hash, user_name, address, created_at, seen_at, expires_at) VALUES ($1, $2, $3, $4, $5, $6)",
			session.Hash, session.User, readable(session.Address), moment(session.Created), moment(session.Seen), moment(session.Expires)); err != nil {
			return err
		}
		if _, err := q.exec(`DELETE FROM sessions WHERE user_name = $1 AND hash NOT IN
			(SELECT hash FROM sessions WHERE user_name = $1 ORDER BY created_at DESC`+limit(l.Most)+`)`, session.User); err != nil {
			return err
		}
		return q.audited("login", "user", session.User, "", nil, nil)
	})
}

// SessionByHash returns the session whose secret has this hash, expired or not, and its user, or ErrNotFound.
func (s *Store) SessionByHash(ctx context.Context, hash string) (*Session, *User, error) {
	var session Session
	var u User
	err := s.read(ctx, "session", func(q query) error {
		session, u = Session{Hash: hash}, User{}
		var created, seen, expires moment
		err := q.row(`SELECT s.user_name, s.address, s.created_at, s.seen_at, s.expires_at, u.role, u.disabled, u.version
			FROM sessions s JOIN users u ON u.name = s.user_name WHERE s.hash = $1`, hash).
			Scan(&session.User, &session.Address, &created, &seen, &expires, &u.Role, &u.Disabled, &u.Version)
		if errors.Is(err, sql.ErrNoRows) {
			return fmt.Errorf("there is no such session: %w", errs.ErrNotFound)
		}
		session.Created, session.Seen, session.Expires = time.Time(created), time.Time(seen), time.Time(expires)
		u.Name = session.User
		return err
	})
	if err != nil {
		return nil, nil, err
	}
	return &session, &u, nil
}

// SeeSession remembers when a session was used, unless it was as late before. It is no change that the audit has.
func (s *Store) SeeSession(ctx context.Context, hash string, at time.Time) error {
	return s.write(ctx, "see session", func(q query) error {
		_, err := q.exec("UPDATE sessions SET seen_at = $1 WHERE hash = $2 AND seen_at < $1", moment(at), hash)
		return err
	})
}

// EndSession removes a session; there may be none.
func (s *Store) EndSession(ctx context.Context, hash string) error {
	return s.write(ctx, "end session", func(q query) error {
		var user string
		err := q.row("DELETE FROM sessions WHERE hash = $1 RETURNING user_name", hash).Scan(&user)
		switch {
		case errors.Is(err, sql.ErrNoRows):
			return nil
		case err != nil:
			return err
		}
		return q.audited("logout", "user", user, "", nil, nil)
	})
}

// SweepCredentials removes what is not good any more at the moment now: sessions that have expired or were not seen since
// idle, one-time tokens, attempts that no longer count. Expired tokens stay, so that their owner sees why they are refused.
func (s *Store) SweepCredentials(ctx context.Context, now, idle time.Time) error {
	return s.write(ctx, "sweep", func(q query) error {
		if _, err := q.exec("DELETE FROM sessions WHERE expires_at <= $1 OR seen_at <= $2", moment(now), moment(idle)); err != nil {
			return err
		}
		if _, err := q.exec("DELETE FROM one_time_tokens WHERE expires_at <= $1", moment(now)); err != nil {
			return err
		}
		_, err := q.exec("DELETE FROM attempts WHERE free_at <= $1", now.UnixMicro())
		return err
	})
}

// Rate is how often something may be attempted: so many times at once, and once more after each Every.
type Rate struct {
	Burst int
	Every time.Duration
}

// Attempt counts an attempt of a subject at the moment now. refused: there were too many, and it was not counted. All servers
// on the store count together.
func (s *Store) Attempt(ctx context.Context, subject string, r Rate, now time.Time) (refused bool, err error) {
	every := r.Every.Microseconds()
	err = s.write(ctx, "attempt", func(q query) error {
		// free_at is when all attempts so far are forgotten; each moves it on by one Every.
		changed, err := q.exec(`INSERT INTO attempts (subject, free_at) VALUES ($1, $5)
			ON CONFLICT (subject) DO UPDATE SET free_at = $3 + CASE WHEN attempts.free_at > $2 THEN attempts.free_at ELSE $2 END
			WHERE attempts.free_at <= $4`, subject, now.UnixMicro(), every, now.UnixMicro()+every*int64(r.Burst-1), now.UnixMicro()+every)
		refused = changed == 0
		return err
	})
	return refused, err
}

// Unattempt takes an attempt back that was none.
func (s *Store) Unattempt(ctx context.Context, subject string, r Rate) error {
	return s.write(ctx, "attempt", func(q query) error {
		_, err := q.exec("UPDATE attempts SET free_at = free_at - $1 WHERE subject = $2", r.Every.Microseconds(), subject)
		return err
	})
}
