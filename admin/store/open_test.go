package store_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"github.com/turnout-mq/turnout/admin/store"
	"github.com/turnout-mq/turnout/internal/errs"
)

func TestURLs(t *testing.T) {
	dir := t.TempDir()
	t.Chdir(dir)
	require.NoError(t, os.WriteFile("text.db", []byte(strings.Repeat("this is no database\n", 100)), 0o600))
	for url, want := range map[string]string{
		"":                                       "names no file",
		"sqlite:":                                "names no file",
		"sqlite://turnout.db":                    "without //",
		"sqlite:file::memory:?cache=shared":      "lost with this process",
		":memory:":                               "lost with this process",
		"mysql://user:s3cr3t@host/db":            `"mysql:"`,
		"file:turnout.db":                        `"file:"`,
		"host=db user=turnout password=s3cr3t":   "keywords",
		"a\x00b":                                 "NUL",
		filepath.Join(dir, "no", "folder.db"):    "folder must exist",
		dir:                                      "is a directory",
		"postgres://turnout:s3cr3t@host:port/db": "can not be read",
		"postgres://turnout:s3cr3t%@host/db":     "can not be read",
		"postgres://turnout:s3cr3t@host/db?sslmode=s3cr3t":                                   "sslmode",
		"postgres://turnout@host/db?password=s3cr3t&port=none":                               "port",
		"postgres://u@host/db?sslrootcert=/no/s3cr3t&sslmode=verify-full&sslpassword=s3cr3t": "CA file",
	} {
		s, err := store.Open(t.Context(), url, nil)
		require.ErrorIs(t, err, errs.ErrInvalid, "%q", url)
		require.ErrorContains(t, err, want)
		require.Nil(t, s)
		require.NotContains(t, err.Error(), "s3cr3t")
	}
	_, err := store.Open(t.Context(), "text.db", nil)
	require.ErrorContains(t, err, "not a database")
	require.ErrorContains(t, err, filepath.Join(dir, "text.db"))

	for _, url := range []string{"sqlite:a.db", "b.db", "./c#1?.db", "sqlite:///" + filepath.Join(dir, "d %41.db"), "e=f.db"} {
		s, err := store.Open(t.Context(), url, nil)
		require.NoError(t, err, url)
		require.NoError(t, s.PutSetting(t.Context(), "x", "y"))
		require.NoError(t, s.Close())
	}
	for _, name := range []string{"a.db", "b.db", "c#1?.db", "d %41.db", "e=f.db"} {
		info, err := os.Stat(name)
		require.NoError(t, err)
		require.Equal(t, os.FileMode(0o600), info.Mode().Perm())
		left, err := filepath.Glob(name + "-*")
		require.NoError(t, err)
		require.Empty(t, left, "closed, it is one file")
	}
}

func TestThePasswordIsNotShown(t *testing.T) {
	core, logged := observer.New(zapcore.DebugLevel)
	shown := func(err error, s fmt.Stringer) string {
		text := fmt.Sprint(err, s)
		for _, e := range logged.All() {
			text += fmt.Sprint(e.Message, e.ContextMap())
		}
		return text
	}
	// Nobody listens there.
	_, err := store.Open(t.Context(), "postgres://turnout:s3cr3t@127.0.0.1:1/db", zap.New(core))
	require.Error(t, err)
	require.NotErrorIs(t, err, errs.ErrInvalid)
	require.ErrorContains(t, err, "127.0.0.1:1/db")
	require.NotContains(t, shown(err, nil), "s3cr3t")

	each(t, map[string]func(*testing.T, *store.Store, string){
		"of a real server": func(t *testing.T, _ *store.Store, url string) {
			s, err := store.Open(t.Context(), url, zap.New(core))
			require.NoError(t, err)
			defer s.Close()
			require.NotEmpty(t, logged.All())
			user, rest, found := strings.Cut(url, "@")
			if !found {
				return // SQLite has no password
			}
			_, password, _ := strings.Cut(strings.TrimPrefix(user, "postgres://"), ":")
			require.NotEmpty(t, password)
			require.NotContains(t, shown(nil, s), password)
			_, err = store.Open(t.Context(), "postgres://turnout:s3cr3t@"+rest, zap.New(core))
			require.ErrorContains(t, err, "password authentication failed")
			require.NotContains(t, shown(err, s), "s3cr3t")
		},
	})
}

// A step of the schema that one database has and the other not would be found by nobody who uses the other.
func TestBothDatabasesHaveTheSameSteps(t *testing.T) {
	names := func(folder string) (names []string) {
		entries, err := os.ReadDir(filepath.Join("schema", folder))
		require.NoError(t, err)
		for _, e := range entries {
			names = append(names, e.Name())
		}
		return names
	}
	require.NotEmpty(t, names("sqlite"))
	require.Equal(t, names("sqlite"), names("postgres"))
}
