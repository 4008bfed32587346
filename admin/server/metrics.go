package server

import (
	"cmp"
	"context"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"go.uber.org/zap"

	"github.com/turnout-mq/turnout/admin/fleet"
	"github.com/turnout-mq/turnout/admin/people"
	"github.com/turnout-mq/turnout/admin/store"
	"github.com/turnout-mq/turnout/metadata"
)

const (
	groupsMost  = 200 // groups of which one server says how much is unread; of the others together
	scrapeLimit = 5 * time.Second
)

// metrics are what one run counts. Every label has few values, all of them ours, but for the names of groups, of which there are at most
// groupsMost.
type metrics struct {
	registry *prometheus.Registry
	requests *prometheus.CounterVec
	took     *prometheus.HistogramVec
	sessions atomic.Int64
}

func (s *server) newMetrics() {
	m := &metrics{
		registry: prometheus.NewRegistry(),
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "turnout_http_requests_total", Help: "Requests that were answered."}, []string{"call", "status"}),
		took: prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "turnout_http_request_duration_seconds", Help: "How long requests took; streams and waiting for events too.",
			Buckets: []float64{.005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60}}, []string{"call"}),
	}
	m.registry.MustRegister(m.requests, m.took, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}), collectors.NewBuildInfoCollector(), &state{s})
	s.metrics = m
}

// counted counts a request that was answered. Requests for what there is not have one name together.
func (s *server) counted(r *http.Request, status int, took time.Duration) {
	_, call := s.calls.Handler(r)
	switch r.URL.Path {
	case "/healthz", "/readyz", "/metrics":
		call = r.URL.Path
	default:
		if call == "" || call == "/" {
			call = "none"
		}
	}
	s.metrics.requests.WithLabelValues(call, strconv.Itoa(status)).Inc()
	s.metrics.took.WithLabelValues(call).Observe(took.Seconds())
}

// countSessions counts the sessions of ZooKeeper until cancel.
func (s *server) countSessions() (cancel func()) {
	var last int64
	return s.meta.OnSession(func(now metadata.Session) {
		if now.Connected && now.ID != last {
			last = now.ID
			s.metrics.sessions.Add(1)
		}
	})
}

// metricsHandler answers what is counted.
func (s *server) metricsHandler() http.Handler {
	return promhttp.HandlerFor(s.metrics.registry, promhttp.HandlerOpts{ErrorLog: zap.NewStdLog(s.log), ErrorHandling: promhttp.ContinueOnError, MaxRequestsInFlight: 4, Timeout: 2 * scrapeLimit})
}

