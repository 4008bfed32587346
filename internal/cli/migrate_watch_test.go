package cli_test

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"github.com/stretchr/testify/require"

	"github.com/turnout-mq/turnout/internal/cli"
)

// sleeper puts a topic with unread messages on kafka-a whose group is there and handles nothing until it is woken, so that
// its migration stays in draining.
func (p *platform) sleeper(t *testing.T) (wake func()) {
	t.Helper()
	p.turnout(t, "topic", "put", "order_topic", "--cluster", "kafka-a", "--create", "--partitions", "1")
	p.turnout(t, "group", "put", "order_bil_group", "--topic", "order_topic", "--paused")
	tr := p.traffic(t, "order_topic", "order_bil_group")
	tr.await(t, "kafka-a", 20)
	return func() {
		p.turnout(t, "group", "put", "order_bil_group", "--paused=false")
		t.Cleanup(func() { tr.complete(t) })
	}
}

func (p *platform) begin(t *testing.T, args ...string) string {
	t.Helper()
	return decode[migrationDoc](t, p.turnout(t, append([]string{"migrate", "start", "order_topic", "--to", "kafka-b", "--create", "--accept", "all", "-o", "json"}, args...)...).stdout).ID
}

func (p *platform) migration(t *testing.T, id string) migrationDoc {
	t.Helper()
	for _, m := range decode[[]migrationDoc](t, p.turnout(t, "migrate", "list", "-o", "json").stdout) {
		if m.ID == id {
			return m
		}
	}
	require.FailNow(t, "no such migration", id)
	return migrationDoc{}
}

func (p *platform) awaitState(t *testing.T, id, state string) {
	t.Helper()
	eventually(t, func() bool { return p.migration(t, id).State == state }, patience, 20*time.Millisecond, "state %s", state)
}

// process is the program as a process of its own.
type process struct {
	*exec.Cmd
	first  string // line of its output
	stderr output
}

// child starts the program and returns when it has written its first line.
func child(t *testing.T, args ...string) *process {
	t.Helper()
	return begun(t, exec.CommandContext(t.Context(), buildBinary(t), args...))
}

// copied is child by a copy of this process, which takes no time to build; it does not end in order by a signal.
func copied(t *testing.T, args ...string) *process {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0], args...)
	cmd.Env = append(os.Environ(), childVariable+"=1")
	return begun(t, cmd)
}

func begun(t *testing.T, command *exec.Cmd) *process {
	t.Helper()
	cmd := &process{Cmd: command}
	cmd.Stderr = &cmd.stderr
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	cmd.first, err = bufio.NewReader(out).ReadString('\n')
	require.NoError(t, err, "%s", &cmd.stderr)
	return cmd
}

func TestASecondServerFinishesWhatAKilledOneBegan(t *testing.T) {
	onKafkas(t, func(t *testing.T, p *platform) {
		first := copied(t, "serve", "--no-login", "--zookeeper", p.connect, "--database", p.db, "--listen", "127.0.0.1:0", "--session-timeout", "2s")
		require.Regexp(t, `^serving http://127\.0\.0\.1:\d+ as \S+, store sqlite:`, first.first)
		wake := p.sleeper(t)
		id := p.begin(t)
		watch := start(t, "migrate", "watch", id, "--zookeeper", p.connect)
		watch.stdout.await(t, "order_bil_group has")
		require.NoError(t, first.Process.Kill())
		_ = first.Wait()
		watch.stderr.await(t, "trying again")
		p.serve(t)
		wake()
		require.Equal(t, 0, watch.wait(t), "%s", &watch.stderr)
		require.Contains(t, watch.stdout.String(), "kafka-a can be switched off for this topic")
		require.Equal(t, "done", p.migration(t, id).Outcome)
		require.Equal(t, 1, strings.Count(watch.stdout.String(), "planned by"), "no event twice: %s", &watch.stdout)
	})
}

