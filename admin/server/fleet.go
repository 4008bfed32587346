package server

import (
	"context"
	"net/http"

	"github.com/turnout-mq/turnout/admin/coord"
	"github.com/turnout-mq/turnout/admin/fleet"
	"github.com/turnout-mq/turnout/admin/people"
	"github.com/turnout-mq/turnout/admin/reconcile"
)

func (s *server) registerFleet() {
	s.registerFleetStream()
	type instances struct {
		Instances []fleet.Instance `json:"instances"`
	}
	call(s, people.Read, http.MethodGet, "/fleet/applications/{app}", "list-instances", "The running instances of an application", func(ctx context.Context, in *struct {
		App string `path:"app" doc:"The application." example:"order_service"`
	}) (*reply[instances], error) {
		list, err := s.fleet.Instances(ctx, in.App)
		if list == nil {
			list = []fleet.Instance{}
		}
		return &reply[instances]{instances{list}}, err
	})
	call(s, people.Read, http.MethodGet, "/fleet/topics/{topic}", "look-at-topic", "A topic with its clusters, groups and instances, as last looked at", func(ctx context.Context, in *struct {
		Topic string `path:"topic" doc:"The topic." example:"order_topic"`
	}) (*reply[*fleet.Topic], error) {
		t, err := s.fleet.Topic(ctx, in.Topic)
		return &reply[*fleet.Topic]{t}, err
	})
	call(s, people.Read, http.MethodGet, "/fleet/groups/{group}", "look-at-group", "A group with its lag, per topic, cluster and partition", func(ctx context.Context, in *struct {
		Group string `path:"group" doc:"The group." example:"order_bil_group"`
	}) (*reply[*fleet.Group], error) {
		g, err := s.fleet.Group(ctx, in.Group)
		return &reply[*fleet.Group]{g}, err
	})
	type top struct {
		Groups []fleet.GroupOnCluster `json:"groups"`
	}
	call(s, people.Read, http.MethodGet, "/fleet/top", "list-top", "The groups with the most unread messages", func(ctx context.Context, in *struct {
		Limit int `query:"limit" default:"20" minimum:"1" maximum:"1000" doc:"How many."`
	}) (*reply[top], error) {
		list, err := s.fleet.Top(ctx, in.Limit)
		if list == nil {
			list = []fleet.GroupOnCluster{}
		}
		return &reply[top]{top{list}}, err
	})
	type shards struct {
		Shards     []coord.ShardState `json:"shards"`
		Resharding bool               `json:"resharding" doc:"They are about to be divided anew."`
	}
	call(s, people.Read, http.MethodGet, "/fleet/shards", "list-shards", "Which server works on what", func(ctx context.Context, in *struct {
		Job string `query:"job" enum:"monitor,reconcile" default:"monitor" doc:"Of which work: monitor looks at instances and groups, reconcile compares catalog, ZooKeeper and clusters."`
	}) (*reply[shards], error) {
		of := s.fleet.Shards
		if in.Job == reconcile.Job {
			of = s.drift.Shards
		}
		list, resharding, err := of(ctx)
		if list == nil {
			list = []coord.ShardState{}
		}
		return &reply[shards]{shards{list, resharding}}, err
	})
}
