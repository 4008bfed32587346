package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/turnout-mq/turnout/admin/server/api"
	"github.com/turnout-mq/turnout/admin/store"
	"github.com/turnout-mq/turnout/admin/stress"
	"github.com/turnout-mq/turnout/internal/count"
	"github.com/turnout-mq/turnout/internal/errs"
	"github.com/turnout-mq/turnout/internal/shadowack"
)

func newStressTask(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "task",
		Short: "Stress tasks of the platform: shadow groups that are started and stopped together",
		Long: `Stress tasks of the platform: shadow groups, perhaps of several applications, that are started and stopped together. A task ends by
itself at its time limit, when a guard trips (a group of production has too much unread or too many errors), and when its flags
are switched off by hand. It is asked for by a request; who has filed that, who owns all its applications, and who may operate
the platform, start, stop and remove it.`,
		Example: `  turnout stress task plan -f task.json
  turnout request new -f task.json
  turnout stress task start s-4 --wait 30s
  turnout stress run --topic order_topic --rate 200 --duration 30s
  turnout stress task stop s-4 --wait 30s`,
	}
	p := newPlatform(a, cmd)
	cmd.AddCommand(newStressTaskList(p), newStressTaskGet(p), newStressTaskPlan(p), newStressTaskHistory(p))
	for _, step := range stressSteps {
		cmd.AddCommand(newStressTaskStep(p, step))
	}
	return cmd
}

func stressPath(id string) string { return "/stress/" + url.PathEscape(id) }

func newStressTaskList(p *platform) *cobra.Command {
	var states []string
	var name string
	cmd := &cobra.Command{
		Use: "list", Short: "List stress tasks, the newest first", Args: cobra.NoArgs,
		Example: "  turnout stress task list --state starting,running\n  turnout stress task list --name zpt_task_1 --output json",
	}
	cmd.Flags().StringSliceVar(&states, "state", nil, "preparing, ready, starting, running, stopping, stopped, removing, removed; several with commas")
	cmd.Flags().StringVar(&name, "name", "", "of this name")
	limit := limitFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		most, err := limit()
		if err != nil {
			return err
		}
		q := url.Values{}
		if len(states) > 0 {
			q.Set("state", strings.Join(states, ","))
		}
		if name != "" {
			q.Set("name", name)
		}
		return p.with(cmd, 0, func(ctx context.Context, c *api.Client) error {
			all, err := pages[*store.StressTask](ctx, c, "/stress", q, most)
			if err != nil {
				return err
			}
			return p.show(all, func(w io.Writer) {
				row(w, "TASK", "NAME", "STATE", "APPLICATIONS", "APPLICANT", "RUNS", "LAST STARTED", "NOTE")
				for _, t := range all {
					row(w, t.ID, t.Name, t.State, strings.Join(t.Apps, ", "), t.Applicant, t.Runs, timeText(t.StartedAt), oneLineOrNone(firstOf(t.Waiting, t.Reason)))
				}
			})
		})
	}
	return cmd
}

func timeText(t *time.Time) string {
	if t == nil {
		return ""
	}
	return t.Local().Format(time.DateTime)
}

func newStressTaskGet(p *platform) *cobra.Command {
	return &cobra.Command{
		Use: "get ID", Short: "Show a stress task, its flags and guards, and what each running instance says", Args: cobra.ExactArgs(1),
		Example: "  turnout stress task get s-4\n  turnout stress task get s-4 --output json",
		RunE: func(cmd *cobra.Command, args []string) error {
			v := &stress.TaskView{}
			if err := p.with(cmd, 0, func(ctx context.Context, c *api.Client) error { return c.Read(ctx, stressPath(args[0]), nil, v) }); err != nil {
				return err
			}
			return p.showStress(v)
		},
	}
}

