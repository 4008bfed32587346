package requests

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/turnout-mq/turnout/admin/migrate"
	"github.com/turnout-mq/turnout/admin/store"
	"github.com/turnout-mq/turnout/broker"
	"github.com/turnout-mq/turnout/internal/errs"
	"github.com/turnout-mq/turnout/metadata"
)

func TestATopicIsMade(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	service := s.service()
	s.run(service)
	no := false
	n := topic("made_topic")
	n.Topic.Order, n.Topic.Physical, n.Topic.Shadow, n.Topic.Labels = metadata.OrderKey, "orders.made", &no, map[string]string{"class": "gold"}
	r := s.done(service, n, Approval{Cluster: "kafka-b"})
	require.Equal(t, []string{"drafted", "submitted", "approved", "executing", "step", "done"}, s.kinds(r.ID))
	info, err := s.on("kafka-b").DescribeTopic(t.Context(), "orders.made")
	require.NoError(t, err)
	require.Len(t, info.Partitions, 3)
	require.Equal(t, "86400000", info.Settings["retention.ms"])
	made, err := s.meta.GetTopic(t.Context(), "made_topic")
	require.NoError(t, err)
	require.Equal(t, []any{"order_service", "orders.made", false, metadata.OrderKey, "kafka-b"},
		[]any{made.Settings.App, made.Settings.Physical("made_topic", "kafka-b"), made.Settings.Shadow.Enabled, made.Route.Order, made.Route.Write})
	item, err := s.db.CatalogItem(t.Context(), store.CatalogTopic, "made_topic")
	require.NoError(t, err)
	require.Equal(t, []any{"order_service", "kafka-b", 3, map[string]string{"class": "gold"}, store.Active}, []any{item.App, item.Cluster, item.Partitions, item.Labels, item.State})
	o, err := s.db.OutboxOf(t.Context(), r.ID)
	require.NoError(t, err)
	require.NotNil(t, o.DoneAt)
	audits, err := s.db.Audits(t.Context(), store.AuditFilter{Kind: "topic", Subject: "made_topic"})
	require.NoError(t, err)
	require.Len(t, audits, 2, "created, then active")
	require.Equal(t, []string{store.System, "server test", r.ID}, []string{audits[0].Who, audits[0].Via, audits[0].Request})

	taken := topic("taken_topic")
	taken.Topic.Physical = "orders.made"
	taken.Topic.Config = nil
	bad := s.ended(s.approved(service, taken, Approval{Cluster: "kafka-b"}).ID)
	require.Equal(t, store.RequestBad, bad.State)
	require.Contains(t, bad.Error, "is topic made_topic")
}

func TestATopicOnRocketMQ(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	service := s.service()
	s.run(service)
	ctx := t.Context()
	require.NoError(t, s.meta.PutCluster(ctx, "rocketmq-a", metadata.Cluster{Kind: broker.RocketMQ, Addresses: env.Addresses("rocketmq-a"), ClusterID: env.ClusterID("rocketmq-a")}))
	r := s.file(service, alice, topic("rocket_topic"))
	_, err := service.Approve(ctx, bob, r.ID, r.Version, Approval{Cluster: "rocketmq-a"})
	require.ErrorIs(t, err, errs.ErrInvalid, "it has settings of Kafka")
	r, err = service.Edit(ctx, alice, r.ID, r.Version, New{Topic: &TopicSpec{Name: "rocket_topic", App: "order_service", Partitions: 6, Kind: broker.RocketMQ}})
	require.NoError(t, err)
	r, err = service.Approve(ctx, bob, r.ID, r.Version, Approval{Cluster: "rocketmq-a"})
	require.NoError(t, err)
	r = s.ended(r.ID)
	require.Equal(t, store.RequestOK, r.State, r.Error)
	s.requireTopic("rocket_topic", "rocketmq-a", 6)
	s.done(service, group("rocket_group", "rocket_topic"), Approval{})
	s.done(service, New{Deletion: &DeletionSpec{Kind: KindGroup, Name: "rocket_group"}}, Approval{})
	s.done(service, New{Deletion: &DeletionSpec{Kind: KindTopic, Name: "rocket_topic", Data: true}}, Approval{})
	_, err = s.on("rocketmq-a").DescribeTopic(ctx, "rocket_topic")
	require.ErrorIs(t, err, errs.ErrUnknownTopic)
}

