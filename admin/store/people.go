package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"github.com/turnout-mq/turnout/internal/errs"
)

// Role says what a user may do. What each of them may is a matter of admin/people; here is known that an administrator must
// remain.
type Role string

// The roles, each with what those before it may.
const (
	Viewer        Role = "viewer"
	Applicant     Role = "applicant"
	Approver      Role = "approver"
	Administrator Role = "administrator"
)

// User is somebody who can log in. Users are disabled and never deleted: the audit names them.
type User struct {
	Name     string `json:"name" doc:"Lower case; never changes"`
	Role     Role   `json:"role" enum:"viewer,applicant,approver,administrator" doc:"What the user may do"`
	Disabled bool   `json:"disabled" doc:"Can not log in and has no sessions and tokens"`
	// Invited: there is no password yet, only a one-time token for setting one.
	Invited   bool      `json:"invited" doc:"Has no password yet"`
	CreatedAt time.Time `json:"createdAt"`
	UpdatedAt time.Time `json:"updatedAt"`
	Version   int64     `json:"version" doc:"Raised by every change; the ETag"`
	Password  string    `json:"-"` // its hash, "" of an invited user
}

// OneTime is a token that is used once, to set a password. A user has at most one.
type OneTime struct {
	User    string // "": that of the first administrator, who takes a name with it
	Hash    string // of the secret
	Created time.Time
	Expires time.Time
}

// UserChange is what is changed of a user; nil stays.
type UserChange struct {
	Action   string // for the audit
	Role     *Role
	Disabled *bool
	Password *string // a hash
}

const userColumns = "name, role, password, disabled, created_at, updated_at, version"

func scanUser(row scanner) (u User, err error) {
	var created, updated moment
	err = row.Scan(&u.Name, &u.Role, &u.Password, &u.Disabled, &created, &updated, &u.Version)
	u.CreatedAt, u.UpdatedAt, u.Invited = time.Time(created), time.Time(updated), u.Password == ""
	return u, err
}

func (q query) user(name string) (User, error) {
	u, err := scanUser(q.row("SELECT "+userColumns+" FROM users WHERE name = $1", name))
	if errors.Is(err, sql.ErrNoRows) {
		return User{}, fmt.Errorf("there is no user %q: %w", name, errs.ErrNotFound)
	}
	return u, err
}

// insertUser stores a new user; u has then what the store gives.
func (q query) insertUser(u *User) error {
	u.CreatedAt = stored(u.CreatedAt)
	u.UpdatedAt, u.Version, u.Invited = u.CreatedAt, 1, u.Password == ""
	changed, err := q.exec("INSERT INTO users ("+userColumns+") VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT (name) DO NOTHING",
		u.Name, u.Role, u.Password, u.Disabled, moment(u.CreatedAt), moment(u.UpdatedAt), u.Version)
	if err == nil && changed == 0 {
		err = fmt.Errorf("the user %q is there already: take another name: %w", u.Name, errs.ErrConflict)
	}
	return err
}

func (u *User) check() error {
	var c check
	c.name("Name", u.Name)
	c.text("Password", u.Password)
	oneOf(&c, "Role", u.Role, Viewer, Applicant, Approver, Administrator)
	return c.err("user " + u.Name)
}

// CreateUser stores a new user, and the token with which the password is set if there is none yet. ErrConflict: the name is
// taken.
func (s *Store) CreateUser(ctx context.Context, u *User, invitation *OneTime) error {
	if err := u.check(); err != nil {
		return err
	}
	made := *u
	err := s.write(ctx, "create user", func(q query) error {
		made = *u
		if err := q.insertUser(&made); err != nil {
			return err
		}
		if invitation != nil {
			if err := q.putOneTime(*invitation); err != nil {
				return err
			}
		}
		return q.audited("create", "user", u.Name, "", nil, made)
	})
	if err == nil {
		*u = made
	}
	return err
}

// User returns the user of this name, or ErrNotFound.
func (s *Store) User(ctx context.Context, name string) (u *User, err error) {
	err = s.read(ctx, "user", func(q query) error {
		found, err := q.user(name)
		u = &found
		return err
	})
	if err != nil {
		return nil, err
	}
	return u, nil
}

// Users returns the users by name, those after the given one, at most so many; 0: all.
func (s *Store) Users(ctx context.Context, after string, most int) (list []User, err error) {
	err = s.read(ctx, "users", func(q query) (err error) {
		list, err = rows(q, scanUser, "SELECT "+userColumns+" FROM users WHERE name > $1 ORDER BY name"+limit(most), after)
		return err
	})
	return list, err
}

// UpdateUser changes a user, if its version is still the given one (0: whichever it is). A new password ends the sessions and
// the one-time token of the user, disabling also the tokens. ErrConflict: somebody else changed it first, or no
// administrator who can log in would be left; nothing was changed then.
func (s *Store) UpdateUser(ctx context.Context, name string, version int64, c UserChange) (*User, error) {
	var after User
	err := s.write(ctx, "update user", func(q query) (err error) {
		after, err = q.updateUser(name, version, c)
		return err
	})
	if err != nil {
		return nil, err
	}
	return &after, nil
}

