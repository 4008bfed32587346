package server

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"runtime/debug"
	"strings"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/turnout-mq/turnout/admin/people"
	"github.com/turnout-mq/turnout/admin/server/api"
	"github.com/turnout-mq/turnout/admin/store"
	"github.com/turnout-mq/turnout/internal/errs"
)

const (
	longest   = time.Minute // that a request may take, waiting included
	liveLimit = 5 * time.Second
	bodyMost  = 1 << 20 // bytes
	drainMost = 8 << 20 // bytes of a request that are taken in after it was answered
	pageMost  = 1000    // migrations or events in one answer
	eventPoll = 100 * time.Millisecond
)

// register makes all calls, on a mux.
func (s *server) register(mux *http.ServeMux) {
	s.api = newAPI(mux)
	s.registerMigrations()
	s.registerPeople()
	s.registerRequests()
	s.registerInventory()
	s.registerFleet()
	s.registerDrift()
	s.registerStress()
	s.registerAudit()
}

// handler is all that the server answers.
func (s *server) handler() http.Handler {
	s.calls = http.NewServeMux()
	s.register(s.calls)
	s.calls.HandleFunc("/", s.otherwise(s.calls))
	all := http.NewServeMux()
	all.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { s.write(w, http.StatusOK, map[string]bool{"ok": true}) })
	all.HandleFunc("GET /readyz", s.ready)
	known := http.NewServeMux()
	known.Handle("GET /metrics", s.allowed(s.metricsHandler()))
	known.Handle("/", s.readable(s.read(s.calls)))
	all.Handle("/", s.recognized(s.bounded(known)))
	return s.logged(drained(all))
}

// drained takes in what is left of a request when it was answered early, as for a body that is too large: a client that
// still writes when the connection is closed may see the end of the connection in place of the answer. What is larger
// still is cut; [http.Server.ReadTimeout] bounds the time.
func drained(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body := r.Body
		r.Body = io.NopCloser(body) // net/http closes its own
		next.ServeHTTP(w, r)
		if r.Header.Get("Expect") == "" { // who waits to be told to go on may never send it
			_, _ = io.CopyN(io.Discard, body, drainMost)
		}
	})
}

// read takes in the body of a request, up to its limit, before anything is done with it.
func (s *server) read(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(io.LimitReader(r.Body, bodyMost+1))
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded):
			s.fail(w, r, api.NewError(http.StatusRequestTimeout, "the body of the request did not come in time"))
			return
		case err != nil:
			s.fail(w, r, fmt.Errorf("%w: the body of the request can not be read: %w", errs.ErrInvalid, err))
			return
		case len(body) > bodyMost:
			s.fail(w, r, fmt.Errorf("%w: the body of the request is larger than %d bytes", errs.ErrTooLarge, bodyMost))
			return
		}
		r.Body = io.NopCloser(bytes.NewReader(body))
		next.ServeHTTP(w, r)
	})
}

// fault is what is said of what nobody foresaw: the error may have anything in it, so it is for the log.
const fault = "a fault of the server; its log has more"

// described is err as it is answered: without where the store is.
func (s *server) described(method, path string, err error) *api.Error {
	e := api.Describe(err)
	e.Message = strings.ReplaceAll(e.Message, fmt.Sprintf("store %s: ", s.db), "")
	if e.Status == http.StatusInternalServerError {
		s.log.Error("request failed", zap.String("method", method), zap.String("path", path), zap.Error(err))
		e.Message = fault
	}
	return e
}

func (s *server) fail(w http.ResponseWriter, r *http.Request, err error) {
	e := s.described(r.Method, r.URL.Path, err)
	for name, values := range e.GetHeaders() {
		w.Header()[name] = values
	}
	s.writeAs(w, api.ProblemType, e.Status, e)
}

func (s *server) write(w http.ResponseWriter, status int, doc any) {
	s.writeAs(w, "application/json", status, doc)
}

func (s *server) writeAs(w http.ResponseWriter, contentType string, status int, doc any) {
	data, err := json.Marshal(doc)
	if err != nil { // the documents are ours
		status, data = http.StatusInternalServerError, []byte("{}")
		s.log.Error("an answer can not be written", zap.Error(err))
	}
	w.Header().Set("Content-Type", contentType)
	w.WriteHeader(status)
	_, _ = w.Write(append(data, '\n')) // who asked may have gone
}

// Nobody is the user of a server without login.
const Nobody = "nobody"

// open are the requests for which nobody has to be recognized.
func open(r *http.Request) bool {
	switch r.URL.Path {
	case "/api/v1/session", "/api/v1/claim":
		return r.Method == http.MethodPost
	}
	return strings.HasPrefix(r.URL.Path, "/api/v1/openapi")
}

