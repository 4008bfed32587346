package rocketmq

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/apache/rocketmq-client-go/v2/primitive"
	libproducer "github.com/apache/rocketmq-client-go/v2/producer"
	"github.com/apache/rocketmq-client-go/v2/rlog"
	"go.uber.org/zap"

	"github.com/turnout-mq/turnout/broker/rocketmq/remoting"
)

// producerGroup is what brokers know this producer as. It matters for transactions only, which are not used.
const producerGroup = "TURNOUT_PRODUCER"

// noTopic exists nowhere: the library asks for the topic by which brokers create missing ones, and must not find it.
const noTopic = "TURNOUT_NO_SUCH_TOPIC"

// libraryProducer is what is used of the library's producer.
type libraryProducer interface {
	Start() error
	Shutdown() error
	SendSync(ctx context.Context, m ...*primitive.Message) (*primitive.SendResult, error)
	Request(ctx context.Context, ttl time.Duration, m *primitive.Message) (*primitive.Message, error)
	// IsPublishTopicNeedUpdate says that the library has no queue to write to for a topic.
	IsPublishTopicNeedUpdate(topic string) bool
}

// library sends through one instance of the library's producer at a time. The library asks for routes every 30 s only
// and can not be told to do so: where its route is in the way the instance is replaced.
type library struct {
	c *Cluster

	mu       sync.Mutex
	instance *instance
	closed   bool
	ending   sync.WaitGroup // instances that were replaced
}

type instance struct {
	libraryProducer
	credentials primitive.Credentials
	users       sync.WaitGroup
}

func newLibrary(c *Cluster) *library {
	useLogger(c.log)
	return &library{c: c}
}

// acquire returns the instance in force, which stays usable until release. stale, if not nil, is replaced.
func (l *library) acquire(stale *instance) (*instance, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return nil, remoting.ErrClientClosed
	}
	if l.instance == nil || l.instance == stale {
		fresh, err := l.start()
		if err != nil {
			return nil, err
		}
		if stale != nil {
			l.ending.Go(stale.end)
		}
		l.instance = fresh
	}
	l.instance.users.Add(1)
	return l.instance, nil
}

func (i *instance) release() { i.users.Done() }

// end shuts the instance down when its last send has ended.
func (i *instance) end() {
	i.users.Wait()
	_ = i.Shutdown() // always nil
}

func (l *library) start() (*instance, error) {
	cfg := l.c.cfg
	name := fmt.Sprintf("turnout-%d-%s-%d", os.Getpid(), cfg.Name, instances.Add(1))
	credentials, err := l.credentials()
	if err != nil {
		return nil, err
	}
	p, err := libproducer.NewDefaultProducer(
		libproducer.WithGroupName(producerGroup),
		libproducer.WithInstanceName(name),
		libproducer.WithNsResolver(&resolver{addresses: cfg.Addresses}),
		libproducer.WithCredentials(credentials),
		libproducer.WithQueueSelector(libproducer.NewManualQueueSelector()),
		libproducer.WithCreateTopicKey(noTopic),
		libproducer.WithSendMsgTimeout(sendTimeout),
		libproducer.WithRetry(0),
	)
	if err == nil {
		err = p.Start()
	}
	if err != nil {
		return nil, fmt.Errorf("start the library's producer %s: %w", name, err)
	}
	return &instance{libraryProducer: p, credentials: credentials}, nil
}

func (l *library) credentials() (c primitive.Credentials, err error) {
	if l.c.cfg.Login != nil {
		c.AccessKey, c.SecretKey, err = l.c.cfg.Login()
	}
	return c, err
}

// close waits for the sends that are under way and ends the instance.
func (l *library) close() {
	l.mu.Lock()
	i := l.instance
	l.closed, l.instance = true, nil
	l.mu.Unlock()
	if i != nil {
		i.end()
	}
	l.ending.Wait()
	dropLogger(l.c.log)
}

// send sends a message to q within sendTimeout. No context is passed on: the library would end the connection that all
// sends share when a deadline passes while it writes.
func (l *library) send(q *primitive.MessageQueue, properties map[string]string, body []byte) (*primitive.SendResult, error) {
	i, err := l.acquire(nil)
	if err != nil {
		return nil, err
	}
	r, err := i.send(q, properties, body)
	if !staleRoute(err) && !l.staleLogin(i, err) {
		return r, libraryError(err)
	}
	if i, err = l.acquire(i); err != nil {
		return nil, err
	}
	r, err = i.send(q, properties, body)
	return r, libraryError(err)
}

