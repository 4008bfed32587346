package fleet

import (
	"context"
	"encoding/json"
	"errors"
	"reflect"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/turnout-mq/turnout/admin/store"
	"github.com/turnout-mq/turnout/internal/errs"
	"github.com/turnout-mq/turnout/metadata"
)

const (
	liveEvery = time.Second      // between two looks at what has changed
	goneKept  = 10 * time.Minute // that something is gone; far longer than anybody is between two questions
)

// GroupNow is how far a group is, over all topics and clusters, as last looked at.
type GroupNow struct {
	Group       string           `json:"group"`
	Seen        time.Time        `json:"seen"`
	Unread      int64            `json:"unread"`
	Clusters    map[string]int64 `json:"clusters" doc:"unread messages by cluster"`
	Retries     int64            `json:"retries"`
	DeadLetters int64            `json:"deadLetters"`
	Consumed    *float64         `json:"consumed,omitempty" doc:"offsets finished per second; absent: not known of any"`
	Unknown     int              `json:"unknown,omitempty" doc:"of so many topics and clusters it is not known"`
	Gone        bool             `json:"gone,omitempty" doc:"it reads nothing any more"`
}

// InstanceNow is an instance that runs, or does no more.
type InstanceNow struct {
	ID      string    `json:"id"`
	App     string    `json:"app"`
	Host    string    `json:"host,omitempty"`
	PID     int       `json:"pid,omitempty"`
	Started time.Time `json:"started,omitzero"`
	SDK     string    `json:"sdk,omitempty"`
	Gone    bool      `json:"gone,omitempty" doc:"it does not run any more"`
}

// Change is one of the two.
type Change struct {
	Group    *GroupNow
	Instance *InstanceNow
}

// live is what was last seen, with the number of the look that brought each change. There is one for all who follow, so who is slow
// misses what was in between, and nothing is kept for anybody.
type live struct {
	mu        sync.Mutex
	looked    time.Time
	look      int64
	groups    map[string]*seen[GroupNow]
	instances map[string]*seen[InstanceNow]
	parts     map[partKey]part
}

type seen[T any] struct {
	look int64
	gone time.Time // zero: it is there
	now  T
}

type partKey struct{ group, topic, cluster string }

// part is a finding that was read before.
type part struct {
	at  time.Time
	now GroupOnCluster
}

// Changes are what has changed since look number after, and the number to go on with; of 0 everything that is there. The numbers are
// those of this Service.
func (s *Service) Changes(ctx context.Context, after int64) (changes []Change, look int64, err error) {
	l := &s.live
	l.mu.Lock()
	defer l.mu.Unlock()
	if time.Since(l.looked) >= liveEvery {
		ctx, cancel := context.WithTimeout(ctx, s.cfg.Limit)
		defer cancel()
		if err := s.lookLive(ctx, l); err != nil {
			return nil, after, err
		}
	}
	for _, g := range l.groups {
		if g.look > after && (after > 0 || g.gone.IsZero()) {
			now := g.now
			changes = append(changes, Change{Group: &now})
		}
	}
	for _, i := range l.instances {
		if i.look > after && (after > 0 || i.gone.IsZero()) {
			now := i.now
			changes = append(changes, Change{Instance: &now})
		}
	}
	return changes, l.look, nil
}

// lookLive reads what there is now. l.mu is held.
func (s *Service) lookLive(ctx context.Context, l *live) error {
	groups, err := s.groupsNow(ctx, l)
	if err != nil {
		return err
	}
	instances, err := s.instancesNow(ctx, l)
	if err != nil {
		return err
	}
	if l.groups == nil {
		l.groups, l.instances = map[string]*seen[GroupNow]{}, map[string]*seen[InstanceNow]{}
	}
	l.look++
	l.looked = time.Now()
	merge(l, l.groups, groups, func(g *GroupNow) { g.Gone = true }, func(a, b GroupNow) bool { a.Seen = b.Seen; return reflect.DeepEqual(a, b) })
	merge(l, l.instances, instances, func(i *InstanceNow) { i.Gone = true }, func(a, b InstanceNow) bool { return a == b })
	return nil
}