// What exists is compared, and never changed.
func TestWhatExistsIsCompared(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	service := s.service()
	stop := s.run(service)
	ctx := t.Context()
	c := s.on("kafka-a")
	require.NoError(t, c.CreateTopic(ctx, "there_topic", broker.TopicSpec{Partitions: 5}))
	r := s.ended(s.approved(service, topic("there_topic"), Approval{Cluster: "kafka-a"}).ID)
	require.Equal(t, store.RequestBad, r.State)
	require.Contains(t, r.Error, `partitions "5"`)
	require.Contains(t, r.Error, `config["retention.ms"]`)
	info, err := c.DescribeTopic(ctx, "there_topic")
	require.NoError(t, err)
	require.Len(t, info.Partitions, 5)
	_, err = s.meta.GetTopic(ctx, "there_topic")
	require.ErrorIs(t, err, errs.ErrUnknownTopic)
	_, err = s.db.CatalogItem(ctx, store.CatalogTopic, "there_topic")
	require.ErrorIs(t, err, errs.ErrNotFound)

	// Somebody puts it in order, and it goes on.
	require.NoError(t, c.DeleteTopic(ctx, "there_topic"))
	r, err = service.Retry(ctx, alice, r.ID, r.Version)
	require.NoError(t, err)
	r = s.ended(r.ID)
	require.Equal(t, store.RequestOK, r.State, r.Error)
	s.requireTopic("there_topic", "kafka-a", 3)

	// One that is what was asked for is taken.
	require.NoError(t, c.CreateTopic(ctx, "same_topic", broker.TopicSpec{Partitions: 3, Config: map[string]string{"retention.ms": "86400000"}}))
	s.done(service, topic("same_topic"), Approval{Cluster: "kafka-a"})

	// In ZooKeeper, too: somebody makes it by hand between the catalog and ZooKeeper.
	stop()
	late := s.approved(service, topic("hand_topic"), Approval{Cluster: "kafka-a"})
	s.run(s.service(func(c *Config) {
		c.at = func(ctx context.Context, _, step string) {
			if step == atCatalog {
				if _, err := s.meta.PutTopic(ctx, "hand_topic", metadata.PutTopic{Cluster: "kafka-b"}); err != nil {
					panic(err)
				}
			}
		}
	}))
	late = s.ended(late.ID)
	require.Equal(t, store.RequestBad, late.State)
	require.Contains(t, late.Error, "in ZooKeeper already")
	by, err := s.meta.GetTopic(ctx, "hand_topic")
	require.NoError(t, err)
	require.Equal(t, "kafka-b", by.Route.Write)
}

