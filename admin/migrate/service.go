package migrate

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/turnout-mq/turnout/admin/store"
	"github.com/turnout-mq/turnout/broker"
	"github.com/turnout-mq/turnout/internal/clusters"
	"github.com/turnout-mq/turnout/internal/errs"
	"github.com/turnout-mq/turnout/internal/lag"
	"github.com/turnout-mq/turnout/metadata"
)

// NotReadyError says why a migration can not begin. It is errs.ErrConflict, or errs.ErrUnknownTopic where that is why.
type NotReadyError struct{ Plan Plan }

// Error names every finding that blocks.
func (e *NotReadyError) Error() string {
	var all []string
	for _, f := range e.Plan.Blocking() {
		text := f.Text
		if f.Remedy != "" {
			text += " (" + f.Remedy + ")"
		}
		if f.Level == Warning {
			text += " [--accept " + f.Code + "]"
		}
		all = append(all, text)
	}
	return fmt.Sprintf("topic %s can not be moved to %s now: %s", e.Plan.Topic, e.Plan.To, strings.Join(all, "; "))
}

// Unwrap tells what kind of error it is.
func (e *NotReadyError) Unwrap() error {
	for _, f := range e.Plan.Findings {
		switch f.Code {
		case UnknownTopic:
			return errs.ErrUnknownTopic
		case UnknownCluster:
			return errs.ErrNotFound
		case BadRequest:
			return errs.ErrInvalid
		}
	}
	return errs.ErrConflict
}

func openOf(topic string) store.Filter { return store.Filter{Topic: topic, Open: true, Limit: 1} }

// replaceable: a settle only waits for groups to read; a move takes over what it is at.
func replaceable(m *store.Migration) bool {
	return m.Kind == store.Settle && (m.State == string(Draining) || m.State == string(Sealing))
}

// Approval decides whether a migration that somebody wants to start may begin at once, and who says so. "" means that it
// waits in the state planned until somebody approves it.
type Approval func(ctx context.Context, plan Plan, startedBy string) (approvedBy string, err error)

// StarterApproves lets everybody start a migration; who did is recorded.
func StarterApproves(_ context.Context, _ Plan, startedBy string) (string, error) {
	return startedBy, nil
}

// Start begins a migration, after a new preflight. It returns when it is stored; who leads carries it out. A plan that was
// looked at before may be given whole: participants that have vanished since then are found. *NotReadyError: something
// blocks it.
func (c *Controller) Start(ctx context.Context, plan Plan, startedBy string, approve Approval) (*store.Migration, error) {
	if startedBy == "" {
		return nil, fmt.Errorf("%w: who starts the migration is not said", errs.ErrInvalid)
	}
	plan, err := c.Preflight(ctx, plan)
	if err != nil {
		return nil, err
	}
	if len(plan.Blocking()) > 0 {
		return nil, &NotReadyError{plan}
	}
	approvedBy, err := approve(ctx, plan, startedBy)
	if err != nil {
		return nil, err
	}
	for taken := ""; ; {
		m, over, err := c.prepare(ctx, &plan, startedBy, approvedBy)
		if err != nil {
			return nil, err
		}
		err = c.db.CreateMigration(ctx, m.Migration, store.Changes{Events: []store.Event{event("state", map[string]any{"to": Planned, "by": startedBy}, "planned by %s", startedBy)}}, over...)
		if err == nil {
			c.Kick()
			return m.Migration, nil
		}
		// Who works on what is taken over may have written it meanwhile; another migration was not looked at.
		if len(over) == 0 || taken != "" && taken != over[0].Migration.ID || !errors.Is(err, errs.ErrConflict) || ctx.Err() != nil {
			return nil, err
		}
		taken = over[0].Migration.ID
	}
}

