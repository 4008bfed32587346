package requests

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"time"

	"github.com/turnout-mq/turnout/admin/coord"
	"github.com/turnout-mq/turnout/admin/store"
	"github.com/turnout-mq/turnout/broker"
	"github.com/turnout-mq/turnout/internal/clusters"
	"github.com/turnout-mq/turnout/internal/errs"
	"github.com/turnout-mq/turnout/metadata"
)

// Positioner is what a reset of positions needs of a cluster beside broker.Cluster.
type Positioner interface {
	// OffsetsAt are the offsets of the first message of each partition that was stored at t or later; the end where there is none.
	OffsetsAt(ctx context.Context, topic string, t time.Time) (broker.Offsets, error)
	// SetPositions commits positions of a group without members. ErrConflict: it has some.
	SetPositions(ctx context.Context, group, topic string, positions broker.Offsets) error
}

// OffsetsPlan is what a reset of positions does.
type OffsetsPlan struct {
	Group      string         `json:"group" doc:"its name on the cluster"`
	Topic      string         `json:"topic" doc:"its name on the cluster"`
	Cluster    string         `json:"cluster"`
	Partitions []OffsetChange `json:"partitions"`
	Problems   []string       `json:"problems,omitempty" doc:"why it can not be done now"`
}

// OffsetChange is one partition of an OffsetsPlan.
type OffsetChange struct {
	Partition string `json:"partition"`
	Now       *int64 `json:"now,omitempty" doc:"the committed position; none: the group has not begun"`
	To        int64  `json:"to"`
	First     int64  `json:"first" doc:"the first message that is there"`
	End       int64  `json:"end" doc:"the offset that the next message gets"`
}

type offsetsHandler struct{ *Service }

func (s offsetsHandler) Check(ctx context.Context, raw json.RawMessage, submitted bool) (Target, error) {
	spec, err := decode[OffsetsSpec](KindOffsets, raw)
	if err != nil {
		return Target{}, err
	}
	if err := spec.validate(); err != nil {
		return Target{}, err
	}
	g, _, err := s.meta.GetGroup(ctx, spec.Group)
	if err != nil {
		return Target{}, err
	}
	target := Target{App: g.App, Subject: spec.Group}
	if submitted {
		_, err = s.PlanOffsets(ctx, spec) // not its problems: the group is paused for the execution only
	}
	return target, err
}

// PlanOffsets says what a reset of positions would do now. Nothing is changed. The result is nil with an error: ErrInvalid, ErrUnsupported,
// ErrUnknownGroup, ErrUnknownTopic, those of the cluster.
func (s *Service) PlanOffsets(ctx context.Context, spec OffsetsSpec) (*OffsetsPlan, error) {
	if err := spec.validate(); err != nil {
		return nil, err
	}
	g, _, err := s.meta.GetGroup(ctx, spec.Group)
	if err != nil {
		return nil, err
	}
	t, err := s.meta.GetTopic(ctx, spec.Topic)
	if err == nil {
		err = t.Err
	}
	if err != nil {
		return nil, err
	}
	physical := g.Physical(spec.Topic)
	if physical == "" {
		return nil, fmt.Errorf("%w: topic %q: group %s reads %q: name one of these", errs.ErrInvalid, spec.Topic, spec.Group, g.Topics)
	}
	cluster := spec.Cluster
	if cluster == "" && t.Route != nil {
		cluster = t.Route.Write
	}
	p := &OffsetsPlan{Group: physical, Topic: t.Settings.Physical(spec.Topic, cluster), Cluster: cluster}
	if !g.Paused {
		p.Problems = append(p.Problems, fmt.Sprintf("group %s is not paused: pause it by its settings, so that nobody handles messages beside this", spec.Group))
	}
	if err := s.whoReads(ctx, p, spec, t); err != nil {
		return nil, err
	}
	return p, s.on(ctx, cluster, func(c *clusters.Conn) error { return p.fill(ctx, c, spec) })
}

// whoReads adds who has the group in hands, and a migration that counts on its positions.
func (s *Service) whoReads(ctx context.Context, p *OffsetsPlan, spec OffsetsSpec, t metadata.Topic) error {
	open, err := s.db.Migrations(ctx, store.Filter{Topic: spec.Topic, Open: true, Limit: 1})
	if err != nil {
		return err
	}
	if len(open) > 0 {
		p.Problems = append(p.Problems, fmt.Sprintf("topic %s is being moved (%s), and what groups have read decides on that: wait until it has ended", t.Name, open[0].ID))
	}
	entries, err := s.meta.ListParticipants(ctx, spec.Topic)
	if err != nil {
		return err
	}
	var instances []string
	for _, e := range entries {
		if _, member := e.Groups[spec.Group]; member || e.Err != nil { // one that nobody can read may be a member
			instances = append(instances, e.ID)
		}
	}
	if len(instances) > 0 {
		p.Problems = append(p.Problems, fmt.Sprintf("instances subscribe the group, and go on from where they were also when it is paused: stop %q", instances))
	}
	return nil
}

