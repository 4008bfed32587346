package people

import (
	"context"
	"crypto/subtle"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"go.uber.org/zap"

	"github.com/turnout-mq/turnout/admin/store"
	"github.com/turnout-mq/turnout/internal/errs"
)

// Bootstrap makes the one-time token with which the first administrator takes a name and a password (Claim), if there is no
// administrator who can log in; it is good for 24 hours and can not be shown again. nil: there is an administrator, or
// another token is still good, for example one that another server has just made.
func (s *Service) Bootstrap(ctx context.Context) (*Invitation, error) {
	i, stored := s.newInvitation("")
	done, err := s.db.PutFirstOneTime(ctx, *stored, s.o.Now())
	if err != nil || !done {
		return nil, err
	}
	return i, nil
}

// Recover makes the token of Bootstrap whether there is an administrator or not, in place of one that was made before: for
// when that was lost, or the password of the only administrator. It asks nobody, so it is for who can read the store anyhow.
func (s *Service) Recover(ctx context.Context) (*Invitation, error) {
	i, stored := s.newInvitation("")
	if err := s.db.PutOneTime(ctx, *stored); err != nil {
		return nil, err
	}
	return i, nil
}

// Claim sets a password with a one-time token, which is used up by it; sessions that the user has end. With the token of
// Bootstrap or Recover, the user of that name is made an administrator, or becomes one again; with an invitation the name
// must be "" or that of who was invited. Attempts with tokens that are not good are limited per address, as those to log in.
// ErrUnauthenticated: the token is not good (any more).
func (s *Service) Claim(ctx context.Context, token, name, password, address string) (*User, error) {
	limited := "address " + network(address)
	if err := s.attempt(ctx, limited, "from this address", s.o.PerAddress); err != nil {
		return nil, err
	}
	refused := fmt.Errorf("%w: the one-time token is mistyped, was used, or has expired: ask for another one", ErrUnauthenticated)
	if !wellFormed(oneTimePrefix, token) {
		return nil, refused
	}
	of, err := s.db.OneTimeOf(ctx, digest(token), s.o.Now())
	switch {
	case errors.Is(err, errs.ErrNotFound):
		s.log.Warn("a one-time token was refused", zap.String("address", address))
		return nil, refused
	case err != nil:
		return nil, err
	}
	if err := s.db.Unattempt(ctx, limited, s.o.PerAddress); err != nil {
		return nil, err
	}
	switch {
	case of != "" && name != "" && name != of:
		return nil, fmt.Errorf("%w: name %.80q: the one-time token is that of %s; leave the name out", errs.ErrInvalid, name, of)
	case of != "":
		name = of
	}
	if err := checkName(name); err != nil {
		return nil, err
	}
	if err := checkPassword(name, password); err != nil {
		return nil, err
	}
	hash, err := s.hasher.hash(ctx, password)
	if err != nil {
		return nil, err
	}
	ctx = store.WithActor(ctx, store.Actor{Name: name, Via: "one-time token", Address: address})
	u, err := s.db.Claim(ctx, digest(token), s.o.Now(), name, hash)
	if errors.Is(err, errs.ErrNotFound) { // used up beside this
		return nil, refused
	}
	return u, err
}

// Session is what a login gives. Whoever has the secret is the user, so it is in a cookie that scripts can not read.
type Session struct {
	Secret  string    `json:"-"`
	CSRF    string    `json:"csrf" doc:"Sent as X-CSRF-Token with every request that changes something"`
	User    string    `json:"user"`
	Expires time.Time `json:"expires" doc:"At the latest; without use before"`
}

