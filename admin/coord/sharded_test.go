package coord_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/turnout-mq/turnout/admin/coord"
	"github.com/turnout-mq/turnout/internal/errs"
	"github.com/turnout-mq/turnout/metadata"
	"github.com/turnout-mq/turnout/testenv"
)

// TestShardsOnEveryZooKeeper plays what must hold on every ZooKeeper, as TestOnEveryZooKeeper does.
func TestShardsOnEveryZooKeeper(t *testing.T) {
	testenv.Each(t, testenv.Spec{ZooKeeper: 3}, func(t *testing.T, e *testenv.Env) {
		for _, c := range []struct {
			name string
			play func(*tree)
		}{
			{"three instances share, one leaves", threeShare},
			{"an instance is killed", shardsKilled},
			{"an instance is stopped and goes on", shardsStopped},
			{"sessions expire", shardsExpire},
			{"the count changes", countChanges},
			{"what is under way is finished first", finishedFirst},
			{"ZooKeeper is away for a moment", shardsOutage},
			{"nodes that were edited by hand", shardsEdited},
		} {
			t.Run(c.name, func(t *testing.T) {
				tree := newTree(t, e)
				c.play(tree)
				require.NoError(t, e.Mend(tree.ctx()))
			})
		}
	})
}

const (
	shards  = 8
	monitor = "/jobs/monitor"
)

// record is what stands in the record of a shard: who began or ended a round, and how.
type record struct {
	By       string
	Of       int
	Failover bool
	Ended    bool
}

// recorded is a Do that writes its beginning and its end into the shard's record. Between the two nobody else may write
// there: then violation says so.
func recorded(s *metadata.Store, id string, during func(context.Context, coord.Shard) error) func(context.Context, coord.Shard) error {
	return func(ctx context.Context, shard coord.Shard) error {
		path := fmt.Sprintf("%s/records/%d", s.Root, shard.Index)
		n, err := s.Read(ctx, path)
		if err == nil && !n.Exists {
			err = s.Create(ctx, path, []byte("{}"))
		}
		if err != nil {
			return err
		}
		r := record{By: id, Of: shard.Of, Failover: shard.Failover}
		write := func(version int32) error {
			doc, err := json.Marshal(r)
			if err != nil {
				return err
			}
			return s.Multi(ctx, shard.Guard(), metadata.SetOp(path, doc, version))
		}
		if err := write(n.Version); err != nil {
			return err
		}
		if during != nil {
			if err := during(ctx, shard); err != nil {
				return err
			}
		}
		r.Ended = true
		err = write(n.Version + 1)
		if errors.Is(err, errs.ErrConflict) {
			err = errors.Join(err, s.Create(context.WithoutCancel(ctx), s.Root+"/violation", []byte(id)))
		}
		return err
	}
}

func rounds(do func(context.Context, coord.Shard) error) coord.Rounds {
	return coord.Rounds{Shards: shards, Every: 20 * time.Millisecond, Limit: patience, About: metadata.Instance{V: 1}, Do: do}
}

func (t *tree) sharded(s *metadata.Store) (sharded *coord.Sharded, id string) {
	t.Helper()
	id = metadata.NewInstanceID()
	sharded, err := coord.NewSharded(s, "monitor", id, nil)
	require.NoError(t, err)
	return sharded, id
}

// sharing is an instance that takes part in the background.
type sharing struct {
	*coord.Sharded
	id    string
	store *metadata.Store
	leave context.CancelFunc
	ended <-chan error
}

func (t *tree) shares(during func(context.Context, coord.Shard) error, change ...func(*metadata.Config)) *sharing {
	t.Helper()
	s := &sharing{store: t.open(change...)}
	s.Sharded, s.id = t.sharded(s.store)
	ready := make(chan struct{})
	s.ended = t.background(func(ctx context.Context) error {
		ctx, s.leave = context.WithCancel(ctx)
		defer s.leave()
		close(ready)
		return s.Run(ctx, rounds(recorded(s.store, s.id, during)))
	})
	wait(t, ready, "the instance")
	return s
}

// divided waits until so many shards are given to the instances evenly, and nothing is left to do about it.
func (t *tree) divided(by *sharing, count int, instances ...string) []coord.ShardState {
	t.Helper()
	var shards []coord.ShardState
	t.eventually(func() bool {
		all, resharding, err := by.Shards(t.ctx())
		require.NoError(t, err)
		shards = slices.DeleteFunc(all, func(s coord.ShardState) bool { return s.Of == 0 })
		each := map[string]int{}
		for _, s := range shards {
			if s.Of != count || s.Failover != "" {
				return false
			}
			each[s.Instance]++
		}
		for _, id := range instances {
			if n := each[id]; n < count/len(instances) || n > count/len(instances)+1 {
				return false
			}
		}
		return !resharding && len(shards) == count && len(each) == len(instances)
	}, "%d shards divided among %q", count, instances)
	return shards
}

