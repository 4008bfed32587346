package coord

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"sync"
	"time"

	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"

	"github.com/turnout-mq/turnout/internal/errs"
	"github.com/turnout-mq/turnout/metadata"
)

// MaxShards is how many shards a job may have.
const MaxShards = 256

// Sharded is a job whose work is divided into shards: "monitor", "reconcile". Each instance that runs it is given about the
// same number of them. Its methods may be called concurrently.
type Sharded struct{ job *Job }

// NewSharded makes the view that one instance has of such a job; arguments and errors as of NewJob.
func NewSharded(s *metadata.Store, job, instance string, log *zap.Logger) (*Sharded, error) {
	j, err := NewJob(s, job, instance, log)
	if err != nil {
		return nil, err
	}
	return &Sharded{j}, nil
}

// Job tells who leads and who takes part.
func (s *Sharded) Job() *Job { return s.job }

// Rounds is how the shards are worked on.
type Rounds struct {
	// Shards is how many there are if the job's config does not say: 1 to MaxShards.
	Shards int
	// Every is the time from one beginning of the work on a shard to the next; more than 0. A shard that comes to this
	// instance is worked on at once.
	Every time.Duration
	// Limit is how long Do may take; more than 0. Its ctx ends then. Shards are not divided anew while any Do runs.
	Limit time.Duration
	// About is what the instance says of itself.
	About metadata.Instance
	// Do works on a shard once. It is called for several shards at the same time, never for one shard twice. What must not be
	// done by two is to be written with Shard.Guard. An error is logged, and the next round tries again. ctx also ends
	// when Run is to end and when the shard may be somebody else's (context.Cause: ErrLost); Do should return soon then.
	Do func(ctx context.Context, shard Shard) error
}

// Shard is one part of a job's work, in the hands of this instance.
type Shard struct {
	Index, Of int // 0 … Of-1
	// Failover: the instance that had it is gone, and this one does at once what may have been left undone.
	Failover bool

	held *Held
}

// Guard as one of the operations of Store.Multi lets it succeed only while the shard is in our hands; see Held.Guard.
func (s Shard) Guard() metadata.Op { return s.held.Guard() }

// Has says whether the thing of this name belongs to the shard; its hash decides.
func (s Shard) Has(name string) bool {
	h := fnv.New32a()
	_, _ = h.Write([]byte(name)) // never fails
	return int(h.Sum32()%uint32(s.Of)) == s.Index
}

// Token is larger than that of every earlier work on the shard.
func (s Shard) Token() metadata.Zxid { return s.held.Token() }

// Run takes part in the job until ctx ends: it does the work of the shards that it is given, and campaigns for the lead,
// which gives them. It returns when the work that was under way has ended, with ctx's error, or when this instance can not take
// part: ErrInvalid, ErrNotAllowed, ErrClosed. It waits while ZooKeeper is away.
func (s *Sharded) Run(ctx context.Context, r Rounds) error {
	if err := s.Check(r); err != nil {
		return err
	}
	if err := s.prepare(ctx, r.Shards); err != nil {
		return fmt.Errorf("job %s: %w", s.job.name, err)
	}
	member, err := s.job.Join(ctx, r.About)
	if err != nil {
		return err
	}
	all, running := errgroup.WithContext(ctx)
	all.Go(func() error { return s.job.Campaign(running, termPause, s.divide) })
	all.Go(func() error { return s.work(running, r) })
	err = all.Wait()
	leaving, cancel := context.WithTimeout(context.WithoutCancel(ctx), farewell)
	defer cancel()
	if err := member.Close(leaving); err != nil {
		s.job.log.Warn("this instance is a member of the job until its session ends", zap.Error(err))
	}
	return err
}

const (
	termPause = time.Second            // after a term as leader, or a try to take a shard, that has failed
	lostPause = 200 * time.Millisecond // before a shard that was lost is asked for again
)

