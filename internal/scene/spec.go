package scene

import (
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// Role is what a process does.
type Role string

// The roles.
const (
	Sender     Role = "sender"     // sends to Topics
	Receiver   Role = "receiver"   // receives as a member of Group
	Controller Role = "controller" // carries out migrations while it leads
)

// Spec says what a process does.
type Spec struct {
	Role Role   `json:"role"`
	Name string `json:"name"` // of the process, in histories and of its log; no two at a time have the same
	Dir  string `json:"dir"`  // folder of the scene, shared by its processes; made when missing

	App            string        `json:"app"` // default Name
	ZooKeeper      string        `json:"zookeeper"`
	Root           string        `json:"root,omitempty"`       // default the SDK's
	ShadowRoot     string        `json:"shadowRoot,omitempty"` // default the SDK's
	SessionTimeout time.Duration `json:"sessionTimeout,omitempty"`
	ClusterLinger  time.Duration `json:"clusterLinger,omitempty"` // turnout.WithClusterLinger; 0: the SDK's default
	NodeRecheck    time.Duration `json:"nodeRecheck,omitempty"`   // turnout.WithRecheck; 0: the SDK's default
	Debug          bool          `json:"debug,omitempty"`         // also log what is of interest to developers of the SDK

	// Of a sender. Message n of a goroutine has the next of its keys; each key belongs to one goroutine, so that the
	// messages of a key are sent one after the other.
	Topics   []string      `json:"topics,omitempty"`   // by turns
	Rate     float64       `json:"rate,omitempty"`     // messages a second, all goroutines together; 0: as fast as it goes
	Senders  int           `json:"senders,omitempty"`  // goroutines. Default 1
	Keys     int           `json:"keys,omitempty"`     // how many keys; 0: messages without a key
	BodySize int           `json:"bodySize,omitempty"` // bytes, if more than the smallest body. Default 100
	Async    bool          `json:"async,omitempty"`    // SendAsync
	Deadline time.Duration `json:"deadline,omitempty"` // of one send. Default 30 s

	// Of a receiver.
	Group       string        `json:"group,omitempty"`
	Delay       time.Duration `json:"delay,omitempty"`       // how long a message takes to handle
	FailRate    float64       `json:"failRate,omitempty"`    // share of the messages, 0 to 1, that fail at first
	FailTimes   int           `json:"failTimes,omitempty"`   // how often they fail. Default 1; 3 and more: through the retry topic
	Linger      time.Duration `json:"linger,omitempty"`      // consumer.WithLinger; 0: the SDK's default
	StayRecheck time.Duration `json:"stayRecheck,omitempty"` // consumer.WithRecheck; 0: the SDK's default
	RetryDelay  time.Duration `json:"retryDelay,omitempty"`  // consumer.WithRetryDelay, the same for all rounds; 0: the SDK's default

	// Of a controller.
	Database   string        `json:"database,omitempty"`   // URL of the store that the controllers of a scene share
	FenceCheck time.Duration `json:"fenceCheck,omitempty"` // migrate.Options.FenceCheck; 0: the default
	HoldAt     []string      `json:"holdAt,omitempty"`     // states before which it waits for Process.GoOn
	Off        []string      `json:"off,omitempty"`        // migrate.Options.Off: rules that it does not keep

	// The process ends by itself after so many messages sent or handled, or when it has worked for this time. 0: it does not.
	Count int64         `json:"count,omitempty"`
	For   time.Duration `json:"for,omitempty"`

	CloseLimit time.Duration `json:"closeLimit,omitempty"` // for ending in good order. Default 20 s
}

// HistoryDir is where the processes of the scene in dir record.
func HistoryDir(dir string) string { return filepath.Join(dir, "history") }

// LogFile is where s logs.
func (s Spec) LogFile() string { return filepath.Join(s.Dir, "log", s.Name+".log") }

func (s Spec) snapshotDir() string { return filepath.Join(s.Dir, "snapshot") }

// parse reads a Spec as Start writes it.
func parse(text string) (Spec, error) {
	var s Spec
	d := json.NewDecoder(strings.NewReader(text))
	d.DisallowUnknownFields()
	if err := d.Decode(&s); err != nil {
		return s, fmt.Errorf("%s: %w", variable, err)
	}
	return s, s.complete()
}

// complete fills in the defaults and names every bad field.
func (s *Spec) complete() error {
	s.App = defaulted(s.App, s.Name)
	s.Senders = defaulted(s.Senders, 1)
	s.BodySize = defaulted(s.BodySize, 100)
	s.FailTimes = defaulted(s.FailTimes, 1)
	s.Deadline = defaulted(s.Deadline, 30*time.Second)
	s.CloseLimit = defaulted(s.CloseLimit, 20*time.Second)

	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf("scene: Spec."+format, args...)) }
	if s.Name == "" || strings.ContainsAny(s.Name, `/\*`) {
		bad(`Name is %q: must be there, without / \ *`, s.Name)
	}
	if s.Dir == "" || s.ZooKeeper == "" {
		bad("Dir and ZooKeeper are %q and %q: must be there", s.Dir, s.ZooKeeper)
	}
	switch s.Role {
	case Sender:
		if len(s.Topics) == 0 || slices.Contains(s.Topics, "") {
			bad("Topics are %q: name one or more", s.Topics)
		}
		if s.Keys < 0 || s.Keys > 0 && s.Keys < s.Senders {
			bad("Keys is %d with %d Senders: must be 0, or one or more for each", s.Keys, s.Senders)
		}
	case Receiver:
		if s.Group == "" {
			bad("Group is empty: name one")
		}
		if s.FailRate < 0 || s.FailRate > 1 {
			bad("FailRate is %v: must be 0 to 1", s.FailRate)
		}
	case Controller:
		if s.Database == "" {
			bad("Database is empty: name the store's URL")
		}
	default:
		bad("Role is %q: must be %q, %q or %q", s.Role, Sender, Receiver, Controller)
	}
	if s.Rate < 0 || s.Senders < 0 || s.BodySize < 0 || s.FailTimes < 0 || s.Count < 0 {
		bad("Rate, Senders, BodySize, FailTimes and Count are %v, %d, %d, %d, %d: must not be negative", s.Rate, s.Senders, s.BodySize, s.FailTimes, s.Count)
	}
	for _, d := range []time.Duration{s.SessionTimeout, s.ClusterLinger, s.NodeRecheck, s.Deadline, s.Delay, s.Linger, s.StayRecheck, s.RetryDelay, s.FenceCheck, s.For, s.CloseLimit} {
		if d < 0 {
			bad("one of its durations is %v: must not be negative", d)
		}
	}
	return errors.Join(errs...)
}

func defaulted[T comparable](v, otherwise T) T {
	var zero T
	if v == zero {
		return otherwise
	}
	return v
}
