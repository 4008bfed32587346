package testenv

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/turnout-mq/turnout/broker/rocketmq/remoting"
)

// serversRocketMQ is an Apache RocketMQ name server with its brokers.
func (e *Env) serversRocketMQ(name string) (*cluster, error) {
	const each = 4 // a broker also listens on the port two below its own, and its replication on the one above
	brokers := e.rocketMQBrokers(name)
	port, err := e.ports.take(2 + each*len(brokers))
	if err != nil {
		return nil, err
	}
	r := &rocketMQ{name: name, names: port, login: e.secrets.login()}
	var nameRelay *relay
	if e.spec.Proxy {
		r.names = port + 1
		nameRelay = &relay{target: loopback(r.names)}
	}
	if r.server, err = e.rocketMQNameServer(r); err != nil {
		return nil, err
	}
	c := &cluster{name: name, kind: kindRocketMQ, id: name}
	c.add(name+"/namesrv", r.server, loopback(port), nameRelay)
	for i, names := range brokers {
		b := &rocketMQMaster{rocketMQBroker: names, cluster: r, host: "127.0.0.1", port: port + 2 + each*i + 2}
		var brokerRelay *relay
		if e.spec.Proxy {
			// The broker tells clients to come to brokerIP1 and its own port number, so the relay stands on the
			// same number at another address.
			b.host = "127.0.0.2"
			brokerRelay = &relay{target: address(b.host, b.port)}
		}
		if b.server, err = e.rocketMQBrokerServer(b); err != nil {
			return nil, err
		}
		r.masters = append(r.masters, b)
		c.add(b.node, b.server, loopback(b.port), brokerRelay)
	}
	c.addresses = c.addresses[:1] // clients learn the brokers' from the name server
	return c, nil
}

// rocketMQ is where the servers of a cluster really listen.
type rocketMQ struct {
	name    string
	names   int                                             // port of the name server
	login   func() (accessKey, secretKey string, err error) // or nil
	server  *javaServer                                     // the name server
	masters []*rocketMQMaster
}

type rocketMQMaster struct {
	rocketMQBroker
	cluster *rocketMQ
	host    string
	port    int
	server  *javaServer
}

func (e *Env) rocketMQNameServer(r *rocketMQ) (*javaServer, error) {
	name := r.name + "/namesrv"
	dir, err := e.mkdir(name, "store")
	if err != nil {
		return nil, err
	}
	store := filepath.Join(dir, "store")
	conf := fmt.Sprintf(`listenPort=%d
bindAddress=127.0.0.1
rocketmqHome=%s
kvConfigPath=%s/kvConfig.json
configStorePath=%s/namesrv.properties
scanNotActiveBrokerInterval=5000
serverWorkerThreads=2
defaultThreadPoolNums=2
clientRequestThreadPoolNums=2
`, r.names, dir, store, store)
	s, err := e.rocketMQServer(name, dir, "namesrv", conf)
	if err != nil {
		return nil, err
	}
	s.cmd.flags = append(s.cmd.flags, "-Xms16m", "-Xmx96m", "-XX:MaxDirectMemorySize=64m")
	s.cmd.class = "org.apache.rocketmq.namesrv.NamesrvStartup"
	s.ready = func(ctx context.Context) error {
		for _, b := range r.masters {
			if b.server.running() { // the routes are gone until the broker registers again
				if err := b.registered(ctx); err != nil {
					return err
				}
			}
		}
		_, err := r.clusterInfo(ctx)
		return err
	}
	return s, nil
}

