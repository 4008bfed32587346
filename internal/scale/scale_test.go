package scale

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/turnout-mq/turnout/admin/backup"
	"github.com/turnout-mq/turnout/metadata"
	"github.com/turnout-mq/turnout/testenv"
)

const (
	patience = 20 * time.Minute // with thousands of topics, on a machine that does something else besides
	tick     = 20 * time.Millisecond
	pageMost = 1000
)

// size says how much there is. TURNOUT_SCALE is the number of topics; without it there are a few, so that what is measured is seen to
// work.
func size(t *testing.T) (topics, groups, filed, edits int, rest time.Duration) {
	text := os.Getenv("TURNOUT_SCALE")
	if text == "" {
		return 40, 12, 5, 1, 0
	}
	topics, err := strconv.Atoi(text)
	require.NoError(t, err, "TURNOUT_SCALE")
	require.GreaterOrEqual(t, topics, 10, "TURNOUT_SCALE")
	return topics, topics * 3 / 10, 100, 3, 30 * time.Second
}

func eventually(t *testing.T, ok func() bool, what string) {
	t.Helper()
	every(t, tick, ok, what)
}

// every asks seldom what is work to answer, so as not to be in the way of what is measured.
func every(t *testing.T, pause time.Duration, ok func() bool, what string) {
	t.Helper()
	for end := time.Now().Add(patience); !ok(); <-time.After(pause) {
		if time.Now().After(end) {
			require.FailNow(t, "waited in vain for: "+what)
		}
	}
}

// report says what was measured, as rows of a table.
type report struct{ *testing.T }

func (r *report) add(what, format string, args ...any) {
	r.Logf("| %s | %s |", what, fmt.Sprintf(format, args...))
}

// took adds how long f takes: the one in the middle of n times.
func (r *report) took(what string, n int, f func()) {
	r.Helper()
	all := make([]time.Duration, n)
	for i := range all {
		begin := time.Now()
		f()
		all[i] = time.Since(begin)
	}
	slices.Sort(all)
	r.add(what, "%s", round(all[n/2]))
}

func round(d time.Duration) string {
	switch {
	case d < 10*time.Millisecond:
		return d.Round(10 * time.Microsecond).String()
	case d < time.Second:
		return d.Round(time.Millisecond).String()
	}
	return d.Round(10 * time.Millisecond).String()
}

func megabytes(bytes float64) string { return fmt.Sprintf("%.0f MB", bytes/(1<<20)) }

// people is who asks the server.
type people struct {
	*testing.T
	url  string
	http *http.Client
}

func (p *people) ask(method, path string, body, answer any) {
	p.Helper()
	var doc []byte
	var err error
	if body != nil {
		doc, err = json.Marshal(body)
		require.NoError(p, err)
	}
	req, err := http.NewRequestWithContext(p.Context(), method, p.url+"/api/v1"+path, bytes.NewReader(doc))
	require.NoError(p, err)
	resp, err := p.http.Do(req)
	require.NoError(p, err)
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	require.NoError(p, err)
	require.Less(p, resp.StatusCode, 300, "%s %s: %s", method, path, data)
	if answer != nil {
		require.NoError(p, json.Unmarshal(data, answer), "%s", data)
	}
}

type page struct {
	Items []struct{ ID, Name, State, Error string }
	Next  string
}

// list reads one page.
func (p *people) list(path string) (got page) {
	p.Helper()
	p.ask("GET", path, nil, &got)
	return got
}

// all counts what all pages have.
func (p *people) all(path string) (n int) {
	p.Helper()
	for after := ""; ; {
		got := p.list(path + "?limit=" + strconv.Itoa(pageMost) + after)
		n += len(got.Items)
		if got.Next == "" {
			return n
		}
		after = "&after=" + got.Next
	}
}

// done waits until requests have ended well.
func (p *people) done(ids ...string) {
	p.Helper()
	for _, id := range ids {
		eventually(p.T, func() bool {
			var r struct{ State, Error string }
			p.ask("GET", "/requests/"+id, nil, &r)
			require.NotEqual(p, "failed", r.State, r.Error)
			return r.State == "done"
		}, id)
	}
}

func (p *people) file(doc any) (id string) {
	p.Helper()
	var r struct{ ID string }
	p.ask("POST", "/requests", doc, &r)
	return r.ID
}

// word asks the ZooKeeper for a number of its own.
func word(t *testing.T, address, name string) (n int64) {
	t.Helper()
	conn, err := (&net.Dialer{Timeout: patience}).DialContext(t.Context(), "tcp", address)
	require.NoError(t, err)
	defer conn.Close()
	_, err = conn.Write([]byte("mntr"))
	require.NoError(t, err)
	text, err := io.ReadAll(conn)
	require.NoError(t, err)
	for line := range strings.Lines(string(text)) {
		if rest, is := strings.CutPrefix(line, name+"\t"); is {
			_, err := fmt.Sscan(rest, &n)
			require.NoError(t, err)
			return n
		}
	}
	require.FailNow(t, "the ZooKeeper does not say "+name)
	return 0
}

