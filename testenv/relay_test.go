package testenv

import (
	"bytes"
	"crypto/rand"
	"io"
	"net"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// startRelay starts a relay in front of a listener.
func startRelay(t *testing.T, r *relay) (*relay, net.Listener) {
	t.Helper()
	var p ports
	port, err := p.take(2)
	require.NoError(t, err)
	r.listen, r.target = loopback(port), loopback(port+1)
	l, err := listen(r.target)
	require.NoError(t, err)
	require.NoError(t, r.setUp(true))
	t.Cleanup(func() {
		_ = l.Close() // a test may have closed it
		require.NoError(t, r.close())
		require.NoError(t, p.close())
	})
	return r, l
}

func relayed(t *testing.T, r *relay, l net.Listener) (client, server *net.TCPConn) {
	t.Helper()
	c, err := net.Dial("tcp", r.listen)
	require.NoError(t, err)
	s, err := l.Accept()
	require.NoError(t, err)
	t.Cleanup(func() {
		_ = c.Close()
		_ = s.Close()
	})
	_, err = c.Write([]byte{0}) // what has passed one byte is a link
	require.NoError(t, err)
	_, err = io.ReadFull(s, make([]byte, 1))
	require.NoError(t, err)
	return c.(*net.TCPConn), s.(*net.TCPConn)
}

func TestARelayPassesOnAllBytesBothWays(t *testing.T) {
	for _, delay := range []time.Duration{0, 20 * time.Millisecond} {
		r, l := startRelay(t, &relay{})
		r.delay.Store(int64(delay))
		client, server := relayed(t, r, l)
		data := make([]byte, 3<<20)
		_, _ = rand.Read(data)
		for _, ends := range [][2]*net.TCPConn{{client, server}, {server, client}} {
			begin := time.Now()
			go func() {
				_, _ = ends[0].Write(data)
				_ = ends[0].CloseWrite()
			}()
			got, err := io.ReadAll(ends[1])
			require.NoError(t, err)
			require.True(t, bytes.Equal(data, got))
			require.GreaterOrEqual(t, time.Since(begin), delay)
		}
	}
}

func TestACutRelayResetsAndRefuses(t *testing.T) {
	r, l := startRelay(t, &relay{})
	client, server := relayed(t, r, l)
	require.NoError(t, r.setCut(true))
	for _, c := range []net.Conn{client, server} {
		_, err := c.Read(make([]byte, 1))
		require.ErrorIs(t, err, syscall.ECONNRESET)
	}
	require.ErrorIs(t, reach(r.listen), syscall.ECONNREFUSED)
	require.NoError(t, r.setUp(false))
	require.NoError(t, r.setCut(false))
	require.ErrorIs(t, reach(r.listen), syscall.ECONNREFUSED, "the server does not run")
	require.NoError(t, r.setUp(true))
	relayed(t, r, l)
}

func TestAClientOfARelayLearnsThatTheServerIsGone(t *testing.T) {
	r, l := startRelay(t, &relay{})
	client, server := relayed(t, r, l)
	require.NoError(t, server.SetLinger(0))
	require.NoError(t, server.Close())
	_, err := client.Read(make([]byte, 1))
	require.Error(t, err)

	require.NoError(t, l.Close())
	c, err := net.Dial("tcp", r.listen)
	if err == nil { // the reset may come as early as that
		defer c.Close()
		_, err = c.Read(make([]byte, 1))
	}
	require.ErrorIs(t, err, syscall.ECONNRESET)
}

func TestARelayShowsTheFirstAnswer(t *testing.T) {
	answers := make(chan string, 10)
	r, l := startRelay(t, &relay{answer: func(b []byte) { answers <- string(b) }})
	client, server := relayed(t, r, l)
	for _, text := range []string{"one", "two"} {
		_, err := server.Write([]byte(text))
		require.NoError(t, err)
		_, err = io.ReadFull(client, make([]byte, len(text)))
		require.NoError(t, err)
	}
	require.Equal(t, "one", <-answers)
	require.Empty(t, answers)
}
