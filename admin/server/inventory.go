package server

import (
	"context"
	"net/http"

	"github.com/turnout-mq/turnout/admin/inventory"
	"github.com/turnout-mq/turnout/admin/people"
	"github.com/turnout-mq/turnout/admin/store"
	"github.com/turnout-mq/turnout/broker"
)

// Text is part of requests for what has names.
type Text struct {
	Text string `query:"text" maxLength:"200" doc:"Part of the name, in any case."`
}

// registerInventory makes the lists of what there is, in ZooKeeper and in the catalog.
func (s *server) registerInventory() {
	s.registerCatalog()
	call(s, people.Read, http.MethodGet, "/topics", "list-topics", "List topics by name: where they are and where they shall be", func(ctx context.Context, in *struct {
		Page
		Text
		App     string `query:"app" doc:"Of this application."`
		Cluster string `query:"cluster" doc:"That are, were or shall be on this cluster: wish or route names it."`
	}) (*reply[pageOf[*inventory.TopicState]], error) {
		all, err := s.inventory(ctx)
		if err != nil {
			return nil, err
		}
		list, err := all.Topics(ctx, inventory.Filter{Text: in.Text.Text, App: in.App, Cluster: in.Cluster, After: in.After, Limit: in.Limit})
		return paged(list, in.Limit, func(t *inventory.TopicState) string { return t.Name }), err
	})
	call(s, people.Read, http.MethodGet, "/topics/{name}", "get-topic", "Read a topic", func(ctx context.Context, in *struct {
		Name string `path:"name" doc:"The topic." example:"order_topic"`
	}) (*reply[*inventory.TopicState], error) {
		all, err := s.inventory(ctx)
		if err != nil {
			return nil, err
		}
		t, err := all.Topic(ctx, in.Name)
		return &reply[*inventory.TopicState]{t}, err
	})
	call(s, people.Read, http.MethodGet, "/groups", "list-groups", "List groups by name", func(ctx context.Context, in *struct {
		Page
		Text
		App   string `query:"app" doc:"Of this application."`
		Topic string `query:"topic" doc:"That read this topic."`
	}) (*reply[pageOf[*inventory.GroupState]], error) {
		all, err := s.inventory(ctx)
		if err != nil {
			return nil, err
		}
		list, err := all.Groups(ctx, inventory.Filter{Text: in.Text.Text, App: in.App, Topic: in.Topic, After: in.After, Limit: in.Limit})
		return paged(list, in.Limit, func(g *inventory.GroupState) string { return g.Name }), err
	})
	call(s, people.Read, http.MethodGet, "/groups/{name}", "get-group", "Read a group", func(ctx context.Context, in *struct {
		Name string `path:"name" doc:"The group." example:"order_bil_group"`
	}) (*reply[*inventory.GroupState], error) {
		all, err := s.inventory(ctx)
		if err != nil {
			return nil, err
		}
		g, err := all.Group(ctx, in.Name)
		return &reply[*inventory.GroupState]{g}, err
	})
	call(s, people.Read, http.MethodGet, "/clusters", "list-clusters", "List clusters by name, with what was allotted to them", func(ctx context.Context, in *struct {
		Page
		Text
		Kind broker.Kind `query:"kind" enum:"kafka,rocketmq" doc:"Of this kind."`
	}) (*reply[pageOf[*inventory.ClusterState]], error) {
		all, err := s.inventory(ctx)
		if err != nil {
			return nil, err
		}
		list, err := all.Clusters(ctx, inventory.Filter{Text: in.Text.Text, Kind: in.Kind, After: in.After, Limit: in.Limit})
		return paged(list, in.Limit, func(c *inventory.ClusterState) string { return c.Name }), err
	})
	call(s, people.Read, http.MethodGet, "/clusters/{name}", "get-cluster", "Read a cluster", func(ctx context.Context, in *struct {
		Name string `path:"name" doc:"The cluster." example:"kafka-a"`
	}) (*reply[*inventory.ClusterState], error) {
		all, err := s.inventory(ctx)
		if err != nil {
			return nil, err
		}
		c, err := all.Cluster(ctx, in.Name)
		return &reply[*inventory.ClusterState]{c}, err
	})
}

// inventory is what there is now: what was written before the question is seen.
func (s *server) inventory(ctx context.Context) (*inventory.Inventory, error) {
	return &inventory.Inventory{Meta: s.meta, DB: s.db}, s.meta.Sync(ctx, s.meta.Root)
}

// registerCatalog makes the lists of what is wanted, as the store has it.
func (s *server) registerCatalog() {
	call(s, people.Read, http.MethodGet, "/catalog/{kind}", "list-catalog", "What the platform manages, as it is wanted; what there is tell /topics, /groups and /clusters", func(ctx context.Context, in *struct {
		Page
		Text
		Kind    string `path:"kind" enum:"cluster,topic,group" doc:"Of which kind."`
		App     string `query:"app" doc:"Of this application."`
		Cluster string `query:"cluster" doc:"On this cluster."`
	}) (*reply[pageOf[*store.CatalogItem]], error) {
		list, err := s.db.Catalog(ctx, store.CatalogFilter{Kind: in.Kind, App: in.App, Cluster: in.Cluster, Text: in.Text.Text, After: in.After, Limit: in.Limit})
		return paged(list, in.Limit, func(i *store.CatalogItem) string { return i.Name }), err
	})
	call(s, people.Read, http.MethodGet, "/catalog/{kind}/{name}", "get-catalog-item", "Read something that the platform manages, as it is wanted", func(ctx context.Context, in *struct {
		Kind string `path:"kind" enum:"cluster,topic,group" doc:"Of which kind."`
		Name string `path:"name" doc:"Which one."`
	}) (*reply[*store.CatalogItem], error) {
		i, err := s.db.CatalogItem(ctx, in.Kind, in.Name)
		return &reply[*store.CatalogItem]{i}, err
	})
}
