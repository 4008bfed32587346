package zkserver

import (
	"fmt"
	"strings"

	"github.com/turnout-mq/turnout/testenv/zkserver/jute"
)

// version is what the four-letter words report. The words have no room for
// another product, and clients parse it.
const version = "3.9.5-embedded, built on 2026-02-11 20:18 UTC"

// words are the four-letter words: a connection that begins with one gets the
// text and is closed. They need Server.mu.
var words = map[string]func(*Server) string{
	"ruok": func(*Server) string { return "imok" },
	"isro": func(*Server) string { return "rw" },
	"srvr": srvr,
	"mntr": mntr,
	"cons": cons,
	"wchs": wchs,
}

func srvr(s *Server) string {
	return fmt.Sprintf("Zookeeper version: %s\nLatency min/avg/max: 0/0.0/0\nReceived: %d\nSent: %d\nConnections: %d\n"+
		"Outstanding: 0\nZxid: 0x%x\nMode: standalone\nNode count: %d\n",
		version, s.received, s.sent, len(s.conns), s.tree.zxid, len(s.tree.nodes))
}

func mntr(s *Server) string {
	ephemerals, bytes := 0, 0
	for _, paths := range s.tree.ephemerals {
		ephemerals += len(paths)
	}
	for path, n := range s.tree.nodes {
		bytes += len(path) + len(n.data)
	}
	var b strings.Builder
	for _, kv := range []struct {
		key   string
		value any
	}{
		{"version", version},
		{"server_state", "standalone"},
		{"znode_count", len(s.tree.nodes)},
		{"ephemerals_count", ephemerals},
		{"approximate_data_size", bytes},
		{"watch_count", s.watches.count()},
		{"num_alive_connections", len(s.conns)},
		{"global_sessions", len(s.sessions)},
		{"packets_received", s.received},
		{"packets_sent", s.sent},
		{"outstanding_requests", 0},
	} {
		fmt.Fprintf(&b, "zk_%s\t%v\n", kv.key, kv.value)
	}
	return b.String()
}

var opNames = map[jute.Op]string{
	0: "NA", jute.OpCreate: "CREA", jute.OpCreate2: "CREA", jute.OpCreateContainer: "CREA", jute.OpCreateTTL: "CREA",
	jute.OpDelete: "DELE", jute.OpExists: "EXIS", jute.OpGetData: "GETD", jute.OpSetData: "SETD", jute.OpGetACL: "GETA",
	jute.OpSetACL: "SETA", jute.OpGetChildren: "GETC", jute.OpGetChildren2: "GETC", jute.OpSync: "SYNC", jute.OpPing: "PING",
	jute.OpMulti: "MULT", jute.OpCheckWatches: "CHKW", jute.OpRemoveWatches: "REMW", jute.OpAuth: "AUTH",
	jute.OpSetWatches: "SETW", jute.OpSetWatches2: "STW2", jute.OpAddWatch: "ADDW", jute.OpGetEphemerals: "GETE",
	jute.OpGetAllChildrenNumber: "GETACN", jute.OpWhoAmI: "HOMI",
}

func cons(s *Server) string {
	var b strings.Builder
	for c := range s.conns {
		fmt.Fprintf(&b, " /%s[1](queued=%d,recved=%d,sent=%d", c.nc.RemoteAddr(), len(c.queue), c.received, c.sent)
		if c.session != nil {
			op := opNames[c.lastOp]
			if c.lastOp == 0 {
				op = "SESS"
			}
			fmt.Fprintf(&b, ",sid=0x%x,lop=%s,est=%d,to=%d", c.session.id, op, c.established.UnixMilli(), c.session.timeout.Milliseconds())
			if c.lastXid >= 0 {
				fmt.Fprintf(&b, ",lcxid=0x%x", c.lastXid)
			}
			fmt.Fprintf(&b, ",lzxid=0x%x,lresp=%d,llat=0,minlat=0,avglat=0,maxlat=0", c.lastZxid, c.lastSent.UnixMilli())
		}
		b.WriteString(")\n")
	}
	return b.String() + "\n"
}

func wchs(s *Server) string {
	conns, paths := map[*conn]struct{}{}, map[string]struct{}{}
	for _, t := range []*watchTable{s.watches.data, s.watches.child} {
		for path, of := range t.byPath {
			paths[path] = struct{}{}
			for c := range of {
				conns[c] = struct{}{}
			}
		}
	}
	return fmt.Sprintf("%d connections watching %d paths\nTotal watches:%d\n", len(conns), len(paths), s.watches.count())
}
