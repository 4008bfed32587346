package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/turnout-mq/turnout/internal/errs"
	"github.com/turnout-mq/turnout/internal/shadowack"
	"github.com/turnout-mq/turnout/metadata"
)

func newShadowCommand(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "shadow",
		Short: "Start and stop the shadow groups of stress tests, and see what they do",
		Long: `Start and stop the shadow groups of stress tests, and see what they do.

A message with the stress mark goes to the shadow topic of its topic, and only the shadow groups of the groups read it. The
shadow group of a group runs in every instance that subscribes the group while a task enables it: a node
{shadow root}/{application}/{task}/{group} with {"enable":"1"}. "turnout stress run" sends marked messages.`,
		Example: `  turnout shadow topic order_topic
  turnout shadow enable order_service_consumer zpt_task_1 order_bil_group --wait 30s
  turnout stress run --topic order_topic --rate 200 --duration 30s
  turnout shadow disable order_service_consumer zpt_task_1 order_bil_group --wait 30s`,
	}
	cmd.AddCommand(newShadowList(a), newShadowSwitch(a, true), newShadowSwitch(a, false), newShadowRemove(a), newShadowStatus(a), newShadowTopic(a))
	return cmd
}

// shadowFlag is a flag of a shadow group.
type shadowFlag struct {
	Task    string         `json:"task"`
	Enabled bool           `json:"enabled"`
	Problem string         `json:"problem,omitempty"` // why what is in the node does not count
	Fields  metadata.Extra `json:"fields,omitempty"`  // others that the node has
	Path    string         `json:"path"`
}

func newShadowFlag(f metadata.ShadowFlagEntry) shadowFlag {
	return shadowFlag{Task: f.Task, Enabled: f.Enabled, Problem: f.Problem, Fields: f.Extra, Path: f.Node.Path}
}

// text says whether it is on, or why not.
func (f shadowFlag) text() string {
	switch {
	case f.Enabled:
		return "yes"
	case f.Problem != "":
		return "no: " + oneLine([]byte(f.Problem))
	}
	return "no"
}

// shadowRow is a line of "shadow list".
type shadowRow struct {
	App   string `json:"app"`
	Group string `json:"group"`
	shadowFlag
	Instances map[metadata.ShadowState]int `json:"instances"` // how many of the application say what of the group; "": nothing yet
}

func newShadowList(a *app) *cobra.Command {
	var app string
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List the flags of shadow groups",
		Long: `List the flags of shadow groups: whether each enables its group or why not, and what the running instances of the
application say of the group.`,
		Example: `  turnout shadow list
  turnout shadow list --app order_service_consumer`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.withStore(cmd.Context(), func(ctx context.Context, s *metadata.Store) error {
				rows, err := listShadow(ctx, s, app)
				if err != nil {
					return err
				}
				return a.show(rows, func(w io.Writer) {
					row(w, "APP", "TASK", "GROUP", "ENABLED", "INSTANCES")
					for _, r := range rows {
						row(w, r.App, r.Task, r.Group, r.text(), shadowack.Count(r.Instances))
					}
				})
			})
		},
	}
	cmd.Flags().StringVar(&app, "app", "", "only those of this application")
	return cmd
}

func listShadow(ctx context.Context, s *metadata.Store, app string) ([]shadowRow, error) {
	flags, err := s.ListShadowFlags(ctx, app)
	if err != nil {
		return nil, err
	}
	instances, err := s.ListInstances(ctx, app)
	if err != nil {
		return nil, err
	}
	rows := []shadowRow{}
	for _, f := range flags {
		r := shadowRow{App: f.App, Group: f.Group, shadowFlag: newShadowFlag(f), Instances: map[metadata.ShadowState]int{}}
		for _, i := range instances {
			if i.App == f.App {
				r.Instances[i.Shadow[f.Group].State]++
			}
		}
		rows = append(rows, r)
	}
	return rows, nil
}

func newShadowSwitch(a *app, on bool) *cobra.Command {
	var wait time.Duration
	cmd := &cobra.Command{
		Use:   "enable APP TASK GROUP...",
		Short: "Start the shadow groups of groups for a task",
		Long: `Start the shadow groups of groups for a task, in every running instance of the application and in those that come later.
Doubtful is said on standard error: a group that the metadata does not have, a topic without a shadow topic.

With --wait it returns when every running instance of the application has started them, and says meanwhile what it waits
for. The exit code is 6 when that takes too long; the flags stay on then. When no instance runs there is nothing to wait for:
that is said on standard error.`,
		Example: `  turnout shadow enable order_service_consumer zpt_task_1 order_bil_group
  turnout shadow enable order_service_consumer zpt_task_1 order_bil_group refund_group --wait 30s`,
		Args: cobra.MinimumNArgs(3),
		RunE: func(cmd *cobra.Command, args []string) error {
			if wait < 0 {
				return usagef("--wait %v: must not be below 0", wait)
			}
			return a.withOpenStore(cmd.Context(), func(s *metadata.Store) error {
				r, err := a.switchShadow(cmd.Context(), s, shadowSwitch{on: on, app: args[0], task: args[1], groups: args[2:], wait: wait})
				if r == nil {
					return err
				}
				return errors.Join(a.show(r, r.text), err)
			})
		},
	}
	until := "started"
	if !on {
		until = "stopped"
		cmd.Use, cmd.Short = "disable APP TASK GROUP...", "Stop the shadow groups of groups for a task"
		cmd.Long = `Stop the shadow groups of groups for a task. A group that another task enables goes on; that is said on standard error.
Listeners at work finish.

With --wait it returns when every running instance of the application has stopped them, and says meanwhile what it waits
for. The exit code is 6 when that takes too long; the flags stay off then.`
		cmd.Example = `  turnout shadow disable order_service_consumer zpt_task_1 order_bil_group
  turnout shadow disable order_service_consumer zpt_task_1 order_bil_group refund_group --wait 30s`
	}
	cmd.Flags().DurationVar(&wait, "wait", 0, "wait for so long until every running instance has "+until+" them (0: do not wait)")
	return cmd
}

