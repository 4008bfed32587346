package requests

import (
	"context"
	"encoding/json"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/turnout-mq/turnout/admin/people"
	"github.com/turnout-mq/turnout/admin/store"
	"github.com/turnout-mq/turnout/broker"
	"github.com/turnout-mq/turnout/internal/errs"
	"github.com/turnout-mq/turnout/metadata"
)

func TestARequestFromDraftToApproval(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	service := s.service()
	ctx := t.Context()
	r, err := service.Draft(ctx, alice, topic("order_topic"))
	require.NoError(t, err)
	require.Equal(t, []any{"r-1", KindTopic, store.Draft, "alice", "order_service", "order_topic", "orders", int64(1)},
		[]any{r.ID, r.Kind, r.State, r.Applicant, r.App, r.Subject, r.Reason, r.Version})

	changed := topic("order_topic")
	changed.Topic.Partitions = 6
	r, err = service.Edit(ctx, alice, r.ID, r.Version, changed)
	require.NoError(t, err)
	_, err = service.Approve(ctx, bob, r.ID, r.Version, Approval{Cluster: "kafka-a"})
	require.ErrorIs(t, err, errs.ErrConflict, "a draft waits for nobody")
	r, err = service.Submit(ctx, alice, r.ID, r.Version)
	require.NoError(t, err)
	require.WithinDuration(t, r.SubmittedAt.AddDate(0, 0, 14), *r.ExpiresAt, time.Minute)
	seen := r.Version

	changed.Topic.Partitions = 9
	r, err = service.Edit(ctx, alice, r.ID, r.Version, changed)
	require.NoError(t, err)
	require.Equal(t, store.Submitted, r.State)
	_, err = service.Approve(ctx, bob, r.ID, seen, Approval{Cluster: "kafka-a"})
	require.ErrorIs(t, err, errs.ErrConflict, "not what was read")
	_, err = service.Approve(ctx, bob, r.ID, 0, Approval{Cluster: "kafka-a"})
	require.ErrorIs(t, err, errs.ErrInvalid, "without a version")
	_, err = service.Approve(ctx, bob, r.ID, r.Version, Approval{})
	require.ErrorContains(t, err, "name a cluster with the approval")
	_, err = service.Approve(ctx, bob, r.ID, r.Version, Approval{Cluster: "kafka-z"})
	require.ErrorIs(t, err, errs.ErrNotFound)
	require.NoError(t, service.Comment(ctx, carol, r.ID, "nine?"))
	r, err = service.Approve(ctx, bob, r.ID, r.Version, Approval{Cluster: "kafka-a", Note: "nine it is"})
	require.NoError(t, err, "a comment is in nobody's way")
	require.Equal(t, []any{store.Approved, "bob", "nine it is", "kafka-a", "named by bob"}, []any{r.State, r.DecidedBy, r.Decision, r.Cluster, r.ClusterReason})
	require.Nil(t, r.ExpiresAt)
	for what, call := range map[string]func() error{
		"edit":    func() error { _, err := service.Edit(ctx, alice, r.ID, r.Version, changed); return err },
		"submit":  func() error { _, err := service.Submit(ctx, alice, r.ID, r.Version); return err },
		"approve": func() error { _, err := service.Approve(ctx, bob, r.ID, r.Version, Approval{}); return err },
		"decline": func() error { _, err := service.Decline(ctx, bob, r.ID, r.Version, "no"); return err },
		"retry":   func() error { _, err := service.Retry(ctx, alice, r.ID, r.Version); return err },
	} {
		require.ErrorIs(t, call(), errs.ErrConflict, what)
	}
	require.Equal(t, []string{"drafted", "edited", "submitted", "edited", "comment", "approved"}, s.kinds(r.ID))
	history, err := service.History(ctx, r.ID, 3, 1)
	require.NoError(t, err)
	require.Contains(t, string(history[0].Data), `"partitions":6`, "what was there before")
	require.Contains(t, string(history[0].Data), `"partitions":9`)

	owners, err := s.db.Owners(ctx, "order_service")
	require.NoError(t, err)
	require.Equal(t, []string{"alice"}, owners, "the first accepted request makes the owner")
	audits, err := s.db.Audits(ctx, store.AuditFilter{Request: r.ID, Oldest: true})
	require.NoError(t, err)
	var actions []string
	for _, a := range audits {
		actions = append(actions, a.Action)
	}
	require.Equal(t, []string{"draft", "edit", "submit", "edit", "comment", "add-owner", "approve"}, actions)
	_, err = service.Get(ctx, "r-99")
	require.ErrorIs(t, err, errs.ErrNotFound)
	_, err = service.Get(ctx, "m-1")
	require.ErrorIs(t, err, errs.ErrInvalid)
}

