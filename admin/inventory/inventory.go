package inventory

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"golang.org/x/sync/errgroup"

	"github.com/turnout-mq/turnout/admin/store"
	"github.com/turnout-mq/turnout/broker"
	"github.com/turnout-mq/turnout/internal/errs"
	"github.com/turnout-mq/turnout/internal/mask"
	"github.com/turnout-mq/turnout/metadata"
)

// readers is how many things are read at once.
const readers = 32

// Inventory lists what there is.
type Inventory struct {
	Meta *metadata.Store
	// DB has the catalog of the platform; then documents are shown without what looks like a secret. nil: ZooKeeper alone, as it
	// is.
	DB *store.Store
}

// State is how something stands.
type State string

// The states.
const (
	Creating   State = "creating"   // the catalog has it, ZooKeeper not yet
	Deleting   State = "deleting"   // the catalog is about to remove it
	Missing    State = "missing"    // the catalog has it, and ZooKeeper has lost it
	Invalid    State = "invalid"    // nobody can read what is in ZooKeeper
	Unanswered State = "unanswered" // of a topic: the route does not answer the wish yet
	Moving     State = "moving"     // of a topic: it is read from several clusters, or its sends pause
	Settled    State = "settled"    // none of these
)

// Managed is what the platform's catalog has of something.
type Managed struct {
	Cluster    string            `json:"cluster,omitempty" doc:"of a topic: the cluster that was allotted"`
	Partitions int               `json:"partitions,omitempty" doc:"of a topic: as it was created"`
	Labels     map[string]string `json:"labels,omitempty" doc:"what allotment rules look at"`
	Doc        json.RawMessage   `json:"doc" doc:"what is wanted in ZooKeeper"`
	Version    int64             `json:"version" doc:"raised by every change"`
	CreatedAt  time.Time         `json:"createdAt"`
	UpdatedAt  time.Time         `json:"updatedAt"`
}

// Filter says what is asked for. What is empty matches all.
type Filter struct {
	Text    string // part of the name, in any case
	App     string // of topics and groups
	Cluster string // of topics: one that wish or route name
	Topic   string // of groups: one that they read
	Kind    broker.Kind
	After   string // only those whose name comes after this one, byte by byte
	Limit   int    // at most so many; 0: no limit
}

// GroupState is a group in a list.
type GroupState struct {
	Entry[metadata.Group]
	App     string   `json:"app,omitempty" doc:"the application that it belongs to"`
	State   State    `json:"state" enum:"creating,deleting,missing,invalid,settled" doc:"How it stands: the catalog has it and ZooKeeper not yet (creating), the catalog is about to remove it (deleting), ZooKeeper has lost it (missing); what is in ZooKeeper can not be read (invalid); none of these (settled)."`
	Catalog *Managed `json:"catalog,omitempty" doc:"what the platform has of it; absent: it does not manage it"`
}

// ClusterState is a cluster in a list.
type ClusterState struct {
	Entry[metadata.Cluster]
	State   State       `json:"state" enum:"creating,deleting,missing,invalid,settled" doc:"How it stands: the catalog has it and ZooKeeper not yet (creating), the catalog is about to remove it (deleting), ZooKeeper has lost it (missing); what is in ZooKeeper can not be read (invalid); none of these (settled)."`
	Load    *store.Load `json:"load,omitempty" doc:"what the platform has allotted to it"`
	Catalog *Managed    `json:"catalog,omitempty" doc:"what the platform has of it; absent: it does not manage it"`
}

// Topics lists topics by name.
func (i *Inventory) Topics(ctx context.Context, f Filter) ([]*TopicState, error) {
	names, err := i.Meta.ListTopics(ctx)
	if err != nil {
		return nil, err
	}
	read, err := i.topics(ctx, f)
	if err != nil {
		return nil, err
	}
	return list(ctx, i, store.CatalogTopic, f, names, read)
}

// Topic reads one. ErrUnknownTopic.
func (i *Inventory) Topic(ctx context.Context, name string) (*TopicState, error) {
	read, err := i.topics(ctx, Filter{})
	if err != nil {
		return nil, err
	}
	return one(ctx, i, store.CatalogTopic, name, read)
}

