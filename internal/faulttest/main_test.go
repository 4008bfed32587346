package faulttest

import (
	"context"
	"flag"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/turnout-mq/turnout/internal/scene"
	"github.com/turnout-mq/turnout/testenv"
	"github.com/turnout-mq/turnout/testenv/leaks"
)

// soak says that the cases are to be as long as what they are about.
var soak = os.Getenv("TURNOUT_SOAK") != ""

// bound is short, or long in a soak run.
func bound[T any](short, long T) T {
	if soak {
		return long
	}
	return short
}

func TestMain(m *testing.M) {
	scene.Run()
	loaded := goleak.IgnoreCurrent() // goroutines that begin when a library is loaded
	flag.Parse()
	if f := flag.Lookup("test.parallel"); f.Value.String() == strconv.Itoa(runtime.GOMAXPROCS(0)) {
		_ = f.Value.Set("6") // they wait more than they work
	}
	code := m.Run()
	if servers != nil {
		if err := servers.Close(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}
	if err := goleak.Find(append(leaks.Libraries(), loaded)...); err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

var kafkas = []string{"kafka-a", "kafka-b", "kafka-c"}

// spec is the environment of the cases.
func spec(backend testenv.Backend) testenv.Spec {
	return testenv.Spec{Backend: backend, ZooKeeper: 3, Kafka: kafkas, RocketMQ: []string{"rocketmq-a", "rocketmq-b"}, Proxy: true}
}

// moves are the pairs of clusters, the one that is left and the one that is gone to, for cases about one move.
var moves = [][2]string{{"kafka-a", "kafka-b"}, {"kafka-b", "rocketmq-a"}, {"rocketmq-a", "kafka-a"}}

// leaving is moves; in a short run one for each kind of cluster that is left.
func leaving(env *testenv.Env) (pairs [][2]string) {
	seen := map[string]bool{}
	for _, m := range moves {
		if kind := env.Kind(m[0]); soak || !seen[kind] {
			seen[kind] = true
			pairs = append(pairs, m)
		}
	}
	return pairs
}

// three are the clusters for cases about many moves.
var three = []string{"kafka-a", "rocketmq-a", "kafka-b"}

// servers is the environment that all cases on real servers share.
var (
	servers     *testenv.Env
	serversLock sync.Mutex
)

// harmless plays a case that breaks no server, beside others.
func harmless(t *testing.T, play func(t *testing.T, env *testenv.Env)) {
	t.Parallel()
	on(t, []testenv.Backend{testenv.Embedded, testenv.Servers}, play)
}

// harmful plays a case that breaks servers, and has them all running again at its end. On real servers it has them for
// itself.
func harmful(t *testing.T, play func(t *testing.T, env *testenv.Env)) {
	backends, err := testenv.Backends()
	require.NoError(t, err)
	if !slices.Contains(backends, testenv.Servers) {
		t.Parallel()
	}
	on(t, []testenv.Backend{testenv.Embedded, testenv.Servers}, play)
}

func on(t *testing.T, able []testenv.Backend, play func(t *testing.T, env *testenv.Env)) {
	t.Helper()
	asked, err := testenv.Backends()
	require.NoError(t, err)
	for _, backend := range asked {
		switch {
		case !slices.Contains(able, backend):
		case backend == testenv.Servers:
			t.Run(string(backend), func(t *testing.T) { play(t, theServers(t)) })
		default:
			testenv.EachOf(t, spec(backend), []testenv.Backend{backend}, play)
		}
	}
}

func theServers(t *testing.T) *testenv.Env {
	t.Helper()
	serversLock.Lock()
	defer serversLock.Unlock()
	if servers == nil {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
		defer cancel()
		began := time.Now()
		env, err := testenv.Start(ctx, spec(testenv.Servers))
		require.NoError(t, err)
		t.Logf("servers after %v", time.Since(began).Round(100*time.Millisecond))
		servers = env
	}
	return servers
}
