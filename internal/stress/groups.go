// Package stress starts and stops the shadow groups of an application, as flags in ZooKeeper say.
package stress

import (
	"context"
	"errors"
	"maps"
	"slices"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/turnout-mq/turnout/internal/errs"
	"github.com/turnout-mq/turnout/metadata"
)

// Config says whose shadow groups a Groups runs, and how.
type Config struct {
	Store   *metadata.Store
	App     string        // whose flags count
	Session time.Duration // session time-out: without ZooKeeper for so long the session counts as lost
	// Report is told of every change, one call at a time: what is to be said of each group that has a flag. It must not block.
	Report func(map[string]metadata.ShadowReport)
	Log    *zap.Logger
}

// Running is a shadow group that consumes.
type Running interface {
	// Ready waits until it is a member on every cluster that it has to read.
	Ready(ctx context.Context) error
	// NotReady says what it waits for; nil: nothing.
	NotReady() error
	// Close ends it; when ctx ends first it gives up its listeners, and may be called again.
	Close(ctx context.Context) error
}

// Groups starts and stops the shadow groups of the groups that an application subscribes, as the flags below
// {ShadowRoot}/{app} say. A flag counts only when it was read in the present session: when the session is lost they all stop.
// All methods may be called concurrently.
type Groups struct {
	cfg Config

	mu       sync.Mutex
	tasks    map[string]*task
	runners  map[string]*runner
	lost     *time.Timer // runs while there is no connection
	isClosed bool
	stops    []func()
	closing  sync.WaitGroup // followers that are being closed

	telling sync.Mutex // one Report at a time
}

// task is a node {ShadowRoot}/{app}/{task}.
type task struct {
	follower *metadata.Follower
	flags    map[string]*flag // by group
}

// flag is a node {ShadowRoot}/{app}/{task}/{group}.
type flag struct {
	follower *metadata.Follower
	session  int64  // in which it was last read and enabled its group; 0: it does not
	problem  string // why it can not be read
}

// NewGroups begins to follow the flags. Close ends that.
func NewGroups(cfg Config) *Groups {
	g := &Groups{cfg: cfg, tasks: map[string]*task{}, runners: map[string]*runner{}}
	path := cfg.Store.ShadowRoot + "/" + cfg.App
	tasks := metadata.FollowChildren(cfg.Store, path, func(names []string, _ error) { g.haveTasks(names) }, metadata.WithoutMemory())
	g.stops = append(g.stops, tasks.Close, cfg.Store.OnSession(g.session))
	return g
}

// session notes whether there is a connection.
func (g *Groups) session(now metadata.Session) {
	g.mu.Lock()
	if now.Connected {
		if g.lost != nil {
			g.lost.Stop()
		}
		g.lost = nil
	} else if g.lost == nil && !g.isClosed {
		g.lost = time.AfterFunc(g.cfg.Session, func() {
			g.mu.Lock()
			if g.lost != nil {
				g.forget()
			}
			g.mu.Unlock()
			g.apply()
		})
	}
	g.mu.Unlock()
	g.apply()
}

// forget lets no flag count before it was read again. g.mu is held.
func (g *Groups) forget() {
	for _, t := range g.tasks {
		for _, f := range t.flags {
			f.session = 0
		}
	}
}

// haveTasks follows the groups of every task.
func (g *Groups) haveTasks(names []string) {
	g.mu.Lock()
	var gone []*metadata.Follower
	for name, t := range g.tasks {
		if !slices.Contains(names, name) {
			delete(g.tasks, name)
			gone = append(gone, t.follower)
			for _, f := range t.flags {
				gone = append(gone, f.follower)
			}
		}
	}
	for _, name := range names {
		if g.tasks[name] != nil || g.isClosed {
			continue
		}
		if !metadata.ValidName(name) {
			g.ignore(name, "it is no name of a task")
			continue
		}
		t := &task{flags: map[string]*flag{}}
		g.tasks[name] = t
		path := g.cfg.Store.ShadowRoot + "/" + g.cfg.App + "/" + name
		t.follower = metadata.FollowChildren(g.cfg.Store, path, func(groups []string, _ error) { g.haveGroups(name, t, groups) }, metadata.WithoutMemory())
	}
	g.discard(gone)
	g.mu.Unlock()
	g.apply()
}

// haveGroups follows the flag of every group of a task.
func (g *Groups) haveGroups(name string, t *task, groups []string) {
	g.mu.Lock()
	var gone []*metadata.Follower
	for group, f := range t.flags {
		if !slices.Contains(groups, group) {
			delete(t.flags, group)
			gone = append(gone, f.follower)
		}
	}
	for _, group := range groups {
		if t.flags[group] != nil || g.isClosed || g.tasks[name] != t {
			continue
		}
		if !metadata.ValidName(group) {
			g.ignore(name+"/"+group, "it is no name of a group")
			continue
		}
		f := &flag{}
		t.flags[group] = f
		path := g.cfg.Store.ShadowPath(g.cfg.App, name, group)
		f.follower = metadata.Follow(g.cfg.Store, path, parse, func(u metadata.Update[metadata.ShadowFlag]) { g.read(path, f, u) }, metadata.WithoutMemory())
	}
	g.discard(gone)
	g.mu.Unlock()
	g.apply()
}

