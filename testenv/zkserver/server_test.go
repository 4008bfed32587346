package zkserver_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/go-zookeeper/zk"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/turnout-mq/turnout/testenv/zkserver"
	"github.com/turnout-mq/turnout/testenv/zkserver/jute"
	"github.com/turnout-mq/turnout/testenv/zkserver/rawzk"
)

// patience bounds every wait for something that must happen.
const patience = time.Minute

type silent struct{}

func (silent) Printf(string, ...any) {}

func start(t testing.TB, opt zkserver.Options) *zkserver.Server {
	t.Helper()
	s, err := zkserver.Start(context.Background(), opt)
	require.NoError(t, err)
	t.Cleanup(s.Close)
	return s
}

// lib connects with the library and waits for the session.
func lib(t testing.TB, s *zkserver.Server) *zk.Conn {
	t.Helper()
	// The library pauses for a second after each pass over its list of servers.
	servers := append(append(s.Addrs(), s.Addrs()...), s.Addrs()...)
	c, _, err := zk.Connect(servers, time.Minute, zk.WithLogger(silent{}))
	require.NoError(t, err)
	t.Cleanup(c.Close)
	require.Eventually(t, func() bool { return c.State() == zk.StateHasSession }, patience, time.Millisecond)
	return c
}

func dial(t testing.TB, s *zkserver.Server, opt rawzk.Options) *rawzk.Client {
	t.Helper()
	c, err := rawzk.Dial(context.Background(), s.Addrs()[0], opt)
	require.NoError(t, err)
	t.Cleanup(c.Abandon)
	return c
}

var world = []jute.ACL{{Perms: jute.PermAll, ID: jute.ID{Scheme: "world", ID: "anyone"}}}

func create(path string, flags int32) *jute.Encoder {
	return new(jute.Encoder).Ustring(path).Buffer([]byte("0")).ACLs(world).Int32(flags)
}

func set(path, data string) *jute.Encoder {
	return new(jute.Encoder).Ustring(path).Buffer([]byte(data)).Int32(-1)
}

func read(path string, watch bool) *jute.Encoder {
	return new(jute.Encoder).Ustring(path).Bool(watch)
}

func do(t testing.TB, c *rawzk.Client, op jute.Op, body *jute.Encoder) *jute.Decoder {
	t.Helper()
	d, err := c.Call(op, body)
	require.NoError(t, err)
	return d
}

func data(t testing.TB, c *rawzk.Client, path string) string {
	t.Helper()
	return string(do(t, c, jute.OpGetData, read(path, false)).Buffer())
}

func TestRestartKeepsTreeAndSessions(t *testing.T) {
	s := start(t, zkserver.Options{Ports: []int{0, 0, 0}})
	c := lib(t, s)
	id := c.SessionID()
	_, err := c.Create("/e", []byte("1"), zk.FlagEphemeral, zk.WorldACL(zk.PermAll))
	require.NoError(t, err)
	// The library has a data race if requests are made while it sets watches again
	// after a reconnect, so another connection watches and makes none.
	_, _, watch, err := lib(t, s).GetW("/e")
	require.NoError(t, err)
	addrs := s.Addrs()
	require.Len(t, addrs, 3)
	s.Stop()
	s.Stop()
	_, err = net.Dial("tcp", addrs[0])
	require.Error(t, err)
	require.NoError(t, s.Restart())
	require.Equal(t, addrs, s.Addrs())
	require.Eventually(t, func() bool {
		_, err := c.Set("/e", []byte("2"), 0)
		return err == nil
	}, patience, 10*time.Millisecond)
	select {
	case e := <-watch:
		require.Equal(t, zk.EventNodeDataChanged, e.Type)
	case <-time.After(patience):
		t.Fatal("the watch did not survive the restart")
	}
	_, stat, err := c.Get("/e")
	require.NoError(t, err)
	require.Equal(t, id, stat.EphemeralOwner)
	require.Equal(t, id, c.SessionID())

	require.NoError(t, s.Restart(), "of a running server")
	s.Close()
	s.Close()
	require.ErrorIs(t, s.Restart(), zkserver.ErrClosed)
}

