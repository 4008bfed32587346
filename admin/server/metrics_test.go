package server_test

import (
	"io"
	"net"
	"net/http"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/turnout-mq/turnout/admin/server"
	"github.com/turnout-mq/turnout/metadata"
)

// scrape asks for the metrics, with a token where there is one.
func scrape(t *testing.T, url, token string) (status int, text string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	require.NoError(t, err)
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	resp, err := plain(t).Do(req)
	require.NoError(t, err)
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	return resp.StatusCode, string(answer)
}

func metricsAndPeople(t *testing.T, s *running, alice *person) {
	t.Helper()
	status, _ := scrape(t, s.URL+"/metrics", "")
	require.Equal(t, 401, status)
	for scope, want := range map[string]int{"read": 200, "apply": 403} {
		token := alice.does("POST", "/tokens", map[string]any{"name": scope, "scopes": []string{scope}})["secret"].(string)
		status, text := scrape(t, s.URL+"/metrics", token)
		require.Equal(t, want, status, text)
		require.NotContains(t, text, token)
	}
}

func TestMetrics(t *testing.T) {
	e, meta := world(t)
	require.NoError(t, meta.PutGroup(t.Context(), "billing", metadata.Group{Topics: []string{"order_topic"}}))
	s := run(t, e.ZooKeeper(), databases.Database(t), func(c *server.Config) { c.Metrics = "127.0.0.1:0" })
	p := &person{T: t, url: s.URL}
	p.does("POST", "/requests", claimOf("billing"))
	p.refused(404, "GET", "/requests/r-77", nil)
	p.refused(404, "GET", "/no/such/call/1", nil)
	p.refused(404, "GET", "/no/such/call/2", nil)
	p.refused(405, "PURGE", "/requests", nil)
	var text string
	has := func(lines ...string) bool {
		status, answer := scrape(t, s.Metrics, "")
		text = answer
		require.Equal(t, 200, status, text)
		for _, line := range lines {
			if !regexp.MustCompile(`(?m)^` + line + `$`).MatchString(text) {
				return false
			}
		}
		return true
	}
	require.Eventually(t, func() bool {
		return has(`turnout_http_requests_total\{call="POST /api/v1/requests",status="201"\} 1`,
			`turnout_http_requests_total\{call="GET /api/v1/requests/\{id\}",status="404"\} 1`,
			`turnout_http_requests_total\{call="none",status="404"\} 2`, `turnout_http_requests_total\{call="none",status="405"\} 1`,
			`turnout_http_request_duration_seconds_count\{call="POST /api/v1/requests"\} 1`,
			`turnout_requests\{state="submitted"\} 1`, `turnout_requests\{state="failed"\} 0`,
			`turnout_guard_breaches_total\{did="page",what="time"\} 0`, `turnout_outbox_length 0`, `turnout_webhook_waiting 0`, `turnout_webhook_deliveries_total\{result="taken"\} 0`,
			`turnout_zookeeper_connected 1`, `turnout_zookeeper_sessions_total [1-9]`, `turnout_scrape_ok 1`, `go_goroutines \d+`, `process_cpu_seconds_total .*`)
	}, patience, tick)
	require.Eventually(t, func() bool {
		return has(`turnout_leader 1`, `turnout_shards_held\{job="monitor"\} 32`, `turnout_monitor_topics\{result="ok"\} 1`, `turnout_groups 1`,
			`turnout_group_unread_messages\{group="billing"\} 0`, `turnout_drift_open\{what="unknown"\} [1-9]\d*`)
	}, patience, tick)

	// The second address answers nothing else, and ends with the server.
	status, _ := scrape(t, strings.TrimSuffix(s.Metrics, "/metrics")+"/api/v1/requests", "")
	require.Equal(t, 404, status)
	require.NoError(t, s.end(t))
	_, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", strings.TrimSuffix(strings.TrimPrefix(s.Metrics, "http://"), "/metrics"))
	require.Error(t, err, "it is over")
}
