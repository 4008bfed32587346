package migrate

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/turnout-mq/turnout/admin/store"
	"github.com/turnout-mq/turnout/broker"
	"github.com/turnout-mq/turnout/internal/clusters"
	"github.com/turnout-mq/turnout/internal/count"
	"github.com/turnout-mq/turnout/metadata"
)

// Receipt says why the clusters that a topic has left can be switched off for it, or why not.
type Receipt struct {
	Migration string        `json:"migration"`
	Topic     string        `json:"topic"`
	Outcome   store.Outcome `json:"outcome"`
	To        string        `json:"to"`
	Ordered   bool          `json:"ordered"`
	NoOrder   string        `json:"noOrder,omitempty"`   // why the order per key was not kept, though it was asked for
	TakenOver string        `json:"takenOver,omitempty"` // by whose forced move it was ended, whose receipt counts
	StartedBy string        `json:"startedBy"`
	Approved  string        `json:"approvedBy"`
	Started   time.Time     `json:"started"`
	Ended     time.Time     `json:"ended"`
	Left      []LeftCluster `json:"left"`
	Accepted  []string      `json:"accepted,omitempty"`
	Guards    []Guard       `json:"guards,omitempty"`
	Breaches  []Breach      `json:"breaches,omitempty"` // of guards
	// Canary are the parts of the sends that went to the target before the others, one after the other.
	Canary []CanaryStep `json:"canary,omitempty"`
	// Verdict for people: one sentence a cluster.
	Verdict []string `json:"verdict"`
	// Free: nothing of the topic is unread anywhere but on To.
	Free bool `json:"free"`
}

// LeftCluster is the proof for one cluster.
type LeftCluster struct {
	Cluster     string                    `json:"cluster"`
	Physical    string                    `json:"physical"`
	Fenced      *time.Time                `json:"fenced,omitempty"`
	Sealed      *time.Time                `json:"sealed,omitempty"`
	Seal        broker.Offsets            `json:"seal,omitempty"`
	Drained     *time.Time                `json:"drained,omitempty"`
	Away        *time.Time                `json:"away,omitempty"`   // it did not answer from then on, and was left by force
	Back        *time.Time                `json:"back,omitempty"`   // to then
	Lost        *time.Time                `json:"lost,omitempty"`   // or it was given up then
	Ends        broker.Offsets            `json:"ends,omitempty"`   // when it was drained, and after rescues
	Groups      map[string]broker.Offsets `json:"groups,omitempty"` // the positions of those that came to the end
	Sleeping    []string                  `json:"sleeping,omitempty"`
	Rescued     int64                     `json:"rescued,omitempty"`
	Expired     map[string]int64          `json:"expired,omitempty"`     // by group: what the cluster deleted before it was read
	DeadLetters map[string]int64          `json:"deadLetters,omitempty"` // by group, on this cluster; they stay there
}

// receipt writes what is known when a migration ends.
func (w *walk) receipt(ctx context.Context, at time.Time) (*store.Receipt, error) {
	r := w.m.proof()
	r.Ended = at
	for i := range r.Left {
		r.Left[i].DeadLetters = w.c.deadLetters(ctx, w.m.Topic, w.now.groups, &r.Left[i])
	}
	r.judge()
	return r.store()
}

// deadLetters counts what lies in the dead letters of the groups on a cluster; what can not be asked is left out.
func (c *Controller) deadLetters(ctx context.Context, topic string, groups []metadata.Group, l *LeftCluster) map[string]int64 {
	found := map[string]int64{}
	_ = c.on(ctx, l.Cluster, func(conn *clusters.Conn) error {
		for _, g := range groups {
			pending, err := conn.Pending(ctx, g.Physical(topic), l.Physical)
			if err != nil {
				return err
			}
			if pending.DeadLetters > 0 {
				found[g.Name] = pending.DeadLetters
			}
		}
		return nil
	})
	return found
}

// proof is the receipt as far as the row tells.
func (m *migration) proof() *Receipt {
	r := &Receipt{Migration: m.ID, Topic: m.Topic, Outcome: m.Outcome, To: m.data.Target.Cluster, Ordered: m.Ordered, NoOrder: m.data.NoOrder,
		StartedBy: m.StartedBy, Approved: m.ApprovedBy, Started: m.CreatedAt, Accepted: m.plan.Accept,
		Guards: m.plan.Guards, Breaches: m.data.Breaches}
	if m.EndedAt != nil {
		r.Ended = *m.EndedAt
	}
	if c := m.data.Canary; c != nil {
		r.Canary = c.Steps
	}
	if r.TakenOver = m.data.TakenOver; r.TakenOver != "" {
		return r
	}
	left := slices.Concat(m.data.Passed, m.data.Sources)
	switch {
	case m.Outcome == store.Failed: // the way back has: it is where that began, and everything else was left before
		r.To, left = m.data.Home, m.data.Passed
	case !m.data.Reverse && (m.Outcome == store.RolledBack || m.Outcome == store.Aborted) && m.Kind == store.Move:
		r.To = m.data.Home // where it has been all the time
		return r
	}
	for _, s := range left {
		if s.Cluster == r.To { // it was left and is back
			continue
		}
		r.Left = append(r.Left, LeftCluster{Cluster: s.Cluster, Physical: s.Physical, Fenced: s.Fenced, Sealed: s.Sealed, Seal: s.Seal,
			Drained: s.Drained, Away: s.Away, Back: s.Back, Lost: s.Lost, Ends: s.Final, Groups: s.Groups, Sleeping: s.Sleeping, Rescued: s.Rescued, Expired: s.Expired})
	}
	return r
}

