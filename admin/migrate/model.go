package migrate

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/turnout-mq/turnout/admin/store"
	"github.com/turnout-mq/turnout/broker"
	"github.com/turnout-mq/turnout/internal/errs"
	"github.com/turnout-mq/turnout/metadata"
)

// State is where a migration is.
type State string

// The states. What each writes, does at the brokers and waits for: section 5 of the protocol.
const (
	Planned   State = "planned"   // stored, nothing done; waits for approval
	Preparing State = "preparing" // the topic is on the target, everybody is warm there and attached
	Canarying State = "canary"    // a part of the sends goes to the target, until somebody promotes it or lets it go back
	Holding   State = "holding"   // ordered: sends pause
	Fencing   State = "fencing"   // ordered: the source refuses writers and is sealed, the target is open
	Switching State = "switching" // sends go to the target
	Pending   State = "pending"   // forced: sources that do not answer are waited for
	Sealing   State = "sealing"   // unordered: the sources refuse writers and are sealed
	Draining  State = "draining"  // the groups read the sources to the end
	Shutting  State = "shutting"  // sources that can not be closed while they are read are closed, and nothing has come since
	Closing   State = "closing"   // the sources leave the route
	Reverting State = "reverting" // back to where it was, nothing having gone to the target
	Done      State = "done"      // ended; the outcome says how
)

// edges are the steps that are allowed.
var edges = map[State][]State{
	Planned:   {Preparing, Switching, Done},
	Preparing: {Canarying, Holding, Switching, Reverting, Done},
	Canarying: {Holding, Switching, Preparing, Reverting},
	Holding:   {Canarying, Fencing, Switching, Reverting},
	Fencing:   {Canarying, Switching, Reverting},
	Switching: {Pending, Sealing, Draining, Preparing, Switching},
	Pending:   {Sealing, Switching},
	Sealing:   {Draining, Preparing, Switching},
	Draining:  {Shutting, Closing, Preparing, Switching},
	Shutting:  {Draining, Closing, Preparing, Switching},
	Closing:   {Done, Preparing, Switching},
	Reverting: {Done, Switching},
	Done:      {},
}

// Allowed says whether a migration may go from one state to another.
func Allowed(from, to State) bool { return slices.Contains(edges[from], to) }

// Plan is what was agreed upon before a migration began.
type Plan struct {
	Topic string `json:"topic"`
	To    string `json:"to"` // cluster
	// Ordered keeps the order per key. Only a topic with order "key" can; default: whether it has.
	Ordered bool `json:"ordered"`
	// Create makes the topic on To when it is missing, with the partitions and settings of where it is now.
	Create     bool `json:"create"`
	Partitions int  `json:"partitions,omitempty"` // of a topic that is created; 0: as many as there are now
	// Canary is a part of the sends that goes to To first, and alone until it is promoted. nil: everything goes at once.
	Canary *Canary `json:"canary,omitempty"`
	// Hold is how long sends of an ordered topic may pause at most, in ms. Default 3000.
	Hold int64 `json:"holdMs,omitempty"`
	// Force moves it away from a cluster that does not answer: sends go to To at once, and the cluster is closed, read and left
	// when it answers again (R31).
	Force bool `json:"force,omitempty"`
	// Dead are the clusters that a forced move gives up for now. Filled in by the preflight.
	Dead []string `json:"dead,omitempty"`
	// Accept names the warnings that do not stop it, by code; "all" accepts every warning.
	Accept []string `json:"accept,omitempty"`
	// Guards watch it.
	Guards []Guard `json:"guards,omitempty"`
	// Sleeping are groups that had nobody when the plan was made, and whose messages stay on the source until they wake.
	// Filled in by the preflight.
	Sleeping []string `json:"sleeping,omitempty"`
	// Foreign are groups on the source that the metadata does not know. Filled in by the preflight.
	Foreign []string `json:"foreign,omitempty"`
	// Participants are those that there were. Filled in by the preflight.
	Participants []string  `json:"participants,omitempty"`
	Findings     []Finding `json:"findings,omitempty"` // of the preflight
}

// accepts says whether a warning was accepted.
func (p *Plan) accepts(code string) bool {
	return slices.Contains(p.Accept, code) || slices.Contains(p.Accept, "all")
}

// checkAccept finds words that accept nothing.
func checkAccept(accept []string) error {
	for _, code := range accept {
		if code != "all" && !slices.Contains(warnings, code) {
			return fmt.Errorf("%w: accept: %q is no warning; there are: all, %s", errs.ErrInvalid, code, strings.Join(warnings, ", "))
		}
	}
	return nil
}

// asleep says whether a group was accepted without anybody who reads for it.
func (p *Plan) asleep(group string) bool {
	return slices.Contains(p.Sleeping, group) && p.accepts(SleepingGroups)
}

// target is the cluster that is gone to.
type target struct {
	Cluster  string         `json:"cluster"`
	Physical string         `json:"physical"`
	Start    broker.Offsets `json:"start"`            // of its stay; nil: not read yet
	Listed   bool           `json:"listed,omitempty"` // it had an open stay before
	// WasFenced: it was closed to writers before, from an earlier migration.
	WasFenced bool `json:"wasFenced,omitempty"`
}

