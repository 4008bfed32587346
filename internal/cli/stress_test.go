package cli_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/turnout-mq/turnout"
	"github.com/turnout-mq/turnout/shadow"
	"github.com/turnout-mq/turnout/testenv"
)

const (
	stressedApp   = "order_service_consumer"
	stressedGroup = "order_bil_group"
)

// stressDoc is the JSON of "stress run".
type stressDoc struct {
	Clean, Interrupted                        bool
	Reasons                                   []string
	ShadowTopic                               string
	Sent, Acknowledged, Failed, Bytes         int64
	RateAsked, RateHeld, LongestLateMS, P99MS float64
	Clusters                                  map[string]int64
	Errors                                    []struct {
		Kind, First string
		Count       int64
	}
	Groups []struct {
		Group                                 string
		EnabledBy                             []string
		Unread, Delayed, Retries, DeadLetters int64
		DrainedMS                             float64
	}
}

// stressed is a world with order_topic, which has a shadow topic, and the group that reads it.
func stressed(t *testing.T, w *world) {
	w.turnout(t, "topic", "put", "order_topic", "--cluster", "kafka-a", "--create", "--partitions", "2")
	w.turnout(t, "shadow", "topic", "order_topic", "--cluster", "kafka-b")
	w.turnout(t, "group", "put", stressedGroup, "--topic", "order_topic", "--app", stressedApp, "--retries", "0")
}

// received is what a listener got.
type received struct {
	mu       sync.Mutex
	marked   []*turnout.Delivery
	unmarked int
}

// listen subscribes the group as its application and enables its shadow group; fail is what the listener returns.
func (w *world) listen(t *testing.T, fail error) *received {
	t.Helper()
	got := &received{}
	sub, err := w.client(t, stressedApp).Subscribe(t.Context(), stressedGroup, func(ctx context.Context, d *turnout.Delivery) error {
		got.mu.Lock()
		defer got.mu.Unlock()
		if shadow.Marked(ctx) {
			got.marked = append(got.marked, d)
		} else {
			got.unmarked++
		}
		return fail
	})
	require.NoError(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	require.NoError(t, sub.Ready(ctx))
	r := run(t, "shadow", "enable", stressedApp, "task", stressedGroup, "--wait", "1m", "--zookeeper", w.connect)
	require.Equal(t, 0, r.code, r.stderr)
	return got
}

// bodies of what carried the stress mark, sorted.
func (r *received) bodies() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	var bodies []string
	for _, d := range r.marked {
		bodies = append(bodies, string(d.Body))
	}
	slices.Sort(bodies)
	return bodies
}

func (w *world) stress(t *testing.T, code int, args ...string) stressDoc {
	t.Helper()
	r := run(t, append([]string{"stress", "run", "--topic", "order_topic", "-o", "json", "--zookeeper", w.connect}, args...)...)
	d := decode[stressDoc](t, r.stdout)
	d.ended(t, code, r.code)
	return d
}

// ended sees that the exit code is the expected one, or that nothing is wrong but the rate: a machine that stands still in a short
// run does not hold it.
func (d stressDoc) ended(t *testing.T, want, code int) {
	t.Helper()
	require.Equal(t, code == 0, d.Clean)
	require.Equal(t, d.Clean, len(d.Reasons) == 0)
	if want == 0 && code == 7 {
		require.Len(t, d.Reasons, 1)
		require.Contains(t, d.Reasons[0], "the rate held was")
		return
	}
	require.Equal(t, want, code, "%+v", d)
}

