package migrate

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"

	"github.com/turnout-mq/turnout/admin/store"
	"github.com/turnout-mq/turnout/broker"
	"github.com/turnout-mq/turnout/metadata"
)

// What must hold after every step, and in the end.

// begins checks the order (G2) when a listener is given a message.
func (w *world) begins(r *reader, id string) {
	m := w.message(id)
	began := r.group.Name + " " + id
	if m == nil || w.began[began] || !r.ordered() || w.edited || m.late {
		return
	}
	w.began[began] = true
	for _, b := range m.before {
		if !b.late && !w.handled[r.group.Name][b.id] {
			w.fail("G2: %s begins %s before %s, whose send had returned before, was handled", r.group.Name, id, b.id)
		}
	}
}

func (w *world) message(id string) *message {
	for _, m := range w.messages {
		if m.id == id {
			return m
		}
	}
	return nil
}

// sealed says whether writers of a cluster are to be refused because its end was read.
func (w *world) sealed(cluster string) bool {
	for _, row := range w.migrations() {
		m, err := decode(row)
		w.must(err)
		if m.data.Target.Cluster == cluster {
			return false
		}
		back := m.state() == Reverting || m.EndedAt != nil && m.Outcome != store.Done && !m.data.Reverse
		if src := m.data.source(cluster); src != nil && !back && src.Sealed != nil {
			return true
		}
	}
	return false
}

// migrations are those of the topic, the newest first, read once after each change.
func (w *world) migrations() []*store.Migration {
	if w.stirred || w.all == nil {
		list, err := w.db.Migrations(w.ctx, store.Filter{Topic: topicName})
		w.must(err)
		w.all, w.stirred = list, false
	}
	return w.all
}

// open is the migration that runs, or nil.
func (w *world) open() *store.Migration {
	if all := w.migrations(); len(all) > 0 && all[0].EndedAt == nil {
		return all[0]
	}
	return nil
}

// observe looks at what the controllers have stored.
func (w *world) observe() {
	if !w.stirred {
		return
	}
	for _, row := range w.migrations() {
		before := w.rows[row.ID]
		w.rows[row.ID] = row
		if before == nil || before.Version == row.Version {
			continue
		}
		if before.State != row.State {
			w.edges(row.ID)
		}
		if before.EndedAt == nil && row.EndedAt != nil {
			w.ended(row)
		}
	}
	w.route()
}

// route: nobody is sent to a cluster that is to be closed (R9), but while sends pause or what is to be closed is about to be
// left.
func (w *world) route() {
	t := w.look()
	if m := w.open(); m != nil && (m.State == string(Planned) /* it has taken over */ || m.State == string(Holding) || m.State == string(Fencing) || m.State == string(Reverting) || m.State == string(Switching) && t.Route.Write != m.Target) {
		return
	}
	for _, cluster := range w.names {
		if f, err := w.db.FenceOf(w.ctx, cluster, topicName); err == nil && f.Wanted && t.Route.Writes(cluster) {
			w.fail("fence: the route writes %s, which is to be closed", cluster)
		}
	}
}

// edges looks at the states that a migration has gone through since the last look.
func (w *world) edges(id string) {
	events, err := w.db.Events(w.ctx, id, w.told[id], 0)
	w.must(err)
	for _, e := range events {
		w.told[id] = e.Seq
		var edge struct{ From, To State }
		if e.Kind != "state" || json.Unmarshal(e.Data, &edge) != nil || edge.From == "" {
			continue
		}
		w.note("    %s: %s → %s", id, edge.From, e.Text)
		if !Allowed(edge.From, edge.To) {
			w.fail("edge: %s went from %s to %s", id, edge.From, edge.To)
		}
	}
}

