package cli_test

import (
	"bytes"

	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/turnout-mq/turnout/testenv/history"
)

// report is the JSON of turnout demo.
type report struct {
	Clean                                      bool
	Backend                                    string
	Sent, Acknowledged, Errors, Received, Lost int
	LostIDs                                    []string
	Moves                                      []struct {
		From, To                            string
		FirstMessageMS, AppliedMS, ClosedMS float64
	}
	Left []struct {
		Cluster                       string
		Messages, Unread, DeadLetters int
	}
	Broken []struct {
		Rule  string
		Count int
	}
	Dir string
}

// startDemo starts a demo with its files in a new folder and returns when messages flow.
func startDemo(t *testing.T, args ...string) (b *background, dir string) {
	dir = filepath.Join(t.TempDir(), "demo")
	b = start(t, append([]string{"demo", "--dir", dir}, args...)...)
	return b, dir
}

// await waits until a demo that was started says text, on whichever stream.
func (b *background) await(t *testing.T, text string) {
	t.Helper()
	eventually(t, func() bool {
		return bytes.Contains([]byte(b.stdout.String()+b.stderr.String()), []byte(text))
	}, patience, 5*time.Millisecond, "no %q: %s %s", text, &b.stdout, &b.stderr)
}

func TestDemo(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "demo")
	r := run(t, "demo", "--seconds", "6", "--rate", "100", "--dir", dir)
	require.Equal(t, 0, r.code, "%s%s", r.stdout, r.stderr)
	require.Empty(t, r.stderr)
	at := 0
	for _, text := range []string{
		"ZooKeeper", "127.0.0.1:", "kafka-a", "kafka-b", "order_service ", "order_service_consumer", dir, "turnout watch",
		"sent in a second to",
		`EDIT  /turnout/topics/order_topic  {"cluster":"kafka-a"}  →  {"cluster":"kafka-b"}`,
		"order_bil_group has finished kafka-a", "kafka-a CLOSED", "kafka-b CLOSED", "rocketmq-a CLOSED",
		"Verdict: CLEAN", "lost                     0", "kafka-a → kafka-b", "kafka-b → rocketmq-a", "rocketmq-a → kafka-a", "What next?",
	} {
		next := bytes.Index([]byte(r.stdout[at:]), []byte(text))
		require.GreaterOrEqual(t, next, 0, "no %q behind %q", text, r.stdout[at:])
		at += next
	}
	for _, text := range []string{"first message on kafka-b, ", "order_service acknowledges it: it sends to kafka-b", "order_service_consumer acknowledges it: it reads kafka-a and kafka-b"} {
		require.Contains(t, r.stdout, text)
	}
	require.FileExists(t, filepath.Join(dir, "log", "order_service.log"))
}

func TestDemoAsJSON(t *testing.T) {
	t.Parallel()
	r := run(t, "demo", "--seconds", "3", "--output", "json", "--dir", filepath.Join(t.TempDir(), "demo"))
	require.Equal(t, 0, r.code, "%s%s", r.stdout, r.stderr)
	require.Contains(t, r.stderr, "EDIT", "what happens is told on the other stream")
	v := decode[report](t, r.stdout)
	require.True(t, v.Clean)
	require.Equal(t, "embedded", v.Backend)
	require.Positive(t, v.Sent)
	require.Equal(t, v.Sent, v.Acknowledged)
	require.Equal(t, v.Sent, v.Received)
	require.Len(t, v.Moves, 3)
	for _, m := range v.Moves {
		require.Positive(t, m.FirstMessageMS)
		require.Positive(t, m.AppliedMS)
		require.Positive(t, m.ClosedMS)
	}
	require.Len(t, v.Left, 3)
	stored := 0
	for _, left := range v.Left {
		stored += left.Messages
		require.Zero(t, left.Unread, left)
	}
	require.GreaterOrEqual(t, stored, v.Sent, "the brokers have what was sent; a send that was not answered in time twice")
	require.Empty(t, v.Broken)
}

// A message that somebody says was acknowledged, and that nobody ever receives.
func TestDemoWithALostMessageIsNotClean(t *testing.T) {
	t.Parallel()
	b, dir := startDemo(t, "--seconds", "3", "--output", "json")
	b.await(t, "EDIT")
	rec, err := history.Create(filepath.Join(dir, "history"), "stray")
	require.NoError(t, err)
	rec.Send(history.Message{ID: "nobody-has-it", Topic: "order_topic"}).OK(history.Place{Cluster: "kafka-a"})
	require.NoError(t, rec.Close())
	require.Equal(t, 7, b.wait(t), "%v", &b.stderr)
	require.Contains(t, b.stderr.String(), "verdict not clean: 1 lost")
	v := decode[report](t, b.stdout.String())
	require.False(t, v.Clean)
	require.Equal(t, 1, v.Lost)
	require.Equal(t, []string{"nobody-has-it"}, v.LostIDs)
	require.Equal(t, "lost", v.Broken[0].Rule)
}

func TestDemoInterrupted(t *testing.T) {
	t.Parallel()
	b, _ := startDemo(t, "--seconds", "60")
	b.await(t, "acknowledges it")
	pids := b.pids(t)
	require.Equal(t, 1, b.end(t))
	require.Contains(t, b.stderr.String(), "interrupted")
	require.NotContains(t, b.stdout.String(), "Verdict")
	for _, pid := range pids {
		require.ErrorIs(t, syscall.Kill(pid, 0), syscall.ESRCH, "process %d runs on", pid)
	}
}

func TestDemoWhoseProgramDies(t *testing.T) {
	t.Parallel()
	b, dir := startDemo(t, "--seconds", "60")
	b.await(t, "acknowledges it")
	require.NoError(t, syscall.Kill(b.pids(t)[0], syscall.SIGKILL))
	require.Equal(t, 1, b.wait(t))
	require.Contains(t, b.stderr.String(), "order_service ended in the middle of the scene")
	require.Contains(t, b.stderr.String(), filepath.Join(dir, "log", "order_service.log"))
}

func TestDemoStays(t *testing.T) {
	t.Parallel()
	b, _ := startDemo(t, "--seconds", "3", "--stay")
	b.await(t, "The servers run on until Ctrl-C")
	require.NotContains(t, b.stdout.String(), "turnout demo --stay")
	b.await(t, "migrate start order_topic --to kafka-b")
	found := regexp.MustCompile(`export TURNOUT_ZOOKEEPER=(\S+)`).FindStringSubmatch(b.stdout.String())
	require.Len(t, found, 2)
	require.Contains(t, watchFor(t, "/turnout/topics/order_topic", found[1]), `{"cluster":"kafka-a"}`)
	require.Equal(t, 0, b.end(t))
}

// pids are those of the two programs.
func (b *background) pids(t *testing.T) (pids []int) {
	t.Helper()
	for _, m := range regexp.MustCompile(`(?m)process (\d+),`).FindAllStringSubmatch(b.stdout.String(), -1) {
		pid, err := strconv.Atoi(m[1])
		require.NoError(t, err)
		pids = append(pids, pid)
	}
	require.Len(t, pids, 2)
	return pids
}

func TestDemoRefusals(t *testing.T) {
	full := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(full, "mine"), nil, 0o600))
	for text, args := range map[string][]string{
		"--rate":      {"--rate", "0"},
		"--seconds":   {"--seconds", "2"},
		full:          {"--dir", full},
		"unknown com": {"now"},
	} {
		r := run(t, append([]string{"demo"}, args...)...)
		require.Equal(t, 2, r.code, r.stderr)
		require.Contains(t, r.stderr, text)
	}
	require.FileExists(t, filepath.Join(full, "mine"))
}
