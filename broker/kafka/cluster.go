package kafka

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/IBM/sarama"
	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"

	"github.com/turnout-mq/turnout/broker"
	"github.com/turnout-mq/turnout/internal/errs"
)

// Cluster is one Kafka cluster; see broker.Cluster.
type Cluster struct {
	cfg    broker.Config
	set    settings
	log    *zap.Logger
	dialer *dialer
	ask    sarama.Client // for questions and administration; sends and memberships have their own

	producer atomic.Pointer[producer] // nil until the first Warm or Send

	making sync.Mutex // held by whoever makes the producer

	mu      sync.Mutex
	closed  bool
	members map[*member]struct{}
	calls   sync.WaitGroup // questions that are under way
	down    chan struct{}  // closed when Close has done all
}

var _ broker.Cluster = (*Cluster)(nil)

// Open connects to the cluster and checks that it is the one that cfg means. Errors: ErrInvalid for what is wrong in
// cfg, or for another cluster than cfg.ClusterID; ErrNotAllowed; else the addresses and why they did not answer.
func Open(ctx context.Context, cfg broker.Config) (broker.Cluster, error) {
	set, err := parse(cfg)
	if err != nil {
		return nil, err
	}
	c := &Cluster{
		cfg:     cfg,
		set:     set,
		log:     cfg.Logger,
		dialer:  newDialer(cfg),
		members: make(map[*member]struct{}),
		down:    make(chan struct{}),
	}
	if c.log == nil {
		c.log = zap.NewNop()
	}
	if err := c.checkTLS(); err != nil {
		return nil, err
	}
	if c.ask, err = sarama.NewClient(cfg.Addresses, c.base()); err != nil {
		return nil, c.wrap("open", fmt.Errorf("%w: %w", errs.ErrInvalid, err))
	}
	info, err := call(ctx, c, "open", func() (info broker.Info, err error) {
		info, _, err = c.identify()
		return info, err
	})
	if err == nil && cfg.ClusterID != "" && cfg.ClusterID != info.ClusterID {
		err = fmt.Errorf("%w: kafka cluster %q at %v is cluster %q, not %q: correct the addresses or the cluster id",
			errs.ErrInvalid, cfg.Name, cfg.Addresses, info.ClusterID, cfg.ClusterID)
	}
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		err = fmt.Errorf("%w: the broker closed the connection: check tls, auth.mechanism and the password behind auth.secret of the cluster", err)
	}
	if err != nil {
		end, cancel := context.WithCancel(context.Background())
		cancel()
		_ = c.Close(end)
		return nil, err
	}
	return c, nil
}

// checkTLS says what is wrong with the TLS files before anything is dialled.
func (c *Cluster) checkTLS() error {
	if c.cfg.TLS == nil {
		return nil
	}
	config, err := c.cfg.TLS()
	if err != nil {
		return c.wrap("open", err)
	}
	if config.InsecureSkipVerify {
		c.log.Warn("tls.insecure is set: whoever answers is taken for the cluster, and gets the login", zap.String("cluster", c.cfg.Name))
	}
	return nil
}

// Features implements broker.Cluster.
func (c *Cluster) Features() broker.Features {
	return broker.Features{
		BinaryHeaders:  true,
		SendTimeout:    c.set.sendTimeout,
		CommitInterval: c.set.commit,
		Fence:          true,
	}
}

// begin counts a call that is under way, or refuses it.
func (c *Cluster) begin() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return c.errClosed()
	}
	c.calls.Add(1)
	return nil
}

func (c *Cluster) errClosed() error {
	return fmt.Errorf("kafka cluster %q: %w", c.cfg.Name, errs.ErrClosed)
}

// call runs f in a goroutine, because sarama can not be cancelled, and leaves it alone when ctx ends first; its net
// timeouts, or Close, end it.
func call[T any](ctx context.Context, c *Cluster, what string, f func() (T, error)) (T, error) {
	var zero T
	if err := c.begin(); err != nil {
		return zero, err
	}
	if err := ctx.Err(); err != nil {
		c.calls.Done()
		return zero, c.wrap(what, err)
	}
	type result struct {
		value T
		err   error
	}
	answer := make(chan result, 1)
	go func() {
		defer c.calls.Done()
		v, err := f()
		answer <- result{v, err}
	}()
	select {
	case r := <-answer:
		return r.value, c.wrap(what, r.err)
	case <-ctx.Done():
		return zero, c.wrap(what, ctx.Err())
	}
}

// Close implements broker.Cluster.
func (c *Cluster) Close(ctx context.Context) error {
	c.mu.Lock()
	first := !c.closed
	c.closed = true
	if p := c.producer.Load(); p != nil {
		p.refuse()
	}
	c.mu.Unlock()
	if first {
		go c.shut(ctx)
	}
	select {
	case <-c.down:
		return nil
	case <-ctx.Done():
	}
	select {
	case <-c.down:
		return nil
	default:
		return c.wrap("close", ctx.Err())
	}
}

