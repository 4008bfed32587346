package coord

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"strconv"
	"time"

	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"

	"github.com/turnout-mq/turnout/internal/errs"
	"github.com/turnout-mq/turnout/metadata"
)

// ShardState says who has a shard.
type ShardState struct {
	Index    int    `json:"index"`
	Of       int    `json:"of"`                 // of how many; 0: there is nothing to do for it, or not yet
	Instance string `json:"instance,omitempty"` // to which it is given
	Running  string `json:"running,omitempty"`  // the instance that works on it now
	Failover string `json:"failover,omitempty"` // the instance that does the work of one that is gone

	node, failover metadata.Node
}

// given is the node sharding/{i}.
type given struct {
	Instance string `json:"instance"`
	Of       int    `json:"of"`
}

// taskOf is what an instance has to do with the shard. While the shards are divided anew nobody begins a round; what is left
// of instances that are gone is done.
func (s ShardState) taskOf(instance string, resharding bool) (task, bool) {
	switch {
	case s.Of == 0:
		return task{}, false
	case s.failover.Exists:
		return task{s.Of, true}, s.Failover == instance
	case resharding:
		return task{}, false
	}
	return task{s.Of, false}, s.Instance == instance
}

// Shards tells who has which shard now, and whether they are about to be divided anew. It is read after a sync.
func (s *Sharded) Shards(ctx context.Context) (shards []ShardState, resharding bool, err error) {
	if err := s.job.store.Sync(ctx, s.job.path); err != nil {
		return nil, false, err
	}
	if resharding, err = s.resharding(ctx); err != nil {
		return nil, false, err
	}
	shards, err = s.shards(ctx)
	return shards, resharding, err
}

// readAtOnce bounds how many nodes are read at the same time.
const readAtOnce = 16

// shards reads all of them. What else people have put there is left alone.
func (s *Sharded) shards(ctx context.Context) (shards []ShardState, err error) {
	names, err := s.children(ctx, s.shardingPath())
	if err != nil {
		return nil, err
	}
	for _, name := range names {
		if i, err := strconv.Atoi(name); err == nil && i >= 0 && strconv.Itoa(i) == name {
			shards = append(shards, ShardState{Index: i})
		}
	}
	slices.SortFunc(shards, func(a, b ShardState) int { return a.Index - b.Index })
	read, ctx := errgroup.WithContext(ctx)
	read.SetLimit(readAtOnce)
	for i := range shards {
		read.Go(func() (err error) {
			shards[i], err = s.shard(ctx, shards[i].Index)
			return err
		})
	}
	return shards, read.Wait()
}

// shard reads one. A failover that is done is not to be seen as one that has not begun: so who has it is read after that.
func (s *Sharded) shard(ctx context.Context, i int) (ShardState, error) {
	state := ShardState{Index: i}
	var err error
	if state.failover, err = s.job.store.Read(ctx, s.failoverPath(i)); err != nil {
		return state, err
	}
	if state.node, err = s.job.store.Read(ctx, s.shardPath(i)); err != nil {
		return state, err
	}
	running, err := s.job.store.Read(ctx, s.runningPath(i))
	if err != nil {
		return state, err
	}
	state.Failover, state.Running = string(state.failover.Data), string(running.Data)
	var to given
	if err := json.Unmarshal(state.node.Data, &to); err == nil && to.Of > i && to.Of <= MaxShards {
		state.Instance, state.Of = to.Instance, to.Of // what else is there was not written by us
	}
	return state, nil
}

func (s *Sharded) resharding(ctx context.Context) (bool, error) {
	n, err := s.job.store.Read(ctx, s.necessaryPath())
	return n.Exists, err
}

// tasks are what this instance has to do, by shard.
func (s *Sharded) tasks(ctx context.Context) (map[int]task, error) {
	shards, resharding, err := s.Shards(ctx)
	if err != nil {
		return nil, err
	}
	mine := map[int]task{}
	for _, shard := range shards {
		if t, ours := shard.taskOf(s.job.instance, resharding); ours {
			mine[shard.Index] = t
		}
	}
	return mine, nil
}

// children are those of a node that need not exist.
func (s *Sharded) children(ctx context.Context, path string) ([]string, error) {
	names, err := s.job.store.Children(ctx, path)
	if errors.Is(err, errs.ErrNotFound) {
		return nil, nil
	}
	return names, err
}

// busyLook is how often the leader looks whether what it waits for has ended.
const busyLook = 200 * time.Millisecond

// divide is a term as leader: it gives the shards to the live instances, and anew whenever one comes or goes or the count changes.
func (s *Sharded) divide(ctx context.Context, lead *Held) error {
	changed := make(chan struct{}, 1)
	store := s.job.store
	members := metadata.FollowChildren(store, s.job.instancesPath(), func([]string, error) { ring(changed) }, metadata.WithoutMemory())
	defer members.Close()
	for _, path := range []string{s.configPath(), s.necessaryPath()} {
		f := metadata.Follow(store, path, anything, func(metadata.Update[struct{}]) { ring(changed) }, metadata.WithoutMemory())
		defer f.Close()
	}
	look := time.NewTicker(metadata.DefaultRecheck)
	defer look.Stop()
	for {
		settled, err := s.step(ctx, lead)
		switch {
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case errors.Is(err, errs.ErrConflict), errors.Is(err, errs.ErrNotFound), errors.Is(err, errs.ErrTimeout):
			// Somebody was there at the same time, or nobody knows whether it happened: look again.
			s.job.log.Debug("dividing the shards: looking again", zap.Error(err))
			settled = false
		case errors.Is(err, errs.ErrInvalid):
			s.job.log.Error("the shards stay as they are divided: repair the job's config", zap.Error(err))
			settled = true
		case err != nil:
			return err
		}
		var again <-chan time.Time
		if !settled {
			again = time.After(busyLook)
		}
		select {
		case <-changed:
		case <-again:
		case <-look.C:
		case <-ctx.Done():
		}
	}
}