// judge says it in sentences.
func (r *Receipt) judge() {
	r.Verdict, r.Free = nil, r.Outcome == store.Done || r.Outcome == store.RolledBack || r.Outcome == store.Failed && len(r.Left) > 0
	if r.Outcome == store.Failed {
		r.Verdict = append(r.Verdict, fmt.Sprintf("It has failed; the topic is on %s.", r.To))
	}
	for _, l := range r.Left {
		switch {
		case l.Lost != nil:
			r.Free = false
			of := source{Sealed: l.Sealed, Drained: l.Drained, Lost: l.Lost, Sleeping: l.Sleeping}
			r.Verdict = append(r.Verdict, fmt.Sprintf("%s did not answer from %s on and was given up at %s: %s. If it comes back, no group reads it there.", l.Cluster, at(l.Away), at(l.Lost), fate(of)))
		case l.Drained == nil:
			r.Free = r.Free && l.Cluster == r.To
			r.Verdict = append(r.Verdict, fmt.Sprintf("%s was not drained.", l.Cluster))
		case len(l.Sleeping) > 0:
			r.Free = false
			r.Verdict = append(r.Verdict, fmt.Sprintf("%s must stay up: group %s has not read everything there.", l.Cluster, some(l.Sleeping)))
		case l.Fenced == nil:
			r.Verdict = append(r.Verdict, fmt.Sprintf("%s does not have %s: nothing is to be read there, and what it may have had was not read.", l.Cluster, l.Physical))
		default:
			r.Verdict = append(r.Verdict, fmt.Sprintf("%s can be switched off for this topic: it refuses writers since %s, ended at %s behind that, and every group has read to that end (%s).",
				l.Cluster, at(l.Fenced), brief(l.Ends), groupsOf(l.Groups)))
		}
		if l.Away != nil && l.Back != nil {
			r.Verdict = append(r.Verdict, fmt.Sprintf("%s did not answer from %s to %s and was left by force: what it had stored of the sends that were taken back, if anything, came twice.", l.Cluster, at(l.Away), at(l.Back)))
		}
		for group, n := range l.Expired {
			r.Verdict = append(r.Verdict, fmt.Sprintf("%s had deleted %s (retention, compaction) before group %s had read there.", l.Cluster, count.Of(n, "offset", "offsets"), group))
		}
		for group, n := range l.DeadLetters {
			r.Verdict = append(r.Verdict, fmt.Sprintf("%d dead letters of group %s stay on %s.", n, group, l.Cluster))
		}
		if l.Rescued > 0 {
			r.Verdict = append(r.Verdict, fmt.Sprintf("%s written to %s after it was left, and sent on, at no place in the order.", count.Of(l.Rescued, "message was", "messages were"), l.Cluster))
		}
	}
	if r.NoOrder != "" {
		r.Verdict = append(r.Verdict, "The order per key was not kept: "+r.NoOrder+".")
	}
	if r.TakenOver != "" {
		r.Verdict = append(r.Verdict, fmt.Sprintf("A forced move of %s has taken it over: the receipt of that one counts.", r.TakenOver))
		return
	}
	if len(r.Left) == 0 && r.Outcome != store.Failed {
		r.Verdict = append(r.Verdict, fmt.Sprintf("The topic has stayed on %s; no send went elsewhere.", r.To))
	}
}

func groupsOf(m map[string]broker.Offsets) string {
	if len(m) == 0 {
		return "there is none"
	}
	return some(slices.Sorted(maps.Keys(m)))
}

func at(t *time.Time) string {
	if t == nil {
		return "never"
	}
	return t.UTC().Format(time.RFC3339)
}

func (r *Receipt) store() (*store.Receipt, error) {
	doc, err := json.Marshal(r)
	if err != nil {
		return nil, err
	}
	return &store.Receipt{Migration: r.Migration, Doc: doc}, nil
}

// amend writes the receipt of an ended migration anew, with what came after its end.
func (c *Controller) amend(ctx context.Context, m *migration) (*store.Receipt, error) {
	r := m.proof()
	old, err := c.db.Receipt(ctx, m.ID)
	if err != nil {
		return nil, err
	}
	var before Receipt
	if err := json.Unmarshal(old.Doc, &before); err != nil {
		return nil, err
	}
	for i := range r.Left {
		for _, l := range before.Left {
			if l.Cluster == r.Left[i].Cluster {
				r.Left[i].DeadLetters = l.DeadLetters
			}
		}
	}
	r.judge()
	return r.store()
}
