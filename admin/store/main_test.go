package store_test

import (
	"bufio"
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"go.uber.org/zap/zaptest"

	"github.com/turnout-mq/turnout/admin/store"
	"github.com/turnout-mq/turnout/internal/errs"
	"github.com/turnout-mq/turnout/testenv"
)

// childVariable makes the test binary a process beside the tests: "count URL ID N" counts N times, "orphan" starts
// a PostgreSQL and waits to be killed.
const childVariable = "TURNOUT_STORE_CHILD"

func TestMain(m *testing.M) {
	if words := strings.Fields(os.Getenv(childVariable)); len(words) > 0 {
		if err := runChild(words); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	goleak.VerifyTestMain(m)
}

func runChild(words []string) error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if words[0] == "orphan" {
		p, err := testenv.StartPostgres(ctx, nil)
		if err != nil {
			return err
		}
		url, err := p.Database(ctx)
		if err != nil {
			return err
		}
		fmt.Println(url)
		select {}
	}
	s, err := store.Open(ctx, words[1], nil)
	if err != nil {
		return err
	}
	var n int
	if _, err := fmt.Sscan(words[3], &n); err != nil {
		return err
	}
	for range n {
		if err := countOne(ctx, s, words[2], words[0]); err != nil {
			return err
		}
	}
	return s.Close()
}

// patience bounds every wait for something that must happen.
const (
	patience = 2 * time.Minute
	tick     = 20 * time.Millisecond
)

func child(t *testing.T, words ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), childVariable+"="+strings.Join(words, " "))
	cmd.Stderr = os.Stderr
	return cmd
}

func open(t *testing.T, url string) *store.Store {
	t.Helper()
	s, err := store.Open(t.Context(), url, zaptest.NewLogger(t))
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, s.Close()) })
	return s
}

// each runs f on a new store of every kind that TURNOUT_TEST asks for.
func each(t *testing.T, cases map[string]func(t *testing.T, s *store.Store, url string)) {
	t.Helper()
	testenv.EachSQL(t, func(t *testing.T, database func() string) {
		for name, f := range cases {
			t.Run(name, func(t *testing.T) {
				url := database()
				f(t, open(t, url), url)
			})
		}
	})
}

// raw is a connection past the store.
func raw(t *testing.T, url string) *sql.Conn {
	t.Helper()
	driver, address := "pgx", url
	if path, found := strings.CutPrefix(url, "sqlite:"); found {
		driver, address = "sqlite", path+"?_pragma=busy_timeout(5000)"
	}
	db, err := sql.Open(driver, address)
	require.NoError(t, err)
	conn, err := db.Conn(t.Context())
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, errors.Join(conn.Close(), db.Close())) })
	return conn
}

func exec1(t *testing.T, c *sql.Conn, statement string) {
	t.Helper()
	_, err := c.ExecContext(context.Background(), statement)
	require.NoError(t, err)
}

func planned(topic string) *store.Migration {
	return &store.Migration{Topic: topic, Target: "kafka-b", Kind: store.Move, State: "planned", StartedBy: "alice"}
}

func create(t *testing.T, s *store.Store, topic string) *store.Migration {
	t.Helper()
	m := planned(topic)
	require.NoError(t, s.CreateMigration(t.Context(), m, store.Changes{}))
	return m
}

func end(t *testing.T, s *store.Store, m *store.Migration) {
	t.Helper()
	now := time.Now()
	m.State, m.Outcome, m.EndedAt = "done", store.Done, &now
	require.NoError(t, s.Update(t.Context(), m, store.Changes{}))
}

// countOne adds one to the number in the migration's Data, as a controller would: read, decide, write, and again when
// somebody else was faster.
func countOne(ctx context.Context, s *store.Store, id, who string) error {
	for {
		m, err := s.Migration(ctx, id)
		if err != nil {
			return err
		}
		var n int
		if err := json.Unmarshal(m.Data, &n); err != nil {
			return err
		}
		m.Data = fmt.Appendf(nil, "%d", n+1)
		err = s.Update(ctx, m, store.Changes{Events: []store.Event{{Kind: "count", Text: fmt.Sprintf("%s %d", who, n+1)}}})
		if !errors.Is(err, errs.ErrConflict) {
			return err
		}
	}
}

func requireCount(t *testing.T, s *store.Store, id string, want int) {
	t.Helper()
	m, err := s.Migration(t.Context(), id)
	require.NoError(t, err)
	require.Equal(t, fmt.Sprint(want), string(m.Data))
	require.Equal(t, int64(want)+1, m.Version)
	events, err := s.Events(t.Context(), id, 0, 0)
	require.NoError(t, err)
	require.Len(t, events, want)
	for i, e := range events {
		require.Equal(t, int64(i)+1, e.Seq)
		require.True(t, strings.HasSuffix(e.Text, fmt.Sprintf(" %d", i+1)), e.Text)
	}
}

func firstLine(t *testing.T, cmd *exec.Cmd) string {
	t.Helper()
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	line, err := bufio.NewReader(out).ReadString('\n')
	require.NoError(t, err)
	return strings.TrimSpace(line)
}
