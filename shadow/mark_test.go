package shadow_test

import (
	"context"
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/otel/baggage"

	"github.com/turnout-mq/turnout/shadow"
)

func withBaggage(t *testing.T, text string) context.Context {
	t.Helper()
	b, err := baggage.Parse(text)
	require.NoError(t, err)
	return baggage.ContextWithBaggage(context.Background(), b)
}

func TestMarkTravelsInCtxAndBaggage(t *testing.T) {
	ctx := context.Background()
	require.False(t, shadow.Marked(ctx))
	marked := shadow.WithMark(withBaggage(t, "user=7"))
	require.True(t, shadow.Marked(marked))
	require.False(t, shadow.Marked(ctx))
	child, cancel := context.WithCancel(marked)
	cancel()
	require.True(t, shadow.Marked(child))
	require.True(t, shadow.Marked(context.WithoutCancel(child)))
	require.Equal(t, marked, shadow.WithMark(marked))

	b := baggage.FromContext(marked)
	require.Equal(t, "7", b.Member("user").Value())
	require.Equal(t, shadow.HeaderValue, b.Member(shadow.BaggageKey).Value())
	require.True(t, shadow.Marked(withBaggage(t, b.String())), "as it comes from another service")
	for _, other := range []string{"turnout-shadow=0", "turnout-shadow=", "other=1"} {
		require.False(t, shadow.Marked(withBaggage(t, other)), other)
	}
}

func TestMarkIsThereWhenTheBaggageIsFull(t *testing.T) {
	full := baggage.Baggage{}
	for i := range 64 { // as many as the W3C allows
		m, err := baggage.NewMember(fmt.Sprintf("k%d", i), "v")
		require.NoError(t, err)
		full, err = full.SetMember(m)
		require.NoError(t, err)
	}
	marked := shadow.WithMark(baggage.ContextWithBaggage(context.Background(), full))
	require.True(t, shadow.Marked(marked))
	require.GreaterOrEqual(t, baggage.FromContext(marked).Len(), 64)
}
