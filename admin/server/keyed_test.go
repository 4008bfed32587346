package server_test

import (
	"database/sql"
	"encoding/json"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
)

const key = "8e03978e-40d5-43e8-bc93-6894a57f9324"

func claimOf(app string) map[string]any {
	return map[string]any{"reason": "ours", "claim": map[string]any{"app": app}}
}

// A call that is repeated with its key, at the same server or another one, at once or later, is carried out once.
func TestCallsWithAKeyAreCarriedOutOnce(t *testing.T) {
	z := startZooKeeper(t)
	s := run(t, z.ConnectString(), databases.Database(t), nil)
	here, elsewhere := &person{T: t, url: s.URL}, &person{T: t, url: run(t, z.ConnectString(), s.database, nil).URL}
	filed := func() int { return len(here.does("GET", "/requests", nil)["items"].([]any)) }

	var all sync.WaitGroup
	var mu sync.Mutex
	answers, etags := map[string]int{}, map[string]int{}
	for i := range 8 {
		who := []*person{here, elsewhere}[i%2]
		all.Go(func() {
			status, headers, answer := who.call("POST", "/requests", claimOf("billing"), "Idempotency-Key", key)
			mu.Lock()
			defer mu.Unlock()
			if status == 201 {
				answers[answer]++
				etags[headers.Get("ETag")]++
			}
		})
	}
	all.Wait()
	require.Len(t, answers, 1, "%v", answers)
	require.Equal(t, map[string]int{`"2"`: 8}, etags)
	require.Equal(t, 1, filed())

	// Later, too; also where it has changed since: it is the answer that was given then. A quoted key is the same one.
	here.does("POST", "/requests/r-1/withdraw", nil, "If-Match", `"2"`)
	status, headers, answer := elsewhere.call("POST", "/requests", claimOf("billing"), "Idempotency-Key", `"`+key+`"`)
	require.Equal(t, 201, status)
	require.Equal(t, 8, answers[answer], answer)
	require.Equal(t, "true", headers.Get("Idempotency-Replayed"))
	require.Contains(t, answer, `"state":"submitted"`)

	// A key stands for one call.
	require.Contains(t, here.refused(422, "POST", "/requests", claimOf("shop"), "Idempotency-Key", key), `"code":"key-reused"`)
	require.Contains(t, here.refused(422, "POST", "/requests?draft=true", claimOf("billing"), "Idempotency-Key", key), `"code":"key-reused"`)
	require.Contains(t, here.refused(400, "POST", "/requests", claimOf("shop"), "Idempotency-Key", "short"), "Idempotency-Key")
	require.Equal(t, 1, filed())

	// What was refused was not carried out, and the key is free.
	here.refused(422, "POST", "/requests", map[string]any{"claim": map[string]any{"ap": "shop"}}, "Idempotency-Key", key+"-2")
	here.does("POST", "/requests", claimOf("shop"), "Idempotency-Key", key+"-2")
	require.Equal(t, 2, filed())
	// A change that is repeated is no conflict.
	for range 2 {
		status, _, _ := here.call("POST", "/requests/r-2/comments", map[string]string{"text": "please"}, "Idempotency-Key", key+"-3")
		require.Equal(t, 204, status)
	}
	require.Equal(t, 1, strings.Count(mustJSON(t, here.does("GET", "/requests/r-2/events", nil)), "please"))
	for range 2 {
		require.Equal(t, "withdrawn", here.does("POST", "/requests/r-2/withdraw", nil, "Idempotency-Key", key+"-4", "If-Match", `"2"`)["state"])
	}
}

func mustJSON(t *testing.T, v any) string {
	t.Helper()
	data, err := json.Marshal(v)
	require.NoError(t, err)
	return string(data)
}

// An answer is for who has made the call; what is shown once is shown to nobody who repeats it, and nothing of it is stored.
func keysAndPeople(t *testing.T, s *running, admin, bob, alice *person) {
	t.Helper()
	alice.does("POST", "/requests", claimOf("billing"), "Idempotency-Key", key+"-2")
	require.Equal(t, "bob", bob.does("POST", "/requests", claimOf("billing"), "Idempotency-Key", key+"-2")["applicant"])
	made := alice.does("POST", "/tokens", map[string]any{"name": "pipeline", "scopes": []string{"read"}}, "Idempotency-Key", key)
	answer := alice.refused(409, "POST", "/tokens", map[string]any{"name": "pipeline", "scopes": []string{"read"}}, "Idempotency-Key", key)
	require.Contains(t, answer, "token "+made["id"].(string))
	require.Contains(t, answer, "another key")
	require.Len(t, alice.does("GET", "/tokens", nil)["items"], 1)

	weak := &person{T: t, url: s.URL, token: made["secret"].(string)}
	weak.refused(403, "POST", "/requests", claimOf("billing"), "Idempotency-Key", key+"-2")

	invited := admin.does("POST", "/users", map[string]string{"name": "carol", "role": "viewer"}, "Idempotency-Key", key)
	admin.refused(409, "POST", "/users", map[string]string{"name": "carol", "role": "viewer"}, "Idempotency-Key", key)
	once := invited["invitation"].(map[string]any)["token"].(string)

	rows, err := pastStore(t, s).QueryContext(t.Context(), "SELECT hash || fingerprint || etag || body FROM keyed_calls")
	require.NoError(t, err)
	defer rows.Close()
	kept := 0
	for ; rows.Next(); kept++ {
		var text string
		require.NoError(t, rows.Scan(&text))
		for _, secret := range []string{made["secret"].(string), once, key} {
			require.NotContains(t, text, secret)
		}
	}
	require.NoError(t, rows.Err())
	require.Equal(t, 4, kept)
}

// pastStore is the store of a server past it.
func pastStore(t *testing.T, s *running) *sql.DB {
	t.Helper()
	driver, address := "pgx", s.database
	if path, found := strings.CutPrefix(s.database, "sqlite:"); found {
		driver, address = "sqlite", path+"?_pragma=busy_timeout(30000)"
	}
	db, err := sql.Open(driver, address)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, db.Close()) })
	return db
}

// A server died before it answered: before the change, another one makes it; behind it, nobody does it again.
func TestAKeyOfAServerThatDied(t *testing.T) {
	z := startZooKeeper(t)
	s := run(t, z.ConnectString(), databases.Database(t), nil)
	p := &person{T: t, url: s.URL}
	db := pastStore(t, s)
	left := func(change string) { // by a server whose node is gone
		result, err := db.ExecContext(t.Context(), "UPDATE keyed_calls SET status = 0, body = '', etag = '', server = '10.9.9.9@-@1@-@0'"+change)
		require.NoError(t, err)
		n, err := result.RowsAffected()
		require.NoError(t, err)
		require.Equal(t, int64(1), n)
	}
	require.Equal(t, "r-1", p.does("POST", "/requests", claimOf("billing"), "Idempotency-Key", key)["id"])
	left("")
	status, headers, answer := p.call("POST", "/requests", claimOf("billing"), "Idempotency-Key", key)
	require.Equal(t, 201, status, answer)
	require.Contains(t, answer, `"id":"r-1"`)
	require.Equal(t, `"2"`, headers.Get("ETag"))
	p.does("POST", "/requests/r-1/withdraw", nil, "If-Match", `"2"`) // as if it were not there
	left(", kind = '', subject = ''")
	require.Equal(t, "r-2", p.does("POST", "/requests", claimOf("billing"), "Idempotency-Key", key)["id"])
	left(", kind = 'user', subject = 'carol'")
	require.Contains(t, p.refused(409, "POST", "/requests", claimOf("billing"), "Idempotency-Key", key), "user carol")
}
