package rocketmq

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/turnout-mq/turnout/broker"
	"github.com/turnout-mq/turnout/broker/rocketmq/remoting"
	"github.com/turnout-mq/turnout/internal/errs"
	"github.com/turnout-mq/turnout/internal/pace"
)

const (
	roundInterval    = 10 * time.Second       // heartbeat and division of queues, when nothing happens
	heartbeatTimeout = 3 * time.Second        // a broker that says nothing for so long has its connection ended
	minBackoff       = 100 * time.Millisecond // after a failure
	maxBackoff       = time.Second
	// graceAfterLoss: after its connection was lost an exclusive member takes no new queue for so long: the list of
	// members that the broker then has is that of those who were quickest to come back.
	graceAfterLoss = 5 * time.Second
	// expectBack is how long a broker that went away is looked for every second.
	expectBack = 10 * time.Minute
)

// member is one membership. Its loop registers with the brokers, divides the queues and starts and ends claims.
type member struct {
	c      *Cluster
	want   broker.Membership
	id     string // client id
	client *remoting.Client
	log    *zap.Logger
	topic  remoting.Subscription
	retry  remoting.Subscription
	ctx    context.Context // ends with Leave
	leave  context.CancelFunc
	kick   chan struct{} // do a round now
	notice chan struct{} // tell want.Changed
	left   chan struct{} // closed when all is done
	pace   pace.Pace

	mu      sync.Mutex
	beats   map[string]time.Time // last heartbeat by address; absent after a lost connection
	lost    time.Time            // when a connection was lost last
	joined  bool                 // the group's list has us
	claims  map[remoting.Queue]*claim
	masters map[string]string // addresses by broker name, from the last routes
	err     error             // of the last round
}

// Join implements broker.Consumer.
func (c *Cluster) Join(ctx context.Context, want broker.Membership) (broker.Member, error) {
	ctx, cancel, err := c.ask(ctx)
	if err != nil {
		return nil, err
	}
	defer cancel()
	m, err := c.join(ctx, want)
	if err != nil {
		return nil, c.done("join group "+want.Group+" on topic "+want.Topic, err)
	}
	return m, nil
}

func (c *Cluster) join(ctx context.Context, want broker.Membership) (*member, error) {
	switch {
	case !topicName.MatchString(want.Group) || len(want.Group) > 120:
		return nil, invalid("group name %q: 1 to 120 of a-z A-Z 0-9 _ - %% |", want.Group)
	case !topicName.MatchString(want.Topic):
		return nil, invalid("topic name %q: 1 to 127 of a-z A-Z 0-9 _ - %% |", want.Topic)
	case want.Claim == nil:
		return nil, invalid("Membership.Claim is nil: say who takes the messages")
	case !plain(want.Tag):
		return nil, invalid("tag filter %q: tags separated by ||", want.Tag)
	}
	if _, err := c.routes.get(ctx, want.Topic, recheckAge); errors.Is(err, errs.ErrUnknownTopic) {
		return nil, err // any other error may pass: the loop tries again
	} else if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	version := time.Now().UnixMilli()
	m := &member{c: c, want: want, id: fmt.Sprintf("%s#%s-%d", c.cfg.ClientID, c.cfg.Name, instances.Add(1)),
		topic: remoting.NewSubscription(want.Topic, want.Tag, version),
		retry: remoting.NewSubscription(retryTopic(want.Group), "", version),
		kick:  make(chan struct{}, 1), notice: make(chan struct{}, 1), left: make(chan struct{}),
		beats: map[string]time.Time{}, claims: map[remoting.Queue]*claim{}, masters: map[string]string{}}
	m.log = c.log.With(zap.String("group", want.Group), zap.String("topic", want.Topic))
	m.ctx, m.leave = context.WithCancel(context.Background())
	o := c.remotingOptions()
	o.Handler, o.Disconnected = m.request, m.disconnected
	m.client = remoting.NewClient(o)

	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		m.leave()
		return nil, errs.ErrClosed
	}
	c.members[m] = struct{}{}
	go m.run()
	return m, nil
}

