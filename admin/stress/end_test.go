package stress_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/turnout-mq/turnout"
	"github.com/turnout-mq/turnout/admin/requests"
	"github.com/turnout-mq/turnout/admin/store"
	"github.com/turnout-mq/turnout/internal/errs"
	"github.com/turnout-mq/turnout/metadata"
)

func limit(seconds int64) func(*requests.StressSpec) {
	return func(spec *requests.StressSpec) { spec.LimitSeconds = seconds }
}

// expire lets the time of a task be over.
func (s *stage) expire(p *platform, id string) {
	s.Helper()
	v := s.get(p, id)
	now := time.Now()
	v.EndsAt = &now
	require.NoError(s, s.db.UpdateStressTask(s.Context(), v.StressTask, store.StressChanges{}))
}

// A task ends by itself when its time is over.
func TestLimit(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	p := s.server()
	v := s.prepared(p, s.spec(limit(1)))
	s.run(p.Run)
	s.start(p, v)
	v = s.is(p, v.ID, store.StressStopped)
	require.Contains(t, v.Reason, "limit")
	require.Equal(t, time.Second, v.EndsAt.Sub(*v.StartedAt))
	require.False(t, v.StoppedAt.Before(*v.EndsAt))
	require.Equal(t, map[string]bool{s.billing: false}, s.enabled())
}

// Whoever starts a task needs no server that watches. Its limit passes while none does, and the first that does ends it.
func TestLimitWhileNoServerWatches(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	p := s.server()
	v := s.start(p, s.prepared(p, s.spec()))
	require.Equal(t, store.StressRunning, v.State)
	require.Equal(t, map[string]bool{s.billing: true}, s.enabled())
	s.expire(p, v.ID)
	s.run(p.Run)
	v = s.is(p, v.ID, store.StressStopped)
	require.Contains(t, v.Reason, "limit")
	require.Equal(t, map[string]bool{s.billing: false}, s.enabled())
}

// The server that watches is killed; another one ends the run at its limit.
func TestServerKilledWhileATaskRuns(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	p := s.server()
	v := s.prepared(p, s.spec(func(spec *requests.StressSpec) {
		most := int64(1000)
		spec.Guards = []requests.StressGuardSpec{{Group: s.billing, MaxUnread: &most}}
	}))
	session, kill := s.child()
	v = s.start(p, v)
	first := *v.Looks[0].At
	require.Eventually(t, func() bool { // the child watches
		return s.get(p, v.ID).Looks[0].At.After(first)
	}, patience, tick)
	kill()
	require.Equal(t, store.StressRunning, s.get(p, v.ID).State)
	s.expire(p, v.ID)
	require.NoError(t, env.ExpireSession(t.Context(), session))
	s.run(p.Run)
	v = s.is(p, v.ID, store.StressStopped)
	require.Contains(t, v.Reason, "limit")
	require.Equal(t, []string{"created", "prepared", "start", "started", "stop", "stopped"}, s.history(p, v.ID))
}

// A task is killed between what was decided and what is written: the flags are made what was decided by whoever comes next.
func TestDecidedAndNotWritten(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	p := s.server()
	v := s.prepared(p, s.spec())
	now := time.Now()
	ends := now.Add(time.Hour)
	v.State, v.StartedAt, v.EndsAt, v.StartedBy, v.Runs = store.StressStarting, &now, &ends, "alice", 1
	require.NoError(t, s.db.UpdateStressTask(s.as(alice), v.StressTask, store.StressChanges{}))
	s.run(p.Run)
	v = s.is(p, v.ID, store.StressRunning)
	require.Equal(t, map[string]bool{s.billing: true}, s.enabled())
	v.State, v.Reason = store.StressStopping, "as a test wants"
	require.NoError(t, s.db.UpdateStressTask(s.as(alice), v.StressTask, store.StressChanges{}))
	s.is(p, v.ID, store.StressStopped)
	require.Equal(t, map[string]bool{s.billing: false}, s.enabled())
}

