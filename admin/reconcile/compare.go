package reconcile

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/turnout-mq/turnout/admin/requests"
	"github.com/turnout-mq/turnout/admin/store"
	"github.com/turnout-mq/turnout/broker"
	"github.com/turnout-mq/turnout/internal/clusters"
	"github.com/turnout-mq/turnout/internal/errs"
	"github.com/turnout-mq/turnout/metadata"
)

// What differs.
const (
	Edited   = "edited"   // ZooKeeper has another document
	Missing  = "missing"  // in ZooKeeper
	Unknown  = "unknown"  // to the catalog
	Absent   = "absent"   // on the cluster
	Settings = "settings" // on the cluster differ
)

// The choices.
const (
	Publish = "publish"
	Adopt   = "adopt"
	Ignore  = "ignore"
)

// there is what ZooKeeper has of a thing.
type there struct {
	exists  bool
	doc     json.RawMessage // as the catalog would have it; nil: it can not be read
	invalid error           // why not
	topic   metadata.Topic
	app     string
	shadow  bool // of a shadow topic or group
}

// read reads what ZooKeeper has. wanted completes what only the catalog knows.
func (s *Service) read(ctx context.Context, t thing, wanted json.RawMessage) (is there, err error) {
	var doc any
	switch t.kind {
	case store.CatalogTopic:
		is.topic, err = s.meta.GetTopic(ctx, t.name)
		var known requests.TopicDoc
		if len(wanted) > 0 {
			if err := json.Unmarshal(wanted, &known); err != nil {
				return is, fmt.Errorf("the catalog's document of %s: %w", t, err)
			}
		}
		if err == nil {
			is.invalid = is.topic.Err
			doc, is.app, is.shadow = requests.TopicDocOf(is.topic, known), is.topic.Settings.App, is.topic.Settings.IsShadow(t.name)
		}
	case store.CatalogGroup:
		var g metadata.Group
		g, _, err = s.meta.GetGroup(ctx, t.name)
		doc, is.app, is.shadow = g, g.App, strings.HasPrefix(t.name, metadata.ShadowPrefix)
	default:
		doc, _, err = s.meta.GetCluster(ctx, t.name)
	}
	switch {
	case errors.Is(err, errs.ErrNotFound):
		return there{}, nil
	case errors.Is(err, errs.ErrInvalid), errors.Is(err, errs.ErrTooLarge):
		is.invalid = err
	case err != nil:
		return is, err
	}
	is.exists = true
	if is.invalid == nil {
		is.doc, err = json.Marshal(doc)
		return is, err
	}
	return is, nil // that it can not be read is what there is
}

// wantedOf is the catalog's document as it would be written, but for what only ZooKeeper knows.
func wantedOf(t thing, raw json.RawMessage, is there) (json.RawMessage, error) {
	var doc any
	var err error
	switch t.kind {
	case store.CatalogTopic:
		doc, err = decoded[requests.TopicDoc](raw)
	case store.CatalogGroup:
		var g, now metadata.Group
		if g, err = decoded[metadata.Group](raw); err == nil && is.doc != nil {
			if now, err = decoded[metadata.Group](is.doc); g.Start == metadata.StartLatest {
				g.From = now.From // where it begins on a new topic is noted by its first member
			}
		}
		doc = g
	default:
		doc, err = decoded[metadata.Cluster](raw)
	}
	if err != nil {
		return nil, fmt.Errorf("the catalog's document of %s: %w", t, err)
	}
	return json.Marshal(doc)
}

func decoded[T any](raw json.RawMessage) (doc T, err error) {
	err = json.Unmarshal(raw, &doc)
	return doc, err
}

// compare tells how the catalog and ZooKeeper differ; nil: they do not.
func (s *Service) compare(ctx context.Context, t thing, item *store.CatalogItem) (*store.Drift, there, error) {
	var raw json.RawMessage
	if item != nil {
		raw = item.Doc
	}
	is, err := s.read(ctx, t, raw)
	if err != nil {
		return nil, is, err
	}
	d := &store.Drift{Kind: t.kind, Name: t.name}
	switch {
	case item == nil && !is.exists, item == nil && is.shadow:
		return nil, is, nil
	case item == nil:
		d.What, d.Detail, d.Choices = Unknown, "it was made past the platform", []string{Adopt, Ignore}
	case !is.exists:
		d.What, d.Detail, d.Choices = Missing, "it is gone from ZooKeeper", []string{Publish, Adopt, Ignore}
	default:
		d.What, d.Choices = Edited, []string{Publish, Adopt, Ignore}
	}
	var wanted json.RawMessage
	if item != nil {
		if wanted, err = wantedOf(t, item.Doc, is); err != nil {
			return nil, is, err
		}
		if is.doc != nil && bytes.Equal(wanted, is.doc) {
			return nil, is, nil
		}
	}
	if is.invalid != nil {
		d.Detail, d.Choices = "nobody can read what is there", slices.DeleteFunc(d.Choices, func(c string) bool { return c == Adopt })
		if is.doc, err = json.Marshal(map[string]string{"invalid": is.invalid.Error()}); err != nil {
			return nil, is, err
		}
	} else if d.What == Edited {
		if d.Detail, err = fieldsOf(wanted, is.doc); err != nil {
			return nil, is, err
		}
	}
	if d.Wanted, _, err = shown(t.kind, wanted); err != nil {
		return nil, is, err
	}
	d.Found, _, err = shown(t.kind, is.doc)
	return d, is, err
}