func TestNobodyApprovesTheOwnRequest(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	service := s.service()
	for _, who := range []people.Principal{admin, bob} {
		r := s.file(service, who, New{Claim: &ClaimSpec{App: "app_of_" + who.Name}})
		_, err := service.Approve(t.Context(), who, r.ID, r.Version, Approval{})
		require.ErrorIs(t, err, errs.ErrNotAllowed)
		require.ErrorContains(t, err, "four eyes")
		_, err = service.Decline(t.Context(), who, r.ID, r.Version, "mine")
		require.ErrorIs(t, err, errs.ErrNotAllowed)
		r, err = service.Get(t.Context(), r.ID)
		require.NoError(t, err)
		require.Equal(t, store.Submitted, r.State)
	}
}

func TestWhoMayWhat(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	service := s.service()
	ctx := t.Context()
	onlyRead := admin
	onlyRead.Scopes = []people.Permission{people.Read}
	r := s.file(service, alice, topic("order_topic"))
	cluster := New{Cluster: &ClusterSpec{Name: "kafka-c", Kind: broker.Kafka, Addresses: []string{"127.0.0.1:1"}}}
	for what, call := range map[string]func() error{
		"a viewer drafts":              func() error { _, err := service.Draft(ctx, eve, topic("x")); return err },
		"nobody drafts":                func() error { _, err := service.Draft(ctx, people.Principal{}, topic("x")); return err },
		"a token for reading drafts":   func() error { _, err := service.Draft(ctx, onlyRead, topic("x")); return err },
		"an applicant, a cluster":      func() error { _, err := service.Draft(ctx, alice, cluster); return err },
		"another one edits":            func() error { _, err := service.Edit(ctx, carol, r.ID, r.Version, topic("order_topic")); return err },
		"an approver edits":            func() error { _, err := service.Edit(ctx, bob, r.ID, r.Version, topic("order_topic")); return err },
		"another one submits":          func() error { _, err := service.Submit(ctx, carol, r.ID, r.Version); return err },
		"another one withdraws":        func() error { _, err := service.Withdraw(ctx, carol, r.ID, r.Version, ""); return err },
		"an applicant approves":        func() error { _, err := service.Approve(ctx, carol, r.ID, r.Version, Approval{}); return err },
		"an applicant declines":        func() error { _, err := service.Decline(ctx, carol, r.ID, r.Version, "no"); return err },
		"a token for reading approves": func() error { _, err := service.Approve(ctx, onlyRead, r.ID, r.Version, Approval{}); return err },
		"a viewer comments":            func() error { return service.Comment(ctx, eve, r.ID, "hello") },
		"an approver changes a policy": func() error {
			_, err := service.PutPolicy(ctx, bob, store.RequestPolicy{Kind: KindTopic, Days: 1})
			return err
		},
		"an approver changes a rule":    func() error { _, err := service.PutRule(ctx, bob, Rule{Name: "x"}); return err },
		"an approver deletes a rule":    func() error { return service.DeleteRule(ctx, bob, "x", 1) },
		"a viewer withdraws of another": func() error { _, err := service.Withdraw(ctx, eve, r.ID, r.Version, ""); return err },
	} {
		require.ErrorIs(t, call(), errs.ErrNotAllowed, what)
	}
	now, err := service.Get(ctx, r.ID)
	require.NoError(t, err)
	require.Equal(t, r.Version, now.Version)
	_, err = service.Decline(ctx, bob, r.ID, r.Version, " ")
	require.ErrorIs(t, err, errs.ErrInvalid, "without saying why")
	r, err = service.Decline(ctx, bob, r.ID, r.Version, "too many")
	require.NoError(t, err)
	require.Equal(t, []any{store.Declined, "too many"}, []any{r.State, r.Decision})
	require.NotNil(t, r.EndedAt)
	again := s.file(service, alice, topic("order_topic"))
	again, err = service.Withdraw(ctx, alice, again.ID, again.Version, "")
	require.NoError(t, err)
	require.Equal(t, store.Withdrawn, again.State)
	third := s.file(service, alice, topic("order_topic"))
	_, err = service.Withdraw(ctx, admin, third.ID, third.Version, "")
	require.NoError(t, err)
}

