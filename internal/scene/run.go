package scene

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"sync"
	"syscall"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/turnout-mq/turnout"
	"github.com/turnout-mq/turnout/testenv/history"
)

// variable holds the Spec of a process that Start made.
const variable = "TURNOUT_SCENE"

// readyLine is what a process writes to its standard output when it does what it is for.
const readyLine = "ready"

// openLimit is how long a process waits for ZooKeeper at its start.
const openLimit = 30 * time.Second

// Exit codes of a process.
const (
	exitOK     = 0
	exitFailed = 1 // the log says why
	exitSpec   = 2
	exitOrphan = 3 // the process that started it is gone
)

// Run does nothing in a program that was started by anybody but Start. Else it is the whole program: it does what the
// Spec says and ends the process.
func Run() {
	text, set := os.LookupEnv(variable)
	if !set {
		return
	}
	os.Exit(run(text)) //nolint:forbidigo // it is this process's main
}

func run(text string) int {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	spec, err := parse(text)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return exitSpec
	}
	g := newGate(os.Stdout, spec.HoldAt)
	go func() {
		obey(os.Stdin, os.Stdout, g)
		os.Exit(exitOrphan) //nolint:forbidigo // at once: there is nobody to be orderly for
	}()
	log := newLogger(spec)
	answerStatus(ctx, os.Stdout)
	log.Info("begin", zap.Int("pid", os.Getpid()), zap.Any("spec", spec))
	if err := act(ctx, spec, g, log); err != nil {
		log.Error("ended", zap.Error(err))
		return exitFailed
	}
	log.Info("ended")
	return exitOK
}

func newLogger(spec Spec) *zap.Logger {
	cfg := zap.NewProductionEncoderConfig()
	cfg.EncodeTime = zapcore.RFC3339NanoTimeEncoder
	level := zapcore.InfoLevel
	if spec.Debug {
		level = zapcore.DebugLevel
	}
	return zap.New(zapcore.NewCore(zapcore.NewJSONEncoder(cfg), zapcore.Lock(os.Stderr), level))
}

// What a process is told on its standard input, a line each, and its answer.
const (
	orderGo = "go" // and the states before which it waits next
	obeyed  = "obeyed"
)

// obey does what it is told until whoever tells it is gone.
func obey(in io.Reader, out io.Writer, g *gate) {
	for lines := bufio.NewScanner(in); lines.Scan(); {
		if states, is := strings.CutPrefix(lines.Text(), orderGo); is {
			g.goOn(strings.Fields(states))
			fmt.Fprintln(out, obeyed)
		}
	}
}

// act is what the process does, with its record of that.
func act(ctx context.Context, spec Spec, g *gate, log *zap.Logger) (err error) {
	rec, err := history.Create(HistoryDir(spec.Dir), spec.Name)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, rec.Close()) }()
	ready := sync.OnceFunc(func() {
		if _, err := fmt.Println(readyLine); err != nil { //nolint:forbidigo // the answer to Process.Ready
			log.Error("nobody hears that it is ready", zap.Error(err))
		}
	})
	if spec.Role == Controller {
		ctx, cancel := spec.bound(ctx)
		defer cancel()
		return control(ctx, spec, rec, g, ready, log)
	}
	return use(ctx, spec, rec, ready, log)
}

// bound ends ctx when the process has worked for as long as it is to.
func (s Spec) bound(ctx context.Context) (context.Context, context.CancelFunc) {
	if s.For == 0 {
		return context.WithCancel(ctx)
	}
	return context.WithTimeout(ctx, s.For)
}

// use is the application: from Open to Close.
func use(ctx context.Context, spec Spec, rec *history.Recorder, ready func(), log *zap.Logger) error {
	var opts []turnout.Option
	add := func(d time.Duration, option func(time.Duration) turnout.Option) {
		if d > 0 {
			opts = append(opts, option(d))
		}
	}
	add(spec.SessionTimeout, turnout.WithSessionTimeout)
	add(spec.ClusterLinger, turnout.WithClusterLinger)
	add(spec.NodeRecheck, turnout.WithRecheck)
	opening, cancel := context.WithTimeout(ctx, openLimit)
	client, err := turnout.Open(opening, turnout.Config{App: spec.App, ZooKeeper: spec.ZooKeeper, Root: spec.Root, ShadowRoot: spec.ShadowRoot,
		SnapshotDir: spec.snapshotDir(), Logger: log}, opts...)
	cancel()
	if err != nil {
		return err
	}
	ctx, cancel = spec.bound(ctx)
	defer cancel()
	if spec.Role == Sender {
		err = send(ctx, spec, client, rec, ready, log)
	} else {
		err = receive(ctx, spec, client, rec, ready, log)
	}
	closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), spec.CloseLimit)
	defer cancel()
	return errors.Join(err, client.Close(closing))
}
