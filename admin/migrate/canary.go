package migrate

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/turnout-mq/turnout/admin/store"
	"github.com/turnout-mq/turnout/broker"
	"github.com/turnout-mq/turnout/internal/clusters"
	"github.com/turnout-mq/turnout/internal/errs"
	"github.com/turnout-mq/turnout/metadata"
)

// A canary (R34): a part of the sends goes to the target, and the rest on to where it goes, until somebody promotes it or lets
// it go back. Both clusters are read all the time.
//
// Of an ordered topic the part is a range of keys. It goes over when its sends pause and every group has read what they had
// stored. Nothing refuses writers then, because other keys go on; what counts on the pause is lost as soon as somebody takes
// it off the route. All other steps of an ordered canary end with a fence, behind which nothing is left (R23).

// Canary is the part of the sends that goes to the target first: one of the three.
type Canary struct {
	Percent   int      `json:"percent,omitempty" minimum:"0" maximum:"100" doc:"Of the instances that send, at least one of them: 1 to 100. The platform picks them, and others when they go."`
	Instances []string `json:"instances,omitempty" doc:"These instances, by their names among the topic's participants."`
	Keys      []int    `json:"keys,omitempty" doc:"First and last of a range of 0 to 65535: messages whose key has its hash there. The only one for a topic whose order is kept."`
}

// problem says what is wrong with it; "": nothing.
func (c *Canary) problem() string {
	given := 0
	for _, is := range []bool{c.Percent != 0, len(c.Instances) > 0, len(c.Keys) > 0} {
		if is {
			given++
		}
	}
	switch {
	case given != 1:
		return "must be one of percent, instances and keys"
	case c.Percent < 0 || c.Percent > 100:
		return fmt.Sprintf("percent is %d; must be 1 to 100", c.Percent)
	case slices.Contains(c.Instances, ""):
		return "instances has an empty name"
	case len(c.Keys) != 0 && (len(c.Keys) != 2 || c.Keys[0] < 0 || c.Keys[1] > 65535 || c.Keys[0] > c.Keys[1]):
		return fmt.Sprintf("keys is %v; must be first and last of a range of 0 to 65535", c.Keys)
	}
	return ""
}

// String says it for people.
func (c Canary) String() string {
	switch {
	case c.Percent > 0:
		return fmt.Sprintf("%d %% of the instances", c.Percent)
	case len(c.Instances) > 0:
		return "instances " + some(c.Instances)
	}
	if len(c.Keys) != 2 {
		return "nothing"
	}
	return fmt.Sprintf("keys %d-%d (%.1f %% of them)", c.Keys[0], c.Keys[1], float64(c.Keys[1]-c.Keys[0]+1)*100/65536)
}

// covers says whether c has every key of the other.
func (c Canary) covers(o Canary) bool {
	return len(o.Keys) != 2 || len(c.Keys) == 2 && c.Keys[0] <= o.Keys[0] && o.Keys[1] <= c.Keys[1]
}

// canary is the state of one.
type canary struct {
	Part   Canary   `json:"part"`             // in force
	Chosen []string `json:"chosen,omitempty"` // the instances that Part.Percent is just now, sorted
	On     bool     `json:"on,omitempty"`     // sends may go to both clusters
	// Next, of an ordered topic, is the range that is on its way to the target: its sends pause, or are allowed to go there.
	Next   *Canary `json:"next,omitempty"`
	NextBy string  `json:"nextBy,omitempty"`
	// HeldAt is the route under which the sends of Next paused when everything of it had been read.
	HeldAt metadata.Zxid `json:"heldAt,omitzero"`
	Asked  *promotion    `json:"asked,omitempty"`
	// Before is what the clusters were before the way back of an ordered topic began. It goes on from there when the time that
	// sends may pause is not enough.
	Before *exchanged   `json:"before,omitempty"`
	Steps  []CanaryStep `json:"steps,omitempty"` // the last is in force while On
}

// promotion is what somebody has asked of a canary.
type promotion struct {
	To   *Canary `json:"to,omitempty"`   // nil: everything
	Back bool    `json:"back,omitempty"` // nothing; of an ordered topic
	By   string  `json:"by"`
}

type exchanged struct {
	Target  target   `json:"target"`
	Sources []source `json:"sources"`
	Home    string   `json:"home"`
}

