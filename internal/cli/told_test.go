package cli_test

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/turnout-mq/turnout/admin/store"
	"github.com/turnout-mq/turnout/broker"
	"github.com/turnout-mq/turnout/testenv"
)

// What begins with an edit or with a choice names who did it, and what has ended is not shown as if it ran.
func TestWhoBeganAMigrationAndHowItEnded(t *testing.T) {
	onKafkas(t, func(t *testing.T, p *platform) {
		// Its name is no other test's: a leader of Kafka may go on refusing what a topic of that name refused before it was deleted.
		require.NoError(t, p.open(t, "kafka-b").CreateTopic(t.Context(), "told_topic", broker.TopicSpec{Partitions: 2}))
		p.turnout(t, "topic", "put", "told_topic", "--cluster", "kafka-a", "--create", "--partitions", "2")
		admin, _ := p.persons(t)
		drift := func(what string) (d store.Drift) {
			t.Helper()
			eventually(t, func() bool {
				list := decode[[]store.Drift](t, admin(0, "", "drift", "list", "--name", "told_topic", "-o", "json").stdout)
				if len(list) != 1 || list[0].What != what {
					return false
				}
				d = list[0]
				return true
			}, patience, 50*time.Millisecond, what)
			return d
		}
		last := func(n int) (m migrationDoc) {
			t.Helper()
			shown := ""
			t.Cleanup(func() {
				if t.Failed() {
					t.Logf("migrations: %s", shown)
				}
			})
			eventually(t, func() bool {
				shown = admin(0, "", "migrate", "list", "-o", "json").stdout
				list := decode[[]migrationDoc](t, shown)
				if len(list) != n || list[0].Outcome != "done" {
					return false
				}
				m = list[0]
				return true
			}, patience, 50*time.Millisecond, "migration %d has ended", n)
			return m
		}
		admin(0, "", "drift", "adopt", drift("unknown").ID)
		p.set(t, "/turnout/topics/told_topic", `{"cluster":"kafka-b"}`)
		m := last(1)
		require.Equal(t, "hand edit", m.StartedBy)
		require.Contains(t, admin(0, "", "migrate", "receipt", m.ID).stdout, "by hand edit")
		d := drift("edited")
		admin(0, "", "drift", "publish", d.ID)
		require.Equal(t, "admin, "+d.ID, last(2).StartedBy)

		// Another server looks at everything when it starts.
		b := start(t, "serve", "--zookeeper", p.connect, "--database", p.db, "--listen", "127.0.0.1:0", "--session-timeout", "30s", "--timeout", "1m")
		b.stdout.await(t, "serving ")
		eventually(t, func() bool {
			return regexp.MustCompile(`(?m)^migration: +m-2, ended \d{4}-\d\d-\d\d \d\d:\d\d:\d\d: done$`).MatchString(admin(0, "", "fleet", "topic", "told_topic").stdout)
		}, patience, 50*time.Millisecond)
	})
}

// A batch is waited for as a whole, also where some of it needed no approval.
func TestApprovalOfABatchThatNeedsNone(t *testing.T) {
	onKafkas(t, func(t *testing.T, p *platform) {
		admin, bob := p.persons(t)
		admin(0, "", "policy", "set", "group", "--approval=false")
		file := filepath.Join(t.TempDir(), "shop.yaml")
		write := func(topic, group string) {
			doc := fmt.Sprintf("topics:\n  - {name: %s, app: shop, partitions: 1, cluster: kafka-a}\ngroups:\n  - {name: %s, app: shop, topics: [%s]}\n", topic, group, topic)
			require.NoError(t, os.WriteFile(file, []byte(doc), 0o600))
		}
		write("first_topic", "first_group")
		require.Contains(t, bob(0, "", "apply", "-f", file, "--batch", "first", "--yes").stdout, "2 requests filed")
		require.Contains(t, admin(0, "y\n", "request", "approve", "--batch", "first", "--wait").stdout, "1 of 1 request of batch first approved")
		require.Contains(t, bob(0, "", "apply", "-f", file, "--dry-run", "--exit-code").stdout, "2 equal")

		admin(0, "", "policy", "set", "topic", "--approval=false")
		write("second_topic", "second_group")
		require.Contains(t, bob(0, "", "apply", "-f", file, "--batch", "second", "--yes").stdout, "app shop, 1 partition on kafka-a")
		require.Contains(t, admin(0, "", "request", "approve", "--batch", "second", "--wait").stdout, "nothing was left to approve")
		require.Contains(t, bob(0, "", "apply", "-f", file, "--dry-run", "--exit-code").stdout, "2 equal")
		require.Contains(t, admin(5, "", "request", "approve", "--batch", "second").stderr, "2 done")
	})
}

