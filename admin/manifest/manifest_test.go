package manifest

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/turnout-mq/turnout/admin/requests"
	"github.com/turnout-mq/turnout/admin/store"
	"github.com/turnout-mq/turnout/broker"
	"github.com/turnout-mq/turnout/internal/errs"
	"github.com/turnout-mq/turnout/internal/mask"
	"github.com/turnout-mq/turnout/metadata"
)

const whole = `clusters:
- {name: kafka-a, kind: kafka, addresses: ["h1:9092", "h2:9092"], tls: {ca: /etc/ca.pem}, labels: {zone: north}}
topics:
- &orders
  name: order_topic
  app: shop
  cluster: kafka-a
  partitions: 4
  config: {retention.ms: 60000}
- <<: *orders
  name: pay_topic
  portable: false
---
groups:
- name: billing
  app: shop
  topics: [order_topic]
  retryMax: 0
`

func read(t *testing.T, text string) *Document {
	t.Helper()
	d, err := Read(strings.NewReader(text))
	require.NoError(t, err)
	return d
}

func TestADocumentIsRead(t *testing.T) {
	t.Parallel()
	d := read(t, whole)
	require.Equal(t, 4, d.Len())
	require.Equal(t, requests.ClusterSpec{Name: "kafka-a", Kind: broker.Kafka, Addresses: []string{"h1:9092", "h2:9092"}, TLS: &requests.TLSSpec{CA: "/etc/ca.pem"},
		Labels: map[string]string{"zone": "north"}}, d.Clusters[0].Spec)
	pay := d.Topics[1]
	require.Equal(t, "60000", pay.Spec.Config["retention.ms"], "numbers are settings too")
	require.False(t, *pay.Spec.Portable)
	require.True(t, pay.given["partitions"] && pay.given["portable"] && !pay.given["replicas"], "what is merged is given")
	require.Equal(t, []int{2, 4, 10, 15}, []int{d.Clusters[0].Line, d.Topics[0].Line, d.Topics[1].Line, d.Groups[0].Line})
	require.Zero(t, *d.Groups[0].Spec.RetryMax)
}

func TestADocumentIsWrittenAsItIsRead(t *testing.T) {
	t.Parallel()
	d := read(t, whole)
	d.Topics[0].Note = "look: twice"
	var out bytes.Buffer
	require.NoError(t, d.Write(&out, []string{"made by a test"}))
	require.True(t, strings.HasPrefix(out.String(), "# made by a test\n"), out.String())
	require.Contains(t, out.String(), "# look: twice\n")
	again := read(t, out.String())
	for i := range d.Topics {
		require.Equal(t, d.Topics[i].Spec, again.Topics[i].Spec)
	}
	require.Equal(t, d.Clusters[0].Spec, again.Clusters[0].Spec)
	require.Equal(t, d.Groups[0].Spec, again.Groups[0].Spec)
}

func TestADocumentThatIsWrong(t *testing.T) {
	t.Parallel()
	for text, want := range map[string][]string{
		"":                   {"has nothing"},
		"---\n---\n":         {"has nothing"},
		"topics: 3":          {"line 1: cannot unmarshal"},
		"topics: [{nam: x}]": {"line 1: there is no field nam"},
		"tpics: []":          {"line 1: there is no field tpics"},
		"topics:\n- {name: a, app: x, partitions: four}":                                                                       {"line 2: cannot unmarshal !!str into int"},
		"topics:\n- {name: a/b, app: x, partitions: 0}":                                                                        {"line 2", `name "a/b"`, `partitions "0"`},
		"topics:\n- {name: a, app: x, partitions: 1}\n- {name: a, app: x, partitions: 1}":                                      {"line 3: topic a is in line 2 already"},
		"topics:\n- {name: a, app: x, partitions: 1, cluster: k}\n- {name: b, app: x, partitions: 1, cluster: k, physical: a}": {"line 3: a topic on cluster k that is called a is in line 2 already"},
		"clusters:\n- {name: k, kind: kafka, addresses: [\"h:1\"], properties: {sasl.password: hunter2}}":                      {"line 2", "looks like a secret"},
		"clusters:\n- {name: k, kind: kafka, addresses: [\"h:1\"], mechanism: PLAIN, secret: hunter2}":                         {"line 2", "secret", "env:NAME"},
		"clusters:\n- {name: k, kind: kafka, addresses: hunter2}":                                                              {"line 2: cannot unmarshal"},
		"groups:\n- {name: g, app: x, topics: []}":                                                                             {"line 2", "at least one topic"},
		"groups: [{name: g, app: x, topics: [t]}":                                                                              {"did not find"},
	} {
		_, err := Read(strings.NewReader(text))
		require.ErrorIs(t, err, errs.ErrInvalid, text)
		for _, w := range want {
			require.ErrorContains(t, err, w, text)
		}
		require.NotContains(t, err.Error(), "hunter2")
		require.NotContains(t, err.Error(), "requests.", "types of ours say nothing to anybody")
	}
	many := "topics:\n" + strings.Repeat("- {name: a/b, app: x, partitions: 1}\n", 100)
	_, err := Read(strings.NewReader(many))
	require.ErrorContains(t, err, "more")
	require.Less(t, strings.Count(err.Error(), "\n"), 100)
}

