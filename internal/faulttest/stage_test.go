package faulttest

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-zookeeper/zk"
	"github.com/stretchr/testify/require"

	"github.com/turnout-mq/turnout"
	"github.com/turnout-mq/turnout/broker"
	"github.com/turnout-mq/turnout/broker/drivers"
	"github.com/turnout-mq/turnout/internal/scene"
	"github.com/turnout-mq/turnout/metadata"
	"github.com/turnout-mq/turnout/testenv"
	"github.com/turnout-mq/turnout/testenv/history"
)

const (
	patience = 3 * time.Minute // for what takes a second on a quiet machine; RocketMQ misses a member that hangs after two minutes
	poll     = 50 * time.Millisecond
)

// stages counts them, for names that no two have.
var stages atomic.Int64

// stage is one topic with its group on an environment, and the applications that use it.
type stage struct {
	t        *testing.T
	env      *testenv.Env
	clusters []string // that have the topic; it begins on the first
	root     string
	topic    string
	groups   []string            // the first is there from the beginning
	missing  map[string][]string // by group, the senders whose messages it is not to get: they were there before it
	ordered  bool                // the topic keeps the order per key
	forgot   string              // cluster that has lost positions that nobody stores again
	allow    []history.Rule      // what the case explains
	store    *metadata.Store
	brokers  map[string]broker.Cluster
	dir      string
	follow   *history.Follower
	events   []history.Event
	running  []*scene.Process
	roles    map[*scene.Process]scene.Role
	killed   []string
}

func newStage(t *testing.T, env *testenv.Env, clusters ...string) *stage {
	t.Helper()
	n := stages.Add(1)
	s := &stage{t: t, env: env, clusters: clusters, root: fmt.Sprintf("/stage%d", n), topic: fmt.Sprintf("order_topic_%d", n),
		groups: []string{fmt.Sprintf("order_bil_group_%d", n)}, brokers: map[string]broker.Cluster{}, dir: filepath.Join(t.ArtifactDir(), strconv.FormatInt(n, 10)),
		roles: map[*scene.Process]scene.Role{}, missing: map[string][]string{}}
	require.NoError(t, os.MkdirAll(scene.HistoryDir(s.dir), 0o755))
	s.follow = history.NewFollower(scene.HistoryDir(s.dir))
	store, err := metadata.Open(metadata.Config{ZooKeeper: env.ZooKeeper(), Root: s.root, SessionTimeout: time.Minute})
	require.NoError(t, err)
	s.store = store
	t.Cleanup(func() { require.NoError(t, store.Close(context.Background())) })
	for _, name := range clusters {
		c := metadata.Cluster{Kind: broker.Kind(env.Kind(name)), Addresses: env.Addresses(name), ClusterID: env.ClusterID(name)}
		if c.Kind == broker.Kafka { // a member that was killed is noticed soon
			c.Properties = map[string]string{"session.timeout": "3s", "heartbeat": "300ms", "rebalance.timeout": "5s"}
		}
		require.NoError(t, store.PutCluster(s.ctx(), name, c))
		s.brokers[name], err = drivers.Open(s.ctx(), broker.Config{Name: name, Kind: c.Kind, Addresses: c.Addresses, ClientID: "faulttest" + s.root[1:]})
		require.NoError(t, err)
		t.Cleanup(func() { require.NoError(t, s.brokers[name].Close(context.Background())) })
		require.NoError(t, s.brokers[name].CreateTopic(s.ctx(), s.topic, broker.TopicSpec{Partitions: 4}))
	}
	_, err = store.PutTopic(s.ctx(), s.topic, metadata.PutTopic{Cluster: clusters[0]})
	require.NoError(t, err)
	g := metadata.DefaultGroup()
	g.Topics = []string{s.topic}
	require.NoError(t, store.PutGroup(s.ctx(), s.groups[0], g))
	t.Cleanup(s.explain)
	return s
}

// ctx ends with patience.
func (s *stage) ctx() context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	s.t.Cleanup(cancel)
	return ctx
}

