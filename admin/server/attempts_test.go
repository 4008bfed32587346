package server_test

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"github.com/turnout-mq/turnout/admin/requests"
	"github.com/turnout-mq/turnout/admin/server"
)

// raw sends bytes as they are, and returns what comes back until the server ends the connection.
func raw(t *testing.T, server, text string) string {
	t.Helper()
	u, err := url.Parse(server)
	require.NoError(t, err)
	conn, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", u.Host)
	require.NoError(t, err)
	defer conn.Close()
	require.NoError(t, conn.SetDeadline(time.Now().Add(patience)))
	_, _ = io.WriteString(conn, text) // the server may end the connection before it has read all
	answer, err := io.ReadAll(conn)
	if err != nil {
		require.ErrorIs(t, err, syscall.ECONNRESET, "the server leaves the connection open, having said %q", answer)
	}
	return string(answer)
}

// response reads what raw has returned.
func response(t *testing.T, answer string) (int, http.Header, string) {
	t.Helper()
	resp, err := http.ReadResponse(bufio.NewReader(strings.NewReader(answer)), nil)
	require.NoError(t, err, answer)
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	return resp.StatusCode, resp.Header, string(body)
}

func TestOwnRequestsAreNotApproved(t *testing.T) {
	s, admin, bob, alice := withPeople(t, startZooKeeper(t).ConnectString())
	file := func(who *person, app string) string {
		return who.does("POST", "/requests", map[string]any{"claim": map[string]string{"app": app}})["id"].(string)
	}
	refused := func(who *person, id string) {
		t.Helper()
		for _, version := range []string{`"1"`, `"2"`, `"3"`} {
			status, _, answer := who.call("POST", "/requests/"+id+"/approve", map[string]any{}, "If-Match", version)
			require.Contains(t, []int{403, 412}, status, answer)
			status, _, answer = who.call("POST", "/requests/"+id+"/decline", map[string]any{"note": "x"}, "If-Match", version)
			require.Contains(t, []int{403, 412}, status, answer)
		}
		require.Equal(t, "submitted", alice.does("GET", "/requests/"+id, nil)["state"])
	}
	for _, who := range []*person{bob, admin} { // whatever role
		refused(who, file(who, "one"))
	}
	// By a token, which is its owner.
	own := file(bob, "two")
	made := bob.does("POST", "/tokens", map[string]any{"name": "x", "scopes": []string{"read", "approve"}})
	refused(&person{T: t, url: s.URL, token: made["secret"].(string)}, own)
	// By a role that came later.
	later := file(alice, "three")
	_, headers, _ := admin.call("GET", "/users/alice", nil)
	admin.does("PUT", "/users/alice/role", map[string]string{"role": "approver"}, "If-Match", headers.Get("ETag"))
	refused(alice, later)
	// After an edit, and after one by somebody else, which is refused.
	alice.does("PUT", "/requests/"+later, map[string]any{"reason": "please", "claim": map[string]string{"app": "three"}}, "If-Match", `"2"`)
	refused(alice, later)
	for _, who := range []*person{bob, admin} {
		require.Contains(t, who.refused(403, "PUT", "/requests/"+later, map[string]any{"claim": map[string]string{"app": "three"}}, "If-Match", `"3"`), "only the applicant")
	}
	// As somebody else: in the document, or by a token that was made for somebody else.
	alice.refused(422, "PUT", "/requests/"+later, map[string]any{"applicant": "bob", "claim": map[string]string{"app": "three"}}, "If-Match", `"3"`)
	require.Contains(t, admin.refused(403, "POST", "/tokens", map[string]any{"name": "x", "owner": "bob", "scopes": []string{"approve"}}), "its owner alone")
	// By going around the decision.
	alice.refused(409, "POST", "/requests/"+later+"/retry", nil, "If-Match", `"3"`)
	alice.refused(409, "POST", "/requests/"+later+"/submit", nil, "If-Match", `"3"`)
	alice.refused(403, "POST", "/migrations", map[string]any{"topic": "t", "to": "b"})
	alice.refused(403, "PUT", "/policies/claim", map[string]any{"kind": "claim", "approval": false, "days": 1, "version": 0})
	// What was approved is what was read.
	require.Contains(t, bob.refused(412, "POST", "/requests/"+later+"/approve", map[string]any{}, "If-Match", `"2"`), "read it again")
	bob.refused(428, "POST", "/requests/"+later+"/approve", map[string]any{})
	bob.refused(400, "POST", "/requests/"+later+"/approve", map[string]any{}, "If-Match", "*")
	bob.does("POST", "/requests/"+later+"/approve", map[string]any{}, "If-Match", `"3"`)
}

