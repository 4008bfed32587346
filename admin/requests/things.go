package requests

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/cenkalti/backoff/v5"

	"github.com/turnout-mq/turnout/admin/store"
	"github.com/turnout-mq/turnout/broker"
	"github.com/turnout-mq/turnout/internal/clusters"
	"github.com/turnout-mq/turnout/internal/errs"
	"github.com/turnout-mq/turnout/metadata"
)

// on runs f with a connection to a cluster.
func (s *Service) on(ctx context.Context, cluster string, f func(*clusters.Conn) error) error {
	conn, err := s.cfg.Pool.Acquire(ctx, cluster)
	if errors.Is(err, errs.ErrNotFound) && s.meta.Sync(ctx, s.meta.ClusterPath(cluster)) == nil {
		if _, _, there := s.meta.GetCluster(ctx, cluster); there == nil { // it was registered a moment ago
			err = errors.Join(errNotReady, err)
		}
	}
	if err != nil {
		return fmt.Errorf("cluster %s: %w", cluster, err)
	}
	defer conn.Release()
	if err := f(conn); err != nil {
		return fmt.Errorf("cluster %s: %w", cluster, err)
	}
	return nil
}

// absent is ErrConflict if the catalog or ZooKeeper has something of that name. path is its node.
func (s *Service) absent(ctx context.Context, kind, name, path string) error {
	_, err := s.db.CatalogItem(ctx, kind, name)
	switch {
	case err == nil:
		return fmt.Errorf("%w: name %q: the catalog has a %s of that name: choose another, or ask for other settings", errs.ErrConflict, name, kind)
	case !errors.Is(err, errs.ErrNotFound):
		return err
	}
	n, err := s.meta.Read(ctx, path)
	if err == nil && n.Exists {
		err = fmt.Errorf("%w: name %q: ZooKeeper has a %s of that name, made past the platform: adopt it, or choose another name", errs.ErrConflict, name, kind)
	}
	return err
}

// catalogued is what the catalog has; an item that is not there yet has Version 0 and the state active.
func (s *Service) catalogued(ctx context.Context, kind, name string) (store.CatalogItem, error) {
	i, err := s.db.CatalogItem(ctx, kind, name)
	switch {
	case errors.Is(err, errs.ErrNotFound):
		return store.CatalogItem{Kind: kind, Name: name, State: store.Active}, nil
	case err != nil:
		return store.CatalogItem{}, err
	}
	return *i, nil
}

// newItem is an item that is being created, perhaps by an earlier try. It is final if it was created.
func (s *Service) newItem(ctx context.Context, kind, name string) (store.CatalogItem, error) {
	item, err := s.catalogued(ctx, kind, name)
	if err == nil && item.Version > 0 && item.State != store.Creating {
		err = Final(fmt.Errorf("%w: the catalog has %s %s already (%s)", errs.ErrConflict, kind, name, item.State))
	}
	item.State = store.Creating
	return item, err
}

type topicHandler struct{ *Service }

func (s topicHandler) Check(ctx context.Context, raw json.RawMessage, submitted bool) (Target, error) {
	spec, err := decode[TopicSpec](KindTopic, raw)
	if err != nil {
		return Target{}, err
	}
	target := Target{App: spec.App, Subject: spec.Name}
	if err := spec.validate(); err != nil || !submitted {
		return target, err
	}
	if err := s.absent(ctx, store.CatalogTopic, spec.Name, s.meta.TopicPath(spec.Name)); err != nil {
		return target, err
	}
	if spec.Cluster == "" {
		return target, nil
	}
	kind, _, err := s.clusterOr(ctx, spec.Cluster)
	if errors.Is(err, errs.ErrNotFound) {
		return target, fmt.Errorf("%w: cluster %q is not registered, and nobody asks for it: name another, or leave it out", errs.ErrInvalid, spec.Cluster)
	}
	if err == nil {
		if unfit := spec.fits(kind); unfit != nil {
			err = fmt.Errorf("%w: cluster %q is of kind %s: %w", errs.ErrInvalid, spec.Cluster, kind, unfit)
		}
	}
	return target, err
}

