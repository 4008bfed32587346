package metadata_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-zookeeper/zk"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	"github.com/turnout-mq/turnout/internal/errs"
	"github.com/turnout-mq/turnout/metadata"
	"github.com/turnout-mq/turnout/testenv/zkserver"
)

func failing(want error) func(metadata.Update[metadata.Wish]) bool {
	return func(u metadata.Update[metadata.Wish]) bool { return errors.Is(u.Err, want) }
}

func TestFollow(t *testing.T) {
	srv := serve(t)
	s, logged := open(t, srv.ConnectString())
	ctx := short(t)
	got, _ := follow(t, s, "/t")
	u := got.until(t, failing(errs.ErrNotFound))
	require.False(t, u.Known)
	require.False(t, u.Stale)
	require.Equal(t, metadata.Node{Path: "/t", Session: s.Session().ID}, u.Node)

	require.NoError(t, s.Create(ctx, "/t", wish("a")))
	u = got.until(t, on("a"))
	require.Equal(t, s.Session().ID, u.Node.Session)
	for i, cluster := range []string{"b", "c", "d"} {
		require.NoError(t, s.Set(ctx, "/t", wish(cluster), int32(i)))
		u = got.until(t, on(cluster))
		require.Equal(t, int32(i+1), u.Node.Version)
	}
	require.Zero(t, logged.FilterLevelExact(2).Len(), "nothing went wrong")

	for name, c := range map[string]struct {
		data []byte
		want error
	}{
		"blank": {nil, errs.ErrInvalid}, "brace": {[]byte("{"), errs.ErrInvalid}, "65 kB": {bytes.Repeat([]byte(" "), 65<<10), errs.ErrTooLarge},
		"900 kB": {append(bytes.Repeat([]byte(" "), 900<<10), wish("x")...), errs.ErrTooLarge},
	} {
		t.Run(name+" does not replace the last good value", func(t *testing.T) {
			before, logged := got.last(), logged.FilterMessageSnippet("not applied").Len()
			_, err := person(t, srv.ConnectString()).Set("/t", c.data, -1)
			require.NoError(t, err)
			u := got.until(t, failing(c.want))
			require.True(t, u.Known)
			require.False(t, u.Stale)
			require.Equal(t, "d", u.Value.Cluster)
			require.Equal(t, before.Node, u.Node, "the node that the value was read from")
			require.Contains(t, u.Err.Error(), "/t")
			require.NoError(t, s.Set(ctx, "/t", wish("d"), metadata.AnyVersion))
			got.until(t, on("d"))
			_ = logged
		})
	}
	t.Run("deleted and created again", func(t *testing.T) {
		require.NoError(t, s.Delete(ctx, "/t", metadata.AnyVersion))
		u := got.until(t, failing(errs.ErrNotFound))
		require.True(t, u.Known)
		require.Equal(t, "d", u.Value.Cluster)
		require.NoError(t, s.Create(ctx, "/t", wish("e")))
		u = got.until(t, on("e"))
		require.Zero(t, u.Node.Version)
	})
	require.Equal(t, 5, logged.FilterMessageSnippet("not applied").Len(), "each problem is said once")
}

func TestFollowersTakeWhatDocumentsGetFromTheirNode(t *testing.T) {
	srv := serve(t)
	s, _ := open(t, srv.ConnectString())
	ctx := short(t)
	require.NoError(t, s.Create(ctx, s.TopicPath("t"), nil))
	require.NoError(t, s.Create(ctx, s.RoutePath("t"), []byte(`{"v":1,"wish":{"czxid":"0x0","version":0},"write":"a","stays":[{"cluster":"a"}]}`)))
	var routes seen[metadata.Route]
	f := metadata.Follow(s, s.RoutePath("t"), metadata.ParseRoute, routes.add)
	defer f.Close()
	u := routes.until(t, func(u metadata.Update[metadata.Route]) bool { return u.Known })
	require.Equal(t, u.Node.Mzxid, u.Value.Wish.Czxid, "0 is the change that wrote the route")

	require.NoError(t, s.Create(ctx, s.GroupPath("g"), []byte(`{"topics":["t"]}`)))
	var groups seen[metadata.Group]
	g := metadata.Follow(s, s.GroupPath("g"), metadata.ParseGroup, groups.add)
	defer g.Close()
	require.Equal(t, "g", groups.until(t, func(u metadata.Update[metadata.Group]) bool { return u.Known }).Value.Name)
}

