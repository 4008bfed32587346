package testenv

import (
	"context"
	"fmt"
	"io"
	"os/exec"
	"sync"
	"syscall"
)

// supervisorScript reads "add PID" and "del PID" from its standard input. When that ends, because Close closed
// it or because this process died in whatever way, it kills every process group still on its list and removes
// the temporary directory, if there is one.
const supervisorScript = `
trap '' HUP INT TERM
pids=
while read -r op pid; do
	rest=
	for p in $pids; do [ "$p" = "$pid" ] || rest="$rest $p"; done
	pids=$rest
	[ "$op" = del ] || pids="$pids $pid"
done
for p in $pids; do kill -9 "-$p" 2>/dev/null; done
[ -z "$1" ] || rm -rf -- "$1"
`

// ownGroup makes a child the leader of a process group: the terminal's signals to ours do not reach it, and
// whatever it starts can be ended with it.
var ownGroup = &syscall.SysProcAttr{Setpgid: true}

// supervisor is a child process that outlives this one just long enough to end its servers.
type supervisor struct {
	cmd *exec.Cmd

	mu    sync.Mutex
	stdin io.WriteCloser
}

// startSupervisor starts it. It removes the directory dir at the end, unless dir is "".
func startSupervisor(ctx context.Context, dir string) (*supervisor, error) {
	cmd := exec.CommandContext(context.WithoutCancel(ctx), "/bin/sh", "-c", supervisorScript, "supervisor", dir)
	cmd.SysProcAttr = ownGroup
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return nil, fmt.Errorf("testenv: supervisor: %w", err)
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("testenv: supervisor: %w", err)
	}
	return &supervisor{cmd: cmd, stdin: stdin}, nil
}

// add puts a process group on the list, del takes it off; del only after the group's leader was reaped.
func (s *supervisor) add(pid int) error { return s.send("add", pid) }
func (s *supervisor) del(pid int) error { return s.send("del", pid) }

func (s *supervisor) send(op string, pid int) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, err := fmt.Fprintln(s.stdin, op, pid); err != nil {
		return fmt.Errorf("testenv: the supervisor process has ended: %w", err)
	}
	return nil
}

// close ends the supervisor, which kills what is still on its list, and waits for it.
func (s *supervisor) close() error {
	s.mu.Lock()
	err := s.stdin.Close()
	s.mu.Unlock()
	if err != nil {
		return err
	}
	return s.cmd.Wait()
}
