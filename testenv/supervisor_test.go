package testenv

import (
	"bufio"
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// orphanVariable makes the test binary start an environment, say so, and wait to be killed.
const orphanVariable = "TURNOUT_TESTENV_ORPHAN"

type orphan struct {
	Error string
	Dir   string
	Pids  []int
}

func runOrphan() {
	e, err := Start(context.Background(), Spec{
		Backend: Servers, ZooKeeper: 1, Kafka: []string{"kafka-a"}, RocketMQ: []string{"rocketmq-a"},
	})
	o := orphan{}
	if err != nil {
		o.Error = err.Error()
	} else {
		o.Dir = e.dir
		o.Pids = append(o.Pids, e.supervisor.cmd.Process.Pid)
		for _, c := range e.clusters {
			for _, n := range c.nodes {
				o.Pids = append(o.Pids, n.server.(*javaServer).proc.cmd.Process.Pid)
			}
		}
	}
	_ = json.NewEncoder(os.Stdout).Encode(o)
	select {}
}

func TestNoServerOutlivesAKilledTestRun(t *testing.T) {
	backends, err := Backends()
	require.NoError(t, err)
	for _, b := range backends {
		if b != Servers {
			continue // there are no processes
		}
		cmd := exec.CommandContext(t.Context(), os.Args[0])
		cmd.Env = append(os.Environ(), orphanVariable+"=1")
		cmd.Stderr = os.Stderr
		stdout, err := cmd.StdoutPipe()
		require.NoError(t, err)
		require.NoError(t, cmd.Start())
		line, err := bufio.NewReader(stdout).ReadBytes('\n')
		require.NoError(t, err)
		var o orphan
		require.NoError(t, json.Unmarshal(line, &o))
		require.Empty(t, o.Error)
		require.Len(t, o.Pids, 5)
		for _, pid := range o.Pids {
			require.True(t, lives(pid))
		}
		require.DirExists(t, o.Dir)

		require.NoError(t, cmd.Process.Kill())
		require.Error(t, cmd.Wait())
		require.EventuallyWithT(t, func(c *assert.CollectT) {
			for _, pid := range o.Pids {
				assert.False(c, lives(pid), "process %d", pid)
			}
			assert.NoDirExists(c, o.Dir)
		}, patience, pollInterval)
	}
}

func TestTheSupervisorLeavesAloneWhatHasEnded(t *testing.T) {
	s, err := startSupervisor(t.Context(), "")
	require.NoError(t, err)
	var kept, ended *exec.Cmd
	for _, c := range []**exec.Cmd{&kept, &ended} {
		*c = exec.CommandContext(t.Context(), "sleep", "600")
		(*c).SysProcAttr = ownGroup
		require.NoError(t, (*c).Start())
		require.NoError(t, s.add((*c).Process.Pid))
	}
	require.NoError(t, s.del(kept.Process.Pid))
	require.NoError(t, s.close())
	require.ErrorContains(t, ended.Wait(), "killed")
	require.True(t, lives(kept.Process.Pid))
	require.Error(t, s.add(1), "it has ended")
	require.NoError(t, kept.Process.Kill())
	require.Error(t, kept.Wait())
}

// lives reports whether a process runs; one that has ended and waits for its parent does not.
func lives(pid int) bool {
	out, err := exec.Command("ps", "-o", "state=", "-p", strconv.Itoa(pid)).Output()
	state := strings.TrimSpace(string(out))
	return err == nil && state != "" && !strings.HasPrefix(state, "Z")
}
