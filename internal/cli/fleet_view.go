package cli

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/turnout-mq/turnout/admin/coord"
	fleetapi "github.com/turnout-mq/turnout/admin/fleet"
	"github.com/turnout-mq/turnout/admin/server/api"
)

func newFleetCommand(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "fleet",
		Short: "What the platform sees of instances, groups and topics: what needs attention first",
		Long: `What the platform sees of the running instances, of groups and topics. Its servers look every 30 seconds; SEEN says when. In tables
what needs attention is first: errors and stale instances, then the most unread messages.`,
	}
	p := newPlatform(a, cmd)
	cmd.AddCommand(newFleetApp(p), newFleetGroup(p), newFleetTopic(p), newFleetTop(p), newFleetShards(p))
	return cmd
}

// showFleet reads one document of the fleet and shows it.
func showFleet[T any](cmd *cobra.Command, p *platform, path string, query url.Values, sort func(T), text func(io.Writer, T)) error {
	return p.with(cmd, 0, func(ctx context.Context, c *api.Client) error {
		var doc T
		if err := c.Read(ctx, "/fleet"+path, query, &doc); err != nil {
			return err
		}
		sort(doc)
		return p.show(doc, func(w io.Writer) { text(w, doc) })
	})
}

// firstTrue orders what is true before what is not.
func firstTrue(a, b bool) int {
	switch {
	case a == b:
		return 0
	case a:
		return -1
	}
	return 1
}

func sortUses(uses []fleetapi.Use) {
	slices.SortStableFunc(uses, func(a, b fleetapi.Use) int {
		return cmp.Or(firstTrue(a.Stale, b.Stale), firstTrue(!a.Applied, !b.Applied), a.BehindSince.Compare(b.BehindSince))
	})
}

func sortLag(groups []fleetapi.GroupOnCluster) {
	slices.SortStableFunc(groups, func(a, b fleetapi.GroupOnCluster) int {
		return cmp.Or(firstTrue(a.Error != "", b.Error != ""), cmp.Compare(b.Unread, a.Unread), cmp.Compare(b.Retries+b.DeadLetters, a.Retries+a.DeadLetters))
	})
}

// seenAt is a time for people; "" when there is none.
func seenAt(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.Local().Format(time.DateTime)
}

// perSecond is a rate for people; "" when it is not known.
func perSecond(n *float64) string {
	if n == nil {
		return ""
	}
	return fmt.Sprintf("%.1f/s", *n)
}

type fleetInstances struct {
	Instances []fleetapi.Instance `json:"instances"`
}

func newFleetApp(p *platform) *cobra.Command {
	return &cobra.Command{
		Use: "app APP", Short: "The running instances of an application, stale ones first", Example: "  turnout fleet app order_service", Args: cobra.ExactArgs(1),
		Long: "The running instances of an application, what each writes to and whether it has applied the newest route. Stale is who reports an\nerror, or has not followed a route for a minute.",
		RunE: func(cmd *cobra.Command, args []string) error {
			return showFleet(cmd, p, "/applications/"+url.PathEscape(args[0]), nil, func(d fleetInstances) {
				for _, i := range d.Instances {
					sortUses(i.Topics)
				}
				slices.SortStableFunc(d.Instances, func(a, b fleetapi.Instance) int { return firstTrue(a.Stale, b.Stale) })
			}, func(w io.Writer, d fleetInstances) {
				if len(d.Instances) == 0 {
					fmt.Fprintf(w, "no instance of %s runs\n", args[0])
					return
				}
				row(w, "INSTANCE", "STALE", "HOST", "STARTED", "SDK", "TOPIC", "WRITES", "APPLIED", "BEHIND SINCE", "SEEN", "ERROR")
				for _, i := range d.Instances {
					if len(i.Topics) == 0 {
						row(w, i.ID, yes(i.Stale), i.Host, seenAt(i.Started), i.SDK, "", "", "", "", "", oneLineOrNone(i.Error))
					}
					for _, u := range i.Topics {
						row(w, i.ID, yes(u.Stale || i.Error != ""), i.Host, seenAt(i.Started), i.SDK, u.Topic, u.Write, appliedText(u), seenAt(u.BehindSince), seenAt(u.Seen), oneLineOrNone(firstOf(i.Error, u.Error)))
					}
				}
			})
		},
	}
}

