package securitytest

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-zookeeper/zk"
	"github.com/stretchr/testify/require"

	"github.com/turnout-mq/turnout"
	"github.com/turnout-mq/turnout/admin/coord"
	"github.com/turnout-mq/turnout/admin/migrate"
	"github.com/turnout-mq/turnout/admin/store"
	"github.com/turnout-mq/turnout/broker"
	"github.com/turnout-mq/turnout/broker/drivers"
	"github.com/turnout-mq/turnout/consumer"
	"github.com/turnout-mq/turnout/internal/clusters"
	"github.com/turnout-mq/turnout/internal/errs"
	"github.com/turnout-mq/turnout/metadata"
	"github.com/turnout-mq/turnout/testenv/pki"
)

const (
	movingTopic = "moving"
	movingGroup = "movers"
	messages    = 300
)

// scenario: an application sends and receives while its topic goes from one Kafka to another and then to RocketMQ, everything
// secured. Afterwards each
// node in ZooKeeper belongs to our identity, and no password is in any.
func scenario(t *testing.T, w *world) {
	login := w.login("zookeeper", "turnout", "zookeeper-password")
	open := func() *metadata.Store {
		s, err := metadata.Open(metadata.Config{ZooKeeper: w.env.ZooKeeper(), AuthScheme: "digest", AuthSecret: login, TLS: w.tls, Logger: w.log})
		require.NoError(t, err)
		t.Cleanup(func() { require.NoError(t, s.Close(w.ctx())) })
		return s
	}
	meta := open()
	docs := map[string]metadata.Cluster{kafka: w.document(kafka, "SCRAM-SHA-512", "admin"), otherKafka: w.document(otherKafka, "PLAIN", "admin"),
		rocketMQ: w.document(rocketMQ, "ACL", "admin")}
	for name, doc := range docs {
		require.NoError(t, meta.PutCluster(w.ctx(), name, doc))
	}
	for _, cluster := range []string{kafka, rocketMQ} { // the move makes it on the other Kafka
		require.NoError(t, w.mustOpen(t, docs[cluster]).CreateTopic(w.ctx(), movingTopic, broker.TopicSpec{Partitions: 2}))
	}
	_, err := meta.PutTopic(w.ctx(), movingTopic, metadata.PutTopic{Cluster: kafka})
	require.NoError(t, err)
	group := metadata.DefaultGroup()
	group.Topics = []string{movingTopic}
	require.NoError(t, meta.PutGroup(w.ctx(), movingGroup, group))
	require.NoError(t, meta.PutShadowFlag(w.ctx(), "app", "t-1", movingGroup, false))
	queue, err := coord.NewQueue(meta, movingTopic, w.log)
	require.NoError(t, err)
	_, err = queue.Put(w.ctx(), []byte("{}"))
	require.NoError(t, err)

	client, err := turnout.Open(w.ctx(), turnout.Config{App: "app", ZooKeeper: w.env.ZooKeeper(), SnapshotDir: t.TempDir(), Logger: w.log},
		turnout.WithZooKeeperAuth("digest", login), turnout.WithZooKeeperTLS(*w.tls))
	require.NoError(t, err)
	closed := false
	end := func() {
		if !closed {
			closed = true
			require.NoError(t, client.Close(w.ctx()))
		}
	}
	t.Cleanup(end)
	var mu sync.Mutex
	got := map[string]bool{}
	sub, err := client.Subscribe(w.ctx(), movingGroup, func(_ context.Context, d *turnout.Delivery) error {
		mu.Lock()
		defer mu.Unlock()
		got[string(d.Body)] = true
		return nil
	}, consumer.WithLinger(300*time.Millisecond), consumer.WithRecheck(time.Second))
	require.NoError(t, err)
	require.NoError(t, sub.Ready(w.ctx()))

	lead(t, w, open(), func(c *migrate.Controller) {
		m, err := c.Start(w.ctx(), migrate.Plan{Topic: movingTopic, To: otherKafka, Create: true, Accept: []string{"all"}}, "tester", migrate.StarterApproves)
		require.NoError(t, err)
		sent := 0
		send := func() string {
			r, err := client.Send(w.ctx(), movingTopic, &turnout.Message{Key: []byte{byte(sent)}, Body: []byte(fmt.Sprint(sent))})
			require.NoError(t, err)
			sent++
			return r.Cluster
		}
		for range messages {
			send()
		}
		works(t, func() error {
			if m, err = c.Get(w.ctx(), m.ID); err == nil && m.EndedAt == nil {
				err = fmt.Errorf("%s waits for %q", m.State, m.Waiting)
			}
			return err
		}, "end of the move")
		require.Equal(t, string(migrate.Done), m.State)
		require.Equal(t, otherKafka, send())
		_, err = meta.PutTopic(w.ctx(), movingTopic, metadata.PutTopic{Cluster: rocketMQ}) // by hand
		require.NoError(t, err)
		works(t, func() error {
			if cluster := send(); cluster != rocketMQ {
				return fmt.Errorf("sent to %s", cluster)
			}
			return nil
		}, "switch to RocketMQ")
		require.Eventually(t, func() bool {
			mu.Lock()
			defer mu.Unlock()
			return len(got) == sent
		}, patience, moment)
		owned(t, w, meta)
	})
	end()
	w.quiet()
}

