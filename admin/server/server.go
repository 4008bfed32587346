package server

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"go.uber.org/zap"

	"github.com/turnout-mq/turnout/admin/coord"
	"github.com/turnout-mq/turnout/admin/fleet"
	"github.com/turnout-mq/turnout/admin/migrate"
	"github.com/turnout-mq/turnout/admin/people"
	"github.com/turnout-mq/turnout/admin/reconcile"
	"github.com/turnout-mq/turnout/admin/requests"
	"github.com/turnout-mq/turnout/admin/server/api"
	"github.com/turnout-mq/turnout/admin/store"
	"github.com/turnout-mq/turnout/admin/stress"
	"github.com/turnout-mq/turnout/internal/clusters"
	"github.com/turnout-mq/turnout/internal/errs"
	"github.com/turnout-mq/turnout/metadata"
)

const (
	defaultStart  = 30 * time.Second
	defaultRead   = 30 * time.Second
	drainLimit    = 30 * time.Second // for requests that are under way when the server is to stop
	closeLimit    = 5 * time.Second  // for each of the connections after that
	clusterLinger = time.Minute
	betweenTerms  = 500 * time.Millisecond
)

// Config says what a server works on.
type Config struct {
	ZooKeeper metadata.Config // its Logger is Logger where it has none
	Database  string          // as store.Open takes it
	// Listen is the address to listen on, "127.0.0.1:7070"; port 0 takes a free one.
	Listen string
	// URL is where clients reach the server; "": made of the address that it listens on.
	URL string
	// NoLogin lets everybody who reaches the server do everything, as the administrator [Nobody]. Then only a loopback address is
	// accepted for Listen. It is for demos and tests.
	NoLogin bool
	// HTTPS: clients reach the server by https, through a proxy that does the TLS.
	HTTPS bool
	// Proxies are trusted to say in X-Forwarded-For for whom they ask.
	Proxies []netip.Prefix
	// Metrics is the address of a second listener, that answers /metrics to everybody who reaches it; "": none. The first one answers
	// /metrics to those who may read.
	Metrics string
	// Secrets are what requests may name as the login of a cluster. Empty: requests.DefaultPlaces.
	Secrets requests.Places
	// Rate is how many requests a second each user may make of this server. 0: DefaultRate; less: as many as they like.
	Rate float64
	// Webhook is told of requests and of guards of migrations. nil: none.
	Webhook *requests.Webhook
	// Recover makes the token of the first administrator again, though there is one: for when nobody can log in.
	Recover bool
	// Invite, if not nil, is given the one-time token of the first administrator, when this start has made it.
	Invite  func(people.Invitation)
	Hashing people.Hashing // of passwords; the zero value is good
	// Adopt joins a store and a root that do not belong together, after one of them was lost or restored.
	Adopt bool
	Open  clusters.OpenFunc // opens clusters
	// StartLimit bounds how long ZooKeeper and the store are waited for at the start. Default 30 s.
	StartLimit time.Duration
	// ReadLimit bounds how long a client may take to send a request. Default 30 s.
	ReadLimit time.Duration
	Logger    *zap.Logger // nil: none
	// Ready, if not nil, is called once, when the server answers and can be found in ZooKeeper.
	Ready func(Info)
}

// Info is what can be said of a server that answers.
type Info struct {
	ID    string `json:"id"`
	URL   string `json:"url"` // that is advertised
	Store string `json:"store"`
	// Metrics is the URL of the second listener, where there is one.
	Metrics string `json:"metrics,omitempty"`
}

// Check is ErrInvalid with everything that is wrong, as far as that can be seen without connecting.
func (c *Config) Check() error {
	var problems []error
	bad := func(format string, args ...any) {
		problems = append(problems, fmt.Errorf("%w: "+format, append([]any{errs.ErrInvalid}, args...)...))
	}
	host, _, err := net.SplitHostPort(c.Listen)
	switch {
	case err != nil:
		bad("listen address %q: must be host:port, e.g. 127.0.0.1:7070", c.Listen)
	case c.NoLogin && !loopback(host):
		bad("listen address %q can be reached from other machines, and nobody has to log in: leave out --no-login, or listen on 127.0.0.1", c.Listen)
	}
	if _, _, err := net.SplitHostPort(c.Metrics); c.Metrics != "" && err != nil {
		bad("metrics address %q: must be host:port, e.g. 127.0.0.1:7071", c.Metrics)
	}
	if c.URL != "" {
		if err := api.CheckURL(c.URL); err != nil {
			problems = append(problems, err)
		}
	}
	if err := c.Secrets.Check(); err != nil {
		problems = append(problems, err)
	}
	if c.Webhook != nil {
		if err := c.Webhook.Check(); err != nil {
			problems = append(problems, err)
		}
	}
	if c.Open == nil {
		bad("server.Config: Open is nil: say how clusters are opened")
	}
	return errors.Join(problems...)
}

// loopback says whether a host is this machine and nothing but that.
func loopback(host string) bool {
	if strings.EqualFold(host, "localhost") {
		return true
	}
	ip := net.ParseIP(host)
	return ip != nil && ip.IsLoopback()
}

