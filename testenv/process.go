package testenv

import (
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
	"time"

	"go.uber.org/zap"
)

const (
	startTimeout = 2 * time.Minute // of one server, on a machine that is busy with other things
	stopTimeout  = 20 * time.Second
	pollInterval = 20 * time.Millisecond
)

// java is what every Java server of one environment is started with.
type java struct {
	binary     string
	jars       string // folder with one folder of jars for each module
	archives   string // folder of class data archives; "": none
	train      bool   // write the archives instead of using them
	supervisor *supervisor
	log        *zap.Logger
}

// command is how one Java server is started.
type command struct {
	module string // its folder of jars
	kind   string // its class data archive
	flags  []string
	class  string
	args   []string
}

// classPath of a module. The order must be stable: class data archives depend on it.
func (j *java) classPath(module string) (string, error) {
	jars, err := filepath.Glob(filepath.Join(j.jars, module, "*.jar")) // sorted
	if err != nil || len(jars) == 0 {
		return "", fmt.Errorf("testenv: no jars in %s; remove the folder %s so that they are fetched again", filepath.Join(j.jars, module), j.jars)
	}
	return strings.Join(jars, string(os.PathListSeparator)), nil
}

func (j *java) commandLine(c command) ([]string, error) {
	classPath, err := j.classPath(c.module)
	if err != nil {
		return nil, err
	}
	line := []string{
		"-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-XX:-UsePerfData", "-Xss512k", "-XX:+ExitOnOutOfMemoryError",
		"-Djava.net.preferIPv4Stack=true",
	}
	if archive := filepath.Join(j.archives, c.kind+".jsa"); j.train {
		line = append(line, "-XX:ArchiveClassesAtExit="+archive)
	} else if _, err := os.Stat(archive); err == nil && j.archives != "" {
		line = append(line, "-XX:SharedArchiveFile="+archive, "-Xshare:auto")
	}
	line = append(line, c.flags...)
	line = append(line, "-cp", classPath, c.class)
	return append(line, c.args...), nil
}

// javaServer is a server in a Java process of its own: it can be ended and started again with its data.
type javaServer struct {
	java *java
	name string
	dir  string // its data, its log in out.log
	cmd  command
	// ready returns nil when the server serves; it is called again and again until then.
	ready func(ctx context.Context) error
	// noTerm: a SIGTERM takes so long that stop kills.
	noTerm bool

	mu   sync.Mutex
	proc *process // nil while it does not run
}

// process is a running child; ended is closed when it was reaped.
type process struct {
	cmd    *exec.Cmd
	ended  chan struct{}
	log    int64 // where its part of the log begins
	paused bool
}

// start starts the process and returns when it serves. If it does not, the process has ended when start returns.
func (s *javaServer) start(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	proc, err := s.spawn(ctx)
	if err != nil {
		return fmt.Errorf("testenv: start %s: %w", s.name, err)
	}
	begin := time.Now()
	err = poll(ctx, proc.ended, func(ctx context.Context) error {
		err := s.ready(ctx)
		if err != nil && s.portTaken(proc) { // RocketMQ's servers live on without their port
			cancel()
		}
		return err
	})
	if err == nil {
		s.java.log.Debug("server serves", zap.String("server", s.name), zap.Int("pid", proc.cmd.Process.Pid),
			zap.Duration("after", time.Since(begin)))
		return nil
	}
	err = errors.Join(err, s.kill())
	if s.portTaken(proc) {
		err = errors.Join(errPortTaken, err)
	}
	return fmt.Errorf("testenv: start %s: %w; the end of its log:\n%s", s.name, err, tail(s.output(proc)))
}

// running says that there is a process and that it is not paused.
func (s *javaServer) running() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.alive() && !s.proc.paused
}

func (s *javaServer) alive() bool {
	if s.proc == nil {
		return false
	}
	select {
	case <-s.proc.ended:
		return false
	default:
		return true
	}
}

func (s *javaServer) spawn(ctx context.Context) (*process, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.alive() {
		return nil, errors.New("it runs already")
	}
	line, err := s.java.commandLine(s.cmd)
	if err != nil {
		return nil, err
	}
	tmp := filepath.Join(s.dir, "tmp") // RocksDB leaves its library there
	if err := errors.Join(os.RemoveAll(tmp), os.Mkdir(tmp, 0o755)); err != nil {
		return nil, err
	}
	line = append([]string{"-Djava.io.tmpdir=" + tmp}, line...)
	out, err := os.OpenFile(filepath.Join(s.dir, "out.log"), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o644)
	if err != nil {
		return nil, err
	}
	defer out.Close() // the child has its own
	info, err := out.Stat()
	if err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(context.WithoutCancel(ctx), "/bin/sh", append([]string{"-c", waitScript, s.name, s.java.binary}, line...)...)
	cmd.Dir = s.dir
	cmd.Stdout, cmd.Stderr = out, out
	cmd.SysProcAttr = ownGroup
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	pid := cmd.Process.Pid
	p := &process{cmd: cmd, ended: make(chan struct{}), log: info.Size()}
	err = s.java.supervisor.add(pid)
	if err == nil {
		_, err = io.WriteString(stdin, "go\n")
	}
	err = errors.Join(err, stdin.Close())
	go func() {
		_ = cmd.Wait() // how it ended is no news: it was told to, or start reports its log
		_ = s.java.supervisor.del(pid)
		close(p.ended)
	}()
	s.proc = p
	if err != nil {
		return nil, errors.Join(err, s.end())
	}
	return p, nil
}

