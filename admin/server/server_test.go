package server_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"go.uber.org/zap/zaptest"

	"github.com/turnout-mq/turnout/admin/migrate"
	"github.com/turnout-mq/turnout/admin/server"
	"github.com/turnout-mq/turnout/admin/server/api"
	"github.com/turnout-mq/turnout/admin/store"
	"github.com/turnout-mq/turnout/broker"
	"github.com/turnout-mq/turnout/broker/drivers"
	"github.com/turnout-mq/turnout/internal/errs"
	"github.com/turnout-mq/turnout/metadata"
	"github.com/turnout-mq/turnout/testenv"
	"github.com/turnout-mq/turnout/testenv/leaks"
	"github.com/turnout-mq/turnout/testenv/zkserver"
)

const (
	patience = time.Minute
	tick     = 10 * time.Millisecond
)

var databases testenv.SQL

func TestMain(m *testing.M) {
	code := m.Run()
	if err := errors.Join(databases.Close(), goleak.Find(leaks.Libraries()...)); err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

// running is a server that runs.
type running struct {
	server.Info
	database string
	stop     context.CancelFunc
	ready    chan server.Info
	err      chan error
}

func run(t *testing.T, zookeeper, database string, change func(*server.Config)) *running {
	t.Helper()
	r := begin(t, zookeeper, database, change)
	r.await(t)
	return r
}

func begin(t *testing.T, zookeeper, database string, change func(*server.Config)) *running {
	t.Helper()
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	r := &running{database: database, stop: cancel, ready: make(chan server.Info, 1), err: make(chan error, 1)}
	cfg := server.Config{
		ZooKeeper: metadata.Config{ZooKeeper: zookeeper, SessionTimeout: 30 * time.Second},
		Database:  database, Listen: "127.0.0.1:0", Open: drivers.Open, Logger: zaptest.NewLogger(t), NoLogin: true,
		Ready: func(i server.Info) { r.ready <- i },
	}
	if change != nil {
		change(&cfg)
	}
	go func() { r.err <- server.Run(ctx, cfg) }()
	t.Cleanup(func() { require.NoError(t, r.end(t)) })
	return r
}

// await returns when it answers.
func (r *running) await(t *testing.T) {
	t.Helper()
	select {
	case r.Info = <-r.ready:
	case err := <-r.err:
		r.err <- err
		require.FailNow(t, "the server did not begin", "%v", err)
	case <-time.After(patience):
		require.FailNow(t, "the server did not begin in time")
	}
}

func (r *running) end(t *testing.T) error {
	t.Helper()
	r.stop()
	select {
	case err := <-r.err:
		r.err <- err
		return err
	case <-time.After(patience):
		require.FailNow(t, "the server did not stop")
		return nil
	}
}

func startZooKeeper(t *testing.T) *zkserver.Server {
	t.Helper()
	s, err := zkserver.Start(t.Context(), zkserver.Options{})
	require.NoError(t, err)
	t.Cleanup(s.Close)
	return s
}

func openMeta(t *testing.T, zookeeper string) *metadata.Store {
	t.Helper()
	s, err := metadata.Open(metadata.Config{ZooKeeper: zookeeper, SessionTimeout: 30 * time.Second})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, s.Close(context.WithoutCancel(t.Context()))) })
	_, err = s.WaitConnected(t.Context())
	require.NoError(t, err)
	return s
}

func fixed(urls ...string) func(context.Context) ([]string, error) {
	return func(context.Context) ([]string, error) { return urls, nil }
}

func client(t *testing.T, find func(context.Context) ([]string, error), o api.Options) *api.Client {
	t.Helper()
	c := api.New(find, o)
	t.Cleanup(c.Close)
	return c
}

// plain is a client that keeps no connections.
func plain(t *testing.T) *http.Client {
	t.Helper()
	transport := &http.Transport{DisableKeepAlives: true}
	return &http.Client{Transport: transport}
}