// Check is the ErrInvalid with which Run would refuse r; it names the field.
func (s *Sharded) Check(r Rounds) error {
	bad := func(field string, value any, rule string) error {
		return fmt.Errorf("%w: job %s: %s %v: must be %s", errs.ErrInvalid, s.job.name, field, value, rule)
	}
	switch {
	case r.Shards < 1 || r.Shards > MaxShards:
		return bad("Shards", r.Shards, fmt.Sprintf("1 to %d", MaxShards))
	case r.Every <= 0:
		return bad("Every", r.Every, "more than 0")
	case r.Limit <= 0:
		return bad("Limit", r.Limit, "more than 0")
	case r.Do == nil:
		return bad("Do", "nil", "a function")
	}
	return nil
}

// jobConfig is the node config.
type jobConfig struct {
	V      int `json:"v"`
	Shards int `json:"shards"`
}

func parseConfig(data []byte) (c jobConfig, err error) {
	if err := json.Unmarshal(data, &c); err != nil {
		return c, fmt.Errorf("%w: %w", errs.ErrInvalid, err)
	}
	if c.V != documentVersion {
		return c, fmt.Errorf("%w: v %d: this version of Turnout reads %d", errs.ErrInvalid, c.V, documentVersion)
	}
	if c.Shards < 1 || c.Shards > MaxShards {
		return c, fmt.Errorf("%w: shards %d: must be 1 to %d", errs.ErrInvalid, c.Shards, MaxShards)
	}
	return c, nil
}

const documentVersion = 1

// Count is how many shards the job's config asks for. ErrNotFound: the job never ran; ErrInvalid: the config can not be
// read.
func (s *Sharded) Count(ctx context.Context) (int, error) {
	n, err := s.job.store.Read(ctx, s.configPath())
	if err != nil {
		return 0, err
	}
	if !n.Exists {
		return 0, fmt.Errorf("config of job %s: %w", s.job.name, errs.ErrNotFound)
	}
	c, err := parseConfig(n.Data)
	if err != nil {
		return 0, fmt.Errorf("node %s: %w", n.Path, err)
	}
	return c.Shards, nil
}

// SetCount changes how many shards the job has: 1 to MaxShards (ErrInvalid). The leader divides the work anew when what is under
// way has ended. ErrNotFound: the job never ran; ErrTimeout: changed or not.
func (s *Sharded) SetCount(ctx context.Context, shards int) error {
	if shards < 1 || shards > MaxShards {
		return fmt.Errorf("%w: job %s: shards %d: must be 1 to %d", errs.ErrInvalid, s.job.name, shards, MaxShards)
	}
	data, err := json.Marshal(jobConfig{V: documentVersion, Shards: shards})
	if err != nil {
		return err
	}
	return s.job.store.Set(ctx, s.configPath(), data, metadata.AnyVersion)
}

// prepare makes the nodes that everybody needs.
func (s *Sharded) prepare(ctx context.Context, shards int) error {
	config, err := json.Marshal(jobConfig{V: documentVersion, Shards: shards})
	if err != nil {
		return err
	}
	for _, node := range []struct {
		path string
		data []byte
	}{{s.configPath(), config}, {s.shardingPath(), nil}, {s.necessaryParent(), nil}} {
		for {
			n, err := s.job.store.Read(ctx, node.path)
			if err == nil && !n.Exists {
				err = s.job.store.Create(ctx, node.path, node.data)
			}
			if err == nil || errors.Is(err, errs.ErrConflict) {
				break
			}
			if !errors.Is(err, errs.ErrTimeout) {
				return err
			}
		}
	}
	return nil
}

func (s *Sharded) configPath() string      { return s.job.path + "/config" }
func (s *Sharded) shardingPath() string    { return s.job.path + "/sharding" }
func (s *Sharded) necessaryParent() string { return s.job.path + "/leader/sharding" }
func (s *Sharded) necessaryPath() string   { return s.necessaryParent() + "/necessary" }

