package requests

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/turnout-mq/turnout/admin/migrate"
	"github.com/turnout-mq/turnout/admin/people"
	"github.com/turnout-mq/turnout/admin/store"
	"github.com/turnout-mq/turnout/internal/clusters"
	"github.com/turnout-mq/turnout/internal/errs"
	"github.com/turnout-mq/turnout/metadata"
)

// Handler is what a kind of requests does.
type Handler interface {
	// Check says whom a spec concerns, or why it is not acceptable (ErrInvalid, with field and remedy; ErrConflict, ErrNotFound). A
	// draft is looked at by itself; when submitted the world is looked at too.
	Check(ctx context.Context, spec json.RawMessage, submitted bool) (Target, error)
	// Execute does what was approved, or goes on with what another server has begun. It may be called again at any time, so each
	// step must be one that can be repeated. nil: it is done. An error that Final has made, ErrInvalid, ErrNotAllowed,
	// ErrNotFound and ErrUnsupported fail the request; after any other it is called again. ctx ends when another server
	// may execute the request.
	Execute(ctx context.Context, run *Run) error
}

// Target is what a request concerns.
type Target struct {
	App     string   // the application; its owners may file the request. "": nobody owns it
	Apps    []string // further ones, whose owner one must be as well
	Subject string   // name of what is changed; executions of one subject are done one after the other
}

// Config says what a Service works with.
type Config struct {
	Store      *store.Store
	Meta       *metadata.Store
	Pool       *clusters.Pool
	Open       clusters.OpenFunc // opens a cluster that is not registered yet
	Migrations *migrate.Controller
	// Server is the id of this server, for the audit.
	Server string
	// Handlers are those of kinds that other packages have: KindStress. A kind without one is refused (ErrUnsupported).
	Handlers map[string]Handler
	Webhook  *Webhook // nil: none
	// Secrets are what requests may name as the login of a cluster. Empty: DefaultPlaces.
	Secrets Places
	// Attempts is how often a step is tried that fails for a reason that may pass. Default 20, which with pauses from a
	// second to a minute is about a quarter of an hour.
	Attempts int
	Logger   *zap.Logger // nil: none

	now   func() time.Time                                // for tests; nil: time.Now
	pause func(attempt int) time.Duration                 // for tests; nil: backoff
	at    func(ctx context.Context, request, step string) // for tests: called between the steps
}

// Service is the workflow of requests. All methods may be called concurrently. Those that change something audit it as the actor of ctx
// (store.WithActor). Errors: ErrInvalid, ErrNotFound, ErrNotAllowed (permission, ownership, four eyes), ErrConflict (another
// version, or a state in which it is not possible), ErrUnsupported.
type Service struct {
	cfg      Config
	db       *store.Store
	meta     *metadata.Store
	log      *zap.Logger
	handlers map[string]Handler
	names    names

	mu   sync.Mutex
	wake chan struct{} // closed and replaced: look at once

	told struct{ taken, failed, givenUp atomic.Int64 }
}

// NewService makes a Service. Nothing runs before Run. ErrInvalid: the configuration of the webhook or of the secrets is not acceptable.
func NewService(cfg Config) (*Service, error) {
	if cfg.Logger == nil {
		cfg.Logger = zap.NewNop()
	}
	if cfg.Attempts <= 0 {
		cfg.Attempts = 20
	}
	if cfg.now == nil {
		cfg.now = time.Now
	}
	if cfg.pause == nil {
		cfg.pause = grow
	}
	if cfg.at == nil {
		cfg.at = func(context.Context, string, string) {}
	}
	if len(cfg.Secrets) == 0 {
		cfg.Secrets = DefaultPlaces()
	}
	if err := cfg.Secrets.Check(); err != nil {
		return nil, err
	}
	if cfg.Webhook != nil {
		if err := cfg.Webhook.Check(); err != nil {
			return nil, err
		}
	}
	s := &Service{cfg: cfg, db: cfg.Store, meta: cfg.Meta, log: cfg.Logger, wake: make(chan struct{})}
	s.handlers = map[string]Handler{
		KindTopic: topicHandler{s}, KindGroup: groupHandler{s}, KindCluster: clusterHandler{s}, KindSettings: settingsHandler{s},
		KindMigration: migrationHandler{s}, KindDeletion: deletionHandler{s}, KindClaim: claimHandler{s}, KindOffsets: offsetsHandler{s},
	}
	for kind, h := range cfg.Handlers {
		s.handlers[kind] = h
	}
	return s, nil
}

