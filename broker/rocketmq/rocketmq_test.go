package rocketmq_test

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/turnout-mq/turnout/broker"
	"github.com/turnout-mq/turnout/broker/brokertest"
	"github.com/turnout-mq/turnout/broker/rocketmq"
	"github.com/turnout-mq/turnout/broker/rocketmq/remoting"
	"github.com/turnout-mq/turnout/internal/errs"
	"github.com/turnout-mq/turnout/testenv"
)

// What is RocketMQ's own; the rest is in the suite.
func TestRocketMQ(t *testing.T) {
	testenv.Each(t, testenv.Spec{RocketMQ: names, RocketMQTimers: true}, func(t *testing.T, e *testenv.Env) {
		for name, test := range map[string]func(*world){
			"Fence":                     (*world).fence,
			"FenceOutlivesRoutes":       (*world).fenceOutlivesRoutes,
			"RetryOfDeletedMessage":     (*world).retryOfDeletedMessage,
			"AttemptsAdd":               (*world).attemptsAdd,
			"DeadLetterKeepsWhatItWas":  (*world).deadLetterKeepsWhatItWas,
			"DelayedIsPending":          (*world).delayedIsPending,
			"TimedIsPending":            (*world).timedIsPending,
			"TooLongDelay":              (*world).tooLongDelay,
			"LibraryInTheGroup":         (*world).libraryInTheGroup,
			"LibraryFirstInTheGroup":    (*world).libraryFirstInTheGroup,
			"LibraryInTheGroupInOrder":  (*world).libraryInTheGroupInOrder,
			"ExclusiveQueues":           (*world).exclusiveQueues,
			"GroupsAreNotMadeByBrokers": (*world).groupsAreNotMadeByBrokers,
			"NameServerAway":            (*world).nameServerAway,
			"ManyMemberships":           (*world).manyMemberships,
			"TransactionsAreSeen":       (*world).transactionsAreSeen,
		} {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				cluster := names[0]
				if name == "NameServerAway" { // it does harm
					cluster = names[1]
				}
				test(newWorld(t, e, cluster))
			})
		}
	})
}

const patience = 2 * time.Minute

// world is a cluster, a raw client of its broker, and a topic of four queues that is the test's own.
type world struct {
	*testing.T
	e      *testenv.Env
	name   string
	c      broker.Cluster
	raw    *remoting.Client
	broker string
	topic  string
	group  string
}

func newWorld(t *testing.T, e *testenv.Env, cluster string) *world {
	w := &world{T: t, e: e, name: cluster, raw: remoting.NewClient(remoting.Options{})}
	t.Cleanup(w.raw.Close)
	w.c = w.open()
	w.topic = fmt.Sprintf("rt_%d", time.Now().UnixNano())
	w.group = "g_" + w.topic
	w.eventually(func() (err error) {
		if w.broker, err = brokerOf(w.ctx(), w.raw, e, cluster); err == nil {
			err = w.c.CreateTopic(w.ctx(), w.topic, broker.TopicSpec{Partitions: 4})
		}
		return err
	})
	return w
}

func (w *world) open() broker.Cluster {
	c, err := rocketmq.Open(w.ctx(), config(w.e, w.name))
	require.NoError(w, err)
	w.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		require.NoError(w, c.Close(ctx))
	})
	return c
}

func (w *world) ctx() context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	w.Cleanup(cancel)
	return ctx
}

func (w *world) eventually(f func() error) {
	w.Helper()
	var err error
	for end := time.Now().Add(patience); ; {
		if err = f(); err == nil || time.Now().After(end) {
			break
		}
		<-time.After(20 * time.Millisecond)
	}
	require.NoError(w, err)
}

func (w *world) try(m broker.Message) (broker.Receipt, error) {
	type result struct {
		r   broker.Receipt
		err error
	}
	done := make(chan result, 1)
	w.c.Send(w.ctx(), w.topic, &broker.Envelope{Message: m}, func(r broker.Receipt, err error) { done <- result{r, err} })
	r := <-done
	return r.r, r.err
}

