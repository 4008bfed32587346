package coord_test

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/turnout-mq/turnout/admin/coord"
	"github.com/turnout-mq/turnout/internal/errs"
	"github.com/turnout-mq/turnout/metadata"
)

// inLine lines up for the lock behind those who are there, and tells when it is held.
func (t *tree) inLine(s *metadata.Store) <-chan *coord.Held {
	t.Helper()
	before := 0
	if names, err := s.Children(t.ctx(), t.root+locks); err == nil {
		before = len(names)
	}
	got := make(chan *coord.Held, 1)
	t.background(func(ctx context.Context) error {
		held, err := coord.Lock(ctx, s, "x")
		if err == nil {
			got <- held
		}
		return err
	})
	t.until(s, locks, before+1)
	return got
}

const locks = "/locks/x"

func lockInTurn(t *tree) {
	a, b := t.open(), t.open()
	first := t.lock(a)
	require.NoError(t, first.Err())
	second := t.inLine(b)
	require.Empty(t, second)
	require.NoError(t, first.Unlock(t.ctx()))
	require.NoError(t, first.Unlock(t.ctx()), "again")
	held := wait(t, second, "the second holder")
	require.Greater(t, held.Token(), first.Token())
	require.Error(t, first.Err())
	require.NotErrorIs(t, first.Err(), coord.ErrLost)

	ctx, cancel := context.WithCancel(t.ctx())
	gone := make(chan error, 1)
	go func() { _, err := coord.Lock(ctx, a, "x"); gone <- err }()
	t.until(a, locks, 2)
	cancel()
	require.ErrorIs(t, wait(t, gone, "who gives up"), context.Canceled)
	t.until(a, locks, 1)
	require.NoError(t, held.Unlock(t.ctx()))
	require.Empty(t, t.places(a, locks))
}

func oneWakesOne(t *tree) {
	const waiters = 12
	all := make([]*traffic, waiters)
	lines := make([]<-chan *coord.Held, waiters)
	stores := make([]*metadata.Store, waiters)
	leave := make([]context.CancelFunc, waiters)
	sum := func() (n int64) {
		for _, c := range all {
			n += c.notices.Load()
		}
		return n
	}
	holder := t.lock(t.open())
	for i := range waiters {
		all[i] = &traffic{}
		s := t.open(all[i].count)
		stores[i] = s
		ctx, cancel := context.WithCancel(t.ctx())
		leave[i] = cancel
		got := make(chan *coord.Held, 1)
		go func() {
			if held, err := coord.Lock(ctx, s, "x"); err == nil {
				got <- held
			}
		}()
		t.eventually(func() bool { return all[i].watches.Load() == 1 }, "waiter %d watches", i)
		lines[i] = got
	}
	require.Zero(t, sum())
	require.NoError(t, holder.Unlock(t.ctx()))
	holder = wait(t, lines[0], "the first waiter")
	// What a notice had caused would have been sent before the answer to a request that came later.
	for i, c := range all {
		require.LessOrEqual(t, c.watches.Load(), int64(1), "waiter %d", i)
	}
	require.EqualValues(t, 1, sum())

	leave[5]() // wakes the one behind it, which then watches the one before
	t.eventually(func() bool { return all[6].watches.Load() == 2 }, "the next one watches")
	require.EqualValues(t, 2, sum())
	for i := 1; i < waiters; i++ {
		if i == 5 {
			continue
		}
		require.NoError(t, holder.Unlock(t.ctx()))
		holder = wait(t, lines[i], "waiter "+strconv.Itoa(i))
	}
	for _, s := range stores { // a notice comes before the answer to a later request
		require.NoError(t, s.Sync(t.ctx(), t.root))
	}
	// The client can not take a watch back, so who has left is told once, too.
	require.EqualValues(t, 1, all[5].notices.Load())
	require.EqualValues(t, waiters, sum()-1, "one for each of the %d that left before the last holder", waiters)
	require.NoError(t, holder.Unlock(t.ctx()))
	for _, cancel := range leave {
		cancel()
	}
}

