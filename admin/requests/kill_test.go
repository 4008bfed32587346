package requests

import (
	"encoding/json"
	"io"
	"slices"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/turnout-mq/turnout/admin/store"
	"github.com/turnout-mq/turnout/internal/errs"
	"github.com/turnout-mq/turnout/metadata"
)

// A server is killed at every place between two steps; another one finishes, all three agree, and nothing was done twice.
func TestKilledAtEveryStep(t *testing.T) {
	yes := true
	for _, c := range []struct {
		name  string
		steps []string
		// before is done by a server that lives; it returns what is filed then.
		before func(s *stage, service *Service, name string) New
		after  func(s *stage, name string)
	}{
		{
			"topic", []string{atBroker, atCatalog, atZooKeeper},
			func(_ *stage, _ *Service, name string) New { return topic(name) },
			func(s *stage, name string) { s.requireTopic(name, "kafka-a", 3) },
		},
		{
			"group", []string{atBroker, atCatalog, atZooKeeper},
			func(s *stage, service *Service, name string) New {
				s.done(service, topic(name+"-topic"), Approval{Cluster: "kafka-a"})
				return group(name, name+"-topic")
			},
			func(s *stage, name string) {
				g, _, err := s.meta.GetGroup(s.Context(), name)
				require.NoError(s, err)
				require.Equal(s, []string{name + "-topic"}, g.Topics)
				s.requireItem(store.CatalogGroup, name, g)
			},
		},
		{
			"cluster", []string{atBroker, atCatalog, atZooKeeper},
			func(_ *stage, _ *Service, name string) New {
				return New{Cluster: &ClusterSpec{Name: name, Kind: "kafka", Addresses: env.Addresses("kafka-b"), Labels: map[string]string{"zone": "b"}}}
			},
			func(s *stage, name string) {
				c, _, err := s.meta.GetCluster(s.Context(), name)
				require.NoError(s, err)
				require.Equal(s, env.ClusterID("kafka-b"), c.ClusterID, "what answered")
				s.requireItem(store.CatalogCluster, name, c)
			},
		},
		{
			"settings", []string{atBroker, atCatalog, atZooKeeper},
			func(s *stage, service *Service, name string) New {
				s.done(service, topic(name+"-topic"), Approval{Cluster: "kafka-a"})
				s.done(service, group(name, name+"-topic"), Approval{})
				return New{Settings: &SettingsSpec{Group: &GroupChange{Name: name, Paused: &yes}}}
			},
			func(s *stage, name string) {
				g, _, err := s.meta.GetGroup(s.Context(), name)
				require.NoError(s, err)
				require.True(s, g.Paused)
				s.requireItem(store.CatalogGroup, name, g)
			},
		},
		{
			"deletion", []string{atCatalog, atZooKeeper, atBroker},
			func(s *stage, service *Service, name string) New {
				s.done(service, topic(name), Approval{Cluster: "kafka-a"})
				return New{Deletion: &DeletionSpec{Kind: KindTopic, Name: name, Data: true}}
			},
			func(s *stage, name string) {
				_, err := s.meta.GetTopic(s.Context(), name)
				require.ErrorIs(s, err, errs.ErrUnknownTopic)
				_, err = s.db.CatalogItem(s.Context(), store.CatalogTopic, name)
				require.ErrorIs(s, err, errs.ErrNotFound)
				_, err = s.on("kafka-a").DescribeTopic(s.Context(), name)
				require.ErrorIs(s, err, errs.ErrUnknownTopic)
			},
		},
	} {
		for _, step := range c.steps {
			t.Run(c.name+" at "+step, func(t *testing.T) {
				t.Parallel()
				s := newStage(t)
				service := s.service()
				name := "killed-" + c.name + "-" + step
				stop := s.run(service)
				n := c.before(s, service, name)
				stop()
				applicant := alice
				if n.Cluster != nil {
					applicant = admin // who may register one
				}
				r := s.file(service, applicant, n)
				a := Approval{}
				if n.Topic != nil {
					a.Cluster = "kafka-a"
				}
				r, err := service.Approve(t.Context(), bob, r.ID, r.Version, a)
				require.NoError(t, err)

				child := s.child(step)
				session := child.at(r.ID, step)
				child.kill()
				child.expire(session)
				s.run(service)
				r = s.ended(r.ID)
				require.Equal(t, store.RequestOK, r.State, r.Error)
				c.after(s, name)
				s.requireOnce(r)
			})
		}
	}
}

