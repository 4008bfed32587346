package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/turnout-mq/turnout/internal/errs"
	"github.com/turnout-mq/turnout/metadata"
)

// shadowSide says where the messages of a topic that carry the stress mark go.
type shadowSide struct {
	ShadowTopic string `json:"shadowTopic,omitempty"`
	Cluster     string `json:"cluster,omitempty"`
	Error       string `json:"error,omitempty"` // why they go nowhere

	state *topicState // of the shadow topic; nil: there is none
	err   error       // Error
}

// lookShadow looks up the shadow topic of a topic; clusters are the names of all.
func lookShadow(ctx context.Context, s *metadata.Store, t *topicState, clusters []string) (side shadowSide, err error) {
	defer func() {
		if side.err != nil {
			side.Error = flat(side.err)
		}
	}()
	if !t.WishNode.Exists {
		side.err = fmt.Errorf("topic %s: %w", t.Name, errs.ErrUnknownTopic)
		return side, nil
	}
	if side.ShadowTopic, side.err = t.Settings.ShadowName(t.Name); side.err != nil {
		if !t.Settings.Shadow.Enabled {
			side.err = fmt.Errorf("%w, with: turnout topic put %s --shadow %s", side.err, t.Name, defaultText(t.Settings.Shadow.Topic, "default"))
		}
		return side, nil
	}
	side.state, err = readTopic(ctx, s, side.ShadowTopic, clusters)
	switch {
	case errors.Is(err, errs.ErrUnknownTopic):
		side.err = fmt.Errorf("topic %s: %w: %s does not exist; create it with: turnout shadow topic %s", t.Name, errs.ErrNoShadow, side.ShadowTopic, t.Name)
		return side, nil
	case err != nil:
		return side, err
	case !side.state.Settings.IsShadow(side.ShadowTopic):
		side.err = fmt.Errorf("topic %s: %w: %s is a topic of production; if only messages with the stress mark go there: turnout topic put %s --shadow-of %s",
			t.Name, errs.ErrNoShadow, side.ShadowTopic, side.ShadowTopic, t.Name)
	case side.state.InForce == nil:
		side.err = fmt.Errorf("topic %s: its shadow topic %s: %w", t.Name, side.ShadowTopic, side.state.Err)
	default:
		side.Cluster = side.state.InForce.Write
	}
	return side, nil
}

// shadowOf is the topic that a shadow topic is the shadow of, by its settings or its name; "" when that topic names another.
func shadowOf(ctx context.Context, s *metadata.Store, t *topicState) (string, error) {
	if t.Settings.ShadowOf != "" {
		return t.Settings.ShadowOf, nil
	}
	name := strings.TrimPrefix(t.Name, metadata.ShadowPrefix)
	of, err := s.GetTopic(ctx, name)
	switch {
	case errors.Is(err, errs.ErrUnknownTopic), invalid(err):
		return "", nil
	case err != nil:
		return "", err
	}
	if shadow, err := of.Settings.ShadowName(name); err == nil && shadow == t.Name {
		return name, nil
	}
	return "", nil
}

func (s shadowSide) String() string {
	if s.err != nil {
		return "none: " + oneLine([]byte(s.Error))
	}
	return s.ShadowTopic + " on " + s.Cluster
}

// deriveShadow makes the shadow group of a group, whose topics are those of groupTopics.
func deriveShadow(g metadata.Group, topics []*topicState) (metadata.ShadowGroup, error) {
	return g.ShadowGroup(func(topic string) metadata.TopicSettings {
		i := slices.IndexFunc(topics, func(t *topicState) bool { return t.Name == topic })
		return topics[i].Settings
	})
}

// shadowReaders are the shadow groups that read a shadow topic, by the names of the groups that they are of. A group that is not
// valid has none.
func shadowReaders(ctx context.Context, s *metadata.Store, shadowTopic string) (map[string]metadata.ShadowGroup, error) {
	entries, err := readGroups(ctx, s)
	if err != nil {
		return nil, err
	}
	all, err := forEach(ctx, entries, func(ctx context.Context, e *entry[metadata.Group]) (derived metadata.ShadowGroup, err error) {
		if e.Document == nil {
			return derived, nil
		}
		topics, err := groupTopics(ctx, s, e.Document.Topics)
		if err != nil {
			return derived, err
		}
		derived, err = deriveShadow(*e.Document, topics)
		if err != nil {
			derived.Of = nil // it reads nothing
		}
		return derived, nil
	})
	readers := map[string]metadata.ShadowGroup{}
	for i, derived := range all {
		if derived.Of[shadowTopic] != "" {
			readers[entries[i].Name] = derived
		}
	}
	return readers, err
}

