package cli_test

import (
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/go-zookeeper/zk"
	"github.com/stretchr/testify/require"

	"github.com/turnout-mq/turnout/testenv"
)

var watchTimes = regexp.MustCompile(`(?m)^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3}  `)

// changes are the lines of a watch without times and zxids, blanks squeezed.
func changes(stdout string) []string {
	var out []string
	for line := range strings.Lines(watchTimes.ReplaceAllString(stdout, "")) {
		line = regexp.MustCompile(` zxid 0x[0-9a-f]+`).ReplaceAllString(line, "")
		out = append(out, strings.Join(strings.Fields(line), " "))
	}
	return out
}

// steps makes one change after the other, each when the one before was printed.
func steps(t *testing.T, stdout *output, list ...any) {
	t.Helper()
	for i := 0; i < len(list); i += 2 {
		list[i].(func())()
		n := len(changes(stdout.String()))
		want := list[i+1].(string)
		eventually(t, func() bool {
			c := changes(stdout.String())
			return len(c) > 0 && c[len(c)-1] == want
		}, patience, 2*time.Millisecond, "step %d: no %q; %d lines: %v", i/2, want, n, stdout)
	}
}

func TestWatchPrintsEveryKindOfChange(t *testing.T) {
	environments.Each(t, testenv.Spec{ZooKeeper: 1}, func(t *testing.T, e *testenv.Env) {
		z := connect(t, e.ZooKeeper())
		z.create(t, "/confs", "")
		w := start(t, "watch", "/confs/data_item1", "--zookeeper", e.ZooKeeper())
		steps(t, &w.stdout,
			func() {}, "ABSENT /confs/data_item1",
			func() { z.create(t, "/confs/data_item1", "one") }, "CREATED /confs/data_item1 version 0 one",
			func() { z.set(t, "/confs/data_item1", "two words") }, "DATA /confs/data_item1 version 0 → 1 two words",
			func() { z.set(t, "/confs/data_item1", "two words") }, "DATA /confs/data_item1 version 1 → 2 two words",
			func() { z.create(t, "/confs/data_item1/b", "") }, `CHILD+ /confs/data_item1/b version 0 ""`,
			func() { z.set(t, "/confs/data_item1/b", "x\ny") }, `CHILD DATA /confs/data_item1/b version 0 → 1 "x\ny"`,
			func() { z.create(t, "/confs/data_item1/b/deep", "") }, `CHILD DATA /confs/data_item1/b version 0 → 1 "x\ny"`,
			func() { z.create(t, "/confs/data_item1/a", "\xff") }, `CHILD+ /confs/data_item1/a version 0 "\xff"`,
			func() { z.delete(t, "/confs/data_item1/b/deep"); z.delete(t, "/confs/data_item1/b") }, "CHILD- /confs/data_item1/b version 1",
			func() { z.delete(t, "/confs/data_item1/a") }, "CHILD- /confs/data_item1/a version 0",
			func() { z.delete(t, "/confs/data_item1") }, "DELETED /confs/data_item1 version 2",
			func() { z.create(t, "/confs/data_item1", "again") }, "CREATED /confs/data_item1 version 0 again",
		)
		require.Equal(t, 0, w.end(t))
		require.Len(t, changes(w.stdout.String()), 11, "%v", &w.stdout)
		require.Empty(t, w.stderr.String())
	})
}

