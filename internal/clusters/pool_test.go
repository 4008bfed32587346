package clusters_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"go.uber.org/zap"

	"github.com/turnout-mq/turnout/broker"
	"github.com/turnout-mq/turnout/internal/clusters"
	"github.com/turnout-mq/turnout/internal/clusters/clustertest"
	"github.com/turnout-mq/turnout/internal/errs"
	"github.com/turnout-mq/turnout/metadata"
	"github.com/turnout-mq/turnout/testenv"
)

var (
	env   *testenv.Env
	roots atomic.Int64
)

func TestMain(m *testing.M) {
	var err error
	if env, err = testenv.Start(context.Background(), testenv.Spec{ZooKeeper: 1}); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	code := m.Run()
	if err := errors.Join(env.Close(), goleak.Find()); err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

// rig is a pool over a store of its own.
type rig struct {
	*testing.T
	store  *metadata.Store
	driver *clustertest.Driver
	pool   *clusters.Pool
}

func newRig(t *testing.T, linger time.Duration, driver *clustertest.Driver) *rig {
	store, err := metadata.Open(metadata.Config{ZooKeeper: env.ZooKeeper(), Root: fmt.Sprintf("/%d", roots.Add(1)), SessionTimeout: time.Minute})
	require.NoError(t, err)
	r := &rig{t, store, driver, clusters.NewPool(store, driver.Open, "test", linger, zap.NewNop())}
	t.Cleanup(func() {
		require.NoError(t, r.pool.Close(r.ctx()))
		require.NoError(t, store.Close(context.Background()))
	})
	return r
}

func (r *rig) ctx() context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	r.Cleanup(cancel)
	return ctx
}

// put writes a cluster with an address of its own.
func (r *rig) put(name, address string) {
	r.Helper()
	data, err := json.Marshal(metadata.Cluster{V: 1, Kind: broker.Kafka, Addresses: []string{address}})
	require.NoError(r, err)
	if err = r.store.Set(r.ctx(), r.store.ClusterPath(name), data, metadata.AnyVersion); errors.Is(err, errs.ErrNotFound) {
		err = r.store.Create(r.ctx(), r.store.ClusterPath(name), data)
	}
	require.NoError(r, err)
}

func (r *rig) acquire(name string) *clusters.Conn {
	r.Helper()
	c, err := r.pool.Acquire(r.ctx(), name)
	require.NoError(r, err)
	return c
}

// eventually polls until ok, which may fail the test: it runs in the test's goroutine.
func (r *rig) eventually(ok func() bool, what string) {
	r.Helper()
	deadline := time.Now().Add(time.Minute)
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		if time.Now().After(deadline) {
			require.FailNow(r, "never: "+what)
		}
		<-tick.C
	}
}

func TestEverybodySharesOneConnection(t *testing.T) {
	gate := make(chan struct{})
	r := newRig(t, time.Minute, &clustertest.Driver{OnOpen: func(context.Context, broker.Config) error { <-gate; return nil }})
	r.put("a", "h:1")
	got := make(chan *clusters.Conn, 20)
	for range cap(got) {
		go func() { got <- r.acquire("a") }()
	}
	close(gate)
	first := <-got
	for range cap(got) - 1 {
		require.Same(t, first, <-got)
	}
	require.Len(t, r.driver.Opened(), 1)
	require.Equal(t, "a", first.Name)
	require.Equal(t, broker.Kafka, first.Kind)
	require.Equal(t, []string{"h:1"}, r.driver.Opened()[0].Config.Addresses)
	for range cap(got) {
		first.Release()
	}
	require.Same(t, first, r.acquire("a"), "a quick way back finds it open")
	first.Release()
	require.False(t, r.driver.Opened()[0].Closed())
}

func TestConnectionThatCanNotBeOpenedIsTriedByTheNext(t *testing.T) {
	var fail atomic.Bool
	fail.Store(true)
	refused := errors.New("connection refused")
	r := newRig(t, time.Minute, &clustertest.Driver{OnOpen: func(context.Context, broker.Config) error {
		if fail.Load() {
			return refused
		}
		return nil
	}})
	_, err := r.pool.Acquire(r.ctx(), "a")
	require.ErrorIs(t, err, errs.ErrNotFound)
	r.put("a", "h:1")
	r.eventually(func() bool { _, err = r.pool.Acquire(r.ctx(), "a"); return errors.Is(err, refused) }, "it is known, and can not be opened")
	require.Contains(t, err.Error(), `"a"`)
	fail.Store(false)
	r.acquire("a").Release()
}

// Whoever waits may go; the connection is there for the next one.
func TestOpeningIsNotBoundByTheCtxOfWhoAskedFirst(t *testing.T) {
	gate := make(chan struct{})
	r := newRig(t, time.Minute, &clustertest.Driver{OnOpen: func(context.Context, broker.Config) error { <-gate; return nil }})
	r.put("a", "h:1")
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	_, err := r.pool.Acquire(ctx, "a")
	require.ErrorIs(t, err, context.DeadlineExceeded)
	close(gate)
	r.acquire("a").Release()
	require.Len(t, r.driver.Opened(), 1)
}

