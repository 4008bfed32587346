package metadata_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/go-zookeeper/zk"
	"github.com/stretchr/testify/require"

	"github.com/turnout-mq/turnout/broker"
	"github.com/turnout-mq/turnout/internal/errs"
	"github.com/turnout-mq/turnout/metadata"
)

func kafka(address string) metadata.Cluster {
	return metadata.Cluster{Kind: broker.Kafka, Addresses: []string{address}}
}

// admin opens a Store with clusters a, b, c.
func admin(t *testing.T, connect string) *metadata.Store {
	t.Helper()
	s, _ := open(t, connect)
	for _, name := range []string{"a", "b", "c"} {
		require.NoError(t, s.PutCluster(short(t), name, kafka(name+":1")))
	}
	return s
}

func TestPutTopic(t *testing.T) {
	srv := serve(t)
	s := admin(t, srv.ConnectString())
	ctx := short(t)
	p := person(t, srv.ConnectString())
	byHand := func(topic, doc string) {
		_, err := p.Set(s.TopicPath(topic), []byte(doc), -1)
		require.NoError(t, err)
	}
	// answered checks that nobody has anything to complete.
	answered := func(topic metadata.Topic) {
		require.NoError(t, topic.Err)
		require.True(t, metadata.Answered(topic.Route, topic.WishNode))
		require.Equal(t, topic.Wish.Cluster, topic.Route.Write)
	}

	t.Run("a new topic", func(t *testing.T) {
		topic, err := s.PutTopic(ctx, "orders", metadata.PutTopic{Cluster: "a", Order: metadata.OrderKey})
		require.NoError(t, err)
		answered(topic)
		require.Equal(t, stays("a-"), topic.Route.Stays)
		require.Equal(t, metadata.OrderKey, topic.Route.Order)
		require.Equal(t, topic.WishNode.Czxid, topic.RouteNode.Mzxid, "written in one step")
		n, err := s.Read(ctx, s.RoutePath("orders"))
		require.NoError(t, err)
		require.Contains(t, string(n.Data), `"wish":{"czxid":"0x0","version":0}`)
	})
	t.Run("the same again writes nothing", func(t *testing.T) {
		before, err := s.GetTopic(ctx, "orders")
		require.NoError(t, err)
		topic, err := s.PutTopic(ctx, "orders", metadata.PutTopic{Cluster: "a"})
		require.NoError(t, err)
		require.Equal(t, before.RouteNode.Mzxid, topic.RouteNode.Mzxid)
		require.Zero(t, topic.WishNode.Version)
	})
	t.Run("to another cluster, with its end offsets as start", func(t *testing.T) {
		topic, err := s.PutTopic(ctx, "orders", metadata.PutTopic{Cluster: "b", Start: broker.Offsets{"0": 7}})
		require.NoError(t, err)
		answered(topic)
		require.Equal(t, stays("a-", "b@7"), topic.Route.Stays)
		require.Equal(t, metadata.OrderKey, topic.Route.Order)
		require.EqualValues(t, 1, topic.WishNode.Version)
		require.Equal(t, topic.WishNode.Czxid, topic.Route.Wish.Czxid, "the next writer puts the number in")
	})
	t.Run("back: the open stay keeps its start", func(t *testing.T) {
		topic, err := s.PutTopic(ctx, "orders", metadata.PutTopic{Cluster: "a", Start: broker.Offsets{"0": 99}, Order: metadata.OrderNone})
		require.NoError(t, err)
		answered(topic)
		require.Equal(t, stays("b@7", "a-"), topic.Route.Stays)
		require.Equal(t, metadata.OrderNone, topic.Route.Order)
	})
	t.Run("after a hand edit that nobody completed", func(t *testing.T) {
		byHand("orders", `{"cluster":"c","note":"mine"}`)
		topic, err := s.PutTopic(ctx, "orders", metadata.PutTopic{Cluster: "b"})
		require.NoError(t, err)
		answered(topic)
		require.Equal(t, stays("a-", "c", "b@7"), topic.Route.Stays, "somebody may have sent to c")
		require.JSONEq(t, `{"cluster":"b","note":"mine"}`, string(topic.WishNode.Data))
	})
	t.Run("after several hand edits", func(t *testing.T) {
		_, err := s.PutTopic(ctx, "many", metadata.PutTopic{Cluster: "a"})
		require.NoError(t, err)
		byHand("many", `{"cluster":"b"}`)
		byHand("many", `{"cluster":"a"}`)
		topic, err := s.PutTopic(ctx, "many", metadata.PutTopic{Cluster: "a"})
		require.NoError(t, err)
		answered(topic)
		require.Equal(t, stays("b", "c", "a-"), topic.Route.Stays)
	})
	t.Run("after a wish that can not be read", func(t *testing.T) {
		_, err := s.PutTopic(ctx, "bad", metadata.PutTopic{Cluster: "a"})
		require.NoError(t, err)
		byHand("bad", `{`)
		topic, err := s.GetTopic(ctx, "bad")
		require.NoError(t, err)
		require.ErrorIs(t, topic.Err, errs.ErrInvalid)
		require.Equal(t, "a", topic.Route.Write)
		topic, err = s.PutTopic(ctx, "bad", metadata.PutTopic{Cluster: "b"})
		require.NoError(t, err)
		answered(topic)
		require.Equal(t, stays("a-", "b"), topic.Route.Stays)
		byHand("bad", `{"cluster":"c"}`)
		byHand("bad", ``)
		topic, err = s.PutTopic(ctx, "bad", metadata.PutTopic{Cluster: "b"})
		require.NoError(t, err)
		answered(topic)
		require.Equal(t, stays("a-", "c", "b"), topic.Route.Stays)
	})
	t.Run("a topic that was made by hand", func(t *testing.T) {
		_, err := p.Create(s.TopicPath("hand"), wish("a"), 0, zk.WorldACL(zk.PermAll))
		require.NoError(t, err)
		topic, err := s.PutTopic(ctx, "hand", metadata.PutTopic{Cluster: "b", Start: broker.Offsets{"0": 3}})
		require.NoError(t, err)
		answered(topic)
		require.Equal(t, stays("a-", "b@3"), topic.Route.Stays)
	})
	t.Run("a route that can not be read is not replaced", func(t *testing.T) {
		_, err := p.Set(s.RoutePath("hand"), []byte("{"), -1)
		require.NoError(t, err)
		_, err = s.PutTopic(ctx, "hand", metadata.PutTopic{Cluster: "a"})
		require.ErrorIs(t, err, errs.ErrInvalid)
		require.ErrorContains(t, err, "repair")
	})
	t.Run("refusals", func(t *testing.T) {
		_, err := s.PutTopic(ctx, "/", metadata.PutTopic{Cluster: "?", Order: "x", Start: broker.Offsets{"0": -1}})
		require.ErrorIs(t, err, errs.ErrInvalid)
		for _, want := range []string{"topic", "cluster", "order", "start"} {
			require.ErrorContains(t, err, want)
		}
		_, err = s.PutTopic(ctx, "new", metadata.PutTopic{Cluster: "nowhere"})
		require.ErrorIs(t, err, errs.ErrNotFound)
		_, err = s.GetTopic(ctx, "new")
		require.ErrorIs(t, err, errs.ErrUnknownTopic)
		require.ErrorIs(t, err, errs.ErrNotFound)
	})
	t.Run("an answer that was lost", func(t *testing.T) {
		srv.DropAnswers(s.TopicPath("lost"), 1)
		topic, err := s.PutTopic(ctx, "lost", metadata.PutTopic{Cluster: "a"})
		require.NoError(t, err)
		answered(topic)
		require.Zero(t, topic.WishNode.Version)
		srv.DropAnswers(s.TopicPath("lost"), 1)
		topic, err = s.PutTopic(ctx, "lost", metadata.PutTopic{Cluster: "b"})
		require.NoError(t, err)
		require.EqualValues(t, 1, topic.WishNode.Version, "written once")
	})
	names, err := s.ListTopics(ctx)
	require.NoError(t, err)
	require.Equal(t, []string{"bad", "hand", "lost", "many", "orders"}, names)
}

