package rocketmq

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/apache/rocketmq-client-go/v2/primitive"

	"github.com/turnout-mq/turnout/broker/rocketmq/remoting"
	"github.com/turnout-mq/turnout/internal/errs"
)

const (
	routeAge   = 30 * time.Second       // a route is asked for again after this
	recheckAge = 100 * time.Millisecond // and one without a queue to write to after this: it may be opened again at any moment
	unknownAge = 100 * time.Millisecond // that a topic is not there is asked again after this
	rememberIt = time.Hour              // how long a broker that went away is missed, see routes.complete
)

// route is where a topic is now. It is never changed.
type route struct {
	topic    string
	masters  map[string]string // address by broker name; brokers without a master are not here
	readable []remoting.Queue  // sorted by broker and number
	writable []remoting.Queue
	names    []string                  // of writable, as in Offsets
	targets  []*primitive.MessageQueue // of writable, for the library, which changes none
	keyed    []int                     // where keys go: indices into writable, -1 for queues of brokers that are down
	widths   map[string]int            // the number of queues by broker, written or read
	replicas int                       // of the broker that has fewest, itself included
	at       time.Time                 // it was asked for then
}

func (r *route) brokers() []string {
	names := make([]string, 0, len(r.masters))
	for name := range r.masters {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

func compareQueues(a, b remoting.Queue) int {
	return cmp.Or(strings.Compare(a.Topic, b.Topic), strings.Compare(a.Broker, b.Broker), a.ID-b.ID)
}

// routes asks the name servers and keeps what they said.
type routes struct {
	names     []string // addresses of name servers
	client    *remoting.Client
	clusterID string          // "": any
	retired   map[string]bool // brokers that were shut down for good: nobody waits for them

	mu     sync.Mutex
	good   int // the name server that answered last
	topics map[string]*topicRoute
}

// topicRoute is what is kept of a topic. ask serializes the asking: who waits for it takes the answer of the other.
type topicRoute struct {
	ask   chan struct{} // a lock that ctx can interrupt
	route *route        // the last one; guarded by routes.mu, as all below
	err   error         // instead of route, when the topic is not there
	at    time.Time     // route or err was asked for then
	seen  map[string]*sighting
}

// sighting is a broker that carried the topic.
type sighting struct {
	at    time.Time
	width int // most queues it ever had here
	write int // queues that could be written when it was last seen
}

func newRoutes(names []string, client *remoting.Client, clusterID string, retired []string) *routes {
	s := &routes{names: names, client: client, clusterID: clusterID, retired: map[string]bool{}, topics: map[string]*topicRoute{}}
	for _, name := range retired {
		s.retired[name] = true
	}
	return s
}

func (s *routes) entry(topic string) *topicRoute {
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.topics[topic]
	if e == nil {
		e = &topicRoute{ask: make(chan struct{}, 1), seen: map[string]*sighting{}}
		s.topics[topic] = e
	}
	return e
}

// cached is the route as it was last known, nil when it never was.
func (s *routes) cached(topic string) *route {
	s.mu.Lock()
	defer s.mu.Unlock()
	if e := s.topics[topic]; e != nil {
		return e.route
	}
	return nil
}

// get is the route of topic, not older than age. ErrUnknownTopic: the cluster does not have it, as far as a name server
// can tell: errUnavailable when a broker that had it is down.
func (s *routes) get(ctx context.Context, topic string, age time.Duration) (*route, error) {
	e := s.entry(topic)
	begin := time.Now()
	fresh := func() (bool, *route, error) {
		s.mu.Lock()
		defer s.mu.Unlock()
		most := age
		if e.err != nil {
			most = min(age, unknownAge)
		}
		return !e.at.IsZero() && (e.at.After(begin) || time.Since(e.at) < most), e.route, e.err
	}
	if ok, r, err := fresh(); ok {
		return r, err
	}
	select {
	case e.ask <- struct{}{}:
		defer func() { <-e.ask }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	if ok, r, err := fresh(); ok {
		return r, err
	}
	asked := time.Now()
	raw, err := s.fetch(ctx, topic)
	if remoting.HasCode(err, remoting.TopicNotExist) {
		if err = s.explain(ctx, e, topic); errors.Is(err, errs.ErrUnknownTopic) {
			unknown := err // unless the broker has registered between the two answers
			if raw, err = s.fetch(ctx, topic); remoting.HasCode(err, remoting.TopicNotExist) {
				err = unknown
			}
		}
	}
	if err != nil {
		if errors.Is(err, errs.ErrUnknownTopic) {
			s.mu.Lock()
			defer s.mu.Unlock()
			e.route, e.err, e.at = nil, err, asked
			clear(e.seen)
		}
		return nil, err
	}
	r := s.digest(topic, raw, asked)
	r.divide(s.away(ctx, e, r))
	s.mu.Lock()
	defer s.mu.Unlock()
	e.route, e.err, e.at = r, nil, r.at
	for name, width := range r.widths {
		if s.retired[name] {
			continue // it is not missed
		}
		before := e.seen[name]
		if before == nil {
			before = &sighting{}
			e.seen[name] = before
		}
		before.at, before.width, before.write = r.at, max(before.width, width), countOf(r.writable, name)
	}
	return r, nil
}

// forget makes the next get ask, as if topic had never been there.
func (s *routes) forget(topic string) {
	e := s.entry(topic)
	s.mu.Lock()
	defer s.mu.Unlock()
	e.route, e.err, e.at = nil, nil, time.Time{}
	clear(e.seen)
}

// fetch asks one name server after the other until one knows the topic.
func (s *routes) fetch(ctx context.Context, topic string) (*remoting.Route, error) {
	return askNames(ctx, s, func(ctx context.Context, addr string) (*remoting.Route, error) {
		return s.client.Route(ctx, addr, topic)
	})
}

func (s *routes) clusterInfo(ctx context.Context) (*remoting.ClusterInfo, error) {
	return askNames(ctx, s, s.client.ClusterInfo)
}

// askNames calls ask for one name server after the other, the one that answered last first. When none answers well the
// result is that of the last one that answered at all.
func askNames[T any](ctx context.Context, s *routes, ask func(context.Context, string) (T, error)) (T, error) {
	s.mu.Lock()
	first := s.good
	s.mu.Unlock()
	var zero T
	var lost, answered error
	for i := range s.names {
		n := (first + i) % len(s.names)
		v, err := call(ctx, func(ctx context.Context) (T, error) {
			if deadline, ok := ctx.Deadline(); ok { // one that hangs leaves the others their part of the time
				var cancel context.CancelFunc
				ctx, cancel = context.WithTimeout(ctx, time.Until(deadline)/time.Duration(len(s.names)-i))
				defer cancel()
			}
			return ask(ctx, s.names[n])
		})
		if err == nil {
			s.mu.Lock()
			s.good = n
			s.mu.Unlock()
			return v, nil
		}
		var re *remoting.ResponseError
		if errors.As(err, &re) {
			answered = err
		} else {
			lost = errors.Join(lost, fmt.Errorf("name server %s: %w", s.names[n], err))
		}
		if ctx.Err() != nil {
			return zero, ctx.Err()
		}
	}
	if answered != nil {
		return zero, answered
	}
	return zero, lost
}

// explain decides what it means that no name server knows the topic: that it does not exist, or that its brokers are
// down. Brokers register with all their topics.
func (s *routes) explain(ctx context.Context, e *topicRoute, topic string) error {
	info, err := s.clusterInfo(ctx)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	registered := 0
	for _, b := range info.Brokers {
		if s.ours(b) && b.Master() != "" {
			registered++
		}
	}
	for name, seen := range e.seen {
		if b, ok := info.Brokers[name]; (!ok || b.Master() == "") && time.Since(seen.at) < rememberIt {
			return fmt.Errorf("%w: topic %q was on broker %q, which is not registered at the name server now", errUnavailable, topic, name)
		}
	}
	if registered == 0 {
		return fmt.Errorf("%w: no broker is registered at the name server now", errUnavailable)
	}
	return fmt.Errorf("%w: %q", errs.ErrUnknownTopic, topic)
}

func (s *routes) ours(b remoting.BrokerData) bool {
	return s.clusterID == "" || b.Cluster == s.clusterID
}

func (s *routes) digest(topic string, raw *remoting.Route, asked time.Time) *route {
	r := &route{topic: topic, masters: map[string]string{}, widths: map[string]int{}, at: asked}
	for _, b := range raw.Brokers {
		if s.ours(b) && b.Master() != "" {
			r.masters[b.Name] = b.Master()
			if r.replicas == 0 || len(b.Addrs) < r.replicas {
				r.replicas = len(b.Addrs)
			}
		}
	}
	for _, q := range raw.Queues {
		if r.masters[q.Broker] == "" {
			continue
		}
		r.widths[q.Broker] = max(q.ReadQueues, q.WriteQueues)
		if q.Perm&remoting.PermRead != 0 {
			r.readable = appendQueues(r.readable, topic, q.Broker, q.ReadQueues)
		}
		if q.Perm&remoting.PermWrite != 0 {
			r.writable = appendQueues(r.writable, topic, q.Broker, q.WriteQueues)
		}
	}
	slices.SortFunc(r.readable, compareQueues)
	slices.SortFunc(r.writable, compareQueues)
	for _, q := range r.writable {
		r.names = append(r.names, partition(q))
		r.targets = append(r.targets, &primitive.MessageQueue{Topic: q.Topic, BrokerName: q.Broker, QueueId: q.ID})
	}
	return r
}

// away are the queues of brokers that could be written when they were last seen, and that are down now. One that is registered
// and has the topic no more was taken out of use.
func (s *routes) away(ctx context.Context, e *topicRoute, r *route) []remoting.Queue {
	gone := map[string]int{}
	s.mu.Lock()
	for name, seen := range e.seen {
		if seen.write > 0 && r.masters[name] == "" && time.Since(seen.at) < rememberIt {
			gone[name] = seen.write
		}
	}
	s.mu.Unlock()
	if len(gone) == 0 {
		return nil
	}
	info, err := s.clusterInfo(ctx)
	var out []remoting.Queue
	for name, n := range gone {
		if err == nil && info.Brokers[name].Master() != "" {
			continue
		}
		out = appendQueues(out, r.topic, name, n)
	}
	return out
}

// divide gives keys to the queues that can be written and to those that are away: a key that went elsewhere while its broker is
// down would be handled before what that broker has of it.
func (r *route) divide(away []remoting.Queue) {
	all := slices.Concat(r.writable, away)
	slices.SortFunc(all, compareQueues)
	n := 0
	for _, q := range all {
		if r.masters[q.Broker] == "" {
			r.keyed = append(r.keyed, -1)
			continue
		}
		r.keyed = append(r.keyed, n)
		n++
	}
}

func appendQueues(to []remoting.Queue, topic, brokerName string, n int) []remoting.Queue {
	for i := range n {
		to = append(to, remoting.Queue{Topic: topic, Broker: brokerName, ID: i})
	}
	return to
}

// complete is the route for questions that must not leave a queue out. A broker that carried the topic within the last
// hour and is not in the route is an error, unless it is registered: then the topic was taken off it.
func (s *routes) complete(ctx context.Context, topic string) (*route, error) {
	r, err := s.get(ctx, topic, 0)
	if err != nil {
		return nil, err
	}
	missing := s.missing(r, rememberIt)
	if len(missing) == 0 {
		return r, nil
	}
	info, err := s.clusterInfo(ctx)
	if err != nil {
		return nil, err
	}
	for _, name := range missing {
		if b, ok := info.Brokers[name]; !ok || b.Master() == "" {
			return nil, fmt.Errorf("%w: topic %q was on broker %q, which is not registered at the name server now", errUnavailable, topic, name)
		}
		e := s.entry(topic)
		s.mu.Lock()
		delete(e.seen, name)
		s.mu.Unlock()
	}
	return r, nil
}

// missing are the brokers that carried r's topic within the last age and are not in r.
func (s *routes) missing(r *route, age time.Duration) []string {
	e := s.entry(r.topic)
	s.mu.Lock()
	defer s.mu.Unlock()
	var missing []string
	for name, seen := range e.seen {
		if r.masters[name] == "" && time.Since(seen.at) < age {
			missing = append(missing, name)
		}
	}
	return missing
}

// width is the most queues that the topic was seen to have on a broker: a fence takes them out of the route.
func (s *routes) width(topic, brokerName string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	if e := s.topics[topic]; e != nil && e.seen[brokerName] != nil {
		return e.seen[brokerName].width
	}
	return 0
}

// call bounds one question and repeats it once when the connection was lost under it: brokers hang up on connections
// that were idle for two minutes. Only for what may be done twice.
func call[T any](ctx context.Context, ask func(context.Context) (T, error)) (T, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	v, err := ask(ctx)
	if errors.Is(err, remoting.ErrDisconnected) {
		v, err = ask(ctx)
	}
	return v, err
}
