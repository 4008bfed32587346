package people_test

import (
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/turnout-mq/turnout/admin/people"
	"github.com/turnout-mq/turnout/admin/store"
	"github.com/turnout-mq/turnout/internal/errs"
)

func TestFirstAdministrator(t *testing.T) {
	each(t, map[string]func(*testing.T, *world){
		"takes a name and a password, once": func(t *testing.T, w *world) {
			i, err := w.Bootstrap(t.Context())
			require.NoError(t, err)
			require.Regexp(t, `^turnout_once_[0-9A-Za-z]{44}$`, i.Token)
			require.Equal(t, w.clock.Now().Add(24*time.Hour), i.Expires)

			u, err := w.Claim(t.Context(), i.Token, "root", password, home)
			require.NoError(t, err)
			require.Equal(t, people.Administrator, u.Role)
			require.True(t, w.login(t, "root").Can(people.Admin))

			_, err = w.Claim(t.Context(), i.Token, "mallory", password, home)
			require.ErrorIs(t, err, people.ErrUnauthenticated)
			_, err = w.db.User(t.Context(), "mallory")
			require.ErrorIs(t, err, errs.ErrNotFound)

			i, err = w.Bootstrap(t.Context())
			require.NoError(t, err)
			require.Nil(t, i, "there is an administrator")
			require.Equal(t, []string{"turnout invite by "}, w.actions(t.Context(), t, "user", "the first administrator"))
			require.Equal(t, []string{"root claim by one-time token", "root login by password"}, w.actions(t.Context(), t, "user", "root"))
		},
		"a token that is still good is not replaced, one that has expired is": func(t *testing.T, w *world) {
			first, err := w.Bootstrap(t.Context())
			require.NoError(t, err)
			second, err := w.server(t, nil).Bootstrap(t.Context())
			require.NoError(t, err)
			require.Nil(t, second)
			w.clock.move(24 * time.Hour)
			_, err = w.Claim(t.Context(), first.Token, "root", password, home)
			require.ErrorIs(t, err, people.ErrUnauthenticated)
			second, err = w.Bootstrap(t.Context())
			require.NoError(t, err)
			_, err = w.Claim(t.Context(), second.Token, "root", password, home)
			require.NoError(t, err)
		},
		"of servers that start at once one makes a token": func(t *testing.T, w *world) {
			made := make([]*people.Invitation, 8)
			failed := make([]error, len(made))
			var all sync.WaitGroup
			for i := range made {
				s := w.server(t, nil)
				all.Go(func() { made[i], failed[i] = s.Bootstrap(t.Context()) })
			}
			all.Wait()
			require.NoError(t, errors.Join(failed...))
			var tokens []string
			for _, i := range made {
				if i != nil {
					tokens = append(tokens, i.Token)
				}
			}
			require.Len(t, tokens, 1)
			_, err := w.Claim(t.Context(), tokens[0], "root", password, home)
			require.NoError(t, err)
		},
		"of many who claim one does": func(t *testing.T, w *world) {
			i, err := w.Bootstrap(t.Context())
			require.NoError(t, err)
			failed := make([]error, 8)
			var all sync.WaitGroup
			for n := range failed {
				all.Go(func() { _, failed[n] = w.Claim(t.Context(), i.Token, "root-"+string(rune('a'+n)), password, home) })
			}
			all.Wait()
			won := 0
			for _, err := range failed {
				if err == nil {
					won++
					continue
				}
				require.ErrorIs(t, err, people.ErrUnauthenticated)
			}
			require.Equal(t, 1, won)
			users, err := w.db.Users(t.Context(), "", 0)
			require.NoError(t, err)
			require.Len(t, users, 1)
		},
		"what is not acceptable does not use the token up": func(t *testing.T, w *world) {
			i, err := w.Bootstrap(t.Context())
			require.NoError(t, err)
			for range 20 { // more than an address may fail
				_, err = w.Claim(t.Context(), i.Token, "root", "short", home)
				require.ErrorIs(t, err, errs.ErrInvalid)
				require.ErrorContains(t, err, "password")
			}
			_, err = w.Claim(t.Context(), i.Token, "Root!", password, home)
			require.ErrorIs(t, err, errs.ErrInvalid)
			_, err = w.Claim(t.Context(), i.Token, store.System, password, home)
			require.ErrorIs(t, err, errs.ErrInvalid)
			_, err = w.Claim(t.Context(), i.Token, "root", password, home)
			require.NoError(t, err)
		},
		"tokens are not tried out": func(t *testing.T, w *world) {
			i, err := w.Bootstrap(t.Context())
			require.NoError(t, err)
			for n := range 10 {
				wrong := []string{"", "turnout_once_", i.Token[:len(i.Token)-1] + "!", i.Token + "x"}[n%4]
				_, err = w.Claim(t.Context(), wrong, "root", password, home)
				require.ErrorIs(t, err, people.ErrUnauthenticated)
			}
			var limit *people.LimitError
			_, err = w.Claim(t.Context(), i.Token, "root", password, home)
			require.ErrorAs(t, err, &limit)
			_, err = w.Claim(t.Context(), i.Token, "root", password, "203.0.113.8")
			require.NoError(t, err)
		},
		"recovered": func(t *testing.T, w *world) {
			root := w.root(t)
			cookie := w.cookie(t, "root")
			w.person(t, root, "alice", people.Viewer)
			for _, name := range []string{"alice", "bob", "root"} {
				lost, err := w.Recover(t.Context())
				require.NoError(t, err)
				i, err := w.Recover(t.Context())
				require.NoError(t, err)
				_, err = w.Claim(t.Context(), lost.Token, name, password, home)
				require.ErrorIs(t, err, people.ErrUnauthenticated, "replaced")
				u, err := w.Claim(t.Context(), i.Token, name, "another horse battery", home)
				require.NoError(t, err)
				require.Equal(t, people.Administrator, u.Role)
				_, err = w.Login(t.Context(), name, password, home, "")
				require.ErrorIs(t, err, people.ErrUnauthenticated)
				_, err = w.Login(t.Context(), name, "another horse battery", home, "")
				require.NoError(t, err)
			}
			w.ended(t, cookie)
		},
	})
}

