package cli_test

import (
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/turnout-mq/turnout/admin/store"
)

// An edit by hand is shown by a server that runs, and each choice is one command.
func TestDriftCommands(t *testing.T) {
	z := startZooKeeper(t)
	p := &platform{&world{zooKeeper: z}, "sqlite:" + filepath.Join(t.TempDir(), "turnout.db")}
	p.serve(t)
	differs := func(what string) (d store.Drift) {
		t.Helper()
		eventually(t, func() bool {
			list := decode[[]store.Drift](t, z.turnout(t, "drift", "list", "--name", "kafka-a", "-o", "json").stdout)
			if len(list) != 1 || list[0].What != what {
				return false
			}
			d = list[0]
			return true
		}, patience, 50*time.Millisecond, what)
		return d
	}
	z.turnout(t, "cluster", "put", "kafka-a", "--kind", "kafka", "--address", "h1:9092")
	d := differs("unknown")
	require.Contains(t, z.refused(t, 3, "drift", "publish", d.ID), "none of its choices")
	require.Contains(t, z.refused(t, 2, "drift", "ignore", d.ID), "--reason")
	require.Contains(t, z.turnout(t, "drift", "ignore", d.ID, "--reason", "later").stdout, "later")
	require.NotContains(t, z.turnout(t, "drift", "list", "--open").stdout, "kafka-a")
	require.Contains(t, z.turnout(t, "drift", "adopt", d.ID).stdout, "adopted")
	require.Contains(t, z.refused(t, 4, "drift", "get", d.ID), "no difference")

	z.turnout(t, "cluster", "put", "kafka-a", "--address", "h2:9092")
	d = differs("edited")
	require.Contains(t, z.turnout(t, "drift", "get", d.ID).stdout, "h2:9092")
	require.Contains(t, z.turnout(t, "drift", "publish", d.ID).stdout, "published")
	require.Contains(t, z.turnout(t, "cluster", "get", "kafka-a").stdout, "h1:9092")
}