func TestServeStopsInOrder(t *testing.T) {
	z := startZooKeeper(t)
	cmd := child(t, "serve", "--no-login", "--zookeeper", z.connect, "--data-dir", t.TempDir(), "--listen", "127.0.0.1:0")
	require.Contains(t, cmd.first, "serving http://127.0.0.1:")
	nodes, _, err := z.conn.Children("/turnout/admin/servers")
	require.NoError(t, err)
	require.Len(t, nodes, 1)
	require.NoError(t, cmd.Process.Signal(syscall.SIGTERM))
	require.NoError(t, cmd.Wait(), "exit code 0")
	nodes, _, err = z.conn.Children("/turnout/admin/servers")
	require.NoError(t, err)
	require.Empty(t, nodes)
	there, _, err := z.conn.Exists("/turnout/admin/platform")
	require.NoError(t, err)
	require.True(t, there, "the root stays managed")
}

func TestASecondSignalEndsTheServerAtOnce(t *testing.T) {
	z := startZooKeeper(t)
	cmd := child(t, "serve", "--no-login", "--zookeeper", z.connect, "--data-dir", t.TempDir(), "--listen", "127.0.0.1:0")
	z.Freeze() // who waits for it to say goodbye waits for seconds
	t.Cleanup(z.Thaw)
	require.NoError(t, cmd.Process.Signal(syscall.SIGINT))
	cmd.stderr.await(t, "stopping")
	require.NoError(t, cmd.Process.Signal(syscall.SIGINT))
	var exit *exec.ExitError
	require.ErrorAs(t, cmd.Wait(), &exit)
	require.Equal(t, 1, exit.ExitCode())
	require.Contains(t, cmd.stderr.String(), "second signal")
}

func TestMigrateActions(t *testing.T) {
	onKafkas(t, func(t *testing.T, p *platform) {
		p.serve(t)
		wake := p.sleeper(t)

		// While everybody is awaited nothing has gone over: it can be aborted.
		strange := "/turnout/participants/order_topic/10.9.9.9@-@1@-@0"
		p.create(t, strange, `{"v":1,"zxid":"0x1","write":"kafka-a","warm":[],"held":false,"inflight":{},"groups":{},"error":"can not reach it","at":"2026-01-01T00:00:00Z"}`)
		plan := run(t, "migrate", "plan", "order_topic", "--to", "kafka-b", "--create", "--zookeeper", p.connect)
		require.Equal(t, 3, plan.code)
		require.Regexp(t, `(?m)^warning +not-ready +.*10\.9\.9\.9@-@1@-@0 \(can not reach it\)`, plan.stdout)
		require.Regexp(t, `if the warnings are accepted, start it with:\n  turnout migrate start order_topic --to kafka-b --create --accept .*not-ready`, plan.stdout)
		require.Contains(t, p.refused(t, 3, "migrate", "start", "order_topic", "--to", "kafka-b", "--create"), "[--accept not-ready]")
		id := p.begin(t)
		p.awaitState(t, id, "preparing")
		require.Contains(t, p.refused(t, 5, "migrate", "start", "order_topic", "--to", "kafka-b", "--accept", "all"), id)
		watch := start(t, "migrate", "watch", id, "-o", "json", "--zookeeper", p.connect)
		watch.stdout.await(t, "10.9.9.9")
		p.turnout(t, "migrate", "abort", id, "--by", "alice")
		p.awaitState(t, id, "reverting")
		p.delete(t, strange)
		require.Equal(t, 7, watch.wait(t))
		require.Contains(t, watch.stderr.String(), "has ended as aborted")
		var last sightDoc
		for line := range strings.Lines(watch.stdout.String()) {
			last = decode[sightDoc](t, line)
		}
		require.Equal(t, "aborted", last.Migration.Outcome)
		require.NotNil(t, last.Receipt)
		require.Equal(t, "kafka-a", p.topic(t, "order_topic").InForce.Write)

		// In draining: an abort is too late, a pause holds it, a rollback brings it back.
		id = p.begin(t)
		p.awaitState(t, id, "draining")
		watch = start(t, "migrate", "watch", id, "--zookeeper", p.connect)
		p.turnout(t, "migrate", "abort", id)
		watch.stdout.await(t, "abort is refused")
		require.Contains(t, p.turnout(t, "migrate", "pause", id).stdout, "is paused")
		watch.stdout.await(t, "waits: paused")
		require.True(t, p.migration(t, id).Paused)
		require.Contains(t, p.turnout(t, "migrate", "resume", id, "--accept", "retention").stdout, "goes on")
		watch.stdout.await(t, "accepts retention")
		require.Contains(t, p.turnout(t, "migrate", "rollback", id, "--by", "alice").stdout, "goes back")
		watch.stdout.await(t, "alice asked for rollback")
		wake()
		require.Equal(t, 7, watch.wait(t))
		require.Contains(t, watch.stderr.String(), "has ended as rolled-back")
		require.Equal(t, "kafka-a", p.topic(t, "order_topic").InForce.Write)
		receipt := decode[receiptDoc](t, p.turnout(t, "migrate", "receipt", id, "-o", "json").stdout)
		require.Equal(t, "rolled-back", receipt.Outcome)
		require.True(t, receipt.Free, receipt.Verdict)
		require.Equal(t, []string{"kafka-b"}, []string{receipt.Left[0].Cluster})
	})
}

