package scale

import (
	"context"
	"encoding/json"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"github.com/turnout-mq/turnout/admin/requests"
	"github.com/turnout-mq/turnout/admin/store"
	"github.com/turnout-mq/turnout/broker"
	"github.com/turnout-mq/turnout/broker/drivers"
	"github.com/turnout-mq/turnout/metadata"
	"github.com/turnout-mq/turnout/testenv"
)

const (
	partitions = 3
	reads      = 3 // topics that a group reads
	apps       = 100
	instances  = 500
	applicant  = "alice"
)

var clusterNames = []string{"kafka-a", "kafka-b"}

func topicName(i int) string { return fmt.Sprintf("topic_%05d", i) }
func groupName(i int) string { return fmt.Sprintf("group_%05d", i) }
func appName(i int) string   { return fmt.Sprintf("app_%03d", i%apps) }

// world is a platform that was used for a while: clusters, ZooKeeper, and a store with the requests by which everything came about.
type world struct {
	*testing.T
	env    *testenv.Env
	meta   *metadata.Store
	db     *store.Store
	ops    []metadata.Op
	filled time.Time
}

func openMeta(t *testing.T, cfg metadata.Config) *metadata.Store {
	t.Helper()
	s, err := metadata.Open(cfg)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, s.Close(context.WithoutCancel(t.Context()))) })
	return s
}

func newWorld(t *testing.T, database string, topics, groups int) *world {
	t.Helper()
	env, err := testenv.Start(t.Context(), testenv.Spec{ZooKeeper: 1, Kafka: clusterNames})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, env.Close()) })
	w := &world{T: t, env: env, meta: openMeta(t, metadata.Config{ZooKeeper: env.ZooKeeper()})}
	w.db, err = store.Open(t.Context(), database, nil)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, w.db.Close()) })
	require.NoError(t, w.db.CreateUser(t.Context(), &store.User{Name: applicant, Role: store.Applicant}, nil))
	filling, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	both, ctx := errgroup.WithContext(filling)
	for i, name := range clusterNames {
		c := metadata.Cluster{V: 1, Kind: broker.Kafka, Addresses: env.Addresses(name), ClusterID: env.ClusterID(name)}
		require.NoError(t, w.meta.PutCluster(t.Context(), name, c))
		w.record(requests.KindCluster, store.CatalogItem{Kind: store.CatalogCluster, Name: name}, c)
		both.Go(func() error { return createTopics(ctx, env, name, i, topics) })
	}
	for _, path := range []string{w.meta.TopicsPath(), w.meta.GroupsPath(), w.meta.Root + "/participants"} {
		require.NoError(t, w.meta.Create(t.Context(), path, nil))
	}
	for i := range apps {
		require.NoError(t, w.meta.Create(t.Context(), w.meta.InstancesPath(appName(i)), nil))
	}
	for i := range topics {
		name, cluster := topicName(i), clusterNames[i%2]
		w.put(topicNodes(w.meta, name, appName(i), cluster)...)
		w.put(metadata.CreateOp(w.meta.ParticipantsPath(name), nil),
			metadata.CreateOp(w.meta.ParticipantPath(name, instanceName(i)), w.json(metadata.Participant{V: 1, Zxid: 1 << 40, Write: cluster, At: time.Now()})))
		doc := requests.TopicDoc{Cluster: cluster, Order: metadata.OrderNone, Settings: settingsOf(appName(i))}
		w.record(requests.KindTopic, store.CatalogItem{Kind: store.CatalogTopic, Name: name, App: appName(i), Cluster: cluster, Partitions: partitions}, doc)
	}
	for i := range groups {
		g := metadata.DefaultGroup()
		g.App, g.Names = appName(i), map[string]string{}
		for n := range reads {
			topic := topicName((i*reads + n) % topics)
			g.Topics = append(g.Topics, topic)
			g.Names[topic] = groupName(i) + "-" + topic
		}
		g.Names[g.Topics[0]] = groupName(i)
		w.put(metadata.CreateOp(w.meta.GroupPath(groupName(i)), w.json(g)))
		w.record(requests.KindGroup, store.CatalogItem{Kind: store.CatalogGroup, Name: groupName(i), App: appName(i)}, g)
	}
	for i := range min(instances, topics) {
		w.put(metadata.CreateOp(w.meta.InstancePath(appName(i), instanceName(i)), w.json(metadata.Instance{V: 1, SDK: "scale"})))
	}
	w.flush()
	require.NoError(t, both.Wait())
	w.filled = time.Now()
	return w
}

