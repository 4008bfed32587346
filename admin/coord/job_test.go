package coord_test

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/turnout-mq/turnout/admin/coord"
	"github.com/turnout-mq/turnout/internal/errs"
	"github.com/turnout-mq/turnout/metadata"
)

const latch = "/jobs/controller/leader/election/latch"

// leading runs a campaign and gives each lead that begins. A term lasts until its ctx ends.
func (t *tree) leading(job *coord.Job) <-chan *coord.Held {
	leads := make(chan *coord.Held, 100)
	t.background(func(ctx context.Context) error {
		return job.Campaign(ctx, time.Millisecond, func(ctx context.Context, lead *coord.Held) error {
			leads <- lead
			<-ctx.Done()
			return nil
		})
	})
	return leads
}

func (t *tree) leader(job *coord.Job) string {
	t.Helper()
	id, err := job.Leader(t.ctx())
	require.NoError(t, err)
	return id
}

func terms(t *tree) {
	a, b := t.open(), t.open()
	one, oneID := t.job(a)
	two, twoID := t.job(b)
	require.Empty(t, t.leader(one))

	failed := errors.New("it did not work")
	err := one.Lead(t.ctx(), func(ctx context.Context, lead *coord.Held) error {
		require.Equal(t, oneID, t.leader(one))
		require.NoError(t, lead.Err())
		return failed
	})
	require.Equal(t, failed, err)
	require.Empty(t, t.leader(one), "the lead was given up")
	require.Empty(t, t.places(a, latch))

	// Two campaigns with short terms take turns.
	var turns atomic.Int64
	campaign := func(job *coord.Job, id string) <-chan error {
		return t.background(func(ctx context.Context) error {
			return job.Campaign(ctx, time.Millisecond, func(ctx context.Context, _ *coord.Held) error {
				if now, err := job.Leader(ctx); err != nil || now != id {
					return errors.Join(err, errors.New(now+" leads"))
				}
				turns.Add(1)
				return failed
			})
		})
	}
	oneEnded := campaign(one, oneID)
	twoEnded := campaign(two, twoID)
	t.eventually(func() bool { return turns.Load() >= 10 }, "ten terms")
	require.Empty(t, oneEnded)
	require.Empty(t, twoEnded)

	// The end of ctx ends a term.
	c := t.open()
	three, _ := t.job(c)
	ctx, cancel := context.WithCancel(t.ctx())
	err = three.Lead(ctx, func(ctx context.Context, _ *coord.Held) error {
		cancel()
		<-ctx.Done()
		return context.Cause(ctx)
	})
	require.ErrorIs(t, err, context.Canceled)
	require.NotErrorIs(t, err, coord.ErrLost)

	// A Store that is closed loses the lead.
	d := t.open()
	four, _ := t.job(d)
	err = four.Lead(t.ctx(), func(ctx context.Context, _ *coord.Held) error {
		require.NoError(t, d.Close(t.ctx()))
		<-ctx.Done()
		return nil
	})
	require.ErrorIs(t, err, coord.ErrLost)
	require.ErrorIs(t, err, errs.ErrClosed)
}

// briefOutage: whoever holds and waits goes on, if the sessions last.
func briefOutage(t *tree) {
	a, b := t.open(), t.open()
	one, oneID := t.job(a)
	two, twoID := t.job(b)
	ctx, cancel := context.WithCancel(t.ctx())
	defer cancel()
	lead := make(chan *coord.Held, 1)
	ended := t.background(func(context.Context) error {
		return one.Lead(ctx, func(ctx context.Context, held *coord.Held) error {
			lead <- held
			<-ctx.Done()
			return nil
		})
	})
	held := wait(t, lead, "the leader")
	next := t.leading(two)
	t.until(a, latch, 2)
	require.NoError(t, t.env.Kill(t.ctx(), "zookeeper"))
	t.eventually(func() bool { return !a.Session().Connected && !b.Session().Connected }, "everybody is cut off")
	require.NoError(t, t.env.Restart(t.ctx(), "zookeeper"))
	require.Equal(t, oneID, t.leader(one))
	require.NoError(t, held.Err())
	require.Empty(t, next)
	cancel()
	require.NoError(t, wait(t, ended, "the end of the term"))
	wait(t, next, "the next leader")
	t.eventually(func() bool { return t.leader(one) == twoID }, "it is announced")
	require.Len(t, t.places(a, latch), 1)
}

// longOutage: who does not know any more gives up before it could be somebody else's, and leaves nothing behind.
func longOutage(t *tree) {
	a := t.open(brief)
	one, oneID := t.job(a)
	leads := t.leading(one)
	held := wait(t, leads, "the leader")
	lock := t.lock(a)
	require.NoError(t, t.env.Kill(t.ctx(), "zookeeper"))
	wait(t, held.Done(), "the loss")
	require.ErrorIs(t, held.Err(), coord.ErrLost)
	require.ErrorIs(t, held.Err(), errs.ErrTimeout)
	require.ErrorContains(t, held.Err(), "no answer from ZooKeeper")
	wait(t, lock.Done(), "the loss of the lock")
	ctx, cancel := context.WithTimeout(t.ctx(), 10*time.Millisecond)
	defer cancel()
	require.ErrorIs(t, lock.Unlock(ctx), context.DeadlineExceeded)
	require.NoError(t, t.env.Restart(t.ctx(), "zookeeper"))
	again := wait(t, leads, "it leads again")
	require.Greater(t, again.Token(), held.Token())
	t.eventually(func() bool { return t.leader(one) == oneID }, "it is announced")
	b := t.open()
	t.until(b, latch, 1)
	t.until(b, locks, 0)
}

