package metadata

import (
	"context"
	"errors"
	"fmt"
	"path"
	"strconv"
	"strings"
	"time"

	"github.com/go-zookeeper/zk"
	"github.com/google/uuid"

	"github.com/turnout-mq/turnout/internal/errs"
)

// Sequential is a node that the server numbers in the order of creation. Its name is Prefix's last element, an id of its
// own, "-", and the number. The id tells whose it is when the answer to its creation was lost.
type Sequential struct {
	Prefix    string // path up to the id, like "/turnout/locks/x/n_"
	Data      []byte
	Ephemeral bool
	// Passed is asked when an answer was lost and no such node is there: it says, by what the parent holds, whether the node
	// was created and has been removed since. nil: never. Only for nodes that others remove.
	Passed func(parent []byte, id string) bool
}

// idSize is how long the id in a name is.
const idSize = 32

// ParseSequential takes the name of a sequential node apart. prefix is the last element of Sequential.Prefix. ok is false
// for other names. Numbers go round after 2³¹ nodes: of two, a is the older one if a-b < 0.
func ParseSequential(prefix, name string) (id string, number int32, ok bool) {
	rest, ok := strings.CutPrefix(name, prefix)
	if !ok || len(rest) <= idSize || rest[idSize] != '-' {
		return "", 0, false
	}
	n, err := strconv.ParseInt(rest[idSize+1:], 10, 32)
	return rest[:idSize], int32(n), err == nil
}

// CreateSequential makes a sequential node, and its parents if they are missing, and returns it: an ephemeral one as it was
// read, of a persistent one the Path. An answer that was lost leads to no second node. When ctx ends first an ephemeral node is removed again, in the background if need
// be; a persistent one may have been created or not. Waits while ZooKeeper is unreachable. Errors: ErrTooLarge,
// ErrNotAllowed, ErrClosed, ctx's.
func (s *Store) CreateSequential(ctx context.Context, q Sequential) (Node, error) {
	if err := checkSize(q.Prefix, q.Data); err != nil {
		return Node{}, err
	}
	type created struct {
		node Node
		err  error
	}
	id := strings.ReplaceAll(uuid.NewString(), "-", "")
	done := make(chan created) // unbuffered: a node is handed over, or removed by who created it
	started := s.spawn(func() {
		node, err := s.createSequential(ctx, q, id)
		if ctx.Err() == nil {
			select {
			case done <- created{node, err}:
				return
			case <-ctx.Done():
			case <-s.ctx.Done():
			}
		}
		if q.Ephemeral {
			s.discard(q, id)
		}
	})
	if started {
		select {
		case c := <-done:
			return c.node, c.err
		case <-ctx.Done():
			return Node{}, fmt.Errorf("create %s: waiting for ZooKeeper %s: %w", q.Prefix, s.cfg.ZooKeeper, ctx.Err())
		case <-s.ctx.Done():
		}
	}
	return Node{}, fmt.Errorf("create %s: %w", q.Prefix, errs.ErrClosed)
}

// createSequential tries until it is known that the node exists.
func (s *Store) createSequential(ctx context.Context, q Sequential, id string) (Node, error) {
	flags := int32(zk.FlagSequence)
	if q.Ephemeral {
		flags |= zk.FlagEphemeral
	}
	for lost := false; ; {
		if _, err := s.connected(ctx); err != nil {
			return Node{}, fmt.Errorf("create %s: %w", q.Prefix, err)
		}
		n, err := Node{}, error(nil)
		if lost {
			n, err = s.find(q, id)
		}
		if err == nil && n.Path == "" {
			var full string
			full, err = s.conn.Create(s.chroot+q.Prefix+id+"-", q.Data, flags, s.who.acl())
			if errors.Is(err, zk.ErrNoNode) {
				if err = s.create(s.chroot+path.Dir(q.Prefix), nil, 0); err == nil || errors.Is(err, zk.ErrNodeExists) {
					continue
				}
			}
			if err == nil {
				n = Node{Path: strings.TrimPrefix(full, s.chroot)}
			}
		}
		if err == nil && !n.Exists && q.Ephemeral { // somebody else may take a persistent one away by now
			n, err = s.get(n.Path)
		}
		switch {
		case err != nil && isLost(err):
			lost = true
		case err != nil:
			return Node{}, s.wrap("create", q.Prefix, err)
		case q.Ephemeral && !n.Exists: // gone with its session
			lost = true
		default:
			n.Session = n.EphemeralOwner
			return n, nil
		}
	}
}