func (s *Sharded) shardPath(i int) string    { return fmt.Sprintf("%s/%d", s.shardingPath(), i) }
func (s *Sharded) runningPath(i int) string  { return s.shardPath(i) + "/running" }
func (s *Sharded) failoverPath(i int) string { return s.shardPath(i) + "/failover" }

// line is where instances wait for their turn to work on a shard.
func (s *Sharded) line(i int) line {
	return line{s.job.store, fmt.Sprintf("shard %d of job %s", i, s.job.name), s.shardPath(i) + "/latch"}
}

// task is why an instance works on a shard.
type task struct {
	of       int
	failover bool
}

// worker works on the shards that an instance is given.
type worker struct {
	*Sharded
	r Rounds

	mu    sync.Mutex
	begun map[int]time.Time // when this instance last began with a shard
}

// work runs until ctx ends, and ends when all that it began has.
func (s *Sharded) work(ctx context.Context, r Rounds) error {
	w := &worker{Sharded: s, r: r, begun: map[int]time.Time{}}
	changed := make(chan struct{}, 1)
	follower := metadata.Follow(s.job.store, s.shardingPath(), anything, func(metadata.Update[struct{}]) { ring(changed) }, metadata.WithoutMemory())
	defer follower.Close()
	look := time.NewTicker(metadata.DefaultRecheck) // somebody may have edited the nodes
	defer look.Stop()

	type job struct {
		task
		stop context.CancelFunc
	}
	at := map[int]job{}
	ended := make(chan int)
	working, stopAll := context.WithCancel(ctx)
	defer func() {
		stopAll()
		for range at {
			<-ended
		}
	}()
	for {
		tasks, err := s.tasks(ctx)
		switch {
		case ctx.Err() != nil:
			return fmt.Errorf("job %s: %w", s.job.name, context.Cause(ctx))
		case errors.Is(err, errs.ErrClosed), errors.Is(err, errs.ErrNotAllowed):
			return fmt.Errorf("job %s: %w", s.job.name, err)
		case err != nil:
			s.job.log.Warn("what this instance has to do can not be read; going on with what it had", zap.Error(err))
		default:
			for i, job := range at {
				if task, still := tasks[i]; !still || task != job.task {
					job.stop()
				}
			}
			for i, task := range tasks {
				if _, busy := at[i]; busy {
					continue
				}
				more, stop := context.WithCancel(working)
				at[i] = job{task, stop}
				go func() {
					w.keep(working, more, i, task)
					ended <- i
				}()
			}
		}
		select {
		case <-changed:
		case i := <-ended:
			at[i].stop()
			delete(at, i)
		case <-look.C:
		case <-ctx.Done():
		}
	}
}

// anything parses a node of which only the changes count.
func anything([]byte) (struct{}, error) { return struct{}{}, nil }

func ring(bell chan struct{}) {
	select {
	case bell <- struct{}{}:
	default:
	}
}

// keep works on a shard round by round until more ends, the shard is not ours any more, or its failover is done. What was begun
// goes on until ctx ends.
func (w *worker) keep(ctx, more context.Context, i int, t task) {
	for {
		pause := time.Duration(0)
		w.mu.Lock()
		if begun, before := w.begun[i]; before && !t.failover {
			pause = time.Until(begun.Add(w.r.Every))
		}
		w.mu.Unlock()
		for again := true; again; {
			timer := time.NewTimer(pause)
			select {
			case <-timer.C:
			case <-more.Done():
				timer.Stop()
				return
			}
			err := w.once(ctx, more, i, t)
			switch {
			case more.Err() != nil, errors.Is(err, errNotOurs), errors.Is(err, errs.ErrClosed):
				return
			case errors.Is(err, ErrLost):
				w.job.log.Warn("a shard was lost; asking for it again", zap.Int("shard", i), zap.Error(err))
				pause = lostPause/2 + rand.N(lostPause) //nolint:gosec // jitter
			case errors.Is(err, errUndone):
				w.job.log.Warn("a shard could not be taken; trying again", zap.Int("shard", i), zap.Error(err))
				pause = termPause/2 + rand.N(termPause) //nolint:gosec // jitter
			default:
				if err != nil {
					w.job.log.Warn("the work on a shard has failed", zap.Int("shard", i), zap.Error(err))
				}
				if t.failover {
					return
				}
				again = false
			}
		}
	}
}

