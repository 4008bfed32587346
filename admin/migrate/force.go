package migrate

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/turnout-mq/turnout/admin/store"
	"github.com/turnout-mq/turnout/internal/clusters"
	"github.com/turnout-mq/turnout/internal/errs"
	"github.com/turnout-mq/turnout/metadata"
)

// A forced move (R31) leaves a cluster that does not answer: sends go to the target at once, and the cluster is closed, read
// to its end and left when it answers again.

const (
	probeLimit  = 200 * time.Millisecond // a cluster that may be dead is asked for this long before the start
	returnLimit = time.Second            // and each time that it is tried later
	giveUpLimit = 5 * time.Second        // and before it is given up for good
	pollDead    = 500 * time.Millisecond // between two of those tries
)

// answers asks those who store a topic for its ends; nil also where the cluster says that it does not have it.
func (c *Controller) answers(ctx context.Context, limit time.Duration, cluster, physical string) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	return c.on(ctx, cluster, func(conn *clusters.Conn) error {
		_, err := conn.EndOffsets(ctx, physical)
		return err
	})
}

// lookForced is the preflight of a forced move: the target is looked at in full, what is left only asked whether it answers.
func (p *preflight) lookForced(ctx context.Context) error {
	t, home := p.now, p.plan.leaves(p.now.Route)
	if p.plan.Canary != nil {
		p.find(Error, BadRequest, "leave the canary out: all sends leave a cluster that does not answer", "a forced move with a canary")
	}
	doc, _, err := p.c.meta.GetCluster(ctx, home)
	if err != nil && !errors.Is(err, errs.ErrNotFound) && !errors.Is(err, errs.ErrInvalid) {
		return err
	}
	known := err == nil
	var left []string
	for _, s := range t.Route.Stays {
		if s.Cluster != p.plan.To && !slices.Contains(left, s.Cluster) {
			left = append(left, s.Cluster)
		}
	}
	silent := make([]error, len(left))
	var groups []metadata.Group
	var unread error
	var all sync.WaitGroup
	for i, name := range left {
		all.Go(func() {
			if silent[i] = p.c.answers(ctx, probeLimit, name, t.Settings.Physical(p.plan.Topic, name)); errors.Is(silent[i], errs.ErrUnknownTopic) {
				silent[i] = nil
			}
		})
	}
	all.Go(func() {
		reading, cancel := context.WithTimeout(ctx, probeLimit)
		defer cancel()
		groups, unread = p.c.meta.Readers(reading, p.plan.Topic)
	})
	_, err = p.cluster(ctx, p.plan.To, func(c *clusters.Conn) error {
		if known && c.Kind != doc.Kind {
			p.otherKind(c, doc.Kind)
		}
		return p.target(ctx, c, nil)
	})
	all.Wait()
	if err != nil {
		return err
	}
	for i, name := range left { // there may be a better reason
		if p.plan.To == t.Route.Write && t.Route.Canary == nil && silent[i] != nil && !slices.Contains(t.Route.Dead, name) {
			home = name
			break
		}
	}
	p.plan.Dead = []string{home}
	for i, name := range left {
		switch {
		case silent[i] == nil && name == home:
			remedy := "start it without --force"
			switch {
			case t.Route.Canary != nil && name != t.Route.Write:
				remedy = "let the canary go back: turnout migrate abort ID"
			case name != t.Route.Write:
				remedy = "wait, it is read to its end by itself; a move that has not switched yet: turnout migrate abort ID"
			}
			p.find(Warning, SourceAnswers, remedy+"; accept it if the applications do not reach "+name, "%s answers from here. With --force nobody waits for it: what it stores of the sends under way comes twice", name)
		case silent[i] != nil:
			if name != home {
				p.plan.Dead = append(p.plan.Dead, name)
			}
			p.find(Info, SourceDead, "", "%s does not answer (%v). Sends under way there are taken back and go to %s with the same id: what it has stored of them comes twice. Which groups read it, what they have left there, and who else writes there is not known. "+
				"When it answers it is closed to writers and read to its end; until then there is no way back to it, and it must not be thrown away", name, silent[i], p.plan.To)
		}
	}
	if p.plan.Ordered {
		p.find(Info, OrderNotKept, "", "the order per key is suspended from the switch until %s was read to its end: what is on it is handled when it is back, after what comes later", home)
	}
	if unread != nil {
		p.find(Info, SleepingGroups, "", "which groups read the topic was not found out in time (%v)", unread)
	}
	for _, g := range groups {
		if !t.live(g.Name) {
			p.plan.Sleeping = append(p.plan.Sleeping, g.Name)
			p.find(Info, SleepingGroups, "", "nobody reads the topic for group %s now; what it has left on %s is not known", g.Name, home)
		}
	}
	return nil
}