func (t *tree) record(s *metadata.Store, i int) (r record, version int32) {
	t.Helper()
	n, err := s.Read(t.ctx(), fmt.Sprintf("%s/records/%d", t.root, i))
	require.NoError(t, err)
	if n.Exists {
		require.NoError(t, json.Unmarshal(n.Data, &r))
	}
	return r, n.Version
}

// allGoOn waits until each shard was worked on again by who has it now.
func (t *tree) allGoOn(by *sharing, shards []coord.ShardState) {
	t.Helper()
	for _, s := range shards {
		_, before := t.record(by.store, s.Index)
		t.eventually(func() bool {
			r, version := t.record(by.store, s.Index)
			return r.By == s.Instance && r.Of == s.Of && version > before+2
		}, "work on shard %v", s)
	}
}

func (t *tree) noViolation(s *metadata.Store) {
	t.Helper()
	require.NoError(t, s.Sync(t.ctx(), t.root))
	n, err := s.Read(t.ctx(), t.root+"/violation")
	require.NoError(t, err)
	require.False(t, n.Exists, "a shard was worked on by two at once")
}

func threeShare(t *tree) {
	a, b, c := t.shares(nil), t.shares(nil), t.shares(nil)
	t.allGoOn(a, t.divided(b, shards, a.id, b.id, c.id))
	members, err := a.Job().Members(t.ctx())
	require.NoError(t, err)
	require.Len(t, members, 3)
	n, err := a.Count(t.ctx())
	require.NoError(t, err)
	require.Equal(t, shards, n)

	b.leave()
	require.ErrorIs(t, wait(t, b.ended, "the end"), context.Canceled)
	t.allGoOn(a, t.divided(a, shards, a.id, c.id))
	t.noViolation(a.store)
}

// shard takes part, says which shards it works on and does not end, but for orders: then it writes, come what may.
func (c childSpec) shard(ctx context.Context, s *metadata.Store, orders <-chan string) error {
	id := metadata.NewInstanceID()
	job, err := coord.NewSharded(s, "monitor", id, nil)
	if err != nil {
		return err
	}
	session, err := s.WaitConnected(ctx)
	if err != nil {
		return err
	}
	var late atomic.Bool
	fmt.Printf("instance %s %d\n", id, session.ID)
	return job.Run(ctx, rounds(recorded(s, id, func(ctx context.Context, shard coord.Shard) error {
		if late.Load() {
			return nil
		}
		fmt.Printf("shard %d\n", shard.Index)
		if shard.Index != 0 {
			<-ctx.Done()
			return ctx.Err()
		}
		<-orders
		late.Store(true)
		byGuard := answered(func() error {
			return s.Multi(context.Background(), shard.Guard(), metadata.SetOp(c.Root+"/records/0", []byte("late"), metadata.AnyVersion))
		})
		<-ctx.Done()
		fmt.Printf("guard refused %v, lost %v\n", errors.Is(byGuard, errs.ErrNotFound), errors.Is(context.Cause(ctx), coord.ErrLost))
		return ctx.Err()
	})))
}

// startShards starts a child that works on all shards.
func (t *tree) startShards() (p *process, id string, session int64) {
	t.Helper()
	p = t.start("shard")
	_, err := fmt.Sscanf(p.says("instance "), "%s %d", &id, &session)
	require.NoError(t, err)
	for range shards {
		p.says("shard ")
	}
	return p, id, session
}

// shardsKilled: the shards of an instance that was killed are worked on by others at once, and then divided anew.
func shardsKilled(t *tree) {
	p, killed, session := t.startShards()
	taken := make(chan int, 100)
	note := func(_ context.Context, s coord.Shard) error {
		if s.Failover {
			taken <- s.Index
		}
		return nil
	}
	a := t.shares(note)
	b := t.shares(note)
	t.eventually(func() bool { // nothing is divided while the first one works
		all, resharding, err := a.Shards(t.ctx())
		require.NoError(t, err)
		for _, s := range all {
			require.Equal(t, killed, s.Instance)
		}
		members, err := a.Job().Members(t.ctx())
		require.NoError(t, err)
		return resharding && len(members) == 3
	}, "all three are there")
	require.Empty(t, taken)
	p.kill()
	require.NoError(t, t.env.ExpireSession(t.ctx(), session))
	var indexes []int
	for range shards {
		indexes = append(indexes, wait(t, taken, "a shard that is taken over"))
	}
	slices.Sort(indexes)
	require.Equal(t, []int{0, 1, 2, 3, 4, 5, 6, 7}, indexes)
	t.allGoOn(a, t.divided(b, shards, a.id, b.id))
	require.Empty(t, taken)
	t.noViolation(a.store)
}