// server is one run.
type server struct {
	cfg  Config
	id   string
	log  *zap.Logger
	db   *store.Store
	meta *metadata.Store
	api  huma.API

	calls   *http.ServeMux // of the API
	metrics *metrics

	ctl      *migrate.Controller
	people   *people.Service
	requests *requests.Service
	fleet    *fleet.Service
	drift    *reconcile.Service
	stress   *stress.Service

	leads    atomic.Bool
	changed  chan struct{} // has a token when leads has changed
	underWay atomic.Int64
	streams  atomic.Int64    // that are open
	stopping context.Context // ends when no question is to be kept open any more
}

// Run serves until ctx ends, which is no error: then the leadership is given up at once, the server leaves ZooKeeper,
// requests that are under way get up to 30 s to end, and everything is closed. Else the error is why it could not begin or
// go on: ErrInvalid, ErrConflict (the store belongs to another root, see Config.Adopt), ErrNotAllowed, ErrTimeout.
func Run(ctx context.Context, cfg Config) (err error) {
	if err := cfg.Check(); err != nil {
		return err
	}
	if cfg.Logger == nil {
		cfg.Logger = zap.NewNop()
	}
	if cfg.ZooKeeper.Logger == nil {
		cfg.ZooKeeper.Logger = cfg.Logger
	}
	if cfg.Rate == 0 {
		cfg.Rate = DefaultRate
	}
	if cfg.StartLimit <= 0 {
		cfg.StartLimit = defaultStart
	}
	s := &server{cfg: cfg, id: metadata.NewInstanceID(), changed: make(chan struct{}, 1)}
	s.log = cfg.Logger.With(zap.String("server", s.id))
	starting, started := context.WithTimeout(ctx, cfg.StartLimit)
	defer started()

	listener, err := net.Listen("tcp", cfg.Listen)
	if err != nil {
		return fmt.Errorf("%w; give another address (--listen 127.0.0.1:7071), or port 0 for a free one", err)
	}
	defer listener.Close() // after the HTTP server has: for nothing
	if s.cfg.URL == "" {
		s.cfg.URL = s.address(listener.Addr())
	}
	var counting net.Listener
	if cfg.Metrics != "" {
		if counting, err = net.Listen("tcp", cfg.Metrics); err != nil {
			return fmt.Errorf("listen for metrics: %w", err)
		}
		defer counting.Close() // as above
	}
	if s.meta, err = metadata.Open(cfg.ZooKeeper); err != nil {
		return err
	}
	defer func() { s.closed("ZooKeeper", within(s.meta.Close)) }()
	if s.db, err = store.Open(starting, cfg.Database, s.log); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.db.Close()) }()
	if _, err := s.meta.WaitConnected(starting); err != nil {
		return fmt.Errorf("%w; check that ZooKeeper runs, and its address", err)
	}
	if err := s.claim(starting); err != nil {
		return err
	}
	pool := clusters.NewPool(s.meta, cfg.Open, "turnout-serve-"+s.id, clusterLinger, s.log)
	defer func() { s.closed("clusters", within(pool.Close)) }()
	s.ctl = migrate.New(s.db, s.meta, pool, s.log, migrate.Options{Webhook: cfg.Webhook != nil})
	s.people = people.New(s.db, people.Options{Hashing: cfg.Hashing, Log: s.log})
	if s.fleet, err = fleet.New(fleet.Config{Meta: s.meta, DB: s.db, Pool: pool, ID: s.id, About: about(), Log: s.log}); err != nil {
		return err
	}
	if s.stress, err = stress.New(stress.Config{Meta: s.meta, DB: s.db, Pool: pool, Fleet: s.fleet, ID: s.id, Log: s.log}); err != nil {
		return err
	}
	if s.requests, err = requests.NewService(requests.Config{
		Store: s.db, Meta: s.meta, Pool: pool, Open: cfg.Open, Migrations: s.ctl, Server: s.id, Webhook: cfg.Webhook, Secrets: cfg.Secrets, Logger: s.log,
		Handlers: map[string]requests.Handler{requests.KindStress: s.stress.Handler()},
	}); err != nil {
		return err
	}
	if s.drift, err = reconcile.New(reconcile.Config{Meta: s.meta, DB: s.db, Pool: pool, ID: s.id, About: about(), Log: s.log}); err != nil {
		return err
	}
	s.warn(starting)
	if err := s.invite(starting); err != nil {
		return err
	}
	job, err := coord.NewJob(s.meta, "controller", s.id, s.log)
	if err != nil {
		return err
	}
	s.newMetrics()
	defer s.countSessions()()
	return s.serve(ctx, listener, counting, job)
}

// about is what this server says of itself in the jobs.
func about() metadata.Instance {
	host, _ := os.Hostname() // for people
	return metadata.Instance{V: 1, Host: host, PID: os.Getpid(), Started: time.Now().UTC()}
}