// Login compares a password. previous is the secret of a session that the request came with, or ""; it ends when the login
// succeeds. ErrUnauthenticated says that name or password is wrong and not which; a *LimitError, that neither was looked at.
func (s *Service) Login(ctx context.Context, name, password, address, previous string) (*Session, error) {
	byAddress, byName := "address "+network(address), "name "+name
	known := checkName(name) == nil
	if err := s.attempt(ctx, byAddress, "from this address", s.o.PerAddress); err != nil {
		return nil, err
	}
	u := new(User) // compared with as well, if there is none of the name
	if known {
		if err := s.attempt(ctx, byName, "for this name", s.o.PerName); err != nil {
			return nil, err
		}
		found, err := s.db.User(ctx, name)
		switch {
		case errors.Is(err, errs.ErrNotFound):
		case err != nil:
			return nil, err
		default:
			u = found
		}
	}
	if len(password) > passwordMost {
		password = "" // of nobody
	}
	same, old, err := s.hasher.compare(ctx, password, u.Password)
	if err != nil {
		return nil, err
	}
	if !same || u.Disabled {
		s.log.Warn("a login was refused", zap.String("name", u.Name), zap.String("address", address), zap.Bool("disabled", u.Disabled))
		return nil, fmt.Errorf("%w: the name or the password is wrong", ErrUnauthenticated)
	}
	l := store.Login{Password: u.Password, Most: sessionsMost}
	if old {
		if l.Rehashed, err = s.hasher.hash(ctx, password); err != nil {
			return nil, err
		}
	}
	if previous != "" {
		l.Previous = digest(previous)
	}
	now := s.o.Now().UTC()
	secret := random(43) // 256 bits
	session := store.Session{Hash: digest(secret), User: u.Name, Address: address, Created: now, Seen: now, Expires: now.Add(s.o.SessionMost)}
	actor := store.Actor{Name: u.Name, Via: "password", Address: address}
	if err := s.db.BeginSession(store.WithActor(ctx, actor), session, l); err != nil {
		return nil, err
	}
	if err := errors.Join(s.db.Unattempt(ctx, byAddress, s.o.PerAddress), s.db.Unattempt(ctx, byName, s.o.PerName)); err != nil {
		return nil, err
	}
	return &Session{Secret: secret, CSRF: csrfOf(secret), User: u.Name, Expires: session.Expires}, nil
}

func (s *Service) attempt(ctx context.Context, subject, of string, r store.Rate) error {
	refused, err := s.db.Attempt(ctx, subject, r, s.o.Now())
	if err == nil && refused {
		s.log.Warn("too many attempts to log in", zap.String("subject", subject))
		err = &LimitError{Of: of, After: r.Every}
	}
	return err
}

// network is what attempts are counted by: an IPv4 address, of IPv6 the /64, which one customer has.
func network(address string) string {
	ip, err := netip.ParseAddr(address)
	if err != nil {
		return "unknown"
	}
	ip = ip.Unmap().WithZone("")
	if ip.Is4() {
		return ip.String()
	}
	return netip.PrefixFrom(ip, 64).Masked().String()
}

// Logout ends a session. There may be none with this secret.
func (s *Service) Logout(ctx context.Context, secret string) error {
	return s.db.EndSession(ctx, digest(secret))
}

// AuthenticateSession says whose session has this secret. ErrUnauthenticated: nobody's, or it has ended.
func (s *Service) AuthenticateSession(ctx context.Context, secret, address string) (Principal, error) {
	refused := fmt.Errorf("%w: the session has ended: log in again", ErrUnauthenticated)
	if len(secret) != 43 {
		return Principal{}, refused
	}
	session, u, err := s.db.SessionByHash(ctx, digest(secret))
	if errors.Is(err, errs.ErrNotFound) {
		return Principal{}, refused
	}
	if err != nil {
		return Principal{}, err
	}
	now := s.o.Now()
	if u.Disabled || !now.Before(session.Expires) || !now.Before(session.Seen.Add(s.o.SessionIdle)) {
		return Principal{}, refused
	}
	if now.Sub(session.Seen) >= min(seenEvery, s.o.SessionIdle/2) {
		if err := s.db.SeeSession(ctx, session.Hash, now); err != nil {
			return Principal{}, err
		}
	}
	return Principal{Name: u.Name, Role: u.Role, Scopes: PermissionsOf(u.Role), Via: viaSession, Address: address}, nil
}

