package store

import (
	"cmp"
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/turnout-mq/turnout/internal/errs"
)

// StressState is where a stress task is.
type StressState string

// The states of stress tasks.
const (
	StressPreparing StressState = "preparing" // its shadow topics and flags are being made
	StressReady     StressState = "ready"     // it can be started; it never ran
	StressStarting  StressState = "starting"  // its flags are being switched on
	StressRunning   StressState = "running"
	StressStopping  StressState = "stopping" // its flags are being switched off
	StressStopped   StressState = "stopped"  // it can be started again
	StressRemoving  StressState = "removing" // what was made for it is being removed
	StressRemoved   StressState = "removed"  // only its history is left
)

// StressStates are all of them, in the order in which a task comes through them.
var StressStates = []StressState{StressPreparing, StressReady, StressStarting, StressRunning, StressStopping, StressStopped, StressRemoving, StressRemoved}

// StressTask is a stress task: flags of shadow groups that are switched on and off together. Times are UTC with microseconds.
type StressTask struct {
	ID        string          `json:"id" example:"s-4"` // given by the store
	Name      string          `json:"name" doc:"the task in the paths of its flags" example:"zpt_task_1"`
	State     StressState     `json:"state" enum:"preparing,ready,starting,running,stopping,stopped,removing,removed"`
	Request   string          `json:"request" doc:"the request that asked for it" example:"r-12"`
	Applicant string          `json:"applicant" doc:"who has filed that"`
	Apps      []string        `json:"apps" doc:"the applications whose groups it is about"`
	Spec      json.RawMessage `json:"spec" doc:"what was asked for"`
	Flags     []StressFlag    `json:"flags"`
	Topics    []StressTopic   `json:"topics" doc:"the shadow topics"`
	Looks     []StressLook    `json:"looks" doc:"what the guards have seen last"`
	Runs      int64           `json:"runs" doc:"how often it was started"`
	StartedBy string          `json:"startedBy,omitempty" doc:"who has started the last run"`
	StartedAt *time.Time      `json:"startedAt,omitempty"`
	EndsAt    *time.Time      `json:"endsAt,omitempty" doc:"when the last run reaches its limit"`
	StoppedAt *time.Time      `json:"stoppedAt,omitempty" doc:"when it was decided that the last run ends"`
	Reason    string          `json:"reason,omitempty" doc:"why the last run ended"`
	Waiting   string          `json:"waiting,omitempty" doc:"what keeps it from going on"`
	Version   int64           `json:"version" doc:"raised by every change; send it as If-Match"` // given by the store, like CreatedAt and UpdatedAt
	CreatedAt time.Time       `json:"createdAt"`
	UpdatedAt time.Time       `json:"updatedAt"`
}

// StressFlag is a flag of a task, as it was last written or seen.
type StressFlag struct {
	App     string `json:"app"`
	Group   string `json:"group"`
	Enabled bool   `json:"enabled"`
	Change  string `json:"change,omitempty" doc:"change number of its node in ZooKeeper; none: there is no node"`
}

// StressTopic is a shadow topic of a task.
type StressTopic struct {
	Topic       string   `json:"topic" doc:"whose shadow topic it is"`
	ShadowTopic string   `json:"shadowTopic"`
	Cluster     string   `json:"cluster"`
	Physical    string   `json:"physical" doc:"its name on the cluster"`
	Partitions  int      `json:"partitions,omitempty" doc:"with which it is created; none: it is on the cluster already"`
	Made        bool     `json:"made" doc:"it is made in ZooKeeper for this task"`
	MadeThere   bool     `json:"madeThere" doc:"it is made on the cluster for this task"`
	Groups      []string `json:"groups,omitempty" doc:"the names that the shadow groups of the task have on the cluster"`
}

// StressLook is what a guard has seen.
type StressLook struct {
	Group       string         `json:"group"`
	At          *time.Time     `json:"at,omitempty" doc:"when it could last be looked at, or the run began"`
	Unread      int64          `json:"unread"`
	Retries     int64          `json:"retries"`
	DeadLetters int64          `json:"deadLetters"`
	Errors      int64          `json:"errors" doc:"dead letters and retries that have come within a minute"`
	Error       string         `json:"error,omitempty" doc:"why it can not be looked at"`
	Samples     []StressSample `json:"samples,omitempty" doc:"of the last minute"`
}

