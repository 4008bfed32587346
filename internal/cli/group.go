package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/turnout-mq/turnout/admin/inventory"
	"github.com/turnout-mq/turnout/broker"
	"github.com/turnout-mq/turnout/internal/errs"
	"github.com/turnout-mq/turnout/metadata"
)

func newGroupCommand(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "group",
		Short: "Look at and change consumer groups",
	}
	cmd.AddCommand(newGroupGet(a), newGroupList(a), newGroupPut(a), newGroupDelete(a))
	return cmd
}

func readGroups(ctx context.Context, s *metadata.Store) ([]*entry[metadata.Group], error) {
	names, err := s.ListGroups(ctx)
	if err != nil {
		return nil, err
	}
	return listEntries(ctx, names, s.GetGroup)
}

// groupView is what "group get" prints.
type groupView struct {
	*entry[metadata.Group]
	Topics []groupProgress `json:"topics"`
	Shadow *groupShadow    `json:"shadow"`
}

// groupShadow is the shadow group of a group.
type groupShadow struct {
	Names       map[string]string `json:"names"` // shadow topic → name on the clusters
	Concurrency int               `json:"concurrency"`
	Rate        float64           `json:"rate"`
	Error       string            `json:"error,omitempty"` // why there is none
}

func newGroupShadow(g metadata.Group, topics []*topicState) *groupShadow {
	derived, err := deriveShadow(g, topics)
	if err != nil {
		return &groupShadow{Error: flat(err)}
	}
	return &groupShadow{Names: derived.Names, Concurrency: derived.Concurrency, Rate: derived.Rate}
}

func newGroupGet(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "get GROUP",
		Short: "Show a group and how far it is",
		Long: `Show a group and, for each topic and cluster that it reads or may still have to read, its position, the end, and how many
messages are unread, delayed, waiting for a retry, and dead letters. The clusters are asked; one that does not answer
within half of --timeout is said not to.`,
		Example: `  turnout group get order_bil_group`,
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.withStore(cmd.Context(), func(ctx context.Context, s *metadata.Store) error {
				g, n, err := s.GetGroup(ctx, args[0])
				if err != nil {
					return remedy(err, errs.ErrUnknownGroup, `"turnout group list" shows what there is, "turnout group put" creates one`)
				}
				v := groupView{entry: inventory.NewEntry(args[0], g, n)}
				topics, err := groupTopics(ctx, s, g.Topics)
				if err != nil {
					return err
				}
				v.Shadow = newGroupShadow(g, topics)
				fleet := a.newFleet(ctx, s)
				defer fleet.close()
				v.Topics, err = forEach(ctx, topics, func(ctx context.Context, t *topicState) (groupProgress, error) {
					return fleet.askGroup(ctx, g, t)
				})
				if err != nil {
					return err
				}
				return a.show(v, func(w io.Writer) { v.text(w, g) })
			})
		},
	}
}

// groupTopics reads topics; one that is gone has no route.
func groupTopics(ctx context.Context, s *metadata.Store, names []string) ([]*topicState, error) {
	clusters, err := s.ListClusters(ctx)
	if err != nil {
		return nil, err
	}
	return forEach(ctx, names, func(ctx context.Context, name string) (*topicState, error) {
		t, err := readTopic(ctx, s, name, clusters)
		if errors.Is(err, errs.ErrUnknownTopic) {
			return newTopicState(name), nil
		}
		return t, err
	})
}

func (v groupView) text(w io.Writer, g metadata.Group) {
	field(w, "group", g.Name)
	field(w, "version", fmt.Sprintf("%d (zxid %s)", v.Version, v.Zxid))
	field(w, "app", g.App)
	field(w, "start", g.Start)
	field(w, "order", g.Order)
	field(w, "concurrency", fmt.Sprintf("%d an instance", g.Concurrency))
	if g.Rate > 0 {
		field(w, "rate", fmt.Sprintf("%v a second an instance", g.Rate))
	}
	if g.Paused {
		field(w, "paused", "yes")
	}
	field(w, "tags", g.Tags)
	field(w, "retries", fmt.Sprintf("at most %d", g.Retry.Max))
	for _, topic := range g.Topics {
		field(w, "name for "+topic, g.Physical(topic))
	}
	if len(g.Extra) > 0 {
		field(w, "unknown fields", compact(g.Extra))
	}
	v.Shadow.text(w, g)
	fmt.Fprintln(w)
	for _, t := range v.Topics {
		if len(t.Clusters) == 0 {
			fmt.Fprintf(w, "topic %s: there is no such topic, or its route is not valid\n", t.Topic)
		}
	}
	progressTable(w, v.Topics, true)
}

