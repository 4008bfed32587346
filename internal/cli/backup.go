package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/turnout-mq/turnout/admin/backup"
	"github.com/turnout-mq/turnout/internal/count"
	"github.com/turnout-mq/turnout/internal/errs"
	"github.com/turnout-mq/turnout/metadata"
)

const backupLimit = 5 * time.Minute // for the nodes of a root, where --timeout does not say another

func newBackupCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "backup FILE",
		Short: "Write all metadata of a root to a file",
		Long: `Write all metadata of a root, and the flags of shadow groups, to a file of JSON: clusters, topics with their routes, groups, the
settings of jobs. It needs ZooKeeper only. A file that exists is not replaced, and a root without anything is refused: a backup of
what was lost must not take the place of one from before. The file has references to secrets and no secrets, as ZooKeeper has.

The store of the platform is not in it; back up its database with the database's own means.`,
		Example: `  turnout backup turnout-$(date +%F).json`,
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.withRoot(cmd, func(ctx context.Context, s *metadata.Store) error {
				f, err := backup.Take(ctx, s)
				if err != nil {
					return err
				}
				if err := writeBackup(args[0], f); err != nil {
					return err
				}
				return a.show(map[string]any{"file": args[0], "root": f.Root, "nodes": len(f.Nodes), "flags": len(f.Shadow), "ensemble": f.Ensemble.ID}, func(w io.Writer) {
					fmt.Fprintf(w, "%s: %s of %s, %s of %s\n", args[0], count.Of(len(f.Nodes), "node", "nodes"), f.Root, count.Of(len(f.Shadow), "flag", "flags"), f.ShadowRoot)
				})
			})
		},
	}
}

func newRestoreCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "restore FILE",
		Short: "Make the metadata of a backup anew in an empty root",
		Long: `Make the metadata of a backup anew in an empty ZooKeeper, or below an empty --root. Applications that run go on with what they knew
and take everything from the restored root within a minute, without a restart.

Nothing is ever written over: a root that has anything else than the backup is refused, and there is no flag against that. A route
of the past over the one in force would forget where messages may be unread. A restore that was interrupted is done again by the same
command.

Topics that were moved after the backup are where they were before: look at turnout drift list and turnout topic get, and move them again.`,
		Example: `  turnout restore turnout-2026-11-22.json`,
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			f, err := readBackup(args[0])
			if err != nil {
				return err
			}
			return a.withRoot(cmd, func(ctx context.Context, s *metadata.Store) error {
				done, err := backup.Restore(ctx, s, f)
				if err != nil {
					return err
				}
				return a.show(done, func(w io.Writer) {
					fmt.Fprintf(w, "%s has %s, %s, %s and %s of %s", done.Root, count.Of(done.Clusters, "cluster", "clusters"), count.Of(done.Topics, "topic", "topics"), count.Of(done.Groups, "group", "groups"), count.Of(done.Flags, "flag", "flags"), f.At.Format(time.RFC3339))
					if done.Already > 0 {
						fmt.Fprintf(w, " (%d nodes were there already)", done.Already)
					}
					fmt.Fprintln(w)
				})
			})
		},
	}
}

// withRoot is withStore for what reads or writes all of a root.
func (a *app) withRoot(cmd *cobra.Command, use func(context.Context, *metadata.Store) error) error {
	limit := backupLimit
	if cmd.Flags().Changed("timeout") {
		limit = a.settings.timeout
	}
	ctx, cancel := context.WithTimeout(cmd.Context(), limit)
	defer cancel()
	return a.withOpenStore(ctx, func(s *metadata.Store) error { return use(ctx, s) })
}

// writeBackup makes a new file, which is taken away again if not all of it can be written.
func writeBackup(name string, f *backup.File) error {
	out, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	switch {
	case errors.Is(err, fs.ErrExist):
		return fmt.Errorf("%w: file %s exists: give another name, a backup is not replaced", errs.ErrConflict, name)
	case err != nil:
		return usagef("FILE: %w", err)
	}
	if err := errors.Join(f.Write(out), out.Sync(), out.Close()); err != nil {
		return errors.Join(fmt.Errorf("%s: %w", name, err), os.Remove(name))
	}
	return nil
}

func readBackup(name string) (*backup.File, error) {
	in, err := os.Open(name)
	if err != nil {
		return nil, usagef("FILE: %w", err)
	}
	defer in.Close()
	f, err := backup.Read(in)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return f, nil
}