func (s *Service) handler(kind string) (Handler, error) {
	h := s.handlers[kind]
	if h == nil {
		return nil, fmt.Errorf("%w: requests of kind %q are not possible on this server", errs.ErrUnsupported, kind)
	}
	return h, nil
}

// check is that of the handler, who reads what was written anywhere before this. What a queue or an owner belongs to has a name like
// everything else.
func (s *Service) check(ctx context.Context, h Handler, spec json.RawMessage, submitted bool) (Target, error) {
	if err := s.meta.Sync(ctx, s.meta.Root); err != nil {
		return Target{}, err
	}
	t, err := h.Check(ctx, spec, submitted)
	if err == nil {
		err = metadata.CheckName("subject", t.Subject)
	}
	if err == nil && t.App != "" {
		err = metadata.CheckName("application", t.App)
	}
	return t, err
}

// mayFile: an application with owners is theirs, and the administrators'. A claim is how one becomes an owner.
func (s *Service) mayFile(ctx context.Context, who people.Principal, kind string, t Target) error {
	if err := who.Need(people.Apply); err != nil {
		return err
	}
	if kind == KindCluster && !who.Can(people.Operate) {
		return fmt.Errorf("%w: clusters are registered by who has the permission %s: ask an approver to apply for it", errs.ErrNotAllowed, people.Operate)
	}
	if kind == KindClaim || who.Can(people.Admin) {
		return nil
	}
	for _, app := range append([]string{t.App}, t.Apps...) {
		if app == "" {
			continue
		}
		owners, err := s.db.Owners(ctx, app)
		if err != nil {
			return err
		}
		if len(owners) > 0 && !slices.Contains(owners, who.Name) {
			return fmt.Errorf("%w: application %s belongs to %s: claim ownership first, or ask them to file the request", errs.ErrNotAllowed, app, strings.Join(owners, ", "))
		}
	}
	return nil
}

// Draft stores a new request that is not submitted yet. Its fields are looked at, the world is not.
func (s *Service) Draft(ctx context.Context, who people.Principal, n New) (*store.ChangeRequest, error) {
	kind, spec, err := n.spec()
	if err != nil {
		return nil, err
	}
	h, err := s.handler(kind)
	if err != nil {
		return nil, err
	}
	if err := who.Need(people.Apply); err != nil {
		return nil, err
	}
	target, err := s.check(ctx, h, spec, false)
	if err != nil {
		return nil, err
	}
	if err := s.mayFile(ctx, who, kind, target); err != nil {
		return nil, err
	}
	r := &store.ChangeRequest{Kind: kind, State: store.Draft, Applicant: who.Name, App: target.App, Subject: target.Subject, Batch: n.Batch, Reason: n.Reason, Spec: spec}
	err = s.db.CreateRequest(ctx, r, store.RequestChanges{Action: "draft", Events: []store.RequestEvent{said(who, "drafted", "")}, Tell: s.telling(who.Name, "drafted")})
	if err != nil {
		return nil, err
	}
	return r, nil
}

// said is an event of the history.
func said(who people.Principal, kind, text string) store.RequestEvent {
	return store.RequestEvent{Who: who.Name, Kind: kind, Text: text}
}

// read reads a request that is at that version, if one is said.
func (s *Service) read(ctx context.Context, id string, version int64) (*store.ChangeRequest, error) {
	r, err := s.db.ChangeRequest(ctx, id)
	if err != nil {
		return nil, err
	}
	if version != 0 && r.Version != version {
		return nil, fmt.Errorf("%w: %s is at version %d (state %s) and the change was made of version %d: read it again, decide again", store.ErrChanged, id, r.Version, r.State, version)
	}
	return r, nil
}

// in is ErrConflict if r is in none of the states.
func in(r *store.ChangeRequest, to string, states ...store.RequestState) error {
	if slices.Contains(states, r.State) {
		return nil
	}
	return fmt.Errorf("%w: %s is %s and can not be %s", errs.ErrConflict, r.ID, r.State, to)
}