func TestStressRunRefuses(t *testing.T) {
	z := startZooKeeper(t)
	for _, c := range []struct{ args, want string }{
		{"--rate 1 --count 1", "--topic is missing"},
		{"--topic t --count 1", "--rate 0"},
		{"--topic t --rate NaN --count 1", "--rate NaN"},
		{"--topic t --rate 100001 --count 1", "at most 100000"},
		{"--topic t --rate 1", "--count, --duration or both"},
		{"--topic t --rate 1 --count 0", "--count 0"},
		{"--topic t --rate 1 --count 100000001", "--count 100000001"},
		{"--topic t --rate 1 --count 100000", "more than 24h"},
		{"--topic t --rate 1 --duration 25h", "--duration 25h"},
		{"--topic t --rate 1 --count 1 --drain -1s", "--drain -1s"},
		{"--topic t --rate 1 --count 1 --from - --key k --tag x", "--from and --tag"},
		{"--topic t --rate 1 --count 1 --from /nowhere", "no such file"},
		{"--topic t --rate 1 --count 1 --key {{.Sequence}}", ".Seq .Time .Rand .UUID"},
		{"--topic t --rate 1 --count 1 --key {{", "is no template"},
		{"--topic t --rate 1 --count 1 --header nope", "name=value"},
	} {
		require.Contains(t, z.refused(t, 2, append([]string{"stress", "run"}, strings.Fields(c.args)...)...), c.want, c.args)
	}
	require.Contains(t, z.refused(t, 4, "stress", "run", "--topic", "t", "--rate", "1", "--count", "1"), "turnout topic list")
	for _, c := range []struct{ text, want string }{
		{"", "no message"},
		{`{"body":"a"}` + "\n" + `{"boddy":"a"}`, `:2: json: unknown field "boddy"; a line is like {"key"`},
		{`{"key":"a"}`, ":1: there is no body"},
	} {
		r := runWith(t, c.text, "stress", "run", "--topic", "t", "--rate", "1", "--count", "1", "--from", "-", "--zookeeper", z.connect)
		require.Equal(t, 3, r.code)
		require.Contains(t, r.stderr, c.want)
	}
}

func TestStressRun(t *testing.T) {
	eachWorld(t, func(t *testing.T, w *world) {
		w.turnout(t, "topic", "put", "order_topic", "--cluster", "kafka-a", "--create", "--partitions", "2")
		once := []string{"stress", "run", "--topic", "order_topic", "--rate", "100", "--count", "1"}
		require.Contains(t, w.refused(t, 3, once...), "create it with: turnout shadow topic order_topic")
		stressed(t, w)
		require.Contains(t, w.refused(t, 3, "stress", "run", "--topic", "shadow_order_topic", "--rate", "1", "--count", "1"), "is a shadow topic")

		// The shadow group is off: what is sent lies there, and that is said.
		r := run(t, append(once, "--zookeeper", w.connect)...)
		require.Contains(t, []int{0, 7}, r.code, r.stderr)
		require.Contains(t, r.stderr, "turnout shadow enable "+stressedApp+" TASK "+stressedGroup)
		require.Regexp(t, `(?m)^order_bil_group +- +1 +0 +0 +0 +no$`, r.stdout)

		got := w.listen(t, nil)
		d := w.stress(t, 0, "--rate", "200", "--count", "100", "--key", "k-{{.Rand 10}}", "--body", "n {{.Seq}}", "--header", "id={{.UUID}}", "--tag", "paid")
		require.Equal(t, "shadow_order_topic", d.ShadowTopic)
		require.Equal(t, []int64{100, 100, 0}, []int64{d.Sent, d.Acknowledged, d.Failed})
		require.Equal(t, map[string]int64{"kafka-b": 100}, d.Clusters)
		require.Positive(t, d.P99MS)
		require.Equal(t, []string{stressedApp + "/task"}, d.Groups[0].EnabledBy)
		require.Zero(t, d.Groups[0].Unread)
		require.GreaterOrEqual(t, d.Groups[0].DrainedMS, 0.0)
		want := []string{`{"stress":1}`} // of the first run
		for n := range 100 {
			want = append(want, fmt.Sprint("n ", n+1))
		}
		slices.Sort(want)
		require.Equal(t, want, got.bodies())
		require.Zero(t, got.unmarked)
		last := got.marked[len(got.marked)-1]
		require.Regexp(t, `^k-\d$`, string(last.Key))
		require.Equal(t, "paid", last.Tag)
		require.Equal(t, "id", last.Headers[0].Name)
		require.Len(t, last.Headers[0].Value, 36)

		// Nothing has come to production.
		require.Zero(t, w.group(t, stressedGroup).on("kafka-a").End["0"]+w.group(t, stressedGroup).on("kafka-a").End["1"])

		// By time, as text.
		r = run(t, "stress", "run", "--topic", "order_topic", "--rate", "100", "--duration", "1500ms", "--zookeeper", w.connect)
		if r.code == 0 {
			require.Contains(t, r.stdout, "Verdict: CLEAN: every send was acknowledged and the rate was held\n")
		} else { // on a machine that stood still
			require.Equal(t, 7, r.code, r.stderr)
			require.Contains(t, r.stdout, "Verdict: NOT CLEAN: the rate held was ")
		}
		require.Regexp(t, `(?m)^  sent +\d+   to shadow_order_topic in \d+\.\d s`, r.stdout)
	})
}

