package testenv

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/turnout-mq/turnout/testenv/zkserver/rawzk"
)

// ZooKeeperLeader returns the node that leads the ensemble now, or "zookeeper" when there is one server. An
// error if none does: during an election, or without a majority.
func (e *Env) ZooKeeperLeader(ctx context.Context) (string, error) {
	c := e.cluster(kindZooKeeper)
	if c == nil {
		return "", errors.New("testenv: the environment has no ZooKeeper")
	}
	if m, ok := c.nodes[0].server.(*fakeMember); ok {
		m.ensemble.mu.Lock()
		defer m.ensemble.mu.Unlock()
		if !m.ensemble.serving {
			return "", errors.New("testenv: no ZooKeeper server leads")
		}
		return c.nodes[m.ensemble.leader()].name, nil
	}
	var errs []error
	for _, n := range c.nodes {
		mode, err := zooKeeperMode(ctx, n.words)
		if mode == "leader" || mode == "standalone" {
			return n.name, nil
		}
		errs = append(errs, err)
	}
	return "", fmt.Errorf("testenv: no ZooKeeper server leads: %w", errors.Join(errs...))
}

// Sessions returns the ids of the ZooKeeper sessions that live now, with or without a connection; nil if no
// server answers.
func (e *Env) Sessions() []int64 {
	if z := e.EmbeddedZooKeeper(); z != nil {
		var ids []int64
		for _, s := range z.Sessions() {
			ids = append(ids, s.ID)
		}
		slices.Sort(ids)
		return ids
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	leader, err := e.ZooKeeperLeader(ctx)
	if err != nil {
		e.log.Warn("ZooKeeper's sessions", zap.Error(err))
		return nil
	}
	nodes, err := e.nodes(leader)
	if err != nil {
		return nil
	}
	if len(nodes) > 1 { // "zookeeper" is also the name of the whole
		nodes = nodes[:1]
	}
	dump, err := fourLetters(ctx, nodes[0].words, "dump")
	if err != nil {
		e.log.Warn("ZooKeeper's sessions", zap.Error(err))
		return nil
	}
	return sessionsInDump(dump)
}

// sessionsInDump reads the session ids out of what the four letter command dump prints: they are what begins
// with 0x before the list of ephemeral nodes.
func sessionsInDump(dump string) []int64 {
	dump, _, _ = strings.Cut(dump, "ephemeral nodes dump")
	ids := map[int64]struct{}{}
	for _, word := range strings.Fields(dump) {
		hex, is := strings.CutPrefix(word, "0x")
		if id, err := strconv.ParseUint(hex, 16, 64); is && err == nil {
			ids[int64(id)] = struct{}{}
		}
	}
	return slices.Sorted(maps.Keys(ids))
}

// ExpireSession ends a ZooKeeper session as if its client had been silent for too long, and returns when it has
// ended: its ephemeral nodes are gone and the client will learn that it expired. 0 means all sessions. An error
// if there is no such session.
func (e *Env) ExpireSession(ctx context.Context, id int64) error {
	c := e.cluster(kindZooKeeper)
	if c == nil {
		return errors.New("testenv: the environment has no ZooKeeper")
	}
	ids := []int64{id}
	if id == 0 {
		ids = e.Sessions()
	}
	for _, id := range ids {
		e.log.Info("fault", zap.String("what", "expire session"), zap.String("session", fmt.Sprintf("%#x", uint64(id))))
		if z := e.EmbeddedZooKeeper(); z != nil {
			if err := z.ExpireSession(id); err != nil {
				return fmt.Errorf("testenv: %w", err)
			}
			continue
		}
		leader, err := e.ZooKeeperLeader(ctx)
		if err != nil {
			return err
		}
		nodes, err := e.nodes(leader)
		if err != nil {
			return err
		}
		// The client must not take its session back between our taking it over and closing it.
		err = each(c.nodes, func(n *node) error { return n.relay.setShut(true) })
		if err == nil {
			err = e.sessions.end(ctx, nodes[0].words, id)
		}
		if err := errors.Join(err, each(c.nodes, func(n *node) error { return n.relay.setShut(false) })); err != nil {
			return err
		}
	}
	return nil
}

// sessions are the passwords of the ZooKeeper sessions that were opened through the relays. Who knows the
// password can take a session over and close it.
type sessions struct {
	mu        sync.Mutex
	passwords map[int64][]byte
}

func newSessions() *sessions { return &sessions{passwords: map[int64][]byte{}} }

// The connect response: length 4, protocol version 4, timeout 4, session id 8, length of the password 4,
// password 16, sometimes a read-only flag 1.
const (
	passwordSize    = 16
	connectResponse = 4 + 4 + 4 + 8 + 4 + passwordSize
)

// record notes the session of a connect response. Servers write it in one piece. Answers to four letter words,
// which are text, are no such response, and a refused session has the id 0.
func (s *sessions) record(first []byte) {
	id, password, ok := parseConnectResponse(first)
	if !ok || id == 0 {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.passwords[id] = slices.Clone(password)
}

func parseConnectResponse(b []byte) (id int64, password []byte, ok bool) {
	if len(b) < connectResponse || binary.BigEndian.Uint32(b) > connectResponse || binary.BigEndian.Uint32(b[20:]) != passwordSize {
		return 0, nil, false
	}
	return int64(binary.BigEndian.Uint64(b[12:])), b[24:connectResponse], true
}

// end takes the session over at the server at addr and closes it.
func (s *sessions) end(ctx context.Context, addr string, id int64) error {
	s.mu.Lock()
	password := s.passwords[id]
	s.mu.Unlock()
	if password == nil {
		return fmt.Errorf("testenv: no client of this environment has opened the ZooKeeper session %#x", uint64(id))
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	if err := rawzk.EndSession(ctx, addr, id, password); err != nil {
		return fmt.Errorf("testenv: end the ZooKeeper session %#x: %w", uint64(id), err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.passwords, id)
	return nil
}
