package server

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/turnout-mq/turnout/admin/migrate"
	"github.com/turnout-mq/turnout/admin/server/api"
	"github.com/turnout-mq/turnout/admin/store"
	"github.com/turnout-mq/turnout/internal/errs"
	"github.com/turnout-mq/turnout/metadata"
)

const (
	longest   = time.Minute // that a request may take, waiting included
	liveLimit = 5 * time.Second
	bodyMost  = 1 << 20 // bytes
	pageMost  = 1000    // migrations or events in one answer
	eventPoll = 100 * time.Millisecond
)

// handler is all that the server answers.
func (s *server) handler() http.Handler {
	calls := http.NewServeMux()
	for pattern, f := range map[string]func(*http.Request) (any, error){
		"GET /api/v1/migrations":                s.list,
		"POST /api/v1/migrations/plan":          s.plan,
		"POST /api/v1/migrations":               s.start,
		"GET /api/v1/migrations/{id}":           s.get,
		"GET /api/v1/migrations/{id}/events":    s.events,
		"GET /api/v1/migrations/{id}/live":      s.live,
		"GET /api/v1/migrations/{id}/receipt":   s.receipt,
		"POST /api/v1/migrations/{id}/rollback": s.action(s.rollback),
		"POST /api/v1/migrations/{id}/abort":    s.action(s.abort),
		"POST /api/v1/migrations/{id}/pause":    s.action(s.pause),
		"POST /api/v1/migrations/{id}/resume":   s.action(s.resume),
	} {
		calls.Handle(pattern, s.answer(f))
	}
	calls.Handle("/", s.answer(func(r *http.Request) (any, error) {
		return nil, fmt.Errorf("%w: %s %s is nothing that this server answers", errs.ErrNotFound, r.Method, r.URL.Path)
	}))
	all := http.NewServeMux()
	all.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { s.write(w, http.StatusOK, map[string]bool{"ok": true}) })
	all.HandleFunc("GET /readyz", s.ready)
	all.Handle("/api/", s.authorized(calls))
	all.Handle("/", calls)
	// A page of another site that is open in the browser of somebody on this machine must not use this server.
	origin := http.NewCrossOriginProtection()
	origin.SetDenyHandler(s.answer(func(*http.Request) (any, error) {
		return nil, fmt.Errorf("%w: a page of another site asks", errs.ErrNotAllowed)
	}))
	return s.logged(s.addressed(origin.Handler(all)))
}

// created is an answer with status 201.
type created struct{ doc any }

// answer makes a handler of a function that returns what is answered.
func (s *server) answer(f func(*http.Request) (any, error)) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithTimeout(r.Context(), longest)
		defer cancel()
		r = r.WithContext(ctx)
		r.Body = http.MaxBytesReader(w, r.Body, bodyMost)
		doc, err := f(r)
		if err != nil {
			s.fail(w, r, err)
			return
		}
		status := http.StatusOK
		if c, is := doc.(created); is {
			status, doc = http.StatusCreated, c.doc
		}
		s.write(w, status, doc)
	})
}

func (s *server) fail(w http.ResponseWriter, r *http.Request, err error) {
	status, e := api.Describe(err)
	if status == http.StatusInternalServerError {
		s.log.Error("request failed", zap.String("method", r.Method), zap.String("path", r.URL.Path), zap.Error(err))
	}
	if status == http.StatusUnauthorized {
		w.Header().Set("WWW-Authenticate", "Bearer")
	}
	s.write(w, status, api.Failure{Error: e})
}

func (s *server) write(w http.ResponseWriter, status int, doc any) {
	data, err := json.Marshal(doc)
	if err != nil {
		status, data = http.StatusInternalServerError, []byte(`{"error":{"code":"internal","message":"the answer can not be written"}}`)
		s.log.Error("an answer can not be written", zap.Error(err))
	}
	h := w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("Cache-Control", "no-store")
	h.Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(status)
	_, _ = w.Write(append(data, '\n')) // who asked may have gone
}

