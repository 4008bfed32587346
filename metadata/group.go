package metadata

import (
	"fmt"
	"maps"
	"path"
	"slices"

	"github.com/turnout-mq/turnout/broker"
)

// Start says where a group begins that has no position yet.
type Start string

// The starts.
const (
	StartEarliest Start = "earliest" // at the lowest start of the topic's stays
	StartLatest   Start = "latest"   // at Group.From, the end offsets when it was registered; never at "the end now"
)

// Group is a consumer group. Node: groups/{group}.
type Group struct {
	Name        string                               `json:"-"` // set by the Store
	V           int                                  `json:"v"`
	App         string                               `json:"app"` // who owns the group; may be ""
	Topics      []string                             `json:"topics"`
	Names       map[string]string                    `json:"names"`       // topic → group on the clusters; fixed at creation
	Start       Start                                `json:"start"`       // default earliest
	From        map[string]map[string]broker.Offsets `json:"from"`        // with StartLatest: topic → cluster → end offsets at registration
	Order       Order                                `json:"order"`       // default none
	Concurrency int                                  `json:"concurrency"` // messages handled at once in an instance. Default 8
	Rate        float64                              `json:"rate"`        // messages a second in an instance; 0: no limit
	Paused      bool                                 `json:"paused"`
	Tags        string                               `json:"tags"` // "": all; else tags separated by ||
	Retry       RetryPolicy                          `json:"retry"`
	Shadow      ShadowLimits                         `json:"shadow,omitzero"`
	Extra       Extra                                `json:"-"`
}

// RetryPolicy says how often a message is handled again.
type RetryPolicy struct {
	Max   int   `json:"max"` // rounds through the retry topic before the dead letters, 0 to 16. Default 16
	Extra Extra `json:"-"`
}

// The default settings of a group.
const (
	DefaultConcurrency = 8
	DefaultRetryMax    = 16
	maxConcurrency     = 10_000
)

// DefaultGroup is a group without topics, with every default.
func DefaultGroup() Group {
	return Group{V: version, Start: StartEarliest, Order: OrderNone, Concurrency: DefaultConcurrency, Retry: RetryPolicy{Max: DefaultRetryMax}}
}

// ParseGroup reads a Group.
func ParseGroup(data []byte) (Group, error) {
	g := DefaultGroup()
	err := parseDocument("group", data, &g, true)
	return g, err
}

// Physical is the name of the group for topic on the clusters; "" when the group does not read topic. RocketMQ divides
// queues among all members of a group, whatever they read, so each topic has a group of its own.
func (g Group) Physical(topic string) string {
	if name := g.Names[topic]; name != "" {
		return name
	}
	switch i := slices.Index(g.Topics, topic); {
	case i < 0:
		return ""
	case i == 0:
		return g.Name
	}
	return g.Name + "-" + topic
}

// StartOn is where the group begins on a cluster in partitions of topic without a committed position (protocol R12): at the
// lowest start of all listed stays there, in whatever order they are listed, and with StartLatest not before where the topic
// ended when the group was registered. A partition that is not named begins at its first message.
func (g Group) StartOn(route *Route, topic, cluster string) broker.Offsets {
	var start broker.Offsets
	for _, s := range route.Stays {
		switch {
		case s.Cluster != cluster:
		case start == nil:
			start = broker.Offsets{}
			maps.Copy(start, s.Start)
		default:
			maps.DeleteFunc(start, func(name string, _ int64) bool { _, named := s.Start[name]; return !named })
			for name := range start {
				start[name] = min(start[name], s.Start[name])
			}
		}
	}
	if start == nil {
		start = broker.Offsets{}
	}
	if g.Start == StartLatest {
		for name, offset := range g.From[topic][cluster] {
			start[name] = max(start[name], offset)
		}
	}
	return start
}

// Validate names every bad field.
func (g Group) Validate() error {
	var p problems
	p.version(g.V)
	if g.App != "" {
		p.name("app", g.App)
	}
	if len(g.Topics) == 0 {
		p.add("topics", g.Topics, "must have at least one topic")
	}
	physical := map[string]string{}
	for i, topic := range g.Topics {
		field := fmt.Sprintf("topics[%d]", i)
		p.name(field, topic)
		if slices.Index(g.Topics, topic) < i {
			p.add(field, topic, "is listed twice; remove one")
			continue
		}
		name := g.Physical(topic)
		if other, taken := physical[name]; taken && name != "" {
			p.add(fmt.Sprintf("names[%q]", topic), name, "is the name for topic %s already", other)
		}
		physical[name] = topic
		if len(name) > 120 {
			p.add(fmt.Sprintf("names[%q]", topic), name, "is longer than 120; give a shorter one in names")
		}
	}
	for _, topic := range slices.Sorted(maps.Keys(g.Names)) {
		p.name("names", topic)
		p.physical(fmt.Sprintf("names[%q]", topic), g.Names[topic])
	}
	if g.Start != StartEarliest && g.Start != StartLatest {
		p.add("start", string(g.Start), `must be "earliest" or "latest"`)
	}
	for _, topic := range slices.Sorted(maps.Keys(g.From)) {
		for _, cluster := range slices.Sorted(maps.Keys(g.From[topic])) {
			p.offsets(fmt.Sprintf("from[%q][%q]", topic, cluster), g.From[topic][cluster])
		}
	}
	p.order(g.Order)
	if g.Concurrency < 1 || g.Concurrency > maxConcurrency {
		p.add("concurrency", g.Concurrency, "must be 1 to %d", maxConcurrency)
	}
	if g.Rate < 0 {
		p.add("rate", g.Rate, "must be 0 (no limit) or more")
	}
	if g.Retry.Max < 0 || g.Retry.Max > DefaultRetryMax {
		p.add("retry.max", g.Retry.Max, "must be 0 to %d", DefaultRetryMax)
	}
	if g.Shadow.Group != "" {
		p.physical("shadow.group", g.Shadow.Group)
	}
	if g.Shadow.Concurrency < 0 || g.Shadow.Concurrency > maxConcurrency {
		p.add("shadow.concurrency", g.Shadow.Concurrency, "must be 0 (as the group) to %d", maxConcurrency)
	}
	if g.Shadow.Rate < 0 {
		p.add("shadow.rate", g.Shadow.Rate, "must be 0 (no limit) or more")
	}
	return p.err("group")
}

func (g *Group) locate(n Node) { g.Name = path.Base(n.Path) }

// MarshalJSON writes the document with its Extra.
func (g Group) MarshalJSON() ([]byte, error) { return encodeObject(g, g.Extra) }

// UnmarshalJSON reads it without validating.
func (g *Group) UnmarshalJSON(b []byte) (err error) {
	g.Extra, err = decodeObject(b, g)
	return err
}

// MarshalJSON writes it with its Extra.
func (r RetryPolicy) MarshalJSON() ([]byte, error) { return encodeObject(r, r.Extra) }

// UnmarshalJSON reads it without validating.
func (r *RetryPolicy) UnmarshalJSON(b []byte) (err error) {
	r.Extra, err = decodeObject(b, r)
	return err
}
