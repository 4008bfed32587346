package requests

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest"

	"github.com/turnout-mq/turnout/admin/migrate"
	"github.com/turnout-mq/turnout/admin/people"
	"github.com/turnout-mq/turnout/admin/store"
	"github.com/turnout-mq/turnout/broker"
	"github.com/turnout-mq/turnout/broker/drivers"
	"github.com/turnout-mq/turnout/internal/clusters"
	"github.com/turnout-mq/turnout/internal/errs"
	"github.com/turnout-mq/turnout/metadata"
	"github.com/turnout-mq/turnout/testenv"
	"github.com/turnout-mq/turnout/testenv/leaks"
)

// patience bounds every wait for something that must happen.
const (
	patience = 2 * time.Minute
	tick     = 20 * time.Millisecond
)

var (
	env *testenv.Env
	sql testenv.SQL
)

func TestMain(m *testing.M) {
	if spec := os.Getenv(childVariable); spec != "" {
		if err := runChild(spec); err != nil {
			fmt.Fprintln(os.Stderr, err)
		}
		os.Exit(1)
	}
	os.Exit(testAll(m))
}

func testAll(m *testing.M) int {
	var err error // on real servers as far as the database goes: the brokers' part is that of the drivers
	if env, err = testenv.Start(context.Background(), testenv.Spec{ZooKeeper: 1, Kafka: []string{"kafka-a", "kafka-b"}, RocketMQ: []string{"rocketmq-a"}}); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	code := m.Run()
	if err = errors.Join(env.Close(), sql.Close()); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	err = goleak.Find(leaks.Libraries()...)
	if err != nil && code == 0 {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return code
}

// roots numbers the trees of the tests, which share a ZooKeeper.
var roots atomic.Int64

// stage is a platform without HTTP: one store, one root, two clusters that are registered, people.
type stage struct {
	*testing.T
	url, root string
	db        *store.Store
	meta      *metadata.Store
	pool      *clusters.Pool
}

func newStage(t *testing.T) *stage {
	t.Helper()
	s := &stage{T: t, url: sql.Database(t), root: fmt.Sprintf("/requests-%d", roots.Add(1))}
	return s.open()
}

func (s *stage) open() *stage {
	s.Helper()
	var err error
	s.db, err = store.Open(s.Context(), s.url, nil)
	require.NoError(s, err)
	s.Cleanup(func() { require.NoError(s, s.db.Close()) })
	s.meta, err = metadata.Open(metadata.Config{ZooKeeper: env.ZooKeeper(), Root: s.root, SessionTimeout: 30 * time.Second})
	require.NoError(s, err)
	s.Cleanup(func() { require.NoError(s, bounded(s.meta.Close)) })
	s.pool = clusters.NewPool(s.meta, drivers.Open, "test"+strings.ReplaceAll(s.root, "/", "-"), time.Minute, zap.NewNop())
	s.Cleanup(func() { require.NoError(s, bounded(s.pool.Close)) })
	for _, name := range []string{"kafka-a", "kafka-b"} {
		require.NoError(s, s.meta.PutCluster(s.Context(), name, metadata.Cluster{Kind: broker.Kafka, Addresses: env.Addresses(name), ClusterID: env.ClusterID(name)}))
	}
	s.Cleanup(s.clean)
	for _, u := range []store.User{{Name: "alice", Role: store.Applicant}, {Name: "bob", Role: store.Approver}, {Name: "carol", Role: store.Applicant}, {Name: "root", Role: store.Administrator}} {
		require.NoError(s, s.db.CreateUser(s.Context(), &u, nil))
	}
	return s
}

// clean deletes the topics that were asked for: the clusters are those of all tests.
func (s *stage) clean() {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	asked, err := s.db.ChangeRequests(ctx, store.RequestFilter{Kind: KindTopic})
	require.NoError(s, err)
	for _, cluster := range []string{"kafka-a", "kafka-b", "rocketmq-a"} {
		conn, err := s.pool.Acquire(ctx, cluster)
		if errors.Is(err, errs.ErrNotFound) {
			continue // not of this test
		}
		require.NoError(s, err)
		defer conn.Release()
		for _, r := range asked {
			spec, err := decode[TopicSpec](KindTopic, r.Spec)
			require.NoError(s, err)
			if err := conn.DeleteTopic(ctx, cmp.Or(spec.Physical, spec.Name)); !errors.Is(err, errs.ErrUnknownTopic) {
				require.NoError(s, err)
			}
		}
	}
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
	admin = person("root", store.Administrator)
	eve   = person("eve", store.Viewer)
)

// service is a Service that does not run.
func (s *stage) service(change ...func(*Config)) *Service {
	s.Helper()
	cfg := Config{Store: s.db, Meta: s.meta, Pool: s.pool, Open: drivers.Open, Server: "test", Logger: zaptest.NewLogger(s, zaptest.Level(zap.InfoLevel)),
		Migrations: migrate.New(s.db, s.meta, s.pool, zap.NewNop(), migrate.Options{}), pause: func(int) time.Duration { return tick }}
	for _, f := range change {
		f(&cfg)
	}
	service, err := NewService(cfg)
	require.NoError(s, err)
	return service
}

// run lets a Service run until the end of the test, or until the returned function is called.
func (s *stage) run(service *Service) (stop func()) {
	ctx, cancel := context.WithCancel(context.WithoutCancel(s.Context()))
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = service.Run(ctx) // ctx's error
	}()
	stop = func() { cancel(); <-ended }
	s.Cleanup(stop)
	return stop
}