// request takes what brokers ask of a client.
func (m *member) request(_ string, r *remoting.Command) *remoting.Command {
	if r.Code == remoting.ReqConsumerIDsChanged {
		m.round()
		return nil
	}
	return r.Answer(remoting.NotSupported, "not supported by this client", nil)
}

// round asks the loop for a round now.
func (m *member) round() {
	select {
	case m.kick <- struct{}{}:
	default:
	}
}

func (m *member) disconnected(addr string, err error) {
	m.mu.Lock()
	delete(m.beats, addr)
	m.joined, m.lost, m.err = false, time.Now(), err
	m.mu.Unlock()
	m.changed()
	m.round()
}

// lostAfter says whether a connection was lost after t.
func (m *member) lostAfter(t time.Time) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.lost.After(t)
}

// changed has want.Changed called soon.
func (m *member) changed() {
	select {
	case m.notice <- struct{}{}:
	default:
	}
}

func (m *member) run() {
	var wg sync.WaitGroup
	done := make(chan struct{})
	wg.Go(func() {
		for {
			select {
			case <-m.notice:
				if m.want.Changed != nil {
					m.want.Changed()
				}
			case <-done:
				return
			}
		}
	})
	m.loop()
	m.end()
	close(done)
	wg.Wait()
	m.c.mu.Lock()
	delete(m.c.members, m)
	m.c.mu.Unlock()
	if m.want.Changed != nil {
		m.want.Changed()
	}
	close(m.left)
}

func (m *member) loop() {
	backoff := minBackoff
	for m.ctx.Err() == nil {
		again, err := m.divide()
		wait := roundInterval
		if again > 0 {
			wait = again
		}
		if err != nil {
			wait, backoff = backoff, min(2*backoff, maxBackoff)
		} else {
			backoff = minBackoff
		}
		m.mu.Lock()
		m.err = err
		m.mu.Unlock()
		m.changed()
		t := time.NewTimer(wait)
		select {
		case <-t.C:
		case <-m.kick:
			if err != nil { // what fails is not repeated faster for being asked for
				select {
				case <-t.C:
				case <-m.ctx.Done():
				}
			}
		case <-m.ctx.Done():
		}
		t.Stop()
	}
}

// divide is one round: register where it is due, divide the queues, begin and end claims. again, if not 0, is when the
// next round is wanted. A broker that can not be reached does not keep the others' queues from being read.
func (m *member) divide() (again time.Duration, err error) {
	topic, err := m.route(m.want.Topic)
	if err != nil {
		return 0, err
	}
	addrs := maps.Clone(topic.masters)
	m.setMasters(addrs)
	failed := m.heartbeats(addrs) // also creates the group and its retry topic
	ids, err := m.memberIDs(addrs)
	if err != nil {
		return 0, errors.Join(failed, err)
	}
	if !slices.Contains(ids, m.id) {
		return 0, errors.Join(failed, m.createGroup(addrs, topic.readable))
	}
	queues := slices.Clone(topic.readable)
	if m.want.Retries {
		retry, err := m.route(m.retry.Topic)
		if err != nil {
			return 0, errors.Join(failed, err)
		}
		queues = append(queues, retry.readable...)
		addrs = maps.Clone(addrs)
		maps.Copy(addrs, retry.masters)
		m.setMasters(addrs)
		failed = errors.Join(failed, m.heartbeats(addrs))
	}
	mine := allocate(m.id, ids, queues)
	m.mu.Lock()
	m.joined = true
	grace := m.want.Exclusive && time.Since(m.lost) < graceAfterLoss
	m.mu.Unlock()
	m.assign(mine, grace)
	// Nobody tells of a broker that is back, nor of a topic that is open again.
	if grace || len(topic.readable) == 0 || len(m.c.routes.missing(topic, expectBack)) > 0 {
		again = time.Second
	}
	return again, failed
}