func newShadowTopic(a *app) *cobra.Command {
	var (
		cluster    string
		partitions int
	)
	cmd := &cobra.Command{
		Use:   "topic TOPIC",
		Short: "Create the shadow topic of a topic",
		Long: `Create the shadow topic of a topic, in the metadata and on the cluster, where it is missing; what is there already stays as
it is. Its name is that in the topic's settings (turnout topic put TOPIC --shadow NAME), else shadow_TOPIC. It gets the
topic's application, order and portability, and as many partitions as the topic has. It is a topic like any other: it can
be on another cluster than the topic, and be moved.`,
		Example: `  turnout shadow topic order_topic
  turnout shadow topic order_topic --cluster kafka-stress --partitions 4`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if partitions < 0 {
				return usagef("--partitions %d: must be 1 or more", partitions)
			}
			return a.withStore(cmd.Context(), func(ctx context.Context, s *metadata.Store) error {
				r, err := a.putShadowTopic(ctx, s, args[0], cluster, partitions)
				if err != nil {
					return err
				}
				return a.show(r, r.text)
			})
		},
	}
	cmd.Flags().StringVar(&cluster, "cluster", "", "the cluster that it shall be on (default: where it is, else where the topic is)")
	cmd.Flags().IntVar(&partitions, "partitions", 0, "partitions (Kafka) or queues (RocketMQ) if it is created there (default: as many as the topic has)")
	return cmd
}

// shadowTopicResult is what "shadow topic" prints.
type shadowTopicResult struct {
	Topic        string `json:"topic"`
	ShadowTopic  string `json:"shadowTopic"`
	Cluster      string `json:"cluster"`
	Created      bool   `json:"created"`      // in the metadata
	CreatedThere bool   `json:"createdThere"` // on the cluster
}

func (r *shadowTopicResult) text(w io.Writer) {
	if r.CreatedThere {
		fmt.Fprintf(w, "topic %s created on cluster %s\n", r.ShadowTopic, r.Cluster)
	}
	did := "is there already"
	if r.Created {
		did = "created"
	}
	fmt.Fprintf(w, "shadow topic %s of %s %s: on %s\n", r.ShadowTopic, r.Topic, did, r.Cluster)
}

func (a *app) putShadowTopic(ctx context.Context, s *metadata.Store, name, cluster string, partitions int) (*shadowTopicResult, error) {
	clusters, err := s.ListClusters(ctx)
	if err != nil {
		return nil, err
	}
	t, err := readTopic(ctx, s, name, clusters)
	if err != nil {
		return nil, err
	}
	if t.Settings.IsShadow(name) {
		return nil, fmt.Errorf("%w: topic %s is a shadow topic itself; name the topic that it is the shadow of", errs.ErrInvalid, name)
	}
	side, err := lookShadow(ctx, s, t, clusters)
	switch {
	case err != nil:
		return nil, err
	case side.err != nil && side.state == nil && side.ShadowTopic == "", side.err != nil && side.state != nil:
		return nil, side.err
	case side.state != nil && cluster != "" && cluster != side.Cluster:
		return nil, fmt.Errorf("%w: shadow topic %s is on %s; to move it: turnout topic put %s --cluster %s", errs.ErrConflict, side.ShadowTopic, side.Cluster, side.ShadowTopic, cluster)
	case cluster == "" && side.state != nil:
		cluster = side.Cluster
	case cluster == "" && t.InForce == nil:
		return nil, fmt.Errorf("topic %s: %w; say where its shadow topic shall be with --cluster", name, t.Err)
	case cluster == "":
		cluster = t.InForce.Write
	}
	put := topicPut{name: side.ShadowTopic, cluster: cluster, create: true, partitions: partitions}
	var unknown error // how many partitions
	if partitions == 0 {
		put.partitions, unknown = a.countPartitions(ctx, s, t)
		put.create = unknown == nil
	}
	r := &shadowTopicResult{Topic: name, ShadowTopic: side.ShadowTopic, Cluster: cluster, Created: side.state == nil}
	if r.Created {
		put.settings = func(shadow *metadata.TopicSettings) {
			shadow.App, shadow.Portable = t.Settings.App, t.Settings.Portable
			if !shadow.IsShadow(side.ShadowTopic) {
				shadow.ShadowOf = name
			}
		}
		if t.Route != nil {
			put.order = string(t.Route.Order)
		}
		var done *topicPutResult
		if done, err = a.putTopic(ctx, s, put); err == nil {
			r.CreatedThere = done.CreatedThere
		}
	} else {
		_, r.CreatedThere, err = a.prepareCluster(ctx, s, put, side.state, side.state.Settings)
	}
	if unknown != nil && errors.Is(err, errs.ErrUnknownTopic) {
		return nil, fmt.Errorf("%w; say how many partitions it shall have with --partitions", unknown)
	}
	return r, err
}

// countPartitions is how many partitions a topic has.
func (a *app) countPartitions(ctx context.Context, s *metadata.Store, t *topicState) (int, error) {
	if t.InForce == nil {
		return 0, t.Err
	}
	fleet := a.newFleet(ctx, s)
	defer fleet.close()
	return fleet.partitions(t)
}