func instanceName(i int) string { return fmt.Sprintf("10.0.0.1@-@%d@-@0", i%instances) }

func settingsOf(app string) metadata.TopicSettings {
	s := metadata.DefaultTopicSettings()
	s.App = app
	return s
}

// other is the cluster that a topic is not on.
func (w *world) other(topic string) string {
	doc, err := w.meta.GetTopic(w.Context(), topic)
	require.NoError(w, err)
	if doc.Wish.Cluster == clusterNames[0] {
		return clusterNames[1]
	}
	return clusterNames[0]
}

func (w *world) json(doc any) []byte {
	data, err := json.Marshal(doc)
	require.NoError(w, err)
	return data
}

// topicNodes are what a topic is in ZooKeeper.
func topicNodes(s *metadata.Store, name, app, cluster string) (ops []metadata.Op) {
	settings := settingsOf(app)
	route := metadata.Topic{Name: name, Settings: settings}.Next(metadata.PutTopic{Cluster: cluster, Order: metadata.OrderNone}, clusterNames)
	for _, n := range []struct {
		path string
		doc  any
	}{{s.TopicPath(name), metadata.Wish{Cluster: cluster}}, {s.RoutePath(name), route}, {s.SettingsPath(name), settings}} {
		data, err := json.Marshal(n.doc)
		if err != nil {
			panic(err) // documents of our own
		}
		ops = append(ops, metadata.CreateOp(n.path, data))
	}
	return ops
}

// put makes nodes, many in one step.
func (w *world) put(ops ...metadata.Op) {
	w.Helper()
	if w.ops = append(w.ops, ops...); len(w.ops) > 500 {
		w.flush()
	}
}

func (w *world) flush() {
	w.Helper()
	require.NoError(w, w.meta.Multi(w.Context(), w.ops...))
	w.ops = nil
}

// record writes what the store has of a request that is done.
func (w *world) record(kind string, item store.CatalogItem, doc any) {
	w.Helper()
	item.Doc, item.State = w.json(doc), store.Active
	now := time.Now()
	r := &store.ChangeRequest{Kind: kind, State: store.RequestOK, Applicant: applicant, App: item.App, Subject: item.Name, Reason: "it is needed", Spec: item.Doc,
		Cluster: item.Cluster, DecidedBy: "bob", DecidedAt: &now, EndedAt: &now, SubmittedAt: &now}
	var events []store.RequestEvent
	for _, kind := range []string{"drafted", "submitted", "approved", "executing", "step", "done"} {
		events = append(events, store.RequestEvent{Kind: kind})
	}
	ctx := store.WithActor(w.Context(), store.Actor{Name: applicant, Via: "session", Address: "192.0.2.1"})
	require.NoError(w, w.db.CreateRequest(ctx, r, store.RequestChanges{Action: "finish", Events: events, Put: []store.CatalogItem{item}}))
}

// createTopics makes every second topic on its cluster.
func createTopics(ctx context.Context, env *testenv.Env, cluster string, first, topics int) error {
	c, err := drivers.Open(ctx, broker.Config{Name: cluster, Kind: broker.Kafka, Addresses: env.Addresses(cluster), ClientID: "scale"})
	if err != nil {
		return err
	}
	making, makeCtx := errgroup.WithContext(ctx)
	making.SetLimit(8)
	for i := first; i < topics; i += len(clusterNames) {
		making.Go(func() error { return c.CreateTopic(makeCtx, topicName(i), broker.TopicSpec{Partitions: partitions}) })
	}
	err = making.Wait()
	if closed := c.Close(context.WithoutCancel(ctx)); err == nil {
		err = closed
	}
	return err
}
