// Package imports reads what others have, and makes the documents of turnout apply of it (package manifest): what is in ZooKeeper for ZMS,
// and what is on a cluster. It only reads. Partitions, replicas and settings of topics are those that their cluster has, so that
// a request for them finds nothing that differs; topics and groups keep their names on the cluster, so that groups go on at their
// positions.
package imports

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/turnout-mq/turnout/admin/manifest"
	"github.com/turnout-mq/turnout/admin/requests"
	"github.com/turnout-mq/turnout/broker"
	"github.com/turnout-mq/turnout/internal/errs"
	"github.com/turnout-mq/turnout/metadata"
)

// Result is what was found.
type Result struct {
	Document manifest.Document
	// Notes say what was left out for a reason that needs no action, or what to know; Problems what is not in the document though it
	// may be wanted: somebody has to decide.
	Notes, Problems []string
}

func (r *Result) note(format string, args ...any) {
	r.Notes = append(r.Notes, fmt.Sprintf(format, args...))
}

func (r *Result) problem(format string, args ...any) {
	r.Problems = append(r.Problems, fmt.Sprintf(format, args...))
}

// atOnce is how many questions are asked at a time.
const atOnce = 16

// each does something with each of a list, some at a time, and gives the results in the order of the list.
func each[T, R any](ctx context.Context, list []T, do func(ctx context.Context, one T) (R, error)) ([]R, error) {
	results := make([]R, len(list))
	all, ctx := errgroup.WithContext(ctx)
	all.SetLimit(atOnce)
	for i, one := range list {
		all.Go(func() (err error) {
			results[i], err = do(ctx, one)
			return err
		})
	}
	return results, all.Wait()
}

var notInNames = regexp.MustCompile(`[^a-zA-Z0-9_-]`)

// naming gives things names that the platform takes.
type naming struct {
	kind   string
	result *Result
	taken  map[string]string // what it is called there, by name
}

func newNaming(kind string, r *Result) *naming {
	return &naming{kind, r, map[string]string{}}
}

// of is the name of what is called so elsewhere; false: another one has it.
func (n *naming) of(there string) (string, bool) {
	name := notInNames.ReplaceAllString(there, "_")
	name = name[:min(len(name), 120)]
	if other, taken := n.taken[name]; taken {
		n.result.problem("%s %s: its name would be %s, like that of %s: import it by hand under another one", n.kind, there, name, other)
		return "", false
	}
	n.taken[name] = there
	if name != there {
		n.result.note("%s %s has a name that the platform does not take: it is %s here, and stays %s on the cluster; programs name %s", n.kind, there, name, there, name)
	}
	return name, true
}

// described is a topic as its cluster has it; err says why it can not be imported.
type described struct {
	spec requests.TopicSpec
	err  error
}

// describe asks a cluster for a topic. Whatever goes wrong is an error of this topic alone, unless ctx has ended.
func describe(ctx context.Context, c broker.Cluster, kind broker.Kind, cluster, physical string) (described, error) {
	info, err := c.DescribeTopic(ctx, physical)
	switch {
	case ctx.Err() != nil:
		return described{}, ctx.Err()
	case errors.Is(err, errs.ErrUnknownTopic):
		return described{err: errors.New("the cluster does not have it")}, nil
	case err != nil:
		return described{err: err}, nil //nolint:nilerr // of this topic alone
	case info.Fenced:
		return described{err: fmt.Errorf("the cluster refuses writers of it: open it with: turnout topic open %s --cluster %s", physical, cluster)}, nil
	}
	d := described{spec: requests.TopicSpec{Partitions: broker.PerBroker(info.Partitions)}}
	if kind == broker.Kafka {
		d.spec.Replicas, d.spec.Config = info.Replicas, info.Config
	}
	return d, nil
}

// connections are open clusters, by name.
type connections struct {
	mu   sync.Mutex
	open map[string]broker.Cluster
}

func (c *connections) close() {
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Second)
	defer cancel()
	c.mu.Lock()
	defer c.mu.Unlock()
	var all sync.WaitGroup
	for _, one := range c.open {
		all.Go(func() { _ = one.Close(ctx) }) // nothing was sent
	}
	all.Wait()
}

// begins says where a group begins that has no position.
func begins(start metadata.Start) string {
	if start == metadata.StartLatest {
		return "what is sent from now on"
	}
	return "the first message"
}

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
