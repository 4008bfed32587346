package zkserver

import (
	"strings"

	"github.com/turnout-mq/turnout/testenv/zkserver/jute"
)

// maxTTLMs is the longest time to live of a node: the real server keeps it in
// 40 bits.
const maxTTLMs = 1<<40 - 1

var openACL = []jute.ACL{{Perms: jute.PermAll, ID: jute.ID{Scheme: "world", ID: "anyone"}}}

// node is one node of the tree. Its data and acl are replaced, never written
// into.
type node struct {
	data                []byte
	acl                 []jute.ACL
	children            map[string]struct{}
	czxid, mzxid, pzxid int64
	ctime, mtime        int64 // milliseconds since 1970
	owner               int64 // session of an ephemeral node, else 0
	container           bool
	ttl                 int64 // milliseconds, 0 for a node without
	version, aversion   int32
	created             int32 // children ever created: the next sequence number
}

func (n *node) stat() jute.Stat {
	return jute.Stat{
		Czxid: n.czxid, Mzxid: n.mzxid, Pzxid: n.pzxid, Ctime: n.ctime, Mtime: n.mtime,
		Version: n.version, Aversion: n.aversion,
		// Every creation and every deletion of a child counts.
		Cversion:       2*n.created - int32(len(n.children)),
		EphemeralOwner: n.owner, DataLength: int32(len(n.data)), NumChildren: int32(len(n.children)),
	}
}

// tree holds the nodes. Its mutators expect a change that was checked (see
// txn) and tell the watches of it.
type tree struct {
	zxid       int64 // of the last transaction
	nodes      map[string]*node
	ephemerals map[int64]map[string]struct{} // paths by session
	reapable   map[string]struct{}           // container and TTL nodes
	watches    *watches
}

func newTree(w *watches) *tree {
	t := &tree{
		nodes:      map[string]*node{"/": {acl: openACL, children: map[string]struct{}{}}},
		ephemerals: map[int64]map[string]struct{}{},
		reapable:   map[string]struct{}{},
		watches:    w,
	}
	read := []jute.ACL{{Perms: jute.PermRead, ID: openACL[0].ID}}
	for path, acl := range map[string][]jute.ACL{"/zookeeper": openACL, "/zookeeper/config": read, "/zookeeper/quota": openACL} {
		t.nodes[path] = &node{acl: acl, children: map[string]struct{}{}}
	}
	t.nodes["/"].children["zookeeper"] = struct{}{}
	t.nodes["/zookeeper"].children["config"] = struct{}{}
	t.nodes["/zookeeper"].children["quota"] = struct{}{}
	return t
}

// isSpecial reports whether the path is one of the server's own nodes, which
// can not be deleted.
func isSpecial(path string) bool {
	return path == "/" || path == "/zookeeper" || path == "/zookeeper/config" || path == "/zookeeper/quota"
}

// split returns the parent's path and the name of a path with a slash.
func split(path string) (parent, name string) {
	i := strings.LastIndexByte(path, '/')
	return path[:max(i, 1)], path[i+1:]
}

// inSubtree reports whether path is root or below it.
func inSubtree(path, root string) bool {
	return path == root || strings.HasPrefix(path, strings.TrimSuffix(root, "/")+"/")
}

func validPath(path string) bool {
	if path == "/" {
		return true
	}
	if !strings.HasPrefix(path, "/") {
		return false
	}
	for part := range strings.SplitSeq(path[1:], "/") {
		if part == "" || part == "." || part == ".." {
			return false
		}
	}
	return !strings.ContainsFunc(path, func(r rune) bool {
		return r <= 0x1f || r >= 0x7f && r <= 0x9f || r >= 0xd800 && r <= 0xf8ff || r >= 0xfff0 && r <= 0xffff
	})
}

func (t *tree) create(path string, n *node, zxid, now int64) {
	n.children = map[string]struct{}{}
	n.czxid, n.mzxid, n.pzxid, n.ctime, n.mtime = zxid, zxid, zxid, now, now
	t.nodes[path] = n
	parentPath, name := split(path)
	parent := t.nodes[parentPath]
	parent.children[name] = struct{}{}
	parent.created++
	parent.pzxid = zxid
	switch {
	case n.owner != 0:
		paths := t.ephemerals[n.owner]
		if paths == nil {
			paths = map[string]struct{}{}
			t.ephemerals[n.owner] = paths
		}
		paths[path] = struct{}{}
	case n.container || n.ttl > 0:
		t.reapable[path] = struct{}{}
	}
	t.watches.fire(jute.EventCreated, path, zxid, n.acl)
	t.watches.fire(jute.EventChildrenChanged, parentPath, zxid, parent.acl)
}

func (t *tree) delete(path string, zxid int64) {
	n := t.nodes[path]
	delete(t.nodes, path)
	delete(t.reapable, path)
	if paths := t.ephemerals[n.owner]; paths != nil {
		if delete(paths, path); len(paths) == 0 {
			delete(t.ephemerals, n.owner)
		}
	}
	parentPath, name := split(path)
	parent := t.nodes[parentPath]
	delete(parent.children, name)
	parent.pzxid = zxid
	t.watches.fire(jute.EventDeleted, path, zxid, n.acl)
	t.watches.fire(jute.EventChildrenChanged, parentPath, zxid, parent.acl)
}

func (t *tree) setData(path string, data []byte, zxid, now int64) {
	n := t.nodes[path]
	n.data, n.mzxid, n.mtime = data, zxid, now
	n.version++
	t.watches.fire(jute.EventDataChanged, path, zxid, n.acl)
}

func (t *tree) setACL(path string, acl []jute.ACL) {
	n := t.nodes[path]
	n.acl = acl
	n.aversion++
}

// expired returns the container nodes that have lost their last child and the
// TTL nodes that nobody has written for longer than their time to live.
func (t *tree) expired(now int64) []string {
	var out []string
	for path := range t.reapable {
		n := t.nodes[path]
		if len(n.children) > 0 {
			continue
		}
		if n.container && n.created > 0 || n.ttl > 0 && now-n.mtime > n.ttl {
			out = append(out, path)
		}
	}
	return out
}