func (p *platform) showStress(v *stress.TaskView) error {
	return p.show(v, func(w io.Writer) {
		field(w, "task", v.ID+" ("+v.Name+")")
		field(w, "state", v.State)
		field(w, "request", v.Request+" by "+v.Applicant)
		field(w, "applications", strings.Join(v.Apps, ", "))
		if v.StartedAt != nil {
			field(w, "run", fmt.Sprintf("%d, started %s by %s, limit %s", v.Runs, timeText(v.StartedAt), v.StartedBy, timeText(v.EndsAt)))
		}
		if v.StoppedAt != nil {
			field(w, "ended", timeText(v.StoppedAt)+": "+v.Reason)
		}
		field(w, "waits", oneLineOrNone(v.Waiting))
		if len(v.Groups) > 0 {
			fmt.Fprintln(w)
			row(w, "GROUP", "APPLICATION", "FLAG", "ON", "INSTANCE", "STATE", "SINCE", "REASON")
		}
		for _, g := range v.Groups {
			on := "no"
			switch {
			case g.Enabled:
				on = "yes"
			case g.Problem != "":
				on = "no: " + oneLine([]byte(g.Problem))
			case !g.Exists:
				on = "no: it is gone"
			}
			if len(g.Others) > 0 {
				on += ", and by " + strings.Join(g.Others, ", ")
			}
			if len(g.Instances) == 0 {
				row(w, g.Group, g.App, g.Flag, on, "none runs", "", "", "")
			}
			for _, i := range g.Instances {
				since := ""
				if !i.Since.IsZero() {
					since = timeText(&i.Since)
				}
				row(w, g.Group, g.App, g.Flag, on, i.Instance, shadowack.StateText(i.State), since, oneLineOrNone(i.Reason))
			}
		}
		p.showStressTopics(w, v.Topics)
		if len(v.Looks) > 0 {
			fmt.Fprintln(w)
			row(w, "GUARDED GROUP", "LOOKED AT", "UNREAD", "RETRIES", "DEAD LETTERS", "ERRORS IN A MINUTE", "ERROR")
			for _, l := range v.Looks {
				row(w, l.Group, timeText(l.At), l.Unread, l.Retries, l.DeadLetters, l.Errors, oneLineOrNone(l.Error))
			}
		}
	})
}

func (p *platform) showStressTopics(w io.Writer, topics []store.StressTopic) {
	if len(topics) == 0 {
		return
	}
	fmt.Fprintln(w)
	row(w, "TOPIC", "SHADOW TOPIC", "CLUSTER", "MADE FOR THE TASK")
	for _, t := range topics {
		var made []string
		if t.MadeThere {
			made = append(made, "on the cluster, "+count.Of(t.Partitions, "partition", "partitions"))
		}
		if t.Made {
			made = append(made, "in ZooKeeper")
		}
		row(w, t.Topic, t.ShadowTopic, t.Cluster, firstOf(strings.Join(made, "; "), "no, it was there"))
	}
}

func newStressTaskPlan(p *platform) *cobra.Command {
	var file string
	cmd := &cobra.Command{
		Use: "plan", Short: "Show what a stress task would be made of; nothing is changed", Args: cobra.NoArgs,
		Long: `Show what a stress task would be made of: its flags, and which shadow topics would be created where. Nothing is changed. FILE is that of
turnout request new. The exit code is 5 when something keeps the task from being made.`,
		Example: `  turnout stress task plan -f task.json
  echo '{"stress":{"task":"zpt_task_1","groups":[{"group":"order_bil_group"}],"limitSeconds":600}}' | turnout stress task plan -f -`,
	}
	cmd.Flags().StringVarP(&file, "file", "f", "", "file with the request, or - for standard input")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if file == "" {
			return usagef("--file is missing: name a file, or - for standard input")
		}
		n, err := p.readRequest(file)
		if err != nil {
			return err
		}
		if n.Stress == nil {
			return fmt.Errorf("%w: --file %s: must ask for a stress task: {\"stress\":{\"task\":\"zpt_task_1\",\"groups\":[{\"group\":\"order_bil_group\"}],\"limitSeconds\":600}}", errs.ErrInvalid, file)
		}
		plan := &stress.TaskPlan{}
		err = p.with(cmd, preflightLimit, func(ctx context.Context, c *api.Client) error {
			return c.Change(ctx, http.MethodPost, "/stress/plan", 0, n.Stress, plan)
		})
		if err != nil {
			return err
		}
		if err := p.show(plan, func(w io.Writer) {
			row(w, "GROUP", "APPLICATION", "SHADOW GROUP", "FLAG")
			for _, g := range plan.Groups {
				row(w, g.Group, g.App, g.ShadowGroup, g.Flag)
			}
			p.showStressTopics(w, plan.Topics)
			for _, note := range plan.Notes {
				fmt.Fprintf(w, "! %s\n", oneLine([]byte(note)))
			}
		}); err != nil {
			return err
		}
		if len(plan.Problems) > 0 {
			return fmt.Errorf("%w: %s", errs.ErrConflict, strings.Join(plan.Problems, "; "))
		}
		return nil
	}
	return cmd
}

func newStressTaskHistory(p *platform) *cobra.Command {
	return &cobra.Command{
		Use: "history ID", Short: "Show what has happened to a stress task", Args: cobra.ExactArgs(1),
		Example: "  turnout stress task history s-4\n  turnout stress task history s-4 --output json",
		RunE: func(cmd *cobra.Command, args []string) error {
			var h struct{ Events []store.StressEvent }
			if err := p.with(cmd, 0, func(ctx context.Context, c *api.Client) error {
				return c.Read(ctx, stressPath(args[0])+"/events", nil, &h)
			}); err != nil {
				return err
			}
			return p.show(h.Events, func(w io.Writer) {
				row(w, "AT", "WHO", "WHAT", "DETAIL")
				for _, e := range h.Events {
					row(w, e.At.Local().Format(time.DateTime), e.Who, e.Kind, oneLineOrNone(e.Text))
				}
			})
		},
	}
}

