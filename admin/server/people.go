package server

import (
	"context"
	"net/http"

	"github.com/turnout-mq/turnout/admin/people"
)

// Page is part of requests for lists.
type Page struct {
	After string `query:"after" doc:"Go on behind this one: what next of the answer before said."`
	Limit int    `query:"limit" default:"100" minimum:"1" maximum:"1000" doc:"At most so many."`
}

// pageOf is an answer with some of a list.
type pageOf[T any] struct {
	Items []T    `json:"items"`
	Next  string `json:"next,omitempty" doc:"Sent as after it gives what comes next; absent at the end."`
}

// paged makes a page of a list that was asked for with the limit.
func paged[T any](list []T, limit int, key func(T) string) *reply[pageOf[T]] {
	p := pageOf[T]{Items: list}
	if p.Items == nil {
		p.Items = []T{}
	}
	if len(list) == limit {
		p.Next = key(list[len(list)-1])
	}
	return &reply[pageOf[T]]{p}
}

// login is the answer to a login.
type login struct {
	SetCookie http.Cookie `header:"Set-Cookie"`
	Body      *people.Session
}

// me is who asks.
type me struct {
	people.Principal
	Permissions []people.Permission `json:"permissions" doc:"What may be done with this session or token."`
	CSRF        string              `json:"csrf,omitempty" doc:"Of a session: sent as X-CSRF-Token with every request that changes something."`
}

// invited is a user, with what it takes to set the first password.
type invited struct {
	people.User
	Invitation *people.Invitation `json:"invitation,omitempty"`
}

// madeToken is a new token.
type madeToken struct {
	people.Token
	Secret string `json:"secret" doc:"The token itself; it is shown only here."`
}

// userAt is a user at a version.
type userAt struct {
	ETag string `header:"ETag"`
	Body *people.User
}

func atVersion(u *people.User, err error) (*userAt, error) {
	if err != nil {
		return nil, err
	}
	return &userAt{etag(u.Version), u}, nil
}

// UserName is part of requests about one user.
type UserName struct {
	Name string `path:"name" maxLength:"63" doc:"The user." example:"alice"`
}

func (s *server) registerPeople() {
	call(s, anybody, http.MethodPost, "/session", "log-in", "Log in", func(ctx context.Context, in *struct {
		Body struct {
			Name     string `json:"name" maxLength:"63" example:"alice"`
			Password string `json:"password" maxLength:"1024"`
		}
	}) (*login, error) {
		c := people.CallOf(ctx)
		if err := c.CanCookie(); err != nil {
			return nil, err
		}
		session, err := s.people.Login(ctx, in.Body.Name, in.Body.Password, c.Address, c.Session)
		if err != nil {
			return nil, err
		}
		return &login{*c.Cookie(session), session}, nil
	})
	call(s, people.Read, http.MethodGet, "/session", "who-am-i", "Who asks, and what may be done", func(ctx context.Context, _ *none) (*reply[me], error) {
		p := people.From(ctx)
		m := me{Principal: p, Permissions: p.Permissions()}
		if secret := people.CallOf(ctx).Session; secret != "" {
			m.CSRF = s.people.CSRF(secret)
		}
		return &reply[me]{m}, nil
	})
	call(s, people.Read, http.MethodDelete, "/session", "log-out", "Log out", func(ctx context.Context, _ *none) (*struct {
		SetCookie http.Cookie `header:"Set-Cookie"`
	}, error) {
		c := people.CallOf(ctx)
		err := s.people.Logout(ctx, c.Session)
		return &struct {
			SetCookie http.Cookie `header:"Set-Cookie"`
		}{*c.NoCookie()}, err
	})
	call(s, anybody, http.MethodPost, "/claim", "claim", "Set a password with a one-time token", func(ctx context.Context, in *struct {
		Body struct {
			Token    string `json:"token" maxLength:"200" doc:"Of the first start, or of an invitation."`
			Name     string `json:"name,omitempty" maxLength:"63" doc:"Of the first administrator; of who was invited it is known."`
			Password string `json:"password" maxLength:"1024"`
		}
	}) (*reply[*people.User], error) {
		u, err := s.people.Claim(ctx, in.Body.Token, in.Body.Name, in.Body.Password, people.CallOf(ctx).Address)
		return &reply[*people.User]{u}, err
	})
	call(s, people.Read, http.MethodPut, "/password", "change-password", "Change one's own password; all sessions end", func(ctx context.Context, in *struct {
		Body struct {
			OldPassword string `json:"oldPassword" maxLength:"1024"`
			NewPassword string `json:"newPassword" maxLength:"1024"`
		}
	}) (*none, error) {
		return nil, s.people.ChangePassword(ctx, people.From(ctx), in.Body.OldPassword, in.Body.NewPassword)
	})
	s.registerUsers()
	s.registerTokens()
	s.registerOwners()
}

