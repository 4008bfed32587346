package server

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"reflect"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"
	"github.com/danielgtaylor/huma/v2/sse"

	"github.com/turnout-mq/turnout/admin/migrate"
	"github.com/turnout-mq/turnout/admin/people"
	"github.com/turnout-mq/turnout/admin/requests"
	"github.com/turnout-mq/turnout/admin/server/api"
	"github.com/turnout-mq/turnout/admin/store"
	"github.com/turnout-mq/turnout/internal/errs"
	"github.com/turnout-mq/turnout/metadata"
)

// MigrationID is part of requests about one migration.
type MigrationID struct {
	ID string `path:"id" doc:"The migration." example:"m-17"`
}

func (s *server) registerMigrations() {
	call(s, people.Read, http.MethodGet, "/migrations", "list-migrations", "List migrations, the newest first", s.list)
	call(s, people.Read, http.MethodPost, "/migrations/plan", "plan-migration", "Look whether a topic can be moved; changes nothing", s.plan, harmless)
	call(s, people.Operate, http.MethodPost, "/migrations", "start-migration", "Start a migration", s.start, created)
	call(s, people.Read, http.MethodGet, "/migrations/{id}", "get-migration", "Read a migration", s.get)
	call(s, people.Read, http.MethodGet, "/migrations/{id}/events", "list-migration-events", "What happened, oldest first", s.events)
	call(s, people.Read, http.MethodGet, "/migrations/{id}/live", "look-at-migration", "What a migration looks like now", s.live)
	call(s, people.Read, http.MethodGet, "/migrations/{id}/receipt", "get-migration-receipt", "The receipt of a migration that has ended", s.receipt)
	for name, action := range map[string]struct {
		summary string
		do      func(ctx context.Context, id string, a api.Ask) error
	}{
		"rollback": {"Go back to where the topic came from", func(ctx context.Context, id string, a api.Ask) error { return s.ctl.Rollback(ctx, id, a.By) }},
		"abort":    {"Stop a migration without more changes", func(ctx context.Context, id string, a api.Ask) error { return s.ctl.Abort(ctx, id, a.By) }},
		"promote":  {"Let the rest follow a canary, or widen it", func(ctx context.Context, id string, a api.Ask) error { return s.ctl.Promote(ctx, id, a.By, a.Canary) }},
		"pause":    {"Let a migration stand still where it is", func(ctx context.Context, id string, a api.Ask) error { return s.ctl.Pause(ctx, id, a.By) }},
		"resume":   {"Let a migration go on", func(ctx context.Context, id string, a api.Ask) error { return s.ctl.Resume(ctx, id, a.By, a.Accept...) }},
	} {
		call(s, people.Operate, http.MethodPost, "/migrations/{id}/"+name, name+"-migration", action.summary, func(ctx context.Context, in *struct {
			MigrationID
			Body api.Ask
		}) (*reply[*store.Migration], error) {
			by, err := s.by(ctx, in.Body.By)
			if err != nil {
				return nil, err
			}
			in.Body.By = by
			if err := action.do(ctx, in.ID, in.Body); err != nil {
				return nil, err
			}
			if err := s.db.RecordAudit(ctx, store.Audit{Action: name, Kind: "migration", Subject: in.ID}); err != nil {
				return nil, err
			}
			return s.get(ctx, &in.MigrationID)
		})
	}
	sse.Register(s.api, huma.Operation{
		Method: http.MethodGet, Path: "/api/v1/migrations/{id}/stream", OperationID: "stream-migration", Tags: []string{"migrations"},
		Summary: "What happens, as server-sent events, until the migration has ended", Security: []map[string][]string{{"token": {}}, {"session": {}}},
		Errors: refusals(reflect.TypeFor[none]()),
		Middlewares: huma.Middlewares{s.needs(people.Read), func(ctx huma.Context, next func(huma.Context)) {
			if _, err := s.ctl.Get(ctx.Context(), ctx.Param("id")); err != nil {
				r, w := humago.Unwrap(ctx)
				s.fail(w, r, err)
				return
			}
			next(ctx)
		}, s.streaming},
	}, map[string]any{"event": store.Event{}, "ended": store.Migration{}}, s.stream)
}

func (s *server) list(ctx context.Context, in *struct {
	Topic string `query:"topic" doc:"Only those of this topic."`
	Open  bool   `query:"open" doc:"Only those that have not ended."`
	Limit int    `query:"limit" default:"1000" minimum:"1" maximum:"1000" doc:"At most so many."`
}) (*reply[[]*store.Migration], error) {
	list, err := s.ctl.List(ctx, store.Filter{Topic: in.Topic, Open: in.Open, Limit: in.Limit})
	if list == nil {
		list = []*store.Migration{}
	}
	return &reply[[]*store.Migration]{list}, err
}

type migrationRequest struct{ Body api.Request }

// wanted is what is asked for. Whether the order is kept is what the topic has, unless it is not to be.
func (s *server) wanted(ctx context.Context, q api.Request) (migrate.Plan, error) {
	for field, name := range map[string]string{"topic": q.Topic, "cluster": q.To} {
		if err := metadata.CheckName(field, name); err != nil {
			return migrate.Plan{}, err
		}
	}
	plan := migrate.Plan{Topic: q.Topic, To: q.To, Create: q.Create, Partitions: q.Partitions, Hold: q.HoldMS, Accept: q.Accept, Participants: q.Participants,
		Force: q.Force, Guards: q.Guards, Canary: q.Canary}
	if err := migrate.CheckGuards(q.Guards); err != nil {
		return plan, err
	}
	topic, err := s.meta.GetTopic(ctx, q.Topic)
	switch {
	case errors.Is(err, errs.ErrUnknownTopic): // the preflight says so
	case err != nil:
		return plan, err
	default:
		plan.Ordered = !q.Unordered && topic.Route != nil && topic.Route.Order == metadata.OrderKey
	}
	return plan, nil
}

