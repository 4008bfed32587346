package migrate

import (
	"errors"
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"

	"github.com/turnout-mq/turnout/broker"
	"github.com/turnout-mq/turnout/internal/errs"
	"github.com/turnout-mq/turnout/metadata"
)

// The applications. They keep the rules of the SDK (packages internal/topics, producer and consumer), at the same points
// where those can be interrupted.

// view is a route that a process goes by.
type view struct {
	metadata.Route
	zxid    metadata.Zxid
	written bool
}

// process is what sender and reader have in common.
type process struct {
	w          *world
	id         string
	life       int // counts its restarts
	up         bool
	asleep     bool
	cut        bool
	registered bool
	settled    bool // it has read in its present session (R4)
	view       *view
	applied    metadata.Zxid
	doc        metadata.Participant

	wish, route metadata.Zxid // as read last
}

// news says whether there is something to read, or to go on with.
func (p *process) news() bool {
	t := p.w.look()
	return !p.settled || p.view == nil || p.wish != t.WishNode.Mzxid || p.route != t.RouteNode.Mzxid || !p.view.written || !metadata.Answered(t.Route, t.WishNode)
}

func (p *process) node() string {
	return p.w.meta.ParticipantPath(topicName, fmt.Sprintf("%s-%d", p.id, p.life))
}

// register creates the participant (R3: before anything is read).
func (p *process) register() {
	p.up, p.cut, p.registered, p.settled = true, false, true, p.w.Off["R4"]
	p.doc.V, p.doc.Zxid, p.doc.Sender = 1, p.applied, strings.HasPrefix(p.id, "s")
	p.w.must(p.w.meta.Create(p.w.ctx, p.node(), document(p.doc)))
}

// expire ends its session.
func (p *process) expire() {
	p.registered = false
	if err := p.w.meta.Delete(p.w.ctx, p.node(), metadata.AnyVersion); !errors.Is(err, errNotFound) {
		p.w.must(err)
	}
}

func (p *process) tell(zxid metadata.Zxid) {
	p.applied, p.doc.Zxid = zxid, zxid
	p.w.must(p.w.meta.Set(p.w.ctx, p.node(), document(p.doc), metadata.AnyVersion))
	p.w.note("    %s has applied %s", p.id, zxid)
}

// follow reads wish and route and goes by them: by the completion of a wish that is not answered, if its cluster can be
// written to, and then writes it (R30).
func (p *process) follow() {
	w := p.w
	t := w.look()
	p.settled, p.wish, p.route = true, t.WishNode.Mzxid, t.RouteNode.Mzxid
	written := &view{*t.Route, t.RouteNode.Mzxid, true}
	if metadata.Answered(t.Route, t.WishNode) {
		p.see(written)
		return
	}
	next := metadata.Complete(t.Wish, t.WishNode, t.Route, w.names)
	if w.Off["R30"] {
		next.Stays = next.Stays[len(next.Stays)-1:]
	}
	if err := w.warm(next.Write); err != nil {
		if p.view == nil || written.zxid > p.view.zxid {
			p.see(written)
		}
		return
	}
	p.see(&view{next, written.zxid, false})
	if w.choose(2) == 0 {
		w.must(w.meta.Set(w.ctx, w.meta.RoutePath(topicName), document(next), t.RouteNode.Version))
		w.stale = true
		w.note("    %s has completed the wish", p.id)
	}
}

func (p *process) see(v *view) {
	if p.view != nil && p.view.zxid == v.zxid && p.view.written == v.written && string(document(p.view.Route)) == string(document(v.Route)) {
		return
	}
	p.view = v
	p.w.views = append(p.w.views, v)
	p.w.note("    %s goes by the route %s: %s", p.id, v.zxid, describeRoute(v.Route))
}

func describeRoute(r metadata.Route) string {
	text := "write " + r.Write
	if r.Hold != nil {
		text += fmt.Sprint(" hold", r.Hold.Keys)
	}
	if c := r.Canary; c != nil {
		text += fmt.Sprint(" canary ", c.Write, c.Instances, c.Keys)
	}
	for _, c := range r.Warm {
		text += " warm " + c
	}
	for _, c := range r.Dead {
		text += " dead " + c
	}
	for _, s := range r.Stays {
		text += fmt.Sprintf(" [%s %v-%v]", s.Cluster, s.Start, s.End)
	}
	return text
}

