package scene

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
)

// Process is an application that was started. Its methods may be called concurrently.
type Process struct {
	spec  Spec
	cmd   *exec.Cmd
	stdin io.WriteCloser // its end ends the process
	ready chan struct{}
	done  chan struct{}
	err   error // valid when done is closed

	asking sync.Mutex  // one Status at a time
	status chan string // answers

	ordering sync.Mutex    // one order at a time
	obeyed   chan struct{} // answers
	holds    chan string   // states before which it waits
}

// Start starts the application and returns; Ready waits for it. It ends when Stop or Kill is called, when this process
// ends, or by itself as the Spec says. ctx is not used after Start.
func Start(ctx context.Context, spec Spec) (*Process, error) {
	dir, err := filepath.Abs(spec.Dir)
	if err != nil {
		return nil, fmt.Errorf("scene: Spec.Dir: %w", err)
	}
	if spec.Dir != "" {
		spec.Dir = dir
	}
	if err := spec.complete(); err != nil {
		return nil, err
	}
	for _, dir := range []string{HistoryDir(spec.Dir), filepath.Dir(spec.LogFile()), spec.snapshotDir()} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return nil, fmt.Errorf("scene: %w", err)
		}
	}
	exe, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("scene: %w", err)
	}
	log, err := os.OpenFile(spec.LogFile(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, fmt.Errorf("scene: %w", err)
	}
	defer log.Close() // the child has its own

	p := &Process{spec: spec, ready: make(chan struct{}), done: make(chan struct{}), status: make(chan string, 1), obeyed: make(chan struct{}, 1), holds: make(chan string, maxHolds)}
	p.cmd = exec.CommandContext(context.WithoutCancel(ctx), exe, "scene:"+spec.Name) // the argument is for whoever looks at ps
	p.cmd.Env = append(os.Environ(), variable+"="+string(mustJSON(spec)))
	p.cmd.Stderr = log
	// Its own process group: Ctrl-C is for the one who started it, and when that one dies while this one is paused the
	// kernel wakes it up (SIGHUP and SIGCONT to a stopped orphan).
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if p.stdin, err = p.cmd.StdinPipe(); err != nil {
		return nil, fmt.Errorf("scene: %w", err)
	}
	stdout, err := p.cmd.StdoutPipe()
	if err != nil {
		return nil, fmt.Errorf("scene: %w", err)
	}
	if err := p.cmd.Start(); err != nil {
		return nil, fmt.Errorf("scene: %s: %w", spec.Name, err)
	}
	go p.follow(stdout)
	return p, nil
}

// follow reads what the process says until it ends.
func (p *Process) follow(stdout io.Reader) {
	defer close(p.done)
	lines := bufio.NewScanner(stdout)
	lines.Buffer(nil, 1<<20)
	for ready := false; lines.Scan(); {
		if !ready && lines.Text() == readyLine {
			ready = true
			close(p.ready)
		}
		if text, is := strings.CutPrefix(lines.Text(), statusPrefix); is {
			offer(p.status, text)
		}
		if state, is := strings.CutPrefix(lines.Text(), holdsPrefix); is {
			offer(p.holds, state)
		}
		if lines.Text() == obeyed {
			offer(p.obeyed, struct{}{})
		}
	}
	if err := p.cmd.Wait(); err != nil {
		p.err = fmt.Errorf("%s (pid %d): %w; the end of its log %s: %s", p.spec.Name, p.Pid(), err, p.spec.LogFile(), p.lastWords())
	}
}

// offer drops what nobody asks for.
func offer[T any](to chan T, v T) {
	select {
	case to <- v:
	default:
	}
}

// lastWords is the end of the log.
func (p *Process) lastWords() string {
	b, err := os.ReadFile(p.spec.LogFile())
	if err != nil {
		return err.Error()
	}
	b = bytes.TrimSpace(b)
	const most = 1000
	if len(b) > most {
		b = b[len(b)-most:]
	}
	return strings.ToValidUTF8(string(b[bytes.LastIndexByte(b, '\n')+1:]), "")
}

// Name is the Spec's.
func (p *Process) Name() string { return p.spec.Name }

// Pid is the process's id.
func (p *Process) Pid() int { return p.cmd.Process.Pid }

// LogFile is where the process logs.
func (p *Process) LogFile() string { return p.spec.LogFile() }