// route is the route of topic, the old one while the new one can not be had: a name server forgets a topic whose broker
// is down, and consumers go on as soon as the broker is back.
func (m *member) route(topic string) (*route, error) {
	ctx, cancel := context.WithTimeout(m.ctx, 2*callTimeout)
	defer cancel()
	r, err := m.c.routes.get(ctx, topic, time.Second/2)
	if err == nil {
		return r, nil
	}
	if old := m.c.routes.cached(topic); old != nil {
		return old, nil
	}
	return nil, err
}

func (m *member) setMasters(addrs map[string]string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.masters = addrs
}

// addr is the address of a broker, "" when it has no master now.
func (m *member) addr(brokerName string) string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.masters[brokerName]
}

// heartbeats registers with every broker where that is due.
func (m *member) heartbeats(addrs map[string]string) error {
	beat := remoting.Heartbeat{ClientID: m.id, Consumers: []remoting.ConsumerGroup{{Name: m.want.Group,
		ConsumeType: "CONSUME_PASSIVELY", MessageModel: "CLUSTERING", FromWhere: "CONSUME_FROM_FIRST_OFFSET",
		Subscriptions: []remoting.Subscription{m.topic, m.retry}}}}
	var wg sync.WaitGroup
	failed := make(chan error, len(addrs))
	for name, addr := range addrs {
		m.mu.Lock()
		due := time.Since(m.beats[addr]) > roundInterval*9/10
		m.mu.Unlock()
		if !due {
			continue
		}
		wg.Go(func() {
			// Not under m.ctx: a heartbeat that is given up is still taken by the broker, maybe after the unregistering and
			// the end of the connection, and the member would be in the group for two minutes more.
			ctx, cancel := context.WithTimeout(context.WithoutCancel(m.ctx), heartbeatTimeout)
			defer cancel()
			begin := time.Now()
			err := m.client.Heartbeat(ctx, addr, beat)
			if errors.Is(err, context.DeadlineExceeded) && m.ctx.Err() == nil {
				m.client.DisconnectSilent(addr, begin) // its pulls hang as well
			}
			m.mu.Lock()
			defer m.mu.Unlock()
			if err != nil {
				delete(m.beats, addr)
				failed <- fmt.Errorf("broker %q: heartbeat: %w", name, err)
				return
			}
			if !m.lost.After(begin) {
				m.beats[addr] = begin
			}
		})
	}
	wg.Wait()
	close(failed)
	var err error
	for e := range failed {
		err = errors.Join(err, e)
	}
	return err
}

// memberIDs asks one of the brokers that have us for the members of the group; all members register with all brokers.
func (m *member) memberIDs(addrs map[string]string) ([]string, error) {
	var failed error
	for _, name := range slices.Sorted(maps.Keys(addrs)) {
		m.mu.Lock()
		_, registered := m.beats[addrs[name]]
		m.mu.Unlock()
		if !registered {
			continue
		}
		ids, err := call(m.ctx, func(ctx context.Context) ([]string, error) {
			return m.client.ConsumerIDs(ctx, addrs[name], m.want.Group)
		})
		if err == nil {
			// A broker that has not noticed the end of a member's old connection lists it twice.
			slices.Sort(ids)
			return slices.Compact(ids), nil
		}
		failed = errors.Join(failed, fmt.Errorf("broker %q: members: %w", name, err))
	}
	if failed == nil {
		failed = fmt.Errorf("%w: this member is not registered with any", errUnavailable)
	}
	return nil, failed
}

// createGroup creates the group on brokers that took the heartbeat and not the member: those create no group by
// themselves. A pull tells it apart, a group that exists must not get other settings.
func (m *member) createGroup(addrs map[string]string, queues []remoting.Queue) error {
	m.mu.Lock()
	m.joined = false
	clear(m.beats)
	m.mu.Unlock()
	asked := map[string]bool{}
	for _, q := range queues {
		if asked[q.Broker] {
			continue
		}
		asked[q.Broker] = true
		_, err := call(m.ctx, func(ctx context.Context) (*remoting.PullResult, error) {
			return m.client.PullMessages(ctx, addrs[q.Broker], remoting.Pull{Group: m.want.Group, Queue: q, Max: 1, Subscription: m.topic})
		})
		if remoting.HasCode(err, remoting.GroupNotExist) {
			if err := createGroup(m.ctx, m.client, addrs[q.Broker], m.want.Group); err != nil {
				return fmt.Errorf("broker %q: create group: %w", q.Broker, err)
			}
		}
	}
	return fmt.Errorf("the broker does not list this member in group %q yet", m.want.Group)
}

