package scale

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/turnout-mq/turnout/admin/server"
	"github.com/turnout-mq/turnout/broker/drivers"
	"github.com/turnout-mq/turnout/metadata"
	"github.com/turnout-mq/turnout/testenv/leaks"
)

// childVariable holds the childSpec of a server: this test binary again, so that its memory is that of a server alone.
const childVariable = "TURNOUT_SCALE_SERVER"

func TestMain(m *testing.M) {
	if spec := os.Getenv(childVariable); spec != "" {
		if err := runChild(spec); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	goleak.VerifyTestMain(m, leaks.Libraries()...)
}

type childSpec struct{ ZooKeeper, Database, Log string }

// words of the server to the test, and of the test to the server.
const (
	wordReady  = "ready " // and the URL
	wordMemory = "memory" // asks for it; the answer is that word and a number of bytes
)

// runChild is a server that runs until its standard input ends.
func runChild(text string) error {
	var spec childSpec
	if err := json.Unmarshal([]byte(text), &spec); err != nil {
		return err
	}
	file, err := os.Create(spec.Log)
	if err != nil {
		return err
	}
	encoding := zap.NewProductionEncoderConfig()
	encoding.EncodeTime = zapcore.EpochNanosTimeEncoder
	encoding.EncodeDuration = zapcore.NanosDurationEncoder
	log := zap.New(zapcore.NewCore(zapcore.NewJSONEncoder(encoding), zapcore.Lock(file), zap.DebugLevel))
	ctx, stop := context.WithCancel(context.Background())
	go func() {
		defer stop()
		for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
			debug.FreeOSMemory() // what is kept is asked for
			var m runtime.MemStats
			runtime.ReadMemStats(&m)
			fmt.Println(wordMemory, m.HeapAlloc)
		}
	}()
	err = server.Run(ctx, server.Config{
		ZooKeeper: metadata.Config{ZooKeeper: spec.ZooKeeper}, Database: spec.Database, Listen: "127.0.0.1:0", NoLogin: true, Open: drivers.Open,
		StartLimit: patience, Logger: log, Ready: func(i server.Info) { fmt.Println(wordReady + i.URL) },
	})
	return errors.Join(err, file.Close())
}

// process is a server that runs.
type process struct {
	t     *testing.T
	cmd   *exec.Cmd
	stdin interface{ Close() error }
	tell  *bufio.Writer
	lines chan string
	url   string
	log   string
	began time.Time
	ready time.Duration // how long that took
}

func startServer(t *testing.T, spec childSpec) *process {
	t.Helper()
	text, err := json.Marshal(spec)
	require.NoError(t, err)
	p := &process{t: t, cmd: exec.CommandContext(context.Background(), os.Args[0]), lines: make(chan string, 10), log: spec.Log, began: time.Now()}
	p.cmd.Env = append(os.Environ(), childVariable+"="+string(text))
	p.cmd.Stderr = os.Stderr
	stdin, err := p.cmd.StdinPipe()
	require.NoError(t, err)
	p.stdin, p.tell = stdin, bufio.NewWriter(stdin)
	out, err := p.cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, p.cmd.Start())
	go func() {
		defer close(p.lines)
		for lines := bufio.NewScanner(out); lines.Scan(); {
			p.lines <- lines.Text()
		}
	}()
	t.Cleanup(p.stop)
	p.url = p.says(wordReady)
	p.ready = time.Since(p.began)
	return p
}

// says waits for a word of the server and returns what comes after it.
func (p *process) says(word string) string {
	p.t.Helper()
	select {
	case line, open := <-p.lines:
		require.True(p.t, open, "the server has ended")
		rest, is := strings.CutPrefix(line, word)
		require.True(p.t, is, line)
		return strings.TrimSpace(rest)
	case <-time.After(patience):
		require.FailNow(p.t, "the server does not say "+word)
		return ""
	}
}

// stop ends the server in order; it may be called again.
func (p *process) stop() {
	if p.stdin == nil {
		return
	}
	_ = p.stdin.Close()
	p.stdin = nil
	for range p.lines { // until it has ended
	}
	require.NoError(p.t, p.cmd.Wait())
}

