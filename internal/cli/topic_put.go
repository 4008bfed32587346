package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"time"

	"github.com/cenkalti/backoff/v5"
	"github.com/spf13/cobra"

	"github.com/turnout-mq/turnout/admin/inventory"
	"github.com/turnout-mq/turnout/admin/server/api"
	"github.com/turnout-mq/turnout/broker"
	"github.com/turnout-mq/turnout/internal/errs"
	"github.com/turnout-mq/turnout/metadata"
)

// topicPut is what "topic put" was asked for.
type topicPut struct {
	name, cluster string
	order         string
	create        bool
	partitions    int
	dryRun        bool
	force         bool
	settings      func(*metadata.TopicSettings)
}

func newTopicPut(a *app) *cobra.Command {
	var (
		p        topicPut
		app      string
		names    map[string]string
		portable bool
		shadow   string
		shadowOf string
	)
	cmd := &cobra.Command{
		Use:   "put TOPIC",
		Short: "Create a topic or move it to another cluster",
		Long: `Create a topic or move it to another cluster, and change its settings. Running applications follow at once: sends go to the
new cluster, and groups read the old one to its end.

Wish and route are written in one step, with the end of the topic on the new cluster as the place where groups without a
position begin there. A topic that is new to Turnout begins at its first message. Refused are: a cluster that is not in
the metadata; one that does not answer; one that does not have the topic, unless --create; one that refuses writers of it;
settings that are not valid, with all reasons. Where a platform manages the metadata (turnout serve) a move is refused, too:
turnout migrate start does it, with proof; --force moves all the same.`,
		Example: `  turnout topic put order_topic --cluster kafka-a --app order_service --create --partitions 8
  turnout topic put order_topic --cluster kafka-b --dry-run
  turnout topic put order_topic --cluster kafka-b --create
  turnout topic put order_topic --name kafka-b=orders.created
  turnout topic put order_topic --shadow off`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			given := cmd.Flags().Changed
			p.name = args[0]
			switch {
			case p.partitions < 0:
				return usagef("--partitions %d: must be 1 or more", p.partitions)
			case given("partitions") && !p.create:
				return usagef("--partitions %d: is for a topic that is created; add --create", p.partitions)
			case given("shadow") && shadow == "":
				return usagef("--shadow is empty: must be the name of a topic, default or off")
			case given("order") && p.order != string(metadata.OrderNone) && p.order != string(metadata.OrderKey):
				return usagef("--order %q: must be none or key", p.order)
			}
			if given("app") || given("name") || given("portable") || given("shadow") || given("shadow-of") {
				p.settings = func(t *metadata.TopicSettings) {
					set(given("app"), &t.App, app)
					set(given("portable"), &t.Portable, portable)
					set(given("shadow"), &t.Shadow.Enabled, shadow != "off")
					set(given("shadow") && shadow == "default", &t.Shadow.Topic, "")
					set(given("shadow") && shadow != "default" && shadow != "off", &t.Shadow.Topic, shadow)
					set(given("shadow-of"), &t.ShadowOf, shadowOf)
					t.Names = merge(t.Names, names)
				}
			}
			return a.withStore(cmd.Context(), func(ctx context.Context, s *metadata.Store) error {
				result, err := a.putTopic(ctx, s, p)
				if err != nil {
					return err
				}
				return a.show(result, result.text)
			})
		},
	}
	f := cmd.Flags()
	f.StringVar(&p.cluster, "cluster", "", "the cluster that the topic shall be on")
	f.StringVar(&p.order, "order", "", "none or key: whether messages of one key are handled in their order; a hand edit keeps it on each cluster, not over the move (default: as it is, none for a new topic)")
	f.BoolVar(&p.create, "create", false, "create the topic on the cluster if it is not there")
	f.IntVar(&p.partitions, "partitions", 0, "partitions (Kafka) or queues (RocketMQ) of a topic that is created (default: as many as on the present cluster, 4 for a new topic)")
	f.BoolVar(&p.dryRun, "dry-run", false, "show what would change and change nothing")
	f.BoolVar(&p.force, "force", false, "move the topic though a platform manages it; the platform then finishes what the move leaves behind, without the order per key")
	f.StringVar(&app, "app", "", "who owns the topic")
	f.StringToStringVar(&names, "name", nil, `cluster=topic: the topic's name on a cluster where it differs; "cluster=" takes that back`)
	f.BoolVar(&portable, "portable", true, "refuse messages that not every kind of cluster can carry")
	f.StringVar(&shadow, "shadow", "", "where messages with the stress mark go: the name of another topic; default: shadow_TOPIC; off: they are refused")
	f.StringVar(&shadowOf, "shadow-of", "", `this is the shadow topic of another: only messages with the stress mark go there; not needed when its name begins with shadow_; "" takes it back`)
	return cmd
}

// merge is old with changes; an empty value takes a name out.
func merge(old, changes map[string]string) map[string]string {
	out := maps.Clone(old)
	for name, value := range changes {
		if out == nil {
			out = map[string]string{}
		}
		out[name] = value
		if value == "" {
			delete(out, name)
		}
	}
	return out
}