// clusterOr is the kind of a cluster that is registered, or that a request asks for, which is then waited for. ErrNotFound: neither.
// The requests are read first: one that ends in between has registered it.
func (s *Service) clusterOr(ctx context.Context, cluster string) (kind broker.Kind, waits *store.ChangeRequest, err error) {
	asked, err := s.db.ChangeRequests(ctx, store.RequestFilter{Kind: KindCluster, Subject: cluster, States: undone, Limit: 1})
	if err != nil {
		return "", nil, err
	}
	if err := s.meta.Sync(ctx, s.meta.ClusterPath(cluster)); err != nil {
		return "", nil, err
	}
	doc, _, err := s.meta.GetCluster(ctx, cluster)
	if !errors.Is(err, errs.ErrNotFound) || len(asked) == 0 {
		return doc.Kind, nil, err
	}
	spec, err := decode[ClusterSpec](KindCluster, asked[0].Spec)
	return spec.Kind, asked[0], err
}

func (s topicHandler) Execute(ctx context.Context, run *Run) error {
	spec, err := decode[TopicSpec](KindTopic, run.r.Spec)
	if err != nil {
		return err
	}
	return run.carry(ctx, func(ctx context.Context) (change, error) {
		cluster := run.r.Cluster
		_, waits, err := s.clusterOr(ctx, cluster)
		if err == nil && waits != nil {
			err = fmt.Errorf("%w for cluster %s: %s is %s", errWaits, cluster, waits.ID, waits.State)
		}
		if err != nil {
			return change{}, err
		}
		doc := TopicDoc{Cluster: cluster, Order: spec.Order, Replicas: spec.Replicas, Config: spec.Config, Settings: spec.settings(cluster)}
		if doc.Order == "" {
			doc.Order = metadata.OrderNone
		}
		physical := doc.Settings.Physical(spec.Name, cluster)
		existed := false
		err = s.on(ctx, cluster, func(c *clusters.Conn) (err error) {
			existed, err = provide(ctx, c, cluster, physical, spec)
			return err
		})
		if err == nil && existed { // made by an earlier try, or somebody else's
			err = s.nameFree(ctx, spec.Name, cluster, physical)
		}
		if err != nil {
			return change{}, err
		}
		item, err := s.newItem(ctx, store.CatalogTopic, spec.Name)
		item.App, item.Cluster, item.Partitions, item.Labels = spec.App, cluster, spec.Partitions, spec.Labels
		return change{after: doc, item: item}, err
	})
}

// provide creates a topic on its cluster. One that existed is compared and never changed.
func provide(ctx context.Context, c broker.Cluster, cluster, name string, spec TopicSpec) (existed bool, err error) {
	err = c.CreateTopic(ctx, name, broker.TopicSpec{Partitions: spec.Partitions, Replicas: spec.Replicas, Config: spec.Config})
	existed = errors.Is(err, errs.ErrConflict)
	if err != nil && !existed {
		return false, fmt.Errorf("creating topic %s: %w", name, err)
	}
	// It takes a moment until every partition has a leader that knows of it.
	ready, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	_, err = backoff.Retry(ready, func() (broker.Offsets, error) { return c.EndOffsets(ready, name) },
		backoff.WithBackOff(backoff.NewConstantBackOff(100*time.Millisecond)))
	if err != nil {
		return existed, fmt.Errorf("topic %s was created but is not ready: %w", name, errors.Join(errNotReady, err))
	}
	info, err := c.DescribeTopic(ctx, name)
	if err != nil {
		return existed, fmt.Errorf("topic %s: %w", name, errors.Join(errNotReady, err))
	}
	return existed, compare(cluster, name, info, spec)
}

// errNotReady is in errors that pass, whatever the broker says.
var errNotReady = errors.New("not ready")

