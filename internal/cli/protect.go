package cli

import (
	"context"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/turnout-mq/turnout/internal/count"
	"github.com/turnout-mq/turnout/metadata"
)

// protection is what "protect" found and did.
type protection struct {
	Nodes   []string `json:"nodes"` // that did not belong to our identities alone
	Changed int      `json:"changed"`
}

func newProtectCommand(a *app) *cobra.Command {
	var dryRun bool
	cmd := &cobra.Command{
		Use:   "protect",
		Short: "Give all of Turnout's nodes in ZooKeeper to the identity of --zookeeper-auth",
		Long: `Give all of Turnout's nodes in ZooKeeper, those below --root and --shadow-root, to the identity of --zookeeper-auth, and take them
from everybody else. For a tree that was made without authentication, and to replace an identity by another: the secret then
has both, one a line, and after everybody has the new one, that alone.`,
		Example: `  turnout protect --zookeeper-auth digest:file:/etc/turnout/zk-login --dry-run`,
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.withStore(cmd.Context(), func(ctx context.Context, s *metadata.Store) error {
				var p protection
				var err error
				if p.Nodes, err = s.Unprotected(ctx); err != nil {
					return err
				}
				if !dryRun {
					if p.Changed, err = s.Protect(ctx); err != nil {
						return err
					}
				}
				return a.show(p, func(w io.Writer) {
					for _, path := range p.Nodes {
						fmt.Fprintln(w, path)
					}
					fmt.Fprintf(w, "%s to others, too; %d changed\n", count.Of(len(p.Nodes), "node belonged", "nodes belonged"), p.Changed)
				})
			})
		},
	}
	cmd.Flags().BoolVar(&dryRun, "dry-run", false, "only list them")
	return cmd
}
