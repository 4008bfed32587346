package turnout_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"github.com/turnout-mq/turnout"
	"github.com/turnout-mq/turnout/broker"
	"github.com/turnout-mq/turnout/metadata"
	"github.com/turnout-mq/turnout/testenv"
)

// Whatever is written into the nodes that a client uses: the last good content stays in force, sends and listeners go on,
// and one message says what is wrong and where.
func TestBadContentOfANodeLeavesTheLastGoodInForce(t *testing.T) {
	t.Parallel()
	bad := map[string]struct {
		data []byte
		says string
	}{
		"blank":           {[]byte("  \n"), "blank"},
		"not json":        {[]byte("{"), "JSON"},
		"900 kB":          {[]byte(`{"cluster":"` + strings.Repeat("x", 900_000) + `"}`), "too large"},
		"65 kB":           {[]byte(`{"v":1,"note":"` + strings.Repeat("x", 65<<10) + `"}`), "too large"},
		"unknown version": {[]byte(`{"v":7,"cluster":7}`), "7"},
		"deleted":         {nil, "deleted"},
	}
	nodes := map[string]func(w *world) string{
		"wish":    func(w *world) string { return w.store.TopicPath(w.topic) },
		"route":   func(w *world) string { return w.store.RoutePath(w.topic) },
		"cluster": func(w *world) string { return w.store.ClusterPath("kafka-a") },
		"group":   func(w *world) string { return w.store.GroupPath(w.group) },
		"topic's settings": func(w *world) string {
			return w.store.SettingsPath(w.topic)
		},
	}
	for node, path := range nodes {
		t.Run(node, func(t *testing.T) {
			each(t, func(t *testing.T, w *world) {
				w.putTopic("kafka-a", "kafka-b")
				w.putGroup(nil)
				w.put(w.store.SettingsPath(w.topic), metadata.DefaultTopicSettings())
				logs := w.observed(zapcore.WarnLevel)
				client := w.open("order_service")
				var in inbox
				s, err := client.Subscribe(w.ctx(), w.group, in.listen)
				require.NoError(t, err)
				require.NoError(t, s.Ready(w.ctx()))
				w.send(client, "0")
				w.applied("kafka-a")
				require.Empty(t, logs.AllUntimed())

				good, err := w.store.Read(w.ctx(), path(w))
				require.NoError(t, err)
				for name, c := range bad {
					if c.data == nil {
						continue
					}
					w.write(path(w), c.data)
					w.oneMessage(logs, path(w), c.says)
					require.Equal(t, "kafka-a", w.send(client, fmt.Sprint(name)))
					w.has(&in, name)
					w.write(path(w), good.Data)
					w.participant(func(p metadata.Participant) bool { return p.Error == "" }, "good again")
				}
				if node == "wish" { // it has children
					return
				}
				require.NoError(t, w.raw().Delete(path(w), -1))
				w.oneMessage(logs, path(w), "deleted")
				require.Equal(t, "kafka-a", w.send(client, "deleted"))
				w.has(&in, "deleted")
			})
		})
	}
}

// oneMessage waits until the log holds one message about path that says text, and sees that it holds no other; then it is
// empty again.
func (w *world) oneMessage(logs *observer.ObservedLogs, path, text string) {
	w.t.Helper()
	w.eventually(func() bool { return logs.Len() > 0 }, func() any { return w.participants() }, "a message about %s", path)
	// What else there is to say is said by the time that the participant node does.
	w.participant(func(p metadata.Participant) bool { return p.Error != "" }, "the participant says so, too")
	entries := logs.TakeAll()
	require.Len(w.t, entries, 1, "%v", entries)
	said := fmt.Sprint(entries[0].Message, entries[0].ContextMap())
	require.Contains(w.t, said, path)
	require.Contains(w.t, said, text)
	require.Less(w.t, len(said), 1000, "a message that people can read")
}

