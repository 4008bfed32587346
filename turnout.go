package turnout

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"go.uber.org/zap"

	"github.com/turnout-mq/turnout/broker"
	"github.com/turnout-mq/turnout/broker/drivers"
	"github.com/turnout-mq/turnout/consumer"
	"github.com/turnout-mq/turnout/internal/clusters"
	"github.com/turnout-mq/turnout/internal/errs"
	"github.com/turnout-mq/turnout/internal/topics"
	"github.com/turnout-mq/turnout/metadata"
	"github.com/turnout-mq/turnout/producer"
	"github.com/turnout-mq/turnout/shadow"
)

// Version of this SDK, as instances report it.
const Version = "0.1.0"

// What applications handle. See the packages that define them for the fields.
type (
	// Message is what an application sends.
	Message = broker.Message
	// Header is one name and value of a message.
	Header = broker.Header
	// Delivery is one message for a listener.
	Delivery = consumer.Delivery
	// Listener handles one message: nil is done, an error is "give it to me again".
	Listener = consumer.Listener
	// Subscription is one group in this process.
	Subscription = consumer.Subscription
	// SubscribeOption changes a subscription; see WithLinger and the like in package consumer.
	SubscribeOption = consumer.Option
	// SendResult says where a message was stored.
	SendResult = producer.Result
	// TLS names the files of a connection with TLS.
	TLS = metadata.TLS
)

// Config says who the application is and where its metadata is. It is not changed.
type Config struct {
	App         string      // application id, required: [a-zA-Z0-9_-]{1,120}; the first level under ShadowRoot
	ZooKeeper   string      // "host:port,host:port[/chroot]", required
	Root        string      // of Turnout's nodes. Default "/turnout"
	ShadowRoot  string      // of the shadow flags. Default "/zpt"
	SnapshotDir string      // where the last good metadata is kept. Default: in the user's cache directory, one for each ZooKeeper and Root
	Logger      *zap.Logger // default: none
}

// Option changes a client.
type Option func(*options)

type options struct {
	authScheme, authSecret string
	tls                    *TLS
	sessionTimeout         time.Duration
	clusterLinger          time.Duration
	recheck                time.Duration
}

// WithZooKeeperAuth authenticates to ZooKeeper, and gives the nodes that the client creates to that identity. secret is a
// reference, env:NAME or file:PATH; for scheme "digest" it holds user:password, and in further lines further identities. It
// is read again at each connection and each recheck.
func WithZooKeeperAuth(scheme, secret string) Option {
	return func(o *options) { o.authScheme, o.authSecret = scheme, secret }
}

// WithZooKeeperTLS talks TLS to ZooKeeper; the addresses are those of its secureClientPort. The files of t are read again at
// each connection. That of clusters is in their metadata.
func WithZooKeeperTLS(t TLS) Option { return func(o *options) { o.tls = &t } }

// WithSessionTimeout sets the session time-out asked of ZooKeeper. Default 10 s. Shorter: a dead instance is noticed
// sooner, and a slow one is taken for dead sooner.
func WithSessionTimeout(d time.Duration) Option { return func(o *options) { o.sessionTimeout = d } }

// WithClusterLinger sets how long the connection to a cluster is kept after its last use. Default a minute. Longer: a
// move back soon after a move finds it open; shorter: the old cluster sees the last connection go sooner. Those of stress
// traffic are kept for 5 s at most.
func WithClusterLinger(d time.Duration) Option { return func(o *options) { o.clusterLinger = d } }

// WithRecheck sets how often, ± 50 %, each node in use is compared with ZooKeeper besides being watched. Default a
// minute.
func WithRecheck(d time.Duration) Option { return func(o *options) { o.recheck = d } }

// Client sends and receives for one application. All methods may be called concurrently.
type Client struct {
	store    *metadata.Store
	pool     *clusters.Pool
	set      *topics.Set
	producer *producer.Producer
	consumer *consumer.Consumer
	shadow   *shadowSide
	log      *zap.Logger

	instance *instance
	closing  chan struct{} // holds the one Close that is at work
	closed   bool          // guarded by closing
}

// Open connects to ZooKeeper and registers the instance. It returns when the first session is there, or, when ctx ends
// or a few seconds pass without one, by the snapshot of an earlier run.
//
// Errors: ErrInvalid names every bad field; ErrNoMetadata: no ZooKeeper and no snapshot.
func Open(ctx context.Context, cfg Config, opts ...Option) (*Client, error) {
	o := options{clusterLinger: time.Minute}
	for _, opt := range opts {
		opt(&o)
	}
	log := cfg.Logger
	if log == nil {
		log = zap.NewNop()
	}
	log = log.Named("turnout")
	dir := cfg.SnapshotDir
	if dir == "" {
		cache, err := os.UserCacheDir()
		if err != nil {
			log.Warn("no snapshot will be kept: set SnapshotDir", zap.Error(err))
		} else {
			// What another ZooKeeper said, or another root of it, must not be taken for this one's.
			of := sha256.Sum256([]byte(cfg.ZooKeeper + "\x00" + cfg.Root))
			dir = filepath.Join(cache, "turnout", "snapshots", hex.EncodeToString(of[:8]))
		}
	}
	if dir == "" { // with a snapshot the store checks it, beside all else
		if err := metadata.CheckName("App", cfg.App); err != nil {
			return nil, fmt.Errorf("open: %w", err)
		}
	}
	store, err := metadata.Open(metadata.Config{ZooKeeper: cfg.ZooKeeper, Root: cfg.Root, ShadowRoot: cfg.ShadowRoot, SnapshotDir: dir,
		App: cfg.App, AuthScheme: o.authScheme, AuthSecret: o.authSecret, TLS: o.tls, SessionTimeout: o.sessionTimeout, Recheck: o.recheck, Logger: log})
	if err != nil {
		return nil, fmt.Errorf("open: %w", err)
	}
	if err := connect(ctx, store); err != nil {
		return nil, errors.Join(fmt.Errorf("open: %w", err), store.Close(context.WithoutCancel(ctx)))
	}
	id := metadata.NewInstanceID()
	c := &Client{store: store, log: log, closing: make(chan struct{}, 1)}
	c.pool = clusters.NewPool(store, drivers.Open, cfg.App+"-"+id, o.clusterLinger, log)
	c.set = topics.NewSet(store, c.pool, id, log)
	c.producer = producer.New(c.set, c.pool, log)
	c.consumer = consumer.New(store, c.set, c.pool, log)
	c.instance = register(store, cfg.App, id, log)
	c.shadow = newShadowSide(c, cfg.App, id, o)
	return c, nil
}

