package cli

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/turnout-mq/turnout/internal/scene"
	"github.com/turnout-mq/turnout/metadata"
	"github.com/turnout-mq/turnout/testenv/history"
)

// demoWatch looks at the scene from outside, as an operator could: the histories of the programs, the route and the
// participant nodes in ZooKeeper, the offsets at the brokers. It tells what is new. It is for one goroutine.
type demoWatch struct {
	d        *demo
	follower *history.Follower

	// From the histories.
	due      time.Time // of the next line of numbers
	sent     map[string]int
	received map[string]int
	half     map[string]bool // ids of which one half was seen: true acknowledged, false handled
	unread   int             // acknowledged and not handled

	// From ZooKeeper.
	route        metadata.Route
	zxid         metadata.Zxid // of the route
	participants []demoParticipant
	told         map[string]bool // what was said already
	asked        time.Time       // when the brokers were last asked
}

// demoParticipant is what one program says of the topic.
type demoParticipant struct {
	name string
	metadata.Participant
}

func newDemoWatch(d *demo) *demoWatch {
	return &demoWatch{d: d, follower: history.NewFollower(scene.HistoryDir(d.dir)), due: d.begin.Add(time.Second),
		sent: map[string]int{}, received: map[string]int{}, half: map[string]bool{}, told: map[string]bool{}}
}

// look finds out what is new and tells it.
func (w *demoWatch) look(ctx context.Context) error {
	if err := w.readHistories(); err != nil {
		return err
	}
	if err := w.readNodes(ctx); err != nil {
		return err
	}
	w.tellParticipants()
	if err := w.tellClosed(ctx); err != nil {
		return err
	}
	if now := time.Now(); !now.Before(w.due) {
		w.line()
		for !now.Before(w.due) {
			w.due = w.due.Add(time.Second)
		}
	}
	return nil
}

func (w *demoWatch) readHistories() error {
	events, err := w.follower.Next()
	if err != nil {
		return err
	}
	for _, e := range events {
		switch e.Op {
		case history.OpOK:
			w.sent[e.Cluster]++
			w.first(e)
			w.balance(e.ID, true)
		case history.OpRecv:
			w.received[e.Cluster]++
		case history.OpDone:
			w.balance(e.ID, false)
		case history.OpFail, history.OpUnknown:
			w.d.say("a send FAILED: %s", e.Error)
		default:
		}
	}
	return nil
}

// balance counts what is acknowledged and not handled. The two halves are in two files, so any may be seen first.
func (w *demoWatch) balance(id string, acknowledged bool) {
	other, seen := w.half[id]
	switch {
	case !seen:
		w.half[id] = acknowledged
		if acknowledged {
			w.unread++
		}
	case other != acknowledged:
		delete(w.half, id)
		if other {
			w.unread--
		}
	}
}

// first notes the first message that a cluster took after the edit that moved the topic there.
func (w *demoWatch) first(e history.Event) {
	if len(w.d.moves) == 0 {
		return
	}
	m := w.d.moves[len(w.d.moves)-1]
	if at := time.Unix(0, e.T); m.FirstMS < 0 && e.Cluster == m.To && at.After(m.Edited) {
		m.FirstMS = ms(at.Sub(m.Edited))
		w.d.tell("first message on %s, %.0f ms after the edit", m.To, m.FirstMS)
	}
}

// header stands above the lines of numbers.
func (w *demoWatch) header() {
	var names strings.Builder
	for _, c := range w.d.clusters() {
		fmt.Fprintf(&names, " %10s", c)
	}
	width := names.Len()
	fmt.Fprintf(w.d.out, "         |%-*s |%-*s | not yet\n", width, " sent in a second to", width, " received from")
	fmt.Fprintf(w.d.out, "  time   |%s |%s | received\n", &names, &names)
}

// line is the numbers since the last one.
func (w *demoWatch) line() {
	columns := func(n map[string]int) string {
		var b strings.Builder
		for _, c := range w.d.clusters() {
			text := "·"
			if n[c] > 0 {
				text = fmt.Sprint(n[c])
			}
			fmt.Fprintf(&b, " %10s", text)
		}
		return b.String()
	}
	fmt.Fprintf(w.d.out, "%6.0f s |%s |%s | %8d\n", time.Since(w.d.begin).Seconds(), columns(w.sent), columns(w.received), w.unread)
	clear(w.sent)
	clear(w.received)
}

