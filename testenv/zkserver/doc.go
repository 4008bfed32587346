// Package zkserver is a ZooKeeper server inside the test process. It speaks the
// client protocol of Apache ZooKeeper 3.9 over TCP on loopback, for unmodified
// clients from 3.4 on, keeps its tree in memory, and can go wrong on request.
//
// Start gives a server; several ports lead to the same one. Stop and Restart
// play a kill -9 and the restart after it: tree and sessions are kept, the
// clocks of the sessions start anew. The methods of faults.go lose watches and
// answers, cut, delay, refuse and freeze connections, and expire sessions.
//
// Package jute beside it has the encoding, package rawzk a small client, and
// testenv/zkcontract the suite that holds this server and a real one to the same
// behaviour.
//
// Implemented: sessions with negotiated timeout, password, move to another
// connection and expiry; persistent, ephemeral, sequential, container and TTL
// nodes; versions; multi, all or nothing; one-shot watches with setWatches;
// persistent and recursive watches with addWatch, setWatches2, checkWatches and
// removeWatches; ACLs with the schemes world, auth, digest and ip; sync,
// getEphemerals, getAllChildrenNumber, whoAmI; the limit of 1 MiB - 1 byte for a
// request; events before the answers that show the change, with the zxid of the
// change; TLS; the four-letter words ruok, srvr, mntr, cons, wchs, isro.
//
// # What it leaves out
//
//   - More than one server: no ensemble, no quorum, no stale reads, no read-only
//     mode. Every port reaches the one server; reconfig is answered as disabled.
//   - A disk: snapshots and logs. The data ends with the Server.
//   - The requests multiRead (22), deleteContainer (20) and sasl (102), answered as
//     unimplemented with the connection closed; the schemes sasl, x509 and super,
//     also of a client that TLS knows by its certificate.
//   - Quotas, and the limits on connections and requests in flight. Instead, a
//     client that leaves 64 MiB of answers unread is cut.
//   - The admin server, JMX, the other four-letter words; latencies are
//     reported as 0.
//   - Faithful answers to createTTL with flags of a node without a time to live,
//     which stop a real 3.9.5 for good: they are bad arguments here.
//   - The pace of a real server: sessions and TTL and container nodes go within
//     20 ms of their time, where a real one rounds session timeouts up to its
//     tick and looks for nodes once a minute.
package zkserver