func TestSessionsAndTokensFollowTheUser(t *testing.T) {
	s, admin, bob, alice := withPeople(t, startZooKeeper(t).ConnectString())
	change := func(path string, body any) {
		t.Helper()
		_, headers, _ := admin.call("GET", "/users/bob", nil)
		admin.does(map[bool]string{true: "PUT", false: "POST"}[body != nil], "/users/bob"+path, body, "If-Match", headers.Get("ETag"))
	}
	made := bob.does("POST", "/tokens", map[string]any{"name": "x", "scopes": []string{"read", "apply", "approve"}})
	token := &person{T: t, url: s.URL, token: made["secret"].(string)}
	claim := map[string]any{"claim": map[string]string{"app": "x"}}
	for _, who := range []*person{bob, token} {
		who.refused(404, "POST", "/requests/r-99/approve", map[string]any{}, "If-Match", `"1"`)
	}
	change("/role", map[string]string{"role": "viewer"}) // a role that is taken away is gone at once
	for _, who := range []*person{bob, token} {
		who.refused(403, "POST", "/requests/r-99/approve", map[string]any{}, "If-Match", `"1"`)
		who.refused(403, "POST", "/requests", claim)
		who.does("GET", "/requests", nil)
	}
	change("/disable", nil)
	for _, who := range []*person{bob, token} {
		who.refused(401, "GET", "/requests", nil)
	}
	change("/enable", nil) // what has ended remains so
	for _, who := range []*person{bob, token} {
		who.refused(401, "GET", "/requests", nil)
	}
	again := login(t, s.URL, "bob")
	again.does("PUT", "/password", map[string]string{"oldPassword": password, "newPassword": "another horse battery"})
	again.refused(401, "GET", "/requests", nil)
	alice.does("DELETE", "/session", nil)
	alice.refused(401, "POST", "/requests", claim)
	// A cookie is not taken where a browser would not send it, and a token not where it would be logged.
	stolen := &person{T: t, url: s.URL}
	for _, headers := range [][]string{
		{"Cookie", "__Host-turnout=" + admin.cookie}, {"Cookie", "turnout=" + admin.cookie + "; turnout=x"}, {"Authorization", "Bearer " + admin.cookie},
		{"Authorization", "Basic " + admin.cookie}, {"X-Forwarded-For", "203.0.113.7", "Cookie", "turnout=" + admin.cookie},
	} {
		stolen.refused(401, "GET", "/session", nil, headers...)
	}
	stolen.refused(401, "GET", "/session?token="+token.token, nil)
	stolen.refused(403, "POST", "/requests", claim, "Cookie", "turnout="+admin.cookie, "X-HTTP-Method-Override", "GET")
	status, _ := ask(t, "GET", s.URL+"/api/v1/session", "", "Cookie", "turnout="+admin.cookie, "Host", "evil.example.com")
	require.Equal(t, 401, status, "a name that was made to lead here")
}

