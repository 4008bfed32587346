package store_test

import (
	"encoding/json"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/turnout-mq/turnout/admin/store"
	"github.com/turnout-mq/turnout/internal/errs"
)

func asked(subject string) *store.ChangeRequest {
	return &store.ChangeRequest{Kind: "topic", State: store.Draft, Applicant: "alice", App: "order_service", Subject: subject, Spec: json.RawMessage(`{"name": 1}`)}
}

func item(name string) store.CatalogItem {
	return store.CatalogItem{Kind: store.CatalogTopic, Name: name, App: "order_service", Cluster: "kafka-a", Partitions: 3,
		Labels: map[string]string{"a": "b"}, Doc: json.RawMessage(`{"cluster":"kafka-a"}`), State: store.Creating}
}

func TestRequests(t *testing.T) {
	each(t, map[string]func(*testing.T, *store.Store, string){
		"come back as they were": func(t *testing.T, s *store.Store, _ string) {
			r := asked("order_topic")
			at := time.Now()
			r.SubmittedAt, r.ExpiresAt, r.DecidedAt, r.NextAt, r.EndedAt = &at, &at, &at, &at, &at
			r.Reason, r.Cluster, r.ClusterReason, r.DecidedBy, r.Decision, r.Step, r.Attempts, r.Error = "why", "kafka-a", "rule x", "bob", "yes", "recorded", 3, "no \x00 answer"
			r.Result = json.RawMessage(`{"migration":"m-1"}`)
			require.NoError(t, s.CreateRequest(t.Context(), r, store.RequestChanges{Action: "draft"}))
			require.Equal(t, "r-1", r.ID)
			got, err := s.ChangeRequest(t.Context(), r.ID)
			require.NoError(t, err)
			r.Error = "no \uFFFD answer"
			require.Equal(t, r, got)
			r.State, r.EndedAt = store.Executing, nil
			require.NoError(t, s.UpdateRequest(t.Context(), r, store.RequestChanges{}))
			require.Equal(t, int64(2), r.Version)
			got, err = s.ChangeRequest(t.Context(), r.ID)
			require.NoError(t, err)
			require.Equal(t, r, got)
			audits, err := s.Audits(t.Context(), store.AuditFilter{Request: r.ID})
			require.NoError(t, err)
			require.Len(t, audits, 1, "bookkeeping is not audited")
		},
		"are written by one": func(t *testing.T, s *store.Store, _ string) {
			r := asked("order_topic")
			require.NoError(t, s.CreateRequest(t.Context(), r, store.RequestChanges{}))
			var wg sync.WaitGroup
			results := make([]error, 10)
			for i := range results {
				mine := *r
				wg.Go(func() {
					mine.Reason = fmt.Sprint(i)
					results[i] = s.UpdateRequest(t.Context(), &mine, store.RequestChanges{Events: []store.RequestEvent{{Kind: "x"}}})
				})
			}
			wg.Wait()
			won := 0
			for _, err := range results {
				if err == nil {
					won++
				} else {
					require.ErrorIs(t, err, errs.ErrConflict)
				}
			}
			require.Equal(t, 1, won)
			events, err := s.RequestEvents(t.Context(), r.ID, 0, 0)
			require.NoError(t, err)
			require.Len(t, events, 1)
			require.Equal(t, store.System, events[0].Who)
		},
		"all or nothing": func(t *testing.T, s *store.Store, _ string) {
			r := asked("order_topic")
			require.NoError(t, s.CreateRequest(t.Context(), r, store.RequestChanges{}))
			taken := item("taken")
			require.NoError(t, s.PutCatalog(t.Context(), &taken, ""))
			ch := store.RequestChanges{Action: "x", Events: []store.RequestEvent{{Kind: "x"}}, Put: []store.CatalogItem{item("fresh"), item("taken")},
				Outbox: &store.Outbox{Kind: store.CatalogTopic, Name: "fresh"}}
			before := *r
			require.ErrorIs(t, s.UpdateRequest(t.Context(), r, ch), errs.ErrConflict)
			require.Equal(t, before, *r)
			ch.Put = ch.Put[:1]
			ch.Owner = "nobody"
			require.ErrorIs(t, s.UpdateRequest(t.Context(), r, ch), errs.ErrNotFound, "no such user")
			_, err := s.CatalogItem(t.Context(), store.CatalogTopic, "fresh")
			require.ErrorIs(t, err, errs.ErrNotFound)
			_, err = s.OutboxOf(t.Context(), r.ID)
			require.ErrorIs(t, err, errs.ErrNotFound)
			ch.Owner, ch.FirstOwner = "", "nobody"
			require.NoError(t, s.UpdateRequest(t.Context(), r, ch), "who is no user becomes no owner")
			open, err := s.OpenOutbox(t.Context(), 0)
			require.NoError(t, err)
			require.Len(t, open, 1)
			require.Equal(t, r.ID, open[0].Request)
			require.NoError(t, s.UpdateRequest(t.Context(), r, store.RequestChanges{Published: true}))
			open, err = s.OpenOutbox(t.Context(), 0)
			require.NoError(t, err)
			require.Empty(t, open)
		},
		"their first owner": func(t *testing.T, s *store.Store, _ string) {
			for _, name := range []string{"alice", "bob"} {
				require.NoError(t, s.CreateUser(t.Context(), &store.User{Name: name, Role: store.Applicant}, nil))
				r := asked("topic_of_" + name)
				require.NoError(t, s.CreateRequest(t.Context(), r, store.RequestChanges{FirstOwner: name}))
			}
			owners, err := s.Owners(t.Context(), "order_service")
			require.NoError(t, err)
			require.Equal(t, []string{"alice"}, owners)
		},
		"what is not acceptable": func(t *testing.T, s *store.Store, _ string) {
			for what, change := range map[string]func(*store.ChangeRequest){
				"Kind":      func(r *store.ChangeRequest) { r.Kind = "" },
				"State":     func(r *store.ChangeRequest) { r.State = "lost" },
				"Applicant": func(r *store.ChangeRequest) { r.Applicant = "" },
				"Subject":   func(r *store.ChangeRequest) { r.Subject = "a\x00" },
				"Spec":      func(r *store.ChangeRequest) { r.Spec = nil },
				"Result":    func(r *store.ChangeRequest) { r.Result = json.RawMessage("{") },
			} {
				r := asked("order_topic")
				change(r)
				err := s.CreateRequest(t.Context(), r, store.RequestChanges{})
				require.ErrorIs(t, err, errs.ErrInvalid, what)
				require.ErrorContains(t, err, what)
			}
			for _, id := range []string{"", "m-1", "r-0", "r-01", "r-x"} {
				_, err := s.ChangeRequest(t.Context(), id)
				require.ErrorIs(t, err, errs.ErrInvalid, id)
			}
			_, err := s.RequestEvents(t.Context(), "r-7", 0, 0)
			require.ErrorIs(t, err, errs.ErrNotFound)
			require.ErrorIs(t, s.AddRequestEvent(t.Context(), "r-7", "comment", store.RequestEvent{Kind: "comment"}), errs.ErrNotFound)
			require.ErrorIs(t, s.UpdateRequest(t.Context(), &store.ChangeRequest{ID: "r-7", Kind: "x", State: store.Draft, Applicant: "x", Subject: "x", Spec: json.RawMessage("1")}, store.RequestChanges{}), errs.ErrNotFound)
		},
		"are found": func(t *testing.T, s *store.Store, _ string) {
			soon := time.Now().Add(time.Hour)
			for i := range 5 {
				r := asked(fmt.Sprintf("Topic_%d", i))
				if i%2 == 0 {
					r.State, r.ExpiresAt, r.DecidedBy = store.Submitted, &soon, "bob"
				}
				require.NoError(t, s.CreateRequest(t.Context(), r, store.RequestChanges{}))
			}
			for what, c := range map[string]struct {
				f    store.RequestFilter
				want []string
			}{
				"all":            {store.RequestFilter{}, []string{"r-5", "r-4", "r-3", "r-2", "r-1"}},
				"oldest":         {store.RequestFilter{Oldest: true, Limit: 2}, []string{"r-1", "r-2"}},
				"a page":         {store.RequestFilter{Before: "r-4", Limit: 2}, []string{"r-3", "r-2"}},
				"states":         {store.RequestFilter{States: []store.RequestState{store.Submitted, store.Approved}}, []string{"r-5", "r-3", "r-1"}},
				"in any case":    {store.RequestFilter{Text: "tOPIC_3"}, []string{"r-4"}},
				"no wildcards":   {store.RequestFilter{Text: "Topic%"}, nil},
				"expiring":       {store.RequestFilter{ExpireUntil: soon}, []string{"r-5", "r-3", "r-1"}},
				"not yet":        {store.RequestFilter{ExpireUntil: time.Now()}, nil},
				"decided by":     {store.RequestFilter{DecidedBy: "bob", Subject: "Topic_2"}, []string{"r-3"}},
				"by nobody else": {store.RequestFilter{NotApplicant: "alice"}, nil},
			} {
				list, err := s.ChangeRequests(t.Context(), c.f)
				require.NoError(t, err, what)
				var ids []string
				for _, r := range list {
					ids = append(ids, r.ID)
				}
				require.Equal(t, c.want, ids, what)
			}
			counts, err := s.CountRequests(t.Context(), store.RequestFilter{})
			require.NoError(t, err)
			require.Equal(t, map[store.RequestState]int{store.Draft: 2, store.Submitted: 3}, counts)
			_, err = s.ChangeRequests(t.Context(), store.RequestFilter{Before: "x"})
			require.ErrorIs(t, err, errs.ErrInvalid)
		},
	})
}