// fieldsOf names the fields in which two documents differ.
func fieldsOf(a, b json.RawMessage) (string, error) {
	var left, right map[string]json.RawMessage
	if err := errors.Join(json.Unmarshal(a, &left), json.Unmarshal(b, &right)); err != nil {
		return "", err
	}
	all := maps.Clone(left)
	maps.Copy(all, right)
	var names []string
	for _, name := range slices.Sorted(maps.Keys(all)) {
		if !bytes.Equal(left[name], right[name]) {
			names = append(names, name)
		}
	}
	return "differs in " + strings.Join(names, ", "), nil
}

// examine compares a thing with the catalog as it is now. Not sure: it is under way, or has just changed.
func (s *Service) examine(ctx context.Context, t thing) (item *store.CatalogItem, d *store.Drift, is there, sure bool, err error) {
	if item, err = s.item(ctx, t); err != nil {
		return nil, nil, is, false, err
	}
	busy, err := s.underWay(ctx, t, item)
	if err != nil || busy {
		return item, nil, is, false, err
	}
	if err := s.meta.Sync(ctx, s.meta.Root); err != nil {
		return item, nil, is, false, err
	}
	if d, is, err = s.compare(ctx, t, item); err != nil {
		return item, nil, is, false, err
	}
	again, err := s.item(ctx, t)
	if err != nil || (item == nil) != (again == nil) || item != nil && item.Version != again.Version {
		return item, nil, is, false, err
	}
	busy, err = s.underWay(ctx, t, again)
	return item, d, is, err == nil && !busy, err
}

// item is what the catalog has; nil: nothing.
func (s *Service) item(ctx context.Context, t thing) (*store.CatalogItem, error) {
	item, err := s.db.CatalogItem(ctx, t.kind, t.name)
	if errors.Is(err, errs.ErrNotFound) {
		return nil, nil
	}
	return item, err
}

// underWay says that the platform itself is changing a thing.
func (s *Service) underWay(ctx context.Context, t thing, item *store.CatalogItem) (bool, error) {
	if item != nil && item.State != store.Active {
		return true, nil
	}
	open, err := s.db.ChangeRequests(ctx, store.RequestFilter{Subject: t.name, States: []store.RequestState{store.Approved, store.Executing}, Limit: 1})
	if err != nil || len(open) > 0 {
		return len(open) > 0, err
	}
	outbox, err := s.db.OpenOutbox(ctx, 0)
	if err != nil {
		return false, err
	}
	for _, o := range outbox {
		if o.Kind != t.kind || o.Name != t.name {
			continue
		}
		r, err := s.db.ChangeRequest(ctx, o.Request)
		if err != nil || r.State != store.RequestBad {
			return true, err
		}
	}
	if t.kind != store.CatalogTopic {
		return false, nil
	}
	moves, err := s.db.Migrations(ctx, store.Filter{Topic: t.name, Open: true})
	return slices.ContainsFunc(moves, func(m *store.Migration) bool { return m.Kind == store.Move }), err
}

// onCluster is what is compared with a cluster.
type onCluster struct {
	Partitions int               `json:"partitions"`
	Replicas   int               `json:"replicas,omitempty"`
	Config     map[string]string `json:"config,omitempty"`
}

// askCluster compares a topic of the catalog with the cluster that it is on, and stores what has become of it. A cluster that does not
// answer says nothing.
func (s *Service) askCluster(ctx context.Context, t thing) error {
	d, sure, err := s.examineCluster(ctx, t)
	if err == nil && !sure {
		s.askAgain(t.name)
	}
	if err != nil || !sure {
		return err
	}
	changed, err := s.db.PutDrift(ctx, t.kind, t.name, true, d)
	if err == nil && changed && d != nil {
		s.log.Sugar().Infof("a difference: %s on %s is %s: %s", t, d.Cluster, d.What, d.Detail)
	}
	return err
}

