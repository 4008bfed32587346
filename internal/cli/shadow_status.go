package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/turnout-mq/turnout/admin/inventory"
	"github.com/turnout-mq/turnout/internal/errs"
	"github.com/turnout-mq/turnout/internal/shadowack"
	"github.com/turnout-mq/turnout/metadata"
)

// shadowStatus is all that there is to be said of the shadow group of a group.
type shadowStatus struct {
	App       string              `json:"app"`
	Group     string              `json:"group"`
	Enabled   bool                `json:"enabled"` // by at least one task
	Flags     []shadowFlag        `json:"flags"`
	Instances []shadowack.Report  `json:"instances"` // of the application
	Topics    []shadowTopicStatus `json:"topics"`    // of the group
	Notes     []string            `json:"notes"`     // what keeps it from consuming
}

// shadowTopicStatus is how far the shadow group is with the shadow topic of a topic.
type shadowTopicStatus struct {
	Topic string `json:"topic"`
	shadowSide
	Clusters []progress `json:"clusters"`

	participants []inventory.Participant // of the shadow topic
}

func newShadowStatus(a *app) *cobra.Command {
	var wait time.Duration
	cmd := &cobra.Command{
		Use:   "status APP [GROUP]",
		Short: "Show what shadow groups do, and what keeps them from consuming",
		Long: `Show what the shadow groups of an application's groups do: which tasks enable each, what each running instance says of it,
where its shadow topics are and how far it is there. What keeps it from consuming is named with its remedy. Without
GROUP: of all groups that have a flag.

With --wait it returns when every running instance has done what the flags say, and says meanwhile what it waits for. The
exit code is 6 when that takes too long.`,
		Example: `  turnout shadow status order_service_consumer
  turnout shadow status order_service_consumer order_bil_group --wait 30s`,
		Args: cobra.RangeArgs(1, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			if wait < 0 {
				return usagef("--wait %v: must not be below 0", wait)
			}
			group := ""
			if len(args) == 2 {
				group = args[1]
			}
			return a.withOpenStore(cmd.Context(), func(s *metadata.Store) error {
				all, err := a.shadowStatus(cmd.Context(), s, args[0], group, wait)
				if all == nil {
					return err
				}
				return errors.Join(a.show(all, func(w io.Writer) {
					for n, st := range all {
						if n > 0 {
							fmt.Fprintln(w)
						}
						st.text(w)
					}
					if len(all) == 0 {
						fmt.Fprintf(w, "there is no flag below %s/%s; turnout shadow enable %s TASK GROUP writes one\n", s.ShadowRoot, args[0], args[0])
					}
				}), err)
			})
		},
	}
	cmd.Flags().DurationVar(&wait, "wait", 0, "wait for so long until every running instance has done what the flags say (0: do not wait)")
	return cmd
}

// shadowStatus tells of one group, or of all with a flag. With an error and a result it waited in vain.
func (a *app) shadowStatus(ctx context.Context, s *metadata.Store, app, group string, wait time.Duration) ([]*shadowStatus, error) {
	flags, err := a.shadowFlags(ctx, s, app, group)
	if err != nil {
		return nil, err
	}
	instances, waiting := a.awaitShadow(ctx, s, app, wait, func(instances []metadata.InstanceEntry) (pending []string) {
		for _, group := range slices.Sorted(maps.Keys(flags)) {
			if isEnabled(flags[group]) {
				pending = append(pending, shadowack.NotStarted(instances, group, "")...)
			} else {
				pending = append(pending, shadowack.NotStopped(instances, group, "", false)...)
			}
		}
		return pending
	})
	if waiting != nil && !errors.Is(waiting, errs.ErrTimeout) {
		return nil, waiting
	}
	ctx, cancel := context.WithTimeout(ctx, a.settings.timeout)
	defer cancel()
	fleet := a.newFleet(ctx, s)
	defer fleet.close()
	all, err := forEach(ctx, slices.Sorted(maps.Keys(flags)), func(ctx context.Context, group string) (*shadowStatus, error) {
		unflagged := ""
		if len(flags[group]) == 0 {
			unflagged = s.ShadowRoot + "/" + app
		}
		st := &shadowStatus{App: app, Group: group, Enabled: isEnabled(flags[group]), Flags: flags[group], Instances: shadowack.Of(instances, group, unflagged)}
		if err := st.look(ctx, s, fleet); err != nil {
			return nil, err
		}
		return st, nil
	})
	if err != nil {
		return nil, err
	}
	return all, waiting
}

// shadowFlags are the flags of an application by group, of one group if that is named.
func (a *app) shadowFlags(ctx context.Context, s *metadata.Store, app, group string) (map[string][]shadowFlag, error) {
	if err := metadata.CheckName("application", app); err != nil {
		return nil, err
	}
	byGroup := map[string][]shadowFlag{}
	if group != "" {
		if err := metadata.CheckName("group", group); err != nil {
			return nil, err
		}
		byGroup[group] = []shadowFlag{}
	}
	ctx, cancel := context.WithTimeout(ctx, a.settings.timeout)
	defer cancel()
	flags, err := s.ListShadowFlags(ctx, app)
	for _, f := range flags {
		if group == "" || f.Group == group {
			byGroup[f.Group] = append(byGroup[f.Group], newShadowFlag(f))
		}
	}
	return byGroup, err
}

