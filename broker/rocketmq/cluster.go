package rocketmq

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/turnout-mq/turnout/broker"
	"github.com/turnout-mq/turnout/broker/rocketmq/remoting"
	"github.com/turnout-mq/turnout/internal/errs"
)

// instances numbers what must have a name of its own in this process: the library keeps its clients in a process-wide
// map, and two members with one client id would be one to a broker.
var instances atomic.Int64

// Cluster implements broker.Cluster.
type Cluster struct {
	cfg      broker.Config
	levels   []time.Duration // of delays
	times    times
	log      *zap.Logger
	admin    *remoting.Client // for questions; members have clients of their own
	routes   *routes
	producer *producer
	ctx      context.Context // ends with Close
	cancel   context.CancelFunc

	mu      sync.Mutex
	closed  bool
	members map[*member]struct{}
	closing chan struct{} // closed when Close has done all; made by the first Close
}

var _ broker.Cluster = (*Cluster)(nil)

// Open connects to a name server and asks it which brokers there are. ErrInvalid: cfg is not acceptable, or it is
// another cluster than cfg.ClusterID; ErrUnsupported: cfg asks for TLS. Any other error says that no name server
// answered in time.
func Open(ctx context.Context, cfg broker.Config) (broker.Cluster, error) {
	levels, retired, err := parse(cfg)
	if err != nil {
		return nil, err
	}
	if cfg.Logger == nil {
		cfg.Logger = zap.NewNop()
	}
	if cfg.ClientID == "" {
		host, _ := os.Hostname()
		cfg.ClientID = fmt.Sprintf("%s@%d", host, os.Getpid())
	}
	c := &Cluster{cfg: cfg, levels: levels, times: usualTimes, log: cfg.Logger.With(zap.String("cluster", cfg.Name)), members: map[*member]struct{}{}}
	c.ctx, c.cancel = context.WithCancel(context.Background())
	c.admin = remoting.NewClient(c.remotingOptions())
	c.routes = newRoutes(cfg.Addresses, c.admin, cfg.ClusterID, retired)
	if err := c.identify(ctx); err != nil {
		c.cancel()
		c.admin.Close()
		return nil, err
	}
	c.producer = newProducer(c)
	return c, nil
}

func (c *Cluster) remotingOptions() remoting.Options {
	return remoting.Options{Login: c.cfg.Login}
}

// identify checks that cfg says which cluster is meant, and that it is there.
func (c *Cluster) identify(ctx context.Context) error {
	info, err := c.routes.clusterInfo(ctx)
	if err != nil {
		return c.wrap("open", err)
	}
	names := slices.Sorted(maps.Keys(info.Clusters))
	switch {
	case len(names) == 0: // brokers are down or have just begun: what is needed of them fails until they are there
	case c.cfg.ClusterID == "" && len(names) > 1:
		return c.wrap("open", invalid("the name server serves several clusters: set clusterId to one of %s", strings.Join(names, ", ")))
	case c.cfg.ClusterID != "" && !slices.Contains(names, c.cfg.ClusterID):
		return c.wrap("open", invalid("clusterId is %q, but the name server serves %s", c.cfg.ClusterID, strings.Join(names, ", ")))
	}
	return nil
}

// Features implements broker.Cluster.
func (c *Cluster) Features() broker.Features {
	return broker.Features{Delay: true, SendTimeout: queueTimeout + routeTimeout + sendTimeout + routeTimeout,
		CommitInterval: commitInterval, ClosingFence: true}
}

// Close implements broker.Cluster.
func (c *Cluster) Close(ctx context.Context) error {
	c.mu.Lock()
	first := c.closing == nil
	if first {
		c.closed, c.closing = true, make(chan struct{})
	}
	members := slices.Collect(maps.Keys(c.members))
	c.mu.Unlock()
	if first {
		go c.shutdown(members)
	}
	select {
	case <-c.closing:
		return nil
	case <-ctx.Done():
		c.producer.abort() // what was begun fails now; the rest ends by itself
		return c.wrap("close", ctx.Err())
	}
}

// shutdown ends everything. It takes no longer than a send and the listeners of the members take.
func (c *Cluster) shutdown(members []*member) {
	var wg sync.WaitGroup
	for _, m := range members {
		wg.Go(func() {
			if err := m.Leave(context.Background()); err != nil {
				c.log.Warn("leaving a group", zap.String("group", m.want.Group), zap.Error(err))
			}
		})
	}
	wg.Go(c.producer.close)
	wg.Wait()
	c.cancel()
	c.admin.Close()
	close(c.closing)
}

// open returns ErrClosed after Close.
func (c *Cluster) open() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return c.wrap("use", errs.ErrClosed)
	}
	return nil
}

// ask is what every method but Send begins with: it ends with ctx and with Close.
func (c *Cluster) ask(ctx context.Context) (context.Context, context.CancelFunc, error) {
	if err := c.open(); err != nil {
		return nil, nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	stop := context.AfterFunc(c.ctx, cancel)
	return ctx, func() { stop(); cancel() }, nil
}

// done wraps the result of a method: an error after Close is ErrClosed.
func (c *Cluster) done(what string, err error) error {
	if err != nil && c.ctx.Err() != nil && !errors.Is(err, errs.ErrClosed) {
		err = errors.Join(errs.ErrClosed, err)
	}
	return c.wrap(what, err)
}
