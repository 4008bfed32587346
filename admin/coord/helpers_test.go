package coord_test

import (
	"context"
	"encoding/binary"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"go.uber.org/zap/zaptest"

	"github.com/turnout-mq/turnout/admin/coord"
	"github.com/turnout-mq/turnout/metadata"
	"github.com/turnout-mq/turnout/testenv"
)

func TestMain(m *testing.M) {
	child()
	goleak.VerifyTestMain(m)
}

const (
	patience = 30 * time.Second
	moment   = 5 * time.Millisecond
)

// roots numbers the trees of the cases, which share a ZooKeeper.
var roots atomic.Int64

// tree is where a case works.
type tree struct {
	*testing.T
	env  *testenv.Env
	root string
}

// each plays the case on every ZooKeeper, in a tree of its own.
func each(t *testing.T, servers int, play func(t *tree)) {
	testenv.Each(t, testenv.Spec{ZooKeeper: servers}, func(t *testing.T, e *testenv.Env) { play(newTree(t, e)) })
}

func newTree(t *testing.T, e *testenv.Env) *tree {
	return &tree{t, e, fmt.Sprintf("/coord-%d", roots.Add(1))}
}

// sub plays a part of a case in a tree of its own.
func (t *tree) sub(name string, play func(t *tree)) {
	t.Run(name, func(inner *testing.T) { play(newTree(inner, t.env)) })
}

func (t *tree) ctx() context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	return ctx
}

// open connects a Store of its own session; it is closed with the test.
func (t *tree) open(change ...func(*metadata.Config)) *metadata.Store {
	t.Helper()
	cfg := metadata.Config{ZooKeeper: t.env.ZooKeeper(), Root: t.root, SessionTimeout: 10 * time.Second}
	for _, f := range change {
		f(&cfg)
	}
	s, err := metadata.Open(cfg)
	require.NoError(t, err)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		require.NoError(t, s.Close(ctx))
	})
	_, err = s.WaitConnected(t.ctx())
	require.NoError(t, err)
	return s
}

// brief makes a session end soon after its client is gone.
func brief(c *metadata.Config) { c.SessionTimeout = 2 * time.Second }

func (t *tree) job(s *metadata.Store, name string) (job *coord.Job, instance string) {
	t.Helper()
	instance = metadata.NewInstanceID()
	job, err := coord.NewJob(s, name, instance, zaptest.NewLogger(t))
	require.NoError(t, err)
	return job, instance
}

func (t *tree) queue(s *metadata.Store) *coord.Queue {
	t.Helper()
	q, err := coord.NewQueue(s, "requests", zaptest.NewLogger(t))
	require.NoError(t, err)
	return q
}

func (t *tree) lock(s *metadata.Store) *coord.Held {
	t.Helper()
	held, err := coord.Lock(t.ctx(), s, "x")
	require.NoError(t, err)
	return held
}

func (t *tree) eventually(ok func() bool, format string, args ...any) {
	t.Helper()
	require.Eventuallyf(t, ok, patience, moment, format, args...)
}

// wait waits for a channel.
func wait[T any](t *tree, c <-chan T, what string) (v T) {
	t.Helper()
	select {
	case v = <-c:
	case <-time.After(patience):
		t.Fatalf("waited in vain for %s", what)
	}
	return v
}

// places are the nodes in the line at dir.
func (t *tree) places(s *metadata.Store, dir string) []string {
	t.Helper()
	require.NoError(t, s.Sync(t.ctx(), t.root))
	names, err := s.Children(t.ctx(), t.root+dir)
	require.NoError(t, err)
	return slices.DeleteFunc(names, func(n string) bool { return !strings.HasPrefix(n, "n_") })
}

// until waits until the line at dir has n places.
func (t *tree) until(s *metadata.Store, dir string, n int) {
	t.Helper()
	t.eventually(func() bool { return len(t.places(s, dir)) == n }, "%d places at %s", n, dir)
}

// notices counts the notices of watches that ZooKeeper sends to a client.
type notices struct{ atomic.Int64 }

// count makes a Store's connections count.
func (n *notices) count(c *metadata.Config) {
	c.Dialer = func(ctx context.Context, network, address string) (net.Conn, error) {
		nc, err := (&net.Dialer{}).DialContext(ctx, network, address)
		if err != nil {
			return nil, err
		}
		return &countingConn{Conn: nc, n: n}, nil
	}
}

// countingConn looks at the frames that come in: a length of 4 bytes, and in all but the first one the xid in the next 4,
// which is -1 in notices.
type countingConn struct {
	net.Conn
	n *notices

	mu     sync.Mutex
	head   []byte
	left   int
	frames int
}

func (c *countingConn) Read(b []byte) (int, error) {
	got, err := c.Conn.Read(b)
	c.mu.Lock()
	defer c.mu.Unlock()
	for in := b[:got]; len(in) > 0; {
		if c.left > 0 {
			skip := min(c.left, len(in))
			c.left -= skip
			in = in[skip:]
			continue
		}
		take := min(8-len(c.head), len(in))
		c.head = append(c.head, in[:take]...)
		in = in[take:]
		if len(c.head) == 8 {
			if c.frames++; c.frames > 1 && int32(binary.BigEndian.Uint32(c.head[4:])) == -1 {
				c.n.Add(1)
			}
			c.left = int(binary.BigEndian.Uint32(c.head)) - 4
			c.head = c.head[:0]
		}
	}
	return got, err
}