func TestSettingsAreChangedByCompareAndSet(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	service := s.service()
	stop := s.run(service)
	ctx := t.Context()
	s.done(service, topic("set_topic"), Approval{Cluster: "kafka-a"})
	s.done(service, topic("more_topic"), Approval{Cluster: "kafka-b"})
	s.done(service, group("set_group", "set_topic"), Approval{})
	no, rate, four := false, 12.5, 4
	s.done(service, New{Settings: &SettingsSpec{Topic: &TopicChange{Name: "set_topic", Portable: &no, Names: map[string]string{"kafka-b": "set.topic"}, Labels: map[string]string{"a": "b"}}}}, Approval{})
	now, err := s.meta.GetTopic(ctx, "set_topic")
	require.NoError(t, err)
	require.False(t, now.Settings.Portable)
	require.Equal(t, "set.topic", now.Settings.Physical("set_topic", "kafka-b"))
	item, err := s.db.CatalogItem(ctx, store.CatalogTopic, "set_topic")
	require.NoError(t, err)
	require.Equal(t, map[string]string{"a": "b"}, item.Labels)
	_, err = service.Draft(ctx, alice, New{Settings: &SettingsSpec{Topic: &TopicChange{Name: "set_topic", Names: map[string]string{"kafka-a": "x"}}}})
	require.ErrorIs(t, err, errs.ErrInvalid, "it is there under its own name")

	s.done(service, New{Settings: &SettingsSpec{Group: &GroupChange{Name: "set_group", Rate: &rate, RetryMax: &four, Topics: []string{"set_topic", "more_topic"}}}}, Approval{})
	g, _, err := s.meta.GetGroup(ctx, "set_group")
	require.NoError(t, err)
	require.Equal(t, []any{12.5, 4, "set_group-more_topic"}, []any{g.Rate, g.Retry.Max, g.Physical("more_topic")})
	s.requireItem(store.CatalogGroup, "set_group", g)
	stop()

	// Somebody edits by hand between the catalog and ZooKeeper: shown, not written over.
	r := s.approved(service, New{Settings: &SettingsSpec{Group: &GroupChange{Name: "set_group", Concurrency: &four}}}, Approval{})
	edited := s.service(func(c *Config) {
		c.at = func(ctx context.Context, _, step string) {
			if step == atCatalog {
				if err := s.meta.UpdateGroup(ctx, "set_group", func(g *metadata.Group) error { g.Rate = 99; return nil }); err != nil {
					panic(err)
				}
			}
		}
	})
	stop = s.run(edited)
	r = s.ended(r.ID)
	stop()
	require.Equal(t, store.RequestBad, r.State)
	require.Contains(t, r.Error, "edited it by hand")
	require.Contains(t, r.Error, `"rate":99`)
	g, _, err = s.meta.GetGroup(ctx, "set_group")
	require.NoError(t, err)
	require.Equal(t, []any{99.0, metadata.DefaultConcurrency}, []any{g.Rate, g.Concurrency})
	// With another look it is what was there before.
	s.run(service)
	_, err = service.Retry(ctx, alice, r.ID, r.Version)
	require.NoError(t, err)
	require.Equal(t, store.RequestOK, s.ended(r.ID).State)
	g, _, err = s.meta.GetGroup(ctx, "set_group")
	require.NoError(t, err)
	require.Equal(t, []any{99.0, 4}, []any{g.Rate, g.Concurrency})
	s.requireItem(store.CatalogGroup, "set_group", g)
}

func TestAGroupBeginsAtTheEndOfItsTopics(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	service := s.service()
	s.run(service)
	ctx := t.Context()
	s.done(service, topic("latest_topic"), Approval{Cluster: "kafka-a"})
	stored := make(chan error, 1)
	s.on("kafka-a").Send(ctx, "latest_topic", &broker.Envelope{Message: broker.Message{Body: []byte("x"), ID: strings.Repeat("0", 32)}}, func(_ broker.Receipt, err error) { stored <- err })
	require.NoError(t, <-stored)
	n := group("latest_group", "latest_topic")
	n.Group.Start = metadata.StartLatest
	s.done(service, n, Approval{})
	g, _, err := s.meta.GetGroup(ctx, "latest_group")
	require.NoError(t, err)
	require.Equal(t, int64(1), broker.Offsets{}.Missing(g.From["latest_topic"]["kafka-a"]))
	s.requireItem(store.CatalogGroup, "latest_group", g)
}

// A group may be asked for together with its topic; it waits for it.
func TestAGroupWaitsForItsTopic(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	service := s.service()
	s.run(service)
	asked := s.file(service, alice, topic("first_topic"))
	g := s.approved(service, group("second_group", "first_topic"), Approval{})
	require.Eventually(t, func() bool {
		r, err := service.Get(t.Context(), g.ID)
		require.NoError(t, err)
		return r.Attempts > 0
	}, patience, tick)
	r, err := service.Get(t.Context(), g.ID)
	require.NoError(t, err)
	require.Equal(t, store.Executing, r.State)
	require.Contains(t, r.Error, asked.ID)
	_, err = service.Approve(t.Context(), bob, asked.ID, asked.Version, Approval{Cluster: "kafka-a"})
	require.NoError(t, err)
	require.Equal(t, store.RequestOK, s.ended(g.ID).State)
}

