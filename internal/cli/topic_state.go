package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"

	"github.com/turnout-mq/turnout/internal/errs"
	"github.com/turnout-mq/turnout/metadata"
)

// topicState is what ZooKeeper says of a topic.
type topicState struct {
	metadata.Topic
	Answered bool // the route answers the wish. If not, InForce is what running instances make of the two
	// InForce is nil when wish or route can not be read: instances stay with the last good route, which only they know.
	InForce *metadata.Route
}

// readTopic reads a topic; clusters are the names of all.
func readTopic(ctx context.Context, s *metadata.Store, name string, clusters []string) (*topicState, error) {
	doc, err := s.GetTopic(ctx, name)
	if err != nil {
		return nil, remedy(err, errs.ErrUnknownTopic, `"turnout topic list" shows what there is, "turnout topic put" creates one`)
	}
	t := &topicState{Topic: doc}
	if t.routeInvalid() || t.wishInvalid() {
		return t, nil
	}
	t.Answered = metadata.Answered(t.Route, t.WishNode)
	next := metadata.Complete(t.Wish, t.WishNode, t.Route, clusters)
	t.InForce = &next
	return t, nil
}

func (t *topicState) wishInvalid() bool  { return t.Wish.Cluster == "" }
func (t *topicState) routeInvalid() bool { return t.RouteNode.Exists && t.Route == nil }

// topicFields are the parts of topicState in JSON.
type topicFields struct {
	Name     string                         `json:"name"`
	Wish     *entry[metadata.Wish]          `json:"wish"`
	Route    *entry[metadata.Route]         `json:"route"`    // as it is written; null: none yet
	Settings *entry[metadata.TopicSettings] `json:"settings"` // null: the defaults are in force
	Error    string                         `json:"error,omitempty"`
	Answered bool                           `json:"answered"`
	InForce  *metadata.Route                `json:"inForce"`
}

func (t *topicState) fields() topicFields {
	f := topicFields{Name: t.Name, Answered: t.Answered, InForce: t.InForce, Wish: newEntry(t.Name, t.Wish, t.WishNode)}
	if t.wishInvalid() {
		f.Wish.Document = nil
	}
	if t.RouteNode.Exists {
		f.Route = &entry[metadata.Route]{Name: t.Name, Version: t.RouteNode.Version, Zxid: t.RouteNode.Mzxid, Document: t.Route}
	}
	if t.SettingsNode.Exists {
		f.Settings = newEntry(t.Name, t.Settings, t.SettingsNode)
	}
	if t.Err != nil {
		f.Error = t.Err.Error()
	}
	return f
}

// participant is an instance's part in a topic.
type participant struct {
	Instance string                `json:"instance"`
	Applied  bool                  `json:"applied"` // it has applied the route that is written
	Document *metadata.Participant `json:"document,omitempty"`
	Error    string                `json:"error,omitempty"` // of the document
}

func (t *topicState) participants(ctx context.Context, s *metadata.Store) ([]participant, error) {
	entries, err := s.ListParticipants(ctx, t.Name)
	if err != nil {
		return nil, err
	}
	list := []participant{}
	for _, e := range entries {
		p := participant{Instance: e.ID}
		if e.Err != nil {
			p.Error = e.Err.Error()
		} else {
			p.Document, p.Applied = &e.Participant, e.Zxid == t.RouteNode.Mzxid
		}
		list = append(list, p)
	}
	return list, nil
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
