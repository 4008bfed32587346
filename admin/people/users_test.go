package people_test

import (
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/turnout-mq/turnout/admin/people"
	"github.com/turnout-mq/turnout/admin/store"
	"github.com/turnout-mq/turnout/internal/errs"
)

func TestPermissions(t *testing.T) {
	all := people.Permissions()
	for role, want := range map[people.Role][]people.Permission{
		people.Viewer:        {people.Read},
		people.Applicant:     {people.Read, people.Apply},
		people.Approver:      {people.Read, people.Apply, people.Approve, people.Operate},
		people.Administrator: all,
		"":                   nil,
		"root":               nil,
	} {
		p := people.Principal{Name: "alice", Role: role, Scopes: all, Via: "session"}
		require.Equal(t, want, people.PermissionsOf(role))
		require.ElementsMatch(t, want, p.Permissions())
		for _, permission := range append(all, "", "all") {
			may := p.Need(permission) == nil
			require.Equal(t, may, p.Can(permission))
			require.Equal(t, strings.Contains(" "+joined(want)+" ", " "+string(permission)+" ") && permission != "", may, "%s %s", role, permission)
			require.False(t, people.Principal{Name: "alice", Role: role}.Can(permission), "without scopes")
			require.False(t, people.Principal{}.Can(permission))
		}
	}
	token := people.Principal{Name: "alice", Role: people.Applicant, Scopes: []people.Permission{people.Read, people.Admin}, Via: "token t-1"}
	require.Equal(t, []people.Permission{people.Read}, token.Permissions(), "what role and scopes both have")
	require.ErrorContains(t, token.Need(people.Apply), "token t-1 has only read, admin")
	require.ErrorContains(t, token.Need(people.Admin), "role applicant")
	require.ErrorIs(t, token.Need(people.Apply), errs.ErrNotAllowed)
	require.ErrorIs(t, people.Principal{}.Need(people.Read), people.ErrUnauthenticated)
	require.ErrorIs(t, people.ErrUnauthenticated, errs.ErrNotAllowed)
	require.Empty(t, people.From(t.Context()))
	require.Equal(t, token, people.From(people.With(t.Context(), token)))
	require.Equal(t, store.Actor{Name: "alice", Via: "token t-1"}, store.ActorOf(people.With(t.Context(), token)))
}

func joined(list []people.Permission) string {
	var words []string
	for _, p := range list {
		words = append(words, string(p))
	}
	return strings.Join(words, " ")
}

