package metadata_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/turnout-mq/turnout/internal/errs"
	"github.com/turnout-mq/turnout/metadata"
)

// shadows is a Store with the topics t1, t2, t3, shadow_t1 and stress, which is the shadow topic of t2.
func shadows(t *testing.T) *metadata.Store {
	s := admin(t, serve(t).ConnectString())
	for _, topic := range []string{"t1", "t2", "t3", "shadow_t1", "stress"} {
		_, err := s.PutTopic(short(t), topic, metadata.PutTopic{Cluster: "a"})
		require.NoError(t, err)
	}
	settings := metadata.DefaultTopicSettings()
	settings.ShadowOf = "t2"
	require.NoError(t, s.PutSettings(short(t), "stress", settings))
	settings = metadata.DefaultTopicSettings()
	settings.Shadow.Topic = "stress"
	require.NoError(t, s.PutSettings(short(t), "t2", settings))
	return s
}

func TestShadowGroupsAreDerivedAndNotPut(t *testing.T) {
	s, ctx := shadows(t), short(t)
	err := s.PutGroup(ctx, "shadow_g", group("t1"))
	require.ErrorIs(t, err, errs.ErrInvalid)
	require.ErrorContains(t, err, `"shadow_g"`)
	require.ErrorContains(t, err, "derived")
	for _, topic := range []string{"shadow_t1", "stress"} {
		err := s.PutGroup(ctx, "g", group("t1", topic))
		require.ErrorIs(t, err, errs.ErrInvalid)
		require.ErrorContains(t, err, fmt.Sprintf("topics %q", topic))
		require.ErrorContains(t, err, "derived")
	}
	require.NoError(t, s.Create(ctx, s.GroupPath("shadow_old"), []byte(`{"v":1,"topics":["t3"]}`)))
	require.NoError(t, s.UpdateGroup(ctx, "shadow_old", func(g *metadata.Group) error { g.Paused = true; return nil }), "one that is there can be changed")
}

func TestNamesOfShadowGroupsAreTaken(t *testing.T) {
	s, ctx := shadows(t), short(t)
	g := group("t1", "t2")
	require.NoError(t, s.PutGroup(ctx, "g", g))
	named := func(topic, name string) metadata.Group {
		g := group(topic)
		g.Names = map[string]string{topic: name}
		return g
	}
	limited := func(shadow string, topics ...string) metadata.Group {
		g := group(topics...)
		g.Shadow.Group = shadow
		return g
	}
	for _, c := range []struct {
		name string
		g    metadata.Group
		want string
	}{
		{"a name that a shadow group has", named("t3", "shadow_g"), `names "shadow_g" for topic t3: `},
		{"also of another topic", named("t3", "shadow_g-t2"), "the shadow group of g; choose another in names"},
		{"a shadow group that a group has", limited("g-t2", "t3"), "group g; choose another in shadow.group"},
		{"also of another topic of it", limited("g", "t1", "t2"), `shadow.group "g-t2" for topic t2`},
		{"a shadow group that a shadow group has", limited("shadow_g", "t3"), "the shadow group of g; choose another in shadow.group"},
		{"its own name", limited("h", "t3"), "group h; choose another in shadow.group"},
	} {
		t.Run(c.name, func(t *testing.T) {
			err := s.PutGroup(ctx, "h", c.g)
			require.ErrorIs(t, err, errs.ErrConflict)
			require.ErrorContains(t, err, c.want)
		})
	}
	require.NoError(t, s.PutGroup(ctx, "h", limited("stress_h", "t3")))
	require.NoError(t, s.PutGroup(ctx, "h", limited("stress_h", "t3")), "its own are free for it")
	t.Run("without a new topic too", func(t *testing.T) {
		err := s.UpdateGroup(ctx, "h", func(g *metadata.Group) error { g.Shadow.Group = "shadow_g"; return nil })
		require.ErrorIs(t, err, errs.ErrConflict)
		err = s.UpdateGroup(ctx, "h", func(g *metadata.Group) error {
			g.Topics, g.Names["t1"] = append(g.Topics, "t1"), "stress_h"
			return nil
		})
		require.ErrorIs(t, err, errs.ErrConflict, "its own shadow group has it")
	})
	t.Run("names of topics that were taken out stay taken", func(t *testing.T) {
		require.NoError(t, s.UpdateGroup(ctx, "g", func(g *metadata.Group) error { g.Topics = []string{"t1"}; return nil }))
		require.ErrorIs(t, s.PutGroup(ctx, "i", named("t3", "shadow_g-t2")), errs.ErrConflict)
	})
	t.Run("a group whose shadow group would have too long a name", func(t *testing.T) {
		name := strings.Repeat("n", 120)
		require.NoError(t, s.PutGroup(ctx, name, group("t3")), "may be put, it has no shadow group")
	})
}

