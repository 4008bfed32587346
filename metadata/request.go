package metadata

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"

	"github.com/go-zookeeper/zk"

	"github.com/turnout-mq/turnout/internal/errs"
)

// AnyVersion given as the version of Set, Delete, SetOp and DeleteOp matches every version.
const AnyVersion int32 = -1

// Read reads one node. A node that does not exist is no error: Node.Exists is false.
func (s *Store) Read(ctx context.Context, path string) (Node, error) {
	return read(ctx, s, "read", path, func() (Node, error) { return s.get(path) })
}

// Children are the names of the children, sorted. ErrNotFound: no such node.
func (s *Store) Children(ctx context.Context, path string) ([]string, error) {
	return read(ctx, s, "list", path, func() ([]string, error) {
		names, _, err := s.conn.Children(s.chroot + path)
		slices.Sort(names)
		return names, err
	})
}

// Sync makes what was written anywhere before this call visible to the reads after it.
func (s *Store) Sync(ctx context.Context, path string) error {
	_, err := read(ctx, s, "sync", path, func() (struct{}, error) { return struct{}{}, s.sync(path) })
	return err
}

// Create makes a persistent node with data in one operation, and the parents that are missing, empty. ErrConflict: it
// exists. ErrTimeout: the connection was lost, and it may have been created or not.
func (s *Store) Create(ctx context.Context, path string, data []byte) error {
	if err := checkSize(path, data); err != nil {
		return err
	}
	_, err := write(ctx, s, "create", path, func() (struct{}, error) { return struct{}{}, s.create(s.chroot+path, data, 0) })
	return err
}

// Set writes a node that has the given version, or AnyVersion. ErrConflict: it has another version. ErrNotFound: no such
// node. ErrTimeout: the connection was lost, and it may have been written or not.
func (s *Store) Set(ctx context.Context, path string, data []byte, version int32) error {
	if err := checkSize(path, data); err != nil {
		return err
	}
	_, err := write(ctx, s, "set", path, func() (struct{}, error) {
		_, err := s.conn.Set(s.chroot+path, data, version)
		return struct{}{}, err
	})
	return err
}

// Delete removes a node that has the given version, or AnyVersion. Errors as Set; ErrConflict also when it has children.
func (s *Store) Delete(ctx context.Context, path string, version int32) error {
	_, err := write(ctx, s, "delete", path, func() (struct{}, error) { return struct{}{}, s.conn.Delete(s.chroot+path, version) })
	return err
}

// Op is one operation of Multi.
type Op struct {
	what, path string
	data       []byte
	version    int32
}

// CreateOp makes a persistent node; its parent must exist.
func CreateOp(path string, data []byte) Op { return Op{what: "create", path: path, data: data} }

// SetOp writes a node that has the given version.
func SetOp(path string, data []byte, version int32) Op {
	return Op{what: "set", path: path, data: data, version: version}
}

// DeleteOp removes a node that has the given version.
func DeleteOp(path string, version int32) Op {
	return Op{what: "delete", path: path, version: version}
}

// CheckOp demands that a node has the given version.
func CheckOp(path string, version int32) Op { return Op{what: "check", path: path, version: version} }

// Multi does all of ops or none. The error is that of the first one that can not be done, as of the single operations,
// and names it.
func (s *Store) Multi(ctx context.Context, ops ...Op) error {
	if len(ops) == 0 {
		return nil
	}
	requests := make([]any, len(ops))
	for i, op := range ops {
		if err := checkSize(op.path, op.data); err != nil {
			return err
		}
		requests[i] = s.request(op)
	}
	failed, err := write(ctx, s, "multi", ops[0].path, func() (int, error) { return s.multi(requests) })
	if err != nil && failed > 0 {
		return fmt.Errorf("%s %s: %w", ops[failed].what, ops[failed].path, err)
	}
	return err
}

func (s *Store) request(op Op) any {
	full := s.chroot + op.path
	switch op.what {
	case "create":
		return &zk.CreateRequest{Path: full, Data: op.data, Acl: s.who.acl()}
	case "set":
		return &zk.SetDataRequest{Path: full, Data: op.data, Version: op.version}
	case "delete":
		return &zk.DeleteRequest{Path: full, Version: op.version}
	default:
		return &zk.CheckVersionRequest{Path: full, Version: op.version}
	}
}

// multi returns the index of the operation that failed.
func (s *Store) multi(requests []any) (failed int, err error) {
	results, err := s.conn.Multi(requests...)
	if err == nil {
		return 0, nil
	}
	for i, r := range results {
		if r.Error != nil && errors.Is(err, r.Error) {
			return i, err
		}
	}
	return 0, err
}

func checkSize(path string, data []byte) error {
	if len(data) > MaxDocument {
		return fmt.Errorf("node %s: %w: %d bytes, at most %d", path, errs.ErrTooLarge, len(data), MaxDocument)
	}
	return nil
}

