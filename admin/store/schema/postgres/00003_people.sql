-- +goose Up
CREATE TABLE users (
    name       TEXT        COLLATE "C" PRIMARY KEY,
    role       TEXT        NOT NULL,
    password   TEXT        NOT NULL,
    disabled   BOOLEAN     NOT NULL,
    created_at TIMESTAMPTZ NOT NULL,
    updated_at TIMESTAMPTZ NOT NULL,
    version    BIGINT      NOT NULL
);

CREATE TABLE tokens (
    n          BIGINT      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name       TEXT        NOT NULL,
    owner      TEXT        COLLATE "C" NOT NULL REFERENCES users (name),
    scopes     TEXT        NOT NULL,
    hash       TEXT        NOT NULL UNIQUE,
    created_at TIMESTAMPTZ NOT NULL,
    expires_at TIMESTAMPTZ NOT NULL,
    used_at    TIMESTAMPTZ
);

CREATE INDEX tokens_owner ON tokens (owner, n);

CREATE TABLE sessions (
    hash       TEXT        PRIMARY KEY,
    user_name  TEXT        COLLATE "C" NOT NULL REFERENCES users (name),
    address    TEXT        NOT NULL,
    created_at TIMESTAMPTZ NOT NULL,
    seen_at    TIMESTAMPTZ NOT NULL,
    expires_at TIMESTAMPTZ NOT NULL
);

CREATE INDEX sessions_user ON sessions (user_name, created_at);
CREATE INDEX sessions_expiry ON sessions (expires_at);

-- Of the empty name: that of the first administrator, who has no row in users yet.
CREATE TABLE one_time_tokens (
    user_name  TEXT        COLLATE "C" PRIMARY KEY,
    hash       TEXT        NOT NULL UNIQUE,
    created_at TIMESTAMPTZ NOT NULL,
    expires_at TIMESTAMPTZ NOT NULL
);

CREATE TABLE owners (
    app       TEXT COLLATE "C" NOT NULL,
    user_name TEXT COLLATE "C" NOT NULL REFERENCES users (name),
    PRIMARY KEY (app, user_name)
);

CREATE INDEX owners_user ON owners (user_name, app);

-- Attempts to log in; free_at in microseconds since 1970.
CREATE TABLE attempts (
    subject TEXT   PRIMARY KEY,
    free_at BIGINT NOT NULL
);

CREATE INDEX attempts_free ON attempts (free_at);