func TestChangedMetadataMakesANewConnectionAndTheOldOneEndsWithItsLastUse(t *testing.T) {
	r := newRig(t, time.Minute, &clustertest.Driver{})
	told := make(chan string, 10)
	stop := r.pool.OnChange(func(name string) { told <- name })
	r.put("a", "h:1")
	old := r.acquire("a")
	require.True(t, old.Current())
	r.put("a", "h:2")
	require.Equal(t, "a", <-told)
	require.False(t, old.Current())
	fresh := r.acquire("a")
	require.NotSame(t, old, fresh)
	require.True(t, fresh.Current())
	one, two := r.driver.Opened()[0], r.driver.Opened()[1]
	require.Equal(t, []string{"h:2"}, two.Config.Addresses)
	require.False(t, one.Closed(), "it is in use")
	old.Release()
	r.eventually(one.Closed, "it was its last use")
	require.False(t, two.Closed())

	// Content that is not good changes nothing, and is said.
	require.NoError(t, r.store.Set(r.ctx(), r.store.ClusterPath("a"), []byte("{"), metadata.AnyVersion))
	require.Equal(t, "a", <-told)
	require.ErrorIs(t, r.pool.Problem("a"), errs.ErrInvalid)
	require.True(t, fresh.Current())
	r.put("a", "h:2")
	require.Equal(t, "a", <-told)
	require.NoError(t, r.pool.Problem("a"))
	require.True(t, fresh.Current(), "the same as before")
	fresh.Release()

	// Nobody uses it: the next change closes it at once.
	r.put("a", "h:3")
	r.eventually(two.Closed, "closed")
	require.Equal(t, "a", <-told)
	stop()
	r.put("a", "h:4")
	r.eventually(func() bool {
		c := r.acquire("a")
		defer c.Release()
		return c.Cluster.(*clustertest.Cluster).Config.Addresses[0] == "h:4"
	}, "the newest")
	require.Empty(t, told, "nothing after it was stopped")
}

func TestUnusedConnectionIsClosedAfterItsLinger(t *testing.T) {
	for _, linger := range []time.Duration{0, 30 * time.Millisecond} {
		t.Run(linger.String(), func(t *testing.T) {
			r := newRig(t, linger, &clustertest.Driver{})
			r.put("a", "h:1")
			for i := range 3 {
				c := r.acquire("a")
				require.Len(t, r.driver.Opened(), i+1)
				c.Release()
				r.eventually(r.driver.Opened()[i].Closed, "closed")
			}
		})
	}
}

func TestCloseClosesWhatIsInUseToo(t *testing.T) {
	r := newRig(t, time.Minute, &clustertest.Driver{})
	r.put("a", "h:1")
	r.put("b", "h:2")
	old, b := r.acquire("a"), r.acquire("b")
	r.put("a", "h:3")
	r.eventually(func() bool { return !old.Current() }, "outdated")
	a := r.acquire("a")
	require.NoError(t, r.pool.Close(r.ctx()))
	for _, c := range r.driver.Opened() {
		require.True(t, c.Closed(), "%v", c.Config.Addresses)
	}
	for _, c := range []*clusters.Conn{old, a, b} {
		c.Release()
	}
	for _, name := range []string{"a", "new"} {
		_, err := r.pool.Acquire(r.ctx(), name)
		require.ErrorIs(t, err, errs.ErrClosed)
	}
	require.NoError(t, r.pool.Close(r.ctx()), "again")
}

func TestCloseThatRunsOutOfTimeClosesByForce(t *testing.T) {
	forced := make(chan struct{})
	r := newRig(t, time.Minute, &clustertest.Driver{OnClose: func(ctx context.Context, _ *clustertest.Cluster) error {
		<-ctx.Done()
		close(forced)
		return ctx.Err()
	}})
	r.put("a", "h:1")
	r.acquire("a").Release()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	require.ErrorIs(t, r.pool.Close(ctx), context.DeadlineExceeded)
	<-forced
}

func TestCloseWaitsForWhatIsBeingOpenedAndClosesIt(t *testing.T) {
	begun := make(chan struct{})
	r := newRig(t, time.Minute, &clustertest.Driver{OnOpen: func(ctx context.Context, _ broker.Config) error {
		close(begun)
		<-ctx.Done()
		return nil // it was quicker
	}})
	r.put("a", "h:1")
	failed := make(chan error, 1)
	go func() {
		_, err := r.pool.Acquire(r.ctx(), "a")
		failed <- err
	}()
	<-begun
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	require.ErrorIs(t, r.pool.Close(ctx), context.DeadlineExceeded)
	require.ErrorIs(t, <-failed, errs.ErrClosed)
	require.NoError(t, r.pool.Close(r.ctx()))
	r.eventually(r.driver.Opened()[0].Closed, "closed")
}

// Users and changes at once: whoever has a connection has one that is open, and at the end one is left.
func TestManyUsersWhileTheMetadataChanges(t *testing.T) {
	r := newRig(t, time.Millisecond, &clustertest.Driver{})
	r.put("a", "h:1000")
	stop := make(chan struct{})
	var users sync.WaitGroup
	for range 8 {
		users.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				c, err := r.pool.Acquire(t.Context(), "a") // not one ctx each: on a slow machine there are millions
				if err != nil {
					t.Error(err)
					return
				}
				for range rand.N(3) {
					if c.Cluster.(*clustertest.Cluster).Closed() {
						t.Error("closed while in use")
					}
				}
				c.Release()
				runtime.Gosched() // else those who change it have to wait for their turn
			}
		})
	}
	for i := range 100 {
		r.put("a", fmt.Sprintf("h:%d", i+1))
	}
	close(stop)
	users.Wait()
	r.eventually(func() bool {
		open := 0
		for _, c := range r.driver.Opened() {
			if !c.Closed() {
				open++
			}
		}
		return open == 0
	}, "nobody uses it: all are closed")
}
