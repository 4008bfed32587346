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

// Hurry shortens how long a broker of c holds pulls, after how long they are made again, and the time between looks at stored
// positions; for members that join from now on.
func Hurry(c broker.Cluster, suspend, pull, check time.Duration) {
	c.(*Cluster).times = times{suspend: suspend, pull: pull, check: check}
}
