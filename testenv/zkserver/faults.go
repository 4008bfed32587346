package zkserver

import (
	"fmt"
	"slices"
	"time"

	"github.com/turnout-mq/turnout/testenv/zkserver/jute"
)

// faults is what goes wrong on purpose. Stop clears it.
type faults struct {
	refuse bool
	delay  time.Duration
	frozen chan struct{} // closed by the thaw; nil if the server is not frozen
	drops  []*drop
}

type drop struct {
	root string
	left int
}

func (f *faults) clear() {
	if f.frozen != nil {
		close(f.frozen)
	}
	*f = faults{}
}

// dropsAnswer reports whether the answer to applied writes is to be lost.
func (f *faults) dropsAnswer(applied []write) bool {
	for _, d := range f.drops {
		if d.left > 0 && slices.ContainsFunc(applied, func(w write) bool {
			return w.op != jute.OpCheck && inSubtree(w.path, d.root)
		}) {
			d.left--
			return true
		}
	}
	return false
}

// SessionInfo describes a session.
type SessionInfo struct {
	ID         int64
	Passwd     []byte // with the ID, lets another connection take the session over
	Timeout    time.Duration
	ClientAddr string // host:port; "" while the client is not connected
	Ephemerals int    // nodes that end with the session
	Watches    int    // of the present connection
}

// Sessions lists the live sessions in no order.
func (s *Server) Sessions() []SessionInfo {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []SessionInfo
	for _, sess := range s.sessions {
		i := SessionInfo{ID: sess.id, Passwd: slices.Clone(sess.passwd), Timeout: sess.timeout, Ephemerals: len(s.tree.ephemerals[sess.id])}
		if c := sess.conn; c != nil {
			i.ClientAddr = c.nc.RemoteAddr().String()
			i.Watches = s.watches.countConn(c)
		}
		out = append(out, i)
	}
	return out
}

// ExpireSession ends a session now, as if its client had been silent for the
// session timeout. It is an error if there is no such session.
func (s *Server) ExpireSession(id int64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	sess := s.sessions[id]
	if sess == nil {
		return fmt.Errorf("zkserver: no session %#x: it has ended or never was; Sessions lists the live ones", id)
	}
	s.endSession(sess)
	return nil
}

// each calls f for the connections of the sessions, or for all if none is named.
// Needs s.mu.
func (s *Server) each(ids []int64, f func(*conn)) {
	for c := range s.conns {
		if len(ids) == 0 || c.session != nil && slices.Contains(ids, c.session.id) {
			f(c)
		}
	}
}

// DropConnections cuts the connections of the sessions named, or all if none is
// named. The sessions live on, and clients may connect again at once.
func (s *Server) DropConnections(ids ...int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.each(ids, (*conn).cut)
}

// RefuseConnections makes the server close new connections at once, until it is
// called with false. Present connections go on.
func (s *Server) RefuseConnections(on bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.faults.refuse = on
}

// ForgetWatches silently drops all watches of the sessions named, or of all if
// none is named, and returns how many those were.
func (s *Server) ForgetWatches(ids ...int64) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := 0
	s.each(ids, func(c *conn) { n += s.watches.removeConn(c) })
	return n
}

// Delay holds everything that the server sends from now on back by d, in order;
// 0 ends it for what is sent from then on.
func (s *Server) Delay(d time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.faults.delay = d
}

// DropAnswers lets the next n successful writes at or below root take effect
// and then cuts the connection in the place of the answer: the client can not
// know whether its write was done. A multi counts as one write.
func (s *Server) DropAnswers(root string, n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.faults.drops = append(s.faults.drops, &drop{root, n})
}

// Freeze stops the server as SIGSTOP would: connections are accepted and stay
// open, but nothing is read, answered or expired until Thaw.
func (s *Server) Freeze() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.faults.frozen == nil {
		s.faults.frozen = make(chan struct{})
	}
}

// Thaw ends a Freeze. Time has gone on: sessions whose timeout is over expire
// before any waiting request is read.
func (s *Server) Thaw() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.faults.frozen != nil {
		s.expire(time.Now())
		close(s.faults.frozen)
		s.faults.frozen = nil
	}
}
