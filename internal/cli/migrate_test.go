package cli_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/turnout-mq/turnout"
	"github.com/turnout-mq/turnout/broker"
	"github.com/turnout-mq/turnout/testenv"
)

// platform is a world that a server of the platform manages.
type platform struct {
	*world
	db string
}

// newPlatform begins no server.
func newPlatform(t *testing.T, w *world) *platform {
	return &platform{w, "sqlite:" + filepath.Join(t.TempDir(), "turnout.db")}
}

type info struct{ ID, URL, Store string }

// serve starts a server in this process and returns when it answers.
func (p *platform) serve(t *testing.T, args ...string) (*background, info) {
	t.Helper()
	b := start(t, append([]string{"serve", "--zookeeper", p.connect, "--database", p.db, "--listen", "127.0.0.1:0", "--session-timeout", "30s", "--timeout", "1m", "-o", "json", "--no-login"}, args...)...)
	b.stdout.await(t, "}\n")
	return b, decode[info](t, b.stdout.String())
}

func onKafkas(t *testing.T, f func(t *testing.T, p *platform)) {
	environments.Each(t, testenv.Spec{ZooKeeper: 1, Kafka: []string{"kafka-a", "kafka-b"}}, func(t *testing.T, e *testenv.Env) {
		f(t, newPlatform(t, newWorld(t, e, "kafka-a", "kafka-b")))
	})
}

// traffic is an application that sends and one that receives, until stop.
type traffic struct {
	mu       sync.Mutex
	sent     map[string]bool // ids
	received map[string]bool
	failed   []error
	on       map[string]int // messages sent, by cluster

	cancel context.CancelFunc
	done   sync.WaitGroup
	client *turnout.Client
}

func (w *world) traffic(t *testing.T, topic, group string) *traffic {
	t.Helper()
	client, err := turnout.Open(t.Context(), turnout.Config{App: "order_service", ZooKeeper: w.connect, SnapshotDir: t.TempDir()})
	require.NoError(t, err)
	tr := &traffic{sent: map[string]bool{}, received: map[string]bool{}, on: map[string]int{}, client: client}
	_, err = client.Subscribe(t.Context(), group, func(_ context.Context, d *turnout.Delivery) error {
		tr.mu.Lock()
		defer tr.mu.Unlock()
		tr.received[d.ID] = true
		return nil
	})
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	tr.cancel = cancel
	tr.done.Go(func() {
		tick := time.NewTicker(5 * time.Millisecond)
		defer tick.Stop()
		for i := 0; ; i++ {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
			limited, stop := context.WithTimeout(context.WithoutCancel(ctx), patience)
			r, err := client.Send(limited, topic, &turnout.Message{Key: fmt.Appendf(nil, "k%d", i%8), Body: []byte("x")})
			stop()
			tr.mu.Lock()
			if err != nil {
				tr.failed = append(tr.failed, err)
			} else {
				tr.sent[r.ID] = true
				tr.on[r.Cluster]++
			}
			tr.mu.Unlock()
		}
	})
	t.Cleanup(func() {
		tr.cancel()
		tr.done.Wait()
		require.NoError(t, client.Close(context.WithoutCancel(t.Context())))
	})
	return tr
}

// await waits until so many messages were sent to a cluster.
func (tr *traffic) await(t *testing.T, cluster string, n int) {
	t.Helper()
	eventually(t, func() bool {
		tr.mu.Lock()
		defer tr.mu.Unlock()
		return tr.on[cluster] >= n
	}, patience, 5*time.Millisecond, "sends to %s", cluster)
}

// complete ends the sender and demands that everything sent was received and no send failed.
func (tr *traffic) complete(t *testing.T) {
	t.Helper()
	tr.cancel()
	tr.done.Wait()
	require.Empty(t, tr.failed)
	eventually(t, func() bool {
		tr.mu.Lock()
		defer tr.mu.Unlock()
		for id := range tr.sent {
			if !tr.received[id] {
				return false
			}
		}
		return true
	}, patience, 10*time.Millisecond, "a message was lost")
}

type planDoc struct {
	Topic, To    string
	Ordered      bool
	HoldMS       int64 `json:"holdMs"`
	Participants []string
	Findings     []struct {
		Code, Level, Text, Remedy string
		Accepted                  bool
	}
}

