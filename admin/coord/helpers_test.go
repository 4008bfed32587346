package coord_test

import (
	"context"
	"encoding/binary"
	"errors"
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

	"github.com/turnout-mq/turnout/admin/coord"
	"github.com/turnout-mq/turnout/internal/errs"
	"github.com/turnout-mq/turnout/metadata"
	"github.com/turnout-mq/turnout/testenv"
)

func TestMain(m *testing.M) {
	child()
	goleak.VerifyTestMain(m)
}

const (
	patience = 2 * time.Minute
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

func newTree(t *testing.T, e *testenv.Env) *tree {
	return &tree{t, e, fmt.Sprintf("/coord-%d", roots.Add(1))}
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
	cfg := metadata.Config{ZooKeeper: t.env.ZooKeeper(), Root: t.root, SessionTimeout: 50 * time.Second}
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
func brief(c *metadata.Config) { c.SessionTimeout = 6 * time.Second }

func (t *tree) job(s *metadata.Store) (job *coord.Job, instance string) {
	t.Helper()
	instance = metadata.NewInstanceID()
	job, err := coord.NewJob(s, "controller", instance, nil)
	require.NoError(t, err)
	return job, instance
}

// background runs f, which is to end when its ctx does, and gives its result. The test ends it.
func (t *tree) background(f func(ctx context.Context) error) <-chan error {
	ctx, cancel := context.WithCancel(context.Background())
	done, result := make(chan struct{}), make(chan error, 1)
	go func() {
		defer close(done)
		result <- f(ctx)
	}()
	t.Cleanup(func() {
		cancel()
		wait(t, done, "what runs in the background")
	})
	return result
}

func (t *tree) queue(s *metadata.Store) *coord.Queue {
	t.Helper()
	q, err := coord.NewQueue(s, "requests", nil)
	require.NoError(t, err)
	return q
}

func (t *tree) lock(s *metadata.Store) *coord.Held {
	t.Helper()
	held, err := coord.Lock(t.ctx(), s, "x")
	require.NoError(t, err)
	return held
}

// eventually waits until ok is true. ok runs in the test's goroutine and may fail it.
func (t *tree) eventually(ok func() bool, format string, args ...any) {
	t.Helper()
	for end := time.Now().Add(patience); !ok(); <-time.After(moment) {
		if time.Now().After(end) {
			t.Fatalf("waited in vain for: "+format, args...)
		}
	}
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

// places are the nodes in the line at dir, in order.
func (t *tree) places(s *metadata.Store, dir string) []string {
	t.Helper()
	require.NoError(t, s.Sync(t.ctx(), t.root))
	names, err := s.Children(t.ctx(), t.root+dir)
	if !errors.Is(err, errs.ErrNotFound) {
		require.NoError(t, err)
	}
	names = slices.DeleteFunc(names, func(n string) bool { return !strings.HasPrefix(n, "n_") })
	slices.SortFunc(names, func(a, b string) int { return strings.Compare(a[len(a)-10:], b[len(b)-10:]) })
	return names
}

// until waits until the line at dir has n places.
func (t *tree) until(s *metadata.Store, dir string, n int) {
	t.Helper()
	t.eventually(func() bool { return len(t.places(s, dir)) == n }, "%d places at %s", n, dir)
}

// traffic counts, of one client, the watches on nodes that ZooKeeper has taken and the notices that it has sent.
type traffic struct{ watches, notices atomic.Int64 }

// count makes a Store's connections count.
func (n *traffic) count(c *metadata.Config) {
	c.Dialer = func(ctx context.Context, network, address string) (net.Conn, error) {
		nc, err := (&net.Dialer{}).DialContext(ctx, network, address)
		if err != nil {
			return nil, err
		}
		return &countingConn{Conn: nc, n: n, asked: map[int32]bool{}}, nil
	}
}

const headSize = 20

// countingConn looks at the frames. In: a length of 4 bytes, and in all but the first one the xid (4), which is -1 in notices, the
// zxid (8) and an error (4). Out: length, xid, operation; a request to read data ends with a 1 if it is also to watch.
type countingConn struct {
	net.Conn
	n *traffic

	mu     sync.Mutex
	asked  map[int32]bool // xids
	head   []byte
	left   int
	frames int
}

func (c *countingConn) Write(b []byte) (int, error) {
	const getData = 4
	if len(b) > 12 && binary.BigEndian.Uint32(b[8:]) == getData && b[len(b)-1] == 1 {
		c.mu.Lock()
		c.asked[int32(binary.BigEndian.Uint32(b[4:]))] = true
		c.mu.Unlock()
	}
	return c.Conn.Write(b)
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
		take := min(headSize-len(c.head), len(in))
		c.head = append(c.head, in[:take]...)
		in = in[take:]
		if len(c.head) < headSize {
			continue
		}
		if c.frames++; c.frames > 1 {
			c.received(int32(binary.BigEndian.Uint32(c.head[4:])), binary.BigEndian.Uint32(c.head[16:]) == 0)
		}
		c.left = int(binary.BigEndian.Uint32(c.head)) + 4 - headSize
		c.head = c.head[:0]
	}
	return got, err
}

func (c *countingConn) received(xid int32, ok bool) {
	switch {
	case xid == -1:
		c.n.notices.Add(1)
	case ok && c.asked[xid]:
		c.n.watches.Add(1)
	}
}
