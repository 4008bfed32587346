package cli_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// doc is what get and put print in JSON, as far as the tests look at it.
type doc struct {
	Name     string
	Version  int32
	Zxid     string
	Document map[string]any
	Error    string
	Changes  []struct{ Field string }
}

// turnout runs a command against z and demands that it succeeds.
func (z *zooKeeper) turnout(t *testing.T, args ...string) result {
	t.Helper()
	r := run(t, append(args, "--zookeeper", z.connect)...)
	require.Equal(t, 0, r.code, "%v: %s", args, r.stderr)
	require.Empty(t, r.stderr)
	return r
}

// refused runs a command that must fail, and returns what it says.
func (z *zooKeeper) refused(t *testing.T, code int, args ...string) string {
	t.Helper()
	shown, says := z.blocked(t, code, args...)
	require.Empty(t, shown)
	return says
}

// blocked runs a command that must fail, and returns what it shows of that, and the one line that it says.
func (z *zooKeeper) blocked(t *testing.T, code int, args ...string) (shown, says string) {
	t.Helper()
	r := run(t, append(args, "--zookeeper", z.connect)...)
	require.Equal(t, code, r.code, "%v: %s", args, r.stderr)
	require.True(t, strings.HasPrefix(r.stderr, "turnout: "), r.stderr)
	require.Equal(t, 1, strings.Count(r.stderr, "\n"), "one line: %s", r.stderr)
	return r.stdout, r.stderr
}

func TestClusterCommands(t *testing.T) {
	z := startZooKeeper(t)
	require.Equal(t, "[]\n", z.turnout(t, "cluster", "list", "-o", "json").stdout)
	require.Contains(t, z.refused(t, 4, "cluster", "get", "kafka-a"), "turnout cluster list")
	require.Contains(t, z.refused(t, 4, "cluster", "delete", "kafka-a"), "kafka-a")

	r := z.turnout(t, "cluster", "put", "kafka-a", "--kind", "kafka", "--address", "h1:9092,h2:9092", "--cluster-id", "id-1")
	require.Contains(t, r.stdout, "cluster kafka-a created (version 0)")
	r = z.turnout(t, "cluster", "put", "kafka-a", "--address", "h3:9092", "--auth-mechanism", "PLAIN", "--auth-secret", "env:LOGIN", "--tls", "--tls-server-name", "kafka")
	require.Contains(t, r.stdout, "cluster kafka-a changed (version 1)")
	require.Contains(t, r.stdout, `addresses: ["h1:9092","h2:9092"] → ["h3:9092"]`)
	r = z.turnout(t, "cluster", "put", "kafka-a", "--kind", "kafka")
	require.Contains(t, r.stdout, "cluster kafka-a is so already (version 1)")
	z.turnout(t, "cluster", "put", "rocketmq-a", "--kind", "rocketmq", "--address", "n:9876", "--property", "a=b")

	d := decode[doc](t, z.turnout(t, "cluster", "get", "kafka-a", "-o", "json").stdout)
	require.Equal(t, "kafka-a", d.Name)
	require.Equal(t, int32(1), d.Version)
	require.Regexp(t, "^0x[0-9a-f]+$", d.Zxid)
	require.Equal(t, map[string]any{"v": 1., "kind": "kafka", "addresses": []any{"h3:9092"}, "clusterId": "id-1", "properties": map[string]any{},
		"auth": map[string]any{"mechanism": "PLAIN", "secret": "env:LOGIN"},
		"tls":  map[string]any{"ca": "", "cert": "", "key": "", "serverName": "kafka", "insecure": false}}, d.Document)
	text := z.turnout(t, "cluster", "get", "kafka-a").stdout
	for _, want := range []string{"kind:", "h3:9092", "PLAIN", "env:LOGIN", "id-1"} {
		require.Contains(t, text, want)
	}
	d = decode[doc](t, z.turnout(t, "cluster", "put", "kafka-a", "--tls=false", "--auth-mechanism=", "--auth-secret=", "-o", "json").stdout)
	require.NotContains(t, d.Document, "tls")
	require.NotContains(t, d.Document, "auth")
	require.Len(t, d.Changes, 2)

	list := z.turnout(t, "cluster", "list").stdout
	require.Regexp(t, `(?m)^CLUSTER +KIND +ADDRESSES +CLUSTER ID +VERSION +TOPICS +NOTE$`, list)
	require.Regexp(t, `(?m)^kafka-a +kafka +h3:9092 +id-1 +2 +- +-$`, list)
	require.Regexp(t, `(?m)^rocketmq-a +rocketmq +n:9876 +- +0 +- +-$`, list)

	require.Equal(t, "cluster rocketmq-a deleted\n", z.turnout(t, "cluster", "delete", "rocketmq-a").stdout)
	require.Len(t, decode[[]doc](t, z.turnout(t, "cluster", "list", "-o", "json").stdout), 1)
}

