package cli

import (
	"context"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/turnout-mq/turnout/admin/requests"
	"github.com/turnout-mq/turnout/admin/server/api"
	"github.com/turnout-mq/turnout/admin/store"
	"github.com/turnout-mq/turnout/broker"
	"github.com/turnout-mq/turnout/internal/count"
	"github.com/turnout-mq/turnout/internal/errs"
)

func newPolicyCommand(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "policy",
		Short: "Which kinds of requests need an approval, and when they expire",
	}
	p := newPlatform(a, cmd)
	cmd.AddCommand(&cobra.Command{
		Use: "list", Short: "List the policies of all kinds of requests", Example: "  turnout policy list", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return p.with(cmd, 0, func(ctx context.Context, c *api.Client) error {
				var all []store.RequestPolicy
				if err := c.Read(ctx, "/policies", nil, &all); err != nil {
					return err
				}
				return p.show(all, func(w io.Writer) {
					row(w, "KIND", "APPROVAL", "EXPIRES AFTER", "VERSION")
					for _, policy := range all {
						row(w, policy.Kind, approval(policy), count.Of(policy.Days, "day", "days"), policy.Version)
					}
				})
			})
		},
	}, newPolicySet(p))
	return cmd
}

func approval(p store.RequestPolicy) string {
	if p.Approval {
		return "needed"
	}
	return "not needed"
}

func newPolicySet(p *platform) *cobra.Command {
	var need bool
	var days int
	cmd := &cobra.Command{
		Use: "set KIND", Short: "Change the policy of a kind of requests; for administrators", Args: cobra.ExactArgs(1),
		Long: "Change the policy of a kind of requests; for administrators. Flags that are not given leave what is there. Requests that are\nsubmitted already are decided as they would have been.",
		Example: `  turnout policy set group --approval=false
  turnout policy set migration --days 3`,
	}
	cmd.Flags().BoolVar(&need, "approval", true, "somebody else has to approve; --approval=false: a submitted request is carried out at once")
	cmd.Flags().IntVar(&days, "days", 0, "a request that nobody decides expires after so many days, 1 to 365")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		given := cmd.Flags().Changed
		if !given("approval") && !given("days") {
			return usagef("say what to change: --approval or --days")
		}
		return p.with(cmd, 0, func(ctx context.Context, c *api.Client) error {
			var all []store.RequestPolicy
			if err := c.Read(ctx, "/policies", nil, &all); err != nil {
				return err
			}
			at := slices.IndexFunc(all, func(policy store.RequestPolicy) bool { return policy.Kind == args[0] })
			if at < 0 {
				return usagef("%q is no kind of request; turnout policy list has them", args[0])
			}
			policy := all[at]
			set(given("approval"), &policy.Approval, need)
			set(given("days"), &policy.Days, days)
			if err := c.Change(ctx, http.MethodPut, "/policies/"+url.PathEscape(policy.Kind), 0, policy, &policy); err != nil {
				return err
			}
			return p.show(policy, func(w io.Writer) {
				fmt.Fprintf(w, "requests of kind %s: approval %s, expire after %s\n", policy.Kind, approval(policy), count.Of(policy.Days, "day", "days"))
			})
		})
	}
	return cmd
}

func newRuleCommand(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "rule",
		Short: "Allotment rules: which cluster a topic gets",
		Long: `Allotment rules say which cluster a topic gets when neither who applies nor who approves names one. They are asked in the order of
their priority, the smallest first; the first that fits the topic and has a cluster for it decides.`,
	}
	p := newPlatform(a, cmd)
	cmd.AddCommand(&cobra.Command{
		Use: "list", Short: "List the rules in the order in which they are asked", Example: "  turnout rule list", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return p.with(cmd, 0, func(ctx context.Context, c *api.Client) error {
				all, err := rules(ctx, c)
				if err != nil {
					return err
				}
				return p.show(all, func(w io.Writer) { ruleTable(w, all) })
			})
		},
	}, newRulePut(p), newRuleDelete(p))
	return cmd
}

func rules(ctx context.Context, c *api.Client) ([]requests.Rule, error) {
	all := []requests.Rule{}
	return all, c.Read(ctx, "/rules", nil, &all)
}

func ruleTable(w io.Writer, all []requests.Rule) {
	row(w, "RULE", "PRIORITY", "KIND", "LABELS", "CLUSTERS", "CLUSTER LABELS", "LEAST", "VERSION")
	for _, r := range all {
		least := firstOf(r.Load, requests.LoadPartitions)
		row(w, r.Name, r.Priority, firstOf(string(r.Kind), "any"), pairs(r.Labels), firstOf(strings.Join(r.Clusters, ","), "any"), pairs(r.ClusterLabels), least, r.Version)
	}
}

func pairs(labels map[string]string) string {
	var out []string
	for _, name := range slices.Sorted(maps.Keys(labels)) {
		out = append(out, name+"="+labels[name])
	}
	return strings.Join(out, ",")
}

