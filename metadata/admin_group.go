package metadata

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"golang.org/x/sync/errgroup"

	"github.com/turnout-mq/turnout/internal/errs"
)

// GetGroup reads a group. ErrUnknownGroup (and ErrNotFound); ErrInvalid when what is there is not acceptable.
func (s *Store) GetGroup(ctx context.Context, name string) (Group, Node, error) {
	if err := CheckName("group", name); err != nil {
		return Group{}, Node{}, err
	}
	g, n, err := readDocument(ctx, s, s.GroupPath(name), ParseGroup)
	if errors.Is(err, errs.ErrNotFound) {
		err = unknownGroup(name)
	}
	return g, n, err
}

func unknownGroup(name string) error {
	return fmt.Errorf("group %s: %w: %w", name, errs.ErrUnknownGroup, errs.ErrNotFound)
}

// ListGroups are the names of all groups.
func (s *Store) ListGroups(ctx context.Context) ([]string, error) { return s.list(ctx, s.GroupsPath()) }

// eachGroup calls f with every group but the one named except, one after the other, by name.
func (s *Store) eachGroup(ctx context.Context, except string, f func(Group)) error {
	names, err := s.ListGroups(ctx)
	if err != nil {
		return err
	}
	groups := make([]*Group, len(names))
	read, ctx := errgroup.WithContext(ctx)
	read.SetLimit(atOnce)
	for i, name := range names {
		if name == except {
			continue
		}
		read.Go(func() error {
			g, _, err := s.GetGroup(ctx, name)
			switch {
			case err == nil:
				groups[i] = &g
			case errors.Is(err, errs.ErrUnknownGroup): // just deleted
			default: // it may use anything
				return fmt.Errorf("group %s can not be judged; repair or delete it: %w", name, err)
			}
			return nil
		})
	}
	if err := read.Wait(); err != nil {
		return err
	}
	for _, g := range groups {
		if g != nil {
			f(*g)
		}
	}
	return nil
}

// Readers are all groups that read topic: those that name it, and, when it is a shadow topic by its settings, the shadow
// groups (Group.ShadowGroup, under their own names) of those that have a topic which has it for its shadow topic. Whether flags
// enable a shadow group does not matter: what it has not read waits for it. ErrInvalid: a group or settings that may
// make somebody a reader are not acceptable.
func (s *Store) Readers(ctx context.Context, topic string) ([]Group, error) {
	own, err := s.settingsOf(ctx, topic)
	if err != nil {
		return nil, err
	}
	var all, readers []Group
	err = s.eachGroup(ctx, "", func(g Group) {
		all = append(all, g)
		if slices.Contains(g.Topics, topic) {
			readers = append(readers, g)
		}
	})
	if err != nil || !own.IsShadow(topic) {
		return readers, err
	}
	settings := map[string]TopicSettings{}
	for _, g := range all {
		for _, t := range g.Topics {
			if _, known := settings[t]; known {
				continue
			}
			if settings[t], err = s.settingsOf(ctx, t); err != nil {
				return nil, fmt.Errorf("shadow group of %s: %w", g.Name, err)
			}
		}
		derived, err := g.ShadowGroup(func(t string) TopicSettings { return settings[t] })
		if derived.Of[topic] == "" {
			continue
		}
		if err != nil {
			return nil, err
		}
		readers = append(readers, derived.Group)
	}
	return readers, nil
}

// PutGroup creates or replaces a group; begin with DefaultGroup. Fields that this version does not know are kept.
//
// The names of the group on the clusters are fixed when a topic is added: as given in Names, else the group's own name for
// its first topic and "{group}-{topic}" for further ones. They stay when a topic is taken out. Refused, with every
// reason: a name that is taken by another group or a shadow group (ErrConflict), also for the group's own shadow group; another
// name than before, and with StartLatest a topic without From (ErrInvalid); topics that do not exist (ErrUnknownTopic). Shadow
// groups are derived and never put: a new group whose name begins with ShadowPrefix is refused, and a shadow topic
// (ErrInvalid).
func (s *Store) PutGroup(ctx context.Context, name string, g Group) error {
	return s.updateGroup(ctx, name, func(old *Group, _ Node, _ error) error {
		g := g
		g.Extra = g.Extra.over(old.Extra)
		g.Retry.Extra = g.Retry.Extra.over(old.Retry.Extra)
		g.Shadow.Extra = g.Shadow.Extra.over(old.Shadow.Extra)
		*old = g
		return nil
	})
}