// send repeats a send that was not answered in time.
func (w *world) send(body string) broker.Receipt {
	w.Helper()
	var r broker.Receipt
	w.eventually(func() (err error) {
		if r, err = w.try(broker.Message{Body: []byte(body)}); err != nil && w.c.Classify(err) != broker.Retry {
			w.Error(err)
		}
		return err
	})
	return r
}

// setQueues is how an administrator closes a topic (0) and opens it.
func (w *world) setQueues(n int) {
	w.Helper()
	polls := -1
	w.eventually(func() error { // the broker tells its name server some time after it has answered, and not always
		if polls++; polls%100 == 0 {
			for _, perm := range []int{remoting.PermRead | remoting.PermWrite | remoting.PermInherit, remoting.PermRead | remoting.PermWrite} {
				if err := w.raw.UpdateTopic(w.ctx(), w.broker, remoting.TopicConfig{Name: w.topic, ReadQueues: n, WriteQueues: n, Perm: perm}); err != nil {
					return err
				}
			}
		}
		r, err := w.raw.Route(w.ctx(), w.e.Addresses(w.name)[0], w.topic)
		if err == nil && (len(r.Queues) != 1 || r.Queues[0].WriteQueues != n) {
			err = fmt.Errorf("the name server shows %+v", r.Queues)
		}
		return err
	})
}

// reader is a member that finishes everything, but what keep wants to have.
type reader struct {
	broker.Member
	mu  sync.Mutex
	got []*broker.Delivery
}

func (w *world) join(c broker.Cluster, m broker.Membership) *reader {
	w.Helper()
	r := &reader{}
	m.Group, m.Topic = w.group, w.topic
	m.Claim = func(_ context.Context, c broker.Claim) {
		for d := range brokertest.Deliveries(c) {
			r.mu.Lock()
			r.got = append(r.got, d)
			r.mu.Unlock()
			c.Commit(d.Offset + 1)
		}
	}
	var err error
	r.Member, err = c.Join(w.ctx(), m)
	require.NoError(w, err)
	w.Cleanup(func() { require.NoError(w, r.Leave(w.ctx())) })
	return r
}

func (w *world) attached(r *reader, partitions int) {
	w.Helper()
	w.eventually(func() error {
		if s := r.State(); !s.Attached || s.Err != nil || len(s.Partitions) != partitions {
			return fmt.Errorf("want %d partitions: %+v", partitions, s)
		}
		return nil
	})
}

func (r *reader) bodies() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	var out []string
	for _, d := range r.got {
		out = append(out, string(d.Body))
	}
	return out
}

// wait waits for the n-th delivery.
func (w *world) wait(r *reader, n int) *broker.Delivery {
	w.Helper()
	w.eventually(func() error {
		if got := len(r.bodies()); got < n {
			return fmt.Errorf("%d of %d messages; state %+v", got, n, r.State())
		}
		return nil
	})
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.got[n-1]
}

// fence: queue numbers 0/0 refuse writers; what is stored still counts; opened again it takes sends at once.
func (w *world) fence() {
	require.NoError(w, w.c.Warm(w.ctx(), w.topic))
	for i := range 8 {
		w.send(fmt.Sprint(i))
	}
	r := w.join(w.c, broker.Membership{})
	w.wait(r, 8)
	ends, err := w.c.EndOffsets(w.ctx(), w.topic)
	require.NoError(w, err)
	w.eventually(func() error {
		positions, err := w.c.Positions(w.ctx(), w.group, w.topic)
		if err == nil && !positions.Reached(ends) {
			err = fmt.Errorf("positions %v of %v", positions, ends)
		}
		return err
	})

	w.setQueues(0)
	_, err = w.try(broker.Message{Body: []byte("x")})
	require.ErrorIs(w, err, errs.ErrFenced)
	require.Equal(w, broker.Refused, w.c.Classify(err))
	require.ErrorIs(w, w.c.Warm(w.ctx(), w.topic), errs.ErrFenced)
	for name, c := range map[string]broker.Cluster{"seen it open": w.c, "never seen it open": w.open()} {
		info, err := c.DescribeTopic(w.ctx(), w.topic)
		require.NoError(w, err)
		require.True(w, info.Fenced, name)
		got, err := c.EndOffsets(w.ctx(), w.topic)
		require.NoError(w, err)
		require.Equal(w, ends, got, name)
		got, err = c.Positions(w.ctx(), w.group, w.topic)
		require.NoError(w, err)
		require.Equal(w, ends, got, name)
	}

	w.setQueues(4)
	require.NoError(w, w.c.Warm(w.ctx(), w.topic))
	w.send("again")
	require.Equal(w, "again", string(w.wait(r, 9).Body))
}

