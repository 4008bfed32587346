package zkcontract

import (
	"context"
	"io"
	"net"
	"slices"
	"time"

	"github.com/go-zookeeper/zk"
	"github.com/stretchr/testify/require"

	"github.com/turnout-mq/turnout/testenv/zkserver/jute"
	"github.com/turnout-mq/turnout/testenv/zkserver/rawzk"
)

var sessionCases = []testCase{
	{"ephemeral nodes end with the close of their session", ephemeralClose},
	{"ephemeral nodes survive a lost connection", ephemeralReconnect},
	{"an expired session loses its ephemeral nodes, its client gets a new session", expiry},
	{"silence expires a session", expiryBySilence},
	{"requests keep a session alive", keptAlive},
	{"a session moves to a new connection", sessionMoves},
	{"a wrong password or an unknown session is an expired one", wrongPassword},
	{"a client that has seen the future is refused", futureZxid},
}

func ephemeralClose(s *suite) {
	l, w := s.lib(), s.raw(rawzk.Options{})
	p := l.create(s.path("e"), "", zk.FlagEphemeral)
	_, stat := w.get(p, true)
	require.Equal(s, l.SessionID(), stat.EphemeralOwner)
	w.children(s.root, true)
	l.Close()
	require.NoError(s, w.WaitEvent())
	require.Equal(s, []string{"deleted /e", "children "}, w.told())

	// The client that closes hears of it as well, before the answer.
	r := s.raw(rawzk.Options{})
	r.create(p, "", jute.FlagEphemeral)
	r.get(p, true)
	require.NoError(s, r.Close())
	require.Equal(s, []string{"deleted /e"}, r.names(r.Events()))
}

func ephemeralReconnect(s *suite) {
	l, w := s.lib(), s.raw(rawzk.Options{})
	p := l.create(s.path("e"), "", zk.FlagEphemeral)
	id := l.SessionID()
	require.NoError(s, s.target.CutConnections())
	l.waitState(zk.StateHasSession)
	require.Equal(s, id, l.SessionID())
	w = s.raw(rawzk.Options{SessionID: w.SessionID, Passwd: w.Passwd})
	_, stat := w.get(p, false)
	require.Equal(s, id, stat.EphemeralOwner)
}

func expiry(s *suite) {
	l, w := s.lib(), s.raw(rawzk.Options{})
	p := l.create(s.path("e"), "", zk.FlagEphemeral)
	l.create(s.path("p"), "", zk.FlagPersistent)
	_, stat := w.get(p, true)
	id := stat.EphemeralOwner
	require.NoError(s, s.target.ExpireSession(id))
	require.NoError(s, w.WaitEvent())
	require.Equal(s, []string{"deleted /e"}, w.names(w.Events()))
	l.waitState(zk.StateExpired)
	l.waitState(zk.StateHasSession)
	require.NotEqual(s, id, l.SessionID())
	l.again(func() error { _, _, err := l.Get(s.path("p")); return err })
	l.create(p, "", zk.FlagEphemeral)
	_, stat = w.get(p, false)
	require.Equal(s, l.SessionID(), stat.EphemeralOwner)
	_, err := rawzk.Dial(context.Background(), s.addr, rawzk.Options{SessionID: id})
	require.ErrorIs(s, err, rawzk.ErrSessionExpired)
}

func expiryBySilence(s *suite) {
	for name, leave := range map[string]func(*raw){
		"connected but silent": func(*raw) {},
		"gone":                 func(r *raw) { r.Abandon() },
	} {
		w, r := s.raw(rawzk.Options{}), s.raw(rawzk.Options{Timeout: time.Second})
		require.Equal(s, time.Second, r.Timeout)
		p := r.create(s.path("e"), "", jute.FlagEphemeral)
		w.get(p, true)
		leave(r)
		require.NoError(s, w.WaitEvent(), name)
		require.Equal(s, []string{"deleted /e"}, w.names(w.Events()), name)
		require.NoError(s, r.WaitClosed(), name)
	}
}

func keptAlive(s *suite) {
	r, watcher := s.raw(rawzk.Options{Timeout: time.Second}), s.raw(rawzk.Options{Timeout: time.Second})
	p := r.create(s.path("e"), "", jute.FlagEphemeral)
	// The session that says nothing more shows when a second is over.
	q := watcher.create(s.path("clock"), "", jute.FlagEphemeral)
	s.eventually(func() bool {
		_, err := r.Call(jute.OpExists, pathAndBool(q, false))
		if err != nil {
			require.ErrorIs(s, err, jute.NoNode)
		}
		return err != nil
	}, "the silent session expires")
	_, stat := r.get(p, false)
	require.Equal(s, r.SessionID, stat.EphemeralOwner)
}

func sessionMoves(s *suite) {
	a := s.raw(rawzk.Options{})
	p := a.create(s.path("e"), "", jute.FlagEphemeral)
	a.get(p, true)
	b := s.raw(rawzk.Options{SessionID: a.SessionID, Passwd: a.Passwd})
	require.NoError(s, a.WaitClosed())
	require.Equal(s, a.SessionID, b.SessionID)
	_, stat := b.get(p, false)
	require.Equal(s, b.SessionID, stat.EphemeralOwner)
	// Watches belong to the connection: the new one has to set them again.
	b.set(p, "1")
	require.Empty(s, b.told())
}

func wrongPassword(s *suite) {
	r := s.raw(rawzk.Options{})
	p := r.create(s.path("e"), "", jute.FlagEphemeral)
	wrong := slices.Clone(r.Passwd)
	wrong[0]++
	_, err := rawzk.Dial(context.Background(), s.addr, rawzk.Options{SessionID: r.SessionID, Passwd: wrong})
	require.ErrorIs(s, err, rawzk.ErrSessionExpired)
	_, err = rawzk.Dial(context.Background(), s.addr, rawzk.Options{SessionID: r.SessionID ^ 1<<40, Passwd: r.Passwd})
	require.ErrorIs(s, err, rawzk.ErrSessionExpired)
	// The session itself has not suffered, though its connection may have.
	again := s.raw(rawzk.Options{SessionID: r.SessionID, Passwd: r.Passwd})
	_, stat := again.get(p, false)
	require.Equal(s, r.SessionID, stat.EphemeralOwner)
}

func futureZxid(s *suite) {
	r := s.raw(rawzk.Options{})
	r.create(s.path("a"), "", jute.FlagPersistent)
	_, err := rawzk.Dial(context.Background(), s.addr, rawzk.Options{LastZxid: r.LastZxid + 1000000})
	require.Error(s, err)
	require.NotErrorIs(s, err, rawzk.ErrSessionExpired)
	s.raw(rawzk.Options{LastZxid: r.LastZxid})
}

// word sends a four-letter word and returns the answer.
func word(s *suite, w string) string {
	s.Helper()
	nc, err := net.DialTimeout("tcp", s.addr, patience)
	require.NoError(s, err)
	defer func() { _ = nc.Close() }()
	require.NoError(s, nc.SetDeadline(time.Now().Add(patience)))
	_, err = nc.Write([]byte(w))
	require.NoError(s, err)
	b, err := io.ReadAll(nc)
	require.NoError(s, err)
	return string(b)
}