func TestAnApplicationBelongsToItsOwners(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	service := s.service()
	ctx := t.Context()
	require.NoError(t, s.db.AddOwner(ctx, "order_service", "alice"))
	_, err := service.Draft(ctx, carol, topic("order_topic"))
	require.ErrorIs(t, err, errs.ErrNotAllowed)
	require.ErrorContains(t, err, "claim ownership first")
	s.file(service, admin, topic("admin_topic"))
	r := s.file(service, alice, topic("order_topic"))
	other := topic("order_topic")
	other.Topic.App = "somebody_else"
	require.NoError(t, s.db.AddOwner(ctx, "somebody_else", "bob"))
	_, err = service.Edit(ctx, alice, r.ID, r.Version, other)
	require.ErrorIs(t, err, errs.ErrNotAllowed, "an edit leads to no foreign application")

	claim := s.file(service, carol, New{Reason: "we take over", Claim: &ClaimSpec{App: "order_service"}})
	_, err = service.Draft(ctx, carol, New{Claim: &ClaimSpec{App: "order_service"}})
	require.NoError(t, err)
	s.run(service)
	claim, err = service.Approve(ctx, bob, claim.ID, claim.Version, Approval{})
	require.NoError(t, err)
	require.Equal(t, store.RequestOK, s.ended(claim.ID).State)
	owners, err := s.db.Owners(ctx, "order_service")
	require.NoError(t, err)
	require.Equal(t, []string{"alice", "carol"}, owners)
	s.file(service, carol, topic("carols_topic"))
}

func TestTwoAskForTheSame(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	service := s.service()
	first := s.file(service, alice, topic("order_topic"))
	second, err := service.Draft(t.Context(), carol, topic("order_topic"))
	require.NoError(t, err)
	_, err = service.Submit(t.Context(), carol, second.ID, second.Version)
	require.ErrorIs(t, err, errs.ErrConflict)
	require.ErrorContains(t, err, first.ID)
	_, err = s.meta.PutTopic(t.Context(), "by_hand", metadata.PutTopic{Cluster: "kafka-a"})
	require.NoError(t, err)
	r, err := service.Draft(t.Context(), alice, topic("by_hand"))
	require.NoError(t, err)
	_, err = service.Submit(t.Context(), alice, r.ID, r.Version)
	require.ErrorContains(t, err, "made past the platform")
}