func TestSessionClocksStartAnewAtRestart(t *testing.T) {
	s := start(t, zkserver.Options{})
	c := dial(t, s, rawzk.Options{Timeout: time.Second})
	do(t, c, jute.OpCreate, create("/e", jute.FlagEphemeral))
	s.Stop()
	down := time.Now()
	require.Eventually(t, func() bool { return time.Since(down) > c.Timeout }, patience, time.Millisecond)
	require.Len(t, s.Sessions(), 1)
	require.NoError(t, s.Restart())
	c = dial(t, s, rawzk.Options{SessionID: c.SessionID, Passwd: c.Passwd, Timeout: time.Second})
	require.Equal(t, "0", data(t, c, "/e"))
	c.Abandon()
	require.Eventually(t, func() bool { return len(s.Sessions()) == 0 }, patience, time.Millisecond)
}

func TestRestartOnATakenPortFailsAndCanBeRepeated(t *testing.T) {
	s := start(t, zkserver.Options{Ports: []int{0, 0}})
	s.Stop()
	ln, err := net.Listen("tcp", s.Addrs()[1])
	require.NoError(t, err)
	_, port, err := net.SplitHostPort(s.Addrs()[1])
	require.NoError(t, err)
	require.ErrorContains(t, s.Restart(), "port "+port)
	require.NoError(t, ln.Close())
	require.NoError(t, s.Restart())
	dial(t, s, rawzk.Options{})
}

func TestEveryPortLeadsToTheSameServer(t *testing.T) {
	s := start(t, zkserver.Options{Ports: []int{0, 0, 0}})
	require.Equal(t, strings.Join(s.Addrs(), ","), s.ConnectString())
	do(t, dial(t, s, rawzk.Options{}), jute.OpCreate, create("/a", 0))
	for _, addr := range s.Addrs() {
		c, err := rawzk.Dial(context.Background(), addr, rawzk.Options{})
		require.NoError(t, err)
		require.Equal(t, "0", data(t, c, "/a"))
		require.NoError(t, c.Close())
	}
}

func TestOptionsAreChecked(t *testing.T) {
	s := start(t, zkserver.Options{})
	_, port, err := net.SplitHostPort(s.Addrs()[0])
	require.NoError(t, err)
	taken, err := strconv.Atoi(port)
	require.NoError(t, err)
	for want, opt := range map[string]zkserver.Options{
		"Ports has -1":                        {Ports: []int{-1}},
		"Ports has 65536":                     {Ports: []int{0, 65536}},
		"listen on port " + port:              {Ports: []int{0, taken}},
		"MinSessionTimeout is 1ms":            {MinSessionTimeout: time.Millisecond},
		"MaxSessionTimeout 50ms":              {MaxSessionTimeout: 50 * time.Millisecond},
		"MinSessionTimeout is 2m0s and MaxSe": {MinSessionTimeout: 2 * time.Minute},
	} {
		s, err := zkserver.Start(context.Background(), opt)
		require.ErrorContains(t, err, want)
		require.Nil(t, s)
	}
}

func TestSessionTimeoutIsBounded(t *testing.T) {
	s := start(t, zkserver.Options{MinSessionTimeout: 2 * time.Second, MaxSessionTimeout: 3 * time.Second})
	for asked, want := range map[time.Duration]time.Duration{
		time.Second: 2 * time.Second, 2500 * time.Millisecond: 2500 * time.Millisecond, time.Hour: 3 * time.Second,
	} {
		c := dial(t, s, rawzk.Options{Timeout: asked})
		require.Equal(t, want, c.Timeout)
		// A reconnect negotiates again.
		c = dial(t, s, rawzk.Options{Timeout: time.Hour, SessionID: c.SessionID, Passwd: c.Passwd})
		require.Equal(t, 3*time.Second, c.Timeout)
	}
}

