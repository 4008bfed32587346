package store

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/pressly/goose/v3"
	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"

	"github.com/turnout-mq/turnout/internal/errs"
)

// database is what SQLite and PostgreSQL differ in.
type database struct {
	name    string // for people: without user and password
	dialect goose.Dialect
	schema  string // folder of the schema's files
	// rebind turns $1 into what the driver calls the first parameter.
	rebind func(query string) string
	// again says that the transaction did not happen and may well succeed the next time.
	again func(error) bool
	// taken says that a row with such a unique value is there already.
	taken func(error) bool
	// lock keeps all others from changing the schema until unlock.
	lock func(ctx context.Context) (unlock func(), err error)

	reader, writer *sql.DB
}

func (d *database) close() error {
	err := d.writer.Close()
	if d.reader != d.writer {
		err = errors.Join(err, d.reader.Close())
	}
	return err
}

const forms = "write sqlite:PATH, a file path, or postgres://USER@HOST:PORT/DATABASE"

var (
	schemeRule   = regexp.MustCompile(`^([a-zA-Z][a-zA-Z0-9+.-]+):`) // two letters or more: C:\turnout.db is a path
	keywordsRule = regexp.MustCompile(`(^|\s)(host|hostaddr|port|user|password|dbname|sslmode)\s*=`)
)

// openDatabase understands the URL. No error of it contains the URL: that may hold a password.
func openDatabase(address string) (*database, error) {
	if strings.ContainsRune(address, 0) {
		return nil, fmt.Errorf("store: the URL contains a NUL byte; %s: %w", forms, errs.ErrInvalid)
	}
	if keywordsRule.MatchString(address) {
		return nil, fmt.Errorf("store: the URL is a list of keywords and values; %s: %w", forms, errs.ErrInvalid)
	}
	m := schemeRule.FindStringSubmatch(address)
	if m == nil {
		return openSQLite(address)
	}
	switch scheme := strings.ToLower(m[1]); scheme {
	case "sqlite":
		return openSQLite(address[len(m[0]):])
	case "postgres", "postgresql":
		return openPostgres(address)
	default:
		return nil, fmt.Errorf("store: the URL begins with %q, which is no kind of store; %s: %w", scheme+":", forms, errs.ErrInvalid)
	}
}

// busyTimeout is how long SQLite itself waits for a lock, in milliseconds. It does not see a context end while it waits, so
// the longer waiting is done by Store.retry.
const busyTimeout = "busy_timeout(100)"

// openSQLite opens a file. Readers do not wait for the writer, and there is one writer: SQLite lets only one write anyhow,
// and waiting in line here is fairer than polling for the lock.
func openSQLite(path string) (*database, error) {
	switch {
	case path == "":
		return nil, fmt.Errorf("store: the URL names no file; %s: %w", forms, errs.ErrInvalid)
	case strings.HasPrefix(path, "//") && !strings.HasPrefix(path, "///"):
		return nil, fmt.Errorf("store: %q is not a path; write sqlite:PATH without //: %w", path, errs.ErrInvalid)
	case strings.Contains(path, ":memory:"):
		return nil, fmt.Errorf("store: %q would be lost with this process; name a file: %w", path, errs.ErrInvalid)
	}
	path, err := filepath.Abs(path)
	if err != nil {
		return nil, fmt.Errorf("store: %w", err)
	}
	// SQLite would say "unable to open database file" and no more. Its other files get the permissions of this one.
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("store: %w; the folder must exist and be writable: %w", err, errs.ErrInvalid)
	}
	if err := f.Close(); err != nil {
		return nil, fmt.Errorf("store: %w", err)
	}

	d := &database{
		name:    "sqlite:" + path,
		dialect: goose.DialectSQLite3,
		schema:  "schema/sqlite",
		rebind:  func(query string) string { return strings.ReplaceAll(query, "$", "?") },
		again: func(err error) bool {
			code := sqliteCode(err) & 0xff
			return code == sqlite3.SQLITE_BUSY || code == sqlite3.SQLITE_LOCKED
		},
		taken: func(err error) bool {
			code := sqliteCode(err)
			return code == sqlite3.SQLITE_CONSTRAINT_UNIQUE || code == sqlite3.SQLITE_CONSTRAINT_PRIMARYKEY
		},
		lock: func(ctx context.Context) (func(), error) { return lockSQLite(ctx, path) },
	}
	pragmas := []string{busyTimeout, "journal_mode(WAL)", "synchronous(FULL)", "foreign_keys(1)"}
	if d.writer, err = sqliteFile(path, pragmas...); err != nil {
		return nil, err
	}
	d.writer.SetMaxOpenConns(1)
	if d.reader, err = sqliteFile(path, append(pragmas, "query_only(1)")...); err != nil {
		return nil, errors.Join(err, d.writer.Close())
	}
	d.reader.SetMaxOpenConns(4)
	return d, nil
}