// Each holder reads a number, and writes the next one whatever is there now: two at once would write the same one.
func fiftyContenders(t *tree) {
	const contenders, rounds = 50, 2
	first := t.open()
	counter := t.root + "/counter"
	require.NoError(t, first.Create(t.ctx(), counter, []byte("0")))
	var mu sync.Mutex
	var tokens []metadata.Zxid
	turn := func(ctx context.Context, s *metadata.Store) error {
		held, err := coord.Lock(ctx, s, "x")
		if err != nil {
			return err
		}
		n, err := s.Read(ctx, counter)
		if err != nil {
			return err
		}
		number, err := strconv.Atoi(string(n.Data))
		if err != nil {
			return err
		}
		mu.Lock()
		tokens = append(tokens, held.Token())
		mu.Unlock()
		if err := s.Multi(ctx, held.Guard(), metadata.SetOp(counter, []byte(strconv.Itoa(number+1)), metadata.AnyVersion)); err != nil {
			return err
		}
		return held.Unlock(ctx)
	}
	results := make(chan error, contenders)
	for range contenders {
		s := t.open()
		go func() {
			var err error
			for range rounds {
				err = errors.Join(err, turn(t.Context(), s))
			}
			results <- err
		}()
	}
	for range contenders {
		require.NoError(t, wait(t, results, "a contender"))
	}
	n, err := first.Read(t.ctx(), counter)
	require.NoError(t, err)
	require.Equal(t, strconv.Itoa(contenders*rounds), string(n.Data))
	require.EqualValues(t, contenders*rounds, n.Version)
	require.IsIncreasing(t, tokens, "in the order of coming")
	require.Empty(t, t.places(first, locks))
}

// Each contender loses its session again and again between reading and writing. What it writes then, in its next session and
// whatever is there now, is refused; so no write is lost.
func contendersLoseSessions(t *tree) {
	const contenders, enough, every = 10, 100, 5
	first := t.open()
	counter := t.root + "/counter"
	require.NoError(t, first.Create(t.ctx(), counter, []byte("0")))
	var written, unknown, refused atomic.Int64
	turn := func(ctx context.Context, s *metadata.Store, lose bool) error {
		held, err := coord.Lock(ctx, s, "x")
		if err != nil {
			return err
		}
		n, err := s.Read(ctx, counter)
		if err != nil {
			return err
		}
		number, err := strconv.Atoi(string(n.Data))
		if err != nil {
			return err
		}
		write := func() error {
			return s.Multi(ctx, held.Guard(), metadata.SetOp(counter, []byte(strconv.Itoa(number+1)), metadata.AnyVersion))
		}
		if lose {
			if err := t.env.ExpireSession(ctx, s.Session().ID); err != nil {
				return err
			}
			if err := answered(write); !errors.Is(err, errs.ErrNotFound) {
				return fmt.Errorf("a write of who was deposed: %w", err)
			}
			refused.Add(1)
			return held.Unlock(ctx)
		}
		switch err := write(); {
		case err == nil:
			written.Add(1)
		case errors.Is(err, errs.ErrTimeout): // real servers cut others, too, when a session is ended by force
			unknown.Add(1)
		default:
			return err
		}
		return held.Unlock(ctx)
	}
	var ended []<-chan error
	for range contenders {
		s := t.open()
		ended = append(ended, t.background(func(ctx context.Context) error {
			for i := 1; written.Load() < enough; i++ {
				if err := turn(ctx, s, i%every == 0); err != nil {
					return err
				}
			}
			return nil
		}))
	}
	for _, e := range ended {
		require.NoError(t, wait(t, e, "a contender"))
	}
	n, err := first.Read(t.ctx(), counter)
	require.NoError(t, err)
	number, err := strconv.Atoi(string(n.Data))
	require.NoError(t, err)
	t.Logf("%d written, %d of which that is not known, %d refused", written.Load(), unknown.Load(), refused.Load())
	require.Positive(t, refused.Load())
	require.GreaterOrEqual(t, int64(number), written.Load())
	require.LessOrEqual(t, int64(number), written.Load()+unknown.Load())
	require.EqualValues(t, number, n.Version, "no number was written twice")
	t.until(first, locks, 0)
}

