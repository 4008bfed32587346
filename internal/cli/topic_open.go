package cli

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/turnout-mq/turnout/admin/server/api"
	"github.com/turnout-mq/turnout/broker/rocketmq"
	"github.com/turnout-mq/turnout/internal/errs"
	"github.com/turnout-mq/turnout/metadata"
)

type topicOpened struct {
	Topic   string `json:"topic"` // its name there
	Cluster string `json:"cluster"`
	Opened  bool   `json:"opened"` // false: it was open
}

func newTopicOpen(a *app) *cobra.Command {
	var cluster string
	var queues int
	var force bool
	cmd := &cobra.Command{
		Use:   "open TOPIC",
		Short: "Let writers in to a topic that an earlier migration has closed on a cluster",
		Long: `Let writers in to a topic that an earlier migration has closed on a cluster, so that the name can be used again. TOPIC is its name
on that cluster. On Kafka its max.message.bytes is that of the brokers afterwards, on RocketMQ each broker has --queues queues.

A topic of a root that a platform manages is refused: the platform would close it again, and opens it itself when the topic
moves there. --force opens it all the same: when no server of the platform runs and the topic has to move there by hand.`,
		Example: `  turnout topic open order_topic --cluster kafka-a
  turnout topic open order_topic --cluster rocketmq-a --queues 4`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if cluster == "" {
				return usagef("--cluster is missing: name the cluster on which the topic is closed")
			}
			return a.withStore(cmd.Context(), func(ctx context.Context, s *metadata.Store) error {
				return a.openTopic(ctx, s, args[0], cluster, queues, force)
			})
		},
	}
	cmd.Flags().StringVar(&cluster, "cluster", "", "cluster on which it is closed")
	cmd.Flags().IntVar(&queues, "queues", 0, "RocketMQ: how many queues it gets on each broker, as many as it had")
	cmd.Flags().BoolVar(&force, "force", false, "also where a platform manages the root")
	return cmd
}

func (a *app) openTopic(ctx context.Context, s *metadata.Store, physical, cluster string, queues int, force bool) error {
	if !force {
		if err := ownedElsewhere(ctx, s, physical, cluster); err != nil {
			return err
		}
	}
	fleet := a.newFleet(ctx, s)
	defer fleet.close()
	c, err := fleet.cluster(cluster)
	if err != nil {
		return err
	}
	info, err := c.DescribeTopic(fleet.ctx, physical)
	if err != nil {
		return fmt.Errorf("topic %s on cluster %s: %w", physical, cluster, err)
	}
	if info.Fenced {
		restore := ""
		if c.Features().ClosingFence {
			if queues < 1 {
				return usagef("--queues %d: say how many queues topic %s gets on each broker of cluster %s, which does not know how many it had: 1 or more", queues, physical, cluster)
			}
			if restore, err = rocketmq.Restore(queues); err != nil {
				return err
			}
		}
		if err := c.Unfence(fleet.ctx, physical, restore); err != nil {
			return fmt.Errorf("topic %s on cluster %s: %w", physical, cluster, err)
		}
	}
	return a.show(topicOpened{physical, cluster, info.Fenced}, func(w io.Writer) {
		if info.Fenced {
			fmt.Fprintf(w, "topic %s on cluster %s takes messages again\n", physical, cluster)
		} else {
			fmt.Fprintf(w, "topic %s on cluster %s was open\n", physical, cluster)
		}
	})
}

// ownedElsewhere refuses a topic that the platform of this root looks after.
func ownedElsewhere(ctx context.Context, s *metadata.Store, physical, cluster string) error {
	managed, err := api.Managed(ctx, s)
	if err != nil || !managed {
		return err
	}
	names, err := s.ListTopics(ctx)
	if err != nil {
		return err
	}
	for _, name := range names {
		t, err := s.GetTopic(ctx, name)
		switch {
		case errors.Is(err, errs.ErrUnknownTopic): // gone meanwhile
			continue
		case err != nil:
			return err
		case t.Settings.Physical(name, cluster) == physical:
			return fmt.Errorf("%w: a platform manages %s, and would close topic %s on cluster %s again: turnout migrate start %s --to %s moves it there and opens it; when no server of the platform runs, add --force",
				errs.ErrNotAllowed, s.Root, physical, cluster, name, cluster)
		}
	}
	return nil
}
