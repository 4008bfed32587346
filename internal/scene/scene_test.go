package scene_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/turnout-mq/turnout/broker"
	"github.com/turnout-mq/turnout/broker/drivers"
	"github.com/turnout-mq/turnout/internal/scene"
	"github.com/turnout-mq/turnout/metadata"
	"github.com/turnout-mq/turnout/testenv"
	"github.com/turnout-mq/turnout/testenv/history"
)

const (
	patience = 60 * time.Second // for what takes a second on a quiet machine
	poll     = 20 * time.Millisecond
)

// parentVariable makes the test binary start the processes in it (JSON), pause the last, and wait to be killed.
const parentVariable = "TURNOUT_SCENE_PARENT"

func TestMain(m *testing.M) {
	scene.Run()
	if specs, set := os.LookupEnv(parentVariable); set {
		parent(specs)
	}
	// Sarama has one goroutine a process; others begin when a library is loaded.
	goleak.VerifyTestMain(m, goleak.IgnoreCurrent(), goleak.IgnoreAnyFunction("github.com/rcrowley/go-metrics.(*meterArbiter).tick"))
}

// stage is an environment with two topics and a group on it.
type stage struct {
	t   *testing.T
	env *testenv.Env
	dir string
}

func newStage(t *testing.T, change func(*metadata.Group)) *stage {
	env, err := testenv.Start(t.Context(), testenv.Spec{ZooKeeper: 1, Kafka: []string{"kafka-a"}})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, env.Close()) })
	s := &stage{t, env, t.TempDir()}
	store, err := metadata.Open(metadata.Config{ZooKeeper: env.ZooKeeper(), SessionTimeout: time.Minute})
	require.NoError(t, err)
	defer func() { require.NoError(t, store.Close(s.ctx())) }()
	put := func(path string, doc any) {
		data, err := json.Marshal(doc)
		require.NoError(t, err)
		require.NoError(t, store.Create(s.ctx(), path, data))
	}
	put(store.ClusterPath("kafka-a"), metadata.Cluster{V: 1, Kind: broker.Kafka, Addresses: env.Addresses("kafka-a")})
	c, err := drivers.Open(s.ctx(), broker.Config{Name: "kafka-a", Kind: broker.Kafka, Addresses: env.Addresses("kafka-a"), ClientID: "test"})
	require.NoError(t, err)
	defer func() { require.NoError(t, c.Close(s.ctx())) }()
	g := metadata.DefaultGroup()
	g.Names = map[string]string{"t1": "g", "t2": "g-t2"}
	for _, topic := range []string{"t1", "t2"} {
		require.NoError(t, c.CreateTopic(s.ctx(), topic, broker.TopicSpec{Partitions: 2}))
		put(store.TopicPath(topic), metadata.Wish{Cluster: "kafka-a"})
		g.Topics = append(g.Topics, topic)
	}
	if change != nil {
		change(&g)
	}
	put(store.GroupPath("g"), g)
	return s
}

func (s *stage) ctx() context.Context {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(s.t.Context()), patience)
	s.t.Cleanup(cancel)
	return ctx
}

func (s *stage) sender(name string) scene.Spec {
	return scene.Spec{Role: scene.Sender, Name: name, Dir: s.dir, ZooKeeper: s.env.ZooKeeper(), Topics: []string{"t1", "t2"}, Rate: 200, Keys: 4, Senders: 2}
}

func (s *stage) receiver(name string) scene.Spec {
	return scene.Spec{Role: scene.Receiver, Name: name, Dir: s.dir, ZooKeeper: s.env.ZooKeeper(), Group: "g"}
}

func (s *stage) start(spec scene.Spec) *scene.Process {
	s.t.Helper()
	p, err := scene.Start(s.ctx(), spec)
	require.NoError(s.t, err)
	s.t.Cleanup(func() { require.NoError(s.t, p.Kill()) })
	return p
}

func (s *stage) ready(spec scene.Spec) *scene.Process {
	s.t.Helper()
	p := s.start(spec)
	require.NoError(s.t, p.Ready(s.ctx()))
	return p
}

// eventually polls until ok, which may fail the test: it runs in the test's goroutine.
func eventually(t *testing.T, ok func() bool, what ...any) {
	t.Helper()
	deadline := time.Now().Add(patience)
	tick := time.NewTicker(poll)
	defer tick.Stop()
	for !ok() {
		if time.Now().After(deadline) {
			require.FailNow(t, "never", what...)
		}
		<-tick.C
	}
}