// stressStep is something that is done to a task.
type stressStep struct {
	name, short, long string
	versioned         bool
	// until says that a task has come to where it shall be, or that it never will.
	until func(v *stress.TaskView) (done bool, failed error)
}

var stressSteps = []stressStep{
	{"start", "Start a stress task", `Start a stress task: its flags are switched on, and its time limit begins. It is refused while one of its guards trips, or can not look.

With --wait it returns when every running instance has started the shadow groups. The exit code is 6 when that takes too long; the
task runs on then.`, true, func(v *stress.TaskView) (bool, error) {
		if !slices.Contains([]store.StressState{store.StressStarting, store.StressRunning}, v.State) {
			return false, markedError{fmt.Errorf("%s has ended: %s", v.ID, v.Reason), errVerdict}
		}
		return v.State == store.StressRunning && len(v.Pending) == 0, nil
	}},
	{"stop", "Stop a stress task", `Stop a stress task: its flags are switched off. Listeners at work finish.

With --wait it returns when every running instance has stopped the shadow groups, but for those that other tasks keep on. The exit
code is 6 when that takes too long.`, false, func(v *stress.TaskView) (bool, error) {
		return v.State != store.StressStopping && len(v.Pending) == 0, nil
	}},
	{"remove", "Remove what was made for a stress task", `Remove what was made for a stress task that does not run: its flags, and the shadow topics that were missing when it was made, from
ZooKeeper and from their clusters, with the messages in them. What other tasks need stays. It waits for instances that use a shadow
topic: one that has sent to it gives it up one to two minutes after the last send. The history of the task stays.

With --wait it returns when all is removed. The exit code is 6 when that takes too long; it goes on.`, true, func(v *stress.TaskView) (bool, error) {
		return v.State == store.StressRemoved, nil
	}},
}

func newStressTaskStep(p *platform, step stressStep) *cobra.Command {
	var wait time.Duration
	cmd := &cobra.Command{
		Use: step.name + " ID", Short: step.short, Long: step.long, Args: cobra.ExactArgs(1),
		Example: fmt.Sprintf("  turnout stress task %s s-4\n  turnout stress task %s s-4 --wait 30s", step.name, step.name),
	}
	cmd.Flags().DurationVar(&wait, "wait", 0, "wait for so long until it is done (0: do not wait)")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if wait < 0 {
			return usagef("--wait %v: must not be below 0", wait)
		}
		v := &stress.TaskView{}
		err := p.with(cmd, preflightLimit, func(ctx context.Context, c *api.Client) error {
			var version int64
			if step.versioned {
				if err := c.Read(ctx, stressPath(args[0]), nil, v); err != nil {
					return err
				}
				version = v.Version
			}
			return c.Change(ctx, http.MethodPost, stressPath(args[0])+"/"+step.name, version, nil, v)
		})
		if err != nil {
			return err
		}
		var waited error
		if wait > 0 {
			if v, waited = p.awaitStress(cmd.Context(), v, step, wait); v == nil {
				return waited
			}
		}
		return errors.Join(p.showStress(v), waited)
	}
	return cmd
}

// awaitStress looks at a task until it is where it shall be. A task with an error: it has not come there.
func (p *platform) awaitStress(ctx context.Context, v *stress.TaskView, step stressStep, limit time.Duration) (*stress.TaskView, error) {
	c, err := p.client(limit)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	end := time.Now().Add(limit)
	told := ""
	for {
		done, err := step.until(v)
		if done || err != nil {
			return v, err
		}
		now := fmt.Sprintf("%s is %s", v.ID, v.State)
		if missing := firstOf(v.Waiting, strings.Join(v.Pending, "; ")); missing != "" {
			now += ", waiting for " + oneLine([]byte(missing))
		}
		if time.Now().After(end) {
			return v, fmt.Errorf("%w: after %v %s", errs.ErrTimeout, limit, now)
		}
		if now != told {
			fmt.Fprintf(p.stderr, "turnout: %s\n", now)
			told = now
		}
		select {
		case <-ctx.Done():
			return v, ctx.Err()
		case <-time.After(requestLook):
		}
		next := &stress.TaskView{}
		if err := c.Read(ctx, stressPath(v.ID), nil, next); err != nil {
			return nil, err
		}
		v = next
	}
}