func TestBadWishesOfATopicThatIsNewAreNamedBySend(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		data string
		is   error
	}{
		"blank":               {"", turnout.ErrInvalid},
		"not json":            {"{", turnout.ErrInvalid},
		"too large":           {`{"cluster":"` + strings.Repeat("x", 900_000) + `"}`, turnout.ErrTooLarge},
		"no cluster":          {`{}`, turnout.ErrInvalid},
		"cluster of no name":  {`{"cluster":"a b"}`, turnout.ErrInvalid},
		"unknown cluster":     {`{"cluster":"nowhere"}`, turnout.ErrNotFound},
		"cluster without it":  {`{"cluster":"kafka-a"}`, turnout.ErrUnknownTopic},
		"dead cluster":        {`{"cluster":"dead"}`, nil},
		"cluster of bad data": {`{"cluster":"broken"}`, turnout.ErrInvalid},
	} {
		t.Run(name, func(t *testing.T) {
			each(t, func(t *testing.T, w *world) {
				w.put(w.store.ClusterPath("dead"), metadata.Cluster{V: 1, Kind: broker.Kafka, Addresses: []string{"127.0.0.1:1"}})
				w.put(w.store.ClusterPath("broken"), metadata.Cluster{V: 1, Kind: broker.Kafka, Addresses: []string{"127.0.0.1:1"}})
				w.write(w.store.ClusterPath("broken"), []byte("{"))
				w.put(w.store.TopicPath(w.topic), metadata.Wish{Cluster: "kafka-a"})
				w.write(w.store.TopicPath(w.topic), []byte(c.data))
				client := w.open("order_service")
				_, err := client.Send(w.ctx(), w.topic, &turnout.Message{Body: []byte("1")})
				require.Error(t, err)
				if c.is != nil {
					require.ErrorIs(t, err, c.is)
				}
				require.Contains(t, err.Error(), w.topic)

				// Mended, it works, without a restart.
				w.createTopic("kafka-b")
				w.write(w.store.TopicPath(w.topic), []byte(`{"cluster":"kafka-b"}`))
				w.eventually(func() bool {
					_, err = client.Send(w.ctx(), w.topic, &turnout.Message{Body: []byte("2")})
					return err == nil
				}, func() any { return err }, "a send succeeds")
			})
		})
	}
}

func TestUnknownTopicIsSaidSoAndLookedUpOnceASecond(t *testing.T) {
	own(t, testenv.Spec{ZooKeeper: 1, Kafka: []string{"kafka-a", "kafka-b"}}, func(t *testing.T, w *world) {
		client := w.open("order_service")
		w.createTopic("kafka-a")
		before := w.requests()
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() {
				for range 200 {
					_, err := client.Send(w.ctx(), w.topic, &turnout.Message{Body: []byte("1")})
					if !errors.Is(err, turnout.ErrUnknownTopic) {
						t.Errorf("want ErrUnknownTopic, got %v", err)
						return
					}
				}
			})
		}
		wg.Wait()
		require.Less(t, w.requests()-before, 200, "1600 sends must not be 1600 look-ups")
		w.put(w.store.TopicPath(w.topic), metadata.Wish{Cluster: "kafka-a"})
		w.eventually(func() bool {
			_, err := client.Send(w.ctx(), w.topic, &turnout.Message{Body: []byte("1")})
			return err == nil
		}, nil, "the topic was created, the next sends succeed")
		_, err := client.Send(w.ctx(), "no such topic", &turnout.Message{Body: []byte("1")})
		require.ErrorIs(t, err, turnout.ErrInvalid, "not a name")
	})
}

// A topic that the cluster does not have, though the metadata says so.
func TestTopicThatItsClusterLacksIsFoundWhenItIsCreated(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		w.put(w.store.TopicPath(w.topic), metadata.Wish{Cluster: "kafka-a"})
		w.put(w.store.RoutePath(w.topic), metadata.Route{V: 1, Write: "kafka-a", Order: metadata.OrderNone, Wish: metadata.WishRef{Czxid: w.mzxid(w.store.TopicPath(w.topic))},
			Stays: []metadata.Stay{{Cluster: "kafka-a"}}})
		client := w.open("order_service")
		_, err := client.Send(w.ctx(), w.topic, &turnout.Message{Body: []byte("1")})
		require.ErrorIs(t, err, turnout.ErrUnknownTopic)
		w.createTopic("kafka-a")
		w.eventually(func() bool {
			_, err = client.Send(w.ctx(), w.topic, &turnout.Message{Body: []byte("1")})
			return err == nil
		}, func() any { return err }, "a send succeeds")
	})
}

