package metadata_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/go-zookeeper/zk"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/turnout-mq/turnout/internal/errs"
	"github.com/turnout-mq/turnout/metadata"
	"github.com/turnout-mq/turnout/testenv/zkserver"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	patience = time.Minute
	moment   = 5 * time.Millisecond
)

// brisk makes a Store notice soon that a server does not answer or does not take its session. Where nobody waits for
// that, sessions and connections outlast a machine that stands still.
func brisk(c *metadata.Config) { c.SessionTimeout = 2 * time.Second }

func serve(t *testing.T) *zkserver.Server {
	t.Helper()
	srv, err := zkserver.Start(t.Context(), zkserver.Options{})
	require.NoError(t, err)
	t.Cleanup(srv.Close)
	return srv
}

// logs is what a Store logged.
type logs struct{ *observer.ObservedLogs }

func open(t *testing.T, connect string, change ...func(*metadata.Config)) (*metadata.Store, logs) {
	t.Helper()
	core, observed := observer.New(zap.InfoLevel)
	cfg := metadata.Config{ZooKeeper: connect, SessionTimeout: time.Minute, Recheck: time.Hour, Logger: zap.New(core)}
	for _, f := range change {
		f(&cfg)
	}
	s, err := metadata.Open(cfg)
	require.NoError(t, err)
	t.Cleanup(func() { closeStore(t, s) })
	return s, logs{observed}
}

func closeStore(t *testing.T, s *metadata.Store) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	require.NoError(t, s.Close(ctx))
}

func short(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	return ctx
}

// person is somebody with ZooKeeper's own client.
func person(t *testing.T, connect string) *zk.Conn {
	t.Helper()
	c, _, err := zk.Connect([]string{connect}, time.Minute, zk.WithLogInfo(false), zk.WithLogger(quiet{}))
	require.NoError(t, err)
	t.Cleanup(c.Close)
	return c
}

type quiet struct{}

func (quiet) Printf(string, ...any) {}

// seen collects Updates.
type seen[T any] struct {
	mu   sync.Mutex
	list []metadata.Update[T]
}

func (s *seen[T]) add(u metadata.Update[T]) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.list = append(s.list, u)
}

func (s *seen[T]) all() []metadata.Update[T] {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]metadata.Update[T](nil), s.list...)
}

func (s *seen[T]) last() metadata.Update[T] {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.list) == 0 {
		return metadata.Update[T]{}
	}
	return s.list[len(s.list)-1]
}

// until waits for an Update, as the newest, for which ok is true.
func (s *seen[T]) until(t *testing.T, ok func(metadata.Update[T]) bool) metadata.Update[T] {
	t.Helper()
	require.Eventually(t, func() bool { return len(s.all()) > 0 && ok(s.last()) }, patience, moment, "last: %+v", s)
	return s.last()
}

func (s *seen[T]) String() string {
	u := s.last()
	return fmt.Sprintf("%v known=%v stale=%v err=%v of %d", u.Value, u.Known, u.Stale, u.Err, len(s.all()))
}

// follow follows a wish.
func follow(t *testing.T, s *metadata.Store, path string, opts ...metadata.FollowOption) (*seen[metadata.Wish], *metadata.Follower) {
	t.Helper()
	var got seen[metadata.Wish]
	f := metadata.Follow(s, path, metadata.ParseWish, got.add, opts...)
	t.Cleanup(f.Close)
	return &got, f
}

func on(cluster string) func(metadata.Update[metadata.Wish]) bool {
	return func(u metadata.Update[metadata.Wish]) bool {
		return u.Known && u.Value.Cluster == cluster && u.Err == nil && !u.Stale
	}
}

func wish(cluster string) []byte { return []byte(`{"cluster":"` + cluster + `"}`) }

