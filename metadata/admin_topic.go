package metadata

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"golang.org/x/sync/errgroup"

	"github.com/turnout-mq/turnout/broker"
	"github.com/turnout-mq/turnout/internal/errs"
)

// Topic is all that is written down of a topic.
type Topic struct {
	Name         string
	Wish         Wish
	WishNode     Node
	Route        *Route // nil: none yet
	RouteNode    Node
	Settings     TopicSettings // the defaults if there are none
	SettingsNode Node
	Err          error // documents that are not acceptable; they are not in the fields above
}

// PutTopic is the wish of a person or tool for a topic.
type PutTopic struct {
	Cluster string
	// Start is where groups without a position begin on Cluster: its end offsets, read before the call. It is not used
	// where a stay on Cluster is open already, which keeps its start. nil: at the end of the last stay there, or
	// everything.
	Start broker.Offsets
	Order Order // "": as it is, none for a new topic
}

// GetTopic reads a topic. ErrUnknownTopic (and ErrNotFound): there is none.
func (s *Store) GetTopic(ctx context.Context, topic string) (Topic, error) {
	t := Topic{Name: topic, Settings: DefaultTopicSettings()}
	if err := CheckName("topic", topic); err != nil {
		return t, err
	}
	var err error
	t.Wish, t.WishNode, err = readDocument(ctx, s, s.TopicPath(topic), ParseWish)
	switch {
	case errors.Is(err, errs.ErrNotFound):
		return t, unknownTopic(topic)
	case err != nil && !t.note(err):
		return t, err
	}
	route, node, err := readDocument(ctx, s, s.RoutePath(topic), ParseRoute)
	t.RouteNode = node
	switch {
	case err == nil:
		t.Route = &route
	case !errors.Is(err, errs.ErrNotFound) && !t.note(err):
		return t, err
	}
	settings, node, err := readDocument(ctx, s, s.SettingsPath(topic), ParseTopicSettings)
	t.SettingsNode = node
	switch {
	case err == nil:
		t.Settings = settings
	case !errors.Is(err, errs.ErrNotFound) && !t.note(err):
		return t, err
	}
	return t, nil
}

// note takes an error of a document into t.Err; false: it is another error.
func (t *Topic) note(err error) bool {
	if unacceptable(err) {
		t.Err = errors.Join(t.Err, err)
		return true
	}
	return false
}

func unknownTopic(topic string) error {
	return fmt.Errorf("topic %s: %w: %w", topic, errs.ErrUnknownTopic, errs.ErrNotFound)
}

// ListTopics are the names of all topics.
func (s *Store) ListTopics(ctx context.Context) ([]string, error) { return s.list(ctx, s.TopicsPath()) }

// PutTopic makes put the wish of a topic and writes the route that answers it in the same step, so that nobody has to
// complete the wish. It begins with the completion of the wish before it, and fails with ErrConflict if somebody else
// writes a wish in the meantime; another change of the route is taken in. A new topic is created. Nothing is written
// when the topic is that way already. ErrNotFound: no such cluster. ErrInvalid: with every reason; also if the route that is
// there can not be read, for its stays would be forgotten.
func (s *Store) PutTopic(ctx context.Context, topic string, put PutTopic) (Topic, error) {
	var p problems
	p.name("topic", topic)
	p.name("cluster", put.Cluster)
	p.offsets("start", put.Start)
	if put.Order != "" {
		p.order(put.Order)
	}
	if err := p.err("topic put"); err != nil {
		return Topic{}, err
	}
	if _, _, err := s.GetCluster(ctx, put.Cluster); err != nil {
		return Topic{}, err
	}
	if err := s.makeParent(ctx, s.TopicsPath()); err != nil {
		return Topic{}, err
	}
	var first *Node // the wish when we began
	for {
		if err := s.Sync(ctx, s.TopicPath(topic)); err != nil {
			return Topic{}, err
		}
		t, err := s.GetTopic(ctx, topic)
		if err != nil && !errors.Is(err, errs.ErrUnknownTopic) {
			return t, err
		}
		if first == nil {
			first = &t.WishNode
		} else if first.Czxid != t.WishNode.Czxid || first.Version != t.WishNode.Version {
			return t, fmt.Errorf("topic %s: %w: somebody else has written a wish in this moment; read it and decide again", topic, errs.ErrConflict)
		}
		done, err := s.putTopic(ctx, t, put)
		if err != nil {
			return t, err
		}
		if done {
			return s.GetTopic(ctx, topic)
		}
	}
}

