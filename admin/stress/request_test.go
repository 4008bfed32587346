package stress_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/turnout-mq/turnout/admin/requests"
	"github.com/turnout-mq/turnout/admin/store"
	"github.com/turnout-mq/turnout/broker"
	"github.com/turnout-mq/turnout/internal/errs"
	"github.com/turnout-mq/turnout/metadata"
)

// What can not be is said when the request is submitted, with a remedy.
func TestWhatCanNotBe(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	p := s.server()
	s.topic(s.orders + "-more")
	s.group("nobodys", "", s.orders)
	no := false
	require.NoError(t, s.meta.PutShadowFlag(t.Context(), app, "by_hand", s.billing, true))
	for what, c := range map[string]struct {
		change func(*requests.StressSpec)
		is     error
		says   string
	}{
		"no group":            {func(spec *requests.StressSpec) { spec.Groups = nil }, errs.ErrInvalid, "number of groups"},
		"an unknown group":    {func(spec *requests.StressSpec) { spec.Groups[0].Group = "none" }, errs.ErrNotFound, "none"},
		"a shadow group":      {func(spec *requests.StressSpec) { spec.Groups[0].Group = "shadow_billing" }, errs.ErrInvalid, "is a shadow itself"},
		"no application":      {func(spec *requests.StressSpec) { spec.Groups[0].Group = "nobodys" }, errs.ErrInvalid, "say which one subscribes it"},
		"another application": {func(spec *requests.StressSpec) { spec.Groups[0].App = "other" }, errs.ErrInvalid, "belongs to application " + app},
		"no limit":            {limit(0), errs.ErrInvalid, "limitSeconds"},
		"a guard of nothing":  {func(spec *requests.StressSpec) { spec.Guards = []requests.StressGuardSpec{{Group: s.billing}} }, errs.ErrInvalid, "maxUnread, maxErrors"},
		"a blink":             {func(spec *requests.StressSpec) { spec.BlindSeconds = 9 }, errs.ErrInvalid, "blindSeconds"},
		"an unknown topic":    {func(spec *requests.StressSpec) { spec.Topics = []requests.StressTopicSpec{{Topic: "none"}} }, errs.ErrNotFound, "none"},
		"an unknown cluster": {func(spec *requests.StressSpec) {
			spec.Topics = []requests.StressTopicSpec{{Topic: s.orders, Cluster: "kafka-z"}}
		}, errs.ErrConflict, "not registered"},
		"flags by hand":       {func(spec *requests.StressSpec) { spec.Task = "by_hand" }, errs.ErrConflict, "turnout shadow remove"},
		"nothing may be made": {func(spec *requests.StressSpec) { spec.Provision = &no }, errs.ErrConflict, "turnout shadow topic"},
		"a group named twice": {func(spec *requests.StressSpec) { spec.Groups = append(spec.Groups, spec.Groups[0]) }, errs.ErrInvalid, "named twice"},
		"a guard that is no group": {func(spec *requests.StressSpec) {
			most := int64(1)
			spec.Guards = []requests.StressGuardSpec{{Group: "none", MaxUnread: &most}}
		}, errs.ErrNotFound, "none"},
	} {
		r, err := p.requests.Draft(s.as(alice), alice, requests.New{Stress: new(s.spec(c.change))})
		if err == nil {
			_, err = p.requests.Submit(s.as(alice), alice, r.ID, r.Version)
		}
		require.ErrorIs(t, err, c.is, what)
		require.ErrorContains(t, err, c.says, what)
	}
}

// A task may be started, stopped and removed by who has filed it, by owners of all its applications, and by who operates the platform.
func TestWhoMay(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	p := s.server()
	s.group("audit", "audit_app", s.orders)
	both := func(spec *requests.StressSpec) {
		spec.Groups = append(spec.Groups, requests.StressGroupSpec{Group: "audit"})
	}
	require.NoError(t, s.db.AddOwner(t.Context(), app, "carol"))
	_, err := p.requests.Draft(s.as(alice), alice, requests.New{Stress: new(s.spec(both))})
	require.ErrorIs(t, err, errs.ErrNotAllowed, "the second application is another one's")
	require.ErrorContains(t, err, "claim ownership")
	require.NoError(t, s.db.AddOwner(t.Context(), app, "alice"))
	v := s.prepared(p, s.spec(both))

	_, err = p.Start(s.as(eve), eve, v.ID, v.Version)
	require.ErrorIs(t, err, errs.ErrNotAllowed)
	_, err = p.Start(s.as(carol), carol, v.ID, v.Version)
	require.ErrorIs(t, err, errs.ErrNotAllowed)
	require.ErrorContains(t, err, "audit_app")
	require.NoError(t, s.db.AddOwner(t.Context(), "audit_app", "carol"))
	_, err = p.Start(s.as(carol), carol, v.ID, v.Version+1)
	require.ErrorIs(t, err, store.ErrChanged)
	v, err = p.Start(s.as(carol), carol, v.ID, v.Version)
	require.NoError(t, err)
	_, err = p.Stop(s.as(eve), eve, v.ID)
	require.ErrorIs(t, err, errs.ErrNotAllowed)
	v, err = p.Stop(s.as(bob), bob, v.ID)
	require.NoError(t, err)
	require.Equal(t, store.StressStopped, v.State, "nobody else had to do it")
	v, err = p.Remove(s.as(alice), alice, v.ID, v.Version)
	require.NoError(t, err)
	require.Equal(t, store.StressRemoved, v.State)
}

