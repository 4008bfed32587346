package store

import (
	"context"
	"database/sql"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"sync"
	"time"

	"github.com/cenkalti/backoff/v5"
	"github.com/pressly/goose/v3"
	"go.uber.org/zap"

	"github.com/turnout-mq/turnout/internal/errs"
)

// patience bounds how long a locked database is waited for.
const patience = 30 * time.Second

//go:embed schema
var schemas embed.FS

// ErrChanged: what is to be changed is not at the version that was read any more. It is ErrConflict too.
var ErrChanged = fmt.Errorf("%w", errs.ErrConflict)

// Store is an open store.
type Store struct {
	db  *database
	log *zap.Logger

	closing  context.Context // done when Close is called
	shut     context.CancelFunc
	once     sync.Once
	closeErr error
}

// Open opens the store that url names, brings its schema up to date, and returns when it can be used. Several servers may
// do that at once. The forms of url:
//
//	sqlite:PATH, or a path     a file of SQLite, made if there is none; its folder must exist. Processes of one machine may
//	                           share it; it must be on a local disk. SQLite keeps PATH-wal and PATH-shm beside it while it
//	                           is open; PATH.lock is there for good and holds nothing.
//	postgres://USER@HOST/NAME  a database of PostgreSQL 12 or newer, with all parameters that libpq knows; the tables are
//	                           made in the first schema of its search path. The password is better kept out of the URL:
//	                           PGPASSFILE or PGPASSWORD in the environment. Transactions and advisory locks need a
//	                           connection for themselves: no pooler that hands it to others between statements.
//
// Anything else, and a store that a newer Turnout has written, is ErrInvalid. No error and no log line contains the
// password. log may be nil.
func Open(ctx context.Context, url string, log *zap.Logger) (*Store, error) {
	if log == nil {
		log = zap.NewNop()
	}
	db, err := openDatabase(url)
	if err != nil {
		return nil, err
	}
	s := &Store{db: db, log: log.With(zap.String("store", db.name))}
	s.closing, s.shut = context.WithCancel(context.Background())
	if err := s.retry(ctx, "open", s.migrate); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

// migrate brings the schema up to date, under a lock: goose looks first and acts then.
func (s *Store) migrate(ctx context.Context) (err error) {
	files, err := fs.Sub(schemas, s.db.schema)
	if err != nil {
		return err
	}
	provider, err := goose.NewProvider(s.db.dialect, s.db.writer, files, goose.WithTableName("schema_version"), goose.WithDisableGlobalRegistry(true))
	if err != nil {
		return err
	}
	unlock, err := s.db.lock(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	current, newest, err := provider.GetVersions(ctx)
	if err != nil {
		return err
	}
	if current > newest {
		return fmt.Errorf("its schema has version %d and this Turnout knows none after %d: use the Turnout that wrote it, or a newer one: %w", current, newest, errs.ErrInvalid)
	}
	if _, err := provider.Up(ctx); err != nil {
		return err
	}
	s.log.Info("the store is open", zap.Int64("schema", newest), zap.Int64("schemaBefore", current))
	return nil
}

// String names the store for people, without user and password.
func (s *Store) String() string { return s.db.name }

// Close ends the connections; calls that are under way fail with ErrClosed. It may be called more than once; every call
// returns the first one's result after that has ended.
func (s *Store) Close() error {
	s.once.Do(func() {
		s.shut()
		if err := s.db.close(); err != nil {
			s.closeErr = fmt.Errorf("store %s: close: %w", s.db.name, err)
		}
	})
	return s.closeErr
}

// retry does f until it does not fail because of a lock or of a transaction beside it. The context of f also ends with the
// store.
func (s *Store) retry(ctx context.Context, what string, f func(ctx context.Context) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(s.closing, cancel)()

	pauses := backoff.NewExponentialBackOff()
	pauses.InitialInterval, pauses.MaxInterval = 5*time.Millisecond, 500*time.Millisecond
	_, err := backoff.Retry(ctx, func() (none, error) {
		err := f(ctx)
		if err != nil && !s.db.again(err) {
			err = backoff.Permanent(err)
		}
		return none{}, err
	}, backoff.WithBackOff(pauses), backoff.WithMaxElapsedTime(patience), backoff.WithNotify(func(err error, pause time.Duration) {
		s.log.Debug("again", zap.String("call", what), zap.Error(err), zap.Duration("pause", pause))
	}))
	if err == nil {
		return nil
	}
	if s.closing.Err() != nil {
		return fmt.Errorf("store %s: %s: %w", s.db.name, what, errs.ErrClosed)
	}
	// What a driver says of a call that was given up is its own affair.
	if ended := ctx.Err(); ended != nil && !errors.Is(err, ended) {
		err = fmt.Errorf("%w (%w)", ended, err)
	}
	return fmt.Errorf("store %s: %s: %w", s.db.name, what, err)
}

type none struct{}

// write does f in a transaction, all or nothing. f may be called again, so it changes nothing but the database.
func (s *Store) write(ctx context.Context, what string, f func(q query) error) error {
	return s.retry(ctx, what, func(ctx context.Context) error {
		tx, err := s.db.writer.BeginTx(ctx, nil)
		if err != nil {
			return err
		}
		defer tx.Rollback() //nolint:errcheck // after Commit there is nothing to roll back
		if err := f(query{ctx, tx, s.db}); err != nil {
			return err
		}
		return tx.Commit()
	})
}

// read does f, which asks one question.
func (s *Store) read(ctx context.Context, what string, f func(q query) error) error {
	return s.retry(ctx, what, func(ctx context.Context) error { return f(query{ctx, s.db.reader, s.db}) })
}

// query asks a database, or a transaction of it.
type query struct {
	ctx context.Context
	sql interface {
		ExecContext(ctx context.Context, query string, args ...any) (sql.Result, error)
		QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error)
		QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row
	}
	db *database
}

// exec returns how many rows were changed.
func (q query) exec(statement string, args ...any) (int64, error) {
	result, err := q.sql.ExecContext(q.ctx, q.db.rebind(statement), args...)
	if err != nil {
		return 0, err
	}
	return result.RowsAffected()
}

func (q query) row(statement string, args ...any) *sql.Row {
	return q.sql.QueryRowContext(q.ctx, q.db.rebind(statement), args...)
}

// rows lets scan read every row of the answer into a new T.
func rows[T any](q query, scan func(row scanner) (T, error), statement string, args ...any) ([]T, error) {
	r, err := q.sql.QueryContext(q.ctx, q.db.rebind(statement), args...)
	if err != nil {
		return nil, err
	}
	defer r.Close() //nolint:errcheck // what went wrong says r.Err
	var list []T
	for r.Next() {
		item, err := scan(r)
		if err != nil {
			return nil, err
		}
		list = append(list, item)
	}
	return list, r.Err()
}

// scanner is one row.
type scanner interface{ Scan(dest ...any) error }