// StressSample is one look of the last minute.
type StressSample struct {
	At          time.Time `json:"at"`
	Retries     int64     `json:"retries"`
	DeadLetters int64     `json:"deadLetters"`
}

// StressEvent is one line of a task's history.
type StressEvent struct {
	Seq  int64     `json:"seq"` // counts the events of a task: 1, 2, 3 … Given by the store
	Task string    `json:"task" example:"s-4"`
	At   time.Time `json:"at"`  // zero: when it is stored
	Who  string    `json:"who"` // "": the actor of the context
	Kind string    `json:"kind" example:"started"`
	Text string    `json:"text"`
}

// StressChanges are stored together with a task, all or none.
type StressChanges struct {
	// Action is what the audit says was done to the task; "": the change is not audited.
	Action string
	Events []StressEvent
	Audits []Audit // of the flags that were written
}

// StressFilter says which tasks are asked for. What is empty matches all.
type StressFilter struct {
	States []StressState
	Name   string
	Before string // only those that were made before the one with this id
	Limit  int    // at most so many; 0: no limit
}

const stressLetter = "s"

func parseStressID(s string) (int64, error) { return parseLabel("stress task", stressLetter, s) }

const stressColumns = `n, name, state, request, applicant, apps, spec, flags, topics, looks, runs, started_by, started_at, ends_at, stopped_at,
	reason, waiting, version, created_at, updated_at`

func scanStress(row scanner) (*StressTask, error) {
	var t StressTask
	var n int64
	var apps, spec, flags, topics, looks document
	var started, ends, stopped, created, updated moment
	err := row.Scan(&n, &t.Name, &t.State, &t.Request, &t.Applicant, &apps, &spec, &flags, &topics, &looks, &t.Runs, &t.StartedBy, &started, &ends, &stopped,
		&t.Reason, &t.Waiting, &t.Version, &created, &updated)
	if err != nil {
		return nil, err
	}
	t.ID, t.Spec = label(stressLetter, n), json.RawMessage(spec)
	t.StartedAt, t.EndsAt, t.StoppedAt = started.pointer(), ends.pointer(), stopped.pointer()
	t.CreatedAt, t.UpdatedAt = time.Time(created), time.Time(updated)
	return &t, errors.Join(json.Unmarshal(apps, &t.Apps), json.Unmarshal(flags, &t.Flags), json.Unmarshal(topics, &t.Topics), json.Unmarshal(looks, &t.Looks))
}

// normalized is t as it will be read again, or ErrInvalid.
func (t *StressTask) normalized() (StressTask, error) {
	var c check
	c.name("Name", t.Name)
	c.name("Request", t.Request)
	c.name("Applicant", t.Applicant)
	c.text("StartedBy", t.StartedBy)
	oneOf(&c, "State", t.State, StressStates...)
	c.document("Spec", t.Spec)
	if len(t.Spec) == 0 {
		c = append(c, "Spec is empty")
	}
	out := *t
	out.Reason, out.Waiting = readable(t.Reason), readable(t.Waiting)
	out.StartedAt, out.EndsAt, out.StoppedAt = storedOrNil(t.StartedAt), storedOrNil(t.EndsAt), storedOrNil(t.StoppedAt)
	out.UpdatedAt = stored(time.Time{})
	// As lists, also where there is nothing.
	out.Apps, out.Flags, out.Topics = append([]string{}, t.Apps...), append([]StressFlag{}, t.Flags...), append([]StressTopic{}, t.Topics...)
	out.Looks = readableLooks(t.Looks)
	return out, c.err("stress task " + t.Name)
}

func readableLooks(looks []StressLook) []StressLook {
	out := append([]StressLook{}, looks...)
	for i := range out {
		out[i].Error, out[i].At = readable(out[i].Error), storedOrNil(out[i].At)
	}
	return out
}

// values are the columns of a task that change.
func (t *StressTask) values() ([]any, error) {
	docs := make([]any, 0, 4)
	for _, doc := range []any{t.Apps, t.Flags, t.Topics, t.Looks} {
		data, err := json.Marshal(doc)
		if err != nil {
			return nil, err
		}
		docs = append(docs, document(data))
	}
	return append(docs, t.State, t.Runs, t.StartedBy, fromPointer(t.StartedAt), fromPointer(t.EndsAt), fromPointer(t.StoppedAt), t.Reason, t.Waiting, moment(t.UpdatedAt)), nil
}

