package cli_test

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// shownSetting is one of turnout config check -o json.
type shownSetting struct{ Name, Of, Value, From, Default, Environment, Meaning string }

// settingsInForce runs turnout config check.
func settingsInForce(t *testing.T, code int, args ...string) (map[string]shownSetting, string) {
	t.Helper()
	r := run(t, append([]string{"config", "check", "-o", "json"}, args...)...)
	require.Equal(t, code, r.code, r.stderr)
	var list []shownSetting
	require.NoError(t, json.Unmarshal([]byte(r.stdout), &list))
	found := map[string]shownSetting{}
	for _, s := range list {
		found[s.Name] = s
	}
	require.Len(t, found, len(list))
	return found, r.stdout + r.stderr
}

func TestConfigCheck(t *testing.T) {
	file := filepath.Join(t.TempDir(), "turnout.yaml")
	write := func(text string) { require.NoError(t, os.WriteFile(file, []byte(text), 0o600)) }
	write("zookeeper: 10.0.0.1:2181\nlisten: 127.0.0.1:7171\nproxy: [10.0.0.1, 10.1.0.0/16]\nwebhook: https://hooks.example.com/T0K3N?k=s3cret\nwebhook-secret: env:HOOK_KEY\nsession-timeout: 9s\n")
	t.Setenv("HOOK_KEY", "s3cret-key")
	t.Setenv("TURNOUT_SESSION_TIMEOUT", "8s")
	t.Setenv("TURNOUT_LISTEN", "127.0.0.1:7272")
	found, all := settingsInForce(t, 0, "--config", file, "--listen", "127.0.0.1:7373", "--data-dir", t.TempDir())
	for name, want := range map[string][2]string{
		"zookeeper":       {"10.0.0.1:2181", "file " + file + ", line 1"},
		"listen":          {"127.0.0.1:7373", "flag"},
		"session-timeout": {"8s", "environment variable TURNOUT_SESSION_TIMEOUT"},
		"proxy":           {"10.0.0.1,10.1.0.0/16", "file " + file + ", line 3"},
		"webhook":         {"https://hooks.example.com/… (not shown)", "file " + file + ", line 4"},
		"webhook-secret":  {"env:HOOK_KEY", "file " + file + ", line 5"},
		"log-level":       {"info", "default"},
	} {
		require.Equal(t, want, [2]string{found[name].Value, found[name].From}, name)
		require.NotEmpty(t, found[name].Meaning)
	}
	require.NotContains(t, all, "s3cret")
	require.NotContains(t, all, "T0K3N")
	require.Equal(t, "127.0.0.1:7070", found["listen"].Default)
	require.NotContains(t, found, "adopt", "it is for one run")

	for name, c := range map[string]struct {
		text, says string
	}{
		"address":        {"listen: nowhere", `"nowhere": must be host:port`},
		"no login":       {"no-login: true\nlisten: 0.0.0.0:7070", "nobody has to log in"},
		"bool":           {"no-login: perhaps", `line 1: "perhaps" is no value for no-login`},
		"proxy":          {"proxy: here", "must be an address or a network"},
		"level":          {"log-level: loud", "must be debug, info, warn or error"},
		"both stores":    {"data-dir: /x\ndatabase: sqlite:/y", "give one of them"},
		"database":       {"database: postgres://u:s3cret@h/n\ndata-dir: x", "give one of them"},
		"webhook":        {"webhook: hooks.example.com", "webhook URL"},
		"secret":         {"webhook: http://h\nwebhook-secret: s3cret", "env:NAME or file:PATH"},
		"only a secret":  {"webhook-secret: env:HOOK_KEY", "there is no webhook to sign for"},
		"unset variable": {"webhook: http://h\nwebhook-secret: env:NOT_SET_AT_ALL", "NOT_SET_AT_ALL"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Setenv("TURNOUT_LISTEN", "")
			path := filepath.Join(t.TempDir(), "config")
			require.NoError(t, os.WriteFile(path, []byte(c.text), 0o600))
			r := run(t, "config", "check", "--zookeeper", "10.0.0.1:2181", "--config", path)
			require.Equal(t, 2, r.code, r.stderr)
			require.Contains(t, r.stderr, c.says)
			require.NotContains(t, r.stdout+r.stderr, "s3cret")
			// The server says the same, before it does anything.
			if served := run(t, "serve", "--zookeeper", "10.0.0.1:2181", "--config", path); name != "database" {
				require.Equal(t, 2, served.code, served.stderr)
				require.Contains(t, served.stderr, c.says)
			}
		})
	}
}