// file drafts and submits.
func (s *stage) file(service *Service, who people.Principal, n New) *store.ChangeRequest {
	s.Helper()
	r, err := service.Draft(s.Context(), who, n)
	require.NoError(s, err)
	r, err = service.Submit(s.Context(), who, r.ID, r.Version)
	require.NoError(s, err)
	require.Equal(s, store.Submitted, r.State)
	return r
}

// approved files and approves.
func (s *stage) approved(service *Service, n New, a Approval) *store.ChangeRequest {
	s.Helper()
	r := s.file(service, alice, n)
	r, err := service.Approve(s.Context(), bob, r.ID, r.Version, a)
	require.NoError(s, err)
	require.Equal(s, store.Approved, r.State)
	return r
}

// ended waits until a request has ended.
func (s *stage) ended(id string) (r *store.ChangeRequest) {
	s.Helper()
	require.Eventually(s, func() bool {
		var err error
		r, err = s.db.ChangeRequest(s.Context(), id)
		require.NoError(s, err)
		return r.EndedAt != nil
	}, patience, tick)
	return r
}

// done files, approves and waits until it is done.
func (s *stage) done(service *Service, n New, a Approval) *store.ChangeRequest {
	s.Helper()
	r := s.ended(s.approved(service, n, a).ID)
	require.Equal(s, store.RequestOK, r.State, r.Error)
	return r
}

// kinds are the kinds of the events of a request.
func (s *stage) kinds(id string) (kinds []string) {
	s.Helper()
	events, err := s.db.RequestEvents(s.Context(), id, 0, 0)
	require.NoError(s, err)
	for _, e := range events {
		kinds = append(kinds, e.Kind)
	}
	return kinds
}

// on is a connection to a cluster.
func (s *stage) on(cluster string) *clusters.Conn {
	s.Helper()
	conn, err := s.pool.Acquire(s.Context(), cluster)
	require.NoError(s, err)
	s.Cleanup(conn.Release)
	return conn
}

func topic(name string) New {
	return New{Reason: "orders", Topic: &TopicSpec{Name: name, App: "order_service", Partitions: 3, Config: map[string]string{"retention.ms": "86400000"}}}
}

func group(name string, topics ...string) New {
	return New{Group: &GroupSpec{Name: name, App: "order_service", Topics: topics}}
}

// childVariable holds the childSpec of a process that a test has started: this test binary again.
const childVariable = "TURNOUT_REQUESTS_CHILD"

// childSpec says where a server works and where it stops, to be killed.
type childSpec struct{ ZooKeeper, Root, Database, StopAt string }

// runChild is a server that stops at a step until it is told to go on.
func runChild(text string) error {
	var spec childSpec
	if err := json.Unmarshal([]byte(text), &spec); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	orders := make(chan struct{})
	go func() {
		for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
			orders <- struct{}{}
		}
		os.Exit(2) // who has started us is gone
	}()
	db, err := store.Open(ctx, spec.Database, nil)
	if err != nil {
		return err
	}
	meta, err := metadata.Open(metadata.Config{ZooKeeper: spec.ZooKeeper, Root: spec.Root, SessionTimeout: 30 * time.Second})
	if err != nil {
		return err
	}
	pool := clusters.NewPool(meta, drivers.Open, "child", time.Minute, zap.NewNop())
	s, err := NewService(Config{Store: db, Meta: meta, Pool: pool, Open: drivers.Open, Server: "child",
		Migrations: migrate.New(db, meta, pool, zap.NewNop(), migrate.Options{}),
		pause:      func(int) time.Duration { return tick },
		at: func(ctx context.Context, request, step string) {
			if step == spec.StopAt {
				n, err := meta.Read(ctx, spec.Root)
				fmt.Println(request, "at", step, n.Session, err)
				<-orders
				spec.StopAt = ""
			}
		}})
	if err != nil {
		return err
	}
	return s.Run(ctx)
}

// process is a child.
type process struct {
	*stage
	cmd   *exec.Cmd
	stdin io.WriteCloser
	lines chan string
}

func (s *stage) child(stopAt string) *process {
	s.Helper()
	spec, err := json.Marshal(childSpec{env.ZooKeeper(), s.root, s.url, stopAt})
	require.NoError(s, err)
	p := &process{stage: s, cmd: exec.CommandContext(context.Background(), os.Args[0]), lines: make(chan string, 100)}
	p.cmd.Env = append(os.Environ(), childVariable+"="+string(spec))
	p.cmd.Stderr = os.Stderr
	p.stdin, err = p.cmd.StdinPipe()
	require.NoError(s, err)
	out, err := p.cmd.StdoutPipe()
	require.NoError(s, err)
	require.NoError(s, p.cmd.Start())
	go func() {
		defer close(p.lines)
		for lines := bufio.NewScanner(out); lines.Scan(); {
			p.lines <- lines.Text()
		}
	}()
	s.Cleanup(p.kill)
	return p
}

// at waits until the child has come to a step of a request, and returns its session.
func (p *process) at(request, step string) (session int64) {
	p.Helper()
	select {
	case line, ok := <-p.lines:
		require.True(p, ok, "the child has ended")
		_, err := fmt.Sscanf(line, request+" at "+step+" %d <nil>", &session)
		require.NoError(p, err, line)
	case <-time.After(patience):
		require.FailNow(p, "waited in vain for the child to be at "+step)
	}
	return session
}

// expire ends the session of a child that is dead or stands still, as time would.
func (p *process) expire(session int64) {
	p.Helper()
	require.NoError(p, env.ExpireSession(p.Context(), session))
}

// kill ends the child by SIGKILL, if it has not ended.
func (p *process) kill() {
	_ = p.cmd.Process.Kill()
	for range p.lines { // until it has ended
	}
	_ = p.cmd.Wait() // it was killed
}
