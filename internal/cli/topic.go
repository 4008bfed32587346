package cli

import (
	"context"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/turnout-mq/turnout/admin/inventory"
	"github.com/turnout-mq/turnout/broker"
	"github.com/turnout-mq/turnout/internal/count"
	"github.com/turnout-mq/turnout/metadata"
)

func newTopicCommand(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "topic",
		Short: "Look at and move topics",
	}
	cmd.AddCommand(newTopicGet(a), newTopicList(a), newTopicPut(a), newTopicOpen(a), newTopicDelete(a))
	return cmd
}

// topicView is what "topic get" prints.
type topicView struct {
	inventory.TopicFields
	Clusters     []topicCluster          `json:"clusters"`
	Stays        []stayState             `json:"stays"` // of the route in force
	Participants []inventory.Participant `json:"participants"`
	Groups       []groupProgress         `json:"groups"`
	Shadow       *shadowSide             `json:"shadow,omitempty"`   // not of a shadow topic
	ShadowOf     string                  `json:"shadowOf,omitempty"` // the topic that it is the shadow of, as far as that is known

	state *topicState
}

// topicCluster is a cluster that the wish or the route names.
type topicCluster struct {
	Name      string      `json:"name"`
	Kind      broker.Kind `json:"kind"`
	Addresses []string    `json:"addresses"`
	Physical  string      `json:"physicalTopic"`
	Error     string      `json:"error,omitempty"`
}

func newTopicGet(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "get TOPIC",
		Short: "Show where a topic is, who has applied that, and who still holds what it left",
		Long: `Show the wish and the route of a topic and whether the one answers the other; the clusters that they name; the stays, and
which registered group has not finished which; the running instances that take part, and whether they have applied the
route; how far each registered group is, and where messages with the stress mark go. Of a shadow topic the groups are the shadow
groups that read it. Positions and ends are asked of the clusters; one that does not answer within half
of --timeout is said not to.`,
		Example: `  turnout topic get order_topic
  turnout topic get order_topic --output json`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.withStore(cmd.Context(), func(ctx context.Context, s *metadata.Store) error {
				v, err := a.viewTopic(ctx, s, args[0])
				if err != nil {
					return err
				}
				return a.show(v, v.text)
			})
		},
	}
}

func (a *app) viewTopic(ctx context.Context, s *metadata.Store, name string) (*topicView, error) {
	clusters, err := readClusters(ctx, s)
	if err != nil {
		return nil, err
	}
	state, err := readTopic(ctx, s, name, entryNames(clusters))
	if err != nil {
		return nil, err
	}
	v := &topicView{TopicFields: state.Fields(), Clusters: resolve(state, clusters), state: state}
	if v.Participants, err = state.Participants(ctx, s); err != nil {
		return nil, err
	}
	if !state.Settings.IsShadow(name) {
		side, err := lookShadow(ctx, s, state, entryNames(clusters))
		if err != nil {
			return nil, err
		}
		v.Shadow = &side
	} else if v.ShadowOf, err = shadowOf(ctx, s, state); err != nil {
		return nil, err
	}
	groups, err := topicGroups(ctx, s, state)
	if err != nil {
		return nil, err
	}
	fleet := a.newFleet(ctx, s)
	defer fleet.close()
	v.Groups, err = forEach(ctx, groups, func(ctx context.Context, g metadata.Group) (groupProgress, error) {
		return fleet.askGroup(ctx, g, state)
	})
	v.Stays = state.stays(v.Groups)
	return v, err
}

// topicGroups are the groups that read a topic; the derived ones of a shadow topic.
func topicGroups(ctx context.Context, s *metadata.Store, t *topicState) ([]metadata.Group, error) {
	entries, err := readGroups(ctx, s)
	if err != nil {
		return nil, err
	}
	var groups []metadata.Group
	for _, e := range entries {
		if e.Document != nil && slices.Contains(e.Document.Topics, t.Name) {
			groups = append(groups, *e.Document)
		}
	}
	if t.Settings.IsShadow(t.Name) {
		readers, err := shadowReaders(ctx, s, t.Name)
		if err != nil {
			return nil, err
		}
		for _, group := range slices.Sorted(maps.Keys(readers)) {
			groups = append(groups, readers[group].Group)
		}
	}
	return groups, nil
}

func entryNames[T any](entries []*entry[T]) []string {
	names := make([]string, len(entries))
	for i, e := range entries {
		names[i] = e.Name
	}
	return names
}

