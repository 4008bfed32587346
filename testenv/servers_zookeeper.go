package testenv

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// serversZooKeeper is one Apache ZooKeeper server, or an ensemble of three, each behind a relay.
func (e *Env) serversZooKeeper(name string) (*cluster, error) {
	var members []zooKeeperMember
	for _, n := range zooKeeperNames(e.spec.ZooKeeper) {
		port, err := e.ports.take(5)
		if err != nil {
			return nil, err
		}
		members = append(members, zooKeeperMember{name: n, relay: port, client: port + 1, peer: port + 2, election: port + 3, secure: port + 4})
	}
	c := &cluster{name: name, kind: kindZooKeeper}
	for i, m := range members {
		s, err := e.zooKeeperServer(m, i, members)
		if err != nil {
			return nil, err
		}
		r := &relay{target: loopback(m.client), answer: e.sessions.record}
		if e.secrets != nil {
			r = &relay{target: loopback(m.secure)}
		}
		c.add(s.name, s, loopback(m.relay), r)
		c.nodes[i].words = loopback(m.client)
	}
	return c, nil
}

func zooKeeperNames(size int) []string {
	if size == 1 {
		return []string{"zookeeper"}
	}
	names := make([]string, size)
	for i := range names {
		names[i] = "zookeeper-" + strconv.Itoa(i+1)
	}
	return names
}

// zooKeeperMember is one server's name and ports.
type zooKeeperMember struct {
	name                          string
	relay, client, peer, election int
	secure                        int // where clients come to with Spec.Secure
}

func (e *Env) zooKeeperServer(m zooKeeperMember, index int, members []zooKeeperMember) (*javaServer, error) {
	dir, err := e.mkdir(m.name, "data")
	if err != nil {
		return nil, err
	}
	data := filepath.Join(dir, "data")
	conf := fmt.Sprintf(`tickTime=500
initLimit=20
syncLimit=10
minSessionTimeout=500
maxSessionTimeout=60000
dataDir=%s
maxClientCnxns=0
admin.enableServer=false
4lw.commands.whitelist=ruok,srvr,conf,dump
autopurge.purgeInterval=0
`, data)
	if len(members) == 1 {
		conf += fmt.Sprintf("clientPort=%d\nclientPortAddress=127.0.0.1\n", m.client)
	} else {
		for i, o := range members {
			conf += fmt.Sprintf("server.%d=127.0.0.1:%d:%d;127.0.0.1:%d\n", i+1, o.peer, o.election, o.client)
		}
		if err := os.WriteFile(filepath.Join(data, "myid"), []byte(strconv.Itoa(index+1)), 0o644); err != nil {
			return nil, err
		}
	}
	if e.secrets != nil {
		conf += e.secrets.zooKeeperConf(m.secure)
	}
	file := filepath.Join(dir, "zoo.cfg")
	if err := os.WriteFile(file, []byte(conf), 0o644); err != nil {
		return nil, err
	}
	addr := loopback(m.client)
	return &javaServer{
		java: e.java, name: m.name, dir: dir,
		cmd: command{
			module: "zookeeper", kind: "zookeeper",
			flags: append([]string{
				"-Xms16m", "-Xmx128m",
				"-Dzookeeper.forceSync=no",
				"-Dzookeeper.preAllocSize=1024", // KiB instead of 64 MiB
				"-Dzookeeper.extendedTypesEnabled=true",
			}, simpleLogger...),
			class: "org.apache.zookeeper.server.quorum.QuorumPeerMain",
			args:  []string{file},
		},
		ready: func(ctx context.Context) error { return zooKeeperServes(ctx, addr, data) },
	}, nil
}

// simpleLogger are the properties of the logger that ZooKeeper and Kafka are given.
var simpleLogger = []string{
	"-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
	"-Dorg.slf4j.simpleLogger.showDateTime=true",
	"-Dorg.slf4j.simpleLogger.dateTimeFormat=HH:mm:ss.SSS",
}

// zooKeeperServes returns nil if the server at addr has a leader and its data in this folder: a port answers
// also when it belongs to somebody else's server.
func zooKeeperServes(ctx context.Context, addr, data string) error {
	conf, err := fourLetters(ctx, addr, "conf")
	if err != nil {
		return err
	}
	if !strings.Contains(conf, "dataDir="+data) {
		return fmt.Errorf("%s is not the server with data in %s but: %s", addr, data, conf)
	}
	_, err = zooKeeperMode(ctx, addr)
	return err
}

// zooKeeperMode returns standalone, leader or follower.
func zooKeeperMode(ctx context.Context, addr string) (string, error) {
	srvr, err := fourLetters(ctx, addr, "srvr")
	if err != nil {
		return "", err
	}
	_, after, found := strings.Cut(srvr, "Mode: ")
	if !found {
		return "", fmt.Errorf("ZooKeeper at %s does not serve: %s", addr, strings.TrimSpace(srvr))
	}
	mode, _, _ := strings.Cut(after, "\n")
	return strings.TrimSpace(mode), nil
}

// fourLetters asks a ZooKeeper server with one of its four letter commands.
func fourLetters(ctx context.Context, addr, word string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	conn, err := dial(ctx, addr)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	if _, err := io.WriteString(conn, word); err != nil {
		return "", err
	}
	answer, err := io.ReadAll(conn)
	if err != nil {
		return "", err
	}
	return string(answer), nil
}

// dial connects and gives the connection the deadline of ctx, which must have one.
func dial(ctx context.Context, addr string) (net.Conn, error) {
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	deadline, _ := ctx.Deadline()
	if err := conn.SetDeadline(deadline); err != nil {
		_ = conn.Close()
		return nil, err
	}
	return conn, nil
}
