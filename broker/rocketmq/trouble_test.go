package rocketmq_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"github.com/turnout-mq/turnout/broker"
	"github.com/turnout-mq/turnout/broker/brokertest"
	"github.com/turnout-mq/turnout/broker/rocketmq"
	"github.com/turnout-mq/turnout/broker/rocketmq/remoting"
	"github.com/turnout-mq/turnout/internal/errs"
	"github.com/turnout-mq/turnout/testenv/rmqserver"
)

// What goes wrong at a broker while a group reads: on embedded brokers, which can be told to.

const troubleTopic, troubleGroup = "orders", "bills"

// trouble is a cluster of one broker with a topic of four queues, and a Cluster with a raw client.
type trouble struct {
	*testing.T
	names  *rmqserver.NameServer
	broker *rmqserver.Broker
	c      broker.Cluster
	raw    *remoting.Client
	logs   *observer.ObservedLogs

	mu  sync.Mutex
	got map[string]int // how often each body came
}

func newTrouble(t *testing.T, suspend, pull, check time.Duration) *trouble {
	t.Parallel()
	names, err := rmqserver.StartNameServer(t.Context(), rmqserver.NameServerOptions{})
	require.NoError(t, err)
	t.Cleanup(names.Close)
	b, err := rmqserver.StartBroker(t.Context(), rmqserver.BrokerOptions{Cluster: "c", NameServers: []*rmqserver.NameServer{names}})
	require.NoError(t, err)
	t.Cleanup(b.Close)
	core, logs := observer.New(zapcore.InfoLevel)
	r := &trouble{T: t, names: names, broker: b, raw: remoting.NewClient(remoting.Options{}), logs: logs, got: map[string]int{}}
	t.Cleanup(r.raw.Close)
	r.c, err = rocketmq.Open(r.ctx(), broker.Config{Name: "c", Kind: broker.RocketMQ, Addresses: []string{names.Addr()}, Logger: zap.New(core)})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, r.c.Close(context.Background())) })
	rocketmq.Hurry(r.c, suspend, pull, check)
	require.NoError(t, r.c.CreateTopic(r.ctx(), troubleTopic, broker.TopicSpec{Partitions: 4}))
	return r
}

// join makes r.c a member that reads everything, and waits until it does.
func (r *trouble) join() broker.Member {
	m, err := r.c.Join(r.ctx(), broker.Membership{Group: troubleGroup, Topic: troubleTopic, Claim: func(_ context.Context, c broker.Claim) {
		for d := range brokertest.Deliveries(c) {
			r.mu.Lock()
			r.got[string(d.Body)]++
			r.mu.Unlock()
			c.Commit(d.Offset + 1)
		}
	}})
	require.NoError(r, err)
	r.eventually(func() error {
		if s := m.State(); !s.Attached || len(s.Partitions) != 4 {
			return fmt.Errorf("%+v", s)
		}
		return nil
	})
	return m
}

func (r *trouble) ctx() context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	r.Cleanup(cancel)
	return ctx
}

func (r *trouble) eventually(f func() error) {
	r.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(patience); ; <-tick.C {
		err := f()
		if err == nil {
			return
		}
		require.True(r, time.Now().Before(deadline), "%v", err)
	}
}

// send stores one message in each of queues.
func (r *trouble) send(body string, queues ...int) {
	r.Helper()
	for _, id := range queues {
		_, err := r.raw.Call(r.ctx(), r.broker.Addr(), remoting.NewRequest(remoting.ReqSendMessage, fmt.Appendf(nil, "%s %d", body, id), "producerGroup", "raw",
			"topic", troubleTopic, "queueId", fmt.Sprint(id), "defaultTopic", "TBW102", "defaultTopicQueueNums", "4", "sysFlag", "0",
			"bornTimestamp", "0", "flag", "0", "properties", "", "reconsumeTimes", "0", "unitMode", "false", "batch", "false"))
		require.NoError(r, err)
	}
}