// Beside ZooKeeper's own client, over a restart of every server of an ensemble, the leader first.
func TestWatchBesideZooKeepersOwnClient(t *testing.T) {
	testenv.EachOf(t, testenv.Spec{ZooKeeper: 3}, []testenv.Backend{testenv.Servers}, func(t *testing.T, e *testenv.Env) {
		zkCli := func(args ...string) func() {
			return func() {
				_, err := e.ZkCli(t.Context(), args...)
				for try := 0; try < 20 && err != nil && strings.Contains(err.Error(), "ConnectionLoss"); try++ {
					// An election is under way. This client does not repeat, and what it lost may have been done.
					if _, err = e.ZkCli(t.Context(), args...); err != nil && strings.Contains(err.Error(), "version No is not valid") {
						return
					}
				}
				require.NoError(t, err)
			}
		}
		w := start(t, "watch", "/confs/data_item1", "--zookeeper", e.ZooKeeper())
		steps(t, &w.stdout,
			func() {}, "ABSENT /confs/data_item1",
			zkCli("create", "/confs", ""), "ABSENT /confs/data_item1",
			zkCli("create", "/confs/data_item1", "one"), "CREATED /confs/data_item1 version 0 one",
			zkCli("set", "/confs/data_item1", "two"), "DATA /confs/data_item1 version 0 → 1 two",
			zkCli("create", "/confs/data_item1/b", "x"), "CHILD+ /confs/data_item1/b version 0 x",
			zkCli("set", "/confs/data_item1/b", "y"), "CHILD DATA /confs/data_item1/b version 0 → 1 y",
		)
		leader, err := e.ZooKeeperLeader(t.Context())
		require.NoError(t, err)
		require.NoError(t, e.Kill(t.Context(), leader))
		steps(t, &w.stdout, zkCli("set", "-v", "1", "/confs/data_item1", "three"), "DATA /confs/data_item1 version 1 → 2 three")
		require.NoError(t, e.Restart(t.Context(), leader))
		require.NoError(t, e.Restart(t.Context(), "zookeeper"))
		steps(t, &w.stdout,
			zkCli("delete", "/confs/data_item1/b"), "CHILD- /confs/data_item1/b version 1",
			zkCli("delete", "/confs/data_item1"), "DELETED /confs/data_item1 version 2",
		)
		require.Equal(t, 0, w.end(t))
		require.Contains(t, w.stderr.String(), "RECONNECTED")
		require.Len(t, changes(w.stdout.String()), 8, "%v", &w.stdout)
	})
}

func TestWatchRecursive(t *testing.T) {
	z := startZooKeeper(t)
	z.create(t, "/a", "A")
	z.create(t, "/a/b", "B")
	z.create(t, "/a/b/c", "C")
	w := start(t, "watch", "-r", "/a", "--zookeeper", z.ConnectString())
	w.stdout.await(t, "/a/b/c")
	require.Equal(t, []string{"NODE /a version 0 A", "CHILD /a/b version 0 B", "CHILD /a/b/c version 0 C"}, changes(w.stdout.String()))
	steps(t, &w.stdout,
		func() { z.set(t, "/a/b/c", "C2") }, "CHILD DATA /a/b/c version 0 → 1 C2",
		func() { z.create(t, "/a/b/c/d", "D") }, "CHILD+ /a/b/c/d version 0 D",
		func() { z.create(t, "/a/b/c/d/e", "E") }, "CHILD+ /a/b/c/d/e version 0 E",
		func() {
			_, err := z.conn.Multi(&zk.DeleteRequest{Path: "/a/b/c/d/e", Version: -1}, &zk.DeleteRequest{Path: "/a/b/c/d", Version: -1})
			require.NoError(t, err)
		}, "CHILD- /a/b/c/d version 0",
		func() { z.set(t, "/a", "A2") }, "DATA /a version 0 → 1 A2",
	)
	require.Equal(t, 0, w.end(t))
	require.Equal(t, []string{"CHILD- /a/b/c/d/e version 0", "CHILD- /a/b/c/d version 0"}, changes(w.stdout.String())[6:8])
}

// A node that goes through many quick changes: nothing is missed, coalesced changes are told as what they are.
func TestWatchAccountsForQuickChanges(t *testing.T) {
	const sets, children = 200, 100
	z := startZooKeeper(t)
	z.create(t, "/n", "")
	w := start(t, "watch", "/n", "-o", "json", "--zookeeper", z.ConnectString())
	w.stdout.await(t, "NODE")
	for i := range sets {
		z.set(t, "/n", fmt.Sprint(i))
	}
	for i := range children {
		z.create(t, fmt.Sprintf("/n/c%d", i), "")
		if i%2 == 0 {
			z.delete(t, fmt.Sprintf("/n/c%d", i))
		}
	}
	z.create(t, "/n/last", "")
	w.stdout.await(t, `"/n/last"`)
	z.set(t, "/n", "end")
	w.stdout.await(t, `"data":"end"`)
	require.Equal(t, 0, w.end(t))

	type line struct {
		Event, Path, Zxid   string
		Version, OldVersion int
		Missed              int
	}
	version, counted := 0, 0
	there := map[string]bool{}
	for _, text := range w.stdout.lines() {
		l := decode[line](t, text)
		switch l.Event {
		case "DATA":
			require.Equal(t, version, l.OldVersion, text)
			require.Greater(t, l.Version, l.OldVersion, text)
			version = l.Version
		case "CHILD+":
			require.False(t, there[l.Path], text)
			there[l.Path] = true
			counted++
		case "CHILD-":
			require.True(t, there[l.Path], text)
			delete(there, l.Path)
			counted++
		case "CHILDREN":
			counted += l.Missed
		}
	}
	require.Equal(t, sets+1, version)
	require.Equal(t, children+children/2+1, counted, "every change of children is accounted for")
	require.Len(t, there, children/2+1)
}

