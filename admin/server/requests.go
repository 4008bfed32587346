package server

import (
	"context"
	"net/http"

	"go.uber.org/zap"

	"github.com/turnout-mq/turnout/admin/people"
	"github.com/turnout-mq/turnout/admin/requests"
	"github.com/turnout-mq/turnout/admin/server/api"
	"github.com/turnout-mq/turnout/admin/store"
)

// RequestID is part of requests about one request.
type RequestID struct {
	ID string `path:"id" doc:"The request." example:"r-12"`
}

// requestAt is a request at a version.
type requestAt struct {
	ETag string `header:"ETag"`
	Body *store.ChangeRequest
}

func requestAtVersion(r *store.ChangeRequest, err error) (*requestAt, error) {
	if err != nil {
		return nil, err
	}
	return &requestAt{etag(r.Version), r}, nil
}

// said is what somebody says with a decision.
type said struct {
	Note string `json:"note,omitempty" maxLength:"2000" doc:"For the applicant."`
}

func (s *server) registerRequests() {
	call(s, people.Read, http.MethodGet, "/requests", "list-requests", "List requests, the newest first", func(ctx context.Context, in *struct {
		Page
		State     []store.RequestState `query:"state" enum:"draft,submitted,approved,declined,withdrawn,expired,executing,done,failed" doc:"In one of these states."`
		Kind      string               `query:"kind" doc:"Of this kind."`
		Applicant string               `query:"applicant" doc:"Filed by this user."`
		App       string               `query:"app" doc:"Of this application."`
		Subject   string               `query:"subject" doc:"About the thing of this name."`
		Batch     string               `query:"batch" doc:"Filed together, under this name."`
		Text      string               `query:"text" doc:"Part of the name of the thing."`
		Others    bool                 `query:"others" doc:"Only those that somebody else has filed, such as those that one can decide."`
	}) (*reply[pageOf[*store.ChangeRequest]], error) {
		f := store.RequestFilter{States: in.State, Kind: in.Kind, Applicant: in.Applicant, App: in.App, Subject: in.Subject, Batch: in.Batch, Text: in.Text, Before: in.After, Limit: in.Limit}
		if in.Others {
			f.NotApplicant = people.From(ctx).Name
		}
		list, err := s.requests.List(ctx, f)
		return paged(list, in.Limit, func(r *store.ChangeRequest) string { return r.ID }), err
	})
	call(s, people.Read, http.MethodGet, "/requests/counts", "count-requests", "How many requests there are, by state", func(ctx context.Context, _ *none) (*reply[map[store.RequestState]int], error) {
		counts, err := s.requests.Count(ctx, store.RequestFilter{})
		return &reply[map[store.RequestState]int]{counts}, err
	})
	call(s, people.Apply, http.MethodPost, "/requests", "file-request", "File a request, as a draft or to be decided", func(ctx context.Context, in *struct {
		Draft bool `query:"draft" doc:"It is not to be decided yet."`
		Body  requests.New
	}) (*requestAt, error) {
		by := people.From(ctx)
		r, err := s.requests.Draft(ctx, by, in.Body)
		if err == nil && !in.Draft {
			r, err = s.submit(ctx, by, r)
		}
		return requestAtVersion(r, err)
	}, created)
	call(s, people.Read, http.MethodGet, "/requests/{id}", "get-request", "Read a request", func(ctx context.Context, in *RequestID) (*requestAt, error) {
		return requestAtVersion(s.requests.Get(ctx, in.ID))
	})
	call(s, people.Apply, http.MethodPut, "/requests/{id}", "edit-request", "Change a request that is not decided; its applicant only", func(ctx context.Context, in *struct {
		RequestID
		IfMatch
		Body requests.New
	}) (*requestAt, error) {
		v, err := in.version()
		if err != nil {
			return nil, err
		}
		return requestAtVersion(s.requests.Edit(ctx, people.From(ctx), in.ID, v, in.Body))
	})
	call(s, people.Approve, http.MethodPost, "/requests/{id}/approve", "approve-request", "Approve a request of somebody else", func(ctx context.Context, in *struct {
		RequestID
		IfMatch
		Body requests.Approval
	}) (*requestAt, error) {
		v, err := in.version()
		if err != nil {
			return nil, err
		}
		return requestAtVersion(s.requests.Approve(ctx, people.From(ctx), in.ID, v, in.Body))
	})
	call(s, people.Approve, http.MethodPost, "/requests/{id}/decline", "decline-request", "Decline a request", func(ctx context.Context, in *struct {
		RequestID
		IfMatch
		Body said
	}) (*requestAt, error) {
		v, err := in.version()
		if err != nil {
			return nil, err
		}
		return requestAtVersion(s.requests.Decline(ctx, people.From(ctx), in.ID, v, in.Body.Note))
	})
	for what, step := range map[string]struct {
		summary string
		do      func(ctx context.Context, who people.Principal, id string, version int64) (*store.ChangeRequest, error)
	}{
		"submit": {"Let a draft be decided", func(ctx context.Context, who people.Principal, id string, v int64) (*store.ChangeRequest, error) {
			return s.requests.Submit(ctx, who, id, v)
		}},
		"withdraw": {"Withdraw a request that is not decided", func(ctx context.Context, who people.Principal, id string, v int64) (*store.ChangeRequest, error) {
			return s.requests.Withdraw(ctx, who, id, v, "")
		}},
		"retry": {"Execute a request again that has failed", func(ctx context.Context, who people.Principal, id string, v int64) (*store.ChangeRequest, error) {
			return s.requests.Retry(ctx, who, id, v)
		}},
	} {
		call(s, people.Apply, http.MethodPost, "/requests/{id}/"+what, what+"-request", step.summary, func(ctx context.Context, in *struct {
			RequestID
			IfMatch
		}) (*requestAt, error) {
			v, err := in.version()
			if err != nil {
				return nil, err
			}
			return requestAtVersion(step.do(ctx, people.From(ctx), in.ID, v))
		})
	}
	call(s, people.Apply, http.MethodPost, "/requests/{id}/comments", "comment-request", "Say something about a request", func(ctx context.Context, in *struct {
		RequestID
		Body struct {
			Text string `json:"text" minLength:"1" maxLength:"2000"`
		}
	}) (*none, error) {
		return nil, s.requests.Comment(ctx, people.From(ctx), in.ID, in.Body.Text)
	})
	type history struct {
		Events []store.RequestEvent `json:"events"`
	}
	call(s, people.Read, http.MethodGet, "/requests/{id}/events", "list-request-events", "What happened to a request, oldest first", func(ctx context.Context, in *struct {
		RequestID
		After int64 `query:"after" minimum:"0" doc:"Only those after the event with this number."`
	}) (*reply[history], error) {
		events, err := s.requests.History(ctx, in.ID, in.After, pageMost)
		if events == nil {
			events = []store.RequestEvent{}
		}
		return &reply[history]{history{events}}, err
	})
	call(s, people.Apply, http.MethodPost, "/offsets/plan", "plan-offsets", "What a request for other positions would do; changes nothing", func(ctx context.Context, in *struct{ Body requests.OffsetsSpec }) (*reply[*requests.OffsetsPlan], error) {
		p, err := s.requests.PlanOffsets(ctx, in.Body)
		return &reply[*requests.OffsetsPlan]{p}, err
	}, harmless)
	s.registerPolicies()
}

