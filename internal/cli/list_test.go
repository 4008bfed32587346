package cli_test

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// Which is asked: a platform that is registered and open, else ZooKeeper.
func TestListsAskAPlatformOrZooKeeper(t *testing.T) {
	z := startZooKeeper(t)
	w := &world{zooKeeper: z}
	w.turnout(t, "cluster", "put", "kafka-a", "--kind", "kafka", "--address", "127.0.0.1:1")
	w.turnout(t, "cluster", "put", "rocketmq-a", "--kind", "rocketmq", "--address", "127.0.0.1:1")
	z.create(t, "/turnout/topics", "")
	z.create(t, "/turnout/topics/order_topic", `{"cluster":"kafka-a"}`)
	z.create(t, "/turnout/topics/stock", `{"cluster":"rocketmq-a"}`)
	w.turnout(t, "group", "put", "order_bil_group", "--topic", "order_topic", "--app", "billing")
	type named []struct{ Name string }
	lists := func(t *testing.T, more ...string) {
		t.Helper()
		for _, c := range []struct {
			args []string
			want int
		}{
			{[]string{"topic", "list"}, 2}, {[]string{"topic", "list", "--cluster", "kafka-a"}, 1}, {[]string{"topic", "list", "--app", "x"}, 0}, {[]string{"topic", "list", "--text", "TOCK"}, 1},
			{[]string{"group", "list"}, 1}, {[]string{"group", "list", "--app", "billing", "--topic", "order_topic"}, 1}, {[]string{"group", "list", "--topic", "stock"}, 0},
			{[]string{"cluster", "list"}, 2}, {[]string{"cluster", "list", "--kind", "rocketmq"}, 1},
		} {
			r := z.turnout(t, append(append(c.args, "-o", "json"), more...)...)
			require.Len(t, decode[named](t, r.stdout), c.want, "%v: %s", c.args, r.stdout)
			require.Empty(t, r.stderr, "%v", c.args)
		}
	}
	lists(t) // there is no platform
	require.Contains(t, z.refused(t, 2, "cluster", "list", "--kind", "pulsar"), "kafka or rocketmq")
	require.Contains(t, z.refused(t, 1, "topic", "list", "--server", "http://127.0.0.1:1"), "no server of the platform answers")
	lists(t, "--server", "http://127.0.0.1:1", "--direct")

	// A server that has died and wants a login: nobody asks it who is not logged in.
	z.create(t, "/turnout/admin", "")
	z.create(t, "/turnout/admin/servers", "")
	z.create(t, "/turnout/admin/servers/dead", `{"v":1,"url":"http://127.0.0.1:1","leader":false,"load":0}`)
	lists(t)
	t.Setenv("TURNOUT_TOKEN", "turnout_x")
	r := run(t, "topic", "list", "--zookeeper", z.connect)
	require.Contains(t, r.stdout, "order_topic")
	require.Contains(t, r.stderr, "what follows was read from ZooKeeper")
	lists(t, "--direct")

	// One that lives is asked, whichever is tried first.
	p := newPlatform(t, w)
	b, info := p.serve(t)
	lists(t)
	lists(t, "--server", info.URL)
	b.end(t)

	// One that wants another login: it says so, and ZooKeeper is read.
	b = start(t, "serve", "--zookeeper", p.connect, "--database", p.db, "--listen", "127.0.0.1:0", "--session-timeout", "30s", "--timeout", "1m")
	b.stdout.await(t, "serving ")
	r = run(t, "topic", "list", "--zookeeper", z.connect)
	require.Contains(t, r.stdout, "order_topic")
	require.Contains(t, r.stderr, "what follows was read from ZooKeeper")
}
