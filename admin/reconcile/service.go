package reconcile

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"

	"github.com/turnout-mq/turnout/admin/coord"
	"github.com/turnout-mq/turnout/admin/store"
	"github.com/turnout-mq/turnout/internal/clusters"
	"github.com/turnout-mq/turnout/internal/errs"
	"github.com/turnout-mq/turnout/metadata"
)

// Job is the name of the job in ZooKeeper.
const Job = "reconcile"

// Config says what a Service compares and how often.
type Config struct {
	Meta  *metadata.Store
	DB    *store.Store
	Pool  *clusters.Pool
	ID    string            // of this server: metadata.NewInstanceID()
	About metadata.Instance // what it says of itself in the job
	// Every is the least time from one comparison with ZooKeeper to the next. Default 5 s.
	Every time.Duration
	// BrokerEvery is the time from one question to a cluster about a topic to the next. Default 5 min.
	BrokerEvery time.Duration
	// Limit bounds one question to a cluster. Default 10 s.
	Limit time.Duration
	// Shards is how many shards there are, if the job's config in ZooKeeper does not say. Default 16.
	Shards int
	// AtOnce is how many things this server looks at at the same time. Default 32.
	AtOnce int
	Log    *zap.Logger // nil: none
}

// Service compares what is in this server's shards, and carries out choices for all. All methods may be called concurrently, whether
// Run runs or not.
type Service struct {
	cfg   Config
	meta  *metadata.Store
	db    *store.Store
	pool  *clusters.Pool
	log   *zap.Logger
	job   *coord.Sharded
	turns chan struct{} // things that are being looked at

	reading sync.Mutex // one reads the inventory, others wait for it
	known   *inventory

	mu     sync.Mutex
	agreed map[thing]moment     // when the two sides were found to agree
	rest   map[int]time.Time    // when a shard is looked at again
	asked  map[string]time.Time // when a cluster was asked about a topic
	silent map[string]time.Time // until when a cluster that did not answer is left alone
}

// New makes a Service; nothing is begun. ErrInvalid names the field.
func New(cfg Config) (*Service, error) {
	cfg.Every, cfg.BrokerEvery = cmp.Or(cfg.Every, 5*time.Second), cmp.Or(cfg.BrokerEvery, 5*time.Minute)
	cfg.Limit, cfg.Shards, cfg.AtOnce = cmp.Or(cfg.Limit, 10*time.Second), cmp.Or(cfg.Shards, 16), cmp.Or(cfg.AtOnce, 32)
	if cfg.Log == nil {
		cfg.Log = zap.NewNop()
	}
	bad := func(field string, value any, rule string) error {
		return fmt.Errorf("%w: reconcile.Config: %s %v: must be %s", errs.ErrInvalid, field, value, rule)
	}
	switch {
	case cfg.Meta == nil || cfg.DB == nil || cfg.Pool == nil:
		return nil, bad("Meta, DB, Pool", "nil", "given")
	case cfg.BrokerEvery < 0:
		return nil, bad("BrokerEvery", cfg.BrokerEvery, "more than 0")
	case cfg.Limit < 0:
		return nil, bad("Limit", cfg.Limit, "more than 0")
	case cfg.AtOnce < 1:
		return nil, bad("AtOnce", cfg.AtOnce, "1 or more")
	}
	log := cfg.Log.Named("reconcile")
	job, err := coord.NewSharded(cfg.Meta, Job, cfg.ID, log)
	if err != nil {
		return nil, err
	}
	s := &Service{
		cfg: cfg, meta: cfg.Meta, db: cfg.DB, pool: cfg.Pool, log: log, job: job, turns: make(chan struct{}, cfg.AtOnce),
		agreed: map[thing]moment{}, rest: map[int]time.Time{}, asked: map[string]time.Time{}, silent: map[string]time.Time{},
	}
	if err := job.Check(s.rounds()); err != nil {
		return nil, err
	}
	return s, nil
}