// count is how often op was recorded by a process.
func (s *stage) count(op history.Op, process string) (n int) {
	events, err := history.Load(scene.HistoryDir(s.dir))
	require.NoError(s.t, err)
	for _, e := range events {
		if e.Op == op && (e.Producer == process || e.Member == process) {
			n++
		}
	}
	return n
}

// more waits until a process has recorded op anew.
func (s *stage) more(op history.Op, process string) {
	s.t.Helper()
	was := s.count(op, process)
	eventually(s.t, func() bool { return s.count(op, process) > was })
}

// verdict waits until nothing is lost and judges.
func (s *stage) verdict(o history.Options) history.Verdict {
	s.t.Helper()
	o.Groups = []history.Group{{Name: "g", Topics: []string{"t1", "t2"}}}
	var v history.Verdict
	eventually(s.t, func() bool {
		events, err := history.Load(scene.HistoryDir(s.dir))
		require.NoError(s.t, err)
		v = history.Check(events, o)
		return v.Count(history.Lost) == 0 && v.Count(history.Unfinished) == 0
	})
	return v
}

func TestSendAndReceive(t *testing.T) {
	for name, change := range map[string]func(sender, receiver *scene.Spec){
		"sync":  func(*scene.Spec, *scene.Spec) {},
		"async": func(s, _ *scene.Spec) { s.Async = true },
		"without keys, some fail at first": func(s, r *scene.Spec) {
			s.Keys = 0
			r.FailRate, r.RetryDelay = 0.2, 50*time.Millisecond
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := newStage(t, nil)
			sender, receiver := s.sender("orders"), s.receiver("billing")
			change(&sender, &receiver)
			r, p := s.ready(receiver), s.ready(sender)
			eventually(t, func() bool { return s.count(history.OpOK, "orders") >= 100 })
			require.NoError(t, p.Stop(s.ctx()))
			v := s.verdict(history.Options{})
			require.NoError(t, r.Stop(s.ctx()))
			require.NoError(t, v.Err())
			require.Equal(t, v.Sent, v.Groups[0].Handled)
			require.Equal(t, receiver.FailRate > 0, v.Groups[0].Retried > 0)
			require.FileExists(t, p.LogFile())
		})
	}
}

func TestBounds(t *testing.T) {
	s := newStage(t, nil)
	sender, receiver := s.sender("orders"), s.receiver("billing")
	sender.Count, sender.Rate, receiver.Count = 300, 0, 300
	r, p := s.start(receiver), s.start(sender)
	for _, p := range []*scene.Process{r, p} {
		select {
		case <-p.Done():
			require.NoError(t, p.Err())
		case <-s.ctx().Done():
			require.FailNow(t, "it does not end")
		}
	}
	require.Equal(t, 300, s.verdict(history.Options{}).Sent)
	brief := s.sender("brief")
	brief.For = 100 * time.Millisecond
	p = s.start(brief)
	<-p.Done()
	require.NoError(t, p.Err())
}

func TestFaults(t *testing.T) {
	s := newStage(t, nil)
	receiver := s.receiver("billing")
	receiver.SessionTimeout = 2 * time.Second
	r, p := s.ready(receiver), s.ready(s.sender("orders"))
	s.more(history.OpDone, "billing")

	require.NoError(t, p.Pause())
	eventually(t, func() bool { return state(t, p.Pid()) == "T" })
	require.NoError(t, p.Resume())
	s.more(history.OpOK, "orders")

	require.NoError(t, r.Kill())
	require.ErrorContains(t, r.Err(), "killed")
	require.NoError(t, r.Kill(), "again")
	r = s.ready(receiver) // the same name, the same log, its own history
	s.more(history.OpDone, "billing")

	require.NoError(t, p.Pause())
	require.NoError(t, p.Stop(s.ctx()), "a paused process stops")
	v := s.verdict(history.Options{Killed: []string{"billing"}})
	require.NoError(t, r.Stop(s.ctx()))
	require.NoError(t, v.Err())
}

func TestAnEarlyEndIsExplained(t *testing.T) {
	s := newStage(t, nil)
	receiver := s.receiver("billing")
	receiver.Group = "nobody"
	p := s.start(receiver)
	err := p.Ready(s.ctx())
	require.ErrorContains(t, err, "unknown group", "the end of the log is in the error")
	require.ErrorContains(t, err, p.LogFile())
	require.Error(t, p.Err())
	require.Error(t, p.Stop(s.ctx()))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	require.ErrorIs(t, s.start(s.sender("orders")).Ready(ctx), context.Canceled)
}

