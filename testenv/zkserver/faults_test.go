package zkserver_test

import (
	"context"
	"net"
	"testing"
	"time"

	"github.com/go-zookeeper/zk"
	"github.com/stretchr/testify/require"

	"github.com/turnout-mq/turnout/testenv/zkserver"
	"github.com/turnout-mq/turnout/testenv/zkserver/jute"
	"github.com/turnout-mq/turnout/testenv/zkserver/rawzk"
)

// events returns the paths of the events so far, none under way.
func events(t *testing.T, c *rawzk.Client) []string {
	t.Helper()
	do(t, c, jute.OpSync, new(jute.Encoder).Ustring("/"))
	var out []string
	for _, e := range c.Events() {
		out = append(out, e.Path)
	}
	return out
}

func TestForgetWatches(t *testing.T) {
	s := start(t, zkserver.Options{})
	a, b := dial(t, s, rawzk.Options{}), dial(t, s, rawzk.Options{})
	do(t, a, jute.OpCreate, create("/x", 0))
	watch := func() {
		for _, c := range []*rawzk.Client{a, b} {
			do(t, c, jute.OpGetData, read("/x", true))
			do(t, c, jute.OpAddWatch, new(jute.Encoder).Ustring("/").Int32(jute.AddWatchPersistentRecursive))
		}
	}
	watch()
	require.Equal(t, 2, s.ForgetWatches(a.SessionID))
	do(t, b, jute.OpSetData, set("/x", "1"))
	require.Empty(t, events(t, a))
	require.Equal(t, []string{"/x"}, events(t, b))
	watch()
	require.Equal(t, 4, s.ForgetWatches())
	do(t, b, jute.OpSetData, set("/x", "2"))
	require.Empty(t, events(t, a))
	require.Empty(t, events(t, b))
	require.Zero(t, s.ForgetWatches())
	watch()
	do(t, b, jute.OpSetData, set("/x", "3"))
	require.Equal(t, []string{"/x"}, events(t, a))
}

func TestDropAnswers(t *testing.T) {
	s := start(t, zkserver.Options{})
	c := lib(t, s)
	for _, p := range []string{"/a", "/a/b", "/ab"} {
		_, err := c.Create(p, nil, 0, zk.WorldACL(zk.PermAll))
		require.NoError(t, err)
	}
	set := func(path, data string) error {
		_, err := c.Set(path, []byte(data), -1)
		return err
	}
	value := func(path string) (v string) {
		t.Helper()
		require.Eventually(t, func() bool {
			b, _, err := c.Get(path)
			v = string(b)
			return err == nil
		}, patience, time.Millisecond)
		return v
	}
	id := c.SessionID()
	s.DropAnswers("/a", 2)
	require.NoError(t, set("/ab", "elsewhere"))
	_, err := c.Set("/a", nil, 77)
	require.ErrorIs(t, err, zk.ErrBadVersion, "a write that fails is answered")
	require.Empty(t, value("/a"))
	require.ErrorIs(t, set("/a", "1"), zk.ErrConnectionClosed)
	require.Equal(t, "1", value("/a"))
	_, err = c.Multi(
		&zk.SetDataRequest{Path: "/ab", Data: []byte("2"), Version: -1},
		&zk.SetDataRequest{Path: "/a/b", Data: []byte("2"), Version: -1},
	)
	require.ErrorIs(t, err, zk.ErrConnectionClosed)
	require.Equal(t, "2", value("/a/b"))
	require.NoError(t, set("/a", "3"))
	require.Equal(t, id, c.SessionID())

	s.DropAnswers("/", 1)
	_, err = c.Create("/seq-", nil, zk.FlagEphemeralSequential, zk.WorldACL(zk.PermAll))
	require.ErrorIs(t, err, zk.ErrConnectionClosed)
	require.Empty(t, value("/seq-0000000002"))
}

func TestDropConnections(t *testing.T) {
	s := start(t, zkserver.Options{})
	a, b := dial(t, s, rawzk.Options{}), dial(t, s, rawzk.Options{})
	do(t, a, jute.OpCreate, create("/e", jute.FlagEphemeral))
	s.DropConnections(a.SessionID)
	require.NoError(t, a.WaitClosed())
	require.Equal(t, "0", data(t, b, "/e"))
	s.DropConnections()
	require.NoError(t, b.WaitClosed())
	require.Len(t, s.Sessions(), 2)
	a = dial(t, s, rawzk.Options{SessionID: a.SessionID, Passwd: a.Passwd})
	require.Equal(t, "0", data(t, a, "/e"))
}

func TestRefuseConnections(t *testing.T) {
	s := start(t, zkserver.Options{})
	c := dial(t, s, rawzk.Options{})
	s.RefuseConnections(true)
	_, err := rawzk.Dial(context.Background(), s.Addrs()[0], rawzk.Options{})
	require.Error(t, err)
	do(t, c, jute.OpCreate, create("/a", 0))
	s.RefuseConnections(false)
	dial(t, s, rawzk.Options{})
	s.RefuseConnections(true)
	require.NoError(t, s.Restart(), "a restart ends the faults")
	dial(t, s, rawzk.Options{})
}

