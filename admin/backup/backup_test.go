package backup_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/turnout-mq/turnout"
	"github.com/turnout-mq/turnout/admin/backup"
	"github.com/turnout-mq/turnout/broker"
	"github.com/turnout-mq/turnout/broker/drivers"
	"github.com/turnout-mq/turnout/consumer"
	"github.com/turnout-mq/turnout/internal/errs"
	"github.com/turnout-mq/turnout/metadata"
	"github.com/turnout-mq/turnout/testenv"
	"github.com/turnout-mq/turnout/testenv/zkserver"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, // one a process each, of the brokers' libraries
		goleak.IgnoreAnyFunction("github.com/rcrowley/go-metrics.(*meterArbiter).tick"),
		goleak.IgnoreAnyFunction("github.com/patrickmn/go-cache.(*janitor).Run"))
}

const (
	patience = 2 * time.Minute
	tick     = 20 * time.Millisecond
)

// place is a ZooKeeper that can be lost.
type place struct {
	*testing.T
	server *zkserver.Server
}

func newPlace(t *testing.T) *place {
	p := &place{T: t}
	p.begin(0)
	t.Cleanup(func() { p.server.Close() })
	return p
}

func (p *place) begin(port int) {
	p.Helper()
	require.Eventually(p, func() bool { // the port may be taken for a moment by a connection that ends
		server, err := zkserver.Start(p.Context(), zkserver.Options{Ports: []int{port}})
		if err == nil {
			p.server = server
		}
		return err == nil
	}, patience, tick)
}

// lose replaces the ZooKeeper by a new and empty one at the same address.
func (p *place) lose() {
	p.Helper()
	_, digits, _ := strings.Cut(p.server.ConnectString(), ":")
	var port int
	_, err := fmt.Sscan(digits, &port)
	require.NoError(p, err)
	p.server.Close()
	p.begin(port)
}

func (p *place) ctx() context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	p.Cleanup(cancel)
	return ctx
}

// store connects, with a root of its own or the default one.
func (p *place) store(change ...func(*metadata.Config)) *metadata.Store {
	p.Helper()
	cfg := metadata.Config{ZooKeeper: p.server.ConnectString(), SessionTimeout: 30 * time.Second}
	for _, f := range change {
		f(&cfg)
	}
	s, err := metadata.Open(cfg)
	require.NoError(p, err)
	p.Cleanup(func() { require.NoError(p, s.Close(p.ctx())) })
	_, err = s.WaitConnected(p.ctx())
	require.NoError(p, err)
	return s
}

func (p *place) take(s *metadata.Store) *backup.File {
	p.Helper()
	f, err := backup.Take(p.ctx(), s)
	require.NoError(p, err)
	var file bytes.Buffer
	require.NoError(p, f.Write(&file))
	again, err := backup.Read(&file)
	require.NoError(p, err)
	return again
}

func (p *place) cluster(s *metadata.Store, names ...string) {
	p.Helper()
	for _, name := range names {
		require.NoError(p, s.PutCluster(p.ctx(), name, metadata.Cluster{Kind: broker.Kafka, Addresses: []string{"h:1"}, Auth: &metadata.Auth{Mechanism: "PLAIN", Secret: "env:LOGIN"}}))
	}
}

func (p *place) topic(s *metadata.Store, name, cluster string) {
	p.Helper()
	_, err := s.PutTopic(p.ctx(), name, metadata.PutTopic{Cluster: cluster})
	require.NoError(p, err)
}

// wish edits a wish by hand.
func (p *place) wish(s *metadata.Store, topic, cluster string) {
	p.Helper()
	require.NoError(p, s.Set(p.ctx(), s.TopicPath(topic), []byte(`{"cluster":"`+cluster+`"}`), metadata.AnyVersion))
}

