package cli_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-zookeeper/zk"
	"github.com/stretchr/testify/require"

	"github.com/turnout-mq/turnout"
	"github.com/turnout-mq/turnout/broker"
	"github.com/turnout-mq/turnout/testenv"
)

// persons gives commands as whoever may do everything, and as one who may approve what others file.
func (p *platform) persons(t *testing.T) (admin, bob func(code int, stdin string, args ...string) result) {
	t.Helper()
	b := start(t, "serve", "--zookeeper", p.connect, "--database", p.db, "--listen", "127.0.0.1:0", "--session-timeout", "30s", "--timeout", "1m")
	b.stdout.await(t, "serving ")
	once := regexp.MustCompile(`one-time token of the first administrator, good until \S+: (\S+)`).FindStringSubmatch(b.stdout.String())
	require.NotNil(t, once, b.stdout.String())
	admin = p.as(t, "admin", once[1])
	text := admin(0, "", "user", "create", "bob", "--role", "approver").stdout
	found := regexp.MustCompile(`one-time token: +(\S+)`).FindStringSubmatch(text)
	require.NotNil(t, found, text)
	return admin, p.as(t, "bob", found[1])
}

// zms writes nodes as the portal of ZMS does: the path, then the data, and below it the clients that are connected.
func (z *zooKeeper) zms(t *testing.T, path string, lines ...string) {
	t.Helper()
	at := ""
	for _, part := range strings.Split(strings.Trim(path, "/"), "/") {
		at += "/" + part
		if there, _, err := z.conn.Exists(at); err == nil && !there {
			z.create(t, at, "")
		}
	}
	z.set(t, path, strings.Join(lines, "\n"))
	_, err := z.conn.Create(path+"/10.0.0.1||DEFAULT||1.0.0||1||7", nil, zk.FlagEphemeral, zk.WorldACL(zk.PermAll))
	require.NoError(t, err)
}

// produce stores n messages on a topic of a cluster, with keys, as somebody who knows nothing of Turnout's names.
func (w *world) produce(t *testing.T, c broker.Cluster, topic string, n int) {
	t.Helper()
	done := make(chan error, n)
	for i := range n {
		m := &broker.Envelope{Message: broker.Message{Key: fmt.Appendf(nil, "key %d", i), Body: fmt.Appendf(nil, "%s %d", topic, i), ID: fmt.Sprintf("%032x", i)}}
		c.Send(t.Context(), topic, m, func(_ broker.Receipt, err error) { done <- err })
	}
	for range n {
		require.NoError(t, <-done)
	}
}

// consume reads as a bare member of a group, finishes the first message of each partition, and leaves. It returns what is finished.
func (w *world) consume(t *testing.T, c broker.Cluster, topic, group string) map[string]bool {
	t.Helper()
	var mu sync.Mutex
	finished := map[string]bool{}
	m, err := c.Join(t.Context(), broker.Membership{Group: group, Topic: topic, Claim: func(_ context.Context, c broker.Claim) {
		var into [1]broker.Delivery
		if c.Take(into[:]) == 1 {
			c.Commit(into[0].Offset + 1)
			mu.Lock()
			finished[string(into[0].Body)] = true
			mu.Unlock()
		}
	}})
	require.NoError(t, err)
	eventually(t, func() bool {
		mu.Lock()
		defer mu.Unlock()
		return len(finished) > 0
	}, patience, 5*time.Millisecond, "nothing was read of %s", topic)
	require.NoError(t, m.Leave(t.Context()))
	positions, err := c.Positions(t.Context(), group, topic)
	require.NoError(t, err)
	require.NotEmpty(t, positions)
	return finished
}

