package backup

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"

	"golang.org/x/sync/errgroup"

	"github.com/turnout-mq/turnout/internal/errs"
	"github.com/turnout-mq/turnout/metadata"
)

// Restored says what a restore did.
type Restored struct {
	Root     string `json:"root"`
	Nodes    int    `json:"nodes"`   // that were written
	Already  int    `json:"already"` // that were there and the same, from a restore that was interrupted
	Topics   int    `json:"topics"`  // in the file, as the others
	Groups   int    `json:"groups"`
	Clusters int    `json:"clusters"`
	Flags    int    `json:"flags"` // of shadow groups
	// Ensemble is the id of this ZooKeeper, and Succeeds are those whose clients take what it says for newer.
	Ensemble string   `json:"ensemble"`
	Succeeds []string `json:"succeeds"`
}

// Restore writes what is in the file below the roots of s. ErrConflict: there is something else, or the same in another way; nothing is
// written then. After any other error some of it may be written, and applications still go by what they knew: do it again.
func Restore(ctx context.Context, s *metadata.Store, f *File) (*Restored, error) {
	if err := s.Sync(ctx, s.Root); err != nil {
		return nil, err
	}
	done := &Restored{Root: s.Root}
	parts := []struct {
		root  string
		keep  func(string) bool
		nodes []Node
	}{{s.ShadowRoot, all, f.Shadow}, {s.Root, kept, f.Nodes}}
	var missing []func(context.Context) error
	for _, part := range parts {
		there, err := walk(ctx, s, part.root, part.keep)
		if err != nil {
			return nil, err
		}
		absent, err := compare(part.root, there, wholes(part.nodes, part.root == s.Root))
		if err != nil {
			return nil, err
		}
		done.Already += len(there)
		for _, whole := range absent {
			done.Nodes += len(whole)
			missing = append(missing, func(ctx context.Context) error { return create(ctx, s, part.root, whole) })
		}
	}
	writing, writeCtx := errgroup.WithContext(ctx)
	writing.SetLimit(atOnce)
	for _, write := range missing {
		writing.Go(func() error { return write(writeCtx) })
	}
	if err := writing.Wait(); err != nil {
		return nil, err
	}
	for _, n := range f.Nodes {
		if dir, name, _ := strings.Cut(n.Path, "/"); name != "" && !strings.Contains(name, "/") {
			switch dir {
			case topicsDir:
				done.Topics++
			case "groups":
				done.Groups++
			case "clusters":
				done.Clusters++
			}
		}
	}
	done.Flags = len(f.Shadow)
	e, err := succeed(ctx, s, f.Ensemble)
	done.Ensemble, done.Succeeds = e.ID, e.Succeeds
	return done, err
}

// shown is how many nodes an error names.
const shown = 5

// compare tells which of the wanted are not there. ErrConflict: there is something that is not wanted, or not in that way.
func compare(root string, there []Node, wanted [][]Node) (absent [][]Node, err error) {
	is := map[string]Node{}
	for _, n := range there {
		is[n.Path] = n
	}
	var others []string
	for _, whole := range wanted {
		found := 0
		for _, w := range whole {
			n, known := is[w.Path]
			if !known {
				continue
			}
			delete(is, w.Path)
			if found++; w.Ahead != n.Ahead || !same(w.content(), n.content()) {
				others = append(others, root+"/"+w.Path)
			}
		}
		switch {
		case found == 0:
			absent = append(absent, whole)
		case found < len(whole):
			others = append(others, root+"/"+whole[0].Path)
		}
	}
	for path := range is {
		others = append(others, root+"/"+path)
	}
	if len(others) == 0 {
		return absent, nil
	}
	slices.Sort(others)
	others = slices.Compact(others)
	more := ""
	if n := len(others) - shown; n > 0 {
		more = fmt.Sprintf(" and %d more", n)
	}
	return nil, fmt.Errorf("%w: %s is not empty: %q%s is there and not as in the backup. A backup is never written over what is in force: that would forget where messages may be unread. Restore into an empty ZooKeeper or another --root, or delete those nodes first if nothing uses them",
		errs.ErrConflict, root, others[:min(len(others), shown)], more)
}

// wholes are the nodes that are written in one step: a topic with all that is below it, each other node by itself.
func wholes(nodes []Node, topics bool) [][]Node {
	sorted := slices.Clone(nodes)
	slices.SortFunc(sorted, func(a, b Node) int { return strings.Compare(a.Path, b.Path) })
	of := map[string]int{}
	var out [][]Node
	for _, n := range sorted {
		key := n.Path
		if parts := strings.SplitN(n.Path, "/", 3); topics && len(parts) > 1 && parts[0] == topicsDir {
			key = topicsDir + "/" + parts[1]
		}
		i, known := of[key]
		if !known {
			i = len(out)
			of[key] = i
			out = append(out, nil)
		}
		out[i] = append(out[i], n)
	}
	return out
}

// create writes nodes in one step, and the parents of the first before it. Who finds them there was interrupted, or another restore
// was faster: the contents are compared by whoever begins anew.
func create(ctx context.Context, s *metadata.Store, root string, nodes []Node) error {
	if parent := path.Dir(root + "/" + nodes[0].Path); parent != "/" {
		if n, err := s.Read(ctx, parent); err != nil {
			return err
		} else if !n.Exists {
			if err := s.Create(ctx, parent, nil); err != nil && !errors.Is(err, errs.ErrConflict) {
				return err
			}
		}
	}
	var ops []metadata.Op
	for _, n := range nodes {
		full := root + "/" + n.Path
		ops = append(ops, metadata.CreateOp(full, n.content()))
		for i := range n.Ahead { // so that its version is as far ahead of the route, which answers the first
			ops = append(ops, metadata.SetOp(full, n.content(), int32(i)))
		}
	}
	err := s.Multi(ctx, ops...)
	if errors.Is(err, errs.ErrConflict) {
		err = fmt.Errorf("somebody else writes here at the same time: see that nobody does, and restore again: %w", err)
	}
	return err
}

// succeed makes this ZooKeeper the successor of the one that the file is from.
func succeed(ctx context.Context, s *metadata.Store, from Ensemble) (Ensemble, error) {
	for {
		now, n, err := readEnsemble(ctx, s)
		if err != nil || now.ID == from.ID { // the same one, of which nodes were lost: its numbers go on
			return now, err
		}
		next := now
		for _, id := range append([]string{from.ID}, from.Succeeds...) {
			if id != now.ID && !slices.Contains(next.Succeeds, id) {
				next.Succeeds = append(next.Succeeds, id)
			}
		}
		if len(next.Succeeds) == len(now.Succeeds) {
			return now, nil
		}
		data, err := json.Marshal(next)
		if err != nil {
			return now, err
		}
		err = s.Set(ctx, n.Path, data, n.Version)
		if err == nil {
			return next, nil
		}
		if !errors.Is(err, errs.ErrConflict) && !errors.Is(err, errs.ErrTimeout) {
			return now, err
		}
	}
}
