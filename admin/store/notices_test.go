package store_test

import (
	"encoding/json"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/turnout-mq/turnout/admin/store"
)

func TestNotices(t *testing.T) {
	// told files requests, each with a notice that is its id.
	told := func(t *testing.T, s *store.Store, n int) {
		for range n {
			require.NoError(t, s.CreateRequest(t.Context(), asked("order_topic"), store.RequestChanges{
				Tell: func(now *store.ChangeRequest) (json.RawMessage, error) { return json.Marshal(now.ID) },
			}))
		}
	}
	each(t, map[string]func(*testing.T, *store.Store, string){
		"are held by one, the oldest first": func(t *testing.T, s *store.Store, _ string) {
			now := time.Now()
			hold := func(who string, at time.Time) *store.Notice {
				n, err := s.HoldNotice(t.Context(), who, at, at.Add(time.Minute))
				require.NoError(t, err)
				return n
			}
			require.Nil(t, hold("a", now))
			told(t, s, 2)
			first := hold("a", now)
			require.JSONEq(t, `"r-1"`, string(first.Doc))
			require.WithinDuration(t, now, first.CreatedAt, time.Hour)
			require.Nil(t, hold("b", now))
			require.Equal(t, first, hold("a", now), "who holds it may ask again")
			require.Equal(t, first, hold("b", now.Add(2*time.Minute)), "a has died")
			require.NoError(t, s.LeaveNotice(t.Context(), "a", first.N))
			require.Nil(t, hold("a", now), "it is not a's any more")
			require.NoError(t, s.LeaveNotice(t.Context(), "b", first.N))
			require.Equal(t, first, hold("a", now))
			require.NoError(t, s.DropNotice(t.Context(), first.N))
			require.JSONEq(t, `"r-2"`, string(hold("b", now).Doc))
		},
		"are not stored without the change": func(t *testing.T, s *store.Store, _ string) {
			r := asked("order_topic")
			require.NoError(t, s.CreateRequest(t.Context(), r, store.RequestChanges{}))
			r.Version = 7
			require.Error(t, s.UpdateRequest(t.Context(), r, store.RequestChanges{Tell: func(*store.ChangeRequest) (json.RawMessage, error) { return json.RawMessage(`1`), nil }}))
			n, err := s.HoldNotice(t.Context(), "a", time.Now(), time.Now())
			require.NoError(t, err)
			require.Nil(t, n)
		},
		"are told once by many": func(t *testing.T, s *store.Store, _ string) {
			const all = 20
			told(t, s, all)
			var mu sync.Mutex
			var seen []string
			var servers sync.WaitGroup
			for i := range 4 {
				servers.Go(func() {
					for {
						n, err := s.HoldNotice(t.Context(), fmt.Sprint(i), time.Now(), time.Now().Add(time.Hour))
						mu.Lock()
						done := err != nil || len(seen) == all
						if n != nil {
							seen = append(seen, string(n.Doc))
						}
						mu.Unlock()
						if n != nil {
							err = s.DropNotice(t.Context(), n.N)
						}
						if done || err != nil {
							return
						}
					}
				})
			}
			servers.Wait()
			var want []string
			for i := range all {
				want = append(want, fmt.Sprintf(`"r-%d"`, i+1))
			}
			require.Equal(t, want, seen)
		},
	})
}
