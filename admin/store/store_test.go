package store_test

import (
	"context"
	"encoding/json"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/turnout-mq/turnout/admin/store"
	"github.com/turnout-mq/turnout/internal/errs"
)

func TestMigrations(t *testing.T) {
	zone := time.FixedZone("east", 2*3600)
	at := time.Date(2026, 3, 1, 1, 30, 0, 123456789, zone)
	utc := time.Date(2026, 2, 28, 23, 30, 0, 123456000, time.UTC)

	each(t, map[string]func(*testing.T, *store.Store, string){
		"what is stored comes back": func(t *testing.T, s *store.Store, _ string) {
			m := planned("order_topic")
			m.Ordered, m.Plan, m.Data = true, json.RawMessage(`{ "b":1, "a":"\u0000 ü 😀", "a":1e400 }`), json.RawMessage(`[]`)
			require.NoError(t, s.CreateMigration(t.Context(), m, store.Changes{}))
			require.Equal(t, "m-1", m.ID)
			require.Equal(t, int64(1), m.Version)
			require.WithinDuration(t, time.Now(), m.CreatedAt, patience)
			read := func() {
				t.Helper()
				got, err := s.Migration(t.Context(), m.ID)
				require.NoError(t, err)
				require.Equal(t, m, got)
			}
			read()
			created := m.CreatedAt
			m.State, m.Target, m.ApprovedBy, m.ApprovedAt = "draining", "kafka-c", "bob", &at
			m.Waiting, m.Request, m.Paused, m.Plan = "group \x00 \xff", store.Rollback, true, nil
			m.EndedAt, m.Outcome = &at, store.RolledBack
			require.NoError(t, s.Update(t.Context(), m, store.Changes{}))
			require.Equal(t, int64(2), m.Version)
			require.Equal(t, utc, *m.EndedAt)
			require.Equal(t, utc, *m.ApprovedAt)
			require.Equal(t, created, m.CreatedAt)
			require.False(t, m.UpdatedAt.Before(created))
			require.Equal(t, "group \uFFFD \uFFFD", m.Waiting)
			read()
		},
		"one runs per topic": func(t *testing.T, s *store.Store, _ string) {
			first := create(t, s, "order_topic")
			create(t, s, "other_topic")
			err := s.CreateMigration(t.Context(), planned("order_topic"), store.Changes{})
			require.ErrorIs(t, err, errs.ErrConflict)
			require.ErrorContains(t, err, first.ID)
			require.ErrorContains(t, err, "order_topic")
			end(t, s, first)
			third := create(t, s, "order_topic")
			require.Equal(t, "m-3", third.ID, "a refusal costs no number")

			first.EndedAt, first.Outcome = nil, store.Running
			err = s.Update(t.Context(), first, store.Changes{})
			require.ErrorIs(t, err, errs.ErrConflict)
			require.ErrorContains(t, err, third.ID)
		},
		"one takes over": func(t *testing.T, s *store.Store, _ string) {
			first := create(t, s, "order_topic")
			newer := *first
			require.NoError(t, s.Update(t.Context(), &newer, store.Changes{}))
			over := func(m store.Migration) store.Ending {
				now := time.Now()
				m.State, m.Outcome, m.EndedAt = "done", store.Aborted, &now
				return store.Ending{Migration: &m, Changes: store.Changes{Events: []store.Event{{Kind: "state", At: now}}, Receipt: &store.Receipt{Doc: []byte("{}")}}}
			}
			second := planned("order_topic")
			require.ErrorIs(t, s.CreateMigration(t.Context(), second, store.Changes{}, over(*first)), errs.ErrConflict, "it was written meanwhile")
			require.Empty(t, second.ID)
			open, err := s.Migrations(t.Context(), store.Filter{Open: true})
			require.NoError(t, err)
			require.Len(t, open, 1)
			require.Equal(t, &newer, open[0])
			require.ErrorIs(t, s.CreateMigration(t.Context(), &store.Migration{}, store.Changes{}, over(newer)), errs.ErrInvalid)
			_, err = s.Receipt(t.Context(), first.ID)
			require.ErrorIs(t, err, errs.ErrNotFound)

			require.NoError(t, s.CreateMigration(t.Context(), second, store.Changes{}, over(newer)))
			ended, err := s.Migration(t.Context(), first.ID)
			require.NoError(t, err)
			require.Equal(t, store.Aborted, ended.Outcome)
			require.Equal(t, newer.Version+1, ended.Version)
			_, err = s.Receipt(t.Context(), first.ID)
			require.NoError(t, err)
			open, err = s.Migrations(t.Context(), store.Filter{Open: true})
			require.NoError(t, err)
			require.Len(t, open, 1)
			require.Equal(t, second.ID, open[0].ID)
		},
		"lists": func(t *testing.T, s *store.Store, _ string) {
			list := func(f store.Filter) (ids []string) {
				found, err := s.Migrations(t.Context(), f)
				require.NoError(t, err)
				for _, m := range found {
					ids = append(ids, m.ID)
				}
				return ids
			}
			require.Empty(t, list(store.Filter{}))
			for range 11 {
				end(t, s, create(t, s, "a"))
			}
			create(t, s, "a")
			create(t, s, "b")
			require.Len(t, list(store.Filter{}), 13)
			require.Equal(t, []string{"m-13", "m-12", "m-11"}, list(store.Filter{Limit: 3}))
			require.Equal(t, []string{"m-12", "m-11"}, list(store.Filter{Limit: 2, Topic: "a"}))
			require.Equal(t, []string{"m-13", "m-12"}, list(store.Filter{Open: true}))
			require.Equal(t, []string{"m-12"}, list(store.Filter{Open: true, Topic: "a"}))
		},
		"a stale version is refused": func(t *testing.T, s *store.Store, _ string) {
			m := create(t, s, "order_topic")
			stale := *m
			m.State = "preparing"
			require.NoError(t, s.Update(t.Context(), m, store.Changes{Events: []store.Event{{Kind: "state"}}}))
			before := stale
			stale.State = "switching"
			before.State = stale.State
			err := s.Update(t.Context(), &stale, store.Changes{
				Events:  []store.Event{{Kind: "state"}},
				Fences:  []store.Fence{{Cluster: "kafka-a", Physical: "order_topic", Wanted: true}},
				Receipt: &store.Receipt{Doc: json.RawMessage(`{}`)},
			})
			require.ErrorIs(t, err, errs.ErrConflict)
			require.ErrorContains(t, err, "version 2")
			require.Equal(t, before, stale, "it is as it was")
			got, err := s.Migration(t.Context(), m.ID)
			require.NoError(t, err)
			require.Equal(t, m, got)
			requireNothingBut(t, s, m.ID, 1)
		},
		"all of a change or none": func(t *testing.T, s *store.Store, _ string) {
			m := create(t, s, "order_topic")
			event := []store.Event{{Kind: "state"}}
			fence := store.Fence{Cluster: "kafka-a", Physical: "order_topic", Wanted: true}
			for _, ch := range []store.Changes{
				{Events: []store.Event{{Kind: "state"}, {Kind: ""}}},
				{Events: event, Fences: []store.Fence{fence, {Cluster: "kafka-a"}}},
				{Events: event, Fences: []store.Fence{{Cluster: "c", Physical: "p", Migration: "m-99"}}},
				{Events: event, Fences: []store.Fence{fence}, Receipt: &store.Receipt{Doc: json.RawMessage(`{`)}},
				{Events: event, Fences: []store.Fence{fence}, Receipt: &store.Receipt{}},
			} {
				require.ErrorIs(t, s.Update(t.Context(), m, ch), errs.ErrInvalid)
				require.ErrorIs(t, s.CreateMigration(t.Context(), planned("other_topic"), ch), errs.ErrInvalid)
			}
			got, err := s.Migration(t.Context(), m.ID)
			require.NoError(t, err)
			require.Equal(t, m, got)
			requireNothingBut(t, s, m.ID, 0)
			list, err := s.Migrations(t.Context(), store.Filter{})
			require.NoError(t, err)
			require.Len(t, list, 1)
		},
		"history and receipt": func(t *testing.T, s *store.Store, _ string) {
			m := planned("order_topic")
			require.NoError(t, s.CreateMigration(t.Context(), m, store.Changes{Events: []store.Event{{Kind: "created", At: at}}}))
			_, err := s.Receipt(t.Context(), m.ID)
			require.ErrorIs(t, err, errs.ErrNotFound)
			for _, text := range []string{`{"late": 0}`, `{"late":  1}`} {
				ch := store.Changes{
					Events:  []store.Event{{Kind: "ack", Text: "bad \x00", Data: json.RawMessage(`{"z":1, "a":2}`)}, {Kind: "seal"}},
					Receipt: &store.Receipt{At: at, Doc: json.RawMessage(text)},
				}
				require.NoError(t, s.Update(t.Context(), m, ch))
				r, err := s.Receipt(t.Context(), m.ID)
				require.NoError(t, err)
				require.Equal(t, &store.Receipt{Migration: m.ID, At: utc, Doc: json.RawMessage(text)}, r)
				end(t, s, m) // a migration that has ended is written, too
			}
			all, err := s.Events(t.Context(), m.ID, 0, 0)
			require.NoError(t, err)
			require.Len(t, all, 5)
			require.Equal(t, store.Event{Seq: 1, Migration: m.ID, At: utc, Kind: "created"}, all[0])
			require.Equal(t, `{"z":1, "a":2}`, string(all[1].Data))
			require.Equal(t, "bad \uFFFD", all[1].Text)
			some, err := s.Events(t.Context(), m.ID, 1, 3)
			require.NoError(t, err)
			require.Equal(t, all[1:4], some)
			none, err := s.Events(t.Context(), m.ID, 5, 0)
			require.NoError(t, err)
			require.Empty(t, none)
		},
		"people ask": func(t *testing.T, s *store.Store, _ string) {
			m := create(t, s, "order_topic")
			for range 2 { // the second time nothing happens
				require.NoError(t, s.Ask(t.Context(), m.ID, store.Rollback, "bob"))
				require.NoError(t, s.Pause(t.Context(), m.ID, "carol"))
			}
			got, err := s.Migration(t.Context(), m.ID)
			require.NoError(t, err)
			require.Equal(t, store.Rollback, got.Request)
			require.True(t, got.Paused)
			require.Equal(t, int64(3), got.Version)
			require.ErrorIs(t, s.Update(t.Context(), m, store.Changes{}), errs.ErrConflict, "a controller that has not seen it")
			require.NoError(t, s.Ask(t.Context(), m.ID, store.Abort, "bob"))
			require.NoError(t, s.Resume(t.Context(), m.ID, "carol"))
			events, err := s.Events(t.Context(), m.ID, 0, 0)
			require.NoError(t, err)
			var told []string
			for _, e := range events {
				told = append(told, e.Kind+": "+e.Text+" "+string(e.Data))
			}
			require.Equal(t, []string{
				`requested: bob asked for rollback {"by":"bob","request":"rollback"}`,
				`paused: carol paused it {"by":"carol"}`,
				`requested: bob asked for abort {"by":"bob","request":"abort"}`,
				`resumed: carol resumed it {"by":"carol"}`,
			}, told)

			got, err = s.Migration(t.Context(), m.ID)
			require.NoError(t, err)
			require.Equal(t, store.Abort, got.Request)
			require.False(t, got.Paused)
			end(t, s, got)
			for _, err := range []error{
				s.Ask(t.Context(), m.ID, store.Rollback, "bob"), s.Pause(t.Context(), m.ID, "bob"), s.Resume(t.Context(), m.ID, "bob"),
			} {
				require.ErrorIs(t, err, errs.ErrConflict)
				require.ErrorContains(t, err, "has ended (done)")
			}
		},
	})
}