// shut ends everything in the order in which it depends on each other; when ctx ends it does so by force. Nothing
// begins any more, so members and the producer stay what they are.
func (c *Cluster) shut(ctx context.Context) {
	force := context.AfterFunc(ctx, func() {
		c.dialer.abort()
		if p := c.producer.Load(); p != nil {
			p.fail(c.errClosed())
		}
	})
	var members sync.WaitGroup
	for m := range c.members {
		members.Go(func() { _ = m.Leave(context.Background()) })
	}
	members.Wait()
	c.calls.Wait()
	if p := c.producer.Load(); p != nil {
		p.close()
	}
	_ = c.ask.Close()
	force()
	close(c.down)
}

// request asks any broker: one that is known to the client, else one of the addresses. What the first one answers is the
// answer, also when it is an error.
func request[T any](c *Cluster, f func(*sarama.Broker) (T, error)) (T, error) {
	var failures []error
	try := func(b *sarama.Broker) (v T, err error, answered bool) {
		_ = b.Open(c.ask.Config())
		v, err = f(b)
		if _, answered = errors.AsType[sarama.KError](err); err != nil && !answered {
			_ = b.Close()
			failures = append(failures, fmt.Errorf("%s: %w", b.Addr(), err))
		}
		return v, err, err == nil || answered
	}
	for _, b := range c.ask.Brokers() {
		if v, err, answered := try(b); answered {
			return v, err
		}
	}
	for _, address := range c.cfg.Addresses {
		b := sarama.NewBroker(address)
		if v, err, answered := try(b); answered {
			_ = b.Close()
			return v, err
		}
	}
	var zero T
	return zero, errors.Join(failures...)
}

// metadata asks any broker about topics; none: about all of them.
func (c *Cluster) metadata(topics ...string) (*sarama.MetadataResponse, error) {
	return request(c, func(b *sarama.Broker) (*sarama.MetadataResponse, error) {
		return b.GetMetadata(sarama.NewMetadataRequest(c.set.version, topics))
	})
}

// identify asks who the cluster is and which brokers are up; about one topic, whether it exists or not, because that saves
// the list of all.
func (c *Cluster) identify() (broker.Info, []*sarama.Broker, error) {
	md, err := c.metadata("__consumer_offsets")
	if err != nil {
		return broker.Info{}, nil, err
	}
	var info broker.Info
	if md.ClusterID != nil {
		info.ClusterID = *md.ClusterID
	}
	for _, b := range md.Brokers {
		info.Brokers = append(info.Brokers, b.Addr())
	}
	slices.Sort(info.Brokers)
	return info, md.Brokers, nil
}

// Describe implements broker.Admin. Version is the inter.broker.protocol.version, or "metadata.version" and its level where
// there is none (Kafka 4.0 and later): brokers may be newer.
func (c *Cluster) Describe(ctx context.Context) (broker.Info, error) {
	return call(ctx, c, "describe", func() (broker.Info, error) {
		info, brokers, err := c.identify()
		if err != nil {
			return info, err
		}
		var mu sync.Mutex
		var all errgroup.Group
		var versions []string
		for _, b := range brokers {
			all.Go(func() error {
				_ = b.Open(c.ask.Config())
				defer func() { _ = b.Close() }()
				creates, version, err := about(b)
				if err != nil {
					return fmt.Errorf("%s: %w", b.Addr(), err)
				}
				mu.Lock()
				defer mu.Unlock()
				info.AutoCreate = info.AutoCreate || creates
				versions = append(versions, version)
				return nil
			})
		}
		err = all.Wait()
		slices.Sort(versions)
		info.Version = strings.Join(slices.Compact(versions), "|")
		return info, err
	})
}

// about asks one broker whether it creates topics by being sent to, and for its version. Who may not ask is told that it does.
func about(b *sarama.Broker) (creates bool, version string, err error) {
	entries, err := describe(b, sarama.BrokerResource, strconv.Itoa(int(b.ID())))
	if err != nil {
		return false, "", err
	}
	creates = true // the default of Kafka, and of who does not show it
	for _, e := range entries {
		switch e.Name {
		case "auto.create.topics.enable":
			creates = e.Value != "false"
		case "inter.broker.protocol.version":
			version = e.Value
		}
	}
	if version != "" {
		return creates, version, nil
	}
	features, err := b.ApiVersions(&sarama.ApiVersionsRequest{Version: 3, ClientSoftwareName: "turnout", ClientSoftwareVersion: "1"})
	if err != nil {
		return false, "", err
	}
	for _, f := range features.FinalizedFeatures {
		if f.Name == "metadata.version" {
			version = "metadata.version " + strconv.Itoa(int(f.MaxVersionLevel))
		}
	}
	return creates, version, nil
}
