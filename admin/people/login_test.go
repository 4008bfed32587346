package people_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/turnout-mq/turnout/admin/people"
	"github.com/turnout-mq/turnout/admin/store"
	"github.com/turnout-mq/turnout/internal/errs"
)

func TestLogin(t *testing.T) {
	each(t, map[string]func(*testing.T, *world){
		"which of name and password is wrong is not said": func(t *testing.T, w *world) {
			root := w.root(t)
			w.person(t, root, "alice", people.Viewer)
			var texts []string
			for i, c := range [][2]string{
				{"alice", "wrong horse battery"}, {"alice", ""}, {"alice", strings.Repeat("x", 1<<20)}, {"nobody", password}, {"", password},
				{"Alice", password}, {"a\x00\xff", password}, {strings.Repeat("a", 1<<20), password},
			} {
				_, err := w.Login(t.Context(), c[0], c[1], fmt.Sprintf("203.0.113.%d", i), "")
				require.ErrorIs(t, err, people.ErrUnauthenticated)
				texts = append(texts, err.Error())
			}
			for _, text := range texts {
				require.Equal(t, texts[0], text)
			}
		},
		"gives a session": func(t *testing.T, w *world) {
			w.root(t)
			s, err := w.Login(t.Context(), "root", password, home, "")
			require.NoError(t, err)
			require.Equal(t, "root", s.User)
			require.Equal(t, w.clock.Now().Add(12*time.Hour), s.Expires)
			require.Equal(t, people.Principal{Name: "root", Role: people.Administrator, Scopes: people.Permissions(), Via: "session", Address: home}, w.session(t, s.Secret))
			require.NoError(t, w.CheckCSRF(s.Secret, s.CSRF))
			require.Equal(t, s.CSRF, w.CSRF(s.Secret))
			other := w.cookie(t, "root")
			require.NotEqual(t, s.Secret, other)
			for _, wrong := range []string{"", s.Secret, w.CSRF(other), s.CSRF + "0", strings.ToUpper(s.CSRF)} {
				require.ErrorIs(t, w.CheckCSRF(s.Secret, wrong), errs.ErrNotAllowed)
			}
			for _, wrong := range []string{"", "x", strings.Repeat("0", 43), s.Secret + "0", s.CSRF, strings.ToLower(s.Secret)} {
				w.ended(t, wrong)
			}
		},
		"ends the session it came with, and no other": func(t *testing.T, w *world) {
			w.root(t)
			first, other := w.cookie(t, "root"), w.cookie(t, "root")
			_, err := w.Login(t.Context(), "root", "wrong horse battery", home, first)
			require.ErrorIs(t, err, people.ErrUnauthenticated)
			w.session(t, first)
			s, err := w.Login(t.Context(), "root", password, home, first)
			require.NoError(t, err)
			w.ended(t, first)
			w.session(t, other)
			w.session(t, s.Secret)
			require.NoError(t, w.Logout(t.Context(), other))
			require.NoError(t, w.Logout(t.Context(), other))
			w.ended(t, other)
			w.session(t, s.Secret)
			all := w.actions(t.Context(), t, "user", "root")
			require.Equal(t, "turnout logout by ", all[len(all)-1], "who ends it is the actor of ctx")
		},
		"the oldest of too many sessions ends": func(t *testing.T, w *world) {
			w.root(t)
			w.clock.move(time.Second)
			var secrets []string
			for range 21 {
				w.clock.move(time.Second)
				secrets = append(secrets, w.cookie(t, "root"))
			}
			w.ended(t, secrets[0])
			for _, s := range secrets[1:] {
				w.session(t, s)
			}
		},
		"hashes become those of the parameters of now": func(t *testing.T, w *world) {
			w.root(t)
			before, err := w.db.User(t.Context(), "root")
			require.NoError(t, err)
			require.Contains(t, before.Password, "$argon2id$v=19$m=8,t=1,p=1$")
			strong := w.server(t, func(o *people.Options) { o.Hashing = people.Hashing{Memory: 32, Passes: 2, Threads: 2} })
			_, err = strong.Login(t.Context(), "root", "wrong horse battery", home, "")
			require.ErrorIs(t, err, people.ErrUnauthenticated)
			unchanged, err := w.db.User(t.Context(), "root")
			require.NoError(t, err)
			require.Equal(t, before, unchanged)
			for range 2 {
				_, err = strong.Login(t.Context(), "root", password, home, "")
				require.NoError(t, err)
			}
			after, err := w.db.User(t.Context(), "root")
			require.NoError(t, err)
			require.Contains(t, after.Password, "$argon2id$v=19$m=32,t=2,p=2$")
			require.Equal(t, before.Version, after.Version)
			require.NotContains(t, fmt.Sprint(w.actions(t.Context(), t, "user", "root")), "change-password")
			_, err = strong.Login(t.Context(), "root", password, home, "")
			require.NoError(t, err)
		},
		"nothing secret is in the audit": func(t *testing.T, w *world) {
			i, err := w.Bootstrap(t.Context())
			require.NoError(t, err)
			_, err = w.Claim(t.Context(), i.Token, "root", password, home)
			require.NoError(t, err)
			root := w.login(t, "root")
			_, secret := w.token(t, root, people.Read)
			_, invited, err := w.CreateUser(t.Context(), root, people.NewUser{Name: "alice", Role: people.Viewer})
			require.NoError(t, err)
			require.NoError(t, w.ChangePassword(t.Context(), root, password, "another horse battery"))
			audits, err := w.db.Audits(t.Context(), store.AuditFilter{})
			require.NoError(t, err)
			require.NotEmpty(t, audits)
			text := fmt.Sprintf("%+v", audits)
			for _, a := range audits {
				text += string(a.Before) + string(a.After)
			}
			for _, s := range []string{i.Token, secret, invited.Token, password, "another horse", "argon2id", "hash"} {
				require.NotContains(t, text, s)
			}
		},
	})
}