// rest subscribes a group and waits until it has everything of n messages that is not finished; nothing else may come.
func (w *world) rest(t *testing.T, group, topic string, n int, finished map[string]bool) {
	t.Helper()
	client, err := turnout.Open(t.Context(), turnout.Config{App: "shop", ZooKeeper: w.connect, SnapshotDir: t.TempDir()})
	require.NoError(t, err)
	defer func() { require.NoError(t, client.Close(context.WithoutCancel(t.Context()))) }()
	var mu sync.Mutex
	got := map[string]bool{}
	_, err = client.Subscribe(t.Context(), group, func(_ context.Context, d *turnout.Delivery) error {
		mu.Lock()
		defer mu.Unlock()
		got[string(d.Body)] = true
		return nil
	})
	require.NoError(t, err)
	eventually(t, func() bool {
		mu.Lock()
		defer mu.Unlock()
		return len(got) >= n-len(finished)
	}, patience, 5*time.Millisecond, "the rest of %s", topic)
	mu.Lock()
	defer mu.Unlock()
	for i := range n {
		body := fmt.Sprintf("%s %d", topic, i)
		require.Equal(t, !finished[body], got[body], body)
	}
}

// From ZMS to an application that goes on where the bare consumer was, by commands: import, apply, approval of the batch.
func TestImportOfZMS(t *testing.T) {
	environments.Each(t, testenv.Spec{ZooKeeper: 1, Kafka: []string{"kafka-a"}, RocketMQ: []string{"rocketmq-a"}}, func(t *testing.T, e *testenv.Env) {
		w := &world{e, connect(t, e.ZooKeeper())}
		p := newPlatform(t, w)
		admin, bob := p.persons(t)
		kafka, rocket := w.open(t, "kafka-a"), w.open(t, "rocketmq-a")
		ctx := t.Context()
		require.NoError(t, kafka.CreateTopic(ctx, "order_topic", broker.TopicSpec{Partitions: 2, Config: map[string]string{"retention.ms": "86400000"}}))
		require.NoError(t, kafka.CreateTopic(ctx, "pay.topic", broker.TopicSpec{Partitions: 3}))
		require.NoError(t, rocket.CreateTopic(ctx, "trade_topic", broker.TopicSpec{Partitions: 2}))
		const messages = 20
		finished := map[string]map[string]bool{}
		for _, one := range []struct {
			c            broker.Cluster
			topic, group string
		}{{kafka, "order_topic", "billing"}, {kafka, "pay.topic", "pay.group"}, {rocket, "trade_topic", "ledger"}} {
			w.produce(t, one.c, one.topic, messages)
			finished[one.topic] = w.consume(t, one.c, one.topic, one.group)
		}

		brokers := func(name string) string { return strings.Join(w.Addresses(name), ",") }
		w.zms(t, "/old/zms/cluster/kafka1", "bootAddr="+brokers("kafka-a"), "brokerType=kafka", "serverIps=10.0.0.1")
		w.zms(t, "/old/zms/cluster/rocket1", "bootAddr="+brokers("rocketmq-a"), "brokerType=rocketmq", "serverIps=null")
		w.zms(t, "/old/zms/cluster/secret1", "bootAddr=127.0.0.1:1", "brokerType=kafka", "serverIps=", "saslPassword=hunter2")
		topic := func(name, cluster string, more ...string) {
			w.zms(t, "/old/zms/topic/"+name, append([]string{"clusterName=" + cluster, "type=topic", "gatedIps=", "gatedCluster="}, more...)...)
		}
		topic("order_topic", "kafka1")
		topic("pay.topic", "kafka1", "colour=red")
		topic("trade_topic", "rocket1")
		topic("gone_topic", "kafka1")
		topic("far_topic", "secret1")
		topic("lost_topic", "nowhere")
		topic("statistic_topic_producerinfo", "kafka1")
		w.zms(t, "/old/zms/topic/empty_topic")
		group := func(name, cluster, topic string, more ...string) {
			w.zms(t, "/old/zms/consumergroup/"+name, append([]string{"clusterName=" + cluster, "type=consumergroup", "bindingTopic=" + topic, "broadcast=false", "consumeFrom=earliest", "suspend=null", "gatedIps=", "gatedCluster="}, more...)...)
		}
		group("billing", "kafka1", "order_topic", "suspend=true", "gatedIps=10.0.0.9", "gatedCluster=rocket1")
		group("pay.group", "kafka1", "pay.topic", "consumeFrom=latest")
		group("ledger", "rocket1", "trade_topic")
		group("loud", "rocket1", "trade_topic", "broadcast=true")
		group("half", "rocket1", "order_topic")
		group("orphan", "kafka1", "gone_topic")
		group("fresh", "kafka1", "order_topic")

		old := w.connect + "/old"
		require.Contains(t, admin(4, "", "import", "zms", "--from", w.connect).stderr, "chroot")
		require.Contains(t, admin(2, "", "import", "zms").stderr, "--from")
		require.Contains(t, admin(3, "", "import", "zms", "--from", old, "--cluster-map", "kafka9=kafka-a").stderr, "kafka9")
		r := admin(7, "", "import", "zms", "--from", old, "--app", "shop", "--cluster-map", "kafka1=kafka-a,rocket1=rocketmq-a", "--timeout", "1m")
		require.NotContains(t, r.stdout+r.stderr, "hunter2")
		for _, problem := range []string{"topic gone_topic: on cluster kafka-a: the cluster does not have it", "cluster secret1: it can not be asked", "far_topic", `lost_topic: cluster "nowhere"`,
			"empty_topic: the node has no key=value line", "group loud: it is a broadcast group", "group half: it reads cluster rocket1", "group orphan: its topic gone_topic"} {
			require.Regexp(t, "problem: .*"+regexp.QuoteMeta(problem), r.stderr)
			require.Contains(t, r.stdout, problem)
		}
		for _, note := range []string{`key "colour"`, `key "saslPassword"`, `gatedIps "10.0.0.9"`, "suspend=true", "statistic_topic_producerinfo", "stays pay.topic on the cluster", "group fresh has no position"} {
			require.Regexp(t, "note: .*"+regexp.QuoteMeta(note), r.stderr)
		}
		file := filepath.Join(t.TempDir(), "zms.yaml")
		write := func(text string) { require.NoError(t, os.WriteFile(file, []byte(text), 0o600)) }
		write(r.stdout)
		require.Regexp(t, `line \d+: cluster: .*mechanism "\?"`, bob(3, "", "apply", "-f", file, "--dry-run").stderr, "the reference to the secret is asked for")

		// Without the cluster that needs a login: what is left can be applied as it is.
		for _, path := range []string{"/old/zms/topic/far_topic", "/old/zms/cluster/secret1"} {
			names, _, err := w.conn.Children(path)
			require.NoError(t, err)
			for _, name := range names {
				w.delete(t, path+"/"+name)
			}
			w.delete(t, path)
		}
		r = admin(7, "", "import", "zms", "--from", old, "--app", "shop", "--cluster-map", "kafka1=kafka-a,rocket1=rocketmq-a")
		write(r.stdout)
		require.Contains(t, r.stdout, "retention.ms: \"86400000\"")
		require.Contains(t, bob(0, "", "apply", "-f", file, "--dry-run").stdout, "9 create")
		bob(7, "", "apply", "-f", file, "--dry-run", "--exit-code")
		require.Contains(t, bob(0, "n\n", "apply", "-f", file, "--batch", "zms").stderr, "nothing was done")
		require.Contains(t, bob(2, "", "apply", "-f", file, "--batch", "zms").stderr, "--yes")
		require.Contains(t, bob(0, "", "request", "list").stdout, "REQUEST")
		require.Contains(t, bob(0, "y\n", "apply", "-f", file, "--batch", "zms").stdout, "9 requests filed as batch zms")
		require.Contains(t, bob(0, "", "apply", "-f", file, "--yes").stdout, "9 pending", "nothing is filed twice")
		require.Len(t, decode[[]any](t, bob(0, "", "request", "list", "--batch", "zms", "-o", "json").stdout), 9)
		require.Contains(t, bob(5, "", "request", "approve", "--batch", "zms", "--yes").stderr, "of somebody else: 9 submitted")
		require.Contains(t, admin(4, "", "request", "approve", "--batch", "zsm").stderr, "no batch zsm")
		admin(2, "", "request", "approve")
		admin(2, "", "request", "approve", "r-1", "--batch", "zms")
		r = admin(0, "n\n", "request", "approve", "--batch", "zms")
		require.Contains(t, r.stderr, "kinds: 2 cluster, 4 group, 3 topic; filed by: 9 bob; applications: 7 shop")
		require.Contains(t, admin(0, "y\n", "request", "approve", "--batch", "zms", "--note", "welcome", "--wait").stdout, "9 of 9 requests of batch zms approved")
		require.Regexp(t, `(?m)^9 equal$`, bob(0, "", "apply", "-f", file, "--yes", "--wait").stdout)
		require.Contains(t, admin(5, "", "request", "approve", "--batch", "zms").stderr, "9 done")

		for group, topic := range map[string]string{"billing": "order_topic", "pay_group": "pay.topic", "ledger": "trade_topic"} {
			w.rest(t, group, topic, messages, finished[topic])
		}
	})
}