func TestBodiesThatAreNoDocuments(t *testing.T) {
	s, admin, _, _ := withPeople(t, startZooKeeper(t).ConnectString())
	made := admin.does("POST", "/tokens", map[string]any{"name": "x", "scopes": []string{"read", "apply"}})
	bearer := []string{"Authorization", "Bearer " + made["secret"].(string)}
	deep := func(n int) string { return strings.Repeat("[", n) + strings.Repeat("]", n) }
	claim := `{"claim":{"app":"x"}}`
	for _, c := range []struct {
		name, body  string
		contentType string
		status      int
		says        string
	}{
		{"nothing", "", "", 400, "required"},
		{"too large", `{"reason":"` + strings.Repeat("x", 1<<20) + `"}`, "", 413, "too large"},
		{"far too large", strings.Repeat(" ", 5<<20) + claim, "", 413, "too large"},
		{"cut off", claim[:10], "", 400, "body: unexpected"},
		{"two documents", claim + claim, "", 400, "after top-level value"},
		{"no document", "\x00\x01\x02", "", 400, "invalid character"},
		{"another kind of document", "[]", "", 422, "object"},
		{"null", "null", "", 422, "object"},
		{"deep", `{"stress":` + deep(5000) + `}`, "", 400, "in each other"},
		{"very deep", deep(500_000), "", 400, "in each other"},
		{"not UTF-8", "{\"reason\":\"\xff\xfe\",\"claim\":{\"app\":\"x\"}}", "", 400, "UTF-8"},
		{"NUL", `{"reason":"a\u0000b","claim":{"app":"x"}}`, "", 400, "NUL"},
		{"a control character", `{"reason":"\u001b[2J","claim":{"app":"x"}}`, "", 400, "control characters"},
		{"a field twice", `{"claim":{"app":"x"},"claim":{"app":"y"}}`, "", 400, "twice"},
		{"a field twice, hidden", `{"claim":{"app":"x","\u0061pp":"y"}}`, "", 400, "twice"},
		{"a field in other letters", `{"Claim":{"app":"x"}}`, "", 422, "unexpected property"},
		{"an unknown field", `{"claim":{"app":"x","role":"administrator"}}`, "", 422, "unexpected property"},
		{"a text for a number", `{"topic":{"name":"t","app":"a","partitions":"4"}}`, "", 422, "body.topic.partitions"},
		{"a large number", `{"topic":{"name":"t","app":"a","partitions":1e400}}`, "", 400, "body"},
		{"a fraction", `{"topic":{"name":"t","app":"a","partitions":1.5}}`, "", 422, "body.topic.partitions"},
		{"a path for a name", `{"claim":{"app":"../../admin"}}`, "", 422, "body.claim.app"},
		{"markup for a name", `{"claim":{"app":"<script>alert(1)</script>"}}`, "", 422, "body.claim.app"},
		{"a form", "claim=x", "application/x-www-form-urlencoded", 415, "content type"},
		{"a text", claim, "text/plain", 415, "content type"},
		{"XML", "<claim/>", "application/xml", 415, "content type"},
	} {
		t.Run(c.name, func(t *testing.T) {
			status, answer := ask(t, "POST", s.URL+"/api/v1/requests", c.body, append([]string{"Content-Type", c.contentType}, bearer...)...)
			require.Equal(t, c.status, status, answer)
			require.Contains(t, answer, c.says)
			require.Less(t, len(answer), 4000)
		})
	}
	require.Empty(t, admin.does("GET", "/requests", nil)["items"])
	head := "POST /api/v1/requests HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\nAuthorization: Bearer " + made["secret"].(string) + "\r\n"
	for name, rest := range map[string]string{
		"chunks that are none":          "Transfer-Encoding: chunked\r\n\r\nZZ\r\n{}\r\n0\r\n\r\n",
		"a negative length":             "Content-Length: -1\r\n\r\n",
		"two lengths":                   "Content-Length: 2\r\nContent-Length: 21\r\n\r\n" + claim,
		"a length and chunks, as spoof": "Content-Length: 4\r\nTransfer-Encoding: gzip, chunked\r\n\r\n" + claim,
	} {
		status, _, answer := response(t, raw(t, s.URL, head+rest))
		require.GreaterOrEqual(t, status, 400, "%s: %s", name, answer)
		require.NotEqual(t, 500, status, "%s: %s", name, answer)
	}
	require.Empty(t, admin.does("GET", "/requests", nil)["items"])
}

