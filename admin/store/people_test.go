package store_test

import (
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/turnout-mq/turnout/admin/store"
	"github.com/turnout-mq/turnout/internal/errs"
)

// What people may do with these is tested in admin/people, on the same databases.
func TestPeople(t *testing.T) {
	now := time.Date(2026, 5, 4, 3, 2, 1, 0, time.UTC)
	user := func(t *testing.T, s *store.Store, name string) *store.User {
		t.Helper()
		u := &store.User{Name: name, Role: store.Viewer, Password: "hash of " + name}
		require.NoError(t, s.CreateUser(t.Context(), u, nil))
		return u
	}
	each(t, map[string]func(*testing.T, *store.Store, string){
		"are read as they were written": func(t *testing.T, s *store.Store, _ string) {
			alice := user(t, s, "alice")
			got, err := s.User(t.Context(), "alice")
			require.NoError(t, err)
			require.Equal(t, alice, got)
			all, err := s.Users(t.Context(), "", 0)
			require.NoError(t, err)
			require.Equal(t, []store.User{*alice}, all)

			token := &store.Token{Name: "ci", Owner: "alice", Scopes: []string{"read", "apply"}, CreatedAt: now, ExpiresAt: now.Add(time.Hour)}
			require.NoError(t, s.CreateToken(t.Context(), token, "h1", 1))
			require.ErrorIs(t, s.CreateToken(t.Context(), &store.Token{Name: "x", Owner: "alice", Scopes: []string{"read"}}, "h2", 1), errs.ErrConflict)
			read, owner, err := s.TokenByHash(t.Context(), "h1")
			require.NoError(t, err)
			require.Equal(t, token, read)
			require.Equal(t, []any{"alice", store.Viewer, int64(1)}, []any{owner.Name, owner.Role, owner.Version})
			require.NoError(t, s.UseToken(t.Context(), token.ID, now.Add(time.Minute)))
			require.NoError(t, s.UseToken(t.Context(), token.ID, now), "an earlier use does not count")
			read, err = s.Token(t.Context(), token.ID)
			require.NoError(t, err)
			require.Equal(t, now.Add(time.Minute), *read.UsedAt)

			session := store.Session{Hash: "h3", User: "alice", Address: "10.0.0.7", Created: now, Seen: now, Expires: now.Add(time.Hour)}
			require.NoError(t, s.BeginSession(t.Context(), session, store.Login{Password: alice.Password, Most: 5}))
			require.NoError(t, s.SeeSession(t.Context(), "h3", now.Add(time.Minute)))
			require.NoError(t, s.SeeSession(t.Context(), "h3", now))
			session.Seen = now.Add(time.Minute)
			seen, owner, err := s.SessionByHash(t.Context(), "h3")
			require.NoError(t, err)
			require.Equal(t, &session, seen)
			require.Equal(t, "alice", owner.Name)
		},
		"a session is that of the password which was compared": func(t *testing.T, s *store.Store, _ string) {
			alice := user(t, s, "alice")
			begin := func(password string) error {
				return s.BeginSession(t.Context(), store.Session{Hash: "h", User: "alice", Created: now, Seen: now, Expires: now}, store.Login{Password: password, Most: 5})
			}
			require.ErrorIs(t, begin("another hash"), errs.ErrConflict)
			disabled := true
			_, err := s.UpdateUser(t.Context(), "alice", 0, store.UserChange{Action: "disable", Disabled: &disabled})
			require.NoError(t, err)
			require.ErrorIs(t, begin(alice.Password), errs.ErrConflict)
			_, _, err = s.SessionByHash(t.Context(), "h")
			require.ErrorIs(t, err, errs.ErrNotFound)
		},
		"of changes at once of one version one is done": func(t *testing.T, s *store.Store, _ string) {
			u := user(t, s, "alice")
			results := make([]error, 8)
			var all sync.WaitGroup
			for i := range results {
				role := []store.Role{store.Viewer, store.Applicant, store.Approver, store.Administrator}[i%4]
				all.Go(func() {
					_, results[i] = s.UpdateUser(t.Context(), "alice", u.Version, store.UserChange{Action: "set-role", Role: &role})
				})
			}
			all.Wait()
			done := 0
			for _, err := range results {
				if err == nil {
					done++
					continue
				}
				require.ErrorIs(t, err, errs.ErrConflict)
			}
			require.Equal(t, 1, done)
			audits, err := s.Audits(t.Context(), store.AuditFilter{Kind: "user", Action: "set-role"})
			require.NoError(t, err)
			require.Len(t, audits, 1, "what was refused is not audited")
		},
		"attempts are counted": func(t *testing.T, s *store.Store, _ string) {
			rate := store.Rate{Burst: 5, Every: time.Second}
			attempts := func(n int, at time.Time) (done int) {
				t.Helper()
				refused, failed := make([]bool, n), make([]error, n)
				var all sync.WaitGroup
				for i := range n {
					all.Go(func() { refused[i], failed[i] = s.Attempt(t.Context(), "x", rate, at) })
				}
				all.Wait()
				require.NoError(t, errors.Join(failed...))
				for _, r := range refused {
					if !r {
						done++
					}
				}
				return done
			}
			require.Equal(t, 5, attempts(12, now))
			require.Equal(t, 0, attempts(2, now.Add(time.Second-time.Microsecond)))
			require.Equal(t, 2, attempts(4, now.Add(2*time.Second)))
			require.NoError(t, s.Unattempt(t.Context(), "x", rate))
			require.Equal(t, 1, attempts(3, now.Add(2*time.Second)))
			require.Equal(t, 5, attempts(9, now.Add(time.Hour)), "no more are saved up")
			other, err := s.Attempt(t.Context(), "y", rate, now)
			require.NoError(t, err)
			require.False(t, other)
		},
		"what is not acceptable": func(t *testing.T, s *store.Store, _ string) {
			user(t, s, "alice")
			scopes := []string{"read"}
			for i, err := range []error{
				s.CreateUser(t.Context(), &store.User{Role: store.Viewer}, nil),
				s.CreateUser(t.Context(), &store.User{Name: "a\x00", Role: store.Viewer}, nil),
				s.CreateUser(t.Context(), &store.User{Name: "bob", Role: "king"}, nil),
				s.CreateToken(t.Context(), &store.Token{Owner: "alice", Scopes: scopes}, "h", 9),
				s.CreateToken(t.Context(), &store.Token{Name: "x", Owner: "alice", Scopes: scopes}, "", 9),
				s.CreateToken(t.Context(), &store.Token{Name: "x", Owner: "alice"}, "h", 9),
				s.CreateToken(t.Context(), &store.Token{Name: "x", Owner: "alice", Scopes: []string{""}}, "h", 9),
				s.BeginSession(t.Context(), store.Session{Hash: "h", User: "alice"}, store.Login{}),
				s.AddOwner(t.Context(), "", "alice"),
				s.RevokeToken(t.Context(), "m-1"),
				s.UseToken(t.Context(), "t-0", now),
			} {
				require.ErrorIs(t, err, errs.ErrInvalid, fmt.Sprint(i))
			}
			for _, err := range []error{
				s.CreateToken(t.Context(), &store.Token{Name: "x", Owner: "bob", Scopes: scopes}, "h", 9),
				s.PutOneTime(t.Context(), store.OneTime{User: "bob", Hash: "h", Created: now, Expires: now}),
				s.AddOwner(t.Context(), "billing", "bob"),
				s.RemoveOwner(t.Context(), "billing", "alice"),
				s.RevokeToken(t.Context(), "t-1"),
			} {
				require.ErrorIs(t, err, errs.ErrNotFound)
			}
			_, err := s.Claim(t.Context(), "h", now, "bob", "hash")
			require.ErrorIs(t, err, errs.ErrNotFound)
			_, _, err = s.TokenByHash(t.Context(), "h")
			require.ErrorIs(t, err, errs.ErrNotFound)
		},
	})
}
