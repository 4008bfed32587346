package migrate

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/turnout-mq/turnout/admin/store"
	"github.com/turnout-mq/turnout/internal/clusters"
	"github.com/turnout-mq/turnout/internal/lag"
	"github.com/turnout-mq/turnout/metadata"
)

// Guardian is who has paused or rolled back a migration, where a guard did it.
const Guardian = "guard"

const (
	guardEvery  = time.Second     // between two looks of guards
	guardLooks  = 4               // a breach, and its end, lasts for so many intervals
	lagEvery    = 5               // intervals between two looks for unread messages
	lagLimit    = 2 * time.Second // for one of them
	failedLeast = 5               // failed attempts, before a share of them is a breach
	p99Least    = 100             // attempts, before their p99 says something
	p99Floor    = 10.0            // ms; what is faster is fast enough
	breachMost  = 50              // that are kept; the newest
)

// Breach is what a guard has found.
type Breach struct {
	Guard string     `json:"guard" example:"draining:time=30m:pause"`
	State State      `json:"state" doc:"in which it was found"`
	At    time.Time  `json:"at"`
	Over  *time.Time `json:"over,omitempty" doc:"when it was over, or its state was left"`
	Text  string     `json:"text" doc:"what was found"`
	Did   Reaction   `json:"did" doc:"what the guard did; page where there was nothing to pause or roll back"`
}

// Notice is what the webhook is told of a guard, as JSON. It has Migration where a notice of a request has the request. A breach and its
// end are told once each; one that comes twice has the same Migration, Event, Guard and Version.
type Notice struct {
	Event     string    `json:"event"` // guard-breached, guard-over
	Migration string    `json:"migration"`
	Kind      string    `json:"kind"` // migration
	State     State     `json:"state"`
	Version   int64     `json:"version"`
	Subject   string    `json:"subject"`   // the topic
	Applicant string    `json:"applicant"` // who has started it
	Who       string    `json:"who"`       // guard
	At        time.Time `json:"at"`
	Guard     string    `json:"guard"`
	Did       Reaction  `json:"did"`
	Text      string    `json:"text"`
}

// watch is what a controller remembers of the guards of one migration between two looks. One worker uses it.
type watch struct {
	looked time.Time
	// turning has since when a guard has found the opposite of what is stored.
	turning map[string]time.Time
	lagged  time.Time // when it was last looked for unread messages
}

// finding is what a guard finds at one look.
type finding struct {
	verdict verdict
	text    string
}

type verdict int

const (
	unknown verdict = iota // too little was counted, or somebody did not answer
	within
	beyond
)

// guards lets every guard look that watches the state. acted: the state or what is asked for has changed.
func (w *walk) guards(ctx context.Context) (acted bool, err error) {
	d := &w.m.data
	if len(w.m.plan.Guards) == 0 || !w.m.state().guarded() {
		return false, nil
	}
	sends := w.now.sends()
	for cluster, s := range sends {
		if cluster != d.Target.Cluster && s.All() >= p99Least {
			if d.P99 == nil {
				d.P99 = map[string]float64{}
			}
			d.P99[cluster] = s.P99 // is there when nobody sends there any more
		}
	}
	now, seen := w.c.now(), w.c.watch(w.m.ID)
	if now.Sub(seen.looked) < w.c.opt.GuardEvery {
		return false, nil
	}
	seen.looked = now
	lagging := now.Sub(seen.lagged) >= lagEvery*w.c.opt.GuardEvery
	var unread *unread
	for _, g := range w.m.plan.Guards {
		if !g.in(w.m.state()) {
			delete(seen.turning, g.String())
			continue
		}
		limit, err := g.limit()
		if err != nil {
			return false, err
		}
		var f finding
		switch g.What {
		case WatchTime:
			f = w.timely(limit, now)
		case WatchErrors:
			f = w.reliable(limit, sends)
		case WatchP99:
			f = w.fast(limit, sends)
		case WatchLag:
			if !lagging {
				continue
			}
			if unread == nil {
				seen.lagged, unread = now, w.unread(ctx)
			}
			f = unread.within(limit)
		}
		if acted, err := w.judge(ctx, g, f, seen, now); acted || err != nil {
			return acted, err
		}
	}
	return false, nil
}

// judge compares what was found with what is stored of the guard, and acts when that has changed for long enough.
func (w *walk) judge(ctx context.Context, g Guard, f finding, seen *watch, now time.Time) (acted bool, err error) {
	key := g.String()
	open := w.m.data.breach(key)
	if f.verdict == unknown {
		delete(seen.turning, key)
		return false, nil
	}
	if (f.verdict == beyond) == (open != nil) {
		delete(seen.turning, key)
		return false, nil
	}
	since, turning := seen.turning[key]
	if !turning {
		seen.turning[key], since = now, now
	}
	if g.What != WatchTime && now.Sub(since) < guardLooks*w.c.opt.GuardEvery {
		return false, nil
	}
	delete(seen.turning, key)
	if open != nil {
		w.over(open, f.text)
		return false, w.save(ctx, store.Changes{})
	}
	return true, w.breached(ctx, g, f.text)
}