// CreateStressTask stores a new task. On success t has its ID, Version 1 and its times. ErrConflict: another one that is not removed
// has its name, or its request has one already.
func (s *Store) CreateStressTask(ctx context.Context, t *StressTask, ch StressChanges) error {
	made, err := t.normalized()
	if err != nil {
		return err
	}
	made.Version, made.CreatedAt = 1, made.UpdatedAt
	values, err := made.values()
	if err != nil {
		return err
	}
	err = s.write(ctx, "create stress task", func(q query) error {
		// Asked first, so that a refusal costs no number.
		if err := otherStress(q, made.Name); err != nil {
			return err
		}
		var n int64
		err := q.row(`INSERT INTO stress (apps, flags, topics, looks, state, runs, started_by, started_at, ends_at, stopped_at, reason, waiting, updated_at,
				name, request, applicant, spec, version, created_at)
			VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19) RETURNING n`,
			append(values, made.Name, made.Request, made.Applicant, document(made.Spec), made.Version, moment(made.CreatedAt))...).Scan(&n)
		if err != nil {
			return err
		}
		made.ID = label(stressLetter, n)
		return q.stressChanges(n, nil, &made, ch)
	})
	if err != nil {
		if s.db.taken(err) {
			err = fmt.Errorf("a stress task %s, or one of request %s, was made a moment ago: look again: %w", t.Name, t.Request, errs.ErrConflict)
		}
		return err
	}
	*t = made
	return nil
}

// otherStress is ErrConflict if a task that is not removed has the name.
func otherStress(q query, name string) error {
	var n int64
	var state StressState
	err := q.row("SELECT n, state FROM stress WHERE name = $1 AND state <> $2", name, StressRemoved).Scan(&n, &state)
	switch {
	case errors.Is(err, sql.ErrNoRows):
		return nil
	case err != nil:
		return err
	}
	return fmt.Errorf("stress task %s is %s already (%s): choose another name, or remove that one: %w", name, label(stressLetter, n), state, errs.ErrConflict)
}

// UpdateStressTask stores t and what changed with it, if the stored version is still t.Version; then t.Version is one more and t.UpdatedAt
// is now. ErrChanged: somebody else changed it, and nothing was stored. ErrNotFound. Name, Request, Applicant, Spec and CreatedAt are not
// changed by it.
func (s *Store) UpdateStressTask(ctx context.Context, t *StressTask, ch StressChanges) error {
	n, err := parseStressID(t.ID)
	if err != nil {
		return err
	}
	next, err := t.normalized()
	if err != nil {
		return err
	}
	next.Version++
	values, err := next.values()
	if err != nil {
		return err
	}
	err = s.write(ctx, "update "+t.ID, func(q query) error {
		before, err := q.stressTask(n)
		if err != nil {
			return err
		}
		changed, err := q.exec(`UPDATE stress SET apps = $1, flags = $2, topics = $3, looks = $4, state = $5, runs = $6, started_by = $7, started_at = $8,
				ends_at = $9, stopped_at = $10, reason = $11, waiting = $12, updated_at = $13, version = version + 1
			WHERE n = $14 AND version = $15`, append(values, n, t.Version)...)
		if err != nil {
			return err
		}
		if changed == 0 {
			return fmt.Errorf("%s is at version %d (%s) and the change was made of version %d: read it again, decide again: %w", t.ID, before.Version, before.State, t.Version, ErrChanged)
		}
		return q.stressChanges(n, before, &next, ch)
	})
	if err == nil {
		*t = next
	}
	return err
}

// PutStressLooks stores what the guards of a task have seen while it runs for the time with that number. That is no change of the
// task: its version stays. What comes when that run has ended is dropped.
func (s *Store) PutStressLooks(ctx context.Context, task string, run int64, looks []StressLook) error {
	n, err := parseStressID(task)
	if err != nil {
		return err
	}
	data, err := json.Marshal(readableLooks(looks))
	if err != nil {
		return err
	}
	return s.write(ctx, "looks of "+task, func(q query) error {
		_, err := q.exec("UPDATE stress SET looks = $1 WHERE n = $2 AND runs = $3 AND state = $4", document(data), n, run, StressRunning)
		return err
	})
}

