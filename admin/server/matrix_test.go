package server_test

import (
	"context"
	"encoding/json"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// needed is the permission that each call needs; "": it is open to everybody. It is written by hand, so that a call that is
// new, or asks for less than it did, fails here.
var needed = map[string]string{
	"log-in": "", "claim": "", "who-am-i": "read", "log-out": "read", "change-password": "read",
	"list-users": "admin", "create-user": "admin", "get-user": "read", "set-role": "admin", "disable-user": "admin", "enable-user": "admin", "invite-user": "admin",
	"list-tokens": "read", "create-token": "read", "revoke-token": "read",
	"list-owners": "read", "add-owner": "apply", "remove-owner": "apply",
	"list-requests": "read", "count-requests": "read", "get-request": "read", "list-request-events": "read",
	"file-request": "apply", "edit-request": "apply", "submit-request": "apply", "withdraw-request": "apply", "retry-request": "apply", "comment-request": "apply",
	"approve-request": "approve", "decline-request": "approve", "plan-offsets": "apply",
	"list-policies": "read", "put-policy": "admin", "list-rules": "read", "put-rule": "admin", "delete-rule": "admin",
	"list-catalog": "read", "get-catalog-item": "read",
	"list-topics": "read", "get-topic": "read", "list-groups": "read", "get-group": "read", "list-clusters": "read", "get-cluster": "read",
	"list-stress": "read", "get-stress": "read", "list-stress-events": "read", "plan-stress": "apply", "start-stress": "apply", "stop-stress": "apply", "remove-stress": "apply",
	"list-migrations": "read", "plan-migration": "read", "get-migration": "read", "list-migration-events": "read", "look-at-migration": "read",
	"get-migration-receipt": "read", "stream-migration": "read",
	"start-migration": "operate", "promote-migration": "operate", "rollback-migration": "operate", "abort-migration": "operate", "pause-migration": "operate", "resume-migration": "operate",
	"list-instances": "read", "look-at-topic": "read", "look-at-group": "read", "list-top": "read", "list-shards": "read", "stream-fleet": "read",
	"list-drift": "read", "get-drift": "read", "publish-drift": "operate", "adopt-drift": "operate", "ignore-drift": "operate",
	"search-audit": "read", "export-audit": "read",
}

// operation is one call as the server describes it.
type operation struct {
	ID           string           `json:"operationId"`
	Security     []map[string]any `json:"security"`
	method, path string
}

// operations are all calls that a server says it has.
func operations(t *testing.T, url string) (all []operation) {
	t.Helper()
	status, _, answer := (&person{T: t, url: url}).call("GET", "/openapi.json", nil)
	require.Equal(t, 200, status)
	var doc struct {
		Paths map[string]map[string]json.RawMessage `json:"paths"`
	}
	require.NoError(t, json.Unmarshal([]byte(answer), &doc))
	for path, methods := range doc.Paths {
		for method, described := range methods {
			o := operation{method: strings.ToUpper(method), path: strings.TrimPrefix(path, "/api/v1")}
			require.NoError(t, json.Unmarshal(described, &o), "%s %s", method, path)
			all = append(all, o)
		}
	}
	slices.SortFunc(all, func(a, b operation) int { return strings.Compare(a.ID, b.ID) })
	return all
}

// about is the path of a call about what the person has, where that matters, else about what does not exist.
func (o operation) about(name string) string {
	parts := strings.Split(o.path, "/")
	ids := map[string]string{"requests": "r-999", "migrations": "m-999", "drift": "d-999", "tokens": "t-999", "stress": "s-999"}
	for i, part := range parts {
		switch {
		case part == "{name}" && parts[1] == "users":
			parts[i] = name
		case part == "{app}":
			parts[i] = "order_service"
		case part == "{kind}":
			parts[i] = "topic"
		case part == "{id}":
			parts[i] = ids[parts[1]]
		case strings.HasPrefix(part, "{"):
			parts[i] = "nothing"
		}
	}
	return strings.Join(parts, "/")
}

// status is that of a call without a body; what the server answers beyond its head is not waited for.
func (p *person) status(method, path string) int {
	p.Helper()
	ctx, cancel := context.WithCancel(p.Context())
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, p.url+"/api/v1"+path, nil)
	require.NoError(p, err)
	p.identify(req)
	resp, err := plain(p.T).Do(req)
	require.NoError(p, err)
	cancel()
	_ = resp.Body.Close()
	return resp.StatusCode
}

