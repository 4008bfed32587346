package stress_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest"

	"github.com/turnout-mq/turnout"
	"github.com/turnout-mq/turnout/admin/fleet"
	"github.com/turnout-mq/turnout/admin/people"
	"github.com/turnout-mq/turnout/admin/requests"
	"github.com/turnout-mq/turnout/admin/store"
	"github.com/turnout-mq/turnout/admin/stress"
	"github.com/turnout-mq/turnout/broker"
	"github.com/turnout-mq/turnout/broker/drivers"
	"github.com/turnout-mq/turnout/internal/clusters"
	"github.com/turnout-mq/turnout/metadata"
	"github.com/turnout-mq/turnout/shadow"
	"github.com/turnout-mq/turnout/testenv"
	"github.com/turnout-mq/turnout/testenv/leaks"
)

// patience bounds every wait for something that must happen.
const (
	patience = 2 * time.Minute
	tick     = 20 * time.Millisecond
)

var env *testenv.Env

func TestMain(m *testing.M) {
	if spec := os.Getenv(childVariable); spec != "" {
		fmt.Fprintln(os.Stderr, runChild(spec))
		os.Exit(1)
	}
	os.Exit(testAll(m))
}

func testAll(m *testing.M) int {
	var err error
	if env, err = testenv.Start(context.Background(), testenv.Spec{ZooKeeper: 1, Kafka: []string{"kafka-a", "kafka-b"}}); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	code := m.Run()
	if err = env.Close(); err == nil {
		err = goleak.Find(leaks.Libraries()...)
	}
	if err != nil && code == 0 {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return code
}

// stages numbers the trees and topics of the tests, which share ZooKeeper and clusters.
var stages atomic.Int64

const app = "order_app"

// stage is a platform without HTTP, with a topic and a group of production.
type stage struct {
	*testing.T
	childSpec
	orders, billing string // topic, group

	db   *store.Store
	meta *metadata.Store
	pool *clusters.Pool
}

func newStage(t *testing.T) *stage {
	t.Helper()
	n := stages.Add(1)
	s := &stage{T: t, orders: fmt.Sprintf("orders-%d", n), billing: fmt.Sprintf("billing-%d", n)}
	s.childSpec = childSpec{ZooKeeper: env.ZooKeeper(), Root: fmt.Sprintf("/stress-%d", n), ShadowRoot: fmt.Sprintf("/zpt-%d", n), Database: "sqlite:" + filepath.Join(t.TempDir(), "turnout.db")}
	var err error
	s.db, err = store.Open(t.Context(), s.Database, nil)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, s.db.Close()) })
	s.meta, err = metadata.Open(metadata.Config{ZooKeeper: s.ZooKeeper, Root: s.Root, ShadowRoot: s.ShadowRoot, SessionTimeout: 30 * time.Second})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, bounded(s.meta.Close)) })
	s.pool = clusters.NewPool(s.meta, drivers.Open, "test", time.Minute, zap.NewNop())
	t.Cleanup(func() { require.NoError(t, bounded(s.pool.Close)) })
	for _, name := range []string{"kafka-a", "kafka-b"} {
		require.NoError(t, s.meta.PutCluster(t.Context(), name, metadata.Cluster{Kind: broker.Kafka, Addresses: env.Addresses(name), ClusterID: env.ClusterID(name)}))
	}
	for _, u := range []store.User{{Name: "alice", Role: store.Applicant}, {Name: "bob", Role: store.Approver}, {Name: "carol", Role: store.Applicant}} {
		require.NoError(t, s.db.CreateUser(t.Context(), &u, nil))
	}
	s.topic(s.orders)
	s.group(s.billing, app, s.orders)
	return s
}

// topic makes a topic of production on kafka-a.
func (s *stage) topic(name string) {
	s.Helper()
	require.NoError(s, s.on("kafka-a").CreateTopic(s.Context(), name, broker.TopicSpec{Partitions: 2}))
	_, err := s.meta.PutTopic(s.Context(), name, metadata.PutTopic{Cluster: "kafka-a"})
	require.NoError(s, err)
}

func (s *stage) group(name, app string, topics ...string) {
	s.Helper()
	g := metadata.DefaultGroup()
	g.App, g.Topics, g.Retry.Max = app, topics, 0
	require.NoError(s, s.meta.PutGroup(s.Context(), name, g))
}

// on is a connection to a cluster.
func (s *stage) on(cluster string) *clusters.Conn {
	s.Helper()
	conn, err := s.pool.Acquire(s.Context(), cluster)
	require.NoError(s, err)
	s.Cleanup(conn.Release)
	return conn
}

