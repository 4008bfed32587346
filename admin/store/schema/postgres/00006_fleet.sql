-- +goose Up
CREATE TABLE findings (
    kind    TEXT        NOT NULL,
    name    TEXT        NOT NULL,
    topic   TEXT        NOT NULL,
    cluster TEXT        NOT NULL,
    at      TIMESTAMPTZ NOT NULL,
    weight  BIGINT      NOT NULL,
    doc     JSON        NOT NULL,
    PRIMARY KEY (kind, name, topic, cluster)
);

CREATE INDEX findings_topic ON findings (topic);
CREATE INDEX findings_weight ON findings (kind, weight);
