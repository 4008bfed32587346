package stress

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/turnout-mq/turnout/admin/requests"
	"github.com/turnout-mq/turnout/admin/store"
	"github.com/turnout-mq/turnout/broker"
	"github.com/turnout-mq/turnout/internal/clusters"
	"github.com/turnout-mq/turnout/internal/count"
	"github.com/turnout-mq/turnout/internal/errs"
	"github.com/turnout-mq/turnout/metadata"
)

// Plan says what a task would be made of, and changes nothing. ErrInvalid: the spec is not acceptable, with all that is wrong;
// ErrUnknownGroup (and ErrNotFound): there is no such group; ZooKeeper's, and that of a cluster that does not answer.
func (s *Service) Plan(ctx context.Context, spec requests.StressSpec) (*TaskPlan, error) {
	if err := spec.Validate(); err != nil {
		return nil, err
	}
	if err := s.meta.Sync(ctx, s.meta.Root); err != nil {
		return nil, err
	}
	p, err := s.plan(ctx, spec)
	if err != nil {
		return nil, err
	}
	return p, s.free(ctx, p)
}

// free notes if the name is taken.
func (s *Service) free(ctx context.Context, p *TaskPlan) error {
	same, err := s.db.StressTasks(ctx, store.StressFilter{Name: p.Task})
	if err != nil {
		return err
	}
	for _, t := range same {
		if t.State != store.StressRemoved {
			p.problem("task %s is %s already (%s): choose another name, or remove that one", p.Task, t.ID, t.State)
			return nil // its flags are there, of course
		}
	}
	for _, g := range p.Groups {
		if err := s.meta.Sync(ctx, g.Flag); err != nil {
			return err
		}
		n, err := s.meta.Read(ctx, g.Flag)
		if err != nil {
			return err
		}
		if n.Exists {
			p.problem("the flag %s is there already, made by hand: choose another name, or remove it with: turnout shadow remove %s %s %s", g.Flag, g.App, p.Task, g.Group)
		}
	}
	return nil
}

func (p *TaskPlan) problem(format string, args ...any) {
	p.Problems = append(p.Problems, fmt.Sprintf(format, args...))
}

func (p *TaskPlan) note(format string, args ...any) {
	p.Notes = append(p.Notes, fmt.Sprintf(format, args...))
}

// err is ErrConflict if something keeps the task from being made.
func (p *TaskPlan) err() error {
	if len(p.Problems) == 0 {
		return nil
	}
	var all []error
	for _, text := range p.Problems {
		all = append(all, errors.New(text))
	}
	return fmt.Errorf("stress task %s: %w: %w", p.Task, errs.ErrConflict, errors.Join(all...))
}

// groups are the groups of a spec, with the application of each.
func (s *Service) groups(ctx context.Context, spec requests.StressSpec) ([]PlannedGroup, []metadata.Group, error) {
	var planned []PlannedGroup
	var docs []metadata.Group
	for i, of := range spec.Groups {
		g, _, err := s.meta.GetGroup(ctx, of.Group)
		if err != nil {
			return nil, nil, fmt.Errorf("groups[%d].group: %w", i, err)
		}
		app := cmp.Or(of.App, g.App)
		switch {
		case app == "":
			return nil, nil, fmt.Errorf("%w: groups[%d].app %q: group %s belongs to no application: say which one subscribes it", errs.ErrInvalid, i, of.App, of.Group)
		case g.App != "" && app != g.App:
			return nil, nil, fmt.Errorf("%w: groups[%d].app %q: group %s belongs to application %s: leave app out", errs.ErrInvalid, i, of.App, of.Group, g.App)
		}
		planned = append(planned, PlannedGroup{Group: of.Group, App: app, ShadowGroup: metadata.ShadowGroupName(of.Group), Flag: s.meta.ShadowPath(app, spec.Task, of.Group)})
		docs = append(docs, g)
	}
	return planned, docs, nil
}

// apps are the applications of groups, each once, by name.
func apps(groups []PlannedGroup) []string {
	names := map[string]bool{}
	for _, g := range groups {
		names[g.App] = true
	}
	return slices.Sorted(maps.Keys(names))
}

