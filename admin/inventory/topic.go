package inventory

import (
	"context"
	"slices"

	"github.com/turnout-mq/turnout/broker"
	"github.com/turnout-mq/turnout/metadata"
)

// Entry is one document as it was read. Document is nil when it is invalid, which Error says.
type Entry[T any] struct {
	Name     string        `json:"name"`
	Version  int32         `json:"version" doc:"of its node in ZooKeeper"`
	Zxid     metadata.Zxid `json:"zxid" doc:"change number of its node" example:"0x1f"`
	Document *T            `json:"document,omitempty" doc:"as docs/metadata.md describes it; absent when nobody can read what is there"`
	Error    string        `json:"error,omitempty" doc:"why it can not be read"`
}

// NewEntry is a document that could be read.
func NewEntry[T any](name string, doc T, n metadata.Node) *Entry[T] {
	return &Entry[T]{Name: name, Version: n.Version, Zxid: n.Mzxid, Document: &doc}
}

// Topic is what ZooKeeper says of a topic.
type Topic struct {
	metadata.Topic
	Answered bool // the route answers the wish. If not, InForce is what running instances make of the two
	// InForce is nil when wish or route can not be read: instances stay with the last good route, which only they know.
	InForce *metadata.Route
}

// ReadTopic reads a topic; clusters are the names of all. ErrUnknownTopic.
func ReadTopic(ctx context.Context, s *metadata.Store, name string, clusters []string) (*Topic, error) {
	doc, err := s.GetTopic(ctx, name)
	if err != nil {
		return nil, err
	}
	t := &Topic{Topic: doc}
	if t.RouteInvalid() || t.WishInvalid() {
		return t, nil
	}
	t.Answered = metadata.Answered(t.Route, t.WishNode)
	next := metadata.Complete(t.Wish, t.WishNode, t.Route, clusters)
	t.InForce = &next
	return t, nil
}

// WishInvalid says that there is a wish that nobody can read.
func (t *Topic) WishInvalid() bool { return t.Wish.Cluster == "" }

// RouteInvalid says that there is a route that nobody can read.
func (t *Topic) RouteInvalid() bool { return t.RouteNode.Exists && t.Route == nil }

// openStays are the clusters of the stays without end.
func (t *Topic) openStays() []string {
	open := []string{}
	if t.InForce != nil {
		for _, stay := range t.InForce.Stays {
			if stay.Open() {
				open = append(open, stay.Cluster)
			}
		}
	}
	return open
}

// on says that the topic is, was or shall be on a cluster.
func (t *Topic) on(cluster string) bool {
	return t.Wish.Cluster == cluster || t.InForce != nil && slices.Contains(t.InForce.Clusters(), cluster)
}

// TopicFields are the parts of a Topic in JSON.
type TopicFields struct {
	Name     string                         `json:"name"`
	Wish     *Entry[metadata.Wish]          `json:"wish,omitempty" doc:"where it shall be; absent: ZooKeeper does not have the topic"`
	Route    *Entry[metadata.Route]         `json:"route,omitempty" doc:"as it is written; absent: none yet"`
	Settings *Entry[metadata.TopicSettings] `json:"settings,omitempty" doc:"absent: the defaults are in force"`
	Error    string                         `json:"error,omitempty" doc:"what of it can not be read"`
	Answered bool                           `json:"answered" doc:"the route answers the wish"`
	InForce  *metadata.Route                `json:"inForce,omitempty" doc:"the route, or what instances make of wish and route until it is written"`
}

// Fields are the parts of t in JSON.
func (t *Topic) Fields() TopicFields {
	f := TopicFields{Name: t.Name, Answered: t.Answered, InForce: t.InForce, Wish: NewEntry(t.Name, t.Wish, t.WishNode)}
	if t.WishInvalid() {
		f.Wish.Document = nil
	}
	if t.RouteNode.Exists {
		f.Route = &Entry[metadata.Route]{Name: t.Name, Version: t.RouteNode.Version, Zxid: t.RouteNode.Mzxid, Document: t.Route}
	}
	if t.SettingsNode.Exists {
		f.Settings = NewEntry(t.Name, t.Settings, t.SettingsNode)
	}
	if t.Err != nil {
		f.Error = t.Err.Error()
	}
	return f
}

// Physical is the topic's name on a cluster.
func (f TopicFields) Physical(cluster string) string {
	if f.Settings == nil || f.Settings.Document == nil {
		return f.Name
	}
	return f.Settings.Document.Physical(f.Name, cluster)
}

// Participant is an instance's part in a topic.
type Participant struct {
	Instance string                `json:"instance"`
	Applied  bool                  `json:"applied"` // it has applied the route that is written
	Document *metadata.Participant `json:"document,omitempty"`
	Error    string                `json:"error,omitempty"` // of the document
}

// Participants are the live ones of the topic, by instance.
func (t *Topic) Participants(ctx context.Context, s *metadata.Store) ([]Participant, error) {
	entries, err := s.ListParticipants(ctx, t.Name)
	if err != nil {
		return nil, err
	}
	list := []Participant{}
	for _, e := range entries {
		p := Participant{Instance: e.ID}
		if e.Err != nil {
			p.Error = e.Err.Error()
		} else {
			p.Document, p.Applied = &e.Participant, e.Zxid == t.RouteNode.Mzxid
		}
		list = append(list, p)
	}
	return list, nil
}

// TopicState is a topic in a list.
type TopicState struct {
	TopicFields
	App          string      `json:"app,omitempty" doc:"the application that it belongs to"`
	State        State       `json:"state" enum:"creating,deleting,missing,invalid,unanswered,moving,settled" doc:"How it stands: the catalog has it and ZooKeeper not yet (creating), the catalog is about to remove it (deleting), ZooKeeper has lost it (missing); what is in ZooKeeper can not be read (invalid), the route does not answer the wish yet (unanswered), it has to be read from several clusters or its sends pause (moving), none of these (settled)."`
	Cluster      string      `json:"cluster,omitempty" doc:"the cluster that sends go to"`
	Kind         broker.Kind `json:"kind,omitempty" doc:"kafka or rocketmq; absent: the metadata does not have the cluster"`
	OpenStays    []string    `json:"openStays" nullable:"false" doc:"the clusters that it is read from"`
	Participants int         `json:"participants" doc:"the instances that use it"`
	Applied      int         `json:"applied" doc:"of these, how many have applied the route"`
	Catalog      *Managed    `json:"catalog,omitempty" doc:"what the platform has of it; absent: it does not manage it"`

	Parts []Participant `json:"-"` // the participants themselves
}

// state is how a topic stands that ZooKeeper has.
func (t *Topic) state() State {
	switch {
	case t.Err != nil:
		return Invalid
	case !t.Answered:
		return Unanswered
	case t.InForce.Hold != nil || len(t.openStays()) > 1:
		return Moving
	}
	return Settled
}