// UpdateGroup changes a group that exists (ErrUnknownGroup) and can be read (ErrInvalid) by compare-and-set; change may be
// called several times. Refusals as PutGroup.
func (s *Store) UpdateGroup(ctx context.Context, name string, change func(*Group) error) error {
	return s.updateGroup(ctx, name, func(g *Group, n Node, invalid error) error {
		switch {
		case !n.Exists:
			return unknownGroup(name)
		case invalid != nil:
			return invalid
		}
		return change(g)
	})
}

func (s *Store) updateGroup(ctx context.Context, name string, change func(old *Group, n Node, invalid error) error) error {
	if err := CheckName("group", name); err != nil {
		return err
	}
	if err := s.makeParent(ctx, s.GroupsPath()); err != nil {
		return err
	}
	return edit(ctx, s, s.GroupPath(name), ParseGroup, func(old Group, n Node, invalid error) (Group, []Op, error) {
		// Read before the other groups are: whoever creates a name in the meantime changes its version.
		groups, err := s.Read(ctx, s.GroupsPath())
		if err != nil {
			return old, nil, err
		}
		next := old
		next.Names, next.From = maps.Clone(old.Names), maps.Clone(old.From)
		next.Topics = slices.Clone(old.Topics)
		if err := change(&next, n, invalid); err != nil {
			return next, nil, err
		}
		if base, is := strings.CutPrefix(name, ShadowPrefix); is && !n.Exists {
			return next, nil, fmt.Errorf("%w: group name %q: %q is for shadow groups, which are derived and need no entry; put the group that is to have one (%s), and set its shadow.group, shadow.concurrency, shadow.rate",
				errs.ErrInvalid, name, ShadowPrefix, base)
		}
		next.Name = name
		next.complete()
		added, err := next.succeed(old)
		if err := errors.Join(err, next.Validate()); err != nil {
			return next, nil, err
		}
		before := old.physicalGroups()
		fresh := slices.DeleteFunc(next.physicalGroups(), func(p physicalGroup) bool { return slices.Contains(before, p) })
		if err := errors.Join(s.topicsMayBeRead(ctx, added), s.physicalGroupsFree(ctx, next, fresh)); err != nil || len(fresh) == 0 {
			return next, nil, err
		}
		return next, []Op{SetOp(groups.Path, groups.Data, groups.Version)}, nil
	})
}

// complete fills in what was left empty.
func (g *Group) complete() {
	if g.V == 0 {
		g.V = version
	}
	if g.Start == "" {
		g.Start = StartEarliest
	}
	if g.Order == "" {
		g.Order = OrderNone
	}
	if g.Concurrency == 0 {
		g.Concurrency = DefaultConcurrency
	}
}

// succeed fixes the names of g, which replaces old, and says which topics are new in it.
func (g *Group) succeed(old Group) (added []string, err error) {
	var p problems
	names := map[string]string{}
	maps.Copy(names, old.Names)
	for _, topic := range old.Topics {
		names[topic] = old.Physical(topic)
	}
	for _, topic := range slices.Sorted(maps.Keys(g.Names)) {
		if was := names[topic]; was != "" && was != g.Names[topic] {
			p.add(fmt.Sprintf("names[%q]", topic), g.Names[topic], "was fixed as %q when the topic was added; positions on the clusters belong to it. Make a new group instead", was)
			continue
		}
		names[topic] = g.Names[topic]
	}
	used := slices.Collect(maps.Values(names))
	for _, topic := range g.Topics {
		if g.Start == StartLatest && g.From[topic] == nil && old.From[topic] != nil {
			if g.From == nil {
				g.From = maps.Clone(old.From)
			}
			g.From[topic] = old.From[topic]
		}
		if slices.Contains(old.Topics, topic) {
			continue
		}
		added = append(added, topic)
		if names[topic] == "" {
			names[topic] = g.Name + "-" + topic
			if !slices.Contains(used, g.Name) {
				names[topic] = g.Name
			}
			used = append(used, names[topic])
		}
		if g.Start == StartLatest && g.From[topic] == nil {
			p.add(fmt.Sprintf("from[%q]", topic), "(none)", "start latest needs the end offsets of the topic's clusters; give them or start earliest")
		}
	}
	g.Names = names
	return added, p.err("group")
}

