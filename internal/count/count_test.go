package count_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/turnout-mq/turnout/internal/count"
)

func TestOf(t *testing.T) {
	require.Equal(t, "0 partitions", count.Of(0, "partition", "partitions"))
	require.Equal(t, "1 partition", count.Of(1, "partition", "partitions"))
	require.Equal(t, "2 messages were", count.Of(int64(2), "message was", "messages were"))
}