func TestUsers(t *testing.T) {
	each(t, map[string]func(*testing.T, *world){
		"only administrators make, see and change them": func(t *testing.T, w *world) {
			root := w.root(t)
			for _, role := range []people.Role{people.Viewer, people.Applicant, people.Approver} {
				p := w.person(t, root, string(role), role)
				_, _, err := w.CreateUser(t.Context(), p, people.NewUser{Name: "eve", Role: people.Viewer})
				require.ErrorIs(t, err, errs.ErrNotAllowed)
				_, err = w.SetRole(t.Context(), p, p.Name, 0, people.Administrator)
				require.ErrorIs(t, err, errs.ErrNotAllowed)
				_, err = w.Disable(t.Context(), p, "root", 0)
				require.ErrorIs(t, err, errs.ErrNotAllowed)
				_, err = w.Enable(t.Context(), p, "root", 0)
				require.ErrorIs(t, err, errs.ErrNotAllowed)
				_, err = w.ListUsers(t.Context(), p, "", 0)
				require.ErrorIs(t, err, errs.ErrNotAllowed)
				_, err = w.GetUser(t.Context(), p, "root")
				require.ErrorIs(t, err, errs.ErrNotAllowed)
				_, err = w.GetUser(t.Context(), p, "nobody")
				require.ErrorIs(t, err, errs.ErrNotAllowed, "nor who there is")
				self, err := w.GetUser(t.Context(), p, p.Name)
				require.NoError(t, err)
				require.Equal(t, role, self.Role)
			}
			_, err := w.GetUser(t.Context(), people.Principal{}, "")
			require.ErrorIs(t, err, people.ErrUnauthenticated)
			users, err := w.ListUsers(t.Context(), root, "", 0)
			require.NoError(t, err)
			require.Equal(t, []string{"applicant", "approver", "root", "viewer"}, names(users))
			page, err := w.ListUsers(t.Context(), root, "applicant", 2)
			require.NoError(t, err)
			require.Equal(t, users[1:3], page)
			_, err = w.GetUser(t.Context(), root, "nobody")
			require.ErrorIs(t, err, errs.ErrNotFound)
		},
		"what is not acceptable": func(t *testing.T, w *world) {
			root := w.root(t)
			for field, bad := range map[string][]people.NewUser{
				"name": {
					{Role: people.Viewer}, {Name: "Alice", Role: people.Viewer}, {Name: "a b", Role: people.Viewer}, {Name: "-a", Role: people.Viewer},
					{Name: strings.Repeat("a", 64), Role: people.Viewer}, {Name: "turnout", Role: people.Viewer}, {Name: "a\x00", Role: people.Viewer},
				},
				"role": {{Name: "alice"}, {Name: "alice", Role: "root"}},
				"password": {
					{Name: "alice", Role: people.Viewer, Password: "elevenchars"}, {Name: "alice", Role: people.Viewer, Password: "alice-alice-alice"},
					{Name: "alice", Role: people.Viewer, Password: "ALICEwonderland"}, {Name: "alice", Role: people.Viewer, Password: strings.Repeat("x", 1025)},
					{Name: "alice", Role: people.Viewer, Password: "\xffelevenchars\xff"}, {Name: "alice", Role: people.Viewer, Password: "äöüäöü"},
				},
			} {
				for _, n := range bad {
					_, _, err := w.CreateUser(t.Context(), root, n)
					require.ErrorIs(t, err, errs.ErrInvalid)
					require.Regexp(t, "^invalid: "+field+"[: ]", err.Error(), "%+v", n)
					require.True(t, n.Password == "" || !strings.Contains(err.Error(), n.Password), "the error holds the password")
				}
			}
			for name, good := range map[string]string{"alice": "twelve chars", "bob@example.org": "alicewonderland", "c": strings.Repeat("ä", 12)} {
				_, _, err := w.CreateUser(t.Context(), root, people.NewUser{Name: name, Role: people.Viewer, Password: good})
				require.NoError(t, err)
				_, err = w.Login(t.Context(), name, good, home, "")
				require.NoError(t, err)
			}
			_, _, err := w.CreateUser(t.Context(), root, people.NewUser{Name: "alice", Role: people.Administrator})
			require.ErrorIs(t, err, errs.ErrConflict)
			_, err = w.SetRole(t.Context(), root, "alice", 0, "king")
			require.ErrorIs(t, err, errs.ErrInvalid)
		},
		"a change is of the version that was seen": func(t *testing.T, w *world) {
			root := w.root(t)
			alice := w.person(t, root, "alice", people.Viewer)
			u, err := w.GetUser(t.Context(), root, "alice")
			require.NoError(t, err)
			changed, err := w.SetRole(t.Context(), root, "alice", u.Version, people.Approver)
			require.NoError(t, err)
			require.Equal(t, u.Version+1, changed.Version)
			_, err = w.Disable(t.Context(), root, "alice", u.Version)
			require.ErrorIs(t, err, errs.ErrConflict)
			_, err = w.Disable(t.Context(), root, "alice", changed.Version)
			require.NoError(t, err)
			for _, name := range []string{"nobody", "No Name", ""} {
				_, err = w.SetRole(t.Context(), root, name, 0, people.Viewer)
				require.ErrorIs(t, err, errs.ErrNotFound)
			}
			require.Equal(t, []string{"root create by session", "alice login by password", "root set-role by session", "root disable by session"},
				w.actions(t.Context(), t, "user", alice.Name))
		},
		"a role counts at once": func(t *testing.T, w *world) {
			root := w.root(t)
			w.person(t, root, "alice", people.Administrator)
			cookie := w.cookie(t, "alice")
			_, secret := w.token(t, w.session(t, cookie), people.Read, people.Admin)
			require.True(t, w.bearer(t, secret).Can(people.Admin))
			_, err := w.SetRole(t.Context(), root, "alice", 0, people.Applicant)
			require.NoError(t, err)
			require.Equal(t, []people.Permission{people.Read, people.Apply}, w.session(t, cookie).Permissions())
			require.Equal(t, []people.Permission{people.Read}, w.bearer(t, secret).Permissions())
		},
		"who is disabled is out, tokens too, and stays out of them": func(t *testing.T, w *world) {
			root := w.root(t)
			alice := w.person(t, root, "alice", people.Applicant)
			cookie := w.cookie(t, "alice")
			id, secret := w.token(t, alice, people.Read)
			_, err := w.Disable(t.Context(), root, "alice", 0)
			require.NoError(t, err)
			w.ended(t, cookie)
			refuse := func() {
				t.Helper()
				_, err := w.AuthenticateToken(t.Context(), secret, home)
				require.ErrorIs(t, err, people.ErrUnauthenticated)
			}
			refuse()
			_, err = w.Login(t.Context(), "alice", password, home, "")
			require.ErrorIs(t, err, people.ErrUnauthenticated)
			require.ErrorContains(t, err, "the name or the password is wrong")
			_, _, err = w.CreateToken(t.Context(), root, people.NewToken{Name: "x", Owner: "alice", Scopes: []people.Permission{people.Read}})
			require.ErrorIs(t, err, errs.ErrConflict)
			_, err = w.Enable(t.Context(), root, "alice", 0)
			require.NoError(t, err)
			w.ended(t, cookie)
			refuse()
			w.login(t, "alice")
			require.Equal(t, []string{"alice create by session", "root revoke by session"}, w.actions(t.Context(), t, "token", id))
		},
		"an administrator remains": func(t *testing.T, w *world) {
			root := w.root(t)
			_, _, err := w.CreateUser(t.Context(), root, people.NewUser{Name: "invited", Role: people.Administrator})
			require.NoError(t, err)
			refused := func() {
				t.Helper()
				_, err = w.SetRole(t.Context(), root, "root", 0, people.Approver)
				require.ErrorIs(t, err, errs.ErrConflict)
				require.ErrorContains(t, err, "last administrator")
				_, err = w.Disable(t.Context(), root, "root", 0)
				require.ErrorIs(t, err, errs.ErrConflict)
			}
			refused() // who is invited can not log in yet
			alice := w.person(t, root, "alice", people.Administrator)
			_, err = w.Disable(t.Context(), root, "alice", 0)
			require.NoError(t, err)
			refused()
			_, err = w.Enable(t.Context(), root, "alice", 0)
			require.NoError(t, err)
			_, err = w.SetRole(t.Context(), alice, "root", 0, people.Administrator)
			require.NoError(t, err, "which it was")
			_, err = w.SetRole(t.Context(), root, "root", 0, people.Viewer)
			require.NoError(t, err)
			_, err = w.Disable(t.Context(), alice, "root", 0)
			require.NoError(t, err, "a viewer")
		},
		"of administrators who put each other out at once one remains": func(t *testing.T, w *world) {
			a := w.root(t)
			b := w.person(t, a, "b", people.Administrator)
			for i := range 10 {
				errs2 := make([]error, 2)
				var all sync.WaitGroup
				for n, pair := range [][2]people.Principal{{a, b}, {b, a}} {
					all.Go(func() {
						if i%2 == 0 {
							_, errs2[n] = w.SetRole(t.Context(), pair[0], pair[1].Name, 0, people.Viewer)
						} else {
							_, errs2[n] = w.Disable(t.Context(), pair[0], pair[1].Name, 0)
						}
					})
				}
				all.Wait()
				failed := errs2[0]
				if failed == nil {
					failed = errs2[1]
				}
				require.ErrorIs(t, failed, errs.ErrConflict)
				require.True(t, errs2[0] == nil || errs2[1] == nil)
				for _, name := range []string{a.Name, b.Name} {
					_, err := w.SetRole(t.Context(), a, name, 0, people.Administrator)
					require.NoError(t, err)
					_, err = w.Enable(t.Context(), a, name, 0)
					require.NoError(t, err)
				}
			}
		},
	})
}

