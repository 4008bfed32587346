package cli

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"path"
	"slices"
	"time"

	"github.com/go-zookeeper/zk"

	"github.com/turnout-mq/turnout/internal/errs"
)

// The kinds of change, in the words of "turnout watch".
const (
	kindNode      = "NODE"       // the followed node as it was found at the start
	kindAbsent    = "ABSENT"     // the followed node was not there at the start
	kindChild     = "CHILD"      // a node below it as it was found at the start
	kindCreated   = "CREATED"    // the followed node was created
	kindData      = "DATA"       // its data was set
	kindDeleted   = "DELETED"    // it was deleted
	kindChildAdd  = "CHILD+"     // a node below it was created
	kindChildData = "CHILD DATA" // a node below it had its data set
	kindChildDel  = "CHILD-"     // a node below it was deleted
	kindChildren  = "CHILDREN"   // children came and went between two reads: how many changes, not which
)

// change is one difference between what was known and what ZooKeeper has.
type change struct {
	kind, path string
	stat       *zk.Stat // of the node now, as last known for a deleted one; nil if it went before it was read
	oldVersion int32    // kindData, kindChildData
	data       []byte
	unreadable bool // data is not permitted to be read
	missed     int  // kindChildren
}

// follower keeps a copy of a node and of what is below it in line with ZooKeeper and reports every difference. It
// rests on comparing, not on the content of notices: one-shot watches say where to look; everything is read again on each
// new connection, and compared every recheck in case a watch got lost silently. Changes that come quicker than the
// reads coalesce: the versions show how many sets, the parent's count of child changes shows children that came and went.
type follower struct {
	dial      func(context.Context) (*zkConn, error)
	root      string
	recursive bool
	recheck   time.Duration
	report    func(change) error         // an error ends run
	note      func(what, details string) // about the connection

	conn     *zkConn
	nodes    map[string]*followed
	suspects map[string]bool // nodes whose children may have changed unseen
	started  bool            // what is found now was not there at the start
	reported int
}

type followed struct {
	stat       zk.Stat
	unreadable bool            // stat is empty
	children   map[string]bool // names of those in nodes
	cversion   int32           // of the newest listing
	// unseen is how many changes of children ZooKeeper has counted beyond those reported. It is below 0 while a change
	// was reported before the listing that counts it.
	unseen int
}

const redialEvery = 500 * time.Millisecond // to twice that

// look is how to read: arm also sets watches, all also reads children that are known.
type look struct{ arm, all bool }

// run follows over conn, and over new connections when that is lost, until ctx ends, which returns nil, or until
// something fails. It closes conn.
func (f *follower) run(ctx context.Context, conn *zkConn) error {
	f.conn, f.nodes, f.suspects = conn, map[string]*followed{}, map[string]bool{}
	for {
		stop := context.AfterFunc(ctx, f.conn.interrupt) // the client library takes no ctx
		err := f.follow(ctx)
		stop()
		f.conn.close()
		if ctx.Err() != nil {
			err = nil
		}
		if !connectionLost(err) {
			return err
		}
		f.note("DISCONNECTED", f.conn.lastTrouble())
		if f.conn = f.redial(ctx); f.conn == nil {
			return nil
		}
		f.note("RECONNECTED", f.conn.conn.Server())
	}
}

// redial returns nil when ctx ends.
func (f *follower) redial(ctx context.Context) *zkConn {
	for {
		conn, err := f.dial(ctx)
		if err == nil {
			return conn
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(redialEvery + rand.N(redialEvery)):
		}
	}
}

func connectionLost(err error) bool {
	for _, lost := range []error{zk.ErrConnectionClosed, zk.ErrNoServer, zk.ErrSessionExpired, zk.ErrSessionMoved, zk.ErrClosing} {
		if errors.Is(err, lost) {
			return true
		}
	}
	return false
}