func TestRefresh(t *testing.T) {
	srv := serve(t)
	s, _ := open(t, srv.ConnectString())
	ctx := short(t)
	require.NoError(t, s.Create(ctx, "/t", wish("a")))
	got, f := follow(t, s, "/t", metadata.WithSpread(func() time.Duration { return time.Hour }))
	session, err := f.Refresh(ctx)
	require.NoError(t, err)
	require.Equal(t, s.Session().ID, session)
	require.True(t, on("a")(got.last()))
	for i := range 20 {
		cluster := fmt.Sprintf("c%d", i)
		require.NoError(t, s.Set(ctx, "/t", wish(cluster), metadata.AnyVersion))
		_, err = f.Refresh(ctx)
		require.NoError(t, err)
		require.True(t, on(cluster)(got.last()), "told before Refresh returns: %v", got)
	}
	_, err = person(t, srv.ConnectString()).Set("/t", nil, -1)
	require.NoError(t, err)
	_, err = f.Refresh(ctx)
	require.NoError(t, err, "a bad value is told, not returned")
	require.ErrorIs(t, got.last().Err, errs.ErrInvalid)

	t.Run("waits for ZooKeeper and reads in the new session", func(t *testing.T) {
		srv.Stop()
		require.Eventually(t, func() bool { return !s.Session().Connected }, patience, moment)
		brief, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		_, err := f.Refresh(brief)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.True(t, got.last().Stale)
		require.NoError(t, srv.Restart())
		require.NoError(t, srv.ExpireSession(session))
		next, err := f.Refresh(ctx)
		require.NoError(t, err)
		require.NotEqual(t, session, next)
		require.Equal(t, s.Session().ID, next)
		require.False(t, got.last().Stale)
	})
	t.Run("many at once", func(t *testing.T) {
		var wg sync.WaitGroup
		for range 50 {
			wg.Go(func() {
				if _, err := f.Refresh(ctx); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
	})
	f.Close()
	_, err = f.Refresh(ctx)
	require.ErrorIs(t, err, errs.ErrClosed)
}

func TestSpreadDelaysTheReadAfterANotice(t *testing.T) {
	srv := serve(t)
	s, _ := open(t, srv.ConnectString())
	require.NoError(t, s.Create(short(t), "/t", wish("a")))
	var asked atomic.Int32
	got, _ := follow(t, s, "/t", metadata.WithSpread(func() time.Duration { asked.Add(1); return 20 * time.Millisecond }))
	got.until(t, on("a"))
	require.Zero(t, asked.Load(), "not for the first read")
	require.NoError(t, s.Set(short(t), "/t", wish("b"), 0))
	got.until(t, on("b"))
	require.EqualValues(t, 1, asked.Load())
}

// TestFollowThroughFaults: after each fault the value is followed again, and Stale says when it was not.
func TestFollowThroughFaults(t *testing.T) {
	for name, fault := range map[string]func(*testing.T, *zkserver.Server, *metadata.Store){
		"connection cut": func(_ *testing.T, srv *zkserver.Server, _ *metadata.Store) { srv.DropConnections() },
		"session expired": func(t *testing.T, srv *zkserver.Server, s *metadata.Store) {
			session, err := s.WaitConnected(short(t))
			require.NoError(t, err)
			_ = srv.ExpireSession(session.ID) // if it has not expired by itself
		},
		"server stopped and back":  func(t *testing.T, srv *zkserver.Server, s *metadata.Store) { restart(t, srv, s) },
		"server frozen and thawed": func(t *testing.T, srv *zkserver.Server, s *metadata.Store) { freeze(t, srv, s) },
	} {
		t.Run(name, func(t *testing.T) {
			srv := serve(t)
			s, logged := open(t, srv.ConnectString(), brisk)
			p := person(t, srv.ConnectString())
			_, err := p.Create("/t", wish("a"), 0, zk.WorldACL(zk.PermAll))
			require.NoError(t, err)
			got, _ := follow(t, s, "/t")
			var lists seenNames
			lf := metadata.FollowChildren(s, "/kids", lists.add)
			defer lf.Close()
			got.until(t, on("a"))
			lists.until(t, "")
			for i := range 3 {
				fault(t, srv, s)
				cluster, kid := fmt.Sprintf("c%d", i), fmt.Sprintf("k%d", i)
				require.Eventually(t, func() bool { _, err := p.Set("/t", wish(cluster), -1); return err == nil }, patience, moment)
				require.Eventually(t, func() bool { // a write whose answer is lost is not repeated by itself
					err := s.Create(short(t), "/kids/"+kid, nil)
					return err == nil || errors.Is(err, errs.ErrConflict)
				}, patience, moment)
				got.until(t, on(cluster))
				require.Eventually(t, func() bool { return strings.Contains(lists.last(), kid) }, patience, moment)
			}
			order(t, got.all())
			require.Eventually(t, func() bool { return logged.FilterMessageSnippet("lost").Len() > 0 }, patience, moment)
		})
	}
}

func restart(t *testing.T, srv *zkserver.Server, s *metadata.Store) {
	t.Helper()
	srv.Stop()
	require.Eventually(t, func() bool { return !s.Session().Connected }, patience, moment)
	require.NoError(t, srv.Restart())
}

func freeze(t *testing.T, srv *zkserver.Server, s *metadata.Store) {
	t.Helper()
	srv.Freeze()
	require.Eventually(t, func() bool { return !s.Session().Connected }, patience, moment)
	srv.Thaw()
}

// order checks that no value follows a newer one, and that values are as of their node.
func order(t *testing.T, list []metadata.Update[metadata.Wish]) {
	t.Helper()
	var last metadata.Zxid
	for _, u := range list {
		if u.Known {
			require.GreaterOrEqual(t, u.Node.Mzxid, last)
			last = u.Node.Mzxid
		}
	}
}

func TestDisconnectedIsStaleAndReconnectedIsNot(t *testing.T) {
	srv := serve(t)
	s, _ := open(t, srv.ConnectString())
	require.NoError(t, s.Create(short(t), "/t", wish("a")))
	got, _ := follow(t, s, "/t")
	got.until(t, on("a"))
	srv.Stop()
	u := got.until(t, func(u metadata.Update[metadata.Wish]) bool { return u.Stale })
	require.Equal(t, "a", u.Value.Cluster)
	require.NoError(t, u.Err)
	require.NoError(t, srv.Restart())
	got.until(t, on("a"))
}

func TestALostWatchIsMadeGood(t *testing.T) {
	srv := serve(t)
	s, logged := open(t, srv.ConnectString(), func(c *metadata.Config) { c.Recheck = 200 * time.Millisecond })
	require.NoError(t, s.Create(short(t), "/t", wish("a")))
	got, _ := follow(t, s, "/t")
	later, _ := follow(t, s, "/later")
	var lists seenNames
	f := metadata.FollowChildren(s, "/", lists.add)
	defer f.Close()
	got.until(t, on("a"))
	later.until(t, failing(errs.ErrNotFound))
	lists.until(t, "t turnout zookeeper")
	p := person(t, srv.ConnectString())
	// Whoever looks again between the loss and the change watches again, and is notified.
	said := func(path string) bool {
		return logged.FilterMessageSnippet("not notified").FilterField(zap.String("path", path)).Len() > 0
	}
	paths := []string{"/t", "/later", "/"}
	for round, end := 0, time.Now().Add(patience); slices.ContainsFunc(paths, func(p string) bool { return !said(p) }); round++ {
		require.True(t, time.Now().Before(end), "no lost watch is made good")
		srv.ForgetWatches()
		cluster := fmt.Sprintf("b%d", round)
		_, err := p.Set("/t", wish(cluster), -1)
		require.NoError(t, err)
		if round%2 == 0 {
			_, err = p.Create("/later", wish("c"), 0, zk.WorldACL(zk.PermAll))
		} else {
			err = p.Delete("/later", -1)
		}
		require.NoError(t, err)
		got.until(t, on(cluster))
		if round%2 == 0 {
			later.until(t, on("c"))
			lists.until(t, "later t turnout zookeeper")
		} else {
			later.until(t, failing(errs.ErrNotFound))
			lists.until(t, "t turnout zookeeper")
		}
	}
	_, err := p.Set("/t", wish("d"), -1)
	require.NoError(t, err)
	got.until(t, on("d"))
}

func TestASlowFunctionHoldsUpNobodyElse(t *testing.T) {
	srv := serve(t)
	s, _ := open(t, srv.ConnectString())
	require.NoError(t, s.Create(short(t), "/t", wish("c0")))
	var calls, running atomic.Int32
	entered, release := make(chan struct{}, 100), make(chan struct{})
	var last atomic.Value
	f := metadata.Follow(s, "/t", metadata.ParseWish, func(u metadata.Update[metadata.Wish]) {
		if running.Add(1) > 1 {
			t.Error("two calls at once")
		}
		calls.Add(1)
		entered <- struct{}{}
		<-release
		last.Store(u.Value.Cluster)
		running.Add(-1)
	})
	defer f.Close()
	<-entered
	got, _ := follow(t, s, "/t")
	for i := 1; i <= 50; i++ {
		require.NoError(t, s.Set(short(t), "/t", wish(fmt.Sprintf("c%d", i)), metadata.AnyVersion))
	}
	got.until(t, on("c50"))
	require.EqualValues(t, 1, calls.Load())
	close(release)
	require.Eventually(t, func() bool { return last.Load() == "c50" }, patience, moment)
	require.LessOrEqual(t, calls.Load(), int32(3), "notices coalesce")
}

func TestNothingIsToldAfterClose(t *testing.T) {
	srv := serve(t)
	s, _ := open(t, srv.ConnectString())
	require.NoError(t, s.Create(short(t), "/t", wish("a")))
	ctx, stop := short(t), make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
				_ = s.Set(ctx, "/t", wish("b"), metadata.AnyVersion)
			}
		}
	})
	for range 200 {
		var closed atomic.Bool
		f := metadata.Follow(s, "/t", metadata.ParseWish, func(metadata.Update[metadata.Wish]) {
			if closed.Load() {
				t.Error("called after Close")
			}
		})
		f.Close()
		closed.Store(true)
		f.Close()
	}
	close(stop)
	wg.Wait()
	// However often a node was followed, the server knows of one watch.
	for _, info := range srv.Sessions() {
		require.LessOrEqual(t, info.Watches, 1)
	}
}

