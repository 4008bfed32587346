-- +goose Up
CREATE TABLE keyed_calls (
    hash         TEXT        PRIMARY KEY,
    fingerprint  TEXT        NOT NULL,
    turn         BIGINT      NOT NULL,
    server       TEXT        NOT NULL,
    since        TIMESTAMPTZ NOT NULL,
    expires_at   TIMESTAMPTZ NOT NULL,
    kind         TEXT        NOT NULL,
    subject      TEXT        NOT NULL,
    status       BIGINT      NOT NULL,
    etag         TEXT        NOT NULL,
    content_type TEXT        NOT NULL,
    body         TEXT        NOT NULL
);

CREATE INDEX keyed_calls_expiry ON keyed_calls (expires_at);
