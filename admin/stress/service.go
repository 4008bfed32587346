package stress

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/turnout-mq/turnout/admin/coord"
	"github.com/turnout-mq/turnout/admin/fleet"
	"github.com/turnout-mq/turnout/admin/people"
	"github.com/turnout-mq/turnout/admin/requests"
	"github.com/turnout-mq/turnout/admin/store"
	"github.com/turnout-mq/turnout/internal/clusters"
	"github.com/turnout-mq/turnout/internal/errs"
	"github.com/turnout-mq/turnout/internal/shadowack"
	"github.com/turnout-mq/turnout/metadata"
)

// Job is the name of the job in ZooKeeper whose leader watches the tasks.
const Job = "stress"

// Looker asks clusters how far a group of production is; a fleet.Service is one.
type Looker interface {
	LookAt(ctx context.Context, group string) (*fleet.Group, error)
}

// Config says what a Service works with.
type Config struct {
	Meta  *metadata.Store
	DB    *store.Store
	Pool  *clusters.Pool
	Fleet Looker
	ID    string // of this server: metadata.NewInstanceID()
	// Every is the time from one look at a task that runs, and its flags, to the next. Default 1 s.
	Every time.Duration
	// GuardEvery is the time from one look of its guards to the next. Default 5 s.
	GuardEvery time.Duration
	// Limit bounds one question to a cluster, and all questions of one look of a guard. Default 10 s.
	Limit time.Duration
	Log   *zap.Logger // nil: none
}

// Service carries out stress tasks. All methods may be called concurrently, whether Run runs or not. Those that change something audit
// it as the actor of ctx (store.WithActor). Errors: ErrInvalid, ErrNotFound, ErrNotAllowed (permission, ownership), ErrConflict
// (another version, or a state in which it is not possible).
type Service struct {
	cfg  Config
	meta *metadata.Store
	db   *store.Store
	pool *clusters.Pool
	log  *zap.Logger
	job  *coord.Job

	mu   sync.Mutex
	wake chan struct{} // closed and replaced: look at once
}

// New makes a Service; nothing is begun. ErrInvalid names the field.
func New(cfg Config) (*Service, error) {
	cfg.Every, cfg.GuardEvery, cfg.Limit = cmp.Or(cfg.Every, time.Second), cmp.Or(cfg.GuardEvery, 5*time.Second), cmp.Or(cfg.Limit, 10*time.Second)
	if cfg.Log == nil {
		cfg.Log = zap.NewNop()
	}
	if cfg.Meta == nil || cfg.DB == nil || cfg.Pool == nil || cfg.Fleet == nil {
		return nil, fmt.Errorf("%w: stress.Config: Meta, DB, Pool, Fleet: must be given", errs.ErrInvalid)
	}
	if cfg.Every < 0 || cfg.GuardEvery < 0 || cfg.Limit < 0 {
		return nil, fmt.Errorf("%w: stress.Config: Every %v, GuardEvery %v, Limit %v: must be more than 0", errs.ErrInvalid, cfg.Every, cfg.GuardEvery, cfg.Limit)
	}
	log := cfg.Log.Named("stress")
	job, err := coord.NewJob(cfg.Meta, Job, cfg.ID, log)
	if err != nil {
		return nil, err
	}
	return &Service{cfg: cfg, meta: cfg.Meta, db: cfg.DB, pool: cfg.Pool, log: log, job: job, wake: make(chan struct{})}, nil
}

// List returns the tasks that fit, the newest first.
func (s *Service) List(ctx context.Context, f store.StressFilter) ([]*store.StressTask, error) {
	return s.db.StressTasks(ctx, f)
}

// History reads what has happened to a task, after the event with that number.
func (s *Service) History(ctx context.Context, id string, after int64, limit int) ([]store.StressEvent, error) {
	return s.db.StressEvents(ctx, id, after, limit)
}

// Get is a task with what its flags and the running instances say now.
func (s *Service) Get(ctx context.Context, id string) (*TaskView, error) {
	t, err := s.db.StressTask(ctx, id)
	if err != nil {
		return nil, err
	}
	v := &TaskView{StressTask: t, Groups: []GroupView{}, Pending: []string{}}
	if t.State == store.StressRemoved {
		return v, nil
	}
	for _, app := range t.Apps {
		if err := s.viewApp(ctx, v, app); err != nil {
			return nil, err
		}
	}
	return v, nil
}