func isEnabled(flags []shadowFlag) bool {
	return slices.ContainsFunc(flags, func(f shadowFlag) bool { return f.Enabled })
}

// look fills in the topics and the notes.
func (st *shadowStatus) look(ctx context.Context, s *metadata.Store, fleet *fleet) error {
	st.Topics = []shadowTopicStatus{}
	doubts, err := shadowDoubts(ctx, s, st.App, st.Group)
	if err != nil {
		return err
	}
	st.note(s.ShadowRoot)
	st.Notes = append(st.Notes, doubts...)
	g, _, err := s.GetGroup(ctx, st.Group)
	switch {
	case errors.Is(err, errs.ErrUnknownGroup), invalid(err):
		return nil // as the doubts say
	case err != nil:
		return err
	}
	topics, err := groupTopics(ctx, s, g.Topics)
	if err != nil {
		return err
	}
	clusters, err := s.ListClusters(ctx)
	if err != nil {
		return err
	}
	derived, _ := deriveShadow(g, topics) // the doubts say what is wrong
	st.Topics, err = forEach(ctx, topics, func(ctx context.Context, t *topicState) (shadowTopicStatus, error) {
		line := shadowTopicStatus{Topic: t.Name, Clusters: []progress{}}
		var err error
		if line.shadowSide, err = lookShadow(ctx, s, t, clusters); err != nil || line.err != nil || derived.Of[line.ShadowTopic] != t.Name {
			return line, err
		}
		done, err := fleet.askGroup(ctx, derived.Group, line.state)
		if err != nil {
			return line, err
		}
		line.Clusters = done.Clusters
		line.participants, err = line.state.Participants(ctx, s)
		return line, err
	})
	for _, t := range st.Topics {
		for _, p := range t.participants {
			if p.Document != nil && p.Document.Error != "" {
				st.Notes = append(st.Notes, fmt.Sprintf("%s says of %s: %s", p.Instance, t.ShadowTopic, p.Document.Error))
			}
		}
	}
	return err
}

// note says what flags and instances tell about why nothing is consumed.
func (st *shadowStatus) note(root string) {
	st.Notes = []string{}
	if !st.Enabled {
		st.Notes = append(st.Notes, fmt.Sprintf("it is off: no task enables it below %s/%s; turnout shadow enable %s TASK %s", root, st.App, st.App, st.Group))
		for _, f := range st.Flags {
			if f.Problem != "" {
				st.Notes = append(st.Notes, fmt.Sprintf("the flag %s does not count: %s", f.Path, f.Problem))
			}
		}
	}
	subscribed := false
	for _, i := range st.Instances {
		subscribed = subscribed || i.State != metadata.ShadowIgnored
	}
	switch {
	case len(st.Instances) == 0:
		st.Notes = append(st.Notes, fmt.Sprintf("no instance of %s runs; those that do follow the flags below %s/%s at any time; turnout instances shows what runs", st.App, root, st.App))
	case st.Enabled && !subscribed:
		st.Notes = append(st.Notes, fmt.Sprintf("no running instance of %s subscribes %s", st.App, st.Group))
	}
}

func (st *shadowStatus) text(w io.Writer) {
	var on []string
	for _, f := range st.Flags {
		if f.Enabled {
			on = append(on, f.Task)
		}
	}
	text := "off"
	if on != nil {
		text = "on by " + strings.Join(on, ", ")
	}
	fmt.Fprintf(w, "group %s of %s: %s\n", st.Group, st.App, text)
	if len(st.Instances) > 0 {
		fmt.Fprintln(w)
		row(w, "INSTANCE", "STATE", "SINCE", "TASKS", "REASON")
	}
	for _, i := range st.Instances {
		since := ""
		if !i.Since.IsZero() {
			since = i.Since.Local().Format(time.DateTime)
		}
		reason := ""
		if i.Reason != "" {
			reason = oneLine([]byte(i.Reason))
		}
		row(w, i.Instance, shadowack.StateText(i.State), since, strings.Join(i.Tasks, ", "), reason)
	}
	if len(st.Topics) > 0 {
		fmt.Fprintln(w)
		row(w, "TOPIC", "SHADOW TOPIC", "CLUSTER", "GROUP THERE", "POSITION", "END", "UNREAD", "DELAYED", "RETRIES", "DEAD LETTERS")
	}
	for _, t := range st.Topics {
		if len(t.Clusters) == 0 {
			row(w, t.Topic, "none", "", "", "", "", "", "", "", "")
		}
		for _, p := range t.Clusters {
			if p.Error != "" {
				row(w, t.Topic, t.ShadowTopic, p.Cluster, p.Group, oneLine([]byte(p.Error)))
				continue
			}
			row(w, t.Topic, t.ShadowTopic, p.Cluster, p.Group, offsets(p.Position, "none"), offsets(p.End, "none"), p.Unread, p.Delayed, p.Retries, p.DeadLetters)
		}
	}
	if len(st.Notes) > 0 {
		fmt.Fprintln(w)
	}
	for _, n := range st.Notes {
		fmt.Fprintf(w, "! %s\n", oneLine([]byte(n)))
	}
}