type migrationDoc struct {
	ID, Topic, Target, State, Outcome, StartedBy, Waiting, Request string
	Paused, Ordered                                                bool
	EndedAt                                                        *time.Time
}

// sightDoc is a line of "migrate watch --output json".
type sightDoc struct {
	Migration    migrationDoc
	Participants []struct {
		ID    string
		Acked bool
	}
	Clusters []struct {
		Cluster string
		Write   bool
		Stored  int64
		Lag     map[string]int64
	}
	PerSecond map[string]float64
	Events    []struct {
		Seq        int64
		Kind, Text string
	}
	Receipt *receiptDoc
}

type receiptDoc struct {
	Migration, Topic, Outcome, To, StartedBy, NoOrder string
	Ordered, Free                                     bool
	Verdict                                           []string
	Left                                              []struct {
		Cluster string
		Groups  map[string]broker.Offsets
	}
}

func TestMigrateMovesATopicUnderTraffic(t *testing.T) {
	for _, order := range []string{"none", "key"} {
		t.Run(order, func(t *testing.T) {
			onKafkas(t, func(t *testing.T, p *platform) {
				_, at := p.serve(t)
				require.Regexp(t, `^http://127\.0\.0\.1:\d+$`, at.URL)
				p.turnout(t, "topic", "put", "order_topic", "--cluster", "kafka-a", "--create", "--partitions", "2", "--order", order)
				p.turnout(t, "group", "put", "order_bil_group", "--topic", "order_topic", "--order", order)
				tr := p.traffic(t, "order_topic", "order_bil_group")
				tr.await(t, "kafka-a", 50)

				// Without the topic on the other cluster: refused, with what to do.
				r := run(t, "migrate", "plan", "order_topic", "--to", "kafka-b", "--zookeeper", p.connect)
				require.Equal(t, 3, r.code, r.stderr)
				require.Regexp(t, `(?m)^error +no-topic +kafka-b has no topic order_topic +create it, or give --create$`, r.stdout)
				require.Contains(t, r.stdout, "correct the errors; then start it with:\n  turnout migrate start order_topic --to kafka-b")
				says := p.refused(t, 3, "migrate", "start", "order_topic", "--to", "kafka-b")
				require.Contains(t, says, "kafka-b has no topic order_topic")

				// With it: the command is printed and does it.
				plan := decode[planDoc](t, run(t, "migrate", "plan", "order_topic", "--to", "kafka-b", "--create", "-o", "json", "--zookeeper", p.connect).stdout)
				require.Equal(t, order == "key", plan.Ordered)
				require.Equal(t, int64(3000), plan.HoldMS)
				require.Len(t, plan.Participants, 1)
				args := []string{"migrate", "start", "order_topic", "--to", "kafka-b", "--create", "--by", "bob"}
				for _, f := range plan.Findings {
					require.NotEqual(t, "error", f.Level, f.Text)
					if f.Level == "warning" {
						args = append(args, "--accept", f.Code)
					}
				}
				watch := p.turnout(t, append(args, "--watch")...)
				require.Contains(t, watch.stdout, "planned by bob")
				require.Contains(t, watch.stdout, "ended: done")
				require.Regexp(t, `(?m)^kafka-a can be switched off for this topic`, watch.stdout)
				require.Regexp(t, `(?m)^\d\d:\d\d:\d\d\.\d{3}  \w+; kafka-a`, watch.stdout)
				tr.await(t, "kafka-b", 50)

				list := decode[[]migrationDoc](t, p.turnout(t, "migrate", "list", "-o", "json").stdout)
				require.Len(t, list, 1)
				id := list[0].ID
				require.Equal(t, "done", list[0].Outcome)
				require.Equal(t, "bob", list[0].StartedBy)
				require.Equal(t, "[]\n", p.turnout(t, "migrate", "list", "--open", "-o", "json").stdout)
				require.Equal(t, "[]\n", p.turnout(t, "migrate", "list", "--topic", "bil_topic", "-o", "json").stdout)
				require.Regexp(t, `(?m)^`+id+` +order_topic +kafka-b +move.* +done +done +\S+ \S+ +bob +-$`, p.turnout(t, "migrate", "list").stdout)

				receipt := decode[receiptDoc](t, p.turnout(t, "migrate", "receipt", id, "-o", "json").stdout)
				require.True(t, receipt.Free, receipt.Verdict)
				require.Equal(t, order == "key", receipt.Ordered)
				require.Empty(t, receipt.NoOrder)
				require.Len(t, receipt.Left, 1)
				require.Contains(t, receipt.Left[0].Groups, "order_bil_group")
				text := p.turnout(t, "migrate", "receipt", id).stdout
				require.Regexp(t, `^kafka-a can be switched off for this topic`, text)
				require.Regexp(t, `(?m)^left: +kafka-a$`, text)
				require.Regexp(t, `(?m)^  group order_bil_group: +\[`, text)

				// Watching one that has ended is one document with everything.
				sight := decode[sightDoc](t, p.turnout(t, "migrate", "watch", id, "-o", "json").stdout)
				require.Equal(t, "done", sight.Migration.State)
				require.NotNil(t, sight.Receipt)
				require.Equal(t, int64(1), sight.Events[0].Seq)
				tr.complete(t)

				// What has ended takes no requests; what is not there is not found.
				require.Contains(t, p.refused(t, 5, "migrate", "rollback", id), "has ended")
				for _, what := range []string{"watch", "receipt", "pause", "resume", "abort", "rollback"} {
					require.Contains(t, p.refused(t, 4, "migrate", what, "m-99"), "turnout migrate list")
				}
				require.Contains(t, p.refused(t, 3, "migrate", "start", "order_topic", "--to", "kafka-b"), "is on kafka-b already")
				require.Contains(t, p.refused(t, 4, "migrate", "start", "order_topic", "--to", "kafka-x"), "kafka-x")
				require.Contains(t, p.refused(t, 4, "migrate", "start", "no_topic", "--to", "kafka-a"), "no_topic")
			})
		})
	}
}

