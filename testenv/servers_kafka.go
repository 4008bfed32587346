package testenv

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// serversKafka is one Apache Kafka node that is broker and controller.
func (e *Env) serversKafka(name string) (*cluster, error) {
	port, err := e.ports.take(3)
	if err != nil {
		return nil, err
	}
	clients, controller, direct := port, port+1, port
	var r *relay
	if e.spec.Proxy {
		direct = port + 2
		r = &relay{target: loopback(direct)}
	}
	id := kafkaID()
	s, err := e.kafkaServer(name, id, clients, direct, controller)
	if err != nil {
		return nil, err
	}
	c := &cluster{name: name, kind: kindKafka, id: id}
	c.add(name, s, loopback(clients), r)
	return c, nil
}

// kafkaServer writes the settings of one server: it tells clients the port `clients` and listens on `direct`.
func (e *Env) kafkaServer(name, id string, clients, direct, controller int) (*javaServer, error) {
	dir, err := e.mkdir(name, "data")
	if err != nil {
		return nil, err
	}
	data := filepath.Join(dir, "data")
	// The next three groups: one node is enough for every internal topic; small numbers of threads and small
	// buffers; times short enough for tests. With the broker session of 9 s that is Kafka's default, a broker
	// that was killed waits for the end of its old session before it may register again.
	conf := fmt.Sprintf(`process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:%[1]d
listeners=PLAINTEXT://127.0.0.1:%[2]d,CONTROLLER://127.0.0.1:%[1]d
advertised.listeners=PLAINTEXT://127.0.0.1:%[3]d
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT
controller.listener.names=CONTROLLER
inter.broker.listener.name=PLAINTEXT
log.dirs=%[4]s
num.partitions=%[5]d
auto.create.topics.enable=false
delete.topic.enable=true

default.replication.factor=1
min.insync.replicas=1
offsets.topic.replication.factor=1
offsets.topic.num.partitions=4
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=4
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
share.coordinator.state.topic.num.partitions=4

num.network.threads=2
num.io.threads=4
background.threads=2
num.recovery.threads.per.data.dir=2
log.cleaner.dedupe.buffer.size=2097152
log.segment.bytes=67108864
log.index.size.max.bytes=1048576
metadata.log.segment.bytes=8388608

group.initial.rebalance.delay.ms=0
group.min.session.timeout.ms=%[6]d
broker.session.timeout.ms=3000
broker.heartbeat.interval.ms=300
`, controller, direct, clients, data, kafkaPartitions, kafkaMinSession.Milliseconds())
	file := filepath.Join(dir, "server.properties")
	if err := os.WriteFile(file, []byte(conf), 0o644); err != nil {
		return nil, err
	}
	// What kafka-storage format would write, without one more Java process.
	meta := fmt.Sprintf("version=1\ncluster.id=%s\nnode.id=1\ndirectory.id=%s\n", id, kafkaID())
	if err := os.WriteFile(filepath.Join(data, "meta.properties"), []byte(meta), 0o644); err != nil {
		return nil, err
	}
	addr := loopback(direct)
	return &javaServer{
		java: e.java, name: name, dir: dir,
		cmd: command{
			module: "kafka", kind: "kafka",
			flags: append([]string{
				"-Xms64m", "-Xmx256m", "-XX:MaxDirectMemorySize=128m", "-Dkafka.logs.dir=" + dir,
			}, simpleLogger...),
			class: "kafka.Kafka",
			args:  []string{file},
		},
		ready: func(ctx context.Context) error { return kafkaServes(ctx, addr, id) },
	}, nil
}

const (
	kafkaPartitions = 4                      // of a topic that is created without a number, on both backends
	kafkaMinSession = 100 * time.Millisecond // the shortest session timeout of a group, on both backends
)

// kafkaID is a Kafka UUID: 22 characters that need no escaping.
func kafkaID() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails
	return strings.NewReplacer("-", "A", "_", "B").Replace(base64.RawURLEncoding.EncodeToString(b[:]))
}

// kafkaServes returns nil if the broker at addr belongs to this cluster and sees itself and a controller.
func kafkaServes(ctx context.Context, addr, clusterID string) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	conn, err := dial(ctx, addr)
	if err != nil {
		return err
	}
	defer conn.Close()
	req := kmsg.NewPtrMetadataRequest()
	req.Version = 7 // any that both 3.x and 4.x answer
	req.Topics = []kmsg.MetadataRequestTopic{}
	resp := req.ResponseKind().(*kmsg.MetadataResponse)
	if err := kafkaCall(conn, req, resp); err != nil {
		return err
	}
	if resp.ClusterID == nil || *resp.ClusterID != clusterID {
		return fmt.Errorf("the broker at %s is not of cluster %s", addr, clusterID)
	}
	if len(resp.Brokers) == 0 || resp.ControllerID < 0 {
		return fmt.Errorf("the broker at %s has %d brokers and controller %d", addr, len(resp.Brokers), resp.ControllerID)
	}
	return nil
}

// kafkaCall sends a request of a version without tagged fields and reads its answer.
func kafkaCall(conn net.Conn, req kmsg.Request, resp kmsg.Response) error {
	if _, err := conn.Write(kmsg.NewRequestFormatter().AppendRequest(nil, req, 1)); err != nil {
		return err
	}
	var head [8]byte // size of what follows, correlation id
	if _, err := io.ReadFull(conn, head[:]); err != nil {
		return err
	}
	size := binary.BigEndian.Uint32(head[:])
	if size < 4 || size > 1<<20 {
		return fmt.Errorf("%s answers with %d bytes: not a Kafka broker", conn.RemoteAddr(), size)
	}
	body := make([]byte, size-4)
	if _, err := io.ReadFull(conn, body); err != nil {
		return err
	}
	return resp.ReadFrom(body)
}
