package people

import (
	"context"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	"go.uber.org/zap"

	"github.com/turnout-mq/turnout/admin/store"
	"github.com/turnout-mq/turnout/internal/errs"
	"github.com/turnout-mq/turnout/metadata"
)

// Options of a Service. The zero value is good.
type Options struct {
	Hashing Hashing
	// SessionIdle ends a session that was not used for so long; 1 h, give or take a minute. SessionMost ends every one; 12 h.
	SessionIdle, SessionMost time.Duration
	// TokenMost is the longest life of a token; 366 days.
	TokenMost time.Duration
	// PerAddress and PerName bound attempts to log in that fail: 10 at once and one each 6 s, 30 at once and one each 3 s.
	PerAddress, PerName store.Rate
	Now                 func() time.Time // time.Now
	Log                 *zap.Logger      // nil: none
}

const (
	oneTimeLife  = 24 * time.Hour
	tokenDefault = 90 * 24 * time.Hour
	tokensMost   = 100         // of a user
	sessionsMost = 20          // of a user
	seenEvery    = time.Minute // how coarse the last use of sessions and tokens is
	sweepEvery   = time.Minute
)

// Service is what the platform knows of people. Any number of servers may have one on the same store.
type Service struct {
	db     *store.Store
	o      Options
	hasher *hasher
	log    *zap.Logger
}