// submit lets a new request be decided; one that can not be is taken back, so that it is not left behind as a draft.
func (s *server) submit(ctx context.Context, by people.Principal, r *store.ChangeRequest) (*store.ChangeRequest, error) {
	submitted, err := s.requests.Submit(ctx, by, r.ID, r.Version)
	if err != nil {
		why := api.Describe(err)
		if why.Status == http.StatusInternalServerError {
			why.Message = fault
		}
		if _, err := s.requests.Withdraw(ctx, by, r.ID, r.Version, "it was refused: "+why.Message); err != nil { // it stays a draft, which harms nobody
			s.log.Info("a request that was refused stays a draft", zap.String("request", r.ID), zap.Error(err))
		}
	}
	return submitted, err
}

func (s *server) registerPolicies() {
	call(s, people.Read, http.MethodGet, "/policies", "list-policies", "Which kinds of requests need an approval", func(ctx context.Context, _ *none) (*reply[[]store.RequestPolicy], error) {
		list, err := s.requests.Policies(ctx)
		return &reply[[]store.RequestPolicy]{list}, err
	})
	call(s, people.Admin, http.MethodPut, "/policies/{kind}", "put-policy", "Change the policy of a kind of requests", func(ctx context.Context, in *struct {
		Kind string `path:"kind" example:"topic" doc:"The kind of requests."`
		Body store.RequestPolicy
	}) (*reply[store.RequestPolicy], error) {
		in.Body.Kind = in.Kind
		p, err := s.requests.PutPolicy(ctx, people.From(ctx), in.Body)
		return &reply[store.RequestPolicy]{p}, err
	})
	call(s, people.Read, http.MethodGet, "/rules", "list-rules", "The allotment rules, in the order in which they are asked", func(ctx context.Context, _ *none) (*reply[[]requests.Rule], error) {
		list, err := s.requests.Rules(ctx)
		return &reply[[]requests.Rule]{list}, err
	})
	call(s, people.Admin, http.MethodPut, "/rules/{name}", "put-rule", "Make or replace an allotment rule", func(ctx context.Context, in *struct {
		Name string `path:"name" doc:"Of the rule."`
		Body requests.Rule
	}) (*reply[requests.Rule], error) {
		in.Body.Name = in.Name
		r, err := s.requests.PutRule(ctx, people.From(ctx), in.Body)
		return &reply[requests.Rule]{r}, err
	})
	call(s, people.Admin, http.MethodDelete, "/rules/{name}", "delete-rule", "Remove an allotment rule", func(ctx context.Context, in *struct {
		Name string `path:"name" doc:"Of the rule."`
		IfMatch
	}) (*none, error) {
		v, err := in.version()
		if err != nil {
			return nil, err
		}
		return nil, s.requests.DeleteRule(ctx, people.From(ctx), in.Name, v)
	})
}
