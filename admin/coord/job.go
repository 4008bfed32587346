package coord

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"time"

	"go.uber.org/zap"

	"github.com/turnout-mq/turnout/internal/errs"
	"github.com/turnout-mq/turnout/metadata"
)

// Job is something that the servers of the platform do together, one of them leading: "controller", "monitor",
// "reconcile". Its methods may be called concurrently.
type Job struct {
	store    *metadata.Store
	log      *zap.Logger
	name     string
	instance string
	path     string
}

// NewJob makes the view that one instance has of a job. instance is metadata.NewInstanceID(), one for the process. log may be
// nil. ErrInvalid: not a name, or not the id of an instance.
func NewJob(s *metadata.Store, job, instance string, log *zap.Logger) (*Job, error) {
	if err := metadata.CheckName("job", job); err != nil {
		return nil, err
	}
	if parts := strings.Split(instance, separator); len(parts) != 3 || parts[0] == "" || parts[1] == "" || parts[2] == "" || strings.Contains(instance, "/") {
		return nil, fmt.Errorf("%w: instance %q of job %s: must be like 10.0.0.7@-@4711@-@0, as metadata.NewInstanceID makes it", errs.ErrInvalid, instance, job)
	}
	if log == nil {
		log = zap.NewNop()
	}
	return &Job{store: s, log: log.With(zap.String("job", job)), name: job, instance: instance, path: s.Root + "/jobs/" + job}, nil
}

// separator stands between ip, pid and number in an instance's id.
const separator = "@-@"

func (j *Job) line() line {
	return line{j.store, "lead of job " + j.name, j.path + "/leader/election/latch"}
}

func (j *Job) leaderPath() string { return j.path + "/leader/election/instance" }

func (j *Job) instancesPath() string { return j.path + "/instances" }

func (j *Job) serversPath() string { return j.path + "/servers" }

// Lead waits until this instance leads the job, runs fn, gives the lead up when fn returns, and returns fn's error. fn's ctx ends
// with ctx and when the lead may be gone: its session has ended, its node was deleted, or ZooKeeper did not answer for
// half the session timeout; context.Cause of it and Lead's error then say which, with ErrLost. fn should return soon after
// that: this instance does not line up again before it has.
//
// ctx's error if it ended before fn was run. ErrNotAllowed; ErrClosed: the Store was closed.
func (j *Job) Lead(ctx context.Context, fn func(ctx context.Context, lead *Held) error) error {
	_, err := j.lead(ctx, fn)
	return err
}

// Campaign leads again and again: after each term it waits for about pause, so that a failing fn is no load and others get
// their turn, and lines up anew, whatever fn returned (errors are logged). It returns when ctx ends, with its error, or
// when this instance can not lead: ErrNotAllowed, ErrClosed. pause must be more than 0 (ErrInvalid).
func (j *Job) Campaign(ctx context.Context, pause time.Duration, fn func(ctx context.Context, lead *Held) error) error {
	if pause <= 0 {
		return fmt.Errorf("%w: job %s: pause %v: must be more than 0", errs.ErrInvalid, j.name, pause)
	}
	for {
		served, err := j.lead(ctx, fn)
		switch {
		case ctx.Err() != nil:
			return fmt.Errorf("lead of job %s: %w", j.name, context.Cause(ctx))
		case !served:
			return err
		case err != nil:
			j.log.Warn("a term as leader has ended; lining up again", zap.Error(err))
		}
		timer := time.NewTimer(pause/2 + rand.N(pause)) //nolint:gosec // jitter
		select {
		case <-timer.C:
		case <-ctx.Done():
		}
		timer.Stop()
	}
}

// lead is one term. served is false when it could not begin for a reason that stays.
func (j *Job) lead(ctx context.Context, fn func(context.Context, *Held) error) (served bool, err error) {
	held, err := j.line().wait(ctx)
	if err != nil {
		return false, err
	}
	held.also = []string{j.leaderPath()}
	defer resign(ctx, held, j.log)
	term, cancel := held.within(ctx)
	defer cancel()
	err = j.store.Announce(term, j.leaderPath(), []byte(j.instance), held.node)
	switch {
	case err == nil:
		j.log.Info("leading", zap.String("instance", j.instance), zap.Stringer("term", held.Token()))
		served, err = true, fn(term, held)
	case errors.Is(err, errs.ErrNotFound):
		return true, held.lost(err)
	}
	if lost := held.Err(); lost != nil && !errors.Is(err, lost) {
		return true, errors.Join(lost, err)
	}
	return served, err
}