// putGroupByHand adds a group of which nothing is known but its node.
func (s *stage) putGroupByHand(name string, change func(*metadata.Group)) {
	s.t.Helper()
	g := metadata.DefaultGroup()
	g.Topics, g.Names = []string{s.topic}, map[string]string{s.topic: name}
	change(&g)
	doc, err := json.Marshal(g)
	require.NoError(s.t, err)
	require.NoError(s.t, s.store.Create(s.ctx(), s.store.GroupPath(name), doc))
	s.groups = append(s.groups, name)
}

func (s *stage) eventually(ok func() bool, state func() any, what string, args ...any) {
	s.t.Helper()
	eventually(s.t, ok, state, what, args...)
}

// eventually polls until ok; state is asked for what is there when it never is.
func eventually(t *testing.T, ok func() bool, state func() any, what string, args ...any) {
	t.Helper()
	deadline := time.Now().Add(patience)
	tick := time.NewTicker(poll)
	defer tick.Stop()
	for !ok() {
		if time.Now().After(deadline) {
			require.FailNow(t, "never: "+fmt.Sprintf(what, args...), "%+v", state())
		}
		<-tick.C
	}
}

// sender starts an application that sends to the topic and returns when its first message is stored.
func (s *stage) sender(name string, change func(*scene.Spec)) *scene.Process {
	s.t.Helper()
	return s.ready(s.start(s.senderSpec(name), change))
}

func (s *stage) senderSpec(name string) scene.Spec {
	return scene.Spec{Role: scene.Sender, Name: name, Topics: []string{s.topic}, Rate: 200, Senders: 4, Keys: 16, Deadline: patience / 2}
}

// receiver starts a member of the first group and returns when it reads every cluster that it has to.
func (s *stage) receiver(name string, change func(*scene.Spec)) *scene.Process {
	s.t.Helper()
	return s.ready(s.start(s.receiverSpec(name), change))
}

func (s *stage) receiverSpec(name string) scene.Spec {
	return scene.Spec{Role: scene.Receiver, Name: name, Group: s.groups[0], Linger: 500 * time.Millisecond, StayRecheck: time.Second}
}

func (s *stage) start(spec scene.Spec, change func(*scene.Spec)) *scene.Process {
	s.t.Helper()
	spec.App, spec.Dir, spec.ZooKeeper, spec.Root = spec.Name, s.dir, s.env.ZooKeeper(), s.root
	if change != nil {
		change(&spec)
	}
	p, err := scene.Start(s.ctx(), spec)
	require.NoError(s.t, err)
	s.t.Cleanup(func() {
		if s.t.Failed() && spec.Role == scene.Receiver {
			require.NoError(s.t, p.Dump(s.ctx()))
		}
		require.NoError(s.t, p.Kill())
	})
	s.running = append(s.running, p)
	s.roles[p] = spec.Role
	return p
}

func (s *stage) ready(p *scene.Process) *scene.Process {
	s.t.Helper()
	require.NoError(s.t, p.Ready(s.ctx()))
	return p
}

// stop ends an application in good order.
func (s *stage) stop(processes ...*scene.Process) {
	s.t.Helper()
	for _, p := range slices.Clone(processes) {
		require.NoError(s.t, p.Stop(s.ctx()))
		s.forget(p)
	}
}

// kill ends an application by SIGKILL.
func (s *stage) kill(processes ...*scene.Process) {
	s.t.Helper()
	for _, p := range slices.Clone(processes) {
		require.NoError(s.t, p.Kill())
		s.killed = append(s.killed, p.Name())
		s.forget(p)
	}
}

func (s *stage) forget(p *scene.Process) {
	s.running = slices.DeleteFunc(s.running, func(x *scene.Process) bool { return x == p })
}

// of are the running applications of a role.
func (s *stage) of(role scene.Role) (found []*scene.Process) {
	for _, p := range s.running {
		if s.roles[p] == role {
			found = append(found, p)
		}
	}
	return found
}

// applications are those that run and use the topic.
func (s *stage) applications() []*scene.Process {
	return append(s.of(scene.Sender), s.of(scene.Receiver)...)
}

