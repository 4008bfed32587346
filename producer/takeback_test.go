package producer

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// What a driver derives of the ctx of an attempt ends with it, whatever ends that.
func TestWhatIsDerivedOfAnAttemptEndsWithIt(t *testing.T) {
	for name, end := range map[string]func(h *handing, cancel context.CancelFunc){
		"the send":    func(_ *handing, cancel context.CancelFunc) { cancel() },
		"the target":  func(h *handing, _ context.CancelFunc) { h.t.giveUp() },
		"the attempt": func(h *handing, _ context.CancelFunc) { h.over() },
	} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			to := &target{}
			to.ctx, to.end = context.WithCancel(t.Context())
			defer to.end()
			h := &handing{Context: ctx, t: to}
			derived, stop := context.WithTimeout(h, time.Hour)
			defer stop()
			require.NoError(t, derived.Err())
			require.NoError(t, h.Err())
			end(h, cancel)
			<-derived.Done()
			require.ErrorIs(t, derived.Err(), context.Canceled)
			require.ErrorIs(t, h.Err(), context.Canceled)
		})
	}
}
