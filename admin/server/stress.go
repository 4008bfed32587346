package server

import (
	"context"
	"net/http"

	"github.com/turnout-mq/turnout/admin/people"
	"github.com/turnout-mq/turnout/admin/requests"
	"github.com/turnout-mq/turnout/admin/store"
	"github.com/turnout-mq/turnout/admin/stress"
)

// StressID is part of requests about one stress task.
type StressID struct {
	ID string `path:"id" doc:"The stress task." example:"s-4"`
}

// stressAt is a task at a version.
type stressAt struct {
	ETag string `header:"ETag"`
	Body *stress.TaskView
}

func stressAtVersion(v *stress.TaskView, err error) (*stressAt, error) {
	if err != nil {
		return nil, err
	}
	return &stressAt{etag(v.Version), v}, nil
}

func (s *server) registerStress() {
	call(s, people.Read, http.MethodGet, "/stress", "list-stress", "List stress tasks, the newest first", func(ctx context.Context, in *struct {
		Page
		State []store.StressState `query:"state" enum:"preparing,ready,starting,running,stopping,stopped,removing,removed" doc:"In one of these states."`
		Name  string              `query:"name" doc:"Of this name."`
	}) (*reply[pageOf[*store.StressTask]], error) {
		list, err := s.stress.List(ctx, store.StressFilter{States: in.State, Name: in.Name, Before: in.After, Limit: in.Limit})
		return paged(list, in.Limit, func(t *store.StressTask) string { return t.ID }), err
	})
	call(s, people.Apply, http.MethodPost, "/stress/plan", "plan-stress", "What a stress task would be made of; changes nothing", func(ctx context.Context, in *struct{ Body requests.StressSpec }) (*reply[*stress.TaskPlan], error) {
		p, err := s.stress.Plan(ctx, in.Body)
		return &reply[*stress.TaskPlan]{p}, err
	}, harmless)
	call(s, people.Read, http.MethodGet, "/stress/{id}", "get-stress", "Read a stress task, with its flags and what the running instances say of them", func(ctx context.Context, in *StressID) (*stressAt, error) {
		return stressAtVersion(s.stress.Get(ctx, in.ID))
	})
	type stressHistory struct {
		Events []store.StressEvent `json:"events"`
	}
	call(s, people.Read, http.MethodGet, "/stress/{id}/events", "list-stress-events", "What happened to a stress task, oldest first", func(ctx context.Context, in *struct {
		StressID
		After int64 `query:"after" minimum:"0" doc:"Only those after the event with this number."`
	}) (*reply[stressHistory], error) {
		events, err := s.stress.History(ctx, in.ID, in.After, pageMost)
		if events == nil {
			events = []store.StressEvent{}
		}
		return &reply[stressHistory]{stressHistory{events}}, err
	})
	for what, step := range map[string]struct {
		summary string
		do      func(ctx context.Context, who people.Principal, id string, version int64) (*stress.TaskView, error)
	}{
		"start": {"Start a stress task; its applicant, owners of all its applications, and who may operate", func(ctx context.Context, who people.Principal, id string, v int64) (*stress.TaskView, error) {
			return s.stress.Start(ctx, who, id, v)
		}},
		"remove": {"Remove what was made for a stress task that does not run; the same people", func(ctx context.Context, who people.Principal, id string, v int64) (*stress.TaskView, error) {
			return s.stress.Remove(ctx, who, id, v)
		}},
	} {
		call(s, people.Apply, http.MethodPost, "/stress/{id}/"+what, what+"-stress", step.summary, func(ctx context.Context, in *struct {
			StressID
			IfMatch
		}) (*stressAt, error) {
			v, err := in.version()
			if err != nil {
				return nil, err
			}
			return stressAtVersion(step.do(ctx, people.From(ctx), in.ID, v))
		})
	}
	call(s, people.Apply, http.MethodPost, "/stress/{id}/stop", "stop-stress", "Stop a stress task, whatever its version; the same people", func(ctx context.Context, in *StressID) (*stressAt, error) {
		return stressAtVersion(s.stress.Stop(ctx, people.From(ctx), in.ID))
	})
}