// What a route says of its wish is the same after a restore: answered, not answered yet, and wishes that were skipped.
func TestEverythingIsThereAgain(t *testing.T) {
	p := newPlace(t)
	s := p.store()
	p.cluster(s, "a", "b", "c")
	for _, topic := range []string{"still", "moved", "edited", "edited_twice"} {
		p.topic(s, topic, "a")
	}
	p.topic(s, "moved", "b")
	p.wish(s, "edited", "b")
	p.wish(s, "edited_twice", "b")
	p.wish(s, "edited_twice", "c")
	require.NoError(t, s.Create(p.ctx(), s.TopicPath("by_hand"), []byte(`{"cluster":"a"}`))) // without a route
	require.NoError(t, s.Create(p.ctx(), s.TopicPath("broken"), []byte("clusterName=a")))
	require.NoError(t, s.PutSettings(p.ctx(), "still", metadata.TopicSettings{V: 1, App: "order_service", Names: map[string]string{"a": "orders.created"}}))
	require.NoError(t, s.PutGroup(p.ctx(), "billing", metadata.Group{V: 1, App: "billing", Topics: []string{"still"}, Start: metadata.StartEarliest, Order: metadata.OrderNone, Concurrency: 1}))
	require.NoError(t, s.PutShadowFlag(p.ctx(), "order_service", "load", "shadow_billing", true))
	require.NoError(t, s.Create(p.ctx(), s.Root+"/jobs/monitor/config", []byte(`{"v":1,"shards":4}`)))
	require.NoError(t, s.Create(p.ctx(), s.Root+"/jobs/monitor/servers/10.0.0.1", nil))
	require.NoError(t, s.Create(p.ctx(), s.Root+"/locks/x/n_1", []byte("held")))
	_, err := s.Register(s.InstancePath("order_service", metadata.NewInstanceID())).Ensure(p.ctx(), []byte(`{"v":1}`))
	require.NoError(t, err)
	clusters, err := s.ListClusters(p.ctx())
	require.NoError(t, err)
	meant := map[string]metadata.Route{}
	topics := []string{"still", "moved", "edited", "edited_twice", "by_hand"}
	complete := func(s *metadata.Store, topic string) metadata.Route {
		doc, err := s.GetTopic(p.ctx(), topic)
		require.NoError(t, err)
		r := metadata.Complete(doc.Wish, doc.WishNode, doc.Route, clusters)
		r.Wish = metadata.WishRef{}
		return r
	}
	for _, topic := range topics {
		meant[topic] = complete(s, topic)
	}
	f := p.take(s)
	for _, n := range f.Nodes {
		for _, other := range []string{"apps", "participants", "locks", "ensemble", "jobs/monitor/servers"} {
			require.False(t, strings.HasPrefix(n.Path, other), n.Path)
		}
	}

	p.lose()
	s = p.store()
	done, err := backup.Restore(p.ctx(), s, f)
	require.NoError(t, err)
	require.Equal(t, []int{6, 1, 3, 1, 0}, []int{done.Topics, done.Groups, done.Clusters, done.Flags, done.Already})
	require.Equal(t, []string{f.Ensemble.ID}, done.Succeeds)
	for _, topic := range topics {
		require.Equal(t, meant[topic], complete(s, topic), topic)
	}
	for topic, answered := range map[string]bool{"still": true, "moved": true, "edited": false, "edited_twice": false} {
		doc, err := s.GetTopic(p.ctx(), topic)
		require.NoError(t, err)
		require.Equal(t, answered, metadata.Answered(doc.Route, doc.WishNode), topic)
	}
	again := p.take(s)
	require.Equal(t, f.Nodes, again.Nodes)
	require.Equal(t, f.Shadow, again.Shadow)

	// Again: all is there already, and nothing is written.
	done, err = backup.Restore(p.ctx(), s, f)
	require.NoError(t, err)
	require.Zero(t, done.Nodes)
	require.Equal(t, len(f.Nodes)+len(f.Shadow), done.Already)
	// An interrupted one goes on.
	require.NoError(t, s.DeleteGroup(p.ctx(), "billing"))
	done, err = backup.Restore(p.ctx(), s, f)
	require.NoError(t, err)
	require.Equal(t, 1, done.Nodes)
	// Below another root.
	other := p.store(func(c *metadata.Config) { c.Root, c.ShadowRoot = "/other/root", "/other/zpt" })
	done, err = backup.Restore(p.ctx(), other, f)
	require.NoError(t, err)
	require.Equal(t, len(f.Nodes)+len(f.Shadow), done.Nodes)
	require.Equal(t, f.Nodes, p.take(other).Nodes)
}

func TestWhatIsRefused(t *testing.T) {
	p := newPlace(t)
	s := p.store()
	_, err := backup.Take(p.ctx(), s)
	require.ErrorIs(t, err, errs.ErrNotFound)
	p.cluster(s, "a", "b")
	p.topic(s, "orders", "a")
	f := p.take(s)

	// What was written since is never written over, in whatever it differs.
	for what, change := range map[string]func(s *metadata.Store){
		"another topic":   func(s *metadata.Store) { p.topic(s, "letters", "a") },
		"another cluster": func(s *metadata.Store) { p.cluster(s, "c") },
		"a move":          func(s *metadata.Store) { p.topic(s, "orders", "b") },
		"an edit":         func(s *metadata.Store) { p.wish(s, "orders", "b") },
		"the same edit":   func(s *metadata.Store) { p.wish(s, "orders", "a") },
		"half a topic": func(s *metadata.Store) {
			require.NoError(t, s.Delete(p.ctx(), s.RoutePath("orders"), metadata.AnyVersion))
		},
		"a flag": func(s *metadata.Store) { require.NoError(t, s.PutShadowFlag(p.ctx(), "x", "y", "shadow_z", true)) },
	} {
		other := p.store(func(c *metadata.Config) {
			c.Root = "/" + strings.ReplaceAll(what, " ", "-")
			c.ShadowRoot = c.Root + "-zpt"
		})
		_, err := backup.Restore(p.ctx(), other, f)
		require.NoError(t, err, what)
		change(other)
		now := p.take(other)
		_, err = backup.Restore(p.ctx(), other, f)
		require.ErrorIs(t, err, errs.ErrConflict, what)
		require.ErrorContains(t, err, "is not empty", what)
		then := p.take(other)
		now.At, then.At = time.Time{}, time.Time{}
		require.Equal(t, now, then, what)
	}

	var whole bytes.Buffer
	require.NoError(t, f.Write(&whole))
	for what, text := range map[string]string{
		"no backup":   whole.String()[:whole.Len()/2],
		"format":      `{"format":"other"}`,
		"v 2":         `{"format":"turnout-backup","v":2}`,
		"ensemble.id": `{"format":"turnout-backup","v":1}`,
		"path":        `{"format":"turnout-backup","v":1,"ensemble":{"id":"x"},"nodes":[{"path":"../../etc"}]}`,
		"twice":       `{"format":"turnout-backup","v":1,"ensemble":{"id":"x"},"nodes":[{"path":"a"},{"path":"a"}]}`,
		"ahead":       `{"format":"turnout-backup","v":1,"ensemble":{"id":"x"},"nodes":[{"path":"a","ahead":1000000}]}`,
		"after":       whole.String() + "{}",
	} {
		_, err := backup.Read(strings.NewReader(text))
		require.ErrorIs(t, err, errs.ErrInvalid, what)
		require.ErrorContains(t, err, what)
	}
}