// allocate is AllocateMessageQueueAveragely of RocketMQ's clients, for each topic: neighbours go to one member.
func allocate(id string, ids []string, queues []remoting.Queue) map[remoting.Queue]bool {
	ids = slices.Sorted(slices.Values(ids))
	index := slices.Index(ids, id)
	byTopic := map[string][]remoting.Queue{}
	for _, q := range queues {
		byTopic[q.Topic] = append(byTopic[q.Topic], q)
	}
	mine := map[remoting.Queue]bool{}
	for _, all := range byTopic {
		slices.SortFunc(all, compareQueues)
		share, rest := len(all)/len(ids), len(all)%len(ids)
		from := index*share + min(index, rest)
		if index < rest {
			share++
		}
		for _, q := range all[from : from+share] {
			mine[q] = true
		}
	}
	return mine
}

// assign ends the claims that are not in mine and begins those that are new, unless keep says to take none.
func (m *member) assign(mine map[remoting.Queue]bool, keep bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for q, cl := range m.claims {
		select {
		case <-cl.over:
			delete(m.claims, q)
		default:
			if !mine[q] {
				cl.cancel()
			}
		}
	}
	for q := range mine {
		// A claim that is still ending tells the loop when it is over.
		if m.claims[q] == nil && !keep {
			m.claims[q] = newClaim(m, q)
		}
	}
}

// State implements broker.Member.
func (m *member) State() broker.MemberState {
	m.mu.Lock()
	defer m.mu.Unlock()
	s := broker.MemberState{Attached: m.joined && m.ctx.Err() == nil, Err: m.err}
	for q, cl := range m.claims {
		if cl.ctx.Err() != nil {
			continue
		}
		if q.Topic == m.want.Topic {
			s.Partitions = append(s.Partitions, partition(q))
			s.Attached = s.Attached && cl.answered
		}
		if cl.err != nil && s.Err == nil {
			s.Err = cl.err
		}
	}
	if s.Err != nil {
		s.Err = m.c.wrap("group "+m.want.Group+" on topic "+m.want.Topic, s.Err)
	}
	broker.SortPartitions(s.Partitions)
	return s
}

// Hurry implements broker.Member.
func (m *member) Hurry(on bool) { m.pace.Hurry(on) }

// Leave implements broker.Member. A broker that is down keeps nobody from leaving; what could not be stored there is
// logged and will be delivered again.
func (m *member) Leave(ctx context.Context) error {
	m.leave()
	m.changed()
	select {
	case <-m.left:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// end waits for the claims and takes the member out of the group.
func (m *member) end() {
	m.mu.Lock()
	claims := slices.Collect(maps.Values(m.claims))
	addrs := maps.Clone(m.masters)
	m.mu.Unlock()
	for _, cl := range claims {
		<-cl.over
	}
	var wg sync.WaitGroup
	for _, addr := range addrs {
		wg.Go(func() {
			ctx, cancel := context.WithTimeout(context.Background(), heartbeatTimeout)
			defer cancel()
			if err := m.client.Unregister(ctx, addr, m.id, m.want.Group); err != nil {
				m.log.Debug("unregister", zap.String("broker", addr), zap.Error(err)) // closing the connection does it too
			}
		})
	}
	wg.Wait()
	m.client.Close()
	m.mu.Lock()
	defer m.mu.Unlock()
	m.joined, m.err = false, nil
	clear(m.claims)
}

// tagged says whether a message with tag passes the filter of the subscription.
func tagged(s remoting.Subscription, tag string) bool {
	return len(s.Tags) == 0 || slices.Contains(s.Tags, strings.TrimSpace(tag))
}