func bounded(end func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	return end(ctx)
}

func person(name string, role store.Role) people.Principal {
	return people.Principal{Name: name, Role: role, Scopes: people.Permissions(), Via: "session"}
}

var (
	alice = person("alice", store.Applicant)
	bob   = person("bob", store.Approver)
	carol = person("carol", store.Applicant)
	eve   = person("eve", store.Viewer)
)

// as is a context in which somebody does something.
func (s *stage) as(who people.Principal) context.Context {
	return people.With(context.WithoutCancel(s.Context()), who)
}

// platform is one server of the stage.
type platform struct {
	*stress.Service
	requests *requests.Service
	fleet    *blinded
}

// blinded is a fleet that can be kept from looking.
type blinded struct {
	*fleet.Service
	why atomic.Pointer[error]
}

func (b *blinded) LookAt(ctx context.Context, group string) (*fleet.Group, error) {
	if why := b.why.Load(); why != nil {
		return nil, *why
	}
	return b.Service.LookAt(ctx, group)
}

// server is a server that does not run.
func (s *stage) server() *platform {
	s.Helper()
	log := zaptest.NewLogger(s, zaptest.Level(zap.InfoLevel))
	p, err := newPlatform(s.db, s.meta, s.pool, log)
	require.NoError(s, err)
	return p
}

func newPlatform(db *store.Store, meta *metadata.Store, pool *clusters.Pool, log *zap.Logger) (*platform, error) {
	p := &platform{fleet: &blinded{}}
	id := metadata.NewInstanceID()
	var err error
	if p.fleet.Service, err = fleet.New(fleet.Config{Meta: meta, DB: db, Pool: pool, ID: id, Log: log}); err != nil {
		return nil, err
	}
	if p.Service, err = stress.New(stress.Config{Meta: meta, DB: db, Pool: pool, Fleet: p.fleet, ID: id, Every: tick, GuardEvery: tick, Log: log}); err != nil {
		return nil, err
	}
	p.requests, err = requests.NewService(requests.Config{Store: db, Meta: meta, Pool: pool, Open: drivers.Open, Server: id, Logger: log,
		Handlers: map[string]requests.Handler{requests.KindStress: p.Handler()}})
	return p, err
}

// run lets a service work until the end of the test, or until the returned function is called.
func (s *stage) run(work func(context.Context) error) (stop func()) {
	ctx, cancel := context.WithCancel(context.WithoutCancel(s.Context()))
	var ended sync.WaitGroup
	ended.Go(func() { _ = work(ctx) }) // ctx's error
	stop = func() { cancel(); ended.Wait() }
	s.Cleanup(stop)
	return stop
}

// spec asks for a task with the stage's group.
func (s *stage) spec(change ...func(*requests.StressSpec)) requests.StressSpec {
	spec := requests.StressSpec{Task: "zpt_task_1", Groups: []requests.StressGroupSpec{{Group: s.billing}}, LimitSeconds: 600}
	for _, f := range change {
		f(&spec)
	}
	return spec
}

// approved files a request for a task and approves it.
func (s *stage) approved(p *platform, spec requests.StressSpec) *store.ChangeRequest {
	s.Helper()
	r, err := p.requests.Draft(s.as(alice), alice, requests.New{Reason: "sale", Stress: &spec})
	require.NoError(s, err)
	r, err = p.requests.Submit(s.as(alice), alice, r.ID, r.Version)
	require.NoError(s, err)
	r, err = p.requests.Approve(s.as(bob), bob, r.ID, r.Version, requests.Approval{})
	require.NoError(s, err)
	return r
}

// ended waits until a request has been carried out.
func (s *stage) ended(p *platform, id string) (r *store.ChangeRequest) {
	s.Helper()
	defer s.run(p.requests.Run)()
	require.Eventually(s, func() bool {
		var err error
		r, err = p.requests.Get(s.Context(), id)
		require.NoError(s, err)
		return r.EndedAt != nil
	}, patience, tick)
	return r
}

// prepared files a request for a task, approves it, and waits until the task is ready.
func (s *stage) prepared(p *platform, spec requests.StressSpec) *stress.TaskView {
	s.Helper()
	r := s.ended(p, s.approved(p, spec).ID)
	require.Equal(s, store.RequestOK, r.State, r.Error)
	var result struct{ Task string }
	require.NoError(s, json.Unmarshal(r.Result, &result))
	v := s.get(p, result.Task)
	require.Equal(s, store.StressReady, v.State)
	return v
}

func (s *stage) get(p *platform, id string) *stress.TaskView {
	s.Helper()
	v, err := p.Get(s.Context(), id)
	require.NoError(s, err)
	return v
}

