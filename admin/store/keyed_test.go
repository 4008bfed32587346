package store_test

import (
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/turnout-mq/turnout/admin/store"
	"github.com/turnout-mq/turnout/internal/errs"
)

func TestKeyedCalls(t *testing.T) {
	now := time.Now().UTC().Truncate(time.Microsecond)
	call := store.KeyedCall{Hash: "h", Fingerprint: "f", Server: "a", Since: now, Expires: now.Add(time.Hour)}
	each(t, map[string]func(*testing.T, *store.Store, string){
		"one of many begins it": func(t *testing.T, s *store.Store, _ string) {
			var mine atomic.Int64
			var all sync.WaitGroup
			for range 20 {
				all.Go(func() {
					_, first, err := s.BeginKeyed(t.Context(), call)
					if err == nil && first {
						mine.Add(1)
					}
				})
			}
			all.Wait()
			require.Equal(t, int64(1), mine.Load())
		},
		"its change is noted with it, and who was too late changes nothing": func(t *testing.T, s *store.Store, _ string) {
			first, mine, err := s.BeginKeyed(t.Context(), call)
			require.NoError(t, err)
			require.True(t, mine)
			late := *first
			mine, err = s.TakeKeyed(t.Context(), first, "b", now.Add(time.Second))
			require.NoError(t, err)
			require.True(t, mine)
			m := planned("orders")
			require.ErrorIs(t, s.CreateMigration(store.WithKeyedCall(t.Context(), &late), m, store.Changes{}), errs.ErrConflict)
			require.NoError(t, s.CreateMigration(store.WithKeyedCall(t.Context(), first), m, store.Changes{}))
			require.NoError(t, s.RecordAudit(store.WithKeyedCall(t.Context(), first), store.Audit{Action: "start", Kind: "other", Subject: "x"}))
			is, mine, err := s.BeginKeyed(t.Context(), call)
			require.NoError(t, err)
			require.False(t, mine)
			want := call
			want.Turn, want.Server, want.Since, want.Kind, want.Subject = 2, "b", now.Add(time.Second), "migration", m.ID
			require.Equal(t, want, *is)
			// It has changed something: nobody takes it over, and it is not forgotten.
			mine, err = s.TakeKeyed(t.Context(), is, "c", now)
			require.NoError(t, err)
			require.False(t, mine)
			require.NoError(t, s.DropKeyed(t.Context(), is, true))
			is, _, err = s.BeginKeyed(t.Context(), call)
			require.NoError(t, err)
			require.Empty(t, is.Server)
			require.Equal(t, m.ID, is.Subject)
			answer := store.KeyedAnswer{Status: 201, ETag: `"1"`, ContentType: "application/json", Body: `{"a":"ü"}`}
			require.NoError(t, s.EndKeyed(t.Context(), &late, store.KeyedAnswer{Status: 500}))
			require.NoError(t, s.EndKeyed(t.Context(), is, answer))
			is, _, err = s.BeginKeyed(t.Context(), call)
			require.NoError(t, err)
			require.Equal(t, answer, is.Answer)
		},
		"it is forgotten when it was refused, or has expired": func(t *testing.T, s *store.Store, url string) {
			begin := func(c store.KeyedCall) *store.KeyedCall {
				t.Helper()
				is, mine, err := s.BeginKeyed(t.Context(), c)
				require.NoError(t, err)
				require.True(t, mine)
				return is
			}
			require.NoError(t, s.DropKeyed(t.Context(), begin(call), true))
			require.NoError(t, s.EndKeyed(t.Context(), begin(call), store.KeyedAnswer{Status: 200}))
			later := call
			later.Since, later.Expires = call.Expires, call.Expires.Add(time.Hour)
			begin(later)
			require.NoError(t, s.SweepKeyed(t.Context(), later.Since))
			count := func() (n int) {
				require.NoError(t, raw(t, url).QueryRowContext(t.Context(), "SELECT COUNT(*) FROM keyed_calls").Scan(&n))
				return n
			}
			require.Equal(t, 1, count())
			require.NoError(t, s.SweepKeyed(t.Context(), later.Expires))
			require.Zero(t, count())
			_, _, err := s.BeginKeyed(t.Context(), store.KeyedCall{Hash: "h"})
			require.ErrorIs(t, err, errs.ErrInvalid)
		},
	})
}