// viewApp adds the groups of an application.
func (s *Service) viewApp(ctx context.Context, v *TaskView, app string) error {
	if err := s.meta.Sync(ctx, s.meta.ShadowRoot); err != nil {
		return err
	}
	flags, err := s.meta.ListShadowFlags(ctx, app)
	if err != nil {
		return err
	}
	instances, err := s.meta.ListInstances(ctx, app)
	if err != nil {
		return err
	}
	for _, f := range v.Flags {
		if f.App != app {
			continue
		}
		g := GroupView{Group: f.Group, App: app, Flag: s.meta.ShadowPath(app, v.Name, f.Group), Others: []string{}}
		unflagged := s.meta.ShadowRoot + "/" + app
		for _, is := range flags {
			if is.Group != f.Group {
				continue
			}
			unflagged = ""
			switch {
			case is.Task == v.Name:
				g.Exists, g.Enabled, g.Problem = true, is.Enabled, is.Problem
			case is.Enabled:
				g.Others = append(g.Others, is.Task)
			}
		}
		g.Instances = shadowack.Of(instances, f.Group, unflagged)
		if g.Enabled {
			v.Pending = append(v.Pending, shadowack.NotStarted(instances, f.Group, v.Name)...)
		} else if g.Exists || len(g.Others) == 0 {
			v.Pending = append(v.Pending, shadowack.NotStopped(instances, f.Group, v.Name, len(g.Others) > 0)...)
		}
		v.Groups = append(v.Groups, g)
	}
	return nil
}

// may is nil if who may start, stop and remove a task: who operates the platform, has filed the request, or owns all its applications.
func (s *Service) may(ctx context.Context, who people.Principal, t *store.StressTask) error {
	if who.Can(people.Operate) {
		return nil
	}
	if err := who.Need(people.Apply); err != nil {
		return err
	}
	if who.Name == t.Applicant {
		return nil
	}
	for _, app := range t.Apps {
		owners, err := s.db.Owners(ctx, app)
		if err != nil {
			return err
		}
		if !slices.Contains(owners, who.Name) {
			return fmt.Errorf("%w: %s belongs to %s, and application %s to %s: ask one of them, or somebody with the permission %s",
				errs.ErrNotAllowed, t.ID, t.Applicant, app, cmp.Or(strings.Join(owners, ", "), "nobody"), people.Operate)
		}
	}
	return nil
}

// task reads a task that is at that version, if one is said, and that who may change.
func (s *Service) task(ctx context.Context, who people.Principal, id string, version int64) (*store.StressTask, error) {
	t, err := s.db.StressTask(ctx, id)
	if err != nil {
		return nil, err
	}
	if err := s.may(ctx, who, t); err != nil {
		return nil, err
	}
	if version != 0 && t.Version != version {
		return nil, fmt.Errorf("%w: %s is at version %d (%s) and the change was made of version %d: read it again, decide again", store.ErrChanged, id, t.Version, t.State, version)
	}
	return t, nil
}

// in is ErrConflict if t is in none of the states.
func in(t *store.StressTask, to string, states ...store.StressState) error {
	if slices.Contains(states, t.State) {
		return nil
	}
	return fmt.Errorf("%w: %s is %s and can not be %s", errs.ErrConflict, t.ID, t.State, to)
}

