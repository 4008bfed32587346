package fleet_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/turnout-mq/turnout/admin/coord"
	"github.com/turnout-mq/turnout/admin/fleet"
	"github.com/turnout-mq/turnout/admin/store"
	"github.com/turnout-mq/turnout/broker"
	"github.com/turnout-mq/turnout/internal/errs"
	"github.com/turnout-mq/turnout/metadata"
)

// look waits until a topic was looked at and is as ok says.
func (w *world) look(s *server, topic string, ok func(*fleet.Topic) bool) *fleet.Topic {
	w.Helper()
	var got *fleet.Topic
	w.eventually(func() bool {
		t, err := s.Topic(w.ctx(), topic)
		require.NoError(w, err)
		got = t
		return !t.Seen.IsZero() && ok(t)
	}, "topic %s to be as it should", topic)
	return got
}

// A topic that moves from a to b, two groups, and three instances of which one is behind and one in trouble.
func TestWhatIsSeen(t *testing.T) {
	w := newWorld(t)
	w.cluster("a", "b")
	w.topic("orders", "a")
	w.topic("letters", "a")
	w.fake("b").set(func(f *fake) { f.ends["orders"] = broker.Offsets{"0": 5} })
	_, err := w.meta.PutTopic(w.ctx(), "orders", metadata.PutTopic{Cluster: "b"})
	require.NoError(t, err)
	require.NoError(t, w.meta.PutSettings(w.ctx(), "orders", metadata.TopicSettings{V: 1, App: "order_app"}))
	w.group("billing", "orders", "letters")
	w.group("mail", "orders")
	w.fake("a").set(func(f *fake) {
		f.positions["billing orders"] = broker.Offsets{"0": 10, "1": 4}
		f.positions["mail orders"] = broker.Offsets{"0": 10, "1": 10}
		f.positions["billing-letters letters"] = broker.Offsets{"0": 10, "1": 10}
		f.pending["billing"] = broker.Pending{Retries: 3, DeadLetters: 2}
	})
	now, err := w.meta.GetTopic(w.ctx(), "orders")
	require.NoError(t, err)
	participant := func(zxid metadata.Zxid, trouble string) metadata.Participant {
		return metadata.Participant{V: 1, Zxid: zxid, Write: "b", Error: trouble, At: time.Now(),
			Groups: map[string]map[string]metadata.Participation{"billing": {"a": metadata.Attached}}}
	}
	const good, behind, failing = "10.0.0.1@-@1@-@0", "10.0.0.2@-@1@-@0", "10.0.0.3@-@1@-@0"
	w.create(w.meta.ParticipantPath("orders", good), participant(now.RouteNode.Mzxid, ""))
	w.create(w.meta.ParticipantPath("orders", behind), participant(1, ""))
	w.create(w.meta.ParticipantPath("orders", failing), participant(now.RouteNode.Mzxid, "no such cluster"))
	for _, id := range []string{good, behind, failing} {
		w.create(w.meta.InstancePath("order_app", id), metadata.Instance{V: 1, Host: "machine", PID: 1, SDK: "0.1.0"})
	}
	w.create(w.meta.InstancePath("other_app", "10.0.0.4@-@1@-@0"), "?")

	s := w.server(func(c *fleet.Config) { c.StaleAfter = time.Millisecond })
	got := w.look(s, "orders", func(t *fleet.Topic) bool {
		return len(t.Instances) == 3 && t.Instances[1].Stale && t.Clusters[1].Produced != nil
	})
	require.Equal(t, "order_app", got.App)
	require.Equal(t, "b", got.Write)
	require.Equal(t, now.RouteNode.Mzxid.String(), got.Route)
	require.Empty(t, got.Error)
	require.Len(t, got.Clusters, 2)
	require.Equal(t, []string{"a", "b"}, []string{got.Clusters[0].Cluster, got.Clusters[1].Cluster})
	require.Equal(t, map[string]int64{"0": 10, "1": 10}, got.Clusters[0].Ends)
	require.Equal(t, map[string]int64{"0": 5}, got.Clusters[1].Ends)
	require.Len(t, got.Groups, 4)
	require.Equal(t, []string{"billing", "a"}, []string{got.Groups[0].Group, got.Groups[0].Cluster})
	require.EqualValues(t, 6, got.Groups[0].Unread)
	require.EqualValues(t, 3, got.Groups[0].Retries)
	require.Equal(t, []fleet.PartitionLag{{Partition: "0", Position: 10, End: 10}, {Partition: "1", Position: 4, End: 10, Unread: 6}}, got.Groups[0].Partitions)
	require.EqualValues(t, 5, got.Groups[1].Unread)
	require.Zero(t, *got.Clusters[1].Produced)
	require.Equal(t, []bool{false, true, true}, []bool{got.Instances[0].Stale, got.Instances[1].Stale, got.Instances[2].Stale})
	require.Equal(t, []bool{true, false, true}, []bool{got.Instances[0].Applied, got.Instances[1].Applied, got.Instances[2].Applied})
	require.False(t, got.Instances[1].BehindSince.IsZero())
	require.Equal(t, "no such cluster", got.Instances[2].Error)

	g, err := s.Group(w.ctx(), "billing")
	require.NoError(t, err)
	require.Equal(t, []string{"orders", "letters"}, g.Topics)
	w.look(s, "letters", func(*fleet.Topic) bool { return true })
	g, err = s.Group(w.ctx(), "billing")
	require.NoError(t, err)
	require.Len(t, g.Parts, 3)
	require.EqualValues(t, 11, g.Unread)
	require.EqualValues(t, 3, g.Retries)
	require.EqualValues(t, 2, g.DeadLetters)
	require.Equal(t, "billing_app", g.App)

	top, err := s.Top(w.ctx(), 2)
	require.NoError(t, err)
	require.Equal(t, []string{"billing a 6", "billing b 5"}, []string{
		fmt.Sprint(top[0].Group, " ", top[0].Cluster, " ", top[0].Unread), fmt.Sprint(top[1].Group, " ", top[1].Cluster, " ", top[1].Unread),
	})
	top, err = s.Top(w.ctx(), 100)
	require.NoError(t, err)
	require.Len(t, top, 3, "only those that have anything unread")

	mine, err := s.Instances(w.ctx(), "order_app")
	require.NoError(t, err)
	require.Len(t, mine, 3)
	require.Equal(t, []bool{false, true, true}, []bool{mine[0].Stale, mine[1].Stale, mine[2].Stale})
	require.Equal(t, "0.1.0", mine[0].SDK)
	require.Equal(t, "b", mine[0].Topics[0].Write)
	require.Equal(t, metadata.Attached, mine[0].Topics[0].Groups["billing"]["a"])
	all, err := s.Instances(w.ctx(), "")
	require.NoError(t, err)
	require.Len(t, all, 4)
	require.True(t, all[3].Stale)
	require.NotEmpty(t, all[3].Error)

	// It goes on, and the one that was behind has applied the route.
	doc, err := json.Marshal(participant(now.RouteNode.Mzxid, ""))
	require.NoError(t, err)
	require.NoError(t, w.meta.Set(w.ctx(), w.meta.ParticipantPath("orders", behind), doc, metadata.AnyVersion))
	produced, consumed := false, false // a rate is seen between two looks only
	offset := int64(0)
	w.eventually(func() bool {
		offset++
		w.fake("b").set(func(f *fake) {
			f.ends["orders"] = broker.Offsets{"0": 5 + offset}
			f.positions["mail orders"] = broker.Offsets{"0": offset}
		})
		got, err := s.Topic(w.ctx(), "orders")
		require.NoError(t, err)
		produced = produced || got.Clusters[1].Produced != nil && *got.Clusters[1].Produced > 0
		for _, g := range got.Groups {
			consumed = consumed || g.Group == "mail" && g.Cluster == "b" && g.Consumed != nil && *g.Consumed > 0
		}
		return produced && consumed && !got.Instances[1].Stale && got.Instances[1].BehindSince.IsZero()
	}, "rates, and the instance to be well")
}