// waitScript becomes the server when it is told so. Until then the supervisor may not know it; it ends by itself
// when this process dies.
const waitScript = `read -r go && exec "$@" </dev/null`

// stop ends the server as its operator would; one that does not end in time is killed.
func (s *javaServer) stop(ctx context.Context) error {
	if s.noTerm {
		return s.kill()
	}
	return s.terminate(ctx, stopTimeout)
}

func (s *javaServer) terminate(ctx context.Context, timeout time.Duration) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.alive() {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	if err := errors.Join(s.signal(syscall.SIGTERM), s.signal(syscall.SIGCONT)); err != nil {
		return err
	}
	select {
	case <-s.proc.ended:
		return nil
	case <-ctx.Done():
		return errors.Join(fmt.Errorf("testenv: stop %s: had to be killed: %w", s.name, ctx.Err()), s.end())
	}
}

// kill ends the server with SIGKILL and returns when it is gone.
func (s *javaServer) kill() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.alive() {
		return nil
	}
	return s.end()
}

func (s *javaServer) end() error {
	err := s.signal(syscall.SIGKILL)
	if err == nil {
		<-s.proc.ended // SIGKILL can not be refused
	}
	return err
}

// pause stops the process where it is, and returns when it has; resume lets it go on.
func (s *javaServer) pause() error {
	if err := s.setPaused(true, syscall.SIGSTOP); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), stopTimeout)
	defer cancel()
	s.mu.Lock()
	p := s.proc
	s.mu.Unlock()
	return poll(ctx, p.ended, func(context.Context) error { return p.stands() })
}
func (s *javaServer) resume() error { return s.setPaused(false, syscall.SIGCONT) }

func (s *javaServer) setPaused(paused bool, sig syscall.Signal) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.alive() {
		return fmt.Errorf("testenv: %s does not run", s.name)
	}
	s.proc.paused = paused
	return s.signal(sig)
}

// stands is nil when every thread of the process has been stopped: the signal is sent to all, and each of them runs on until it
// gets it. Where there is no /proc nobody can say.
func (p *process) stands() error {
	threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", p.cmd.Process.Pid))
	if err != nil {
		return err
	}
	for _, path := range threads {
		stat, err := os.ReadFile(path)
		if err != nil || len(stat) == 0 {
			continue // it has ended
		}
		if state := stat[bytes.LastIndexByte(stat, ')')+2]; state != 'T' { // after the name, which may have any characters
			return fmt.Errorf("testenv: a thread is not stopped yet: %s", stat)
		}
	}
	return nil
}

// signal sends to the whole group. A process that ended a moment ago is no error.
func (s *javaServer) signal(sig syscall.Signal) error {
	if err := syscall.Kill(-s.proc.cmd.Process.Pid, sig); err != nil && !errors.Is(err, syscall.ESRCH) {
		return fmt.Errorf("testenv: %v to %s: %w", sig, s.name, err)
	}
	return nil
}

// output is what a process has printed.
func (s *javaServer) output(p *process) []byte {
	data, err := os.ReadFile(filepath.Join(s.dir, "out.log"))
	if err != nil {
		return []byte(err.Error())
	}
	return data[min(p.log, int64(len(data))):]
}

func (s *javaServer) portTaken(p *process) bool {
	out := s.output(p)
	return bytes.Contains(out, []byte("Address already in use")) || bytes.Contains(out, []byte("BindException"))
}

// tail returns the last lines of a log.
func tail(data []byte) string {
	lines := bytes.Split(bytes.TrimSpace(data), []byte("\n"))
	if len(lines) > 40 {
		lines = lines[len(lines)-40:]
	}
	return string(bytes.Join(lines, []byte("\n")))
}

// poll calls ready until it returns nil, ctx is done, or ended is closed. Its error carries the last error of ready.
func poll(ctx context.Context, ended <-chan struct{}, ready func(context.Context) error) error {
	t := time.NewTicker(pollInterval)
	defer t.Stop()
	for {
		err := ready(ctx)
		select {
		case <-ended:
			return errors.New("the process ended")
		default:
			if err == nil {
				return nil
			}
		}
		select {
		case <-ended:
		case <-t.C:
		case <-ctx.Done():
			return fmt.Errorf("it does not serve: %w (last: %w)", ctx.Err(), err)
		}
	}
}
