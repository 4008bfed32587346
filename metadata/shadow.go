package metadata

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/turnout-mq/turnout/internal/errs"
)

// ShadowPrefix makes a shadow name of a topic's or group's name.
const ShadowPrefix = "shadow_"

// ShadowTopic says where messages with the stress mark go.
type ShadowTopic struct {
	Topic   string `json:"topic"`   // "": the topic's name with ShadowPrefix
	Enabled bool   `json:"enabled"` // false: they are refused. Default true
	Extra   Extra  `json:"-"`
}

// ShadowLimits are the settings of a group's shadow group.
type ShadowLimits struct {
	Group       string  `json:"group"`       // its name on the clusters, with "-{topic}" where the group's has it. "": the group's names with ShadowPrefix
	Concurrency int     `json:"concurrency"` // messages handled at once in an instance. 0: as the group
	Rate        float64 `json:"rate"`        // messages a second in an instance; 0: no limit
	Extra       Extra   `json:"-"`
}

// IsShadow says that topic, which has these settings, is a shadow topic: only messages with the stress mark go there.
func (s TopicSettings) IsShadow(topic string) bool {
	return s.ShadowOf != "" || strings.HasPrefix(topic, ShadowPrefix)
}

// ShadowName is the shadow topic of topic, which has these settings; a shadow topic is its own. ErrNoShadow: its settings
// say that it has none, or it would have a name that is too long.
func (s TopicSettings) ShadowName(topic string) (string, error) {
	name := s.Shadow.Topic
	switch {
	case s.IsShadow(topic):
		return topic, nil
	case !s.Shadow.Enabled:
		return "", fmt.Errorf("topic %q: %w: settings shadow.enabled is false; set it to true", topic, errs.ErrNoShadow)
	case name == "":
		name = ShadowPrefix + topic
	}
	if err := CheckName("shadow topic", name); err != nil {
		return "", fmt.Errorf("topic %q: %w: %w; give a shorter one in settings shadow.topic", topic, errs.ErrNoShadow, err)
	}
	return name, nil
}

// ShadowGroup is the shadow group of a group.
type ShadowGroup struct {
	Group
	Of map[string]string // shadow topic → topic
}

// ShadowGroupName is the name of the shadow group of group in participant nodes and reports.
func ShadowGroupName(group string) string { return ShadowPrefix + group }

// ShadowGroup makes the shadow group of g, which reads the shadow topics of its topics. settings gives the settings of a
// topic. ErrNoShadow: no topic of g has a shadow topic, with the reasons. ErrInvalid: a name that is taken or too long.
func (g Group) ShadowGroup(settings func(topic string) TopicSettings) (ShadowGroup, error) {
	s := ShadowGroup{Group: DefaultGroup(), Of: map[string]string{}}
	s.Name, s.App, s.Order, s.Tags, s.Retry = ShadowGroupName(g.Name), g.App, g.Order, g.Tags, g.Retry
	s.Concurrency, s.Rate = g.Concurrency, g.Shadow.Rate
	if g.Shadow.Concurrency > 0 {
		s.Concurrency = g.Shadow.Concurrency
	}
	s.Names = map[string]string{}
	var without []error
	var p problems
	for _, topic := range g.Topics {
		name, err := settings(topic).ShadowName(topic)
		if err != nil {
			without = append(without, err)
			continue
		}
		if other := s.Of[name]; other != "" {
			p.add("settings shadow.topic of "+topic, name, "is the shadow topic of %s too; give each topic its own", other)
			continue
		}
		physical := ShadowPrefix + g.Physical(topic)
		if g.Shadow.Group != "" { // it depends on the fixed name, not on the place in the list, because positions belong to it
			physical = g.Shadow.Group
			if g.Physical(topic) == g.Name+"-"+topic {
				physical += "-" + topic
			}
		}
		for _, other := range s.Topics {
			if s.Names[other] == physical {
				p.add("shadow.group", g.Shadow.Group, "gives %s and %s the same name; leave it empty", other, name)
			}
		}
		if len(physical) > 120 {
			p.add("the group's name for the shadow of "+topic, physical, "is longer than 120; give a shorter one in shadow.group")
		}
		s.Topics, s.Of[name], s.Names[name] = append(s.Topics, name), topic, physical
	}
	if err := p.err("shadow group of " + g.Name); err != nil {
		return s, err
	}
	if len(s.Topics) == 0 {
		return s, fmt.Errorf("shadow group of %s: %w: %w", g.Name, errs.ErrNoShadow, errors.Join(without...))
	}
	return s, nil
}