// Defaults that depend on the machine and on other settings are shown as they are in force.
func TestConfigCheckShowsDefaultsInForce(t *testing.T) {
	home := t.TempDir()
	t.Setenv("HOME", home)
	t.Setenv("XDG_DATA_HOME", filepath.Join(home, "data"))
	t.Setenv("XDG_CONFIG_HOME", filepath.Join(home, "config"))
	check := func(args ...string) map[string]shownSetting {
		found, _ := settingsInForce(t, 0, append([]string{"--zookeeper", "10.0.0.1:2181"}, args...)...)
		return found
	}
	in := func(found map[string]shownSetting, name, value, from string) {
		t.Helper()
		require.Equal(t, [2]string{value, from}, [2]string{found[name].Value, found[name].From}, name)
	}
	found := check()
	in(found, "url", "http://127.0.0.1:7070", "default")
	in(found, "config", "", "default") // there is none
	if runtime.GOOS == "linux" {
		in(found, "data-dir", filepath.Join(home, "data", "turnout"), "default")
		in(found, "database", "sqlite:"+filepath.Join(home, "data", "turnout", "turnout.db"), "default")
		require.NoError(t, os.MkdirAll(filepath.Join(home, "config", "turnout"), 0o700))
		file := filepath.Join(home, "config", "turnout", "config")
		require.NoError(t, os.WriteFile(file, []byte("log-level: warn"), 0o600))
		in(check(), "config", file, "default")
	}
	dir := t.TempDir()
	found = check("--data-dir", dir, "--listen", "[::1]:7171")
	in(found, "data-dir", dir, "flag")
	in(found, "database", "sqlite:"+filepath.Join(dir, "turnout.db"), "default")
	in(found, "url", "http://[::1]:7171", "default")
	found = check("--database", "postgres://turnout@db/turnout", "--listen", "0.0.0.0:7171", "--url", "https://turnout.example.com")
	in(found, "data-dir", "", "default") // not used
	in(found, "database", "postgres://turnout@db/turnout", "flag")
	in(found, "url", "https://turnout.example.com", "flag")
	in(check("--listen", "0.0.0.0:7171"), "url", "(known when it listens)", "default")
}

func TestConfigExampleIsAFileThatChangesNothing(t *testing.T) {
	example := run(t, "config", "example")
	require.Equal(t, 0, example.code)
	file := filepath.Join(t.TempDir(), "turnout.yaml")
	require.NoError(t, os.WriteFile(file, []byte(example.stdout), 0o600))
	t.Setenv("TURNOUT_ZOOKEEPER", "10.0.0.1:2181")
	found, _ := settingsInForce(t, 0, "--config", file)
	for name, s := range found {
		switch name {
		case "zookeeper", "output", "config":
		default:
			require.Equal(t, "default", s.From, name)
			require.Contains(t, example.stdout, "\n#"+name+": ")
		}
	}
	// What is in front is the comment alone: each line that is uncommented is a setting.
	text := strings.ReplaceAll(example.stdout, "\n#listen: ", "\nlisten: ")
	require.NoError(t, os.WriteFile(file, []byte(text), 0o600))
	found, _ = settingsInForce(t, 0, "--config", file)
	require.Contains(t, found["listen"].From, "file "+file)
}

// record is read before TestMain clears the environment.
var record = os.Getenv("TURNOUT_TEST_RECORD") != ""

// The table in the documents is that of the code. TURNOUT_TEST_RECORD=1 writes it anew.
func TestConfigurationIsDocumented(t *testing.T) {
	r := run(t, "config", "check", "-o", "json", "--zookeeper", "10.0.0.1:2181")
	require.Equal(t, 0, r.code, r.stderr)
	var list []shownSetting
	require.NoError(t, json.Unmarshal([]byte(r.stdout), &list))
	var b strings.Builder
	of := ""
	for _, s := range list {
		if s.Of != of {
			of = s.Of
			fmt.Fprintf(&b, "\nOf %s:\n\n| setting | environment | default | meaning |\n| --- | --- | --- | --- |\n", of)
		}
		fmt.Fprintf(&b, "| `%s` | `%s` | %s | %s |\n", s.Name, s.Environment, s.Default, strings.ReplaceAll(s.Meaning, "|", "\\|"))
	}
	const begin, end = "<!-- settings: written by TURNOUT_TEST_RECORD=1 go test -run Documented ./internal/cli -->\n", "\n<!-- end of settings -->"
	file := filepath.Join("..", "..", "docs", "configuration.md")
	doc, err := os.ReadFile(file)
	require.NoError(t, err)
	head, rest, found := strings.Cut(string(doc), begin)
	require.True(t, found)
	is, tail, found := strings.Cut(rest, end)
	require.True(t, found)
	if record {
		require.NoError(t, os.WriteFile(file, []byte(head+begin+b.String()+end+tail), 0o644))
		return
	}
	require.Equal(t, is, b.String(), "run: TURNOUT_TEST_RECORD=1 go test -run Documented ./internal/cli")
}
