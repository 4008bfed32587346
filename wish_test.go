package turnout_test

import (
	"encoding/json"
	"testing"

	"github.com/go-zookeeper/zk"
	"github.com/stretchr/testify/require"

	"github.com/turnout-mq/turnout"
	"github.com/turnout-mq/turnout/broker"
	"github.com/turnout-mq/turnout/metadata"
)

func TestEditIsCompletedOnceHoweverManyAreThere(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		w.putTopic("kafka-a", "kafka-b")
		var clients []*turnout.Client
		for range 4 {
			c := w.open("order_service")
			w.send(c, "1")
			clients = append(clients, c)
		}
		w.applied("kafka-a")
		before, err := w.store.Read(w.ctx(), w.store.RoutePath(w.topic))
		require.NoError(t, err)
		w.edit("kafka-b")
		w.applied("kafka-b")
		for _, c := range clients {
			require.Equal(t, "kafka-b", w.send(c, "2"))
		}
		after, err := w.store.Read(w.ctx(), w.store.RoutePath(w.topic))
		require.NoError(t, err)
		require.Equal(t, before.Version+1, after.Version)
		route, _ := w.route()
		wish, err := w.store.Read(w.ctx(), w.store.TopicPath(w.topic))
		require.NoError(t, err)
		require.True(t, metadata.Answered(&route, wish))
		require.Equal(t, []string{"kafka-a", "kafka-b"}, []string{route.Stays[0].Cluster, route.Stays[1].Cluster})
	})
}

// Who may not write routes acts on the edit all the same, and says that nobody has recorded it.
func TestParticipantThatMayNotWriteRoutesActsOnTheEdit(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		w.putTopic("kafka-a", "kafka-b")
		w.putGroup(nil)
		raw := w.raw()
		require.NoError(t, raw.AddAuth("digest", []byte("owner:secret")))
		wish, err := w.store.Read(w.ctx(), w.store.TopicPath(w.topic))
		require.NoError(t, err)
		route := metadata.Complete(metadata.Wish{Cluster: "kafka-a"}, wish, nil, kafkas)
		data, err := json.Marshal(route)
		require.NoError(t, err)
		readOnly := append(zk.DigestACL(zk.PermAll, "owner", "secret"), zk.WorldACL(zk.PermRead)...)
		_, err = raw.Create(w.store.RoutePath(w.topic), data, 0, readOnly)
		require.NoError(t, err)

		client := w.open("order_service")
		var in inbox
		s, err := client.Subscribe(w.ctx(), w.group, in.listen)
		require.NoError(t, err)
		require.NoError(t, s.Ready(w.ctx()))
		require.Equal(t, "kafka-a", w.send(client, "1"))
		w.edit("kafka-b")
		w.says("edit not completed")
		w.eventually(func() bool { return w.send(client, "2") == "kafka-b" }, nil, "it is followed")
		w.has(&in, "1", "2")
		require.Equal(t, w.mzxid(w.store.RoutePath(w.topic)), w.participants()[0].Zxid, "acknowledgements name written routes only")

		// Its settings apply although the route in force is not written.
		settings := metadata.DefaultTopicSettings()
		settings.Portable = false
		w.put(w.store.SettingsPath(w.topic), settings)
		w.eventually(func() bool {
			_, err := client.Send(w.ctx(), w.topic, &turnout.Message{Key: []byte("key"), Body: nil})
			return err == nil
		}, nil, "an empty body is allowed by the topic's settings")

		w.edit("kafka-a")
		w.eventually(func() bool { return w.send(client, "3") == "kafka-a" }, nil, "the next edit is followed, too")
		_, err = raw.SetACL(w.store.RoutePath(w.topic), zk.WorldACL(zk.PermAll), -1)
		require.NoError(t, err)
		w.applied("kafka-a")
		w.participant(func(p metadata.Participant) bool { return p.Error == "" }, "no trouble is left")
		w.has(&in, "3")
	})
}

// A skipped edit may have gone to any cluster, so without their names none is followed; and it is said why.
func TestAnEditWaitsForTheNamesOfTheClusters(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		w.putTopic("kafka-a")
		w.createTopic("kafka-b")
		first := w.open("first")
		w.send(first, "0")
		w.applied("kafka-a")
		require.NoError(t, first.Close(w.ctx()))
		raw := w.raw()
		_, err := raw.SetACL(w.store.ClustersPath(), append(zk.DigestACL(zk.PermAll, "owner", "secret"), zk.WorldACL(zk.PermCreate)...), -1)
		require.NoError(t, err)
		client := w.open("order_service")
		require.Equal(t, "kafka-a", w.send(client, "1"))
		w.applied("kafka-a")
		w.edit("kafka-b")
		w.says("the clusters in ZooKeeper can not be listed")
		require.Equal(t, "kafka-a", w.send(client, "2"))
		require.NoError(t, raw.AddAuth("digest", []byte("owner:secret")))
		_, err = raw.SetACL(w.store.ClustersPath(), zk.WorldACL(zk.PermAll), -1)
		require.NoError(t, err)
		w.applied("kafka-b")
		require.Equal(t, "kafka-b", w.send(client, "3"))
		w.participant(func(p metadata.Participant) bool { return p.Error == "" }, "no trouble is left")
	})
}