// recognized finds out who makes a request, and refuses what nobody may do.
func (s *server) recognized(next http.Handler) http.Handler {
	if !s.cfg.NoLogin {
		return people.NewWeb(s.people, people.WebOptions{HTTPS: s.cfg.HTTPS, Proxies: s.cfg.Proxies, Open: open, Fail: s.fail}).Handler(next)
	}
	// A page of another site that is open in the browser of somebody on this machine must not use this server.
	origin := http.NewCrossOriginProtection()
	origin.SetDenyHandler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.fail(w, r, fmt.Errorf("%w: a page of another site asks", errs.ErrNotAllowed))
	}))
	return s.addressed(origin.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		address, _, _ := net.SplitHostPort(r.RemoteAddr)
		p := people.Principal{Name: Nobody, Role: people.Administrator, Scopes: people.Permissions(), Via: "no login", Address: address}
		next.ServeHTTP(w, r.WithContext(people.With(r.Context(), p)))
	})))
}

// addressed refuses, where nobody logs in, requests for another host than this one: a name that was made to lead here
// would let a page of another site read the answers.
func (s *server) addressed(next http.Handler) http.Handler {
	advertised := ""
	if u, err := url.Parse(s.cfg.URL); err == nil {
		advertised = u.Hostname()
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		host := r.Host
		if h, _, err := net.SplitHostPort(host); err == nil {
			host = h
		}
		host = strings.Trim(host, "[]")
		if !loopback(host) && !strings.EqualFold(host, advertised) {
			s.fail(w, r, fmt.Errorf("%w: this server has no login and is not asked as %q: use its URL, %s", errs.ErrNotAllowed, host, s.cfg.URL))
			return
		}
		next.ServeHTTP(w, r)
	})
}

// logged counts and logs requests, and answers for those that panic.
func (s *server) logged(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		begin := time.Now()
		s.underWay.Add(1)
		defer s.underWay.Add(-1)
		seen := &recorder{ResponseWriter: w, status: http.StatusOK}
		w.Header().Set("Cache-Control", "no-store")
		w.Header().Set("X-Content-Type-Options", "nosniff")
		defer func() {
			if p := recover(); p == http.ErrAbortHandler { //nolint:errorlint // that is how net/http does it
				panic(p)
			} else if p != nil {
				s.log.Error("a request panicked", zap.String("method", r.Method), zap.String("path", r.URL.Path), zap.Any("panic", p), zap.ByteString("stack", debug.Stack()))
				s.writeAs(seen, api.ProblemType, http.StatusInternalServerError, api.NewError(http.StatusInternalServerError, fault))
			}
			s.counted(r, seen.status, time.Since(begin))
			level := s.log.Debug
			if r.Method != http.MethodGet {
				level = s.log.Info
			}
			level("request", zap.String("method", r.Method), zap.String("path", r.URL.Path), zap.String("from", r.RemoteAddr),
				zap.Int("status", seen.status), zap.Duration("took", time.Since(begin)))
		}()
		next.ServeHTTP(seen, r)
	})
}

// recorder remembers the status.
type recorder struct {
	http.ResponseWriter
	status int
}

// WriteHeader is that of http.ResponseWriter.
func (r *recorder) WriteHeader(status int) {
	r.status = status
	r.ResponseWriter.WriteHeader(status)
}

// Unwrap lets http.ResponseController find what is beneath.
func (r *recorder) Unwrap() http.ResponseWriter { return r.ResponseWriter }

// ready says whether a request would be answered.
func (s *server) ready(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithTimeout(r.Context(), liveLimit)
	defer cancel()
	state := map[string]any{"leader": s.leads.Load(), "zookeeper": "ok", "store": "ok"}
	status := http.StatusOK
	var mu sync.Mutex
	var all sync.WaitGroup
	for name, ask := range map[string]func() error{
		"zookeeper": func() error { return s.meta.Sync(ctx, s.meta.Root) },
		"store":     func() error { _, err := s.db.Migrations(ctx, store.Filter{Limit: 1}); return err },
	} {
		all.Go(func() {
			if err := ask(); err != nil {
				s.log.Warn("not ready", zap.String("because", name), zap.Error(err))
				mu.Lock()
				defer mu.Unlock()
				state[name], status = "does not answer", http.StatusServiceUnavailable
			}
		})
	}
	all.Wait()
	if s.stopping.Err() != nil {
		state["stopping"], status = true, http.StatusServiceUnavailable
	}
	s.write(w, status, state)
}
