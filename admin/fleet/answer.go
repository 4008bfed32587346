package fleet

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/turnout-mq/turnout/admin/store"
	"github.com/turnout-mq/turnout/internal/errs"
	"github.com/turnout-mq/turnout/metadata"
)

// namesAtOnce bounds the names in one question to the store.
const namesAtOnce = 500

// Instances are the instances that run now, of an application or of all with "", by application and id. ErrInvalid: not a
// name.
func (s *Service) Instances(ctx context.Context, app string) ([]Instance, error) {
	entries, err := s.meta.ListInstances(ctx, app)
	if err != nil {
		return nil, err
	}
	list := make([]Instance, 0, len(entries))
	for _, e := range entries {
		i := Instance{ID: e.ID, App: e.App, Host: e.Host, PID: e.PID, Started: e.Started, SDK: e.SDK, Topics: []Use{}}
		if e.Err != nil {
			i.Error, i.Stale = e.Err.Error(), true
		}
		list = append(list, i)
	}
	for some := range slices.Chunk(list, namesAtOnce) {
		at := map[string]*Instance{}
		names := make([]string, len(some))
		for i := range some {
			names[i], at[some[i].ID] = some[i].ID, &some[i]
		}
		found, err := s.db.Findings(ctx, store.FindingFilter{Kind: kindInstance, Names: names})
		if err != nil {
			return nil, err
		}
		for _, f := range found {
			i := at[f.Name]
			if i.Topics, err = more(i.Topics, f); err != nil {
				return nil, err
			}
			i.Stale = i.Stale || i.Topics[len(i.Topics)-1].Stale
		}
	}
	return list, nil
}

// Topic is a topic as it was last looked at. ErrUnknownTopic (and ErrNotFound): there is none; ErrInvalid: not a name.
func (s *Service) Topic(ctx context.Context, topic string) (*Topic, error) {
	doc, err := s.meta.GetTopic(ctx, topic)
	if err != nil {
		return nil, err
	}
	found, err := s.db.Findings(ctx, store.FindingFilter{Topic: topic})
	if err != nil {
		return nil, err
	}
	t := &Topic{Topic: topic, App: doc.Settings.App}
	for _, f := range found {
		if f.Kind == kindTopic {
			if err := json.Unmarshal(f.Doc, t); err != nil {
				return nil, unreadable(f, err)
			}
		}
	}
	if t.Moved, err = s.moved(ctx, t.Migration); err != nil {
		return nil, err
	}
	if t.Clusters == nil {
		t.Clusters = []TopicOnCluster{}
	}
	t.Groups, t.Instances = []GroupOnCluster{}, []Use{}
	for _, f := range found {
		switch f.Kind {
		case kindGroup:
			t.Groups, err = more(t.Groups, f)
		case kindInstance:
			t.Instances, err = more(t.Instances, f)
		}
		if err != nil {
			return nil, err
		}
	}
	return t, nil
}

// moved is how far a migration is; nil: there is none of that id.
func (s *Service) moved(ctx context.Context, id string) (*TopicMigration, error) {
	if id == "" {
		return nil, nil //nolint:nilnil // as the field
	}
	m, err := s.db.Migration(ctx, id)
	switch {
	case errors.Is(err, errs.ErrNotFound), errors.Is(err, errs.ErrInvalid): // of another store, or written by hand
		return nil, nil //nolint:nilnil // as the field
	case err != nil:
		return nil, err
	}
	t := &TopicMigration{State: m.State, Outcome: m.Outcome}
	if m.EndedAt != nil {
		t.Ended = *m.EndedAt
	}
	return t, nil
}

// Group is a group with how far it is. What was not looked at yet is not in its parts. ErrUnknownGroup (and ErrNotFound): there is
// none; ErrInvalid: not a name, or its document can not be read.
func (s *Service) Group(ctx context.Context, group string) (*Group, error) {
	doc, _, err := s.meta.GetGroup(ctx, group)
	if err != nil {
		return nil, err
	}
	found, err := s.db.Findings(ctx, store.FindingFilter{Kind: kindGroup, Names: []string{group}})
	if err != nil {
		return nil, err
	}
	g := newGroup(doc)
	var parts []GroupOnCluster
	for _, f := range found {
		if !slices.Contains(doc.Topics, f.Topic) {
			continue // it does not read that any more
		}
		if parts, err = more(parts, f); err != nil {
			return nil, err
		}
	}
	for _, p := range parts {
		g.add(p)
	}
	return g, nil
}

func newGroup(doc metadata.Group) *Group {
	return &Group{Group: doc.Name, App: doc.App, Topics: doc.Topics, Paused: doc.Paused, Parts: []GroupOnCluster{}}
}

// add counts a part in.
func (g *Group) add(p GroupOnCluster) {
	g.Parts = append(g.Parts, p)
	g.Unread, g.Retries, g.DeadLetters = g.Unread+p.Unread, g.Retries+p.Retries, g.DeadLetters+p.DeadLetters
	if p.Consumed != nil {
		if g.Consumed == nil {
			g.Consumed = new(float64)
		}
		*g.Consumed += *p.Consumed
	}
	if p.Error != "" {
		g.Error = fmt.Sprintf("topic %s on cluster %s: %s", p.Topic, p.Cluster, p.Error)
	}
}

// Top are the n groups, topic by topic and cluster by cluster, that have the most unread; fewer if fewer have any. n must be 1 or
// more (ErrInvalid).
func (s *Service) Top(ctx context.Context, n int) ([]GroupOnCluster, error) {
	if n < 1 {
		return nil, fmt.Errorf("%w: number of groups %d: must be 1 or more", errs.ErrInvalid, n)
	}
	found, err := s.db.Findings(ctx, store.FindingFilter{Kind: kindGroup, MinWeight: 1, Heaviest: true, Limit: n})
	if err != nil {
		return nil, err
	}
	list := make([]GroupOnCluster, 0, len(found))
	for _, f := range found {
		if list, err = more(list, f); err != nil {
			return nil, err
		}
	}
	return list, nil
}

// more adds what a finding says.
func more[T any](list []T, f store.Finding) ([]T, error) {
	var one T
	if err := json.Unmarshal(f.Doc, &one); err != nil {
		return list, unreadable(f, err)
	}
	return append(list, one), nil
}

func unreadable(f store.Finding, err error) error {
	return fmt.Errorf("what was seen of %s %s of topic %s can not be read; the next look replaces it: %w", f.Kind, f.Name, f.Topic, err)
}