func TestStressRunFromAFile(t *testing.T) {
	eachWorld(t, func(t *testing.T, w *world) {
		stressed(t, w)
		w.turnout(t, "group", "put", "recorder", "--topic", "order_topic")
		w.turnout(t, "send", "order_topic", "one", "--key", "k", "--tag", "paid", "--header", "a=1")
		w.turnout(t, "send", "order_topic", "two")
		recorded := w.turnout(t, "tail", "recorder", "--count", "2", "-o", "json").stdout
		file := filepath.Join(t.TempDir(), "recorded.jsonl")
		require.NoError(t, os.WriteFile(file, []byte(recorded+"\n"+`{"body":"three"}`+"\n"), 0o600))
		got := w.listen(t, nil)
		d := w.stress(t, 0, "--rate", "100", "--count", "6", "--from", file)
		require.Equal(t, int64(6), d.Acknowledged)
		require.Equal(t, []string{"one", "one", "three", "three", "two", "two"}, got.bodies())
		for _, d := range got.marked {
			if string(d.Body) == "one" {
				require.Equal(t, "k", string(d.Key))
				require.Equal(t, "paid", d.Tag)
				require.Equal(t, []turnout.Header{{Name: "a", Value: "1"}}, d.Headers)
			}
		}
	})
}

func TestStressRunThatIsNotClean(t *testing.T) {
	eachWorld(t, func(t *testing.T, w *world) {
		stressed(t, w)
		w.listen(t, errors.New("refused by the listener"))
		d := w.stress(t, 7, "--rate", "100", "--count", "2")
		require.False(t, d.Clean)
		require.Contains(t, strings.Join(d.Reasons, "; "), "2 dead letters")
		require.Equal(t, int64(2), d.Groups[0].DeadLetters)

		// They are read as the shadow of an empty topic.
		w.turnout(t, "topic", "put", "dead", "--cluster", "kafka-b", "--create")
		w.turnout(t, "topic", "put", "shadow_dead", "--cluster", "kafka-b", "--name", "kafka-b=dlq_shadow_"+stressedGroup)
		w.turnout(t, "group", "put", "dead_look", "--topic", "dead")
		r := run(t, "shadow", "enable", "dead_look", "look", "dead_look", "--zookeeper", w.connect)
		require.Equal(t, 0, r.code, r.stderr)
		text := w.turnout(t, "tail", "dead_look", "--app", "dead_look", "--count", "2").stdout
		require.Contains(t, text, `stress mark  {"stress":1}`)
		require.Contains(t, text, `stress mark  {"stress":2}`)

		// They are not those of the next run. Sends that wait make it miss its rate.
		b := start(t, "stress", "run", "--topic", "order_topic", "--rate", "100", "--count", "400", "--drain", "0s", "-o", "json", "--zookeeper", w.connect)
		b.stderr.await(t, "sent ")
		w.hold(t, "shadow_order_topic", 5000)
		require.Equal(t, 7, b.wait(t), b.stderr.String())
		d = decode[stressDoc](t, b.stdout.String())
		require.Equal(t, int64(400), d.Acknowledged)
		require.Contains(t, strings.Join(d.Reasons, "; "), "of 100 a second")
		require.Less(t, d.RateHeld, 95.0)
		require.Greater(t, d.LongestLateMS, 500.0)

		w.hold(t, "shadow_order_topic", 0)

		// Sends that fail.
		b = start(t, "stress", "run", "--topic", "order_topic", "--rate", "50", "--duration", "1h", "--timeout", "2s", "-o", "json", "--zookeeper", w.connect)
		b.stderr.await(t, " s  sent ")
		require.NoError(t, w.Stop(t.Context(), "kafka-b"))
		eventually(t, func() bool { return failedSome.MatchString(b.stderr.String()) }, patience, shortly)
		require.NoError(t, w.Restart(t.Context(), "kafka-b"))
		require.Equal(t, 7, b.end(t), b.stderr.String())
		d = decode[stressDoc](t, b.stdout.String())
		require.Positive(t, d.Failed)
		require.Equal(t, d.Sent, d.Acknowledged+d.Failed)
		require.Equal(t, d.Failed, d.Errors[0].Count)
		require.Equal(t, "no answer within --timeout", d.Errors[0].Kind)
		require.NotEmpty(t, d.Errors[0].First)
		require.Contains(t, d.Reasons[0], "sends failed")
	})
}

