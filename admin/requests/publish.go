package requests

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"

	"github.com/turnout-mq/turnout/admin/coord"
	"github.com/turnout-mq/turnout/admin/store"
	"github.com/turnout-mq/turnout/internal/errs"
	"github.com/turnout-mq/turnout/metadata"
)

// The steps of an execution that changes the catalog. Before the first one the broker is told.
const (
	stepRecorded  = "recorded"  // the catalog and the outbox are written
	stepPublished = "published" // ZooKeeper is written
)

// The places between the steps, for tests.
const (
	atBroker    = "broker"    // the broker was told, nothing is stored
	atCatalog   = "catalog"   // the catalog and the outbox are written, ZooKeeper is not
	atZooKeeper = "zookeeper" // ZooKeeper is written, that is not stored
)

// change is what a request changes in the catalog and in ZooKeeper.
type change struct {
	item   store.CatalogItem // as the catalog shall have it; Version is that which was read
	before any               // the document that is expected in ZooKeeper; nil: none
	after  any               // the one that shall be there; nil: none
}

// carry writes the catalog and the outbox in one transaction, then ZooKeeper, and finishes the request; what was done before is not
// done again. prepare is called if nothing was written yet: it tells the broker and says what shall change.
func (r *Run) carry(ctx context.Context, prepare func(ctx context.Context) (change, error)) error {
	return r.locked(ctx, func(ctx context.Context, lock *coord.Held) error {
		if r.r.Step == "" {
			ch, err := prepare(ctx)
			if err != nil {
				return err
			}
			r.at(ctx, atBroker)
			if err := r.record(ctx, ch, nil); err != nil {
				return err
			}
			r.at(ctx, atCatalog)
		}
		o, err := r.s.db.OutboxOf(ctx, r.r.ID)
		if err != nil {
			return err
		}
		published, err := r.s.publish(ctx, lock, o)
		if err != nil {
			return err
		}
		r.at(ctx, atZooKeeper)
		item, err := r.s.db.CatalogItem(ctx, o.Kind, o.Name)
		if err != nil {
			return err
		}
		item.Doc, item.State = published, store.Active
		return r.finish(ctx, store.RequestChanges{Put: []store.CatalogItem{*item}, Published: true})
	})
}

// record writes the catalog and the outbox.
func (r *Run) record(ctx context.Context, ch change, result any) error {
	o := store.Outbox{Kind: ch.item.Kind, Name: ch.item.Name}
	for _, side := range []struct {
		doc any
		to  *json.RawMessage
	}{{ch.before, &o.Before}, {ch.after, &o.After}} {
		if side.doc == nil {
			continue
		}
		data, err := json.Marshal(side.doc)
		if err != nil {
			return err
		}
		*side.to = data
	}
	if ch.after != nil {
		ch.item.Doc = o.After
	}
	changes := store.RequestChanges{Outbox: &o}
	if ch.item.Version > 0 || ch.after != nil {
		changes.Put = []store.CatalogItem{ch.item}
	}
	return r.save(ctx, stepRecorded, result, changes)
}

// publish makes ZooKeeper what an outbox row wants, and returns the document that is there then.
func (s *Service) publish(ctx context.Context, lock *coord.Held, o store.Outbox) (doc json.RawMessage, err error) {
	switch o.Kind {
	case store.CatalogTopic:
		doc, err = s.publishTopic(ctx, lock, o)
	case store.CatalogGroup:
		doc, err = s.publishGroup(ctx, o)
	default:
		doc, err = s.publishCluster(ctx, o)
	}
	if errors.Is(err, errs.ErrConflict) { // such as a name that is taken
		err = Final(err)
	}
	return doc, err
}

// errEdited: somebody wrote past the platform. It is shown and never written over.
func errEdited(kind, name, is string) error {
	return Final(fmt.Errorf("%w: %s %s in ZooKeeper is neither what it was nor what it shall be, but %s: somebody has edited it by hand. Adopt that or put it back, then retry", errs.ErrConflict, kind, name, is))
}

// errThere: something with that name was made past the platform.
func errThere(kind, name, is string) error {
	return Final(fmt.Errorf("%w: %s %s is in ZooKeeper already and differs from what was approved: %s. Adopt it, or delete it and retry", errs.ErrConflict, kind, name, is))
}

// parse reads one side of the outbox.
func parse[T any](raw json.RawMessage) (doc T, err error) {
	if len(raw) == 0 {
		return doc, nil
	}
	err = json.Unmarshal(raw, &doc)
	return doc, err
}

// same compares documents as they are written.
func same(a, b any) (bool, error) {
	left, err := json.Marshal(a)
	if err != nil {
		return false, err
	}
	right, err := json.Marshal(b)
	return bytes.Equal(left, right), err
}

func text(doc any) string {
	data, err := json.Marshal(doc)
	if err != nil {
		return err.Error()
	}
	return string(data)
}

// TopicDocOf is what is written down of a topic in ZooKeeper; what only the broker knows is that of wanted.
func TopicDocOf(t metadata.Topic, wanted TopicDoc) TopicDoc {
	wanted.Cluster, wanted.Settings = t.Wish.Cluster, t.Settings
	if t.Route != nil {
		wanted.Order = t.Route.Order
	}
	return wanted
}