// The cluster dies: its topics are forced away from it, one by one and in a batch, and are free of it when it is back.
func TestMigrateByForce(t *testing.T) {
	onKafkas(t, func(t *testing.T, p *platform) {
		p.serve(t)
		for _, topic := range []string{"order_topic", "bil_topic", "pay_topic"} {
			p.turnout(t, "topic", "put", topic, "--cluster", "kafka-a", "--create", "--partitions", "2")
		}
		p.turnout(t, "group", "put", "order_bil_group", "--topic", "order_topic")
		tr := p.traffic(t, "order_topic", "order_bil_group")
		tr.await(t, "kafka-a", 50)

		r := run(t, "migrate", "plan", "order_topic", "--to", "kafka-b", "--create", "--partitions", "2", "--force", "--zookeeper", p.connect)
		require.Equal(t, 3, r.code, r.stderr)
		require.Regexp(t, `(?m)^warning +source-answers +kafka-a answers from here`, r.stdout)
		require.Contains(t, r.stdout, "turnout migrate start order_topic --to kafka-b --create --partitions 2 --force --accept source-answers")

		require.NoError(t, p.Env.Kill(t.Context(), "kafka-a"))
		shown, says := p.blocked(t, 3, "migrate", "start", "order_topic", "--to", "kafka-b")
		require.Regexp(t, `(?m)^error +unreachable .*turnout migrate start order_topic --to kafka-b --force`, shown)
		require.Contains(t, says, "topic order_topic can not be moved to kafka-b now: correct the errors; then start it with: turnout migrate start order_topic --to kafka-b")
		require.Contains(t, p.refused(t, 3, "migrate", "start", "order_topic", "--to", "kafka-b", "-o", "json"), "kafka-b has no topic order_topic (create it, or give --create)")
		watch := start(t, "migrate", "start", "order_topic", "--to", "kafka-b", "--create", "--partitions", "2", "--force", "--watch", "--zookeeper", p.connect)
		tr.await(t, "kafka-b", 50)
		watch.stdout.await(t, "pending: everybody sends to kafka-b; kafka-a is waited for")
		batch := p.turnout(t, "migrate", "start", "order_topic", "bil_topic", "pay_topic", "--to", "kafka-b", "--create", "--partitions", "2", "--force", "--parallel", "1")
		require.Contains(t, batch.stdout, "order_topic: is there already")
		require.Regexp(t, `(?m)^pay_topic: m-\d+ sends go to kafka-b after .* \(3 of 3\)$`, batch.stdout)
		require.Contains(t, batch.stdout, "all 3 topics are on kafka-b")
		require.Regexp(t, `(?m)^m-\d+ +order_topic +kafka-b +move.* +pending`, p.turnout(t, "migrate", "list", "--open").stdout)

		require.NoError(t, p.Env.Restart(t.Context(), "kafka-a"))
		watch.stdout.await(t, "kafka-a can be switched off for this topic")
		require.Contains(t, watch.stdout.String(), "did not answer from")
		require.Contains(t, watch.stdout.String(), "kafka-a answers again, after")
		tr.complete(t)
		eventually(t, func() bool { return p.turnout(t, "migrate", "list", "--open", "-o", "json").stdout == "[]\n" }, patience, 50*time.Millisecond, "all have ended")
	})
}