// source is a cluster that is left.
type source struct {
	Cluster  string         `json:"cluster"`
	Physical string         `json:"physical"`
	Dead     bool           `json:"dead,omitempty"`     // it does not answer: given up until it does
	Away     *time.Time     `json:"away,omitempty"`     // since then, if it ever was dead
	Back     *time.Time     `json:"back,omitempty"`     // when it answered again
	Since    broker.Offsets `json:"since,omitempty"`    // its ends when the migration began: foreign writers are looked for from here on
	Intended bool           `json:"intended,omitempty"` // that it is to be closed is stored
	// Foreign is when a message of a Stranger, who does not send with Turnout, was last found.
	Foreign  *time.Time     `json:"foreign,omitempty"`
	Stranger string         `json:"stranger,omitempty"`
	Fenced   *time.Time     `json:"fenced,omitempty"`
	Seal     broker.Offsets `json:"seal,omitempty"` // its ends behind the fence
	Sealed   *time.Time     `json:"sealed,omitempty"`
	Lost     *time.Time     `json:"lost,omitempty"` // it was given up, and is not asked again
	Drained  *time.Time     `json:"drained,omitempty"`
	Emptied  bool           `json:"emptied,omitempty"` // it was read to the end before it was closed, beside the target: readers need no seal
	Final    broker.Offsets `json:"final,omitempty"`   // up to here everything was read, or rescued
	// Groups that have come to the end, with their positions then.
	Groups   map[string]broker.Offsets `json:"groups,omitempty"`
	Sleeping []string                  `json:"sleeping,omitempty"` // groups that have not, and were accepted
	Rescued  int64                     `json:"rescued,omitempty"`
	Expired  map[string]int64          `json:"expired,omitempty"` // by group: what the cluster deleted before it was read
}

// lost says whether a cluster was given up.
func (d *data) lost(cluster string) bool {
	if src := d.source(cluster); src != nil {
		return src.Lost != nil
	}
	return slices.ContainsFunc(d.Passed, func(s source) bool { return s.Cluster == cluster && s.Lost != nil })
}

// data is what the controller knows of a migration, beside its row.
type data struct {
	Home    string   `json:"home"` // the cluster that was written when it began
	Target  target   `json:"target"`
	Sources []source `json:"sources"`
	Passed  []source `json:"passed,omitempty"`  // sources that were drained before it turned back
	Reverse bool     `json:"reverse,omitempty"` // it is on its way back
	GoBack  bool     `json:"goBack,omitempty"`  // ordered: it goes back when the drain is finished (R22)
	NoOrder string   `json:"noOrder,omitempty"` // why the order is not kept; "": it is, or was not asked for
	// TakenOver: by whose forced move it was ended.
	TakenOver string    `json:"takenOver,omitempty"`
	Entered   time.Time `json:"entered"` // into the state
	// Wish is the newest wish that is taken account of.
	Wish metadata.WishRef `json:"wish"`
	// Acks are the participants that have acknowledged in this state, and Seen all that were there in it.
	Acks map[string]time.Time `json:"acks,omitempty"`
	Seen map[string]time.Time `json:"seen,omitempty"`
	// P99 of sends to clusters that were left, when it was last known; in ms, by cluster.
	P99      map[string]float64 `json:"p99Ms,omitempty"`
	Breaches []Breach           `json:"breaches,omitempty"` // of guards, the newest last
	// Canary is nil where the plan has none.
	Canary *canary `json:"canary,omitempty"`
}

func (d *data) source(cluster string) *source {
	for i := range d.Sources {
		if d.Sources[i].Cluster == cluster {
			return &d.Sources[i]
		}
	}
	return nil
}

// left is a cluster that was left at some time of the migration.
func (d *data) left(cluster string) *source {
	if s := d.source(cluster); s != nil {
		return s
	}
	return d.passed(cluster)
}

// passed is a cluster that was drained before the migration turned back.
func (d *data) passed(cluster string) *source {
	for i := range d.Passed {
		if d.Passed[i].Cluster == cluster {
			return &d.Passed[i]
		}
	}
	return nil
}

// migration is a row with its documents read.
type migration struct {
	*store.Migration
	plan Plan
	data data
}

func decode(row *store.Migration) (*migration, error) {
	m := &migration{Migration: row}
	for _, doc := range []struct {
		name string
		raw  json.RawMessage
		into any
	}{{"plan", row.Plan, &m.plan}, {"data", row.Data, &m.data}} {
		if len(doc.raw) == 0 {
			continue
		}
		if err := json.Unmarshal(doc.raw, doc.into); err != nil {
			return nil, fmt.Errorf("migration %s: its %s can not be read: %w: %w", row.ID, doc.name, errs.ErrInvalid, err)
		}
	}
	return m, nil
}

func (m *migration) state() State { return State(m.State) }

// ordered says whether the move keeps the order per key.
func (m *migration) ordered() bool { return m.Ordered && m.data.NoOrder == "" }

// encode puts the documents into the row.
func (m *migration) encode() error {
	var err error
	if m.Plan, err = json.Marshal(m.plan); err != nil {
		return err
	}
	m.Data, err = json.Marshal(m.data)
	return err
}