// TestPutTopicAtOnce: of many that put at once each either wins or is told, and nothing is forgotten.
func TestCreateTopic(t *testing.T) {
	srv := serve(t)
	s := admin(t, srv.ConnectString())
	ctx := short(t)
	settings := metadata.DefaultTopicSettings()
	settings.App = "order_service"
	put := metadata.PutTopic{Cluster: "a", Order: metadata.OrderKey}
	require.NoError(t, s.CreateTopic(ctx, "orders", put, settings))
	topic, err := s.GetTopic(ctx, "orders")
	require.NoError(t, err)
	require.NoError(t, topic.Err)
	require.True(t, metadata.Answered(topic.Route, topic.WishNode))
	require.Equal(t, stays("a-"), topic.Route.Stays)
	require.Equal(t, metadata.OrderKey, topic.Route.Order)
	require.Equal(t, "order_service", topic.Settings.App)
	require.Equal(t, topic.WishNode.Czxid, topic.SettingsNode.Czxid, "written in one step")

	require.ErrorIs(t, s.CreateTopic(ctx, "orders", put, settings), errs.ErrConflict)
	for field, refused := range map[string]error{
		"topic":   s.CreateTopic(ctx, "a/b", put, settings),
		"order":   s.CreateTopic(ctx, "letters", metadata.PutTopic{Cluster: "a"}, settings),
		"cluster": s.CreateTopic(ctx, "letters", metadata.PutTopic{Cluster: "d", Order: metadata.OrderNone}, settings),
	} {
		require.ErrorIs(t, refused, errs.ErrInvalid, field)
		require.ErrorContains(t, refused, field)
	}
	guard := metadata.CheckOp(s.Root+"/locks/nobody", metadata.AnyVersion)
	require.ErrorIs(t, s.CreateTopic(ctx, "letters", put, settings, guard), errs.ErrNotFound, "of what has to be true also")
	_, err = s.GetTopic(ctx, "letters")
	require.ErrorIs(t, err, errs.ErrUnknownTopic)
}

