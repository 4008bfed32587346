package shadow

import (
	"context"

	"go.opentelemetry.io/otel/baggage"
)

// The mark as others see it.
const (
	// BaggageKey is the member of W3C Baggage, with value "1", that carries the mark between services.
	BaggageKey = "turnout-shadow"
	// Header is the name of the HTTP header and of the gRPC metadata, with value "1", for services without OpenTelemetry.
	Header = "turnout-shadow"
	// HeaderValue is the value of both.
	HeaderValue = "1"
)

type markKey struct{}

// marked is the baggage member of the mark.
var marked = func() baggage.Member {
	m, err := baggage.NewMember(BaggageKey, HeaderValue)
	if err != nil {
		panic("the mark is always a baggage member: " + err.Error())
	}
	return m
}()

// WithMark returns a ctx that carries the stress mark: what is sent with it goes to shadow topics. The mark is also put
// into the ctx's OpenTelemetry baggage, so that instrumented calls to other services carry it; baggage that is full already
// stays as it is. There is no way to take a mark off a ctx.
func WithMark(ctx context.Context) context.Context {
	if Marked(ctx) {
		return ctx
	}
	if b, err := baggage.FromContext(ctx).SetMember(marked); err == nil {
		ctx = baggage.ContextWithBaggage(ctx, b)
	}
	return context.WithValue(ctx, markKey{}, true)
}

// Marked says whether ctx carries the stress mark, by WithMark or in its OpenTelemetry baggage.
func Marked(ctx context.Context) bool {
	return ctx.Value(markKey{}) != nil || baggage.FromContext(ctx).Member(BaggageKey).Value() == HeaderValue
}