// sqliteFile opens a file whose transactions take the lock at their beginning: one that asks for it later, after it has
// read, is refused without waiting.
func sqliteFile(path string, pragmas ...string) (*sql.DB, error) {
	u := url.URL{Scheme: "file", Path: filepath.ToSlash(path), RawQuery: url.Values{"_pragma": pragmas, "_txlock": {"immediate"}}.Encode()}
	connector, err := sqlite.NewConnector(u.String())
	if err != nil {
		return nil, fmt.Errorf("store: sqlite:%s: %w", path, err)
	}
	return sql.OpenDB(connector), nil
}

func sqliteCode(err error) int {
	var e *sqlite.Error
	if errors.As(err, &e) {
		return e.Code()
	}
	return 0
}

// lockSQLite locks an empty database beside the store. The store itself can not be the lock: a lock on it would be in the
// way of what it is for.
func lockSQLite(ctx context.Context, path string) (func(), error) {
	db, err := sqliteFile(path+".lock", busyTimeout)
	if err != nil {
		return nil, err
	}
	// Not with BeginTx: the lock must not end when ctx does, but when whoever holds it has stopped.
	conn, err := db.Conn(ctx)
	if err == nil {
		if _, err = conn.ExecContext(ctx, "BEGIN EXCLUSIVE"); err == nil {
			return func() { _ = errors.Join(conn.Close(), db.Close()) }, nil
		}
		err = errors.Join(err, conn.Close())
	}
	return nil, errors.Join(err, db.Close())
}

// openPostgres makes a pool of connections to PostgreSQL; it does not connect yet.
func openPostgres(address string) (*database, error) {
	u, err := url.Parse(address)
	if err != nil {
		return nil, fmt.Errorf("store: the URL of PostgreSQL can not be read; write postgres://USER@HOST:PORT/DATABASE, with %%40 for an @ in user or password and the like: %w", errs.ErrInvalid)
	}
	config, err := pgx.ParseConfig(address)
	if err != nil {
		return nil, fmt.Errorf("store: the URL of PostgreSQL is not acceptable: %s: %w", withoutSecrets(err, u), errs.ErrInvalid)
	}
	db := stdlib.OpenDB(*config)
	db.SetMaxOpenConns(8)
	db.SetMaxIdleConns(4)
	db.SetConnMaxIdleTime(5 * time.Minute)
	return &database{
		name:    fmt.Sprintf("postgres://%s:%d/%s", config.Host, config.Port, config.Database),
		dialect: goose.DialectPostgres,
		schema:  "schema/postgres",
		rebind:  func(query string) string { return query },
		again: func(err error) bool {
			switch postgresCode(err) {
			case "40001", "40P01", "55P03", "57P03": // serialization failure, deadlock, lock not available, starting up
				return true
			}
			return pgconn.SafeToRetry(err)
		},
		taken:  func(err error) bool { return postgresCode(err) == "23505" },
		lock:   func(ctx context.Context) (func(), error) { return lockPostgres(ctx, db) },
		reader: db, writer: db,
	}, nil
}

// withoutSecrets is the cause of a refused URL, without the URL and without any password in it.
func withoutSecrets(err error, u *url.URL) string {
	if cause := errors.Unwrap(err); cause != nil {
		err = cause
	}
	text := err.Error()
	password, _ := u.User.Password()
	secrets := []string{u.String(), password, url.PathEscape(password), url.QueryEscape(password)}
	for key, values := range u.Query() {
		if strings.Contains(strings.ToLower(key), "password") {
			secrets = append(secrets, values...)
		}
	}
	for _, s := range secrets {
		if s != "" {
			text = strings.ReplaceAll(text, s, "***")
		}
	}
	return text
}

func postgresCode(err error) string {
	var e *pgconn.PgError
	if errors.As(err, &e) {
		return e.Code
	}
	return ""
}

// schemaLock is the number of the advisory lock: "turnout" in ASCII.
const schemaLock = 0x7475726e6f7574

// lockPostgres takes an advisory lock, which ends with its connection.
func lockPostgres(ctx context.Context, db *sql.DB) (func(), error) {
	conn, err := db.Conn(ctx)
	if err != nil {
		return nil, err
	}
	if _, err := conn.ExecContext(ctx, "SELECT pg_advisory_lock($1)", int64(schemaLock)); err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	return func() {
		// A connection that can not be unlocked must not go back to the pool: driver.ErrBadConn closes it.
		_ = conn.Raw(func(c any) error {
			unlock, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
			defer cancel()
			if _, err := c.(*stdlib.Conn).Conn().Exec(unlock, "SELECT pg_advisory_unlock($1)", int64(schemaLock)); err != nil {
				return driver.ErrBadConn
			}
			return nil
		})
		_ = conn.Close()
	}, nil
}
