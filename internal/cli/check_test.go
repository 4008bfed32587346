package cli_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/turnout-mq/turnout/testenv/history"
)

// recordRun records a run of a sender and a receiver in a new folder: ids that begin with "lost" are not handled.
func recordRun(t *testing.T, ids ...string) (dir string) {
	t.Helper()
	dir = t.TempDir()
	sender, err := history.Create(dir, "sender")
	require.NoError(t, err)
	receiver, err := history.Create(dir, "receiver")
	require.NoError(t, err)
	for i, id := range ids {
		m := history.Message{ID: id, Topic: "orders", Key: "k", Seq: int64(i + 1)}
		place := history.Place{Cluster: "kafka-a", Partition: "0", Offset: int64(i)}
		sender.Send(m).OK(place)
		if !strings.HasPrefix(id, "lost") {
			receiver.Recv("bill", m, place).Done()
		}
	}
	require.NoError(t, sender.Close())
	require.NoError(t, receiver.Close())
	return dir
}

// verdict is the JSON of turnout check.
type verdict struct {
	Clean   bool
	Files   []string
	Torn    []string
	Records int
	Sent    int
	Groups  []struct {
		Group                                  string
		Handled, Lost, Stranded, Unseen, Begun int
		Duplicates                             int
		Pause, Wait                            struct{ NS int64 }
	}
	Producers []struct {
		Producer    string
		Sent        int
		LongestSend struct{ NS int64 }
	}
	Findings []struct {
		Rule  string
		Count int
	}
}

func (v verdict) found() map[string]int {
	found := map[string]int{}
	for _, f := range v.Findings {
		if f.Count > 0 {
			found[f.Rule] = f.Count
		}
	}
	return found
}

func TestCheckOfACleanHistory(t *testing.T) {
	dir := recordRun(t, "m1", "m2", "m3")
	r := run(t, "check", dir)
	require.Equal(t, 0, r.code, "%s", r.stderr)
	require.Empty(t, r.stderr)
	for _, text := range []string{"12 records\n", "verdict: clean", "pause of consumption", "longest wait", "none: broken", "poll-skip"} {
		require.Contains(t, r.stdout, text)
	}
	require.Regexp(t, `(?m)^sender +3 +3 +0 +\S+ at \+0\.000s`, r.stdout)
	require.Regexp(t, `(?m)^bill +3 +0 +0 +0 +0 +0 `, r.stdout)

	r = run(t, "check", dir, "--ordered", "bill", "--output", "json")
	require.Equal(t, 0, r.code, "%s", r.stderr)
	v := decode[verdict](t, r.stdout)
	require.True(t, v.Clean)
	require.Equal(t, []string{dir}, v.Files)
	require.Equal(t, 12, v.Records)
	require.Equal(t, 3, v.Sent)
	require.Equal(t, "sender", v.Producers[0].Producer)
	require.Positive(t, v.Producers[0].LongestSend.NS)
	require.Equal(t, 3, v.Groups[0].Handled)
	require.Positive(t, v.Groups[0].Wait.NS)
	require.Empty(t, v.found())
}

func TestCheckFindsWhatIsLost(t *testing.T) {
	dir := recordRun(t, "m1", "lost-1", "m3", "lost-2")
	r := run(t, "check", dir)
	require.Equal(t, 7, r.code)
	require.Equal(t, "turnout: not clean: 2 lost, 1 unseen\n", r.stderr)
	require.Contains(t, r.stdout, "verdict: NOT CLEAN: 2 lost, 1 unseen")
	require.Contains(t, r.stdout, "lost-1  sent by sender at ")

	r = run(t, "check", dir, "-o", "json")
	require.Equal(t, 7, r.code)
	v := decode[verdict](t, r.stdout)
	require.False(t, v.Clean)
	require.Equal(t, map[string]int{"lost": 2, "unseen": 1}, v.found())
	require.Equal(t, 2, v.Groups[0].Lost)

	require.Equal(t, 0, run(t, "check", dir, "--partial", "bill").code)
	require.Equal(t, 0, run(t, "check", dir, "--allow", "lost,unseen").code)
	require.Equal(t, 7, run(t, "check", dir, "--allow", "lost").code)
}

