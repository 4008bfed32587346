package cli_test

import (
	"fmt"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

const password = "correct horse battery"

// as logs in and returns how commands are given for that user.
func (p *platform) as(t *testing.T, name, once string) func(code int, stdin string, args ...string) result {
	t.Helper()
	home := filepath.Join(t.TempDir(), name)
	does := func(code int, stdin string, args ...string) result {
		t.Helper()
		t.Setenv("XDG_CONFIG_HOME", home)
		r := runWith(t, stdin, append(args, "--zookeeper", p.connect)...)
		require.Equal(t, code, r.code, "%v: %s%s", args, r.stdout, r.stderr)
		require.NotContains(t, r.stdout+r.stderr, password)
		return r
	}
	if once != "" {
		does(0, once+"\n"+password+"\n", "login", "--claim", "--name", name, "--timeout", "1m")
	} else {
		does(0, password+"\n", "login", "--name", name, "--timeout", "1m")
	}
	return does
}

// Two people by commands: a one-time token, users, a topic by request, four eyes, a migration, the audit.
func TestPeopleAndRequests(t *testing.T) {
	onKafkas(t, func(t *testing.T, p *platform) {
		b := start(t, "serve", "--zookeeper", p.connect, "--database", p.db, "--listen", "127.0.0.1:0", "--session-timeout", "30s", "--timeout", "1m")
		b.stdout.await(t, "serving ")
		once := regexp.MustCompile(`one-time token of the first administrator, good until \S+: (\S+)`).FindStringSubmatch(b.stdout.String())
		require.NotNil(t, once, b.stdout.String())
		t.Setenv("XDG_CONFIG_HOME", t.TempDir())
		require.Contains(t, p.refused(t, 3, "migrate", "list"), "log in")

		admin := p.as(t, "admin", once[1])
		require.Regexp(t, `user: +admin`, admin(0, "", "whoami").stdout)
		invite := func(name, role string) string {
			t.Helper()
			text := admin(0, "", "user", "create", name, "--role", role).stdout
			found := regexp.MustCompile(`one-time token: +(\S+)`).FindStringSubmatch(text)
			require.NotNil(t, found, text)
			return found[1]
		}
		bob, alice := p.as(t, "bob", invite("bob", "approver")), p.as(t, "alice", invite("alice", "applicant"))
		require.Regexp(t, `(?m)^alice +applicant +active`, admin(0, "", "user", "list").stdout)
		require.Contains(t, alice(3, "", "user", "list").stderr, "admin")

		require.Contains(t, alice(3, `{"topic":{"nam":"x"}}`, "request", "new", "-f", "-").stderr, `unknown field "nam"`)
		require.Contains(t, alice(3, `{"topic":{"name":"a/b","app":"x","partitions":1}}`, "request", "new", "-f", "-").stderr, "topic.name in --file: ")
		for _, name := range []string{"kafka-a", "kafka-b"} {
			doc := fmt.Sprintf(`{"cluster":{"name":%q,"kind":"kafka","addresses":[%q]}}`, name, p.Addresses(name)[0])
			id := decode[struct{ ID string }](t, bob(0, doc, "request", "new", "-f", "-", "-o", "json").stdout).ID
			require.Contains(t, bob(3, "", "request", "approve", id).stderr, "own")
			admin(0, "", "request", "approve", id, "--wait")
		}
		doc := `{"reason":"orders","topic":{"name":"order_topic","app":"order_service","partitions":2}}`
		id := decode[struct{ ID string }](t, alice(0, doc, "request", "new", "-f", "-", "-o", "json").stdout).ID
		require.Contains(t, alice(3, "", "request", "approve", id).stderr, "approve")
		require.Contains(t, bob(0, "", "request", "list", "--state", "submitted", "--others").stdout, "order_topic")
		bob(0, "", "request", "comment", id, "why two?")
		r := bob(0, "", "request", "approve", id, "--cluster", "kafka-a", "--note", "fine", "--wait")
		require.Contains(t, r.stderr, id+" done")
		require.Regexp(t, `state: +done`, r.stdout)
		require.Contains(t, alice(0, "", "request", "get", id).stdout, "why two?")
		require.Equal(t, "kafka-a", p.topic(t, "order_topic").InForce.Write)

		move := `{"migration":{"topic":"order_topic","to":"kafka-b","create":true}}`
		require.Contains(t, bob(3, "", "migrate", "start", "order_topic", "--to", "kafka-b", "--create").stderr, "turnout request new")
		id = decode[struct{ ID string }](t, alice(0, move, "request", "new", "-f", "-", "-o", "json").stdout).ID
		bob(0, "", "request", "approve", id, "--wait")
		require.Equal(t, "kafka-b", p.topic(t, "order_topic").InForce.Write)
		require.Contains(t, alice(0, "", "audit", "--request", id, "--action", "approve").stdout, "bob")

		require.Equal(t, 1, strings.Count(alice(0, "", "token", "list").stdout, "turnout login"))
		alice(0, "", "logout")
		require.Contains(t, alice(3, "", "request", "list").stderr, "log in")
		alice(3, "wrong wrong wrong\n", "login", "--name", "alice")
		alice(2, "", "login", "--name", "alice")
		admin(0, "", "user", "disable", "bob")
		bob(3, "", "request", "list")
		require.Equal(t, 0, b.end(t))
		require.NotContains(t, b.stderr.String(), password)
	})
}