func (g *Groups) ignore(below, why string) {
	g.cfg.Log.Debug("a node below the shadow flags is ignored", zap.String("path", g.cfg.Store.ShadowRoot+"/"+g.cfg.App+"/"+below), zap.String("reason", why))
}

// discard closes followers, which wait for calls of them that may wait for g.mu. It is held.
func (g *Groups) discard(followers []*metadata.Follower) {
	for _, f := range followers {
		g.closing.Go(f.Close)
	}
}

// parse never fails: whatever is in a flag node counts, if only as a stop.
func parse(data []byte) (metadata.ShadowFlag, error) { return metadata.ParseShadowFlag(data), nil }

// read takes what a flag node says.
func (g *Groups) read(path string, f *flag, u metadata.Update[metadata.ShadowFlag]) {
	g.mu.Lock()
	f.problem = u.Value.Problem
	switch {
	case u.Err != nil: // deleted, not readable, of another ensemble
		f.session = 0
		if !errors.Is(u.Err, errs.ErrNotFound) {
			f.problem = u.Err.Error()
		}
	case u.Stale: // what was read stays until the session is lost
	default:
		f.session = 0
		if u.Value.Enabled {
			f.session = u.Node.Session
		}
		if u.Value.Problem != "" {
			g.cfg.Log.Warn("a shadow flag can not be read and counts as off", zap.String("path", path), zap.String("problem", u.Value.Problem))
		}
		if u.Node.NumChildren > 0 {
			g.cfg.Log.Debug("nodes below a shadow flag are ignored", zap.String("path", path))
		}
	}
	g.mu.Unlock()
	g.apply()
}

// enabled are the tasks that enable each group that has a flag. g.mu is held.
func (g *Groups) enabled() map[string][]string {
	on := map[string][]string{}
	session := g.cfg.Store.Session().ID
	for name, t := range g.tasks {
		for group, f := range t.flags {
			tasks := on[group]
			if f.session != 0 && f.session == session {
				tasks = append(tasks, name)
			}
			on[group] = tasks
		}
	}
	for _, tasks := range on {
		slices.Sort(tasks)
	}
	return on
}

// apply tells every runner what is wanted of it.
func (g *Groups) apply() {
	g.mu.Lock()
	on := g.enabled()
	for group, r := range g.runners {
		r.want(on[group])
	}
	g.mu.Unlock()
	g.report()
}

// report tells what there is to be said.
func (g *Groups) report() {
	g.telling.Lock()
	defer g.telling.Unlock()
	g.mu.Lock()
	reports := map[string]metadata.ShadowReport{}
	for group, tasks := range g.enabled() {
		reports[group] = metadata.ShadowReport{State: metadata.ShadowIgnored, Tasks: tasks}
	}
	problems := map[string]string{}
	for name, t := range g.tasks {
		for group, f := range t.flags {
			if f.problem != "" {
				problems[group] = "task " + name + ": " + f.problem // one of them is enough to look there
			}
		}
	}
	runners := maps.Clone(g.runners)
	g.mu.Unlock()
	for group, r := range runners {
		said, flagged := r.said(), reports[group].State != ""
		if flagged || said.State != metadata.ShadowStopped {
			said.Tasks = reports[group].Tasks
			if said.State == metadata.ShadowStopped {
				said.Reason = problems[group]
			}
			reports[group] = said
		}
	}
	g.cfg.Report(reports)
}

// Subscribed says that the application subscribes group from now on: its shadow group runs while a task enables it. start begins
// to consume as the shadow group; it is called one at a time, and again when it failed or the group was stopped. end stops
// the shadow group, waits until it has stopped, and forgets it; when ctx ends first it returns ctx's error, and may be called
// again.
func (g *Groups) Subscribed(group string, start func(ctx context.Context) (Running, error)) (end func(ctx context.Context) error) {
	r := newRunner(g, group, start)
	g.mu.Lock()
	g.runners[group] = r
	g.mu.Unlock()
	go r.run()
	g.apply()
	return func(ctx context.Context) error {
		if err := r.end(ctx); err != nil {
			return err
		}
		g.mu.Lock()
		if g.runners[group] == r {
			delete(g.runners, group)
		}
		g.mu.Unlock()
		g.report()
		return nil
	}
}

// Close ends the following of the flags. Subscribed groups must have been ended. Idempotent.
func (g *Groups) Close() {
	g.mu.Lock()
	if g.isClosed {
		g.mu.Unlock()
		return
	}
	g.isClosed = true
	if g.lost != nil {
		g.lost.Stop()
		g.lost = nil
	}
	g.mu.Unlock()
	for _, stop := range g.stops {
		stop()
	}
	g.haveTasks(nil)
	g.closing.Wait()
}