// authorized lets nobody through without the token.
func (s *server) authorized(next http.Handler) http.Handler {
	if s.cfg.Token == "" {
		return next
	}
	want := sha256.Sum256([]byte(s.cfg.Token))
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		scheme, token, _ := strings.Cut(r.Header.Get("Authorization"), " ")
		got := sha256.Sum256([]byte(token))
		if !strings.EqualFold(scheme, "Bearer") || subtle.ConstantTimeCompare(got[:], want[:]) != 1 {
			s.fail(w, r, api.Unauthorized())
			return
		}
		next.ServeHTTP(w, r)
	})
}

// addressed refuses, where there is no token, requests for another host than this one: a name that was made to lead here
// would let a page of another site read the answers.
func (s *server) addressed(next http.Handler) http.Handler {
	if s.cfg.Token != "" {
		return next
	}
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
			s.fail(w, r, fmt.Errorf("%w: this server has no token and is not asked as %q: use its URL, %s", errs.ErrNotAllowed, host, s.cfg.URL))
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
		defer func() {
			if p := recover(); p != nil {
				s.log.Error("a request panicked", zap.String("method", r.Method), zap.String("path", r.URL.Path), zap.Any("panic", p), zap.ByteString("stack", debug.Stack()))
				s.write(seen, http.StatusInternalServerError, api.Failure{Error: &api.Error{Code: "internal", Message: "a fault of the server; its log has more"}})
			}
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

// read reads the body of a request.
func read[T any](r *http.Request) (doc T, err error) {
	d := json.NewDecoder(r.Body)
	d.DisallowUnknownFields()
	err = d.Decode(&doc)
	var large *http.MaxBytesError
	switch {
	case errors.As(err, &large):
		return doc, fmt.Errorf("%w: the body has more than %d bytes", errs.ErrTooLarge, large.Limit)
	case err != nil:
		return doc, fmt.Errorf("%w: the body must be a JSON document of this request: %w", errs.ErrInvalid, err)
	case d.More():
		return doc, fmt.Errorf("%w: the body has more than one JSON document", errs.ErrInvalid)
	}
	return doc, nil
}

// number reads a number of the query; otherwise where there is none.
func number(r *http.Request, name string, otherwise, most int64) (int64, error) {
	text := r.URL.Query().Get(name)
	if text == "" {
		return otherwise, nil
	}
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil || n < 0 || n > most {
		return 0, fmt.Errorf("%w: %s=%q: must be a number from 0 to %d", errs.ErrInvalid, name, text, most)
	}
	return n, nil
}

func (s *server) list(r *http.Request) (any, error) {
	f := store.Filter{Topic: r.URL.Query().Get("topic")}
	limit, err := number(r, "limit", pageMost, pageMost)
	if err != nil {
		return nil, err
	}
	f.Limit = int(limit)
	if text := r.URL.Query().Get("open"); text != "" {
		if f.Open, err = strconv.ParseBool(text); err != nil {
			return nil, fmt.Errorf("%w: open=%q: must be true or false", errs.ErrInvalid, text)
		}
	}
	list, err := s.ctl.List(r.Context(), f)
	if list == nil {
		list = []*store.Migration{}
	}
	return list, err
}

// request reads what is asked for. Whether the order is kept is what the topic has, unless it is not to be.
func (s *server) request(r *http.Request) (migrate.Plan, api.Request, error) {
	q, err := read[api.Request](r)
	if err != nil {
		return migrate.Plan{}, q, err
	}
	for field, name := range map[string]string{"topic": q.Topic, "cluster": q.To} {
		if err := metadata.CheckName(field, name); err != nil {
			return migrate.Plan{}, q, err
		}
	}
	plan := migrate.Plan{Topic: q.Topic, To: q.To, Create: q.Create, Partitions: q.Partitions, Hold: q.HoldMS, Accept: q.Accept, Participants: q.Participants}
	topic, err := s.meta.GetTopic(r.Context(), q.Topic)
	switch {
	case errors.Is(err, errs.ErrUnknownTopic): // the preflight says so
	case err != nil:
		return plan, q, err
	default:
		plan.Ordered = !q.Unordered && topic.Route != nil && topic.Route.Order == metadata.OrderKey
	}
	return plan, q, nil
}

func (s *server) plan(r *http.Request) (any, error) {
	plan, _, err := s.request(r)
	if err != nil {
		return nil, err
	}
	return s.ctl.Preflight(r.Context(), plan)
}

func (s *server) start(r *http.Request) (any, error) {
	plan, q, err := s.request(r)
	if err != nil {
		return nil, err
	}
	if err := checkBy(q.By); err != nil {
		return nil, err
	}
	m, err := s.ctl.Start(r.Context(), plan, q.By, migrate.StarterApproves)
	return created{m}, err
}

// checkBy: whoever is named stands in the history and on the receipt.
func checkBy(by string) error {
	const most = 200
	if strings.TrimSpace(by) == "" || len(by) > most || strings.ContainsFunc(by, func(r rune) bool { return r < ' ' }) {
		return fmt.Errorf("%w: by: must say in 1 to %d characters who asks for it", errs.ErrInvalid, most)
	}
	return nil
}

func (s *server) get(r *http.Request) (any, error) {
	return s.ctl.Get(r.Context(), r.PathValue("id"))
}

// events waits, if that is asked for, until there is one. What others write into the store is found by looking.
func (s *server) events(r *http.Request) (any, error) {
	after, err := number(r, "after", 0, 1<<62)
	if err != nil {
		return nil, err
	}
	var wait time.Duration
	if text := r.URL.Query().Get("wait"); text != "" {
		if wait, err = time.ParseDuration(text); err != nil || wait < 0 {
			return nil, fmt.Errorf("%w: wait=%q: must be a duration like 10s", errs.ErrInvalid, text)
		}
	}
	limit := time.NewTimer(min(wait, longest-10*time.Second))
	defer limit.Stop()
	for {
		events, err := s.ctl.Events(r.Context(), r.PathValue("id"), after, pageMost)
		if err != nil {
			return nil, err
		}
		if len(events) == 0 && wait > 0 {
			select {
			case <-time.After(eventPoll):
				continue
			case <-limit.C:
			case <-s.stopping.Done():
			case <-r.Context().Done():
				return nil, r.Context().Err()
			}
		}
		if events == nil {
			events = []store.Event{}
		}
		return api.Events{Events: events}, nil
	}
}

func (s *server) live(r *http.Request) (any, error) {
	ctx, cancel := context.WithTimeout(r.Context(), liveLimit) // a cluster that does not answer is said not to
	defer cancel()
	return s.ctl.Live(ctx, r.PathValue("id"))
}

func (s *server) receipt(r *http.Request) (any, error) {
	return s.ctl.Receipt(r.Context(), r.PathValue("id"))
}

// action makes a handler of what can be asked of a running migration.
func (s *server) action(do func(ctx context.Context, id string, a api.Ask) error) func(*http.Request) (any, error) {
	return func(r *http.Request) (any, error) {
		a, err := read[api.Ask](r)
		if err != nil {
			return nil, err
		}
		if err := checkBy(a.By); err != nil {
			return nil, err
		}
		id := r.PathValue("id")
		if err := do(r.Context(), id, a); err != nil {
			return nil, err
		}
		return s.ctl.Get(r.Context(), id)
	}
}

func (s *server) rollback(ctx context.Context, id string, a api.Ask) error {
	return s.ctl.Rollback(ctx, id, a.By)
}

func (s *server) abort(ctx context.Context, id string, a api.Ask) error {
	return s.ctl.Abort(ctx, id, a.By)
}

func (s *server) pause(ctx context.Context, id string, a api.Ask) error {
	return s.ctl.Pause(ctx, id, a.By)
}

func (s *server) resume(ctx context.Context, id string, a api.Ask) error {
	return s.ctl.Resume(ctx, id, a.By, a.Accept...)
}