// Paths that mean something else to a proxy, a file system or a log than to the server lead nowhere.
func TestPathTricks(t *testing.T) {
	s, admin, _, _ := withPeople(t, startZooKeeper(t).ConnectString())
	made := admin.does("POST", "/tokens", map[string]any{"name": "x", "scopes": []string{"read", "admin"}})
	for _, path := range []string{
		"/api/v1/../../etc/passwd", "/api/v1/%2e%2e/%2e%2e/etc/passwd", "/api/v1/..%2f..%2fetc%2fpasswd", "/api/v1/users/..%2f..%2frequests", "/api/v1/openapi/../users",
		"/api/v1/openapi%2f..%2fusers", "//api/v1/users", "//evil.example.com/%2e%2e", "/api/v1//users", "/api/v1/./users", "/api/v1/users/", "/api/v1/users/.", "/API/V1/users",
		"/api/v1/users%00", "/api/v1/users/%00", "/api/v1/users/admin%00.json", "/api/v1/users/%ff", "/api/v1/users/%c0%ae%c0%ae", "/api/v1/users;a=b", "/api/v1/users%3flimit=1",
		"/api/v1/users/%0d%0aSet-Cookie:%20turnout=x", "//%0d%0aSet-Cookie:%20turnout=x", "/api/v1/requests?text=%00", "/api/v1/requests?text=%ff", "/api/v1/audit?who=%00", "/api/v1/requests?text=%zz",
		"/api/v1/requests?limit=1;limit=2", "/api/v1/requests?limit=1&limit=2", "/metrics/..", "/metrics%00", "/api/v1/tokens/t-1%20OR%201=1", "/api/v1/tokens/t-99999999999999999999", "/api/v1/requests/r--1", "/api/v1/topics/..%2f..%2fzookeeper",
		"/api/v1/applications/..%2F..%2Fadmin/owners", "/api/v1/fleet/topics/%2e%2e%2fadmin", "/api/v1/users?" + strings.Repeat("x", 1000), "/.git/config", "/debug/pprof/",
		"/" + strings.Repeat("a", 100_000), "/api/v1/users/" + strings.Repeat("a", 10_000), "http://evil.example.com/api/v1/none", "*",
	} {
		for _, who := range []string{"", "Authorization: Bearer " + made["secret"].(string) + "\r\n"} {
			status, headers, answer := response(t, raw(t, s.URL, "GET "+path+" HTTP/1.1\r\nHost: evil.example.com\r\nConnection: close\r\n"+who+"\r\n"))
			shown := fmt.Sprintf("%.100s as %.20q: %.300s", path, who, answer)
			require.GreaterOrEqual(t, status, 300, shown)
			require.Less(t, status, 500, shown)
			require.Empty(t, headers.Get("Set-Cookie"), shown)
			if location := headers.Get("Location"); location != "" { // a cleaned path, on the same server
				require.Regexp(t, `^/($|[^/\\])`, location, shown)
			}
		}
	}
	for name, head := range map[string]string{
		"a line in a header":  "X: a\rSet-Cookie: turnout=x\r\n",
		"a header in two":     "X: a\r\n Set-Cookie: turnout=x\r\n",
		"no name":             ": a\r\n",
		"a name with a space": "Authorization : Bearer x\r\n",
		"two hosts":           "Host: evil.example.com\r\n",
		"a bad host":          "\r\nHost: a b\r\n",
		"large":               "X: " + strings.Repeat("x", 200_000) + "\r\n",
		"many":                strings.Repeat("X: x\r\n", 50_000),
	} {
		status, headers, answer := response(t, raw(t, s.URL, "GET /api/v1/users HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n"+head+"\r\n"))
		require.Contains(t, []int{400, 401, 431}, status, "%s: %s", name, answer)
		require.Empty(t, headers.Get("Set-Cookie"), name)
	}
}