// requireTopic: broker, database and ZooKeeper agree.
func (s *stage) requireTopic(name, cluster string, partitions int) {
	s.Helper()
	info, err := s.on(cluster).DescribeTopic(s.Context(), name)
	require.NoError(s, err)
	require.Len(s, info.Partitions, partitions)
	t, err := s.meta.GetTopic(s.Context(), name)
	require.NoError(s, err)
	require.NoError(s, t.Err)
	require.Equal(s, cluster, t.Wish.Cluster)
	require.Equal(s, cluster, t.Route.Write)
	require.True(s, metadata.Answered(t.Route, t.WishNode))
	item, err := s.db.CatalogItem(s.Context(), store.CatalogTopic, name)
	require.NoError(s, err)
	require.Equal(s, store.Active, item.State)
	require.Equal(s, cluster, item.Cluster)
	require.Equal(s, partitions, item.Partitions)
	doc, err := parse[TopicDoc](item.Doc)
	require.NoError(s, err)
	require.Equal(s, cluster, doc.Cluster)
	equal, err := same(doc.Settings, t.Settings)
	require.NoError(s, err)
	require.True(s, equal, "%s", item.Doc)
}

// requireItem: the catalog has what ZooKeeper has.
func (s *stage) requireItem(kind, name string, doc any) {
	s.Helper()
	item, err := s.db.CatalogItem(s.Context(), kind, name)
	require.NoError(s, err)
	require.Equal(s, store.Active, item.State)
	data, err := json.Marshal(doc)
	require.NoError(s, err)
	require.JSONEq(s, string(data), string(item.Doc))
}

// requireOnce: each step of the request stands in the history once, and each change in the audit.
func (s *stage) requireOnce(r *store.ChangeRequest) {
	s.Helper()
	events, err := s.db.RequestEvents(s.Context(), r.ID, 0, 0)
	require.NoError(s, err)
	seen := map[string]int{}
	for _, e := range events {
		if e.Kind != "tried" { // a session may have been lost
			seen[e.Kind+" "+e.Text]++
		}
	}
	for what, n := range seen {
		require.Equal(s, 1, n, what)
	}
	require.Equal(s, 1, seen["executing "])
	require.Equal(s, 1, seen["done "])
	open, err := s.db.OpenOutbox(s.Context(), 0)
	require.NoError(s, err)
	require.Empty(s, open)
	audits, err := s.db.Audits(s.Context(), store.AuditFilter{Request: r.ID})
	require.NoError(s, err)
	once := map[string]int{}
	for _, a := range audits {
		if a.Action == "create" || a.Action == "delete" || a.Kind == "request" {
			once[a.Action+" "+a.Kind]++
		}
	}
	for what, n := range once {
		require.Equal(s, 1, n, what)
	}
	require.Eventually(s, func() bool { // the item goes a moment after the request is done
		q, err := s.meta.Children(s.Context(), s.root+"/queue/"+r.Subject)
		require.NoError(s, err)
		return !slices.ContainsFunc(q, func(name string) bool { return len(name) > 5 && name[:5] == "item-" })
	}, patience, tick)
}

// A server stands still before it writes ZooKeeper; meanwhile another one has done it, and the topic was deleted. What it does when it
// goes on makes nothing that is not wanted.
func TestAServerThatSleepsDoesNothingLate(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	service := s.service()
	r := s.approved(service, topic("late_topic"), Approval{Cluster: "kafka-a"})
	child := s.child(atCatalog)
	session := child.at(r.ID, atCatalog)
	require.NoError(t, child.cmd.Process.Signal(syscall.SIGSTOP))
	child.expire(session)

	stop := s.run(service)
	require.Equal(t, store.RequestOK, s.ended(r.ID).State)
	s.done(service, New{Deletion: &DeletionSpec{Kind: KindTopic, Name: "late_topic", Data: true}}, Approval{})
	stop()

	again := topic("late_topic")
	again.Topic.Partitions = 5
	second := s.approved(service, again, Approval{Cluster: "kafka-b"})
	require.NoError(t, child.cmd.Process.Signal(syscall.SIGCONT))
	_, err := io.WriteString(child.stdin, "go on\n")
	require.NoError(t, err)
	// The child takes the second request when it has given up the first: one after the other on one subject.
	second = s.ended(second.ID)
	require.Equal(t, store.RequestOK, second.State, second.Error)
	s.requireTopic("late_topic", "kafka-b", 5)
	_, err = s.on("kafka-a").DescribeTopic(t.Context(), "late_topic")
	require.ErrorIs(t, err, errs.ErrUnknownTopic)
	s.requireOnce(r)
}
