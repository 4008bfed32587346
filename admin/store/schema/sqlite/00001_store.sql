-- +goose Up
CREATE TABLE migrations (
    n           INTEGER PRIMARY KEY AUTOINCREMENT,
    topic       TEXT    NOT NULL,
    target      TEXT    NOT NULL,
    kind        TEXT    NOT NULL,
    ordered     INTEGER NOT NULL,
    state       TEXT    NOT NULL,
    version     INTEGER NOT NULL,
    plan        TEXT    CHECK (json_valid(plan)),
    data        TEXT    CHECK (json_valid(data)),
    started_by  TEXT    NOT NULL,
    approved_by TEXT    NOT NULL,
    approved_at TEXT,
    created_at  TEXT    NOT NULL,
    updated_at  TEXT    NOT NULL,
    ended_at    TEXT,
    outcome     TEXT    NOT NULL,
    waiting     TEXT    NOT NULL,
    request     TEXT    NOT NULL,
    paused      INTEGER NOT NULL
) STRICT;

CREATE UNIQUE INDEX migrations_open ON migrations (topic) WHERE ended_at IS NULL;
CREATE INDEX migrations_topic ON migrations (topic, n);

CREATE TABLE events (
    migration INTEGER NOT NULL REFERENCES migrations (n),
    seq       INTEGER NOT NULL,
    at        TEXT    NOT NULL,
    kind      TEXT    NOT NULL,
    text      TEXT    NOT NULL,
    data      TEXT    CHECK (json_valid(data)),
    PRIMARY KEY (migration, seq)
) STRICT, WITHOUT ROWID;

CREATE TABLE fences (
    cluster   TEXT    NOT NULL,
    physical  TEXT    NOT NULL,
    topic     TEXT    NOT NULL,
    migration INTEGER NOT NULL REFERENCES migrations (n),
    wanted    INTEGER NOT NULL,
    restore   TEXT    NOT NULL,
    since     TEXT    NOT NULL,
    until     TEXT,
    seen_at   TEXT,
    error     TEXT    NOT NULL,
    version   INTEGER NOT NULL,
    PRIMARY KEY (cluster, physical)
) STRICT, WITHOUT ROWID;

CREATE TABLE receipts (
    migration INTEGER PRIMARY KEY REFERENCES migrations (n),
    at        TEXT NOT NULL,
    doc       TEXT NOT NULL CHECK (json_valid(doc))
) STRICT;

CREATE TABLE settings (
    name  TEXT PRIMARY KEY,
    value TEXT NOT NULL
) STRICT, WITHOUT ROWID;