func TestCatalog(t *testing.T) {
	each(t, map[string]func(*testing.T, *store.Store, string){
		"an item": func(t *testing.T, s *store.Store, _ string) {
			i := item("order_topic")
			require.NoError(t, s.PutCatalog(t.Context(), &i, "r-1"))
			require.Equal(t, int64(1), i.Version)
			got, err := s.CatalogItem(t.Context(), store.CatalogTopic, "order_topic")
			require.NoError(t, err)
			require.Equal(t, i, *got)
			again := item("order_topic")
			require.ErrorIs(t, s.PutCatalog(t.Context(), &again, ""), errs.ErrConflict)
			old := i
			i.State, i.Labels, i.Doc = store.Active, nil, json.RawMessage(`{"cluster":"kafka-b"}`)
			require.NoError(t, s.PutCatalog(t.Context(), &i, "r-1"))
			require.ErrorIs(t, s.PutCatalog(t.Context(), &old, ""), errs.ErrConflict)
			got, err = s.CatalogItem(t.Context(), store.CatalogTopic, "order_topic")
			require.NoError(t, err)
			require.Equal(t, i, *got)
			require.ErrorIs(t, s.RemoveCatalog(t.Context(), store.CatalogTopic, "order_topic", 1, ""), errs.ErrConflict)
			require.NoError(t, s.RemoveCatalog(t.Context(), store.CatalogTopic, "order_topic", 2, "r-2"))
			require.ErrorIs(t, s.RemoveCatalog(t.Context(), store.CatalogTopic, "order_topic", 2, ""), errs.ErrNotFound)
			require.ErrorIs(t, s.PutCatalog(t.Context(), &i, ""), errs.ErrNotFound, "it is gone")
			audits, err := s.Audits(t.Context(), store.AuditFilter{Kind: "topic", Subject: "order_topic", Oldest: true})
			require.NoError(t, err)
			var actions []string
			for _, a := range audits {
				actions = append(actions, a.Action+" "+a.Request)
			}
			require.Equal(t, []string{"create r-1", "change r-1", "delete r-2"}, actions)
			require.Contains(t, string(audits[1].Before), "kafka-a")
			require.Contains(t, string(audits[1].After), "kafka-b")
			for _, bad := range []store.CatalogItem{{}, {Kind: "user", Name: "x", Doc: json.RawMessage("1"), State: store.Active}, {Kind: store.CatalogTopic, Name: "x", State: store.Active}, {Kind: store.CatalogTopic, Name: "x", Doc: json.RawMessage("{")}} {
				require.ErrorIs(t, s.PutCatalog(t.Context(), &bad, ""), errs.ErrInvalid)
			}
		},
		"names in the order of their bytes": func(t *testing.T, s *store.Store, _ string) {
			for _, name := range []string{"b", "B", "a-1", "a_1", "A", "a1"} {
				i := item(name)
				require.NoError(t, s.PutCatalog(t.Context(), &i, ""))
			}
			cluster := item("kafka-a")
			cluster.Kind, cluster.Cluster = store.CatalogCluster, ""
			require.NoError(t, s.PutCatalog(t.Context(), &cluster, ""))
			var names []string
			for after := ""; ; {
				page, err := s.Catalog(t.Context(), store.CatalogFilter{Kind: store.CatalogTopic, After: after, Limit: 2})
				require.NoError(t, err)
				if len(page) == 0 {
					break
				}
				for _, i := range page {
					names = append(names, i.Name)
				}
				after = names[len(names)-1]
			}
			require.Equal(t, []string{"A", "B", "a-1", "a1", "a_1", "b"}, names)
			found, err := s.Catalog(t.Context(), store.CatalogFilter{Kind: store.CatalogTopic, Text: "A_", App: "order_service", Cluster: "kafka-a", State: store.Creating})
			require.NoError(t, err)
			require.Len(t, found, 1)
			loads, err := s.Loads(t.Context())
			require.NoError(t, err)
			require.Equal(t, map[string]store.Load{"kafka-a": {Topics: 6, Partitions: 18}}, loads)
			counts, err := s.CatalogCounts(t.Context())
			require.NoError(t, err)
			require.Equal(t, map[string]int{"topic": 6, "cluster": 1}, counts)
		},
		"policies and rules": func(t *testing.T, s *store.Store, _ string) {
			p := store.RequestPolicy{Kind: "topic", Approval: true, Days: 3}
			require.NoError(t, s.PutRequestPolicy(t.Context(), &p))
			stale := store.RequestPolicy{Kind: "topic", Days: 4}
			require.ErrorIs(t, s.PutRequestPolicy(t.Context(), &stale), errs.ErrConflict)
			missing := store.RequestPolicy{Kind: "group", Days: 4, Version: 7}
			require.ErrorIs(t, s.PutRequestPolicy(t.Context(), &missing), errs.ErrConflict)
			p.Days = 5
			require.NoError(t, s.PutRequestPolicy(t.Context(), &p))
			all, err := s.RequestPolicies(t.Context())
			require.NoError(t, err)
			require.Equal(t, map[string]store.RequestPolicy{"topic": {Kind: "topic", Approval: true, Days: 5, Version: 2}}, all)
			for i, name := range []string{"c", "b", "a"} {
				r := store.StoredRule{Name: name, Priority: i / 2, Doc: json.RawMessage(`{}`)}
				require.NoError(t, s.PutAllotmentRule(t.Context(), &r))
			}
			rules, err := s.AllotmentRules(t.Context())
			require.NoError(t, err)
			require.Equal(t, []string{"b", "c", "a"}, []string{rules[0].Name, rules[1].Name, rules[2].Name})
			audits, err := s.Audits(t.Context(), store.AuditFilter{Kind: "policy"})
			require.NoError(t, err)
			require.Len(t, audits, 2)
		},
	})
}
