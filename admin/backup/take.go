package backup

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/turnout-mq/turnout/internal/errs"
	"github.com/turnout-mq/turnout/metadata"
)

// atOnce is how many requests are made to ZooKeeper at the same time.
const atOnce = 32

const topicsDir = "topics"

// Take reads the metadata of a root. ErrNotFound: there is nothing. ErrNotAllowed: a node can not be read, and a backup without it would
// be none.
func Take(ctx context.Context, s *metadata.Store) (*File, error) {
	f := &File{Format: Format, V: version, At: time.Now().UTC().Truncate(time.Second), Root: s.Root, ShadowRoot: s.ShadowRoot}
	if err := s.Sync(ctx, s.Root); err != nil {
		return nil, err
	}
	var err error
	if f.Ensemble, _, err = readEnsemble(ctx, s); err != nil {
		return nil, err
	}
	if f.Nodes, err = walk(ctx, s, s.Root, kept); err != nil {
		return nil, err
	}
	if f.Shadow, err = walk(ctx, s, s.ShadowRoot, all); err != nil {
		return nil, err
	}
	if len(f.Nodes) == 0 {
		return nil, fmt.Errorf("%w: there is no metadata below %s: check --zookeeper and --root", errs.ErrNotFound, s.Root)
	}
	return f, nil
}

func all(string) bool { return true }

// kept says whether a node below the root is in a backup. What is not kept has nothing below it that is, but jobs.
func kept(path string) bool {
	parts := strings.Split(path, "/")
	switch parts[0] {
	case "ensemble", "apps", "participants", "locks", "queue":
		return false
	case "admin":
		return len(parts) < 2 || parts[1] != "servers"
	case "jobs":
		return len(parts) < 3 || parts[2] == "config"
	}
	return true
}

// order: topics before groups before clusters before all others.
var order = []string{topicsDir, "groups", "clusters"}

func rank(path string) int {
	dir, _, _ := strings.Cut(path, "/")
	if i := slices.Index(order, dir); i >= 0 {
		return i
	}
	return len(order)
}

// walk reads what is below root and to be kept, by path. Nodes without content that only hold others are left out. What others name
// is read after them: it is there as long as they are.
func walk(ctx context.Context, s *metadata.Store, root string, keep func(string) bool) ([]Node, error) {
	nodes := []Node{}
	tops, err := children(ctx, s, root, "")
	if err != nil {
		return nil, err
	}
	slices.SortStableFunc(tops, func(a, b string) int { return cmp.Compare(rank(a), rank(b)) })
	for _, top := range tops {
		level := []string{top}
		for len(level) > 0 {
			level = slices.DeleteFunc(level, func(path string) bool {
				full := root + "/" + path // one root may be below the other
				return !keep(path) || root != s.ShadowRoot && full == s.ShadowRoot || root != s.Root && full == s.Root
			})
			found, next, err := readLevel(ctx, s, root, level)
			if err != nil {
				return nil, err
			}
			nodes, level = append(nodes, found...), next
		}
	}
	slices.SortFunc(nodes, func(a, b Node) int { return cmp.Compare(a.Path, b.Path) })
	return nodes, nil
}

// readLevel reads nodes, and the names below them. A topic is read with all that is below it.
func readLevel(ctx context.Context, s *metadata.Store, root string, paths []string) (nodes []Node, next []string, err error) {
	var mu sync.Mutex
	reading, ctx := errgroup.WithContext(ctx)
	reading.SetLimit(atOnce)
	for _, path := range paths {
		reading.Go(func() error {
			var found []Node
			var below []string
			var err error
			if topic, is := strings.CutPrefix(path, topicsDir+"/"); is && root == s.Root {
				found, err = readTopic(ctx, s, topic)
			} else {
				found, below, err = readNode(ctx, s, root, path)
			}
			mu.Lock()
			defer mu.Unlock()
			nodes, next = append(nodes, found...), append(next, below...)
			return err
		})
	}
	err = reading.Wait()
	return nodes, next, err
}

