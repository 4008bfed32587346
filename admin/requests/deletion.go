package requests

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/turnout-mq/turnout/admin/coord"
	"github.com/turnout-mq/turnout/admin/store"
	"github.com/turnout-mq/turnout/internal/clusters"
	"github.com/turnout-mq/turnout/internal/errs"
)

type deletionHandler struct{ *Service }

// place is a topic on a cluster.
type place struct {
	Cluster  string `json:"cluster"`
	Physical string `json:"physical"`
}

// deleted is the result of a deletion.
type deleted struct {
	// On is where the topic was; with DeletionSpec.Data it is deleted there.
	On []place `json:"on,omitempty"`
}

func (s deletionHandler) Check(ctx context.Context, raw json.RawMessage, submitted bool) (Target, error) {
	spec, err := decode[DeletionSpec](KindDeletion, raw)
	if err != nil {
		return Target{}, err
	}
	if err := spec.validate(); err != nil {
		return Target{}, err
	}
	item, err := s.catalogued(ctx, spec.Kind, spec.Name)
	if err != nil {
		return Target{}, err
	}
	target := Target{App: item.App, Subject: spec.Name}
	app, _, err := s.look(ctx, spec)
	switch {
	case errors.Is(err, errs.ErrNotFound) && item.Version > 0: // only the catalog has it
		return target, nil
	case err != nil:
		return target, err
	case target.App == "":
		target.App = app
	}
	return target, nil
}

// look reads what is to go: whose it is and where a topic is. ErrNotFound: ZooKeeper does not have it. ErrConflict: it is used in a
// way that metadata does not refuse itself.
func (s deletionHandler) look(ctx context.Context, spec DeletionSpec) (app string, on []place, err error) {
	switch spec.Kind {
	case KindGroup:
		g, _, err := s.meta.GetGroup(ctx, spec.Name)
		return g.App, nil, err
	case KindCluster:
		_, _, err := s.meta.GetCluster(ctx, spec.Name)
		return "", nil, err
	}
	t, err := s.meta.GetTopic(ctx, spec.Name)
	if err == nil {
		err = t.Err
	}
	if err != nil || t.Route == nil {
		return t.Settings.App, nil, err
	}
	if n := len(t.Route.Stays); n > 1 {
		return t.Settings.App, nil, fmt.Errorf("%w: topic %s is on %q, and messages on the ones that it leaves may be unread: wait until its migration has ended", errs.ErrConflict, spec.Name, t.Route.Clusters())
	}
	open, err := s.db.Migrations(ctx, store.Filter{Topic: spec.Name, Open: true, Limit: 1})
	if err == nil && len(open) > 0 {
		err = fmt.Errorf("%w: topic %s is being moved (%s): wait until that has ended, or abort it", errs.ErrConflict, spec.Name, open[0].ID)
	}
	for _, cluster := range t.Route.Clusters() {
		on = append(on, place{cluster, t.Settings.Physical(spec.Name, cluster)})
	}
	return t.Settings.App, on, err
}

// Execute goes the other way round than a creation: nobody uses it, then ZooKeeper, then the broker, then the catalog.
func (s deletionHandler) Execute(ctx context.Context, run *Run) error {
	spec, err := decode[DeletionSpec](KindDeletion, run.r.Spec)
	if err != nil {
		return err
	}
	return run.locked(ctx, func(ctx context.Context, _ *coord.Held) error {
		var result deleted
		if run.r.Step == "" {
			if err := s.record(ctx, run, spec); err != nil {
				return err
			}
			run.at(ctx, atCatalog)
		}
		if err := json.Unmarshal(run.r.Result, &result); err != nil {
			return err
		}
		if run.r.Step == stepRecorded {
			if err := s.remove(ctx, spec); err != nil {
				return errors.Join(err, s.keep(ctx, run, spec, err))
			}
			run.at(ctx, atZooKeeper)
			if err := run.save(ctx, stepPublished, nil, store.RequestChanges{Published: true}); err != nil {
				return err
			}
		}
		if spec.Data {
			for _, p := range result.On {
				err := s.on(ctx, p.Cluster, func(c *clusters.Conn) error { return c.DeleteTopic(ctx, p.Physical) })
				if err != nil && !errors.Is(err, errs.ErrUnknownTopic) {
					return fmt.Errorf("deleting topic %s: %w", p.Physical, err)
				}
			}
			run.at(ctx, atBroker)
		}
		item, err := s.catalogued(ctx, spec.Kind, spec.Name)
		if err != nil {
			return err
		}
		var ch store.RequestChanges
		if item.Version > 0 {
			ch.Remove = []store.CatalogItem{item}
		}
		return run.finish(ctx, ch)
	})
}

// record notes that it goes, and where it was.
func (s deletionHandler) record(ctx context.Context, run *Run, spec DeletionSpec) error {
	item, err := s.catalogued(ctx, spec.Kind, spec.Name)
	if err != nil {
		return err
	}
	var result deleted
	_, on, err := s.look(ctx, spec)
	switch {
	case errors.Is(err, errs.ErrNotFound):
		// Gone by an earlier try, which has noted where it was, or never published.
		if len(run.r.Result) > 0 {
			err = json.Unmarshal(run.r.Result, &result)
		} else if err = nil; item.Cluster != "" {
			result.On = []place{{item.Cluster, spec.Name}}
			if doc, perr := parse[TopicDoc](item.Doc); perr == nil {
				result.On[0].Physical = doc.Settings.Physical(spec.Name, item.Cluster)
			}
		}
	case errors.Is(err, errs.ErrConflict):
		err = Final(err)
	default:
		result.On = on
	}
	if err != nil {
		return err
	}
	ch := change{item: item}
	if item.Version > 0 {
		ch.item.State, ch.before = store.Deleting, item.Doc
	}
	return run.record(ctx, ch, result)
}

// remove takes it out of ZooKeeper, which refuses what is used.
func (s deletionHandler) remove(ctx context.Context, spec DeletionSpec) error {
	var err error
	switch spec.Kind {
	case KindTopic:
		if _, _, err = s.look(ctx, spec); err == nil {
			err = s.meta.DeleteTopic(ctx, spec.Name)
		}
	case KindGroup:
		err = s.meta.DeleteGroup(ctx, spec.Name)
	default:
		err = s.meta.DeleteCluster(ctx, spec.Name)
	}
	switch {
	case errors.Is(err, errs.ErrNotFound): // an earlier try
		return nil
	case errors.Is(err, errs.ErrConflict):
		return Final(err)
	}
	return err
}

// keep notes that it stays after all, if err is why.
func (s deletionHandler) keep(ctx context.Context, run *Run, spec DeletionSpec, err error) error {
	if !isFinal(err) {
		return nil
	}
	item, err := s.catalogued(ctx, spec.Kind, spec.Name)
	if err != nil || item.Version == 0 || item.State != store.Deleting {
		return err
	}
	item.State = store.Active
	return s.db.PutCatalog(ctx, &item, run.r.ID)
}

type claimHandler struct{ *Service }

func (s claimHandler) Check(_ context.Context, raw json.RawMessage, _ bool) (Target, error) {
	spec, err := decode[ClaimSpec](KindClaim, raw)
	if err != nil {
		return Target{}, err
	}
	return Target{App: spec.App, Subject: spec.App}, spec.validate()
}

func (s claimHandler) Execute(ctx context.Context, run *Run) error {
	return run.finish(ctx, store.RequestChanges{Owner: run.r.Applicant})
}