// requireNothingBut says that a migration has so many events and no fence and no receipt.
func requireNothingBut(t *testing.T, s *store.Store, id string, events int) {
	t.Helper()
	list, err := s.Events(t.Context(), id, 0, 0)
	require.NoError(t, err)
	require.Len(t, list, events)
	fences, err := s.Fences(t.Context())
	require.NoError(t, err)
	require.Empty(t, fences)
	_, err = s.Receipt(t.Context(), id)
	require.ErrorIs(t, err, errs.ErrNotFound)
}

func TestFences(t *testing.T) {
	each(t, map[string]func(*testing.T, *store.Store, string){
		"a migration's fences": func(t *testing.T, s *store.Store, _ string) {
			m := create(t, s, "order_topic")
			now := time.Now().UTC().Truncate(time.Microsecond)
			until := now.Add(time.Hour)
			a := store.Fence{Cluster: "kafka-a", Physical: "orders.created", Wanted: true, Restore: `{"max.message.bytes":""}`, Since: now, Until: &until}
			b := store.Fence{Cluster: "kafka-B", Physical: "order_topic", Topic: "order_topic", Since: now, SeenAt: &now, Error: "no leader \xff"}
			require.NoError(t, s.Update(t.Context(), m, store.Changes{Fences: []store.Fence{a, b}}))
			a.Topic, a.Migration, b.Migration, a.Version, b.Version, b.Error = "order_topic", m.ID, m.ID, 1, 1, "no leader \uFFFD"
			all, err := s.Fences(t.Context())
			require.NoError(t, err)
			require.Equal(t, []store.Fence{b, a}, all, "by cluster and name, byte by byte")

			a.Wanted, a.Restore, a.Until = false, "", nil
			require.NoError(t, s.Update(t.Context(), m, store.Changes{Fences: []store.Fence{a}}))
			a.Version = 2
			got, err := s.FenceOf(t.Context(), "kafka-a", "orders.created")
			require.NoError(t, err)
			require.Equal(t, &a, got)
			_, err = s.FenceOf(t.Context(), "kafka-a", "order_topic")
			require.ErrorIs(t, err, errs.ErrNotFound)
		},
		"an older migration does not take it back": func(t *testing.T, s *store.Store, _ string) {
			fence := []store.Fence{{Cluster: "kafka-a", Physical: "order_topic", Wanted: true}}
			first := create(t, s, "order_topic")
			require.NoError(t, s.Update(t.Context(), first, store.Changes{Fences: fence}))
			end(t, s, first)
			second := create(t, s, "order_topic")
			require.NoError(t, s.Update(t.Context(), second, store.Changes{Fences: []store.Fence{{Cluster: "kafka-a", Physical: "order_topic"}}}))
			before := *first
			require.ErrorIs(t, s.Update(t.Context(), first, store.Changes{Fences: fence, Events: []store.Event{{Kind: "late"}}}), errs.ErrConflict)
			require.Equal(t, before, *first)
			got, err := s.FenceOf(t.Context(), "kafka-a", "order_topic")
			require.NoError(t, err)
			require.False(t, got.Wanted)
			require.Equal(t, second.ID, got.Migration)
		},
		"beside a migration": func(t *testing.T, s *store.Store, _ string) {
			m := create(t, s, "order_topic")
			f := store.Fence{Cluster: "kafka-a", Physical: "order_topic", Topic: "order_topic", Migration: m.ID, Wanted: true, Version: 1}
			require.ErrorIs(t, s.PutFence(t.Context(), &f), errs.ErrNotFound)
			f.Version = 0
			require.NoError(t, s.PutFence(t.Context(), &f))
			require.Equal(t, int64(1), f.Version)
			require.WithinDuration(t, time.Now(), f.Since, patience)
			seen, stale, again := time.Now(), f, f
			f.SeenAt = &seen
			require.NoError(t, s.PutFence(t.Context(), &f))
			got, err := s.FenceOf(t.Context(), "kafka-a", "order_topic")
			require.NoError(t, err)
			require.Equal(t, &f, got)
			require.ErrorIs(t, s.PutFence(t.Context(), &stale), errs.ErrConflict)
			require.Equal(t, again, stale)
			again.Version = 0
			require.ErrorIs(t, s.PutFence(t.Context(), &again), errs.ErrConflict)

			// What somebody saw before the migration changed its mind comes too late.
			require.NoError(t, s.Update(t.Context(), m, store.Changes{Fences: []store.Fence{{Cluster: "kafka-a", Physical: "order_topic"}}}))
			require.ErrorIs(t, s.PutFence(t.Context(), &f), errs.ErrConflict)
			got, err = s.FenceOf(t.Context(), "kafka-a", "order_topic")
			require.NoError(t, err)
			require.False(t, got.Wanted)
		},
	})
}