// What is on a cluster becomes a document; a document with changes becomes requests; what can not be changed is said.
func TestImportOfAClusterAndChanges(t *testing.T) {
	environments.Each(t, testenv.Spec{ZooKeeper: 1, Kafka: []string{"kafka-a", "kafka-b"}}, func(t *testing.T, e *testenv.Env) {
		w := &world{e, connect(t, e.ZooKeeper())}
		p := newPlatform(t, w)
		admin, bob := p.persons(t)
		kafka, ctx := w.open(t, "kafka-a"), t.Context()
		for name, partitions := range map[string]int{"stock_topic": 2, "stock.v2": 1, "stock_other": 1, "bill_topic": 1, "__stock_own": 1, "shadow_stock": 1} {
			require.NoError(t, kafka.CreateTopic(ctx, name, broker.TopicSpec{Partitions: partitions}))
		}
		const messages = 10
		w.produce(t, kafka, "stock_topic", messages)
		w.produce(t, kafka, "stock_other", messages)
		finished := w.consume(t, kafka, "stock_topic", "stocker")
		w.consume(t, kafka, "stock_topic", "two_topics")
		w.consume(t, kafka, "stock_other", "two_topics")

		require.Contains(t, admin(4, "", "import", "cluster", "kafka-a").stderr, "register it first")
		file := filepath.Join(t.TempDir(), "doc.yaml")
		applied := func(text, batch string, more ...string) result {
			t.Helper()
			require.NoError(t, os.WriteFile(file, []byte(text), 0o600))
			r := bob(0, "", append([]string{"apply", "-f", file, "--batch", batch, "--yes"}, more...)...)
			admin(0, "", "request", "approve", "--batch", batch, "--yes", "--wait")
			return r
		}
		clusters := "clusters:\n"
		for _, name := range []string{"kafka-a", "kafka-b"} {
			clusters += fmt.Sprintf("- {name: %s, kind: kafka, addresses: [%q]}\n", name, w.Addresses(name)[0])
		}
		applied(clusters, "clusters")
		require.Contains(t, admin(3, "", "import", "cluster", "kafka-a", "--match", "[").stderr, "pattern")
		r := admin(7, "", "import", "cluster", "kafka-a", "--match", "*stock*")
		require.Contains(t, r.stderr, "group two_topics has positions on stock_other, stock_topic: it keeps those on stock_other only")
		require.Contains(t, r.stderr, "1 topic was left out: not matched by *stock*")
		require.Contains(t, r.stderr, "shadow topics")
		require.NotContains(t, r.stdout, "name: __stock_own")
		require.NoError(t, os.WriteFile(file, []byte(r.stdout), 0o600))
		require.Regexp(t, `line \d+: topic: .*app ""`, bob(3, "", "apply", "-f", file, "--dry-run").stderr, "nobody has said whose they are")
		r = admin(7, "", "import", "cluster", "kafka-a", "--match", "*stock*", "--app", "shop")
		require.Contains(t, applied(r.stdout, "stock").stdout, "5 create")
		w.rest(t, "stocker", "stock_topic", messages, finished)
		r = admin(0, "", "import", "cluster", "kafka-a", "--match", "*stock*", "--app", "shop")
		require.Contains(t, r.stderr, "3 topics were left out: known already")
		require.NotContains(t, r.stdout, "topics:")

		// Changes. What the document does not say stays as it is.
		const change = `groups:
- {name: stocker, app: shop, topics: [stock_topic], concurrency: 3, start: latest}
---
topics:
- name: stock_topic
  app: shop
  cluster: kafka-b
  partitions: 4
  portable: false
- {name: stock_v2, app: shop, partitions: 1}
`
		require.NoError(t, os.WriteFile(file, []byte(change), 0o600))
		r = bob(7, "", "apply", "-f", file, "--batch", "change", "--yes")
		for _, line := range []string{"concurrency: 8 → 3", "portable: true → false", "cluster: kafka-a → kafka-b can not be changed this way: a topic is moved", "partitions: 2 → 4 can not", "start: earliest → latest can not", "2 change, 1 equal"} {
			require.Contains(t, r.stdout, line)
		}
		require.Contains(t, r.stderr, "2 can not be changed by apply")
		admin(0, "", "request", "approve", "--batch", "change", "--yes", "--wait")
		require.Regexp(t, `concurrency: +3`, w.turnout(t, "group", "get", "stocker").stdout)
		require.Contains(t, bob(7, "", "apply", "-f", file, "--yes").stdout, "2 impossible, 1 equal")

		// Deletions only when they are asked for, only of the applications of the document, and not of what is read.
		const less = "topics:\n- {name: stock_topic, app: shop, partitions: 2}\n"
		applied("topics:\n- {name: bill_topic, app: bill, cluster: kafka-a, partitions: 1}\n", "bill")
		require.NoError(t, os.WriteFile(file, []byte(less), 0o600))
		require.Regexp(t, `(?m)^1 equal$`, bob(0, "", "apply", "-f", file, "--yes").stdout)
		r = applied(less, "prune", "--prune")
		require.Regexp(t, `(?m)^delete +group +stocker`, r.stdout)
		require.Regexp(t, `(?m)^kept +topic +stock_other +it is read by two_topics`, r.stdout)
		require.Contains(t, r.stdout, "3 delete, 1 kept, 1 equal")
		require.NotContains(t, r.stdout, "bill")
		require.Contains(t, applied(less, "prune2", "--prune").stdout, "1 delete, 1 equal")
		topics, err := kafka.Topics(ctx)
		require.NoError(t, err)
		require.Contains(t, topics, "stock_other", "messages stay")
		require.Regexp(t, `(?s)stock_topic.*`, w.turnout(t, "topic", "list").stdout)

		// What is refused is said, and what failed is not asked for again.
		const broken = "topics:\n- {name: broken_topic, app: shop, cluster: kafka-a, partitions: 2}\n"
		require.NoError(t, kafka.CreateTopic(ctx, "broken_topic", broker.TopicSpec{Partitions: 1}))
		require.NoError(t, os.WriteFile(file, []byte(broken), 0o600))
		bob(0, "", "apply", "-f", file, "--batch", "broken", "--yes")
		require.Contains(t, admin(7, "", "request", "approve", "--batch", "broken", "--yes", "--wait").stderr, "broken_topic is failed")
		r = bob(7, "", "apply", "-f", file, "--yes")
		require.Regexp(t, `(?m)^failed +topic +broken_topic +r-\d+ has failed`, r.stdout)
		require.Contains(t, bob(0, "", "request", "retry", "--batch", "broken", "--yes").stdout, "1 of 1 request of batch broken retried")
		info, err := kafka.DescribeTopic(ctx, "broken_topic")
		require.NoError(t, err)
		require.Len(t, info.Partitions, 1, "what exists is not changed")
		// Who may not file anything is refused once, and not a thousand times.
		text := admin(0, "", "user", "create", "eve", "--role", "viewer").stdout
		eve := p.as(t, "eve", regexp.MustCompile(`one-time token: +(\S+)`).FindStringSubmatch(text)[1])
		thousand := "topics:\n"
		for i := range 1000 {
			thousand += fmt.Sprintf("- {name: topic_%d, app: shop, cluster: kafka-a, partitions: 1}\n", i)
		}
		require.Contains(t, eve(3, thousand, "apply", "-f", "-", "--yes").stderr, "the others were not tried")
		bob(2, "", "apply")
		bob(2, "", "apply", "-f", "-")
		require.Contains(t, bob(3, "topics: [{name: x, nam: y}]", "apply", "-f", "-", "--dry-run").stderr, "line 1: there is no field nam")
	})
}