func TestLoginLimits(t *testing.T) {
	fail := func(t *testing.T, w *world, name, address string) {
		t.Helper()
		_, err := w.Login(t.Context(), name, "wrong horse battery", address, "")
		require.ErrorIs(t, err, people.ErrUnauthenticated)
	}
	limited := func(t *testing.T, s *people.Service, name, address, of string) {
		t.Helper()
		var limit *people.LimitError
		_, err := s.Login(t.Context(), name, password, address, "")
		require.ErrorAs(t, err, &limit)
		require.ErrorIs(t, err, errs.ErrNotAllowed)
		require.NotErrorIs(t, err, people.ErrUnauthenticated)
		require.Equal(t, of, limit.Of)
	}
	each(t, map[string]func(*testing.T, *world){
		"of an address, on all servers": func(t *testing.T, w *world) {
			w.root(t)
			for i := range 10 {
				fail(t, w, fmt.Sprint("name", i), home)
			}
			limited(t, w.Service, "root", home, "from this address")
			limited(t, w.server(t, nil), "root", home, "from this address")
			w.loginFrom(t, "root", "203.0.113.8")
			w.clock.move(6 * time.Second)
			w.loginFrom(t, "root", home)
			w.loginFrom(t, "root", home) // one that succeeds does not count
			fail(t, w, "root", home)
			limited(t, w.Service, "root", home, "from this address")
			w.clock.move(time.Hour)
			for range 10 {
				fail(t, w, "root", home)
			}
			limited(t, w.Service, "root", home, "from this address")
		},
		"of a network of IPv6": func(t *testing.T, w *world) {
			w.root(t)
			for i := range 10 {
				fail(t, w, "root", fmt.Sprintf("2001:db8:0:1::%x", i))
			}
			limited(t, w.Service, "root", "2001:db8:0:1:ffff::1", "from this address")
			w.loginFrom(t, "root", "2001:db8:0:2::1")
			for range 10 {
				fail(t, w, "root", "::ffff:203.0.113.7")
			}
			limited(t, w.Service, "root", home, "from this address")
			for range 10 {
				fail(t, w, "root", "")
			}
			limited(t, w.Service, "root", "no address", "from this address")
		},
		"of a name": func(t *testing.T, w *world) {
			root := w.root(t)
			w.person(t, root, "alice", people.Viewer)
			for i := range 30 {
				fail(t, w, "alice", fmt.Sprintf("203.0.113.%d", 100+i))
			}
			limited(t, w.server(t, nil), "alice", home, "for this name")
			w.loginFrom(t, "root", home)
			w.clock.move(3 * time.Second)
			w.loginFrom(t, "alice", home)
		},
		"one address locks nobody out": func(t *testing.T, w *world) {
			w.root(t)
			for range 10 {
				fail(t, w, "root", "198.51.100.1")
				for range 5 {
					_, err := w.Login(t.Context(), "root", "wrong horse battery", "198.51.100.1", "")
					require.ErrorIs(t, err, errs.ErrNotAllowed)
				}
				w.clock.move(6 * time.Second)
			}
			w.loginFrom(t, "root", home)
		},
		"of attempts at once no more are looked at": func(t *testing.T, w *world) {
			w.root(t)
			var all sync.WaitGroup
			results := make([]error, 25)
			for i := range results {
				all.Go(func() { _, results[i] = w.Login(t.Context(), "root", "wrong horse battery", home, "") })
			}
			all.Wait()
			looked := 0
			for _, err := range results {
				var limit *people.LimitError
				if !errors.As(err, &limit) {
					require.ErrorIs(t, err, people.ErrUnauthenticated)
					looked++
				}
			}
			require.Equal(t, 10, looked)
		},
		"a stolen session does not try out the old password": func(t *testing.T, w *world) {
			root := w.root(t)
			for range 30 {
				require.ErrorIs(t, w.ChangePassword(t.Context(), root, "wrong horse battery", "another horse battery"), errs.ErrInvalid)
			}
			var limit *people.LimitError
			require.ErrorAs(t, w.ChangePassword(t.Context(), root, password, "another horse battery"), &limit)
			w.clock.move(3 * time.Second)
			require.NoError(t, w.ChangePassword(t.Context(), root, password, "another horse battery"))
		},
	})
}