func (s *groupShadow) text(w io.Writer, g metadata.Group) {
	if s.Error != "" {
		field(w, "shadow group", "none: "+oneLine([]byte(s.Error)))
		return
	}
	limit := fmt.Sprintf("%d at once an instance", s.Concurrency)
	if s.Rate > 0 {
		limit += fmt.Sprintf(", %v a second an instance", s.Rate)
	}
	field(w, "shadow group", limit+"; turnout shadow status "+defaultText(g.App, "APP")+" "+g.Name+" shows it")
	for _, topic := range slices.Sorted(maps.Keys(s.Names)) {
		field(w, "shadow name for "+topic, s.Names[topic])
	}
}

func defaultText(text, otherwise string) string {
	if text == "" {
		return otherwise
	}
	return text
}

func newGroupList(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List the groups",
		Long:  "List the groups.\n\n" + whichIsAsked,
		Example: `  turnout group list
  turnout group list --topic order_topic`,
		Args: cobra.NoArgs,
	}
	l := newListing(a, cmd)
	cmd.Flags().StringVar(&l.filter.App, "app", "", "only those of this application")
	cmd.Flags().StringVar(&l.filter.Topic, "topic", "", "only those that read this topic")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		groups, err := list(cmd, l, "/groups", (*inventory.Inventory).Groups)
		if err != nil {
			return err
		}
		return a.show(groups, func(w io.Writer) {
			row(w, "GROUP", "APP", "TOPICS", "START", "ORDER", "CONCURRENCY", "RATE", "PAUSED", "VERSION", "NOTE")
			for _, e := range groups {
				if g := e.Document; g != nil {
					row(w, e.Name, e.App, strings.Join(g.Topics, ","), g.Start, g.Order, g.Concurrency, g.Rate, g.Paused, e.Version, stateNote(e.State))
				} else {
					row(w, e.Name, e.App, unreadable(e.State, e.Error))
				}
			}
		})
	}
	return cmd
}

// unreadable says why there is no document.
func unreadable(s inventory.State, why string) string {
	if why == "" {
		return stateNote(s)
	}
	return "invalid: " + oneLine([]byte(why))
}