// topics reads single topics.
func (i *Inventory) topics(ctx context.Context, f Filter) (reader[TopicState], error) {
	clusters, err := entries(ctx, i.Meta.ListClusters, i.Meta.GetCluster)
	if err != nil {
		return nil, err
	}
	kinds := map[string]broker.Kind{}
	all := make([]string, len(clusters))
	for n, c := range clusters {
		all[n] = c.Name
		if c.Document != nil {
			kinds[c.Name] = c.Document.Kind
		}
	}
	return func(ctx context.Context, name string, item *store.CatalogItem) (*TopicState, error) {
		if f.App != "" {
			if other, err := i.ofAnother(ctx, name, f.App); err != nil || other {
				return nil, err
			}
		}
		r := &TopicState{TopicFields: TopicFields{Name: name}, OpenStays: []string{}}
		t, err := ReadTopic(ctx, i.Meta, name, all)
		gone := errors.Is(err, errs.ErrUnknownTopic)
		switch {
		case gone && item != nil:
			if f.Cluster != "" && item.Cluster != f.Cluster {
				return nil, nil
			}
		case errors.Is(err, errs.ErrInvalid) && f.Cluster == "": // a node whose name is none
			gone, r.Error, r.State = true, err.Error(), Invalid
		case err != nil:
			return nil, err
		default:
			if f.Cluster != "" && !t.on(f.Cluster) {
				return nil, nil
			}
			r.TopicFields, r.State, r.App, r.OpenStays = t.Fields(), t.state(), t.Settings.App, t.openStays()
			if t.InForce != nil {
				r.Cluster, r.Kind = t.InForce.Write, kinds[t.InForce.Write]
			}
		}
		r.App, r.State, r.Catalog, err = i.managed(item, r.App, r.State, gone)
		if err != nil || f.App != "" && r.App != f.App || f.Kind != "" && r.Kind != f.Kind {
			return nil, err
		}
		if !gone {
			if r.Parts, err = t.Participants(ctx, i.Meta); err != nil {
				return nil, err
			}
		}
		r.Participants = len(r.Parts)
		for _, p := range r.Parts {
			if p.Applied {
				r.Applied++
			}
		}
		return r, nil
	}, nil
}

// ofAnother says that a topic is another application's, by its settings alone: the rest of most topics need not be read then.
func (i *Inventory) ofAnother(ctx context.Context, topic, app string) (bool, error) {
	n, err := i.Meta.Read(ctx, i.Meta.SettingsPath(topic))
	if err != nil || !n.Exists {
		return false, err
	}
	settings, invalid := metadata.ParseTopicSettings(n.Data)
	return invalid == nil && settings.App != "" && settings.App != app, nil
}

// Groups lists groups by name.
func (i *Inventory) Groups(ctx context.Context, f Filter) ([]*GroupState, error) {
	names, err := i.Meta.ListGroups(ctx)
	if err != nil {
		return nil, err
	}
	return list(ctx, i, store.CatalogGroup, f, names, i.groups(f))
}

// Group reads one. ErrUnknownGroup.
func (i *Inventory) Group(ctx context.Context, name string) (*GroupState, error) {
	return one(ctx, i, store.CatalogGroup, name, i.groups(Filter{}))
}

func (i *Inventory) groups(f Filter) reader[GroupState] {
	return func(ctx context.Context, name string, item *store.CatalogItem) (*GroupState, error) {
		e, gone, err := readEntry(ctx, name, item, i.Meta.GetGroup)
		if err != nil {
			return nil, err
		}
		r := &GroupState{Entry: *e, State: stateOf(e)}
		if e.Document != nil {
			r.App = e.Document.App
		}
		r.App, r.State, r.Catalog, err = i.managed(item, r.App, r.State, gone)
		if err != nil || f.App != "" && r.App != f.App || f.Topic != "" && (e.Document == nil || !slices.Contains(e.Document.Topics, f.Topic)) {
			return nil, err
		}
		return r, nil
	}
}