// Leader is the id of the instance that leads now, "" when none does. It is a hint: by the time it is read another one may.
func (j *Job) Leader(ctx context.Context) (string, error) {
	n, err := j.store.Read(ctx, j.leaderPath())
	return string(n.Data), err
}

// Member is an instance that takes part in a job.
type Member struct {
	ID string
	metadata.Instance
}

// Members are the instances that take part in the job now, by id. It is read after a sync.
func (j *Job) Members(ctx context.Context) ([]Member, error) {
	if err := j.store.Sync(ctx, j.path); err != nil {
		return nil, err
	}
	ids, err := j.store.Children(ctx, j.instancesPath())
	if err != nil && !errors.Is(err, errs.ErrNotFound) {
		return nil, err
	}
	var members []Member
	for _, id := range ids {
		n, err := j.store.Read(ctx, j.instancesPath()+"/"+id)
		if err != nil {
			return nil, err
		}
		if !n.Exists {
			continue
		}
		about, err := metadata.ParseInstance(n.Data)
		if err != nil {
			return nil, fmt.Errorf("member %s of job %s: %w", id, j.name, err)
		}
		members = append(members, Member{id, about})
	}
	return members, nil
}

// Membership is the part that this instance takes in a job.
type Membership struct {
	cancel context.CancelFunc
	done   chan struct{}
	node   *metadata.Registration
}

// Join makes this instance a member until Close, also in the sessions that follow this one. It waits for ZooKeeper; ctx's
// error, ErrNotAllowed, ErrClosed.
func (j *Job) Join(ctx context.Context, about metadata.Instance) (*Membership, error) {
	doc, err := json.Marshal(about)
	if err != nil {
		return nil, fmt.Errorf("%w: member of job %s: %w", errs.ErrInvalid, j.name, err)
	}
	if _, err := metadata.ParseInstance(doc); err != nil {
		return nil, fmt.Errorf("member of job %s: %w", j.name, err)
	}
	ip, _, _ := strings.Cut(j.instance, separator)
	server := j.serversPath() + "/" + ip
	for {
		err := j.store.Create(ctx, server, nil)
		if err == nil || errors.Is(err, errs.ErrConflict) {
			break
		}
		if !errors.Is(err, errs.ErrTimeout) {
			return nil, fmt.Errorf("join job %s: %w", j.name, err)
		}
	}
	m := &Membership{done: make(chan struct{}), node: j.store.Register(j.instancesPath() + "/" + j.instance)}
	if _, err := m.node.Ensure(ctx, doc); err != nil {
		// Whatever of it was done goes on in the background no longer than this.
		leaving, cancel := context.WithTimeout(context.WithoutCancel(ctx), farewell)
		defer cancel()
		return nil, errors.Join(fmt.Errorf("join job %s: %w", j.name, err), m.node.Close(leaving))
	}
	keeping, cancel := context.WithCancel(context.WithoutCancel(ctx))
	m.cancel = cancel
	changed := make(chan struct{}, 1)
	stop := j.store.OnSession(func(metadata.Session) {
		select {
		case changed <- struct{}{}:
		default:
		}
	})
	go func() {
		defer close(m.done)
		defer stop()
		look := time.NewTicker(metadata.DefaultRecheck) // somebody may have deleted the node
		defer look.Stop()
		for {
			select {
			case <-changed:
			case <-look.C:
			case <-keeping.Done():
				return
			}
			_, err := m.node.Ensure(keeping, doc)
			switch {
			case err == nil || keeping.Err() != nil:
			case errors.Is(err, errs.ErrClosed):
				return
			default:
				j.log.Warn("this instance is not seen as a member of the job; trying again", zap.Error(err))
			}
		}
	}()
	return m, nil
}

// Close ends the membership. When ctx ends first the node goes with the session. Idempotent.
func (m *Membership) Close(ctx context.Context) error {
	m.cancel()
	<-m.done
	return m.node.Close(ctx)
}

// Servers are the addresses of the machines that ever took part in the job.
func (j *Job) Servers(ctx context.Context) ([]string, error) {
	ips, err := j.store.Children(ctx, j.serversPath())
	if errors.Is(err, errs.ErrNotFound) {
		return nil, nil
	}
	return ips, err
}