// Ready waits until the process does what it is for: a sender has sent its first message, a receiver is a member on every
// cluster that it has to read, a controller leads. An error: ctx ended, or the process did.
func (p *Process) Ready(ctx context.Context) error {
	select {
	case <-p.ready:
		return nil
	default:
	}
	select {
	case <-p.ready:
		return nil
	case <-p.done:
		return fmt.Errorf("scene: ended before it was ready: %w", errors.Join(p.err, errEnded))
	case <-ctx.Done():
		return fmt.Errorf("scene: %s is not ready: %w; the end of its log %s: %s", p.spec.Name, ctx.Err(), p.spec.LogFile(), p.lastWords())
	}
}

var errEnded = errors.New("the process has ended")

// holdsPrefix begins the line in which a controller says that it waits before a state.
const holdsPrefix = "holds "

// maxHolds is how many of those nobody needs to have heard.
const maxHolds = 16

// GoOn lets a controller go on that waits before a state, and makes it wait before these states, and no others, from now on.
func (p *Process) GoOn(ctx context.Context, states ...string) error {
	p.ordering.Lock()
	defer p.ordering.Unlock()
	select { // an answer that came too late
	case <-p.obeyed:
	default:
	}
	if _, err := fmt.Fprintln(p.stdin, strings.Join(append([]string{orderGo}, states...), " ")); err != nil {
		return fmt.Errorf("scene: %s: go on: %w", p.spec.Name, err)
	}
	select {
	case <-p.obeyed:
		return nil
	case <-p.done:
		return fmt.Errorf("scene: %s: go on: %w", p.spec.Name, errEnded)
	case <-ctx.Done():
		return fmt.Errorf("scene: %s: go on: %w", p.spec.Name, ctx.Err())
	}
}

// Holds returns the state before which a controller waits, when it does. An error: ctx ended, or the process did.
func (p *Process) Holds(ctx context.Context) (state string, err error) {
	select {
	case state = <-p.holds:
		return state, nil
	case <-p.done:
		return "", fmt.Errorf("scene: %s: %w", p.spec.Name, errors.Join(p.err, errEnded))
	case <-ctx.Done():
		return "", fmt.Errorf("scene: %s has not come to a state to wait in: %w", p.spec.Name, ctx.Err())
	}
}

// Done is closed when the process has ended.
func (p *Process) Done() <-chan struct{} { return p.done }

// Err is nil while the process runs and when it ended in good order; else it says how it ended, with the end of its log.
func (p *Process) Err() error {
	select {
	case <-p.done:
		return p.err
	default:
		return nil
	}
}

// Stop ends the process in good order and returns when it has ended, with Err. When ctx ends first the process is killed,
// and the error says so. A paused process is resumed.
func (p *Process) Stop(ctx context.Context) error {
	if err := errors.Join(p.signal(syscall.SIGTERM), p.signal(syscall.SIGCONT)); err != nil {
		return err
	}
	select {
	case <-p.done:
		return p.Err()
	case <-ctx.Done():
	}
	return errors.Join(fmt.Errorf("scene: %s did not end in time and was killed: %w", p.spec.Name, ctx.Err()), p.Kill())
}

// Kill ends the process by SIGKILL and returns when it has ended.
func (p *Process) Kill() error {
	err := p.signal(syscall.SIGKILL)
	<-p.done
	return err
}

// Dump ends the process so that where each of its goroutines stands is in its log, and returns when it has ended. When ctx ends
// first it is killed.
func (p *Process) Dump(ctx context.Context) error {
	if err := errors.Join(p.signal(syscall.SIGQUIT), p.signal(syscall.SIGCONT)); err != nil {
		return err
	}
	select {
	case <-p.done:
		return nil
	case <-ctx.Done():
		return p.Kill()
	}
}

// Pause freezes the process (SIGSTOP) until Resume, Stop or Kill.
func (p *Process) Pause() error { return p.signal(syscall.SIGSTOP) }

// Resume lets a paused process go on.
func (p *Process) Resume() error { return p.signal(syscall.SIGCONT) }

// signal sends a signal; a process that has ended needs none.
func (p *Process) signal(s syscall.Signal) error {
	if err := p.cmd.Process.Signal(s); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("scene: %s: %v: %w", p.spec.Name, s, err)
	}
	return nil
}
