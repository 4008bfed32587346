package zkserver

import "github.com/turnout-mq/turnout/testenv/zkserver/jute"

// watchMode is a set of the ways in which one connection watches one path.
type watchMode uint8

const (
	oneShot watchMode = 1 << iota
	persistent
	recursive
	anyMode = oneShot | persistent | recursive
)

// watchTable holds who watches what, for one kind of change.
type watchTable struct {
	byPath    map[string]map[*conn]watchMode
	byConn    map[*conn]map[string]struct{}
	recursive int // number of recursive watches
}

func newWatchTable() *watchTable {
	return &watchTable{byPath: map[string]map[*conn]watchMode{}, byConn: map[*conn]map[string]struct{}{}}
}

func (t *watchTable) add(path string, c *conn, mode watchMode) {
	if t.byPath[path] == nil {
		t.byPath[path] = map[*conn]watchMode{}
	}
	if t.byConn[c] == nil {
		t.byConn[c] = map[string]struct{}{}
	}
	t.set(path, c, t.byPath[path][c]|mode)
	t.byConn[c][path] = struct{}{}
}

// set changes the mode of a watch that exists; mode 0 removes it.
func (t *watchTable) set(path string, c *conn, mode watchMode) {
	if (t.byPath[path][c]^mode)&recursive != 0 {
		if mode&recursive != 0 {
			t.recursive++
		} else {
			t.recursive--
		}
	}
	if mode != 0 {
		t.byPath[path][c] = mode
		return
	}
	if delete(t.byPath[path], c); len(t.byPath[path]) == 0 {
		delete(t.byPath, path)
	}
	if delete(t.byConn[c], path); len(t.byConn[c]) == 0 {
		delete(t.byConn, c)
	}
}

func (t *watchTable) has(path string, c *conn, mode watchMode) bool {
	return t.byPath[path][c]&mode != 0
}

func (t *watchTable) remove(path string, c *conn, mode watchMode) bool {
	was := t.byPath[path][c]
	if was&mode == 0 {
		return false
	}
	t.set(path, c, was&^mode)
	return true
}

func (t *watchTable) removeConn(c *conn) int {
	n := len(t.byConn[c])
	for path := range t.byConn[c] {
		t.set(path, c, 0)
	}
	return n
}

func (t *watchTable) count() int {
	n := 0
	for _, conns := range t.byPath {
		n += len(conns)
	}
	return n
}

// take returns whom a change at path concerns and uses up their one-shot
// watches.
func (t *watchTable) take(path string) map[*conn]struct{} {
	out := map[*conn]struct{}{}
	for c, mode := range t.byPath[path] {
		out[c] = struct{}{}
		t.set(path, c, mode&^oneShot)
	}
	for t.recursive > 0 && path != "/" {
		path, _ = split(path)
		for c, mode := range t.byPath[path] {
			if mode&recursive != 0 {
				out[c] = struct{}{}
			}
		}
	}
	return out
}

// watches holds all watches of the server. They belong to a connection, not to
// a session: a client that reconnects sets them again.
type watches struct{ data, child *watchTable }

func newWatches() *watches { return &watches{data: newWatchTable(), child: newWatchTable()} }

// fire queues the event to everybody who watches for it and may read the node.
func (w *watches) fire(typ jute.EventType, path string, zxid int64, acl []jute.ACL) {
	table := w.data
	if typ == jute.EventChildrenChanged {
		table = w.child
	}
	told := table.take(path)
	if typ == jute.EventDeleted {
		// Who watches the data and the children hears of the deletion once.
		for c := range w.child.take(path) {
			told[c] = struct{}{}
		}
	}
	for c := range told {
		if allowed(acl, jute.PermRead, c.who) {
			c.notify(typ, path, zxid)
		}
	}
}

func (w *watches) addPersistent(path string, c *conn, mode watchMode) {
	w.data.add(path, c, mode)
	if mode == persistent {
		w.child.add(path, c, mode)
	}
}

// restore sets the watches of a client that comes back after it has seen the
// zxid. A one-shot watch whose change has happened since fires at once;
// persistent watches are set without a word on what was missed.
func (w *watches) restore(t *tree, c *conn, seen int64, data, exist, child, persist, recurse []string) {
	for _, path := range data {
		if n := t.nodes[path]; n == nil {
			c.notify(jute.EventDeleted, path, jute.NoZxid)
		} else if n.mzxid > seen {
			c.notify(jute.EventDataChanged, path, jute.NoZxid)
		} else {
			w.data.add(path, c, oneShot)
		}
	}
	for _, path := range exist {
		if t.nodes[path] != nil {
			c.notify(jute.EventCreated, path, jute.NoZxid)
		} else {
			w.data.add(path, c, oneShot)
		}
	}
	for _, path := range child {
		if n := t.nodes[path]; n == nil {
			c.notify(jute.EventDeleted, path, jute.NoZxid)
		} else if n.pzxid > seen {
			c.notify(jute.EventChildrenChanged, path, jute.NoZxid)
		} else {
			w.child.add(path, c, oneShot)
		}
	}
	for _, path := range persist {
		w.addPersistent(path, c, persistent)
	}
	for _, path := range recurse {
		w.addPersistent(path, c, recursive)
	}
}

// kind translates a kind of watch of the protocol to tables and modes.
func (w *watches) kind(k int32) (tables []*watchTable, mode watchMode) {
	switch k {
	case jute.WatcherChildren:
		return []*watchTable{w.child}, oneShot
	case jute.WatcherData:
		return []*watchTable{w.data}, oneShot
	case jute.WatcherPersistent:
		return []*watchTable{w.child, w.data}, persistent
	case jute.WatcherPersistentRecursive:
		return []*watchTable{w.data}, recursive
	case jute.WatcherAny:
		return []*watchTable{w.child, w.data}, anyMode
	}
	return nil, 0
}

func (w *watches) removeConn(c *conn) int { return w.data.removeConn(c) + w.child.removeConn(c) }

func (w *watches) countConn(c *conn) int { return len(w.data.byConn[c]) + len(w.child.byConn[c]) }

func (w *watches) count() int { return w.data.count() + w.child.count() }
