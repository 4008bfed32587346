package cli

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/turnout-mq/turnout/broker"
	"github.com/turnout-mq/turnout/broker/drivers"
	"github.com/turnout-mq/turnout/internal/scene"
	"github.com/turnout-mq/turnout/metadata"
	"github.com/turnout-mq/turnout/testenv"
)

const (
	demoPartitions   = 4
	demoStartLimit   = 5 * time.Minute // for servers; the first time their jars are fetched
	demoProgramLimit = time.Minute     // for programs to be at work
)

// clusters are those of the tour, each once.
func (d *demo) clusters() []string {
	names := slices.Clone(d.tour)
	slices.Sort(names)
	return slices.Compact(names)
}

// setUp starts everything and returns when messages flow.
func (d *demo) setUp(ctx context.Context) error {
	line := func(format string, args ...any) { fmt.Fprintf(d.out, format+"\n", args...) }
	if err := d.makeDir(); err != nil {
		return err
	}
	line("Turnout demo: a topic moves between clusters while messages flow. Nothing is installed, all is on this machine.\n")
	if err := d.startServers(ctx); err != nil {
		return err
	}
	for _, cluster := range d.clusters() {
		line("  %-24s%s", cluster, strings.Join(d.env.Addresses(cluster), ","))
	}
	if err := d.putMetadata(ctx); err != nil {
		return err
	}
	line("  %-24stopic with %d partitions on each cluster, now on %s", demoTopic, demoPartitions, d.tour[0])
	line("  %-24sconsumer group of %s", demoGroup, demoTopic)
	if err := d.startPrograms(ctx); err != nil {
		return err
	}
	line("  %-24sprocess %d, sends %v messages a second to %s", demoSender, d.sender.Pid(), d.rate, demoTopic)
	line("  %-24sprocess %d, receives them as %s", demoReceiver, d.receiver.Pid(), demoGroup)
	line("  %-24s%s", "files", d.dir)
	line(`
The two programs know the topic's name and ZooKeeper's address, no cluster. Where the topic is stands in one node:
%s holds {"cluster":"%s"}. The demo will edit it. To look on from another terminal:

  turnout watch -r %s --zookeeper %s
`, d.store.TopicPath(demoTopic), d.tour[0], d.store.TopicPath(demoTopic), d.zookeeper)
	d.begin = time.Now()
	d.watch = newDemoWatch(d)
	d.watch.header()
	return nil
}

func (d *demo) makeDir() (err error) {
	if d.dir == "" {
		d.dir, err = os.MkdirTemp("", "turnout-demo-")
		return err
	}
	if d.dir, err = filepath.Abs(d.dir); err != nil {
		return err
	}
	if err := os.MkdirAll(d.dir, 0o755); err != nil {
		return err
	}
	if entries, err := os.ReadDir(d.dir); err != nil || len(entries) > 0 {
		return usagef("--dir %s is not an empty folder; remove what is in it or name another", d.dir)
	}
	return nil
}

func (d *demo) startServers(ctx context.Context) error {
	spec := testenv.Spec{Backend: testenv.Embedded, ZooKeeper: 1, Dir: filepath.Join(d.dir, "servers")}
	how := "embedded in this process"
	if d.servers {
		spec.Backend, how = testenv.Servers, "Apache ZooKeeper, Kafka and RocketMQ as child processes"
		fmt.Fprintf(d.out, "Starting %s (some ten seconds; the first time their jars are fetched, which takes minutes) …\n", how)
	}
	for _, cluster := range d.clusters() {
		if strings.HasPrefix(cluster, string(broker.RocketMQ)) {
			spec.RocketMQ = append(spec.RocketMQ, cluster)
		} else {
			spec.Kafka = append(spec.Kafka, cluster)
		}
	}
	ctx, cancel := context.WithTimeout(ctx, demoStartLimit)
	defer cancel()
	begin := time.Now()
	env, err := testenv.Start(ctx, spec)
	if err != nil {
		return err
	}
	d.env = env
	// Ports are taken again. With a chroot of its own, no program takes this ZooKeeper for the one of an earlier demo, of which
	// it may have a snapshot.
	d.zookeeper = env.ZooKeeper() + "/demo-" + rand.Text()[:6]
	fmt.Fprintf(d.out, "Started in %.1f s, %s:\n", time.Since(begin).Seconds(), how)
	fmt.Fprintf(d.out, "  %-24s%s\n", "ZooKeeper", d.zookeeper)
	return nil
}