// find looks for the node with that id, after a sync, because the connection may be one to another server. An ephemeral one
// of another session does not count: it is about to go. A node without a Path says that it was never created.
func (s *Store) find(q Sequential, id string) (Node, error) {
	parent, prefix := path.Split(q.Prefix)
	parent = path.Clean(parent)
	if err := s.sync(parent); err != nil {
		return Node{}, err
	}
	names, _, err := s.conn.Children(s.chroot + parent)
	if errors.Is(err, zk.ErrNoNode) {
		return Node{}, nil
	}
	if err != nil {
		return Node{}, err
	}
	for _, name := range names {
		if is, _, ok := ParseSequential(prefix, name); !ok || is != id {
			continue
		}
		n, err := s.get(parent + "/" + name)
		if err != nil || !q.Ephemeral || n.Exists && n.EphemeralOwner == s.conn.SessionID() {
			return n, err
		}
	}
	if q.Passed == nil {
		return Node{}, nil
	}
	n, err := s.get(parent) // read after the children: a node moves from there to here in one step
	if err == nil && q.Passed(n.Data, id) {
		return Node{Path: q.Prefix + id}, nil
	}
	return Node{}, err
}

// discard removes the node with that id if it was created after all.
func (s *Store) discard(q Sequential, id string) {
	_, _ = read(s.ctx, s, "discard", q.Prefix, func() (struct{}, error) { // until it is done; closed: it went with the session
		n, err := s.find(q, id)
		if err == nil && n.Exists {
			err = s.conn.Delete(s.chroot+n.Path, AnyVersion)
		}
		if errors.Is(err, zk.ErrNoNode) {
			err = nil
		}
		return struct{}{}, err
	})
}

// WaitDeleted returns nil when there is no node at path, which should be one whose name is never used again. It watches
// that node alone; the library can not take the watch back, so after a wait that was given up its end is notified once for
// nothing. session is the one in which the caller waits: ErrConflict when it is not the present one any more.
func (s *Store) WaitDeleted(ctx context.Context, path string, session int64) error {
	defer s.watches.forget(path)
	for {
		// The node is read and not asked for by exists, which would leave a watch on a node that is gone.
		w, err := read(ctx, s, "wait for the end of", path, func() (watched, error) { return s.watchExisting(path, false) })
		if errors.Is(err, errs.ErrNotFound) {
			return nil
		}
		if err != nil {
			return err
		}
		st, changed, _ := s.sessions.now()
		if st.ID != session {
			return fmt.Errorf("wait for the end of %s: %w: the session of who waits has ended", path, errs.ErrConflict)
		}
		recheck := time.NewTimer(jitter(s.cfg.Recheck)) // the library can lose a watch
		select {
		case <-w.notice:
		case <-changed:
		case <-recheck.C:
		case <-ctx.Done():
		case <-s.ctx.Done():
		}
		recheck.Stop()
	}
}

// Confirm asks whether an ephemeral node of ours is there, after a sync. The answer held at the time since or later.
// ErrNotFound: it is gone, or its session has ended.
func (s *Store) Confirm(ctx context.Context, n Node) (since time.Time, err error) {
	type asked struct {
		at      time.Time // of the try that was answered
		session int64
		node    Node
	}
	a, err := read(ctx, s, "confirm", n.Path, func() (asked, error) {
		a := asked{at: time.Now(), session: s.conn.SessionID()}
		err := s.sync(n.Path)
		if err == nil {
			a.node, err = s.get(n.Path)
		}
		return a, err
	})
	switch {
	case err != nil:
		return time.Time{}, err
	case a.node.Exists && a.node.EphemeralOwner == n.Session && a.session == n.Session:
		return a.at, nil
	case a.session == n.Session:
		return time.Time{}, fmt.Errorf("confirm %s: %w: somebody has deleted it", n.Path, errs.ErrNotFound)
	default:
		return time.Time{}, fmt.Errorf("confirm %s: %w: its session %v has ended", n.Path, errs.ErrNotFound, Zxid(n.Session))
	}
}