// warn says loudly what a server without login opens.
func (s *server) warn(ctx context.Context) {
	if !s.cfg.NoLogin {
		return
	}
	if users, err := s.db.Users(ctx, "", 1); err == nil && len(users) > 0 {
		s.log.Warn("everybody on this machine may do everything with this server, without logging in, though its store has users: leave out --no-login, or give it another --data-dir and root")
	}
}

// invite hands over the token of the first administrator, if there is none yet or it is wanted again.
func (s *server) invite(ctx context.Context) error {
	if s.cfg.NoLogin || s.cfg.Invite == nil {
		return nil
	}
	token := s.people.Bootstrap
	if s.cfg.Recover {
		token = s.people.Recover
	}
	i, err := token(ctx)
	if err == nil && i != nil {
		s.cfg.Invite(*i)
	}
	return err
}

// closed notes that a connection did not end in order, as when the other side does not answer: it is cut, and nothing is lost.
func (s *server) closed(what string, err error) {
	if err != nil {
		s.log.Warn("not closed in order", zap.String("what", what), zap.Error(err))
	}
}

// within ends what can be closed in a short time.
func within(end func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(context.Background(), closeLimit)
	defer cancel()
	return end(ctx)
}

// address is the URL of what we listen on. Who listens on all addresses is reached by the one in the instance id.
func (s *server) address(a net.Addr) string {
	host, port, err := net.SplitHostPort(a.String())
	if err != nil {
		return "http://" + a.String()
	}
	if ip := net.ParseIP(host); ip != nil && ip.IsUnspecified() {
		host, _, _ = strings.Cut(s.id, "@")
	}
	return (&url.URL{Scheme: "http", Host: net.JoinHostPort(host, port)}).String()
}

// serve runs what a server consists of, and ends it in order.
func (s *server) serve(ctx context.Context, listener, counting net.Listener, job *coord.Job) error {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	s.stopping = ctx
	web := &http.Server{
		Handler:           s.handler(),
		ReadHeaderTimeout: min(5*time.Second, cmp.Or(s.cfg.ReadLimit, defaultRead)),
		ReadTimeout:       cmp.Or(s.cfg.ReadLimit, defaultRead),
		WriteTimeout:      longest + 30*time.Second,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    64 << 10,
		ErrorLog:          zap.NewStdLog(s.log.WithOptions(zap.IncreaseLevel(zap.WarnLevel))),
	}
	var all sync.WaitGroup
	ended := make(chan error, 6)
	var webs []*http.Server
	answer := func(web *http.Server, on net.Listener) {
		webs = append(webs, web)
		all.Go(func() {
			if err := web.Serve(on); !errors.Is(err, http.ErrServerClosed) {
				ended <- fmt.Errorf("http: %w", err)
			}
		})
	}
	answer(web, listener)
	info := Info{ID: s.id, URL: s.cfg.URL, Store: s.db.String()}
	if counting != nil {
		answer(s.metricsServer(), counting)
		info.Metrics = s.address(counting.Addr()) + "/metrics"
	}
	all.Go(func() {
		// It ends by itself only when this server can not lead.
		if err := job.Campaign(ctx, betweenTerms, s.lead); ctx.Err() == nil {
			ended <- fmt.Errorf("this server can not lead: %w", err)
		}
	})
	all.Go(func() { s.people.Run(ctx) })
	all.Go(func() { s.sweepKeys(ctx) })
	for what, run := range map[string]func(context.Context) error{"requests": s.requests.Run, "fleet": s.fleet.Run, "reconcile": s.drift.Run, "stress": s.stress.Run} {
		all.Go(func() {
			if err := run(ctx); ctx.Err() == nil {
				ended <- fmt.Errorf("this server can not work on %s: %w", what, err)
			}
		})
	}
	announced := make(chan struct{})
	all.Go(func() { s.announce(ctx, announced) })

	var failed error
	for failed == nil && ctx.Err() == nil {
		select {
		case <-announced:
			announced = nil
			s.log.Info("serving", zap.String("url", s.cfg.URL), zap.Stringer("store", s.db))
			if s.cfg.Ready != nil {
				s.cfg.Ready(info)
			}
		case <-ctx.Done():
		case failed = <-ended:
		}
	}
	s.log.Info("stopping", zap.Error(failed))
	stop()
	draining, cancel := context.WithTimeout(context.WithoutCancel(ctx), drainLimit)
	defer cancel()
	for _, web := range webs {
		if err := web.Shutdown(draining); err != nil {
			s.log.Warn("requests did not end in time and are cut", zap.Error(err))
			failed = errors.Join(failed, web.Close())
		}
	}
	all.Wait()
	s.log.Info("stopped")
	return failed
}

// lead is one term as the leader.
func (s *server) lead(ctx context.Context, held *coord.Held) error {
	s.setLeads(true)
	defer s.setLeads(false)
	return s.ctl.Run(ctx, held.Guard())
}

func (s *server) setLeads(leads bool) {
	s.leads.Store(leads)
	select {
	case s.changed <- struct{}{}:
	default:
	}
}
