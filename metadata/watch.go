package metadata

import (
	"errors"
	"slices"
	"sync"

	"github.com/go-zookeeper/zk"
)

// watches are the one-shot watches that are armed in the library, one for each node and kind however many followers it
// has: the library forgets a watch only when it fires, so arming one at each read would pile them up. A watch lives over
// reconnects; at the end of a session the library fires it.
type watches struct {
	mu    sync.Mutex
	armed map[watchKey]<-chan zk.Event
}

type watchKey struct {
	path string
	kind watchKind
}

type watchKind int

const (
	watchData   watchKind = iota // of a node that exists
	watchExist                   // of a node that does not
	watchChild                   // of the children of a node that exists
	watchedKind                  // how many there are
)

// get is the watch that is armed and has not fired, or nil.
func (w *watches) get(key watchKey) <-chan zk.Event {
	w.mu.Lock()
	defer w.mu.Unlock()
	ch := w.armed[key]
	select {
	case <-ch:
		delete(w.armed, key)
		return nil
	default:
		return ch
	}
}

func (w *watches) put(key watchKey, ch <-chan zk.Event) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.armed[key] = ch
}

// forget makes the next reads of path arm new watches.
func (w *watches) forget(path string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for kind := range watchedKind {
		delete(w.armed, watchKey{path, kind})
	}
}

// watched is what was read and the watch that fires when it is no longer so.
type watched struct {
	node   Node
	names  []string // children, sorted, when they were asked for
	notice <-chan zk.Event
}

// watch reads a node, or its children, with a watch armed before the read. Errors are the library's.
func (s *Store) watch(path string, children bool) (watched, error) {
	for {
		w, err := s.watchExisting(path, children)
		if !errors.Is(err, zk.ErrNoNode) {
			return w, err
		}
		key := watchKey{path, watchExist}
		if ch := s.watches.get(key); ch != nil {
			return watched{node: Node{Path: path}, notice: ch}, nil
		}
		exists, _, ch, err := s.conn.ExistsW(s.chroot + path)
		if err != nil {
			return watched{}, err
		}
		if !exists {
			s.watches.put(key, ch)
			return watched{node: Node{Path: path}, notice: ch}, nil
		}
		s.watches.put(watchKey{path, watchData}, ch) // created in the meantime, and so the library watches its data
	}
}

func (s *Store) watchExisting(path string, children bool) (watched, error) {
	full := s.chroot + path
	if !children {
		key := watchKey{path, watchData}
		if ch := s.watches.get(key); ch != nil {
			data, stat, err := s.conn.Get(full)
			if err != nil {
				return watched{}, err
			}
			return watched{node: nodeOf(path, data, stat), notice: ch}, nil
		}
		data, stat, ch, err := s.conn.GetW(full)
		if err != nil {
			return watched{}, err
		}
		s.watches.put(key, ch)
		return watched{node: nodeOf(path, data, stat), notice: ch}, nil
	}
	key := watchKey{path, watchChild}
	ch := s.watches.get(key)
	var names []string
	var stat *zk.Stat
	var err error
	if ch != nil {
		names, stat, err = s.conn.Children(full)
	} else {
		names, stat, ch, err = s.conn.ChildrenW(full)
	}
	if err != nil {
		return watched{}, err
	}
	s.watches.put(key, ch)
	slices.Sort(names)
	return watched{node: nodeOf(path, nil, stat), names: names, notice: ch}, nil
}