// prepare makes the row of a new move, and the end of what it takes over from.
func (c *Controller) prepare(ctx context.Context, plan *Plan, startedBy, approvedBy string) (*migration, []store.Ending, error) {
	now, err := c.look(ctx, plan.Topic)
	if err != nil {
		return nil, nil, err
	}
	if now.Route == nil || plan.leaves(now.Route) == plan.To {
		return nil, nil, fmt.Errorf("%w: the topic was edited in this moment; try again", errs.ErrConflict)
	}
	m := begin(*plan, now)
	m.StartedBy, m.ApprovedBy = startedBy, approvedBy
	if plan.Canary != nil && plan.Ordered {
		m.data.Canary.Next, m.data.Canary.NextBy = plan.Canary, startedBy
	}
	if approvedBy != "" {
		at := time.Now().UTC()
		m.ApprovedAt = &at
	}
	over, err := c.supersede(ctx, plan, m, startedBy)
	if err != nil {
		return nil, nil, err
	}
	return m, over, m.encode()
}

// begin is the row of a new move.
func begin(plan Plan, now *scene) *migration {
	route := now.Route
	d := data{Home: route.Write, Wish: metadata.WishRef{Czxid: now.WishNode.Czxid, Version: now.WishNode.Version}, Entered: time.Now().UTC(),
		Target: target{Cluster: plan.To, Physical: now.Settings.Physical(plan.Topic, plan.To)}}
	for _, s := range route.Stays {
		switch {
		case s.Cluster == plan.To:
			if s.Open() {
				d.Target.Listed = true
			}
		case d.source(s.Cluster) == nil:
			d.Sources = append(d.Sources, source{Cluster: s.Cluster, Physical: now.Settings.Physical(plan.Topic, s.Cluster)})
		}
	}
	if plan.Canary != nil {
		d.Canary = &canary{}
	}
	m := &migration{Migration: &store.Migration{Topic: plan.Topic, Target: plan.To, Kind: store.Move, Ordered: plan.Ordered, State: string(Planned)}, plan: plan, data: d}
	m.giveUp()
	return m
}

// supersede is the end of what a plan takes over from. next is told what that has given up: nobody else would say that it is lost.
func (c *Controller) supersede(ctx context.Context, plan *Plan, next *migration, by string) ([]store.Ending, error) {
	open, err := c.db.Migrations(ctx, openOf(plan.Topic))
	if err != nil || len(open) == 0 || !plan.overtakes(open[0]) {
		return nil, err
	}
	m, err := decode(open[0])
	if err != nil {
		return nil, err
	}
	for _, s := range slices.Concat(m.data.Passed, m.data.Sources) {
		if s.Lost != nil && s.Cluster != next.Target && next.data.source(s.Cluster) == nil {
			next.data.Passed = append(next.data.Passed, s)
		}
	}
	at := time.Now().UTC()
	if m.Kind == store.Move {
		m.data.TakenOver = by
	}
	m.over(Done, "taken over by "+by, at)
	m.State, m.Outcome, m.EndedAt, m.Waiting = string(Done), store.Aborted, &at, ""
	if err := m.encode(); err != nil {
		return nil, err
	}
	proof := m.proof()
	proof.judge()
	receipt, err := proof.store()
	if err != nil {
		return nil, err
	}
	return []store.Ending{{Migration: m.Migration, Changes: store.Changes{Receipt: receipt, Events: []store.Event{event("state", nil, "a move that %s starts takes over what is not finished", by)}}}}, nil
}

// Get reads a migration; errs.ErrNotFound.
func (c *Controller) Get(ctx context.Context, id string) (*store.Migration, error) {
	return c.db.Migration(ctx, id)
}

// List reads migrations, the newest first.
func (c *Controller) List(ctx context.Context, f store.Filter) ([]*store.Migration, error) {
	return c.db.Migrations(ctx, f)
}

// Events reads what has happened in a migration after the event with that number.
func (c *Controller) Events(ctx context.Context, id string, after int64, limit int) ([]store.Event, error) {
	return c.db.Events(ctx, id, after, limit)
}

// Receipt reads the receipt of an ended migration; errs.ErrNotFound: it has not ended.
func (c *Controller) Receipt(ctx context.Context, id string) (*Receipt, error) {
	row, err := c.db.Receipt(ctx, id)
	if err != nil {
		return nil, err
	}
	r := &Receipt{}
	return r, json.Unmarshal(row.Doc, r)
}

