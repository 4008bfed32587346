package fleet

import (
	"cmp"
	"context"
	"errors"
	"fmt"
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
const Job = "monitor"

// Config says what a Service looks at and how.
type Config struct {
	Meta  *metadata.Store
	DB    *store.Store
	Pool  *clusters.Pool
	ID    string            // of this server: metadata.NewInstanceID()
	About metadata.Instance // what it says of itself in the job
	// Every is the time from one look at a topic to the next. Default 30 s.
	Every time.Duration
	// Limit bounds one question to a cluster, which is several requests. Default 10 s.
	Limit time.Duration
	// StaleAfter is how long an instance may be seen not to have applied a route before it is stale. Default 60 s.
	StaleAfter time.Duration
	// Keep is how long what was seen of a topic is kept in the store when nobody looks at it any more. Default 10 min; the clocks of the
	// servers must not differ by more.
	Keep time.Duration
	// Shards is how many shards the topics are divided into, if the job's config in ZooKeeper does not say. Default 32; more
	// than there will be servers.
	Shards int
	// AtOnce is how many topics this server looks at at the same time. Default 32.
	AtOnce int
	// PerCluster is how many questions this server asks a cluster at the same time. Default 8.
	PerCluster int
	Log        *zap.Logger // nil: none
}

// Service looks at the topics of this server's shards and answers for all of them. All methods may be called concurrently,
// whether Run runs or not.
type Service struct {
	cfg   Config
	meta  *metadata.Store
	db    *store.Store
	log   *zap.Logger
	job   *coord.Sharded
	gate  *gate
	turns chan struct{} // topics that are being looked at

	reading sync.Mutex // one reads the inventory, others wait for it
	known   *inventory

	mu    sync.Mutex
	seen  map[int]*shardSeen
	swept time.Time

	live live
}

// shardSeen is the last look at a shard.
type shardSeen struct {
	ShardLook
	topics map[string]*Topic
	again  bool // it is being looked at again
}

// New makes a Service; nothing is begun. ErrInvalid names the field.
func New(cfg Config) (*Service, error) {
	cfg.Every = cmp.Or(cfg.Every, 30*time.Second)
	cfg.Limit = cmp.Or(cfg.Limit, 10*time.Second)
	cfg.StaleAfter = cmp.Or(cfg.StaleAfter, time.Minute)
	cfg.Keep = cmp.Or(cfg.Keep, 10*time.Minute)
	cfg.Shards, cfg.AtOnce, cfg.PerCluster = cmp.Or(cfg.Shards, 32), cmp.Or(cfg.AtOnce, 32), cmp.Or(cfg.PerCluster, 8)
	if cfg.Log == nil {
		cfg.Log = zap.NewNop()
	}
	bad := func(field string, value any, rule string) error {
		return fmt.Errorf("%w: fleet.Config: %s %v: must be %s", errs.ErrInvalid, field, value, rule)
	}
	switch {
	case cfg.Meta == nil || cfg.DB == nil || cfg.Pool == nil:
		return nil, bad("Meta, DB, Pool", "nil", "given")
	case cfg.Limit < 0:
		return nil, bad("Limit", cfg.Limit, "more than 0")
	case cfg.StaleAfter < 0:
		return nil, bad("StaleAfter", cfg.StaleAfter, "more than 0")
	case cfg.Keep < 0:
		return nil, bad("Keep", cfg.Keep, "more than 0")
	case cfg.AtOnce < 1:
		return nil, bad("AtOnce", cfg.AtOnce, "1 or more")
	case cfg.PerCluster < 1:
		return nil, bad("PerCluster", cfg.PerCluster, "1 or more")
	}
	log := cfg.Log.Named("fleet")
	job, err := coord.NewSharded(cfg.Meta, Job, cfg.ID, log)
	if err != nil {
		return nil, err
	}
	s := &Service{
		cfg: cfg, meta: cfg.Meta, db: cfg.DB, log: log, job: job,
		gate:  &gate{pool: cfg.Pool, atOnce: cfg.PerCluster, limit: cfg.Limit, silence: cfg.Every, lines: map[string]*clusterLine{}},
		turns: make(chan struct{}, cfg.AtOnce), seen: map[int]*shardSeen{},
	}
	if err := job.Check(s.rounds()); err != nil {
		return nil, err
	}
	return s, nil
}

func (s *Service) rounds() coord.Rounds {
	return coord.Rounds{
		Shards: s.cfg.Shards, Every: s.cfg.Every, Limit: max(4*s.cfg.Every, 4*s.cfg.Limit), About: s.cfg.About, Do: s.lookAtShard,
	}
}

// Run looks, with the other servers, until ctx ends; it then returns its error. Also ErrNotAllowed (ZooKeeper) and ErrClosed.
func (s *Service) Run(ctx context.Context) error {
	return s.job.Run(ctx, s.rounds())
}

// Shards tells which server looks at which part of the topics, and whether they are being divided anew.
func (s *Service) Shards(ctx context.Context) (shards []coord.ShardState, resharding bool, err error) {
	return s.job.Shards(ctx)
}

// groupReads bounds how many groups are read at the same time.
const groupReads = 32

// inventory is what there is to look at.
type inventory struct {
	at       time.Time
	topics   []string
	clusters []string
	readers  map[string][]metadata.Group // by topic, by name
}

// inventory is one for all shards that this server looks at in the same moment.
func (s *Service) inventory(ctx context.Context) (*inventory, error) {
	s.reading.Lock()
	defer s.reading.Unlock()
	if s.known != nil && time.Since(s.known.at) < s.cfg.Every/2 {
		return s.known, nil
	}
	inv := &inventory{at: time.Now(), readers: map[string][]metadata.Group{}}
	var err error
	if inv.topics, err = s.meta.ListTopics(ctx); err != nil {
		return nil, err
	}
	inv.topics = slices.DeleteFunc(inv.topics, func(name string) bool { return !metadata.ValidName(name) }) // put there by hand
	if inv.clusters, err = s.meta.ListClusters(ctx); err != nil {
		return nil, err
	}
	names, err := s.meta.ListGroups(ctx)
	if err != nil {
		return nil, err
	}
	groups := make([]metadata.Group, len(names))
	read, reading := errgroup.WithContext(ctx)
	read.SetLimit(groupReads)
	for i, name := range names {
		read.Go(func() (err error) {
			groups[i], _, err = s.meta.GetGroup(reading, name)
			if errors.Is(err, errs.ErrNotFound) || errors.Is(err, errs.ErrInvalid) || errors.Is(err, errs.ErrTooLarge) {
				return nil // gone, or nobody can use it
			}
			return err
		})
	}
	if err := read.Wait(); err != nil {
		return nil, err
	}
	for _, g := range groups {
		for _, topic := range g.Topics {
			inv.readers[topic] = append(inv.readers[topic], g)
		}
	}
	s.known = inv
	return inv, nil
}

// Snapshot is what this server has seen.
func (s *Service) Snapshot() Snapshot {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.forget()
	var out Snapshot
	for _, seen := range s.seen {
		out.Shards = append(out.Shards, seen.ShardLook)
		for _, t := range seen.topics {
			out.Topics = append(out.Topics, t)
		}
	}
	slices.SortFunc(out.Shards, func(a, b ShardLook) int { return a.Index - b.Index })
	return out
}

// forget drops shards that others look at by now. s.mu is held.
func (s *Service) forget() {
	for i, seen := range s.seen {
		if !seen.again && time.Since(seen.At)-seen.Took > missed*s.cfg.Every {
			delete(s.seen, i)
		}
	}
}

// missed is how many times Config.Every may pass without a look before a shard counts as one that others look at.
const missed = 3
