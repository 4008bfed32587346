package store_test

import (
	"context"
	"database/sql"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"

	"github.com/pressly/goose/v3"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"github.com/turnout-mq/turnout/admin/store"
	"github.com/turnout-mq/turnout/internal/errs"
	"github.com/turnout-mq/turnout/testenv"
)

func TestWritersLoseNothing(t *testing.T) {
	each(t, map[string]func(*testing.T, *store.Store, string){
		"20 writers of one row": func(t *testing.T, s *store.Store, _ string) {
			m := counter(t, s)
			const writers, times = 20, 5
			var g errgroup.Group
			for w := range writers {
				g.Go(func() error {
					for range times {
						if err := countOne(t.Context(), s, m.ID, fmt.Sprint(w)); err != nil {
							return err
						}
					}
					return nil
				})
			}
			require.NoError(t, g.Wait())
			requireCount(t, s, m.ID, writers*times)
		},
		"processes": func(t *testing.T, s *store.Store, url string) {
			m := counter(t, s)
			const processes, times = 3, 40
			var children []*exec.Cmd
			for p := range processes {
				// The children read the words apart at the blanks.
				c := child(t, fmt.Sprintf("count%d", p), strings.ReplaceAll(url, " ", "%20"), m.ID, fmt.Sprint(times))
				require.NoError(t, c.Start())
				children = append(children, c)
			}
			for range times {
				require.NoError(t, countOne(t.Context(), s, m.ID, "parent"))
			}
			for _, c := range children {
				require.NoError(t, c.Wait())
			}
			requireCount(t, s, m.ID, (processes+1)*times)
		},
		"what people ask beside a controller": func(t *testing.T, s *store.Store, _ string) {
			m := counter(t, s)
			const times = 30
			var g errgroup.Group
			g.Go(func() error {
				for range times {
					if err := countOne(t.Context(), s, m.ID, "controller"); err != nil {
						return err
					}
				}
				return nil
			})
			for i := range times {
				r := []store.Request{store.Rollback, store.Abort}[i%2]
				require.NoError(t, s.Ask(t.Context(), m.ID, r, "bob"))
				got, err := s.Migration(t.Context(), m.ID)
				require.NoError(t, err)
				require.Equal(t, r, got.Request)
			}
			require.NoError(t, g.Wait())
			got, err := s.Migration(t.Context(), m.ID)
			require.NoError(t, err)
			require.Equal(t, store.Abort, got.Request)
			require.Equal(t, fmt.Sprint(times), string(got.Data))
			events, err := s.Events(t.Context(), m.ID, 0, 0)
			require.NoError(t, err)
			require.Len(t, events, 2*times)
		},
		"fences in any order": func(t *testing.T, s *store.Store, _ string) {
			var g errgroup.Group
			for _, topic := range []string{"a", "b", "c", "d"} {
				m := create(t, s, topic)
				g.Go(func() error {
					for i := range 10 {
						ch := store.Changes{Fences: []store.Fence{{Cluster: "x", Physical: topic}, {Cluster: "y", Physical: topic}}}
						if i%2 == 0 {
							ch.Fences[0], ch.Fences[1] = ch.Fences[1], ch.Fences[0]
						}
						if err := s.Update(t.Context(), m, ch); err != nil {
							return err
						}
					}
					return nil
				})
			}
			require.NoError(t, g.Wait())
			fences, err := s.Fences(t.Context())
			require.NoError(t, err)
			require.Len(t, fences, 8)
			for _, f := range fences {
				require.Equal(t, int64(10), f.Version)
			}
		},
		"one of many starts the migration": func(t *testing.T, s *store.Store, _ string) {
			results := make([]error, 10)
			made := make([]*store.Migration, len(results))
			var wg sync.WaitGroup
			for i := range results {
				wg.Go(func() {
					made[i] = planned("order_topic")
					results[i] = s.CreateMigration(t.Context(), made[i], store.Changes{})
				})
			}
			wg.Wait()
			open, err := s.Migrations(t.Context(), store.Filter{})
			require.NoError(t, err)
			require.Len(t, open, 1)
			won := 0
			for i, err := range results {
				if err == nil {
					won++
					require.Equal(t, open[0], made[i])
					continue
				}
				require.ErrorIs(t, err, errs.ErrConflict)
				require.ErrorContains(t, err, open[0].ID)
				require.Equal(t, planned("order_topic"), made[i])
			}
			require.Equal(t, 1, won)
		},
		"a migration that is just being created": func(t *testing.T, s *store.Store, url string) {
			end(t, s, create(t, s, "order_topic"))
			tx, err := raw(t, url).BeginTx(t.Context(), nil)
			require.NoError(t, err)
			_, err = tx.ExecContext(t.Context(), "UPDATE migrations SET ended_at = NULL")
			require.NoError(t, err)
			created := make(chan error, 1)
			go func() { created <- s.CreateMigration(t.Context(), planned("order_topic"), store.Changes{}) }()
			untilBlocked(t, url, 1)
			require.NoError(t, tx.Commit())
			err = <-created
			require.ErrorIs(t, err, errs.ErrConflict)
			require.ErrorContains(t, err, "m-1,")
		},
		"a lock is waited for": func(t *testing.T, s *store.Store, url string) {
			m := create(t, s, "order_topic")
			other := raw(t, url)
			tx, err := other.BeginTx(t.Context(), nil)
			require.NoError(t, err)
			_, err = tx.ExecContext(t.Context(), "UPDATE migrations SET waiting = 'x'")
			require.NoError(t, err)

			got, err := s.Migration(t.Context(), m.ID)
			require.NoError(t, err, "who reads does not wait")
			require.Equal(t, m, got)

			ctx, cancel := context.WithTimeout(t.Context(), 10*tick)
			defer cancel()
			require.ErrorIs(t, s.Update(ctx, &store.Migration{ID: m.ID}, store.Changes{}), errs.ErrInvalid, "refused before it waits")
			first, second := *m, *m
			require.ErrorIs(t, s.Update(ctx, &first, store.Changes{}), context.DeadlineExceeded)
			require.Equal(t, *m, first)

			closed, err := store.Open(t.Context(), url, nil)
			require.NoError(t, err)
			ended, waited := make(chan error, 1), make(chan error, 1)
			go func() { ended <- closed.Update(t.Context(), &first, store.Changes{}) }()
			go func() { waited <- s.Update(t.Context(), &second, store.Changes{}) }()
			untilBlocked(t, url, 2)
			require.NoError(t, closed.Close())
			require.ErrorIs(t, <-ended, errs.ErrClosed, "while the lock is held")

			require.NoError(t, tx.Commit())
			require.NoError(t, <-waited)
			require.Equal(t, int64(2), second.Version)
		},
	})
}

