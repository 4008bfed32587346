package history

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"time"
)

// fileSuffix is what Load and Follower look for.
const fileSuffix = ".jsonl"

// tolerance is how far the clock may be seen to go back before the history can not be judged any more.
const tolerance = time.Millisecond

// Recorder writes the events of one process. All methods may be called concurrently.
type Recorder struct {
	process string

	mu   sync.Mutex
	file *os.File // nil: closed
	last int64    // t of the last event
	err  error    // the first failure; nothing is recorded after it
}

// Create makes a new file in dir, which must exist, for one process. Processes that run at the same time have
// different names; one that was restarted may have its old name again and gets a file of its own.
func Create(dir, process string) (*Recorder, error) {
	if process == "" || strings.ContainsAny(process, `/\*`) {
		return nil, fmt.Errorf(`history: process name %q: must be non-empty and without / \ *`, process)
	}
	file, err := os.CreateTemp(dir, process+"-*"+fileSuffix)
	if err != nil {
		return nil, fmt.Errorf("history: %w", err)
	}
	return &Recorder{process: process, file: file}, nil
}

// Err is the first failure to record. A history with a failure can not be judged.
func (r *Recorder) Err() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.err
}

// Close ends the file and returns the first failure to record, if any. It is idempotent. What is recorded after Close
// is a failure that Err returns.
func (r *Recorder) Close() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.file != nil {
		if err := r.file.Close(); err != nil && r.err == nil {
			r.err = fmt.Errorf("history: %w", err)
		}
		r.file = nil
	}
	return r.err
}

// Sending is a send that was begun. Exactly one of its methods is called, after Send has returned.
type Sending struct {
	r  *Recorder
	id string
}

// Send records that the application is about to send m.
func (r *Recorder) Send(m Message) Sending {
	r.record(Event{Op: OpSend, ID: m.ID, Topic: m.Topic, Key: m.Key, Seq: m.Seq, Shadow: m.Shadow, Producer: r.process})
	return Sending{r, m.ID}
}

// OK records that Send returned nil.
func (s Sending) OK(p Place) {
	s.r.record(Event{Op: OpOK, ID: s.id, Producer: s.r.process,
		Cluster: p.Cluster, Partition: p.Partition, Offset: p.Offset, Route: p.Route})
}

// Fail records that Send returned err and that the message was certainly not stored.
func (s Sending) Fail(err error) {
	s.r.record(Event{Op: OpFail, ID: s.id, Producer: s.r.process, Error: text(err)})
}

// Unknown records that Send returned err and that the message may have been stored.
func (s Sending) Unknown(err error) {
	s.r.record(Event{Op: OpUnknown, ID: s.id, Producer: s.r.process, Error: text(err)})
}

// Handling is a handling that was begun. Exactly one of its methods is called, before the listener returns.
type Handling struct {
	r         *Recorder
	id, group string
}

// Recv records that a listener of group begins to handle m, read from p.
func (r *Recorder) Recv(group string, m Message, p Place) Handling {
	r.record(Event{Op: OpRecv, ID: m.ID, Topic: m.Topic, Key: m.Key, Seq: m.Seq, Shadow: m.Shadow,
		Group: group, Member: r.process, Cluster: p.Cluster, Partition: p.Partition, Offset: p.Offset, Attempt: p.Attempt})
	return Handling{r, m.ID, group}
}

// Done records that the listener is about to return nil.
func (h Handling) Done() {
	h.r.record(Event{Op: OpDone, ID: h.id, Group: h.group, Member: h.r.process})
}

// Retry records that the listener is about to return err.
func (h Handling) Retry(err error) {
	h.r.record(Event{Op: OpRetry, ID: h.id, Group: h.group, Member: h.r.process, Error: text(err)})
}

// Route records that a route of topic is in force: zxid is its mzxid, write the cluster that sends go to.
func (r *Recorder) Route(topic, zxid, write string) {
	r.record(Event{Op: OpRoute, Topic: topic, Route: zxid, Cluster: write})
}

// Move records that a migration of topic has entered a state.
func (r *Recorder) Move(topic, move, state string) {
	r.record(Event{Op: OpMove, Topic: topic, Move: move, State: state})
}

// Fence records that cluster was seen to refuse everybody's messages for topic. It may be recorded again and again.
func (r *Recorder) Fence(topic, cluster string) {
	r.record(Event{Op: OpFence, Topic: topic, Cluster: cluster})
}

// Seal records the end of topic on cluster: for each partition the first offset that does not belong to it. A partition that
// is not named is not judged.
func (r *Recorder) Seal(topic, cluster string, ends map[string]int64) {
	if ends == nil {
		ends = map[string]int64{}
	}
	r.record(Event{Op: OpSeal, Topic: topic, Cluster: cluster, Offsets: ends})
}

// Open records that cluster is about to take messages of topic again; it ends fence and seal. starts are the end offsets
// read before that; nil: not known, then what is seen after it counts as written after it.
func (r *Recorder) Open(topic, cluster string, starts map[string]int64) {
	r.record(Event{Op: OpOpen, Topic: topic, Cluster: cluster, Offsets: starts})
}

// Rescue records that the message that was found at p is sent again to another cluster, with its id.
func (r *Recorder) Rescue(id string, p Place) {
	r.record(Event{Op: OpRescue, ID: id, Cluster: p.Cluster, Partition: p.Partition, Offset: p.Offset})
}

// Kill records that a process was killed, by the name that it records under.
func (r *Recorder) Kill(process string) {
	r.record(Event{Op: OpKill, Member: process})
}

// Group records what is expected of a group, for Expect.
func (r *Recorder) Group(g Group) {
	topics := g.Topics
	if len(topics) == 0 {
		topics = []string{""}
	}
	for _, topic := range topics {
		r.record(Event{Op: OpGroup, Group: g.Name, Topic: topic, Shadow: g.Shadow, Ordered: g.Ordered, Partial: g.Partial})
	}
}

// record stamps and writes e in one critical section, so that a file is in the order of its stamps. One write a line:
// after it the kernel has the event, whatever becomes of the process.
func (r *Recorder) record(e Event) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.err != nil {
		return
	}
	if r.file == nil {
		r.err = fmt.Errorf("history: %s of %s recorded after Close", e.Op, cmp.Or(e.ID, e.Topic, e.Group, e.Member))
		return
	}
	e.T = time.Now().UnixNano()
	if e.T <= r.last && r.last-e.T < int64(tolerance) {
		e.T = r.last + 1
	}
	r.last = e.T
	line, err := json.Marshal(e)
	if err == nil {
		_, err = r.file.Write(append(line, '\n'))
	}
	if err != nil {
		r.err = fmt.Errorf("history: %s of %s was not recorded: %w", e.Op, cmp.Or(e.ID, e.Topic, e.Group, e.Member), err)
	}
}

func text(err error) string {
	if err == nil {
		err = errors.New("no error given")
	}
	return err.Error()
}
