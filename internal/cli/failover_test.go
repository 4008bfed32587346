package cli_test

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/turnout-mq/turnout/testenv"
)

type serverDoc struct {
	URL    string
	Leader bool
	id     string
}

// servers are those that are registered, by id.
func (z *zooKeeper) servers(t *testing.T) (all []serverDoc) {
	t.Helper()
	ids, _, err := z.conn.Children("/turnout/admin/servers")
	require.NoError(t, err)
	slices.Sort(ids)
	for _, id := range ids {
		data, _, err := z.conn.Get("/turnout/admin/servers/" + id)
		if err != nil {
			continue // just gone
		}
		doc := serverDoc{id: id}
		require.NoError(t, json.Unmarshal(data, &doc))
		all = append(all, doc)
	}
	return all
}

type shardsDoc []struct {
	Job        string
	Resharding bool
	Shards     []struct {
		Index, Of                   int
		Instance, Running, Failover string
	}
}

// answer asks until a server answers: a server that stands still is not registered for a moment.
func answer[T any](t *testing.T, p *platform, args ...string) (doc T) {
	t.Helper()
	eventually(t, func() bool {
		r := run(t, append(args, "--zookeeper", p.connect, "--timeout", "1m", "-o", "json")...)
		if r.code == 0 {
			doc = decode[T](t, r.stdout)
		}
		return r.code == 0
	}, patience, 50*time.Millisecond, "%v", args)
	return doc
}

// settled says that all shards are divided among servers that are not this one, and among so many.
func (s shardsDoc) settled(gone string, servers int) bool {
	for _, job := range s {
		has := map[string]bool{}
		for _, shard := range job.Shards {
			if shard.Of == 0 || shard.Instance == "" || shard.Failover != "" || gone != "" && (shard.Instance == gone || shard.Running == gone) {
				return false
			}
			has[shard.Instance] = true
		}
		if job.Resharding || len(has) != servers {
			return false
		}
	}
	return true
}

// Three servers: the leader is killed in the middle of a migration, while the command line, which knows ZooKeeper only, lists topics. Another
// server finishes the migration, the shards of the dead one are taken over, and no list fails.
func TestThreeServersAndOneIsKilled(t *testing.T) {
	onKafkas(t, func(t *testing.T, p *platform) {
		if p.Backend() == testenv.Servers {
			sql, err := testenv.StartPostgres(t.Context(), nil)
			require.NoError(t, err)
			t.Cleanup(func() { require.NoError(t, sql.Close()) })
			p.db, err = sql.Database(t.Context())
			require.NoError(t, err)
		}
		processes := map[string]*process{} // by URL
		for range 3 {
			c := copied(t, "serve", "--no-login", "--zookeeper", p.connect, "--database", p.db, "--listen", "127.0.0.1:0", "--session-timeout", "4s", "--timeout", "1m", "--log-level", "debug")
			processes[strings.Fields(c.first)[1]] = c
		}
		shards := func() shardsDoc { return answer[shardsDoc](t, p, "fleet", "shards") }
		wake := p.sleeper(t)
		id := answer[migrationDoc](t, p, "migrate", "start", "order_topic", "--to", "kafka-b", "--create", "--accept", "all").ID
		eventually(t, func() bool {
			list := answer[[]migrationDoc](t, p, "migrate", "list")
			return len(list) == 1 && list[0].State == "draining"
		}, patience, 20*time.Millisecond, "draining")
		eventually(t, func() bool { return shards().settled("", 3) }, patience, 50*time.Millisecond, "each server has shards of each job")

		var leader serverDoc
		eventually(t, func() bool {
			all := p.servers(t)
			at := slices.IndexFunc(all, func(s serverDoc) bool { return s.Leader })
			if at >= 0 {
				leader = all[at]
			}
			return at >= 0 && len(all) == 3
		}, patience, 20*time.Millisecond, "one of three leads")

		lists := 100
		if testing.Short() {
			lists = 20
		}
		killed := make(chan struct{})
		var all sync.WaitGroup
		results := make([]result, lists)
		for worker := range 4 {
			all.Go(func() {
				for i := worker; i < lists; i += 4 {
					if i >= lists/4 {
						<-killed
					}
					results[i] = run(t, "topic", "list", "--zookeeper", p.connect, "-o", "json", "--timeout", "1m")
				}
			})
		}
		require.NoError(t, processes[leader.URL].Process.Kill())
		_ = processes[leader.URL].Wait()
		registered := slices.ContainsFunc(p.servers(t), func(s serverDoc) bool { return s.id == leader.id })
		close(killed)
		all.Wait()
		fromZooKeeper := 0
		for i, r := range results {
			require.Equal(t, 0, r.code, "list %d: %s", i, r.stderr)
			if r.stderr != "" { // no server answered, as when the machine stands still
				fromZooKeeper++
			}
			topics := decode[[]struct{ Name, Cluster, State string }](t, r.stdout)
			require.Len(t, topics, 1)
			require.Equal(t, "order_topic", topics[0].Name)
		}
		t.Logf("%d lists, none failed, %d read ZooKeeper; the dead server was registered when they went on: %v", lists, fromZooKeeper, registered)
		require.Less(t, fromZooKeeper, lists/2)
		// A server that had much to do when it last said so is asked after the others, so all of them may have gone to one.
		eventually(t, func() bool {
			answer[[]struct{ Name string }](t, p, "topic", "list")
			for url, c := range processes {
				if url != leader.URL && !strings.Contains(c.stderr.String(), `"path": "/api/v1/topics"`) {
					return false
				}
			}
			return true
		}, patience, 20*time.Millisecond, "those that are left take turns")

		eventually(t, func() bool { return shards().settled(leader.id, 2) }, patience, 50*time.Millisecond, "others have the shards of %s", leader.id)
		// What is made past the platform now is found wherever its shard is.
		var names []string
		for i := range 20 {
			names = append(names, fmt.Sprintf("past%02d", i))
			p.create(t, "/turnout/topics/"+names[i], `{"cluster":"kafka-a"}`)
		}
		eventually(t, func() bool {
			found := answer[[]struct{ Name string }](t, p, "drift", "list", "--what", "unknown", "--kind", "topic")
			n := 0
			for _, d := range found {
				if slices.Contains(names, d.Name) {
					n++
				}
			}
			return n == len(names)
		}, patience, 100*time.Millisecond, "all shards are compared")

		wake()
		watch := run(t, "migrate", "watch", id, "--zookeeper", p.connect, "--timeout", "1m")
		require.Equal(t, 0, watch.code, watch.stderr)
		require.Equal(t, 1, strings.Count(watch.stdout, "planned by"), "no event twice: %s", watch.stdout)
		receipt := answer[receiptDoc](t, p, "migrate", "receipt", id)
		require.Equal(t, "done", receipt.Outcome)
		require.True(t, receipt.Free, receipt.Verdict)
		for _, s := range p.servers(t) {
			require.NotEqual(t, leader.id, s.id)
		}
	})
}
