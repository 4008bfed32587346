// Package shadow is the stress mark: what makes a message part of a stress test, so that it goes to shadow topics and shadow
// groups and never to production.
//
// The mark travels in a ctx, in the header of a message, in OpenTelemetry's baggage, and over HTTP and gRPC by the packages
// shadowhttp and shadowgrpc. Whoever begins a stress test calls WithMark; a listener that is called for a marked message is
// given a marked ctx, and what it sends with that ctx is marked again. Work that goes on with another ctx, such as
// context.Background(), has lost the mark and is production.
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