func TestInvitation(t *testing.T) {
	each(t, map[string]func(*testing.T, *world){
		"sets the password": func(t *testing.T, w *world) {
			root := w.root(t)
			u, i, err := w.CreateUser(t.Context(), root, people.NewUser{Name: "alice", Role: people.Approver})
			require.NoError(t, err)
			require.True(t, u.Invited)
			for _, guess := range []string{"", password} {
				_, err = w.Login(t.Context(), "alice", guess, home, "")
				require.ErrorIs(t, err, people.ErrUnauthenticated)
			}
			_, err = w.Claim(t.Context(), i.Token, "root", password, home)
			require.ErrorIs(t, err, errs.ErrInvalid, "it is not for her")
			_, err = w.Claim(t.Context(), i.Token, "", "alice-and-alice", home)
			require.ErrorIs(t, err, errs.ErrInvalid)
			u, err = w.Claim(t.Context(), i.Token, "", password, home)
			require.NoError(t, err)
			require.Equal(t, people.Approver, u.Role)
			require.False(t, u.Invited)
			require.Equal(t, "alice", w.login(t, "alice").Name)
			_, err = w.Claim(t.Context(), i.Token, "", password, home)
			require.ErrorIs(t, err, people.ErrUnauthenticated)
		},
		"of a forgotten password": func(t *testing.T, w *world) {
			root := w.root(t)
			alice := w.person(t, root, "alice", people.Viewer)
			cookie := w.cookie(t, "alice")
			_, err := w.Invite(t.Context(), alice, "alice")
			require.ErrorIs(t, err, errs.ErrNotAllowed)
			_, err = w.Invite(t.Context(), root, "bob")
			require.ErrorIs(t, err, errs.ErrNotFound)
			_, err = w.Invite(t.Context(), root, "")
			require.ErrorIs(t, err, errs.ErrInvalid, "that would be the first administrator's")
			i, err := w.Invite(t.Context(), root, "alice")
			require.NoError(t, err)
			require.Equal(t, "alice", w.session(t, cookie).Name, "until it is used")
			_, err = w.Claim(t.Context(), i.Token, "alice", "another horse battery", home)
			require.NoError(t, err)
			w.ended(t, cookie)
		},
		"is void when it is replaced, when the user is disabled, and when it has expired": func(t *testing.T, w *world) {
			root := w.root(t)
			_, first, err := w.CreateUser(t.Context(), root, people.NewUser{Name: "alice", Role: people.Viewer})
			require.NoError(t, err)
			second, err := w.Invite(t.Context(), root, "alice")
			require.NoError(t, err)
			_, err = w.Disable(t.Context(), root, "alice", 0)
			require.NoError(t, err)
			_, err = w.Invite(t.Context(), root, "alice")
			require.ErrorIs(t, err, errs.ErrConflict)
			_, err = w.Enable(t.Context(), root, "alice", 0)
			require.NoError(t, err)
			third, err := w.Invite(t.Context(), root, "alice")
			require.NoError(t, err)
			w.clock.move(24 * time.Hour)
			for _, i := range []*people.Invitation{first, second, third} {
				_, err = w.Claim(t.Context(), i.Token, "alice", password, home)
				require.ErrorIs(t, err, people.ErrUnauthenticated)
			}
		},
	})
}