func (q query) updateUser(name string, version int64, c UserChange) (after User, err error) {
	// All administrators are locked first, in PostgreSQL: of two who are demoted at once, one must see the other.
	if c.Role != nil || c.Disabled != nil {
		if _, err := q.exec("UPDATE users SET version = version WHERE role = $1", Administrator); err != nil {
			return after, err
		}
	}
	if _, err := q.exec("UPDATE users SET version = version WHERE name = $1", name); err != nil {
		return after, err
	}
	before, err := q.user(name)
	if err != nil {
		return after, err
	}
	if version != 0 && version != before.Version {
		return after, fmt.Errorf("user %s is at version %d and the change was made of version %d: read it again, decide again: %w", name, before.Version, version, ErrChanged)
	}
	after = before
	if c.Role != nil {
		after.Role = *c.Role
	}
	if c.Disabled != nil {
		after.Disabled = *c.Disabled
	}
	if c.Password != nil {
		after.Password = *c.Password
	}
	if err := after.check(); err != nil {
		return after, err
	}
	after.Version, after.UpdatedAt, after.Invited = before.Version+1, stored(time.Time{}), after.Password == ""
	if _, err := q.exec("UPDATE users SET role = $1, disabled = $2, password = $3, updated_at = $4, version = $5 WHERE name = $6",
		after.Role, after.Disabled, after.Password, moment(after.UpdatedAt), after.Version, name); err != nil {
		return after, err
	}
	if (c.Role != nil || c.Disabled != nil) && before.leads() && !after.leads() {
		var left int
		if err := q.row("SELECT COUNT(*) FROM users WHERE role = $1 AND NOT disabled AND password <> ''", Administrator).Scan(&left); err != nil {
			return after, err
		}
		if left == 0 {
			return after, fmt.Errorf("%s is the last administrator: make somebody else one first: %w", name, errs.ErrConflict)
		}
	}
	if after.Disabled || after.Password != before.Password {
		if _, err := q.exec("DELETE FROM sessions WHERE user_name = $1", name); err != nil {
			return after, err
		}
		if _, err := q.exec("DELETE FROM one_time_tokens WHERE user_name = $1", name); err != nil {
			return after, err
		}
	}
	if after.Disabled {
		if err := q.revokeAll(name); err != nil {
			return after, err
		}
	}
	return after, q.audited(c.Action, "user", name, "", before, after)
}

// leads says whether the user is an administrator who can log in.
func (u *User) leads() bool { return u.Role == Administrator && !u.Disabled && u.Password != "" }

// PutOneTime gives a user another one-time token; the one before is no longer good.
func (s *Store) PutOneTime(ctx context.Context, o OneTime) error {
	return s.write(ctx, "put one-time token", func(q query) error {
		if o.User != "" {
			changed, err := q.exec("UPDATE users SET version = version WHERE name = $1 AND NOT disabled", o.User)
			if err != nil {
				return err
			}
			if changed == 0 {
				return q.notUsable(o.User)
			}
		}
		if err := q.putOneTime(o); err != nil {
			return err
		}
		return q.audited("invite", "user", invitee(o.User), "", nil, map[string]time.Time{"expires": o.Expires})
	})
}

// PutFirstOneTime stores the token of the first administrator, if there is no administrator who can log in and no such token
// that is still good at the moment now; done says whether it did.
func (s *Store) PutFirstOneTime(ctx context.Context, o OneTime, now time.Time) (done bool, err error) {
	o.User = ""
	err = s.write(ctx, "first one-time token", func(q query) error {
		done = false
		// Stored first and looked at then: of two servers that start at once, the second waits here for the first.
		changed, err := q.exec(`INSERT INTO one_time_tokens (user_name, hash, created_at, expires_at) VALUES ('', $1, $2, $3)
			ON CONFLICT (user_name) DO UPDATE SET hash = excluded.hash, created_at = excluded.created_at, expires_at = excluded.expires_at
			WHERE one_time_tokens.expires_at <= $4`, o.Hash, moment(o.Created), moment(o.Expires), moment(now))
		if err != nil || changed == 0 {
			return err
		}
		var leading int
		if err := q.row("SELECT COUNT(*) FROM users WHERE role = $1 AND NOT disabled AND password <> ''", Administrator).Scan(&leading); err != nil {
			return err
		}
		if leading > 0 {
			_, err := q.exec("DELETE FROM one_time_tokens WHERE user_name = ''")
			return err
		}
		done = true
		return q.audited("invite", "user", invitee(""), "", nil, map[string]time.Time{"expires": o.Expires})
	})
	return done, err
}

// invitee is how the user of a one-time token is called in the audit.
func invitee(name string) string {
	if name == "" {
		return "the first administrator"
	}
	return name
}