// ask sends one request and returns the status and the answer.
func ask(t *testing.T, method, url, body string, headers ...string) (int, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, url, strings.NewReader(body))
	require.NoError(t, err)
	for i := 0; i < len(headers); i += 2 {
		if headers[i] == "Host" {
			req.Host = headers[i+1]
		}
		req.Header.Set(headers[i], headers[i+1])
	}
	resp, err := plain(t).Do(req)
	require.NoError(t, err)
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	require.Regexp(t, `^application/(problem\+)?json$`, resp.Header.Get("Content-Type"), "%s", answer)
	return resp.StatusCode, string(answer)
}

func TestErrorsAreStructured(t *testing.T) {
	z := startZooKeeper(t)
	s := run(t, z.ConnectString(), databases.Database(t), nil)
	base := s.URL + "/api/v1/migrations"
	for _, c := range []struct {
		name, method, url, body string
		headers                 []string
		status                  int
		code, says              string
	}{
		{"no such call", "GET", s.URL + "/api/v2/x", "", nil, 404, "not-found", "/api/v2/x"},
		{"not below /api", "GET", s.URL + "/", "", nil, 404, "not-found", "GET /"},
		{"wrong method", "DELETE", base + "/m-1", "", nil, 405, "invalid", "use GET or HEAD"},
		{"wrong method of what could be an id", "PATCH", base + "/plan", "", nil, 405, "invalid", "use POST"},
		{"unknown migration", "GET", base + "/m-99", "", nil, 404, "not-found", "m-99"},
		{"not an id", "GET", base + "/x%20y/live", "", nil, 400, "invalid", "m-17"},
		{"no receipt", "GET", base + "/m-99/receipt", "", nil, 404, "not-found", "m-99"},
		{"bad number", "GET", base + "?limit=many", "", nil, 422, "invalid", "query.limit"},
		{"bad flag", "GET", base + "?open=perhaps", "", nil, 422, "invalid", "query.open"},
		{"bad wait", "GET", base + "/m-1/events?wait=long", "", nil, 400, "invalid", "wait"},
		{"bad after", "GET", base + "/m-1/events?after=-1", "", nil, 422, "invalid", "query.after"},
		{"unknown parameter", "GET", base + "?topics=t", "", nil, 422, "invalid", "query.topics"},
		{"no body", "POST", base, "", nil, 400, "invalid", "body"},
		{"unknown field", "POST", base, `{"topic":"t","to":"b","cluster":"b"}`, nil, 422, "invalid", "body.cluster"},
		{"two documents", "POST", base + "/plan", `{"topic":"t","to":"b"} {}`, nil, 400, "invalid", "after top-level value"},
		{"large body", "POST", base + "/plan", `{"topic":"` + strings.Repeat("x", 2<<20) + `"}`, nil, 413, "too-large", "large"},
		{"bad topic", "POST", base + "/plan", `{"topic":"a/b","to":"b"}`, nil, 400, "invalid", "topic name"},
		{"bad cluster", "POST", base + "/plan", `{"topic":"t"}`, nil, 422, "invalid", "body"},
		{"nobody", "POST", base, `{"topic":"t","to":"b"}`, nil, 400, "invalid", "by"},
		{"nobody pauses", "POST", base + "/m-99/pause", `{"by":" "}`, nil, 400, "invalid", "by"},
		{"unknown topic", "POST", base, `{"topic":"t","to":"b","by":"bob"}`, nil, 404, "unknown-topic", `"t"`},
		{"another site", "POST", base, `{"topic":"t","to":"b","by":"bob"}`, []string{"Sec-Fetch-Site", "cross-site"}, 403, "not-allowed", "site"},
		{"another name", "GET", base, "", []string{"Host", "evil.example.com"}, 403, "not-allowed", "evil.example.com"},
	} {
		t.Run(c.name, func(t *testing.T) {
			status, answer := ask(t, c.method, c.url, c.body, c.headers...)
			require.Equal(t, c.status, status, answer)
			var e api.Error
			require.NoError(t, json.Unmarshal([]byte(answer), &e))
			require.Equal(t, c.status, e.Status)
			require.Equal(t, http.StatusText(c.status), e.Title)
			require.Equal(t, c.code, e.Code)
			require.Contains(t, e.Message, c.says)
		})
	}
	// A plan of what does not exist is a plan, with the finding.
	status, answer := ask(t, "POST", base+"/plan", `{"topic":"t","to":"b"}`)
	require.Equal(t, 200, status)
	require.Contains(t, answer, `"code":"unknown-topic"`)
	// Findings come with the refusal, and the client tells what kind it is.
	_, err := client(t, fixed(s.URL), api.Options{}).Start(t.Context(), api.Request{Topic: "t", To: "b", By: "bob"})
	require.ErrorIs(t, err, errs.ErrUnknownTopic)
	var e *api.Error
	require.ErrorAs(t, err, &e)
	require.Len(t, e.Findings, 1)
}

