package stress

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/turnout-mq/turnout/admin/requests"
	"github.com/turnout-mq/turnout/admin/store"
	"github.com/turnout-mq/turnout/internal/errs"
	"github.com/turnout-mq/turnout/metadata"
)

// Handler does requests of the kind stress: it prepares the task.
func (s *Service) Handler() requests.Handler { return handler{s} }

type handler struct{ *Service }

// prepared is the result of a request.
type prepared struct {
	Task string `json:"task"`
}

func (s handler) Check(ctx context.Context, raw json.RawMessage, submitted bool) (requests.Target, error) {
	spec, err := requests.ParseStress(raw)
	if err != nil {
		return requests.Target{}, err
	}
	if !submitted {
		groups, _, err := s.groups(ctx, spec)
		return target(spec, groups), err
	}
	p, err := s.Plan(ctx, spec)
	if err != nil {
		return requests.Target{}, err
	}
	return target(spec, p.Groups), p.err()
}

func target(spec requests.StressSpec, groups []PlannedGroup) requests.Target {
	t := requests.Target{Subject: spec.Task}
	if names := apps(groups); len(names) > 0 {
		t.App, t.Apps = names[0], names[1:]
	}
	return t
}

func (s handler) Execute(ctx context.Context, run *requests.Run) error {
	r := run.Request()
	spec, err := requests.ParseStress(r.Spec)
	if err != nil {
		return err
	}
	t, err := s.db.StressTaskOf(ctx, r.ID)
	if errors.Is(err, errs.ErrNotFound) {
		t, err = s.create(ctx, r, spec)
	}
	if err != nil {
		return err
	}
	switch t.State {
	case store.StressPreparing:
	case store.StressRemoving, store.StressRemoved:
		return requests.Final(fmt.Errorf("%w: %s was removed while it was being prepared: file another request", errs.ErrConflict, t.ID))
	default: // an earlier try came to the end
		return run.Save(ctx, "prepared", prepared{t.ID})
	}
	for _, topic := range t.Topics {
		if err := s.provide(ctx, run, topic); err != nil {
			return err
		}
	}
	ch := store.StressChanges{Action: "prepare", Events: []store.StressEvent{{Kind: "prepared"}}}
	for i := range t.Flags {
		n, err := s.makeFlag(ctx, t, t.Flags[i])
		if err != nil {
			return err
		}
		t.Flags[i].Change = changeOf(n)
		ch.Audits = append(ch.Audits, store.Audit{Action: "create", Kind: "flag", Subject: n.Path, After: off})
	}
	t.State = store.StressReady
	if err := s.db.UpdateStressTask(ctx, t, ch); err != nil {
		return err
	}
	return run.Save(ctx, "prepared", prepared{t.ID})
}

// create stores the task, with what is missing now: that is what a removal removes.
func (s handler) create(ctx context.Context, r store.ChangeRequest, spec requests.StressSpec) (*store.StressTask, error) {
	p, err := s.Plan(ctx, spec)
	if err != nil {
		return nil, err
	}
	if err := p.err(); err != nil {
		return nil, requests.Final(err)
	}
	t := &store.StressTask{Name: spec.Task, State: store.StressPreparing, Request: r.ID, Applicant: r.Applicant, Apps: p.Apps, Spec: r.Spec, Topics: p.Topics}
	for _, g := range p.Groups {
		t.Flags = append(t.Flags, store.StressFlag{App: g.App, Group: g.Group})
	}
	return t, s.db.CreateStressTask(ctx, t, store.StressChanges{Action: "create", Events: []store.StressEvent{{Kind: "created"}}})
}

// provide makes a shadow topic where it is missing.
func (s handler) provide(ctx context.Context, run *requests.Run, topic store.StressTopic) error {
	if topic.MadeThere {
		if err := run.ProvideTopic(ctx, topic.Cluster, topic.Physical, topic.Partitions); err != nil {
			return err
		}
	}
	if !topic.Made {
		return nil
	}
	of, err := s.meta.GetTopic(ctx, topic.Topic)
	if err != nil {
		return err
	}
	return run.CreateTopic(ctx, topic.ShadowTopic, shadowDoc(of, topic))
}

// makeFlag makes a flag that is off. One that is there already must be off.
func (s handler) makeFlag(ctx context.Context, t *store.StressTask, f store.StressFlag) (metadata.Node, error) {
	for {
		n, err := s.flag(ctx, t, f)
		if err != nil {
			return n, err
		}
		if n.Exists {
			if metadata.ParseShadowFlag(n.Data).Enabled {
				err = requests.Final(fmt.Errorf("%w: the flag %s was switched on by hand: remove it with turnout shadow remove %s %s %s, then retry", errs.ErrConflict, n.Path, f.App, t.Name, f.Group))
			}
			return n, err
		}
		if err := s.meta.Create(ctx, n.Path, off); err != nil && !errors.Is(err, errs.ErrConflict) {
			return n, err
		}
	}
}