// notUsable says why the user of this name was not to be found among those who may log in.
func (q query) notUsable(name string) error {
	if _, err := q.user(name); err != nil {
		return err
	}
	return fmt.Errorf("the user %s is disabled: enable it first: %w", name, errs.ErrConflict)
}

func (q query) putOneTime(o OneTime) error {
	_, err := q.exec(`INSERT INTO one_time_tokens (user_name, hash, created_at, expires_at) VALUES ($1, $2, $3, $4)
		ON CONFLICT (user_name) DO UPDATE SET hash = excluded.hash, created_at = excluded.created_at, expires_at = excluded.expires_at`,
		o.User, o.Hash, moment(o.Created), moment(o.Expires))
	return err
}

// OneTimeOf returns the user of the one-time token with this hash, "" of that of the first administrator, or ErrNotFound when
// there is none that is still good at the moment now.
func (s *Store) OneTimeOf(ctx context.Context, hash string, now time.Time) (user string, err error) {
	err = s.read(ctx, "one-time token", func(q query) error {
		return oneTime(q.row("SELECT user_name FROM one_time_tokens WHERE hash = $1 AND expires_at > $2", hash, moment(now)).Scan(&user))
	})
	return user, err
}

func oneTime(err error) error {
	if errors.Is(err, sql.ErrNoRows) {
		return fmt.Errorf("this one-time token does not exist, was used, or has expired: %w", errs.ErrNotFound)
	}
	return err
}

// Claim uses up the one-time token with this hash: its user has the given password then, which ends all sessions. With the
// token of the first administrator the user of the given name is made, or, if there is one, becomes an enabled
// administrator with that password; else the name is not looked at. ErrNotFound: as OneTimeOf.
func (s *Store) Claim(ctx context.Context, hash string, now time.Time, name, password string) (*User, error) {
	var u User
	err := s.write(ctx, "claim", func(q query) error {
		var of string
		err := oneTime(q.row("DELETE FROM one_time_tokens WHERE hash = $1 AND expires_at > $2 RETURNING user_name", hash, moment(now)).Scan(&of))
		if err != nil {
			return err
		}
		change := UserChange{Action: "claim", Password: &password}
		if of != "" {
			u, err = q.updateUser(of, 0, change)
			return err
		}
		if _, err := q.user(name); !errors.Is(err, errs.ErrNotFound) {
			if err != nil {
				return err
			}
			role, disabled := Administrator, false
			change.Role, change.Disabled = &role, &disabled
			u, err = q.updateUser(name, 0, change)
			return err
		}
		u = User{Name: name, Role: Administrator, Password: password}
		if err := u.check(); err != nil {
			return err
		}
		if err := q.insertUser(&u); err != nil {
			return err
		}
		return q.audited("claim", "user", name, "", nil, u)
	})
	if err != nil {
		return nil, err
	}
	return &u, nil
}

// AddOwner makes a user an owner of an application. It may be one already. ErrNotFound: there is no such user.
func (s *Store) AddOwner(ctx context.Context, app, user string) error {
	return s.write(ctx, "add owner", func(q query) error { return q.addOwner(app, user, "") })
}

// addOwner belongs to a request, "" to none.
func (q query) addOwner(app, user, request string) error {
	var c check
	c.name("app", app)
	if err := c.err("owner " + user); err != nil {
		return err
	}
	if _, err := q.user(user); err != nil {
		return err
	}
	changed, err := q.exec("INSERT INTO owners (app, user_name) VALUES ($1, $2) ON CONFLICT (app, user_name) DO NOTHING", app, user)
	if err != nil || changed == 0 {
		return err
	}
	return q.audited("add-owner", "app", app, request, nil, map[string]string{"owner": user})
}

// RemoveOwner makes that a user is no longer an owner of an application. ErrNotFound: it was none.
func (s *Store) RemoveOwner(ctx context.Context, app, user string) error {
	return s.write(ctx, "remove owner", func(q query) error {
		changed, err := q.exec("DELETE FROM owners WHERE app = $1 AND user_name = $2", app, user)
		if err != nil {
			return err
		}
		if changed == 0 {
			return fmt.Errorf("%q is not an owner of %q: %w", user, app, errs.ErrNotFound)
		}
		return q.audited("remove-owner", "app", app, "", map[string]string{"owner": user}, nil)
	})
}

// Owners returns the owners of an application by name, none if nobody owns it.
func (s *Store) Owners(ctx context.Context, app string) ([]string, error) {
	return s.names(ctx, "owners", "SELECT user_name FROM owners WHERE app = $1 ORDER BY user_name", app)
}

// AppsOf returns the applications that a user owns.
func (s *Store) AppsOf(ctx context.Context, user string) ([]string, error) {
	return s.names(ctx, "applications", "SELECT app FROM owners WHERE user_name = $1 ORDER BY app", user)
}

func (s *Store) names(ctx context.Context, what, statement string, args ...any) (list []string, err error) {
	err = s.read(ctx, what, func(q query) (err error) {
		list, err = rows(q, func(row scanner) (name string, err error) { return name, row.Scan(&name) }, statement, args...)
		return err
	})
	return list, err
}