// untilBlocked waits until PostgreSQL says that so many wait for a lock. SQLite does not say it: there the waiting may
// begin later, which must not make a difference.
func untilBlocked(t *testing.T, url string, want int) {
	t.Helper()
	if strings.HasPrefix(url, "sqlite:") {
		return
	}
	look := raw(t, url)
	require.EventuallyWithT(t, func(c *assert.CollectT) {
		var n int
		row := look.QueryRowContext(t.Context(), "SELECT COUNT(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'")
		require.NoError(c, row.Scan(&n))
		require.Equal(c, want, n)
	}, patience, tick)
}

func counter(t *testing.T, s *store.Store) *store.Migration {
	t.Helper()
	m := planned("order_topic")
	m.Data = []byte("0")
	require.NoError(t, s.CreateMigration(t.Context(), m, store.Changes{}))
	return m
}

func TestServersThatStartAtOnce(t *testing.T) {
	testenv.EachSQL(t, func(t *testing.T, database func() string) {
		startAtOnce := func(url string) {
			t.Helper()
			stores := make([]*store.Store, 8)
			var g errgroup.Group
			for i := range stores {
				g.Go(func() (err error) {
					stores[i], err = store.Open(t.Context(), url, nil)
					return err
				})
			}
			require.NoError(t, g.Wait())
			for _, s := range stores {
				end(t, s, create(t, s, "order_topic"))
				require.NoError(t, s.Close())
			}
			list, err := open(t, url).Migrations(t.Context(), store.Filter{})
			require.NoError(t, err)
			require.Len(t, list, len(stores))
			var versions, applied int
			row := raw(t, url).QueryRowContext(t.Context(), "SELECT COUNT(DISTINCT version_id), COUNT(*) FROM schema_version")
			require.NoError(t, row.Scan(&versions, &applied))
			require.Equal(t, versions, applied, "each step of the schema was done once")
		}
		startAtOnce(database()) // with an empty one
		old := database()
		oldest(t, old)
		startAtOnce(old)
	})
}