func TestEditForAClusterThatCanNotBeWrittenIsFollowedWhenItCan(t *testing.T) {
	for name, c := range map[string]struct {
		prepare, mend func(w *world)
		wish, says    string
	}{
		"fenced":        {func(w *world) { w.createTopic("kafka-b"); w.fence("kafka-b") }, func(w *world) { w.unfence("kafka-b") }, "kafka-b", "fenced"},
		"topic missing": {func(*world) {}, func(w *world) { w.createTopic("kafka-b") }, "kafka-b", "unknown topic"},
		"unknown cluster": {func(w *world) { w.createTopic("kafka-b") }, func(w *world) {
			w.put(w.store.ClusterPath("nowhere"), metadata.Cluster{V: 1, Kind: broker.Kafka, Addresses: w.env.Addresses("kafka-b")})
		}, "nowhere", "nowhere"},
		"dead address": {func(w *world) {
			w.createTopic("kafka-b")
			w.put(w.store.ClusterPath("dead"), metadata.Cluster{V: 1, Kind: broker.Kafka, Addresses: []string{"127.0.0.1:1"}})
		}, func(w *world) {
			doc, err := json.Marshal(metadata.Cluster{V: 1, Kind: broker.Kafka, Addresses: w.env.Addresses("kafka-b")})
			require.NoError(w.t, err)
			require.NoError(w.t, w.store.Set(w.ctx(), w.store.ClusterPath("dead"), doc, -1))
		}, "dead", "refused"},
		"another cluster's id": {func(w *world) {
			w.createTopic("kafka-b")
			w.put(w.store.ClusterPath("other"), metadata.Cluster{V: 1, Kind: broker.Kafka, Addresses: w.env.Addresses("kafka-b"), ClusterID: w.env.ClusterID("kafka-a")})
		}, func(w *world) {
			doc, err := json.Marshal(metadata.Cluster{V: 1, Kind: broker.Kafka, Addresses: w.env.Addresses("kafka-b"), ClusterID: w.env.ClusterID("kafka-b")})
			require.NoError(w.t, err)
			require.NoError(w.t, w.store.Set(w.ctx(), w.store.ClusterPath("other"), doc, -1))
		}, "other", "correct the addresses"},
	} {
		t.Run(name, func(t *testing.T) {
			each(t, func(t *testing.T, w *world) {
				w.putTopic("kafka-a")
				client := w.open("order_service")
				w.send(client, "1")
				w.applied("kafka-a")
				c.prepare(w)
				w.edit(c.wish)
				w.says(c.says)
				require.Equal(t, "kafka-a", w.send(client, "2"))
				route, _ := w.route()
				require.Equal(t, "kafka-a", route.Write, "nobody completes what nobody can follow")
				c.mend(w)
				w.applied(c.wish)
				require.Equal(t, c.wish, w.send(client, "3"))
				require.Empty(t, w.participants()[0].Error)
			})
		})
	}
}

// A route that somebody has deleted stays in force here; the next edit makes it anew, with everything that is owed.
func TestEditAfterTheRouteWasDeletedWritesItAnew(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		w.putTopic("kafka-a", "kafka-b")
		client := w.open("order_service")
		w.send(client, "1")
		w.applied("kafka-a")
		require.NoError(t, w.store.Delete(w.ctx(), w.store.RoutePath(w.topic), -1))
		w.says("deleted")
		require.Equal(t, "kafka-a", w.send(client, "2"))
		w.edit("kafka-b")
		w.applied("kafka-b")
		route, _ := w.route()
		require.Equal(t, "kafka-a", route.Stays[0].Cluster)
		require.Empty(t, w.participants()[0].Error)
	})
}

// A route that can not be read may say more than the wish: nobody acts past it.
func TestEditIsNotFollowedWhileTheRouteIsUnreadable(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		w.putTopic("kafka-a", "kafka-b")
		mark := w.another("mark")
		mark.putTopic("kafka-a", "kafka-b")
		client := w.open("order_service")
		w.send(client, "1")
		mark.send(client, "1")
		w.applied("kafka-a")
		good, err := w.store.Read(w.ctx(), w.store.RoutePath(w.topic))
		require.NoError(t, err)
		w.write(w.store.RoutePath(w.topic), []byte(`{"v":2}`))
		w.says("knows only v 1")
		w.edit("kafka-b")
		for _, cluster := range []string{"kafka-b", "kafka-a", "kafka-b"} { // edits made later are followed by now
			mark.edit(cluster)
			mark.applied(cluster)
			require.Equal(t, "kafka-a", w.send(client, "2"))
		}
		w.write(w.store.RoutePath(w.topic), good.Data)
		w.applied("kafka-b")
	})
}