func own(who people.Principal, r *store.ChangeRequest, to string) error {
	if who.Name != r.Applicant {
		return fmt.Errorf("%w: %s belongs to %s, and only the applicant can %s it", errs.ErrNotAllowed, r.ID, r.Applicant, to)
	}
	return nil
}

// Submit asks for a decision. Now the world is looked at: what exists already, what is missing, who else asks for the same. Where the
// policy of the kind asks for no approval, the request is approved at once. version 0: whatever it is.
func (s *Service) Submit(ctx context.Context, who people.Principal, id string, version int64) (*store.ChangeRequest, error) {
	r, err := s.read(ctx, id, version)
	if err != nil {
		return nil, err
	}
	if err := own(who, r, "submit"); err != nil {
		return nil, err
	}
	if err := in(r, "submitted", store.Draft); err != nil {
		return nil, err
	}
	if err := s.checked(ctx, who, r); err != nil {
		return nil, err
	}
	policy, err := s.Policy(ctx, r.Kind)
	if err != nil {
		return nil, err
	}
	now := s.cfg.now()
	expires := now.AddDate(0, 0, policy.Days)
	r.State, r.SubmittedAt, r.ExpiresAt = store.Submitted, &now, &expires
	events := []store.RequestEvent{said(who, "submitted", "")}
	if !policy.Approval {
		if err := s.approve(ctx, r, store.System, Approval{Note: "the policy of " + r.Kind + " asks for no approval"}); err != nil {
			return nil, err
		}
		events = append(events, store.RequestEvent{Who: store.System, Kind: "approved", Text: r.Decision})
	}
	ch := store.RequestChanges{Action: "submit", Events: events, Tell: s.telling(who.Name, string(r.State))}
	if r.State == store.Approved {
		ch.FirstOwner = firstOwner(r)
	}
	if err := s.db.UpdateRequest(ctx, r, ch); err != nil {
		return nil, err
	}
	s.Kick()
	return r, nil
}

// checked looks at a request as it is submitted.
func (s *Service) checked(ctx context.Context, who people.Principal, r *store.ChangeRequest) error {
	h, err := s.handler(r.Kind)
	if err != nil {
		return err
	}
	target, err := s.check(ctx, h, r.Spec, true)
	if err != nil {
		return err
	}
	if err := s.mayFile(ctx, who, r.Kind, target); err != nil {
		return err
	}
	open, err := s.db.ChangeRequests(ctx, store.RequestFilter{Kind: r.Kind, Subject: target.Subject, States: undone})
	if err != nil {
		return err
	}
	for _, other := range open {
		if other.ID != r.ID && (r.Kind != KindClaim || other.Applicant == r.Applicant) {
			return fmt.Errorf("%w: %s by %s asks for a %s of %s already and is %s: comment on that one, or wait for its end", errs.ErrConflict, other.ID, other.Applicant, r.Kind, target.Subject, other.State)
		}
	}
	r.App, r.Subject = target.App, target.Subject
	return nil
}

// undone are the states of requests that may still change something.
var undone = []store.RequestState{store.Submitted, store.Approved, store.Executing}

// Edit replaces what is asked for, and why, until that is decided. The kind stays. version must be that which was read.
func (s *Service) Edit(ctx context.Context, who people.Principal, id string, version int64, n New) (*store.ChangeRequest, error) {
	r, err := s.readAt(ctx, id, version)
	if err != nil {
		return nil, err
	}
	if err := own(who, r, "edit"); err != nil {
		return nil, err
	}
	kind, spec, err := n.spec()
	if err != nil {
		return nil, err
	}
	if kind != r.Kind {
		return nil, fmt.Errorf("%w: %s asks for a %s and can not become one for a %s: withdraw it and file another", errs.ErrInvalid, id, r.Kind, kind)
	}
	if err := in(r, "edited", store.Draft, store.Submitted); err != nil {
		return nil, err
	}
	before := r.Spec
	r.Spec, r.Reason = spec, n.Reason
	if r.State == store.Submitted {
		err = s.checked(ctx, who, r)
	} else {
		var h Handler
		var target Target
		if h, err = s.handler(kind); err == nil {
			if target, err = s.check(ctx, h, spec, false); err == nil {
				r.App, r.Subject = target.App, target.Subject
				err = s.mayFile(ctx, who, kind, target)
			}
		}
	}
	if err != nil {
		return nil, err
	}
	data, err := json.Marshal(map[string]json.RawMessage{"before": before, "after": spec})
	if err != nil {
		return nil, err
	}
	e := said(who, "edited", "")
	e.Data = data
	if err := s.db.UpdateRequest(ctx, r, store.RequestChanges{Action: "edit", Events: []store.RequestEvent{e}, Tell: s.telling(who.Name, "edited")}); err != nil {
		return nil, err
	}
	return r, nil
}