// edit writes the wish as a tool would, again when the connection is lost.
func (s *stage) edit(cluster string) {
	s.t.Helper()
	ctx := s.ctx()
	for {
		err := s.store.Set(ctx, s.store.TopicPath(s.topic), wish(cluster), metadata.AnyVersion)
		if err == nil {
			return
		}
		require.ErrorIs(s.t, err, turnout.ErrTimeout)
	}
}

// editByHand writes the wish as a person would: with ZooKeeper's own command line client where there are servers, else
// with its client library.
func (s *stage) editByHand(cluster string) {
	s.t.Helper()
	path := s.store.TopicPath(s.topic)
	if s.env.Backend() == testenv.Servers {
		_, err := s.env.ZkCli(s.ctx(), "set", path, string(wish(cluster)))
		require.NoError(s.t, err)
		return
	}
	conn, events, err := zk.Connect(strings.Split(s.env.ZooKeeper(), ","), time.Minute, zk.WithLogger(quiet{}))
	require.NoError(s.t, err)
	defer func() {
		conn.Close()
		for range events {
		}
	}()
	_, err = conn.Set(path, wish(cluster), -1)
	require.NoError(s.t, err)
}

type quiet struct{}

func (quiet) Printf(string, ...any) {}

func wish(cluster string) []byte { return fmt.Appendf(nil, `{"cluster":%q}`, cluster) }

// applied waits until the newest wish is for cluster, the route answers it, and the applications (all that run, if none
// is named) have acknowledged that route.
func (s *stage) applied(cluster string, by ...*scene.Process) {
	s.t.Helper()
	if len(by) == 0 {
		by = s.applications()
	}
	s.eventually(func() bool {
		t, err := s.store.GetTopic(s.ctx(), s.topic)
		require.NoError(s.t, err)
		if t.Route == nil || t.Route.Write != cluster || !metadata.Answered(t.Route, t.WishNode) {
			return false
		}
		all := s.participants()
		for _, p := range by {
			if e, there := all[p.Pid()]; !there || e.Zxid != t.RouteNode.Mzxid {
				return false
			}
		}
		return true
	}, s.state, "topic %s is on %s and all have acknowledged it", s.topic, cluster)
}

// participants are those of the topic, by process.
func (s *stage) participants() map[int]metadata.ParticipantEntry {
	s.t.Helper()
	list, err := s.store.ListParticipants(s.ctx(), s.topic)
	require.NoError(s.t, err)
	byPid := map[int]metadata.ParticipantEntry{}
	for _, e := range list {
		byPid[pidOf(e.ID)] = e
	}
	return byPid
}

// instances are all that are registered, by process.
func (s *stage) instances() map[int]metadata.InstanceEntry {
	s.t.Helper()
	list, err := s.store.ListInstances(s.ctx(), "")
	require.NoError(s.t, err)
	byPid := map[int]metadata.InstanceEntry{}
	for _, e := range list {
		byPid[pidOf(e.ID)] = e
	}
	return byPid
}

// pidOf is the process in the id of an instance: ip@-@pid@-@n.
func pidOf(instance string) (pid int) {
	if parts := strings.Split(instance, "@-@"); len(parts) == 3 {
		_, _ = fmt.Sscan(parts[1], &pid)
	}
	return pid
}

// registered waits until every application that runs is an instance and a participant.
func (s *stage) registered() {
	s.t.Helper()
	s.eventually(func() bool {
		instances, participants := s.instances(), s.participants()
		for _, p := range s.applications() {
			_, is := instances[p.Pid()]
			_, takesPart := participants[p.Pid()]
			if !is || !takesPart {
				return false
			}
		}
		return true
	}, s.state, "every application is registered")
}

// flows waits until a message that was sent after this call is stored on a cluster and handled from it.
func (s *stage) flows(cluster string) {
	s.t.Helper()
	s.flowsSince(time.Now(), cluster)
}