// lead runs a controller, elected as servers of the platform are.
func lead(t *testing.T, w *world, meta *metadata.Store, use func(*migrate.Controller)) {
	db, err := store.Open(w.ctx(), filepath.Join(t.TempDir(), "turnout.db"), w.log)
	require.NoError(t, err)
	pool := clusters.NewPool(meta, drivers.Open, "turnout-controller", time.Second, w.log)
	c := migrate.New(db, meta, pool, w.log, migrate.Options{FenceCheck: 200 * time.Millisecond})
	job, err := coord.NewJob(meta, "controller", metadata.NewInstanceID(), w.log)
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	over := make(chan error, 1)
	go func() {
		over <- job.Campaign(ctx, 100*time.Millisecond, func(ctx context.Context, lead *coord.Held) error { return c.Run(ctx, lead.Guard()) })
	}()
	defer func() {
		cancel()
		<-over
		require.NoError(t, errors.Join(pool.Close(w.ctx()), db.Close()))
	}()
	use(c)
}

// owned walks the whole tree: everything belongs to our identity alone, and a stranger, who has come as far as ZooKeeper, gets
// nothing.
func owned(t *testing.T, w *world, meta *metadata.Store) {
	config, err := w.tls.Config()
	require.NoError(t, err)
	connect := func() *zk.Conn {
		conn, _, err := zk.Connect([]string{w.env.ZooKeeper()}, 30*time.Second, zk.WithDialer(tlsDialer(config)), zk.WithLogInfo(false))
		require.NoError(t, err)
		t.Cleanup(conn.Close)
		return conn
	}
	us, stranger := connect(), connect()
	require.NoError(t, us.AddAuth("digest", []byte("turnout:zookeeper-password")))
	want := zk.DigestACL(zk.PermAll, "turnout", "zookeeper-password")
	var kinds []string
	var walk func(path string)
	walk = func(path string) {
		data, _, err := us.Get(path)
		if errors.Is(err, zk.ErrNoNode) {
			return
		}
		require.NoError(t, err, path)
		acl, _, err := us.GetACL(path)
		if errors.Is(err, zk.ErrNoNode) {
			return
		}
		require.NoError(t, err, path)
		require.Equal(t, want, acl, path)
		for _, password := range w.passwords {
			require.NotContains(t, string(data), password, path)
		}
		_, _, err = stranger.Get(path)
		require.ErrorIs(t, err, zk.ErrNoAuth, path)
		_, err = stranger.Set(path, nil, -1)
		require.ErrorIs(t, err, zk.ErrNoAuth, path)
		_, err = stranger.Create(path+"/x", nil, 0, zk.WorldACL(zk.PermAll))
		require.Error(t, err, path) // below an ephemeral node nothing can be made anyway
		children, _, err := us.Children(path)
		require.NoError(t, err, path)
		kinds = append(kinds, path)
		for _, name := range children {
			walk(path + "/" + name)
		}
	}
	walk(metadata.DefaultRoot)
	walk(metadata.DefaultShadowRoot)
	all := strings.Join(kinds, "\n")
	for _, part := range []string{"/ensemble", "/topics/moving/route", "/clusters/kafka-a", "/groups/movers", "/apps/app/instances/", "/participants/moving/",
		"/jobs/controller/", "/queue/moving/", "/zpt/app/t-1/movers"} {
		require.Contains(t, all, part, "the scenario makes one of each")
	}
	differ, err := meta.Unprotected(w.ctx())
	require.NoError(t, err)
	require.Empty(t, differ)

	// Who comes with a wrong password is told so.
	wrong := w.login("zookeeper-wrong", "turnout", "not-the-zookeeper-password")
	s, err := metadata.Open(metadata.Config{ZooKeeper: w.env.ZooKeeper(), AuthScheme: "digest", AuthSecret: wrong, TLS: w.tls, Logger: w.log})
	require.NoError(t, err)
	defer func() { require.NoError(t, s.Close(w.ctx())) }()
	_, err = s.Read(w.ctx(), s.TopicPath(movingTopic))
	require.ErrorIs(t, err, errs.ErrNotAllowed)
	require.ErrorContains(t, err, "AuthSecret")
	w.quiet(err)
	doc, err := json.Marshal(w.document(kafka, "PLAIN", "admin"))
	require.NoError(t, err)
	require.ErrorIs(t, s.Create(w.ctx(), s.ClusterPath("x"), doc), errs.ErrNotAllowed)
}

func tlsDialer(config *tls.Config) zk.Dialer {
	return func(network, address string, timeout time.Duration) (net.Conn, error) {
		return tls.DialWithDialer(&net.Dialer{Timeout: timeout}, network, address, config)
	}
}

// zooKeeperStrangers get no session and are told why.
func zooKeeperStrangers(t *testing.T, w *world) {
	other, err := pki.NewAuthority("another")
	require.NoError(t, err)
	pair, err := other.Issue(pki.Request{Name: "client"})
	require.NoError(t, err)
	nameless, foreign, distrusting := *w.tls, *w.tls, *w.tls
	nameless.Cert, nameless.Key = "", ""
	foreign.Cert, foreign.Key, err = pair.Write(w.dir, "zookeeper-foreign")
	require.NoError(t, err)
	distrusting.CA = foreign.Cert
	for name, test := range map[string]struct {
		tls  *metadata.TLS
		says string
	}{
		"no certificate":      {&nameless, "cert and key"},
		"foreign certificate": {&foreign, "cert and key"},
		"unknown authority":   {&distrusting, "authority as ca"},
		"no TLS":              {nil, "the last attempt"},
	} {
		t.Run(name, func(t *testing.T) {
			s, err := metadata.Open(metadata.Config{ZooKeeper: w.env.ZooKeeper(), TLS: test.tls, Logger: w.log})
			require.NoError(t, err)
			defer func() { require.NoError(t, s.Close(w.ctx())) }()
			require.Eventually(t, func() bool {
				ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
				defer cancel()
				_, err := s.WaitConnected(ctx)
				return err != nil && strings.Contains(err.Error(), test.says)
			}, patience, moment)
		})
	}
}