// timely looks at the time in the state.
func (w *walk) timely(limit float64, now time.Time) finding {
	if took := now.Sub(w.m.data.Entered); took.Seconds() > limit {
		text := fmt.Sprintf("%v in the state %s", took.Round(time.Second), w.m.State)
		if w.m.Waiting != "" {
			text += "; it waits for: " + w.m.Waiting
		}
		return finding{beyond, text}
	}
	return finding{within, ""}
}

// reliable looks at the attempts that have failed.
func (w *walk) reliable(limit float64, sends map[string]metadata.Sends) finding {
	d := &w.m.data
	s := sends[d.Target.Cluster]
	if s.All() == 0 {
		return finding{}
	}
	share := func(s metadata.Sends) float64 { return float64(s.Failed) / float64(max(s.All(), 1)) }
	text := fmt.Sprintf("%d of %d attempts to send to %s failed (%.1f %%)", s.Failed, s.All(), d.Target.Cluster, 100*share(s))
	rest := 0.0
	if w.m.state() == Canarying {
		left := sends[d.Home]
		rest = share(left)
		text += fmt.Sprintf(", and %d of %d to %s", left.Failed, left.All(), d.Home)
	}
	if s.Failed >= failedLeast && share(s)-rest > limit {
		return finding{beyond, text}
	}
	return finding{within, text}
}

// fast compares the p99 of the target with that of the cluster that is left.
func (w *walk) fast(limit float64, sends map[string]metadata.Sends) finding {
	d := &w.m.data
	s, base := sends[d.Target.Cluster], d.P99[d.Home]
	if s.All() < p99Least || base == 0 {
		return finding{}
	}
	text := fmt.Sprintf("p99 of sends is %.1f ms on %s and %.1f ms on %s", s.P99, d.Target.Cluster, base, d.Home)
	if s.P99 > p99Floor && s.P99 > limit*base {
		return finding{beyond, text}
	}
	return finding{within, text}
}

// unread is what the group with the most has not read on all clusters.
type unread struct {
	most     int64
	whose    string
	clusters []string
	complete bool // else it may be more
}

func (u *unread) within(limit float64) finding {
	text := fmt.Sprintf("group %s has %d unread messages on %s", u.whose, u.most, strings.Join(u.clusters, ", "))
	switch {
	case float64(u.most) > limit:
		return finding{beyond, text}
	case !u.complete:
		return finding{}
	}
	return finding{within, text}
}

// unread looks at what the groups have not read, on all clusters of the route; not at groups that were accepted asleep.
func (w *walk) unread(ctx context.Context) *unread {
	ctx, cancel := context.WithTimeout(ctx, lagLimit)
	defer cancel()
	found := &unread{clusters: w.now.Route.Clusters()}
	groups, err := w.c.meta.Readers(ctx, w.m.Topic)
	if err != nil {
		return found
	}
	found.complete = true
	var mu sync.Mutex
	sums := map[string]int64{}
	var all sync.WaitGroup // at once: one that does not answer takes the time of no other
	for _, name := range found.clusters {
		all.Go(func() {
			physical := w.now.Settings.Physical(w.m.Topic, name)
			err := w.c.on(ctx, name, func(c *clusters.Conn) error {
				for _, g := range groups {
					if w.m.plan.asleep(g.Name) && !w.now.live(g.Name) {
						continue
					}
					l, err := lag.Of(ctx, c, physical, g.Physical(w.m.Topic), g.StartOn(w.now.Route, w.m.Topic, name), nil)
					if err != nil {
						return err
					}
					mu.Lock()
					sums[g.Name] += l.Unread + l.Beside()
					mu.Unlock()
				}
				return nil
			})
			if err != nil {
				mu.Lock()
				found.complete = false
				mu.Unlock()
			}
		})
	}
	all.Wait()
	for _, g := range groups {
		if n := sums[g.Name]; n > found.most || found.whose == "" {
			found.most, found.whose = n, g.Name
		}
	}
	return found
}

// sends joins what the participants say of their sends, by cluster.
func (s *scene) sends() map[string]metadata.Sends {
	all := map[string]metadata.Sends{}
	for _, p := range s.participants {
		for cluster, sent := range p.Participant.Sends {
			all[cluster] = all[cluster].Plus(sent)
		}
	}
	return all
}

