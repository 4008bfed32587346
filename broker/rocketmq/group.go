package rocketmq

import (
	"context"
	"errors"
	"fmt"

	"github.com/turnout-mq/turnout/internal/errs"
)

// DeleteGroup implements broker.Admin. Brokers delete also a group that has members, so these are looked for before.
func (c *Cluster) DeleteGroup(ctx context.Context, group string) error {
	ctx, cancel, err := c.ask(ctx)
	if err != nil {
		return err
	}
	defer cancel()
	return c.done("delete group "+group, c.deleteGroup(ctx, group))
}

func (c *Cluster) deleteGroup(ctx context.Context, group string) error {
	members, err := c.groupMembers(ctx, group)
	if err != nil {
		return err
	}
	if len(members) > 0 {
		return fmt.Errorf("%w: the group has members: %q", errs.ErrConflict, members)
	}
	masters, err := c.masters(ctx)
	if err != nil {
		return err
	}
	for _, b := range masters {
		_, err := call(ctx, func(ctx context.Context) (struct{}, error) {
			return struct{}{}, c.admin.DeleteGroup(ctx, b.Master(), group)
		})
		if err != nil {
			return fmt.Errorf("broker %q: %w", b.Name, err)
		}
	}
	for _, topic := range []string{retryTopic(group), deadLetterTopic(group)} {
		if err := c.deleteTopic(ctx, topic); err != nil && !errors.Is(err, errs.ErrUnknownTopic) {
			return err
		}
	}
	return nil
}