// Each role and each scope against each call: refused before anything of the request is looked at, or not refused.
func TestEveryRoleAgainstEveryCall(t *testing.T) {
	s, admin, bob, alice := withPeople(t, startZooKeeper(t).ConnectString())
	admin.does("POST", "/users", map[string]string{"name": "eve", "role": "viewer", "password": password})
	eve := login(t, s.URL, "eve")
	for _, owner := range []string{"admin", "bob", "alice", "eve"} { // else who owns an application would be refused for that
		admin.does("PUT", "/applications/order_service/owners/"+owner, nil)
	}
	type subject struct {
		*person
		is, name string
		may      []string
	}
	all := []string{"read", "apply", "approve", "operate", "admin"}
	subjects := []subject{
		{&person{T: t, url: s.URL}, "nobody", "", nil},
		{&person{T: t, url: s.URL, token: "turnout_" + strings.Repeat("0", 44)}, "a token of nobody", "", nil},
		{eve, "viewer", "eve", []string{"read"}},
		{alice, "applicant", "alice", []string{"read", "apply"}},
		{bob, "approver", "bob", []string{"read", "apply", "approve", "operate"}},
		{admin, "administrator", "admin", all},
	}
	token := func(owner string, scopes ...string) *person {
		made := admin.does("POST", "/tokens", map[string]any{"name": "matrix", "owner": owner, "scopes": scopes})
		return &person{T: t, url: s.URL, token: made["secret"].(string)}
	}
	for _, scope := range all {
		subjects = append(subjects, subject{token("admin", scope), "administrator's token for " + scope, "admin", []string{scope}})
	}
	subjects = append(subjects, subject{token("eve", "read", "apply", "operate", "admin"), "viewer's token for more", "eve", []string{"read"}})

	calls := operations(t, s.URL)
	end := slices.IndexFunc(calls, func(o operation) bool { return o.ID == "log-out" })
	calls = append(slices.Delete(slices.Clone(calls), end, end+1), calls[end]) // the last one, because it ends sessions
	unknown := map[string]bool{}
	for id := range needed {
		unknown[id] = true
	}
	for _, o := range calls {
		need, stated := needed[o.ID]
		require.True(t, stated, "%s %s (%s) is new: say in this test which permission it needs", o.method, o.path, o.ID)
		delete(unknown, o.ID)
		require.Equal(t, need == "", len(o.Security) == 0, "%s: what its description says of security", o.ID)
		for _, who := range subjects {
			if who.csrf != "" && o.method != "GET" && need != "" {
				stolen := *who.person
				stolen.csrf = ""
				require.Equal(t, 403, stolen.status(o.method, o.about(who.name)), "%s as %s without CSRF token", o.ID, who.is)
			}
			status := who.status(o.method, o.about(who.name))
			switch {
			case need == "", slices.Contains(who.may, need):
				require.NotContains(t, []int{401, 403}, status, "%s as %s", o.ID, who.is)
				require.Less(t, status, 500, "%s as %s", o.ID, who.is)
			case who.name == "":
				require.Equal(t, 401, status, "%s as %s", o.ID, who.is)
			default:
				require.Equal(t, 403, status, "%s as %s", o.ID, who.is)
			}
		}
	}
	require.Empty(t, unknown, "calls that are gone")
	for path, statuses := range map[string][]int{"/healthz": {200}, "/readyz": {200}, "/metrics": {401}, "/": {401}, "/api/v1/": {401}, "/api/v1/nothing": {401}, "/api/v1/users/": {401}, "/api/v1/openapi/x": {404}} {
		status, _ := ask(t, "GET", s.URL+path, "")
		require.Contains(t, statuses, status, path)
	}
}