// flowsSince also says when it was handled.
func (s *stage) flowsSince(t time.Time, cluster string) (handled time.Time) {
	s.t.Helper()
	var first int64
	s.eventually(func() bool {
		sent := map[string]bool{}
		for _, e := range s.history() {
			if e.Op == history.OpSend && e.T > t.UnixNano() {
				sent[e.ID] = true
			}
		}
		for _, e := range s.events {
			if e.Op == history.OpRecv && e.Cluster == cluster && sent[e.ID] && (first == 0 || e.T < first) {
				first = e.T
			}
		}
		return first != 0
	}, s.state, "messages go through %s", cluster)
	return time.Unix(0, first)
}

// flowsSomewhere waits until a message is stored and one is handled, wherever.
func (s *stage) flowsSomewhere() {
	s.t.Helper()
	now := time.Now().UnixNano()
	for _, op := range []history.Op{history.OpOK, history.OpDone} {
		s.eventually(func() bool {
			return slices.ContainsFunc(s.history(), func(e history.Event) bool { return e.Op == op && e.T > now })
		}, s.state, "another %s", op)
	}
}

// closed waits until the first group has left a cluster and says that it has finished it.
func (s *stage) closed(cluster string) {
	s.t.Helper()
	s.eventually(func() bool {
		members, err := s.brokers[cluster].GroupMembers(s.ctx(), s.groups[0])
		require.NoError(s.t, err)
		for _, e := range s.participants() {
			if g := e.Groups[s.groups[0]]; g != nil && g[cluster] != metadata.Finished {
				return false
			}
		}
		return len(members) == 0
	}, s.state, "the group has left %s", cluster)
}

// history is what was recorded so far.
func (s *stage) history() []history.Event {
	s.t.Helper()
	events, err := s.follow.Next()
	require.NoError(s.t, err)
	s.events = append(s.events, events...)
	return s.events
}

// left counts what a group has not finished on a cluster, as the cluster knows it: in the topic and beside it.
func (s *stage) left(group, cluster string) int64 {
	s.t.Helper()
	c := s.brokers[cluster]
	positions, err := c.Positions(s.ctx(), group, s.topic)
	require.NoError(s.t, err)
	pending, err := c.Pending(s.ctx(), group, s.topic)
	require.NoError(s.t, err)
	ends, err := c.EndOffsets(s.ctx(), s.topic)
	require.NoError(s.t, err)
	return positions.Missing(ends) + pending.Delayed + pending.Retries
}

func (s *stage) nothingLeft() {
	s.t.Helper()
	for _, group := range s.groups {
		for _, cluster := range s.clusters {
			if cluster == s.forgot {
				continue
			}
			s.eventually(func() bool { return s.left(group, cluster) == 0 }, s.state, "%s has nothing left on %s", group, cluster)
		}
	}
}

// verdict ends the senders, waits until everything is read, ends the receivers, and holds what was recorded against the
// guarantees: no error, nothing lost, nothing left.
func (s *stage) verdict() {
	s.t.Helper()
	s.stop(s.of(scene.Sender)...)
	s.nothingLeft()
	s.stop(s.of(scene.Receiver)...)
	s.nothingLeft()
	s.stop(s.of(scene.Controller)...)
	for _, group := range s.groups {
		var events []history.Event
		for _, e := range s.history() {
			if (e.Group == "" || e.Group == group) && !slices.Contains(s.missing[group], e.Producer) {
				events = append(events, e)
			}
		}
		v := history.Check(events, history.Options{Groups: []history.Group{{Name: group, Ordered: s.ordered}}, Allow: append(s.allow, history.Duplicate), Killed: s.killed, Clusters: s.clusters})
		require.NoError(s.t, v.Err())
		require.Positive(s.t, v.Acknowledged)
		on := map[string]int{}
		for _, c := range v.Clusters {
			on[c.Cluster] = c.Acknowledged
		}
		s.t.Logf("%s: %d sent, %d handled, %d twice; on %v; longest send %v", group, v.Sent, v.Groups[0].Handled, v.Groups[0].Duplicates, on, v.Longest.Took.Round(time.Millisecond))
	}
}

