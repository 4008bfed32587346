package turnout_test

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/go-zookeeper/zk"
	"github.com/stretchr/testify/require"

	"github.com/turnout-mq/turnout"
	"github.com/turnout-mq/turnout/broker"
	"github.com/turnout-mq/turnout/metadata"
	"github.com/turnout-mq/turnout/testenv"
)

var (
	twoKafkas = testenv.Spec{ZooKeeper: 1, Kafka: []string{"kafka-a", "kafka-b"}}
	ensemble  = testenv.Spec{ZooKeeper: 3, Kafka: []string{"kafka-a", "kafka-b"}}
)

// registered waits for an instance and a participant of the client, in one session that is none of the old ones.
func (w *world) registered(app string, not ...int64) (session int64) {
	w.t.Helper()
	w.eventually(func() bool {
		sessions, all := w.instances(app), w.participants()
		if len(sessions) != 1 || len(all) != 1 {
			return false
		}
		session = sessions[0]
		for _, old := range not {
			if session == old {
				return false
			}
		}
		return true
	}, func() any { return fmt.Sprint(w.instances(app), w.participants()) }, "registered")
	return session
}

func TestSendsGoOnWithoutZooKeeperAndAnEditAfterItsReturnIsFollowed(t *testing.T) {
	own(t, twoKafkas, func(t *testing.T, w *world) {
		w.putTopic("kafka-a", "kafka-b")
		w.putGroup(nil)
		client := w.open("order_service", turnout.WithSessionTimeout(2*time.Second))
		rec := w.recorder("one")
		w.listen(client, rec)
		stop := w.traffic(client, rec, 2)
		w.applied("kafka-a")
		old := w.registered("order_service")
		for _, cluster := range []string{"kafka-b", "kafka-a"} {
			require.NoError(t, w.env.Kill(w.ctx(), "zookeeper"))
			sent := client.Stats().Sent
			w.eventually(func() bool { return client.Stats().Sent > sent+100 }, func() any { return client.Stats() }, "sends go on")
			require.NoError(t, w.env.Restart(w.ctx(), "zookeeper"))
			w.edit(cluster)
			w.applied(cluster)
			w.registered("order_service")
		}
		_ = old
		stop()
		require.NoError(t, w.verdict("kafka-a", "kafka-b").Err())
		require.Zero(t, client.Stats().Failed)
	})
}

func TestSendsGoOnWhileZooKeeperHangs(t *testing.T) {
	own(t, twoKafkas, func(t *testing.T, w *world) {
		w.putTopic("kafka-a", "kafka-b")
		w.putGroup(nil)
		client := w.open("order_service", turnout.WithSessionTimeout(2*time.Second))
		rec := w.recorder("one")
		w.listen(client, rec)
		stop := w.traffic(client, rec, 2)
		w.applied("kafka-a")
		require.NoError(t, w.env.Pause("zookeeper"))
		sent := client.Stats().Sent
		w.eventually(func() bool { return client.Stats().Sent > sent+100 }, func() any { return client.Stats() }, "sends go on")
		require.NoError(t, w.env.Resume("zookeeper"))
		w.edit("kafka-b")
		w.applied("kafka-b")
		stop()
		require.NoError(t, w.verdict("kafka-a", "kafka-b").Err())
		require.Zero(t, client.Stats().Failed)
	})
}

func TestEditsAreFollowedWhileLeadersOfTheEnsembleDie(t *testing.T) {
	own(t, ensemble, func(t *testing.T, w *world) {
		w.putTopic("kafka-a", "kafka-b")
		w.putGroup(nil)
		client := w.open("order_service", turnout.WithSessionTimeout(5*time.Second))
		rec := w.recorder("one")
		w.listen(client, rec)
		stop := w.traffic(client, rec, 2)
		w.applied("kafka-a")
		for i := range 4 {
			var leader string
			w.eventually(func() bool {
				var err error
				leader, err = w.env.ZooKeeperLeader(w.ctx())
				return err == nil
			}, nil, "there is a leader")
			require.NoError(t, w.env.Kill(w.ctx(), leader))
			cluster := []string{"kafka-b", "kafka-a"}[i%2]
			w.eventually(func() bool {
				return w.store.Set(w.ctx(), w.store.TopicPath(w.topic), fmt.Appendf(nil, `{"cluster":%q}`, cluster), -1) == nil
			}, nil, "the edit is written")
			w.applied(cluster)
			require.NoError(t, w.env.Restart(w.ctx(), leader))
		}
		stop()
		require.NoError(t, w.verdict("kafka-a", "kafka-b").Err())
		require.Zero(t, client.Stats().Failed)
	})
}

