package zkserver

import (
	"bytes"
	"crypto/rand"
	"encoding/binary"
	"time"

	"go.uber.org/zap"

	"github.com/turnout-mq/turnout/testenv/zkserver/jute"
)

// session outlives its connections until it is closed or expires.
type session struct {
	id      int64
	passwd  []byte
	timeout time.Duration
	seen    time.Time // when the client was last heard
	conn    *conn     // nil while the client is away
}

func newSession() *session {
	b := make([]byte, 24)
	_, _ = rand.Read(b)                                // never fails
	id := int64(binary.BigEndian.Uint64(b)>>8 | 1<<56) // positive, as of server 1
	return &session{id: id, passwd: b[8:]}
}

// connect answers the first frame of a connection. It reports whether the
// connection has a session now.
func (s *Server) connect(c *conn, frame []byte) bool {
	d := jute.NewDecoder(frame)
	req := d.ConnectRequest()
	if d.Err() != nil {
		return false
	}
	if req.LastZxidSeen > s.tree.zxid {
		s.log.Info("connection refused: the client has seen a later zxid",
			zap.Int64("client", req.LastZxidSeen), zap.Int64("server", s.tree.zxid))
		return false
	}
	sess := s.sessions[req.SessionID]
	if sess != nil && sess.conn != nil {
		sess.conn.cut() // the client has moved to this connection
		sess.conn = nil
	}
	if sess != nil && !bytes.Equal(sess.passwd, req.Passwd) {
		s.log.Info("connection refused: wrong session password", zap.Int64("session", sess.id))
		sess = nil
	}
	if req.SessionID == 0 {
		sess = newSession()
		s.sessions[sess.id] = sess
		s.tree.zxid++
	}
	res := jute.ConnectResponse{Passwd: make([]byte, 16), HasReadOnly: req.HasReadOnly}
	if sess != nil {
		asked := time.Duration(req.TimeoutMs) * time.Millisecond
		sess.timeout = min(max(asked, s.opt.MinSessionTimeout), s.opt.MaxSessionTimeout)
		sess.seen, sess.conn, c.session = time.Now(), c, sess
		res.TimeoutMs, res.SessionID, res.Passwd = int32(sess.timeout.Milliseconds()), sess.id, sess.passwd
	}
	var e jute.Encoder
	c.send(jute.Frame(e.ConnectResponse(res).Bytes()))
	return sess != nil
}

// endSession removes a session and its ephemeral nodes, in one transaction, and
// cuts its connection.
func (s *Server) endSession(sess *session) {
	delete(s.sessions, sess.id)
	s.tree.zxid++
	for path := range s.tree.ephemerals[sess.id] { // in no order, as in the real server
		s.tree.delete(path, s.tree.zxid)
	}
	if sess.conn != nil {
		sess.conn.cut()
		sess.conn = nil
	}
}