func TestConfigIsRefusedWithEveryReason(t *testing.T) {
	t.Setenv("TURNOUT_TEST_SECRET", "nocolon-s3cr3t")
	_, err := metadata.Open(metadata.Config{ZooKeeper: "h:x,,ok:1/a//b", Root: "x", ShadowRoot: "/a/", SessionTimeout: time.Millisecond, Recheck: -1,
		SnapshotDir: t.TempDir(), App: "?", AuthScheme: "digest", AuthSecret: "env:TURNOUT_TEST_SECRET"})
	require.ErrorIs(t, err, errs.ErrInvalid)
	for _, want := range []string{`ZooKeeper "h:x"`, `ZooKeeper ""`, "chroot", `Root "x"`, `ShadowRoot "/a/"`, "SessionTimeout 1ms", "Recheck -1ns", `App "?"`, "AuthSecret"} {
		require.Contains(t, err.Error(), want)
	}
	require.NotContains(t, err.Error(), "s3cr3t")
	_, err = metadata.Open(metadata.Config{})
	require.ErrorContains(t, err, "ZooKeeper")
	_, err = metadata.Open(metadata.Config{ZooKeeper: "h", AuthScheme: "sasl"})
	require.ErrorContains(t, err, "AuthScheme")
}

func TestReadAndWrite(t *testing.T) {
	srv := serve(t)
	s, _ := open(t, srv.ConnectString()+"/env/test")
	ctx := short(t)
	sess, err := s.WaitConnected(ctx)
	require.NoError(t, err)
	require.Equal(t, sess, s.Session())

	n, err := s.Read(ctx, "/a/b")
	require.NoError(t, err)
	require.Equal(t, metadata.Node{Path: "/a/b", Session: sess.ID}, n)
	require.NoError(t, s.Create(ctx, "/a/b", []byte("1")))
	require.ErrorIs(t, s.Create(ctx, "/a/b", nil), errs.ErrConflict)
	n, err = s.Read(ctx, "/a/b")
	require.NoError(t, err)
	require.True(t, n.Exists)
	require.Equal(t, "1", string(n.Data))
	require.Equal(t, n.Czxid, n.Mzxid)
	require.NoError(t, s.Set(ctx, "/a/b", []byte("2"), 0))
	require.ErrorIs(t, s.Set(ctx, "/a/b", []byte("3"), 0), errs.ErrConflict)
	require.ErrorIs(t, s.Set(ctx, "/a/c", nil, metadata.AnyVersion), errs.ErrNotFound)
	require.ErrorIs(t, s.Set(ctx, "/a/b", make([]byte, metadata.MaxDocument+1), 1), errs.ErrTooLarge)
	require.ErrorIs(t, s.Delete(ctx, "/a", metadata.AnyVersion), errs.ErrConflict)
	require.NoError(t, s.Sync(ctx, "/a"))

	err = s.Multi(ctx, metadata.CheckOp("/a/b", 1), metadata.CreateOp("/a/a", nil), metadata.SetOp("/a/b", []byte("x"), 7))
	require.ErrorIs(t, err, errs.ErrConflict)
	require.ErrorContains(t, err, "set /a/b")
	names, err := s.Children(ctx, "/a")
	require.NoError(t, err)
	require.Equal(t, []string{"b"}, names)
	require.NoError(t, s.Multi(ctx, metadata.CheckOp("/a/b", 1), metadata.CreateOp("/a/a", nil), metadata.SetOp("/a/b", []byte("x"), 1)))
	require.NoError(t, s.Multi(ctx, metadata.DeleteOp("/a/a", 0), metadata.DeleteOp("/a/b", 2)))
	_, err = s.Children(ctx, "/b")
	require.ErrorIs(t, err, errs.ErrNotFound)
	require.NoError(t, s.Multi(ctx))

	ok, _, err := person(t, srv.ConnectString()).Exists("/env/test/a")
	require.NoError(t, err)
	require.True(t, ok, "the chroot is added")
}

func TestContextsEndCallsWhateverTheServerDoes(t *testing.T) {
	srv := serve(t)
	s, _ := open(t, srv.ConnectString())
	_, err := s.WaitConnected(short(t))
	require.NoError(t, err)
	srv.Freeze()
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	_, err = s.Read(ctx, "/a")
	require.ErrorIs(t, err, context.DeadlineExceeded)
	require.ErrorIs(t, s.Set(ctx, "/a", nil, 0), context.DeadlineExceeded)
	_, f := follow(t, s, "/a")
	_, err = f.Refresh(ctx)
	require.ErrorIs(t, err, context.DeadlineExceeded)
	_, err = s.Register("/e").Ensure(ctx, nil)
	require.ErrorIs(t, err, context.DeadlineExceeded)
	srv.Thaw()
}

