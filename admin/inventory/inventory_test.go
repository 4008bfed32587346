package inventory_test

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/turnout-mq/turnout/admin/inventory"
	"github.com/turnout-mq/turnout/admin/store"
	"github.com/turnout-mq/turnout/broker"
	"github.com/turnout-mq/turnout/internal/errs"
	"github.com/turnout-mq/turnout/internal/mask"
	"github.com/turnout-mq/turnout/metadata"
	"github.com/turnout-mq/turnout/testenv"
	"github.com/turnout-mq/turnout/testenv/leaks"
	"github.com/turnout-mq/turnout/testenv/zkserver"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m, leaks.Libraries()...) }

// each gives a new root in ZooKeeper, with two clusters, and an empty catalog.
func each(t *testing.T, f func(t *testing.T, i *inventory.Inventory)) {
	testenv.EachSQL(t, func(t *testing.T, database func() string) {
		z, err := zkserver.Start(t.Context(), zkserver.Options{})
		require.NoError(t, err)
		t.Cleanup(z.Close)
		meta, err := metadata.Open(metadata.Config{ZooKeeper: z.ConnectString()})
		require.NoError(t, err)
		t.Cleanup(func() { require.NoError(t, meta.Close(context.WithoutCancel(t.Context()))) })
		_, err = meta.WaitConnected(t.Context())
		require.NoError(t, err)
		db, err := store.Open(t.Context(), database(), nil)
		require.NoError(t, err)
		t.Cleanup(func() { require.NoError(t, db.Close()) })
		for _, name := range []string{"kafka-a", "kafka-b"} {
			require.NoError(t, meta.PutCluster(t.Context(), name, metadata.Cluster{V: 1, Kind: broker.Kafka, Addresses: []string{"h:9092"}}))
		}
		f(t, &inventory.Inventory{Meta: meta, DB: db})
	})
}

func catalog(t *testing.T, i *inventory.Inventory, item store.CatalogItem, doc any) {
	t.Helper()
	data, err := json.Marshal(doc)
	require.NoError(t, err)
	item.Doc, item.State = data, cmp.Or(item.State, store.Active)
	require.NoError(t, i.DB.PutCatalog(t.Context(), &item, ""))
}

func topic(t *testing.T, i *inventory.Inventory, name, cluster, app string) {
	t.Helper()
	_, err := i.Meta.PutTopic(t.Context(), name, metadata.PutTopic{Cluster: cluster})
	require.NoError(t, err)
	if app != "" {
		s := metadata.DefaultTopicSettings()
		s.App = app
		require.NoError(t, i.Meta.PutSettings(t.Context(), name, s))
	}
}

// names walks through all pages.
func names(t *testing.T, i *inventory.Inventory, f inventory.Filter) (all []string) {
	t.Helper()
	for {
		page, err := i.Topics(t.Context(), f)
		require.NoError(t, err)
		for _, s := range page {
			all = append(all, s.Name)
		}
		if f.Limit == 0 || len(page) < f.Limit {
			return all
		}
		f.After = page[len(page)-1].Name
	}
}

// Pages have every topic once and in order, whether ZooKeeper, the catalog or both have it.
func TestPagesOfTopics(t *testing.T) {
	each(t, func(t *testing.T, i *inventory.Inventory) {
		var want []string
		require.NoError(t, i.Meta.Create(t.Context(), i.Meta.TopicsPath(), nil))
		for n := range 260 {
			name := fmt.Sprintf("t%03d", n)
			want = append(want, name)
			// Long stretches of one, and both mixed.
			inZooKeeper, inCatalog := n < 120 || n%3 == 0, n >= 120 && n%3 > 0 || n%10 == 0
			if inZooKeeper {
				require.NoError(t, i.Meta.Create(t.Context(), i.Meta.TopicPath(name), []byte(`{"cluster":"kafka-a"}`)))
			}
			if inCatalog {
				catalog(t, i, store.CatalogItem{Kind: store.CatalogTopic, Name: name, App: fmt.Sprint("app", n%7), Cluster: "kafka-b"}, map[string]string{})
			}
		}
		for _, limit := range []int{0, 1000, 100, 37} {
			require.Equal(t, want, names(t, i, inventory.Filter{Limit: limit}), "limit %d", limit)
		}
		require.Equal(t, []string{"t050", "t051", "t052", "t053", "t054", "t055", "t056", "t057", "t058", "t059"}, names(t, i, inventory.Filter{Text: "T05", Limit: 4}))
		require.Len(t, names(t, &inventory.Inventory{Meta: i.Meta}, inventory.Filter{Limit: 50}), 120+47, "ZooKeeper alone")
		for _, f := range []inventory.Filter{{Text: "05"}, {App: "app3"}, {Cluster: "kafka-b"}, {Text: "t1", Cluster: "kafka-a"}} {
			whole := names(t, i, f)
			require.NotEmpty(t, whole)
			f.Limit = 7
			require.Equal(t, whole, names(t, i, f), "%+v", f)
		}
	})
}