// Clusters lists clusters by name.
func (i *Inventory) Clusters(ctx context.Context, f Filter) ([]*ClusterState, error) {
	names, err := i.Meta.ListClusters(ctx)
	if err != nil {
		return nil, err
	}
	read, err := i.clusters(ctx, f)
	if err != nil {
		return nil, err
	}
	return list(ctx, i, store.CatalogCluster, f, names, read)
}

// Cluster reads one. ErrNotFound.
func (i *Inventory) Cluster(ctx context.Context, name string) (*ClusterState, error) {
	read, err := i.clusters(ctx, Filter{})
	if err != nil {
		return nil, err
	}
	return one(ctx, i, store.CatalogCluster, name, read)
}

func (i *Inventory) clusters(ctx context.Context, f Filter) (reader[ClusterState], error) {
	var loads map[string]store.Load
	if i.DB != nil {
		var err error
		if loads, err = i.DB.Loads(ctx); err != nil {
			return nil, err
		}
	}
	return func(ctx context.Context, name string, item *store.CatalogItem) (*ClusterState, error) {
		e, gone, err := readEntry(ctx, name, item, i.Meta.GetCluster)
		if err != nil {
			return nil, err
		}
		r := &ClusterState{Entry: *e, State: stateOf(e)}
		if _, r.State, r.Catalog, err = i.managed(item, "", r.State, gone); err != nil {
			return nil, err
		}
		if f.Kind != "" && (e.Document == nil || e.Document.Kind != f.Kind) {
			return nil, nil
		}
		if load, known := loads[name]; known {
			r.Load = &load
		}
		if i.DB != nil && r.Document != nil {
			r.Document, err = maskedCluster(*r.Document)
		}
		return r, err
	}, nil
}

// maskedCluster is a cluster's document without what looks like a secret.
func maskedCluster(c metadata.Cluster) (*metadata.Cluster, error) {
	data, err := json.Marshal(c)
	if err != nil {
		return nil, err
	}
	shown, hides, err := mask.Document(data, true)
	if err != nil || !hides {
		return &c, err
	}
	out := metadata.Cluster{Name: c.Name}
	return &out, json.Unmarshal(shown, &out)
}

// managed is what the catalog has of something, and what that makes of its application and state. gone: ZooKeeper does not have it.
func (i *Inventory) managed(item *store.CatalogItem, app string, state State, gone bool) (string, State, *Managed, error) {
	if item == nil {
		return app, state, nil, nil
	}
	switch {
	case item.State == store.Creating:
		state = Creating
	case item.State == store.Deleting:
		state = Deleting
	case gone:
		state = Missing
	}
	if app == "" {
		app = item.App
	}
	doc, _, err := mask.Document(item.Doc, item.Kind == store.CatalogCluster)
	return app, state, &Managed{Cluster: item.Cluster, Partitions: item.Partitions, Labels: item.Labels, Doc: doc, Version: item.Version, CreatedAt: item.CreatedAt, UpdatedAt: item.UpdatedAt}, err
}

// reader reads one thing, of which the catalog has item or nothing. nil: it does not fit. ErrNotFound: there is none.
type reader[T any] func(ctx context.Context, name string, item *store.CatalogItem) (*T, error)

// one reads the thing of that name.
func one[T any](ctx context.Context, i *Inventory, kind, name string, read reader[T]) (*T, error) {
	if err := metadata.CheckName(kind, name); err != nil {
		return nil, err
	}
	var item *store.CatalogItem
	if i.DB != nil {
		var err error
		if item, err = i.DB.CatalogItem(ctx, kind, name); err != nil && !errors.Is(err, errs.ErrNotFound) {
			return nil, err
		}
	}
	return read(ctx, name, item)
}

// atOnce is how many things are looked at together, at least.
const atOnce = 100

