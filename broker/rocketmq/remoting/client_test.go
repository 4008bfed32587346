package remoting

import (
	"bufio"
	"context"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// server answers on loopback with what answer returns; nil: not at all.
type server struct {
	t      *testing.T
	l      net.Listener
	answer func(*Command) *Command
	wg     sync.WaitGroup

	mu    sync.Mutex
	conns []net.Conn
}

func serve(t *testing.T, addr string, answer func(*Command) *Command) *server {
	l, err := net.Listen("tcp", addr)
	require.NoError(t, err)
	s := &server{t: t, l: l, answer: answer}
	s.wg.Go(func() {
		for {
			nc, err := l.Accept()
			if err != nil {
				return
			}
			s.mu.Lock()
			s.conns = append(s.conns, nc)
			s.mu.Unlock()
			s.wg.Go(func() { s.serve(nc) })
		}
	})
	t.Cleanup(s.stop)
	return s
}

func (s *server) serve(nc net.Conn) {
	r := bufio.NewReader(nc)
	for {
		c, err := ReadCommand(r)
		if err != nil {
			return
		}
		if a := s.answer(c); a != nil {
			s.write(nc, a)
		}
	}
}

func (s *server) write(nc net.Conn, c *Command) {
	frame, err := c.Append(nil)
	if err == nil {
		_, _ = nc.Write(frame)
	}
}

func (s *server) connections() []net.Conn {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.conns
}

func (s *server) stop() {
	_ = s.l.Close()
	for _, nc := range s.connections() {
		_ = nc.Close()
	}
	s.wg.Wait()
}

func (s *server) addr() string { return s.l.Addr().String() }

func client(t *testing.T, o Options) *Client {
	c := NewClient(o)
	t.Cleanup(c.Close)
	return c
}

func echo(c *Command) *Command { return c.Answer(Success, "", c.Body) }

func TestCallsShareOneConnection(t *testing.T) {
	// Requests are answered in pairs, the later one first.
	var mu sync.Mutex
	var first *Command
	var s *server
	s = serve(t, "127.0.0.1:0", func(c *Command) *Command {
		mu.Lock()
		defer mu.Unlock()
		if first == nil {
			first = c
			return nil
		}
		s.write(s.connections()[0], echo(c))
		held := first
		first = nil
		return echo(held)
	})
	c := client(t, Options{})
	var wg sync.WaitGroup
	for _, body := range []string{"a", "b", "c", "d"} {
		wg.Go(func() {
			a, err := c.Call(t.Context(), s.addr(), NewRequest(1, []byte(body)))
			if err != nil || string(a.Body) != body {
				t.Errorf("%s: %v %v", body, a, err)
			}
		})
	}
	wg.Wait()
	require.Len(t, s.connections(), 1)
}

func TestLostConnectionFailsPendingCallsAtOnce(t *testing.T) {
	got := make(chan struct{}, 1)
	s := serve(t, "127.0.0.1:0", func(*Command) *Command { got <- struct{}{}; return nil })
	lost := make(chan error, 1)
	c := client(t, Options{Disconnected: func(_ string, err error) { lost <- err }})
	result := make(chan error, 1)
	go func() {
		_, err := c.Call(context.Background(), s.addr(), NewRequest(1, nil))
		result <- err
	}()
	<-got
	require.NoError(t, s.connections()[0].Close())
	require.ErrorIs(t, <-result, ErrDisconnected)
	require.ErrorIs(t, <-lost, ErrDisconnected)
}

func TestReconnects(t *testing.T) {
	s := serve(t, "127.0.0.1:0", echo)
	c := client(t, Options{})
	_, err := c.Call(t.Context(), s.addr(), NewRequest(1, nil))
	require.NoError(t, err)
	s.stop()
	require.Eventually(t, func() bool {
		_, err := c.Call(t.Context(), s.addr(), NewRequest(1, nil))
		return err != nil
	}, time.Minute, time.Millisecond)
	s2 := serve(t, s.addr(), echo)
	require.Eventually(t, func() bool {
		_, err := c.Call(t.Context(), s2.addr(), NewRequest(1, nil))
		return err == nil
	}, time.Minute, time.Millisecond)
}

func TestDeadlineIsHonoured(t *testing.T) {
	s := serve(t, "127.0.0.1:0", func(*Command) *Command { return nil })
	c := client(t, Options{})
	require.NoError(t, c.Connect(t.Context(), s.addr()))
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	_, err := c.Call(ctx, s.addr(), NewRequest(1, nil))
	require.ErrorIs(t, err, context.DeadlineExceeded)
}

func TestDisconnectSilentFailsWhatHangs(t *testing.T) {
	got := make(chan struct{}, 1)
	s := serve(t, "127.0.0.1:0", func(r *Command) *Command {
		if r.Code == 2 {
			return echo(r)
		}
		got <- struct{}{}
		return nil
	})
	c := client(t, Options{})
	failed := make(chan error, 1)
	go func() {
		_, err := c.Call(t.Context(), s.addr(), NewRequest(1, nil))
		failed <- err
	}()
	<-got
	asked := time.Now()
	_, err := c.Call(t.Context(), s.addr(), NewRequest(2, nil))
	require.NoError(t, err)
	c.DisconnectSilent(s.addr(), asked)
	_, err = c.Call(t.Context(), s.addr(), NewRequest(2, nil))
	require.NoError(t, err)
	require.Len(t, s.connections(), 1)
	require.Empty(t, failed, "something came since")
	c.DisconnectSilent(s.addr(), time.Now().Add(time.Second))
	require.ErrorIs(t, <-failed, ErrDisconnected)
}

func TestCloseFailsPendingCalls(t *testing.T) {
	got := make(chan struct{}, 1)
	s := serve(t, "127.0.0.1:0", func(*Command) *Command { got <- struct{}{}; return nil })
	c := NewClient(Options{})
	go func() { <-got; c.Close() }()
	_, err := c.Call(t.Context(), s.addr(), NewRequest(1, nil))
	require.ErrorIs(t, err, ErrClientClosed)
	_, err = c.Call(t.Context(), s.addr(), NewRequest(1, nil))
	require.ErrorIs(t, err, ErrClientClosed)
	c.Close()
}

func TestAnswersOtherThanSuccessAreErrors(t *testing.T) {
	s := serve(t, "127.0.0.1:0", func(c *Command) *Command { return c.Answer(TopicNotExist, "no such topic", nil) })
	c := client(t, Options{})
	_, err := c.Call(t.Context(), s.addr(), NewRequest(ReqRoute, nil))
	require.True(t, HasCode(err, TopicNotExist))
	require.ErrorContains(t, err, "no such topic")
	_, err = c.Call(t.Context(), s.addr(), NewRequest(ReqRoute, nil), TopicNotExist)
	require.NoError(t, err)
}

func TestRequestsOfTheBrokerReachTheHandler(t *testing.T) {
	answered := make(chan *Command, 1)
	var s *server
	s = serve(t, "127.0.0.1:0", func(c *Command) *Command {
		if c.IsResponse() {
			answered <- c
			return nil
		}
		s.write(s.connections()[0], NewRequest(ReqConsumerIDsChanged, nil, "consumerGroup", "g"))
		return echo(c)
	})
	c := client(t, Options{Handler: func(addr string, r *Command) *Command {
		return r.Answer(Success, addr+" "+r.Fields["consumerGroup"], nil)
	}})
	_, err := c.Call(t.Context(), s.addr(), NewRequest(1, nil))
	require.NoError(t, err)
	require.Equal(t, s.addr()+" g", (<-answered).Remark)
}

func TestSignature(t *testing.T) {
	var seen *Command
	s := serve(t, "127.0.0.1:0", func(c *Command) *Command { seen = c; return echo(c) })
	c := client(t, Options{Login: func() (string, string, error) { return "ak", "sk", nil }})
	req := NewRequest(1, []byte("body"), "b", "2", "a", "1")
	_, err := c.Call(t.Context(), s.addr(), req)
	require.NoError(t, err)
	require.Equal(t, "ak", seen.Fields["AccessKey"])
	require.Equal(t, "45zJhq303mKsOzjx7JMuW5cm+kI=", seen.Fields["Signature"]) // HMAC-SHA1("sk", "ak12body")
	require.NotContains(t, req.Fields, "Signature")
}