// retryOfDeletedMessage: a message that its broker no longer has is retried all the same.
func (w *world) retryOfDeletedMessage() {
	r := w.join(w.c, broker.Membership{Retries: true})
	d := &broker.Delivery{Topic: w.topic, Partition: "gone:0"}
	d.Key, d.Body, d.Tag, d.ID, d.Attempt = []byte("k"), []byte("b"), "tag", "0123456789abcdef0123456789abcdef", 2
	d.Headers = []broker.Header{{Name: "h", Value: "v"}}
	require.NoError(w, w.c.Retry(w.ctx(), w.group, d, time.Second))
	got := w.wait(r, 1)
	want := d.Envelope
	want.Attempt, want.Origin = 3, w.name
	require.Equal(w, want, got.Envelope)
	require.True(w, got.Retry)
}

// attemptsAdd: what a message brings along and what its broker counts.
func (w *world) attemptsAdd() {
	done := make(chan error, 1)
	e := &broker.Envelope{Message: broker.Message{Body: []byte("b")}, Attempt: 5, Origin: "elsewhere"}
	w.c.Send(w.ctx(), w.topic, e, func(_ broker.Receipt, err error) { done <- err })
	require.NoError(w, <-done)
	r := w.join(w.c, broker.Membership{Retries: true})
	d := w.wait(r, 1)
	require.Equal(w, 5, d.Attempt)
	require.NoError(w, w.c.Retry(w.ctx(), w.group, d, 0))
	d = w.wait(r, 2)
	require.Equal(w, 6, d.Attempt)
	require.Equal(w, "elsewhere", d.Origin)
}

// deadLetterKeepsWhatItWas: whoever reads the dead letter topic finds the message, its topic and the cause.
func (w *world) deadLetterKeepsWhatItWas() {
	_, err := w.try(broker.Message{Key: []byte("k"), Body: []byte("b"), Headers: []broker.Header{{Name: "h", Value: "v"}}, Tag: "tag"})
	require.NoError(w, err)
	r := w.join(w.c, broker.Membership{Retries: true})
	d := w.wait(r, 1)
	require.NoError(w, w.c.Retry(w.ctx(), w.group, d, 0))
	require.NoError(w, w.c.DeadLetter(w.ctx(), w.group, w.wait(r, 2), "no\nway"))

	q := remoting.Queue{Topic: "%DLQ%" + w.group, Broker: w.name}
	pulled, err := w.raw.PullMessages(w.ctx(), w.broker, remoting.Pull{Group: "TOOLS_CONSUMER", Queue: q, Max: 1,
		Suspend: 15 * time.Second, Subscription: remoting.NewSubscription(q.Topic, "", 0)})
	require.NoError(w, err)
	require.Len(w, pulled.Messages, 1)
	body, err := pulled.Messages[0].Content()
	require.NoError(w, err)
	require.Equal(w, "b", string(body))
	p := remoting.ParseProperties(pulled.Messages[0].Properties)
	for name, want := range map[string]string{"turnout-key": "k", "h": "v", "TAGS": "tag", "turnout-cause": "no way", "turnout-attempt": "1",
		"turnout-origin": w.name, "turnout-origin-topic": w.topic, "DLQ_ORIGIN_TOPIC": w.topic} {
		require.Equal(w, want, p[name], name)
	}
	require.NotContains(w, p, "DELAY")
}

