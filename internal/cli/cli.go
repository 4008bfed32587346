package cli

import (
	"context"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"
)

// app is what one run of the command line has: its streams and its settings.
type app struct {
	stdin          io.Reader
	stdout, stderr io.Writer
	getenv         func(string) string
	settings       settings
	running        bool // the command line was accepted
}

// Run executes one command line (without the program's name) and returns its exit code. It returns soon after ctx ends;
// for commands that follow something (watch, tail) that is their normal end. The environment is the process's.
func Run(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	a := &app{stdin: stdin, stdout: stdout, stderr: stderr, getenv: os.Getenv}
	root := newRootCommand(a)
	root.SetArgs(args)
	root.SetIn(stdin)
	root.SetOut(stdout)
	root.SetErr(stderr)
	cmd, err := root.ExecuteContextC(ctx)
	if err == nil {
		return exitOK
	}
	if !a.running {
		err = usagef("%w", err)
	}
	code := exitCode(err)
	text := named(cmd, err)
	if code == exitUsage {
		text += fmt.Sprintf(`; see "%s --help"`, cmd.CommandPath())
	}
	fmt.Fprintf(stderr, "turnout: %s\n", text)
	return code
}

func newRootCommand(a *app) *cobra.Command {
	root := &cobra.Command{
		Use:   "turnout",
		Short: "Turnout routes messages to clusters by metadata in ZooKeeper",
		Long: `Turnout routes messages to clusters (Apache Kafka, Apache RocketMQ) by metadata in ZooKeeper.

Every global flag can also be set in the environment (--zookeeper: TURNOUT_ZOOKEEPER) or in the settings file
(zookeeper: host:port). A flag counts before the environment, the environment before the file; turnout config check
shows what is in force.

` + exitCodeHelp,
		SilenceUsage:  true,
		SilenceErrors: true,
		PersistentPreRunE: func(cmd *cobra.Command, _ []string) error {
			if asksForCompletions(cmd) {
				return nil
			}
			return a.settings.complete(cmd.Flags(), a.getenv)
		},
	}
	addSettings(root.PersistentFlags(), a.settings.define)
	root.AddCommand(
		newWatchCommand(a),
		newClusterCommand(a),
		newTopicCommand(a),
		newGroupCommand(a),
		newInstancesCommand(a),
		newSendCommand(a),
		newTailCommand(a),
		newDemoCommand(a),
		newCheckCommand(a),
		newServeCommand(a),
		newConfigCommand(a),
		newProtectCommand(a),
		newMigrateCommand(a),
		newRequestCommand(a),
		newApplyCommand(a),
		newImportCommand(a),
		newLoginCommand(a),
		newLogoutCommand(a),
		newWhoamiCommand(a),
		newUserCommand(a),
		newTokenCommand(a),
		newAuditCommand(a),
		newPolicyCommand(a),
		newRuleCommand(a),
		newOwnerCommand(a),
		newFleetCommand(a),
		newOffsetsCommand(a),
		newShadowCommand(a),
		newStressCommand(a),
		newDriftCommand(a),
		newBackupCommand(a),
		newRestoreCommand(a),
	)
	for _, cmd := range root.Commands() {
		finish(cmd, a)
	}
	completable(root, a)
	return root
}

// finish gives every command of the tree what all have in common.
func finish(cmd *cobra.Command, a *app) {
	switch run := cmd.RunE; {
	case run != nil:
		cmd.RunE = func(cmd *cobra.Command, args []string) error {
			a.running = true
			return run(cmd, args)
		}
	case cmd.HasSubCommands():
		cmd.Args = cobra.ArbitraryArgs
		cmd.RunE = chooseSubcommand
	}
	completable(cmd, a)
	for _, sub := range cmd.Commands() {
		finish(sub, a)
	}
}

func chooseSubcommand(cmd *cobra.Command, args []string) error {
	var names []string
	for _, sub := range cmd.Commands() {
		if sub.IsAvailableCommand() {
			names = append(names, sub.Name())
		}
	}
	if len(args) == 0 {
		return usagef("%s: say what to do: %s", cmd.CommandPath(), strings.Join(names, ", "))
	}
	return usagef("%s: %q is not a command; there are %s", cmd.CommandPath(), args[0], strings.Join(names, ", "))
}

func (a *app) json() bool { return a.settings.output == "json" }
