-- +goose Up
CREATE TABLE keyed_calls (
    hash         TEXT    PRIMARY KEY,
    fingerprint  TEXT    NOT NULL,
    turn         INTEGER NOT NULL,
    server       TEXT    NOT NULL,
    since        TEXT    NOT NULL,
    expires_at   TEXT    NOT NULL,
    kind         TEXT    NOT NULL,
    subject      TEXT    NOT NULL,
    status       INTEGER NOT NULL,
    etag         TEXT    NOT NULL,
    content_type TEXT    NOT NULL,
    body         TEXT    NOT NULL
) STRICT, WITHOUT ROWID;

CREATE INDEX keyed_calls_expiry ON keyed_calls (expires_at);