// compare is final when a topic is not what was asked for.
func compare(cluster, name string, info broker.TopicInfo, spec TopicSpec) error {
	var p problems
	differs := func(field string, wanted, is any) {
		p.add(field, is, "the topic exists on the cluster already, and %v is wanted: ask for what is there, or have it changed there, then retry", wanted)
	}
	if partitions := broker.PerBroker(info.Partitions); partitions != spec.Partitions && (partitions > 0 || !info.Fenced) {
		differs("partitions", spec.Partitions, partitions)
	}
	if spec.Replicas > 0 && info.Replicas != spec.Replicas {
		differs("replicas", spec.Replicas, info.Replicas)
	}
	for _, key := range slices.Sorted(maps.Keys(spec.Config)) {
		if is := info.Setting(key); is != spec.Config[key] {
			differs(fmt.Sprintf("config[%q]", key), spec.Config[key], is)
		}
	}
	if info.Fenced {
		p.add("fenced", true, "the cluster refuses writers of the topic: an earlier migration has left it: open it with \"turnout topic open %s --cluster %s\", then retry; or choose another name", name, cluster)
	}
	if len(p) == 0 {
		return nil
	}
	return Final(fmt.Errorf("topic %s: %w: %w", name, errs.ErrConflict, errors.Join(p...)))
}

type groupHandler struct{ *Service }

func (s groupHandler) Check(ctx context.Context, raw json.RawMessage, submitted bool) (Target, error) {
	spec, err := decode[GroupSpec](KindGroup, raw)
	if err != nil {
		return Target{}, err
	}
	target := Target{App: spec.App, Subject: spec.Name}
	if err := spec.validate(); err != nil || !submitted {
		return target, err
	}
	if err := s.absent(ctx, store.CatalogGroup, spec.Name, s.meta.GroupPath(spec.Name)); err != nil {
		return target, err
	}
	return target, s.topicsKnown(ctx, spec.Topics)
}

// topicOr says whether a topic is there, and who asks for it. The requests are read first: one that ends in between has made it.
func (s *Service) topicOr(ctx context.Context, topic string) (there bool, asked []*store.ChangeRequest, err error) {
	asked, err = s.db.ChangeRequests(ctx, store.RequestFilter{Kind: KindTopic, Subject: topic, States: undone, Limit: 1})
	if err != nil {
		return false, nil, err
	}
	if err := s.meta.Sync(ctx, s.meta.TopicPath(topic)); err != nil {
		return false, nil, err
	}
	n, err := s.meta.Read(ctx, s.meta.TopicPath(topic))
	return n.Exists, asked, err
}

// topicsKnown is ErrInvalid for topics that do not exist and that nobody asks for.
func (s *Service) topicsKnown(ctx context.Context, topics []string) error {
	var p problems
	for i, topic := range topics {
		there, asked, err := s.topicOr(ctx, topic)
		if err != nil {
			return err
		}
		if !there && len(asked) == 0 {
			p.add(fmt.Sprintf("topics[%d]", i), topic, "there is no such topic: apply for it first")
		}
	}
	return p.err("group")
}

func (s groupHandler) Execute(ctx context.Context, run *Run) error {
	spec, err := decode[GroupSpec](KindGroup, run.r.Spec)
	if err != nil {
		return err
	}
	return run.carry(ctx, func(ctx context.Context) (change, error) {
		g := spec.group()
		for _, topic := range spec.Topics {
			if err := s.topicThere(ctx, topic); err != nil {
				return change{}, err
			}
			if g.Start != metadata.StartLatest {
				continue
			}
			ends, err := s.ends(ctx, topic)
			if err != nil {
				return change{}, err
			}
			if g.From == nil {
				g.From = map[string]map[string]broker.Offsets{}
			}
			g.From[topic] = ends
		}
		item, err := s.newItem(ctx, store.CatalogGroup, spec.Name)
		item.App = spec.App
		return change{after: g, item: item}, err
	})
}

// errWaits: another request comes first. It is waited for however long that takes.
var errWaits = errors.New("it waits")

// topicThere is errWaits for a topic that somebody asks for, and final if nobody does.
func (s *Service) topicThere(ctx context.Context, topic string) error {
	there, asked, err := s.topicOr(ctx, topic)
	switch {
	case err != nil || there:
		return err
	case len(asked) == 0:
		return Final(fmt.Errorf("topic %s: %w: apply for it, then retry", topic, errs.ErrUnknownTopic))
	}
	return fmt.Errorf("%w for topic %s: %s is %s", errWaits, topic, asked[0].ID, asked[0].State)
}

