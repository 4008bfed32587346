package metadata

import (
	"encoding/json"
	"errors"
	"fmt"
	"path"
	"slices"
	"sync"

	"github.com/go-zookeeper/zk"
	"github.com/google/uuid"
	"go.uber.org/zap"

	"github.com/turnout-mq/turnout/internal/errs"
)

// ensembleDoc says which ZooKeeper this is. It is written once, when a root is used first; a restore into an empty
// ZooKeeper writes a new id and names the old ones, or the old id.
type ensembleDoc struct {
	ID       string   `json:"id"`
	Succeeds []string `json:"succeeds"`
}

// ensemble remembers which ZooKeeper our values come from. Change numbers (mzxid) say nothing across ensembles.
type ensemble struct {
	mu      sync.Mutex
	home    string // id of the ensemble that our values are from; "" not known
	era     uint64 // counts successions: what is read in a later era is newer, whatever its mzxid
	session int64  // in which it was last looked at
	err     error  // why what ZooKeeper says now does not count; nil: it does
}

func (e *ensemble) problem() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.err
}

func (e *ensemble) now() (era uint64, err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.era, e.err
}

func (e *ensemble) id() string {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.home
}

func (e *ensemble) checkedIn(session int64) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.session == session
}

// checkEnsemble reads which ensemble we are connected to and judges it. It says whether the judgement changed.
func (s *Store) checkEnsemble(session int64) (changed bool) {
	e := &s.ensemble
	doc, err := s.readEnsemble(e.id() == "")
	if err != nil && isLost(err) {
		return false // the next connection does it again
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	before := e.err
	e.session, e.err = session, nil
	switch {
	case err == nil && (e.home == "" || doc.ID == e.home):
		e.home = doc.ID
	case err == nil && slices.Contains(doc.Succeeds, e.home):
		s.log.Info("this ZooKeeper succeeds the one that our metadata came from", zap.String("id", doc.ID), zap.String("before", e.home))
		e.home = doc.ID
		e.era++
		changed = true
		if s.snap != nil {
			s.snap.clear()
		}
	case err == nil:
		e.err = fmt.Errorf("%w: ZooKeeper %s is another ensemble: its %s says %q, our metadata came from %q; nothing is taken from it. If it was restored from a backup, write %q into \"succeeds\" of that node; if it is meant to be a new one, remove the snapshot file and restart",
			errs.ErrConflict, s.cfg.ZooKeeper, s.EnsemblePath(), doc.ID, e.home, e.home)
	case e.home != "":
		e.err = fmt.Errorf("%w: our metadata came from ZooKeeper ensemble %q, and this one can not be told to be the same: %w", errs.ErrConflict, e.home, err)
	default: // nothing to compare with
		s.log.Warn("this ZooKeeper has no ensemble id and we may not write one", zap.String("path", s.EnsemblePath()), zap.Error(err))
	}
	if e.err != nil && (before == nil || before.Error() != e.err.Error()) {
		s.log.Error("another ZooKeeper ensemble: keeping the last good metadata", zap.Error(e.err))
	}
	return changed || (before == nil) != (e.err == nil)
}

// readEnsemble reads the ensemble node, and with create makes it if it is missing.
func (s *Store) readEnsemble(create bool) (doc ensembleDoc, err error) {
	full := s.chroot + s.EnsemblePath()
	data, _, err := s.conn.Get(full)
	if errors.Is(err, zk.ErrNoNode) && create {
		doc = ensembleDoc{ID: uuid.NewString(), Succeeds: []string{}}
		if data, err = json.Marshal(doc); err != nil {
			return doc, err
		}
		if err = s.create(full, data, 0); errors.Is(err, zk.ErrNodeExists) {
			data, _, err = s.conn.Get(full)
		}
	}
	if err != nil {
		return doc, s.wrap("read", s.EnsemblePath(), err)
	}
	if err := json.Unmarshal(data, &doc); err != nil || doc.ID == "" {
		return doc, fmt.Errorf("%w: node %s: %s: want {\"id\":\"…\",\"succeeds\":[]}", errs.ErrInvalid, s.EnsemblePath(), show(json.RawMessage(data)))
	}
	return doc, nil
}

// create makes a node with its content in one operation, and before that the parents that are missing, empty. full is with the
// chroot; the error is the library's.
func (s *Store) create(full string, data []byte, flags int32) error {
	_, err := s.conn.Create(full, data, flags, s.who.acl())
	if !errors.Is(err, zk.ErrNoNode) {
		return err
	}
	parent := path.Dir(full)
	if parent == "/" {
		return err
	}
	if perr := s.create(parent, nil, 0); perr != nil && !errors.Is(perr, zk.ErrNodeExists) {
		return perr
	}
	_, err = s.conn.Create(full, data, flags, s.who.acl())
	return err
}
