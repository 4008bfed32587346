package kafka_test

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/IBM/sarama"
	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/turnout-mq/turnout/broker"
	"github.com/turnout-mq/turnout/broker/brokertest"
	"github.com/turnout-mq/turnout/internal/errs"
	"github.com/turnout-mq/turnout/testenv"
)

func admin(t *testing.T, addresses []string) sarama.ClusterAdmin {
	t.Helper()
	a, err := sarama.NewClusterAdmin(addresses, nil)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, a.Close()) })
	return a
}

// Where a group begins: R12 and R32, on partitions with 10 messages of which the first 4 are gone.
func whereAGroupBegins(t *testing.T, e *testenv.Env) {
	c := open(t, config(e, 0))
	name := topic(t, c, broker.TopicSpec{Partitions: 1})
	for i := range 10 {
		_, err := send(c, name, message("", fmt.Sprint(i)))
		require.NoError(t, err)
	}
	a := admin(t, e.Addresses(names[0]))
	require.NoError(t, a.DeleteRecords(name, map[int32]int64{0: 4}))
	starts, err := c.StartOffsets(t.Context(), name)
	require.NoError(t, err)
	require.Equal(t, broker.Offsets{"0": 4}, starts)

	const no = -1
	for i, test := range []struct{ committed, start, begins int64 }{
		{no, no, 4},  // nothing said: the first there is
		{no, 7, 7},   // as told
		{no, 10, 10}, // at the end: nothing yet
		{no, 2, 4},   // told where nothing is any more
		{no, 11, 4},  // told beyond the end: that was another topic
		{6, no, 6},   // goes on
		{6, 8, 6},    // goes on, whatever it is told
		{10, 8, 10},  // at the end
		{2, 8, 4},    // its place is gone: the nearest
		{100, 8, 8},  // beyond the end: as if it had none
		{100, no, 4},
		{100, 200, 4},
	} {
		t.Run(fmt.Sprintf("committed %d start %d", test.committed, test.start), func(t *testing.T) {
			group := fmt.Sprintf("g%d_%s", i, name)
			if test.committed != no {
				_, err := a.AlterConsumerGroupOffsets(group, map[string]map[int32]sarama.OffsetAndMetadata{name: {0: {Offset: test.committed, LeaderEpoch: -1}}}, nil)
				require.NoError(t, err)
			}
			m := broker.Membership{Group: group, Topic: name}
			if test.start != no {
				m.Start = func() broker.Offsets { return broker.Offsets{"0": test.start} }
			}
			at := make(chan int64, 1)
			m.Claim = func(ctx context.Context, claim broker.Claim) {
				positions, err := c.Positions(ctx, group, name)
				if err != nil {
					t.Error(err)
				}
				at <- positions["0"]
				if d, ok := brokertest.Next(claim); ok && d.Offset != test.begins {
					t.Errorf("begins at %d, want %d", d.Offset, test.begins)
				}
				<-ctx.Done()
			}
			member, err := c.Join(t.Context(), m)
			require.NoError(t, err)
			select {
			case position := <-at:
				require.Equal(t, test.begins, position, "stored before anything is read")
			case <-time.After(patience):
				require.FailNow(t, "no claim")
			}
			require.Eventually(t, func() bool { return member.State().Attached }, patience, 10*time.Millisecond)
			ctx, cancel := within(patience)
			defer cancel()
			require.NoError(t, member.Leave(ctx))
		})
	}
}

