package cli_test

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestPolicyRuleAndOwner(t *testing.T) {
	z := startZooKeeper(t)
	p := newPlatform(t, &world{zooKeeper: z})
	p.serve(t)
	require.Regexp(t, `(?m)^topic +needed +14 days +0$`, z.turnout(t, "policy", "list").stdout)
	require.Contains(t, z.turnout(t, "policy", "set", "topic", "--approval=false").stdout, "approval not needed, expire after 14 days")
	z.turnout(t, "policy", "set", "topic", "--days", "3")
	require.Regexp(t, `(?m)^topic +not needed +3 days +2$`, z.turnout(t, "policy", "list").stdout)
	require.Contains(t, z.refused(t, 2, "policy", "set", "topic"), "--days")
	require.Contains(t, z.refused(t, 2, "policy", "set", "wish", "--days", "3"), "turnout policy list")
	require.Contains(t, z.refused(t, 3, "policy", "set", "topic", "--days", "400"), "365")

	z.turnout(t, "rule", "put", "rest", "--priority", "100")
	z.turnout(t, "rule", "put", "payments", "--priority", "10", "--label", "team=payments", "--cluster", "kafka-a,kafka-b", "--load", "topics")
	z.turnout(t, "rule", "put", "payments", "--kind", "kafka")
	list := z.turnout(t, "rule", "list").stdout
	require.Regexp(t, `(?s)payments +10 +kafka +team=payments +kafka-a,kafka-b +- +topics +2\n.*rest +100 +any +- +any +- +partitions +1\n`, list)
	require.Len(t, decode[[]struct{ Name string }](t, z.turnout(t, "rule", "list", "-o", "json").stdout), 2)
	z.refused(t, 3, "rule", "put", "payments", "--load", "weight")
	require.Equal(t, "rule rest deleted\n", z.turnout(t, "rule", "delete", "rest").stdout)
	require.Contains(t, z.refused(t, 4, "rule", "delete", "rest"), "turnout rule list")

	require.Contains(t, z.turnout(t, "owner", "list", "order_service").stdout, "none")
	z.turnout(t, "user", "create", "alice")
	require.Regexp(t, `(?m)^owners: +alice$`, z.turnout(t, "owner", "add", "order_service", "alice").stdout)
	require.Equal(t, []string{"alice"}, decode[struct{ Owners []string }](t, z.turnout(t, "owner", "list", "order_service", "-o", "json").stdout).Owners)
	z.turnout(t, "owner", "remove", "order_service", "alice")
	require.Contains(t, z.turnout(t, "owner", "list", "order_service").stdout, "none")
	z.refused(t, 4, "owner", "add", "order_service", "nobody-known")
}

func TestFleetAndOffsets(t *testing.T) {
	onKafkas(t, func(t *testing.T, p *platform) {
		p.turnout(t, "topic", "put", "order_topic", "--cluster", "kafka-a", "--create", "--partitions", "2", "--app", "order_service")
		p.turnout(t, "group", "put", "order_bil_group", "--topic", "order_topic", "--app", "billing", "--paused")
		p.turnout(t, "group", "put", "reader", "--topic", "order_topic", "--app", "billing")
		p.fill(t, "kafka-a", "order_topic", 30)
		p.serve(t)
		eventually(t, func() bool {
			r := run(t, "fleet", "top", "--zookeeper", p.connect)
			return strings.Contains(r.stdout, "order_bil_group")
		}, patience, 50*time.Millisecond, "the monitor looks")
		require.Regexp(t, `(?m)^order_bil_group +order_topic +kafka-a +30 `, p.turnout(t, "fleet", "top").stdout)
		require.Regexp(t, `(?m)^order_bil_group +order_topic +kafka-a +30 `, p.turnout(t, "fleet", "group", "order_bil_group").stdout)
		text := p.turnout(t, "fleet", "topic", "order_topic").stdout
		require.Regexp(t, `(?m)^writes: +kafka-a$`, text)
		require.Contains(t, text, "no instance uses it")
		require.Equal(t, "no instance of order_service runs\n", p.turnout(t, "fleet", "app", "order_service").stdout)
		require.Equal(t, int64(30), decode[struct{ Unread int64 }](t, p.turnout(t, "fleet", "group", "order_bil_group", "-o", "json").stdout).Unread)
		p.refused(t, 4, "fleet", "group", "nowhere")
		p.refused(t, 4, "fleet", "topic", "nowhere")
		p.refused(t, 2, "fleet", "top", "--limit", "0")
		require.Regexp(t, `(?m)^monitor +\S+ +0,`, p.turnout(t, "fleet", "shards").stdout)
		require.Regexp(t, `(?m)^reconcile +\S+ +0,`, p.turnout(t, "fleet", "shards").stdout)

		r := p.turnout(t, "offsets", "plan", "order_bil_group", "order_topic", "--to", "latest")
		require.Regexp(t, `(?m)^0 +none +\d+ +- +0 +\d+$`, r.stdout)
		require.Contains(t, r.stdout, `{"offsets":{"group":"order_bil_group","topic":"order_topic","to":"latest"}}`)
		r = run(t, "offsets", "plan", "reader", "order_topic", "--to", "earliest", "--zookeeper", p.connect)
		require.Equal(t, 7, r.code, r.stderr)
		require.Contains(t, r.stdout, "is not paused")
		require.Contains(t, p.refused(t, 3, "offsets", "plan", "order_bil_group", "order_topic", "--offset", "0=9999"), "9999")
		p.turnout(t, "offsets", "plan", "order_bil_group", "order_topic", "--offset", "0=1", "--cluster", "kafka-a")
		p.turnout(t, "offsets", "plan", "order_bil_group", "order_topic", "--time", "2026-11-22T10:00:00Z")
		for _, args := range [][]string{{}, {"--to", "newest"}, {"--time", "now"}, {"--to", "latest", "--time", "2026-11-22T10:00:00Z"}} {
			p.refused(t, 2, append([]string{"offsets", "plan", "order_bil_group", "order_topic"}, args...)...)
		}
		p.refused(t, 4, "offsets", "plan", "nowhere", "order_topic", "--to", "latest")
	})
}