func chrootAndIdentity(t *tree) {
	t.Setenv("TURNOUT_TEST_SECRET", "alice:s3cr3t")
	chroot := func(c *metadata.Config) { c.ZooKeeper += "/chroot" + t.root }
	s := t.open(chroot, func(c *metadata.Config) { c.AuthScheme, c.AuthSecret = "digest", "env:TURNOUT_TEST_SECRET" })
	require.NoError(t, t.lock(s).Unlock(t.ctx()))
	job, id := t.job(s)
	require.NoError(t, job.Lead(t.ctx(), func(context.Context, *coord.Held) error {
		require.Equal(t, id, t.leader(job))
		return nil
	}))
	items, _ := t.served(t.queue(s), nil)
	put, err := t.queue(s).Put(t.ctx(), nil)
	require.NoError(t, err)
	require.Equal(t, put, wait(t, items, "the item").ID)

	stranger := t.open(chroot)
	_, err = coord.Lock(t.ctx(), stranger, "x")
	require.ErrorIs(t, err, errs.ErrNotAllowed)
	_, err = t.queue(stranger).Put(t.ctx(), nil)
	require.ErrorIs(t, err, errs.ErrNotAllowed)
	job, _ = t.job(stranger)
	require.ErrorIs(t, job.Lead(t.ctx(), nil), errs.ErrNotAllowed)
	require.ErrorIs(t, job.Campaign(t.ctx(), time.Millisecond, nil), errs.ErrNotAllowed)
	_, err = job.Join(t.ctx(), metadata.Instance{V: 1})
	require.ErrorIs(t, err, errs.ErrNotAllowed)
}

// expire ends a Store's session and waits for the next one.
func (t *tree) expire(s *metadata.Store) {
	t.Helper()
	before := s.Session().ID
	require.NoError(t, t.env.ExpireSession(t.ctx(), before))
	t.eventually(func() bool { x := s.Session(); return x.Connected && x.ID != before }, "a new session")
}

// The new session of who was deposed is as good as any other one, and the version is the one that it has read.
func expiryWhileHolding(t *tree) {
	a, b := t.open(), t.open()
	require.NoError(t, a.Create(t.ctx(), t.root+"/work", nil))
	held := t.lock(a)
	require.NoError(t, a.Multi(t.ctx(), held.Guard(), metadata.SetOp(t.root+"/work", []byte("1"), 0)))
	second := t.inLine(b)
	t.expire(a)
	next := wait(t, second, "the next holder")
	wait(t, held.Done(), "the loss")
	require.ErrorIs(t, held.Err(), coord.ErrLost)
	require.ErrorContains(t, held.Err(), "session")
	require.ErrorIs(t, context.Cause(held.Context()), coord.ErrLost)
	require.ErrorIs(t, a.Multi(t.ctx(), held.Guard(), metadata.SetOp(t.root+"/work", []byte("2"), 1)), errs.ErrNotFound)
	require.NoError(t, held.Unlock(t.ctx()))
	require.NoError(t, next.Err())
	require.NoError(t, b.Multi(t.ctx(), next.Guard(), metadata.SetOp(t.root+"/work", []byte("3"), 1)))
	require.NoError(t, next.Unlock(t.ctx()))
}

func expiryWhileWaiting(t *tree) {
	a, b, c := t.open(), t.open(), t.open()
	held := t.lock(a)
	second, third := t.inLine(b), t.inLine(c)
	t.expire(b)
	t.until(a, locks, 3)
	require.NoError(t, held.Unlock(t.ctx()))
	next := wait(t, third, "who kept its place")
	require.Empty(t, second)
	require.NoError(t, next.Unlock(t.ctx()))
	require.NoError(t, wait(t, second, "who lost it").Unlock(t.ctx()))
	require.Empty(t, t.places(a, locks))
}

