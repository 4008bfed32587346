package reconcile_test

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/turnout-mq/turnout/admin/reconcile"
	"github.com/turnout-mq/turnout/admin/store"
	"github.com/turnout-mq/turnout/broker"
	"github.com/turnout-mq/turnout/internal/errs"
	"github.com/turnout-mq/turnout/metadata"
)

// Every kind of difference is shown, and each of its choices makes both sides agree.
func TestEachChoice(t *testing.T) {
	w := newWorld(t)
	s, _ := w.server()
	byHand := func(path, doc string) {
		t.Helper()
		require.NoError(t, w.meta.Set(w.ctx(), path, []byte(doc), metadata.AnyVersion))
	}
	change := func(path string, fields map[string]any) {
		t.Helper()
		n, err := w.meta.Read(w.ctx(), path)
		require.NoError(t, err)
		doc := map[string]any{}
		require.NoError(t, json.Unmarshal(n.Data, &doc))
		for name, value := range fields {
			doc[name] = value
		}
		byHand(path, text(doc))
	}
	catalog := func(kind, name string) string {
		t.Helper()
		i, err := w.db.CatalogItem(w.ctx(), kind, name)
		require.NoError(t, err)
		return string(i.Doc)
	}
	m := w.meta
	for _, c := range []struct {
		name       string
		kind, of   string
		what       string
		do         func()
		detail     string
		choices    []string
		onlyChoice string // "": publish and adopt, each after the same edit
		published  func() bool
		adopted    func() bool
	}{
		{
			name: "edit of a group", kind: store.CatalogGroup, of: "billing", what: reconcile.Edited, detail: "concurrency",
			do:        func() { change(m.GroupPath("billing"), map[string]any{"concurrency": 3}) },
			published: func() bool { g, _, err := m.GetGroup(w.ctx(), "billing"); return err == nil && g.Concurrency == 8 },
			adopted:   func() bool { return strings.Contains(catalog(store.CatalogGroup, "billing"), `"concurrency":3`) },
		},
		{
			name: "edit of a cluster", kind: store.CatalogCluster, of: "b", what: reconcile.Edited, detail: "addresses",
			do:        func() { change(m.ClusterPath("b"), map[string]any{"addresses": []string{"other:1"}}) },
			published: func() bool { c, _, err := m.GetCluster(w.ctx(), "b"); return err == nil && c.Addresses[0] == "h:1" },
			adopted:   func() bool { return strings.Contains(catalog(store.CatalogCluster, "b"), "other:1") },
		},
		{
			name: "edit of a topic's settings", kind: store.CatalogTopic, of: "orders", what: reconcile.Edited, detail: "settings",
			do: func() {
				require.NoError(t, m.UpdateSettings(w.ctx(), "orders", func(s *metadata.TopicSettings) error { s.App = "by_hand"; return nil }))
			},
			published: func() bool {
				topic, err := m.GetTopic(w.ctx(), "orders")
				return err == nil && topic.Settings.App == ""
			},
			adopted: func() bool { return strings.Contains(catalog(store.CatalogTopic, "orders"), "by_hand") },
		},
		{
			name: "edit of a wish", kind: store.CatalogTopic, of: "orders", what: reconcile.Edited, detail: "cluster",
			do: func() { byHand(m.TopicPath("orders"), `{"cluster":"b"}`) },
			published: func() bool {
				topic, err := m.GetTopic(w.ctx(), "orders")
				return err == nil && topic.Wish.Cluster == "a" && topic.Route.Write == "a"
			},
			adopted: func() bool { return strings.Contains(catalog(store.CatalogTopic, "orders"), `"cluster":"b"`) },
		},
		{
			name: "a group is gone", kind: store.CatalogGroup, of: "billing", what: reconcile.Missing, detail: "gone", onlyChoice: reconcile.Publish,
			do:        func() { require.NoError(t, m.DeleteGroup(w.ctx(), "billing")) },
			published: func() bool { g, _, err := m.GetGroup(w.ctx(), "billing"); return err == nil && g.Concurrency == 3 },
		},
		{
			name: "an unreadable group", kind: store.CatalogGroup, of: "billing", what: reconcile.Edited, detail: "nobody can read", onlyChoice: reconcile.Publish,
			choices:   []string{reconcile.Publish, reconcile.Ignore},
			do:        func() { byHand(m.GroupPath("billing"), "clusterName=a") },
			published: func() bool { _, _, err := m.GetGroup(w.ctx(), "billing"); return err == nil },
		},
		{
			name: "a group is gone, and that is right", kind: store.CatalogGroup, of: "billing", what: reconcile.Missing, detail: "gone", onlyChoice: reconcile.Adopt,
			do:      func() { require.NoError(t, m.DeleteGroup(w.ctx(), "billing")) },
			adopted: func() bool { _, err := w.db.CatalogItem(w.ctx(), store.CatalogGroup, "billing"); return err != nil },
		},
		{
			name: "a topic is gone", kind: store.CatalogTopic, of: "orders", what: reconcile.Missing, detail: "gone", onlyChoice: reconcile.Publish,
			do: func() { require.NoError(t, m.DeleteTopic(w.ctx(), "orders")) },
			published: func() bool {
				topic, err := m.GetTopic(w.ctx(), "orders")
				return err == nil && topic.Route != nil && topic.Settings.App == "by_hand"
			},
		},
		{
			name: "a topic past the platform", kind: store.CatalogTopic, of: "letters", what: reconcile.Unknown, detail: "past the platform", onlyChoice: reconcile.Adopt,
			choices: []string{reconcile.Adopt, reconcile.Ignore},
			do: func() {
				require.NoError(t, w.broker("a").CreateTopic(w.ctx(), "letters", broker.TopicSpec{Partitions: 3}))
				_, err := m.PutTopic(w.ctx(), "letters", metadata.PutTopic{Cluster: "a"})
				require.NoError(t, err)
			},
			adopted: func() bool {
				i, err := w.db.CatalogItem(w.ctx(), store.CatalogTopic, "letters")
				return err == nil && i.Partitions == 3 && i.Cluster == "a"
			},
		},
		{
			name: "a topic is gone from its cluster", kind: store.CatalogTopic, of: "letters", what: reconcile.Absent, detail: "does not have the topic letters", onlyChoice: reconcile.Publish,
			choices:   []string{reconcile.Publish, reconcile.Ignore},
			do:        func() { require.NoError(t, w.broker("a").DeleteTopic(w.ctx(), "letters")) },
			published: func() bool { return len(w.brokers["a"].Partitions("letters")) == 3 },
		},
		{
			name: "other partitions", kind: store.CatalogTopic, of: "letters", what: reconcile.Settings, detail: "partitions", onlyChoice: reconcile.Adopt,
			choices: []string{reconcile.Adopt, reconcile.Ignore},
			do: func() {
				// In one step for who looks: the name is another one on the cluster.
				require.NoError(t, w.broker("a").CreateTopic(w.ctx(), "letters-2", broker.TopicSpec{Partitions: 5}))
				named := func(s *metadata.TopicSettings) error { s.Names = map[string]string{"a": "letters-2"}; return nil }
				require.NoError(t, m.UpdateSettings(w.ctx(), "letters", named))
				d := w.onZooKeeper("letters")
				require.NoError(t, s.Adopt(w.ctx(), d.ID, d.Version))
			},
			adopted: func() bool {
				i, err := w.db.CatalogItem(w.ctx(), store.CatalogTopic, "letters")
				return err == nil && i.Partitions == 5
			},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := *w
			w.T = t
			w.agreed()
			choices := []string{reconcile.Publish, reconcile.Adopt}
			if c.onlyChoice != "" {
				choices = []string{c.onlyChoice}
			}
			for _, choice := range choices {
				c.do()
				d := w.differs(c.kind, c.of, c.what)
				require.Contains(t, d.Detail, c.detail)
				if c.choices != nil {
					require.Equal(t, c.choices, d.Choices)
				}
				choose, done := s.Publish, c.published
				if choice == reconcile.Adopt {
					choose, done = s.Adopt, c.adopted
				}
				require.ErrorIs(t, choose(w.ctx(), d.ID, d.Version+1), errs.ErrConflict)
				require.NoError(t, choose(w.ctx(), d.ID, d.Version), choice)
				require.True(t, done(), choice)
				w.agreed()
				audits, err := w.db.Audits(w.ctx(), store.AuditFilter{Kind: "drift", Subject: d.ID, Action: choice})
				require.NoError(t, err)
				require.Len(t, audits, 1)
				require.Equal(t, "bob", audits[0].Who)
			}
		})
	}
}

