-- +goose Up
-- Requests that were filed together, as by turnout apply, have a name in common.
ALTER TABLE requests ADD COLUMN batch TEXT NOT NULL DEFAULT '';

CREATE INDEX requests_batch ON requests (batch, n);