func TestMessagesThatMayNotBeSentAreRefusedWithEveryReason(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		w.putTopic("kafka-a")
		client := w.open("order_service")
		body := []byte("x")
		long := strings.Repeat("x", 16_001)
		for name, c := range map[string]struct {
			m    *turnout.Message
			is   []error
			says []string
		}{
			"nil":                     {nil, []error{turnout.ErrInvalid}, []string{"nil"}},
			"no body":                 {&turnout.Message{}, []error{turnout.ErrInvalid}, []string{"Body"}},
			"too long":                {&turnout.Message{Key: make([]byte, 1), Body: make([]byte, 1_000_000)}, []error{turnout.ErrTooLarge}, []string{"1000001", "1000000"}},
			"id of upper case":        {&turnout.Message{Body: body, ID: strings.Repeat("A", 32)}, []error{turnout.ErrInvalid}, []string{"ID"}},
			"id too short":            {&turnout.Message{Body: body, ID: "abc"}, []error{turnout.ErrInvalid}, []string{"ID", "abc"}},
			"tag of two words":        {&turnout.Message{Body: body, Tag: "a b"}, []error{turnout.ErrInvalid}, []string{"Tag"}},
			"tag with a bar":          {&turnout.Message{Body: body, Tag: "a||b"}, []error{turnout.ErrInvalid}, []string{"Tag"}},
			"tag not text":            {&turnout.Message{Body: body, Tag: "\xff"}, []error{turnout.ErrInvalid}, []string{"Tag"}},
			"delay below 0":           {&turnout.Message{Body: body, Delay: -time.Second}, []error{turnout.ErrInvalid}, []string{"Delay"}},
			"delay":                   {&turnout.Message{Body: body, Delay: time.Second}, []error{turnout.ErrUnsupported}, []string{"Delay", "portable"}},
			"header without name":     {&turnout.Message{Body: body, Headers: []turnout.Header{{Value: "x"}}}, []error{turnout.ErrInvalid}, []string{"name"}},
			"header of ours":          {&turnout.Message{Body: body, Headers: []turnout.Header{{Name: "turnout-id", Value: "x"}}}, []error{turnout.ErrInvalid}, []string{"turnout-id", "reserved"}},
			"header of RocketMQ":      {&turnout.Message{Body: body, Headers: []turnout.Header{{Name: "KEYS", Value: "x"}}}, []error{turnout.ErrInvalid}, []string{"KEYS", "reserved"}},
			"header twice":            {&turnout.Message{Body: body, Headers: []turnout.Header{{Name: "a", Value: "x"}, {Name: "a", Value: "y"}}}, []error{turnout.ErrInvalid}, []string{"twice"}},
			"header value not text":   {&turnout.Message{Body: body, Headers: []turnout.Header{{Name: "a", Value: "\xff"}}}, []error{turnout.ErrInvalid}, []string{"UTF-8"}},
			"header value with \\x01": {&turnout.Message{Body: body, Headers: []turnout.Header{{Name: "a", Value: "\x01"}}}, []error{turnout.ErrInvalid}, []string{"UTF-8"}},
			"header name with \\x02":  {&turnout.Message{Body: body, Headers: []turnout.Header{{Name: "a\x02", Value: "x"}}}, []error{turnout.ErrInvalid}, []string{"name"}},
			"headers too long":        {&turnout.Message{Body: body, Headers: []turnout.Header{{Name: "a", Value: long}}}, []error{turnout.ErrTooLarge}, []string{"16002", "16000"}},
			"everything at once": {&turnout.Message{ID: "x", Tag: "|", Delay: time.Second, Headers: []turnout.Header{{Name: "KEYS"}}},
				[]error{turnout.ErrInvalid, turnout.ErrUnsupported}, []string{"ID", "Tag", "Delay", "KEYS", "Body"}},
		} {
			t.Run(name, func(t *testing.T) {
				_, err := client.Send(w.ctx(), w.topic, c.m)
				called := make(chan error, 1)
				client.SendAsync(w.ctx(), w.topic, c.m, func(_ turnout.SendResult, err error) { called <- err })
				for _, err := range []error{err, <-called} {
					for _, is := range c.is {
						require.ErrorIs(t, err, is)
					}
					for _, says := range c.says {
						require.Contains(t, err.Error(), says)
					}
				}
			})
		}
		t.Run("the largest there may be is sent", func(t *testing.T) {
			r, err := client.Send(w.ctx(), w.topic, &turnout.Message{Key: make([]byte, 1000), Body: make([]byte, 999_000),
				Headers: []turnout.Header{{Name: "a", Value: strings.Repeat("x", 15_999)}}, Tag: strings.Repeat("x", 128)})
			require.NoError(t, err)
			require.Len(t, r.ID, 32)
			require.Equal(t, "kafka-a", r.Cluster)
		})
		t.Run("an id that is given is kept", func(t *testing.T) {
			id := strings.Repeat("0123456789abcdef", 2)
			m := &turnout.Message{ID: id, Body: body}
			r, err := client.Send(w.ctx(), w.topic, m)
			require.NoError(t, err)
			require.Equal(t, id, r.ID)
		})
		t.Run("a message is not changed by sending it", func(t *testing.T) {
			m := &turnout.Message{Body: body}
			one, err := client.Send(w.ctx(), w.topic, m)
			require.NoError(t, err)
			require.Equal(t, &turnout.Message{Body: body}, m)
			two, err := client.Send(w.ctx(), w.topic, m)
			require.NoError(t, err)
			require.NotEqual(t, one.ID, two.ID)
		})
	})
}

