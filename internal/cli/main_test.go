package cli_test

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-zookeeper/zk"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/turnout-mq/turnout/internal/cli"
	"github.com/turnout-mq/turnout/internal/scene"
	"github.com/turnout-mq/turnout/testenv"
	"github.com/turnout-mq/turnout/testenv/leaks"
	"github.com/turnout-mq/turnout/testenv/zkserver"
)

const patience = 2 * time.Minute // for what takes milliseconds on a quiet machine

// childVariable makes the test binary the command line, in a process that can be killed.
const childVariable = "TURNOUT_CLI_CHILD"

// environments of real servers go from test to test.
var environments testenv.Pool

func TestMain(m *testing.M) {
	scene.Run() // a program of the demo
	if os.Getenv(childVariable) != "" {
		os.Exit(cli.Run(context.Background(), os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
	}
	// No settings of whoever runs the tests.
	for _, kv := range os.Environ() {
		if name, _, _ := strings.Cut(kv, "="); strings.HasPrefix(name, "TURNOUT_") && name != "TURNOUT_TEST" {
			if err := os.Unsetenv(name); err != nil {
				panic(err)
			}
		}
	}
	dir, err := os.MkdirTemp("", "turnout-cli-")
	if err != nil {
		panic(err)
	}
	if err := os.Setenv("XDG_CONFIG_HOME", dir); err != nil {
		panic(err)
	}
	goleak.VerifyTestMain(environments.Main(m), append(leaks.Libraries(), goleak.Cleanup(func(code int) {
		_ = os.RemoveAll(dir)
		os.Exit(code)
	}))...)
}

// result is what one command line gave.
type result struct {
	code           int
	stdout, stderr string
}

func run(t *testing.T, args ...string) result {
	t.Helper()
	return runWith(t, "", args...)
}

func runWith(t *testing.T, stdin string, args ...string) result {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*patience)
	defer cancel()
	var stdout, stderr bytes.Buffer
	code := cli.Run(ctx, args, strings.NewReader(stdin), &stdout, &stderr)
	require.NoError(t, ctx.Err(), "%v did not end; stdout %s, stderr %s", args, &stdout, &stderr)
	return result{code, stdout.String(), stderr.String()}
}

// eventually polls until ok, which may fail the test: it runs in the test's goroutine.
func eventually(t *testing.T, ok func() bool, limit, every time.Duration, what ...any) {
	t.Helper()
	deadline := time.Now().Add(limit)
	tick := time.NewTicker(every)
	defer tick.Stop()
	for !ok() {
		if time.Now().After(deadline) {
			require.FailNow(t, "never", what...)
		}
		<-tick.C
	}
}

// output is what a running command has written so far.
type output struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.Write(p)
}

func (o *output) lines() []string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return strings.Split(strings.TrimSuffix(o.b.String(), "\n"), "\n")
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.String()
}

func (o *output) await(t *testing.T, text string) {
	t.Helper()
	eventually(t, func() bool { return strings.Contains(o.String(), text) }, patience, 5*time.Millisecond, "no %q in the output: %v", text, o)
}

// background is a command that runs until it is stopped.
type background struct {
	stdout, stderr output
	stop           context.CancelFunc
	code           chan int
}

func start(t *testing.T, args ...string) *background {
	t.Helper()
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	b := &background{stop: cancel, code: make(chan int, 1)}
	go func() { b.code <- cli.Run(ctx, args, strings.NewReader(""), &b.stdout, &b.stderr) }()
	t.Cleanup(func() {
		cancel()
		select {
		case code := <-b.code:
			b.code <- code
		case <-time.After(patience):
			t.Errorf("%v did not end", args)
		}
		if t.Failed() {
			says := b.stderr.lines()
			t.Logf("%v says at its end:\n%s", args, strings.Join(says[max(0, len(says)-100):], "\n"))
		}
	})
	return b
}

// end stops the command and returns its exit code.
func (b *background) end(t *testing.T) int {
	t.Helper()
	b.stop()
	return b.wait(t)
}

func (b *background) wait(t *testing.T) int {
	t.Helper()
	select {
	case code := <-b.code:
		b.code <- code
		return code
	case <-time.After(patience):
		require.FailNow(t, "the command did not end", "stdout %s, stderr %s", &b.stdout, &b.stderr)
		return 0
	}
}

// zooKeeper is a server and a client of it.
type zooKeeper struct {
	*zkserver.Server // nil when it is an environment's
	connect          string
	conn             *zk.Conn
}

func startZooKeeper(t *testing.T) *zooKeeper {
	t.Helper()
	s, err := zkserver.Start(t.Context(), zkserver.Options{})
	require.NoError(t, err)
	t.Cleanup(s.Close)
	z := connect(t, s.ConnectString())
	z.Server = s
	return z
}

func connect(t *testing.T, servers string) *zooKeeper {
	t.Helper()
	conn, events, err := zk.Connect(strings.Split(servers, ","), time.Minute, zk.WithLogInfo(false), zk.WithLogger(quiet{}))
	require.NoError(t, err)
	t.Cleanup(func() {
		conn.Close()
		for range events { // closed when the client has ended
		}
	})
	return &zooKeeper{connect: servers, conn: conn}
}

type quiet struct{}

func (quiet) Printf(string, ...any) {}

func (z *zooKeeper) create(t *testing.T, path, data string) {
	t.Helper()
	_, err := z.conn.Create(path, []byte(data), 0, zk.WorldACL(zk.PermAll))
	require.NoError(t, err, path)
}

func (z *zooKeeper) set(t *testing.T, path, data string) {
	t.Helper()
	_, err := z.conn.Set(path, []byte(data), -1)
	require.NoError(t, err, path)
}

func (z *zooKeeper) delete(t *testing.T, path string) {
	t.Helper()
	require.NoError(t, z.conn.Delete(path, -1), path)
}

// decode reads one JSON value.
func decode[T any](t *testing.T, text string) T {
	t.Helper()
	var v T
	require.NoError(t, json.Unmarshal([]byte(text), &v), text)
	return v
}

// buildBinary builds cmd/turnout and returns its path.
func buildBinary(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "turnout")
	out, err := exec.CommandContext(t.Context(), "go", "build", "-o", path, "github.com/turnout-mq/turnout/cmd/turnout").CombinedOutput()
	require.NoError(t, err, "%s", out)
	return path
}