// resolve looks up the clusters that wish and route name.
func resolve(t *topicState, clusters []*entry[metadata.Cluster]) []topicCluster {
	var names []string
	if t.InForce != nil {
		names = t.InForce.Clusters()
	}
	if !t.WishInvalid() && !slices.Contains(names, t.Wish.Cluster) {
		names = append(names, t.Wish.Cluster)
	}
	out := []topicCluster{}
	for _, name := range names {
		c := topicCluster{Name: name, Physical: t.Settings.Physical(t.Name, name), Error: "there is no such cluster; create it with turnout cluster put"}
		if i := slices.IndexFunc(clusters, func(e *entry[metadata.Cluster]) bool { return e.Name == name }); i >= 0 {
			c.Error = clusters[i].Error
			if doc := clusters[i].Document; doc != nil {
				c.Kind, c.Addresses = doc.Kind, doc.Addresses
			}
		}
		out = append(out, c)
	}
	return out
}

func (v *topicView) text(w io.Writer) {
	t := v.state
	field(w, "topic", v.Name)
	if t.WishInvalid() {
		field(w, "wish", fmt.Sprintf("invalid (version %d, zxid %s)", t.WishNode.Version, t.WishNode.Mzxid))
	} else {
		field(w, "wish", fmt.Sprintf("%s (version %d, zxid %s)", t.Wish.Cluster, t.WishNode.Version, t.WishNode.Mzxid))
	}
	switch r := t.Route; {
	case !t.RouteNode.Exists:
		field(w, "route", "none yet")
	case r == nil:
		field(w, "route", fmt.Sprintf("invalid (version %d, zxid %s)", t.RouteNode.Version, t.RouteNode.Mzxid))
	default:
		text := fmt.Sprintf("write %s, order %s (version %d, zxid %s)", r.Write, r.Order, t.RouteNode.Version, t.RouteNode.Mzxid)
		if r.Hold != nil {
			text += fmt.Sprintf(", sends held for %d ms", r.Hold.MS)
		}
		if len(r.Warm) > 0 {
			text += ", warm " + strings.Join(r.Warm, " ")
		}
		if r.Migration != "" {
			text += ", migration " + r.Migration
		}
		field(w, "route", text)
	}
	switch {
	case t.Err != nil:
		field(w, "not valid", strings.ReplaceAll(t.Err.Error(), "\n", "; ")+"; instances go on with the last good one")
	case t.Answered:
		field(w, "answered", "yes")
	case len(v.Participants) == 0:
		field(w, "answered", "no; the first instance that uses the topic will complete it")
	default:
		field(w, "answered", "not yet; see the participants' errors")
	}
	if t.SettingsNode.Exists {
		field(w, "settings", compact(t.Settings))
	}
	if v.Shadow != nil {
		field(w, "shadow topic", v.Shadow)
	} else {
		field(w, "shadow of", v.ShadowOf)
	}

	fmt.Fprintln(w)
	row(w, "CLUSTER", "KIND", "ADDRESSES", "TOPIC THERE")
	for _, c := range v.Clusters {
		row(w, c.Name, c.Kind, strings.Join(c.Addresses, ","), c.Physical, c.Error)
	}

	fmt.Fprintln(w)
	row(w, "STAY", "START", "END", "HELD BY")
	for _, s := range v.Stays {
		var held []string
		for _, h := range s.heldBy {
			held = append(held, h.String())
		}
		end := offsets(s.stay.End, "open")
		if s.write {
			end = "open, written"
		}
		row(w, s.stay.Cluster, offsets(s.stay.Start, "first"), end, strings.Join(held, ", "))
	}

	fmt.Fprintln(w)
	if len(v.Participants) == 0 {
		fmt.Fprintln(w, "no instance uses the topic now")
	} else {
		row(w, "PARTICIPANT", "APPLIED", "WRITES", "IN FLIGHT", "GROUPS", "ERROR")
	}
	for _, p := range v.Participants {
		if p.Document == nil {
			row(w, p.Instance, "-", "-", "-", "-", "invalid: "+p.Error)
			continue
		}
		applied := "yes"
		if !p.Applied {
			applied = "no (" + p.Document.Zxid.String() + ")"
		}
		text := ""
		if p.Document.Error != "" {
			text = oneLine([]byte(p.Document.Error))
		}
		row(w, p.Instance, applied, p.Document.Write, inflight(p.Document), participation(p.Document), text)
	}

	fmt.Fprintln(w)
	if len(v.Groups) == 0 {
		fmt.Fprintln(w, "no group is registered for the topic")
		return
	}
	progressTable(w, v.Groups, false)
}

