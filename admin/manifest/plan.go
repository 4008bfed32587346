package manifest

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/turnout-mq/turnout/admin/requests"
	"github.com/turnout-mq/turnout/admin/store"
)

// Action is what is to be done about a thing.
type Action string

// The actions.
const (
	Create     Action = "create"
	Change     Action = "change"
	Delete     Action = "delete"
	Equal      Action = "equal"
	Pending    Action = "pending"    // a request asks for it already
	Failed     Action = "failed"     // a request has asked for it and has failed: it can be retried
	Impossible Action = "impossible" // what differs can not be changed by apply
	Kept       Action = "kept"       // it could go, but something uses it
)

// Field is one difference.
type Field struct {
	Name string `json:"name"`
	From string `json:"from"`
	To   string `json:"to"`
	Why  string `json:"why,omitempty"` // it can not be changed by apply: why, and how it is changed
}

// Step is what is to be done about one thing.
type Step struct {
	Action  Action        `json:"action"`
	Kind    string        `json:"kind"`
	Name    string        `json:"name"`
	Line    int           `json:"line,omitempty"` // of the document
	Fields  []Field       `json:"fields,omitempty"`
	Request *requests.New `json:"request,omitempty"` // that is to be filed
	Waiting string        `json:"waiting,omitempty"` // the request of Pending and Failed
	Note    string        `json:"note,omitempty"`
}

// Blocked says that something differs that can not be changed by apply, or that an earlier request has failed.
func (s Step) Blocked() bool {
	return s.Action == Impossible || s.Action == Failed || slices.ContainsFunc(s.Fields, func(f Field) bool { return f.Why != "" })
}

// Plan is what is to be done, in the order in which it is to be filed.
type Plan struct {
	Steps []Step `json:"steps"`
}

// Count is how many steps have one of the actions.
func (p Plan) Count(actions ...Action) (n int) {
	for _, s := range p.Steps {
		if slices.Contains(actions, s.Action) {
			n++
		}
	}
	return n
}

// Differs says that something is not as the document wants it.
func (p Plan) Differs() bool { return p.Count(Equal) < len(p.Steps) }

// ToFile are the steps with a request to be filed.
func (p Plan) ToFile() (all []Step) {
	for _, s := range p.Steps {
		if s.Request != nil {
			all = append(all, s)
		}
	}
	return all
}

// Blocked is how many steps are.
func (p Plan) Blocked() (n int) {
	for _, s := range p.Steps {
		if s.Blocked() {
			n++
		}
	}
	return n
}

// Unmanaged is the state of what ZooKeeper has and the catalog has not.
const Unmanaged = "unmanaged"

// Now is what the platform has.
type Now struct {
	// Catalog is what the catalog has, and what is Unmanaged; of groups with the document.
	Catalog []*store.CatalogItem
	// Requests are those that are submitted, approved, executing or failed, the newest first.
	Requests []*store.ChangeRequest
}

// Relevant are the states of the requests of Now.
var Relevant = []store.RequestState{store.Submitted, store.Approved, store.Executing, store.RequestBad}

type thing struct{ kind, name string }

// world is Now for looking things up.
type world struct {
	items    map[thing]*store.CatalogItem
	requests map[thing]*store.ChangeRequest // the newest, by kind of the request and subject
}

func (n Now) world() world {
	w := world{map[thing]*store.CatalogItem{}, map[thing]*store.ChangeRequest{}}
	for _, i := range n.Catalog {
		w.items[thing{i.Kind, i.Name}] = i
	}
	for _, r := range n.Requests {
		key := thing{r.Kind, r.Subject}
		if w.requests[key] == nil {
			w.requests[key] = r
		}
	}
	return w
}

// Compare says what is to be done so that the platform has what the document wants. With prune, topics and groups that the
// document does not list go, of the applications that it names; clusters never do.
func (d *Document) Compare(now Now, prune bool) (Plan, error) {
	w := now.world()
	var p Plan
	for _, c := range d.Clusters {
		s, err := w.cluster(c)
		if err != nil {
			return p, err
		}
		p.Steps = append(p.Steps, s)
	}
	for _, t := range d.Topics {
		s, err := w.topic(t)
		if err != nil {
			return p, err
		}
		p.Steps = append(p.Steps, s)
	}
	for _, g := range d.Groups {
		s, err := w.group(g)
		if err != nil {
			return p, err
		}
		p.Steps = append(p.Steps, s)
	}
	if prune {
		steps, err := w.prune(d)
		if err != nil {
			return p, err
		}
		p.Steps = append(p.Steps, steps...)
	}
	return p, nil
}

