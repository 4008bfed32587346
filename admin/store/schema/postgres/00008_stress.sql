-- +goose Up
CREATE TABLE stress (
    n          BIGINT      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name       TEXT        NOT NULL,
    state      TEXT        NOT NULL,
    request    TEXT        NOT NULL UNIQUE,
    applicant  TEXT        NOT NULL,
    apps       JSON        NOT NULL,
    spec       JSON        NOT NULL,
    flags      JSON        NOT NULL,
    topics     JSON        NOT NULL,
    looks      JSON        NOT NULL,
    runs       BIGINT      NOT NULL,
    started_by TEXT        NOT NULL,
    started_at TIMESTAMPTZ,
    ends_at    TIMESTAMPTZ,
    stopped_at TIMESTAMPTZ,
    reason     TEXT        NOT NULL,
    waiting    TEXT        NOT NULL,
    version    BIGINT      NOT NULL,
    created_at TIMESTAMPTZ NOT NULL,
    updated_at TIMESTAMPTZ NOT NULL
);

CREATE UNIQUE INDEX stress_name ON stress (name) WHERE state <> 'removed';
CREATE INDEX stress_state ON stress (state, n);

CREATE TABLE stress_events (
    task BIGINT      NOT NULL REFERENCES stress (n),
    seq  BIGINT      NOT NULL,
    at   TIMESTAMPTZ NOT NULL,
    who  TEXT        NOT NULL,
    kind TEXT        NOT NULL,
    text TEXT        NOT NULL,
    PRIMARY KEY (task, seq)
);
