package shadowhttp_test

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/otel/baggage"
	"go.uber.org/goleak"

	"github.com/turnout-mq/turnout/shadow"
	"github.com/turnout-mq/turnout/shadow/shadowhttp"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// serve runs h until the test ends.
func serve(t *testing.T, h http.Handler) *httptest.Server {
	srv := httptest.NewServer(h)
	t.Cleanup(srv.Close)
	return srv
}

// says answers whether the ctx is marked.
func says(w http.ResponseWriter, r *http.Request) {
	_, _ = io.WriteString(w, strconv.FormatBool(shadow.Marked(r.Context())))
}

func get(ctx context.Context, t *testing.T, c *http.Client, url string, headers ...string) (int, string) {
	t.Helper()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, url, http.NoBody)
	require.NoError(t, err)
	for i := 0; i < len(headers); i += 2 {
		r.Header.Add(headers[i], headers[i+1])
	}
	before := r.Header.Clone()
	resp, err := c.Do(r)
	require.NoError(t, err)
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	require.Equal(t, before, r.Header, "the caller's request is as it was")
	return resp.StatusCode, strings.TrimSpace(string(body))
}

func TestWhichRequestsMark(t *testing.T) {
	srv := serve(t, shadowhttp.Handler(http.HandlerFunc(says)))
	long := strings.Repeat("k=v,", 5000)
	for _, c := range []struct {
		name    string
		headers []string
		status  int
		body    string
	}{
		{"nothing", nil, 200, "false"},
		{"the header", []string{"turnout-shadow", "1"}, 200, "true"},
		{"as browsers write it", []string{"Turnout-Shadow", " 1 "}, 200, "true"},
		{"a clear no", []string{"turnout-shadow", "0"}, 200, "false"},
		{"blank", []string{"turnout-shadow", ""}, 200, "false"},
		{"one of two says yes", []string{"turnout-shadow", "0", "turnout-shadow", "1"}, 200, "true"},
		{"baggage", []string{"baggage", "turnout-shadow=1"}, 200, "true"},
		{"baggage among others", []string{"baggage", "user=a%2Cb , turnout-shadow = 1 ;ttl=3,x=y"}, 200, "true"},
		{"percent-encoded", []string{"baggage", "turnout-shadow=%31"}, 200, "true"},
		{"the second header of its name", []string{"baggage", "a=b", "baggage", "turnout-shadow=1"}, 200, "true"},
		{"baggage that breaks the standard", []string{"baggage", "=,;;, é%zz,turnout-shadow=1"}, 200, "true"},
		{"more baggage than others take", []string{"baggage", long + "turnout-shadow=1"}, 200, "true"},
		{"other members", []string{"baggage", "turnout=1,turnout-shadow-x=1,x=turnout-shadow=1"}, 200, "false"},
		{"a no in baggage", []string{"baggage", "turnout-shadow=0"}, 200, "false"},
		{"the header wins over a no", []string{"turnout-shadow", "1", "baggage", "turnout-shadow=0"}, 200, "true"},
		{"neither yes nor no", []string{"turnout-shadow", "true"}, 400, `turnout-shadow "true": must be "1" for stress traffic; leave it out for production traffic`},
		{"neither yes nor no in baggage", []string{"baggage", "turnout-shadow=yes"}, 400, `turnout-shadow "yes": must be "1" for stress traffic; leave it out for production traffic`},
	} {
		t.Run(c.name, func(t *testing.T) {
			status, body := get(t.Context(), t, srv.Client(), srv.URL, c.headers...)
			require.Equal(t, c.status, status)
			require.Equal(t, c.body, body)
		})
	}
}