func newShadowRemove(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "remove APP TASK GROUP...",
		Short: "Delete the flags of groups for a task",
		Long: `Delete the flags of groups for a task, and the task's node when nothing is left below it. A shadow group that is on stops by
that, as with disable. A group that another task enables goes on; that is said on standard error.`,
		Example: `  turnout shadow remove order_service_consumer zpt_task_1 order_bil_group
  turnout shadow remove order_service_consumer zpt_task_1 order_bil_group refund_group`,
		Args: cobra.MinimumNArgs(3),
		RunE: func(cmd *cobra.Command, args []string) error {
			p := shadowSwitch{app: args[0], task: args[1], groups: args[2:]}
			return a.withStore(cmd.Context(), func(ctx context.Context, s *metadata.Store) error {
				_, others, err := p.before(ctx, s)
				if err != nil {
					return err
				}
				if err := a.tellDoubts(ctx, s, p, others); err != nil {
					return err
				}
				paths := []string{}
				for _, group := range p.groups {
					if err := s.DeleteShadowFlag(ctx, p.app, p.task, group); err != nil {
						return err
					}
					paths = append(paths, s.ShadowPath(p.app, p.task, group))
				}
				return a.show(map[string][]string{"deleted": paths}, func(w io.Writer) {
					for _, path := range paths {
						fmt.Fprintf(w, "flag %s deleted\n", path)
					}
				})
			})
		},
	}
}

// shadowSwitch is what "shadow enable" and "shadow disable" were asked for.
type shadowSwitch struct {
	on        bool
	app, task string
	groups    []string
	wait      time.Duration
}

// shadowSwitchResult is what they print.
type shadowSwitchResult struct {
	App    string                `json:"app"`
	Task   string                `json:"task"`
	Groups []shadowSwitchedGroup `json:"groups"`
}

type shadowSwitchedGroup struct {
	Group     string             `json:"group"`
	Enabled   bool               `json:"enabled"`
	Changed   bool               `json:"changed"`
	Path      string             `json:"path"`
	Instances []shadowack.Report `json:"instances"` // of the application
}

func (r *shadowSwitchResult) text(w io.Writer) {
	for _, g := range r.Groups {
		is := "off"
		if g.Enabled {
			is = "on"
		}
		if !g.Changed {
			is += " already"
		}
		states := map[metadata.ShadowState]int{}
		for _, i := range g.Instances {
			states[i.State]++
		}
		fmt.Fprintf(w, "%s is %s for task %s (%s); instances of %s: %s\n", g.Group, is, r.Task, g.Path, r.App, shadowack.Count(states))
	}
}

// switchShadow writes the flags. A result with an error: they are written, and what was to be waited for has not come.
func (a *app) switchShadow(ctx context.Context, s *metadata.Store, p shadowSwitch) (*shadowSwitchResult, error) {
	writing, cancel := context.WithTimeout(ctx, a.settings.timeout)
	defer cancel()
	was, others, err := p.before(writing, s)
	if err != nil {
		return nil, err
	}
	if err := a.tellDoubts(writing, s, p, others); err != nil {
		return nil, err
	}
	r := &shadowSwitchResult{App: p.app, Task: p.task}
	for _, group := range p.groups {
		if err := s.PutShadowFlag(writing, p.app, p.task, group, p.on); err != nil {
			return nil, err
		}
		flag, known := was[group]
		r.Groups = append(r.Groups, shadowSwitchedGroup{Group: group, Enabled: p.on, Path: s.ShadowPath(p.app, p.task, group),
			Changed: !known || flag.Enabled != p.on || flag.Problem != ""})
	}
	instances, err := a.awaitShadow(ctx, s, p.app, p.wait, func(instances []metadata.InstanceEntry) (pending []string) {
		for _, group := range p.groups {
			if p.on {
				pending = append(pending, shadowack.NotStarted(instances, group, p.task)...)
			} else {
				pending = append(pending, shadowack.NotStopped(instances, group, p.task, others[group] != nil)...)
			}
		}
		return pending
	})
	if p.on && len(instances) == 0 && err == nil {
		fmt.Fprintf(a.stderr, "turnout: no instance of %s runs, so nobody consumes; those that start will follow the flag\n", p.app)
	}
	for i, g := range r.Groups {
		r.Groups[i].Instances = shadowack.Of(instances, g.Group, "")
	}
	return r, err
}

