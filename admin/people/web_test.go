package people_test

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/turnout-mq/turnout/admin/people"
	"github.com/turnout-mq/turnout/admin/store"
	"github.com/turnout-mq/turnout/internal/errs"
)

// site is the middleware over a handler that says who asks.
type site struct {
	handler http.Handler
	failed  error // why the last request was refused
}

func newSite(w *world, change func(o *people.WebOptions)) *site {
	s := new(site)
	o := people.WebOptions{
		Open: func(r *http.Request) bool { return r.URL.Path == "/login" },
		Fail: func(w http.ResponseWriter, _ *http.Request, err error) {
			s.failed = err
			status := http.StatusInternalServerError
			switch {
			case errors.Is(err, people.ErrUnauthenticated):
				status = http.StatusUnauthorized
			case errors.Is(err, errs.ErrNotAllowed):
				status = http.StatusForbidden
			}
			w.WriteHeader(status)
		},
	}
	if change != nil {
		change(&o)
	}
	s.handler = people.NewWeb(w.Service, o).Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		p, actor, call := people.From(r.Context()), store.ActorOf(r.Context()), people.CallOf(r.Context())
		if p.Name != "" && actor != p.Actor() {
			http.Error(w, "the actor is another one", http.StatusInternalServerError)
			return
		}
		_, _ = fmt.Fprintf(w, "%s via %s from %s, call from %s, actor %s", p.Name, p.Via, p.Address, call.Address, actor.Name)
	}))
	return s
}

// ask makes a request, by https from outside unless change says otherwise.
func (s *site) ask(method, target string, change func(r *http.Request)) *httptest.ResponseRecorder {
	s.failed = nil
	r := httptest.NewRequest(method, "https://turnout.example.org"+target, nil)
	r.RemoteAddr = home + ":50001"
	if change != nil {
		change(r)
	}
	w := httptest.NewRecorder()
	s.handler.ServeHTTP(w, r)
	return w
}

func bearer(secret string) func(*http.Request) {
	return func(r *http.Request) { r.Header.Set("Authorization", "Bearer "+secret) }
}

// with is a request of a page in a browser.
func with(cookie, csrf string) func(*http.Request) {
	return func(r *http.Request) {
		r.AddCookie(&http.Cookie{Name: "__Host-turnout", Value: cookie})
		r.Header.Set("Sec-Fetch-Site", "same-origin")
		if csrf != "" {
			r.Header.Set("X-CSRF-Token", csrf)
		}
	}
}

func (s *site) refused(t *testing.T, status int, text string, answer *httptest.ResponseRecorder) {
	t.Helper()
	require.Equal(t, status, answer.Code)
	require.ErrorContains(t, s.failed, text)
	require.Empty(t, answer.Body.String())
}

func says(t *testing.T, want string, answer *httptest.ResponseRecorder) {
	t.Helper()
	require.Equal(t, http.StatusOK, answer.Code)
	require.Contains(t, answer.Body.String(), want)
}