// follow works with one connection until that is lost or ctx ends.
func (f *follower) follow(ctx context.Context) error {
	// The server of a new session may lag behind the one of the old.
	if _, err := f.conn.conn.Sync(f.conn.server(f.root)); err != nil {
		return err
	}
	if err := f.compare(look{arm: true, all: true}); err != nil {
		return err
	}
	recheck := time.NewTicker(f.recheck)
	defer recheck.Stop()
	for {
		var err error
		select {
		case <-ctx.Done():
			return nil
		case <-f.conn.ready:
			err = f.drain()
		case <-recheck.C:
			before := f.reported
			if err = f.compare(look{all: true}); err == nil && f.reported != before {
				err = f.compare(look{arm: true, all: true}) // a watch may have been lost
			}
		}
		if err != nil {
			return err
		}
	}
}

// drain handles the events that have come.
func (f *follower) drain() error {
	for {
		events := f.conn.take()
		if len(events) == 0 {
			return f.reportUnseen()
		}
		for _, e := range events {
			if err := f.handle(e); err != nil {
				return err
			}
		}
	}
}

func (f *follower) handle(e zk.Event) error {
	p := f.conn.client(e.Path)
	switch {
	case e.Type == zk.EventSession && e.State == zk.StateDisconnected:
		return zk.ErrConnectionClosed
	case e.Type == zk.EventNodeChildrenChanged && f.nodes[p] != nil:
		return f.children(p, look{arm: true})
	case e.Type == zk.EventNodeCreated || e.Type == zk.EventNodeDeleted || e.Type == zk.EventNodeDataChanged:
		return f.node(p, look{arm: true})
	}
	return nil
}

// compare looks at everything.
func (f *follower) compare(l look) error {
	if err := f.node(f.root, l); err != nil {
		return err
	}
	if f.started {
		return nil
	}
	f.started = true
	if f.nodes[f.root] == nil {
		return f.report(change{kind: kindAbsent, path: f.root})
	}
	return nil
}

// node reads one node and what is followed below it.
func (f *follower) node(p string, l look) error {
	parent := f.nodes[path.Dir(p)]
	if p != f.root && parent == nil {
		return nil // an old watch below a node that is gone
	}
	known := f.nodes[p]
	data, stat, err := f.read(p, l.arm)
	switch {
	case errors.Is(err, zk.ErrNoAuth) && p == f.root:
		return fmt.Errorf("%w: no permission to read %s; log in with --zookeeper-auth", errs.ErrNotAllowed, p)
	case errors.Is(err, zk.ErrNoAuth) && known != nil:
		return nil // its deletion shows in the parent's list
	case errors.Is(err, zk.ErrNoAuth):
		stat = &zk.Stat{}
	case err != nil:
		return err
	case known != nil && known.unreadable && stat != nil:
		known.stat, known.unreadable = *stat, false // a change of permissions is not one of data
	}
	if known != nil && (stat == nil || stat.Czxid != known.stat.Czxid) {
		if err := f.gone(p); err != nil {
			return err
		}
		known = nil
	}
	if stat == nil {
		return nil
	}
	c := change{path: p, stat: stat, data: data, unreadable: err != nil}
	switch {
	case known == nil:
		c.kind = f.kind(p, kindCreated, kindChildAdd)
		if !f.started {
			c.kind = f.kind(p, kindNode, kindChild)
		}
		f.nodes[p] = &followed{stat: *stat, children: map[string]bool{}, unreadable: c.unreadable}
		if p != f.root {
			parent.children[path.Base(p)] = true
		}
	case stat.Mzxid != known.stat.Mzxid:
		c.kind, c.oldVersion = f.kind(p, kindData, kindChildData), known.stat.Version
	}
	if c.kind != "" {
		if err := f.tell(c); err != nil {
			return err
		}
	}
	f.nodes[p].stat = *stat
	if (p == f.root || f.recursive) && !c.unreadable && (known == nil || l.all) {
		return f.children(p, l)
	}
	return nil
}