// CreateTopic writes a new topic with its settings and its first route in one step, together with also: all or nothing.
// ErrConflict: there is one of that name. ErrInvalid: cluster and order must be said, and be known. Other errors are those of also.
// ErrTimeout: the connection was lost, and it may have been written or not.
func (s *Store) CreateTopic(ctx context.Context, topic string, put PutTopic, settings TopicSettings, also ...Op) error {
	var p problems
	p.name("topic", topic)
	p.offsets("start", put.Start)
	p.order(put.Order)
	if err := p.err("topic create"); err != nil {
		return err
	}
	clusters, err := s.ListClusters(ctx)
	if err != nil {
		return err
	}
	if !slices.Contains(clusters, put.Cluster) {
		return fmt.Errorf("topic %s: cluster %q: %w: there is no such cluster; put it first", topic, put.Cluster, errs.ErrInvalid)
	}
	wish, err := encode(Wish{Cluster: put.Cluster})
	if err != nil {
		return err
	}
	route, err := encode(*Topic{Name: topic, Settings: settings}.Next(put, clusters))
	if err != nil {
		return err
	}
	doc, err := encode(settings)
	if err != nil {
		return err
	}
	if err := s.makeParent(ctx, s.TopicsPath()); err != nil {
		return err
	}
	return s.Multi(ctx, append(slices.Clone(also), CreateOp(s.TopicPath(topic), wish), CreateOp(s.RoutePath(topic), route), CreateOp(s.SettingsPath(topic), doc))...)
}

// putTopic tries once. Neither done nor an error: look again.
func (s *Store) putTopic(ctx context.Context, t Topic, put PutTopic) (done bool, err error) {
	if !t.WishNode.Exists {
		if err := s.physicalTopicsFree(ctx, t.Name, t.Settings); err != nil {
			return false, fmt.Errorf("topic %s: %w", t.Name, err)
		}
	}
	if t.RouteNode.Exists && t.Route == nil {
		return false, fmt.Errorf("topic %s: its route can not be read, and writing a new one would forget where messages may be unread; restore or repair it: %w", t.Name, t.Err)
	}
	clusters, err := s.ListClusters(ctx)
	if err != nil {
		return false, err
	}
	next := t.Next(put, clusters)
	if next == nil {
		return true, nil
	}
	wish := Wish{Cluster: put.Cluster, Extra: t.Wish.Extra}
	wishData, werr := encode(wish)
	routeData, rerr := encode(*next)
	if err := errors.Join(werr, rerr); err != nil {
		return false, err
	}
	var also []Op
	if t.RouteNode.Exists {
		also = []Op{SetOp(s.RoutePath(t.Name), routeData, t.RouteNode.Version)}
	} else {
		also = []Op{CreateOp(s.RoutePath(t.Name), routeData)}
	}
	t.WishNode.Path = s.TopicPath(t.Name)
	return s.replace(ctx, t.WishNode, wishData, also)
}

// InForce is what running instances make of wish and route; clusters are the names of all. Where the wish can not be read it is the
// route as it is written; nil: that can not be read, and only they know.
func (t Topic) InForce(clusters []string) *Route {
	if t.Wish.Cluster == "" || t.Route == nil && t.RouteNode.Exists {
		return t.Route
	}
	next := Complete(t.Wish, t.WishNode, t.Route, clusters)
	return &next
}

// Next is the route that PutTopic would write for put, with these clusters in the metadata; nil: t is that way already.
func (t Topic) Next(put PutTopic, clusters []string) *Route {
	valid := t.WishNode.Exists && t.Wish.Cluster != ""
	if valid && Answered(t.Route, t.WishNode) && t.Wish.Cluster == put.Cluster && t.Route.Write == put.Cluster && (put.Order == "" || put.Order == t.Route.Order) {
		return nil
	}
	next := Route{V: version, Order: OrderNone}
	if t.Route != nil {
		next = t.Route.Clone()
	}
	switch {
	case valid:
		next = Complete(t.Wish, t.WishNode, t.Route, clusters)
	case t.WishNode.Exists: // one that nobody could follow; those before it may have been skipped
		next.recordSkipped(t.WishNode, t.Route == nil, "", clusters)
	}
	next.enter(put.Cluster, put.Start, len(next.Stays) == 0)
	next.Wish = WishRef{}
	if t.WishNode.Exists {
		next.Wish = WishRef{Czxid: t.WishNode.Czxid, Version: t.WishNode.Version + 1}
	}
	if put.Order != "" {
		next.Order = put.Order
	}
	return &next
}

