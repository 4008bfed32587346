package requests

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/turnout-mq/turnout/admin/migrate"
	"github.com/turnout-mq/turnout/admin/store"
	"github.com/turnout-mq/turnout/internal/errs"
	"github.com/turnout-mq/turnout/metadata"
)

type migrationHandler struct{ *Service }

// stepStarted: the migration runs, its id is in the result.
const stepStarted = "started"

// migrationPoll is between two looks whether a migration has ended.
const migrationPoll = 500 * time.Millisecond

// migrated is the result of a migration.
type migrated struct {
	Migration string   `json:"migration,omitempty"`
	Before    []string `json:"before,omitempty"` // those of earlier tries
}

func (s migrationHandler) Check(ctx context.Context, raw json.RawMessage, submitted bool) (Target, error) {
	spec, err := decode[MigrationSpec](KindMigration, raw)
	if err != nil {
		return Target{}, err
	}
	if err := spec.validate(); err != nil {
		return Target{}, err
	}
	if s.cfg.Migrations == nil {
		return Target{}, fmt.Errorf("%w: this server carries out no migrations", errs.ErrUnsupported)
	}
	plan, topic, err := s.plan(ctx, spec)
	if err != nil {
		return Target{}, err
	}
	target := Target{App: topic.Settings.App, Subject: spec.Topic}
	if !submitted {
		return target, nil
	}
	if plan, err = s.cfg.Migrations.Preflight(ctx, plan); err == nil && len(plan.Blocking()) > 0 {
		err = &migrate.NotReadyError{Plan: plan}
	}
	return target, err
}

// plan is what the controller is asked for. Whether the order is kept is what the topic has, unless it is not to be.
func (s migrationHandler) plan(ctx context.Context, spec MigrationSpec) (migrate.Plan, metadata.Topic, error) {
	plan := migrate.Plan{Topic: spec.Topic, To: spec.To, Create: spec.Create, Partitions: spec.Partitions, Hold: spec.HoldMS, Accept: spec.Accept,
		Force: spec.Force, Guards: spec.Guards, Canary: spec.Canary}
	topic, err := s.meta.GetTopic(ctx, spec.Topic)
	plan.Ordered = err == nil && !spec.Unordered && topic.Route != nil && topic.Route.Order == metadata.OrderKey
	return plan, topic, err
}

func (s migrationHandler) Execute(ctx context.Context, run *Run) error {
	spec, err := decode[MigrationSpec](KindMigration, run.r.Spec)
	if err != nil {
		return err
	}
	if run.r.Step == "" {
		if err := s.start(ctx, run, spec); err != nil {
			return err
		}
	}
	result, err := parse[migrated](run.r.Result)
	if err != nil {
		return err
	}
	for {
		m, err := s.db.Migration(ctx, result.Migration)
		if err != nil {
			return err
		}
		if m.EndedAt == nil {
			if err := run.Wait(ctx, migrationPoll); err != nil {
				return err
			}
			continue
		}
		if m.Outcome != store.Done {
			return Final(fmt.Errorf("%w: migration %s has ended as %s: see its events; to try again, retry", errs.ErrConflict, m.ID, m.Outcome))
		}
		return s.moved(ctx, run, spec)
	}
}

// start starts the migration, unless a try before this one has.
func (s migrationHandler) start(ctx context.Context, run *Run, spec MigrationSpec) error {
	ctx, cancel := context.WithTimeout(ctx, tryLimit)
	defer cancel()
	result, err := parse[migrated](run.r.Result)
	if err != nil {
		return err
	}
	if result.Migration != "" { // of a try that has failed
		m, err := s.db.Migration(ctx, result.Migration)
		switch {
		case err != nil:
			return err
		case m.EndedAt == nil:
			return run.Save(ctx, stepStarted, result)
		}
		result.Before, result.Migration = append(result.Before, result.Migration), ""
	}
	by := run.r.Applicant + ", " + run.r.ID
	known, err := s.db.Migrations(ctx, store.Filter{Topic: spec.Topic})
	if err != nil {
		return err
	}
	for _, m := range known {
		if m.StartedBy == by && !slices.Contains(result.Before, m.ID) {
			result.Migration = m.ID
		}
	}
	if result.Migration == "" {
		if err := s.meta.Sync(ctx, s.meta.TopicPath(spec.Topic)); err != nil {
			return err
		}
		plan, _, err := s.plan(ctx, spec)
		if err != nil {
			return err
		}
		m, err := s.cfg.Migrations.Start(ctx, plan, by, func(context.Context, migrate.Plan, string) (string, error) { return run.r.DecidedBy, nil })
		var blocked *migrate.NotReadyError
		switch {
		case errors.As(err, &blocked):
			return Final(err)
		case err != nil:
			return err
		}
		result.Migration = m.ID
		run.at(ctx, atBroker)
	}
	return run.Save(ctx, stepStarted, result)
}

// moved notes in the catalog where the topic is now.
func (s migrationHandler) moved(ctx context.Context, run *Run, spec MigrationSpec) error {
	item, err := s.catalogued(ctx, store.CatalogTopic, spec.Topic)
	if err != nil || item.Version == 0 {
		return err // one that was made past the platform is not taken in by moving it
	}
	doc, err := parse[TopicDoc](item.Doc)
	if err != nil {
		return err
	}
	t, err := s.meta.GetTopic(ctx, spec.Topic)
	if err == nil {
		err = t.Err
	}
	if err != nil {
		return err
	}
	if item.Doc, err = json.Marshal(TopicDocOf(t, doc)); err != nil {
		return err
	}
	item.Cluster = t.Wish.Cluster
	return run.finish(ctx, store.RequestChanges{Put: []store.CatalogItem{item}})
}
