-- +goose Up
CREATE TABLE drift (
    n          BIGINT      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    kind       TEXT        NOT NULL,
    name       TEXT        NOT NULL,
    cluster    TEXT        NOT NULL,
    what       TEXT        NOT NULL,
    since      TIMESTAMPTZ NOT NULL,
    detail     TEXT        NOT NULL,
    wanted     JSON,
    found      JSON,
    choices    TEXT        NOT NULL,
    ignored_by TEXT        NOT NULL,
    ignored_at TIMESTAMPTZ,
    reason     TEXT        NOT NULL,
    version    BIGINT      NOT NULL,
    UNIQUE (kind, name, cluster)
);
