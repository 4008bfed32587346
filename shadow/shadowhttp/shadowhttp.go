// Package shadowhttp carries the stress mark (package shadow) over net/http: Transport puts it on the requests of a client,
// Handler takes it from the requests to a server.
//
// It travels in the header turnout-shadow, and in the W3C header baggage for services with OpenTelemetry; either is enough.
package shadowhttp

import (
	"net/http"

	"github.com/turnout-mq/turnout/shadow"
	"github.com/turnout-mq/turnout/shadow/internal/carrier"
)

// Option changes a Handler.
type Option func(*handler)

// WithTrust says who may send stress traffic: trusted is called for every request with the mark, at the same time for several.
// Default: everybody.
func WithTrust(trusted func(*http.Request) bool) Option {
	return func(h *handler) { h.trusted = trusted }
}

// Handler returns a handler that calls next with a marked ctx (shadow.Marked) for a request with the mark: the header
// turnout-shadow: 1, or a header baggage with turnout-shadow=1.
//
// A request with the mark that is not trusted (WithTrust) is answered with 403, and one whose mark is neither 1 nor empty or 0
// with 400. Neither reaches next: without the mark it would be production traffic, which a stress test must never become.
//
// Other middleware that reads baggage, as that of OpenTelemetry, marks the ctx too and asks nobody. Let Handler be
// before what acts on the mark.
func Handler(next http.Handler, opts ...Option) http.Handler {
	h := &handler{next: next, trusted: func(*http.Request) bool { return true }}
	for _, o := range opts {
		o(h)
	}
	return h
}

type handler struct {
	next    http.Handler
	trusted func(*http.Request) bool
}

func (h *handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	marked, err := carrier.Marked(r.Header.Values)
	switch {
	case err != nil:
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	case marked && !h.trusted(r):
		http.Error(w, "this server takes no stress traffic ("+shadow.Header+") from you; send it without the mark only if it is production traffic", http.StatusForbidden)
		return
	case marked:
		r = r.WithContext(shadow.WithMark(r.Context()))
	}
	h.next.ServeHTTP(w, r)
}

// Transport returns a RoundTripper that puts the mark on requests whose ctx is marked: the header turnout-shadow: 1 and the
// member turnout-shadow=1 of the header baggage, whose other members stay. Other requests go to base as they are. The
// caller's request is never changed. base nil: http.DefaultTransport.
func Transport(base http.RoundTripper) http.RoundTripper {
	if base == nil {
		base = http.DefaultTransport
	}
	return &transport{base}
}

type transport struct{ base http.RoundTripper }

func (t *transport) RoundTrip(r *http.Request) (*http.Response, error) {
	if shadow.Marked(r.Context()) {
		r = r.Clone(r.Context())
		r.Header.Set(shadow.Header, shadow.HeaderValue)
		r.Header.Set(carrier.Baggage, carrier.WithMember(r.Header.Values(carrier.Baggage)))
	}
	return t.base.RoundTrip(r)
}

// CloseIdleConnections is what http.Client.CloseIdleConnections looks for.
func (t *transport) CloseIdleConnections() {
	if c, ok := t.base.(interface{ CloseIdleConnections() }); ok {
		c.CloseIdleConnections()
	}
}