func TestPolicies(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	service := s.service()
	ctx := t.Context()
	all, err := service.Policies(ctx)
	require.NoError(t, err)
	require.Len(t, all, len(Kinds))
	for _, p := range all {
		require.Equal(t, store.RequestPolicy{Kind: p.Kind, Approval: true, Days: 14}, p)
	}
	p, err := service.PutPolicy(ctx, admin, store.RequestPolicy{Kind: KindClaim, Days: 3})
	require.NoError(t, err)
	require.Equal(t, int64(1), p.Version)
	_, err = service.PutPolicy(ctx, admin, store.RequestPolicy{Kind: KindClaim, Days: 4})
	require.ErrorIs(t, err, errs.ErrConflict, "of an old version")
	_, err = service.PutPolicy(ctx, admin, store.RequestPolicy{Kind: "coffee", Days: 4})
	require.ErrorIs(t, err, errs.ErrInvalid)
	_, err = service.PutPolicy(ctx, admin, store.RequestPolicy{Kind: KindTopic, Days: 0})
	require.ErrorIs(t, err, errs.ErrInvalid)
	r, err := service.Draft(ctx, alice, New{Claim: &ClaimSpec{App: "order_service"}})
	require.NoError(t, err)
	r, err = service.Submit(ctx, alice, r.ID, r.Version)
	require.NoError(t, err)
	require.Equal(t, []any{store.Approved, store.System}, []any{r.State, r.DecidedBy})
	require.Equal(t, []string{"drafted", "submitted", "approved"}, s.kinds(r.ID))
}

func TestRequestsExpire(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	clock := time.Now()
	service := s.service(func(c *Config) { c.now = func() time.Time { return clock } })
	r := s.file(service, alice, topic("order_topic"))
	decided := s.approved(service, topic("other_topic"), Approval{Cluster: "kafka-a"})
	clock = clock.AddDate(0, 0, 13)
	require.NoError(t, service.Expire(t.Context()))
	late := s.file(service, alice, topic("late_topic"))
	clock = clock.AddDate(0, 0, 2)
	require.NoError(t, service.Expire(t.Context()))
	for id, state := range map[string]store.RequestState{r.ID: store.Expired, decided.ID: store.Approved, late.ID: store.Submitted} {
		now, err := service.Get(t.Context(), id)
		require.NoError(t, err)
		require.Equal(t, state, now.State, id)
	}
	_, err := service.Approve(t.Context(), bob, r.ID, r.Version+1, Approval{Cluster: "kafka-a"})
	require.ErrorIs(t, err, errs.ErrConflict)
}

// Whoever approves, edits, withdraws and declines at the same moment: one of them.
func TestOneDecides(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	service := s.service()
	r := s.file(service, alice, New{Claim: &ClaimSpec{App: "order_service"}})
	second := person("bert", store.Approver)
	calls := []func() error{
		func() error { _, err := service.Approve(t.Context(), bob, r.ID, r.Version, Approval{}); return err },
		func() error { _, err := service.Approve(t.Context(), second, r.ID, r.Version, Approval{}); return err },
		func() error { _, err := service.Decline(t.Context(), bob, r.ID, r.Version, "no"); return err },
		func() error { _, err := service.Withdraw(t.Context(), alice, r.ID, r.Version, ""); return err },
		func() error {
			_, err := service.Edit(t.Context(), alice, r.ID, r.Version, New{Claim: &ClaimSpec{App: "other"}})
			return err
		},
	}
	results := make([]error, len(calls))
	var all sync.WaitGroup
	for i, call := range calls {
		all.Go(func() { results[i] = call() })
	}
	all.Wait()
	won := 0
	for _, err := range results {
		if err == nil {
			won++
			continue
		}
		require.ErrorIs(t, err, errs.ErrConflict)
	}
	require.Equal(t, 1, won)
}