// createForced looks whether the topic can be created though nobody can say what it is like now.
func (p *preflight) createForced(c *clusters.Conn, physical string) {
	if p.plan.Partitions == 0 {
		p.find(Error, NoTopic, "give --partitions with --create", "%s has no topic %s, and how many partitions it has on %s can not be asked", c.Name, physical, p.plan.leaves(p.now.Route))
		return
	}
	p.find(Info, TopicCreated, "", "topic %s is created on %s with %d partitions and the settings of the brokers; those that it has on %s can not be asked", physical, c.Name, p.plan.Partitions, p.plan.leaves(p.now.Route))
}

// overtakes says whether a plan takes over from a migration of the same topic that has not ended: a settle that only waits, and,
// by force, whatever does not end in this moment.
func (p *Plan) overtakes(m *store.Migration) bool {
	return replaceable(m) || p.Force && m.State != string(Closing)
}

// dead are the sources that are given up for now.
func (d *data) dead() (names []string) {
	for _, s := range d.Sources {
		if s.Dead {
			names = append(names, s.Cluster)
		}
	}
	return names
}

// giveUp notes in a new migration what is dead.
func (m *migration) giveUp() {
	d := &m.data
	for i := range d.Sources {
		if src := &d.Sources[i]; slices.Contains(m.plan.Dead, src.Cluster) {
			since := d.Entered
			src.Dead, src.Away = true, &since
		}
	}
	if m.Ordered && len(d.dead()) > 0 {
		d.NoOrder = strings.Join(d.dead(), ", ") + " did not answer, and was left by force"
	}
}

// force begins a forced move: nothing is asked of what is dead.
func (w *walk) force(ctx context.Context) (string, error) {
	d := &w.m.data
	err := w.c.on(ctx, d.Target.Cluster, func(c *clusters.Conn) error {
		created, err := w.provide(ctx, c)
		if err != nil {
			return err
		}
		if created {
			w.later = append(w.later, event("created", nil, "topic %s was created on %s", d.Target.Physical, d.Target.Cluster))
		}
		d.Target.Start, err = ends(ctx, c, d.Target.Physical, nil)
		return err
	})
	if err != nil {
		return "", err
	}
	text := "sends go there; what is under way on " + some(d.dead()) + " is taken back"
	if d.NoOrder != "" {
		text += "; the order per key is suspended until that was read (R31)"
	}
	if err := w.enter(ctx, Switching, text); err != nil {
		return "", err
	}
	return w.switching(ctx)
}

// goBack begins the way back of a topic without order: at once, where the cluster that it is left for no longer answers.
func (w *walk) goBack(ctx context.Context) error {
	d := &w.m.data
	from := d.Target
	silent := w.c.answers(ctx, returnLimit, from.Cluster, from.Physical)
	w.turnBack()
	w.m.Request = store.None
	if silent == nil || errors.Is(silent, errs.ErrUnknownTopic) || ctx.Err() != nil {
		return w.enter(ctx, Preparing, "on the way back to "+d.Target.Cluster)
	}
	now := w.c.now().UTC()
	src := d.source(from.Cluster)
	src.Dead, src.Away = true, &now
	w.later = append(w.later, event("away", map[string]any{"cluster": from.Cluster}, "%s does not answer (%v): it is left by force, and read when it is back", from.Cluster, silent))
	_, err := w.force(ctx)
	return err
}