// CanaryStep is the time that a part of the sends went to the target.
type CanaryStep struct {
	Part  string     `json:"part"`
	By    string     `json:"by"` // who started, widened or changed it
	Since time.Time  `json:"since"`
	Until *time.Time `json:"until,omitempty"`
	End   string     `json:"end,omitempty"` // what came then, and who asked for it
}

// canary is that of the migration while sends go, or may go, to both clusters; else nil.
func (m *migration) canary() *canary {
	if c := m.data.Canary; c != nil && c.On {
		return c
	}
	return nil
}

// begin notes that a part is in force.
func (c *canary) begin(part Canary, by string, now time.Time) {
	c.Part, c.On = part, true
	c.Steps = append(c.Steps, CanaryStep{Part: part.String(), By: by, Since: now})
}

// finish notes that the part is no more.
func (c *canary) finish(how string, now time.Time) {
	if n := len(c.Steps); n > 0 && c.Steps[n-1].Until == nil {
		c.Steps[n-1].Until, c.Steps[n-1].End = &now, how
	}
}

// over ends a canary when its migration goes on to a state in which all sends go to one cluster.
func (m *migration) over(to State, why string, now time.Time) {
	c := m.canary()
	if c == nil || to == Canarying || to == Holding || to == Fencing {
		return
	}
	c.finish(why, now)
	c.On, c.Next, c.Asked, c.Before, c.Chosen = false, nil, nil, nil, nil
}

// canaryRoute puts the canary into a route of a migration that has one.
func (m *migration) canaryRoute(r *metadata.Route) {
	c := m.data.Canary
	part := c.Part
	if m.state() == Canarying && c.Next != nil {
		part = *c.Next
	}
	to := m.data.Target.Cluster
	if c.Before != nil {
		to = c.Before.Target.Cluster
	}
	r.Warm = []string{to}
	r.Canary = &metadata.Canary{Write: to, Percent: part.Percent, Instances: append([]string{}, part.Instances...), Keys: append([]int{}, part.Keys...)}
	if part.Percent > 0 {
		r.Canary.Instances = append([]string{}, c.Chosen...)
	}
}

// canaryHold makes a pause one of the keys that change their cluster, and leaves the others where they are.
func (m *migration) canaryHold(r *metadata.Route) {
	c := m.data.Canary
	if c == nil {
		return
	}
	switch {
	case c.Next != nil:
		r.Hold.Keys = slices.Clone(c.Next.Keys)
	case c.Before != nil:
		r.Hold.Keys = slices.Clone(c.Part.Keys)
	}
	if c.On {
		m.canaryRoute(r)
	}
}

// canarying: a part of the sends goes to the target, until somebody asks for more.
func (w *walk) canarying(ctx context.Context) (string, error) {
	c := w.m.data.Canary
	if done, err := w.landed(ctx); !done || err != nil {
		return "", err
	}
	if err := w.openBoth(ctx); err != nil {
		return w.silent(ctx, err)
	}
	if err := w.pick(ctx); err != nil {
		return "", err
	}
	if waitFor, err := w.publish(ctx); waitFor != "" || err != nil {
		return waitFor, err
	}
	if c.Asked != nil {
		return w.promote(ctx)
	}
	how := fmt.Sprintf("turnout migrate promote %s, or back: turnout migrate abort %s", w.m.ID, w.m.ID)
	if c.Part.Percent > 0 {
		return fmt.Sprintf("%v send to %s, now %d of %d; go on with: %s", c.Part, w.m.data.Target.Cluster, len(c.Chosen), len(w.now.senders()), how), nil
	}
	return fmt.Sprintf("%v go to %s; go on with: %s", c.Part, w.m.data.Target.Cluster, how), nil
}

// silent says what to do when the target of an ordered canary does not answer: its keys wait, because their order asks for what
// is there, and only people can give that up.
func (w *walk) silent(ctx context.Context, err error) (string, error) {
	d := &w.m.data
	if !w.m.ordered() {
		return "", err
	}
	if asked := w.c.answers(ctx, returnLimit, d.Target.Cluster, d.Target.Physical); asked == nil || errors.Is(asked, errs.ErrUnknownTopic) || ctx.Err() != nil {
		return "", err
	}
	return fmt.Sprintf("%s, which does not answer: %v. The keys that go there wait for it; so that they go on without their order: turnout migrate start %s --to %s --force",
		d.Target.Cluster, err, w.m.Topic, d.Home), nil
}

