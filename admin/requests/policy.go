package requests

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/turnout-mq/turnout/admin/people"
	"github.com/turnout-mq/turnout/admin/store"
	"github.com/turnout-mq/turnout/broker"
	"github.com/turnout-mq/turnout/internal/errs"
	"github.com/turnout-mq/turnout/metadata"
)

// defaultDays is how long a request waits for a decision.
const defaultDays = 14

// Policy is how requests of a kind are decided. Where none is stored: somebody has to approve, within 14 days.
func (s *Service) Policy(ctx context.Context, kind string) (store.RequestPolicy, error) {
	all, err := s.Policies(ctx)
	if err != nil {
		return store.RequestPolicy{}, err
	}
	i := slices.IndexFunc(all, func(p store.RequestPolicy) bool { return p.Kind == kind })
	if i < 0 {
		return store.RequestPolicy{}, unknownKind(kind)
	}
	return all[i], nil
}

func unknownKind(kind string) error {
	return fmt.Errorf("%w: kind %q: must be one of %q", errs.ErrInvalid, kind, Kinds)
}

// Policies are those of all kinds.
func (s *Service) Policies(ctx context.Context) ([]store.RequestPolicy, error) {
	stored, err := s.db.RequestPolicies(ctx)
	if err != nil {
		return nil, err
	}
	var all []store.RequestPolicy
	for _, kind := range Kinds {
		p, ok := stored[kind]
		if !ok {
			p = store.RequestPolicy{Kind: kind, Approval: true, Days: defaultDays}
		}
		all = append(all, p)
	}
	return all, nil
}

// PutPolicy changes the policy of a kind; p.Version must be that which was read. Requests that are submitted already are decided as
// they would have been.
func (s *Service) PutPolicy(ctx context.Context, who people.Principal, p store.RequestPolicy) (store.RequestPolicy, error) {
	if err := who.Need(people.Admin); err != nil {
		return p, err
	}
	if !slices.Contains(Kinds, p.Kind) {
		return p, unknownKind(p.Kind)
	}
	err := s.db.PutRequestPolicy(ctx, &p)
	return p, err
}

// Rule allots a cluster to topics for which whoever approves names none. The rules are asked in the order of their priority; the first
// that fits the topic and has a cluster for it decides.
type Rule struct {
	Name     string `json:"name" pattern:"^[a-zA-Z0-9_-]{1,120}$"`
	Priority int    `json:"priority" doc:"the smallest is asked first"`
	// Which topics it is for.
	Kind   broker.Kind       `json:"kind,omitempty" enum:",kafka,rocketmq" doc:"topics that want this kind of cluster, or any; empty: all topics"`
	Labels map[string]string `json:"labels,omitempty" doc:"topics with all of these labels"`
	// Which clusters they get.
	Clusters      []string          `json:"clusters,omitempty" doc:"one of these; empty: any that is registered"`
	ClusterLabels map[string]string `json:"clusterLabels,omitempty" doc:"clusters with all of these labels"`
	Load          string            `json:"load,omitempty" enum:",topics,partitions" doc:"what the cluster has the least of; empty: partitions"`
	Version       int64             `json:"version" doc:"raised by every change"` // 0: not stored yet
}

// The values of Rule.Load.
const (
	LoadTopics     = "topics"
	LoadPartitions = "partitions"
)

func (r Rule) validate() error {
	var p problems
	p.name("name", r.Name)
	if r.Kind != "" && r.Kind != broker.Kafka && r.Kind != broker.RocketMQ {
		p.add("kind", r.Kind, "must be kafka or rocketmq, or empty for any")
	}
	p.labels("labels", r.Labels)
	p.labels("clusterLabels", r.ClusterLabels)
	for i, c := range r.Clusters {
		p.name(fmt.Sprintf("clusters[%d]", i), c)
	}
	if r.Load != "" && r.Load != LoadTopics && r.Load != LoadPartitions {
		p.add("load", r.Load, "must be topics or partitions")
	}
	return p.err("allotment rule")
}

// Rules are the allotment rules in the order in which they are asked.
func (s *Service) Rules(ctx context.Context) ([]Rule, error) {
	stored, err := s.db.AllotmentRules(ctx)
	if err != nil {
		return nil, err
	}
	rules := make([]Rule, len(stored))
	for i, r := range stored {
		if err := json.Unmarshal(r.Doc, &rules[i]); err != nil {
			return nil, fmt.Errorf("allotment rule %s: %w", r.Name, err)
		}
		rules[i].Version = r.Version
	}
	return rules, nil
}

// PutRule creates or replaces a rule; Version must be that which was read, 0 for a new one.
func (s *Service) PutRule(ctx context.Context, who people.Principal, r Rule) (Rule, error) {
	if err := errors.Join(who.Need(people.Admin), r.validate()); err != nil {
		return r, err
	}
	version := r.Version
	r.Version = 0
	doc, err := json.Marshal(r)
	if err != nil {
		return r, err
	}
	row := store.StoredRule{Name: r.Name, Priority: r.Priority, Doc: doc, Version: version}
	err = s.db.PutAllotmentRule(ctx, &row)
	r.Version = row.Version
	return r, err
}