// A commit of the start positions that is lost, or refused without a word, is repeated; nothing is read before.
func TestStartIsStoredDespiteFailures(t *testing.T) {
	t.Parallel()
	k, cfg := fake(t)
	c := open(t, cfg)
	name := topic(t, c, broker.TopicSpec{Partitions: 2})
	_, err := send(c, name, message("", "x"))
	require.NoError(t, err)
	_, err = send(c, name, message("", "y"))
	require.NoError(t, err)
	var commits atomic.Int32
	k.ControlKey(int16(kmsg.OffsetCommit), func(kreq kmsg.Request) (kmsg.Response, error, bool) {
		n := commits.Add(1)
		if n > 4 {
			return nil, nil, false
		}
		k.KeepControl()
		req := kreq.(*kmsg.OffsetCommitRequest)
		resp := req.ResponseKind().(*kmsg.OffsetCommitResponse)
		for _, rt := range req.Topics {
			st := kmsg.NewOffsetCommitResponseTopic()
			st.Topic = rt.Topic
			for _, rp := range rt.Partitions {
				sp := kmsg.NewOffsetCommitResponseTopicPartition()
				sp.Partition, sp.ErrorCode = rp.Partition, 14 // COORDINATOR_LOAD_IN_PROGRESS, which sarama keeps to itself
				st.Partitions = append(st.Partitions, sp)
			}
			resp.Topics = append(resp.Topics, st)
		}
		return resp, nil, true
	})
	read := make(chan broker.Offsets, 2)
	_, err = c.Join(t.Context(), broker.Membership{Group: "g", Topic: name, Claim: func(ctx context.Context, claim broker.Claim) {
		if _, ok := brokertest.Next(claim); ok {
			positions, err := c.Positions(context.WithoutCancel(ctx), "g", name)
			if errors.Is(err, errs.ErrClosed) {
				return // the other partition was enough for the test
			}
			if err != nil {
				t.Error(err)
			}
			read <- positions
		}
		<-ctx.Done()
	}})
	require.NoError(t, err)
	select {
	case positions := <-read:
		require.Equal(t, broker.Offsets{"0": 0, "1": 0}, positions)
	case <-time.After(patience):
		require.FailNow(t, "nothing was read")
	}
	require.Greater(t, commits.Load(), int32(4))
}

// Brokers that refuse for a while to tell positions and offsets keep a member from being attached, not for ever.
func TestJoinDespiteFailures(t *testing.T) {
	t.Parallel()
	k, cfg := fake(t)
	c := open(t, cfg)
	name := topic(t, c, broker.TopicSpec{Partitions: 2})
	faults := k.Fault(
		kfake.Fault{Keys: []kmsg.Key{kmsg.OffsetFetch}, Count: 2},
		kfake.Fault{Keys: []kmsg.Key{kmsg.ListOffsets}, Count: 4},
		kfake.Fault{Keys: []kmsg.Key{kmsg.JoinGroup}, Count: 2},
		kfake.Fault{Keys: []kmsg.Key{kmsg.SyncGroup}, Count: 1},
	)
	defer faults.Remove()
	_, err := send(c, name, message("", "x"))
	require.NoError(t, err)
	r := join(t, c, broker.Membership{Group: "g", Topic: name})
	r.wait(t, 1)
	require.Eventually(t, func() bool { s := r.member.State(); return s.Attached && s.Err == nil }, patience, 10*time.Millisecond)
	require.Equal(t, []string{"0", "1"}, r.member.State().Partitions)
}

// A partition whose place vanishes under a reader goes on at the first message there is.
func placeVanishes(t *testing.T, e *testenv.Env) {
	c := open(t, config(e, 0))
	name := topic(t, c, broker.TopicSpec{Partitions: 1})
	r := join(t, c, broker.Membership{Group: name, Topic: name})
	for i := range 5 {
		_, err := send(c, name, message("", fmt.Sprint(i)))
		require.NoError(t, err)
	}
	r.wait(t, 5)
	require.NoError(t, c.DeleteTopic(t.Context(), name))
	require.NoError(t, c.CreateTopic(t.Context(), name, broker.TopicSpec{Partitions: 1}))
	require.Eventually(t, func() bool {
		_, err := send(c, name, message("", "new"))
		return err == nil
	}, patience, 10*time.Millisecond)
	got := r.wait(t, 6)
	require.Equal(t, "new", string(got[5].Body))
	require.Zero(t, got[5].Offset)
}