func TestContainerAndTTLNodesGo(t *testing.T) {
	s := start(t, zkserver.Options{})
	c := dial(t, s, rawzk.Options{})
	gone := func(path string) {
		t.Helper()
		require.Eventually(t, func() bool {
			_, err := c.Call(jute.OpExists, read(path, false))
			return errors.Is(err, jute.NoNode)
		}, patience, time.Millisecond)
	}
	do(t, c, jute.OpCreateContainer, create("/unused", jute.FlagContainer))
	do(t, c, jute.OpCreateContainer, create("/used", jute.FlagContainer))
	do(t, c, jute.OpCreate, create("/used/x", 0))
	// In one step, or its time might be over before it is a parent.
	do(t, c, jute.OpMulti, new(jute.Encoder).
		Int32(int32(jute.OpCreateTTL)).Bool(false).Int32(-1).Raw(create("/parent", jute.FlagPersistentWithTTL).Int64(1).Bytes()).
		Int32(int32(jute.OpCreate)).Bool(false).Int32(-1).Raw(create("/parent/x", 0).Bytes()).
		Int32(-1).Bool(true).Int32(-1))
	do(t, c, jute.OpCreateTTL, create("/late", jute.FlagPersistentWithTTL).Int64(time.Hour.Milliseconds()))
	do(t, c, jute.OpCreateTTL, create("/soon", jute.FlagPersistentWithTTL).Int64(1))
	do(t, c, jute.OpAddWatch, new(jute.Encoder).Ustring("/").Int32(jute.AddWatchPersistentRecursive))
	gone("/soon")
	for _, path := range []string{"/unused", "/used", "/parent", "/late"} {
		require.Equal(t, "0", data(t, c, path), path)
	}
	do(t, c, jute.OpDelete, new(jute.Encoder).Ustring("/used/x").Int32(-1))
	do(t, c, jute.OpDelete, new(jute.Encoder).Ustring("/parent/x").Int32(-1))
	gone("/used")
	gone("/parent")
	require.Equal(t, "0", data(t, c, "/unused"))
	told := map[string]bool{}
	for _, e := range c.Events() {
		require.Equal(t, jute.EventDeleted, e.Type)
		told[e.Path] = true
	}
	require.True(t, told["/used"] && told["/parent"])
}

func TestFourLetterWords(t *testing.T) {
	s := start(t, zkserver.Options{})
	c := dial(t, s, rawzk.Options{})
	do(t, c, jute.OpCreate, create("/a", jute.FlagEphemeral))
	do(t, c, jute.OpGetData, read("/a", true))
	word := func(w string) string {
		nc, err := net.Dial("tcp", s.Addrs()[0])
		require.NoError(t, err)
		defer func() { _ = nc.Close() }()
		require.NoError(t, nc.SetDeadline(time.Now().Add(patience)))
		_, err = io.WriteString(nc, w)
		require.NoError(t, err)
		b, err := io.ReadAll(nc)
		require.NoError(t, err)
		return string(b)
	}
	require.Equal(t, "imok", word("ruok"))
	require.Equal(t, "imok", word("ruok\n"))
	require.Equal(t, "rw", word("isro"))
	require.Equal(t, "1 connections watching 1 paths\nTotal watches:1\n", word("wchs"))
	require.Regexp(t, `^Zookeeper version: 3\.9\.\S+, built on [^\n]+\nLatency min/avg/max: 0/0.0/0\nReceived: 3\nSent: \d+\n`+
		`Connections: 2\nOutstanding: 0\nZxid: 0x2\nMode: standalone\nNode count: 5\n$`, word("srvr"))
	for _, line := range []string{"zk_server_state\tstandalone\n", "zk_znode_count\t5\n", "zk_ephemerals_count\t1\n", "zk_watch_count\t1\n", "zk_global_sessions\t1\n"} {
		require.Contains(t, word("mntr"), line)
	}
	require.Regexp(t, fmt.Sprintf(`/127\.0\.0\.1:\d+\[1\]\(queued=0,recved=3,sent=3,sid=0x%x,lop=GETD,est=\d+,to=30000,lcxid=0x2,lzxid=0x2,`, c.SessionID), word("cons"))
	c.Abandon()
	require.Eventually(t, func() bool { return strings.Contains(word("mntr"), "zk_watch_count\t0\n") }, patience, time.Millisecond)
}