func TestWatchGoesOnAfterOutages(t *testing.T) {
	z := startZooKeeper(t)
	z.create(t, "/n", "1")
	z.create(t, "/n/stays", "1")
	z.create(t, "/n/goes", "1")
	z.create(t, "/n/comes_back", "1")
	w := start(t, "watch", "/n", "--zookeeper", z.ConnectString())
	w.stdout.await(t, "/n/stays")
	watcher := func() int64 {
		for _, s := range z.Sessions() {
			if s.ID != z.conn.SessionID() && s.ClientAddr != "" {
				return s.ID
			}
		}
		return 0
	}

	// What happens while it is away is found by comparing.
	z.RefuseConnections(true)
	z.DropConnections(watcher())
	w.stderr.await(t, "DISCONNECTED")
	z.set(t, "/n", "2")
	z.set(t, "/n/stays", "2")
	z.delete(t, "/n/goes")
	z.delete(t, "/n/comes_back")
	z.create(t, "/n/comes_back", "2")
	z.create(t, "/n/new", "2")
	z.RefuseConnections(false)
	w.stderr.await(t, "RECONNECTED")
	w.stdout.await(t, "CHILD DATA  /n/stays") // the last one by name
	require.ElementsMatch(t, []string{
		"DATA /n version 0 → 1 2",
		"CHILD DATA /n/stays version 0 → 1 2",
		"CHILD- /n/goes version 0",
		"CHILD- /n/comes_back version 0",
		"CHILD+ /n/comes_back version 0 2",
		"CHILD+ /n/new version 0 2",
	}, changes(w.stdout.String())[4:])

	// An expired session: a new one, and the same again.
	// The same when its session is ended.
	require.NoError(t, z.ExpireSession(watcher()))
	steps(t, &w.stdout, func() { z.set(t, "/n", "3") }, "DATA /n version 1 → 2 3")

	// A restart of the server.
	require.NoError(t, z.Restart())
	eventually(t, func() bool { _, _, err := z.conn.Get("/n"); return err == nil }, patience, 5*time.Millisecond)
	steps(t, &w.stdout,
		func() { z.set(t, "/n/new", "4") }, "CHILD DATA /n/new version 0 → 1 4",
		func() { z.delete(t, "/n/new") }, "CHILD- /n/new version 1",
	)
	require.Equal(t, 0, w.end(t))
}

func TestWatchFollowsWhenItsWatchesAreLost(t *testing.T) {
	z := startZooKeeper(t)
	z.create(t, "/n", "1")
	w := start(t, "watch", "/n", "--recheck", "50ms", "--zookeeper", z.ConnectString())
	w.stdout.await(t, "NODE")
	require.Positive(t, z.ForgetWatches())
	steps(t, &w.stdout,
		func() { z.set(t, "/n", "2") }, "DATA /n version 0 → 1 2",
		func() { z.set(t, "/n", "3") }, "DATA /n version 1 → 2 3",
		func() { z.create(t, "/n/c", "") }, `CHILD+ /n/c version 0 ""`,
	)
	require.Equal(t, 0, w.end(t))
}

func TestWatchEndsByCountAndTime(t *testing.T) {
	z := startZooKeeper(t)
	z.create(t, "/n", "1")
	w := start(t, "watch", "/n", "--count", "2", "--zookeeper", z.ConnectString())
	w.stdout.await(t, "NODE")
	steps(t, &w.stdout,
		func() { z.set(t, "/n", "2") }, "DATA /n version 0 → 1 2",
		func() { z.set(t, "/n", "3") }, "DATA /n version 1 → 2 3",
	)
	require.Equal(t, 0, w.wait(t))
	require.Equal(t, []string{"NODE /n version 2 3"}, changes(watchFor(t, "/n", z.ConnectString())))
}

// watchFor is what a watch prints that ends by its time, which is long enough to print something.
func watchFor(t *testing.T, path, zookeeper string) string {
	t.Helper()
	for long := 50 * time.Millisecond; ; long *= 2 {
		r := run(t, "watch", path, "--for", long.String(), "--zookeeper", zookeeper)
		require.Equal(t, 0, r.code, r.stderr)
		if r.stdout != "" || long > patience {
			return r.stdout
		}
	}
}

