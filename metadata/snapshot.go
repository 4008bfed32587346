package metadata

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/turnout-mq/turnout/internal/errs"
)

// snapshotMagic begins the first line of a snapshot file: "turnout-snapshot 1 " and the SHA-256 of the rest in hex.
const (
	snapshotMagic   = "turnout-snapshot"
	snapshotVersion = "1"

	snapshotDelay = 200 * time.Millisecond // between a change and the write, so that many changes are one write
	snapshotKeep  = 90 * 24 * time.Hour    // for what no process of the application has used
)

// snapshot is the file {dir}/turnout-{app}.snapshot with the last good value of everything that was followed. The processes
// of an application on a machine share it: each write keeps what others put in, and replaces the file in one step.
type snapshot struct {
	file     string
	log      *zap.Logger
	identity func() string // id of the ensemble that the values are from
	had      bool          // there was something when it was opened
	wake     chan struct{}

	mu     sync.Mutex
	body   snapshotBody
	mine   map[string]bool // used by this process
	dirty  bool
	failed bool // the last write; said once
}

type snapshotBody struct {
	Ensemble string                      `json:"ensemble"`
	Nodes    map[string]snapshotNode     `json:"nodes"`
	Children map[string]snapshotChildren `json:"children"`
}

type snapshotNode struct {
	Data    []byte    `json:"data"`
	Czxid   Zxid      `json:"czxid"`
	Mzxid   Zxid      `json:"mzxid"`
	Version int32     `json:"version"`
	Used    time.Time `json:"used"`
}

type snapshotChildren struct {
	Names []string  `json:"names"`
	Pzxid Zxid      `json:"pzxid"`
	Used  time.Time `json:"used"`
}

// openSnapshot reads the file if it is there. One that can not be used is logged and set aside.
func openSnapshot(dir, app string, log *zap.Logger) *snapshot {
	s := &snapshot{
		file: filepath.Join(dir, "turnout-"+app+".snapshot"), log: log,
		wake: make(chan struct{}, 1), mine: map[string]bool{},
	}
	body, err := readSnapshot(s.file)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case errors.Is(err, errs.ErrInvalid):
		aside := fmt.Sprintf("%s.damaged-%d", s.file, time.Now().UnixNano())
		log.Error("the snapshot can not be used; going on without it", zap.String("file", s.file), zap.String("set aside as", aside),
			zap.NamedError("reason", err), zap.Error(os.Rename(s.file, aside)))
	case err != nil:
		log.Error("the snapshot can not be read; going on without it", zap.String("file", s.file), zap.Error(err))
	}
	s.body = body
	s.had = len(body.Nodes) > 0
	return s
}

func emptyBody() snapshotBody {
	return snapshotBody{Nodes: map[string]snapshotNode{}, Children: map[string]snapshotChildren{}}
}

// readSnapshot returns ErrInvalid for a file that is damaged or of another version. The body can be used in any case.
func readSnapshot(file string) (snapshotBody, error) {
	raw, err := os.ReadFile(file)
	if err != nil {
		return emptyBody(), err
	}
	head, rest, _ := bytes.Cut(raw, []byte("\n"))
	words := strings.Fields(string(head))
	if len(words) != 3 || words[0] != snapshotMagic {
		return emptyBody(), fmt.Errorf("%w: it is not a snapshot, or its beginning is damaged", errs.ErrInvalid)
	}
	if words[1] != snapshotVersion {
		return emptyBody(), fmt.Errorf("%w: it has version %s, this version of Turnout reads %s", errs.ErrInvalid, show(words[1]), snapshotVersion)
	}
	if words[2] != checksum(rest) {
		return emptyBody(), fmt.Errorf("%w: its checksum is wrong: it is damaged", errs.ErrInvalid)
	}
	body := emptyBody()
	if err := json.Unmarshal(rest, &body); err != nil {
		return emptyBody(), fmt.Errorf("%w: %w", errs.ErrInvalid, err)
	}
	return body, nil
}

func checksum(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}

// ensemble is the id of the ensemble that the file was read from.
func (s *snapshot) ensemble() string { return s.body.Ensemble }

// node is the last good value of a node.
func (s *snapshot) node(path string) (Node, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	n, ok := s.body.Nodes[path]
	s.mine[path] = true
	return Node{Path: path, Exists: true, Data: n.Data, Czxid: n.Czxid, Mzxid: n.Mzxid, Version: n.Version}, ok
}