// progressTable prints how far groups are.
func progressTable(w io.Writer, groups []groupProgress, topics bool) {
	first := "GROUP"
	if topics {
		first = "TOPIC"
	}
	row(w, first, "CLUSTER", "POSITION", "END", "UNREAD", "DELAYED", "RETRIES", "DEAD LETTERS")
	for _, g := range groups {
		name := g.Group
		if topics {
			name = g.Topic
		}
		for _, p := range g.Clusters {
			if p.Error != "" {
				row(w, name, p.Cluster, oneLine([]byte(p.Error)))
				continue
			}
			row(w, name, p.Cluster, offsets(p.Position, "none"), offsets(p.End, "none"), p.Unread, p.Delayed, p.Retries, p.DeadLetters)
		}
	}
}

// offsets shows the offsets of a few partitions, or the sum of many.
func offsets(o broker.Offsets, none string) string {
	switch {
	case len(o) == 0:
		return none
	case len(o) <= 8:
		return compact(o)
	}
	var sum int64
	for _, offset := range o {
		sum += offset
	}
	return fmt.Sprintf("%d in %s", sum, count.Of(len(o), "partition", "partitions"))
}

func inflight(p *metadata.Participant) string {
	var parts []string
	for _, c := range slices.Sorted(maps.Keys(p.Inflight)) {
		if n := p.Inflight[c]; n > 0 {
			parts = append(parts, fmt.Sprintf("%s %d", c, n))
		}
	}
	return strings.Join(parts, ", ")
}

func participation(p *metadata.Participant) string {
	var parts []string
	for _, g := range slices.Sorted(maps.Keys(p.Groups)) {
		for _, c := range slices.Sorted(maps.Keys(p.Groups[g])) {
			parts = append(parts, fmt.Sprintf("%s: %s %s", g, c, p.Groups[g][c]))
		}
	}
	return strings.Join(parts, ", ")
}

func newTopicList(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List the topics and where they are",
		Long:  "List the topics and where they are.\n\n" + whichIsAsked,
		Example: `  turnout topic list
  turnout topic list --app order_service --output json
  turnout topic list --cluster kafka-a --direct`,
		Args: cobra.NoArgs,
	}
	l := newListing(a, cmd)
	cmd.Flags().StringVar(&l.filter.App, "app", "", "only those of this application")
	cmd.Flags().StringVar(&l.filter.Cluster, "cluster", "", "only those that are, were or shall be on this cluster")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		topics, err := list(cmd, l, "/topics", (*inventory.Inventory).Topics)
		if err != nil {
			return err
		}
		return a.show(topics, func(w io.Writer) {
			row(w, "TOPIC", "APP", "CLUSTER", "KIND", "OPEN STAYS", "PARTICIPANTS", "NOTE")
			for _, t := range topics {
				row(w, t.Name, t.App, t.Cluster, t.Kind, strings.Join(t.OpenStays, ", "), fmt.Sprintf("%d of %d applied", t.Applied, t.Participants), topicNote(t))
			}
		})
	}
	return cmd
}

// topicNote says what is to be seen to.
func topicNote(t *inventory.TopicState) string {
	switch {
	case t.State == inventory.Invalid && t.Wish != nil && t.Wish.Document == nil:
		return "wish not valid"
	case t.State == inventory.Invalid && t.Route != nil && t.Route.Document == nil:
		return "route not valid"
	case t.State == inventory.Invalid && t.Wish != nil:
		return "settings not valid"
	case t.State == inventory.Unanswered:
		return "wish not answered yet"
	case t.State == inventory.Settled && t.Kind == "":
		return "cluster unknown"
	}
	return stateNote(t.State)
}

// stateNote says what is to be seen to, of topics, groups and clusters.
func stateNote(s inventory.State) string {
	switch s {
	case inventory.Creating:
		return "being created"
	case inventory.Deleting:
		return "being deleted"
	case inventory.Missing:
		return "gone from ZooKeeper, see turnout drift list"
	case inventory.Invalid:
		return "not valid"
	case inventory.Unanswered, inventory.Moving, inventory.Settled:
	}
	return ""
}