// memory is what the server keeps on its heap, after a garbage collection.
func (p *process) memory() (bytes float64) {
	p.t.Helper()
	_, err := p.tell.WriteString(wordMemory + "\n")
	require.NoError(p.t, errors.Join(err, p.tell.Flush()))
	_, err = fmt.Sscan(p.says(wordMemory), &bytes)
	require.NoError(p.t, err)
	return bytes
}

// resident is the memory that the system has given to the server, now and at the most; known on Linux only.
func (p *process) resident() (now, most float64, known bool) {
	p.t.Helper()
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.cmd.Process.Pid))
	if err != nil {
		return 0, 0, false
	}
	for line := range strings.Lines(string(data)) {
		_, _ = fmt.Sscanf(line, "VmRSS: %f kB", &now)
		_, _ = fmt.Sscanf(line, "VmHWM: %f kB", &most)
	}
	return now * 1024, most * 1024, true
}

// cpu is the processor time that the server has used so far; known on Linux only.
func (p *process) cpu() (used time.Duration, known bool) {
	p.t.Helper()
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.cmd.Process.Pid))
	if err != nil {
		return 0, false
	}
	fields := strings.Fields(string(data[strings.LastIndexByte(string(data), ')')+1:]))
	var user, system int64
	_, err = fmt.Sscan(fields[11]+" "+fields[12], &user, &system)
	require.NoError(p.t, err)
	return time.Duration(user+system) * (time.Second / 100), true // the clock ticks of Linux
}

// look is one look at a shard, as the server has logged it.
type look struct {
	Msg   string        `json:"msg"`
	Ended float64       `json:"ts"` // in nanoseconds since 1970
	Shard int           `json:"shard"`
	Of    int           `json:"of"`
	Took  time.Duration `json:"took"`
}

// looks are those that began after a time, of a kind.
func (p *process) looks(kind string, after time.Time) (list []look) {
	p.t.Helper()
	file, err := os.Open(p.log)
	require.NoError(p.t, err)
	defer file.Close()
	lines := bufio.NewScanner(file)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var l look
		if json.Unmarshal(lines.Bytes(), &l) == nil && l.Msg == kind && l.begin() > float64(after.UnixNano()) {
			list = append(list, l)
		}
	}
	require.NoError(p.t, lines.Err())
	return list
}

func (l look) begin() float64 { return l.Ended - float64(l.Took) }

// rounds waits until every shard was looked at twice since a time, and says how long it is from the beginning of a look at a shard to
// the next one, in the middle and at the most.
func (p *process) rounds(kind string, since time.Time) (middle, most time.Duration) {
	p.t.Helper()
	var between []time.Duration
	every(p.t, time.Second, func() bool {
		between = between[:0]
		first := map[int]look{}
		second := map[int]bool{}
		of := 1
		for _, l := range p.looks(kind, since) {
			of = l.Of
			if before, known := first[l.Shard]; known && !second[l.Shard] {
				second[l.Shard] = true
				between = append(between, time.Duration(l.begin()-before.begin()))
			} else if !known {
				first[l.Shard] = l
			}
		}
		return len(second) == of
	}, kind+" twice")
	slices.Sort(between)
	return between[len(between)/2], between[len(between)-1]
}

// whole waits until every shard was looked at since a time, and says how long that took from the first to the last.
func (p *process) whole(kind string, since time.Time) (took time.Duration) {
	p.t.Helper()
	every(p.t, time.Second, func() bool {
		shards := map[int]bool{}
		first, last := 0.0, 0.0
		for _, l := range p.looks(kind, since) {
			if shards[l.Shard] {
				continue
			}
			shards[l.Shard] = true
			if first == 0 || l.begin() < first {
				first = l.begin()
			}
			last = max(last, l.Ended)
			if took = time.Duration(last - first); len(shards) == l.Of {
				return true
			}
		}
		return false
	}, kind)
	return took
}
