package store_test

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/turnout-mq/turnout/admin/store"
	"github.com/turnout-mq/turnout/internal/errs"
)

func TestStressTasks(t *testing.T) {
	each(t, map[string]func(t *testing.T, s *store.Store, url string){"": func(t *testing.T, s *store.Store, _ string) {
		ctx := store.WithActor(t.Context(), store.Actor{Name: "alice"})
		task := func(name, request string) *store.StressTask {
			return &store.StressTask{Name: name, State: store.StressPreparing, Request: request, Applicant: "alice", Apps: []string{"order_app"},
				Spec: json.RawMessage(`{"task":"sale"}`), Flags: []store.StressFlag{{App: "order_app", Group: "billing"}}}
		}
		create := func(t1 *store.StressTask) error {
			return s.CreateStressTask(ctx, t1, store.StressChanges{Action: "create", Events: []store.StressEvent{{Kind: "created"}}})
		}
		first := task("sale", "r-1")
		require.NoError(t, create(first))
		require.Equal(t, "s-1", first.ID)
		require.EqualValues(t, 1, first.Version)
		read, err := s.StressTask(ctx, "s-1")
		require.NoError(t, err)
		require.Equal(t, first, read)
		require.NotNil(t, read.Topics, "a list, also of nothing")
		read, err = s.StressTaskOf(ctx, "r-1")
		require.NoError(t, err)
		require.Equal(t, first, read)
		_, err = s.StressTaskOf(ctx, "r-2")
		require.ErrorIs(t, err, errs.ErrNotFound)
		_, err = s.StressTask(ctx, "s-2")
		require.ErrorIs(t, err, errs.ErrNotFound)
		_, err = s.StressTask(ctx, "r-1")
		require.ErrorIs(t, err, errs.ErrInvalid)
		require.ErrorIs(t, create(task("sale", "r-2")), errs.ErrConflict, "the name")
		require.ErrorIs(t, create(task("other", "r-1")), errs.ErrConflict, "the request")
		require.ErrorIs(t, create(task("", "r-2")), errs.ErrInvalid)

		now := time.Now()
		old := *first
		first.State, first.Runs, first.StartedAt, first.EndsAt = store.StressRunning, 1, &now, &now
		first.Flags[0].Enabled = true
		require.NoError(t, s.UpdateStressTask(ctx, first, store.StressChanges{Action: "start", Events: []store.StressEvent{{Kind: "start", Text: "run 1"}, {Kind: "started", Who: "turnout"}},
			Audits: []store.Audit{{Action: "set", Kind: "flag", Subject: "/zpt/order_app/sale/billing"}}}))
		require.EqualValues(t, 2, first.Version)
		require.ErrorIs(t, s.UpdateStressTask(ctx, &old, store.StressChanges{Action: "lost"}), store.ErrChanged)
		read, err = s.StressTask(ctx, "s-1")
		require.NoError(t, err)
		require.Equal(t, first, read)

		// Looks of the run that runs, and of no other.
		looks := []store.StressLook{{Group: "billing", At: &now, Unread: 7}}
		require.NoError(t, s.PutStressLooks(ctx, "s-1", 2, looks))
		require.NoError(t, s.PutStressLooks(ctx, "s-1", 1, looks))
		read, err = s.StressTask(ctx, "s-1")
		require.NoError(t, err)
		require.EqualValues(t, 2, read.Version)
		require.EqualValues(t, 7, read.Looks[0].Unread)
		looks[0].Unread = 8
		require.NoError(t, s.PutStressLooks(ctx, "s-1", 2, looks))
		read, err = s.StressTask(ctx, "s-1")
		require.NoError(t, err)
		require.EqualValues(t, 7, read.Looks[0].Unread)
		first.Looks, first.State = read.Looks, store.StressStopped
		require.NoError(t, s.UpdateStressTask(ctx, first, store.StressChanges{}))
		require.NoError(t, s.PutStressLooks(ctx, "s-1", 1, looks))
		read, err = s.StressTask(ctx, "s-1")
		require.NoError(t, err)
		require.EqualValues(t, 7, read.Looks[0].Unread)

		events, err := s.StressEvents(ctx, "s-1", 0, 0)
		require.NoError(t, err)
		require.Len(t, events, 3)
		require.Equal(t, []string{"alice", "alice", "turnout"}, []string{events[0].Who, events[1].Who, events[2].Who})
		events, err = s.StressEvents(ctx, "s-1", 2, 1)
		require.NoError(t, err)
		require.Equal(t, "started", events[0].Kind)
		_, err = s.StressEvents(ctx, "s-9", 0, 0)
		require.ErrorIs(t, err, errs.ErrNotFound)
		audits, err := s.Audits(ctx, store.AuditFilter{Request: "r-1", Oldest: true})
		require.NoError(t, err)
		var said []string
		for _, a := range audits {
			said = append(said, a.Action+" "+a.Kind+" "+a.Subject)
		}
		require.Equal(t, []string{"create stress s-1", "set flag /zpt/order_app/sale/billing", "start stress s-1"}, said)

		// The name of one that is removed is free.
		first.State = store.StressRemoved
		require.NoError(t, s.UpdateStressTask(ctx, first, store.StressChanges{}))
		second := task("sale", "r-2")
		require.NoError(t, create(second))
		list, err := s.StressTasks(ctx, store.StressFilter{Name: "sale"})
		require.NoError(t, err)
		require.Equal(t, []string{second.ID, "s-1"}, []string{list[0].ID, list[1].ID})
		list, err = s.StressTasks(ctx, store.StressFilter{States: []store.StressState{store.StressRemoved, store.StressReady}})
		require.NoError(t, err)
		require.Len(t, list, 1)
		list, err = s.StressTasks(ctx, store.StressFilter{Before: second.ID, Limit: 5})
		require.NoError(t, err)
		require.Len(t, list, 1)
		_, err = s.StressTasks(ctx, store.StressFilter{Before: "x"})
		require.ErrorIs(t, err, errs.ErrInvalid)
	}})
}