// step looks at everything and does the next thing that is to be done. settled: there is nothing to be done.
//
// First it says that resharding is necessary: from then on no instance begins a round. Then it gives each shard of an instance
// that is gone to one that is there, as a failover, which ends with that instance having the shard. When no failover is
// left and nobody is at work it divides all of them.
func (s *Sharded) step(ctx context.Context, lead *Held) (settled bool, err error) {
	store := s.job.store
	if err := store.Sync(ctx, s.job.path); err != nil {
		return false, err
	}
	count, err := s.Count(ctx)
	if err != nil {
		return false, err
	}
	live, err := s.children(ctx, s.job.instancesPath())
	if err != nil || len(live) == 0 {
		return true, err // it is told when one comes
	}
	resharding, err := s.resharding(ctx)
	if err != nil {
		return false, err
	}
	shards, err := s.shards(ctx)
	if err != nil {
		return false, err
	}
	want := allot(live, count)
	tell := metadata.SetOp(s.shardingPath(), nil, metadata.AnyVersion) // the node that all instances follow
	if !resharding {
		if divided(shards, want) {
			return true, nil
		}
		s.job.log.Info("the shards are to be divided anew", zap.Int("shards", count), zap.Strings("instances", live))
		if err := s.prepare(ctx, count); err != nil {
			return false, err
		}
		return false, store.Multi(ctx, lead.Guard(), metadata.CreateOp(s.necessaryPath(), nil), tell)
	}
	give, busy := s.failovers(shards, live)
	switch {
	case len(give) > 0:
		return false, store.Multi(ctx, append(append([]metadata.Op{lead.Guard()}, give...), tell)...)
	case busy:
		return false, nil
	}
	ops, err := s.divisions(shards, want)
	if err != nil {
		return false, err
	}
	ops = append(append([]metadata.Op{lead.Guard()}, ops...), metadata.DeleteOp(s.necessaryPath(), metadata.AnyVersion), tell)
	if err := store.Multi(ctx, ops...); err != nil {
		return false, err
	}
	s.job.log.Info("the shards are divided", zap.Int("shards", count), zap.Strings("instances", live))
	return true, nil
}

// failovers gives the shards of instances that are gone to live ones in turn. busy: something is under way.
func (s *Sharded) failovers(shards []ShardState, live []string) (give []metadata.Op, busy bool) {
	for _, shard := range shards {
		if shard.Of == 0 { // nobody ever had it
			if shard.failover.Exists {
				give = append(give, metadata.DeleteOp(s.failoverPath(shard.Index), shard.failover.Version))
			}
			continue
		}
		busy = busy || shard.Running != "" || shard.failover.Exists
		has := shard.Instance
		if shard.failover.Exists {
			has = shard.Failover
		}
		if slices.Contains(live, has) {
			continue
		}
		to := []byte(live[len(give)%len(live)])
		s.job.log.Info("a shard of an instance that is gone is taken over", zap.Int("shard", shard.Index), zap.String("gone", has), zap.ByteString("by", to))
		if shard.failover.Exists {
			give = append(give, metadata.SetOp(s.failoverPath(shard.Index), to, shard.failover.Version))
		} else {
			give = append(give, metadata.CreateOp(s.failoverPath(shard.Index), to))
		}
	}
	return give, busy
}

// divisions are the operations after which the shards are what is wanted. Those that are too many stay as empty nodes.
func (s *Sharded) divisions(shards []ShardState, want []string) (ops []metadata.Op, err error) {
	exists := make([]bool, len(want))
	for _, shard := range shards {
		var doc []byte
		if i := shard.Index; i < len(want) {
			exists[i] = true
			if doc, err = json.Marshal(given{Instance: want[i], Of: len(want)}); err != nil {
				return nil, err
			}
		}
		ops = append(ops, metadata.SetOp(shard.node.Path, doc, shard.node.Version))
	}
	for i, to := range want {
		if exists[i] {
			continue
		}
		doc, err := json.Marshal(given{Instance: to, Of: len(want)})
		if err != nil {
			return nil, err
		}
		ops = append(ops, metadata.CreateOp(s.shardPath(i), doc))
	}
	return ops, nil
}

// allot divides shards among instances as ElasticJob does by default: in the order of the instances' ids, each the same
// number of neighbors, and of those that are left over one each to the first.
func allot(instances []string, count int) []string {
	instances = slices.Sorted(slices.Values(instances))
	each, over := count/len(instances), count%len(instances)
	out := make([]string, 0, count)
	for _, id := range instances {
		for range each {
			out = append(out, id)
		}
	}
	return append(out, instances[:over]...)
}

// divided says whether the shards are what is wanted.
func divided(shards []ShardState, want []string) bool {
	have := 0
	for _, shard := range shards {
		wanted := shard.Index < len(want)
		if shard.failover.Exists || wanted != (shard.Of > 0) || wanted && (shard.Of != len(want) || shard.Instance != want[shard.Index]) {
			return false
		}
		if wanted {
			have++
		}
	}
	return have == len(want)
}