func TestOneLeadsAndTheNextOneFollows(t *testing.T) {
	z := startZooKeeper(t)
	meta, db := openMeta(t, z.ConnectString()), databases.Database(t)
	servers := func() map[string]api.Server {
		ids, err := meta.Children(t.Context(), api.ServersPath(meta.Layout))
		require.NoError(t, err)
		found := map[string]api.Server{}
		for _, id := range ids {
			n, err := meta.Read(t.Context(), api.ServersPath(meta.Layout)+"/"+id)
			require.NoError(t, err)
			var doc api.Server
			if n.Exists {
				require.NoError(t, json.Unmarshal(n.Data, &doc))
				found[id] = doc
			}
		}
		return found
	}
	leader := func(n int, id string) {
		t.Helper()
		require.Eventually(t, func() bool {
			all := servers()
			return len(all) == n && all[id].Leader
		}, patience, tick, "leader %s of %d: %v", id, n, servers())
	}
	managed, err := api.Managed(t.Context(), meta)
	require.NoError(t, err)
	require.False(t, managed)
	_, err = api.Find(t.Context(), meta)
	require.ErrorIs(t, err, errs.ErrNotFound)

	first := run(t, z.ConnectString(), db, nil)
	leader(1, first.ID)
	second := run(t, z.ConnectString(), db, nil)
	leader(2, first.ID)
	urls, err := api.Find(t.Context(), meta)
	require.NoError(t, err)
	require.ElementsMatch(t, []string{first.URL, second.URL}, urls)
	for _, u := range urls { // each answers
		list, err := client(t, fixed(u), api.Options{}).List(t.Context(), store.Filter{})
		require.NoError(t, err)
		require.Empty(t, list)
	}
	require.NoError(t, first.end(t))
	leader(1, second.ID)
	// A session that ends is followed by one in which it is announced again.
	for _, session := range z.Sessions() {
		require.NoError(t, z.ExpireSession(session.ID))
	}
	leader(1, second.ID)
	managed, err = api.Managed(t.Context(), meta)
	require.NoError(t, err)
	require.True(t, managed)
	n, err := meta.Read(t.Context(), "/turnout/admin/platform")
	require.NoError(t, err)
	require.Regexp(t, `^\{"v":1,"id":"[0-9a-f-]{36}"\}$`, string(n.Data))
}

func TestManyServersBeginAtOnce(t *testing.T) {
	z := startZooKeeper(t)
	db := databases.Database(t)
	var all []*running
	for range 4 {
		all = append(all, begin(t, z.ConnectString(), db, nil))
	}
	for _, r := range all {
		r.await(t)
	}
}

func TestReadiness(t *testing.T) {
	z := startZooKeeper(t)
	s := run(t, z.ConnectString(), databases.Database(t), nil)
	status, answer := ask(t, "GET", s.URL+"/readyz", "")
	require.Equal(t, 200, status, answer)
	z.Freeze()
	status, answer = ask(t, "GET", s.URL+"/readyz", "")
	require.Equal(t, 503, status, answer)
	require.Contains(t, answer, `"zookeeper":"does not answer"`)
	require.Contains(t, answer, `"store":"ok"`)
	status, _ = ask(t, "GET", s.URL+"/healthz", "")
	require.Equal(t, 200, status)
	z.Thaw()
	require.Eventually(t, func() bool { status, _ := ask(t, "GET", s.URL+"/readyz", ""); return status == 200 }, patience, tick)
}

