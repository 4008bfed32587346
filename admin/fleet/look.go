package fleet

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/turnout-mq/turnout/broker"
	"github.com/turnout-mq/turnout/internal/clusters"
	"github.com/turnout-mq/turnout/internal/errs"
	"github.com/turnout-mq/turnout/internal/lag"
	"github.com/turnout-mq/turnout/metadata"
)

// look looks at a topic. before is the last look of this server, or nil. ErrUnknownTopic: there is none any more; any other error is
// ZooKeeper's.
func (s *Service) look(ctx context.Context, topic string, inv *inventory, before *Topic) (*Topic, error) {
	doc, err := s.meta.GetTopic(ctx, topic)
	if err != nil {
		return nil, err
	}
	t := &Topic{Topic: topic, App: doc.Settings.App, Seen: time.Now().UTC()}
	if doc.RouteNode.Exists {
		t.Route = doc.RouteNode.Mzxid.String()
	}
	if t.Instances, err = s.uses(ctx, doc, t.Seen, before); err != nil {
		return nil, err
	}
	var troubles []error
	if doc.Err != nil {
		troubles = append(troubles, doc.Err)
	}
	if route := doc.InForce(inv.clusters); route != nil {
		t.Write, t.Migration = route.Write, route.Migration
		for _, cluster := range stays(route) {
			on, groups := s.lookAt(ctx, doc, route, cluster, inv.readers[topic])
			t.Clusters, t.Groups = append(t.Clusters, on), append(t.Groups, groups...)
			if on.Error != "" {
				troubles = append(troubles, errors.New(on.Error))
			}
			for _, g := range groups {
				if g.Error != "" && g.Error != on.Error {
					troubles = append(troubles, fmt.Errorf("group %s on %s: %s", g.Group, g.Cluster, g.Error))
				}
			}
		}
	}
	if err := errors.Join(troubles...); err != nil {
		t.Error = err.Error()
	}
	if before != nil {
		t.compare(before)
	}
	return t, nil
}

// stays are the clusters that a route has a stay on, each once.
func stays(route *metadata.Route) (names []string) {
	for _, stay := range route.Stays {
		if !slices.Contains(names, stay.Cluster) {
			names = append(names, stay.Cluster)
		}
	}
	return names
}

// LookAt asks the clusters now how far a group is, whichever server monitors its topics. Nothing is stored, and there are no rates.
// What can not be asked is said in the parts and in Error. Errors as of Group; ZooKeeper's.
func (s *Service) LookAt(ctx context.Context, group string) (*Group, error) {
	doc, _, err := s.meta.GetGroup(ctx, group)
	if err != nil {
		return nil, err
	}
	clusters, err := s.meta.ListClusters(ctx)
	if err != nil {
		return nil, err
	}
	g := newGroup(doc)
	for _, topic := range doc.Topics {
		t, err := s.meta.GetTopic(ctx, topic)
		if err != nil {
			return nil, err
		}
		route := t.InForce(clusters)
		if route == nil {
			g.Error = fmt.Sprintf("topic %s: %v", topic, t.Err)
			continue
		}
		for _, cluster := range stays(route) {
			_, parts := s.lookAt(ctx, t, route, cluster, []metadata.Group{doc})
			for _, p := range parts {
				g.add(p)
			}
		}
	}
	return g, nil
}

// uses are what the participants say.
func (s *Service) uses(ctx context.Context, doc metadata.Topic, now time.Time, before *Topic) ([]Use, error) {
	participants, err := s.meta.ListParticipants(ctx, doc.Name)
	if err != nil {
		return nil, err
	}
	since := map[string]time.Time{}
	if before != nil {
		for _, u := range before.Instances {
			since[u.Instance] = u.BehindSince
		}
	}
	var uses []Use
	for _, p := range participants {
		u := Use{Instance: p.ID, Topic: doc.Name, Seen: now}
		if p.Err != nil {
			u.Error, u.Stale = p.Err.Error(), true
			uses = append(uses, u)
			continue
		}
		u.Changed, u.Zxid, u.Write, u.Warm, u.Held = p.At, p.Zxid.String(), p.Write, p.Warm, p.Held
		u.Inflight, u.Groups, u.Error = p.Inflight, p.Groups, p.Error
		u.Applied = p.Zxid >= doc.RouteNode.Mzxid // a newer one than we have read is applied, too
		if !u.Applied {
			if u.BehindSince = since[p.ID]; u.BehindSince.IsZero() {
				u.BehindSince = now
			}
		}
		u.Stale = u.Error != "" || !u.Applied && now.Sub(u.BehindSince) >= s.cfg.StaleAfter
		uses = append(uses, u)
	}
	return uses, nil
}

