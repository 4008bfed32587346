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
	port, err := e.ports.take(4)
	if err != nil {
		return nil, err
	}
	clients, controller, internal, direct := port, port+1, port+3, port
	var r *relay
	if e.spec.Proxy {
		direct = port + 2
		r = &relay{target: loopback(direct)}
	}
	id := kafkaID()
	s, err := e.kafkaServer(name, id, clients, direct, controller, internal)
	if err != nil {
		return nil, err
	}
	c := &cluster{name: name, kind: kindKafka, id: id}
	c.add(name, s, loopback(clients), r)
	return c, nil
}

// kafkaServer writes the settings of one server: it tells clients the port `clients` and listens on `direct`; with
// Spec.Secure also on `internal`, for itself and for us.
func (e *Env) kafkaServer(name, id string, clients, direct, controller, internal int) (*javaServer, error) {
	dir, err := e.mkdir(name, "data")
	if err != nil {
		return nil, err
	}
	data := filepath.Join(dir, "data")
	listeners := fmt.Sprintf(`listeners=CLIENT://127.0.0.1:%[1]d,CONTROLLER://127.0.0.1:%[2]d
advertised.listeners=CLIENT://127.0.0.1:%[3]d
listener.security.protocol.map=CLIENT:PLAINTEXT,CONTROLLER:PLAINTEXT
inter.broker.listener.name=CLIENT
`, direct, controller, clients)
	addr := loopback(direct)
	if e.secrets != nil {
		listeners = fmt.Sprintf(`listeners=CLIENT://127.0.0.1:%[1]d,INTERNAL://127.0.0.1:%[4]d,CONTROLLER://127.0.0.1:%[2]d
advertised.listeners=CLIENT://127.0.0.1:%[3]d,INTERNAL://127.0.0.1:%[4]d
listener.security.protocol.map=CLIENT:SASL_SSL,INTERNAL:PLAINTEXT,CONTROLLER:PLAINTEXT
inter.broker.listener.name=INTERNAL
`, direct, controller, clients, internal) + e.secrets.kafkaConf()
		addr = loopback(internal)
	}
	// The next three groups: one node is enough for every internal topic; small numbers of threads and small
	// buffers; times short enough for tests. With the broker session of 9 s that is Kafka's default, a broker
	// that was killed waits for the end of its old session before it may register again.
	conf := fmt.Sprintf(`process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:%[1]d
controller.listener.names=CONTROLLER
%[2]slog.dirs=%[3]s
num.partitions=%[4]d
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
group.min.session.timeout.ms=%[5]d
broker.session.timeout.ms=3000
broker.heartbeat.interval.ms=300
`, controller, listeners, data, kafkaPartitions, kafkaMinSession.Milliseconds())
	file := filepath.Join(dir, "server.properties")
	if err := os.WriteFile(file, []byte(conf), 0o644); err != nil {
		return nil, err
	}
	// What kafka-storage format would write, without one more Java process.
	meta := fmt.Sprintf("version=1\ncluster.id=%s\nnode.id=1\ndirectory.id=%s\n", id, kafkaID())
	if err := os.WriteFile(filepath.Join(data, "meta.properties"), []byte(meta), 0o644); err != nil {
		return nil, err
	}
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
		ready: func(ctx context.Context) error {
			if err := kafkaServes(ctx, addr, id); err != nil || e.secrets == nil {
				return err
			}
			return e.secrets.kafkaUsers(ctx, addr)
		},
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

// kafkaCall sends a request and reads its answer.
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
	if resp.IsFlexible() && len(body) > 0 { // the header of the answer ends with its tagged fields: none
		body = body[1:]
	}
	return resp.ReadFrom(body)
}
