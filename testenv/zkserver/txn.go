package zkserver

import (
	"fmt"
	"strings"

	"github.com/turnout-mq/turnout/testenv/zkserver/jute"
)

// write is one decoded write request, alone or within a multi.
type write struct {
	op      jute.Op
	path    string
	data    []byte
	acl     []jute.ACL
	flags   int32
	version int32
	ttl     int64 // milliseconds
	owner   int64 // session of the ephemeral node to create, set by prepare
}

// decodeWrite reads a write request; ok is false if the operation is none.
func decodeWrite(op jute.Op, d *jute.Decoder) (w write, ok bool) {
	w = write{op: op}
	switch op {
	case jute.OpCreate, jute.OpCreate2, jute.OpCreateContainer, jute.OpCreateTTL:
		w.path, w.data, w.acl, w.flags = d.Ustring(), d.Buffer(), d.ACLs(), d.Int32()
		if op == jute.OpCreateTTL {
			w.ttl = d.Int64()
		}
	case jute.OpDelete, jute.OpCheck:
		w.path, w.version = d.Ustring(), d.Int32()
	case jute.OpSetData:
		w.path, w.data, w.version = d.Ustring(), d.Buffer(), d.Int32()
	case jute.OpSetACL:
		w.path, w.acl, w.version = d.Ustring(), d.ACLs(), d.Int32()
	default:
		return w, false
	}
	return w, true
}

// record is what the checks of a transaction know about a node: the node of
// the tree, or what it will be after the writes before.
type record struct {
	acl                        []jute.ACL
	version, aversion, created int32
	owner                      int64
	children                   int
	gone                       bool
}

// txn is one transaction. Each write is checked by prepare, in order, against
// the tree and the pending records that the writes before it left; only when
// all have passed they are applied. So nothing has to be undone.
type txn struct {
	tree      *tree
	zxid, now int64
	session   int64
	who       []jute.ID
	pending   map[string]*record
	writes    []write // checked, with the final path, owner and version
}

// begin starts a transaction. It takes a zxid even if the checks then fail, as
// in the real server.
func (t *tree) begin(now, session int64, who []jute.ID) *txn {
	t.zxid++
	return &txn{tree: t, zxid: t.zxid, now: now, session: session, who: who, pending: map[string]*record{}}
}

// record returns a node's record for change, nil if there is no such node.
func (x *txn) record(path string) *record {
	r := x.pending[path]
	if r == nil {
		n := x.tree.nodes[path]
		if n == nil {
			return nil
		}
		r = &record{acl: n.acl, version: n.version, aversion: n.aversion, created: n.created, owner: n.owner, children: len(n.children)}
		x.pending[path] = r
	}
	if r.gone {
		return nil
	}
	return r
}

// prepare checks one write and keeps it for apply.
func (x *txn) prepare(w write) jute.Code {
	var code jute.Code
	switch w.op {
	case jute.OpDelete:
		code = x.prepareDelete(w)
	case jute.OpSetData:
		code = x.prepareChange(w, jute.PermWrite, func(r *record) *int32 { return &r.version })
	case jute.OpCheck:
		code = x.prepareChange(w, jute.PermRead, func(r *record) *int32 { v := r.version; return &v })
	case jute.OpSetACL:
		if !validPath(w.path) {
			return jute.BadArguments
		}
		if w.acl, code = resolveACL(w.acl, x.who); code == jute.OK {
			code = x.prepareChange(w, jute.PermAdmin, func(r *record) *int32 { return &r.aversion })
		}
	default:
		code = x.prepareCreate(&w)
	}
	if code == jute.OK {
		x.writes = append(x.writes, w)
	}
	return code
}

func (x *txn) prepareCreate(w *write) jute.Code {
	sequential := w.flags == jute.FlagPersistentSequential || w.flags == jute.FlagEphemeralSequential || w.flags == jute.FlagPersistentSequentialWithTTL
	timed := w.flags == jute.FlagPersistentWithTTL || w.flags == jute.FlagPersistentSequentialWithTTL
	if w.flags < jute.FlagPersistent || w.flags > jute.FlagPersistentSequentialWithTTL ||
		timed != (w.op == jute.OpCreateTTL) || timed && (w.ttl <= 0 || w.ttl > maxTTLMs) || !strings.Contains(w.path, "/") {
		return jute.BadArguments
	}
	acl, code := resolveACL(w.acl, x.who)
	if code != jute.OK {
		return code
	}
	parentPath, _ := split(w.path)
	parent := x.record(parentPath)
	switch {
	case parent == nil:
		return jute.NoNode
	case !allowed(parent.acl, jute.PermCreate, x.who):
		return jute.NoAuth
	}
	if sequential {
		w.path += fmt.Sprintf("%010d", parent.created)
	}
	switch {
	case !validPath(w.path):
		return jute.BadArguments
	case x.record(w.path) != nil:
		return jute.NodeExists
	case parent.owner != 0:
		return jute.NoChildrenForEphemerals
	}
	parent.created++
	parent.children++
	w.acl = acl
	if w.flags == jute.FlagEphemeral || w.flags == jute.FlagEphemeralSequential {
		w.owner = x.session
	}
	x.pending[w.path] = &record{acl: acl, owner: w.owner}
	return jute.OK
}