// breached stores a breach, with what is done about it.
func (w *walk) breached(ctx context.Context, g Guard, found string) error {
	d := &w.m.data
	did, text := g.Do, fmt.Sprintf("guard %s: %s", g, found)
	switch why := w.noWayBack(); {
	case did == RollBackToIt && w.m.Request != store.None:
		did, text = Page, text+"; "+string(w.m.Request)+" is asked for already"
	case did == RollBackToIt && why != "":
		did, text = Page, text+"; no rollback: "+why
	case did == PauseIt && w.m.Paused:
		did, text = Page, text+"; it is paused already"
	}
	b := Breach{Guard: g.String(), State: w.m.state(), At: w.c.now().UTC(), Text: found, Did: did}
	d.Breaches = append(d.Breaches, b)
	if n := len(d.Breaches); n > breachMost {
		d.Breaches = d.Breaches[n-breachMost:]
	}
	w.tell("guard-breached", b, text)
	by := map[string]any{"by": Guardian}
	switch did {
	case PauseIt:
		w.m.Paused = true
		w.later = append(w.later, event(store.EventPaused, by, "%s paused it: %s", Guardian, g))
	case RollBackToIt:
		by["request"] = store.Rollback
		w.m.Request = store.Rollback
		w.later = append(w.later, event(store.EventRequested, by, "%s asked for %s: %s", Guardian, store.Rollback, g))
		if w.m.Paused { // it goes back at once
			w.m.Paused = false
			w.later = append(w.later, event(store.EventResumed, map[string]any{"by": Guardian}, "%s resumed it: %s", Guardian, g))
		}
	case Page:
	}
	w.log.Warn("guard", zap.Stringer("guard", g), zap.String("state", w.m.State), zap.String("found", found), zap.String("did", string(did)))
	if err := w.save(ctx, store.Changes{}); err != nil {
		return err
	}
	w.c.countBreach(g.What, did)
	return nil
}

// over ends a breach.
func (w *walk) over(b *Breach, found string) {
	now := w.c.now().UTC()
	b.Over = &now
	text := fmt.Sprintf("guard %s: it is over after %v", b.Guard, now.Sub(b.At).Round(time.Second))
	if found != "" {
		text += "; " + found
	}
	w.tell("guard-over", *b, text)
}

// leave ends the breaches of guards that do not watch the state that comes next, and of times, which begin anew.
func (w *walk) leave(next State) {
	still := map[string]bool{}
	for _, g := range w.m.plan.Guards {
		still[g.String()] = g.in(next) && g.What != WatchTime
	}
	for i := range w.m.data.Breaches {
		if b := &w.m.data.Breaches[i]; b.Over == nil && !still[b.Guard] {
			w.over(b, "the next state is "+string(next))
		}
	}
}

// tell stores an event, and a notice for the webhook, with the next save.
func (w *walk) tell(what string, b Breach, text string) {
	w.later = append(w.later, event(Guardian, map[string]any{"guard": b.Guard, "did": b.Did, "over": b.Over != nil}, "%s", text))
	if !w.c.opt.Webhook {
		return
	}
	w.told = append(w.told, Notice{Event: what, Migration: w.m.ID, Kind: "migration", State: w.m.state(), Subject: w.m.Topic, Applicant: w.m.StartedBy,
		Who: Guardian, At: w.c.now().UTC(), Guard: b.Guard, Did: b.Did, Text: text})
}

// notices are what the webhook is told with the change that is stored now.
func (w *walk) notices() (docs []json.RawMessage, err error) {
	for _, n := range w.told {
		n.Version = w.m.Version + 1
		doc, err := json.Marshal(n)
		if err != nil {
			return nil, err
		}
		docs = append(docs, doc)
	}
	return docs, nil
}

// paused says for people what goes on.
func (w *walk) paused() string {
	text := "paused"
	for _, b := range w.m.data.Breaches {
		if b.Did == PauseIt && b.Over == nil {
			text = fmt.Sprintf("paused by guard %s (%s)", b.Guard, b.Text)
		}
	}
	return text + "; go on with: turnout migrate resume " + w.m.ID
}

// breach is the one of a guard that is not over; nil: there is none.
func (d *data) breach(guard string) *Breach {
	for i := range d.Breaches {
		if b := &d.Breaches[i]; b.Guard == guard && b.Over == nil {
			return b
		}
	}
	return nil
}

// watch is what this controller remembers of the guards of a migration.
func (c *Controller) watch(id string) *watch {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.watches[id] == nil {
		c.watches[id] = &watch{turning: map[string]time.Time{}}
	}
	return c.watches[id]
}

// Breached counts the breaches that this controller has stored, by what was watched and what was done.
type Breached struct {
	What Watched
	Did  Reaction
	N    int64
}

// Breaches counts.
func (c *Controller) Breaches() (all []Breached) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, what := range []Watched{WatchTime, WatchErrors, WatchP99, WatchLag} {
		for _, did := range []Reaction{Page, PauseIt, RollBackToIt} {
			all = append(all, Breached{what, did, c.breaches[Breached{What: what, Did: did}]})
		}
	}
	return all
}

func (c *Controller) countBreach(what Watched, did Reaction) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.breaches[Breached{What: what, Did: did}]++
}