// Approve lets a migration begin that waits for it; errs.ErrConflict: it has begun or ended.
func (c *Controller) Approve(ctx context.Context, id, who string) error {
	m, err := c.migration(ctx, id)
	if err != nil {
		return err
	}
	if m.state() != Planned {
		return fmt.Errorf("%w: migration %s is in state %s and waits for no approval", errs.ErrConflict, id, m.State)
	}
	at := time.Now().UTC()
	m.ApprovedBy, m.ApprovedAt = who, &at
	return c.ask(func() error {
		return c.db.Update(ctx, m.Migration, store.Changes{Events: []store.Event{event("approved", map[string]any{"by": who}, "approved by %s", who)}})
	})
}

// Rollback asks for the way back; errs.ErrConflict: it has ended.
func (c *Controller) Rollback(ctx context.Context, id, who string) error {
	return c.ask(func() error { return c.db.Ask(ctx, id, store.Rollback, who) })
}

// Abort asks to stop while nothing has gone to the target; errs.ErrConflict: it has ended.
func (c *Controller) Abort(ctx context.Context, id, who string) error {
	return c.ask(func() error { return c.db.Ask(ctx, id, store.Abort, who) })
}

// Pause makes a migration stay in its state; what is fenced stays so.
func (c *Controller) Pause(ctx context.Context, id, who string) error {
	return c.ask(func() error { return c.db.Pause(ctx, id, who) })
}

// Resume lets a paused migration go on, and accepts further warnings, such as a group that fell asleep meanwhile.
func (c *Controller) Resume(ctx context.Context, id, who string, accept ...string) error {
	return c.ask(func() error {
		if len(accept) > 0 {
			if err := c.accept(ctx, id, who, accept); err != nil {
				return err
			}
		}
		return c.db.Resume(ctx, id, who)
	})
}

// accept adds to what the plan accepts. Who sleeps now counts as asleep then.
func (c *Controller) accept(ctx context.Context, id, who string, accept []string) error {
	lost := slices.Contains(accept, SourceLost)
	warned := slices.DeleteFunc(slices.Clone(accept), func(code string) bool { return code == SourceLost })
	if err := checkAccept(warned); err != nil {
		return err
	}
	for {
		m, err := c.migration(ctx, id)
		if err != nil {
			return err
		}
		if m.EndedAt != nil {
			return fmt.Errorf("%w: migration %s has ended", errs.ErrConflict, id)
		}
		events := []store.Event{event("accepted", map[string]any{"by": who, "accept": accept}, "%s accepts %s", who, strings.Join(accept, ", "))}
		if lost {
			said, err := c.lose(ctx, m)
			if err != nil {
				return err
			}
			events = append(events, said...)
		}
		now, err := c.lookAtAll(ctx, m.Topic)
		if err != nil {
			return err
		}
		m.plan.Accept = append(m.plan.Accept, warned...)
		m.plan.Sleeping = nil
		for _, g := range now.groups {
			if !now.live(g.Name) {
				m.plan.Sleeping = append(m.plan.Sleeping, g.Name)
			}
		}
		if err := m.encode(); err != nil {
			return err
		}
		err = c.db.Update(ctx, m.Migration, store.Changes{Events: events})
		if !errors.Is(err, errs.ErrConflict) {
			return err
		}
	}
}

func (c *Controller) ask(f func() error) error {
	err := f()
	if err == nil {
		c.Kick()
	}
	return err
}

// Live is what a migration looks like now.
type Live struct {
	Migration    *store.Migration  `json:"migration"`
	At           time.Time         `json:"at"`
	Participants []LiveParticipant `json:"participants"`
	Clusters     []LiveCluster     `json:"clusters"`
	Guards       []Guard           `json:"guards,omitempty"`
	Breaches     []Breach          `json:"breaches,omitempty"` // of guards, those that are not over
	Canary       *LiveCanary       `json:"canary,omitempty"`
}