// readAt is read with a version that must be said.
func (s *Service) readAt(ctx context.Context, id string, version int64) (*store.ChangeRequest, error) {
	if version <= 0 {
		return nil, fmt.Errorf("%w: version %d: give the version that was read, so that nothing else is decided", errs.ErrInvalid, version)
	}
	return s.read(ctx, id, version)
}

// Approval is what whoever approves says.
type Approval struct {
	Cluster string `json:"cluster,omitempty" doc:"of a topic: the cluster that it gets; empty: the one wished for, else by the allotment rules"`
	Note    string `json:"note,omitempty" maxLength:"2000" doc:"for the applicant"`
}

// Approve lets a request be executed. version must be that which was read. Nobody approves the own request.
func (s *Service) Approve(ctx context.Context, who people.Principal, id string, version int64, a Approval) (*store.ChangeRequest, error) {
	r, err := s.decide(ctx, who, id, version, "approved")
	if err != nil {
		return nil, err
	}
	h, err := s.handler(r.Kind)
	if err != nil {
		return nil, err
	}
	if _, err := s.check(ctx, h, r.Spec, true); err != nil { // the world has gone on
		return nil, fmt.Errorf("%s can not be approved as it is: %w", id, err)
	}
	if err := s.approve(ctx, r, who.Name, a); err != nil {
		return nil, err
	}
	return s.decided(ctx, who, r, "approve", "approved")
}

// firstOwner owns the application of an accepted request if nobody does.
func firstOwner(r *store.ChangeRequest) string {
	if r.App == "" || r.Kind == KindClaim {
		return ""
	}
	return r.Applicant
}

// approve makes r an approved request.
func (s *Service) approve(ctx context.Context, r *store.ChangeRequest, by string, a Approval) error {
	if err := words("note", a.Note); err != nil {
		return err
	}
	switch {
	case r.Kind == KindTopic:
		spec, err := decode[TopicSpec](KindTopic, r.Spec)
		if err != nil {
			return err
		}
		if r.Cluster, r.ClusterReason, err = s.allot(ctx, spec, a.Cluster, by); err != nil {
			return err
		}
	case a.Cluster != "":
		return fmt.Errorf("%w: cluster %q: only a topic is allotted a cluster, and this is a %s: leave it out", errs.ErrInvalid, a.Cluster, r.Kind)
	}
	now := s.cfg.now()
	r.State, r.DecidedBy, r.DecidedAt, r.Decision, r.ExpiresAt = store.Approved, by, &now, a.Note, nil
	return nil
}

// decide reads a request that somebody is about to decide.
func (s *Service) decide(ctx context.Context, who people.Principal, id string, version int64, to string) (*store.ChangeRequest, error) {
	if err := who.Need(people.Approve); err != nil {
		return nil, err
	}
	r, err := s.readAt(ctx, id, version)
	if err != nil {
		return nil, err
	}
	if who.Name == r.Applicant {
		return nil, fmt.Errorf("%w: %s is your own request and can not be %s by you: somebody else has to decide (four eyes), or withdraw it", errs.ErrNotAllowed, id, to)
	}
	return r, in(r, to, store.Submitted)
}

func (s *Service) decided(ctx context.Context, who people.Principal, r *store.ChangeRequest, action, kind string) (*store.ChangeRequest, error) {
	ch := store.RequestChanges{Action: action, Events: []store.RequestEvent{said(who, kind, r.Decision)}, Tell: s.telling(who.Name, kind)}
	if r.State == store.Approved {
		ch.FirstOwner = firstOwner(r)
	}
	if err := s.db.UpdateRequest(ctx, r, ch); err != nil {
		return nil, err
	}
	s.Kick()
	return r, nil
}