func TestACluster(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	service := s.service(func(c *Config) { c.Attempts = 2 })
	s.run(service)
	ctx := t.Context()
	execute := func(spec ClusterSpec) *store.ChangeRequest {
		r := s.file(service, admin, New{Cluster: &spec})
		r, err := service.Approve(ctx, bob, r.ID, r.Version, Approval{})
		require.NoError(t, err)
		return s.ended(r.ID)
	}
	r := execute(ClusterSpec{Name: "kafka-c", Kind: broker.Kafka, Addresses: env.Addresses("kafka-a"), ClusterID: env.ClusterID("kafka-b")})
	require.Equal(t, store.RequestBad, r.State)
	require.Contains(t, r.Error, env.ClusterID("kafka-a"), "who answers there")
	_, _, err := s.meta.GetCluster(ctx, "kafka-c")
	require.ErrorIs(t, err, errs.ErrNotFound)
	r = execute(ClusterSpec{Name: "kafka-c", Kind: broker.Kafka, Addresses: []string{"127.0.0.1:1"}})
	require.Equal(t, store.RequestBad, r.State, "nobody answers")
	require.Equal(t, 2, r.Attempts)
	r = execute(ClusterSpec{Name: "kafka-c", Kind: broker.Kafka, Addresses: env.Addresses("kafka-a")})
	require.Equal(t, store.RequestOK, r.State, r.Error)
	doc, _, err := s.meta.GetCluster(ctx, "kafka-c")
	require.NoError(t, err)
	require.Equal(t, env.ClusterID("kafka-a"), doc.ClusterID)
	r = execute(ClusterSpec{Name: "kafka-c", Kind: broker.Kafka, Addresses: env.Addresses("kafka-b")})
	require.Equal(t, store.RequestBad, r.State, "it is another cluster")
	r = execute(ClusterSpec{Name: "kafka-c", Kind: broker.Kafka, Addresses: env.Addresses("kafka-a"), Properties: map[string]string{}, Labels: map[string]string{"zone": "a"}})
	require.Equal(t, store.RequestOK, r.State, r.Error)
	item, err := s.db.CatalogItem(ctx, store.CatalogCluster, "kafka-c")
	require.NoError(t, err)
	require.Equal(t, map[string]string{"zone": "a"}, item.Labels)
	s.requireItem(store.CatalogCluster, "kafka-c", doc)
}

func TestWhatIsUsedIsNotDeleted(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	service := s.service()
	s.run(service)
	ctx := t.Context()
	s.done(service, topic("used_topic"), Approval{Cluster: "kafka-a"})
	s.done(service, group("used_group", "used_topic"), Approval{})
	execute := func(kind, name string) *store.ChangeRequest {
		r := s.file(service, admin, New{Deletion: &DeletionSpec{Kind: kind, Name: name}})
		r, err := service.Approve(ctx, bob, r.ID, r.Version, Approval{})
		require.NoError(t, err)
		return s.ended(r.ID)
	}
	r := execute(KindTopic, "used_topic")
	require.Equal(t, store.RequestBad, r.State)
	require.Contains(t, r.Error, "group used_group")
	item, err := s.db.CatalogItem(ctx, store.CatalogTopic, "used_topic")
	require.NoError(t, err)
	require.Equal(t, store.Active, item.State, "it stays")
	r = execute(KindCluster, "kafka-a")
	require.Equal(t, store.RequestBad, r.State)
	require.Contains(t, r.Error, "used_topic")

	participant := s.meta.ParticipantPath("used_topic", "10.0.0.7@-@1@-@0")
	require.NoError(t, s.meta.Create(ctx, participant, []byte(`{"v":1,"groups":{"used_group":{"kafka-a":"attached"}}}`)))
	r = execute(KindGroup, "used_group")
	require.Equal(t, store.RequestBad, r.State)
	require.Contains(t, r.Error, "members")
	require.NoError(t, s.meta.Delete(ctx, participant, metadata.AnyVersion))
	r, err = service.Retry(ctx, admin, r.ID, r.Version)
	require.NoError(t, err)
	require.Equal(t, store.RequestOK, s.ended(r.ID).State)
	require.Equal(t, store.RequestOK, execute(KindTopic, "used_topic").State)
	_, err = s.on("kafka-a").DescribeTopic(ctx, "used_topic")
	require.NoError(t, err, "its messages stay, because nobody asked for more")
	_, err = service.Draft(ctx, admin, New{Deletion: &DeletionSpec{Kind: KindTopic, Name: "used_topic"}})
	require.ErrorIs(t, err, errs.ErrNotFound)

	// One that was moved by hand, and whose messages may be unread where it was.
	s.done(service, topic("torn_topic"), Approval{Cluster: "kafka-a"})
	r = s.file(service, admin, New{Deletion: &DeletionSpec{Kind: KindTopic, Name: "torn_topic"}})
	_, err = s.meta.PutTopic(ctx, "torn_topic", metadata.PutTopic{Cluster: "kafka-b"})
	require.NoError(t, err)
	_, err = service.Approve(ctx, bob, r.ID, r.Version, Approval{})
	require.ErrorIs(t, err, errs.ErrConflict)
	require.ErrorContains(t, err, "may be unread")
}

