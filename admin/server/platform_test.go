package server_test

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/turnout-mq/turnout/admin/people"
	"github.com/turnout-mq/turnout/admin/server"
	"github.com/turnout-mq/turnout/admin/server/api"
	"github.com/turnout-mq/turnout/admin/store"
	"github.com/turnout-mq/turnout/internal/errs"
	"github.com/turnout-mq/turnout/testenv"
)

const password = "correct horse battery"

// person asks a server as a user, by a session or a token.
type person struct {
	*testing.T
	url, cookie, csrf, token string
	heard                    func(call string, headers http.Header, answer string) // nil: nobody listens
}

// call makes a request and returns the status, the headers and the answer.
func (p *person) call(method, path string, body any, headers ...string) (int, http.Header, string) {
	p.Helper()
	var doc []byte
	if body != nil {
		var err error
		doc, err = json.Marshal(body)
		require.NoError(p, err)
	}
	req, err := http.NewRequestWithContext(p.Context(), method, p.url+"/api/v1"+path, bytes.NewReader(doc))
	require.NoError(p, err)
	p.identify(req)
	for i := 0; i < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	resp, err := plain(p.T).Do(req)
	require.NoError(p, err)
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	require.NoError(p, err)
	if p.heard != nil {
		p.heard(method+" "+path, resp.Header, string(answer))
	}
	return resp.StatusCode, resp.Header, string(answer)
}

// identify says in a request who makes it.
func (p *person) identify(req *http.Request) {
	switch {
	case p.token != "":
		req.Header.Set("Authorization", "Bearer "+p.token)
	case p.cookie != "":
		req.AddCookie(&http.Cookie{Name: "turnout", Value: p.cookie})
		req.Header.Set("X-CSRF-Token", p.csrf)
	}
}

// does makes a request that must succeed.
func (p *person) does(method, path string, body any, headers ...string) map[string]any {
	p.Helper()
	status, _, answer := p.call(method, path, body, headers...)
	require.Less(p, status, 300, "%s %s: %s", method, path, answer)
	doc := map[string]any{}
	if answer != "" {
		require.NoError(p, json.Unmarshal([]byte(answer), &doc), answer)
	}
	return doc
}

// refused makes a request that must fail with this status.
func (p *person) refused(status int, method, path string, body any, headers ...string) string {
	p.Helper()
	is, _, answer := p.call(method, path, body, headers...)
	require.Equal(p, status, is, "%s %s: %s", method, path, answer)
	return answer
}

// login begins a session.
func login(t *testing.T, url, name string) *person {
	t.Helper()
	p := &person{T: t, url: url}
	status, headers, answer := p.call("POST", "/session", map[string]string{"name": name, "password": password})
	require.Equal(t, 200, status, answer)
	cookie, err := http.ParseSetCookie(headers.Get("Set-Cookie"))
	require.NoError(t, err)
	require.True(t, cookie.HttpOnly)
	var session people.Session
	require.NoError(t, json.Unmarshal([]byte(answer), &session))
	p.cookie, p.csrf = cookie.Value, session.CSRF
	return p
}

// withPeople is a server with an administrator admin, an approver bob and an applicant alice.
func withPeople(t *testing.T, zookeeper string, changes ...func(*server.Config)) (s *running, admin, bob, alice *person) {
	t.Helper()
	var invitation people.Invitation
	s = run(t, zookeeper, databases.Database(t), func(c *server.Config) {
		c.NoLogin = false
		c.Hashing = people.Hashing{Memory: 8, Passes: 1, Threads: 1} // what is tested is not how long it takes
		c.Invite = func(i people.Invitation) { invitation = i }
		for _, change := range changes {
			change(c)
		}
	})
	nobody := &person{T: t, url: s.URL}
	nobody.refused(401, "GET", "/requests", nil)
	nobody.refused(401, "POST", "/claim", map[string]string{"token": "turnout_no", "name": "admin", "password": password})
	nobody.does("POST", "/claim", map[string]string{"token": invitation.Token, "name": "admin", "password": password})
	nobody.refused(401, "POST", "/claim", map[string]string{"token": invitation.Token, "name": "mallory", "password": password})
	admin = login(t, s.URL, "admin")
	for name, role := range map[string]string{"bob": "approver", "alice": "applicant"} {
		admin.does("POST", "/users", map[string]string{"name": name, "role": role, "password": password})
	}
	return s, admin, login(t, s.URL, "bob"), login(t, s.URL, "alice")
}

