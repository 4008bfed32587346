package coord_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/turnout-mq/turnout/admin/coord"
	"github.com/turnout-mq/turnout/internal/errs"
	"github.com/turnout-mq/turnout/metadata"
)

// childVariable holds the childSpec of a process that a test has started: this test binary again.
const childVariable = "TURNOUT_COORD_CHILD"

type childSpec struct{ ZooKeeper, Root, Role string }

// child does nothing in a test run. In a process that a test has started it is all there is.
func child() {
	text, set := os.LookupEnv(childVariable)
	if !set {
		return
	}
	var spec childSpec
	err := json.Unmarshal([]byte(text), &spec)
	if err == nil {
		err = spec.run()
	}
	fmt.Println("ended:", err)
	os.Exit(1)
}

// run leads, or serves the queue, for as long as somebody is there to kill it.
func (c childSpec) run() error {
	say := func(format string, args ...any) { fmt.Printf(format+"\n", args...) }
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	orders := make(chan string)
	go func() {
		for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
			orders <- lines.Text()
		}
		os.Exit(2)
	}()
	session := 4 * time.Second
	if c.Role == "shard" {
		session = 50 * time.Second // the test ends it
	}
	s, err := metadata.Open(metadata.Config{ZooKeeper: c.ZooKeeper, Root: c.Root, SessionTimeout: session})
	if err != nil {
		return err
	}
	if c.Role == "shard" {
		return c.shard(ctx, s, orders)
	}
	if c.Role == "serve" {
		q, err := coord.NewQueue(s, "requests", nil)
		if err != nil {
			return err
		}
		return q.Serve(ctx, func(ctx context.Context, item coord.Item) error {
			say("item %s", item.ID)
			<-ctx.Done()
			return ctx.Err()
		})
	}
	job, err := coord.NewJob(s, "controller", metadata.NewInstanceID(), nil)
	if err != nil {
		return err
	}
	if _, err := job.Join(ctx, metadata.Instance{V: 1, PID: os.Getpid()}); err != nil {
		return err
	}
	return job.Campaign(ctx, time.Millisecond, func(ctx context.Context, lead *coord.Held) error {
		n, err := s.Read(ctx, c.Root+"/work")
		if err != nil {
			return err
		}
		say("leading")
		<-orders // to write with what it has read, come what may
		byVersion := answered(func() error { return s.Set(context.Background(), n.Path, []byte("late"), n.Version) })
		byGuard := answered(func() error {
			return s.Multi(context.Background(), lead.Guard(), metadata.SetOp(n.Path, []byte("late"), metadata.AnyVersion))
		})
		<-ctx.Done()
		say("version refused %v, guard refused %v, lost %v", errors.Is(byVersion, errs.ErrConflict), errors.Is(byGuard, errs.ErrNotFound), errors.Is(context.Cause(ctx), coord.ErrLost))
		return ctx.Err()
	})
}

// answered writes until there is an answer.
func answered(write func() error) error {
	for {
		if err := write(); !errors.Is(err, errs.ErrTimeout) {
			return err
		}
	}
}

// process is a child.
type process struct {
	t     *tree
	cmd   *exec.Cmd
	stdin io.WriteCloser
	lines chan string
}

func (t *tree) start(role string) *process {
	t.Helper()
	spec, err := json.Marshal(childSpec{t.env.ZooKeeper(), t.root, role})
	require.NoError(t, err)
	p := &process{t: t, cmd: exec.CommandContext(context.Background(), os.Args[0]), lines: make(chan string, 100)}
	p.cmd.Env = append(os.Environ(), childVariable+"="+string(spec))
	p.cmd.Stderr = os.Stderr
	p.stdin, err = p.cmd.StdinPipe()
	require.NoError(t, err)
	out, err := p.cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, p.cmd.Start())
	go func() {
		defer close(p.lines)
		for lines := bufio.NewScanner(out); lines.Scan(); {
			p.lines <- lines.Text()
		}
	}()
	t.Cleanup(p.kill)
	return p
}

// says waits for the child to say something, and returns the rest of it.
func (p *process) says(begin string) string {
	p.t.Helper()
	line := wait(p.t, p.lines, "the child to say "+begin)
	rest, ok := strings.CutPrefix(line, begin)
	require.True(p.t, ok, "the child says %q and not %q", line, begin)
	return rest
}

func (p *process) signal(s syscall.Signal) {
	p.t.Helper()
	require.NoError(p.t, p.cmd.Process.Signal(s))
}

// kill ends the child by SIGKILL, if it has not ended.
func (p *process) kill() {
	_ = p.cmd.Process.Kill()
	for range p.lines { // until it has ended
	}
	_ = p.cmd.Wait() // it was killed
}