func doc(t *testing.T, v any) json.RawMessage {
	t.Helper()
	data, err := json.Marshal(v)
	require.NoError(t, err)
	return data
}

// platform is what the platform has after the document was carried out.
func platform(t *testing.T) Now {
	t.Helper()
	settings := metadata.DefaultTopicSettings()
	settings.App = "shop"
	closed := settings
	closed.Portable = false
	g := metadata.DefaultGroup()
	g.App, g.Topics, g.Retry.Max = "shop", []string{"order_topic"}, 0
	topic := requests.TopicDoc{Cluster: "kafka-a", Order: metadata.OrderNone, Config: map[string]string{"retention.ms": "60000"}, Settings: settings}
	pay := topic
	pay.Settings = closed
	item := func(kind, name string, v any) *store.CatalogItem {
		return &store.CatalogItem{Kind: kind, Name: name, App: "shop", State: store.Active, Doc: doc(t, v)}
	}
	now := Now{Catalog: []*store.CatalogItem{
		item(store.CatalogCluster, "kafka-a", metadata.Cluster{V: 1, Kind: broker.Kafka, Addresses: []string{"h2:9092", "h1:9092"}, ClusterID: "4711", TLS: &metadata.TLS{CA: "/etc/ca.pem"},
			Auth: &metadata.Auth{Mechanism: "PLAIN", Secret: "env:LOGIN"}}),
		item(store.CatalogTopic, "order_topic", topic), item(store.CatalogTopic, "pay_topic", pay), item(store.CatalogGroup, "billing", g),
	}}
	now.Catalog[0].Labels = map[string]string{"zone": "north"}
	for _, i := range now.Catalog[1:3] {
		i.Cluster, i.Partitions = "kafka-a", 4
	}
	return now
}

func TestCompare(t *testing.T) {
	t.Parallel()
	plan := func(text string, now Now, prune bool) Plan {
		t.Helper()
		p, err := read(t, text).Compare(now, prune)
		require.NoError(t, err)
		return p
	}
	p := plan(whole, Now{}, false)
	require.Equal(t, 4, p.Count(Create))
	require.Len(t, p.ToFile(), 4)
	require.True(t, p.Differs())
	p = plan(whole, platform(t), true)
	require.Equal(t, 4, p.Count(Equal), "%+v", p.Steps)
	require.False(t, p.Differs())

	// A cluster is asked for whole: what the document does not say is taken from what is there.
	p = plan("clusters: [{name: kafka-a, kind: kafka, addresses: [\"h3:9092\"], tls: {}}]", platform(t), false)
	require.Equal(t, Change, p.Steps[0].Action)
	require.Equal(t, &requests.ClusterSpec{Name: "kafka-a", Kind: broker.Kafka, Addresses: []string{"h3:9092"}, ClusterID: "4711", Mechanism: "PLAIN", Secret: "env:LOGIN",
		TLS: &requests.TLSSpec{}, Properties: map[string]string{}, Labels: map[string]string{"zone": "north"}}, p.Steps[0].Request.Cluster)
	p = plan("clusters: [{name: kafka-a, kind: rocketmq, addresses: [\"h1:9092\", \"h2:9092\"], clusterId: other}]", platform(t), false)
	require.Equal(t, Impossible, p.Steps[0].Action)
	require.Equal(t, 1, p.Blocked())
	require.Empty(t, p.ToFile())

	hidden := platform(t)
	hidden.Catalog[0].Doc = doc(t, metadata.Cluster{V: 1, Kind: broker.Kafka, Addresses: []string{"h1:9092"}, Properties: map[string]string{"client.rack": mask.Hidden}})
	p = plan("clusters: [{name: kafka-a, kind: kafka, addresses: [\"h3:9092\"]}]", hidden, false)
	require.Equal(t, Impossible, p.Steps[0].Action, "what is not shown is not written over")
	hidden.Catalog[0].State = Unmanaged
	p = plan("clusters: [{name: kafka-a, kind: kafka, addresses: [\"h3:9092\"]}]", hidden, false)
	require.Equal(t, Create, p.Steps[0].Action)

	// Every field of a topic and a group, where it differs.
	p = plan(`topics: [{name: order_topic, app: bill, cluster: kafka-b, kind: rocketmq, partitions: 8, order: key, physical: orders, portable: false, shadow: false, labels: {a: b}}]
groups: [{name: billing, app: bill, topics: [pay_topic], start: latest, order: key, concurrency: 2, rate: 1.5, tags: red, retryMax: 3, names: {order_topic: bills}}]`, platform(t), false)
	changed := func(s Step) (can, not []string) {
		for _, f := range s.Fields {
			require.NotEqual(t, f.From, f.To)
			if f.Why == "" {
				can = append(can, f.Name)
			} else {
				not = append(not, f.Name)
			}
		}
		return can, not
	}
	can, not := changed(p.Steps[0])
	require.Equal(t, []string{"app", "portable", "shadow", "labels"}, can)
	require.Equal(t, []string{"cluster", "kind", "physical", "order", "partitions"}, not)
	can, not = changed(p.Steps[1])
	require.Equal(t, []string{"app", "topics", "order", "concurrency", "rate", "tags", "retryMax"}, can)
	require.Equal(t, []string{"start", "names.order_topic"}, not)
	require.Equal(t, 2, p.Blocked())
	require.InDelta(t, 1.5, *p.Steps[1].Request.Settings.Group.Rate, 0)
	require.Equal(t, []string{"pay_topic"}, p.Steps[1].Request.Settings.Group.Topics)
}