// What a dead letter and a retry look like to whoever reads them with another client.
func TestKeptHeaders(t *testing.T) {
	t.Parallel()
	_, cfg := fake(t)
	c := open(t, cfg)
	name := topic(t, c, broker.TopicSpec{Partitions: 12})
	m := message("k", "b")
	m.Headers, m.Tag, m.Shadow = []broker.Header{{Name: "h", Value: "v"}}, "t", true
	d := &broker.Delivery{Envelope: *m, Topic: name, Partition: "0"}
	before := time.Now().UnixMilli()
	require.NoError(t, c.Retry(t.Context(), "g", d, time.Minute))
	require.NoError(t, c.Retry(t.Context(), "g", d, time.Minute))
	retried := &broker.Delivery{Envelope: *m, Topic: "retry_g", Partition: "0", Retry: true, Native: name}
	retried.Attempt, retried.Origin = 3, "elsewhere"
	require.NoError(t, c.DeadLetter(t.Context(), "g", retried, "no\n such\tcustomer"))

	info, err := c.DescribeTopic(t.Context(), "retry_g")
	require.NoError(t, err)
	require.Len(t, info.Partitions, 8)
	info, err = c.DescribeTopic(t.Context(), "dlq_g")
	require.NoError(t, err)
	require.Len(t, info.Partitions, 1)
	pending, err := c.Pending(t.Context(), "g", name)
	require.NoError(t, err)
	require.Equal(t, broker.Pending{Retries: 2, DeadLetters: 1}, pending)

	want := map[string]string{"h": "v", "turnout-id": m.ID, "turnout-tag": "t", "turnout-shadow": "1", "turnout-origin-topic": name}
	dead := record(t, cfg.Addresses, "dlq_g", 0)
	got := map[string]string{}
	for _, h := range dead.Headers {
		got[string(h.Key)] = string(h.Value)
	}
	want["turnout-attempt"], want["turnout-origin"], want["turnout-cause"] = "3", "elsewhere", "no such customer"
	require.Equal(t, want, got)
	require.Equal(t, "k", string(dead.Key))
	require.Equal(t, "b", string(dead.Value))

	r := join(t, c, broker.Membership{Group: "h", Topic: "retry_g"})
	again := r.wait(t, 2)[0]
	require.Equal(t, 1, again.Attempt)
	require.Equal(t, "fake", again.Origin)
	require.GreaterOrEqual(t, again.Due.UnixMilli(), before+time.Minute.Milliseconds())
}

// record reads one with the bare library.
func record(t *testing.T, addresses []string, topic string, partition int32) *sarama.ConsumerMessage {
	t.Helper()
	consumer, err := sarama.NewConsumer(addresses, nil)
	require.NoError(t, err)
	defer func() { require.NoError(t, consumer.Close()) }()
	p, err := consumer.ConsumePartition(topic, partition, sarama.OffsetOldest)
	require.NoError(t, err)
	defer func() { require.NoError(t, p.Close()) }()
	select {
	case m := <-p.Messages():
		return m
	case <-time.After(patience):
		require.FailNow(t, "nothing in "+topic)
		return nil
	}
}

// A null body is read, and kept as it is when it is stored again.
func nullBody(t *testing.T, e *testenv.Env) {
	c := open(t, config(e, 0))
	name := topic(t, c, broker.TopicSpec{Partitions: 1})
	require.NoError(t, foreign(e, name, nil, nil, nil))
	d := join(t, c, broker.Membership{Group: name, Topic: name}).wait(t, 1)[0]
	require.Nil(t, d.Body)
	require.Nil(t, d.Key)
	require.Empty(t, d.ID)
	require.Empty(t, d.Headers)
	require.NoError(t, c.DeadLetter(t.Context(), name, d, "empty"))
	require.Nil(t, record(t, e.Addresses(names[0]), "dlq_"+name, 0).Value)
}

// Positions that somebody waits for are stored long before it is their time.
func TestPositionsAreStoredAtOnceInAHurry(t *testing.T) {
	_, cfg := fake(t)
	cfg.Properties["commit.interval"] = "1m"
	c := open(t, cfg)
	name := topic(t, c, broker.TopicSpec{Partitions: 1})
	r := join(t, c, broker.Membership{Group: "g_" + name, Topic: name})
	r.member.Hurry(true)
	for n := range 2 {
		_, err := send(c, name, message("", "x"))
		require.NoError(t, err)
		r.wait(t, n+1)
		require.Eventually(t, func() bool {
			at, err := c.Positions(t.Context(), "g_"+name, name)
			return err == nil && at["0"] == int64(n+1)
		}, patience/2, 10*time.Millisecond)
	}
}