// children lists the children of a known node.
func (f *follower) children(p string, l look) error {
	n := f.nodes[p]
	names, stat, err := f.list(p, l.arm)
	switch {
	case errors.Is(err, zk.ErrNoNode), errors.Is(err, zk.ErrNoAuth): // since it was read
		return f.node(p, l)
	case err != nil:
		return err
	case stat.Czxid != n.stat.Czxid: // deleted and created again since it was read
		return f.node(p, look{arm: l.arm, all: true})
	}
	if f.started {
		n.unseen += int(stat.Cversion - n.cversion)
	}
	n.cversion = stat.Cversion
	f.suspects[p] = true
	slices.Sort(names)
	for _, name := range slices.Sorted(maps.Keys(n.children)) {
		if _, there := slices.BinarySearch(names, name); !there {
			if err := f.gone(path.Join(p, name)); err != nil {
				return err
			}
		}
	}
	for _, name := range names {
		child := path.Join(p, name)
		if f.nodes[child] != nil && !l.all {
			continue
		}
		isNew := f.nodes[child] == nil && f.started
		if err := f.node(child, l); err != nil {
			return err
		}
		if isNew && f.nodes[child] == nil { // gone before it could be read
			for _, kind := range []string{kindChildAdd, kindChildDel} {
				if err := f.tell(change{kind: kind, path: child}); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// gone reports a known node as deleted, after those below it.
func (f *follower) gone(p string) error {
	n := f.nodes[p]
	for _, name := range slices.Sorted(maps.Keys(n.children)) {
		if err := f.gone(path.Join(p, name)); err != nil {
			return err
		}
	}
	delete(f.nodes, p)
	delete(f.suspects, p)
	if p != f.root {
		delete(f.nodes[path.Dir(p)].children, path.Base(p))
	}
	return f.tell(change{kind: f.kind(p, kindDeleted, kindChildDel), path: p, stat: &n.stat})
}

func (f *follower) kind(p, root, child string) string {
	if p == f.root {
		return root
	}
	return child
}

func (f *follower) tell(c change) error {
	if c.kind == kindChildAdd || c.kind == kindChildDel {
		if parent := f.nodes[path.Dir(c.path)]; parent != nil {
			parent.unseen--
		}
	}
	f.reported++
	return f.report(c)
}

// reportUnseen is called when every event that came before the newest listings was handled, so that what ZooKeeper has
// counted beyond the reported changes did come and go between two reads.
func (f *follower) reportUnseen() error {
	for _, p := range slices.Sorted(maps.Keys(f.suspects)) {
		delete(f.suspects, p)
		if n := f.nodes[p]; n != nil && n.unseen > 0 {
			missed := n.unseen
			n.unseen = 0
			if err := f.tell(change{kind: kindChildren, path: p, missed: missed}); err != nil {
				return err
			}
		}
	}
	return nil
}

// read returns a nil stat for a node that is not there.
func (f *follower) read(p string, arm bool) (data []byte, stat *zk.Stat, err error) {
	full, conn := f.conn.server(p), f.conn.conn
	if !arm {
		data, stat, err = conn.Get(full)
	}
	for arm {
		if data, stat, _, err = conn.GetW(full); !errors.Is(err, zk.ErrNoNode) || p != f.root {
			break
		}
		var there bool
		if there, _, _, err = conn.ExistsW(full); err != nil || !there {
			return nil, nil, err
		}
	}
	if errors.Is(err, zk.ErrNoNode) {
		return nil, nil, nil
	}
	return data, stat, err
}

func (f *follower) list(p string, arm bool) (names []string, stat *zk.Stat, err error) {
	if arm {
		names, stat, _, err = f.conn.conn.ChildrenW(f.conn.server(p))
		return names, stat, err
	}
	return f.conn.conn.Children(f.conn.server(p))
}