// readNode reads a node and the paths below it; nothing of one that is gone or goes by itself.
func readNode(ctx context.Context, s *metadata.Store, root, path string) (found []Node, below []string, err error) {
	n, err := s.Read(ctx, root+"/"+path)
	if err != nil || !n.Exists || n.EphemeralOwner != 0 {
		return nil, nil, err
	}
	if below, err = children(ctx, s, root, path); err != nil {
		return nil, nil, err
	}
	if len(n.Data) > 0 {
		found = []Node{newNode(path, n.Data)}
	}
	return found, below, nil
}

// children are the paths of the nodes below one, which need not exist.
func children(ctx context.Context, s *metadata.Store, root, path string) ([]string, error) {
	full := root
	if path != "" {
		full += "/" + path
	}
	names, err := s.Children(ctx, full)
	if errors.Is(err, errs.ErrNotFound) {
		return nil, nil
	}
	if path != "" {
		for i, name := range names {
			names[i] = path + "/" + name
		}
	}
	return names, err
}

// tries is how often a topic is read when others write it meanwhile.
const tries = 20

// readTopic reads a topic in one moment of its wish.
func readTopic(ctx context.Context, s *metadata.Store, topic string) ([]Node, error) {
	path := topicsDir + "/" + topic
	for range tries {
		wish, err := s.Read(ctx, s.TopicPath(topic))
		if err != nil || !wish.Exists {
			return nil, err
		}
		var nodes []Node
		var route metadata.Node
		_, below, err := readNode(ctx, s, s.Root, path)
		for i := 0; i < len(below) && err == nil; i++ { // below grows
			if below[i] == path+"/route" {
				route, err = s.Read(ctx, s.Root+"/"+below[i])
				continue
			}
			var found []Node
			var more []string
			found, more, err = readNode(ctx, s, s.Root, below[i])
			nodes, below = append(nodes, found...), append(below, more...)
		}
		if err != nil {
			return nil, err
		}
		again, err := s.Read(ctx, wish.Path)
		if err != nil {
			return nil, err
		}
		if again.Exists && again.Czxid == wish.Czxid && again.Version == wish.Version {
			return append(nodes, ofMove(path, wish, route)...), nil
		}
	}
	return nil, fmt.Errorf("%w: topic %s is written so often that it can not be read in one moment: try again", errs.ErrConflict, topic)
}

// ofMove are a wish and its route, without the numbers of the ZooKeeper that they are from.
func ofMove(path string, wish, route metadata.Node) []Node {
	w := newNode(path, wish.Data)
	if !route.Exists {
		w.Ahead = int(min(wish.Version, 1)) // a first wish, or others were before it
		return []Node{w}
	}
	r := newNode(path+"/route", route.Data)
	doc, err := metadata.ParseRoute(route.Data)
	if err != nil { // nobody can read it; people repair it
		return []Node{w, r}
	}
	if doc.Wish.Czxid == 0 {
		doc.Wish.Czxid = route.Mzxid // that is what it means
	}
	switch {
	case metadata.Answered(&doc, wish):
	case doc.Wish.Czxid == wish.Czxid && wish.Version == doc.Wish.Version+1:
		w.Ahead = 1
	default:
		w.Ahead = 2
	}
	doc.Wish = metadata.WishRef{}
	if data, err := json.Marshal(doc); err == nil { // it was read a moment ago
		r.Data = data
	}
	return []Node{w, r}
}

// readEnsemble reads which ZooKeeper this is.
func readEnsemble(ctx context.Context, s *metadata.Store) (e Ensemble, n metadata.Node, err error) {
	n, err = s.Read(ctx, s.EnsemblePath())
	if err != nil {
		return e, n, err
	}
	if err := json.Unmarshal(bytes.TrimSpace(n.Data), &e); !n.Exists || err != nil || e.ID == "" {
		return e, n, fmt.Errorf("%w: node %s does not say which ZooKeeper this is: it must be {\"id\":\"…\",\"succeeds\":[]}; it is written by the first who may", errs.ErrInvalid, s.EnsemblePath())
	}
	return e, n, nil
}