// New makes a service. It starts nothing; see Run.
func New(db *store.Store, o Options) *Service {
	if o.SessionIdle <= 0 {
		o.SessionIdle = time.Hour
	}
	if o.SessionMost <= 0 {
		o.SessionMost = 12 * time.Hour
	}
	if o.TokenMost <= 0 {
		o.TokenMost = 366 * 24 * time.Hour
	}
	if o.PerAddress == (store.Rate{}) {
		o.PerAddress = store.Rate{Burst: 10, Every: 6 * time.Second}
	}
	if o.PerName == (store.Rate{}) {
		o.PerName = store.Rate{Burst: 30, Every: 3 * time.Second}
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Log == nil {
		o.Log = zap.NewNop()
	}
	return &Service{db: db, o: o, hasher: newHasher(o.Hashing), log: o.Log}
}

// Run removes what has expired, now and every minute, until ctx ends. What can not be done is logged and tried again.
func (s *Service) Run(ctx context.Context) {
	tick := time.NewTicker(sweepEvery)
	defer tick.Stop()
	for {
		if err := s.Sweep(ctx); err != nil && ctx.Err() == nil {
			s.log.Warn("what has expired can not be removed", zap.Error(err))
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// Sweep removes sessions and one-time tokens that have expired, and attempts to log in that no longer count. It saves space;
// what has expired is refused without it.
func (s *Service) Sweep(ctx context.Context) error {
	now := s.o.Now()
	return s.db.SweepCredentials(ctx, now, now.Add(-s.o.SessionIdle))
}

// User is somebody who can log in.
type User = store.User

// NewUser is somebody who shall be able to log in.
type NewUser struct {
	Name     string `json:"name" minLength:"1" maxLength:"63" pattern:"^[a-z0-9][a-z0-9._@-]*$" example:"alice" doc:"Never changes"`
	Role     Role   `json:"role" enum:"viewer,applicant,approver,administrator" doc:"What the user may do"`
	Password string `json:"password,omitempty" maxLength:"1024" doc:"Without one the answer has a one-time token for setting it"`
}

// Invitation lets a user set the password, once.
type Invitation struct {
	Token   string    `json:"token" doc:"Shown only here"`
	Expires time.Time `json:"expires"`
}

var nameRule = regexp.MustCompile(`^[a-z0-9][a-z0-9._@-]{0,62}$`)

func checkName(name string) error {
	switch {
	case !nameRule.MatchString(name):
		return fmt.Errorf("%w: name %.80q: must be 1 to 63 of a-z 0-9 . _ @ - and begin with a letter or a digit", errs.ErrInvalid, name)
	case name == store.System:
		return fmt.Errorf("%w: name %q: is that of the platform itself; take another one", errs.ErrInvalid, name)
	}
	return nil
}

func checkRole(r Role) error {
	if PermissionsOf(r) == nil {
		return fmt.Errorf("%w: role %.80q: must be viewer, applicant, approver or administrator", errs.ErrInvalid, r)
	}
	return nil
}

// CreateUser makes a user, and an invitation if there is no password. It needs the permission admin. ErrConflict: the name is
// taken.
func (s *Service) CreateUser(ctx context.Context, by Principal, n NewUser) (*User, *Invitation, error) {
	if err := by.Need(Admin); err != nil {
		return nil, nil, err
	}
	if err := checkName(n.Name); err != nil {
		return nil, nil, err
	}
	if err := checkRole(n.Role); err != nil {
		return nil, nil, err
	}
	u := &User{Name: n.Name, Role: n.Role, CreatedAt: s.o.Now()}
	var invitation *Invitation
	var stored *store.OneTime
	if n.Password == "" {
		invitation, stored = s.newInvitation(n.Name)
	} else {
		if err := checkPassword(n.Name, n.Password); err != nil {
			return nil, nil, err
		}
		var err error
		if u.Password, err = s.hasher.hash(ctx, n.Password); err != nil {
			return nil, nil, err
		}
	}
	if err := s.db.CreateUser(With(ctx, by), u, stored); err != nil {
		return nil, nil, err
	}
	return u, invitation, nil
}

func (s *Service) newInvitation(user string) (*Invitation, *store.OneTime) {
	now := s.o.Now().UTC()
	i := &Invitation{Token: newSecret(oneTimePrefix), Expires: now.Add(oneTimeLife)}
	return i, &store.OneTime{User: user, Hash: digest(i.Token), Created: now, Expires: i.Expires}
}

// Invite gives a user a one-time token for setting the password, in place of one that was given before: for one who has
// forgotten the password, or whose invitation has expired. The password stays until then. It needs the permission admin.
func (s *Service) Invite(ctx context.Context, by Principal, name string) (*Invitation, error) {
	if err := by.Need(Admin); err != nil {
		return nil, err
	}
	if err := checkName(name); err != nil {
		return nil, err
	}
	i, stored := s.newInvitation(name)
	if err := s.db.PutOneTime(With(ctx, by), *stored); err != nil {
		return nil, err
	}
	return i, nil
}

// GetUser returns a user: everybody themselves, who has the permission admin anybody.
func (s *Service) GetUser(ctx context.Context, by Principal, name string) (*User, error) {
	if by.Name == "" || by.Name != name {
		if err := by.Need(Admin); err != nil {
			return nil, err
		}
	}
	return s.find(ctx, name)
}

// find knows that what is no name of a user is not found.
func (s *Service) find(ctx context.Context, name string) (*User, error) {
	if checkName(name) != nil {
		return nil, fmt.Errorf("there is no user %.80q: %w", name, errs.ErrNotFound)
	}
	return s.db.User(ctx, name)
}

// ListUsers returns users by name, at most limit of those after the given name. It needs the permission admin.
func (s *Service) ListUsers(ctx context.Context, by Principal, after string, limit int) ([]User, error) {
	if err := by.Need(Admin); err != nil {
		return nil, err
	}
	if after != "" {
		if err := checkName(after); err != nil {
			return nil, err
		}
	}
	return s.db.Users(ctx, after, limit)
}

// SetRole changes what a user may do, at once, if the user is still at that version (0: whichever it is). It needs the
// permission admin. ErrConflict: another version, or the last administrator.
func (s *Service) SetRole(ctx context.Context, by Principal, name string, version int64, role Role) (*User, error) {
	if err := checkRole(role); err != nil {
		return nil, err
	}
	return s.update(ctx, by, name, version, store.UserChange{Action: "set-role", Role: &role})
}

// Disable keeps a user out: sessions end and tokens are revoked, at once. Enable lets the user in again. Both as SetRole.
func (s *Service) Disable(ctx context.Context, by Principal, name string, version int64) (*User, error) {
	disabled := true
	return s.update(ctx, by, name, version, store.UserChange{Action: "disable", Disabled: &disabled})
}

// Enable is the opposite of Disable; the tokens remain revoked.
func (s *Service) Enable(ctx context.Context, by Principal, name string, version int64) (*User, error) {
	disabled := false
	return s.update(ctx, by, name, version, store.UserChange{Action: "enable", Disabled: &disabled})
}

func (s *Service) update(ctx context.Context, by Principal, name string, version int64, c store.UserChange) (*User, error) {
	if err := by.Need(Admin); err != nil {
		return nil, err
	}
	if _, err := s.find(ctx, name); err != nil {
		return nil, err
	}
	return s.db.UpdateUser(With(ctx, by), name, version, c)
}

// Owners returns the users who own an application, by name; none: nobody does. It needs the permission read. What owners may
// and others may not is a matter of admin/requests.
func (s *Service) Owners(ctx context.Context, by Principal, app string) ([]string, error) {
	if err := by.Need(Read); err != nil {
		return nil, err
	}
	if err := metadata.CheckName("application", app); err != nil {
		return nil, err
	}
	return s.db.Owners(ctx, app)
}

// Owned returns the applications that a user owns. It needs the permission read.
func (s *Service) Owned(ctx context.Context, by Principal, user string) ([]string, error) {
	if err := by.Need(Read); err != nil {
		return nil, err
	}
	if err := checkName(user); err != nil {
		return nil, err
	}
	return s.db.AppsOf(ctx, user)
}

// AddOwner makes a user an owner of an application. Owners with the permission apply may do that, and who has the permission
// admin.
func (s *Service) AddOwner(ctx context.Context, by Principal, app, user string) error {
	if _, err := s.ownersFor(ctx, by, app); err != nil {
		return err
	}
	if _, err := s.find(ctx, user); err != nil {
		return err
	}
	return s.db.AddOwner(With(ctx, by), app, user)
}

// RemoveOwner is the opposite of AddOwner. Only who has the permission admin may remove the last one: whoever files the next
// request of the application owns it then.
func (s *Service) RemoveOwner(ctx context.Context, by Principal, app, user string) error {
	owners, err := s.ownersFor(ctx, by, app)
	if err != nil {
		return err
	}
	if len(owners) == 1 && owners[0] == user && !by.Can(Admin) {
		return fmt.Errorf("%w: %s is the last owner of %s: add another one first, or ask an administrator", errs.ErrNotAllowed, user, app)
	}
	if _, err := s.find(ctx, user); err != nil {
		return err
	}
	return s.db.RemoveOwner(With(ctx, by), app, user)
}

// ownersFor returns the owners of an application if by may change them.
func (s *Service) ownersFor(ctx context.Context, by Principal, app string) ([]string, error) {
	if err := by.Need(Apply); err != nil {
		return nil, err
	}
	if err := metadata.CheckName("application", app); err != nil {
		return nil, err
	}
	owners, err := s.db.Owners(ctx, app)
	if err == nil && !by.Can(Admin) && !slices.Contains(owners, by.Name) {
		err = fmt.Errorf("%w: only owners of %s and administrators may change its owners (%s)", errs.ErrNotAllowed, app, list(owners))
	}
	return owners, err
}

// Token lets a program act for its owner.
type Token = store.Token

// NewToken is one that shall be made.
type NewToken struct {
	Name   string       `json:"name" minLength:"1" maxLength:"100" example:"deploy pipeline" doc:"What it is for"`
	Owner  string       `json:"owner,omitempty" doc:"The user for whom it acts; by default who asks. Administrators may name another one"`
	Scopes []Permission `json:"scopes" minItems:"1" enum:"read,apply,approve,operate,admin" doc:"What it may do at most; its owner's role bounds that too"`
	// Expires: zero is in 90 days.
	Expires time.Time `json:"expires,omitzero" doc:"By default in 90 days, at most in 366"`
}

// CreateToken makes a token and returns its secret, which is not stored. It needs a session. For another user it needs the
// permission admin; the scopes must be among what by can itself, and Approve is none for another one.
func (s *Service) CreateToken(ctx context.Context, by Principal, n NewToken) (t *Token, secret string, err error) {
	if n.Owner == "" {
		n.Owner = by.Name
	}
	need := Read
	if n.Owner != by.Name {
		need = Admin
	}
	if err := by.Need(need); err != nil {
		return nil, "", err
	}
	if err := by.session(); err != nil {
		return nil, "", err
	}
	now := s.o.Now()
	if n.Expires.IsZero() {
		n.Expires = now.Add(min(tokenDefault, s.o.TokenMost))
	}
	t = &Token{Name: n.Name, Owner: n.Owner, CreatedAt: now, ExpiresAt: n.Expires}
	unreadable := strings.ContainsFunc(n.Name, func(r rune) bool { return r < ' ' || r == '\uFFFD' })
	switch {
	case strings.TrimSpace(n.Name) == "" || len(n.Name) > 100 || unreadable:
		return nil, "", fmt.Errorf("%w: name %.120q: must say in 1 to 100 bytes what the token is for", errs.ErrInvalid, n.Name)
	case !n.Expires.After(now) || n.Expires.After(now.Add(s.o.TokenMost)):
		return nil, "", fmt.Errorf("%w: expires %s: must be in the future and at most %d days away", errs.ErrInvalid,
			n.Expires.UTC().Format(time.RFC3339), int(s.o.TokenMost.Hours()/24))
	case len(n.Scopes) == 0:
		return nil, "", fmt.Errorf("%w: scopes: are missing; name some of %s", errs.ErrInvalid, list(Permissions()))
	}
	for _, p := range Permissions() { // each once and in this order
		if slices.Contains(n.Scopes, p) {
			t.Scopes = append(t.Scopes, string(p))
		}
	}
	for _, p := range n.Scopes {
		switch {
		case !slices.Contains(Permissions(), p):
			return nil, "", fmt.Errorf("%w: scopes %.80q: must be among %s", errs.ErrInvalid, p, list(Permissions()))
		case !by.Can(p):
			return nil, "", fmt.Errorf("%w: scopes %q: is more than the role %s of %s may: leave it out", errs.ErrNotAllowed, p, by.Role, by.Name)
		case p == Approve && n.Owner != by.Name: // else one would approve the own request as somebody else
			return nil, "", fmt.Errorf("%w: scopes %q: a token with it is made by its owner alone: let %s make it", errs.ErrNotAllowed, p, n.Owner)
		}
	}
	if _, err := s.find(ctx, n.Owner); err != nil {
		return nil, "", err
	}
	secret = newSecret(tokenPrefix)
	if err := s.db.CreateToken(With(ctx, by), t, digest(secret), tokensMost); err != nil {
		return nil, "", err
	}
	return t, secret, nil
}

// ListTokens returns the tokens of a user, at most limit of those after the given id, the oldest first: everybody their own,
// with the permission admin those of anybody, and with the owner "" those of all.
func (s *Service) ListTokens(ctx context.Context, by Principal, owner, after string, limit int) ([]Token, error) {
	need := Read
	if owner != by.Name {
		need = Admin
	}
	if err := by.Need(need); err != nil {
		return nil, err
	}
	if owner != "" {
		if err := checkName(owner); err != nil {
			return nil, err
		}
	}
	return s.db.Tokens(ctx, owner, after, limit)
}

// RevokeToken ends a token, at once: one's own in a session, a token itself, or with the permission admin any. To who may
// not, the token of another one does not exist.
func (s *Service) RevokeToken(ctx context.Context, by Principal, id string) error {
	if by.Name == "" {
		return by.Need(Read)
	}
	t, err := s.db.Token(ctx, id)
	if err != nil {
		return err
	}
	switch {
	case by.Can(Admin), by.Via == viaToken(id):
	case t.Owner != by.Name:
		return fmt.Errorf("there is no token %s of %s: %w", id, by.Name, errs.ErrNotFound)
	default:
		if err := by.session(); err != nil {
			return err
		}
	}
	return s.db.RevokeToken(With(ctx, by), id)
}

func viaToken(id string) string { return "token " + id }
