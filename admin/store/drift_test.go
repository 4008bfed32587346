package store_test

import (
	"encoding/json"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/turnout-mq/turnout/admin/store"
	"github.com/turnout-mq/turnout/internal/errs"
)

func TestDrift(t *testing.T) {
	each(t, map[string]func(t *testing.T, s *store.Store, url string){"": func(t *testing.T, s *store.Store, _ string) {
		ctx := store.WithActor(t.Context(), store.Actor{Name: "bob"})
		put := func(name string, onCluster bool, d *store.Drift) bool {
			changed, err := s.PutDrift(ctx, store.CatalogTopic, name, onCluster, d)
			require.NoError(t, err)
			return changed
		}
		edited := func(found string) *store.Drift {
			return &store.Drift{Kind: store.CatalogTopic, Name: "orders", What: "edited", Detail: "app", Wanted: json.RawMessage(`{"app":"a"}`), Found: json.RawMessage(found),
				Choices: []string{"publish", "adopt", "ignore"}}
		}
		on := func(cluster string) *store.Drift {
			return &store.Drift{Kind: store.CatalogTopic, Name: "orders", Cluster: cluster, What: "absent", Choices: []string{"publish"}}
		}
		require.False(t, put("orders", false, nil))
		require.True(t, put("orders", false, edited(`{"app":"b"}`)))
		require.False(t, put("orders", false, edited(`{"app":"b"}`)))
		require.True(t, put("orders", true, on("a")))
		require.True(t, put("orders", true, on("b"))) // the topic has moved
		list, err := s.Drifts(ctx, store.DriftFilter{})
		require.NoError(t, err)
		require.Len(t, list, 2)
		d := list[0]
		require.Equal(t, []string{"", "b"}, []string{list[0].Cluster, list[1].Cluster})
		require.False(t, d.Since.IsZero())
		require.EqualValues(t, 1, d.Version)

		// Ignored until it changes, and only by who knows what it is.
		_, err = s.IgnoreDrift(ctx, d.ID, 7, "later")
		require.ErrorIs(t, err, errs.ErrConflict)
		_, err = s.IgnoreDrift(ctx, d.ID, 1, "")
		require.ErrorIs(t, err, errs.ErrInvalid)
		ignored, err := s.IgnoreDrift(ctx, d.ID, 1, "later")
		require.NoError(t, err)
		require.Equal(t, "bob", ignored.Ignored.By)
		require.Equal(t, "later", ignored.Ignored.Reason)
		require.False(t, put("orders", false, edited(`{"app":"b"}`)))
		list, err = s.Drifts(ctx, store.DriftFilter{Open: true})
		require.NoError(t, err)
		require.Len(t, list, 1)
		require.True(t, put("orders", false, edited(`{"app":"c"}`)))
		now, err := s.Drift(ctx, d.ID)
		require.NoError(t, err)
		require.Nil(t, now.Ignored)
		require.EqualValues(t, 3, now.Version)
		audits, err := s.Audits(ctx, store.AuditFilter{Kind: "drift"})
		require.NoError(t, err)
		require.Len(t, audits, 1)
		require.Equal(t, []string{"bob", "ignore", d.ID}, []string{audits[0].Who, audits[0].Action, audits[0].Subject})

		require.True(t, put("orders", false, nil))
		_, err = s.Drift(ctx, d.ID)
		require.ErrorIs(t, err, errs.ErrNotFound)
		_, err = s.Drift(ctx, "x")
		require.ErrorIs(t, err, errs.ErrInvalid)
		_, err = s.PutDrift(ctx, store.CatalogTopic, "other", false, edited("{}"))
		require.ErrorIs(t, err, errs.ErrInvalid)
		list, err = s.Drifts(ctx, store.DriftFilter{Kind: store.CatalogTopic, Name: "orders", What: "absent", Limit: 1})
		require.NoError(t, err)
		require.Len(t, list, 1)
		list, err = s.Drifts(ctx, store.DriftFilter{After: list[0].ID})
		require.NoError(t, err)
		require.Empty(t, list)
	}})
}
