package rmqserver_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/turnout-mq/turnout/broker/rocketmq/remoting"
	"github.com/turnout-mq/turnout/testenv"
	"github.com/turnout-mq/turnout/testenv/rmqserver"
)

// TURNOUT_TEST_RECORD=1 writes the two files anew; with TURNOUT_TEST=servers both, else the page alone.
var (
	// recorded is what a real server, Apache RocketMQ 5.5.0, has said to the script.
	recorded = filepath.Join("testdata", "real.txt")
	// page has a table of what is equal here, and the example of the package.
	page = filepath.Join("..", "..", "docs", "embedded-rocketmq.md")
)

// families are the parts of the script, in the order in which they are played.
var families = []struct {
	name string
	play func(*script)
}{
	{"name server: route, clusters, keys, topic lists", (*script).nameServer},
	{"topics and permissions", (*script).topics},
	{"send: single, batch, one-way, compressed", (*script).sends},
	{"pull: hold, tag filter", (*script).pulls},
	{"offsets: positions, ends, by time, statistics", (*script).offsets},
	{"members and their notices", (*script).members},
	{"queue locks", (*script).locks},
	{"delay levels", (*script).delays},
	{"send-back, retries, dead letters", (*script).retries},
	{"transactions", (*script).transactions},
	{"messages by id and key", (*script).queries},
	{"odd requests", (*script).others},
	{"groups and settings", (*script).groups},
	{"what only tools ask", (*script).tools},
}

// differences are the lines in which this package answers otherwise, with the reason. A line begins with its name.
var differences = map[string]struct{ here, why string }{
	"its route":      {routeHere(6), "the route does not say `enableActingMaster`, which is about slaves"},
	"changed route":  {routeHere(4), "the same"},
	"delete a topic": {"0", "deleting succeeds; 5.5.0 without timer messages deletes and then answers with an error"},
	"names of the system": {"[BenchmarkTest CHECKPOINT_TOPIC OFFSET_MOVED_EVENT RMQ_SYS_TRACE_TOPIC RMQ_SYS_TRANS_HALF_TOPIC RMQ_SYS_TRANS_OP_HALF_TOPIC " +
		"SCHEDULE_TOPIC_XXXX SELF_TEST_TOPIC TBW102 TRANS_CHECK_MAX_TIME_TOPIC rocketmq-a rocketmq-a_REPLY_TOPIC]", "no topics of RocksDB, POP and slaves"},
}

func routeHere(perm int) string {
	return fmt.Sprintf(`{"brokerDatas":[{"brokerAddrs":{"0":"BROKER"},"brokerName":"rocketmq-a","cluster":"rocketmq-a"}],`+
		`"queueDatas":[{"brokerName":"rocketmq-a","perm":%d,"readQueueNums":4,"topicSysFlag":0,"writeQueueNums":2}]}`, perm)
}

// TestScriptHere plays the script here and compares it with what a real server has said. Whatever differs must be in
// differences, and the table of the documentation must say what came out.
func TestScriptHere(t *testing.T) {
	t.Parallel()
	c := start(t, rmqserver.BrokerOptions{Cluster: "rocketmq-a"})
	here, known := play(t, c.names.Addr()), map[string]bool{}
	was, err := os.ReadFile(recorded)
	require.NoError(t, err)
	said := strings.Split(strings.TrimSpace(string(was)), "\n")
	want := make([]string, len(said))
	table := "| requests | played | equal | otherwise here |\n| --- | --- | --- | --- |\n"
	played, equal, family, whys, total, totalEqual := 0, 0, "", []string(nil), 0, 0
	row := func() {
		if family != "" {
			table += fmt.Sprintf("| %s | %d | %d | %s |\n", family, played, equal, strings.Join(whys, "; "))
		}
		total, totalEqual, played, equal, whys = total+played, totalEqual+equal, 0, 0, nil
	}
	for i, line := range said {
		want[i] = line
		if name, found := strings.CutPrefix(line, headline); found {
			row()
			family = name
			continue
		}
		name, _, _ := strings.Cut(line, ": ")
		played++
		d, found := differences[name]
		if !found {
			equal++
			continue
		}
		known[name] = true
		want[i] = name + ": " + d.here
		whys = append(whys, name+": "+d.why)
		require.NotEqual(t, want[i], line, "no longer a difference")
	}
	row()
	table += fmt.Sprintf("| all | %d | %d | %d |\n", total, totalEqual, total-totalEqual)
	require.Equal(t, strings.Join(want, "\n"), strings.Join(here, "\n"))
	require.Len(t, known, len(differences), "differences that the script does not meet")

	onPage(t, "outcomes", table)
}

// TestExampleOnPage sees that the page shows the example that is run here.
func TestExampleOnPage(t *testing.T) {
	source, err := os.ReadFile("example_test.go")
	require.NoError(t, err)
	_, body, found := strings.Cut(string(source), "func Example() {")
	require.True(t, found)
	onPage(t, "example", "```go\nfunc Example() {"+body+"```\n")
}

// onPage checks, or writes, what the page has between two marks.
func onPage(t *testing.T, name, want string) {
	t.Helper()
	text, err := os.ReadFile(page)
	require.NoError(t, err)
	begin, end := "<!-- begin: "+name+" -->\n", "<!-- end: "+name+" -->\n"
	before, rest, begins := strings.Cut(string(text), begin)
	got, after, ends := strings.Cut(rest, end)
	require.True(t, begins && ends, "%s has no place for the %s", page, name)
	if os.Getenv("TURNOUT_TEST_RECORD") != "" {
		require.NoError(t, os.WriteFile(page, []byte(before+begin+want+end+after), 0o644))
		return
	}
	require.Equal(t, want, got, "TURNOUT_TEST_RECORD=1 writes it anew")
}

// TestScriptOnRealServers sees that what was recorded is what a real server says.
func TestScriptOnRealServers(t *testing.T) {
	testenv.EachOf(t, testenv.Spec{RocketMQ: []string{"rocketmq-a"}}, []testenv.Backend{testenv.Servers}, func(t *testing.T, e *testenv.Env) {
		got := play(t, e.Addresses("rocketmq-a")[0])
		if os.Getenv("TURNOUT_TEST_RECORD") != "" {
			require.NoError(t, os.WriteFile(recorded, []byte(strings.Join(got, "\n")+"\n"), 0o644))
		}
		was, err := os.ReadFile(recorded)
		require.NoError(t, err)
		require.Equal(t, strings.TrimSpace(string(was)), strings.Join(got, "\n"))
	})
}

// headline begins the lines that name the families.
const headline = "# "

// play plays the script on a cluster that is new, named as its broker rocketmq-a.
func play(t *testing.T, names string) []string {
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	s := &script{T: t, ctx: ctx, names: names, notices: make(chan string, 100)}
	s.client = remoting.NewClient(remoting.Options{Handler: func(_ string, r *remoting.Command) *remoting.Command {
		s.notices <- fmt.Sprint(r.Code, " ", r.Fields["consumerGroup"])
		return nil
	}})
	defer s.client.Close()
	info, err := s.client.ClusterInfo(ctx, names)
	require.NoError(t, err)
	s.broker = info.Brokers["rocketmq-a"].Master()
	for _, f := range families {
		s.lines = append(s.lines, headline+f.name)
		f.play(s)
	}
	return s.lines
}
