package cli

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/turnout-mq/turnout/admin/inventory"
	"github.com/turnout-mq/turnout/internal/errs"
	"github.com/turnout-mq/turnout/metadata"
)

// readers is how many nodes are read at once.
const readers = 32

// withStore opens a store and calls use with a ctx that has the time-out.
func (a *app) withStore(ctx context.Context, use func(context.Context, *metadata.Store) error) error {
	ctx, cancel := context.WithTimeout(ctx, a.settings.timeout)
	defer cancel()
	return a.withOpenStore(ctx, func(s *metadata.Store) error { return use(ctx, s) })
}

// withOpenStore connects to ZooKeeper within the time-out, sees that what was written before is visible, and calls use.
func (a *app) withOpenStore(ctx context.Context, use func(*metadata.Store) error) error {
	if _, _, err := splitConnectString("--zookeeper", a.settings.zookeeper); err != nil {
		return err
	}
	scheme, reference := a.settings.login()
	s, err := metadata.Open(metadata.Config{ZooKeeper: a.settings.zookeeper, Root: a.settings.root, ShadowRoot: a.settings.shadowRoot, AuthScheme: scheme, AuthSecret: reference, TLS: a.settings.tls()})
	if err != nil {
		return usagef("settings: %w", err)
	}
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 3*time.Second)
		defer cancel()
		_ = s.Close(ctx) // the process ends anyway
	}()
	if err := a.connect(ctx, s); err != nil {
		return err
	}
	return use(s)
}

func (a *app) connect(ctx context.Context, s *metadata.Store) error {
	ctx, cancel := context.WithTimeout(ctx, a.settings.timeout)
	defer cancel()
	if _, err := s.WaitConnected(ctx); err != nil {
		return fmt.Errorf("%w; check that it runs, --zookeeper and --timeout", err)
	}
	return s.Sync(ctx, s.Root)
}

// entry is one document as it was read.
type entry[T any] = inventory.Entry[T]

// listEntries gets the documents of those names; what is not valid is an entry too, what is gone is not.
func listEntries[T any](ctx context.Context, names []string, get func(context.Context, string) (T, metadata.Node, error)) ([]*entry[T], error) {
	entries, err := forEach(ctx, names, func(ctx context.Context, name string) (*entry[T], error) {
		doc, n, err := get(ctx, name)
		switch {
		case err == nil:
			return inventory.NewEntry(name, doc, n), nil
		case errors.Is(err, errs.ErrNotFound):
			return nil, nil
		case invalid(err):
			return &entry[T]{Name: name, Version: n.Version, Zxid: n.Mzxid, Error: err.Error()}, nil
		}
		return nil, err
	})
	found := []*entry[T]{} // [] in JSON, not null
	for _, e := range entries {
		if e != nil {
			found = append(found, e)
		}
	}
	return found, err
}

// invalid says that err is about what is in a node.
func invalid(err error) bool {
	return errors.Is(err, errs.ErrInvalid) || errors.Is(err, errs.ErrTooLarge)
}

// remedy adds what to do to an error.
func remedy(err error, target error, format string, args ...any) error {
	if errors.Is(err, target) {
		return fmt.Errorf("%w; %s", err, fmt.Sprintf(format, args...))
	}
	return err
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
	err := g.Wait()
	return out, err
}