func TestListAndCount(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	service := s.service()
	ctx := t.Context()
	for _, name := range []string{"order_a", "order_b", "billing_c"} {
		s.file(service, alice, topic(name))
	}
	_, err := service.Draft(ctx, carol, New{Claim: &ClaimSpec{App: "carols"}})
	require.NoError(t, err)
	ids := func(f store.RequestFilter) (ids []string) {
		list, err := service.List(ctx, f)
		require.NoError(t, err)
		for _, r := range list {
			ids = append(ids, r.ID)
		}
		return ids
	}
	require.Equal(t, []string{"r-4", "r-3", "r-2", "r-1"}, ids(store.RequestFilter{}))
	require.Equal(t, []string{"r-4", "r-3"}, ids(store.RequestFilter{Limit: 2}))
	require.Equal(t, []string{"r-2", "r-1"}, ids(store.RequestFilter{Before: "r-3", Limit: 2}))
	require.Equal(t, []string{"r-2", "r-1"}, ids(store.RequestFilter{Text: "ORDER_"}))
	require.Empty(t, ids(store.RequestFilter{Text: "order%"}))
	require.Equal(t, []string{"r-4"}, ids(store.RequestFilter{NotApplicant: "alice"}))
	require.Equal(t, []string{"r-4"}, ids(store.RequestFilter{States: []store.RequestState{store.Draft, store.Executing}}))
	counts, err := service.Count(ctx, store.RequestFilter{})
	require.NoError(t, err)
	require.Equal(t, map[store.RequestState]int{store.Submitted: 3, store.Draft: 1}, counts)
	counts, err = service.Count(ctx, store.RequestFilter{Applicant: "alice", Kind: KindTopic, App: "order_service"})
	require.NoError(t, err)
	require.Equal(t, map[store.RequestState]int{store.Submitted: 3}, counts)
}