// openBoth lets writers in on both clusters, and keeps them open: somebody who was deposed may close one late (R8, R9).
func (w *walk) openBoth(ctx context.Context) error {
	if w.c.now().Sub(w.opened) < assertEvery {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, callLimit)
	defer cancel()
	if home := w.m.data.source(w.m.data.Home); home != nil {
		if _, err := w.open(ctx, home.Cluster, home.Physical); err != nil {
			return err
		}
	}
	if err := w.openTarget(ctx); err != nil {
		return err
	}
	w.opened = w.c.now()
	return nil
}

// senders are the instances that send, in the order in which a canary takes them: by the hashes of their names.
func (s *scene) senders() (ids []string) {
	for _, p := range s.participants {
		if p.Err == nil && p.Sender {
			ids = append(ids, p.ID)
		}
	}
	slices.SortFunc(ids, func(a, b string) int {
		if x, y := metadata.KeyHash([]byte(a)), metadata.KeyHash([]byte(b)); x != y {
			return x - y
		}
		return strings.Compare(a, b)
	})
	return ids
}

// pick resolves the percentage into instances. Those that it is already stay so while they live.
func (w *walk) pick(ctx context.Context) error {
	c := w.m.data.Canary
	var chosen []string
	if c.Part.Percent > 0 {
		senders := w.now.senders()
		n := (len(senders)*c.Part.Percent + 99) / 100
		is := func(id string) bool { return slices.Contains(c.Chosen, id) }
		slices.SortStableFunc(senders, func(a, b string) int {
			switch {
			case is(a) == is(b):
				return 0
			case is(a):
				return -1
			}
			return 1
		})
		chosen = senders[:n]
		slices.Sort(chosen)
	}
	if slices.Equal(chosen, c.Chosen) {
		return nil
	}
	c.Chosen = chosen
	text := "no instance sends"
	if len(chosen) > 0 {
		text = fmt.Sprintf("%v: %s", c.Part, strings.Join(chosen, ", "))
	}
	return w.save(ctx, store.Changes{Events: []store.Event{event("canary", map[string]any{"instances": chosen}, "%s", text)}})
}

// promote carries out what was asked of the canary. An ordered topic goes on when every group is near the end of what is left.
func (w *walk) promote(ctx context.Context) (string, error) {
	d := &w.m.data
	c := d.Canary
	a := c.Asked
	switch {
	case a.Back:
		from := source{Cluster: d.Target.Cluster, Physical: d.Target.Physical}
		if waitFor, err := w.nearOn(ctx, &from, w.nearWithin()); waitFor != "" || err != nil {
			return waitFor, err
		}
		c.Asked = nil
		c.Before = &exchanged{Target: d.Target, Sources: slices.Clone(d.Sources), Home: d.Home}
		w.turnBack()
		return "", w.hold(ctx)
	case a.To == nil && !w.m.ordered():
		return "", w.enter(ctx, Switching, "promoted by "+a.By+": everything goes to "+d.Target.Cluster)
	case a.To == nil:
		if waitFor, err := w.transactions(ctx); waitFor != "" || err != nil {
			return waitFor, err
		}
		for i := range d.Sources {
			if waitFor, err := w.nearOn(ctx, &d.Sources[i], w.nearWithin()); waitFor != "" || err != nil {
				return waitFor, err
			}
		}
		c.Asked = nil
		c.finish("everything follows, asked for by "+a.By, w.c.now().UTC())
		return "", w.hold(ctx)
	case w.m.ordered():
		if waitFor, err := w.nearOn(ctx, d.source(d.Home), w.nearWithin()); waitFor != "" || err != nil {
			return waitFor, err
		}
		c.Next, c.NextBy, c.Asked = a.To, a.By, nil
		return "", w.enter(ctx, Holding, fmt.Sprintf("sends of %v pause, asked for by %s", *c.Next, a.By))
	}
	now := w.c.now().UTC()
	c.finish(a.To.String()+", asked for by "+a.By, now)
	c.begin(*a.To, a.By, now)
	c.Asked, c.Chosen = nil, nil
	return "", w.save(ctx, store.Changes{Events: []store.Event{event("canary", map[string]any{"by": a.By}, "now %v send to %s, asked for by %s", *a.To, d.Target.Cluster, a.By)}})
}