// Requests that are there already are not filed again.
func TestCompareWithRequests(t *testing.T) {
	t.Parallel()
	d := read(t, whole)
	d.Topics = d.Topics[:1]
	d.Clusters, d.Groups = nil, nil
	request := func(kind string, state store.RequestState, spec any) *store.ChangeRequest {
		return &store.ChangeRequest{ID: "r-7", Kind: kind, Subject: "order_topic", Applicant: "alice", State: state, Error: "no room", Spec: doc(t, spec)}
	}
	step := func(now Now) Step {
		t.Helper()
		p, err := d.Compare(now, false)
		require.NoError(t, err)
		require.Len(t, p.Steps, 1)
		return p.Steps[0]
	}
	same, other := d.Topics[0].Spec, d.Topics[0].Spec
	other.Partitions = 9
	for _, state := range []store.RequestState{store.Submitted, store.Approved, store.Executing} {
		s := step(Now{Requests: []*store.ChangeRequest{request(requests.KindTopic, state, same)}})
		require.Equal(t, []any{Pending, "r-7", "r-7 by alice is " + string(state)}, []any{s.Action, s.Waiting, s.Note})
		require.Nil(t, s.Request)
		require.False(t, s.Blocked())
	}
	require.Contains(t, step(Now{Requests: []*store.ChangeRequest{request(requests.KindTopic, store.Submitted, other)}}).Note, "something else")
	s := step(Now{Requests: []*store.ChangeRequest{request(requests.KindTopic, store.RequestBad, same)}})
	require.Equal(t, Failed, s.Action)
	require.Contains(t, s.Note, "no room")
	require.True(t, s.Blocked())
	require.Equal(t, Create, step(Now{Requests: []*store.ChangeRequest{request(requests.KindTopic, store.RequestBad, other)}}).Action, "the document was corrected")
	require.Equal(t, Create, step(Now{Requests: []*store.ChangeRequest{request(requests.KindGroup, store.Submitted, same)}}).Action, "another thing of that name")

	now := platform(t)
	now.Catalog[1].State = Unmanaged
	require.Contains(t, step(now).Note, "adopt it")
	now.Catalog[1].State = store.Creating
	require.Equal(t, Impossible, step(now).Action)
	now.Requests = []*store.ChangeRequest{request(requests.KindTopic, store.Executing, same)}
	require.Equal(t, Pending, step(now).Action)
	now.Catalog[1].State, now.Catalog[1].App = store.Active, "other"
	require.Equal(t, Change, step(now).Action)
	app := "shop"
	now.Requests = []*store.ChangeRequest{request(requests.KindSettings, store.Submitted, requests.SettingsSpec{Topic: &requests.TopicChange{Name: "order_topic", App: &app}})}
	require.Equal(t, Pending, step(now).Action)
}

func TestPrune(t *testing.T) {
	t.Parallel()
	now := platform(t)
	of := func(text string, prune bool) (steps []string) {
		t.Helper()
		p, err := read(t, text).Compare(now, prune)
		require.NoError(t, err)
		for _, s := range p.Steps {
			steps = append(steps, strings.Join([]string{string(s.Action), s.Kind, s.Name}, " "))
		}
		return steps
	}
	const only = "topics: [{name: new_topic, app: shop, partitions: 1}]"
	require.Equal(t, []string{"create topic new_topic"}, of(only, false))
	require.Equal(t, []string{"create topic new_topic", "delete group billing", "kept topic order_topic", "delete topic pay_topic"}, of(only, true))
	require.Equal(t, []string{"create topic new_topic"}, of(strings.Replace(only, "shop", "bill", 1), true), "of another application")
	now.Requests = []*store.ChangeRequest{{ID: "r-7", Kind: requests.KindDeletion, Subject: "billing", State: store.Approved, Spec: doc(t, requests.DeletionSpec{Kind: "group", Name: "billing"})}}
	require.Contains(t, of(only, true), "pending group billing")
}