// Keep asks again and again and returns as soon as somebody else may find that an ephemeral node of ours is gone: it is
// (ErrNotFound), or it could not be confirmed (ErrTimeout) for half of Config.SessionTimeout, in which the servers can not
// have ended the session, unless they grant a shorter timeout than was asked. since is what Confirm returned. Also
// ErrClosed, and ctx's error.
func (s *Store) Keep(ctx context.Context, n Node, since time.Time) error {
	// When we ask, the servers' leader has last heard of the session at most one interval and half a tick ago: its followers
	// report twice a tick. A session lasts at least two ticks. So it lives for 7/12 of its timeout after the question.
	limit, every := s.cfg.SessionTimeout/2, s.cfg.SessionTimeout/6
	for {
		_, changed, _ := s.sessions.now()
		timer := time.NewTimer(every)
		select {
		case <-timer.C:
		case <-changed:
		case <-ctx.Done():
		case <-s.ctx.Done():
		}
		timer.Stop()
		asking, cancel := context.WithDeadline(ctx, since.Add(limit))
		at, err := s.Confirm(asking, n)
		cancel()
		switch {
		case err == nil:
			since = at
		case ctx.Err() != nil:
			return ctx.Err()
		case errors.Is(err, context.DeadlineExceeded):
			return fmt.Errorf("confirm %s: %w: no answer from ZooKeeper %s for %v, half the session timeout", n.Path, errs.ErrTimeout, s.cfg.ZooKeeper, limit)
		default:
			return err
		}
	}
}

// Announce sees that an ephemeral node of this session exists at path and holds data, as long as the node while is there,
// and replaces one that is left over. ErrNotFound: while is gone. ErrTooLarge, ErrNotAllowed, ErrClosed, ctx's error.
func (s *Store) Announce(ctx context.Context, path string, data []byte, while Node) error {
	if err := checkSize(path, data); err != nil {
		return err
	}
	full := s.chroot + path
	for {
		done, err := read(ctx, s, "announce", path, func() (bool, error) {
			n, err := s.get(path)
			if err != nil {
				return false, err
			}
			if n.Exists && n.EphemeralOwner == while.Session && string(n.Data) == string(data) {
				return true, nil
			}
			ops := []any{&zk.CheckVersionRequest{Path: s.chroot + while.Path}}
			if n.Exists {
				ops = append(ops, &zk.DeleteRequest{Path: full, Version: n.Version})
			}
			ops = append(ops, &zk.CreateRequest{Path: full, Data: data, Acl: s.who.acl(), Flags: zk.FlagEphemeral})
			failed, err := s.multi(ops)
			if failed > 0 && (errors.Is(err, zk.ErrNodeExists) || errors.Is(err, zk.ErrNoNode) || errors.Is(err, zk.ErrBadVersion)) {
				err = nil // somebody else was there at the same time
			}
			return false, err
		})
		if err != nil || done {
			return err
		}
	}
}

// Remove deletes a node whose name is never used again, and with it, in one step, those of also that exist. When ctx ends
// first it returns ctx's error and goes on in the background until it is done or the Store closed. No error when the
// node is gone.
func (s *Store) Remove(ctx context.Context, path string, also ...string) error {
	done := make(chan error, 1)
	started := s.spawn(func() {
		_, err := read(s.ctx, s, "remove", path, func() (struct{}, error) { return struct{}{}, s.remove(path, also) })
		done <- err
	})
	if !started {
		return fmt.Errorf("remove %s: %w", path, errs.ErrClosed)
	}
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return fmt.Errorf("remove %s: waiting for ZooKeeper %s: %w", path, s.cfg.ZooKeeper, ctx.Err())
	}
}

func (s *Store) remove(path string, also []string) error {
	for {
		ops := []any{&zk.DeleteRequest{Path: s.chroot + path, Version: AnyVersion}}
		for _, other := range also {
			exists, _, err := s.conn.Exists(s.chroot + other)
			if err != nil {
				return err
			}
			if exists {
				ops = append(ops, &zk.DeleteRequest{Path: s.chroot + other, Version: AnyVersion})
			}
		}
		failed, err := s.multi(ops)
		switch {
		case !errors.Is(err, zk.ErrNoNode):
			return err
		case failed == 0:
			return nil
		}
	}
}
