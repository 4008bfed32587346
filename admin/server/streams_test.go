package server_test

import (
	"bufio"
	"context"
	"io"
	"net/http"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/turnout-mq/turnout/metadata"
)

// The fleet as server-sent events: what there is, what comes and goes, until the server ends. A client that has gone is no affair of
// standard error.
func TestStreamOfTheFleet(t *testing.T) {
	reading, writing, err := os.Pipe()
	require.NoError(t, err)
	stderr := os.Stderr
	os.Stderr = writing
	said := make(chan string, 1)
	go func() {
		all, _ := io.ReadAll(reading)
		said <- string(all)
	}()
	t.Cleanup(func() { // after the server has ended
		os.Stderr = stderr
		require.NoError(t, writing.Close())
		require.NotContains(t, <-said, "deadline")
	})

	e, meta := world(t)
	require.NoError(t, meta.PutGroup(t.Context(), "billing", metadata.Group{Topics: []string{"order_topic"}}))
	s := run(t, e.ZooKeeper(), databases.Database(t), nil)
	open := func(ctx context.Context) (*bufio.Scanner, io.Closer) {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.URL+"/api/v1/fleet/stream", nil)
		require.NoError(t, err)
		resp, err := plain(t).Do(req)
		require.NoError(t, err)
		require.Equal(t, "text/event-stream", resp.Header.Get("Content-Type"))
		t.Cleanup(func() { _ = resp.Body.Close() }) // again, of one that has gone
		return bufio.NewScanner(resp.Body), resp.Body
	}
	until := func(lines *bufio.Scanner, texts ...string) {
		t.Helper()
		all := ""
		for lines.Scan() {
			all += lines.Text() + "\n"
			found := true
			for _, text := range texts {
				found = found && strings.Contains(lines.Text(), text)
			}
			if found {
				return
			}
		}
		require.FailNow(t, "the stream has ended", "without %q: %s, %v", texts, all, lines.Err())
	}
	lines, _ := open(t.Context())
	until(lines, "event: beat")
	gone, cancel := context.WithCancel(t.Context())
	other, body := open(gone)
	until(other, "event: beat")
	cancel()
	require.NoError(t, body.Close())
	const id = "10.9.9.9@-@1@-@0"
	require.NoError(t, meta.Create(t.Context(), meta.InstancePath("quickstart", id), []byte(`{"v":1,"host":"machine","pid":7}`)))
	until(lines, `"id":"`+id+`"`, `"host":"machine"`)
	require.NoError(t, meta.Delete(t.Context(), meta.InstancePath("quickstart", id), metadata.AnyVersion))
	until(lines, `"id":"`+id+`"`, `"gone":true`)
	third, _ := open(t.Context())
	until(third, "event: group")
	until(third, `"group":"billing"`, `"unread":0`)
	s.stop()
	for lines.Scan() {
		require.NotContains(t, lines.Text(), `"gone":true`)
	}
	require.NoError(t, s.end(t))
}
