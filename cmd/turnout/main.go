// Command turnout looks at and changes what Turnout keeps in ZooKeeper. Run "turnout help".
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"github.com/turnout-mq/turnout/internal/cli"
	"github.com/turnout-mq/turnout/internal/scene"
)

func main() {
	scene.Run() // a program of the demo
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := cli.Run(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}