func TestSettings(t *testing.T) {
	each(t, map[string]func(*testing.T, *store.Store, string){
		"the last one is right": func(t *testing.T, s *store.Store, _ string) {
			_, err := s.Setting(t.Context(), "platform")
			require.ErrorIs(t, err, errs.ErrNotFound)
			for _, want := range []string{"a", "", "ü\n'; DROP TABLE settings; --"} {
				require.NoError(t, s.PutSetting(t.Context(), "platform", want))
				got, err := s.Setting(t.Context(), "platform")
				require.NoError(t, err)
				require.Equal(t, want, got)
			}
		},
	})
}

func TestArgumentsAreChecked(t *testing.T) {
	each(t, map[string]func(*testing.T, *store.Store, string){
		"migration": func(t *testing.T, s *store.Store, _ string) {
			now := time.Now()
			m := create(t, s, "order_topic")
			for want, spoil := range map[string]func(m *store.Migration){
				"Topic is empty":                            func(m *store.Migration) { m.Topic = "" },
				"Target is empty":                           func(m *store.Migration) { m.Target = "" },
				"State is empty":                            func(m *store.Migration) { m.State = "" },
				"StartedBy is empty":                        func(m *store.Migration) { m.StartedBy = "" },
				`Topic is "a\x00"`:                          func(m *store.Migration) { m.Topic = "a\x00" },
				`ApprovedBy is "\xff"`:                      func(m *store.Migration) { m.ApprovedBy = "\xff" },
				`Kind is "copy"; use "move" or "settle"`:    func(m *store.Migration) { m.Kind = "copy" },
				`Request is "stop"`:                         func(m *store.Migration) { m.Request = "stop" },
				"Plan is not JSON":                          func(m *store.Migration) { m.Plan = json.RawMessage("{") },
				"Data is not JSON":                          func(m *store.Migration) { m.Data = json.RawMessage("\"\xff\"") },
				`Outcome of a migration with EndedAt is ""`: func(m *store.Migration) { m.EndedAt = &now },
				`without EndedAt is "done"`:                 func(m *store.Migration) { m.Outcome = store.Done },
			} {
				bad := planned("other_topic")
				spoil(bad)
				err := s.CreateMigration(t.Context(), bad, store.Changes{})
				require.ErrorIs(t, err, errs.ErrInvalid)
				require.ErrorContains(t, err, want)
				bad = planned("order_topic")
				bad.ID, bad.Version = m.ID, m.Version
				spoil(bad)
				err = s.Update(t.Context(), bad, store.Changes{})
				require.ErrorIs(t, err, errs.ErrInvalid)
				require.ErrorContains(t, err, want)
			}
		},
		"names": func(t *testing.T, s *store.Store, _ string) {
			m := create(t, s, "order_topic")
			require.ErrorIs(t, s.Ask(t.Context(), m.ID, store.None, "bob"), errs.ErrInvalid)
			require.ErrorIs(t, s.Ask(t.Context(), m.ID, store.Abort, ""), errs.ErrInvalid)
			require.ErrorIs(t, s.PutSetting(t.Context(), "", "x"), errs.ErrInvalid)
			require.ErrorIs(t, s.PutSetting(t.Context(), "x", "\x00"), errs.ErrInvalid)
			require.ErrorIs(t, s.PutFence(t.Context(), &store.Fence{Cluster: "c", Physical: "p", Topic: "t"}), errs.ErrInvalid)
			for id, want := range map[string]error{
				"m-2": errs.ErrNotFound, "": errs.ErrInvalid, "1": errs.ErrInvalid, "m-01": errs.ErrInvalid, "m-0": errs.ErrInvalid, "m--1": errs.ErrInvalid, "m-99999999999999999999": errs.ErrInvalid,
			} {
				for call, err := range calls(t.Context(), s, id) {
					require.ErrorIs(t, err, want, "%s of %q", call, id)
				}
			}
		},
	})
}