// settingsOf are the settings of a topic, the defaults if it has none. ErrInvalid: they are not acceptable.
func (s *Store) settingsOf(ctx context.Context, topic string) (TopicSettings, error) {
	settings, _, err := readDocument(ctx, s, s.SettingsPath(topic), ParseTopicSettings)
	if errors.Is(err, errs.ErrNotFound) {
		return DefaultTopicSettings(), nil
	}
	return settings, err
}

// PutSettings replaces the settings of a topic; fields that this version does not know are kept. ErrConflict: a name is that
// of another topic on the same cluster; shadow.topic is a topic that is no shadow topic, or that of another; shadowOf makes a
// shadow topic of one that groups read, or takes it from the topic that sends there. ErrInvalid: shadow.topic or shadowOf is the
// topic itself.
func (s *Store) PutSettings(ctx context.Context, topic string, settings TopicSettings) error {
	return s.UpdateSettings(ctx, topic, func(t *TopicSettings) error {
		settings.Extra = settings.Extra.over(t.Extra)
		settings.Shadow.Extra = settings.Shadow.Extra.over(t.Shadow.Extra)
		*t = settings
		return nil
	})
}

// UpdateSettings changes the settings of a topic (the defaults if it has none that can be read) by compare-and-set; change may be called
// several times. Errors as PutSettings.
func (s *Store) UpdateSettings(ctx context.Context, topic string, change func(*TopicSettings) error) error {
	if err := CheckName("topic", topic); err != nil {
		return err
	}
	n, err := s.fresh(ctx, s.TopicPath(topic))
	if err != nil {
		return err
	}
	if !n.Exists {
		return unknownTopic(topic)
	}
	return edit(ctx, s, s.SettingsPath(topic), ParseTopicSettings, func(t TopicSettings, n Node, invalid error) (TopicSettings, []Op, error) {
		if !n.Exists || invalid != nil {
			t = DefaultTopicSettings()
		}
		old := t
		old.Names = maps.Clone(t.Names)
		if err := change(&t); err != nil {
			return t, nil, err
		}
		if err := t.Validate(); err != nil {
			return t, nil, err
		}
		err := s.shadowFits(ctx, topic, old, t)
		if !n.Exists || invalid != nil || !maps.Equal(old.Names, t.Names) { // else there is no new name to compare with all topics
			err = errors.Join(err, s.physicalTopicsFree(ctx, topic, t))
		}
		return t, nil, err
	})
}

// shadowFits says what speaks against the shadow settings in next, which replaces old: a topic is on one side of the stress mark.
func (s *Store) shadowFits(ctx context.Context, topic string, old, next TopicSettings) error {
	var p problems
	if next.Shadow.Topic == topic {
		p.add("shadow.topic", topic, "is the topic itself; name another, or leave it empty for %s%s", ShadowPrefix, topic)
	}
	if next.ShadowOf == topic {
		p.add("shadowOf", topic, "is the topic itself; name the topic whose messages with the stress mark go here")
	}
	if err := p.err("settings"); err != nil {
		return err
	}
	var conflicts []error
	conflict := func(field, value, text string, args ...any) {
		conflicts = append(conflicts, fmt.Errorf("%s %q: %w: %s", field, value, errs.ErrConflict, fmt.Sprintf(text, args...)))
	}
	if other := next.Shadow.Topic; other != "" {
		if of, is := strings.CutPrefix(other, ShadowPrefix); is && of != topic {
			conflict("shadow.topic", other, "it is the shadow topic of %s by its name; choose another", of)
		}
		n, err := s.Read(ctx, s.TopicPath(other))
		if err != nil {
			return err
		}
		theirs, err := s.settingsOf(ctx, other)
		switch {
		case !n.Exists: // to come
		case err != nil:
			return err
		case !theirs.IsShadow(other):
			conflict("shadow.topic", other, "that topic is there and is no shadow topic; say so first (turnout topic put %s --shadow-of %s) or choose another", other, topic)
		case theirs.ShadowOf != "" && theirs.ShadowOf != topic:
			conflict("shadow.topic", other, "it is the shadow topic of %s; choose another", theirs.ShadowOf)
		}
	}
	if of := old.ShadowOf; of != "" && of != next.ShadowOf && (next.ShadowOf != "" || !next.IsShadow(topic)) {
		theirs, err := s.settingsOf(ctx, of)
		if err != nil {
			return err
		}
		if theirs.Shadow.Topic == topic {
			conflict("shadowOf", next.ShadowOf, "topic %s sends its messages with the stress mark here; change its settings shadow.topic first", of)
		}
	}
	if next.IsShadow(topic) && !old.IsShadow(topic) {
		var groups []string
		if err := s.eachGroup(ctx, "", func(g Group) {
			if slices.Contains(g.Topics, topic) {
				groups = append(groups, g.Name)
			}
		}); err != nil {
			return err
		}
		if len(groups) > 0 {
			conflict("shadowOf", next.ShadowOf, "groups %q read this topic in production; take it out of them first, or choose another topic", groups)
		}
	}
	return errors.Join(conflicts...)
}

