package reconcile

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"go.uber.org/zap"

	"github.com/turnout-mq/turnout/admin/coord"
	"github.com/turnout-mq/turnout/admin/migrate"
	"github.com/turnout-mq/turnout/admin/requests"
	"github.com/turnout-mq/turnout/admin/store"
	"github.com/turnout-mq/turnout/broker"
	"github.com/turnout-mq/turnout/internal/clusters"
	"github.com/turnout-mq/turnout/internal/errs"
	"github.com/turnout-mq/turnout/metadata"
)

const (
	choiceLimit = 50 * time.Second
	farewell    = 5 * time.Second
)

// Publish makes ZooKeeper, or the cluster, what the catalog has. The actor of ctx is audited. ErrNotFound: there is no such difference;
// ErrConflict: it is at another version, or not as it was shown, or what is to be written can not be; ErrInvalid: it can not be
// published.
func (s *Service) Publish(ctx context.Context, id string, version int64) error {
	return s.choose(ctx, id, version, Publish, func(ctx context.Context, lock *coord.Held, d *store.Drift, item *store.CatalogItem, is there) error {
		if d.Cluster != "" {
			return s.createOn(ctx, item, is.topic, d.Cluster)
		}
		switch d.Kind {
		case store.CatalogTopic:
			return s.publishTopic(ctx, d.ID, lock, item, is)
		case store.CatalogGroup:
			return s.publishGroup(ctx, item, is)
		}
		return s.publishCluster(ctx, item, is)
	})
}

// Adopt makes the catalog what is there. Errors as of Publish; ErrInvalid also where the document has what looks like a secret.
func (s *Service) Adopt(ctx context.Context, id string, version int64) error {
	return s.choose(ctx, id, version, Adopt, func(ctx context.Context, _ *coord.Held, d *store.Drift, item *store.CatalogItem, is there) error {
		switch {
		case d.Cluster != "":
			return s.adoptCluster(ctx, item, is.topic)
		case d.What == Missing:
			return s.db.RemoveCatalog(ctx, d.Kind, d.Name, item.Version, "")
		}
		return s.adopt(ctx, thing{d.Kind, d.Name}, item, is)
	})
}

// Ignore leaves a difference as it is until it changes. The actor of ctx and the reason, which must not be empty, are noted. Errors
// as of Publish.
func (s *Service) Ignore(ctx context.Context, id string, version int64, reason string) (*store.Drift, error) {
	return s.db.IgnoreDrift(ctx, id, version, reason)
}

// choose carries out a choice, if what is there is what was shown, while no request changes it.
func (s *Service) choose(ctx context.Context, id string, version int64, choice string, do func(context.Context, *coord.Held, *store.Drift, *store.CatalogItem, there) error) error {
	d, err := s.db.Drift(ctx, id)
	switch {
	case err != nil:
		return err
	case d.Version != version:
		return store.StaleDrift(id, version)
	case !slices.Contains(d.Choices, choice):
		return fmt.Errorf("%w: %s is %s, and %s is none of its choices: they are %q", errs.ErrInvalid, id, d.What, choice, d.Choices)
	}
	ctx, cancel := context.WithTimeout(ctx, choiceLimit)
	defer cancel()
	lock, err := coord.Lock(ctx, s.meta, d.Name)
	if err != nil {
		return err
	}
	defer func() {
		leaving, done := context.WithTimeout(context.WithoutCancel(ctx), farewell)
		defer done()
		if err := lock.Unlock(leaving); err != nil {
			s.log.Warn("the lock is given up as soon as ZooKeeper answers", zap.String("lock", d.Name), zap.Error(err))
		}
	}()
	defer context.AfterFunc(lock.Context(), cancel)()
	item, is, err := s.stillSo(ctx, d)
	if err != nil {
		return err
	}
	if err := do(ctx, lock, d, item, is); err != nil {
		return err
	}
	err = s.db.RecordAudit(ctx, store.Audit{Action: choice, Kind: "drift", Subject: id, Before: d.Found, After: d.Wanted})
	_, gone := s.db.PutDrift(ctx, d.Kind, d.Name, d.Cluster != "", nil) // the next look says what is left
	s.askAgain(d.Name)
	return errors.Join(err, gone)
}