func TestWhatIsAskedForIsLookedAtEarly(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	service := s.service()
	minus, name, past := -1, "x y", time.Now()
	for what, c := range map[string]struct {
		n    New
		says string
	}{
		"nothing":              {New{Reason: "x"}, "exactly one of"},
		"two things":           {New{Topic: topic("a").Topic, Claim: &ClaimSpec{App: "a"}}, "exactly one of"},
		"a long reason":        {New{Reason: strings.Repeat("x", 3000), Claim: &ClaimSpec{App: "a"}}, "at most 2000"},
		"an escape sequence":   {New{Reason: "\x1b[2J", Claim: &ClaimSpec{App: "a"}}, "control characters"},
		"a topic's name":       {New{Topic: &TopicSpec{Name: "a.b", App: "a", Partitions: 1}}, `name "a.b"`},
		"a topic without app":  {New{Topic: &TopicSpec{Name: "a", Partitions: 1}}, `app ""`},
		"no partitions":        {New{Topic: &TopicSpec{Name: "a", App: "a"}}, "partitions \"0\": must be 1 to 10000"},
		"a kind":               {New{Topic: &TopicSpec{Name: "a", App: "a", Partitions: 1, Kind: "nats"}}, "kafka or rocketmq"},
		"settings of RocketMQ": {New{Topic: &TopicSpec{Name: "a", App: "a", Partitions: 1, Kind: broker.RocketMQ, Config: map[string]string{"retention.ms": "1"}}}, "leave config"},
		"a setting":            {New{Topic: &TopicSpec{Name: "a", App: "a", Partitions: 1, Config: map[string]string{"Retention": "1"}}}, "Kafka topic setting"},
		"a fence":              {New{Topic: &TopicSpec{Name: "a", App: "a", Partitions: 1, Config: map[string]string{"max.message.bytes": "0"}}}, "closes the topic"},
		"a label":              {New{Topic: &TopicSpec{Name: "a", App: "a", Partitions: 1, Labels: map[string]string{"-": "x"}}}, "label's name"},
		"an order":             {New{Topic: &TopicSpec{Name: "a", App: "a", Partitions: 1, Order: "strict"}}, "none or key"},
		"a physical name":      {New{Topic: &TopicSpec{Name: "a", App: "a", Partitions: 1, Physical: "a/b"}}, "names"},
		"a group of nothing":   {New{Group: &GroupSpec{Name: "a", App: "a"}}, "at least one topic"},
		"a shadow group":       {New{Group: &GroupSpec{Name: "shadow_a", App: "a", Topics: []string{"a"}}}, "for shadow groups"},
		"a start":              {New{Group: &GroupSpec{Name: "a", App: "a", Topics: []string{"a"}, Start: "now"}}, "earliest"},
		"retries":              {New{Group: &GroupSpec{Name: "a", App: "a", Topics: []string{"a"}, RetryMax: &minus}}, "retry.max"},
		"a cluster's address":  {New{Cluster: &ClusterSpec{Name: "a", Kind: broker.Kafka, Addresses: []string{"a"}}}, "host:port"},
		"a password":           {New{Cluster: &ClusterSpec{Name: "a", Kind: broker.Kafka, Addresses: []string{"a:1"}, Mechanism: "PLAIN", Secret: "user:hunter2"}}, "must be env:NAME or file:PATH"},
		"a secret property":    {New{Cluster: &ClusterSpec{Name: "a", Kind: broker.Kafka, Addresses: []string{"a:1"}, Properties: map[string]string{"sasl.jaas.config": "hunter2"}}}, "looks like a secret"},
		"a key":                {New{Cluster: &ClusterSpec{Name: "a", Kind: broker.Kafka, Addresses: []string{"a:1"}, TLS: &TLSSpec{Cert: "c", Key: "-----BEGIN PRIVATE KEY-----hunter2"}}}, "path of a file"},
		"a mechanism alone":    {New{Cluster: &ClusterSpec{Name: "a", Kind: broker.Kafka, Addresses: []string{"a:1"}, Mechanism: "PLAIN"}}, "together with secret"},
		"no settings":          {New{Settings: &SettingsSpec{}}, "exactly one of the two"},
		"nothing to change":    {New{Settings: &SettingsSpec{Topic: &TopicChange{Name: "a"}}}, "nothing is to be changed"},
		"an app":               {New{Settings: &SettingsSpec{Group: &GroupChange{Name: "a", App: &name}}}, "group.app"},
		"a migration":          {New{Migration: &MigrationSpec{Topic: "a", To: "b c"}}, `to "b c"`},
		"unasked partitions":   {New{Migration: &MigrationSpec{Topic: "a", To: "b", Partitions: 2}}, "add create"},
		"a deletion":           {New{Deletion: &DeletionSpec{Kind: "user", Name: "a"}}, "topic, group or cluster"},
		"data of a group":      {New{Deletion: &DeletionSpec{Kind: "group", Name: "a", Data: true}}, "leave it out"},
		"a claim":              {New{Claim: &ClaimSpec{}}, `app ""`},
		"offsets to nowhere":   {New{Offsets: &OffsetsSpec{Group: "a", Topic: "b"}}, "earliest, latest, time or offsets"},
		"a time for latest":    {New{Offsets: &OffsetsSpec{Group: "a", Topic: "b", To: ToLatest, Time: &past}}, "only then"},
		"no offsets":           {New{Offsets: &OffsetsSpec{Group: "a", Topic: "b", To: ToOffsets}}, "only then"},
	} {
		_, err := service.Draft(t.Context(), admin, c.n)
		require.ErrorIs(t, err, errs.ErrInvalid, what)
		require.ErrorContains(t, err, c.says, what)
		require.NotContains(t, err.Error(), "hunter2", what)
	}
	_, err := service.Draft(t.Context(), admin, New{Topic: &TopicSpec{Name: "a", App: "a", Partitions: 1, Config: map[string]string{"x": strings.Repeat("x", 70_000)}}})
	require.ErrorIs(t, err, errs.ErrTooLarge)
	_, err = service.Draft(t.Context(), admin, New{Stress: &StressSpec{}})
	require.ErrorIs(t, err, errs.ErrUnsupported, "nobody does it here")
	for what, n := range map[string]New{
		"a topic that is not there": {Settings: &SettingsSpec{Topic: &TopicChange{Name: "nothing", Portable: new(bool)}}},
		"a group that is not there": {Deletion: &DeletionSpec{Kind: "group", Name: "nothing"}},
		"no topic to move":          {Migration: &MigrationSpec{Topic: "nothing", To: "kafka-b"}},
		"no positions":              {Offsets: &OffsetsSpec{Group: "nothing", Topic: "nothing", To: ToLatest}},
	} {
		_, err := service.Draft(t.Context(), admin, n)
		require.ErrorIs(t, err, errs.ErrNotFound, what)
	}
	r, err := service.Draft(t.Context(), alice, group("billing", "nothing"))
	require.NoError(t, err, "a draft may be early")
	_, err = service.Submit(t.Context(), alice, r.ID, r.Version)
	require.ErrorIs(t, err, errs.ErrInvalid)
	require.ErrorContains(t, err, "apply for it first")
}