func (r *trouble) came(body string, times int, queues ...int) {
	r.Helper()
	r.eventually(func() error {
		r.mu.Lock()
		defer r.mu.Unlock()
		for _, id := range queues {
			if n := r.got[fmt.Sprintf("%s %d", body, id)]; n < times {
				return fmt.Errorf("%s %d came %d times of %d", body, id, n, times)
			}
		}
		return nil
	})
}

// stored waits until the group's positions are these.
func (r *trouble) stored(want broker.Offsets) {
	r.Helper()
	r.eventually(func() error {
		got, err := r.c.Positions(r.ctx(), troubleGroup, troubleTopic)
		if err == nil && fmt.Sprint(got) != fmt.Sprint(want) {
			err = fmt.Errorf("positions %v, want %v", got, want)
		}
		return err
	})
}

var allQueues, allRead = []int{0, 1, 2, 3}, broker.Offsets{"c:0": 1, "c:1": 1, "c:2": 1, "c:3": 1}

// The pulls of one queue are not answered: they are made again, over the connection that the other queues are read by.
func TestAQueueThatIsNotAnsweredLeavesTheOthersAlone(t *testing.T) {
	r := newTrouble(t, 50*time.Millisecond, 200*time.Millisecond, time.Hour)
	r.join()
	fault, err := r.broker.Inject(rmqserver.Fault{Codes: []int{remoting.ReqPullMessage}, Topic: troubleTopic, Queues: []int{1}, DropAnswer: true})
	require.NoError(t, err)
	connection := func() string {
		all, err := r.raw.ConsumerConnections(r.ctx(), r.broker.Addr(), troubleGroup)
		if err != nil || len(all.Connections) != 1 {
			return ""
		}
		return all.Connections[0].Addr
	}
	r.eventually(func() error { // a process that stood still may have ended its connection for another reason
		before, hits := connection(), fault.Hits()
		r.eventually(func() error {
			if n := fault.Hits() - hits; n < 3 {
				return fmt.Errorf("%d pulls", n)
			}
			return nil
		})
		if after := connection(); before == "" || after != before {
			return fmt.Errorf("the connection was %q and is %q", before, after)
		}
		return nil
	})
	r.send("a", allQueues...)
	r.came("a", 1, 0, 2, 3)
	fault.Remove()
	r.came("a", 1, 1)
	r.stored(allRead)
}

// A broker loses the positions of a group whose queues are idle: they are stored again.
func TestPositionsThatABrokerLostAreStoredAgain(t *testing.T) {
	for name, lose := range map[string]struct {
		check time.Duration
		do    func(r *trouble)
	}{
		"all but one of the first, which came together": {50 * time.Millisecond, func(r *trouble) {
			require.NoError(r, r.broker.LosePositions(troubleGroup))
			require.NoError(r, r.raw.UpdateConsumerOffset(r.ctx(), r.broker.Addr(), troubleGroup, remoting.Queue{Topic: troubleTopic, ID: 2}, 1))
		}},
		"killed before any was on disk": {time.Hour, func(r *trouble) {
			r.broker.Stop()
			require.NoError(r, r.broker.LosePositions(troubleGroup))
			require.NoError(r, r.broker.Restart())
		}},
		"killed when older ones were on disk": {time.Hour, func(r *trouble) {
			require.NoError(r, r.raw.UpdateConsumerOffset(r.ctx(), r.broker.Addr(), troubleGroup, remoting.Queue{Topic: troubleTopic, ID: 3}, 0))
			require.NoError(r, r.broker.Restart())
		}},
	} {
		t.Run(name, func(t *testing.T) {
			r := newTrouble(t, 50*time.Millisecond, patience, lose.check)
			r.join()
			r.send("a", allQueues...)
			r.came("a", 1, allQueues...)
			r.stored(allRead)
			lose.do(r)
			r.stored(allRead)
		})
	}
}

