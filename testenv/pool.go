package testenv

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/IBM/sarama"
	"github.com/go-zookeeper/zk"

	"github.com/turnout-mq/turnout/broker/rocketmq/remoting"
)

// Pool keeps environments of real servers, which take seconds to start, from one test for the next with an equal Spec: mended
// and emptied, so that it finds no topic, group or node. One that can not be made as new, or whose test failed, is closed.
// Embedded servers are started for each test. The zero value is empty and ready; methods may be called concurrently.
type Pool struct {
	mu   sync.Mutex
	idle map[string][]*kept
}

// kept is an environment and what its RocketMQ clusters had when it was new.
type kept struct {
	env    *Env
	topics map[string][]string
}

// Each is the function Each, on an environment of the pool.
func (p *Pool) Each(t *testing.T, spec Spec, f func(t *testing.T, e *Env)) {
	t.Helper()
	EachOf(t, spec, []Backend{Embedded}, f)
	backends, err := Backends()
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Contains(backends, Servers) {
		return
	}
	spec.Backend = Servers
	t.Run(string(Servers), func(t *testing.T) { f(t, p.lend(t, spec)) })
}

// lend gives an environment until the test has ended.
func (p *Pool) lend(t *testing.T, spec Spec) *Env {
	t.Helper()
	key := fmt.Sprintf("%+v", spec)
	k := p.take(key)
	if k == nil {
		ctx, cancel := context.WithTimeout(t.Context(), fetchTimeout+2*startTimeout)
		defer cancel()
		e, err := Start(ctx, spec)
		if err != nil {
			t.Fatal(err)
		}
		k = &kept{env: e}
		if k.topics, err = rocketMQTopics(ctx, e); err != nil {
			t.Fatal(errors.Join(err, e.Close()))
		}
	}
	t.Cleanup(func() {
		err := errors.New("its test failed")
		if !t.Failed() {
			err = k.renew()
		}
		if err == nil {
			p.put(key, k)
			return
		}
		t.Logf("the servers are not used again: %v", err)
		if err := k.env.Close(); err != nil {
			t.Error(err)
		}
	})
	return k.env
}

func (p *Pool) take(key string) *kept {
	p.mu.Lock()
	defer p.mu.Unlock()
	all := p.idle[key]
	if len(all) == 0 {
		return nil
	}
	p.idle[key] = all[:len(all)-1]
	return all[len(all)-1]
}

func (p *Pool) put(key string, k *kept) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.idle == nil {
		p.idle = map[string][]*kept{}
	}
	p.idle[key] = append(p.idle[key], k)
}

// Main is m, for TestMain and goleak: after its tests the environments are closed, and that they could not be is a failure.
func (p *Pool) Main(m interface{ Run() int }) interface{ Run() int } { return poolMain{p, m} }

type poolMain struct {
	p *Pool
	m interface{ Run() int }
}

func (m poolMain) Run() int {
	code := m.m.Run()
	m.p.mu.Lock()
	defer m.p.mu.Unlock()
	for _, all := range m.p.idle {
		for _, k := range all {
			if err := k.env.Close(); err != nil {
				fmt.Fprintln(os.Stderr, err) // there is no test any more that could say it
				code = max(code, 1)
			}
		}
	}
	clear(m.p.idle)
	return code
}

// renew undoes all that was done to the servers.
func (k *kept) renew() error {
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	if err := k.env.Mend(ctx); err != nil {
		return err
	}
	if err := k.env.emptyZooKeeper(ctx); err != nil {
		return err
	}
	for _, name := range k.env.spec.Kafka {
		if err := emptyKafka(ctx, k.env.Addresses(name)); err != nil {
			return fmt.Errorf("empty %s: %w", name, err)
		}
	}
	// Its brokers can not be emptied: what is sent to a topic of an old name may meet what is left of the old one.
	topics, err := rocketMQTopics(ctx, k.env)
	if err != nil {
		return err
	}
	for name, there := range topics {
		if !slices.Equal(there, k.topics[name]) {
			return fmt.Errorf("%s was used", name)
		}
	}
	return nil
}

// emptyZooKeeper ends the sessions that tests have left and removes all nodes but ZooKeeper's own.
func (e *Env) emptyZooKeeper(ctx context.Context) error {
	if e.spec.ZooKeeper == 0 {
		return nil
	}
	for _, id := range e.Sessions() {
		// Its client may have closed it meanwhile.
		if err := e.ExpireSession(ctx, id); err != nil && slices.Contains(e.Sessions(), id) {
			return err
		}
	}
	conn, events, err := zk.Connect(e.Addresses(kindZooKeeper), time.Minute, zk.WithLogInfo(false))
	if err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, conn.Close) // ends its calls
	defer func() {
		stop()
		conn.Close()
		for range events { // closed when the client has ended
		}
	}()
	return removeBelow(conn, "/")
}

func removeBelow(conn *zk.Conn, path string) error {
	children, _, err := conn.Children(path)
	if err != nil {
		return fmt.Errorf("children of %s: %w", path, err)
	}
	for _, name := range children {
		child := strings.TrimSuffix(path, "/") + "/" + name
		if child == "/zookeeper" {
			continue
		}
		if err := removeBelow(conn, child); err != nil {
			return err
		}
		if err := conn.Delete(child, -1); err != nil {
			return fmt.Errorf("delete %s: %w", child, err)
		}
	}
	return nil
}

// emptyKafka deletes the groups and topics of a cluster and waits until they are gone.
func emptyKafka(ctx context.Context, addresses []string) error {
	config := sarama.NewConfig()
	config.Version = sarama.V2_8_0_0
	admin, err := sarama.NewClusterAdmin(addresses, config)
	if err != nil {
		return err
	}
	tick := time.NewTicker(pollInterval)
	defer tick.Stop()
	for {
		done, err := deleteAll(admin)
		if done {
			return admin.Close()
		}
		select {
		case <-ctx.Done():
			return errors.Join(ctx.Err(), err, admin.Close())
		case <-tick.C:
		}
	}
}

// deleteAll deletes what is there, and says whether nothing was.
func deleteAll(admin sarama.ClusterAdmin) (done bool, err error) {
	groups, err := admin.ListConsumerGroups()
	if err != nil {
		return false, err
	}
	topics, err := admin.ListTopics()
	if err != nil {
		return false, err
	}
	delete(topics, "__consumer_offsets")
	delete(topics, "__transaction_state")
	var errs []error
	for group := range groups {
		errs = append(errs, admin.DeleteConsumerGroup(group)) // refused as long as it has members
	}
	for topic := range topics {
		errs = append(errs, admin.DeleteTopic(topic))
	}
	return len(groups)+len(topics) == 0, errors.Join(errs...)
}

// rocketMQTopics are the topics of every RocketMQ cluster, sorted.
func rocketMQTopics(ctx context.Context, e *Env) (map[string][]string, error) {
	client := remoting.NewClient(remoting.Options{})
	defer client.Close()
	all := map[string][]string{}
	for _, name := range e.spec.RocketMQ {
		topics, err := client.Topics(ctx, e.Addresses(name)[0])
		if err != nil {
			return nil, fmt.Errorf("topics of %s: %w", name, err)
		}
		slices.Sort(topics)
		all[name] = topics
	}
	return all, nil
}
