package stress_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/turnout-mq/turnout"
	"github.com/turnout-mq/turnout/admin/store"
	"github.com/turnout-mq/turnout/internal/errs"
	"github.com/turnout-mq/turnout/metadata"
	"github.com/turnout-mq/turnout/shadow"
)

// The whole life of a task, with an application: planned, asked for, prepared, started, followed, stopped, started again, removed.
func TestWholeLife(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	p := s.server()
	plan, err := p.Plan(t.Context(), s.spec())
	require.NoError(t, err)
	require.Empty(t, plan.Problems)
	require.Equal(t, []string{app}, plan.Apps)
	require.Equal(t, []store.StressTopic{{Topic: s.orders, ShadowTopic: "shadow_" + s.orders, Cluster: "kafka-a", Physical: "shadow_" + s.orders, Partitions: 2, Made: true, MadeThere: true, Groups: []string{"shadow_" + s.billing}}}, plan.Topics)
	_, err = s.on("kafka-a").DescribeTopic(t.Context(), "shadow_"+s.orders)
	require.ErrorIs(t, err, errs.ErrUnknownTopic, "a plan changes nothing")

	v := s.prepared(p, s.spec())
	flag := s.meta.ShadowPath(app, "zpt_task_1", s.billing)
	n, err := s.meta.Read(t.Context(), flag)
	require.NoError(t, err)
	require.JSONEq(t, `{"enable":"0"}`, string(n.Data))
	info, err := s.on("kafka-a").DescribeTopic(t.Context(), "shadow_"+s.orders)
	require.NoError(t, err)
	require.Len(t, info.Partitions, 2)

	var got inbox
	client := s.application(s.billing, got.listen)
	s.run(p.Run)
	v = s.start(p, v)
	v = s.is(p, v.ID, store.StressRunning)
	require.Len(t, v.Groups, 1)
	require.True(t, v.Groups[0].Enabled)
	require.Len(t, v.Groups[0].Instances, 1)
	require.Equal(t, metadata.ShadowStarted, v.Groups[0].Instances[0].State)
	const messages = 10
	for range messages {
		_, err := client.Send(shadow.WithMark(t.Context()), s.orders, &turnout.Message{Body: []byte("stress")})
		require.NoError(t, err)
	}
	require.Eventually(t, func() bool { return got.stress.Load() == messages }, patience, tick)
	require.Zero(t, got.production.Load())

	_, err = p.Stop(s.as(alice), alice, v.ID)
	require.NoError(t, err)
	v = s.is(p, v.ID, store.StressStopped)
	require.Equal(t, "stopped by alice", v.Reason)
	require.Equal(t, map[string]bool{s.billing: false}, s.enabled())
	require.Equal(t, metadata.ShadowStopped, v.Groups[0].Instances[0].State)
	_, err = p.Stop(s.as(alice), alice, v.ID)
	require.ErrorIs(t, err, errs.ErrConflict)
	v = s.is(p, s.start(p, v).ID, store.StressRunning)
	require.EqualValues(t, 2, v.Runs)
	_, err = p.Remove(s.as(alice), alice, v.ID, v.Version)
	require.ErrorIs(t, err, errs.ErrConflict, "it runs")
	_, err = p.Stop(s.as(bob), bob, v.ID)
	require.NoError(t, err)
	v = s.is(p, v.ID, store.StressStopped)
	require.Equal(t, []string{"created", "prepared", "start", "started", "stop", "stopped", "start", "started", "stop", "stopped"}, s.history(p, v.ID))

	// It waits for the application, which has sent to the shadow topic.
	v, err = p.Remove(s.as(alice), alice, v.ID, v.Version)
	require.NoError(t, err)
	require.Equal(t, store.StressRemoving, v.State)
	require.Contains(t, v.Waiting, "in use by")
	require.Empty(t, s.enabled())
	require.NoError(t, bounded(client.Close))
	v = s.is(p, v.ID, store.StressRemoved)
	_, err = s.meta.GetTopic(t.Context(), "shadow_"+s.orders)
	require.ErrorIs(t, err, errs.ErrUnknownTopic)
	_, err = s.on("kafka-a").DescribeTopic(t.Context(), "shadow_"+s.orders)
	require.ErrorIs(t, err, errs.ErrUnknownTopic)
	groups, err := s.on("kafka-a").GroupTopics(t.Context())
	require.NoError(t, err)
	require.NotContains(t, groups, "shadow_"+s.billing)
	n, err = s.meta.Read(t.Context(), s.ShadowRoot+"/"+app+"/zpt_task_1")
	require.NoError(t, err)
	require.False(t, n.Exists)

	audits, err := s.db.Audits(t.Context(), store.AuditFilter{Kind: "flag", Subject: flag, Oldest: true})
	require.NoError(t, err)
	var said []string
	for _, a := range audits {
		require.Equal(t, v.Request, a.Request)
		said = append(said, a.Action+" "+string(a.After))
	}
	require.Equal(t, []string{`create {"enable":"0"}`, `set {"enable":"1"}`, `set {"enable":"0"}`, `set {"enable":"1"}`, `set {"enable":"0"}`, "delete "}, said)
	require.Equal(t, "alice", audits[1].Who)

	// The name is free again.
	s.prepared(p, s.spec())
}