// send sends once and releases the instance. The library changes the message, and adds a property.
func (i *instance) send(q *primitive.MessageQueue, properties map[string]string, body []byte) (*primitive.SendResult, error) {
	defer i.release()
	m := &primitive.Message{Topic: q.Topic, Body: body, Queue: q}
	m.WithProperties(properties)
	return i.SendSync(context.Background(), m)
}

// staleRoute: the library has no route for a topic, or no address for a broker, that this package has. There is only
// the text to tell it by; nothing was sent.
func staleRoute(err error) bool {
	return err != nil && strings.Contains(err.Error(), "route info not found")
}

// staleLogin: the broker refuses the login that the instance was begun with, and there is another now. Nothing was stored.
func (l *library) staleLogin(i *instance, err error) bool {
	if !remoting.HasCode(libraryError(err), remoting.NoPermission) {
		return false
	}
	now, err := l.credentials()
	return err == nil && now != i.credentials
}

// libraryError makes an answer of the broker a ResponseError; the library has it as text only.
func libraryError(err error) error {
	if err == nil {
		return nil
	}
	var code int
	if _, scanErr := fmt.Sscanf(err.Error(), "CODE: %d,", &code); scanErr != nil {
		return err
	}
	_, remark, _ := strings.Cut(err.Error(), "DESC: ")
	return &remoting.ResponseError{Request: remoting.ReqSendMessage, Code: code, Addr: "broker", Remark: remark}
}

// warm makes the library know topic and connect to its brokers. It can not be cancelled and may take seconds.
func (l *library) warm(topic string) error {
	i, err := l.acquire(nil)
	if err != nil {
		return err
	}
	prime(i, topic)
	if i.IsPublishTopicNeedUpdate(topic) {
		i.release()
		if i, err = l.acquire(i); err != nil {
			return err
		}
		prime(i, topic)
	}
	defer i.release()
	if i.IsPublishTopicNeedUpdate(topic) {
		return fmt.Errorf("the library finds no queue of topic %q to write to", topic)
	}
	// A request to a topic that does not exist sends nothing, but a heartbeat to every known broker before it fails.
	_, _ = i.Request(context.Background(), sendTimeout, &primitive.Message{Topic: noTopic})
	return nil
}

// prime lets the library ask for the route of topic. A message without a queue can not be sent: the selector has none
// to give.
func prime(i *instance, topic string) {
	_, _ = i.SendSync(context.Background(), &primitive.Message{Topic: topic})
}

// resolver resolves host names for the library, which takes addresses only and asks again every two minutes.
type resolver struct {
	addresses []string

	mu   sync.Mutex
	last []string
}

func (r *resolver) Resolve() []string {
	ctx, cancel := context.WithTimeout(context.Background(), callTimeout)
	defer cancel()
	var out []string
	var failed error
	for _, address := range r.addresses {
		host, port, err := net.SplitHostPort(address)
		if err != nil {
			failed = err
			continue
		}
		ips, err := net.DefaultResolver.LookupHost(ctx, host)
		failed = errors.Join(failed, err)
		if len(ips) > 0 {
			out = append(out, net.JoinHostPort(ips[0], port))
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if failed != nil && len(r.last) > len(out) {
		return r.last
	}
	r.last = out
	return out
}

func (r *resolver) Description() string { return strings.Join(r.addresses, ",") }

// The library has one logger for the process. Nothing it says is acted upon: its results say the same.
var (
	setLogger     sync.Once
	libraryLogger atomic.Pointer[zap.Logger]
)

func useLogger(l *zap.Logger) {
	setLogger.Do(func() { rlog.SetLogger(quietLogger{}) })
	libraryLogger.Store(l)
}

// dropLogger: the library logs for minutes after its end, a logger of a test must not see that.
func dropLogger(l *zap.Logger) { libraryLogger.CompareAndSwap(l, nil) }

type quietLogger struct{}

func (quietLogger) log(msg string, fields map[string]any) {
	if l := libraryLogger.Load(); l != nil {
		l.Debug("rocketmq-client-go: "+msg, zap.Any("fields", fields))
	}
}

func (q quietLogger) Debug(string, map[string]any)              {}
func (q quietLogger) Info(msg string, fields map[string]any)    { q.log(msg, fields) }
func (q quietLogger) Warning(msg string, fields map[string]any) { q.log(msg, fields) }
func (q quietLogger) Error(msg string, fields map[string]any)   { q.log(msg, fields) }
func (q quietLogger) Fatal(msg string, fields map[string]any)   { q.log(msg, fields) }
func (quietLogger) Level(string)                                {}
func (quietLogger) OutputPath(string) error                     { return nil }