// plan looks at the world, but not whether the name is taken.
func (s *Service) plan(ctx context.Context, spec requests.StressSpec) (*TaskPlan, error) {
	groups, docs, err := s.groups(ctx, spec)
	if err != nil {
		return nil, err
	}
	p := &TaskPlan{Task: spec.Task, Apps: apps(groups), Groups: groups, Topics: []store.StressTopic{}, Notes: []string{}, Problems: []string{}}
	for _, guard := range spec.Guards {
		if _, _, err := s.meta.GetGroup(ctx, guard.Group); err != nil {
			return nil, fmt.Errorf("guard: %w", err)
		}
	}
	all, err := s.meta.ListClusters(ctx)
	if err != nil {
		return nil, err
	}
	topics := map[string]*metadata.Topic{}
	read := func(name string) (*metadata.Topic, error) {
		if topics[name] == nil {
			t, err := s.meta.GetTopic(ctx, name)
			if err != nil {
				return nil, err
			}
			topics[name] = &t
		}
		return topics[name], nil
	}
	wanted := map[string]requests.StressTopicSpec{} // that need a shadow topic
	readers := map[string][]string{}                // by shadow topic: physical groups
	for _, t := range spec.Topics {
		if _, err := read(t.Topic); err != nil {
			return nil, fmt.Errorf("topics: %w", err)
		}
		wanted[t.Topic] = t
	}
	for _, g := range docs {
		for _, name := range g.Topics {
			if _, err := read(name); err != nil {
				return nil, fmt.Errorf("group %s: %w", g.Name, err)
			}
		}
		derived, err := g.ShadowGroup(func(topic string) metadata.TopicSettings { return topics[topic].Settings })
		if err != nil {
			p.problem("%v", err)
			continue
		}
		for shadow := range derived.Of {
			readers[shadow] = append(readers[shadow], derived.Physical(shadow))
		}
		for _, name := range g.Topics {
			if slices.Contains(slices.Collect(maps.Values(derived.Of)), name) {
				if _, named := wanted[name]; !named {
					wanted[name] = requests.StressTopicSpec{Topic: name}
				}
				continue
			}
			p.note("topic %s of group %s has no shadow topic, by its settings: stress messages to it are refused", name, g.Name)
		}
	}
	of := map[string]string{}
	for _, name := range slices.Sorted(maps.Keys(wanted)) {
		t, err := s.planTopic(ctx, p, *topics[name], wanted[name], all)
		if err != nil {
			return nil, err
		}
		if t == nil {
			continue
		}
		if other := of[t.ShadowTopic]; other != "" {
			p.problem("topics %s and %s have the same shadow topic %s: give one of them another (settings shadowTopic)", other, name, t.ShadowTopic)
		}
		of[t.ShadowTopic], t.Groups = name, readers[t.ShadowTopic]
		p.Topics = append(p.Topics, *t)
		if (t.Made || t.MadeThere) && spec.Provision != nil && !*spec.Provision {
			p.problem("shadow topic %s of %s is missing, and provision is false: create it with turnout shadow topic %s, or leave provision out", t.ShadowTopic, name, name)
		}
	}
	return p, nil
}