// Settings portable: false allow what the topic's cluster can do, and no more.
func TestTopicThatNeedNotBePortableTakesWhatItsClusterCan(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		w.putTopic("kafka-a")
		w.putGroup(nil)
		settings := metadata.DefaultTopicSettings()
		settings.Portable = false
		w.put(w.store.SettingsPath(w.topic), settings)
		client := w.open("order_service")
		var in inbox
		_, err := client.Subscribe(w.ctx(), w.group, in.listen)
		require.NoError(t, err)
		_, err = client.Send(w.ctx(), w.topic, &turnout.Message{Body: []byte("1"), Headers: []turnout.Header{{Name: "binary", Value: "\xff\x01"}, {Name: "long", Value: strings.Repeat("x", 20_000)}}})
		require.NoError(t, err)
		w.has(&in, "1")
		require.Equal(t, "\xff\x01", in.deliveries()[0].Headers[0].Value)
		_, err = client.Send(context.Background(), w.topic, &turnout.Message{Body: []byte("2"), Delay: time.Second})
		require.ErrorIs(t, err, turnout.ErrUnsupported)
		_, err = client.Send(context.Background(), w.topic, &turnout.Message{Body: make([]byte, 2<<20)})
		require.ErrorIs(t, err, turnout.ErrTooLarge)
		_, err = client.Send(w.ctx(), w.topic, &turnout.Message{Body: []byte("3"), Headers: []turnout.Header{{Name: "KEYS", Value: "x"}}})
		require.ErrorIs(t, err, turnout.ErrInvalid, "what is ours is ours")
	})
}

func TestOpenRefusesASettingsMistakeWithEveryReason(t *testing.T) {
	for name, c := range map[string]struct {
		cfg  turnout.Config
		says []string
	}{
		"no app":       {turnout.Config{ZooKeeper: "127.0.0.1:1"}, []string{"App"}},
		"app":          {turnout.Config{App: "a b", ZooKeeper: "127.0.0.1:1"}, []string{"App", "a b"}},
		"no ZooKeeper": {turnout.Config{App: "a"}, []string{"ZooKeeper"}},
		"more than one": {turnout.Config{App: "a b", ZooKeeper: "::", Root: "no/slash", ShadowRoot: "x/"},
			[]string{"App", "ZooKeeper", "Root", "ShadowRoot"}},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := turnout.Open(t.Context(), c.cfg)
			require.ErrorIs(t, err, turnout.ErrInvalid)
			for _, says := range c.says {
				require.Contains(t, err.Error(), says)
			}
		})
	}
}