// A part of the keys goes first, more of them, and then everything.
func TestMigrateWithACanary(t *testing.T) {
	onKafkas(t, func(t *testing.T, p *platform) {
		p.serve(t)
		p.turnout(t, "topic", "put", "order_topic", "--cluster", "kafka-a", "--create", "--partitions", "2")
		p.turnout(t, "group", "put", "order_bil_group", "--topic", "order_topic")
		tr := p.traffic(t, "order_topic", "order_bil_group")
		tr.await(t, "kafka-a", 50)
		plan := p.turnout(t, "migrate", "plan", "order_topic", "--to", "kafka-b", "--create", "--canary-keys", "0-65535", "--accept", "all")
		require.Contains(t, plan.stdout, "first keys 0-65535 (100.0 % of them)")
		require.Contains(t, plan.stdout, "--canary-keys 0-65535")
		watch := start(t, "migrate", "start", "order_topic", "--to", "kafka-b", "--create", "--canary", "10%", "--accept", "all", "--watch", "--zookeeper", p.connect)
		watch.stdout.await(t, "10 % of the instances go to kafka-b")
		tr.await(t, "kafka-b", 20)
		require.Contains(t, p.turnout(t, "migrate", "promote", "m-1", "--canary-keys", "0-65535", "--by", "alice").stdout, "keys 0-65535 (100.0 % of them) are to go there")
		watch.stdout.await(t, "now keys 0-65535")
		require.Contains(t, p.turnout(t, "migrate", "promote", "m-1", "--by", "bob").stdout, "everything follows its canary")
		watch.stdout.await(t, "kafka-a can be switched off for this topic")
		receipt := p.turnout(t, "migrate", "receipt", "m-1").stdout
		require.Regexp(t, `canary: +10 % of the instances, by .* keys 0-65535 .*asked for by alice`, receipt)
		require.Regexp(t, `canary: +keys 0-65535 .*, by alice, .*promoted by bob`, receipt)
		p.refused(t, 5, "migrate", "promote", "m-1")
		tr.complete(t)
	})
}