func TestStates(t *testing.T) {
	each(t, func(t *testing.T, i *inventory.Inventory) {
		topic(t, i, "settled", "kafka-a", "shop")
		catalog(t, i, store.CatalogItem{Kind: store.CatalogTopic, Name: "settled", App: "before", Cluster: "kafka-a", Partitions: 4}, map[string]string{})
		topic(t, i, "moving", "kafka-a", "")
		_, err := i.Meta.PutTopic(t.Context(), "moving", metadata.PutTopic{Cluster: "kafka-b"})
		require.NoError(t, err)
		topic(t, i, "invalid", "kafka-a", "")
		topic(t, i, "unanswered", "kafka-a", "")
		for name, wish := range map[string]string{"invalid": "{", "unanswered": `{"cluster":"kafka-b"}`} {
			require.NoError(t, i.Meta.Set(t.Context(), i.Meta.TopicPath(name), []byte(wish), metadata.AnyVersion))
		}
		require.NoError(t, i.Meta.Create(t.Context(), i.Meta.TopicsPath()+"/no name", []byte("{}")))
		for name, state := range map[string]string{"creating": store.Creating, "deleting": store.Deleting, "missing": store.Active} {
			catalog(t, i, store.CatalogItem{Kind: store.CatalogTopic, Name: name, App: "shop", Cluster: "kafka-b", State: state}, map[string]string{})
		}
		topic(t, i, "deleting", "kafka-b", "")

		all, err := i.Topics(t.Context(), inventory.Filter{})
		require.NoError(t, err)
		got := map[string]inventory.State{}
		for _, s := range all {
			got[s.Name] = s.State
		}
		require.Equal(t, map[string]inventory.State{
			"settled": inventory.Settled, "moving": inventory.Moving, "invalid": inventory.Invalid, "unanswered": inventory.Unanswered, "no name": inventory.Invalid,
			"creating": inventory.Creating, "deleting": inventory.Deleting, "missing": inventory.Missing,
		}, got)

		one, err := i.Topic(t.Context(), "settled")
		require.NoError(t, err)
		require.Equal(t, []any{"shop", "kafka-a", broker.Kafka, []string{"kafka-a"}, 4}, []any{one.App, one.Cluster, one.Kind, one.OpenStays, one.Catalog.Partitions}, "ZooKeeper says whose it is")
		one, err = i.Topic(t.Context(), "missing")
		require.NoError(t, err)
		require.Nil(t, one.Wish)
		_, err = i.Topic(t.Context(), "nowhere")
		require.ErrorIs(t, err, errs.ErrUnknownTopic)
		_, err = i.Topic(t.Context(), "no name")
		require.ErrorIs(t, err, errs.ErrInvalid)
		_, err = i.Topics(t.Context(), inventory.Filter{Text: "a\x00"})
		require.ErrorIs(t, err, errs.ErrInvalid)
	})
}

func TestGroupsAndClusters(t *testing.T) {
	each(t, func(t *testing.T, i *inventory.Inventory) {
		topic(t, i, "order_topic", "kafka-a", "shop")
		g := metadata.DefaultGroup()
		g.App, g.Topics = "billing", []string{"order_topic"}
		require.NoError(t, i.Meta.PutGroup(t.Context(), "order_bil_group", g))
		catalog(t, i, store.CatalogItem{Kind: store.CatalogGroup, Name: "wanted", App: "shop", State: store.Creating}, map[string]string{})
		catalog(t, i, store.CatalogItem{Kind: store.CatalogTopic, Name: "order_topic", Cluster: "kafka-a", Partitions: 3}, map[string]string{})
		secret := metadata.Cluster{V: 1, Kind: broker.RocketMQ, Addresses: []string{"h:9876"}, Properties: map[string]string{"sasl.password": "hunter2", "retries": "3"}}
		require.NoError(t, i.Meta.PutCluster(t.Context(), "rocketmq-a", secret))
		catalog(t, i, store.CatalogItem{Kind: store.CatalogCluster, Name: "rocketmq-a"}, secret)

		for _, c := range []struct {
			f    inventory.Filter
			want []string
		}{{inventory.Filter{}, []string{"order_bil_group", "wanted"}}, {inventory.Filter{App: "billing"}, []string{"order_bil_group"}}, {inventory.Filter{App: "shop"}, []string{"wanted"}}, {inventory.Filter{Topic: "order_topic"}, []string{"order_bil_group"}}, {inventory.Filter{Text: "ANT"}, []string{"wanted"}}} {
			groups, err := i.Groups(t.Context(), c.f)
			require.NoError(t, err)
			var got []string
			for _, g := range groups {
				got = append(got, g.Name)
			}
			require.Equal(t, c.want, got, "%+v", c.f)
		}
		wanted, err := i.Group(t.Context(), "wanted")
		require.NoError(t, err)
		require.Equal(t, inventory.Creating, wanted.State)
		_, err = i.Group(t.Context(), "nowhere")
		require.ErrorIs(t, err, errs.ErrUnknownGroup)

		clusters, err := i.Clusters(t.Context(), inventory.Filter{})
		require.NoError(t, err)
		require.Len(t, clusters, 3)
		require.Equal(t, &store.Load{Topics: 1, Partitions: 3}, clusters[0].Load)
		require.Nil(t, clusters[1].Load)
		clusters, err = i.Clusters(t.Context(), inventory.Filter{Kind: broker.RocketMQ})
		require.NoError(t, err)
		require.Len(t, clusters, 1)
		require.Equal(t, map[string]string{"sasl.password": mask.Hidden, "retries": "3"}, clusters[0].Document.Properties)
		data, err := json.Marshal(clusters)
		require.NoError(t, err)
		require.NotContains(t, string(data), "hunter2")
		_, err = i.Cluster(t.Context(), "nowhere")
		require.ErrorIs(t, err, errs.ErrNotFound)
	})
}