func TestOpenWithoutZooKeeperAndWithoutSnapshotSaysSo(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	_, err := turnout.Open(ctx, turnout.Config{App: "order_service", ZooKeeper: "127.0.0.1:1", SnapshotDir: t.TempDir()})
	require.ErrorIs(t, err, turnout.ErrNoMetadata)
	require.ErrorIs(t, err, context.DeadlineExceeded)
}

func TestSubscribeSaysWhatIsMissing(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		client := w.open("order_service")
		listen := func(context.Context, *turnout.Delivery) error { return nil }
		_, err := client.Subscribe(w.ctx(), w.group, listen)
		require.ErrorIs(t, err, turnout.ErrUnknownGroup)
		require.Contains(t, err.Error(), w.group)
		_, err = client.Subscribe(w.ctx(), "a b", listen)
		require.ErrorIs(t, err, turnout.ErrInvalid)
		w.putGroup(nil)
		_, err = client.Subscribe(w.ctx(), w.group, nil)
		require.ErrorIs(t, err, turnout.ErrInvalid)
		_, err = client.Subscribe(w.ctx(), w.group, listen)
		require.ErrorIs(t, err, turnout.ErrUnknownTopic)
		require.Contains(t, err.Error(), w.topic)
		w.putTopic("kafka-a")
		var s *turnout.Subscription
		w.eventually(func() bool { s, err = client.Subscribe(w.ctx(), w.group, listen); return err == nil }, func() any { return err }, "subscribed")
		require.NoError(t, s.Ready(w.ctx()))
		_, err = client.Subscribe(w.ctx(), w.group, listen)
		require.ErrorIs(t, err, turnout.ErrConflict)
		require.NoError(t, s.Close(w.ctx()))
		require.NoError(t, s.Close(w.ctx()), "closed twice")
		require.ErrorIs(t, s.Ready(w.ctx()), turnout.ErrClosed)
		s, err = client.Subscribe(w.ctx(), w.group, listen)
		require.NoError(t, err, "it is free again")
		require.NoError(t, s.Ready(w.ctx()))

		data, err := json.Marshal(metadata.Group{})
		require.NoError(t, err)
		w.write(w.store.GroupPath("broken"), data)
		_, err = client.Subscribe(w.ctx(), "broken", listen)
		require.ErrorIs(t, err, turnout.ErrInvalid)
	})
}

// A ZooKeeper that says of itself that it is another one is not believed.
func TestAnotherEnsembleIsNotBelieved(t *testing.T) {
	own(t, testenv.Spec{ZooKeeper: 1, Kafka: []string{"kafka-a", "kafka-b"}}, func(t *testing.T, w *world) {
		w.putTopic("kafka-a", "kafka-b")
		logs := w.observed(zapcore.ErrorLevel)
		client := w.open("order_service", turnout.WithSessionTimeout(2*time.Second), turnout.WithRecheck(200*time.Millisecond))
		w.send(client, "1")
		w.applied("kafka-a")
		path := w.store.EnsemblePath()
		good, err := w.store.Read(w.ctx(), path)
		require.NoError(t, err)
		session := w.session("order_service")
		w.write(path, []byte(`{"id":"someone-else","succeeds":[]}`))
		w.expire(session)
		w.edit("kafka-b")
		w.eventually(func() bool { return logs.FilterMessageSnippet("another ZooKeeper ensemble").Len() > 0 }, func() any { return logs.All() }, "it says so")
		for range 20 {
			require.Equal(t, "kafka-a", w.send(client, "2"))
		}
		require.Len(t, logs.FilterMessageSnippet("another ZooKeeper ensemble").All(), 1)
		w.write(path, good.Data)
		w.applied("kafka-b")
		require.Equal(t, "kafka-b", w.send(client, "3"))
	})
}