// A refusal is remembered with the request, and names flags, arguments and commands.
func TestRefusalsSayWhatToDo(t *testing.T) {
	onKafkas(t, func(t *testing.T, p *platform) {
		admin, bob := p.persons(t)
		require.Contains(t, admin(3, "", "user", "create", "carol", "--role", "chief").stderr, "turnout: --role: ")
		require.Contains(t, admin(3, "", "user", "create", "C C", "--role", "viewer").stderr, "turnout: NAME: ")
		require.Contains(t, admin(3, "", "policy", "set", "topic", "--days", "0").stderr, "turnout: --days: ")
		require.Contains(t, admin(3, "", "request", "list", "--state", "lost").stderr, "turnout: --state: ")

		file := func(doc string) store.ChangeRequest {
			t.Helper()
			return decode[store.ChangeRequest](t, bob(0, doc, "request", "new", "-f", "-", "-o", "json").stdout)
		}
		b := p.open(t, "kafka-b")
		require.NoError(t, b.CreateTopic(t.Context(), "order_topic", broker.TopicSpec{Partitions: 2}))
		require.NoError(t, b.Fence(t.Context(), "order_topic"))
		r := file(`{"topic":{"name":"order_topic","app":"shop","partitions":2,"cluster":"kafka-b"}}`)
		const opens = "turnout topic open order_topic --cluster kafka-b"
		require.Contains(t, admin(1, "", "request", "approve", r.ID, "--wait").stderr, opens)
		require.Contains(t, p.refused(t, 2, "topic", "open", "order_topic"), "--cluster")
		require.Contains(t, p.turnout(t, "topic", "open", "order_topic", "--cluster", "kafka-b").stdout, "takes messages again")
		require.Contains(t, p.turnout(t, "topic", "open", "order_topic", "--cluster", "kafka-b").stdout, "was open")
		bob(0, "", "request", "retry", r.ID, "--wait")
		// It is the platform's now.
		require.Contains(t, p.refused(t, 3, "topic", "open", "order_topic", "--cluster", "kafka-b"), "turnout migrate start order_topic --to kafka-b")
		require.Contains(t, p.turnout(t, "topic", "open", "order_topic", "--cluster", "kafka-b", "--force").stdout, "was open")

		require.NotEmpty(t, bob(3, `{"migration":{"topic":"order_topic","to":"kafka-a"}}`, "request", "new", "-f", "-").stderr)
		list := decode[[]store.ChangeRequest](t, bob(0, "", "request", "list", "--kind", "migration", "-o", "json").stdout)
		require.Len(t, list, 1)
		require.Equal(t, store.Withdrawn, list[0].State)
		require.Contains(t, list[0].Decision, "it was refused: ")
		require.Contains(t, list[0].Decision, "kafka-a")
	})
}

// A topic of RocketMQ is opened with the queues that it had, which the cluster does not know.
func TestTopicOpenOnRocketMQ(t *testing.T) {
	environments.Each(t, testenv.Spec{ZooKeeper: 1, RocketMQ: []string{"rocketmq-a"}}, func(t *testing.T, e *testenv.Env) {
		w := newWorld(t, e, "rocketmq-a")
		c := w.open(t, "rocketmq-a")
		require.NoError(t, c.CreateTopic(t.Context(), "order_topic", broker.TopicSpec{Partitions: 3}))
		require.NoError(t, c.Fence(t.Context(), "order_topic"))
		open := []string{"topic", "open", "order_topic", "--cluster", "rocketmq-a"}
		require.Contains(t, w.refused(t, 3, "topic", "put", "order_topic", "--cluster", "rocketmq-a"), "turnout topic open order_topic --cluster rocketmq-a")
		require.Contains(t, w.refused(t, 2, open...), "--queues")
		require.Contains(t, w.turnout(t, append(open, "--queues", "3")...).stdout, "takes messages again")
		info, err := c.DescribeTopic(t.Context(), "order_topic")
		require.NoError(t, err)
		require.False(t, info.Fenced)
		require.Len(t, info.Partitions, 3)
		w.turnout(t, "topic", "put", "order_topic", "--cluster", "rocketmq-a")
	})
}