// tellDoubts says on standard error why shadow groups may not do what they are to do; others are the tasks that enable each, too.
func (a *app) tellDoubts(ctx context.Context, s *metadata.Store, p shadowSwitch, others map[string][]string) (err error) {
	for _, group := range p.groups {
		var doubts []string
		if p.on {
			if doubts, err = shadowDoubts(ctx, s, p.app, group); err != nil {
				return err
			}
		} else if tasks := others[group]; tasks != nil {
			doubts = []string{fmt.Sprintf("%s goes on: it is enabled by %s, too", group, strings.Join(tasks, ", "))}
		}
		for _, doubt := range doubts {
			fmt.Fprintf(a.stderr, "turnout: %s\n", doubt)
		}
	}
	return nil
}

// before reads the task's flags, and which other tasks enable the groups.
func (p shadowSwitch) before(ctx context.Context, s *metadata.Store) (own map[string]metadata.ShadowFlagEntry, others map[string][]string, err error) {
	for kind, names := range map[string][]string{"application": {p.app}, "task": {p.task}, "group": p.groups} {
		for _, name := range names {
			if err := metadata.CheckName(kind, name); err != nil {
				return nil, nil, err
			}
		}
	}
	flags, err := s.ListShadowFlags(ctx, p.app)
	if err != nil {
		return nil, nil, err
	}
	own, others = map[string]metadata.ShadowFlagEntry{}, map[string][]string{}
	for _, f := range flags {
		if f.Task == p.task {
			own[f.Group] = f
		} else if f.Enabled {
			others[f.Group] = append(others[f.Group], f.Task)
		}
	}
	for _, group := range p.groups {
		if _, known := own[group]; !known && !p.on {
			return nil, nil, fmt.Errorf("task %s of application %s has no flag for group %s: %w; turnout shadow list --app %s shows what there is", p.task, p.app, group, errs.ErrNotFound, p.app)
		}
	}
	return own, others, nil
}

// shadowDoubts is what keeps the shadow group of a group from consuming, as far as the metadata tells.
func shadowDoubts(ctx context.Context, s *metadata.Store, app, group string) ([]string, error) {
	g, _, err := s.GetGroup(ctx, group)
	switch {
	case errors.Is(err, errs.ErrUnknownGroup):
		return []string{fmt.Sprintf("there is no group %s in the metadata, so nobody can subscribe it; turnout group list shows what there is, turnout group put creates one", group)}, nil
	case invalid(err):
		return []string{flat(err)}, nil
	case err != nil:
		return nil, err
	}
	var doubts []string
	if g.App != "" && g.App != app {
		doubts = append(doubts, fmt.Sprintf("group %s belongs to application %s, whose flags are below %s/%s", group, g.App, s.ShadowRoot, g.App))
	}
	topics, err := groupTopics(ctx, s, g.Topics)
	if err != nil {
		return nil, err
	}
	clusters, err := s.ListClusters(ctx)
	if err != nil {
		return nil, err
	}
	derived, err := deriveShadow(g, topics)
	if err != nil && !errors.Is(err, errs.ErrNoShadow) {
		doubts = append(doubts, flat(err))
	}
	for _, t := range topics {
		side, err := lookShadow(ctx, s, t, clusters)
		if err != nil {
			return nil, err
		}
		offOnPurpose := !t.Settings.Shadow.Enabled && t.WishNode.Exists && len(derived.Topics) > 0
		if side.err != nil && !offOnPurpose {
			doubts = append(doubts, side.Error)
		}
	}
	return doubts, nil
}

// shadowLook is the time between two looks at the instances.
const shadowLook = 200 * time.Millisecond

// awaitShadow reads the instances of an application until pending, which names what is waited for, names nothing. With a
// limit of 0 it looks once. ErrTimeout, with the instances: it took too long.
func (a *app) awaitShadow(ctx context.Context, s *metadata.Store, app string, limit time.Duration, pending func([]metadata.InstanceEntry) []string) ([]metadata.InstanceEntry, error) {
	end := time.Now().Add(limit)
	told := ""
	for {
		look, cancel := context.WithTimeout(ctx, a.settings.timeout)
		instances, err := s.ListInstances(look, app)
		cancel()
		if err != nil || limit == 0 {
			return instances, err
		}
		missing := pending(instances)
		if len(missing) == 0 {
			return instances, nil
		}
		now := strings.Join(missing, "; ")
		if time.Now().After(end) {
			return instances, fmt.Errorf("%w: after %v still waiting for %s", errs.ErrTimeout, limit, now)
		}
		if now != told {
			fmt.Fprintf(a.stderr, "turnout: waiting for %s\n", now)
			told = now
		}
		select {
		case <-ctx.Done():
			return instances, ctx.Err()
		case <-time.After(shadowLook):
		}
	}
}