// lookAt asks a cluster where the topic ends and how far its readers are.
func (s *Service) lookAt(ctx context.Context, doc metadata.Topic, route *metadata.Route, cluster string, readers []metadata.Group) (TopicOnCluster, []GroupOnCluster) {
	on := TopicOnCluster{Topic: doc.Name, Cluster: cluster, Physical: doc.Settings.Physical(doc.Name, cluster)}
	groups := make([]GroupOnCluster, len(readers))
	for i, g := range readers {
		groups[i] = GroupOnCluster{Group: g.Name, Topic: doc.Name, Cluster: cluster, Physical: g.Physical(doc.Name), Seen: time.Now().UTC(), Partitions: []PartitionLag{}}
		err := s.gate.ask(ctx, cluster, func(ctx context.Context, c *clusters.Conn) error {
			l, err := lag.Of(ctx, c, on.Physical, groups[i].Physical, g.StartOn(route, doc.Name, cluster), nil)
			if err == nil {
				groups[i].Seen = time.Now().UTC()
				groups[i].take(l)
				on.take(l.Ends)
			}
			return err
		})
		if err != nil {
			groups[i].Error = err.Error()
		}
	}
	if on.at.IsZero() { // nobody reads it, or it failed
		err := s.gate.ask(ctx, cluster, func(ctx context.Context, c *clusters.Conn) error {
			ends, err := c.EndOffsets(ctx, on.Physical)
			if err == nil {
				on.take(ends)
			}
			return err
		})
		on.NoTopic = errors.Is(err, errs.ErrUnknownTopic)
		switch {
		case on.NoTopic && cluster == route.Write:
			on.Error = fmt.Sprintf("cluster %s does not have the topic %s: create it there, or move the topic away", cluster, on.Physical)
		case err != nil && !on.NoTopic:
			on.Error = err.Error()
		}
	}
	return on, groups
}

func (c *TopicOnCluster) take(ends broker.Offsets) {
	if ends != nil {
		c.Ends, c.at = ends, time.Now()
	}
}

func (g *GroupOnCluster) take(l *lag.Lag) {
	g.Unread, g.Expired, g.NoTopic = l.Unread, l.Expired, l.NoTopic
	g.Delayed, g.Retries, g.DeadLetters = l.Pending.Delayed, l.Pending.Retries, l.Pending.DeadLetters
	for _, name := range l.Ends.Names() {
		p := PartitionLag{Partition: name, Position: l.Positions[name], End: l.Ends[name]}
		p.Unread = max(0, p.End-p.Position)
		g.Partitions = append(g.Partitions, p)
	}
}

// compare makes the rates since the look before.
func (t *Topic) compare(before *Topic) {
	for i := range t.Clusters {
		now := &t.Clusters[i]
		for _, then := range before.Clusters {
			if then.Cluster == now.Cluster && then.Physical == now.Physical && then.Ends != nil && now.Ends != nil {
				now.Produced = rate(then.Ends, now.Ends, 0, now.at.Sub(then.at))
			}
		}
	}
	for i := range t.Groups {
		now := &t.Groups[i]
		for _, then := range before.Groups {
			if then.Group == now.Group && then.Cluster == now.Cluster && then.Physical == now.Physical && then.Error == "" && now.Error == "" {
				now.Consumed = rate(then.positions(), now.positions(), max(0, now.Expired-then.Expired), now.Seen.Sub(then.Seen))
			}
		}
	}
}

func (g *GroupOnCluster) positions() map[string]int64 {
	out := make(map[string]int64, len(g.Partitions))
	for _, p := range g.Partitions {
		out[p.Partition] = p.Position
	}
	return out
}

// rate is how many offsets a second the partitions went on, but for so many that went by themselves. A partition that is new, or
// went back because the topic was made anew or the group was reset, does not count.
func rate(then, now map[string]int64, but int64, in time.Duration) *float64 {
	if in <= 0 {
		return nil
	}
	n := -but
	for name, offset := range now {
		if before, known := then[name]; known {
			n += max(0, offset-before)
		}
	}
	r := float64(max(0, n)) / in.Seconds()
	return &r
}
