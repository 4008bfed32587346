-- +goose Up
CREATE TABLE drift (
    n          INTEGER PRIMARY KEY AUTOINCREMENT,
    kind       TEXT    NOT NULL,
    name       TEXT    NOT NULL,
    cluster    TEXT    NOT NULL,
    what       TEXT    NOT NULL,
    since      TEXT    NOT NULL,
    detail     TEXT    NOT NULL,
    wanted     TEXT    CHECK (json_valid(wanted)),
    found      TEXT    CHECK (json_valid(found)),
    choices    TEXT    NOT NULL,
    ignored_by TEXT    NOT NULL,
    ignored_at TEXT,
    reason     TEXT    NOT NULL,
    version    INTEGER NOT NULL,
    UNIQUE (kind, name, cluster)
) STRICT;
