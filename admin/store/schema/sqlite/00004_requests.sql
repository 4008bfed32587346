-- +goose Up
CREATE TABLE requests (
    n              INTEGER PRIMARY KEY AUTOINCREMENT,
    kind           TEXT    NOT NULL,
    state          TEXT    NOT NULL,
    applicant      TEXT    NOT NULL,
    app            TEXT    NOT NULL,
    subject        TEXT    NOT NULL,
    reason         TEXT    NOT NULL,
    spec           TEXT    NOT NULL CHECK (json_valid(spec)),
    cluster        TEXT    NOT NULL,
    cluster_reason TEXT    NOT NULL,
    version        INTEGER NOT NULL,
    created_at     TEXT    NOT NULL,
    updated_at     TEXT    NOT NULL,
    submitted_at   TEXT,
    expires_at     TEXT,
    decided_by     TEXT    NOT NULL,
    decided_at     TEXT,
    decision       TEXT    NOT NULL,
    step           TEXT    NOT NULL,
    attempts       INTEGER NOT NULL,
    error          TEXT    NOT NULL,
    next_at        TEXT,
    ended_at       TEXT,
    result         TEXT    CHECK (json_valid(result))
) STRICT;

CREATE INDEX requests_state ON requests (state, n);
CREATE INDEX requests_subject ON requests (subject, n);
CREATE INDEX requests_applicant ON requests (applicant, n);
CREATE INDEX requests_app ON requests (app, n);

CREATE TABLE request_events (
    request INTEGER NOT NULL REFERENCES requests (n),
    seq     INTEGER NOT NULL,
    at      TEXT    NOT NULL,
    who     TEXT    NOT NULL,
    kind    TEXT    NOT NULL,
    text    TEXT    NOT NULL,
    data    TEXT    CHECK (json_valid(data)),
    PRIMARY KEY (request, seq)
) STRICT, WITHOUT ROWID;

CREATE TABLE request_policies (
    kind     TEXT    PRIMARY KEY,
    approval INTEGER NOT NULL,
    days     INTEGER NOT NULL,
    version  INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE allotment_rules (
    name     TEXT    PRIMARY KEY,
    priority INTEGER NOT NULL,
    doc      TEXT    NOT NULL CHECK (json_valid(doc)),
    version  INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE catalog (
    kind       TEXT    NOT NULL,
    name       TEXT    NOT NULL,
    app        TEXT    NOT NULL,
    cluster    TEXT    NOT NULL,
    partitions INTEGER NOT NULL,
    labels     TEXT    CHECK (json_valid(labels)),
    doc        TEXT    NOT NULL CHECK (json_valid(doc)),
    state      TEXT    NOT NULL,
    version    INTEGER NOT NULL,
    created_at TEXT    NOT NULL,
    updated_at TEXT    NOT NULL,
    PRIMARY KEY (kind, name)
) STRICT, WITHOUT ROWID;

CREATE INDEX catalog_app ON catalog (app, kind, name);
CREATE INDEX catalog_cluster ON catalog (cluster, kind, name);

CREATE TABLE outbox (
    n          INTEGER PRIMARY KEY AUTOINCREMENT,
    request    INTEGER NOT NULL UNIQUE REFERENCES requests (n),
    kind       TEXT    NOT NULL,
    name       TEXT    NOT NULL,
    before     TEXT    CHECK (json_valid(before)),
    after      TEXT    CHECK (json_valid(after)),
    created_at TEXT    NOT NULL,
    done_at    TEXT
) STRICT;

CREATE INDEX outbox_open ON outbox (n) WHERE done_at IS NULL;