// world is an environment with a topic on kafka-a.
func world(t *testing.T) (e *testenv.Env, meta *metadata.Store) {
	t.Helper()
	e, err := testenv.Start(t.Context(), testenv.Spec{ZooKeeper: 1, Kafka: []string{"kafka-a", "kafka-b"}, Proxy: true})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, e.Close()) })
	meta = openMeta(t, e.ZooKeeper())
	for _, name := range []string{"kafka-a", "kafka-b"} {
		doc := metadata.Cluster{Kind: broker.Kafka, Addresses: e.Addresses(name), ClusterID: e.ClusterID(name)}
		require.NoError(t, meta.PutCluster(t.Context(), name, doc))
		c, err := drivers.Open(t.Context(), broker.Config{Name: name, Kind: broker.Kafka, Addresses: doc.Addresses, ClientID: "test"})
		require.NoError(t, err)
		require.NoError(t, c.CreateTopic(t.Context(), "order_topic", broker.TopicSpec{Partitions: 1}))
		require.NoError(t, c.Close(t.Context()))
	}
	_, err = meta.PutTopic(t.Context(), "order_topic", metadata.PutTopic{Cluster: "kafka-a"})
	require.NoError(t, err)
	return e, meta
}

func TestEventsAreWaitedForAndEndWithTheServer(t *testing.T) {
	e, meta := world(t)
	// Somebody who never acknowledges keeps it in preparing.
	require.NoError(t, meta.Create(t.Context(), meta.ParticipantPath("order_topic", "10.9.9.9@-@1@-@0"), []byte(`{"v":1,"zxid":"0x1","write":"kafka-a"}`)))
	s := run(t, e.ZooKeeper(), databases.Database(t), nil)
	c := client(t, fixed(s.URL), api.Options{})
	m, err := c.Start(t.Context(), api.Request{Topic: "order_topic", To: "kafka-b", By: "bob", Accept: []string{"all"}})
	require.NoError(t, err)
	require.Equal(t, "bob", m.ApprovedBy)
	live := func() bool {
		l, err := c.Live(t.Context(), m.ID)
		return err == nil && l.Migration.State == "preparing" && l.Migration.Waiting != "" && len(l.Participants) == 1 && !l.Participants[0].Acked
	}
	require.Eventually(t, live, patience, tick)
	events, err := c.Events(t.Context(), m.ID, 0, 0)
	require.NoError(t, err)
	last := events[len(events)-1].Seq

	// One that waits is answered when something happens, here by who asks another server.
	type answer struct {
		events []store.Event
		err    error
	}
	answers := make(chan answer, 1)
	wait := func() {
		go func() {
			events, err := c.Events(t.Context(), m.ID, last, 20*time.Second)
			answers <- answer{events, err}
		}()
	}
	wait()
	_, err = client(t, fixed(s.URL), api.Options{}).Do(t.Context(), m.ID, api.Pause, api.Ask{By: "alice"})
	require.NoError(t, err)
	a := <-answers
	require.NoError(t, a.err)
	require.Equal(t, "alice paused it", a.events[0].Text)
	last = a.events[len(a.events)-1].Seq

	// One that waits when the server stops is answered at once.
	busy := func() bool { // what is under way is announced
		n, err := meta.Read(t.Context(), api.ServersPath(meta.Layout)+"/"+s.ID)
		require.NoError(t, err)
		var doc api.Server
		require.NoError(t, json.Unmarshal(n.Data, &doc))
		return doc.Load > 0
	}
	require.Eventually(t, func() bool { return !busy() }, patience, tick)
	wait()
	require.Eventually(t, busy, patience, tick)
	require.NoError(t, s.end(t))
	a = <-answers
	require.NoError(t, a.err)
	require.Empty(t, a.events)
}

func TestLiveSaysWhichClusterDoesNotAnswer(t *testing.T) {
	e, meta := world(t)
	require.NoError(t, meta.Create(t.Context(), meta.ParticipantPath("order_topic", "10.9.9.9@-@1@-@0"), []byte(`{"v":1,"zxid":"0x1","write":"kafka-a"}`)))
	s := run(t, e.ZooKeeper(), databases.Database(t), nil)
	c := client(t, fixed(s.URL), api.Options{})
	m, err := c.Start(t.Context(), api.Request{Topic: "order_topic", To: "kafka-b", By: "bob", Accept: []string{"all"}})
	require.NoError(t, err)
	require.Eventually(t, func() bool { l, err := c.Live(t.Context(), m.ID); return err == nil && len(l.Clusters) == 2 }, patience, tick)
	require.NoError(t, e.Delay("kafka-a", time.Hour))
	var l *migrate.Live
	// A cluster that has no time to answer, because the machine stands still, is said not to answer, too.
	require.Eventually(t, func() bool {
		l, err = c.Live(t.Context(), m.ID)
		return err == nil && l.Clusters[1].Error == ""
	}, patience, tick)
	require.NoError(t, e.Delay("kafka-a", 0))
	require.Equal(t, "kafka-a", l.Clusters[0].Cluster)
	require.NotEmpty(t, l.Clusters[0].Error)
	require.Equal(t, "kafka-b", l.Clusters[1].Cluster)
}