// planTopic is the shadow topic of a topic; nil: it can not have one, which is a problem of the plan.
func (s *Service) planTopic(ctx context.Context, p *TaskPlan, of metadata.Topic, want requests.StressTopicSpec, all []string) (*store.StressTopic, error) {
	name, err := of.Settings.ShadowName(of.Name)
	if err != nil {
		p.problem("%v", err)
		return nil, nil
	}
	t := &store.StressTopic{Topic: of.Name, ShadowTopic: name}
	settings := shadowSettings(of, name)
	is, err := s.meta.GetTopic(ctx, name)
	switch {
	case errors.Is(err, errs.ErrUnknownTopic):
		t.Made = true
		route := of.InForce(all)
		if t.Cluster = want.Cluster; t.Cluster == "" && route != nil {
			t.Cluster = route.Write
		}
		if t.Cluster == "" {
			p.problem("topic %s can not be read (%v): say with topics[].cluster where its shadow topic shall be", of.Name, of.Err)
			return nil, nil
		}
	case err != nil:
		return nil, err
	case !is.Settings.IsShadow(name):
		p.problem("%s is a topic of production and can not be the shadow topic of %s: give that another one (settings shadowTopic)", name, of.Name)
		return nil, nil
	default:
		route := is.InForce(all)
		if route == nil {
			p.problem("shadow topic %s can not be read: %v", name, is.Err)
			return nil, nil
		}
		t.Cluster, settings = route.Write, is.Settings
		if want.Cluster != "" && want.Cluster != t.Cluster {
			p.problem("shadow topic %s is on %s, and %s is asked for: leave topics[].cluster out, or ask for a migration", name, t.Cluster, want.Cluster)
		}
	}
	t.Physical = settings.Physical(name, t.Cluster)
	info, err := s.describe(ctx, t.Cluster, t.Physical)
	switch {
	case errors.Is(err, errs.ErrNotFound) && !errors.Is(err, errs.ErrUnknownTopic):
		p.problem("cluster %s of shadow topic %s is not registered: name another, or register it first", t.Cluster, name)
		return nil, nil
	case errors.Is(err, errs.ErrUnknownTopic):
		t.MadeThere = true
		if t.Partitions = want.Partitions; t.Partitions == 0 {
			if t.Partitions, err = s.partitions(ctx, of, all); err != nil {
				p.problem("how many partitions topic %s has is not known (%v): say with topics[].partitions how many its shadow topic gets", of.Name, err)
				return nil, nil
			}
		}
	case err != nil:
		return nil, err
	case info.Fenced:
		p.problem("cluster %s refuses writers of shadow topic %s: open it with: turnout topic open %s --cluster %s", t.Cluster, t.Physical, t.Physical, t.Cluster)
	case want.Partitions > 0 && broker.PerBroker(info.Partitions) != want.Partitions:
		p.problem("shadow topic %s is on cluster %s with %s, and %d are asked for: leave topics[].partitions out", t.Physical, t.Cluster, count.Of(broker.PerBroker(info.Partitions), "partition", "partitions"), want.Partitions)
	}
	return t, nil
}

// shadowSettings are those of a new shadow topic.
func shadowSettings(of metadata.Topic, name string) metadata.TopicSettings {
	s := metadata.DefaultTopicSettings()
	s.App, s.Portable = of.Settings.App, of.Settings.Portable
	if !s.IsShadow(name) {
		s.ShadowOf = of.Name
	}
	return s
}

// shadowDoc is a new shadow topic as it is written into ZooKeeper.
func shadowDoc(of metadata.Topic, t store.StressTopic) requests.TopicDoc {
	doc := requests.TopicDoc{Cluster: t.Cluster, Order: metadata.OrderNone, Settings: shadowSettings(of, t.ShadowTopic)}
	if of.Route != nil && of.Route.Order != "" {
		doc.Order = of.Route.Order
	}
	return doc
}

// partitions are how many a topic has where it is.
func (s *Service) partitions(ctx context.Context, of metadata.Topic, all []string) (int, error) {
	route := of.InForce(all)
	if route == nil {
		return 0, of.Err
	}
	info, err := s.describe(ctx, route.Write, of.Settings.Physical(of.Name, route.Write))
	return broker.PerBroker(info.Partitions), err
}

func (s *Service) describe(ctx context.Context, cluster, physical string) (info broker.TopicInfo, err error) {
	err = s.on(ctx, cluster, func(ctx context.Context, c *clusters.Conn) (err error) {
		info, err = c.DescribeTopic(ctx, physical)
		return err
	})
	return info, err
}

// on runs f with a connection to a cluster, within a bounded time.
func (s *Service) on(ctx context.Context, cluster string, f func(context.Context, *clusters.Conn) error) error {
	ctx, cancel := context.WithTimeout(ctx, s.cfg.Limit)
	defer cancel()
	c, err := s.pool.Acquire(ctx, cluster)
	if err == nil {
		err = f(ctx, c)
		c.Release()
	}
	if err != nil {
		return fmt.Errorf("cluster %s: %w", cluster, err)
	}
	return nil
}