func TestCheckWithExpectations(t *testing.T) {
	dir := recordRun(t, "m1", "m2")
	r := run(t, "check", dir, "--group", "mail=orders", "--group", "bill")
	require.Equal(t, 7, r.code, "a group that handled nothing")
	require.Contains(t, r.stderr, "2 lost")
	require.Equal(t, 0, run(t, "check", dir, "--group", "mail=others").code)
	require.Contains(t, run(t, "check", dir, "--max-send", "1ns").stderr, "2 slow")
	require.Contains(t, run(t, "check", dir, "--cluster", "kafka-b").stderr, "elsewhere")

	rec, err := history.Create(dir, "sender-2")
	require.NoError(t, err)
	rec.Send(history.Message{ID: "m3", Topic: "orders"})
	require.NoError(t, rec.Close())
	require.Contains(t, run(t, "check", dir).stderr, "1 unanswered")
	require.Equal(t, 0, run(t, "check", dir, "--killed", "sender-2").code)

	rec, err = history.Create(dir, "harness")
	require.NoError(t, err)
	rec.Kill("sender-2")
	rec.Seal("orders", "kafka-a", map[string]int64{"0": 1})
	require.NoError(t, rec.Close())
	require.Contains(t, run(t, "check", dir).stderr, "not clean: 1 after the seal")

	again, err := history.Create(dir, "receiver")
	require.NoError(t, err)
	again.Recv("bill", history.Message{ID: "m1", Topic: "orders", Key: "k", Seq: 1}, history.Place{Cluster: "kafka-a", Partition: "0"}).Done()
	require.NoError(t, again.Close())
	r = run(t, "check", dir, "--allow", "after the seal", "--allow", "duplicate")
	require.Equal(t, 0, r.code, "%s", r.stderr)
	require.Contains(t, r.stdout, "1 (1 redelivery)")
	require.Contains(t, run(t, "check", dir, "--allow", "after the seal").stderr, "not clean: 1 duplicate")
	require.Contains(t, run(t, "check", dir, "--allow=").stderr, "not clean: 1 after the seal, 1 duplicate")
}

func TestCheckReadsFilesAndStandardInput(t *testing.T) {
	dir := recordRun(t, "m1", "m2")
	files, err := filepath.Glob(filepath.Join(dir, "*.jsonl"))
	require.NoError(t, err)
	require.Len(t, files, 2)
	var all, reversed string
	for _, file := range files {
		b, err := os.ReadFile(file)
		require.NoError(t, err)
		all, reversed = all+string(b), string(b)+reversed
	}
	for name, r := range map[string]result{
		"files":              run(t, "check", files[0], files[1], "-o", "json"),
		"files, reversed":    run(t, "check", files[1], files[0], "-o", "json"),
		"standard input":     runWith(t, all, "check", "-", "-o", "json"),
		"the same, reversed": runWith(t, reversed, "check", "-", "-o", "json"),
		"one of each":        runWith(t, strings.TrimSuffix(reversed, string(read(t, files[0]))), "check", "-", files[0], "-o", "json"),
	} {
		require.Equal(t, 0, r.code, "%s: %s", name, r.stderr)
		v := decode[verdict](t, r.stdout)
		require.True(t, v.Clean, name)
		require.Equal(t, 8, v.Records, name)
	}
	r := runWith(t, all+`{"t":`, "check", "-", "-o", "json")
	require.Equal(t, 0, r.code, r.stderr)
	require.Contains(t, r.stderr, "stdin: the last line has no end")
	require.Equal(t, []string{"stdin"}, decode[verdict](t, r.stdout).Torn)
}

func TestCheckRefusals(t *testing.T) {
	dir := recordRun(t, "m1")
	damaged := filepath.Join(t.TempDir(), "damaged.jsonl")
	require.NoError(t, os.WriteFile(damaged, []byte(`{"t":1,"op":"send","id":"m1"}`+"\n"+`{"t":2,"op":"sent","id":"m1"}`+"\n"), 0o600))
	empty := filepath.Join(t.TempDir(), "empty.jsonl")
	require.NoError(t, os.WriteFile(empty, nil, 0o600))
	for _, c := range []struct {
		code int
		says string
		args []string
	}{
		{3, damaged + `:2: unknown op "sent"`, []string{dir, damaged}},
		{3, "nothing was checked", []string{empty}},
		{3, "nothing was checked", []string{"-"}},
		{3, "nothing was recorded", []string{t.TempDir()}},
		{3, "given twice", []string{dir, dir}},
		{4, "no such file", []string{dir + "x"}},
		{3, "more than 3 records; check a shorter run, or raise --max-records", []string{dir, "--max-records", "3"}},
		{2, "--max-records", []string{dir, "--max-records", "-3"}},
		{2, "requires at least 1 arg", nil},
		{2, `no such rule; the rules are broken, reused,`, []string{dir, "--allow", "loss"}},
		{2, `--ordered "mail"`, []string{dir, "--ordered", "mail"}},
		{2, `--group "=orders"`, []string{dir, "--group", "=orders"}},
		{2, `--group "bill="`, []string{dir, "--group", "bill="}},
		{2, "--max-send", []string{dir, "--max-send", "-1s"}},
	} {
		r := run(t, append([]string{"check"}, c.args...)...)
		require.Equal(t, c.code, r.code, "%v: %s", c.args, r.stderr)
		require.Contains(t, r.stderr, c.says)
		require.Empty(t, r.stdout)
		require.Equal(t, 1, strings.Count(r.stderr, "\n"), "one line: %s", r.stderr)
	}
}

func TestCheckHelp(t *testing.T) {
	r := run(t, "check", "--help")
	require.Equal(t, 0, r.code)
	require.Contains(t, r.stdout, "Examples:\n  turnout check ")
	for _, rule := range history.Rules() {
		require.Contains(t, strings.ReplaceAll(r.stdout, "\n", " "), fmt.Sprint(rule))
	}
}

func read(t *testing.T, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	require.NoError(t, err)
	return b
}