// get reads a node; the error is the library's.
func (s *Store) get(path string) (Node, error) {
	data, stat, err := s.conn.Get(s.chroot + path)
	if errors.Is(err, zk.ErrNoNode) {
		return Node{Path: path}, nil
	}
	if err != nil {
		return Node{}, err
	}
	return nodeOf(path, data, stat), nil
}

func (s *Store) sync(path string) error {
	_, err := s.conn.Sync(s.chroot + path)
	return err
}

func nodeOf(path string, data []byte, stat *zk.Stat) Node {
	return Node{
		Path: path, Exists: true, Data: data, Czxid: Zxid(stat.Czxid), Mzxid: Zxid(stat.Mzxid), Pzxid: Zxid(stat.Pzxid),
		Version: stat.Version, NumChildren: stat.NumChildren, EphemeralOwner: stat.EphemeralOwner,
	}
}

// answer is the result of a request and the connection in which it was made.
type answer[T any] struct {
	value T
	state state // of the connection; zero if it went while the request ran
	err   error // the library's, or errLost
}

// call runs f, which uses the library, in a goroutine: the library knows no ctx. It is begun on the connection of st.
func call[T any](ctx context.Context, s *Store, st state, f func() (T, error)) (answer[T], error) {
	done := make(chan answer[T], 1) // f may go on after we have left
	started := s.spawn(func() {
		v, err := f()
		if err != nil && isLost(err) {
			err = fmt.Errorf("%w: %w", errLost, err)
		}
		done <- answer[T]{value: v, err: err}
	})
	if !started {
		return answer[T]{}, fmt.Errorf("zookeeper: %w", errs.ErrClosed)
	}
	select {
	case a := <-done:
		if s.ctx.Err() != nil && a.err != nil {
			return answer[T]{}, fmt.Errorf("zookeeper: %w", errs.ErrClosed)
		}
		if s.sessions.still(st.epoch) {
			a.state = st
		}
		return a, nil
	case <-ctx.Done():
		return answer[T]{}, fmt.Errorf("waiting for ZooKeeper %s: %w", s.cfg.ZooKeeper, ctx.Err())
	}
}

// read repeats f until it was answered within one connection, or ctx ends. A Node gets its session.
func read[T any](ctx context.Context, s *Store, op, path string, f func() (T, error)) (T, error) {
	var zero T
	for {
		st, err := s.connected(ctx)
		if err != nil {
			return zero, fmt.Errorf("%s %s: %w", op, path, err)
		}
		a, err := call(ctx, s, st, f)
		if err != nil {
			return zero, fmt.Errorf("%s %s: %w", op, path, err)
		}
		switch {
		case a.err == nil && a.state == st:
			if n, ok := any(&a.value).(*Node); ok {
				n.Session = st.ID
			}
			return a.value, nil
		case a.err != nil && !errors.Is(a.err, errLost):
			return zero, s.wrap(op, path, a.err)
		}
	}
}

// write runs f once.
func write[T any](ctx context.Context, s *Store, op, path string, f func() (T, error)) (T, error) {
	var zero T
	st, err := s.connected(ctx)
	if err != nil {
		return zero, fmt.Errorf("%s %s: %w", op, path, err)
	}
	a, err := call(ctx, s, st, f)
	if err != nil {
		return zero, fmt.Errorf("%s %s: %w", op, path, err)
	}
	return a.value, s.wrap(op, path, a.err)
}

// isLost says that err comes from the connection and not from the server's answer.
func isLost(err error) bool {
	var netErr *net.OpError
	for _, e := range []error{errLost, zk.ErrConnectionClosed, zk.ErrNoServer, zk.ErrSessionExpired, zk.ErrSessionMoved, zk.ErrClosing, io.EOF, io.ErrUnexpectedEOF, io.ErrClosedPipe, net.ErrClosed} {
		if errors.Is(err, e) {
			return true
		}
	}
	return errors.As(err, &netErr)
}

// wrap gives an error of the library its sentinel and says what was tried.
func (s *Store) wrap(op, path string, err error) error {
	var as error
	switch {
	case err == nil:
		return nil
	case isLost(err):
		as = errs.ErrTimeout
		err = fmt.Errorf("it may have happened or not: %w", err)
	case errors.Is(err, zk.ErrNoNode):
		as = errs.ErrNotFound
	case errors.Is(err, zk.ErrBadVersion), errors.Is(err, zk.ErrNodeExists), errors.Is(err, zk.ErrNotEmpty):
		as = errs.ErrConflict
	case errors.Is(err, zk.ErrNoAuth), errors.Is(err, zk.ErrAuthFailed):
		as = errs.ErrNotAllowed
		err = fmt.Errorf("%w: %s", err, s.who.remedy())
	case errors.Is(err, zk.ErrInvalidPath):
		as = errs.ErrInvalid
	default:
		return fmt.Errorf("%s %s: %w", op, path, err)
	}
	return fmt.Errorf("%s %s: %w: %w", op, path, as, err)
}