// ZooKeeper is lost with all that was in it while an application runs: it goes on to send and receive, and after the restore it
// follows what ZooKeeper says.
func TestAnApplicationGoesOn(t *testing.T) {
	env, err := testenv.Start(t.Context(), testenv.Spec{Kafka: []string{"kafka-a", "kafka-b"}})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, env.Close()) })
	p := newPlace(t)
	s := p.store()
	for _, name := range []string{"kafka-a", "kafka-b"} {
		require.NoError(t, s.PutCluster(p.ctx(), name, metadata.Cluster{Kind: broker.Kafka, Addresses: env.Addresses(name), ClusterID: env.ClusterID(name)}))
		c, err := drivers.Open(p.ctx(), broker.Config{Name: name, Kind: broker.Kafka, Addresses: env.Addresses(name), ClientID: "test"})
		require.NoError(t, err)
		require.NoError(t, c.CreateTopic(p.ctx(), "orders", broker.TopicSpec{Partitions: 2}))
		require.NoError(t, c.Close(p.ctx()))
	}
	p.topic(s, "orders", "kafka-a")
	p.topic(s, "orders", "kafka-b") // so that the numbers of the route are not those of a new one
	require.NoError(t, s.PutGroup(p.ctx(), "billing", metadata.Group{V: 1, App: "billing", Topics: []string{"orders"}, Start: metadata.StartEarliest, Order: metadata.OrderNone, Concurrency: 1}))

	client, err := turnout.Open(p.ctx(), turnout.Config{App: "order_service", ZooKeeper: p.server.ConnectString(), SnapshotDir: t.TempDir()},
		turnout.WithSessionTimeout(time.Second), turnout.WithRecheck(100*time.Millisecond))
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, client.Close(p.ctx())) })
	var got atomic.Int64
	_, err = client.Subscribe(p.ctx(), "billing", func(context.Context, *turnout.Delivery) error { got.Add(1); return nil },
		consumer.WithLinger(100*time.Millisecond), consumer.WithRecheck(200*time.Millisecond))
	require.NoError(t, err)
	sent := int64(0)
	send := func() (cluster string) {
		r, err := client.Send(p.ctx(), "orders", &turnout.Message{Key: fmt.Append(nil, sent), Body: []byte("12 apples")})
		require.NoError(t, err)
		sent++
		require.Eventually(t, func() bool { return got.Load() >= sent }, patience, tick)
		return r.Cluster
	}
	require.Equal(t, "kafka-b", send())
	f := p.take(s)

	p.lose()
	require.Equal(t, "kafka-b", send())
	s = p.store()
	require.Equal(t, "kafka-b", send()) // an empty ZooKeeper says nothing
	_, err = backup.Restore(p.ctx(), s, f)
	require.NoError(t, err)
	require.Equal(t, "kafka-b", send())
	require.Eventually(t, func() bool { // it takes part again, with the numbers of the new ZooKeeper
		topic, err := s.GetTopic(p.ctx(), "orders")
		require.NoError(t, err)
		all, err := s.ListParticipants(p.ctx(), "orders")
		require.NoError(t, err)
		return len(all) == 1 && all[0].Err == nil && all[0].Zxid == topic.RouteNode.Mzxid
	}, patience, tick)
	p.topic(s, "orders", "kafka-a")
	require.Eventually(t, func() bool { return send() == "kafka-a" }, patience, tick)
}

// The file is for people too.
func TestTheFileIsReadable(t *testing.T) {
	p := newPlace(t)
	s := p.store()
	p.cluster(s, "a")
	var file bytes.Buffer
	require.NoError(t, p.take(s).Write(&file))
	var doc struct {
		Format string
		Nodes  []struct {
			Path string
			Data metadata.Cluster
		}
	}
	require.NoError(t, json.Unmarshal(file.Bytes(), &doc))
	require.Equal(t, backup.Format, doc.Format)
	require.Equal(t, "clusters/a", doc.Nodes[0].Path)
	require.Equal(t, []string{"h:1"}, doc.Nodes[0].Data.Addresses)
	require.Equal(t, "env:LOGIN", doc.Nodes[0].Data.Auth.Secret)
}