// A tool sets a group back: it reads again from there, whatever it has finished in the meantime, and that is what is logged.
func TestAGroupThatIsSetBackReadsAgain(t *testing.T) {
	r := newTrouble(t, 50*time.Millisecond, patience, 20*time.Millisecond)
	r.join()
	r.send("a", allQueues...)
	r.came("a", 1, allQueues...)
	for id := range allQueues {
		_, err := r.raw.Call(r.ctx(), r.broker.Addr(), remoting.NewRequest(222, nil, "topic", troubleTopic, "group", troubleGroup, "timestamp", "0",
			"isForce", "true", "queueId", fmt.Sprint(id), "offset", "0"))
		require.NoError(t, err)
	}
	r.came("a", 2, allQueues...)
	r.stored(allRead)
	require.Equal(t, 4, r.logs.FilterMessageSnippet("set back by a tool").Len())
	require.Zero(t, r.logs.FilterMessageSnippet("made anew").Len())
}

// A member comes while positions are set: whoever sets them is told, and can do it again.
func TestSettingPositionsNoticesAMemberThatComesMeanwhile(t *testing.T) {
	r := newTrouble(t, 50*time.Millisecond, patience, time.Hour)
	r.send("a", allQueues...)
	admin := r.c.(interface {
		SetPositions(ctx context.Context, group, topic string, positions broker.Offsets) error
	})
	r.eventually(func() error { // the member may not be quick enough
		fault, err := r.broker.Inject(rmqserver.Fault{Codes: []int{remoting.ReqUpdateConsumerOffset}, Group: troubleGroup, Count: 1, Delay: 300 * time.Millisecond})
		require.NoError(r, err)
		defer fault.Remove()
		done := make(chan error, 1)
		go func() { done <- admin.SetPositions(r.ctx(), troubleGroup, troubleTopic, allRead) }()
		r.eventually(func() error {
			if fault.Hits() == 0 {
				return errors.New("nothing set yet")
			}
			return nil
		})
		m := r.join()
		err = <-done
		require.NoError(r, m.Leave(r.ctx()))
		if !errors.Is(err, errs.ErrConflict) {
			return fmt.Errorf("the member came after the last look, or: %w", err)
		}
		require.ErrorContains(r, err, "meanwhile")
		return nil
	})
	require.NoError(r, admin.SetPositions(r.ctx(), troubleGroup, troubleTopic, allRead))
	r.stored(allRead)
}

// A queue is taken from a member while it asks for the queue's lock: the next member gets it at once, not when the broker forgets
// the lock, which takes a minute.
func TestALockThatIsStillAskedForIsGivenBack(t *testing.T) {
	r := newTrouble(t, 50*time.Millisecond, patience, time.Hour)
	join := func() broker.Member {
		m, err := r.c.Join(r.ctx(), broker.Membership{Group: troubleGroup, Topic: troubleTopic, Exclusive: true, Claim: func(ctx context.Context, _ broker.Claim) { <-ctx.Done() }})
		require.NoError(r, err)
		return m
	}
	fault, err := r.broker.Inject(rmqserver.Fault{Codes: []int{remoting.ReqLockQueues}, Delay: 500 * time.Millisecond})
	require.NoError(r, err)
	first := join()
	r.eventually(func() error {
		if fault.Hits() < 4 {
			return errors.New("the locks of the four queues are not asked for yet")
		}
		return nil
	})
	begin := time.Now()
	second := join()
	r.eventually(func() error {
		for _, m := range []broker.Member{first, second} {
			if s := m.State(); !s.Attached || len(s.Partitions) != 2 {
				require.Less(r, time.Since(begin), 50*time.Second, "%+v", s)
				return fmt.Errorf("%+v", s)
			}
		}
		return nil
	})
}

// A name server may miss that a topic was opened: the broker is told again, or nobody could write for good.
func TestAnOpeningThatTheNameServerHasMissedIsToldAgain(t *testing.T) {
	r := newTrouble(t, 0, 0, 0)
	info, err := r.c.DescribeTopic(r.ctx(), troubleTopic)
	require.NoError(t, err)
	mover := r.c.(broker.Mover) //nolint:forcetypeassert // it is one
	require.NoError(t, mover.Fence(r.ctx(), troubleTopic))
	r.names.Miss(troubleTopic)
	require.NoError(t, mover.Unfence(r.ctx(), troubleTopic, info.Restore))
	route, err := r.raw.Route(r.ctx(), r.names.Addr(), troubleTopic)
	require.NoError(t, err)
	require.Equal(t, 4, route.Queues[0].WriteQueues)
}