// shardsStopped: a process that sleeps while its shards are taken over can not write any more when it wakes up.
func shardsStopped(t *tree) {
	p, stopped, session := t.startShards()
	p.signal(syscall.SIGSTOP)
	require.NoError(t, t.env.ExpireSession(t.ctx(), session))
	a := t.shares(nil)
	t.allGoOn(a, t.divided(a, shards, a.id))
	_, err := p.stdin.Write([]byte("write\n"))
	require.NoError(t, err)
	p.signal(syscall.SIGCONT)
	require.Equal(t, "true, lost true", p.says("guard refused "))
	given := t.divided(a, shards, a.id, stopped)
	t.allGoOn(a, given)
	t.noViolation(a.store)
}

func shardsExpire(t *tree) {
	all := []*sharing{t.shares(nil), t.shares(nil), t.shares(nil)}
	ids := []string{all[0].id, all[1].id, all[2].id}
	t.allGoOn(all[0], t.divided(all[0], shards, ids...))
	for i := range 4 {
		t.expire(all[i%3].store)
		t.allGoOn(all[0], t.divided(all[0], shards, ids...))
	}
	t.noViolation(all[0].store)
	for _, s := range all {
		require.Empty(t, s.ended)
	}
}

func countChanges(t *tree) {
	a, b := t.shares(nil), t.shares(nil)
	t.divided(a, shards, a.id, b.id)
	require.ErrorIs(t, a.SetCount(t.ctx(), 0), errs.ErrInvalid)
	require.ErrorIs(t, a.SetCount(t.ctx(), coord.MaxShards+1), errs.ErrInvalid)
	for _, count := range []int{3, 12, 1, coord.MaxShards} {
		require.NoError(t, b.SetCount(t.ctx(), count))
		ids := slices.Sorted(slices.Values([]string{a.id, b.id}))
		given := t.divided(a, count, ids[:min(count, 2)]...)
		if count < coord.MaxShards {
			t.allGoOn(a, given)
		}
	}
	t.noViolation(a.store)
}

func finishedFirst(t *tree) {
	begun, goOn := make(chan struct{}), make(chan struct{})
	var once atomic.Bool
	a := t.shares(func(ctx context.Context, s coord.Shard) error {
		if s.Index == 0 && once.CompareAndSwap(false, true) {
			close(begun)
			select {
			case <-goOn:
			case <-ctx.Done():
			}
		}
		return nil
	})
	wait(t, begun, "the work")
	b := t.shares(nil)
	running := func() (all []coord.ShardState, resharding bool) {
		all, resharding, err := a.Shards(t.ctx())
		require.NoError(t, err)
		for _, s := range all {
			require.Equal(t, a.id, s.Instance, "nothing is given away before the work has ended")
		}
		return slices.DeleteFunc(all, func(s coord.ShardState) bool { return s.Running == "" }), resharding
	}
	t.eventually(func() bool {
		busy, resharding := running()
		return resharding && len(busy) == 1 && busy[0].Index == 0 && busy[0].Running == a.id
	}, "all but one shard to be at rest")
	close(goOn)
	t.allGoOn(a, t.divided(b, shards, a.id, b.id))
	t.noViolation(a.store)
}

func shardsOutage(t *tree) {
	a, b := t.shares(nil), t.shares(nil)
	t.divided(a, shards, a.id, b.id)
	require.NoError(t, t.env.Kill(t.ctx(), "zookeeper"))
	t.eventually(func() bool { return !a.store.Session().Connected && !b.store.Session().Connected }, "everybody is cut off")
	require.NoError(t, t.env.Restart(t.ctx(), "zookeeper"))
	t.allGoOn(a, t.divided(a, shards, a.id, b.id))
	t.noViolation(a.store)
}

