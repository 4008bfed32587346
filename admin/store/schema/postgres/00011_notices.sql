-- +goose Up
CREATE TABLE notices (
    n          BIGINT      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    doc        JSON        NOT NULL,
    created_at TIMESTAMPTZ NOT NULL,
    held_by    TEXT        NOT NULL,
    held_until TIMESTAMPTZ
);