// ShadowFlag is what a node {ShadowRoot}/{app}/{task}/{group} says. Anybody may write them.
type ShadowFlag struct {
	Enabled bool
	Problem string // why data that is there does not count; "" when it does, or is blank
	Extra   Extra  // the other fields
}

// flagField is the one that decides.
const flagField = "enable"

// ParseShadowFlag reads a flag; it never fails. A JSON object enables unless its field enable is absent, null, "", "0", 0 or
// false. Whatever else is in the node does not.
func ParseShadowFlag(data []byte) ShadowFlag {
	if len(bytes.TrimSpace(data)) == 0 {
		return ShadowFlag{}
	}
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(data, &fields); err != nil || fields == nil {
		return ShadowFlag{Problem: fmt.Sprintf(`%s is no JSON object; write {"enable":"1"}`, show(json.RawMessage(data)))}
	}
	value := fields[flagField]
	delete(fields, flagField)
	return ShadowFlag{Enabled: enables(value), Extra: fields}
}

// enables says whether a value of the field enable starts a shadow group.
func enables(value json.RawMessage) bool {
	if value == nil {
		return false
	}
	var v any
	if err := json.Unmarshal(value, &v); err != nil {
		return true // a number that is too large for us
	}
	switch v := v.(type) {
	case nil:
		return false
	case bool:
		return v
	case float64:
		return v != 0
	case string:
		return v != "" && v != "0"
	}
	return true
}

// MarshalJSON writes what ParseShadowFlag reads, with Extra.
func (f ShadowFlag) MarshalJSON() ([]byte, error) {
	fields := maps.Clone(f.Extra)
	if fields == nil {
		fields = Extra{}
	}
	fields[flagField] = json.RawMessage(`"0"`)
	if f.Enabled {
		fields[flagField] = json.RawMessage(`"1"`)
	}
	return json.Marshal(map[string]json.RawMessage(fields))
}

// PutShadowFlag starts or stops the shadow group of a group for a task, creating what is missing of the path. Other fields
// of the node are kept; data that is no JSON object is replaced. ErrInvalid: a name that is not acceptable.
func (s *Store) PutShadowFlag(ctx context.Context, app, task, group string, enable bool) error {
	if err := checkFlag(app, task, group); err != nil {
		return err
	}
	path := s.ShadowPath(app, task, group)
	for {
		n, err := s.fresh(ctx, path)
		if err != nil {
			return err
		}
		flag := ParseShadowFlag(n.Data)
		if n.Exists && flag.Enabled == enable && flag.Problem == "" && len(bytes.TrimSpace(n.Data)) > 0 {
			return nil
		}
		flag.Enabled = enable
		data, err := json.Marshal(flag)
		if err != nil {
			return err
		}
		if n.Exists {
			err = s.Set(ctx, path, data, n.Version)
		} else {
			err = s.Create(ctx, path, data)
		}
		if !errors.Is(err, errs.ErrConflict) && !errors.Is(err, errs.ErrNotFound) {
			return err
		}
	}
}