// Start begins a run of a task: its flags are switched on, and its limit begins. version must be that which was read. ErrConflict also: a
// shadow topic is gone, or a guard trips or can not look now. It returns as soon as the flags are written or a moment has passed;
// whether the instances follow is in the TaskView.
func (s *Service) Start(ctx context.Context, who people.Principal, id string, version int64) (*TaskView, error) {
	t, err := s.task(ctx, who, id, version)
	if err != nil {
		return nil, err
	}
	if err := in(t, "started", store.StressReady, store.StressStopped); err != nil {
		return nil, err
	}
	spec, err := requests.ParseStress(t.Spec)
	if err != nil {
		return nil, err
	}
	if err := s.meta.Sync(ctx, s.meta.Root); err != nil {
		return nil, err
	}
	for _, topic := range t.Topics {
		if _, err := s.meta.GetTopic(ctx, topic.ShadowTopic); err != nil {
			if errors.Is(err, errs.ErrUnknownTopic) {
				err = fmt.Errorf("%w: shadow topic %s of %s is gone: create it with turnout shadow topic %s, or remove the task and ask for another", errs.ErrConflict, topic.ShadowTopic, topic.Topic, topic.Topic)
			}
			return nil, err
		}
	}
	if t.Looks, err = s.firstLooks(ctx, spec); err != nil {
		return nil, fmt.Errorf("%s is not started: %w", id, err)
	}
	for i := range t.Flags {
		n, err := s.flag(ctx, t, t.Flags[i])
		if err != nil {
			return nil, err
		}
		t.Flags[i].Change, t.Flags[i].Enabled = changeOf(n), false
	}
	now := time.Now()
	ends := now.Add(time.Duration(spec.LimitSeconds) * time.Second)
	t.State, t.Runs, t.StartedBy, t.StartedAt, t.EndsAt = store.StressStarting, t.Runs+1, who.Name, &now, &ends
	t.StoppedAt, t.Reason, t.Waiting = nil, "", ""
	text := fmt.Sprintf("run %d, until %s at the latest", t.Runs, ends.UTC().Format(time.RFC3339))
	if err := s.db.UpdateStressTask(ctx, t, store.StressChanges{Action: "start", Events: []store.StressEvent{{Kind: "start", Text: text}}}); err != nil {
		return nil, err
	}
	return s.soon(ctx, t.ID)
}

// Stop ends the run of a task: its flags are switched off. It returns like Start. To stop one that is being stopped does nothing.
func (s *Service) Stop(ctx context.Context, who people.Principal, id string) (*TaskView, error) {
	for {
		t, err := s.task(ctx, who, id, 0)
		if err != nil {
			return nil, err
		}
		if t.State != store.StressStopping {
			if err := in(t, "stopped: it does not run", store.StressStarting, store.StressRunning); err != nil {
				return nil, err
			}
			err = s.end(ctx, t, "stopped by "+who.Name)
			if errors.Is(err, errs.ErrConflict) {
				continue // somebody changed it just now: look again
			}
			if err != nil {
				return nil, err
			}
		}
		return s.soon(ctx, id)
	}
}

// Remove removes what was made for a task: its flags, and the shadow topics that were missing when it was made, unless other tasks use
// them; on the clusters too. It waits for those who still use one. version must be that which was read. Its history stays.
func (s *Service) Remove(ctx context.Context, who people.Principal, id string, version int64) (*TaskView, error) {
	t, err := s.task(ctx, who, id, version)
	if err != nil {
		return nil, err
	}
	if err := in(t, "removed: stop it first", store.StressPreparing, store.StressReady, store.StressStopped); err != nil {
		return nil, err
	}
	t.State, t.Waiting = store.StressRemoving, ""
	if err := s.db.UpdateStressTask(ctx, t, store.StressChanges{Action: "remove", Events: []store.StressEvent{{Kind: "remove"}}}); err != nil {
		return nil, err
	}
	return s.soon(ctx, id)
}

// end decides that a run ends; reason is for people. ErrConflict: somebody changed the task.
func (s *Service) end(ctx context.Context, t *store.StressTask, reason string, more ...store.StressEvent) error {
	now := time.Now()
	t.State, t.StoppedAt, t.Reason, t.Waiting = store.StressStopping, &now, reason, ""
	return s.db.UpdateStressTask(ctx, t, store.StressChanges{Action: "stop", Events: append(more, store.StressEvent{Kind: "stop", Text: reason})})
}

// atOnce is how long who has asked for something waits for ZooKeeper; then others go on with it.
const atOnce = 10 * time.Second

// soon carries out what was decided, and tells how far it has come.
func (s *Service) soon(ctx context.Context, id string) (*TaskView, error) {
	doing, cancel := context.WithTimeout(ctx, atOnce)
	defer cancel()
	if err := s.advance(doing, id); err != nil && ctx.Err() == nil {
		s.log.Info("whoever watches the tasks goes on", zap.String("task", id), zap.Error(err))
	}
	s.kick()
	return s.Get(ctx, id)
}

func (s *Service) kick() {
	s.mu.Lock()
	defer s.mu.Unlock()
	close(s.wake)
	s.wake = make(chan struct{})
}

func (s *Service) kicked() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.wake
}