// pending: sources do not answer. One that does is closed to writers before anything else (R31), and then read like any other.
func (w *walk) pending(ctx context.Context) (string, error) {
	d := &w.m.data
	var missing []string
	for i := range d.Sources {
		src := &d.Sources[i]
		if !src.Dead {
			continue
		}
		waitFor, err := w.welcome(ctx, src)
		switch {
		case err != nil:
			return "", err
		case waitFor != "":
			missing = append(missing, waitFor)
		}
	}
	if _, err := w.publish(ctx); err != nil { // those who do not read what is back yet are waited for when it is sealed
		return "", err
	}
	if len(missing) > 0 {
		return strings.Join(missing, "; "), nil
	}
	return "", w.enter(ctx, Sealing, "what did not answer is back")
}

// welcome asks a dead source whether it is back and closes it. waitFor says why it still counts as dead.
func (w *walk) welcome(ctx context.Context, src *source) (waitFor string, err error) {
	switch err := w.c.answers(ctx, returnLimit, src.Cluster, src.Physical); {
	case errors.Is(err, errs.ErrUnknownTopic):
		return fmt.Sprintf("%s answers and does not have %s; if what it had is lost: %s", src.Cluster, src.Physical, w.m.giveUpCommand()), nil
	case err != nil:
		if ctx.Err() != nil {
			return "", ctx.Err()
		}
		return fmt.Sprintf("%s, which does not answer since %s: %v", src.Cluster, src.Away.UTC().Format(time.RFC3339), err), nil
	}
	closing, cancel := context.WithTimeout(ctx, callLimit)
	defer cancel()
	if waitFor, err := w.closeEarly(closing, src); waitFor != "" || err != nil {
		if err != nil && ctx.Err() == nil {
			waitFor = fmt.Sprintf("%s, which can not be closed to writers yet: %v", src.Cluster, err)
			return waitFor, nil
		}
		return waitFor, err
	}
	return "", w.save(ctx, store.Changes{Events: []store.Event{src.back(w.c.now())}})
}

// back notes that a dead source is there again.
func (s *source) back(now time.Time) store.Event {
	now = now.UTC()
	s.Dead, s.Back = false, &now
	return event("back", map[string]any{"cluster": s.Cluster}, "%s answers again, after %v", s.Cluster, now.Sub(*s.Away).Round(time.Millisecond))
}

// giveUpCommand is what people type when a cluster never comes back.
func (m *migration) giveUpCommand() string {
	return "turnout migrate resume " + m.ID + " --accept " + SourceLost
}

// left are the sources that can be given up: everybody sends to the target, and these are still to be read or looked at.
func (m *migration) left() (left []*source) {
	if !slices.Contains([]State{Pending, Sealing, Draining, Shutting, Closing}, m.state()) {
		return nil
	}
	return m.kept()
}

// kept are the sources that were not given up.
func (m *migration) kept() (kept []*source) {
	for i := range m.data.Sources {
		if src := &m.data.Sources[i]; src.Lost == nil {
			kept = append(kept, src)
		}
	}
	return kept
}

// lose gives up the sources that do not answer now, and those that were left by force and have come back without the topic: nobody
// asks or reads them any more. errs.ErrInvalid: there is none.
func (c *Controller) lose(ctx context.Context, m *migration) (said []store.Event, err error) {
	left := m.left()
	silent := make([]error, len(left))
	var all sync.WaitGroup
	for i, src := range left {
		all.Go(func() { silent[i] = c.answers(ctx, giveUpLimit, src.Cluster, src.Physical) })
	}
	all.Wait()
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	for i, src := range left {
		now := c.now().UTC()
		switch err := silent[i]; {
		case errors.Is(err, errs.ErrUnknownTopic) && src.Dead:
			said = append(said, src.back(now))
		case answered(err):
		default:
			if src.Away == nil {
				src.Away = &now
			}
			if !slices.Contains([]State{Shutting, Closing}, m.state()) { // groups may have come since
				src.Drained = nil
			}
			src.Dead, src.Lost = false, &now
			said = append(said, event("lost", map[string]any{"cluster": src.Cluster}, "%s is given up: %s", src.Cluster, fate(*src)))
			if d := &m.data; d.GoBack && d.Home == src.Cluster {
				d.GoBack = false
				said = append(said, event("refused", nil, "rollback is refused: %s was given up", src.Cluster))
			}
		}
	}
	if len(said) == 0 {
		return nil, fmt.Errorf("%w: accept: %s is for a cluster that was left and does not answer, and migration %s, in state %s, waits for none", errs.ErrInvalid, SourceLost, m.ID, m.State)
	}
	return said, nil
}