// readNodes reads the route and what the participants say.
func (w *demoWatch) readNodes(ctx context.Context) error {
	s := w.d.store
	node, err := s.Read(ctx, s.RoutePath(demoTopic))
	if err != nil || !node.Exists {
		return err
	}
	if node.Mzxid != w.zxid {
		if w.route, err = metadata.ParseRoute(node.Data); err != nil {
			return err
		}
		w.zxid = node.Mzxid
		var stays []string
		for _, s := range w.route.Stays {
			stays = append(stays, s.Cluster)
		}
		w.d.tell("the route is in force: sends go to %s; unread messages may be on %s", w.route.Write, strings.Join(stays, ", "))
	}
	entries, err := s.ListParticipants(ctx, demoTopic)
	if err != nil {
		return err
	}
	w.participants = w.participants[:0]
	for _, e := range entries {
		if e.Err != nil {
			return fmt.Errorf("participant %s: %w", e.ID, e.Err)
		}
		w.participants = append(w.participants, demoParticipant{w.program(e.ID), e.Participant})
	}
	return nil
}

// program is the name of the program behind an instance id, "ip@-@pid@-@n".
func (w *demoWatch) program(instance string) string {
	for _, p := range []*scene.Process{w.d.sender, w.d.receiver} {
		if p != nil && strings.Contains(instance, fmt.Sprintf("@-@%d@-@", p.Pid())) {
			return p.Name()
		}
	}
	return instance
}

// once is true the first time it is asked for a thing.
func (w *demoWatch) once(format string, args ...any) bool {
	what := fmt.Sprintf(format, args...)
	if w.told[what] {
		return false
	}
	w.told[what] = true
	return true
}

// tellParticipants tells of acknowledgements, of groups that have finished a cluster, and of troubles.
func (w *demoWatch) tellParticipants() {
	for _, p := range w.participants {
		if p.Zxid >= w.zxid && w.once("%s acknowledged %v", p.name, w.zxid) {
			w.d.tell("%s acknowledges it: %s", p.name, p.does())
		}
		for group, on := range p.Groups {
			for cluster, how := range on {
				if how == metadata.Finished && cluster != w.route.Write && w.once("finished %s", cluster) {
					w.d.tell("%s has finished %s and left it", group, cluster)
				}
			}
		}
		if p.Error != "" && w.once("%s: %s", p.name, p.Error) {
			w.d.tell("%s reports: %s", p.name, p.Error)
		}
	}
}

// does says what a program does under the route that it has acknowledged.
func (p demoParticipant) does() string {
	if len(p.Groups) == 0 {
		return "it sends to " + p.Write
	}
	var reads []string
	for _, on := range p.Groups {
		for cluster, how := range on {
			if how == metadata.Attached {
				reads = append(reads, cluster)
			}
		}
	}
	slices.Sort(reads)
	return "it reads " + strings.Join(reads, " and ")
}

// applied notes in m when everybody has acknowledged the route that it led to.
func (w *demoWatch) applied(m *demoMove) {
	if w.route.Write != m.To || len(w.participants) < 2 {
		return
	}
	last := m.Edited
	for _, p := range w.participants {
		if p.Zxid < w.zxid {
			return
		}
		if p.At.After(last) {
			last = p.At // they stamp what they say
		}
	}
	m.applied, m.AppliedMS = last, ms(last.Sub(m.Edited))
}

// tellClosed tells of clusters that were left and are done with: every group has finished them, nobody sends there, and
// the brokers say that nothing is unread.
func (w *demoWatch) tellClosed(ctx context.Context) error {
	if time.Since(w.asked) < demoAsk {
		return nil
	}
	w.asked = time.Now()
	for _, m := range w.d.moves {
		if m.ClosedMS >= 0 || m.From == w.route.Write || m.applied.IsZero() || !w.finished(m.From) {
			continue
		}
		l, err := w.d.left(ctx, m.From)
		if err != nil {
			return err
		}
		if l.Unread > 0 {
			continue
		}
		m.ClosedMS = ms(time.Since(m.Edited))
		w.d.say("%s CLOSED: everybody has finished it, 0 of its %d messages are unread", m.From, l.Messages)
	}
	return nil
}

// finished says that no participant has anything to do with a cluster any more.
func (w *demoWatch) finished(cluster string) bool {
	for _, p := range w.participants {
		if p.Inflight[cluster] > 0 {
			return false
		}
		for _, on := range p.Groups {
			if on[cluster] != metadata.Finished {
				return false
			}
		}
	}
	return true
}

// allClosed says whether every cluster is closed but the one that the topic is on.
func (w *demoWatch) allClosed() bool {
	return !slices.ContainsFunc(w.d.moves, func(m *demoMove) bool { return m.ClosedMS < 0 && m.From != w.route.Write })
}

func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
