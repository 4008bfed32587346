package metadata

import (
	"fmt"
	"maps"
	"slices"

	"github.com/turnout-mq/turnout/broker"
)

// Route is what is in force for a topic; the SDK obeys it and nothing else. Node: topics/{topic}/route.
type Route struct {
	V         int      `json:"v"`
	Wish      WishRef  `json:"wish"`      // the wish that it answers
	Write     string   `json:"write"`     // the cluster that sends go to; it has a stay without end
	Order     Order    `json:"order"`     // default none
	Hold      *Hold    `json:"hold"`      // not nil: sends pause
	Warm      []string `json:"warm"`      // clusters to prepare
	Migration string   `json:"migration"` // the migration that wrote it, or ""
	Canary    *Canary  `json:"canary"`    // not nil: part of the sends goes elsewhere
	Stays     []Stay   `json:"stays"`     // in the order in which the topic was on them
	// Dead are clusters that are given up for now: sends under way there are taken back and repeated on Write, and nobody waits
	// for them or for readers there (R31). Their stays are as they were. In a node the field is absent when there are none.
	Dead  []string `json:"dead,omitzero"`
	Extra Extra    `json:"-"`
}

// WishRef names a wish: by the creation of its node and the version of the node's data.
//
// In a node Czxid 0 says that the wish was created in one multi with this route, whose mzxid it then is. A Route that
// comes from the Store has the number in its place; one from ParseRoute has not.
type WishRef struct {
	Czxid   Zxid  `json:"czxid"`
	Version int32 `json:"version"`
}

// Hold asks senders to pause.
type Hold struct {
	MS int64 `json:"ms"` // for at most so many milliseconds
	// Keys, first and last of a range of key hashes, says that only sends with such keys pause (see KeyHash). Whoever lets
	// them go on when the time is over takes the hold off the route first: no cluster refuses what should not have gone.
	Keys  []int `json:"keys,omitzero"`
	Extra Extra `json:"-"`
}

// Stay is the time that a topic spent on a cluster, which may still hold unread messages.
type Stay struct {
	Cluster string `json:"cluster"`
	// Start is where a group without a position begins. A partition that it does not name begins at its first message;
	// empty: none is named; nil: the first stay of the topic.
	Start broker.Offsets `json:"start,omitzero"`
	// End is the seal: nothing from there on belongs to the stay. nil: open.
	End   broker.Offsets `json:"end,omitzero"`
	Extra Extra          `json:"-"`
}

// Open says that the stay has no end yet.
func (s Stay) Open() bool { return s.End == nil }

// ParseRoute reads a Route.
func ParseRoute(data []byte) (Route, error) {
	r := Route{V: version, Order: OrderNone}
	err := parseDocument("route", data, &r, true)
	return r, err
}

// Validate names every bad field.
func (r Route) Validate() error {
	var p problems
	p.version(r.V)
	if r.Wish.Czxid < 0 {
		p.add("wish.czxid", int64(r.Wish.Czxid), "must be 0 or more")
	}
	if r.Wish.Version < 0 {
		p.add("wish.version", r.Wish.Version, "must be 0 or more")
	}
	p.name("write", r.Write)
	p.order(r.Order)
	if r.Hold != nil && r.Hold.MS <= 0 {
		p.add("hold.ms", r.Hold.MS, "must be more than 0")
	}
	if r.Hold != nil {
		p.keys("hold.keys", r.Hold.Keys)
	}
	for i, name := range r.Warm {
		p.name(fmt.Sprintf("warm[%d]", i), name)
	}
	for i, name := range r.Dead {
		p.name(fmt.Sprintf("dead[%d]", i), name)
		if r.Writes(name) {
			p.add(fmt.Sprintf("dead[%d]", i), name, "is a cluster that sends go to; leave it out, or write to another one")
		}
	}
	r.validateStays(&p)
	r.validateCanary(&p)
	return p.err("route")
}

func (r Route) validateStays(p *problems) {
	open := map[string]int{}
	for i, s := range r.Stays {
		field := fmt.Sprintf("stays[%d]", i)
		p.name(field+".cluster", s.Cluster)
		p.offsets(field+".start", s.Start)
		p.offsets(field+".end", s.End)
		for _, part := range s.End.Names() {
			if s.End[part] < s.Start[part] {
				p.add(field+".end", s.End[part], "partition %q ends before its start %d", part, s.Start[part])
			}
		}
		if s.Open() {
			if open[s.Cluster]++; open[s.Cluster] == 2 {
				p.add(field, s.Cluster, "a cluster may have one stay without end; remove one or give it its end")
			}
		}
	}
	if ValidName(r.Write) && open[r.Write] == 0 {
		p.add("write", r.Write, "needs a stay without end, or what is sent there is never read")
	}
}

func (p *problems) offsets(field string, o broker.Offsets) {
	for _, part := range o.Names() {
		if part == "" || o[part] < 0 {
			p.add(field, fmt.Sprintf("%q: %d", part, o[part]), "must name partitions and be 0 or more")
		}
	}
}

// Clone returns a deep copy, except for Extra, which is never changed in place.
func (r Route) Clone() Route {
	if r.Hold != nil {
		h := *r.Hold
		h.Keys = slices.Clone(h.Keys)
		r.Hold = &h
	}
	if r.Canary != nil {
		c := *r.Canary
		c.Instances, c.Keys = slices.Clone(c.Instances), slices.Clone(c.Keys)
		r.Canary = &c
	}
	r.Warm, r.Dead = slices.Clone(r.Warm), slices.Clone(r.Dead)
	r.Stays = slices.Clone(r.Stays)
	for i := range r.Stays {
		r.Stays[i].Start, r.Stays[i].End = r.Stays[i].Start.Clone(), r.Stays[i].End.Clone()
	}
	r.Extra = maps.Clone(r.Extra)
	return r
}

// Clusters are the clusters that the route names anywhere, sorted.
func (r Route) Clusters() []string {
	names := append([]string{r.Write}, r.Warm...)
	if r.Canary != nil {
		names = append(names, r.Canary.Write)
	}
	for _, s := range r.Stays {
		names = append(names, s.Cluster)
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// locate puts the number in where the node says 0: its wish was created by the change that wrote this route.
func (r *Route) locate(n Node) {
	if r.Wish.Czxid == 0 {
		r.Wish.Czxid = n.Mzxid
	}
}

// MarshalJSON writes the document with its Extra.
func (r Route) MarshalJSON() ([]byte, error) { return encodeObject(r, r.Extra) }

// UnmarshalJSON reads it without validating.
func (r *Route) UnmarshalJSON(b []byte) (err error) {
	r.Extra, err = decodeObject(b, r)
	return err
}

// MarshalJSON writes the stay with its Extra.
func (s Stay) MarshalJSON() ([]byte, error) { return encodeObject(s, s.Extra) }

// UnmarshalJSON reads it without validating.
func (s *Stay) UnmarshalJSON(b []byte) (err error) {
	s.Extra, err = decodeObject(b, s)
	return err
}

// MarshalJSON writes the hold with its Extra.
func (h Hold) MarshalJSON() ([]byte, error) { return encodeObject(h, h.Extra) }

// UnmarshalJSON reads it without validating.
func (h *Hold) UnmarshalJSON(b []byte) (err error) {
	h.Extra, err = decodeObject(b, h)
	return err
}