// stillSo is what there is, if it differs as it was shown.
func (s *Service) stillSo(ctx context.Context, d *store.Drift) (*store.CatalogItem, there, error) {
	t := thing{d.Kind, d.Name}
	item, now, is, sure, err := s.examine(ctx, t)
	if err == nil && sure && d.Cluster != "" {
		switch {
		case item == nil || !is.exists || is.topic.Err != nil:
			now = nil
		default:
			now, _, err = s.compareCluster(ctx, t, item, is.topic)
		}
	}
	switch {
	case err != nil:
		return nil, is, err
	case !sure:
		return nil, is, fmt.Errorf("%w: %s is being changed by a request or a migration: wait until that has ended", errs.ErrConflict, t)
	case now == nil || now.What != d.What || now.Cluster != d.Cluster || string(now.Wanted) != string(d.Wanted) || string(now.Found) != string(d.Found):
		return nil, is, fmt.Errorf("%w: %s is not as it was shown any more: look at it again in a moment", errs.ErrConflict, t)
	}
	return item, is, nil
}

// replace makes a document what the catalog has, unless somebody has just written it.
func replace[T any](now *T, shown, wanted json.RawMessage, t thing) error {
	is, err := json.Marshal(*now)
	if err != nil {
		return err
	}
	if string(is) != string(shown) {
		return fmt.Errorf("%w: somebody has edited %s in this moment: look at it again", errs.ErrConflict, t)
	}
	next, err := decoded[T](wanted)
	if err == nil {
		*now = next
	}
	return err
}

func (s *Service) publishCluster(ctx context.Context, item *store.CatalogItem, is there) error {
	if is.exists && is.invalid == nil {
		return s.meta.UpdateCluster(ctx, item.Name, func(now *metadata.Cluster) error {
			return replace(now, is.doc, item.Doc, thing{item.Kind, item.Name})
		})
	}
	doc, err := decoded[metadata.Cluster](item.Doc)
	if err != nil {
		return err
	}
	return s.meta.PutCluster(ctx, item.Name, doc)
}

func (s *Service) publishGroup(ctx context.Context, item *store.CatalogItem, is there) error {
	t := thing{item.Kind, item.Name}
	wanted, err := wantedOf(t, item.Doc, is)
	if err != nil {
		return err
	}
	if is.exists && is.invalid == nil {
		return s.meta.UpdateGroup(ctx, item.Name, func(now *metadata.Group) error { return replace(now, is.doc, wanted, t) })
	}
	doc, err := decoded[metadata.Group](wanted)
	if err != nil {
		return err
	}
	return s.meta.PutGroup(ctx, item.Name, doc)
}

