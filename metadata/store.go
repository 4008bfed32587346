package metadata

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"sync"
	"time"

	"github.com/go-zookeeper/zk"
	"go.uber.org/zap"

	"github.com/turnout-mq/turnout/internal/errs"
)

// Defaults of Config.
const (
	DefaultSessionTimeout = 10 * time.Second
	DefaultRecheck        = 60 * time.Second
)

// Config says which ZooKeeper a Store uses and how.
type Config struct {
	ZooKeeper  string // "host:port,host:port[/chroot]", required
	Root       string // default DefaultRoot
	ShadowRoot string // default DefaultShadowRoot
	// SessionTimeout is asked of the server, which may give another. Default 10 s, at least 100 ms. Shorter: a dead
	// process is noticed sooner; longer: a pause or a slow network costs no session.
	SessionTimeout time.Duration
	AuthScheme     string // "" or "digest"
	// AuthSecret is a reference to "user:password": env:NAME or file:PATH. It is read again at each connection and each
	// Recheck. Several lines are several identities, all of which this process then has and gives its nodes to: that is how
	// an identity is replaced by another.
	AuthSecret string
	Secrets    Secrets // default ResolveSecret
	// TLS is for servers that want it (secureClientPort). Its files are read at each connection. nil: none.
	TLS *TLS
	// SnapshotDir holds the last good value of everything followed, in one file for App, shared by its processes on this
	// machine. "": no snapshot.
	SnapshotDir string
	App         string // required with SnapshotDir
	// Recheck is how often a followed node is looked at beside its watch, ± 50 %. Default 60 s. Shorter: a watch that was
	// lost silently is made good sooner, for one small request per node.
	Recheck time.Duration
	Logger  *zap.Logger // nil: none
	// Dialer opens connections to ZooKeeper. nil: a net.Dialer, which resolves names at each attempt. For tests.
	Dialer func(ctx context.Context, network, address string) (net.Conn, error)
}

// Store is a client of one ZooKeeper. All methods may be called concurrently. Every method with a ctx returns when the
// ctx ends, with its error; what was begun may then still happen. Methods wait while ZooKeeper is unreachable. After
// Close they return ErrClosed.
type Store struct {
	Layout

	cfg    Config
	log    *zap.Logger
	chroot string
	who    identity
	conn   *zk.Conn
	dialer *dialer
	snap   *snapshot // nil: none

	ctx    context.Context // ends at Close
	cancel context.CancelFunc
	closed chan struct{} // closed when everything has ended

	sessions sessions
	ensemble ensemble
	watches  watches

	mu        sync.Mutex
	stopped   bool
	wg        sync.WaitGroup // goroutines; Add only through spawn
	followers map[*Follower]struct{}
}

// Open begins to connect in the background and returns at once, also when ZooKeeper is down; WaitConnected waits. It fails
// only for a Config that is not acceptable (ErrInvalid, with every reason).
func Open(cfg Config) (*Store, error) {
	s, servers, err := newStore(cfg)
	if err != nil {
		return nil, err
	}
	connected := func() bool { return s.ctx.Err() != nil }
	conn, events, err := zk.Connect(servers, s.cfg.SessionTimeout,
		zk.WithHostProvider(&hosts{closed: connected}),
		zk.WithDialer(s.dialer.Dial),
		zk.WithEventCallback(s.sessions.event),
		zk.WithLogger(zkLogger{s.log.Named("zk")}),
		zk.WithLogInfo(false))
	if err != nil {
		s.cancel()
		return nil, fmt.Errorf("%w: ZooKeeper %q: %w", errs.ErrInvalid, s.cfg.ZooKeeper, err)
	}
	s.conn = conn
	s.sessions.sessionID = conn.SessionID
	close(s.dialer.started)
	s.spawn(s.sessionLoop)
	s.spawn(s.sessions.deliver)
	if s.snap != nil {
		s.spawn(func() { s.snap.run(s.ctx) })
	}
	go s.finish(events)
	return s, nil
}