// allowed lets only those through who may read.
func (s *server) allowed(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if err := people.From(r.Context()).Need(people.Read); err != nil {
			s.fail(w, r, err)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// state is what is asked for when somebody looks.
type state struct{ s *server }

func described(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("turnout_"+name, help, labels, nil)
}

var (
	leaderDesc     = described("leader", "1 if this server carries out the migrations.")
	connectedDesc  = described("zookeeper_connected", "1 if there is a session with ZooKeeper and a connection.")
	sessionsDesc   = described("zookeeper_sessions_total", "Sessions with ZooKeeper that this server has had.")
	shardsDesc     = described("shards_held", "Shards that this server looks at.", "job")
	lookedDesc     = described("monitor_topics", "Topics that this server looks at; failed: those that could not be looked at in full.", "result")
	unreadDesc     = described("group_unread_messages", "Unread messages of a group on the topics that this server looks at: the sum over all servers is the group's. Only the groups with the most.", "group")
	othersDesc     = described("other_groups_unread_messages", "Unread messages of all groups that this server does not name.")
	groupsDesc     = described("groups", "Groups that read the topics that this server looks at.")
	requestsDesc   = described("requests", "Requests by state; the same at all servers of a store.", "state")
	migrationsDesc = described("migrations_open", "Migrations that have not ended, by state; the same at all servers of a store.", "state")
	breachesDesc   = described("guard_breaches_total", "Breaches of guards of migrations that this server has found, by what was watched and what was done.", "what", "did")
	outboxDesc     = described("outbox_length", "Publications that are not in ZooKeeper yet; the same at all servers of a store.")
	driftDesc      = described("drift_open", "Differences that nobody ignores; the same at all servers of a store.", "what")
	noticesDesc    = described("webhook_waiting", "Notices that the webhook has not taken yet; the same at all servers of a store.")
	deliveriesDesc = described("webhook_deliveries_total", "What has become of attempts of this server to tell the webhook.", "result")
	scrapeDesc     = described("scrape_ok", "1 if the store has answered; else what it would have said is missing.")
)

// Describe is that of prometheus.Collector.
func (state) Describe(to chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{leaderDesc, connectedDesc, sessionsDesc, shardsDesc, lookedDesc, unreadDesc, othersDesc, groupsDesc,
		requestsDesc, migrationsDesc, breachesDesc, outboxDesc, driftDesc, noticesDesc, deliveriesDesc, scrapeDesc} {
		to <- d
	}
}

// Collect is that of prometheus.Collector.
func (c *state) Collect(to chan<- prometheus.Metric) {
	s := c.s
	gauge := func(d *prometheus.Desc, value float64, labels ...string) {
		to <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, value, labels...)
	}
	counter := func(d *prometheus.Desc, value int64, labels ...string) {
		to <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(value), labels...)
	}
	gauge(leaderDesc, flag(s.leads.Load()))
	gauge(connectedDesc, flag(s.meta.Session().Connected))
	counter(sessionsDesc, s.metrics.sessions.Load())
	told := s.requests.Told()
	counter(deliveriesDesc, told.Taken, "taken")
	counter(deliveriesDesc, told.Failed, "failed")
	counter(deliveriesDesc, told.GivenUp, "given-up")

	for _, b := range s.ctl.Breaches() {
		counter(breachesDesc, b.N, string(b.What), string(b.Did))
	}

	snapshot := s.fleet.Snapshot()
	gauge(shardsDesc, float64(len(snapshot.Shards)), fleet.Job)
	failed := 0
	for _, shard := range snapshot.Shards {
		failed += shard.Failed
	}
	gauge(lookedDesc, float64(len(snapshot.Topics)-failed), "ok")
	gauge(lookedDesc, float64(failed), "failed")
	groups := unread(snapshot.Topics)
	gauge(groupsDesc, float64(len(groups)))
	others := int64(0)
	for i, g := range groups {
		if i < groupsMost {
			gauge(unreadDesc, float64(g.unread), g.name)
		} else {
			others += g.unread
		}
	}
	gauge(othersDesc, float64(others))

	ctx, cancel := context.WithTimeout(s.stopping, scrapeLimit)
	defer cancel()
	counts, err := s.db.Counts(ctx)
	gauge(scrapeDesc, flag(err == nil))
	if err != nil {
		s.log.Warn("metrics without those of the store", zap.Error(err))
		return
	}
	for _, state := range store.RequestStates {
		gauge(requestsDesc, float64(counts.Requests[state]), string(state))
	}
	for state, n := range counts.Migrations {
		gauge(migrationsDesc, float64(n), state)
	}
	for what, n := range counts.Drift {
		gauge(driftDesc, float64(n), what)
	}
	gauge(outboxDesc, float64(counts.Outbox))
	gauge(noticesDesc, float64(counts.Notices))
}

func flag(is bool) float64 {
	if is {
		return 1
	}
	return 0
}

type groupUnread struct {
	name   string
	unread int64
}

// unread are the groups of topics, the ones with the most in front.
func unread(topics []*fleet.Topic) []groupUnread {
	sums := map[string]int64{}
	for _, t := range topics {
		for _, g := range t.Groups {
			sums[g.Group] += g.Unread
		}
	}
	list := make([]groupUnread, 0, len(sums))
	for name, n := range sums {
		list = append(list, groupUnread{name, n})
	}
	slices.SortFunc(list, func(a, b groupUnread) int {
		return cmp.Or(cmp.Compare(b.unread, a.unread), cmp.Compare(a.name, b.name))
	})
	return list
}

// metricsServer answers what is counted, and nothing else, to everybody who reaches its address.
func (s *server) metricsServer() *http.Server {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", s.metricsHandler())
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		http.Error(w, fmt.Sprintf("%s is nothing that this address answers; /metrics is", r.URL.Path), http.StatusNotFound)
	})
	return &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 10 * time.Second, WriteTimeout: 3 * scrapeLimit, IdleTimeout: 2 * time.Minute,
		MaxHeaderBytes: 16 << 10, ErrorLog: zap.NewStdLog(s.log.WithOptions(zap.IncreaseLevel(zap.WarnLevel)))}
}