// DeleteShadowFlag deletes the flag of a group for a task, which stops its shadow group unless another task enables it, and the
// task's node when nothing is left in it and below it. ErrInvalid: a name that is not acceptable. ErrNotFound: there is no
// such flag. ErrConflict: somebody has put nodes below it. ErrTimeout: the connection was lost, and it may be deleted or not.
func (s *Store) DeleteShadowFlag(ctx context.Context, app, task, group string) error {
	if err := checkFlag(app, task, group); err != nil {
		return err
	}
	if err := s.Delete(ctx, s.ShadowPath(app, task, group), AnyVersion); err != nil {
		return err
	}
	n, err := s.fresh(ctx, s.ShadowRoot+"/"+app+"/"+task)
	if err != nil || !n.Exists || n.NumChildren > 0 || len(bytes.TrimSpace(n.Data)) > 0 {
		return err
	}
	err = s.Delete(ctx, n.Path, n.Version)
	if errors.Is(err, errs.ErrConflict) || errors.Is(err, errs.ErrNotFound) { // somebody uses it again, or was faster
		return nil
	}
	return err
}

func checkFlag(app, task, group string) error {
	var p problems
	p.name("application", app)
	p.name("task", task)
	p.name("group", group)
	return p.err("shadow flag")
}

// ShadowFlagEntry is a flag and where it is.
type ShadowFlagEntry struct {
	App, Task, Group string
	ShadowFlag
	Node Node
}

// ListShadowFlags lists the flags of an application, of all when app is "", by application, task and group. Nodes that are at no
// place of a flag are left out.
func (s *Store) ListShadowFlags(ctx context.Context, app string) ([]ShadowFlagEntry, error) {
	apps := []string{app}
	if app == "" {
		var err error
		if apps, err = s.list(ctx, s.ShadowRoot); err != nil {
			return nil, err
		}
	}
	var all []ShadowFlagEntry
	for _, app := range apps {
		tasks, err := s.list(ctx, s.ShadowRoot+"/"+app)
		if err != nil {
			return nil, err
		}
		for _, task := range tasks {
			groups, err := s.list(ctx, s.ShadowRoot+"/"+app+"/"+task)
			if err != nil {
				return nil, err
			}
			for _, group := range groups {
				n, err := s.Read(ctx, s.ShadowPath(app, task, group))
				if err != nil {
					return nil, err
				}
				if n.Exists && ValidName(app) && ValidName(task) && ValidName(group) {
					all = append(all, ShadowFlagEntry{app, task, group, ParseShadowFlag(n.Data), n})
				}
			}
		}
	}
	slices.SortFunc(all, func(a, b ShadowFlagEntry) int {
		return slices.Compare([]string{a.App, a.Task, a.Group}, []string{b.App, b.Task, b.Group})
	})
	return all, nil
}

// ShadowState says what an instance makes of a group's shadow flags.
type ShadowState string

// The states.
const (
	ShadowStarted  ShadowState = "started"  // it is a member on every cluster that it has to read
	ShadowStarting ShadowState = "starting" // on its way there
	ShadowFailed   ShadowState = "failed"   // Reason says why it is not there; it goes on trying
	ShadowStopping ShadowState = "stopping" // listeners finish
	ShadowStopped  ShadowState = "stopped"
	ShadowIgnored  ShadowState = "ignored" // the instance does not subscribe the group
)

// ShadowReport is what an instance says of the shadow group of a group.
type ShadowReport struct {
	State  ShadowState `json:"state"`
	Reason string      `json:"reason,omitempty"`
	Tasks  []string    `json:"tasks,omitempty"` // that enable it, sorted
	At     time.Time   `json:"at,omitzero"`     // since when it is so; zero: ignored
}

// MarshalJSON writes it with its Extra.
func (s ShadowTopic) MarshalJSON() ([]byte, error) { return encodeObject(s, s.Extra) }

// UnmarshalJSON reads it without validating.
func (s *ShadowTopic) UnmarshalJSON(b []byte) (err error) {
	s.Extra, err = decodeObject(b, s)
	return err
}

// MarshalJSON writes it with its Extra.
func (s ShadowLimits) MarshalJSON() ([]byte, error) { return encodeObject(s, s.Extra) }

// UnmarshalJSON reads it without validating.
func (s *ShadowLimits) UnmarshalJSON(b []byte) (err error) {
	s.Extra, err = decodeObject(b, s)
	return err
}