func TestWeb(t *testing.T) {
	each(t, map[string]func(*testing.T, *world){
		"a token": func(t *testing.T, w *world) {
			id, secret := w.token(t, w.root(t), people.Read)
			s := newSite(w, nil)
			for _, method := range []string{"GET", "POST", "DELETE"} { // no CSRF token: no page of another site can send it
				says(t, "root via token "+id+" from "+home+", call from "+home+", actor root", s.ask(method, "/x", bearer(secret)))
			}
			says(t, "root", s.ask("GET", "/x", func(r *http.Request) { r.Header.Set("Authorization", "bearer  "+secret) }))
			s.refused(t, 401, "mistyped", s.ask("GET", "/x", bearer(secret+"0")))
			s.refused(t, 401, "mistyped", s.ask("GET", "/x", bearer("")))
			for _, other := range []string{"", "Basic cm9vdDp4", secret} {
				s.refused(t, 401, "Bearer TOKEN", s.ask("GET", "/x", func(r *http.Request) { r.Header.Set("Authorization", other) }))
			}
			s.refused(t, 401, "must be one", s.ask("GET", "/x", func(r *http.Request) { r.Header["Authorization"] = []string{"Bearer " + secret, "Bearer x"} }))
			cookie := w.cookie(t, "root")
			s.refused(t, 401, "mistyped", s.ask("GET", "/x", func(r *http.Request) { with(cookie, "")(r); bearer("x")(r) }))
			s.refused(t, 401, "log in, or send a token", s.ask("GET", "/x?access_token="+secret, nil))
			require.NoError(t, w.RevokeToken(t.Context(), w.bearer(t, secret), id))
			s.refused(t, 401, "revoked", s.ask("GET", "/x", bearer(secret)))
		},
		"a session": func(t *testing.T, w *world) {
			w.root(t)
			cookie := w.cookie(t, "root")
			csrf := w.CSRF(cookie)
			s := newSite(w, nil)
			says(t, "root via session from "+home, s.ask("GET", "/x", with(cookie, "")))
			says(t, "", s.ask("HEAD", "/x", with(cookie, "")))
			for _, method := range []string{"POST", "PUT", "PATCH", "DELETE", "OPTIONS"} {
				says(t, "root", s.ask(method, "/x", with(cookie, csrf)))
				s.refused(t, 403, "X-CSRF-Token", s.ask(method, "/x", with(cookie, "")))
				s.refused(t, 403, "X-CSRF-Token", s.ask(method, "/x", with(cookie, w.CSRF(w.cookie(t, "root")))))
			}
			s.refused(t, 401, "ended", s.ask("GET", "/x", with(strings.Repeat("0", 43), "")))
			s.refused(t, 401, "log in", s.ask("GET", "/x", with("", "")))
			s.refused(t, 401, "log in", s.ask("GET", "/x", func(r *http.Request) { r.AddCookie(&http.Cookie{Name: "turnout", Value: cookie}) }))
			s.refused(t, 401, "log in", s.ask("GET", "/x", func(r *http.Request) { with(cookie, "")(r); with("x", "")(r) }))
			w.clock.move(time.Hour)
			s.refused(t, 401, "ended", s.ask("GET", "/x", with(cookie, "")))
		},
		"pages of other sites": func(t *testing.T, w *world) {
			w.root(t)
			cookie := w.cookie(t, "root")
			s := newSite(w, nil)
			for _, site := range []string{"cross-site", "same-site"} {
				from := func(r *http.Request) { with(cookie, w.CSRF(cookie))(r); r.Header.Set("Sec-Fetch-Site", site) }
				s.refused(t, 403, "page of another site", s.ask("POST", "/x", from))
				s.refused(t, 403, "page of another site", s.ask("POST", "/login", from))
			}
			s.refused(t, 403, "page of another site", s.ask("POST", "/login", func(r *http.Request) { r.Header.Set("Origin", "https://evil.example.org") }))
			says(t, "", s.ask("POST", "/login", func(r *http.Request) { r.Header.Set("Origin", "https://turnout.example.org") }))
		},
		"what is open": func(t *testing.T, w *world) {
			_, secret := w.token(t, w.root(t), people.Read)
			s := newSite(w, nil)
			says(t, " via  from , call from "+home+", actor turnout", s.ask("POST", "/login", nil))
			says(t, " via  from ,", s.ask("POST", "/login", bearer(secret)))
			says(t, " via  from ,", s.ask("POST", "/login", with(w.cookie(t, "root"), "")))
			s.refused(t, 401, "log in", s.ask("POST", "/login/", nil))
			closed := newSite(w, func(o *people.WebOptions) { o.Open = nil })
			closed.refused(t, 401, "log in", closed.ask("GET", "/", nil))
		},
		"a store that does not answer lets nobody through": func(t *testing.T, w *world) {
			_, secret := w.token(t, w.root(t), people.Read)
			cookie := w.cookie(t, "root")
			require.NoError(t, w.db.Close())
			s := newSite(w, nil)
			s.refused(t, 500, "closed", s.ask("GET", "/x", bearer(secret)))
			s.refused(t, 500, "closed", s.ask("GET", "/x", with(cookie, "")))
		},
		"headers": func(t *testing.T, w *world) {
			s := newSite(w, nil)
			plain := func(r *http.Request) { r.TLS = nil }
			for _, answer := range []*httptest.ResponseRecorder{s.ask("GET", "/x", nil), s.ask("GET", "/login", nil), s.ask("GET", "/login", plain)} {
				for name, want := range map[string]string{
					"Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'", "X-Content-Type-Options": "nosniff",
					"Referrer-Policy": "no-referrer", "Cache-Control": "no-store", "Cross-Origin-Resource-Policy": "same-origin",
				} {
					require.Equal(t, want, answer.Header().Get(name))
				}
			}
			const hsts = "Strict-Transport-Security"
			require.Equal(t, "max-age=31536000", s.ask("GET", "/login", nil).Header().Get(hsts))
			require.Empty(t, s.ask("GET", "/login", plain).Header().Get(hsts))
			proxied := newSite(w, func(o *people.WebOptions) { o.HTTPS = true })
			require.NotEmpty(t, proxied.ask("GET", "/login", plain).Header().Get(hsts))
		},
		"where a request comes from": func(t *testing.T, w *world) {
			direct := newSite(w, nil)
			proxied := newSite(w, func(o *people.WebOptions) {
				o.Proxies = []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("::1/128")}
			})
			for _, c := range []struct {
				s         *site
				remote    string
				forwarded []string
				want      string
			}{
				{direct, "203.0.113.7:1", nil, "203.0.113.7"},
				{direct, "[2001:db8::1%eth0]:1", nil, "2001:db8::1"},
				{direct, "[::ffff:203.0.113.7]:1", nil, "203.0.113.7"},
				{direct, "@", nil, ""},
				{direct, "10.0.0.1:1", []string{"198.51.100.1"}, "10.0.0.1"},
				{proxied, "203.0.113.7:1", []string{"198.51.100.1"}, "203.0.113.7"},
				{proxied, "10.0.0.1:1", nil, "10.0.0.1"},
				{proxied, "10.0.0.1:1", []string{"198.51.100.1"}, "198.51.100.1"},
				{proxied, "[::1]:1", []string{"6.6.6.6, 198.51.100.1 ,10.2.2.2"}, "198.51.100.1"},
				{proxied, "10.0.0.1:1", []string{"6.6.6.6", "198.51.100.1, 10.2.2.2"}, "198.51.100.1"},
				{proxied, "10.0.0.1:1", []string{"6.6.6.6, garbage, 10.2.2.2"}, "10.2.2.2"},
				{proxied, "10.0.0.1:1", []string{"10.3.3.3"}, "10.3.3.3"},
				{proxied, "10.0.0.1:1", []string{"[2001:db8::1]:99"}, "2001:db8::1"},
			} {
				says(t, "call from "+c.want+",", c.s.ask("GET", "/login", func(r *http.Request) {
					r.RemoteAddr = c.remote
					r.Header["X-Forwarded-For"] = c.forwarded
				}))
			}
		},
	})
}