func (s *Service) rounds() coord.Rounds {
	return coord.Rounds{Shards: s.cfg.Shards, Every: s.cfg.Every, Limit: max(4*s.cfg.Every, 10*time.Minute), About: s.cfg.About, Do: s.lookAtShard}
}

// Run compares, with the other servers, until ctx ends; it then returns its error. Also ErrNotAllowed (ZooKeeper) and ErrClosed.
func (s *Service) Run(ctx context.Context) error {
	return s.job.Run(ctx, s.rounds())
}

// Shards tells which server compares which part, and whether they are being divided anew.
func (s *Service) Shards(ctx context.Context) (shards []coord.ShardState, resharding bool, err error) {
	return s.job.Shards(ctx)
}

// List returns the differences that fit, the oldest first.
func (s *Service) List(ctx context.Context, f store.DriftFilter) ([]*store.Drift, error) {
	return s.db.Drifts(ctx, f)
}

// Get returns one difference. ErrNotFound: it is gone.
func (s *Service) Get(ctx context.Context, id string) (*store.Drift, error) {
	return s.db.Drift(ctx, id)
}

// thing is what is compared.
type thing struct{ kind, name string }

func (t thing) String() string { return t.kind + " " + t.name }

// inventory is what there is to compare.
type inventory struct {
	at      time.Time
	catalog map[thing]*store.CatalogItem
	things  []thing                // of the catalog, of ZooKeeper, and with a difference
	drift   map[thing]*store.Drift // those with a difference in ZooKeeper
}

// inventory is one for all shards that this server looks at in the same moment.
func (s *Service) inventory(ctx context.Context) (*inventory, error) {
	s.reading.Lock()
	defer s.reading.Unlock()
	if s.known != nil && time.Since(s.known.at) < s.cfg.Every/2 {
		return s.known, nil
	}
	inv := &inventory{at: time.Now(), catalog: map[thing]*store.CatalogItem{}, drift: map[thing]*store.Drift{}}
	all := map[thing]bool{}
	items, err := s.db.Catalog(ctx, store.CatalogFilter{})
	if err != nil {
		return nil, err
	}
	for _, i := range items {
		inv.catalog[thing{i.Kind, i.Name}], all[thing{i.Kind, i.Name}] = i, true
	}
	known, err := s.db.Drifts(ctx, store.DriftFilter{})
	if err != nil {
		return nil, err
	}
	for _, d := range known {
		t := thing{d.Kind, d.Name}
		if all[t] = true; d.Cluster == "" {
			inv.drift[t] = d
		}
	}
	for kind, list := range map[string]func(context.Context) ([]string, error){
		store.CatalogCluster: s.meta.ListClusters, store.CatalogTopic: s.meta.ListTopics, store.CatalogGroup: s.meta.ListGroups,
	} {
		names, err := list(ctx)
		if err != nil {
			return nil, err
		}
		for _, name := range names {
			all[thing{kind, name}] = true
		}
	}
	inv.things = slices.Collect(maps.Keys(all))
	s.mu.Lock()
	maps.DeleteFunc(s.agreed, func(t thing, _ moment) bool { return !all[t] })
	s.mu.Unlock()
	s.known = inv
	return inv, nil
}

// share is the inverse of the part of the time in which a shard may be read.
const share = 5