func appliedText(u fleetapi.Use) string {
	if u.Applied {
		return "yes"
	}
	return "no (" + u.Zxid + ")"
}

func lagTable(w io.Writer, groups []fleetapi.GroupOnCluster) {
	row(w, "GROUP", "TOPIC", "CLUSTER", "UNREAD", "CONSUMED", "MOST IN PARTITION", "RETRIES", "DELAYED", "DEAD LETTERS", "EXPIRED", "SEEN", "NOTE")
	for _, g := range groups {
		worst := ""
		if len(g.Partitions) > 0 {
			most := slices.MaxFunc(g.Partitions, func(a, b fleetapi.PartitionLag) int { return cmp.Compare(a.Unread, b.Unread) })
			if most.Unread > 0 {
				worst = fmt.Sprintf("%s (%d)", most.Partition, most.Unread)
			}
		}
		note := oneLineOrNone(g.Error)
		if g.NoTopic && g.Error == "" {
			note = "the cluster does not have the topic"
		}
		row(w, g.Group, g.Topic, g.Cluster, g.Unread, perSecond(g.Consumed), worst, g.Retries, g.Delayed, g.DeadLetters, g.Expired, seenAt(g.Seen), note)
	}
}

func newFleetGroup(p *platform) *cobra.Command {
	return &cobra.Command{
		Use: "group GROUP", Short: "How far a group is with each topic and cluster, the worst lag first", Args: cobra.ExactArgs(1),
		Long:    "How far a group is with each topic and cluster, as last looked at. --output json has every partition. turnout group get asks the\nclusters now.",
		Example: "  turnout fleet group order_bil_group",
		RunE: func(cmd *cobra.Command, args []string) error {
			return showFleet(cmd, p, "/groups/"+url.PathEscape(args[0]), nil, func(g *fleetapi.Group) { sortLag(g.Parts) }, func(w io.Writer, g *fleetapi.Group) {
				field(w, "group", g.Group)
				field(w, "application", g.App)
				if g.Paused {
					field(w, "paused", "yes")
				}
				field(w, "unread", g.Unread)
				field(w, "consumed", perSecond(g.Consumed))
				field(w, "retries", g.Retries)
				field(w, "dead letters", g.DeadLetters)
				field(w, "not all is known", g.Error)
				fmt.Fprintln(w)
				if len(g.Parts) == 0 {
					fmt.Fprintf(w, "nothing of it was looked at yet; it reads %s\n", firstOf(strings.Join(g.Topics, ", "), "no topic"))
					return
				}
				lagTable(w, g.Parts)
			})
		},
	}
}

func newFleetTopic(p *platform) *cobra.Command {
	return &cobra.Command{
		Use: "topic TOPIC", Short: "A topic with its clusters, groups and instances", Example: "  turnout fleet topic order_topic", Args: cobra.ExactArgs(1),
		Long: "A topic with its clusters, the groups that read it (the worst lag first) and the instances that use it (stale ones first), as last\nlooked at. turnout topic get asks the clusters now.",
		RunE: func(cmd *cobra.Command, args []string) error {
			return showFleet(cmd, p, "/topics/"+url.PathEscape(args[0]), nil, func(t *fleetapi.Topic) {
				sortLag(t.Groups)
				sortUses(t.Instances)
			}, fleetTopicText)
		},
	}
}

// routeMigration is the migration that wrote the route, and that it runs or how it has ended.
func routeMigration(t *fleetapi.Topic) string {
	switch m := t.Moved; {
	case m == nil:
		return t.Migration
	case m.Ended.IsZero():
		return fmt.Sprintf("%s, %s", t.Migration, m.State)
	default:
		return fmt.Sprintf("%s, ended %s: %s", t.Migration, m.Ended.Local().Format(time.DateTime), m.Outcome)
	}
}