// Flags that somebody switches past the platform stand in the history; when none is on any more, the run has ended.
func TestFlagsByHand(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	p := s.server()
	s.group("audit", "audit_app", s.orders)
	v := s.prepared(p, s.spec(func(spec *requests.StressSpec) {
		spec.Groups = append(spec.Groups, requests.StressGroupSpec{Group: "audit"})
	}))
	require.Equal(t, []string{"audit_app", app}, v.Apps)
	s.run(p.Run)
	v = s.is(p, s.start(p, v).ID, store.StressRunning)
	edits := func(n int) {
		t.Helper()
		require.Eventually(t, func() bool {
			found := 0
			for _, kind := range s.history(p, v.ID) {
				if kind == "edited" {
					found++
				}
			}
			return found == n
		}, patience, tick)
	}
	require.NoError(t, s.meta.PutShadowFlag(t.Context(), app, v.Name, s.billing, false))
	edits(1)
	require.NoError(t, s.meta.PutShadowFlag(t.Context(), app, v.Name, s.billing, true))
	edits(2)
	require.NoError(t, s.meta.DeleteShadowFlag(t.Context(), "audit_app", v.Name, "audit"))
	edits(3)
	v = s.get(p, v.ID)
	require.Equal(t, store.StressRunning, v.State)
	require.NoError(t, s.meta.Set(t.Context(), s.meta.ShadowPath(app, v.Name, s.billing), []byte("off, please"), metadata.AnyVersion))
	v = s.is(p, v.ID, store.StressStopped)
	require.Contains(t, v.Reason, "by hand")
	events, err := p.History(t.Context(), v.ID, 0, 0)
	require.NoError(t, err)
	require.Contains(t, events[len(events)-3].Text, "does not count")
	require.Equal(t, map[string]bool{s.billing: false}, s.enabled(), "what was deleted stays so")

	// A flag that is gone is made anew by the next run.
	s.is(p, s.start(p, v).ID, store.StressRunning)
	require.Equal(t, map[string]bool{s.billing: true, "audit": true}, s.enabled())
}

// guarded is a task with a guard of the stage's group.
func (s *stage) guarded(p *platform, g requests.StressGuardSpec) (id string) {
	s.Helper()
	g.Group = s.billing
	return s.prepared(p, s.spec(func(spec *requests.StressSpec) {
		spec.Guards, spec.BlindSeconds = []requests.StressGuardSpec{g}, 10
	})).ID
}

func TestGuardOfUnreadMessages(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	p := s.server()
	most := int64(5)
	id := s.guarded(p, requests.StressGuardSpec{MaxUnread: &most})
	s.run(p.Run)
	client := s.application("", nil)
	send := func(n int64) {
		t.Helper()
		for range n {
			_, err := client.Send(t.Context(), s.orders, &turnout.Message{Body: []byte("an order")})
			require.NoError(t, err)
		}
	}
	send(most)
	v := s.is(p, s.start(p, s.get(p, id)).ID, store.StressRunning)
	send(1)
	v = s.is(p, v.ID, store.StressStopped)
	require.Contains(t, v.Reason, "6 messages are unread, and at most 5 may be")
	require.Equal(t, map[string]bool{s.billing: false}, s.enabled())
	_, err := p.Start(s.as(alice), alice, id, v.Version)
	require.ErrorIs(t, err, errs.ErrConflict)
	require.ErrorContains(t, err, "6 messages are unread")
}

func TestGuardOfErrors(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	p := s.server()
	most := int64(2)
	id := s.guarded(p, requests.StressGuardSpec{MaxErrors: &most})
	s.run(p.Run)
	client := s.application(s.billing, func(context.Context, *turnout.Delivery) error { return errors.New("no bills today") })
	v := s.is(p, s.start(p, s.get(p, id)).ID, store.StressRunning)
	for range most + 1 {
		_, err := client.Send(t.Context(), s.orders, &turnout.Message{Body: []byte("an order")})
		require.NoError(t, err)
	}
	v = s.is(p, v.ID, store.StressStopped)
	require.Contains(t, v.Reason, "3 dead letters and retries have come within a minute, and at most 2 may")
}

// A guard that can not look trips when that has lasted for the time that the task says, and keeps it from being started.
func TestBlindGuard(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	p := s.server()
	most := int64(5)
	id := s.guarded(p, requests.StressGuardSpec{MaxUnread: &most})
	v := s.start(p, s.get(p, id))
	why := errors.New("nobody answers")
	p.fleet.why.Store(&why)
	before := time.Now().Add(-9 * time.Second) // when it could look
	v.Looks[0].At = &before
	require.NoError(t, s.db.PutStressLooks(t.Context(), id, v.Runs, v.Looks))
	s.run(p.Run)
	require.Eventually(t, func() bool { return s.get(p, id).Looks[0].Error != "" }, patience, tick)
	v = s.is(p, id, store.StressStopped)
	require.Contains(t, v.Reason, "could not look since")
	require.Contains(t, v.Reason, "nobody answers")
	require.GreaterOrEqual(t, v.StoppedAt.Sub(before), 10*time.Second)
	_, err := p.Start(s.as(alice), alice, id, v.Version)
	require.ErrorIs(t, err, errs.ErrConflict)
	require.ErrorContains(t, err, "can not look: nobody answers")
}