// The history of a migration as server-sent events: as it grows, again from where one was cut off, and to its end.
func TestStreamOfAMigration(t *testing.T) {
	e, meta := world(t)
	require.NoError(t, meta.Create(t.Context(), meta.ParticipantPath("order_topic", "10.9.9.9@-@1@-@0"), []byte(`{"v":1,"zxid":"0x1","write":"kafka-a"}`)))
	s := run(t, e.ZooKeeper(), databases.Database(t), nil)
	c := client(t, fixed(s.URL), api.Options{})
	m, err := c.Start(t.Context(), api.Request{Topic: "order_topic", To: "kafka-b", By: "bob", Accept: []string{"all"}})
	require.NoError(t, err)
	status, answer := ask(t, "GET", s.URL+"/api/v1/migrations/m-99/stream", "")
	require.Equal(t, 404, status, answer)

	open := func(after string) *bufio.Scanner {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, s.URL+"/api/v1/migrations/"+m.ID+"/stream", nil)
		require.NoError(t, err)
		req.Header.Set("Last-Event-ID", after)
		resp, err := plain(t).Do(req)
		require.NoError(t, err)
		t.Cleanup(func() { require.NoError(t, resp.Body.Close()) })
		require.Equal(t, "text/event-stream", resp.Header.Get("Content-Type"))
		return bufio.NewScanner(resp.Body)
	}
	until := func(lines *bufio.Scanner, text string) (all string) {
		for lines.Scan() {
			all += lines.Text() + "\n"
			if strings.Contains(lines.Text(), text) {
				return all
			}
		}
		require.FailNow(t, "the stream has ended", "without %q: %s, %v", text, all, lines.Err())
		return ""
	}
	lines := open("0")
	require.Contains(t, until(lines, `"seq":1,`), "id: 1\nevent: event\ndata: {")
	_, err = c.Do(t.Context(), m.ID, api.Pause, api.Ask{By: "alice"})
	require.NoError(t, err)
	until(lines, "alice paused it")
	require.NotContains(t, until(open("1"), "alice paused it"), `"seq":1,`)
	require.NoError(t, meta.Delete(t.Context(), meta.ParticipantPath("order_topic", "10.9.9.9@-@1@-@0"), metadata.AnyVersion))
	_, err = c.Do(t.Context(), m.ID, api.Resume, api.Ask{By: "alice"})
	require.NoError(t, err)
	until(lines, "event: ended")
	until(lines, `"outcome":"done"`)
	for lines.Scan() {
		require.Empty(t, lines.Text(), "it is over")
	}
}

// flaky is a server whose answers are made by the test.
func flaky(t *testing.T, f http.HandlerFunc) string {
	t.Helper()
	s := httptest.NewServer(f)
	t.Cleanup(s.Close)
	return s.URL
}

func cut(w http.ResponseWriter) {
	conn, _, err := http.NewResponseController(w).Hijack()
	if err == nil {
		_ = conn.Close()
	}
}