// ends are the end offsets of a topic on the clusters of its route.
func (s *Service) ends(ctx context.Context, topic string) (map[string]broker.Offsets, error) {
	t, err := s.meta.GetTopic(ctx, topic)
	if err != nil {
		return nil, err
	}
	if t.Route == nil {
		return nil, fmt.Errorf("topic %s has no route yet: %w", topic, errors.Join(errNotReady, t.Err))
	}
	all := map[string]broker.Offsets{}
	for _, cluster := range t.Route.Clusters() {
		err := s.on(ctx, cluster, func(c *clusters.Conn) (err error) {
			all[cluster], err = c.EndOffsets(ctx, t.Settings.Physical(topic, cluster))
			return err
		})
		if err != nil {
			return nil, err
		}
	}
	return all, nil
}

type clusterHandler struct{ *Service }

func (s clusterHandler) Check(ctx context.Context, raw json.RawMessage, submitted bool) (Target, error) {
	spec, err := decode[ClusterSpec](KindCluster, raw)
	if err != nil {
		return Target{}, err
	}
	target := Target{Subject: spec.Name}
	if err := spec.validate(); err != nil {
		return target, err
	}
	if err := s.cfg.Secrets.allow(spec.Secret); err != nil || !submitted {
		return target, err
	}
	now, _, err := s.meta.GetCluster(ctx, spec.Name)
	switch {
	case errors.Is(err, errs.ErrNotFound):
		return target, nil
	case err != nil:
		return target, err
	case now.Kind != spec.Kind:
		return target, fmt.Errorf("%w: kind %q: cluster %s is registered as %s: register another one", errs.ErrInvalid, spec.Kind, spec.Name, now.Kind)
	}
	return target, nil
}

func (s clusterHandler) Execute(ctx context.Context, run *Run) error {
	spec, err := decode[ClusterSpec](KindCluster, run.r.Spec)
	if err != nil {
		return err
	}
	if err := s.cfg.Secrets.allow(spec.Secret); err != nil { // the settings of this server may be others
		return err
	}
	return run.carry(ctx, func(ctx context.Context) (change, error) {
		wanted := spec.cluster()
		info, err := s.ask(ctx, wanted)
		switch {
		case err != nil:
			return change{}, fmt.Errorf("cluster %s: %w", spec.Name, err)
		case wanted.ClusterID == "":
			wanted.ClusterID = info.ClusterID
		case wanted.ClusterID != info.ClusterID:
			return change{}, Final(fmt.Errorf("%w: clusterId %q: at these addresses answers the cluster %q: correct one of the two", errs.ErrConflict, wanted.ClusterID, info.ClusterID))
		}
		item, err := s.catalogued(ctx, store.CatalogCluster, spec.Name)
		if err != nil {
			return change{}, err
		}
		item.Labels = spec.Labels
		ch := change{item: item, after: wanted}
		now, _, err := s.meta.GetCluster(ctx, spec.Name)
		switch {
		case errors.Is(err, errs.ErrNotFound):
			ch.item.State = store.Creating
		case err != nil:
			return change{}, err
		case now.ClusterID != "" && now.ClusterID != wanted.ClusterID:
			return change{}, Final(fmt.Errorf("%w: clusterId %q: cluster %s is registered as %q, and topics are on it: register another one", errs.ErrConflict, wanted.ClusterID, spec.Name, now.ClusterID))
		default:
			wanted.Extra = now.Extra
			ch.before, ch.after = now, wanted
		}
		return ch, nil
	})
}

// ask opens a cluster as it shall be registered and asks it who it is. Whatever it does not answer passes, perhaps.
func (s *Service) ask(ctx context.Context, doc metadata.Cluster) (broker.Info, error) {
	config, err := doc.Config("turnout-"+s.cfg.Server, nil)
	if err != nil {
		return broker.Info{}, err
	}
	config.Logger = s.log
	config.ClusterID = "" // compared by the caller, who says more
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	c, err := s.cfg.Open(ctx, config)
	if err != nil {
		return broker.Info{}, err
	}
	defer func() {
		closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), farewell)
		defer cancel()
		_ = c.Close(closing) // nothing was sent
	}()
	return c.Describe(ctx)
}

type settingsHandler struct{ *Service }