// What can not be looked at is said, and keeps nothing else from being seen.
func TestTroubles(t *testing.T) {
	w := newWorld(t)
	w.cluster("a", "dead", "refusing")
	w.topic("orders", "a")
	w.topic("refused", "refusing")
	w.fake("refusing").set(func(f *fake) { f.err = errors.New("not you") })
	var silent []string
	for i := range 12 {
		silent = append(silent, fmt.Sprintf("silent-%d", i))
		w.topic(silent[i], "dead")
	}
	w.fake("dead").set(func(f *fake) { f.hangs = true })
	w.group("billing", "refused", "gone")
	w.topic("missing", "a")
	w.fake("a").set(func(f *fake) { delete(f.ends, "missing") })
	w.topic("broken", "a")
	require.NoError(t, w.meta.Set(w.ctx(), w.meta.RoutePath("broken"), []byte("?"), metadata.AnyVersion))
	w.topic("crowded", "a")
	w.create(w.meta.ParticipantPath("crowded", "10.0.0.1@-@1@-@0"), "?")
	w.create(w.meta.TopicsPath()+"/not a name", "{}")
	w.create(w.meta.GroupPath("unreadable"), "?")

	s := w.server(func(c *fleet.Config) { c.Limit, c.PerCluster, c.Every = 300*time.Millisecond, 2, 5*time.Second })
	// On a machine that stands still a cluster may seem not to answer; the next look is better.
	says := func(topic, text string) *fleet.Topic {
		return w.look(s, topic, func(t *fleet.Topic) bool { return strings.Contains(t.Error, text) && (text == "") == (t.Error == "") })
	}
	says("orders", "")
	require.Equal(t, "not you", says("refused", "not you").Groups[0].Error)
	w.eventually(func() bool {
		g, err := s.Group(w.ctx(), "billing")
		require.NoError(t, err)
		return strings.Contains(g.Error, "topic refused on cluster refusing: not you")
	}, "the group to say so")
	require.True(t, says("missing", "cluster a does not have the topic missing: create it").Clusters[0].NoTopic)
	says("broken", "route")
	crowded := w.look(s, "crowded", func(*fleet.Topic) bool { return true })
	require.True(t, crowded.Instances[0].Stale)
	require.NotEmpty(t, crowded.Instances[0].Error)
	spared := 0
	for _, topic := range silent {
		got := w.look(s, topic, func(*fleet.Topic) bool { return true })
		require.NotEmpty(t, got.Error)
		if strings.Contains(got.Error, "asked again soon") {
			spared++
		}
	}
	require.NotZero(t, spared, "a cluster that does not answer is left alone for a moment")

	w.fake("dead").set(func(f *fake) { f.hangs = false })
	for _, topic := range silent {
		says(topic, "")
	}
}