// The walk of two people: clusters, a topic and a group by request, four eyes, a migration, and what the audit has of it.
func TestTwoPeopleAndAPlatform(t *testing.T) {
	e, err := testenv.Start(t.Context(), testenv.Spec{ZooKeeper: 1, Kafka: []string{"kafka-a", "kafka-b"}})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, e.Close()) })
	meta := openMeta(t, e.ZooKeeper())
	_, admin, bob, alice := withPeople(t, e.ZooKeeper())

	// done waits until a request has ended.
	done := func(id string) {
		t.Helper()
		var r map[string]any
		require.Eventually(t, func() bool {
			r = alice.does("GET", "/requests/"+id, nil)
			return r["endedAt"] != nil || r["state"] == "failed"
		}, patience, tick)
		require.Equal(t, "done", r["state"], r)
	}
	file := func(who *person, doc map[string]any) string {
		t.Helper()
		return who.does("POST", "/requests", doc)["id"].(string)
	}
	for _, name := range []string{"kafka-a", "kafka-b"} {
		id := file(bob, map[string]any{"cluster": map[string]any{"name": name, "kind": "kafka", "addresses": e.Addresses(name)}})
		admin.does("POST", "/requests/"+id+"/approve", map[string]any{}, "If-Match", `"2"`)
		done(id)
	}

	topic := map[string]any{"reason": "orders", "topic": map[string]any{"name": "order_topic", "app": "order_service", "partitions": 2}}
	id := file(alice, topic)
	alice.refused(403, "POST", "/requests/"+id+"/approve", map[string]any{}, "If-Match", `"2"`)
	bob.refused(428, "POST", "/requests/"+id+"/approve", map[string]any{})
	require.Contains(t, bob.refused(412, "POST", "/requests/"+id+"/approve", map[string]any{}, "If-Match", `"1"`), `"code":"changed"`)
	bob.does("POST", "/requests/"+id+"/comments", map[string]string{"text": "why two?"})
	bob.does("POST", "/requests/"+id+"/approve", map[string]any{"cluster": "kafka-a", "note": "fine"}, "If-Match", `"2"`)
	done(id)
	written, err := meta.GetTopic(t.Context(), "order_topic")
	require.NoError(t, err)
	require.Equal(t, "kafka-a", written.Wish.Cluster)
	require.Equal(t, "kafka-a", alice.does("GET", "/topics/order_topic", nil)["cluster"])
	require.Equal(t, []any{"alice"}, alice.does("GET", "/applications/order_service/owners", nil)["owners"], "who files the first request owns the application")

	own := file(bob, map[string]any{"claim": map[string]any{"app": "billing"}})
	require.Contains(t, bob.refused(403, "POST", "/requests/"+own+"/approve", map[string]any{}, "If-Match", `"2"`), "own")

	// A migration goes through the same door.
	require.Contains(t, bob.refused(403, "POST", "/migrations", map[string]any{"topic": "order_topic", "to": "kafka-b"}), "request")
	id = file(alice, map[string]any{"migration": map[string]any{"topic": "order_topic", "to": "kafka-b", "create": true}})
	bob.does("POST", "/requests/"+id+"/approve", map[string]any{}, "If-Match", `"2"`)
	done(id)
	written, err = meta.GetTopic(t.Context(), "order_topic")
	require.NoError(t, err)
	require.Equal(t, "kafka-b", written.Wish.Cluster)

	found := alice.does("GET", "/audit?request="+id+"&action=approve", nil)["items"].([]any)
	require.Len(t, found, 1)
	require.Equal(t, "bob", found[0].(map[string]any)["who"])
	_, headers, export := alice.call("GET", "/audit/export", nil)
	require.Equal(t, "application/jsonl", headers.Get("Content-Type"))
	require.NotContains(t, export, password)
	require.Greater(t, strings.Count(export, "\n"), 10)
	require.NotNil(t, alice.does("GET", "/fleet/shards", nil)["shards"])
}