func (s settingsHandler) Check(ctx context.Context, raw json.RawMessage, submitted bool) (Target, error) {
	spec, err := decode[SettingsSpec](KindSettings, raw)
	if err != nil {
		return Target{}, err
	}
	if err := spec.validate(); err != nil {
		return Target{}, err
	}
	if t := spec.Topic; t != nil {
		now, err := s.meta.GetTopic(ctx, t.Name)
		if err != nil {
			return Target{}, err
		}
		return Target{App: now.Settings.App, Subject: t.Name}, s.topicChange(*t, now)
	}
	now, _, err := s.meta.GetGroup(ctx, spec.Group.Name)
	if err != nil {
		return Target{}, err
	}
	target := Target{App: now.App, Subject: spec.Group.Name}
	if submitted && spec.Group.Topics != nil {
		if err := s.topicsKnown(ctx, spec.Group.Topics); err != nil {
			return target, err
		}
	}
	next := spec.Group.apply(now)
	for topic := range next.Names { // names are kept for topics that go and come back
		if now.Names[topic] == "" {
			delete(next.Names, topic)
		}
	}
	return target, next.Validate()
}

// topicChange: positions and messages belong to the name that a topic has where it is.
func (s settingsHandler) topicChange(c TopicChange, now metadata.Topic) error {
	var p problems
	for _, cluster := range slices.Sorted(maps.Keys(c.Names)) {
		if now.Route != nil && slices.Contains(now.Route.Clusters(), cluster) && now.Settings.Physical(c.Name, cluster) != cmp.Or(c.Names[cluster], c.Name) {
			p.add(fmt.Sprintf("topic.names[%q]", cluster), c.Names[cluster], "the topic is on that cluster as %q: a name can be given for a cluster that it is not on", now.Settings.Physical(c.Name, cluster))
		}
	}
	if err := p.err("settings"); err != nil {
		return err
	}
	return c.apply(now.Settings).Validate()
}

func (s settingsHandler) Execute(ctx context.Context, run *Run) error {
	spec, err := decode[SettingsSpec](KindSettings, run.r.Spec)
	if err != nil {
		return err
	}
	return run.carry(ctx, func(ctx context.Context) (change, error) {
		if spec.Topic != nil {
			return s.ofTopic(ctx, *spec.Topic)
		}
		return s.ofGroup(ctx, *spec.Group)
	})
}

func (s settingsHandler) ofTopic(ctx context.Context, c TopicChange) (change, error) {
	now, err := s.meta.GetTopic(ctx, c.Name)
	if err == nil {
		err = now.Err
	}
	if err != nil {
		return change{}, err
	}
	if err := s.topicChange(c, now); err != nil {
		return change{}, err
	}
	item, err := s.catalogued(ctx, store.CatalogTopic, c.Name)
	if err != nil {
		return change{}, err
	}
	known, err := parse[TopicDoc](item.Doc)
	if err != nil {
		return change{}, err
	}
	before := TopicDocOf(now, known)
	after := before
	after.Settings = c.apply(now.Settings)
	item.App, item.Cluster = after.Settings.App, after.Cluster
	if c.Labels != nil {
		item.Labels = c.Labels
	}
	return change{item: item, before: before, after: after}, nil
}

func (s settingsHandler) ofGroup(ctx context.Context, c GroupChange) (change, error) {
	now, _, err := s.meta.GetGroup(ctx, c.Name)
	if err != nil {
		return change{}, err
	}
	item, err := s.catalogued(ctx, store.CatalogGroup, c.Name)
	if err != nil {
		return change{}, err
	}
	after := c.apply(now)
	for _, topic := range after.Topics {
		if slices.Contains(now.Topics, topic) {
			continue
		}
		if err := s.topicThere(ctx, topic); err != nil {
			return change{}, err
		}
		if after.Start == metadata.StartLatest && after.From[topic] == nil {
			ends, err := s.ends(ctx, topic)
			if err != nil {
				return change{}, err
			}
			after.From = maps.Clone(after.From)
			if after.From == nil {
				after.From = map[string]map[string]broker.Offsets{}
			}
			after.From[topic] = ends
		}
	}
	item.App = after.App
	return change{item: item, before: now, after: after}, nil
}