// answered says whether a cluster has answered, though not with what it was asked for.
func answered(err error) bool {
	return err == nil || errors.Is(err, errs.ErrUnknownTopic) || errors.Is(err, errs.ErrNotAllowed)
}

// fate is what becomes of what a lost source had.
func fate(s source) string {
	switch {
	case s.Sealed == nil || s.Drained == nil || s.Lost.Equal(*s.Drained): // which rows of older versions say of what was not drained
		return "what it has stored and nobody has read is lost"
	case len(s.Sleeping) > 0:
		return "what group " + some(s.Sleeping) + " has not read there is lost; every other group has read it to its end"
	}
	return "it was closed to writers, and every group has read it to its end; what somebody has written behind that is not known"
}

// whoIsSilent adds to what kept a step from being done which cluster does not answer.
func (c *Controller) whoIsSilent(ctx context.Context, id string, failed error) error {
	if errors.Is(failed, errAgain) || errors.Is(failed, errs.ErrConflict) || ctx.Err() != nil {
		return failed
	}
	m, err := c.migration(ctx, id)
	if err != nil {
		return failed
	}
	if text := c.silent(ctx, m); text != "" {
		return fmt.Errorf("%s: %w", text, failed)
	}
	return failed
}

// silent says which source does not answer though it is needed, and what people can do; "": none.
func (c *Controller) silent(ctx context.Context, m *migration) string {
	needed := m.left()
	if m.state() == Switching {
		needed = m.kept()
	}
	for _, src := range needed {
		if src.Dead {
			continue
		}
		if err := c.answers(ctx, returnLimit, src.Cluster, src.Physical); answered(err) || ctx.Err() != nil {
			continue
		}
		text := src.Cluster + " does not answer and is waited for"
		if m.state() == Switching || m.ordered() && m.state() != Closing { // those who read wait, too
			text += fmt.Sprintf("; to go on without it until it is back, and without the order: turnout migrate start %s --to %s --force", m.Topic, m.data.Target.Cluster)
		}
		if m.state() != Switching {
			text += "; if it never comes back: " + m.giveUpCommand()
		}
		return text
	}
	return ""
}

// closeEarly closes a source, where that can be done before it was read. Where it can not and it is closed all the same, because it
// died when that was found to be too early, it is opened.
func (w *walk) closeEarly(ctx context.Context, src *source) (waitFor string, err error) {
	early, err := w.c.fencedEarly(ctx, src.Cluster)
	if err != nil {
		return "", err
	}
	if !early {
		row, err := w.c.db.FenceOf(ctx, src.Cluster, src.Physical)
		if errors.Is(err, errs.ErrNotFound) || err == nil && !row.Wanted {
			return "", nil
		}
		if err != nil {
			return "", err
		}
		return "", w.c.on(ctx, src.Cluster, func(c *clusters.Conn) error { return w.reopen(ctx, c, src) })
	}
	if err := w.toClose(ctx, src); err != nil {
		return "", err
	}
	err = w.c.on(ctx, src.Cluster, func(c *clusters.Conn) error {
		missing, err := w.closed(ctx, c, src)
		if missing {
			return errs.ErrUnknownTopic
		}
		return err
	})
	if errors.Is(err, errs.ErrConflict) {
		return fmt.Sprintf("%s, which can not be closed to writers yet: %v", src.Cluster, err), nil
	}
	return "", err
}