// newStore validates cfg, fills in the defaults, and makes a Store that does nothing yet.
func newStore(cfg Config) (*Store, []string, error) {
	var p problems
	servers, chroot, err := ParseConnect(cfg.ZooKeeper)
	if err != nil {
		p = append(p, err)
	}
	if cfg.Root == "" {
		cfg.Root = DefaultRoot
	}
	if cfg.ShadowRoot == "" {
		cfg.ShadowRoot = DefaultShadowRoot
	}
	p.path("Root", cfg.Root)
	p.path("ShadowRoot", cfg.ShadowRoot)
	if cfg.SessionTimeout == 0 {
		cfg.SessionTimeout = DefaultSessionTimeout
	}
	if cfg.SessionTimeout < 100*time.Millisecond {
		p.add("SessionTimeout", cfg.SessionTimeout, "must be at least 100ms")
	}
	if cfg.Recheck == 0 {
		cfg.Recheck = DefaultRecheck
	}
	if cfg.Recheck < 0 {
		p.add("Recheck", cfg.Recheck, "must be more than 0")
	}
	if cfg.Logger == nil {
		cfg.Logger = zap.NewNop()
	}
	if cfg.Dialer == nil {
		cfg.Dialer = (&net.Dialer{}).DialContext
	}
	if cfg.SnapshotDir != "" && !ValidName(cfg.App) {
		p.add("App", cfg.App, nameRule+", because SnapshotDir is set")
	}
	var who []login
	switch {
	case cfg.AuthScheme == digest:
		if who, err = logins(cfg.AuthSecret, cfg.Secrets); err != nil {
			p = append(p, fmt.Errorf("AuthSecret: %w", err))
		}
	case cfg.AuthScheme != "":
		p.add("AuthScheme", cfg.AuthScheme, `must be "" or "digest"`)
	case cfg.AuthSecret != "":
		p.add("AuthScheme", cfg.AuthScheme, `must be "digest", because AuthSecret is set`)
	}
	var secured func() (*tls.Config, error)
	if cfg.TLS != nil {
		p.tls("TLS", cfg.TLS)
		secured = cfg.TLS.Config
		if _, err := secured(); err != nil {
			p = append(p, err)
		}
		if cfg.TLS.Insecure {
			cfg.Logger.Warn("tls.insecure is set: whoever answers is taken for ZooKeeper, and gets the login")
		}
	}
	if err := p.err("metadata.Config"); err != nil {
		return nil, nil, err
	}
	s := &Store{
		Layout: Layout{Root: cfg.Root, ShadowRoot: cfg.ShadowRoot},
		cfg:    cfg, log: cfg.Logger, chroot: chroot,
		closed: make(chan struct{}), followers: map[*Follower]struct{}{},
	}
	s.who.init(who)
	s.ctx, s.cancel = context.WithCancel(context.Background())
	s.sessions.init(s.ctx)
	s.watches.armed = map[watchKey]<-chan zk.Event{}
	s.dialer = &dialer{dial: cfg.Dialer, tls: secured, ctx: s.ctx, timeout: max(time.Second, cfg.SessionTimeout/3), session: cfg.SessionTimeout, log: s.log, started: make(chan struct{})}
	s.sessions.ready, s.sessions.expired = s.dialer.ready, s.dialer.expired
	if cfg.SnapshotDir != "" {
		s.snap = openSnapshot(cfg.SnapshotDir, cfg.App, s.log)
		s.snap.identity = s.ensemble.id
		s.ensemble.home = s.snap.ensemble()
	}
	return s, servers, nil
}

// spawn runs f in a goroutine that Close waits for; false when the Store was closed.
func (s *Store) spawn(f func()) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stopped {
		return false
	}
	s.wg.Go(f)
	return true
}

// Close ends the session, so that its ephemeral nodes go at once, ends all followers, and writes the snapshot. When ctx ends
// first it returns ctx's error and goes on closing; it may be called again. Idempotent. It must not be called from a
// function that a Follower or OnSession calls.
func (s *Store) Close(ctx context.Context) error {
	s.mu.Lock()
	s.stopped = true
	s.mu.Unlock()
	s.cancel()
	select {
	case <-s.closed:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("closing the connection to ZooKeeper: %w", ctx.Err())
	}
}

// finish closes the library's connection when the Store is closed and waits for everything to end.
func (s *Store) finish(events <-chan zk.Event) {
	<-s.ctx.Done()
	// The library gives the server a second to answer; a server that hangs would hold its goroutines for longer.
	s.conn.Close()
	s.dialer.cut()
	for range events { // closed when the library's loop has ended
	}
	s.wg.Wait()
	if s.snap != nil {
		s.snap.save()
	}
	close(s.closed)
}

// jitter is d ± 50 %.
func jitter(d time.Duration) time.Duration {
	return d/2 + rand.N(d+1) //nolint:gosec // jitter
}

// errLost is what a request ends with when the connection went in the middle.
var errLost = errors.New("the connection to ZooKeeper was lost")