func (w *world) warm(cluster string) error {
	if err := w.answers(cluster); err != nil {
		return err
	}
	return w.clusters[cluster].Connect(nil).Warm(w.ctx, topicName)
}

// sender sends one message after the other.
type sender struct {
	process
	target  string // the cluster of the next send; "": none yet
	under   *view  // the view that the target is of
	held    bool
	over    metadata.Zxid // the route whose hold has lasted its time
	cur     *message
	to      string // where the send under way goes; "": it has not picked
	began   *view  // under which it picked
	stored  bool
	refused bool // it reads the route before it picks again (R26)
}

// apply reads, and turns to where the route says.
func (s *sender) apply() {
	s.follow()
	s.refused = false
	s.turn()
}

func (s *sender) turn() {
	v := s.view
	write := v.WriteOf(path.Base(s.node()))
	for _, to := range []string{write, v.goal(write, nil)} {
		if to == s.target {
			continue
		}
		if err := s.w.warm(to); err != nil {
			s.w.note("    stays where it is: %v", err)
			return
		}
	}
	s.target, s.under = write, v
	s.held = v.Hold != nil && s.over != v.zxid
}

// goal is where a message goes that would go to write but for the canary's keys; without one, where those go.
func (v *view) goal(write string, m *message) string {
	if v.Canary != nil && len(v.Canary.Keys) > 0 && (m == nil || metadata.InRange(v.Canary.Keys, []byte{m.key})) {
		return v.Canary.Write
	}
	return write
}

// applicable says whether the view is applied in full (R6).
func (s *sender) applicable() bool {
	v := s.view
	if !s.registered || s.cut || v == nil || !v.written || s.under != v || !s.settled {
		return false
	}
	for _, c := range v.Warm {
		if err := s.w.warm(c); err != nil && !errors.Is(err, errs.ErrFenced) {
			return false
		}
	}
	return s.to == "" || s.began == v || slices.Contains(v.Dead, s.to) || s.w.Off["R6"]
}

func (s *sender) ack() {
	if s.applicable() && s.applied != s.view.zxid {
		s.tell(s.view.zxid)
	}
}