func TestWhoIsNotTrustedIsRefused(t *testing.T) {
	srv := serve(t, shadowhttp.Handler(http.HandlerFunc(says), shadowhttp.WithTrust(func(r *http.Request) bool {
		return r.Header.Get("Authorization") == "tester"
	})))
	status, body := get(t.Context(), t, srv.Client(), srv.URL, "turnout-shadow", "1")
	require.Equal(t, http.StatusForbidden, status)
	require.Contains(t, body, "no stress traffic")
	status, _ = get(t.Context(), t, srv.Client(), srv.URL, "baggage", "turnout-shadow=1")
	require.Equal(t, http.StatusForbidden, status)
	status, body = get(t.Context(), t, srv.Client(), srv.URL, "turnout-shadow", "1", "Authorization", "tester")
	require.Equal(t, http.StatusOK, status)
	require.Equal(t, "true", body)
	status, body = get(t.Context(), t, srv.Client(), srv.URL)
	require.Equal(t, http.StatusOK, status, "production traffic needs no trust")
	require.Equal(t, "false", body)
}

func TestTheMarkGoesFromServiceToService(t *testing.T) {
	last := serve(t, shadowhttp.Handler(http.HandlerFunc(says)))
	client := &http.Client{Transport: shadowhttp.Transport(last.Client().Transport)}
	first := serve(t, shadowhttp.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, body := get(r.Context(), t, client, last.URL)
		_, _ = io.WriteString(w, body)
	})))
	_, body := get(shadow.WithMark(t.Context()), t, &http.Client{Transport: shadowhttp.Transport(first.Client().Transport)}, first.URL)
	require.Equal(t, "true", body)
	_, body = get(t.Context(), t, &http.Client{Transport: shadowhttp.Transport(first.Client().Transport)}, first.URL)
	require.Equal(t, "false", body)
}

func TestTransport(t *testing.T) {
	var got http.Header
	srv := serve(t, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { got = r.Header }))
	client := &http.Client{Transport: shadowhttp.Transport(nil)}
	defer client.CloseIdleConnections()
	marked := shadow.WithMark(t.Context())
	for _, c := range []struct {
		name    string
		ctx     context.Context
		headers []string
		mark    []string
		baggage []string
	}{
		{"unmarked", t.Context(), []string{"baggage", "a=b"}, nil, []string{"a=b"}},
		{"marked", marked, nil, []string{"1"}, []string{"turnout-shadow=1"}},
		{"other baggage stays as it is", marked, []string{"baggage", "a=%20b;p=1", "baggage", "%zz=é"}, []string{"1"}, []string{"turnout-shadow=1,a=%20b;p=1,%zz=é"}},
		{"it is there already", marked, []string{"baggage", "a=b,turnout-shadow=1", "turnout-shadow", "1"}, []string{"1"}, []string{"turnout-shadow=1,a=b"}},
		{"it says no", marked, []string{"baggage", "turnout-shadow=0;p,a=b", "turnout-shadow", "0"}, []string{"1"}, []string{"turnout-shadow=1,a=b"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			status, _ := get(c.ctx, t, client, srv.URL, c.headers...)
			require.Equal(t, http.StatusOK, status)
			require.Equal(t, c.mark, got.Values("turnout-shadow"))
			require.Equal(t, c.baggage, got.Values("baggage"))
		})
	}
}

func TestItIsUnderstoodByOpenTelemetry(t *testing.T) {
	var there baggage.Baggage
	srv := serve(t, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		var err error
		there, err = baggage.Parse(r.Header.Get("baggage"))
		if err != nil {
			t.Error(err)
		}
	}))
	get(shadow.WithMark(t.Context()), t, &http.Client{Transport: shadowhttp.Transport(srv.Client().Transport)}, srv.URL, "baggage", "user=alice")
	require.Equal(t, "1", there.Member(shadow.BaggageKey).Value())
	require.Equal(t, "alice", there.Member("user").Value())
	require.True(t, shadow.Marked(baggage.ContextWithBaggage(t.Context(), there)))

	ctx := shadow.WithMark(baggage.ContextWithBaggage(t.Context(), there.DeleteMember(shadow.BaggageKey)))
	srv = serve(t, shadowhttp.Handler(http.HandlerFunc(says)))
	_, body := get(t.Context(), t, srv.Client(), srv.URL, "baggage", baggage.FromContext(ctx).String())
	require.Equal(t, "true", body)
}
