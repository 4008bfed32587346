package server_test

import (
	"net/http"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/turnout-mq/turnout/broker"
	"github.com/turnout-mq/turnout/broker/drivers"
	"github.com/turnout-mq/turnout/metadata"
	"github.com/turnout-mq/turnout/testenv"
)

// A stress task by HTTP: planned, asked for, approved by somebody else, started, stopped and removed; who may not, does not.
func TestStressOverHTTP(t *testing.T) {
	e, err := testenv.Start(t.Context(), testenv.Spec{ZooKeeper: 1, Kafka: []string{"kafka-a"}})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, e.Close()) })
	meta := openMeta(t, e.ZooKeeper())
	s, admin, bob, alice := withPeople(t, e.ZooKeeper())
	require.NoError(t, meta.PutCluster(t.Context(), "kafka-a", metadata.Cluster{Kind: broker.Kafka, Addresses: e.Addresses("kafka-a")}))
	c, err := drivers.Open(t.Context(), broker.Config{Name: "kafka-a", Kind: broker.Kafka, Addresses: e.Addresses("kafka-a"), ClientID: "test"})
	require.NoError(t, err)
	require.NoError(t, c.CreateTopic(t.Context(), "order_topic", broker.TopicSpec{Partitions: 1}))
	require.NoError(t, c.Close(t.Context()))
	_, err = meta.PutTopic(t.Context(), "order_topic", metadata.PutTopic{Cluster: "kafka-a"})
	require.NoError(t, err)
	g := metadata.DefaultGroup()
	g.App, g.Topics = "billing_app", []string{"order_topic"}
	require.NoError(t, meta.PutGroup(t.Context(), "billing", g))

	spec := map[string]any{"task": "sale", "groups": []any{map[string]any{"group": "billing"}}, "limitSeconds": 600, "guards": []any{map[string]any{"group": "billing", "maxUnread": 100}}}
	plan := alice.does("POST", "/stress/plan", spec)
	require.Empty(t, plan["problems"])
	require.Equal(t, "shadow_order_topic", plan["topics"].([]any)[0].(map[string]any)["shadowTopic"])
	require.Contains(t, alice.refused(422, "POST", "/stress/plan", map[string]any{"task": "sale", "groups": []any{}, "limitSeconds": 0}), "body.")
	alice.refused(404, "GET", "/stress/s-1", nil)
	id := alice.does("POST", "/requests", map[string]any{"reason": "the sale", "stress": spec})["id"].(string)
	bob.does("POST", "/requests/"+id+"/approve", map[string]any{}, "If-Match", `"2"`)
	var r map[string]any
	require.Eventually(t, func() bool {
		r = alice.does("GET", "/requests/"+id, nil)
		return r["endedAt"] != nil
	}, patience, tick)
	require.Equal(t, "done", r["state"], r)
	require.Equal(t, map[string]any{"task": "s-1"}, r["result"])
	list := alice.does("GET", "/stress?state=ready&name=sale", nil)["items"].([]any)
	require.Len(t, list, 1)
	require.Empty(t, alice.does("GET", "/stress?state=running,removed", nil)["items"])

	admin.does("POST", "/users", map[string]string{"name": "eve", "role": "viewer", "password": password})
	admin.does("POST", "/users", map[string]string{"name": "carol", "role": "applicant", "password": password})
	eve, carol := login(t, s.URL, "eve"), login(t, s.URL, "carol")
	_, headers, _ := eve.call("GET", "/stress/s-1", nil)
	tag := headers.Get("ETag")
	require.NotEmpty(t, tag)
	for _, who := range []*person{eve, carol} {
		for _, what := range []string{"start", "stop", "remove"} {
			who.refused(http.StatusForbidden, "POST", "/stress/s-1/"+what, nil, "If-Match", tag)
		}
	}
	eve.refused(http.StatusForbidden, "POST", "/stress/plan", spec)
	alice.refused(http.StatusPreconditionRequired, "POST", "/stress/s-1/start", nil)
	alice.refused(http.StatusPreconditionFailed, "POST", "/stress/s-1/start", nil, "If-Match", `"1"`)
	alice.refused(http.StatusConflict, "POST", "/stress/s-1/stop", nil)
	alice.does("POST", "/stress/s-1/start", nil, "If-Match", tag)
	var v map[string]any
	state := func(wanted string) {
		t.Helper()
		require.Eventually(t, func() bool {
			v = alice.does("GET", "/stress/s-1", nil)
			return v["state"] == wanted
		}, patience, tick)
	}
	state("running")
	group := v["groups"].([]any)[0].(map[string]any)
	require.Equal(t, []any{"/zpt/billing_app/sale/billing", true}, []any{group["flag"], group["enabled"]})
	bob.does("POST", "/stress/s-1/stop", nil)
	state("stopped")
	require.Equal(t, "stopped by bob", v["reason"])
	_, headers, _ = alice.call("GET", "/stress/s-1", nil)
	alice.does("POST", "/stress/s-1/remove", nil, "If-Match", headers.Get("ETag"))
	state("removed")
	events := alice.does("GET", "/stress/s-1/events?after=4", nil)["events"].([]any)
	require.Equal(t, "bob", events[0].(map[string]any)["who"])
	found := alice.does("GET", "/audit?kind=flag&request="+id, nil)["items"].([]any)
	require.Len(t, found, 4, "made, on, off, gone")
}
