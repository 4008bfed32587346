package faulttest

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/turnout-mq/turnout/testenv"
)

// Another run of these tests is killed in the middle of a case. What becomes of real servers then is tested where they
// are started.
func TestNoApplicationOutlivesAKilledTestRun(t *testing.T) {
	t.Parallel()
	// What it leaves in files goes with this test, but it has to know what ports are taken.
	dir, locks := t.TempDir(), fmt.Sprintf("turnout-testenv-%d", os.Getuid())
	require.NoError(t, os.MkdirAll(filepath.Join(os.TempDir(), locks), 0o700))
	require.NoError(t, os.Symlink(filepath.Join(os.TempDir(), locks), filepath.Join(dir, locks)))
	run := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestTenFlipsASecond$")
	run.Env = append(os.Environ(), "TURNOUT_TEST="+string(testenv.Embedded), "TMPDIR="+dir)
	require.NoError(t, run.Start())
	const applications = 5
	var running []process
	eventually(t, func() bool { running = scenes(t, run.Process.Pid); return len(running) >= applications },
		func() any { return running }, "the other run has %d applications", applications)
	require.NoError(t, run.Process.Kill())
	require.Error(t, run.Wait())
	for _, p := range running {
		eventually(t, func() bool { return !lives(t, p) }, func() any { return p }, "the application has ended")
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
		words := strings.Fields(string(line))
		p := process{state: words[2], name: strings.Join(words[3:], " ")}
		p.pid, err = strconv.Atoi(words[0])
		require.NoError(t, err)
		p.parent, err = strconv.Atoi(words[1])
		require.NoError(t, err)
		all = append(all, p)
	}
	return all
}

// scenes are the applications that a process has started.
func scenes(t *testing.T, parent int) (found []process) {
	t.Helper()
	for _, p := range processes(t) {
		if p.parent == parent && strings.Contains(p.name, " scene:") {
			found = append(found, p)
		}
	}
	return found
}

// lives says whether an application runs; one that has ended and waits for its parent does not.
func lives(t *testing.T, is process) bool {
	t.Helper()
	return slices.ContainsFunc(processes(t), func(p process) bool { return p.pid == is.pid && p.name == is.name && p.state[0] != 'Z' })
}