func newRulePut(p *platform) *cobra.Command {
	var r requests.Rule
	var kind string
	cmd := &cobra.Command{
		Use: "put RULE", Short: "Make a rule or change it; for administrators", Args: cobra.ExactArgs(1),
		Long: "Make a rule or change it; for administrators. Flags that are not given leave what is there.",
		Example: `  turnout rule put payments --priority 10 --label team=payments --cluster kafka-a,kafka-b --load topics
  turnout rule put rest --priority 100 --kind kafka --cluster-label tier=shared`,
	}
	f := cmd.Flags()
	f.IntVar(&r.Priority, "priority", 0, "the smallest is asked first")
	f.StringVar(&kind, "kind", "", "for topics that want kafka or rocketmq, or any")
	f.StringToStringVar(&r.Labels, "label", nil, "name=value: for topics with all of these labels")
	f.StringSliceVar(&r.Clusters, "cluster", nil, "they get one of these; several with commas")
	f.StringToStringVar(&r.ClusterLabels, "cluster-label", nil, "name=value: they get a cluster with all of these labels")
	f.StringVar(&r.Load, "load", "", "of several clusters the one with the fewest: topics or partitions (default: partitions)")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		given := cmd.Flags().Changed
		return p.with(cmd, 0, func(ctx context.Context, c *api.Client) error {
			all, err := rules(ctx, c)
			if err != nil {
				return err
			}
			next := requests.Rule{Name: args[0]}
			if at := ruleNamed(all, args[0]); at >= 0 {
				next = all[at]
			}
			set(given("priority"), &next.Priority, r.Priority)
			set(given("kind"), &next.Kind, broker.Kind(kind))
			set(given("label"), &next.Labels, r.Labels)
			set(given("cluster"), &next.Clusters, r.Clusters)
			set(given("cluster-label"), &next.ClusterLabels, r.ClusterLabels)
			set(given("load"), &next.Load, r.Load)
			if err := c.Change(ctx, http.MethodPut, "/rules/"+url.PathEscape(args[0]), 0, next, &next); err != nil {
				return err
			}
			return p.show(next, func(w io.Writer) { ruleTable(w, []requests.Rule{next}) })
		})
	}
	return cmd
}

func ruleNamed(all []requests.Rule, name string) int {
	return slices.IndexFunc(all, func(r requests.Rule) bool { return r.Name == name })
}

func newRuleDelete(p *platform) *cobra.Command {
	return &cobra.Command{
		Use: "delete RULE", Short: "Remove a rule; for administrators", Example: "  turnout rule delete payments", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return p.with(cmd, 0, func(ctx context.Context, c *api.Client) error {
				all, err := rules(ctx, c)
				if err != nil {
					return err
				}
				at := ruleNamed(all, args[0])
				if at < 0 {
					return fmt.Errorf("there is no rule %q: %w; turnout rule list has them", args[0], errs.ErrNotFound)
				}
				if err := c.Change(ctx, http.MethodDelete, "/rules/"+url.PathEscape(args[0]), all[at].Version, nil, nil); err != nil {
					return err
				}
				return p.showDeleted("rule", args[0])
			})
		},
	}
}

func newOwnerCommand(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "owner",
		Short: "Who owns an application, and so may file requests for it",
	}
	p := newPlatform(a, cmd)
	show := func(cmd *cobra.Command, app, method, user string) error {
		return p.with(cmd, 0, func(ctx context.Context, c *api.Client) error {
			path := "/applications/" + url.PathEscape(app) + "/owners"
			if method != "" {
				if err := c.Change(ctx, method, path+"/"+url.PathEscape(user), 0, nil, nil); err != nil {
					return err
				}
			}
			var doc struct {
				App    string   `json:"app"`
				Owners []string `json:"owners"`
			}
			if err := c.Read(ctx, path, nil, &doc); err != nil {
				return err
			}
			doc.App = app
			return p.show(doc, func(w io.Writer) {
				field(w, "application", app)
				field(w, "owners", firstOf(strings.Join(doc.Owners, ", "), "none: who files the first request that is approved becomes one"))
			})
		})
	}
	cmd.AddCommand(
		&cobra.Command{
			Use: "list APP", Short: "Show the owners of an application", Example: "  turnout owner list order_service", Args: cobra.ExactArgs(1),
			RunE: func(cmd *cobra.Command, args []string) error { return show(cmd, args[0], "", "") },
		},
		&cobra.Command{
			Use: "add APP USER", Short: "Make a user an owner; for owners and administrators", Example: "  turnout owner add order_service alice", Args: cobra.ExactArgs(2),
			RunE: func(cmd *cobra.Command, args []string) error { return show(cmd, args[0], http.MethodPut, args[1]) },
		},
		&cobra.Command{
			Use: "remove APP USER", Short: "End an ownership; for owners and administrators", Example: "  turnout owner remove order_service alice", Args: cobra.ExactArgs(2),
			RunE: func(cmd *cobra.Command, args []string) error { return show(cmd, args[0], http.MethodDelete, args[1]) },
		},
	)
	return cmd
}
