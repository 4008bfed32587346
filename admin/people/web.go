package people

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"

	"github.com/turnout-mq/turnout/internal/errs"
)

const (
	csrfHeader   = "X-CSRF-Token"
	secureCookie = "__Host-turnout"
	plainCookie  = "turnout"
)

// WebOptions say how a server is reached.
type WebOptions struct {
	// HTTPS: clients reach the server by https, through a proxy that does the TLS. A server that does it itself need not say so.
	// Where Proxies are known, who comes past them comes without TLS, and so does who they say comes by X-Forwarded-Proto: http.
	HTTPS bool
	// Proxies are trusted to say in X-Forwarded-For for whom they ask. Without them the address is that of the connection.
	Proxies []netip.Prefix
	// Open says which requests need nobody to be recognized (to log in, to claim, health); nil: none. For these nobody is.
	Open func(*http.Request) bool
	// Fail answers a request that is refused. Required.
	Fail func(w http.ResponseWriter, r *http.Request, err error)
}

// Web is the middleware that recognizes who makes a request. It refuses (with the errors of this package, or what the store
// has failed with):
//
//   - requests of pages of other sites, as net/http.CrossOriginProtection sees them;
//   - all but open ones without a good token (Authorization: Bearer) or session (cookie); a token that is sent counts alone;
//   - of a session, all but GET and HEAD without the right header X-CSRF-Token.
//
// The cookie is __Host-turnout, with Secure, HttpOnly and SameSite=Strict. By http it is only given and taken on this machine
// (both ends, and the name that was asked for, are loopback), and is called turnout then; other servers on this machine see it
// too, as browsers do not tell ports apart.
//
// Every answer has the headers that an API needs; a handler of pages replaces Content-Security-Policy and Cache-Control.
type Web struct {
	s      *Service
	o      WebOptions
	origin *http.CrossOriginProtection
}

// NewWeb makes the middleware.
func NewWeb(s *Service, o WebOptions) *Web {
	if o.Open == nil {
		o.Open = func(*http.Request) bool { return false }
	}
	return &Web{s: s, o: o, origin: http.NewCrossOriginProtection()}
}

// Handler lets those requests through to next that may be made, with the principal in their context (From), as the actor of
// the store, and with their Call (CallOf).
func (web *Web) Handler(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		call := web.call(r)
		h := w.Header()
		h.Set("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'")
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Referrer-Policy", "no-referrer")
		h.Set("Cross-Origin-Resource-Policy", "same-origin")
		h.Set("Cache-Control", "no-store")
		if call.https {
			h.Set("Strict-Transport-Security", "max-age=31536000")
		}
		ctx := context.WithValue(r.Context(), callKey{}, call)
		p, err := web.recognize(ctx, r, call)
		if err != nil {
			web.o.Fail(w, r, err)
			return
		}
		if p.Name != "" {
			ctx = With(ctx, p)
		}
		next.ServeHTTP(w, r.WithContext(ctx))
	})
}

// recognize returns who makes the request; nobody, of one that is open.
func (web *Web) recognize(ctx context.Context, r *http.Request, call Call) (Principal, error) {
	if err := web.origin.Check(r); err != nil {
		return Principal{}, fmt.Errorf("%w: a page of another site asks: %w", errs.ErrNotAllowed, err)
	}
	if web.o.Open(r) {
		return Principal{}, nil
	}
	if header, sent := r.Header["Authorization"]; sent {
		scheme, token, _ := strings.Cut(header[0], " ")
		if len(header) > 1 || !strings.EqualFold(scheme, "Bearer") {
			return Principal{}, fmt.Errorf("%w: the header Authorization must be one and read Bearer TOKEN", ErrUnauthenticated)
		}
		return web.s.AuthenticateToken(ctx, strings.TrimSpace(token), call.Address)
	}
	if call.Session == "" {
		if err := call.CanCookie(); err != nil && len(r.CookiesNamed(plainCookie)) > 0 {
			return Principal{}, fmt.Errorf("%w: %w", ErrUnauthenticated, err)
		}
		return Principal{}, fmt.Errorf("%w: log in, or send a token as Authorization: Bearer TOKEN", ErrUnauthenticated)
	}
	p, err := web.s.AuthenticateSession(ctx, call.Session, call.Address)
	if err == nil && r.Method != http.MethodGet && r.Method != http.MethodHead {
		err = web.s.CheckCSRF(call.Session, r.Header.Get(csrfHeader))
	}
	if err != nil {
		return Principal{}, err
	}
	return p, nil
}