func TestPutRefusesWithAllReasons(t *testing.T) {
	z := startZooKeeper(t)
	says := z.refused(t, 3, "cluster", "put", "c", "--kind", "pulsar", "--address", "h", "--auth-mechanism", "X", "--auth-secret", "hunter2")
	for _, want := range []string{`kind "pulsar"`, "addresses[0]", "auth.secret"} {
		require.Contains(t, says, want)
	}
	require.NotContains(t, says, "hunter2")
	require.Contains(t, z.refused(t, 3, "cluster", "put", "a b", "--kind", "kafka", "--address", "h:1"), "a b")
	says = z.refused(t, 3, "group", "put", "g", "--start", "now", "--order", "all", "--concurrency", "-1", "--retries", "99")
	for _, want := range []string{"topics", `start "now"`, `order "all"`, "concurrency -1", "retry.max 99"} {
		require.Contains(t, says, want)
	}
	require.Contains(t, z.refused(t, 4, "group", "put", "g", "--topic", "nowhere"), "nowhere")
	require.Contains(t, z.refused(t, 2, "topic", "put", "t"), "--cluster")
	require.Contains(t, z.refused(t, 4, "topic", "put", "t", "--cluster", "nowhere"), "nowhere")
	require.Contains(t, z.refused(t, 2, "topic", "put", "t", "--cluster", "c", "--order", "x"), "none or key")
	require.Contains(t, z.refused(t, 2, "topic", "put", "t", "--cluster", "c", "--partitions", "3"), "--create")
	require.Contains(t, z.refused(t, 2, "cluster"), "get, list, put")
	require.Contains(t, z.refused(t, 2, "cluster", "pt"), `"pt" is not a command`)
	require.Empty(t, decode[[]doc](t, z.turnout(t, "cluster", "list", "-o", "json").stdout))
	require.Empty(t, decode[[]doc](t, z.turnout(t, "group", "list", "-o", "json").stdout))
	require.Empty(t, decode[[]doc](t, z.turnout(t, "topic", "list", "-o", "json").stdout))
}

func TestPutFromFile(t *testing.T) {
	z := startZooKeeper(t)
	path := filepath.Join(t.TempDir(), "doc.json")
	write := func(text string) { require.NoError(t, os.WriteFile(path, []byte(text), 0o600)) }

	// A document, completed by flags.
	write(`{"kind":"kafka","addresses":["h:1"],"later":{"x":1}}`)
	z.turnout(t, "cluster", "put", "c", "--file", path, "--cluster-id", "id")
	got := z.turnout(t, "cluster", "get", "c", "-o", "json").stdout
	d := decode[doc](t, got)
	require.Equal(t, "id", d.Document["clusterId"])
	require.Equal(t, map[string]any{"x": 1.}, d.Document["later"], "unknown fields survive")

	// What get printed, changed, through standard input.
	r := runWith(t, strings.Replace(got, "h:1", "h:2", 1), "cluster", "put", "c", "--file", "-", "--zookeeper", z.connect)
	require.Equal(t, 0, r.code, r.stderr)
	require.Contains(t, r.stdout, `addresses: ["h:1"] → ["h:2"]`)

	// The same again is outdated now.
	write(strings.Replace(got, "h:1", "h:3", 1))
	require.Contains(t, z.refused(t, 5, "cluster", "put", "c", "--file", path), "get it again")
	require.Contains(t, z.refused(t, 5, "cluster", "put", "other", "--file", path), "get it again")

	write(`{"kind":`)
	require.Contains(t, z.refused(t, 3, "cluster", "put", "c", "--file", path), "--file")
	require.Contains(t, z.refused(t, 2, "cluster", "put", "c", "--file", path+"x"), "no such file")
	big, err := json.Marshal(map[string]any{"kind": "kafka", "addresses": []string{"h:1"}, "x": strings.Repeat("x", 70_000)})
	require.NoError(t, err)
	write(string(big))
	require.Contains(t, z.refused(t, 3, "cluster", "put", "c", "--file", path), "too large")

	// A document that somebody broke is replaced only as a whole.
	z.set(t, "/turnout/clusters/c", "{")
	require.Contains(t, z.refused(t, 3, "cluster", "get", "c"), "c")
	require.Contains(t, z.refused(t, 3, "cluster", "put", "c", "--kind", "kafka"), "--file")
	require.Contains(t, z.turnout(t, "cluster", "list").stdout, "invalid: ")
	write(`{"kind":"kafka","addresses":["h:9"]}`)
	z.turnout(t, "cluster", "put", "c", "--file", path)
	require.Contains(t, z.turnout(t, "cluster", "list").stdout, "h:9")
}

func TestRootAndChroot(t *testing.T) {
	z := startZooKeeper(t)
	z.create(t, "/prod", "")
	args := []string{"--zookeeper", z.connect + "/prod", "--root", "/mq"}
	r := run(t, append(args, "cluster", "put", "c", "--kind", "kafka", "--address", "h:1")...)
	require.Equal(t, 0, r.code, r.stderr)
	ok, _, err := z.conn.Exists("/prod/mq/clusters/c")
	require.NoError(t, err)
	require.True(t, ok)
	require.Contains(t, run(t, append(args, "cluster", "list")...).stdout, "h:1")
	require.NotContains(t, z.turnout(t, "cluster", "list").stdout, "h:1")
	require.Contains(t, z.refused(t, 2, "cluster", "list", "--root", "mq"), "must be like /a/b")
}

func TestEveryCommandHasHelpAndExample(t *testing.T) {
	for _, args := range [][]string{
		{"watch"}, {"instances"}, {"send"}, {"tail"},
		{"cluster", "get"}, {"cluster", "list"}, {"cluster", "put"}, {"cluster", "delete"},
		{"topic", "get"}, {"topic", "list"}, {"topic", "put"}, {"topic", "delete"},
		{"group", "get"}, {"group", "list"}, {"group", "put"}, {"group", "delete"},
		{"shadow", "topic"}, {"shadow", "enable"}, {"shadow", "disable"}, {"shadow", "remove"}, {"shadow", "list"}, {"shadow", "status"}, {"stress", "run"},
	} {
		r := run(t, append(args, "--help")...)
		require.Equal(t, 0, r.code)
		require.Contains(t, r.stdout, "Examples:\n  turnout "+strings.Join(args, " "), "%v", args)
		require.Contains(t, r.stdout, "--output")
	}
}
