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
	p.plan.Dead = []string{home}
	for i, name := range left {
		switch {
		case silent[i] == nil && name == home:
			remedy := "start it without --force"
			if name != t.Route.Write {
				remedy = "let the canary go back: turnout migrate abort ID"
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
	lost := false
	switch err := w.c.answers(ctx, returnLimit, src.Cluster, src.Physical); {
	case errors.Is(err, errs.ErrUnknownTopic):
		if lost = w.m.plan.accepts(SourceLost); !lost {
			return fmt.Sprintf("%s answers and does not have %s; if what it had is lost: turnout migrate resume %s --accept %s", src.Cluster, src.Physical, w.m.ID, SourceLost), nil
		}
	case err != nil:
		if ctx.Err() != nil {
			return "", ctx.Err()
		}
		if w.m.plan.accepts(SourceLost) {
			return "", w.lose(ctx, src)
		}
		return fmt.Sprintf("%s, which does not answer since %s: %v", src.Cluster, src.Away.UTC().Format(time.RFC3339), err), nil
	}
	if !lost {
		closing, cancel := context.WithTimeout(ctx, callLimit)
		defer cancel()
		if waitFor, err := w.closeEarly(closing, src); waitFor != "" || err != nil {
			if err != nil && ctx.Err() == nil {
				waitFor = fmt.Sprintf("%s, which can not be closed to writers yet: %v", src.Cluster, err)
				return waitFor, nil
			}
			return waitFor, err
		}
	}
	now := w.c.now().UTC()
	src.Dead, src.Back = false, &now
	return "", w.save(ctx, store.Changes{Events: []store.Event{event("back", map[string]any{"cluster": src.Cluster}, "%s answers again, after %v", src.Cluster, now.Sub(*src.Away).Round(time.Millisecond))}})
}

// lose gives a source up that does not come back: nobody asks or reads it any more.
func (w *walk) lose(ctx context.Context, src *source) error {
	now := w.c.now().UTC()
	src.Dead, src.Lost, src.Sealed, src.Drained = false, &now, &now, &now
	return w.save(ctx, store.Changes{Events: []store.Event{event("lost", map[string]any{"cluster": src.Cluster}, "%s has not answered for %v and is given up: what it has stored and nobody has read is lost",
		src.Cluster, now.Sub(*src.Away).Round(time.Second))}})
}

// awayAgain deals with what kept a step from being done when a cluster that was left because it did not answer has come back and
// does not answer again: it can be given up, too.
func (c *Controller) awayAgain(ctx context.Context, id string, failed error) error {
	if errors.Is(failed, errAgain) || errors.Is(failed, errs.ErrConflict) || ctx.Err() != nil {
		return failed
	}
	m, err := c.migration(ctx, id)
	if err != nil || !slices.Contains([]State{Sealing, Draining, Shutting}, m.state()) {
		return failed
	}
	for i := range m.data.Sources {
		src := &m.data.Sources[i]
		if src.Away == nil || src.Lost != nil || src.Drained != nil {
			continue
		}
		switch err := c.answers(ctx, returnLimit, src.Cluster, src.Physical); {
		case err == nil, errors.Is(err, errs.ErrUnknownTopic), ctx.Err() != nil:
		case m.plan.accepts(SourceLost):
			if err := (&walk{c: c, m: m, log: c.log}).lose(ctx, src); err != nil {
				return errors.Join(failed, err)
			}
			return errAgain
		default:
			return fmt.Errorf("%s was back and does not answer again; if it never comes back: turnout migrate resume %s --accept %s: %w", src.Cluster, id, SourceLost, failed)
		}
	}
	return failed
}

// closeEarly closes a source, where that can be done before it was read.
func (w *walk) closeEarly(ctx context.Context, src *source) (waitFor string, err error) {
	early, err := w.c.fencedEarly(ctx, src.Cluster)
	if !early || err != nil {
		return "", err
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