// begin is the step of a thing: one that creates it if the catalog does not have it.
func (w world) begin(kind, name string, line int, request requests.New) (s Step, item *store.CatalogItem, err error) {
	s = Step{Action: Create, Kind: kind, Name: name, Line: line, Request: &request}
	item = w.items[thing{kind, name}]
	if item != nil && item.State == store.Active {
		s.Action, s.Request = Equal, nil
		return s, item, nil
	}
	if err := w.asked(&s); err != nil {
		return s, nil, err
	}
	switch {
	case item == nil || s.Action != Create:
	case item.State == Unmanaged && kind == requests.KindCluster: // is registered as any other
	case item.State == Unmanaged:
		s.Action, s.Request = Impossible, nil
		s.Note = fmt.Sprintf("ZooKeeper has it, made past the platform: adopt it (turnout drift list --name %s), then apply again", name)
	default: // nobody brings it to an end
		s.Action, s.Request = Impossible, nil
		s.Note = fmt.Sprintf("the catalog has it as %s: retry the request that has made it so (turnout request list --subject %s)", item.State, name)
	}
	return s, nil, nil
}

// asked looks whether a request asks for the same already.
func (w world) asked(s *Step) error {
	kind := s.Kind
	var wanted any
	switch r := s.Request; {
	case r.Settings != nil:
		kind, wanted = requests.KindSettings, r.Settings
	case r.Deletion != nil:
		kind, wanted = requests.KindDeletion, r.Deletion
	case r.Cluster != nil:
		wanted = r.Cluster
	case r.Topic != nil:
		wanted = r.Topic
	default:
		wanted = r.Group
	}
	r := w.requests[thing{kind, s.Name}]
	if r == nil {
		return nil
	}
	spec, err := json.Marshal(wanted)
	if err != nil {
		return err
	}
	same, err := sameJSON(spec, r.Spec)
	switch {
	case err != nil:
		return fmt.Errorf("%s: %w", r.ID, err)
	case r.State != store.RequestBad:
		s.Action, s.Note = Pending, fmt.Sprintf("%s by %s is %s", r.ID, r.Applicant, r.State)
		if !same {
			s.Note += ", and asks for something else: " + string(r.Spec)
		}
	case same:
		s.Action, s.Note = Failed, fmt.Sprintf("%s has failed: %s; turnout request retry %s", r.ID, r.Error, r.ID)
	default:
		return nil
	}
	s.Request, s.Waiting = nil, r.ID
	return nil
}

func sameJSON(a, b []byte) (bool, error) {
	var x, y any
	for _, one := range []struct {
		data []byte
		to   *any
	}{{a, &x}, {b, &y}} {
		if err := json.Unmarshal(one.data, one.to); err != nil {
			return false, err
		}
	}
	left, err := json.Marshal(x) // sorted by name
	if err != nil {
		return false, err
	}
	right, err := json.Marshal(y)
	return bytes.Equal(left, right), err
}

// differences collects what differs in the fields that a document gives.
type differences struct {
	given  map[string]bool
	fields []Field
}

// of notes a difference in a field that is given; why says that apply can not change it. It says whether there is one that it can.
func (d *differences) of(name string, from, to any, why string) (change bool) {
	if !d.given[name] {
		return false
	}
	is, wanted := text(from), text(to)
	if is == wanted {
		return false
	}
	d.fields = append(d.fields, Field{name, is, wanted, why})
	return why == ""
}

// text is a value for people. Values with the same text are equal.
func text(value any) string {
	if s, ok := value.(string); ok {
		return s
	}
	data, err := json.Marshal(value)
	if err != nil {
		return fmt.Sprint(value)
	}
	switch t := string(data); {
	case t == "null", t == "{}", t == "[]", t == `""`:
		return ""
	default:
		return strings.Trim(t, `"`)
	}
}

// end makes s the step of what was compared: request is what changes it, nil if nothing has to be filed.
func (w world) end(s Step, d differences, request *requests.New) (Step, error) {
	s.Fields = d.fields
	switch {
	case request != nil:
		s.Action, s.Request = Change, request
		return s, w.asked(&s)
	case len(d.fields) > 0:
		s.Action = Impossible
	}
	return s, nil
}
