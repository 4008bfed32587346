package people_test

import (
	"context"
	"database/sql"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"go.uber.org/zap/zaptest"

	"github.com/turnout-mq/turnout/admin/people"
	"github.com/turnout-mq/turnout/admin/store"
	"github.com/turnout-mq/turnout/testenv"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	home     = "203.0.113.7" // where people are
	password = "correct horse battery"
)

// quick are the least parameters that argon2 knows: what is tested is not how long they take.
var quick = people.Hashing{Memory: 8, Passes: 1, Threads: 1}

// clock stands still unless it is moved.
type clock struct {
	mu  sync.Mutex
	now time.Time
}

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *clock) move(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

// world is a platform: a store, and a server on it.
type world struct {
	*people.Service
	db    *store.Store
	url   string
	clock *clock
}

func (w *world) server(t *testing.T, change func(o *people.Options)) *people.Service {
	t.Helper()
	o := people.Options{Hashing: quick, Now: w.clock.Now, Log: zaptest.NewLogger(t)}
	if change != nil {
		change(&o)
	}
	return people.New(w.db, o)
}

// each runs the cases on new and empty stores of every kind that TURNOUT_TEST asks for.
func each(t *testing.T, cases map[string]func(t *testing.T, w *world)) {
	t.Helper()
	testenv.EachSQL(t, func(t *testing.T, database func() string) {
		for name, f := range cases {
			t.Run(name, func(t *testing.T) {
				w := &world{url: database(), clock: &clock{now: time.Date(2026, 5, 4, 3, 2, 1, 0, time.UTC)}}
				db, err := store.Open(t.Context(), w.url, zaptest.NewLogger(t))
				require.NoError(t, err)
				t.Cleanup(func() { require.NoError(t, db.Close()) })
				w.db = db
				w.Service = w.server(t, nil)
				f(t, w)
			})
		}
	})
}

// root makes the first administrator and returns a session of hers.
func (w *world) root(t *testing.T) people.Principal {
	t.Helper()
	i, err := w.Bootstrap(t.Context())
	require.NoError(t, err)
	require.NotNil(t, i)
	_, err = w.Claim(t.Context(), i.Token, "root", password, home)
	require.NoError(t, err)
	return w.login(t, "root")
}

// person makes a user and returns a session of hers.
func (w *world) person(t *testing.T, root people.Principal, name string, role people.Role) people.Principal {
	t.Helper()
	_, i, err := w.CreateUser(t.Context(), root, people.NewUser{Name: name, Role: role, Password: password})
	require.NoError(t, err)
	require.Nil(t, i)
	return w.login(t, name)
}

func (w *world) login(t *testing.T, name string) people.Principal {
	t.Helper()
	return w.session(t, w.cookie(t, name))
}

// cookie is the secret of a new session.
func (w *world) cookie(t *testing.T, name string) string {
	t.Helper()
	s, err := w.Login(t.Context(), name, password, home, "")
	require.NoError(t, err)
	return s.Secret
}

func (w *world) session(t *testing.T, secret string) people.Principal {
	t.Helper()
	p, err := w.AuthenticateSession(t.Context(), secret, home)
	require.NoError(t, err)
	return p
}

// ended asserts that nobody is recognized by the session.
func (w *world) ended(t *testing.T, secret string) {
	t.Helper()
	p, err := w.AuthenticateSession(t.Context(), secret, home)
	require.ErrorIs(t, err, people.ErrUnauthenticated)
	require.Empty(t, p)
}

// token makes one and returns its secret.
func (w *world) token(t *testing.T, by people.Principal, scopes ...people.Permission) (id, secret string) {
	t.Helper()
	made, secret, err := w.CreateToken(t.Context(), by, people.NewToken{Name: "ci", Scopes: scopes})
	require.NoError(t, err)
	return made.ID, secret
}

func (w *world) bearer(t *testing.T, secret string) people.Principal {
	t.Helper()
	p, err := w.AuthenticateToken(t.Context(), secret, home)
	require.NoError(t, err)
	return p
}

func (w *world) actions(ctx context.Context, t *testing.T, kind, subject string) (list []string) {
	t.Helper()
	audits, err := w.db.Audits(ctx, store.AuditFilter{Kind: kind, Subject: subject, Oldest: true})
	require.NoError(t, err)
	for _, a := range audits {
		list = append(list, a.Who+" "+a.Action+" by "+a.Via)
	}
	return list
}

// raw is a connection past the store.
func raw(t *testing.T, url string) *sql.DB {
	t.Helper()
	driver, address := "pgx", url
	if path, found := strings.CutPrefix(url, "sqlite:"); found {
		driver, address = "sqlite", path+"?_pragma=busy_timeout(5000)"
	}
	db, err := sql.Open(driver, address)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, db.Close()) })
	return db
}
