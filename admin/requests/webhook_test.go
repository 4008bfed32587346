package requests

import (
	"crypto/hmac"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/turnout-mq/turnout/admin/store"
	"github.com/turnout-mq/turnout/internal/errs"
)

// received is one POST.
type received struct {
	Notice
	signed bool
}

// hook is a receiver that answers with the statuses given, then with 204.
func hook(t *testing.T, key string, statuses ...int) (url string, notices chan received) {
	t.Helper()
	notices = make(chan received, 100)
	answers := make(chan int, len(statuses))
	for _, status := range statuses {
		answers <- status
	}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		var n received
		if err == nil {
			err = json.Unmarshal(body, &n.Notice)
		}
		if err != nil || r.Method != http.MethodPost || r.Header.Get("Content-Type") != "application/json" {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		n.signed = hmac.Equal([]byte(r.Header.Get(SignatureHeader)), []byte(sign([]byte(key), r.Header.Get(TimestampHeader), body)))
		notices <- n
		select {
		case status := <-answers:
			w.WriteHeader(status)
		default:
			w.WriteHeader(http.StatusNoContent)
		}
	}))
	t.Cleanup(server.Close)
	return server.URL, notices
}

func next(t *testing.T, notices <-chan received) received {
	t.Helper()
	select {
	case n := <-notices:
		return n
	case <-time.After(patience):
		require.FailNow(t, "waited in vain for a notice")
		return received{}
	}
}

func TestTheWebhookIsToldInOrderAndSigned(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	url, notices := hook(t, "key", http.StatusInternalServerError, http.StatusTooManyRequests)
	service := s.service(func(c *Config) {
		c.Webhook = &Webhook{URL: url, Secret: "env:HOOK", Secrets: func(string) (string, error) { return "key", nil }}
	})
	s.run(service)
	r := s.done(service, New{Claim: &ClaimSpec{App: "order_service"}}, Approval{Note: "yes"})
	var events []string
	drafted := 0
	for len(events) == 0 || events[len(events)-1] != "done" {
		n := next(t, notices)
		require.True(t, n.signed)
		require.Equal(t, []string{r.ID, KindClaim, "order_service", "alice"}, []string{n.Request, n.Kind, n.Subject, n.Applicant})
		if n.Event == "drafted" {
			drafted++
		}
		if len(events) == 0 || events[len(events)-1] != n.Event { // one may come twice when its answer is late
			events = append(events, n.Event)
		}
	}
	require.Equal(t, []string{"drafted", "submitted", "approved", "executing", "done"}, events)
	require.GreaterOrEqual(t, drafted, 3, "it was refused twice")
}

func TestNoticesOutliveTheServerThatMadeThem(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	url, notices := hook(t, "", http.StatusBadRequest) // a notice that is refused is in the way of nothing
	server := func(name string) *Service {
		return s.service(func(c *Config) { c.Webhook, c.Server = &Webhook{URL: url}, name })
	}
	gone := server("first") // tells nobody: it never runs
	var ids []string
	for _, app := range []string{"order_service", "bill_service"} {
		ids = append(ids, s.file(gone, alice, New{Claim: &ClaimSpec{App: app}}).ID)
	}
	held, err := s.db.HoldNotice(t.Context(), "dead", time.Now().Add(-2*noticeHeld), time.Now().Add(-noticeHeld))
	require.NoError(t, err)
	require.NotNil(t, held, "and what a dead server held is told, too")
	for _, name := range []string{"second", "third"} {
		s.run(server(name))
	}
	told := map[string][]string{}
	for range 4 {
		n := next(t, notices)
		told[n.Request] = append(told[n.Request], n.Event)
	}
	for _, id := range ids {
		require.Equal(t, []string{"drafted", "submitted"}, told[id])
	}
	require.Eventually(t, func() bool {
		n, err := s.db.HoldNotice(t.Context(), "nobody", time.Now(), time.Now())
		return err == nil && n == nil
	}, patience, tick, "nothing is left")
}

func TestAWebhookThatDoesNotAnswerIsInNobodysWay(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	release := make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-release }))
	t.Cleanup(server.Close)
	t.Cleanup(func() { close(release) })
	service := s.service(func(c *Config) { c.Webhook = &Webhook{URL: server.URL} })
	stop := s.run(service)
	for range 3 {
		r := s.done(service, New{Claim: &ClaimSpec{App: "order_service"}}, Approval{})
		require.Equal(t, store.RequestOK, r.State)
	}
	stop() // does not wait for it either
}

func TestAWebhookIsLookedAtEarly(t *testing.T) {
	s := newStage(t)
	for _, w := range []Webhook{
		{}, {URL: "ftp://a/b"}, {URL: "https://"}, {URL: "https://user:hunter2@a/b"}, {URL: "https://a/b", Secret: "hunter2"}, {URL: "https://a/b", Secret: "env:TURNOUT_NO_SUCH_VARIABLE"},
	} {
		_, err := NewService(Config{Store: s.db, Meta: s.meta, Webhook: &w})
		require.ErrorIs(t, err, errs.ErrInvalid, "%+v", w)
		require.NotContains(t, err.Error(), "hunter2")
	}
}