// What was there before a task stays after it, and so does what another task needs.
func TestWhatStays(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	p := s.server()
	there := "shadow_" + s.orders
	require.NoError(t, s.on("kafka-b").CreateTopic(t.Context(), there, broker.TopicSpec{Partitions: 3}))
	_, err := s.meta.PutTopic(t.Context(), there, metadata.PutTopic{Cluster: "kafka-b"})
	require.NoError(t, err)
	more := s.orders + "-more"
	s.topic(more)
	require.NoError(t, s.meta.PutSettings(t.Context(), more, metadata.TopicSettings{V: 1, Portable: true, Shadow: metadata.ShadowTopic{Enabled: true, Topic: "stress-" + more}}))
	further := func(spec *requests.StressSpec) {
		spec.Topics = []requests.StressTopicSpec{{Topic: more, Cluster: "kafka-b", Partitions: 1}}
	}
	first := s.prepared(p, s.spec(further))
	require.Equal(t, []store.StressTopic{
		{Topic: s.orders, ShadowTopic: there, Cluster: "kafka-b", Physical: there, Groups: []string{"shadow_" + s.billing}},
		{Topic: more, ShadowTopic: "stress-" + more, Cluster: "kafka-b", Physical: "stress-" + more, Partitions: 1, Made: true, MadeThere: true},
	}, first.Topics)
	made, err := s.meta.GetTopic(t.Context(), "stress-"+more)
	require.NoError(t, err)
	require.Equal(t, more, made.Settings.ShadowOf)
	require.Equal(t, "kafka-b", made.Route.Write)
	_, err = p.requests.Draft(s.as(alice), alice, requests.New{Stress: new(s.spec())})
	require.NoError(t, err, "a draft does not look at the world")

	// The second one finds all there, and removes nothing but its flags.
	second := s.prepared(p, s.spec(func(spec *requests.StressSpec) {
		spec.Task, spec.Remove = "zpt_task_2", true
		spec.Topics = []requests.StressTopicSpec{{Topic: more}}
	}))
	first, err = p.Remove(s.as(alice), alice, first.ID, first.Version)
	require.NoError(t, err)
	require.Equal(t, store.StressRemoved, first.State)
	require.Contains(t, s.history(p, first.ID), "kept")
	for _, name := range []string{there, "stress-" + more} {
		_, err = s.meta.GetTopic(t.Context(), name)
		require.NoError(t, err)
		_, err = s.on("kafka-b").DescribeTopic(t.Context(), name)
		require.NoError(t, err)
	}

	// It asked for its removal after its first run.
	s.run(p.Run)
	second = s.is(p, s.start(p, second).ID, store.StressRunning)
	_, err = p.Stop(s.as(alice), alice, second.ID)
	require.NoError(t, err)
	s.is(p, second.ID, store.StressRemoved)
	require.Empty(t, s.enabled())
}

// A server has died while it prepared a task: the next one finishes, and knows what was made for the task.
func TestPreparedByTwoServers(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	p := s.server()
	r := s.approved(p, s.spec())
	plan, err := p.Plan(t.Context(), s.spec())
	require.NoError(t, err)
	half := &store.StressTask{Name: plan.Task, State: store.StressPreparing, Request: r.ID, Applicant: r.Applicant, Apps: plan.Apps, Spec: r.Spec, Topics: plan.Topics,
		Flags: []store.StressFlag{{App: app, Group: s.billing}}}
	require.NoError(t, s.db.CreateStressTask(t.Context(), half, store.StressChanges{}))
	require.NoError(t, s.on("kafka-a").CreateTopic(t.Context(), "shadow_"+s.orders, broker.TopicSpec{Partitions: 2}))
	require.NoError(t, s.meta.PutShadowFlag(t.Context(), app, plan.Task, s.billing, false))

	require.Equal(t, store.RequestOK, s.ended(p, r.ID).State)
	v := s.get(p, half.ID)
	require.Equal(t, store.StressReady, v.State)
	require.Equal(t, plan.Topics, v.Topics)
	v, err = p.Remove(s.as(alice), alice, v.ID, v.Version)
	require.NoError(t, err)
	require.Equal(t, store.StressRemoved, v.State)
	_, err = s.on("kafka-a").DescribeTopic(t.Context(), "shadow_"+s.orders)
	require.ErrorIs(t, err, errs.ErrUnknownTopic)
}

// A flag that somebody switches on while the task is prepared is not written over: the request fails and says so.
func TestFlagOnBeforeItIsMade(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	p := s.server()
	r := s.approved(p, s.spec())
	require.NoError(t, s.meta.PutShadowFlag(t.Context(), app, "zpt_task_1", s.billing, true))
	r = s.ended(p, r.ID)
	require.Equal(t, store.RequestBad, r.State)
	require.Contains(t, r.Error, "turnout shadow remove")
	require.Equal(t, map[string]bool{s.billing: true}, s.enabled())
	require.NoError(t, s.meta.DeleteShadowFlag(t.Context(), app, "zpt_task_1", s.billing))
	_, err := p.requests.Retry(s.as(alice), alice, r.ID, 0)
	require.NoError(t, err)
	r = s.ended(p, r.ID)
	require.Equal(t, store.RequestOK, r.State, r.Error)
}
