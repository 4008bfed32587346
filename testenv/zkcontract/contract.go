// Package zkcontract is what Turnout relies on in a ZooKeeper server, as a test
// suite: nodes, versions, multi, ACLs, sessions, and above all the watch
// contract. The same suite runs on the embedded server and on Apache ZooKeeper,
// so that what passes on the one holds on the other.
//
// The cases are played through the library github.com/go-zookeeper/zk where it
// can, and through a small raw client where the order of frames matters or the
// library lacks the request. That something does not happen is proven without
// waiting: events come before the answer to a later request on the same
// connection, so after such an answer there is none under way.
package zkcontract

import (
	"context"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-zookeeper/zk"
	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/turnout-mq/turnout/testenv/zkserver/jute"
	"github.com/turnout-mq/turnout/testenv/zkserver/rawzk"
)

// Target is the server under test. It must grant session timeouts from 1 s to
// 30 s, have the four-letter words ruok and srvr allowed, TTL nodes enabled
// (zookeeper.extendedTypesEnabled) and jute.maxbuffer at its default.
type Target interface {
	// ConnectString is host:port, several ones joined by commas. The suite uses
	// the first.
	ConnectString() string
	// CutConnections breaks every client connection at ConnectString. Sessions
	// live on and clients may connect again at once.
	CutConnections() error
	// ExpireSession ends a session of a client at ConnectString as if its time
	// were over.
	ExpireSession(id int64) error
}

// patience bounds every wait for something that must happen.
const patience = time.Minute

// suite is one case's access to the target.
type suite struct {
	*testing.T
	target Target
	addr   string
	root   string // a node of this case alone
}

type testCase struct {
	name string
	run  func(*suite)
}

// Run runs the suite on the target that open gives; open is called once.
func Run(t *testing.T, open func(t *testing.T) Target) {
	target := open(t)
	addr, _, _ := strings.Cut(target.ConnectString(), ",")
	for _, group := range []struct {
		name  string
		cases []testCase
	}{
		{"nodes", nodeCases}, {"multi", multiCases}, {"access", accessCases}, {"sessions", sessionCases},
		{"watches", watchCases}, {"persistent", persistentCases},
	} {
		t.Run(group.name, func(t *testing.T) {
			for _, c := range group.cases {
				t.Run(c.name, func(t *testing.T) {
					s := &suite{T: t, target: target, addr: addr, root: "/zkcontract-" + uuid.NewString()}
					r := s.raw(rawzk.Options{})
					r.create(s.root, "", jute.FlagPersistent)
					t.Cleanup(func() { s.removeAll(s.root) })
					c.run(s)
				})
			}
		})
	}
}

// removeAll deletes a subtree; what is not ours to delete stays.
func (s *suite) removeAll(path string) {
	c, err := rawzk.Dial(context.Background(), s.addr, rawzk.Options{})
	if err != nil {
		return
	}
	defer func() { _ = c.Close() }()
	_, _ = c.Call(jute.OpAuth, new(jute.Encoder).Int32(0).Ustring("digest").Buffer([]byte("alice:secret")))
	var walk func(string)
	walk = func(path string) {
		if d, err := c.Call(jute.OpGetChildren, pathAndBool(path, false)); err == nil {
			for _, name := range d.Strings() {
				walk(path + "/" + name)
			}
		}
		_, _ = c.Call(jute.OpDelete, pathAndInt(path, -1))
	}
	walk(path)
}

// path returns the path of a node below the root of the case.
func (s *suite) path(name string) string { return s.root + "/" + name }

// eventually polls until ok.
func (s *suite) eventually(ok func() bool, what string) {
	s.Helper()
	require.Eventually(s, ok, patience, 5*time.Millisecond, what)
}

// lib is the ZooKeeper library with everything that it was told since it had
// its session.
type lib struct {
	*zk.Conn
	s      *suite
	events chan zk.Event // all events in order, session events too
	dial   sync.Mutex    // held by a case to keep the library away
}

type silent struct{}

func (silent) Printf(string, ...any) {}

// lib connects with the library and waits for the session.
func (s *suite) lib() *lib {
	s.Helper()
	l := &lib{s: s, events: make(chan zk.Event, 10000)}
	// The library pauses for a second after each pass over its list of servers.
	servers := []string{s.addr, s.addr, s.addr, s.addr}
	c, _, err := zk.Connect(servers, 30*time.Second, zk.WithLogger(silent{}),
		zk.WithDialer(func(network, addr string, timeout time.Duration) (net.Conn, error) {
			l.dial.Lock()
			defer l.dial.Unlock()
			return net.DialTimeout(network, addr, timeout)
		}),
		zk.WithEventCallback(func(e zk.Event) {
			select {
			case l.events <- e:
			default: // never: no case makes so many
			}
		}))
	require.NoError(s, err)
	s.Cleanup(c.Close)
	l.Conn = c
	l.waitState(zk.StateHasSession)
	return l
}

var everybody = zk.WorldACL(zk.PermAll)

func (l *lib) create(path, data string, flags int32) string {
	l.s.Helper()
	p, err := l.Create(path, []byte(data), flags, everybody)
	require.NoError(l.s, err, "create %s", path)
	return p
}

func (l *lib) set(path, data string) *zk.Stat {
	l.s.Helper()
	stat, err := l.Set(path, []byte(data), -1)
	require.NoError(l.s, err, "set %s", path)
	return stat
}