func (s *Service) publishTopic(ctx context.Context, id string, lock *coord.Held, item *store.CatalogItem, is there) error {
	doc, err := decoded[requests.TopicDoc](item.Doc)
	if err != nil {
		return err
	}
	if !is.exists {
		return s.meta.CreateTopic(ctx, item.Name, metadata.PutTopic{Cluster: doc.Cluster, Order: doc.Order}, doc.Settings, lock.Guard())
	}
	now := is.topic
	moved := now.Wish.Cluster != doc.Cluster || now.Route == nil || now.Route.Write != doc.Cluster || now.Route.Order != doc.Order
	if moved && (doc.Order == metadata.OrderKey || now.Route != nil && now.Route.Order == metadata.OrderKey) {
		return fmt.Errorf("%w: the topic keeps the order of its keys and is on another cluster: moving it back in one step would not: adopt this, then ask for a migration to %s", errs.ErrInvalid, doc.Cluster)
	}
	if wanted, err := json.Marshal(doc.Settings); err != nil {
		return err
	} else if found, err := json.Marshal(now.Settings); err != nil {
		return err
	} else if string(wanted) != string(found) || now.Err != nil {
		if err := s.meta.UpdateSettings(ctx, item.Name, func(settings *metadata.TopicSettings) error {
			return replace(settings, found, wanted, thing{item.Kind, item.Name})
		}); err != nil {
			return err
		}
	}
	if !moved {
		return nil
	}
	var start broker.Offsets
	if err := s.on(ctx, doc.Cluster, func(ctx context.Context, c *clusters.Conn) (err error) {
		start, err = c.EndOffsets(ctx, doc.Settings.Physical(item.Name, doc.Cluster))
		return err
	}); err != nil {
		return err
	}
	if err := migrate.NoteWish(ctx, s.db, item.Name, now.WishNode, store.ActorOf(ctx).Name+", "+id); err != nil {
		return err
	}
	_, err = s.meta.PutTopic(ctx, item.Name, metadata.PutTopic{Cluster: doc.Cluster, Start: start, Order: doc.Order})
	return err
}

// createOn creates a topic on its cluster.
func (s *Service) createOn(ctx context.Context, item *store.CatalogItem, is metadata.Topic, cluster string) error {
	doc, err := decoded[requests.TopicDoc](item.Doc)
	if err != nil {
		return err
	}
	return s.on(ctx, cluster, func(ctx context.Context, c *clusters.Conn) error {
		return c.CreateTopic(ctx, is.Settings.Physical(item.Name, cluster), broker.TopicSpec{Partitions: item.Partitions, Replicas: doc.Replicas, Config: doc.Config})
	})
}

// adopt takes what ZooKeeper has into the catalog.
func (s *Service) adopt(ctx context.Context, t thing, item *store.CatalogItem, is there) error {
	_, hides, err := shown(t.kind, is.doc)
	switch {
	case err != nil:
		return err
	case hides:
		return fmt.Errorf("%w: %s has what looks like a secret: keep it in a file or an environment variable of the servers and name it with secret, then adopt that", errs.ErrInvalid, t)
	}
	next := store.CatalogItem{Kind: t.kind, Name: t.name}
	if item != nil {
		next = *item
	}
	next.App, next.Doc, next.State = is.app, is.doc, store.Active
	if t.kind == store.CatalogTopic {
		next.Cluster = is.topic.Wish.Cluster
	}
	if t.kind == store.CatalogTopic && item == nil {
		physical := is.topic.Settings.Physical(t.name, next.Cluster)
		err := s.on(ctx, next.Cluster, func(ctx context.Context, c *clusters.Conn) error {
			info, err := c.DescribeTopic(ctx, physical)
			if errors.Is(err, errs.ErrUnknownTopic) {
				return nil // shown when it is in the catalog
			}
			next.Partitions = broker.PerBroker(info.Partitions)
			return err
		})
		if err != nil {
			return fmt.Errorf("%s is adopted with the number of its partitions: %w", t, err)
		}
	}
	return s.db.PutCatalog(ctx, &next, "")
}

// adoptCluster takes what the cluster has into the catalog.
func (s *Service) adoptCluster(ctx context.Context, item *store.CatalogItem, is metadata.Topic) error {
	_, found, err := s.compareCluster(ctx, thing{item.Kind, item.Name}, item, is)
	if err != nil {
		return err
	}
	doc, err := decoded[requests.TopicDoc](item.Doc)
	if err != nil {
		return err
	}
	next := *item
	doc.Replicas, doc.Config, next.Partitions = found.Replicas, found.Config, found.Partitions
	if next.Doc, err = json.Marshal(doc); err != nil {
		return err
	}
	return s.db.PutCatalog(ctx, &next, "")
}