func TestMigrateUsage(t *testing.T) {
	z := startZooKeeper(t)
	for _, c := range []struct {
		args []string
		says string
	}{
		{[]string{"migrate"}, "plan, "},
		{[]string{"migrate", "plan", "order_topic"}, "--to"},
		{[]string{"migrate", "start", "--to", "kafka-b"}, "--topics-file"},
		{[]string{"migrate", "start", "order_topic", "--to", "kafka-b", "--canary", "0%"}, "--canary"},
		{[]string{"migrate", "start", "order_topic", "--to", "kafka-b", "--canary-keys", "7"}, "--canary-keys"},
		{[]string{"migrate", "start", "order_topic", "--to", "kafka-b", "--canary", "5", "--canary-keys", "0-7"}, "one of"},
		{[]string{"migrate", "start", "a", "b", "--to", "kafka-b", "--canary", "5"}, "each topic by itself"},
		{[]string{"migrate", "promote"}, "arg"},
		{[]string{"migrate", "start", "t", "--to", "kafka-b", "--partitions", "3"}, "--create"},
		{[]string{"migrate", "start", "t", "--to", "kafka-b", "--hold", "2m"}, "--hold"},
		{[]string{"migrate", "start", "t", "u", "--to", "kafka-b", "--parallel", "0"}, "--parallel"},
		{[]string{"migrate", "start", "t", "--to", "kafka-b", "--topics-file", "/no/such/file"}, "--topics-file"},
		{[]string{"migrate", "list", "--limit", "0"}, "--limit"},
		{[]string{"migrate", "list", "--server", "localhost:7070"}, "--server"},
		{[]string{"migrate", "list", "--token-file", "/no/such/file"}, "--token-file"},
		{[]string{"serve", "--log-level", "loud"}, "--log-level"},
		{[]string{"serve", "--database", "sqlite:x", "--data-dir", "y"}, "--data-dir"},
	} {
		require.Contains(t, z.refused(t, 2, c.args...), c.says, c.args)
	}
	r := run(t, "migrate", "list")
	require.Equal(t, 2, r.code)
	require.Contains(t, r.stderr, "TURNOUT_SERVER")
	require.Contains(t, z.refused(t, 4, "migrate", "list"), "turnout serve")
	require.Contains(t, z.refused(t, 1, "migrate", "list", "--server", "http://127.0.0.1:1"), "no server of the platform answers")
	// What is not acceptable for a server.
	require.Contains(t, z.refused(t, 2, "serve", "--data-dir", t.TempDir(), "--listen", "0.0.0.0:0", "--no-login"), "--no-login")
	require.Contains(t, z.refused(t, 2, "serve", "--data-dir", t.TempDir(), "--proxy", "nowhere"), "--proxy")
	require.Contains(t, z.refused(t, 2, "serve", "--data-dir", t.TempDir(), "--listen", "nowhere"), "host:port")
	require.Contains(t, z.refused(t, 2, "serve", "--data-dir", t.TempDir(), "--url", "nowhere"), "http://")
	require.Contains(t, z.refused(t, 3, "serve", "--database", "mysql:x", "--listen", "127.0.0.1:0"), "sqlite:PATH")
	t.Setenv("TURNOUT_TOKEN", "two words")
	says := z.refused(t, 2, "migrate", "list")
	require.Contains(t, says, "TURNOUT_TOKEN")
	require.NotContains(t, says, "two words")
}

func TestTopicPutDoesNotMovePastAPlatform(t *testing.T) {
	onKafkas(t, func(t *testing.T, p *platform) {
		p.turnout(t, "topic", "put", "order_topic", "--cluster", "kafka-a", "--create")
		p.turnout(t, "topic", "put", "order_topic", "--cluster", "kafka-b", "--create") // nobody manages it yet
		b, _ := p.serve(t)
		// The platform settles what that move left behind.
		eventually(t, func() bool {
			list := decode[[]migrationDoc](t, p.turnout(t, "migrate", "list", "-o", "json").stdout)
			return len(list) == 1 && list[0].Outcome == "done"
		}, patience, 50*time.Millisecond)
		require.Equal(t, 0, b.end(t))

		for _, args := range [][]string{nil, {"--dry-run"}} {
			says := p.refused(t, 3, append([]string{"topic", "put", "order_topic", "--cluster", "kafka-a"}, args...)...)
			require.Contains(t, says, "turnout migrate start order_topic --to kafka-a")
			require.Contains(t, says, "--force")
		}
		require.Equal(t, "kafka-b", p.topic(t, "order_topic").InForce.Write)
		// What does not move it, and new topics, are as before.
		p.turnout(t, "topic", "put", "order_topic", "--cluster", "kafka-b", "--order", "key")
		p.turnout(t, "topic", "put", "order_topic", "--app", "order_service")
		p.turnout(t, "topic", "put", "bil_topic", "--cluster", "kafka-a", "--create")
		// The old cluster is closed to writers, and a put does not open it; a third one is not.
		require.Contains(t, p.refused(t, 3, "topic", "put", "order_topic", "--cluster", "kafka-a", "--force"), "refuses writers")
		p.turnout(t, "topic", "put", "bil_topic", "--cluster", "kafka-b", "--create", "--force")
		require.Equal(t, "kafka-b", p.topic(t, "bil_topic").InForce.Write)
	})
}