func (s *Service) examineCluster(ctx context.Context, t thing) (d *store.Drift, sure bool, err error) {
	item, err := s.item(ctx, t)
	if err != nil {
		return nil, false, err
	}
	if item == nil {
		return nil, true, nil // nothing is wanted
	}
	busy, err := s.underWay(ctx, t, item)
	if err != nil || busy {
		return nil, false, err
	}
	is, err := s.meta.GetTopic(ctx, t.name)
	switch {
	case errors.Is(err, errs.ErrUnknownTopic):
		return nil, true, nil // that is a difference of its own
	case err != nil || is.Err != nil:
		return nil, false, err
	}
	d, _, err = s.compareCluster(ctx, t, item, is)
	if err != nil {
		return nil, false, err
	}
	again, err := s.item(ctx, t)
	if err != nil || again == nil || again.Version != item.Version {
		return nil, false, err
	}
	busy, err = s.underWay(ctx, t, again)
	return d, err == nil && !busy, err
}

// writtenTo is the cluster that a topic is written to, or will be when somebody uses it.
func writtenTo(t metadata.Topic) string {
	if t.Route == nil {
		return t.Wish.Cluster
	}
	return t.Route.Write
}

func (s *Service) compareCluster(ctx context.Context, t thing, item *store.CatalogItem, is metadata.Topic) (*store.Drift, onCluster, error) {
	doc, err := decoded[requests.TopicDoc](item.Doc)
	if err != nil {
		return nil, onCluster{}, fmt.Errorf("the catalog's document of %s: %w", t, err)
	}
	d := &store.Drift{Kind: t.kind, Name: t.name, Cluster: writtenTo(is)}
	want := onCluster{Partitions: item.Partitions, Replicas: doc.Replicas, Config: doc.Config}
	if d.Wanted, err = json.Marshal(want); err != nil {
		return nil, want, err
	}
	physical := is.Settings.Physical(t.name, d.Cluster)
	var info broker.TopicInfo
	err = s.on(ctx, d.Cluster, func(ctx context.Context, c *clusters.Conn) (err error) {
		info, err = c.DescribeTopic(ctx, physical)
		return err
	})
	switch {
	case errors.Is(err, errs.ErrUnknownTopic):
		d.What, d.Choices = Absent, []string{Publish, Ignore}
		d.Detail = fmt.Sprintf("cluster %s does not have the topic %s", d.Cluster, physical)
		return d, want, nil
	case err != nil:
		return nil, want, err
	}
	found := foundOn(info, want)
	if d.Found, err = json.Marshal(found); err != nil || bytes.Equal(d.Wanted, d.Found) {
		return nil, found, err
	}
	d.What, d.Choices = Settings, []string{Adopt, Ignore}
	if d.Detail, err = fieldsOf(d.Wanted, d.Found); err != nil {
		return nil, found, err
	}
	d.Detail += fmt.Sprintf(" on cluster %s, where it is %s", d.Cluster, physical)
	return d, found, nil
}

// foundOn is what a cluster says, as far as something is wanted.
func foundOn(info broker.TopicInfo, want onCluster) onCluster {
	found := onCluster{Partitions: broker.PerBroker(info.Partitions)}
	if want.Partitions == 0 {
		found.Partitions = 0 // nobody has said how many
	}
	if want.Replicas > 0 {
		found.Replicas = info.Replicas
	}
	for key, value := range want.Config {
		is := info.Setting(key)
		if info.Fenced && key == "max.message.bytes" {
			is = value // a fence is nobody's setting
		}
		if found.Config == nil {
			found.Config = map[string]string{}
		}
		found.Config[key] = is
	}
	return found
}

// silence is how long a cluster that does not answer is left alone.
const silence = 30 * time.Second

// on runs f with a connection to a cluster.
func (s *Service) on(ctx context.Context, cluster string, f func(context.Context, *clusters.Conn) error) error {
	s.mu.Lock()
	until := s.silent[cluster]
	s.mu.Unlock()
	if time.Now().Before(until) {
		return fmt.Errorf("%w: cluster %s did not answer a moment ago", errs.ErrTimeout, cluster)
	}
	asking, cancel := context.WithTimeout(ctx, s.cfg.Limit)
	defer cancel()
	c, err := s.pool.Acquire(asking, cluster)
	if err == nil {
		err = f(asking, c)
		c.Release()
	}
	if err == nil {
		return nil
	}
	if asking.Err() != nil && ctx.Err() == nil {
		s.mu.Lock()
		s.silent[cluster] = time.Now().Add(silence)
		s.mu.Unlock()
	}
	return fmt.Errorf("cluster %s: %w", cluster, err)
}