func fleetTopicText(w io.Writer, t *fleetapi.Topic) {
	field(w, "topic", t.Topic)
	field(w, "application", t.App)
	field(w, "writes", t.Write)
	field(w, "route", t.Route)
	field(w, "migration", routeMigration(t))
	field(w, "seen", firstOf(seenAt(t.Seen), "not yet"))
	field(w, "not all is known", t.Error)
	fmt.Fprintln(w)
	row(w, "CLUSTER", "TOPIC THERE", "PRODUCED", "NOTE")
	for _, c := range t.Clusters {
		note := oneLineOrNone(c.Error)
		if c.NoTopic && c.Error == "" {
			note = "the cluster does not have the topic"
		}
		row(w, c.Cluster, c.Physical, perSecond(c.Produced), note)
	}
	fmt.Fprintln(w)
	if len(t.Groups) > 0 {
		lagTable(w, t.Groups)
	} else {
		fmt.Fprintln(w, "no group reads it")
	}
	fmt.Fprintln(w)
	if len(t.Instances) == 0 {
		fmt.Fprintln(w, "no instance uses it")
		return
	}
	row(w, "INSTANCE", "STALE", "WRITES", "APPLIED", "BEHIND SINCE", "ERROR")
	for _, u := range t.Instances {
		row(w, u.Instance, yes(u.Stale), u.Write, appliedText(u), seenAt(u.BehindSince), oneLineOrNone(u.Error))
	}
}

type fleetTop struct {
	Groups []fleetapi.GroupOnCluster `json:"groups"`
}

func newFleetTop(p *platform) *cobra.Command {
	cmd := &cobra.Command{
		Use: "top", Short: "The groups with the most unread messages", Example: "  turnout fleet top --limit 5", Args: cobra.NoArgs,
	}
	n := cmd.Flags().Int("limit", 20, "at most so many, 1 to 1000")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if *n < 1 || *n > 1000 {
			return usagef("--limit %d: must be 1 to 1000", *n)
		}
		return showFleet(cmd, p, "/top", url.Values{"limit": {strconv.Itoa(*n)}}, func(fleetTop) {}, func(w io.Writer, d fleetTop) {
			if len(d.Groups) == 0 {
				fmt.Fprintln(w, "no group has anything unread")
				return
			}
			lagTable(w, d.Groups)
		})
	}
	return cmd
}

// jobShards is who works on a job.
type jobShards struct {
	Job        string             `json:"job"`
	Shards     []coord.ShardState `json:"shards"`
	Resharding bool               `json:"resharding"`
}

func newFleetShards(p *platform) *cobra.Command {
	return &cobra.Command{
		Use: "shards", Short: "Which server looks at what", Example: "  turnout fleet shards", Args: cobra.NoArgs,
		Long: `Which server has which shards of the work: monitor looks at instances and groups, reconcile compares catalog, ZooKeeper and
clusters. When a server is gone others finish what it had (TAKING OVER), and then all is divided anew.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return p.with(cmd, 0, func(ctx context.Context, c *api.Client) error {
				all := []jobShards{{Job: "monitor"}, {Job: "reconcile"}}
				for i := range all {
					if err := c.Read(ctx, "/fleet/shards", url.Values{"job": {all[i].Job}}, &all[i]); err != nil {
						return err
					}
				}
				return p.show(all, func(w io.Writer) {
					row(w, "JOB", "SERVER", "SHARDS", "AT WORK ON", "TAKING OVER")
					for _, j := range all {
						shardRows(w, j)
					}
					for _, j := range all {
						if j.Resharding {
							fmt.Fprintf(w, "the shards of %s are being divided anew\n", j.Job)
						}
					}
				})
			})
		},
	}
}

func shardRows(w io.Writer, j jobShards) {
	of := func(get func(coord.ShardState) string) map[string][]string {
		by := map[string][]string{}
		for _, s := range j.Shards {
			if server := get(s); server != "" {
				by[server] = append(by[server], strconv.Itoa(s.Index))
			}
		}
		return by
	}
	given := of(func(s coord.ShardState) string { return s.Instance })
	running := of(func(s coord.ShardState) string { return s.Running })
	failover := of(func(s coord.ShardState) string { return s.Failover })
	var servers []string
	for _, by := range []map[string][]string{given, running, failover} {
		for server := range by {
			servers = append(servers, server)
		}
	}
	slices.Sort(servers)
	for _, server := range slices.Compact(servers) {
		row(w, j.Job, server, strings.Join(given[server], ","), strings.Join(running[server], ","), strings.Join(failover[server], ","))
	}
}
