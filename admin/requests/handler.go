package requests

import (
	"context"
	"errors"
	"fmt"

	"github.com/turnout-mq/turnout/admin/coord"
	"github.com/turnout-mq/turnout/internal/clusters"
	"github.com/turnout-mq/turnout/internal/errs"
)

// ProvideTopic creates a topic on a cluster under the name that it has there, with so many partitions. One that is there already, as
// from an earlier try, is compared and never changed: an error that Final has made says how it differs.
func (r *Run) ProvideTopic(ctx context.Context, cluster, physical string, partitions int) error {
	ctx, cancel := context.WithTimeout(ctx, tryLimit)
	defer cancel()
	return r.s.on(ctx, cluster, func(c *clusters.Conn) error {
		_, err := provide(ctx, c, cluster, physical, TopicSpec{Partitions: partitions})
		return err
	})
}

// CreateTopic writes a topic into ZooKeeper whole, in one step. One that is there already must be the same, else an error that Final
// has made says how it differs. On its cluster nothing is done.
func (r *Run) CreateTopic(ctx context.Context, name string, doc TopicDoc) error {
	return r.locked(ctx, func(ctx context.Context, lock *coord.Held) error {
		err := r.s.createTopic(ctx, lock, name, doc)
		if errors.Is(err, errs.ErrConflict) {
			err = Final(fmt.Errorf("topic %s: %w", name, err))
		}
		return err
	})
}