// delayedIsPending: what waits in the broker's schedule for this topic or this group's retries is counted, nothing else.
func (w *world) delayedIsPending() {
	delayed := broker.Message{Body: []byte("later"), Delay: time.Hour}
	receipt, err := w.try(delayed)
	require.NoError(w, err)
	require.EqualValues(w, -1, receipt.Offset)
	w.send("now")
	r := w.join(w.c, broker.Membership{Retries: true})
	require.NoError(w, w.c.Retry(w.ctx(), w.group, w.wait(r, 1), 30*time.Minute))
	pending := func(group, topic string, want broker.Pending) {
		w.Helper()
		got, err := w.c.Pending(w.ctx(), group, topic)
		require.NoError(w, err)
		require.Equal(w, want, got)
	}
	pending(w.group, w.topic, broker.Pending{Delayed: 2})
	pending("g_other", w.topic, broker.Pending{Delayed: 1})
	pending(w.group, "t_other", broker.Pending{Delayed: 1})
}

func (w *world) tooLongDelay() {
	_, err := w.try(broker.Message{Body: []byte("b"), Delay: 3 * time.Hour})
	require.ErrorIs(w, err, errs.ErrUnsupported)
	require.Equal(w, broker.Fatal, w.c.Classify(err))
}

// libraryInTheGroup: members that use the Go library and members of ours divide one group, and take over from each other.
func (w *world) libraryInTheGroup() {
	ours := w.join(w.c, broker.Membership{Retries: true})
	w.attached(ours, 4)
	theirs := startLibraryMember(w.T, libraryConsumerArgs{NameServers: w.e.Addresses(w.name), Group: w.group, Topic: w.topic})
	w.attached(ours, 2)
	sent := 0
	more := func() (mine, libs []string) {
		w.Helper()
		before, beforeLib := len(ours.bodies()), len(theirs.bodies())
		for range 40 {
			w.send(fmt.Sprint(sent))
			sent++
		}
		w.eventually(func() error {
			all := append(ours.bodies(), theirs.bodies()...)
			slices.Sort(all)
			if n := len(slices.Compact(all)); n < sent {
				return fmt.Errorf("%d of %d", n, sent)
			}
			return nil
		})
		return ours.bodies()[before:], theirs.bodies()[beforeLib:]
	}
	mine, libs := more()
	require.NotEmpty(w, mine)
	require.NotEmpty(w, libs)

	theirs.stop()
	w.attached(ours, 4)
	mine, _ = more()
	require.GreaterOrEqual(w, len(mine), 40)

	theirs = startLibraryMember(w.T, libraryConsumerArgs{NameServers: w.e.Addresses(w.name), Group: w.group, Topic: w.topic})
	w.attached(ours, 2)
	require.NoError(w, ours.Leave(w.ctx()))
	for range 8 {
		w.send("left to the library")
	}
	w.eventually(func() error {
		positions, err := w.c.Positions(w.ctx(), w.group, w.topic)
		if err != nil {
			return err
		}
		ends, err := w.c.EndOffsets(w.ctx(), w.topic)
		if err == nil && !positions.Reached(ends) {
			err = fmt.Errorf("the library is at %v of %v", positions, ends)
		}
		return err
	})
}

// exclusiveQueues: a queue that somebody holds is waited for, and not attached before.
func (w *world) exclusiveQueues() {
	q := remoting.Queue{Topic: w.topic, Broker: w.name, ID: 2}
	held, err := w.raw.LockQueues(w.ctx(), w.broker, w.group, "somebody", []remoting.Queue{q})
	require.NoError(w, err)
	require.Len(w, held, 1)
	r := w.join(w.c, broker.Membership{Exclusive: true})
	w.eventually(func() error {
		if s := r.State(); s.Err == nil || s.Attached || len(s.Partitions) != 4 {
			return fmt.Errorf("%+v", s)
		}
		return nil
	})
	require.ErrorContains(w, r.State().Err, w.name+":2")
	require.NoError(w, w.raw.UnlockQueues(w.ctx(), w.broker, w.group, "somebody", []remoting.Queue{q}))
	w.attached(r, 4)
	held, err = w.raw.LockQueues(w.ctx(), w.broker, w.group, "somebody", []remoting.Queue{q})
	require.NoError(w, err)
	require.Empty(w, held)

	// Somebody takes it away, which a broker does that has forgotten its locks: the member notices and waits again.
	members, err := w.c.GroupMembers(w.ctx(), w.group)
	require.NoError(w, err)
	require.Len(w, members, 1)
	w.eventually(func() error { // the member may be faster
		if err := w.raw.UnlockQueues(w.ctx(), w.broker, w.group, members[0], []remoting.Queue{q}); err != nil {
			return err
		}
		held, err = w.raw.LockQueues(w.ctx(), w.broker, w.group, "somebody", []remoting.Queue{q})
		if err == nil && len(held) == 0 {
			err = fmt.Errorf("%s has it again", members[0])
		}
		return err
	})
	w.eventually(func() error {
		if s := r.State(); s.Err == nil || s.Attached {
			return fmt.Errorf("%+v", s)
		}
		return nil
	})
	require.NoError(w, w.raw.UnlockQueues(w.ctx(), w.broker, w.group, "somebody", []remoting.Queue{q}))
	w.attached(r, 4)
	require.NoError(w, r.Leave(w.ctx()))
	held, err = w.raw.LockQueues(w.ctx(), w.broker, w.group, "somebody", []remoting.Queue{q})
	require.NoError(w, err)
	require.Len(w, held, 1)
}

