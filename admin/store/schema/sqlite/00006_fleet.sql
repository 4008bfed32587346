-- +goose Up
CREATE TABLE findings (
    kind    TEXT    NOT NULL,
    name    TEXT    NOT NULL,
    topic   TEXT    NOT NULL,
    cluster TEXT    NOT NULL,
    at      TEXT    NOT NULL,
    weight  INTEGER NOT NULL,
    doc     TEXT    NOT NULL CHECK (json_valid(doc)),
    PRIMARY KEY (kind, name, topic, cluster)
) STRICT, WITHOUT ROWID;

CREATE INDEX findings_topic ON findings (topic);
CREATE INDEX findings_weight ON findings (kind, weight);