// snapshotPatience is how long Open waits for ZooKeeper when it could start from a snapshot.
const snapshotPatience = 3 * time.Second

func connect(ctx context.Context, store *metadata.Store) error {
	wait := ctx
	if store.HasSnapshot() {
		var cancel context.CancelFunc
		wait, cancel = context.WithTimeout(ctx, snapshotPatience)
		defer cancel()
	}
	if _, err := store.WaitConnected(wait); err != nil && !store.HasSnapshot() {
		return fmt.Errorf("%w: ZooKeeper does not answer and there is no snapshot to start from: %w", errs.ErrNoMetadata, err)
	}
	return nil
}

// Send stores m on the cluster that carries topic and returns when the cluster has acknowledged it. With the stress mark in
// ctx (shadow.WithMark) it goes to topic's shadow topic, never to topic itself. Send waits and repeats, also on another
// cluster when the topic moves, until ctx ends: give ctx a deadline. m is not changed, and not kept after Send has returned
// without ctx's error or ErrClosed; after those its memory may still be read.
//
// Errors: ErrInvalid, ErrTooLarge, ErrUnsupported: m is not acceptable. ErrUnknownTopic. ErrNotFound: the topic's cluster is
// not in the metadata. ErrNoShadow: ctx is marked and topic has no shadow topic. ErrNotAllowed: also a send without the mark
// that names a shadow topic. ErrNoMetadata. ErrFenced. ErrClosed. ctx's error: whether m was stored is not known; sending it
// again with the same ID makes it a duplicate at worst.
func (c *Client) Send(ctx context.Context, topic string, m *Message) (SendResult, error) {
	return c.side(ctx).Send(ctx, topic, m)
}

// SendAsync is Send that calls done, exactly once, instead of waiting for the cluster's answer. done must not block. m
// must not be changed before done was called; after an error of ctx or ErrClosed its memory may still be read. See
// producer.Producer.SendAsync for order and waiting.
func (c *Client) SendAsync(ctx context.Context, topic string, m *Message, done func(SendResult, error)) {
	c.side(ctx).SendAsync(ctx, topic, m, done)
}

// side is the producer for what is sent with ctx.
func (c *Client) side(ctx context.Context) *producer.Producer {
	if shadow.Marked(ctx) {
		return c.shadow.producer
	}
	return c.producer
}

// Subscribe begins to hand the messages of group's topics to l, from every cluster that still has some. It returns when
// group and topics are known; Subscription.Ready waits until the process is a member on the clusters. The group's settings
// (paused, concurrency, rate) apply live. ctx bounds the call only.
//
// While a flag below {ShadowRoot}/{App} enables the group, l is also called for the messages of the group's shadow group, with
// a ctx that carries the stress mark (package shadow).
//
// Errors: ErrUnknownGroup, ErrUnknownTopic, ErrNoMetadata, ErrConflict (subscribed already), ErrClosed.
func (c *Client) Subscribe(ctx context.Context, group string, l Listener, opts ...SubscribeOption) (*Subscription, error) {
	sub, err := c.consumer.Subscribe(ctx, group, l, opts...)
	if err == nil {
		c.shadow.subscribed(sub, group, l, opts)
	}
	return sub, err
}

// Stats counts the client's sends without the stress mark since Open.
func (c *Client) Stats() producer.Stats { return c.producer.Stats() }

// Close ends subscriptions and sends in good order: listeners finish and their positions are stored, sends that were
// begun are waited for, the instance signs off. When ctx ends first what is left is given up: sends get ErrClosed,
// messages that were not finished are handed over again elsewhere. It returns ctx's error then; what still has to end, such
// as a listener that does not return, does so by itself, and Close may be called again to wait for it. Idempotent.
func (c *Client) Close(ctx context.Context) error {
	select {
	case c.closing <- struct{}{}:
		defer func() { <-c.closing }()
	case <-ctx.Done():
		return ctx.Err()
	}
	if c.closed {
		return nil
	}
	err := errors.Join(
		c.consumer.Close(ctx),
		c.producer.Close(ctx),
		c.shadow.close(ctx),
		c.set.Close(ctx),
		c.instance.close(ctx),
		c.pool.Close(ctx),
		c.store.Close(ctx),
	)
	c.closed = err == nil
	if err != nil && ctx.Err() != nil { // each of them says so
		return fmt.Errorf("close: not everything has ended yet: %w", ctx.Err())
	}
	return err
}