// start starts a task as the one who has filed it.
func (s *stage) start(p *platform, v *stress.TaskView) *stress.TaskView {
	s.Helper()
	v, err := p.Start(s.as(alice), alice, v.ID, v.Version)
	require.NoError(s, err)
	return v
}

// is waits until a task is in a state, and its instances have followed.
func (s *stage) is(p *platform, id string, state store.StressState) (v *stress.TaskView) {
	s.Helper()
	require.Eventually(s, func() bool {
		v = s.get(p, id)
		return v.State == state && len(v.Pending) == 0
	}, patience, tick, "%s", state)
	return v
}

// enabled says what the flags are, as an application reads them.
func (s *stage) enabled() map[string]bool {
	s.Helper()
	require.NoError(s, s.meta.Sync(s.Context(), s.ShadowRoot))
	flags, err := s.meta.ListShadowFlags(s.Context(), "")
	require.NoError(s, err)
	on := map[string]bool{}
	for _, f := range flags {
		on[f.Group] = f.Enabled
	}
	return on
}

// history is the kinds of the events of a task.
func (s *stage) history(p *platform, id string) (kinds []string) {
	s.Helper()
	events, err := p.History(s.Context(), id, 0, 0)
	require.NoError(s, err)
	for _, e := range events {
		kinds = append(kinds, e.Kind)
	}
	return kinds
}

// inbox counts what a listener gets.
type inbox struct{ production, stress atomic.Int64 }

func (i *inbox) listen(ctx context.Context, _ *turnout.Delivery) error {
	if shadow.Marked(ctx) {
		i.stress.Add(1)
	} else {
		i.production.Add(1)
	}
	return nil
}

// application is a running instance that subscribes a group, or with "" one of another application that only sends.
func (s *stage) application(group string, listen turnout.Listener) *turnout.Client {
	s.Helper()
	name := app
	if group == "" {
		name = "sender"
	}
	c, err := turnout.Open(s.Context(), turnout.Config{App: name, ZooKeeper: s.ZooKeeper, Root: s.Root, ShadowRoot: s.ShadowRoot, SnapshotDir: s.TempDir()})
	require.NoError(s, err)
	s.Cleanup(func() { require.NoError(s, bounded(c.Close)) })
	if group != "" {
		_, err = c.Subscribe(s.Context(), group, listen)
		require.NoError(s, err)
	}
	return c
}

// childVariable holds the childSpec of a process that a test has started: this test binary again.
const childVariable = "TURNOUT_STRESS_CHILD"

// childSpec says where a server works.
type childSpec struct{ ZooKeeper, Root, ShadowRoot, Database string }

// runChild is a server that watches tasks until it is killed. It says its session.
func runChild(text string) error {
	var spec childSpec
	if err := json.Unmarshal([]byte(text), &spec); err != nil {
		return err
	}
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		os.Exit(2) // who has started us is gone
	}()
	ctx := context.Background()
	db, err := store.Open(ctx, spec.Database, nil)
	if err != nil {
		return err
	}
	meta, err := metadata.Open(metadata.Config{ZooKeeper: spec.ZooKeeper, Root: spec.Root, ShadowRoot: spec.ShadowRoot, SessionTimeout: 30 * time.Second})
	if err != nil {
		return err
	}
	p, err := newPlatform(db, meta, clusters.NewPool(meta, drivers.Open, "child", time.Minute, zap.NewNop()), zap.NewNop())
	if err != nil {
		return err
	}
	session, err := meta.WaitConnected(ctx)
	if err != nil {
		return err
	}
	fmt.Println(session.ID)
	return p.Run(ctx)
}

// child starts a server as a process, and returns its session and how to kill it.
func (s *stage) child() (session int64, kill func()) {
	s.Helper()
	spec, err := json.Marshal(s.childSpec)
	require.NoError(s, err)
	cmd := exec.CommandContext(context.Background(), os.Args[0])
	cmd.Env = append(os.Environ(), childVariable+"="+string(spec))
	cmd.Stderr = os.Stderr
	_, err = cmd.StdinPipe()
	require.NoError(s, err)
	out, err := cmd.StdoutPipe()
	require.NoError(s, err)
	require.NoError(s, cmd.Start())
	kill = sync.OnceFunc(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait() // it was killed
	})
	s.Cleanup(kill)
	line, err := bufio.NewReader(out).ReadString('\n')
	require.NoError(s, err)
	_, err = fmt.Sscan(strings.TrimSpace(line), &session)
	require.NoError(s, err)
	return session, kill
}