// topicPutResult is what "topic put" prints.
type topicPutResult struct {
	inventory.TopicFields
	From         string        `json:"from"`         // the cluster before; "": the topic is new
	CreatedThere bool          `json:"createdThere"` // the topic was created on the cluster
	Changes      []fieldChange `json:"changes"`      // of route and settings
	DryRun       bool          `json:"dryRun,omitempty"`
}

func (a *app) putTopic(ctx context.Context, s *metadata.Store, p topicPut) (*topicPutResult, error) {
	clusters, err := s.ListClusters(ctx)
	if err != nil {
		return nil, err
	}
	before, err := readTopic(ctx, s, p.name, clusters)
	isNew := errors.Is(err, errs.ErrUnknownTopic)
	switch {
	case isNew && p.cluster == "":
		return nil, usagef("topic %s is new: say where it shall be with --cluster", p.name)
	case isNew:
		before = newTopicState(p.name)
	case err != nil:
		return nil, err
	case p.cluster == "" && before.WishInvalid():
		return nil, fmt.Errorf("topic %s: its wish is not valid: %w; say where it shall be with --cluster", p.name, before.Err)
	case p.cluster == "":
		p.cluster = before.Wish.Cluster
	}
	settings := before.Settings
	if p.settings != nil {
		p.settings(&settings)
	}
	if err := settings.Validate(); err != nil {
		return nil, fmt.Errorf("topic %s: %w", p.name, err)
	}
	result := &topicPutResult{DryRun: p.dryRun}
	if before.InForce != nil {
		result.From = before.InForce.Write
	}
	put := metadata.PutTopic{Cluster: p.cluster, Order: metadata.Order(p.order)}
	moves := !before.isOn(p.cluster, put.Order)
	if moves {
		if err := refuseMove(ctx, s, p, before, isNew); err != nil {
			return nil, err
		}
		if put.Start, result.CreatedThere, err = a.prepareCluster(ctx, s, p, before, settings); err != nil {
			return nil, err
		}
		if isNew {
			put.Start = nil // what is there already belongs to the topic
		}
	}
	var now *topicState
	if p.dryRun {
		now = before.preview(put, settings, clusters, moves)
	} else {
		if err := writeTopic(ctx, s, p, put, isNew, moves); err != nil {
			return nil, err
		}
		if now, err = readTopic(ctx, s, p.name, clusters); err != nil {
			return nil, err
		}
	}
	result.TopicFields = now.Fields()
	result.Changes, err = compareTopics(before, now)
	return result, err
}

// isOn says that the topic is on the cluster already, in that order ("": any), and the route says so.
func (t *topicState) isOn(cluster string, order metadata.Order) bool {
	return t.Answered && t.Wish.Cluster == cluster && t.Route.Write == cluster && (order == "" || order == t.Route.Order)
}

// refuseMove refuses to change the cluster of a topic where a platform does that.
func refuseMove(ctx context.Context, s *metadata.Store, p topicPut, before *topicState, isNew bool) error {
	on := before.Wish.Cluster
	if before.InForce != nil {
		on = before.InForce.Write
	}
	if isNew || p.force || on == p.cluster {
		return nil
	}
	managed, err := api.Managed(ctx, s)
	if err != nil || !managed {
		return err
	}
	return fmt.Errorf("%w: a platform manages %s, and this would move topic %s past it: use turnout migrate start %s --to %s, or add --force", errs.ErrNotAllowed, s.Root, p.name, p.name, p.cluster)
}

// writeTopic writes what was asked for. The names that a topic has on clusters count from the moment on that the
// route names the cluster, so they are written first where there is a topic to write them to.
func writeTopic(ctx context.Context, s *metadata.Store, p topicPut, put metadata.PutTopic, isNew, moves bool) error {
	change := func() error {
		if p.settings == nil {
			return nil
		}
		return s.UpdateSettings(ctx, p.name, func(t *metadata.TopicSettings) error {
			p.settings(t)
			return nil
		})
	}
	if !isNew {
		if err := change(); err != nil {
			return err
		}
	}
	if moves {
		if _, err := s.PutTopic(ctx, p.name, put); err != nil {
			return err
		}
	}
	if isNew {
		return change()
	}
	return nil
}

