package coord_test

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/turnout-mq/turnout/admin/coord"
)

func TestLockIsHeldByOneAfterTheOther(t *testing.T) {
	each(t, 1, func(t *tree) {
		a, b := t.open(), t.open()
		first := t.lock(a)
		require.NoError(t, first.Err())
		second := make(chan *coord.Held, 1)
		go func() { second <- t.lock(b) }()
		t.until(a, "/locks/x", 2)
		require.Empty(t, second)
		require.NoError(t, first.Unlock(t.ctx()))
		require.NoError(t, first.Unlock(t.ctx()), "again")
		held := wait(t, second, "the second holder")
		require.Greater(t, held.Token(), first.Token())
		require.Error(t, first.Err())
		require.NotErrorIs(t, first.Err(), coord.ErrLost)

		ctx, cancel := context.WithCancel(t.ctx())
		gone := make(chan error, 1)
		go func() { _, err := coord.Lock(ctx, a, "x"); gone <- err }()
		t.until(a, "/locks/x", 2)
		cancel()
		require.ErrorIs(t, wait(t, gone, "who gives up"), context.Canceled)
		t.until(a, "/locks/x", 1)
		require.NoError(t, held.Unlock(t.ctx()))
		require.Empty(t, t.places(a, "/locks/x"))
	})
}
