package zkserver

import (
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/turnout-mq/turnout/testenv/zkserver/jute"
)

// handle serves one request and queues its answer. It reports whether the
// connection goes on.
func (s *Server) handle(c *conn, frame []byte) bool {
	d := jute.NewDecoder(frame)
	xid, op := d.Int32(), jute.Op(d.Int32())
	if d.Err() != nil {
		return false
	}
	c.session.seen = time.Now()
	var body jute.Encoder
	var code jute.Code
	zxid, more := int64(-1), true
	switch op {
	case jute.OpPing:
	case jute.OpAuth:
		d.Int32()
		var id jute.ID
		if id, code = authenticate(d.Ustring(), d.Buffer()); code == jute.OK && !slices.Contains(c.who, id) {
			c.who = append(slices.Clip(c.who), id)
		}
		zxid, more = 0, code == jute.OK
	case jute.OpCloseSession:
		sess := c.session
		sess.conn = nil // stays open for the answer
		s.endSession(sess)
		more = false
	case jute.OpCreate, jute.OpCreate2, jute.OpCreateContainer, jute.OpCreateTTL, jute.OpDelete, jute.OpSetData, jute.OpSetACL, jute.OpMulti:
		x := s.tree.begin(time.Now().UnixMilli(), c.session.id, c.who)
		if code = x.run(op, d, &body); s.faults.dropsAnswer(x.writes) {
			c.cut()
			return false
		}
	case jute.OpReconfig:
		code = jute.ReconfigDisabled
	case jute.OpSetWatches, jute.OpSetWatches2:
		code = s.restoreWatches(c, op, d)
	case jute.OpAddWatch, jute.OpCheckWatches, jute.OpRemoveWatches:
		code = s.changeWatch(c, op, d, &body)
	default:
		code = s.query(c, op, d, &body)
		more = code != jute.Unimplemented
	}
	if d.Err() != nil {
		code = jute.MarshallingError
	}
	if zxid < 0 {
		zxid = s.tree.zxid
	}
	var head jute.Encoder
	head.ReplyHeader(jute.ReplyHeader{Xid: xid, Zxid: zxid, Err: code})
	if code != jute.OK {
		body = jute.Encoder{}
	}
	c.lastOp, c.lastXid, c.lastZxid = op, xid, zxid
	c.send(jute.Frame(head.Bytes(), body.Bytes()))
	return more
}

// query serves the requests that change nothing but may leave a watch.
func (s *Server) query(c *conn, op jute.Op, d *jute.Decoder, e *jute.Encoder) jute.Code {
	switch op {
	case jute.OpSync:
		e.Ustring(d.Ustring())
		return jute.OK
	case jute.OpWhoAmI:
		e.Int32(int32(len(c.who)))
		for _, id := range c.who {
			user, _, _ := strings.Cut(id.ID, ":")
			e.Ustring(id.Scheme).Ustring(user)
		}
		return jute.OK
	case jute.OpGetEphemerals:
		prefix := strings.TrimSpace(d.Ustring())
		own := slices.Sorted(maps.Keys(s.tree.ephemerals[c.session.id]))
		e.Strings(slices.DeleteFunc(own, func(p string) bool { return !strings.HasPrefix(p, prefix) }))
		return jute.OK
	case jute.OpExists, jute.OpGetData, jute.OpGetChildren, jute.OpGetChildren2, jute.OpGetACL, jute.OpGetAllChildrenNumber:
	default:
		return jute.Unimplemented
	}

	path, watch := d.Ustring(), false
	if op != jute.OpGetACL && op != jute.OpGetAllChildrenNumber {
		watch = d.Bool()
	}
	if d.Err() != nil {
		return jute.MarshallingError
	}
	n := s.tree.nodes[path]
	if n == nil {
		if watch && op == jute.OpExists {
			s.watches.data.add(path, c, oneShot)
		}
		return jute.NoNode
	}
	perms := jute.PermRead
	if op == jute.OpGetACL {
		perms |= jute.PermAdmin
	}
	if !allowed(n.acl, perms, c.who) {
		return jute.NoAuth
	}
	switch op {
	case jute.OpExists:
		e.Stat(n.stat())
	case jute.OpGetData:
		e.Buffer(n.data).Stat(n.stat())
	case jute.OpGetACL:
		acl := n.acl
		if !allowed(n.acl, jute.PermAdmin, c.who) {
			acl = masked(acl)
		}
		e.ACLs(acl).Stat(n.stat())
	case jute.OpGetAllChildrenNumber:
		below := -1
		for p := range s.tree.nodes {
			if inSubtree(p, path) {
				below++
			}
		}
		e.Int32(int32(below))
	default:
		e.Strings(slices.Collect(maps.Keys(n.children)))
		if op == jute.OpGetChildren2 {
			e.Stat(n.stat())
		}
		if watch {
			s.watches.child.add(path, c, oneShot)
		}
		return jute.OK
	}
	if watch {
		s.watches.data.add(path, c, oneShot)
	}
	return jute.OK
}

func (s *Server) restoreWatches(c *conn, op jute.Op, d *jute.Decoder) jute.Code {
	seen := d.Int64()
	data, exist, child := d.Strings(), d.Strings(), d.Strings()
	var persist, recurse []string
	if op == jute.OpSetWatches2 {
		persist, recurse = d.Strings(), d.Strings()
	}
	if d.Err() != nil {
		return jute.MarshallingError
	}
	s.watches.restore(s.tree, c, seen, data, exist, child, persist, recurse)
	return jute.OK
}

func (s *Server) changeWatch(c *conn, op jute.Op, d *jute.Decoder, e *jute.Encoder) jute.Code {
	path, kind := d.Ustring(), d.Int32()
	if d.Err() != nil {
		return jute.MarshallingError
	}
	if op == jute.OpAddWatch {
		switch kind {
		case jute.AddWatchPersistent:
			s.watches.addPersistent(path, c, persistent)
		case jute.AddWatchPersistentRecursive:
			s.watches.addPersistent(path, c, recursive)
		default:
			return jute.MarshallingError
		}
		e.Int32(0)
		return jute.OK
	}
	tables, mode := s.watches.kind(kind)
	if tables == nil {
		return jute.MarshallingError
	}
	found := false
	for _, t := range tables {
		if op == jute.OpCheckWatches && t.has(path, c, mode) || op == jute.OpRemoveWatches && t.remove(path, c, mode) {
			found = true
		}
	}
	if !found {
		return jute.NoWatcher
	}
	return jute.OK
}
