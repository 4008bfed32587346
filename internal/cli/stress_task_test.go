package cli_test

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/turnout-mq/turnout/admin/store"
	"github.com/turnout-mq/turnout/admin/stress"
)

// A stress task by commands, with an application that follows its flags.
func TestStressTaskCommands(t *testing.T) {
	onKafkas(t, func(t *testing.T, p *platform) {
		db, err := store.Open(t.Context(), p.db, nil)
		require.NoError(t, err)
		require.NoError(t, db.PutRequestPolicy(t.Context(), &store.RequestPolicy{Kind: "stress", Days: 1})) // nobody else is there
		require.NoError(t, db.Close())
		p.serve(t)
		p.turnout(t, "topic", "put", "order_topic", "--cluster", "kafka-a", "--create", "--partitions", "1")
		p.turnout(t, "group", "put", "billing", "--topic", "order_topic", "--app", "order_service")
		p.turnout(t, "group", "put", "audit", "--topic", "order_topic", "--app", "order_service")
		traffic := p.traffic(t, "order_topic", "billing") // nobody subscribes audit

		ask := func(doc string, args ...string) result {
			t.Helper()
			return runWith(t, doc, append(args, "--zookeeper", p.connect)...)
		}
		waits := func(args ...string) result { // it says meanwhile for what
			t.Helper()
			r := ask("", args...)
			require.Equal(t, 0, r.code, r.stderr)
			return r
		}
		doc := func(task, group string) string {
			return fmt.Sprintf(`{"stress":{"task":%q,"groups":[{"group":%q}],"limitSeconds":600,"guards":[{"group":"billing","maxUnread":100000}]}}`, task, group)
		}
		r := ask(doc("sale", "billing"), "stress", "task", "plan", "-f", "-")
		require.Equal(t, 0, r.code, r.stderr)
		require.Regexp(t, `order_topic +shadow_order_topic +kafka-a +on the cluster, 1 partition; in ZooKeeper`, r.stdout)
		require.Equal(t, 3, ask(`{"claim":{"app":"x"}}`, "stress", "task", "plan", "-f", "-").code)
		r = ask(doc("sale", "billing"), "request", "new", "-f", "-", "--wait")
		require.Equal(t, 0, r.code, r.stderr)
		require.Contains(t, r.stdout, `{"task":"s-1"}`)
		r = ask(doc("sale", "billing"), "stress", "task", "plan", "-f", "-")
		require.Equal(t, 5, r.code)
		require.Contains(t, r.stderr, "s-1 already")
		require.Contains(t, p.refused(t, 5, "stress", "task", "stop", "s-1"), "does not run")
		require.Contains(t, p.refused(t, 4, "stress", "task", "get", "s-9"), "no stress task")

		v := decode[stress.TaskView](t, waits("stress", "task", "start", "s-1", "--wait", "1m", "-o", "json").stdout)
		require.Equal(t, store.StressRunning, v.State)
		require.Empty(t, v.Pending)
		require.Regexp(t, `billing +order_service +/zpt/order_service/sale/billing +yes +\S+ +started`, p.turnout(t, "stress", "task", "get", "s-1").stdout)
		require.Contains(t, p.turnout(t, "stress", "task", "list", "--state", "running").stdout, "sale")
		require.Contains(t, p.turnout(t, "shadow", "status", "order_service").stdout, "on by sale")
		require.Contains(t, waits("stress", "task", "stop", "s-1", "--wait", "1m").stdout, "stopped by")
		require.Equal(t, 0, ask(doc("trial", "audit"), "request", "new", "-f", "-", "--wait").code)
		r = ask("", "stress", "task", "start", "s-2", "--wait", "10ms")
		require.Equal(t, 6, r.code)
		require.Contains(t, r.stderr, "an instance that subscribes audit")
		waits("stress", "task", "stop", "s-2", "--wait", "1m")
		require.Contains(t, waits("stress", "task", "remove", "s-1", "--wait", "1m").stdout, "removed")
		require.Regexp(t, `started +1 of 1 flag is on`, p.turnout(t, "stress", "task", "history", "s-1").stdout)
		traffic.complete(t)
	})
}