func TestIgnoredUntilItChanges(t *testing.T) {
	w := newWorld(t)
	s, _ := w.server()
	edit := func(n int) {
		require.NoError(t, w.meta.UpdateGroup(w.ctx(), "billing", func(g *metadata.Group) error { g.Concurrency = n; return nil }))
	}
	edit(3)
	d := w.differs(store.CatalogGroup, "billing", reconcile.Edited)
	_, err := s.Ignore(w.ctx(), d.ID, d.Version, "")
	require.ErrorIs(t, err, errs.ErrInvalid)
	d, err = s.Ignore(w.ctx(), d.ID, d.Version, "until Monday")
	require.NoError(t, err)
	require.Equal(t, "bob", d.Ignored.By)
	w.rounds()
	d, err = s.Get(w.ctx(), d.ID)
	require.NoError(t, err)
	require.Equal(t, "until Monday", d.Ignored.Reason)
	edit(4)
	w.eventually(func() bool {
		now, err := s.Get(w.ctx(), d.ID)
		require.NoError(t, err)
		return now.Ignored == nil && now.Version > d.Version
	}, "the other edit to be shown")
	edit(8)
	w.agreed()
}

// What the platform is about to do is no difference; what a failed request has left is one.
func TestWhatIsUnderWay(t *testing.T) {
	w := newWorld(t)
	r := &store.ChangeRequest{Kind: "settings", State: store.Executing, Applicant: "alice", Subject: "billing", Spec: json.RawMessage("{}")}
	require.NoError(t, w.db.CreateRequest(w.ctx(), r, store.RequestChanges{}))
	require.NoError(t, w.meta.UpdateGroup(w.ctx(), "billing", func(g *metadata.Group) error { g.Concurrency = 3; return nil }))
	move := &store.Migration{Topic: "orders", Target: "b", Kind: store.Move, State: "switching", StartedBy: "alice"}
	require.NoError(t, w.db.CreateMigration(w.ctx(), move, store.Changes{}))
	require.NoError(t, w.meta.Set(w.ctx(), w.meta.TopicPath("orders"), []byte(`{"cluster":"b"}`), metadata.AnyVersion))
	s, _ := w.server()
	w.rounds()
	list, err := s.List(w.ctx(), store.DriftFilter{})
	require.NoError(t, err)
	require.Empty(t, list, text(list))

	r.State = store.RequestBad
	require.NoError(t, w.db.UpdateRequest(w.ctx(), r, store.RequestChanges{}))
	now := r.UpdatedAt
	move.State, move.Outcome, move.EndedAt = "failed", store.Failed, &now
	require.NoError(t, w.db.Update(w.ctx(), move, store.Changes{}))
	w.differs(store.CatalogGroup, "billing", reconcile.Edited)
	w.differs(store.CatalogTopic, "orders", reconcile.Edited)
}