func TestExpiredSessionIsRegisteredAgainAndNothingIsLost(t *testing.T) {
	own(t, twoKafkas, func(t *testing.T, w *world) {
		w.putTopic("kafka-a", "kafka-b")
		w.putGroup(nil)
		client := w.open("order_service")
		rec := w.recorder("one")
		w.listen(client, rec)
		stop := w.traffic(client, rec, 2)
		w.applied("kafka-a")
		var old []int64
		for _, cluster := range []string{"kafka-b", "kafka-a", "kafka-b"} {
			session := w.registered("order_service", old...)
			old = append(old, session)
			w.expire(session)
			w.edit(cluster)
			w.applied(cluster)
			w.registered("order_service", old...)
		}
		stop()
		require.NoError(t, w.verdict("kafka-a", "kafka-b").Err())
		require.Zero(t, client.Stats().Failed)
	})
}

// Somebody deletes the nodes of a process that lives.
func TestParticipantThatWasDeletedComesBack(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		w.putTopic("kafka-a", "kafka-b")
		client := w.open("order_service")
		w.send(client, "1")
		w.applied("kafka-a")
		names, err := w.store.Children(w.ctx(), w.store.ParticipantsPath(w.topic))
		require.NoError(t, err)
		require.NoError(t, w.store.Delete(w.ctx(), w.store.ParticipantPath(w.topic, names[0]), -1))
		w.edit("kafka-b")
		w.applied("kafka-b")
	})
}

// What a process knew is in a file: the next one starts from it when ZooKeeper is away.
func TestProcessThatStartsWithoutZooKeeperWorksByTheSnapshot(t *testing.T) {
	own(t, twoKafkas, func(t *testing.T, w *world) {
		w.putTopic("kafka-a", "kafka-b")
		w.putGroup(nil)
		settings := metadata.DefaultTopicSettings()
		settings.Names = map[string]string{"kafka-b": w.topic + ".renamed"}
		w.put(w.store.SettingsPath(w.topic), settings)
		w.with("kafka-b", func(c broker.Cluster) {
			require.NoError(t, c.CreateTopic(w.ctx(), w.topic+".renamed", broker.TopicSpec{Partitions: 2}))
		})
		cfg := turnout.Config{App: "order_service", ZooKeeper: w.env.ZooKeeper(), Root: w.root, SnapshotDir: t.TempDir(), Logger: w.log}
		open := func() *turnout.Client {
			c, err := turnout.Open(w.ctx(), cfg, turnout.WithSessionTimeout(2*time.Second))
			require.NoError(t, err)
			t.Cleanup(func() { require.NoError(t, c.Close(w.ctx())) })
			return c
		}
		var in inbox
		first := open()
		s, err := first.Subscribe(w.ctx(), w.group, in.listen)
		require.NoError(t, err)
		w.edit("kafka-b")
		w.eventually(func() bool { return w.send(first, "1") == "kafka-b" }, nil, "moved")
		w.applied("kafka-b")
		require.NoError(t, s.Ready(w.ctx()))
		require.NoError(t, first.Close(w.ctx()))

		require.NoError(t, w.env.Stop(w.ctx(), "zookeeper"))
		second := open()
		require.Equal(t, "kafka-b", w.send(second, "2"))
		_, err = second.Subscribe(w.ctx(), w.group, in.listen)
		require.NoError(t, err)
		w.has(&in, "1", "2")
		_, err = second.Subscribe(w.short(), "bills-unknown", in.listen)
		require.ErrorIs(t, err, turnout.ErrNoMetadata)
		_, err = second.Send(context.Background(), "orders-unknown", &turnout.Message{Body: []byte("3")})
		require.ErrorIs(t, err, turnout.ErrNoMetadata)

		require.NoError(t, w.env.Restart(w.ctx(), "zookeeper"))
		w.registered("order_service")
		w.edit("kafka-a")
		w.applied("kafka-a")
		require.Equal(t, "kafka-a", w.send(second, "4"))
		w.has(&in, "4")
	})
}

func (w *world) short() context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), short)
	w.t.Cleanup(cancel)
	return ctx
}

