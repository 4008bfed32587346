package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"

	"github.com/turnout-mq/turnout/admin/inventory"
	"github.com/turnout-mq/turnout/internal/errs"
	"github.com/turnout-mq/turnout/metadata"
)

// topicState is what ZooKeeper says of a topic.
type topicState struct{ inventory.Topic }

// newTopicState is a topic that is not there yet.
func newTopicState(name string) *topicState {
	return &topicState{inventory.Topic{Topic: metadata.Topic{Name: name, Settings: metadata.DefaultTopicSettings()}}}
}

// readTopic reads a topic; clusters are the names of all.
func readTopic(ctx context.Context, s *metadata.Store, name string, clusters []string) (*topicState, error) {
	t, err := inventory.ReadTopic(ctx, s, name, clusters)
	if err != nil {
		return nil, remedy(err, errs.ErrUnknownTopic, `"turnout topic list" shows what there is, "turnout topic put" creates one`)
	}
	return &topicState{*t}, nil
}

// groupProgress is how far a group is with a topic, a cluster at a time.
type groupProgress struct {
	Group    string     `json:"group"`
	Topic    string     `json:"topic"`
	Clusters []progress `json:"clusters"`
}

// askGroup asks the clusters of the topic's stays how far the group is.
func (f *fleet) askGroup(ctx context.Context, g metadata.Group, t *topicState) (groupProgress, error) {
	out := groupProgress{Group: g.Name, Topic: t.Name, Clusters: []progress{}}
	if t.InForce == nil {
		return out, nil
	}
	var err error
	out.Clusters, err = forEach(ctx, t.stayClusters(), func(_ context.Context, cluster string) (progress, error) {
		p := progress{Cluster: cluster, Topic: t.Settings.Physical(t.Name, cluster), Group: g.Physical(t.Name)}
		return f.ask(p, g.StartOn(t.InForce, t.Name, cluster)), nil
	})
	return out, err
}

// stayClusters are the clusters of the stays in their order.
func (t *topicState) stayClusters() []string {
	var names []string
	for _, stay := range t.InForce.Stays {
		if !slices.Contains(names, stay.Cluster) {
			names = append(names, stay.Cluster)
		}
	}
	return names
}

// stayState is a stay and who still needs it.
type stayState struct {
	stay   metadata.Stay
	write  bool
	heldBy []holder
}

// MarshalJSON adds to the fields of the stay.
func (s stayState) MarshalJSON() ([]byte, error) {
	doc, err := fields(&s.stay)
	if err != nil {
		return nil, err
	}
	out := map[string]any{"write": s.write, "heldBy": s.heldBy}
	for name, value := range doc {
		out[name] = value
	}
	return json.Marshal(out)
}

// holder is a group that has not finished a stay, or may not have.
type holder struct {
	Group   string `json:"group"`
	Unread  int64  `json:"unread"`          // of the stay
	Pending int64  `json:"pending"`         // delayed and retries
	Error   string `json:"error,omitempty"` // why it is not known
}

func (h holder) String() string {
	switch {
	case h.Error != "":
		return h.Group + " (not known)"
	case h.Pending > 0:
		return fmt.Sprintf("%s (%d unread, %d pending)", h.Group, h.Unread, h.Pending)
	}
	return fmt.Sprintf("%s (%d unread)", h.Group, h.Unread)
}

// stays says which group holds which stay. The one that is written is not held by anybody in particular.
func (t *topicState) stays(groups []groupProgress) []stayState {
	out := []stayState{}
	if t.InForce == nil {
		return out
	}
	for _, stay := range t.InForce.Stays {
		st := stayState{stay: stay, write: stay.Open() && stay.Cluster == t.InForce.Write, heldBy: []holder{}}
		for _, g := range groups {
			for _, p := range g.Clusters {
				if p.Cluster != stay.Cluster || st.write {
					continue
				}
				h := holder{Group: g.Group, Unread: p.unreadBelow(stay.End), Pending: p.Delayed + p.Retries, Error: p.Error}
				if h.Unread > 0 || h.Pending > 0 || h.Error != "" {
					st.heldBy = append(st.heldBy, h)
				}
			}
		}
		out = append(out, st)
	}
	return out
}