type seenNames struct {
	mu   sync.Mutex
	list []string
	errs []error
}

func (s *seenNames) add(names []string, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.list, s.errs = append(s.list, strings.Join(names, " ")), append(s.errs, err)
}

func (s *seenNames) last() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.list) == 0 {
		return "(nothing)"
	}
	return s.list[len(s.list)-1]
}

func (s *seenNames) until(t *testing.T, want string) {
	t.Helper()
	require.Eventually(t, func() bool { return s.last() == want }, patience, moment, "%v", s)
}

func (s *seenNames) String() string { return s.last() }

func TestFollowChildren(t *testing.T) {
	srv := serve(t)
	s, _ := open(t, srv.ConnectString())
	ctx := short(t)
	var got seenNames
	f := metadata.FollowChildren(s, "/p", got.add)
	defer f.Close()
	got.until(t, "")
	require.NoError(t, s.Create(ctx, "/p/b", nil))
	got.until(t, "b")
	require.NoError(t, s.Create(ctx, "/p/a", nil))
	got.until(t, "a b")
	session, err := f.Refresh(ctx)
	require.NoError(t, err)
	require.Equal(t, s.Session().ID, session)
	require.NoError(t, s.Multi(ctx, metadata.DeleteOp("/p/a", 0), metadata.DeleteOp("/p/b", 0), metadata.DeleteOp("/p", 0)))
	got.until(t, "")
	require.NoError(t, s.Create(ctx, "/p/c", nil))
	got.until(t, "c")
}