// fill asks the cluster.
func (p *OffsetsPlan) fill(ctx context.Context, c *clusters.Conn, spec OffsetsSpec) error {
	able, ok := c.Cluster.(Positioner)
	if !ok {
		return fmt.Errorf("%w: positions can not be set on a cluster of kind %s", errs.ErrUnsupported, c.Kind)
	}
	members, err := c.GroupMembers(ctx, p.Group)
	if err != nil && !errors.Is(err, errs.ErrUnknownGroup) {
		return err
	}
	if len(members) > 0 {
		p.Problems = append(p.Problems, fmt.Sprintf("members of the group are connected, and would write their positions over the new ones: stop %q", members))
	}
	now, err := c.Positions(ctx, p.Group, p.Topic)
	if err != nil {
		return err
	}
	first, err := c.StartOffsets(ctx, p.Topic)
	if err != nil {
		return err
	}
	end, err := c.EndOffsets(ctx, p.Topic)
	if err != nil {
		return err
	}
	to := maps.Clone(end)
	switch spec.To {
	case ToEarliest:
		to = first
	case ToTime:
		if to, err = able.OffsetsAt(ctx, p.Topic, *spec.Time); err != nil {
			return err
		}
	case ToOffsets:
		to = broker.Offsets(spec.Offsets)
	}
	var wrong problems
	for _, partition := range to.Names() {
		change := OffsetChange{Partition: partition, To: to[partition], First: first[partition], End: end[partition]}
		if at, known := now[partition]; known {
			change.Now = &at
		}
		if _, known := end[partition]; !known {
			wrong.add("offsets", partition, "the topic has the partitions %q on cluster %s", end.Names(), p.Cluster)
		} else if spec.To == ToOffsets && (change.To < change.First || change.To > change.End) {
			wrong.add(fmt.Sprintf("offsets[%q]", partition), change.To, "must be %d to %d", change.First, change.End)
		}
		p.Partitions = append(p.Partitions, change)
	}
	return wrong.err("offsets")
}

// positions are where the plan goes.
func (p *OffsetsPlan) positions() broker.Offsets {
	to := broker.Offsets{}
	for _, c := range p.Partitions {
		to[c.Partition] = c.To
	}
	return to
}

// Execute stores the plan first: "latest" and a time mean what they meant then, however often it is tried.
func (s offsetsHandler) Execute(ctx context.Context, run *Run) error {
	spec, err := decode[OffsetsSpec](KindOffsets, run.r.Spec)
	if err != nil {
		return err
	}
	return run.locked(ctx, func(ctx context.Context, _ *coord.Held) error {
		now, err := s.PlanOffsets(ctx, spec)
		if err != nil {
			return err
		}
		if len(now.Problems) > 0 {
			return Final(fmt.Errorf("%w: %q; then retry", errs.ErrConflict, now.Problems))
		}
		if run.r.Step == "" {
			if err := run.Save(ctx, stepRecorded, now); err != nil {
				return err
			}
			run.at(ctx, atCatalog)
		}
		plan, err := parse[OffsetsPlan](run.r.Result)
		if err != nil {
			return err
		}
		err = s.on(ctx, plan.Cluster, func(c *clusters.Conn) error {
			able, ok := c.Cluster.(Positioner)
			if !ok {
				return errs.ErrUnsupported
			}
			if err := able.SetPositions(ctx, plan.Group, plan.Topic, plan.positions()); err != nil {
				return err
			}
			is, err := c.Positions(ctx, plan.Group, plan.Topic)
			if err != nil {
				return err
			}
			for _, change := range plan.Partitions {
				if is[change.Partition] != change.To {
					return fmt.Errorf("partition %s is at %d after it was set to %d: %w", change.Partition, is[change.Partition], change.To, errNotReady)
				}
			}
			return nil
		})
		if errors.Is(err, errs.ErrConflict) {
			return Final(fmt.Errorf("%w: stop the members of the group, then retry", err))
		}
		if err != nil {
			return err
		}
		run.at(ctx, atBroker)
		return run.finish(ctx, store.RequestChanges{})
	})
}