// Call is what a request says about itself.
type Call struct {
	Address string // where it came from, without a port
	Session string // the secret of the session in its cookie, good or not; ""

	https, local bool
}

type callKey struct{}

// CallOf is that of the request of ctx.
func CallOf(ctx context.Context) Call {
	c, _ := ctx.Value(callKey{}).(Call)
	return c
}

func (web *Web) call(r *http.Request) Call {
	from := addressOf(r.RemoteAddr)
	past := len(web.o.Proxies) > 0 && !web.trusted(from)
	c := Call{Address: text(from), https: r.TLS != nil || web.o.HTTPS && !past && !strings.EqualFold(r.Header.Get("X-Forwarded-Proto"), "http")}
	c.local = from.IsLoopback() && loopbackHost(r.Host) && r.Header.Get("X-Forwarded-For") == ""
	if web.trusted(from) {
		c.Address = text(web.forwarded(r, from))
	}
	if c.CanCookie() == nil {
		// Two of one name: another host of the domain may have set one. Neither is taken.
		if found := r.CookiesNamed(c.cookieName()); len(found) == 1 {
			c.Session = found[0].Value
		}
	}
	return c
}

func (web *Web) trusted(ip netip.Addr) bool {
	return slices.ContainsFunc(web.o.Proxies, func(p netip.Prefix) bool { return p.Contains(ip) })
}

// forwarded is for whom trusted proxies ask: the last address that is not one of theirs. What is before it anybody may have
// written.
func (web *Web) forwarded(r *http.Request, from netip.Addr) netip.Addr {
	hops := strings.Split(strings.Join(r.Header.Values("X-Forwarded-For"), ","), ",")
	for _, hop := range slices.Backward(hops) {
		ip := addressOf(strings.TrimSpace(hop))
		if !ip.IsValid() {
			return from
		}
		if from = ip; !web.trusted(ip) {
			return from
		}
	}
	return from
}

// addressOf reads an address with or without a port.
func addressOf(s string) netip.Addr {
	if with, err := netip.ParseAddrPort(s); err == nil {
		return with.Addr().Unmap().WithZone("")
	}
	ip, _ := netip.ParseAddr(strings.Trim(s, "[]"))
	return ip.Unmap().WithZone("")
}

func text(ip netip.Addr) string {
	if !ip.IsValid() { // a socket that is a file
		return ""
	}
	return ip.String()
}

func loopbackHost(host string) bool {
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	return strings.EqualFold(host, "localhost") || addressOf(host).IsLoopback()
}

// CanCookie is nil if sessions can be had by this way, else ErrNotAllowed: somebody on the way could read the password and the
// cookie. Ask before Login.
func (c Call) CanCookie() error {
	if c.https || c.local {
		return nil
	}
	return fmt.Errorf("%w: sessions need https, or http to a loopback address: use the https URL, or a token", errs.ErrNotAllowed)
}

func (c Call) cookieName() string {
	if c.https {
		return secureCookie
	}
	return plainCookie
}

// Cookie gives a session to who made the call. It lasts as long as the browser; the server ends it earlier.
func (c Call) Cookie(s *Session) *http.Cookie {
	return &http.Cookie{Name: c.cookieName(), Value: s.Secret, Path: "/", Secure: c.https, HttpOnly: true, SameSite: http.SameSiteStrictMode}
}

// NoCookie takes it away.
func (c Call) NoCookie() *http.Cookie {
	cookie := c.Cookie(&Session{})
	cookie.MaxAge = -1
	return cookie
}