// Servers share the topics. What one leaves undone, others do.
func TestServersShare(t *testing.T) {
	w := newWorld(t)
	w.cluster("a")
	const topics = 30
	for i := range topics {
		w.topic(fmt.Sprintf("topic-%d", i), "a")
	}
	slower := func(c *fleet.Config) { c.Every = 300 * time.Millisecond }
	a, b, c := w.server(slower), w.server(slower), w.server(slower)
	divided := func(among int) {
		w.eventually(func() bool {
			shards, resharding, err := a.Shards(w.ctx())
			require.NoError(t, err)
			has := map[string]int{}
			for _, s := range shards {
				has[s.Instance]++
			}
			return !resharding && len(shards) == 4 && len(has) == among
		}, "the shards to be divided among %d", among)
	}
	divided(3)
	seen := func(servers ...*server) map[string]int {
		all := map[string]int{}
		for _, s := range servers {
			for _, t := range s.Snapshot().Topics {
				all[t.Topic]++
			}
		}
		return all
	}
	// What a server had before is forgotten after a while.
	w.eventually(func() bool {
		all := seen(a, b, c)
		for _, n := range all {
			if n != 1 {
				return false
			}
		}
		return len(all) == topics && len(b.Snapshot().Shards) > 0
	}, "each topic to be looked at by one server")

	require.NoError(t, env.ExpireSession(w.ctx(), b.meta.Session().ID))
	b.stop()
	c.stop()
	left := time.Now()
	for i := range topics {
		w.look(a, fmt.Sprintf("topic-%d", i), func(t *fleet.Topic) bool { return t.Seen.After(left) })
	}
	divided(1)
	w.eventually(func() bool { return len(seen(a)) == topics }, "the last server to look at everything")
}

