package history

import "time"

// pauses measures how long producers and groups stood still. It sees the events in the order of time, after what became of
// each message is known.
type pauses struct {
	c         *checker
	producers map[string]*producing
	groups    []consuming // as in Options.Groups
}

type producing struct {
	count    ProducerCount
	underway int   // sends that have begun and will have an outcome
	since    int64 // of the last sign of life while there is something to send; 0: there is nothing
}

type consuming struct {
	waiting int   // messages that were acknowledged and will be begun
	since   int64 // of the last sign of life
}

func (c *checker) measure(events []Event) {
	p := pauses{c: c, producers: map[string]*producing{}, groups: make([]consuming, len(c.o.Groups))}
	for i := range events {
		e := &events[i]
		switch e.Op {
		case OpSend:
			p.send(e)
		case OpOK, OpFail, OpUnknown:
			p.outcome(e)
		case OpRecv:
			p.recv(e)
		case OpDone, OpRetry:
			if i, known := c.groups[e.Group]; known {
				p.alive(i, e, c.messages[e.ID])
			}
		default: // nothing that applications do
		}
	}
	for _, producer := range p.producers {
		c.verdict.Producers = append(c.verdict.Producers, producer.count)
	}
}

func (p *pauses) producer(name string) *producing {
	if p.producers[name] == nil {
		p.producers[name] = &producing{count: ProducerCount{Producer: name}}
	}
	return p.producers[name]
}

func (p *pauses) send(e *Event) {
	m := p.c.messages[e.ID]
	if m.send != e {
		return
	}
	w := p.producer(e.Producer)
	w.count.Sent++
	if m.outcome == nil { // its process died, which is not a pause
		w.count.Errors++
		return
	}
	w.underway++
	if w.since == 0 {
		w.since = e.T
	}
}

func (p *pauses) outcome(e *Event) {
	m := p.c.messages[e.ID]
	if m.outcome != e {
		return
	}
	w, s := p.producer(m.send.Producer), m.send
	w.underway--
	took := time.Duration(e.T - s.T)
	if took > w.count.Longest.Took {
		w.count.Longest = p.sending(s, e, s.T)
	}
	if took > p.c.verdict.Longest.Took {
		p.c.verdict.Longest = p.sending(s, e, s.T)
	}
	if e.Op != OpOK { // the pause goes on: a failure brings nobody further
		w.count.Errors++
		return
	}
	w.count.Acknowledged++
	if time.Duration(e.T-w.since) > w.count.Pause.Took {
		w.count.Pause = p.sending(s, e, w.since)
	}
	w.since = 0
	if w.underway > 0 {
		w.since = e.T
	}
	for i := range p.groups {
		if p.awaits(m, i) {
			if p.groups[i].waiting == 0 {
				p.groups[i].since = e.T
			}
			p.groups[i].waiting++
		}
	}
}

// awaits says that a message was acknowledged before a group began to handle it, which it did.
func (p *pauses) awaits(m *message, group int) bool {
	first := m.groups[group].recv
	return m.send != nil && m.outcome != nil && m.outcome.Op == OpOK && first != nil && first.T > m.outcome.T
}

func (p *pauses) recv(e *Event) {
	i, known := p.c.groups[e.Group]
	if !known {
		return
	}
	m := p.c.messages[e.ID]
	p.alive(i, e, m)
	if m.groups[i].recv != e || !p.awaits(m, i) {
		return
	}
	p.groups[i].waiting--
	if wait := &p.c.verdict.Groups[i].Wait; time.Duration(e.T-m.outcome.T) > wait.Took {
		*wait = p.handling(e, m, m.outcome.T)
	}
}

// alive ends a pause of a group with a sign of life.
func (p *pauses) alive(i int, e *Event, m *message) {
	g := &p.groups[i]
	if pause := &p.c.verdict.Groups[i].Pause; g.waiting > 0 && time.Duration(e.T-g.since) > pause.Took {
		*pause = p.handling(e, m, g.since)
	}
	g.since = e.T
}

// sending describes what ended with the outcome e of the send s.
func (p *pauses) sending(s, e *Event, from int64) Longest {
	return Longest{Took: time.Duration(e.T - from), ID: e.ID, Producer: s.Producer, Cluster: e.Cluster, Partition: e.Partition,
		Began: time.Unix(0, from), During: p.c.facts.during(s.Topic, from, e.T)}
}

// handling describes what ended with e, of the handling of m; nil: of a message that nobody knows.
func (p *pauses) handling(e *Event, m *message, from int64) Longest {
	l := Longest{Took: time.Duration(e.T - from), ID: e.ID, Group: e.Group, Member: e.Member, Began: time.Unix(0, from)}
	topic := e.Topic
	if m != nil {
		if m.send != nil {
			topic = m.send.Topic
		}
		if first := m.groups[p.c.groups[e.Group]].recv; first != nil {
			l.Cluster, l.Partition = first.Cluster, first.Partition
		}
	}
	l.During = p.c.facts.during(topic, from, e.T)
	return l
}
