-- +goose Up
CREATE TABLE requests (
    n              BIGINT      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    kind           TEXT        NOT NULL,
    state          TEXT        NOT NULL,
    applicant      TEXT        NOT NULL,
    app            TEXT        NOT NULL,
    subject        TEXT        NOT NULL,
    reason         TEXT        NOT NULL,
    spec           JSON        NOT NULL,
    cluster        TEXT        NOT NULL,
    cluster_reason TEXT        NOT NULL,
    version        BIGINT      NOT NULL,
    created_at     TIMESTAMPTZ NOT NULL,
    updated_at     TIMESTAMPTZ NOT NULL,
    submitted_at   TIMESTAMPTZ,
    expires_at     TIMESTAMPTZ,
    decided_by     TEXT        NOT NULL,
    decided_at     TIMESTAMPTZ,
    decision       TEXT        NOT NULL,
    step           TEXT        NOT NULL,
    attempts       BIGINT      NOT NULL,
    error          TEXT        NOT NULL,
    next_at        TIMESTAMPTZ,
    ended_at       TIMESTAMPTZ,
    result         JSON
);

CREATE INDEX requests_state ON requests (state, n);
CREATE INDEX requests_subject ON requests (subject, n);
CREATE INDEX requests_applicant ON requests (applicant, n);
CREATE INDEX requests_app ON requests (app, n);

CREATE TABLE request_events (
    request BIGINT      NOT NULL REFERENCES requests (n),
    seq     BIGINT      NOT NULL,
    at      TIMESTAMPTZ NOT NULL,
    who     TEXT        NOT NULL,
    kind    TEXT        NOT NULL,
    text    TEXT        NOT NULL,
    data    JSON,
    PRIMARY KEY (request, seq)
);

CREATE TABLE request_policies (
    kind     TEXT    PRIMARY KEY,
    approval BOOLEAN NOT NULL,
    days     BIGINT  NOT NULL,
    version  BIGINT  NOT NULL
);

CREATE TABLE allotment_rules (
    name     TEXT   COLLATE "C" PRIMARY KEY,
    priority BIGINT NOT NULL,
    doc      JSON   NOT NULL,
    version  BIGINT NOT NULL
);

CREATE TABLE catalog (
    kind       TEXT        NOT NULL,
    name       TEXT        COLLATE "C" NOT NULL,
    app        TEXT        NOT NULL,
    cluster    TEXT        NOT NULL,
    partitions BIGINT      NOT NULL,
    labels     JSON,
    doc        JSON        NOT NULL,
    state      TEXT        NOT NULL,
    version    BIGINT      NOT NULL,
    created_at TIMESTAMPTZ NOT NULL,
    updated_at TIMESTAMPTZ NOT NULL,
    PRIMARY KEY (kind, name)
);

CREATE INDEX catalog_app ON catalog (app, kind, name);
CREATE INDEX catalog_cluster ON catalog (cluster, kind, name);

CREATE TABLE outbox (
    n          BIGINT      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    request    BIGINT      NOT NULL UNIQUE REFERENCES requests (n),
    kind       TEXT        NOT NULL,
    name       TEXT        NOT NULL,
    before     JSON,
    after      JSON,
    created_at TIMESTAMPTZ NOT NULL,
    done_at    TIMESTAMPTZ
);

CREATE INDEX outbox_open ON outbox (n) WHERE done_at IS NULL;
