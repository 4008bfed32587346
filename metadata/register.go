package metadata

import (
	"bytes"
	"context"
	"errors"
	"fmt"

	"github.com/go-zookeeper/zk"

	"github.com/turnout-mq/turnout/internal/errs"
)

// Registration is an ephemeral node of this process. Its methods may be called concurrently; they do one thing at a
// time.
type Registration struct {
	s    *Store
	path string
	busy chan struct{} // a lock that can be waited for with a ctx
	gone bool          // closed
}

// Register makes a Registration; Ensure makes the node. The path must be this process's own (NewInstanceID in it).
func (s *Store) Register(path string) *Registration {
	return &Registration{s: s, path: path, busy: make(chan struct{}, 1)}
}

// Ensure sees that the node exists in the present session and holds data, and returns that session. A node that an older
// session left is replaced. It waits while ZooKeeper is unreachable, and may be repeated at any time. ErrClosed after
// Close; ErrNotAllowed; ctx's error.
func (r *Registration) Ensure(ctx context.Context, data []byte) (session int64, err error) {
	if err := checkSize(r.path, data); err != nil {
		return 0, err
	}
	unlock, err := r.lock(ctx)
	if err != nil {
		return 0, err
	}
	defer unlock()
	if r.gone {
		return 0, fmt.Errorf("register %s: %w", r.path, errs.ErrClosed)
	}
	for {
		session, err := read(ctx, r.s, "register", r.path, func() (int64, error) { return r.ensure(data) })
		if err != nil || session != 0 {
			return session, err
		}
	}
}

// ensure makes the node what it should be on the present connection, and says in which session; 0: somebody else touched
// it, try again. Whatever of it was done when the connection is lost is found there at the next try.
func (r *Registration) ensure(data []byte) (int64, error) {
	session := r.s.conn.SessionID()
	n, err := r.s.get(r.path)
	full := r.s.chroot + r.path
	switch {
	case err != nil:
	case n.Exists && n.EphemeralOwner == session:
		if !bytes.Equal(n.Data, data) {
			_, err = r.s.conn.Set(full, data, AnyVersion)
		}
		if err == nil {
			return session, nil
		}
	case n.Exists:
		err = r.s.conn.Delete(full, AnyVersion)
	default:
		err = r.s.create(full, data, zk.FlagEphemeral)
	}
	if errors.Is(err, zk.ErrNoNode) || errors.Is(err, zk.ErrNodeExists) {
		err = nil
	}
	return 0, err
}

// Set writes data into the node. ErrNotFound when it does not exist now, as after the end of a session: Ensure it. Errors else
// as Store.Set.
func (r *Registration) Set(ctx context.Context, data []byte) error {
	unlock, err := r.lock(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	if r.gone {
		return fmt.Errorf("set %s: %w", r.path, errs.ErrClosed)
	}
	return r.s.Set(ctx, r.path, data, AnyVersion)
}

// Close removes the node if it is ours. Without a connection it fails when ctx ends; the node then goes with the session.
// Afterwards Ensure and Set give ErrClosed. Idempotent.
func (r *Registration) Close(ctx context.Context) error {
	unlock, err := r.lock(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	r.gone = true
	_, err = read(ctx, r.s, "unregister", r.path, func() (struct{}, error) {
		n, err := r.s.get(r.path)
		if err == nil && n.Exists && n.EphemeralOwner == r.s.conn.SessionID() {
			err = r.s.conn.Delete(r.s.chroot+r.path, AnyVersion)
		}
		if errors.Is(err, zk.ErrNoNode) {
			err = nil
		}
		return struct{}{}, err
	})
	if errors.Is(err, errs.ErrClosed) { // the session has ended, and the node with it
		return nil
	}
	return err
}

func (r *Registration) lock(ctx context.Context) (unlock func(), err error) {
	select {
	case r.busy <- struct{}{}:
		return func() { <-r.busy }, nil
	case <-ctx.Done():
		return nil, fmt.Errorf("register %s: %w", r.path, ctx.Err())
	}
}
