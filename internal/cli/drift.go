package cli

import (
	"context"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/turnout-mq/turnout/admin/server/api"
	"github.com/turnout-mq/turnout/admin/store"
)

func newDriftCommand(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "drift",
		Short: "What differs between the platform, ZooKeeper and the clusters",
		Long: `What differs between the platform's catalog, ZooKeeper and the clusters, and what can be done about it. Nothing is repaired by itself.

  edited    ZooKeeper has another document                 publish, adopt, ignore
  missing   ZooKeeper does not have it                     publish, adopt (out of the catalog), ignore
  unknown   the catalog does not have it                   adopt, ignore
  absent    the cluster does not have the topic            publish (create it there), ignore
  settings  partitions or settings on the cluster differ   adopt, ignore`,
		Example: `  turnout drift list --open
  turnout drift get d-4
  turnout drift publish d-4
  turnout drift ignore d-4 --reason 'until the split'`,
	}
	p := newPlatform(a, cmd)
	cmd.AddCommand(newDriftList(p), newDriftGet(p), newDriftChoice(p, "publish", "Make ZooKeeper, or the cluster, what the catalog has", "published"),
		newDriftChoice(p, "adopt", "Make the catalog what is there", "adopted"), newDriftIgnore(p))
	return cmd
}

func newDriftList(p *platform) *cobra.Command {
	cmd := &cobra.Command{
		Use: "list", Short: "List the differences, the oldest first", Args: cobra.NoArgs,
		Example: "  turnout drift list --open\n  turnout drift list --kind topic --what edited --output json",
	}
	open := cmd.Flags().Bool("open", false, "only those that nobody ignores")
	filters := map[string]*string{}
	for name, usage := range map[string]string{"kind": "cluster, topic or group", "name": "of the thing of this name", "what": "edited, missing, unknown, absent or settings"} {
		filters[name] = cmd.Flags().String(name, "", usage)
	}
	limit := limitFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		most, err := limit()
		if err != nil {
			return err
		}
		q := url.Values{"limit": {strconv.Itoa(most)}}
		if *open {
			q.Set("open", "true")
		}
		for name, value := range filters {
			if *value != "" {
				q.Set(name, *value)
			}
		}
		var page struct{ Items []*store.Drift }
		if err := p.with(cmd, 0, func(ctx context.Context, c *api.Client) error { return c.Read(ctx, "/drift", q, &page) }); err != nil {
			return err
		}
		return p.show(page.Items, func(w io.Writer) {
			row(w, "ID", "KIND", "NAME", "WHAT", "SINCE", "IGNORED BY", "DETAIL")
			for _, d := range page.Items {
				by := ""
				if d.Ignored != nil {
					by = d.Ignored.By
				}
				row(w, d.ID, d.Kind, d.Name, d.What, d.Since.Local().Format(time.DateTime), by, d.Detail)
			}
		})
	}
	return cmd
}

func newDriftGet(p *platform) *cobra.Command {
	return &cobra.Command{
		Use: "get ID", Short: "Show a difference with both sides", Args: cobra.ExactArgs(1), Example: "  turnout drift get d-4",
		RunE: func(cmd *cobra.Command, args []string) error {
			d := &store.Drift{}
			if err := p.with(cmd, 0, func(ctx context.Context, c *api.Client) error { return c.Read(ctx, driftPath(args[0]), nil, d) }); err != nil {
				return err
			}
			return p.showDrift(d)
		},
	}
}

func driftPath(id string) string { return "/drift/" + url.PathEscape(id) }

func (p *platform) showDrift(d *store.Drift) error {
	return p.show(d, func(w io.Writer) {
		field(w, "difference", d.ID)
		field(w, d.Kind, d.Name)
		field(w, "cluster", d.Cluster)
		field(w, "what", d.What+": "+d.Detail)
		field(w, "since", d.Since.Local().Format(time.DateTime))
		field(w, "catalog", string(d.Wanted))
		field(w, "found", string(d.Found))
		field(w, "choices", compact(d.Choices))
		if d.Ignored != nil {
			field(w, "ignored", d.Ignored.By+": "+d.Ignored.Reason)
		}
	})
}

func newDriftChoice(p *platform, what, short, done string) *cobra.Command {
	return &cobra.Command{
		Use: what + " ID", Short: short, Args: cobra.ExactArgs(1), Example: "  turnout drift " + what + " d-4",
		Long: short + ". What is there is looked at again before; if it is not as it was shown, nothing is done.",
		RunE: func(cmd *cobra.Command, args []string) error {
			d := &store.Drift{}
			if err := p.chooseDrift(cmd, args[0], what, d, nil, nil); err != nil {
				return err
			}
			return p.show(map[string]string{done: d.ID}, func(w io.Writer) { row(w, d.ID, d.Kind, d.Name, done) })
		},
	}
}

func newDriftIgnore(p *platform) *cobra.Command {
	cmd := &cobra.Command{Use: "ignore ID", Short: "Leave a difference as it is until it changes", Args: cobra.ExactArgs(1), Example: "  turnout drift ignore d-4 --reason 'until the split'"}
	reason := cmd.Flags().String("reason", "", "why; needed")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if *reason == "" {
			return usagef("--reason is missing: say why, for those who look at it after you")
		}
		d := &store.Drift{}
		if err := p.chooseDrift(cmd, args[0], "ignore", d, map[string]string{"reason": *reason}, d); err != nil {
			return err
		}
		return p.showDrift(d)
	}
	return cmd
}

// chooseDrift reads a difference as it is now into d, and chooses.
func (p *platform) chooseDrift(cmd *cobra.Command, id, what string, d *store.Drift, in, out any) error {
	return p.with(cmd, preflightLimit, func(ctx context.Context, c *api.Client) error {
		if err := c.Read(ctx, driftPath(id), nil, d); err != nil {
			return err
		}
		version := d.Version
		return c.Change(ctx, http.MethodPost, driftPath(id)+"/"+what, version, in, out)
	})
}
