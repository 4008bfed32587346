package testenv

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"

	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"
)

// Backend is what an environment's servers are.
type Backend string

// The backends.
const (
	Embedded Backend = "embedded" // in this process
	Servers  Backend = "servers"  // child processes
)

// Spec says what an environment consists of.
type Spec struct {
	// Backend is Embedded if empty.
	Backend Backend
	// ZooKeeper is the number of servers: 0 (none), 1, or 3 for an ensemble. On Embedded, 3 is one server that
	// is reached by three ports, which fail one by one.
	ZooKeeper int
	// Kafka names the Kafka clusters, for example "kafka-a", "kafka-b". Each is one broker.
	Kafka []string
	// RocketMQ names the RocketMQ clusters; each is one name server and its brokers.
	RocketMQ []string
	// RocketMQBrokers is how many brokers each of them has, all masters: 1 if it is 0, at most 4. The first is named as the
	// cluster, the others "rocketmq-a-2" and so on.
	RocketMQBrokers int
	// RocketMQTimers lets messages on RocketMQ have any delay, not only a level (timerWheelEnable).
	RocketMQTimers bool
	// Proxy puts a TCP relay in front of every Kafka and RocketMQ node, which Cut and Delay need. ZooKeeper
	// always has one.
	Proxy bool
	// Secure makes every server refuse strangers: ZooKeeper and Kafka want TLS and the certificate of a client, Kafka a
	// login (PLAIN or SCRAM) and permissions besides, RocketMQ a login and, on Servers, permissions (on Embedded a user
	// may do everything). See Env.Security. ExpireSession on Servers and ZkCli are not for it.
	Secure bool
	// Dir is where the servers keep data and logs; it must not be in use by another environment. Empty: a
	// temporary directory, removed by Close.
	Dir string
	// Logger gets what the environment does. nil: nothing is logged.
	Logger *zap.Logger
}

var nameRule = regexp.MustCompile(`^[a-z0-9][a-z0-9-]{0,39}$`)

func (s Spec) validate() error {
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf("testenv: "+format, args...)) }
	if s.Backend != Embedded && s.Backend != Servers {
		bad("Spec.Backend is %q: use %q or %q", s.Backend, Embedded, Servers)
	}
	if s.ZooKeeper != 0 && s.ZooKeeper != 1 && s.ZooKeeper != 3 {
		bad("Spec.ZooKeeper is %d: use 0, 1 or 3", s.ZooKeeper)
	}
	if s.RocketMQBrokers < 0 || s.RocketMQBrokers > 4 {
		bad("Spec.RocketMQBrokers is %d: use 0 to 4", s.RocketMQBrokers)
	}
	seen := map[string]bool{}
	for _, name := range slices.Concat(s.Kafka, s.RocketMQ) {
		if !nameRule.MatchString(name) || strings.HasPrefix(name, "zookeeper") {
			bad("cluster name %q: use lower case letters, digits and dashes, up to 40, and not zookeeper", name)
		}
		if seen[name] {
			bad("cluster name %q is there twice", name)
		}
		seen[name] = true
	}
	return errors.Join(errs...)
}

// Env is a running environment. Its methods may be called concurrently; faults of one node are done one after
// the other. After Close they return errors or zero values.
type Env struct {
	spec       Spec
	dir        string
	removeDir  bool
	log        *zap.Logger
	ports      *ports
	java       *java       // Servers only
	supervisor *supervisor // Servers only
	sessions   *sessions   // of ZooKeeper, as its relays saw them
	secrets    *secured    // or nil

	mu       sync.Mutex
	clusters map[string]*cluster

	closing  context.Context // done when Close is called
	shut     context.CancelFunc
	once     sync.Once
	closeErr error
}

// cluster is what starts together: the servers of ZooKeeper, or one Kafka or RocketMQ cluster.
type cluster struct {
	name, kind, id string
	addresses      []string // what clients connect to first
	nodes          []*node
}

// The kinds of clusters.
const (
	kindZooKeeper = "zookeeper"
	kindKafka     = "kafka"
	kindRocketMQ  = "rocketmq"
)

// Start starts everything in spec at once and returns when all of it serves. On an error, also when ctx ends,
// whatever was started has ended. ctx is not used after Start.
func Start(ctx context.Context, spec Spec) (*Env, error) {
	if spec.Backend == "" {
		spec.Backend = Embedded
	}
	if err := spec.validate(); err != nil {
		return nil, err
	}
	e, err := newEnv(spec)
	if err != nil {
		return nil, err
	}
	if err := e.start(ctx); err != nil {
		return nil, errors.Join(err, e.Close())
	}
	return e, nil
}

// newEnv makes an environment without servers.
func newEnv(spec Spec) (*Env, error) {
	e := &Env{
		spec: spec, dir: spec.Dir, log: spec.Logger,
		ports: &ports{}, sessions: newSessions(), clusters: map[string]*cluster{},
	}
	e.closing, e.shut = context.WithCancel(context.Background())
	if e.log == nil {
		e.log = zap.NewNop()
	}
	if e.dir == "" {
		dir, err := os.MkdirTemp("", "turnout-testenv-")
		if err != nil {
			return nil, fmt.Errorf("testenv: %w", err)
		}
		e.dir, e.removeDir = dir, true
		return e, nil
	}
	dir, err := filepath.Abs(e.dir) // servers run in folders of their own
	if err != nil {
		return nil, fmt.Errorf("testenv: Spec.Dir: %w", err)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("testenv: Spec.Dir: %w", err)
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) > 0 {
		return nil, fmt.Errorf("testenv: Spec.Dir %s is not an empty folder; remove what is in it or choose another", dir)
	}
	e.dir = dir
	return e, nil
}