func TestPutTopicAtOnce(t *testing.T) {
	srv := serve(t)
	s := admin(t, srv.ConnectString())
	var won atomic.Int32
	var wg sync.WaitGroup
	for i := range 12 {
		wg.Go(func() {
			_, err := s.PutTopic(short(t), "orders", metadata.PutTopic{Cluster: []string{"a", "b", "c"}[i%3]})
			switch {
			case err == nil:
				won.Add(1)
			case !errors.Is(err, errs.ErrConflict):
				t.Error(err)
			}
		})
	}
	wg.Wait()
	require.Positive(t, won.Load())
	topic, err := s.GetTopic(short(t), "orders")
	require.NoError(t, err)
	require.True(t, metadata.Answered(topic.Route, topic.WishNode))
	require.NoError(t, topic.Route.Validate())
}

func TestClusters(t *testing.T) {
	srv := serve(t)
	s := admin(t, srv.ConnectString())
	ctx := short(t)
	c, n, err := s.GetCluster(ctx, "a")
	require.NoError(t, err)
	require.Equal(t, "a", c.Name)
	require.Equal(t, 1, c.V)
	require.True(t, n.Exists)
	_, _, err = s.GetCluster(ctx, "none")
	require.ErrorIs(t, err, errs.ErrNotFound)

	err = s.PutCluster(ctx, "d", metadata.Cluster{Kind: "x", Addresses: []string{"y"}})
	require.ErrorIs(t, err, errs.ErrInvalid)
	require.ErrorContains(t, err, "kind")
	require.ErrorContains(t, err, "addresses[0]")
	require.ErrorIs(t, s.PutCluster(ctx, "d/e", kafka("h:1")), errs.ErrInvalid)
	require.ErrorIs(t, s.PutCluster(ctx, "d", metadata.Cluster{Kind: broker.Kafka, Addresses: []string{"h:1"}, Properties: map[string]string{"x": strings.Repeat("y", metadata.MaxDocument)}}), errs.ErrTooLarge)

	t.Run("unknown fields survive", func(t *testing.T) {
		doc := `{"v":1,"kind":"kafka","addresses":["h:1"],"auth":{"mechanism":"PLAIN","secret":"env:X","by":"me"},"tls":{"z":1},"later":[1]}`
		require.NoError(t, s.Set(ctx, s.ClusterPath("c"), []byte(doc), metadata.AnyVersion))
		next := kafka("h:2")
		next.Auth, next.TLS = &metadata.Auth{Mechanism: "PLAIN", Secret: "env:Y"}, &metadata.TLS{ServerName: "n"}
		require.NoError(t, s.PutCluster(ctx, "c", next))
		n, err := s.Read(ctx, s.ClusterPath("c"))
		require.NoError(t, err)
		var got map[string]any
		decoder := json.NewDecoder(bytes.NewReader(n.Data))
		decoder.UseNumber()
		require.NoError(t, decoder.Decode(&got))
		require.Equal(t, []any{json.Number("1")}, got["later"])
		require.Equal(t, map[string]any{"mechanism": "PLAIN", "secret": "env:Y", "by": "me"}, got["auth"])
		require.Equal(t, json.Number("1"), got["tls"].(map[string]any)["z"])
		require.Equal(t, []any{"h:2"}, got["addresses"])
	})
	t.Run("update by compare and set", func(t *testing.T) {
		var wg sync.WaitGroup
		for i := range 10 {
			wg.Go(func() {
				err := s.UpdateCluster(short(t), "b", func(c *metadata.Cluster) error {
					c.Addresses = append(c.Addresses, fmt.Sprintf("b%d:1", i))
					return nil
				})
				if err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		c, _, err := s.GetCluster(ctx, "b")
		require.NoError(t, err)
		require.Len(t, c.Addresses, 11)
		require.ErrorIs(t, s.UpdateCluster(ctx, "none", func(*metadata.Cluster) error { return nil }), errs.ErrNotFound)
		refused := errors.New("no")
		require.ErrorIs(t, s.UpdateCluster(ctx, "b", func(*metadata.Cluster) error { return refused }), refused)
	})
	t.Run("a damaged one is replaced but not updated", func(t *testing.T) {
		require.NoError(t, s.Set(ctx, s.ClusterPath("c"), []byte("{"), metadata.AnyVersion))
		_, _, err := s.GetCluster(ctx, "c")
		require.ErrorIs(t, err, errs.ErrInvalid)
		require.ErrorIs(t, s.UpdateCluster(ctx, "c", func(*metadata.Cluster) error { return nil }), errs.ErrInvalid)
		require.NoError(t, s.PutCluster(ctx, "c", kafka("c:1")))
	})
	t.Run("delete is refused while in use", func(t *testing.T) {
		_, err := s.PutTopic(ctx, "orders", metadata.PutTopic{Cluster: "a"})
		require.NoError(t, err)
		_, err = s.PutTopic(ctx, "orders", metadata.PutTopic{Cluster: "b"})
		require.NoError(t, err)
		require.NoError(t, s.Set(ctx, s.TopicPath("orders"), wish("c"), metadata.AnyVersion))
		for _, name := range []string{"a", "b", "c"} {
			err := s.DeleteCluster(ctx, name)
			require.ErrorIs(t, err, errs.ErrConflict, name)
			require.ErrorContains(t, err, "orders")
		}
		require.NoError(t, s.DeleteTopic(ctx, "orders"))
		require.NoError(t, s.DeleteCluster(ctx, "a"))
		require.ErrorIs(t, s.DeleteCluster(ctx, "a"), errs.ErrNotFound)
		names, err := s.ListClusters(ctx)
		require.NoError(t, err)
		require.Equal(t, []string{"b", "c"}, names)
	})
}

func group(topics ...string) metadata.Group {
	g := metadata.DefaultGroup()
	g.Topics = topics
	return g
}

func TestGroups(t *testing.T) {
	srv := serve(t)
	s := admin(t, srv.ConnectString())
	ctx := short(t)
	for _, topic := range []string{"t1", "t2", "t3"} {
		_, err := s.PutTopic(ctx, topic, metadata.PutTopic{Cluster: "a"})
		require.NoError(t, err)
	}
	names := func(name string) map[string]string {
		g, _, err := s.GetGroup(ctx, name)
		require.NoError(t, err)
		require.Equal(t, name, g.Name)
		return g.Names
	}

	require.NoError(t, s.PutGroup(ctx, "g", group("t1", "t2")))
	require.Equal(t, map[string]string{"t1": "g", "t2": "g-t2"}, names("g"))

	t.Run("names are fixed, settings are not", func(t *testing.T) {
		g := group("t3", "t2")
		g.Concurrency, g.Paused = 3, true
		require.NoError(t, s.PutGroup(ctx, "g", g))
		require.Equal(t, map[string]string{"t1": "g", "t2": "g-t2", "t3": "g-t3"}, names("g"), "also of a topic that was taken out")
		g.Names = map[string]string{"t2": "other"}
		err := s.PutGroup(ctx, "g", g)
		require.ErrorIs(t, err, errs.ErrInvalid)
		require.ErrorContains(t, err, `"g-t2"`)
		require.NoError(t, s.UpdateGroup(ctx, "g", func(g *metadata.Group) error { g.Topics = append(g.Topics, "t1"); return nil }))
		require.Equal(t, "g", names("g")["t1"])
		got, _, err := s.GetGroup(ctx, "g")
		require.NoError(t, err)
		require.True(t, got.Paused)
		require.Equal(t, 3, got.Concurrency)
	})
	t.Run("a name that is taken is refused", func(t *testing.T) {
		err := s.PutGroup(ctx, "g-t2", group("t1"))
		require.ErrorIs(t, err, errs.ErrConflict)
		require.ErrorContains(t, err, "group g;")
		g := group("t1", "t2")
		g.Names = map[string]string{"t1": "mine", "t2": "g"}
		require.ErrorIs(t, s.PutGroup(ctx, "h", g), errs.ErrConflict)
		g.Names["t2"] = "mine2"
		require.NoError(t, s.PutGroup(ctx, "h", g))
	})
	t.Run("every reason at once", func(t *testing.T) {
		g := group("t1", "none")
		g.Start, g.Concurrency, g.Retry.Max = metadata.StartLatest, -1, 99
		err := s.PutGroup(ctx, "i", g)
		require.ErrorIs(t, err, errs.ErrInvalid)
		for _, want := range []string{`from["t1"]`, `from["none"]`, "concurrency", "retry.max"} {
			require.ErrorContains(t, err, want)
		}
		err = s.PutGroup(ctx, "i", group("none", "none2"))
		require.ErrorIs(t, err, errs.ErrUnknownTopic)
		require.ErrorContains(t, err, "none2")
		require.ErrorIs(t, s.PutGroup(ctx, "i", metadata.DefaultGroup()), errs.ErrInvalid)
		require.ErrorIs(t, s.PutGroup(ctx, strings.Repeat("i", 119), group("t1", "t2")), errs.ErrInvalid)
		_, _, err = s.GetGroup(ctx, "i")
		require.ErrorIs(t, err, errs.ErrUnknownGroup)
		require.ErrorIs(t, s.UpdateGroup(ctx, "i", func(*metadata.Group) error { return nil }), errs.ErrUnknownGroup)
	})
	t.Run("latest keeps where it began", func(t *testing.T) {
		g := group("t1")
		g.Start, g.From = metadata.StartLatest, map[string]map[string]broker.Offsets{"t1": {"a": {"0": 4}}}
		require.NoError(t, s.PutGroup(ctx, "late", g))
		g.From = nil
		require.NoError(t, s.PutGroup(ctx, "late", g))
		got, _, err := s.GetGroup(ctx, "late")
		require.NoError(t, err)
		require.Equal(t, broker.Offsets{"0": 4}, got.From["t1"]["a"])
		g.Topics = []string{"t1", "t2"}
		require.ErrorIs(t, s.PutGroup(ctx, "late", g), errs.ErrInvalid)
	})
	t.Run("two that want one name at the same moment", func(t *testing.T) {
		var won atomic.Int32
		var wg sync.WaitGroup
		for i := range 8 {
			wg.Go(func() {
				g := group("t1")
				g.Names = map[string]string{"t1": "wanted"}
				err := s.PutGroup(short(t), fmt.Sprintf("w%d", i), g)
				switch {
				case err == nil:
					won.Add(1)
				case !errors.Is(err, errs.ErrConflict):
					t.Error(err)
				}
			})
		}
		wg.Wait()
		require.EqualValues(t, 1, won.Load())
	})
	t.Run("unknown fields survive", func(t *testing.T) {
		n, err := s.Read(ctx, s.GroupPath("h"))
		require.NoError(t, err)
		require.NoError(t, s.Set(ctx, s.GroupPath("h"), []byte(`{"later":1,`+string(n.Data[1:])), n.Version))
		require.NoError(t, s.PutGroup(ctx, "h", group("t1")))
		n, err = s.Read(ctx, s.GroupPath("h"))
		require.NoError(t, err)
		require.Contains(t, string(n.Data), `"later":1`)
	})
	t.Run("delete is refused while it has members", func(t *testing.T) {
		r := s.Register(s.ParticipantPath("t1", "me"))
		doc, err := json.Marshal(metadata.Participant{V: 1, Groups: map[string]map[string]metadata.Participation{"h": {"a": metadata.Attached}}})
		require.NoError(t, err)
		_, err = r.Ensure(ctx, doc)
		require.NoError(t, err)
		err = s.DeleteGroup(ctx, "h")
		require.ErrorIs(t, err, errs.ErrConflict)
		require.ErrorContains(t, err, `"me"`)
		require.NoError(t, r.Close(ctx))
		require.NoError(t, s.DeleteGroup(ctx, "h"))
		require.ErrorIs(t, s.DeleteGroup(ctx, "h"), errs.ErrUnknownGroup)
		list, err := s.ListGroups(ctx)
		require.NoError(t, err)
		require.NotContains(t, list, "h")
	})
}

func TestSettings(t *testing.T) {
	srv := serve(t)
	s := admin(t, srv.ConnectString())
	ctx := short(t)
	for _, topic := range []string{"t1", "t2"} {
		_, err := s.PutTopic(ctx, topic, metadata.PutTopic{Cluster: "a"})
		require.NoError(t, err)
	}
	topic, err := s.GetTopic(ctx, "t1")
	require.NoError(t, err)
	require.Equal(t, metadata.DefaultTopicSettings(), topic.Settings)
	require.False(t, topic.SettingsNode.Exists)

	settings := metadata.DefaultTopicSettings()
	settings.Names = map[string]string{"a": "one.two"}
	require.NoError(t, s.PutSettings(ctx, "t1", settings))
	topic, err = s.GetTopic(ctx, "t1")
	require.NoError(t, err)
	require.Equal(t, "one.two", topic.Settings.Physical("t1", "a"))
	require.ErrorIs(t, s.PutSettings(ctx, "none", settings), errs.ErrUnknownTopic)
	require.ErrorIs(t, s.PutSettings(ctx, "t2", settings), errs.ErrConflict)
	settings.Names = map[string]string{"b": "t1"}
	require.ErrorIs(t, s.PutSettings(ctx, "t2", settings), errs.ErrConflict, "the default name of t1 on b")
	settings.Names = map[string]string{"/": ".."}
	require.ErrorIs(t, s.PutSettings(ctx, "t2", settings), errs.ErrInvalid)
	settings.Names = map[string]string{"a": "three"}
	require.NoError(t, s.PutSettings(ctx, "t1", settings))
	_, err = s.PutTopic(ctx, "three", metadata.PutTopic{Cluster: "a"})
	require.ErrorIs(t, err, errs.ErrConflict, "it would be t1 on a")
	require.NoError(t, s.UpdateSettings(ctx, "t1", func(x *metadata.TopicSettings) error { x.Names = map[string]string{"a": "t9"}; return nil }))
	_, err = s.PutTopic(ctx, "three", metadata.PutTopic{Cluster: "a"})
	require.NoError(t, err)
	require.NoError(t, s.UpdateSettings(ctx, "t2", func(x *metadata.TopicSettings) error { x.Portable = false; return nil }))
	topic, err = s.GetTopic(ctx, "t2")
	require.NoError(t, err)
	require.False(t, topic.Settings.Portable)
	require.True(t, topic.Settings.Shadow.Enabled)
}

func TestDeleteTopic(t *testing.T) {
	srv := serve(t)
	s := admin(t, srv.ConnectString())
	ctx := short(t)
	require.ErrorIs(t, s.DeleteTopic(ctx, "t"), errs.ErrUnknownTopic)
	_, err := s.PutTopic(ctx, "t", metadata.PutTopic{Cluster: "a"})
	require.NoError(t, err)
	require.NoError(t, s.PutSettings(ctx, "t", metadata.DefaultTopicSettings()))
	require.NoError(t, s.PutGroup(ctx, "g", group("t")))
	r := s.Register(s.ParticipantPath("t", "me"))
	_, err = r.Ensure(ctx, []byte(`{"v":1}`))
	require.NoError(t, err)
	err = s.DeleteTopic(ctx, "t")
	require.ErrorIs(t, err, errs.ErrConflict)
	require.ErrorContains(t, err, "participant me")
	require.ErrorContains(t, err, "group g")
	require.NoError(t, r.Close(ctx))
	require.ErrorIs(t, s.DeleteTopic(ctx, "t"), errs.ErrConflict)
	require.NoError(t, s.DeleteGroup(ctx, "g"))
	require.NoError(t, s.DeleteTopic(ctx, "t"))
	names, err := s.ListTopics(ctx)
	require.NoError(t, err)
	require.Empty(t, names)
	_, err = s.PutTopic(ctx, "t", metadata.PutTopic{Cluster: "b"})
	require.NoError(t, err)
}

func TestListInstancesAndParticipants(t *testing.T) {
	srv := serve(t)
	s, _ := open(t, srv.ConnectString())
	ctx := short(t)
	list, err := s.ListInstances(ctx, "")
	require.NoError(t, err)
	require.Empty(t, list)
	for _, path := range []string{s.InstancePath("x", "1"), s.InstancePath("y", "2"), s.ParticipantPath("t", "1")} {
		_, err := s.Register(path).Ensure(ctx, []byte(`{"v":1,"host":"h","pid":3,"write":"a"}`))
		require.NoError(t, err)
	}
	_, err = s.Register(s.InstancePath("y", "3")).Ensure(ctx, []byte(`{"v":9}`))
	require.NoError(t, err)
	list, err = s.ListInstances(ctx, "")
	require.NoError(t, err)
	require.Len(t, list, 3)
	require.Equal(t, "h", list[0].Host)
	require.Equal(t, s.Session().ID, list[0].Node.EphemeralOwner)
	require.ErrorIs(t, list[2].Err, errs.ErrInvalid)
	list, err = s.ListInstances(ctx, "x")
	require.NoError(t, err)
	require.Len(t, list, 1)
	participants, err := s.ListParticipants(ctx, "t")
	require.NoError(t, err)
	require.Len(t, participants, 1)
	require.Equal(t, "1", participants[0].ID)
	require.Equal(t, "a", participants[0].Write)
	participants, err = s.ListParticipants(ctx, "none")
	require.NoError(t, err)
	require.Empty(t, participants)
}