// ensembleAt gives a server an ensemble id, as a restore would.
func ensembleAt(t *testing.T, srv *zkserver.Server, id string, succeeds ...string) {
	t.Helper()
	p := person(t, srv.ConnectString())
	for _, path := range []string{"/turnout"} {
		_, err := p.Create(path, nil, 0, zk.WorldACL(zk.PermAll))
		if !errors.Is(err, zk.ErrNodeExists) {
			require.NoError(t, err)
		}
	}
	doc := fmt.Appendf(nil, `{"id":%q,"succeeds":["%s"]}`, id, strings.Join(succeeds, `","`))
	_, err := p.Create("/turnout/ensemble", doc, 0, zk.WorldACL(zk.PermAll))
	if errors.Is(err, zk.ErrNodeExists) {
		_, err = p.Set("/turnout/ensemble", doc, -1)
	}
	require.NoError(t, err)
}

// switchboard leads a Store from one server to another.
type switchboard struct {
	net atomic.Pointer[zkserver.Server]
}

func TestEnsembles(t *testing.T) {
	one, other := serve(t), serve(t)
	ensembleAt(t, one, "one")
	ensembleAt(t, other, "other")
	board := &switchboard{}
	board.net.Store(one)
	s, logged := open(t, "zookeeper.invalid:2181", func(c *metadata.Config) {
		c.Dialer, c.Recheck = board.dial, 200*time.Millisecond
	}, brisk)
	p1, p2 := person(t, one.ConnectString()), person(t, other.ConnectString())
	for i := range 30 { // change numbers of the first are far ahead of the second's
		_, err := p1.Create(fmt.Sprintf("/ahead%d", i), nil, 0, zk.WorldACL(zk.PermAll))
		require.NoError(t, err)
	}
	_, err := p1.Create("/t", wish("a"), 0, zk.WorldACL(zk.PermAll))
	require.NoError(t, err)
	_, err = p2.Create("/t", wish("b"), 0, zk.WorldACL(zk.PermAll))
	require.NoError(t, err)
	got, f := follow(t, s, "/t")
	var lists seenNames
	lf := metadata.FollowChildren(s, "/turnout", lists.add)
	defer lf.Close()
	got.until(t, on("a"))

	board.net.Store(other)
	one.Stop()
	u := got.until(t, failing(errs.ErrConflict))
	require.Equal(t, "a", u.Value.Cluster, "nothing is taken from another ensemble")
	require.True(t, u.Stale)
	require.Contains(t, u.Err.Error(), `"other"`)
	_, err = f.Refresh(short(t))
	require.ErrorIs(t, err, errs.ErrConflict)
	fresh, _ := follow(t, s, "/t2")
	require.False(t, fresh.until(t, failing(errs.ErrConflict)).Known)
	require.Equal(t, 1, logged.FilterMessageSnippet("another ZooKeeper ensemble").Len(), "the alarm is raised once")

	ensembleAt(t, other, "other", "zero", "one")
	u = got.until(t, on("b"))
	require.Less(t, u.Node.Mzxid, metadata.Zxid(30), "newer, whatever its change number")
	_, err = f.Refresh(short(t))
	require.NoError(t, err)
	_, err = p2.Set("/t", wish("c"), -1)
	require.NoError(t, err)
	got.until(t, on("c"))
}