func deletedByHand(t *tree) {
	a, b := t.open(brief), t.open()
	held := t.lock(a)
	second := t.inLine(b)
	require.NoError(t, b.Delete(t.ctx(), t.root+locks+"/"+t.places(b, locks)[0], metadata.AnyVersion))
	wait(t, held.Done(), "the loss")
	require.ErrorIs(t, held.Err(), coord.ErrLost)
	require.ErrorContains(t, held.Err(), "deleted")
	require.NoError(t, held.Unlock(t.ctx()))
	require.NoError(t, wait(t, second, "the next holder").Unlock(t.ctx()))
}

// TestWhatIsNotAName needs no ZooKeeper: nothing is asked of it.
func TestWhatIsNotAName(t *testing.T) {
	s, err := metadata.Open(metadata.Config{ZooKeeper: "127.0.0.1:1"})
	require.NoError(t, err)
	defer func() { require.NoError(t, s.Close(t.Context())) }()
	for _, name := range []string{"", "a/b", "..", "a b", "ü"} {
		_, err := coord.Lock(t.Context(), s, name)
		require.ErrorIs(t, err, errs.ErrInvalid)
		require.ErrorContains(t, err, "lock name "+strconv.Quote(name))
		_, err = coord.NewJob(s, name, metadata.NewInstanceID(), nil)
		require.ErrorIs(t, err, errs.ErrInvalid)
		require.ErrorContains(t, err, "job name "+strconv.Quote(name))
		_, err = coord.NewQueue(s, name, nil)
		require.ErrorIs(t, err, errs.ErrInvalid)
		require.ErrorContains(t, err, "queue name "+strconv.Quote(name))
	}
	for _, id := range []string{"", "me", "10.0.0.1@-@7", "10.0.0.1@-@7@-@", "a/b@-@7@-@0"} {
		_, err = coord.NewJob(s, "controller", id, nil)
		require.ErrorIs(t, err, errs.ErrInvalid)
		require.ErrorContains(t, err, strconv.Quote(id))
	}
	job, err := coord.NewJob(s, "controller", metadata.NewInstanceID(), nil)
	require.NoError(t, err)
	require.ErrorIs(t, job.Campaign(t.Context(), 0, nil), errs.ErrInvalid)
}

// TestEverythingEndsWithItsCtx asks a ZooKeeper that is not there.
func TestEverythingEndsWithItsCtx(t *testing.T) {
	s, err := metadata.Open(metadata.Config{ZooKeeper: "127.0.0.1:1"})
	require.NoError(t, err)
	job, err := coord.NewJob(s, "controller", metadata.NewInstanceID(), nil)
	require.NoError(t, err)
	queue, err := coord.NewQueue(s, "requests", nil)
	require.NoError(t, err)
	calls := map[string]func(context.Context) error{
		"lock":     func(ctx context.Context) error { _, err := coord.Lock(ctx, s, "x"); return err },
		"lead":     func(ctx context.Context) error { return job.Lead(ctx, nil) },
		"campaign": func(ctx context.Context) error { return job.Campaign(ctx, time.Second, nil) },
		"join":     func(ctx context.Context) error { _, err := job.Join(ctx, metadata.Instance{V: 1}); return err },
		"leader":   func(ctx context.Context) error { _, err := job.Leader(ctx); return err },
		"members":  func(ctx context.Context) error { _, err := job.Members(ctx); return err },
		"put":      func(ctx context.Context) error { _, err := queue.Put(ctx, nil); return err },
		"len":      func(ctx context.Context) error { _, err := queue.Len(ctx); return err },
		"list":     func(ctx context.Context) error { _, err := queue.List(ctx); return err },
		"serve":    func(ctx context.Context) error { return queue.Serve(ctx, nil) },
	}
	for name, call := range calls {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
		require.ErrorIs(t, call(ctx), context.DeadlineExceeded, name)
		cancel()
	}
	require.NoError(t, s.Close(t.Context()))
	for name, call := range calls {
		require.ErrorIs(t, call(t.Context()), errs.ErrClosed, name)
	}
}
