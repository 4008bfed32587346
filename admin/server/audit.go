package server

import (
	"context"
	"encoding/json"
	"net/http"
	"strconv"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/turnout-mq/turnout/admin/people"
	"github.com/turnout-mq/turnout/admin/store"
)

// AuditQuery is part of requests for the audit.
type AuditQuery struct {
	Who     string    `query:"who" doc:"Made by this user."`
	Action  string    `query:"action" example:"approve"`
	Kind    string    `query:"kind" doc:"Of what was changed." example:"request"`
	Subject string    `query:"subject" doc:"Name or id of what was changed."`
	Request string    `query:"request" doc:"Of this request." example:"r-12"`
	Address string    `query:"address" doc:"From this address."`
	From    time.Time `query:"from" doc:"At this time or later."`
	Until   time.Time `query:"until" doc:"Before this time."`
}

func (q AuditQuery) filter() store.AuditFilter {
	return store.AuditFilter{Who: q.Who, Action: q.Action, Kind: q.Kind, Subject: q.Subject, Request: q.Request, Address: q.Address, From: q.From, Until: q.Until}
}

func (s *server) registerAudit() {
	call(s, people.Read, http.MethodGet, "/audit", "search-audit", "Who changed what, the newest first", func(ctx context.Context, in *struct {
		AuditQuery
		After int64 `query:"after" minimum:"0" doc:"Go on behind this one: what next of the answer before said."`
		Limit int   `query:"limit" default:"100" minimum:"1" maximum:"1000" doc:"At most so many."`
	}) (*reply[pageOf[store.Audit]], error) {
		f := in.filter()
		f.Before, f.Limit = in.After, in.Limit
		list, err := s.db.Audits(ctx, f)
		return paged(list, in.Limit, func(a store.Audit) string { return strconv.FormatInt(a.Seq, 10) }), err
	})
	call(s, people.Read, http.MethodGet, "/audit/export", "export-audit", "All of the audit that fits, the oldest first, as JSON lines", func(ctx context.Context, in *struct{ AuditQuery }) (*huma.StreamResponse, error) {
		f := in.filter()
		f.Oldest, f.Limit = true, pageMost
		first, err := s.db.Audits(ctx, f)
		if err != nil {
			return nil, err
		}
		return &huma.StreamResponse{Body: func(c huma.Context) { s.export(c, f, first) }}, nil
	}, func(op *huma.Operation) {
		op.Responses = map[string]*huma.Response{"200": {Description: "OK", Content: map[string]*huma.MediaType{"application/jsonl": {}}}}
	})
}

// export writes what fits, some at a time. Where the store fails the answer is cut, so that nobody takes it for the whole.
func (s *server) export(c huma.Context, f store.AuditFilter, list []store.Audit) {
	c.SetHeader("Content-Type", "application/jsonl")
	c.SetStatus(http.StatusOK)
	lines := json.NewEncoder(c.BodyWriter())
	for {
		for _, a := range list {
			if lines.Encode(a) != nil { // the client has gone
				return
			}
			f.After = a.Seq
		}
		if len(list) < f.Limit {
			return
		}
		var err error
		if list, err = s.db.Audits(c.Context(), f); err != nil {
			panic(http.ErrAbortHandler)
		}
	}
}