// A search for a wildcard or a piece of SQL finds what has that in it: nothing.
func TestSearchesAreForText(t *testing.T) {
	_, admin, _, alice := withPeople(t, startZooKeeper(t).ConnectString())
	alice.does("POST", "/requests", map[string]any{"claim": map[string]string{"app": "order_service"}})
	require.Len(t, admin.does("GET", "/requests?text=ORDER_", nil)["items"], 1)
	for _, text := range []string{"%", "_%", "order%", "ord?r", "order*", "!", "\\", "'", `"`, "' OR '1'='1", "'; DROP TABLE requests; --", "order_service'--", "ORDER.SERVICE", "\u202e"} {
		for _, path := range []string{"/requests?text=", "/requests?subject=", "/requests?app=", "/requests?applicant=", "/topics?text=", "/topics?cluster=", "/groups?text=", "/stress?name=", "/audit?who=", "/audit?subject=", "/audit?request=", "/audit?action="} {
			require.Empty(t, admin.does("GET", path+url.QueryEscape(text), nil)["items"], path+text)
		}
	}
	require.Len(t, admin.does("GET", "/requests", nil)["items"], 1)
}

// Who sends slowly, or not at all, loses the connection.
func TestSlowRequestsAreEnded(t *testing.T) {
	s := run(t, startZooKeeper(t).ConnectString(), databases.Database(t), func(c *server.Config) { c.ReadLimit = 200 * time.Millisecond })
	status, _, answer := response(t, raw(t, s.URL, "POST /api/v1/migrations/plan HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 100\r\n\r\n{"))
	require.Equal(t, 408, status, answer)
	status, _, answer = response(t, raw(t, s.URL, "POST /api/v1/migrations/plan HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n{"))
	require.Equal(t, 408, status, answer)
	raw(t, s.URL, "GET /api/v1/migrations HTTP/1.1\r\nHost: 127.0.0.1\r\nX")
	raw(t, s.URL, "")
}