func TestUnknownFieldsOfShadowLimitsSurvive(t *testing.T) {
	s, ctx := shadows(t), short(t)
	require.NoError(t, s.Create(ctx, s.GroupsPath(), nil))
	require.NoError(t, s.Create(ctx, s.GroupPath("g"), []byte(`{"v":1,"topics":["t1"],"names":{"t1":"g"},"shadow":{"rate":1,"later":{"x":1}}}`)))
	g := group("t1")
	g.Shadow.Concurrency = 3
	require.NoError(t, s.PutGroup(ctx, "g", g))
	n, err := s.Read(ctx, s.GroupPath("g"))
	require.NoError(t, err)
	require.Contains(t, string(n.Data), `"shadow":{"group":"","concurrency":3,"rate":0,"later":{"x":1}}`)
}

func TestATopicIsOnOneSideOfTheMark(t *testing.T) {
	s, ctx := shadows(t), short(t)
	require.NoError(t, s.PutGroup(ctx, "g", group("t3")))
	to := func(name string) func(*metadata.TopicSettings) error {
		return func(t *metadata.TopicSettings) error { t.Shadow.Topic = name; return nil }
	}
	of := func(name string) func(*metadata.TopicSettings) error {
		return func(t *metadata.TopicSettings) error { t.ShadowOf = name; return nil }
	}
	for _, c := range []struct {
		name, topic string
		change      func(*metadata.TopicSettings) error
		err         error
		want        string
	}{
		{"its own shadow topic", "t1", to("t1"), errs.ErrInvalid, `shadow.topic "t1": is the topic itself; name another, or leave it empty for shadow_t1`},
		{"the shadow topic of itself", "t1", of("t1"), errs.ErrInvalid, `shadowOf "t1": is the topic itself`},
		{"a production topic", "t1", to("t3"), errs.ErrConflict, "turnout topic put t3 --shadow-of t1"},
		{"another's shadow topic", "t1", to("stress"), errs.ErrConflict, "it is the shadow topic of t2; choose another"},
		{"another's by its name", "t1", to("shadow_t3"), errs.ErrConflict, "it is the shadow topic of t3 by its name; choose another"},
		{"one that is sent to is for production", "stress", of(""), errs.ErrConflict, "topic t2 sends its messages with the stress mark here"},
		{"one that is sent to is another's", "stress", of("t1"), errs.ErrConflict, "topic t2 sends its messages with the stress mark here"},
		{"one that groups read", "t3", of("t1"), errs.ErrConflict, `groups ["g"] read this topic in production`},
	} {
		t.Run(c.name, func(t *testing.T) {
			err := s.UpdateSettings(ctx, c.topic, c.change)
			require.ErrorIs(t, err, c.err)
			require.ErrorContains(t, err, c.want)
		})
	}
	require.ErrorIs(t, s.DeleteTopic(ctx, "stress"), errs.ErrConflict, "t2 sends there")
	require.NoError(t, s.UpdateSettings(ctx, "t1", to("to_come")), "it need not be there yet")
	require.NoError(t, s.UpdateSettings(ctx, "t1", to("shadow_t1")))
	require.NoError(t, s.UpdateSettings(ctx, "t2", to("")))
	require.NoError(t, s.UpdateSettings(ctx, "stress", of("")), "nobody sends there any more")
	require.NoError(t, s.UpdateSettings(ctx, "stress", of("t3")))
	require.NoError(t, s.UpdateSettings(ctx, "t3", to("stress")))
	require.NoError(t, s.UpdateSettings(ctx, "t3", func(t *metadata.TopicSettings) error { t.Shadow.Enabled = false; return nil }))
}

