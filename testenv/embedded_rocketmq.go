package testenv

import (
	"context"
	"errors"
	"fmt"
	"syscall"

	"github.com/turnout-mq/turnout/testenv/rmqserver"
)

// embeddedRocketMQ is a RocketMQ cluster in this process.
func (e *Env) embeddedRocketMQ(name string) (*cluster, error) {
	brokers := e.rocketMQBrokers(name)
	port, err := e.ports.take(2 + 2*len(brokers)) // of what clients reach, and of what stands behind the relays
	if err != nil {
		return nil, err
	}
	behind := func(i int) (own int, r *relay) {
		if !e.spec.Proxy {
			return port + i, nil
		}
		own = port + 1 + len(brokers) + i
		return own, &relay{target: loopback(own)}
	}
	c := &cluster{name: name, kind: kindRocketMQ, id: name}
	own, nameRelay := behind(0)
	n, err := rmqserver.StartNameServer(context.Background(), rmqserver.NameServerOptions{Port: own, Logger: e.log.Named(name)})
	if err != nil {
		return nil, portTaken(name, err)
	}
	defer n.Stop() // until the cluster is started
	c.add(name+"/namesrv", &fakeRocketMQ{name + "/namesrv", n}, loopback(port), nameRelay)
	for i, b := range brokers {
		own, brokerRelay := behind(1 + i)
		opt := rmqserver.BrokerOptions{Cluster: name, Name: b.name, Port: own, NameServers: []*rmqserver.NameServer{n}, Timers: e.spec.RocketMQTimers, Logger: e.log.Named(b.name)}
		if opt.Dir, err = e.mkdir(b.node); err != nil {
			return nil, errors.Join(err, c.close())
		}
		if e.spec.Proxy {
			opt.Advertised = loopback(port + 1 + i)
		}
		if e.secrets != nil {
			opt.Users = map[string]string{e.secrets.User: e.secrets.Password}
		}
		server, err := rmqserver.StartBroker(context.Background(), opt)
		if err != nil {
			return nil, errors.Join(portTaken(b.name, err), c.close())
		}
		defer server.Stop()
		c.add(b.node, &fakeRocketMQ{b.node, server}, loopback(port+1+i), brokerRelay)
	}
	c.addresses = c.addresses[:1] // clients learn the brokers' from the name server
	return c, nil
}

// rocketMQBroker are the names of one broker of a cluster.
type rocketMQBroker struct{ name, node string }

func (e *Env) rocketMQBrokers(cluster string) []rocketMQBroker {
	brokers := []rocketMQBroker{{cluster, cluster + "/broker"}}
	for i := 2; i <= e.spec.RocketMQBrokers; i++ {
		brokers = append(brokers, rocketMQBroker{fmt.Sprintf("%s-%d", cluster, i), fmt.Sprintf("%s/broker-%d", cluster, i)})
	}
	return brokers
}

// EmbeddedRocketMQ returns the first broker behind a name, for faults that only it has; nil on Servers and for an unknown
// name.
func (e *Env) EmbeddedRocketMQ(cluster string) *rmqserver.Broker {
	c := e.cluster(cluster)
	if c == nil || c.kind != kindRocketMQ {
		return nil
	}
	f, ok := c.nodes[1].server.(*fakeRocketMQ)
	if !ok {
		return nil
	}
	return f.server.(*rmqserver.Broker)
}

func portTaken(name string, err error) error {
	if errors.Is(err, syscall.EADDRINUSE) {
		return fmt.Errorf("testenv: start %s: %w: %w", name, errPortTaken, err)
	}
	return fmt.Errorf("testenv: start %s: %w", name, err)
}

// fakeRocketMQ is a name server or a broker, which keeps its data while it is stopped.
type fakeRocketMQ struct {
	name   string
	server interface {
		Restart() error
		Stop()
		Freeze()
		Thaw()
		Running() bool
	}
}

func (f *fakeRocketMQ) start(context.Context) error {
	if f.server.Running() {
		return fmt.Errorf("testenv: start %s: it runs already", f.name)
	}
	if err := f.server.Restart(); err != nil {
		return portTaken(f.name, err)
	}
	return nil
}

// stop and kill do the same: what is acknowledged is kept.
func (f *fakeRocketMQ) stop(context.Context) error { return f.kill() }

func (f *fakeRocketMQ) kill() error {
	f.server.Stop()
	return nil
}

func (f *fakeRocketMQ) pause() error { return f.ifRunning(f.server.Freeze) }

func (f *fakeRocketMQ) resume() error { return f.ifRunning(f.server.Thaw) }

func (f *fakeRocketMQ) ifRunning(do func()) error {
	if !f.server.Running() {
		return fmt.Errorf("testenv: %s does not run", f.name)
	}
	do()
	return nil
}
