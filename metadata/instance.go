package metadata

import (
	"fmt"
	"math"
	"net"
	"os"
	"sync/atomic"
	"time"
)

// Instance is one running client of an application. Node: apps/{app}/instances/{id}, ephemeral.
type Instance struct {
	V       int       `json:"v"`
	Host    string    `json:"host"`
	PID     int       `json:"pid"`
	Started time.Time `json:"started"`
	SDK     string    `json:"sdk"` // version of Turnout
	// Shadow is how far the shadow groups are for which there are flags, by group.
	Shadow map[string]ShadowReport `json:"shadow,omitzero"`
}

// Participant is what an instance says of one topic. Node: participants/{topic}/{id}, ephemeral.
type Participant struct {
	V        int                                 `json:"v"`
	Zxid     Zxid                                `json:"zxid"` // mzxid of the route that it has applied: the acknowledgement
	Write    string                              `json:"write"`
	Canary   string                              `json:"canary,omitzero"` // where it sends the keys of the canary's range; "": there is none
	Sender   bool                                `json:"sender,omitzero"` // it sends; else Write is where it would
	Warm     []string                            `json:"warm"`
	Held     bool                                `json:"held"`
	Inflight map[string]int64                    `json:"inflight"` // cluster → sends that have not ended
	Groups   map[string]map[string]Participation `json:"groups"`   // group → cluster → how far it is
	Error    string                              `json:"error"`
	// Sends are what became of the sends lately, by cluster. Only while the topic is being moved, and as of some 2 s ago.
	Sends map[string]Sends `json:"sends,omitzero"`
	At    time.Time        `json:"at"`
}

// Sends counts attempts to send to a cluster in about the last 10 s. A send makes one attempt or more.
type Sends struct {
	OK int64 `json:"ok"`
	// Failed ended with an error, or were still without an answer when the deadline of the send's ctx had passed, or
	// when they were taken back because the cluster was given up. Not counted at all are
	// attempts that the cluster refused (it is closed to writers, the message is too large), and those whose sender had cancelled ctx or
	// closed the client.
	Failed int64 `json:"failed"`
	// P99 is the time in ms that 99 % of them stayed below, from when the message was handed to the driver to the answer. Of
	// several processes together it is the mean, each counted as often as it has sent.
	P99 float64 `json:"p99Ms"`
}

// Plus joins what two have counted.
func (s Sends) Plus(t Sends) Sends {
	a, b := float64(s.All()), float64(t.All())
	if a+b > 0 {
		s.P99 = math.Round((s.P99*a+t.P99*b)/(a+b)*100) / 100
	}
	s.OK, s.Failed = s.OK+t.OK, s.Failed+t.Failed
	return s
}

// All counts the attempts.
func (s Sends) All() int64 { return s.OK + s.Failed }

// Participation is how far a group of an instance is on a cluster.
type Participation string

// The participations. A cluster that is not named has not been attached yet.
const (
	Attached Participation = "attached"
	Finished Participation = "finished" // every stay on the cluster but an open one
)

// ParseInstance reads an Instance.
func ParseInstance(data []byte) (Instance, error) {
	i := Instance{V: version}
	err := parseDocument("instance", data, &i, true)
	return i, err
}

// ParseParticipant reads a Participant.
func ParseParticipant(data []byte) (Participant, error) {
	p := Participant{V: version}
	err := parseDocument("participant", data, &p, true)
	return p, err
}

// Validate names every bad field.
func (i Instance) Validate() error {
	var p problems
	p.version(i.V)
	return p.err("instance")
}

// Validate names every bad field.
func (a Participant) Validate() error {
	var p problems
	p.version(a.V)
	if a.Zxid < 0 {
		p.add("zxid", int64(a.Zxid), "must be 0 or more")
	}
	return p.err("participant")
}

// MarshalJSON writes the document.
func (i Instance) MarshalJSON() ([]byte, error) { return encodeObject(i, nil) }

// UnmarshalJSON reads it without validating.
func (i *Instance) UnmarshalJSON(b []byte) error {
	_, err := decodeObject(b, i)
	return err
}

// MarshalJSON writes the document.
func (a Participant) MarshalJSON() ([]byte, error) { return encodeObject(a, nil) }

// UnmarshalJSON reads it without validating.
func (a *Participant) UnmarshalJSON(b []byte) error {
	_, err := decodeObject(b, a)
	return err
}

// instances counts the instance ids of this process.
var instances atomic.Int64

// NewInstanceID makes the id of an instance: "ip@-@pid@-@n", n counting from 0 in this process. It is unique as long as
// no two processes share both address and pid (containers that share the host's network but not its pids do).
func NewInstanceID() string {
	return fmt.Sprintf("%s@-@%d@-@%d", localIP(), os.Getpid(), instances.Add(1)-1)
}

// localIP is the first IPv4 address that others may reach this machine by, else 127.0.0.1.
func localIP() string {
	addresses, err := net.InterfaceAddrs()
	if err == nil {
		for _, a := range addresses {
			if n, ok := a.(*net.IPNet); ok && n.IP.IsGlobalUnicast() && n.IP.To4() != nil {
				return n.IP.String()
			}
		}
	}
	return "127.0.0.1"
}