func TestCookies(t *testing.T) {
	// page is a server with the calls that a page needs.
	page := func(w *world, o people.WebOptions) http.Handler {
		mux := http.NewServeMux()
		mux.HandleFunc("POST /login", func(rw http.ResponseWriter, r *http.Request) {
			call := people.CallOf(r.Context())
			if err := call.CanCookie(); err != nil {
				o.Fail(rw, r, err)
				return
			}
			session, err := w.Login(r.Context(), "root", r.Header.Get("X-Password"), call.Address, call.Session)
			if err != nil {
				o.Fail(rw, r, err)
				return
			}
			http.SetCookie(rw, call.Cookie(session))
			_, _ = io.WriteString(rw, session.CSRF)
		})
		mux.HandleFunc("POST /logout", func(rw http.ResponseWriter, r *http.Request) {
			call := people.CallOf(r.Context())
			if err := w.Logout(r.Context(), call.Session); err != nil {
				o.Fail(rw, r, err)
				return
			}
			http.SetCookie(rw, call.NoCookie())
		})
		mux.HandleFunc("GET /me", func(rw http.ResponseWriter, r *http.Request) {
			_, _ = io.WriteString(rw, people.From(r.Context()).Name)
		})
		o.Open = func(r *http.Request) bool { return r.URL.Path == "/login" }
		return people.NewWeb(w.Service, o).Handler(mux)
	}
	fail := func(w http.ResponseWriter, _ *http.Request, err error) {
		status := http.StatusForbidden
		if errors.Is(err, people.ErrUnauthenticated) {
			status = http.StatusUnauthorized
		}
		http.Error(w, err.Error(), status)
	}
	each(t, map[string]func(*testing.T, *world){
		"by https": func(t *testing.T, w *world) {
			w.root(t)
			server := httptest.NewTLSServer(page(w, people.WebOptions{Fail: fail}))
			defer server.Close()
			useCookies(t, server, "__Host-turnout")
			all := w.actions(t.Context(), t, "user", "root")
			require.Equal(t, "root logout by session", all[len(all)-1])
		},
		"by http on this machine": func(t *testing.T, w *world) {
			w.root(t)
			server := httptest.NewServer(page(w, people.WebOptions{Fail: fail}))
			defer server.Close()
			useCookies(t, server, "turnout")
		},
		"by http from elsewhere, not": func(t *testing.T, w *world) {
			w.root(t)
			cookie := w.cookie(t, "root")
			handler := page(w, people.WebOptions{Fail: fail})
			for remote, host := range map[string]string{
				home + ":1": "127.0.0.1:7070", "127.0.0.1:1": "turnout.example.org", "127.0.0.1:2": "localhost.example.org", "[2001:db8::1]:1": "[::1]:7070",
			} {
				for _, target := range []string{"POST /login", "GET /me"} {
					method, path, _ := strings.Cut(target, " ")
					r := httptest.NewRequest(method, path, nil)
					r.RemoteAddr, r.Host = remote, host
					r.Header.Set("X-Password", password)
					r.AddCookie(&http.Cookie{Name: "turnout", Value: cookie})
					answer := httptest.NewRecorder()
					handler.ServeHTTP(answer, r)
					require.Contains(t, []int{http.StatusForbidden, http.StatusUnauthorized}, answer.Code)
					require.Contains(t, answer.Body.String(), "sessions need https")
					require.Empty(t, answer.Result().Cookies())
				}
			}
			r := httptest.NewRequest(http.MethodPost, "/login", nil)
			r.RemoteAddr, r.Host = "127.0.0.1:1", "localhost"
			r.Header.Set("X-Forwarded-For", home) // a proxy that does no TLS
			answer := httptest.NewRecorder()
			handler.ServeHTTP(answer, r)
			require.Equal(t, http.StatusForbidden, answer.Code)
		},
		"behind a proxy with https": func(t *testing.T, w *world) {
			w.root(t)
			handler := page(w, people.WebOptions{Fail: fail, HTTPS: true, Proxies: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}})
			r := httptest.NewRequest(http.MethodPost, "/login", nil)
			r.RemoteAddr, r.Host = "10.0.0.1:1", "turnout.example.org"
			r.Header.Set("X-Forwarded-For", home)
			r.Header.Set("X-Password", password)
			answer := httptest.NewRecorder()
			handler.ServeHTTP(answer, r)
			require.Equal(t, http.StatusOK, answer.Code)
			cookies := answer.Result().Cookies()
			require.Len(t, cookies, 1)
			require.Equal(t, "__Host-turnout", cookies[0].Name)
			audits, err := w.db.Audits(t.Context(), store.AuditFilter{Action: "login", Address: home})
			require.NoError(t, err)
			require.Len(t, audits, 2, "root's first one and this")
			for what, change := range map[string]func(r *http.Request){
				"past the proxy":           func(r *http.Request) { r.RemoteAddr = home + ":1" },
				"by http to the proxy":     func(r *http.Request) { r.Header.Set("X-Forwarded-Proto", "http") },
				"who says to be the proxy": func(r *http.Request) { r.RemoteAddr = home + ":1"; r.Header.Set("X-Forwarded-Proto", "https") },
			} {
				r := httptest.NewRequest(http.MethodGet, "/me", nil)
				r.RemoteAddr, r.Host = "10.0.0.1:1", "turnout.example.org"
				r.Header.Set("X-Forwarded-For", home)
				r.AddCookie(&http.Cookie{Name: cookies[0].Name, Value: cookies[0].Value})
				answer := httptest.NewRecorder()
				handler.ServeHTTP(answer, r)
				require.Equal(t, http.StatusOK, answer.Code)
				change(r)
				answer = httptest.NewRecorder()
				handler.ServeHTTP(answer, r)
				require.Equal(t, http.StatusUnauthorized, answer.Code, what)
			}
		},
	})
}