// leaderCutOff: a leader that reaches one server only loses that one.
func leaderCutOff(t *tree) {
	island, _, _ := strings.Cut(t.env.ZooKeeper(), ",")
	a := t.open(brief, func(c *metadata.Config) { c.ZooKeeper = island })
	b := t.open(func(c *metadata.Config) { _, c.ZooKeeper, _ = strings.Cut(t.env.ZooKeeper(), ",") })
	require.NoError(t, b.Create(t.ctx(), t.root+"/work", []byte("0")))
	one, _ := t.job(a)
	two, twoID := t.job(b)
	firsts := t.leading(one)
	first := wait(t, firsts, "the leader")
	work, err := a.Read(t.ctx(), t.root+"/work")
	require.NoError(t, err)
	seconds := t.leading(two)
	t.until(b, latch, 2)
	for len(firsts) > 0 { // it had lost the lead before, on a machine that stood still
		first = <-firsts
	}
	require.NoError(t, t.env.Cut("zookeeper-1"))
	second := wait(t, seconds, "the next leader")
	require.ErrorIs(t, first.Err(), coord.ErrLost, "the first one knows before there is a second one")
	require.NoError(t, b.Set(t.ctx(), work.Path, []byte("1"), work.Version))
	require.NoError(t, t.env.Heal("zookeeper-1"))
	require.ErrorIs(t, a.Set(t.ctx(), work.Path, []byte("late"), work.Version), errs.ErrConflict)
	require.ErrorIs(t, a.Multi(t.ctx(), first.Guard(), metadata.SetOp(work.Path, []byte("late"), metadata.AnyVersion)), errs.ErrNotFound)
	t.until(b, latch, 2)
	require.NoError(t, second.Err())
	require.Equal(t, twoID, t.leader(two))
	require.Empty(t, firsts)
}

func leaderKilled(t *tree) {
	a := t.open()
	require.NoError(t, a.Create(t.ctx(), t.root+"/work", nil))
	p := t.start("lead")
	p.says("leading")
	job, id := t.job(a)
	require.Contains(t, t.leader(job), "@-@")
	require.NotEqual(t, id, t.leader(job))
	leads := t.leading(job)
	t.until(a, latch, 2)
	require.Empty(t, leads)
	p.kill()
	wait(t, leads, "the next leader")
	t.eventually(func() bool { return t.leader(job) == id }, "it is announced")
	require.Len(t, t.places(a, latch), 1)
	all, err := job.Members(t.ctx())
	require.NoError(t, err)
	require.Empty(t, all, "the one that was killed is no member")
}

// leaderStopped: a process that sleeps through the end of its lead acts on it when it wakes up.
func leaderStopped(t *tree) {
	a := t.open()
	require.NoError(t, a.Create(t.ctx(), t.root+"/work", nil))
	p := t.start("lead")
	p.says("leading")
	job, id := t.job(a)
	leads := t.leading(job)
	t.until(a, latch, 2)
	p.signal(syscall.SIGSTOP)
	lead := wait(t, leads, "the next leader")
	require.NoError(t, a.Set(t.ctx(), t.root+"/work", []byte("mine"), 0))
	_, err := p.stdin.Write([]byte("write\n"))
	require.NoError(t, err)
	p.signal(syscall.SIGCONT)
	require.Equal(t, "true, guard refused true, lost true", p.says("version refused "))
	n, err := a.Read(t.ctx(), t.root+"/work")
	require.NoError(t, err)
	require.Equal(t, "mine", string(n.Data))
	t.until(a, latch, 2) // it waits again
	require.NoError(t, lead.Err())
	require.Equal(t, id, t.leader(job))
}

func members(t *tree) {
	a, b := t.open(), t.open()
	one, oneID := t.job(a)
	two, twoID := t.job(b)
	_, err := one.Join(t.ctx(), metadata.Instance{V: 2})
	require.ErrorIs(t, err, errs.ErrInvalid)
	ids := func() (ids []string) {
		all, err := two.Members(t.ctx())
		require.NoError(t, err)
		for _, m := range all {
			require.Equal(t, "machine", m.Host)
			ids = append(ids, m.ID)
		}
		return ids
	}
	require.Empty(t, ids())
	about := metadata.Instance{V: 1, Host: "machine"}
	first, err := one.Join(t.ctx(), about)
	require.NoError(t, err)
	second, err := two.Join(t.ctx(), about)
	require.NoError(t, err)
	require.ElementsMatch(t, []string{oneID, twoID}, ids())
	ip, _, _ := strings.Cut(oneID, "@-@")
	servers, err := two.Servers(t.ctx())
	require.NoError(t, err)
	require.Equal(t, []string{ip}, servers)

	t.expire(a)
	t.eventually(func() bool { return len(ids()) == 2 }, "it joins again")
	require.NoError(t, first.Close(t.ctx()))
	require.NoError(t, first.Close(t.ctx()), "again")
	require.Equal(t, []string{twoID}, ids())
	require.NoError(t, second.Close(t.ctx()))
	require.Empty(t, ids())
}
