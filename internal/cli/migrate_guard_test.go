package cli_test

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/turnout-mq/turnout/admin/migrate"
	"github.com/turnout-mq/turnout/admin/requests"
)

func TestGuardsAreGivenTellTheWebhookAndAreShown(t *testing.T) {
	onKafkas(t, func(t *testing.T, p *platform) {
		told := make(chan migrate.Notice, 100)
		hook := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			var n migrate.Notice
			if json.NewDecoder(r.Body).Decode(&n) != nil || r.Header.Get(requests.SignatureHeader) == "" {
				w.WriteHeader(http.StatusBadRequest)
				return
			}
			told <- n
		}))
		t.Cleanup(hook.Close)
		t.Setenv("TURNOUT_TEST_HOOK_KEY", "key")
		next := func() migrate.Notice {
			t.Helper()
			select {
			case n := <-told:
				return n
			case <-time.After(patience):
				require.FailNow(t, "waited in vain for a notice")
				return migrate.Notice{}
			}
		}
		p.serve(t, "--webhook", hook.URL, "--webhook-secret", "env:TURNOUT_TEST_HOOK_KEY")
		p.turnout(t, "topic", "put", "order_topic", "--cluster", "kafka-a", "--create", "--partitions", "2")
		p.turnout(t, "group", "put", "order_bil_group", "--topic", "order_topic")
		tr := p.traffic(t, "order_topic", "order_bil_group")
		tr.await(t, "kafka-a", 50)
		p.turnout(t, "group", "put", "order_bil_group", "--paused")

		start := []string{"migrate", "start", "order_topic", "--to", "kafka-b", "--create", "--accept", "all", "--by", "bob"}
		require.Contains(t, p.refused(t, 2, append(start, "--guard", "drainin:time=1s:pause")...),
			`--guard: invalid: guard drainin:time=1s:pause: state is "drainin": must be any, `)
		const guard = "draining:time=1s:pause"
		plan := p.turnout(t, "migrate", "plan", "order_topic", "--to", "kafka-b", "--create", "--accept", "all", "--guard", guard)
		require.Contains(t, plan.stdout, " --guard "+guard)
		p.turnout(t, append(start, "--guard", guard, "--guard", "any:lag=1000000:page")...)
		n := next()
		require.Equal(t, migrate.Notice{Event: "guard-breached", Migration: "m-1", Kind: "migration", State: migrate.Draining, Version: n.Version,
			Subject: "order_topic", Applicant: "bob", Who: "guard", At: n.At, Guard: guard, Did: migrate.PauseIt, Text: n.Text}, n)
		require.Regexp(t, `^guard draining:time=1s:pause: \d+s in the state draining`, n.Text)
		require.Contains(t, p.turnout(t, "migrate", "list").stdout, "paused by guard "+guard)

		p.turnout(t, "group", "put", "order_bil_group", "--paused=false")
		p.turnout(t, "migrate", "resume", "m-1")
		watch := p.turnout(t, "migrate", "watch", "m-1")
		require.Contains(t, watch.stdout, "guard paused it: "+guard)
		over := next()
		require.Equal(t, "guard-over", over.Event)
		require.Greater(t, over.Version, n.Version)
		receipt := p.turnout(t, "migrate", "receipt", "m-1")
		require.Regexp(t, `(?m)^guard: +any:lag=1000000:page$`, receipt.stdout)
		require.Regexp(t, `(?m)^breach of draining:time=1s:pause: +\d.* in the state draining, pause: \d+s in the state draining`, receipt.stdout)
		tr.complete(t)
	})
}