func (s *snapshot) children(path string) ([]string, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c, ok := s.body.Children[path]
	s.mine[path] = true
	return c.Names, ok
}

func (s *snapshot) put(n Node) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if old, ok := s.body.Nodes[n.Path]; !ok || old.Mzxid != n.Mzxid || old.Czxid != n.Czxid {
		s.body.Nodes[n.Path] = snapshotNode{Data: n.Data, Czxid: n.Czxid, Mzxid: n.Mzxid, Version: n.Version}
		s.dirty = true
		poke(s.wake)
	}
}

func (s *snapshot) putChildren(path string, names []string, n Node) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if old, ok := s.body.Children[path]; !ok || old.Pzxid != n.Pzxid {
		s.body.Children[path] = snapshotChildren{Names: names, Pzxid: n.Pzxid}
		s.dirty = true
		poke(s.wake)
	}
}

// clear forgets everything: the values are of an ensemble that was succeeded by another, and are read again there.
func (s *snapshot) clear() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.body = emptyBody()
	s.dirty = true
}

// run writes a while after changes, until ctx ends.
func (s *snapshot) run(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.wake:
		}
		delay := time.NewTimer(snapshotDelay)
		select {
		case <-ctx.Done():
			delay.Stop()
			return
		case <-delay.C:
		}
		s.save()
	}
}

// save writes the file if there is anything new.
func (s *snapshot) save() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.dirty {
		return
	}
	err := s.write()
	if err != nil && !s.failed {
		s.log.Error("the snapshot can not be written; a start without ZooKeeper will not have the newest metadata", zap.String("file", s.file), zap.Error(err))
	}
	s.failed = err != nil
	s.dirty = s.failed
}

func (s *snapshot) write() (err error) {
	dir := filepath.Dir(s.file)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	defer lockFile(s.file + ".lock")()
	s.body.Ensemble = s.identity()
	if other, err := readSnapshot(s.file); err == nil && other.Ensemble == s.body.Ensemble {
		s.merge(other)
	}
	s.age(time.Now())
	body, err := json.Marshal(s.body)
	if err != nil {
		return err
	}
	head := fmt.Sprintf("%s %s %s\n", snapshotMagic, snapshotVersion, checksum(body))
	return replaceFile(s.file, append([]byte(head), body...))
}

// merge takes over what another process has written: what we do not have, and what is newer.
func (s *snapshot) merge(other snapshotBody) {
	for path, n := range other.Nodes {
		if ours, ok := s.body.Nodes[path]; !ok || ours.Mzxid < n.Mzxid {
			s.body.Nodes[path] = n
		}
	}
	for path, c := range other.Children {
		if ours, ok := s.body.Children[path]; !ok || ours.Pzxid < c.Pzxid {
			s.body.Children[path] = c
		}
	}
}

// age notes what is in use and drops what was not for long.
func (s *snapshot) age(now time.Time) {
	for path, n := range s.body.Nodes {
		if s.mine[path] {
			n.Used = now
			s.body.Nodes[path] = n
		}
	}
	for path, c := range s.body.Children {
		if s.mine[path] {
			c.Used = now
			s.body.Children[path] = c
		}
	}
	maps.DeleteFunc(s.body.Nodes, func(_ string, n snapshotNode) bool { return now.Sub(n.Used) > snapshotKeep })
	maps.DeleteFunc(s.body.Children, func(_ string, c snapshotChildren) bool { return now.Sub(c.Used) > snapshotKeep })
}

// replaceFile writes a file in one step: whoever reads it, also after a crash, finds the old content or the new.
func replaceFile(file string, content []byte) (err error) {
	tmp, err := os.CreateTemp(filepath.Dir(file), filepath.Base(file)+".*.tmp") // mode 0600
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = os.Remove(tmp.Name()) // the first error counts
		}
	}()
	_, err = tmp.Write(content)
	if err = errors.Join(err, tmp.Sync(), tmp.Close()); err != nil {
		return err
	}
	if err = os.Rename(tmp.Name(), file); err != nil {
		return err
	}
	dir, err := os.Open(filepath.Dir(file))
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

// HasSnapshot says whether Open found a snapshot with values in it.
func (s *Store) HasSnapshot() bool { return s.snap != nil && s.snap.had }
