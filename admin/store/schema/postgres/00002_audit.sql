-- +goose Up
CREATE TABLE audit (
    seq     BIGINT      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at      TIMESTAMPTZ NOT NULL,
    who     TEXT        NOT NULL,
    via     TEXT        NOT NULL,
    address TEXT        NOT NULL,
    action  TEXT        NOT NULL,
    kind    TEXT        NOT NULL,
    subject TEXT        NOT NULL,
    request TEXT        NOT NULL,
    before  JSON,
    after   JSON
);

CREATE INDEX audit_subject ON audit (kind, subject, seq);
CREATE INDEX audit_who ON audit (who, seq);
CREATE INDEX audit_request ON audit (request, seq);

-- +goose StatementBegin
CREATE FUNCTION audit_is_append_only() RETURNS trigger LANGUAGE plpgsql AS
$$ BEGIN RAISE EXCEPTION 'the audit is append-only'; END $$;
-- +goose StatementEnd
CREATE TRIGGER audit_is_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON audit
    FOR EACH STATEMENT EXECUTE FUNCTION audit_is_append_only();