// prepareCluster sees that the cluster can take the topic, and reads where the topic ends there.
func (a *app) prepareCluster(ctx context.Context, s *metadata.Store, p topicPut, before *topicState, settings metadata.TopicSettings) (end broker.Offsets, created bool, err error) {
	fleet := a.newFleet(ctx, s)
	defer fleet.close()
	c, err := fleet.cluster(p.cluster)
	if err != nil {
		return nil, false, err
	}
	physical := settings.Physical(p.name, p.cluster)
	info, err := c.DescribeTopic(fleet.ctx, physical)
	switch {
	case errors.Is(err, errs.ErrUnknownTopic) && !p.create:
		return nil, false, fmt.Errorf("cluster %s does not have topic %s: %w; create it there, or add --create", p.cluster, physical, errs.ErrUnknownTopic)
	case errors.Is(err, errs.ErrUnknownTopic):
		spec := broker.TopicSpec{Partitions: p.partitions}
		if spec.Partitions == 0 && before.InForce != nil {
			if spec.Partitions, err = fleet.partitions(before); err != nil {
				return nil, false, fmt.Errorf("%w; say how many partitions it shall have with --partitions", err)
			}
		}
		if p.dryRun {
			return broker.Offsets{}, true, nil
		}
		if err := c.CreateTopic(fleet.ctx, physical, spec); err != nil && !errors.Is(err, errs.ErrConflict) {
			return nil, false, fmt.Errorf("creating topic %s on cluster %s: %w", physical, p.cluster, err)
		}
		// It takes a moment until every partition has a leader that knows of it.
		end, err = backoff.Retry(fleet.ctx, func() (broker.Offsets, error) { return c.EndOffsets(fleet.ctx, physical) },
			backoff.WithBackOff(backoff.NewConstantBackOff(100*time.Millisecond)))
		if err != nil {
			return nil, true, fmt.Errorf("topic %s was created on cluster %s but is not ready: %w; repeat the command", physical, p.cluster, err)
		}
		return end, true, nil
	case err != nil:
		return nil, false, fmt.Errorf("topic %s on cluster %s: %w", physical, p.cluster, err)
	case info.Fenced:
		return nil, false, fmt.Errorf("cluster %s refuses writers of topic %s: %w; open it with: turnout topic open %s --cluster %s", p.cluster, physical, errs.ErrFenced, physical, p.cluster)
	}
	end, err = c.EndOffsets(fleet.ctx, physical)
	if err != nil {
		return nil, false, fmt.Errorf("end of topic %s on cluster %s: %w", physical, p.cluster, err)
	}
	return end, false, nil
}

// partitions is how many the topic has where it is.
func (f *fleet) partitions(t *topicState) (int, error) {
	cluster := t.InForce.Write
	c, err := f.cluster(cluster)
	if err != nil {
		return 0, err
	}
	physical := t.Settings.Physical(t.Name, cluster)
	info, err := c.DescribeTopic(f.ctx, physical)
	if err != nil {
		return 0, fmt.Errorf("topic %s on cluster %s: %w", physical, cluster, err)
	}
	return len(info.Partitions), nil
}

// preview is the topic as it would be after a put.
func (t *topicState) preview(put metadata.PutTopic, settings metadata.TopicSettings, clusters []string, moves bool) *topicState {
	next := *t
	next.Settings = settings
	next.SettingsNode.Exists = t.SettingsNode.Exists || compact(settings) != compact(t.Settings)
	if !moves {
		return &next
	}
	route := t.Next(put, clusters)
	if route == nil {
		return &next
	}
	next.Wish.Cluster = put.Cluster
	if t.WishNode.Exists {
		next.WishNode.Version++
	}
	next.Route, next.InForce, next.Answered = route, route, true
	next.RouteNode.Exists = true
	return &next
}

// compareTopics lists what differs in route and settings.
func compareTopics(before, now *topicState) ([]fieldChange, error) {
	changes, err := compareDocuments(before.Route, now.Route)
	if err != nil {
		return nil, err
	}
	settings, err := compareDocuments(&before.Settings, &now.Settings)
	return append(changes, settings...), err
}

func (r *topicPutResult) text(w io.Writer) {
	would := ""
	if r.DryRun {
		would = "would be "
	}
	on := r.InForce.Write
	if r.CreatedThere {
		fmt.Fprintf(w, "topic %s %screated on cluster %s\n", r.Physical(on), would, on)
	}
	switch {
	case len(r.Changes) == 0:
		fmt.Fprintf(w, "topic %s is so already: on %s\n", r.Name, on)
		return
	case r.From == "":
		fmt.Fprintf(w, "topic %s %screated: on %s\n", r.Name, would, on)
		return
	case r.From != on:
		fmt.Fprintf(w, "topic %s %smoved from %s to %s\n", r.Name, would, r.From, on)
	default:
		fmt.Fprintf(w, "topic %s %schanged: on %s\n", r.Name, would, on)
	}
	showChanges(w, r.Changes)
	if !r.DryRun && r.From != on {
		fmt.Fprintf(w, "who has applied it, and what is still unread on %s: turnout topic get %s\n", r.From, r.Name)
	}
}

func newTopicDelete(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "delete TOPIC",
		Short: "Delete a topic that nobody uses",
		Long: `Delete a topic with its route and settings from the metadata. While an instance uses it or a group reads it that is
refused (exit code 5). The topic on the clusters, with its messages, is left alone.`,
		Example: `  turnout topic delete old_topic`,
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.withStore(cmd.Context(), func(ctx context.Context, s *metadata.Store) error {
				if err := s.DeleteTopic(ctx, args[0]); err != nil {
					return remedy(err, errs.ErrUnknownTopic, `"turnout topic list" shows what there is`)
				}
				return a.showDeleted("topic", args[0])
			})
		},
	}
}