func TestCloseIsBoundedAndFinal(t *testing.T) {
	for name, fault := range map[string]func(*zkserver.Server){
		"healthy": func(*zkserver.Server) {},
		"frozen":  (*zkserver.Server).Freeze,
		"stopped": (*zkserver.Server).Stop,
	} {
		t.Run(name, func(t *testing.T) {
			srv := serve(t)
			defer srv.Thaw()
			s, _ := open(t, srv.ConnectString())
			_, err := s.WaitConnected(short(t))
			require.NoError(t, err)
			got, f := follow(t, s, "/a")
			got.until(t, func(u metadata.Update[metadata.Wish]) bool { return u.Err != nil })
			fault(srv)
			ended, cancel := context.WithCancel(t.Context())
			cancel()
			_ = s.Close(ended)
			closeStore(t, s)
			closeStore(t, s)
			_, err = s.Read(short(t), "/a")
			require.ErrorIs(t, err, errs.ErrClosed)
			_, err = f.Refresh(short(t))
			require.ErrorIs(t, err, errs.ErrClosed)
			_, err = s.WaitConnected(short(t))
			require.ErrorIs(t, err, errs.ErrClosed)
			require.NoError(t, s.Register("/e").Close(short(t)))
			late, lf := follow(t, s, "/a")
			lf.Close()
			require.Empty(t, late.all())
		})
	}
}

func TestOneBadServerNameDoesNotMatter(t *testing.T) {
	srv := serve(t)
	s, _ := open(t, "no-such-host.invalid:2181,127.0.0.1:1,"+srv.ConnectString())
	_, err := s.WaitConnected(short(t))
	require.NoError(t, err)
}

func TestStartWithoutZooKeeper(t *testing.T) {
	srv := serve(t)
	srv.Stop()
	s, logged := open(t, srv.ConnectString())
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	_, err := s.WaitConnected(ctx)
	require.ErrorIs(t, err, context.DeadlineExceeded)
	require.ErrorContains(t, err, srv.ConnectString())
	require.Equal(t, metadata.Session{}, s.Session())
	said := func() int { return logged.FilterMessageSnippet("can not connect").Len() }
	require.Eventually(t, func() bool { return said() > 0 }, patience, moment)
	require.NoError(t, srv.Restart())
	_, err = s.WaitConnected(short(t))
	require.NoError(t, err)
	require.Equal(t, 1, said(), "an outage is said once")
}

func TestSessionsAreToldInOrder(t *testing.T) {
	srv := serve(t)
	s, _ := open(t, srv.ConnectString())
	var mu sync.Mutex
	var got []metadata.Session
	told := func() []metadata.Session {
		mu.Lock()
		defer mu.Unlock()
		return append([]metadata.Session(nil), got...)
	}
	first, err := s.WaitConnected(short(t))
	require.NoError(t, err)
	cancel := s.OnSession(func(x metadata.Session) {
		mu.Lock()
		defer mu.Unlock()
		got = append(got, x)
	})
	release := make(chan struct{})
	slow := s.OnSession(func(metadata.Session) { <-release })
	defer slow()
	require.NoError(t, srv.ExpireSession(first.ID))
	var second metadata.Session
	require.Eventually(t, func() bool { second = s.Session(); return second.Connected && second.ID != first.ID }, patience, moment, "a slow function holds nothing else up")
	close(release)
	want := []metadata.Session{first, {ID: first.ID}, {}, second}
	require.Eventually(t, func() bool { return len(told()) == len(want) }, patience, moment)
	require.Equal(t, want, told())

	cancel()
	srv.DropConnections()
	require.Eventually(t, func() bool { return s.Session() == second }, patience, moment)
	_, err = s.Read(short(t), "/")
	require.NoError(t, err)
	require.Equal(t, want, told(), "nothing after cancel")
}

