package pace_test

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/turnout-mq/turnout/internal/pace"
)

func TestAHurryEndsAWait(t *testing.T) {
	var p pace.Pace
	waited := make(chan error)
	go func() { waited <- p.Wait(context.Background(), time.Hour) }()
	p.Hurry(true)
	require.NoError(t, <-waited)
	require.NoError(t, p.Wait(context.Background(), time.Hour))
}

func TestAWaitEndsWithItsContext(t *testing.T) {
	var p pace.Pace
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	require.ErrorIs(t, p.Wait(ctx, time.Hour), context.Canceled)
	p.Hurry(true)
	require.ErrorIs(t, p.Wait(ctx, time.Hour), context.Canceled)
}

func TestEachWorksInAHurry(t *testing.T) {
	var p pace.Pace
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	calls := make(chan struct{})
	go func() {
		defer close(done)
		p.Each(ctx, func() {
			select {
			case calls <- struct{}{}:
			case <-ctx.Done():
			}
		})
	}()
	for range 2 {
		p.Hurry(true)
		<-calls
		<-calls
		p.Hurry(false)
	}
	cancel()
	<-done
}
