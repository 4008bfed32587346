-- +goose Up
-- Each way to search, with the order that the answer has.
DROP INDEX audit_subject;
CREATE INDEX audit_subject ON audit (subject, seq);
CREATE INDEX audit_kind ON audit (kind, seq);
CREATE INDEX audit_action ON audit (action, seq);
CREATE INDEX audit_address ON audit (address, seq);
CREATE INDEX requests_kind ON requests (kind, n);