func (x *txn) prepareDelete(w write) jute.Code {
	if !strings.Contains(w.path, "/") || isSpecial(w.path) {
		return jute.BadArguments
	}
	parentPath, _ := split(w.path)
	parent := x.record(parentPath)
	if parent == nil {
		return jute.NoNode
	}
	if !allowed(parent.acl, jute.PermDelete, x.who) {
		return jute.NoAuth
	}
	r := x.record(w.path)
	switch {
	case r == nil:
		return jute.NoNode
	case w.version != -1 && w.version != r.version:
		return jute.BadVersion
	case r.children > 0:
		return jute.NotEmpty
	}
	parent.children--
	x.pending[w.path] = &record{gone: true}
	return jute.OK
}

// prepareChange checks a write to a node that stays, and raises the version
// that version points at.
func (x *txn) prepareChange(w write, perm int32, version func(*record) *int32) jute.Code {
	if !validPath(w.path) {
		return jute.BadArguments
	}
	r := x.record(w.path)
	if r == nil {
		return jute.NoNode
	}
	if !allowed(r.acl, perm, x.who) {
		return jute.NoAuth
	}
	v := version(r)
	if w.version != -1 && w.version != *v {
		return jute.BadVersion
	}
	*v++
	return jute.OK
}

// apply makes one prepared write true and appends the body of its answer.
func (x *txn) apply(w write, e *jute.Encoder) {
	switch w.op {
	case jute.OpDelete:
		x.tree.delete(w.path, x.zxid)
	case jute.OpSetData:
		x.tree.setData(w.path, w.data, x.zxid, x.now)
		e.Stat(x.tree.nodes[w.path].stat())
	case jute.OpSetACL:
		x.tree.setACL(w.path, w.acl)
		e.Stat(x.tree.nodes[w.path].stat())
	case jute.OpCheck:
	default:
		n := &node{data: w.data, acl: w.acl, owner: w.owner, container: w.op == jute.OpCreateContainer, ttl: w.ttl}
		x.tree.create(w.path, n, x.zxid, x.now)
		e.Ustring(w.path)
		if w.op != jute.OpCreate {
			e.Stat(n.stat())
		}
	}
}

// run serves a write request or a multi. Writes that were applied are left in
// x.writes.
func (x *txn) run(op jute.Op, d *jute.Decoder, e *jute.Encoder) jute.Code {
	if op == jute.OpMulti {
		return x.multi(d, e)
	}
	w, _ := decodeWrite(op, d)
	if d.Err() != nil {
		return jute.MarshallingError
	}
	code := x.prepare(w)
	if code == jute.OK {
		x.apply(x.writes[0], e)
	}
	return code
}

// multi runs a transaction of many writes, all or nothing. A failure is told in
// the results, one for each write, not as the code of the request: OK before the
// write that failed, its code, RuntimeInconsistency after.
func (x *txn) multi(d *jute.Decoder, e *jute.Encoder) jute.Code {
	var all []write
	for {
		op, done := jute.Op(d.Int32()), d.Bool()
		d.Int32()
		if done {
			break
		}
		w, ok := decodeWrite(op, d)
		if !ok || op == jute.OpSetACL || d.Err() != nil {
			return jute.MarshallingError
		}
		if op == jute.OpCreate || op == jute.OpCreate2 {
			// Within a multi the real server looks at the flags as it decodes.
			if w.flags < jute.FlagPersistent || w.flags > jute.FlagContainer {
				return jute.MarshallingError
			}
			if w.flags == jute.FlagContainer {
				w.op = jute.OpCreateContainer
			}
		}
		all = append(all, w)
	}
	for i, w := range all {
		if failure := x.prepare(w); failure != jute.OK {
			x.writes = nil
			for j := range all {
				code := jute.OK
				if j == i {
					code = failure
				} else if j > i {
					code = jute.RuntimeInconsistency
				}
				multiHeader(e, jute.OpError, false, code)
				e.Int32(int32(code))
			}
			multiHeader(e, -1, true, -1)
			return jute.OK
		}
	}
	for _, w := range x.writes {
		kind := w.op
		if kind == jute.OpCreateContainer || kind == jute.OpCreateTTL {
			kind = jute.OpCreate2 // their results have the same form
		}
		multiHeader(e, kind, false, jute.OK)
		x.apply(w, e)
	}
	multiHeader(e, -1, true, -1)
	return jute.OK
}

func multiHeader(e *jute.Encoder, op jute.Op, done bool, code jute.Code) {
	e.Int32(int32(op)).Bool(done).Int32(int32(code))
}
