package metadata

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/go-zookeeper/zk"
	"go.uber.org/zap"

	"github.com/turnout-mq/turnout/internal/errs"
)

// Session is a session with ZooKeeper.
type Session struct {
	ID        int64 // 0: none yet, or the last one has expired
	Connected bool
}

// link is the state of the connection as the library tells it.
type link struct {
	id    int64
	up    bool
	epoch uint64 // counts connections with a session
}

// sessions turns the library's events into Session, in order.
type sessions struct {
	ctx       context.Context
	sessionID func() int64
	ready     func() // there is a session
	expired   func()

	mu      sync.Mutex
	link    link
	pending []link // not handled yet
	signal  chan struct{}

	state   state         // what everybody goes by; follows link
	changed chan struct{} // closed at each change of state

	subscribers []*subscriber
	outbox      []notice // for subscribers, in order
	post        chan struct{}
}

// state is Session with what the inside needs.
type state struct {
	Session
	epoch      uint64 // of the link
	generation uint64 // another one: followers read again
}

type subscriber struct{ fn func(Session) }

type notice struct {
	to      []*subscriber
	session Session
}

func (s *sessions) init(ctx context.Context) {
	s.ctx = ctx
	s.signal, s.post = make(chan struct{}, 1), make(chan struct{}, 1)
	s.changed = make(chan struct{})
}

// event is called by the library from its own loops and must not block.
func (s *sessions) event(e zk.Event) {
	if e.Type != zk.EventSession {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	next := s.link
	switch e.State {
	case zk.StateHasSession:
		s.ready()
		next = link{id: s.sessionID(), up: true, epoch: s.link.epoch + 1}
	case zk.StateDisconnected:
		next.up = false
	case zk.StateExpired:
		s.expired()
		next.id, next.up = 0, false
	default:
		return
	}
	if next == s.link {
		return
	}
	s.link = next
	s.pending = append(s.pending, next)
	poke(s.signal)
}

func poke(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

func (s *sessions) take() (next link, more, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.pending) == 0 {
		return link{}, false, false
	}
	next = s.pending[0]
	s.pending = s.pending[1:]
	return next, len(s.pending) > 0, true
}

// publish makes l the state and tells everybody.
func (s *sessions) publish(l link) {
	s.mu.Lock()
	defer s.mu.Unlock()
	before := s.state.Session
	s.state.Session, s.state.epoch = Session{ID: l.id, Connected: l.up}, l.epoch
	s.state.generation++
	close(s.changed)
	s.changed = make(chan struct{})
	if s.state.Session != before && len(s.subscribers) > 0 {
		s.outbox = append(s.outbox, notice{slices.Clone(s.subscribers), s.state.Session})
		poke(s.post)
	}
}

// again makes followers read again in the present session.
func (s *sessions) again() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.state.generation++
}

func (s *sessions) now() (st state, changed <-chan struct{}, current bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.state, s.changed, s.state.Connected && s.link.up && s.link.epoch == s.state.epoch
}

// still says whether the connection of that epoch is up.
func (s *sessions) still(epoch uint64) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.link.up && s.link.epoch == epoch
}

// deliver calls the subscribers, so that a slow one holds up the others but not the Store.
func (s *sessions) deliver() {
	for {
		select {
		case <-s.ctx.Done():
			return
		case <-s.post:
		}
		s.mu.Lock()
		notices := s.outbox
		s.outbox = nil
		s.mu.Unlock()
		for _, n := range notices {
			for _, to := range n.to {
				if s.ctx.Err() == nil && s.subscribed(to) {
					to.fn(n.session)
				}
			}
		}
	}
}

func (s *sessions) subscribed(sub *subscriber) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Contains(s.subscribers, sub)
}

// Session is the present session.
func (s *Store) Session() Session {
	st, _, _ := s.sessions.now()
	return st.Session
}

// OnSession calls fn with the present session and then with every change, in order, from one goroutine of the Store. A new
// ID is a new session: ephemeral nodes have to be created and everything read again (followers do). fn may take its
// time; it delays other OnSession functions, nothing else. After cancel no further call begins; one may still be running.
func (s *Store) OnSession(fn func(Session)) (cancel func()) {
	sub := &subscriber{fn}
	ss := &s.sessions
	ss.mu.Lock()
	defer ss.mu.Unlock()
	ss.subscribers = append(ss.subscribers, sub)
	ss.outbox = append(ss.outbox, notice{[]*subscriber{sub}, ss.state.Session})
	poke(ss.post)
	return func() {
		ss.mu.Lock()
		defer ss.mu.Unlock()
		ss.subscribers = slices.DeleteFunc(ss.subscribers, func(x *subscriber) bool { return x == sub })
	}
}

// WaitConnected waits until there is a connection with a session, or ctx ends.
func (s *Store) WaitConnected(ctx context.Context) (Session, error) {
	st, err := s.connected(ctx)
	return st.Session, err
}

func (s *Store) connected(ctx context.Context) (state, error) {
	for {
		st, changed, current := s.sessions.now()
		if s.ctx.Err() != nil {
			return state{}, fmt.Errorf("zookeeper: %w", errs.ErrClosed)
		}
		if err := ctx.Err(); err != nil {
			return state{}, fmt.Errorf("not connected to ZooKeeper %s: %w%s", s.cfg.ZooKeeper, err, s.dialer.trouble())
		}
		if current {
			return st, nil
		}
		select {
		case <-changed:
		case <-s.ctx.Done():
		case <-ctx.Done():
		}
	}
}

// sessionLoop handles the changes of the connection one by one.
func (s *Store) sessionLoop() {
	recheck := time.NewTimer(jitter(s.cfg.Recheck))
	defer recheck.Stop()
	for {
		select {
		case <-s.ctx.Done():
			return
		case <-s.sessions.signal:
			for {
				l, more, ok := s.sessions.take()
				if !ok {
					break
				}
				s.handle(l, more)
			}
		case <-recheck.C:
			recheck.Reset(jitter(s.cfg.Recheck))
			if s.Session().Connected {
				s.authenticate() // what is lost here is done at the next connection
			}
			if st, _, current := s.sessions.now(); current && s.ensemble.problem() != nil && s.checkEnsemble(st.ID) {
				s.sessions.again()
				s.wakeFollowers()
			}
		}
	}
}

func (s *Store) handle(l link, more bool) {
	if l.up {
		if more { // gone again already
			return
		}
		// Whatever fails in here by a lost connection is done again at the next one.
		if !s.authenticate() {
			return
		}
		if !s.ensemble.checkedIn(l.id) {
			s.checkEnsemble(l.id)
		}
		s.log.Info("connected to ZooKeeper", zap.String("server", s.conn.Server()), zap.String("session", Zxid(l.id).String()))
	} else if s.Session().Connected {
		s.log.Warn("connection to ZooKeeper lost, going on with the last good metadata", zap.String("server", s.conn.Server()))
	}
	if !l.up && l.id == 0 {
		s.log.Warn("the ZooKeeper session has expired")
	}
	s.sessions.publish(l)
	s.wakeFollowers()
}