func TestAllotment(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	service := s.service()
	ctx := t.Context()
	label := func(name, zone string) {
		doc, _, err := s.meta.GetCluster(ctx, name)
		require.NoError(t, err)
		data, err := json.Marshal(doc)
		require.NoError(t, err)
		require.NoError(t, s.db.PutCatalog(ctx, &store.CatalogItem{Kind: store.CatalogCluster, Name: name, Labels: map[string]string{"zone": zone}, Doc: data, State: store.Active}, ""))
	}
	label("kafka-a", "east")
	label("kafka-b", "west")
	require.NoError(t, s.meta.PutCluster(ctx, "rocket", metadata.Cluster{Kind: broker.RocketMQ, Addresses: []string{"127.0.0.1:1"}}))
	load := func(name, cluster string, partitions int) {
		require.NoError(t, s.db.PutCatalog(ctx, &store.CatalogItem{Kind: store.CatalogTopic, Name: name, Cluster: cluster, Partitions: partitions, Doc: json.RawMessage(`{}`), State: store.Active}, ""))
	}
	load("x", "kafka-a", 8)
	load("y", "kafka-b", 2)
	load("z", "kafka-b", 2)
	load("w", "rocket", 1)
	spec := func(change func(*TopicSpec)) TopicSpec {
		t := TopicSpec{Name: "order_topic", App: "a", Partitions: 1}
		if change != nil {
			change(&t)
		}
		return t
	}
	allot := func(t TopicSpec, named string) (string, string, error) { return service.allot(ctx, t, named, "bob") }

	_, _, err := allot(spec(nil), "")
	require.ErrorIs(t, err, errs.ErrConflict, "no rules")
	for _, r := range []Rule{
		{Name: "gold", Priority: 1, Labels: map[string]string{"class": "gold"}, Clusters: []string{"kafka-a"}},
		{Name: "east", Priority: 2, Labels: map[string]string{"zone": "east"}, ClusterLabels: map[string]string{"zone": "east"}},
		{Name: "nowhere", Priority: 3, Labels: map[string]string{"zone": "south"}, ClusterLabels: map[string]string{"zone": "south"}},
		{Name: "kafka", Priority: 4, Kind: broker.Kafka, Load: LoadTopics},
		{Name: "rest", Priority: 5},
	} {
		_, err := service.PutRule(ctx, admin, r)
		require.NoError(t, err)
	}
	rules, err := service.Rules(ctx)
	require.NoError(t, err)
	require.Len(t, rules, 5)
	for what, c := range map[string]struct {
		spec         TopicSpec
		named        string
		cluster, why string
	}{
		"named":                {spec(func(t *TopicSpec) { t.Cluster = "kafka-a" }), "kafka-b", "kafka-b", "named by bob"},
		"wished for":           {spec(func(t *TopicSpec) { t.Cluster = "kafka-a" }), "", "kafka-a", "accepted by bob"},
		"by name":              {spec(func(t *TopicSpec) { t.Labels = map[string]string{"class": "gold", "x": "y"} }), "", "kafka-a", "rule gold"},
		"by label":             {spec(func(t *TopicSpec) { t.Labels = map[string]string{"zone": "east"} }), "", "kafka-a", "rule east"},
		"a rule without any":   {spec(func(t *TopicSpec) { t.Labels = map[string]string{"zone": "south"} }), "", "kafka-a", "rule kafka"},
		"by load":              {spec(nil), "", "kafka-a", "rule kafka: the fewest topics of kafka-a 1, kafka-b 2"},
		"by kind":              {spec(func(t *TopicSpec) { t.Kind = broker.RocketMQ }), "", "rocket", "rule rest: the fewest partitions of rocket 1"},
		"settings want Kafka":  {spec(func(t *TopicSpec) { t.Config = map[string]string{"retention.ms": "1"} }), "", "kafka-a", "rule kafka"},
		"what somebody wishes": {spec(func(t *TopicSpec) { t.Cluster, t.Kind = "rocket", broker.RocketMQ }), "", "rocket", "wished for"},
	} {
		cluster, why, err := allot(c.spec, c.named)
		require.NoError(t, err, what)
		require.Equal(t, c.cluster, cluster, what)
		require.Contains(t, why, c.why, what)
	}
	require.NoError(t, service.DeleteRule(ctx, admin, "kafka", 1))
	cluster, why, err := allot(spec(func(t *TopicSpec) { t.Kind = broker.Kafka }), "")
	require.NoError(t, err)
	require.Equal(t, []string{"kafka-b", "rule rest: the fewest partitions of kafka-b 4, kafka-a 8"}, []string{cluster, why})
	_, _, err = allot(spec(func(t *TopicSpec) { t.Kind = broker.Kafka }), "rocket")
	require.ErrorIs(t, err, errs.ErrInvalid)
	_, err = service.PutRule(ctx, admin, Rule{Name: "rest", Load: "bytes", Version: 1})
	require.ErrorIs(t, err, errs.ErrInvalid)
	_, err = service.PutRule(ctx, admin, Rule{Name: "rest"})
	require.ErrorIs(t, err, errs.ErrConflict, "of an old version")
	require.ErrorIs(t, service.DeleteRule(ctx, admin, "rest", 7), errs.ErrConflict)
	require.ErrorIs(t, service.DeleteRule(ctx, admin, "kafka", 1), errs.ErrNotFound)
}