// again repeats an idempotent call until it succeeds, across lost connections.
func (l *lib) again(call func() error) {
	l.s.Helper()
	l.s.eventually(func() bool { return call() == nil }, "a call succeeds once the connection is back")
}

func (l *lib) watchData(path string) <-chan zk.Event {
	l.s.Helper()
	_, _, ch, err := l.GetW(path)
	require.NoError(l.s, err, "GetW %s", path)
	return ch
}

func (l *lib) watchChildren(path string) <-chan zk.Event {
	l.s.Helper()
	_, _, ch, err := l.ChildrenW(path)
	require.NoError(l.s, err, "ChildrenW %s", path)
	return ch
}

func (l *lib) watchExists(path string, want bool) <-chan zk.Event {
	l.s.Helper()
	ok, _, ch, err := l.ExistsW(path)
	require.NoError(l.s, err, "ExistsW %s", path)
	require.Equal(l.s, want, ok)
	return ch
}

// fires waits for the event of a watch.
func (s *suite) fires(ch <-chan zk.Event, typ zk.EventType, path string) {
	s.Helper()
	select {
	case e := <-ch:
		require.NoError(s, e.Err)
		require.Equal(s, typ, e.Type)
		require.Equal(s, path, e.Path)
	case <-time.After(patience):
		s.Fatalf("no event %v for %s", typ, path)
	}
}

// waitState waits until the library reports a session state, and returns the
// node events it reported before.
func (l *lib) waitState(want zk.State) (before []zk.Event) {
	l.s.Helper()
	deadline := time.After(patience)
	for {
		select {
		case e := <-l.events:
			if e.Type == zk.EventSession && e.State == want {
				return before
			}
			if e.Type != zk.EventSession {
				before = append(before, e)
			}
		case <-deadline:
			l.s.Fatalf("the library does not report %v", want)
		}
	}
}

// raw is the raw client with the checks of a test.
type raw struct {
	*rawzk.Client
	s *suite
}

func (s *suite) raw(opt rawzk.Options) *raw {
	s.Helper()
	c, err := rawzk.Dial(context.Background(), s.addr, opt)
	require.NoError(s, err)
	r := &raw{c, s}
	s.Cleanup(func() { _ = c.Close() })
	return r
}

// do sends a request that must succeed.
func (r *raw) do(op jute.Op, body *jute.Encoder) *jute.Decoder {
	r.s.Helper()
	d, err := r.Call(op, body)
	require.NoError(r.s, err, "request %d", op)
	return d
}

// fails sends a request that must be refused with the code.
func (r *raw) fails(want jute.Code, op jute.Op, body *jute.Encoder) {
	r.s.Helper()
	_, err := r.Call(op, body)
	require.ErrorIs(r.s, err, want, "request %d", op)
}

var openACL = []jute.ACL{{Perms: jute.PermAll, ID: jute.ID{Scheme: "world", ID: "anyone"}}}

func createRequest(path, data string, flags int32, acl []jute.ACL) *jute.Encoder {
	return new(jute.Encoder).Ustring(path).Buffer([]byte(data)).ACLs(acl).Int32(flags)
}

func setRequest(path, data string, version int32) *jute.Encoder {
	return new(jute.Encoder).Ustring(path).Buffer([]byte(data)).Int32(version)
}

func pathAndBool(path string, b bool) *jute.Encoder { return new(jute.Encoder).Ustring(path).Bool(b) }

func pathAndInt(path string, i int32) *jute.Encoder { return new(jute.Encoder).Ustring(path).Int32(i) }

func (r *raw) create(path, data string, flags int32) string {
	r.s.Helper()
	return r.do(jute.OpCreate, createRequest(path, data, flags, openACL)).Ustring()
}

func (r *raw) set(path, data string) {
	r.s.Helper()
	r.do(jute.OpSetData, setRequest(path, data, -1))
}

func (r *raw) delete(path string) {
	r.s.Helper()
	r.do(jute.OpDelete, pathAndInt(path, -1))
}

func (r *raw) get(path string, watch bool) (string, jute.Stat) {
	r.s.Helper()
	d := r.do(jute.OpGetData, pathAndBool(path, watch))
	return string(d.Buffer()), d.Stat()
}

func (r *raw) children(path string, watch bool) {
	r.s.Helper()
	r.do(jute.OpGetChildren, pathAndBool(path, watch))
}

func (r *raw) addWatch(path string, mode int32) {
	r.s.Helper()
	r.do(jute.OpAddWatch, pathAndInt(path, mode))
}

var eventNames = map[jute.EventType]string{
	jute.EventCreated: "created", jute.EventDeleted: "deleted", jute.EventDataChanged: "data", jute.EventChildrenChanged: "children",
}

// told returns what the client has been told so far, as "created /a" with paths
// below the root of the case. The server is asked first, so nothing is under way.
func (r *raw) told() []string {
	r.s.Helper()
	r.do(jute.OpSync, new(jute.Encoder).Ustring(r.s.root))
	return r.names(r.Events())
}

func (r *raw) names(events []rawzk.Event) []string {
	out := []string{}
	for _, e := range events {
		require.Equal(r.s, jute.StateSyncConnected, e.State)
		out = append(out, eventNames[e.Type]+" "+strings.TrimPrefix(e.Path, r.s.root))
	}
	return out
}
