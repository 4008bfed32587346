package scene

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/turnout-mq/turnout/admin/coord"
	"github.com/turnout-mq/turnout/admin/migrate"
	"github.com/turnout-mq/turnout/admin/store"
	"github.com/turnout-mq/turnout/broker"
	"github.com/turnout-mq/turnout/broker/drivers"
	"github.com/turnout-mq/turnout/internal/clusters"
	"github.com/turnout-mq/turnout/metadata"
	"github.com/turnout-mq/turnout/testenv/history"
)

// campaignPause is how long a controller waits after a term of leading before it lines up again.
const campaignPause = 100 * time.Millisecond

// control leads as a server of the platform does, and runs the controller of migrations while it leads.
func control(ctx context.Context, spec Spec, rec *history.Recorder, g *gate, ready func(), log *zap.Logger) (err error) {
	db, err := store.Open(ctx, spec.Database, log)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	meta, err := metadata.Open(metadata.Config{ZooKeeper: spec.ZooKeeper, Root: spec.Root, SessionTimeout: spec.SessionTimeout, Recheck: spec.NodeRecheck, Logger: log})
	if err != nil {
		return err
	}
	closing := func(end func(context.Context) error) {
		limit, cancel := context.WithTimeout(context.WithoutCancel(ctx), spec.CloseLimit)
		defer cancel()
		err = errors.Join(err, end(limit))
	}
	defer closing(meta.Close)
	pool := clusters.NewPool(meta, drivers.Open, "turnout-"+spec.Name, time.Second, log)
	defer closing(pool.Close)
	job, err := coord.NewJob(meta, "controller", metadata.NewInstanceID(), log)
	if err != nil {
		return err
	}
	s := &scribe{rec: rec, meta: meta, routes: map[string]*metadata.Follower{}}
	defer s.close()
	off := map[string]bool{}
	for _, rule := range spec.Off {
		off[rule] = true
	}
	c := migrate.New(db, meta, pool, log, migrate.Options{FenceCheck: spec.FenceCheck, Off: off, Entered: func(ctx context.Context, m *store.Migration) {
		log.Info("entered", zap.String("migration", m.ID), zap.String("state", m.State))
		s.write(m)
		g.pass(ctx, m.State)
	}})
	err = job.Campaign(ctx, campaignPause, func(ctx context.Context, lead *coord.Held) error {
		ready()
		return c.Run(ctx, lead.Guard())
	})
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// scribe records what is done to topics. Two controllers may record the same: a fence or a seal that is recorded again says
// nothing new.
type scribe struct {
	rec  *history.Recorder
	meta *metadata.Store

	mu     sync.Mutex
	routes map[string]*metadata.Follower // by topic
}

// facts is what is recorded of a migration's data.
type facts struct {
	Target struct {
		Cluster string         `json:"cluster"`
		Start   broker.Offsets `json:"start"`
	} `json:"target"`
	Sources []struct {
		Cluster string         `json:"cluster"`
		Fenced  *time.Time     `json:"fenced"`
		Sealed  *time.Time     `json:"sealed"`
		Seal    broker.Offsets `json:"seal"`
	} `json:"sources"`
}

// write records that a state was entered, and before that what the states before it did: they can not be left without it.
// That a cluster takes writers again is recorded before it does.
func (s *scribe) write(m *store.Migration) {
	s.follow(m.Topic)
	var f facts
	if err := json.Unmarshal(m.Data, &f); err != nil {
		panic("the controller has written it: " + err.Error())
	}
	switch state := migrate.State(m.State); state {
	case migrate.Canarying, migrate.Fencing, migrate.Switching:
		s.rec.Open(m.Topic, f.Target.Cluster, f.Target.Start)
	case migrate.Reverting:
		for _, src := range f.Sources {
			s.rec.Open(m.Topic, src.Cluster, nil)
		}
	default:
	}
	switch migrate.State(m.State) {
	case migrate.Switching, migrate.Draining, migrate.Closing:
		for _, src := range f.Sources {
			if src.Sealed != nil {
				s.rec.Fence(m.Topic, src.Cluster)
				s.rec.Seal(m.Topic, src.Cluster, src.Seal)
			}
		}
	default:
	}
	s.rec.Move(m.Topic, m.ID, m.State)
}

// follow records the routes of a topic from now on.
func (s *scribe) follow(topic string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.routes[topic] != nil {
		return
	}
	s.routes[topic] = metadata.Follow(s.meta, s.meta.RoutePath(topic), metadata.ParseRoute, func(u metadata.Update[metadata.Route]) {
		if u.Known {
			s.rec.Route(topic, u.Node.Mzxid.String(), u.Value.Write)
		}
	})
}

func (s *scribe) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, f := range s.routes {
		f.Close()
	}
}

// gate is where a controller waits, in the states that it was told to, until it is told to go on.
type gate struct {
	say io.Writer // who tells it

	mu   sync.Mutex
	at   map[string]bool
	open chan struct{} // closed when it is told to go on
}

func newGate(say io.Writer, states []string) *gate {
	g := &gate{say: say, open: make(chan struct{})}
	g.goOn(states)
	return g
}

// goOn lets it go on, and wait in these states and no others from now on.
func (g *gate) goOn(states []string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.at = map[string]bool{}
	for _, state := range states {
		g.at[state] = true
	}
	close(g.open)
	g.open = make(chan struct{})
}

func (g *gate) pass(ctx context.Context, state string) {
	g.mu.Lock()
	wait, open := g.at[state], g.open
	g.mu.Unlock()
	if !wait {
		return
	}
	fmt.Fprintf(g.say, "%s%s\n", holdsPrefix, state)
	select {
	case <-open:
	case <-ctx.Done():
	}
}