// useCookies logs in twice and out.
func useCookies(t *testing.T, server *httptest.Server, name string) {
	t.Helper()
	client := server.Client()
	ask := func(method, path, word string, cookie *http.Cookie) (status int, body string, set *http.Cookie) {
		t.Helper()
		r, err := http.NewRequestWithContext(t.Context(), method, server.URL+path, nil)
		require.NoError(t, err)
		r.Header.Set("X-Password", word)
		r.Header.Set("X-CSRF-Token", word)
		if cookie != nil {
			r.AddCookie(&http.Cookie{Name: cookie.Name, Value: cookie.Value})
		}
		answer, err := client.Do(r)
		require.NoError(t, err)
		defer answer.Body.Close()
		data, err := io.ReadAll(answer.Body)
		require.NoError(t, err)
		for _, c := range answer.Cookies() {
			set = c
		}
		return answer.StatusCode, string(data), set
	}
	status, _, cookie := ask("POST", "/login", "wrong horse battery", nil)
	require.Equal(t, http.StatusUnauthorized, status)
	require.Nil(t, cookie)
	status, _, first := ask("POST", "/login", password, nil)
	require.Equal(t, http.StatusOK, status)
	require.Equal(t, name, first.Name)
	require.Equal(t, strings.HasPrefix(name, "__Host-"), first.Secure)
	require.True(t, first.HttpOnly)
	require.Equal(t, http.SameSiteStrictMode, first.SameSite)
	require.Equal(t, "/", first.Path)
	require.Empty(t, first.Domain)
	status, body, _ := ask("GET", "/me", "", first)
	require.Equal(t, http.StatusOK, status)
	require.Equal(t, "root", body)

	status, csrf, second := ask("POST", "/login", password, first)
	require.Equal(t, http.StatusOK, status)
	require.NotEqual(t, first.Value, second.Value)
	status, _, _ = ask("GET", "/me", "", first)
	require.Equal(t, http.StatusUnauthorized, status, "a login makes another session")

	status, _, _ = ask("POST", "/logout", "", second)
	require.Equal(t, http.StatusForbidden, status)
	status, _, gone := ask("POST", "/logout", csrf, second)
	require.Equal(t, http.StatusOK, status)
	require.Equal(t, name, gone.Name)
	require.Negative(t, gone.MaxAge)
	require.Empty(t, gone.Value)
	status, _, _ = ask("GET", "/me", "", second)
	require.Equal(t, http.StatusUnauthorized, status)
}