// What a cluster deletes before it was read is not consumed.
func TestWhatExpires(t *testing.T) {
	w := newWorld(t)
	w.cluster("a")
	w.topic("orders", "a")
	w.group("billing", "orders")
	w.fake("a").set(func(f *fake) {
		f.ends["orders"] = broker.Offsets{"0": 1000}
		f.positions["billing orders"] = broker.Offsets{"0": 5}
	})
	s := w.server()
	expired := int64(0)
	for range 10 {
		w.fake("a").set(func(f *fake) { f.start += 10 })
		got := w.look(s, "orders", func(t *fleet.Topic) bool { return t.Groups[0].Expired > expired && t.Groups[0].Consumed != nil })
		expired = got.Groups[0].Expired
		require.Equal(t, 1000-5-expired, got.Groups[0].Unread)
		require.Zero(t, *got.Groups[0].Consumed)
	}
}

func TestATopicThatIsGone(t *testing.T) {
	w := newWorld(t)
	w.cluster("a")
	w.topic("orders", "a")
	w.topic("letters", "a")
	s := w.server(func(c *fleet.Config) { c.Keep = 200 * time.Millisecond })
	w.look(s, "orders", func(*fleet.Topic) bool { return true })
	require.NoError(t, w.meta.DeleteTopic(w.ctx(), "orders"))
	_, err := s.Topic(w.ctx(), "orders")
	require.ErrorIs(t, err, errs.ErrUnknownTopic)
	db, err := store.Open(w.ctx(), w.url, nil)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, db.Close()) })
	w.eventually(func() bool {
		left, err := db.Findings(w.ctx(), store.FindingFilter{Topic: "orders"})
		require.NoError(t, err)
		return len(left) == 0
	}, "nothing to be left of it")
	w.topic("orders", "a")
	w.look(s, "orders", func(t *fleet.Topic) bool { return true })
	w.look(s, "letters", func(*fleet.Topic) bool { return true })
}

func TestRefusals(t *testing.T) {
	w := newWorld(t)
	s := w.server()
	_, err := s.Topic(w.ctx(), "a b")
	require.ErrorIs(t, err, errs.ErrInvalid)
	_, err = s.Topic(w.ctx(), "nothing")
	require.ErrorIs(t, err, errs.ErrUnknownTopic)
	_, err = s.Group(w.ctx(), "a b")
	require.ErrorIs(t, err, errs.ErrInvalid)
	_, err = s.Group(w.ctx(), "nobody")
	require.ErrorIs(t, err, errs.ErrUnknownGroup)
	_, err = s.Instances(w.ctx(), "a b")
	require.ErrorIs(t, err, errs.ErrInvalid)
	_, err = s.Top(w.ctx(), 0)
	require.ErrorIs(t, err, errs.ErrInvalid)
	none, err := s.Instances(w.ctx(), "nobody")
	require.NoError(t, err)
	require.Empty(t, none)
	top, err := s.Top(w.ctx(), 10)
	require.NoError(t, err)
	require.Empty(t, top)
	for field, change := range map[string]func(*fleet.Config){
		"Meta": func(c *fleet.Config) { c.Meta = nil }, "Every": func(c *fleet.Config) { c.Every = -1 },
		"Limit": func(c *fleet.Config) { c.Limit = -1 }, "StaleAfter": func(c *fleet.Config) { c.StaleAfter = -1 }, "Keep": func(c *fleet.Config) { c.Keep = -1 },
		"Shards": func(c *fleet.Config) { c.Shards = coord.MaxShards + 1 }, "AtOnce": func(c *fleet.Config) { c.AtOnce = -1 },
		"PerCluster": func(c *fleet.Config) { c.PerCluster = -1 }, "instance": func(c *fleet.Config) { c.ID = "me" },
	} {
		var cfg fleet.Config
		w.server(func(c *fleet.Config) { cfg = *c })
		change(&cfg)
		_, err := fleet.New(cfg)
		require.ErrorIs(t, err, errs.ErrInvalid, field)
		require.ErrorContains(t, err, field)
	}
}
