package faulttest

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/turnout-mq/turnout/testenv"
)

// Another run of these tests is killed in the middle of a case. What becomes of real servers then is tested where they
// are started.
func TestNoApplicationOutlivesAKilledTestRun(t *testing.T) {
	t.Parallel()
	run := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestTenFlipsASecond$")
	run.Env = append(os.Environ(), "TURNOUT_TEST="+string(testenv.Embedded), "TMPDIR="+t.TempDir())
	require.NoError(t, run.Start())
	const applications = 5
	var pids []int
	require.Eventually(t, func() bool { pids = scenes(t, run.Process.Pid); return len(pids) >= applications }, patience, poll, "the other run's applications")
	require.NoError(t, run.Process.Kill())
	require.Error(t, run.Wait())
	deadline := time.Now().Add(patience)
	for _, pid := range pids {
		for lives(t, pid) {
			require.True(t, time.Now().Before(deadline), "process %d lives on", pid)
			<-time.After(poll)
		}
	}
}

// process is what ps says of one.
type process struct {
	pid, parent int
	state, name string
}

func processes(t *testing.T) (all []process) {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "ps", "-A", "-o", "pid=,ppid=,state=,args=").Output()
	require.NoError(t, err)
	for line := range bytes.Lines(out) {
		var p process
		n, err := fmt.Sscan(string(line), &p.pid, &p.parent, &p.state)
		require.NoError(t, err, "%q after %d words", line, n)
		p.name = string(line)
		all = append(all, p)
	}
	return all
}

// scenes are the applications that a process has started.
func scenes(t *testing.T, parent int) (pids []int) {
	t.Helper()
	for _, p := range processes(t) {
		if p.parent == parent && strings.Contains(p.name, " scene:") {
			pids = append(pids, p.pid)
		}
	}
	return pids
}

// lives says whether an application runs; one that has ended and waits for its parent does not.
func lives(t *testing.T, pid int) bool {
	t.Helper()
	for _, p := range processes(t) {
		if p.pid == pid && strings.Contains(p.name, " scene:") && p.state[0] != 'Z' {
			return true
		}
	}
	return false
}