// shardsEdited: whatever is there by hand or of a leader that did not finish, the shards are divided in the end.
func shardsEdited(t *tree) {
	a, b := t.shares(nil), t.shares(nil)
	t.divided(a, shards, a.id, b.id)
	necessary := t.root + monitor + "/leader/sharding/necessary"
	gone := func() bool {
		require.NoError(t, a.store.Sync(t.ctx(), necessary))
		n, err := a.store.Read(t.ctx(), necessary)
		require.NoError(t, err)
		return !n.Exists
	}
	require.NoError(t, a.store.Create(t.ctx(), t.root+monitor+"/sharding/note", nil))
	require.NoError(t, a.store.Create(t.ctx(), t.root+monitor+"/sharding/99/failover", []byte("nobody")))
	require.NoError(t, a.store.Create(t.ctx(), t.root+monitor+"/sharding/2/failover", []byte("nobody")))
	require.NoError(t, a.store.Set(t.ctx(), t.root+monitor+"/sharding/3", []byte("?"), metadata.AnyVersion))
	require.NoError(t, a.store.Create(t.ctx(), necessary, nil))
	t.eventually(gone, "the division to be over")
	t.allGoOn(a, t.divided(b, shards, a.id, b.id))

	config := t.root + monitor + "/config"
	good, err := a.store.Read(t.ctx(), config)
	require.NoError(t, err)
	for _, bad := range []string{"?", `{"v":2,"shards":3}`, `{"v":1,"shards":0}`} {
		require.NoError(t, a.store.Set(t.ctx(), config, []byte(bad), metadata.AnyVersion))
		_, err = b.Count(t.ctx())
		require.ErrorIs(t, err, errs.ErrInvalid)
		require.ErrorContains(t, err, "/config")
	}
	t.allGoOn(a, t.divided(b, shards, a.id, b.id))
	require.NoError(t, a.store.Set(t.ctx(), config, []byte(strings.Replace(string(good.Data), "8", "5", 1)), metadata.AnyVersion))
	t.allGoOn(a, t.divided(b, 5, a.id, b.id))
	t.noViolation(a.store)
}

func TestShardedRefusals(t *testing.T) {
	embedded(t, func(t *tree) {
		s := t.open()
		_, err := coord.NewSharded(s, "a/b", metadata.NewInstanceID(), nil)
		require.ErrorIs(t, err, errs.ErrInvalid)
		sharded, _ := t.sharded(s)
		_, err = sharded.Count(t.ctx())
		require.ErrorIs(t, err, errs.ErrNotFound)
		require.ErrorIs(t, sharded.SetCount(t.ctx(), 3), errs.ErrNotFound)
		for field, change := range map[string]func(*coord.Rounds){
			"Shards 0":   func(r *coord.Rounds) { r.Shards = 0 },
			"Shards 257": func(r *coord.Rounds) { r.Shards = coord.MaxShards + 1 },
			"Every 0s":   func(r *coord.Rounds) { r.Every = 0 },
			"Limit 0s":   func(r *coord.Rounds) { r.Limit = 0 },
			"Do nil":     func(r *coord.Rounds) { r.Do = nil },
		} {
			r := rounds(func(context.Context, coord.Shard) error { return nil })
			change(&r)
			err := sharded.Run(t.ctx(), r)
			require.ErrorIs(t, err, errs.ErrInvalid)
			require.ErrorContains(t, err, field)
		}
		r := rounds(func(context.Context, coord.Shard) error { return nil })
		r.About.V = 7
		require.ErrorIs(t, sharded.Run(t.ctx(), r), errs.ErrInvalid)
		// A Store that is closed ends it.
		ended := t.background(func(ctx context.Context) error {
			return sharded.Run(ctx, rounds(func(context.Context, coord.Shard) error { return nil }))
		})
		t.eventually(func() bool {
			all, _, err := sharded.Shards(t.ctx())
			require.NoError(t, err)
			return len(all) == shards
		}, "it works")
		require.NoError(t, s.Close(t.ctx()))
		require.ErrorIs(t, wait(t, ended, "the end"), errs.ErrClosed)
	})
}

// A Do that fails is called again, and one that takes too long has its ctx ended.
func TestShardedFailures(t *testing.T) {
	embedded(t, func(t *tree) {
		sharded, _ := t.sharded(t.open())
		limits := make(chan error, 1000)
		var tries atomic.Int64
		r := rounds(func(ctx context.Context, _ coord.Shard) error {
			if tries.Add(1) <= 3 {
				return errors.New("not now")
			}
			<-ctx.Done()
			select {
			case limits <- context.Cause(ctx):
			default:
			}
			return ctx.Err()
		})
		r.Shards, r.Limit = 1, 10*time.Millisecond
		t.background(func(ctx context.Context) error { return sharded.Run(ctx, r) })
		for range 3 {
			require.ErrorIs(t, wait(t, limits, "the limit"), context.DeadlineExceeded)
		}
	})
}

// A leader whose answers are lost goes on.
func TestShardedLostAnswers(t *testing.T) {
	embedded(t, func(t *tree) {
		a := t.shares(nil)
		t.divided(a, shards, a.id)
		zookeeper := t.env.EmbeddedZooKeeper()
		for range 2 {
			zookeeper.DropAnswers(t.root+monitor, 5)
			b := t.shares(nil)
			zookeeper.DropAnswers(t.root+monitor+"/sharding", 5)
			t.allGoOn(a, t.divided(a, shards, a.id, b.id))
			b.leave()
			require.ErrorIs(t, wait(t, b.ended, "the end"), context.Canceled)
			t.allGoOn(a, t.divided(a, shards, a.id))
		}
		t.noViolation(a.store)
	})
}
