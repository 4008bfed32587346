package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/spf13/cobra"

	"github.com/turnout-mq/turnout/admin/requests"
	"github.com/turnout-mq/turnout/admin/server/api"
)

func newOffsetsCommand(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "offsets",
		Short: "Positions of groups: what a reset would do",
	}
	p := newPlatform(a, cmd)
	cmd.AddCommand(newOffsetsPlan(p))
	return cmd
}

func newOffsetsPlan(p *platform) *cobra.Command {
	var spec requests.OffsetsSpec
	var at string
	cmd := &cobra.Command{
		Use: "plan GROUP TOPIC", Short: "Show what a reset of a group's positions would do, and change nothing", Args: cobra.ExactArgs(2),
		Long: `Show what a reset of a group's positions would do, partition by partition, and what is in its way (exit code 7). Nothing is changed:
the reset itself is a request, whose document is shown. It is carried out only while the group is paused and nobody is a member.`,
		Example: `  turnout offsets plan order_bil_group order_topic --to earliest
  turnout offsets plan order_bil_group order_topic --time 2026-11-22T10:00:00Z
  turnout offsets plan order_bil_group order_topic --offset 0=1200,1=1187 --cluster kafka-a`,
	}
	f := cmd.Flags()
	f.StringVar(&spec.To, "to", "", "earliest or latest")
	f.StringVar(&at, "time", "", "to the first message that was stored then or later, like 2026-11-22T10:00:00Z")
	f.StringToInt64Var(&spec.Offsets, "offset", nil, "partition=offset of the next message to be read; other partitions stay")
	f.StringVar(&spec.Cluster, "cluster", "", "on this cluster (default: the one that the topic is on)")
	cmd.MarkFlagsOneRequired("to", "time", "offset")
	cmd.MarkFlagsMutuallyExclusive("to", "time", "offset")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		spec.Group, spec.Topic = args[0], args[1]
		switch {
		case at != "":
			moment, err := time.Parse(time.RFC3339, at)
			if err != nil {
				return usagef("--time %q: must be like 2026-11-22T10:00:00Z", at)
			}
			spec.To, spec.Time = requests.ToTime, &moment
		case len(spec.Offsets) > 0:
			spec.To = requests.ToOffsets
		case spec.To != requests.ToEarliest && spec.To != requests.ToLatest:
			return usagef("--to %q: must be earliest or latest", spec.To)
		}
		return p.with(cmd, preflightLimit, func(ctx context.Context, c *api.Client) error {
			plan := &requests.OffsetsPlan{}
			if err := c.Change(ctx, http.MethodPost, "/offsets/plan", 0, spec, plan); err != nil {
				return err
			}
			if err := p.show(plan, func(w io.Writer) { offsetsTable(w, spec, plan) }); err != nil {
				return err
			}
			if len(plan.Problems) > 0 {
				return markedError{errors.New("the reset can not be done now: see what is in the way"), errVerdict}
			}
			return nil
		})
	}
	return cmd
}

func offsetsTable(w io.Writer, spec requests.OffsetsSpec, plan *requests.OffsetsPlan) {
	field(w, "group", plan.Group)
	field(w, "topic", plan.Topic)
	field(w, "cluster", plan.Cluster)
	fmt.Fprintln(w)
	row(w, "PARTITION", "NOW", "TO", "CHANGE", "FIRST", "END")
	for _, c := range plan.Partitions {
		now, change := "none", ""
		if c.Now != nil {
			now, change = fmt.Sprint(*c.Now), fmt.Sprintf("%+d", c.To-*c.Now)
		}
		row(w, c.Partition, now, c.To, change, c.First, c.End)
	}
	fmt.Fprintln(w)
	for _, problem := range plan.Problems {
		field(w, "in the way", problem)
	}
	if doc, err := json.Marshal(requests.New{Offsets: &spec}); err == nil {
		fmt.Fprintf(w, "ask for it: echo '%s' | turnout request new -f -\n", doc)
	}
}
