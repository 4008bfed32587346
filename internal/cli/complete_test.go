package cli_test

import (
	"regexp"
	"strings"
	"testing"
	"time"

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

// completes waits for names: on a machine that stands still there is not time enough for each question.
func completes(t *testing.T, want string, words ...string) {
	t.Helper()
	eventually(t, func() bool { return regexp.MustCompile(want).MatchString(completed(t, words...)) }, patience, 5*time.Millisecond, "%v is not completed to %s", words, want)
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
		completes(t, "^order_topic$", append(z, "topic", "get", "ord")...)
		completes(t, "^bill_topic\norder_topic$", append(z, "topic", "get", "")...)
		require.Empty(t, completed(t, append(z, "topic", "get", "order_topic", "")...), "it takes one")
		completes(t, "^bill_topic$", append(z, "migrate", "start", "order_topic", "")...) // it takes several
		completes(t, "^order_bil_group$", append(z, "tail", "")...)
		completes(t, "^kafka-a\nkafka-b$", append(z, "topic", "put", "x", "--cluster", "k")...)
		completes(t, "^kafka-b$", append(z, "migrate", "plan", "order_topic", "--to", "kafka-b")...)
		completes(t, "^json$", "topic", "list", "--output", "j")
		completes(t, "^topic$", "policy", "set", "to")

		// With a platform also what only that knows; and everything, where ZooKeeper is not known.
		b, info := p.serve(t)
		p.turnout(t, "migrate", "start", "order_topic", "--to", "kafka-b", "--create", "--by", "bob", "--accept", "all")
		completes(t, "m-1\tmove order_topic kafka-b ", append(z, "migrate", "pause", "m-")...)
		completes(t, "m-1\t", "migrate", "receipt", "--server", info.URL, "")
		t.Setenv("TURNOUT_SERVER", info.URL)
		completes(t, "order_topic", "topic", "get", "ord")
		completes(t, "order_bil_group", "fleet", "group", "")
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