var failedSome = regexp.MustCompile(`failed [1-9]`)

// hold makes sends to a topic wait, as a move would; 0: not any more.
func (w *world) hold(t *testing.T, topic string, ms int) {
	t.Helper()
	path := "/turnout/topics/" + topic + "/route"
	data, _, err := w.conn.Get(path)
	require.NoError(t, err)
	route := decode[map[string]any](t, string(data))
	route["hold"] = nil
	if ms > 0 {
		route["hold"] = map[string]int{"ms": ms}
	}
	data, err = json.Marshal(route)
	require.NoError(t, err)
	w.set(t, path, string(data))
}

func TestStressRunIsEndedInOrder(t *testing.T) {
	eachWorld(t, func(t *testing.T, w *world) {
		stressed(t, w)
		got := w.listen(t, nil)
		b := start(t, "stress", "run", "--topic", "order_topic", "--rate", "100", "--duration", "1h", "-o", "json", "--zookeeper", w.connect)
		b.stderr.await(t, " s  sent ")
		code := b.end(t)
		require.Regexp(t, `(?m)^ +\d+ s  sent \d+  \d+/s  failed 0  p50 \S+ ms  p99 \S+ ms  latest \S+ ms  unread .+$`, b.stderr.String())
		d := decode[stressDoc](t, b.stdout.String())
		d.ended(t, 0, code)
		require.True(t, d.Interrupted)
		require.Equal(t, d.Sent, d.Acknowledged)
		eventually(t, func() bool { return int64(len(got.bodies())) == d.Sent }, patience, shortly)
	})
}

// The shadow topic of a topic on Kafka is on RocketMQ.
func TestStressRunOnAnotherKind(t *testing.T) {
	spec := testenv.Spec{ZooKeeper: 1, Kafka: []string{"kafka-a"}, RocketMQ: []string{"rocketmq-a"}}
	environments.Each(t, spec, func(t *testing.T, e *testenv.Env) {
		w := newWorld(t, e, "kafka-a", "rocketmq-a")
		w.turnout(t, "topic", "put", "order_topic", "--cluster", "kafka-a", "--create", "--partitions", "2")
		w.turnout(t, "shadow", "topic", "order_topic", "--cluster", "rocketmq-a", "--timeout", "30s")
		w.turnout(t, "group", "put", stressedGroup, "--topic", "order_topic", "--app", stressedApp)
		got := w.listen(t, nil)
		d := w.stress(t, 0, "--rate", "50", "--count", "100", "--key", "k-{{.Seq}}", "--timeout", "30s")
		require.Equal(t, map[string]int64{"rocketmq-a": 100}, d.Clusters)
		require.Zero(t, d.Groups[0].Unread)
		require.Len(t, got.bodies(), 100)
		require.Equal(t, "rocketmq-a", w.shadowStatus(t, stressedApp, stressedGroup).Topics[0].Clusters[0].Cluster)
		r := run(t, "shadow", "disable", stressedApp, "task", stressedGroup, "--wait", "1m", "--zookeeper", w.connect)
		require.Equal(t, 0, r.code, r.stderr)
	})
}