func names(users []people.User) (list []string) {
	for _, u := range users {
		list = append(list, u.Name)
	}
	return list
}

func TestOwners(t *testing.T) {
	each(t, map[string]func(*testing.T, *world){
		"owners are changed by owners and administrators": func(t *testing.T, w *world) {
			root := w.root(t)
			alice, bob := w.person(t, root, "alice", people.Applicant), w.person(t, root, "bob", people.Approver)
			carol := w.person(t, root, "carol", people.Viewer)
			require.ErrorIs(t, w.AddOwner(t.Context(), alice, "billing", "alice"), errs.ErrNotAllowed, "nobody owns it, and nobody takes it by this")
			for range 2 {
				require.NoError(t, w.AddOwner(t.Context(), root, "billing", "alice"))
			}
			require.ErrorIs(t, w.AddOwner(t.Context(), bob, "billing", "bob"), errs.ErrNotAllowed)
			require.NoError(t, w.AddOwner(t.Context(), alice, "billing", "carol"))
			require.ErrorIs(t, w.AddOwner(t.Context(), carol, "billing", "bob"), errs.ErrNotAllowed, "an owner, and only a viewer")
			require.ErrorIs(t, w.AddOwner(t.Context(), alice, "billing", "nobody"), errs.ErrNotFound)
			require.ErrorIs(t, w.AddOwner(t.Context(), root, "bad name", "alice"), errs.ErrInvalid)
			got, err := w.Owners(t.Context(), bob, "billing")
			require.NoError(t, err)
			require.Equal(t, []string{"alice", "carol"}, got)
			require.NoError(t, w.AddOwner(t.Context(), root, "alerts", "carol"))
			got, err = w.Owned(t.Context(), bob, "carol")
			require.NoError(t, err)
			require.Equal(t, []string{"alerts", "billing"}, got)
			for _, ask := range []func() error{
				func() error { _, err := w.Owners(t.Context(), people.Principal{}, "billing"); return err },
				func() error { _, err := w.Owned(t.Context(), people.Principal{}, "carol"); return err },
			} {
				require.ErrorIs(t, ask(), people.ErrUnauthenticated)
			}

			require.ErrorIs(t, w.RemoveOwner(t.Context(), bob, "billing", "alice"), errs.ErrNotAllowed)
			require.ErrorIs(t, w.RemoveOwner(t.Context(), alice, "billing", "bob"), errs.ErrNotFound)
			require.NoError(t, w.RemoveOwner(t.Context(), alice, "billing", "carol"))
			require.ErrorIs(t, w.RemoveOwner(t.Context(), alice, "billing", "alice"), errs.ErrNotAllowed, "the last one")
			require.NoError(t, w.RemoveOwner(t.Context(), root, "billing", "alice"))
			got, err = w.Owners(t.Context(), bob, "billing")
			require.NoError(t, err)
			require.Empty(t, got)
			require.Equal(t, []string{"root add-owner by session", "alice add-owner by session", "alice remove-owner by session", "root remove-owner by session"},
				w.actions(t.Context(), t, "app", "billing"))
		},
	})
}
