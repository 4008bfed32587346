package rocketmq

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/turnout-mq/turnout/broker"
)

// WaitForLibrary waits until the library has noticed that it can not write to topic.
func WaitForLibrary(ctx context.Context, t *testing.T, c broker.Cluster, topic string) {
	t.Helper()
	l := c.(*Cluster).producer.library
	require.Eventually(t, func() bool {
		i, err := l.acquire(nil)
		require.NoError(t, err)
		defer i.release()
		return i.IsPublishTopicNeedUpdate(topic)
	}, 2*time.Minute, 100*time.Millisecond)
	require.NoError(t, ctx.Err())
}