// A process that starts from a snapshot older than the world goes where it says, until it can read.
func TestSnapshotThatIsOutOfDateIsCorrectedWhenZooKeeperIsBack(t *testing.T) {
	own(t, twoKafkas, func(t *testing.T, w *world) {
		w.putTopic("kafka-a", "kafka-b")
		w.putGroup(nil)
		old, fresh := t.TempDir(), t.TempDir()
		open := func(dir string) *turnout.Client {
			c, err := turnout.Open(w.ctx(), turnout.Config{App: "order_service", ZooKeeper: w.env.ZooKeeper(), Root: w.root, SnapshotDir: dir, Logger: w.log}, turnout.WithSessionTimeout(2*time.Second))
			require.NoError(t, err)
			t.Cleanup(func() { require.NoError(t, c.Close(w.ctx())) })
			return c
		}
		first := open(old)
		w.send(first, "0")
		w.applied("kafka-a") // before there is a route none can be kept
		require.NoError(t, first.Close(w.ctx()))
		reader := open(fresh)
		rec := w.recorder("one")
		w.listen(reader, rec)
		w.edit("kafka-b")
		w.applied("kafka-b")

		require.NoError(t, w.env.Stop(w.ctx(), "zookeeper"))
		late := open(old)
		require.Equal(t, "kafka-a", w.send(late, "0"))
		stop := w.traffic(late, rec, 2)
		sent := late.Stats().Sent
		w.eventually(func() bool { return late.Stats().Sent > sent+20 }, nil, "it sends to kafka-a")
		require.NoError(t, w.env.Restart(w.ctx(), "zookeeper"))
		w.eventually(func() bool { return w.send(late, "0") == "kafka-b" }, nil, "it is corrected")
		stop()
		for _, cluster := range []string{"kafka-a", "kafka-b"} {
			w.eventually(func() bool { return w.left(cluster) == 0 }, func() any { return w.participants() }, "nothing stays on %s", cluster)
		}
	})
}

func TestDamagedSnapshotIsSetAsideAndSaid(t *testing.T) {
	own(t, testenv.Spec{ZooKeeper: 1}, func(t *testing.T, w *world) {
		dir := t.TempDir()
		c, err := turnout.Open(w.ctx(), turnout.Config{App: "order_service", ZooKeeper: w.env.ZooKeeper(), Root: w.root, SnapshotDir: dir, Logger: w.log})
		require.NoError(t, err)
		require.NoError(t, c.Close(w.ctx()))
		files, err := filepath.Glob(filepath.Join(dir, "*"))
		require.NoError(t, err)
		for _, file := range files {
			require.NoError(t, os.WriteFile(file, []byte(`{"damaged`), 0o600))
		}
		require.NoError(t, w.env.Stop(w.ctx(), "zookeeper"))
		_, err = turnout.Open(w.short(), turnout.Config{App: "order_service", ZooKeeper: w.env.ZooKeeper(), Root: w.root, SnapshotDir: dir, Logger: w.log})
		require.ErrorIs(t, err, turnout.ErrNoMetadata)
	})
}