// CheckCSRF is nil if the CSRF token is that of the session with this secret, else ErrNotAllowed.
func (s *Service) CheckCSRF(secret, csrf string) error {
	if subtle.ConstantTimeCompare([]byte(csrfOf(secret)), []byte(csrf)) == 1 {
		return nil
	}
	return fmt.Errorf("%w: the header %s is missing or is not that of this session: send what the login has answered", errs.ErrNotAllowed, csrfHeader)
}

// CSRF returns the CSRF token of the session with this secret, for a page that was loaded again.
func (s *Service) CSRF(secret string) string { return csrfOf(secret) }

// AuthenticateToken says for whom the token with this secret acts. ErrUnauthenticated: for nobody (any more).
func (s *Service) AuthenticateToken(ctx context.Context, secret, address string) (Principal, error) {
	if !wellFormed(tokenPrefix, secret) {
		return Principal{}, fmt.Errorf("%w: the token is mistyped or cut off: it is turnout_ and 44 letters and digits", ErrUnauthenticated)
	}
	t, u, err := s.db.TokenByHash(ctx, digest(secret))
	if errors.Is(err, errs.ErrNotFound) {
		return Principal{}, fmt.Errorf("%w: the token is unknown or was revoked: make another one", ErrUnauthenticated)
	}
	if err != nil {
		return Principal{}, err
	}
	now := s.o.Now()
	switch {
	case u.Disabled:
		return Principal{}, fmt.Errorf("%w: the owner of token %s is disabled: ask an administrator", ErrUnauthenticated, t.ID)
	case !now.Before(t.ExpiresAt):
		return Principal{}, fmt.Errorf("%w: token %s has expired at %s: make another one", ErrUnauthenticated, t.ID, t.ExpiresAt.Format(time.RFC3339))
	}
	if t.UsedAt == nil || now.Sub(*t.UsedAt) >= seenEvery {
		if err := s.db.UseToken(ctx, t.ID, now); err != nil {
			return Principal{}, err
		}
	}
	p := Principal{Name: u.Name, Role: u.Role, Via: viaToken(t.ID), Address: address}
	for _, scope := range t.Scopes {
		p.Scopes = append(p.Scopes, Permission(scope))
	}
	return p, nil
}

// ChangePassword replaces one's own password. It needs a session, and the old password: attempts are limited like those to
// log in. All sessions of the user end, the one that it is done in too: log in again. ErrInvalid: old is wrong, or the new
// one is not acceptable.
func (s *Service) ChangePassword(ctx context.Context, by Principal, old, password string) error {
	if err := by.Need(Read); err != nil {
		return err
	}
	if err := by.session(); err != nil {
		return err
	}
	if err := checkPassword(by.Name, password); err != nil {
		return err
	}
	limited := "name " + by.Name
	if err := s.attempt(ctx, limited, "for this name", s.o.PerName); err != nil {
		return err
	}
	u, err := s.db.User(ctx, by.Name)
	if err != nil {
		return err
	}
	if len(old) > passwordMost {
		old = ""
	}
	same, _, err := s.hasher.compare(ctx, old, u.Password)
	if err != nil {
		return err
	}
	if !same {
		s.log.Warn("a change of a password was refused", zap.String("name", by.Name), zap.String("address", by.Address))
		return fmt.Errorf("%w: old password: is wrong", errs.ErrInvalid)
	}
	hash, err := s.hasher.hash(ctx, password)
	if err != nil {
		return err
	}
	if _, err := s.db.UpdateUser(With(ctx, by), by.Name, u.Version, store.UserChange{Action: "change-password", Password: &hash}); err != nil {
		return err
	}
	return s.db.Unattempt(ctx, limited, s.o.PerName)
}