// Nothing that is secret is in an answer that does not give it, in the log, or in the store.
func TestSecretsAreSaidOnlyOnce(t *testing.T) {
	const clusters, wrong, cutOff, misspelt = "s3cret-of-the-cluster", "s3cret-that-is-wrong", "s3cret-that-is-cut-off", "s3cret-in-another-field"
	file := filepath.Join(t.TempDir(), "login")
	require.NoError(t, os.WriteFile(file, []byte("turnout:"+clusters+"\n"), 0o600))
	core, lines := observer.New(zapcore.DebugLevel)
	db := filepath.Join(t.TempDir(), "turnout.db")
	s, admin, bob, alice := withPeople(t, startZooKeeper(t).ConnectString(), func(c *server.Config) {
		c.Database, c.Logger, c.Secrets = "sqlite:"+db, zap.New(core), requests.Places{"file:" + filepath.Dir(file) + "/*"}
	})
	var heard strings.Builder
	gives := map[string]bool{"POST /session": true, "GET /session": true, "POST /tokens": true, "POST /users": true, "POST /users/bob/invitation": true}
	listen := func(call string, headers http.Header, answer string) {
		if !gives[call] || headers.Get("Content-Type") == "application/problem+json" {
			fmt.Fprintf(&heard, "%v %s\n", headers, answer)
		}
	}
	for _, p := range []*person{admin, bob, alice} {
		p.heard = listen
	}
	nobody := &person{T: t, url: s.URL, heard: listen}
	planted := []string{password, clusters, wrong, cutOff, misspelt, admin.cookie, admin.csrf, bob.cookie, bob.csrf}

	nobody.refused(401, "POST", "/session", map[string]string{"name": "admin", "password": wrong})
	nobody.refused(401, "POST", "/claim", map[string]string{"token": "turnout_once_" + wrong, "password": wrong})
	nobody.refused(422, "POST", "/session", map[string]string{"name": "admin", "pasword": misspelt})
	nobody.refused(422, "POST", "/session", misspelt)
	status, answer := ask(t, "POST", s.URL+"/api/v1/session", `{"name":"admin","password":"`+cutOff)
	require.Equal(t, 400, status)
	heard.WriteString(answer)
	nobody.refused(401, "GET", "/nothing?access_token="+misspelt, nil)
	nobody.refused(401, "GET", "/requests", nil, "Authorization", "Bearer "+misspelt)

	made := bob.does("POST", "/tokens", map[string]any{"name": "x", "scopes": []string{"read", "apply"}})
	invited := admin.does("POST", "/users", map[string]string{"name": "carol", "role": "viewer"})["invitation"].(map[string]any)
	again := admin.does("POST", "/users/bob/invitation", nil)
	planted = append(planted, made["secret"].(string), invited["token"].(string), again["token"].(string))
	bob.refused(400, "PUT", "/password", map[string]string{"oldPassword": wrong, "newPassword": "another horse battery"})
	bob.refused(400, "POST", "/requests", map[string]any{"cluster": map[string]any{"name": "a", "kind": "kafka", "addresses": []string{"127.0.0.1:1"}, "mechanism": "PLAIN", "secret": "turnout:" + misspelt}})
	bob.refused(400, "POST", "/requests", map[string]any{"cluster": map[string]any{"name": "a", "kind": "kafka", "addresses": []string{"127.0.0.1:1"}, "properties": map[string]string{"sasl.password": misspelt}}})
	// Nobody is connected to before somebody else has approved it: the server may be sent to no address by one alone.
	listener, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer listener.Close()
	asked := make(chan struct{}, 1000)
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			asked <- struct{}{}
			conn.Close()
		}
	}()
	cluster := map[string]any{"cluster": map[string]any{"name": "kafka-a", "kind": "kafka", "addresses": []string{listener.Addr().String()}, "mechanism": "PLAIN", "secret": "file:" + file}}
	alice.refused(403, "POST", "/requests", cluster)
	elsewhere := map[string]any{"cluster": map[string]any{"name": "kafka-a", "kind": "kafka", "addresses": []string{"127.0.0.1:1"}, "mechanism": "PLAIN", "secret": "file:" + filepath.Dir(file) + "/../login"}}
	bob.refused(400, "POST", "/requests", elsewhere)
	id := bob.does("POST", "/requests", cluster)["id"].(string)
	bob.refused(403, "POST", "/requests/"+id+"/approve", map[string]any{}, "If-Match", `"2"`)
	require.Empty(t, asked)
	admin.does("POST", "/requests/"+id+"/approve", map[string]any{}, "If-Match", `"2"`)
	<-asked
	require.Eventually(t, func() bool { r := bob.does("GET", "/requests/"+id, nil); return r["error"] != nil }, patience, tick)

	for _, path := range []string{"/requests", "/requests/" + id, "/requests/" + id + "/events", "/users", "/users/bob", "/tokens?owner=*", "/audit", "/audit/export", "/policies", "/clusters", "/drift", "/openapi.json"} {
		status, _, answer := admin.call("GET", path, nil)
		require.Equal(t, 200, status, answer)
	}
	_, headers, _ := admin.call("GET", "/users/alice", nil)
	admin.does("PUT", "/users/alice/role", map[string]string{"role": "viewer"}, "If-Match", headers.Get("ETag"))
	admin.refused(412, "PUT", "/users/alice/role", map[string]string{"role": "viewer"}, "If-Match", headers.Get("ETag"))
	require.NoError(t, s.end(t)) // which writes all of the store
	var log bytes.Buffer
	for _, l := range lines.All() {
		fmt.Fprintf(&log, "%s %v\n", l.Message, l.ContextMap())
	}
	require.Contains(t, log.String(), "a login was refused")
	said := map[string]string{"an answer": heard.String(), "the log": log.String()}
	files, err := filepath.Glob(db + "*")
	require.NoError(t, err)
	for _, f := range files {
		data, err := os.ReadFile(f)
		require.NoError(t, err)
		said[f] = string(data)
	}
	require.Contains(t, said[db], "file:"+file)
	require.NotContains(t, said["an answer"], db, "nor is where the store is")
	for _, secret := range planted {
		for where, text := range said {
			if strings.Contains(text, secret) { // which may be long
				t.Errorf("%s is in %s", secret, where)
			}
		}
	}
}