func (s *server) registerUsers() {
	call(s, people.Admin, http.MethodGet, "/users", "list-users", "List users", func(ctx context.Context, in *struct{ Page }) (*reply[pageOf[people.User]], error) {
		list, err := s.people.ListUsers(ctx, people.From(ctx), in.After, in.Limit)
		return paged(list, in.Limit, func(u people.User) string { return u.Name }), err
	})
	call(s, people.Admin, http.MethodPost, "/users", "create-user", "Make a user", func(ctx context.Context, in *struct{ Body people.NewUser }) (*reply[invited], error) {
		u, i, err := s.people.CreateUser(ctx, people.From(ctx), in.Body)
		if err != nil {
			return nil, err
		}
		return &reply[invited]{invited{*u, i}}, nil
	}, created, shownOnce)
	call(s, people.Read, http.MethodGet, "/users/{name}", "get-user", "Read a user; who is no administrator only the own one", func(ctx context.Context, in *UserName) (*userAt, error) {
		return atVersion(s.people.GetUser(ctx, people.From(ctx), in.Name))
	})
	call(s, people.Admin, http.MethodPut, "/users/{name}/role", "set-role", "Give a user another role", func(ctx context.Context, in *struct {
		UserName
		IfMatch
		Body struct {
			Role people.Role `json:"role" enum:"viewer,applicant,approver,administrator"`
		}
	}) (*userAt, error) {
		v, err := in.version()
		if err != nil {
			return nil, err
		}
		return atVersion(s.people.SetRole(ctx, people.From(ctx), in.Name, v, in.Body.Role))
	})
	for what, do := range map[string]func(ctx context.Context, by people.Principal, name string, version int64) (*people.User, error){
		"disable": func(ctx context.Context, by people.Principal, name string, v int64) (*people.User, error) {
			return s.people.Disable(ctx, by, name, v)
		},
		"enable": func(ctx context.Context, by people.Principal, name string, v int64) (*people.User, error) {
			return s.people.Enable(ctx, by, name, v)
		},
	} {
		call(s, people.Admin, http.MethodPost, "/users/{name}/"+what, what+"-user", "Decide whether a user can log in: "+what, func(ctx context.Context, in *struct {
			UserName
			IfMatch
		}) (*userAt, error) {
			v, err := in.version()
			if err != nil {
				return nil, err
			}
			return atVersion(do(ctx, people.From(ctx), in.Name, v))
		})
	}
	call(s, people.Admin, http.MethodPost, "/users/{name}/invitation", "invite-user", "Make a one-time token for setting a password", func(ctx context.Context, in *UserName) (*reply[*people.Invitation], error) {
		i, err := s.people.Invite(ctx, people.From(ctx), in.Name)
		return &reply[*people.Invitation]{i}, err
	}, created, shownOnce)
}

func (s *server) registerTokens() {
	call(s, people.Read, http.MethodGet, "/tokens", "list-tokens", "List tokens, without their secrets", func(ctx context.Context, in *struct {
		Page
		Owner string `query:"owner" doc:"By default who asks; * is everybody, for administrators."`
	}) (*reply[pageOf[people.Token]], error) {
		owner := in.Owner
		switch owner {
		case "":
			owner = people.From(ctx).Name
		case "*":
			owner = ""
		}
		list, err := s.people.ListTokens(ctx, people.From(ctx), owner, in.After, in.Limit)
		return paged(list, in.Limit, func(t people.Token) string { return t.ID }), err
	})
	call(s, people.Read, http.MethodPost, "/tokens", "create-token", "Make a token; needs a session", func(ctx context.Context, in *struct{ Body people.NewToken }) (*reply[madeToken], error) {
		t, secret, err := s.people.CreateToken(ctx, people.From(ctx), in.Body)
		if err != nil {
			return nil, err
		}
		return &reply[madeToken]{madeToken{*t, secret}}, nil
	}, created, shownOnce)
	call(s, people.Read, http.MethodDelete, "/tokens/{id}", "revoke-token", "End a token", func(ctx context.Context, in *struct {
		ID string `path:"id" example:"t-3" doc:"The token."`
	}) (*none, error) {
		return nil, s.people.RevokeToken(ctx, people.From(ctx), in.ID)
	})
}

func (s *server) registerOwners() {
	type App struct {
		App string `path:"app" doc:"The application." example:"order_service"`
	}
	type OwnerOf struct {
		App
		User string `path:"user" doc:"The owner." example:"alice"`
	}
	type owners struct {
		Owners []string `json:"owners"`
	}
	call(s, people.Read, http.MethodGet, "/applications/{app}/owners", "list-owners", "Who owns an application", func(ctx context.Context, in *App) (*reply[owners], error) {
		list, err := s.people.Owners(ctx, people.From(ctx), in.App)
		if list == nil {
			list = []string{}
		}
		return &reply[owners]{owners{list}}, err
	})
	call(s, people.Apply, http.MethodPut, "/applications/{app}/owners/{user}", "add-owner", "Make a user an owner; for owners and administrators", func(ctx context.Context, in *OwnerOf) (*none, error) {
		return nil, s.people.AddOwner(ctx, people.From(ctx), in.App.App, in.User)
	})
	call(s, people.Apply, http.MethodDelete, "/applications/{app}/owners/{user}", "remove-owner", "End an ownership; for owners and administrators", func(ctx context.Context, in *OwnerOf) (*none, error) {
		return nil, s.people.RemoveOwner(ctx, people.From(ctx), in.App.App, in.User)
	})
}