func (s *sender) steps() (steps []step) {
	w := s.w
	add := func(name string, do func()) { steps = append(steps, step{name, do}) }
	if !s.up {
		if s.registered {
			add("session ends", s.expire)
			return steps
		}
		if len(w.views) > 0 && w.maybe(&w.Snapshots, 3) {
			add("starts from a snapshot, without ZooKeeper", func() {
				s.up, s.cut, s.settled = true, true, true
				s.view = w.views[w.choose(len(w.views))]
				s.note()
				s.turn()
			})
			return steps
		}
		add("starts", s.register)
		return steps
	}
	switch {
	case s.cut && s.registered:
		if add("session ends", s.expire); w.calm || !w.Long {
			add("reaches ZooKeeper again in time", func() { s.cut = false })
		}
	case s.cut && w.calm, s.cut && !w.Long && w.choose(6) == 0:
		add("reaches ZooKeeper again", s.register)
	case s.cut:
	default:
		if s.news() || s.refused || s.under != s.view {
			add("reads the route", s.apply)
		}
		if s.applicable() && s.applied != s.view.zxid {
			add("acknowledges", s.ack)
		}
		if s.held && (len(s.under.Hold.Keys) == 0 || !w.calm && w.choose(8) == 0) { // such a pause begins anew when one of them ends it
			add("has held long enough", func() {
				before := s.view
				if s.apply(); s.view != before {
					return
				}
				if len(before.Hold.Keys) == 0 {
					s.held, s.over = false, before.zxid
					return
				}
				next := before.Clone() // nobody is to count on it
				next.Hold = nil
				w.must(w.meta.Set(w.ctx, w.meta.RoutePath(topicName), document(next), w.look().RouteNode.Version))
				w.stale = true
			})
		}
		if w.maybe(&w.Cuts, 30) {
			return []step{{"is cut from ZooKeeper", func() { s.cut = true }}}
		}
	}
	if !s.settled && !s.cut {
		add("has waited a second for its new session", func() { s.settled = s.view != nil })
	}
	if w.maybe(&w.Kills, 40) {
		return []step{{"dies", s.die}}
	}
	switch {
	case s.cur == nil && w.Messages > 0 && s.target != "":
		add("begins a send", s.send)
	case s.cur != nil && s.to == "" && s.refused && s.cut:
		add("gives up: fenced, and no ZooKeeper", func() { s.cur, s.refused = nil, false })
	case s.cur != nil && s.to == "" && !s.refused && (!s.held || !s.under.Hold.Pauses([]byte{s.cur.key})) && s.settled:
		to := s.under.goal(s.target, s.cur)
		add("picks "+to+" for "+s.cur.id, func() { s.to, s.began = to, s.under })
	case s.cur != nil && s.to != "" && slices.Contains(s.under.Dead, s.to):
		add("takes "+s.cur.id+" back from "+s.to, func() {
			if !s.stored {
				w.ghosts = append(w.ghosts, ghost{s.cur, s.to})
			}
			s.to, s.stored = "", false
		})
	case s.cur != nil && s.to != "" && s.to == w.dead: // it waits
	case s.cur != nil && s.to != "" && !s.stored:
		add("its send of "+s.cur.id+" reaches "+s.to, s.store)
		if w.maybe(&w.Lost, 8) {
			return []step{{"gets no answer from " + s.to + " to " + s.cur.id, func() {
				w.ghosts = append(w.ghosts, ghost{s.cur, s.to})
				s.to = ""
			}}}
		}
	case s.cur != nil && s.stored:
		add("its send of "+s.cur.id+" returns", func() { s.cur.returned, s.cur, s.to, s.stored = true, nil, "", false })
		if w.maybe(&w.Lost, 8) {
			return []step{{"the answer to " + s.cur.id + " is lost", func() { s.to, s.stored = "", false }}}
		}
	}
	return steps
}

func (s *sender) note() { s.w.note("    %s: %s", s.id, describeRoute(s.view.Route)) }

func (s *sender) send() {
	w := s.w
	w.Messages--
	m := &message{id: fmt.Sprintf("m%d", len(w.messages)), key: byte('0' + w.choose(2))}
	for _, o := range w.messages {
		if o.key == m.key && o.returned {
			m.before = append(m.before, o)
		}
	}
	w.messages = append(w.messages, m)
	s.cur = m
	w.note("    %s, key %c", m.id, m.key)
}

func (s *sender) store() {
	if err := s.w.store(s.to, s.cur); err != nil {
		s.to, s.refused = "", true
		return
	}
	s.stored = true
}

func (s *sender) die() {
	if s.to != "" && !s.stored && s.w.choose(2) == 0 {
		s.w.ghosts = append(s.w.ghosts, ghost{s.cur, s.to})
	}
	*s = sender{process: process{w: s.w, id: s.id, life: s.life, registered: s.registered}}
	if !s.registered {
		s.life++
	}
}

// reader is a member of a group.
type reader struct {
	process
	group   metadata.Group
	on      map[string]*attachment
	sealed  map[string]bool // stays that the group has finished, as it knows
	looked  map[string]int64
	zombies []*handling // of partitions that it has lost
}

// attachment is its membership on one cluster.
type attachment struct {
	limit  broker.Offsets
	claims map[string]*claim
}

// claim is a partition that it has.
type claim struct {
	pos int64 // -1: not asked yet
	now *handling
}

// handling is one message in the hands of the listener.
type handling struct {
	cluster, partition string
	offset             int64
	id                 string
}

func (r *reader) ordered() bool {
	return r.group.Order == metadata.OrderKey && r.view.Order == metadata.OrderKey
}

func stayKey(s metadata.Stay) string { return s.Cluster + string(document(s.End)) }

// want is the wish to read one cluster.
type want struct {
	cluster string
	limit   broker.Offsets
	stays   bool
}

