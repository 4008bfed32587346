package people

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/turnout-mq/turnout/admin/store"
	"github.com/turnout-mq/turnout/internal/errs"
)

// Role says what a user may do.
type Role = store.Role

// The roles, each with what those before it may.
const (
	Viewer        = store.Viewer
	Applicant     = store.Applicant
	Approver      = store.Approver
	Administrator = store.Administrator
)

// Permission is what is needed for a call, and a scope of a token.
type Permission string

// The permissions.
const (
	Read    Permission = "read"    // see everything but people
	Apply   Permission = "apply"   // file requests, comment
	Approve Permission = "approve" // decide upon the requests of others
	Operate Permission = "operate" // pause, stop and go back with what runs
	Admin   Permission = "admin"   // users, owners, policies
)

// Permissions are all there are.
func Permissions() []Permission { return []Permission{Read, Apply, Approve, Operate, Admin} }

// PermissionsOf are those of a role; of an unknown one none.
func PermissionsOf(r Role) []Permission {
	switch r {
	case Viewer:
		return []Permission{Read}
	case Applicant:
		return []Permission{Read, Apply}
	case Approver:
		return []Permission{Read, Apply, Approve, Operate}
	case Administrator:
		return Permissions()
	}
	return nil
}

// Principal is who makes a request. The zero value may do nothing.
type Principal struct {
	Name    string       `json:"name" doc:"Of the user"`
	Role    Role         `json:"role" enum:"viewer,applicant,approver,administrator"`
	Scopes  []Permission `json:"scopes" enum:"read,apply,approve,operate,admin" doc:"What this session or token may do at most"`
	Via     string       `json:"via" example:"session" doc:"How the user was recognized: session, or token t-3"`
	Address string       `json:"address" doc:"Where the request came from"`
}

const viaSession = "session"

// Can says whether the role has the permission and the scopes have it too.
func (p Principal) Can(permission Permission) bool {
	return slices.Contains(PermissionsOf(p.Role), permission) && slices.Contains(p.Scopes, permission)
}

// Need is nil if p can, else ErrNotAllowed that says what is missing. Without a name it is ErrUnauthenticated.
func (p Principal) Need(permission Permission) error {
	switch {
	case p.Can(permission):
		return nil
	case p.Name == "":
		return fmt.Errorf("%w: log in, or send a token", ErrUnauthenticated)
	case slices.Contains(PermissionsOf(p.Role), permission):
		return fmt.Errorf("%w: this needs the permission %s, and %s has only %s: use a token with that scope",
			errs.ErrNotAllowed, permission, p.Via, list(p.Scopes))
	}
	return fmt.Errorf("%w: this needs the permission %s, which the role %s of %s does not have: ask an administrator", errs.ErrNotAllowed, permission, p.Role, p.Name)
}

// Permissions are those that p can.
func (p Principal) Permissions() []Permission {
	return slices.DeleteFunc(PermissionsOf(p.Role), func(x Permission) bool { return !p.Can(x) })
}

// Actor is p as the audit names it.
func (p Principal) Actor() store.Actor {
	return store.Actor{Name: p.Name, Via: p.Via, Address: p.Address}
}

// session is nil if p was recognized by a session.
func (p Principal) session() error {
	if p.Via == viaSession {
		return nil
	}
	return fmt.Errorf("%w: this needs a session and can not be done with a token: log in", errs.ErrNotAllowed)
}

type principalKey struct{}

// With returns a context in which From finds p and in which p is the actor of what the store changes.
func With(ctx context.Context, p Principal) context.Context {
	return store.WithActor(context.WithValue(ctx, principalKey{}, p), p.Actor())
}

// From is who makes the request of ctx; the zero value, which may do nothing, if nobody was recognized.
func From(ctx context.Context) Principal {
	p, _ := ctx.Value(principalKey{}).(Principal)
	return p
}

// ErrUnauthenticated: nobody is recognized, or the name or the password is wrong. It is ErrNotAllowed too.
var ErrUnauthenticated = fmt.Errorf("%w: not logged in", errs.ErrNotAllowed)

// LimitError says that there were too many attempts to log in. It is ErrNotAllowed too.
type LimitError struct {
	Of    string        // "from this address", "for this name"
	After time.Duration // when the next one may be made
}

func (e *LimitError) Error() string {
	return fmt.Sprintf("too many attempts to log in %s: try again in %s", e.Of, e.After)
}

// Unwrap is ErrNotAllowed.
func (e *LimitError) Unwrap() error { return errs.ErrNotAllowed }

// list is for people.
func list[T ~string](items []T) string {
	if len(items) == 0 {
		return "none"
	}
	var words []string
	for _, i := range items {
		words = append(words, string(i))
	}
	return strings.Join(words, ", ")
}
