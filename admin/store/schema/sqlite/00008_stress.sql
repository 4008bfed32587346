-- +goose Up
CREATE TABLE stress (
    n          INTEGER PRIMARY KEY AUTOINCREMENT,
    name       TEXT    NOT NULL,
    state      TEXT    NOT NULL,
    request    TEXT    NOT NULL UNIQUE,
    applicant  TEXT    NOT NULL,
    apps       TEXT    NOT NULL CHECK (json_valid(apps)),
    spec       TEXT    NOT NULL CHECK (json_valid(spec)),
    flags      TEXT    NOT NULL CHECK (json_valid(flags)),
    topics     TEXT    NOT NULL CHECK (json_valid(topics)),
    looks      TEXT    NOT NULL CHECK (json_valid(looks)),
    runs       INTEGER NOT NULL,
    started_by TEXT    NOT NULL,
    started_at TEXT,
    ends_at    TEXT,
    stopped_at TEXT,
    reason     TEXT    NOT NULL,
    waiting    TEXT    NOT NULL,
    version    INTEGER NOT NULL,
    created_at TEXT    NOT NULL,
    updated_at TEXT    NOT NULL
) STRICT;

CREATE UNIQUE INDEX stress_name ON stress (name) WHERE state <> 'removed';
CREATE INDEX stress_state ON stress (state, n);

CREATE TABLE stress_events (
    task INTEGER NOT NULL REFERENCES stress (n),
    seq  INTEGER NOT NULL,
    at   TEXT    NOT NULL,
    who  TEXT    NOT NULL,
    kind TEXT    NOT NULL,
    text TEXT    NOT NULL,
    PRIMARY KEY (task, seq)
) STRICT, WITHOUT ROWID;
