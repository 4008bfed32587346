package cli

import (
	"context"
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/turnout-mq/turnout/admin/migrate"
	"github.com/turnout-mq/turnout/admin/server/api"
	"github.com/turnout-mq/turnout/admin/store"
	"github.com/turnout-mq/turnout/internal/count"
)

// canaryFlags say which part of the sends goes first.
type canaryFlags struct {
	percent   string
	instances []string
	keys      string
}

func (c *canaryFlags) add(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVar(&c.percent, "canary", "", "of the instances that send, as 10%: only they send to the new cluster until it is promoted")
	f.StringSliceVar(&c.instances, "canary-instances", nil, "the same for these instances, by their names (turnout topic get)")
	f.StringVar(&c.keys, "canary-keys", "", "the same for messages whose key has its hash in a range of 0-65535, as 0-6553; of an ordered topic always this")
}

// part is what was asked for; nil: nothing.
func (c *canaryFlags) part() (*migrate.Canary, error) {
	given := 0
	part := &migrate.Canary{}
	if c.percent != "" {
		given++
		n, err := strconv.Atoi(strings.TrimSuffix(c.percent, "%"))
		if err != nil || n < 1 || n > 100 {
			return nil, usagef("--canary %q: must be 1%% to 100%%", c.percent)
		}
		part.Percent = n
	}
	if len(c.instances) > 0 {
		given++
		part.Instances = c.instances
	}
	if c.keys != "" {
		given++
		from, to, ok := strings.Cut(c.keys, "-")
		first, err1 := strconv.Atoi(from)
		last, err2 := strconv.Atoi(to)
		if !ok || err1 != nil || err2 != nil || first < 0 || last > 65535 || first > last {
			return nil, usagef("--canary-keys %q: must be a range of 0-65535, such as 0-6553", c.keys)
		}
		part.Keys = []int{first, last}
	}
	switch {
	case given == 0:
		return nil, nil
	case given > 1:
		return nil, usagef("give one of --canary, --canary-instances and --canary-keys")
	}
	return part, nil
}

// words are the flags as they were given.
func (c *canaryFlags) words() (words []string) {
	if c.percent != "" {
		words = append(words, "--canary", c.percent)
	}
	if len(c.instances) > 0 {
		words = append(words, "--canary-instances", strings.Join(c.instances, ","))
	}
	if c.keys != "" {
		words = append(words, "--canary-keys", c.keys)
	}
	return words
}

func newMigratePromote(p *platform) *cobra.Command {
	var canary canaryFlags
	cmd := &cobra.Command{
		Use:   "promote ID",
		Short: "Let the rest of a topic follow its canary, or widen it",
		Long: `Let everything follow a canary: the migration goes on as one without. With --canary, --canary-instances or --canary-keys
another part goes to the new cluster instead. Of an ordered topic that is a wider range of keys; their sends pause until every
group has read what they have stored. turnout migrate abort takes the canary back.`,
		Example: "  turnout migrate promote m-17\n  turnout migrate promote m-17 --canary 50%\n  turnout migrate promote m-17 --canary-keys 0-32767",
		Args:    cobra.ExactArgs(1),
	}
	canary.add(cmd)
	by := byFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		part, err := canary.part()
		if err != nil {
			return err
		}
		who, err := by()
		if err != nil {
			return err
		}
		return p.with(cmd, 0, func(ctx context.Context, c *api.Client) error {
			m, err := c.Do(ctx, args[0], api.Promote, api.Ask{By: who, Canary: part})
			if err != nil {
				return unknownMigration(err)
			}
			return p.show(m, func(w io.Writer) { showPromoted(w, m, part) })
		})
	}
	return cmd
}

func showPromoted(w io.Writer, m *store.Migration, part *migrate.Canary) {
	what := "everything follows its canary"
	if part != nil {
		what = part.String() + " are to go there"
	}
	fmt.Fprintf(w, "migration %s of %s to %s: %s\nwatch it: turnout migrate watch %s\n", m.ID, m.Topic, m.Target, what, m.ID)
}

// showCanary says in a picture what goes where.
func showCanary(w io.Writer, c *migrate.LiveCanary) {
	if c != nil {
		fmt.Fprintf(w, "canary: %s to %s; %d of %s there\n", c.Part, c.Cluster, c.Instances, count.Of(c.Of, "instance that sends goes", "instances that send go"))
	}
}
