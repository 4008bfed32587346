package people_test

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/turnout-mq/turnout/admin/people"
	"github.com/turnout-mq/turnout/internal/errs"
)

func TestTokens(t *testing.T) {
	each(t, map[string]func(*testing.T, *world){
		"act for their owner, within their scopes": func(t *testing.T, w *world) {
			root := w.root(t)
			alice := w.person(t, root, "alice", people.Approver)
			made, secret, err := w.CreateToken(t.Context(), alice, people.NewToken{Name: "ci", Scopes: []people.Permission{people.Apply, people.Read, people.Apply}})
			require.NoError(t, err)
			require.Equal(t, "t-1", made.ID)
			require.Equal(t, []string{"read", "apply"}, made.Scopes)
			require.Regexp(t, `^turnout_[0-9A-Za-z]{44}$`, secret)
			require.Equal(t, people.Principal{Name: "alice", Role: people.Approver, Scopes: []people.Permission{people.Read, people.Apply}, Via: "token t-1", Address: home},
				w.bearer(t, secret))
			mine, err := w.ListTokens(t.Context(), alice, "alice", "", 0)
			require.NoError(t, err)
			require.Len(t, mine, 1)
			require.Equal(t, w.clock.Now(), *mine[0].UsedAt)
			w.clock.move(time.Second)
			w.bearer(t, secret)
			again, err := w.ListTokens(t.Context(), alice, "alice", "", 0)
			require.NoError(t, err)
			require.Equal(t, mine, again, "the last use is known within a minute")
			w.clock.move(time.Minute)
			w.bearer(t, secret)
			again, err = w.ListTokens(t.Context(), alice, "alice", "", 0)
			require.NoError(t, err)
			require.Equal(t, w.clock.Now(), *again[0].UsedAt)
		},
		"what is not one": func(t *testing.T, w *world) {
			root := w.root(t)
			_, secret := w.token(t, root, people.Read)
			other := "turnout_" + strings.Repeat("0", 44)
			for _, wrong := range []string{"", secret[:51], secret + "0", strings.ToUpper(secret), strings.Replace(secret, "turnout_", "turnout_once_", 1), other, w.cookie(t, "root")} {
				_, err := w.AuthenticateToken(t.Context(), wrong, home)
				require.ErrorIs(t, err, people.ErrUnauthenticated)
				require.ErrorContains(t, err, "mistyped", "the checksum says so")
			}
			i, err := w.Recover(t.Context())
			require.NoError(t, err)
			_, err = w.AuthenticateToken(t.Context(), i.Token, home)
			require.ErrorIs(t, err, people.ErrUnauthenticated)
			_, err = w.Claim(t.Context(), secret, "root", password, home)
			require.ErrorIs(t, err, people.ErrUnauthenticated)
			w.ended(t, secret)
		},
		"expire": func(t *testing.T, w *world) {
			root := w.root(t)
			_, secret := w.token(t, root, people.Read)
			w.clock.move(90*24*time.Hour - time.Second)
			w.bearer(t, secret)
			w.clock.move(time.Second)
			_, err := w.AuthenticateToken(t.Context(), secret, home)
			require.ErrorIs(t, err, people.ErrUnauthenticated)
			require.ErrorContains(t, err, "has expired")
			require.NoError(t, w.Sweep(t.Context()))
			mine, err := w.ListTokens(t.Context(), root, "root", "", 0)
			require.NoError(t, err)
			require.Len(t, mine, 1, "its owner sees why it is refused")
		},
		"what is not acceptable": func(t *testing.T, w *world) {
			root := w.root(t)
			read := []people.Permission{people.Read}
			for field, bad := range map[string][]people.NewToken{
				"name":   {{Scopes: read}, {Name: " ", Scopes: read}, {Name: strings.Repeat("x", 101), Scopes: read}, {Name: "a\nb", Scopes: read}, {Name: "a\xff", Scopes: read}},
				"scopes": {{Name: "x"}, {Name: "x", Scopes: []people.Permission{"everything"}}, {Name: "x", Scopes: []people.Permission{"read", ""}}},
				"expires": {
					{Name: "x", Scopes: read, Expires: w.clock.Now()}, {Name: "x", Scopes: read, Expires: w.clock.Now().Add(366*24*time.Hour + time.Second)},
				},
			} {
				for _, n := range bad {
					_, _, err := w.CreateToken(t.Context(), root, n)
					require.ErrorIs(t, err, errs.ErrInvalid, "%+v", n)
					require.Regexp(t, "^invalid: "+field+"[: ]", err.Error())
				}
			}
			made, _, err := w.CreateToken(t.Context(), root, people.NewToken{Name: "x", Scopes: read, Expires: w.clock.Now().Add(366 * 24 * time.Hour)})
			require.NoError(t, err)
			require.Equal(t, w.clock.Now().Add(366*24*time.Hour), made.ExpiresAt)
		},
		"are no way to more": func(t *testing.T, w *world) {
			root := w.root(t)
			alice := w.person(t, root, "alice", people.Applicant)
			create := func(by people.Principal, owner string, scopes ...people.Permission) error {
				_, _, err := w.CreateToken(t.Context(), by, people.NewToken{Name: "x", Owner: owner, Scopes: scopes})
				return err
			}
			require.ErrorIs(t, create(alice, "", people.Approve), errs.ErrNotAllowed)
			require.ErrorIs(t, create(alice, "root", people.Read), errs.ErrNotAllowed)
			require.ErrorIs(t, create(people.Principal{}, "", people.Read), people.ErrUnauthenticated)
			_, secret := w.token(t, root, people.Permissions()...)
			require.ErrorIs(t, create(w.bearer(t, secret), "", people.Read), errs.ErrNotAllowed, "it could make itself last")
			require.ErrorIs(t, create(w.bearer(t, secret), "alice", people.Read), errs.ErrNotAllowed)
			require.NoError(t, create(root, "alice", people.Read, people.Admin), "bounded by the role of alice")
			w.person(t, root, "bob", people.Approver)
			require.ErrorIs(t, create(root, "bob", people.Read, people.Approve), errs.ErrNotAllowed, "root would approve the own request as bob")
			require.ErrorIs(t, create(root, "nobody", people.Read), errs.ErrNotFound)
			of, err := w.ListTokens(t.Context(), alice, "alice", "", 0)
			require.NoError(t, err)
			require.Len(t, of, 1)
			require.Equal(t, "alice", of[0].Owner)
		},
		"are seen and revoked by their owner and by administrators": func(t *testing.T, w *world) {
			root := w.root(t)
			alice, bob := w.person(t, root, "alice", people.Applicant), w.person(t, root, "bob", people.Approver)
			var ids, secrets []string
			for range 4 {
				id, secret := w.token(t, alice, people.Read)
				ids, secrets = append(ids, id), append(secrets, secret)
			}
			_, err := w.ListTokens(t.Context(), bob, "alice", "", 0)
			require.ErrorIs(t, err, errs.ErrNotAllowed)
			_, err = w.ListTokens(t.Context(), bob, "", "", 0)
			require.ErrorIs(t, err, errs.ErrNotAllowed)
			_, err = w.ListTokens(t.Context(), people.Principal{}, "", "", 0)
			require.ErrorIs(t, err, people.ErrUnauthenticated)
			_, err = w.ListTokens(t.Context(), alice, "alice", "x", 0)
			require.ErrorIs(t, err, errs.ErrInvalid)
			require.ErrorIs(t, w.RevokeToken(t.Context(), bob, ids[0]), errs.ErrNotFound)
			require.ErrorIs(t, w.RevokeToken(t.Context(), bob, "t-99"), errs.ErrNotFound, "as if there were none")
			require.ErrorIs(t, w.RevokeToken(t.Context(), alice, "99"), errs.ErrInvalid)
			require.ErrorIs(t, w.RevokeToken(t.Context(), people.Principal{}, ids[0]), people.ErrUnauthenticated)
			require.ErrorIs(t, w.RevokeToken(t.Context(), w.bearer(t, secrets[1]), ids[0]), errs.ErrNotAllowed, "another one of its owner")
			page, err := w.ListTokens(t.Context(), root, "alice", ids[0], 2)
			require.NoError(t, err)
			require.Equal(t, []string{ids[1], ids[2]}, []string{page[0].ID, page[1].ID})
			for i, by := range []people.Principal{alice, root, w.bearer(t, secrets[2])} {
				w.bearer(t, secrets[i])
				require.NoError(t, w.RevokeToken(t.Context(), by, ids[i]))
				_, err = w.AuthenticateToken(t.Context(), secrets[i], home)
				require.ErrorIs(t, err, people.ErrUnauthenticated)
				require.ErrorIs(t, w.RevokeToken(t.Context(), root, ids[i]), errs.ErrNotFound)
			}
			w.bearer(t, secrets[3])
			all, err := w.ListTokens(t.Context(), root, "", "", 0)
			require.NoError(t, err)
			require.Len(t, all, 1)
			require.Equal(t, []string{"alice create by session", "alice revoke by token t-3"}, w.actions(t.Context(), t, "token", "t-3"))
		},
		"are bounded in number": func(t *testing.T, w *world) {
			root := w.root(t)
			for range 100 {
				w.token(t, root, people.Read)
			}
			_, _, err := w.CreateToken(t.Context(), root, people.NewToken{Name: "x", Scopes: []people.Permission{people.Read}})
			require.ErrorIs(t, err, errs.ErrConflict)
			require.NoError(t, w.RevokeToken(t.Context(), root, "t-1"))
			w.token(t, root, people.Read)
		},
	})
}
