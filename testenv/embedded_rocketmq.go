package testenv

import (
	"context"
	"errors"
	"fmt"
	"syscall"

	"github.com/turnout-mq/turnout/testenv/rmqserver"
)

// embeddedRocketMQ is a RocketMQ cluster of one broker and one name server in this process.
func (e *Env) embeddedRocketMQ(name string) (*cluster, error) {
	dir, err := e.mkdir(name)
	if err != nil {
		return nil, err
	}
	port, err := e.ports.take(4)
	if err != nil {
		return nil, err
	}
	namesAddress, brokerAddress := port, port+1
	nameServer := rmqserver.NameServerOptions{Port: port, Logger: e.log.Named(name)}
	broker := rmqserver.BrokerOptions{Cluster: name, Name: name, Port: port + 1, Dir: dir, Logger: e.log.Named(name)}
	if e.secrets != nil {
		broker.Users = map[string]string{e.secrets.User: e.secrets.Password}
	}
	var nameRelay, brokerRelay *relay
	if e.spec.Proxy {
		nameServer.Port, broker.Port = port+2, port+3
		broker.Advertised = loopback(brokerAddress)
		nameRelay, brokerRelay = &relay{target: loopback(port + 2)}, &relay{target: loopback(port + 3)}
	}
	n, err := rmqserver.StartNameServer(context.Background(), nameServer)
	if err != nil {
		return nil, portTaken(name, err)
	}
	broker.NameServers = []*rmqserver.NameServer{n}
	b, err := rmqserver.StartBroker(context.Background(), broker)
	if err != nil {
		n.Close()
		return nil, portTaken(name, err)
	}
	b.Stop() // until the cluster is started
	n.Stop()
	c := &cluster{name: name, kind: kindRocketMQ, id: name}
	c.add(name+"/namesrv", &fakeRocketMQ{name + "/namesrv", n}, loopback(namesAddress), nameRelay)
	c.add(name+"/broker", &fakeRocketMQ{name + "/broker", b}, loopback(brokerAddress), brokerRelay)
	c.addresses = c.addresses[:1] // clients learn the broker's from the name server
	return c, nil
}

// EmbeddedRocketMQ returns the broker behind a name, for faults that only it has; nil on Servers and for an unknown name.
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
