package rocketmq

import (
	"bufio"
	"encoding/json"
	"net"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/turnout-mq/turnout/broker/rocketmq/remoting"
	"github.com/turnout-mq/turnout/internal/errs"
)

// nameServer answers for the brokers and topics that it is given.
type nameServer struct {
	mu     sync.Mutex
	info   remoting.ClusterInfo
	routes map[string]*remoting.Route
	asked  int
}

func (s *nameServer) serve(t *testing.T) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	var wg sync.WaitGroup
	var conns []net.Conn
	wg.Go(func() {
		for {
			nc, err := l.Accept()
			if err != nil {
				return
			}
			s.mu.Lock()
			conns = append(conns, nc)
			s.mu.Unlock()
			wg.Go(func() {
				r := bufio.NewReader(nc)
				for {
					req, err := remoting.ReadCommand(r)
					if err != nil {
						return
					}
					if frame, err := s.answer(req).Append(nil); err == nil {
						_, _ = nc.Write(frame)
					}
				}
			})
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		s.mu.Lock()
		for _, nc := range conns {
			_ = nc.Close()
		}
		s.mu.Unlock()
		wg.Wait()
	})
	return l.Addr().String()
}

func (s *nameServer) answer(req *remoting.Command) *remoting.Command {
	s.mu.Lock()
	defer s.mu.Unlock()
	if req.Code == remoting.ReqClusterInfo {
		body, _ := json.Marshal(s.info)
		return req.Answer(remoting.Success, "", body)
	}
	s.asked++
	r := s.routes[req.Fields["topic"]]
	if r == nil {
		return req.Answer(remoting.TopicNotExist, "no route", nil)
	}
	body, _ := json.Marshal(r)
	return req.Answer(remoting.Success, "", body)
}

// set makes the cluster consist of brokers, which all carry topic "t" with two queues.
func (s *nameServer) set(brokers ...string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.info = remoting.ClusterInfo{Brokers: map[string]remoting.BrokerData{}}
	s.routes = map[string]*remoting.Route{}
	r := &remoting.Route{}
	for _, name := range brokers {
		b := remoting.BrokerData{Cluster: "c", Name: name, Addrs: map[int64]string{0: name + ":10911"}}
		s.info.Brokers[name] = b
		r.Brokers = append(r.Brokers, b)
		r.Queues = append(r.Queues, remoting.QueueData{Broker: name, ReadQueues: 2, WriteQueues: 2, Perm: readWrite})
	}
	if len(brokers) > 0 {
		s.routes["t"] = r
	}
}

func newTestRoutes(t *testing.T, clusterID string, servers ...string) *routes {
	client := remoting.NewClient(remoting.Options{})
	t.Cleanup(client.Close)
	return newRoutes(servers, client, clusterID, nil)
}

func TestBrokerThatIsDownIsNotAMissingTopic(t *testing.T) {
	s := &nameServer{}
	s.set("b1", "b2")
	r := newTestRoutes(t, "", s.serve(t))
	got, err := r.get(t.Context(), "t", 0)
	require.NoError(t, err)
	require.Len(t, got.writable, 4)
	require.Equal(t, []int{0, 1, 2, 3}, got.keyed)
	_, err = r.get(t.Context(), "other", 0)
	require.ErrorIs(t, err, errs.ErrUnknownTopic)

	s.set("b1") // b2 went down, its queues are gone from the route
	got, err = r.get(t.Context(), "t", 0)
	require.NoError(t, err)
	require.Len(t, got.writable, 2)
	require.Equal(t, []int{0, 1, -1, -1}, got.keyed, "keys stay with their queues")
	_, err = r.complete(t.Context(), "t")
	require.ErrorIs(t, err, errUnavailable)
	require.ErrorContains(t, err, `"b2"`)

	s.set() // all are down
	_, err = r.get(t.Context(), "t", 0)
	require.ErrorIs(t, err, errUnavailable)
	require.NotErrorIs(t, err, errs.ErrUnknownTopic)
	require.NotNil(t, r.cached("t"), "the last route stays")
	_, err = r.get(t.Context(), "other", 0)
	require.ErrorIs(t, err, errUnavailable)

	s.set("b1", "b2")
	_, err = r.complete(t.Context(), "t")
	require.NoError(t, err)
	s.mu.Lock()
	delete(s.routes, "t") // the brokers are there, the topic is not
	s.mu.Unlock()
	_, err = r.get(t.Context(), "t", 0)
	require.ErrorIs(t, err, errs.ErrUnknownTopic)
}

func TestTopicTakenOffABrokerIsNotMissed(t *testing.T) {
	s := &nameServer{}
	s.set("b1", "b2")
	r := newTestRoutes(t, "", s.serve(t))
	_, err := r.complete(t.Context(), "t")
	require.NoError(t, err)
	s.mu.Lock()
	s.routes["t"].Queues = s.routes["t"].Queues[:1]
	s.routes["t"].Brokers = s.routes["t"].Brokers[:1]
	s.mu.Unlock()
	got, err := r.complete(t.Context(), "t")
	require.NoError(t, err)
	require.Equal(t, []string{"b1"}, got.brokers())
	require.Equal(t, []int{0, 1}, got.keyed)
}

func TestNameServersAreAskedInTurn(t *testing.T) {
	empty, full := &nameServer{}, &nameServer{}
	empty.set()
	full.set("b1")
	r := newTestRoutes(t, "", "127.0.0.1:1", empty.serve(t), full.serve(t))
	_, err := r.get(t.Context(), "t", 0)
	require.NoError(t, err)
	_, err = r.get(t.Context(), "t", 0)
	require.NoError(t, err)
	require.Equal(t, 1, empty.asked, "the one that answered is asked first from then on")
	require.Equal(t, 2, full.asked)
}

func TestBrokersOfOtherClustersAreLeftOut(t *testing.T) {
	s := &nameServer{}
	s.set("b1", "b2")
	s.mu.Lock()
	other := s.routes["t"].Brokers[1]
	other.Cluster = "other"
	s.routes["t"].Brokers[1] = other
	s.mu.Unlock()
	got, err := newTestRoutes(t, "c", s.serve(t)).get(t.Context(), "t", 0)
	require.NoError(t, err)
	require.Equal(t, []string{"b1"}, got.brokers())
	require.Len(t, got.readable, 2)
}

func TestManyAskersAskOnce(t *testing.T) {
	s := &nameServer{}
	s.set("b1")
	r := newTestRoutes(t, "", s.serve(t))
	var wg sync.WaitGroup
	for range 50 {
		wg.Go(func() {
			if _, err := r.get(t.Context(), "t", routeAge); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	require.Equal(t, 1, s.asked)
}
