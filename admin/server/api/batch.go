package api

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/turnout-mq/turnout/admin/migrate"
	"github.com/turnout-mq/turnout/admin/store"
	"github.com/turnout-mq/turnout/internal/errs"
)

// Batch is several topics that are to be moved to one cluster.
type Batch struct {
	Topics []string
	// Request is that of each topic; its Topic is not looked at.
	Request Request
	// Parallel is how many migrations run at a time; at least 1.
	Parallel int
	// StartLimit bounds the start of each topic, with its preflight; 0: as long as ctx.
	StartLimit time.Duration
	// Tell, if not nil, is called when a migration was started and when it has ended or is pending, one call at a time.
	// Moved.Migration is "" for a topic that was on the cluster already.
	Tell func(m Moved)
}

// Moved is one topic of a batch.
type Moved struct {
	Topic     string        `json:"topic"`
	Migration string        `json:"migration,omitempty"`
	Ended     bool          `json:"ended"`
	Pending   bool          `json:"pending,omitempty"` // by force: sends go to the other cluster, and the one that was left is waited for
	Outcome   store.Outcome `json:"outcome,omitempty"`
	Err       error         `json:"-"` // why it failed
}

// PartialError says what became of a batch that was not done completely. Together the four name every topic once.
type PartialError struct {
	Done     []Moved  // moved, or there already
	Failed   []Moved  // not started, or ended otherwise than done; Err says why
	Running  []Moved  // started and not waited for to the end, because ctx has ended: they go on
	NotBegun []string // topics
}

// Error names what needs attention.
func (e *PartialError) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%d of %d topics were moved", len(e.Done), len(e.Done)+len(e.Failed)+len(e.Running)+len(e.NotBegun))
	for _, f := range e.Failed {
		fmt.Fprintf(&b, "; %s failed", f.Topic)
		if f.Migration != "" {
			fmt.Fprintf(&b, " (%s)", f.Migration)
		}
		fmt.Fprintf(&b, ": %v", f.Err)
	}
	for _, r := range e.Running {
		fmt.Fprintf(&b, "; %s goes on as %s", r.Topic, r.Migration)
	}
	if len(e.NotBegun) > 0 {
		fmt.Fprintf(&b, "; not begun: %s", strings.Join(e.NotBegun, " "))
	}
	return b.String()
}

// Unwrap are the errors of those that failed.
func (e *PartialError) Unwrap() []error {
	var all []error
	for _, f := range e.Failed {
		all = append(all, f.Err)
	}
	return all
}

// ErrNotDone: a migration has ended otherwise than done.
var ErrNotDone = errors.New("the migration was not done")

// MoveAll moves the topics of a batch in their order, at most Parallel at a time, and returns when all that were begun have
// ended. After the first that fails no further one is begun, and the error is a *PartialError; so too when ctx ends. A topic
// that is on the cluster already is done, so that a batch may be repeated. ErrInvalid: a topic is there twice, or none
// is; nothing was done. By force a topic counts as moved when it is pending, and one that fails holds no other back.
func (c *Client) MoveAll(ctx context.Context, b Batch) ([]Moved, error) {
	if err := b.check(); err != nil {
		return nil, err
	}
	var mu sync.Mutex
	results := make([]*Moved, len(b.Topics))
	failed := false
	tell := func(m Moved) {
		mu.Lock()
		defer mu.Unlock()
		failed = failed || m.Err != nil && !b.Request.Force
		if b.Tell != nil && m.Err == nil {
			b.Tell(m)
		}
	}
	var g errgroup.Group
	g.SetLimit(b.Parallel)
	for i, topic := range b.Topics {
		g.Go(func() error { // waits for its turn
			mu.Lock()
			stop := failed || ctx.Err() != nil
			mu.Unlock()
			if stop {
				return nil
			}
			m := c.move(ctx, b, topic, tell)
			tell(m)
			mu.Lock()
			defer mu.Unlock()
			results[i] = &m
			return nil
		})
	}
	_ = g.Wait()
	return b.sum(results)
}

func (b *Batch) check() error {
	if len(b.Topics) == 0 {
		return fmt.Errorf("%w: a batch without topics", errs.ErrInvalid)
	}
	if b.Parallel < 1 {
		return fmt.Errorf("%w: a batch with %d at a time: must be 1 or more", errs.ErrInvalid, b.Parallel)
	}
	seen := map[string]bool{}
	for _, t := range b.Topics {
		if seen[t] {
			return fmt.Errorf("%w: topic %s is in the batch twice: name it once", errs.ErrInvalid, t)
		}
		seen[t] = true
	}
	return nil
}

// move moves one topic.
func (c *Client) move(ctx context.Context, b Batch, topic string, tell func(Moved)) Moved {
	m := Moved{Topic: topic}
	r := b.Request
	r.Topic = topic
	starting, cancel := ctx, func() {}
	if b.StartLimit > 0 {
		starting, cancel = context.WithTimeout(ctx, b.StartLimit)
	}
	row, err := c.Start(starting, r)
	cancel()
	if err != nil {
		if alreadyThere(err) {
			m.Ended, m.Outcome = true, store.Done
			return m
		}
		m.Err = err
		return m
	}
	m.Migration = row.ID
	tell(m)
	row, err = c.wait(ctx, row.ID, func(row *store.Migration) bool { return r.Force && row.State == string(migrate.Pending) })
	if err != nil {
		m.Err = err
		return m
	}
	if m.Pending = row.EndedAt == nil; m.Pending {
		return m
	}
	m.Ended, m.Outcome = true, row.Outcome
	if row.Outcome != store.Done {
		m.Err = fmt.Errorf("%w: it has ended as %s", ErrNotDone, row.Outcome)
	}
	return m
}

// alreadyThere says that nothing blocks a move but that the topic is where it is to go.
func alreadyThere(err error) bool {
	var e *Error
	if !errors.As(err, &e) {
		return false
	}
	blocking := (&migrate.Plan{Findings: e.Findings}).Blocking()
	return len(blocking) == 1 && blocking[0].Code == migrate.AlreadyThere
}

func (b *Batch) sum(results []*Moved) ([]Moved, error) {
	var done []Moved
	e := &PartialError{}
	for i, m := range results {
		switch {
		case m == nil:
			e.NotBegun = append(e.NotBegun, b.Topics[i])
		case m.Err == nil:
			done = append(done, *m)
		case m.Migration != "" && !m.Ended && (errors.Is(m.Err, context.Canceled) || errors.Is(m.Err, context.DeadlineExceeded)):
			e.Running = append(e.Running, *m)
		default:
			e.Failed = append(e.Failed, *m)
		}
	}
	e.Done = done
	if len(done) == len(b.Topics) {
		return done, nil
	}
	return done, e
}