// merge notes what is new, has changed or is gone.
func merge[T any](l *live, was map[string]*seen[T], is map[string]T, end func(*T), same func(a, b T) bool) {
	for name, now := range is {
		if before := was[name]; before == nil || !before.gone.IsZero() || !same(before.now, now) {
			was[name] = &seen[T]{look: l.look, now: now}
		} else {
			before.now = now
		}
	}
	for name, before := range was {
		switch _, there := is[name]; {
		case there:
		case before.gone.IsZero():
			before.look, before.gone = l.look, l.looked
			end(&before.now)
		case l.looked.Sub(before.gone) > goneKept:
			delete(was, name)
		}
	}
}

// groupsNow sums up what was found of the groups.
func (s *Service) groupsNow(ctx context.Context, l *live) (map[string]GroupNow, error) {
	found, err := s.db.Findings(ctx, store.FindingFilter{Kind: kindGroup})
	if err != nil {
		return nil, err
	}
	groups, parts := map[string]GroupNow{}, make(map[partKey]part, len(found))
	for _, f := range found {
		key := partKey{f.Name, f.Topic, f.Cluster}
		p, known := l.parts[key]
		if !known || !p.at.Equal(f.At) {
			p = part{at: f.At}
			if err := json.Unmarshal(f.Doc, &p.now); err != nil {
				return nil, unreadable(f, err)
			}
			p.now.Partitions = nil
		}
		parts[key] = p
		g, is := groups[f.Name]
		if !is {
			g = GroupNow{Group: f.Name, Clusters: map[string]int64{}}
		}
		if p.now.Seen.After(g.Seen) {
			g.Seen = p.now.Seen
		}
		g.Unread, g.Retries, g.DeadLetters = g.Unread+p.now.Unread, g.Retries+p.now.Retries, g.DeadLetters+p.now.DeadLetters
		g.Clusters[f.Cluster] += p.now.Unread
		if p.now.Consumed != nil {
			sum := *p.now.Consumed
			if g.Consumed != nil {
				sum += *g.Consumed
			}
			g.Consumed = &sum
		}
		if p.now.Error != "" {
			g.Unknown++
		}
		groups[f.Name] = g
	}
	l.parts = parts
	return groups, nil
}

// instancesNow reads which instances there are, and of new ones what they say of themselves.
func (s *Service) instancesNow(ctx context.Context, l *live) (map[string]InstanceNow, error) {
	apps, err := s.meta.ListApps(ctx)
	if err != nil {
		return nil, err
	}
	instances := map[string]InstanceNow{}
	var mu sync.Mutex
	reading, ctx := errgroup.WithContext(ctx)
	reading.SetLimit(groupReads)
	for _, app := range apps {
		reading.Go(func() error {
			ids, err := s.meta.Children(ctx, s.meta.InstancesPath(app))
			if errors.Is(err, errs.ErrNotFound) {
				return nil
			}
			if err != nil {
				return err
			}
			for _, id := range ids {
				now, is := InstanceNow{ID: id, App: app}, true
				if before := l.instances[id]; before != nil && before.gone.IsZero() && before.now.App == app {
					now = before.now
				} else if now, is, err = s.instanceNow(ctx, now); err != nil {
					return err
				}
				if is {
					mu.Lock()
					instances[id] = now
					mu.Unlock()
				}
			}
			return nil
		})
	}
	return instances, reading.Wait()
}

func (s *Service) instanceNow(ctx context.Context, i InstanceNow) (now InstanceNow, is bool, err error) {
	node, err := s.meta.Read(ctx, s.meta.InstancePath(i.App, i.ID))
	if err != nil || !node.Exists {
		return i, false, err
	}
	if doc, err := metadata.ParseInstance(node.Data); err == nil { // else nothing is known of it
		i.Host, i.PID, i.Started, i.SDK = doc.Host, doc.PID, doc.Started, doc.SDK
	}
	return i, true, nil
}
