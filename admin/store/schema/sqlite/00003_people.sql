-- +goose Up
CREATE TABLE users (
    name       TEXT    PRIMARY KEY,
    role       TEXT    NOT NULL,
    password   TEXT    NOT NULL,
    disabled   INTEGER NOT NULL,
    created_at TEXT    NOT NULL,
    updated_at TEXT    NOT NULL,
    version    INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE tokens (
    n          INTEGER PRIMARY KEY AUTOINCREMENT,
    name       TEXT NOT NULL,
    owner      TEXT NOT NULL REFERENCES users (name),
    scopes     TEXT NOT NULL,
    hash       TEXT NOT NULL UNIQUE,
    created_at TEXT NOT NULL,
    expires_at TEXT NOT NULL,
    used_at    TEXT
) STRICT;

CREATE INDEX tokens_owner ON tokens (owner, n);

CREATE TABLE sessions (
    hash       TEXT PRIMARY KEY,
    user_name  TEXT NOT NULL REFERENCES users (name),
    address    TEXT NOT NULL,
    created_at TEXT NOT NULL,
    seen_at    TEXT NOT NULL,
    expires_at TEXT NOT NULL
) STRICT, WITHOUT ROWID;

CREATE INDEX sessions_user ON sessions (user_name, created_at);
CREATE INDEX sessions_expiry ON sessions (expires_at);

-- Of the empty name: that of the first administrator, who has no row in users yet.
CREATE TABLE one_time_tokens (
    user_name  TEXT PRIMARY KEY,
    hash       TEXT NOT NULL UNIQUE,
    created_at TEXT NOT NULL,
    expires_at TEXT NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE owners (
    app       TEXT NOT NULL,
    user_name TEXT NOT NULL REFERENCES users (name),
    PRIMARY KEY (app, user_name)
) STRICT, WITHOUT ROWID;

CREATE INDEX owners_user ON owners (user_name, app);

-- Attempts to log in; free_at in microseconds since 1970.
CREATE TABLE attempts (
    subject TEXT    PRIMARY KEY,
    free_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE INDEX attempts_free ON attempts (free_at);