func (e *Env) start(ctx context.Context) error {
	if e.spec.Secure {
		if err := e.secure(); err != nil {
			return fmt.Errorf("testenv: certificates: %w", err)
		}
	}
	if e.spec.Backend == Servers {
		i, err := install(ctx, e.log)
		if err != nil {
			return err
		}
		if err := e.supervise(ctx, i, false); err != nil {
			return err
		}
	}
	return e.startClusters(ctx)
}

// supervise makes the environment ready to start Java servers. With train they write class data archives when
// they end, else they use them.
func (e *Env) supervise(ctx context.Context, i installation, train bool) error {
	remove := ""
	if e.removeDir {
		remove = e.dir
	}
	s, err := startSupervisor(ctx, remove)
	if err != nil {
		return err
	}
	e.supervisor = s
	e.java = &java{binary: i.java, jars: i.jars, archives: i.archives, train: train, supervisor: s, log: e.log}
	return nil
}

// startClusters starts what the spec says, all at once.
func (e *Env) startClusters(ctx context.Context) error {
	zookeeper, kafka, rocketMQ := e.embeddedZooKeeper, e.embeddedKafka, e.embeddedRocketMQ
	if e.spec.Backend == Servers {
		zookeeper, kafka, rocketMQ = e.serversZooKeeper, e.serversKafka, e.serversRocketMQ
	}
	g, ctx := errgroup.WithContext(ctx)
	if e.spec.ZooKeeper > 0 {
		g.Go(func() error { return e.launch(ctx, kindZooKeeper, zookeeper) })
	}
	for _, name := range e.spec.Kafka {
		g.Go(func() error { return e.launch(ctx, name, kafka) })
	}
	for _, name := range e.spec.RocketMQ {
		g.Go(func() error { return e.launch(ctx, name, rocketMQ) })
	}
	return g.Wait()
}

// launch lets build choose ports and write settings, and starts the cluster. A port that somebody else took in
// between is a reason to try again with other ports.
func (e *Env) launch(ctx context.Context, name string, build func(name string) (*cluster, error)) error {
	const tries = 3
	for try := 1; ; try++ {
		c, err := build(name)
		if err != nil {
			return err
		}
		err = c.start(ctx)
		if err == nil {
			e.mu.Lock()
			e.clusters[name] = c
			e.mu.Unlock()
			return nil
		}
		err = errors.Join(err, c.close())
		if try == tries || !errors.Is(err, errPortTaken) {
			return err
		}
		e.log.Warn("a port was taken by another program; trying others", zap.String("cluster", name), zap.Error(err))
	}
}

// start starts the nodes at once; one that fails ends the start of the others, which may wait for it.
func (c *cluster) start(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	for _, n := range c.nodes {
		g.Go(func() error { return n.start(ctx) })
	}
	return g.Wait()
}

func (c *cluster) close() error { return each(c.nodes, (*node).close) }

// mkdir makes a new folder for a node, with sub-folders.
func (e *Env) mkdir(name string, sub ...string) (string, error) {
	dir := filepath.Join(e.dir, filepath.FromSlash(name))
	if err := os.RemoveAll(dir); err != nil { // of a try before
		return "", err
	}
	for _, s := range append(sub, "") {
		if err := os.MkdirAll(filepath.Join(dir, s), 0o755); err != nil {
			return "", err
		}
	}
	return dir, nil
}

// Close ends all servers at once, without giving them time, and removes the temporary directory. It may be
// called more than once; every call returns the first one's result after that has ended.
func (e *Env) Close() error {
	e.shut() // Stop and Restart give up
	e.once.Do(func() {
		e.mu.Lock()
		defer e.mu.Unlock()
		errs := []error{each(slices.Collect(maps.Values(e.clusters)), (*cluster).close)}
		if e.supervisor != nil {
			errs = append(errs, e.supervisor.close())
		}
		if e.removeDir {
			errs = append(errs, os.RemoveAll(e.dir))
		}
		e.closeErr = errors.Join(append(errs, e.ports.close())...)
		clear(e.clusters)
	})
	return e.closeErr
}

// Backend returns the backend that the environment runs on.
func (e *Env) Backend() Backend { return e.spec.Backend }

// ZooKeeper returns the connect string of ZooKeeper: host:port, or three of them with commas between; "" if
// there is none.
func (e *Env) ZooKeeper() string { return strings.Join(e.Addresses(kindZooKeeper), ",") }

// Addresses returns the bootstrap servers of a Kafka cluster or the name servers of a RocketMQ cluster; nil for
// an unknown name.
func (e *Env) Addresses(cluster string) []string {
	if c := e.cluster(cluster); c != nil {
		return slices.Clone(c.addresses)
	}
	return nil
}

// Kind returns "kafka" or "rocketmq", or "" for an unknown name.
func (e *Env) Kind(cluster string) string {
	if c := e.cluster(cluster); c != nil && c.kind != kindZooKeeper {
		return c.kind
	}
	return ""
}

// ClusterID returns the cluster.id of a Kafka cluster or the cluster name that a RocketMQ broker reports; ""
// for an unknown name.
func (e *Env) ClusterID(cluster string) string {
	if c := e.cluster(cluster); c != nil {
		return c.id
	}
	return ""
}

func (e *Env) cluster(name string) *cluster {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.clusters[name]
}

// each does f with every item at once and returns all errors.
func each[T any](items []T, f func(T) error) error {
	errs := make([]error, len(items))
	var wg sync.WaitGroup
	for i, item := range items {
		wg.Go(func() { errs[i] = f(item) })
	}
	wg.Wait()
	return errors.Join(errs...)
}