func TestWatchBelowChroot(t *testing.T) {
	z := startZooKeeper(t)
	z.create(t, "/prod", "")
	z.create(t, "/prod/n", "1")
	w := start(t, "watch", "/n", "--zookeeper", z.ConnectString()+"/prod")
	steps(t, &w.stdout,
		func() {}, "NODE /n version 0 1",
		func() { z.set(t, "/prod/n", "2") }, "DATA /n version 0 → 1 2", // the children there were have been printed now
		func() { z.create(t, "/prod/n/c", "2") }, "CHILD+ /n/c version 0 2",
	)
	require.Equal(t, 0, w.end(t))
}

func TestWatchOfNodesThatMayNotBeRead(t *testing.T) {
	z := startZooKeeper(t)
	noRead := zk.WorldACL(zk.PermAll &^ zk.PermRead)
	z.create(t, "/n", "1")
	_, err := z.conn.Create("/n/secret", []byte("s"), 0, noRead)
	require.NoError(t, err)
	w := start(t, "watch", "-r", "/n", "--zookeeper", z.ConnectString())
	steps(t, &w.stdout,
		func() {}, "CHILD /n/secret (data not readable: no permission)",
		func() { z.delete(t, "/n/secret") }, "CHILD- /n/secret",
	)
	require.Equal(t, 0, w.end(t))

	_, err = z.conn.Create("/secret", []byte("s"), 0, noRead)
	require.NoError(t, err)
	r := run(t, "watch", "/secret", "--zookeeper", z.ConnectString())
	require.Equal(t, 3, r.code, r.stderr)
	require.Contains(t, r.stderr, "/secret")
}

func TestWatchRefusals(t *testing.T) {
	for name, c := range map[string]struct {
		args []string
		code int
		text string
	}{
		"no path":        {[]string{"watch"}, 2, "arg"},
		"relative":       {[]string{"watch", "n", "--zookeeper", "127.0.0.1:1"}, 2, "absolute"},
		"not clean":      {[]string{"watch", "/n/", "--zookeeper", "127.0.0.1:1"}, 2, "absolute and clean"},
		"no server":      {[]string{"watch", "/n"}, 2, "TURNOUT_ZOOKEEPER"},
		"nobody listens": {[]string{"watch", "/n", "--zookeeper", "127.0.0.1:1", "--timeout", "200ms"}, 6, "127.0.0.1:1"},
		"unknown flag":   {[]string{"watch", "/n", "--nope"}, 2, "--nope"},
	} {
		t.Run(name, func(t *testing.T) {
			r := run(t, c.args...)
			require.Equal(t, c.code, r.code, r.stderr)
			require.Contains(t, r.stderr, c.text)
			require.Equal(t, 1, strings.Count(r.stderr, "\n"), r.stderr)
			require.Empty(t, r.stdout)
		})
	}
}

// The built program across a restart of the server, ended by Ctrl-C.
func TestBinaryWatchesAcrossRestart(t *testing.T) {
	binary := buildBinary(t)
	environments.Each(t, testenv.Spec{ZooKeeper: 1}, func(t *testing.T, e *testenv.Env) {
		z := connect(t, e.ZooKeeper())
		cmd := exec.CommandContext(t.Context(), binary, "watch", "/confs/data_item1")
		cmd.Env = append(cmd.Environ(), "TURNOUT_ZOOKEEPER="+e.ZooKeeper())
		var stdout, stderr output
		cmd.Stdout, cmd.Stderr = &stdout, &stderr
		require.NoError(t, cmd.Start())
		steps(t, &stdout,
			func() {}, "ABSENT /confs/data_item1",
			func() { z.create(t, "/confs", ""); z.create(t, "/confs/data_item1", "1") }, "CREATED /confs/data_item1 version 0 1",
		)
		require.NoError(t, e.Kill(t.Context(), "zookeeper"))
		stderr.await(t, "DISCONNECTED")
		require.NoError(t, e.Restart(t.Context(), "zookeeper"))
		stderr.await(t, "RECONNECTED")
		eventually(t, func() bool { _, _, err := z.conn.Get("/confs"); return err == nil }, patience, 5*time.Millisecond)
		steps(t, &stdout,
			func() { z.set(t, "/confs/data_item1", "2") }, "DATA /confs/data_item1 version 0 → 1 2",
			func() { z.delete(t, "/confs/data_item1") }, "DELETED /confs/data_item1 version 1",
		)
		require.NoError(t, cmd.Process.Signal(os.Interrupt))
		require.NoError(t, cmd.Wait(), "%v", &stderr)
	})
}
