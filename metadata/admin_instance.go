package metadata

import (
	"context"
	"errors"

	"golang.org/x/sync/errgroup"

	"github.com/turnout-mq/turnout/internal/errs"
)

// InstanceEntry is a registered instance.
type InstanceEntry struct {
	Instance
	App, ID string
	Node    Node
	Err     error // its document is not acceptable
}

// ParticipantEntry is a live participant of a topic.
type ParticipantEntry struct {
	Participant
	ID   string
	Node Node
	Err  error // its document is not acceptable
}

// ListApps are the names of all applications that ever had an instance.
func (s *Store) ListApps(ctx context.Context) ([]string, error) { return s.list(ctx, s.AppsPath()) }

// ListInstances are the live instances of an application, or of all with "", by application and id.
func (s *Store) ListInstances(ctx context.Context, app string) ([]InstanceEntry, error) {
	apps := []string{app}
	if app == "" {
		var err error
		if apps, err = s.ListApps(ctx); err != nil {
			return nil, err
		}
	} else if err := CheckName("application", app); err != nil {
		return nil, err
	}
	var out []InstanceEntry
	for _, app := range apps {
		err := eachChild(ctx, s, s.InstancesPath(app), ParseInstance, func(id string, i Instance, n Node, err error) {
			out = append(out, InstanceEntry{Instance: i, App: app, ID: id, Node: n, Err: err})
		})
		if err != nil {
			return nil, err
		}
	}
	return out, nil
}

// ListParticipants are the live participants of a topic, by id. A controller calls Sync first (protocol R5).
func (s *Store) ListParticipants(ctx context.Context, topic string) ([]ParticipantEntry, error) {
	if err := CheckName("topic", topic); err != nil {
		return nil, err
	}
	var out []ParticipantEntry
	err := eachChild(ctx, s, s.ParticipantsPath(topic), ParseParticipant, func(id string, p Participant, n Node, err error) {
		out = append(out, ParticipantEntry{Participant: p, ID: id, Node: n, Err: err})
	})
	return out, err
}

// atOnce bounds how many nodes are read at the same time: over a network a controller must not ask hundreds of participants one
// after the other while sends wait for it.
const atOnce = 32

// eachChild reads the children of a node that need not exist, and calls f with each, by name; those that go in the meantime
// are left out.
func eachChild[T any](ctx context.Context, s *Store, path string, parse func([]byte) (T, error), f func(name string, doc T, n Node, err error)) error {
	names, err := s.list(ctx, path)
	if err != nil {
		return err
	}
	type child struct {
		doc T
		n   Node
		err error
	}
	children := make([]child, len(names))
	read, ctx := errgroup.WithContext(ctx)
	read.SetLimit(atOnce)
	for i, name := range names {
		read.Go(func() error {
			c := &children[i]
			c.doc, c.n, c.err = readDocument(ctx, s, path+"/"+name, parse)
			if c.err == nil || errors.Is(c.err, errs.ErrNotFound) || unacceptable(c.err) {
				return nil
			}
			return c.err
		})
	}
	if err := read.Wait(); err != nil {
		return err
	}
	for i, name := range names {
		if c := &children[i]; !errors.Is(c.err, errs.ErrNotFound) {
			f(name, c.doc, c.n, c.err)
		}
	}
	return nil
}
