package server

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"go.uber.org/zap"

	"github.com/turnout-mq/turnout/admin/coord"
	"github.com/turnout-mq/turnout/admin/server/api"
	"github.com/turnout-mq/turnout/admin/store"
	"github.com/turnout-mq/turnout/internal/errs"
	"github.com/turnout-mq/turnout/metadata"
)

// platformSetting holds Platform.ID in the store.
const platformSetting = "platform"

// claim sees that the root and the store belong together, and joins them when both are new. ErrConflict: they do not.
func (s *server) claim(ctx context.Context) error {
	lock, err := coord.Lock(ctx, s.meta, "platform") // several servers may begin at once
	if err != nil {
		return err
	}
	defer func() {
		leaving, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeLimit)
		defer cancel()
		if err := lock.Unlock(leaving); err != nil {
			s.log.Warn("the lock of the start is given up later", zap.Error(err))
		}
	}()
	path := api.PlatformPath(s.meta.Layout)
	node, err := s.meta.Read(ctx, path)
	if err != nil {
		return err
	}
	var doc api.Platform
	if node.Exists {
		if err := json.Unmarshal(node.Data, &doc); err != nil || doc.V != api.Version {
			return fmt.Errorf("%w: node %s is not what this version of Turnout understands (v %d): use the version that wrote it, or a newer one", errs.ErrInvalid, path, doc.V)
		}
	}
	id, err := s.db.Setting(ctx, platformSetting)
	if err != nil && !errors.Is(err, errs.ErrNotFound) {
		return err
	}
	managed := doc.ID != ""
	if managed && doc.ID == id {
		return nil
	}
	if !s.cfg.Adopt {
		unused, err := s.unused(ctx)
		if err != nil {
			return err
		}
		if managed || !unused {
			return fmt.Errorf("%w: %s", errs.ErrConflict, s.stranger(managed, id != ""))
		}
	}
	// The store first: one that has no migrations yet is joined again by whoever comes after a crash in between.
	doc.V, doc.ID = api.Version, cmp.Or(doc.ID, id, uuid.NewString())
	if err := s.db.PutSetting(ctx, platformSetting, doc.ID); err != nil || managed {
		return err
	}
	data, err := json.Marshal(doc)
	if err != nil {
		return err
	}
	if node.Exists {
		return s.meta.Set(ctx, path, data, node.Version)
	}
	return s.meta.Create(ctx, path, data)
}

// unused says that no migration is in the store.
func (s *server) unused(ctx context.Context) (bool, error) {
	some, err := s.db.Migrations(ctx, store.Filter{Limit: 1})
	return len(some) == 0, err
}

// stranger says what is wrong with the two.
func (s *server) stranger(root, db bool) string {
	const remedy = "--adopt joins the two, if that is meant: after a loss, or a restore from a backup"
	switch {
	case root && db:
		return fmt.Sprintf("store %s belongs to another root than %s: give the --database (or --data-dir) of this one; %s", s.db, s.meta.Root, remedy)
	case root:
		return fmt.Sprintf("%s is managed with another store, and %s is new: give the --database (or --data-dir) that its other servers have; %s", s.meta.Root, s.db, remedy)
	}
	return fmt.Sprintf("store %s belongs to a root, and nothing manages %s yet: give another --database (or --data-dir), or correct --zookeeper and --root; %s", s.db, s.meta.Root, remedy)
}

// look is how often the load is looked at.
const look = time.Second

// announce keeps this server's node in ZooKeeper as it should be, until ctx ends, and then removes it. done is closed when it
// is there the first time.
func (s *server) announce(ctx context.Context, done chan<- struct{}) {
	node := s.meta.Register(api.ServersPath(s.meta.Layout) + "/" + s.id)
	session := make(chan struct{}, 1)
	cancel := s.meta.OnSession(func(metadata.Session) {
		select {
		case session <- struct{}{}:
		default:
		}
	})
	defer cancel()
	ticker := time.NewTicker(look)
	defer ticker.Stop()
	for {
		doc, err := json.Marshal(api.Server{V: api.Version, URL: s.cfg.URL, Leader: s.leads.Load(), Load: s.underWay.Load(), NoLogin: s.cfg.NoLogin})
		if err == nil {
			_, err = node.Ensure(ctx, doc)
		}
		if err == nil && done != nil {
			close(done)
			done = nil
		}
		if err != nil && ctx.Err() == nil {
			s.log.Warn("this server can not be found in ZooKeeper; trying again", zap.Error(err))
		}
		select {
		case <-session:
		case <-s.changed:
		case <-ticker.C:
		case <-ctx.Done():
			if err := within(node.Close); err != nil {
				s.log.Warn("this server's node goes with its session", zap.Error(err))
			}
			return
		}
	}
}