func TestReaders(t *testing.T) {
	s, ctx := shadows(t), short(t)
	readers := func(topic string) []string {
		groups, err := s.Readers(ctx, topic)
		require.NoError(t, err)
		all := []string{}
		for _, g := range groups {
			all = append(all, g.Name+" as "+g.Physical(topic))
		}
		return all
	}
	require.Empty(t, readers("t1"), "there are no groups at all")
	require.NoError(t, s.PutGroup(ctx, "g", group("t1", "t2")))
	h := group("t1")
	h.Shadow.Group, h.Order, h.Concurrency, h.Paused = "stress_h", metadata.OrderKey, 3, true
	require.NoError(t, s.PutGroup(ctx, "h", h))
	require.NoError(t, s.PutGroup(ctx, "i", group("t3")))

	require.ElementsMatch(t, []string{"g as g", "h as h"}, readers("t1"))
	require.ElementsMatch(t, []string{"g as g-t2"}, readers("t2"))
	require.ElementsMatch(t, []string{"shadow_g as shadow_g", "shadow_h as stress_h"}, readers("shadow_t1"))
	require.ElementsMatch(t, []string{"shadow_g as shadow_g-t2"}, readers("stress"))
	require.Empty(t, readers("none"))
	require.ElementsMatch(t, []string{"shadow_i as shadow_i"}, readers("shadow_t3"), "the topic is still to be created")

	groups, err := s.Readers(ctx, "shadow_t1")
	require.NoError(t, err)
	for _, g := range groups {
		if g.Name == "shadow_h" {
			require.Equal(t, metadata.OrderKey, g.Order)
			require.False(t, g.Paused, "that is the group's")
		}
	}

	t.Run("no shadow topic, no shadow group", func(t *testing.T) {
		require.NoError(t, s.UpdateSettings(ctx, "t1", func(t *metadata.TopicSettings) error { t.Shadow.Enabled = false; return nil }))
		require.Empty(t, readers("shadow_t1"))
		require.ElementsMatch(t, []string{"shadow_g as shadow_g-t2"}, readers("stress"), "by its other topic")
		require.NoError(t, s.UpdateSettings(ctx, "t1", func(t *metadata.TopicSettings) error { t.Shadow.Enabled = true; return nil }))
	})
	t.Run("a production topic that somebody names by hand", func(t *testing.T) {
		require.NoError(t, s.Create(ctx, s.SettingsPath("t3"), []byte(`{"v":1,"shadow":{"topic":"t2"}}`)))
		require.ElementsMatch(t, []string{"g as g-t2"}, readers("t2"))
		require.NoError(t, s.Delete(ctx, s.SettingsPath("t3"), metadata.AnyVersion))
	})
	t.Run("a shadow group that can not be", func(t *testing.T) {
		require.NoError(t, s.PutGroup(ctx, strings.Repeat("n", 120), group("t3")))
		_, err := s.Readers(ctx, "shadow_t3")
		require.ErrorIs(t, err, errs.ErrInvalid)
		require.ErrorContains(t, err, "give a shorter one in shadow.group")
		require.ElementsMatch(t, []string{"shadow_g as shadow_g-t2"}, readers("stress"), "it concerns its own shadow topics only")
		require.NoError(t, s.DeleteGroup(ctx, strings.Repeat("n", 120)))
	})
	t.Run("what can not be read may say anything", func(t *testing.T) {
		require.NoError(t, s.Create(ctx, s.SettingsPath("t3"), []byte(`{`)))
		_, err := s.Readers(ctx, "shadow_t1")
		require.ErrorIs(t, err, errs.ErrInvalid)
		require.ErrorContains(t, err, s.SettingsPath("t3"))
		require.ElementsMatch(t, []string{"g as g", "h as h"}, readers("t1"), "production groups do not depend on it")
		require.NoError(t, s.Create(ctx, s.GroupPath("bad"), []byte(`{`)))
		_, err = s.Readers(ctx, "t1")
		require.ErrorIs(t, err, errs.ErrInvalid)
	})
}

func TestDeleteShadowFlag(t *testing.T) {
	s, ctx := admin(t, serve(t).ConnectString()), short(t)
	exists := func(path string) bool {
		n, err := s.Read(ctx, path)
		require.NoError(t, err)
		return n.Exists
	}
	require.ErrorIs(t, s.DeleteShadowFlag(ctx, "app", "ta/sk", "g"), errs.ErrInvalid)
	require.ErrorIs(t, s.DeleteShadowFlag(ctx, "app", "task", "g"), errs.ErrNotFound)
	for _, group := range []string{"g", "h"} {
		require.NoError(t, s.PutShadowFlag(ctx, "app", "task", group, true))
	}
	require.NoError(t, s.DeleteShadowFlag(ctx, "app", "task", "g"))
	require.ErrorIs(t, s.DeleteShadowFlag(ctx, "app", "task", "g"), errs.ErrNotFound)
	require.True(t, exists(s.ShadowPath("app", "task", "h")))
	require.NoError(t, s.DeleteShadowFlag(ctx, "app", "task", "h"))
	require.False(t, exists("/zpt/app/task"), "nothing was left below it")
	require.True(t, exists("/zpt/app"))

	// What others have written stays.
	require.NoError(t, s.Create(ctx, "/zpt/app/task/g/below", nil))
	require.ErrorIs(t, s.DeleteShadowFlag(ctx, "app", "task", "g"), errs.ErrConflict)
	require.NoError(t, s.Delete(ctx, "/zpt/app/task/g/below", metadata.AnyVersion))
	require.NoError(t, s.Set(ctx, "/zpt/app/task", []byte("mine"), metadata.AnyVersion))
	require.NoError(t, s.DeleteShadowFlag(ctx, "app", "task", "g"))
	require.True(t, exists("/zpt/app/task"))
}