// Decline ends a request without doing it. note says why.
func (s *Service) Decline(ctx context.Context, who people.Principal, id string, version int64, note string) (*store.ChangeRequest, error) {
	r, err := s.decide(ctx, who, id, version, "declined")
	if err != nil {
		return nil, err
	}
	if strings.TrimSpace(note) == "" {
		return nil, fmt.Errorf("%w: note is empty: say why, for the applicant", errs.ErrInvalid)
	}
	if err := words("note", note); err != nil {
		return nil, err
	}
	s.end(r, store.Declined, who.Name, note)
	return s.decided(ctx, who, r, "decline", "declined")
}

// end makes r a request that was not executed and never will be.
func (s *Service) end(r *store.ChangeRequest, state store.RequestState, by, note string) {
	now := s.cfg.now()
	r.State, r.DecidedBy, r.DecidedAt, r.Decision, r.EndedAt, r.ExpiresAt = state, by, &now, note, &now, nil
}

// Withdraw ends a request whose execution has not begun, by who has filed it or an administrator. note says why; it may be empty, and
// what of it can not be stored is left out.
func (s *Service) Withdraw(ctx context.Context, who people.Principal, id string, version int64, note string) (*store.ChangeRequest, error) {
	r, err := s.read(ctx, id, version)
	if err != nil {
		return nil, err
	}
	if err := who.Need(people.Apply); err != nil {
		return nil, err
	}
	if err := own(who, r, "withdraw"); err != nil && !who.Can(people.Admin) {
		return nil, err
	}
	if err := in(r, "withdrawn", store.Draft, store.Submitted, store.Approved); err != nil {
		return nil, err
	}
	s.end(r, store.Withdrawn, who.Name, tidied(note))
	return s.decided(ctx, who, r, "withdraw", "withdrawn")
}

// Retry executes a failed request again, by who has filed it or may operate.
func (s *Service) Retry(ctx context.Context, who people.Principal, id string, version int64) (*store.ChangeRequest, error) {
	r, err := s.read(ctx, id, version)
	if err != nil {
		return nil, err
	}
	if err := who.Need(people.Apply); err != nil {
		return nil, err
	}
	if err := own(who, r, "retry"); err != nil && !who.Can(people.Operate) {
		return nil, err
	}
	if err := in(r, "retried", store.RequestBad); err != nil {
		return nil, err
	}
	r.State, r.Attempts, r.Error, r.NextAt, r.EndedAt = store.Executing, 0, "", nil, nil
	r.Step = "" // the world has changed since: it is looked at anew
	ch := store.RequestChanges{Action: "retry", Events: []store.RequestEvent{said(who, "retried", "")}, Tell: s.telling(who.Name, "retried")}
	if err := s.db.UpdateRequest(ctx, r, ch); err != nil {
		return nil, err
	}
	s.Kick()
	return r, nil
}

// Comment adds to the history of a request, whatever its state.
func (s *Service) Comment(ctx context.Context, who people.Principal, id, text string) error {
	if err := who.Need(people.Apply); err != nil {
		return err
	}
	if strings.TrimSpace(text) == "" {
		return fmt.Errorf("%w: text is empty: say something", errs.ErrInvalid)
	}
	if err := words("text", text); err != nil {
		return err
	}
	return s.db.AddRequestEvent(ctx, id, "comment", said(who, "comment", text))
}

// Get reads a request.
func (s *Service) Get(ctx context.Context, id string) (*store.ChangeRequest, error) {
	return s.db.ChangeRequest(ctx, id)
}

// History reads what has happened to a request, comments among it, after the event with that number.
func (s *Service) History(ctx context.Context, id string, after int64, limit int) ([]store.RequestEvent, error) {
	return s.db.RequestEvents(ctx, id, after, limit)
}

// List reads requests, the newest first.
func (s *Service) List(ctx context.Context, f store.RequestFilter) ([]*store.ChangeRequest, error) {
	return s.db.ChangeRequests(ctx, f)
}

// Count counts requests by state.
func (s *Service) Count(ctx context.Context, f store.RequestFilter) (map[store.RequestState]int, error) {
	return s.db.CountRequests(ctx, f)
}

// Kick makes Run look at once.
func (s *Service) Kick() {
	s.mu.Lock()
	defer s.mu.Unlock()
	close(s.wake)
	s.wake = make(chan struct{})
}

func (s *Service) kicked() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.wake
}