func (w *world) loginFrom(t *testing.T, name, address string) {
	t.Helper()
	_, err := w.Login(t.Context(), name, password, address, "")
	require.NoError(t, err)
}

func TestSessionsEnd(t *testing.T) {
	each(t, map[string]func(*testing.T, *world){
		"that are not used": func(t *testing.T, w *world) {
			w.root(t)
			used, unused := w.cookie(t, "root"), w.cookie(t, "root")
			for range 3 {
				w.clock.move(40 * time.Minute)
				w.session(t, used)
			}
			w.ended(t, unused)
			w.clock.move(time.Hour)
			w.ended(t, used)
		},
		"after their full time": func(t *testing.T, w *world) {
			w.root(t)
			secret := w.cookie(t, "root")
			for range 23 {
				w.clock.move(30 * time.Minute)
				w.session(t, secret)
			}
			w.clock.move(30*time.Minute - time.Second)
			w.session(t, secret)
			w.clock.move(time.Second)
			w.ended(t, secret)
		},
		"as the options say": func(t *testing.T, w *world) {
			w.root(t)
			s := w.server(t, func(o *people.Options) { o.SessionIdle, o.SessionMost = 10*time.Second, 25*time.Second })
			session, err := s.Login(t.Context(), "root", password, home, "")
			require.NoError(t, err)
			for range 3 {
				w.clock.move(8 * time.Second)
				_, err = s.AuthenticateSession(t.Context(), session.Secret, home)
				require.NoError(t, err)
			}
			w.clock.move(time.Second)
			_, err = s.AuthenticateSession(t.Context(), session.Secret, home)
			require.ErrorIs(t, err, people.ErrUnauthenticated)
		},
		"when the password changes": func(t *testing.T, w *world) {
			root := w.root(t)
			alice := w.person(t, root, "alice", people.Viewer)
			mine, other, theirs := w.cookie(t, "alice"), w.cookie(t, "alice"), w.cookie(t, "root")
			_, secret := w.token(t, alice, people.Read)
			require.ErrorIs(t, w.ChangePassword(t.Context(), alice, "wrong horse battery", "another horse battery"), errs.ErrInvalid)
			require.ErrorIs(t, w.ChangePassword(t.Context(), alice, password, "short"), errs.ErrInvalid)
			require.ErrorIs(t, w.ChangePassword(t.Context(), w.bearer(t, secret), password, "another horse battery"), errs.ErrNotAllowed, "needs a session")
			require.ErrorIs(t, w.ChangePassword(t.Context(), people.Principal{}, password, "another horse battery"), people.ErrUnauthenticated)
			w.session(t, mine)
			require.NoError(t, w.ChangePassword(t.Context(), alice, password, "another horse battery"))
			w.ended(t, mine)
			w.ended(t, other)
			w.session(t, theirs)
			w.bearer(t, secret)
			_, err := w.Login(t.Context(), "alice", password, home, "")
			require.ErrorIs(t, err, people.ErrUnauthenticated)
			_, err = w.Login(t.Context(), "alice", "another horse battery", home, "")
			require.NoError(t, err)
			all := w.actions(t.Context(), t, "user", "alice")
			require.Contains(t, all, "alice change-password by session")
		},
		"also those that begin while it changes": func(t *testing.T, w *world) {
			root := w.root(t)
			_, _, err := w.CreateUser(t.Context(), root, people.NewUser{Name: "alice", Role: people.Viewer, Password: password})
			require.NoError(t, err)
			for _, change := range []func(p people.Principal) error{
				func(p people.Principal) error {
					return w.ChangePassword(t.Context(), p, password, "another horse battery")
				},
				func(people.Principal) error { _, err := w.Disable(t.Context(), root, "alice", 0); return err },
			} {
				alice := w.login(t, "alice")
				var all sync.WaitGroup
				sessions := make([]*people.Session, 8)
				for i := range sessions {
					all.Go(func() { sessions[i], _ = w.Login(t.Context(), "alice", password, fmt.Sprintf("203.0.113.%d", i), "") })
				}
				require.NoError(t, change(alice))
				all.Wait()
				for _, s := range sessions {
					if s != nil {
						w.ended(t, s.Secret)
					}
				}
				_, err := w.Enable(t.Context(), root, "alice", 0)
				require.NoError(t, err)
				i, err := w.Invite(t.Context(), root, "alice")
				require.NoError(t, err)
				_, err = w.Claim(t.Context(), i.Token, "alice", password, home)
				require.NoError(t, err)
			}
		},
		"and are swept away": func(t *testing.T, w *world) {
			w.root(t)
			count := func() (n int) {
				for _, table := range []string{"sessions", "one_time_tokens", "attempts"} {
					var rows int
					require.NoError(t, raw(t, w.url).QueryRowContext(t.Context(), "SELECT COUNT(*) FROM "+table).Scan(&rows))
					n += rows
				}
				return n
			}
			_, err := w.Recover(t.Context())
			require.NoError(t, err)
			_, err = w.Login(t.Context(), "root", "wrong horse battery", home, "")
			require.ErrorIs(t, err, people.ErrUnauthenticated)
			require.NoError(t, w.Sweep(t.Context()))
			require.Equal(t, 1+1+2, count(), "nothing has expired")
			w.clock.move(24 * time.Hour)
			ctx, stop := context.WithCancel(t.Context())
			ended := make(chan struct{})
			go func() { w.Run(ctx); close(ended) }()
			require.Eventually(t, func() bool { return count() == 0 }, 2*time.Minute, 20*time.Millisecond)
			stop()
			<-ended
		},
	})
}