// A backup that was restored into an empty ZooKeeper: its change numbers are far behind, and edits there are followed.
func TestSuccessorOfTheEnsembleIsFollowed(t *testing.T) {
	own(t, twoKafkas, func(t *testing.T, w *world) {
		other, err := testenv.Start(w.ctx(), testenv.Spec{Backend: w.env.Backend(), ZooKeeper: 1})
		require.NoError(t, err)
		t.Cleanup(func() { require.NoError(t, other.Close()) })
		require.NoError(t, other.Cut("zookeeper"))

		w.putTopic("kafka-a", "kafka-b")
		w.putGroup(nil)
		client, err := turnout.Open(w.ctx(), turnout.Config{App: "order_service", ZooKeeper: w.env.ZooKeeper() + "," + other.ZooKeeper(),
			Root: w.root, SnapshotDir: t.TempDir(), Logger: w.log}, turnout.WithSessionTimeout(2*time.Second))
		require.NoError(t, err)
		t.Cleanup(func() { require.NoError(t, client.Close(w.ctx())) })
		rec := w.recorder("one")
		w.listen(client, rec)
		stop := w.traffic(client, rec, 2)
		w.applied("kafka-a")
		for range 300 { // so that the other one's change numbers are behind
			w.edit("kafka-a")
		}
		for _, cluster := range []string{"kafka-b", "kafka-a"} {
			w.edit(cluster)
			w.applied(cluster)
		}
		before := w.mzxid(w.store.RoutePath(w.topic))

		backup := map[string][]byte{}
		w.backup(w.root, backup)
		var ensemble struct{ ID string }
		require.NoError(t, json.Unmarshal(backup[w.store.EnsemblePath()], &ensemble))
		backup[w.store.EnsemblePath()] = fmt.Appendf(nil, `{"id":"restored","succeeds":[%q]}`, ensemble.ID)
		require.NoError(t, w.env.Stop(w.ctx(), "zookeeper"))
		require.NoError(t, other.Heal("zookeeper"))
		restored := *w
		restored.env = other
		conn := restored.raw()
		// What a route says of the wish that it answers is about the nodes of its ensemble: they are made anew in one step.
		wish, route := w.store.TopicPath(w.topic), w.store.RoutePath(w.topic)
		r, err := metadata.ParseRoute(backup[route])
		require.NoError(t, err)
		r.Wish = metadata.WishRef{}
		backup[route], err = json.Marshal(r)
		require.NoError(t, err)
		for _, path := range slices.Sorted(maps.Keys(backup)) { // parents first
			if path == wish {
				_, err = conn.Multi(&zk.CreateRequest{Path: wish, Data: backup[wish], Acl: zk.WorldACL(zk.PermAll)},
					&zk.CreateRequest{Path: route, Data: backup[route], Acl: zk.WorldACL(zk.PermAll)})
			} else if path != route {
				_, err = conn.Create(path, backup[path], 0, zk.WorldACL(zk.PermAll))
			}
			require.NoError(t, err, path)
		}
		restored.store, err = metadata.Open(metadata.Config{ZooKeeper: other.ZooKeeper(), Root: w.root, SessionTimeout: time.Minute})
		require.NoError(t, err)
		t.Cleanup(func() { require.NoError(t, restored.store.Close(context.Background())) })
		_, err = restored.store.WaitConnected(w.ctx())
		require.NoError(t, err)
		restored.registered("order_service")
		for _, cluster := range []string{"kafka-b", "kafka-a", "kafka-b"} {
			restored.edit(cluster)
			restored.applied(cluster)
		}
		require.Less(t, restored.mzxid(w.store.RoutePath(w.topic)), before)
		stop()
		restored.env = w.env
		require.NoError(t, restored.verdict("kafka-a", "kafka-b").Err())
		require.Zero(t, client.Stats().Failed)
	})
}

// backup reads the nodes of a subtree that stay when nobody is connected.
func (w *world) backup(path string, into map[string][]byte) {
	w.t.Helper()
	node, err := w.store.Read(w.ctx(), path)
	require.NoError(w.t, err)
	if node.EphemeralOwner != 0 {
		return
	}
	into[path] = node.Data
	names, err := w.store.Children(w.ctx(), path)
	require.NoError(w.t, err)
	for _, name := range names {
		w.backup(path+"/"+name, into)
	}
}

// The watches are lost without anybody being told; the regular look finds what they would have said.
func TestEditIsFollowedThoughTheWatchesWereForgotten(t *testing.T) {
	own(t, twoKafkas, func(t *testing.T, w *world) {
		server := w.env.EmbeddedZooKeeper()
		if server == nil {
			return // no real server forgets them on demand
		}
		w.putTopic("kafka-a", "kafka-b")
		client := w.open("order_service", turnout.WithRecheck(100*time.Millisecond))
		w.send(client, "1")
		w.applied("kafka-a")
		for _, cluster := range []string{"kafka-b", "kafka-a"} {
			require.NotZero(t, server.ForgetWatches(w.session("order_service")))
			w.edit(cluster)
			w.applied(cluster)
		}
	})
}

// Answers of ZooKeeper get lost after the write was done: nobody is confused by finding it done.
func TestWritesWhoseAnswerIsLostAreNotDoneTwice(t *testing.T) {
	own(t, twoKafkas, func(t *testing.T, w *world) {
		server := w.env.EmbeddedZooKeeper()
		if server == nil {
			return
		}
		w.putTopic("kafka-a", "kafka-b")
		client := w.open("order_service")
		w.send(client, "1")
		w.applied("kafka-a")
		before, err := w.store.Read(w.ctx(), w.store.RoutePath(w.topic))
		require.NoError(t, err)
		server.DropAnswers(w.store.RoutePath(w.topic), 1)
		server.DropAnswers(w.store.ParticipantsPath(w.topic), 2)
		w.edit("kafka-b")
		w.applied("kafka-b")
		after, err := w.store.Read(w.ctx(), w.store.RoutePath(w.topic))
		require.NoError(t, err)
		require.Equal(t, before.Version+1, after.Version)
		require.Len(t, w.participants(), 1)
	})
}

