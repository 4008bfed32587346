package cli_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/go-zookeeper/zk"
	"github.com/stretchr/testify/require"
)

func TestFlagBeforeEnvironmentBeforeFile(t *testing.T) {
	z := startZooKeeper(t)
	z.create(t, "/n", "1")
	const nobody = "127.0.0.1:1"
	watch := []string{"watch", "/n", "--for", "20ms", "--timeout", "300ms"}
	for name, c := range map[string]struct {
		flag, env, file string
		code            int
	}{
		"flag":                   {z.ConnectString(), nobody, nobody, 0},
		"environment":            {"", z.ConnectString(), nobody, 0},
		"file":                   {"", "", z.ConnectString(), 0},
		"the flag counts":        {nobody, z.ConnectString(), z.ConnectString(), 6},
		"the environment counts": {"", nobody, z.ConnectString(), 6},
		"the file counts":        {"", "", nobody, 6},
		"nothing says which":     {"", "", "", 2},
		"an empty server name":   {"a,,b", "", "", 2},
	} {
		t.Run(name, func(t *testing.T) {
			args := watch
			if c.flag != "" {
				args = append(args, "--zookeeper", c.flag)
			}
			t.Setenv("TURNOUT_ZOOKEEPER", c.env)
			if c.file != "" {
				path := filepath.Join(t.TempDir(), "config")
				require.NoError(t, os.WriteFile(path, []byte("zookeeper = "+c.file), 0o600))
				t.Setenv("TURNOUT_CONFIG", path)
			}
			r := run(t, args...)
			require.Equal(t, c.code, r.code, r.stderr)
		})
	}
}

func TestSettingsFile(t *testing.T) {
	z := startZooKeeper(t)
	z.create(t, "/n", "1")
	for name, c := range map[string]struct {
		text string
		code int
		says string
	}{
		"lines":          {"# where\nzookeeper = " + z.ConnectString() + "\n\noutput=json\n", 0, ""},
		"JSON":           {`{"zookeeper":"` + z.ConnectString() + `","output":"json"}`, 0, ""},
		"no equals sign": {"zookeeper\n", 2, "line 1"},
		"YAML":           {"# where\nzookeeper: " + z.ConnectString() + "\noutput: json # for programs\nproxy: [10.0.0.1, 10.1.0.0/16]\n", 0, ""},
		"nothing":        {"# zookeeper: x\n", 2, "zookeeper"},
		"unknown name":   {"output=json\nzookeper = x\n", 2, `line 2: "zookeper" is not a setting; did you mean zookeeper?`},
		"unknown":        {"a: 1\ncolour-of-logs: x\n", 2, `line 1: "a" is not a setting; turnout config check`},
		"unknown YAML":   {"# c\n\ndata_dir: x\n", 2, `line 3: "data_dir" is not a setting; did you mean data-dir?`},
		"twice":          {"root=/a\nroot=/b\n", 2, "root is there twice"},
		"twice YAML":     {"root: /a\nroot: /b\n", 2, "root is there twice"},
		"no value":       {"zookeeper:\nroot: /x\n", 2, "line 1: zookeeper: has no value"},
		"bad value":      {"timeout = soon\n", 2, `line 1: "soon" is no value for timeout`},
		"bad output":     {"output = xml\n", 2, `output is "xml": must be text or json`},
		"broken JSON":    {`{"zookeeper":`, 2, "must be YAML (name: value), JSON, or lines"},
		"wrong type":     {`{"zookeeper":{"a":1}}`, 2, "zookeeper: must be a value, or a list of values"},
		"a list":         {"- zookeeper\n", 2, "line 1: must be YAML"},
		"itself":         {"config = x\n", 2, `"config" is not a setting`},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "config")
			require.NoError(t, os.WriteFile(path, []byte(c.text), 0o600))
			r := run(t, "watch", "/n", "--for", "20ms", "--config", path)
			require.Equal(t, c.code, r.code, r.stderr)
			require.Contains(t, r.stderr, c.says)
			if c.code == 0 {
				require.True(t, strings.HasPrefix(r.stdout, `{"time":`), r.stdout)
			} else {
				require.Equal(t, 1, strings.Count(r.stderr, "\n"))
			}
		})
	}
	r := run(t, "watch", "/n", "--config", filepath.Join(t.TempDir(), "none"))
	require.Equal(t, 2, r.code)
	require.Contains(t, r.stderr, "no such file")
}

func TestZooKeeperLogin(t *testing.T) {
	z := startZooKeeper(t)
	require.NoError(t, z.conn.AddAuth("digest", []byte("ops:s3cret")))
	_, err := z.conn.Create("/closed", []byte("1"), 0, zk.DigestACL(zk.PermAll, "ops", "s3cret"))
	require.NoError(t, err)
	t.Setenv("ZK_LOGIN", "ops:s3cret")
	args := []string{"watch", "/closed", "--for", "20ms", "--zookeeper", z.ConnectString()}
	require.Equal(t, 3, run(t, append(args, "--for", "1m")...).code)
	r := run(t, append(args, "--zookeeper-auth", "digest:env:ZK_LOGIN")...)
	require.Equal(t, 0, r.code, r.stderr)
	require.Equal(t, []string{"NODE /closed version 0 1"}, changes(r.stdout))

	// What is created with a login is closed to others.
	login := []string{"--zookeeper-auth", "digest:env:ZK_LOGIN"}
	z.turnout(t, append(login, "cluster", "put", "c", "--kind", "kafka", "--address", "h:1")...)
	require.Contains(t, z.turnout(t, append(login, "cluster", "get", "c")...).stdout, "h:1")
	require.Contains(t, z.refused(t, 3, "cluster", "get", "c"), "not allowed")

	r = run(t, append(args, "--zookeeper-auth", "digest:ops:s3cret")...)
	require.Equal(t, 2, r.code)
	require.NotContains(t, r.stderr, "s3cret")
	require.Contains(t, r.stderr, "env:NAME or file:PATH")
}

func TestUsage(t *testing.T) {
	for name, c := range map[string]struct {
		args       []string
		text, help string
	}{
		"unknown command":    {[]string{"wach"}, "watch", `"turnout --help"`},
		"unknown flag":       {[]string{"--nope"}, "--nope", `"turnout --help"`},
		"bad duration":       {[]string{"watch", "/n", "--timeout", "x"}, "timeout", `"turnout watch --help"`},
		"no time":            {[]string{"watch", "/n", "--timeout", "0s"}, "timeout is 0s", `"turnout watch --help"`},
		"no name":            {[]string{"group", "get"}, "arg", `"turnout group get --help"`},
		"no subcommand":      {[]string{"group"}, "delete, get, list, put", `"turnout group --help"`},
		"unknown subcommand": {[]string{"group", "gte"}, `"gte" is not a command`, `"turnout group --help"`},
	} {
		t.Run(name, func(t *testing.T) {
			r := run(t, c.args...)
			require.Equal(t, 2, r.code, r.stderr)
			require.Contains(t, r.stderr, c.text)
			require.Contains(t, r.stderr, c.help)
			require.Equal(t, 1, strings.Count(r.stderr, "\n"), r.stderr)
		})
	}
	r := run(t)
	require.Equal(t, 0, r.code)
	require.Contains(t, r.stdout, "Exit codes:")
}
