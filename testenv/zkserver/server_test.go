package zkserver_test

import (
	"context"
	"testing"
	"time"

	"github.com/go-zookeeper/zk"
	"github.com/stretchr/testify/require"

	"github.com/turnout-mq/turnout/testenv/zkserver"
)

const patience = 10 * time.Second

type silent struct{}

func (silent) Printf(string, ...any) {}

func start(t *testing.T, opt zkserver.Options) *zkserver.Server {
	t.Helper()
	s, err := zkserver.Start(context.Background(), opt)
	require.NoError(t, err)
	t.Cleanup(s.Close)
	return s
}

// dial connects with the library and waits for the session.
func dial(t *testing.T, s *zkserver.Server, timeout time.Duration) *zk.Conn {
	t.Helper()
	c, _, err := zk.Connect(s.Addrs(), timeout, zk.WithLogger(silent{}))
	require.NoError(t, err)
	t.Cleanup(c.Close)
	require.Eventually(t, func() bool { return c.State() == zk.StateHasSession }, patience, time.Millisecond)
	return c
}

func TestRestartKeepsTreeAndSessions(t *testing.T) {
	s := start(t, zkserver.Options{Ports: []int{0, 0, 0}})
	c := dial(t, s, 4*time.Second)
	id := c.SessionID()
	_, err := c.Create("/e", []byte("1"), zk.FlagEphemeral, zk.WorldACL(zk.PermAll))
	require.NoError(t, err)
	addrs := s.Addrs()
	require.Len(t, addrs, 3)
	s.Stop()
	s.Stop()
	require.NoError(t, s.Restart())
	require.Equal(t, addrs, s.Addrs())
	require.Eventually(t, func() bool {
		data, stat, err := c.Get("/e")
		return err == nil && string(data) == "1" && stat.EphemeralOwner == id && c.SessionID() == id
	}, patience, 10*time.Millisecond)
	s.Close()
	s.Close()
	require.ErrorIs(t, s.Restart(), zkserver.ErrClosed)
}