// wants is the plan of package consumer.
func (r *reader) wants() (wants []want) {
	add := func(cluster string, limit broker.Offsets, stays bool) {
		if i := slices.IndexFunc(wants, func(w want) bool { return w.cluster == cluster }); i >= 0 {
			wants[i].stays = wants[i].stays || stays
			return
		}
		wants = append(wants, want{cluster, limit, stays})
	}
	wrote := false
	for _, s := range r.view.Stays {
		switch {
		case s.Open() && r.ordered() && wrote && slices.Contains(r.view.Warm, s.Cluster) && !r.view.Writes(s.Cluster):
		case s.Open():
			wrote = wrote || s.Cluster == r.view.Write
			add(s.Cluster, nil, r.view.Writes(s.Cluster) || slices.Contains(r.view.Warm, s.Cluster) || slices.Contains(r.view.Dead, s.Cluster))
		case r.sealed[stayKey(s)]:
		case !r.ordered() || r.w.Off["R20"]:
			add(s.Cluster, nil, true)
		default:
			if !slices.ContainsFunc(wants, func(w want) bool { return w.cluster == s.Cluster }) {
				wants = append(wants, want{s.Cluster, s.End, true})
			}
			if slices.Contains(r.view.Dead, s.Cluster) {
				continue
			}
			return wants
		}
	}
	return wants
}

func (r *reader) apply() { r.follow() }

// start brings it up.
func (r *reader) start() {
	r.on, r.sealed, r.looked = map[string]*attachment{}, map[string]bool{}, map[string]int64{}
	r.doc.Groups = map[string]map[string]metadata.Participation{r.group.Name: {}}
	r.register()
}

// settle brings it to where it is when all is quiet.
func (r *reader) settle() {
	switch {
	case !r.up:
		r.start()
		r.apply()
	default:
		for _, s := range r.steps() {
			s.do()
		}
	}
}

// fulfilled says whether the view is applied in full.
func (r *reader) fulfilled() bool {
	if !r.registered || r.cut || r.view == nil || !r.view.written || !r.settled {
		return false
	}
	for _, want := range r.wants() {
		a := r.on[want.cluster]
		if slices.Contains(r.view.Dead, want.cluster) {
			continue
		}
		if want.cluster == r.w.dead {
			return false
		}
		if a == nil {
			if left, looked := r.looked[want.cluster]; want.stays || !looked || left > 0 {
				return false
			}
			continue
		}
		if string(document(a.limit)) != string(document(want.limit)) && !r.w.Off["R6"] {
			return false
		}
		for _, c := range a.claims {
			if c.pos < 0 && !r.w.Off["R6"] {
				return false
			}
		}
	}
	return true
}

