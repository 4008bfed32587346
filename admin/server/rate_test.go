package server_test

import (
	"strconv"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/turnout-mq/turnout/admin/server"
)

// Who asks too often is told when to ask again, by all sessions and tokens together; others are not affected.
func TestUsersAreBoundedInTheirRequests(t *testing.T) {
	s, admin, bob, _ := withPeople(t, startZooKeeper(t).ConnectString(), func(c *server.Config) { c.Rate = 0.01 }) // 20 at once, then one in 100 s
	for _, p := range []*person{admin, bob} {
		status, headers, answer := p.call("GET", "/requests", nil)
		for status == 200 { // whatever withPeople has left
			status, headers, answer = p.call("GET", "/requests", nil)
		}
		require.Equal(t, 429, status, answer)
		require.Contains(t, answer, `"code":"too-many"`)
		require.Contains(t, answer, "request-rate")
		after, err := strconv.Atoi(headers.Get("Retry-After"))
		require.NoError(t, err)
		require.Positive(t, after)
	}
	nobody := &person{T: t, url: s.URL}
	nobody.refused(401, "GET", "/requests", nil)
}