// firstPart begins a canary.
func (w *walk) firstPart(ctx context.Context) (string, error) {
	d := &w.m.data
	if !w.m.ordered() {
		d.Canary.begin(*w.m.plan.Canary, w.m.StartedBy, w.c.now().UTC())
		return "", w.enter(ctx, Canarying, fmt.Sprintf("everybody is ready; %v go to %s", *w.m.plan.Canary, d.Target.Cluster))
	}
	if waitFor, err := w.nearOn(ctx, d.source(d.Home), w.nearWithin()); waitFor != "" || err != nil {
		return waitFor, err
	}
	return "", w.enter(ctx, Holding, fmt.Sprintf("everybody is ready; sends of %v pause", *d.Canary.Next))
}

// holdingRange: nobody sends keys of the range, everybody has said so, and every ordered group reads what there was then.
func (w *walk) holdingRange(ctx context.Context) (string, error) {
	d := &w.m.data
	if w.c.now().Sub(d.Entered) > time.Duration(w.m.plan.Hold)*time.Millisecond {
		return "", w.notMoved(ctx, "sends may not pause longer; it waited for: "+w.m.Waiting)
	}
	if waitFor, err := w.publish(ctx); waitFor != "" || err != nil {
		return waitFor, err
	}
	src, held := d.source(d.Home), w.now.RouteNode.Mzxid
	if w.upto == nil || w.uptoAt != held {
		groups, err := w.c.meta.Readers(ctx, w.m.Topic)
		if err != nil {
			return "", err
		}
		err = w.c.on(ctx, src.Cluster, func(c *clusters.Conn) (err error) {
			w.upto, err = ends(ctx, c, src.Physical, nil)
			return err
		})
		if err != nil {
			return "", err
		}
		w.uptoAt, w.readers = held, groups
	}
	if waitFor, err := w.unreadRange(ctx, src, w.upto); (waitFor != "" || err != nil) && !w.c.opt.Off["R34"] {
		return waitFor, err
	}
	d.Canary.HeldAt = held
	return "", w.enter(ctx, Canarying, fmt.Sprintf("every group has read what %s had of %v", src.Cluster, *d.Canary.Next))
}

// unreadRange says which ordered group has not read a source up to some offsets.
func (w *walk) unreadRange(ctx context.Context, src *source, upto broker.Offsets) (waitFor string, err error) {
	err = w.c.on(ctx, src.Cluster, func(c *clusters.Conn) error {
		for _, g := range w.readers {
			if g.Order != metadata.OrderKey {
				continue // reads both at once anyhow
			}
			l, err := w.lag(ctx, c, src, g.Physical(w.m.Topic), g.StartOn(w.now.Route, w.m.Topic, src.Cluster))
			if err != nil {
				return err
			}
			if !l.Finished(upto) {
				waitFor = fmt.Sprintf("group %s has %s left on %s", g.Name, describe(l), src.Cluster)
				return nil
			}
		}
		return nil
	})
	return waitFor, err
}

// landed sees to it that the range that everybody has read follows. It does only if its sends have paused all the time: whoever
// let them go has taken the pause off the route.
func (w *walk) landed(ctx context.Context) (done bool, err error) {
	c := w.m.data.Canary
	if c.Next == nil {
		return true, nil
	}
	if same(w.m.wanted(*w.now.Route), *w.now.Route) {
		now := w.c.now().UTC()
		c.finish(fmt.Sprintf("%v, asked for by %s", *c.Next, c.NextBy), now)
		c.begin(*c.Next, c.NextBy, now)
		c.Next, c.NextBy, c.HeldAt = nil, "", 0
		return false, w.save(ctx, store.Changes{})
	}
	if w.now.RouteNode.Mzxid != c.HeldAt {
		return false, w.notMoved(ctx, "sends have gone on before it was done")
	}
	if err := w.openBoth(ctx); err != nil { // R9
		return false, err
	}
	_, err = w.publish(ctx)
	return false, err
}

// notMoved leaves the range where it is.
func (w *walk) notMoved(ctx context.Context, why string) error {
	if w.m.canary() == nil {
		return w.revert(ctx, why)
	}
	return w.stay(ctx, why)
}