func (s *Service) publishTopic(ctx context.Context, lock *coord.Held, o store.Outbox) (json.RawMessage, error) {
	before, err := parse[TopicDoc](o.Before)
	if err != nil {
		return nil, err
	}
	after, err := parse[TopicDoc](o.After)
	if err != nil {
		return nil, err
	}
	if len(o.Before) == 0 {
		err = s.createTopic(ctx, lock, o.Name, after)
	} else {
		err = s.meta.UpdateSettings(ctx, o.Name, func(now *metadata.TopicSettings) error {
			return replace(now, before.Settings, after.Settings, "settings of topic", o.Name)
		})
	}
	if err != nil {
		return nil, err
	}
	t, err := s.meta.GetTopic(ctx, o.Name)
	if err == nil {
		err = t.Err
	}
	if err != nil {
		return nil, err
	}
	return json.Marshal(TopicDocOf(t, after))
}

// replace makes a document that is as it was before what it shall be.
func replace[T any](now *T, before, after T, kind, name string) error {
	done, err := same(*now, after)
	if err != nil || done {
		return err
	}
	asBefore, err := same(*now, before)
	if err != nil {
		return err
	}
	if !asBefore {
		return errEdited(kind, name, text(*now))
	}
	*now = after
	return nil
}

// createTopic writes a new topic whole, in one step that somebody else's turn makes fail. One that is there already must be what was
// approved.
func (s *Service) createTopic(ctx context.Context, lock *coord.Held, name string, doc TopicDoc) error {
	for {
		if err := s.meta.Sync(ctx, s.meta.TopicPath(name)); err != nil {
			return err
		}
		t, err := s.meta.GetTopic(ctx, name)
		if err == nil {
			is := TopicDocOf(t, doc)
			equal, err := same(is, doc)
			if err == nil && (!equal || t.Err != nil) {
				return errThere("topic", name, text(is))
			}
			return err
		}
		if !errors.Is(err, errs.ErrUnknownTopic) {
			return err
		}
		err = s.meta.CreateTopic(ctx, name, metadata.PutTopic{Cluster: doc.Cluster, Order: doc.Order}, doc.Settings, lock.Guard())
		switch {
		case errors.Is(err, errs.ErrConflict), errors.Is(err, errs.ErrTimeout): // it is there: look what it is; or not: write again
		case errors.Is(err, errs.ErrNotFound):
			return fmt.Errorf("%w: %v", coord.ErrLost, err) //nolint:errorlint // that our place is gone is not that something is not found
		default:
			return err
		}
	}
}

func (s *Service) publishGroup(ctx context.Context, o store.Outbox) (json.RawMessage, error) {
	before, err := parse[metadata.Group](o.Before)
	if err != nil {
		return nil, err
	}
	after, err := parse[metadata.Group](o.After)
	if err != nil {
		return nil, err
	}
	if len(o.Before) == 0 {
		err = s.createGroup(ctx, o.Name, after)
	} else {
		err = s.meta.UpdateGroup(ctx, o.Name, func(now *metadata.Group) error {
			// The names of topics that come and go are fixed in ZooKeeper, where all groups are.
			after, before := after, before
			after.Names, before.Names = now.Names, now.Names
			if now.Start == metadata.StartLatest {
				before.From = now.From
			}
			return replace(now, before, after, "group", o.Name)
		})
	}
	if err != nil {
		return nil, err
	}
	g, _, err := s.meta.GetGroup(ctx, o.Name)
	if err != nil {
		return nil, err
	}
	return json.Marshal(g)
}

// createGroup writes a new group; one that is there already must be what was approved.
func (s *Service) createGroup(ctx context.Context, name string, g metadata.Group) error {
	if err := s.meta.Sync(ctx, s.meta.GroupPath(name)); err != nil {
		return err
	}
	is, _, err := s.meta.GetGroup(ctx, name)
	switch {
	case errors.Is(err, errs.ErrUnknownGroup):
		return s.meta.PutGroup(ctx, name, g)
	case errors.Is(err, errs.ErrInvalid):
		return errThere("group", name, err.Error())
	case err != nil:
		return err
	}
	for topic, physical := range maps.All(g.Names) {
		if is.Names[topic] != physical {
			return errThere("group", name, text(is))
		}
	}
	g.Names = is.Names // completed when it was written
	equal, err := same(is, g)
	if err == nil && !equal {
		err = errThere("group", name, text(is))
	}
	return err
}

func (s *Service) publishCluster(ctx context.Context, o store.Outbox) (json.RawMessage, error) {
	before, err := parse[metadata.Cluster](o.Before)
	if err != nil {
		return nil, err
	}
	after, err := parse[metadata.Cluster](o.After)
	if err != nil {
		return nil, err
	}
	if len(o.Before) == 0 {
		err = s.createCluster(ctx, o.Name, after)
	} else {
		err = s.meta.UpdateCluster(ctx, o.Name, func(now *metadata.Cluster) error {
			return replace(now, before, after, "cluster", o.Name)
		})
	}
	if err != nil {
		return nil, err
	}
	c, _, err := s.meta.GetCluster(ctx, o.Name)
	if err != nil {
		return nil, err
	}
	return json.Marshal(c)
}

func (s *Service) createCluster(ctx context.Context, name string, c metadata.Cluster) error {
	if err := s.meta.Sync(ctx, s.meta.ClusterPath(name)); err != nil {
		return err
	}
	is, _, err := s.meta.GetCluster(ctx, name)
	switch {
	case errors.Is(err, errs.ErrNotFound):
		return s.meta.PutCluster(ctx, name, c)
	case errors.Is(err, errs.ErrInvalid):
		return errThere("cluster", name, err.Error())
	case err != nil:
		return err
	}
	equal, err := same(is, c)
	if err == nil && !equal {
		err = errThere("cluster", name, text(is))
	}
	return err
}