// DeleteRule removes a rule that has this version.
func (s *Service) DeleteRule(ctx context.Context, who people.Principal, name string, version int64) error {
	if err := who.Need(people.Admin); err != nil {
		return err
	}
	return s.db.DeleteAllotmentRule(ctx, name, version)
}

// candidate is a cluster that may be allotted.
type candidate struct {
	name   string
	kind   broker.Kind
	labels map[string]string
	load   store.Load
}

// allot chooses the cluster of a topic: the one that whoever approves names, else the one wished for, else by the rules. why is kept.
func (s *Service) allot(ctx context.Context, t TopicSpec, named, by string) (cluster, why string, err error) {
	chosen := cmp.Or(named, t.Cluster)
	if chosen != "" {
		kind, _, err := s.clusterOr(ctx, chosen)
		if errors.Is(err, errs.ErrNotFound) {
			return "", "", fmt.Errorf("%w: cluster %q is not registered: name another, or register it first", errs.ErrNotFound, chosen)
		}
		if err != nil {
			return "", "", err
		}
		if err := t.fits(kind); err != nil {
			return "", "", fmt.Errorf("%w: cluster %s is of kind %s: %w", errs.ErrInvalid, chosen, kind, err)
		}
		if named != "" {
			return chosen, "named by " + by, nil
		}
		return chosen, "wished for by the applicant, accepted by " + by, nil
	}
	rules, err := s.Rules(ctx)
	if err != nil {
		return "", "", err
	}
	all, err := s.candidates(ctx)
	if err != nil {
		return "", "", err
	}
	for _, r := range rules {
		if c, why := r.choose(t, all); c != "" {
			return c, why, nil
		}
	}
	return "", "", fmt.Errorf("%w: none of the %d allotment rules has a cluster for topic %s: name a cluster with the approval, or add a rule", errs.ErrConflict, len(rules), t.Name)
}

// fits says why a topic can not be on a cluster of that kind.
func (t TopicSpec) fits(kind broker.Kind) error {
	switch {
	case t.Kind != "" && t.Kind != kind:
		return fmt.Errorf("topic %s wants %s", t.Name, t.Kind)
	case kind == broker.RocketMQ && (len(t.Config) > 0 || t.Replicas > 0):
		return fmt.Errorf("topic %s has settings or replicas of its own, which that kind does not know", t.Name)
	}
	return nil
}

// candidates are the registered clusters. Labels are the catalog's: a cluster that was registered past it has none.
func (s *Service) candidates(ctx context.Context) ([]candidate, error) {
	names, err := s.meta.ListClusters(ctx)
	if err != nil {
		return nil, err
	}
	loads, err := s.db.Loads(ctx)
	if err != nil {
		return nil, err
	}
	items, err := s.db.Catalog(ctx, store.CatalogFilter{Kind: store.CatalogCluster})
	if err != nil {
		return nil, err
	}
	labels := map[string]map[string]string{}
	for _, i := range items {
		if i.State == store.Active {
			labels[i.Name] = i.Labels
		}
	}
	var all []candidate
	for _, name := range names {
		doc, _, err := s.meta.GetCluster(ctx, name)
		switch {
		case errors.Is(err, errs.ErrNotFound), errors.Is(err, errs.ErrInvalid): // nothing for a new topic
		case err != nil:
			return nil, err
		default:
			all = append(all, candidate{name: name, kind: doc.Kind, labels: labels[name], load: loads[name]})
		}
	}
	return all, nil
}

// choose is the cluster that the rule has for a topic, "" if none.
func (r Rule) choose(t TopicSpec, all []candidate) (cluster, why string) {
	if r.Kind != "" && t.Kind != "" && r.Kind != t.Kind || !within(r.Labels, t.Labels) {
		return "", ""
	}
	of := slices.DeleteFunc(slices.Clone(all), func(c candidate) bool {
		return t.fits(c.kind) != nil || r.Kind != "" && c.kind != r.Kind || len(r.Clusters) > 0 && !slices.Contains(r.Clusters, c.name) || !within(r.ClusterLabels, c.labels)
	})
	if len(of) == 0 {
		return "", ""
	}
	load := func(c candidate) int { return c.load.Partitions }
	if r.Load == LoadTopics {
		load = func(c candidate) int { return c.load.Topics }
	}
	slices.SortFunc(of, func(a, b candidate) int { return cmp.Or(cmp.Compare(load(a), load(b)), cmp.Compare(a.name, b.name)) })
	names := make([]string, len(of))
	for i, c := range of {
		names[i] = fmt.Sprintf("%s %d", c.name, load(c))
	}
	return of[0].name, fmt.Sprintf("rule %s: the fewest %s of %s", r.Name, cmp.Or(r.Load, LoadPartitions), strings.Join(names, ", "))
}

// within says that labels has all of want.
func within(want, labels map[string]string) bool {
	for key, value := range maps.All(want) {
		if got, ok := labels[key]; !ok || got != value {
			return false
		}
	}
	return true
}

// TopicDoc is what the catalog wants of a topic.
type TopicDoc struct {
	Cluster  string                 `json:"cluster"`
	Order    metadata.Order         `json:"order"`
	Replicas int                    `json:"replicas,omitempty"` // as it was created
	Config   map[string]string      `json:"config,omitempty"`   // on the broker
	Settings metadata.TopicSettings `json:"settings"`
}
