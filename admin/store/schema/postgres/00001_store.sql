-- +goose Up
CREATE TABLE migrations (
    n           BIGINT      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    topic       TEXT        NOT NULL,
    target      TEXT        NOT NULL,
    kind        TEXT        NOT NULL,
    ordered     BOOLEAN     NOT NULL,
    state       TEXT        NOT NULL,
    version     BIGINT      NOT NULL,
    plan        JSON,
    data        JSON,
    started_by  TEXT        NOT NULL,
    approved_by TEXT        NOT NULL,
    approved_at TIMESTAMPTZ,
    created_at  TIMESTAMPTZ NOT NULL,
    updated_at  TIMESTAMPTZ NOT NULL,
    ended_at    TIMESTAMPTZ,
    outcome     TEXT        NOT NULL,
    waiting     TEXT        NOT NULL,
    request     TEXT        NOT NULL,
    paused      BOOLEAN     NOT NULL
);

CREATE UNIQUE INDEX migrations_open ON migrations (topic) WHERE ended_at IS NULL;
CREATE INDEX migrations_topic ON migrations (topic, n);

CREATE TABLE events (
    migration BIGINT      NOT NULL REFERENCES migrations (n),
    seq       BIGINT      NOT NULL,
    at        TIMESTAMPTZ NOT NULL,
    kind      TEXT        NOT NULL,
    text      TEXT        NOT NULL,
    data      JSON,
    PRIMARY KEY (migration, seq)
);

CREATE TABLE fences (
    cluster   TEXT        NOT NULL,
    physical  TEXT        NOT NULL,
    topic     TEXT        NOT NULL,
    migration BIGINT      NOT NULL REFERENCES migrations (n),
    wanted    BOOLEAN     NOT NULL,
    restore   TEXT        NOT NULL,
    since     TIMESTAMPTZ NOT NULL,
    until     TIMESTAMPTZ,
    seen_at   TIMESTAMPTZ,
    error     TEXT        NOT NULL,
    version   BIGINT      NOT NULL,
    PRIMARY KEY (cluster, physical)
);

CREATE TABLE receipts (
    migration BIGINT      PRIMARY KEY REFERENCES migrations (n),
    at        TIMESTAMPTZ NOT NULL,
    doc       JSON        NOT NULL
);

CREATE TABLE settings (
    name  TEXT PRIMARY KEY,
    value TEXT NOT NULL
);