// list reads things in the order of their names, until there are enough. names are those that ZooKeeper has, sorted.
func list[T any](ctx context.Context, i *Inventory, kind string, f Filter, names []string, read reader[T]) ([]*T, error) {
	found := []*T{}
	for _, given := range []string{f.Text, f.After} {
		if !utf8.ValidString(given) || strings.Contains(given, "\x00") {
			return nil, fmt.Errorf("%w: %.40q: must be a name, or a part of one", errs.ErrInvalid, given)
		}
	}
	text := strings.ToLower(f.Text)
	names = slices.DeleteFunc(names, func(name string) bool {
		return name <= f.After || !strings.Contains(strings.ToLower(name), text)
	})
	after := f.After
	for {
		items := map[string]*store.CatalogItem{}
		some, whole := names, true
		if i.DB != nil {
			catalog, err := i.DB.Catalog(ctx, store.CatalogFilter{Kind: kind, Text: f.Text, After: after, Limit: max(atOnce, f.Limit)})
			if err != nil {
				return nil, err
			}
			whole = len(catalog) < max(atOnce, f.Limit)
			last := ""
			for _, item := range catalog {
				items[item.Name], last = item, item.Name
			}
			if !whole { // what the catalog has behind its last one is not known yet
				end, here := slices.BinarySearch(names, last)
				if here {
					end++
				}
				some = names[:end]
			}
			some = slices.Clone(some)
			for name := range items {
				some = append(some, name)
			}
			slices.Sort(some)
			some = slices.Compact(some)
		}
		if most := max(atOnce, f.Limit); f.Limit > 0 && len(some) > most {
			some, whole = some[:most], false
		}
		states, err := forEach(ctx, some, func(ctx context.Context, name string) (*T, error) {
			state, err := read(ctx, name, items[name])
			if errors.Is(err, errs.ErrNotFound) { // just deleted
				return nil, nil
			}
			return state, err
		})
		if err != nil {
			return nil, err
		}
		for _, state := range states {
			if state != nil {
				found = append(found, state)
			}
			if f.Limit > 0 && len(found) == f.Limit {
				return found, nil
			}
		}
		if whole || len(some) == 0 {
			return found, nil
		}
		after = some[len(some)-1]
		names = slices.DeleteFunc(names, func(name string) bool { return name <= after })
	}
}

// readEntry reads a document. gone: only the catalog has it, as item.
func readEntry[T any](ctx context.Context, name string, item *store.CatalogItem, get func(context.Context, string) (T, metadata.Node, error)) (e *Entry[T], gone bool, err error) {
	doc, n, err := get(ctx, name)
	switch {
	case err == nil:
		return NewEntry(name, doc, n), false, nil
	case errors.Is(err, errs.ErrNotFound) && item != nil:
		return &Entry[T]{Name: name}, true, nil
	case errors.Is(err, errs.ErrInvalid), errors.Is(err, errs.ErrTooLarge):
		return &Entry[T]{Name: name, Version: n.Version, Zxid: n.Mzxid, Error: err.Error()}, false, nil
	}
	return nil, false, err
}

func stateOf[T any](e *Entry[T]) State {
	if e.Document == nil {
		return Invalid
	}
	return Settled
}

// entries reads all documents of a kind, by name; what is gone meanwhile is left out.
func entries[T any](ctx context.Context, names func(context.Context) ([]string, error), get func(context.Context, string) (T, metadata.Node, error)) ([]*Entry[T], error) {
	all, err := names(ctx)
	if err != nil {
		return nil, err
	}
	found, err := forEach(ctx, all, func(ctx context.Context, name string) (*Entry[T], error) {
		e, _, err := readEntry(ctx, name, nil, get)
		if errors.Is(err, errs.ErrNotFound) {
			return nil, nil
		}
		return e, err
	})
	return slices.DeleteFunc(found, func(e *Entry[T]) bool { return e == nil }), err
}

// forEach calls f for all of in, some at once, and returns the results in the order of in, or the first error.
func forEach[A, B any](ctx context.Context, in []A, f func(context.Context, A) (B, error)) ([]B, error) {
	out := make([]B, len(in))
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(readers)
	for n, x := range in {
		g.Go(func() (err error) {
			out[n], err = f(ctx, x)
			return err
		})
	}
	err := g.Wait()
	return out, err
}
