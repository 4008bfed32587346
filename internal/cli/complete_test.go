package cli_test

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// completed is what the shell is told, without the line that says how to go on.
func completed(t *testing.T, words ...string) string {
	t.Helper()
	r := run(t, append([]string{"__complete"}, words...)...)
	require.Equal(t, 0, r.code, r.stderr)
	require.NotContains(t, r.stderr, "turnout:")
	list, last, found := strings.Cut("\n"+r.stdout, "\n:")
	require.True(t, found, r.stdout)
	require.Contains(t, []string{"4", "0"}, strings.TrimSpace(last), "no files, or files alone")
	return strings.TrimPrefix(list, "\n")
}

func TestCompletion(t *testing.T) {
	for _, shell := range []string{"bash", "zsh", "fish"} {
		r := run(t, "completion", shell)
		require.Equal(t, 0, r.code, r.stderr)
		require.Contains(t, r.stdout, "__complete")
	}
	require.Contains(t, run(t, "--help").stdout, "completion")

	onKafkas(t, func(t *testing.T, p *platform) {
		p.turnout(t, "topic", "put", "order_topic", "--cluster", "kafka-a", "--create", "--app", "shop")
		p.turnout(t, "topic", "put", "bill_topic", "--cluster", "kafka-a", "--create")
		p.turnout(t, "group", "put", "order_bil_group", "--topic", "order_topic")
		z := []string{"--zookeeper", p.connect}
		require.Equal(t, "order_topic", completed(t, append(z, "topic", "get", "ord")...))
		require.Equal(t, "bill_topic\norder_topic", completed(t, append(z, "topic", "get", "")...))
		require.Empty(t, completed(t, append(z, "topic", "get", "order_topic", "")...), "it takes one")
		require.Equal(t, "bill_topic", completed(t, append(z, "migrate", "start", "order_topic", "")...), "it takes several")
		require.Equal(t, "order_bil_group", completed(t, append(z, "tail", "")...))
		require.Equal(t, "kafka-a\nkafka-b", completed(t, append(z, "topic", "put", "x", "--cluster", "k")...))
		require.Equal(t, "kafka-b", completed(t, append(z, "migrate", "plan", "order_topic", "--to", "kafka-b")...))
		require.Equal(t, "json", completed(t, "topic", "list", "--output", "j"))
		require.Equal(t, "topic", completed(t, "policy", "set", "to"))

		// With a platform also what only that knows; and everything, where ZooKeeper is not known.
		b, info := p.serve(t)
		p.turnout(t, "migrate", "start", "order_topic", "--to", "kafka-b", "--create", "--by", "bob", "--accept", "all")
		require.Contains(t, completed(t, append(z, "migrate", "pause", "m-")...), "m-1\tmove order_topic kafka-b ")
		require.Contains(t, completed(t, "migrate", "receipt", "--server", info.URL, ""), "m-1\t")
		t.Setenv("TURNOUT_SERVER", info.URL)
		require.Contains(t, completed(t, "topic", "get", "ord"), "order_topic")
		require.Contains(t, completed(t, "fleet", "group", ""), "order_bil_group")
		b.end(t)
	})

	// Nobody answers, or what was said is wrong: no names, and no error.
	t.Setenv("TURNOUT_SERVER", "http://127.0.0.1:1")
	require.Empty(t, completed(t, "topic", "get", ""))
	require.Empty(t, completed(t, "request", "get", ""))
	require.Empty(t, completed(t, "topic", "get", "--zookeeper", "127.0.0.1:1", ""))
	require.Empty(t, completed(t, "topic", "get", "--zookeeper-auth", "nonsense", ""))
	t.Setenv("TURNOUT_CONFIG", "/no/such/file")
	require.Empty(t, completed(t, "topic", "get", ""))
	require.Empty(t, completed(t, "check", ""), "files")
}
