package api

import (
	"context"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/google/uuid"

	"github.com/turnout-mq/turnout/admin/migrate"
	"github.com/turnout-mq/turnout/admin/store"
)

// Plan looks whether a topic can be moved, and changes nothing.
func (c *Client) Plan(ctx context.Context, r Request) (*migrate.Plan, error) {
	p := &migrate.Plan{}
	return p, c.ask(ctx, question{method: http.MethodPost, path: "/migrations/plan", in: r, harmless: true}, p)
}

// Start begins a migration. ErrRefused, errs.ErrConflict, errs.ErrUnknownTopic or errs.ErrNotFound with the findings: the
// preflight blocks it.
func (c *Client) Start(ctx context.Context, r Request) (*store.Migration, error) {
	m := &store.Migration{}
	return m, c.ask(ctx, question{method: http.MethodPost, path: "/migrations", in: r, key: uuid.NewString()}, m)
}

// List reads migrations, the newest first.
func (c *Client) List(ctx context.Context, f store.Filter) ([]*store.Migration, error) {
	values := url.Values{}
	if f.Topic != "" {
		values.Set("topic", f.Topic)
	}
	if f.Open {
		values.Set("open", "true")
	}
	if f.Limit > 0 {
		values.Set("limit", strconv.Itoa(f.Limit))
	}
	list := []*store.Migration{}
	return list, c.ask(ctx, question{method: http.MethodGet, path: "/migrations", query: values, harmless: true}, &list)
}

// Get reads a migration.
func (c *Client) Get(ctx context.Context, id string) (*store.Migration, error) {
	m := &store.Migration{}
	return m, c.get(ctx, id, "", nil, m)
}

// Events reads what has happened after the event with that number. With wait it returns as soon as there is one, and
// after that time with none.
func (c *Client) Events(ctx context.Context, id string, after int64, wait time.Duration) ([]store.Event, error) {
	values := url.Values{"after": {strconv.FormatInt(after, 10)}}
	if wait > 0 {
		values.Set("wait", wait.String())
	}
	var e Events
	err := c.get(ctx, id, "/events", values, &e)
	return e.Events, err
}

// Live is what a migration looks like now.
func (c *Client) Live(ctx context.Context, id string) (*migrate.Live, error) {
	l := &migrate.Live{}
	return l, c.get(ctx, id, "/live", nil, l)
}

// Receipt reads the receipt of a migration that has ended; errs.ErrNotFound: it has not.
func (c *Client) Receipt(ctx context.Context, id string) (*migrate.Receipt, error) {
	r := &migrate.Receipt{}
	return r, c.get(ctx, id, "/receipt", nil, r)
}

// Action is something that can be asked of a running migration.
type Action string

// The actions.
const (
	Rollback Action = "rollback" // go back to where the topic came from
	Abort    Action = "abort"    // stop, while nothing has gone to the target
	Pause    Action = "pause"    // stay in the state it is in
	Promote  Action = "promote"  // let everything follow a canary, or Ask.Canary
	Resume   Action = "resume"   // go on after a pause; Ask.Accept accepts further warnings, paused or not
)

// Do asks for an action and returns the migration as it is then; errs.ErrConflict: it has ended.
func (c *Client) Do(ctx context.Context, id string, what Action, a Ask) (*store.Migration, error) {
	m := &store.Migration{}
	return m, c.ask(ctx, question{method: http.MethodPost, path: "/migrations/" + url.PathEscape(id) + "/" + string(what), in: a, key: uuid.NewString()}, m)
}

func (c *Client) get(ctx context.Context, id, what string, values url.Values, into any) error {
	return c.ask(ctx, question{method: http.MethodGet, path: "/migrations/" + url.PathEscape(id) + what, query: values, harmless: true}, into)
}

// Wait returns a migration when it has ended.
func (c *Client) Wait(ctx context.Context, id string) (*store.Migration, error) {
	return c.wait(ctx, id, func(*store.Migration) bool { return false })
}

// wait waits until a migration has ended or enough says so.
func (c *Client) wait(ctx context.Context, id string, enough func(m *store.Migration) bool) (*store.Migration, error) {
	var after int64
	for {
		m, err := c.Get(ctx, id)
		if err != nil || m.EndedAt != nil || enough(m) {
			return m, err
		}
		// Its end is an event.
		events, err := c.Events(ctx, id, after, longWait)
		if err != nil {
			return nil, err
		}
		if len(events) > 0 {
			after = events[len(events)-1].Seq
		}
	}
}

// longWait is how long a question for events is kept open.
const longWait = 10 * time.Second