func TestAuthenticationIsOnEveryConnection(t *testing.T) {
	srv := serve(t)
	t.Setenv("TURNOUT_TEST_SECRET", "alice:s3cr3t")
	s, logged := open(t, srv.ConnectString(), func(c *metadata.Config) { c.AuthScheme, c.AuthSecret = "digest", "env:TURNOUT_TEST_SECRET" })
	require.NoError(t, s.Create(short(t), "/x/y", []byte("1")))
	alice := person(t, srv.ConnectString())
	require.NoError(t, alice.AddAuth("digest", []byte("alice:s3cr3t")))
	acl, _, err := alice.GetACL("/x")
	require.NoError(t, err)
	require.Equal(t, zk.DigestACL(zk.PermAll, "alice", "s3cr3t"), acl)
	_, err = s.Register("/x/e").Ensure(short(t), nil)
	require.NoError(t, err)

	stranger, _ := open(t, srv.ConnectString())
	_, err = stranger.Read(short(t), "/x/y")
	require.ErrorIs(t, err, errs.ErrNotAllowed)
	require.ErrorIs(t, stranger.Set(short(t), "/x/y", nil, 0), errs.ErrNotAllowed)
	got, _ := follow(t, stranger, "/x/y")
	u := got.until(t, func(u metadata.Update[metadata.Wish]) bool { return u.Err != nil })
	require.ErrorIs(t, u.Err, errs.ErrNotAllowed)

	srv.DropConnections()
	require.NoError(t, s.Set(eventually(t, s), "/x/y", []byte("2"), 0))
	require.NoError(t, srv.ExpireSession(s.Session().ID))
	require.NoError(t, s.Set(eventually(t, s), "/x/y", []byte("3"), 1))
	for _, entry := range logged.All() {
		require.NotContains(t, fmt.Sprint(entry.Message, entry.ContextMap()), "s3cr3t")
	}
}

// eventually waits until reads work again after a fault, and returns a ctx for what comes next.
func eventually(t *testing.T, s *metadata.Store) context.Context {
	t.Helper()
	ctx := short(t)
	_, err := s.Read(ctx, "/")
	require.NoError(t, err)
	return ctx
}

// The last zxid that was seen goes with the connect request and with the watches of a connection that follows another one.
func TestTheLastZxidIsToldToTheNextServer(t *testing.T) {
	srv := serve(t)
	wire := &requests{}
	s, _ := open(t, srv.ConnectString(), func(c *metadata.Config) { c.Dialer = wire.dial })
	require.NoError(t, s.Create(short(t), "/t", wish("a")))
	got, _ := follow(t, s, "/t")
	got.until(t, on("a"))
	set := 0
	for round := 0; set < 3; round++ {
		require.Less(t, round, 100, "watches are set again on new connections")
		require.NoError(t, s.Set(eventually(t, s), "/t", wish(fmt.Sprintf("b%d", round)), metadata.AnyVersion))
		n, err := s.Read(short(t), "/t")
		require.NoError(t, err)
		got.until(t, func(u metadata.Update[metadata.Wish]) bool { return u.Node.Mzxid == n.Mzxid })
		srv.DropConnections()
		eventually(t, s)
		last := wire.count() - 1
		require.GreaterOrEqual(t, wire.connects(last), int64(n.Mzxid))
		if zxid := wire.watches(last); zxid != 0 { // else the watch had just fired, or is about to be set
			require.Equal(t, wire.connects(last), zxid, "of the connection before, not of an answer since")
			set++
		}
	}
	before := wire.count()
	require.NoError(t, srv.ExpireSession(s.Session().ID))
	require.Eventually(t, func() bool { return wire.count() > before+1 }, patience, moment, "one that is told of the expiry, one anew")
	eventually(t, s)
	require.Zero(t, wire.connects(before+1), "a new session may begin anywhere")
}

// requests keeps what the client sends, a list for each connection.
type requests struct {
	mu    sync.Mutex
	conns [][][]byte
}

type recorded struct {
	net.Conn
	of *requests
	at int
}

func (r *requests) dial(ctx context.Context, network, address string) (net.Conn, error) {
	nc, err := new(net.Dialer).DialContext(ctx, network, address)
	if err != nil {
		return nil, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.conns = append(r.conns, nil)
	return &recorded{nc, r, len(r.conns) - 1}, nil
}

func (c *recorded) Write(b []byte) (int, error) {
	c.of.mu.Lock()
	c.of.conns[c.at] = append(c.of.conns[c.at], bytes.Clone(b))
	c.of.mu.Unlock()
	return c.Conn.Write(b)
}

func (r *requests) count() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.conns)
}