// A topic that keeps the order of its keys is not sent back in one step; secrets are neither shown nor adopted; what was edited
// after it was shown is not written over.
func TestRefusals(t *testing.T) {
	w := newWorld(t)
	s, stop := w.server()
	_, err := w.meta.PutTopic(w.ctx(), "orders", metadata.PutTopic{Cluster: "b", Order: metadata.OrderKey})
	require.NoError(t, err)
	d := w.differs(store.CatalogTopic, "orders", reconcile.Edited)
	err = s.Publish(w.ctx(), d.ID, d.Version)
	require.ErrorIs(t, err, errs.ErrInvalid)
	require.ErrorContains(t, err, "migration")

	require.NoError(t, w.meta.UpdateCluster(w.ctx(), "a", func(c *metadata.Cluster) error {
		c.Properties = map[string]string{"sasl.password": "hunter2", "client.rack": "r1"}
		return nil
	}))
	d = w.differs(store.CatalogCluster, "a", reconcile.Edited)
	require.NotContains(t, text(d), "hunter2")
	require.Contains(t, string(d.Found), "env:LOGIN")
	err = s.Adopt(w.ctx(), d.ID, d.Version)
	require.ErrorIs(t, err, errs.ErrInvalid)
	require.NotContains(t, err.Error(), "hunter2")
	require.NoError(t, s.Publish(w.ctx(), d.ID, d.Version))

	require.NoError(t, w.meta.UpdateGroup(w.ctx(), "billing", func(g *metadata.Group) error { g.Concurrency = 3; return nil }))
	d = w.differs(store.CatalogGroup, "billing", reconcile.Edited)
	stop()
	require.NoError(t, w.meta.UpdateGroup(w.ctx(), "billing", func(g *metadata.Group) error { g.Concurrency = 4; return nil }))
	other, _ := w.idle()
	for _, choose := range []func() error{
		func() error { return other.Publish(w.ctx(), d.ID, d.Version) },
		func() error { return other.Adopt(w.ctx(), d.ID, d.Version) },
	} {
		require.ErrorIs(t, choose(), errs.ErrConflict)
	}
	g, _, err := w.meta.GetGroup(w.ctx(), "billing")
	require.NoError(t, err)
	require.Equal(t, 4, g.Concurrency)
	require.ErrorIs(t, other.Publish(w.ctx(), "d-999", 1), errs.ErrNotFound)
	require.ErrorIs(t, other.Publish(w.ctx(), "x", 1), errs.ErrInvalid)
}