func (r *reader) steps() (steps []step) {
	w := r.w
	add := func(name string, do func()) { steps = append(steps, step{name, do}) }
	for i, h := range r.zombies {
		add("finishes "+h.id+" of a partition that it has lost", func() {
			r.zombies = slices.Delete(slices.Clone(r.zombies), i, i+1)
			w.handled[r.group.Name][h.id] = true
		})
	}
	if !r.up {
		for _, c := range slices.Sorted(maps.Keys(r.on)) {
			add("is missed by "+c, func() { r.leave(c) })
		}
		switch {
		case r.registered:
			add("session ends", r.expire)
		case !r.asleep && len(r.on) == 0:
			add("starts", func() { r.life++; r.start() })
		case r.asleep && w.maybe(&w.Sleeps, 60):
			add("wakes", func() { r.asleep = false })
		}
		return steps
	}
	switch {
	case r.cut && r.registered:
		if add("session ends", r.expire); w.calm || !w.Long {
			add("reaches ZooKeeper again in time", func() { r.cut = false })
		}
	case r.cut && w.calm, r.cut && !w.Long && w.choose(6) == 0:
		add("reaches ZooKeeper again", r.register)
	case r.cut:
	default:
		if r.news() {
			add("reads the route", r.apply)
		}
		if r.fulfilled() && r.applied != r.view.zxid {
			add("acknowledges", func() { r.tell(r.view.zxid) })
		}
		if w.maybe(&w.Cuts, 30) {
			return []step{{"is cut from ZooKeeper", func() { r.cut = true }}}
		}
	}
	if r.view == nil {
		return steps
	}
	if w.maybe(&w.Kills, 40) {
		return []step{{"dies", func() { r.die(false) }}}
	}
	if w.maybe(&w.Sleeps, 80) {
		return []step{{"goes to sleep", func() { r.die(true) }}}
	}
	wanted := map[string]want{}
	for _, x := range r.wants() {
		wanted[x.cluster] = x
		if x.cluster == w.dead {
			continue
		}
		a := r.on[x.cluster]
		left, looked := r.looked[x.cluster]
		switch {
		case a == nil && len(w.clusters[x.cluster].Partitions(topicName)) == 0:
			add("looks at "+x.cluster, func() { r.look(x.cluster) })
		case a == nil && (x.stays || looked && left > 0):
			add("joins "+x.cluster, func() { r.join(x) })
		case a == nil && looked && w.Off["R16"]:
		case a == nil:
			add("looks at "+x.cluster, func() { r.look(x.cluster) })
		case string(document(a.limit)) != string(document(x.limit)):
			add("joins "+x.cluster+" anew", func() { r.leave(x.cluster); r.join(x) })
		default:
			if x.cluster != r.view.Write || len(r.view.Stays) > 1 {
				add("looks at "+x.cluster, func() { r.look(x.cluster) })
			}
			if !x.stays && looked && left == 0 {
				add("leaves "+x.cluster+", which it has finished", func() { r.leave(x.cluster) })
			}
		}
	}
	for _, c := range slices.Sorted(maps.Keys(r.on)) {
		if c == w.dead {
			continue
		}
		if _, ok := wanted[c]; !ok {
			add("leaves "+c, func() { r.leave(c) })
		}
		a := r.on[c]
		for _, p := range slices.Sorted(maps.Keys(a.claims)) {
			steps = append(steps, r.read(c, p, a)...)
		}
		if e := w.clusters[c]; len(a.claims) > 0 {
			pending, err := e.Connect(nil).Pending(w.ctx, r.physical(), topicName)
			w.must(err)
			if pending.Retries > 0 {
				add("repeats a message on "+c, func() {
					env, ok := e.TakeRetry(r.physical(), topicName)
					if ok {
						w.handled[r.group.Name][env.ID] = true
						w.note("    %s", env.ID)
					}
				})
			}
			if w.maybe(&w.Rebalances, 30) {
				return []step{{"the partitions of " + c + " are dealt anew", func() { w.deal(c, r.group.Name, true) }}}
			}
		}
	}
	return steps
}

func (r *reader) physical() string { return r.group.Physical(topicName) }

// read is what a reader may do with one partition.
func (r *reader) read(cluster, partition string, a *attachment) (steps []step) {
	w, mem, c := r.w, r.w.clusters[cluster], a.claims[partition]
	group := r.physical()
	commit := func(next int64) { mem.Commit(group, topicName, partition, next) }
	if c.pos < 0 {
		return []step{{"gets " + cluster + "/" + partition, func() { // R12
			positions, err := mem.Connect(nil).Positions(w.ctx, group, topicName)
			w.must(err)
			at, ok := positions[partition]
			if !ok {
				at = r.group.StartOn(&r.view.Route, topicName, cluster)[partition]
				if w.Off["R12"] {
					ends, err := mem.Connect(nil).EndOffsets(w.ctx, topicName)
					w.must(err)
					at = ends[partition]
				}
				commit(at)
			}
			c.pos = at
			w.note("    at %d", at)
		}}}
	}
	if h := c.now; h != nil {
		steps = append(steps, step{"finishes " + h.id, func() {
			c.now = nil
			w.handled[r.group.Name][h.id] = true
			c.pos = h.offset + 1
			commit(c.pos)
		}})
		if !r.ordered() && w.maybe(&w.Failures, 4) {
			return []step{{"fails with " + h.id, func() {
				c.now = nil
				rec, _ := mem.At(topicName, partition, h.offset)
				mem.Defer(group, topicName, rec.Envelope)
				c.pos = h.offset + 1
				commit(c.pos)
			}}}
		}
		return steps
	}
	at := c.pos
	rec, more := mem.At(topicName, partition, at)
	for more && rec.Control {
		at++
		rec, more = mem.At(topicName, partition, at)
	}
	if !more || mem.Hidden(topicName) {
		return nil
	}
	if limit, ok := a.limit[partition]; ok && at >= limit {
		if c.pos < limit {
			steps = append(steps, step{"has come to the seal of " + cluster + "/" + partition, func() { c.pos = limit; commit(limit) }})
		}
		return steps
	}
	return []step{{fmt.Sprintf("begins %s (%s/%s@%d)", rec.ID, cluster, partition, at), func() {
		c.now = &handling{cluster: cluster, partition: partition, offset: at, id: rec.ID}
		w.begins(r, rec.ID)
		if w.Off["R15"] {
			c.pos = at + 1
			commit(c.pos)
		}
	}}}
}