// physicalTopicsFree is ErrConflict when topic, with settings, has the name of another topic on a cluster. Only clusters can tell
// where neither has a name of its own: their names differ there.
func (s *Store) physicalTopicsFree(ctx context.Context, topic string, settings TopicSettings) error {
	topics, err := s.ListTopics(ctx)
	if err != nil {
		return err
	}
	taken := make([]error, len(topics))
	read, ctx := errgroup.WithContext(ctx)
	read.SetLimit(atOnce)
	for i, other := range topics {
		if other == topic {
			continue
		}
		read.Go(func() error {
			theirs, err := s.settingsOf(ctx, other)
			if err != nil && !unacceptable(err) {
				return err
			}
			named := maps.Clone(settings.Names)
			if named == nil {
				named = map[string]string{}
			}
			maps.Copy(named, theirs.Names)
			for _, cluster := range slices.Sorted(maps.Keys(named)) {
				if name := settings.Physical(topic, cluster); theirs.Physical(other, cluster) == name {
					taken[i] = errors.Join(taken[i], fmt.Errorf("names[%q] %q: %w: it is topic %s there; choose another", cluster, name, errs.ErrConflict, other))
				}
			}
			return nil
		})
	}
	if err := read.Wait(); err != nil {
		return err
	}
	return errors.Join(taken...)
}

// DeleteTopic removes a topic with its route and settings; nothing is done on the clusters. ErrConflict while participants
// are alive, groups name it, or it is the shadow topic that another topic names.
func (s *Store) DeleteTopic(ctx context.Context, topic string) error {
	if err := CheckName("topic", topic); err != nil {
		return err
	}
	wish, err := s.fresh(ctx, s.TopicPath(topic))
	if err != nil {
		return err
	}
	if !wish.Exists {
		return unknownTopic(topic)
	}
	users, err := s.topicUsers(ctx, topic)
	if err != nil {
		return err
	}
	if len(users) > 0 {
		return fmt.Errorf("topic %s: %w: in use by %q; stop or change them first", topic, errs.ErrConflict, users)
	}
	children, err := s.Children(ctx, wish.Path)
	if err != nil {
		return err
	}
	var ops []Op
	for _, child := range children {
		n, err := s.Read(ctx, wish.Path+"/"+child)
		if err != nil {
			return err
		}
		ops = append(ops, DeleteOp(n.Path, n.Version))
	}
	if err := s.Multi(ctx, append(ops, DeleteOp(wish.Path, wish.Version))...); err != nil {
		return err
	}
	err = s.Delete(ctx, s.ParticipantsPath(topic), AnyVersion) // empty, unless somebody just came
	if errors.Is(err, errs.ErrNotFound) || errors.Is(err, errs.ErrConflict) || errors.Is(err, errs.ErrNotAllowed) {
		return nil
	}
	return err
}

func (s *Store) topicUsers(ctx context.Context, topic string) (users []string, err error) {
	participants, err := s.list(ctx, s.ParticipantsPath(topic))
	if err != nil {
		return nil, err
	}
	for _, id := range participants {
		users = append(users, "participant "+id)
	}
	err = s.eachGroup(ctx, "", func(g Group) {
		if slices.Contains(g.Topics, topic) {
			users = append(users, "group "+g.Name)
		}
	})
	if err != nil {
		return nil, err
	}
	own, err := s.settingsOf(ctx, topic)
	if err != nil || own.ShadowOf == "" { // a topic that nobody can read is nobody's shadow topic
		return users, nil //nolint:nilerr // see above
	}
	theirs, err := s.settingsOf(ctx, own.ShadowOf)
	if err == nil && theirs.Shadow.Topic == topic {
		users = append(users, "topic "+own.ShadowOf+" (its shadow.topic)")
	}
	return users, err
}
