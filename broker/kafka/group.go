package kafka

import (
	"context"
	"errors"
	"fmt"

	"github.com/IBM/sarama"

	"github.com/turnout-mq/turnout/internal/errs"
)

// DeleteGroup implements broker.Admin.
func (c *Cluster) DeleteGroup(ctx context.Context, group string) error {
	_, err := call(ctx, c, "delete group "+group, func() (none, error) {
		var refused error // asking again is of no use
		err := c.coordinated(ctx, group, func(b *sarama.Broker) error {
			resp, err := b.DeleteGroups(&sarama.DeleteGroupsRequest{Groups: []string{group}})
			if err != nil {
				return err
			}
			code, answered := resp.GroupErrorCodes[group]
			switch {
			case !answered:
				return sarama.ErrIncompleteResponse
			case code == sarama.ErrNonEmptyGroup:
				refused = fmt.Errorf("%w: the group has members: %w", errs.ErrConflict, code)
			case code != sarama.ErrNoError && code != sarama.ErrGroupIDNotFound:
				return code
			}
			return nil
		})
		return none{}, errors.Join(refused, err)
	})
	for _, topic := range []string{retryTopic(group), deadTopic(group)} {
		if err == nil {
			if err = c.DeleteTopic(ctx, topic); errors.Is(err, errs.ErrUnknownTopic) {
				err = nil
			}
		}
	}
	return err
}