// short is the patience of a client that is to meet silence.
const short = 200 * time.Millisecond

func timesOut(t *testing.T, err error) {
	t.Helper()
	var ne net.Error
	require.ErrorAs(t, err, &ne)
	require.True(t, ne.Timeout())
}

func TestDelay(t *testing.T) {
	s := start(t, zkserver.Options{})
	c := dial(t, s, rawzk.Options{Patience: short})
	s.Delay(time.Hour)
	_, err := c.Call(jute.OpCreate, create("/a", jute.FlagEphemeral))
	timesOut(t, err)
	require.Eventually(t, func() bool { return s.Sessions()[0].Ephemerals == 1 }, patience, time.Millisecond, "only the answer is late")
	s.Delay(0)
	c = dial(t, s, rawzk.Options{SessionID: c.SessionID, Passwd: c.Passwd})
	require.Equal(t, "0", data(t, c, "/a"))

	// The order of events and answers does not change.
	w := dial(t, s, rawzk.Options{})
	do(t, w, jute.OpAddWatch, new(jute.Encoder).Ustring("/").Int32(jute.AddWatchPersistentRecursive))
	s.Delay(20 * time.Millisecond)
	do(t, w, jute.OpCreate, create("/b", 0))
	require.Equal(t, "/b", w.Events()[0].Path)
	do(t, c, jute.OpCreate, create("/c", 0))
	require.Equal(t, []string{"/c"}, events(t, w))
	s.Delay(time.Hour)
	go s.Stop() // does not wait for what is delayed
	require.NoError(t, c.WaitClosed())
}

func TestFreeze(t *testing.T) {
	s := start(t, zkserver.Options{})
	c, mortal := dial(t, s, rawzk.Options{}), dial(t, s, rawzk.Options{Timeout: time.Second})
	do(t, mortal, jute.OpCreate, create("/e", jute.FlagEphemeral))
	s.Freeze()
	s.Freeze()
	answered := make(chan error, 1)
	go func() {
		_, err := c.Call(jute.OpCreate, create("/a", 0))
		answered <- err
	}()
	nc, err := net.Dial("tcp", s.Addrs()[0])
	require.NoError(t, err, "connections are accepted")
	require.NoError(t, nc.Close())
	_, err = rawzk.Dial(context.Background(), s.Addrs()[0], rawzk.Options{Patience: 2 * mortal.Timeout})
	timesOut(t, err)
	require.Empty(t, answered)
	require.Len(t, s.Sessions(), 2, "nothing expires")
	s.Thaw()
	s.Thaw()
	require.NoError(t, <-answered)
	require.Equal(t, "0", data(t, c, "/a"))
	_, err = c.Call(jute.OpExists, read("/e", false))
	require.ErrorIs(t, err, jute.NoNode, "its time went on while the server was frozen")
	_, err = rawzk.Dial(context.Background(), s.Addrs()[0], rawzk.Options{SessionID: mortal.SessionID, Passwd: mortal.Passwd})
	require.ErrorIs(t, err, rawzk.ErrSessionExpired)

	s.Freeze()
	s.Close() // is not held up
}

func TestExpireSessionAndSessions(t *testing.T) {
	s := start(t, zkserver.Options{})
	a, b := dial(t, s, rawzk.Options{}), dial(t, s, rawzk.Options{Timeout: 7 * time.Second})
	do(t, a, jute.OpCreate, create("/e1", jute.FlagEphemeral))
	do(t, a, jute.OpCreate, create("/e2", jute.FlagEphemeral))
	do(t, b, jute.OpGetData, read("/e1", true))
	do(t, b, jute.OpGetChildren, read("/", true))
	infos := map[int64]zkserver.SessionInfo{}
	for _, i := range s.Sessions() {
		infos[i.ID] = i
	}
	require.Len(t, infos, 2)
	ib := infos[b.SessionID]
	require.Regexp(t, `^127\.0\.0\.1:\d+$`, ib.ClientAddr)
	ib.ClientAddr = ""
	require.Equal(t, zkserver.SessionInfo{ID: b.SessionID, Passwd: b.Passwd, Timeout: 7 * time.Second, Watches: 2}, ib)
	require.Equal(t, 2, infos[a.SessionID].Ephemerals)

	require.NoError(t, s.ExpireSession(a.SessionID))
	require.NoError(t, a.WaitClosed())
	require.ElementsMatch(t, []string{"/e1", "/"}, events(t, b))
	require.ErrorContains(t, s.ExpireSession(a.SessionID), "no session 0x")
	require.Len(t, s.Sessions(), 1)
	b.Abandon()
	require.Eventually(t, func() bool { return s.Sessions()[0].ClientAddr == "" }, patience, time.Millisecond)
	s.Stop()
	require.NoError(t, s.ExpireSession(b.SessionID), "also while the server is down")
	require.NoError(t, s.Restart())
	_, err := rawzk.Dial(context.Background(), s.Addrs()[0], rawzk.Options{SessionID: b.SessionID, Passwd: b.Passwd})
	require.ErrorIs(t, err, rawzk.ErrSessionExpired)
}