// connects is the zxid in the connect request of a connection, -1: there is none.
func (r *requests) connects(conn int) int64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	if conn >= len(r.conns) || len(r.conns[conn]) == 0 {
		return -1
	}
	return int64(binary.BigEndian.Uint64(r.conns[conn][0][8:]))
}

// watches is the zxid in the request of a connection that sets watches, 0: there is none.
func (r *requests) watches(conn int) int64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	if conn < len(r.conns) {
		for _, b := range r.conns[conn][min(1, len(r.conns[conn])):] {
			if binary.BigEndian.Uint32(b[8:]) == 101 {
				return int64(binary.BigEndian.Uint64(b[12:]))
			}
		}
	}
	return 0
}

func TestAnAnswerThatIsLostIsATimeout(t *testing.T) {
	srv := serve(t)
	s, _ := open(t, srv.ConnectString())
	require.NoError(t, s.Create(short(t), "/x", []byte("1")))
	srv.DropAnswers("/x", 1)
	require.ErrorIs(t, s.Set(short(t), "/x", []byte("2"), 0), errs.ErrTimeout)
	n, err := s.Read(short(t), "/x")
	require.NoError(t, err, "reads are repeated")
	require.Equal(t, "2", string(n.Data))
}

func TestRegistration(t *testing.T) {
	srv := serve(t)
	s, _ := open(t, srv.ConnectString())
	r := s.Register(s.InstancePath("app", metadata.NewInstanceID()))
	path := s.InstancesPath("app")
	read := func() metadata.Node {
		names, err := s.Children(short(t), path)
		require.NoError(t, err)
		require.Len(t, names, 1)
		n, err := s.Read(short(t), path+"/"+names[0])
		require.NoError(t, err)
		return n
	}
	require.ErrorIs(t, r.Set(short(t), nil), errs.ErrNotFound)
	first, err := r.Ensure(short(t), []byte("1"))
	require.NoError(t, err)
	require.Equal(t, s.Session().ID, first)
	n := read()
	require.Equal(t, first, n.EphemeralOwner)
	again, err := r.Ensure(short(t), []byte("1"))
	require.NoError(t, err)
	require.Equal(t, first, again)
	require.Equal(t, n, read(), "nothing to do, nothing done")
	_, err = r.Ensure(short(t), []byte("2"))
	require.NoError(t, err)
	require.Equal(t, "2", string(read().Data))
	require.NoError(t, r.Set(short(t), []byte("3")))
	require.Equal(t, "3", string(read().Data))

	t.Run("again after expiry", func(t *testing.T) {
		require.NoError(t, srv.ExpireSession(first))
		require.Eventually(t, func() bool { x := s.Session(); return x.Connected && x.ID != first }, patience, moment)
		second, err := r.Ensure(short(t), []byte("4"))
		require.NoError(t, err)
		require.NotEqual(t, first, second)
		require.Equal(t, second, read().EphemeralOwner)
	})
	t.Run("a node of an older session is replaced", func(t *testing.T) {
		other, _ := open(t, srv.ConnectString())
		_, err := other.Register(read().Path).Ensure(short(t), []byte("old"))
		require.NoError(t, err)
		session, err := r.Ensure(short(t), []byte("5"))
		require.NoError(t, err)
		require.Equal(t, session, read().EphemeralOwner)
		require.Equal(t, "5", string(read().Data))
	})
	t.Run("answers lost", func(t *testing.T) {
		srv.DropAnswers(path, 1)
		_, err := r.Ensure(short(t), []byte("6"))
		require.NoError(t, err)
		require.Equal(t, "6", string(read().Data))
		require.NoError(t, srv.ExpireSession(s.Session().ID))
		srv.DropAnswers(path, 1)
		_, err = r.Ensure(short(t), []byte("7"))
		require.NoError(t, err)
		require.Equal(t, "7", string(read().Data))
	})
	require.NoError(t, r.Close(short(t)))
	require.NoError(t, r.Close(short(t)))
	names, err := s.Children(short(t), path)
	require.NoError(t, err)
	require.Empty(t, names)
	_, err = r.Ensure(short(t), nil)
	require.ErrorIs(t, err, errs.ErrClosed)
	require.ErrorIs(t, r.Set(short(t), nil), errs.ErrClosed)
}