// topicsMayBeRead says which topics a group can not name: those that do not exist, and shadow topics.
func (s *Store) topicsMayBeRead(ctx context.Context, topics []string) error {
	var refused []error
	for _, topic := range topics {
		n, err := s.Read(ctx, s.TopicPath(topic))
		if err != nil {
			return err
		}
		if !n.Exists {
			refused = append(refused, unknownTopic(topic))
			continue
		}
		settings, err := s.settingsOf(ctx, topic)
		if err != nil {
			return err
		}
		if settings.IsShadow(topic) {
			refused = append(refused, fmt.Errorf("topics %q: %w: it is a shadow topic; name the topic itself: the shadow group that reads its shadow topic is derived", topic, errs.ErrInvalid))
		}
	}
	return errors.Join(refused...)
}

// physicalGroup is a name on the clusters of a group, or of its shadow group, and the field that gives it another.
type physicalGroup struct {
	name, topic, field string
}

const shadowGroupField = "shadow.group"

// physicalGroups are all that g has, also for topics that were taken out.
func (g Group) physicalGroups() (all []physicalGroup) {
	g.Topics = slices.Clone(g.Topics)
	for _, topic := range slices.Sorted(maps.Keys(g.Names)) {
		if !slices.Contains(g.Topics, topic) {
			g.Topics = append(g.Topics, topic)
		}
	}
	// As if every topic were its own shadow topic: the names do not depend on that. One that is too long nobody can take.
	derived, _ := g.ShadowGroup(func(topic string) TopicSettings {
		return TopicSettings{Shadow: ShadowTopic{Topic: topic, Enabled: true}}
	})
	for _, topic := range g.Topics {
		all = append(all, physicalGroup{g.Physical(topic), topic, "names"})
		if name := derived.Names[topic]; name != "" {
			all = append(all, physicalGroup{name, topic, shadowGroupField})
		}
	}
	return all
}

// physicalGroupsFree is ErrConflict when a name of fresh, which are some of g's, has another use in any group or shadow group,
// whatever that reads: RocketMQ divides queues among all members of a group name.
func (s *Store) physicalGroupsFree(ctx context.Context, g Group, fresh []physicalGroup) error {
	if len(fresh) == 0 {
		return nil
	}
	var taken []error
	compare := func(other Group) {
		for _, theirs := range other.physicalGroups() {
			for _, p := range fresh {
				if p.name != theirs.name || other.Name == g.Name && p == theirs {
					continue
				}
				owner := "group " + other.Name
				if theirs.field == shadowGroupField {
					owner = "the shadow group of " + other.Name
				}
				taken = append(taken, fmt.Errorf("%s %q for topic %s: %w: it is the name of %s; choose another in %s", p.field, p.name, p.topic, errs.ErrConflict, owner, p.field))
			}
		}
	}
	compare(g)
	err := s.eachGroup(ctx, g.Name, compare)
	return errors.Join(append(taken, err)...)
}

// DeleteGroup removes a group; its positions on the clusters stay. ErrUnknownGroup; ErrConflict while a participant is a member.
func (s *Store) DeleteGroup(ctx context.Context, name string) error {
	if err := CheckName("group", name); err != nil {
		return err
	}
	n, err := s.fresh(ctx, s.GroupPath(name))
	if err != nil {
		return err
	}
	if !n.Exists {
		return unknownGroup(name)
	}
	g, err := ParseGroup(n.Data)
	if err != nil {
		return s.Delete(ctx, n.Path, n.Version) // nobody can have applied it
	}
	var members []string
	for _, topic := range g.Topics {
		entries, err := s.ListParticipants(ctx, topic)
		if err != nil {
			return err
		}
		for _, e := range entries {
			if _, ok := e.Groups[name]; ok {
				members = append(members, e.ID)
			}
		}
	}
	if len(members) > 0 {
		slices.Sort(members)
		return fmt.Errorf("group %s: %w: %q are members; stop them first", name, errs.ErrConflict, slices.Compact(members))
	}
	return s.Delete(ctx, n.Path, n.Version)
}