// lookAtShard is one round of a shard. A thing that can not be looked at does not keep others from it.
func (s *Service) lookAtShard(ctx context.Context, shard coord.Shard) error {
	begin := time.Now()
	s.mu.Lock()
	resting := begin.Before(s.rest[shard.Index]) && !shard.Failover
	s.mu.Unlock()
	if resting {
		return nil
	}
	inv, err := s.inventory(ctx)
	if err != nil {
		return err
	}
	looking, lookCtx := errgroup.WithContext(ctx)
	things := 0
	for _, t := range inv.things {
		if !shard.Has(t.String()) {
			continue
		}
		things++
		select {
		case s.turns <- struct{}{}:
		case <-lookCtx.Done():
		}
		if lookCtx.Err() != nil {
			break
		}
		looking.Go(func() error {
			defer func() { <-s.turns }()
			if err := s.look(lookCtx, t, inv); err != nil && lookCtx.Err() == nil {
				s.log.Warn("can not be compared", zap.Stringer("what", t), zap.Error(err))
			}
			return lookCtx.Err()
		})
	}
	err = errors.Join(looking.Wait(), ctx.Err())
	end := time.Now()
	s.log.Debug("a shard was compared", zap.Int("shard", shard.Index), zap.Int("of", shard.Of), zap.Int("things", things), zap.Duration("took", end.Sub(begin)))
	s.mu.Lock()
	defer s.mu.Unlock()
	s.rest[shard.Index] = end.Add((share - 1) * end.Sub(begin))
	return err
}

// look compares a thing, and stores what has become of it.
func (s *Service) look(ctx context.Context, t thing, inv *inventory) error {
	now, err := s.now(ctx, t, inv.catalog[t])
	if err != nil {
		return err
	}
	s.mu.Lock()
	then, known := s.agreed[t]
	s.mu.Unlock()
	if !known || now != then || inv.drift[t] != nil {
		d, _, err := s.compare(ctx, t, inv.catalog[t])
		if err != nil {
			return err
		}
		s.mu.Lock()
		if delete(s.agreed, t); d == nil { // what was written since the numbers were read has others
			s.agreed[t] = now
		}
		s.mu.Unlock()
		if !d.Same(inv.drift[t]) {
			if err := s.settle(ctx, t); err != nil {
				return err
			}
		}
	}
	if t.kind != store.CatalogTopic || !s.due(t.name) {
		return nil
	}
	return s.askCluster(ctx, t)
}

// moment is what both sides were at: two looks at the same moment find the same.
type moment struct {
	catalog   int64            // version of the item, 0: none
	zookeeper [3]metadata.Zxid // of the nodes, 0: none
	session   int64            // in which they were read: another ZooKeeper counts anew
}

// now reads the numbers of a thing. That costs the requests of a comparison and nothing of its work.
func (s *Service) now(ctx context.Context, t thing, item *store.CatalogItem) (m moment, err error) {
	if item != nil {
		m.catalog = item.Version
	}
	var paths []string
	switch t.kind {
	case store.CatalogTopic:
		paths = []string{s.meta.TopicPath(t.name), s.meta.RoutePath(t.name), s.meta.SettingsPath(t.name)}
	case store.CatalogGroup:
		paths = []string{s.meta.GroupPath(t.name)}
	default:
		paths = []string{s.meta.ClusterPath(t.name)}
	}
	for i, path := range paths {
		n, err := s.meta.Read(ctx, path)
		if err != nil {
			return m, err
		}
		if m.session = n.Session; n.Exists {
			m.zookeeper[i] = n.Mzxid
		}
	}
	return m, nil
}

// settle looks at a thing closely and stores the difference between the catalog and ZooKeeper, or that there is none.
func (s *Service) settle(ctx context.Context, t thing) error {
	_, d, _, sure, err := s.examine(ctx, t)
	if err != nil || !sure {
		return err
	}
	changed, err := s.db.PutDrift(ctx, t.kind, t.name, false, d)
	if changed && d != nil {
		s.log.Info("a difference", zap.Stringer("what", t), zap.String("is", d.What), zap.String("detail", d.Detail))
	}
	return err
}

// askAgain lets the next look ask a cluster about a topic.
func (s *Service) askAgain(topic string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.asked, topic)
}

// due says that a cluster is to be asked about a topic.
func (s *Service) due(topic string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	last, asked := s.asked[topic]
	if asked && time.Since(last) < s.cfg.BrokerEvery {
		return false
	}
	s.asked[topic] = time.Now()
	return true
}
