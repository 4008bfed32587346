package metadata

import (
	"context"
	"errors"

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

// eachChild reads the children of a node that need not exist; those that go in the meantime are left out.
func eachChild[T any](ctx context.Context, s *Store, path string, parse func([]byte) (T, error), f func(name string, doc T, n Node, err error)) error {
	names, err := s.list(ctx, path)
	if err != nil {
		return err
	}
	for _, name := range names {
		doc, n, err := readDocument(ctx, s, path+"/"+name, parse)
		switch {
		case errors.Is(err, errs.ErrNotFound):
		case err == nil || unacceptable(err):
			f(name, doc, n, err)
		default:
			return err
		}
	}
	return nil
}