// putMetadata does what a user does with turnout cluster put, topic put and group put.
func (d *demo) putMetadata(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, demoProgramLimit)
	defer cancel()
	store, err := metadata.Open(metadata.Config{ZooKeeper: d.zookeeper, Root: d.root})
	if err != nil {
		return err
	}
	d.store = store
	for _, name := range d.clusters() {
		c := metadata.Cluster{Kind: broker.Kind(d.env.Kind(name)), Addresses: d.env.Addresses(name), ClusterID: d.env.ClusterID(name)}
		if err := store.PutCluster(ctx, name, c); err != nil {
			return err
		}
		cfg := broker.Config{Name: name, Kind: c.Kind, Addresses: c.Addresses, ClusterID: c.ClusterID, ClientID: "turnout-demo"}
		open, err := drivers.Open(ctx, cfg)
		if err != nil {
			return err
		}
		d.brokers[name] = open
		if err := open.CreateTopic(ctx, demoTopic, broker.TopicSpec{Partitions: demoPartitions}); err != nil {
			return err
		}
	}
	if _, err := store.PutTopic(ctx, demoTopic, metadata.PutTopic{Cluster: d.tour[0]}); err != nil {
		return err
	}
	g := metadata.DefaultGroup()
	g.App, g.Topics = demoReceiver, []string{demoTopic}
	return store.PutGroup(ctx, demoGroup, g)
}

func (d *demo) startPrograms(ctx context.Context) (err error) {
	ctx, cancel := context.WithTimeout(ctx, demoProgramLimit)
	defer cancel()
	common := scene.Spec{Dir: d.dir, ZooKeeper: d.zookeeper, Root: d.root}
	receiver, sender := common, common
	receiver.Role, receiver.Name, receiver.Group, receiver.Linger = scene.Receiver, demoReceiver, demoGroup, d.linger()
	sender.Role, sender.Name, sender.Topics, sender.Rate = scene.Sender, demoSender, []string{demoTopic}, d.rate
	sender.Senders, sender.Keys = 32, 64
	if d.receiver, err = scene.Start(ctx, receiver); err != nil {
		return err
	}
	if err := d.receiver.Ready(ctx); err != nil {
		return err
	}
	if d.sender, err = scene.Start(ctx, sender); err != nil {
		return err
	}
	return d.sender.Ready(ctx)
}

// invite says what can be tried on the servers.
func (d *demo) invite() {
	fmt.Fprintf(d.out, `
The servers run on until Ctrl-C. From other terminals, in the folder of the sources:

  export TURNOUT_ZOOKEEPER=%s
  go run ./examples/quickstart
  go run ./cmd/turnout topic get %s
  go run ./cmd/turnout topic put %s --cluster kafka-b

Moves with a receipt, canaries and guards (docs/migrations.md) need a platform, in a terminal of its own:

  go run ./cmd/turnout serve --no-login --data-dir %s
  go run ./cmd/turnout migrate start %s --to kafka-b --watch
`, d.zookeeper, demoTopic, demoTopic, filepath.Join(d.dir, "platform"), demoTopic)
}

// strike ends whatever still runs, at once.
func (d *demo) strike(ctx context.Context) error {
	var g errgroup.Group
	var errs []error
	for _, p := range []*scene.Process{d.sender, d.receiver} {
		if p != nil {
			g.Go(p.Kill)
		}
	}
	errs = append(errs, g.Wait())
	ctx, cancel := context.WithTimeout(ctx, demoStopLimit)
	defer cancel()
	for _, c := range d.brokers {
		errs = append(errs, c.Close(ctx))
	}
	if d.store != nil {
		errs = append(errs, d.store.Close(ctx))
	}
	if d.env != nil {
		errs = append(errs, d.env.Close())
	}
	return errors.Join(errs...)
}