func (e *Env) rocketMQBrokerServer(b *rocketMQMaster) (*javaServer, error) {
	dir, err := e.mkdir(b.node, "store")
	if err != nil {
		return nil, err
	}
	store := filepath.Join(dir, "store")
	// The second group: a small machine must not answer "broker busy". The third: small files and few threads.
	conf := fmt.Sprintf(`brokerClusterName=%[1]s
brokerName=%[8]s
brokerId=0
brokerRole=ASYNC_MASTER
flushDiskType=ASYNC_FLUSH
namesrvAddr=127.0.0.1:%[2]d
brokerIP1=127.0.0.1
brokerIP2=127.0.0.1
bindAddress=%[3]s
listenPort=%[4]d
haListenPort=%[5]d
rocketmqHome=%[6]s
storePathRootDir=%[7]s
storePathCommitLog=%[7]s/commitlog
autoCreateTopicEnable=false
autoCreateSubscriptionGroup=true
defaultTopicQueueNums=4

waitTimeMillsInSendQueue=3000
osPageCacheBusyTimeOutMills=5000
diskMaxUsedSpaceRatio=99
flushConsumerOffsetInterval=1000
registerNameServerPeriod=10000
notifyConsumerIdsChangedEnable=true

mappedFileSizeCommitLog=16777216
mappedFileSizeConsumeQueue=600000
mappedFileSizeTimerLog=1048576
maxHashSlotNum=10000
maxIndexNum=40000
transientStorePoolEnable=false
warmMapedFileEnable=false
timerWheelEnable=%[9]v
traceTopicEnable=false
traceOn=false
sendMessageThreadPoolNums=4
pullMessageThreadPoolNums=4
processReplyMessageThreadPoolNums=2
queryMessageThreadPoolNums=2
adminBrokerThreadPoolNums=2
clientManageThreadPoolNums=2
consumerManageThreadPoolNums=2
heartbeatThreadPoolNums=2
endTransactionThreadPoolNums=2
ackMessageThreadPoolNums=2
litePullMessageThreadPoolNums=2
serverWorkerThreads=2
`, b.cluster.name, b.cluster.names, b.host, b.port, b.port+1, dir, store, b.name, e.spec.RocketMQTimers)
	if e.secrets != nil {
		conf += e.secrets.rocketMQConf(filepath.Join(store, "auth"))
	}
	s, err := e.rocketMQServer(b.node, dir, "broker", conf)
	if err != nil {
		return nil, err
	}
	s.noTerm = true
	s.cmd.flags = append(s.cmd.flags, "-Xms48m", "-Xmx192m", "-XX:MaxDirectMemorySize=512m", // timers take some 130 MB of it
		"-Drocketmq.broker.diskSpaceWarningLevelRatio=0.99", "-Drocketmq.broker.diskSpaceCleanForciblyRatio=0.99",
		"--add-opens=java.base/java.nio=ALL-UNNAMED", "--add-opens=java.base/sun.nio.ch=ALL-UNNAMED",
		"--add-exports=java.base/jdk.internal.ref=ALL-UNNAMED", "--add-opens=java.base/jdk.internal.ref=ALL-UNNAMED")
	s.cmd.class = "org.apache.rocketmq.broker.BrokerStartup"
	s.ready = func(ctx context.Context) error {
		if b.cluster.server.running() {
			return b.registered(ctx)
		}
		return b.kick(ctx)
	}
	return s, nil
}

// rocketMQServer is what the two kinds of servers have in common.
func (e *Env) rocketMQServer(name, dir, kind, conf string) (*javaServer, error) {
	file := filepath.Join(dir, kind+".conf")
	if err := os.WriteFile(file, []byte(conf), 0o644); err != nil {
		return nil, err
	}
	logging := filepath.Join(dir, "logback.xml")
	if err := os.WriteFile(logging, []byte(rocketMQLogging), 0o644); err != nil {
		return nil, err
	}
	return &javaServer{java: e.java, name: name, dir: dir, cmd: command{
		module: "rocketmq", kind: kind,
		flags: []string{
			"-Dtls.server.mode=disabled", // else it makes an RSA key at each start
			"-Drmq.logback.configurationFile=" + logging,
			"-Drocketmq.home.dir=" + dir, "-Duser.home=" + dir, "-Drocketmq.client.logRoot=" + dir,
		},
		args: []string{"-c", file},
	}}, nil
}

// rocketMQLogging sends warnings to standard output. The classes are RocketMQ's own copy of logback.
const rocketMQLogging = `<configuration>
<appender name="out" class="org.apache.rocketmq.logging.ch.qos.logback.core.ConsoleAppender">
<encoder><pattern>%d{HH:mm:ss.SSS} %p %t %c{1} - %m%n</pattern></encoder>
</appender>
<root level="WARN"><appender-ref ref="out"/></root>
</configuration>
`

// registered returns nil if clients find the broker at the name server. A broker that listens, or a name server
// that was restarted, would take up to 10 s until then; a kick makes it happen at once.
func (b *rocketMQMaster) registered(ctx context.Context) error {
	if err := b.kick(ctx); err != nil {
		return err
	}
	info, err := b.cluster.clusterInfo(ctx)
	if err != nil {
		return err
	}
	if got, want := info.Brokers[b.name].Master(), loopback(b.port); got != want {
		return fmt.Errorf("the name server has the broker %s at %q instead of %s", b.name, got, want)
	}
	return nil
}

// kick makes the broker register at its name server now.
func (b *rocketMQMaster) kick(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, rocketMQTimeout)
	defer cancel()
	c := remoting.NewClient(remoting.Options{Login: b.cluster.login})
	defer c.Close()
	return c.UpdateBrokerConfig(ctx, address(b.host, b.port), map[string]string{"brokerPermission": "6"})
}

func (r *rocketMQ) clusterInfo(ctx context.Context) (*remoting.ClusterInfo, error) {
	ctx, cancel := context.WithTimeout(ctx, rocketMQTimeout)
	defer cancel()
	c := remoting.NewClient(remoting.Options{})
	defer c.Close()
	return c.ClusterInfo(ctx, loopback(r.names))
}

const rocketMQTimeout = 5 * time.Second // of one call