// LiveCanary is the part of the sends that goes to the target, as the instances say.
type LiveCanary struct {
	Part    string `json:"part"`
	Cluster string `json:"cluster"`
	// Instances of Of that send, send to Cluster: everything, or what is in the range of keys.
	Instances int `json:"instances"`
	Of        int `json:"of"`
}

// LiveParticipant is one process that uses the topic.
type LiveParticipant struct {
	ID       string           `json:"id"`
	Acked    bool             `json:"acked"` // it has applied the route that is in force
	Write    string           `json:"write"`
	Held     bool             `json:"held"`
	Inflight map[string]int64 `json:"inflight,omitempty"`
	Error    string           `json:"error,omitempty"`
}

// LiveCluster is one cluster of the route.
type LiveCluster struct {
	Cluster string `json:"cluster"`
	Write   bool   `json:"write"`
	Fenced  bool   `json:"fenced"`
	Sealed  bool   `json:"sealed"`
	// Stored sums the end offsets: the difference between two looks is what was sent.
	Stored int64            `json:"stored"`
	Lag    map[string]int64 `json:"lag"` // by group
	// Sends are what the participants say of their sends to it lately; nil: none has sent to it.
	Sends *metadata.Sends `json:"sends,omitempty"`
	Error string          `json:"error,omitempty"`
}

// Live looks at the topic of a migration.
func (c *Controller) Live(ctx context.Context, id string) (*Live, error) {
	row, err := c.db.Migration(ctx, id)
	if err != nil {
		return nil, err
	}
	now, err := c.lookAtAll(ctx, row.Topic)
	if err != nil {
		return nil, err
	}
	m, err := decode(row)
	if err != nil {
		return nil, err
	}
	l := &Live{Migration: row, At: time.Now().UTC(), Guards: m.plan.Guards}
	for _, b := range m.data.Breaches {
		if b.Over == nil {
			l.Breaches = append(l.Breaches, b)
		}
	}
	for _, p := range now.participants {
		lp := LiveParticipant{ID: p.ID, Acked: p.Err == nil && p.Participant.Zxid >= now.RouteNode.Mzxid, Write: p.Write, Held: p.Held, Inflight: p.Inflight, Error: p.Error}
		if p.Err != nil {
			lp.Error = p.Err.Error()
		}
		l.Participants = append(l.Participants, lp)
	}
	if now.Route == nil {
		return l, nil
	}
	sends := now.sends()
	if l.Canary, err = liveCanary(row, now); err != nil {
		return nil, err
	}
	names := now.Route.Clusters()
	l.Clusters = make([]LiveCluster, len(names))
	var all sync.WaitGroup // at once: one that does not answer takes the time of no other
	for i, name := range names {
		lc := &l.Clusters[i]
		*lc = LiveCluster{Cluster: name, Write: name == now.Route.Write, Lag: map[string]int64{}}
		if s, sent := sends[name]; sent {
			lc.Sends = &s
		}
		for _, s := range now.Route.Stays {
			lc.Sealed = lc.Sealed || s.Cluster == name && !s.Open()
		}
		all.Go(func() {
			if err := c.liveCluster(ctx, now, lc); err != nil {
				lc.Error = err.Error()
			}
		})
	}
	all.Wait()
	return l, nil
}

func (c *Controller) liveCluster(ctx context.Context, now *scene, lc *LiveCluster) error {
	ctx, cancel := context.WithTimeout(ctx, answerLimit)
	defer cancel()
	physical := now.Settings.Physical(now.Name, lc.Cluster)
	return c.on(ctx, lc.Cluster, func(conn *clusters.Conn) error {
		info, err := conn.DescribeTopic(ctx, physical)
		if err != nil {
			return err
		}
		lc.Fenced = info.Fenced
		for _, g := range now.groups {
			l, err := lag.Of(ctx, conn, physical, g.Physical(now.Name), g.StartOn(now.Route, now.Name, lc.Cluster), nil)
			if err != nil {
				return err
			}
			lc.Lag[g.Name] = l.Unread + l.Beside()
		}
		end, err := ends(ctx, conn, physical, nil)
		lc.Stored = broker.Offsets{}.Missing(end)
		return err
	})
}