func TestTokensAndSessionsOverHTTP(t *testing.T) {
	z := startZooKeeper(t)
	s, admin, bob, alice := withPeople(t, z.ConnectString())
	keysAndPeople(t, s, admin, bob, alice)
	metricsAndPeople(t, s, alice)
	made := alice.does("POST", "/tokens", map[string]any{"name": "pipeline", "scopes": []string{"read"}})
	byToken := &person{T: t, url: s.URL, token: made["secret"].(string)}
	require.Equal(t, "alice", byToken.does("GET", "/session", nil)["name"])
	require.Contains(t, byToken.refused(403, "POST", "/requests", map[string]any{"claim": map[string]any{"app": "x"}}), "scope")
	byToken.refused(403, "POST", "/tokens", map[string]any{"name": "more", "scopes": []string{"read"}})
	alice.does("DELETE", "/tokens/"+made["id"].(string), nil)
	byToken.refused(401, "GET", "/session", nil)

	for _, c := range []struct {
		who          *person
		method, path string
	}{
		{alice, "GET", "/users"}, {bob, "GET", "/users"}, {bob, "POST", "/users"}, {bob, "PUT", "/users/alice/role"}, {bob, "POST", "/users/alice/disable"},
		{alice, "GET", "/users/bob"}, {alice, "GET", "/tokens?owner=bob"}, {bob, "PUT", "/policies/topic"}, {bob, "PUT", "/rules/r"}, {bob, "DELETE", "/rules/r"},
		{alice, "POST", "/migrations"}, {alice, "POST", "/migrations/m-1/abort"}, {alice, "POST", "/requests/r-1/approve"}, {alice, "POST", "/requests/r-1/decline"},
	} {
		bodies := map[string]any{
			"POST /users": map[string]string{"name": "x", "role": "viewer"}, "PUT /users/alice/role": map[string]string{"role": "viewer"},
			"PUT /policies/topic": map[string]any{"kind": "topic", "approval": false, "days": 1, "version": 0}, "PUT /rules/r": map[string]any{"name": "r", "priority": 1, "version": 0},
			"POST /migrations": map[string]any{"topic": "t", "to": "b"}, "POST /migrations/m-1/abort": map[string]any{}, "POST /requests/r-1/approve": map[string]any{}, "POST /requests/r-1/decline": map[string]any{},
		}
		c.who.refused(403, c.method, c.path, bodies[c.method+" "+c.path], "If-Match", `"1"`)
	}
	stolen := *bob
	stolen.csrf = ""
	stolen.refused(403, "POST", "/requests", map[string]any{"claim": map[string]any{"app": "x"}})
	stolen.does("GET", "/session", nil)
	stolen.csrf = alice.csrf
	stolen.refused(403, "DELETE", "/session", nil)
	bob.refused(403, "POST", "/requests", map[string]any{"claim": map[string]any{"app": "x"}}, "Sec-Fetch-Site", "cross-site")

	_, headers, _ := admin.call("GET", "/users/bob", nil)
	admin.refused(428, "POST", "/users/bob/disable", nil)
	all := alice.does("POST", "/tokens", map[string]any{"name": "all", "scopes": []string{"read", "apply"}})["secret"].(string)
	err := client(t, fixed(s.URL), api.Options{Token: all}).Change(t.Context(), "POST", "/requests/r-1/withdraw", 7, nil, nil)
	require.ErrorIs(t, err, errs.ErrConflict)
	require.ErrorIs(t, err, store.ErrChanged)
	admin.does("POST", "/users/bob/disable", nil, "If-Match", headers.Get("ETag"))
	bob.refused(401, "GET", "/session", nil)
	alice.does("DELETE", "/session", nil)
	alice.refused(401, "GET", "/session", nil)

	// The value of a secret is in no answer, also where it is what is wrong.
	nobody := &person{T: t, url: s.URL}
	secret := "s3cret" + strings.Repeat("x", 2000)
	require.NotContains(t, nobody.refused(422, "POST", "/session", map[string]string{"name": "admin", "password": secret}), "s3cret")
	for i := range 40 {
		status, headers, answer := nobody.call("POST", "/session", map[string]string{"name": "admin", "password": "wrong wrong wrong"})
		if status == 429 {
			require.NotEmpty(t, headers.Get("Retry-After"))
			require.Contains(t, answer, `"code":"too-many"`)
			return
		}
		require.Equal(t, 401, status, "%d: %s", i, answer)
	}
	require.Fail(t, "nobody counted")
}