// oldest makes a store as the first Turnout would have left it.
func oldest(t *testing.T, url string) {
	t.Helper()
	driver, address, dialect := "pgx", url, goose.DialectPostgres
	if path, found := strings.CutPrefix(url, "sqlite:"); found {
		driver, address, dialect = "sqlite", path, goose.DialectSQLite3
	}
	db, err := sql.Open(driver, address)
	require.NoError(t, err)
	defer func() { require.NoError(t, db.Close()) }()
	folder := map[goose.Dialect]string{goose.DialectPostgres: "schema/postgres", goose.DialectSQLite3: "schema/sqlite"}[dialect]
	provider, err := goose.NewProvider(dialect, db, os.DirFS(folder), goose.WithTableName("schema_version"), goose.WithDisableGlobalRegistry(true))
	require.NoError(t, err)
	_, err = provider.UpTo(t.Context(), 1)
	require.NoError(t, err)
}

func TestAStoreOfANewerTurnoutIsRefused(t *testing.T) {
	each(t, map[string]func(*testing.T, *store.Store, string){
		"version": func(t *testing.T, s *store.Store, url string) {
			require.NoError(t, s.Close())
			insert := "INSERT INTO schema_version (version_id, is_applied) VALUES (999, true)"
			exec1(t, raw(t, url), insert)
			_, err := store.Open(t.Context(), url, nil)
			require.ErrorIs(t, err, errs.ErrInvalid)
			require.ErrorContains(t, err, "999")
		},
	})
}

func TestPostgresComesBack(t *testing.T) {
	postgres(t, func(t *testing.T) {
		p, err := testenv.StartPostgres(t.Context(), nil)
		require.NoError(t, err)
		defer func() { require.NoError(t, p.Close()) }()
		url, err := p.Database(t.Context())
		require.NoError(t, err)
		s := open(t, url)
		m := create(t, s, "order_topic")
		require.NoError(t, p.Restart(t.Context()))
		require.EventuallyWithT(t, func(c *assert.CollectT) {
			got, err := s.Migration(t.Context(), m.ID)
			require.NoError(c, err)
			require.Equal(c, m, got)
		}, patience, tick)
		end(t, s, m)
		require.NoError(t, s.Close())
	})
}

func TestNoPostgresOutlivesAKilledTestRun(t *testing.T) {
	postgres(t, func(t *testing.T) {
		cmd := child(t, "orphan")
		url := firstLine(t, cmd)
		db, err := sql.Open("pgx", url)
		require.NoError(t, err)
		defer db.Close()
		require.NoError(t, db.PingContext(t.Context()))
		require.NoError(t, cmd.Process.Kill())
		require.Error(t, cmd.Wait())
		require.EventuallyWithT(t, func(c *assert.CollectT) {
			require.ErrorContains(c, db.PingContext(t.Context()), "refused")
		}, patience, tick)
	})
}

// postgres runs f if TURNOUT_TEST asks for real servers.
func postgres(t *testing.T, f func(t *testing.T)) {
	t.Helper()
	backends, err := testenv.Backends()
	require.NoError(t, err)
	for _, b := range backends {
		if b == testenv.Servers {
			t.Run(string(b), f)
		}
	}
}