// state is what one wants to see of a stage that is not as it should be.
func (s *stage) state() any {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	topic, err := s.store.GetTopic(ctx, s.topic)
	participants, _ := s.store.ListParticipants(ctx, s.topic)
	lines := []string{fmt.Sprintf("wish %+v, error %v", topic.Wish, err)}
	if topic.Route != nil {
		route, _ := json.Marshal(topic.Route)
		lines = append(lines, fmt.Sprintf("route %s %s", topic.RouteNode.Mzxid, route))
	}
	for _, p := range participants {
		doc, _ := json.Marshal(p.Participant)
		lines = append(lines, p.ID+" "+string(doc))
	}
	for _, group := range s.groups {
		for cluster, c := range s.brokers {
			positions, err := c.Positions(ctx, group, s.topic)
			ends, err2 := c.EndOffsets(ctx, s.topic)
			lines = append(lines, fmt.Sprintf("%s on %s: positions %v %v of %v %v, handed over to %v", group, cluster, positions, err, ends, err2, s.handed(group, cluster)))
		}
	}
	return strings.Join(lines, "\n")
}

// handed is one more than the last offset of each partition that was handed over: whether a group that stands still does not read,
// or does not store its positions.
func (s *stage) handed(group, cluster string) map[string]int64 {
	last := map[string]int64{}
	for _, e := range s.events {
		if e.Op == history.OpRecv && e.Group == group && e.Cluster == cluster && e.Attempt == 0 {
			last[e.Partition] = max(last[e.Partition], e.Offset+1)
		}
	}
	return last
}

// explain shows, when the case has failed, what the applications logged last.
func (s *stage) explain() {
	if !s.t.Failed() {
		return
	}
	s.t.Logf("%v", s.state())
	files, _ := filepath.Glob(filepath.Join(s.dir, "log", "*.log"))
	for _, file := range files {
		text, err := os.ReadFile(file)
		require.NoError(s.t, err)
		text, dump, _ := bytes.Cut(text, []byte("SIGQUIT: quit"))
		lines := bytes.Split(bytes.TrimSpace(text), []byte("\n"))
		end := max(0, len(lines)-10)
		troubles := slices.DeleteFunc(slices.Clone(lines[:end]), func(line []byte) bool { return bytes.Contains(line, []byte(`"level":"info"`)) })
		troubles = troubles[max(0, len(troubles)-30):]
		s.t.Logf("troubles in %s, and its end:\n%s", filepath.Base(file), bytes.Join(append(troubles, lines[end:]...), []byte("\n")))
		s.t.Log(reading(dump))
	}
}

// reading is what of a dump tells why something is not read.
func reading(dump []byte) string {
	const most = 60
	var found []string
	for _, stack := range strings.Split(string(dump), "\n\n") {
		for _, part := range []string{"partitionConsumer", "brokerConsumer", "consumerGroup", "/consumer.(*", "/broker/kafka.(*", "/broker/rocketmq.(*"} {
			if strings.Contains(stack, part) && len(found) < most {
				found = append(found, stack)
				break
			}
		}
	}
	return strings.Join(found, "\n\n")
}

// flips edits the wish again and again until stop is called, which says how many edits were done. An edit that ZooKeeper
// does not take is not repeated.
func (s *stage) flips(every time.Duration, clusters []string) (stop func() int) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan int, 1)
	go func() {
		tick := time.NewTicker(every)
		defer tick.Stop()
		n := 0
		for i := 1; ; i++ {
			select {
			case <-ctx.Done():
				done <- n
				return
			case <-tick.C:
			}
			// Also the same one twice in a row, and not always in the same order.
			if s.store.Set(ctx, s.store.TopicPath(s.topic), wish(clusters[(i*7+i/3)%len(clusters)]), metadata.AnyVersion) == nil {
				n++
			}
		}
	}()
	n := -1
	stop = func() int {
		cancel()
		if n < 0 {
			n = <-done
		}
		return n
	}
	s.t.Cleanup(func() { stop() })
	return stop
}