func TestAClientThatDoesNotReadIsCut(t *testing.T) {
	s := start(t, zkserver.Options{})
	c := dial(t, s, rawzk.Options{})
	do(t, c, jute.OpCreate, create("/a", 0))
	do(t, c, jute.OpSetData, set("/a", strings.Repeat("x", 1<<20-100)))
	nc, err := net.Dial("tcp", s.Addrs()[0])
	require.NoError(t, err)
	defer func() { _ = nc.Close() }()
	hello := new(jute.Encoder).ConnectRequest(jute.ConnectRequest{TimeoutMs: 30000, SessionID: c.SessionID, Passwd: c.Passwd})
	_, err = nc.Write(jute.Frame(hello.Bytes()))
	require.NoError(t, err)
	get := jute.Frame(new(jute.Encoder).Int32(1).Int32(int32(jute.OpGetData)).Bytes(), read("/a", false).Bytes())
	require.NoError(t, nc.SetWriteDeadline(time.Now().Add(patience)))
	for range 200 {
		if _, err = nc.Write(get); err != nil {
			break
		}
	}
	require.Eventually(t, func() bool { return s.Sessions()[0].ClientAddr == "" }, patience, time.Millisecond)
	again := dial(t, s, rawzk.Options{SessionID: c.SessionID, Passwd: c.Passwd})
	require.Len(t, data(t, again, "/a"), 1<<20-100)
}

// A multi does what its writes would do one by one, or nothing.
func TestMultiIsItsWritesOrNothing(t *testing.T) {
	s := start(t, zkserver.Options{})
	c := dial(t, s, rawzk.Options{})
	n := 0
	rapid.Check(t, func(rt *rapid.T) {
		n++
		one, all := fmt.Sprintf("/one%d", n), fmt.Sprintf("/all%d", n)
		for _, root := range []string{one, all} {
			do(t, c, jute.OpCreate, create(root, 0))
			do(t, c, jute.OpCreate, create(root+"/a", 0))
			do(t, c, jute.OpCreate, create(root+"/a/e", jute.FlagEphemeral))
		}
		names := rapid.SampledFrom([]string{"", "/a", "/b", "/a/a", "/a/e", "/a/e/x", "/b/a", "/b/a/c"})
		kinds := rapid.SampledFrom([]jute.Op{jute.OpCreate, jute.OpCreate, jute.OpCreate2, jute.OpDelete, jute.OpSetData})
		type write struct {
			op      jute.Op
			name    string
			flags   int32
			version int32
		}
		var writes []write
		for range rapid.IntRange(1, 6).Draw(rt, "n") {
			writes = append(writes, write{
				kinds.Draw(rt, "op"), names.Draw(rt, "name"),
				rapid.Int32Range(0, 3).Draw(rt, "flags"), rapid.Int32Range(-1, 1).Draw(rt, "version"),
			})
		}
		body := func(w write, root string) *jute.Encoder {
			switch w.op {
			case jute.OpDelete:
				return new(jute.Encoder).Ustring(root + w.name).Int32(w.version)
			case jute.OpSetData:
				return new(jute.Encoder).Ustring(root + w.name).Buffer([]byte(w.name)).Int32(w.version)
			}
			return create(root+w.name, w.flags)
		}

		before := dump(t, c, all, all)
		failed, code := -1, error(nil)
		for i, w := range writes {
			if _, code = c.Call(w.op, body(w, one)); code != nil {
				failed = i
				break
			}
		}
		var e jute.Encoder
		for _, w := range writes {
			e.Int32(int32(w.op)).Bool(false).Int32(-1).Raw(body(w, all).Bytes())
		}
		d := do(t, c, jute.OpMulti, e.Int32(-1).Bool(true).Int32(-1))
		after := dump(t, c, all, all)
		if failed < 0 {
			require.Equal(rt, writes[0].op, jute.Op(d.Int32()))
			require.Equal(rt, dump(t, c, one, one), after)
			return
		}
		for range failed {
			require.Equal(rt, jute.OpError, jute.Op(d.Int32()))
			require.False(rt, d.Bool())
			require.EqualValues(rt, 0, d.Int32())
			require.EqualValues(rt, 0, d.Int32())
		}
		require.Equal(rt, jute.OpError, jute.Op(d.Int32()))
		d.Bool()
		require.Equal(rt, code, error(jute.Code(d.Int32())))
		require.Equal(rt, before, after)
	})
}

