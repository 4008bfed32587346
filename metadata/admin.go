package metadata

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"

	"github.com/turnout-mq/turnout/internal/errs"
)

// editable is a document that people and tools write.
type editable interface {
	json.Marshaler
	Validate() error
}

// readDocument reads a document that must exist (ErrNotFound).
func readDocument[T any](ctx context.Context, s *Store, path string, parse func([]byte) (T, error)) (T, Node, error) {
	var zero T
	n, err := s.Read(ctx, path)
	if err != nil {
		return zero, n, err
	}
	if !n.Exists {
		return zero, n, fmt.Errorf("node %s: %w", path, errs.ErrNotFound)
	}
	doc, err := parse(n.Data)
	if err != nil {
		return zero, n, fmt.Errorf("node %s: %w", path, err)
	}
	if l, ok := any(&doc).(located); ok {
		l.locate(n)
	}
	return doc, n, nil
}

// edit changes the document at path by compare-and-set. change gets the document as it is (the zero value if there is none,
// or, with invalid set, one that is not acceptable) and returns the one to write, and what else has to be true or done in
// the same step. It is called again when somebody else was faster.
func edit[T editable](ctx context.Context, s *Store, path string, parse func([]byte) (T, error), change func(old T, n Node, invalid error) (T, []Op, error)) error {
	for {
		if err := s.Sync(ctx, path); err != nil {
			return err
		}
		old, n, invalid := readDocument(ctx, s, path, parse)
		switch {
		case errors.Is(invalid, errs.ErrNotFound):
			invalid = nil
		case invalid != nil && !unacceptable(invalid):
			return invalid
		}
		next, also, err := change(old, n, invalid)
		if err != nil {
			return err
		}
		data, err := encode(next)
		if err != nil {
			return fmt.Errorf("node %s: %w", path, err)
		}
		if n.Exists && bytes.Equal(data, n.Data) {
			return nil
		}
		done, err := s.replace(ctx, n, data, also)
		if done || err != nil {
			return err
		}
	}
}

// unacceptable says that err is about a document and not about reading it.
func unacceptable(err error) bool {
	return errors.Is(err, errs.ErrInvalid) || errors.Is(err, errs.ErrTooLarge)
}

// encode writes a document that is acceptable.
func encode(doc editable) ([]byte, error) {
	if err := doc.Validate(); err != nil {
		return nil, err
	}
	data, err := json.Marshal(doc)
	if err == nil && len(data) > MaxDocument {
		err = fmt.Errorf("%w: %d bytes, at most %d", errs.ErrTooLarge, len(data), MaxDocument)
	}
	return data, err
}

// replace writes data in place of what n shows, together with also. Neither done nor an error: somebody else was faster.
func (s *Store) replace(ctx context.Context, n Node, data []byte, also []Op) (done bool, err error) {
	version := int32(0)
	if n.Exists {
		version = n.Version + 1
		err = s.Multi(ctx, append([]Op{SetOp(n.Path, data, n.Version)}, also...)...)
	} else {
		err = s.Multi(ctx, append([]Op{CreateOp(n.Path, data)}, also...)...)
	}
	switch {
	case err == nil:
		return true, nil
	case errors.Is(err, errs.ErrConflict), n.Exists && errors.Is(err, errs.ErrNotFound):
		return false, nil
	case errors.Is(err, errs.ErrTimeout): // done or not?
		now, rerr := s.fresh(ctx, n.Path)
		switch {
		case rerr != nil:
			return false, errors.Join(err, rerr)
		case now.Exists && now.Version == version && bytes.Equal(now.Data, data):
			return true, nil
		case now.Exists == n.Exists && now.Czxid == n.Czxid && now.Version == n.Version:
			return false, nil
		}
		return false, fmt.Errorf("node %s: %w: the answer to our write was lost and somebody wrote after it; look again", n.Path, errs.ErrConflict)
	}
	return false, err
}

// fresh reads a node after a sync.
func (s *Store) fresh(ctx context.Context, path string) (Node, error) {
	if err := s.Sync(ctx, path); err != nil {
		return Node{}, err
	}
	return s.Read(ctx, path)
}

// makeParent creates a node that holds others, if it is missing.
func (s *Store) makeParent(ctx context.Context, path string) error {
	n, err := s.Read(ctx, path)
	if err != nil || n.Exists {
		return err
	}
	if err := s.Create(ctx, path, nil); err != nil && !errors.Is(err, errs.ErrConflict) {
		return err
	}
	return nil
}

// list is Children of a node that need not exist.
func (s *Store) list(ctx context.Context, path string) ([]string, error) {
	names, err := s.Children(ctx, path)
	if errors.Is(err, errs.ErrNotFound) {
		return nil, nil
	}
	return names, err
}

// over is e with what it lacks from old.
func (e Extra) over(old Extra) Extra {
	if len(old) == 0 {
		return e
	}
	out := maps.Clone(old)
	maps.Copy(out, e)
	return out
}