func TestStopThatTakesTooLongKills(t *testing.T) {
	s := newStage(t, nil)
	receiver := s.receiver("billing")
	receiver.Delay = time.Hour
	r, _ := s.ready(receiver), s.ready(s.sender("orders"))
	s.more(history.OpRecv, "billing")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	require.ErrorIs(t, r.Stop(ctx), context.Canceled)
	require.ErrorContains(t, r.Err(), "killed")
}

func TestBadSpecs(t *testing.T) {
	good := scene.Spec{Role: scene.Sender, Name: "n", Dir: t.TempDir(), ZooKeeper: "127.0.0.1:1", Topics: []string{"t"}}
	for field, spoil := range map[string]func(*scene.Spec){
		"Role":      func(s *scene.Spec) { s.Role = "both" },
		"Name":      func(s *scene.Spec) { s.Name = "a/b" },
		"Dir":       func(s *scene.Spec) { s.Dir = "" },
		"ZooKeeper": func(s *scene.Spec) { s.ZooKeeper = "" },
		"Topics":    func(s *scene.Spec) { s.Topics = nil },
		"Keys":      func(s *scene.Spec) { s.Keys, s.Senders = 1, 2 },
		"Rate":      func(s *scene.Spec) { s.Rate = -1 },
		"Group":     func(s *scene.Spec) { s.Role = scene.Receiver },
		"FailRate":  func(s *scene.Spec) { s.Role, s.Group, s.FailRate = scene.Receiver, "g", 2 },
		"durations": func(s *scene.Spec) { s.Linger = -1 },
	} {
		spec := good
		spoil(&spec)
		_, err := scene.Start(t.Context(), spec)
		require.ErrorContains(t, err, field)
	}
}

// parent is the program of the next test.
func parent(text string) {
	var specs []scene.Spec
	if err := json.Unmarshal([]byte(text), &specs); err != nil {
		panic(err)
	}
	var last *scene.Process
	for _, spec := range specs {
		p, err := scene.Start(context.Background(), spec)
		if err != nil {
			panic(err)
		}
		if err := p.Ready(context.Background()); err != nil {
			panic(err)
		}
		last = p
		fmt.Println(p.Pid())
	}
	if err := last.Pause(); err != nil {
		panic(err)
	}
	fmt.Println("paused")
	select {}
}

func TestNoProcessOutlivesItsParent(t *testing.T) {
	s := newStage(t, nil)
	specs, err := json.Marshal([]scene.Spec{s.receiver("billing"), s.sender("orders"), s.sender("paused")})
	require.NoError(t, err)
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), parentVariable+"="+string(specs))
	cmd.Stderr = os.Stderr
	stdout, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	var pids []int
	lines := bufio.NewScanner(stdout)
	for lines.Scan() && lines.Text() != "paused" {
		pid, err := strconv.Atoi(lines.Text())
		require.NoError(t, err)
		pids = append(pids, pid)
	}
	require.Len(t, pids, 3)
	for _, pid := range pids {
		require.NotEmpty(t, state(t, pid))
	}
	eventually(t, func() bool { return state(t, pids[2]) == "T" })

	require.NoError(t, cmd.Process.Kill())
	require.Error(t, cmd.Wait())
	for _, pid := range pids {
		eventually(t, func() bool { s := state(t, pid); return s == "" || s == "Z" }, "process %d", pid)
	}
}

// state is the first letter of what ps says of a process; "" when there is none.
func state(t *testing.T, pid int) string {
	out, err := exec.CommandContext(t.Context(), "ps", "-o", "state=", "-p", strconv.Itoa(pid)).Output()
	if text := strings.TrimSpace(string(out)); err == nil && text != "" {
		return text[:1]
	}
	return ""
}

func TestFilesAreWhereTheyAreSaidToBe(t *testing.T) {
	s := newStage(t, nil)
	p := s.ready(s.sender("orders"))
	require.NoError(t, p.Stop(s.ctx()))
	require.Equal(t, filepath.Join(s.dir, "log", "orders.log"), p.LogFile())
	found, err := filepath.Glob(filepath.Join(s.dir, "history", "orders-*.jsonl"))
	require.NoError(t, err)
	require.Len(t, found, 1)
	log, err := os.ReadFile(p.LogFile())
	require.NoError(t, err)
	for line := range strings.Lines(string(log)) {
		require.True(t, json.Valid([]byte(line)), line)
	}
}