func TestClientAsksAnotherServer(t *testing.T) {
	var asked atomic.Int64
	dead := httptest.NewServer(http.NotFoundHandler())
	dead.Close()
	keys := make(chan string, 10) // that have arrived at good
	cutting := flaky(t, func(w http.ResponseWriter, _ *http.Request) { asked.Add(1); cut(w) })
	good := flaky(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPost {
			keys <- r.Header.Get(api.KeyHeader)
			_, _ = io.WriteString(w, `{"id":"m-1"}`)
			return
		}
		_, _ = io.WriteString(w, `[]`)
	})
	// What only looks goes on to the next one, whatever happened.
	_, err := client(t, fixed(dead.URL, cutting, good), api.Options{}).List(t.Context(), store.Filter{})
	require.NoError(t, err)
	require.Equal(t, int64(1), asked.Load())
	// What starts something goes on, too, with the same key.
	c := client(t, fixed(dead.URL, good), api.Options{})
	m, err := c.Start(t.Context(), api.Request{})
	require.NoError(t, err)
	require.Equal(t, "m-1", m.ID)
	m, err = client(t, fixed(cutting, good), api.Options{}).Start(t.Context(), api.Request{})
	require.NoError(t, err)
	require.Equal(t, "m-1", m.ID)
	require.Equal(t, int64(2), asked.Load())
	require.Len(t, keys, 2)
	one := <-keys
	require.NotEmpty(t, one)
	require.NotEqual(t, one, <-keys, "each call has its own")
	// Where its answer was lost everywhere, or there are no keys, nobody knows.
	_, err = client(t, fixed(cutting, dead.URL), api.Options{}).Start(t.Context(), api.Request{})
	require.ErrorIs(t, err, errs.ErrTimeout)
	require.ErrorContains(t, err, "it may have happened or not")
	require.ErrorIs(t, client(t, fixed(cutting, good), api.Options{}).Once(t.Context(), "POST", "/claim", nil, nil), errs.ErrTimeout)
	require.Equal(t, int64(4), asked.Load(), "asked once")
	require.Empty(t, keys)

	// Nobody answers: at once without patience, and in time with it.
	_, err = client(t, fixed(dead.URL), api.Options{}).List(t.Context(), store.Filter{})
	require.ErrorIs(t, err, api.ErrUnavailable)
	var troubles atomic.Int64
	late := func(context.Context) ([]string, error) {
		if troubles.Load() < 3 {
			return nil, errs.ErrNotFound
		}
		return []string{good}, nil
	}
	_, err = client(t, late, api.Options{Patience: patience, Trouble: func(error) { troubles.Add(1) }}).List(t.Context(), store.Filter{})
	require.NoError(t, err)
	require.Equal(t, int64(3), troubles.Load())
	ctx, cancel := context.WithCancel(t.Context())
	_, err = client(t, fixed(dead.URL), api.Options{Patience: patience, Trouble: func(error) { cancel() }}).List(ctx, store.Filter{})
	require.ErrorIs(t, err, context.Canceled)
}

func TestClientGivesTheTokenToTheServerAlone(t *testing.T) {
	elsewhere := flaky(t, func(http.ResponseWriter, *http.Request) { t.Error("a redirection was followed") })
	s := flaky(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "Bearer s3cret" {
			t.Error("no token")
		}
		http.Redirect(w, r, elsewhere, http.StatusFound)
	})
	_, err := client(t, fixed(s), api.Options{Token: "s3cret"}).List(t.Context(), store.Filter{})
	require.ErrorContains(t, err, "302")
	require.NotContains(t, err.Error(), "s3cret")
}

func TestBatchThatIsInterrupted(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	s := flaky(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPost {
			_, _ = io.WriteString(w, `{"id":"m-1"}`)
			return
		}
		cancel() // they run, and are waited for
		<-r.Context().Done()
	})
	c := client(t, fixed(s), api.Options{})
	done, err := c.MoveAll(ctx, api.Batch{Topics: []string{"a", "b", "c"}, Parallel: 1})
	require.Empty(t, done)
	var partial *api.PartialError
	require.ErrorAs(t, err, &partial)
	require.Empty(t, partial.Failed)
	require.Equal(t, "a", partial.Running[0].Topic)
	require.Equal(t, []string{"b", "c"}, partial.NotBegun)
	require.ErrorContains(t, err, "0 of 3 topics were moved; a goes on as m-1; not begun: b c")

	for _, b := range []api.Batch{{Parallel: 1}, {Topics: []string{"a"}}, {Topics: []string{"a", "a"}, Parallel: 1}} {
		_, err = c.MoveAll(t.Context(), b)
		require.ErrorIs(t, err, errs.ErrInvalid)
	}
}