func TestAMigration(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	controller := migrate.New(s.db, s.meta, s.pool, s.service().log, migrate.Options{})
	service := s.service(func(c *Config) { c.Migrations = controller })
	stop := s.run(service)
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	led := make(chan struct{})
	go func() { defer close(led); _ = controller.Run(ctx) }() // ctx's error
	t.Cleanup(func() { cancel(); <-led })

	s.done(service, topic("moved_topic"), Approval{Cluster: "kafka-a"})
	draft, err := service.Draft(ctx, alice, New{Migration: &MigrationSpec{Topic: "moved_topic", To: "kafka-b"}})
	require.NoError(t, err)
	_, err = service.Submit(ctx, alice, draft.ID, draft.Version)
	var blocked *migrate.NotReadyError
	require.ErrorAs(t, err, &blocked, "the preflight is made before anybody looks at it")
	draft, err = service.Edit(ctx, alice, draft.ID, draft.Version, New{Migration: &MigrationSpec{Topic: "moved_topic", To: "kafka-b", Create: true, Accept: []string{"all"}}})
	require.NoError(t, err)
	r, err := service.Submit(ctx, alice, draft.ID, draft.Version)
	require.NoError(t, err)
	r, err = service.Approve(ctx, bob, r.ID, r.Version, Approval{})
	require.NoError(t, err)
	r = s.ended(r.ID)
	require.Equal(t, store.RequestOK, r.State, r.Error)
	result, err := parse[migrated](r.Result)
	require.NoError(t, err)
	m, err := s.db.Migration(ctx, result.Migration)
	require.NoError(t, err)
	require.Equal(t, []any{"alice, " + r.ID, "bob", store.Done}, []any{m.StartedBy, m.ApprovedBy, m.Outcome})
	s.requireTopic("moved_topic", "kafka-b", 3)

	// A server that is killed when it has started one: the next one finds it, and starts no other.
	stop()
	back := s.approved(service, New{Migration: &MigrationSpec{Topic: "moved_topic", To: "kafka-a", Create: true, Accept: []string{"all"}}}, Approval{})
	child := s.child(atBroker)
	session := child.at(back.ID, atBroker)
	child.kill()
	child.expire(session)
	s.run(service)
	back = s.ended(back.ID)
	require.Equal(t, store.RequestOK, back.State, back.Error)
	s.requireOnce(back)
	all, err := s.db.Migrations(ctx, store.Filter{Topic: "moved_topic"})
	require.NoError(t, err)
	require.Len(t, all, 2)
	s.requireTopic("moved_topic", "kafka-a", 3)
}

// Three servers execute many requests, several of one subject: each once, those of a subject in the order of their approval.
func TestServersShareTheWork(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	services := []*Service{s.service(), s.service(), s.service()}
	var ids []string
	for i := range 6 {
		ids = append(ids, s.approved(services[0], topic(fmt.Sprintf("shared_%d", i)), Approval{Cluster: []string{"kafka-a", "kafka-b"}[i%2]}).ID)
	}
	var claims []string
	for _, who := range []string{"alice", "carol"} {
		r := s.file(services[0], person(who, store.Applicant), New{Claim: &ClaimSpec{App: "shared_0"}})
		r, err := services[0].Approve(t.Context(), bob, r.ID, r.Version, Approval{})
		require.NoError(t, err)
		claims = append(claims, r.ID)
	}
	for _, service := range services {
		s.run(service)
	}
	var all []*store.ChangeRequest
	for _, id := range append(ids, claims...) {
		r := s.ended(id)
		require.Equal(t, store.RequestOK, r.State, r.Error)
		all = append(all, r)
	}
	for _, r := range all {
		s.requireOnce(r)
	}
	first, err := services[0].Get(t.Context(), ids[0])
	require.NoError(t, err)
	for _, id := range claims {
		r, err := services[0].Get(t.Context(), id)
		require.NoError(t, err)
		require.False(t, r.EndedAt.Before(*first.EndedAt), "of one subject, and approved later")
	}
}