// look asks the broker what the group has left on a cluster, and which stays there it has finished.
func (r *reader) look(cluster string) {
	w, conn := r.w, r.w.clusters[cluster].Connect(nil)
	positions, err := conn.Positions(w.ctx, r.physical(), topicName)
	gone := errors.Is(err, errs.ErrUnknownTopic)
	if !gone {
		w.must(err)
	}
	at := r.group.StartOn(&r.view.Route, topicName, cluster)
	maps.Copy(at, positions)
	var beside int64
	var ends broker.Offsets
	if !gone {
		pending, err := conn.Pending(w.ctx, r.physical(), topicName)
		w.must(err)
		beside = pending.Retries
		ends, err = conn.EndOffsets(w.ctx, topicName)
		w.must(err)
	}
	r.looked[cluster] = at.Missing(ends) + beside
	for _, s := range r.view.Stays {
		if s.Cluster == cluster && !s.Open() && (gone || beside == 0 && at.Reached(s.End)) && !r.sealed[stayKey(s)] {
			r.sealed[stayKey(s)] = true
			w.note("    %s has finished the stay on %s", r.group.Name, cluster)
		}
	}
}

func (r *reader) join(x want) {
	r.on[x.cluster] = &attachment{limit: x.limit, claims: map[string]*claim{}}
	delete(r.looked, x.cluster)
	r.w.clusters[x.cluster].Join(r.physical(), r.id)
	r.w.deal(x.cluster, r.group.Name, false)
}

func (r *reader) leave(cluster string) {
	a := r.on[cluster]
	delete(r.on, cluster)
	delete(r.looked, cluster)
	for _, c := range a.claims { // Leave waits for the listener
		if h := c.now; h != nil && r.up {
			r.w.handled[r.group.Name][h.id] = true
			r.w.clusters[cluster].Commit(r.physical(), topicName, h.partition, h.offset+1)
		}
	}
	r.w.clusters[cluster].Leave(r.physical(), r.id)
	r.w.deal(cluster, r.group.Name, false)
}

// deal divides the partitions of a cluster among the members of a group.
func (w *world) deal(cluster, group string, other bool) {
	var members []*reader
	for _, r := range w.readers {
		if r.group.Name == group && r.on[cluster] != nil {
			members = append(members, r)
		}
	}
	for i, p := range w.clusters[cluster].Partitions(topicName) {
		if other {
			i++
		}
		for j, r := range members {
			a := r.on[cluster]
			c, mine := a.claims[p], i%len(members) == j
			switch {
			case mine && c == nil:
				a.claims[p] = &claim{pos: -1}
			case !mine && c != nil:
				delete(a.claims, p)
				if c.now != nil && r.up {
					r.zombies = append(r.zombies, c.now)
				}
			}
		}
	}
}

// die ends a reader; its groups on the brokers notice later.
func (r *reader) die(asleep bool) {
	r.up, r.cut, r.view, r.applied, r.asleep = false, false, nil, 0, asleep
	for _, a := range r.on {
		for _, c := range a.claims {
			c.now = nil
		}
	}
	r.zombies = nil
}
