package rmqserver

import (
	"fmt"
	"slices"
	"time"

	"github.com/turnout-mq/turnout/broker/rocketmq/remoting"
)

// SendCodes are the codes of requests that send messages, for Fault.Codes.
var SendCodes = []int{remoting.ReqSendMessage, remoting.ReqSendMessageV2, remoting.ReqSendBatch}

// Fault is something that goes wrong with requests. What is not set of Codes,
// Topic, Queues and Group matches all; what is set of the rest happens together.
type Fault struct {
	Codes  []int  // of requests
	Topic  string // that the request names
	Queues []int  // numbers of queues, of which the request names one
	Group  string // of consumers or producers, that the request names
	Count  int    // how many requests have it; 0: all until Remove or Stop

	// Delay puts the request aside for so long; those after it go on.
	Delay time.Duration
	// Refuse is a response code with which the request is answered; nothing of
	// it is carried out.
	Refuse int
	// DropAnswer carries the request out and sends no answer: the send that was
	// written and not acknowledged.
	DropAnswer bool
	// Cut breaks the connection: after the request was carried out with
	// DropAnswer, after the answer was queued, and perhaps lost, with Refuse,
	// and before it is carried out otherwise.
	Cut bool
}

// Injected is a Fault in force.
type Injected struct {
	srv   *server
	fault Fault
	hits  int
}

// Inject puts a fault in force. The first one that matches a request has it. An
// error names the field at fault.
func (s *server) Inject(f Fault) (*Injected, error) {
	switch {
	case f.Delay == 0 && f.Refuse == 0 && !f.DropAnswer && !f.Cut:
		return nil, fmt.Errorf("rmqserver: the Fault does nothing: set Delay, Refuse, DropAnswer or Cut")
	case f.Refuse != 0 && f.DropAnswer:
		return nil, fmt.Errorf("rmqserver: Fault.Refuse is %d together with DropAnswer: what is refused is not carried out; choose one", f.Refuse)
	case f.Count < 0 || f.Delay < 0:
		return nil, fmt.Errorf("rmqserver: Fault.Count is %d, Fault.Delay %v: must not be negative", f.Count, f.Delay)
	}
	i := &Injected{srv: s, fault: f}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.faults = append(s.faults, i)
	return i, nil
}

// Hits is how many requests have had the fault.
func (i *Injected) Hits() int {
	i.srv.mu.Lock()
	defer i.srv.mu.Unlock()
	return i.hits
}

// Remove ends the fault. It can be called more than once.
func (i *Injected) Remove() {
	i.srv.mu.Lock()
	defer i.srv.mu.Unlock()
	i.srv.faults = slices.DeleteFunc(i.srv.faults, func(o *Injected) bool { return o == i })
}

// fault is the one that r has, nil for none. Needs mu.
func (s *server) fault(r *remoting.Command) *Fault {
	for _, i := range s.faults {
		if i.fault.Count > 0 && i.hits >= i.fault.Count || !i.fault.matches(r) {
			continue
		}
		i.hits++
		return &i.fault
	}
	return nil
}

func (f *Fault) matches(r *remoting.Command) bool {
	if len(f.Codes) > 0 && !slices.Contains(f.Codes, r.Code) {
		return false
	}
	names := func(want string, fields ...string) bool {
		return want == "" || slices.ContainsFunc(fields, func(field string) bool { return r.Fields[field] == want })
	}
	queue := func(field string) bool {
		return len(f.Queues) == 0 || slices.ContainsFunc(f.Queues, func(id int) bool { return r.Fields[field] == str(id) })
	}
	if r.Code == remoting.ReqSendMessageV2 || r.Code == remoting.ReqSendBatch {
		return names(f.Topic, "b") && queue("e") && names(f.Group, "a")
	}
	return names(f.Topic, "topic", "originTopic") && queue("queueId") && names(f.Group, "consumerGroup", "producerGroup", "group", "groupName")
}

// LosePositions plays what real brokers do to the positions of a group: one that
// is killed forgets those of the last seconds, and of the first ones of a topic
// that are stored at the same moment one stays, with all acknowledged.
func (b *Broker) LosePositions(group string) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.store == nil {
		return fmt.Errorf("rmqserver: broker %s has given its data up: with Dir it has them while it runs", b.opt.Name)
	}
	return b.store.keep(entryOffsetsGone, nameEntry{group})
}