var (
	// errNotOurs: the shard was given to somebody else.
	errNotOurs = errors.New("the shard is not ours")
	// errUndone: something failed before or after the work itself.
	errUndone = errors.New("not done")
)

// once works on a shard, when it is our turn. It leaves the line when more ends.
func (w *worker) once(ctx, more context.Context, i int, t task) (err error) {
	held, err := w.line(i).wait(more)
	if err != nil {
		return fmt.Errorf("%w: %w", errUndone, err)
	}
	held.also = []string{w.runningPath(i)}
	defer resign(ctx, held, w.job.log)
	turn, cancel := held.within(ctx)
	defer cancel()
	defer func() {
		if lost := held.Err(); lost != nil && !errors.Is(err, lost) {
			err = errors.Join(lost, err)
		}
	}()
	err = w.job.store.Announce(turn, w.runningPath(i), []byte(w.job.instance), held.node)
	if errors.Is(err, errs.ErrNotFound) {
		return held.lost(err)
	}
	if err != nil {
		return fmt.Errorf("%w: %w", errUndone, err)
	}
	// Who divides the shards says so first and looks then who is at work; we say that we are at work first and look then whether
	// they are being divided. So one sees the other.
	if err := w.job.store.Sync(turn, w.job.path); err != nil {
		return fmt.Errorf("%w: %w", errUndone, err)
	}
	necessary, err := w.resharding(turn)
	if err != nil {
		return fmt.Errorf("%w: %w", errUndone, err)
	}
	now, err := w.shard(turn, i)
	if err != nil {
		return fmt.Errorf("%w: %w", errUndone, err)
	}
	if what, ours := now.taskOf(w.job.instance, necessary); !ours || what != t {
		return errNotOurs
	}
	w.mu.Lock()
	w.begun[i] = time.Now()
	w.mu.Unlock()
	doing, stop := context.WithTimeout(turn, w.r.Limit)
	err = w.r.Do(doing, Shard{Index: i, Of: t.of, Failover: t.failover, held: held})
	stop()
	if t.failover && turn.Err() == nil {
		if ferr := w.finish(turn, held, i, t); ferr != nil {
			return errors.Join(ferr, err)
		}
	}
	return err
}

// finish makes a shard ours that was taken over and is done.
func (w *worker) finish(ctx context.Context, held *Held, i int, t task) error {
	for {
		now, err := w.shard(ctx, i)
		if err == nil && (!now.failover.Exists || now.Failover != w.job.instance) {
			return nil
		}
		var doc []byte
		if err == nil {
			doc, err = json.Marshal(given{Instance: w.job.instance, Of: t.of})
		}
		if err == nil {
			err = w.job.store.Multi(ctx, held.Guard(), metadata.DeleteOp(w.failoverPath(i), metadata.AnyVersion),
				metadata.SetOp(w.shardPath(i), doc, metadata.AnyVersion))
		}
		switch {
		case err == nil:
			return nil
		case errors.Is(err, errs.ErrTimeout): // done or not
		case errors.Is(err, errs.ErrNotFound): // our turn is over, or somebody edits the nodes: look again
			if _, err := w.job.store.Confirm(ctx, held.node); err != nil {
				return held.lost(err)
			}
		default:
			return fmt.Errorf("%w: %w", errUndone, err)
		}
	}
}