// ended holds a receipt against what is really there.
func (w *world) ended(row *store.Migration) {
	doc, err := w.db.Receipt(w.ctx, row.ID)
	if err != nil {
		w.fail("receipt: %s has none: %v", row.ID, err)
		return
	}
	var r Receipt
	w.must(json.Unmarshal(doc.Doc, &r))
	for _, l := range r.Left {
		free := l.Drained != nil && len(l.Sleeping) == 0 && l.Cluster != r.To
		if r.Free && !free && l.Cluster != r.To {
			w.fail("receipt: %s is free, and %s is not", row.ID, l.Cluster)
		}
		if free {
			w.checkRead(l.Cluster, "receipt: "+row.ID+" says that everything on "+l.Cluster+" was read")
		}
	}
}

// checkRead says what nobody has handled on a cluster.
func (w *world) checkRead(cluster, claim string) {
	mem := w.clusters[cluster]
	for _, p := range mem.Partitions(topicName) {
		for at := int64(0); ; at++ {
			rec, ok := mem.At(topicName, p, at)
			if !ok {
				break
			}
			m := w.message(rec.ID)
			for group, handled := range w.handled {
				if m != nil && !m.late && !handled[m.id] {
					w.fail("%s, and group %s has not handled %s (%s@%d)", claim, group, m.id, p, at)
				}
			}
		}
	}
}

// rest lets everybody go on without faults, in turn, until there is nothing to do any more.
func (w *world) rest() {
	w.calm, w.stopped = true, ""
	const rounds = 600
	for round := range rounds {
		if w.bad != "" {
			return
		}
		if round == 15 {
			w.dead = ""
		}
		if round == 20 {
			for _, name := range w.names {
				if len(w.clusters[name].Partitions(topicName)) == 0 {
					w.must(w.clusters[name].Connect(nil).CreateTopic(w.ctx, topicName, broker.TopicSpec{Partitions: w.Partitions}))
				}
			}
		}
		if round == 30 { // those that were accepted as asleep have slept for long enough
			for _, r := range w.readers {
				r.asleep = false
			}
		}
		if m := w.open(); m != nil && m.State == string(Canarying) && round%10 == 5 { // it waits for that
			w.promote(m, nil)
		}
		if m := w.open(); m != nil && strings.Contains(m.Waiting, "without Turnout") {
			w.must(w.service.Resume(w.ctx, m.ID, "op", ForeignWriters))
			w.stirred = true
		}
		for _, a := range w.actors() {
			w.step++
			w.let(a)
		}
		if round%10 == 9 && w.unrest() == "" {
			return
		}
	}
	w.fail("stuck: %s", w.unrest())
}

// unrest says what is not finished.
func (w *world) unrest() string {
	if m := w.open(); m != nil {
		return fmt.Sprintf("%s is in state %s: %s", m.ID, m.State, m.Waiting)
	}
	for _, s := range w.senders {
		if s.cur != nil {
			return fmt.Sprintf("%s can not send %s (goes to %q, refused %v, held %v)", s.id, s.cur.id, s.target, s.refused, s.held)
		}
	}
	if len(w.ghosts)+len(w.late) > 0 {
		return "calls are under way"
	}
	t := w.look()
	if !metadata.Answered(t.Route, t.WishNode) {
		return "the wish is not answered"
	}
	if t.Wish.Cluster != t.Route.Write {
		return fmt.Sprintf("the wish is %s and the route writes %s", t.Wish.Cluster, t.Route.Write)
	}
	if len(t.Route.Stays) != 1 || t.Route.Hold != nil || len(t.Route.Dead) > 0 {
		return "the route is " + describeRoute(*t.Route)
	}
	if err := w.warm(t.Route.Write); err != nil {
		return "the cluster that is written: " + err.Error()
	}
	fences, err := w.db.Fences(w.ctx)
	w.must(err)
	for _, f := range fences {
		info, err := w.clusters[f.Cluster].Connect(nil).DescribeTopic(context.Background(), f.Physical)
		if err == nil && info.Fenced != f.Wanted {
			return fmt.Sprintf("fence: wanted of %s is %v, and it is %v", f.Cluster, f.Wanted, info.Fenced)
		}
	}
	for group, handled := range w.handled {
		for _, m := range w.messages {
			if m.returned && !handled[m.id] {
				return fmt.Sprintf("G1: %s was not handled by %s", m.id, group)
			}
		}
	}
	return ""
}
