-- +goose Up
CREATE TABLE notices (
    n          INTEGER PRIMARY KEY AUTOINCREMENT,
    doc        TEXT    NOT NULL CHECK (json_valid(doc)),
    created_at TEXT    NOT NULL,
    held_by    TEXT    NOT NULL,
    held_until TEXT
) STRICT;