// When a server ends, another one looks at its part.
func TestServersShareTheWork(t *testing.T) {
	w := newWorld(t)
	_, first := w.server()
	w.server()
	for _, name := range []string{"c1", "c2", "c3", "c4", "c5", "c6", "c7", "c8"} {
		require.NoError(t, w.meta.PutCluster(w.ctx(), name, metadata.Cluster{Kind: broker.Kafka, Addresses: []string{"h:1"}}))
		w.differs(store.CatalogCluster, name, reconcile.Unknown)
	}
	first()
	for _, name := range []string{"c1", "c2", "c3", "c4", "c5", "c6", "c7", "c8"} {
		require.NoError(t, w.meta.DeleteCluster(w.ctx(), name))
	}
	w.agreed()
}

// A topic that somebody has made by hand, with a wish and nothing else, is compared with the cluster that it is wished for.
func TestMadeByHand(t *testing.T) {
	w := newWorld(t)
	s, _ := w.server()
	require.NoError(t, w.meta.Create(w.ctx(), w.meta.TopicPath("by_hand"), []byte(`{"cluster":"a"}`)))
	d := w.differs(store.CatalogTopic, "by_hand", reconcile.Unknown)
	require.NoError(t, s.Adopt(w.ctx(), d.ID, d.Version))
	d = w.differs(store.CatalogTopic, "by_hand", reconcile.Absent)
	require.Equal(t, "a", d.Cluster)
	require.NoError(t, s.Publish(w.ctx(), d.ID, d.Version))
	_, err := w.broker("a").DescribeTopic(w.ctx(), "by_hand")
	require.NoError(t, err)
}

// Shadow topics are nobody's to apply for.
func TestShadowTopicsAreKnown(t *testing.T) {
	w := newWorld(t)
	_, err := w.meta.PutTopic(w.ctx(), metadata.ShadowPrefix+"orders", metadata.PutTopic{Cluster: "a"})
	require.NoError(t, err)
	w.server()
	w.rounds()
	w.agreed()
}
