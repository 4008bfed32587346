package server

import (
	"context"
	"net/http"

	"github.com/turnout-mq/turnout/admin/people"
	"github.com/turnout-mq/turnout/admin/store"
)

// DriftID is part of requests about one difference.
type DriftID struct {
	ID string `path:"id" doc:"The difference." example:"d-4"`
}

// driftAt is a difference at a version.
type driftAt struct {
	ETag string `header:"ETag"`
	Body *store.Drift
}

func driftAtVersion(d *store.Drift, err error) (*driftAt, error) {
	if err != nil {
		return nil, err
	}
	return &driftAt{etag(d.Version), d}, nil
}

func (s *server) registerDrift() {
	call(s, people.Read, http.MethodGet, "/drift", "list-drift", "What differs between the catalog, ZooKeeper and the clusters, the oldest first", func(ctx context.Context, in *struct {
		Page
		Kind string `query:"kind" enum:"cluster,topic,group" doc:"Of things of this kind."`
		Name string `query:"name" doc:"Of the thing of this name."`
		What string `query:"what" enum:"edited,missing,unknown,absent,settings" doc:"That differ in this way."`
		Open bool   `query:"open" doc:"Only those that nobody ignores."`
	}) (*reply[pageOf[*store.Drift]], error) {
		list, err := s.drift.List(ctx, store.DriftFilter{Kind: in.Kind, Name: in.Name, What: in.What, Open: in.Open, After: in.After, Limit: in.Limit})
		return paged(list, in.Limit, func(d *store.Drift) string { return d.ID }), err
	})
	call(s, people.Read, http.MethodGet, "/drift/{id}", "get-drift", "Read a difference", func(ctx context.Context, in *DriftID) (*driftAt, error) {
		return driftAtVersion(s.drift.Get(ctx, in.ID))
	})
	for what, step := range map[string]struct {
		summary string
		do      func(ctx context.Context, id string, version int64) error
	}{
		"publish": {"Make ZooKeeper, or the cluster, what the catalog has", func(ctx context.Context, id string, v int64) error { return s.drift.Publish(ctx, id, v) }},
		"adopt":   {"Make the catalog what is there", func(ctx context.Context, id string, v int64) error { return s.drift.Adopt(ctx, id, v) }},
	} {
		call(s, people.Operate, http.MethodPost, "/drift/{id}/"+what, what+"-drift", step.summary, func(ctx context.Context, in *struct {
			DriftID
			IfMatch
		}) (*none, error) {
			v, err := in.version()
			if err != nil {
				return nil, err
			}
			return nil, step.do(ctx, in.ID, v)
		})
	}
	call(s, people.Operate, http.MethodPost, "/drift/{id}/ignore", "ignore-drift", "Leave a difference as it is until it changes", func(ctx context.Context, in *struct {
		DriftID
		IfMatch
		Body struct {
			Reason string `json:"reason" minLength:"1" maxLength:"2000" doc:"Why."`
		}
	}) (*driftAt, error) {
		v, err := in.version()
		if err != nil {
			return nil, err
		}
		return driftAtVersion(s.drift.Ignore(ctx, in.ID, v, in.Body.Reason))
	})
}