// handler is a kind that somebody else does.
type handler struct {
	executed chan store.ChangeRequest
	fails    chan error // of the next executions
}

func (h *handler) Check(_ context.Context, spec json.RawMessage, _ bool) (Target, error) {
	doc, err := ParseStress(spec)
	return Target{App: "order_service", Subject: doc.Task}, err
}

func (h *handler) Execute(ctx context.Context, run *Run) error {
	h.executed <- run.Request()
	select {
	case err := <-h.fails:
		return err
	default:
		return run.Save(ctx, "half", map[string]string{"task": "s-1"})
	}
}

func stress(task string) New {
	return New{Stress: &StressSpec{Task: task, Groups: []StressGroupSpec{{Group: "billing"}}, LimitSeconds: 60}}
}

func TestAKindOfAnotherPackage(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	h := &handler{executed: make(chan store.ChangeRequest, 10), fails: make(chan error, 2)}
	h.fails <- context.DeadlineExceeded
	h.fails <- context.DeadlineExceeded
	service := s.service(func(c *Config) { c.Handlers = map[string]Handler{KindStress: h} })
	s.run(service)
	r := s.done(service, stress("sale"), Approval{})
	require.JSONEq(t, `{"task":"s-1"}`, string(r.Result))
	require.Len(t, h.executed, 3, "it was tried again")
	require.Equal(t, []string{"drafted", "submitted", "approved", "executing", "tried", "tried", "step", "done"}, s.kinds(r.ID))

	_, err := service.Draft(t.Context(), alice, stress("no name"))
	require.ErrorIs(t, err, errs.ErrInvalid)
	h.fails <- Final(errs.ErrConflict)
	r = s.ended(s.approved(service, stress("sale"), Approval{}).ID)
	require.Equal(t, store.RequestBad, r.State)
	require.Equal(t, "conflict", r.Error)
	_, err = service.Retry(t.Context(), carol, r.ID, r.Version)
	require.ErrorIs(t, err, errs.ErrNotAllowed)
	_, err = service.Retry(t.Context(), alice, r.ID, r.Version)
	require.NoError(t, err)
	require.Equal(t, store.RequestOK, s.ended(r.ID).State)
}
