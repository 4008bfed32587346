package cli

import (
	"context"
	"fmt"
	"io"
	"os/user"
	"time"

	"github.com/spf13/cobra"

	"github.com/turnout-mq/turnout/admin/server/api"
	"github.com/turnout-mq/turnout/admin/store"
	"github.com/turnout-mq/turnout/internal/errs"
)

const (
	// preflightLimit bounds plan and start where --timeout does not: clusters that do not answer are waited for.
	preflightLimit = time.Minute
	// serverPatience is how long what follows a migration goes on while no server answers.
	serverPatience = 2 * time.Minute
)

func newMigrateCommand(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "migrate",
		Short: "Move topics between clusters, with proof",
		Long: `Move topics between clusters while they are in use: no send fails, no message is lost or left behind or copied, the order
per key is kept where the topic has one, there is a way back, and at the end a receipt says why the old cluster can be
switched off for the topic.

A server of the platform (turnout serve) does the work. It is found in ZooKeeper, or named by --server or TURNOUT_SERVER.
Log in first (turnout login), or give a token in the file of --token-file or in TURNOUT_TOKEN.`,
		Example: `  turnout migrate plan order_topic --to kafka-b
  turnout migrate start order_topic --to kafka-b --watch
  turnout migrate receipt m-17`,
	}
	p := newPlatform(a, cmd)
	cmd.AddCommand(newMigratePlan(p), newMigrateStart(p), newMigrateWatch(p), newMigrateList(p),
		newMigratePromote(p), newMigrateAction(p, api.Rollback), newMigrateAction(p, api.Abort), newMigrateAction(p, api.Pause), newMigrateAction(p, api.Resume), newMigrateReceipt(p))
	return cmd
}

// byFlag is who is said to have asked for something.
func byFlag(cmd *cobra.Command) func() (string, error) {
	var by string
	cmd.Flags().StringVar(&by, "by", "", "who asks for it, for the history and the receipt (default: the user of this machine)")
	return func() (string, error) {
		if by != "" {
			return by, nil
		}
		u, err := user.Current()
		if err != nil || u.Username == "" {
			return "", usagef("who asks for it? Give --by NAME")
		}
		return u.Username, nil
	}
}

func newMigrateList(p *platform) *cobra.Command {
	var f store.Filter
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List migrations, the newest first",
		Example: `  turnout migrate list --open
  turnout migrate list --topic order_topic --output json`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if f.Limit < 1 {
				return usagef("--limit %d: must be 1 or more", f.Limit)
			}
			return p.with(cmd, 0, func(ctx context.Context, c *api.Client) error {
				list, err := c.List(ctx, f)
				if err != nil {
					return err
				}
				return p.show(list, func(w io.Writer) {
					row(w, "MIGRATION", "TOPIC", "TO", "KIND", "STATE", "OUTCOME", "STARTED", "BY", "WAITS FOR")
					for _, m := range list {
						kind := string(m.Kind)
						if m.Ordered {
							kind += ", ordered"
						}
						waits := m.Waiting
						if waits == "" && m.Paused {
							waits = "paused"
						}
						row(w, m.ID, m.Topic, m.Target, kind, m.State, m.Outcome, m.CreatedAt.Local().Format(time.DateTime), m.StartedBy, oneLineOrNone(waits))
					}
				})
			})
		},
	}
	cmd.Flags().BoolVar(&f.Open, "open", false, "only those that have not ended")
	cmd.Flags().StringVar(&f.Topic, "topic", "", "only those of this topic")
	cmd.Flags().IntVar(&f.Limit, "limit", 100, "at most so many")
	return cmd
}

func oneLineOrNone(text string) string {
	if text == "" {
		return ""
	}
	return oneLine([]byte(text))
}

// actions are the texts of what can be asked of a running migration.
var actions = map[api.Action]struct{ short, long, done string }{
	api.Rollback: {"Let a migration go back", `Let a migration go back to the cluster that the topic came from, also after the new cluster took writes: nothing is lost.
An unordered topic turns round at once. An ordered one goes back as it is while nothing was written on the new cluster; else
it first reads the old cluster to its end, because the order asks for that, and then moves back. A migration that has
ended is not rolled back: start one in the other direction.`, "goes back"},
	api.Abort: {"Stop a migration while nothing has gone to the new cluster", `Stop a migration: everything becomes as it was before. When the new cluster takes writes already that is refused, which is
an event in the migration's history; ask for a rollback then. A canary goes back: what went to the new cluster is read there
first, and then that is closed.`, "is to stop"},
	api.Pause: {"Let a migration stay in its state", `Let a migration stay in the state that it is in, until it is resumed. What is closed to writers stays closed; so pause an
ordered one not while sends are held.`, "is paused"},
	api.Resume: {"Let a paused migration go on, or accept more warnings", `Let a paused migration go on. --accept accepts further warnings, also of one that is not paused and waits, for example for
a group that fell asleep (sleeping-groups) or a foreign writer (foreign-writers). source-lost gives up a cluster that was left
and does not answer, if it never comes back, with what nobody has read there.`, "goes on"},
}

func newMigrateAction(p *platform, what api.Action) *cobra.Command {
	text := actions[what]
	var accept []string
	cmd := &cobra.Command{
		Use:     string(what) + " ID",
		Short:   text.short,
		Long:    text.long,
		Example: "  turnout migrate " + string(what) + " m-17",
		Args:    cobra.ExactArgs(1),
	}
	by := byFlag(cmd)
	if what == api.Resume {
		cmd.Example += "\n  turnout migrate resume m-17 --accept sleeping-groups"
		cmd.Flags().StringSliceVar(&accept, "accept", nil, "codes of warnings to accept; all accepts every one but source-lost")
	}
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		who, err := by()
		if err != nil {
			return err
		}
		return p.with(cmd, 0, func(ctx context.Context, c *api.Client) error {
			m, err := c.Do(ctx, args[0], what, api.Ask{By: who, Accept: accept})
			if err != nil {
				return unknownMigration(err)
			}
			return p.show(m, func(w io.Writer) {
				fmt.Fprintf(w, "migration %s of %s %s (state %s)\nwatch it: turnout migrate watch %s\n", m.ID, m.Topic, text.done, m.State, m.ID)
			})
		})
	}
	return cmd
}

// unknownMigration adds to an error how to find the right id.
func unknownMigration(err error) error {
	return remedy(err, errs.ErrNotFound, `"turnout migrate list" shows what there is`)
}
