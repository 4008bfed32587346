package testenv

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"time"
)

// ZkCli runs one command of ZooKeeper's own command line client against the environment's ZooKeeper and returns
// what it printed: ZkCli(ctx, "set", "/a", "1"). The error carries the output too. On Embedded it also needs
// Java and, once, Maven.
func (e *Env) ZkCli(ctx context.Context, args ...string) (string, error) {
	if len(args) == 0 {
		return "", errors.New("testenv: ZkCli needs a command of the client, for example get /")
	}
	cmd, err := e.ZkCliCommand(ctx, args...)
	if err != nil {
		return "", err
	}
	out, err := cmd.CombinedOutput()
	if err != nil {
		return string(out), fmt.Errorf("testenv: zkCli %s: %w: %s", strings.Join(args, " "), err, tail(out))
	}
	return string(out), nil
}

// ZkCliCommand returns what runs ZooKeeper's own command line client; without args it is interactive. The
// process is killed when ctx ends. It also counts as a client for the faults.
func (e *Env) ZkCliCommand(ctx context.Context, args ...string) (*exec.Cmd, error) {
	if e.ZooKeeper() == "" {
		return nil, errors.New("testenv: the environment has no ZooKeeper")
	}
	if e.secrets != nil {
		return nil, errors.New("testenv: ZkCli does not speak TLS: not for Spec.Secure")
	}
	j := e.java
	if j == nil {
		i, err := install(ctx, e.log)
		if err != nil {
			return nil, err
		}
		j = &java{binary: i.java, jars: i.jars, log: e.log}
	}
	line, err := j.commandLine(command{
		module: "zookeeper", kind: "zookeeper",
		flags: []string{"-Xmx64m", "-Dorg.slf4j.simpleLogger.defaultLogLevel=error"},
		class: "org.apache.zookeeper.ZooKeeperMain",
		args:  append([]string{"-server", e.ZooKeeper()}, args...),
	})
	if err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, j.binary, line...)
	cmd.WaitDelay = 5 * time.Second
	return cmd, nil
}
