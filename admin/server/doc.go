// Package server is a server of the operations platform: it elects a leader among the servers of a root, carries out
// migrations while it leads, and serves the HTTP API (package api) whether it leads or not.
//
// Any number of servers may run over one root, if they share one store. A request goes to any of them: what is asked is
// stored, and who leads does it. A server that dies loses nothing; the next leader goes on from the store.
//
// In ZooKeeper a server announces itself under {root}/admin/servers with an ephemeral node, and the first one of a root
// writes {root}/admin/platform. That node and the store hold one id, so that a server with another store, which knows
// nothing of the fences that are wanted and the migrations that run, does not begin to lead by mistake.
package server