func (s *server) plan(ctx context.Context, in *migrationRequest) (*reply[migrate.Plan], error) {
	plan, err := s.wanted(ctx, in.Body)
	if err != nil {
		return nil, err
	}
	plan, err = s.ctl.Preflight(ctx, plan)
	return &reply[migrate.Plan]{plan}, err
}

func (s *server) start(ctx context.Context, in *migrationRequest) (*reply[*store.Migration], error) {
	plan, err := s.wanted(ctx, in.Body)
	if err != nil {
		return nil, err
	}
	by, err := s.by(ctx, in.Body.By)
	if err != nil {
		return nil, err
	}
	if err := s.direct(ctx, requests.KindMigration); err != nil {
		return nil, err
	}
	m, err := s.ctl.Start(ctx, plan, by, migrate.StarterApproves)
	if err != nil {
		return nil, err
	}
	after, err := json.Marshal(in.Body)
	if err != nil {
		return nil, err
	}
	return &reply[*store.Migration]{m}, s.db.RecordAudit(ctx, store.Audit{Action: "start", Kind: "migration", Subject: m.ID, After: after})
}

// direct is nil if something of this kind may be done without a request that somebody else approves.
func (s *server) direct(ctx context.Context, kind string) error {
	if s.cfg.NoLogin {
		return nil
	}
	p, err := s.requests.Policy(ctx, kind)
	if err != nil || !p.Approval {
		return err
	}
	return fmt.Errorf("%w: a %s needs the approval of somebody else: file a request (turnout request new, or POST /api/v1/requests)", errs.ErrNotAllowed, kind)
}

// by is who stands in the history and on the receipt: the user, or who is named where nobody logs in.
func (s *server) by(ctx context.Context, named string) (string, error) {
	if !s.cfg.NoLogin {
		return people.From(ctx).Name, nil
	}
	return named, checkBy(named)
}

func checkBy(by string) error {
	const most = 200
	if strings.TrimSpace(by) == "" || len(by) > most || strings.ContainsFunc(by, func(r rune) bool { return r < ' ' }) {
		return fmt.Errorf("%w: by: must say in 1 to %d characters who asks for it", errs.ErrInvalid, most)
	}
	return nil
}

func (s *server) get(ctx context.Context, in *MigrationID) (*reply[*store.Migration], error) {
	m, err := s.ctl.Get(ctx, in.ID)
	return &reply[*store.Migration]{m}, err
}

// events waits, if that is asked for, until there is one. What others write into the store is found by looking.
func (s *server) events(ctx context.Context, in *struct {
	MigrationID
	After int64  `query:"after" minimum:"0" doc:"Only those after the event with this number."`
	Wait  string `query:"wait" example:"10s" doc:"Wait so long for the first one, at most 50s."`
}) (*reply[api.Events], error) {
	var wait time.Duration
	if in.Wait != "" {
		var err error
		if wait, err = time.ParseDuration(in.Wait); err != nil || wait < 0 {
			return nil, fmt.Errorf("%w: wait=%q: must be a duration like 10s", errs.ErrInvalid, in.Wait)
		}
	}
	limit := time.NewTimer(min(wait, longest-10*time.Second))
	defer limit.Stop()
	for {
		events, err := s.ctl.Events(ctx, in.ID, in.After, pageMost)
		if err != nil {
			return nil, err
		}
		if len(events) == 0 && wait > 0 {
			select {
			case <-time.After(eventPoll):
				continue
			case <-limit.C:
			case <-s.stopping.Done():
			case <-ctx.Done():
				return nil, ctx.Err()
			}
		}
		if events == nil {
			events = []store.Event{}
		}
		return &reply[api.Events]{api.Events{Events: events}}, nil
	}
}

// stream sends the history as it grows. Who was cut off goes on with the id of the last event that it has seen.
func (s *server) stream(ctx context.Context, in *struct {
	MigrationID
	After int64 `query:"after" minimum:"0" doc:"Only events after the one with this number."`
	Last  int64 `header:"Last-Event-ID" minimum:"0" doc:"The same, as browsers send it when they connect again."`
}, send sse.Sender) {
	after := max(in.After, in.Last)
	for ctx.Err() == nil && s.stopping.Err() == nil {
		m, err := s.ctl.Get(ctx, in.ID) // before the events: its end is one
		if err != nil {
			return
		}
		events, err := s.ctl.Events(ctx, in.ID, after, pageMost)
		if err != nil {
			return
		}
		for _, e := range events {
			if send(sse.Message{ID: int(e.Seq), Data: e}) != nil {
				return
			}
			after = e.Seq
		}
		if m.EndedAt != nil && len(events) == 0 {
			_ = send.Data(*m) // the client may have gone
			return
		}
		if len(events) == 0 {
			select {
			case <-time.After(eventPoll):
			case <-ctx.Done():
			case <-s.stopping.Done():
			}
		}
	}
}

func (s *server) live(ctx context.Context, in *MigrationID) (*reply[*migrate.Live], error) {
	ctx, cancel := context.WithTimeout(ctx, liveLimit) // a cluster that does not answer is said not to
	defer cancel()
	l, err := s.ctl.Live(ctx, in.ID)
	return &reply[*migrate.Live]{l}, err
}

func (s *server) receipt(ctx context.Context, in *MigrationID) (*reply[*migrate.Receipt], error) {
	r, err := s.ctl.Receipt(ctx, in.ID)
	return &reply[*migrate.Receipt]{r}, err
}