func TestServeRefusesAForeignStore(t *testing.T) {
	onKafkas(t, func(t *testing.T, p *platform) {
		p.turnout(t, "topic", "put", "order_topic", "--cluster", "kafka-a", "--create")
		b, _ := p.serve(t)
		p.turnout(t, "migrate", "start", "order_topic", "--to", "kafka-b", "--create", "--accept", "all", "--watch")
		require.Equal(t, 0, b.end(t))
		other := "sqlite:" + filepath.Join(t.TempDir(), "other.db")
		says := run(t, "serve", "--no-login", "--zookeeper", p.connect, "--database", other, "--listen", "127.0.0.1:0")
		require.Equal(t, 5, says.code, says.stderr)
		require.Contains(t, says.stderr, "--adopt")
		says = run(t, "serve", "--no-login", "--zookeeper", p.connect, "--root", "/elsewhere", "--database", p.db, "--listen", "127.0.0.1:0")
		require.Equal(t, 5, says.code, says.stderr)
		require.Contains(t, says.stderr, "--adopt")
		b, _ = p.serve(t) // the right one
		require.Equal(t, 0, b.end(t))
		p.db = other
		b, _ = p.serve(t, "--adopt")
		require.Equal(t, 0, b.end(t))
		b, _ = p.serve(t)
		require.Equal(t, 0, b.end(t))
	})
}

func TestMigrateBatch(t *testing.T) {
	onKafkas(t, func(t *testing.T, p *platform) {
		p.serve(t)
		const n = 50
		var names []string
		for i := range n {
			name := fmt.Sprintf("batch_%02d", i)
			names = append(names, name)
			p.turnout(t, "topic", "put", name, "--cluster", "kafka-a", "--create", "--partitions", "1")
		}
		file := filepath.Join(t.TempDir(), "topics.txt")
		list := func(names []string) {
			require.NoError(t, os.WriteFile(file, []byte("# all of them\n"+strings.Join(names, "\n")), 0o600))
		}
		type outcome struct {
			Done              []struct{ Topic, Migration, Outcome string }
			Failed            []struct{ Topic, Migration, Error string }
			Running, NotBegun []any
		}
		batch := func(code int, args ...string) outcome {
			r := run(t, append([]string{"migrate", "start", "--topics-file", file, "--to", "kafka-b", "--create", "--zookeeper", p.connect, "-o", "json", "--accept", "auto-create"}, args...)...)
			require.Equal(t, code, r.code, r.stderr)
			return decode[outcome](t, r.stdout)
		}

		// One that can not be moved stops it: what runs beside it is finished, nothing more is begun.
		broken := append(append(append([]string{}, names[:10]...), "no_topic"), names[10:]...)
		list(broken)
		o := batch(4, "--parallel", "4")
		require.Len(t, o.Failed, 1)
		require.Equal(t, "no_topic", o.Failed[0].Topic)
		require.Contains(t, o.Failed[0].Error, "no_topic")
		require.Empty(t, o.Running)
		require.NotEmpty(t, o.NotBegun)
		require.Len(t, broken, len(o.Done)+len(o.Failed)+len(o.NotBegun))
		require.GreaterOrEqual(t, len(o.Done), 10)
		for _, d := range o.Done {
			require.Equal(t, "done", d.Outcome)
			require.Equal(t, "kafka-b", p.topic(t, d.Topic).InForce.Write)
		}
		require.Equal(t, "kafka-a", p.topic(t, names[n-1]).InForce.Write)

		// Repeated without it: those that are there count as done.
		list(names)
		again := batch(0)
		require.Len(t, again.Done, n)
		there := 0
		for _, d := range again.Done {
			if d.Migration == "" {
				there++
			}
		}
		require.Equal(t, len(o.Done), there)
		require.Len(t, decode[[]migrationDoc](t, p.turnout(t, "migrate", "list", "-o", "json").stdout), n)

		// In text, with the first failure's exit code; a topic named twice is refused at once.
		r := run(t, "migrate", "start", "batch_00", "batch_01", "--to", "kafka-a", "--parallel", "1", "--zookeeper", p.connect, "--accept", "all")
		require.Equal(t, 0, r.code, r.stderr)
		require.Regexp(t, `(?m)^batch_01: m-\d+ done after \d+\.\d s \(2 of 2\)$`, r.stdout)
		require.Contains(t, p.refused(t, 3, "migrate", "start", "batch_00", "batch_00", "--to", "kafka-a"), "twice")
	})
}