// A cluster's address changes while it is in use; a wrong one is put right.
func TestChangedAddressOfAClusterReachesItsUsers(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		address := w.env.Addresses("kafka-a")
		doc := metadata.Cluster{V: 1, Kind: broker.Kafka, Addresses: address}
		path := w.store.ClusterPath("moving")
		w.put(path, doc)
		set := func(addresses ...string) {
			doc.Addresses = addresses
			data, err := json.Marshal(doc)
			require.NoError(t, err)
			require.NoError(t, w.store.Set(w.ctx(), path, data, -1))
		}
		w.createTopic("kafka-a")
		w.put(w.store.TopicPath(w.topic), metadata.Wish{Cluster: "moving"})
		w.putGroup(nil)
		client := w.open("order_service")
		var in inbox
		_, err := client.Subscribe(w.ctx(), w.group, in.listen)
		require.NoError(t, err)
		w.send(client, "1")
		w.has(&in, "1")
		dead := deadAddress(t)
		set(dead)
		w.says(dead)
		require.Equal(t, "moving", w.send(client, "2"), "the connection that there is goes on")
		w.has(&in, "2")
		set(append([]string{dead}, address...)...)
		w.participant(func(p metadata.Participant) bool { return p.Error == "" }, "put right")
		w.send(client, "3")
		w.has(&in, "3")

		// Other servers altogether: what is sent now is there, and it is read there.
		w.createTopic("kafka-b")
		set(w.env.Addresses("kafka-b")...)
		w.eventually(func() bool {
			w.send(client, "4")
			for _, end := range w.ends("kafka-b") {
				if end > 0 {
					return true
				}
			}
			return false
		}, nil, "sends go to the new address")
		_, err = client.Send(w.ctx(), w.topic, &turnout.Message{Body: []byte("5")})
		require.NoError(t, err)
		w.has(&in, "5")
	})
}

// deadAddress is one where nobody listens.
func deadAddress(t *testing.T) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer func() { require.NoError(t, l.Close()) }()
	return l.Addr().String()
}

func TestBrokerThatRestartsLosesNothingAndItsGroupGoesOn(t *testing.T) {
	own(t, twoKafkas, func(t *testing.T, w *world) {
		w.putTopic("kafka-a", "kafka-b")
		w.putGroup(nil)
		client := w.open("order_service")
		rec := w.recorder("one")
		w.listen(client, rec)
		stop := w.traffic(client, rec, 4)
		w.applied("kafka-a")
		require.NoError(t, w.env.Kill(w.ctx(), "kafka-a"))
		require.NoError(t, w.env.Restart(w.ctx(), "kafka-a"))
		sent := client.Stats().Sent
		w.eventually(func() bool { return client.Stats().Sent > sent+100 }, nil, "sends go on")
		w.edit("kafka-b")
		w.applied("kafka-b")
		stop()
		require.NoError(t, w.verdict("kafka-a", "kafka-b").Err())
		require.Zero(t, client.Stats().Failed)
	})
}

// The cluster that is left dies before it was read to its end: what it has is handled when it is back.
func TestClusterThatWasLeftAndDiedIsReadWhenItIsBack(t *testing.T) {
	own(t, twoKafkas, func(t *testing.T, w *world) {
		w.putTopic("kafka-a", "kafka-b")
		w.putGroup(nil)
		sender := w.open("order_service")
		rec := w.recorder("one")
		stop := w.traffic(sender, rec, 2)
		w.eventually(func() bool { return sender.Stats().Sent > 50 }, nil, "something is on kafka-a")
		w.edit("kafka-b")
		w.applied("kafka-b")
		stop()
		require.NoError(t, w.env.Kill(w.ctx(), "kafka-a"))
		receiver := w.open("order_service_consumer")
		s, err := receiver.Subscribe(w.ctx(), w.group, w.recorded(rec))
		require.NoError(t, err)
		w.eventually(func() bool { return w.left("kafka-b") == 0 }, nil, "kafka-b is read meanwhile")
		require.Error(t, s.Ready(w.short()), "kafka-a is not attached")
		require.NoError(t, w.env.Restart(w.ctx(), "kafka-a"))
		require.NoError(t, s.Ready(w.ctx()))
		require.NoError(t, w.verdict("kafka-a", "kafka-b").Err())
	})
}
