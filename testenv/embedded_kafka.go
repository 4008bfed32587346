package testenv

import (
	"context"
	"fmt"
	"net"
	"sync"

	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"
	"go.uber.org/zap"
)

// embeddedKafka is a Kafka cluster of one broker in this process, with what serversKafka sets.
func (e *Env) embeddedKafka(name string) (*cluster, error) {
	port, err := e.ports.take(2)
	if err != nil {
		return nil, err
	}
	dir, err := e.mkdir(name)
	if err != nil {
		return nil, err
	}
	k := &fakeKafka{name: name, id: kafkaID(), dir: dir, clients: loopback(port), direct: loopback(port), secrets: e.secrets, log: e.log}
	var r *relay
	if e.spec.Proxy {
		k.direct = loopback(port + 1)
		r = &relay{target: k.direct}
	}
	c := &cluster{name: name, kind: kindKafka, id: k.id}
	c.add(name, k, k.clients, r)
	return c, nil
}

// EmbeddedKafka returns the kfake cluster behind a name, for faults that only it has; nil on Servers, for an
// unknown name, and while it is stopped. It is another one after a Restart.
func (e *Env) EmbeddedKafka(cluster string) *kfake.Cluster {
	c := e.cluster(cluster)
	if c == nil {
		return nil
	}
	k, ok := c.nodes[0].server.(*fakeKafka)
	if !ok {
		return nil
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.kfake
}

// fakeKafka is a kfake cluster that can be ended and started again.
type fakeKafka struct {
	name, id, dir string
	clients       string // address that it tells clients
	direct        string // address that it listens on
	secrets       *secured
	log           *zap.Logger

	mu    sync.Mutex
	kfake *kfake.Cluster // nil while it does not run
	gate  *gate
}

func (k *fakeKafka) start(context.Context) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.kfake != nil {
		return fmt.Errorf("testenv: start %s: it runs already", k.name)
	}
	g := newGate()
	opts, err := k.secrets.kfake()
	if err != nil {
		return err
	}
	c, err := kfake.NewCluster(append(opts,
		kfake.NumBrokers(1),
		kfake.ListenFn(func(_, _ string) (net.Listener, error) {
			l, err := listen(k.direct)
			if err != nil {
				return nil, err
			}
			return &gatedListener{Listener: l, gate: g, addr: tcpAddr(k.clients)}, nil
		}),
		kfake.ClusterID(k.id),
		kfake.BrokerConfigs(map[string]string{"auto.create.topics.enable": "false"}), // as the real ones here
		kfake.DataDir(k.dir),
		kfake.DefaultNumPartitions(kafkaPartitions),
		kfake.GroupMinSessionTimeout(kafkaMinSession),
		kfake.WithLogger(kfakeLogger{k.log.Named(k.name)}),
	)...)
	if err != nil {
		return fmt.Errorf("testenv: start %s: %w", k.name, err)
	}
	answerUnknownGroups(c)
	expelGhosts(c)
	k.kfake, k.gate = c, g
	return nil
}

// kfake has the options of a cluster that refuses strangers, as kafkaConf.
func (s *secured) kfake() ([]kfake.Opt, error) {
	if s == nil {
		return nil, nil
	}
	config, err := s.tls()
	return []kfake.Opt{
		kfake.TLS(config), kfake.EnableSASL(), kfake.EnableACLs(),
		kfake.Superuser("PLAIN", s.User, s.Password),
		kfake.Superuser("SCRAM-SHA-256", s.User, s.Password),
		kfake.Superuser("SCRAM-SHA-512", s.User, s.Password),
	}, err
}

// stop and kill do the same: kfake has its data on disk whenever it answers.
func (k *fakeKafka) stop(context.Context) error { return k.kill() }

func (k *fakeKafka) kill() error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.kfake == nil {
		return nil
	}
	k.gate.close()
	k.kfake.Close()
	k.kfake, k.gate = nil, nil
	return nil
}

func (k *fakeKafka) pause() error  { return k.setPaused(true) }
func (k *fakeKafka) resume() error { return k.setPaused(false) }

func (k *fakeKafka) setPaused(paused bool) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.kfake == nil {
		return fmt.Errorf("testenv: %s does not run", k.name)
	}
	k.gate.setShut(paused)
	return nil
}

// answerUnknownGroups makes kfake answer an OffsetFetch of a group that it has never seen as Apache Kafka does:
// offset -1 and no error. A request that names several groups, one of them known, stays with kfake.
func answerUnknownGroups(c *kfake.Cluster) {
	c.ControlKey(int16(kmsg.OffsetFetch), func(kreq kmsg.Request) (kmsg.Response, error, bool) {
		c.KeepControl()
		req := kreq.(*kmsg.OffsetFetchRequest)
		resp := req.ResponseKind().(*kmsg.OffsetFetchResponse)
		if req.Version < 8 { // one group
			if c.GroupInfo(req.Group) != nil {
				return nil, nil, false
			}
			for _, t := range req.Topics {
				rt := kmsg.NewOffsetFetchResponseTopic()
				rt.Topic = t.Topic
				for _, p := range t.Partitions {
					rp := kmsg.NewOffsetFetchResponseTopicPartition()
					rp.Partition, rp.Offset, rp.LeaderEpoch = p, -1, -1
					rt.Partitions = append(rt.Partitions, rp)
				}
				resp.Topics = append(resp.Topics, rt)
			}
			return resp, nil, true
		}
		for _, g := range req.Groups {
			if c.GroupInfo(g.Group) != nil {
				return nil, nil, false
			}
			rg := kmsg.NewOffsetFetchResponseGroup()
			rg.Group = g.Group
			for _, t := range g.Topics {
				rt := kmsg.NewOffsetFetchResponseGroupTopic()
				rt.Topic, rt.TopicID = t.Topic, t.TopicID
				for _, p := range t.Partitions {
					rp := kmsg.NewOffsetFetchResponseGroupTopicPartition()
					rp.Partition, rp.Offset, rp.LeaderEpoch = p, -1, -1
					rt.Partitions = append(rt.Partitions, rp)
				}
				rg.Topics = append(rg.Topics, rt)
			}
			resp.Groups = append(resp.Groups, rg)
		}
		return resp, nil, true
	})
}

// kfakeLogger writes kfake's warnings and errors to zap.
type kfakeLogger struct{ log *zap.Logger }

// Logf implements kfake.Logger.
func (l kfakeLogger) Logf(level kfake.LogLevel, format string, args ...any) {
	switch level {
	case kfake.LogLevelError:
		l.log.Error(fmt.Sprintf(format, args...))
	case kfake.LogLevelWarn:
		l.log.Warn(fmt.Sprintf(format, args...))
	case kfake.LogLevelNone, kfake.LogLevelInfo, kfake.LogLevelDebug:
	}
}