// stressChanges stores what goes with a task whose row this transaction has written.
func (q query) stressChanges(n int64, before, now *StressTask, ch StressChanges) error {
	var last int64
	if len(ch.Events) > 0 {
		if err := q.row("SELECT COALESCE(MAX(seq), 0) FROM stress_events WHERE task = $1", n).Scan(&last); err != nil {
			return err
		}
	}
	for i, e := range ch.Events {
		e.Who = cmp.Or(e.Who, ActorOf(q.ctx).Name)
		var c check
		c.name("Kind", e.Kind)
		c.name("Who", e.Who)
		if err := c.err("event of " + now.ID); err != nil {
			return err
		}
		if _, err := q.exec("INSERT INTO stress_events (task, seq, at, who, kind, text) VALUES ($1, $2, $3, $4, $5, $6)",
			n, last+int64(i)+1, moment(stored(e.At)), e.Who, e.Kind, readable(e.Text)); err != nil {
			return err
		}
	}
	for _, a := range ch.Audits {
		a.Request = now.Request
		if err := q.audit(a); err != nil {
			return err
		}
	}
	switch {
	case ch.Action == "":
		return nil
	case before == nil:
		return q.audited(ch.Action, "stress", now.ID, now.Request, nil, now)
	}
	return q.audited(ch.Action, "stress", now.ID, now.Request, before, now)
}

func (q query) stressTask(n int64) (*StressTask, error) {
	t, err := scanStress(q.row("SELECT "+stressColumns+" FROM stress WHERE n = $1", n))
	if errors.Is(err, sql.ErrNoRows) {
		return nil, fmt.Errorf("there is no stress task %s: %w", label(stressLetter, n), errs.ErrNotFound)
	}
	return t, err
}

// StressTask returns the task of this id, or ErrNotFound.
func (s *Store) StressTask(ctx context.Context, task string) (t *StressTask, err error) {
	n, err := parseStressID(task)
	if err != nil {
		return nil, err
	}
	err = s.read(ctx, "stress task "+task, func(q query) (err error) {
		t, err = q.stressTask(n)
		return err
	})
	return t, err
}

// StressTaskOf returns the task that a request has asked for, or ErrNotFound.
func (s *Store) StressTaskOf(ctx context.Context, request string) (t *StressTask, err error) {
	err = s.read(ctx, "stress task of "+request, func(q query) (err error) {
		t, err = scanStress(q.row("SELECT "+stressColumns+" FROM stress WHERE request = $1", request))
		if errors.Is(err, sql.ErrNoRows) {
			return fmt.Errorf("%s has no stress task: %w", request, errs.ErrNotFound)
		}
		return err
	})
	return t, err
}

// StressTasks returns those that fit, the newest first.
func (s *Store) StressTasks(ctx context.Context, f StressFilter) ([]*StressTask, error) {
	var w where
	if len(f.States) > 0 {
		marks, values := make([]string, len(f.States)), make([]any, len(f.States))
		for i, state := range f.States {
			marks[i], values[i] = "$%d", state
		}
		w.add("state IN ("+strings.Join(marks, ", ")+")", values...)
	}
	w.equal("name", f.Name)
	if f.Before != "" {
		n, err := parseStressID(f.Before)
		if err != nil {
			return nil, err
		}
		w.add("n < $%d", n)
	}
	var list []*StressTask
	err := s.read(ctx, "stress tasks", func(q query) (err error) {
		list, err = rows(q, scanStress, "SELECT "+stressColumns+" FROM stress WHERE 1 = 1"+w.text+" ORDER BY n DESC"+limit(f.Limit), w.args...)
		return err
	})
	return list, err
}

// StressEvents returns the history of a task after the event number after (0: from the beginning), oldest first, at most atMost of
// them (0: no limit). ErrNotFound if there is no such task.
func (s *Store) StressEvents(ctx context.Context, task string, after int64, atMost int) ([]StressEvent, error) {
	n, err := parseStressID(task)
	if err != nil {
		return nil, err
	}
	var list []StressEvent
	err = s.read(ctx, "events of "+task, func(q query) error {
		list, err = rows(q, func(row scanner) (StressEvent, error) {
			e := StressEvent{Task: task}
			var at moment
			err := row.Scan(&e.Seq, &at, &e.Who, &e.Kind, &e.Text)
			e.At = time.Time(at)
			return e, err
		}, "SELECT seq, at, who, kind, text FROM stress_events WHERE task = $1 AND seq > $2 ORDER BY seq"+limit(atMost), n, after)
		if err == nil && len(list) == 0 {
			_, err = q.stressTask(n)
		}
		return err
	})
	return list, err
}