// terminal opens a pseudo terminal: what is written to tty can be read from screen.
func terminal(t *testing.T) (screen, tty *os.File) {
	t.Helper()
	screen, err := os.OpenFile("/dev/ptmx", os.O_RDWR, 0)
	require.NoError(t, err)
	t.Cleanup(func() { _ = screen.Close() })
	var locked, n uint32
	for request, arg := range map[uintptr]*uint32{syscall.TIOCSPTLCK: &locked, syscall.TIOCGPTN: &n} {
		_, _, errno := syscall.Syscall(syscall.SYS_IOCTL, screen.Fd(), request, uintptr(unsafe.Pointer(arg)))
		require.Zero(t, errno)
	}
	tty, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|syscall.O_NOCTTY, 0)
	require.NoError(t, err)
	t.Cleanup(func() { _ = tty.Close() })
	return screen, tty
}

func TestMigrateWatchOnATerminal(t *testing.T) {
	onKafkas(t, func(t *testing.T, p *platform) {
		p.serve(t)
		wake := p.sleeper(t)
		id := p.begin(t)
		screen, tty := terminal(t)
		var seen output
		read := make(chan struct{})
		go func() {
			defer close(read)
			buffer := make([]byte, 4096)
			for {
				n, err := screen.Read(buffer)
				_, _ = seen.Write(buffer[:n])
				if err != nil {
					return
				}
			}
		}()
		code := make(chan int, 1)
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		var stderr output
		go func() {
			code <- cli.Run(ctx, []string{"migrate", "watch", id, "--zookeeper", p.connect}, strings.NewReader(""), tty, &stderr)
		}()
		seen.await(t, "planned → preparing → switching → sealing → \x1b[7m[draining]\x1b[0m → closing → done")
		seen.await(t, "waits for: group order_bil_group has")
		seen.await(t, "1 of 1 participant has applied the route")
		eventually(t, func() bool {
			picture := seen.String()[strings.LastIndex(seen.String(), "\x1b[H"):]
			for line := range strings.Lines(picture) {
				// name, written, closed, sealed, stored, a second, unread
				if f := strings.Fields(line); len(f) > 6 && f[0] == "kafka-b" && f[1] == "yes" && f[5] != "-" && f[5] != "0" {
					return true
				}
			}
			return false
		}, patience, 20*time.Millisecond, "messages a second to kafka-b: %s", &seen)
		wake()
		select {
		case c := <-code:
			require.Equal(t, 0, c, "%s", &stderr)
		case <-time.After(patience):
			require.FailNow(t, "did not end", "%s", &seen)
		}
		require.NoError(t, tty.Close())
		<-read // ends with the last writer
		after := seen.String()[strings.LastIndex(seen.String(), "\x1b[?1049l"):]
		require.Contains(t, after, "→ [done]")
		require.Contains(t, after, "kafka-a can be switched off for this topic")
	})
}
