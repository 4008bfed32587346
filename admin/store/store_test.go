package store_test

import (
	"encoding/json"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/turnout-mq/turnout/admin/store"
	"github.com/turnout-mq/turnout/internal/errs"
)

func TestSmoke(t *testing.T) {
	s, err := store.Open(t.Context(), "sqlite:"+filepath.Join(t.TempDir(), "turn#out?.db"), nil)
	require.NoError(t, err)
	defer s.Close()
	m := &store.Migration{Topic: "t", Target: "b", Kind: store.Move, State: "planned", StartedBy: "x", Data: json.RawMessage(`{"a" : 1}`)}
	require.NoError(t, s.CreateMigration(t.Context(), m, store.Changes{Events: []store.Event{{Kind: "created"}},
		Fences: []store.Fence{{Cluster: "a", Physical: "t", Wanted: true}}, Receipt: &store.Receipt{Doc: json.RawMessage("{}")}}))
	got, err := s.Migration(t.Context(), m.ID)
	require.NoError(t, err)
	require.Equal(t, m, got)
	err = s.CreateMigration(t.Context(), m, store.Changes{})
	require.ErrorIs(t, err, errs.ErrConflict)
	require.ErrorContains(t, err, "m-1")
	m.State = "preparing"
	require.NoError(t, s.Update(t.Context(), m, store.Changes{Events: []store.Event{{Kind: "state"}}}))
	require.NoError(t, s.Ask(t.Context(), m.ID, store.Rollback, "alice"))
	require.ErrorIs(t, s.Update(t.Context(), m, store.Changes{}), errs.ErrConflict)
	events, err := s.Events(t.Context(), m.ID, 1, 0)
	require.NoError(t, err)
	require.Len(t, events, 2)
	fences, err := s.Fences(t.Context())
	require.NoError(t, err)
	require.Len(t, fences, 1)
}