// groupsAreNotMadeByBrokers: where brokers create no groups by themselves, the driver does.
func (w *world) groupsAreNotMadeByBrokers() {
	set := func(value string) {
		require.NoError(w, w.raw.UpdateBrokerConfig(w.ctx(), w.broker, map[string]string{"autoCreateSubscriptionGroup": value}))
	}
	set("false")
	defer set("true")
	w.send("0")
	r := w.join(w.c, broker.Membership{Retries: true})
	d := w.wait(r, 1)
	w.attached(r, 4)
	require.NoError(w, w.c.Retry(w.ctx(), w.group, d, 0))
	require.Equal(w, 1, w.wait(r, 2).Attempt)
	other := w.group + "_other"
	require.NoError(w, w.c.Retry(w.ctx(), other, d, 0), "of a group without members")
	w.eventually(func() error {
		pending, err := w.c.Pending(w.ctx(), other, w.topic)
		if err == nil && pending.Retries != 1 {
			err = fmt.Errorf("%+v", pending)
		}
		return err
	})
}

// nameServerAway: while the name server is down sends and consumption go on.
func (w *world) nameServerAway() {
	require.NoError(w, w.c.Warm(w.ctx(), w.topic))
	r := w.join(w.c, broker.Membership{})
	w.attached(r, 4)
	node := w.name + "/namesrv"
	require.NoError(w, w.e.Kill(w.ctx(), node))
	for i := range 20 {
		w.send(fmt.Sprint(i))
	}
	w.wait(r, 20)
	_, err := w.c.EndOffsets(w.ctx(), w.topic)
	require.Error(w, err)
	require.Equal(w, broker.Retry, w.c.Classify(err), err)
	require.NoError(w, w.e.Restart(w.ctx(), node))
	w.eventually(func() error { _, err := w.c.EndOffsets(w.ctx(), w.topic); return err })
	w.send("20")
	w.wait(r, 21)
	w.attached(r, 4)
}

// manyMemberships: groups come and go; goroutines are counted when all tests have ended.
func (w *world) manyMemberships() {
	sent := 0
	for range 15 {
		for range 4 {
			w.send(fmt.Sprint(sent))
			sent++
		}
		r := w.join(w.c, broker.Membership{Retries: true})
		w.wait(r, 4)
		require.NoError(w, r.Leave(w.ctx()))
		require.Len(w, r.bodies(), 4, "the positions were stored at the end")
	}
}

// fenceOutlivesRoutes: the library asks for routes every 30 s and then believes for 30 s that a closed topic has no queue.
// A topic that is opened after that takes sends at once.
func (w *world) fenceOutlivesRoutes() {
	require.NoError(w, w.c.Warm(w.ctx(), w.topic))
	w.send("before")
	w.setQueues(0)
	rocketmq.WaitForLibrary(w.ctx(), w.T, w.c, w.topic)
	w.setQueues(4)
	require.NoError(w, w.c.Warm(w.ctx(), w.topic))
	w.send("after")
}
