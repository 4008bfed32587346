package store_test

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/turnout-mq/turnout/admin/store"
	"github.com/turnout-mq/turnout/internal/errs"
)

func TestAudit(t *testing.T) {
	each(t, map[string]func(*testing.T, *store.Store, string){
		"a change is found by each of its fields": func(t *testing.T, s *store.Store, _ string) {
			begin := time.Now().Add(-time.Second)
			alice := store.WithActor(t.Context(), store.Actor{Name: "alice", Via: "token t-1", Address: "10.0.0.7"})
			require.NoError(t, s.RecordAudit(alice, store.Audit{Action: "create", Kind: "topic", Subject: "orders", Request: "r-1", After: json.RawMessage(`{"a":1}`)}))
			require.NoError(t, s.RecordAudit(t.Context(), store.Audit{Action: "delete", Kind: "group", Subject: "billing", Before: json.RawMessage(`{"a":2}`)}))
			all, err := s.Audits(t.Context(), store.AuditFilter{})
			require.NoError(t, err)
			require.Len(t, all, 2)
			require.Equal(t, store.System, all[0].Who)
			require.JSONEq(t, `{"a":2}`, string(all[0].Before))
			require.Nil(t, all[0].After)
			first := all[1]
			require.Equal(t, []string{"alice", "token t-1", "10.0.0.7", "create", "topic", "orders", "r-1"},
				[]string{first.Who, first.Via, first.Address, first.Action, first.Kind, first.Subject, first.Request})
			require.JSONEq(t, `{"a":1}`, string(first.After))
			for _, f := range []store.AuditFilter{
				{Who: "alice"}, {Action: "create"}, {Kind: "topic"}, {Subject: "orders"}, {Request: "r-1"}, {Address: "10.0.0.7"},
				{Before: all[0].Seq}, {Oldest: true, Limit: 1}, {Who: "alice", From: begin, Until: time.Now().Add(time.Minute)},
			} {
				got, err := s.Audits(t.Context(), f)
				require.NoError(t, err)
				require.Equal(t, []store.Audit{first}, got, "%+v", f)
			}
			for _, f := range []store.AuditFilter{{Who: "bob"}, {Until: begin}, {From: time.Now().Add(time.Hour)}, {After: all[0].Seq}} {
				got, err := s.Audits(t.Context(), f)
				require.NoError(t, err)
				require.Empty(t, got, "%+v", f)
			}
			require.ErrorIs(t, s.RecordAudit(t.Context(), store.Audit{Action: "create", Kind: "topic"}), errs.ErrInvalid)
		},
		"nothing in it can be changed": func(t *testing.T, s *store.Store, url string) {
			require.NoError(t, s.RecordAudit(t.Context(), store.Audit{Action: "create", Kind: "topic", Subject: "orders"}))
			db := raw(t, url)
			for _, statement := range []string{"UPDATE audit SET who = 'mallory'", "DELETE FROM audit"} {
				_, err := db.ExecContext(t.Context(), statement)
				require.ErrorContains(t, err, "append-only")
			}
			all, err := s.Audits(t.Context(), store.AuditFilter{})
			require.NoError(t, err)
			require.Len(t, all, 1)
		},
	})
}