// stay goes back to the canary as it was before the last step, whose clusters are opened again.
func (w *walk) stay(ctx context.Context, why string) error {
	d := &w.m.data
	c := d.Canary
	fences, err := w.reopened(ctx)
	if err != nil {
		return err
	}
	for i := range d.Sources {
		src := &d.Sources[i]
		*src = source{Cluster: src.Cluster, Physical: src.Physical, Since: src.Since, Foreign: src.Foreign, Stranger: src.Stranger}
	}
	if b := c.Before; b != nil {
		d.Target, d.Sources, d.Home, d.Reverse = b.Target, b.Sources, b.Home, false
	}
	c.Next, c.NextBy, c.HeldAt, c.Before, c.Asked = nil, "", 0, nil, nil
	if n := len(c.Steps); n > 0 {
		c.Steps[n-1].Until, c.Steps[n-1].End = nil, ""
	}
	if w.m.state() == Canarying {
		return w.save(ctx, store.Changes{Events: []store.Event{event("canary", nil, "%v stay where they are: %s", c.Part, why)}, Fences: fences})
	}
	return w.enter(ctx, Canarying, fmt.Sprintf("as before, %v go to %s; ask again, with more time (--hold) or less to read: %s", c.Part, d.Target.Cluster, why), fences...)
}

// leaveCanary answers who asks for the way back from a canary.
func (w *walk) leaveCanary(ctx context.Context) error {
	d := &w.m.data
	if !w.m.ordered() {
		return w.goBack(ctx)
	}
	d.Canary.Asked = &promotion{Back: true, By: string(w.m.Request)}
	w.m.Request = store.None
	return w.save(ctx, store.Changes{Events: []store.Event{event("rollback", nil, "goes back to %s when every group is near the end of %s", d.Home, d.Target.Cluster)}})
}

// Promote lets the rest of a topic follow its canary; with part another part, which for an ordered topic has to be a wider range.
// Asked for again before it has begun, it changes nothing. errs.ErrConflict: it is in no canary, or on its way back;
// errs.ErrInvalid: not such a part.
func (c *Controller) Promote(ctx context.Context, id, who string, part *Canary) error {
	for {
		m, err := c.migration(ctx, id)
		if err != nil {
			return err
		}
		if err := m.promotable(part); err != nil {
			return err
		}
		if a := m.data.Canary.Asked; a != nil && reflect.DeepEqual(a.To, part) {
			return nil // the controller would have to begin its step anew each time
		}
		m.data.Canary.Asked = &promotion{To: part, By: who}
		if err := m.encode(); err != nil {
			return err
		}
		text := who + " asked for everything to follow"
		if part != nil {
			text = fmt.Sprintf("%s asked for %v", who, *part)
		}
		err = c.ask(func() error {
			return c.db.Update(ctx, m.Migration, store.Changes{Events: []store.Event{event("promote", map[string]any{"by": who, "canary": part}, "%s", text)}})
		})
		if !errors.Is(err, errs.ErrConflict) {
			return err
		}
	}
}

func (m *migration) promotable(part *Canary) error {
	c := m.data.Canary
	switch {
	case m.EndedAt != nil:
		return fmt.Errorf("%w: migration %s has ended", errs.ErrConflict, m.ID)
	case m.state() != Canarying:
		return fmt.Errorf("%w: migration %s is in state %s; only one in state %s is promoted", errs.ErrConflict, m.ID, m.State, Canarying)
	case c.Asked != nil && c.Asked.Back:
		return fmt.Errorf("%w: migration %s is on its way back", errs.ErrConflict, m.ID)
	case part == nil:
		return nil
	}
	if problem := part.problem(); problem != "" {
		return fmt.Errorf("%w: canary: %s", errs.ErrInvalid, problem)
	}
	now := c.Part
	if c.Next != nil {
		now = *c.Next
	}
	if m.ordered() && (len(part.Keys) == 0 || !part.covers(now)) {
		return fmt.Errorf("%w: canary: %v: the order per key is kept, so it must be a range of keys that has %v in it; to narrow it, abort and start anew", errs.ErrInvalid, *part, now)
	}
	return nil
}

// liveCanary is nil where the route has none.
func liveCanary(row *store.Migration, now *scene) (*LiveCanary, error) {
	route := now.Route.Canary
	if route == nil {
		return nil, nil
	}
	m, err := decode(row)
	if err != nil || m.data.Canary == nil {
		return nil, err
	}
	l := &LiveCanary{Part: m.data.Canary.Part.String(), Cluster: route.Write}
	for _, p := range now.participants {
		if p.Err == nil && p.Sender {
			l.Of++
			if p.Write == l.Cluster || p.Canary == l.Cluster {
				l.Instances++
			}
		}
	}
	return l, nil
}