// dump returns a subtree with data and counters, by path below root.
func dump(t testing.TB, c *rawzk.Client, root, path string) map[string]string {
	t.Helper()
	d := do(t, c, jute.OpGetData, read(path, false))
	content, st := d.Buffer(), d.Stat()
	out := map[string]string{strings.TrimPrefix(path, root): fmt.Sprintf("%s v%d c%d e%d n%d", content, st.Version, st.Cversion, st.EphemeralOwner, st.NumChildren)}
	for _, name := range do(t, c, jute.OpGetChildren, read(path, false)).Strings() {
		for k, v := range dump(t, c, root, path+"/"+name) {
			out[k] = v
		}
	}
	return out
}

// FuzzRequest checks that any request is answered or costs its sender the
// connection, and hurts nobody else.
func FuzzRequest(f *testing.F) {
	for op, body := range map[jute.Op]*jute.Encoder{
		jute.OpCreate:        create("/fuzz", 3),
		jute.OpCreateTTL:     create("/fuzz", 5).Int64(1),
		jute.OpSetData:       set("/fuzz", "1"),
		jute.OpSetACL:        new(jute.Encoder).Ustring("/fuzz").ACLs(world).Int32(-1),
		jute.OpGetChildren2:  read("/", true),
		jute.OpAddWatch:      new(jute.Encoder).Ustring("/").Int32(1),
		jute.OpRemoveWatches: new(jute.Encoder).Ustring("/").Int32(3),
		jute.OpSetWatches2:   new(jute.Encoder).Int64(0).Strings([]string{"/"}).Strings(nil).Strings(nil).Strings(nil).Strings([]string{"/"}),
		jute.OpAuth:          new(jute.Encoder).Int32(0).Ustring("digest").Buffer([]byte("a:b")),
		jute.OpMulti:         new(jute.Encoder).Int32(1).Bool(false).Int32(-1).Raw(create("/fuzz", 0).Bytes()).Int32(-1).Bool(true).Int32(-1),
		jute.OpCloseSession:  new(jute.Encoder),
	} {
		f.Add(int32(op), body.Bytes())
	}
	s := start(f, zkserver.Options{})
	control := dial(f, s, rawzk.Options{})
	f.Fuzz(func(t *testing.T, op int32, body []byte) {
		c, err := rawzk.Dial(context.Background(), s.Addrs()[0], rawzk.Options{})
		require.NoError(t, err)
		defer func() { _ = c.Close() }()
		_, err = c.Call(jute.Op(op), new(jute.Encoder).Raw(body))
		if ne, ok := errors.AsType[net.Error](err); ok {
			require.False(t, ne.Timeout(), "neither answered nor cut")
		}
		require.Equal(t, "/", do(t, control, jute.OpSync, new(jute.Encoder).Ustring("/")).Ustring())
		control.Events()
	})
}