func TestTheEnsembleIsWrittenOnceByWhoeverIsFirst(t *testing.T) {
	srv := serve(t)
	for range 4 {
		s, logged := open(t, srv.ConnectString())
		_, err := s.WaitConnected(short(t))
		require.NoError(t, err)
		n, err := s.Read(short(t), s.EnsemblePath())
		require.NoError(t, err)
		require.True(t, n.Exists)
		require.Zero(t, n.Version)
		require.Regexp(t, `^\{"id":"[0-9a-f-]{36}","succeeds":\[\]\}$`, string(n.Data))
		require.Zero(t, logged.FilterMessageSnippet("ensemble").Len())
	}
}

// TestOlderValuesAreNotPublished: a server that was set back without a new ensemble id shows an older change.
func TestOlderValuesAreNotPublished(t *testing.T) {
	ahead, behind := serve(t), serve(t)
	ensembleAt(t, ahead, "one")
	ensembleAt(t, behind, "one")
	board := &switchboard{}
	board.net.Store(ahead)
	s, _ := open(t, "zookeeper.invalid:2181", func(c *metadata.Config) { c.Dialer = board.dial }, brisk)
	p1, p2 := person(t, ahead.ConnectString()), person(t, behind.ConnectString())
	_, err := p2.Create("/t", wish("old"), 0, zk.WorldACL(zk.PermAll))
	require.NoError(t, err)
	for i := range 30 {
		_, err = p1.Create(fmt.Sprintf("/ahead%d", i), nil, 0, zk.WorldACL(zk.PermAll))
		require.NoError(t, err)
	}
	_, err = p1.Create("/t", wish("new"), 0, zk.WorldACL(zk.PermAll))
	require.NoError(t, err)
	got, _ := follow(t, s, "/t")
	got.until(t, on("new"))
	board.net.Store(behind)
	ahead.Stop()
	u := got.until(t, failing(errs.ErrConflict))
	require.Equal(t, "new", u.Value.Cluster)
	require.ErrorContains(t, u.Err, "older")
	for range 50 {
		_, err = p2.Set("/t", wish("newest"), -1)
		require.NoError(t, err)
	}
	got.until(t, on("newest"))
	order(t, got.all())
}

func (b *switchboard) dial(ctx context.Context, network, _ string) (net.Conn, error) {
	return (&net.Dialer{}).DialContext(ctx, network, b.net.Load().Addrs()[0])
}