// What people and servers do with many topics and groups, one after the other, on a platform with one server. TURNOUT_SCALE says how
// many there are.
func TestScale(t *testing.T) {
	testenv.EachSQL(t, func(t *testing.T, database func() string) { measure(t, database()) })
}

func measure(t *testing.T, database string) {
	topics, groups, filed, edits, rest := size(t)
	r := &report{t}
	w := newWorld(t, database, topics, groups)
	zookeeper := w.env.ZooKeeper()
	r.add("ZooKeeper nodes", "%d", word(t, zookeeper, "zk_znode_count"))

	spec := childSpec{zookeeper, database, filepath.Join(t.TempDir(), "server.log")}
	s := startServer(t, spec)
	transport := &http.Transport{MaxIdleConnsPerHost: 16}
	p := &people{t, s.url, &http.Client{Transport: transport, Timeout: patience}}
	t.Cleanup(transport.CloseIdleConnections)
	r.add("server start until it answers", "%s", round(s.ready))
	r.add("first look of the reconciler, clusters asked about every topic", "%s", round(s.whole("a shard was compared", s.began)))
	r.add("first look of the monitor, every topic and group", "%s", round(s.whole("a shard was looked at", s.began)))
	require.Empty(t, p.list("/drift").Items, "store, ZooKeeper and clusters were filled with the same")
	if rest > 0 {
		s.rounds("a shard was compared", time.Now()) // clusters are asked again after minutes only
	}
	w.resting(r, s, "at rest", rest)
	r.add("heap, at rest", "%s", megabytes(s.memory()))

	// Reading.
	some := topicName(topics / 2)
	r.took("list: 100 topics", 5, func() { require.Len(t, p.list("/topics").Items, min(100, topics)) })
	r.took("list: 100 topics from the middle", 5, func() { require.NotEmpty(t, p.list("/topics?after="+some).Items) })
	r.took("list: all topics, 1,000 a page", 3, func() { require.Equal(t, topics, p.all("/topics")) })
	r.took("list: all groups, 1,000 a page", 3, func() { require.Equal(t, groups, p.all("/groups")) })
	r.took("search: topics by a part of the name", 5, func() { require.Len(t, p.list("/topics?text="+some[3:]).Items, 1) })
	r.took("search: topics of an application", 5, func() { require.NotEmpty(t, p.list("/topics?app="+appName(0)).Items) })
	r.took("search: topics on a cluster", 5, func() { require.NotEmpty(t, p.list("/topics?cluster="+clusterNames[1]).Items) })
	r.took("one topic", 5, func() { p.ask("GET", "/topics/"+some, nil, nil) })
	r.took("requests: the newest 100", 5, func() { require.NotEmpty(t, p.list("/requests").Items) })
	r.took("requests: by a part of the name", 5, func() { require.Len(t, p.list("/requests?text="+some[3:]).Items, 1) })
	r.took("requests: to be decided", 5, func() { require.Empty(t, p.list("/requests?state=submitted").Items) })
	r.took("requests: of an application", 5, func() { require.NotEmpty(t, p.list("/requests?app="+appName(0)).Items) })
	r.took("requests: of an applicant", 5, func() { require.NotEmpty(t, p.list("/requests?applicant="+applicant).Items) })
	r.took("requests: counted by state", 5, func() { p.ask("GET", "/requests/counts", nil, nil) })
	for name, query := range map[string]string{
		"of one thing": "kind=topic&subject=" + some, "of one user": "who=" + applicant, "of one action": "action=finish", "from one address": "address=192.0.2.1",
		"since a time": "from=" + w.filled.UTC().Format("2006-01-02T15:04:05Z"), "that nobody did": "action=none", "of one request": "request=r-7",
	} {
		r.took("audit: "+name, 5, func() { p.list("/audit?" + query) })
	}
	r.took("audit: all of it exported", 1, func() { p.ask("GET", "/audit/export", nil, nil) })
	r.took("fleet: one topic", 5, func() { p.ask("GET", "/fleet/topics/"+some, nil, nil) })
	r.took("fleet: one group", 5, func() { p.ask("GET", "/fleet/groups/"+groupName(0), nil, nil) })
	r.took("fleet: the 20 groups with the most unread messages", 5, func() { p.ask("GET", "/fleet/top", nil, nil) })
	r.took("fleet: the instances of an application", 5, func() { p.ask("GET", "/fleet/applications/"+appName(0), nil, nil) })
	r.took("plan of a migration", 3, func() { p.ask("POST", "/migrations/plan", map[string]any{"topic": some, "to": w.other(some)}, nil) })

	// Publishing. Nobody has to approve, so that one person can do it.
	for _, kind := range []string{"topic", "group", "settings"} {
		p.ask("PUT", "/policies/"+kind, map[string]any{"kind": kind, "approval": false, "days": 14, "version": 0}, nil)
	}
	n := 0
	topic := func() any {
		n++
		return map[string]any{"topic": map[string]any{"name": fmt.Sprintf("new_%05d", n), "app": appName(n), "partitions": partitions, "cluster": clusterNames[n%2]}}
	}
	r.took("publish: a topic, from the request to done", 3, func() { p.done(p.file(topic())) })
	r.took("publish: a group, from the request to done", 3, func() {
		n++
		p.done(p.file(map[string]any{"group": map[string]any{"name": fmt.Sprintf("new_group_%05d", n), "app": appName(0), "topics": []string{topicName(0), topicName(1)}}}))
	})
	r.took("publish: a setting of a topic, from the request to done", 3, func() {
		n++
		p.done(p.file(map[string]any{"settings": map[string]any{"topic": map[string]any{"name": topicName(n), "labels": map[string]string{"tier": "gold"}}}}))
	})
	r.took(fmt.Sprintf("publish: %d topics at once, until all are done", filed), 1, func() {
		docs := make([]any, filed)
		for i := range docs {
			docs[i] = topic()
		}
		ids := make([]string, filed)
		var all sync.WaitGroup
		turns := make(chan struct{}, 8)
		for i := range docs {
			all.Go(func() {
				turns <- struct{}{}
				ids[i] = p.file(docs[i])
				<-turns
			})
		}
		all.Wait()
		p.done(ids...)
	})

	// Edits by hand.
	edit := 0
	r.took("drift: an edit by hand, until it is shown", edits, func() {
		edit++
		name := topicName(topics - edit)
		settings := metadata.DefaultTopicSettings()
		settings.App = "by_hand"
		require.NoError(t, w.meta.PutSettings(t.Context(), name, settings))
		eventually(t, func() bool { return len(p.list("/drift?kind=topic&name="+name).Items) == 1 }, "the edit of "+name+" to be shown")
	})
	many := max(topics/10, 5)
	begin := time.Now()
	for i := range many {
		w.put(topicNodes(w.meta, fmt.Sprintf("hand_%05d", i), "by_hand", clusterNames[0])...)
	}
	w.flush()
	eventually(t, func() bool { return p.all("/drift") >= many+edit }, "all that was made by hand to be shown")
	r.add(fmt.Sprintf("drift: %d topics made by hand, until all are shown", many), "%s", round(time.Since(begin)))
	r.took("drift: list of 100", 5, func() { require.Len(t, p.list("/drift").Items, min(100, many+edit)) })
	w.resting(r, s, "with these differences", rest)

	// Backup and restore.
	var file *backup.File
	r.took("backup", 1, func() {
		var err error
		file, err = backup.Take(t.Context(), w.meta)
		require.NoError(t, err)
	})
	var text bytes.Buffer
	require.NoError(t, file.Write(&text))
	r.add("backup, size", "%.1f MB", float64(text.Len())/(1<<20))
	empty := openMeta(t, metadata.Config{ZooKeeper: zookeeper, Root: "/restored", ShadowRoot: "/restored-zpt"})
	r.took("restore below an empty root", 1, func() {
		done, err := backup.Restore(t.Context(), empty, file)
		require.NoError(t, err)
		require.Equal(t, len(file.Nodes), done.Nodes)
		require.GreaterOrEqual(t, done.Topics, topics)
	})
	r.add("heap, after all of this", "%s", megabytes(s.memory()))
	if now, most, known := s.resident(); known {
		r.add("memory of the process (RSS), now and at the most", "%s, %s", megabytes(now), megabytes(most))
	}
	begin = time.Now()
	s.stop()
	r.add("server stop", "%s", round(time.Since(begin)))
	again := startServer(t, childSpec{zookeeper, database, filepath.Join(t.TempDir(), "again.log")})
	r.add("server start again", "%s", round(again.ready))
}

// resting adds what the server does when nobody asks it.
func (w *world) resting(r *report, s *process, when string, rest time.Duration) {
	if rest == 0 {
		return
	}
	middle, most := s.rounds("a shard was compared", time.Now())
	r.add("from look to look of the reconciler, in the middle and at the most, "+when, "%s, %s", round(middle), round(most))
	received := word(w.T, w.env.ZooKeeper(), "zk_packets_received")
	used, known := s.cpu()
	begin := time.Now()
	<-time.After(rest)
	took := time.Since(begin).Seconds()
	r.add("ZooKeeper requests a second, "+when, "%.0f", float64(word(w.T, w.env.ZooKeeper(), "zk_packets_received")-received)/took)
	r.add("ZooKeeper watches, "+when, "%d", word(w.T, w.env.ZooKeeper(), "zk_watch_count"))
	if now, _ := s.cpu(); known {
		r.add("processor of the server, "+when, "%.0f %% of one", 100*(now-used).Seconds()/took)
	}
	if now, _, known := s.resident(); known {
		r.add("memory of the process (RSS), "+when, "%s", megabytes(now))
	}
}
