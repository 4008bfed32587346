package cli

import (
	"context"
	"errors"
	"fmt"
	"path"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/turnout-mq/turnout/internal/errs"
	"github.com/turnout-mq/turnout/metadata"
)

// readers is how many nodes are read at once.
const readers = 32

// withStore connects to ZooKeeper, sees that what was written before is visible, and calls use with a ctx that has the time-out.
func (a *app) withStore(ctx context.Context, use func(context.Context, *metadata.Store) error) error {
	if _, _, err := splitConnectString(a.settings.zookeeper); err != nil {
		return err
	}
	scheme, reference := a.settings.login()
	s, err := metadata.Open(metadata.Config{ZooKeeper: a.settings.zookeeper, Root: a.settings.root, AuthScheme: scheme, AuthSecret: reference})
	if err != nil {
		return usagef("settings: %w", err)
	}
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 3*time.Second)
		defer cancel()
		_ = s.Close(ctx) // the process ends anyway
	}()
	limited, cancel := context.WithTimeout(ctx, a.settings.timeout)
	defer cancel()
	if _, err := s.WaitConnected(limited); err != nil {
		return fmt.Errorf("%w; check that it runs, --zookeeper and --timeout", err)
	}
	if err := s.Sync(limited, "/"); err != nil {
		return err
	}
	return use(limited, s)
}

// entry is one document as it was read. Document is nil when it is invalid, which Error says.
type entry[T any] struct {
	Name     string        `json:"name"`
	Version  int32         `json:"version"`
	Zxid     metadata.Zxid `json:"zxid"`
	Document *T            `json:"document,omitempty"`
	Error    string        `json:"error,omitempty"`

	node metadata.Node
}

// readEntry reads one document; an entry whose node does not exist is nil.
func readEntry[T any](ctx context.Context, s *metadata.Store, p string, parse func([]byte) (T, error)) (*entry[T], error) {
	n, err := s.Read(ctx, p)
	if err != nil || !n.Exists {
		return nil, err
	}
	e := &entry[T]{Name: path.Base(p), Version: n.Version, Zxid: n.Mzxid, node: n}
	doc, err := parse(n.Data)
	if err != nil {
		e.Error = err.Error()
	} else {
		e.Document = &doc
	}
	return e, nil
}

// needEntry is readEntry of a node that must exist.
func needEntry[T any](ctx context.Context, s *metadata.Store, kind, p string, parse func([]byte) (T, error)) (*entry[T], error) {
	e, err := readEntry(ctx, s, p, parse)
	if err == nil && e == nil {
		err = fmt.Errorf("%s %q: %w; \"turnout %s list\" shows what there is", kind, path.Base(p), errs.ErrNotFound, kind)
	}
	return e, err
}

// listEntries reads the documents below parent, sorted by name.
func listEntries[T any](ctx context.Context, s *metadata.Store, parent string, parse func([]byte) (T, error)) ([]*entry[T], error) {
	names, err := children(ctx, s, parent)
	if err != nil {
		return nil, err
	}
	entries, err := forEach(ctx, names, func(ctx context.Context, name string) (*entry[T], error) {
		return readEntry(ctx, s, parent+"/"+name, parse)
	})
	if err != nil {
		return nil, err
	}
	found := []*entry[T]{} // [] in JSON, not null
	for _, e := range entries {
		if e != nil { // not deleted since it was listed
			found = append(found, e)
		}
	}
	return found, nil
}

// children are the names below parent; none when there is no such node.
func children(ctx context.Context, s *metadata.Store, parent string) ([]string, error) {
	names, err := s.Children(ctx, parent)
	if errors.Is(err, errs.ErrNotFound) {
		return nil, nil
	}
	return names, err
}

// forEach calls f for all of in, some at once, and returns the results in the order of in, or the first error.
func forEach[A, B any](ctx context.Context, in []A, f func(context.Context, A) (B, error)) ([]B, error) {
	out := make([]B, len(in))
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(readers)
	for i, x := range in {
		g.Go(func() (err error) {
			out[i], err = f(ctx, x)
			return err
		})
	}
	return out, g.Wait()
}