// calls does everything that a store does with one migration.
func calls(ctx context.Context, s *store.Store, id string) map[string]error {
	m := planned("order_topic")
	m.ID, m.Version = id, 1
	_, get := s.Migration(ctx, id)
	_, events := s.Events(ctx, id, 0, 0)
	_, receipt := s.Receipt(ctx, id)
	return map[string]error{
		"Migration": get, "Events": events, "Receipt": receipt, "Update": s.Update(ctx, m, store.Changes{}),
		"Ask": s.Ask(ctx, id, store.Abort, "bob"), "Pause": s.Pause(ctx, id, "bob"), "Resume": s.Resume(ctx, id, "bob"),
	}
}

func TestEveryCallEndsWithItsContextAndWithTheStore(t *testing.T) {
	each(t, map[string]func(*testing.T, *store.Store, string){
		"calls": func(t *testing.T, s *store.Store, _ string) {
			m := create(t, s, "order_topic")
			all := func(ctx context.Context) map[string]error {
				c := calls(ctx, s, m.ID)
				_, c["Migrations"] = s.Migrations(ctx, store.Filter{})
				_, c["Fences"] = s.Fences(ctx)
				_, c["FenceOf"] = s.FenceOf(ctx, "c", "p")
				_, c["Setting"] = s.Setting(ctx, "x")
				c["PutSetting"] = s.PutSetting(ctx, "x", "y")
				c["PutFence"] = s.PutFence(ctx, &store.Fence{Cluster: "c", Physical: "p", Topic: "t", Migration: m.ID})
				c["CreateMigration"] = s.CreateMigration(ctx, planned("other_topic"), store.Changes{})
				return c
			}
			ctx, cancel := context.WithCancel(t.Context())
			cancel()
			for call, err := range all(ctx) {
				require.ErrorIs(t, err, context.Canceled, call)
			}
			got, err := s.Migration(t.Context(), m.ID)
			require.NoError(t, err)
			require.Equal(t, m, got)
			require.NoError(t, s.Close())
			require.NoError(t, s.Close())
			for call, err := range all(t.Context()) {
				require.ErrorIs(t, err, errs.ErrClosed, call)
				require.ErrorContains(t, err, fmt.Sprint(s))
			}
		},
	})
}