func newGroupPut(a *app) *cobra.Command {
	var (
		file, start, order string
		doc                metadata.Group
		names              map[string]string
	)
	cmd := &cobra.Command{
		Use:   "put GROUP",
		Short: "Create a group or change it",
		Long: `Create a group or change it. Flags that are not given leave what is there. What would not be valid is refused with all
reasons (exit code 3). Concurrency, rate and paused take effect in running instances within a second.

A group without a position begins at the topic's first message (--start earliest), or where its topics end now on every
cluster that they are on (--start latest): these ends are read now and kept in the group.`,
		Example: `  turnout group put order_bil_group --topic order_topic --app order_service_consumer
  turnout group put order_bil_group --concurrency 32 --rate 500
  turnout group put order_bil_group --paused
  turnout group put audit --topic order_topic,refund_topic --start latest --order key
  turnout group put order_bil_group --shadow-concurrency 4 --shadow-rate 100`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			given := cmd.Flags().Changed
			return a.withStore(cmd.Context(), func(ctx context.Context, s *metadata.Store) error {
				docs := documents[metadata.Group]{
					kind: "group", get: s.GetGroup, update: s.UpdateGroup, put: s.PutGroup, fresh: metadata.DefaultGroup,
				}
				var from map[string]map[string]broker.Offsets
				flags := func(g *metadata.Group) {
					set(given("topic"), &g.Topics, doc.Topics)
					set(given("app"), &g.App, doc.App)
					set(given("start"), &g.Start, metadata.Start(start))
					set(given("order"), &g.Order, metadata.Order(order))
					set(given("concurrency"), &g.Concurrency, doc.Concurrency)
					set(given("rate"), &g.Rate, doc.Rate)
					set(given("paused"), &g.Paused, doc.Paused)
					set(given("tags"), &g.Tags, doc.Tags)
					set(given("retries"), &g.Retry.Max, doc.Retry.Max)
					set(given("shadow-group"), &g.Shadow.Group, doc.Shadow.Group)
					set(given("shadow-concurrency"), &g.Shadow.Concurrency, doc.Shadow.Concurrency)
					set(given("shadow-rate"), &g.Shadow.Rate, doc.Shadow.Rate)
					g.Names = merge(g.Names, names)
					for topic, ends := range from {
						if g.From[topic] == nil {
							if g.From == nil {
								g.From = map[string]map[string]broker.Offsets{}
							}
							g.From[topic] = ends
						}
					}
				}
				return put(ctx, a, docs, args[0], file, flags, func(g *metadata.Group) (err error) {
					from, err = a.endsForLatest(ctx, s, *g)
					return err
				})
			})
		},
	}
	f := cmd.Flags()
	f.StringVarP(&file, "file", "f", "", fileUsage)
	f.StringSliceVar(&doc.Topics, "topic", nil, "topics that the group reads, all of them; several with commas or by repeating")
	f.StringVar(&doc.App, "app", "", "who owns the group")
	f.StringVar(&start, "start", "", "earliest or latest: where the group begins without a position (default earliest)")
	f.StringVar(&order, "order", "", "none or key: whether messages of one key are handled one after the other (default none)")
	f.IntVar(&doc.Concurrency, "concurrency", metadata.DefaultConcurrency, "messages handled at once in an instance")
	f.Float64Var(&doc.Rate, "rate", 0, "messages a second in an instance; 0: no limit")
	f.BoolVar(&doc.Paused, "paused", false, "handle nothing until --paused=false")
	f.StringVar(&doc.Tags, "tags", "", `only messages of these tags, separated by ||; "" reads all`)
	f.IntVar(&doc.Retry.Max, "retries", metadata.DefaultRetryMax, "rounds through the retry topic before the dead letters, 0 to 16")
	f.StringVar(&doc.Shadow.Group, "shadow-group", "", `name of the shadow group on the clusters, for further topics {name}-{topic}; "": shadow_ and the group's names`)
	f.IntVar(&doc.Shadow.Concurrency, "shadow-concurrency", 0, "messages that the shadow group handles at once in an instance; 0: as the group")
	f.Float64Var(&doc.Shadow.Rate, "shadow-rate", 0, "messages a second of the shadow group in an instance; 0: no limit")
	f.StringToStringVar(&names, "name", nil, "topic=group: the group's name on the clusters for a topic; fixed once the topic is added")
	return cmd
}

// endsForLatest reads, for a group that starts at the latest, where the topics end that it has no ends of yet.
func (a *app) endsForLatest(ctx context.Context, s *metadata.Store, g metadata.Group) (map[string]map[string]broker.Offsets, error) {
	if g.Start != metadata.StartLatest {
		return nil, nil
	}
	names := slices.DeleteFunc(slices.Clone(g.Topics), func(topic string) bool { return g.From[topic] != nil || !metadata.ValidName(topic) })
	topics, err := groupTopics(ctx, s, names)
	if err != nil {
		return nil, err
	}
	fleet := a.newFleet(ctx, s)
	defer fleet.close()
	from := map[string]map[string]broker.Offsets{}
	for _, t := range topics {
		if t.InForce == nil {
			continue // writing the group says why not
		}
		ends, err := forEach(ctx, t.stayClusters(), func(_ context.Context, cluster string) (broker.Offsets, error) {
			c, err := fleet.cluster(cluster)
			if err != nil {
				return nil, err
			}
			return c.EndOffsets(fleet.ctx, t.Settings.Physical(t.Name, cluster))
		})
		if err != nil {
			return nil, fmt.Errorf("start latest needs to know where topic %s ends: %w; repeat it when the cluster answers, or use --start earliest", t.Name, err)
		}
		from[t.Name] = map[string]broker.Offsets{}
		for i, cluster := range t.stayClusters() {
			from[t.Name][cluster] = ends[i]
		}
	}
	return from, nil
}

func newGroupDelete(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "delete GROUP",
		Short: "Delete a group that nobody is a member of",
		Long: `Delete a group from the metadata. While an instance is a member of it that is refused (exit code 5). Its positions on the
clusters are left alone.`,
		Example: `  turnout group delete old_group`,
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.withStore(cmd.Context(), func(ctx context.Context, s *metadata.Store) error {
				if err := s.DeleteGroup(ctx, args[0]); err != nil {
					return remedy(err, errs.ErrUnknownGroup, `"turnout group list" shows what there is`)
				}
				return a.showDeleted("group", args[0])
			})
		},
	}
}
